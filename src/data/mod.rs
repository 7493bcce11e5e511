//! Problems to solve and examples to learn from: where they come from and what they look like.
//!
//! [`load`] turns a [`DataConfig`] into a [`Dataset`] of [`Example`]s: from a file, a data set on
//! the Hub ([`source`]) or a generator ([`generated`]). Rows of JSONL files stay on disk and are read when
//! they are asked for. [`render`] turns prompts and examples into
//! token ids, the same way for training, rewards and evaluation. What it leaves out: grading, and
//! the order in which problems are drawn (the prompts stage).

use std::borrow::Cow;
use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use indicatif::ProgressBar;
use serde::Serialize;
use serde_json::{Map, Value as Json};

use crate::hub::Hub;
pub use crate::model::chat_template::Message;

mod columns;
mod config;
mod dialogue;
pub mod generated;
mod index;
pub mod read;
pub mod render;
pub mod source;
pub mod split;

pub use columns::Columns;
use columns::RowReader;
pub use config::{DataConfig, Validation};
pub use generated::GeneratedConfig;
use index::Index;
use read::Opened;
use source::Source;

/// What a model is asked.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Prompt {
    /// Given to the model as it is.
    Text(String),
    /// Rendered by the chat template.
    Messages(Vec<Message>),
}

/// What a model answers, in the form its prompt has.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Reply {
    /// Follows a prompt of plain text.
    Text(String),
    /// Follows a prompt of messages; one assistant message as a rule.
    Messages(Vec<Message>),
}

/// A prompt whose answer can be checked: the row of online training and of evaluation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Problem {
    /// Names the row: its `id` field, else `name-of-source:row`.
    pub id: String,
    /// What the model is asked, system prompt and template applied.
    pub prompt: Prompt,
    /// The problem without template, as the data state it; what splits and duplicates go by.
    pub text: String,
    /// The reference answer, if the data have one.
    pub answer: Option<String>,
    /// All other fields of the row.
    pub meta: Map<String, Json>,
}

/// What the data say of the candidates of a list, one value each.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum Worth {
    /// Scores; larger is better.
    Scores(Vec<f64>),
    /// Probabilities that sum to 1, such as shares of raters.
    Probs(Vec<f64>),
    /// Ranks from 1, the best; equal ones are ties.
    Ranks(Vec<f64>),
}

impl Worth {
    /// The values, in the order of the candidates.
    pub fn values(&self) -> &[f64] {
        match self {
            Self::Scores(values) | Self::Probs(values) | Self::Ranks(values) => values,
        }
    }

    /// What is said of the candidates at these places; probabilities are made to sum to 1 again.
    pub fn of(&self, places: &[usize]) -> Self {
        let taken = |values: &[f64]| -> Vec<f64> { places.iter().map(|&place| values[place]).collect() };
        match self {
            Self::Scores(values) => Self::Scores(taken(values)),
            Self::Ranks(values) => {
                let left = taken(values);
                // 1 + how many of those that are left are better.
                let rank = |value: &f64| 1.0 + left.iter().filter(|other| *other < value).count() as f64;
                Self::Ranks(left.iter().map(rank).collect())
            }
            Self::Probs(values) => {
                let left = taken(values);
                let sum: f64 = left.iter().sum();
                // Where nothing is left of the mass, nothing is known of the rest.
                let share = |value: f64| if sum > 0.0 { value / sum } else { 1.0 / left.len() as f64 };
                Self::Probs(left.iter().map(|value| share(*value)).collect())
            }
        }
    }

    /// Numbers that are larger for better candidates: scores and probabilities themselves; ranks evenly spaced from 1
    /// for the best to 0 for rank K, so that heavy tails of the scores behind them have no say.
    pub fn utilities(&self) -> Vec<f64> {
        let k = self.values().len() as f64;
        match self {
            Self::Scores(values) | Self::Probs(values) => values.clone(),
            Self::Ranks(ranks) => ranks.iter().map(|rank| (k - rank) / (k - 1.0)).collect(),
        }
    }
}

/// A row of training data, in one of TRL's forms, or a list of candidates.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum Example {
    /// Prompt-only, with or without an answer.
    Prompt(Problem),
    /// Prompt and completion. The problem's answer is there too if the data have one.
    Completion {
        /// What is asked.
        problem: Problem,
        /// What is to be learnt.
        completion: Reply,
    },
    /// A better and a worse reply to the same prompt.
    Preference {
        /// What is asked. Where the data leave it implicit, the longest common beginning of both.
        problem: Problem,
        /// The better reply.
        chosen: Reply,
        /// The worse reply.
        rejected: Reply,
    },
    /// Several replies to the same prompt, with what each is worth.
    Ranked {
        /// What is asked.
        problem: Problem,
        /// Two replies or more.
        candidates: Vec<Reply>,
        /// As many values.
        worth: Worth,
    },
    /// Language modelling: a text, all of it to be learnt.
    Text {
        /// Names the row.
        id: String,
        /// The text.
        text: String,
    },
    /// Language modelling on a conversation: the assistant's turns are to be learnt.
    Conversation {
        /// Names the row.
        id: String,
        /// The turns.
        messages: Vec<Message>,
    },
}

impl Example {
    /// The row's name.
    pub fn id(&self) -> &str {
        match self {
            Self::Prompt(problem)
            | Self::Completion { problem, .. }
            | Self::Preference { problem, .. }
            | Self::Ranked { problem, .. } => &problem.id,
            Self::Text { id, .. } | Self::Conversation { id, .. } => id,
        }
    }

    /// The problem, where the row has one.
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Prompt(problem)
            | Self::Completion { problem, .. }
            | Self::Preference { problem, .. }
            | Self::Ranked { problem, .. } => Some(problem),
            Self::Text { .. } | Self::Conversation { .. } => None,
        }
    }

    /// The name of the row's form, as messages use it.
    pub fn form(&self) -> &'static str {
        match self {
            Self::Prompt(_) => "prompt-only",
            Self::Completion { .. } => "prompt-completion",
            Self::Preference { .. } => "preference",
            Self::Ranked { .. } => "ranked",
            Self::Text { .. } => "text",
            Self::Conversation { .. } => "conversation",
        }
    }

    /// The text by which rows are told apart and split.
    fn key(&self) -> String {
        match self {
            Self::Prompt(problem)
            | Self::Completion { problem, .. }
            | Self::Preference { problem, .. }
            | Self::Ranked { problem, .. } => problem.text.clone(),
            Self::Text { text, .. } => text.clone(),
            Self::Conversation { messages, .. } => conversation_text(messages),
        }
    }
}

/// Rows of one split, in the order of their source.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// The source as the configuration names it.
    pub source: String,
    /// The files that were read; none for generated problems.
    pub files: Vec<PathBuf>,
    /// The rows; never none.
    rows: Rows,
}

/// Where rows are.
#[derive(Clone, Debug)]
enum Rows {
    Held(Vec<Example>),
    Indexed(Box<Index>),
}

impl Dataset {
    /// A data set of rows that are in memory.
    pub fn held(source: &str, files: Vec<PathBuf>, examples: Vec<Example>) -> Self {
        Self { source: source.to_owned(), files, rows: Rows::Held(examples) }
    }

    /// The number of rows.
    pub fn len(&self) -> usize {
        match &self.rows {
            Rows::Held(examples) => examples.len(),
            Rows::Indexed(index) => index.len(),
        }
    }

    /// Whether there is no row; [`load`] never returns such a set.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether rows are read from disk each time, and not held.
    pub fn is_indexed(&self) -> bool {
        matches!(self.rows, Rows::Indexed(_))
    }

    /// A row, by its place in this set.
    ///
    /// Errors: a file that was changed since it was opened.
    pub fn get(&self, at: usize) -> Result<Cow<'_, Example>> {
        match &self.rows {
            Rows::Held(examples) => Ok(Cow::Borrowed(&examples[at])),
            Rows::Indexed(index) => index.get(at).map(Cow::Owned),
        }
    }

    /// All rows in order; errors as [`get`](Self::get).
    pub fn iter(&self) -> impl Iterator<Item = Result<Cow<'_, Example>>> {
        (0..self.len()).map(|at| self.get(at))
    }

    /// The first rows, in memory.
    pub fn first(&self, count: usize) -> Result<Self> {
        let examples = self.iter().take(count).map(|row| row.map(Cow::into_owned)).collect::<Result<_>>()?;
        Ok(Self::held(&self.source, self.files.clone(), examples))
    }

    /// Keeps the rows whose flag is set.
    pub fn retain(&mut self, keep: &[bool]) {
        let mut flags = keep.iter();
        match &mut self.rows {
            Rows::Held(examples) => examples.retain(|_| flags.next() == Some(&true)),
            Rows::Indexed(index) => index.retain(keep),
        }
    }

    /// Keeps the first rows.
    pub fn truncate(&mut self, limit: usize) {
        match &mut self.rows {
            Rows::Held(examples) => examples.truncate(limit),
            Rows::Indexed(index) => index.truncate(limit),
        }
    }

    /// The problems, for online training and evaluation.
    ///
    /// Errors: a row that has no prompt (language modelling), by its id; as [`get`](Self::get).
    pub fn problems(&self) -> Result<Vec<Problem>> {
        self.iter().map(|row| row.and_then(|example| self.problem(&example).cloned())).collect()
    }

    /// Refuses rows without a prompt, as [`problems`](Self::problems) does.
    pub fn check_problems(&self) -> Result<()> {
        self.iter().try_for_each(|row| self.problem(row?.as_ref()).map(drop))
    }

    fn problem<'e>(&self, example: &'e Example) -> Result<&'e Problem> {
        example.problem().with_context(|| {
            format!("row `{}` of `{}` is of form `{}` and has no prompt", example.id(), self.source, example.form())
        })
    }

    /// The hash that each row is told apart and split by.
    fn hashes(&self) -> Result<Vec<u64>> {
        self.iter().map(|row| Ok(split::hash(&row?.key()))).collect()
    }
}

/// Which part of the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// What is trained on.
    Train,
    /// What is held out.
    Validation,
}

/// Loads one split. The two splits of a configuration never share a problem.
///
/// `validation` as a share or count cuts rows out of `train` by the hash of the problem's text; as a
/// source it is read by itself, and problems that `train` has too are left out of `train`. Generated
/// problems are held out by their operands, whatever the order these stand in. Rows with the same
/// problem text always fall on the same side.
///
/// Errors: a source that cannot be found or read, with file and line; a split without rows; no
/// `validation` configured when it is asked for.
pub fn load(config: &DataConfig, hub: &Hub, split: Split) -> Result<Dataset> {
    config.check()?;
    let name = config.train.as_deref().context("no training data: set `data.train`")?;
    let source = Source::parse(name)?;
    let dataset = match (&source, &config.validation, split) {
        (Source::Generated(kind), validation, _) if !matches!(validation, Some(Validation::Source(_))) => {
            let held_out = validation.as_ref().map(Validation::amount);
            generated_set(config, name, *kind, held_out, split)?
        }
        (_, None, Split::Validation) => {
            bail!("no validation data: set `data.validation` to a share, a count or a source")
        }
        (_, None, Split::Train) => read_set(config, hub, name, &source, split)?,
        (_, Some(Validation::Source(other)), Split::Validation) => {
            read_set(config, hub, other, &Source::parse(other)?, Split::Validation)?
        }
        (_, Some(Validation::Source(other)), Split::Train) => {
            let held_out = read_set(config, hub, other, &Source::parse(other)?, Split::Validation)?;
            without(read_set(config, hub, name, &source, split)?, &held_out)?
        }
        (_, Some(validation), split) => {
            let mut all = read_set(config, hub, name, &source, split)?;
            let amount = validation.amount();
            let mut keep = split::held_out(&all.hashes()?, amount)?;
            keep.iter_mut().for_each(|is_held_out| *is_held_out = *is_held_out == (split == Split::Validation));
            all.retain(&keep);
            all
        }
    };
    let dataset = limited(dataset, config, split);
    if dataset.is_empty() {
        let part = if split == Split::Train { "training" } else { "validation" };
        bail!("no {part} rows are left of `{name}`: the validation split takes all or nothing");
    }
    Ok(dataset)
}

/// Loads one source by itself, as evaluation does: `data.train` is not looked at, and of a generator
/// the held-out problems are taken.
///
/// Errors: as [`load`].
pub fn load_source(config: &DataConfig, hub: &Hub, name: &str) -> Result<Dataset> {
    config.check()?;
    match Source::parse(name)? {
        Source::Generated(kind) => {
            // Whatever share training leaves out, so that nothing trained on is evaluated.
            let held_out = match &config.validation {
                Some(Validation::Share(share)) => Some(split::Amount::Share(*share)),
                _ => None,
            };
            generated_set(config, name, kind, held_out, Split::Validation)
        }
        source => read_set(config, hub, name, &source, Split::Validation),
    }
}

fn read_set(config: &DataConfig, hub: &Hub, name: &str, source: &Source, split: Split) -> Result<Dataset> {
    if let Source::Generated(kind) = source {
        return generated_set(config, name, *kind, None, split);
    }
    let files = source.files(hub, config.revision.as_deref())?;
    let reader = RowReader::new(config, name);
    let (mut held, mut index) = (Vec::new(), Index::new(reader.clone()));
    for file in &files {
        match read::open(file)? {
            Opened::Lines(lines) if held.is_empty() => index.add(file, lines)?,
            opened => {
                // One file that must be held makes all be held, in order.
                held.extend((0..index.len()).map(|at| index.get(at)).collect::<Result<Vec<_>>>()?);
                index.truncate(0);
                for row in opened.into_rows() {
                    let (place, row) = row?;
                    held.push(reader.read(row, held.len()).with_context(|| place.to_string())?);
                }
            }
        }
    }
    let rows = if held.is_empty() { Rows::Indexed(Box::new(index)) } else { Rows::Held(held) };
    let set = Dataset { source: name.to_owned(), files, rows };
    if set.is_empty() {
        bail!("`{name}` has no rows");
    }
    Ok(set)
}

fn generated_set(
    config: &DataConfig,
    name: &str,
    kind: generated::Kind,
    held_out: Option<split::Amount>,
    split: Split,
) -> Result<Dataset> {
    let examples = generated::examples(kind, config, held_out, split).with_context(|| format!("in `{name}`"))?;
    Ok(Dataset::held(name, Vec::new(), examples))
}

fn without(mut train: Dataset, held_out: &Dataset) -> Result<Dataset> {
    let keys: HashSet<u64> = held_out.hashes()?.into_iter().collect();
    let keep: Vec<bool> = train.hashes()?.iter().map(|hash| !keys.contains(hash)).collect();
    let before = train.len();
    train.retain(&keep);
    if train.len() < before {
        tracing::warn!(
            "{} rows of `{}` are in `{}` too and are not trained on",
            before - train.len(),
            train.source,
            held_out.source
        );
    }
    Ok(train)
}

fn limited(mut dataset: Dataset, config: &DataConfig, split: Split) -> Dataset {
    if let (Some(limit), Split::Train) = (config.limit, split) {
        dataset.truncate(limit);
    }
    dataset
}

/// A bar over the bytes of a file that takes a while to read.
fn progress(file: &std::fs::File, path: &Path) -> ProgressBar {
    const LONG: u64 = 64 << 20;
    match file.metadata().map(|m| m.len()) {
        Ok(bytes) if bytes > LONG => crate::train::account::progress(bytes, &format!("reading {}", path.display())),
        _ => ProgressBar::hidden(),
    }
}

fn conversation_text(messages: &[Message]) -> String {
    messages.iter().map(|message| format!("{}\n{}\n", message.role, message.text())).collect()
}

#[cfg(test)]
mod golden_tests;
#[cfg(test)]
mod tests;
