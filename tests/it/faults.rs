//! Checkpoints and data that cannot be used: one clear line each, no panic, nothing to clean up.

use std::path::{Path, PathBuf};

use crate::program::{Folder, ONLINE};

/// A copy of the quickstart's checkpoint in the test's folder.
fn copied(folder: &Folder) -> PathBuf {
    let to = folder.path().join("model");
    std::fs::create_dir_all(&to).unwrap();
    for file in
        ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "model.safetensors"]
    {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/quickstart").join(file);
        std::fs::copy(from, to.join(file)).unwrap();
    }
    to
}

/// A run that must fail with this in its one line of error, and that can be started again afterwards.
#[track_caller]
fn fails(folder: &Folder, sets: &[&str], expected: &[&str]) {
    let more: Vec<&str> = sets.iter().flat_map(|s| ["--set", s]).collect();
    let done = folder.run(&[&["train", "run.toml", "--set", "run.steps=1"], more.as_slice()].concat());
    assert!(matches!(done.status, 1 | 2), "{}{}", done.stdout, done.stderr);
    let errors: Vec<&str> = done.stderr.lines().filter(|l| l.starts_with("error")).collect();
    assert_eq!(errors.len(), 1, "{}", done.stderr);
    assert!(expected.iter().all(|e| done.stderr.contains(e)), "expected {expected:?} in: {}", done.stderr);
    assert!(!done.stderr.contains("panicked"), "{}", done.stderr);
    assert!(!folder.path().join("runs/run/metrics.jsonl").exists(), "a run that never began left metrics");
}

#[test]
fn checkpoints_that_cannot_be_used_are_told() {
    let folder = Folder::new();
    folder.write("run.toml", &ONLINE.replace("generated:addition", "generated:sums"));
    let model = copied(&folder);
    let weights = model.join("model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();

    std::fs::write(&weights, [&[0xff; 8], &bytes[8..]].concat()).unwrap();
    fails(&folder, &[], &["model.safetensors", "no safetensors file"]);
    std::fs::write(&weights, &bytes[..bytes.len() - 5]).unwrap();
    fails(&folder, &[], &["model.safetensors", "truncated"]);
    std::fs::remove_file(&weights).unwrap();
    fails(&folder, &[], &["has no `model.safetensors` or index of shards"]);
    let index = r#"{"weight_map": {"model.embed_tokens.weight": "model-00001-of-00002.safetensors"}}"#;
    std::fs::write(model.join("model.safetensors.index.json"), index).unwrap();
    fails(&folder, &[], &["has no shard `model-00001-of-00002.safetensors`, which its index names"]);
    std::fs::write(model.join("model-00001-of-00002.safetensors"), &bytes).unwrap();
    std::fs::write(model.join("config.json"), "{").unwrap();
    fails(&folder, &[], &["config.json", "not valid JSON"]);
    copied(&folder);

    let other = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizer/tokenizer.json");
    std::fs::copy(other, model.join("tokenizer.json")).unwrap();
    fails(&folder, &[], &["wrong tokenizer"]);
    std::fs::write(model.join("tokenizer.json"), "[]").unwrap();
    fails(&folder, &[], &["tokenizer.json"]);
}

#[test]
fn data_that_cannot_be_used_is_told() {
    let folder = Folder::new();
    folder.write("run.toml", &ONLINE.replace("generated:addition", "data.jsonl"));
    copied(&folder);
    folder.write("data.jsonl", "");
    fails(&folder, &[], &["data.jsonl", "is empty"]);
    let row = r#"{"problem": "1+1=", "answer": "2"}"#;
    folder.write("data.jsonl", &format!("{row}\n{row}\n{{\"problem\": \n"));
    fails(&folder, &[], &["data.jsonl:3"]);
    let long = format!(r#"{{"problem": "{}", "answer": "2"}}"#, "1+".repeat(300));
    folder.write("data.jsonl", &long);
    fails(&folder, &["data.conversational=false"], &["longer than `128` tokens"]);
    fails(&folder, &["data.train=\"absent.jsonl\""], &["absent.jsonl"]);
}

/// The weights cannot be read either, and would be told of if they were loaded first.
#[test]
fn what_rewards_and_data_lack_is_told_before_weights_are_loaded() {
    let folder = Folder::new();
    folder.write("run.toml", &ONLINE.replace("generated:addition", "generated:sums"));
    std::fs::write(copied(&folder).join("model.safetensors"), "no weights").unwrap();
    fails(&folder, &[], &["model.safetensors"]);
    fails(&folder, &["reward.command.program=[\"no-such-program\"]"], &["`no-such-program` cannot be started"]);
    fails(&folder, &["reward.reward_model.path=\"absent-model\""], &["[reward.reward_model]", "absent-model"]);
    fails(&folder, &["data.train=\"absent.jsonl\""], &["absent.jsonl"]);
    let probe = folder.run(&[
        "probe",
        "run.toml",
        "--output",
        "rates.jsonl",
        "--set",
        "reward.command.program=[\"no-such-program\"]",
    ]);
    assert!(probe.stderr.contains("`no-such-program` cannot be started"), "{}", probe.stderr);
}

#[test]
fn a_config_without_training_data_is_refused_before_anything_is_read() {
    let folder = Folder::new();
    folder.write_model();
    let error = folder.refuses(&ONLINE.replace("train = \"generated:addition\"", ""), &[]);
    assert!(error.contains("missing `data.train`") && error.contains("objective `grpo`"), "{error}");
    assert!(error.contains("generated:addition"), "{error}");
    let offline = "[model]\npath = \"model\"\n[data]\n[objective.sft]\n[optim]\nlearning_rate = 1e-5\n";
    let error = folder.refuses(offline, &[]);
    assert!(error.contains("missing `data.train`") && error.contains("objective `sft`"), "{error}");
}

#[test]
fn quantised_references_are_refused_where_they_cannot_be_read() {
    let folder = Folder::new();
    folder.write_model();
    let config = format!("{ONLINE}\n[model.reference]\npath = \"absent.gguf\"\n")
        .replace("[objective.grpo]", "[objective.grpo]\nbeta = 0.1");
    let error = folder.refuses(&config, &[]);
    let expected =
        if cfg!(feature = "gguf") { "`absent.gguf` is no file" } else { "needs a build with the `gguf` feature" };
    assert!(error.contains(expected), "{error}");
}
