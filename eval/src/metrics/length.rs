//! Completion lengths: centre, spread and shape.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Lengths of a set of completions, in tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Lengths {
    /// All tokens together.
    pub total: usize,
    /// Mean.
    pub mean: f64,
    /// Median; the mean of the middle two for an even count.
    pub median: f64,
    /// 95th centile, interpolated between neighbours (numpy's default).
    pub p95: f64,
    /// Longest.
    pub max: usize,
    /// At most [`BINS`] bins of equal width from 0 on.
    pub histogram: Vec<Bin>,
}

/// One bar of a histogram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Bin {
    /// Least length in it, in tokens.
    pub from: usize,
    /// Greatest length in it, in tokens.
    pub to: usize,
    /// Completions in it that are right.
    pub right: usize,
    /// Completions in it that are wrong.
    pub wrong: usize,
}

/// Most bars a histogram has.
pub const BINS: usize = 24;

/// Statistics of `(tokens, is_right)` pairs; all zero for none.
pub fn lengths(samples: &[(usize, bool)]) -> Lengths {
    let mut sorted: Vec<usize> = samples.iter().map(|(tokens, _)| *tokens).collect();
    sorted.sort_unstable();
    let max = sorted.last().copied().unwrap_or(0);
    let total: usize = sorted.iter().sum();
    let width = (max + 1).div_ceil(BINS);
    let bars = if sorted.is_empty() { 0 } else { max / width + 1 };
    let mut histogram: Vec<Bin> =
        (0..bars).map(|bar| Bin { from: bar * width, to: (bar + 1) * width - 1, right: 0, wrong: 0 }).collect();
    for (tokens, is_right) in samples {
        let bin = &mut histogram[tokens / width];
        if *is_right { bin.right += 1 } else { bin.wrong += 1 }
    }
    Lengths {
        total,
        mean: if sorted.is_empty() { 0.0 } else { total as f64 / sorted.len() as f64 },
        median: quantile(&sorted, 0.5),
        p95: quantile(&sorted, 0.95),
        max,
        histogram,
    }
}

/// Linear interpolation between the order statistics around (len - 1) q; 0 for none.
fn quantile(sorted: &[usize], q: f64) -> f64 {
    if sorted.is_empty() {
        return 0.0;
    }
    let at = (sorted.len() - 1) as f64 * q;
    let below = sorted[at.floor() as usize] as f64;
    let above = sorted[at.ceil() as usize] as f64;
    below + (above - below) * at.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// numpy.percentile([1, 2, 3, 10], [50, 95]) = [2.5, 8.95].
    #[test]
    fn quantiles_interpolate_and_bins_hold_everything() {
        let found = lengths(&[(10, true), (1, false), (3, true), (2, false)]);
        assert_eq!((found.total, found.max, found.mean, found.median), (16, 10, 4.0, 2.5));
        assert!((found.p95 - 8.95).abs() < 1e-12);
        let counted: usize = found.histogram.iter().map(|bin| bin.right + bin.wrong).sum();
        assert_eq!((counted, found.histogram.iter().map(|bin| bin.right).sum::<usize>()), (4, 2));
    }

    #[test]
    fn long_and_empty_sets_stay_within_the_bins() {
        let found = lengths(&(0..5000).map(|tokens| (tokens, tokens % 2 == 0)).collect::<Vec<_>>());
        assert!(found.histogram.len() <= BINS);
        assert_eq!(found.histogram.iter().map(|bin| bin.right + bin.wrong).sum::<usize>(), 5000);
        assert_eq!(lengths(&[]).histogram, []);
        assert_eq!(lengths(&[(0, false)]).histogram.len(), 1);
    }
}
