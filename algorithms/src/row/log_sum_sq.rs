//! log sum_v p(v)^2 of a row: how concentrated the next-token distribution is.

use super::token::RunningSums;
use super::{Real, RowFunction, RowGrad, RowValue};

/// log sum p^2 = lse(2 z) - 2 lse(z) of each row's logits, in `logp` of its value. A weight, never trained through.
#[derive(Debug, Clone, Copy)]
pub struct LogSumSq;

impl<F: Real> RowFunction<F> for LogSumSq {
    fn forward(&self, _row: usize, logits: &[F]) -> RowValue {
        let lse = RunningSums::of(logits, 1.0).lse();
        RowValue { logp: RunningSums::of(logits, 2.0).lse() - 2.0 * lse, lse, ..RowValue::default() }
    }

    /// It has no gradient.
    fn backward(&self, _row: usize, logits: &mut [F], _value: &RowValue, _grad: &RowGrad) {
        logits.fill(F::from_f64(0.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_sum_of_squared_probabilities() {
        let z = [0.3_f64, -1.2, 2.0];
        let sum: f64 = z.iter().map(|z| z.exp()).sum();
        let wanted = z.iter().map(|z| (z.exp() / sum).powi(2)).sum::<f64>().ln();
        assert!((LogSumSq.forward(0, &z).logp - wanted).abs() < 1e-14);
        assert!((LogSumSq.forward(0, &[0.0_f64; 8]).logp + 8f64.ln()).abs() < 1e-14);
    }
}
