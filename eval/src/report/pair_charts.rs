//! Charts of preference runs: distributions over pairs before and after training, and what it takes to turn a pair.
//!
//! Drawn in the classes of the page, as [`super::chart`] does, and as files of their own with the colours written in.

use std::fmt::Write;
use std::path::Path;

use super::chart::{
    BOTTOM, COLOURS, HEIGHT, LEFT, RIGHT, TOP, Unit, WIDTH, bounds, horizontal, number, open, text, ticks,
};
use super::html::escape;
use super::preference::{Histogram, Scatter};
use crate::{Error, Result};

/// Colours of a figure that stands alone; those of the page in light.
const COLOURS_ALONE: &str = "text{fill:#5d6675;font:12px system-ui,sans-serif}.title{fill:#1c2330;font-size:14px;font-weight:600}.grid{stroke:#e0e4ea}.mark{stroke:#5d6675;stroke-dasharray:4 3}.line{fill:none;stroke-width:2}.band{opacity:.16}.line.s0{stroke:#2563c9}.line.s1{stroke:#d9822b}.band.s0,.key.s0{fill:#2563c9}.band.s1,.key.s1{fill:#d9822b}.right{fill:#2f8f6b}.wrong{fill:#c8563d}";

/// A histogram: stacked bars, or outlines over each other; empty without a bin.
pub(super) fn bars(histogram: &Histogram) -> String {
    let (edges, series) = (&histogram.edges, &histogram.series);
    let (Some(&from), Some(&to)) = (edges.first(), edges.last()) else { return String::new() };
    let bins = edges.len() - 1;
    let is_whole = series.iter().all(|one| one.counts.len() == bins);
    if bins == 0 || series.is_empty() || !is_whole || !(from < to && from.is_finite() && to.is_finite()) {
        return String::new();
    }
    let height = |bin: usize| -> usize {
        let counts = series.iter().map(|one| one.counts[bin]);
        if histogram.is_stacked { counts.sum() } else { counts.max().unwrap_or(0) }
    };
    let most = (0..bins).map(height).max().unwrap_or(0).max(1) as f64;
    let y_ticks: Vec<f64> = ticks(0.0, most, 4).into_iter().filter(|tick| tick.fract() == 0.0).collect();
    let x = |value: f64| LEFT + (value - from) / (to - from) * (WIDTH - LEFT - RIGHT);
    let y = |count: f64| TOP + (most - count) / most * (HEIGHT - TOP - BOTTOM);
    let mut svg = open(&histogram.title, HEIGHT);
    for tick in &y_ticks {
        horizontal(&mut svg, y(*tick), &number(*tick, Unit::Plain, &y_ticks));
    }
    match histogram.is_stacked {
        true => stacked(&mut svg, histogram, &x, &y),
        false => outlines(&mut svg, histogram, &x, &y),
    }
    if let Some(mark) = histogram.mark.filter(|mark| (from..=to).contains(mark)) {
        let at = x(mark);
        let _ = write!(svg, r#"<line class="mark" x1="{at:.1}" x2="{at:.1}" y1="{TOP}" y2="{:.1}"/>"#, y(0.0));
    }
    axis(&mut svg, from, to, &x, &histogram.x_label);
    svg + "</svg>"
}

/// The class of a series: right and wrong by name, others by place.
pub(super) fn class(at: usize, name: &str) -> String {
    match name {
        _ if name.contains("right") => "right".to_owned(),
        _ if name.contains("wrong") => "wrong".to_owned(),
        _ => format!("s{}", at % COLOURS),
    }
}

fn stacked(svg: &mut String, histogram: &Histogram, x: &dyn Fn(f64) -> f64, y: &dyn Fn(f64) -> f64) {
    for (bin, ends) in histogram.edges.windows(2).enumerate() {
        let (x1, x2) = (x(ends[0]) + 0.7, x(ends[1]) - 0.7);
        let said: Vec<String> =
            histogram.series.iter().map(|one| format!("{} {}", one.counts[bin], one.name)).collect();
        let tip = escape(&format!("{:.3} to {:.3}: {}", ends[0], ends[1], said.join(", ")));
        let _ = write!(svg, "<g><title>{tip}</title>");
        let mut low = 0.0;
        for (at, one) in histogram.series.iter().enumerate() {
            let high = low + one.counts[bin] as f64;
            if high > low {
                let class = class(at, &one.name);
                let (top, tall, wide) = (y(high), y(low) - y(high), (x2 - x1).max(0.5));
                let _ = write!(
                    svg,
                    r#"<rect class="{class}" x="{x1:.1}" y="{top:.1}" width="{wide:.1}" height="{tall:.1}"/>"#
                );
            }
            low = high;
        }
        svg.push_str("</g>");
    }
}

fn outlines(svg: &mut String, histogram: &Histogram, x: &dyn Fn(f64) -> f64, y: &dyn Fn(f64) -> f64) {
    for (at, one) in histogram.series.iter().enumerate() {
        let mut steps = Vec::new();
        for (ends, count) in histogram.edges.windows(2).zip(&one.counts) {
            steps.extend([ends[0], ends[1]].map(|end| format!("{:.1},{:.1}", x(end), y(*count as f64))));
        }
        let (first, last) = (histogram.edges[0], histogram.edges[histogram.edges.len() - 1]);
        let (left, right) = (format!("{:.1},{:.1}", x(first), y(0.0)), format!("{:.1},{:.1}", x(last), y(0.0)));
        let (class, steps) = (class(at, &one.name), steps.join(" "));
        let name = escape(&one.name);
        let _ = write!(
            svg,
            r#"<g><title>{name}</title><polygon class="band {class}" points="{left} {steps} {right}"/><polyline class="line {class}" points="{left} {steps} {right}"/></g>"#
        );
    }
}

/// Points and the curve that parts them; empty without a point.
pub(super) fn scatter(scatter: &Scatter) -> String {
    let is_shown = |x: f64, y: f64| x.is_finite() && y.is_finite();
    let points: Vec<_> = scatter.points.iter().filter(|dot| is_shown(dot.x, dot.y)).collect();
    if points.is_empty() {
        return String::new();
    }
    let (x_min, x_max) = bounds(points.iter().map(|dot| dot.x));
    let (_, y_max) = bounds(points.iter().map(|dot| dot.y));
    let (x_room, y_max) = (0.03 * (x_max - x_min), 1.06 * y_max.max(1e-9));
    let (x_min, x_max) = (x_min - x_room, x_max + x_room);
    let x = |value: f64| LEFT + (value - x_min) / (x_max - x_min) * (WIDTH - LEFT - RIGHT);
    let y = |value: f64| TOP + (y_max - value) / y_max * (HEIGHT - TOP - BOTTOM);
    let mut svg = open(&scatter.title, HEIGHT);
    let y_ticks = ticks(0.0, y_max, 5);
    for tick in &y_ticks {
        horizontal(&mut svg, y(*tick), &number(*tick, Unit::Plain, &y_ticks));
    }
    for dot in &points {
        let class = if dot.is_right { "right" } else { "wrong" };
        let tip = escape(&format!("{} {:.3}, {} {:.4}", scatter.x_label, dot.x, scatter.y_label, dot.y));
        let _ = write!(
            svg,
            r#"<circle class="pair {class}" cx="{:.1}" cy="{:.1}" r="2.6"><title>{tip}</title></circle>"#,
            x(dot.x),
            y(dot.y)
        );
    }
    let inside = |p: &&[f64; 2]| is_shown(p[0], p[1]) && (x_min..=x_max).contains(&p[0]) && p[1] <= y_max;
    let curve: Vec<String> =
        scatter.curve.iter().filter(inside).map(|p| format!("{:.1},{:.1}", x(p[0]), y(p[1]))).collect();
    let _ = write!(svg, r#"<polyline class="line s0" points="{}"/>"#, curve.join(" "));
    axis(&mut svg, x_min, x_max, &x, &scatter.x_label);
    svg + "</svg>"
}

fn axis(svg: &mut String, from: f64, to: f64, x: &dyn Fn(f64) -> f64, label: &str) {
    let x_ticks = ticks(from, to, 6);
    for tick in &x_ticks {
        text(svg, x(*tick), HEIGHT - BOTTOM + 16.0, "middle", "tick", &number(*tick, Unit::Plain, &x_ticks));
    }
    text(svg, (LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 8.0, "middle", "axis", label);
}

/// A histogram as an SVG file of its own. Errors: [`Error::Figure`] without a bin, [`Error::File`].
pub fn histogram_figure(path: &Path, histogram: &Histogram) -> Result<()> {
    let names: Vec<(String, &str)> =
        histogram.series.iter().enumerate().map(|(at, one)| (class(at, &one.name), one.name.as_str())).collect();
    alone(path, &histogram.title, &names, &bars(histogram))
}

/// A scatter as an SVG file of its own. Errors: as [`histogram_figure`].
pub fn scatter_figure(path: &Path, found: &Scatter) -> Result<()> {
    let names = [("right".to_owned(), "ranked rightly"), ("wrong".to_owned(), "ranked wrongly")];
    let names: Vec<(String, &str)> = names.into_iter().chain([("s0".to_owned(), found.curve_name.as_str())]).collect();
    alone(path, &found.title, &names, &scatter(found))
}

/// Writes a chart of the page with its colours, a title and a legend.
fn alone(path: &Path, title: &str, names: &[(String, &str)], svg: &str) -> Result<()> {
    let Some((_, inside)) = svg.split_once('>') else {
        return Err(Error::Figure { title: title.to_owned(), why: "there is nothing to draw".to_owned() });
    };
    let above = 46.0;
    let mut out = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {:.0}" width="{:.0}" height="{:.0}" role="img"><style>{COLOURS_ALONE}</style><rect width="100%" height="100%" fill="white"/>"#,
        HEIGHT + above,
        1.4 * WIDTH,
        1.4 * (HEIGHT + above)
    );
    text(&mut out, LEFT, 20.0, "start", "title", title);
    let mut left = LEFT;
    for (class, name) in names {
        let _ = write!(out, r#"<rect class="key {class}" x="{left:.1}" y="31" width="10" height="10" rx="3"/>"#);
        text(&mut out, left + 15.0, 40.0, "start", "legend", name);
        left += 32.0 + 6.4 * name.chars().count() as f64;
    }
    let _ = write!(out, r#"<g transform="translate(0 {above})">{inside}"#);
    let out = out.trim_end_matches("</svg>").to_owned() + "</g></svg>\n";
    std::fs::write(path, out).map_err(|source| Error::File { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::super::preference::{Dot, Series};
    use super::*;

    fn counts(is_stacked: bool) -> Histogram {
        let series = |name: &str, counts: [usize; 2]| Series { name: name.into(), counts: counts.to_vec() };
        Histogram {
            title: "Margins".into(),
            x_label: "nats".into(),
            edges: vec![-1.0, 0.0, 1.0],
            series: vec![series("ranked rightly", [1, 3]), series("ranked wrongly", [2, 0])],
            is_stacked,
            mark: Some(0.0),
        }
    }

    /// Stacked, the tallest bar is 3 high: three and none fill it, one and two too.
    #[test]
    fn stacked_bars_add_up_and_outlines_do_not() {
        let svg = bars(&counts(true));
        assert_eq!(svg.matches("<rect class=\"right\"").count(), 2);
        assert_eq!(svg.matches("<rect class=\"wrong\"").count(), 1);
        assert_eq!(svg.matches(&format!("y=\"{TOP:.1}\"")).count(), 2, "{svg}");
        let svg = bars(&counts(false));
        assert!(svg.contains("<polyline") && !svg.contains("<rect") && svg.contains("class=\"mark\""));
        assert_eq!(bars(&Histogram { edges: vec![1.0], ..counts(true) }), "");
        assert_eq!(bars(&Histogram { edges: vec![0.0, f64::NAN, 1.0], series: Vec::new(), ..counts(true) }), "");
    }

    #[test]
    fn figures_stand_alone() {
        let path = std::env::temp_dir().join(format!("candlewick-margins-{}.svg", std::process::id()));
        histogram_figure(&path, &counts(true)).unwrap();
        let svg = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(svg.starts_with("<svg xmlns=") && svg.ends_with("</g></svg>\n") && svg.contains("ranked wrongly"));
        let nothing = Histogram { series: Vec::new(), ..counts(true) };
        assert!(matches!(histogram_figure(&path, &nothing), Err(Error::Figure { .. })));
    }

    #[test]
    fn points_that_are_not_finite_are_left_out() {
        let dot = |x: f64, is_right: bool| Dot { x, y: 0.5, is_right };
        let found = Scatter {
            title: "t".into(),
            x_label: "x".into(),
            y_label: "y".into(),
            points: vec![dot(1.0, true), dot(f64::NAN, true), dot(2.0, false)],
            curve_name: "threshold".into(),
            curve: vec![[1.0, 0.4], [2.0, 0.2], [f64::NAN, 1.0]],
        };
        let svg = scatter(&found);
        assert_eq!(svg.matches("<circle").count(), 2);
        assert!(!svg.contains("NaN") && svg.contains("<polyline class=\"line s0\""));
        assert_eq!(scatter(&Scatter { points: Vec::new(), ..found }), "");
    }
}
