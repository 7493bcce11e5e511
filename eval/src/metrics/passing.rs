//! Metrics of one problem with `n` samples, `c` of them right: pass@k and its strict relatives.

use super::distribution::ln_choose;
use crate::{Error, Result};

/// Unbiased pass@k, the chance that `k` samples drawn without replacement hold a right one:
/// 1 - C(n-c, k) / C(n, k).
///
/// Computed as 1 - prod_{i=n-c+1}^{n} (1 - k/i), without large numbers; exactly 1 when n - c < k.
/// Errors: [`Error::TooFewSamples`] when k > n or k = 0. Source: "Evaluating Large Language Models Trained
/// on Code", arXiv 2107.03374.
pub fn pass_at_k(n: usize, c: usize, k: usize) -> Result<f64> {
    check(n, k)?;
    if n - c < k {
        return Ok(1.0);
    }
    Ok(1.0 - (n - c + 1..=n).map(|i| 1.0 - k as f64 / i as f64).product::<f64>())
}

/// G-Pass@k_tau, the chance that at least max(ceil(tau k), 1) of `k` samples drawn without replacement are
/// right: sum_{j>=m} C(c, j) C(n-c, k-j) / C(n, k).
///
/// Errors: [`Error::TooFewSamples`] when k > n or k = 0; [`Error::NonFinite`] when tau is no number. A tau
/// above 1 cannot be reached: 0. Source: "Are Your LLMs Capable of Stable Reasoning?", arXiv 2412.13147.
pub fn g_pass_at_k(n: usize, c: usize, k: usize, tau: f64) -> Result<f64> {
    check(n, k)?;
    if !tau.is_finite() {
        return Err(Error::NonFinite(format!("tau = {tau}")));
    }
    // tau * k may miss an integer by rounding: 0.7 * 10 must be 7, not 8.
    let least = (tau * k as f64 - 1e-9).ceil().max(1.0) as usize;
    Ok(at_least(n, c, k, least))
}

/// mG-Pass@k, the mean of G-Pass over tau from one half to 1: (2/k) sum_{m=ceil(k/2)+1}^{k} P(at least m right).
///
/// For k = 1 the sum is empty and the value 0, as published. Errors and source: as [`g_pass_at_k`].
pub fn mg_pass_at_k(n: usize, c: usize, k: usize) -> Result<f64> {
    check(n, k)?;
    let sum: f64 = (k.div_ceil(2) + 1..=k).map(|least| at_least(n, c, k, least)).sum();
    Ok(2.0 / k as f64 * sum)
}

/// Upper tail of the hypergeometric distribution.
fn at_least(n: usize, c: usize, k: usize, least: usize) -> f64 {
    let all = ln_choose(n, k);
    (least..=k.min(c))
        .filter(|j| k - j <= n - c)
        .map(|j| (ln_choose(c, j) + ln_choose(n - c, k - j) - all).exp())
        .sum::<f64>()
        .min(1.0)
}

fn check(n: usize, k: usize) -> Result<()> {
    if k == 0 || k > n { Err(Error::TooFewSamples { k, n }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Complementary sums, and bounds between the metrics, for any n, c, k.
        #[test]
        fn laws(n in 1usize..40, c_share in 0.0f64..=1.0, k_share in 0.0f64..=1.0) {
            let c = (c_share * n as f64).round() as usize;
            let k = 1 + (k_share * (n - 1) as f64).round() as usize;
            let pass = pass_at_k(n, c, k).unwrap();
            // At least one right is G-Pass with the smallest tau.
            prop_assert!((pass - g_pass_at_k(n, c, k, 0.0).unwrap()).abs() < 1e-10);
            // More samples never hurt pass@k, and a higher bar never helps G-Pass.
            if k > 1 { prop_assert!(pass + 1e-12 >= pass_at_k(n, c, k - 1).unwrap()); }
            prop_assert!(g_pass_at_k(n, c, k, 1.0).unwrap() <= g_pass_at_k(n, c, k, 0.5).unwrap() + 1e-12);
            prop_assert!((0.0..=1.0 + 1e-12).contains(&mg_pass_at_k(n, c, k).unwrap()));
        }
    }

    #[test]
    fn k_beyond_the_samples_is_an_error() {
        for k in [0, 5] {
            assert!(matches!(pass_at_k(4, 1, k), Err(Error::TooFewSamples { n: 4, .. })));
            assert!(g_pass_at_k(4, 1, k, 0.5).is_err() && mg_pass_at_k(4, 1, k).is_err());
        }
        assert!(g_pass_at_k(4, 1, 2, f64::NAN).is_err());
    }

    #[test]
    fn a_product_that_rounds_above_an_integer_keeps_its_bar() {
        // 0.7 * 10 is 7.000000000000001 in some orders of evaluation; 7 right of 10 must pass tau = 0.7.
        assert!((g_pass_at_k(10, 7, 10, 0.1 * 7.0).unwrap() - 1.0).abs() < 1e-12);
    }
}
