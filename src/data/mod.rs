//! Problems to solve and examples to learn from: where they come from and what they look like.
//!
//! [`load`] turns a [`DataConfig`] into a [`Dataset`] of [`Example`]s: from a file, a data set on
//! the Hub ([`source`]) or a generator ([`generated`]). [`render`] turns prompts and examples into
//! token ids, the same way for training, rewards and evaluation. What it leaves out: grading, and
//! the order in which problems are drawn (the prompts stage).

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde_json::{Map, Value as Json};

use crate::hub::Hub;
pub use crate::model::chat_template::Message;

mod columns;
mod config;
mod dialogue;
pub mod generated;
pub mod read;
pub mod render;
pub mod source;
pub mod split;

pub use columns::Columns;
use columns::RowReader;
pub use config::{DataConfig, Validation};
pub use generated::GeneratedConfig;
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
#[derive(Clone, Debug, PartialEq)]
pub struct Dataset {
    /// The source as the configuration names it.
    pub source: String,
    /// The files that were read; none for generated problems.
    pub files: Vec<PathBuf>,
    /// The rows; never empty.
    pub examples: Vec<Example>,
}

impl Dataset {
    /// The number of rows.
    pub fn len(&self) -> usize {
        self.examples.len()
    }

    /// Whether there is no row; [`load`] never returns such a set.
    pub fn is_empty(&self) -> bool {
        self.examples.is_empty()
    }

    /// The problems, for online training and evaluation.
    ///
    /// Errors: a row that has no prompt (language modelling), by its id.
    pub fn problems(&self) -> Result<Vec<Problem>> {
        self.examples
            .iter()
            .map(|example| {
                example.problem().cloned().with_context(|| {
                    format!(
                        "row `{}` of `{}` is of form `{}` and has no prompt",
                        example.id(),
                        self.source,
                        example.form()
                    )
                })
            })
            .collect()
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
            without(read_set(config, hub, name, &source, split)?, &held_out)
        }
        (_, Some(validation), split) => {
            let mut all = read_set(config, hub, name, &source, split)?;
            let amount = validation.amount();
            let is_held_out = split::held_out(&all.examples.iter().map(Example::key).collect::<Vec<_>>(), amount)?;
            let mut flags = is_held_out.into_iter();
            all.examples.retain(|_| flags.next() == Some(split == Split::Validation));
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
    let rows = RowReader::new(config, name);
    let mut examples = Vec::new();
    for file in &files {
        for row in read::rows(file)? {
            let (place, row) = row?;
            let example = rows.read(row, examples.len()).with_context(|| place.to_string())?;
            examples.push(example);
        }
    }
    if examples.is_empty() {
        bail!("`{name}` has no rows");
    }
    Ok(Dataset { source: name.to_string(), files, examples })
}

fn generated_set(
    config: &DataConfig,
    name: &str,
    kind: generated::Kind,
    held_out: Option<split::Amount>,
    split: Split,
) -> Result<Dataset> {
    let examples = generated::examples(kind, config, held_out, split).with_context(|| format!("in `{name}`"))?;
    Ok(Dataset { source: name.to_string(), files: Vec::new(), examples })
}

fn without(mut train: Dataset, held_out: &Dataset) -> Dataset {
    let keys: std::collections::HashSet<u64> =
        held_out.examples.iter().map(|example| split::hash(&example.key())).collect();
    let before = train.len();
    train.examples.retain(|example| !keys.contains(&split::hash(&example.key())));
    if train.len() < before {
        tracing::warn!(
            "{} rows of `{}` are in `{}` too and are not trained on",
            before - train.len(),
            train.source,
            held_out.source
        );
    }
    train
}

fn limited(mut dataset: Dataset, config: &DataConfig, split: Split) -> Dataset {
    if let (Some(limit), Split::Train) = (config.limit, split) {
        dataset.examples.truncate(limit);
    }
    dataset
}

fn conversation_text(messages: &[Message]) -> String {
    messages.iter().map(|message| format!("{}\n{}\n", message.role, message.text())).collect()
}

#[cfg(test)]
mod golden_tests;
#[cfg(test)]
mod tests;
