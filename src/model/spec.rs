//! What a decoder looks like, derived from a checkpoint's `config.json`.
//!
//! Both layouts of Hugging Face are read: `rope_theta` and `rope_scaling` at the top level, and
//! `rope_parameters`. Any field may be null, which is the same as absent.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::ops::attention::Heads;

/// Families that the decoder knows, as `model_type` in `config.json`.
pub const FAMILIES: [&str; 4] = ["llama", "mistral", "qwen2", "qwen3"];

/// The shape of a decoder-only model.
#[derive(Debug, Clone, PartialEq)]
pub struct DecoderSpec {
    /// `model_type` of the checkpoint.
    pub family: String,
    /// Rows of the embedding, V.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the gated layer.
    pub intermediate_size: usize,
    /// Number of blocks, L.
    pub layers: usize,
    /// Query heads, H.
    pub heads: usize,
    /// Key/value heads, Hkv.
    pub kv_heads: usize,
    /// Elements a head, D.
    pub head_dim: usize,
    /// Epsilon of every norm.
    pub norm_eps: f64,
    /// Longest sequence, in tokens.
    pub max_positions: usize,
    /// Rotary frequencies, [D/2].
    pub frequencies: Vec<f64>,
    /// Whether the head is the embedding.
    pub is_tied: bool,
    /// Whether q, k and v have biases.
    pub has_qkv_bias: bool,
    /// Whether the attention's output projection has a bias.
    pub has_output_bias: bool,
    /// Whether the gated layer's projections have biases.
    pub has_mlp_bias: bool,
    /// Whether q and k are normalised a head (Qwen3).
    pub has_qk_norm: bool,
    /// Sliding window of each block, [L].
    pub windows: Vec<Option<usize>>,
    /// The file's own text, saved again with a trained model.
    pub config: Value,
}

/// Typed access to a JSON object in which null means absent.
struct Fields<'a>(&'a Value);

impl<'a> Fields<'a> {
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.0.get(key).filter(|v| !v.is_null())
    }

    fn size(&self, key: &str) -> Result<Option<usize>> {
        self.get(key)
            .map(|v| v.as_u64().map(|n| n as usize).with_context(|| format!("`{key}` = {v} is not a whole number")))
            .transpose()
    }

    fn need(&self, key: &str) -> Result<usize> {
        match self.size(key)? {
            Some(0) => bail!("`{key}` is 0"),
            Some(n) => Ok(n),
            None => bail!("`{key}` is missing"),
        }
    }

    fn number(&self, key: &str) -> Result<Option<f64>> {
        self.get(key).map(|v| v.as_f64().with_context(|| format!("`{key}` = {v} is not a number"))).transpose()
    }

    fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.get(key).map(|v| v.as_bool().with_context(|| format!("`{key}` = {v} is not true or false"))).transpose()
    }
}

impl DecoderSpec {
    /// Reads `config.json` in a checkpoint's folder.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("config.json");
        let text = std::fs::read_to_string(&path).with_context(|| format!("{} cannot be read", path.display()))?;
        let config: Value =
            serde_json::from_str(&text).with_context(|| format!("{} is not valid JSON", path.display()))?;
        Self::from_config(config).with_context(|| format!("{} cannot be used", path.display()))
    }

    /// Derives the shape from the content of a `config.json`.
    pub fn from_config(config: Value) -> Result<Self> {
        let f = Fields(&config);
        let family = f.get("model_type").and_then(Value::as_str).context("`model_type` is missing")?.to_owned();
        if !FAMILIES.contains(&family.as_str()) {
            bail!("architecture `{family}` is not supported: the decoder knows {}", FAMILIES.join(", "));
        }
        if let Some(act) = f.get("hidden_act").and_then(Value::as_str).filter(|a| *a != "silu") {
            bail!("`hidden_act` = `{act}` is not supported: {family} models use `silu`");
        }
        if f.get("quantization_config").is_some() {
            bail!("quantised checkpoints cannot be trained: use the full-precision one");
        }
        let (hidden_size, layers, heads) =
            (f.need("hidden_size")?, f.need("num_hidden_layers")?, f.need("num_attention_heads")?);
        let kv_heads = f.size("num_key_value_heads")?.unwrap_or(heads);
        let head_dim = f.size("head_dim")?.unwrap_or(hidden_size / heads);
        if kv_heads == 0 || heads % kv_heads != 0 {
            bail!("`num_attention_heads` = {heads} is no multiple of `num_key_value_heads` = {kv_heads}");
        }
        if head_dim == 0 || head_dim % 2 != 0 {
            bail!("a head size of {head_dim} is not supported: rotary positions need an even one");
        }
        let max_positions = f.need("max_position_embeddings")?;
        let attention_bias = f.flag("attention_bias")?.unwrap_or(false);
        Ok(Self {
            vocab_size: f.need("vocab_size")?,
            hidden_size,
            intermediate_size: f.need("intermediate_size")?,
            layers,
            heads,
            kv_heads,
            head_dim,
            norm_eps: f.number("rms_norm_eps")?.unwrap_or(1e-6),
            max_positions,
            frequencies: frequencies(&f, head_dim, max_positions)?,
            is_tied: f.flag("tie_word_embeddings")?.unwrap_or(false),
            has_qkv_bias: family == "qwen2" || attention_bias,
            has_output_bias: family != "qwen2" && attention_bias,
            has_mlp_bias: f.flag("mlp_bias")?.unwrap_or(false),
            has_qk_norm: family == "qwen3",
            windows: windows(&f, &family, layers)?,
            family,
            config,
        })
    }

    /// Extents of the attention heads of one block.
    pub fn attention(&self, layer: usize) -> Heads {
        Heads {
            queries: self.heads,
            keys: self.kv_heads,
            size: self.head_dim,
            window: self.windows[layer],
            scale: 1.0 / (self.head_dim as f64).sqrt(),
        }
    }

    /// Names and shapes of every tensor of the checkpoint, in file order.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let (c, f, q, kv) =
            (self.hidden_size, self.intermediate_size, self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let mut list = vec![("model.embed_tokens.weight".to_owned(), vec![self.vocab_size, c])];
        for layer in 0..self.layers {
            let mut add =
                |name: &str, shape: &[usize]| list.push((format!("model.layers.{layer}.{name}"), shape.to_vec()));
            add("input_layernorm.weight", &[c]);
            for (name, out, inner, bias) in [
                ("self_attn.q_proj", q, c, self.has_qkv_bias),
                ("self_attn.k_proj", kv, c, self.has_qkv_bias),
                ("self_attn.v_proj", kv, c, self.has_qkv_bias),
                ("self_attn.o_proj", c, q, self.has_output_bias),
                ("mlp.gate_proj", f, c, self.has_mlp_bias),
                ("mlp.up_proj", f, c, self.has_mlp_bias),
                ("mlp.down_proj", c, f, self.has_mlp_bias),
            ] {
                add(&format!("{name}.weight"), &[out, inner]);
                if bias {
                    add(&format!("{name}.bias"), &[out]);
                }
            }
            if self.has_qk_norm {
                add("self_attn.q_norm.weight", &[self.head_dim]);
                add("self_attn.k_norm.weight", &[self.head_dim]);
            }
            add("post_attention_layernorm.weight", &[c]);
        }
        list.push(("model.norm.weight".to_owned(), vec![c]));
        if !self.is_tied {
            list.push(("lm_head.weight".to_owned(), vec![self.vocab_size, c]));
        }
        list
    }

    /// Number of parameters; a tied head counts once.
    pub fn parameters(&self) -> usize {
        self.tensors().iter().map(|(_, shape)| shape.iter().product::<usize>()).sum()
    }
}

/// Rotary frequencies base^(-2i/D), rescaled as `rope_scaling` or `rope_parameters` says.
fn frequencies(f: &Fields, head_dim: usize, max_positions: usize) -> Result<Vec<f64>> {
    let empty = Value::Null;
    let nested = f.get("rope_parameters").or_else(|| f.get("rope_scaling")).unwrap_or(&empty);
    let rope = Fields(nested);
    let base = match rope.number("rope_theta")? {
        Some(base) => base,
        None => f.number("rope_theta")?.unwrap_or(10_000.0),
    };
    let plain = (0..head_dim / 2).map(|i| base.powf(-2.0 * i as f64 / head_dim as f64));
    let kind = rope.get("rope_type").or_else(|| rope.get("type")).and_then(Value::as_str).unwrap_or("default");
    match kind {
        "default" => Ok(plain.collect()),
        "linear" => {
            let factor = rope.number("factor")?.context("rope type `linear` needs `factor`")?;
            Ok(plain.map(|w| w / factor).collect())
        }
        "llama3" => {
            let need = |key: &str| rope.number(key)?.with_context(|| format!("rope type `llama3` needs `{key}`"));
            let (factor, low, high) = (need("factor")?, need("low_freq_factor")?, need("high_freq_factor")?);
            let context = rope.number("original_max_position_embeddings")?.unwrap_or(max_positions as f64);
            Ok(plain
                .map(|w| {
                    // Wavelengths in units of the original context: short ones stay, long ones are
                    // stretched by the factor, those between are blended.
                    let turns = context * w / std::f64::consts::TAU;
                    let blend = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                    (1.0 - blend) * w / factor + blend * w
                })
                .collect())
        }
        other => bail!("rope type `{other}` is not supported: default, linear and llama3 are"),
    }
}

/// The sliding window of each block.
fn windows(f: &Fields, family: &str, layers: usize) -> Result<Vec<Option<usize>>> {
    let window = f.size("sliding_window")?;
    let is_on = match family {
        "mistral" => true,
        "qwen2" | "qwen3" => f.flag("use_sliding_window")?.unwrap_or(false),
        _ => false,
    };
    let Some(window) = window.filter(|_| is_on) else { return Ok(vec![None; layers]) };
    if let Some(types) = f.get("layer_types").and_then(Value::as_array).filter(|t| t.len() == layers) {
        return Ok(types.iter().map(|t| (t.as_str() == Some("sliding_attention")).then_some(window)).collect());
    }
    let first = if family == "mistral" { 0 } else { f.size("max_window_layers")?.unwrap_or(28) };
    Ok((0..layers).map(|layer| (layer >= first).then_some(window)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn tiny() -> Value {
        json!({"model_type": "llama", "vocab_size": 10, "hidden_size": 8, "intermediate_size": 12,
               "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 64})
    }

    #[test]
    fn both_layouts_and_nulls_are_read_alike() {
        let mut old = tiny();
        old["rope_theta"] = json!(500.0);
        old["rope_scaling"] = Value::Null;
        old["head_dim"] = Value::Null;
        let mut new = tiny();
        new["rope_parameters"] = json!({"rope_type": "default", "rope_theta": 500.0});
        let (old, new) = (DecoderSpec::from_config(old).unwrap(), DecoderSpec::from_config(new).unwrap());
        assert_eq!(old.frequencies, new.frequencies);
        assert_eq!(old.head_dim, 4);
        assert_eq!(old.kv_heads, 2);
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let message = |key: &str, value: Value| {
            let mut config = tiny();
            config[key] = value;
            DecoderSpec::from_config(config).unwrap_err().to_string()
        };
        assert!(message("model_type", json!("gpt_neox")).contains("llama, mistral, qwen2, qwen3"));
        assert!(message("vocab_size", Value::Null).contains("`vocab_size` is missing"));
        assert!(message("hidden_size", json!("8")).contains("not a whole number"));
        assert!(message("num_key_value_heads", json!(3)).contains("no multiple"));
        assert!(message("rope_scaling", json!({"rope_type": "longrope"})).contains("`longrope`"));
    }
}
