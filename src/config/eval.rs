//! Section `eval`: what the model is tested on, and when.

use super::SoftConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Tests before, during and after training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EvalConfig {
    /// Names of benchmarks; `validation` is the held-out part of `[data]`. Empty tests nothing.
    pub benchmarks: Vec<String>,
    /// Steps between tests while training; 0 tests only before and after.
    pub every: usize,
    /// Problems to take of each benchmark, the same ones each time; absent takes all.
    #[schemars(range(min = 1))]
    pub problems: Option<usize>,
    /// Completions for each problem; the interval counts problems, not completions.
    #[schemars(range(min = 1))]
    pub samples: usize,
    /// Temperature of the completions; 0 takes the most likely token.
    pub temperature: f64,
    /// Most tokens of a completion; absent takes the largest budget of training, or 512.
    #[schemars(range(min = 1))]
    pub limit: Option<usize>,
    /// Soft thinking while testing, any mode; absent = as [rollout.soft] has it at `temperature`, or none.
    pub soft: Option<SoftConfig>,
}

impl Default for EvalConfig {
    fn default() -> Self {
        Self { benchmarks: Vec::new(), every: 0, problems: None, samples: 1, temperature: 0.0, limit: None, soft: None }
    }
}
