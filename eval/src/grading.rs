//! What evaluation asks of a grader: a verdict on one completion, and whether two answers are the same.
//!
//! The grader itself lives in the rewards crate, so that training and evaluation judge alike; here are the
//! shape in which evaluation receives verdicts, and the grader and its peers' modes in that shape.

use candlewick_rewards::math::compat::{self, Mode};
use candlewick_rewards::math::extract::{self, Extract, Extraction};
use candlewick_rewards::math::{self, GradeConfig};
use candlewick_rewards::reward::math::MathConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::benchmark::Item;

/// A grader's decision on one completion.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Verdict {
    /// Whether the final answer is right.
    pub correct: bool,
    /// The answer found in the completion, as written there; `None` when there was none.
    pub extracted: Option<String>,
    /// Why it was refused, in the grader's own word (`no_answer`, `unparsable`, `different`, ...); empty when right.
    pub reason: String,
    /// How the answer was compared (`integer`, `symbolic`, `text`, ...).
    pub method: String,
    /// Remarks that do not decide (`unit_dropped`, `gold_unparsable`, ...).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<String>,
}

/// Reason of a verdict on a completion that holds no answer.
pub const NO_ANSWER: &str = "no_answer";
/// Reason of a verdict on an answer that could not be read.
pub const UNPARSABLE: &str = "unparsable";
/// Reason of a verdict whose comparison ran out of time.
pub const TIMEOUT: &str = "timeout";

/// Reason of a verdict on a problem whose prompt leaves no room in the model's context.
pub const PROMPT_TOO_LONG: &str = "prompt_too_long";

/// A grader: pure, bounded in time, and safe to call from many threads at once.
pub trait Grade: Send + Sync {
    /// Name of the mode, as it stands in reports (`math`, `gsm8k_strict`, ...).
    fn name(&self) -> &str;

    /// Judges `completion` as an answer to `item`.
    fn grade(&self, item: &Item, completion: &str) -> Verdict;

    /// Whether two extracted answers say the same thing, so that they vote together in maj@k.
    fn equivalent(&self, a: &str, b: &str) -> bool {
        a.trim() == b.trim()
    }

    /// Version and settings, in a form that tells two configurations apart.
    fn settings(&self) -> String {
        String::new()
    }
}

/// The rewards crate's grader under one configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct MathGrader {
    /// Name in reports.
    pub name: String,
    /// How it extracts and compares.
    pub config: GradeConfig,
}

impl MathGrader {
    /// The grader as it judges by default, named `math`.
    pub fn new(config: GradeConfig) -> Self {
        Self { name: "math".to_owned(), config }
    }

    /// The grader as the `math` reward with these settings judges, named `math`.
    pub fn of(reward: &MathConfig) -> Self {
        let mut config = GradeConfig { policy: reward.policy.clone(), ..GradeConfig::default() };
        config.extraction.mode = reward.extract;
        config.extraction.allow_unanchored = reward.allow_unanchored;
        Self::new(config)
    }

    /// The grader of benchmarks, named `math`: an answer may stand wherever a careful reader would take it from.
    pub fn of_benchmarks() -> Self {
        Self::of(&MathConfig { allow_unanchored: true, ..MathConfig::default() })
    }

    /// The most lenient extraction, named `lenient`: the last number of the text, wherever it stands. Beside the
    /// primary accuracy it tells learning the answer's form from learning the answer.
    pub fn lenient(config: GradeConfig) -> Self {
        let extraction = Extraction { mode: Extract::LastNumber, ..config.extraction.clone() };
        Self { name: "lenient".to_owned(), config: GradeConfig { extraction, ..config } }
    }
}

impl Grade for MathGrader {
    fn name(&self) -> &str {
        &self.name
    }

    fn grade(&self, item: &Item, completion: &str) -> Verdict {
        let relative = relative_tolerance(item);
        let config = match relative {
            None => std::borrow::Cow::Borrowed(&self.config),
            Some(tolerance) => {
                let mut config = self.config.clone();
                config.policy.rel_tol = Some(tolerance);
                std::borrow::Cow::Owned(config)
            }
        };
        let verdict = math::grade(&item.answer, completion, &config);
        Verdict {
            correct: verdict.correct,
            extracted: verdict.extracted,
            reason: verdict.reason.map_or_else(String::new, |reason| word(&reason)),
            method: word(&verdict.method),
            flags: verdict.flags.iter().map(word).collect(),
        }
    }

    fn equivalent(&self, a: &str, b: &str) -> bool {
        math::equivalent(a, b, &self.config)
    }

    fn settings(&self) -> String {
        serde_json::to_string(&self.config).expect("a plain struct serialises")
    }
}

/// The graders that a report holds against the primary one: the most lenient extraction and other tools' modes.
pub fn others() -> Vec<Box<dyn Grade>> {
    let config = GradeConfig::default();
    let peers = Mode::ALL.into_iter().filter(|mode| *mode != Mode::Primary);
    let lenient: Box<dyn Grade> = Box::new(MathGrader::lenient(config.clone()));
    std::iter::once(lenient)
        .chain(peers.map(|mode| Box::new(PeerGrader::new(mode, config.clone())) as Box<dyn Grade>))
        .collect()
}

/// An item's absolute tolerance as a share of its reference, which is what the grader knows; `None` without
/// one, or when the reference is no plain number other than zero.
fn relative_tolerance(item: &Item) -> Option<f64> {
    let size = item.answer.trim().parse::<f64>().ok()?.abs();
    item.tolerance.map(|tolerance| tolerance / size).filter(|relative| relative.is_finite())
}

/// An enum's name as it is written in reports.
fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}

/// Another tool's way of grading, for comparison with published numbers.
///
/// Its verdicts hold the extracted answer in the two GSM8K modes only; [`Grade::equivalent`] is string equality, so it
/// is not for maj@k.
#[derive(Debug, Clone, PartialEq)]
pub struct PeerGrader {
    name: String,
    mode: Mode,
    config: GradeConfig,
}

impl PeerGrader {
    /// That mode; named as it is written in a configuration (`gsm8k_strict`, `math_verify`, ...).
    pub fn new(mode: Mode, config: GradeConfig) -> Self {
        Self { name: word(&mode), mode, config }
    }
}

impl Grade for PeerGrader {
    fn name(&self) -> &str {
        &self.name
    }

    fn grade(&self, item: &Item, completion: &str) -> Verdict {
        let correct = compat::is_correct(self.mode, &item.answer, completion, &self.config);
        let (extracted, is_shown) = match self.mode {
            Mode::Gsm8kStrict => (extract::gsm8k_strict(completion), true),
            Mode::Gsm8kFlexible => (extract::gsm8k_flexible(completion), true),
            _ => (None, false),
        };
        let reason = match (correct, is_shown && extracted.is_none()) {
            (true, _) => String::new(),
            (_, true) => NO_ANSWER.to_owned(),
            _ => "different".to_owned(),
        };
        Verdict { correct, extracted, reason, method: self.name.clone(), flags: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(answer: &str, tolerance: Option<f64>) -> Item {
        Item {
            id: "0".into(),
            problem: "p".into(),
            answer: answer.into(),
            solution: None,
            groups: Default::default(),
            tolerance,
        }
    }

    #[test]
    fn verdicts_carry_the_grader_s_own_words() {
        let grader = MathGrader::new(GradeConfig::default());
        let right = grader.grade(&item("1/2", None), r"so \boxed{\frac{1}{2}}");
        assert!(right.correct && right.reason.is_empty(), "{right:?}");
        let silent = grader.grade(&item("1/2", None), "");
        assert_eq!((silent.correct, silent.reason.as_str()), (false, NO_ANSWER));
        assert_eq!(grader.grade(&item("2", None), r"\boxed{3}").reason, "different");
        assert!(grader.equivalent("0.5", r"\frac12") && !grader.equivalent("1", "2"));
        assert!(grader.settings().contains("extraction"));
    }

    #[test]
    fn the_item_s_tolerance_is_absolute() {
        let grader = MathGrader::new(GradeConfig::default());
        assert!(grader.grade(&item("4.2", Some(0.1)), r"\boxed{4.25}").correct);
        assert!(!grader.grade(&item("4.2", Some(0.1)), r"\boxed{4.4}").correct);
        assert!(!grader.grade(&item("4.2", None), r"\boxed{4.25}").correct);
    }

    #[test]
    fn peers_and_lenient_extraction_differ_from_the_primary() {
        let config = GradeConfig::default();
        let text = r"\boxed{5}, and then 7";
        assert!(MathGrader::lenient(config.clone()).grade(&item("7", None), text).correct);
        assert!(!MathGrader::new(config.clone()).grade(&item("7", None), text).correct);
        let strict = PeerGrader::new(Mode::Gsm8kStrict, config);
        assert_eq!(strict.name(), "gsm8k_strict");
        assert!(strict.grade(&item("7", None), "#### 7").correct && !strict.grade(&item("7", None), text).correct);
        assert_eq!(strict.grade(&item("7", None), "#### 1,008").extracted.as_deref(), Some("1008"));
        assert_eq!(strict.grade(&item("7", None), text).reason, NO_ANSWER);
        let names: Vec<String> = others().iter().map(|grader| grader.name().to_owned()).collect();
        assert_eq!(names[0], "lenient");
        assert!(names.contains(&"math_verify".to_owned()) && !names.contains(&"primary".to_owned()), "{names:?}");
    }
}
