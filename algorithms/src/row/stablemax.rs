//! StableMax: a softmax whose exponential is replaced by a function that never absorbs the other terms.
//!
//! For heads that start untrained (classes, verdicts). A pretrained language model's head is calibrated for exp: under this
//! normaliser its tail takes most of the mass. Source: "Grokking at the Edge of Numerical Stability", arXiv 2501.04697.

/// s(x) = x + 1 from 0 on, 1 / (1 - x) below; smooth once at 0.
pub fn weight(x: f64) -> f64 {
    if x >= 0.0 { x + 1.0 } else { 1.0 / (1.0 - x) }
}

/// s'(x).
fn slope(x: f64) -> f64 {
    if x >= 0.0 { 1.0 } else { 1.0 / ((1.0 - x) * (1.0 - x)) }
}

/// s(z_k) / sum s(z_j) of a row of logits [K].
pub fn probabilities(logits: &[f64]) -> Vec<f64> {
    let sum: f64 = logits.iter().copied().map(weight).sum();
    logits.iter().map(|&z| weight(z) / sum).collect()
}

/// -ln of the target's probability, and its gradient s'(z_k) [1 / sum s - 1{k = y} / s(z_y)], [K].
pub fn cross_entropy(logits: &[f64], target: usize) -> (f64, Vec<f64>) {
    let sum: f64 = logits.iter().copied().map(weight).sum();
    let chosen = weight(logits[target]);
    let gradient = logits.iter().enumerate().map(|(k, &z)| {
        let own = if k == target { 1.0 / chosen } else { 0.0 };
        slope(z) * (1.0 / sum - own)
    });
    (sum.ln() - chosen.ln(), gradient.collect())
}
