//! How far a step may go before the cross-entropy's Taylor series along it ends.
//!
//! Along a direction, logits move as z + tau a; the sum of exponentials has complex zeros, and the nearest of them is at
//! least pi / (max a - min a) away. r is the step's length in that unit. "Ghosts of Softmax: Complex Singularities That Limit Safe Step Sizes in Cross-Entropy",
//! arXiv 2603.13552, and its experiments; the package of its authors measures something else (a spread of logits).

use std::f64::consts::PI;

/// max - min of the change of a row's logits; 0 for an empty row, NaN if any is.
pub fn spread(change: &[f64]) -> f64 {
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    for &a in change {
        if a.is_nan() {
            return f64::NAN;
        }
        low = low.min(a);
        high = high.max(a);
    }
    if high >= low { high - low } else { 0.0 }
}

/// r of a step whose logit changes have these spreads, a row each: max / pi. NaN if any is: such a step is rejected.
pub fn ratio(spreads: &[f64]) -> f64 {
    spreads.iter().fold(0.0, |most: f64, &s| if s.is_nan() || most.is_nan() { f64::NAN } else { most.max(s) }) / PI
}

/// r that all but a share of 1 - `q` of the rows stay below (nearest rank).
pub fn ratio_quantile(spreads: &[f64], q: f64) -> f64 {
    let mut sorted = spreads.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n => sorted[((q * n as f64).ceil() as usize).clamp(1, n) - 1] / PI,
    }
}

/// The factor that brings a step of ratio r to the target: min(1, target / r); 1 for r = 0.
pub fn scale(r: f64, target: f64) -> f64 {
    if r > target { target / r } else { 1.0 }
}

/// Radius of a row along a unit direction, pi / spread of its derivatives; infinite where nothing moves.
pub fn radius(derivative: &[f64]) -> f64 {
    PI / spread(derivative)
}

/// The sharper radius of the target and its strongest competitor, sqrt(delta^2 + pi^2) / |a_y - a_c|; exact for two classes,
/// no bound for more. Returns the competitor, delta, |a_y - a_c| and the radius.
pub fn top_two(logits: &[f64], derivative: &[f64], target: usize) -> (usize, f64, f64, f64) {
    let others = (0..logits.len()).filter(|&k| k != target);
    let rival = others.fold(None, |best: Option<usize>, k| match best {
        Some(b) if logits[b] >= logits[k] => Some(b),
        _ => Some(k),
    });
    let rival = rival.unwrap_or(target);
    let (delta, slope) = (logits[target] - logits[rival], (derivative[target] - derivative[rival]).abs());
    (rival, delta, slope, (delta * delta + PI * PI).sqrt() / slope)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges() {
        assert_eq!((spread(&[]), spread(&[2.0]), ratio(&[])), (0.0, 0.0, 0.0));
        assert!(ratio(&[1.0, f64::NAN, 5.0]).is_nan());
        assert_eq!((scale(0.0, 1.0), scale(4.0, 1.0), scale(0.5, 1.0)), (1.0, 0.25, 1.0));
        let spreads: Vec<f64> = (1..=100).map(f64::from).collect();
        assert!((ratio_quantile(&spreads, 0.99) - 99.0 / PI).abs() < 1e-12);
    }
}
