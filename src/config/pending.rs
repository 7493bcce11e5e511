//! Sections whose stages are still being written elsewhere.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which prompts a step samples from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PromptsConfig {
    /// Every prompt once an epoch, in shuffled order.
    Shuffle(ShuffleConfig),
}

/// Every prompt once an epoch, in shuffled order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ShuffleConfig {
    /// Prompts a step.
    #[schemars(range(min = 1))]
    pub per_step: usize,
}

impl Default for ShuffleConfig {
    fn default() -> Self {
        Self { per_step: 8 }
    }
}

/// Rollouts of each prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RolloutsConfig {
    /// The same number for every prompt.
    Uniform(UniformConfig),
}

/// The same number for every prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UniformConfig {
    /// Rollouts a prompt.
    #[schemars(range(min = 1))]
    pub mean: usize,
}

impl Default for UniformConfig {
    fn default() -> Self {
        Self { mean: 8 }
    }
}

/// Length of a completion in tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TokensConfig {
    /// The same limit throughout.
    Fixed(FixedConfig),
}

/// The same limit throughout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FixedConfig {
    /// Most tokens of a completion.
    #[schemars(range(min = 1))]
    pub limit: usize,
}

impl Default for FixedConfig {
    fn default() -> Self {
        Self { limit: 256 }
    }
}

/// What a completion is scored by.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RewardsConfig {
    /// Name of the reward that says right or wrong.
    pub verdict: Option<String>,
    /// Compares the final answer with the right one.
    pub math: Option<Empty>,
    /// Compares the form of the completion with a pattern.
    pub format: Option<Empty>,
}

/// No settings.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Empty {}

/// How scores become advantages.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AdvantageConfig {
    /// The score less the mean of its group.
    Group(GroupConfig),
}

/// The score less the mean of its group.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GroupConfig {
    /// Weight of each reward.
    pub weights: BTreeMap<String, f64>,
}

/// How a completion's advantage is spread over its tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CreditConfig {
    /// Evenly.
    Uniform(Empty),
}

/// What is minimised.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ObjectiveConfig {
    /// Group relative policy optimisation.
    Grpo(Empty),
    /// Supervised fine-tuning.
    Sft(Empty),
}

/// What to train on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// A data set.
    pub train: String,
    /// The held-out data set.
    #[serde(default)]
    pub validation: Option<String>,
}
