//! A place to run programs that nobody has read: the `code` reward's sandbox.
//!
//! How much the kernel lets us do is found by trying, and named by [`Level`]. Each run gets fresh
//! folders, an empty environment, resource limits that are set before the program starts, a filter of
//! system calls, and, at [`Level::Isolated`], process, network, IPC and mount namespaces of its own:
//! it sees its interpreter read-only, a small memory file system, and nothing else. When a run ends,
//! for whatever reason, every process of it is killed and reaped. Linux only; elsewhere nothing runs.
//! What it leaves out: cgroups (limits are per process, save the number of processes and the memory
//! file system) and protection from faults of the kernel itself.

use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[cfg(target_os = "linux")]
mod child;
#[cfg(target_os = "linux")]
mod filter;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
mod room;
#[cfg(all(test, target_os = "linux"))]
mod tests;

/// Programs that may run at one time.
pub const AT_ONCE: usize = 64;

/// How far a program is kept from the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Resource limits, a process group and an empty environment; it can use the network, read the
    /// user's files and signal the user's processes.
    Limits,
    /// And a filter of system calls: no network, no signals to others, no leaving its process group.
    /// It can still read, and where the user may also write, the user's files.
    Filtered,
    /// And namespaces of its own: no network, no other processes, no files but its own and its
    /// interpreter's, which it cannot change.
    Isolated,
}

impl std::fmt::Display for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Level::Limits => "limits",
            Level::Filtered => "filtered",
            Level::Isolated => "isolated",
        })
    }
}

/// What one run may use.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Wall-clock time.
    pub wall: Duration,
    /// CPU time of each process, in whole seconds.
    pub cpu_seconds: u64,
    /// Address space of each process, in bytes.
    pub memory_bytes: u64,
    /// Size of each file it writes, in bytes.
    pub file_bytes: u64,
    /// All its files together, in bytes; holds at [`Level::Isolated`].
    pub folder_bytes: u64,
    /// Processes and threads at one time.
    pub processes: u64,
    /// Open files of each process.
    pub open_files: u64,
    /// Standard output, and standard error, in bytes each; more ends the run.
    pub output_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            wall: Duration::from_secs(5),
            cpu_seconds: 6,
            memory_bytes: 1 << 30,
            file_bytes: 16 << 20,
            folder_bytes: 64 << 20,
            processes: 32,
            open_files: 64,
            output_bytes: 64 << 10,
        }
    }
}

/// A program to run.
#[derive(Debug, Clone, Default)]
pub struct Job {
    /// The program and its arguments; `{folder}` stands for the folder that holds `files`.
    pub command: Vec<String>,
    /// Names and contents of files that the program may read and not change.
    pub files: Vec<(String, Vec<u8>)>,
    /// Standard input.
    pub input: Vec<u8>,
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this status.
    Status(i32),
    /// By this signal.
    Signal(i32),
    /// At the end of its time.
    TimedOut,
    /// After too much output.
    TooMuchOutput,
}

/// What came of a run.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// How it ended.
    pub exit: Exit,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
    /// Wall-clock time.
    pub wall: Duration,
    /// Whether it spent much of its time waiting for a processor, so that a timeout tells little.
    pub was_starved: bool,
}

/// Why a program could not be run. What a program does wrong is an [`Outcome`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SandboxError(pub String);

/// What was found out about this machine.
#[derive(Debug, Clone)]
pub struct Findings {
    /// The highest level that works.
    pub level: Level,
    /// Why each higher level does not, a line each.
    pub refused: Vec<String>,
}

/// Runs programs at one level.
#[derive(Debug, Clone)]
pub struct Sandbox {
    /// Its level.
    pub level: Level,
    /// What each run may use.
    pub limits: Limits,
    /// Folders and files of the machine that programs may read, besides the system's.
    pub readable: Vec<PathBuf>,
}

impl Sandbox {
    /// Finds the highest level that this machine allows, by trying to break out of each.
    ///
    /// Errors: not even a process with resource limits can be started.
    pub fn probe() -> Result<Findings, SandboxError> {
        #[cfg(target_os = "linux")]
        return linux::probe();
        #[cfg(not(target_os = "linux"))]
        Err(SandboxError("running code needs Linux: its sandbox is made of Linux's own parts".into()))
    }

    /// Runs a program to its end, blocking this thread.
    ///
    /// Errors: the program cannot be started; the message names the step.
    pub fn run(&self, job: &Job) -> Result<Outcome, SandboxError> {
        #[cfg(target_os = "linux")]
        return linux::run(self, job);
        #[cfg(not(target_os = "linux"))]
        Err(SandboxError(format!("`{:?}` was not run: running code needs Linux", job.command)))
    }
}

/// The file that a program's name stands for: itself if it holds a slash, else the first in `PATH`.
pub fn find_program(name: &str) -> Option<PathBuf> {
    if name.contains('/') {
        return std::fs::canonicalize(name).ok();
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        std::fs::metadata(file).is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
    }
    #[cfg(not(unix))]
    file.is_file()
}

/// Kills the process group that a child leads, before the child is reaped.
pub(crate) fn kill_group(child: &std::process::Child) {
    #[cfg(target_os = "linux")]
    linux::kill_group(child.id());
    #[cfg(not(target_os = "linux"))]
    let _ = child;
}
