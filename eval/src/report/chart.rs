//! Charts of the HTML report as inline SVG. Colours are classes (`s0`, `s1`, ...; `right`, `wrong`), so that the
//! page's style sheet sets them for light and dark; nothing here is interactive but the browser's tooltips.

use std::fmt::Write;

use super::html::escape;
use crate::metrics::Bin;

/// A line with an optional band.
pub(super) struct Line {
    pub(super) name: String,
    /// x, y, lower, upper; without an interval the last two equal y.
    pub(super) points: Vec<[f64; 4]>,
}

/// One row of dots with whiskers.
pub(super) struct Dots {
    pub(super) label: String,
    /// Series, value, lower, upper; all in \[0, 1\].
    pub(super) values: Vec<(usize, f64, f64, f64)>,
}

/// Colours of series in the style sheet; further series begin again.
pub(super) const COLOURS: usize = 4;
pub(super) const WIDTH: f64 = 520.0;
pub(super) const HEIGHT: f64 = 280.0;
pub(super) const LEFT: f64 = 52.0;
pub(super) const RIGHT: f64 = 16.0;
pub(super) const TOP: f64 = 14.0;
pub(super) const BOTTOM: f64 = 42.0;

/// How x values are spread.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Spread {
    Even,
    /// Powers of two at equal distances.
    Doubling,
}

/// How y values are written.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Unit {
    Percent,
    Plain,
}

/// Lines with bands over a common x axis; an empty string when there is no point.
pub(super) fn lines(title: &str, x_label: &str, spread: Spread, unit: Unit, lines: &[Line]) -> String {
    let points =
        || lines.iter().flat_map(|line| line.points.iter()).filter(|point| point.iter().all(|v| v.is_finite()));
    if points().next().is_none() {
        return String::new();
    }
    let at = |x: f64| {
        if spread == Spread::Doubling { x.max(1.0).log2() } else { x }
    };
    let (x_min, x_max) = bounds(points().map(|point| at(point[0])));
    let (mut y_min, mut y_max) = bounds(points().flat_map(|point| [point[1], point[2], point[3]]));
    let margin = 0.06 * (y_max - y_min);
    if y_min > 0.0 && y_min < 0.35 * y_max {
        y_min = 0.0;
    }
    (y_min, y_max) = (if y_min >= 0.0 { (y_min - margin).max(0.0) } else { y_min - margin }, y_max + margin);
    if unit == Unit::Percent {
        y_max = y_max.min(1.0);
    }
    let y_ticks = ticks(y_min, y_max, 5);
    let x = |value: f64| LEFT + (at(value) - x_min) / (x_max - x_min) * (WIDTH - LEFT - RIGHT);
    let y = |value: f64| TOP + (y_max - value) / (y_max - y_min) * (HEIGHT - TOP - BOTTOM);
    let mut svg = open(title, HEIGHT);
    for tick in &y_ticks {
        horizontal(&mut svg, y(*tick), &number(*tick, unit, &y_ticks));
    }
    let x_ticks: Vec<f64> = match spread {
        Spread::Even => ticks(x_min, x_max, 6),
        Spread::Doubling => (x_min.ceil() as i32..=x_max.floor() as i32).map(|power| 2f64.powi(power)).collect(),
    };
    for tick in &x_ticks {
        let label = number(*tick, Unit::Plain, &x_ticks);
        text(&mut svg, x(*tick), HEIGHT - BOTTOM + 16.0, "middle", "tick", &label);
    }
    text(&mut svg, (LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 8.0, "middle", "axis", x_label);
    for (series, line) in lines.iter().enumerate() {
        let series = series % COLOURS;
        let points: Vec<&[f64; 4]> = line.points.iter().filter(|point| point.iter().all(|v| v.is_finite())).collect();
        let forward: Vec<String> = points.iter().map(|p| format!("{:.1},{:.1}", x(p[0]), y(p[3].min(y_max)))).collect();
        let back: Vec<String> =
            points.iter().rev().map(|p| format!("{:.1},{:.1}", x(p[0]), y(p[2].max(y_min)))).collect();
        if points.iter().any(|point| point[2] < point[3]) {
            let _ =
                write!(svg, r#"<polygon class="band s{series}" points="{} {}"/>"#, forward.join(" "), back.join(" "));
        }
        let path: Vec<String> = points.iter().map(|p| format!("{:.1},{:.1}", x(p[0]), y(p[1]))).collect();
        let _ = write!(svg, r#"<polyline class="line s{series}" points="{}"/>"#, path.join(" "));
        for point in points.iter().filter(|_| points.len() <= 40) {
            let value = number(point[1], unit, &[]);
            let tip = escape(&format!("{} at {}: {value}", line.name, point[0]));
            let _ = write!(
                svg,
                r#"<circle class="dot s{series}" cx="{:.1}" cy="{:.1}" r="3"><title>{tip}</title></circle>"#,
                x(point[0]),
                y(point[1])
            );
        }
    }
    svg + "</svg>"
}

/// Rows of values with their intervals on a common percent axis, with a line at a share that means something.
pub(super) fn dots(title: &str, series: &[String], rows: &[Dots], mark: Option<f64>) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let longest = rows.iter().map(|row| row.label.chars().count()).max().unwrap_or(0).min(26);
    let left = 20.0 + 6.6 * longest as f64;
    let of_row = |row: &Dots| 14.0 + 16.0 * row.values.len().max(1) as f64;
    let height = TOP + rows.iter().map(of_row).sum::<f64>() + 30.0;
    let highest = rows.iter().flat_map(|row| row.values.iter().map(|value| value.3)).chain(mark).fold(0.0, f64::max);
    let x_max = [0.1, 0.2, 0.4, 0.6, 0.8].into_iter().find(|end| *end >= highest).unwrap_or(1.0);
    let x = |value: f64| left + value / x_max * (WIDTH - left - RIGHT - 12.0);
    let mut svg = open(title, height);
    let x_ticks = ticks(0.0, x_max, 5);
    for tick in &x_ticks {
        let at = x(*tick);
        let _ = write!(svg, r#"<line class="grid" x1="{at:.1}" x2="{at:.1}" y1="{TOP}" y2="{:.1}"/>"#, height - 28.0);
        text(&mut svg, at, height - 10.0, "middle", "tick", &number(*tick, Unit::Percent, &x_ticks));
    }
    if let Some(at) = mark.map(x) {
        let _ = write!(svg, r#"<line class="mark" x1="{at:.1}" x2="{at:.1}" y1="{TOP}" y2="{:.1}"/>"#, height - 28.0);
    }
    let mut top = TOP;
    for row in rows {
        let middle = top + of_row(row) / 2.0;
        let label: String = if row.label.chars().count() > 26 {
            row.label.chars().take(25).chain(['\u{2026}']).collect()
        } else {
            row.label.clone()
        };
        text(&mut svg, left - 10.0, middle + 4.0, "end", "label", &label);
        for (at, (index, value, lower, upper)) in row.values.iter().enumerate() {
            let y = top + 7.0 + 16.0 * at as f64 + 8.0;
            let name = series.get(*index).map_or("", String::as_str);
            let tip = escape(&format!(
                "{} {name}: {:.1} % ({:.1} to {:.1} %)",
                row.label,
                100.0 * value,
                100.0 * lower,
                100.0 * upper
            ));
            let index = index % COLOURS;
            let (x1, x2, cx) = (x(*lower), x(*upper), x(*value));
            let _ = write!(
                svg,
                r#"<g><title>{tip}</title><line class="whisker s{index}" x1="{x1:.1}" x2="{x2:.1}" y1="{y:.1}" y2="{y:.1}"/><path class="whisker s{index}" d="M{x1:.1} {:.1}v8M{x2:.1} {:.1}v8"/><circle class="dot s{index}" cx="{cx:.1}" cy="{y:.1}" r="4.5"/></g>"#,
                y - 4.0,
                y - 4.0
            );
        }
        top += of_row(row);
    }
    svg + "</svg>"
}

/// Lengths as stacked bars, right below wrong.
pub(super) fn histogram(title: &str, x_label: &str, bins: &[Bin]) -> String {
    let (Some(first), Some(last)) = (bins.first(), bins.last()) else {
        return String::new();
    };
    let most = bins.iter().map(|bin| bin.right + bin.wrong).max().unwrap_or(0).max(1) as f64;
    let y_ticks: Vec<f64> = ticks(0.0, most, 4).into_iter().filter(|tick| tick.fract() == 0.0).collect();
    let (from, to) = (first.from as f64, last.to as f64 + 1.0);
    let x = |value: f64| LEFT + (value - from) / (to - from) * (WIDTH - LEFT - RIGHT);
    let y = |count: f64| TOP + (most - count) / most * (HEIGHT - TOP - BOTTOM);
    let mut svg = open(title, HEIGHT);
    for tick in &y_ticks {
        horizontal(&mut svg, y(*tick), &number(*tick, Unit::Plain, &y_ticks));
    }
    for bin in bins {
        let (x1, x2) = (x(bin.from as f64) + 0.7, x(bin.to as f64 + 1.0) - 0.7);
        let (right, all) = (bin.right as f64, (bin.right + bin.wrong) as f64);
        let tip = format!("{} to {} tokens: {} right, {} wrong", bin.from, bin.to, bin.right, bin.wrong);
        let _ = write!(svg, "<g><title>{tip}</title>");
        for (class, low, high) in [("right", 0.0, right), ("wrong", right, all)] {
            if high > low {
                let _ = write!(
                    svg,
                    r#"<rect class="{class}" x="{x1:.1}" y="{:.1}" width="{:.1}" height="{:.1}"/>"#,
                    y(high),
                    (x2 - x1).max(0.5),
                    y(low) - y(high)
                );
            }
        }
        svg.push_str("</g>");
    }
    let x_ticks = ticks(from, to, 6);
    for tick in &x_ticks {
        text(&mut svg, x(*tick), HEIGHT - BOTTOM + 16.0, "middle", "tick", &number(*tick, Unit::Plain, &x_ticks));
    }
    text(&mut svg, (LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 8.0, "middle", "axis", x_label);
    svg + "</svg>"
}

pub(super) fn open(title: &str, height: f64) -> String {
    let title = escape(title);
    format!(r#"<svg viewBox="0 0 {WIDTH} {height:.0}" role="img" aria-label="{title}">"#)
}

pub(super) fn horizontal(svg: &mut String, y: f64, label: &str) {
    let _ = write!(svg, r#"<line class="grid" x1="{LEFT}" x2="{}" y1="{y:.1}" y2="{y:.1}"/>"#, WIDTH - RIGHT);
    text(svg, LEFT - 8.0, y + 4.0, "end", "tick", label);
}

pub(super) fn text(svg: &mut String, x: f64, y: f64, anchor: &str, class: &str, words: &str) {
    let words = escape(words);
    let _ = write!(svg, r#"<text class="{class}" x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{words}</text>"#);
}

/// Least and greatest, drawn apart when they are the same.
pub(super) fn bounds(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
    if high > low { (low, high) } else { (low - 0.5 * low.abs().max(0.1), high + 0.5 * high.abs().max(0.1)) }
}

/// Round numbers (1, 2 or 5 times a power of ten apart) within the bounds, about `count` of them.
pub(super) fn ticks(low: f64, high: f64, count: usize) -> Vec<f64> {
    let rough = (high - low) / count as f64;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|step| *step >= rough).unwrap_or(10.0 * power);
    let first = (low / step - 1e-9).ceil() as i64;
    let last = (high / step + 1e-9).floor() as i64;
    (first..=last).map(|at| at as f64 * step).collect()
}

/// A tick's label, with as many decimals as its neighbours need.
pub(super) fn number(value: f64, unit: Unit, ticks: &[f64]) -> String {
    let scale = if unit == Unit::Percent { 100.0 } else { 1.0 };
    let value = value * scale;
    let step = match ticks {
        [first, second, ..] => (second - first).abs() * scale,
        _ => (value.abs() / 100.0).max(1e-4),
    };
    let decimals = if step >= 0.999 { 0 } else { (-step.log10()).ceil().clamp(0.0, 6.0) as usize };
    let sign = if unit == Unit::Percent { " %" } else { "" };
    match () {
        () if value == 0.0 => format!("0{sign}"),
        () if unit == Unit::Plain && value.abs() >= 10_000.0 && step >= 1000.0 => {
            format!("{:.0}k", value / 1000.0)
        }
        () => format!("{value:.decimals$}{sign}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(ticks(0.0, 1.0, 5), [0.0, 0.2, 0.4, 0.6000000000000001, 0.8, 1.0]);
        assert_eq!(ticks(0.0, 47.0, 5), [0.0, 10.0, 20.0, 30.0, 40.0]);
        assert_eq!(number(0.6000000000000001, Unit::Percent, &ticks(0.0, 1.0, 5)), "60 %");
        assert_eq!(number(0.025, Unit::Plain, &[0.0, 0.025]), "0.03");
    }

    #[test]
    fn degenerate_data_draws_finite_coordinates() {
        let flat = Line { name: "a<b".into(), points: vec![[3.0, 0.5, 0.5, 0.5], [f64::NAN, 1.0, 1.0, 1.0]] };
        let svg = lines("t", "step", Spread::Even, Unit::Percent, &[flat]);
        assert!(!svg.contains("NaN") && !svg.contains("inf") && svg.contains("a&lt;b"), "{svg}");
        assert_eq!(lines("t", "step", Spread::Even, Unit::Plain, &[]), "");
        let one = histogram("t", "tokens", &[Bin { from: 0, to: 0, right: 0, wrong: 1 }]);
        assert!(one.contains("wrong") && !one.contains("NaN"));
        assert_eq!(histogram("t", "tokens", &[]), "");
    }
}
