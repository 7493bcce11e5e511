//! How long a run's prompts or examples are, for the memory that it takes.

use std::path::Path;

use anyhow::Result;

use crate::config::{Config, Kind};
use crate::data::render::{Renderer, Tokenised};
use crate::data::source::Source;
use crate::data::{self, DataConfig, Example, Split};
use crate::hub::Hub;
use crate::model::chat_template::ChatTemplate;
use crate::model::memory::Lengths;
use crate::model::tokenizer::Tokenizer;

/// Rows that are tokenised: the first ones.
const ROWS: usize = 256;

/// Lengths of the training data's first rows, as the renderer of a checkpoint's folder makes them.
///
/// Assumed where the data or the tokenizer is not on this machine or cannot be read: the run itself
/// says why.
pub fn of_folder(config: &Config, folder: &Path, context: usize) -> Lengths {
    let renderer = || -> Result<Renderer> {
        let tokenizer = Tokenizer::from_folder(folder)?;
        let template = ChatTemplate::from_folder(folder, tokenizer.special().clone())?;
        Ok(Renderer::new(&config.data, tokenizer, template, serde_json::Map::new(), None))
    };
    match folder.join("tokenizer.json").is_file().then(renderer) {
        Some(Ok(renderer)) => measured(config, &renderer, context),
        _ => Lengths::assumed(config),
    }
}

/// The same with a renderer that is there.
pub fn measured(config: &Config, renderer: &Renderer, context: usize) -> Lengths {
    lengths(config, renderer, context).unwrap_or_else(|_| Lengths::assumed(config))
}

fn lengths(config: &Config, renderer: &Renderer, context: usize) -> Result<Lengths> {
    let source = Source::parse(config.data.train.as_deref().unwrap_or_default())?;
    anyhow::ensure!(!matches!(source, Source::Hub { .. }), "not on this machine");
    // What is held out does not matter here, and its source may be large.
    let few = DataConfig { limit: Some(ROWS), validation: None, ..config.data.clone() };
    let examples = data::load(&few, &Hub::from_env(), Split::Train)?.examples;
    let limit = match config.kind() {
        Kind::Online(_) => config.data.max_prompt_tokens.unwrap_or(context).min(context),
        Kind::Offline(_) => context,
    };
    let length = |example: &Example| -> Result<usize> {
        let prompt = || match example.problem() {
            Some(problem) => Ok(renderer.prompt(&problem.prompt)?.len()),
            None => anyhow::bail!("no prompt"),
        };
        if matches!(config.kind(), Kind::Online(_)) {
            return prompt();
        }
        match renderer.example(example)? {
            Tokenised::Row(tokens) => Ok(tokens.ids.len()),
            Tokenised::Pair { chosen, rejected } => Ok(chosen.ids.len().max(rejected.ids.len())),
            Tokenised::List(rows) => Ok(rows.iter().map(|row| row.ids.len()).max().unwrap_or(0)),
            Tokenised::Prompt(_) => prompt(),
        }
    };
    let all: Vec<usize> = examples.iter().take(ROWS).map(length).collect::<Result<_>>()?;
    let kept: Vec<usize> = all.into_iter().filter(|n| *n <= limit).collect();
    anyhow::ensure!(!kept.is_empty(), "no row is short enough");
    let longest = kept.iter().copied().max().unwrap_or(1);
    Ok(Lengths { mean: kept.iter().sum::<usize>().div_ceil(kept.len()), longest, is_measured: true })
}
