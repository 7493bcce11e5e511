//! `advantage.rfpp_baseline`: group mean as the baseline, then whitening over all tokens.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Advantage;
use super::mix::{Mix, Rewards, centred, rows};
use super::whiten::token_moments;
use crate::{Batch, Metrics, Needs, Result, State};

/// REINFORCE++ with baseline: r_i - mean_group(r), then whitened over all valid tokens of the batch.
///
/// As `advantage.rfpp`, but prompts of different difficulty are first made comparable; the one for
/// several completions a prompt. A group with one scored row gives 0 and is left out.
/// Source: REINFORCE++, arXiv 2501.03262; the whitening is verl's.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RfppBaseline {
    /// Weight of each reward function; 1 where none is named.
    pub weights: BTreeMap<String, f64>,
    /// How several reward functions become one reward.
    pub mix: Mix,
    /// Strength of the penalty -beta sum_t (old_logp - ref_logp) on the reward; 0 = no reference model.
    pub kl_in_reward: f64,
}

impl RfppBaseline {
    /// The stage. Errors: settings that can never work.
    pub fn build(&self) -> Result<Box<dyn Advantage>> {
        self.rewards().validate(true)?;
        let unweighted = Self { weights: BTreeMap::new(), mix: Mix::default(), ..self.clone() };
        Ok(self.rewards().stage(self.clone(), unweighted))
    }

    fn rewards(&self) -> Rewards<'_> {
        Rewards {
            stage: "advantage.rfpp_baseline",
            weights: &self.weights,
            mix: &self.mix,
            kl_in_reward: self.kl_in_reward,
        }
    }
}

impl Advantage for RfppBaseline {
    fn needs(&self) -> Needs {
        self.rewards().needs()
    }

    fn reward_names(&self) -> Vec<String> {
        self.rewards().names()
    }

    fn apply(&mut self, batch: &mut Batch) -> Result<Metrics> {
        self.rewards().apply(batch, |rewards, batch| {
            let centred = centred(rewards, batch);
            let weighted = centred.iter().enumerate().filter_map(|(i, a)| a.map(|a| (a, batch.row_tokens(i))));
            let (mu, sd) = token_moments(weighted);
            rows(centred.iter().map(|a| a.map(|a| (a - mu) / sd)).collect())
        })
    }
}

impl State for RfppBaseline {}
