//! A benchmark's section: what it measured beyond accuracy, how it was asked, and where it failed.

use super::super::table::{as_sentence, contamination_sentence, percent, range};
use super::super::{Entry, Open, Protocol, Token};
use super::{escape, prose, table};
use crate::metrics::{AtK, Estimate, Wordings};
use crate::sample::Sample;

pub(super) fn details(entry: &Entry, at: usize) -> String {
    let (data, protocol, results) = (&entry.data, &entry.protocol, &entry.results);
    let mut out = format!("<section><h2>{}</h2>", escape(&data.benchmark));
    out.push_str(&format!(
        "<p>{} problems from {}. <span class=\"quiet\">SHA-256 <code>{}</code>. {}</span></p>",
        data.items,
        escape(&data.source),
        escape(&data.sha256),
        escape(&as_sentence(&data.note))
    ));
    if let Some(found) = &data.contamination {
        out.push_str(&format!("<p>{}</p>", prose(&contamination_sentence(found))));
    }
    let text = |words: &str| words.to_owned();
    let mut rows = vec![vec![text("quantity"), text("value")]];
    let mut put = |name: &str, value: String| rows.push(vec![name.to_owned(), value]);
    let lengths = &results.lengths;
    put("accuracy among finished", results.accuracy_finished.map_or(text("none finished"), percent));
    put("truncated", percent(results.truncated.share));
    put("without an answer", percent(results.no_answer.share));
    put("unparsable", percent(results.unparsable.share));
    put("grader timeouts", percent(results.grader_timeout.share));
    put(
        "tokens: mean, median, 95th centile",
        format!("{:.0}, {:.0}, {:.0}", lengths.mean, lengths.median, lengths.p95),
    );
    put(
        "tokens for a right answer",
        results.tokens_per_right.map_or(text("none right"), |tokens| format!("{tokens:.0}")),
    );
    if let Some(base) = entry.against.first() {
        let found = &base.comparison;
        put(&format!("problems gained on {}", base.label), found.gained.len().to_string());
        put(&format!("problems lost to {}", base.label), found.lost.len().to_string());
        put("least difference found four times in five", format!("{:.1} points", 100.0 * found.detectable));
    }
    out.push_str("<div class=\"columns\">");
    out.push_str(&table(&rows));
    if results.samples > 1 {
        let head = ["k", "pass@k", "maj@k", "mG-Pass@k"].map(String::from).to_vec();
        let cell = |curve: &[AtK], k: usize| {
            let found = curve.iter().find(|at| at.k == k);
            found.map_or(String::new(), |at| percent(at.estimate.value))
        };
        let row = |at: &AtK| {
            vec![
                at.k.to_string(),
                percent(at.estimate.value),
                cell(&results.majority, at.k),
                cell(&results.mg_pass, at.k),
            ]
        };
        out.push_str(&table(&std::iter::once(head).chain(results.pass.iter().map(row)).collect::<Vec<_>>()));
    }
    out.push_str("</div>");
    if entry.sensitivity.len() > 1 {
        out.push_str(&format!(
            "<details><summary>The same completions under other graders</summary>{}</details>",
            table(&grader_rows(entry))
        ));
    }
    if let Some(found) = &entry.wordings {
        out.push_str(&format!("<h3 class=\"part\">Under other wordings</h3>{}", table(&wording_rows(found))));
    }
    let open = if at == 0 { " open" } else { "" };
    out.push_str(&format!("<details{open}><summary>How it was asked</summary>{}</details>", asked(protocol)));
    if !results.refused.is_empty() {
        let head = ["refused answer", "reference", "reason", "times"].map(String::from).to_vec();
        let row = |refused: &crate::metrics::Refused| {
            vec![
                refused.extracted.clone(),
                refused.answer.clone(),
                refused.reason.replace('_', " "),
                refused.count.to_string(),
            ]
        };
        let rows: Vec<Vec<String>> = std::iter::once(head).chain(results.refused.iter().map(row)).collect();
        out.push_str(&format!("<details><summary>Most frequent refused answers</summary>{}</details>", table(&rows)));
    }
    if !entry.failures.is_empty() {
        let failures: String = entry.failures.iter().map(failure).collect();
        out.push_str(&format!("<details><summary>Telling failures</summary>{failures}</details>"));
    }
    out + "</section>"
}

/// How problems were asked, with the first prompt as the model got it.
fn asked(protocol: &Protocol) -> String {
    let sampling: Vec<String> = protocol.sampling.iter().map(|(name, value)| format!("{name} {value}")).collect();
    let tokens = |tokens: &[Token]| -> String {
        let one = |token: &Token| {
            format!("<code class=\"token\" title=\"id {}\">{}</code>", token.id, escape(&format!("{:?}", token.text)))
        };
        tokens.iter().map(one).collect::<Vec<_>>().join(" ")
    };
    let mut asked = format!(
        "<p>Form: {}; worked examples: {}; {}; at most {} tokens{}.</p>",
        escape(&protocol.form),
        protocol.shots,
        escape(&if sampling.is_empty() { "greedy".to_owned() } else { sampling.join(", ") }),
        protocol.max_tokens,
        match protocol.grader.is_empty() {
            true => String::new(),
            false => format!("; grader: <code>{}</code>", escape(&protocol.grader)),
        }
    );
    if let Some(tokens) = protocol.told {
        asked.push_str(&format!("<p>The prompts told a length of {tokens} tokens.</p>"));
    }
    if let Some(system) = &protocol.system {
        asked.push_str(&format!("<p>System prompt: {}</p>", escape(system)));
    }
    if !protocol.stop.is_empty() {
        let stops: Vec<String> =
            protocol.stop.iter().map(|stop| format!("<code>{}</code>", escape(&format!("{stop:?}")))).collect();
        asked.push_str(&format!("<p>A completion also ends at {}.</p>", stops.join(", ")));
    }
    if !protocol.rendered.is_empty() {
        asked.push_str(&format!("<pre>{}</pre>", escape(&protocol.rendered)));
    }
    if !protocol.first_tokens.is_empty() {
        asked.push_str(&format!(
            "<p>First tokens: {}</p><p>Last tokens: {}</p>",
            tokens(&protocol.first_tokens),
            tokens(&protocol.last_tokens)
        ));
    }
    asked
}

/// A set of open prompts: where they are from and how they were asked.
pub(super) fn open_details(set: &Open) -> String {
    let data = &set.data;
    format!(
        "<p>{}: {} prompts from {}. <span class=\"quiet\">SHA-256 <code>{}</code>.</span></p><details><summary>How they were asked</summary>{}</details>",
        escape(&data.benchmark),
        data.items,
        escape(&data.source),
        escape(&data.sha256),
        asked(&set.protocol)
    )
}

fn failure(sample: &Sample) -> String {
    let extracted = sample.verdict.extracted.as_deref().unwrap_or("nothing");
    let others = match sample.accepted_by.is_empty() {
        true => String::new(),
        false => format!("; accepted by {}", sample.accepted_by.join(", ")),
    };
    format!(
        "<p>Problem {}: <code>{}</code> for <code>{}</code>, {}{}</p><pre>{}</pre>",
        escape(&sample.completion.item),
        escape(extracted),
        escape(&sample.answer),
        escape(&sample.verdict.reason.replace('_', " ")),
        escape(&others),
        escape(&sample.completion.text)
    )
}

/// The same completions under each grader.
fn grader_rows(entry: &Entry) -> Vec<Vec<String>> {
    let head = ["grader", "accuracy", "95 % interval", "accepts more", "refuses more"].map(String::from).to_vec();
    let row = |mode: &crate::sensitivity::Mode| {
        vec![
            mode.name.clone(),
            percent(mode.accuracy.value),
            range(&mode.accuracy),
            mode.accepts_more.to_string(),
            mode.refuses_more.to_string(),
        ]
    };
    std::iter::once(head).chain(entry.sensitivity.iter().map(row)).collect()
}

fn wording_rows(found: &Wordings) -> Vec<Vec<String>> {
    let mut rows = vec![["instruction", "accuracy", "95 % interval"].map(String::from).to_vec()];
    let row = |name: &str, estimate: &Estimate| vec![name.to_owned(), percent(estimate.value), range(estimate)];
    rows.extend(found.each.iter().map(|wording| row(&wording.instruction, &wording.accuracy)));
    rows.push(row("mean over wordings", &found.mean));
    rows.push(vec![
        "worst, and spread".to_owned(),
        percent(found.worst),
        format!("{:.1} points", 100.0 * found.spread),
    ]);
    rows
}
