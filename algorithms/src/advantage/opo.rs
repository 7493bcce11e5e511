//! `advantage.opo`: length-weighted baseline.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Advantage;
use super::mix::{Mix, Rewards, rows};
use crate::{Batch, Metrics, Needs, Result, State};

/// A_i = r_i - b, with the length-weighted baseline b = sum_i n_i r_i / sum_i n_i of the group.
///
/// n_i counts the unmasked tokens of a completion. The baseline of least variance when the
/// gradient of a completion grows with its length. A group with one scored row, or without tokens,
/// gives 0. Source: On-Policy RL with Optimal Reward Baseline, arXiv 2505.23585.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Opo {
    /// Weight of each reward function; 1 where none is named.
    pub weights: BTreeMap<String, f64>,
    /// How several reward functions become one reward.
    pub mix: Mix,
    /// Strength of the penalty -beta sum_t (old_logp - ref_logp) on the reward; 0 = no reference model.
    pub kl_in_reward: f64,
}

impl Opo {
    /// The stage. Errors: settings that can never work.
    pub fn build(&self) -> Result<Box<dyn Advantage>> {
        self.rewards().validate(true)?;
        let unweighted = Self { weights: BTreeMap::new(), mix: Mix::default(), ..self.clone() };
        Ok(self.rewards().stage(self.clone(), unweighted))
    }

    fn rewards(&self) -> Rewards<'_> {
        Rewards { stage: "advantage.opo", weights: &self.weights, mix: &self.mix, kl_in_reward: self.kl_in_reward }
    }
}

impl Advantage for Opo {
    fn needs(&self) -> Needs {
        self.rewards().needs()
    }

    fn reward_names(&self) -> Vec<String> {
        self.rewards().names()
    }

    fn apply(&mut self, batch: &mut Batch) -> Result<Metrics> {
        self.rewards().apply(batch, |rewards, batch| {
            let mut advantage = vec![None; rewards.len()];
            for group in batch.groups() {
                let scored: Vec<(usize, f64)> = group.filter_map(|i| rewards[i].map(|r| (i, r))).collect();
                let tokens: f64 = scored.iter().map(|&(i, _)| batch.row_tokens(i)).sum();
                if scored.len() < 2 || tokens == 0.0 {
                    continue;
                }
                // From the first reward on, so that equal rewards give exactly 0.
                let first = scored[0].1;
                let surplus: f64 = scored.iter().map(|&(i, r)| batch.row_tokens(i) * (r - first)).sum();
                for (i, r) in scored {
                    advantage[i] = Some(r - (first + surplus / tokens));
                }
            }
            rows(advantage)
        })
    }
}

impl State for Opo {}
