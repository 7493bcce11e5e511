//! The report on a terminal: aligned columns, no colour, no line wider than its longest cell makes it.

use super::{Against, Entry, Open, Report, win_rates};
use crate::contamination::Contamination;
use crate::metrics::{AtK, Estimate};

/// Rows as aligned columns, the first row being the head; all but the first column flush right.
///
/// Width counts characters. Short rows are filled up with empty cells.
pub fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..count).map(|column| width(column).unwrap_or(0)).collect();
    let mut out = String::new();
    for (at, row) in rows.iter().enumerate() {
        let mut line = String::new();
        for (column, width) in widths.iter().enumerate() {
            let cell = row.get(column).map_or("", String::as_str);
            let fill = " ".repeat(width - cell.chars().count());
            match column {
                0 => line.push_str(&format!("{cell}{fill}")),
                _ => line.push_str(&format!("  {fill}{cell}")),
            }
        }
        out.push_str(line.trim_end());
        out.push('\n');
        if at == 0 {
            let rule: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
            out.push_str(&rule.join("  "));
            out.push('\n');
        }
    }
    out
}

/// `71.3 %`.
pub(super) fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// `67.1 to 75.2 %`.
pub(super) fn range(estimate: &Estimate) -> String {
    format!("{:.1} to {:.1} %", 100.0 * estimate.lower, 100.0 * estimate.upper)
}

/// The last entry, which is the one with the greatest k, when it says more than the first.
pub(super) fn greatest(curve: &[AtK]) -> Option<&AtK> {
    curve.last().filter(|last| last.k > 1)
}

/// Head and rows of the accuracies: one row a model and benchmark.
pub(super) fn accuracy_rows(report: &Report) -> Vec<Vec<String>> {
    let samples = report.benchmarks.iter().map(|entry| entry.results.samples);
    let is_sampled = samples.clone().any(|n| n > 1);
    let mut head: Vec<String> =
        ["benchmark", "model", "problems", "samples", "accuracy", "95 % interval"].map(String::from).into();
    if is_sampled {
        head.extend(["pass@k", "maj@k"].map(String::from));
    }
    head.extend(["truncated", "no answer", "tokens"].map(String::from));
    let mut rows = vec![head];
    for entry in &report.benchmarks {
        let models = entry.against.iter().rev().map(|other| (other.label.as_str(), &other.results));
        for (label, results) in models.chain([(report.identity.label.as_str(), &entry.results)]) {
            let mut row = vec![
                entry.data.benchmark.clone(),
                label.to_owned(),
                results.problems.to_string(),
                results.samples.to_string(),
                percent(results.accuracy.value),
                range(&results.accuracy),
            ];
            if is_sampled {
                let at = |curve: &[AtK]| {
                    greatest(curve).map_or(String::new(), |at| format!("{} ({})", percent(at.estimate.value), at.k))
                };
                row.extend([at(&results.pass), at(&results.majority)]);
            }
            row.extend([
                percent(results.truncated.share),
                percent(results.no_answer.share),
                format!("{:.0}", results.lengths.mean),
            ]);
            rows.push(row);
        }
    }
    rows
}

/// The accuracies' rows for a terminal: problems and samples in one column, short heads, and no model where there is one only.
fn narrow(report: &Report, rows: Vec<Vec<String>>) -> Vec<Vec<String>> {
    let has_others = report.benchmarks.iter().any(|entry| !entry.against.is_empty());
    let row = |(at, mut row): (usize, Vec<String>)| {
        let samples = row.remove(3);
        row[2] = if at == 0 { "asked".to_owned() } else { format!("{} x {samples}", row[2]) };
        if at == 0 {
            for cell in &mut row {
                match cell.as_str() {
                    "truncated" => "cut".clone_into(cell),
                    "no answer" => "silent".clone_into(cell),
                    _ => {}
                }
            }
        }
        if !has_others {
            row.remove(1);
        }
        row
    };
    rows.into_iter().enumerate().map(row).collect()
}

/// A remark as a sentence: with a capital and a full stop.
pub(super) fn as_sentence(remark: &str) -> String {
    let mut letters = remark.trim_end_matches('.').chars();
    letters.next().map_or(String::new(), |first| format!("{}{}.", first.to_uppercase(), letters.as_str()))
}

/// What the check against the training data found.
pub(super) fn contamination_sentence(found: &Contamination) -> String {
    if found.exact + found.normalised + found.run == 0 {
        return format!("None of the {} texts of `{}` holds a problem.", found.texts, found.training);
    }
    format!(
        "Checked against {} texts of `{}`: {} problems stand there word for word, {} more but for case and punctuation, {} more share a run of 13 words; {} were taken out.",
        found.texts,
        found.training,
        found.exact,
        found.normalised,
        found.run,
        found.removed.len()
    )
}

/// What the comparisons say, a sentence each with its comparison.
pub(super) fn sentences(report: &Report) -> Vec<(String, &Against)> {
    let of_entry = |entry: &'_ Entry| -> Vec<String> {
        let sentence = |other: &Against| {
            format!("{}: {}", entry.data.benchmark, other.comparison.sentence(&report.identity.label, &other.label))
        };
        entry.against.iter().map(sentence).collect()
    };
    report.benchmarks.iter().flat_map(|entry| of_entry(entry).into_iter().zip(&entry.against)).collect()
}

/// The report for a terminal, in lines that end in a line break.
pub fn table(report: &Report) -> String {
    let mut out = match report.benchmarks.is_empty() {
        true => String::new(),
        false => columns(&narrow(report, accuracy_rows(report))),
    };
    if !report.open.is_empty() {
        let gap = if out.is_empty() { "" } else { "\n" };
        out.push_str(&format!("{gap}{}", columns(&Open::rows(&report.open, &report.identity.label))));
    }
    if let Some(overall) = &report.overall {
        let of =
            |name: &str, estimate: &Estimate| format!("{name} {} ({})\n", percent(estimate.value), range(estimate));
        out.push('\n');
        out.push_str(&of("mean over benchmarks:", &overall.macro_mean));
        out.push_str(&of("mean over problems:  ", &overall.micro_mean));
    }
    for entry in &report.benchmarks {
        if let Some(found) = &entry.wordings {
            out.push_str(&format!(
                "\n{}: {} wordings: mean {} ({}), worst {}, spread {:.1} points\n",
                entry.data.benchmark,
                found.each.len(),
                percent(found.mean.value),
                range(&found.mean),
                percent(found.worst),
                100.0 * found.spread
            ));
        }
        if let Some(found) = &entry.data.contamination {
            out.push_str(&format!("\n{}: {}\n", entry.data.benchmark, contamination_sentence(found)));
        }
    }
    let sentences = sentences(report);
    if !sentences.is_empty() {
        out.push('\n');
        for (sentence, other) in &sentences {
            out.push_str(&format!("{sentence}\n"));
            if let Some(doubt) = other.doubt() {
                out.push_str(&format!("  warning: {doubt}\n"));
            }
        }
    }
    let lines = win_rates::of_report(report);
    if !lines.is_empty() {
        out.push_str(&format!("\n{}", columns(&win_rates::rows(&lines))));
    }
    for line in lines.iter().filter(|line| line.rate.judging.is_some()) {
        out.push_str(&format!("{}\n", line.sentence()));
        line.remark().iter().for_each(|remark| out.push_str(&format!("  {remark}\n")));
    }
    for note in &report.notes {
        out.push_str(&format!("\nnote: {note}\n"));
    }
    let graded = report.benchmarks.iter().map(|entry| (&entry.data.benchmark, &entry.warnings));
    for (benchmark, warnings) in graded.chain(report.open.iter().map(|set| (&set.data.benchmark, &set.warnings))) {
        for warning in warnings {
            out.push_str(&format!("\nwarning: {benchmark}: {warning}\n"));
        }
    }
    out
}
