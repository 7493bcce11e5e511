//! Pairs of a right and a wrong worked solution: preferences whose truth is known.

use candlewick_algorithms::rng::Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Task, solution};
use crate::data::{Example, Problem, Prompt, Reply, Split};
use crate::model::chat_template::Message;

/// A right and a wrong solution for each problem, every step written out. For `9+5+7=`: `9+5=14;14+7=21` and
/// `9+5=14;14+7=23`. The wrong result is off by 1 to 9.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Pairs {
    /// Share of training pairs labelled the wrong way round, from 0 to 1; the row's field `flipped` says which. Held-out pairs
    /// are all labelled rightly.
    pub flipped: f64,
}

impl Pairs {
    /// The pair of a problem.
    pub(super) fn example(&self, problem: &Problem, task: &Task, split: Split, rng: &mut Rng) -> Example {
        let right = solution(task, 0);
        let off = 1 + rng.below(9) as i128;
        let is_less = rng.below(2) == 0 && task.answer >= off;
        let wrong = if is_less { task.answer - off } else { task.answer + off };
        let stem = right.strip_suffix(&task.answer.to_string()).unwrap_or(&right);
        let wrong = format!("{stem}{wrong}");
        let is_flipped = rng.uniform() < self.flipped && split == Split::Train;
        let (chosen, rejected) = if is_flipped { (wrong, right) } else { (right, wrong) };
        let reply = |text: String| match &problem.prompt {
            Prompt::Text(_) => Reply::Text(text),
            Prompt::Messages(_) => Reply::Messages(vec![Message::assistant(text)]),
        };
        let mut problem = problem.clone();
        problem.meta.insert("flipped".into(), json!(is_flipped));
        Example::Preference { problem, chosen: reply(chosen), rejected: reply(rejected) }
    }
}
