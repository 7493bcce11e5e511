//! The `length_scaled` reward: the verdict, worth less the longer a right completion is.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ConfigError, Item, Models, PerItem, Reward, RewardError, RewardSection};

/// Rewards right answers, in full up to `start` tokens and then less, down to `end_scale` at `max_tokens`.
///
/// With r the verdict: r where r <= 0; else r up to `start`, r (1 - (1 - end_scale) (l - start) /
/// (max_tokens - start)) from there, and r `end_scale` from `max_tokens` on. It takes the place of the
/// verdict reward in the sum, so give that one weight 0: the verdict itself stays right or wrong.
///
/// Source: the code of ResRL (repository 1229095296/ResRL).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LengthScaledConfig {
    /// Length in tokens up to which nothing is taken off.
    pub start: usize,
    /// Length in tokens from which the scale is `end_scale`.
    #[schemars(range(min = 1))]
    pub max_tokens: usize,
    /// What is left of the reward there, between 0 and 1.
    pub end_scale: f64,
}

impl Default for LengthScaledConfig {
    fn default() -> Self {
        LengthScaledConfig { start: 3500, max_tokens: 4096, end_scale: 0.7 }
    }
}

impl RewardSection for LengthScaledConfig {
    fn build(&self, _: &dyn Models) -> Result<Box<dyn Reward>, ConfigError> {
        let bad = |key: &str, value: String, fix: &str| {
            Err(ConfigError::BadValue { key: format!("length_scaled.{key}"), value, fix: fix.into() })
        };
        if self.start >= self.max_tokens {
            return bad("start", self.start.to_string(), "it lies below `max_tokens`");
        }
        if !(0.0..=1.0).contains(&self.end_scale) {
            return bad("end_scale", self.end_scale.to_string(), "a share lies between 0 and 1");
        }
        Ok(Box::new(LengthScaled { config: self.clone() }))
    }
}

struct LengthScaled {
    config: LengthScaledConfig,
}

impl PerItem for LengthScaled {
    fn name(&self) -> &str {
        "length_scaled"
    }

    fn needs_verdict(&self) -> bool {
        true
    }

    fn score(&self, item: &Item) -> Result<f64, RewardError> {
        let verdict = item.verdict.ok_or(RewardError::Missing {
            reward: "length_scaled".into(),
            what: "the verdict on this completion",
            fix: "the verdict reward failed",
        })?;
        Ok(scaled(verdict, item.completion_tokens, &self.config))
    }
}

/// The reward after scaling; see [`LengthScaledConfig`] for the formula.
pub fn scaled(reward: f64, length: usize, config: &LengthScaledConfig) -> f64 {
    if reward <= 0.0 || length <= config.start {
        return reward;
    }
    let over = (length - config.start) as f64 / (config.max_tokens - config.start) as f64;
    reward * (1.0 - (1.0 - config.end_scale) * over.min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_verdict_is_missing_and_bad_values_are_refused() {
        let reward = LengthScaled { config: LengthScaledConfig::default() };
        assert!(PerItem::score(&reward, &Item::default()).is_err());
        for bad in [
            LengthScaledConfig { start: 4096, ..LengthScaledConfig::default() },
            LengthScaledConfig { end_scale: 1.5, ..LengthScaledConfig::default() },
        ] {
            assert!(bad.build(&super::super::NoModels).is_err());
        }
    }
}
