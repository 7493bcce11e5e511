//! Leaves out optimiser steps whose loss or gradient norm leaps far above what went before.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// What to do with a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// Take it.
    Step,
    /// Its loss or norm is a spike.
    SkipSpike,
    /// Its loss or norm is not finite.
    SkipNonfinite,
}

/// The spike rule: skip if loss or gradient norm exceeds mean + `sigma` deviations (n - 1) of the last `window` finite steps.
///
/// It speaks once `window` / 2 steps are known, the current one counted, and only where the deviation is above 1e-12. Skipped
/// spikes stay in the history, so that a lasting change of level is taken up; values that are not finite never enter it.
/// Source: allenai/OLMo-core's skip-step optimiser, whose history a NaN would silence for a whole window.
#[derive(Debug, Clone, PartialEq)]
pub struct SpikeRule {
    window: usize,
    sigma: f64,
    losses: VecDeque<f64>,
    norms: VecDeque<f64>,
}

impl SpikeRule {
    /// A rule that has seen nothing; window 128 and 6 deviations are usual.
    pub fn new(window: usize, sigma: f64) -> Self {
        Self { window, sigma, losses: VecDeque::new(), norms: VecDeque::new() }
    }

    /// Judges a step and takes it into the history.
    pub fn judge(&mut self, loss: f64, norm: f64) -> Decision {
        if !loss.is_finite() || !norm.is_finite() {
            return Decision::SkipNonfinite;
        }
        let is_spike = self.exceeds(&self.losses, loss) || self.exceeds(&self.norms, norm);
        for (history, value) in [(&mut self.losses, loss), (&mut self.norms, norm)] {
            history.push_back(value);
            if history.len() > self.window {
                history.pop_front();
            }
        }
        if is_spike { Decision::SkipSpike } else { Decision::Step }
    }

    /// Losses and gradient norms of the history, oldest first, to be saved.
    pub fn history(&self) -> (Vec<f64>, Vec<f64>) {
        (self.losses.iter().copied().collect(), self.norms.iter().copied().collect())
    }

    /// Takes back a saved history.
    pub fn restore(&mut self, losses: Vec<f64>, norms: Vec<f64>) {
        (self.losses, self.norms) = (losses.into(), norms.into());
    }

    fn exceeds(&self, history: &VecDeque<f64>, value: f64) -> bool {
        let n = history.len() as f64;
        if history.len() + 1 < (self.window / 2).max(2) || history.len() < 2 {
            return false;
        }
        let mean = history.iter().sum::<f64>() / n;
        let deviation = (history.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt();
        deviation > 1e-12 && value > mean + self.sigma * deviation
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constant_histories_skip_nothing_and_state_survives_saving() {
        let mut rule = SpikeRule::new(8, 6.0);
        assert!((0..20).all(|_| rule.judge(1.0, 1.0) == Decision::Step));
        assert_eq!(rule.judge(2.0, 1.0), Decision::Step, "no deviation, no judgement");
        let (losses, norms) = rule.history();
        let mut other = SpikeRule::new(8, 6.0);
        other.restore(losses, norms);
        assert_eq!(other, rule);
        assert_eq!(other.judge(1e9, 1.0), Decision::SkipSpike);
        assert_eq!(other.judge(f64::NAN, 1.0), Decision::SkipNonfinite);
        assert_eq!(other.judge(1.0, 1.0), Decision::Step);
    }
}
