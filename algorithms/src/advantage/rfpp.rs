//! `advantage.rfpp`: REINFORCE++, whitening over all tokens of the batch.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Advantage;
use super::mix::{Mix, Rewards, rows};
use super::whiten::token_moments;
use crate::batch::Advantages;
use crate::{Batch, Metrics, Needs, Result, State, Table};

/// REINFORCE++: A = (r_i - mu) / sqrt(var + 1e-8), mu and var over all valid tokens of the batch.
///
/// A completion counts once for each of its tokens, and there is no group baseline: with few
/// prompts a step their difficulty dominates; `advantage.rfpp_baseline` takes the group mean out
/// first. With `kl_in_reward` the return differs from token to token, G_t = r_i + the penalties from t on,
/// and so does the advantage, [N,T]. Rows without score are left out and get 0.
/// Source: REINFORCE++, arXiv 2501.03262; the whitening is verl's.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Rfpp {
    /// Weight of each reward function; 1 where none is named.
    pub weights: BTreeMap<String, f64>,
    /// How several reward functions become one reward.
    pub mix: Mix,
    /// Strength of the penalty -beta sum_t (old_logp - ref_logp) on the reward; 0 = no reference model.
    pub kl_in_reward: f64,
}

impl Rfpp {
    /// The stage. Errors: settings that can never work.
    pub fn build(&self) -> Result<Box<dyn Advantage>> {
        self.rewards().validate(true)?;
        Ok(Box::new(self.clone()))
    }

    fn rewards(&self) -> Rewards<'_> {
        Rewards { stage: "advantage.rfpp", weights: &self.weights, mix: self.mix, kl_in_reward: self.kl_in_reward }
    }
}

impl Advantage for Rfpp {
    fn needs(&self) -> Needs {
        self.rewards().needs()
    }

    fn compares_within_group(&self) -> bool {
        false
    }

    fn reward_names(&self) -> Vec<String> {
        self.rewards().names()
    }

    fn apply(&mut self, batch: &mut Batch) -> Result<Metrics> {
        if self.kl_in_reward == 0.0 {
            return self.rewards().apply(batch, |rewards, batch| {
                let scored = rewards.iter().enumerate().filter_map(|(i, r)| r.map(|r| (r, batch.row_tokens(i))));
                let (mu, sd) = token_moments(scored);
                rows(rewards.iter().map(|r| r.map(|r| (r - mu) / sd)).collect())
            });
        }
        let penalty = self.rewards().penalty(batch)?;
        let outcome = self.rewards().mixed(batch)?;
        self.rewards().apply(batch, |_, batch| Advantages::Token(whitened_returns(&outcome, &penalty, &batch.mask)))
    }
}

impl State for Rfpp {}

/// Whitened return-to-go of each valid token, [N,T]; 0 elsewhere and in rows without reward.
fn whitened_returns(outcome: &[Option<f64>], penalty: &Table, mask: &Table) -> Table {
    let mut returns = Table::zeros(mask.rows(), mask.cols());
    for (i, reward) in outcome.iter().enumerate() {
        let Some(reward) = reward else { continue };
        let mut left = *reward;
        for t in (0..mask.cols()).rev() {
            left += penalty.row(i)[t];
            returns.row_mut(i)[t] = left;
        }
    }
    let mut weight = mask.clone();
    for (i, _) in outcome.iter().enumerate().filter(|(_, r)| r.is_none()) {
        weight.row_mut(i).fill(0.0);
    }
    let (mu, sd) = token_moments(returns.data().iter().copied().zip(weight.data().iter().copied()));
    returns.zip(&weight, |g, w| if w > 0.0 { (g - mu) / sd } else { 0.0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two rows of 2 and 1 tokens, beta 1/2, old - ref = (0.2, 0.4 | 1.0); rewards 1 and 0.
    /// Returns: 1 - 0.1 - 0.2 = 0.7, 1 - 0.2 = 0.8; 0 - 0.5 = -0.5. mu = 1/3, var over n - 1 = 0.523333.
    #[test]
    fn penalties_accumulate_from_the_end() {
        let mask = Table::ragged(&[vec![1.0, 1.0], vec![1.0]], 0.0);
        let mut batch = Batch::new(mask, vec![0, 0]).unwrap();
        batch.scores.names = vec!["math".into()];
        batch.scores.values = vec![vec![Some(1.0)], vec![Some(0.0)]];
        batch.old_logp = Some(Table::new(2, 2, vec![-1.0, -1.0, -1.0, f64::NAN]).unwrap());
        batch.ref_logp = Some(Table::new(2, 2, vec![-1.2, -1.4, -2.0, 7.0]).unwrap());
        let stage = Rfpp { kl_in_reward: 0.5, ..Rfpp::default() };
        let mut stage = stage.build().unwrap();
        assert!(stage.needs().ref_logp && stage.needs().old_logp);
        stage.apply(&mut batch).unwrap();
        let Some(Advantages::Token(a)) = batch.advantage else { panic!("one advantage a token") };
        let sd = (0.523_333_333_333_333_3_f64 + 1e-8).sqrt();
        let third = 1.0 / 3.0;
        for (found, wanted) in a.data().iter().zip([(0.7 - third) / sd, (0.8 - third) / sd, (-0.5 - third) / sd, 0.0]) {
            assert!((found - wanted).abs() < 1e-12, "{found} {wanted}");
        }
    }
}
