//! Several reports side by side: every one against the first, benchmark by benchmark.

use super::asked::{Asked, doubt};
use super::table::{columns, percent, range};
use super::{Entry, Report};
use crate::metrics::{Comparison, compare};
use crate::{Error, Result};

/// One report held against the first that has the benchmark.
#[derive(Debug, Clone, PartialEq)]
pub struct Compared {
    /// The benchmark.
    pub benchmark: String,
    /// The later report's label.
    pub label: String,
    /// The later report's model compared with the first's.
    pub comparison: Comparison,
    /// What of the asking differs, each as `temperature 1, not 0`.
    pub differences: Vec<String>,
}

/// Tables and sentences for `candlewick compare`: each benchmark that at least two reports share, the first
/// report with it being the one the others are compared with; and the comparisons themselves.
///
/// Two reports share a benchmark when its name and the hash of its problems are the same. A benchmark of the same
/// name with other problems is left out and said so; what differs in how the models were asked stands under each
/// sentence. Errors: [`Error::NotComparable`] when nothing is shared.
pub fn compare_reports(reports: &[Report], seed: u64) -> Result<(String, Vec<Compared>)> {
    let mut out = String::new();
    let mut comparisons = Vec::new();
    let mut names: Vec<&str> = Vec::new();
    for entry in reports.iter().flat_map(|report| &report.benchmarks) {
        if !names.contains(&entry.data.benchmark.as_str()) {
            names.push(&entry.data.benchmark);
        }
    }
    for name in names {
        let with: Vec<(&Report, &Entry)> = reports
            .iter()
            .filter_map(|report| {
                report.benchmarks.iter().find(|entry| entry.data.benchmark == name).map(|entry| (report, entry))
            })
            .collect();
        let (first, rest) = with.split_first().expect("the name came from a report");
        if rest.is_empty() {
            continue;
        }
        let mut rows = vec![
            ["model", "samples", "accuracy", "95 % interval", "difference", "95 % interval", "p"]
                .map(String::from)
                .to_vec(),
        ];
        let own = |(report, entry): &(&Report, &Entry)| {
            let results = &entry.results;
            vec![
                report.identity.label.clone(),
                results.samples.to_string(),
                percent(results.accuracy.value),
                range(&results.accuracy),
            ]
        };
        rows.push(own(first));
        let mut lines = Vec::new();
        for other in rest {
            let label = &other.0.identity.label;
            if other.1.data.sha256 != first.1.data.sha256 {
                lines.push(format!(
                    "{label} was asked other problems (SHA-256 {:.12}): not compared",
                    other.1.data.sha256
                ));
                continue;
            }
            let found = compare(&first.1.results.scores, &other.1.results.scores, seed)?;
            let mut row = own(other);
            row.extend([
                format!("{:+.1}", 100.0 * found.difference),
                format!("{:+.1} to {:+.1}", 100.0 * found.lower, 100.0 * found.upper),
                found.p_text(),
            ]);
            rows.push(row);
            lines.push(found.sentence(label, &first.0.identity.label));
            let differences = Asked::of(&other.0.identity, other.1).differences(&Asked::of(&first.0.identity, first.1));
            lines.extend(doubt(&first.0.identity.label, &differences).map(|doubt| format!("  warning: {doubt}")));
            comparisons.push(Compared {
                benchmark: name.to_owned(),
                label: label.clone(),
                comparison: found,
                differences,
            });
        }
        out.push_str(&format!("{name} ({} problems)\n{}{}\n\n", first.1.data.items, columns(&rows), lines.join("\n")));
    }
    if comparisons.is_empty() {
        return Err(Error::NotComparable("no two reports share a benchmark with the same problems".to_owned()));
    }
    Ok((out.trim_end().to_owned() + "\n", comparisons))
}
