//! What evaluation asks of a grader: a verdict on one completion, and whether two answers are the same.
//!
//! The graders themselves live in the rewards crate, so that training and evaluation judge alike; this
//! module holds only the shape in which evaluation receives their verdicts.

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
