//! Writes the commit into release builds, so that a report says which code made it.
//!
//! Development builds leave it out: they would be compiled again after every commit.

use std::process::Command;

/// What a git command prints in the package's folder; nothing where there is no repository, or no git.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=CANDLEWICK_COMMIT");
    if std::env::var("PROFILE").as_deref() != Ok("release") || std::env::var("CANDLEWICK_COMMIT").is_ok() {
        return;
    }
    for source in ["src", "algorithms/src", "rewards/src", "eval/src", "Cargo.lock", ".git/logs/HEAD"] {
        println!("cargo::rerun-if-changed={source}");
    }
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else { return };
    let is_changed = git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|changes| !changes.is_empty());
    println!("cargo::rustc-env=CANDLEWICK_COMMIT={commit}{}", if is_changed { "-changed" } else { "" });
}
