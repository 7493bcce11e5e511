//! Means and deviations of rewards.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which standard deviation divides.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Deviation {
    /// Divisor n - 1, as TRL and verl have it.
    #[default]
    Sample,
    /// Divisor n.
    Population,
}

/// The mean, taken from the first value on, so that equal values differ from it by exactly 0;
/// 0 for no values.
pub(super) fn mean(values: &[f64]) -> f64 {
    match values.first() {
        None => 0.0,
        Some(&first) => first + values.iter().map(|v| v - first).sum::<f64>() / values.len() as f64,
    }
}

/// The sample deviation; 0 for fewer than two values.
pub(super) fn sample_std(values: &[f64]) -> f64 {
    std(values, Deviation::Sample)
}

/// The deviation of the kind asked for; 0 for fewer than two values.
pub(super) fn std(values: &[f64], deviation: Deviation) -> f64 {
    let n = values.len();
    if n < 2 {
        return 0.0;
    }
    let centre = mean(values);
    let squares: f64 = values.iter().map(|v| (v - centre).powi(2)).sum();
    let divisor = match deviation {
        Deviation::Sample => n - 1,
        Deviation::Population => n,
    };
    (squares / divisor as f64).sqrt()
}

/// Mean and deviation of weighted values: mu = sum w v / W, sd = sqrt(sum w (v - mu)^2 / (W - 1) + 1e-8).
///
/// With weights that count tokens this is REINFORCE++'s whitening over all valid tokens.
pub(super) fn token_moments(values: impl Iterator<Item = (f64, f64)> + Clone) -> (f64, f64) {
    let total: f64 = values.clone().map(|(_, w)| w).sum();
    if total <= 0.0 {
        return (0.0, 1.0);
    }
    let mu = values.clone().map(|(v, w)| w * v).sum::<f64>() / total;
    let squares: f64 = values.map(|(v, w)| w * (v - mu).powi(2)).sum();
    let variance = if total > 1.0 { squares / (total - 1.0) } else { 0.0 };
    (mu, (variance + 1e-8).sqrt())
}
