//! Open prompts: sets without reference answers, on which nothing is right or wrong and only a judge can compare.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema::{Data, Protocol};
use super::table::percent;
use super::{TRUNCATED, asked};
use crate::metrics::{Lengths, Share, WinRate, lengths};
use crate::sample::{Completion, Finish};

/// A set of open prompts in a report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Open {
    /// The prompts.
    pub data: Data,
    /// How they were asked; the grader is empty.
    pub protocol: Protocol,
    /// Samples a prompt.
    pub samples: usize,
    /// Lengths in tokens of what was generated; all of it counts as right in its histogram.
    pub lengths: Lengths,
    /// Samples cut by the token limit.
    pub truncated: Share,
    /// Other models on the same prompts, the base model first.
    #[serde(default)]
    pub against: Vec<OpenAgainst>,
    /// What to know before the numbers are believed.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// Another model on the same open prompts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct OpenAgainst {
    /// Short name (`base`).
    pub label: String,
    /// Lengths in tokens of its answers.
    pub lengths: Lengths,
    /// Its samples cut by the token limit.
    pub truncated: Share,
    /// How often this report's model beats it.
    #[serde(default)]
    pub win_rates: Vec<WinRate>,
    /// What of the asking differs, each as `temperature 1, not 0`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub differences: Vec<String>,
}

impl Open {
    /// From what was generated, `samples` a prompt.
    pub fn new(data: Data, protocol: Protocol, samples: usize, completions: &[Completion]) -> Self {
        let (lengths, truncated) = measured(completions);
        let mut warnings = Vec::new();
        if truncated.share > TRUNCATED {
            warnings.push(format!(
                "{} of the completions were cut at {} tokens: raise the limit",
                percent(truncated.share),
                protocol.max_tokens
            ));
        }
        Self { data, protocol, samples, lengths, truncated, against: Vec::new(), warnings }
    }

    /// Head and rows: one row a model and set, the others first; empty without a set.
    pub(super) fn rows(sets: &[Self], label: &str) -> Vec<Vec<String>> {
        let mut rows =
            vec![["open prompts", "model", "prompts", "samples", "truncated", "tokens"].map(String::from).to_vec()];
        for set in sets {
            let others = set.against.iter().rev().map(|other| (other.label.as_str(), &other.lengths, &other.truncated));
            for (model, lengths, truncated) in others.chain([(label, &set.lengths, &set.truncated)]) {
                rows.push(vec![
                    set.data.benchmark.clone(),
                    model.to_owned(),
                    set.data.items.to_string(),
                    set.samples.to_string(),
                    percent(truncated.share),
                    format!("{:.0}", lengths.mean),
                ]);
            }
        }
        if sets.is_empty() { Vec::new() } else { rows }
    }
}

impl OpenAgainst {
    /// Another model's completions of the same prompts.
    pub fn new(label: &str, completions: &[Completion], win_rates: Vec<WinRate>) -> Self {
        let (lengths, truncated) = measured(completions);
        Self { label: label.to_owned(), lengths, truncated, win_rates, differences: Vec::new() }
    }

    /// What to know before the comparison is believed; nothing where both models were asked alike.
    pub fn doubt(&self) -> Option<String> {
        asked::doubt(&self.label, &self.differences)
    }
}

fn measured(completions: &[Completion]) -> (Lengths, Share) {
    let asked = completions.iter().filter(|completion| completion.finish != Finish::Unasked);
    let tokens: Vec<(usize, bool)> = asked.map(|completion| (completion.tokens, true)).collect();
    let count = completions.iter().filter(|completion| completion.finish == Finish::Length).count();
    (lengths(&tokens), Share { count, share: count as f64 / completions.len().max(1) as f64 })
}
