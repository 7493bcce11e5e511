//! `advantage.rloo`: leave-one-out baseline.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Advantage;
use super::mix::{Mix, Rewards, centred, rows};
use super::whiten::{mean, sample_std};
use crate::{Batch, Error, Metrics, Needs, Result, State};

/// A_i = r_i - mean of the other rewards of the group = n/(n-1) (r_i - mean_group(r)).
///
/// With `normalize` the advantages are then whitened over the batch, (A - mean)/(std + eps), rows
/// without advantage left out. Source: Back to Basics: Revisiting REINFORCE Style Optimization,
/// arXiv 2402.14740.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Rloo {
    /// Weight of each reward function; 1 where none is named.
    pub weights: BTreeMap<String, f64>,
    /// How several reward functions become one reward.
    pub mix: Mix,
    /// Strength of the penalty -beta sum_t (old_logp - ref_logp) on the reward; 0 = no reference model.
    pub kl_in_reward: f64,
    /// Whiten the advantages over the batch.
    pub normalize: bool,
    /// Added to the deviation when `normalize` is on.
    pub eps: f64,
}

impl Default for Rloo {
    fn default() -> Self {
        Self { weights: BTreeMap::new(), mix: Mix::default(), kl_in_reward: 0.0, normalize: false, eps: 1e-4 }
    }
}

impl Rloo {
    /// The stage. Errors: settings that can never work.
    pub fn build(&self) -> Result<Box<dyn Advantage>> {
        self.rewards().validate(true)?;
        if !(self.eps > 0.0 && self.eps.is_finite()) {
            let why = "equal rewards would divide by zero: set it to a small positive number such as 1e-4";
            return Err(Error::config("advantage.rloo.eps", self.eps, why));
        }
        let unweighted = Self { weights: BTreeMap::new(), mix: Mix::default(), ..self.clone() };
        Ok(self.rewards().stage(self.clone(), unweighted))
    }

    fn rewards(&self) -> Rewards<'_> {
        Rewards { stage: "advantage.rloo", weights: &self.weights, mix: &self.mix, kl_in_reward: self.kl_in_reward }
    }
}

impl Advantage for Rloo {
    fn needs(&self) -> Needs {
        self.rewards().needs()
    }

    fn reward_names(&self) -> Vec<String> {
        self.rewards().names()
    }

    fn apply(&mut self, batch: &mut Batch) -> Result<Metrics> {
        self.rewards().apply(batch, |rewards, batch| {
            let mut advantage = centred(rewards, batch);
            for group in batch.groups() {
                let n = advantage[group.clone()].iter().flatten().count() as f64;
                advantage[group].iter_mut().flatten().for_each(|a| *a *= n / (n - 1.0));
            }
            if self.normalize {
                let present: Vec<f64> = advantage.iter().flatten().copied().collect();
                let (centre, scale) = (mean(&present), sample_std(&present) + self.eps);
                advantage.iter_mut().flatten().for_each(|a| *a = (*a - centre) / scale);
            }
            rows(advantage)
        })
    }
}

impl State for Rloo {}
