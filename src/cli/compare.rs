//! `candlewick compare`.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Result, bail};
use candlewick_eval::metrics::Conclusion;
use candlewick_eval::report::{Report, compare_reports};

use super::Usage;

/// Compare reports on the problems they share: difference, 95 % interval, p, problems gained and lost.
///
/// Each report is held against the first one that has the benchmark. For example:
/// `candlewick compare reports/base reports/tuned`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Folders of reports, or their `report.json`; two or more.
    #[arg(required = true, num_args = 2.., value_name = "REPORT")]
    reports: Vec<PathBuf>,
    /// Fail with exit status 1 if any report is worse than the first.
    #[arg(long)]
    fail_if_worse: bool,
    /// Let `--fail-if-worse` compare models that were asked otherwise: with another temperature, limit or form.
    #[arg(long, requires = "fail_if_worse")]
    allow_different_protocol: bool,
    /// Seed of the permutation test where its patterns cannot all be counted.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// Prints the comparison.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let mut reports = arguments.reports.iter().map(|path| read(path)).collect::<Result<Vec<_>>>()?;
    let labels: Vec<String> = reports.iter().map(|report| report.identity.label.clone()).collect();
    for ((report, label), path) in reports.iter_mut().zip(&labels).zip(&arguments.reports) {
        if labels.iter().filter(|other| *other == label).count() > 1 {
            report.identity.label = path.display().to_string();
        }
    }
    let (text, comparisons) = compare_reports(&reports, arguments.seed)?;
    write!(std::io::stdout(), "{text}")?;
    let different = comparisons.iter().find(|found| !found.differences.is_empty());
    if let Some(found) = different.filter(|_| arguments.fail_if_worse && !arguments.allow_different_protocol) {
        return Err(Usage(format!(
            "`--fail-if-worse`: {} was asked otherwise on {}: {}: ask alike, or add `--allow-different-protocol`",
            found.label,
            found.benchmark,
            found.differences.join("; ")
        ))
        .into());
    }
    let worse = comparisons.iter().filter(|found| found.comparison.conclusion == Conclusion::Worse).count();
    if arguments.fail_if_worse && worse > 0 {
        bail!("{worse} of {} comparisons are worse (`--fail-if-worse`)", comparisons.len());
    }
    Ok(())
}

/// Reads a report, naming its file in an error.
pub(super) fn read(path: &std::path::Path) -> Result<Report> {
    use anyhow::Context;
    if !path.exists() {
        return Err(Usage(format!("there is no report `{}`", path.display())).into());
    }
    Report::read(path).with_context(|| format!("the report `{}` cannot be read", path.display()))
}
