//! Methods on the quickstart's tiny checkpoint: each learns, each resumes to the same bits, and a probe goes on.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::training::{Run, gain};

/// The quickstart with other sections in place of some of its own.
fn config(run: &Run, name: &str, changes: &[(&str, &str)]) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut text = std::fs::read_to_string(root.join("configs/quickstart.toml")).unwrap();
    for (from, to) in changes {
        assert!(text.contains(from), "{from} is not in the quickstart");
        text = text.replace(from, to);
    }
    let path = run.output.path().join(format!("{name}.toml"));
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

const SHORT: [&str; 4] = ["run.steps=20", "data.validation=300", "eval.every=0", "run.save_every=0"];

const PROMPTS: &str = "[prompts.shuffle]\nper_step = 32\n";
const ROLLOUTS: &str = "[budget.rollouts.uniform]\nmean = 8\n";
const TOKENS: &str = "[budget.tokens.fixed]\nlimit = 56\n";
const REWARD: &str = "[reward.math]\n";
const ADVANTAGE: &str = "[advantage.group]\n";
const OBJECTIVE: &str = "[objective.grpo]\n";

const REAL: [(&str, &str); 2] = [(ADVANTAGE, ""), (OBJECTIVE, "[objective.real]\n[train.online]\nminibatches = 2\n")];
const ADPO: [(&str, &str); 1] =
    [(OBJECTIVE, "[objective.adpo]\ntau = 0.5\nlength_normalize = true\n[train.online]\nminibatches = 2\n")];
// The pool is small: with fewer pairs, once its hard problems are learnt, 20 steps are too few.
const PAIRING: [(&str, &str); 2] = [
    (PROMPTS, "[prompts.pairing]\npairs = 12\nwindow = 16\nband = 4\nfallback = \"midrange\"\n"),
    (ADVANTAGE, "[advantage.pairing]\n"),
];
const KNAPSACK: [(&str, &str); 2] = [
    (ROLLOUTS, "[budget.rollouts.knapsack]\nmean = 8\nn_up = 32\nmin_count = 4\n"),
    (ADVANTAGE, "[advantage.group]\neps = 1e-6\nclip = 5.0\n"),
];
const DUAL: [(&str, &str); 1] = [(ROLLOUTS, "[budget.rollouts.dual_mirror]\nmean = 8\nn_up = 32\nmin_count = 4\n")];
const CURRICULUM: [(&str, &str); 3] = [
    (TOKENS, "[budget.tokens.curriculum]\nstart = 48\nlimit = 56\nschedule = { drops = { end = 24, drops = 3 } }\n"),
    (REWARD, "[reward.length]\n[reward.math]\n"),
    (ADVANTAGE, "[advantage.group]\nweights = { math = 0.6, length = 0.3 }\n"),
];

fn rows(folder: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn mean(rows: &[Value], metric: &str) -> f64 {
    let values: Vec<f64> = rows.iter().filter_map(|r| r[metric].as_f64()).collect();
    assert!(!values.is_empty(), "{metric} was never recorded");
    values.iter().sum::<f64>() / values.len() as f64
}

fn probe(run: &Run, config: &str, output: &Path, more: &[&str]) -> std::process::Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_candlewick"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).args(["probe", config, "--rollouts", "16", "--output"]);
    command.arg(output).args(["--set", &format!("run.output={}", run.output.path().display())]).args(more);
    command.output().unwrap()
}

/// Rates of 160 problems of the quickstart, and the settings that give a run these problems and rates.
fn rates(run: &Run) -> (PathBuf, [String; 2]) {
    let file = run.output.path().join("rates.jsonl");
    let done = probe(run, "configs/quickstart.toml", &file, &["--set", "data.generated.count=160"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    (file.clone(), ["data.generated.count=160".into(), format!("data.probe={}", file.display())])
}

/// Measured with one seed: +24 points after 20 steps. The control learns from the answers of other problems.
#[test]
fn real_learns_from_labels_and_not_from_those_of_other_problems() {
    let run = Run::new();
    let file = config(&run, "real", &REAL);
    let learned = gain(&run.train(&file, "real", &SHORT));
    let steps = rows(&run.folder("real"));
    assert!(mean(&steps, "objective/real/weight_max") < 2.0, "no weight reaches 1/tau");
    assert!(mean(&steps, "objective/real/margin") > 0.0, "right rows rise above wrong ones within a batch");

    let data = run.output.path().join("shuffled.jsonl");
    let problems: Vec<Vec<u64>> =
        (0..600u64).map(|i| (0..4 + i % 5).map(|k| 1 + (i * 7919 + k * 104_729 + i * k * 31) % 9).collect()).collect();
    let lines: Vec<String> = (0..problems.len())
        .map(|i| {
            let terms: Vec<String> = problems[i].iter().map(u64::to_string).collect();
            let answer: u64 = problems[(i + 5) % problems.len()].iter().sum();
            format!("{{\"problem\": \"{}=\", \"answer\": \"{answer}\"}}", terms.join("+"))
        })
        .collect();
    std::fs::write(&data, lines.join("\n")).unwrap();
    let mut sets = SHORT.to_vec();
    let train = format!("data.train={}", data.display());
    sets.extend([train.as_str(), "data.conversational=false", "data.validation=generated:sums"]);
    let shuffled = gain(&run.train(&file, "shuffled", &sets));
    assert!(learned > 0.1 && learned > shuffled + 0.1, "{learned} from its labels, {shuffled} from others'");
}

#[test]
fn adpo_learns_and_does_not_without_advantages() {
    let run = Run::new();
    let file = config(&run, "adpo", &ADPO);
    let learned = gain(&run.train(&file, "adpo", &SHORT));
    let blind: Vec<&str> = SHORT.iter().copied().chain(["advantage.group.weights={ math = 0.0 }"]).collect();
    let idle = gain(&run.train(&file, "idle", &blind));
    assert!(learned > idle + 0.05 && idle.abs() < 0.06, "{learned} with advantages, {idle} without");
}

#[test]
fn budgets_and_pairs_learn_from_measured_rates() {
    let run = Run::new();
    let (_, rated) = rates(&run);
    let pool: Vec<&str> = SHORT.iter().copied().chain([rated[0].as_str()]).collect();
    let sets: Vec<&str> = SHORT.iter().copied().chain(rated.iter().map(String::as_str)).collect();
    let even = run.train("configs/quickstart.toml", "even", &pool);
    let ratio = |name: &str| mean(&rows(&run.folder(name)), "rollout/effective_gradient_ratio");
    for (name, changes, least) in
        [("knapsack", &KNAPSACK[..], 0.1), ("dual", &DUAL[..], 0.1), ("pairing", &PAIRING[..], 0.06)]
    {
        let learned = gain(&run.train(&config(&run, name, changes), name, &sets));
        assert!(learned > least, "{name}: {learned}, evenly {}", gain(&even));
    }
    for row in rows(&run.folder("knapsack")) {
        let number = |name: &str| row[format!("budget/rollouts/{name}")].as_f64().unwrap();
        assert_eq!(number("allocated") + number("unspent"), 256.0);
    }
    assert!(ratio("knapsack") > ratio("even"), "{} against {}", ratio("knapsack"), ratio("even"));
    let dual: f64 = rows(&run.folder("dual")).iter().map(|r| r["budget/rollouts/allocated"].as_f64().unwrap()).sum();
    assert!(dual <= 20.0 * 256.0, "the run's budget holds: {dual}");
    // By default the run goes on where a band runs out, and says so.
    let scarce = [(PROMPTS, "[prompts.pairing]\npairs = 12\nwindow = 16\nband = 4\n"), PAIRING[1]];
    run.train(&config(&run, "scarce", &scarce), "scarce", &sets);
    let scarce = rows(&run.folder("scarce"));
    assert!(scarce.iter().all(|row| row["prompts/pairs"].as_f64().unwrap() >= 1.0));
    assert!(scarce.iter().any(|row| row["prompts/substitutes"].as_f64().unwrap() > 0.0));
    // At first: later the hard prompts are learnt, and their successes no longer rare.
    let pairs = rows(&run.folder("pairing"))[..3].to_vec();
    let (rare, common) =
        (mean(&pairs, "advantage/hard_rare_advantage"), mean(&pairs, "advantage/hard_common_advantage"));
    assert!(rare > common, "rare successes carry more: {rare} against {common}");
}

#[test]
fn a_told_length_is_kept() {
    let run = Run::new();
    let file = config(&run, "curriculum", &CURRICULUM);
    let sets: Vec<&str> = ["run.steps=40", "data.validation=100", "eval.every=0", "run.save_every=0"]
        .into_iter()
        .chain(["data.told=\"{tokens};{prompt}\"", "eval.budget=final"])
        .collect();
    run.train(&file, "curriculum", &sets);
    let steps = rows(&run.folder("curriculum"));
    let told: Vec<f64> = steps.iter().map(|r| r["budget/tokens/told"].as_f64().unwrap()).collect();
    assert_eq!((told[0], told[10], told[20], told[39]), (48.0, 38.0, 30.0, 24.0));
    let reward = |rows: &[Value]| mean(rows, "reward/length");
    assert!(reward(&steps[30..]) > reward(&steps[..5]) + 0.05, "{} {}", reward(&steps[..5]), reward(&steps[30..]));
}

/// What a run remembers (rates, pairs, prices, scores) is in its checkpoints: from the middle on it repeats itself.
#[test]
fn every_method_resumes_to_the_same_bits() {
    let run = Run::new();
    let (_, rated) = rates(&run);
    for (name, changes) in [
        ("real", &REAL[..]),
        ("adpo", &ADPO[..]),
        ("pairing", &PAIRING[..]),
        ("knapsack", &KNAPSACK[..]),
        ("dual", &DUAL[..]),
        ("curriculum", &CURRICULUM[..]),
    ] {
        let file = config(&run, name, changes);
        let mut sets = vec!["run.steps=4", "run.save_every=2", "run.keep_last=9", "eval.benchmarks=[]", "eval.every=0"];
        match name {
            "curriculum" => sets.push("data.told=\"{tokens};{prompt}\""),
            "pairing" | "knapsack" | "dual" => sets.extend(rated.iter().map(String::as_str)),
            _ => {}
        }
        if name != "pairing" {
            sets.push("prompts.shuffle.per_step=8");
        }
        let whole = run.command(&file, name, &sets).output().unwrap();
        assert!(whole.status.success(), "{name}: {}", String::from_utf8_lossy(&whole.stderr));
        let last = run.folder(name).join("checkpoints/4");
        let read = |file: &str| std::fs::read(last.join(file)).unwrap();
        let (weights, state) = (read("model.safetensors"), read("optimizer.safetensors"));
        std::fs::remove_dir_all(&last).unwrap();
        let again = run.command(&file, name, &sets).arg("--resume").output().unwrap();
        let text = String::from_utf8_lossy(&again.stdout);
        assert!(again.status.success() && text.contains("resumed after step 2"), "{name}: {text}");
        assert!(weights == read("model.safetensors") && state == read("optimizer.safetensors"), "{name} differs");
    }
}

#[test]
fn a_probe_goes_on_where_it_stopped_and_its_file_is_the_same() {
    let run = Run::new();
    let (whole, parts) = (run.output.path().join("whole.jsonl"), run.output.path().join("parts.jsonl"));
    let probe = |output: &Path, more: &[&str]| {
        let done = probe(&run, "configs/quickstart.toml", output, more);
        (
            done.status.success(),
            String::from_utf8_lossy(&done.stdout).into_owned(),
            String::from_utf8_lossy(&done.stderr).into_owned(),
        )
    };
    assert!(probe(&whole, &["--problems", "40"]).0);
    assert!(probe(&parts, &["--problems", "15"]).0);
    let (done, out, _) = probe(&parts, &["--problems", "40"]);
    assert!(done && out.contains("15 are in"), "{out}");
    assert_eq!(std::fs::read_to_string(&whole).unwrap(), std::fs::read_to_string(&parts).unwrap());
    let (done, _, err) = probe(&parts, &["--problems", "40", "--set", "run.seed=3"]);
    assert!(!done && err.contains("other settings"), "{err}");
    let again = run.output.path().join("again.jsonl");
    let (done, out, err) = probe(&again, &["--again", parts.to_str().unwrap(), "--set", "run.seed=3"]);
    assert!(done && out.contains("0 are in"), "{out}{err}");
}

#[test]
fn bands_without_prompts_and_files_without_the_pool_are_one_clear_line() {
    let run = Run::new();
    let (file, rated) = rates(&run);
    let fails = |name: &str, changes: &[(&str, &str)], sets: &[&str], expected: &str| {
        let output = run.command(&config(&run, name, changes), name, sets).output().unwrap();
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && err.contains(expected), "expected `{expected}` in: {err}");
    };
    fails("unmeasured", &PAIRING, &["eval.benchmarks=[]", "eval.every=0"], "measure them by `candlewick probe`");
    let narrow = [(PROMPTS, "[prompts.pairing]\nmin_count = 16\nwindow = 16\nband = 1\n"), PAIRING[1]];
    // Rates of which every one is 1/2.
    let text = std::fs::read_to_string(&file).unwrap();
    let even: Vec<String> = text
        .lines()
        .map(|line| match serde_json::from_str::<Value>(line).unwrap() {
            Value::Object(mut record) if record.contains_key("outcomes") => {
                record.insert("k".into(), 8.into());
                record.insert("n".into(), 16.into());
                record.insert("outcomes".into(), "0101010101010101".into());
                Value::Object(record).to_string()
            }
            header => header.to_string(),
        })
        .collect();
    let path = run.output.path().join("even.jsonl");
    std::fs::write(&path, even.join("\n") + "\n").unwrap();
    let probe = format!("data.probe={}", path.display());
    let sets = ["eval.benchmarks=[]", "eval.every=0", rated[0].as_str(), probe.as_str()];
    fails("narrow", &narrow, &sets, "0 lie in the band of hard ones");
    let foreign = ["eval.benchmarks=[]", "eval.every=0", "data.train=generated:addition", rated[1].as_str()];
    fails("foreign", &KNAPSACK, &foreign, "knows none of the");
}
