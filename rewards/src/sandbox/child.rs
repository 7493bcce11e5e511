//! From nothing to a running program: the system calls of a sandbox's first process.
//!
//! Everything the process does before it becomes the program is a list of [`Op`]s, prepared by the
//! parent. The process shares the parent's memory until then (as `posix_spawn` does it), so starting
//! one costs the same however large the parent is, and it must not allocate, lock or return.
#![allow(unsafe_code)]

use std::ffi::{CString, c_char, c_int, c_ulong, c_void};
use std::io;
use std::os::fd::RawFd;
use std::ptr;

use libc::{pid_t, sock_filter};

/// One step of the new process. Paths are absolute unless they say otherwise.
pub(super) enum Op {
    /// Writes a text to a file that exists.
    Write(CString, Vec<u8>),
    /// A session and a process group of its own.
    NewSession,
    /// Dies with the thread that started it.
    DieWithParent,
    /// `mount(source, target, kind, flags, data)`.
    Mount { source: CString, target: CString, kind: CString, flags: c_ulong, data: CString },
    /// Shows a folder or file of the machine at another place, submounts included, read-only or not.
    Bind { source: CString, target: CString, is_read_only: bool },
    /// Makes a folder with this mode.
    Folder(CString, libc::mode_t),
    /// Makes an empty file.
    File(CString),
    /// Makes a symbolic link.
    Link { to: CString, at: CString },
    /// Makes a folder the root and lets go of the old one.
    Root(CString),
    /// Changes the working folder.
    Enter(CString),
    /// Becomes another user and group, without further groups.
    Become { uid: u32, gid: u32 },
    /// Gives up every capability for good, as far as there are any.
    DropCapabilities,
    /// Sets both values of a resource limit.
    Limit(c_int, u64),
    /// Puts a descriptor in the place of another.
    Redirect(RawFd, RawFd),
    /// Closes every descriptor above the standard three.
    CloseRest,
    /// No privilege can be gained by running another program.
    NoNewPrivileges,
    /// Installs a filter of system calls.
    Filter(Vec<sock_filter>),
    /// An op whose failure is no failure.
    Try(Box<Op>),
}

/// What the process becomes.
pub(super) enum Goal {
    /// A program, with its arguments and environment.
    Program { path: CString, arguments: Vec<CString>, environment: Vec<CString> },
    /// A few attempts to break out; see [`attempts`].
    Attempts { port: u16, canary: CString, parent: pid_t },
}

/// The network was reached.
pub(super) const REACHED_NETWORK: i32 = 1;
/// The canary file was read.
pub(super) const READ_CANARY: i32 = 2;
/// The parent could have been signalled.
pub(super) const SIGNALLED_PARENT: i32 = 4;

/// A step that failed: its index in the list (the list's length for the program itself) and why.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) step: usize,
    pub(super) error: io::Error,
}

struct Start<'a> {
    ops: &'a [Op],
    goal: &'a Goal,
    arguments: Vec<*const c_char>,
    environment: Vec<*const c_char>,
    failure: Option<(usize, c_int)>,
}

const STACK_BYTES: usize = 256 << 10;

/// Starts a process in the namespaces of `flags` and returns once it has become its goal.
///
/// Errors: the kernel refuses the namespaces (`step` is `usize::MAX`), or a step fails.
pub(super) fn start(flags: c_int, ops: &[Op], goal: &Goal) -> Result<pid_t, Failed> {
    let pointers = |texts: &[CString]| texts.iter().map(|t| t.as_ptr()).chain([ptr::null()]).collect();
    let (arguments, environment) = match goal {
        Goal::Program { arguments, environment, .. } => (pointers(arguments), pointers(environment)),
        Goal::Attempts { .. } => (Vec::new(), Vec::new()),
    };
    let mut start = Start { ops, goal, arguments, environment, failure: None };
    let mut stack = vec![0_u128; STACK_BYTES / 16];
    // SAFETY: the child runs on `stack`, which outlives it: CLONE_VFORK holds this thread until the
    // child has executed a program or ended. It shares this process's memory, so `live` makes system
    // calls only: no allocation, no lock, no unwinding. All signals are blocked meanwhile, so that no
    // handler of ours runs in the child; it unblocks them when every handler is the default again.
    let (pid, refused) = unsafe {
        let (mut all, mut before) = (std::mem::zeroed::<libc::sigset_t>(), std::mem::zeroed());
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
        let dumpable = libc::prctl(libc::PR_GET_DUMPABLE);
        let top = stack.as_mut_ptr().add(stack.len()).cast::<c_void>();
        let argument = ptr::from_mut(&mut start).cast::<c_void>();
        let pid = libc::clone(live, top, flags | libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD, argument);
        let refused = io::Error::last_os_error();
        // Changing the child's user makes the memory it shared with us undumpable.
        libc::prctl(libc::PR_SET_DUMPABLE, dumpable);
        libc::pthread_sigmask(libc::SIG_SETMASK, &before, ptr::null_mut());
        (pid, refused)
    };
    if pid < 0 {
        return Err(Failed { step: usize::MAX, error: refused });
    }
    match start.failure {
        None => Ok(pid),
        Some((step, errno)) => {
            // SAFETY: the child has ended; this reaps it.
            unsafe { libc::waitpid(pid, ptr::null_mut(), 0) };
            Err(Failed { step, error: io::Error::from_raw_os_error(errno) })
        }
    }
}

extern "C" fn live(argument: *mut c_void) -> c_int {
    // SAFETY: `start` passes its own `Start`, which it keeps alive and does not touch meanwhile.
    let start = unsafe { &mut *argument.cast::<Start>() };
    for (index, op) in start.ops.iter().enumerate() {
        // SAFETY: pointers come from CStrings and arrays that `start` keeps alive; the calls are
        // those of a process that has not yet run any other code.
        if let Err(errno) = unsafe { perform(op) } {
            start.failure = Some((index, errno));
            return 127;
        }
    }
    // SAFETY: as above; arguments and environment end with null.
    unsafe {
        match start.goal {
            Goal::Attempts { port, canary, parent } => libc::_exit(attempts(*port, canary.as_ptr(), *parent)),
            Goal::Program { path, .. } => {
                default_signals();
                libc::execve(path.as_ptr(), start.arguments.as_ptr(), start.environment.as_ptr());
            }
        }
        start.failure = Some((start.ops.len(), *libc::__errno_location()));
    }
    127
}

/// A call's result as success or errno.
unsafe fn checked(result: i64) -> Result<i64, c_int> {
    // SAFETY: errno is this thread's own.
    if result < 0 { Err(unsafe { *libc::__errno_location() }) } else { Ok(result) }
}

unsafe fn done(result: i64) -> Result<(), c_int> {
    // SAFETY: as above.
    unsafe { checked(result) }.map(|_| ())
}

unsafe fn perform(op: &Op) -> Result<(), c_int> {
    // SAFETY: see `live`.
    unsafe {
        match op {
            Op::Write(path, text) => {
                let fd = checked(libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC).into())? as c_int;
                checked(libc::write(fd, text.as_ptr().cast(), text.len()) as i64)?;
                libc::close(fd);
            }
            Op::NewSession => done(libc::setsid().into())?,
            Op::DieWithParent => done(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL).into())?,
            Op::Mount { source, target, kind, flags, data } => {
                let data = data.as_ptr().cast();
                checked(libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), *flags, data).into())?;
            }
            Op::Bind { source, target, is_read_only } => bind(source.as_ptr(), target.as_ptr(), *is_read_only)?,
            Op::Folder(path, mode) => {
                match checked(libc::mkdir(path.as_ptr(), *mode).into()) {
                    Err(errno) if errno != libc::EEXIST => return Err(errno),
                    _ => {}
                }
                checked(libc::chmod(path.as_ptr(), *mode).into())?;
            }
            Op::File(path) => {
                let flags = libc::O_CREAT | libc::O_WRONLY | libc::O_CLOEXEC;
                libc::close(checked(libc::open(path.as_ptr(), flags, 0o644).into())? as c_int);
            }
            Op::Link { to, at } => done(libc::symlink(to.as_ptr(), at.as_ptr()).into())?,
            Op::Root(path) => {
                checked(libc::chdir(path.as_ptr()).into())?;
                let here = c".".as_ptr();
                checked(libc::syscall(libc::SYS_pivot_root, here, here))?;
                checked(libc::umount2(here, libc::MNT_DETACH).into())?;
            }
            Op::Enter(path) => done(libc::chdir(path.as_ptr()).into())?,
            Op::Become { uid, gid } => {
                // The library's own versions would change every thread of the parent.
                checked(libc::syscall(libc::SYS_setgroups, 0_usize, ptr::null::<libc::gid_t>()))?;
                checked(libc::syscall(libc::SYS_setresgid, *gid, *gid, *gid))?;
                checked(libc::syscall(libc::SYS_setresuid, *uid, *uid, *uid))?;
            }
            Op::DropCapabilities => {
                for capability in 0..64 {
                    // Without privilege this is refused, and there is none to give up.
                    libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0);
                }
            }
            Op::Limit(resource, value) => {
                let limit = libc::rlimit { rlim_cur: *value, rlim_max: *value };
                let none = ptr::null_mut::<libc::rlimit>();
                checked(libc::syscall(libc::SYS_prlimit64, 0, *resource, ptr::from_ref(&limit), none))?;
            }
            Op::Redirect(from, to) => done(libc::dup2(*from, *to).into())?,
            Op::CloseRest => {
                checked(libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, 0_u32))?;
            }
            Op::NoNewPrivileges => done(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0).into())?,
            Op::Filter(program) => {
                let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
                let mode = libc::SECCOMP_MODE_FILTER;
                checked(libc::prctl(libc::PR_SET_SECCOMP, mode, ptr::from_ref(&program)).into())?;
            }
            Op::Try(op) => {
                let _ = perform(op);
            }
        }
    }
    Ok(())
}

unsafe fn bind(source: *const c_char, target: *const c_char, is_read_only: bool) -> Result<(), c_int> {
    // SAFETY: see `live`.
    unsafe {
        let flags = libc::MS_BIND | libc::MS_REC;
        checked(libc::mount(source, target, ptr::null(), flags, ptr::null()).into())?;
        if is_read_only {
            let attributes = libc::mount_attr {
                attr_set: libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID,
                attr_clr: 0,
                propagation: 0,
                userns_fd: 0,
            };
            let size = std::mem::size_of::<libc::mount_attr>();
            let recursive = libc::AT_RECURSIVE as c_int;
            let at = ptr::from_ref(&attributes);
            checked(libc::syscall(libc::SYS_mount_setattr, libc::AT_FDCWD, target, recursive, at, size))?;
        }
    }
    Ok(())
}

/// Every handler back to the default and every signal let through.
unsafe fn default_signals() {
    // SAFETY: the child has its own table of handlers (no CLONE_SIGHAND).
    unsafe {
        for signal in 1..32 {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut none = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&mut none);
        libc::pthread_sigmask(libc::SIG_SETMASK, &none, ptr::null_mut());
    }
}

/// Tries a listener on loopback, a file and the parent; the sum of what succeeded.
unsafe fn attempts(port: u16, canary: *const c_char, parent: pid_t) -> c_int {
    let mut found = 0;
    // SAFETY: see `live`; the address is a valid sockaddr_in.
    unsafe {
        let socket = libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0);
        if socket >= 0 {
            let mut address = std::mem::zeroed::<libc::sockaddr_in>();
            address.sin_family = libc::AF_INET as libc::sa_family_t;
            address.sin_port = port.to_be();
            address.sin_addr.s_addr = u32::from_ne_bytes([127, 0, 0, 1]);
            let size = std::mem::size_of::<libc::sockaddr_in>() as libc::socklen_t;
            if libc::connect(socket, ptr::from_ref(&address).cast(), size) == 0 {
                found |= REACHED_NETWORK;
            }
        }
        if libc::open(canary, libc::O_RDONLY) >= 0 {
            found |= READ_CANARY;
        }
        if libc::kill(parent, 0) == 0 {
            found |= SIGNALLED_PARENT;
        }
    }
    found
}
