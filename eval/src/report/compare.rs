//! Several reports side by side: every one against the first, benchmark by benchmark.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::asked::{Asked, doubt};
use super::table::{columns, percent, range};
use super::{Data, Entry, Open, Report};
use crate::metrics::{Comparison, Score, WinRate, compare};
use crate::{Error, Result};

/// One report held against the first that has the benchmark.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Compared {
    /// The benchmark.
    pub benchmark: String,
    /// The later report's label.
    pub label: String,
    /// The first report's label.
    pub baseline: String,
    /// The later report's model compared with the first's; `None` on open prompts, where nothing is right or wrong.
    pub comparison: Option<Comparison>,
    /// How often the later report's model beats the first's; filled in by whoever asks for it.
    #[serde(default)]
    pub win_rates: Vec<WinRate>,
    /// What of the asking differs, each as `temperature 1, not 0`.
    pub differences: Vec<String>,
    /// Places of the first and the later report in the list that was compared.
    pub reports: [usize; 2],
}

/// Tables and sentences for `candlewick compare`: each benchmark that at least two reports share, the first
/// report with it being the one the others are compared with; and the comparisons themselves.
///
/// Two reports share a benchmark when its name and the hash of its problems are the same. A benchmark of the same
/// name with other problems is left out and said so; what differs in how the models were asked stands under each
/// sentence. Open prompts follow the benchmarks. Errors: [`Error::NotComparable`] when nothing is shared.
pub fn compare_reports(reports: &[Report], seed: u64) -> Result<(String, Vec<Compared>)> {
    let mut out = String::new();
    let mut comparisons = Vec::new();
    for with in by_name(reports, |report| report.benchmarks.iter().map(|entry| Held::graded(report, entry)).collect()) {
        let head = ["model", "samples", "accuracy", "95 % interval", "difference", "95 % interval", "p"];
        out.push_str(&side_by_side(reports, &head, "problems", &with, seed, &mut comparisons)?);
    }
    for with in by_name(reports, |report| report.open.iter().map(|set| Held::open(report, set)).collect()) {
        let head = ["model", "samples", "tokens", "truncated"];
        out.push_str(&side_by_side(reports, &head, "open prompts", &with, seed, &mut comparisons)?);
    }
    if comparisons.is_empty() {
        return Err(Error::NotComparable("no two reports share a benchmark with the same problems".to_owned()));
    }
    Ok((out.trim_end().to_owned() + "\n", comparisons))
}

/// A set of one report, graded or open.
struct Held<'a> {
    data: &'a Data,
    asked: Asked<'a>,
    /// The cells beside the model's label.
    cells: Vec<String>,
    /// What the paired test needs; `None` for open prompts.
    scores: Option<&'a [Score]>,
}

impl<'a> Held<'a> {
    fn graded(report: &'a Report, entry: &'a Entry) -> Self {
        let results = &entry.results;
        let accuracy = &results.accuracy;
        Self {
            data: &entry.data,
            asked: Asked::of(&report.identity, entry),
            cells: vec![results.samples.to_string(), percent(accuracy.value), range(accuracy)],
            scores: Some(&results.scores),
        }
    }

    fn open(report: &'a Report, set: &'a Open) -> Self {
        let template = report.identity.template_sha256.as_deref();
        Self {
            data: &set.data,
            asked: Asked { protocol: &set.protocol, samples: set.samples, template },
            cells: vec![set.samples.to_string(), format!("{:.0}", set.lengths.mean), percent(set.truncated.share)],
            scores: None,
        }
    }
}

/// The sets that at least two reports have by name, in the order in which they first occur, each with its report's place.
fn by_name<'a>(reports: &'a [Report], sets: impl Fn(&'a Report) -> Vec<Held<'a>>) -> Vec<Vec<(usize, Held<'a>)>> {
    let mut named: Vec<Vec<(usize, Held)>> = Vec::new();
    for (place, report) in reports.iter().enumerate() {
        for set in sets(report) {
            match named.iter_mut().find(|with| with[0].1.data.benchmark == set.data.benchmark) {
                Some(with) => with.push((place, set)),
                None => named.push(vec![(place, set)]),
            }
        }
    }
    named.retain(|with| with.len() > 1);
    named
}

/// One set's table, the first report's model being the one that the others are held against, and the sentences below it.
fn side_by_side(
    reports: &[Report],
    head: &[&str],
    what: &str,
    with: &[(usize, Held)],
    seed: u64,
    comparisons: &mut Vec<Compared>,
) -> Result<String> {
    let label = |place: usize| reports[place].identity.label.clone();
    let ((first_place, first), rest) = with.split_first().expect("two reports share the name");
    let own = |place: usize, held: &Held| -> Vec<String> { [vec![label(place)], held.cells.clone()].concat() };
    let mut rows = vec![head.iter().map(|cell| (*cell).to_owned()).collect(), own(*first_place, first)];
    let (name, baseline) = (&first.data.benchmark, label(*first_place));
    let mut lines = Vec::new();
    for (place, other) in rest {
        let label = label(*place);
        if other.data.sha256 != first.data.sha256 {
            let hash = &other.data.sha256;
            lines.push(format!("{label} was asked other {what} (SHA-256 {hash:.12}): not compared"));
            continue;
        }
        let mut row = own(*place, other);
        let comparison = match first.scores.zip(other.scores) {
            Some((theirs, own)) => Some(compare(theirs, own, seed)?),
            None => None,
        };
        if let Some(found) = &comparison {
            row.extend([
                format!("{:+.1}", 100.0 * found.difference),
                format!("{:+.1} to {:+.1}", 100.0 * found.lower, 100.0 * found.upper),
                found.p_text(),
            ]);
            lines.push(found.sentence(&label, &baseline));
        }
        rows.push(row);
        let differences = other.asked.differences(&first.asked);
        lines.extend(doubt(&baseline, &differences).map(|doubt| format!("  warning: {doubt}")));
        comparisons.push(Compared {
            benchmark: name.clone(),
            label,
            baseline: baseline.clone(),
            comparison,
            win_rates: Vec::new(),
            differences,
            reports: [*first_place, *place],
        });
    }
    let lines: String = lines.iter().map(|line| format!("{line}\n")).collect();
    Ok(format!("{name} ({} {what})\n{}{lines}\n", first.data.items, columns(&rows)))
}
