//! Learning curves of a run, from its metrics and evaluations: in the report, and as SVG files beside it.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result};
use candlewick_eval::report::{Curve, Point, Preference, histogram_figure, scatter_figure, write_figure};
use serde_json::Value;

use super::checkpoint::State;
use super::folder::RunFolder;
use super::ranking::Measured;

/// One figure of what stands in `metrics.jsonl`.
struct Figure {
    title: &'static str,
    file: &'static str,
    unit: &'static str,
    /// Metric and name of each curve; `*` stands for the objective's name.
    lines: &'static [(&'static str, &'static str)],
}

/// What is drawn, where the run recorded it.
const FIGURES: [Figure; 11] = [
    Figure {
        title: "Share of right completions while training",
        file: "accuracy.svg",
        unit: "",
        lines: &[("reward/accuracy", "accuracy while training")],
    },
    Figure {
        title: "Mean length of a completion",
        file: "tokens.svg",
        unit: "tokens",
        lines: &[("rollout/tokens_mean", "length")],
    },
    Figure {
        title: "Entropy of the policy",
        file: "entropy.svg",
        unit: "nats",
        lines: &[("rollout/entropy", "entropy")],
    },
    Figure { title: "Loss", file: "loss.svg", unit: "", lines: &[("objective/loss", "loss")] },
    Figure {
        title: "reward accuracy of pairs",
        file: "reward_accuracy.svg",
        unit: "",
        lines: &[("objective/*/reward_accuracy", "training batch"), ("eval/reward_accuracy", "held out")],
    },
    Figure {
        title: "reward margin of pairs",
        file: "margin.svg",
        unit: "",
        lines: &[("objective/*/reward_margin", "training batch"), ("eval/reward_margin", "held out")],
    },
    Figure {
        title: "ranking accuracy of held-out pairs",
        file: "ranking.svg",
        unit: "",
        lines: &[
            ("eval/ranking_accuracy", "policy"),
            ("eval/reference_accuracy", "reference"),
            ("eval/ideal_accuracy_median", "idealised, median over beta"),
        ],
    },
    Figure {
        title: "ranking accuracy of held-out pairs, a token",
        file: "ranking_normalised.svg",
        unit: "",
        lines: &[
            ("eval/ranking_accuracy_normalised", "policy"),
            ("eval/reference_accuracy_normalised", "reference"),
            ("eval/ideal_accuracy_normalised_median", "idealised, median over beta"),
        ],
    },
    Figure {
        title: "log-probs of held-out answers",
        file: "logps.svg",
        unit: "nats",
        lines: &[("eval/logp_chosen", "chosen"), ("eval/logp_rejected", "rejected")],
    },
    Figure {
        title: "log-probs of the answers in a batch",
        file: "logps_training.svg",
        unit: "nats",
        lines: &[("objective/*/logp_chosen", "chosen"), ("objective/*/logp_rejected", "rejected")],
    },
    Figure {
        title: "rewards of the answers in a batch",
        file: "rewards.svg",
        unit: "",
        lines: &[("objective/*/reward_chosen", "chosen"), ("objective/*/reward_rejected", "rejected")],
    },
];

/// The held-out accuracy of each benchmark with its interval, then the curves of the metrics that the run recorded.
///
/// `before` is what held-out pairs said before the first step, where there are any.
pub fn curves(folder: &RunFolder, state: &State, before: Option<&Measured>) -> Result<Vec<Curve>> {
    let mut curves = Vec::new();
    let names: BTreeSet<&str> = state.held_out.iter().map(|found| found.benchmark.as_str()).collect();
    for name in names {
        let of = state.held_out.iter().filter(|found| found.benchmark == name);
        let point = |found: &super::checkpoint::HeldOut| Point {
            step: found.step as f64,
            value: found.value,
            lower: Some(found.lower),
            upper: Some(found.upper),
        };
        let points: Vec<Point> = of.map(point).collect();
        if points.len() > 1 {
            curves.push(Curve { name: format!("{name} accuracy"), unit: String::new(), figure: None, points });
        }
    }
    let path = folder.join("metrics.jsonl");
    let text = std::fs::read_to_string(&path).with_context(|| format!("{} cannot be read", path.display()))?;
    let rows: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    for figure in &FIGURES {
        for (metric, name) in figure.lines {
            let point = |row: &Value| Some(Point::new(row["step"].as_f64()?, of_row(row, metric)?));
            let start = before.and_then(|before| at_start(before, metric));
            let points: Vec<Point> =
                start.map(|value| Point::new(0.0, value)).into_iter().chain(rows.iter().filter_map(point)).collect();
            if points.len() > 1 {
                let shared = (figure.lines.len() > 1).then(|| figure.title.to_owned());
                curves.push(Curve { name: (*name).to_owned(), unit: figure.unit.to_owned(), figure: shared, points });
            }
        }
    }
    Ok(curves)
}

/// A metric of a row, under whatever name the objective has.
fn of_row(row: &Value, metric: &str) -> Option<f64> {
    let Some((before, after)) = metric.split_once('*') else { return row[metric].as_f64() };
    let is_it = |name: &str| {
        let middle = name.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
        middle.is_some_and(|middle| !middle.contains('/'))
    };
    row.as_object()?.iter().find(|(name, _)| is_it(name))?.1.as_f64()
}

/// What held-out pairs said before the first step. While the policy is still its reference all rewards are equal, and an
/// accuracy of them says nothing.
fn at_start(before: &Measured, metric: &str) -> Option<f64> {
    let value = before.get(metric.strip_prefix("eval/")?)?;
    let is_void = metric == "eval/reward_accuracy" && before.get("reward_margin") == Some(0.0);
    (value.is_finite() && !is_void).then_some(value)
}

/// Draws the curves into the report's folder: a file each for the metrics, one for held-out accuracy, and those of
/// held-out pairs.
pub fn write(report: &Path, curves: &[Curve], preference: Option<&Preference>) -> Result<()> {
    for figure in &FIGURES {
        let is_own = |curve: &&Curve| match &curve.figure {
            Some(title) => title == figure.title,
            None => figure.lines.len() == 1 && curve.name == figure.lines[0].1,
        };
        let own: Vec<Curve> = curves.iter().filter(is_own).cloned().collect();
        if !own.is_empty() {
            write_figure(&report.join(figure.file), &capital(figure.title), &own)?;
        }
    }
    let held_out: Vec<Curve> =
        curves.iter().filter(|curve| curve.points.iter().any(|p| p.lower.is_some())).cloned().collect();
    if !held_out.is_empty() {
        write_figure(&report.join("held_out.svg"), "Held-out accuracy with 95 % intervals", &held_out)?;
    }
    let Some(preference) = preference else { return Ok(()) };
    for (at, histogram) in preference.histograms.iter().enumerate() {
        histogram_figure(&report.join(format!("pairs_{}.svg", at + 1)), histogram)?;
    }
    if let Some(scatter) = &preference.scatter {
        scatter_figure(&report.join("pairs_threshold.svg"), scatter)?;
    }
    Ok(())
}

fn capital(title: &str) -> String {
    let mut letters = title.chars();
    letters.next().map_or(String::new(), |first| format!("{}{}", first.to_uppercase(), letters.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_metric_is_found_under_any_objective() {
        let row = json!({"step": 1, "objective/loss": 0.5, "objective/dpo/reward_margin": 0.25, "objective/dpo/a/reward_margin": 9.0});
        assert_eq!(of_row(&row, "objective/*/reward_margin"), Some(0.25));
        assert_eq!(of_row(&row, "objective/loss"), Some(0.5));
        assert_eq!(of_row(&row, "objective/*/logp_chosen"), None);
    }
}
