//! `candlewick completions`.

use std::io::Write;

use anyhow::Result;
use clap::CommandFactory;

/// Write completions for a shell.
///
/// For example: `candlewick completions bash > ~/.local/share/bash-completion/completions/candlewick`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Which shell.
    shell: clap_complete::Shell,
}

/// Writes the completions.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let mut text = Vec::new();
    clap_complete::generate(arguments.shell, &mut super::Arguments::command(), "candlewick", &mut text);
    std::io::stdout().write_all(&text)?;
    Ok(())
}
