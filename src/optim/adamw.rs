//! AdamW, fused: one pass over weight, gradient and both moments.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use super::{StepReport, global_norm};
use crate::config::OptimConfig;
use crate::model::ops::{self, Float, View, mutate};
use crate::model::params::{Grads, ParamId, Params};
use crate::model::weights::{self, Weights};

/// Elements that a parallel task updates.
const CHUNK: usize = 1 << 16;

/// Decoupled weight decay and adaptive moments ("Decoupled Weight Decay Regularization", arXiv 1711.05101):
///
/// m <- b1 m + (1 - b1) g; v <- b2 v + (1 - b2) g^2;
/// w <- w - lr (m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps) + decay w).
///
/// Norm weights and biases (one-dimensional parameters) are not decayed. The gradient is scaled
/// down first if its norm exceeds `max_grad_norm`. A gradient that is not finite changes nothing.
#[derive(Debug)]
pub struct AdamW {
    config: OptimConfig,
    moments: Vec<Option<Moments>>,
    /// Master weights in f32, for half-precision parameters.
    masters: Vec<Option<Tensor>>,
    steps: usize,
}

#[derive(Debug)]
struct Moments {
    first: Tensor,
    second: Tensor,
}

/// The numbers of one update.
#[derive(Clone, Copy)]
struct Rates {
    lr: f64,
    decay: f64,
    beta1: f64,
    beta2: f64,
    eps: f64,
    /// 1 - b1^t and 1 - b2^t.
    bias1: f64,
    bias2: f64,
    /// Factor on the gradient.
    clip: f64,
}

impl AdamW {
    /// An optimiser with zero moments.
    pub fn new(config: &OptimConfig, params: &Params) -> Self {
        let none = params.iter().map(|_| None);
        Self {
            config: config.clone(),
            moments: none.collect(),
            masters: params.iter().map(|_| None).collect(),
            steps: 0,
        }
    }

    /// Accepted steps so far, t.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// One update of every trainable parameter that has a gradient.
    pub fn step(&mut self, params: &Params, grads: &Grads, learning_rate: f64) -> Result<StepReport> {
        let grad_norm = global_norm(params, grads)?;
        if !grad_norm.is_finite() {
            return Ok(StepReport { grad_norm, learning_rate, is_accepted: false });
        }
        self.steps += 1;
        let c = &self.config;
        let limit = c.max_grad_norm;
        let rates = Rates {
            lr: learning_rate,
            decay: c.weight_decay,
            beta1: c.beta1,
            beta2: c.beta2,
            eps: c.eps,
            bias1: 1.0 - c.beta1.powi(self.steps as i32),
            bias2: 1.0 - c.beta2.powi(self.steps as i32),
            // As in PyTorch's clip_grad_norm_.
            clip: if limit > 0.0 && grad_norm > limit { limit / (grad_norm + 1e-6) } else { 1.0 },
        };
        for (id, param) in params.iter().enumerate() {
            let (true, Some(grad)) = (param.is_trainable, grads.get(id)) else { continue };
            let decay = if param.value.rank() > 1 { rates.decay } else { 0.0 };
            self.update(id, &param.value, grad, Rates { decay, ..rates })?;
        }
        Ok(StepReport { grad_norm, learning_rate, is_accepted: true })
    }

    fn update(&mut self, id: ParamId, value: &Tensor, grad: &Tensor, rates: Rates) -> Result<()> {
        let wide = if value.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
        if self.moments[id].is_none() {
            let zeros = || Tensor::zeros(value.dims(), wide, value.device());
            self.moments[id] = Some(Moments { first: zeros()?, second: zeros()? });
        }
        let moments = self.moments[id].as_mut().expect("made above");
        match (ops::has_kernels(value.device(), value.dtype()), value.dtype()) {
            (true, DType::F32) => fused::<f32>(value, grad, moments, rates)?,
            (true, DType::F64) => fused::<f64>(value, grad, moments, rates)?,
            _ => {
                // Full-precision weights are their own master.
                let master = match &self.masters[id] {
                    Some(master) => composed(master, &grad.to_dtype(wide)?, moments, rates)?,
                    None => composed(&value.to_dtype(wide)?, &grad.to_dtype(wide)?, moments, rates)?,
                };
                value.slice_set(&master.to_dtype(value.dtype())?.contiguous()?, 0, 0)?;
                self.masters[id] = (value.dtype() != wide).then_some(master);
            }
        }
        Ok(())
    }

    /// Writes moments (and master weights) to a safetensors file.
    pub fn save(&self, path: &Path, params: &Params) -> Result<()> {
        let mut tensors = Vec::new();
        for (id, param) in params.iter().enumerate() {
            if let Some(m) = &self.moments[id] {
                tensors.push((format!("{}.first", param.name), m.first.clone()));
                tensors.push((format!("{}.second", param.name), m.second.clone()));
            }
            if let Some(master) = &self.masters[id] {
                tensors.push((format!("{}.master", param.name), master.clone()));
            }
        }
        weights::write_file(path, &tensors)
    }

    /// Takes back what [`AdamW::save`] wrote, after `steps` accepted steps.
    pub fn load(&mut self, path: &Path, params: &Params, steps: usize) -> Result<()> {
        let file = Weights::open_files(&[path.to_owned()])?;
        let mut taken = 0;
        for (id, param) in params.iter().enumerate().filter(|(_, p)| p.is_trainable) {
            let wide = if param.value.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
            let device: &Device = param.value.device();
            let load = |part: &str| file.load(&format!("{}.{part}", param.name), param.value.dims(), wide, device);
            if file.contains(&format!("{}.first", param.name)) {
                self.moments[id] = Some(Moments { first: load("first")?, second: load("second")? });
                taken += 2;
            }
            if file.contains(&format!("{}.master", param.name)) {
                self.masters[id] = Some(load("master")?);
                taken += 1;
            }
        }
        let stored = file.names().count();
        ensure!(
            taken == stored,
            "{} holds moments of {} tensors that this run does not train",
            path.display(),
            stored - taken
        );
        self.steps = steps;
        Ok(())
    }
}

fn fused<F: Float>(value: &Tensor, grad: &Tensor, moments: &Moments, r: Rates) -> Result<()> {
    let grad = View::<F>::new(grad)?;
    let n = grad.len();
    mutate::<F, _>(value, |w| {
        mutate::<F, _>(&moments.first, |m| {
            mutate::<F, _>(&moments.second, |v| {
                assert!(w.len() == n && m.len() == n && v.len() == n, "moments have their weight's shape");
                (w.par_chunks_mut(CHUNK).zip(grad.par_chunks(CHUNK)))
                    .zip(m.par_chunks_mut(CHUNK).zip(v.par_chunks_mut(CHUNK)))
                    .for_each(|((w, g), (m, v))| update_chunk(w, g, m, v, r));
            })
        })
    })
    .context("the optimiser cannot change a weight")???;
    Ok(())
}

fn update_chunk<F: Float>(w: &mut [F], g: &[F], m: &mut [F], v: &mut [F], r: Rates) {
    let (b1, b2, c1, c2) = (F::of(r.beta1), F::of(r.beta2), F::of(1.0 - r.beta1), F::of(1.0 - r.beta2));
    let (clip, eps, shrink) = (F::of(r.clip), F::of(r.eps), F::of(1.0 - r.lr * r.decay));
    let (step, root) = (F::of(r.lr / r.bias1), F::of(1.0 / r.bias2.sqrt()));
    for i in 0..w.len() {
        let g = g[i] * clip;
        m[i] = b1 * m[i] + c1 * g;
        v[i] = b2 * v[i] + c2 * g * g;
        w[i] = w[i] * shrink - step * m[i] / (v[i].root() * root + eps);
    }
}

/// The same by tensor calls, for other devices; returns the new weight.
fn composed(w: &Tensor, g: &Tensor, moments: &mut Moments, r: Rates) -> Result<Tensor> {
    let g = (g * r.clip)?;
    moments.first = ((&moments.first * r.beta1)? + (&g * (1.0 - r.beta1))?)?;
    moments.second = ((&moments.second * r.beta2)? + (g.sqr()? * (1.0 - r.beta2))?)?;
    let root = ((moments.second.sqrt()? * (1.0 / r.bias2.sqrt()))? + r.eps)?;
    Ok(((w * (1.0 - r.lr * r.decay))? - ((&moments.first / root)? * (r.lr / r.bias1))?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ops::tests::{distance, normal};

    fn setting() -> (Params, Vec<Grads>, OptimConfig) {
        let mut params = Params::default();
        params.add("w", normal(1, &[3, 4]), true).unwrap();
        params.add("norm", normal(2, &[4]), true).unwrap();
        params.add("frozen", normal(3, &[4]), false).unwrap();
        let grads = (0..3).map(|step| {
            let mut grads = Grads::new(&params);
            for id in 0..2 {
                let shape = params.value(id).dims().to_vec();
                let slot = grads.slot(&params, id).unwrap().unwrap();
                crate::model::ops::add_in_place(slot, &normal(10 + step * 2 + id as u64, &shape)).unwrap();
            }
            assert!(grads.slot(&params, 2).unwrap().is_none());
            grads
        });
        let grads = grads.collect();
        let config = OptimConfig { weight_decay: 0.1, max_grad_norm: 2.0, ..OptimConfig::default() };
        (params, grads, config)
    }

    #[test]
    fn fused_equals_the_definition_and_frozen_weights_stay() {
        let (params, grads, config) = setting();
        let frozen = params.value(2).copy().unwrap();
        let mut expected: Vec<_> = (0..2).map(|id| params.value(id).copy().unwrap()).collect();
        let mut moments: Vec<_> = expected
            .iter()
            .map(|w| Moments { first: w.zeros_like().unwrap(), second: w.zeros_like().unwrap() })
            .collect();
        let mut adamw = AdamW::new(&config, &params);
        for (t, grads) in grads.iter().enumerate() {
            let report = adamw.step(&params, grads, 0.01).unwrap();
            assert!(report.is_accepted && report.grad_norm > 2.0);
            let bias = |b: f64| 1.0 - b.powi(t as i32 + 1);
            for id in 0..2 {
                let rates = Rates {
                    lr: 0.01,
                    decay: if id == 0 { 0.1 } else { 0.0 },
                    beta1: config.beta1,
                    beta2: config.beta2,
                    eps: config.eps,
                    bias1: bias(config.beta1),
                    bias2: bias(config.beta2),
                    clip: 2.0 / (report.grad_norm + 1e-6),
                };
                expected[id] = composed(&expected[id], grads.get(id).unwrap(), &mut moments[id], rates).unwrap();
                assert!(distance(params.value(id), &expected[id]) < 1e-12);
            }
        }
        assert_eq!(distance(params.value(2), &frozen), 0.0);
    }

    #[test]
    fn saved_moments_continue_bit_for_bit() {
        let (params, grads, config) = setting();
        let mut whole = AdamW::new(&config, &params);
        for g in &grads[..2] {
            whole.step(&params, g, 0.01).unwrap();
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("optimizer.safetensors");
        whole.save(&path, &params).unwrap();
        let before: Vec<_> = (0..2).map(|id| params.value(id).copy().unwrap()).collect();
        whole.step(&params, &grads[2], 0.01).unwrap();
        let mut other = Params::default();
        for (id, param) in params.iter().enumerate() {
            let value = before.get(id).cloned().unwrap_or_else(|| param.value.clone());
            other.add(param.name.clone(), value, param.is_trainable).unwrap();
        }
        let mut resumed = AdamW::new(&config, &other);
        resumed.load(&path, &other, 2).unwrap();
        resumed.step(&other, &grads[2], 0.01).unwrap();
        for id in 0..2 {
            assert_eq!(distance(params.value(id), other.value(id)), 0.0);
        }
    }

    #[test]
    fn a_gradient_that_is_not_finite_changes_nothing() {
        let (params, mut grads, config) = setting();
        let before = params.value(0).copy().unwrap();
        let slot = grads[0].slot(&params, 1).unwrap().unwrap();
        mutate::<f64, _>(slot, |g| g[0] = f64::NAN).unwrap();
        let mut adamw = AdamW::new(&config, &params);
        assert!(!adamw.step(&params, &grads[0], 0.01).unwrap().is_accepted);
        assert_eq!((distance(params.value(0), &before), adamw.steps()), (0.0, 0));
    }
}
