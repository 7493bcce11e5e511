//! `summary.json`: what a script wants to know, base and final side by side for each benchmark.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Entry, Report};
use crate::metrics::{Conclusion, Results};
use crate::sensitivity::Mode;

/// Accuracy of one model.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Side {
    /// avg@n.
    pub accuracy: f64,
    /// Lower end of the 95 % interval.
    pub lower: f64,
    /// Upper end of the 95 % interval.
    pub upper: f64,
    /// Problems.
    pub n: usize,
    /// Samples a problem.
    pub samples: usize,
    /// avg@n under the grader named `lenient`; `None` when it was not asked.
    pub lenient_accuracy: Option<f64>,
    /// Share of samples that the token limit cut.
    pub truncated: f64,
    /// Mean length of a completion, in tokens.
    pub mean_tokens: f64,
    /// Tokens generated.
    pub tokens: usize,
}

/// One benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Row {
    /// The first other model, which in a run is the one before training.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<Side>,
    /// The reported model.
    pub r#final: Side,
    /// Final less base.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub difference: Option<f64>,
    /// Lower end of the difference's 95 % interval.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub difference_lower: Option<f64>,
    /// Upper end of the difference's 95 % interval.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub difference_upper: Option<f64>,
    /// Two-sided p of the difference.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p: Option<f64>,
    /// What may be said of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conclusion: Option<Conclusion>,
}

/// A report in a few numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Summary {
    /// Each benchmark by its name.
    pub benchmarks: BTreeMap<String, Row>,
    /// Wall time of the evaluation, or of the run where the caller sets it.
    pub seconds: f64,
    /// Tokens generated, or sampled and trained on in the run where the caller sets it.
    pub tokens: u64,
    /// Version of candlewick.
    pub version: String,
}

/// The summary of a report; `seconds` and `tokens` are the report's own: set them to count a whole run.
pub fn summary(report: &Report) -> Summary {
    Summary {
        benchmarks: report.benchmarks.iter().map(|entry| (entry.data.benchmark.clone(), row(entry))).collect(),
        seconds: report.identity.seconds,
        tokens: report.identity.tokens as u64,
        version: report.identity.version.clone(),
    }
}

fn row(entry: &Entry) -> Row {
    let base = entry.against.first();
    let comparison = base.map(|base| &base.comparison);
    Row {
        base: base.map(|base| side(&base.results, &base.sensitivity)),
        r#final: side(&entry.results, &entry.sensitivity),
        difference: comparison.map(|found| found.difference),
        difference_lower: comparison.map(|found| found.lower),
        difference_upper: comparison.map(|found| found.upper),
        p: comparison.map(|found| found.p),
        conclusion: comparison.map(|found| found.conclusion),
    }
}

fn side(results: &Results, modes: &[Mode]) -> Side {
    Side {
        accuracy: results.accuracy.value,
        lower: results.accuracy.lower,
        upper: results.accuracy.upper,
        n: results.problems,
        samples: results.samples,
        lenient_accuracy: modes.iter().find(|mode| mode.name == "lenient").map(|mode| mode.accuracy.value),
        truncated: results.truncated.share,
        mean_tokens: results.lengths.mean,
        tokens: results.lengths.total,
    }
}
