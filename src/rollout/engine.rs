//! What decodes the rows of a call: the CPU's kernels, or tensor calls for other devices.

use std::sync::Arc;

use anyhow::Result;

use super::decode::{self, PromptCache, RowCache};
use crate::model::ops::Float;

/// Rows that are decoded together, in the order in which they were admitted.
pub(super) trait Engine {
    /// Type of the logits on the host.
    type Logit: Float;
    /// A prompt that was run once, to be shared by its samples.
    type Prompt;

    /// The model's context, in tokens.
    fn max_positions(&self) -> usize;

    /// Runs a prompt, alone so that its numbers depend on nothing else.
    fn prefill(&self, prompt: &[u32]) -> Result<Self::Prompt>;

    /// Logits [V] that follow a prompt.
    fn logits(prompt: &Self::Prompt) -> &[Self::Logit];

    /// Adds a row that goes on from a prompt, behind all others.
    fn admit(&mut self, prompt: &Arc<Self::Prompt>) -> Result<()>;

    /// Takes each row's newest token; logits [R,V] that follow it.
    fn step(&mut self, tokens: &[u32]) -> Result<Vec<Self::Logit>>;

    /// Removes a row; those behind it move up by one.
    fn retire(&mut self, row: usize);
}

/// Rows on the CPU's kernels: a row's numbers do not depend on the others.
pub(super) struct Kernels<'a, F> {
    engine: decode::Engine<'a, F>,
    rows: Vec<(Arc<PromptCache<F>>, RowCache<F>)>,
}

impl<'a, F: Float> Kernels<'a, F> {
    pub(super) fn new(decoder: &'a crate::model::decoder::Decoder, has_adapter: bool) -> Result<Self> {
        Ok(Self { engine: decode::Engine::new(decoder, has_adapter)?, rows: Vec::new() })
    }
}

impl<F: Float> Engine for Kernels<'_, F> {
    type Logit = F;
    type Prompt = PromptCache<F>;

    fn max_positions(&self) -> usize {
        self.engine.max_positions()
    }

    fn prefill(&self, prompt: &[u32]) -> Result<PromptCache<F>> {
        self.engine.prefill(prompt)
    }

    fn logits(prompt: &PromptCache<F>) -> &[F] {
        &prompt.logits
    }

    fn admit(&mut self, prompt: &Arc<PromptCache<F>>) -> Result<()> {
        self.rows.push((prompt.clone(), self.engine.row_cache()));
        Ok(())
    }

    fn step(&mut self, tokens: &[u32]) -> Result<Vec<F>> {
        let mut inputs: Vec<_> = (self.rows.iter_mut().zip(tokens))
            .map(|((prompt, cache), &token)| decode::Input { token, prompt, cache })
            .collect();
        self.engine.step(&mut inputs)
    }

    fn retire(&mut self, row: usize) {
        self.rows.remove(row);
    }
}
