//! `advantage.group`: group-relative advantages, the estimator of GRPO.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Advantage;
use super::mix::{Mix, Rewards, centred, rows};
pub use super::whiten::Deviation;
use super::whiten::std;
use crate::{Batch, Error, Metrics, Needs, Result, State};

/// Group-relative advantage, A_i = (r_i - mean(r)) / (std(r) + eps), within each prompt's group.
///
/// Equal rewards, or a group with one scored row, give exactly 0; rows without any score are left
/// out of mean and deviation and get 0. Dividing by the deviation favours very easy and very hard
/// prompts: `advantage.none` does not. Source: DeepSeekMath, arXiv 2402.03300, which does not say
/// which deviation; n - 1 and eps = 1e-4 follow TRL (verl: 1e-6).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Group {
    /// Weight of each reward function; 1 where none is named.
    pub weights: BTreeMap<String, f64>,
    /// How several reward functions become one reward.
    pub mix: Mix,
    /// Strength of the penalty -beta sum_t (old_logp - ref_logp) on the reward; 0 = no reference model.
    pub kl_in_reward: f64,
    /// Added to the deviation.
    pub eps: f64,
    /// Which deviation.
    pub std: Deviation,
    /// Advantages are cut to -clip..clip, which damps rare successes in large groups: one of n rollouts has
    /// (n - 1)/sqrt(n), 5 at n = 27. Absent = no cut; Knapsack RL uses 5.
    pub clip: Option<f64>,
}

impl Default for Group {
    fn default() -> Self {
        Self {
            weights: BTreeMap::new(),
            mix: Mix::default(),
            kl_in_reward: 0.0,
            eps: 1e-4,
            std: Deviation::Sample,
            clip: None,
        }
    }
}

impl Group {
    /// The stage. Errors: settings that can never work.
    pub fn build(&self) -> Result<Box<dyn Advantage>> {
        self.rewards().validate(true)?;
        if !(self.eps > 0.0 && self.eps.is_finite()) {
            let why = "equal rewards would divide by zero: set it to a small positive number such as 1e-4";
            return Err(Error::config("advantage.group.eps", self.eps, why));
        }
        if let Some(clip) = self.clip.filter(|c| !(*c > 0.0 && c.is_finite())) {
            return Err(Error::config("advantage.group.clip", clip, "it is a positive bound, such as 5, or left out"));
        }
        Ok(Box::new(self.clone()))
    }

    fn rewards(&self) -> Rewards<'_> {
        Rewards { stage: "advantage.group", weights: &self.weights, mix: self.mix, kl_in_reward: self.kl_in_reward }
    }
}

impl Advantage for Group {
    fn needs(&self) -> Needs {
        self.rewards().needs()
    }

    fn reward_names(&self) -> Vec<String> {
        self.rewards().names()
    }

    /// With `clip`: metric `clipped_fraction`, the share of rows that were cut.
    fn apply(&mut self, batch: &mut Batch) -> Result<Metrics> {
        let mut clipped = 0;
        let mut metrics = self.rewards().apply(batch, |rewards, batch| {
            let mut advantage = centred(rewards, batch);
            for group in batch.groups() {
                let present: Vec<f64> = rewards[group.clone()].iter().flatten().copied().collect();
                let scale = std(&present, self.std) + self.eps;
                advantage[group].iter_mut().flatten().for_each(|a| *a /= scale);
            }
            if let Some(clip) = self.clip {
                clipped = advantage.iter().flatten().filter(|a| a.abs() > clip).count();
                advantage.iter_mut().flatten().for_each(|a| *a = a.clamp(-clip, clip));
            }
            rows(advantage)
        })?;
        if self.clip.is_some() {
            metrics.mean("clipped_fraction", clipped as f64 / batch.rows() as f64, batch.rows() as f64);
        }
        Ok(metrics)
    }
}

impl State for Group {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Table;
    use crate::batch::Advantages;

    fn advantages(scores: &[f64], groups: Vec<usize>) -> Vec<f64> {
        let mut batch = Batch::new(Table::filled(groups.len(), 2, 1.0), groups).unwrap();
        batch.scores.names = vec!["math".into()];
        batch.scores.values = scores.iter().map(|&s| vec![Some(s)]).collect();
        Group::default().build().unwrap().apply(&mut batch).unwrap();
        match batch.advantage.unwrap() {
            Advantages::Row(row) => row,
            Advantages::Token(_) => panic!("one advantage a row"),
        }
    }

    /// [1, 0, 0, 1]: mean 1/2, sample deviation 1/sqrt(3); A = 0.5 / (0.57735 + 1e-4).
    #[test]
    fn hand_check() {
        let a = advantages(&[1.0, 0.0, 0.0, 1.0], vec![7, 7, 7, 7]);
        for (found, sign) in a.iter().zip([1.0, -1.0, -1.0, 1.0]) {
            assert!((found - sign * 0.865_875_429_760_701_6).abs() < 1e-15);
        }
    }

    #[test]
    fn equal_rewards_and_a_group_of_one_give_exactly_zero() {
        assert_eq!(advantages(&[0.1, 0.1, 0.1, 5.0], vec![0, 0, 0, 1]), [0.0; 4]);
    }

    #[test]
    fn permuting_a_group_permutes_its_advantages() {
        let (scores, order) = ([0.3, 1.0, -2.0, 0.0, 0.5], [3usize, 0, 4, 2, 1]);
        let a = advantages(&scores, vec![0; 5]);
        let b = advantages(&order.map(|i| scores[i]), vec![0; 5]);
        for (k, &i) in order.iter().enumerate() {
            assert!((b[k] - a[i]).abs() < 1e-14);
        }
    }

    #[test]
    fn impossible_settings_are_refused() {
        for bad in [
            Group { eps: 0.0, ..Group::default() },
            Group { clip: Some(0.0), ..Group::default() },
            Group { kl_in_reward: -1.0, ..Group::default() },
            Group { mix: Mix::NormalizeThenSum, ..Group::default() },
            Group { weights: [("math".to_owned(), f64::NAN)].into(), ..Group::default() },
        ] {
            assert!(matches!(bad.build(), Err(Error::Config { .. })), "{bad:?}");
        }
    }
}
