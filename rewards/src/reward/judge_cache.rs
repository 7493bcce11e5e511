//! Scores that were asked for before: in memory, and in a file that survives the run.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::future::Future;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::OnceCell;

/// Part of every key: requests of another version of this program are other requests.
const VERSION: u64 = 1;

/// A cache of scores by the hash of what was asked. The file holds hashes and scores, no text.
pub(super) struct Cache {
    path: Option<PathBuf>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// A cell a key, so that equal requests at one time are one.
    cells: HashMap<String, Arc<OnceCell<f64>>>,
    file: Option<File>,
    is_open: bool,
}

impl Cache {
    pub(super) fn new(path: Option<PathBuf>) -> Self {
        Cache { path, state: Mutex::new(State::default()) }
    }

    pub(super) fn key(asked: &Value) -> String {
        let hash = Sha256::digest(json!([VERSION, asked]).to_string());
        hash.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Reads the file, once; how many scores it holds.
    ///
    /// A line that was cut off is passed over. Errors: a file that cannot be read or written.
    pub(super) fn open(&self) -> Result<usize, String> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(path) = self.path.as_ref().filter(|_| !state.is_open) else { return Ok(state.cells.len()) };
        let failed = |error: std::io::Error| format!("the cache `{}` cannot be used: {error}", path.display());
        state.is_open = true;
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        let text = match std::fs::read(path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(failed(error)),
        };
        for line in text.lines() {
            let Ok(entry) = serde_json::from_str::<Value>(line) else { continue };
            if let (Some(key), Some(score)) = (entry["key"].as_str(), entry["score"].as_f64()) {
                state.cells.insert(key.to_owned(), Arc::new(OnceCell::new_with(Some(score))));
            }
        }
        let mut file = OpenOptions::new().create(true).append(true).open(path).map_err(failed)?;
        if !text.is_empty() && !text.ends_with('\n') {
            file.write_all(b"\n").map_err(failed)?;
        }
        state.file = Some(file);
        Ok(state.cells.len())
    }

    /// The score for a key, asked for if it is not known; and whether it was known.
    ///
    /// Failures are not kept. Errors: those of `ask`, and a file that cannot be used.
    pub(super) async fn get_or(
        &self,
        key: &str,
        ask: impl Future<Output = Result<f64, String>>,
    ) -> Result<(f64, bool), String> {
        self.open()?;
        let cell = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(state.cells.entry(key.to_owned()).or_default())
        };
        let mut was_asked = false;
        let score = *cell
            .get_or_try_init(|| {
                was_asked = true;
                ask
            })
            .await?;
        if was_asked {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(file) = &mut state.file {
                let line = format!("{}\n", json!({ "key": key, "score": score }));
                file.write_all(line.as_bytes()).map_err(|error| format!("the cache cannot be written: {error}"))?;
            }
        }
        Ok((score, !was_asked))
    }
}
