//! A scoring program that works, dies, babbles or falls silent; all are shell scripts.

use super::super::{Graded, Rewards, RewardsConfig};
use super::*;

/// Reads the number of the item with the shell's own means.
const NUMBER: &str = r#"n=${line#*\"item\":}; n=${n%%[,\}]*};"#;

fn rewards(script: &str, change: impl FnOnce(&mut CommandConfig)) -> Rewards {
    let mut config = CommandConfig {
        program: ["sh", "-c", script].map(str::to_owned).to_vec(),
        timeout_seconds: 10.0,
        ..CommandConfig::default()
    };
    change(&mut config);
    Rewards::new(&RewardsConfig { command: Some(config), ..RewardsConfig::default() }).unwrap()
}

async fn grade(rewards: &Rewards, completions: &[&str]) -> Graded {
    let items: Vec<Item> = (completions.iter())
        .map(|c| {
            let meta = serde_json::json!({ "level": "hard\nvery" }).as_object().unwrap().clone();
            Item { completion: (*c).into(), meta, ..Item::default() }
        })
        .collect();
    rewards.grade(&items).await
}

fn failure(graded: &Graded, row: usize) -> String {
    graded.scores[0][row].as_ref().unwrap_err().to_string()
}

#[tokio::test]
async fn one_program_scores_the_whole_run() {
    let script = format!(
        r#"c=0; while read -r line; do {NUMBER} c=$((c+1));
        case $line in *'hard\nvery'*) echo "{{\"item\": $n, \"score\": 0.$c}}";; esac; done"#
    );
    let rewards = rewards(&script, |_| {});
    // The copy that is tried at the start is the one that works.
    assert!(rewards.start().await.unwrap().is_empty());
    for expected in [0.1, 0.2, 0.3] {
        assert_eq!(grade(&rewards, &["x"]).await.scores[0], [Ok(expected)]);
    }
    assert_eq!(rewards.figures(1).await, [("command/restarts".to_owned(), 0.0)]);
}

#[tokio::test]
async fn answers_may_come_in_any_order() {
    let script = format!(
        r#"while read -r line; do {NUMBER} read -r later; case $line in *right*) a=1; b=0;; *) a=0; b=1;; esac; m=$n;
        line=$later; {NUMBER} echo "{{\"item\": $n, \"score\": $b}}"; echo "{{\"item\": $m, \"score\": $a}}"; done"#
    );
    let graded = grade(&rewards(&script, |c| c.is_binary = true), &["right", "wrong"]).await;
    assert_eq!(graded.verdict, [Some(1.0), Some(0.0)]);
}

#[tokio::test]
async fn malformed_lines_and_reported_errors_fail_their_item_only() {
    let script = format!(
        r#"while read -r line; do {NUMBER} case $line in *babble*) echo "Loading model...";;
        *sorry*) echo "{{\"item\": $n, \"error\": \"cannot say\"}}";; *) echo "{{\"item\": $n, \"score\": 1}}";; esac; done"#
    );
    let rewards = rewards(&script, |c| c.at_once = 1);
    let graded = grade(&rewards, &["babble", "sorry", "fine"]).await;
    assert!(failure(&graded, 0).contains("`Loading model...`"), "{}", failure(&graded, 0));
    assert!(failure(&graded, 1).contains("cannot say"), "{}", failure(&graded, 1));
    assert_eq!(graded.scores[0][2], Ok(1.0));
}

#[tokio::test]
async fn a_program_that_dies_is_started_again_and_gives_up_on_what_kills_it() {
    let script = format!(
        r#"while read -r line; do {NUMBER} case $line in *poison*) echo boom >&2; exit 3;; esac;
        echo "{{\"item\": $n, \"score\": 1}}"; done"#
    );
    let rewards = rewards(&script, |c| c.at_once = 1);
    let graded = grade(&rewards, &["a", "poison", "b"]).await;
    assert_eq!((&graded.scores[0][0], &graded.scores[0][2]), (&Ok(1.0), &Ok(1.0)));
    let message = failure(&graded, 1);
    assert!(
        message.contains("exit status: 3") && message.contains("boom") && message.contains("2 attempts"),
        "{message}"
    );
    assert!(rewards.figures(1).await[0].1 >= 1.0);
}

#[tokio::test]
async fn a_silent_program_is_stopped_and_replaced() {
    let script = format!(
        r#"while read -r line; do {NUMBER} case $line in *stuck*) sleep 60;; esac;
        echo "{{\"item\": $n, \"score\": 1}}"; done"#
    );
    let rewards = rewards(&script, |c| (c.timeout_seconds, c.at_once) = (0.3, 1));
    let graded = grade(&rewards, &["stuck", "fine"]).await;
    assert!(failure(&graded, 0).contains("silent for 0.3 s"), "{}", failure(&graded, 0));
    assert_eq!(graded.scores[0][1], Ok(1.0));
}

#[tokio::test]
async fn a_program_that_cannot_run_is_found_at_the_start() {
    let missing = RewardsConfig {
        command: Some(CommandConfig { program: vec!["no-such-program-at-all".into()], ..CommandConfig::default() }),
        ..RewardsConfig::default()
    };
    let message = Rewards::new(&missing).unwrap().start().await.unwrap_err().to_string();
    assert!(message.contains("`no-such-program-at-all` cannot be started"), "{message}");
    let message = rewards("echo broken >&2; exit 1", |_| {}).start().await.unwrap_err().to_string();
    assert!(message.contains("exit status: 1") && message.contains("broken"), "{message}");
    assert!(rewards("cat", |_| {}).start().await.unwrap().is_empty());
}

#[test]
fn impossible_settings_are_refused() {
    for bad in [
        CommandConfig::default(),
        CommandConfig { program: vec!["cat".into()], workers: 0, ..CommandConfig::default() },
        CommandConfig { program: vec!["cat".into()], timeout_seconds: 0.0, ..CommandConfig::default() },
    ] {
        assert!(bad.build(&super::super::NoModels).is_err());
    }
}
