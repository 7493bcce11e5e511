//! Help, version, exit status, completions.

use crate::program::{Folder, ONLINE};

#[test]
fn version_names_the_program() {
    let done = Folder::new().run(&["--version"]);
    assert_eq!((done.status, done.stdout), (0, format!("candlewick {}\n", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn help_lists_every_subcommand_and_the_exit_status() {
    let done = Folder::new().run(&["--help"]);
    assert_eq!(done.status, 0);
    for word in ["check", "doctor", "list", "explain", "schema", "completions"] {
        assert!(
            done.stdout.lines().any(|l| l.trim_start().starts_with(&format!("{word} "))),
            "{word}: {}",
            done.stdout
        );
    }
    assert!(done.stdout.contains("exit status: 0 done, 1 the run failed, 2 wrong usage or config"));
}

#[test]
fn every_subcommand_has_help() {
    let folder = Folder::new();
    for word in ["check", "doctor", "list", "explain", "schema", "completions"] {
        let done = folder.run(&[word, "--help"]);
        assert_eq!(done.status, 0, "{word}");
        assert!(done.stdout.contains(&format!("Usage: candlewick {word}")), "{}", done.stdout);
    }
}

#[test]
fn wrong_usage_is_status_2() {
    let folder = Folder::new();
    assert_eq!(folder.run(&[]).status, 2);
    let done = folder.run(&["trian"]);
    assert_eq!(done.status, 2);
    assert!(done.stderr.contains("unrecognized subcommand 'trian'"), "{}", done.stderr);
}

#[test]
fn a_config_that_is_not_there_is_status_2() {
    let done = Folder::new().run(&["check", "absent.toml"]);
    assert_eq!(done.status, 2);
    assert_eq!(
        done.stderr,
        "error: cannot read `absent.toml`: No such file or directory (os error 2)\n --> absent.toml\n"
    );
}

#[test]
fn a_model_that_is_not_there_is_status_2() {
    let folder = Folder::new();
    folder.write("run.toml", ONLINE);
    let done = folder.run(&["check", "run.toml"]);
    assert_eq!(done.status, 2);
    assert_eq!(done.stderr, "error: `model` is neither an existing path nor a name like `owner/name`\n");
}

#[test]
fn completions_are_written_for_each_shell() {
    let folder = Folder::new();
    for shell in ["bash", "zsh", "fish"] {
        let done = folder.run(&["completions", shell]);
        assert_eq!(done.status, 0, "{shell}");
        assert!(done.stdout.contains("candlewick") && done.stdout.contains("explain"), "{shell}");
    }
    assert_eq!(folder.run(&["completions", "cmd"]).status, 2);
}

#[test]
fn output_that_nobody_reads_is_no_failure() {
    use std::process::{Command, Stdio};
    let mut child = Command::new(env!("CARGO_BIN_EXE_candlewick"))
        .arg("schema")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("the program ends");
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""));
}
