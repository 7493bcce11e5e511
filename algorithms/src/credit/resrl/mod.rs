//! `credit.resrl`: tokens of wrong completions are pushed down as far as they differ from right ones.

mod eigen;
mod jacobi;
pub mod subspace;

#[cfg(test)]
mod tests;

use std::ops::Range;

use candle_core::Tensor;
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::subspace::{Subspace, layer_norm};
use super::Credit;
use crate::batch::Verdict;
use crate::rng::Rng;
use crate::{Batch, Error, Metrics, Needs, Result, State, Table};

const STAGE: &str = "credit.resrl";
/// The spread of residuals is at least this.
const LEAST_RANGE: f64 = 1e-6;
/// Below this spread residuals say nothing and every token gets the middle weight.
const FLAT_RANGE: f64 = 1e-5;

/// ResRL: a wrong completion's token is weighted by how much of its hidden state lies outside the
/// low-rank subspace of the right completions' states of the same prompt.
///
/// Per prompt: states of right tokens (at most `max_positive_tokens`) are layer-normed and centred; V are
/// their `rank` leading directions, no more than there are tokens less one. A wrong token has residual
/// R = ||x - V V^T x||^2 / H, with lo and hi the quantiles of all of them, and
/// weight = min_weight + (1 - min_weight) clamp((R - lo)/(hi - lo), 0, 1), the middle weight if all are alike.
/// Right tokens have the constant `positive_scale`. Groups without right or without wrong completions, or with
/// fewer right tokens than `min_positive_tokens`, leave wrong tokens at 1. A completion without verdict keeps 1.
///
/// Mean weight of wrong tokens is near (1 + min_weight)/2, so they are pushed about half as far: compare
/// with `shuffled`. `min_weight` = 1 is NSR with weighted positives, with `positive_scale` = 1 plain GRPO.
/// Use `dual_clip` = 3 in the objective for the paper's loss. Weights are computed once a rollout batch,
/// from the policy that starts the phase; the released code does so in every update.
/// Source: arXiv 2605.00380, by its released code (abstract and code were at hand, not the paper's body);
/// sides follow the verdict as in the code, not the advantage's sign. Several ablations in circulation
/// contradict the authors' README: sweep rank, quantiles and weights on small models.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Resrl {
    /// Which hidden states, as an index into Hugging Face's `hidden_states`: 0 = embeddings, 1 = after the
    /// first block, negative from the end; -2 = after the last block but one. The last is taken before the final norm.
    pub layer: i32,
    /// Directions of the subspace.
    #[schemars(range(min = 1))]
    pub rank: usize,
    /// Right tokens of a prompt that the subspace is fitted to, drawn at random where there are more.
    #[schemars(range(min = 2))]
    pub max_positive_tokens: usize,
    /// Fewer right tokens than this fit no subspace; one short answer spans itself exactly, so 2 x rank is safer.
    pub min_positive_tokens: usize,
    /// Quantile of the residuals that gets the least weight.
    pub q_low: f64,
    /// Quantile of the residuals that gets weight 1.
    pub q_high: f64,
    /// The least weight of a wrong token, xi.
    pub min_weight: f64,
    /// The weight of right tokens.
    pub positive_scale: f64,
    /// Control experiment: the same weights, dealt to a prompt's wrong tokens at random.
    pub shuffled: bool,
    /// Seed of the subset and of the shuffling.
    pub seed: u64,
}

impl Default for Resrl {
    fn default() -> Self {
        Self {
            layer: -2,
            rank: 64,
            max_positive_tokens: 4096,
            min_positive_tokens: 4,
            q_low: 0.2,
            q_high: 0.8,
            min_weight: 0.1,
            positive_scale: 0.1,
            shuffled: false,
            seed: 0,
        }
    }
}

impl Resrl {
    /// The stage. Errors: settings that can never work.
    pub fn build(&self) -> Result<Box<dyn Credit>> {
        let refuse = |name: &str, value: &dyn std::fmt::Display, why: &str| {
            Err(Error::config(format!("credit.resrl.{name}"), value, why))
        };
        if self.rank == 0 {
            return refuse("rank", &self.rank, "a subspace has at least one direction");
        }
        if self.max_positive_tokens < 2 {
            return refuse("max_positive_tokens", &self.max_positive_tokens, "a subspace needs at least two tokens");
        }
        if !(0.0 <= self.q_low && self.q_low < self.q_high && self.q_high <= 1.0) {
            return refuse("q_low", &self.q_low, "quantiles are 0 <= q_low < q_high <= 1");
        }
        if !(0.0..=1.0).contains(&self.min_weight) {
            return refuse("min_weight", &self.min_weight, "it lies from 0 to 1");
        }
        if !(self.positive_scale >= 0.0 && self.positive_scale.is_finite()) {
            return refuse("positive_scale", &self.positive_scale, "a weight is 0 or a positive number");
        }
        Ok(Box::new(self.clone()))
    }

    /// The weights of one prompt's completions, from their hidden states [n_i,H] at unmasked tokens.
    ///
    /// `subset` names the right tokens to fit, counted over right completions in order, instead of drawing
    /// them; `key` tells prompts apart.
    pub fn weigh(&self, states: &[&Tensor], sides: &[Verdict], subset: Option<&[usize]>, key: u64) -> Result<Group> {
        let of = |side: Verdict| (0..sides.len()).filter(move |&i| sides[i] == side).collect::<Vec<_>>();
        let (right, wrong) = (of(Verdict::Right), of(Verdict::Wrong));
        let tokens = |rows: &[usize]| rows.iter().map(|&i| states[i].dim(0)).sum::<candle_core::Result<usize>>();
        let (right_tokens, wrong_tokens) = (tokens(&right)?, tokens(&wrong)?);
        let skipped = match () {
            () if right.is_empty() => Some("no_positive"),
            () if wrong.is_empty() => Some("no_negative"),
            () if right_tokens < self.min_positive_tokens.max(2) => Some("too_few_positive_tokens"),
            () if wrong_tokens == 0 => Some("no_negative_tokens"),
            () => None,
        };
        if let Some(reason) = skipped {
            return Ok(Group { outcome: Outcome::Skipped(reason), weights: Vec::new() });
        }
        let gather = |rows: &[usize]| -> Result<Tensor> {
            let rows: Vec<Tensor> = rows
                .iter()
                .filter(|&&i| states[i].dim(0).is_ok_and(|n| n > 0))
                .map(|&i| layer_norm(states[i]))
                .collect::<Result<_>>()?;
            Ok(Tensor::cat(&rows, 0)?)
        };
        let mut fitted = gather(&right)?; // [M,H]
        if let Some(chosen) = subset.map(<[usize]>::to_vec).or_else(|| self.subset(right_tokens, key)) {
            let index: Vec<u32> = chosen.iter().map(|&i| i as u32).collect();
            fitted = fitted.index_select(&Tensor::new(index, fitted.device())?, 0)?;
        }
        let Ok(subspace) = Subspace::fit(&fitted, self.rank) else {
            return Ok(Group { outcome: Outcome::Skipped("failed"), weights: Vec::new() });
        };
        let residuals = subspace.residual(&gather(&wrong)?)?;
        let (low, high) = (quantile(&residuals, self.q_low), quantile(&residuals, self.q_high));
        let mut weights = self.weights(&residuals, low, high);
        if self.shuffled {
            Rng::keyed(&[self.seed, 0x5f1e, key]).shuffle(&mut weights);
        }
        let fitted_residual = mean(&subspace.residual(&fitted)?);
        let fit = Fit { subspace, residuals, low, high, fitted_residual };
        Ok(Group { outcome: Outcome::Fitted(Box::new(fit)), weights })
    }

    fn subset(&self, tokens: usize, key: u64) -> Option<Vec<usize>> {
        if tokens <= self.max_positive_tokens {
            return None;
        }
        let mut order: Vec<usize> = (0..tokens).collect();
        Rng::keyed(&[self.seed, 0x5b5e, key]).shuffle(&mut order);
        order.truncate(self.max_positive_tokens);
        order.sort_unstable();
        Some(order)
    }

    fn weights(&self, residuals: &[f64], low: f64, high: f64) -> Vec<f64> {
        let range = (high - low).max(LEAST_RANGE);
        if range < FLAT_RANGE {
            return vec![(self.min_weight + 1.0) / 2.0; residuals.len()];
        }
        let weight = |r: &f64| self.min_weight + (1.0 - self.min_weight) * ((r - low) / range).clamp(0.0, 1.0);
        residuals.iter().map(weight).collect()
    }
}

/// What came of one prompt.
pub struct Group {
    /// Fitted or skipped.
    pub outcome: Outcome,
    /// Weights of the wrong completions' tokens, one completion after the other; empty if skipped.
    pub weights: Vec<f64>,
}

/// Whether a prompt's wrong tokens could be weighed.
pub enum Outcome {
    /// They were.
    Fitted(Box<Fit>),
    /// They keep weight 1, for this reason.
    Skipped(&'static str),
}

/// The fit of one prompt.
pub struct Fit {
    /// The subspace of the right tokens.
    pub subspace: Subspace,
    /// Residual energies of the wrong tokens.
    pub residuals: Vec<f64>,
    /// Their lower quantile.
    pub low: f64,
    /// Their upper quantile.
    pub high: f64,
    /// Mean residual energy of the fitted tokens themselves.
    pub fitted_residual: f64,
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The quantile q of values, linear between neighbours.
fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let place = q * (sorted.len() - 1) as f64;
    let below = place.floor() as usize;
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] + (place - below as f64) * (sorted[above] - sorted[below])
}

impl Credit for Resrl {
    fn needs(&self) -> Needs {
        Needs { hidden: Some(self.layer), ..Needs::default() }
    }

    fn reads_verdict(&self) -> bool {
        true
    }

    fn check_model(&self, hidden_size: usize) -> Result<()> {
        if self.rank >= hidden_size {
            let why = format!(
                "the model's hidden states have {hidden_size} numbers, so that many directions leave no residual: lower it, to 16 or so"
            );
            return Err(Error::config("credit.resrl.rank", self.rank, why));
        }
        Ok(())
    }

    /// Metrics: `groups_used`, `groups_<reason>` (counts); `rank_capped` (groups with fewer tokens than
    /// directions); `positive_tokens`, `rank`, `energy` (means over groups; energy near 1 with the rank
    /// near the tokens fits everything); `residual_positive`, `residual_negative` and their `residual_ratio`
    /// (healthy well above 1: near 1 weights are noise), `low`, `high`; over wrong tokens `weight`,
    /// `weight_least` and `weight_full` (shares at the bounds), `weight_position` (correlation with the
    /// place in the completion: near +-1 weights are a position effect).
    fn apply(&mut self, batch: &mut Batch) -> Result<Metrics> {
        let hidden = batch.hidden.take().ok_or(Error::MissingColumn { stage: STAGE, column: "hidden" })?;
        let mut credit = Table::filled(batch.rows(), batch.width(), 1.0);
        let (mut metrics, mut spread) = (Metrics::new(), Vec::new());
        let one = |group: &Range<usize>| -> Result<Group> {
            for i in group.clone() {
                check_states(batch, i, &hidden[i], self.layer)?;
            }
            let states: Vec<&Tensor> = hidden[group.clone()].iter().collect();
            self.weigh(&states, &batch.verdict[group.clone()], None, batch.group[group.start] as u64)
        };
        let groups = batch.groups();
        let weighed = groups.par_iter().map(one).collect::<Result<Vec<Group>>>()?;
        for (group, done) in groups.into_iter().zip(weighed) {
            report(&done, self.rank, &mut metrics);
            let mut weights = done.weights.into_iter();
            for i in group {
                match batch.verdict[i] {
                    Verdict::Right => credit.row_mut(i).fill(self.positive_scale),
                    Verdict::Wrong => {
                        let cells: Vec<usize> = (0..batch.width()).filter(|&t| batch.mask.row(i)[t] != 0.0).collect();
                        for (place, &t) in cells.iter().enumerate() {
                            let Some(weight) = weights.next() else { break };
                            credit.row_mut(i)[t] = weight;
                            spread.push((weight, place as f64 / cells.len() as f64));
                        }
                    }
                    Verdict::Missing => {}
                }
            }
        }
        self.report_weights(&spread, &mut metrics);
        batch.credit = Some(credit);
        Ok(metrics)
    }
}

impl Resrl {
    fn report_weights(&self, spread: &[(f64, f64)], metrics: &mut Metrics) {
        let n = spread.len() as f64;
        let share = |holds: &dyn Fn(f64) -> bool| spread.iter().filter(|(w, _)| holds(*w)).count() as f64 / n;
        metrics.mean("weight", spread.iter().map(|(w, _)| w).sum::<f64>() / n, n);
        metrics.mean("weight_least", share(&|w| w == self.min_weight), n);
        metrics.mean("weight_full", share(&|w| w == 1.0), n);
        metrics.mean("weight_position", correlation(spread), n);
    }
}

/// Pearson's correlation of pairs; 0 where one side does not vary.
pub(super) fn correlation(pairs: &[(f64, f64)]) -> f64 {
    let n = pairs.len() as f64;
    let (x, y) = pairs.iter().fold((0.0, 0.0), |(x, y), p| (x + p.0 / n, y + p.1 / n));
    let sums = pairs.iter().fold((0.0, 0.0, 0.0), |(xy, xx, yy), p| {
        (xy + (p.0 - x) * (p.1 - y), xx + (p.0 - x) * (p.0 - x), yy + (p.1 - y) * (p.1 - y))
    });
    if sums.1 * sums.2 > 0.0 { sums.0 / (sums.1 * sums.2).sqrt() } else { 0.0 }
}

/// One finite state for every unmasked token of a row.
fn check_states(batch: &Batch, row: usize, states: &Tensor, layer: i32) -> Result<()> {
    let (found, wanted) = (states.dim(0)?, batch.row_tokens(row).round() as usize);
    if found != wanted {
        return Err(Error::Shape {
            what: format!("hidden states of row {row} at layer {layer}"),
            expected: format!("{wanted} tokens"),
            found: found.to_string(),
        });
    }
    if found == 0 {
        return Ok(());
    }
    let sum = states.to_dtype(candle_core::DType::F64)?.sum_all()?.to_scalar::<f64>()?;
    if !sum.is_finite() {
        let what = "hidden state at the layer of `credit.resrl.layer`";
        return Err(Error::NonFinite { stage: STAGE, what, row });
    }
    Ok(())
}

fn report(group: &Group, rank: usize, metrics: &mut Metrics) {
    let fit = match &group.outcome {
        Outcome::Skipped(reason) => return metrics.sum(&format!("groups_{reason}"), 1.0),
        Outcome::Fitted(fit) => fit,
    };
    let negative = mean(&fit.residuals);
    metrics.sum("groups_used", 1.0);
    metrics.sum("rank_capped", f64::from(u8::from(fit.subspace.rank < rank)));
    for (name, value) in [
        ("rank", fit.subspace.rank as f64),
        ("energy", fit.subspace.energy),
        ("residual_positive", fit.fitted_residual),
        ("residual_negative", negative),
        ("residual_ratio", negative / fit.fitted_residual.max(1e-12)),
        ("low", fit.low),
        ("high", fit.high),
    ] {
        metrics.mean(name, value, 1.0);
    }
}

impl State for Resrl {}
