//! The forms of a comparison of reports: the terminal's win rates, and `comparison.json`, `.md` and `.html` in a folder.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::asked::doubt;
use super::table::columns;
use super::win_rates::{self, LEGEND};
use super::{Compared, Identity, Report, html, markdown, written};
use crate::Result;

/// Name and version of the shape of `comparison.json`.
const SCHEMA: &str = "candlewick-comparison/1";

/// What `comparison.json` holds.
#[derive(Serialize)]
struct Whole<'a> {
    schema: &'static str,
    /// Who was compared, in the order of [`Compared::reports`].
    reports: Vec<&'a Identity>,
    comparisons: &'a [Compared],
}

/// The win rates for a terminal, with what to know of the judge; empty where none was asked for.
pub fn comparison_table(compared: &[Compared]) -> String {
    let lines = win_rates::of_compared(compared);
    if lines.is_empty() {
        return String::new();
    }
    let mut out = columns(&win_rates::rows(&lines));
    for line in &lines {
        out.push_str(&format!("{}\n", line.sentence()));
        if let Some(remark) = line.remark() {
            out.push_str(&format!("  {remark}\n"));
        }
    }
    out
}

/// Writes `comparison.json`, `comparison.md` and `comparison.html` into `folder`, which is made if need be; the files in
/// that order. Each appears whole or not at all. Errors: [`crate::Error::File`] names the file.
pub fn write_comparison(folder: &Path, reports: &[Report], compared: &[Compared]) -> Result<Vec<PathBuf>> {
    let whole = Whole {
        schema: SCHEMA,
        reports: reports.iter().map(|report| &report.identity).collect(),
        comparisons: compared,
    };
    let forms = [
        ("comparison.json", serde_json::to_string_pretty(&whole)? + "\n"),
        ("comparison.md", markdown_page(compared)),
        ("comparison.html", html::comparison(compared)),
    ];
    let mut files = Vec::new();
    for (name, text) in forms {
        let path = folder.join(name);
        written::write_whole(&path, &text)?;
        files.push(path);
    }
    Ok(files)
}

/// Head and rows of the paired differences; empty without one.
pub(super) fn difference_rows(compared: &[Compared]) -> Vec<Vec<String>> {
    let head = ["benchmark", "model", "against", "difference", "95 % interval", "p", "gained", "lost"];
    let mut rows = vec![head.map(String::from).to_vec()];
    rows.extend(compared.iter().filter_map(|one| {
        let found = one.comparison.as_ref()?;
        Some(vec![
            one.benchmark.clone(),
            one.label.clone(),
            one.baseline.clone(),
            format!("{:+.1} points", 100.0 * found.difference),
            format!("{:+.1} to {:+.1}", 100.0 * found.lower, 100.0 * found.upper),
            found.p_text(),
            found.gained.len().to_string(),
            found.lost.len().to_string(),
        ])
    }));
    if rows.len() == 1 { Vec::new() } else { rows }
}

/// What makes comparisons doubtful, a sentence each.
pub(super) fn doubts(compared: &[Compared]) -> Vec<String> {
    let of = |one: &Compared| {
        let found = doubt(&one.baseline, &one.differences)?;
        Some(format!("{}, {}: {found}", one.benchmark, one.label))
    };
    compared.iter().filter_map(of).collect()
}

fn markdown_page(compared: &[Compared]) -> String {
    let mut out = String::from("# Comparison\n\n");
    for one in compared {
        if let Some(found) = &one.comparison {
            let sentence = format!("{}: {}", one.benchmark, found.sentence(&one.label, &one.baseline));
            out.push_str(&format!("**{}**\n\n", markdown::escape(&sentence)));
        }
    }
    for doubt in doubts(compared) {
        out.push_str(&format!("> Warning: {}\n\n", markdown::prose(&doubt)));
    }
    let rows = difference_rows(compared);
    if !rows.is_empty() {
        out.push_str(&format!("{}\n", markdown::rows(&rows)));
    }
    out.push_str(&markdown_win_rates(&win_rates::of_compared(compared)));
    out
}

/// Win rates as a Markdown section; empty without one.
pub(super) fn markdown_win_rates(lines: &[win_rates::Line]) -> String {
    if lines.is_empty() {
        return String::new();
    }
    let mut out = format!("\n## Win rate\n\n{}\n{LEGEND}\n", markdown::rows(&win_rates::rows(lines)));
    for line in lines {
        out.push_str(&format!("\n- {}", markdown::escape(&line.sentence())));
        if let Some(remark) = line.remark() {
            out.push_str(&format!(" {}", markdown::prose(&remark)));
        }
    }
    out + "\n"
}
