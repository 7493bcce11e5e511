//! Success statistics of each prompt, kept across steps and checkpoints.

use std::collections::BTreeMap;

/// Identity of a prompt: its index in the training set.
pub type PromptId = usize;

/// What is known of one prompt.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Tally {
    /// Completions judged right.
    pub right: u64,
    /// Completions judged right or wrong; missing verdicts are not counted.
    pub judged: u64,
    /// Completions sampled.
    pub sampled: u64,
    /// Tokens of the completions sampled.
    pub tokens: u64,
    /// Share right in the newest visit.
    pub last_rate: Option<f64>,
}

/// An estimate handed to a rollout budget.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// The prompt.
    pub id: PromptId,
    /// Success rate in [0, 1]; `None` if the prompt was never judged.
    pub rate: Option<f64>,
    /// Completions judged so far.
    pub count: u64,
    /// Mean tokens a completion; `None` if never sampled.
    pub tokens: Option<f64>,
}

/// Success statistics by prompt.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Success(BTreeMap<PromptId, Tally>);

impl Success {
    /// Adds one visit of a prompt: how many were right, judged, sampled, and their tokens.
    pub fn record(&mut self, id: PromptId, right: u64, judged: u64, sampled: u64, tokens: u64) {
        let tally = self.0.entry(id).or_default();
        tally.right += right;
        tally.judged += judged;
        tally.sampled += sampled;
        tally.tokens += tokens;
        if judged > 0 {
            tally.last_rate = Some(right as f64 / judged as f64);
        }
    }

    /// What is known of a prompt.
    pub fn get(&self, id: PromptId) -> Tally {
        self.0.get(&id).copied().unwrap_or_default()
    }

    /// Estimates for the prompts named, in that order.
    pub fn estimates(&self, ids: &[PromptId]) -> Vec<Estimate> {
        ids.iter()
            .map(|&id| {
                let t = self.get(id);
                Estimate {
                    id,
                    rate: (t.judged > 0).then(|| t.right as f64 / t.judged as f64),
                    count: t.judged,
                    tokens: (t.sampled > 0).then(|| t.tokens as f64 / t.sampled as f64),
                }
            })
            .collect()
    }

    /// Number of prompts seen.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no prompt was seen yet.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
