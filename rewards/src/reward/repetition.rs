//! The `repetition` reward: a punishment for repeated n-grams.

use std::collections::HashSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ConfigError, Item, Models, PerItem, Reward, RewardError, RewardSection};

/// Punishes repeated word n-grams: `max_penalty` times the share of n-grams seen before in the text.
///
/// Source: "Demystifying Long Chain-of-Thought Reasoning in LLMs", arXiv 2502.03373, appendix C.2.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RepetitionConfig {
    /// Words in an n-gram, at least 1.
    pub ngram_size: usize,
    /// Score of a text that only repeats itself; 0 or less.
    pub max_penalty: f64,
}

impl Default for RepetitionConfig {
    fn default() -> Self {
        RepetitionConfig { ngram_size: 3, max_penalty: -1.0 }
    }
}

impl RewardSection for RepetitionConfig {
    fn build(&self, _: &dyn Models) -> Result<Box<dyn Reward>, ConfigError> {
        let bad = |key: &str, value: String, fix: &str| {
            Err(ConfigError::BadValue { key: format!("repetition.{key}"), value, fix: fix.into() })
        };
        if self.ngram_size == 0 {
            return bad("ngram_size", "0".into(), "an n-gram has at least 1 word");
        }
        if !(self.max_penalty.is_finite() && self.max_penalty <= 0.0) {
            return bad("max_penalty", self.max_penalty.to_string(), "a punishment is 0 or less");
        }
        Ok(Box::new(Repetition { config: self.clone() }))
    }
}

struct Repetition {
    config: RepetitionConfig,
}

impl PerItem for Repetition {
    fn name(&self) -> &str {
        "repetition"
    }

    fn score(&self, item: &Item) -> Result<f64, RewardError> {
        Ok(self.config.max_penalty * repeated_share(&item.completion, self.config.ngram_size))
    }
}

/// The share of word n-grams that occurred earlier in the text: `1 - distinct / all`, from 0 to 1.
///
/// Words are runs without white space, in lower case. A text of fewer than `ngram_size` words has no
/// n-gram and gives 0.
pub fn repeated_share(text: &str, ngram_size: usize) -> f64 {
    let lower = text.to_lowercase();
    let words: Vec<&str> = lower.split_whitespace().collect();
    let all = words.windows(ngram_size).len();
    if all == 0 {
        return 0.0;
    }
    let distinct: HashSet<&[&str]> = words.windows(ngram_size).collect();
    1.0 - distinct.len() as f64 / all as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn share_of_ngrams_seen_before() {
        for (text, ngram_size, expected) in [
            ("", 2, 0.0),
            ("one", 2, 0.0),
            ("a b c d", 2, 0.0),
            // ab ba ab ba: 2 distinct of 4
            ("a b A b a", 2, 0.5),
            ("x x x x x", 1, 0.8),
        ] {
            assert!((repeated_share(text, ngram_size) - expected).abs() < 1e-12, "{text}");
        }
    }

    #[test]
    fn a_reward_for_repeating_is_refused() {
        let config = RepetitionConfig { max_penalty: 0.5, ..RepetitionConfig::default() };
        assert!(config.build(&super::super::NoModels).is_err());
    }
}
