//! The rewards of a run: the traits, the registry, and the grader that runs them over a batch.
//!
//! Each reward is one file of this folder: its config, its implementation, its documentation and its
//! tests. To add one, write the file, add one `pub mod` line and one line to the list below.
//! Weighting and mixing of rewards are not done here.

use async_trait::async_trait;
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub mod choice;
pub mod code;
pub mod code_tests;
pub mod command;
pub mod format;
mod grading;
pub mod http;
pub mod judge;
mod judge_cache;
pub mod length;
pub mod length_scaled;
#[cfg(test)]
mod loopback;
pub mod math;
pub mod overlong;
pub mod pairwise;
pub mod repetition;
pub mod reward_model;
pub mod service;
pub mod verification;
pub mod verifier;

pub use grading::{Graded, Grading, Rewards};

/// What a reward may look at: one completion of one prompt, and what the data says of the prompt.
#[derive(Debug, Clone, Default)]
pub struct Item {
    /// Name of the data row.
    pub id: String,
    /// The problem as the data state it, without template and system prompt.
    pub question: String,
    /// The turns of the prompt, role and text each, where the data have messages.
    pub turns: Vec<(String, String)>,
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

impl Item {
    /// Everything that programs, services and templates may see: `id`, `question`, `prompt`,
    /// `completion`, `answer`, `completion_tokens`, `is_truncated`, `told`, `verdict`, and under
    /// `meta` every other column of the data.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "id": self.id, "question": self.question, "prompt": self.prompt, "completion": self.completion,
            "answer": self.answer, "completion_tokens": self.completion_tokens, "is_truncated": self.is_truncated,
            "told": self.told, "verdict": self.verdict, "meta": self.meta,
        })
    }
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
    /// A model, program or file that the section names cannot be used.
    #[error("[reward.{reward}] cannot be built: {message}")]
    Unusable {
        /// The reward.
        reward: String,
        /// Why not.
        message: String,
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

impl RewardError {
    /// A failure of the reward `name`, with what happened.
    pub fn failed(name: &str, message: impl std::fmt::Display) -> Self {
        RewardError::Failed { reward: name.into(), message: message.to_string() }
    }
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

    /// Whether it fails on every completion of a problem that has no reference answer.
    fn needs_answer(&self) -> bool {
        false
    }

    /// Whether it wants all completions of a step at once, when sampling is over, rather than each as
    /// it is finished.
    fn is_batched(&self) -> bool {
        false
    }

    /// Called once before the first step: starts programs, tries sandboxes and services.
    ///
    /// Returns lines for the run's account. Errors: what would make every score fail.
    async fn start(&self) -> Result<Vec<String>, RewardError> {
        Ok(Vec::new())
    }

    /// Why the data of this item cannot be used, whatever the completion; `None` if they can.
    fn doubt(&self, _item: &Item) -> Option<String> {
        None
    }

    /// Called once a step, 0 for the first, when all its completions are graded: figures of its own since the
    /// last call, under bare names.
    async fn figures(&self, _step: usize) -> Vec<(String, f64)> {
        Vec::new()
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

    /// See [`Reward::needs_answer`].
    fn needs_answer(&self) -> bool {
        false
    }

    /// See [`Reward::doubt`].
    fn doubt(&self, _item: &Item) -> Option<String> {
        None
    }
}

#[async_trait]
impl<T: PerItem> Reward for T {
    fn name(&self) -> &str {
        PerItem::name(self)
    }

    async fn score(&self, items: &[Item]) -> Vec<Result<f64, RewardError>> {
        if let [item] = items {
            return vec![PerItem::score(self, item)];
        }
        items.par_iter().map(|item| PerItem::score(self, item)).collect()
    }

    fn is_binary(&self) -> bool {
        PerItem::is_binary(self)
    }

    fn needs_verdict(&self) -> bool {
        PerItem::needs_verdict(self)
    }

    fn needs_answer(&self) -> bool {
        PerItem::needs_answer(self)
    }

    fn doubt(&self, item: &Item) -> Option<String> {
        PerItem::doubt(self, item)
    }
}

/// The config section of one reward.
pub trait RewardSection {
    /// Checks the values and builds the reward; what needs a model is built by `models`.
    fn build(&self, models: &dyn Models) -> Result<Box<dyn Reward>, ConfigError>;
}

/// What this crate has none of: the models behind rewards.
pub trait Models {
    /// Loads a sequence-classification model.
    fn reward_model(&self, config: &reward_model::RewardModelConfig) -> Result<Box<dyn Reward>, ConfigError>;
    /// Loads a language model that compares answers.
    fn verifier(&self, config: &verifier::VerifierConfig) -> Result<Box<dyn Reward>, ConfigError>;
}

/// Loads no model, for checks of a config: what needs one is there by name and fails to score.
pub struct NoModels;

struct Unloaded {
    name: &'static str,
    is_binary: bool,
    needs_answer: bool,
}

#[async_trait]
impl Reward for Unloaded {
    fn name(&self) -> &str {
        self.name
    }

    async fn score(&self, items: &[Item]) -> Vec<Result<f64, RewardError>> {
        items.iter().map(|_| Err(RewardError::failed(self.name, "its model was not loaded"))).collect()
    }

    fn is_binary(&self) -> bool {
        self.is_binary
    }

    fn needs_answer(&self) -> bool {
        self.needs_answer
    }
}

impl Models for NoModels {
    fn reward_model(&self, config: &reward_model::RewardModelConfig) -> Result<Box<dyn Reward>, ConfigError> {
        Ok(Box::new(Unloaded { name: "reward_model", is_binary: false, needs_answer: config.subtract_reference }))
    }

    fn verifier(&self, config: &verifier::VerifierConfig) -> Result<Box<dyn Reward>, ConfigError> {
        Ok(Box::new(Unloaded { name: "verifier", is_binary: config.is_binary(), needs_answer: true }))
    }
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
                RewardsConfig { verdict: None, max_failed_share: 0.05, $($name: None,)* }
            }
        }

        impl RewardsConfig {
            /// Every reward that can be configured, in the order of the list.
            pub const NAMES: &'static [&'static str] = &[$(stringify!($name)),*];

            /// Builds the configured rewards in the order of the list.
            ///
            /// Errors: a value that cannot be, or no reward at all.
            pub fn build(&self, models: &dyn Models) -> Result<Vec<Box<dyn Reward>>, ConfigError> {
                if !(0.0..=1.0).contains(&self.max_failed_share) {
                    return Err(ConfigError::BadValue {
                        key: "max_failed_share".into(),
                        value: self.max_failed_share.to_string(),
                        fix: "a share lies between 0 and 1".into(),
                    });
                }
                let mut rewards = Vec::new();
                $(if let Some(section) = &self.$name {
                    rewards.push(section.build(models)?);
                })*
                if rewards.is_empty() {
                    return Err(ConfigError::Empty);
                }
                Ok(rewards)
            }
        }
    };
}

impl RewardsConfig {
    /// The sections whose rewards need a model, if there are any.
    pub fn with_models(&self) -> Option<RewardsConfig> {
        let (verifier, reward_model) = (self.verifier.clone(), self.reward_model.clone());
        let is_any = verifier.is_some() || reward_model.is_some();
        is_any.then(|| RewardsConfig { verifier, reward_model, ..RewardsConfig::default() })
    }
}

registry! {
    math => math::MathConfig,
    choice => choice::ChoiceConfig,
    code => code::CodeConfig,
    verifier => verifier::VerifierConfig,
    reward_model => reward_model::RewardModelConfig,
    judge => judge::JudgeConfig,
    command => command::CommandConfig,
    http => http::HttpConfig,
    format => format::FormatConfig,
    length => length::LengthConfig,
    length_scaled => length_scaled::LengthScaledConfig,
    overlong => overlong::OverlongConfig,
    repetition => repetition::RepetitionConfig,
}

#[cfg(test)]
mod golden_tests;
#[cfg(test)]
mod tests;
