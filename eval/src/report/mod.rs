//! The report: one structure, and the forms it is written in.
//!
//! `report.json` is the structure itself, `report.md` and `report.html` are for people, `summary.json` for scripts,
//! and lm-evaluation-harness's results and samples files for tools that know those.

use crate::metrics::{Results, Score, WinRate, compare, estimate, macro_mean};
use crate::sample::Sample;
use crate::sensitivity::{self, Mode, applicable, spread};
use crate::{Error, Result};

mod asked;
mod chart;
mod compare;
mod comparison;
mod figure;
mod harness;
mod html;
mod markdown;
mod open;
mod pair_charts;
mod preference;
mod schema;
mod summary;
mod table;
mod win_rates;
mod written;

pub use asked::Asked;
pub use compare::{Compared, compare_reports};
pub use comparison::{comparison_table, write_comparison};
pub use figure::{figure, write_figure};
pub use harness::{harness_results, harness_samples};
pub use html::{SAMPLE_BYTES, html};
pub use markdown::markdown;
pub use open::{Open, OpenAgainst};
pub use pair_charts::{histogram_figure, scatter_figure};
pub use preference::{AuditLine, Dot, Flip, Histogram, PairAccuracy, Preference, Quantity, Scatter, Series};
pub use schema::{Against, Curve, Data, Entry, Identity, Other, Overall, Point, Protocol, Report, SCHEMA, Token};
pub use summary::{Row, Side, Summary, summary};
pub use table::{columns, table};
pub use written::Written;

/// Share of truncated samples above which a report warns.
pub const TRUNCATED: f64 = 0.05;
/// Telling failures a report holds for each benchmark.
pub const FAILURES: usize = 10;

impl Entry {
    /// A benchmark's part of a report, with the warnings that follow from its numbers.
    ///
    /// `sensitivity` may be empty. Failures are chosen by [`failures`].
    pub fn new(data: Data, protocol: Protocol, results: Results, sensitivity: Vec<Mode>, samples: &[Sample]) -> Self {
        let warnings = warnings(&data, &protocol, &results, &sensitivity);
        let failures = failures(samples, &[], FAILURES);
        Self { data, protocol, results, sensitivity, wordings: None, against: Vec::new(), warnings, failures }
    }

    /// Adds another model's results on the same problems, and compares.
    ///
    /// `samples` are this entry's own: those lost against the other model come first among the failures.
    /// Errors: [`Error::NotComparable`] when the problems differ.
    pub fn against(&mut self, other: Other, samples: &[Sample], seed: u64) -> Result<()> {
        let comparison = compare(&other.results.scores, &self.results.scores, seed)?;
        if self.against.is_empty() {
            self.failures = failures(samples, &comparison.lost, FAILURES);
        }
        let Other { label, results, sensitivity, differences } = other;
        let win_rates = vec![WinRate::by_verdict(&results, &self.results, &comparison)?];
        self.against.push(Against { label, results, sensitivity, comparison, win_rates, differences });
        Ok(())
    }
}

impl Against {
    /// What to know before the comparison is believed; nothing where both models were asked alike.
    pub fn doubt(&self) -> Option<String> {
        asked::doubt(&self.label, &self.differences)
    }
}

fn warnings(data: &Data, protocol: &Protocol, results: &Results, modes: &[Mode]) -> Vec<String> {
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    let mut warnings = Vec::new();
    if spread(modes) > sensitivity::SPREAD {
        let by_value = |a: &&Mode, b: &&Mode| a.accuracy.value.total_cmp(&b.accuracy.value);
        let modes = applicable(modes);
        if let (Some(least), Some(most)) =
            (modes.iter().copied().min_by(by_value), modes.iter().copied().max_by(by_value))
        {
            warnings.push(format!(
                "accuracy depends on the grader, from {} ({}) to {} ({}); see the table of graders",
                percent(least.accuracy.value),
                least.name,
                percent(most.accuracy.value),
                most.name
            ));
        }
    }
    if results.accuracy_finished.is_none() {
        warnings.push(format!(
            "no completion ended by itself within {} tokens: the model gives no end-of-text token; check the prompt's form and the checkpoint's `eos_token_id`, or raise the limit",
            protocol.max_tokens
        ));
    } else if results.truncated.share > TRUNCATED {
        let finished = results.accuracy_finished.map_or("none finished".to_owned(), |accuracy| {
            format!("accuracy among the finished is {}", percent(accuracy))
        });
        warnings.push(format!(
            "{} of the completions were cut at {} tokens; {finished}: raise the limit",
            percent(results.truncated.share),
            protocol.max_tokens
        ));
    }
    if let Some(published) = data.published_items.filter(|published| *published != data.items) {
        warnings
            .push(format!("{} of {published} published problems: not comparable with published scores", data.items));
    }
    if let Some(found) = &data.contamination {
        let hits = found.exact + found.normalised + found.run;
        if hits > 0 {
            warnings.push(format!(
                "{hits} problems overlap with `{}` ({} exact, {} normalised, {} by a run of 13 words); {} taken out",
                found.training,
                found.exact,
                found.normalised,
                found.run,
                found.removed.len()
            ));
        }
    }
    if results.grader_timeout.count > 0 {
        warnings
            .push(format!("{} samples ran the grader out of time and count as wrong", results.grader_timeout.count));
    }
    if results.flags.contains_key("gold_unparsable") {
        warnings.push("some reference answers could not be parsed and were compared as text".to_owned());
    }
    if results.problems < 100 && results.samples < 10 {
        warnings.push(format!(
            "{} problems: one of them is {:.1} points, so draw at least 10 samples each before reading much into a difference",
            results.problems,
            100.0 / results.problems as f64
        ));
    }
    warnings
}

/// The most telling failures, at most `limit`, one a problem: lost against the base first, then what another grader
/// accepts, then refused with an answer, then truncated, then without an answer; in the order of `samples` within each kind.
pub fn failures(samples: &[Sample], lost: &[String], limit: usize) -> Vec<Sample> {
    let rank = |sample: &Sample| match sample {
        sample if lost.contains(&sample.completion.item) => 0,
        sample if !sample.accepted_by.is_empty() => 1,
        sample if sample.is_truncated() => 3,
        sample if sample.verdict.extracted.is_none() => 4,
        _ => 2,
    };
    let mut wrong: Vec<&Sample> = samples.iter().filter(|sample| !sample.verdict.correct).collect();
    wrong.sort_by_key(|sample| rank(sample));
    let mut seen = std::collections::HashSet::new();
    wrong.retain(|sample| seen.insert(sample.completion.item.as_str()));
    wrong.into_iter().take(limit).cloned().collect()
}

impl Report {
    /// A report of the given benchmarks; the overall means are added when there are several.
    ///
    /// Errors: [`Error::Empty`] without a benchmark.
    pub fn new(identity: Identity, benchmarks: Vec<Entry>) -> Result<Self> {
        Self::with(identity, benchmarks, Vec::new(), None)
    }

    /// The same with sets of open prompts and what became of held-out pairs; any of the three is enough.
    ///
    /// Errors: [`Error::Empty`] without any.
    pub fn with(
        identity: Identity,
        benchmarks: Vec<Entry>,
        open: Vec<Open>,
        preference: Option<Preference>,
    ) -> Result<Self> {
        let overall = match benchmarks.len() {
            0 if open.is_empty() && preference.is_none() => return Err(Error::Empty("the report".to_owned())),
            0 | 1 => None,
            _ => {
                let parts: Vec<_> = benchmarks.iter().map(|entry| entry.results.accuracy).collect();
                let rates: Vec<f64> =
                    benchmarks.iter().flat_map(|entry| entry.results.scores.iter().map(Score::rate)).collect();
                let samples = benchmarks.iter().map(|entry| entry.results.samples).max().unwrap_or(1);
                Some(Overall { macro_mean: macro_mean(&parts)?, micro_mean: estimate(&rates, samples)? })
            }
        };
        let schema = SCHEMA.to_owned();
        let (training, notes) = (Vec::new(), Vec::new());
        Ok(Self { schema, identity, overall, benchmarks, open, preference, training, notes })
    }

    /// Reads `report.json`.
    ///
    /// Errors: [`Error::Schema`] for another version, [`Error::Json`] for anything else that is not a report.
    pub fn from_json(text: &str) -> Result<Self> {
        let value: serde_json::Value = serde_json::from_str(text)?;
        match value.get("schema").and_then(serde_json::Value::as_str) {
            Some(SCHEMA) => Ok(serde_json::from_value(value)?),
            other => Err(Error::Schema { found: other.unwrap_or("none").to_owned(), expected: SCHEMA.to_owned() }),
        }
    }
}
