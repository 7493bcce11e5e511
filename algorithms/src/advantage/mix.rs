//! How several reward functions become one reward a row, before the baseline.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::whiten::{mean, sample_std};
use crate::batch::Advantages;
use crate::{Batch, Error, Metrics, Needs, Result, Table};

/// How several reward functions are mixed into one.
///
/// A reward function that gave no score to a row is left out of that row's sum and of the
/// function's statistics; a row without any score has no reward and advantage 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mix {
    /// r = sum_k w_k R_k over the scores that are there; the estimator normalises the sum. Different
    /// reward patterns with equal sums become indistinguishable.
    #[default]
    SumThenNormalize,
    /// Each function is standardised within its group (sample deviation + 1e-4), summed with the
    /// weights, and the sum standardised over the batch. It brings its own baseline and scale, so
    /// only `advantage.none` takes it. Source: GDPO, arXiv 2601.05242.
    NormalizeThenSum,
}

/// Deviation added by [`Mix::NormalizeThenSum`] to both of its denominators.
const NORMALIZE_EPS: f64 = 1e-4;

/// The options that every score-based estimator shares.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rewards<'a> {
    /// Stage and variant.
    pub(super) stage: &'static str,
    /// Weight of each reward function; 1 where none is named.
    pub(super) weights: &'a BTreeMap<String, f64>,
    /// How they are mixed.
    pub(super) mix: Mix,
    /// beta of the penalty -beta sum_t (old_logp - ref_logp) on the reward.
    pub(super) kl_in_reward: f64,
}

impl Rewards<'_> {
    /// Refuses values that can never work. `normalizes` says whether the estimator has a baseline
    /// or a scale of its own.
    pub(super) fn validate(&self, normalizes: bool) -> Result<()> {
        let key = |name: &str| format!("{}.{name}", self.stage);
        for (name, &weight) in self.weights {
            if !weight.is_finite() {
                return Err(Error::config(key(&format!("weights.{name}")), weight, "a weight is a finite number"));
            }
        }
        if !(self.kl_in_reward >= 0.0 && self.kl_in_reward.is_finite()) {
            let why = "a penalty is 0 (off) or a positive number";
            return Err(Error::config(key("kl_in_reward"), self.kl_in_reward, why));
        }
        if self.mix == Mix::NormalizeThenSum {
            if normalizes {
                let why =
                    "it brings its own baseline and scale, which this estimator would repeat: use [advantage.none]";
                return Err(Error::config(key("mix"), "normalize_then_sum", why));
            }
            if self.kl_in_reward > 0.0 {
                let why = "the penalty belongs to a sum of rewards that is normalised afterwards: set `kl_in_reward` to 0, or `mix` to `sum_then_normalize`";
                return Err(Error::config(key("mix"), "normalize_then_sum", why));
            }
        }
        Ok(())
    }

    /// Log-probs of the policy and the reference, if the reward is penalised.
    pub(super) fn needs(&self) -> Needs {
        let penalised = self.kl_in_reward > 0.0;
        Needs { old_logp: penalised, ref_logp: penalised, ..Needs::default() }
    }

    /// Reward functions that have a weight.
    pub(super) fn names(&self) -> Vec<String> {
        self.weights.keys().cloned().collect()
    }

    /// Mixes the rewards of the batch, penalised; hands them to the estimator, and fills the column.
    pub(super) fn apply(
        &self,
        batch: &mut Batch,
        estimate: impl FnOnce(&[Option<f64>], &Batch) -> Advantages,
    ) -> Result<Metrics> {
        let mut rewards = self.mixed(batch)?;
        if self.kl_in_reward > 0.0 {
            let penalty = self.penalty(batch)?;
            for (i, reward) in rewards.iter_mut().enumerate() {
                *reward = reward.map(|r| r + penalty.row(i).iter().sum::<f64>());
            }
        }
        let metrics = statistics(&rewards, batch);
        batch.advantage = Some(estimate(&rewards, batch));
        batch.reward = Some(rewards);
        Ok(metrics)
    }

    /// One reward a row, without the penalty; `None` where no function scored the row, [N].
    pub(super) fn mixed(&self, batch: &Batch) -> Result<Vec<Option<f64>>> {
        let scores = &batch.scores;
        if let Some(unknown) = self.weights.keys().find(|name| !scores.names.contains(name)) {
            let why = format!("no reward has that name: the rewards are {}", scores.names.join(", "));
            return Err(Error::config(format!("{}.weights.{unknown}", self.stage), self.weights[unknown], why));
        }
        for (row, values) in scores.values.iter().enumerate() {
            if values.iter().flatten().any(|s| !s.is_finite()) {
                return Err(Error::NonFinite { stage: self.stage, what: "score", row });
            }
        }
        let weights: Vec<f64> =
            scores.names.iter().map(|name| self.weights.get(name).copied().unwrap_or(1.0)).collect();
        match self.mix {
            Mix::SumThenNormalize => Ok(weighted_sum(&scores.values, &weights)),
            Mix::NormalizeThenSum => {
                let standard = standardised_within_groups(batch);
                let mut sums = weighted_sum(&standard, &weights);
                let present: Vec<f64> = sums.iter().flatten().copied().collect();
                let (centre, scale) = (mean(&present), sample_std(&present) + NORMALIZE_EPS);
                sums.iter_mut().flatten().for_each(|s| *s = (*s - centre) / scale);
                Ok(sums)
            }
        }
    }

    /// -beta mask (old_logp - ref_logp), [N,T].
    pub(super) fn penalty(&self, batch: &Batch) -> Result<Table> {
        let old = batch.column(self.stage, "old_logp", &batch.old_logp)?;
        let reference = batch.column(self.stage, "ref_logp", &batch.ref_logp)?;
        let mut penalty = batch.mask.clone();
        for (cell, (o, r)) in penalty.data_mut().iter_mut().zip(old.data().iter().zip(reference.data())) {
            *cell = if *cell == 0.0 { 0.0 } else { -self.kl_in_reward * *cell * (o - r) };
        }
        Ok(penalty)
    }
}

/// sum_k w_k s_k over the scores that are there; `None` if none is.
fn weighted_sum(scores: &[Vec<Option<f64>>], weights: &[f64]) -> Vec<Option<f64>> {
    let sum = |row: &Vec<Option<f64>>| {
        let present = row.iter().zip(weights).filter_map(|(s, w)| s.map(|s| s * w));
        row.iter().any(Option::is_some).then(|| present.sum())
    };
    scores.iter().map(sum).collect()
}

/// (s - mean)/(std + 1e-4) of each function over the scored rows of each group; 0 for a single one.
fn standardised_within_groups(batch: &Batch) -> Vec<Vec<Option<f64>>> {
    let mut values = batch.scores.values.clone();
    for group in batch.groups() {
        let rows = &mut values[group];
        for k in 0..batch.scores.names.len() {
            let present: Vec<f64> = rows.iter().filter_map(|row| row[k]).collect();
            let (centre, scale) = (mean(&present), sample_std(&present) + NORMALIZE_EPS);
            for score in rows.iter_mut().filter_map(|row| row[k].as_mut()) {
                *score = (*score - centre) / scale;
            }
        }
    }
    values
}

/// Metrics of the mixed reward.
///
/// `reward_mean`, `reward_std`: over the scored rows of the step; `frac_reward_zero_std`: share of
/// groups whose rewards are all equal, which teach nothing (healthy below about 0.5);
/// `unscored_rows`: rows without any score.
fn statistics(rewards: &[Option<f64>], batch: &Batch) -> Metrics {
    let present: Vec<f64> = rewards.iter().flatten().copied().collect();
    let mut metrics = Metrics::new();
    metrics.mean("reward_mean", mean(&present), present.len() as f64);
    metrics.mean("reward_std", sample_std(&present), present.len() as f64);
    metrics.sum("unscored_rows", (rewards.len() - present.len()) as f64);
    let groups = batch.groups();
    let flat = groups
        .iter()
        .filter(|group| {
            let mut scored = rewards[(*group).clone()].iter().flatten();
            scored.next().is_none_or(|first| scored.all(|r| r == first))
        })
        .count();
    metrics.mean("frac_reward_zero_std", flat as f64 / groups.len() as f64, groups.len() as f64);
    metrics
}

/// r_i - mean of the group; `None` for a row without reward and in a group with one scored row. [N]
pub(super) fn centred(rewards: &[Option<f64>], batch: &Batch) -> Vec<Option<f64>> {
    let mut centred = vec![None; rewards.len()];
    for group in batch.groups() {
        let present: Vec<f64> = rewards[group.clone()].iter().flatten().copied().collect();
        if present.len() > 1 {
            let centre = mean(&present);
            for i in group {
                centred[i] = rewards[i].map(|r| r - centre);
            }
        }
    }
    centred
}

/// Rows without an advantage of their own get 0.
pub(super) fn rows(values: Vec<Option<f64>>) -> Advantages {
    Advantages::Row(values.into_iter().map(|a| a.unwrap_or(0.0)).collect())
}

#[cfg(test)]
mod tests {
    use super::super::none::Unscaled;
    use super::*;

    fn batch(scores: &[[Option<f64>; 2]], groups: Vec<usize>) -> Batch {
        let mut batch = Batch::new(Table::filled(groups.len(), 2, 1.0), groups).unwrap();
        batch.scores.names = vec!["a".into(), "b".into()];
        batch.scores.values = scores.iter().map(|row| row.to_vec()).collect();
        batch
    }

    fn advantages(batch: &Batch) -> Vec<f64> {
        match batch.advantage.as_ref().unwrap() {
            Advantages::Row(row) => row.clone(),
            Advantages::Token(_) => panic!("one advantage a row"),
        }
    }

    #[test]
    fn weights_multiply_and_missing_scores_are_left_out() {
        let mut batch = batch(&[[Some(1.0), Some(4.0)], [Some(0.0), None], [None, None]], vec![0, 0, 0]);
        let stage = Unscaled { weights: [("b".to_owned(), 0.5)].into(), ..Unscaled::default() };
        let metrics = stage.build().unwrap().apply(&mut batch).unwrap();
        assert_eq!(advantages(&batch), [1.5, -1.5, 0.0]);
        assert_eq!(metrics.get("unscored_rows"), Some(1.0));
        assert_eq!(metrics.get("reward_mean"), Some(1.5));
        let unknown = Unscaled { weights: [("c".to_owned(), 1.0)].into(), ..Unscaled::default() };
        let error = unknown.build().unwrap().apply(&mut batch).unwrap_err().to_string();
        assert!(error.contains("weights.c") && error.contains("a, b"), "{error}");
    }

    /// With one function, normalize_then_sum is the z-score of the z-score: by hand for [1, 0 | 3, 1].
    #[test]
    fn normalize_then_sum_gives_both_functions_the_same_scale() {
        let rows = [[Some(1.0), None], [Some(0.0), None], [Some(300.0), None], [Some(100.0), None]];
        let mut batch = batch(&rows, vec![0, 0, 1, 1]);
        let stage = Unscaled { mix: Mix::NormalizeThenSum, ..Unscaled::default() };
        stage.build().unwrap().apply(&mut batch).unwrap();
        let z = |half_range: f64| half_range / (half_range * 2f64.sqrt() + 1e-4);
        let (a, b) = (z(0.5), z(100.0));
        let std = ((2.0 * a * a + 2.0 * b * b) / 3.0).sqrt();
        for (found, wanted) in advantages(&batch).iter().zip([a, -a, b, -b]) {
            assert!((found - wanted / (std + 1e-4)).abs() < 1e-12);
        }
    }

    #[test]
    fn a_score_that_is_no_number_stops_the_step() {
        let mut batch = batch(&[[Some(f64::NAN), None]], vec![0]);
        let error = Unscaled::default().build().unwrap().apply(&mut batch).unwrap_err();
        assert!(matches!(error, Error::NonFinite { row: 0, .. }));
    }
}
