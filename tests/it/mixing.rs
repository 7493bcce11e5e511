//! Mixers of several rewards in whole runs of the program.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

const SHORT: [&str; 4] = ["prompts.shuffle.per_step=4", "data.validation=20", "eval.benchmarks=[]", "eval.every=0"];

fn train(folder: &Path, config: &str, name: &str, more: &[&str], sets: &[&str]) -> PathBuf {
    let mut command = Command::new(env!("CARGO_BIN_EXE_candlewick"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).args(["train", config]).args(more);
    for set in SHORT.iter().chain(sets) {
        command.args(["--set", set]);
    }
    command.args(["--set", &format!("run.output={}", folder.display()), "--set", &format!("run.name={name}")]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{config}: {}", String::from_utf8_lossy(&output.stderr));
    folder.join(name)
}

fn steps(run: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Every config of a mixer runs, and its metrics are there from the first step on.
#[test]
fn each_mixer_runs_end_to_end() {
    let folder = tempfile::tempdir().unwrap();
    for (config, metric) in [
        ("gdpo", "advantage/reward_mean"),
        ("constrained", "advantage/mix_multiplier_length"),
        ("correlation-mix", "advantage/mix_weight_math"),
        ("hypervolume-mix", "advantage/mix_multiplier"),
        ("gradient-mix", "advantage/mix_weight_math"),
    ] {
        let path = format!("configs/{config}.toml");
        let run = train(folder.path(), &path, config, &[], &["run.steps=2", "run.save_every=0"]);
        let steps = steps(&run);
        assert_eq!(steps.len(), 2, "{config}");
        for step in &steps {
            assert!(step[metric].as_f64().is_some_and(f64::is_finite), "{config}: {metric} in {step}");
        }
    }
}

/// The weights of `gradient` move, and a resumed run goes on with them.
#[test]
fn a_mixer_is_resumed_with_what_it_learned() {
    let folder = tempfile::tempdir().unwrap();
    let config = "configs/gradient-mix.toml";
    let whole = train(folder.path(), config, "whole", &[], &["run.steps=4", "run.save_every=2"]);
    let weights: Vec<f64> = steps(&whole).iter().map(|s| s["advantage/mix_weight_math"].as_f64().unwrap()).collect();
    assert!(weights.windows(2).any(|pair| pair[0] != pair[1]), "{weights:?}");
    std::fs::remove_dir_all(whole.join("checkpoints/4")).unwrap();
    train(folder.path(), config, "whole", &["--resume"], &["run.steps=4", "run.save_every=2"]);
    let again: Vec<f64> = steps(&whole).iter().map(|s| s["advantage/mix_weight_math"].as_f64().unwrap()).collect();
    assert_eq!(again, weights);
}

/// An objective that looks at each batch before it learns from it sees the reward that a gradient is taken of.
#[test]
fn gradients_of_rewards_are_those_of_any_objective() {
    let folder = tempfile::tempdir().unwrap();
    let text =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/gradient-mix.toml")).unwrap();
    let path = folder.path().join("adpo.toml");
    let objective = "[objective.adpo.adaptive]\n[train.online]\nminibatches = 2\n";
    std::fs::write(&path, text.replace("[objective.grpo]\n", objective)).unwrap();
    let run = train(folder.path(), path.to_str().unwrap(), "adpo", &[], &["run.steps=2", "run.save_every=0"]);
    for step in steps(&run) {
        assert!(step["advantage/mix_cosine"].is_f64() && step["objective/adpo/tau"].is_f64(), "{step}");
    }
}
