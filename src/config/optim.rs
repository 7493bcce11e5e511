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
    /// Share of the highest learning rate that the schedule falls to, from 0 to below 1.
    pub floor: f64,
    /// Share of the run, at its end, over which `cooldown` falls.
    pub cooldown: f64,
    /// Multipliers of `table`, at equal shares of the run; `candlewick schedule` makes them from an earlier run.
    pub table: Vec<f64>,
    /// LoRA+: learning rate of an adapter's B over that of its A, 1 or above; 16 is usual where `learning_rate` is halved (arXiv 2402.12354).
    pub lora_plus_ratio: f64,
    /// perpGrad: takes off each matrix's gradient what would only scale the matrix (arXiv 2501.04697). Experimental. Norms, biases, embeddings and the head are left out.
    pub perp_grad: bool,
    /// Leaves out steps whose loss or gradient norm leaps above what went before.
    pub skip_spikes: Option<SpikeConfig>,
    /// Measures how far steps go, in units of the cross-entropy's radius of trust, and may hold them within it.
    pub radius: Option<RadiusConfig>,
}

/// When a step is a spike: loss or unclipped gradient norm above mean + `sigma` deviations of the last `window` steps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SpikeConfig {
    /// Steps looked back on; the rule speaks once half of them are known.
    #[schemars(range(min = 4))]
    pub window: usize,
    /// Deviations above the mean.
    pub sigma: f64,
}

impl Default for SpikeConfig {
    fn default() -> Self {
        Self { window: 128, sigma: 6.0 }
    }
}

/// The ghost radius of a step: r = largest spread of logit changes over the probe's rows / pi (arXiv 2603.13552).
///
/// Measured by a forward pass over a few rows of the step's batch before and after it. For large vocabularies r above 1 is common in healthy runs: log it first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RadiusConfig {
    /// Steps between measurements; with a target every step is measured.
    #[schemars(range(min = 1))]
    pub every: usize,
    /// Tokens whose predictions are compared.
    #[schemars(range(min = 1))]
    pub rows: usize,
    /// Largest r: a step beyond it is scaled back to it. 1 is the theorem's line. Costs a copy of the trained weights. Absent only measures.
    pub target: Option<f64>,
}

impl Default for RadiusConfig {
    fn default() -> Self {
        Self { every: 10, rows: 64, target: None }
    }
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
            floor: 0.0,
            cooldown: 0.2,
            table: Vec::new(),
            lora_plus_ratio: 1.0,
            perp_grad: false,
            skip_spikes: None,
            radius: None,
        }
    }
}

impl OptimConfig {
    /// Optimiser steps of the warm-up of a run of `total` optimiser steps.
    pub fn warmup(&self, total: usize) -> usize {
        self.warmup_steps.unwrap_or_else(|| (total * 3).div_ceil(100).max(1))
    }

    /// What a person should know of a warm-up that a run of `total` optimiser steps does not get through.
    pub fn long_warmup(&self, total: usize) -> Option<String> {
        let steps = self.warmup_steps.filter(|steps| *steps > total)?;
        Some(format!(
            "`optim.warmup_steps` = {steps} is more than the run's {total} optimiser steps: the learning rate never reaches `optim.learning_rate`"
        ))
    }
}

/// How the learning rate goes on after the warm-up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// Falls evenly to the floor at the last step ("Optimal Linear Decay Learning Rate Schedules", arXiv 2310.07831).
    #[default]
    Linear,
    /// Falls to the floor along half a cosine.
    Cosine,
    /// Stays.
    Constant,
    /// Stays, then falls evenly to the floor over the last part of the run, `cooldown`.
    Cooldown,
    /// Follows the multipliers of `table`.
    Table,
}
