//! `candlewick eval`.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Result;
use candlewick::config::{Device, DiscreteConfig, Dtype, EvalConfig, ModelConfig};

/// Test a checkpoint on benchmarks, with intervals that say how sure the figures are.
///
/// For example: `candlewick eval runs/sums/checkpoints/40 --benchmark gsm8k --samples 4 --temperature 1`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// A folder with a checkpoint or an adapter, or the name of one on the Hub.
    model: String,
    /// A benchmark; may be given several times.
    #[arg(short, long = "benchmark", value_name = "NAME", required = true)]
    benchmarks: Vec<String>,
    /// Problems to take of each benchmark; all if not given.
    #[arg(long)]
    problems: Option<usize>,
    /// Completions for each problem.
    #[arg(long, default_value_t = 1)]
    samples: usize,
    /// Temperature; 0 takes the most likely token.
    #[arg(long, default_value_t = 0.0)]
    temperature: f64,
    /// Most tokens of a completion.
    #[arg(long, default_value_t = 512)]
    limit: usize,
    /// Seed of the samples.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Branch, tag or commit on the Hub.
    #[arg(long)]
    revision: Option<String>,
    /// `auto`, `cpu`, `cuda` or `cuda:N`.
    #[arg(long, default_value_t = Device::Auto)]
    device: Device,
    /// Folder for the report.
    #[arg(long, default_value = "report")]
    output: PathBuf,
    #[command(flatten)]
    soft: super::soft::Arguments,
}

/// Runs the tests and writes the report.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let tokens = DiscreteConfig { temperature: arguments.temperature, ..DiscreteConfig::default() };
    let eval = EvalConfig {
        benchmarks: arguments.benchmarks.clone(),
        every: 0,
        problems: arguments.problems,
        samples: arguments.samples,
        temperature: arguments.temperature,
        limit: Some(arguments.limit),
        soft: arguments.soft.config(&tokens)?,
    };
    let model = ModelConfig {
        revision: arguments.revision.clone(),
        device: arguments.device,
        dtype: Dtype::F32,
        ..ModelConfig::named(&arguments.model)
    };
    let outcomes = candlewick::train::evaluate(&model, &eval, arguments.seed, &arguments.output)?;
    let mut out = std::io::stdout().lock();
    for outcome in &outcomes {
        writeln!(out, "{}", candlewick::train::evaluate::line(outcome))?;
    }
    writeln!(out, "results and samples: {}", arguments.output.display())?;
    Ok(())
}
