//! How long a run's prompts or examples are, for the memory that it takes.

use anyhow::Result;

use crate::config::{Config, Kind};
use crate::data::render::{Renderer, Tokenised};
use crate::data::{Dataset, Example};
use crate::model::memory::Lengths;

/// Rows that are tokenised: the first ones.
pub(super) const ROWS: usize = 256;

/// Lengths of the training data's first rows in tokens; assumed where none of them is short enough and others follow.
///
/// Errors: a row that cannot be rendered; no row that is short enough.
pub fn of(config: &Config, dataset: &Dataset, renderer: &Renderer, context: usize) -> Result<Lengths> {
    let is_sampled = match config.kind() {
        Kind::Online(_) => true,
        Kind::Offline(offline) => !offline.reads_given_answers(),
    };
    let limit = match is_sampled {
        true => config.data.max_prompt_tokens.unwrap_or(context).min(context),
        false => context,
    };
    let prompt = |example: &Example| -> Result<usize> {
        match example.problem() {
            Some(problem) => Ok(renderer.prompt(&problem.prompt)?.len()),
            None => anyhow::bail!("row `{}` has no prompt", example.id()),
        }
    };
    let length = |example: &Example| -> Result<usize> {
        if is_sampled {
            return prompt(example);
        }
        match renderer.example(example)? {
            Tokenised::Row(tokens) => Ok(tokens.ids.len()),
            Tokenised::Pair { chosen, rejected } => Ok(chosen.ids.len().max(rejected.ids.len())),
            Tokenised::List(rows) => Ok(rows.iter().map(|row| row.ids.len()).max().unwrap_or(0)),
            Tokenised::Prompt(_) => prompt(example),
        }
    };
    let all: Vec<usize> = dataset.iter().take(ROWS).map(|row| length(row?.as_ref())).collect::<Result<_>>()?;
    let kept: Vec<usize> = all.iter().copied().filter(|n| *n <= limit).collect();
    let Some(longest) = kept.iter().copied().max() else {
        anyhow::ensure!(
            dataset.len() > ROWS || !is_sampled,
            "all `{}` prompts are longer than `{limit}` tokens (the longest has `{}`): raise `data.max_prompt_tokens` or use a model with a longer context",
            all.len(),
            all.iter().max().unwrap_or(&0)
        );
        return Ok(Lengths::assumed(config));
    };
    Ok(Lengths { mean: kept.iter().sum::<usize>().div_ceil(kept.len()), longest, is_measured: true })
}
