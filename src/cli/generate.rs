//! `candlewick generate`.

use std::io::{IsTerminal, Read, Write};

use anyhow::{Context, Result};
use candlewick::config::{Device, DiscreteConfig, ModelConfig};

use super::Usage;

/// Let a checkpoint answer a prompt; the answer appears as it is made.
///
/// The prompt is the argument, or what standard input holds. With a chat template the prompt is
/// taken as a user's message, else as text to be continued.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// A folder with a checkpoint or an adapter, or the name of one on the Hub.
    model: String,
    /// The prompt.
    prompt: Option<String>,
    /// Continue the prompt as plain text, even if the model has a chat template.
    #[arg(long, conflicts_with_all = ["chat", "system"])]
    plain: bool,
    /// Talk: read one message a line and keep the conversation, until the input ends.
    #[arg(long, conflicts_with = "prompt")]
    chat: bool,
    /// System message of the conversation.
    #[arg(long)]
    system: Option<String>,
    /// Divisor of the logits; 0 takes the most likely token.
    #[arg(long, default_value_t = 1.0)]
    temperature: f64,
    /// Draw from the k most likely tokens only.
    #[arg(long)]
    top_k: Option<usize>,
    /// Draw from the smallest set of most likely tokens whose probabilities reach this sum.
    #[arg(long, default_value_t = 1.0)]
    top_p: f64,
    /// Leave out tokens less likely than this share of the most likely one.
    #[arg(long, default_value_t = 0.0)]
    min_p: f64,
    /// Most tokens of the answer.
    #[arg(long, default_value_t = 512)]
    limit: usize,
    /// Seed of the draws.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Branch, tag or commit on the Hub.
    #[arg(long)]
    revision: Option<String>,
    /// `auto`, `cpu`, `cuda` or `cuda:N`.
    #[arg(long, default_value_t = Device::Auto)]
    device: Device,
}
