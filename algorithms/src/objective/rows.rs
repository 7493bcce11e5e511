//! Sums and means of log-prob changes over the rows of a batch, and losses that are linear in them.
//!
//! An objective that couples rows through one number a row computes its loss and the derivative by these
//! numbers in closed form; the leaves' gradient follows, because each number is linear in the log-probs.

use candle_core::Tensor;

use super::Leaves;
use super::grpo::kl::Estimator;
use crate::{Batch, Error, Metrics, Result, Table};

/// What a derivative is taken by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Weighted {
    /// A row's sum over its tokens.
    Sums,
    /// A row's mean over its tokens.
    Means,
}

/// The log-probs of a batch with everything masked set to 0.
pub(super) struct Rows {
    stage: &'static str,
    /// Current log-probs, [N,T], with gradient.
    logp: Tensor,
    /// logp - anchor, [N,T], no gradient; 0 throughout without an anchor, for the policy is its own.
    pub(super) change: Table,
    /// The mask of kept rows, [N,T].
    pub(super) mask: Table,
}

impl Rows {
    /// Errors: columns of another shape, values that are not finite where the mask is on, by their row.
    pub(super) fn read(stage: &'static str, batch: &Batch, leaves: &Leaves, anchor: Option<&Table>) -> Result<Self> {
        let mask = batch.kept_mask();
        let current = masked(stage, &Table::from_tensor(&leaves.logp)?, &mask, "logp")?;
        let change = match anchor {
            Some(anchor) => current.zip(&masked(stage, anchor, &mask, "anchor log-prob")?, |now, then| now - then),
            None => Table::zeros(mask.rows(), mask.cols()),
        };
        let is_on = mask.tensor()?.ne(0.0)?;
        let logp = is_on.where_cond(&leaves.logp, &leaves.logp.zeros_like()?.detach())?;
        Ok(Self { stage, logp, change, mask })
    }

    /// Tokens of each row, at least 1, [N].
    pub(super) fn tokens(&self) -> Vec<f64> {
        (0..self.mask.rows()).map(|i| self.mask.row(i).iter().sum::<f64>().max(1.0)).collect()
    }

    /// Sum of the change over each row's tokens, [N].
    pub(super) fn sums(&self) -> Vec<f64> {
        let dot = |i: usize| self.change.row(i).iter().zip(self.mask.row(i)).map(|(x, m)| x * m).sum();
        (0..self.mask.rows()).map(dot).collect()
    }

    /// Mean of the change over each row's tokens, [N]; 0 for a row without tokens.
    pub(super) fn means(&self) -> Vec<f64> {
        self.sums().iter().zip(self.tokens()).map(|(sum, n)| sum / n).collect()
    }

    /// A scalar of this value whose derivative by each row's sum or mean is `weights`, [N].
    pub(super) fn linear(&self, value: f64, weights: &[f64], of: Weighted) -> Result<Tensor> {
        let mut shares = self.mask.clone();
        for (i, n) in self.tokens().into_iter().enumerate() {
            let weight = if of == Weighted::Means { weights[i] / n } else { weights[i] };
            shares.row_mut(i).iter_mut().for_each(|m| *m *= weight);
        }
        let moved = (&self.logp * shares.tensor()?)?.sum_all()?;
        Ok(((&moved - moved.detach())? + value)?)
    }

    /// Mean over all tokens of a leaf, [1].
    pub(super) fn token_mean(&self, leaf: &Tensor) -> Result<Tensor> {
        let is_on = self.mask.tensor()?.ne(0.0)?;
        let values = is_on.where_cond(leaf, &leaf.zeros_like()?.detach())?;
        Ok(values.sum_all()?.affine(1.0 / self.mask.sum().max(1.0), 0.0)?)
    }

    /// Mean over all tokens of the KL estimate to `reference`, [1]; metric `kl`.
    pub(super) fn token_mean_kl(&self, reference: &Table, kl: Estimator, metrics: &mut Metrics) -> Result<Tensor> {
        let reference = masked(self.stage, reference, &self.mask, "reference log-prob")?;
        let mean = self.token_mean(&kl.tokens(&(&self.logp - reference.tensor()?)?)?)?;
        metrics.mean("kl", mean.to_scalar()?, self.mask.sum());
        Ok(mean)
    }
}

/// The column with 0 where the mask is 0; what counts must be finite.
pub(super) fn masked(stage: &'static str, column: &Table, mask: &Table, what: &'static str) -> Result<Table> {
    if (column.rows(), column.cols()) != (mask.rows(), mask.cols()) {
        return Err(Error::Shape {
            what: format!("{what} of a batch"),
            expected: format!("{} x {}", mask.rows(), mask.cols()),
            found: format!("{} x {}", column.rows(), column.cols()),
        });
    }
    let column = column.zip(mask, |x, m| if m == 0.0 { 0.0 } else { x });
    match (0..column.rows()).find(|&i| column.row(i).iter().any(|x| !x.is_finite())) {
        Some(row) => Err(Error::NonFinite { stage, what, row }),
        None => Ok(column),
    }
}
