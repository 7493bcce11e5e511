//! The `choice` reward: multiple choice, with partial credit where several options are right.

use std::collections::BTreeSet;

use regex::Regex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ConfigError, Item, Models, PerItem, Reward, RewardError, RewardSection};
use crate::math::extract::{self, Extraction};

/// Rewards the right options of a multiple-choice question, in part where only some are given.
///
/// With T the right options and P the options given: |P| / |T| if P is not empty and holds no wrong
/// option, else 0. The answer is taken from the last box, an answer span (`<answer>B</answer>`) or an
/// anchored phrase (`the answer is B`); the reference is letters separated by commas, such as `A,C`.
///
/// Source: TW-GRPO, arXiv 2505.24718, whose code tries symbolic equality first and heeds case.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ChoiceConfig {
    /// Whether a part of the right options earns its share. Off, only all of them earn 1.
    pub partial_credit: bool,
    /// Whether `a` is `A`.
    pub case_insensitive: bool,
    /// Whether a text without box, span or phrase may end in its options, as `B` or `(B)` alone in the last line.
    pub allow_last_line: bool,
}

impl Default for ChoiceConfig {
    fn default() -> Self {
        ChoiceConfig { partial_credit: true, case_insensitive: true, allow_last_line: false }
    }
}

impl RewardSection for ChoiceConfig {
    fn build(&self, _: &dyn Models) -> Result<Box<dyn Reward>, ConfigError> {
        Ok(Box::new(Choice::new(self.clone())))
    }
}

struct Choice {
    config: ChoiceConfig,
    span: Regex,
}

impl Choice {
    fn new(config: ChoiceConfig) -> Self {
        Choice { config, span: Regex::new(r"(?s)<answer>(.*?)</answer>").expect("the pattern is valid") }
    }

    /// The options that a completion gives; empty where it gives none or something else.
    fn given(&self, completion: &str) -> BTreeSet<String> {
        let parse = |text: &str| options(text, self.config.case_insensitive).unwrap_or_default();
        if let Some(found) = self.span.captures_iter(completion).last() {
            return parse(&found[1]);
        }
        let announced = Extraction { allow_unanchored: false, ..Extraction::default() };
        let found = extract::extract(completion, &announced, 1);
        if let Some(candidate) = found.candidates.last() {
            return parse(candidate);
        }
        match completion.trim_end().lines().last() {
            Some(line) if self.config.allow_last_line && !found.is_think_truncated => parse(line),
            _ => BTreeSet::new(),
        }
    }
}

impl PerItem for Choice {
    fn name(&self) -> &str {
        "choice"
    }

    fn is_binary(&self) -> bool {
        !self.config.partial_credit
    }

    fn needs_answer(&self) -> bool {
        true
    }

    fn score(&self, item: &Item) -> Result<f64, RewardError> {
        let truth = item.answer.as_deref().and_then(|answer| options(answer, self.config.case_insensitive));
        let truth = truth.filter(|truth| !truth.is_empty()).ok_or(RewardError::Missing {
            reward: "choice".into(),
            what: "a reference answer of option letters",
            fix: "name the data's answer column (`A`, or `A,C`), or drop rows without one",
        })?;
        let credit = credit(&self.given(&item.completion), &truth);
        Ok(if self.config.partial_credit || credit == 1.0 { credit } else { 0.0 })
    }

    fn doubt(&self, item: &Item) -> Option<String> {
        let answer = item.answer.as_deref().unwrap_or_default();
        let truth = options(answer, self.config.case_insensitive);
        truth.is_none_or(|t| t.is_empty()).then(|| format!("`{answer}` is no list of option letters such as `A,C`"))
    }
}

/// The share of `truth` that was given: |P| / |T| where P is not empty and lies within T, else 0.
///
/// `truth` is not empty. Source: TW-GRPO, arXiv 2505.24718.
pub fn credit(given: &BTreeSet<String>, truth: &BTreeSet<String>) -> f64 {
    if given.is_empty() || !given.is_subset(truth) { 0.0 } else { given.len() as f64 / truth.len() as f64 }
}

/// The set of options in a text such as `A`, `(b), (c)` or `A and D`; empty for an empty text.
///
/// `None` if there is anything but single letters or numbers of one or two digits.
pub fn options(text: &str, case_insensitive: bool) -> Option<BTreeSet<String>> {
    if text.len() > 1000 {
        return None;
    }
    let mut found = BTreeSet::new();
    let text = text.replace(r"\text", " ").replace(" and ", ",").replace(" und ", ",");
    for part in text.split([',', ';']) {
        let part = part.trim_matches(|c: char| c.is_whitespace() || "(){}[].:*$\\`\"'".contains(c));
        let mut letters = part.chars();
        match (letters.next(), letters.next()) {
            (None, _) => {}
            (Some(letter), None) if letter.is_alphabetic() && case_insensitive => {
                found.insert(letter.to_uppercase().to_string());
            }
            (Some(letter), None) if letter.is_alphanumeric() => {
                found.insert(letter.to_string());
            }
            (Some(a), Some(b)) if part.len() == 2 && a.is_ascii_digit() && b.is_ascii_digit() => {
                found.insert(part.into());
            }
            _ => return None,
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(config: ChoiceConfig, answer: &str, completion: &str) -> Result<f64, RewardError> {
        let item = Item { answer: Some(answer.into()), completion: completion.into(), ..Item::default() };
        PerItem::score(&Choice::new(config), &item)
    }

    #[test]
    fn answers_are_found_where_they_are_announced() {
        for (completion, expected) in [
            (r"so \boxed{A, C}", 1.0),
            (r"so \boxed{\text{(A)}}", 0.5),
            ("<think>A? B?</think><answer>c</answer>", 0.5),
            ("<answer>A, B</answer>", 0.0),
            ("The answer is (C).", 0.5),
            ("I like A", 0.0),
            ("perhaps\n(A)", 0.0),
            ("<answer>A, because it is</answer>", 0.0),
            ("", 0.0),
        ] {
            assert_eq!(score(ChoiceConfig::default(), "A,C", completion), Ok(expected), "{completion}");
        }
        let last_line = ChoiceConfig { allow_last_line: true, ..ChoiceConfig::default() };
        assert_eq!(score(last_line, "A,C", "perhaps\n(A)"), Ok(0.5));
    }

    #[test]
    fn without_partial_credit_it_is_all_or_nothing_and_binary() {
        let strict = ChoiceConfig { partial_credit: false, ..ChoiceConfig::default() };
        assert_eq!(score(strict.clone(), "A,C", r"\boxed{A}"), Ok(0.0));
        assert_eq!(score(strict.clone(), "A,C", r"\boxed{C,A}"), Ok(1.0));
        assert!(PerItem::is_binary(&Choice::new(strict)));
        assert!(!PerItem::is_binary(&Choice::new(ChoiceConfig::default())));
    }

    #[test]
    fn a_reference_that_is_no_choice_is_missing_and_doubted() {
        for answer in ["", "42 apples", "A,because"] {
            assert!(matches!(score(ChoiceConfig::default(), answer, r"\boxed{A}"), Err(RewardError::Missing { .. })));
            let item = Item { answer: Some(answer.into()), ..Item::default() };
            assert!(PerItem::doubt(&Choice::new(ChoiceConfig::default()), &item).is_some());
        }
    }
}
