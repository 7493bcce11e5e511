//! The command line: one file per subcommand, with its arguments and its help.

pub(crate) mod check;
pub(crate) mod compare;
pub(crate) mod completions;
pub(crate) mod doctor;
pub(crate) mod eval;
pub(crate) mod explain;
pub(crate) mod generate;
pub(crate) mod grade;
pub(crate) mod list;
pub(crate) mod merge;
pub(crate) mod probe;
mod quickstart;
pub(crate) mod schedule;
pub(crate) mod schema;
mod soft;
mod table;
pub(crate) mod train;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use candlewick::config::{self, Config, Loaded, Refusal};
use candlewick::hub::HubError;
use candlewick::train::Interrupted;
use clap::Parser;
use console::style;

/// Post-train language models: reinforcement learning with verifiable rewards, preference
/// optimisation and supervised fine-tuning, from a TOML file, on a Hugging Face checkpoint.
///
/// A run is one TOML file with a section for each stage. `candlewick list` shows the stages and
/// their variants, `candlewick explain objective.grpo` every key of one of them, and
/// `candlewick check run.toml` says what a run will do and how much memory it takes, before any
/// weight is loaded.
#[derive(Parser)]
#[command(version, max_term_width = 100, arg_required_else_help = true)]
#[command(after_help = "exit status: 0 done, 1 the run failed, 2 wrong usage or config, 130 stopped by Ctrl-C")]
pub(crate) struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Log more: once for what is done, twice for everything. `CANDLEWICK_LOG` filters by module.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
}

/// What the program can do.
#[derive(clap::Subcommand)]
// A command line is parsed once.
#[allow(clippy::large_enum_variant)]
pub(crate) enum Command {
    Train(train::Arguments),
    Eval(eval::Arguments),
    Compare(compare::Arguments),
    Generate(generate::Arguments),
    Grade(grade::Arguments),
    Merge(merge::Arguments),
    Schedule(schedule::Arguments),
    Check(check::Arguments),
    Probe(probe::Arguments),
    Doctor(doctor::Arguments),
    /// List the stages of a run and the variants of each.
    List,
    Explain(explain::Arguments),
    /// Write the JSON schema of the config, for editors that complete and check TOML.
    ///
    /// Save it and name it in the first line of a config: `#:schema candlewick.schema.json`.
    Schema,
    Completions(completions::Arguments),
}

/// A config file and changes to it.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ConfigArguments {
    /// The run's TOML file; the embedded quickstart if none is given.
    #[arg(value_name = "CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// Set one key, as in `--set objective.grpo.beta=0.04`; may be given several times.
    ///
    /// The value is TOML; a bare word is a string. Naming another variant than the file's replaces
    /// the file's: `--set advantage.rloo={}`.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
}

/// The config that runs when none is given.
const QUICKSTART: &str = include_str!("../../configs/quickstart.toml");

impl ConfigArguments {
    /// Does something with the settings; what a person should know of them is printed first, and a key that is refused
    /// on the way is shown at its place.
    pub(crate) fn with<T>(&self, act: impl FnOnce(&Config) -> Result<T>) -> Result<T> {
        let Loaded { mut config, notes, origin } = match &self.config {
            Some(path) => Config::load(path, &self.set)?,
            None => Config::parse("quickstart.toml", QUICKSTART, &self.set)?,
        };
        for line in notes {
            note(&line);
        }
        if self.config.is_none() {
            quickstart::provide(&mut config.model.path)?;
        }
        act(&config).map_err(|error| match error.downcast_ref::<Refusal>() {
            Some(refusal @ Refusal { key: Some(key), .. }) => origin.place(key, refusal).into(),
            _ => error,
        })
    }
}

/// Wrong usage that the argument parser cannot see.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);

/// Prints an error, a line for each cause, and gives the exit status: 2 for what the person can
/// put right in the command or the config, 130 for a run that Ctrl-C stopped, 1 for one that failed.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    let mut out = std::io::stderr().lock();
    if let Some(refused) = error.downcast_ref::<config::Error>() {
        let _ = writeln!(out, "{}", coloured(&refused.to_string()));
        return ExitCode::from(2);
    }
    if error.is::<Interrupted>() {
        // Where it stopped, and how it goes on, has been said.
        return ExitCode::from(130);
    }
    if error.chain().any(is_broken_pipe) {
        return ExitCode::SUCCESS;
    }
    let mut told = error.to_string();
    let _ = writeln!(out, "{} {told}", style("error:").for_stderr().red().bold());
    for cause in error.chain().skip(1).map(|cause| cause.to_string()) {
        // Some errors tell their cause themselves.
        if !told.contains(&cause) {
            let _ = writeln!(out, "  because: {cause}");
            told = cause;
        }
    }
    ExitCode::from(if is_refused(error) { 2 } else { 1 })
}

/// Whether a person can put it right in the command or the config.
fn is_refused(error: &anyhow::Error) -> bool {
    error.is::<Usage>() || error.is::<Refusal>() || error.downcast_ref::<HubError>().is_some_and(HubError::is_refusal)
}

/// Whether whoever read the output has stopped reading, as `head` does.
fn is_broken_pipe(cause: &(dyn std::error::Error + 'static)) -> bool {
    cause.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
}

/// Colours the words and underlines of a refused config.
fn coloured(text: &str) -> String {
    let line = |line: &str| {
        if let Some(message) = line.strip_prefix("error: ") {
            return format!("{} {}", style("error:").for_stderr().red().bold(), style(message).for_stderr().bold());
        }
        match line.split_once('^') {
            Some((indent, rest)) if indent.trim_end().ends_with('|') => {
                format!("{indent}{}", style(format!("^{rest}")).for_stderr().red())
            }
            _ => line.to_owned(),
        }
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// Prints a line that a person should know, without stopping.
pub(crate) fn note(line: &str) {
    let _ = writeln!(std::io::stderr(), "{} {line}", style("note:").for_stderr().yellow().bold());
}

/// Starts the log on the error stream: warnings, or more with `-v`, or what `CANDLEWICK_LOG` says.
pub(crate) fn start_log(verbose: u8) {
    let level = match verbose {
        // The client of the Hub logs each failed attempt; the error that follows says what came of them.
        0 => "warn,hf_hub=off",
        1 => "warn,hf_hub=off,candlewick=info,candlewick_algorithms=info,candlewick_rewards=info,candlewick_eval=info",
        _ => "debug",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("CANDLEWICK_LOG").unwrap_or_else(|_| level.into());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).without_time();
    log.with_target(verbose > 1).with_ansi(console::colors_enabled_stderr()).init();
}
