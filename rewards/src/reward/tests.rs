//! The registry, the choice of the verdict, and the handling of failures.

use super::*;

fn config(toml_like: serde_json::Value) -> Result<RewardsConfig, serde_json::Error> {
    serde_json::from_value(toml_like)
}

#[test]
fn every_reward_has_its_own_file_and_its_documentation() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/reward");
    let schema = serde_json::to_value(schemars::schema_for!(RewardsConfig)).unwrap();
    for name in RewardsConfig::NAMES {
        assert!(folder.join(format!("{name}.rs")).is_file(), "{name} has no file");
        assert!(schema["properties"].get(name).is_some(), "{name} is not in the schema");
    }
    for (name, definition) in schema["$defs"].as_object().unwrap() {
        assert!(definition["description"].as_str().is_some_and(|text| !text.is_empty()), "{name} is undocumented");
    }
}

#[test]
fn unknown_keys_and_empty_sections_are_refused() {
    assert!(config(serde_json::json!({ "maths": {} })).is_err());
    assert!(config(serde_json::json!({ "math": { "extracts": "auto" } })).is_err());
    assert!(config(serde_json::json!({ "length": { "shape": { "cosine": { "max": 1 } } } })).is_err());
    assert_eq!(config(serde_json::json!({})).unwrap().build(&NoModels).err(), Some(ConfigError::Empty));
    let share = config(serde_json::json!({ "math": {}, "max_failed_share": 1.5 })).unwrap();
    assert!(share.build(&NoModels).is_err());
}

#[test]
fn sections_survive_a_round_trip() {
    let written = serde_json::json!({
        "math": {}, "format": {}, "length": { "shape": { "cosine": {} } }, "overlong": {}, "repetition": {}, "verdict": "math",
        "choice": {}, "code": {}, "verifier": { "path": "model" }, "reward_model": { "path": "model" }, "length_scaled": {},
        "judge": { "base_url": "http://localhost:8000/v1", "model": "m" }, "command": { "program": ["cat"] },
        "http": { "url": "http://localhost:8000/score" }
    });
    let read = config(written).unwrap();
    assert_eq!(read.build(&NoModels).unwrap().len(), RewardsConfig::NAMES.len());
    let again = serde_json::to_value(&read).unwrap();
    assert_eq!(serde_json::to_value(config(again.clone()).unwrap()).unwrap(), again);
}

struct Fixed(&'static str, bool, f64);

#[async_trait]
impl Reward for Fixed {
    fn name(&self) -> &str {
        self.0
    }
    async fn score(&self, items: &[Item]) -> Vec<Result<f64, RewardError>> {
        items.iter().map(|_| Ok(self.2)).collect()
    }
    fn is_binary(&self) -> bool {
        self.1
    }
}

fn boxed(name: &'static str, is_binary: bool, value: f64) -> Box<dyn Reward> {
    Box::new(Fixed(name, is_binary, value))
}

#[test]
fn the_verdict_is_the_only_binary_reward_or_the_named_one() {
    let two = || vec![boxed("a", true, 1.0), boxed("b", true, 0.0)];
    assert_eq!(
        Rewards::with(vec![boxed("a", false, 0.0), boxed("b", true, 1.0)], None, 0.1).ok().unwrap().verdict(),
        Ok(1)
    );
    assert_eq!(Rewards::with(two(), Some("a"), 0.1).ok().unwrap().verdict(), Ok(0));
    let several = Rewards::with(two(), None, 0.1).ok().unwrap().verdict().unwrap_err();
    assert_eq!(several, ConfigError::AmbiguousVerdict { candidates: "`a`, `b`".into() });
    let none = Rewards::with(vec![boxed("a", false, 1.0)], None, 0.1).ok().unwrap().verdict().unwrap_err();
    assert_eq!(none, ConfigError::NoVerdict { present: "`a`".into() });
    let unknown = Rewards::with(two(), Some("c"), 0.1).err().unwrap();
    assert_eq!(unknown, ConfigError::UnknownVerdict { name: "c".into(), present: "`a`, `b`".into() });
}

#[test]
fn a_gated_reward_without_a_verdict_is_refused_when_it_is_built() {
    let gated = config(serde_json::json!({ "length": { "gate_length_on_correct": true } })).unwrap();
    assert!(matches!(Rewards::new(&gated), Err(ConfigError::NoVerdict { .. })));
    let circular =
        config(serde_json::json!({ "math": {}, "length": { "gate_length_on_correct": true }, "verdict": "length" }));
    assert!(matches!(Rewards::new(&circular.unwrap()), Err(ConfigError::CircularVerdict { .. })));
}

#[tokio::test]
async fn failures_stay_failures_and_are_counted() {
    let rewards = Rewards::new(&config(serde_json::json!({ "math": {}, "repetition": {} })).unwrap()).unwrap();
    let right = Item { answer: Some("1".into()), completion: "\\boxed{1}".into(), ..Item::default() };
    let unanswered = Item { answer: None, ..right.clone() };
    let graded = rewards.grade(&[right, unanswered]).await;
    assert_eq!(rewards.names(), ["math", "repetition"]);
    assert_eq!(graded.verdict, [Some(1.0), None]);
    assert_eq!(graded.scores[0][0], Ok(1.0));
    assert!(graded.scores[0][1].is_err());
    assert_eq!(graded.failed_share(0), 0.5);
    assert_eq!(graded.failed_share(1), 0.0);
    let (name, share, failure) = rewards.too_many_failures(&graded).unwrap();
    assert_eq!((name, share), ("math", 0.5));
    assert!(failure.to_string().starts_with("reward `math` needs a reference answer"), "{failure}");
}

#[tokio::test]
async fn a_score_that_is_not_finite_is_a_failure() {
    let rewards = Rewards::with(vec![boxed("a", true, f64::NAN)], None, 0.1).ok().unwrap();
    let graded = rewards.grade(&[Item::default()]).await;
    assert!(matches!(graded.scores[0][0], Err(RewardError::NonFinite { .. })));
    assert_eq!(graded.verdict, [None]);
}

/// Says how many items it was given at one time, and what verdict the first one had.
struct Counting {
    name: &'static str,
    is_verdict: bool,
    is_batched: bool,
}

#[async_trait]
impl Reward for Counting {
    fn name(&self) -> &str {
        self.name
    }
    async fn score(&self, items: &[Item]) -> Vec<Result<f64, RewardError>> {
        assert_ne!(items[0].completion, "panic");
        let verdict = items[0].verdict.unwrap_or(0.0);
        items
            .iter()
            .map(|item| Ok(item.completion_tokens as f64 + 100.0 * items.len() as f64 + 1000.0 * verdict))
            .collect()
    }
    fn is_binary(&self) -> bool {
        self.is_verdict
    }
    fn needs_verdict(&self) -> bool {
        !self.is_verdict
    }
    fn is_batched(&self) -> bool {
        self.is_batched
    }
}

fn counting(is_verdict_batched: bool, is_other_batched: bool) -> Rewards {
    let verdict = Counting { name: "verdict", is_verdict: true, is_batched: is_verdict_batched };
    let other = Counting { name: "other", is_verdict: false, is_batched: is_other_batched };
    Rewards::with(vec![Box::new(other), Box::new(verdict)], None, 0.1).ok().unwrap()
}

#[tokio::test]
async fn completions_are_scored_as_they_come_and_placed_by_index() {
    let item = |n: usize| Item { completion_tokens: n, ..Item::default() };
    for (is_verdict_batched, is_other_batched) in [(false, false), (false, true), (true, false), (true, true)] {
        let rewards = counting(is_verdict_batched, is_other_batched);
        let mut grading = rewards.begin(3, &tokio::runtime::Handle::current());
        [2, 0, 1].into_iter().for_each(|n| grading.push(n, item(n)));
        let scored = grading.scored();
        let graded = grading.finish().await;
        assert_eq!(scored.load(std::sync::atomic::Ordering::Relaxed), 6);
        // Batched rewards see all three at once, and so do those that had to wait for their verdict.
        let at_once = |is_batched: bool| if is_batched { 300.0 } else { 100.0 };
        let verdict: Vec<f64> = (0..3).map(|n| n as f64 + at_once(is_verdict_batched)).collect();
        assert_eq!(graded.verdict, verdict.iter().map(|v| Some(*v)).collect::<Vec<_>>());
        for (n, score) in graded.scores[0].iter().enumerate() {
            let waits = is_verdict_batched || is_other_batched;
            let first = if waits { verdict[0] } else { verdict[n] };
            assert_eq!(*score, Ok(n as f64 + at_once(waits) + 1000.0 * first));
        }
    }
}

#[tokio::test]
async fn what_never_came_and_what_panicked_has_failed() {
    let rewards = counting(false, false);
    let mut grading = rewards.begin(3, &tokio::runtime::Handle::current());
    grading.push(0, Item { completion: "panic".into(), ..Item::default() });
    grading.push(2, Item::default());
    let graded = grading.finish().await;
    assert_eq!(graded.verdict, [None, None, Some(100.0)]);
    assert!(graded.scores[0][0].is_err() && graded.scores[0][1].is_err());
    assert_eq!(graded.failed_share(0), 2.0 / 3.0);
}

#[test]
fn doubtful_data_are_told_by_the_reward_that_minds() {
    let rewards =
        Rewards::new(&config(serde_json::json!({ "math": {}, "repetition": {}, "code": {} })).unwrap()).unwrap();
    let mut item = Item { answer: Some("18".into()), ..Item::default() };
    item.meta.insert("tests".into(), serde_json::json!(["assert True"]));
    assert!(rewards.doubts(&item).is_empty());
    let doubts = rewards.doubts(&Item { answer: Some(r"\frac{1}{".into()), ..Item::default() });
    assert_eq!(doubts.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["math", "code"]);
    assert!(doubts[0].1.contains("cannot be read"), "{doubts:?}");
}

#[test]
fn rewards_that_compare_with_an_answer_say_so() {
    let of = |sections: serde_json::Value| {
        Rewards::new(&config(sections).unwrap()).unwrap().needs_answer().map(str::to_owned)
    };
    assert_eq!(of(serde_json::json!({ "repetition": {}, "math": {} })).as_deref(), Some("math"));
    assert_eq!(of(serde_json::json!({ "choice": {} })).as_deref(), Some("choice"));
    assert_eq!(of(serde_json::json!({ "verifier": { "path": "x" } })).as_deref(), Some("verifier"));
    assert_eq!(of(serde_json::json!({ "repetition": {} })), None);
}
