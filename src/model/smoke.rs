//! Whether a device computes what the CPU's kernels compute: for `doctor`, before a GPU is trusted.
//!
//! A small random decoder scores, learns and samples on the device, by the tensor calls that serve it,
//! and on the CPU, by the kernels. On the CPU the tensor calls run there, which checks the check.

use std::ops::ControlFlow;

use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use candlewick_algorithms::row::RowGrad;
use candlewick_algorithms::row::token::TokenLogp;

use super::decoder::{Decoder, Keep, Pass};
use super::ops;
use super::packed::Packed;
use super::params::Grads;
use super::spec::DecoderSpec;
use crate::config::OptimConfig;
use crate::optim::AdamW;
use crate::rollout::{self, Request, Sampling, Settings};

/// How far a device's decoder is from the CPU's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Distance {
    /// Largest difference of a log-prob.
    pub logp: f64,
    /// Largest difference of a gradient, relative to the largest element of its tensor.
    pub gradient: f64,
    /// Largest difference of a weight after an optimiser step, in units of the learning rate.
    pub update: f64,
    /// Sampled tokens that are the CPU's, and all of them.
    pub tokens: (usize, usize),
}

/// What one decoder gives.
struct Found {
    logp: Vec<f64>,
    gradients: Vec<Vec<f64>>,
    weights: Vec<Vec<f64>>,
    tokens: Vec<u32>,
}

const LEARNING_RATE: f64 = 1e-3;

/// Compares a decoder with weights of type `dtype` on `device` with one with the same weights in f32 on the CPU.
///
/// Errors: whatever the device cannot do.
pub fn decoder_distance(device: &Device, dtype: DType) -> Result<Distance> {
    let found = ops::composed(|| run(device, dtype, dtype))?;
    let expected = run(&Device::Cpu, DType::F32, dtype)?;
    let furthest = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    let relative =
        |(a, b): (&Vec<f64>, &Vec<f64>)| furthest(a, b) / b.iter().fold(f64::MIN_POSITIVE, |m: f64, x| m.max(x.abs()));
    let same = found.tokens.iter().zip(&expected.tokens).filter(|(a, b)| a == b).count();
    Ok(Distance {
        logp: furthest(&found.logp, &expected.logp),
        gradient: found.gradients.iter().zip(&expected.gradients).map(relative).fold(0.0, f64::max),
        update: found.weights.iter().zip(&expected.weights).map(|(a, b)| furthest(a, b)).fold(0.0, f64::max)
            / LEARNING_RATE,
        tokens: (same, expected.tokens.len()),
    })
}

/// A random decoder in `dtype` whose weights are numbers of type `rounded`.
fn decoder(device: &Device, dtype: DType, rounded: DType) -> Result<Decoder> {
    let config = serde_json::json!({"model_type": "qwen3", "vocab_size": 256, "hidden_size": 64,
        "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 16, "max_position_embeddings": 128, "tie_word_embeddings": true});
    let mut decoder = Decoder::random(DecoderSpec::from_config(config)?, 11, DType::F32, &Device::Cpu)?;
    for param in decoder.params.iter_mut() {
        let wider = if param.value.rank() > 1 { 4.0 } else { 1.0 };
        param.value = (&param.value * wider)?.to_dtype(rounded)?.to_dtype(dtype)?.to_device(device)?;
    }
    Ok(decoder)
}

fn run(device: &Device, dtype: DType, rounded: DType) -> Result<Found> {
    let decoder = decoder(device, dtype, rounded)?;
    let tokens = |n: u32, seed: u32| (0..n).map(|i| (seed + i * 37) % 256).collect::<Vec<u32>>();
    let mut pack = Packed::new();
    pack.push(&tokens(20, 1));
    pack.push_continuation(&tokens(12, 7));
    pack.push_continuation(&tokens(9, 90));
    let (at, targets): (Vec<u32>, Vec<u32>) = ((19..41).collect(), tokens(22, 33));
    let function = TokenLogp { tokens: &targets, temperature: 0.9, with_entropy: true };
    let tape = decoder.forward(&pack, Pass { keep: Keep::Inputs, ..Pass::SCORE })?;
    let values = decoder.rows_forward(&tape.hidden, &at, &function)?;
    let upstream: Vec<RowGrad> = (0..at.len())
        .map(|i| RowGrad { logp: 1.0 - 0.1 * i as f64, entropy: 0.02 * i as f64, divergence: 0.0 })
        .collect();
    let mut grads = Grads::new(&decoder.params);
    let d_hidden = decoder.rows_backward(&tape.hidden, &at, &function, &values, &upstream, &mut grads)?;
    decoder.backward(tape, &pack, &d_hidden, &mut grads)?;
    let gradients = (0..decoder.params.len()).filter_map(|id| grads.get(id)).map(numbers).collect::<Result<_>>()?;
    let tokens = sampled(&decoder)?;
    AdamW::new(&OptimConfig::default(), &decoder.params).step(&decoder.params, &grads, LEARNING_RATE)?;
    let weights = decoder.params.iter().map(|p| numbers(&p.value)).collect::<Result<_>>()?;
    Ok(Found { logp: values.iter().map(|v| v.logp).collect(), gradients, weights, tokens })
}

fn sampled(decoder: &Decoder) -> Result<Vec<u32>> {
    let prompt = |n: u32| (0..n).map(|i| (3 + 11 * i) % 256).collect();
    let requests: Vec<Request> =
        (0..3).map(|i| Request { id: i, prompt: prompt(4 + 6 * i as u32), samples: 0..4, cap: 24 }).collect();
    let settings = Settings {
        sampling: Sampling::default(),
        eos: Vec::new(),
        stop: None,
        key: vec![5],
        max_rows: 8,
        has_adapter: true,
    };
    let completions = rollout::generate(decoder, &requests, &settings, |_| ControlFlow::Continue(()))?;
    Ok(completions.into_iter().flat_map(|c| c.tokens).collect())
}

fn numbers(t: &Tensor) -> Result<Vec<f64>> {
    Ok(t.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tensor_calls_are_near_the_kernels() {
        let full = decoder_distance(&Device::Cpu, DType::F32).unwrap();
        assert!(full.logp < 1e-4 && full.gradient < 1e-3 && full.update < 0.1, "{full:?}");
        assert_eq!(full.tokens, (288, 288));
        let half = decoder_distance(&Device::Cpu, DType::BF16).unwrap();
        assert!(half.logp > full.logp && half.logp < 0.5 && half.gradient < 0.3, "{half:?}");
    }
}
