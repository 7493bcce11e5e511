//! What a GPU computes, on the CPU: the versions composed of tensor calls against the CPU's kernels.

use std::ops::ControlFlow;

use candle_core::{DType, Device, Tensor};
use candlewick::config::OptimConfig;
use candlewick::model::decoder::{Decoder, Keep, Pass};
use candlewick::model::lora::LoraConfig;
use candlewick::model::ops;
use candlewick::model::packed::Packed;
use candlewick::model::params::Grads;
use candlewick::model::spec::DecoderSpec;
use candlewick::optim::AdamW;
use candlewick::rollout::{self, Completion, Request, Sampling, Settings};
use candlewick_algorithms::row::token::TokenLogp;
use candlewick_algorithms::row::{RowGrad, RowValue};

/// A decoder with grouped heads, biases or head norms, and a sliding window where the family has one.
fn random(family: &str, dtype: DType) -> Decoder {
    let config = serde_json::json!({"model_type": family, "vocab_size": 97, "hidden_size": 48, "intermediate_size": 80,
        "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
        "max_position_embeddings": 96, "tie_word_embeddings": family != "mistral", "rms_norm_eps": 1e-6,
        "sliding_window": 9});
    let mut decoder = Decoder::random(DecoderSpec::from_config(config).unwrap(), 3, dtype, &Device::Cpu).unwrap();
    for param in decoder.params.iter_mut().filter(|p| p.value.rank() > 1) {
        param.value = (&param.value * 8.0).unwrap();
    }
    decoder
}

const FAMILIES: [&str; 3] = ["mistral", "qwen2", "qwen3"];

fn pack() -> (Packed, Vec<u32>, Vec<u32>) {
    let tokens = |n: u32, seed: u32| (0..n).map(|i| (seed + i * 31) % 97).collect::<Vec<u32>>();
    let mut pack = Packed::new();
    pack.push(&tokens(14, 1));
    pack.push_continuation(&tokens(11, 5));
    pack.push_continuation(&tokens(3, 9));
    pack.push(&tokens(17, 40));
    // The last token of the shared prompt predicts the first of both continuations.
    let at: Vec<u32> = [13].into_iter().chain(13..45).collect();
    let targets = tokens(at.len() as u32, 70);
    (pack, at, targets)
}

/// Values, and gradients of every parameter, of log-probs and entropies.
fn pass(decoder: &Decoder, keep: Keep) -> (Vec<RowValue>, Grads) {
    let (pack, at, targets) = pack();
    let mut grads = Grads::new(&decoder.params);
    let tape = decoder.forward(&pack, Pass { keep, ..Pass::SCORE }).unwrap();
    let function = TokenLogp { tokens: &targets, temperature: 0.8, with_entropy: true };
    let values = decoder.rows_forward(&tape.hidden, &at, &function).unwrap();
    let upstream: Vec<RowGrad> = (0..at.len())
        .map(|i| match i % 5 {
            0 => RowGrad::default(),
            _ => RowGrad { logp: 0.3 - i as f64 / 40.0, entropy: 0.01 * i as f64, divergence: 0.0 },
        })
        .collect();
    let d_hidden = decoder.rows_backward(&tape.hidden, &at, &function, &values, &upstream, &mut grads).unwrap();
    decoder.backward(tape, &pack, &d_hidden, &mut grads).unwrap();
    (values, grads)
}

fn numbers(t: &Tensor) -> Vec<f64> {
    t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Largest difference over the largest element.
fn relative(a: &Tensor, b: &Tensor) -> f64 {
    let (a, b) = (numbers(a), numbers(b));
    let scale = b.iter().fold(1e-30_f64, |m, x| m.max(x.abs()));
    a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max) / scale
}

#[test]
fn composed_passes_equal_the_kernels_in_values_and_every_gradient() {
    for family in FAMILIES {
        let mut decoder = random(family, DType::F64);
        if family == "qwen2" {
            let settings = LoraConfig { rank: 4, alpha: 8.0, ..LoraConfig::default() };
            decoder.add_lora(&settings, 1).unwrap();
            for param in decoder.params.iter_mut().filter(|p| p.name.contains("lora_B")) {
                param.value = param.value.ones_like().unwrap().affine(0.05, 0.0).unwrap();
            }
        }
        for keep in [Keep::Activations, Keep::Inputs] {
            let (values, grads) = pass(&decoder, keep);
            let (composed_values, composed) = ops::composed(|| pass(&decoder, keep));
            for (a, b) in values.iter().zip(&composed_values) {
                assert!((a.logp - b.logp).abs() < 1e-5 && (a.entropy - b.entropy).abs() < 1e-5, "{family} {a:?} {b:?}");
            }
            for (id, param) in decoder.params.iter().enumerate() {
                let (a, b) = (grads.get(id), composed.get(id));
                assert_eq!((a.is_some(), b.is_some()), (param.is_trainable, param.is_trainable), "{}", param.name);
                if let (Some(a), Some(b)) = (a, b) {
                    let distance = relative(b, a);
                    assert!(distance < 1e-4, "{family} {}: {distance}", param.name);
                }
            }
        }
    }
}

/// Weights after three updates; the optimiser's sums, clipping and moments by tensor calls.
#[test]
fn composed_updates_move_the_weights_to_the_same_place() {
    let updated = || {
        let decoder = random("qwen3", DType::F32);
        let config = OptimConfig { weight_decay: 0.1, max_grad_norm: 1.0, ..OptimConfig::default() };
        let mut optimiser = AdamW::new(&config, &decoder.params);
        for _ in 0..3 {
            let (_, grads) = pass(&decoder, Keep::Inputs);
            assert!(optimiser.step(&decoder.params, &grads, 1e-3).unwrap().is_accepted);
        }
        decoder
    };
    let (start, kernels, composed) = (random("qwen3", DType::F32), updated(), ops::composed(updated));
    for ((a, b), s) in kernels.params.iter().zip(composed.params.iter()).zip(start.params.iter()) {
        let moved = relative(&a.value, &s.value);
        assert!(moved > 1e-4, "{} moved by {moved}", a.name);
        let distance = relative(&b.value, &a.value);
        assert!(distance < 1e-4, "{}: {distance}", a.name);
    }
}

fn sample(decoder: &Decoder, max_rows: usize) -> Vec<Completion> {
    let prompt = |n: u32| (0..n).map(|i| 7 + (i * 13 + n) % 80).collect();
    let requests: Vec<Request> = (0..5)
        .map(|i| Request { id: i, prompt: prompt(3 + i as u32 * 5), samples: 0..5, cap: 12 + 9 * i as usize })
        .collect();
    let settings = Settings {
        sampling: Sampling { temperature: 0.8, ..Sampling::default() },
        eos: vec![5, 6],
        stop: None,
        key: vec![11, 2],
        max_rows,
        has_adapter: true,
    };
    rollout::generate(decoder, &requests, &settings, |_| ControlFlow::Continue(())).unwrap()
}

/// Rows of unequal prompts that end early, join late and outgrow their slab.
#[test]
fn composed_decoding_draws_the_same_tokens_with_the_same_log_probs() {
    for family in FAMILIES {
        let decoder = random(family, DType::F32);
        let expected = sample(&decoder, 16);
        assert!(expected.iter().any(|c| c.tokens.len() > 40) && expected.iter().any(|c| c.tokens.len() < 10));
        for max_rows in [1, 7, 25] {
            let found = ops::composed(|| sample(&decoder, max_rows));
            assert_eq!(found.len(), expected.len());
            for (a, b) in found.iter().zip(&expected) {
                assert_eq!((a.request, a.sample, &a.tokens), (b.request, b.sample, &b.tokens), "{family} {max_rows}");
                for (a, b) in [(&a.logp, &b.logp), (&a.drawn_logp, &b.drawn_logp), (&a.entropy, &b.entropy)] {
                    assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-4), "{family}: {a:?} {b:?}");
                }
            }
        }
    }
}

/// bf16 weights: log-probs near those of the same weights in f32, gradients and master weights in f32.
#[test]
fn half_precision_weights_have_wide_sums() {
    let half = random("qwen3", DType::BF16);
    let mut full = random("qwen3", DType::F32);
    for (full, half) in full.params.iter_mut().zip(half.params.iter()) {
        full.value = half.value.to_dtype(DType::F32).unwrap();
    }
    let ((a, half_grads), (b, full_grads)) = (pass(&half, Keep::Activations), pass(&full, Keep::Activations));
    let mean = a.iter().zip(&b).map(|(a, b)| (a.logp - b.logp).abs()).sum::<f64>() / a.len() as f64;
    assert!(mean > 0.0 && mean < 0.1, "{mean}");
    for (id, param) in half.params.iter().enumerate() {
        let (a, b) = (half_grads.get(id).unwrap(), full_grads.get(id).unwrap());
        assert_eq!(a.dtype(), DType::F32);
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let (x, y) = (numbers(a), numbers(b));
        let cosine = dot(&x, &y) / (dot(&x, &x) * dot(&y, &y)).sqrt();
        assert!(cosine > 0.95, "{}: {cosine}", param.name);
    }
    // Steps far below the spacing of bf16 add up in the master weights.
    let before = numbers(half.params.value(0));
    let mut optimiser = AdamW::new(&OptimConfig::default(), &half.params);
    for _ in 0..200 {
        optimiser.step(&half.params, &half_grads, 1e-5).unwrap();
    }
    let moved = numbers(half.params.value(0)).iter().zip(&before).filter(|(a, b)| a != b).count();
    assert!(moved > before.len() / 20, "{moved} of {}", before.len());

    let completions = sample(&half, 8);
    assert_eq!(completions.len(), 25);
    assert!(completions.iter().flat_map(|c| &c.logp).all(|l| l.is_finite() && *l < 1e-6));
}
