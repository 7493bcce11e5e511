//! Learning-rate schedules, as multipliers of the highest rate.

use crate::{Error, Result};

/// How the rate goes on after the warm-up.
#[derive(Debug, Clone, PartialEq)]
pub enum Shape {
    /// Stays.
    Constant,
    /// Falls evenly to the floor at the last step.
    Linear,
    /// Falls to the floor along half a cosine.
    Cosine,
    /// Stays, then falls evenly over the last share of the steps.
    Cooldown(f64),
    /// Multipliers of a run, stretched to this one's length.
    Table(Vec<f64>),
}

/// The multiplier of step `step` (from 0) of `total`: (step + 1) / warmup while warming up, then f + (1 - f) x shape, f the floor.
///
/// A table runs over the steps after the warm-up, at equal shares of the run. Past the last step it stays at the end.
pub fn multiplier(shape: &Shape, step: usize, total: usize, warmup: usize, floor: f64) -> f64 {
    let warmup = warmup.min(total);
    if step < warmup {
        return (step + 1) as f64 / warmup as f64;
    }
    let span = total.saturating_sub(warmup).max(1) as f64;
    let left = (total.saturating_sub(step) as f64 / span).min(1.0);
    let height = match shape {
        Shape::Constant => 1.0,
        Shape::Linear => left,
        Shape::Cosine => 0.5 * (1.0 - (std::f64::consts::PI * left).cos()),
        Shape::Cooldown(share) => (left * span / (share * total as f64).max(1.0)).min(1.0),
        Shape::Table(values) => interpolate(values, (1.0 - left) * span / (span - 1.0).max(1.0)),
    };
    floor + (1.0 - floor) * height
}

/// The value at a place from 0 to 1 of a list, between neighbours in proportion.
fn interpolate(values: &[f64], place: f64) -> f64 {
    let Some(last) = values.len().checked_sub(1) else { return 1.0 };
    let at = place.clamp(0.0, 1.0) * last as f64;
    let (low, part) = (at.floor() as usize, at.fract());
    values[low] + part * (values[(low + 1).min(last)] - values[low])
}

/// Which norm of the gradient a refined schedule is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Norm {
    /// Euclidean, for SGD: weights of G^-2.
    L2,
    /// Sum of absolute values, for Adam: weights of G^-1.
    L1,
}

/// A refined schedule with what it was made of.
#[derive(Debug, Clone, PartialEq)]
pub struct Refined {
    /// Samples in the median's window.
    pub width: usize,
    /// Norms after the median filter.
    pub smoothed: Vec<f64>,
    /// w_t x sum of later w, before scaling to 1.
    pub raw: Vec<f64>,
    /// The multipliers: the largest is 1, the last 0.
    pub multiplier: Vec<f64>,
}

/// A schedule from the unclipped gradient norms G of an earlier run: eta_t = w_t sum_{p > t} w_p, w = G^-2 (`L2`) or G^-1 (`L1`), after
/// a median filter over a share `tau` of the run (left edge repeated, right edge reflected).
///
/// Norms that are 0 or not finite are left out first: they were no steps. Constant norms give an even fall.
/// Errors: fewer than two usable norms. Source: "When, Why and How Much? Adaptive Learning Rate Scheduling by Refinement",
/// arXiv 2310.07831; of its code only the formula is used. The second run should repeat the first one's setting.
pub fn refine(norms: &[f64], tau: f64, norm: Norm) -> Result<Refined> {
    let norms: Vec<f64> = norms.iter().copied().filter(|g| g.is_finite() && *g > 0.0).collect();
    if norms.len() < 2 {
        let why = format!("{} gradient norms above 0 make no schedule: two or more are needed", norms.len());
        return Err(Error::Exhausted { stage: "optim.schedule", why });
    }
    let half = (tau * norms.len() as f64 / 2.0).floor() as usize;
    let last = norms.len() - 1;
    let at = |i: isize| match i {
        i if i < 0 => norms[0],
        i if i as usize > last => norms[(2 * last).saturating_sub(i as usize)],
        i => norms[i as usize],
    };
    let smoothed: Vec<f64> = (0..norms.len() as isize)
        .map(|i| crate::preference::median(&(i - half as isize..=i + half as isize).map(at).collect::<Vec<_>>()))
        .collect();
    let weight = |g: &f64| if norm == Norm::L2 { 1.0 / (g * g) } else { 1.0 / g };
    let (mut later, mut raw) = (0.0, vec![0.0; norms.len()]);
    for (i, w) in smoothed.iter().map(weight).enumerate().rev() {
        raw[i] = w * later;
        later += w;
    }
    let top = raw.iter().copied().fold(0.0, f64::max);
    let multiplier = raw.iter().map(|r| r / top).collect();
    Ok(Refined { width: 2 * half + 1, smoothed, raw, multiplier })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_stretch_and_cooldowns_fall_at_the_end() {
        let fall = Shape::Table((0..5).map(|i| 1.0 - f64::from(i) / 4.0).collect());
        let rates: Vec<f64> = (0..11).map(|s| multiplier(&fall, s, 11, 0, 0.0)).collect();
        assert!(rates.iter().enumerate().all(|(s, r)| (r - (1.0 - s as f64 / 10.0)).abs() < 1e-12), "{rates:?}");
        let rates: Vec<f64> = (0..10).map(|s| multiplier(&Shape::Cooldown(0.2), s, 10, 2, 0.0)).collect();
        assert_eq!(rates, [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.5]);
        assert_eq!(multiplier(&Shape::Linear, 99, 10, 2, 0.1), 0.1);
    }

    #[test]
    fn degenerate_norms_are_left_out() {
        let refined = refine(&[0.0, 2.5, f64::NAN, 2.5, 2.5, f64::INFINITY], 0.1, Norm::L1).unwrap();
        assert_eq!(refined.multiplier, [1.0, 0.5, 0.0]);
        assert!(refine(&[1.0, 0.0], 0.1, Norm::L1).is_err());
    }
}
