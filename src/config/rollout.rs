//! Section `rollout`: how completions are sampled.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How completions are sampled.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RolloutConfig {
    /// One token a step, drawn from the model's distribution.
    Discrete(DiscreteConfig),
}

impl RolloutConfig {
    /// Names of all variants.
    pub const VARIANTS: &'static [&'static str] = &["discrete"];

    /// Name of this variant.
    pub fn variant(&self) -> &'static str {
        match self {
            Self::Discrete(_) => "discrete",
        }
    }
}

/// One token a step, drawn from softmax(logits / temperature) after truncation.
///
/// The same temperature divides the training logits, so that the first ratio is exactly 1.
/// Truncation applies in the order top-k, top-p, min-p, each on the probabilities that the one
/// before it left, renormalised.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DiscreteConfig {
    /// Divisor of the logits; above 0.
    pub temperature: f64,
    /// Draw from the k most likely tokens only; absent draws from all.
    #[schemars(range(min = 1))]
    pub top_k: Option<usize>,
    /// Draw from the smallest set of most likely tokens whose probabilities reach this sum; 1 draws from all.
    pub top_p: f64,
    /// Leave out tokens less likely than this share of the most likely one; 0 leaves out none.
    pub min_p: f64,
    /// Texts that end a completion besides the model's own end tokens.
    pub stop: Vec<String>,
}

impl Default for DiscreteConfig {
    fn default() -> Self {
        Self { temperature: 1.0, top_k: None, top_p: 1.0, min_p: 0.0, stop: Vec::new() }
    }
}
