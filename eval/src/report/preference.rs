//! What a run on preferences did to held-out pairs: numbers before and after, the flip table, distributions, the data.
//!
//! The numbers come from outside; here are their shape in a report, and the tables that every form of it shares. The
//! quantities are those of "Preference Learning Algorithms Do Not Learn Preference Rankings" (arXiv 2405.19534).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::table::percent;

/// Held-out pairs before and after training.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Preference {
    /// Held-out pairs.
    pub pairs: usize,
    /// beta of rewards, losses and margins; `None` for a reward model, whose scores have none.
    pub beta: Option<f64>,
    /// Where the share of raters behind the idealised accuracy comes from, in words; empty where there is none.
    pub rater_shares: String,
    /// Shares of pairs ranked rightly.
    pub accuracies: Vec<PairAccuracy>,
    /// Everything else that was measured.
    pub quantities: Vec<Quantity>,
    /// Pairs by whether the reference and then the policy rank them rightly; empty without a reference.
    pub flips: Vec<Flip>,
    /// Distributions over pairs.
    pub histograms: Vec<Histogram>,
    /// Pairs by what it takes to rank them rightly and by their loss.
    pub scatter: Option<Scatter>,
    /// What was found in the data.
    pub audit: Vec<AuditLine>,
}

/// A share of pairs, each as value, lower and upper end of its 95 % interval, or of a range that its name tells.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PairAccuracy {
    /// Which.
    pub name: String,
    /// Under the model that training started from.
    pub before: Option<[f64; 3]>,
    /// Under the trained one.
    pub after: Option<[f64; 3]>,
}

/// A number before and after training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Quantity {
    /// What it is.
    pub name: String,
    /// Its unit: `%` for a share, which is kept as one, `nats`, or empty.
    pub unit: String,
    /// Before training.
    pub before: Option<f64>,
    /// After.
    pub after: Option<f64>,
}

/// One cell of the flip table.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Flip {
    /// Whether the reference ranks these pairs rightly.
    pub was_right: bool,
    /// Whether the policy does.
    pub is_right: bool,
    /// Pairs in it.
    pub pairs: usize,
    /// Share of all pairs.
    pub share: f64,
    /// Their mean loss; `None` for an empty cell.
    pub loss: Option<f64>,
    /// Their mean reward margin.
    pub margin: Option<f64>,
}

/// Counts over bins that touch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Histogram {
    /// What is counted.
    pub title: String,
    /// The axis with its unit.
    pub x_label: String,
    /// Bounds of the bins, one more than there are bins, rising.
    pub edges: Vec<f64>,
    /// Counts, a list of one a bin each.
    pub series: Vec<Series>,
    /// Whether the series are parts of one whole, drawn on top of each other.
    pub is_stacked: bool,
    /// A place on the axis that means something, such as 0.
    pub mark: Option<f64>,
}

/// Named counts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Series {
    /// What they count.
    pub name: String,
    /// One a bin.
    pub counts: Vec<usize>,
}

/// Points of two kinds and a curve that parts them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Scatter {
    /// What is shown.
    pub title: String,
    /// The horizontal axis.
    pub x_label: String,
    /// The vertical axis.
    pub y_label: String,
    /// The points.
    pub points: Vec<Dot>,
    /// What the curve is.
    pub curve_name: String,
    /// x and y along it.
    pub curve: Vec<[f64; 2]>,
}

/// A point of a scatter.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Dot {
    /// Horizontal.
    pub x: f64,
    /// Vertical.
    pub y: f64,
    /// Which of the two kinds.
    pub is_right: bool,
}

/// One finding about the data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AuditLine {
    /// What.
    pub what: String,
    /// In the training data.
    pub training: String,
    /// In the held-out pairs.
    pub held_out: String,
}

impl Preference {
    /// What it is about, in one sentence.
    pub(super) fn sentence(&self) -> String {
        let beta = self.beta.map_or(String::new(), |beta| format!(", beta {beta}"));
        let shares = match self.rater_shares.is_empty() {
            true => String::new(),
            false => format!("; share of raters behind the idealised accuracy: {}", self.rater_shares),
        };
        format!("{} held-out pairs{beta}{shares}.", self.pairs)
    }

    /// Head and rows of the accuracies, then of the other quantities.
    pub(super) fn rows(&self) -> Vec<Vec<String>> {
        let mut rows = vec![["quantity", "before", "after"].map(String::from).to_vec()];
        let three = |found: &Option<[f64; 3]>| match found {
            Some([value, lower, upper]) => {
                format!("{} ({:.1} to {:.1})", percent(*value), 100.0 * lower, 100.0 * upper)
            }
            None => "\u{2013}".to_owned(),
        };
        rows.extend(self.accuracies.iter().map(|one| vec![one.name.clone(), three(&one.before), three(&one.after)]));
        let number = |value: &Option<f64>, unit: &str| match (value, unit) {
            (None, _) => "\u{2013}".to_owned(),
            (Some(value), "%") => percent(*value),
            (Some(value), "") => format!("{value:.4}"),
            (Some(value), unit) => format!("{value:.3} {unit}"),
        };
        rows.extend(
            self.quantities
                .iter()
                .map(|one| vec![one.name.clone(), number(&one.before, &one.unit), number(&one.after, &one.unit)]),
        );
        rows
    }

    /// The flip table's head and rows; empty without one.
    pub(super) fn flip_rows(&self) -> Vec<Vec<String>> {
        if self.flips.is_empty() {
            return Vec::new();
        }
        let mut rows =
            vec![["reference", "policy", "pairs", "share", "mean loss", "mean margin"].map(String::from).to_vec()];
        let word = |is_right: bool| if is_right { "right" } else { "wrong" }.to_owned();
        let number = |value: Option<f64>| value.map_or("\u{2013}".to_owned(), |value| format!("{value:.4}"));
        rows.extend(self.flips.iter().map(|flip| {
            vec![
                word(flip.was_right),
                word(flip.is_right),
                flip.pairs.to_string(),
                percent(flip.share),
                number(flip.loss),
                number(flip.margin),
            ]
        }));
        rows
    }

    /// The data's head and rows; empty without any.
    pub(super) fn audit_rows(&self) -> Vec<Vec<String>> {
        if self.audit.is_empty() {
            return Vec::new();
        }
        let mut rows = vec![["data", "training", "held out"].map(String::from).to_vec()];
        rows.extend(self.audit.iter().map(|l| vec![l.what.clone(), l.training.clone(), l.held_out.clone()]));
        rows
    }
}
