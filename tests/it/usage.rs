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
    assert!(
        done.stdout.contains("exit status: 0 done, 1 the run failed, 2 wrong usage or config, 130 stopped by Ctrl-C")
    );
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
    assert_eq!(
        done.stderr,
        "\
error: `model` is neither an existing path nor a name like `owner/name`
 --> run.toml:2:8
2 | path = \"model\"
  |        ^^^^^^^
"
    );
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

/// The quickstart runs where the repository is not: the program carries its checkpoint.
#[test]
fn the_quickstart_runs_in_an_empty_folder() {
    let folder = Folder::new();
    let sets = ["run.steps=1", "prompts.shuffle.per_step=2", "data.validation=4", "eval.every=0"];
    let more: Vec<&str> = sets.iter().flat_map(|s| ["--set", s]).collect();
    let done = folder.run(&[&["train"], more.as_slice()].concat());
    assert_eq!(done.status, 0, "{}", done.stderr);
    let at = folder.path().join("cache/candlewick/quickstart");
    let line =
        format!("note: the quickstart's checkpoint, which the program carries, was written to {}\n", at.display());
    assert!(done.stderr.contains(&line), "{}", done.stderr);
    assert!(folder.path().join("runs/quickstart/checkpoints/1/model.safetensors").is_file());
    // It is there now, and mended where it is not whole.
    assert!(!folder.run(&["check"]).stderr.contains("was written to"));
    std::fs::write(at.join("model.safetensors"), "damaged").expect("a file of the test");
    assert!(folder.run(&["check"]).stderr.contains("was written to"));
}

/// Wrong usage is told before anything is loaded, with status 2.
#[test]
fn commands_that_cannot_be_done_are_status_2() {
    let folder = Folder::new();
    let model = format!("{}/configs/quickstart", env!("CARGO_MANIFEST_DIR"));
    for (arguments, expected) in [
        (vec!["generate", "nothere", "x"], "`nothere` is neither an existing path nor a name"),
        (vec!["eval", "nothere", "-b", "generated:sums"], "`nothere` is neither an existing path nor a name"),
        (vec!["generate", "no/model", "x"], "there is no folder `no/model` here, and"),
        (vec!["generate", "nothere", "x", "--top-p", "2"], "`top_p` = 2 is impossible"),
        (vec!["eval", "nothere", "-b", "generated:sums", "--min-p", "7"], "`--min-p` cannot be 7"),
        (vec!["generate", "nothere", "x", "--limit", "0"], "`--limit` is at least 1"),
        (vec!["generate", &model, "x", "--system", "Be brief."], "has no chat template, which `--system` needs"),
        (vec!["merge", "nothere", "out"], "nothere is no folder with an adapter"),
        (vec!["eval", &model, "-b", "generated:sums", "--train", "gone.jsonl"], "no such data file: `gone.jsonl`"),
        (vec!["compare", "gone", "gone"], "there is no report `gone`"),
        (vec!["train", "--resume"], "runs/quickstart holds no run to resume"),
    ] {
        let done = folder.run(&arguments);
        assert_eq!(done.status, 2, "{arguments:?}: {}", done.stderr);
        assert!(done.stderr.contains(expected), "{arguments:?}: {}", done.stderr);
        assert_eq!(done.stderr.matches("No such file").count().max(1), 1, "{arguments:?}: {}", done.stderr);
    }
}

/// `echo` ends its line, and the prompt is what stands on it; an empty line of a conversation says nothing.
#[test]
fn line_ends_and_empty_lines_are_no_prompt() {
    use std::process::{Command, Stdio};
    let folder = Folder::new();
    let quickstart = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/quickstart");
    for file in
        ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "model.safetensors"]
    {
        let text = std::fs::read(quickstart.join(file)).expect("a file of the quickstart");
        std::fs::write(folder.path().join(file), text).expect("a copy");
    }
    let answer = |flags: &[&str], input: &str| {
        let mut child = Command::new(env!("CARGO_BIN_EXE_candlewick"))
            .args(["generate", ".", "--limit", "12", "--temperature", "0"])
            .args(flags)
            .current_dir(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program starts");
        std::io::Write::write_all(&mut child.stdin.take().expect("a pipe"), input.as_bytes()).expect("it reads");
        let output = child.wait_with_output().expect("it ends");
        assert!(output.status.success());
        String::from_utf8(output.stdout).expect("output is UTF-8")
    };
    let plain = answer(&[], "9+5=");
    assert_eq!(answer(&[], "9+5=\n"), plain);
    assert_eq!(answer(&[], "9+5=\r\n"), plain);
    folder.write("chat_template.jinja", "{% for message in messages %}{{ message.content }}{% endfor %}");
    assert_eq!(answer(&["--chat"], "\n9+5=\n  \n"), plain);
}
