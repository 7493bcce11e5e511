//! Runs of the program that distil a teacher: learning and exact resume, on own samples and on given texts; a teacher's
//! tokens on disk, whole and damaged.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::training::{QUICKSTART, Run, gain};

fn metrics(run: &Run, name: &str, key: &str) -> Vec<f64> {
    let text = std::fs::read_to_string(run.folder(name).join("metrics.jsonl")).unwrap();
    let rows = text.lines().map(|l| serde_json::from_str::<Value>(l).unwrap());
    rows.map(|r| r[key].as_f64().unwrap_or_else(|| panic!("{key} is not in {r}"))).collect()
}

fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

/// The quickstart without the stage that distillation does not read.
fn student(run: &Run) -> String {
    let text = std::fs::read_to_string(QUICKSTART).unwrap().replace("[advantage.group]\n", "");
    let config = run.folder("student.toml");
    std::fs::write(&config, text).unwrap();
    config.to_str().unwrap().to_owned()
}

const FORWARD: &str = "objective.distill={ beta = 0.0, top_k = 6 }";
const REVERSE: &str = "objective.distill={ beta = 1.0, top_k = 6 }";

/// A student with random weights on worked sums, and the quickstart's checkpoint as its teacher.
const OFFLINE: &str = "configs/quickstart-sft.toml";
const GIVEN: [&str; 5] = [
    "model.reference.path=configs/quickstart",
    "data.generated.max_terms=3",
    "data.generated.held_out_min_terms=3",
    "data.generated.count=600",
    "data.validation=100",
];
const BRIEF: [&str; 7] = [
    "run.steps=4",
    "run.save_every=2",
    "run.keep_last=9",
    "data.generated.count=60",
    "train.offline.batch_size=16",
    "eval.benchmarks=[]",
    "optim.warmup_steps=1",
];

fn brief(objective: &str) -> Vec<&str> {
    GIVEN.into_iter().chain(BRIEF).chain([objective]).collect()
}

fn go(run: &Run, name: &str, objective: &str) -> (String, String) {
    let output = run.command(OFFLINE, name, &brief(objective)).output().unwrap();
    let (out, err) = texts(&output);
    assert!(output.status.success(), "{err}");
    (out, err)
}

fn weights(run: &Run, name: &str) -> [Vec<u8>; 2] {
    let last = run.folder(name).join("checkpoints/4");
    ["model.safetensors", "optimizer.safetensors"].map(|file| std::fs::read(last.join(file)).unwrap())
}

/// The only file of the teacher's tokens.
fn kept(run: &Run) -> PathBuf {
    let folder = run.output.path().join("teacher");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files.remove(0)
}

/// A teacher made by 20 steps of GRPO; the student starts where the teacher did.
#[test]
fn distillation_moves_the_student_to_the_teacher() {
    const SHORT: [&str; 4] = ["run.steps=20", "data.validation=300", "eval.every=0", "run.save_every=0"];
    let run = Run::new();
    let teacher_gain = gain(&run.train(QUICKSTART, "teacher", &SHORT));
    assert!(teacher_gain > 0.12, "{teacher_gain}");
    let path = format!("model.reference.path={}", run.folder("teacher").join("checkpoints/20").display());
    for (name, objective, falls) in [
        ("divergence", "objective.distill={ beta = 1.0 }", "objective/distill/divergence"),
        ("sparse", "objective.distill={ beta = 0.5, top_k = 4 }", "objective/distill/divergence"),
        ("gradient", "objective.distill={ mode = 'policy_gradient' }", "objective/distill/kl"),
    ] {
        let sets: Vec<&str> = SHORT.iter().copied().chain([path.as_str(), objective]).collect();
        let student_gain = gain(&run.train(&student(&run), name, &sets));
        assert!(student_gain > 0.5 * teacher_gain, "{name}: {student_gain} of the teacher's {teacher_gain}");
        let values = metrics(&run, name, falls);
        assert!(values[19] < 0.5 * values[0], "{name}: {} to {}", values[0], values[19]);
    }
}

/// From random weights, by the teacher's distributions alone: none of the texts' own tokens is in the loss.
#[test]
fn a_student_learns_from_what_a_teacher_says_of_given_texts() {
    let run = Run::new();
    let sets = ["run.steps=150", "optim.warmup_steps=20"];
    for (name, objective) in [("whole", "objective.distill={ beta = 0.0 }"), ("sparse", FORWARD)] {
        let sets: Vec<&str> = GIVEN.into_iter().chain(sets).chain([objective]).collect();
        let learned = gain(&run.train(OFFLINE, name, &sets));
        assert!(learned > 0.08, "{name}: {learned}");
        let values = metrics(&run, name, "objective/distill/divergence");
        assert!(values[149] < 0.5 * values[0], "{name}: {} to {}", values[0], values[149]);
    }
}

/// A run whose last checkpoint is lost repeats its steps to the same bits.
#[test]
fn runs_on_own_samples_resume_bit_for_bit() {
    let run = Run::new();
    let short = [
        "run.steps=4",
        "data.validation=20",
        "eval.every=0",
        "run.save_every=2",
        "prompts.shuffle.per_step=6",
        "train.online.minibatches=2",
        "model.random_init=3",
        "model.reference.path=configs/quickstart",
    ];
    let config = student(&run);
    for (name, objective) in [
        ("whole", "objective.distill={ beta = 0.5, kd_temperature = 2.0 }"),
        ("sparse", REVERSE),
        ("gradient", "objective.distill={ mode = 'policy_gradient', gamma = 0.9 }"),
    ] {
        let sets: Vec<&str> = short.into_iter().chain([objective]).collect();
        run.train(&config, name, &sets);
        let before = weights(&run, name);
        std::fs::remove_dir_all(run.folder(name).join("checkpoints/4")).unwrap();
        let (out, err) = texts(&run.command(&config, name, &sets).arg("--resume").output().unwrap());
        assert!(out.contains("resumed after step 2"), "{out}{err}");
        assert!(before == weights(&run, name), "{name} differs after resuming");
    }
}

/// The teacher's tokens are asked once: a resumed run and another one take them up, and get the same bits as where the
/// file is lost and the teacher asked again.
#[test]
fn runs_on_given_texts_resume_bit_for_bit_from_one_file_of_the_teacher() {
    for (objective, is_kept) in [(FORWARD, true), (REVERSE, true), ("objective.distill={ beta = 0.5 }", false)] {
        let run = Run::new();
        let (out, _) = go(&run, "whole", objective);
        assert_eq!(out.contains("the teacher's 6 tokens a position are kept in"), is_kept, "{out}");
        let before = weights(&run, "whole");
        for is_file_lost in [false, true] {
            std::fs::remove_dir_all(run.folder("whole").join("checkpoints/4")).unwrap();
            if is_file_lost && is_kept {
                std::fs::remove_file(kept(&run)).unwrap();
            }
            let resumed = run.command(OFFLINE, "whole", &brief(objective)).arg("--resume").output().unwrap();
            let (out, err) = texts(&resumed);
            assert!(out.contains("resumed after step 2"), "{out}{err}");
            let how = if is_file_lost { "are kept in" } else { "are taken from" };
            assert_eq!(out.contains(how), is_kept, "{out}");
            assert!(before == weights(&run, "whole"), "{objective} differs after resuming");
        }
        let (out, _) = go(&run, "other", objective);
        assert_eq!(out.contains("are taken from"), is_kept, "{out}");
        assert!(before == weights(&run, "other"));
    }
}

#[test]
fn damaged_and_foreign_files_of_the_teacher_are_told_and_made_anew() {
    let run = Run::new();
    go(&run, "whole", FORWARD);
    let (file, before) = (kept(&run), weights(&run, "whole"));
    let bytes = std::fs::read(&file).unwrap();
    // What another teacher's file would look like under this name.
    let foreign = Run::new();
    go(&foreign, "other", "objective.distill={ beta = 0.0, top_k = 5 }");
    let other = std::fs::read(kept(&foreign)).unwrap();
    let mut flipped = bytes.clone();
    *flipped.last_mut().unwrap() ^= 1;
    for (name, content, expected) in [
        ("flipped", &flipped[..], "is damaged: the checksum of `mass` differs"),
        ("cut", &bytes[..bytes.len() - 9], "is truncated or no safetensors file"),
        ("empty", &[][..], "are computed anew"),
        ("foreign", &other[..], "is of another model, of other data or settings"),
    ] {
        std::fs::write(&file, content).unwrap();
        let (out, err) = go(&run, name, FORWARD);
        let line = err.lines().find(|l| l.contains("computed anew")).unwrap_or_else(|| panic!("{name}: {err}"));
        assert!(line.contains(expected) && out.contains("are kept in"), "{name}: {line}");
        assert!(std::fs::read(&file).unwrap() == bytes, "{name}: the same file is made again");
        assert!(before == weights(&run, name), "{name}");
    }
    // An unfinished file of a run that was killed is nobody's.
    std::fs::remove_file(&file).unwrap();
    std::fs::write(file.with_extension("partial"), "half").unwrap();
    go(&run, "killed", FORWARD);
    assert!(std::fs::read(kept(&run)).unwrap() == bytes);
}

/// Two runs that start together want the same file: one makes it, and nobody reads a half of it.
#[test]
fn two_runs_at_once_make_one_file() {
    let run = Run::new();
    let mut children: Vec<_> = ["first", "second"]
        .iter()
        .map(|name| {
            let mut command = run.command(OFFLINE, name, &brief(FORWARD));
            command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap()
        })
        .collect();
    assert!(children.iter_mut().all(|child| child.wait().unwrap().success()));
    kept(&run);
    assert!(weights(&run, "first") == weights(&run, "second"));
}

fn check(run: &Run, sets: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_candlewick"));
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR"))).env("NO_COLOR", "1").args(["check", OFFLINE]);
    for set in GIVEN.iter().chain(sets) {
        command.args(["--set", set]);
    }
    command.args(["--set", &format!("run.output={}", run.output.path().display())]).output().unwrap()
}

#[test]
fn a_teacher_of_another_tokenizer_is_refused() {
    let run = Run::new();
    let folder = run.folder("teacher-of-another-tokenizer");
    std::fs::create_dir_all(&folder).unwrap();
    for file in ["config.json", "model.safetensors", "tokenizer_config.json"] {
        std::fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/quickstart").join(file), folder.join(file))
            .unwrap();
    }
    let text = std::fs::read_to_string("configs/quickstart/tokenizer.json").unwrap();
    let swapped = text.replace("\"8\": 10", "\"8\": 11").replace("\"9\": 11", "\"9\": 10");
    assert_ne!(text, swapped);
    std::fs::write(folder.join("tokenizer.json"), swapped).unwrap();
    let output = check(&run, &[FORWARD, &format!("model.reference.path={}", folder.display())]);
    let (_, err) = texts(&output);
    assert_eq!(output.status.code(), Some(2), "{err}");
    assert!(err.contains("the policy's token `8` is number 10 and the reference has it as 11"), "{err}");
}

#[test]
fn check_tells_what_a_teacher_takes_and_refuses_what_it_cannot_serve() {
    let run = Run::new();
    let (out, err) = texts(&check(&run, &[FORWARD]));
    assert!(
        out.contains("memory, before the first step") && out.contains("on disk at most, of the teacher"),
        "{out}{err}"
    );
    assert!(out.contains("40 bytes a learnt token"), "6 ids of 4 bytes, 6 log-probs of 2, a mass of 4: {out}");
    let (out, _) = texts(&check(&run, &[REVERSE]));
    assert!(out.contains("48 bytes a learnt token"), "{out}");
    let (out, _) = texts(&check(&run, &["objective.distill={ beta = 0.0 }"]));
    assert!(!out.contains("before the first step") && out.contains("reference"), "a whole teacher stays: {out}");
    for (objective, expected) in [
        ("objective.distill={ mode = 'policy_gradient' }", "given texts were not drawn from the policy"),
        ("objective.distill={ beta = 1.0, top_k = 6, rest = 'truncated' }", "only the forward divergence is defined"),
        ("objective.distill={ top_k = 6, kd_temperature = 2.0 }", "it cannot be softened"),
        ("objective.distill={ top_k = 17 }", "more than the model's vocabulary"),
    ] {
        let output = check(&run, &[objective]);
        let (_, err) = texts(&output);
        assert_eq!(output.status.code(), Some(2), "{err}");
        assert!(err.contains(expected), "expected `{expected}` in {err}");
    }
}
