//! Code that is right, wrong, empty, and code that cheats. Shell snippets; Python where there is one.

use serde_json::json;

use super::super::{Graded, NoModels, Rewards, RewardsConfig};
use super::*;

fn shell() -> CodeConfig {
    CodeConfig {
        language: "sh".into(),
        command: ["sh", "{file}"].map(str::to_owned).to_vec(),
        file: "answer.sh".into(),
        require: Level::Limits,
        timeout_seconds: 2.0,
        ..CodeConfig::default()
    }
}

async fn grade(config: CodeConfig, tests: serde_json::Value, completions: &[&str]) -> Graded {
    let rewards = Rewards::new(&RewardsConfig { code: Some(config), ..RewardsConfig::default() }).unwrap();
    let items: Vec<Item> = (completions.iter())
        .map(|c| {
            let meta = json!({ "tests": tests }).as_object().unwrap().clone();
            Item { completion: (*c).into(), meta, ..Item::default() }
        })
        .collect();
    rewards.grade(&items).await
}

fn fenced(language: &str, code: &str) -> String {
    format!("Here it is:\n```{language}\n{code}\n```\nDone.")
}

#[test]
fn the_first_block_of_the_language_is_the_code() {
    for (text, expected) in [
        ("```sh\na\n```\n```python\nb\n```\n```python\nc\n```", "b\n"),
        ("```\na\n```", "a\n"),
        ("```py\nb\n```", "b\n"),
        ("<think>```python\nno\n```</think>```python\nyes\n```", "yes\n"),
        ("```python\nno\n```<answer>```python\nyes\n```</answer>", "yes\n"),
        ("```python\ncut off", "cut off"),
        ("print(1)", ""),
        ("", ""),
    ] {
        assert_eq!(extract(text, "python", false), expected, "{text}");
    }
    assert_eq!(extract("print(1)", "python", true), "print(1)");
}

#[tokio::test]
async fn the_share_of_tests_is_the_score_and_all_of_them_earn_a_bonus() {
    let tests = json!([{"input": "2 3", "output": "5"}, {"input": "4 4", "output": "8\n"}]);
    let right = fenced("sh", "read a b; echo $((a + b))");
    let half = fenced("sh", "echo 5");
    let graded = grade(shell(), tests.clone(), &[&right, &half, "no code", "```sh\n\n```"]).await;
    assert_eq!(graded.scores[0], [Ok(2.0), Ok(0.5), Ok(0.0), Ok(0.0)]);
    let strict = CodeConfig { all_or_nothing: true, ..shell() };
    let graded = grade(strict, tests, &[&right, &half]).await;
    assert_eq!(graded.verdict, [Some(1.0), Some(0.0)]);
}

#[tokio::test]
async fn rows_without_tests_are_missing() {
    for tests in [json!(null), json!([]), json!([{"input": "1"}])] {
        let graded = grade(shell(), tests, &[&fenced("sh", "true")]).await;
        assert!(graded.scores[0][0].is_err());
    }
}

#[tokio::test]
async fn an_early_exit_does_not_pass_and_a_test_that_cannot_tell_is_refused() {
    let tests = json!([{"code": "[ \"$(double 4)\" = 8 ] && echo CANDLEWICK_MARK"}]);
    let right = fenced("sh", "double() { echo $(($1 * 2)); }");
    let exits = fenced("sh", "exit 0");
    let prints = fenced("sh", "echo CANDLEWICK_MARK; exit 0");
    let graded = grade(shell(), tests, &[&right, &exits, &prints]).await;
    assert_eq!(graded.scores[0], [Ok(2.0), Ok(0.0), Ok(0.0)]);
    let graded = grade(shell(), json!([{"code": "double 4"}]), &[&right]).await;
    assert!(graded.scores[0][0].as_ref().unwrap_err().to_string().contains("CANDLEWICK_MARK"));
    let graded = grade(shell(), json!([{"code": "double 4", "output": "8"}]), &[&right]).await;
    assert_eq!(graded.scores[0], [Ok(2.0)]);
}

#[tokio::test]
async fn slow_and_noisy_code_fails_and_is_counted() {
    let config = CodeConfig { timeout_seconds: 0.5, output_kib: 1, ..shell() };
    let rewards = Rewards::new(&RewardsConfig { code: Some(config), ..RewardsConfig::default() }).unwrap();
    let item = |code: &str| Item {
        completion: fenced("sh", code),
        meta: json!({ "tests": [{"input": "", "output": ""}] }).as_object().unwrap().clone(),
        ..Item::default()
    };
    let graded = rewards.grade(&[item("while :; do :; done"), item("yes")]).await;
    assert_eq!(graded.scores[0], [Ok(0.0), Ok(0.0)]);
    let figures = rewards.figures(1).await;
    assert!(figures.contains(&("code/timeouts".into(), 1.0)), "{figures:?}");
    assert!(figures.contains(&("code/output_caps".into(), 1.0)), "{figures:?}");
}

#[tokio::test]
async fn tests_that_come_out_otherwise_the_second_time_are_counted() {
    // Each passes by a coin's toss and every fourth is run twice: that none of 24 differs has chance 6e-8.
    let tests: Vec<serde_json::Value> = (0..CHECKED_EVERY * 24).map(|_| json!({"input": "", "output": "0"})).collect();
    let rewards = Rewards::new(&RewardsConfig { code: Some(shell()), ..RewardsConfig::default() }).unwrap();
    let item = |code: &str| Item {
        completion: fenced("sh", code),
        meta: json!({ "tests": tests }).as_object().unwrap().clone(),
        ..Item::default()
    };
    rewards.grade(&[item("echo 0")]).await;
    assert!(rewards.figures(1).await.contains(&("code/flaky".into(), 0.0)));
    rewards.grade(&[item("n=$(od -An -N1 -tu1 /dev/urandom); echo $((n % 2))")]).await;
    let figures = rewards.figures(2).await;
    assert!(figures.iter().any(|(name, value)| name == "code/flaky" && *value > 0.0), "{figures:?}");
}

#[tokio::test]
async fn python_runs_functions_streams_and_catches_cheats() {
    if find_program("python3").is_none() {
        return;
    }
    let python = CodeConfig { require: Level::Limits, timeout_seconds: 10.0, ..CodeConfig::default() };
    let tests = json!(["assert double(4) == 8", "assert double(0) == 0"]);
    let completions = [
        fenced("python", "def double(n):\n    return 2 * n"),
        fenced("python", "def double(n):\n    return 8"),
        fenced("python", "import sys; sys.exit(0)"),
        fenced("python", "import os; os._exit(0)"),
        fenced("python", "import sys; print(sys.stdin.read()); print('mark-')"),
        fenced("python", "def double(n):"),
    ];
    let graded = grade(python.clone(), tests, &completions.iter().map(String::as_str).collect::<Vec<_>>()).await;
    assert_eq!(graded.scores[0], [Ok(2.0), Ok(0.5), Ok(0.0), Ok(0.0), Ok(0.0), Ok(0.0)]);
    let tests = json!({"inputs": ["3\n4"], "outputs": ["7"]});
    let reads = fenced("python", "print(int(input()) + int(input()))");
    assert_eq!(grade(python, tests, &[&reads]).await.scores[0], [Ok(2.0)]);
}

#[tokio::test]
async fn the_sandbox_that_was_reached_is_told() {
    let rewards = Rewards::new(&RewardsConfig { code: Some(shell()), ..RewardsConfig::default() }).unwrap();
    let lines = rewards.start().await.unwrap();
    assert!(lines[0].starts_with("reward code: code runs in the sandbox `"), "{lines:?}");
}

#[test]
fn impossible_settings_are_refused() {
    for bad in [
        CodeConfig { timeout_seconds: 0.0, ..CodeConfig::default() },
        CodeConfig { command: vec!["node".into()], ..CodeConfig::default() },
        CodeConfig { file: "../x".into(), ..CodeConfig::default() },
        CodeConfig { processes: 0, ..CodeConfig::default() },
        CodeConfig { perfect_bonus: f64::NAN, ..CodeConfig::default() },
    ] {
        assert!(bad.build(&NoModels).is_err());
    }
}
