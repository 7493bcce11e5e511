//! Programs that try to do harm, at every level that promises to stop them.

use std::net::TcpListener;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use super::*;

/// The levels of this machine that keep programs from others.
fn levels() -> Vec<Level> {
    static FOUND: OnceLock<Level> = OnceLock::new();
    let found = *FOUND.get_or_init(|| Sandbox::probe().unwrap().level);
    [Level::Isolated, Level::Filtered].into_iter().filter(|level| *level <= found).collect()
}

fn sandbox(level: Level) -> Sandbox {
    let limits = Limits { wall: Duration::from_secs(5), memory_bytes: 256 << 20, ..Limits::default() };
    Sandbox { level, limits, readable: Vec::new() }
}

fn shell(script: &str) -> Job {
    Job { command: ["sh", "-c", script].map(str::to_owned).to_vec(), ..Job::default() }
}

fn out(outcome: &Outcome) -> String {
    String::from_utf8_lossy(&outcome.stdout).trim().to_owned()
}

/// Processes anywhere on the machine whose command line holds a text.
fn running(text: &str) -> usize {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let line = |entry: std::fs::DirEntry| std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
    processes.map(line).filter(|line| String::from_utf8_lossy(line).contains(text)).count()
}

/// As the superuser a run gets a user of its own, which shields more than a shared one.
fn has_own_user() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").unwrap().uid() == 0
}

#[test]
fn ordinary_programs_run_as_they_should() {
    for level in levels() {
        let sandbox = sandbox(level);
        let outcome = sandbox.run(&shell("read x; echo \"$x\"; echo oops >&2; exit 3")).unwrap();
        assert_eq!(outcome.exit, Exit::Status(3));
        let job = Job { input: b"hello\n".to_vec(), ..shell("cat; pwd; echo $HOME") };
        let outcome = sandbox.run(&job).unwrap();
        assert_eq!((outcome.exit, out(&outcome).starts_with("hello\n")), (Exit::Status(0), true), "{level}");
        let files = vec![("answer.sh".to_owned(), b"echo from a file".to_vec())];
        let command = ["sh", "{folder}/answer.sh"].map(str::to_owned).to_vec();
        assert_eq!(out(&sandbox.run(&Job { command, files, ..Job::default() }).unwrap()), "from a file");
    }
}

#[test]
fn much_input_and_no_reader_do_not_block() {
    for level in levels() {
        let input = vec![b'x'; 3 << 20];
        let outcome = sandbox(level).run(&Job { input: input.clone(), ..shell("wc -c") }).unwrap();
        assert_eq!(out(&outcome), input.len().to_string());
        assert_eq!(sandbox(level).run(&Job { input, ..shell("exit 0") }).unwrap().exit, Exit::Status(0));
    }
}

#[test]
fn what_does_not_end_is_ended() {
    for level in levels() {
        let mut sandbox = sandbox(level);
        sandbox.limits.wall = Duration::from_millis(300);
        for script in [
            "while :; do :; done",
            "sleep 60",
            "trap '' TERM INT HUP XCPU; while :; do :; done",
            "exec 1>&- 2>&-; sleep 60",
        ] {
            let outcome = sandbox.run(&shell(script)).unwrap();
            assert_eq!(outcome.exit, Exit::TimedOut, "{script}");
            assert!(outcome.wall < Duration::from_secs(3), "{:?}", outcome.wall);
        }
    }
}

#[test]
fn processor_time_is_limited_too() {
    for level in levels() {
        let mut sandbox = sandbox(level);
        (sandbox.limits.cpu_seconds, sandbox.limits.wall) = (1, Duration::from_secs(20));
        let outcome = sandbox.run(&shell("while :; do :; done")).unwrap();
        assert!(matches!(outcome.exit, Exit::Signal(libc::SIGKILL | libc::SIGXCPU)), "{level}: {:?}", outcome.exit);
    }
}

#[test]
fn endless_output_is_cut_off() {
    for level in levels() {
        for script in ["yes", "yes >&2"] {
            let started = Instant::now();
            let outcome = sandbox(level).run(&shell(script)).unwrap();
            assert_eq!(outcome.exit, Exit::TooMuchOutput);
            assert_eq!(outcome.stdout.len() + outcome.stderr.len(), Limits::default().output_bytes);
            assert!(started.elapsed() < Duration::from_secs(4));
        }
    }
}

#[test]
fn a_fork_bomb_stays_small_and_leaves_nothing() {
    for level in levels() {
        let mut sandbox = sandbox(level);
        (sandbox.limits.wall, sandbox.limits.processes) = (Duration::from_millis(800), 16);
        let name = format!("bomb-{level}-{}", std::process::id());
        let counter = {
            let name = name.clone();
            std::thread::spawn(move || {
                (0..8)
                    .map(|_| {
                        std::thread::sleep(Duration::from_millis(80));
                        running(&name)
                    })
                    .max()
            })
        };
        let mut job = shell("f() { f | f & }; f; sleep 5");
        job.command.push(name.clone());
        sandbox.run(&job).unwrap();
        let most = counter.join().unwrap().unwrap();
        // As an ordinary user without namespaces, the limit counts all of the user's processes.
        assert!(most <= 17, "{most} processes at {level}");
        assert_eq!(running(&name), 0, "{level}");
    }
}

#[test]
fn memory_files_and_folders_are_bounded() {
    for level in levels() {
        let mut sandbox = sandbox(level);
        (sandbox.limits.file_bytes, sandbox.limits.folder_bytes) = (1 << 20, 8 << 20);
        sandbox.limits.memory_bytes = 64 << 20;
        let hungry = sandbox.run(&shell("x=$(head -c 100000000 /dev/zero | tr '\\0' a); echo ${#x}")).unwrap();
        assert_ne!(out(&hungry), "100000000", "{level}");
        let large = sandbox.run(&shell("head -c 5000000 /dev/zero > big; wc -c < big")).unwrap();
        assert!(out(&large).parse::<usize>().unwrap() <= 1 << 20, "{level}: {}", out(&large));
        if level == Level::Isolated {
            let many = "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do head -c 1000000 /dev/zero > f$i || exit 7; done";
            assert_eq!(sandbox.run(&shell(many)).unwrap().exit, Exit::Status(7));
        }
    }
}

#[test]
fn the_environment_is_empty_and_the_parents_cannot_be_read() {
    for level in levels() {
        let env = out(&sandbox(level).run(&shell("env")).unwrap());
        let names: Vec<&str> = env.lines().filter_map(|line| line.split('=').next()).collect();
        assert!(
            names.iter().all(|name| ["PATH", "LANG", "HOME", "PWD", "OLDPWD", "SHLVL", "_"].contains(name)),
            "{env}"
        );
        if level == Level::Isolated || has_own_user() {
            let script = format!("cat /proc/$PPID/environ /proc/{}/environ", std::process::id());
            let read = sandbox(level).run(&shell(&script)).unwrap();
            assert!(!out(&read).contains("CARGO"), "{level}");
            assert_ne!(read.exit, Exit::Status(0));
        }
    }
}

#[test]
fn the_parent_cannot_be_signalled() {
    for level in levels() {
        // Signal 0 asks for the permission only: a sandbox that fails the test does no harm.
        let script = format!("kill -0 {0} && echo parent; kill -0 $PPID && echo starter; true", std::process::id());
        let reached = out(&sandbox(level).run(&shell(&script)).unwrap());
        // In its own namespace $PPID is 0: its own group.
        let harmless = if level == Level::Isolated { "starter" } else { "" };
        assert!(reached == harmless || reached.is_empty(), "{level}: {reached}");
    }
}

#[test]
fn children_do_not_survive() {
    for level in levels() {
        let seconds = format!("31.{}{}", std::process::id(), level as u8);
        let script = format!(
            "sleep {seconds} & (setsid sleep {seconds} &) ; (nohup sleep {seconds} >/dev/null 2>&1 &) ; sleep 0.1; exit 0"
        );
        let started = Instant::now();
        let outcome = sandbox(level).run(&shell(&script)).unwrap();
        assert_eq!(outcome.exit, Exit::Status(0), "{}", String::from_utf8_lossy(&outcome.stderr));
        assert!(started.elapsed() < Duration::from_secs(4), "children held the pipes open");
        assert_eq!(running(&seconds), 0, "{level}");
    }
}

#[test]
fn links_lead_nowhere() {
    let folder = tempfile::tempdir().unwrap();
    let canary = folder.path().join("canary");
    std::fs::write(&canary, "alive").unwrap();
    for level in levels() {
        let script = format!(
            "ln -s {0} folder; ln -s {0}/canary file; echo dead > file; rm -rf folder/*; cat file",
            folder.path().display()
        );
        let outcome = sandbox(level).run(&shell(&script)).unwrap();
        if level == Level::Isolated || has_own_user() {
            assert_eq!(std::fs::read_to_string(&canary).unwrap(), "alive", "{level}");
            assert!(level != Level::Isolated || out(&outcome).is_empty() || out(&outcome) == "dead");
        }
        assert!(folder.path().exists(), "the run's folder was removed, not what its links point at");
        std::fs::write(&canary, "alive").unwrap();
    }
}

#[test]
fn files_of_the_machine_are_out_of_sight() {
    let folder = tempfile::tempdir().unwrap();
    let canary = folder.path().join("canary");
    std::fs::write(&canary, "secret").unwrap();
    if levels().contains(&Level::Isolated) {
        let script = format!(
            "cat {} /etc/passwd /etc/hostname; ls /home /root; cat /proc/1/root{}",
            canary.display(),
            canary.display()
        );
        let outcome = sandbox(Level::Isolated).run(&shell(&script)).unwrap();
        assert_eq!(out(&outcome), "");
        let writes = "for f in /usr/x /bin/x /code/x /x; do echo > $f && echo wrote $f; done; true";
        let outcome = sandbox(Level::Isolated).run(&shell(writes)).unwrap();
        assert!(!out(&outcome).contains("/usr") && !out(&outcome).contains("/code"), "{}", out(&outcome));
    }
}

#[test]
fn there_is_no_network() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let bash = Job {
        command: ["bash", "-c", &format!("exec 3<>/dev/tcp/127.0.0.1/{port} && echo connected")]
            .map(str::to_owned)
            .to_vec(),
        ..Job::default()
    };
    let python = format!("import socket; socket.create_connection(('127.0.0.1', {port})); print('connected')");
    let python = Job { command: ["/usr/bin/python3", "-c", &python].map(str::to_owned).to_vec(), ..Job::default() };
    for level in levels() {
        for job in [&bash, &python].into_iter().filter(|job| find_program(&job.command[0]).is_some()) {
            let outcome = sandbox(level).run(job).unwrap();
            assert_ne!(outcome.exit, Exit::Status(0), "{level}");
            assert!(!out(&outcome).contains("connected"));
        }
        assert!(listener.accept().is_err(), "{level}: somebody connected");
    }
}

#[test]
fn no_way_to_other_namespaces() {
    for level in levels().into_iter().filter(|_| find_program("unshare").is_some()) {
        for script in ["unshare -Ur true", "unshare -n true", "mount -t tmpfs none /tmp"] {
            assert_ne!(sandbox(level).run(&shell(script)).unwrap().exit, Exit::Status(0), "{level}: {script}");
        }
    }
}

#[test]
fn what_cannot_be_run_is_named() {
    let job = |program: &str| Job { command: vec![program.into()], ..Job::default() };
    for level in levels() {
        let error = sandbox(level).run(&job("no-such-program-at-all")).unwrap_err().to_string();
        assert!(error.contains("`no-such-program-at-all`"), "{error}");
        assert!(sandbox(level).run(&Job::default()).is_err());
    }
}

/// The children of this process that have ended and were not waited for.
fn zombies() -> usize {
    let own = std::process::id().to_string();
    let stats = std::fs::read_dir("/proc").unwrap().flatten();
    let stats = stats.filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok());
    stats
        .filter(|stat| {
            let mut fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
            fields.next() == Some("Z") && fields.next() == Some(&own)
        })
        .count()
}

#[test]
fn a_thousand_runs_leave_no_zombie_and_no_folder() {
    let level = Sandbox::probe().unwrap().level;
    let job = Job { command: vec!["true".into()], ..Job::default() };
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..250).for_each(|_| assert_eq!(sandbox(level).run(&job).unwrap().exit, Exit::Status(0))));
        }
    });
    // Other tests of this process may have a child between its end and its reaping.
    let deadline = Instant::now() + Duration::from_secs(5);
    while zombies() > 0 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(zombies(), 0);
}
