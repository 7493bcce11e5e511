//! `candlewick schema`.

use std::io::Write;

use anyhow::Result;

/// Writes the JSON schema of the config.
pub(crate) fn run() -> Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, candlewick::config::schema()).map_err(std::io::Error::from)?;
    writeln!(out)?;
    Ok(())
}
