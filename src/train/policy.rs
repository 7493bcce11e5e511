//! The policy and its reference: loading, scoring a batch, saving.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device};
use candlewick_algorithms::row::token::TokenLogp;
use candlewick_algorithms::{Batch, Needs, Table};

use crate::config::{Config, Device as DeviceChoice, Dtype, ModelConfig};
use crate::data::DataConfig;
use crate::data::render::Renderer;
use crate::hub::{Hub, Weights as Fetch};
use crate::model::chat_template::ChatTemplate;
use crate::model::decoder::{Decoder, Keep, Pass};
use crate::model::lora;
use crate::model::memory;
use crate::model::spec::DecoderSpec;
use crate::model::tokenizer::Tokenizer;
use crate::model::weights::{self, Weights};

use super::update::{MicroBatch, micro_batches};

/// What log-probs of the reference come from.
pub enum Reference {
    /// No reference is needed, so none is loaded.
    Nothing,
    /// The base model under the policy's adapter.
    AdapterOff,
    /// A model of its own.
    Model(Box<Decoder>),
    /// A quantised model of its own.
    #[cfg(feature = "gguf")]
    Quantised(Box<crate::model::gguf::Quantised>),
}

/// A model with its tokenizer, ready to sample and train.
pub struct Policy {
    /// The trained model.
    pub decoder: Decoder,
    /// The reference.
    pub reference: Reference,
    /// Tokenizer and chat template.
    pub renderer: Renderer,
    /// Folder that the checkpoint was loaded from.
    pub folder: PathBuf,
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
    dtype: DType,
    device: &Device,
    hub: &Hub,
) -> Result<(Decoder, PathBuf, Option<PathBuf>)> {
    if !lora::is_adapter(folder) {
        let spec = DecoderSpec::read(folder)?;
        let decoder = Decoder::load(spec, &Weights::open(folder)?, dtype, device)?;
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
        let hub = Hub::from_env();
        let device = device(model.device)?;
        let wants = if model.random_init.is_some() { Fetch::Skip } else { Fetch::Fetch };
        let folder = hub.model(&model.path, model.revision.as_deref(), wants)?;
        let (decoder, base, adapter) = match model.random_init {
            Some(seed) => {
                let decoder = Decoder::random(DecoderSpec::read(&folder)?, seed, dtype(model.dtype), &device)?;
                (decoder, folder.clone(), None)
            }
            None => load_decoder(&folder, dtype(model.dtype), &device, &hub)?,
        };
        // A checkpoint of an adapter may bring its own tokenizer; else the base's is used.
        let texts = adapter.filter(|f| f.join("tokenizer.json").is_file()).unwrap_or(base);
        let tokenizer = Tokenizer::from_folder(&texts)?;
        tokenizer.check_vocab(decoder.spec.vocab_size)?;
        let template = ChatTemplate::from_folder(&texts, tokenizer.special().clone())?;
        let renderer = Renderer::new(data, tokenizer, template, serde_json::Map::new(), None);
        Ok(Self {
            decoder,
            reference: Reference::Nothing,
            renderer,
            folder,
            name: model.path.clone(),
            keep: Keep::Activations,
            micro_tokens: memory::MICRO_BATCH_TOKENS,
        })
    }

    /// Loads the model of a run, with adapter and reference as the config and the stages ask.
    pub fn for_run(config: &Config, needs_reference: bool) -> Result<Self> {
        let mut policy = Self::load(&config.model, &config.data)?;
        if let Some(settings) = &config.model.lora {
            policy.decoder.add_lora(settings, config.run.seed)?;
        }
        if needs_reference {
            policy.reference = match &config.model.reference {
                Some(reference) => policy.load_reference(config, reference.path.as_deref())?,
                None => {
                    ensure!(
                        policy.decoder.lora.is_some(),
                        "objective `{}` needs reference log-probs: add a [model.reference] section",
                        config.objective.variant()
                    );
                    Reference::AdapterOff
                }
            };
        }
        // The weights are there already, and part of the estimate.
        let loaded: usize =
            policy.decoder.params.iter().map(|p| p.value.elem_count() * p.value.dtype().size_in_bytes()).sum();
        let lengths = super::lengths::measured(config, &policy.renderer, policy.decoder.spec.max_positions);
        let available = memory::free(policy.decoder.device()).map(|free| free + loaded as u64);
        let estimate = memory::estimate(config, &policy.decoder.spec, lengths, available);
        policy.keep = if estimate.is_checkpointed { Keep::Inputs } else { Keep::Activations };
        policy.micro_tokens = estimate.micro_batch_tokens;
        Ok(policy)
    }

    fn load_reference(&self, config: &Config, path: Option<&str>) -> Result<Reference> {
        #[cfg(feature = "gguf")]
        if let Some(path) = path.filter(|p| p.ends_with(".gguf")) {
            let (vocabulary, device) = (self.tokenizer().vocabulary(), self.decoder.device());
            let model = crate::model::gguf::Quantised::open(Path::new(path), &vocabulary, device)?;
            return Ok(Reference::Quantised(Box::new(model)));
        }
        let hub = Hub::from_env();
        let revision = config.model.reference.as_ref().and_then(|r| r.revision.as_deref());
        let folder = match path {
            Some(path) => hub.model(path, revision, Fetch::Fetch)?,
            None => self.folder.clone(),
        };
        let (mut decoder, ..) = load_decoder(&folder, self.decoder.params.dtype(), self.decoder.device(), &hub)?;
        decoder.merge_lora()?;
        ensure!(
            decoder.spec.vocab_size == self.decoder.spec.vocab_size,
            "the reference's vocabulary of {} is not the policy's of {}: choose a reference of the same family",
            decoder.spec.vocab_size,
            self.decoder.spec.vocab_size
        );
        for param in decoder.params.iter_mut() {
            param.is_trainable = false;
        }
        Ok(Reference::Model(Box::new(decoder)))
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        self.renderer.tokenizer()
    }

    /// Adds the columns that stages asked for: old and reference log-probs, entropy, hidden states.
    pub fn score(&self, batch: &mut Batch, needs: &Needs, temperature: f64) -> Result<()> {
        if needs.old_logp || needs.entropy || needs.hidden.is_some() {
            let scored = self.columns(&self.decoder, batch, needs, true, temperature)?;
            batch.old_logp = Some(scored.logp);
            batch.entropy = needs.entropy.then_some(scored.entropy);
            batch.hidden = scored.hidden;
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
        Ok(())
    }

    /// Log-probs of every completion token under a quantised model.
    #[cfg(feature = "gguf")]
    fn quantised_logp(&self, model: &crate::model::gguf::Quantised, batch: &Batch, temperature: f64) -> Result<Table> {
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
        let mut columns = Columns { logp: Table::zeros(n, t), entropy: Table::zeros(n, t), hidden: None };
        let mut hidden = vec![None; n];
        let rows: Vec<usize> = (0..n).collect();
        for micro in micro_batches(batch, &rows, self.micro_tokens) {
            let pass = Pass { has_adapter, hidden_at: needs.hidden, ..Pass::SCORE };
            let tape = decoder.forward(&micro.pack, pass)?;
            let function = TokenLogp { tokens: &micro.targets, temperature, with_entropy: needs.entropy };
            let values = decoder.rows_forward(&tape.hidden, &micro.at, &function)?;
            for (value, &(row, column)) in values.iter().zip(&micro.cells) {
                columns.logp.row_mut(row)[column] = value.logp;
                columns.entropy.row_mut(row)[column] = value.entropy;
            }
            if let Some(states) = &tape.hidden_at {
                self.gather_hidden(states, &micro, &mut hidden)?;
            }
        }
        if needs.hidden.is_some() {
            columns.hidden = hidden.into_iter().collect();
        }
        Ok(columns)
    }

    /// The hidden states that each row's tokens were predicted from, f32 [n_i, d].
    fn gather_hidden(
        &self,
        states: &candle_core::Tensor,
        micro: &MicroBatch,
        hidden: &mut [Option<candle_core::Tensor>],
    ) -> Result<()> {
        for &row in &micro.rows {
            let at: Vec<u32> =
                (micro.cells.iter().zip(&micro.at)).filter(|(c, _)| c.0 == row).map(|(_, &a)| a).collect();
            let index = candle_core::Tensor::new(at, states.device())?;
            hidden[row] = Some(states.index_select(&index, 0)?.to_dtype(DType::F32)?.to_device(&Device::Cpu)?);
        }
        Ok(())
    }

    /// Writes what transformers (or PEFT, for an adapter) loads as it is: weights, config, tokenizer.
    pub fn save(&self, folder: &Path) -> Result<()> {
        if let Some(settings) = &self.decoder.lora {
            lora::save(folder, settings, &self.name, &self.decoder.params)?;
        } else {
            let tensors: Vec<_> = self.decoder.params.iter().map(|p| (p.name.clone(), p.value.clone())).collect();
            weights::write_model(folder, &tensors)?;
            let mut config = self.decoder.spec.config.clone();
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
        // Which tokens end a completion may stand in this file alone.
        let generation = self.tokenizer().folder().join("generation_config.json");
        if generation.is_file() {
            let copy = folder.join("generation_config.json");
            std::fs::copy(&generation, &copy).with_context(|| format!("{} cannot be written", copy.display()))?;
        }
        self.tokenizer().copy_files(folder)
    }

    /// Takes the trained weights back from a folder that [`Policy::save`] wrote.
    pub fn restore(&mut self, folder: &Path) -> Result<()> {
        let (weights, is_adapter) = match self.decoder.lora {
            Some(_) => (lora::open_weights(folder)?, true),
            None => (Weights::open(folder)?, false),
        };
        let (dtype, device) = (self.decoder.params.dtype(), self.decoder.device().clone());
        for param in self.decoder.params.iter_mut().filter(|p| !is_adapter || p.is_trainable) {
            let name = if is_adapter { lora::peft_name(&param.name) } else { param.name.clone() };
            param.value = weights.load(&name, param.value.dims(), dtype, &device)?;
        }
        Ok(())
    }
}

struct Columns {
    logp: Table,
    entropy: Table,
    hidden: Option<Vec<candle_core::Tensor>>,
}
