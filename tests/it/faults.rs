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

/// A run on problems that need no chat template, which the quickstart's checkpoint has not.
fn bare() -> String {
    format!("{}\n[data.generated]\nstyle = \"bare\"\n", ONLINE.replace("generated:addition", "generated:sums"))
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
    folder.write("run.toml", &bare());
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
    folder.write("run.toml", &bare());
    std::fs::write(copied(&folder).join("model.safetensors"), "no weights").unwrap();
    fails(&folder, &[], &["model.safetensors"]);
    fails(&folder, &["reward.command.program=[\"no-such-program\"]"], &["`no-such-program` cannot be started"]);
    fails(&folder, &["reward.reward_model.path=\"absent-model\""], &["reward.reward_model", "absent-model"]);
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

/// What a run would refuse, `check` refuses with status 2 and the place, and a run before it reads the weights, which cannot
/// be read here.
#[test]
fn check_and_train_refuse_the_same_inputs() {
    let folder = Folder::new();
    let model = copied(&folder);
    std::fs::write(model.join("model.safetensors"), "no weights").unwrap();
    let online = ONLINE.replace("generated:addition", "rows.jsonl");
    let offline = "[model]\npath = \"model\"\n[data]\ntrain = \"rows.jsonl\"\n[objective.sft]\n";
    let row = r#"{"problem": "1+1=", "answer": "2"}"#;
    let rows = [row; 6].join("\n") + "\n";
    let plain = "data.conversational=false";
    let refused = |config: &str, rows: &str, sets: &[&str], expected: &str| {
        folder.write("rows.jsonl", rows);
        folder.write("run.toml", config);
        let more: Vec<&str> = sets.iter().chain([&plain]).flat_map(|s| ["--set", s]).collect();
        for command in ["check", "train"] {
            let done = folder.run(&[&[command, "run.toml"], more.as_slice()].concat());
            assert_eq!(done.status, 2, "{command} {expected}: {}{}", done.stdout, done.stderr);
            assert!(done.stderr.contains(expected), "{command}: expected `{expected}` in: {}", done.stderr);
            assert!(done.stderr.contains("--> "), "{command} {expected} has no place: {}", done.stderr);
            assert!(!done.stderr.contains("model.safetensors"), "{command} {expected}: {}", done.stderr);
        }
    };
    refused(&online, "", &[], "`rows.jsonl` is empty");
    refused(&online, &format!("{row}\nno json\n"), &[], "rows.jsonl:2: not valid JSON");
    refused(&online, "{\"problem\": 3, \"answer\": \"2\"}\n", &[], "rows.jsonl:1: field `problem` must be a string");
    refused(&online, "{\"problem\": \"1+1=\"}\n", &[], "no problem of `rows.jsonl` has a reference answer");
    refused(&online, &rows, &["data.train=gone.jsonl"], "no such data file: `gone.jsonl`");
    refused(&online, &rows, &["data.train=gsm8"], "did you mean `gsm8k`?");
    refused(&online, &rows, &["data.train=generated:adition"], "did you mean `addition`?");
    refused(&online, &rows, &["data.validation=gone.jsonl"], "no such data file: `gone.jsonl`");
    refused(&online, &rows, &["data.validation=6"], "cannot hold out `6` problems of `1`");
    let taught = ["budget.tokens.curriculum={}", "data.probe=gone.jsonl"];
    refused(&online, &rows, &taught, "gone.jsonl cannot be read: make it by `candlewick probe`");
    refused(
        &online,
        &rows,
        &["prompts.shuffle.per_step=7"],
        "a step wants 7 different prompts and the training set holds 6",
    );
    let reference = ["objective.grpo.beta=0.1", "model.reference.path=gone"];
    refused(&online, &rows, &reference, "`gone` is neither an existing path nor a name");
    refused(&online, &rows, &["reward.command.program=[\"no-such-program\"]"], "`no-such-program` cannot be started");
    refused(&online, &rows, &["model.lora.targets=[\"q_prj\"]"], "names `q_prj`: did you mean `q_proj`?");
    refused(
        &online,
        &format!("{{\"problem\": \"{}\", \"answer\": \"2\"}}\n", "1+".repeat(300)),
        &[],
        "longer than `128` tokens",
    );
    refused(offline, &rows, &[], "is of form `prompt-only`: objective `sft` learns from completions");
    if !cfg!(feature = "cuda") {
        refused(&online, &rows, &["model.device=cuda"], "`model.device` = `cuda` needs a build for GPUs");
    }
    folder.write("bad.jsonl", "{\"problem\": \"1+1=\"}\n");
    refused(&online, &rows, &["eval.benchmarks=[\"bad.jsonl\"]"], "bad.jsonl:1");
    let text = std::fs::read_to_string(model.join("config.json")).unwrap();
    std::fs::write(model.join("config.json"), text.replace("\"llama\"", "\"mamba\"")).unwrap();
    refused(&online, &rows, &[], "architecture `mamba` is not supported");
}

#[test]
fn problems_without_an_answer_are_left_out_and_counted() {
    let folder = Folder::new();
    copied(&folder);
    let rows: Vec<String> = (1..9).map(|n| format!("{{\"problem\": \"{n}+1=\", \"answer\": \"{}\"}}", n + 1)).collect();
    folder.write("rows.jsonl", &format!("{}\n{{\"problem\": \"9+1=\"}}\n", rows.join("\n")));
    folder.write("run.toml", &ONLINE.replace("generated:addition", "rows.jsonl"));
    let sets =
        ["run.steps=1", "data.conversational=false", "budget.tokens.fixed.limit=8", "budget.rollouts.uniform.mean=2"];
    let more: Vec<&str> = sets.iter().flat_map(|s| ["--set", s]).collect();
    let line =
        "1 of 9 problems have no reference answer, which reward `math` needs: they are left out, first `rows.jsonl:8`";
    let check = folder.run(&[&["check", "run.toml"], more.as_slice()].concat());
    assert!(check.status == 0 && check.stderr.contains(line), "{}", check.stderr);
    let train = folder.run(&[&["train", "run.toml"], more.as_slice()].concat());
    assert!(train.status == 0 && train.stdout.contains(line), "{}{}", train.stdout, train.stderr);
}

/// Weights that are not numbers, and a config of another model.
#[test]
fn weights_that_cannot_be_right_are_refused() {
    let folder = Folder::new();
    let model = copied(&folder);
    let (weights, config) = (model.join("model.safetensors"), model.join("config.json"));
    let (bytes, text) = (std::fs::read(&weights).unwrap(), std::fs::read_to_string(&config).unwrap());
    let generate = || folder.run(&["generate", "model", "1+1=", "--limit", "4"]);
    assert_eq!(generate().status, 0);

    // The last number of the last tensor, the final norm's weight.
    std::fs::write(&weights, [&bytes[..bytes.len() - 4], &f32::NAN.to_le_bytes()].concat()).unwrap();
    folder.write("rows.jsonl", "{\"problem\": \"1+1=\", \"answer\": \"2\"}\n");
    folder.write("run.toml", &bare());
    let once = ["--set", "run.steps=1"];
    for done in [
        generate(),
        folder.run(&["eval", "model", "-b", "rows.jsonl", "--shots", "0"]),
        folder.run(&[&["train", "run.toml"], &once[..]].concat()),
    ] {
        assert_eq!(done.status, 1, "{}{}", done.stdout, done.stderr);
        assert!(done.stderr.contains("the logits of the next token are not finite (`NaN`"), "{}", done.stderr);
    }
    std::fs::write(&weights, &bytes).unwrap();

    std::fs::write(&config, text.replace("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1")).unwrap();
    let done = generate();
    assert_eq!(done.status, 1, "{}", done.stdout);
    assert!(
        done.stderr.contains("that a model of 1 blocks as `config.json` has it does not have, first `model.layers.1.")
    );
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
