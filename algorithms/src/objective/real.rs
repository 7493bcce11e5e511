//! `objective.real`: rewards as labels, policy optimisation as classification within each group.

use std::ops::Range;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::grpo::kl::Estimator;
use super::rows::{Rows, Weighted};
use super::{Leaves, Loss, Objective, Reads};
use crate::batch::{Finish, Verdict};
use crate::{Batch, Error, Metrics, Needs, Result, State};

/// The loss of a group, from the scores s of its right rows O+ and wrong rows O-.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RealLoss {
    /// log(1 + sum_{O+} exp(-s/tau)) + log(1 + sum_{O-} exp(s/tau)), mean over all groups; each 1 is an anchor at 0.
    #[default]
    Real,
    /// log(1 + sum_{O-} exp(s/tau) x sum_{O+} exp(-s/tau)), mean over all groups: right against wrong, one anchor.
    Product,
    /// softplus(-s/tau) of right and softplus(s/tau) of wrong rows, mean over the rows of groups that hold both.
    Bce,
}

/// REAL: a rollout's mean log-prob change s = mean over its tokens of (logp - old_logp) is its logit, its verdict
/// its label, and right rows are pushed above 0, wrong ones below, within their prompt's group.
///
/// A right row that was learnt already, and a wrong one that was unlearnt, get less gradient, and no row ever more
/// than 1/tau: dL/ds is (1/tau) times the row's softmax share among its side and an anchor at 0. No advantages, no
/// clipping, no reference model. A group with one kind of verdict only adds nothing but still counts in the mean
/// (not in `bce`). Rows without tokens have s = 0; rows without verdict, and with `mask_truncated_completions` cut ones,
/// leave their group.
///
/// With one update a rollout batch s is 0 throughout and REAL is REINFORCE with the weights 1/(tau (1 + rows of the
/// side)): use several (`train.online`). The loss of an untrained group is log(1 + |O+|) + log(1 + |O-|), not 0. Nothing
/// holds the likelihood of both sides together: watch `score_right` and `score_wrong` for a common fall.
/// Source: Rewards as Labels, arXiv 2602.05630 (one of its versions was marked withdrawn), and Red-RL/REAL; its
/// ablations were not at hand: start from tau = 0.5 and try 0.25 to 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Real {
    /// The loss of a group.
    pub loss: RealLoss,
    /// Temperature of the scores: the weight of a row stays under 1/tau.
    pub tau: f64,
    /// Whether groups with one kind of verdict take part too; an ablation that is not in the paper's code.
    pub keep_pure_groups: bool,
    /// Whether rows without tokens leave their group; the paper's code divides by 0 there.
    pub drop_empty: bool,
    /// Whether completions that did not end leave their group; in the recipe they count as wrong.
    pub mask_truncated_completions: bool,
    /// Weight of a KL penalty to the reference model, mean over tokens; 0 = none is loaded.
    pub beta: f64,
    /// Estimator of the KL penalty.
    pub kl: Estimator,
    /// Weight of an entropy bonus, mean over tokens; 0 in the recipe.
    pub entropy_coef: f64,
}

impl Default for Real {
    fn default() -> Self {
        Self {
            loss: RealLoss::Real,
            tau: 0.5,
            keep_pure_groups: false,
            drop_empty: false,
            mask_truncated_completions: false,
            beta: 0.0,
            kl: Estimator::K3,
            entropy_coef: 0.0,
        }
    }
}

const STAGE: &str = "objective.real";

/// The rows of a group by verdict.
struct Sides {
    right: Vec<usize>,
    wrong: Vec<usize>,
}

impl Real {
    /// The objective. Errors: a temperature that is not positive, negative weights.
    pub fn build(&self) -> Result<Box<dyn Objective>> {
        let key = |name: &str| format!("{STAGE}.{name}");
        if !(self.tau > 0.0 && self.tau.is_finite()) {
            return Err(Error::config(key("tau"), self.tau, "scores are divided by it: set it above 0, such as 0.5"));
        }
        for (name, weight) in [("beta", self.beta), ("entropy_coef", self.entropy_coef)] {
            if !(weight >= 0.0 && weight.is_finite()) {
                return Err(Error::config(key(name), weight, "a weight is 0 (off) or a positive number"));
            }
        }
        if self.keep_pure_groups && self.loss != RealLoss::Real {
            let why = "the other losses say nothing of a group with one kind of verdict: set `loss` to \"real\"";
            return Err(Error::config(key("keep_pure_groups"), true, why));
        }
        Ok(Box::new(self.clone()))
    }

    /// The rows that take part, by verdict.
    fn sides(&self, batch: &Batch, group: Range<usize>) -> Sides {
        let counts = |i: &usize| {
            batch.keep[*i]
                && !(self.drop_empty && batch.row_tokens(*i) == 0.0)
                && !(self.mask_truncated_completions && batch.finish[*i] == Finish::Length)
        };
        let of = |verdict| group.clone().filter(counts).filter(|&i| batch.verdict[i] == verdict).collect();
        Sides { right: of(Verdict::Right), wrong: of(Verdict::Wrong) }
    }

    fn takes_part(&self, sides: &Sides) -> bool {
        let (right, wrong) = (sides.right.len(), sides.wrong.len());
        if self.keep_pure_groups { right + wrong > 0 } else { right > 0 && wrong > 0 }
    }

    /// Loss of the batch and its derivative by each score, [N]; groups that take no part have 0.
    ///
    /// Closed form; sums of exponentials are taken after subtracting their largest, so extreme scores give a
    /// linear loss and weights of 1/tau.
    pub fn loss_and_weights(&self, batch: &Batch, scores: &[f64]) -> (f64, Vec<f64>) {
        let (mut loss, mut weights) = (0.0, vec![0.0; scores.len()]);
        let mut rows = 0;
        for group in batch.groups() {
            let sides = self.sides(batch, group);
            if !self.takes_part(&sides) {
                continue;
            }
            rows += sides.right.len() + sides.wrong.len();
            let scaled =
                |side: &[usize], sign: f64| side.iter().map(|&i| sign * scores[i] / self.tau).collect::<Vec<_>>();
            let (x, y) = (scaled(&sides.right, -1.0), scaled(&sides.wrong, 1.0));
            let (a, b): (Vec<f64>, Vec<f64>) = match self.loss {
                RealLoss::Real => {
                    let (right, wrong) = (anchored(&x), anchored(&y));
                    loss += right + wrong;
                    (x.iter().map(|x| (x - right).exp()).collect(), y.iter().map(|y| (y - wrong).exp()).collect())
                }
                RealLoss::Product => {
                    let (right, wrong) = (log_sum_exp(&x), log_sum_exp(&y));
                    loss += softplus(right + wrong);
                    let share = sigmoid(right + wrong);
                    let of = |z: &[f64], lse: f64| z.iter().map(|z| share * (z - lse).exp()).collect();
                    (of(&x, right), of(&y, wrong))
                }
                RealLoss::Bce => {
                    loss += x.iter().chain(&y).map(|&z| softplus(z)).sum::<f64>();
                    (x.iter().map(|&z| sigmoid(z)).collect(), y.iter().map(|&z| sigmoid(z)).collect())
                }
            };
            sides.right.iter().zip(a).for_each(|(&i, w)| weights[i] = -w / self.tau);
            sides.wrong.iter().zip(b).for_each(|(&i, w)| weights[i] = w / self.tau);
        }
        let divisor = match self.loss {
            RealLoss::Bce => rows,
            RealLoss::Real | RealLoss::Product => batch.step_totals().groups,
        };
        let divisor = divisor.max(1) as f64;
        weights.iter_mut().for_each(|w| *w /= divisor);
        (loss / divisor, weights)
    }

    /// Metrics: `mixed_groups`, `right_groups`, `wrong_groups` (shares of groups); over rows that take part `score_right` and
    /// `score_wrong` (mean s), `margin` (their difference; should grow within a rollout batch), `sign_accuracy` (share of rows
    /// whose s has the label's sign), `weight_right`, `weight_wrong` (mean |dL_g/ds|, falling as rows are learnt), `weight_max` (under
    /// 1/tau), `saturated` (share of rows with |s| > tau: too many updates a batch if large).
    fn report(&self, batch: &Batch, scores: &[f64], weights: &[f64], divisor: f64, metrics: &mut Metrics) {
        let groups = batch.groups();
        let (mut right, mut wrong) = (Vec::new(), Vec::new());
        let (mut mixed, mut all_right, mut all_wrong) = (0.0, 0.0, 0.0);
        for group in &groups {
            let sides = self.sides(batch, group.clone());
            match (sides.right.is_empty(), sides.wrong.is_empty()) {
                (false, false) => mixed += 1.0,
                (false, true) => all_right += 1.0,
                (true, false) => all_wrong += 1.0,
                (true, true) => {}
            }
            if self.takes_part(&sides) {
                right.extend(sides.right);
                wrong.extend(sides.wrong);
            }
        }
        let count = groups.len() as f64;
        for (name, number) in [("mixed_groups", mixed), ("right_groups", all_right), ("wrong_groups", all_wrong)] {
            metrics.mean(name, number / count, count);
        }
        let mean =
            |rows: &[usize], f: &dyn Fn(usize) -> f64| rows.iter().map(|&i| f(i)).sum::<f64>() / rows.len() as f64;
        for (side, rows) in [("right", &right), ("wrong", &wrong)] {
            metrics.mean(&format!("score_{side}"), mean(rows, &|i| scores[i]), rows.len() as f64);
            metrics.mean(&format!("weight_{side}"), mean(rows, &|i| (weights[i] * divisor).abs()), rows.len() as f64);
        }
        if !right.is_empty() && !wrong.is_empty() {
            let margin = mean(&right, &|i| scores[i]) - mean(&wrong, &|i| scores[i]);
            metrics.mean("margin", margin, (right.len() + wrong.len()) as f64);
        }
        let agrees =
            right.iter().filter(|&&i| scores[i] > 0.0).count() + wrong.iter().filter(|&&i| scores[i] < 0.0).count();
        let rows: Vec<usize> = right.into_iter().chain(wrong).collect();
        let n = rows.len() as f64;
        metrics.mean("sign_accuracy", agrees as f64 / n, n);
        metrics.mean("saturated", mean(&rows, &|i| f64::from(u8::from(scores[i].abs() > self.tau))), n);
        metrics.max("weight_max", rows.iter().map(|&i| (weights[i] * divisor).abs()).fold(0.0, f64::max));
    }
}

/// log(1 + sum exp(z)).
fn anchored(z: &[f64]) -> f64 {
    let most = z.iter().copied().fold(0.0, f64::max);
    most + ((-most).exp() + z.iter().map(|z| (z - most).exp()).sum::<f64>()).ln()
}

/// log(sum exp(z)); minus infinity for nothing.
pub(super) fn log_sum_exp(z: &[f64]) -> f64 {
    let most = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if most == f64::NEG_INFINITY {
        return most;
    }
    most + z.iter().map(|z| (z - most).exp()).sum::<f64>().ln()
}

fn softplus(z: f64) -> f64 {
    z.max(0.0) + (-z.abs()).exp().ln_1p()
}

fn sigmoid(z: f64) -> f64 {
    if z >= 0.0 { 1.0 / (1.0 + (-z).exp()) } else { z.exp() / (1.0 + z.exp()) }
}

impl Objective for Real {
    fn needs(&self) -> Needs {
        Needs { ref_logp: self.beta > 0.0, entropy_leaf: self.entropy_coef > 0.0, ..Needs::default() }
    }

    fn reads(&self) -> Reads {
        Reads { verdict: true, ..Reads::default() }
    }

    /// `bce` is a mean over the rows that take part, penalty and bonus are means over all tokens of the batch.
    fn couples_rows(&self) -> bool {
        self.loss == RealLoss::Bce || self.beta > 0.0 || self.entropy_coef > 0.0
    }

    fn couples_group(&self) -> bool {
        !self.couples_rows()
    }

    fn compares_within_group(&self) -> bool {
        true
    }

    fn needs_binary_verdict(&self) -> bool {
        true
    }

    /// Rows of groups with one kind of verdict, unless a penalty or bonus reaches them.
    fn idle_rows(&self, batch: &Batch) -> Vec<bool> {
        let mut idle = vec![false; batch.rows()];
        if self.beta > 0.0 || self.entropy_coef > 0.0 {
            return idle;
        }
        for group in batch.groups() {
            let sides = self.sides(batch, group.clone());
            let is_pure = !self.takes_part(&sides);
            for i in group {
                idle[i] = is_pure || !(sides.right.contains(&i) || sides.wrong.contains(&i));
            }
        }
        idle
    }

    fn loss(&self, batch: &Batch, leaves: &Leaves) -> Result<Loss> {
        let rows = Rows::read(STAGE, batch, leaves, batch.old_logp.as_ref())?;
        let scores = rows.means();
        let (value, weights) = self.loss_and_weights(batch, &scores);
        let mut metrics = Metrics::new();
        let divisor = match self.loss {
            RealLoss::Bce => {
                let counted = batch.groups().into_iter().map(|g| self.sides(batch, g)).filter(|s| self.takes_part(s));
                counted.map(|s| s.right.len() + s.wrong.len()).sum::<usize>()
            }
            _ => batch.step_totals().groups,
        };
        self.report(batch, &scores, &weights, divisor.max(1) as f64, &mut metrics);
        let mut loss = rows.linear(value, &weights, Weighted::Means)?;
        if self.beta > 0.0 {
            let reference = batch.column(STAGE, "ref_logp", &batch.ref_logp)?;
            let penalty = rows.token_mean_kl(reference, self.kl, &mut metrics)?;
            loss = (loss + penalty.affine(self.beta, 0.0)?)?;
        }
        if self.entropy_coef > 0.0 {
            let entropy = leaves.entropy.as_ref().ok_or(Error::MissingColumn { stage: STAGE, column: "entropy" })?;
            let mean = rows.token_mean(entropy)?;
            metrics.mean("entropy", mean.to_scalar()?, rows.mask.sum());
            loss = (loss - mean.affine(self.entropy_coef, 0.0)?)?;
        }
        Ok(Loss { value: loss, metrics })
    }
}

impl State for Real {}

#[cfg(test)]
#[path = "real_tests.rs"]
mod tests;
