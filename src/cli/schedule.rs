//! `candlewick schedule`.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use candlewick_algorithms::optim::schedule::{Norm, Refined, Shape, multiplier, refine};

/// Make a learning-rate schedule from the gradient norms of an earlier run.
///
/// Prints the `[optim]` keys of a run that follows it: where gradients were small the rate is high, and it falls to 0
/// at the end. Use it only to repeat the earlier run's setting ("When, Why and How Much? Adaptive Learning Rate
/// Scheduling by Refinement", arXiv 2310.07831).
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Folder of the run, with its `metrics.jsonl`.
    run: PathBuf,
    /// Norm of the gradient: `l1`, which suits Adam, or `l2`, which suits SGD.
    #[arg(long, default_value = "l1", value_parser = ["l1", "l2"])]
    norm: String,
    /// Share of the run that the median filter spans.
    #[arg(long, default_value_t = 0.1)]
    tau: f64,
    /// Multipliers to print.
    #[arg(long, default_value_t = 50)]
    points: usize,
}

/// Prints the schedule.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    ensure!((0.0..1.0).contains(&arguments.tau), "`--tau` {} is no share from 0 to below 1", arguments.tau);
    ensure!(arguments.points >= 2, "`--points` {} makes no schedule: give 2 or more", arguments.points);
    let path = arguments.run.join("metrics.jsonl");
    let text = std::fs::read_to_string(&path).with_context(|| format!("{} cannot be read", path.display()))?;
    let (key, norm) = match arguments.norm.as_str() {
        "l2" => ("optim/grad_norm", Norm::L2),
        _ => ("optim/grad_norm_l1", Norm::L1),
    };
    let mut norms = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let row: serde_json::Value =
            serde_json::from_str(line).with_context(|| format!("{}:{} is not JSON", path.display(), number + 1))?;
        norms.extend(row[key].as_f64());
    }
    ensure!(!norms.is_empty(), "{} records no `{key}`", path.display());
    let refined = refine(&norms, arguments.tau, norm)?;
    write_table(&refined, arguments.points)
}

fn write_table(refined: &Refined, points: usize) -> Result<()> {
    use std::io::Write;
    let shape = Shape::Table(refined.multiplier.clone());
    let values: Vec<String> = (0..points).map(|i| format!("{:.4}", multiplier(&shape, i, points, 0, 0.0))).collect();
    let mut out = std::io::stdout().lock();
    writeln!(out, "# from {} gradient norms, median over {}", refined.multiplier.len(), refined.width)?;
    writeln!(out, "[optim]\nschedule = \"table\"\ntable = [{}]", values.join(", "))?;
    Ok(())
}
