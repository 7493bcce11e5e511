//! `candlewick probe`.

use std::path::PathBuf;

use anyhow::Result;
use candlewick::config::{Config, Kind};
use candlewick::train::probe::{self, Settings};

use super::{ConfigArguments, Usage};

/// Estimate how often the model solves each training problem, by rollouts.
///
/// Takes model, data, sampling, length and grader from the config and writes a line a problem as it goes: the same
/// command continues a probe that was stopped (status 130 after Ctrl-C). Name the file in `data.probe`, and [prompts.pairing],
/// [budget.rollouts.knapsack] and [budget.tokens.curriculum] start from it.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    config: ConfigArguments,
    /// Completions of each problem; the standard error of a rate of 1/8 is 0.058 with 32.
    #[arg(long, default_value_t = 32)]
    rollouts: usize,
    /// Problems to take, the first ones; all if not given.
    #[arg(long)]
    problems: Option<usize>,
    /// Probe only the problems that were neither always right nor always wrong in this earlier file.
    ///
    /// With few rollouts some ordinary problems look rare by chance: a fresh probe of them tells. Use another
    /// `--set run.seed=` than the first time.
    #[arg(long, value_name = "FILE")]
    again: Option<PathBuf>,
    /// The file of rates.
    #[arg(long, short, default_value = "probe.jsonl")]
    output: PathBuf,
}

/// Probes the pool.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    arguments.config.with(|config| probe(config, arguments))
}

fn probe(config: &Config, arguments: &Arguments) -> Result<()> {
    let Kind::Online(online) = config.kind() else {
        return Err(Usage(format!(
            "objective `{}` samples nothing: a probe needs a config that does",
            config.objective.variant()
        ))
        .into());
    };
    let settings =
        Settings { rollouts: arguments.rollouts, problems: arguments.problems, again: arguments.again.clone() };
    probe::run(config, &online, &settings, &arguments.output)
}
