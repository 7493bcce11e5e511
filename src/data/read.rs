//! Rows of a data file: JSONL, a JSON array, parquet. Streamed, each with the place it stands at.
//!
//! What it leaves out: the meaning of the fields ([`super::columns`]).

use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Map, Value as Json};

/// Where a row stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: PathBuf,
    /// The line of a JSONL file, or the row of an array or a parquet file; from 1.
    pub number: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}", self.file.display(), self.number)
    }
}

/// A row and its place.
pub type PlacedRow = (Place, Map<String, Json>);

/// The rows of a file, by its ending: `.parquet`, else JSON, which is an array if it begins with `[` and
/// one object a line otherwise. Blank lines and a byte order mark are skipped.
///
/// Errors: a file that cannot be opened, is empty, or whose format cannot be told. The iterator's
/// errors name file and line; it ends after the first.
pub fn rows(file: &Path) -> Result<Box<dyn Iterator<Item = Result<PlacedRow>>>> {
    open(file).map(Opened::into_rows)
}

/// A data file.
pub(super) enum Opened {
    /// JSONL, which can be entered at any line.
    Lines(Lines),
    /// A format that is read from its beginning.
    Rows(Box<dyn Iterator<Item = Result<PlacedRow>>>),
}

impl Opened {
    pub(super) fn into_rows(self) -> Box<dyn Iterator<Item = Result<PlacedRow>>> {
        match self {
            Self::Lines(lines) => Box::new(lines),
            Self::Rows(rows) => rows,
        }
    }
}

/// Opens a file as [`rows`] does.
pub(super) fn open(file: &Path) -> Result<Opened> {
    if file.extension().is_some_and(|ending| ending == "parquet") {
        return parquet_rows(file).map(Opened::Rows);
    }
    let opened = File::open(file).with_context(|| format!("cannot open `{}`", file.display()))?;
    let mut reader = BufReader::with_capacity(1 << 16, opened);
    let cannot_read = || format!("cannot read `{}`", file.display());
    let mut offset = 0;
    if reader.fill_buf().with_context(cannot_read)?.starts_with(b"\xEF\xBB\xBF") {
        reader.consume(3);
        offset = 3;
    }
    // Leading blank lines are counted, so that line numbers stay right.
    let mut line = 1;
    loop {
        let Some(&byte) = reader.fill_buf().with_context(cannot_read)?.first() else {
            bail!("`{}` is empty", file.display());
        };
        match byte {
            b'[' => return array_rows(file, reader).map(Opened::Rows),
            b'\n' => line += 1,
            b' ' | b'\t' | b'\r' => {}
            _ => break,
        }
        reader.consume(1);
        offset += 1;
    }
    Ok(Opened::Lines(Lines {
        file: file.to_path_buf(),
        reader,
        offset,
        number: line,
        buffer: Vec::new(),
        failed: false,
    }))
}

/// The lines of a JSONL file that are not blank.
pub(super) struct Lines {
    file: PathBuf,
    reader: BufReader<File>,
    /// Where the next line begins.
    offset: u64,
    /// The number of the next line.
    number: usize,
    buffer: Vec<u8>,
    failed: bool,
}

/// A line as it stands in its file.
pub(super) struct Line<'a> {
    /// Where it begins, in bytes.
    pub(super) offset: u64,
    /// Its number, from 1.
    pub(super) number: usize,
    /// Its bytes, line feed included.
    pub(super) bytes: &'a [u8],
}

impl Lines {
    /// The next line that is not blank.
    pub(super) fn next_line(&mut self) -> Result<Option<Line<'_>>> {
        loop {
            self.buffer.clear();
            let (offset, number) = (self.offset, self.number);
            let read = self.reader.read_until(b'\n', &mut self.buffer);
            let read = read.with_context(|| format!("{}:{number}: cannot read", self.file.display()))?;
            self.offset += read as u64;
            self.number += 1;
            if read == 0 {
                return Ok(None);
            }
            if !self.buffer.trim_ascii().is_empty() {
                return Ok(Some(Line { offset, number, bytes: &self.buffer }));
            }
        }
    }
}

impl Iterator for Lines {
    type Item = Result<PlacedRow>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let file = self.file.clone();
        let row = match self.next_line() {
            Ok(None) => return None,
            Ok(Some(line)) => {
                let place = Place { file, number: line.number };
                parse_object(line.bytes).map_err(|cause| anyhow!("{place}: {cause}")).map(|row| (place, row))
            }
            Err(error) => Err(error),
        };
        self.failed = row.is_err();
        Some(row)
    }
}

/// The fields of a line; the error says what it is instead.
pub(super) fn parse_object(line: &[u8]) -> Result<Map<String, Json>, String> {
    match serde_json::from_slice(line) {
        Ok(Json::Object(row)) => Ok(row),
        Ok(other) => Err(format!("not a JSON object but {}", kind(&other))),
        Err(error) => {
            let text = error.to_string();
            // serde_json counts lines within the one line it was given.
            let cause = text.split(" at line ").next().unwrap_or(&text);
            Err(format!("not valid JSON: {cause} (column {})", error.column()))
        }
    }
}

fn array_rows(file: &Path, mut reader: BufReader<File>) -> Result<Box<dyn Iterator<Item = Result<PlacedRow>>>> {
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).with_context(|| format!("cannot read `{}`", file.display()))?;
    let items: Vec<Json> =
        serde_json::from_slice(&bytes).with_context(|| format!("`{}` is not valid JSON", file.display()))?;
    if items.is_empty() {
        bail!("`{}` is empty", file.display());
    }
    let file = file.to_path_buf();
    Ok(Box::new(items.into_iter().enumerate().map(move |(at, item)| {
        let place = Place { file: file.clone(), number: at + 1 };
        match item {
            Json::Object(row) => Ok((place, row)),
            other => Err(anyhow!("{place}: not a JSON object but {}", kind(&other))),
        }
    })))
}

#[cfg(not(feature = "parquet"))]
fn parquet_rows(file: &Path) -> Result<Box<dyn Iterator<Item = Result<PlacedRow>>>> {
    bail!("`{}` is a parquet file and this build lacks the feature `parquet`", file.display())
}

#[cfg(feature = "parquet")]
fn parquet_rows(file: &Path) -> Result<Box<dyn Iterator<Item = Result<PlacedRow>>>> {
    use parquet::file::reader::{FileReader, SerializedFileReader};

    let opened = File::open(file).with_context(|| format!("cannot open `{}`", file.display()))?;
    let reader = SerializedFileReader::new(opened)
        .map_err(|error| anyhow!("`{}` is not a parquet file: {error}", file.display()))?;
    let metadata = reader.metadata().file_metadata();
    if metadata.num_rows() == 0 {
        bail!("`{}` is empty", file.display());
    }
    let schema = readable_columns(metadata.schema(), file)?;
    let file = file.to_path_buf();
    let rows = parquet::record::reader::RowIter::from_file_into(Box::new(reader))
        .project(Some(schema))
        .map_err(|error| anyhow!("cannot read `{}`: {error}", file.display()))?;
    Ok(Box::new(rows.enumerate().map(move |(at, row)| {
        let place = Place { file: file.clone(), number: at + 1 };
        match row.map(|row| row.to_json_value()) {
            Ok(Json::Object(row)) => Ok((place, row)),
            Ok(other) => Err(anyhow!("{place}: not an object but {}", kind(&other))),
            Err(error) => Err(anyhow!("{place}: {error}")),
        }
    })))
}

/// The schema without the columns that parquet's row reader cannot turn into values (intervals,
/// enumerations of raw bytes and the like); it would panic on them, and no prompt is among them.
#[cfg(feature = "parquet")]
fn readable_columns(schema: &parquet::schema::types::Type, file: &Path) -> Result<parquet::schema::types::Type> {
    use parquet::schema::types::Type;

    let kept: Vec<_> = schema.get_fields().iter().filter(|field| is_readable(field)).cloned().collect();
    if kept.is_empty() {
        bail!("`{}` has no column that can be read", file.display());
    }
    Type::group_type_builder(schema.name())
        .with_fields(kept)
        .build()
        .map_err(|error| anyhow!("cannot read `{}`: {error}", file.display()))
}

#[cfg(feature = "parquet")]
fn is_readable(column: &parquet::schema::types::Type) -> bool {
    use parquet::basic::{ConvertedType as Converted, Type as Physical};

    if column.is_group() {
        return column.get_fields().iter().all(|field| is_readable(field));
    }
    let converted = column.get_basic_info().converted_type();
    match column.get_physical_type() {
        Physical::BOOLEAN | Physical::INT96 | Physical::FLOAT | Physical::DOUBLE => true,
        Physical::INT32 => matches!(
            converted,
            Converted::NONE
                | Converted::INT_8
                | Converted::INT_16
                | Converted::INT_32
                | Converted::UINT_8
                | Converted::UINT_16
                | Converted::UINT_32
                | Converted::DATE
                | Converted::TIME_MILLIS
                | Converted::DECIMAL
        ),
        Physical::INT64 => matches!(
            converted,
            Converted::NONE
                | Converted::INT_64
                | Converted::UINT_64
                | Converted::TIME_MICROS
                | Converted::TIMESTAMP_MILLIS
                | Converted::TIMESTAMP_MICROS
                | Converted::DECIMAL
        ),
        Physical::BYTE_ARRAY => matches!(
            converted,
            Converted::NONE
                | Converted::UTF8
                | Converted::ENUM
                | Converted::JSON
                | Converted::BSON
                | Converted::DECIMAL
        ),
        Physical::FIXED_LEN_BYTE_ARRAY => matches!(converted, Converted::NONE | Converted::DECIMAL),
    }
}

/// A value's kind, for messages.
pub(super) fn kind(value: &Json) -> &'static str {
    match value {
        Json::Null => "null",
        Json::Bool(_) => "a boolean",
        Json::Number(_) => "a number",
        Json::String(_) => "a string",
        Json::Array(_) => "a list",
        Json::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests;
