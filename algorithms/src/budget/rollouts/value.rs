//! The value of a number of rollouts, and how to divide a total so that the sum of values is largest.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// Q(N,p) = 1 - p^N - (1-p)^N: the chance that N rollouts hold both outcomes; 0 for N of 0 or 1 and for p of 0 or 1.
pub fn prob_mixed(n: usize, p: f64) -> f64 {
    if n <= 1 || p <= 0.0 || p >= 1.0 {
        return 0.0;
    }
    1.0 - p.powf(n as f64) - (1.0 - p).powf(n as f64)
}

/// I(p) = p (1-p)^2: what one gradient step may gain, first-order; largest, 4/27, at p = 1/3.
pub fn information_gain(p: f64) -> f64 {
    p * (1.0 - p) * (1.0 - p)
}

/// V(N,p) = Q(N,p) I(p), rising and concave in N.
pub fn value(n: usize, p: f64) -> f64 {
    prob_mixed(n, p) * information_gain(p)
}

/// V(N+1,p) - V(N,p) = I(p) (p^N (1-p) + (1-p)^N p) for N >= 1; falls with N. 0 at N = 0.
pub fn marginal(n: usize, p: f64) -> f64 {
    if n == 0 || p <= 0.0 || p >= 1.0 {
        return 0.0;
    }
    information_gain(p) * (p.powf(n as f64) * (1.0 - p) + (1.0 - p).powf(n as f64) * p)
}

/// Rollouts expected until both outcomes were seen, 1/p + 1/(1-p) - 1; `None` where one never comes.
pub fn expected_until_mixed(p: f64) -> Option<f64> {
    (p > 0.0 && p < 1.0).then(|| 1.0 / p + 1.0 / (1.0 - p) - 1.0)
}

/// Rollouts after which both outcomes were seen with chance `alpha`, up to the rounding up:
/// ln(1 - alpha) / ln(max(p, 1-p)).
pub fn enough(p: f64, alpha: f64) -> usize {
    ((1.0 - alpha).ln() / p.max(1.0 - p).ln()).ceil() as usize
}

/// A prompt that waits for its next rollout; the largest gain first, the lowest index among equals.
#[derive(PartialEq)]
struct Bid {
    gain: f64,
    index: usize,
}

impl Eq for Bid {}

impl Ord for Bid {
    fn cmp(&self, other: &Self) -> Ordering {
        self.gain.total_cmp(&other.gain).then(other.index.cmp(&self.index))
    }
}

impl PartialOrd for Bid {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The counts in [low, up] with sum `total` that make sum_i V(n_i, p_i) largest, and what is left over.
///
/// One rollout at a time goes to the largest marginal value, which is exact because every V is concave
/// and every rollout costs one. Ties go to the lowest index. What no prompt can take under the cap is
/// left over. `total` below `low` a prompt gives `low` to all and leaves nothing: the caller refuses it.
/// O(total log P). Checked against exhaustive search and dynamic programming by the golden file.
pub fn solve(p: &[f64], low: usize, up: usize, total: usize) -> (Vec<usize>, usize) {
    let mut counts = vec![low; p.len()];
    let mut left = total.saturating_sub(low * p.len());
    let bids = p.iter().enumerate().filter(|_| low < up);
    let mut heap: BinaryHeap<Bid> = bids.map(|(index, &p)| Bid { gain: marginal(low, p), index }).collect();
    while left > 0 {
        let Some(Bid { index, .. }) = heap.pop() else { break };
        counts[index] += 1;
        left -= 1;
        if counts[index] < up {
            heap.push(Bid { gain: marginal(counts[index], p[index]), index });
        }
    }
    (counts, left)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    #[test]
    fn the_marginal_is_the_difference_of_values() {
        for p in [0.001, 0.2, 0.5, 0.93] {
            for n in 1..40 {
                assert!((marginal(n, p) - (value(n + 1, p) - value(n, p))).abs() < 1e-15, "{n} {p}");
                assert!(marginal(n + 1, p) <= marginal(n, p));
            }
        }
    }

    /// All allocations of small random cases are tried; none is worth more.
    #[test]
    fn no_allocation_is_worth_more() {
        fn best(p: &[f64], low: usize, up: usize, total: usize) -> f64 {
            let Some((&first, rest)) = p.split_first() else { return if total == 0 { 0.0 } else { f64::NEG_INFINITY } };
            (low..=up.min(total))
                .map(|n| value(n, first) + best(rest, low, up, total - n))
                .fold(f64::NEG_INFINITY, f64::max)
        }
        let mut rng = Rng::keyed(&[3]);
        for _ in 0..60 {
            let p: Vec<f64> = (0..4).map(|_| rng.uniform()).collect();
            let (low, up) = (1 + rng.below(2) as usize, 4 + rng.below(4) as usize);
            let total = 4 * low + rng.below((4 * (up - low)) as u64) as usize;
            let (counts, left) = solve(&p, low, up, total);
            let worth: f64 = counts.iter().zip(&p).map(|(&n, &p)| value(n, p)).sum();
            assert_eq!((counts.iter().sum::<usize>(), left), (total, 0));
            assert!((worth - best(&p, low, up, total)).abs() < 1e-13);
        }
    }

    /// The bound: 10 ms for 1,024 prompts x 8 (optimised; a debug build gets ten times as much).
    #[test]
    fn a_large_step_is_solved_in_milliseconds() {
        let mut rng = Rng::keyed(&[4]);
        let p: Vec<f64> = (0..1024).map(|_| rng.uniform()).collect();
        let started = std::time::Instant::now();
        let (counts, left) = solve(&p, 2, 128, 1024 * 8);
        assert_eq!((counts.iter().sum::<usize>(), left), (8192, 0));
        assert!(started.elapsed().as_millis() < 100, "{:?}", started.elapsed());
    }
}
