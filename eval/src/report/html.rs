//! `report.html`: one file that needs no other, with charts and every sample to look through.
//!
//! Model text reaches the page escaped or as JSON data, never as markup.

use serde_json::json;

use super::chart::{COLOURS, Dots, Line, Spread, Unit, dots, histogram, lines};
use super::table::{accuracy_rows, percent, range, sentences};
use super::{Against, Curve, Entry, Open, Report, win_rates};
use crate::Result;
use crate::metrics::{AtK, Conclusion, Estimate, Results};
use crate::sample::Sample;

mod benchmark;
mod preference;
mod win_rate;

pub(super) use win_rate::comparison;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// Bytes of sample text the page holds at most; what is beyond is in the samples file, and the page says so.
pub const SAMPLE_BYTES: usize = 8 << 20;

/// The report as one page. `samples` holds a list for each benchmark, in the report's order.
///
/// Errors: [`crate::Error::Json`] if a sample cannot be written as JSON.
pub fn html(report: &Report, samples: &[Vec<Sample>]) -> Result<String> {
    let identity = &report.identity;
    let title = escape(&format!("Evaluation of {}", identity.label));
    let mut body = header(report);
    body.push_str(&cards(report));
    body.push_str(&remarks(report));
    body.push_str(&preference::section(report.preference.as_ref()));
    body.push_str(&win_rate::section(&win_rates::of_report(report)));
    body.push_str(&figure_section(report));
    if !report.benchmarks.is_empty() {
        body.push_str(&format!("<section><h2>Accuracy</h2>{}</section>", table(&accuracy_rows(report))));
    }
    if !report.open.is_empty() {
        let rows = Open::rows(&report.open, &identity.label);
        body.push_str(&format!("<section><h2>Open prompts</h2>{}", table(&rows)));
        report.open.iter().for_each(|set| body.push_str(&benchmark::open_details(set)));
        body.push_str("</section>");
    }
    for (at, entry) in report.benchmarks.iter().enumerate() {
        body.push_str(&benchmark::details(entry, at));
    }
    let mut script = String::new();
    if !report.benchmarks.is_empty() {
        body.push_str(EXPLORER);
        let data = sample_data(report, samples)?;
        script = format!("\n<script type=\"application/json\" id=\"data\">{data}</script>\n<script>{SCRIPT}</script>");
    }
    Ok(page(&title, &body, &script))
}

/// A page of that title, which is escaped already.
fn page(title: &str, body: &str, script: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><meta name=\"color-scheme\" content=\"light dark\"><title>{title}</title><style>{STYLE}</style></head>\n<body><main>{body}</main>{script}</body></html>\n"
    )
}

/// Text as HTML text or attribute value.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            _ => out.push(letter),
        }
    }
    out
}

/// Our own words as HTML: what stands in backticks is code.
fn prose(text: &str) -> String {
    let parts: Vec<String> = escape(text).split('`').map(str::to_owned).collect();
    if parts.len().is_multiple_of(2) {
        return escape(text);
    }
    let part = |(at, part): (usize, &String)| if at % 2 == 0 { part.clone() } else { format!("<code>{part}</code>") };
    parts.iter().enumerate().map(part).collect()
}

/// The colour of a comparison: none unless it says something, and both models were asked alike.
fn class_of(against: &Against) -> &'static str {
    match against.comparison.conclusion {
        _ if !against.differences.is_empty() => "open",
        Conclusion::Better => "better",
        Conclusion::Worse => "worse",
        Conclusion::NotDistinguishable => "open",
    }
}

const EXPLORER: &str = r#"<section id="samples"><h2>Samples</h2>
<form class="filters" onsubmit="return false"><label>Benchmark <select id="benchmark"></select></label><label>Show <select id="verdict"><option value="all">all samples</option><option value="right">right</option><option value="wrong">wrong</option><option value="truncated">truncated</option><option value="silent">without an answer</option><option value="elsewhere">refused here, accepted by another grader</option><option value="gained">problems gained</option><option value="lost">problems lost</option></select></label><label class="grow">Search <input id="search" type="search" placeholder="in problem, completion, answer, reason"></label></form>
<p id="count" class="quiet" aria-live="polite"></p>
<div class="scroll"><table id="rows"><thead><tr><th>Problem</th><th>Verdict</th><th>Extracted</th><th>Reference</th><th>Reason</th><th class="number">Tokens</th></tr></thead><tbody></tbody></table></div>
<nav class="pages"><button id="previous" type="button">Previous</button><span id="page"></span><button id="next" type="button">Next</button></nav></section>"#;

fn header(report: &Report) -> String {
    let identity = &report.identity;
    let mut facts: Vec<(&str, String)> = vec![
        ("Model", identity.model.clone()),
        ("Weights", format!("{} on {}", identity.dtype, identity.device)),
        ("Engine", identity.engine.clone()),
        ("Date", identity.date.clone()),
        ("Seed", identity.seed.to_string()),
        ("Generated", format!("{} tokens in {:.0} s", identity.tokens, identity.seconds)),
        ("candlewick", identity.version.clone()),
    ];
    let hashes = [
        ("Revision", &identity.revision),
        ("Weights SHA-256", &identity.weights_sha256),
        ("Adapter SHA-256", &identity.adapter_sha256),
        ("Tokenizer SHA-256", &identity.tokenizer_sha256),
        ("Template SHA-256", &identity.template_sha256),
        ("Commit", &identity.commit),
    ];
    facts.extend(hashes.into_iter().filter_map(|(name, hash)| hash.clone().map(|hash| (name, hash))));
    let facts: String = facts
        .into_iter()
        .filter(|(_, fact)| !fact.trim().is_empty())
        .map(|(name, fact)| format!("<div><dt>{name}</dt><dd>{}</dd></div>", escape(&fact)))
        .collect();
    let verdicts: String = sentences(report)
        .into_iter()
        .map(|(sentence, against)| {
            let doubt = against.doubt().map_or(String::new(), |doubt| {
                format!("<span class=\"doubt\"><strong>Warning</strong> {}</span>", prose(&doubt))
            });
            format!("<p class=\"headline {}\">{}{doubt}</p>", class_of(against), escape(&sentence))
        })
        .collect();
    format!(
        "<header><p class=\"kicker\">candlewick evaluation</p><h1>{}</h1>{verdicts}<details class=\"facts\"><summary>{} \u{b7} {} \u{b7} {}</summary><dl>{facts}</dl></details></header>",
        escape(&identity.label),
        escape(&identity.model),
        escape(&identity.device),
        escape(&identity.date)
    )
}

fn cards(report: &Report) -> String {
    let card = |name: &str, estimate: &Estimate, below: String| {
        format!(
            "<div class=\"card\"><h3>{}</h3><p class=\"value\">{}</p><p class=\"quiet\">{}</p>{below}</div>",
            escape(name),
            percent(estimate.value),
            range(estimate)
        )
    };
    if report.benchmarks.is_empty() {
        return String::new();
    }
    let mut out = String::from("<section class=\"cards\">");
    for entry in &report.benchmarks {
        let results = &entry.results;
        let mut below = format!("<p class=\"quiet\">avg@{}, {} problems</p>", results.samples, results.problems);
        if let Some(base) = entry.against.first() {
            below.push_str(&format!(
                "<p class=\"change {}\">{:+.1} points on {}</p>",
                class_of(base),
                100.0 * base.comparison.difference,
                escape(&base.label)
            ));
        }
        out.push_str(&card(&entry.data.benchmark, &results.accuracy, below));
    }
    if let Some(overall) = &report.overall {
        out.push_str(&card("mean over benchmarks", &overall.macro_mean, "<p class=\"quiet\">equal weights</p>".into()));
    }
    out + "</section>"
}

fn remarks(report: &Report) -> String {
    let notes = report.notes.iter().map(|note| ("Note", prose(note)));
    let warnings = report.benchmarks.iter().flat_map(|entry| {
        entry.warnings.iter().map(move |warning| ("Warning", prose(&format!("{}: {warning}", entry.data.benchmark))))
    });
    let open = report.open.iter().flat_map(|set| {
        set.warnings.iter().map(move |warning| ("Warning", prose(&format!("{}: {warning}", set.data.benchmark))))
    });
    let list: String = notes
        .chain(warnings)
        .chain(open)
        .map(|(kind, text)| format!("<li><strong>{kind}</strong> {text}</li>"))
        .collect();
    if list.is_empty() { String::new() } else { format!("<section class=\"remarks\"><ul>{list}</ul></section>") }
}

/// Models of an entry, this report's first.
fn models<'a>(report: &'a Report, entry: &'a Entry) -> Vec<(&'a str, &'a Results)> {
    let own = (report.identity.label.as_str(), &entry.results);
    std::iter::once(own).chain(entry.against.iter().map(|other| (other.label.as_str(), &other.results))).collect()
}

fn figure_section(report: &Report) -> String {
    let series: Vec<String> = report
        .benchmarks
        .iter()
        .map(|entry| models(report, entry))
        .max_by_key(Vec::len)
        .unwrap_or_default()
        .into_iter()
        .map(|(label, _)| label.to_owned())
        .collect();
    let rows: Vec<Dots> = report
        .benchmarks
        .iter()
        .map(|entry| Dots {
            label: entry.data.benchmark.clone(),
            values: models(report, entry)
                .iter()
                .enumerate()
                .map(|(at, (_, results))| {
                    let found = &results.accuracy;
                    (at, found.value, found.lower, found.upper)
                })
                .rev()
                .collect(),
        })
        .collect();
    let mut figures = figure("Accuracy with 95 % intervals", &legend(&series), &dots("Accuracy", &series, &rows, None));
    for entry in &report.benchmarks {
        let name = &entry.data.benchmark;
        let series: Vec<String> = models(report, entry).iter().map(|(label, _)| (*label).to_owned()).collect();
        let of = |results: &Results, curve: fn(&Results) -> &Vec<AtK>| -> Vec<[f64; 4]> {
            let point = |at: &AtK| [at.k as f64, at.estimate.value, at.estimate.lower, at.estimate.upper];
            curve(results).iter().map(point).collect()
        };
        if entry.results.samples > 1 {
            let curves: Vec<Line> = models(report, entry)
                .into_iter()
                .map(|(label, results)| Line { name: label.to_owned(), points: of(results, |results| &results.pass) })
                .collect();
            let svg = lines("pass@k", "k", Spread::Doubling, Unit::Percent, &curves);
            figures.push_str(&figure(&format!("{name}: pass@k"), &legend(&series), &svg));
        }
        let svg = histogram("Completion lengths", "tokens", &entry.results.lengths.histogram);
        let key = "<span class=\"key right\">right</span><span class=\"key wrong\">wrong</span>";
        figures.push_str(&figure(&format!("{name}: completion lengths"), key, &svg));
        for (axis, groups) in entry.results.groups.iter().filter(|(_, groups)| groups.len() > 1) {
            let rows: Vec<Dots> = groups
                .iter()
                .map(|(group, own)| {
                    let mut values = vec![(0, own.value, own.lower, own.upper)];
                    for (at, other) in entry.against.iter().enumerate() {
                        let found = other.results.groups.get(axis).and_then(|groups| groups.get(group));
                        values.extend(found.map(|found| (at + 1, found.value, found.lower, found.upper)));
                    }
                    values.reverse();
                    Dots { label: group.clone(), values }
                })
                .collect();
            let svg = dots(axis, &series, &rows, None);
            figures.push_str(&figure(&format!("{name}: by {}", axis.replace('_', " ")), &legend(&series), &svg));
        }
    }
    for curves in report.training.chunk_by(|a, b| a.figure.is_some() && a.figure == b.figure) {
        let names: Vec<String> = curves.iter().map(|curve| curve.name.clone()).collect();
        figures.push_str(&figure(&title_of(&curves[0]), &legend(&names), &curves_svg(curves)));
    }
    if figures.is_empty() {
        return String::new();
    }
    format!("<section><h2>Figures</h2><div class=\"figures\">{figures}</div></section>")
}

fn title_of(curve: &Curve) -> String {
    let unit = if curve.unit.is_empty() { String::new() } else { format!(" ({})", curve.unit) };
    format!("Training: {}{unit}", curve.figure.as_ref().unwrap_or(&curve.name))
}

/// The curves of one figure.
fn curves_svg(curves: &[Curve]) -> String {
    let point = |point: &super::Point| {
        [point.step, point.value, point.lower.unwrap_or(point.value), point.upper.unwrap_or(point.value)]
    };
    let line = |curve: &Curve| Line { name: curve.name.clone(), points: curve.points.iter().map(point).collect() };
    let Some(first) = curves.first() else { return String::new() };
    let title = first.figure.as_ref().unwrap_or(&first.name);
    let unit = if title.contains("accuracy") { Unit::Percent } else { Unit::Plain };
    lines(title, "step", Spread::Even, unit, &curves.iter().map(line).collect::<Vec<_>>())
}

fn legend(series: &[String]) -> String {
    if series.len() < 2 {
        return String::new();
    }
    let key = |(at, name): (usize, &String)| format!("<span class=\"key s{}\">{}</span>", at % COLOURS, escape(name));
    series.iter().enumerate().map(key).collect()
}

fn figure(title: &str, legend: &str, svg: &str) -> String {
    if svg.is_empty() {
        return String::new();
    }
    format!("<figure><figcaption>{}<span class=\"legend\">{legend}</span></figcaption>{svg}</figure>", escape(title))
}

/// A table, the first row being its head; columns of numbers, which the first never is, stand flush right.
fn table(rows: &[Vec<String>]) -> String {
    let begins_with_digit =
        |cell: &String| cell.trim_start_matches(['+', '-']).starts_with(|c: char| c.is_ascii_digit());
    let is_number = |at: usize| at > 0 && rows.iter().skip(1).filter_map(|row| row.get(at)).any(begins_with_digit);
    let line = |row: &Vec<String>, tag: &str| {
        let cells: String = row
            .iter()
            .enumerate()
            .map(|(at, cell)| {
                let class = if is_number(at) { " class=\"number\"" } else { "" };
                format!("<{tag}{class}>{}</{tag}>", escape(cell))
            })
            .collect();
        format!("<tr>{cells}</tr>")
    };
    let Some((head, body)) = rows.split_first() else {
        return String::new();
    };
    let body: String = body.iter().map(|row| line(row, "td")).collect();
    format!("<div class=\"scroll\"><table><thead>{}</thead><tbody>{body}</tbody></table></div>", line(head, "th"))
}

/// The samples as JSON that cannot end its script element, at most [`SAMPLE_BYTES`] of it.
fn sample_data(report: &Report, samples: &[Vec<Sample>]) -> Result<String> {
    let mut budget = SAMPLE_BYTES;
    let mut total = 0usize;
    let mut rows = Vec::new();
    for (entry, samples) in report.benchmarks.iter().zip(samples) {
        total += samples.len();
        // A benchmark may not use up what the later ones need.
        let left = report.benchmarks.len()
            - report.benchmarks.iter().position(|other| std::ptr::eq(other, entry)).unwrap_or(0);
        let mut own = budget / left;
        for sample in samples {
            let completion = &sample.completion;
            let size = completion.prompt.len() + completion.text.len() + 200;
            if size > own {
                break;
            }
            own -= size;
            budget -= size;
            rows.push(json!({
                "b": entry.data.benchmark, "i": completion.item, "n": completion.index, "p": completion.prompt, "t": completion.text,
                "k": completion.tokens, "c": sample.is_truncated(), "r": sample.verdict.correct, "e": sample.verdict.extracted,
                "a": sample.answer, "w": sample.verdict.reason.replace('_', " "), "m": sample.verdict.method, "o": sample.accepted_by, "l": completion.logp,
            }));
        }
    }
    let changes = |pick: fn(&crate::metrics::Comparison) -> &Vec<String>| -> serde_json::Value {
        let of = |entry: &Entry| {
            (entry.data.benchmark.clone(), json!(entry.against.first().map(|base| pick(&base.comparison))))
        };
        serde_json::Value::Object(report.benchmarks.iter().map(of).collect())
    };
    let data = json!({ "samples": rows, "total": total, "gained": changes(|found| &found.gained), "lost": changes(|found| &found.lost) });
    Ok(serde_json::to_string(&data)?.replace("</", "<\\/").replace("<!--", "<\\u0021--"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped_everywhere_it_can_matter() {
        assert_eq!(prose("set `a<b` now"), "set <code>a&lt;b</code> now");
        assert_eq!(prose("a ` alone"), "a ` alone");
        assert_eq!(escape(r#"<b a="x" c='y'>&"#), "&lt;b a=&quot;x&quot; c=&#39;y&#39;&gt;&amp;");
        assert_eq!(
            table(&[vec!["<i>".into()]]),
            "<div class=\"scroll\"><table><thead><tr><th>&lt;i&gt;</th></tr></thead><tbody></tbody></table></div>"
        );
    }
}
