//! The run's folder, `<run.output>/<run.name>`, which belongs to one process at a time.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::config::{Config, Refusal};

/// Keys of [run] that change how long a run is, what it writes and where, and nothing that it learns.
const FREE: [&str; 8] =
    ["name", "output", "steps", "save_every", "keep_last", "keep_best", "log_samples", "tensorboard"];

/// An open run folder; the lock is released when it is dropped, or when its process ends in whatever way.
pub struct RunFolder {
    path: PathBuf,
    _lock: File,
}

impl RunFolder {
    /// Makes the folder of a new run, or opens that of a run to be resumed.
    ///
    /// Errors: a new run where one has been; nothing to resume, or another run; another process at work; a folder
    /// that cannot be written.
    pub fn open(config: &Config, resume: bool) -> Result<Self> {
        let path = config.run.folder();
        let (saved, has_run) = (path.join("config.toml"), path.join("metrics.jsonl").exists());
        if !resume && has_run {
            let fix = "go on with it by `--resume`, or choose another `run.name`";
            return Err(Refusal::command(format!("{} holds a run already: {fix}", path.display())).into());
        }
        if resume && !saved.exists() {
            let fix = "start it without `--resume`";
            return Err(Refusal::command(format!("{} holds no run to resume: {fix}", path.display())).into());
        }
        std::fs::create_dir_all(path.join("checkpoints")).with_context(|| {
            format!("the run's folder {} cannot be made: choose another `run.output`", path.display())
        })?;
        let lock = take_lock(&path)?;
        let folder = Self { path, _lock: lock };
        if resume {
            folder.check_same_run(config)?;
        }
        write_atomically(&saved, config.to_toml().as_bytes())?;
        Ok(folder)
    }

    /// A resumed run may be longer or log more; what it learns from and how may not change.
    fn check_same_run(&self, config: &Config) -> Result<()> {
        let path = self.path.join("config.toml");
        let text = std::fs::read_to_string(&path).with_context(|| format!("{} cannot be read", path.display()))?;
        let learnt = |text: &str| -> Result<Value> {
            let mut table: toml::Table = text.parse().with_context(|| format!("{} cannot be read", path.display()))?;
            table.remove("eval");
            if let Some(run) = table.get_mut("run").and_then(toml::Value::as_table_mut) {
                FREE.iter().for_each(|key| drop(run.remove(*key)));
            }
            Ok(serde_json::to_value(table)?)
        };
        let Some((key, old, new)) = first_difference(&learnt(&text)?, &learnt(&config.to_toml())?) else {
            return Ok(());
        };
        let message = format!(
            "`{key}` is {new} here and {old} in the run that is resumed ({}): a resumed run must be the same one",
            path.display()
        );
        Err(Refusal::key(key, message).into())
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file or folder inside.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

/// The first key, as a dotted path, at which two settings differ, with what each has there.
pub(super) fn first_difference(old: &Value, new: &Value) -> Option<(String, String, String)> {
    fn search(path: &str, old: Option<&Value>, new: Option<&Value>) -> Option<(String, String, String)> {
        if old == new {
            return None;
        }
        if let (Some(Value::Object(old)), Some(Value::Object(new))) = (old, new) {
            let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
            return old.keys().chain(new.keys()).find_map(|key| search(&below(key), old.get(key), new.get(key)));
        }
        let shown = |value: Option<&Value>| match value {
            None | Some(Value::Null) => "absent".to_owned(),
            Some(value) => format!("`{value}`"),
        };
        Some((path.to_owned(), shown(old), shown(new)))
    }
    search("", Some(old), Some(new))
}

/// Locks the folder for this process. The file stays behind; only a process that is alive holds a lock on it.
fn take_lock(path: &Path) -> Result<File> {
    let file = path.join(".lock");
    let cannot = || format!("{} cannot be written: choose another `run.output`", file.display());
    let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&file);
    let mut lock = open.with_context(cannot)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut owner = String::new();
            let _ = lock.read_to_string(&mut owner);
            let message = format!(
                "another process ({}) is at work in {}: wait for it or choose another `run.name`",
                owner.trim(),
                path.display()
            );
            return Err(Refusal::command(message).into());
        }
        // Some network folders know no locks.
        Err(TryLockError::Error(error)) => tracing::warn!("{} cannot be locked: {error}", path.display()),
    }
    lock.set_len(0)
        .and_then(|()| lock.rewind())
        .and_then(|()| write!(lock, "{}", std::process::id()))
        .with_context(cannot)?;
    Ok(lock)
}

/// Writes a file under a temporary name and renames it, so that it is whole or absent.
pub fn write_atomically(path: &Path, content: &[u8]) -> Result<()> {
    // Two programs that write one file do not write one temporary file.
    let mut partial = path.as_os_str().to_owned();
    partial.push(format!(".{}.partial", std::process::id()));
    let partial = PathBuf::from(partial);
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&partial)?;
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&partial, path)
    };
    write()
        .inspect_err(|_| drop(std::fs::remove_file(&partial)))
        .with_context(|| format!("{} cannot be written", path.display()))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A config whose run lies in `output`, with these changes.
    pub(in crate::train) fn config(output: &Path, sets: &[&str]) -> Config {
        let text =
            "[run]\nname = \"run\"\n[model]\npath = \"model\"\n[data]\ntrain = \"generated:sums\"\n[objective.sft]\n";
        let own = format!("run.output={}", output.display());
        let sets: Vec<String> = std::iter::once(own).chain(sets.iter().map(|s| (*s).to_owned())).collect();
        Config::parse("run.toml", text, &sets).unwrap().config
    }

    #[test]
    fn a_resumed_run_may_be_longer_but_not_another() {
        let folder = tempfile::tempdir().unwrap();
        drop(RunFolder::open(&config(folder.path(), &[]), false).unwrap());
        let resumed = |sets: &[&str]| RunFolder::open(&config(folder.path(), sets), true).err();
        assert!(resumed(&["run.steps=7", "run.save_every=3", "run.tensorboard=false", "eval.samples=1"]).is_none());
        for (set, expected) in [
            ("run.seed=1", "`run.seed` is `1` here and `0` in the run that is resumed"),
            ("optim.learning_rate=0.25", "`optim.learning_rate` is `0.25` here"),
            ("train.offline.epochs=9", "`train` is "),
        ] {
            let error = resumed(&[set]).unwrap();
            assert!(error.to_string().contains(expected), "{error}");
            assert!(error.is::<Refusal>());
        }
    }

    #[test]
    fn a_lock_is_held_by_a_process_and_never_by_a_file() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("run")).unwrap();
        // The number of a process that is alive and has nothing to do with it.
        std::fs::write(folder.path().join("run/.lock"), "1").unwrap();
        let held = RunFolder::open(&config(folder.path(), &[]), false).unwrap();
        let error = RunFolder::open(&config(folder.path(), &[]), false).err().unwrap();
        assert!(error.to_string().contains(&format!("another process ({})", std::process::id())), "{error}");
        drop(held);
        RunFolder::open(&config(folder.path(), &[]), false).unwrap();
    }
}
