//! `credit.tw`: positions at which a prompt's completions disagree weigh more. Experimental.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Credit;
use super::resrl::correlation;
use crate::{Batch, Error, Metrics, Needs, Result, State, Table};

const STAGE: &str = "credit.tw";
/// Keeps a flat divergence from dividing by zero.
pub const RANGE_EPS: f64 = 1e-8;

/// TW-GRPO's token weights, experimental: w_t = 1 + (alpha - 1) (D_t - min D)/(max D - min D + 1e-8), with D_t the
/// divergence of next-token distributions within a prompt's completions at position t.
///
/// The same weight for all completions of the prompt; minimum and maximum over the positions up to the
/// longest of them, so that padding changes nothing. alpha = 1, or a group of one, leaves every weight
/// at 1. Weights lie from 1 to alpha and nothing renormalises them: the effective step grows with alpha.
///
/// Positions are compared by index, not content; after the completions part, D is mostly noise, and
/// high where some have ended. The text version has no published evidence (the paper's is video).
/// Costs one more pass of the head over the batch. Weights carry no gradient, unlike the authors' code.
/// Source: Reinforcing Video Reasoning with Focused Thinking, arXiv 2505.24718, by its released code.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Tw {
    /// The weight of the position of largest divergence, 1 or more.
    pub alpha: f64,
}

impl Default for Tw {
    fn default() -> Self {
        Self { alpha: 1.7 }
    }
}

impl Tw {
    /// The stage. Errors: settings that can never work.
    pub fn build(&self) -> Result<Box<dyn Credit>> {
        if !(self.alpha >= 1.0 && self.alpha.is_finite()) {
            let why = "it is the weight of the position of largest divergence: 1 (none) or more, such as 1.7";
            return Err(Error::config("credit.tw.alpha", self.alpha, why));
        }
        Ok(Box::new(self.clone()))
    }

    /// (D - min)/(max - min + eps) of each position.
    pub fn normalised(divergence: &[f64], eps: f64) -> Vec<f64> {
        let least = divergence.iter().copied().fold(f64::INFINITY, f64::min);
        let most = divergence.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        divergence.iter().map(|d| (d - least) / (most - least + eps)).collect()
    }

    /// The weight of each position of a prompt, from its normalised divergence.
    pub fn weights(&self, normalised: &[f64]) -> Vec<f64> {
        normalised.iter().map(|n| 1.0 + (self.alpha - 1.0) * n).collect()
    }
}

impl Credit for Tw {
    fn needs(&self) -> Needs {
        Needs { group_divergence: true, ..Needs::default() }
    }

    /// Metrics: `weight` (mean over tokens) and `weight_p95`; `divergence` (mean over tokens); `peak` (place of the largest
    /// weight, as a share of the longest completion, mean over groups); `weight_position` (correlation of
    /// weight with position: near 1 only the tail counts).
    fn apply(&mut self, batch: &mut Batch) -> Result<Metrics> {
        let divergence = batch.column(STAGE, "group_divergence", &batch.group_divergence)?.clone();
        let mut credit = Table::filled(batch.rows(), batch.width(), 1.0);
        let (mut metrics, mut spread, mut total) = (Metrics::new(), Vec::new(), 0.0);
        for group in batch.groups() {
            let last = |i: usize| (0..batch.width()).rev().find(|&t| batch.mask.row(i)[t] != 0.0);
            let Some(longest) = group.clone().filter_map(last).max().map(|t| t + 1) else { continue };
            let values = &divergence.row(group.start)[..longest];
            if let Some(row) = values.iter().position(|d| !d.is_finite()).map(|_| group.start) {
                return Err(Error::NonFinite { stage: STAGE, what: "group_divergence", row });
            }
            let weights = self.weights(&Self::normalised(values, RANGE_EPS));
            let peak = (0..longest).fold(0, |best, t| if weights[t] > weights[best] { t } else { best });
            metrics.mean("peak", peak as f64 / longest as f64, 1.0);
            for i in group {
                credit.row_mut(i)[..longest].copy_from_slice(&weights);
                for t in (0..longest).filter(|&t| batch.mask.row(i)[t] != 0.0) {
                    spread.push((weights[t], t as f64));
                    total += values[t];
                }
            }
        }
        report(&mut spread, total, &mut metrics);
        batch.credit = Some(credit);
        Ok(metrics)
    }
}

fn report(spread: &mut [(f64, f64)], divergence: f64, metrics: &mut Metrics) {
    let n = spread.len() as f64;
    metrics.mean("weight", spread.iter().map(|(w, _)| w).sum::<f64>() / n, n);
    metrics.mean("divergence", divergence / n, n);
    metrics.mean("weight_position", correlation(spread), n);
    spread.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    if let Some((weight, _)) = spread.get((0.95 * (n - 1.0)).max(0.0).round() as usize) {
        metrics.mean("weight_p95", *weight, n);
    }
}

impl State for Tw {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_of_other_groups_changes_nothing() {
        let mask = Table::ragged(&[vec![1.0; 2], vec![1.0; 2], vec![1.0; 4], vec![1.0; 3]], 0.0);
        let mut batch = Batch::new(mask, vec![0, 0, 5, 5]).unwrap();
        let d = vec![
            vec![3.0, 2.0, 0.0, 0.0],
            vec![3.0, 2.0, 0.0, 0.0],
            vec![1.0, 5.0, 3.0, 1.0],
            vec![1.0, 5.0, 3.0, 1.0],
        ];
        batch.group_divergence = Some(Table::ragged(&d, 0.0));
        let metrics = Tw { alpha: 3.0 }.build().unwrap().apply(&mut batch).unwrap();
        let credit = batch.credit.unwrap();
        let near = |found: &[f64], wanted: &[f64]| found.iter().zip(wanted).all(|(f, w)| (f - w).abs() < 1e-6);
        assert!(near(&credit.row(0)[..2], &[3.0, 1.0]) && near(credit.row(2), &[1.0, 3.0, 2.0, 1.0]));
        assert_eq!(credit.row(2), credit.row(3));
        assert_eq!(metrics.get("peak"), Some(0.125));
    }

    #[test]
    fn alpha_of_one_is_uniform_and_less_is_refused() {
        assert_eq!(Tw { alpha: 1.0 }.weights(&Tw::normalised(&[0.0, 4.0], RANGE_EPS)), [1.0, 1.0]);
        assert_eq!(Tw::normalised(&[3.0, 3.0], RANGE_EPS), [0.0, 0.0], "no divergence, no weight");
        assert!(Tw { alpha: 0.5 }.build().is_err());
        let mut batch = Batch::new(Table::filled(1, 1, 1.0), vec![0]).unwrap();
        assert!(matches!(Tw::default().apply(&mut batch), Err(Error::MissingColumn { .. })));
    }
}
