//! Stage `optim`: AdamW with its schedule, gradient clipping and a guard against non-finite steps.
//!
//! Candle's optimiser cannot be saved, keeps its moments in the weights' type and decays every
//! tensor. Ours updates each weight in one pass, keeps f32 moments (f64 for f64 weights), leaves
//! norms and biases undecayed, and saves everything a resumed run needs.

mod adamw;

use anyhow::Result;
use candle_core::{DType, Tensor};

use crate::config::{OptimConfig, Schedule};
use crate::model::ops::{self, Float};
use crate::model::params::{Grads, Params};
pub use adamw::AdamW;

/// What an optimiser step did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepReport {
    /// Norm of the gradient over all trainable weights, before clipping.
    pub grad_norm: f64,
    /// Learning rate of the step.
    pub learning_rate: f64,
    /// False if the gradient was not finite and nothing was changed.
    pub is_accepted: bool,
}

/// The learning rate of optimiser step `step` (from 0) of `total`.
///
/// It rises linearly over the warm-up, the first step taking 1/(warm-up) of the top, then stays,
/// falls linearly, or falls along half a cosine, reaching 0 after the last step.
pub fn learning_rate(config: &OptimConfig, step: usize, total: usize) -> f64 {
    let warmup = config.warmup(total).min(total);
    if step < warmup {
        return config.learning_rate * (step + 1) as f64 / warmup as f64;
    }
    let left = total.saturating_sub(step) as f64 / total.saturating_sub(warmup).max(1) as f64;
    let factor = match config.schedule {
        Schedule::Constant => 1.0,
        Schedule::Linear => left.min(1.0),
        Schedule::Cosine => 0.5 * (1.0 - (std::f64::consts::PI * left.min(1.0)).cos()),
    };
    config.learning_rate * factor
}

/// Root of the sum of squares of every gradient, summed in a fixed order in f64.
pub fn global_norm(params: &Params, grads: &Grads) -> Result<f64> {
    let mut sum = 0.0;
    for id in 0..params.len() {
        if let Some(grad) = grads.get(id) {
            sum += square_sum(grad)?;
        }
    }
    Ok(sum.sqrt())
}

fn square_sum(t: &Tensor) -> Result<f64> {
    fn kernel<F: Float>(t: &Tensor) -> candle_core::Result<f64> {
        use rayon::prelude::*;
        let view = ops::View::<F>::new(t)?;
        let parts: Vec<f64> = view
            .par_chunks(1 << 16)
            .map(|chunk| chunk.chunks(256).map(|c| ops::norm::lane_dot(c, c).wide()).sum())
            .collect();
        Ok(parts.iter().sum())
    }
    Ok(match (ops::has_kernels(t.device(), t.dtype()), t.dtype()) {
        (true, DType::F32) => kernel::<f32>(t)?,
        (true, DType::F64) => kernel::<f64>(t)?,
        _ => t.to_dtype(ops::wide(t.dtype()))?.sqr()?.sum_all()?.to_dtype(DType::F64)?.to_scalar()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_rise_and_fall() {
        let config =
            |schedule| OptimConfig { learning_rate: 2.0, schedule, warmup_steps: Some(4), ..OptimConfig::default() };
        let rates = |schedule| (0..10).map(|s| learning_rate(&config(schedule), s, 10)).collect::<Vec<_>>();
        assert_eq!(rates(Schedule::Constant), [0.5, 1.0, 1.5, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0]);
        let linear = rates(Schedule::Linear);
        assert_eq!(linear[4], 2.0);
        assert!((linear[9] - 2.0 / 6.0).abs() < 1e-12);
        let cosine = rates(Schedule::Cosine);
        assert!((cosine[7] - 1.0).abs() < 1e-12);
    }
}
