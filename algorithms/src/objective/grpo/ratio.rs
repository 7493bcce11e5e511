//! The importance ratio between the current policy and the one that started the phase.

use candle_core::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Columns;
use crate::{Metrics, Result, Table};

/// What the importance ratio is taken over; lr = logp - old_logp.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// rho = exp(lr) of each token.
    #[default]
    Token,
    /// s = exp(mean of lr over the row's tokens), the geometric mean (GSPO, arXiv 2507.18071).
    Sequence,
    /// sg[s] exp(logp - sg[logp]): the value of `sequence`, the gradient of each token.
    SequenceToken,
}

/// Log-ratios beyond this are cut before the exponential (verl's guard; e^20 is about 5e8).
const LOG_LIMIT: f64 = 20.0;

/// The ratio of each token, constant along a row at the sequence levels.
pub(super) struct Ratio {
    /// [N,T], with gradient; 1 or the row's ratio at masked entries.
    pub(super) value: Tensor,
    /// logp - old_logp, [N,T], without gradient; 0 at masked entries.
    pub(super) log: Table,
    /// Whether it is one number a row.
    pub(super) is_per_row: bool,
}

impl Ratio {
    pub(super) fn new(columns: &Columns, level: Level) -> Result<Self> {
        let log = columns.current.zip(&columns.old, |now, old| now - old);
        let difference = (&columns.logp - columns.old.tensor()?)?;
        let value = match level {
            Level::Token => clamp(&difference, -LOG_LIMIT, LOG_LIMIT)?.exp()?,
            Level::Sequence => row_mean(&difference, &columns.mask)?.exp()?,
            Level::SequenceToken => {
                let row = row_mean(&difference.detach(), &columns.mask)?.exp()?;
                (row * (&columns.logp - columns.logp.detach())?.exp()?)?
            }
        };
        Ok(Self { value, log, is_per_row: level != Level::Token })
    }

    /// `ratio_mean`, `ratio_max`: over tokens; both exactly 1 at the first update after a rollout.
    pub(super) fn report(&self, mask: &Table, metrics: &mut Metrics) -> Result<()> {
        let values = Table::from_tensor(&self.value)?.zip(mask, |r, m| r * m);
        let tokens = mask.sum();
        if tokens > 0.0 {
            metrics.mean("ratio_mean", values.sum() / tokens, tokens);
            metrics.max("ratio_max", values.data().iter().copied().fold(0.0, f64::max));
        }
        Ok(())
    }
}

/// Mean over the row's tokens, [N,T] with one value a row; 0 for a row without tokens.
fn row_mean(difference: &Tensor, mask: &Table) -> Result<Tensor> {
    let shares: Vec<f64> = (0..mask.rows()).map(|i| 1.0 / mask.row(i).iter().sum::<f64>().max(1.0)).collect();
    let shares = Tensor::new(shares, difference.device())?.unsqueeze(1)?; // [N,1]
    let mean = ((difference * mask.tensor()?)?.sum_keepdim(1)? * shares)?; // [N,1]
    Ok(clamp(&mean, -LOG_LIMIT, LOG_LIMIT)?.broadcast_as(difference.shape())?.contiguous()?)
}

/// The tensor within [low, high], a constant outside: unlike Candle's, ties keep their whole gradient.
pub(super) fn clamp(tensor: &Tensor, low: f64, high: f64) -> Result<Tensor> {
    let values = tensor.detach();
    let is_inside = (values.ge(low)? * values.le(high)?)?;
    Ok(is_inside.where_cond(tensor, &values.clamp(low, high)?)?)
}
