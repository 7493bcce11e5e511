//! Completions before and after grading: the record a runner hands in, and the one statistics and reports use.

use std::collections::HashMap;

use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::benchmark::{Benchmark, Item};
use crate::grading::{Grade, Verdict};
use crate::{Error, Result};

/// Why generation stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// The model ended the text itself, or a stop rule was met.
    Stop,
    /// The token limit cut it.
    Length,
    /// Nothing was generated: the prompt leaves no room in the model's context.
    Unasked,
}

/// One generated completion, not yet graded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Completion {
    /// Id of the problem it answers.
    pub item: String,
    /// Which of the problem's samples it is, from 0.
    pub index: usize,
    /// The problem as the data state it, without template; empty in files of versions that kept none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub problem: String,
    /// The prompt as rendered, chat template included.
    pub prompt: String,
    /// The generated text.
    pub text: String,
    /// Generated tokens, the end-of-text token counted.
    pub tokens: usize,
    /// Why it stopped.
    pub finish: Finish,
    /// Sum of the log-probabilities of the generated tokens, in nats, when known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logp: Option<f64>,
    /// Ids of the generated tokens, where the runner keeps them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ids: Vec<u32>,
}

/// One graded completion.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Sample {
    /// What was generated.
    #[serde(flatten)]
    pub completion: Completion,
    /// What the grader says of it.
    pub verdict: Verdict,
    /// The reference answer it was judged against.
    pub answer: String,
    /// Other graders that accept it where the primary one refuses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub accepted_by: Vec<String>,
}

impl Sample {
    /// Whether the token limit cut the completion.
    pub fn is_truncated(&self) -> bool {
        self.completion.finish == Finish::Length
    }
}

/// Grades completions on all cores; the result keeps their order.
///
/// Errors: [`Error::UnknownItem`] when a completion names a problem not in `items`.
pub fn grade(
    benchmark: &dyn Benchmark,
    grader: &dyn Grade,
    items: &[Item],
    completions: Vec<Completion>,
) -> Result<Vec<Sample>> {
    let by_id: HashMap<&str, &Item> = items.iter().map(|item| (item.id.as_str(), item)).collect();
    completions
        .into_par_iter()
        .map(|completion| {
            let item = by_id
                .get(completion.item.as_str())
                .ok_or_else(|| Error::UnknownItem { id: completion.item.clone() })?;
            let verdict = benchmark.grade(grader, item, &completion.text);
            Ok(Sample { verdict, answer: item.answer.clone(), accepted_by: Vec::new(), completion })
        })
        .collect()
}
