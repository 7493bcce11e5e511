//! Given examples as rows of a batch: demonstrations, pairs, answers marked as good or bad.
//!
//! What an objective learns from ([`Rows`]) decides how the data's forms are read: a pair serves as two
//! marked answers, never the reverse. Everything left out or cut is counted and named ([`Audit`]).
//! Demonstrations of JSONL files stay on disk: each is made into tokens when its batch is, and what is held is
//! where it stands.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use candlewick_algorithms::batch::{Advantages, Role};
use candlewick_algorithms::objective::Rows;
use candlewick_algorithms::{Batch, Table};
use rayon::prelude::*;

use super::account::progress;
use super::audit::Audit;
use crate::data::render::{Renderer, Tokens};
use crate::data::{Columns, Dataset, Worth};

mod reader;

use reader::Reader;

/// One row of tokens and what it is.
#[derive(Debug, Clone)]
pub struct Row {
    /// Prompt and answer.
    pub tokens: Tokens,
    /// Its part in the group.
    pub role: Role,
}

impl Row {
    /// Where the answer begins: the first token of a text follows nothing, so it cannot be learnt.
    fn start(&self) -> usize {
        self.tokens.prompt_len().max(1).min(self.tokens.ids.len())
    }

    /// Tokens that a batch unmasks.
    pub(super) fn learnt_tokens(&self) -> usize {
        self.tokens.learnt[self.start()..].iter().filter(|learnt| **learnt).count()
    }
}

/// A group of a batch: what is drawn together.
#[derive(Debug, Clone)]
pub struct Group {
    /// The data's name for it.
    pub id: String,
    /// Its rows, in the order of the batch.
    pub rows: Vec<Row>,
    /// Share of raters who preferred the chosen answer.
    pub label: Option<f64>,
    /// By how much the chosen answer is better.
    pub margin: Option<f64>,
    /// What each row of a list is worth.
    pub worth: Option<Worth>,
}

/// Every group of a data set, and what became of the others.
#[derive(Debug)]
pub struct Examples {
    groups: Groups,
    /// Number of the first group's pair; the others follow.
    pub first_pair: usize,
    /// What was found.
    pub audit: Audit,
}

/// Two answers that the policy gave to a prompt, as token ids.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sampled {
    /// The problem's name.
    pub(super) id: String,
    /// The prompt.
    pub(super) prompt: Vec<u32>,
    /// The better answer and the worse one, as they were sampled.
    pub(super) answers: [Vec<u32>; 2],
    /// Answers that a limit cut off.
    pub(super) cut: usize,
    /// By how much the better reward exceeds the worse one.
    pub(super) margin: f64,
}

/// Where groups are, in the order of the data.
#[derive(Debug)]
enum Groups {
    Held(Vec<Group>),
    OnDisk(Box<OnDisk>),
}

/// Demonstrations that are made into tokens each time they are asked for.
struct OnDisk {
    dataset: Dataset,
    renderer: Arc<Renderer>,
    reading: Reading,
    /// Rows of the data that are left to train on.
    kept: Vec<u32>,
}

/// How answers are read.
#[derive(Debug, Clone)]
pub struct Reading {
    /// Which rows the objective takes.
    pub rows: Rows,
    /// Most tokens of prompt and answer.
    pub max_length: usize,
    /// Whether an answer past it is cut, rather than left out.
    pub cuts: bool,
    /// Names of the fields.
    pub columns: Columns,
    /// Seed of the pairs that are formed here.
    pub seed: u64,
    /// The objective's name, for messages.
    pub objective: &'static str,
}

impl Examples {
    /// Reads a data set. Errors: rows of a form that the objective cannot learn from, a label out of
    /// its range, nothing left.
    pub fn read(dataset: Dataset, renderer: &Arc<Renderer>, reading: &Reading) -> Result<Self> {
        let source = dataset.source.clone();
        let (groups, audit) = match reading.rows == Rows::Demonstrations && dataset.is_indexed() {
            true => {
                let (kept, audit) = survey(&dataset, renderer, reading)?;
                let (renderer, reading) = (Arc::clone(renderer), reading.clone());
                (Groups::OnDisk(Box::new(OnDisk { dataset, renderer, reading, kept })), audit)
            }
            false => {
                let (groups, audit) = read_all(&dataset, renderer, reading)?;
                (Groups::Held(groups), audit)
            }
        };
        let all = Self::of(groups, audit, 0);
        ensure!(!all.is_empty(), "no example of `{source}` is left to train on: {}", all.audit.reasons());
        Ok(all)
    }

    /// No examples yet.
    pub(super) fn none() -> Self {
        Self { groups: Groups::Held(Vec::new()), first_pair: 0, audit: Audit::default() }
    }

    /// Takes pairs of the policy's own answers, whose first one has the number `first_pair`; none may be left.
    ///
    /// The token ids are those that were sampled: nothing is rendered anew, and an answer that was cut off gets no end.
    pub(super) fn of_own(
        pairs: Vec<Sampled>,
        renderer: &Renderer,
        reading: &Reading,
        first_pair: usize,
    ) -> Result<Self> {
        let mut reader = Reader { renderer, reading, source: "the policy's own answers", audit: Audit::default() };
        let mut groups = Vec::new();
        for pair in pairs {
            reader.audit.read += 1;
            reader.audit.cut += pair.cut;
            let [chosen, rejected] = pair.answers.map(|answer| Tokens::of_answer(&pair.prompt, &answer));
            if let Some(answers) = reader.comparable(chosen, rejected, &pair.id) {
                reader.push_pair(&pair.id, answers, (None, Some(pair.margin)), &mut groups);
            }
        }
        let (groups, audit) = reader.gathered(groups)?;
        Ok(Self::of(Groups::Held(groups), audit, first_pair))
    }

    /// Groups, and their audit once it knows them.
    fn of(groups: Groups, mut audit: Audit, first_pair: usize) -> Self {
        let all = Self { groups, first_pair, audit: Audit::default() };
        audit.kept = all.len();
        audit.measure(all.held());
        Self { audit, ..all }
    }

    /// Reads rows for the errors of each alone: part of a data set may lack what the whole has.
    pub fn check_rows(dataset: &Dataset, renderer: &Renderer, reading: &Reading) -> Result<()> {
        let mut reader = Reader { renderer, reading, source: &dataset.source, audit: Audit::default() };
        let mut groups = Vec::new();
        dataset.iter().try_for_each(|example| reader.example(example?.as_ref(), &mut groups))
    }

    /// Number of groups.
    pub fn len(&self) -> usize {
        match &self.groups {
            Groups::Held(groups) => groups.len(),
            Groups::OnDisk(on_disk) => on_disk.kept.len(),
        }
    }

    /// Whether there is no group.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The groups, where they are held: all but demonstrations on disk.
    pub fn held(&self) -> &[Group] {
        match &self.groups {
            Groups::Held(groups) => groups,
            Groups::OnDisk(_) => &[],
        }
    }

    /// Groups in the order named.
    ///
    /// Errors: a file that was changed since it was read.
    pub fn groups(&self, chosen: &[usize]) -> Result<Vec<Cow<'_, Group>>> {
        match &self.groups {
            Groups::Held(groups) => Ok(chosen.iter().map(|&g| Cow::Borrowed(&groups[g])).collect()),
            Groups::OnDisk(on_disk) => chosen.par_iter().map(|&g| on_disk.group(g).map(Cow::Owned)).collect(),
        }
    }

    /// Groups as a batch, in the order named: what is learnt is unmasked.
    pub fn batch(&self, chosen: &[usize]) -> Result<Batch> {
        let groups = self.groups(chosen)?;
        let rows: Vec<(usize, &Row)> = (groups.iter().enumerate())
            .flat_map(|(place, group)| group.rows.iter().map(move |row| (place, row)))
            .collect();
        let starts: Vec<usize> = rows.iter().map(|(_, row)| row.start()).collect();
        let masks: Vec<Vec<f64>> = (rows.iter().zip(&starts))
            .map(|((_, r), &s)| r.tokens.learnt[s..].iter().map(|&l| f64::from(u8::from(l))).collect())
            .collect();
        let mut batch = Batch::new(Table::ragged(&masks, 0.0), rows.iter().map(|r| r.0).collect())?;
        for (i, &(place, row)) in rows.iter().enumerate() {
            batch.tokens[i] = row.tokens.ids.clone();
            batch.prompt_len[i] = starts[i];
            batch.role[i] = row.role;
            batch.pair[i] = Some(self.first_pair + chosen[place]);
            if row.role == Role::Chosen {
                batch.label[i] = groups[place].label;
                batch.margin[i] = groups[place].margin;
            }
        }
        add_worth(&mut batch, &groups);
        Ok(batch)
    }
}

impl OnDisk {
    fn group(&self, at: usize) -> Result<Group> {
        let row = self.kept[at] as usize;
        let (mut groups, _) = read_row(&self.dataset, row, &self.renderer, &self.reading)?;
        groups.pop().with_context(|| format!("row {row} of `{}` is left out the second time", self.dataset.source))
    }
}

impl fmt::Debug for OnDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} rows of `{}`", self.kept.len(), self.dataset.source)
    }
}

/// Which rows of demonstrations are left to train on.
fn survey(dataset: &Dataset, renderer: &Renderer, reading: &Reading) -> Result<(Vec<u32>, Audit)> {
    /// Rows made into tokens at a time.
    const ROWS: usize = 1024;
    let (mut kept, mut audit) = (Vec::new(), Audit::default());
    let bar = progress(dataset.len() as u64, "counting tokens");
    for first in (0..dataset.len()).step_by(ROWS) {
        let rows = first..(first + ROWS).min(dataset.len());
        let found: Vec<Result<(bool, Audit)>> = (rows.clone().into_par_iter())
            .map(|row| read_row(dataset, row, renderer, reading).map(|(groups, audit)| (!groups.is_empty(), audit)))
            .collect();
        for (row, found) in rows.zip(found) {
            let (is_kept, of_row) = found?;
            audit.add(of_row);
            kept.extend(is_kept.then_some(row as u32));
        }
        bar.inc(ROWS as u64);
    }
    bar.finish_and_clear();
    kept.shrink_to_fit();
    Ok((kept, audit))
}

fn read_row(dataset: &Dataset, row: usize, renderer: &Renderer, reading: &Reading) -> Result<(Vec<Group>, Audit)> {
    let mut reader =
        Reader { renderer, reading, source: &dataset.source, audit: Audit { read: 1, ..Audit::default() } };
    let mut groups = Vec::new();
    reader.example(dataset.get(row)?.as_ref(), &mut groups)?;
    Ok((groups, reader.audit))
}

fn read_all(dataset: &Dataset, renderer: &Renderer, reading: &Reading) -> Result<(Vec<Group>, Audit)> {
    let mut reader = Reader { renderer, reading, source: &dataset.source, audit: Audit::default() };
    let mut groups = Vec::new();
    for example in dataset.iter() {
        reader.audit.read += 1;
        reader.example(example?.as_ref(), &mut groups)?;
    }
    reader.gathered(groups)
}

/// The values of lists: utilities as advantages, probabilities as labels too.
fn add_worth(batch: &mut Batch, groups: &[Cow<'_, Group>]) {
    let lists: Option<Vec<&Worth>> = groups.iter().map(|group| group.worth.as_ref()).collect();
    let Some(lists) = lists.filter(|lists| !lists.is_empty()) else { return };
    batch.advantage = Some(Advantages::Row(lists.iter().flat_map(|worth| worth.utilities()).collect()));
    batch.label = (lists.iter())
        .flat_map(|worth| {
            let is_share = matches!(worth, Worth::Probs(_));
            worth.values().iter().map(move |value| is_share.then_some(*value))
        })
        .collect();
}

#[cfg(test)]
#[path = "examples_tests.rs"]
mod tests;
