//! Runs on Linux: folders, pipes, the list of steps, the wait and the clearing up.
#![allow(unsafe_code)]

use std::collections::BTreeSet;
use std::ffi::{CString, OsStr};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use libc::{c_int, pid_t};

use super::child::{self, Failed, Goal, Op};
use super::filter::{self, Strictness};
use super::room::Room;
use super::{Exit, Findings, Job, Level, Limits, Outcome, Sandbox, SandboxError};

/// What every program needs to find: libraries, interpreters, the loader's table.
const SYSTEM: &[&str] = &[
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/etc/alternatives",
    "/etc/ld.so.cache",
    "/nix/store",
    "/gnu/store",
];
const DEVICES: &[&str] = &["/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"];
const NAMESPACES: c_int =
    libc::CLONE_NEWPID | libc::CLONE_NEWNET | libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
/// The user inside a user namespace.
const NOBODY: u32 = 65_534;
/// A run that waited for a processor for this share of its time was starved.
const STARVED_SHARE: f64 = 0.25;

pub(super) fn probe() -> Result<Findings, SandboxError> {
    let mut refused = Vec::new();
    for level in [Level::Isolated, Level::Filtered, Level::Limits] {
        match attempt(level) {
            Ok(()) => return Ok(Findings { level, refused }),
            Err(why) => refused.push(format!("{level}: {why}")),
        }
    }
    Err(SandboxError(format!("no program can be run: {}", refused.join("; "))))
}

/// Tries a level: what it promises must hold when a process really tries.
fn attempt(level: Level) -> Result<(), SandboxError> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).map_err(|error| failed("listening on loopback", &error))?;
    let port = listener.local_addr().map_err(|error| failed("listening on loopback", &error))?.port();
    let room = Room::new(level, &[])?;
    let canary = room.folder.path().join("canary");
    fs::write(&canary, "canary").map_err(|error| failed("writing a canary file", &error))?;
    let parent = std::process::id() as pid_t;
    let goal = Goal::Attempts { port, canary: text(&canary), parent };
    let sandbox = Sandbox { level, limits: Limits::default(), readable: Vec::new() };
    let found = match sandbox.start(&room, &goal, &[])?.finish(Vec::new(), &sandbox.limits)?.exit {
        Exit::Status(found) => found,
        other => return Err(SandboxError(format!("the attempts to break out ended by {other:?}"))),
    };
    let promised = match level {
        Level::Isolated => child::REACHED_NETWORK | child::READ_CANARY | child::SIGNALLED_PARENT,
        Level::Filtered => child::REACHED_NETWORK | child::SIGNALLED_PARENT,
        Level::Limits => 0,
    };
    let broken = [
        (child::REACHED_NETWORK, "the network can be reached"),
        (child::READ_CANARY, "files of the machine can be read"),
        (child::SIGNALLED_PARENT, "other processes can be signalled"),
    ];
    match broken.iter().find(|(bit, _)| found & promised & bit != 0) {
        Some((_, what)) => Err(SandboxError((*what).into())),
        None => Ok(()),
    }
}

pub(super) fn run(sandbox: &Sandbox, job: &Job) -> Result<Outcome, SandboxError> {
    let room = Room::new(sandbox.level, &job.files)?;
    let mut command = job.command.iter().map(|part| part.replace("{folder}", &room.code_inside.display().to_string()));
    let name = command.next().ok_or_else(|| SandboxError("the command is empty".into()))?;
    let program = super::find_program(&name)
        .ok_or_else(|| SandboxError(format!("there is no program `{name}`: install it or give its path")))?;
    let arguments = [program.display().to_string()].into_iter().chain(command).map(text).collect();
    let environment =
        ["PATH=/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8", &format!("HOME={}", room.work_inside.display())];
    let environment = environment.into_iter().map(text).collect();
    // A link is followed out here, where it leads somewhere; the program still learns its own name.
    let file = fs::canonicalize(&program).map_err(|error| failed(&format!("`{name}`"), &error))?;
    let goal = Goal::Program { path: text(&file), arguments, environment };
    let readable: Vec<PathBuf> = sandbox.readable.iter().cloned().chain([file]).collect();
    sandbox.start(&room, &goal, &readable)?.finish(job.input.clone(), &sandbox.limits)
}

pub(super) fn failed(what: &str, error: &io::Error) -> SandboxError {
    SandboxError(format!("{what}: {error}"))
}

fn text(value: impl AsRef<OsStr>) -> CString {
    let bytes: Vec<u8> = value.as_ref().as_bytes().iter().copied().filter(|b| *b != 0).collect();
    CString::new(bytes).expect("zero bytes were left out")
}

/// A pipe: what is read from, what is written to.
fn pipe() -> Result<(OwnedFd, OwnedFd), SandboxError> {
    let mut ends = [0; 2];
    // SAFETY: `ends` holds two numbers; those that pipe2 writes belong to nobody else.
    unsafe {
        if libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) != 0 {
            return Err(failed("making a pipe", &io::Error::last_os_error()));
        }
        Ok((OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])))
    }
}

impl Sandbox {
    fn start(&self, room: &Room, goal: &Goal, readable: &[PathBuf]) -> Result<Running, SandboxError> {
        let (input_read, input) = pipe()?;
        let (output, output_write) = pipe()?;
        let (errors, errors_write) = pipe()?;
        let is_isolated = self.level == Level::Isolated;
        // SAFETY: no preconditions.
        let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
        let mut flags = 0;
        let mut ops = Vec::new();
        if is_isolated {
            flags = NAMESPACES;
            if room.user.is_none() {
                flags |= libc::CLONE_NEWUSER;
                ops.push(Op::Write(text("/proc/self/setgroups"), b"deny".to_vec()));
                ops.push(Op::Write(text("/proc/self/uid_map"), format!("{NOBODY} {uid} 1").into_bytes()));
                ops.push(Op::Write(text("/proc/self/gid_map"), format!("{NOBODY} {gid} 1").into_bytes()));
            }
            self.view(room, readable, &mut ops);
        } else {
            ops.push(Op::Enter(text(&room.work_inside)));
        }
        ops.push(Op::NewSession);
        for (end, standard) in [(&input_read, 0), (&output_write, 1), (&errors_write, 2)] {
            // Never one of the three themselves, which a parent without them might have been given.
            ops.push(Op::Redirect(above_standard(end)?, standard));
        }
        ops.push(Op::CloseRest);
        ops.extend(self.limits());
        ops.push(Op::DropCapabilities);
        if let Some(user) = &room.user {
            ops.push(Op::Become { uid: user.id(), gid: user.id() });
        }
        ops.push(Op::DieWithParent);
        ops.push(Op::NoNewPrivileges);
        let strictness = if is_isolated { Strictness::Inside } else { Strictness::Shared };
        match filter::program(strictness) {
            Some(program) if self.level >= Level::Filtered => ops.push(Op::Filter(program)),
            None if self.level == Level::Filtered => {
                return Err(SandboxError("there is no filter for this processor's system calls".into()));
            }
            _ => {}
        }
        let started = Instant::now();
        let pid = child::start(flags, &ops, goal).map_err(|error| explain(&error, &ops))?;
        Ok(Running { pid, started, input: Some(input), output: Some(output), errors: Some(errors) })
    }

    /// The limits, the number of processes last: it counts those of the same user.
    fn limits(&self) -> Vec<Op> {
        let limits = &self.limits;
        [
            (libc::RLIMIT_CPU, limits.cpu_seconds),
            (libc::RLIMIT_AS, limits.memory_bytes),
            (libc::RLIMIT_FSIZE, limits.file_bytes),
            (libc::RLIMIT_NOFILE, limits.open_files),
            (libc::RLIMIT_CORE, 0),
            (libc::RLIMIT_STACK, (64 << 20).min(limits.memory_bytes)),
            (libc::RLIMIT_NPROC, limits.processes),
        ]
        .map(|(resource, value)| Op::Limit(resource as c_int, value))
        .into()
    }

    /// A file system of its own: a small one in memory, with the system's folders shown read-only.
    fn view(&self, room: &Room, readable: &[PathBuf], ops: &mut Vec<Op>) {
        let root = room.folder.path().join("root");
        let at = |path: &Path| text(root.join(path.strip_prefix("/").unwrap_or(path)));
        let nothing = || text("");
        let none = || text("none");
        let private = libc::MS_REC | libc::MS_PRIVATE;
        ops.push(Op::Mount { source: none(), target: text("/"), kind: nothing(), flags: private, data: nothing() });
        ops.push(Op::Mount {
            source: none(),
            target: text(&root),
            kind: text("tmpfs"),
            flags: libc::MS_NOSUID,
            data: text(format!("size={},nr_inodes=16384,mode=755", self.limits.folder_bytes)),
        });
        let mut made = BTreeSet::new();
        let show = |path: &Path, is_read_only: bool, made: &mut BTreeSet<PathBuf>, ops: &mut Vec<Op>| {
            for above in path.ancestors().skip(1).collect::<Vec<_>>().into_iter().rev().skip(1) {
                if made.insert(above.to_owned()) {
                    ops.push(Op::Folder(at(above), 0o755));
                }
            }
            if !made.insert(path.to_owned()) {
                return;
            }
            ops.push(if path.is_dir() { Op::Folder(at(path), 0o755) } else { Op::File(at(path)) });
            ops.push(Op::Bind { source: text(path), target: at(path), is_read_only });
        };
        for path in SYSTEM.iter().map(Path::new) {
            match fs::read_link(path) {
                Ok(to) => ops.push(Op::Link { to: text(&to), at: at(path) }),
                Err(_) if path.exists() => show(path, true, &mut made, ops),
                Err(_) => {}
            }
        }
        let own: BTreeSet<PathBuf> = readable.iter().filter_map(|path| fs::canonicalize(path).ok()).collect();
        let is_shown = |path: &Path, roots: &BTreeSet<PathBuf>| path.ancestors().any(|above| roots.contains(above));
        let mut roots: BTreeSet<PathBuf> = SYSTEM.iter().filter_map(|path| fs::canonicalize(path).ok()).collect();
        for path in own {
            if !is_shown(&path, &roots) {
                show(&path, true, &mut made, ops);
                roots.insert(path);
            }
        }
        DEVICES.iter().map(Path::new).filter(|path| path.exists()).for_each(|path| show(path, false, &mut made, ops));
        ops.push(Op::Folder(at(Path::new("/code")), 0o755));
        ops.push(Op::Bind { source: text(&room.code), target: at(Path::new("/code")), is_read_only: true });
        ops.push(Op::Folder(at(Path::new("/tmp")), 0o777));
        ops.push(Op::Link { to: text("/tmp"), at: at(Path::new("/dev/shm")) });
        ops.push(Op::Folder(at(Path::new("/proc")), 0o555));
        // Containers that hide parts of it do not let it be mounted anew; few programs miss it.
        ops.push(Op::Try(Box::new(Op::Mount {
            source: text("proc"),
            target: at(Path::new("/proc")),
            kind: text("proc"),
            flags: libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC,
            data: nothing(),
        })));
        ops.push(Op::Root(text(&root)));
        ops.push(Op::Enter(text("/tmp")));
    }
}

/// A descriptor above the standard three: itself, or a copy of it.
fn above_standard(end: &OwnedFd) -> Result<RawFd, SandboxError> {
    let fd = end.as_raw_fd();
    if fd > 2 {
        return Ok(fd);
    }
    Err(SandboxError(
        "standard input, output or error of this process is closed: open them, on /dev/null if need be".into(),
    ))
}

/// What step failed, and what is behind it as a rule.
fn explain(failed: &Failed, ops: &[Op]) -> SandboxError {
    let error = &failed.error;
    let step = match ops.get(failed.step) {
        None if failed.step == usize::MAX => "new namespaces are refused".into(),
        None => "the program cannot be executed".into(),
        Some(Op::Write(..)) => "the user namespace cannot be set up".into(),
        Some(Op::Mount { target, .. } | Op::Bind { target, .. }) => {
            format!("{} cannot be mounted", target.to_string_lossy())
        }
        Some(Op::Folder(path, _) | Op::File(path) | Op::Enter(path)) => {
            format!("{} cannot be used", path.to_string_lossy())
        }
        Some(Op::Link { at, .. }) => format!("{} cannot be linked", at.to_string_lossy()),
        Some(Op::Root(_)) => "the root folder cannot be changed".into(),
        Some(Op::Become { .. }) => "the user cannot be changed".into(),
        Some(Op::Filter(_)) => "the kernel takes no filter of system calls".into(),
        Some(Op::Limit(resource, value)) => format!("resource limit {resource} cannot be {value}"),
        Some(_) => "the process cannot be set up".into(),
    };
    SandboxError(format!("{step}: {error}"))
}

/// A program under way. Dropping it kills it.
struct Running {
    pid: pid_t,
    started: Instant,
    input: Option<OwnedFd>,
    output: Option<OwnedFd>,
    errors: Option<OwnedFd>,
}

/// A process number that has been reaped.
const REAPED: pid_t = 0;

impl Running {
    /// Feeds it, listens to it and waits for it; when this returns, no process of it is left.
    fn finish(mut self, input: Vec<u8>, limits: &Limits) -> Result<Outcome, SandboxError> {
        let (mut stdout, mut stderr, mut fed) = (Vec::new(), Vec::new(), 0);
        for end in [&self.input, &self.output, &self.errors].into_iter().flatten() {
            // SAFETY: the descriptor is open.
            unsafe { libc::fcntl(end.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
        }
        let ended = end_of(self.pid);
        let deadline = self.started + limits.wall;
        let (mut exit, mut was_starved) = (None, false);
        let mut has_ended = false;
        while exit.is_none() {
            let now = Instant::now();
            let left = deadline.saturating_duration_since(now);
            if left.is_zero() && !has_ended {
                was_starved = self.was_starved();
                exit = Some(Exit::TimedOut);
                break;
            }
            let ready = self.wait(ended.as_ref(), left)?;
            if self.input.is_some() && ready[2] && feed(&self.input, &input, &mut fed) {
                self.input = None;
            }
            for (slot, is_ready, to) in
                [(&mut self.output, ready[0], &mut stdout), (&mut self.errors, ready[1], &mut stderr)]
            {
                if is_ready && take(slot, to, limits.output_bytes) {
                    exit = Some(Exit::TooMuchOutput);
                }
            }
            if ready[3] && !has_ended {
                // What it left behind holds the pipes open.
                self.kill_group();
                has_ended = true;
            }
            if exit.is_none() && self.output.is_none() && self.errors.is_none() && (has_ended || ended.is_none()) {
                break;
            }
            if has_ended && left.is_zero() {
                break;
            }
        }
        let status = self.end();
        let exit = exit.unwrap_or(match status {
            status if libc::WIFSIGNALED(status) => Exit::Signal(libc::WTERMSIG(status)),
            status => Exit::Status(libc::WEXITSTATUS(status)),
        });
        Ok(Outcome { exit, stdout, stderr, wall: self.started.elapsed(), was_starved })
    }

    /// Waits for output, errors, room for input, or the end, in this order.
    fn wait(&self, ended: Option<&OwnedFd>, left: Duration) -> Result<[bool; 4], SandboxError> {
        let entry =
            |end: Option<&OwnedFd>, events| libc::pollfd { fd: end.map_or(-1, AsRawFd::as_raw_fd), events, revents: 0 };
        let mut entries = [
            entry(self.output.as_ref(), libc::POLLIN),
            entry(self.errors.as_ref(), libc::POLLIN),
            entry(self.input.as_ref(), libc::POLLOUT),
            entry(ended, libc::POLLIN),
        ];
        let milliseconds = left.as_millis().clamp(1, 60_000) as c_int;
        // SAFETY: `entries` holds four entries.
        if unsafe { libc::poll(entries.as_mut_ptr(), 4, milliseconds) } < 0 {
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(failed("waiting for the program", &error));
            }
            return Ok([false; 4]);
        }
        Ok(entries.map(|entry| entry.revents != 0))
    }

    /// Whether the kernel says that it mostly waited for a processor.
    fn was_starved(&self) -> bool {
        let Ok(text) = fs::read_to_string(format!("/proc/{}/schedstat", self.pid)) else { return false };
        let waited = text.split_whitespace().nth(1).and_then(|n| n.parse::<f64>().ok()).unwrap_or(0.0);
        waited * 1e-9 > STARVED_SHARE * self.started.elapsed().as_secs_f64()
    }

    fn kill_group(&self) {
        // SAFETY: the leader is not reaped yet, so the number is still its group's. At
        // `Level::Isolated` it is its namespace's first process, with which all others end.
        unsafe {
            libc::kill(-self.pid, libc::SIGKILL);
            libc::kill(self.pid, libc::SIGKILL);
        }
    }

    /// Kills whatever runs and reaps it; its status.
    fn end(&mut self) -> c_int {
        if self.pid == REAPED {
            return 0;
        }
        self.kill_group();
        let mut status = 0;
        // SAFETY: the process is our child and nobody else waits for it.
        while unsafe { libc::waitpid(self.pid, &mut status, 0) } < 0
            && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
        {}
        self.pid = REAPED;
        status
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

/// A descriptor that becomes readable when the process ends; `None` before Linux 5.3.
fn end_of(pid: pid_t) -> Option<OwnedFd> {
    // SAFETY: the process is our child, not reaped yet; the new descriptor is nobody else's.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, pid, 0);
        (fd >= 0).then(|| OwnedFd::from_raw_fd(fd as RawFd))
    }
}

/// Writes more of the input; whether that is over.
fn feed(to: &Option<OwnedFd>, input: &[u8], fed: &mut usize) -> bool {
    let Some(Ok(mut pipe)) = to.as_ref().map(|end| end.try_clone().map(File::from)) else { return true };
    match pipe.write(&input[*fed..]) {
        Ok(n) => {
            *fed += n;
            *fed == input.len()
        }
        Err(error) => error.kind() != io::ErrorKind::WouldBlock && error.kind() != io::ErrorKind::Interrupted,
    }
}

/// Reads what there is and closes the pipe at its end; whether there is too much.
fn take(from: &mut Option<OwnedFd>, to: &mut Vec<u8>, limit: usize) -> bool {
    let Some(Ok(mut pipe)) = from.as_ref().map(|end| end.try_clone().map(File::from)) else { return false };
    let mut buffer = [0; 1 << 14];
    match pipe.read(&mut buffer) {
        Ok(0) => *from = None,
        Ok(n) => {
            let room = limit.saturating_sub(to.len());
            to.extend_from_slice(&buffer[..n.min(room)]);
            return n > room;
        }
        Err(error) if [io::ErrorKind::WouldBlock, io::ErrorKind::Interrupted].contains(&error.kind()) => {}
        Err(_) => *from = None,
    }
    false
}

/// Kills a process group whose leader, a child of ours, was not reaped yet.
pub(super) fn kill_group(leader: u32) {
    // SAFETY: an unreaped child's number is nobody else's.
    unsafe { libc::kill(-(leader as pid_t), libc::SIGKILL) };
}
