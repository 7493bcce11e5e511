//! Figures of a run, drawn from its metrics: accuracy, completion length and entropy by step.

use std::path::Path;

use anyhow::{Context, Result};
use plotters::prelude::*;

use super::folder::RunFolder;

/// What is drawn: metric, title, file.
const FIGURES: [(&str, &str, &str); 6] = [
    ("reward/accuracy", "share of right completions while training", "accuracy.svg"),
    ("rollout/tokens_mean", "mean tokens a completion", "tokens.svg"),
    ("rollout/entropy", "entropy of the policy in nats", "entropy.svg"),
    ("objective/loss", "loss", "loss.svg"),
    ("eval/ranking_accuracy", "share of held-out pairs ranked rightly", "ranking.svg"),
    ("eval/reward_margin", "implicit reward margin of held-out pairs", "margin.svg"),
];

/// Draws every figure whose metric the run recorded into `report/`.
pub fn write(folder: &RunFolder) -> Result<()> {
    let path = folder.join("metrics.jsonl");
    let text = std::fs::read_to_string(&path).with_context(|| format!("{} cannot be read", path.display()))?;
    std::fs::create_dir_all(folder.join("report"))?;
    let rows: Vec<serde_json::Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    for (metric, title, file) in FIGURES {
        let points: Vec<(f64, f64)> =
            rows.iter().filter_map(|r| Some((r["step"].as_f64()?, r[metric].as_f64()?))).collect();
        if points.len() > 1 {
            draw(&folder.join("report").join(file), title, &points)
                .map_err(|error| anyhow::anyhow!("figure `{file}` cannot be drawn: {error}"))?;
        }
    }
    Ok(())
}

fn draw(path: &Path, title: &str, points: &[(f64, f64)]) -> Result<(), Box<dyn std::error::Error>> {
    let (first, last) = (points[0].0, points[points.len() - 1].0);
    let low = points.iter().map(|p| p.1).fold(f64::INFINITY, f64::min).min(0.0);
    let high = points.iter().map(|p| p.1).fold(f64::NEG_INFINITY, f64::max).max(low + 1e-9);
    let root = SVGBackend::new(path, (720, 360)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(56)
        .build_cartesian_2d(first..last, low..high * 1.05)?;
    chart.configure_mesh().x_desc("step").light_line_style(WHITE).draw()?;
    chart.draw_series(LineSeries::new(points.iter().copied(), RGBColor(31, 97, 141).stroke_width(2)))?;
    root.present()?;
    Ok(())
}
