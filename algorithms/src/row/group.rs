//! How far the next-token distributions of a group's completions are apart at one position.

use super::Real;
use super::token::RunningSums;

/// The most that a log-prob may differ from the group's mean, in nats.
pub const DIFFERENCE_LIMIT: f64 = 11.0;

/// Divergence within a group at one position: mean over completions of sum over v of exp(d) - d - 1, with
/// d = clamp(mean over completions of l - l, +-limit) and l the log-probs [V] of each at temperature T.
///
/// A completion that has ended (`None`) counts as uniform, l = -ln V. Identical distributions, or a
/// group of one, give 0. The sum over the vocabulary is not weighted by probability: a k3-shaped
/// divergence dominated by unlikely tokens, not a KL. Source: TW-GRPO, arXiv 2505.24718, by its code.
pub fn divergence<F: Real>(rows: &[Option<&[F]>], temperature: f64, limit: f64) -> f64 {
    let Some(vocabulary) = rows.iter().flatten().map(|row| row.len()).next() else { return 0.0 };
    let scale = F::from_f64(1.0 / temperature).to_f64();
    let lse: Vec<f64> = rows.iter().map(|r| r.map_or(0.0, |r| RunningSums::of(r, scale).lse())).collect();
    let (g, uniform) = (rows.len() as f64, -(vocabulary as f64).ln());
    let mut sum = 0.0;
    let mut l = vec![0.0; rows.len()];
    for v in 0..vocabulary {
        for ((l, row), lse) in l.iter_mut().zip(rows).zip(&lse) {
            *l = row.map_or(uniform, |row| row[v].to_f64() * scale - lse);
        }
        let mean = l.iter().sum::<f64>() / g;
        for l in &l {
            let d = (mean - l).clamp(-limit, limit);
            sum += d.exp_m1() - d;
        }
    }
    sum / g
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_distributions_are_not_apart() {
        let (a, b) = ([1.0_f64, -2.0, 0.5], [2.0_f64, -1.0, 1.5]); // b = a + 1
        assert!(divergence(&[Some(&a), Some(&b)], 1.0, DIFFERENCE_LIMIT).abs() < 1e-14);
        assert_eq!(divergence(&[Some(&a[..])], 0.7, DIFFERENCE_LIMIT), 0.0);
        assert_eq!(divergence::<f64>(&[None, None], 1.0, DIFFERENCE_LIMIT), 0.0);
        assert_eq!(
            divergence(&[Some(&[0.3_f64, 0.3][..]), None], 1.0, DIFFERENCE_LIMIT),
            0.0,
            "an ended row is uniform"
        );
        assert!(divergence(&[Some(&a), None], 1.0, DIFFERENCE_LIMIT) > 0.1);
    }
}
