//! What was found in the data before training: left out, cut, tied, and how answers differ in length.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use candlewick_algorithms::batch::Role;
use serde::Serialize;

use super::examples::Group;
use super::folder::write_atomically;

/// Why a row is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// Both answers are the same, as text or once cut to the length limit.
    Identical,
    /// An answer has no token but the end.
    Empty,
    /// The prompt alone reaches the length limit.
    PromptTooLong,
    /// Prompt and answer exceed the length limit, and nothing may be cut.
    TooLong,
    /// Fewer than two candidates of a list are left to compare.
    TooFew,
}

impl Fault {
    /// For people.
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Identical => "have equal answers",
            Self::Empty => "have an empty answer",
            Self::PromptTooLong => "have a prompt as long as the length limit",
            Self::TooLong => "are longer than the length limit",
            Self::TooFew => "have fewer than two candidates left",
        }
    }
}

/// Names kept of each kind of fault.
const NAMES: usize = 100;

/// Counts over a data set.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Audit {
    /// Rows of the data.
    pub read: usize,
    /// Groups to train on.
    pub kept: usize,
    /// Rows left out, by fault.
    pub dropped: BTreeMap<Fault, usize>,
    /// The first of them by name.
    pub names: BTreeMap<Fault, Vec<String>>,
    /// Answers cut at the length limit: they end without an end-of-sequence token.
    pub cut: usize,
    /// Pairs whose raters were evenly divided, and lists in which candidates tie.
    pub tied: usize,
    /// Answers marked as good.
    pub desirable: usize,
    /// Answers marked as bad.
    pub undesirable: usize,
    /// Mean tokens of the chosen answers.
    pub chosen_tokens: Option<f64>,
    /// Mean tokens of the rejected answers.
    pub rejected_tokens: Option<f64>,
    /// Share of pairs whose chosen answer is the longer one.
    pub chosen_longer: Option<f64>,
    /// Share of pairs that the reference ranks rightly, where there is one.
    pub reference_accuracy: Option<f64>,
    /// Pairs that the reference has so wrong that the loss must fall below 0.05 to turn them round.
    pub hard: Option<usize>,
}

impl Audit {
    /// Notes a row left out.
    pub fn drop(&mut self, id: &str, fault: Fault) {
        *self.dropped.entry(fault).or_default() += 1;
        let names = self.names.entry(fault).or_default();
        if names.len() < NAMES {
            names.push(id.to_owned());
        }
    }

    /// Takes in what was found in the rows after these.
    pub(super) fn add(&mut self, next: Self) {
        self.read += next.read;
        self.cut += next.cut;
        self.tied += next.tied;
        for (fault, count) in next.dropped {
            *self.dropped.entry(fault).or_default() += count;
        }
        for (fault, names) in next.names {
            let all = self.names.entry(fault).or_default();
            all.extend(names.into_iter().take(NAMES - all.len()));
        }
    }

    /// Counts marked answers.
    pub(super) fn count_labels(&mut self, groups: &[Group]) {
        let of = |role: Role| groups.iter().filter(|g| g.rows[0].role == role).count();
        (self.desirable, self.undesirable) = (of(Role::Desirable), of(Role::Undesirable));
    }

    /// Lengths of pairs.
    pub(super) fn measure(&mut self, groups: &[Group]) {
        let lengths: Vec<(f64, f64)> = groups
            .iter()
            .filter(|g| g.rows.len() >= 2 && g.rows[0].role == Role::Chosen)
            .map(|g| {
                let of = |i: usize| (g.rows[i].tokens.ids.len() - g.rows[i].tokens.prompt_len()) as f64;
                (of(0), of(1))
            })
            .collect();
        if lengths.is_empty() {
            return;
        }
        let n = lengths.len() as f64;
        self.chosen_tokens = Some(lengths.iter().map(|l| l.0).sum::<f64>() / n);
        self.rejected_tokens = Some(lengths.iter().map(|l| l.1).sum::<f64>() / n);
        self.chosen_longer = Some(lengths.iter().filter(|l| l.0 > l.1).count() as f64 / n);
    }

    /// Why rows were left out, in one line.
    pub fn reasons(&self) -> String {
        let parts: Vec<String> = self.dropped.iter().map(|(fault, n)| format!("{n} {}", fault.text())).collect();
        if parts.is_empty() { "it has none".into() } else { parts.join(", ") }
    }

    /// What a person should know, a line each.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (fault, n) in &self.dropped {
            let first = self.names[fault].iter().take(3).map(|id| format!("`{id}`")).collect::<Vec<_>>().join(", ");
            lines.push(format!(
                "{n} of {} rows {} and were left out: {first}{}",
                self.read,
                fault.text(),
                if *n > 3 { ", .." } else { "" }
            ));
        }
        if self.cut > 0 {
            lines.push(format!(
                "{} answers were cut at the length limit: they teach no end (`train.offline.max_length`, or `regenerate.limit` of sampled ones)",
                self.cut
            ));
        }
        if self.tied > 0 {
            lines.push(format!(
                "{} pairs or lists have ties: raters evenly divided, or candidates of equal worth",
                self.tied
            ));
        }
        if self.desirable + self.undesirable > 0 {
            lines.push(format!("{} answers are marked as good, {} as bad", self.desirable, self.undesirable));
        }
        if let (Some(c), Some(r), Some(longer)) = (self.chosen_tokens, self.rejected_tokens, self.chosen_longer) {
            lines.push(format!(
                "chosen answers have {c:.1} tokens, rejected ones {r:.1}; the chosen is the longer in {:.0} % of pairs",
                100.0 * longer
            ));
        }
        if let (Some(accuracy), Some(hard)) = (self.reference_accuracy, self.hard) {
            lines.push(format!(
                "the reference ranks {:.0} % of the pairs rightly; {hard} are hard (beta c > 3)",
                100.0 * accuracy
            ));
        }
        lines
    }

    /// Writes it as JSON.
    pub fn write(&self, path: &Path) -> Result<()> {
        write_atomically(path, &serde_json::to_vec_pretty(self)?)
    }
}
