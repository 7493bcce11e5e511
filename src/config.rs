//! The TOML file: one field per stage, `[stage.variant]`.
//!
//! Defaults are the recommended settings of each method, so that naming a variant is choosing the
//! method. Reading a file ([`Config::load`]) refuses whatever is unknown, of the wrong type or does
//! not fit together, with line, column and fix, before a model's weights are touched. The settings
//! of the algorithm, reward and evaluation stages stand beside their implementations; what has to
//! do with models, runs and generation stands here.

mod error;
mod eval;
mod fit;
mod load;
mod model;
mod optim;
mod rollout;
mod run;
mod set;
mod shape;
mod train;
mod values;

use candlewick_algorithms::advantage::AdvantageConfig;
use candlewick_algorithms::batch::TeacherNeed;
use candlewick_algorithms::budget::rollouts::RolloutsConfig;
use candlewick_algorithms::budget::tokens::TokensConfig;
use candlewick_algorithms::credit::CreditConfig;
pub use candlewick_algorithms::objective::ObjectiveConfig;
use candlewick_algorithms::prompts::PromptsConfig;
use candlewick_rewards::RewardsConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::data::DataConfig;

pub use error::{Error, Excerpt, Place, Problem, Refusal};
pub use eval::{AskForm, BudgetWord, EvalBudget, EvalConfig};
pub use load::{Loaded, Origin, nearest};
pub use model::{Device, Dtype, LoraConfig, ModelConfig, ReferenceConfig, Switch};
pub use optim::{OptimConfig, RadiusConfig, Schedule, SpikeConfig};
pub use rollout::{DiscreteConfig, RolloutConfig, SoftConfig};
pub use run::RunConfig;
pub use shape::{Form, Key, Shape, Variant, schema};
pub use train::{OfflineConfig, OnlineConfig, RegenerateConfig, TrainConfig};

/// A run of candlewick: what to train, on what, how, and how to judge it.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "candlewick config")]
pub struct Config {
    /// Name, length, seed and output of the run.
    #[serde(default)]
    pub run: RunConfig,
    /// The model to train: checkpoint, device, number type, LoRA, reference.
    pub model: ModelConfig,
    /// Problems, demonstrations or preference pairs to train on, and those held out.
    pub data: DataConfig,
    /// Which prompts a step samples from, and which sampled groups it keeps.
    #[serde(default)]
    pub prompts: Option<PromptsConfig>,
    /// How many rollouts each prompt gets, and how long they may be.
    #[serde(default)]
    pub budget: Option<BudgetConfig>,
    /// How completions are sampled.
    #[serde(default)]
    pub rollout: Option<RolloutConfig>,
    /// What a completion is scored by: one section a reward, all of them at once.
    #[serde(default)]
    pub reward: Option<RewardsConfig>,
    /// How scores become advantages.
    #[serde(default)]
    pub advantage: Option<AdvantageConfig>,
    /// How a completion's advantage is spread over its tokens.
    #[serde(default)]
    pub credit: Option<CreditConfig>,
    /// What is minimised.
    pub objective: ObjectiveConfig,
    /// The optimiser: AdamW, its schedule and its guards.
    #[serde(default)]
    pub optim: OptimConfig,
    /// How rollouts or examples are cut into updates.
    #[serde(default)]
    pub train: Option<TrainConfig>,
    /// What the model is tested on, and when.
    #[serde(default)]
    pub eval: EvalConfig,
}

/// How many rollouts each prompt gets, and how long they may be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BudgetConfig {
    /// Rollouts of each prompt.
    pub rollouts: RolloutsConfig,
    /// Length of a completion in tokens.
    pub tokens: TokensConfig,
}

/// The sections of a run that samples its own completions.
#[derive(Debug, Clone, Copy)]
pub struct Online<'a> {
    /// Steps of the run, one rollout batch each.
    pub steps: usize,
    /// Which prompts.
    pub prompts: &'a PromptsConfig,
    /// How many rollouts, and how long.
    pub budget: &'a BudgetConfig,
    /// How they are sampled.
    pub rollout: &'a RolloutConfig,
    /// How they are scored; no reward at all where the objective reads none.
    pub reward: &'a RewardsConfig,
    /// How scores become advantages; `None` where the objective reads none.
    pub advantage: Option<&'a AdvantageConfig>,
    /// How advantages are spread; `None` where the objective reads none.
    pub credit: Option<&'a CreditConfig>,
    /// How a rollout batch is cut into updates.
    pub train: OnlineConfig,
}

/// The sections of a run on given examples, or on pairs that it makes between epochs.
#[derive(Debug, Clone)]
pub struct Offline {
    /// Optimiser steps, if the run has a limit other than its epochs.
    pub steps: Option<usize>,
    /// How examples are cut into updates.
    pub train: OfflineConfig,
}

impl Offline {
    /// Whether it learns from the answers that the data give; otherwise from the policy's own alone.
    pub fn reads_given_answers(&self) -> bool {
        self.train.regenerate.as_ref().is_none_or(|r| r.start_epoch > 0)
    }
}

/// The two kinds of run.
#[derive(Debug, Clone)]
pub enum Kind<'a> {
    /// Samples completions from the policy in every step.
    Online(Online<'a>),
    /// Learns from examples, given ones or pairs made between epochs.
    Offline(Offline),
}

impl Config {
    /// Steps of an online run that states none.
    pub const ONLINE_STEPS: usize = 100;

    /// The sections that this kind of run reads.
    pub fn kind(&self) -> Kind<'_> {
        static NO_REWARD: std::sync::OnceLock<RewardsConfig> = std::sync::OnceLock::new();
        let reward = self.reward.as_ref().unwrap_or_else(|| NO_REWARD.get_or_init(RewardsConfig::default));
        let (Some(prompts), Some(budget), Some(rollout)) = (&self.prompts, &self.budget, &self.rollout) else {
            let train = match &self.train {
                Some(TrainConfig::Offline(train)) => train.clone(),
                _ => OfflineConfig::default(),
            };
            return Kind::Offline(Offline { steps: self.run.steps, train });
        };
        let train = match self.train {
            Some(TrainConfig::Online(train)) => train,
            _ => OnlineConfig::default(),
        };
        Kind::Online(Online {
            steps: self.run.steps.unwrap_or(Self::ONLINE_STEPS),
            prompts,
            budget,
            rollout,
            reward,
            advantage: self.advantage.as_ref(),
            credit: self.credit.as_ref(),
            train,
        })
    }

    /// Whether all that is asked of the reference is asked before the first step, and the reference then dropped: log-probs
    /// of given tokens, or a few tokens of a teacher, from a model that stays where it is.
    pub fn asks_reference_once(&self) -> bool {
        let is_fixed = self.model.reference.as_ref().is_none_or(|r| r.sync_steps.is_none());
        let needs = self.objective.build().map(|o| o.needs()).unwrap_or_default();
        let is_whole = needs.teacher == Some(TeacherNeed::Full);
        is_fixed && needs.reference() && !is_whole && matches!(self.kind(), Kind::Offline(_))
    }

    /// The resolved settings as TOML, which parses to the same settings.
    pub fn to_toml(&self) -> String {
        let text = toml::to_string(self).expect("every section is a table of plain values");
        text.lines().map(|line| short_number(line) + "\n").collect()
    }

    /// Fills in what depends on other sections or on the file's name.
    fn complete(&mut self, file: &str) {
        if self.run.name.is_empty() {
            let stem = std::path::Path::new(file).file_stem().and_then(|s| s.to_str());
            self.run.name = stem.unwrap_or("run").to_owned();
        }
    }
}

/// A line of TOML, with a very small number written as `1e-6`.
fn short_number(line: &str) -> String {
    match line.split_once(" = ").map(|(key, value)| (key, value.parse::<f64>())) {
        Some((key, Ok(value))) if value != 0.0 && value.abs() < 1e-3 => format!("{key} = {value:e}"),
        _ => line.to_owned(),
    }
}
