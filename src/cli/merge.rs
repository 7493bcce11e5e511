//! `candlewick merge`.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Result;

/// Add a LoRA adapter to the weights it was trained on, and save a full checkpoint.
///
/// The result is a Hugging Face folder that transformers and candlewick load as it is.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Folder with `adapter_config.json` and `adapter_model.safetensors`.
    adapter: PathBuf,
    /// Folder to write; it must not hold a checkpoint yet.
    output: PathBuf,
    /// The base checkpoint; the one that the adapter's config names if not given.
    #[arg(long)]
    base: Option<String>,
}

/// Writes the merged checkpoint.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    candlewick::model::lora::merge(&arguments.adapter, arguments.base.as_deref(), &arguments.output)?;
    Ok(writeln!(std::io::stdout(), "checkpoint  {}", arguments.output.display())?)
}
