//! Stage `optim`: AdamW with its schedule, gradient clipping and a guard against non-finite steps.
//!
//! Candle's optimiser cannot be saved, keeps its moments in the weights' type and decays every
//! tensor. Ours updates each weight in one pass, keeps f32 moments (f64 for f64 weights), leaves
//! norms and biases undecayed, and saves everything a resumed run needs.

mod adamw;
#[cfg(test)]
mod golden_tests;
mod perp;

use anyhow::Result;
use candle_core::{DType, Tensor};
use candlewick_algorithms::optim::schedule::{Shape, multiplier};

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
    /// Sum of the absolute values of the gradient, before clipping.
    pub grad_norm_l1: f64,
    /// False if nothing was changed: the gradient was not finite, or the step a spike.
    pub is_accepted: bool,
    /// Whether the step was left out because its loss or gradient leapt.
    pub is_spike: bool,
}

/// The learning rate of optimiser step `step` (from 0) of `total`.
///
/// It rises linearly over the warm-up, the first step taking 1/(warm-up) of the top, and then follows the schedule
/// down to its floor.
pub fn learning_rate(config: &OptimConfig, step: usize, total: usize) -> f64 {
    let shape = match config.schedule {
        Schedule::Constant => Shape::Constant,
        Schedule::Linear => Shape::Linear,
        Schedule::Cosine => Shape::Cosine,
        Schedule::Cooldown => Shape::Cooldown(config.cooldown),
        Schedule::Table => Shape::Table(config.table.clone()),
    };
    config.learning_rate * multiplier(&shape, step, total, config.warmup(total), config.floor)
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

/// Sum of the absolute values of every gradient, in a fixed order.
pub fn absolute_norm(params: &Params, grads: &Grads) -> Result<f64> {
    let mut sum = 0.0;
    for grad in (0..params.len()).filter_map(|id| grads.get(id)) {
        sum += absolute_sum(grad)?;
    }
    Ok(sum)
}

fn absolute_sum(t: &Tensor) -> Result<f64> {
    fn kernel<F: Float>(t: &Tensor) -> candle_core::Result<f64> {
        use rayon::prelude::*;
        let view = ops::View::<F>::new(t)?;
        let parts: Vec<f64> =
            view.par_chunks(1 << 16).map(|chunk| chunk.iter().map(|x| x.wide().abs()).sum()).collect();
        Ok(parts.iter().sum())
    }
    Ok(match (ops::has_kernels(t.device(), t.dtype()), t.dtype()) {
        (true, DType::F32) => kernel::<f32>(t)?,
        (true, DType::F64) => kernel::<f64>(t)?,
        _ => t.to_dtype(ops::wide(t.dtype()))?.abs()?.sum_all()?.to_dtype(DType::F64)?.to_scalar()?,
    })
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
