//! Win rates as rows and sentences, which every form of a report and of a comparison shares.

use super::table::percent;
use super::{Compared, Report};
use crate::metrics::{Decider, WinRate};

/// One win rate with what it is of.
pub(super) struct Line<'a> {
    pub(super) benchmark: &'a str,
    pub(super) model: &'a str,
    pub(super) baseline: &'a str,
    pub(super) rate: &'a WinRate,
}

impl Line<'_> {
    /// `validation: final wins against base by judge: win rate ..`.
    pub(super) fn sentence(&self) -> String {
        format!("{}: {}", self.benchmark, self.rate.sentence(self.model, self.baseline))
    }

    /// What to know of the judge, as a sentence.
    pub(super) fn remark(&self) -> Option<String> {
        let judging = self.rate.judging.as_ref()?;
        Some(super::table::as_sentence(&judging.sentence()))
    }

    /// `by judge`.
    pub(super) fn decider(&self) -> &'static str {
        match self.rate.by {
            Decider::Verdict => "by verdict",
            Decider::Judge => "by judge",
        }
    }
}

/// The win rates of a report's model, benchmark by benchmark.
pub(super) fn of_report(report: &Report) -> Vec<Line<'_>> {
    let model = report.identity.label.as_str();
    let graded = report.benchmarks.iter().flat_map(|entry| {
        entry.against.iter().map(|other| (entry.data.benchmark.as_str(), other.label.as_str(), &other.win_rates))
    });
    let open = report.open.iter().flat_map(|set| {
        set.against.iter().map(|other| (set.data.benchmark.as_str(), other.label.as_str(), &other.win_rates))
    });
    graded
        .chain(open)
        .flat_map(|(benchmark, baseline, rates)| {
            rates.iter().map(move |rate| Line { benchmark, model, baseline, rate })
        })
        .collect()
}

/// The win rates of comparisons.
pub(super) fn of_compared(compared: &[Compared]) -> Vec<Line<'_>> {
    compared
        .iter()
        .flat_map(|one| {
            let (benchmark, model, baseline) = (one.benchmark.as_str(), one.label.as_str(), one.baseline.as_str());
            one.win_rates.iter().map(move |rate| Line { benchmark, model, baseline, rate })
        })
        .collect()
}

/// Head and rows; empty without a win rate.
pub(super) fn rows(lines: &[Line]) -> Vec<Vec<String>> {
    let head = [
        "benchmark",
        "model",
        "against",
        "by",
        "contests",
        "win rate",
        "95 % interval",
        "p",
        "won",
        "tied",
        "lost",
        "tokens",
    ];
    let mut rows = vec![head.map(String::from).to_vec()];
    rows.extend(lines.iter().map(|line| {
        let rate = line.rate;
        vec![
            line.benchmark.to_owned(),
            line.model.to_owned(),
            line.baseline.to_owned(),
            match &rate.judging {
                Some(judging) => judging.judge.clone(),
                None => "verdict".to_owned(),
            },
            rate.contests.to_string(),
            percent(rate.rate),
            format!("{:.1} to {}", 100.0 * rate.lower, percent(rate.upper)),
            rate.p_text(),
            percent(rate.win),
            percent(rate.tie),
            percent(rate.loss),
            format!("{:.0}, {:.0}", rate.tokens, rate.baseline_tokens),
        ]
    }));
    if lines.is_empty() { Vec::new() } else { rows }
}

/// What the columns mean, in one sentence.
pub(super) const LEGEND: &str = "Win rate: (wins + ties/2) / n over pairs of answers to the same problem, clustered by problem, 50 % for equals; tokens: mean length of the model's answers, then of the baseline's.";
