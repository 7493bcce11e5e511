//! The score leaf: a linear head on the hidden state of a row's last token, for reward models.
//!
//! The position is the one that transformers' sequence classification takes: the last token that is not
//! the padding token of the checkpoint. Saved as `score.weight` [1,C] beside the decoder's weights, without
//! the language-model head.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor, Var};
use candlewick_algorithms::objective::{Leaves, Objective};
use candlewick_algorithms::rng::Rng;
use candlewick_algorithms::{Batch, Table};
use serde_json::Value;

use super::policy::Policy;
use super::update::{Update, cut_between_groups};
use crate::model::decoder::{Decoder, Keep, Pass, Tape};
use crate::model::ops::{embedding, linear};
use crate::model::packed::Packed;
use crate::model::params::{Grads, ParamId};
use crate::model::tokenizer::Tokenizer;
use crate::model::weights::Weights;

/// Name of the head's weight in a checkpoint.
pub const SCORE: &str = "score.weight";

impl Decoder {
    /// Adds a trainable score head: the checkpoint's own if it has one, else normal with deviation 0.02. The
    /// language-model head, where it is a weight of its own, is frozen and not saved.
    pub fn add_score_head(&mut self, folder: &Path, seed: u64) -> Result<()> {
        ensure!(self.lora.is_none(), "a reward model is trained whole: remove the section [model.lora]");
        let width = self.spec.hidden_size;
        let (dtype, device) = (self.params.dtype(), self.params.device().clone());
        let stored = Weights::open(folder).ok().filter(|w| w.contains(SCORE));
        let weight = match stored {
            Some(weights) => weights.load(SCORE, &[1, width], dtype, &device)?,
            None => {
                let mut rng = Rng::keyed(&[seed, 0x5c0e]);
                let values: Vec<f64> = (0..width).map(|_| 0.02 * rng.normal()).collect();
                Tensor::from_vec(values, (1, width), &Device::Cpu)?.to_dtype(dtype)?.to_device(&device)?
            }
        };
        self.params.add(SCORE, weight, true)?;
        for param in self.params.iter_mut().filter(|p| p.name == "lm_head.weight") {
            param.is_trainable = false;
        }
        Ok(())
    }

    /// Whether the model has a score head.
    pub fn has_score_head(&self) -> bool {
        self.params.id(SCORE).is_some()
    }
}

/// The padding token that a checkpoint's scores are read by.
fn pad_token(config: &Value, tokenizer: &Tokenizer) -> u32 {
    let of = |value: &Value| value.as_u64().map(|id| id as u32);
    config.get("pad_token_id").and_then(of).unwrap_or_else(|| tokenizer.eos()[0])
}

/// Turns a decoder's `config.json` into that of a sequence classifier with one output.
pub(super) fn describe(config: &mut Value, tokenizer: &Tokenizer) -> Result<()> {
    let pad = pad_token(config, tokenizer);
    let family = config.get("model_type").and_then(Value::as_str).context("`model_type` is missing")?;
    let class = match family {
        "llama" => "LlamaForSequenceClassification",
        "mistral" => "MistralForSequenceClassification",
        "qwen2" => "Qwen2ForSequenceClassification",
        "qwen3" => "Qwen3ForSequenceClassification",
        other => anyhow::bail!("reward models of family `{other}` cannot be saved"),
    };
    config["architectures"] = serde_json::json!([class]);
    config["id2label"] = serde_json::json!({ "0": "LABEL_0" });
    config["label2id"] = serde_json::json!({ "LABEL_0": 0 });
    config["num_labels"] = 1.into();
    config["problem_type"] = "regression".into();
    config["pad_token_id"] = pad.into();
    Ok(())
}

/// Rows of a micro-batch, whole, and where each is scored.
struct Scored {
    rows: Vec<usize>,
    pack: Packed,
    at: Vec<u32>,
}

/// Packs whole rows; neighbours of one group with one prompt share it.
fn pack(batch: &Batch, rows: &[usize], pad: u32) -> Result<Scored> {
    let mut scored = Scored { rows: rows.to_vec(), pack: Packed::new(), at: Vec::new() };
    let mut head: Option<usize> = None;
    let mut head_start = 0;
    for &row in rows {
        let (tokens, p) = (&batch.tokens[row], batch.prompt_len[row]);
        let last = tokens.iter().rposition(|&id| id != pad).with_context(|| format!("row {row} holds only padding"))?;
        let shares = head.is_some_and(|h| {
            batch.group[h] == batch.group[row] && batch.tokens[h][..batch.prompt_len[h]] == tokens[..p]
        });
        if !shares {
            head_start = scored.pack.len();
            scored.pack.push(&tokens[..p]);
            head = Some(row);
        }
        let start = scored.pack.len();
        if tokens.len() > p {
            scored.pack.push_continuation(&tokens[p..]);
        }
        scored.at.push(if last < p { head_start + last } else { start + last - p } as u32);
    }
    Ok(scored)
}

fn head(decoder: &Decoder) -> Result<ParamId> {
    decoder.params.id(SCORE).context("the model has no score head")
}

impl Scored {
    /// The tape and the score of each row, f64.
    fn forward(&self, decoder: &Decoder, pass: Pass) -> Result<(Tape, Vec<f64>)> {
        let tape = decoder.forward(&self.pack, pass)?;
        let states = embedding::forward(&self.at, &tape.hidden)?; // [R,C]
        let scores = linear::forward(&states, decoder.params.value(head(decoder)?), None)?; // [R,1]
        let scores = scores.to_dtype(DType::F64)?.to_device(&Device::Cpu)?.flatten_all()?.to_vec1()?;
        Ok((tape, scores))
    }

    fn back(&self, decoder: &Decoder, tape: Tape, upstream: &[f64], grads: &mut Grads) -> Result<()> {
        if upstream.iter().all(|g| *g == 0.0) {
            return Ok(());
        }
        let head = head(decoder)?;
        let weight = decoder.params.value(head).clone();
        let states = embedding::forward(&self.at, &tape.hidden)?;
        let d_scores = Tensor::new(upstream, &Device::Cpu)?
            .to_dtype(tape.hidden.dtype())?
            .to_device(tape.hidden.device())?
            .reshape((upstream.len(), 1))?; // [R,1]
        let d_hidden = tape.hidden.zeros_like()?;
        embedding::accumulate(&d_hidden, &self.at, &linear::backward_input(&d_scores, &weight)?)?;
        if let Some(slot) = grads.slot(&decoder.params, head)? {
            linear::accumulate_weight(slot, &d_scores, &states, 1.0)?;
        }
        decoder.backward(tape, &self.pack, &d_hidden, grads)
    }
}

/// Scores of a batch's rows, [N], without a gradient.
pub fn scores(policy: &Policy, batch: &Batch) -> Result<Vec<f64>> {
    let pad = pad_token(&policy.decoder.spec.config, policy.tokenizer());
    let mut all = vec![f64::NAN; batch.rows()];
    for rows in cut_between_groups(batch, &(0..batch.rows()).collect::<Vec<_>>(), policy.micro_tokens) {
        let scored = pack(batch, &rows, pad)?;
        let (_, values) = scored.forward(&policy.decoder, Pass::SCORE)?;
        rows.iter().zip(values).for_each(|(&row, value)| all[row] = value);
    }
    Ok(all)
}

/// Adds the gradient of an objective over scores to `grads`, micro-batch by micro-batch of whole groups.
pub(super) fn gradient(
    policy: &Policy,
    objective: &dyn Objective,
    batch: &Batch,
    grads: &mut Grads,
    dropout: Option<u64>,
) -> Result<Update> {
    ensure!(!objective.couples_rows(), "an objective over scores compares rows of one group only");
    let pad = pad_token(&policy.decoder.spec.config, policy.tokenizer());
    let keep = if policy.keep == Keep::Nothing { Keep::Activations } else { policy.keep };
    let pass = Pass { keep, dropout, ..Pass::SCORE };
    let rows: Vec<usize> = (0..batch.rows()).filter(|&i| batch.keep[i]).collect();
    let mut update = Update::default();
    for rows in cut_between_groups(batch, &rows, policy.micro_tokens) {
        let scored = pack(batch, &rows, pad)?;
        update.tokens += scored.pack.len();
        update.micro_batches += 1;
        let (tape, values) = scored.forward(&policy.decoder, pass)?;
        let score = Var::new(values.as_slice(), &Device::Cpu)?;
        let part = batch.select(&scored.rows);
        let leaves = Leaves {
            logp: Table::zeros(part.rows(), part.width()).tensor()?,
            entropy: None,
            divergence: None,
            score: Some(score.as_tensor().clone()),
        };
        let loss = objective.loss(&part, &leaves)?;
        let value = loss.value.to_scalar::<f64>()?;
        ensure!(value.is_finite(), "objective: the loss is {value}");
        update.loss += value;
        update.metrics.merge(&loss.metrics);
        let upstream: Vec<f64> = match loss.value.backward()?.get(score.as_tensor()) {
            Some(gradient) => gradient.to_vec1()?,
            None => vec![0.0; values.len()],
        };
        scored.back(&policy.decoder, tape, &upstream, grads)?;
    }
    Ok(update)
}
