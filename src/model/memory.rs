//! How much memory a run takes, before any weight is loaded.
//!
//! Peak = what stays (weights, gradients, moments) + the larger of what sampling and what an update
//! need, since they take turns. Bytes are counted from the shapes; the two factors that shapes do
//! not give are constants below, measured on SmolLM2-135M.

use crate::config::{BudgetConfig, Config, Kind, Switch};
use crate::model::spec::DecoderSpec;

/// Tokens in one forward and backward pass where the config names no number.
pub const MICRO_BATCH_TOKENS: usize = 1024;
/// Rows of the head that are computed at a time.
const HEAD_ROWS: usize = 256;
/// Prompt tokens assumed where the config sets no limit.
const PROMPT_TOKENS: usize = 128;
/// Program, tokenizer, data and allocator slack, in bytes.
const PROGRAM_BYTES: u64 = 96 << 20;
/// Gradients of a block's activations that live beside the activations in the backward pass.
const BACKWARD_SHARE: f64 = 1.35;

/// One use of memory.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// What it is.
    pub name: &'static str,
    /// Its size.
    pub bytes: u64,
    /// How it comes about.
    pub why: String,
}

/// What a run takes at its peak.
#[derive(Debug, Clone, PartialEq)]
pub struct Estimate {
    /// What stays throughout.
    pub standing: Vec<Part>,
    /// What sampling adds.
    pub sampling: Vec<Part>,
    /// What an update adds.
    pub updating: Vec<Part>,
    /// Whether blocks are recomputed in the backward pass.
    pub is_checkpointed: bool,
    /// Most tokens in one forward and backward pass.
    pub micro_batch_tokens: usize,
}

impl Estimate {
    /// Bytes at the peak.
    pub fn peak(&self) -> u64 {
        let sum = |parts: &[Part]| parts.iter().map(|p| p.bytes).sum::<u64>();
        sum(&self.standing) + sum(&self.sampling).max(sum(&self.updating))
    }
}

/// The memory that a run takes; where `gradient_checkpointing` is left to the program, it is on
/// exactly if the run would not fit into `available` bytes without it.
pub fn estimate(config: &Config, spec: &DecoderSpec, available: Option<u64>) -> Estimate {
    match config.model.gradient_checkpointing {
        Switch::On => estimate_with(config, spec, true),
        Switch::Off => estimate_with(config, spec, false),
        Switch::Auto => {
            let plain = estimate_with(config, spec, false);
            match available {
                Some(bytes) if plain.peak() > bytes => estimate_with(config, spec, true),
                _ => plain,
            }
        }
    }
}

fn estimate_with(config: &Config, spec: &DecoderSpec, is_checkpointed: bool) -> Estimate {
    let (row, rows) = rows(config, spec);
    let micro_batch_tokens =
        config.model.micro_batch_tokens.unwrap_or(MICRO_BATCH_TOKENS).max(row).min(row * rows.max(1));
    let sampling = match config.kind() {
        Kind::Online(_) => vec![cache(config, spec, rows, row)],
        Kind::Offline(_) => Vec::new(),
    };
    Estimate {
        standing: standing(config, spec),
        sampling,
        updating: updating(config, spec, micro_batch_tokens, row, is_checkpointed),
        is_checkpointed,
        micro_batch_tokens,
    }
}

/// Longest row in tokens, and rows of a step.
fn rows(config: &Config, spec: &DecoderSpec) -> (usize, usize) {
    match config.kind() {
        Kind::Online(online) => {
            let row = (prompt_tokens(config) + completion_tokens(online.budget)).min(spec.max_positions);
            let rollouts = online.budget.rollouts.build().map_or(1.0, |r| r.mean());
            let prompts = online.prompts.build().map_or(1, |p| p.per_step());
            (row, (prompts as f64 * rollouts).round() as usize)
        }
        // What the examples hold is not known yet: a row as long as a default completion's.
        Kind::Offline(offline) => (spec.max_positions.min(prompt_tokens(config) * 2), offline.train.batch_size),
    }
}

fn prompt_tokens(config: &Config) -> usize {
    config.data.max_prompt_tokens.unwrap_or(PROMPT_TOKENS)
}

fn completion_tokens(budget: &BudgetConfig) -> usize {
    budget.tokens.build().map_or(0, |t| t.largest())
}

/// Parameters that are trained.
fn trained(config: &Config, spec: &DecoderSpec) -> usize {
    let Some(lora) = &config.model.lora else { return spec.parameters() };
    let is_target = |name: &str| lora.targets.iter().any(|t| name.ends_with(&format!("{t}.weight")));
    spec.tensors()
        .iter()
        .filter(|(name, _)| is_target(name))
        .map(|(_, shape)| lora.rank * shape.iter().sum::<usize>())
        .sum()
}

fn standing(config: &Config, spec: &DecoderSpec) -> Vec<Part> {
    let (all, trained) = (spec.parameters() as u64, trained(config, spec) as u64);
    let bytes = config.model.dtype.bytes() as u64;
    let millions = |n: u64| format!("{:.1} M", n as f64 / 1e6);
    let adapters = if config.model.lora.is_some() { trained } else { 0 };
    let mut parts = vec![
        Part { name: "program", bytes: PROGRAM_BYTES, why: "code, tokenizer, data".into() },
        Part {
            name: "weights",
            bytes: (all + adapters) * bytes,
            why: format!("{} x {bytes} bytes", millions(all + adapters)),
        },
        Part { name: "gradients", bytes: trained * bytes.max(4), why: format!("{} trained", millions(trained)) },
        Part { name: "moments", bytes: trained * 8, why: "AdamW's two, f32".into() },
    ];
    if bytes < 4 {
        parts.push(Part { name: "master weights", bytes: trained * 4, why: "f32 beside bf16".into() });
    }
    if config.model.reference.is_some() {
        parts.push(Part { name: "reference", bytes: all * bytes, why: "a second model, frozen".into() });
    }
    parts
}

/// The KV cache of all rows of a step, each as long as it may get.
fn cache(config: &Config, spec: &DecoderSpec, rows: usize, row: usize) -> Part {
    let a_token = 2 * spec.layers * spec.kv_heads * spec.head_dim * config.model.dtype.bytes();
    let why = format!("{rows} rows x {row} tokens x {}", size(a_token as u64));
    Part { name: "key-value cache", bytes: (rows * row * a_token) as u64, why }
}

fn updating(config: &Config, spec: &DecoderSpec, tokens: usize, row: usize, is_checkpointed: bool) -> Vec<Part> {
    let bytes = config.model.dtype.bytes().max(4);
    // Kept for the backward pass of one block, in numbers a token: inputs of the two norms, of the
    // projections and of their outputs (C), queries and keys before and after rotation, gated layer (F),
    // attention weights (a row of them a head).
    let (c, f) = (spec.hidden_size, spec.intermediate_size);
    let (q, kv) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
    let block = 6 * c + 3 * q + 3 * kv + 3 * f + spec.heads * row / 2;
    let (kept, live) = if is_checkpointed { (spec.layers * c, block) } else { (spec.layers * block, block) };
    let activations = (tokens * bytes) as f64 * (kept as f64 + BACKWARD_SHARE * live as f64);
    let how = if is_checkpointed { "block inputs, one block made again at a time" } else { "all blocks" };
    let rows = HEAD_ROWS.min(tokens);
    let head = rows * spec.vocab_size * 4 * 2 + tokens * c * 4 * 2;
    vec![
        Part { name: "activations", bytes: activations as u64, why: format!("{tokens} tokens, {how}") },
        Part { name: "head", bytes: head as u64, why: format!("logits of {rows} tokens at a time") },
    ]
}

/// A number of bytes for people: `1.5 GiB`.
pub fn size(bytes: u64) -> String {
    let units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
    let unit = (0..units.len() - 1).find(|&u| bytes < 1 << (10 * (u + 1))).unwrap_or(units.len() - 1);
    match unit {
        0 => format!("{bytes} bytes"),
        _ => format!("{:.1} {}", bytes as f64 / (1_u64 << (10 * unit)) as f64, units[unit]),
    }
}

/// Memory of this machine in bytes, all of it and what is free for a new program; the container's
/// limit where it is lower. `None` where the system does not say.
pub fn machine() -> Option<(u64, u64)> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let field = |name: &str| {
        let line = info.lines().find(|l| l.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
    };
    let (total, free) = (field("MemTotal:")?, field("MemAvailable:")?);
    let number = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let Some(limit) = number("/sys/fs/cgroup/memory.max") else { return Some((total, free)) };
    let used = number("/sys/fs/cgroup/memory.current").unwrap_or(0);
    Some((total.min(limit), free.min(limit.saturating_sub(used))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_written_for_people() {
        assert_eq!(size(512), "512 bytes");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size(5 << 30), "5.0 GiB");
    }
}
