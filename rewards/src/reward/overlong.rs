//! The `overlong` reward: a soft punishment for completions that come near the cap.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ConfigError, Item, Models, PerItem, Reward, RewardError, RewardSection};

/// Punishes completions that run into the last tokens before the cap, in a straight line to `-factor`.
///
/// With L the cap and C the cache, a completion of n tokens earns `min(0, -(n - (L - C)) / C * factor)`,
/// and never less than `-factor`. Source: DAPO, arXiv 2503.14476 (L 20480, C 4096, factor 1).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OverlongConfig {
    /// L, in tokens. Default: the item's generation cap.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<usize>,
    /// C, the stretch before the cap that is punished, as a share of L above 0 and at most 1.
    pub cache_share: f64,
    /// The largest punishment, at L tokens and beyond.
    pub factor: f64,
}

impl Default for OverlongConfig {
    fn default() -> Self {
        OverlongConfig { max_tokens: None, cache_share: 0.2, factor: 1.0 }
    }
}

impl RewardSection for OverlongConfig {
    fn build(&self, _: &dyn Models) -> Result<Box<dyn Reward>, ConfigError> {
        let bad = |key: &str, value: String, fix: &str| {
            Err(ConfigError::BadValue { key: format!("overlong.{key}"), value, fix: fix.into() })
        };
        if self.max_tokens == Some(0) {
            return bad("max_tokens", "0".into(), "a cap is at least 1 token");
        }
        if !(self.cache_share > 0.0 && self.cache_share <= 1.0) {
            return bad("cache_share", self.cache_share.to_string(), "a share above 0 and at most 1");
        }
        if !(self.factor.is_finite() && self.factor >= 0.0) {
            return bad("factor", self.factor.to_string(), "give a finite number, 0 or more");
        }
        Ok(Box::new(Overlong { config: self.clone() }))
    }
}

struct Overlong {
    config: OverlongConfig,
}

impl PerItem for Overlong {
    fn name(&self) -> &str {
        "overlong"
    }

    fn score(&self, item: &Item) -> Result<f64, RewardError> {
        let max_tokens = self.config.max_tokens.or(item.cap).ok_or(RewardError::Missing {
            reward: "overlong".into(),
            what: "a token cap",
            fix: "set `reward.overlong.max_tokens`",
        })?;
        let cache = self.config.cache_share * max_tokens as f64;
        Ok(punishment(item.completion_tokens, max_tokens, cache, self.config.factor))
    }
}

/// `max(-factor, min(0, -(n - (L - C)) / C * factor))`; lengths in tokens, `cache` above 0.
///
/// Source: DAPO, arXiv 2503.14476, equation 13.
pub fn punishment(length: usize, max_tokens: usize, cache: f64, factor: f64) -> f64 {
    let over = length as f64 - (max_tokens as f64 - cache);
    if over <= 0.0 {
        return 0.0;
    }
    (-over / cache * factor).max(-factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn falls_over_the_cache_and_stops_at_the_factor() {
        for (length, expected) in [(0, 0.0), (80, 0.0), (85, -0.5), (90, -1.0), (100, -2.0), (400, -2.0)] {
            assert_eq!(punishment(length, 100, 20.0, 2.0), expected, "{length}");
        }
    }

    #[test]
    fn the_items_cap_is_the_limit_unless_one_is_set() {
        let reward = Overlong { config: OverlongConfig { cache_share: 0.5, ..OverlongConfig::default() } };
        let item = Item { completion_tokens: 75, cap: Some(100), ..Item::default() };
        assert_eq!(PerItem::score(&reward, &item), Ok(-0.5));
        let uncapped = Item { cap: None, ..item };
        assert!(PerItem::score(&reward, &uncapped).is_err());
    }
}
