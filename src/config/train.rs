//! Section `train`: how rollouts or examples are cut into updates.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How rollouts or examples are cut into updates.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TrainConfig {
    /// For objectives that learn from completions of the policy itself.
    Online(OnlineConfig),
    /// For objectives that learn from given examples.
    Offline(OfflineConfig),
}

/// Updates of a run that samples: `epochs` times `minibatches` optimiser steps for each rollout batch.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OnlineConfig {
    /// Passes over each rollout batch (mu in the papers); above 1 the ratio leaves 1 and log-probs of the sampling policy are computed first.
    #[schemars(range(min = 1))]
    pub epochs: usize,
    /// Optimiser steps a pass; groups are dealt out evenly and never cut.
    #[schemars(range(min = 1))]
    pub minibatches: usize,
}

impl Default for OnlineConfig {
    fn default() -> Self {
        Self { epochs: 1, minibatches: 1 }
    }
}

/// Updates of a run on given examples.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OfflineConfig {
    /// Examples (demonstrations, pairs or ranked lists) of one optimiser step.
    #[schemars(range(min = 1))]
    pub batch_size: usize,
    /// Passes over the data. `run.steps` may end the run sooner.
    #[schemars(range(min = 1))]
    pub epochs: usize,
    /// Whether each epoch has an order of its own; otherwise all have that of the data.
    pub shuffle: bool,
    /// Most tokens of prompt and answer. Longer answers of pairs are cut at the end, counted and told; a row whose prompt
    /// reaches it, and a longer demonstration, is left out. Absent takes 1024 for preferences, else the model's context.
    #[schemars(range(min = 1))]
    pub max_length: Option<usize>,
}

impl Default for OfflineConfig {
    fn default() -> Self {
        Self { batch_size: 32, epochs: 1, shuffle: true, max_length: None }
    }
}
