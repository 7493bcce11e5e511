//! Section `optim`: AdamW, its schedule and its guards.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// AdamW with decoupled weight decay ("Decoupled Weight Decay Regularization", arXiv 1711.05101).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OptimConfig {
    /// Highest learning rate, reached at the end of the warm-up.
    pub learning_rate: f64,
    /// How the learning rate goes on after the warm-up.
    pub schedule: Schedule,
    /// Optimiser steps over which the learning rate rises from 0; absent takes 3 % of the run, at least 1.
    pub warmup_steps: Option<usize>,
    /// Share of each weight taken off per unit of learning rate; norms and biases are left out.
    pub weight_decay: f64,
    /// Decay of the mean of gradients.
    pub beta1: f64,
    /// Decay of the mean of squared gradients.
    pub beta2: f64,
    /// Added to the root of the mean square.
    pub eps: f64,
    /// Norm over all weights to which a larger gradient is scaled down; 0 never scales.
    pub max_grad_norm: f64,
}

impl Default for OptimConfig {
    fn default() -> Self {
        Self {
            learning_rate: 1e-6,
            schedule: Schedule::Linear,
            warmup_steps: None,
            weight_decay: 0.0,
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            max_grad_norm: 1.0,
        }
    }
}

impl OptimConfig {
    /// Optimiser steps of the warm-up of a run of `total` optimiser steps.
    pub fn warmup(&self, total: usize) -> usize {
        self.warmup_steps.unwrap_or_else(|| (total * 3).div_ceil(100).max(1))
    }
}

/// How the learning rate goes on after the warm-up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// Falls evenly to 0 at the last step ("Optimal Linear Decay Learning Rate Schedules", arXiv 2310.07831).
    #[default]
    Linear,
    /// Falls to 0 along half a cosine.
    Cosine,
    /// Stays.
    Constant,
}
