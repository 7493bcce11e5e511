//! The decoder against PyTorch: logits and every weight's gradient, in double precision.
//!
//! The fixtures and how they were made: `tests/fixtures/README.md`.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use candlewick::model::decoder::{Decoder, Keep, Pass};
use candlewick::model::packed::Packed;
use candlewick::model::params::Grads;
use candlewick::model::spec::DecoderSpec;
use candlewick::model::weights::Weights;
use candlewick_algorithms::row::RowGrad;
use candlewick_algorithms::row::token::TokenLogp;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models").join(name)
}

fn load(name: &str, dtype: DType) -> Decoder {
    let folder = fixture(name);
    let spec = DecoderSpec::read(&folder).unwrap();
    Decoder::load(spec, &Weights::open(&folder).unwrap(), dtype, &Device::Cpu).unwrap()
}

fn values(t: &Tensor) -> Vec<f64> {
    t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Largest difference, relative to the largest element where that is above 1.
fn distance(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.dims(), b.dims());
    let (a, b) = (values(a), values(b));
    let scale = b.iter().fold(1.0_f64, |m, x| m.max(x.abs()));
    a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max) / scale
}

struct Reference {
    weights: Weights,
    sequences: Vec<Vec<u32>>,
}

impl Reference {
    fn open(path: PathBuf) -> Self {
        let weights = Weights::open_files(&[path]).unwrap();
        let sequences = (0..3)
            .map(|i| weights.integers(&format!("tokens_{i}")).unwrap().into_iter().map(|t| t as u32).collect())
            .collect();
        Self { weights, sequences }
    }

    fn get(&self, name: &str) -> Tensor {
        self.weights.load_any(name, DType::F64).unwrap()
    }

    fn numbers(&self, name: &str) -> Vec<f64> {
        values(&self.get(name))
    }

    fn pack(&self) -> Packed {
        let mut pack = Packed::new();
        for tokens in &self.sequences {
            pack.push(tokens);
        }
        pack
    }
}

fn check_logits(decoder: &Decoder, reference: &Reference, tolerance: f64) {
    let pack = reference.pack();
    let logits = decoder.logits(&pack, Pass::SCORE).unwrap();
    for i in 0..pack.segments.len() {
        let (range, expected) = (pack.range(i), reference.get(&format!("logits_{i}")));
        let error = distance(&logits.narrow(0, range.start, range.len()).unwrap(), &expected);
        assert!(error < tolerance, "sequence {i}: logits differ by {error:e}");
    }
}

/// Gradients of the reference's loss for each way of keeping activations.
fn gradients(decoder: &Decoder, reference: &Reference, keep: Keep) -> Grads {
    let pack = reference.pack();
    let (mut at, mut targets, mut upstream) = (Vec::new(), Vec::new(), Vec::new());
    let (mut logp, mut entropy) = (Vec::new(), Vec::new());
    for (i, tokens) in reference.sequences.iter().enumerate() {
        let (g, h) = (reference.numbers(&format!("g_{i}")), reference.numbers(&format!("h_{i}")));
        logp.extend(reference.numbers(&format!("logp_{i}")));
        entropy.extend(reference.numbers(&format!("entropy_{i}")));
        for t in 0..tokens.len() - 1 {
            at.push((pack.segments[i].start + t) as u32);
            targets.push(tokens[t + 1]);
            upstream.push(RowGrad { logp: g[t], entropy: h[t], divergence: 0.0 });
        }
    }
    let function = TokenLogp { tokens: &targets, temperature: 0.7, with_entropy: true };
    let tape = decoder.forward(&pack, Pass { keep, ..Pass::SCORE }).unwrap();
    let rows = decoder.rows_forward(&tape.hidden, &at, &function).unwrap();
    for (r, row) in rows.iter().enumerate() {
        assert!((row.logp - logp[r]).abs() < 1e-9 && (row.entropy - entropy[r]).abs() < 1e-9, "row {r}: {row:?}");
    }
    let mut grads = Grads::new(&decoder.params);
    let d_hidden = decoder.rows_backward(&tape.hidden, &at, &function, &rows, &upstream, &mut grads).unwrap();
    decoder.backward(tape, &pack, &d_hidden, &mut grads).unwrap();
    grads
}

fn check_gradients(decoder: &Decoder, reference: &Reference, prefix: &str) {
    for keep in [Keep::Activations, Keep::Inputs] {
        let grads = gradients(decoder, reference, keep);
        assert_eq!(grads.untouched(&decoder.params).unwrap(), Vec::<&str>::new());
        let mut compared = 0;
        for (id, param) in decoder.params.iter().enumerate().filter(|(_, p)| p.is_trainable) {
            let expected = reference.get(&format!("grad.{prefix}{}", param.name));
            let error = distance(grads.get(id).unwrap(), &expected);
            assert!(error < 1e-9, "{}: gradients differ by {error:e} ({keep:?})", param.name);
            compared += 1;
        }
        let given = reference.weights.names().filter(|n| n.starts_with("grad.")).count();
        assert_eq!(compared, given, "every gradient of the reference was compared");
    }
}

#[test]
fn logits_and_every_gradient_match_pytorch() {
    for family in ["llama", "smollm2", "qwen2", "qwen3", "mistral"] {
        let reference = Reference::open(fixture(family).join("reference.safetensors"));
        let decoder = load(family, DType::F64);
        check_logits(&decoder, &reference, 1e-11);
        check_gradients(&decoder, &reference, "");
        check_logits(&load(family, DType::F32), &reference, 1e-5);
    }
}

#[test]
fn sharded_half_precision_weights_are_read() {
    let reference = Reference::open(fixture("llama-sharded-bf16").join("reference.safetensors"));
    check_logits(&load("llama-sharded-bf16", DType::F64), &reference, 1e-11);
}

#[test]
fn peft_adapters_match_and_merge_and_switch_off() {
    for adapter in ["adapter", "adapter-rslora"] {
        let folder = fixture("llama").join(adapter);
        let reference = Reference::open(folder.join("reference_adapter.safetensors"));
        let mut decoder = load("llama", DType::F64);
        decoder.load_lora(&folder).unwrap();
        check_logits(&decoder, &reference, 1e-11);
        check_gradients(&decoder, &reference, "base_model.model.");
        let base = Reference::open(fixture("llama").join("reference.safetensors"));
        let off = decoder.logits(&base.pack(), Pass { has_adapter: false, ..Pass::SCORE }).unwrap();
        let first = base.get("logits_0");
        assert!(distance(&off.narrow(0, 0, first.dim(0).unwrap()).unwrap(), &first) < 1e-11);
        let saved = tempfile::tempdir().unwrap();
        candlewick::model::lora::save(saved.path(), decoder.lora.as_ref().unwrap(), "base", &decoder.params).unwrap();
        let mut again = load("llama", DType::F64);
        again.load_lora(saved.path()).unwrap();
        check_logits(&again, &reference, 1e-11);
        decoder.merge_lora().unwrap();
        check_logits(&decoder, &reference, 1e-11);
    }
}
