//! The rewards of a run: the traits, the registry, and the grader that runs them over a batch.
//!
//! Each reward is one file of this folder: its config, its implementation, its documentation and its
//! tests. To add one, write the file, add one `pub mod` line and one line to the list below.
//! Weighting and mixing of rewards are not done here.

use std::sync::Arc;

use async_trait::async_trait;
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub mod format;
pub mod length;
pub mod math;
pub mod overlong;
pub mod repetition;

/// What a reward may look at: one completion of one prompt, and what the data says of the prompt.
#[derive(Debug, Clone, Default)]
pub struct Item {
    /// The prompt as the model saw it.
    pub prompt: String,
    /// The completion, special tokens removed.
    pub completion: String,
    /// The reference answer, when the data has one.
    pub answer: Option<String>,
    /// Every other column of the data row.
    pub meta: serde_json::Map<String, serde_json::Value>,
    /// Length of the completion in tokens, the end-of-sequence token included.
    pub completion_tokens: usize,
    /// Whether generation stopped at the cap and not at an end-of-sequence token.
    pub is_truncated: bool,
    /// The token budget that the prompt states, when it states one.
    pub told: Option<usize>,
    /// Where generation stops, in completion tokens, when it has a cap.
    pub cap: Option<usize>,
    /// What the verdict reward said of this completion. [`Rewards::grade`] fills it in before the
    /// rewards that ask for it ([`Reward::needs_verdict`]) are run.
    pub verdict: Option<f64>,
}

/// Why a completion has no score. A failure is never a number.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RewardError {
    /// The item lacks something that the reward needs.
    #[error("reward `{reward}` needs {what}: {fix}")]
    Missing {
        /// Name of the reward.
        reward: String,
        /// What is missing.
        what: &'static str,
        /// What to do about it.
        fix: &'static str,
    },
    /// The reward was computed and is not a finite number.
    #[error("reward `{reward}` gave `{value}`: scores must be finite")]
    NonFinite {
        /// Name of the reward.
        reward: String,
        /// The value it gave.
        value: f64,
    },
    /// The reward answered with another number of scores than it was asked for.
    #[error("reward `{reward}` gave {found} scores for {expected} completions")]
    WrongCount {
        /// Name of the reward.
        reward: String,
        /// Number of items.
        expected: usize,
        /// Number of scores.
        found: usize,
    },
    /// The reward could not be computed: a program, a service or a check failed.
    #[error("reward `{reward}` failed: {message}")]
    Failed {
        /// Name of the reward.
        reward: String,
        /// What happened, in one line.
        message: String,
    },
}

/// Why the `[reward]` section cannot be built.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A key has a value it cannot have.
    #[error("`reward.{key}` is `{value}`: {fix}")]
    BadValue {
        /// The key, without the leading `reward.`.
        key: String,
        /// The value found.
        value: String,
        /// What is allowed.
        fix: String,
    },
    /// No reward section at all.
    #[error("[reward] names no reward: add a section such as [reward.math]")]
    Empty,
    /// A stage needs to know right from wrong and no reward says so.
    #[error(
        "no binary reward says which answers are right: add [reward.math], or set `reward.verdict` to one of {present}"
    )]
    NoVerdict {
        /// The rewards that are configured.
        present: String,
    },
    /// A stage needs to know right from wrong and several rewards say so.
    #[error("several binary rewards say which answers are right ({candidates}): set `reward.verdict` to one of them")]
    AmbiguousVerdict {
        /// The binary rewards.
        candidates: String,
    },
    /// `verdict` names a reward that is not configured.
    #[error("`reward.verdict` is `{name}`, which is not configured: use one of {present}")]
    UnknownVerdict {
        /// The name given.
        name: String,
        /// The rewards that are configured.
        present: String,
    },
    /// `verdict` names a reward that itself waits for the verdict.
    #[error("`reward.verdict` is `{name}`, which itself depends on the verdict: name another reward")]
    CircularVerdict {
        /// The name given.
        name: String,
    },
}

/// A reward: scores a batch of completions, at its own pace.
#[async_trait]
pub trait Reward: Send + Sync {
    /// The name of its section: `math` for `[reward.math]`.
    fn name(&self) -> &str;

    /// One score or failure an item, in the order of `items`. A score is finite.
    async fn score(&self, items: &[Item]) -> Vec<Result<f64, RewardError>>;

    /// Whether its scores are 1 for a right and 0 for a wrong answer, so that it can be the verdict.
    fn is_binary(&self) -> bool;

    /// Whether it reads [`Item::verdict`] and so must run after the verdict reward.
    fn needs_verdict(&self) -> bool {
        false
    }
}

/// A reward that looks at one item at a time, waits for nothing and reads nothing else.
///
/// Every such type is a [`Reward`]: the batch is scored on all cores, and a long batch does not block
/// the runtime's other tasks longer than its own computing time.
pub trait PerItem: Send + Sync {
    /// The name of its section.
    fn name(&self) -> &str;

    /// The score of one item.
    fn score(&self, item: &Item) -> Result<f64, RewardError>;

    /// See [`Reward::is_binary`].
    fn is_binary(&self) -> bool {
        false
    }

    /// See [`Reward::needs_verdict`].
    fn needs_verdict(&self) -> bool {
        false
    }
}

#[async_trait]
impl<T: PerItem> Reward for T {
    fn name(&self) -> &str {
        PerItem::name(self)
    }

    async fn score(&self, items: &[Item]) -> Vec<Result<f64, RewardError>> {
        items.par_iter().map(|item| PerItem::score(self, item)).collect()
    }

    fn is_binary(&self) -> bool {
        PerItem::is_binary(self)
    }

    fn needs_verdict(&self) -> bool {
        PerItem::needs_verdict(self)
    }
}

/// The config section of one reward.
pub trait RewardSection {
    /// Checks the values and builds the reward.
    fn build(&self) -> Result<Box<dyn Reward>, ConfigError>;
}

/// Declares [`RewardsConfig`] from the list of rewards, and what is derived from the list.
macro_rules! registry {
    ($($name:ident => $section:ty,)*) => {
        /// The rewards of a run, one section a reward, and which of them says right or wrong.
        #[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields, default)]
        pub struct RewardsConfig {
            /// Name of the reward that says whether an answer is right. Default: the only binary one.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub verdict: Option<String>,
            /// Largest share of completions, from 0 to 1, that one reward may fail to score in a step
            /// before the run stops.
            pub max_failed_share: f64,
            $(
                #[doc = concat!("The `", stringify!($name), "` reward.")]
                #[serde(skip_serializing_if = "Option::is_none")]
                pub $name: Option<$section>,
            )*
        }

        impl Default for RewardsConfig {
            fn default() -> Self {
                RewardsConfig { verdict: None, max_failed_share: 0.1, $($name: None,)* }
            }
        }

        impl RewardsConfig {
            /// Every reward that can be configured, in the order of the list.
            pub const NAMES: &'static [&'static str] = &[$(stringify!($name)),*];

            /// Builds the configured rewards in the order of the list.
            ///
            /// Errors: a value that cannot be, or no reward at all.
            pub fn build(&self) -> Result<Vec<Box<dyn Reward>>, ConfigError> {
                if !(0.0..=1.0).contains(&self.max_failed_share) {
                    return Err(ConfigError::BadValue {
                        key: "max_failed_share".into(),
                        value: self.max_failed_share.to_string(),
                        fix: "a share lies between 0 and 1".into(),
                    });
                }
                let mut rewards = Vec::new();
                $(if let Some(section) = &self.$name {
                    rewards.push(section.build()?);
                })*
                if rewards.is_empty() {
                    return Err(ConfigError::Empty);
                }
                Ok(rewards)
            }
        }
    };
}

registry! {
    math => math::MathConfig,
    format => format::FormatConfig,
    length => length::LengthConfig,
    overlong => overlong::OverlongConfig,
    repetition => repetition::RepetitionConfig,
}

/// The scores of one batch.
#[derive(Debug, Clone)]
pub struct Graded {
    /// A column for each reward, in the order of [`Rewards::names`]: one result an item.
    pub scores: Vec<Vec<Result<f64, RewardError>>>,
    /// What the verdict reward said, an item each: `None` where it failed or where there is none.
    pub verdict: Vec<Option<f64>>,
}

impl Graded {
    /// Share of items that reward `column` could not score, between 0 and 1; 0 for an empty batch.
    pub fn failed_share(&self, column: usize) -> f64 {
        let column = &self.scores[column];
        let failed = column.iter().filter(|score| score.is_err()).count();
        failed as f64 / column.len().max(1) as f64
    }
}

/// The configured rewards, ready to score batches.
#[derive(Clone)]
pub struct Rewards {
    rewards: Vec<Arc<dyn Reward>>,
    verdict: Result<usize, ConfigError>,
    max_failed_share: f64,
}

impl Rewards {
    /// Builds what `config` names.
    ///
    /// Errors: those of [`RewardsConfig::build`], and a `verdict` that names no configured reward.
    /// That no reward can be the verdict is an error only when one is needed: see [`Rewards::verdict`].
    pub fn new(config: &RewardsConfig) -> Result<Self, ConfigError> {
        Self::with(config.build()?, config.verdict.as_deref(), config.max_failed_share)
    }

    /// Takes rewards that were built elsewhere (a reward model, say), the name of the verdict reward
    /// and the largest share of failures.
    pub fn with(
        rewards: Vec<Box<dyn Reward>>,
        verdict: Option<&str>,
        max_failed_share: f64,
    ) -> Result<Self, ConfigError> {
        let rewards: Vec<Arc<dyn Reward>> = rewards.into_iter().map(Arc::from).collect();
        let verdict = find_verdict(&rewards, verdict);
        if let Err(error @ (ConfigError::UnknownVerdict { .. } | ConfigError::CircularVerdict { .. })) = verdict {
            return Err(error);
        }
        if rewards.iter().any(|reward| reward.needs_verdict()) {
            verdict.clone()?;
        }
        Ok(Rewards { rewards, verdict, max_failed_share })
    }

    /// The names of the rewards, in the order of the score columns.
    pub fn names(&self) -> Vec<&str> {
        self.rewards.iter().map(|reward| reward.name()).collect()
    }

    /// The column of the reward that says right or wrong.
    ///
    /// Errors: none or several rewards are binary and `verdict` names none.
    pub fn verdict(&self) -> Result<usize, ConfigError> {
        self.verdict.clone()
    }

    /// Whether the verdict reward says 1 or 0 and nothing in between; false where there is none.
    pub fn is_verdict_binary(&self) -> bool {
        self.verdict.as_ref().is_ok_and(|&column| self.rewards[column].is_binary())
    }

    /// Scores a batch: the verdict reward first, then the others side by side.
    ///
    /// A score that is not finite and a wrong number of scores become failures of that reward.
    pub async fn grade(&self, items: &[Item]) -> Graded {
        let mut scores: Vec<Option<Vec<Result<f64, RewardError>>>> = vec![None; self.rewards.len()];
        let mut items = items.to_vec();
        let mut verdict = vec![None; items.len()];
        if let Ok(column) = self.verdict {
            let first = checked(self.rewards[column].as_ref(), &items).await;
            for ((item, verdict), score) in items.iter_mut().zip(&mut verdict).zip(&first) {
                *verdict = score.as_ref().ok().copied();
                item.verdict = *verdict;
            }
            scores[column] = Some(first);
        }
        let items: Arc<[Item]> = items.into();
        let mut running = tokio::task::JoinSet::new();
        for (column, reward) in self.rewards.iter().enumerate() {
            if scores[column].is_none() {
                let (reward, items) = (Arc::clone(reward), Arc::clone(&items));
                running.spawn(async move { (column, checked(reward.as_ref(), &items).await) });
            }
        }
        while let Some(done) = running.join_next().await {
            match done {
                Ok((column, column_scores)) => scores[column] = Some(column_scores),
                Err(error) => tracing::error!(%error, "a reward task ended early"),
            }
        }
        let scores = scores.into_iter().zip(&self.rewards).map(|(column, reward)| {
            column.unwrap_or_else(|| {
                let error = RewardError::Failed { reward: reward.name().into(), message: "the reward panicked".into() };
                vec![Err(error); items.len()]
            })
        });
        Graded { scores: scores.collect(), verdict }
    }

    /// The first reward whose share of failures in `graded` is above the configured one, with that
    /// share and one of its failures.
    pub fn too_many_failures<'a>(&self, graded: &'a Graded) -> Option<(&str, f64, &'a RewardError)> {
        self.rewards.iter().enumerate().find_map(|(column, reward)| {
            let share = graded.failed_share(column);
            let failure = graded.scores[column].iter().find_map(|score| score.as_ref().err())?;
            (share > self.max_failed_share).then_some((reward.name(), share, failure))
        })
    }
}

async fn checked(reward: &dyn Reward, items: &[Item]) -> Vec<Result<f64, RewardError>> {
    let name = || reward.name().to_string();
    let scores = reward.score(items).await;
    if scores.len() != items.len() {
        let error = RewardError::WrongCount { reward: name(), expected: items.len(), found: scores.len() };
        return vec![Err(error); items.len()];
    }
    let finite = |value: f64| {
        if value.is_finite() { Ok(value) } else { Err(RewardError::NonFinite { reward: name(), value }) }
    };
    scores.into_iter().map(|score| score.and_then(finite)).collect()
}

fn find_verdict(rewards: &[Arc<dyn Reward>], named: Option<&str>) -> Result<usize, ConfigError> {
    let list = |only_binary: bool| {
        let names: Vec<String> = rewards
            .iter()
            .filter(|reward| !only_binary || reward.is_binary())
            .map(|reward| format!("`{}`", reward.name()))
            .collect();
        names.join(", ")
    };
    if let Some(name) = named {
        let column = rewards
            .iter()
            .position(|reward| reward.name() == name)
            .ok_or_else(|| ConfigError::UnknownVerdict { name: name.into(), present: list(false) })?;
        if rewards[column].needs_verdict() {
            return Err(ConfigError::CircularVerdict { name: name.into() });
        }
        return Ok(column);
    }
    let binary: Vec<usize> = (0..rewards.len()).filter(|&column| rewards[column].is_binary()).collect();
    match binary[..] {
        [column] => Ok(column),
        [] => Err(ConfigError::NoVerdict { present: list(false) }),
        _ => Err(ConfigError::AmbiguousVerdict { candidates: list(true) }),
    }
}

#[cfg(test)]
mod golden_tests;
#[cfg(test)]
mod tests;
