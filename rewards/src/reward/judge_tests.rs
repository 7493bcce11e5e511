//! The judge and the scoring service against a server on loopback.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::super::http::HttpConfig;
use super::super::loopback::{Answer, Loopback};
use super::super::{Graded, NoModels, Rewards, RewardsConfig};
use super::*;

fn item(completion: &str) -> Item {
    Item {
        question: "What is 9 + 9?".into(),
        completion: completion.into(),
        answer: Some("18".into()),
        ..Item::default()
    }
}

fn quick() -> ServiceConfig {
    ServiceConfig { backoff_seconds: 0.01, timeout_seconds: 2.0, ..ServiceConfig::default() }
}

fn config(url: &str) -> JudgeConfig {
    JudgeConfig { base_url: format!("{url}/v1"), model: "m".into(), service: quick(), ..JudgeConfig::default() }
}

fn rewards(judge: JudgeConfig) -> Rewards {
    Rewards::new(&RewardsConfig { judge: Some(judge), ..RewardsConfig::default() }).unwrap()
}

fn said(word: &str) -> Value {
    json!({ "choices": [{ "message": { "content": word } }] })
}

fn likely(yes: f64, no: f64) -> Value {
    let top = json!([
        { "token": " YES", "logprob": (yes * 0.75).ln() }, { "token": "yes", "logprob": (yes * 0.25).ln() },
        { "token": "NO", "logprob": no.ln() }, { "token": "Maybe", "logprob": (1.0 - yes - no).ln() },
    ]);
    json!({ "choices": [{ "message": { "content": "YES" }, "logprobs": { "content": [{ "top_logprobs": top }] } }] })
}

async fn grade(rewards: &Rewards, completions: &[&str]) -> Graded {
    rewards.grade(&completions.iter().map(|c| item(c)).collect::<Vec<_>>()).await
}

fn failure(graded: &Graded) -> String {
    graded.scores[0][0].as_ref().unwrap_err().to_string()
}

#[tokio::test]
async fn token_probabilities_make_a_soft_score_and_requests_say_what_they_should() {
    let server = Loopback::new(|_, _| Answer::Json(likely(0.6, 0.2)));
    let graded = grade(&rewards(config(&server.url)), &[r"\boxed{18}"]).await;
    let score = graded.scores[0][0].clone().unwrap();
    assert!((score - 0.75).abs() < 1e-12, "{score}");
    let asked = server.asked.lock().unwrap()[0].clone();
    assert_eq!(asked.path, "/v1/chat/completions");
    assert_eq!(asked.body["temperature"], 0);
    assert_eq!((&asked.body["logprobs"], &asked.body["top_logprobs"]), (&json!(true), &json!(20)));
    let prompt = asked.body["messages"][0]["content"].as_str().unwrap();
    for part in ["What is 9 + 9?", "<<<student\n18\nstudent>>>", "<<<reference\n18\nreference>>>", "YES if it matches"]
    {
        assert!(prompt.contains(part), "`{part}` is not in {prompt}");
    }
    assert!(!asked.headers.to_lowercase().contains("authorization"));
}

#[tokio::test]
async fn too_little_mass_is_missing_and_not_zero() {
    let server = Loopback::new(|_, _| Answer::Json(likely(0.2, 0.1)));
    let graded = grade(&rewards(config(&server.url)), &[r"\boxed{18}"]).await;
    assert!(failure(&graded).contains("no verdict"), "{}", failure(&graded));
}

#[tokio::test]
async fn without_token_probabilities_the_first_word_counts() {
    let server = Loopback::new(|n, _| Answer::Json(said(["yes.", "NO", "Perhaps yes"][n])));
    let mut one = config(&server.url);
    one.service.concurrency = 1;
    let rewards = rewards(one);
    let mut scores = Vec::new();
    for answer in [r"\boxed{18}", r"\boxed{19}", r"\boxed{20}"] {
        scores.push(grade(&rewards, &[answer]).await.scores[0][0].clone().ok());
    }
    assert_eq!(scores, [Some(1.0), Some(0.0), None]);
}

#[tokio::test]
async fn what_is_no_answer_earns_zero_without_a_request() {
    let server = Loopback::new(|_, _| Answer::Json(said("YES")));
    let graded = grade(&rewards(config(&server.url)), &["", r"\boxed{:}", r"\boxed{\text{Solution}}", "so 18"]).await;
    assert_eq!(graded.scores[0], vec![Ok(0.0); 4]);
    assert_eq!(server.count(), 0);
}

#[tokio::test]
async fn a_rubric_reads_the_first_object_and_refuses_what_is_off_the_scale() {
    let answers = ["fine: {\"score\": 7.5} {\"score\": 0}", "{\"score\": 11}", "none", "{\"score\": \"5\"}"];
    let server = Loopback::new(move |n, _| Answer::Json(said(answers[n])));
    let rewards = rewards(JudgeConfig { mode: JudgeMode::Rubric(RubricConfig::default()), ..config(&server.url) });
    let mut scores = Vec::new();
    for answer in ["1", "2", "3", "4"] {
        scores.push(grade(&rewards, &[&format!("\\boxed{{{answer}}}")]).await.scores[0][0].clone().ok());
    }
    assert_eq!(scores, [Some(0.75), None, None, Some(0.5)]);
}

#[tokio::test]
async fn a_busy_service_is_asked_again_when_it_says() {
    let server = Loopback::new(|n, _| match n {
        0 => Answer::Raw(429, "Retry-After: 1\r\n", "slow down".into()),
        1 => Answer::Raw(503, "", "not yet".into()),
        2 => Answer::Drop,
        3 => Answer::Raw(200, "", "{\"choices\": [".into()),
        _ => Answer::Json(said("YES")),
    });
    let started = Instant::now();
    let rewards = rewards(config(&server.url));
    assert_eq!(grade(&rewards, &[r"\boxed{18}"]).await.scores[0], [Ok(1.0)]);
    assert!(started.elapsed() >= Duration::from_secs(1), "Retry-After was not heeded");
    assert_eq!(server.count(), 5);
    let figures = rewards.figures(1).await;
    assert!(figures.contains(&("judge/retries".into(), 4.0)), "{figures:?}");
}

#[tokio::test]
async fn a_refusal_is_final_and_its_text_is_kept() {
    let server = Loopback::new(|_, _| Answer::Raw(404, "", "no such model".into()));
    let graded = grade(&rewards(config(&server.url)), &[r"\boxed{18}"]).await;
    assert_eq!(server.count(), 1);
    assert!(failure(&graded).contains("404") && failure(&graded).contains("no such model"), "{}", failure(&graded));
}

#[tokio::test]
async fn a_slow_service_times_out_and_is_counted() {
    let server = Loopback::new(|_, _| Answer::Late(Duration::from_millis(400), said("YES")));
    let mut slow = config(&server.url);
    (slow.service.timeout_seconds, slow.service.retries) = (0.1, 1);
    let rewards = rewards(slow);
    let graded = grade(&rewards, &[r"\boxed{18}"]).await;
    assert!(failure(&graded).contains("after 2 attempts"), "{}", failure(&graded));
    assert!(rewards.figures(1).await.contains(&("judge/timeouts".into(), 2.0)));
}

#[tokio::test]
async fn a_service_that_is_down_is_given_up_for_the_step() {
    let server = Loopback::new(|_, _| Answer::Raw(400, "", String::new()));
    let mut down = config(&server.url);
    (down.service.max_consecutive_failures, down.service.concurrency) = (3, 1);
    let rewards = rewards(down);
    let completions: Vec<String> = (0..10).map(|n| format!("\\boxed{{{n}}}")).collect();
    let graded = grade(&rewards, &completions.iter().map(String::as_str).collect::<Vec<_>>()).await;
    assert_eq!(server.count(), 3);
    assert!(graded.scores[0].iter().any(|s| s.as_ref().unwrap_err().to_string().contains("in a row have failed")));
    // The next step tries again.
    rewards.figures(1).await;
    grade(&rewards, &[r"\boxed{18}"]).await;
    assert_eq!(server.count(), 4);
}

#[tokio::test]
async fn no_more_requests_at_one_time_than_allowed_and_equal_ones_are_one() {
    let server = Loopback::new(|_, _| Answer::Late(Duration::from_millis(20), said("YES")));
    let mut narrow = config(&server.url);
    narrow.service.concurrency = 3;
    let rewards = rewards(narrow);
    let completions: Vec<String> = (0..24).map(|n| format!("\\boxed{{{}}}", n % 12)).collect();
    let graded = grade(&rewards, &completions.iter().map(String::as_str).collect::<Vec<_>>()).await;
    assert!(graded.scores[0].iter().all(|score| *score == Ok(1.0)));
    assert_eq!(server.count(), 12);
    assert!((2..=3).contains(&server.most.load(Ordering::SeqCst)), "{}", server.most.load(Ordering::SeqCst));
}

#[tokio::test]
async fn the_cache_answers_for_a_resumed_run_and_survives_a_cut_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run/judge-cache.jsonl");
    let server = Loopback::new(|_, _| Answer::Json(likely(0.6, 0.2)));
    let cached = JudgeConfig { cache: Some(path.clone()), ..config(&server.url) };
    let first = grade(&rewards(cached.clone()), &[r"\boxed{18}", r"\boxed{19}"]).await;
    assert_eq!(server.count(), 2);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(!text.contains("9 + 9"), "no text is stored");
    std::fs::write(&path, format!("{text}{{\"key\": \"ab")).unwrap();
    let resumed = rewards(cached.clone());
    assert_eq!(resumed.start().await.unwrap(), ["reward judge: 2 scores are in the cache and are not asked for again"]);
    let second = grade(&resumed, &[r"\boxed{18}", r"\boxed{19}", r"\boxed{20}"]).await;
    assert_eq!(server.count(), 3);
    assert_eq!(second.scores[0][..2], first.scores[0][..]);
    assert_eq!(grade(&rewards(cached.clone()), &[r"\boxed{20}"]).await.scores[0].len(), 1);
    assert_eq!(server.count(), 3);
    // Other settings are other questions.
    grade(&rewards(JudgeConfig { seed: Some(7), ..cached }), &[r"\boxed{18}"]).await;
    assert_eq!(server.count(), 4);
}

#[tokio::test]
async fn the_key_comes_from_the_environment_and_must_be_there() {
    let server = Loopback::new(|_, _| Answer::Json(said("YES")));
    let mut keyed = config(&server.url);
    // A variable that is there whoever starts the test: setting one would be unsafe beside other tests.
    let key = std::env::var("PATH").unwrap();
    keyed.service.key_env = Some("PATH".into());
    grade(&rewards(keyed.clone()), &[r"\boxed{18}"]).await;
    let headers = server.asked.lock().unwrap()[0].headers.to_lowercase();
    assert!(headers.contains(&format!("authorization: bearer {}", key.trim().to_lowercase())), "{headers}");
    keyed.service.key_env = Some("CANDLEWICK_NO_SUCH_KEY".into());
    let message = rewards(keyed).start().await.unwrap_err().to_string();
    assert!(message.contains("`CANDLEWICK_NO_SUCH_KEY`"), "{message}");
}

#[tokio::test]
async fn canaries_find_a_judge_that_says_yes_to_everything() {
    for (word, expected) in [("YES", 1.0), ("NO", 0.0)] {
        let server = Loopback::new(move |_, _| Answer::Json(said(word)));
        let rewards = rewards(config(&server.url));
        grade(&rewards, &[r"\boxed{18}"]).await;
        let figures = rewards.figures(10).await;
        assert!(figures.contains(&("judge/canaries_accepted".into(), expected)), "{figures:?}");
        assert!(!rewards.figures(11).await.iter().any(|(name, _)| name.contains("canaries")));
    }
}

#[tokio::test]
async fn the_rate_limit_spreads_requests() {
    let server = Loopback::new(|_, _| Answer::Json(said("YES")));
    let mut limited = config(&server.url);
    limited.service.requests_per_minute = Some(600.0);
    let started = Instant::now();
    grade(&rewards(limited), &[r"\boxed{1}", r"\boxed{2}", r"\boxed{3}"]).await;
    assert!(started.elapsed() >= Duration::from_millis(200));
}

#[test]
fn impossible_settings_are_refused_with_their_key() {
    let good = config("http://localhost:1");
    let refused = |config: JudgeConfig| config.build(&NoModels).err().unwrap().to_string();
    for (config, key) in [
        (JudgeConfig { base_url: String::new(), ..good.clone() }, "judge.base_url"),
        (JudgeConfig { base_url: "ftp://x".into(), ..good.clone() }, "judge.base_url"),
        (JudgeConfig { base_url: "http://me:secret@x/v1".into(), ..good.clone() }, "judge.base_url"),
        (JudgeConfig { model: String::new(), ..good.clone() }, "judge.model"),
        (
            JudgeConfig { service: ServiceConfig { timeout_seconds: 0.0, ..quick() }, ..good.clone() },
            "judge.service.timeout_seconds",
        ),
        (
            JudgeConfig {
                mode: JudgeMode::Rubric(RubricConfig { template: "{{".into(), ..RubricConfig::default() }),
                ..good.clone()
            },
            "judge.mode.rubric.template",
        ),
    ] {
        let message = refused(config);
        assert!(message.contains(key) && !message.contains("secret"), "{message}");
    }
}

fn http(url: &str, batch: Option<usize>) -> Rewards {
    let http = HttpConfig { url: url.into(), batch, service: quick(), ..HttpConfig::default() };
    Rewards::new(&RewardsConfig { http: Some(http), ..RewardsConfig::default() }).unwrap()
}

#[tokio::test]
async fn a_scoring_service_sees_every_column_and_may_fail_single_items() {
    let server = Loopback::new(|_, body| {
        let scores: Vec<Value> = (body["items"].as_array().unwrap().iter())
            .map(|item| match item["completion"].as_str().unwrap() {
                "good" => item["meta"]["level"].clone(),
                "null" => Value::Null,
                "text" => json!("1"),
                _ => json!({ "error": "too odd" }),
            })
            .collect();
        Answer::Json(json!({ "scores": scores }))
    });
    for batch in [None, Some(3)] {
        let before = server.count();
        let items: Vec<Item> = (["good", "null", "text", "odd"].iter())
            .map(|c| Item { meta: json!({ "level": 0.25 }).as_object().unwrap().clone(), ..item(c) })
            .collect();
        let graded = http(&server.url, batch).grade(&items).await;
        let messages: Vec<String> =
            graded.scores[0].iter().map(|s| s.as_ref().map_or_else(ToString::to_string, ToString::to_string)).collect();
        assert_eq!(messages[0], "0.25");
        assert!(messages[1].contains("no score") && messages[2].contains("`\"1\"`") && messages[3].contains("too odd"));
        assert_eq!(server.count() - before, if batch.is_some() { 2 } else { 4 });
    }
}

#[tokio::test]
async fn a_service_that_answers_something_else_fails_every_item() {
    for (answer, why) in [(json!({ "scores": [] }), "0 scores came back for 1"), (json!([1]), "no list `scores`")] {
        let server = Loopback::new(move |_, _| Answer::Json(answer.clone()));
        let graded = http(&server.url, None).grade(&[item("x")]).await;
        assert!(failure(&graded).contains(why), "{}", failure(&graded));
    }
}
