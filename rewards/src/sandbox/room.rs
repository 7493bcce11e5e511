//! What a run is given: folders, and where the superuser starts it, a user of its own.
#![allow(unsafe_code)]

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use super::linux::failed;
use super::{AT_ONCE, Level, SandboxError};

/// The range of users that the superuser hands out, one to a run.
const FIRST_USER: u32 = 61_184;
const USERS: usize = AT_ONCE;

/// The folders of one run; removed when it is dropped. Links in them are removed, never followed.
pub(super) struct Room {
    pub(super) folder: tempfile::TempDir,
    pub(super) user: Option<User>,
    pub(super) code: PathBuf,
    pub(super) code_inside: PathBuf,
    pub(super) work_inside: PathBuf,
}

impl Room {
    pub(super) fn new(level: Level, files: &[(String, Vec<u8>)]) -> Result<Self, SandboxError> {
        let made = |result: io::Result<()>| result.map_err(|error| failed("making the run's folders", &error));
        let folder = tempfile::Builder::new()
            .prefix("candlewick-code-")
            .tempdir()
            .map_err(|error| failed("making the run's folders", &error))?;
        // Another user may have to pass through.
        made(fs::set_permissions(folder.path(), Permissions::from_mode(0o711)))?;
        let (code, work) = (folder.path().join("code"), folder.path().join("work"));
        for (path, mode) in [(&code, 0o755), (&work, 0o777), (&folder.path().join("root"), 0o755)] {
            made(fs::create_dir(path))?;
            made(fs::set_permissions(path, Permissions::from_mode(mode)))?;
        }
        for (name, content) in files {
            let path = code.join(Path::new(name).file_name().unwrap_or_else(|| OsStr::new("file")));
            made(fs::write(&path, content))?;
            made(fs::set_permissions(&path, Permissions::from_mode(0o444)))?;
        }
        let (code_inside, work_inside) = match level {
            Level::Isolated => (PathBuf::from("/code"), PathBuf::from("/tmp")),
            _ => (code.clone(), work),
        };
        Ok(Self { folder, user: User::take()?, code, code_inside, work_inside })
    }
}

/// A user of its own for a run that the superuser starts, so that limits and permissions bind it.
pub(super) struct User(usize);

static TAKEN: Mutex<[bool; USERS]> = Mutex::new([false; USERS]);

impl User {
    /// `None` where we cannot become another user. Errors: all are taken.
    fn take() -> Result<Option<Self>, SandboxError> {
        if !can_become_others() {
            return Ok(None);
        }
        let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        let free = taken.iter().position(|is_taken| !is_taken);
        let free = free.ok_or_else(|| SandboxError(format!("more than {USERS} programs at one time")))?;
        taken[free] = true;
        Ok(Some(User(free)))
    }

    /// Its number; programs of the same machine start at different places of the range.
    pub(super) fn id(&self) -> u32 {
        let block = std::process::id() % 60;
        FIRST_USER + block * USERS as u32 + self.0 as u32
    }
}

impl Drop for User {
    fn drop(&mut self) {
        TAKEN.lock().unwrap_or_else(PoisonError::into_inner)[self.0] = false;
    }
}

/// Whether we are a superuser who may become any user of the range; in a container one often may not.
fn can_become_others() -> bool {
    static CAN: OnceLock<bool> = OnceLock::new();
    *CAN.get_or_init(|| {
        let read = |name: &str| fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
        let is_mapped = |map: String| {
            map.lines().any(|line| {
                let numbers: Vec<u64> = line.split_whitespace().filter_map(|n| n.parse().ok()).collect();
                let (first, last) = (u64::from(FIRST_USER), u64::from(FIRST_USER) + 60 * USERS as u64);
                matches!(numbers[..], [start, _, count] if start <= first && last <= start + count)
            })
        };
        let capabilities =
            read("status").lines().find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok());
        // Bits 6 and 7 are those for changing group and user.
        // SAFETY: no preconditions.
        let is_root = unsafe { libc::geteuid() } == 0;
        is_root
            && capabilities.is_some_and(|c| c & 0xC0 == 0xC0)
            && is_mapped(read("uid_map"))
            && is_mapped(read("gid_map"))
    })
}
