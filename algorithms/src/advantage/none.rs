//! `advantage.none`: group mean as the baseline, no scale (Dr. GRPO).

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Advantage;
use super::mix::{Mix, Rewards, centred, rows};
use crate::{Batch, Metrics, Needs, Result, State};

/// A_i = r_i - mean_group(r), unscaled: the estimator of Dr. GRPO.
///
/// Without the division by the deviation, easy and hard prompts are not favoured over those in
/// between; the size of the rewards then sets the size of the update. Also the estimator to use
/// with mixers that bring their own scale. Source: Understanding R1-Zero-Like Training,
/// arXiv 2503.20783.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Unscaled {
    /// Weight of each reward function; 1 where none is named.
    pub weights: BTreeMap<String, f64>,
    /// How several reward functions become one reward.
    pub mix: Mix,
    /// Strength of the penalty -beta sum_t (old_logp - ref_logp) on the reward; 0 = no reference model.
    pub kl_in_reward: f64,
}

impl Unscaled {
    /// The stage. Errors: settings that can never work.
    pub fn build(&self) -> Result<Box<dyn Advantage>> {
        self.rewards().validate(false)?;
        let unweighted = Self { weights: BTreeMap::new(), mix: Mix::default(), ..self.clone() };
        Ok(self.rewards().stage(self.clone(), unweighted))
    }

    fn rewards(&self) -> Rewards<'_> {
        Rewards { stage: "advantage.none", weights: &self.weights, mix: &self.mix, kl_in_reward: self.kl_in_reward }
    }
}

impl Advantage for Unscaled {
    fn needs(&self) -> Needs {
        self.rewards().needs()
    }

    fn reward_names(&self) -> Vec<String> {
        self.rewards().names()
    }

    fn apply(&mut self, batch: &mut Batch) -> Result<Metrics> {
        self.rewards().apply(batch, |rewards, batch| rows(centred(rewards, batch)))
    }
}

impl State for Unscaled {}
