//! The policy and its reference: loading, scoring a batch, saving.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor};
use candlewick_algorithms::row::group;
use candlewick_algorithms::row::log_sum_sq::LogSumSq;
use candlewick_algorithms::row::soft::SoftLogp;
use candlewick_algorithms::row::token::TokenLogp;
use candlewick_algorithms::{Batch, Needs, Table};
use rayon::prelude::*;

use crate::config::{Config, Device as DeviceChoice, Dtype, ModelConfig};
use crate::data::DataConfig;
use crate::data::render::Renderer;
use crate::hub::{Hub, Weights as Fetch};
use crate::model::chat_template::ChatTemplate;
use crate::model::decoder::{Decoder, Keep, Pass};
use crate::model::head::ROWS_A_CHUNK;
use crate::model::lora;
use crate::model::memory::{self, Lengths};
use crate::model::ops::{Float, View};
use crate::model::spec::DecoderSpec;
use crate::model::tokenizer::Tokenizer;
use crate::model::weights::{self, Weights};

use super::score::SCORE;
use super::update::{MicroBatch, micro_batches};

mod frozen;

use frozen::REFERENCE_FILE;
pub use frozen::Reference;
pub(super) use frozen::ReferenceSource;

/// A model with its tokenizer, ready to sample and train.
pub struct Policy {
    /// The trained model.
    pub decoder: Decoder,
    /// The reference.
    pub reference: Reference,
    /// Tokenizer and chat template.
    pub renderer: Arc<Renderer>,
    /// Folder that the checkpoint was loaded from.
    pub folder: PathBuf,
    /// Seed of its weights, where they are random.
    pub random_init: Option<u64>,
    /// Steps between the reference's moves towards the policy, and the policy's weight in one.
    pub reference_sync: Option<(usize, f64)>,
    /// Name of the base model, as the config gives it.
    pub name: String,
    /// What the backward pass keeps.
    pub keep: Keep,
    /// Most tokens in one forward and backward pass.
    pub micro_tokens: usize,
}

/// The device that a config asks for.
pub fn device(choice: DeviceChoice) -> Result<Device> {
    let cuda = |n: usize| {
        Device::new_cuda(n)
            .map_err(|error| anyhow::anyhow!("{}", error.to_string().lines().next().unwrap_or("no reason was given")))
    };
    match choice {
        DeviceChoice::Cpu => Ok(Device::Cpu),
        DeviceChoice::Cuda(n) => {
            ensure!(
                candle_core::utils::cuda_is_available(),
                "`model.device` = `cuda` needs a build with `--features cuda`: use `cpu` or `auto`"
            );
            cuda(n).context("the GPU cannot be used")
        }
        DeviceChoice::Auto if !candle_core::utils::cuda_is_available() => Ok(Device::Cpu),
        DeviceChoice::Auto => match cuda(0) {
            Ok(device) => Ok(device),
            Err(error) => {
                // A run asks more than once: for the policy, its reference, a fresh base model.
                static TOLD: std::sync::Once = std::sync::Once::new();
                TOLD.call_once(|| tracing::warn!("no GPU can be used ({error}), so the run goes on the CPU"));
                Ok(Device::Cpu)
            }
        },
    }
}

fn dtype(choice: Dtype) -> DType {
    match choice {
        Dtype::F32 => DType::F32,
        Dtype::Bf16 => DType::BF16,
        Dtype::F64 => DType::F64,
    }
}

/// Loads the decoder of a folder: a checkpoint, or an adapter together with its base.
fn load_decoder(
    folder: &Path,
    others: &[&str],
    dtype: DType,
    device: &Device,
    hub: &Hub,
) -> Result<(Decoder, PathBuf, Option<PathBuf>)> {
    if !lora::is_adapter(folder) {
        let spec = DecoderSpec::read(folder)?;
        let decoder = Decoder::load_beside(spec, &Weights::open(folder)?, others, dtype, device)?;
        return Ok((decoder, folder.to_owned(), None));
    }
    let (_, base) = lora::read_config(folder)?;
    let base = base.with_context(|| format!("{}: the adapter does not name its base model", folder.display()))?;
    let base = hub.model(&base, None, Fetch::Fetch)?;
    let spec = DecoderSpec::read(&base)?;
    let mut decoder = Decoder::load(spec, &Weights::open(&base)?, dtype, device)?;
    decoder.load_lora(folder)?;
    Ok((decoder, base, Some(folder.to_owned())))
}

impl Policy {
    /// Loads a model for sampling and scoring; training choices take their defaults.
    pub fn load(model: &ModelConfig, data: &DataConfig) -> Result<Self> {
        Self::load_beside(model, data, &[])
    }

    /// The same for a checkpoint that holds `others` too, which someone else reads.
    fn load_beside(model: &ModelConfig, data: &DataConfig, others: &[&str]) -> Result<Self> {
        let hub = Hub::from_env();
        let device = device(model.device)?;
        let wants = if model.random_init.is_some() { Fetch::Skip } else { Fetch::Fetch };
        let folder = hub.model(&model.path, model.revision.as_deref(), wants)?;
        let (decoder, base, adapter) = match model.random_init {
            Some(seed) => {
                let decoder = Decoder::random(DecoderSpec::read(&folder)?, seed, dtype(model.dtype), &device)?;
                (decoder, folder.clone(), None)
            }
            None => load_decoder(&folder, others, dtype(model.dtype), &device, &hub)?,
        };
        // A checkpoint of an adapter may bring its own tokenizer; else the base's is used.
        let texts = adapter.filter(|f| f.join("tokenizer.json").is_file()).unwrap_or(base);
        let tokenizer = Tokenizer::from_folder(&texts)?;
        tokenizer.check_vocab(decoder.spec.vocab_size)?;
        let template = ChatTemplate::from_folder(&texts, tokenizer.special().clone())?;
        let renderer = Arc::new(Renderer::new(data, tokenizer, template, serde_json::Map::new(), None));
        Ok(Self {
            decoder,
            reference: Reference::Nothing,
            renderer,
            folder,
            random_init: model.random_init,
            reference_sync: None,
            name: model.path.clone(),
            keep: Keep::Activations,
            micro_tokens: memory::MICRO_BATCH_TOKENS,
        })
    }

    /// Loads the model of a run, with the adapter that the config asks for; its reference is attached by itself.
    ///
    /// `reference` is the shape of the reference, where it is another model's, and `lengths` are those of the data, for
    /// the memory that a step takes.
    pub fn for_run(config: &Config, reference: Option<&DecoderSpec>, lengths: Lengths) -> Result<Self> {
        // A reward model may go on from a classifier, whose head is loaded by itself.
        let others: &[&str] = if config.objective.build()?.needs().score_leaf { &[SCORE] } else { &[] };
        let mut policy = Self::load_beside(&config.model, &config.data, others)?;
        if let Some(settings) = &config.model.lora {
            policy.decoder.add_lora(settings, config.run.seed)?;
        }
        // The weights are there already, and part of the estimate.
        let loaded: usize =
            policy.decoder.params.iter().map(|p| p.value.elem_count() * p.value.dtype().size_in_bytes()).sum();
        let available = memory::free(policy.decoder.device()).map(|free| free + loaded as u64);
        let models = memory::Models { policy: &policy.decoder.spec, reference };
        let estimate = memory::estimate(config, models, lengths, available);
        policy.keep = if estimate.is_checkpointed { Keep::Inputs } else { Keep::Activations };
        policy.micro_tokens = estimate.micro_batch_tokens;
        Ok(policy)
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        self.renderer.tokenizer()
    }

    /// Adds the columns that stages asked for: old and reference log-probs, entropy, hidden states, the
    /// divergence within groups, a teacher's distributions.
    pub fn score(&self, batch: &mut Batch, needs: &Needs, temperature: f64) -> Result<()> {
        if needs.old_logp || needs.entropy || needs.hidden.is_some() || needs.group_divergence {
            let scored = self.columns(&self.decoder, batch, needs, true, temperature)?;
            batch.old_logp = Some(scored.logp);
            batch.entropy = needs.entropy.then_some(scored.entropy);
            batch.hidden = scored.hidden;
            if let Some(states) = scored.last {
                batch.group_divergence = Some(self.group_divergence(batch, &states, temperature)?);
            }
        }
        if needs.ref_logp {
            let scored =
                |decoder, has_adapter| self.columns(decoder, batch, &Needs::default(), has_adapter, temperature);
            batch.ref_logp = Some(match &self.reference {
                Reference::Model(decoder) => scored(decoder.as_ref(), true)?.logp,
                Reference::AdapterOff => scored(&self.decoder, false)?.logp,
                #[cfg(feature = "gguf")]
                Reference::Quantised(model) => self.quantised_logp(model, batch, temperature)?,
                Reference::Nothing => anyhow::bail!("reference log-probs are needed but no reference was loaded"),
            });
        }
        if needs.log_sum_sq {
            batch.log_sum_sq = Some(self.log_sum_sq(batch)?);
        }
        if let Some(need) = needs.teacher.filter(|_| batch.teacher.is_none()) {
            batch.teacher = Some(self.teach(batch, need)?);
        }
        Ok(())
    }

    /// The divergence within each group at each position, from the final hidden states [n_i,C] of every row.
    fn group_divergence(&self, batch: &Batch, states: &[Tensor], temperature: f64) -> Result<Table> {
        let mut divergence = Table::zeros(batch.rows(), batch.width());
        for group in batch.groups() {
            // The place of a row's state at a column: states are those of unmasked tokens.
            let place = |i: usize, t: usize| -> Option<usize> {
                let mask = batch.mask.row(i);
                (mask[t] != 0.0).then(|| mask[..t].iter().filter(|m| **m != 0.0).count())
            };
            // So many positions at a time that the logits of the group's rows are those of one chunk.
            let run = (ROWS_A_CHUNK / group.len()).max(1);
            for first in (0..batch.width()).step_by(run) {
                let mut cells = Vec::new();
                let mut rows = Vec::new();
                for t in first..(first + run).min(batch.width()) {
                    for i in group.clone() {
                        let found = place(i, t);
                        cells.push((t, found.map(|_| rows.len())));
                        if let Some(place) = found {
                            rows.push(states[i].narrow(0, place, 1)?);
                        }
                    }
                }
                if rows.is_empty() {
                    break;
                }
                let logits = self.decoder.rows_logits(&Tensor::cat(&rows, 0)?)?; // [R,V]
                let values = match logits.dtype() {
                    DType::F64 => apart::<f64>(&logits, &cells, group.len(), temperature)?,
                    _ => apart::<f32>(&logits, &cells, group.len(), temperature)?,
                };
                for (t, value) in values {
                    group.clone().for_each(|i| divergence.row_mut(i)[t] = value);
                }
            }
        }
        Ok(divergence)
    }

    /// Log-probs of every completion token under a quantised model.
    #[cfg(feature = "gguf")]
    fn quantised_logp(&self, model: &crate::model::gguf::Quantised, batch: &Batch, temperature: f64) -> Result<Table> {
        ensure!(
            batch.soft.is_none(),
            "a quantised reference reads tokens, not soft steps: choose a safetensors reference"
        );
        let mut logp = Table::zeros(batch.rows(), batch.width());
        let rows: Vec<usize> = (0..batch.rows()).collect();
        for mut micro in micro_batches(batch, &rows, self.micro_tokens) {
            micro.pack.tokens = model.mapped(&micro.pack.tokens)?;
            let targets = model.mapped(&micro.targets)?;
            let function = TokenLogp { tokens: &targets, temperature, with_entropy: false };
            for (value, &(row, column)) in model.rows(&micro.pack, &micro.at, &function)?.iter().zip(&micro.cells) {
                logp.row_mut(row)[column] = value.logp;
            }
        }
        Ok(logp)
    }

    fn columns(
        &self,
        decoder: &Decoder,
        batch: &Batch,
        needs: &Needs,
        has_adapter: bool,
        temperature: f64,
    ) -> Result<Columns> {
        let (n, t) = (batch.rows(), batch.width());
        let mut columns = Columns { logp: Table::zeros(n, t), entropy: Table::zeros(n, t), hidden: None, last: None };
        let (mut hidden, mut last) = (vec![None; n], vec![None; n]);
        let hidden_at = needs.hidden.map(|index| hidden_layer(&decoder.spec, index)).transpose()?;
        let rows: Vec<usize> = (0..n).collect();
        for micro in micro_batches(batch, &rows, self.micro_tokens) {
            let pass = Pass { has_adapter, hidden_at, ..Pass::SCORE };
            let tape = decoder.forward(&micro.pack, pass)?;
            let token = TokenLogp { tokens: &micro.targets, temperature, with_entropy: needs.entropy };
            let values = match &batch.soft {
                None => decoder.rows_forward(&tape.hidden, &micro.at, &token)?,
                Some(soft) => {
                    let function = SoftLogp { token, steps: &micro.steps(batch), density: soft.density };
                    decoder.rows_forward(&tape.hidden, &micro.at, &function)?
                }
            };
            for (value, &(row, column)) in values.iter().zip(&micro.cells) {
                columns.logp.row_mut(row)[column] = value.logp;
                columns.entropy.row_mut(row)[column] = value.entropy;
            }
            if let Some(states) = &tape.hidden_at {
                self.gather_hidden(states, &micro, DType::F32, &mut hidden)?;
            }
            if needs.group_divergence {
                self.gather_hidden(&tape.hidden, &micro, tape.hidden.dtype(), &mut last)?;
            }
        }
        // A row without tokens is in no micro-batch.
        let whole = |states: Vec<Option<Tensor>>, dtype: DType| -> Result<Vec<Tensor>> {
            let width = decoder.spec.hidden_size;
            let empty = || -> Result<Tensor> { Ok(Tensor::zeros((0, width), dtype, &Device::Cpu)?) };
            states.into_iter().map(|s| s.map_or_else(empty, Ok)).collect()
        };
        columns.hidden = needs.hidden.map(|_| whole(hidden, DType::F32)).transpose()?;
        columns.last = needs.group_divergence.then(|| whole(last, decoder.params.dtype())).transpose()?;
        Ok(columns)
    }

    /// log sum p^2 of every next-token distribution under the policy, [N,T].
    fn log_sum_sq(&self, batch: &Batch) -> Result<Table> {
        let mut column = Table::zeros(batch.rows(), batch.width());
        for micro in micro_batches(batch, &(0..batch.rows()).collect::<Vec<_>>(), self.micro_tokens) {
            let tape = self.decoder.forward(&micro.pack, Pass::SCORE)?;
            let values = self.decoder.rows_forward(&tape.hidden, &micro.at, &LogSumSq)?;
            for (value, &(row, t)) in values.iter().zip(&micro.cells) {
                column.row_mut(row)[t] = value.logp;
            }
        }
        Ok(column)
    }

    /// The hidden states that each row's tokens were predicted from, [n_i, d].
    fn gather_hidden(
        &self,
        states: &Tensor,
        micro: &MicroBatch,
        dtype: DType,
        hidden: &mut [Option<Tensor>],
    ) -> Result<()> {
        for &row in &micro.rows {
            let at: Vec<u32> =
                (micro.cells.iter().zip(&micro.at)).filter(|(c, _)| c.0 == row).map(|(_, &a)| a).collect();
            let index = Tensor::new(at, states.device())?;
            hidden[row] = Some(states.index_select(&index, 0)?.to_dtype(dtype)?);
        }
        Ok(())
    }

    /// Writes what transformers (or PEFT, for an adapter) loads as it is: weights, config, tokenizer.
    pub fn save(&self, folder: &Path) -> Result<()> {
        if let Some(settings) = &self.decoder.lora {
            lora::save(folder, settings, &self.name, &self.decoder.params)?;
        } else {
            let tensors: Vec<_> = self.stored_params().map(|p| (p.name.clone(), p.value.clone())).collect();
            weights::write_model(folder, &tensors)?;
            let mut config = self.decoder.spec.config.clone();
            if self.decoder.has_score_head() {
                super::score::describe(&mut config, self.tokenizer())?;
            }
            let stored = match self.decoder.params.dtype() {
                DType::BF16 => "bfloat16",
                DType::F64 => "float64",
                _ => "float32",
            };
            for key in ["torch_dtype", "dtype"] {
                if config.get(key).is_some() {
                    config[key] = stored.into();
                }
            }
            let path = folder.join("config.json");
            std::fs::write(&path, serde_json::to_string_pretty(&config)?)
                .with_context(|| format!("{} cannot be written", path.display()))?;
        }
        self.tokenizer().copy_files(folder)
    }

    /// The parameters of a checkpoint: a model with a score head has no other head.
    fn stored_params(&self) -> impl Iterator<Item = &crate::model::params::Param> {
        let has_score = self.decoder.has_score_head();
        self.decoder.params.iter().filter(move |p| !has_score || p.name != "lm_head.weight")
    }

    /// Takes the trained weights back from a folder that [`Policy::save`] wrote.
    pub fn restore(&mut self, folder: &Path) -> Result<()> {
        let (weights, is_adapter) = match self.decoder.lora {
            Some(_) => (lora::open_weights(folder)?, true),
            None => (Weights::open(folder)?, false),
        };
        let (dtype, device) = (self.decoder.params.dtype(), self.decoder.device().clone());
        let has_score = self.decoder.has_score_head();
        let is_stored = |p: &crate::model::params::Param| match is_adapter {
            true => p.is_trainable,
            false => !has_score || p.name != "lm_head.weight",
        };
        for param in self.decoder.params.iter_mut().filter(|p| is_stored(p)) {
            let name = if is_adapter { lora::peft_name(&param.name) } else { param.name.clone() };
            param.value = weights.load(&name, param.value.dims(), dtype, &device)?;
        }
        if let (Some(_), Reference::Model(reference)) = (self.reference_sync, &mut self.reference) {
            let weights = Weights::open_files(&[folder.join(REFERENCE_FILE)])?;
            for param in reference.params.iter_mut() {
                param.value = weights.load(&param.name, param.value.dims(), dtype, &device)?;
            }
        }
        Ok(())
    }
}

/// The layer that an index into `hidden_states` names, 0 = embeddings.
pub(super) fn hidden_layer(spec: &DecoderSpec, index: i32) -> Result<usize> {
    let layers = spec.layers as i32;
    let layer = if index < 0 { layers + 1 + index } else { index };
    ensure!(
        (0..=layers).contains(&layer),
        "the model of {layers} blocks has no hidden states at layer {index}: choose from 0 to {layers}, or -1 to -{}",
        layers + 1
    );
    Ok(layer as usize)
}

struct Columns {
    logp: Table,
    entropy: Table,
    hidden: Option<Vec<Tensor>>,
    /// Final hidden states, where the head is to run again.
    last: Option<Vec<Tensor>>,
}

/// The divergence at each position, from rows of logits [R,V] and, position by position, the row of each
/// of the group's completions.
fn apart<F: Float>(
    logits: &Tensor,
    cells: &[(usize, Option<usize>)],
    size: usize,
    temperature: f64,
) -> Result<Vec<(usize, f64)>> {
    let v = logits.dim(1)?;
    let logits = View::<F>::new(logits)?;
    let logits: &[F] = &logits;
    let at = |members: &[(usize, Option<usize>)]| {
        let rows: Vec<Option<&[F]>> = members.iter().map(|(_, r)| r.map(|r| &logits[r * v..(r + 1) * v])).collect();
        (members[0].0, group::divergence(&rows, temperature, group::DIFFERENCE_LIMIT))
    };
    Ok(cells.par_chunks(size).map(at).collect())
}
