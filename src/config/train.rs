//! Section `train`: how rollouts or examples are cut into updates.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::DiscreteConfig;

/// How rollouts or examples are cut into updates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
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
    /// Pairs made anew of the policy's own answers. Absent learns from the given ones throughout.
    pub regenerate: Option<RegenerateConfig>,
}

impl Default for OfflineConfig {
    fn default() -> Self {
        Self { batch_size: 32, epochs: 1, shuffle: true, max_length: None, regenerate: None }
    }
}

/// On-policy pairs: between epochs the policy answers each prompt of the data several times, the rewards of [reward] score
/// the answers, and the best is paired with the worst.
///
/// The prompts are those of the data, whatever its form: pairs, prompts with answers, demonstrations. A prompt whose answers tie gives
/// no pair. Labels of `power_dl` start anew and log-probs of the reference are computed for the new pairs. Sampling from the
/// starting model alone, five answers at temperature 0.8, is the recipe of SimPO (arXiv 2405.14734); repeating it with the newest
/// policy is iterative DPO (arXiv 2312.11456), with an imitation term that of arXiv 2404.19733.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RegenerateConfig {
    /// Answers of each prompt.
    #[schemars(range(min = 2))]
    pub samples: usize,
    /// Epochs from one regeneration to the next; 0 makes pairs once, at `start_epoch`.
    pub every_epochs: usize,
    /// Epochs of given pairs before the first regeneration. 0 begins with the starting model's answers, and the answers in the
    /// data are never learnt from.
    pub start_epoch: usize,
    /// Most new tokens of an answer; `train.offline.max_length` holds for prompt and answer together.
    #[schemars(range(min = 1))]
    pub limit: usize,
    /// By how much the best reward must exceed the worst: a prompt whose answers differ by no more is a tie, and gives no pair.
    pub min_margin: f64,
    /// Weight of each reward function in the sum that ranks answers; 1 where none is named.
    pub weights: BTreeMap<String, f64>,
    /// Divisor of the logits while sampling; above 0.
    pub temperature: f64,
    /// Draw from the k most likely tokens only; absent draws from all.
    #[schemars(range(min = 1))]
    pub top_k: Option<usize>,
    /// Draw from the smallest set of most likely tokens whose probabilities reach this sum; 1 draws from all.
    pub top_p: f64,
    /// Leave out tokens less likely than this share of the most likely one; 0 leaves out none.
    pub min_p: f64,
    /// Texts that end an answer besides the model's own end tokens.
    pub stop: Vec<String>,
}

impl RegenerateConfig {
    /// How its tokens are drawn.
    pub fn sampling(&self) -> DiscreteConfig {
        DiscreteConfig {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            stop: self.stop.clone(),
        }
    }

    /// Whether pairs are made at the beginning of this epoch, counted from 0.
    pub fn is_due(&self, epoch: usize) -> bool {
        match epoch.checked_sub(self.start_epoch) {
            None => false,
            Some(0) => true,
            Some(since) => self.every_epochs > 0 && since.is_multiple_of(self.every_epochs),
        }
    }
}

impl Default for RegenerateConfig {
    fn default() -> Self {
        Self {
            samples: 5,
            every_epochs: 1,
            start_epoch: 0,
            limit: 256,
            min_margin: 0.0,
            weights: BTreeMap::new(),
            temperature: 0.8,
            top_k: None,
            top_p: 1.0,
            min_p: 0.0,
            stop: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regenerations_fall_on_their_epochs() {
        let due = |start_epoch, every_epochs| -> Vec<usize> {
            let config = RegenerateConfig { start_epoch, every_epochs, ..RegenerateConfig::default() };
            (0..7).filter(|&epoch| config.is_due(epoch)).collect()
        };
        assert_eq!(due(0, 1), [0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(due(0, 0), [0]);
        assert_eq!(due(2, 0), [2]);
        assert_eq!(due(1, 3), [1, 4]);
    }
}
