//! `candlewick grade`.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::program::Folder;

const PAIRS: &str = r#"{"gold": "18", "completion": "So it is \\boxed{18}."}
{"gold": "\\frac{1}{2}", "completion": "The answer is 0.5."}

{"gold": 7, "completion": "\\boxed{8}"}
{"gold": "7", "completion": "no idea"}
"#;

#[test]
fn verdicts_stand_in_the_order_of_the_lines() {
    let folder = Folder::new();
    folder.write("pairs.jsonl", PAIRS);
    let done = folder.run(&["grade", "pairs.jsonl", "--out", "verdicts.jsonl", "--modes"]);
    assert_eq!((done.status, done.stderr.as_str()), (0, ""));
    assert!(done.stdout.starts_with("2 of 4 right, 50.0 %; "), "{}", done.stdout);
    for part in ["wrong because", "different", "no_answer", "right by", "refused most often", "8 for gold 7", "slowest"]
    {
        assert!(done.stdout.contains(part), "{part}: {}", done.stdout);
    }
    for mode in ["primary", "exact", "hendrycks", "minerva", "gsm8k_strict", "gsm8k_flexible", "dapo", "math_verify"] {
        assert!(done.stdout.lines().any(|line| line.trim_start().starts_with(mode)), "{mode}: {}", done.stdout);
    }
    let text = std::fs::read_to_string(folder.path().join("verdicts.jsonl")).unwrap();
    let verdicts: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let keys: Vec<&str> = verdicts[0].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["correct", "method", "reason", "extracted", "flags", "micros"]);
    let of = |key: &str| verdicts.iter().map(|verdict| verdict[key].clone()).collect::<Vec<_>>();
    assert_eq!(of("correct"), [true, true, false, false]);
    assert_eq!(serde_json::json!(of("extracted")), serde_json::json!(["18", "0.5", "8", null]));
    assert_eq!(serde_json::json!(of("reason")), serde_json::json!([null, null, "different", "no_answer"]));
    assert_eq!(verdicts[1]["method"], "decimal");
    let left = std::fs::read_dir(folder.path()).unwrap();
    assert!(left.flatten().all(|entry| !entry.file_name().to_string_lossy().ends_with(".partial")));
}

#[test]
fn verdicts_go_where_they_are_sent() {
    let folder = Folder::new();
    folder.write("pairs.jsonl", PAIRS);
    let done = folder.run(&["grade", "pairs.jsonl", "--out", "-"]);
    assert_eq!((done.status, done.stdout.lines().count()), (0, 4));
    assert!(done.stdout.lines().all(|line| line.starts_with("{\"correct\":")), "{}", done.stdout);
    // What is no file is written to and not replaced.
    let done = folder.run(&["grade", "pairs.jsonl", "--out", "/dev/null"]);
    assert_eq!(done.status, 0, "{}", done.stderr);
    assert!(!std::fs::metadata("/dev/null").unwrap().is_file());
    let done = folder.run(&["grade", "pairs.jsonl", "--out", "./pairs.jsonl"]);
    assert_eq!((done.status, done.stdout.as_str()), (2, ""));
    assert!(done.stderr.contains("would replace the file that is graded"), "{}", done.stderr);
    assert_eq!(std::fs::read_to_string(folder.path().join("pairs.jsonl")).unwrap(), PAIRS);
}

#[test]
fn files_of_gsm8k_and_byte_order_marks_are_read() {
    let folder = Folder::new();
    folder.write(
        "rows.jsonl",
        "\u{feff}{\"answer\": \"9*2 = <<9*2=18>>18\\n#### 18\", \"completion\": \"so \\\\boxed{18}\"}\n",
    );
    let done = folder.run(&["grade", "rows.jsonl", "--gold", "answer"]);
    assert_eq!(done.status, 0, "{}", done.stderr);
    assert!(done.stdout.starts_with("1 of 1 right"), "{}", done.stdout);
}

#[test]
fn lines_that_cannot_be_read_are_named_and_stop_the_grading() {
    let folder = Folder::new();
    folder.write(
        "pairs.jsonl",
        "{\"gold\": \"1\", \"completion\": \"1\"}\nnot json\n{\"gold\": \"1\"}\n{\"gold\": [], \"completion\": \"\"}\n",
    );
    let done = folder.run(&["grade", "pairs.jsonl", "--out", "verdicts.jsonl"]);
    assert_eq!((done.status, done.stdout.as_str()), (2, ""));
    for part in [
        "pairs.jsonl, line 2: no JSON",
        "line 3: it has no `completion`",
        "line 4: `gold` is a text or a number",
        "3 of 4 lines",
        "--skip-bad",
    ] {
        assert!(done.stderr.contains(part), "{part}: {}", done.stderr);
    }
    assert!(!folder.path().join("verdicts.jsonl").exists());
    let done = folder.run(&["grade", "pairs.jsonl", "--out", "verdicts.jsonl", "--skip-bad"]);
    assert_eq!(done.status, 0, "{}", done.stderr);
    assert!(done.stdout.starts_with("1 of 1 right"), "{}", done.stdout);
    let text = std::fs::read_to_string(folder.path().join("verdicts.jsonl")).unwrap();
    assert_eq!(text.lines().count(), 4);
    assert!(text.lines().nth(2).unwrap().contains("it has no `completion`"));
}

#[test]
fn standard_input_and_other_keys_are_read() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_candlewick"))
        .args(["grade", "-", "--gold", "answer", "--completion", "text", "--anchored"])
        .env("NO_COLOR", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = b"{\"answer\": \"3\", \"text\": \"Answer: 3\"}\n{\"answer\": \"3\", \"text\": \"it may be 3\"}\n";
    child.stdin.take().unwrap().write_all(lines).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("1 of 2 right"));
}

#[test]
fn wrong_usage_is_refused() {
    let folder = Folder::new();
    folder.write("empty.jsonl", "\n");
    for (arguments, part) in [
        (&["grade", "absent.jsonl"][..], "cannot read `absent.jsonl`"),
        (&["grade", "."], "cannot read `.`"),
        (&["grade", "empty.jsonl"], "empty.jsonl holds no pair"),
        (&["grade", "empty.jsonl", "--extract", "bokxed"], "`boxed`"),
        (&["grade", "empty.jsonl", "--rel-tol", "2"], "no share between 0 and 1"),
    ] {
        let done = folder.run(arguments);
        assert_eq!((done.status, done.stdout.as_str()), (2, ""), "{arguments:?}: {}", done.stderr);
        assert!(done.stderr.contains(part), "{part}: {}", done.stderr);
    }
}
