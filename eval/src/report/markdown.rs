//! `report.md`: the report as a page for a repository or a pull request.

use super::comparison::markdown_win_rates;
use super::table::{accuracy_rows, as_sentence, contamination_sentence, percent, range, sentences};
use super::{Entry, Open, Report, win_rates};
use crate::metrics::{AtK, Estimate};

/// The report in Markdown.
pub fn markdown(report: &Report) -> String {
    let identity = &report.identity;
    let mut out = format!("# Evaluation of {}\n\n", identity.label);
    out.push_str(&format!(
        "`{}`, {}, {} on {}; candlewick {}{}; {}. Seed {}, {} tokens in {:.0} s.\n\n",
        identity.model,
        identity.dtype,
        identity.engine,
        identity.device,
        identity.version,
        identity.commit.as_ref().map_or(String::new(), |commit| format!(", commit {commit}")),
        identity.date,
        identity.seed,
        identity.tokens,
        identity.seconds
    ));
    for (sentence, other) in sentences(report) {
        out.push_str(&format!("**{}**\n\n", escape(&sentence)));
        if let Some(doubt) = other.doubt() {
            out.push_str(&format!("> Warning: {}\n\n", prose(&doubt)));
        }
    }
    for note in &report.notes {
        out.push_str(&format!("> Note: {}\n\n", prose(note)));
    }
    let warnings =
        report.benchmarks.iter().flat_map(|entry| entry.warnings.iter().map(move |warning| (entry, warning)));
    let warnings = warnings.map(|(entry, warning)| (&entry.data.benchmark, warning));
    let open = report.open.iter().flat_map(|set| set.warnings.iter().map(|warning| (&set.data.benchmark, warning)));
    for (benchmark, warning) in warnings.chain(open) {
        out.push_str(&format!("> Warning: {benchmark}: {}\n\n", prose(warning)));
    }
    if !report.benchmarks.is_empty() {
        out.push_str(&rows(&accuracy_rows(report)));
        out.push_str("\nAccuracy is avg@n, which estimates pass@1; intervals are clustered by problem.\n");
    }
    if !report.open.is_empty() {
        out.push_str(&format!("\n{}", rows(&Open::rows(&report.open, &identity.label))));
    }
    if let Some(overall) = &report.overall {
        out.push_str(&format!(
            "\nMean over benchmarks {} ({}), over problems {} ({}).\n",
            percent(overall.macro_mean.value),
            range(&overall.macro_mean),
            percent(overall.micro_mean.value),
            range(&overall.micro_mean)
        ));
    }
    out.push_str(&markdown_win_rates(&win_rates::of_report(report)));
    if let Some(found) = &report.preference {
        out.push_str(&format!("\n## Preferences\n\n{}\n", escape(&found.sentence())));
        for table in [found.rows(), found.flip_rows(), found.audit_rows()] {
            if !table.is_empty() {
                out.push_str(&format!("\n{}", rows(&table)));
            }
        }
    }
    for entry in &report.benchmarks {
        out.push_str(&section(entry));
    }
    out
}

fn section(entry: &Entry) -> String {
    let (data, protocol, results) = (&entry.data, &entry.protocol, &entry.results);
    let mut out = format!("\n## {}\n\n", data.benchmark);
    out.push_str(&format!(
        "{} problems from `{}`, SHA-256 `{}`. {}\n\n",
        data.items,
        data.source,
        data.sha256,
        as_sentence(&data.note)
    ));
    let sampling: Vec<String> = protocol.sampling.iter().map(|(name, value)| format!("{name} {value}")).collect();
    out.push_str(&format!(
        "Asked as {} with {} worked examples; {}; at most {} tokens; graded by `{}`.\n\n",
        protocol.form,
        protocol.shots,
        if sampling.is_empty() { "greedy".to_owned() } else { sampling.join(", ") },
        protocol.max_tokens,
        protocol.grader
    ));
    if !protocol.rendered.is_empty() {
        out.push_str(&format!("First prompt as the model got it:\n\n{}\n", fenced(&protocol.rendered)));
    }
    let lengths = &results.lengths;
    out.push_str(&format!(
        "Tokens: mean {:.0}, median {:.0}, 95th centile {:.0}, longest {}. ",
        lengths.mean, lengths.median, lengths.p95, lengths.max
    ));
    let finished = results.accuracy_finished.map_or("none finished".to_owned(), percent);
    let per_right = results.tokens_per_right.map_or("none".to_owned(), |tokens| format!("{tokens:.0}"));
    out.push_str(&format!("Accuracy among finished: {finished}. Tokens for a right answer: {per_right}.\n"));
    out.push_str(&format!(
        "Truncated {}, no answer {}, unparsable {}, grader timeouts {}.\n",
        percent(results.truncated.share),
        percent(results.no_answer.share),
        percent(results.unparsable.share),
        percent(results.grader_timeout.share)
    ));
    for (name, curve) in [("pass", &results.pass), ("maj", &results.majority), ("mG-Pass", &results.mg_pass)] {
        if results.samples > 1 {
            out.push_str(&format!("\n{}", at_k(name, curve)));
        }
    }
    if results.samples > 1 {
        let mut table = vec![row(["G-Pass", "tau", "value", "95 % interval"])];
        table.extend(results.g_pass.iter().map(|at| {
            row([&format!("@{}", at.k), &at.tau.to_string(), &percent(at.estimate.value), &range(&at.estimate)])
        }));
        out.push_str(&format!("\n{}", rows(&table)));
    }
    for (axis, groups) in &results.groups {
        let mut table = vec![row([axis, "problems", "accuracy", "95 % interval"])];
        let cells = |(name, estimate): (&String, &Estimate)| {
            row([name, &estimate.problems.to_string(), &percent(estimate.value), &range(estimate)])
        };
        table.extend(groups.iter().map(cells));
        out.push_str(&format!("\n{}", rows(&table)));
    }
    if entry.sensitivity.len() > 1 {
        let mut table = vec![row(["grader", "accuracy", "accepts more", "refuses more"])];
        table.extend(entry.sensitivity.iter().map(|mode| {
            row([
                &mode.name,
                &percent(mode.accuracy.value),
                &mode.accepts_more.to_string(),
                &mode.refuses_more.to_string(),
            ])
        }));
        out.push_str(&format!("\n{}", rows(&table)));
    }
    if let Some(found) = &entry.wordings {
        let mut table = vec![row(["wording", "accuracy", "95 % interval"])];
        table.extend(found.each.iter().map(|w| row([&w.instruction, &percent(w.accuracy.value), &range(&w.accuracy)])));
        table.push(row(["mean over wordings", &percent(found.mean.value), &range(&found.mean)]));
        out.push_str(&format!("\n{}", rows(&table)));
        out.push_str(&format!("\nWorst wording {}, spread {}.\n", percent(found.worst), percent(found.spread)));
    }
    if let Some(found) = &data.contamination {
        out.push_str(&format!("\n{}\n", prose(&contamination_sentence(found))));
    }
    if !entry.failures.is_empty() {
        out.push_str("\n### Telling failures\n");
    }
    for sample in &entry.failures {
        let extracted = sample.verdict.extracted.as_deref().unwrap_or("nothing");
        out.push_str(&format!(
            "\nProblem `{}`: {} for {}, {}.\n\n{}",
            sample.completion.item,
            code(extracted),
            code(&sample.answer),
            sample.verdict.reason.replace('_', " "),
            fenced(&sample.completion.text)
        ));
    }
    out
}

fn at_k(name: &str, curve: &[AtK]) -> String {
    let mut table = vec![row([name, "value", "95 % interval"])];
    table
        .extend(curve.iter().map(|at| row([&format!("@{}", at.k), &percent(at.estimate.value), &range(&at.estimate)])));
    rows(&table)
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).into()
}

/// A Markdown table, the first row being its head; all but the first column flush right.
pub(super) fn rows(rows: &[Vec<String>]) -> String {
    let mut out = String::new();
    for (at, row) in rows.iter().enumerate() {
        let cells: Vec<String> = row.iter().map(|cell| escape(cell)).collect();
        out.push_str(&format!("| {} |\n", cells.join(" | ")));
        if at == 0 {
            let rule: Vec<&str> = (0..row.len()).map(|column| if column == 0 { "---" } else { "---:" }).collect();
            out.push_str(&format!("| {} |\n", rule.join(" | ")));
        }
    }
    out
}

/// Text that stays text in Markdown.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '\n' | '\r' => out.push(' '),
            '|' | '<' | '>' | '*' | '_' | '[' | ']' | '`' => {
                out.push('\\');
                out.push(letter);
            }
            _ => out.push(letter),
        }
    }
    out
}

/// Our own words, in which backticks mark code: all is text but those.
pub(super) fn prose(text: &str) -> String {
    let parts: Vec<&str> = text.split('`').collect();
    if parts.len().is_multiple_of(2) {
        return escape(text);
    }
    let part = |(at, part): (usize, &&str)| if at % 2 == 0 { escape(part) } else { code(part) };
    parts.iter().enumerate().map(part).collect()
}

fn code(text: &str) -> String {
    let fence = "`".repeat(longest_run(text) + 1);
    format!("{fence} {} {fence}", text.replace('\n', " "))
}

/// A block that no text inside can close.
fn fenced(text: &str) -> String {
    let fence = "`".repeat(longest_run(text).max(2) + 1);
    format!("{fence}text\n{}\n{fence}\n", text.trim_end())
}

fn longest_run(text: &str) -> usize {
    text.split(|letter| letter != '`').map(str::len).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn model_text_cannot_leave_its_block() {
        assert_eq!(fenced("a\n```\n# b"), "````text\na\n```\n# b\n````\n");
        assert_eq!(code("a`b"), "`` a`b ``");
        assert_eq!(escape("a|b\n<c>"), "a\\|b \\<c\\>");
        assert_eq!(prose("set `a_b`, not <c>"), "set ` a_b `, not \\<c\\>");
        assert_eq!(prose("a ` alone"), "a \\` alone");
        assert_eq!(rows(&[row(["a", "b"]), row(["1", "2"])]), "| a | b |\n| --- | ---: |\n| 1 | 2 |\n");
    }
}
