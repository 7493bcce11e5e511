//! Win rates on a page: of a report, and the page of a comparison.

use super::super::Compared;
use super::super::chart::{Dots, dots};
use super::super::comparison::{difference_rows, doubts};
use super::super::win_rates::{LEGEND, Line, of_compared, rows};
use super::{escape, figure, page, prose, table};
use crate::metrics::Conclusion;

/// The section of a report or comparison; empty without a win rate.
pub(super) fn section(lines: &[Line]) -> String {
    if lines.is_empty() {
        return String::new();
    }
    let is_one = lines.iter().all(|line| (line.model, line.baseline) == (lines[0].model, lines[0].baseline));
    let label = |line: &Line| match is_one {
        true => format!("{}, {}", line.benchmark, line.decider()),
        false => format!("{}: {}, {}", line.benchmark, line.model, line.decider()),
    };
    let dot =
        |line: &Line| Dots { label: label(line), values: vec![(0, line.rate.rate, line.rate.lower, line.rate.upper)] };
    let dots = dots("Win rate", &["win rate".to_owned()], &lines.iter().map(dot).collect::<Vec<_>>(), Some(0.5));
    let title = match is_one {
        true => format!("{} against {}, 95 % intervals; 50 % for equals", lines[0].model, lines[0].baseline),
        false => "Win rate with 95 % intervals; 50 % for equals".to_owned(),
    };
    let remarks: String = lines
        .iter()
        .filter_map(Line::remark)
        .map(|remark| format!("<p class=\"quiet\">{}</p>", prose(&remark)))
        .collect();
    format!(
        "<section><h2>Win rate</h2><div class=\"figures\">{}</div>{}<p class=\"quiet\">{LEGEND}</p>{remarks}</section>",
        figure(&title, "", &dots),
        table(&rows(lines))
    )
}

/// The page of a comparison of reports.
pub(in super::super) fn comparison(compared: &[Compared]) -> String {
    let lines = of_compared(compared);
    let class = |conclusion: Conclusion, is_doubtful: bool| match conclusion {
        _ if is_doubtful => "open",
        Conclusion::Better => "better",
        Conclusion::Worse => "worse",
        Conclusion::NotDistinguishable => "open",
    };
    let headline = |sentence: String, class: &str| format!("<p class=\"headline {class}\">{}</p>", escape(&sentence));
    let mut body = String::from("<header><p class=\"kicker\">candlewick comparison</p><h1>Comparison</h1>");
    for one in compared {
        if let Some(found) = &one.comparison {
            let sentence = format!("{}: {}", one.benchmark, found.sentence(&one.label, &one.baseline));
            body.push_str(&headline(sentence, class(found.conclusion, !one.differences.is_empty())));
        }
    }
    for line in &lines {
        let is_doubtful = compared.iter().any(|one| {
            (one.benchmark.as_str(), one.label.as_str()) == (line.benchmark, line.model) && !one.differences.is_empty()
        });
        body.push_str(&headline(line.sentence(), class(line.rate.conclusion(), is_doubtful)));
    }
    body.push_str("</header>");
    let doubts = doubts(compared);
    if !doubts.is_empty() {
        let list: String =
            doubts.iter().map(|doubt| format!("<li><strong>Warning</strong> {}</li>", prose(doubt))).collect();
        body.push_str(&format!("<section class=\"remarks\"><ul>{list}</ul></section>"));
    }
    body.push_str(&section(&lines));
    let differences = difference_rows(compared);
    if !differences.is_empty() {
        body.push_str(&format!("<section><h2>Accuracy, paired by problem</h2>{}</section>", table(&differences)));
    }
    page("Comparison", &body, "")
}
