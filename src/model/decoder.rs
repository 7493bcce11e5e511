//! The decoder: forward, and a backward pass written by hand, over packed sequences.
//!
//! The same code scores, trains and fills the cache for sampling. What the backward pass needs is
//! kept in a [`Tape`]: either every block's activations, or only each block's input, from which
//! the block is computed again ([`Keep`]). Weight gradients are added straight into [`Grads`], and
//! never formed for frozen weights.

mod parameters;

use anyhow::{Result, ensure};
use candle_core::{Device, Tensor};
use candlewick_algorithms::rng::Rng;

use super::lora::LoraConfig;
use super::ops::{self, add_in_place, attention, embedding, in_pool, linear, norm, rope, swiglu};
use super::packed::Packed;
use super::params::{Grads, ParamId, Params};
use super::spec::DecoderSpec;

/// A linear layer: weight, optional bias, optional adapter.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Linear {
    pub(crate) weight: ParamId,
    pub(crate) bias: Option<ParamId>,
    /// A [r,in] and B [out,r].
    pub(crate) lora: Option<(ParamId, ParamId)>,
}

/// One block's parameters.
#[derive(Debug, Clone)]
pub(crate) struct Block {
    pub(crate) input_norm: ParamId,
    pub(crate) q: Linear,
    pub(crate) k: Linear,
    pub(crate) v: Linear,
    pub(crate) o: Linear,
    pub(crate) qk_norm: Option<(ParamId, ParamId)>,
    pub(crate) post_norm: ParamId,
    pub(crate) gate: Linear,
    pub(crate) up: Linear,
    pub(crate) down: Linear,
}

/// What a forward pass keeps for the backward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Nothing: scoring only.
    Nothing,
    /// Every block's input; blocks are computed again going backwards (activation checkpointing).
    Inputs,
    /// Every block's activations.
    Activations,
}

/// How a pass is made.
#[derive(Debug, Clone, Copy)]
pub struct Pass {
    /// What to keep.
    pub keep: Keep,
    /// Whether the adapter, if there is one, takes part. Off gives the reference policy.
    pub has_adapter: bool,
    /// Seed of the adapter's dropout masks; `None` = no dropout.
    pub dropout: Option<u64>,
    /// Also return the hidden states after this many blocks (0 = embeddings).
    pub hidden_at: Option<usize>,
}

impl Pass {
    /// A scoring pass, adapter on, nothing kept.
    pub const SCORE: Self = Self { keep: Keep::Nothing, has_adapter: true, dropout: None, hidden_at: None };
}

/// A block's activations.
struct BlockTape {
    x: Tensor,                        // [N,C] input
    raw_qk: Option<(Tensor, Tensor)>, // before their norms
    q: Tensor,                        // [N,H D], rotated
    k: Tensor,                        // [N,Hkv D], rotated
    v: Tensor,                        // [N,Hkv D]
    o: Tensor,                        // [N,H D] attention output
    y: Tensor,                        // [N,C] after attention
    gate: Tensor,                     // [N,F]
    up: Tensor,                       // [N,F]
}

enum Kept {
    Input(Tensor),
    Activations(Box<BlockTape>),
}

/// The result of a forward pass.
pub struct Tape {
    /// Hidden states after the final norm, [N,C]: what the head reads.
    pub hidden: Tensor,
    /// Hidden states at the layer asked for, [N,C].
    pub hidden_at: Option<Tensor>,
    last: Tensor, // [N,C] before the final norm
    blocks: Vec<Kept>,
    pass: Pass,
}

/// A decoder-only language model with its parameters.
#[derive(Debug)]
pub struct Decoder {
    /// Its shape.
    pub spec: DecoderSpec,
    /// Its parameters.
    pub params: Params,
    /// Settings of the adapter, if it has one.
    pub lora: Option<LoraConfig>,
    pub(crate) embedding: ParamId,
    pub(crate) blocks: Vec<Block>,
    pub(crate) final_norm: ParamId,
    pub(crate) head: ParamId,
    pub(crate) rope: rope::Table,
}

impl Decoder {
    /// The language-model head, [V,C].
    pub fn head_weight(&self) -> &Tensor {
        self.params.value(self.head)
    }

    /// Device of the parameters.
    pub fn device(&self) -> &Device {
        self.params.device()
    }

    /// Runs the blocks over packed sequences.
    pub fn forward(&self, pack: &Packed, pass: Pass) -> Result<Tape> {
        in_pool(|| self.forward_here(pack, pass))
    }

    fn forward_here(&self, pack: &Packed, pass: Pass) -> Result<Tape> {
        let longest = pack.positions.iter().max().map_or(0, |&p| p as usize + 1);
        ensure!(
            longest <= self.spec.max_positions,
            "a sequence of {longest} tokens is longer than the model's context of {}",
            self.spec.max_positions
        );
        let mut x = embedding::forward(&pack.tokens, self.params.value(self.embedding))?; // [N,C]
        embedding::mix(&x, self.params.value(self.embedding), &pack.mixed)?;
        let mut hidden_at = None;
        let mut blocks = Vec::with_capacity(self.blocks.len());
        for layer in 0..self.blocks.len() {
            if pass.hidden_at == Some(layer) {
                hidden_at = Some(x.clone());
            }
            let (z, tape) = self.block_forward(layer, x.clone(), pack, pass)?;
            match pass.keep {
                Keep::Nothing => {}
                Keep::Inputs => blocks.push(Kept::Input(x)),
                Keep::Activations => blocks.push(Kept::Activations(Box::new(tape))),
            }
            x = z;
        }
        if pass.hidden_at == Some(self.blocks.len()) {
            hidden_at = Some(x.clone());
        }
        let hidden = norm::forward(&x, self.params.value(self.final_norm), self.spec.norm_eps)?;
        Ok(Tape { hidden, hidden_at, last: x, blocks, pass })
    }

    /// Pulls the gradient at the final hidden states [N,C] back to every trainable parameter.
    ///
    /// The tape is consumed, block by block, so that its memory is free for the next one.
    pub fn backward(&self, tape: Tape, pack: &Packed, d_hidden: &Tensor, grads: &mut Grads) -> Result<()> {
        in_pool(|| self.backward_here(tape, pack, d_hidden, grads))
    }

    fn backward_here(&self, mut tape: Tape, pack: &Packed, d_hidden: &Tensor, grads: &mut Grads) -> Result<()> {
        ensure!(tape.blocks.len() == self.blocks.len(), "a forward pass that kept nothing cannot be pulled back");
        let weight = self.params.value(self.final_norm);
        let slot = grads.slot(&self.params, self.final_norm)?;
        let mut dx = norm::backward(d_hidden, &tape.last, weight, self.spec.norm_eps, slot)?;
        drop(tape.last);
        for layer in (0..self.blocks.len()).rev() {
            let kept = tape.blocks.pop().expect("one entry a block");
            let activations = match kept {
                Kept::Activations(activations) => *activations,
                Kept::Input(x) => self.block_forward(layer, x, pack, tape.pass)?.1,
            };
            dx = self.block_backward(layer, activations, pack, tape.pass, dx, grads)?;
        }
        if pack.has_fixed_inputs {
            return Ok(());
        }
        if let Some(slot) = grads.slot(&self.params, self.embedding)? {
            match pack.mixed.as_slice() {
                [] => embedding::accumulate(slot, &pack.tokens, &dx)?,
                mixed => embedding::accumulate_mixed(slot, &pack.tokens, mixed, &dx)?,
            }
        }
        Ok(())
    }

    /// Keys and values of every layer, each [N, Hkv D], and the final hidden states [N,C], for sampling.
    #[allow(clippy::type_complexity)]
    pub(crate) fn prefill(&self, pack: &Packed, pass: Pass) -> Result<(Vec<(Tensor, Tensor)>, Tensor)> {
        in_pool(|| self.prefill_here(pack, pass))
    }

    #[allow(clippy::type_complexity)]
    fn prefill_here(&self, pack: &Packed, pass: Pass) -> Result<(Vec<(Tensor, Tensor)>, Tensor)> {
        let mut x = embedding::forward(&pack.tokens, self.params.value(self.embedding))?;
        let mut kept = Vec::with_capacity(self.blocks.len());
        for layer in 0..self.blocks.len() {
            let (z, tape) = self.block_forward(layer, x, pack, pass)?;
            kept.push((tape.k, tape.v));
            x = z;
        }
        let hidden = norm::forward(&x, self.params.value(self.final_norm), self.spec.norm_eps)?;
        Ok((kept, hidden))
    }

    fn block_forward(&self, layer: usize, x: Tensor, pack: &Packed, pass: Pass) -> Result<(Tensor, BlockTape)> {
        let (block, heads, eps) = (&self.blocks[layer], self.spec.attention(layer), self.spec.norm_eps);
        let value = |id| self.params.value(id);
        let h = norm::forward(&x, value(block.input_norm), eps)?; // [N,C]
        let (mut q, mut k) = (self.linear(&block.q, &h, pass)?, self.linear(&block.k, &h, pass)?);
        let v = self.linear(&block.v, &h, pass)?;
        let mut raw_qk = None;
        if let Some((q_norm, k_norm)) = block.qk_norm {
            let normed = (self.head_norm(&q, q_norm)?, self.head_norm(&k, k_norm)?);
            raw_qk = Some((q, k));
            (q, k) = normed;
        }
        rope::rotate(&q, &self.rope, &pack.positions)?;
        rope::rotate(&k, &self.rope, &pack.positions)?;
        let o = attention::forward(&q, &k, &v, pack, &heads)?; // [N,H D]
        let y = self.linear(&block.o, &o, pass)?;
        add_in_place(&y, &x)?; // [N,C]
        let h = norm::forward(&y, value(block.post_norm), eps)?;
        let (gate, up) = (self.linear(&block.gate, &h, pass)?, self.linear(&block.up, &h, pass)?); // [N,F]
        let z = self.linear(&block.down, &swiglu::forward(&gate, &up)?, pass)?;
        add_in_place(&z, &y)?;
        Ok((z, BlockTape { x, raw_qk, q, k, v, o, y, gate, up }))
    }

    fn block_backward(
        &self,
        layer: usize,
        t: BlockTape,
        pack: &Packed,
        pass: Pass,
        dz: Tensor,
        grads: &mut Grads,
    ) -> Result<Tensor> {
        let (block, heads, eps) = (&self.blocks[layer], self.spec.attention(layer), self.spec.norm_eps);
        let value = |id| self.params.value(id);
        // z = y + down(silu(gate) up)
        let m = swiglu::forward(&t.gate, &t.up)?;
        let dm = self.linear_backward(&block.down, &m, &dz, pass, grads)?;
        drop(m);
        let (d_gate, d_up) = swiglu::backward(&dm, &t.gate, &t.up)?;
        drop((dm, t.gate, t.up));
        let h = norm::forward(&t.y, value(block.post_norm), eps)?;
        let dh = self.linear_backward(&block.gate, &h, &d_gate, pass, grads)?;
        self.linear_backward_into(&block.up, &h, &d_up, pass, grads, &dh)?;
        drop((d_gate, d_up, h));
        let dy = norm::backward(&dh, &t.y, value(block.post_norm), eps, grads.slot(&self.params, block.post_norm)?)?;
        add_in_place(&dy, &dz)?;
        drop((dz, dh, t.y));
        // y = x + o_proj(attention(q, k, v))
        let d_out = self.linear_backward(&block.o, &t.o, &dy, pass, grads)?;
        let (mut dq, mut dk, dv) = attention::backward(&d_out, &t.o, (&t.q, &t.k, &t.v), pack, &heads)?;
        drop((d_out, t.o, t.q, t.k, t.v));
        rope::rotate_back(&dq, &self.rope, &pack.positions)?;
        rope::rotate_back(&dk, &self.rope, &pack.positions)?;
        if let (Some((q_norm, k_norm)), Some((raw_q, raw_k))) = (block.qk_norm, &t.raw_qk) {
            dq = self.head_norm_backward(&dq, raw_q, q_norm, grads)?;
            dk = self.head_norm_backward(&dk, raw_k, k_norm, grads)?;
        }
        let h = norm::forward(&t.x, value(block.input_norm), eps)?;
        let dh = self.linear_backward(&block.q, &h, &dq, pass, grads)?;
        self.linear_backward_into(&block.k, &h, &dk, pass, grads, &dh)?;
        self.linear_backward_into(&block.v, &h, &dv, pass, grads, &dh)?;
        let dx = norm::backward(&dh, &t.x, value(block.input_norm), eps, grads.slot(&self.params, block.input_norm)?)?;
        add_in_place(&dx, &dy)?;
        Ok(dx)
    }

    /// RMSNorm of every head of x [N, H D].
    pub(crate) fn head_norm(&self, x: &Tensor, weight: ParamId) -> Result<Tensor> {
        let (n, width) = x.dims2()?;
        let flat = x.reshape((n * width / self.spec.head_dim, self.spec.head_dim))?;
        Ok(norm::forward(&flat, self.params.value(weight), self.spec.norm_eps)?.reshape((n, width))?)
    }

    fn head_norm_backward(&self, dy: &Tensor, x: &Tensor, weight: ParamId, grads: &mut Grads) -> Result<Tensor> {
        let (n, width) = x.dims2()?;
        let flat = (n * width / self.spec.head_dim, self.spec.head_dim);
        let slot = grads.slot(&self.params, weight)?;
        let (dy, x) = (dy.reshape(flat)?, x.reshape(flat)?);
        Ok(norm::backward(&dy, &x, self.params.value(weight), self.spec.norm_eps, slot)?.reshape((n, width))?)
    }

    fn scale(&self) -> f64 {
        self.lora.as_ref().map_or(0.0, LoraConfig::scale)
    }

    pub(crate) fn linear(&self, l: &Linear, x: &Tensor, pass: Pass) -> Result<Tensor> {
        let y = linear::forward(x, self.params.value(l.weight), l.bias.map(|b| self.params.value(b)))?;
        if let (Some((a, b)), true) = (l.lora, pass.has_adapter) {
            let low = linear::forward(&self.dropped(l, x, pass)?, self.params.value(a), None)?; // [N,r]
            add_in_place(&y, &(linear::forward(&low, self.params.value(b), None)? * self.scale())?)?;
        }
        Ok(y)
    }

    /// dx, with the gradients of the layer's own parameters added to `grads`.
    fn linear_backward(&self, l: &Linear, x: &Tensor, dy: &Tensor, pass: Pass, grads: &mut Grads) -> Result<Tensor> {
        let dx = linear::backward_input(dy, self.params.value(l.weight))?;
        self.linear_parameters_backward(l, x, dy, pass, grads, &dx)?;
        Ok(dx)
    }

    /// The same, with dx added to what is there.
    fn linear_backward_into(
        &self,
        l: &Linear,
        x: &Tensor,
        dy: &Tensor,
        pass: Pass,
        grads: &mut Grads,
        dx: &Tensor,
    ) -> Result<()> {
        linear::accumulate_input(dx, dy, self.params.value(l.weight), 1.0)?;
        self.linear_parameters_backward(l, x, dy, pass, grads, dx)
    }

    fn linear_parameters_backward(
        &self,
        l: &Linear,
        x: &Tensor,
        dy: &Tensor,
        pass: Pass,
        grads: &mut Grads,
        dx: &Tensor,
    ) -> Result<()> {
        if let Some(slot) = grads.slot(&self.params, l.weight)? {
            linear::accumulate_weight(slot, dy, x, 1.0)?;
        }
        if let Some(bias) = l.bias
            && let Some(slot) = grads.slot(&self.params, bias)?
        {
            linear::accumulate_bias(slot, dy)?;
        }
        if let (Some((a, b)), true) = (l.lora, pass.has_adapter) {
            let (a_value, b_value, scale) = (self.params.value(a), self.params.value(b), self.scale());
            let dropped = self.dropped(l, x, pass)?;
            let low = linear::forward(&dropped, a_value, None)?; // [N,r]
            let d_low = linear::backward_input(dy, b_value)?; // [N,r], before the scale
            if let Some(slot) = grads.slot(&self.params, b)? {
                linear::accumulate_weight(slot, dy, &low, scale)?;
            }
            if let Some(slot) = grads.slot(&self.params, a)? {
                linear::accumulate_weight(slot, &d_low, &dropped, scale)?;
            }
            match self.dropout_mask(l, x, pass)? {
                None => linear::accumulate_input(dx, &d_low, a_value, scale)?,
                Some(mask) => add_in_place(dx, &((linear::backward_input(&d_low, a_value)? * mask)? * scale)?)?,
            }
        }
        Ok(())
    }

    fn dropped(&self, l: &Linear, x: &Tensor, pass: Pass) -> Result<Tensor> {
        Ok(match self.dropout_mask(l, x, pass)? {
            None => x.clone(),
            Some(mask) => (x * mask)?,
        })
    }

    /// 0 or 1/(1-p) for every input of an adapter, replayed from the seed; `None` without dropout.
    fn dropout_mask(&self, l: &Linear, x: &Tensor, pass: Pass) -> Result<Option<Tensor>> {
        let rate = self.lora.as_ref().map_or(0.0, |c| c.dropout);
        let Some(seed) = pass.dropout.filter(|_| rate > 0.0) else { return Ok(None) };
        let mut rng = Rng::keyed(&[seed, 0xd209, l.weight as u64]);
        let kept = 1.0 / (1.0 - rate);
        let mask: Vec<f64> = (0..x.elem_count()).map(|_| if rng.uniform() < rate { 0.0 } else { kept }).collect();
        Ok(Some(Tensor::from_vec(mask, x.dims(), &Device::Cpu)?.to_dtype(x.dtype())?.to_device(x.device())?))
    }

    /// Logits [N,V] of every token of a pack: for tests and small inputs only.
    pub fn logits(&self, pack: &Packed, pass: Pass) -> Result<Tensor> {
        let tape = self.forward(pack, pass)?;
        Ok(ops::linear::forward(&tape.hidden, self.params.value(self.head), None)?)
    }
}
