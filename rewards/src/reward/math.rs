//! The `math` reward: 1 when the completion's final answer is right, else 0.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ConfigError, Item, Models, PerItem, Reward, RewardError, RewardSection};
use crate::math::{self, Extract, Extraction, GradeConfig, Policy};

/// Rewards a right final answer: 1 where it equals the reference answer mathematically, else 0.
///
/// The grader is the one the evaluation uses. A completion without an answer earns 0; an item without
/// a reference answer is a failure, not a 0.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MathConfig {
    /// Where in the completion the answer is looked for. `last_number` takes the last number of the
    /// text, for models too small to keep to a form.
    pub extract: Extract,
    /// In `auto`, accept the last LaTeX span or number of a text that has no box and no anchored
    /// phrase. Training on such answers pays for guesses.
    pub allow_unanchored: bool,
    /// Give 0 to completions that were cut off at the cap, whatever they say.
    pub require_finished: bool,
    /// What is accepted where reasonable graders differ.
    pub policy: Policy,
}

impl Default for MathConfig {
    fn default() -> Self {
        MathConfig {
            extract: Extract::Auto,
            allow_unanchored: false,
            require_finished: false,
            policy: Policy::default(),
        }
    }
}

impl RewardSection for MathConfig {
    fn build(&self, _: &dyn Models) -> Result<Box<dyn Reward>, ConfigError> {
        if let Some(tolerance) = self.policy.rel_tol.filter(|tolerance| !(tolerance.is_finite() && *tolerance >= 0.0)) {
            return Err(ConfigError::BadValue {
                key: "math.policy.rel_tol".into(),
                value: tolerance.to_string(),
                fix: "give a finite number, 0 or more".into(),
            });
        }
        Ok(Box::new(Math::new(self)))
    }
}

impl Math {
    fn new(config: &MathConfig) -> Self {
        let extraction =
            Extraction { mode: config.extract, allow_unanchored: config.allow_unanchored, ..Extraction::default() };
        let grade = GradeConfig { extraction, policy: config.policy.clone(), ..GradeConfig::default() };
        Math { grade, require_finished: config.require_finished }
    }
}

struct Math {
    grade: GradeConfig,
    require_finished: bool,
}

impl PerItem for Math {
    fn name(&self) -> &str {
        "math"
    }

    fn is_binary(&self) -> bool {
        true
    }

    fn needs_answer(&self) -> bool {
        true
    }

    fn score(&self, item: &Item) -> Result<f64, RewardError> {
        let gold = item.answer.as_deref().filter(|answer| !answer.trim().is_empty()).ok_or(RewardError::Missing {
            reward: "math".into(),
            what: "a reference answer",
            fix: "name the data's answer column, or drop rows without one",
        })?;
        if self.require_finished && item.is_truncated {
            return Ok(0.0);
        }
        Ok(f64::from(u8::from(math::grade(gold, &item.completion, &self.grade).correct)))
    }

    /// A reference answer that no parser reads can only be compared letter by letter.
    fn doubt(&self, item: &Item) -> Option<String> {
        let Some(gold) = item.answer.as_deref().filter(|answer| !answer.trim().is_empty()) else {
            return Some("there is no reference answer".into());
        };
        let itself = math::grade(gold, &format!("\\boxed{{{gold}}}"), &GradeConfig::default());
        itself.flags.contains(&math::Flag::GoldUnparsable).then(|| format!("`{gold}` cannot be read as an answer"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(config: MathConfig, item: &Item) -> Result<f64, RewardError> {
        let reward = Math::new(&config);
        PerItem::score(&reward, item)
    }

    fn item(answer: &str, completion: &str) -> Item {
        Item { answer: Some(answer.into()), completion: completion.into(), ..Item::default() }
    }

    #[test]
    fn right_wrong_and_missing() {
        assert_eq!(score(MathConfig::default(), &item("18", r"so \boxed{18}")), Ok(1.0));
        assert_eq!(score(MathConfig::default(), &item("18", r"so \boxed{19}")), Ok(0.0));
        assert_eq!(score(MathConfig::default(), &item("18", "no idea")), Ok(0.0));
        assert!(score(MathConfig::default(), &item(" ", r"\boxed{18}")).is_err());
    }

    #[test]
    fn the_last_number_counts_only_when_asked_for() {
        let said = item("18", "I think 9 + 9 is 18");
        assert_eq!(score(MathConfig::default(), &said), Ok(0.0));
        let lenient = MathConfig { extract: Extract::LastNumber, ..MathConfig::default() };
        assert_eq!(score(lenient, &said), Ok(1.0));
        let unanchored = MathConfig { allow_unanchored: true, ..MathConfig::default() };
        assert_eq!(score(unanchored, &said), Ok(1.0));
    }

    #[test]
    fn the_policy_reaches_the_grader() {
        let near = item("9.8", r"\boxed{9.81}");
        assert_eq!(score(MathConfig::default(), &near), Ok(0.0));
        let policy = Policy { rel_tol: Some(0.01), ..Policy::default() };
        assert_eq!(score(MathConfig { policy, ..MathConfig::default() }, &near), Ok(1.0));
        let negative =
            MathConfig { policy: Policy { rel_tol: Some(-1.0), ..Policy::default() }, ..MathConfig::default() };
        assert!(negative.build(&super::super::NoModels).is_err());
    }

    #[test]
    fn unfinished_answers_count_unless_refused() {
        let cut = Item { is_truncated: true, ..item("18", r"\boxed{18} and") };
        assert_eq!(score(MathConfig::default(), &cut), Ok(1.0));
        let strict = MathConfig { require_finished: true, ..MathConfig::default() };
        assert_eq!(score(strict, &cut), Ok(0.0));
    }
}
