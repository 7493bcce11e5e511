//! Rows of JSONL files by where they stand, read again each time they are asked for.
//!
//! A row takes 24 bytes of memory, however long it is, so that files larger than memory can be learnt from, in any
//! order. What it leaves out: formats that cannot be entered in the middle (JSON arrays, parquet), whose rows are held.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, anyhow, ensure};

use super::Example;
use super::columns::RowReader;
use super::read::{Lines, parse_object};

/// Rows in the order of their files.
#[derive(Clone, Debug)]
pub(super) struct Index {
    files: Vec<Arc<Indexed>>,
    reader: RowReader,
    entries: Vec<Entry>,
}

/// A file that stays open.
#[derive(Debug)]
struct Indexed {
    path: PathBuf,
    file: Mutex<File>,
    /// The number of its first row.
    first: u32,
}

/// Where a row stands.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// First byte in its file.
    offset: u64,
    /// Bytes of the line.
    bytes: u32,
    /// Number of the line, from 1.
    line: u32,
    /// Number of the row in its source, from 0.
    row: u32,
    /// What a file that was changed meanwhile would not give again.
    print: u32,
}

impl Index {
    /// No rows yet.
    pub(super) fn new(reader: RowReader) -> Self {
        Self { files: Vec::new(), reader, entries: Vec::new() }
    }

    /// Adds the rows of a file.
    ///
    /// Errors: a line that is no row, by its place.
    pub(super) fn add(&mut self, path: &Path, mut lines: Lines) -> Result<()> {
        let file = File::open(path).with_context(|| format!("cannot open `{}`", path.display()))?;
        let bar = super::progress(&file, path);
        let file = Indexed { path: path.to_owned(), file: Mutex::new(file), first: self.entries.len() as u32 };
        while let Some(line) = lines.next_line()? {
            let place = || format!("{}:{}", path.display(), line.number);
            let row = parse_object(line.bytes).map_err(|cause| anyhow!("{}: {cause}", place()))?;
            self.reader.read(row, self.entries.len()).with_context(place)?;
            let small = |n: usize| u32::try_from(n).with_context(|| format!("{}: a line or row beyond 2^32", place()));
            self.entries.push(Entry {
                offset: line.offset,
                bytes: small(line.bytes.len())?,
                line: small(line.number)?,
                row: small(self.entries.len())?,
                print: print(line.bytes),
            });
            bar.inc(line.bytes.len() as u64);
        }
        bar.finish_and_clear();
        self.files.push(Arc::new(file));
        Ok(())
    }

    /// The number of rows.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Keeps the rows whose flag is set.
    pub(super) fn retain(&mut self, keep: &[bool]) {
        let mut flags = keep.iter();
        self.entries.retain(|_| flags.next() == Some(&true));
        self.entries.shrink_to_fit();
    }

    /// Keeps the first rows.
    pub(super) fn truncate(&mut self, limit: usize) {
        self.entries.truncate(limit);
        self.entries.shrink_to_fit();
    }

    /// A row, read from its file.
    ///
    /// Errors: a file that cannot be read any more, or that is not what it was.
    pub(super) fn get(&self, at: usize) -> Result<Example> {
        let entry = self.entries[at];
        let file = &self.files[self.files.partition_point(|f| f.first <= entry.row) - 1];
        let place = || format!("{}:{}", file.path.display(), entry.line);
        let mut line = vec![0; entry.bytes as usize];
        let read = {
            // A reader that panicked left nothing behind but a position.
            let mut open = file.file.lock().unwrap_or_else(PoisonError::into_inner);
            open.seek(SeekFrom::Start(entry.offset)).and_then(|_| open.read_exact(&mut line))
        };
        let is_same = read.is_ok() && print(&line) == entry.print;
        ensure!(is_same, "{}: the file was changed while it is read: put it back, and go on by `--resume`", place());
        let row = parse_object(&line).map_err(|cause| anyhow!("{}: {cause}", place()))?;
        self.reader.read(row, entry.row as usize).with_context(place)
    }
}

/// 64-bit FNV-1a, folded.
fn print(bytes: &[u8]) -> u32 {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    (hash ^ (hash >> 32)) as u32
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::super::read::{Opened, open};
    use super::super::{DataConfig, Dataset, Split, Validation, load};
    use super::*;
    use crate::hub::Hub;

    fn index(files: &[PathBuf]) -> Index {
        let mut index = Index::new(RowReader::new(&DataConfig::default(), "set"));
        for file in files {
            let Opened::Lines(lines) = open(file).unwrap() else { panic!("JSONL is entered at lines") };
            index.add(file, lines).unwrap();
        }
        index
    }

    #[test]
    fn rows_are_read_in_any_order_from_several_files() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, content).unwrap();
            path
        };
        let files = [
            file("a.jsonl", b"\xEF\xBB\xBF\n{\"text\": \"\xC3\xA4\"}\r\n\n  \n{\"text\": \"b\"}\n"),
            file("b.jsonl", b"{\"text\": \"c\"}\n{\"text\": \"d\", \"id\": 9}"),
        ];
        let mut rows = index(&files);
        let text = |rows: &Index, at: usize| match rows.get(at).unwrap() {
            Example::Text { id, text } => format!("{id} {text}"),
            other => panic!("{other:?}"),
        };
        let all = |rows: &Index| (0..rows.len()).rev().map(|at| text(rows, at)).collect::<Vec<_>>();
        assert_eq!(all(&rows), ["9 d", "set:2 c", "set:1 b", "set:0 ä"]);
        rows.retain(&[false, true, true, true]);
        rows.truncate(2);
        assert_eq!(all(&rows), ["set:2 c", "set:1 b"]);
    }

    #[test]
    fn a_file_that_is_changed_meanwhile_is_told() {
        let mut file = tempfile::Builder::new().suffix(".jsonl").tempfile().unwrap();
        file.write_all(b"{\"text\": \"a\"}\n{\"text\": \"b\"}\n").unwrap();
        let rows = index(&[file.path().to_owned()]);
        std::fs::write(file.path(), "{\"text\": \"a\"}\n{\"text\": \"x\"}\n").unwrap();
        assert!(rows.get(0).is_ok());
        let error = rows.get(1).unwrap_err().to_string();
        assert!(error.contains(":2: the file was changed while it is read"), "{error}");
        std::fs::write(file.path(), "").unwrap();
        assert!(rows.get(0).unwrap_err().to_string().contains(":1: the file was changed"));
    }

    /// What is held and what is indexed are the same rows on the same sides of a split.
    #[test]
    fn an_array_of_the_same_rows_is_split_alike() {
        let folder = tempfile::tempdir().unwrap();
        let rows: Vec<String> = (0..200).map(|at| format!("{{\"text\": \"row {}\"}}", at % 150)).collect();
        let (lines, array) = (folder.path().join("set.jsonl"), folder.path().join("set.json"));
        std::fs::write(&lines, rows.join("\n")).unwrap();
        std::fs::write(&array, format!("[{}]", rows.join(","))).unwrap();
        let texts = |set: &Dataset| -> Vec<String> {
            let text = |e: Result<std::borrow::Cow<'_, Example>>| match &*e.unwrap() {
                Example::Text { text, .. } => text.clone(),
                other => panic!("{other:?}"),
            };
            set.iter().map(text).collect()
        };
        for validation in [Validation::Share(0.3), Validation::Count(17)] {
            for split in [Split::Train, Split::Validation] {
                let of = |path: &Path| {
                    let train = Some(path.display().to_string());
                    let config = DataConfig { train, validation: Some(validation.clone()), ..DataConfig::default() };
                    load(&config, &Hub { offline: true, ..Hub::default() }, split).unwrap()
                };
                let (indexed, held) = (of(&lines), of(&array));
                assert!(indexed.is_indexed() && !held.is_indexed());
                assert_eq!(texts(&indexed), texts(&held));
            }
        }
    }
}
