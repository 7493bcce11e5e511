//! `mix = { correlation = {} }`: rewards that go against the others get more weight (CMO).

use std::ops::Range;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::stage::{Mixed, Mixer, View};
use super::{positive, standardised, weighted_sum};
use crate::advantage::whiten::{Deviation, mean, std};
use crate::{Error, Metrics, Result};

/// A reward whose deviation is below this within a group counts as constant there.
const CONSTANT: f64 = 1e-6;
/// Smallest group whose correlations are looked at.
const SMALLEST: usize = 3;

/// Weights a group, w = softmax((1 - b)/tau), from the mean correlation b_k of reward k with the others.
///
/// z_k = (R_k - mean)/sqrt(var + eps) within the group; C the Pearson matrix over the group's rollouts,
/// 0 for constant rewards; b_k = (sum_j C_kj - 1)/(K - 1), and 1 for a constant reward; s = sum_k w_k z_k;
/// A = (s - mean)/(std + eps) over the batch. Groups with fewer than three rollouts or with a missing
/// score, and a single reward, take equal weights. `weights` of the estimator multiply before the softmax
/// is normalised. It brings its own baseline and scale: only `advantage.none` takes it.
///
/// Correlations of four to eight rollouts are noise for the most part; `shrink` damps them. Source: CMO,
/// arXiv 2603.18528, which weighs image rewards: there is no published evidence on text. Departures: equal
/// weights 1/K where its code uses 1, shrinkage, and the single reward, where its code divides by 0.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Correlation {
    /// Temperature of the softmax: small lets the most conflicting reward win.
    pub tau: f64,
    /// G0 of the shrinkage C <- G/(G + G0) C by the group's size G; 0 = none, as published.
    pub shrink: f64,
    /// Which deviation standardises.
    pub std: Deviation,
    /// Added to variances within groups and to the deviation of the batch.
    pub eps: f64,
    /// Standardise the sums over the batch.
    pub batch_normalise: bool,
}

impl Default for Correlation {
    fn default() -> Self {
        Self { tau: 0.5, shrink: 8.0, std: Deviation::Population, eps: 1e-8, batch_normalise: true }
    }
}

impl Correlation {
    pub(super) fn validate(&self, key: &str) -> Result<()> {
        positive(&format!("{key}.correlation.tau"), self.tau)?;
        positive(&format!("{key}.correlation.eps"), self.eps)?;
        if !(self.shrink >= 0.0 && self.shrink.is_finite()) {
            let why = "it is 0 (none) or a positive group size such as 8";
            return Err(Error::config(format!("{key}.correlation.shrink"), self.shrink, why));
        }
        Ok(())
    }

    /// The weights of each group, [groups][K], and the advantages, [N].
    pub(crate) fn advantages(&self, step: &View<'_>) -> (Vec<Vec<f64>>, Vec<Option<f64>>) {
        let each = standardised(step.scores, step.groups, |values| {
            let deviation = std(values, self.std);
            (mean(values), (deviation * deviation + self.eps).sqrt())
        });
        let weights: Vec<Vec<f64>> = step.groups.iter().map(|group| self.weights(step, group)).collect();
        let mut sums = vec![None; step.scores.len()];
        for (group, weights) in step.groups.iter().zip(&weights) {
            let mixed = weighted_sum(&each[group.clone()], weights);
            sums[group.clone()].clone_from_slice(&mixed);
        }
        if self.batch_normalise {
            let present: Vec<f64> = sums.iter().flatten().copied().collect();
            let (centre, scale) = (mean(&present), std(&present, self.std) + self.eps);
            sums.iter_mut().flatten().for_each(|s| *s = (*s - centre) / scale);
        }
        (weights, sums)
    }

    /// The weights of one group, [K]; they add up to 1.
    fn weights(&self, step: &View<'_>, group: &Range<usize>) -> Vec<f64> {
        let k = step.weights.len();
        let rows: Option<Vec<Vec<f64>>> =
            step.scores[group.clone()].iter().map(|row| row.iter().copied().collect()).collect();
        let logits: Vec<f64> = match rows.filter(|rows| k >= 2 && rows.len() >= SMALLEST) {
            Some(rows) => self.agreement(&rows).iter().map(|b| (1.0 - b) / self.tau).collect(),
            None => vec![0.0; k],
        };
        let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let raw: Vec<f64> = logits.iter().zip(step.weights).map(|(l, w)| w * (l - largest).exp()).collect();
        let total: f64 = raw.iter().sum();
        raw.iter().map(|w| w / total).collect()
    }

    /// b_k of one group, from its complete scores [G,K].
    fn agreement(&self, rows: &[Vec<f64>]) -> Vec<f64> {
        let (g, k) = (rows.len() as f64, rows[0].len());
        let columns: Vec<Vec<f64>> = (0..k).map(|k| rows.iter().map(|row| row[k]).collect()).collect();
        let moments: Vec<(f64, f64)> = columns.iter().map(|c| (mean(c), std(c, Deviation::Population))).collect();
        let shrink = g / (g + self.shrink);
        let correlation = |a: usize, b: usize| {
            let ((ma, sa), (mb, sb)) = (moments[a], moments[b]);
            if sa <= CONSTANT || sb <= CONSTANT {
                return 0.0;
            }
            let products = columns[a].iter().zip(&columns[b]).map(|(x, y)| (x - ma) * (y - mb));
            shrink * products.sum::<f64>() / g / (sa * sb)
        };
        (0..k)
            .map(|a| match moments[a].1 <= CONSTANT {
                true => 1.0,
                false => (0..k).filter(|b| *b != a).map(|b| correlation(a, b)).sum::<f64>() / (k - 1) as f64,
            })
            .collect()
    }
}

impl Mixer for Correlation {
    /// Metrics: `mix_weight_<reward>`, the mean weight over the groups.
    fn mix(&mut self, step: &View<'_>, metrics: &mut Metrics) -> Result<Mixed> {
        let (weights, advantages) = self.advantages(step);
        for (k, name) in step.names.iter().enumerate() {
            let column: Vec<f64> = weights.iter().map(|w| w[k]).collect();
            metrics.mean(&format!("mix_weight_{name}"), mean(&column), column.len() as f64);
        }
        Ok(Mixed::Advantages(advantages))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{column_major, view};
    use super::*;

    #[test]
    fn the_reward_that_goes_against_the_others_weighs_most() {
        let (scores, groups, weights) = column_major(&[&[0.0, 1.0, 2.0], &[0.0, 1.0, 2.0], &[2.0, 1.0, 0.0]], 3);
        let (found, _) = Correlation::default().advantages(&view(&scores, &groups, &weights));
        assert!(found[0][2] > found[0][0] && (found[0][0] - found[0][1]).abs() < 1e-12);
        assert!((found[0].iter().sum::<f64>() - 1.0).abs() < 1e-12);
        // Shrinkage without end leaves equal weights.
        let flat = Correlation { shrink: 1e15, ..Correlation::default() };
        let (found, _) = flat.advantages(&view(&scores, &groups, &weights));
        assert!(found[0].iter().all(|w| (w - 1.0 / 3.0).abs() < 1e-9));
    }

    #[test]
    fn small_groups_and_missing_scores_take_equal_weights() {
        let (mut scores, groups, weights) = column_major(&[&[0.0, 1.0, 2.0, 5.0], &[3.0, 1.0, 2.0, 4.0]], 4);
        scores[1][0] = None;
        let (found, advantages) = Correlation::default().advantages(&view(&scores, &groups, &weights));
        assert_eq!(found[0], [0.5, 0.5]);
        assert!(advantages.iter().flatten().all(|a| a.is_finite()) && advantages[1].is_some());
        let (scores, groups, weights) = column_major(&[&[0.0, 1.0]], 2);
        let (found, _) = Correlation::default().advantages(&view(&scores, &groups, &weights));
        assert_eq!(found[0], [1.0]);
    }
}
