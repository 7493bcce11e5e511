//! The ghost radius of a step, measured on a few rows before and after it.
//!
//! The arithmetic is in `candlewick_algorithms::optim::radius`; here are the two forward passes and, with a target, the
//! copy of the weights that a step is scaled back from.

use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use candlewick_algorithms::Batch;
use candlewick_algorithms::optim::radius::{ratio, ratio_quantile, scale, spread};

use super::metrics::Step;
use super::policy::Policy;
use super::update::{MicroBatch, micro_batches};
use crate::config::RadiusConfig;
use crate::model::decoder::Pass;
use crate::model::ops::{embedding, linear};

/// Rows and their logits before a step.
pub struct Probe {
    micro: MicroBatch,
    at: Vec<u32>,
    logits: Tensor,
    target: Option<f64>,
    /// The trained weights before the step, where it may be scaled back.
    weights: Vec<(usize, Tensor)>,
}

impl Probe {
    /// A probe of the step about to be taken, if one is due: the first rows of the batch.
    pub fn before(policy: &Policy, batch: &Batch, config: Option<&RadiusConfig>, step: usize) -> Result<Option<Self>> {
        let Some(config) = config.filter(|c| c.target.is_some() || step.is_multiple_of(c.every)) else {
            return Ok(None);
        };
        let mut rows = Vec::new();
        let mut tokens = 0.0;
        for row in 0..batch.rows() {
            if tokens >= config.rows as f64 {
                break;
            }
            tokens += batch.row_tokens(row);
            rows.push(row);
        }
        let Some(micro) = micro_batches(batch, &rows, usize::MAX).into_iter().next() else { return Ok(None) };
        let at: Vec<u32> = micro.at.iter().copied().take(config.rows).collect();
        let mut weights = Vec::new();
        if config.target.is_some() {
            for (id, param) in policy.decoder.params.iter().enumerate().filter(|(_, p)| p.is_trainable) {
                weights.push((id, param.value.copy()?));
            }
        }
        let logits = logits(policy, &micro, &at)?;
        Ok(Some(Self { micro, at, logits, target: config.target, weights }))
    }

    /// Measures the step that was taken, and scales it back where it goes beyond the target.
    ///
    /// Metrics: `optim/radius_max` and `optim/radius_p99` (r over rows, no unit, 1 is the bound), `optim/radius_scale`.
    pub fn after(self, policy: &Policy, metrics: &mut Step) -> Result<()> {
        let change = (logits(policy, &self.micro, &self.at)? - &self.logits)?;
        let rows: Vec<Vec<f64>> = change.to_dtype(DType::F64)?.to_vec2()?;
        let spreads: Vec<f64> = rows.iter().map(|row| spread(row)).collect();
        let r = ratio(&spreads);
        metrics.set("optim/radius_max", r);
        metrics.set("optim/radius_p99", ratio_quantile(&spreads, 0.99));
        let Some(target) = self.target else { return Ok(()) };
        // A change that is no number takes the whole step back.
        let s = if r.is_finite() { scale(r, target) } else { 0.0 };
        metrics.set("optim/radius_scale", s);
        if s < 1.0 {
            for (id, before) in &self.weights {
                let now = policy.decoder.params.value(*id);
                let held = match s {
                    0.0 => before.clone(),
                    _ => (before + ((now - before)? * s)?)?,
                };
                now.slice_set(&held.contiguous()?, 0, 0)?;
            }
        }
        Ok(())
    }
}

/// Logits of some positions of a pack, [R,V] on the CPU.
fn logits(policy: &Policy, micro: &MicroBatch, at: &[u32]) -> Result<Tensor> {
    let decoder = &policy.decoder;
    let tape = decoder.forward(&micro.pack, Pass::SCORE)?;
    let states = embedding::forward(at, &tape.hidden)?;
    let logits = linear::forward(&states, decoder.head_weight(), None)?;
    let wide = if logits.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
    Ok(logits.to_dtype(wide)?.to_device(&Device::Cpu)?)
}
