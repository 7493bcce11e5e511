//! The shape of `report.json`: stable under [`SCHEMA`], which changes when a field changes its meaning or goes.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::open::Open;
use super::preference::Preference;
use crate::contamination::Contamination;
use crate::metrics::{Comparison, Estimate, Results, WinRate, Wordings};
use crate::sample::Sample;
use crate::sensitivity::Mode;

/// Name and version of the report's shape.
pub const SCHEMA: &str = "candlewick-report/1";

/// A held-out evaluation of one checkpoint on some benchmarks, compared with others where there are any.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: String,
    /// What was evaluated, with what, when.
    pub identity: Identity,
    /// Accuracy over all benchmarks; `None` for a single one.
    pub overall: Option<Overall>,
    /// A benchmark each.
    pub benchmarks: Vec<Entry>,
    /// Sets of prompts without reference answers, which only a judge can decide.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub open: Vec<Open>,
    /// What a run on preferences did to held-out pairs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preference: Option<Preference>,
    /// Curves of the training run that led here.
    #[serde(default)]
    pub training: Vec<Curve>,
    /// Remarks on the whole, such as that the checkpoint was chosen on a reported set.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// What was evaluated and how it can be found again. Hashes are SHA-256 in hex.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Identity {
    /// Short name in tables and sentences (`final`, `step-200`).
    pub label: String,
    /// Folder or Hub name.
    pub model: String,
    /// Hub revision.
    pub revision: Option<String>,
    /// Hash of the weights.
    pub weights_sha256: Option<String>,
    /// Adapter's hash, where one is used.
    pub adapter_sha256: Option<String>,
    /// Whether the adapter was merged into the weights.
    pub is_adapter_merged: Option<bool>,
    /// Hash of `tokenizer.json`.
    pub tokenizer_sha256: Option<String>,
    /// Hash of the chat template's text.
    pub template_sha256: Option<String>,
    /// Type of the weights in use.
    pub dtype: String,
    /// Device, in words.
    pub device: String,
    /// What generated the completions, with its version.
    pub engine: String,
    /// Seed of the samples.
    pub seed: u64,
    /// Version of candlewick.
    pub version: String,
    /// Commit it was built from.
    pub commit: Option<String>,
    /// Start of the evaluation, RFC 3339.
    pub date: String,
    /// Wall time of the evaluation.
    pub seconds: f64,
    /// Tokens generated.
    pub tokens: usize,
}

/// Accuracy over all benchmarks.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Overall {
    /// Equal weight for each benchmark.
    pub macro_mean: Estimate,
    /// Equal weight for each problem.
    pub micro_mean: Estimate,
}

/// One benchmark of a report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Entry {
    /// The problems.
    pub data: Data,
    /// How they were asked.
    pub protocol: Protocol,
    /// What came of it.
    pub results: Results,
    /// The same completions under other graders, the primary one first.
    #[serde(default)]
    pub sensitivity: Vec<Mode>,
    /// Accuracy under other wordings of the instruction, where they were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wordings: Option<Wordings>,
    /// Other models on the same problems, the base model first.
    #[serde(default)]
    pub against: Vec<Against>,
    /// What to know before the numbers are believed.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// A few telling failures.
    #[serde(default)]
    pub failures: Vec<Sample>,
}

/// A benchmark's problems.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Data {
    /// The benchmark.
    pub benchmark: String,
    /// Where the records came from: a Hub dataset with its splits, or a file.
    pub source: String,
    /// Problems asked.
    pub items: usize,
    /// Problems of the published set.
    pub published_items: Option<usize>,
    /// [`crate::benchmark::sha256`] of the problems asked.
    pub sha256: String,
    /// Licence and remarks.
    pub note: String,
    /// Overlap with the training file, when it was checked.
    pub contamination: Option<Contamination>,
}

/// How problems were asked.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Protocol {
    /// `chat` or `base`.
    pub form: String,
    /// The first problem's prompt as the model got it.
    pub rendered: String,
    /// Its first tokens, as text with ids.
    pub first_tokens: Vec<Token>,
    /// Its last tokens.
    pub last_tokens: Vec<Token>,
    /// Worked examples in front.
    pub shots: usize,
    /// System prompt, where one was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// Length in tokens that the prompts told, where they told one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub told: Option<usize>,
    /// Sampler settings by their name in the configuration.
    pub sampling: BTreeMap<String, Value>,
    /// Limit on generated tokens.
    pub max_tokens: usize,
    /// Texts that end a completion, beside the model's own end.
    pub stop: Vec<String>,
    /// The grader's name.
    pub grader: String,
    /// The grader's version and settings.
    pub grader_settings: String,
}

/// One token of a prompt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// Its text.
    pub text: String,
}

/// Another model on the same problems.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Against {
    /// Short name (`base`).
    pub label: String,
    /// Its results.
    pub results: Results,
    /// Its completions under other graders.
    #[serde(default)]
    pub sensitivity: Vec<Mode>,
    /// This report's model compared with it: positive when this report's is better.
    pub comparison: Comparison,
    /// How often this report's model beats it, by verdict and where a judge was asked by judge.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub win_rates: Vec<WinRate>,
    /// What of the asking differs, each as `temperature 1, not 0`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub differences: Vec<String>,
}

/// Another model's results on the same problems, for [`Entry::against`].
#[derive(Debug, Clone, PartialEq)]
pub struct Other {
    /// Short name (`base`).
    pub label: String,
    /// Its results.
    pub results: Results,
    /// Its completions under other graders.
    pub sensitivity: Vec<Mode>,
    /// What [`super::Asked::differences`] says of how the two were asked.
    pub differences: Vec<String>,
}

/// A quantity over training steps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Curve {
    /// What it is (`reward`, `accuracy`, `entropy`, `length`).
    pub name: String,
    /// Its unit, empty for none.
    #[serde(default)]
    pub unit: String,
    /// Title of the figure that it shares with the curves of the same title; `None` has one of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub figure: Option<String>,
    /// Its points by rising step.
    pub points: Vec<Point>,
}

/// One point of a curve.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Point {
    /// Training step.
    pub step: f64,
    /// Value.
    pub value: f64,
    /// Lower end of its interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lower: Option<f64>,
    /// Upper end of its interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upper: Option<f64>,
}

impl Point {
    /// A point without interval.
    pub fn new(step: f64, value: f64) -> Self {
        Self { step, value, lower: None, upper: None }
    }
}
