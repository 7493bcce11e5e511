//! The section of a run on preferences: distributions over held-out pairs, the flip table, the data.

use super::super::Preference;
use super::super::chart::{Dots, dots};
use super::super::pair_charts::{bars, class, scatter};
use super::{escape, figure, legend, table};

/// How the numbers are read, in a few words.
const READING: &str = "Reward accuracy asks whether training moved a pair the right way, ranking accuracy whether the chosen answer is the likelier one: the first may rise while the second stays. The idealised accuracy is what a perfectly trained policy would reach, as median and range over beta.";

/// The section; empty without held-out pairs.
pub(super) fn section(found: Option<&Preference>) -> String {
    let Some(found) = found else { return String::new() };
    let series = ["after", "before"].map(str::to_owned);
    let row = |one: &super::super::PairAccuracy| {
        let values = [(1, one.before), (0, one.after)];
        let values = values.into_iter().filter_map(|(at, found)| found.map(|[v, low, high]| (at, v, low, high)));
        Dots { label: one.name.clone(), values: values.collect() }
    };
    let accuracies: Vec<Dots> = found.accuracies.iter().map(row).collect();
    let mut figures = figure(
        "Share of held-out pairs, 95 % intervals",
        &legend(&series),
        &dots("Accuracy", &series, &accuracies, Some(0.5)),
    );
    for histogram in &found.histograms {
        let key = |(at, one): (usize, &super::super::Series)| {
            format!("<span class=\"key {}\">{}</span>", class(at, &one.name), escape(&one.name))
        };
        let keys: String = match histogram.series.len() {
            0 | 1 => String::new(),
            _ => histogram.series.iter().enumerate().map(key).collect(),
        };
        figures.push_str(&figure(&histogram.title, &keys, &bars(histogram)));
    }
    if let Some(points) = &found.scatter {
        let keys = format!(
            "<span class=\"key right\">ranked rightly</span><span class=\"key wrong\">ranked wrongly</span><span class=\"key s0\">{}</span>",
            escape(&points.curve_name)
        );
        figures.push_str(&figure(&points.title, &keys, &scatter(points)));
    }
    let part = |title: &str, rows: Vec<Vec<String>>| match rows.is_empty() {
        true => String::new(),
        false => format!("<div><h3 class=\"part\">{title}</h3>{}</div>", table(&rows)),
    };
    let reading = if found.flips.is_empty() { "" } else { READING };
    format!(
        "<section><h2>Preferences</h2><p>{} <span class=\"quiet\">{reading}</span></p><div class=\"figures\">{figures}</div><div class=\"columns\">{}<div>{}{}</div></div></section>",
        escape(&found.sentence()),
        part("Before and after", found.rows()),
        part("Flips: ranked by the reference, then by the policy", found.flip_rows()),
        part("The data", found.audit_rows())
    )
}
