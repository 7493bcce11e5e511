//! The system-call filter of the sandbox: a classic BPF program for seccomp.
//!
//! What it refuses stays refused for every descendant: sockets other than UNIX ones, new namespaces
//! and mounts, tracing, kernel modules, keys, io_uring (which would go round the filter). Refused
//! calls return an error, so that an ordinary program fails where it stands and says so.

use libc::{c_long, sock_filter};

/// How strict the filter is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Strictness {
    /// The process lives in namespaces of its own.
    Inside,
    /// It shares the machine's: it may not leave its process group nor send signals either.
    Shared,
}

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const ANY_BIT: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// Offsets in `struct seccomp_data`: number of the call, architecture, low half of argument 0.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENT_0: u32 = 16;

#[cfg(target_arch = "x86_64")]
const NATIVE: Option<u32> = Some(0xC000_003E);
#[cfg(target_arch = "aarch64")]
const NATIVE: Option<u32> = Some(0xC000_00B7);
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const NATIVE: Option<u32> = None;

/// Calls of the x32 ABI have this bit; they are the same calls under other numbers.
const X32: u32 = 0x4000_0000;

const NEW_NAMESPACE: u32 = (libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP) as u32;

const REFUSED: &[c_long] = &[
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsmount,
    libc::SYS_mount_setattr,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_kcmp,
    libc::SYS_pidfd_getfd,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
];

/// Refused too where the process can see others than its own.
const REFUSED_SHARED: &[c_long] = &[
    libc::SYS_setsid,
    libc::SYS_setpgid,
    libc::SYS_tkill,
    libc::SYS_tgkill,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_send_signal,
    libc::SYS_setpriority,
];

/// The program, or `None` on an architecture whose calls we do not number.
pub(super) fn program(strictness: Strictness) -> Option<Vec<sock_filter>> {
    let native = NATIVE?;
    let allow = ret(libc::SECCOMP_RET_ALLOW);
    let mut code =
        vec![load(ARCHITECTURE), jump(EQUAL, native, 1, 0), ret(libc::SECCOMP_RET_KILL_PROCESS), load(NUMBER)];
    code.extend([jump(AT_LEAST, X32, 0, 1), refuse(libc::ENOSYS)]);
    let shared = if strictness == Strictness::Shared { REFUSED_SHARED } else { &[] };
    for &call in REFUSED.iter().chain(shared) {
        code.extend([jump(EQUAL, call as u32, 0, 1), refuse(libc::EPERM)]);
    }
    // Its flags stand in memory, out of a filter's sight; without it the C library takes clone.
    code.extend([jump(EQUAL, libc::SYS_clone3 as u32, 0, 1), refuse(libc::ENOSYS)]);
    // Each of these ends the program where it applies, so the number is still loaded for the next.
    let unix = libc::AF_UNIX as u32;
    code.extend([jump(EQUAL, libc::SYS_socket as u32, 0, 4), load(ARGUMENT_0)]);
    code.extend([jump(EQUAL, unix, 0, 1), allow, refuse(libc::EACCES)]);
    code.extend([jump(EQUAL, libc::SYS_clone as u32, 0, 4), load(ARGUMENT_0)]);
    code.extend([jump(ANY_BIT, NEW_NAMESPACE, 0, 1), refuse(libc::EPERM), allow]);
    code.extend([jump(EQUAL, libc::SYS_prctl as u32, 0, 4), load(ARGUMENT_0)]);
    code.extend([jump(EQUAL, libc::PR_SET_PDEATHSIG as u32, 0, 1), refuse(libc::EPERM), allow]);
    if strictness == Strictness::Shared {
        // Only its own process group and itself, which are number 0.
        for call in [libc::SYS_kill, libc::SYS_prlimit64] {
            code.extend([jump(EQUAL, call as u32, 0, 4), load(ARGUMENT_0)]);
            code.extend([jump(EQUAL, 0, 0, 1), allow, refuse(libc::EPERM)]);
        }
    }
    code.push(allow);
    Some(code)
}

fn load(offset: u32) -> sock_filter {
    sock_filter { code: LOAD, jt: 0, jf: 0, k: offset }
}

/// Skips `jt` instructions if the test holds, else `jf`.
fn jump(test: u16, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: test, jt, jf, k }
}

fn ret(value: u32) -> sock_filter {
    sock_filter { code: RETURN, jt: 0, jf: 0, k: value }
}

fn refuse(errno: i32) -> sock_filter {
    ret(libc::SECCOMP_RET_ERRNO | errno as u32)
}
