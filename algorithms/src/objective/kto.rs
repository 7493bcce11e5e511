//! `objective.kto`: answers marked as good or bad, one by one.

use candle_core::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::pairs::{leaf_rows, masked, require, vector};
use super::scalar::sigmoid;
use super::{Leaves, Loss, Objective, Rows};
use crate::batch::Role;
use crate::{Batch, Error, Metrics, Needs, Result, State};

/// What an answer's reward is compared with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KtoLoss {
    /// w (1 - sigmoid(b (d - z0))) of a good answer, w (1 - sigmoid(b (z0 - d))) of a bad one. z0 is the mean of d over
    /// answers put to other prompts of the batch, at least 0, without gradient.
    #[default]
    Kto,
    /// The same with z0 = 0, which needs no further rows (APO-zero for unpaired data).
    ApoZeroUnpaired,
}

/// Kahneman-Tversky optimisation: learns from single answers marked as good or bad; d = logp - ref_logp of an answer.
///
/// loss = mean over answers. Data: `prompt`, `completion`, `label` (true or false), or pairs, which are taken apart. The
/// weights should keep (desirable_weight x good answers) / (undesirable_weight x bad ones) within 1 to 4/3; the
/// audit before training says where they stand. A batch needs two answers or more. Source: arXiv 2402.01306, in the form
/// of huggingface/trl 1.16, whose z0 takes the answer of the row before.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Kto {
    /// What an answer is compared with.
    pub loss: KtoLoss,
    /// b: how strongly the policy is held to the reference.
    pub beta: f64,
    /// Weight of good answers.
    pub desirable_weight: f64,
    /// Weight of bad answers.
    pub undesirable_weight: f64,
}

impl Default for Kto {
    fn default() -> Self {
        Self { loss: KtoLoss::Kto, beta: 0.1, desirable_weight: 1.0, undesirable_weight: 1.0 }
    }
}

const STAGE: &str = "objective.kto";

impl Kto {
    /// The objective, once its settings are found possible.
    pub fn build(&self) -> Result<Box<dyn Objective>> {
        let at = |key: &str| format!("{STAGE}.{key}");
        require(self.beta > 0.0, at("beta"), self.beta, "set it above 0")?;
        for (key, weight) in
            [("desirable_weight", self.desirable_weight), ("undesirable_weight", self.undesirable_weight)]
        {
            require(weight > 0.0, at(key), weight, "set it above 0")?;
        }
        Ok(Box::new(self.clone()))
    }
}

/// The loss of each answer and z0.
pub(crate) struct Samples {
    /// d of each answer, [N], with gradient.
    pub(crate) ratios: Tensor,
    /// Whether it is marked as good.
    pub(crate) is_desirable: Vec<bool>,
    /// z0.
    pub(crate) shift: f64,
    /// The loss of each answer, [N].
    pub(crate) per_sample: Tensor,
}

impl Samples {
    pub(crate) fn new(settings: &Kto, batch: &Batch, leaves: &Leaves) -> Result<Self> {
        let of = |is: &dyn Fn(Role) -> bool| -> Vec<usize> {
            (0..batch.rows()).filter(|&i| batch.keep[i] && is(batch.role[i])).collect()
        };
        let rows = of(&|role| matches!(role, Role::Desirable | Role::Undesirable));
        let is_desirable: Vec<bool> = rows.iter().map(|&i| batch.role[i] == Role::Desirable).collect();
        let ratios = log_ratios(batch, leaves, &rows)?;
        let shift = match settings.loss {
            KtoLoss::ApoZeroUnpaired => 0.0,
            KtoLoss::Kto => {
                let mismatched = of(&|role| role == Role::Mismatched);
                if mismatched.is_empty() {
                    return Err(Error::Exhausted {
                        stage: STAGE,
                        why: "no answer stands with another prompt: a batch needs two answers or more".into(),
                    });
                }
                let values = log_ratios(batch, leaves, &mismatched)?.to_vec1::<f64>()?;
                (values.iter().sum::<f64>() / values.len() as f64).max(0.0)
            }
        };
        // 1 - sigmoid(x) = sigmoid(-x), with x = b (d - z0) or its negative.
        let signs: Vec<f64> =
            is_desirable.iter().map(|&good| if good { -settings.beta } else { settings.beta }).collect();
        let weights: Vec<f64> = (is_desirable.iter())
            .map(|&good| if good { settings.desirable_weight } else { settings.undesirable_weight })
            .collect();
        let per_sample = (sigmoid(&((&ratios - shift)? * vector(&signs)?)?)? * vector(&weights)?)?;
        Ok(Self { ratios, is_desirable, shift, per_sample })
    }
}

/// logp - ref_logp of each of some rows, [R], with gradient.
fn log_ratios(batch: &Batch, leaves: &Leaves, rows: &[usize]) -> Result<Tensor> {
    let reference = batch.column(STAGE, "ref_logp", &batch.ref_logp)?;
    let (logp, mask) = leaf_rows(STAGE, &leaves.logp, &batch.kept_mask(), rows)?;
    let reference = masked(STAGE, "ref_logp", &reference.select(rows), &mask)?;
    Ok((logp - reference.tensor()?)?.sum(1)?)
}

impl Objective for Kto {
    fn needs(&self) -> Needs {
        Needs { ref_logp: true, ..Needs::default() }
    }

    fn rows(&self) -> Rows {
        Rows::Labelled { with_mismatched: self.loss == KtoLoss::Kto }
    }

    fn couples_rows(&self) -> bool {
        true
    }

    /// Metrics: `kl` = z0; `reward_chosen` and `reward_rejected`, b d of good and of bad answers, and
    /// `reward_margin`, their difference, where the batch has both.
    fn loss(&self, batch: &Batch, leaves: &Leaves) -> Result<Loss> {
        let samples = Samples::new(self, batch, leaves)?;
        let n = samples.is_desirable.len() as f64;
        let value = (samples.per_sample.sum_all()? / n.max(1.0))?;
        let rewards = samples.ratios.to_vec1::<f64>()?;
        let mut metrics = Metrics::new();
        if self.loss == KtoLoss::Kto {
            metrics.mean("kl", samples.shift, 1.0);
        }
        let mean = |good: bool| {
            let of: Vec<f64> = rewards
                .iter()
                .zip(&samples.is_desirable)
                .filter(|(_, g)| **g == good)
                .map(|(d, _)| self.beta * d)
                .collect();
            (of.iter().sum::<f64>() / of.len() as f64, of.len() as f64)
        };
        let (good, bad) = (mean(true), mean(false));
        metrics.mean("reward_chosen", good.0, good.1);
        metrics.mean("reward_rejected", bad.0, bad.1);
        if good.1 > 0.0 && bad.1 > 0.0 {
            metrics.mean("reward_margin", good.0 - bad.0, 1.0);
        }
        metrics.sum("desirable", good.1);
        metrics.sum("undesirable", bad.1);
        Ok(Loss { value, metrics })
    }
}

impl State for Kto {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objective::pairs::tests::{batch, run};

    /// Rows 0 and 2 stand with their prompts, 1 and 3 are mismatched: no gradient there, and the
    /// gradient elsewhere is the finite difference at fixed z0.
    #[test]
    fn mismatched_rows_shift_and_carry_no_gradient() {
        let (mut batch, mut logp) = batch(11, 2);
        for (i, role) in
            [Role::Desirable, Role::Mismatched, Role::Undesirable, Role::Mismatched].into_iter().enumerate()
        {
            batch.role[i] = role;
        }
        // Mismatched answers more likely than under the reference, so that z0 is above 0.
        for i in [1, 3] {
            for (l, r) in logp.row_mut(i).iter_mut().zip(batch.ref_logp.as_ref().unwrap().row(i)) {
                *l = r + 0.3;
            }
        }
        let kto = Kto { undesirable_weight: 1.5, ..Kto::default() };
        let (loss, gradient) = run(kto.build().unwrap().as_ref(), &batch, &logp);
        assert!(loss.metrics.get("kl").unwrap() > 0.0);
        assert!(gradient.row(1).iter().chain(gradient.row(3)).all(|&g| g == 0.0));
        for i in [0, 2] {
            let value = |h: f64| {
                let mut logp = logp.clone();
                logp.row_mut(i)[0] += h;
                run(&kto, &batch, &logp).0.value.to_scalar::<f64>().unwrap()
            };
            let difference = (value(1e-5) - value(-1e-5)) / 2e-5;
            assert!((gradient.row(i)[0] - difference).abs() < 1e-9);
        }
        assert!(gradient.row(0)[0] < 0.0 && gradient.row(2)[0] > 0.0, "good answers rise, bad ones fall");
    }

    #[test]
    fn without_mismatched_rows_z0_cannot_be_taken() {
        let (mut batch, logp) = batch(11, 1);
        batch.role = vec![Role::Desirable, Role::Undesirable];
        let leaves = Leaves { logp: logp.tensor().unwrap(), entropy: None, divergence: None, score: None };
        assert!(Kto::default().loss(&batch, &leaves).unwrap_err().to_string().contains("two answers"));
        assert!(Kto { loss: KtoLoss::ApoZeroUnpaired, ..Kto::default() }.loss(&batch, &leaves).is_ok());
    }
}
