//! Success statistics of each prompt, kept across steps and checkpoints.

use std::collections::BTreeMap;

/// Identity of a prompt: its index in the training set.
pub type PromptId = usize;

/// Outcomes of a prompt that are kept one by one, the newest ones.
pub const WINDOW: usize = 64;

/// What a visit's share keeps of its weight when the next visit comes ([`Tally::smoothed_rate`]).
const FADE: f64 = 0.9;

/// The newest outcomes of a prompt, right (true) or wrong, oldest first; at most [`WINDOW`] of them.
///
/// Saved as a text of `1` and `0`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History(Vec<bool>);

impl History {
    /// Adds a visit's outcomes in the order they were sampled.
    fn extend(&mut self, outcomes: &[bool]) {
        self.0.extend_from_slice(outcomes);
        let surplus = self.0.len().saturating_sub(WINDOW);
        self.0.drain(..surplus);
    }

    /// Right outcomes and outcomes among the newest `window`.
    pub fn newest(&self, window: usize) -> (usize, usize) {
        let newest = &self.0[self.0.len().saturating_sub(window)..];
        (newest.iter().filter(|right| **right).count(), newest.len())
    }
}

impl serde::Serialize for History {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.iter().map(|&right| if right { '1' } else { '0' }).collect::<String>())
    }
}

impl<'de> serde::Deserialize<'de> for History {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'_, str>>::deserialize(deserializer)?;
        let outcome = |c| match c {
            '1' => Ok(true),
            '0' => Ok(false),
            other => Err(serde::de::Error::custom(format!("an outcome is 0 or 1, not `{other}`"))),
        };
        let mut history = Self::default();
        history.extend(&text.chars().map(outcome).collect::<Result<Vec<_>, _>>()?);
        Ok(history)
    }
}

/// What is known of one prompt.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Tally {
    /// Completions judged right.
    pub right: u64,
    /// Completions judged right or wrong; missing verdicts are not counted.
    pub judged: u64,
    /// Completions sampled.
    pub sampled: u64,
    /// Tokens of the completions sampled.
    pub tokens: u64,
    /// Share right in the newest visit.
    pub last_rate: Option<f64>,
    /// Completions judged in the newest visit that judged any.
    #[serde(default)]
    pub last_judged: u64,
    /// Right completions, those of a visit counting 0.9 times as much with each later visit.
    #[serde(default)]
    pub faded_right: f64,
    /// Judged completions, faded alike.
    #[serde(default)]
    pub faded_judged: f64,
    /// The newest outcomes one by one.
    #[serde(default)]
    pub history: History,
}

impl Tally {
    /// (k' + 1/2) / (n' + 1) of the faded counts: never 0 or 1, for ranking only; 1/2 where nothing is known.
    pub fn smoothed_rate(&self) -> f64 {
        (self.faded_right + 0.5) / (self.faded_judged + 1.0)
    }
}

/// An estimate handed to a rollout budget.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Estimate {
    /// The prompt.
    pub id: PromptId,
    /// Success rate over all visits in [0, 1]; `None` if the prompt was never judged.
    pub rate: Option<f64>,
    /// Completions judged so far.
    pub count: u64,
    /// Mean tokens a completion; `None` if never sampled.
    pub tokens: Option<f64>,
    /// Share right in the newest visit, and completions judged in it.
    pub newest: Option<(f64, u64)>,
    /// The newest outcomes one by one.
    pub history: History,
}

impl Estimate {
    /// The newest visit's rate if it judged at least `window` completions, else the rate of the newest
    /// `window` outcomes whatever their visit; `None` if the prompt was never judged.
    ///
    /// At most [`WINDOW`] outcomes are remembered. Source: liziniu/KnapsackRL, `rl_dataset.py`, which calls
    /// it a moving average.
    pub fn recent_rate(&self, window: usize) -> Option<f64> {
        let (rate, judged) = self.newest?;
        if judged >= window as u64 {
            return Some(rate);
        }
        match self.history.newest(window) {
            (_, 0) => Some(rate),
            (right, n) => Some(right as f64 / n as f64),
        }
    }
}

/// Success statistics by prompt.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Success(BTreeMap<PromptId, Tally>);

impl Success {
    /// Adds one visit of a prompt: its judged outcomes in order, completions sampled (missing verdicts
    /// included), and their tokens.
    pub fn record(&mut self, id: PromptId, outcomes: &[bool], sampled: u64, tokens: u64) {
        let right = outcomes.iter().filter(|right| **right).count() as u64;
        let judged = outcomes.len() as u64;
        let tally = self.0.entry(id).or_default();
        tally.right += right;
        tally.judged += judged;
        tally.sampled += sampled;
        tally.tokens += tokens;
        if judged > 0 {
            tally.last_rate = Some(right as f64 / judged as f64);
            tally.last_judged = judged;
            tally.faded_right = FADE * tally.faded_right + right as f64;
            tally.faded_judged = FADE * tally.faded_judged + judged as f64;
            tally.history.extend(outcomes);
        }
    }

    /// What is known of a prompt.
    pub fn get(&self, id: PromptId) -> Tally {
        self.0.get(&id).cloned().unwrap_or_default()
    }

    /// Prompts that were seen, in order, with what is known of each.
    pub fn iter(&self) -> impl Iterator<Item = (PromptId, &Tally)> {
        self.0.iter().map(|(&id, tally)| (id, tally))
    }

    /// Mean tokens of all completions sampled; `None` if none was.
    pub fn mean_tokens(&self) -> Option<f64> {
        let (sampled, tokens) = self.0.values().fold((0, 0), |(s, t), tally| (s + tally.sampled, t + tally.tokens));
        (sampled > 0).then(|| tokens as f64 / sampled as f64)
    }

    /// Estimates for the prompts named, in that order.
    pub fn estimates(&self, ids: &[PromptId]) -> Vec<Estimate> {
        ids.iter()
            .map(|&id| {
                let t = self.get(id);
                Estimate {
                    id,
                    rate: (t.judged > 0).then(|| t.right as f64 / t.judged as f64),
                    count: t.judged,
                    tokens: (t.sampled > 0).then(|| t.tokens as f64 / t.sampled as f64),
                    newest: t.last_rate.map(|rate| (rate, t.last_judged)),
                    history: t.history,
                }
            })
            .collect()
    }

    /// Number of prompts seen.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no prompt was seen yet.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn visits_add_up_and_survive_a_restart() {
        let mut success = Success::default();
        success.record(7, &[true, false], 3, 30);
        success.record(7, &[], 1, 10);
        success.record(7, &[false; 80], 80, 80);
        let tally = success.get(7);
        assert_eq!((tally.right, tally.judged, tally.sampled, tally.tokens), (1, 82, 84, 120));
        assert_eq!((tally.last_rate, tally.last_judged), (Some(0.0), 80));
        assert_eq!(tally.history.newest(100), (0, WINDOW));
        assert!((tally.faded_right - 0.9).abs() < 1e-15 && (tally.faded_judged - 81.8).abs() < 1e-12);
        let saved = serde_json::to_string(&success).unwrap();
        assert_eq!(serde_json::from_str::<Success>(&saved).unwrap(), success);
        assert_eq!(success.mean_tokens(), Some(120.0 / 84.0));
        assert!(serde_json::from_str::<History>("\"012\"").is_err());
    }

    #[test]
    fn a_long_visit_speaks_for_itself_and_short_ones_are_joined() {
        let mut success = Success::default();
        success.record(0, &[true, true], 2, 0);
        success.record(0, &[false], 1, 0);
        let estimate = |success: &Success| success.estimates(&[0]).remove(0);
        assert_eq!(estimate(&success).recent_rate(2), Some(0.5));
        success.record(0, &[false, false, true], 3, 0);
        assert_eq!(estimate(&success).recent_rate(2), Some(1.0 / 3.0));
        assert_eq!(Success::default().estimates(&[0])[0].recent_rate(2), None);
    }
}
