//! Learning curves of a run, from its metrics and evaluations: in the report, and as SVG files beside it.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result};
use candlewick_eval::report::{Curve, Point, write_figure};

use super::checkpoint::State;
use super::folder::RunFolder;

/// What is drawn of `metrics.jsonl`: metric, name of the curve, unit, title, file.
const METRICS: [(&str, &str, &str, &str, &str); 4] = [
    ("reward/accuracy", "accuracy while training", "", "Share of right completions while training", "accuracy.svg"),
    ("rollout/tokens_mean", "length", "tokens", "Mean length of a completion", "tokens.svg"),
    ("rollout/entropy", "entropy", "nats", "Entropy of the policy", "entropy.svg"),
    ("objective/loss", "loss", "", "Loss", "loss.svg"),
];

/// The held-out accuracy of each benchmark with its interval, then the curves of the metrics that the run recorded.
pub fn curves(folder: &RunFolder, state: &State) -> Result<Vec<Curve>> {
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
            curves.push(Curve { name: format!("{name} accuracy"), unit: String::new(), points });
        }
    }
    let path = folder.join("metrics.jsonl");
    let text = std::fs::read_to_string(&path).with_context(|| format!("{} cannot be read", path.display()))?;
    let rows: Vec<serde_json::Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    for (metric, name, unit, ..) in METRICS {
        let point = |row: &serde_json::Value| Some(Point::new(row["step"].as_f64()?, row[metric].as_f64()?));
        let points: Vec<Point> = rows.iter().filter_map(point).collect();
        if points.len() > 1 {
            curves.push(Curve { name: name.to_owned(), unit: unit.to_owned(), points });
        }
    }
    Ok(curves)
}

/// Draws the curves into the report's folder: a file each for the metrics, one for held-out accuracy.
pub fn write(report: &Path, curves: &[Curve]) -> Result<()> {
    for (_, name, _, title, file) in METRICS {
        if let Some(curve) = curves.iter().find(|curve| curve.name == name) {
            write_figure(&report.join(file), title, std::slice::from_ref(curve))?;
        }
    }
    let held_out: Vec<Curve> =
        curves.iter().filter(|curve| curve.points.iter().any(|p| p.lower.is_some())).cloned().collect();
    if !held_out.is_empty() {
        write_figure(&report.join("held_out.svg"), "Held-out accuracy with 95 % intervals", &held_out)?;
    }
    Ok(())
}
