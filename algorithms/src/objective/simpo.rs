//! `objective.simpo`: preference optimisation by mean log-probs, without a reference.

use candle_core::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::pairs::{Pairs, check, finish, require, smoothed};
use super::{Leaves, Loss, Objective, Rows};
use crate::{Batch, Result, State};

/// Simple preference optimisation: the reward of an answer is b times its mean log-prob a token, so that
/// length does not pay, and the chosen one must lead by a margin.
///
/// loss = mean over pairs of -log sigmoid(b (C - R) - gamma), C and R the mean log-prob of a token of the
/// chosen and the rejected answer. With `alpha` it is AlphaPO (arXiv 2501.03884): (1 - exp(-alpha C)) / alpha in place of
/// C; with `nll_weight` it is CPO-SimPO. No reference is needed. Source: arXiv 2405.14734; the paper tunes
/// gamma/b in 0..1 with b in 2..10.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Simpo {
    /// b: scale of the reward.
    pub beta: f64,
    /// The margin, in units of the reward.
    pub gamma: f64,
    /// e: the share of pairs believed to be labelled the wrong way round, below 0.5.
    pub label_smoothing: f64,
    /// Shape of AlphaPO's reward; 0 is SimPO.
    pub alpha: f64,
    /// Factor on the mean negative log-prob of chosen tokens.
    pub nll_weight: f64,
}

impl Default for Simpo {
    fn default() -> Self {
        Self { beta: 2.0, gamma: 0.5, label_smoothing: 0.0, alpha: 0.0, nll_weight: 0.0 }
    }
}

const STAGE: &str = "objective.simpo";

impl Simpo {
    /// The objective, once its settings are found possible.
    pub fn build(&self) -> Result<Box<dyn Objective>> {
        check(STAGE, self.beta, self.label_smoothing, self.nll_weight)?;
        require(true, format!("{STAGE}.gamma"), self.gamma, "it is a finite number")?;
        require(true, format!("{STAGE}.alpha"), self.alpha, "it is a finite number")?;
        Ok(Box::new(self.clone()))
    }

    /// C or R, shaped, [B].
    fn shaped(&self, mean: Tensor) -> Result<Tensor> {
        match self.alpha {
            0.0 => Ok(mean),
            alpha => Ok(((1.0 - (mean * -alpha)?.exp()?)? / alpha)?),
        }
    }

    /// Shaped mean log-probs of both sides, and the loss of each pair, [B].
    pub(crate) fn per_pair(&self, pairs: &Pairs) -> Result<(Tensor, Tensor, Tensor)> {
        let (c, r) = (self.shaped(pairs.chosen.mean()?)?, self.shaped(pairs.rejected.mean()?)?);
        let x = (((&c - &r)? * self.beta)? - self.gamma)?;
        let loss = smoothed(&x, self.label_smoothing)?;
        Ok((c, r, loss))
    }
}

impl Objective for Simpo {
    fn rows(&self) -> Rows {
        Rows::Pairs { with_prompt: false }
    }

    fn couples_rows(&self) -> bool {
        false
    }

    fn loss(&self, batch: &Batch, leaves: &Leaves) -> Result<Loss> {
        let pairs = Pairs::read(STAGE, batch, leaves)?;
        let (c, r, per_pair) = self.per_pair(&pairs)?;
        finish(&pairs, &per_pair, self.nll_weight, (&(c * self.beta)?, &(r * self.beta)?))
    }
}

impl State for Simpo {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objective::pairs::tests::check_laws;

    #[test]
    fn it_obeys_the_laws() {
        check_laws(&Simpo::default());
        check_laws(&Simpo { alpha: 0.25, label_smoothing: 0.1, nll_weight: 0.5, ..Simpo::default() });
    }
}
