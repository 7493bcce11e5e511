//! The `reward_model` reward: a sequence-classification checkpoint scores the conversation.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::Result;
use async_trait::async_trait;
use candle_core::{DType, Device};
use candlewick_rewards::reward::reward_model::RewardModelConfig;
use candlewick_rewards::{Item, Reward, RewardError};

use super::{PACK_TOKENS, keep_end, unique};
use crate::model::chat_template::{ChatTemplate, Message, RenderOptions};
use crate::model::classifier::Classifier;
use crate::model::tokenizer::Tokenizer;

/// A loaded reward model; see [`RewardModelConfig`] for what it computes.
pub struct RewardModel {
    config: RewardModelConfig,
    model: Classifier,
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    figures: Mutex<Vec<(String, f64)>>,
}

impl RewardModel {
    /// Loads a checkpoint with its tokenizer and chat template.
    ///
    /// Without a chat template, prompt and completion are joined as plain text.
    pub fn load(folder: &Path, config: RewardModelConfig, dtype: DType, device: &Device) -> Result<Self> {
        let model = Classifier::load(folder, dtype, device)?;
        let tokenizer = Tokenizer::from_folder(folder)?;
        tokenizer.check_vocab(model.decoder.spec.vocab_size)?;
        let template = ChatTemplate::from_folder(folder, tokenizer.special().clone())?;
        Ok(Self { config, model, tokenizer, template, figures: Mutex::default() })
    }

    /// The tokens of a conversation that ends with `completion`, as this model was trained to see it.
    fn tokens(&self, item: &Item, completion: &str) -> Result<Vec<u32>> {
        let Some(template) = &self.template else {
            return self.tokenizer.encode(&format!("{}{completion}", item.prompt), true);
        };
        let asked = match item.turns.as_slice() {
            [] => vec![Message::user(if item.question.is_empty() { &item.prompt } else { &item.question })],
            turns => turns.iter().map(|(role, text)| Message::new(role, text.as_str())).collect(),
        };
        let messages: Vec<Message> = asked.into_iter().chain([Message::assistant(completion)]).collect();
        self.tokenizer.encode(&template.render(&messages, &RenderOptions::default())?, false)
    }

    /// Scores of conversations; the number of those that were too long; `None` for an empty one.
    fn raw(&self, mut rows: Vec<Vec<u32>>) -> Result<(Vec<Option<f64>>, usize)> {
        let context = self.model.decoder.spec.max_positions;
        let limit = self.config.max_tokens.unwrap_or(context).min(context);
        let truncated = rows.iter_mut().map(|row| usize::from(keep_end(row, limit))).sum();
        let (different, places) = unique(&rows);
        let scores = self.model.scores(&different, PACK_TOKENS)?;
        Ok((places.into_iter().map(|place| scores[place].as_ref().map(|labels| labels[0])).collect(), truncated))
    }

    fn all(&self, items: &[Item]) -> Result<Vec<Result<f64, RewardError>>> {
        let rows = items.iter().map(|item| self.tokens(item, &item.completion)).collect::<Result<Vec<_>>>()?;
        let (raw, truncated) = self.raw(rows)?;
        let references = match self.config.subtract_reference {
            false => vec![None; items.len()],
            true => {
                let answer = |item: &Item| match &item.answer {
                    Some(answer) => self.tokens(item, answer),
                    None => Ok(Vec::new()),
                };
                self.raw(items.iter().map(answer).collect::<Result<Vec<_>>>()?)?.0
            }
        };
        let lengths: Vec<f64> = items.iter().map(|item| item.completion_tokens as f64).collect();
        let mut figures = vec![("truncated".to_owned(), truncated as f64)];
        figures.extend(correlation(&raw, &lengths).map(|r| ("length_correlation".to_owned(), r)));
        *self.figures.lock().unwrap_or_else(PoisonError::into_inner) = figures;
        let missing = |what, fix| RewardError::Missing { reward: "reward_model".into(), what, fix };
        let score = |(raw, reference): (Option<f64>, Option<f64>)| match (raw, reference) {
            (None, _) => Err(missing("a text", "the conversation has no tokens")),
            (_, None) if self.config.subtract_reference => {
                Err(missing("a reference answer", "name the data's answer column, or set `subtract_reference = false`"))
            }
            (Some(raw), reference) => Ok(self.config.transform(raw, reference)),
        };
        Ok(raw.into_iter().zip(references).map(score).collect())
    }
}

/// Pearson's correlation of scores and lengths; `None` where either does not vary.
fn correlation(scores: &[Option<f64>], lengths: &[f64]) -> Option<f64> {
    let pairs: Vec<(f64, f64)> = scores.iter().zip(lengths).filter_map(|(s, l)| Some(((*s)?, *l))).collect();
    let n = pairs.len() as f64;
    let (a, b) = (pairs.iter().map(|p| p.0).sum::<f64>() / n, pairs.iter().map(|p| p.1).sum::<f64>() / n);
    let product: f64 = pairs.iter().map(|p| (p.0 - a) * (p.1 - b)).sum();
    let spread = |f: &dyn Fn(&(f64, f64)) -> f64| pairs.iter().map(|p| f(p).powi(2)).sum::<f64>();
    let scale = (spread(&|p| p.0 - a) * spread(&|p| p.1 - b)).sqrt();
    (scale > 0.0).then(|| product / scale)
}

#[async_trait]
impl Reward for RewardModel {
    fn name(&self) -> &str {
        "reward_model"
    }

    async fn score(&self, items: &[Item]) -> Vec<Result<f64, RewardError>> {
        self.all(items).unwrap_or_else(|error| {
            let failure = RewardError::failed("reward_model", format!("{error:#}"));
            vec![Err(failure); items.len()]
        })
    }

    fn needs_answer(&self) -> bool {
        self.config.subtract_reference
    }

    fn is_binary(&self) -> bool {
        false
    }

    fn is_batched(&self) -> bool {
        true
    }

    async fn start(&self) -> Result<Vec<String>, RewardError> {
        let spec = &self.model.decoder.spec;
        let labels = self.model.score.dims()[0];
        let which = if labels > 1 { format!(", the first of its {labels} labels") } else { String::new() };
        let template =
            if self.template.is_some() { "its chat template" } else { "plain text, it has no chat template" };
        Ok(vec![format!("{}, {} parameters{which}; {template}", spec.family, spec.parameters())])
    }

    async fn figures(&self, _: usize) -> Vec<(String, f64)> {
        std::mem::take(&mut *self.figures.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
