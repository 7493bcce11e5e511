//! Pairs of a right and a wrong worked solution: preferences whose truth is known.

use candlewick_algorithms::rng::Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Task, solution};
use crate::data::{Example, Problem, Prompt, Reply, Split, Worth};
use crate::model::chat_template::Message;

/// A right and a wrong solution for each problem, every step written out. For `9+5+7=`: `9+5=14;14+7=21` and
/// `9+5=14;14+7=23`. The wrong result is off by 1 to 9.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Pairs {
    /// Share of training pairs labelled the wrong way round, from 0 to 1; the row's field `flipped` says which. Held-out pairs
    /// are all labelled rightly.
    pub flipped: f64,
    /// Solutions of a problem, 2 to 10. Above 2 a training row is a list with scores: 0 for the right solution, minus the error
    /// for the others; flipped, the right one and another have changed their scores. Held-out rows are pairs.
    #[schemars(range(min = 2, max = 10))]
    pub candidates: usize,
}

impl Default for Pairs {
    fn default() -> Self {
        Self { flipped: 0.0, candidates: 2 }
    }
}

impl Pairs {
    /// The pair, or the list, of a problem.
    pub(super) fn example(&self, problem: &Problem, task: &Task, split: Split, rng: &mut Rng) -> Example {
        if self.candidates > 2 && split == Split::Train {
            return self.list(problem, task, rng);
        }
        let right = solution(task, 0);
        let off = 1 + rng.below(9) as i128;
        let wrong = wrong(task, &right, off, rng);
        let is_flipped = rng.uniform() < self.flipped && split == Split::Train;
        let (chosen, rejected) = if is_flipped { (wrong, right) } else { (right, wrong) };
        let (chosen, rejected) = (reply(problem, chosen), reply(problem, rejected));
        let mut problem = problem.clone();
        problem.meta.insert("flipped".into(), json!(is_flipped));
        Example::Preference { problem, chosen, rejected }
    }

    fn list(&self, problem: &Problem, task: &Task, rng: &mut Rng) -> Example {
        let right = solution(task, 0);
        let mut errors: Vec<i128> = (1..=9).collect();
        rng.shuffle(&mut errors);
        let errors = &errors[..self.candidates - 1];
        let wrong = errors.iter().map(|&off| wrong(task, &right, off, rng));
        let candidates: Vec<Reply> =
            std::iter::once(right.clone()).chain(wrong).map(|text| reply(problem, text)).collect();
        let mut scores: Vec<f64> = std::iter::once(0.0).chain(errors.iter().map(|&off| -(off as f64))).collect();
        let is_flipped = rng.uniform() < self.flipped;
        if is_flipped {
            let other = 1 + rng.below(errors.len() as u64) as usize;
            scores.swap(0, other);
        }
        let mut problem = problem.clone();
        problem.meta.insert("flipped".into(), json!(is_flipped));
        Example::Ranked { problem, candidates, worth: Worth::Scores(scores) }
    }
}

/// The right solution with a result that is off by so much, upwards or downwards.
fn wrong(task: &Task, right: &str, off: i128, rng: &mut Rng) -> String {
    let is_less = rng.below(2) == 0 && task.answer >= off;
    let wrong = if is_less { task.answer - off } else { task.answer + off };
    format!("{}{wrong}", right.strip_suffix(&task.answer.to_string()).unwrap_or(right))
}

/// A reply in the form of the problem's prompt.
fn reply(problem: &Problem, text: String) -> Reply {
    match &problem.prompt {
        Prompt::Text(_) => Reply::Text(text),
        Prompt::Messages(_) => Reply::Messages(vec![Message::assistant(text)]),
    }
}
