//! Earlier reports that an evaluation is held against, and the gates of a pipeline.
//!
//! Whether a report can serve is settled before anything is sampled ([`Earlier::held`]); the comparison itself comes
//! once the outcomes are there ([`hold`]), and the gates once the report is written ([`gates`]).

use std::path::PathBuf;

use anyhow::{Result, bail};
use candlewick_eval::metrics::Conclusion;
use candlewick_eval::report::{Asked, Entry, Other, Protocol, Report};
use candlewick_eval::sample::Sample;

use super::super::{Usage, compare};
use super::Honesty;

/// A benchmark as it is about to be asked.
pub(super) struct Plan<'a> {
    pub(super) name: &'a str,
    pub(super) problems: usize,
    pub(super) sha256: String,
    pub(super) protocol: Protocol,
    pub(super) samples: usize,
    /// Hash of the chat template.
    pub(super) template: Option<&'a str>,
}

/// An earlier report.
pub(super) struct Earlier {
    path: PathBuf,
    report: Report,
    is_gate: bool,
}

/// A benchmark of an earlier report on the problems of one that is asked.
pub(super) struct Held<'a> {
    earlier: &'a Earlier,
    /// Place of the benchmark among those that are asked.
    place: usize,
    entry: &'a Entry,
    differences: Vec<String>,
}

impl Earlier {
    /// The reports to compare with, that of the gate last.
    pub(super) fn read(honesty: &Honesty) -> Result<Vec<Self>> {
        let others = honesty.against.iter().map(|path| (path, false));
        let gate = honesty.fail_if_worse_than.iter().map(|path| (path, true));
        let read =
            |(path, is_gate): (&PathBuf, bool)| Ok(Self { path: path.clone(), report: compare::read(path)?, is_gate });
        others.chain(gate).map(read).collect()
    }

    /// What this report holds of the benchmarks that are asked.
    ///
    /// Errors: nothing on the same problems; a gate on models asked otherwise, unless `allows_different`.
    pub(super) fn held(&self, plans: &[Plan], allows_different: bool) -> Result<Vec<Held<'_>>> {
        let mut held = Vec::new();
        for (place, plan) in plans.iter().enumerate() {
            let same = |entry: &&Entry| entry.data.benchmark == plan.name && entry.data.sha256 == plan.sha256;
            let Some(entry) = self.report.benchmarks.iter().find(same) else { continue };
            let asked = Asked { protocol: &plan.protocol, samples: plan.samples, template: plan.template };
            let differences = asked.differences(&Asked::of(&self.report.identity, entry));
            if self.is_gate && !allows_different && !differences.is_empty() {
                return Err(Usage(format!(
                    "`--fail-if-worse-than`: {} is asked otherwise than for `{}`: {}: ask alike, or add `--allow-different-protocol`",
                    plan.name,
                    self.path.display(),
                    differences.join("; ")
                ))
                .into());
            }
            held.push(Held { earlier: self, place, entry, differences });
        }
        if held.is_empty() {
            let list = |names: Vec<String>| names.join(", ");
            return Err(Usage(format!(
                "the report `{}` shares no benchmark on the same problems: it has {}, and {} is asked",
                self.path.display(),
                list(
                    self.report
                        .benchmarks
                        .iter()
                        .map(|e| told(&e.data.benchmark, e.data.items, &e.data.sha256))
                        .collect()
                ),
                list(plans.iter().map(|plan| told(plan.name, plan.problems, &plan.sha256)).collect())
            ))
            .into());
        }
        Ok(held)
    }
}

/// `gsm8k (100 problems, SHA-256 0123456789ab)`.
fn told(name: &str, problems: usize, sha256: &str) -> String {
    format!("{name} ({problems} problems, SHA-256 {sha256:.12})")
}

/// Adds the earlier results to the report's benchmarks; a benchmark of the same name on other problems is noted.
pub(super) fn hold(report: &mut Report, held: &[Held], samples: &[Vec<Sample>], seed: u64) -> Result<()> {
    for one in held {
        let (theirs, entry) = (one.entry, &mut report.benchmarks[one.place]);
        let other = Other {
            label: label(one.earlier, &report.identity.label),
            results: theirs.results.clone(),
            sensitivity: theirs.sensitivity.clone(),
            differences: one.differences.clone(),
        };
        entry.against(other, &samples[one.place], seed)?;
    }
    Ok(())
}

/// That earlier reports were asked other problems under a benchmark's name.
pub(super) fn not_compared(report: &Report, earlier: &[Earlier]) -> Vec<String> {
    let of = |entry: &Entry| -> Vec<String> {
        let is_other =
            |theirs: &Entry| theirs.data.benchmark == entry.data.benchmark && theirs.data.sha256 != entry.data.sha256;
        let others = earlier.iter().filter(|earlier| earlier.report.benchmarks.iter().any(is_other));
        let name = &entry.data.benchmark;
        let own = &report.identity.label;
        others
            .map(|other| {
                format!("{} was asked other problems of {name}, so it is not compared there", label(other, own))
            })
            .collect()
    };
    report.benchmarks.iter().flat_map(of).collect()
}

/// The report's label, or its path where that is the label of this evaluation too.
fn label(earlier: &Earlier, own: &str) -> String {
    match earlier.report.identity.label == own {
        true => earlier.path.display().to_string(),
        false => earlier.report.identity.label.clone(),
    }
}

/// The gates of a pipeline, applied once the report is written; `tell` hears which benchmarks no gate looked at.
pub(super) fn gates(report: &Report, honesty: &Honesty, held: &[Held], mut tell: impl FnMut(&str)) -> Result<()> {
    let mut failures = Vec::new();
    for (place, entry) in report.benchmarks.iter().enumerate() {
        let (name, accuracy) = (&entry.data.benchmark, entry.results.accuracy.value);
        if let Some(least) = honesty.fail_below.filter(|least| accuracy < *least) {
            failures.push(format!(
                "{name}: accuracy {:.1} % is below {:.1} % (`--fail-below`)",
                100.0 * accuracy,
                100.0 * least
            ));
        }
        let Some(path) = &honesty.fail_if_worse_than else { continue };
        // The report of the gate was added last, where it shares the benchmark.
        let is_gated = held.iter().any(|one| one.place == place && one.earlier.is_gate);
        match entry.against.last().filter(|_| is_gated) {
            None => tell(&format!("not gated: {name}: `{}` has no results on these problems", path.display())),
            Some(against) if against.comparison.conclusion == Conclusion::Worse => {
                failures.push(format!("{name}: worse than `{}` (`--fail-if-worse-than`)", path.display()));
            }
            Some(_) => {}
        }
    }
    if !failures.is_empty() {
        bail!("{}", failures.join("; "));
    }
    Ok(())
}
