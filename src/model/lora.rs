//! Low-rank adapters: y = x W^T + scale (drop(x) A^T) B^T, in PEFT's file format both ways.
//!
//! Source: "LoRA: Low-Rank Adaptation of Large Language Models", arXiv 2106.09685; rank-stabilised
//! scale: arXiv 2312.03732. With an adapter the reference policy is the base with the adapter off.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device, Tensor};
use candlewick_algorithms::rng::Rng;
use serde_json::{Value, json};

use super::params::Params;
use super::tokenizer::GENERATION;
use super::weights::{self, Weights};

/// Linear layers of a block that can carry an adapter.
pub const TARGETS: [&str; 7] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

pub use crate::config::LoraConfig;
use crate::config::Refusal;

impl LoraConfig {
    /// Refuses settings that can never work.
    pub fn validate(&self) -> Result<()> {
        ensure!(self.rank > 0, "`model.lora.rank` = 0 is impossible: use at least 1");
        ensure!(
            self.alpha > 0.0 && self.alpha.is_finite(),
            "`model.lora.alpha` = {} is impossible: use a positive number",
            self.alpha
        );
        ensure!(
            (0.0..1.0).contains(&self.dropout),
            "`model.lora.dropout` = {} is impossible: use a share in [0, 1)",
            self.dropout
        );
        ensure!(!self.targets.is_empty(), "`model.lora.targets` is empty: name at least one of {}", TARGETS.join(", "));
        for target in &self.targets {
            ensure!(
                TARGETS.contains(&target.as_str()),
                "`model.lora.targets` names `{target}`: the choices are {}",
                TARGETS.join(", ")
            );
        }
        Ok(())
    }

    /// The factor on the adapter's output.
    pub fn scale(&self) -> f64 {
        if self.rslora { self.alpha / (self.rank as f64).sqrt() } else { self.alpha / self.rank as f64 }
    }
}

/// `candlewick merge`: adds an adapter into its base's weights and writes a full checkpoint.
pub fn merge(adapter: &Path, base: Option<&str>, output: &Path) -> Result<()> {
    use crate::hub::{Hub, Weights as Fetch};
    use crate::model::decoder::Decoder;
    use crate::model::spec::DecoderSpec;
    if !is_adapter(adapter) {
        let message = format!("{} is no folder with an adapter: there is no `adapter_config.json`", adapter.display());
        return Err(Refusal::command(message).into());
    }
    let (_, named) = read_config(adapter)?;
    let base =
        base.map(str::to_owned).or(named).context("the adapter does not name its base model: give it with `--base`")?;
    let folder = Hub::from_env().model(&base, None, Fetch::Fetch)?;
    if output.join("model.safetensors").exists() || output.join("model.safetensors.index.json").exists() {
        let message = format!("{} holds a checkpoint already: choose another folder", output.display());
        return Err(Refusal::command(message).into());
    }
    let spec = DecoderSpec::read(&folder)?;
    let mut decoder = Decoder::load(spec, &Weights::open(&folder)?, DType::F32, &Device::Cpu)?;
    decoder.load_lora(adapter)?;
    decoder.merge_lora()?;
    std::fs::create_dir_all(output).with_context(|| format!("{} cannot be made", output.display()))?;
    let tensors: Vec<_> = decoder.params.iter().map(|p| (p.name.clone(), p.value.clone())).collect();
    let mut config = decoder.spec.config.clone();
    for key in ["torch_dtype", "dtype"] {
        if config.get(key).is_some() {
            config[key] = "float32".into();
        }
    }
    std::fs::write(output.join("config.json"), serde_json::to_string_pretty(&config)?)
        .with_context(|| format!("{} cannot be written", output.display()))?;
    let texts = if adapter.join("tokenizer.json").is_file() { adapter } else { &folder };
    super::tokenizer::Tokenizer::from_folder(texts)?.copy_files(output)?;
    // An adapter with a tokenizer of its own may leave the settings of generation to its base.
    if !output.join(GENERATION).is_file() {
        super::tokenizer::copy_file(&folder, output, Path::new(GENERATION))?;
    }
    weights::write_model(output, &tensors)
}

/// Fresh adapter matrices of one layer: A [r,in] uniform in +-1/sqrt(in), B [out,r] zero.
pub(crate) fn fresh(
    seed: u64,
    layer: u64,
    shape: [usize; 2],
    rank: usize,
    dtype: DType,
    device: &Device,
) -> Result<(Tensor, Tensor)> {
    let [out, inner] = shape;
    let mut rng = Rng::keyed(&[seed, 0x10fa, layer]);
    let bound = 1.0 / (inner as f64).sqrt();
    let a: Vec<f64> = (0..rank * inner).map(|_| (2.0 * rng.uniform() - 1.0) * bound).collect();
    let a = Tensor::from_vec(a, (rank, inner), &Device::Cpu)?.to_dtype(dtype)?.to_device(device)?;
    Ok((a, Tensor::zeros((out, rank), dtype, device)?))
}

/// Whether a folder holds a PEFT adapter.
pub fn is_adapter(folder: &Path) -> bool {
    folder.join("adapter_config.json").is_file()
}

/// Reads `adapter_config.json`: the settings, and the base model it names.
pub fn read_config(folder: &Path) -> Result<(LoraConfig, Option<String>)> {
    let path = folder.join("adapter_config.json");
    let text = std::fs::read_to_string(&path).with_context(|| format!("{} cannot be read", path.display()))?;
    let config: Value = serde_json::from_str(&text).with_context(|| format!("{} is not valid JSON", path.display()))?;
    parse_config(&config).with_context(|| format!("{} cannot be used", path.display()))
}

fn parse_config(config: &Value) -> Result<(LoraConfig, Option<String>)> {
    let kind = config["peft_type"].as_str().unwrap_or("none");
    ensure!(kind == "LORA", "adapters of type `{kind}` are not supported: LORA is");
    for key in ["use_dora", "use_qalora", "use_bdlora", "fan_in_fan_out", "lora_bias"] {
        ensure!(config[key].as_bool() != Some(true), "`{key}` is not supported");
    }
    let is_set = |key: &str| match &config[key] {
        Value::Null => false,
        Value::Object(map) => !map.is_empty(),
        Value::Array(list) => !list.is_empty(),
        _ => true,
    };
    // Each of these changes other weights than the low-rank pairs, or says which layers have none.
    for key in [
        "rank_pattern",
        "alpha_pattern",
        "modules_to_save",
        "layers_to_transform",
        "layer_replication",
        "target_parameters",
        "trainable_token_indices",
        "alora_invocation_tokens",
    ] {
        ensure!(!is_set(key), "`{key}` = {} is not supported: merge the adapter with PEFT first", config[key]);
    }
    ensure!(matches!(config["bias"].as_str(), None | Some("none")), "`bias` other than none is not supported");
    let targets = match &config["target_modules"] {
        Value::String(s) if s == "all-linear" => TARGETS.map(str::to_owned).to_vec(),
        Value::String(s) => vec![s.clone()],
        Value::Array(list) => list.iter().filter_map(|v| v.as_str()).map(str::to_owned).collect(),
        other => bail!("`target_modules` = {other} is not supported"),
    };
    // Targets may be spelled with their place in the block: `self_attn.q_proj`.
    let targets = targets.iter().map(|t| t.rsplit('.').next().unwrap_or(t).to_owned()).collect();
    let lora = LoraConfig {
        rank: config["r"].as_u64().context("`r` is missing")? as usize,
        alpha: config["lora_alpha"].as_f64().context("`lora_alpha` is missing")?,
        dropout: config["lora_dropout"].as_f64().unwrap_or(0.0),
        targets,
        rslora: config["use_rslora"].as_bool().unwrap_or(false),
    };
    lora.validate()?;
    Ok((lora, config["base_model_name_or_path"].as_str().map(str::to_owned)))
}

/// Opens the adapter's weights; tensor names are given without PEFT's `base_model.model.` in front.
pub fn open_weights(folder: &Path) -> Result<Weights> {
    Weights::open_files(&[folder.join("adapter_model.safetensors")])
}

/// The name of an adapter parameter in PEFT's file.
pub fn peft_name(name: &str) -> String {
    format!("base_model.model.{name}")
}

/// Writes `adapter_config.json` and `adapter_model.safetensors`.
pub fn save(folder: &Path, lora: &LoraConfig, base: &str, params: &Params) -> Result<()> {
    let tensors: Vec<_> =
        params.iter().filter(|p| p.name.contains(".lora_")).map(|p| (peft_name(&p.name), p.value.clone())).collect();
    weights::write_file(&folder.join("adapter_model.safetensors"), &tensors)?;
    let config = json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": lora.targets,
        "use_rslora": lora.rslora,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "modules_to_save": null,
    });
    let path = folder.join("adapter_config.json");
    std::fs::write(&path, serde_json::to_string_pretty(&config)?)
        .with_context(|| format!("{} cannot be written", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_and_refusals() {
        let mut lora = LoraConfig { rank: 4, alpha: 8.0, ..LoraConfig::default() };
        assert_eq!(lora.scale(), 2.0);
        lora.rslora = true;
        assert_eq!(lora.scale(), 4.0);
        lora.targets = vec!["q".into()];
        assert!(lora.validate().unwrap_err().to_string().contains("`q`"));
        let dora =
            json!({"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "use_dora": true});
        assert!(parse_config(&dora).unwrap_err().to_string().contains("use_dora"));
        let mut plain = json!({"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"],
            "modules_to_save": null, "layers_to_transform": null, "rank_pattern": {}});
        parse_config(&plain).unwrap();
        for (key, value) in [("modules_to_save", json!(["lm_head"])), ("layers_to_transform", json!([0, 1]))] {
            plain[key] = value;
            assert!(parse_config(&plain).unwrap_err().to_string().contains(&format!("`{key}` = ")));
            plain[key] = Value::Null;
        }
    }
}
