//! Checkpoints: folders that appear by rename when they are complete, with checksums.
//!
//! `<run>/checkpoints/<step>/` holds the Hugging Face files (loadable as they are),
//! `optimizer.safetensors`, `state.json`, and `checksums.json` over all of them.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::folder::{RunFolder, write_atomically};
use super::policy::Policy;
use crate::optim::AdamW;

/// What a resumed run needs besides weights and moments.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Training steps done.
    pub step: usize,
    /// Optimiser steps accepted.
    pub optimiser_steps: usize,
    /// Optimiser steps taken or dropped: where the learning-rate schedule stands.
    pub scheduled_steps: usize,
    /// Steps that the non-finite guard dropped.
    pub dropped_steps: usize,
    /// Optimiser steps that the spike rule left out.
    #[serde(default)]
    pub skipped_spikes: usize,
    /// Bytes of `metrics.jsonl` when the checkpoint was written; what follows is cut on resume.
    pub metrics_bytes: u64,
    /// Seconds of training so far.
    pub seconds: f64,
    /// Tokens sampled so far.
    pub sampled_tokens: u64,
    /// Tokens trained on so far.
    pub trained_tokens: u64,
    /// Step and accuracy of the best evaluation.
    pub best: Option<(usize, f64)>,
    /// Accuracy of every evaluation so far, by step.
    pub evaluations: Vec<(usize, f64)>,
    /// The same evaluations by benchmark, with their intervals.
    #[serde(default)]
    pub held_out: Vec<HeldOut>,
    /// What each stage remembers, by its name in the config.
    pub stages: BTreeMap<String, serde_json::Value>,
}

/// Accuracy on one benchmark after a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HeldOut {
    /// The step; 0 is the model before training.
    pub step: usize,
    /// The benchmark.
    pub benchmark: String,
    /// Accuracy.
    pub value: f64,
    /// Lower end of its 95 % interval.
    pub lower: f64,
    /// Upper end of its 95 % interval.
    pub upper: f64,
}

/// Writes a checkpoint; it is there in whole or not at all.
pub fn save(folder: &RunFolder, policy: &Policy, optimiser: &AdamW, state: &State) -> Result<PathBuf> {
    let checkpoints = folder.join("checkpoints");
    let target = checkpoints.join(state.step.to_string());
    let partial = checkpoints.join(format!(".partial-{}", state.step));
    if partial.exists() {
        std::fs::remove_dir_all(&partial).with_context(|| format!("{} cannot be removed", partial.display()))?;
    }
    std::fs::create_dir_all(&partial).with_context(|| format!("{} cannot be made", partial.display()))?;
    let write = || -> Result<()> {
        policy.save(&partial)?;
        policy.save_reference(&partial)?;
        optimiser.save(&partial.join("optimizer.safetensors"), &policy.decoder.params)?;
        write_atomically(&partial.join("state.json"), &serde_json::to_vec_pretty(state)?)?;
        let sums = checksums(&partial)?;
        write_atomically(&partial.join("checksums.json"), &serde_json::to_vec_pretty(&sums)?)?;
        if target.exists() {
            std::fs::remove_dir_all(&target)?;
        }
        Ok(std::fs::rename(&partial, &target)?)
    };
    if let Err(error) = write() {
        let _ = std::fs::remove_dir_all(&partial);
        return Err(error).with_context(|| format!("checkpoint {} cannot be written", target.display()));
    }
    Ok(target)
}

/// Removes checkpoints older than the newest `keep`, but never that of step `best`.
pub fn prune(folder: &RunFolder, keep: usize, best: Option<usize>) -> Result<()> {
    let steps = steps(&folder.join("checkpoints"))?;
    for step in steps.iter().rev().skip(keep).filter(|s| Some(**s) != best) {
        let path = folder.join("checkpoints").join(step.to_string());
        std::fs::remove_dir_all(&path).with_context(|| format!("{} cannot be removed", path.display()))?;
    }
    Ok(())
}

/// The newest checkpoint whose checksums hold; damaged ones are named in the log and passed over. `None` where none was
/// ever written.
///
/// Errors: checkpoints all of which are damaged; a run that began anew would write over its own metrics.
pub fn newest(folder: &RunFolder) -> Result<Option<(PathBuf, State)>> {
    let mut damaged = Vec::new();
    for step in steps(&folder.join("checkpoints"))?.into_iter().rev() {
        let path = folder.join("checkpoints").join(step.to_string());
        match verify(&path).and_then(|()| read_state(&path)) {
            Ok(state) => return Ok(Some((path, state))),
            Err(error) => {
                tracing::warn!("checkpoint {} is passed over: {error:#}", path.display());
                damaged.push(step.to_string());
            }
        }
    }
    ensure!(
        damaged.is_empty(),
        "every checkpoint in {} is damaged (steps {}): put a whole copy of one back, or begin anew under another `run.name`",
        folder.join("checkpoints").display(),
        damaged.join(", ")
    );
    Ok(None)
}

/// Steps that have a checkpoint, in order.
pub fn steps(checkpoints: &Path) -> Result<Vec<usize>> {
    let mut steps = Vec::new();
    let entries =
        std::fs::read_dir(checkpoints).with_context(|| format!("{} cannot be read", checkpoints.display()))?;
    for entry in entries {
        steps.extend(entry?.file_name().to_str().and_then(|name| name.parse::<usize>().ok()));
    }
    steps.sort_unstable();
    Ok(steps)
}

fn read_state(path: &Path) -> Result<State> {
    let path = path.join("state.json");
    let text = std::fs::read(&path).with_context(|| format!("{} cannot be read", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is not a checkpoint's state", path.display()))
}

/// Compares a checkpoint's files with its checksums.
pub fn verify(path: &Path) -> Result<()> {
    let file = path.join("checksums.json");
    let text = std::fs::read(&file).with_context(|| format!("{} cannot be read", file.display()))?;
    let expected: BTreeMap<String, String> =
        serde_json::from_slice(&text).with_context(|| format!("{} is damaged", file.display()))?;
    let found = checksums(path)?;
    for (name, sum) in &expected {
        match found.get(name) {
            None => bail!("{} is missing", path.join(name).display()),
            Some(other) => ensure!(other == sum, "{} is damaged: its checksum differs", path.join(name).display()),
        }
    }
    Ok(())
}

fn checksums(folder: &Path) -> Result<BTreeMap<String, String>> {
    let mut sums = BTreeMap::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type()?.is_file() && name != "checksums.json" {
            sums.insert(name, checksum(&entry.path())?);
        }
    }
    Ok(sums)
}

/// SHA-256 of a file, in hexadecimal.
pub fn checksum(path: &Path) -> Result<String> {
    let mut file = std::fs::File::open(path).with_context(|| format!("{} cannot be read", path.display()))?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        let n = file.read(&mut buffer).with_context(|| format!("{} cannot be read", path.display()))?;
        if n == 0 {
            return Ok(hex(&hash.finalize()));
        }
        hash.update(&buffer[..n]);
    }
}

/// Bytes in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::super::folder::tests::config;
    use super::*;

    #[test]
    fn no_checkpoint_is_a_beginning_and_damaged_ones_alone_are_an_error() {
        let output = tempfile::tempdir().unwrap();
        let folder = RunFolder::open(&config(output.path(), &[]), false).unwrap();
        assert!(newest(&folder).unwrap().is_none());
        for step in ["2", "10"] {
            std::fs::create_dir_all(folder.join("checkpoints").join(step)).unwrap();
        }
        let error = newest(&folder).unwrap_err().to_string();
        assert!(error.contains("is damaged (steps 10, 2)") && error.contains("`run.name`"), "{error}");
    }
}
