//! Figures of a training run as SVG files: reward, accuracy with its interval, entropy, length, by step.

use std::path::Path;

use plotters::prelude::*;

use super::Curve;
use crate::{Error, Result};

const COLOURS: [RGBColor; 4] =
    [RGBColor(37, 99, 201), RGBColor(217, 130, 43), RGBColor(123, 79, 181), RGBColor(42, 143, 125)];

/// Curves over a common step axis as one SVG text, 720 by 440; each with the band of its interval where points have
/// one. The first curve's unit stands on the y axis, names in the legend when there are several.
///
/// Points that are not finite are left out. Errors: [`Error::Figure`] when no point is left.
pub fn figure(title: &str, curves: &[Curve]) -> Result<String> {
    let mut svg = String::new();
    draw(title, curves, &mut svg).map_err(|why| Error::Figure { title: title.to_owned(), why })?;
    Ok(svg)
}

/// Writes [`figure`] to a file. Errors: also [`Error::File`].
pub fn write_figure(path: &Path, title: &str, curves: &[Curve]) -> Result<()> {
    let svg = figure(title, curves)?;
    std::fs::write(path, svg).map_err(|source| Error::File { path: path.to_owned(), source })
}

fn draw(title: &str, curves: &[Curve], svg: &mut String) -> std::result::Result<(), String> {
    let is_shown = |point: &&super::Point| point.step.is_finite() && point.value.is_finite();
    let points = || curves.iter().flat_map(|curve| curve.points.iter()).filter(is_shown);
    let (mut steps, mut values) = ((f64::INFINITY, f64::NEG_INFINITY), (f64::INFINITY, f64::NEG_INFINITY));
    let stretch = |range: &mut (f64, f64), value: f64| *range = (range.0.min(value), range.1.max(value));
    for point in points() {
        stretch(&mut steps, point.step);
        for value in [Some(point.value), point.lower, point.upper].into_iter().flatten().filter(|v| v.is_finite()) {
            stretch(&mut values, value);
        }
    }
    if steps.0 > steps.1 {
        return Err("no curve has a finite point".to_owned());
    }
    if steps.0 == steps.1 {
        steps = (steps.0 - 1.0, steps.1 + 1.0);
    }
    let room = if values.0 == values.1 { values.0.abs().max(1.0) * 0.1 } else { 0.05 * (values.1 - values.0) };
    let low = if values.0 >= 0.0 { (values.0 - room).max(0.0) } else { values.0 - room };
    let root = SVGBackend::with_string(svg, (720, 440)).into_drawing_area();
    let failed = |error: &dyn std::fmt::Display| error.to_string();
    root.fill(&WHITE).map_err(|error| failed(&error))?;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 20))
        .margin(14)
        .x_label_area_size(42)
        .y_label_area_size(62)
        .build_cartesian_2d(steps.0..steps.1, low..values.1 + room)
        .map_err(|error| failed(&error))?;
    let y_label = match curves {
        [only] if only.unit.is_empty() => only.name.clone(),
        [only] => format!("{} ({})", only.name, only.unit),
        [first, ..] => first.unit.clone(),
        [] => String::new(),
    };
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(RGBColor(224, 228, 234))
        .axis_style(RGBColor(154, 164, 178))
        .x_label_formatter(&|step| {
            if step.fract() == 0.0 { format!("{step:.0}") } else { format!("{step:.1}") }
        })
        .x_desc("step")
        .y_desc(y_label)
        .label_style(("sans-serif", 13))
        .draw()
        .map_err(|error| failed(&error))?;
    for (curve, colour) in curves.iter().zip(COLOURS.iter().cycle()) {
        let with_band = || {
            curve.points.iter().filter(is_shown).filter_map(|point| {
                let (lower, upper) = (point.lower?, point.upper?);
                (lower.is_finite() && upper.is_finite()).then_some((point.step, lower, upper))
            })
        };
        let mut band: Vec<(f64, f64)> = with_band().map(|(step, _, upper)| (step, upper)).collect();
        if band.len() > 1 {
            let lower: Vec<(f64, f64)> = with_band().map(|(step, lower, _)| (step, lower)).collect();
            band.extend(lower.into_iter().rev());
            chart.draw_series(std::iter::once(Polygon::new(band, colour.mix(0.16)))).map_err(|error| failed(&error))?;
        }
        let line: Vec<(f64, f64)> =
            curve.points.iter().filter(is_shown).map(|point| (point.step, point.value)).collect();
        if line.len() <= 40 {
            let dots = line.iter().map(|point| Circle::new(*point, 3, colour.filled()));
            chart.draw_series(dots).map_err(|error| failed(&error))?;
        }
        let colour = *colour;
        let drawn = chart.draw_series(LineSeries::new(line, colour.stroke_width(2))).map_err(|error| failed(&error))?;
        if curves.len() > 1 {
            drawn
                .label(&curve.name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
        }
    }
    if curves.len() > 1 {
        chart
            .configure_series_labels()
            .background_style(WHITE.mix(0.85))
            .label_font(("sans-serif", 13))
            .draw()
            .map_err(|error| failed(&error))?;
    }
    root.present().map_err(|error| failed(&error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Point;

    #[test]
    fn band_line_and_axis_are_drawn() {
        let point = |step: f64| Point { lower: Some(0.1), upper: Some(0.9), ..Point::new(step, 0.5) };
        let curve = Curve {
            name: "accuracy".into(),
            unit: String::new(),
            figure: None,
            points: vec![point(0.0), point(10.0), Point::new(20.0, f64::NAN)],
        };
        let svg = figure("Held-out accuracy", std::slice::from_ref(&curve)).unwrap();
        for part in ["<polygon", "<polyline", "accuracy", "step", "Held-out accuracy"] {
            assert!(svg.contains(part), "no {part}");
        }
        assert!(!svg.contains("NaN"));
        let empty = Curve { points: vec![], ..curve };
        assert_eq!(
            figure("t", &[empty]).unwrap_err().to_string(),
            "cannot draw the figure `t`: no curve has a finite point"
        );
    }
}
