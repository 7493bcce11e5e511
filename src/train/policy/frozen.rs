//! The policy's reference: where it comes from, loading it, and moving it where it is to follow.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

use super::{Policy, load_decoder};
use crate::config::Config;
use crate::hub::{Hub, Weights as Fetch};
use crate::model::decoder::Decoder;
use crate::model::weights;

/// A checkpoint's file of a reference that follows the policy.
pub(super) const REFERENCE_FILE: &str = "reference.safetensors";

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

/// Where a reference comes from.
pub(in crate::train) enum ReferenceSource {
    /// The base model under the policy's adapter.
    Base,
    /// The folder of a checkpoint.
    Folder(PathBuf),
    /// A quantised model's file.
    Quantised(PathBuf),
}

impl Policy {
    /// Moves the reference towards the policy where a step is due: reference = alpha policy + (1 - alpha) reference.
    ///
    /// Source: "Learn Your Reference Model for Real Good Alignment", arXiv 2404.09656; called after a training step.
    pub fn sync_reference(&mut self, step: usize) -> Result<()> {
        let Some((_, alpha)) = self.reference_sync.filter(|(steps, _)| step.is_multiple_of(*steps)) else {
            return Ok(());
        };
        let Reference::Model(reference) = &mut self.reference else {
            anyhow::bail!("`model.reference.sync_steps` moves a reference model, and none is loaded");
        };
        for (held, trained) in reference.params.iter_mut().zip(self.decoder.params.iter()) {
            ensure!(
                held.name == trained.name,
                "the reference has `{}` where the policy has `{}`",
                held.name,
                trained.name
            );
            held.value = match alpha == 1.0 {
                true => trained.value.copy()?,
                false => ((&trained.value * alpha)? + (&held.value * (1.0 - alpha))?)?,
            };
        }
        Ok(())
    }

    /// Writes the reference, if it is one that moves.
    pub(in crate::train) fn save_reference(&self, folder: &Path) -> Result<()> {
        if let (Some(_), Reference::Model(reference)) = (self.reference_sync, &self.reference) {
            let tensors: Vec<_> = reference.params.iter().map(|p| (p.name.clone(), p.value.clone())).collect();
            weights::write_file(&folder.join(REFERENCE_FILE), &tensors)?;
        }
        Ok(())
    }

    /// Where the reference that a config asks for comes from; a name on the Hub is fetched.
    pub(in crate::train) fn reference_source(&self, config: &Config) -> Result<ReferenceSource> {
        let Some(reference) = &config.model.reference else {
            ensure!(
                self.decoder.lora.is_some(),
                "objective `{}` needs reference log-probs: add a [model.reference] section",
                config.objective.variant()
            );
            return Ok(ReferenceSource::Base);
        };
        Ok(match &reference.path {
            None => ReferenceSource::Folder(self.folder.clone()),
            Some(path) if path.ends_with(".gguf") => ReferenceSource::Quantised(PathBuf::from(path)),
            Some(path) => {
                ReferenceSource::Folder(Hub::from_env().model(path, reference.revision.as_deref(), Fetch::Fetch)?)
            }
        })
    }

    /// Loads the reference that a config asks for, unless one is there.
    pub fn attach_reference(&mut self, config: &Config) -> Result<()> {
        if !matches!(self.reference, Reference::Nothing) {
            return Ok(());
        }
        let settings = config.model.reference.as_ref();
        self.reference_sync = settings.and_then(|r| Some((r.sync_steps?, r.mixup_alpha)));
        self.reference = match self.reference_source(config)? {
            ReferenceSource::Base => Reference::AdapterOff,
            ReferenceSource::Folder(folder) => self.load_reference(&folder)?,
            #[cfg(feature = "gguf")]
            ReferenceSource::Quantised(file) => {
                let (vocabulary, device) = (self.tokenizer().vocabulary(), self.decoder.device());
                let model = crate::model::gguf::Quantised::open(&file, &vocabulary, device)?;
                Reference::Quantised(Box::new(model))
            }
            #[cfg(not(feature = "gguf"))]
            ReferenceSource::Quantised(file) => {
                anyhow::bail!("the reference {} needs a build with the `gguf` feature", file.display())
            }
        };
        Ok(())
    }

    fn load_reference(&self, folder: &Path) -> Result<Reference> {
        let (dtype, device) = (self.decoder.params.dtype(), self.decoder.device());
        let (mut decoder, ..) = load_decoder(folder, &[], dtype, device, &Hub::from_env())?;
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
}
