//! The run's folder, `<run.output>/<run.name>`, which belongs to one process at a time.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::config::Config;

/// An open run folder; the lock is released when it is dropped.
pub struct RunFolder {
    path: PathBuf,
    lock: PathBuf,
}

impl RunFolder {
    /// Makes the folder of a new run, or opens that of a run to be resumed.
    ///
    /// Errors: a new run where one has been; another process at work; a folder that cannot be written.
    pub fn open(config: &Config, resume: bool) -> Result<Self> {
        let path = config.run.folder();
        let (saved, has_run) = (path.join("config.toml"), path.join("metrics.jsonl").exists());
        if !resume && has_run {
            bail!("{} holds a run already: go on with it by `--resume`, or choose another `run.name`", path.display());
        }
        if resume && !saved.exists() {
            bail!("{} holds no run to resume: start it without `--resume`", path.display());
        }
        std::fs::create_dir_all(path.join("checkpoints")).with_context(|| {
            format!("the run's folder {} cannot be made: choose another `run.output`", path.display())
        })?;
        let lock = take_lock(&path)?;
        let folder = Self { path, lock };
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
        let mut old: toml::Table = text.parse().with_context(|| format!("{} cannot be read", path.display()))?;
        let mut new: toml::Table = config.to_toml().parse().context("the config cannot be written as TOML")?;
        for table in [&mut old, &mut new] {
            table.remove("run");
            table.remove("eval");
        }
        if old != new {
            let changed: Vec<_> =
                new.keys().chain(old.keys()).filter(|k| old.get(*k) != new.get(*k)).map(|k| format!("[{k}]")).collect();
            bail!(
                "the config differs from that of the run in {}: a resumed run must be the same one",
                changed.first().cloned().unwrap_or_default()
            );
        }
        Ok(())
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

impl Drop for RunFolder {
    fn drop(&mut self) {
        // A lock left behind names a process that is gone, and is then taken over.
        let _ = std::fs::remove_file(&self.lock);
    }
}

fn take_lock(path: &Path) -> Result<PathBuf> {
    let lock = path.join(".lock");
    for _ in 0..2 {
        match OpenOptions::new().write(true).create_new(true).open(&lock) {
            Ok(mut file) => {
                write!(file, "{}", std::process::id())
                    .with_context(|| format!("{} cannot be written", lock.display()))?;
                return Ok(lock);
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let owner = std::fs::read_to_string(&lock).unwrap_or_default();
                let is_alive = owner.trim().parse::<u32>().is_ok_and(|pid| Path::new(&format!("/proc/{pid}")).exists());
                if is_alive {
                    bail!(
                        "another process ({}) is at work in {}: wait for it or choose another `run.name`",
                        owner.trim(),
                        path.display()
                    );
                }
                let _ = std::fs::remove_file(&lock);
            }
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("{} cannot be written: choose another `run.output`", path.display()));
            }
        }
    }
    bail!("{} cannot be locked: another process is starting there", path.display())
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
