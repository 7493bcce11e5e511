//! The reference's log-probs of given rows: computed once, kept on disk, taken up again on resume.
//!
//! The file's name is a key over everything they depend on: weights, number type, adapter, and every row's
//! tokens (which template and data make). Another model or other data have another file ([`super::kept`]).

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use candlewick_algorithms::batch::Role;
use candlewick_algorithms::preference::{Answers, Pair, share};
use candlewick_algorithms::{Batch, Needs, Table};
use safetensors::Dtype;
use sha2::{Digest, Sha256};

use super::checkpoint::{checksum, hex};
use super::examples::Examples;
use super::kept::{Column, Kept, Layout, Plan};
use super::policy::{Policy, ReferenceSource};
use crate::config::Config;

/// Who is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judge {
    /// The reference that the config names; loaded only if its answers are not on disk.
    Reference,
    /// The policy as it is now, which must be the one that training starts from.
    Policy,
}

/// Log-probs of every learnt token of every row, group by group.
#[derive(Debug)]
pub struct ReferenceLogps {
    layout: Layout,
    values: Vec<f64>,
    /// The file.
    pub path: PathBuf,
    /// Whether they were there already.
    pub was_cached: bool,
}

impl ReferenceLogps {
    /// Reads them from `<run.output>/reference`, or computes and writes them.
    pub fn obtain(policy: &mut Policy, config: &Config, judge: Judge, examples: &Examples) -> Result<Self> {
        let (key, layout) = key(policy, config, judge, "reference log-probs 2", examples)?;
        let column = Column { name: "ref_logp", dtype: Dtype::F64, width: 1 };
        let folder = config.run.output.join("reference");
        let plan = Plan { folder: &folder, key, columns: vec![column], what: "the reference's log-probs" };
        let is_policy = judge == Judge::Policy;
        let needs = Needs { old_logp: is_policy, ref_logp: !is_policy, ..Needs::default() };
        let kept = Kept::obtain(&plan, layout, examples, |batch| {
            if !is_policy {
                policy.attach_reference(config)?;
            }
            policy.score(batch, &needs, 1.0)?;
            let scored = batch.ref_logp.as_ref().or(batch.old_logp.as_ref());
            let scored = scored.context("the scoring pass gives the column")?;
            let mut bytes = Vec::new();
            for (value, _) in scored.data().iter().zip(batch.mask.data()).filter(|(_, m)| **m != 0.0) {
                ensure!(value.is_finite(), "the reference gives log-probs that are not finite");
                bytes.extend(value.to_le_bytes());
            }
            Ok(vec![bytes])
        })?;
        let bytes = kept.column("ref_logp")?.unwrap_or_default();
        let values = bytes.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().expect("8 bytes"))).collect();
        Ok(Self { values, path: kept.path.clone(), was_cached: kept.was_there, layout: kept.layout })
    }

    /// The column `ref_logp` of a batch made of these groups, 0 at masked entries.
    pub fn fill(&self, batch: &mut Batch, chosen: &[usize]) {
        let mut column = Table::zeros(batch.rows(), batch.width());
        let spans = chosen.iter().flat_map(|&g| self.layout.spans(g));
        for (row, span) in spans.enumerate() {
            let mut values = self.values[span].iter();
            let cells = column.row_mut(row).iter_mut().zip(batch.mask.row(row));
            cells.filter(|(_, m)| **m != 0.0).for_each(|(cell, _)| *cell = *values.next().expect("one value a token"));
        }
        batch.ref_logp = Some(column);
    }
}

impl ReferenceLogps {
    /// Notes in the audit how many pairs the reference ranks rightly, and how many are hard at this beta.
    pub fn audit(&self, examples: &mut Examples, beta: f64) -> Result<()> {
        let pairs: Vec<Pair> = (examples.held().iter().enumerate())
            .filter(|(_, group)| group.rows[0].role == Role::Chosen)
            .map(|(g, _)| {
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
        let mut rows = self.layout.spans(group).map(|span| (self.values[span.clone()].iter().sum(), span.len() as f64));
        let mut next = || rows.next().unwrap_or_default();
        let ((chosen, chosen_tokens), (rejected, rejected_tokens)) = (next(), next());
        Answers { chosen, rejected, chosen_tokens, rejected_tokens }
    }
}

/// SHA-256 over who is asked, its number type, what it is asked (`question`) and every row's tokens; and where the answer
/// for each token stands.
pub(super) fn key(
    policy: &Policy,
    config: &Config,
    judge: Judge,
    question: &str,
    examples: &Examples,
) -> Result<(String, Layout)> {
    let mut hash = Sha256::new();
    hash.update(question);
    let source = match judge {
        Judge::Reference => policy.reference_source(config)?,
        Judge::Policy => ReferenceSource::Base,
    };
    match source {
        // Fresh adapters start as nothing on their base. Random weights are told apart by their seed.
        ReferenceSource::Base => {
            hash.update(format!("{:?}", policy.random_init));
            hash_weights(&mut hash, &policy.folder)?;
        }
        ReferenceSource::Folder(folder) => hash_weights(&mut hash, &folder)?,
        ReferenceSource::Quantised(file) => hash.update(checksum(&file)?),
    }
    hash.update(format!("{:?}", policy.decoder.params.dtype()));
    let layout = Layout::survey(examples, &mut hash)?;
    Ok((hex(&hash.finalize()[..16]), layout))
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
