//! Runs on pairs: every objective learns more from true labels than from shuffled ones, and resumes exactly.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// The program in the repository's root, writing to a temporary folder.
pub(crate) struct Run(tempfile::TempDir);

impl Run {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn command(&self, config: &str, name: &str, sets: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_candlewick"));
        command.current_dir(env!("CARGO_MANIFEST_DIR")).args(["train", &format!("configs/{config}.toml"), "--set"]);
        command.arg(format!("run.output={}", self.0.path().display()));
        command.args(["--set", &format!("run.name={name}")]);
        for set in sets {
            command.args(["--set", set]);
        }
        command
    }

    /// Trains and gives what it printed.
    pub(crate) fn train(&self, config: &str, name: &str, sets: &[&str]) -> String {
        let output = self.command(config, name, sets).output().unwrap();
        assert!(output.status.success(), "{config}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub(crate) fn metrics(&self, name: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(self.folder(name).join("metrics.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn preference(&self, name: &str) -> Value {
        let path = self.folder(name).join("report/preference.json");
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }
}

/// Short runs without benchmarks.
const SHORT: [&str; 5] = [
    "optim.learning_rate=1e-3",
    "data.generated.count=480",
    "train.offline.epochs=2",
    "data.validation=100",
    "eval.benchmarks=[]",
];

/// What held-out pairs say after a run, less what they said before.
fn gain(run: &Run, config: &str, name: &str, flipped: &str, metric: &str) -> f64 {
    let flipped = format!("data.generated.pairs.flipped={flipped}");
    let sets: Vec<&str> = SHORT.iter().copied().chain([flipped.as_str()]).collect();
    run.train(config, name, &sets);
    let report = run.preference(name);
    let of = |when: &str| report[when][metric].as_f64().unwrap();
    of("after") - of("before")
}

/// Held-out pairs are labelled rightly in either case.
fn learns(config: &str, metric: &str, least: f64) {
    let run = Run::new();
    let learned = gain(&run, config, "learns", "0.0", metric);
    let shuffled = gain(&run, config, "shuffled", "0.5", metric);
    assert!(
        learned > shuffled + least,
        "{config}: {metric} rose by {learned} with true labels, {shuffled} with shuffled ones"
    );
}

#[test]
fn dpo_learns() {
    learns("dpo", "reward_margin", 0.01);
}

#[test]
fn adpo_learns_from_pairs_and_from_lists() {
    learns("adpo-pairwise", "reward_margin", 0.01);
    learns("adpo-listwise", "reward_margin", 0.01);
}

#[test]
fn cpo_learns() {
    learns("cpo", "reward_margin", 0.01);
}

#[test]
fn simpo_learns() {
    learns("simpo", "reward_margin", 0.01);
}

#[test]
fn orpo_learns() {
    learns("orpo", "reward_margin", 0.01);
}

#[test]
fn power_dl_learns() {
    learns("power_dl", "reward_margin", 0.01);
}

#[test]
fn a_reward_model_learns_and_is_saved_as_a_sequence_classifier() {
    let run = Run::new();
    let learned = gain(&run, "reward_model", "learns", "0.0", "reward_accuracy");
    let shuffled = gain(&run, "reward_model", "shuffled", "0.5", "reward_accuracy");
    assert!(learned > shuffled + 0.05, "{learned} with true labels, {shuffled} with shuffled ones");
    let checkpoint =
        std::fs::read_dir(run.folder("learns").join("checkpoints")).unwrap().next().unwrap().unwrap().path();
    let config: Value = serde_json::from_slice(&std::fs::read(checkpoint.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["architectures"], serde_json::json!(["LlamaForSequenceClassification"]));
    assert!(config["pad_token_id"].is_u64() && config["id2label"].as_object().unwrap().len() == 1);
    let bytes = std::fs::read(checkpoint.join("model.safetensors")).unwrap();
    let header = String::from_utf8_lossy(&bytes[..bytes.len().min(1 << 15)]).into_owned();
    assert!(header.contains("\"score.weight\"") && !header.contains("lm_head"));
}

#[test]
fn kto_parts_good_from_bad_answers() {
    let run = Run::new();
    let margin = |name: &str, flipped: &str| {
        let flipped = format!("data.generated.pairs.flipped={flipped}");
        let short = ["data.generated.count=960", "data.validation=20", "eval.benchmarks=[]", flipped.as_str()];
        run.train("kto", name, &short);
        let rows = run.metrics(name);
        let last: Vec<f64> =
            rows[rows.len() / 2..].iter().filter_map(|r| r["objective/kto/reward_margin"].as_f64()).collect();
        last.iter().sum::<f64>() / last.len() as f64
    };
    let (learned, shuffled) = (margin("learns", "0.0"), margin("shuffled", "0.5"));
    assert!(learned > shuffled + 0.05, "{learned} with true labels, {shuffled} with shuffled ones");
}

/// Weights, moments and labels of a run that is stopped and resumed are those of one that is not; the reference's
/// log-probs are computed once.
#[test]
fn resumed_runs_are_the_same_bit_for_bit() {
    for (config, objective) in [("power_dl", true), ("dpo", false), ("adpo-listwise", false)] {
        let run = Run::new();
        let sets = [
            "data.generated.count=96",
            "train.offline.epochs=2",
            "data.validation=20",
            "eval.benchmarks=[]",
            "run.save_every=2",
            "run.keep_last=9",
        ];
        let first = run.train(config, "whole", &sets);
        // The same run with everything after step 2 lost, as if it had been killed there.
        let copy = run.folder("resumed");
        copy_folder(&run.folder("whole"), &copy);
        for entry in std::fs::read_dir(copy.join("checkpoints")).unwrap() {
            let path = entry.unwrap().path();
            if path.file_name().unwrap() != "2" {
                std::fs::remove_dir_all(path).unwrap();
            }
        }
        let mut command = run.command(config, "resumed", &sets);
        let output = command.arg("--resume").output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && out.contains("resumed after step 2"), "{out}{err}");
        for file in ["model.safetensors", "optimizer.safetensors"] {
            let read = |name: &str| std::fs::read(run.folder(name).join("checkpoints/6").join(file)).unwrap();
            assert!(read("whole") == read("resumed"), "{config}: {file} differs");
        }
        let state = |name: &str| -> Value {
            serde_json::from_slice(&std::fs::read(run.folder(name).join("checkpoints/6/state.json")).unwrap()).unwrap()
        };
        assert_eq!(state("whole")["stages"], state("resumed")["stages"]);
        assert_eq!(state("whole")["stages"]["objective"]["labels"].is_array(), objective);
        if config == "dpo" {
            assert!(first.contains("log-probs are kept in"), "{first}");
            assert!(out.contains("log-probs are taken from"), "{out}");
        }
    }
}

pub(crate) fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Guards that change nothing when they have nothing to do, and the metrics that they add.
#[test]
fn optimiser_options_run_and_are_recorded() {
    let run = Run::new();
    let sets = [
        "data.generated.count=96",
        "data.validation=20",
        "eval.benchmarks=[]",
        "optim.skip_spikes={}",
        "optim.radius={ every = 1, target = 0.01 }",
        "optim.perp_grad=true",
        "optim.schedule=cooldown",
        "optim.floor=0.1",
    ];
    run.train("simpo", "options", &sets);
    let rows = run.metrics("options");
    assert_eq!(rows.len(), 3);
    for row in &rows {
        assert!(row["optim/radius_max"].as_f64().unwrap() > 0.0);
        assert!(row["optim/radius_scale"].as_f64().unwrap() < 1.0, "the target holds the step back: {row}");
        assert_eq!(row["optim/skipped_spikes"].as_f64(), Some(0.0));
        assert!(row["optim/grad_norm_l1"].as_f64().unwrap() > row["optim/grad_norm"].as_f64().unwrap());
    }
    let output = Command::new(env!("CARGO_BIN_EXE_candlewick"))
        .args(["schedule", &run.folder("options").display().to_string(), "--points", "3"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("schedule = \"table\""), "{text}");
    assert!(text.contains("table = [") && text.trim_end().ends_with("0.0000]"), "{text}");
}

/// Pairs without answers, as real ones are: their ranking is measured and `validation` is no benchmark, which is said;
/// answers for some of them only are refused before the model is loaded.
#[test]
fn held_out_pairs_without_answers_are_ranked_and_not_graded() {
    let run = Run::new();
    let file = run.folder("pairs.jsonl");
    let pair = |i: usize| {
        format!("{{\"prompt\": \"{}+{}=\", \"chosen\": \"{}\", \"rejected\": \"0\"", i % 9 + 1, i / 9 + 1, i)
    };
    let write = |answered: usize| {
        let end = |i: usize| if i < answered { ", \"answer\": \"1\"}\n" } else { "}\n" };
        std::fs::write(&file, (1..60).map(|i| pair(i) + end(i)).collect::<String>()).unwrap();
    };
    write(0);
    let train = format!("data.train={}", file.display());
    let sets = [&train, "data.validation=12", "data.conversational=false", "run.steps=2"];
    let said = run.train("dpo", "bare", &sets);
    assert!(said.contains("no held-out row has an answer to grade by: `validation` is left out"), "{said}");
    assert!(run.preference("bare")["after"]["ranking_accuracy"].is_number());
    let summary = std::fs::read_to_string(run.folder("bare/report/summary.json")).unwrap();
    assert!(!summary.contains("\"validation\""), "{summary}");

    write(40);
    let output = run.command("dpo", "mixed", &sets).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(
        error.contains("benchmarks = [\"validation\"]")
            && error.contains("has no answer to grade by: take `validation` out"),
        "{error}"
    );
    assert!(!run.folder("mixed/metrics.jsonl").exists());
}
