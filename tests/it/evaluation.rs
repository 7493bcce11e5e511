//! `candlewick eval` and `candlewick compare` on the quickstart's tiny checkpoint, and the report of a run.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use candlewick_eval::report::Report;
use serde_json::Value;

use crate::program::{Done, Folder};

fn root(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name).display().to_string()
}

/// `eval` on 30 held-out sums, 4 samples each.
fn arguments(output: &str) -> Vec<String> {
    let fixed = ["--problems", "30", "--samples", "4", "--temperature", "1", "--limit", "40", "--output", output];
    let mut all =
        vec!["eval".to_owned(), root("configs/quickstart"), "-b".into(), "validation".into(), "--config".into()];
    all.push(root("configs/quickstart.toml"));
    all.extend(fixed.map(str::to_owned));
    all
}

fn eval(folder: &Folder, output: &str, more: &[&str]) -> Done {
    let all = arguments(output);
    let all: Vec<&str> = all.iter().map(String::as_str).chain(more.iter().copied()).collect();
    folder.run(&all)
}

/// `eval` of a file, asked as text.
fn eval_file(folder: &Folder, file: &str, more: &[&str]) -> Done {
    let model = root("configs/quickstart");
    let fixed = ["eval", &model, "-b", file, "--form", "base", "--shots", "0", "--limit", "40", "--force"];
    folder.run(&[&fixed, more].concat())
}

fn text(folder: &Folder, name: &str) -> String {
    std::fs::read_to_string(folder.path().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn json(folder: &Folder, name: &str) -> Value {
    serde_json::from_str(&text(folder, name)).unwrap()
}

#[test]
fn a_report_has_all_its_forms_and_its_numbers_do_not_depend_on_the_batch() {
    let folder = Folder::new();
    let done = eval(&folder, "one", &["--rows", "1", "--pass-at", "1,3"]);
    assert_eq!(done.status, 0, "{}", done.stderr);
    assert!(done.stdout.contains("validation") && done.stdout.contains("95 % interval"), "{}", done.stdout);
    assert!(done.stdout.contains("report  one/report.html"), "{}", done.stdout);
    let report = Report::read(&folder.path().join("one")).unwrap();
    let entry = &report.benchmarks[0];
    let pass: Vec<usize> = entry.results.pass.iter().map(|at| at.k).collect();
    assert_eq!((entry.results.problems, entry.results.samples, pass), (30, 4, vec![1, 3]));
    assert!(entry.results.accuracy.lower < entry.results.accuracy.value);
    assert_eq!(entry.sensitivity.len(), 9);
    assert!(entry.protocol.rendered.ends_with('=') && entry.protocol.last_tokens.last().unwrap().text == "=");
    assert_eq!(entry.data.contamination.as_ref().unwrap().removed.len(), 0);
    let identity = &report.identity;
    for hash in [&identity.weights_sha256, &identity.tokenizer_sha256] {
        assert_eq!(hash.as_ref().map(String::len), Some(64));
    }
    assert!(identity.tokens > 0 && identity.date.ends_with('Z') && identity.label == "quickstart");
    let samples = text(&folder, "one/samples_validation.jsonl");
    assert_eq!(samples.lines().count(), 120);
    assert_eq!(text(&folder, "one/lm_eval/samples_validation.jsonl").lines().count(), 30 * 3);
    let results = json(&folder, "one/lm_eval/results.json");
    assert!(results["results"]["validation"]["exact_match,strict-match"].is_number(), "{results}");
    assert!(
        text(&folder, "one/report.html").contains("<svg") && text(&folder, "one/report.md").contains("## validation")
    );
    assert!(!folder.path().join("one/unfinished").exists());
    for rows in ["3", "64"] {
        assert_eq!(eval(&folder, rows, &["--rows", rows]).status, 0);
        assert!(text(&folder, &format!("{rows}/samples_validation.jsonl")) == samples, "{rows} rows differ from one");
    }
    let again = eval(&folder, "one", &[]);
    assert_eq!(again.status, 2);
    assert_eq!(again.stderr, "error: one holds a report already: name another `--output`, or add `--force`\n");
}

#[test]
fn a_killed_evaluation_goes_on_and_gives_the_same_numbers() {
    let folder = Folder::new();
    assert_eq!(eval(&folder, "whole", &[]).status, 0);
    let mut child = Command::new(env!("CARGO_BIN_EXE_candlewick"))
        .args(arguments("killed"))
        .args(["--rows", "1"])
        .current_dir(folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let journal = folder.path().join("killed/unfinished/validation.jsonl");
    let lines = || std::fs::read_to_string(&journal).map_or(0, |text| text.lines().count());
    let started = Instant::now();
    while lines() < 10 {
        assert!(started.elapsed() < Duration::from_secs(120), "nothing was kept");
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!folder.path().join("killed/report.json").exists());
    let done = eval(&folder, "killed", &[]);
    assert_eq!(done.status, 0, "{}", done.stderr);
    assert!(text(&folder, "killed/samples_validation.jsonl") == text(&folder, "whole/samples_validation.jsonl"));
}

/// What a journal holds is taken over and not made again.
#[test]
fn kept_completions_are_used() {
    let folder = Folder::new();
    folder.write(
        "sums.jsonl",
        "{\"problem\": \"3+4=\", \"answer\": \"7\"}\n{\"problem\": \"5+4=\", \"answer\": \"9\"}\n",
    );
    assert_eq!(eval_file(&folder, "sums.jsonl", &["--output", "first"]).status, 0);
    let path = folder.path().join("kept/unfinished/sums.jsonl");
    // The evaluation is whole but its report cannot be written, so what was kept stays.
    folder.write("kept/report.html/in-the-way", "");
    let done = eval_file(&folder, "sums.jsonl", &["--output", "kept"]);
    assert_eq!(done.status, 1, "{}", done.stderr);
    let kept = std::fs::read_to_string(&path).unwrap();
    assert_eq!(kept.lines().count(), 3, "{kept}");
    let mut lines: Vec<Value> = kept.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    lines[1]["ids"] = serde_json::json!([2, 3, 1]);
    let marked: String = lines.iter().map(|line| format!("{line}\n")).collect();
    std::fs::write(&path, marked).unwrap();
    std::fs::remove_dir_all(folder.path().join("kept/report.html")).unwrap();
    assert_eq!(eval_file(&folder, "sums.jsonl", &["--output", "kept"]).status, 0);
    let texts: Vec<String> = text(&folder, "kept/samples_sums.jsonl")
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["text"].as_str().unwrap().to_owned())
        .collect();
    assert!(texts.contains(&"01".to_owned()), "{texts:?}");
}

#[test]
fn training_problems_are_taken_out_and_said_so() {
    let folder = Folder::new();
    let row = |problem: &str, answer: u32| format!("{{\"problem\": \"{problem}\", \"answer\": {answer}}}\n");
    folder.write("sums.jsonl", &(row("3+4=", 7) + &row("5+4=", 9) + &row("2+2=", 4)));
    folder.write("train.jsonl", &(row("1+1=", 2) + &row("5 + 4 =", 9)));
    let done = eval_file(&folder, "sums.jsonl", &["--train", "train.jsonl", "--output", "report"]);
    assert_eq!(done.status, 0, "{}", done.stderr);
    assert!(
        done.stdout.contains("1 more but for case and punctuation") && done.stdout.contains("1 were taken out"),
        "{}",
        done.stdout
    );
    let report = Report::read(&folder.path().join("report")).unwrap();
    assert_eq!(report.benchmarks[0].data.items, 2);
    assert_eq!(report.benchmarks[0].data.contamination.as_ref().unwrap().removed, ["1"]);
}

#[test]
fn gates_fail_and_pass_and_reports_are_compared() {
    let folder = Folder::new();
    assert_eq!(eval(&folder, "good", &["--label", "good"]).status, 0);
    // The same checkpoint, which cannot finish an answer in three tokens.
    let bad = eval(
        &folder,
        "bad",
        &["--limit", "3", "--label", "bad", "--fail-if-worse-than", "good", "--fail-below", "0.9"],
    );
    assert_eq!(bad.status, 2, "an argument given twice is refused: {}", bad.stderr);
    let mut all = arguments("bad");
    let at = all.iter().position(|a| a == "40").unwrap();
    all[at] = "1".into();
    all.extend(["--label", "bad", "--fail-if-worse-than", "good", "--fail-below", "0.9"].map(str::to_owned));
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    // Whoever was cut after one token is not worse for that.
    let refused = folder.run(&all);
    assert_eq!(refused.status, 2, "{}", refused.stderr);
    assert_eq!(
        refused.stderr,
        "error: `--fail-if-worse-than`: validation is asked otherwise than for `good`: limit 1, not 40: ask alike, or add `--allow-different-protocol`\n"
    );
    assert!(!folder.path().join("bad").exists(), "it is refused before anything is sampled");
    let bad = folder.run(&[&all[..], &["--allow-different-protocol"]].concat());
    assert_eq!(bad.status, 1);
    assert!(bad.stderr.contains("is below 90.0 % (`--fail-below`); validation: worse than `good`"), "{}", bad.stderr);
    assert!(bad.stdout.contains("bad is worse than good"), "{}", bad.stdout);
    assert!(bad.stdout.contains("no completion ended by itself within 1 tokens"), "{}", bad.stdout);
    let doubt =
        "  warning: asked otherwise than good, so that the difference may not be the model's: limit 1, not 40\n";
    assert!(bad.stdout.contains(doubt), "{}", bad.stdout);
    assert!(
        text(&folder, "bad/report.md").contains(&format!("> Warning: {}", doubt.trim()["warning: ".len()..].trim()))
    );
    assert!(text(&folder, "bad/report.html").contains("asked otherwise than good"));
    let gate = ["--fail-if-worse-than", "bad", "--allow-different-protocol"];
    let fine = eval(&folder, "fine", &[&gate[..], &["--against", "good", "--fail-below", "0.01"]].concat());
    assert_eq!(fine.status, 0, "{}", fine.stderr);
    assert!(
        fine.stdout.contains("is better than bad") && fine.stdout.contains("not distinguishable from good"),
        "{}",
        fine.stdout
    );
    let compared = folder.run(&["compare", "good", "bad"]);
    assert_eq!(compared.status, 0, "{}", compared.stderr);
    assert!(compared.stdout.contains("bad is worse than good"), "{}", compared.stdout);
    assert!(compared.stdout.contains(doubt), "{}", compared.stdout);
    let refused = folder.run(&["compare", "good", "bad", "--fail-if-worse"]);
    assert_eq!(refused.status, 2);
    assert!(refused.stderr.contains("`--fail-if-worse`: bad was asked otherwise on validation: limit 1, not 40"));
    let worse = ["compare", "good", "bad", "--fail-if-worse", "--allow-different-protocol"];
    assert_eq!(folder.run(&worse).status, 1);
    assert_eq!(folder.run(&["compare", "good"]).status, 2);
}

/// The same checkpoint, greedy and sampled: whatever the sentence says, it comes with the reason.
#[test]
fn greedy_is_not_held_against_sampled_without_a_word() {
    let folder = Folder::new();
    assert_eq!(eval(&folder, "sampled", &[]).status, 0);
    let greedy =
        ["eval", &root("configs/quickstart"), "-b", "validation", "--config", &root("configs/quickstart.toml")];
    let limits = ["--problems", "30", "--limit", "40", "--output", "greedy", "--against", "sampled"];
    let done = folder.run(&[&greedy[..], &limits].concat());
    assert_eq!(done.status, 0, "{}", done.stderr);
    assert!(done.stdout.contains("temperature 0, not 1; samples 1, not 4"), "{}", done.stdout);
}

/// What cannot be compared is refused before anything is sampled; what can is gated, and the rest is named.
#[test]
fn reports_on_other_problems_are_refused_at_once_and_gates_name_what_they_leave_out() {
    let folder = Folder::new();
    folder.write("one.jsonl", "{\"problem\": \"3+4=\", \"answer\": \"7\"}\n");
    folder.write("two.jsonl", "{\"problem\": \"5+4=\", \"answer\": \"9\"}\n");
    assert_eq!(eval_file(&folder, "one.jsonl", &["--output", "one", "--label", "one"]).status, 0);
    for flag in ["--against", "--fail-if-worse-than"] {
        let done = eval_file(&folder, "two.jsonl", &["--output", "two", flag, "one"]);
        assert_eq!(done.status, 2, "{}", done.stderr);
        assert!(
            done.stderr.starts_with(
                "error: the report `one` shares no benchmark on the same problems: it has one (1 problems, SHA-256"
            ),
            "{}",
            done.stderr
        );
        assert!(!folder.path().join("two").exists());
    }
    let both = ["-b", "two.jsonl", "--output", "both", "--fail-if-worse-than", "one"];
    let done = eval_file(&folder, "one.jsonl", &both);
    assert_eq!(done.status, 0, "{}", done.stderr);
    assert!(done.stdout.contains("not gated: two: `one` has no results on these problems\n"), "{}", done.stdout);
    assert!(!done.stdout.contains("not gated: one"), "{}", done.stdout);
}

/// A checkpoint without a chat template is asked generated problems as text, whatever form is named but a chat.
#[test]
fn generated_problems_are_text_for_a_base_model() {
    let folder = Folder::new();
    let model = root("configs/quickstart");
    for form in ["auto", "base"] {
        let fixed = ["eval", &model, "-b", "generated:sums", "--problems", "3", "--limit", "8", "--force"];
        let done = folder.run(&[&fixed[..], &["--output", "sums", "--form", form]].concat());
        assert_eq!(done.status, 0, "{}", done.stderr);
        let protocol = &Report::read(&folder.path().join("sums")).unwrap().benchmarks[0].protocol;
        assert_eq!(protocol.form, "base");
        assert!(protocol.rendered.starts_with("What is ") && protocol.rendered.ends_with("just the number."));
    }
    for (flag, value) in [("--chat", None), ("--system", Some("Be brief."))] {
        let done = folder.run(&[&["generate", &model, flag][..], value.as_slice()].concat());
        assert_eq!(done.status, 2);
        assert!(done.stderr.contains(&format!("has no chat template, which `{flag}` needs")), "{}", done.stderr);
        assert!(!done.stderr.contains("data.conversational"), "{}", done.stderr);
    }
}

/// One problem without room in the context does not take the others with it.
#[test]
fn a_prompt_longer_than_the_context_counts_as_unanswered() {
    let folder = Folder::new();
    let long = format!("{{\"problem\": \"{}\", \"answer\": 2}}\n", "1+".repeat(80));
    folder.write("sums.jsonl", &("{\"problem\": \"3+4=\", \"answer\": \"7\"}\n".to_owned() + &long));
    let done = eval_file(&folder, "sums.jsonl", &["--output", "report"]);
    assert_eq!(done.status, 0, "{}", done.stderr);
    let entry = &Report::read(&folder.path().join("report")).unwrap().benchmarks[0];
    assert_eq!((entry.results.problems, entry.results.reasons["prompt_too_long"]), (2, 1));
    assert_eq!(entry.results.truncated.count, 0);
    assert!(
        entry.warnings[0].starts_with("1 of 2 prompts leave no room in the model's context of 128 tokens and count as unanswered, such as problem `1` of ")
            && entry.warnings[0].ends_with(" tokens: use a model with a longer context"),
        "{:?}",
        entry.warnings
    );
    let samples = text(&folder, "report/samples_sums.jsonl");
    let last: Value = serde_json::from_str(samples.lines().last().unwrap()).unwrap();
    assert_eq!((last["finish"].as_str(), last["tokens"].as_u64()), (Some("unasked"), Some(0)));
}

/// What a stopped evaluation has answered is neither lost nor taken over without a word.
#[test]
fn a_stopped_evaluation_is_taken_over_or_thrown_away_aloud() {
    let folder = Folder::new();
    folder.write("sums.jsonl", "{\"problem\": \"3+4=\", \"answer\": \"7\"}\n");
    // The evaluation is whole but its report cannot be written, so what was kept stays.
    folder.write("out/report.html/in-the-way", "");
    let model = root("configs/quickstart");
    let run = |seed: &str, more: &[&str]| {
        let fixed = ["eval", &model, "-b", "sums.jsonl", "--form", "base", "--shots", "0", "--limit", "40"];
        folder.run(&[&fixed[..], &["--output", "out", "--seed", seed], more].concat())
    };
    assert_eq!(run("1", &[]).status, 1);
    std::fs::remove_file(folder.path().join("out/report.json")).unwrap();
    let refused = run("2", &[]);
    assert_eq!(
        (refused.status, refused.stderr.lines().last().unwrap()),
        (
            2,
            "error: `out/unfinished/sums.jsonl` holds 1 completions of a stopped evaluation under other settings: seed 2, not 1: give the settings it had to go on, or add `--force` to begin anew"
        )
    );
    let again = run("1", &[]);
    assert!(
        again.stderr.contains("sums: 1 of 1 completions are taken over from a stopped evaluation"),
        "{}",
        again.stderr
    );
    std::fs::remove_dir_all(folder.path().join("out/report.html")).unwrap();
    let forced = run("2", &["--force"]);
    assert_eq!(forced.status, 0, "{}", forced.stderr);
    assert!(
        forced.stderr.contains(
            "sums: 1 completions of a stopped evaluation under other settings are thrown away: seed 2, not 1"
        )
    );
}

/// Wrong values are told before the model, which is not there, is looked for.
#[test]
fn impossible_flags_are_status_2_before_anything_is_loaded() {
    let folder = Folder::new();
    folder.write("ok.jsonl", "{\"problem\": \"1+1=\", \"answer\": 2}\n");
    for (flags, expected) in [
        (&["--top-p", "0"][..], "`--top-p` cannot be 0: it lies above 0 and up to 1"),
        (&["--min-p", "1.5"], "`--min-p` cannot be 1.5"),
        (&["--temperature=-1"], "`--temperature` cannot be -1"),
        (&["--wordings", "9"], "`--wordings` cannot be 9: there are 1 to 6"),
        (&["--wordings", "0"], "`--wordings` cannot be 0"),
        (&["--samples", "2", "--temperature", "1", "--pass-at", "1,4"], "k = 4 needs at least 4 samples"),
        (&["--stop", ""], "`--stop` holds an empty text"),
    ] {
        let done = folder.run(&[&["eval", "nowhere", "-b", "ok.jsonl"][..], flags].concat());
        assert_eq!(done.status, 2, "{flags:?}: {}", done.stderr);
        assert!(done.stderr.contains(expected), "{flags:?}: {}", done.stderr);
    }
}

#[test]
fn bad_input_is_one_clear_line() {
    let folder = Folder::new();
    folder.write("missing.jsonl", "{\"problem\": \"1+1=\", \"answer\": 2}\n\n{\"problem\": \"1+2=\"}\n");
    folder.write(
        "twice.jsonl",
        "{\"id\": 7, \"problem\": \"1+1=\", \"answer\": 2}\n{\"id\": 7, \"problem\": \"1+2=\", \"answer\": 3}\n",
    );
    folder.write("empty.jsonl", "");
    folder.write("old/report.json", "{\"schema\": \"candlewick-report/0\"}");
    folder.write("null.jsonl", "{\"problem\": \"1+1=\", \"answer\": null}\n");
    folder.write("ok.jsonl", "{\"problem\": \"1+1=\", \"answer\": 2}\n");
    folder.write("long.jsonl", &format!("{{\"problem\": \"{}\", \"answer\": 2}}\n", "1+".repeat(80)));
    let refuses = |file: &str, more: &[&str], status: i32, expected: &str| {
        let done = eval_file(&folder, file, more);
        assert_eq!(done.status, status, "{file}: {}", done.stderr);
        assert!(done.stderr.contains(expected), "{file}: expected `{expected}` in: {}", done.stderr);
        assert!(!done.stderr.contains("panicked"), "{}", done.stderr);
    };
    refuses("gsm9k", &[], 2, "unknown benchmark `gsm9k`: use one of gsm8k, svamp, math500");
    refuses("gsm9k", &[], 2, "; did you mean `gsm8k`?");
    refuses("gone.jsonl", &[], 2, "no such data file: `gone.jsonl`");
    refuses("gsm8k=gone.jsonl", &[], 2, "no such data file: `gone.jsonl`");
    refuses("validation", &[], 2, "name the config with `--config`");
    refuses("missing.jsonl", &[], 1, "error: missing.jsonl:3: no field `answer`");
    refuses(
        "missing.jsonl",
        &[],
        1,
        "or `solution`: the record has `problem`; name yours with `--problem-field` and `--answer-field`",
    );
    refuses("null.jsonl", &[], 1, "error: null.jsonl:1: field `answer` is null\n");
    refuses("twice.jsonl", &[], 1, "twice.jsonl:2: a second record has the id `7`");
    refuses("gsm8k=ok.jsonl", &[], 1, "ok.jsonl:1: field `answer` has no line `#### answer`");
    refuses("empty.jsonl", &[], 1, "`empty.jsonl` is empty");
    refuses(
        "long.jsonl",
        &[],
        1,
        "leaves no room in the model's context of 128 tokens: use a model with a longer context",
    );
    refuses("ok.jsonl", &["--samples", "4"], 2, "4 samples at temperature 0 are the same completion 4 times");
    let sampled = ["--samples", "4", "--temperature", "1"];
    refuses(
        "ok.jsonl",
        &[&sampled[..], &["--pass-at", "8"]].concat(),
        2,
        "k = 8 needs at least 8 samples a problem, there are 4",
    );
    refuses(
        "ok.jsonl",
        &["--against", "old"],
        1,
        "report has schema `candlewick-report/0`, this version reads `candlewick-report/1`",
    );
    refuses("ok.jsonl", &["--wordings", "3"], 2, "a base prompt has none: leave out `--wordings`");
    refuses("ok.jsonl", &["--fail-below", "40"], 2, "give a number from 0 to 1");
    let model = root("configs/quickstart");
    let chat = folder.run(&["eval", &model, "-b", "ok.jsonl", "--form", "chat"]);
    assert!(
        chat.status == 1 && chat.stderr.contains("has no chat template: ask with `--form base`"),
        "{}",
        chat.stderr
    );
    let few = folder.run(&["eval", &model, "-b", "long.jsonl", "--shots", "3", "--shots-from", "ok.jsonl"]);
    assert!(few.status == 1 && few.stderr.contains("`ok.jsonl` holds 1 worked examples, not 3"), "{}", few.stderr);
    let leak = folder.run(&["eval", &model, "-b", "ok.jsonl", "--shots", "1", "--shots-from", "ok.jsonl"]);
    assert!(leak.status == 1 && leak.stderr.contains("worked example 1 is problem `0` itself"), "{}", leak.stderr);
}

struct Run {
    output: tempfile::TempDir,
}

impl Run {
    fn train(&self, name: &str, sets: &[&str]) -> PathBuf {
        let mut command = Command::new(env!("CARGO_BIN_EXE_candlewick"));
        command.current_dir(env!("CARGO_MANIFEST_DIR")).args(["train", "configs/quickstart.toml"]);
        let output = format!("run.output={}", self.output.path().display());
        for set in [output.as_str(), &format!("run.name={name}")].into_iter().chain(sets.iter().copied()) {
            command.args(["--set", set]);
        }
        let done = command.output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        self.output.path().join(name)
    }
}

#[test]
fn a_run_ends_with_a_report_of_base_and_final_and_keeps_its_best() {
    let run = Run { output: tempfile::tempdir().unwrap() };
    let sets = [
        "run.steps=6",
        "eval.every=2",
        "run.save_every=0",
        "data.validation=60",
        "prompts.shuffle.per_step=8",
        "eval.benchmarks=[\"validation\", \"generated:mixed\"]",
    ];
    let folder = run.train("report", &sets);
    let report = Report::read(&folder.join("report")).unwrap();
    assert_eq!(report.benchmarks.len(), 2);
    assert!(report.benchmarks.iter().all(|entry| entry.against[0].label == "base"));
    let held_out = report.training.iter().find(|curve| curve.name == "validation accuracy").unwrap();
    let steps: Vec<f64> = held_out.points.iter().map(|point| point.step).collect();
    assert_eq!(steps, [0.0, 2.0, 4.0, 6.0]);
    assert!(held_out.points.iter().all(|point| point.lower < point.upper));
    // Between steps only the validation slice is asked.
    let other = report.training.iter().find(|curve| curve.name == "generated:mixed accuracy").unwrap();
    assert_eq!(other.points.len(), 2);
    assert!(report.training.iter().any(|curve| curve.name == "entropy" && curve.points.len() == 6));
    // A quantity has one name.
    let metrics = std::fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
    let step: Value = serde_json::from_str(metrics.lines().next().unwrap()).unwrap();
    let names: Vec<&String> = step.as_object().unwrap().keys().collect();
    assert!(names.iter().all(|name| !name.starts_with("rollout/reward")), "{names:?}");
    for name in ["reward/accuracy", "reward/math", "reward/math/std", "reward/math/failed"] {
        assert!(step[name].is_number(), "{name} of {names:?}");
    }
    assert!(report.notes.iter().any(|note| note.contains("that figure was chosen")), "{:?}", report.notes);
    let summary: Value = serde_json::from_slice(&std::fs::read(folder.join("report/summary.json")).unwrap()).unwrap();
    for side in ["base", "final"] {
        for key in ["accuracy", "lower", "upper", "n", "samples", "lenient_accuracy", "truncated", "tokens"] {
            assert!(summary["benchmarks"]["validation"][side][key].is_number(), "{side}.{key}");
        }
    }
    assert!(summary["seconds"].is_number() && summary["tokens"].as_u64() > Some(0) && summary["version"].is_string());
    let state: Value =
        serde_json::from_slice(&std::fs::read(folder.join("checkpoints/6/state.json")).unwrap()).unwrap();
    let best = state["best"][0].as_u64().unwrap();
    assert!(folder.join(format!("checkpoints/{best}/model.safetensors")).is_file(), "the best of step {best} is kept");
    for file in ["report.html", "held_out.svg", "accuracy.svg", "samples_validation_base.jsonl", "lm_eval/results.json"]
    {
        assert!(folder.join("report").join(file).is_file(), "{file}");
    }
}

#[test]
fn an_adapter_is_evaluated_and_the_report_says_what_it_is() {
    let run = Run { output: tempfile::tempdir().unwrap() };
    let sets = ["run.steps=1", "eval.every=0", "eval.benchmarks=[]", "model.lora.rank=2", "prompts.shuffle.per_step=4"];
    let checkpoint = run.train("adapter", &sets).join("checkpoints/1");
    let output = run.output.path().join("out");
    let done = Command::new(env!("CARGO_BIN_EXE_candlewick"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["eval", &checkpoint.display().to_string(), "-b", "generated:mixed", "--problems", "5", "--limit", "20"])
        .args(["--config", "configs/quickstart.toml", "--output", &output.display().to_string()])
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let identity = Report::read(&output).unwrap().identity;
    assert_eq!((identity.label.as_str(), identity.is_adapter_merged), ("adapter-1", Some(false)));
    assert!(identity.adapter_sha256.is_some() && identity.weights_sha256.is_some());
}
