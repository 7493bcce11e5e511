//! `objective.cpo`: contrastive preference optimisation, without a reference.

use candle_core::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::pairs::{Pairs, report_mean, require, smoothed};
use super::scalar::positive_part;
use super::{Leaves, Loss, Objective, Reads, Rows};
use crate::{Batch, Metrics, Needs, Result, State};

/// The loss of a pair; z = logp(chosen) - logp(rejected), b is beta, e the label smoothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CpoLoss {
    /// -(1 - e) log sigmoid(b z) - e log sigmoid(-b z).
    #[default]
    Sigmoid,
    /// max(0, 1 - b z).
    Hinge,
    /// (z a token - 1/(2 b))^2, each answer's log-prob divided by its length.
    Ipo,
}

/// Contrastive preference optimisation: DPO without a reference, plus imitation of the chosen answer.
///
/// loss = mean over pairs of the loss that `loss` names + `nll_weight` x mean negative log-prob of a
/// chosen token. Half the memory of DPO; nothing but the imitation term holds the policy where it was.
/// Source: arXiv 2401.08417, in the form of huggingface/trl 1.16 (token mean over the batch).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Cpo {
    /// The loss of a pair.
    pub loss: CpoLoss,
    /// b: steepness of the loss.
    pub beta: f64,
    /// e: the share of pairs believed to be labelled the wrong way round, below 0.5; `sigmoid` only.
    pub label_smoothing: f64,
    /// Factor on the imitation term.
    pub nll_weight: f64,
}

impl Default for Cpo {
    fn default() -> Self {
        Self { loss: CpoLoss::Sigmoid, beta: 0.1, label_smoothing: 0.0, nll_weight: 1.0 }
    }
}

const STAGE: &str = "objective.cpo";

impl Cpo {
    /// The objective, once its settings are found possible.
    pub fn build(&self) -> Result<Box<dyn Objective>> {
        check(STAGE, self.beta, self.label_smoothing, self.nll_weight)?;
        if self.label_smoothing > 0.0 && self.loss != CpoLoss::Sigmoid {
            let why = "only the loss `sigmoid` has it";
            return Err(crate::Error::config(format!("{STAGE}.label_smoothing"), self.label_smoothing, why));
        }
        Ok(Box::new(self.clone()))
    }

    /// The loss of each pair, [B].
    pub(crate) fn per_pair(&self, pairs: &Pairs) -> Result<Tensor> {
        let z = (pairs.chosen.sum()? - pairs.rejected.sum()?)?;
        Ok(match self.loss {
            CpoLoss::Sigmoid => smoothed(&(z * self.beta)?, self.label_smoothing)?,
            CpoLoss::Hinge => positive_part(&(1.0 - (z * self.beta)?)?)?,
            CpoLoss::Ipo => {
                let z = (pairs.chosen.mean()? - pairs.rejected.mean()?)?;
                (z - 0.5 / self.beta)?.sqr()?
            }
        })
    }
}

/// Settings that `cpo` and `simpo` share.
pub(super) fn check(stage: &str, beta: f64, label_smoothing: f64, nll_weight: f64) -> Result<()> {
    require(beta > 0.0, format!("{stage}.beta"), beta, "set it above 0")?;
    let is_share = (0.0..0.5).contains(&label_smoothing);
    require(is_share, format!("{stage}.label_smoothing"), label_smoothing, "it is a share from 0 to below 0.5")?;
    require(nll_weight >= 0.0, format!("{stage}.nll_weight"), nll_weight, "it is 0 or above")
}

/// mean over pairs + `nll_weight` x imitation, with the metrics of a loss without a reference:
/// `loss_preference`, `nll` (nats a chosen token), and rewards b logp of an answer under `rewards`.
pub(super) fn finish(pairs: &Pairs, per_pair: &Tensor, nll_weight: f64, rewards: (&Tensor, &Tensor)) -> Result<Loss> {
    let mut metrics = Metrics::new();
    let mut value = pairs.mean(per_pair)?;
    let nll = pairs.chosen_nll()?;
    let tokens = pairs.chosen.mask.sum();
    metrics.mean("nll", nll.to_scalar::<f64>()? * pairs.chosen_tokens / tokens, tokens);
    if nll_weight != 0.0 {
        value = (value + (nll * nll_weight)?)?;
    }
    report_mean(&mut metrics, "loss_preference", per_pair)?;
    pairs.report(&mut metrics)?;
    report_rewards(&mut metrics, rewards)?;
    Ok(Loss { value, metrics })
}

/// `reward_chosen`, `reward_rejected`, `reward_margin`, `reward_accuracy` (strict) of rewards [B].
pub(super) fn report_rewards(metrics: &mut Metrics, (chosen, rejected): (&Tensor, &Tensor)) -> Result<()> {
    let (c, r) = (chosen.to_vec1::<f64>()?, rejected.to_vec1::<f64>()?);
    let b = c.len() as f64;
    let mean = |f: &dyn Fn(usize) -> f64| (0..c.len()).map(f).sum::<f64>() / b;
    metrics.mean("reward_chosen", mean(&|i| c[i]), b);
    metrics.mean("reward_rejected", mean(&|i| r[i]), b);
    metrics.mean("reward_margin", mean(&|i| c[i] - r[i]), b);
    metrics.mean("reward_accuracy", mean(&|i| f64::from(u8::from(c[i] > r[i]))), b);
    Ok(())
}

impl Objective for Cpo {
    fn needs(&self) -> Needs {
        Needs::default()
    }

    fn reads(&self) -> Reads {
        Reads::default()
    }

    fn rows(&self) -> Rows {
        Rows::Pairs { with_prompt: false }
    }

    fn couples_rows(&self) -> bool {
        false
    }

    fn couples_group(&self) -> bool {
        true
    }

    fn loss(&self, batch: &Batch, leaves: &Leaves) -> Result<Loss> {
        let pairs = Pairs::read(STAGE, batch, leaves)?;
        let rewards = ((pairs.chosen.sum()? * self.beta)?, (pairs.rejected.sum()? * self.beta)?);
        finish(&pairs, &self.per_pair(&pairs)?, self.nll_weight, (&rewards.0, &rewards.1))
    }
}

impl State for Cpo {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objective::pairs::tests::check_laws;

    #[test]
    fn every_loss_obeys_the_laws() {
        for loss in [CpoLoss::Sigmoid, CpoLoss::Hinge, CpoLoss::Ipo] {
            check_laws(&Cpo { loss, ..Cpo::default() });
        }
        check_laws(&Cpo { label_smoothing: 0.2, nll_weight: 0.0, ..Cpo::default() });
        assert!(Cpo { loss: CpoLoss::Hinge, label_smoothing: 0.1, ..Cpo::default() }.build().is_err());
    }
}
