//! `candlewick train`.

use anyhow::Result;

use super::ConfigArguments;

/// Train a model as a config says; without one, run the embedded quickstart.
///
/// Everything the run writes lies in `<run.output>/<run.name>`: the resolved config, metrics,
/// sampled completions, checkpoints and the closing report. Ctrl-C finishes the step, saves,
/// says how to go on, and ends with status 130.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    config: ConfigArguments,
    /// Go on from the run's newest whole checkpoint; the result is that of a run never stopped.
    #[arg(long)]
    resume: bool,
}

/// Runs the training.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    arguments.config.with(|config| candlewick::train::run(config, arguments.resume))
}
