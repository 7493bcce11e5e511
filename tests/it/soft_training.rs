//! Runs of the program with soft thinking and token weights: learning, exact resume, bad input.

use serde_json::Value;

use crate::training::{QUICKSTART, Run, gain};

const SHORT: [&str; 4] = ["run.steps=20", "data.validation=300", "eval.every=0", "run.save_every=0"];

/// `,` is a token that the tiny model never writes, so completions are soft to their end.
const SOFT: [&str; 2] =
    ["rollout.soft={ think_end = ',', top_p = 1.0, tau = 0.1 }", "objective.soft_grpo={ beta = 0.0 }"];
const RESRL: [&str; 3] = [
    "credit.resrl={ rank = 8, min_positive_tokens = 16, positive_scale = 1.0 }",
    "objective.grpo.dual_clip=3.0",
    "optim.learning_rate=3e-4",
];
const TW: [&str; 1] = ["credit.tw={}"];

fn learned(name: &str, sets: &[&str]) -> f64 {
    let all: Vec<&str> = SHORT.iter().chain(sets).copied().collect();
    gain(&Run::new().train(QUICKSTART, name, &all))
}

/// Learning beats the same run without advantages, which stays where it was.
fn check_learning(name: &str, sets: &[&str]) {
    let blind: Vec<&str> = sets.iter().copied().chain(["advantage.group.weights={ math = 0.0 }"]).collect();
    let (seeing, idle) = (learned(name, sets), learned(name, &blind));
    assert!(seeing > idle + 0.1, "{name}: {seeing} with advantages, {idle} without");
    assert!(idle.abs() < 0.07, "{name}: nothing is learned from nothing: {idle}");
}

#[test]
fn soft_grpo_learns() {
    check_learning("soft", &SOFT);
}

#[test]
fn resrl_learns() {
    check_learning("resrl", &RESRL);
}

#[test]
fn tw_learns() {
    check_learning("tw", &TW);
}

fn metrics(run: &Run, name: &str, key: &str) -> Vec<f64> {
    let text = std::fs::read_to_string(run.folder(name).join("metrics.jsonl")).unwrap();
    let rows = text.lines().map(|l| serde_json::from_str::<Value>(l).unwrap());
    rows.map(|r| r[key].as_f64().unwrap_or_else(|| panic!("{key} is not in {r}"))).collect()
}

/// A run whose last checkpoint is lost repeats its steps to the same bits.
#[test]
fn runs_resume_bit_for_bit() {
    let short = ["run.steps=4", "data.validation=20", "eval.every=0", "run.save_every=2", "prompts.shuffle.per_step=6"];
    let with_kl = ["objective.soft_grpo={ beta = 0.01 }", "model.reference={}", "train.online.minibatches=2", SOFT[0]];
    for (name, sets) in [("soft", &with_kl[..]), ("resrl", &RESRL), ("tw", &TW)] {
        let run = Run::new();
        let sets: Vec<&str> = short.iter().chain(sets).copied().collect();
        run.train(QUICKSTART, name, &sets);
        let last = run.folder(name).join("checkpoints/4");
        let read =
            || ["model.safetensors", "optimizer.safetensors"].map(|file| std::fs::read(last.join(file)).unwrap());
        let whole = read();
        std::fs::remove_dir_all(&last).unwrap();
        let resumed = run.command(QUICKSTART, name, &sets).arg("--resume").output().unwrap();
        assert!(resumed.status.success(), "{}", String::from_utf8_lossy(&resumed.stderr));
        assert!(String::from_utf8_lossy(&resumed.stdout).contains("resumed after step 2"));
        assert!(whole == read(), "{name} differs after resuming");
    }
}

#[test]
fn soft_runs_report_what_their_steps_were() {
    let run = Run::new();
    let sets = [
        "run.steps=2",
        "data.validation=20",
        "eval.every=0",
        "prompts.shuffle.per_step=6",
        "train.online.minibatches=2",
    ];
    let sets: Vec<&str> = sets.iter().chain(&SOFT).copied().collect();
    run.train(QUICKSTART, "soft", &sets);
    let of = |name: &str| metrics(&run, "soft", &format!("objective/soft_grpo/{name}"))[0];
    // A completion may end its thinking by itself.
    for name in ["soft_fraction", "open_fraction"] {
        assert!(of(name) > 0.7 && of(name) <= 1.0, "{name}: {}", of(name));
    }
    assert!(of("weight_max") > 0.5 && of("weight_max") <= 1.0 && of("active_slots") >= 1.0);
    assert!((of("soft_ratio") - 1.0).abs() < 0.05, "one step of a small rate moves ratios little");
}

#[test]
fn what_a_model_cannot_serve_is_one_clear_line() {
    let run = Run::new();
    for (name, sets, expected) in [
        ("layer", "credit.resrl={ rank = 8, layer = 5 }", "no hidden states at layer 5"),
        ("rank", "credit.resrl={ rank = 96 }", "`credit.resrl.rank` = 96"),
        ("slots", "eval.soft={ slots = 17, think_end = ',' }", "17 slots of soft thinking"),
        ("marker", "eval.soft={ slots = 4 }", "the end marker `</think>` is"),
    ] {
        let output = run.command(QUICKSTART, name, &[sets]).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(matches!(output.status.code(), Some(1 | 2)), "{name}: {error}");
        assert!(error.contains(expected) && !error.contains("panicked"), "{name}: expected `{expected}` in {error}");
    }
}

/// `generate` thinks softly: random modes by seed, vanilla the same each time.
#[test]
fn generate_thinks_softly() {
    let answer = |flags: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_candlewick"));
        command.current_dir(env!("CARGO_MANIFEST_DIR")).args(["generate", "configs/quickstart", "--plain", "3+5+2+8="]);
        let output = command.args(flags).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let soft = |mode: &str, seed: &str| answer(&["--soft", mode, "--think-end", ";", "--seed", seed]);
    assert_eq!(
        soft("vanilla", "1").split(';').next(),
        soft("vanilla", "2").split(';').next(),
        "no noise before the marker"
    );
    for mode in ["gumbel", "dirichlet"] {
        let answers: std::collections::BTreeSet<String> =
            ["1", "2", "3", "4", "5", "6"].iter().map(|s| soft(mode, s)).collect();
        assert!(answers.len() > 1, "{mode} has noise: {answers:?}");
    }
    assert_eq!(soft("gumbel", "3"), soft("gumbel", "3"));
}
