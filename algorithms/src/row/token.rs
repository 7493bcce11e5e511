//! Log-prob and entropy of the chosen token, the leaf of almost every objective; and the most likely tokens.

use super::{Real, RowFunction, RowGrad, RowValue};

/// The state of a log-sum-exp over part of a row, m = max, s = sum exp(z - m), u = sum exp(z - m)(z - m).
///
/// The states of the parts of a row merge into that of the whole; u is centred at the maximum, so
/// that the entropy ln s - u/s does not cancel. Logits are tempered.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RunningSums {
    /// Largest logit so far, m.
    pub max: f64,
    /// sum exp(z - m), s.
    pub sum: f64,
    /// sum exp(z - m)(z - m), u.
    pub weighted: f64,
}

impl Default for RunningSums {
    /// Of no logits.
    fn default() -> Self {
        Self { max: f64::NEG_INFINITY, sum: 0.0, weighted: 0.0 }
    }
}

impl RunningSums {
    /// Of one part of a row: `logits` times `scale` = 1/T. A part that is all -inf adds nothing; a NaN
    /// makes everything NaN.
    pub fn of<F: Real>(logits: &[F], scale: f64) -> Self {
        let (max, sum, weighted) = F::exp_sums(logits, F::from_f64(scale));
        if max == f64::NEG_INFINITY && logits.iter().all(|z| !z.to_f64().is_nan()) {
            return Self::default();
        }
        Self { max, sum, weighted }
    }

    /// The state of both parts.
    pub fn merge(self, other: Self) -> Self {
        let max = self.max.max(other.max);
        if max == f64::NEG_INFINITY && !self.sum.is_nan() && !other.sum.is_nan() {
            return Self::default();
        }
        let (a, b) = (self.shifted(max), other.shifted(max));
        Self { max, sum: a.0 + b.0, weighted: a.1 + b.1 }
    }

    /// (s, u) relative to a larger maximum.
    fn shifted(self, max: f64) -> (f64, f64) {
        if self.max == f64::NEG_INFINITY {
            return (self.sum, self.weighted);
        }
        let shift = self.max - max;
        (shift.exp() * self.sum, shift.exp() * (self.weighted + self.sum * shift))
    }

    /// Log-sum-exp; NaN for a row that is all -inf or holds a NaN.
    pub fn lse(self) -> f64 {
        if self.sum > 0.0 { self.max + self.sum.ln() } else { f64::NAN }
    }

    /// Entropy in nats, never negative; NaN where the log-sum-exp is.
    pub fn entropy(self) -> f64 {
        let entropy = self.sum.ln() - self.weighted / self.sum;
        // f64::max would turn NaN into 0.
        if entropy < 0.0 { 0.0 } else { entropy }
    }
}

/// Log-prob of each row's chosen token at temperature T, and the entropy of the row, in nats.
///
/// logp = z_y/T - lse(z/T); H = -sum p ln p over the full vocabulary. Backward, with a = dL/dlogp and
/// b = dL/dH: dz_k = [a (1{k=y} - p_k) - b p_k (ln p_k + H)] / T.
/// Source: Cut Your Losses in Large-Vocabulary Language Models, arXiv 2411.09009, without its gradient filter.
#[derive(Debug, Clone, Copy)]
pub struct TokenLogp<'a> {
    /// The chosen token of each row.
    pub tokens: &'a [u32],
    /// Sampling temperature T > 0.
    pub temperature: f64,
    /// Whether the entropy is wanted.
    pub with_entropy: bool,
}

impl<F: Real> RowFunction<F> for TokenLogp<'_> {
    fn forward(&self, row: usize, logits: &[F]) -> RowValue {
        let scale = F::from_f64(1.0 / self.temperature);
        let sums = RunningSums::of(logits, scale.to_f64());
        let lse = sums.lse();
        // z_y - m before the logarithm: never above it, so a log-prob is never positive.
        let chosen = logits.get(self.tokens[row] as usize).map_or(f64::NAN, |z| z.to_f64() * scale.to_f64());
        let entropy = if self.with_entropy { sums.entropy() } else { 0.0 };
        let logp = if lse.is_nan() { f64::NAN } else { chosen - sums.max - sums.sum.ln() };
        RowValue { logp, entropy, divergence: 0.0, lse }
    }

    fn backward(&self, row: usize, logits: &mut [F], value: &RowValue, grad: &RowGrad) {
        let scale = F::from_f64(1.0 / self.temperature);
        let (a, b) = (grad.logp * scale.to_f64(), grad.entropy * scale.to_f64());
        F::softmax_combine(logits, scale, value.lse, F::from_f64(-a - b * value.entropy), F::from_f64(-b));
        let chosen = &mut logits[self.tokens[row] as usize];
        *chosen = F::from_f64(chosen.to_f64() + a);
    }

    fn as_token_logp(&self) -> Option<TokenLogp<'_>> {
        Some(*self)
    }
}

/// The most likely tokens of a row, with the normaliser of the whole vocabulary.
#[derive(Debug, Clone, PartialEq)]
pub struct TopK {
    /// Token ids, most likely first; equal logits in order of id.
    pub ids: Vec<u32>,
    /// Their log-probs over the whole vocabulary, never renormalised.
    pub logp: Vec<f64>,
    /// Probability of all other tokens.
    pub tail: f64,
    /// Log-sum-exp of the tempered row.
    pub lse: f64,
}

/// The k most likely tokens of a row of logits at temperature T; all of them if k exceeds the vocabulary.
///
/// A row that is all -inf or holds a NaN gives NaN log-probs.
pub fn top_k<F: Real>(logits: &[F], k: usize, temperature: f64) -> TopK {
    let scale = F::from_f64(1.0 / temperature).to_f64();
    let lse = RunningSums::of(logits, scale).lse();
    let mut best: Vec<(F, u32)> = Vec::with_capacity(k + 1);
    for (id, &z) in logits.iter().enumerate() {
        // Strictly larger: an equal logit with a higher id stays behind.
        if best.len() < k || best.last().is_some_and(|&(least, _)| z > least) {
            let place = best.partition_point(|&(other, _)| other >= z);
            best.insert(place, (z, id as u32));
            best.truncate(k);
        }
    }
    let logp: Vec<f64> = best.iter().map(|(z, _)| z.to_f64() * scale - lse).collect();
    // 1 - sum p, written so that a small tail keeps its digits while the head is one token.
    let head: f64 = logp.iter().map(|l| l.exp()).sum();
    let tail = if best.len() == logits.len() { 0.0 } else { -head.ln().exp_m1() };
    TopK { ids: best.into_iter().map(|(_, id)| id).collect(), logp, tail: if tail < 0.0 { 0.0 } else { tail }, lse }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    fn row(seed: u64, n: usize) -> Vec<f64> {
        let mut rng = Rng::keyed(&[seed]);
        (0..n).map(|_| rng.normal() * 2.0).collect()
    }

    /// Central differences of a logp + b H in f64.
    #[test]
    fn the_gradient_is_the_finite_difference() {
        let z = row(1, 23);
        let function = TokenLogp { tokens: &[0, 5], temperature: 0.7, with_entropy: true };
        let grad = RowGrad { logp: -1.3, entropy: 0.4, divergence: 0.0 };
        let scalar = |z: &[f64]| {
            let v = function.forward(1, z);
            grad.logp * v.logp + grad.entropy * v.entropy
        };
        let mut found = z.clone();
        function.backward(1, &mut found, &function.forward(1, &z), &grad);
        for k in 0..z.len() {
            let moved = |h: f64| {
                let mut z = z.clone();
                z[k] += h;
                scalar(&z)
            };
            let wanted = (moved(1e-5) - moved(-1e-5)) / 2e-5;
            assert!((found[k] - wanted).abs() < 1e-9, "{k}: {} {wanted}", found[k]);
        }
        assert!(found.iter().sum::<f64>().abs() < 1e-12, "logits have no common direction");
    }

    #[test]
    fn f32_agrees_with_f64_and_log_probs_are_never_positive() {
        let wide = row(2, 5000);
        let narrow: Vec<f32> = wide.iter().map(|&z| z as f32).collect();
        let wide: Vec<f64> = narrow.iter().map(|&z| f64::from(z)).collect();
        let function = TokenLogp { tokens: &[77], temperature: 1.0, with_entropy: true };
        let (a, b) = (function.forward(0, &narrow), function.forward(0, &wide));
        assert!((a.logp - b.logp).abs() < 1e-6 && (a.entropy - b.entropy).abs() < 1e-5);
        let grad = RowGrad { logp: 1.0, entropy: 0.5, divergence: 0.0 };
        let (mut da, mut db) = (narrow.clone(), wide.clone());
        function.backward(0, &mut da, &a, &grad);
        function.backward(0, &mut db, &b, &grad);
        let (mut error, mut size) = (0.0, 0.0);
        for (a, b) in da.iter().zip(&db) {
            error += (f64::from(*a) - b).powi(2);
            size += b * b;
        }
        assert!(error < 1e-12 * size);

        let certain = [100.0_f32, 3.0, 3.0];
        let value = TokenLogp { tokens: &[0], temperature: 0.3, with_entropy: true }.forward(0, &certain);
        assert!(value.logp <= 0.0 && value.logp > -1e-6 && value.entropy >= 0.0);
    }

    #[test]
    fn parts_merge_to_the_whole_and_broken_rows_give_nan() {
        let z = row(3, 29);
        let whole = RunningSums::of(&z, 1.0);
        for size in [1, 4, 29] {
            let merged =
                z.chunks(size).map(|c| RunningSums::of(c, 1.0)).fold(RunningSums::default(), RunningSums::merge);
            assert!((merged.lse() - whole.lse()).abs() < 1e-13 && (merged.entropy() - whole.entropy()).abs() < 1e-13);
        }
        let inf = f64::NEG_INFINITY;
        let part = RunningSums::of(&[inf, inf], 1.0).merge(RunningSums::of(&[0.0, inf], 1.0));
        assert_eq!((part.lse(), part.entropy()), (0.0, 0.0));
        let function = TokenLogp { tokens: &[0], temperature: 1.0, with_entropy: true };
        assert!(function.forward(0, &[inf, inf]).logp.is_nan());
        assert!(function.forward(0, &[f64::NAN, 0.0]).logp.is_nan());
        assert_eq!(function.forward(0, &[inf, 1.0]).logp, inf);
        assert!(RunningSums::of(&[f64::NAN], 1.0).merge(RunningSums::of(&[1.0], 1.0)).lse().is_nan());
    }

    #[test]
    fn top_k_orders_ties_by_id() {
        let top = top_k(&[1.0_f32, 3.0, 2.0, 3.0, 2.0], 3, 1.0);
        assert_eq!(top.ids, [1, 3, 2]);
        let kept: f64 = top.logp.iter().map(|l| l.exp()).sum();
        assert!((top.tail - (1.0 - kept)).abs() < 1e-6);
        assert_eq!(top_k(&[0.0_f64, 0.0], 9, 1.0).tail, 0.0);
    }
}
