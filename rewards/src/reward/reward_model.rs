//! The `reward_model` reward: config and arithmetic; the model itself is loaded by the main crate.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ConfigError, Models, Reward, RewardSection};

/// Rewards what a sequence-classification checkpoint scores highly: question and completion, in its own chat template.
///
/// The score is the first row of `score.weight` times the hidden state after the final norm at the
/// last token. Then, where they are set and in this order: minus the score of the reference answer,
/// `(x - mean) / std`, clip to `[-clip, clip]`, sigmoid. Text goes through the model's own tokenizer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RewardModelConfig {
    /// A folder with a sequence-classification checkpoint, or its name on the Hub.
    pub path: String,
    /// Branch, tag or commit on the Hub; absent takes `main`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// Whether the score of the data's reference answer, as a completion, is subtracted.
    pub subtract_reference: bool,
    /// Calibration: the mean to subtract.
    pub mean: f64,
    /// Calibration: the deviation to divide by.
    pub std: f64,
    /// Largest size of a score; absent does not clip.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip: Option<f64>,
    /// Whether the score is squeezed between 0 and 1 by 1 / (1 + exp(-x)).
    pub sigmoid: bool,
    /// Most tokens of a conversation; the beginning of longer completions is cut off, and counted as `truncated`.
    /// Absent takes the model's context.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<usize>,
}

impl Default for RewardModelConfig {
    fn default() -> Self {
        RewardModelConfig {
            path: String::new(),
            revision: None,
            subtract_reference: false,
            mean: 0.0,
            std: 1.0,
            clip: None,
            sigmoid: false,
            max_tokens: None,
        }
    }
}

impl RewardSection for RewardModelConfig {
    fn build(&self, models: &dyn Models) -> Result<Box<dyn Reward>, ConfigError> {
        let bad = |key: &str, value: String, fix: &str| {
            Err(ConfigError::BadValue { key: format!("reward_model.{key}"), value, fix: fix.into() })
        };
        if self.path.is_empty() {
            return bad("path", String::new(), "name a folder with a sequence-classification checkpoint");
        }
        if !(self.std.is_finite() && self.std > 0.0) {
            return bad("std", self.std.to_string(), "give a finite number above 0");
        }
        if !self.mean.is_finite() {
            return bad("mean", self.mean.to_string(), "give a finite number");
        }
        if self.clip.is_some_and(|clip| !(clip.is_finite() && clip > 0.0)) {
            return bad("clip", format!("{:?}", self.clip), "give a finite number above 0");
        }
        if self.max_tokens == Some(0) {
            return bad("max_tokens", "0".into(), "give at least 1");
        }
        models.reward_model(self)
    }
}

impl RewardModelConfig {
    /// The reward of a raw score and, where `subtract_reference` asks for it, that of the reference.
    pub fn transform(&self, score: f64, reference: Option<f64>) -> f64 {
        let score = (score - reference.unwrap_or(0.0) - self.mean) / self.std;
        let score = self.clip.map_or(score, |clip| score.clamp(-clip, clip));
        if self.sigmoid { 1.0 / (1.0 + (-score).exp()) } else { score }
    }
}

/// The place of the last token that is not padding, whatever side the padding is on; `None` for an empty row.
pub fn last_token(mask: &[bool]) -> Option<usize> {
    mask.iter().rposition(|&is_token| is_token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transforms_come_in_their_order() {
        let plain = RewardModelConfig { path: "m".into(), ..RewardModelConfig::default() };
        assert_eq!(plain.transform(3.5, None), 3.5);
        let all = RewardModelConfig {
            subtract_reference: true,
            mean: 0.5,
            std: 2.0,
            clip: Some(1.0),
            sigmoid: true,
            ..plain
        };
        // (9 - 1 - 0.5) / 2 = 3.75, clipped to 1.
        assert_eq!(all.transform(9.0, Some(1.0)), 1.0 / (1.0 + (-1.0_f64).exp()));
        // (2 - 1 - 0.5) / 2 = 0.25.
        assert_eq!(all.transform(2.0, Some(1.0)), 1.0 / (1.0 + (-0.25_f64).exp()));
    }

    #[test]
    fn impossible_values_are_refused() {
        for bad in [
            RewardModelConfig::default(),
            RewardModelConfig { path: "m".into(), std: 0.0, ..RewardModelConfig::default() },
            RewardModelConfig { path: "m".into(), clip: Some(-1.0), ..RewardModelConfig::default() },
        ] {
            assert!(bad.build(&super::super::NoModels).is_err());
        }
    }
}
