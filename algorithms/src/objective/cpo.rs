//! `objective.cpo`: contrastive preference optimisation, without a reference.

use candle_core::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::pairs::{Pairs, check, finish, smoothed};
use super::scalar::positive_part;
use super::{Leaves, Loss, Objective, Rows};
use crate::{Batch, Result, State};

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

impl Objective for Cpo {
    fn rows(&self) -> Rows {
        Rows::Pairs { with_prompt: false }
    }

    fn couples_rows(&self) -> bool {
        false
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
