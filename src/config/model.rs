//! Section `model`: which checkpoint is trained, where, and in which numbers.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The model to train: checkpoint, device, number type, LoRA, reference.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// A folder with a Hugging Face checkpoint, or the name of one on the Hub (`HuggingFaceTB/SmolLM2-135M-Instruct`).
    pub path: String,
    /// Branch, tag or commit on the Hub; absent takes `main`.
    #[serde(default)]
    pub revision: Option<String>,
    /// Start from random weights drawn from this seed instead of the checkpoint's; `path` then needs a config and a tokenizer only.
    #[serde(default)]
    pub random_init: Option<u64>,
    /// Where to compute: `auto` takes the first GPU of a build with CUDA, else the CPU.
    #[serde(default)]
    pub device: Device,
    /// Number type of weights and activations; losses, softmax and optimiser state are f32 or wider in any case.
    #[serde(default)]
    pub dtype: Dtype,
    /// Whether the activations of a block are dropped and made again in the backward pass: less memory, about a third more time.
    #[serde(default)]
    pub gradient_checkpointing: Switch,
    /// Most tokens (prompt and completion) in one forward and backward pass; changes memory and speed, never the result. Absent takes what fits.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub micro_batch_tokens: Option<usize>,
    /// Trains low-rank adapters and leaves the checkpoint's own weights as they are.
    #[serde(default)]
    pub lora: Option<LoraConfig>,
    /// A separate reference model, for objectives with a KL term or a reference ratio. With LoRA the base model is the reference already.
    #[serde(default)]
    pub reference: Option<ReferenceConfig>,
}

impl ModelConfig {
    /// A checkpoint by its folder or name, everything else at its default.
    pub fn named(path: &str) -> Self {
        Self {
            path: path.to_owned(),
            revision: None,
            random_init: None,
            device: Device::default(),
            dtype: Dtype::default(),
            gradient_checkpointing: Switch::default(),
            micro_batch_tokens: None,
            lora: None,
            reference: None,
        }
    }
}

/// Low-rank adapters: W + scale * B A, with A and B trained ("LoRA", arXiv 2106.09685).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LoraConfig {
    /// Rank r of the adapters.
    #[schemars(range(min = 1))]
    pub rank: usize,
    /// Numerator of the scale, alpha / r.
    pub alpha: f64,
    /// Share of an adapter's inputs that are zeroed while training; 0 keeps the policy's log-probs exact.
    pub dropout: f64,
    /// Projections that get an adapter, by the last part of their name.
    pub targets: Vec<String>,
    /// Whether the scale is alpha / sqrt(r) instead ("rsLoRA", arXiv 2312.03732).
    pub rslora: bool,
}

impl Default for LoraConfig {
    fn default() -> Self {
        let targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
        Self { rank: 16, alpha: 32.0, dropout: 0.0, targets: targets.map(str::to_owned).to_vec(), rslora: false }
    }
}

/// A model to measure the policy against; frozen, unless it is told to follow.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReferenceConfig {
    /// A folder, a name on the Hub, or a `.gguf` file (builds with the `gguf` feature); absent takes the policy's own checkpoint.
    #[serde(default)]
    pub path: Option<String>,
    /// Branch, tag or commit on the Hub; absent takes `main`.
    #[serde(default)]
    pub revision: Option<String>,
    /// Steps after each of which the reference moves towards the policy (TR-DPO, arXiv 2404.09656; the moving-average anchor of
    /// ADPO with 1); absent leaves it where it is. A reference that moves is the policy's own checkpoint, not another `path`.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub sync_steps: Option<usize>,
    /// Weight of the policy in the move, reference = alpha policy + (1 - alpha) reference: 1 copies the policy, 0.01 is a slow average.
    #[serde(default = "ReferenceConfig::mixup_alpha")]
    #[schemars(range(min = 0, max = 1))]
    pub mixup_alpha: f64,
}

impl ReferenceConfig {
    /// TRL's.
    fn mixup_alpha() -> f64 {
        0.6
    }
}

impl Default for ReferenceConfig {
    fn default() -> Self {
        Self { path: None, revision: None, sync_steps: None, mixup_alpha: Self::mixup_alpha() }
    }
}

/// A choice that may be left to the program.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Switch {
    /// On where the run would not fit into memory without it; the choice is printed.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// A number type.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Dtype {
    /// 32 bits: right on the CPU, where it is also the fastest.
    #[default]
    F32,
    /// 16 bits with f32 master weights: right on a GPU, slow on the CPU.
    Bf16,
    /// 64 bits, for tests of exactness.
    F64,
}

impl Dtype {
    /// Bytes of one number.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
            Self::F64 => 8,
        }
    }
}

/// Where to compute.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Device {
    /// The first GPU of a build with CUDA, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU of this number.
    Cuda(usize),
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(0) => f.write_str("cuda"),
            Self::Cuda(n) => write!(f, "cuda:{n}"),
        }
    }
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |n: &str| n.parse().ok().map(Self::Cuda);
        let device = match text {
            "auto" => Some(Self::Auto),
            "cpu" => Some(Self::Cpu),
            "cuda" => Some(Self::Cuda(0)),
            other => other.strip_prefix("cuda:").and_then(number),
        };
        device.ok_or_else(|| format!("unknown device `{text}`: write `auto`, `cpu`, `cuda` or `cuda:N`"))
    }
}

impl Serialize for Device {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Device {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Device {
    fn schema_name() -> Cow<'static, str> {
        "Device".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "`auto`, `cpu`, `cuda` or `cuda:N`.",
            "pattern": "^(auto|cpu|cuda(:[0-9]+)?)$",
        })
    }
}
