//! The `verifier` reward: a local language model says whether an answer matches the reference.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, ensure};
use async_trait::async_trait;
use candle_core::{DType, Device};
use candlewick_rewards::reward::verification::{Belief, Said, Template, VerdictConfig, prediction, sanitise, zscore};
use candlewick_rewards::reward::verifier::VerifierConfig;
use candlewick_rewards::{Item, Reward, RewardError};

use super::{PACK_TOKENS, keep_end};
use crate::model::chat_template::{ChatTemplate, Message, RenderOptions};
use crate::model::classifier::packs;
use crate::model::decoder::{Decoder, Pass};
use crate::model::ops::{embedding, linear};
use crate::model::packed::Packed;
use crate::model::spec::DecoderSpec;
use crate::model::tokenizer::Tokenizer;
use crate::model::weights::Weights;

/// A loaded verifier; see [`VerifierConfig`] for what it computes.
pub struct Verifier {
    config: VerifierConfig,
    prompt: Template,
    decoder: Decoder,
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    positive: Vec<usize>,
    negative: Vec<usize>,
    figures: Mutex<Vec<(String, f64)>>,
}

impl Verifier {
    /// Loads a checkpoint, and finds the tokens that spell the two words.
    ///
    /// Errors: a word that no token begins; both words beginning with the same token; a model without a chat template
    /// where `is_chat` asks for it.
    pub fn load(folder: &Path, config: VerifierConfig, dtype: DType, device: &Device) -> Result<Self> {
        let mut decoder = Decoder::load(DecoderSpec::read(folder)?, &Weights::open(folder)?, dtype, device)?;
        for param in decoder.params.iter_mut() {
            param.is_trainable = false;
        }
        let tokenizer = Tokenizer::from_folder(folder)?;
        tokenizer.check_vocab(decoder.spec.vocab_size)?;
        let template = match config.is_chat {
            true => ChatTemplate::from_folder(folder, tokenizer.special().clone())?,
            false => None,
        };
        ensure!(
            template.is_some() || !config.is_chat,
            "{} has no chat template: set `reward.verifier.is_chat = false`",
            folder.display()
        );
        let (positive, negative) = word_tokens(&config.verdict, &tokenizer, decoder.spec.vocab_size)?;
        let prompt = config.template()?;
        Ok(Self { config, prompt, decoder, tokenizer, template, positive, negative, figures: Mutex::default() })
    }

    /// What is asked about an item; `None` where there is nothing to ask about.
    fn question(&self, item: &Item) -> Result<Option<String>, RewardError> {
        if item.answer.is_none() {
            return Err(RewardError::Missing {
                reward: "verifier".into(),
                what: "a reference answer",
                fix: "name the data's answer column, or drop rows without one",
            });
        }
        let (part, max) = (self.config.send, self.config.max_chars);
        let Some(prediction) = prediction(&item.completion, part, max) else { return Ok(None) };
        let words = &self.config.verdict;
        let completion = sanitise(&item.completion, max);
        let own = [
            ("prediction", prediction.as_str()),
            ("completion", &completion),
            ("positive", &words.positive),
            ("negative", &words.negative),
        ];
        self.prompt.render(item, &own).map(Some).map_err(|message| RewardError::failed("verifier", message))
    }

    fn tokens(&self, prompt: &str) -> Result<Vec<u32>> {
        match &self.template {
            Some(template) => {
                self.tokenizer.encode(&template.render(&[Message::user(prompt)], &RenderOptions::prompt())?, false)
            }
            None => self.tokenizer.encode(prompt, true),
        }
    }

    /// What the model believes after each row of tokens: softmax over the whole vocabulary at temperature 1.
    pub fn beliefs(&self, rows: &[Vec<u32>]) -> Result<Vec<Belief>> {
        let mut beliefs = Vec::with_capacity(rows.len());
        for part in packs(&(0..rows.len()).collect::<Vec<_>>(), rows, PACK_TOKENS) {
            let mut pack = Packed::new();
            part.iter().for_each(|&i| {
                pack.push(&rows[i]);
            });
            let at: Vec<u32> = (0..part.len()).map(|s| pack.range(s).end as u32 - 1).collect();
            let hidden = self.decoder.forward(&pack, Pass::SCORE)?.hidden; // [N,C]
            let head = self.decoder.params.value(self.decoder.head);
            let logits = linear::forward(&embedding::forward(&at, &hidden)?, head, None)?; // [R,V]
            let logits: Vec<Vec<f64>> = logits.to_dtype(DType::F64)?.to_device(&Device::Cpu)?.to_vec2()?;
            beliefs.extend(logits.iter().map(|row| Belief::from_logits(row, &self.positive, &self.negative)));
        }
        Ok(beliefs)
    }

    fn all(&self, items: &[Item]) -> Result<Vec<Result<f64, RewardError>>> {
        let questions: Vec<_> = items.iter().map(|item| self.question(item)).collect();
        let (mut known, mut rows) = (HashMap::new(), Vec::new());
        for question in questions.iter().flatten().flatten() {
            if !known.contains_key(question.as_str()) {
                let mut row = self.tokens(question)?;
                keep_end(&mut row, self.decoder.spec.max_positions);
                ensure!(!row.is_empty(), "the prompt of the verdict has no tokens");
                known.insert(question.as_str(), rows.len());
                rows.push(row);
            }
        }
        let beliefs = self.beliefs(&rows)?;
        let words = &self.config.verdict;
        let score = |question: &Result<Option<String>, RewardError>| match question {
            Err(error) => Err(error.clone()),
            Ok(None) => Ok(0.0),
            Ok(Some(question)) => {
                let belief = beliefs[known[question.as_str()]];
                belief.score(words.score, words.min_mass).ok_or_else(|| {
                    let (mass, yes, no) = (belief.mass(), &words.positive, &words.negative);
                    RewardError::failed(
                        "verifier",
                        format!("`{yes}` and `{no}` together have probability {mass:.3} only"),
                    )
                })
            }
        };
        let scores: Vec<Result<f64, RewardError>> = questions.iter().map(score).collect();
        let unasked = questions.iter().filter(|q| matches!(q, Ok(None))).count();
        let mass = beliefs.iter().map(Belief::mass).sum::<f64>() / beliefs.len().max(1) as f64;
        *self.figures.lock().unwrap_or_else(PoisonError::into_inner) =
            vec![("asked".into(), rows.len() as f64), ("without_answer".into(), unasked as f64), ("mass".into(), mass)];
        if !self.config.zscore {
            return Ok(scores);
        }
        let present: Vec<Option<f64>> = scores.iter().map(|score| score.as_ref().ok().copied()).collect();
        let standardised = zscore(&present);
        Ok(scores.into_iter().zip(standardised).map(|(score, z)| z.map_or(score, Ok)).collect())
    }
}

/// Ids of the tokens that spell each word, in any case and with or without a space before it; where there is none,
/// the first token of the word.
fn word_tokens(words: &VerdictConfig, tokenizer: &Tokenizer, vocab: usize) -> Result<(Vec<usize>, Vec<usize>)> {
    let (mut positive, mut negative) = (Vec::new(), Vec::new());
    for id in 0..vocab.min(tokenizer.id_limit()) {
        let Ok(text) = tokenizer.decode(&[id as u32], true) else { continue };
        let text = text.trim().to_lowercase();
        if text == words.positive.to_lowercase() {
            positive.push(id);
        } else if text == words.negative.to_lowercase() {
            negative.push(id);
        }
    }
    for (word, ids, said) in
        [(&words.positive, &mut positive, Said::Positive), (&words.negative, &mut negative, Said::Negative)]
    {
        if ids.is_empty() {
            for form in [word.clone(), format!(" {word}")] {
                let first = tokenizer
                    .encode(&form, false)?
                    .into_iter()
                    .find(|&id| tokenizer.decode(&[id], true).is_ok_and(|text| words.says(&text) == said));
                ids.extend(first.map(|id| id as usize).filter(|id| !ids.contains(id)));
            }
        }
        ensure!(!ids.is_empty(), "no token of the verifier's vocabulary begins `{word}` and not the other word");
    }
    Ok((positive, negative))
}

#[async_trait]
impl Reward for Verifier {
    fn name(&self) -> &str {
        "verifier"
    }

    async fn score(&self, items: &[Item]) -> Vec<Result<f64, RewardError>> {
        self.all(items).unwrap_or_else(|error| {
            let failure = RewardError::failed("verifier", format!("{error:#}"));
            vec![Err(failure); items.len()]
        })
    }

    fn needs_answer(&self) -> bool {
        true
    }

    fn is_binary(&self) -> bool {
        self.config.is_binary()
    }

    fn is_batched(&self) -> bool {
        true
    }

    async fn start(&self) -> Result<Vec<String>, RewardError> {
        let (spec, words) = (&self.decoder.spec, &self.config.verdict);
        let (yes, no) = (self.positive.len(), self.negative.len());
        let tokens = format!("{yes} tokens say {}, {no} say {}", words.positive, words.negative);
        Ok(vec![format!("{}, {} parameters; {tokens}", spec.family, spec.parameters())])
    }

    async fn figures(&self, _: usize) -> Vec<(String, f64)> {
        std::mem::take(&mut *self.figures.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
