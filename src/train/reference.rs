//! The reference's log-probs of given rows: computed once, kept on disk, taken up again on resume.
//!
//! The file's name is a key over everything they depend on: weights, number type, adapter, and every row's
//! tokens (which template and data make). Another model or other data have another file.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor};
use candlewick_algorithms::batch::Role;
use candlewick_algorithms::preference::{Answers, Pair, share};
use candlewick_algorithms::{Batch, Needs, Table};
use sha2::{Digest, Sha256};

use super::account::progress;
use super::checkpoint::checksum;
use super::examples::Examples;
use super::policy::{Policy, Reference};
use crate::model::weights::{self, Weights};

/// Rows scored at a time.
const GROUPS: usize = 32;

/// Log-probs of every learnt token of every row, group by group.
#[derive(Debug)]
pub struct ReferenceLogps {
    /// Where the values of a group's rows begin, and how many there are.
    spans: Vec<Vec<(usize, usize)>>,
    values: Vec<f64>,
    /// The file.
    pub path: PathBuf,
    /// Whether they were there already.
    pub was_cached: bool,
}

impl ReferenceLogps {
    /// Reads them from `folder`, or computes and writes them. Where no reference is loaded it is the policy as it is now,
    /// which must be the one that training starts from.
    pub fn obtain(policy: &Policy, examples: &Examples, folder: &Path) -> Result<Self> {
        let key = key(policy, examples)?;
        let path = folder.join(format!("{key}.safetensors"));
        let spans = spans(examples)?;
        let count = spans.iter().flatten().map(|s| s.1).sum();
        if path.exists() {
            match read(&path, count) {
                Ok(values) => return Ok(Self { spans, values, path, was_cached: true }),
                Err(error) => tracing::warn!("the reference's log-probs are computed anew: {error:#}"),
            }
        }
        let values = compute(policy, examples, &spans, count)?;
        std::fs::create_dir_all(folder).with_context(|| format!("{} cannot be made", folder.display()))?;
        let partial = path.with_extension("partial");
        weights::write_file(&partial, &[("ref_logp".to_owned(), Tensor::new(values.as_slice(), &Device::Cpu)?)])?;
        std::fs::rename(&partial, &path).with_context(|| format!("{} cannot be written", path.display()))?;
        Ok(Self { spans, values, path, was_cached: false })
    }

    /// The column `ref_logp` of a batch made of these groups, 0 at masked entries.
    pub fn fill(&self, batch: &mut Batch, chosen: &[usize]) {
        let mut column = Table::zeros(batch.rows(), batch.width());
        let spans = chosen.iter().flat_map(|&g| &self.spans[g]);
        for (row, &(start, len)) in spans.enumerate() {
            let mut values = self.values[start..start + len].iter();
            let cells = column.row_mut(row).iter_mut().zip(batch.mask.row(row));
            cells.filter(|(_, m)| **m != 0.0).for_each(|(cell, _)| *cell = *values.next().expect("one value a token"));
        }
        batch.ref_logp = Some(column);
    }
}

impl ReferenceLogps {
    /// Notes in the audit how many pairs the reference ranks rightly, and how many are hard at this beta.
    pub fn audit(&self, examples: &mut Examples, beta: f64) -> Result<()> {
        let pairs: Vec<Pair> = (0..examples.len())
            .filter(|&g| examples.groups[g].rows[0].role == Role::Chosen)
            .map(|g| {
                let answers = self.answers(g);
                Pair { policy: answers, reference: answers }
            })
            .collect();
        if !pairs.is_empty() {
            examples.audit.reference_accuracy = Some(share(&pairs, |p| p.reference.is_ranked()));
            examples.audit.hard = Some(pairs.iter().filter(|p| p.is_hard(beta)).count());
        }
        Ok(())
    }

    /// Sums and lengths of a pair's two answers.
    pub fn answers(&self, group: usize) -> Answers {
        let of = |row: usize| {
            let (start, len) = self.spans[group][row];
            (self.values[start..start + len].iter().sum(), len as f64)
        };
        let ((chosen, chosen_tokens), (rejected, rejected_tokens)) = (of(0), of(1));
        Answers { chosen, rejected, chosen_tokens, rejected_tokens }
    }
}

/// Where each row's values stand: as many as it has learnt tokens.
fn spans(examples: &Examples) -> Result<Vec<Vec<(usize, usize)>>> {
    let mut start = 0;
    let mut all = Vec::with_capacity(examples.len());
    for group in 0..examples.len() {
        let batch = examples.batch(&[group])?;
        let spans = (0..batch.rows()).map(|row| {
            let len = batch.row_tokens(row) as usize;
            start += len;
            (start - len, len)
        });
        all.push(spans.collect());
    }
    Ok(all)
}

fn compute(policy: &Policy, examples: &Examples, spans: &[Vec<(usize, usize)>], count: usize) -> Result<Vec<f64>> {
    let mut values = vec![0.0; count];
    let bar = progress(examples.len() as u64, "reference log-probs");
    let all: Vec<usize> = (0..examples.len()).collect();
    for chosen in all.chunks(GROUPS) {
        let mut batch = examples.batch(chosen)?;
        let is_policy = matches!(policy.reference, Reference::Nothing);
        policy.score(&mut batch, &Needs { old_logp: is_policy, ref_logp: !is_policy, ..Needs::default() }, 1.0)?;
        let scored = batch.ref_logp.as_ref().or(batch.old_logp.as_ref());
        let scored = scored.context("the scoring pass gives the column")?;
        for (row, &(start, len)) in chosen.iter().flat_map(|&g| &spans[g]).enumerate() {
            let learnt = scored.row(row).iter().zip(batch.mask.row(row)).filter(|(_, m)| **m != 0.0).map(|(v, _)| *v);
            values[start..start + len].iter_mut().zip(learnt).for_each(|(to, from)| *to = from);
        }
        bar.inc(chosen.len() as u64);
    }
    bar.finish_and_clear();
    ensure!(values.iter().all(|v| v.is_finite()), "the reference gives log-probs that are not finite");
    Ok(values)
}

fn read(path: &Path, count: usize) -> Result<Vec<f64>> {
    let file = Weights::open_files(&[path.to_owned()])?;
    let values: Vec<f64> = file.load("ref_logp", &[count], DType::F64, &Device::Cpu)?.to_vec1()?;
    ensure!(values.iter().all(|v| v.is_finite()), "{} holds values that are not finite", path.display());
    Ok(values)
}

/// SHA-256 over the reference's weights, its number type and every row's tokens.
fn key(policy: &Policy, examples: &Examples) -> Result<String> {
    let mut hash = Sha256::new();
    hash.update(b"reference log-probs 1");
    match &policy.reference {
        // Fresh adapters start as nothing on their base. Random weights are told apart by their seed.
        Reference::Nothing | Reference::AdapterOff => {
            hash.update(format!("{:?}", policy.random_init));
            hash_weights(&mut hash, &policy.folder)?;
        }
        Reference::Model(_) => hash_weights(&mut hash, policy.reference_folder.as_ref().unwrap_or(&policy.folder))?,
        #[cfg(feature = "gguf")]
        Reference::Quantised(_) => {
            let file = policy.reference_folder.as_ref().context("a quantised reference is a file")?;
            hash.update(checksum(file)?);
        }
    }
    hash.update(format!("{:?}", policy.decoder.params.dtype()));
    for group in &examples.groups {
        for row in &group.rows {
            hash.update((row.tokens.ids.len() as u64).to_le_bytes());
            row.tokens.ids.iter().for_each(|id| hash.update(id.to_le_bytes()));
            row.tokens.learnt.iter().for_each(|&learnt| hash.update([u8::from(learnt)]));
        }
    }
    Ok(hash.finalize().iter().take(16).map(|b| format!("{b:02x}")).collect())
}

/// Everything in a checkpoint's folder that decides what the model computes.
fn hash_weights(hash: &mut Sha256, folder: &Path) -> Result<()> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("{} cannot be read", folder.display()))?;
    let mut names: Vec<_> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
    names.sort();
    for path in names {
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let counts = name.ends_with(".safetensors") && name != "optimizer.safetensors"
            || matches!(name.as_str(), "config.json" | "adapter_config.json");
        if counts {
            hash.update(name.as_bytes());
            hash.update(checksum(&path)?);
        }
    }
    Ok(())
}
