//! `advantage.batch`: group mean as the baseline, one scale for the whole batch.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Advantage;
use super::mix::{Mix, Rewards, centred, rows};
use super::whiten::sample_std;
use crate::{Batch, Error, Metrics, Needs, Result, State};

/// A_i = (r_i - mean_group(r)) / (std_batch(r) + eps): the group's mean, the batch's deviation.
///
/// The deviation is the sample deviation of every scored row of the generation batch, so an easy
/// prompt is not blown up by its own small deviation. Source: Lite PPO, arXiv 2508.08221.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BatchScaled {
    /// Weight of each reward function; 1 where none is named.
    pub weights: BTreeMap<String, f64>,
    /// How several reward functions become one reward.
    pub mix: Mix,
    /// Strength of the penalty -beta sum_t (old_logp - ref_logp) on the reward; 0 = no reference model.
    pub kl_in_reward: f64,
    /// Added to the deviation.
    pub eps: f64,
}

impl Default for BatchScaled {
    fn default() -> Self {
        Self { weights: BTreeMap::new(), mix: Mix::default(), kl_in_reward: 0.0, eps: 1e-4 }
    }
}

impl BatchScaled {
    /// The stage. Errors: settings that can never work.
    pub fn build(&self) -> Result<Box<dyn Advantage>> {
        self.rewards().validate(true)?;
        if !(self.eps > 0.0 && self.eps.is_finite()) {
            let why = "equal rewards would divide by zero: set it to a small positive number such as 1e-4";
            return Err(Error::config("advantage.batch.eps", self.eps, why));
        }
        let unweighted = Self { weights: BTreeMap::new(), mix: Mix::default(), ..self.clone() };
        Ok(self.rewards().stage(self.clone(), unweighted))
    }

    fn rewards(&self) -> Rewards<'_> {
        Rewards { stage: "advantage.batch", weights: &self.weights, mix: &self.mix, kl_in_reward: self.kl_in_reward }
    }
}

impl Advantage for BatchScaled {
    fn needs(&self) -> Needs {
        self.rewards().needs()
    }

    fn reward_names(&self) -> Vec<String> {
        self.rewards().names()
    }

    fn apply(&mut self, batch: &mut Batch) -> Result<Metrics> {
        self.rewards().apply(batch, |rewards, batch| {
            let present: Vec<f64> = rewards.iter().flatten().copied().collect();
            let scale = sample_std(&present) + self.eps;
            let mut advantage = centred(rewards, batch);
            advantage.iter_mut().flatten().for_each(|a| *a /= scale);
            rows(advantage)
        })
    }
}

impl State for BatchScaled {}
