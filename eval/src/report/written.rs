//! Writing a report into a folder, and reading one back.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Report, Summary, harness_results, harness_samples, html, markdown, summary};
use crate::sample::{Completion, Sample};
use crate::{Error, Result};

/// The files of a written report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The folder.
    pub folder: PathBuf,
    /// `report.html`, the one for people.
    pub html: PathBuf,
    /// `report.json`.
    pub json: PathBuf,
    /// Every file, in the order of writing.
    pub files: Vec<PathBuf>,
}

impl Report {
    /// Writes `report.json`, `report.md`, `report.html`, `summary.json`, `samples_<benchmark>.jsonl` and the
    /// harness's two forms under `lm_eval/` (where there is a benchmark) into `folder`, which is made if need be.
    ///
    /// `samples` holds one list for each benchmark, in the report's order; `summary` replaces the one the report
    /// gives, for a caller that counts the whole run. Each file appears whole or not at all.
    /// Errors: [`Error::File`] names the file; [`Error::NotComparable`] when the lists and benchmarks do not match.
    pub fn write(&self, folder: &Path, samples: &[Vec<Sample>], whole_run: Option<Summary>) -> Result<Written> {
        if samples.len() != self.benchmarks.len() {
            let message = format!("{} lists of samples for {} benchmarks", samples.len(), self.benchmarks.len());
            return Err(Error::NotComparable(message));
        }
        let mut files = Vec::new();
        let mut put = |name: String, text: String| -> Result<PathBuf> {
            let path = folder.join(name);
            write_whole(&path, &text)?;
            files.push(path.clone());
            Ok(path)
        };
        let summary = match whole_run {
            Some(summary) => summary,
            None => summary(self),
        };
        let json = put("report.json".into(), serde_json::to_string_pretty(self)? + "\n")?;
        put("report.md".into(), markdown(self))?;
        put("summary.json".into(), serde_json::to_string_pretty(&summary)? + "\n")?;
        for (entry, samples) in self.benchmarks.iter().zip(samples) {
            let lines = lines(samples)?;
            let name = file_name(&entry.data.benchmark);
            put(format!("samples_{name}.jsonl"), lines)?;
            put(format!("lm_eval/samples_{name}.jsonl"), harness_samples(entry, samples))?;
        }
        if !self.benchmarks.is_empty() {
            put("lm_eval/results.json".into(), serde_json::to_string_pretty(&harness_results(self))? + "\n")?;
        }
        let html = put("report.html".into(), html(self, samples)?)?;
        Ok(Written { folder: folder.to_owned(), html, json, files })
    }

    /// Writes the completions of the sets of open prompts, a list each in the report's order, as `samples_<name>.jsonl`.
    ///
    /// Errors: as [`Report::write`].
    pub fn write_open(&self, folder: &Path, completions: &[Vec<Completion>]) -> Result<()> {
        for (set, completions) in self.open.iter().zip(completions) {
            let path = folder.join(format!("samples_{}.jsonl", file_name(&set.data.benchmark)));
            write_whole(&path, &lines(completions)?)?;
        }
        Ok(())
    }

    /// The completions of a benchmark or a set of open prompts that were written beside the report at `path`, a folder or
    /// its `report.json`.
    ///
    /// Errors: [`Error::File`] for a file that is not there or cannot be read, [`Error::Sample`] for a line that is no
    /// completion.
    pub fn read_samples(path: &Path, benchmark: &str) -> Result<Vec<Completion>> {
        let folder = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new("")) };
        let path = folder.join(format!("samples_{}.jsonl", file_name(benchmark)));
        let text = fs::read_to_string(&path).map_err(|source| Error::File { path: path.clone(), source })?;
        let read = |(at, line): (usize, &str)| {
            serde_json::from_str(line).map_err(|source| Error::Sample { path: path.clone(), line: at + 1, source })
        };
        text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).map(read).collect()
    }

    /// Reads `report.json`, given itself or its folder.
    ///
    /// Errors: [`Error::File`], [`Error::Schema`], [`Error::Json`].
    pub fn read(path: &Path) -> Result<Self> {
        let path = if path.is_dir() { path.join("report.json") } else { path.to_owned() };
        let text = fs::read_to_string(&path).map_err(|source| Error::File { path: path.clone(), source })?;
        Self::from_json(&text)
    }
}

/// A JSON object a line.
fn lines<T: serde::Serialize>(rows: &[T]) -> Result<String> {
    let mut lines = String::new();
    for row in rows {
        lines.push_str(&serde_json::to_string(row)?);
        lines.push('\n');
    }
    Ok(lines)
}

/// A benchmark's name as part of a file's name: a generated task's may hold colons and slashes.
pub(super) fn file_name(benchmark: &str) -> String {
    let plain = |letter: char| {
        if letter.is_ascii_alphanumeric() || "-_.".contains(letter) { letter } else { '_' }
    };
    benchmark.chars().map(plain).collect()
}

/// Writes beside the file and renames, so that a reader sees the old text or the new.
pub(super) fn write_whole(path: &Path, text: &str) -> Result<()> {
    let error = |source| Error::File { path: path.to_owned(), source };
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(error)?;
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(".part");
    let done = fs::write(&beside, text).and_then(|()| fs::rename(&beside, path));
    if done.is_err() {
        // The partial file is of no use to anyone; that it cannot be removed changes nothing.
        let _ = fs::remove_file(&beside);
    }
    done.map_err(error)
}
