//! `candlewick compare`.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Result, bail};
use candlewick::eval::judge::{WinJudge, contests_file};
use candlewick::train::evaluate::write_rows;
use candlewick_eval::metrics::{Conclusion, Decider, WinRate};
use candlewick_eval::report::{Compared, Report, compare_reports, comparison_table, write_comparison};

use super::Usage;

/// Compare reports on the problems they share: difference, 95 % interval, p, problems gained and lost, and win rates.
///
/// Each report is held against the first one that has the benchmark. A judge is a model behind an OpenAI-compatible
/// endpoint, whose settings stand in a TOML file with at least `base_url` and `model`. For example:
/// `candlewick compare reports/base reports/tuned --win-rate judge --judge judge.toml --output reports/duel`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Folders of reports, or their `report.json`; two or more.
    #[arg(required = true, num_args = 2.., value_name = "REPORT")]
    reports: Vec<PathBuf>,
    /// Add the win rate against the first report: by verdict, where right beats wrong, or by a judge of both answers.
    #[arg(long, value_name = "BY")]
    win_rate: Option<By>,
    /// The judge's settings; open prompts need one.
    #[arg(long, value_name = "FILE", requires = "win_rate")]
    judge: Option<PathBuf>,
    /// Folder for `comparison.json`, `.md` and `.html`, and with a judge its verdicts.
    #[arg(long, value_name = "FOLDER")]
    output: Option<PathBuf>,
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

/// Who decides.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum By {
    /// The grader's verdicts, which the reports hold.
    Verdict,
    /// A judge that sees both answers, in both orders.
    Judge,
}

/// Prints the comparison.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let judge = judge(arguments)?;
    let mut reports = arguments.reports.iter().map(|path| read(path)).collect::<Result<Vec<_>>>()?;
    let labels: Vec<String> = reports.iter().map(|report| report.identity.label.clone()).collect();
    for ((report, label), path) in reports.iter_mut().zip(&labels).zip(&arguments.reports) {
        if labels.iter().filter(|other| *other == label).count() > 1 {
            report.identity.label = path.display().to_string();
        }
    }
    let (text, mut comparisons) = compare_reports(&reports, arguments.seed)?;
    let mut out = std::io::stdout().lock();
    write!(out, "{text}")?;
    let mut failed = Vec::new();
    for compared in &mut comparisons {
        if let Err(error) = decide(arguments, &reports, compared, judge.as_ref()) {
            failed.push(format!("{}: {error:#}", compared.label));
        }
    }
    let rates = comparison_table(&comparisons);
    if !rates.is_empty() {
        write!(out, "\n{rates}")?;
    }
    if let Some(folder) = &arguments.output {
        let files = write_comparison(folder, &reports, &comparisons)?;
        files.last().map_or(Ok(()), |page| writeln!(out, "\ncomparison  {}", page.display()))?;
    }
    // One set without a verdict does not take the others with it.
    if !failed.is_empty() {
        bail!("{}", failed.join("; "));
    }
    gate(arguments, &comparisons)
}

/// The judge that the arguments name. Errors: none where one is needed, one where none is read.
fn judge(arguments: &Arguments) -> Result<Option<WinJudge>> {
    let usage = |message: String| Err(Usage(message).into());
    match (arguments.win_rate, &arguments.judge) {
        (Some(By::Judge), Some(path)) => {
            let judge = WinJudge::from_file(path, arguments.output.as_deref());
            let judge = judge.map_err(|error| Usage(format!("{error:#}")))?;
            judge.notes.iter().for_each(|line| super::note(line));
            Ok(Some(judge))
        }
        (Some(By::Judge), None) => {
            usage("`--win-rate judge` needs a judge: name its settings with `--judge FILE`".to_owned())
        }
        (_, Some(path)) => usage(format!("nothing reads `--judge {}`: add `--win-rate judge`", path.display())),
        (_, None) => Ok(None),
    }
}

/// Adds the win rate that was asked for. Errors: samples that are missing or of other problems, no verdict at all.
fn decide(arguments: &Arguments, reports: &[Report], compared: &mut Compared, judge: Option<&WinJudge>) -> Result<()> {
    let [first, later] = compared.reports;
    let name = compared.benchmark.as_str();
    match (arguments.win_rate, &compared.comparison, judge) {
        (None, ..) => return Ok(()),
        (Some(_), _, Some(judge)) => {
            let samples = |place: usize| Report::read_samples(&arguments.reports[place], name);
            let judged = judge.decide(name, &samples(first)?, &samples(later)?, arguments.seed)?;
            if let Some(folder) = &arguments.output {
                std::fs::create_dir_all(folder)?;
                let whose = format!("{name}_{}", compared.label);
                write_rows(&contests_file(folder, &whose, &compared.baseline), &judged.contests)?;
            }
            compared.win_rates.push(judged.rate);
        }
        (Some(_), Some(found), None) => {
            let results = |place: usize| {
                let entries = &reports[place].benchmarks;
                entries.iter().find(|entry| entry.data.benchmark == name).map(|entry| &entry.results)
            };
            let (Some(baseline), Some(own)) = (results(first), results(later)) else { return Ok(()) };
            compared.win_rates.push(WinRate::by_verdict(baseline, own, found)?);
        }
        (Some(_), None, None) => {
            bail!(
                "{name}: open prompts have no verdicts: let a judge compare them with `--win-rate judge --judge FILE`"
            )
        }
    }
    Ok(())
}

/// Applies `--fail-if-worse`: by the paired test, and by a judge where one was asked.
fn gate(arguments: &Arguments, comparisons: &[Compared]) -> Result<()> {
    if !arguments.fail_if_worse {
        return Ok(());
    }
    let different = comparisons.iter().find(|found| !found.differences.is_empty());
    if let Some(found) = different.filter(|_| !arguments.allow_different_protocol) {
        return Err(Usage(format!(
            "`--fail-if-worse`: {} was asked otherwise on {}: {}: ask alike, or add `--allow-different-protocol`",
            found.label,
            found.benchmark,
            found.differences.join("; ")
        ))
        .into());
    }
    let is_worse = |found: &&Compared| {
        let judged = found.win_rates.iter().filter(|rate| rate.by == Decider::Judge);
        let conclusions = judged.map(WinRate::conclusion).chain(found.comparison.as_ref().map(|c| c.conclusion));
        conclusions.into_iter().any(|conclusion| conclusion == Conclusion::Worse)
    };
    let worse = comparisons.iter().filter(is_worse).count();
    if worse > 0 {
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
