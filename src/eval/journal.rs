//! The journal of an evaluation: every completion as it ends, so that a stopped evaluation goes on where it was.
//!
//! A JSON object a line. The first says how completions were made; if it is not that of the evaluation at hand, the
//! journal is begun anew, and [`Journal::loss`] says beforehand what that throws away. The others hold a completion each, with a hash of the prompt it follows. A last line that
//! a kill cut short is dropped.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use candlewick_algorithms::batch::Finish;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::data::split;

/// One completion as it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// The problem.
    pub item: String,
    /// Which of its samples.
    pub index: usize,
    /// Hash of the prompt's tokens.
    pub prompt: u64,
    /// Tokens of the completion.
    pub ids: Vec<u32>,
    /// Sum of their log-probs in nats.
    pub logp: f64,
    /// How it ended.
    pub finish: Finish,
    /// Seconds of work up to here, earlier sittings included.
    pub seconds: f64,
}

/// Hash of a prompt's tokens, by which a kept completion is known to follow it.
pub fn prompt_hash(ids: &[u32]) -> u64 {
    split::hash(&ids.iter().map(|id| format!("{id},")).collect::<String>())
}

/// An open journal, or none.
pub struct Journal {
    file: Option<File>,
    path: PathBuf,
    done: HashMap<(String, usize, u64), Line>,
    /// Seconds of work before this sitting.
    pub before: f64,
}

impl Journal {
    /// A journal that keeps nothing.
    pub fn none() -> Self {
        Self { file: None, path: PathBuf::new(), done: HashMap::new(), before: 0.0 }
    }

    /// What the journal at `path` holds, without opening it for writing; nothing if it was made under another `key`.
    pub fn read(path: &Path, key: &Value) -> Self {
        Self::parse(path, key).0
    }

    /// What would be thrown away by an evaluation under `key`: the number of completions, and what differs.
    pub fn loss(path: &Path, key: &Value) -> Option<(usize, String)> {
        let text = std::fs::read(path).ok()?;
        let mut lines = text.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n"));
        let found: Value = serde_json::from_slice(lines.next()?).ok()?;
        let completions = lines.count();
        (completions > 0 && found != *key).then(|| (completions, differences(key, &found)))
    }

    /// The journal and how many of the file's bytes are good.
    fn parse(path: &Path, key: &Value) -> (Self, usize) {
        let text = std::fs::read(path).unwrap_or_default();
        let mut journal = Self { path: path.to_owned(), ..Self::none() };
        let mut valid = 0;
        for (at, line) in text.split_inclusive(|byte| *byte == b'\n').enumerate() {
            let is_whole = line.ends_with(b"\n");
            if at == 0 {
                let found: Option<Value> = serde_json::from_slice(line).ok().filter(|_| is_whole);
                if found.as_ref() != Some(key) {
                    break;
                }
            } else {
                let Some(line) = serde_json::from_slice::<Line>(line).ok().filter(|_| is_whole) else { break };
                journal.before = journal.before.max(line.seconds);
                journal.done.insert((line.item.clone(), line.index, line.prompt), line);
            }
            valid += line.len();
        }
        (journal, valid)
    }

    /// Opens the journal at `path`, taking over what it holds if it was made under the same `key`.
    pub fn open(path: &Path, key: &Value) -> Result<Self> {
        if let Some((completions, differences)) = Self::loss(path, key) {
            tracing::warn!("{} is begun anew without its {completions} completions: {differences}", path.display());
        }
        let (mut journal, valid) = Self::parse(path, key);
        let open = || -> std::io::Result<File> {
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder)?;
            }
            let mut file = OpenOptions::new().create(true).write(true).truncate(false).open(path)?;
            file.set_len(valid as u64)?;
            std::io::Seek::seek(&mut file, std::io::SeekFrom::End(0))?;
            if valid == 0 {
                file.write_all((serde_json::to_string(key)? + "\n").as_bytes())?;
            }
            Ok(file)
        };
        journal.file = Some(open().with_context(|| format!("{} cannot be written", path.display()))?);
        Ok(journal)
    }

    /// A completion that is kept already.
    pub fn get(&self, item: &str, index: usize, prompt: u64) -> Option<&Line> {
        self.done.get(&(item.to_owned(), index, prompt))
    }

    /// Keeps a completion.
    pub fn put(&mut self, line: &Line) -> Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let text = serde_json::to_string(line)? + "\n";
        file.write_all(text.as_bytes()).with_context(|| format!("{} cannot be written", self.path.display()))
    }

    /// Removes the file once what it held stands in a report.
    pub fn remove(path: &Path) {
        // One that cannot be removed is read again, or begun anew, by the next evaluation there.
        let _ = std::fs::remove_file(path);
    }
}

/// What differs between two keys, as `temperature 1, not 0`; hashes of models are not spelt out.
fn differences(key: &Value, found: &Value) -> String {
    let (Some(key), Some(found)) = (key.as_object(), found.as_object()) else { return "another form".to_owned() };
    let differs = |name: &&String| key.get(*name) != found.get(*name);
    let tell = |name: &String| {
        let value = |of: &serde_json::Map<String, Value>| of.get(name).map_or("none".to_owned(), Value::to_string);
        match name.as_str() {
            "model" => "another model".to_owned(),
            _ => format!("{name} {}, not {}", value(key), value(found)),
        }
    };
    let others = found.keys().filter(|name| !key.contains_key(*name));
    key.keys().chain(others).filter(differs).map(tell).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn line(index: usize) -> Line {
        let logp = -1.0 / 3.0 - index as f64;
        Line { item: "a".into(), index, prompt: 7, ids: vec![1, 2], logp, finish: Finish::Eos, seconds: 2.5 }
    }

    #[test]
    fn what_was_kept_comes_back_exactly_and_a_torn_line_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("work/j.jsonl");
        let mut journal = Journal::open(&path, &json!({"seed": 1})).unwrap();
        journal.put(&line(0)).unwrap();
        journal.put(&line(1)).unwrap();
        drop(journal);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 9]).unwrap();
        let mut journal = Journal::open(&path, &json!({"seed": 1})).unwrap();
        assert_eq!(journal.get("a", 0, 7), Some(&line(0)));
        assert_eq!((journal.get("a", 1, 7), journal.get("a", 0, 8), journal.before), (None, None, 2.5));
        journal.put(&line(1)).unwrap();
        drop(journal);
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
        assert_eq!(Journal::read(&path, &json!({"seed": 1})).get("a", 1, 7), Some(&line(1)));
        assert_eq!(Journal::loss(&path, &json!({"seed": 1})), None);
        let other = json!({"seed": 2, "stop": ["a"]});
        assert_eq!(Journal::loss(&path, &other), Some((2, "seed 2, not 1; stop [\"a\"], not none".to_owned())));
        assert_eq!(Journal::open(&path, &other).unwrap().get("a", 0, 7), None);
        assert_eq!(Journal::loss(&path, &json!({"seed": 1})), None, "an empty journal is no loss");
    }
}
