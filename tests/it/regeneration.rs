//! Runs on pairs of the policy's own answers: they learn what the rewards say, start labels anew, and resume exactly.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::preference::{Run, copy_folder};

/// Few problems, tested by nothing.
const SHORT: [&str; 4] =
    ["data.generated.count=96", "data.validation=20", "eval.benchmarks=[]", "optim.learning_rate=1e-3"];

fn state(folder: &Path) -> Value {
    let checkpoints = folder.join("checkpoints");
    let last = steps(&checkpoints).into_iter().max().unwrap();
    serde_json::from_slice(&std::fs::read(checkpoints.join(last.to_string()).join("state.json")).unwrap()).unwrap()
}

fn steps(checkpoints: &Path) -> Vec<usize> {
    let entries = std::fs::read_dir(checkpoints).into_iter().flatten();
    entries.filter_map(|e| e.unwrap().file_name().to_str()?.parse().ok()).collect()
}

/// Held-out accuracy before and after.
fn accuracies(run: &Run, name: &str) -> (f64, f64) {
    let state = state(&run.folder(name));
    let of = |at: usize| state["evaluations"][at][1].as_f64().unwrap();
    (of(0), of(state["evaluations"].as_array().unwrap().len() - 1))
}

/// Learnt from its own answers, with the reward as it is and with the reward the wrong way round. Measured on 300 held-out
/// problems: from 0.58 to 0.82 (DPO) and 0.74 (POWER-DL), and to 0.15 and 0.24 with the reward the wrong way round.
fn learns(config: &str, least: f64) {
    let run = Run::new();
    let sets = ["data.generated.count=640", "train.offline.epochs=2", "train.offline.regenerate.every_epochs=1"];
    run.train(config, "learns", &sets);
    let (before, after) = accuracies(&run, "learns");
    assert!(after > before + least, "{config}: from {before} to {after}");
    let wrong = [&sets[..], &["train.offline.regenerate.weights={ math = -1.0 }"]].concat();
    run.train(config, "wrong", &wrong);
    let (_, misled) = accuracies(&run, "wrong");
    assert!(misled < before, "{config}: from {before} to {misled} with the reward the wrong way round");
}

#[test]
fn dpo_learns_from_its_own_answers() {
    learns("on-policy-dpo", 0.08);
}

#[test]
fn power_dl_learns_from_its_own_answers() {
    learns("on-policy-power_dl", 0.08);
}

/// Pairs, ties and prompts without two scores are all prompts; a line of metrics says so whenever pairs are made.
#[test]
fn every_objective_on_pairs_takes_own_answers_and_accounts_for_them() {
    let reference = ["model.reference={}"];
    let objectives: [(&str, &str, &[&str]); 7] = [
        ("dpo", "objective.dpo={}", &reference),
        ("cpo", "objective.cpo={}", &[]),
        ("simpo", "objective.simpo={}", &[]),
        ("orpo", "objective.orpo={}", &[]),
        ("kto", "objective.kto={}", &reference),
        ("adpo", "objective.adpo={ anchor = \"uniform\" }", &[]),
        ("power_dl", "objective.power_dl={}", &[]),
    ];
    let run = Run::new();
    for (name, objective, more) in objectives {
        let sets = [&SHORT[..], &[objective, "train.offline.epochs=2", "train.offline.batch_size=64"], more].concat();
        let out = run.train("on-policy-power_dl", name, &sets);
        assert!(out.contains("      pairs 1: "), "{name}: {out}");
        let rows = run.metrics(name);
        let made: Vec<&Value> = rows.iter().filter(|row| !row["regenerate/pairs"].is_null()).collect();
        assert_eq!(made.len(), 1, "{name}: pairs are made before the first of two epochs");
        let count = |key: &str| made[0][format!("regenerate/{key}")].as_f64().unwrap();
        assert_eq!(count("prompts"), 96.0);
        assert!(count("pairs") > 20.0 && count("ties") > 0.0, "{name}: {}", made[0]);
        assert!(count("pairs") + count("ties") + count("unscored") <= count("prompts"), "{name}: {}", made[0]);
        assert!(count("reward_best") > count("reward_mean") && count("reward_mean") > count("reward_worst"));
        assert_eq!(count("reward/math"), count("accuracy"));
        let lines = std::fs::read_to_string(run.folder(name).join("pairs/1.jsonl")).unwrap();
        for line in lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()) {
            assert!(line["score_chosen"].as_f64() > line["score_rejected"].as_f64(), "{line}");
            assert!(line["chosen"] != line["rejected"] && line["prompt"].as_str().unwrap().ends_with('='), "{line}");
        }
    }
}

/// Given pairs come first where the config says so; then labels start anew, and old ones are gone.
#[test]
fn given_pairs_come_before_own_ones_and_labels_start_anew() {
    let run = Run::new();
    let sets = [
        &SHORT[..],
        &[
            "data.generated.pairs={}",
            "train.offline.regenerate.start_epoch=2",
            "train.offline.regenerate.every_epochs=0",
            "objective.power_dl.gamma=0.5",
        ],
    ]
    .concat();
    run.train("on-policy-power_dl", "given", &sets);
    let rows = run.metrics("given");
    let made: Vec<usize> = (0..rows.len()).filter(|&i| !rows[i]["regenerate/pairs"].is_null()).collect();
    assert_eq!(made, [6], "two epochs of three steps on 96 given pairs");
    let label = |step: usize| rows[step]["objective/power_dl/label"].as_f64().unwrap();
    assert!(label(0) == 1.0 && label(3) < 1.0 && label(6) == 1.0, "{} {} {}", label(0), label(3), label(6));
    assert!(label(rows.len() - 1) < 1.0);
    let labels = state(&run.folder("given"))["stages"]["objective"]["labels"].clone();
    let labels = labels.as_array().unwrap();
    assert_eq!(labels.len() as f64, rows[6]["regenerate/pairs"].as_f64().unwrap());
    assert!(labels.iter().all(|label| label[0].as_u64() >= Some(96)), "labels of given pairs are kept");
    let all = std::fs::read_to_string(run.folder("given").join("report/preference.json")).unwrap();
    assert!(all.contains("ranking_accuracy"), "held-out pairs are ranked");
}

/// Lines of metrics but for times.
fn timeless(run: &Run, name: &str) -> Vec<Value> {
    let mut rows = run.metrics(name);
    for row in rows.iter_mut().filter_map(Value::as_object_mut) {
        row.retain(|key, _| !key.starts_with("time/") && key != "train/tokens_per_second");
    }
    rows
}

#[track_caller]
fn same(run: &Run, a: &str, b: &str) {
    let last = steps(&run.folder(a).join("checkpoints")).into_iter().max().unwrap();
    for file in ["model.safetensors", "optimizer.safetensors"] {
        let read = |name: &str| std::fs::read(run.folder(name).join(format!("checkpoints/{last}")).join(file)).unwrap();
        assert!(read(a) == read(b), "{file} of {a} and {b} differ");
    }
    let (one, other) = (state(&run.folder(a)), state(&run.folder(b)));
    for key in ["stages", "sampled_tokens", "trained_tokens"] {
        assert_eq!(one[key], other[key], "{key}");
    }
    assert_eq!(timeless(run, a), timeless(run, b));
}

/// The same run with everything after a step lost, as if it had been killed there: before new pairs are made, when they
/// were just made, and later; with a reference that is cached, one in memory that moves, and without.
#[test]
fn runs_that_make_pairs_resume_bit_for_bit() {
    let objectives: [(&str, &[&str]); 3] = [
        ("on-policy-power_dl", &["objective.power_dl.gamma=0.5"]),
        ("on-policy-dpo", &["train.offline.regenerate.every_epochs=2"]),
        (
            "on-policy-dpo",
            &[
                "train.offline.regenerate.every_epochs=2",
                "model.reference.sync_steps=2",
                "model.reference.mixup_alpha=0.5",
            ],
        ),
    ];
    for (config, more) in objectives {
        let run = Run::new();
        let short = ["train.offline.epochs=4", "run.save_every=1", "run.keep_last=99"];
        let sets = [&SHORT[..], &short, more].concat();
        run.train(config, "whole", &sets);
        let rows = run.metrics("whole");
        let second = (1..rows.len()).find(|&i| !rows[i]["regenerate/pairs"].is_null()).unwrap();
        for kept in [1, second, second + 1, rows.len() - 1] {
            let name = format!("resumed-{kept}");
            let copy = run.folder(&name);
            copy_folder(&run.folder("whole"), &copy);
            for step in steps(&copy.join("checkpoints")).into_iter().filter(|step| *step > kept) {
                std::fs::remove_dir_all(copy.join(format!("checkpoints/{step}"))).unwrap();
            }
            if kept <= second {
                std::fs::remove_file(copy.join("pairs/2.jsonl")).unwrap();
            }
            let output = run.command(config, &name, &sets).arg("--resume").output().unwrap();
            let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            assert!(output.status.success() && out.contains(&format!("resumed after step {kept}")), "{out}{err}");
            same(&run, "whole", &name);
        }
    }
}

/// Killed again and again, while it answers, grades, scores and trains, until it is through.
#[test]
fn a_run_killed_while_it_makes_pairs_ends_as_if_it_had_not_been() {
    let run = Run::new();
    let sets = [&SHORT[..], &["train.offline.epochs=2", "run.save_every=1", "train.offline.batch_size=64"]].concat();
    run.train("on-policy-dpo", "whole", &sets);
    let (mut delay, mut kills) = (60, 0);
    loop {
        let mut command = run.command("on-policy-dpo", "killed", &sets);
        if run.folder("killed").join("config.toml").exists() {
            command.arg("--resume");
        }
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let started = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break Some(status);
            }
            if started.elapsed() > Duration::from_millis(delay) {
                break None;
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        if let Some(status) = status {
            assert!(status.success(), "after {kills} kills: {status}");
            break;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
        delay = delay * 4 / 3 + 23 * (kills % 3);
        assert!(kills < 60);
    }
    assert!(kills > 2, "{kills}");
    same(&run, "whole", "killed");
}

/// Stopped by Ctrl-C while it answers: the steps before are saved, the answers are not, and the resumed run makes them again.
#[test]
fn ctrl_c_stops_the_answers_and_saves_the_steps_before() {
    let run = Run::new();
    let sets = [
        &SHORT[..],
        &["train.offline.epochs=2", "train.offline.batch_size=64", "train.offline.regenerate.every_epochs=1"],
        &["train.offline.regenerate.samples=16", "run.save_every=0"],
    ]
    .concat();
    run.train("on-policy-power_dl", "whole", &sets);
    let rows = run.metrics("whole");
    let second = (1..rows.len()).find(|&i| !rows[i]["regenerate/pairs"].is_null()).unwrap();
    let mut command = run.command("on-policy-power_dl", "cut", &sets);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let metrics = run.folder("cut").join("metrics.jsonl");
    while std::fs::read_to_string(&metrics).map_or(0, |text| text.lines().count()) < second {
        assert!(child.try_wait().unwrap().is_none(), "the run ended before it could be interrupted");
        std::thread::sleep(Duration::from_millis(2));
    }
    let kill = format!("kill -INT {}", child.id());
    assert!(std::process::Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(130), "{out}");
    assert!(out.contains(&format!("stopped after step {second}: ")), "{out}");
    assert!(!run.folder("cut").join("pairs/2.jsonl").exists(), "the answers were not stopped");
    let output = run.command("on-policy-power_dl", "cut", &sets).arg("--resume").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    same(&run, "whole", "cut");
}

/// The pairs in use are part of what a resumed run needs.
#[test]
fn pairs_that_are_gone_or_changed_are_told_on_resume() {
    let run = Run::new();
    let sets = [&SHORT[..], &["train.offline.epochs=1", "run.save_every=1"]].concat();
    run.train("on-policy-power_dl", "run", &sets);
    let path = run.folder("run").join("pairs/1.jsonl");
    let resume = || {
        let output = run.command("on-policy-power_dl", "run", &sets).arg("--resume").output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replacen("\"cut\":0", "\"cut\":1", 1)).unwrap();
    assert!(resume().contains("is not the file that the run was trained on: put it back"));
    std::fs::remove_file(&path).unwrap();
    assert!(resume().contains("the pairs that the run is trained on are gone: put it back"));
}

/// Rewards that cannot tell answers apart give no pairs, and the run says what to do.
#[test]
fn nothing_but_ties_is_refused_at_the_start() {
    let run = Run::new();
    let sets = [&SHORT[..], &["train.offline.regenerate.min_margin=5.0"]].concat();
    let output = run.command("on-policy-power_dl", "ties", &sets).output().unwrap();
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.contains("no pair could be made of the answers to 96 prompts (96 tie"), "{err}");
    assert!(err.contains("raise `train.offline.regenerate.samples`"), "{err}");
}

/// What will be sampled, and the memory that it takes, is told beforehand.
#[test]
fn check_counts_answers_and_their_memory() {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_candlewick"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).env("NO_COLOR", "1").args(["check", "configs/on-policy-dpo.toml"]);
    let output = command.output().unwrap();
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for text in
        ["2  regenerations of pairs", "3200  answers at most", "179200  new tokens at most", "memory, while sampling"]
    {
        assert!(out.contains(text), "`{text}` is not in\n{out}");
    }
    assert!(out.contains("52 prompts of") && out.contains("256 rows of 28 tokens"), "{out}");
}
