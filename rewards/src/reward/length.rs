//! The `length` reward: how well the completion's length fits a target.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ConfigError, Item, Models, PerItem, Reward, RewardError, RewardSection};

/// Rewards completions whose token length fits the budget the prompt states, or a fixed target.
///
/// Sources: triangular and band, "Train Long, Think Short", arXiv 2508.08940; cosine, "Demystifying
/// Long Chain-of-Thought Reasoning in LLMs", arXiv 2502.03373.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LengthConfig {
    /// The shape of the reward over length.
    pub shape: LengthShape,
    /// Target length in tokens. Default: the budget that the item's prompt states.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<usize>,
    /// The largest reward of the triangular and band shapes.
    pub r_max: f64,
    /// Pay for length only where the verdict is above 0. Off in the paper.
    pub gate_length_on_correct: bool,
}

/// How the reward depends on the length.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LengthShape {
    /// Rises in a straight line from 0 to `r_max` at the target, falls to 0 at twice the target.
    #[default]
    Triangular,
    /// `r_max` up to the target, then falls to 0 at twice the target. An empty completion earns the
    /// whole reward, so gate it on the verdict.
    Band,
    /// Half a cosine over the length up to the target: falls for right answers, rises for wrong ones.
    Cosine(CosineConfig),
}

/// The ends of the cosine shape.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CosineConfig {
    /// Reward of an empty wrong answer.
    pub min_value_wrong: f64,
    /// Reward of a wrong answer at the target length.
    pub max_value_wrong: f64,
    /// Reward of a right answer at the target length.
    pub min_value_correct: f64,
    /// Reward of an empty right answer.
    pub max_value_correct: f64,
}

impl Default for LengthConfig {
    fn default() -> Self {
        LengthConfig { shape: LengthShape::Triangular, target: None, r_max: 1.0, gate_length_on_correct: false }
    }
}

impl Default for CosineConfig {
    fn default() -> Self {
        CosineConfig { min_value_wrong: -1.0, max_value_wrong: -0.5, min_value_correct: 0.5, max_value_correct: 1.0 }
    }
}

impl RewardSection for LengthConfig {
    fn build(&self, _: &dyn Models) -> Result<Box<dyn Reward>, ConfigError> {
        if self.target == Some(0) {
            return Err(ConfigError::BadValue {
                key: "length.target".into(),
                value: "0".into(),
                fix: "a target is at least 1 token".into(),
            });
        }
        if !self.r_max.is_finite() {
            return Err(ConfigError::BadValue {
                key: "length.r_max".into(),
                value: self.r_max.to_string(),
                fix: "give a finite number".into(),
            });
        }
        Ok(Box::new(Length { config: self.clone() }))
    }
}

struct Length {
    config: LengthConfig,
}

impl PerItem for Length {
    fn name(&self) -> &str {
        "length"
    }

    fn needs_verdict(&self) -> bool {
        self.config.gate_length_on_correct || matches!(self.config.shape, LengthShape::Cosine(_))
    }

    fn score(&self, item: &Item) -> Result<f64, RewardError> {
        let target = self.config.target.or(item.told).filter(|&target| target > 0).ok_or(RewardError::Missing {
            reward: "length".into(),
            what: "a target length",
            fix: "set `reward.length.target` or state a budget in the prompt",
        })?;
        let is_correct = match item.verdict {
            Some(verdict) => verdict > 0.0,
            None if PerItem::needs_verdict(self) => {
                return Err(RewardError::Missing {
                    reward: "length".into(),
                    what: "the verdict on this completion",
                    fix: "the verdict reward failed, or set `gate_length_on_correct = false`",
                });
            }
            None => false,
        };
        if self.config.gate_length_on_correct && !is_correct {
            return Ok(0.0);
        }
        let length = item.completion_tokens;
        Ok(match &self.config.shape {
            LengthShape::Triangular => triangular(length, target, self.config.r_max),
            LengthShape::Band => band(length, target, self.config.r_max),
            LengthShape::Cosine(ends) => cosine(length, target, is_correct, ends),
        })
    }
}

/// `r_max * l/L` up to the target L, `r_max * (1 - (l-L)/L)` up to 2L, 0 beyond.
///
/// `length` and `target` in tokens, `target` at least 1. Source: arXiv 2508.08940.
pub fn triangular(length: usize, target: usize, r_max: f64) -> f64 {
    if length <= target { r_max * length as f64 / target as f64 } else { descent(length, target, r_max) }
}

/// `r_max` up to the target L, then `r_max * (1 - (l-L)/L)` up to 2L, 0 beyond; length 0 earns `r_max`.
///
/// `length` and `target` in tokens, `target` at least 1. Source: arXiv 2508.08940.
pub fn band(length: usize, target: usize, r_max: f64) -> f64 {
    if length <= target { r_max } else { descent(length, target, r_max) }
}

fn descent(length: usize, target: usize, r_max: f64) -> f64 {
    if length > target.saturating_mul(2) {
        return 0.0;
    }
    r_max * (1.0 - (length - target) as f64 / target as f64)
}

/// `far + (near - far) * (1 + cos(pi * l/L)) / 2`, from `near` at length 0 to `far` at the target.
///
/// Right answers go from `max_value_correct` down to `min_value_correct`, wrong ones from
/// `min_value_wrong` up to `max_value_wrong`. Beyond the target the reward stays where it is; the
/// open implementations let the cosine turn back there, which no run that stops at its cap can see.
/// Source: arXiv 2502.03373, with the default ends of its widely used reimplementation.
pub fn cosine(length: usize, target: usize, is_correct: bool, ends: &CosineConfig) -> f64 {
    let (near, far) = if is_correct {
        (ends.max_value_correct, ends.min_value_correct)
    } else {
        (ends.min_value_wrong, ends.max_value_wrong)
    };
    let progress = (length as f64 / target as f64).min(1.0);
    far + 0.5 * (near - far) * (1.0 + (progress * std::f64::consts::PI).cos())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(config: LengthConfig, item: &Item) -> Result<f64, RewardError> {
        PerItem::score(&Length { config }, item)
    }

    #[test]
    fn the_told_budget_is_the_target_unless_one_is_set() {
        let item = Item { completion_tokens: 30, told: Some(60), ..Item::default() };
        assert_eq!(score(LengthConfig::default(), &item), Ok(0.5));
        let fixed = LengthConfig { target: Some(30), ..LengthConfig::default() };
        assert_eq!(score(fixed, &item), Ok(1.0));
        let untold = Item { told: None, ..item };
        assert!(matches!(score(LengthConfig::default(), &untold), Err(RewardError::Missing { .. })));
    }

    #[test]
    fn the_gate_pays_right_answers_only_and_fails_without_a_verdict() {
        let config = LengthConfig { shape: LengthShape::Band, gate_length_on_correct: true, ..LengthConfig::default() };
        let item = |verdict| Item { completion_tokens: 3, told: Some(10), verdict, ..Item::default() };
        assert_eq!(score(config.clone(), &item(Some(1.0))), Ok(1.0));
        assert_eq!(score(config.clone(), &item(Some(0.0))), Ok(0.0));
        assert!(score(config, &item(None)).is_err());
    }

    #[test]
    fn cosine_runs_between_its_ends() {
        let ends = CosineConfig::default();
        for (length, is_correct, expected) in [
            (0, true, 1.0),
            (500, true, 0.75),
            (1000, true, 0.5),
            (4000, true, 0.5),
            (0, false, -1.0),
            (500, false, -0.75),
            (1000, false, -0.5),
        ] {
            let value = cosine(length, 1000, is_correct, &ends);
            assert!((value - expected).abs() < 1e-12, "{length} {is_correct}: {value}");
        }
    }

    #[test]
    fn huge_lengths_do_not_overflow() {
        assert_eq!(band(usize::MAX, usize::MAX - 1, 1.0), 1.0);
        assert_eq!(triangular(usize::MAX, 1, 1.0), 0.0);
    }
}
