//! Quantised references, and candle-transformers' models as oracles: `cargo test --features gguf --test it gguf`.

use std::collections::HashMap;
use std::path::Path;

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, IndexOp, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{llama, mistral, quantized_llama, quantized_qwen3, qwen2, qwen3};
use candlewick::model::decoder::{Decoder, Pass};
use candlewick::model::gguf::Quantised;
use candlewick::model::packed::Packed;
use candlewick::model::spec::DecoderSpec;
use candlewick::model::weights::Weights;
use candlewick_algorithms::row::token::TokenLogp;

/// A model of candle-transformers: input ids and their first position to logits.
type Step = Box<dyn FnMut(&Tensor, usize) -> Tensor>;

const TOKENS: [u32; 12] = [3, 17, 40, 2, 2, 91, 60, 8, 13, 77, 5, 30];

fn random(family: &str) -> Decoder {
    let config = serde_json::json!({"model_type": family, "vocab_size": 96, "hidden_size": 64, "intermediate_size": 128,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
        "max_position_embeddings": 64, "tie_word_embeddings": family != "llama", "rms_norm_eps": 1e-5, "rope_theta": 500.0});
    let mut decoder = Decoder::random(DecoderSpec::from_config(config).unwrap(), 5, DType::F32, &Device::Cpu).unwrap();
    for param in decoder.params.iter_mut().filter(|p| p.value.rank() > 1) {
        param.value = (&param.value * 6.0).unwrap();
    }
    decoder
}

/// The name in a GGUF file of a checkpoint's tensor.
fn gguf_name(name: &str) -> String {
    let pairs = [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("model.layers", "blk"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ];
    pairs.iter().fold(name.to_owned(), |name, (from, to)| name.replace(from, to))
}

/// Writes a decoder as llama.cpp's converter does: `llama` files hold q and k with interleaved pairs.
fn write(path: &Path, decoder: &Decoder, dtype: GgmlDType, tokens: Option<Vec<String>>) {
    let spec = &decoder.spec;
    let mut tensors = Vec::new();
    for param in decoder.params.iter() {
        let mut value = param.value.clone();
        let is_qk = param.name.contains("q_proj") || param.name.contains("k_proj");
        if spec.family == "llama" && is_qk && value.rank() == 2 {
            let (out, inner) = value.dims2().unwrap();
            let (heads, half) = (out / spec.head_dim, spec.head_dim / 2);
            let split = value.reshape((heads, 2, half, inner)).unwrap().transpose(1, 2).unwrap();
            value = split.contiguous().unwrap().reshape((out, inner)).unwrap();
        }
        let kind = if value.rank() == 2 { dtype } else { GgmlDType::F32 };
        tensors.push((gguf_name(&param.name), QTensor::quantize(&value, kind).unwrap()));
    }
    let arch = spec.family.clone();
    let key = |name: &str| format!("{arch}.{name}");
    let mut metadata = vec![
        ("general.architecture".to_owned(), Value::String(arch.clone())),
        // Without it candle-transformers keeps rope's tables of Qwen3 in f16, which moves log-probs by up to 0.04 here.
        ("general.dtype".to_owned(), Value::U32(0)),
        (key("block_count"), Value::U32(spec.layers as u32)),
        (key("embedding_length"), Value::U32(spec.hidden_size as u32)),
        (key("feed_forward_length"), Value::U32(spec.intermediate_size as u32)),
        (key("context_length"), Value::U32(spec.max_positions as u32)),
        (key("attention.head_count"), Value::U32(spec.heads as u32)),
        (key("attention.head_count_kv"), Value::U32(spec.kv_heads as u32)),
        (key("attention.key_length"), Value::U32(spec.head_dim as u32)),
        (key("attention.layer_norm_rms_epsilon"), Value::F32(1e-5)),
        (key("rope.freq_base"), Value::F32(500.0)),
        (key("rope.dimension_count"), Value::U32(spec.head_dim as u32)),
    ];
    if let Some(tokens) = tokens {
        let list = tokens.into_iter().map(Value::String).collect();
        metadata.push(("tokenizer.ggml.tokens".to_owned(), Value::Array(list)));
    }
    let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(k, v)| (k.as_str(), v)).collect();
    let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(k, v)| (k.as_str(), v)).collect();
    gguf_file::write(&mut std::fs::File::create(path).unwrap(), &metadata, &tensors).unwrap();
}

/// Words for 96 ids, and their vocabulary.
fn vocabulary() -> HashMap<String, u32> {
    (0..96).map(|id| (format!("word{id}"), id)).collect()
}

/// Log-probs of TOKENS[1..].
fn quantised(model: &Quantised) -> Vec<f64> {
    let tokens = model.mapped(&TOKENS).unwrap();
    let at: Vec<u32> = (0..TOKENS.len() as u32 - 1).collect();
    let function = TokenLogp { tokens: &tokens[1..], temperature: 1.0, with_entropy: false };
    let rows = model.rows(&Packed::single(&tokens), &at, &function).unwrap();
    rows.iter().map(|r| r.logp).collect()
}

fn plain(decoder: &Decoder) -> Vec<f64> {
    let at: Vec<u32> = (0..TOKENS.len() as u32 - 1).collect();
    let function = TokenLogp { tokens: &TOKENS[1..], temperature: 1.0, with_entropy: false };
    let tape = decoder.forward(&Packed::single(&TOKENS), Pass::SCORE).unwrap();
    decoder.rows_forward(&tape.hidden, &at, &function).unwrap().iter().map(|r| r.logp).collect()
}

fn furthest(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

#[test]
fn gguf_log_probs_are_those_of_the_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    for family in ["llama", "qwen2", "qwen3"] {
        let (decoder, path) = (random(family), folder.path().join(format!("{family}.gguf")));
        let expected = plain(&decoder);
        for (dtype, tolerance) in [(GgmlDType::F32, 1e-4), (GgmlDType::F16, 0.02), (GgmlDType::Q8_0, 0.2)] {
            write(&path, &decoder, dtype, None);
            let model = Quantised::open(&path, &vocabulary(), &Device::Cpu).unwrap();
            let found = furthest(&quantised(&model), &expected);
            assert!(found < tolerance, "{family} {dtype:?}: {found}");
            assert!(dtype != GgmlDType::Q8_0 || found > 1e-6, "{family}: nothing was quantised");
        }
    }
}

/// The same products on the same quantised weights, token by token through candle-transformers.
#[test]
fn gguf_log_probs_are_those_of_candle_transformers() {
    let folder = tempfile::tempdir().unwrap();
    for family in ["llama", "qwen3"] {
        let (decoder, path) = (random(family), folder.path().join(format!("{family}.gguf")));
        write(&path, &decoder, GgmlDType::Q8_0, None);
        let mut file = std::fs::File::open(&path).unwrap();
        let content = gguf_file::Content::read(&mut file).unwrap();
        let mut step: Step = match family {
            "llama" => {
                let mut model = quantized_llama::ModelWeights::from_gguf(content, &mut file, &Device::Cpu).unwrap();
                Box::new(move |x, at| model.forward(x, at).unwrap())
            }
            _ => {
                let mut model = quantized_qwen3::ModelWeights::from_gguf(content, &mut file, &Device::Cpu).unwrap();
                Box::new(move |x, at| model.forward(x, at).unwrap())
            }
        };
        let mut expected = Vec::new();
        for at in 0..TOKENS.len() - 1 {
            let logits = step(&Tensor::new(&[[TOKENS[at]]], &Device::Cpu).unwrap(), at).flatten_all().unwrap();
            let logp = candle_nn::ops::log_softmax(&logits.to_dtype(DType::F64).unwrap(), 0).unwrap();
            expected.push(logp.i(TOKENS[at + 1] as usize).unwrap().to_scalar::<f64>().unwrap());
        }
        let found = quantised(&Quantised::open(&path, &vocabulary(), &Device::Cpu).unwrap());
        assert!(furthest(&found, &expected) < 2e-3, "{family}: {found:?} {expected:?}");
    }
}

#[test]
fn gguf_tokens_are_mapped_by_their_text_and_faults_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let decoder = random("llama");
    let order = |id: u32| (id + 10) % 96;
    // A file whose ids are moved by ten, rows of embedding and head with them.
    let mut moved = random("llama");
    for param in moved.params.iter_mut().filter(|p| p.name.contains("embed") || p.name.contains("lm_head")) {
        let rows: Vec<u32> = (0..96).map(|id| (id + 86) % 96).collect();
        param.value = param.value.index_select(&Tensor::new(rows, &Device::Cpu).unwrap(), 0).unwrap();
    }
    let mut names = vec![String::new(); 96];
    (0..96).for_each(|id| names[order(id) as usize] = format!("word{id}"));
    write(&path, &moved, GgmlDType::F32, Some(names.clone()));
    let model = Quantised::open(&path, &vocabulary(), &Device::Cpu).unwrap();
    assert_eq!(model.mapped(&[0, 90]).unwrap(), [10, 4]);
    assert!(furthest(&quantised(&model), &plain(&decoder)) < 1e-4);

    let fails = |expected: &str| {
        let error = Quantised::open(&path, &vocabulary(), &Device::Cpu).err().expect("it must be refused");
        assert!(format!("{error:#}").contains(expected), "{error:#}");
    };
    names[7] = "other".into();
    write(&path, &moved, GgmlDType::F32, Some(names));
    fails("lacks 1 of the policy's 96 tokens, such as `word93`");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    fails("cannot be read");
    std::fs::write(&path, "no model").unwrap();
    fails("no valid GGUF file");
}

fn fixture(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models").join(name)
}

/// candle-transformers' models read the old layout of `config.json` only, and windows of theirs are not those of transformers:
/// Mistral's holds one position more, Qwen2's is used where `use_sliding_window` is false too.
fn config<T: serde::de::DeserializeOwned>(name: &str) -> T {
    let text = std::fs::read_to_string(fixture(name).join("config.json")).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    if let Some(theta) = json["rope_parameters"]["rope_theta"].as_f64() {
        json["rope_theta"] = theta.into();
    }
    match name {
        "mistral" => json["sliding_window"] = (json["sliding_window"].as_u64().unwrap() - 1).into(),
        "qwen2" => json["sliding_window"] = json["max_position_embeddings"].clone(),
        _ => {}
    }
    serde_json::from_value(json).unwrap()
}

#[test]
fn gguf_feature_oracle_forward_logits_equal_candle_transformers() {
    let input = Tensor::new(&[TOKENS], &Device::Cpu).unwrap();
    for name in ["smollm2", "llama", "mistral", "qwen2", "qwen3"] {
        let folder = fixture(name);
        let vb = || {
            let tensors = candle_core::safetensors::load(folder.join("model.safetensors"), &Device::Cpu).unwrap();
            VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu)
        };
        let theirs = match name {
            "mistral" => mistral::Model::new(&config(name), vb()).unwrap().forward(&input, 0).unwrap(),
            "qwen2" => qwen2::ModelForCausalLM::new(&config(name), vb()).unwrap().forward(&input, 0).unwrap(),
            "qwen3" => qwen3::ModelForCausalLM::new(&config(name), vb()).unwrap().forward(&input, 0).unwrap(),
            _ => {
                let config = config::<llama::LlamaConfig>(name).into_config(false);
                let mut cache = llama::Cache::new(false, DType::F32, &config, &Device::Cpu).unwrap();
                llama::Llama::load(vb(), &config).unwrap().forward(&input, 0, &mut cache).unwrap()
            }
        };
        let spec = DecoderSpec::read(&folder).unwrap();
        let decoder = Decoder::load(spec, &Weights::open(&folder).unwrap(), DType::F32, &Device::Cpu).unwrap();
        let ours = decoder.logits(&Packed::single(&TOKENS), Pass::SCORE).unwrap();
        let ours: Vec<f32> = ours.i(TOKENS.len() - 1).unwrap().to_vec1().unwrap();
        let theirs: Vec<f32> = theirs.flatten_all().unwrap().to_vec1().unwrap();
        for (a, b) in ours.iter().zip(&theirs) {
            assert!((a - b).abs() < 1e-4 * b.abs().max(1.0), "{name}: {a} against {b}");
        }
        assert_eq!(ours.len(), theirs.len());
    }
}
