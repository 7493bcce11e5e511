//! `summary.json`: what a script wants to know of a run, base and final side by side.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Entry, Report};
use crate::metrics::{Conclusion, Results};
use crate::sensitivity::Mode;
use crate::{Error, Result};

/// Accuracy of one model.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Side {
    /// avg@n.
    pub accuracy: f64,
    /// Problems.
    pub n: usize,
    /// Samples a problem.
    pub samples: usize,
    /// Lower end of the 95 % interval.
    pub lower: f64,
    /// Upper end of the 95 % interval.
    pub upper: f64,
    /// avg@n under the grader named `lenient`; `None` when it was not asked.
    pub lenient_accuracy: Option<f64>,
    /// Mean length of a completion, in tokens.
    pub mean_tokens: f64,
}

/// The run in a few numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Summary {
    /// The benchmark they are of: the report's first.
    pub benchmark: String,
    /// The model before training, when it was evaluated.
    pub base: Option<Side>,
    /// The reported model.
    pub r#final: Side,
    /// Final less base.
    pub difference: Option<f64>,
    /// Lower end of the difference's 95 % interval.
    pub difference_lower: Option<f64>,
    /// Upper end of the difference's 95 % interval.
    pub difference_upper: Option<f64>,
    /// Two-sided p of the difference.
    pub p: Option<f64>,
    /// What may be said of it.
    pub conclusion: Option<Conclusion>,
    /// Wall time of the evaluation, or of the run where the caller sets it.
    pub seconds: f64,
    /// Tokens generated, or generated in the run where the caller sets it.
    pub tokens: usize,
}

/// The summary of a report's first benchmark, against its first other model.
///
/// `seconds` and `tokens` are the report's own; set them to count a whole run. Errors: [`Error::Empty`].
pub fn summary(report: &Report) -> Result<Summary> {
    let entry: &Entry = report.benchmarks.first().ok_or_else(|| Error::Empty("the report".to_owned()))?;
    let base = entry.against.first();
    let comparison = base.map(|base| &base.comparison);
    Ok(Summary {
        benchmark: entry.data.benchmark.clone(),
        base: base.map(|base| side(&base.results, &base.sensitivity)),
        r#final: side(&entry.results, &entry.sensitivity),
        difference: comparison.map(|found| found.difference),
        difference_lower: comparison.map(|found| found.lower),
        difference_upper: comparison.map(|found| found.upper),
        p: comparison.map(|found| found.p),
        conclusion: comparison.map(|found| found.conclusion),
        seconds: report.identity.seconds,
        tokens: report.identity.tokens,
    })
}

fn side(results: &Results, modes: &[Mode]) -> Side {
    Side {
        accuracy: results.accuracy.value,
        n: results.problems,
        samples: results.samples,
        lower: results.accuracy.lower,
        upper: results.accuracy.upper,
        lenient_accuracy: modes.iter().find(|mode| mode.name == "lenient").map(|mode| mode.accuracy.value),
        mean_tokens: results.lengths.mean,
    }
}
