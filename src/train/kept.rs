//! Numbers that a frozen model gives to every learnt token of given examples: computed once, kept on disk, taken up
//! again by resumed and by other runs.
//!
//! A file is safetensors with a tensor a column, [tokens,width]; tokens stand in the order of the data. Its name is
//! a key over everything that the numbers depend on, and its metadata hold the key and a SHA-256 of every column.
//! It appears by rename when it is complete; two runs that want the same one compute it once. What it leaves out:
//! what the numbers are ([`super::reference`], [`super::teacher`]).

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use candlewick_algorithms::Batch;
use safetensors::Dtype;
use serde_json::{Map, json};
use sha2::{Digest, Sha256};

use super::account::{progress, say};
use super::checkpoint::hex;
use super::examples::Examples;
use crate::model::weights::Weights;

/// Groups scored at a time.
const GROUPS: usize = 32;

/// All groups in order, a few at a time.
fn runs(groups: usize) -> impl Iterator<Item = Vec<usize>> {
    (0..groups).step_by(GROUPS).map(move |first| (first..(first + GROUPS).min(groups)).collect())
}

/// One tensor of a file.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Column {
    pub(super) name: &'static str,
    pub(super) dtype: Dtype,
    /// Numbers a token.
    pub(super) width: usize,
}

impl Column {
    /// Bytes a token.
    pub(super) fn bytes(&self) -> usize {
        self.width * self.dtype.bitsize() / 8
    }
}

/// Which file holds what.
pub(super) struct Plan<'a> {
    /// The folder of all files of this kind.
    pub(super) folder: &'a Path,
    /// See [`super::reference::key`].
    pub(super) key: String,
    pub(super) columns: Vec<Column>,
    /// For people.
    pub(super) what: &'a str,
}

/// Where the tokens of each row stand.
#[derive(Debug)]
pub(super) struct Layout {
    /// The first row of each group, and the number of all.
    rows: Vec<u32>,
    /// The first token of each row, and the number of all.
    tokens: Vec<u64>,
}

impl Layout {
    /// Counts the learnt tokens of every row, and takes all rows into `hash`.
    pub(super) fn survey(examples: &Examples, hash: &mut Sha256) -> Result<Self> {
        let (mut rows, mut tokens) = (vec![0], vec![0]);
        for chosen in runs(examples.len()) {
            for group in examples.groups(&chosen)? {
                for row in &group.rows {
                    hash.update((row.tokens.ids.len() as u64).to_le_bytes());
                    row.tokens.ids.iter().for_each(|id| hash.update(id.to_le_bytes()));
                    row.tokens.learnt.iter().for_each(|&learnt| hash.update([u8::from(learnt)]));
                    tokens.push(tokens[tokens.len() - 1] + row.learnt_tokens() as u64);
                }
                rows.push(tokens.len() as u32 - 1);
            }
        }
        Ok(Self { rows, tokens })
    }

    /// Tokens of all rows.
    pub(super) fn count(&self) -> usize {
        self.tokens[self.tokens.len() - 1] as usize
    }

    /// The tokens of each row of a group.
    pub(super) fn spans(&self, group: usize) -> impl Iterator<Item = Range<usize>> {
        let rows = self.rows[group] as usize..self.rows[group + 1] as usize;
        rows.map(|row| self.tokens[row] as usize..self.tokens[row + 1] as usize)
    }
}

/// A whole file, whose checksums hold.
#[derive(Debug)]
pub(super) struct Kept {
    file: Weights,
    columns: Vec<Column>,
    pub(super) layout: Layout,
    pub(super) path: PathBuf,
    /// Whether it was there already.
    pub(super) was_there: bool,
}

impl Kept {
    /// Takes the file up, or makes it. `score` gives the bytes of every column for the learnt tokens of a batch, in the
    /// order of its rows. A file that is damaged or of something else is told and made anew.
    pub(super) fn obtain(
        plan: &Plan<'_>,
        layout: Layout,
        examples: &Examples,
        score: impl FnMut(&mut Batch) -> Result<Vec<Vec<u8>>>,
    ) -> Result<Self> {
        let (what, folder) = (plan.what, plan.folder);
        let path = folder.join(format!("{}.safetensors", plan.key));
        std::fs::create_dir_all(folder).with_context(|| format!("{} cannot be made", folder.display()))?;
        let partial = path.with_extension("partial");
        let cannot = || format!("{} cannot be written", path.display());
        let file = loop {
            if path.exists() {
                match Self::open(plan, &path, layout.count()) {
                    Ok(file) => {
                        return Ok(Self { file, columns: plan.columns.clone(), layout, path, was_there: true });
                    }
                    Err(error) => tracing::warn!("{what} are computed anew: {error:#}"),
                }
                std::fs::remove_file(&path).with_context(cannot)?;
            }
            let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&partial);
            let file = open.with_context(cannot)?;
            if is_free(&file, what) {
                if !path.exists() {
                    break file;
                }
                // Whoever had it is through with it: look again.
                let _ = std::fs::remove_file(&partial);
            }
        };
        let made = write(plan, file, &layout, examples, score)
            .and_then(|()| std::fs::rename(&partial, &path).with_context(cannot));
        if made.is_err() {
            // The error that matters is the first one.
            let _ = std::fs::remove_file(&partial);
        }
        made?;
        let file = Self::open(plan, &path, layout.count())?;
        Ok(Self { file, columns: plan.columns.clone(), layout, path, was_there: false })
    }

    fn open(plan: &Plan<'_>, path: &Path, tokens: usize) -> Result<Weights> {
        let file = Weights::open_files(&[path.to_owned()])?;
        let is_ours = file.note("key")?.as_deref() == Some(plan.key.as_str());
        ensure!(is_ours, "{} is of another model, of other data or settings", path.display());
        for column in &plan.columns {
            let bytes = file.bytes(column.name, column.dtype, &[tokens, column.width])?;
            let is_whole = file.note(&format!("sha256.{}", column.name))? == Some(hex(&Sha256::digest(bytes)));
            ensure!(is_whole, "{} is damaged: the checksum of `{}` differs", path.display(), column.name);
        }
        Ok(file)
    }

    /// The bytes of a column, token after token; `None` if the file has none of this name.
    pub(super) fn column(&self, name: &str) -> Result<Option<&[u8]>> {
        let Some(column) = self.columns.iter().find(|c| c.name == name) else { return Ok(None) };
        self.file.bytes(name, column.dtype, &[self.layout.count(), column.width]).map(Some)
    }
}

/// Whether the unfinished file is this process's to write. Where another one is at work on it, waits and says no.
fn is_free(file: &File, what: &str) -> bool {
    let mut has_waited = false;
    loop {
        match file.try_lock() {
            Ok(()) => return !has_waited,
            Err(TryLockError::WouldBlock) if !has_waited => {
                say(&format!("another run computes {what}: waiting for it"));
                has_waited = true;
            }
            Err(TryLockError::WouldBlock) => {}
            // Some network folders know no locks.
            Err(TryLockError::Error(_)) => return true,
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Computes every column into a file, a few groups at a time.
fn write(
    plan: &Plan<'_>,
    mut file: File,
    layout: &Layout,
    examples: &Examples,
    mut score: impl FnMut(&mut Batch) -> Result<Vec<Vec<u8>>>,
) -> Result<()> {
    let mut hashes = vec![Sha256::new(); plan.columns.len()];
    let sums = |hashes: &[Sha256]| hashes.iter().map(|h| hex(&h.clone().finalize())).collect::<Vec<_>>();
    let head = header(plan, layout.count(), &sums(&hashes))?;
    file.set_len(0)?;
    file.write_all(&head)?;
    let mut ends = vec![head.len() as u64];
    for column in &plan.columns {
        ends.push(ends[ends.len() - 1] + (column.bytes() * layout.count()) as u64);
    }
    let bar = progress(examples.len() as u64, plan.what);
    for chosen in runs(examples.len()) {
        let mut batch = examples.batch(&chosen)?;
        let parts = score(&mut batch)?;
        let tokens: usize = chosen.iter().flat_map(|&g| layout.spans(g)).map(|span| span.len()).sum();
        for (c, part) in parts.iter().enumerate() {
            ensure!(part.len() == tokens * plan.columns[c].bytes(), "{}: one value a learnt token", plan.what);
            file.seek(SeekFrom::Start(ends[c]))?;
            file.write_all(part)?;
            ends[c] += part.len() as u64;
            hashes[c].update(part);
        }
        bar.inc(chosen.len() as u64);
    }
    bar.finish_and_clear();
    file.rewind()?;
    file.write_all(&header(plan, layout.count(), &sums(&hashes))?)?;
    file.sync_all()?;
    Ok(())
}

/// The head of a safetensors file; as long whatever the checksums are.
fn header(plan: &Plan<'_>, tokens: usize, sums: &[String]) -> Result<Vec<u8>> {
    let mut notes = Map::from_iter([("format".to_owned(), json!("pt")), ("key".to_owned(), json!(plan.key))]);
    let mut all = Map::new();
    let mut start = 0;
    for (column, sum) in plan.columns.iter().zip(sums) {
        notes.insert(format!("sha256.{}", column.name), json!(sum));
        let end = start + tokens * column.bytes();
        let shape = [tokens, column.width];
        let tensor = json!({"dtype": column.dtype, "shape": shape, "data_offsets": [start, end]});
        all.insert(column.name.to_owned(), tensor);
        start = end;
    }
    all.insert("__metadata__".to_owned(), notes.into());
    let mut text = serde_json::to_vec(&all)?;
    text.resize(text.len().next_multiple_of(8), b' ');
    Ok([&(text.len() as u64).to_le_bytes()[..], &text].concat())
}
