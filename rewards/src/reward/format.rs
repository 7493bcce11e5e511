//! The `format` reward: does the completion keep to the form it was asked for?

use regex::Regex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ConfigError, Item, Models, PerItem, Reward, RewardError, RewardSection};
use crate::math::extract::last_box;

/// Rewards the asked-for form: think and answer tags, a boxed answer, or a pattern of your own.
///
/// The score is `alpha_think * [think span] + alpha_answer * [answer span] + alpha_boxed * [box] +
/// alpha_pattern * [pattern found]`, each bracket being 0 or 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FormatConfig {
    /// Worth of exactly one well-formed think span.
    pub alpha_think: f64,
    /// Worth of exactly one well-formed answer span.
    pub alpha_answer: f64,
    /// Worth of a `\boxed{...}` that is closed and not empty.
    pub alpha_boxed: f64,
    /// A regular expression to look for in the completion (Rust `regex` syntax, linear time).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pattern: Option<String>,
    /// Worth of a completion in which `pattern` is found.
    pub alpha_pattern: f64,
    /// Name of the think tag: `think` for `<think>...</think>`.
    pub think_tag: String,
    /// Name of the answer tag: `answer` for `<answer>...</answer>`.
    pub answer_tag: String,
    /// Whether the prompt already opens the think span, as the templates of some models do.
    pub is_think_opened: bool,
}

impl Default for FormatConfig {
    fn default() -> Self {
        FormatConfig {
            alpha_think: 0.5,
            alpha_answer: 0.5,
            alpha_boxed: 0.0,
            pattern: None,
            alpha_pattern: 1.0,
            think_tag: "think".into(),
            answer_tag: "answer".into(),
            is_think_opened: false,
        }
    }
}

impl RewardSection for FormatConfig {
    fn build(&self, _: &dyn Models) -> Result<Box<dyn Reward>, ConfigError> {
        let bad =
            |key: &str, value: String, fix: String| ConfigError::BadValue { key: format!("format.{key}"), value, fix };
        for (key, alpha) in [
            ("alpha_think", self.alpha_think),
            ("alpha_answer", self.alpha_answer),
            ("alpha_boxed", self.alpha_boxed),
            ("alpha_pattern", self.alpha_pattern),
        ] {
            if !alpha.is_finite() {
                return Err(bad(key, alpha.to_string(), "give a finite number".into()));
            }
        }
        for (key, tag) in [("think_tag", &self.think_tag), ("answer_tag", &self.answer_tag)] {
            if tag.is_empty() {
                return Err(bad(key, tag.clone(), "give the tag's name, without brackets".into()));
            }
        }
        let pattern = match &self.pattern {
            Some(pattern) => Some(Regex::new(pattern).map_err(|error| {
                bad(
                    "pattern",
                    pattern.clone(),
                    error.to_string().lines().last().unwrap_or("not a regular expression").trim().into(),
                )
            })?),
            None => None,
        };
        Ok(Box::new(Format { config: self.clone(), pattern }))
    }
}

struct Format {
    config: FormatConfig,
    pattern: Option<Regex>,
}

impl PerItem for Format {
    fn name(&self) -> &str {
        "format"
    }

    fn score(&self, item: &Item) -> Result<f64, RewardError> {
        let config = &self.config;
        let opened;
        let text = if config.is_think_opened {
            opened = format!("<{}>{}", config.think_tag, item.completion);
            &opened
        } else {
            &item.completion
        };
        let (think, answer) = indicators(text, &config.think_tag, &config.answer_tag);
        let boxed = config.alpha_boxed != 0.0 && last_box(text).is_some_and(|found| found.is_closed);
        let found = self.pattern.as_ref().is_some_and(|pattern| pattern.is_match(&item.completion));
        Ok(config.alpha_think * f64::from(u8::from(think))
            + config.alpha_answer * f64::from(u8::from(answer))
            + config.alpha_boxed * f64::from(u8::from(boxed))
            + config.alpha_pattern * f64::from(u8::from(found)))
    }
}

/// Whether `text` has a well-formed think span, and whether it has a well-formed answer span.
///
/// A span is well formed when its opening and its closing tag each occur exactly once, in that
/// order. Two spans that overlap, or lie inside each other, are both malformed. Order, text outside
/// the spans and empty spans do not matter; case does.
/// Source: "Train Long, Think Short", arXiv 2508.08940; the grammar is ours, the paper gives none.
pub fn indicators(text: &str, think_tag: &str, answer_tag: &str) -> (bool, bool) {
    let think = span(text, think_tag);
    let answer = span(text, answer_tag);
    if let (Some(think), Some(answer)) = (&think, &answer)
        && think.start < answer.end
        && answer.start < think.end
    {
        return (false, false);
    }
    (think.is_some(), answer.is_some())
}

fn span(text: &str, tag: &str) -> Option<std::ops::Range<usize>> {
    let only = |mark: &str| {
        let at = text.find(mark)?;
        (text.rfind(mark) == Some(at)).then_some(at..at + mark.len())
    };
    let opening = only(&format!("<{tag}>"))?;
    let closing = only(&format!("</{tag}>"))?;
    (opening.end <= closing.start).then_some(opening.start..closing.end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(config: FormatConfig, completion: &str) -> f64 {
        let item = Item { completion: completion.into(), ..Item::default() };
        let pattern = config.pattern.as_deref().map(|pattern| Regex::new(pattern).unwrap());
        PerItem::score(&Format { config, pattern }, &item).unwrap()
    }

    #[test]
    fn tags_are_worth_their_alphas() {
        let config = FormatConfig { alpha_think: 0.25, alpha_answer: 0.75, ..FormatConfig::default() };
        for (text, expected) in [
            ("<think>a</think><answer>1</answer>", 1.0),
            ("<answer>1</answer> <think></think>", 1.0),
            ("<think>a</think>", 0.25),
            ("<THINK>a</THINK>", 0.0),
            ("<answer>1</answer></think>", 0.75),
            ("<answer><think></answer></think>", 0.0),
            ("", 0.0),
        ] {
            assert_eq!(score(config.clone(), text), expected, "{text}");
        }
    }

    #[test]
    fn think_opened_by_the_prompt() {
        let config = FormatConfig { is_think_opened: true, ..FormatConfig::default() };
        assert_eq!(score(config.clone(), "a</think><answer>1</answer>"), 1.0);
        assert_eq!(score(config, "<think>a</think><answer>1</answer>"), 0.5);
    }

    #[test]
    fn box_and_pattern() {
        let plain = FormatConfig { alpha_think: 0.0, alpha_answer: 0.0, ..FormatConfig::default() };
        let boxed = FormatConfig { alpha_boxed: 1.0, ..plain.clone() };
        assert_eq!(score(boxed.clone(), "so \\boxed{18}"), 1.0);
        assert_eq!(score(boxed.clone(), "so \\boxed{18"), 0.0);
        assert_eq!(score(boxed, "18"), 0.0);
        let pattern = FormatConfig { pattern: Some(r"^#### \d+$".into()), alpha_pattern: 2.0, ..plain };
        assert_eq!(score(pattern.clone(), "#### 18"), 2.0);
        assert_eq!(score(pattern, "18"), 0.0);
    }

    #[test]
    fn a_bad_pattern_is_refused_with_its_key() {
        let config = FormatConfig { pattern: Some("(".into()), ..FormatConfig::default() };
        let message = config.build(&super::super::NoModels).err().unwrap().to_string();
        assert!(message.starts_with("`reward.format.pattern` is `(`"), "{message}");
    }
}
