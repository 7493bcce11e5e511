//! The decoding step by tensor calls, for GPUs; on the CPU for half precision, and in tests.
//!
//! Each layer has one slab [S,Hkv,T,D] of keys and one of values. A row owns a slot of it. All rows
//! write their newest token into the same column, so a row is its slot and the column where its
//! prompt begins, and the mask hides what lies before. A prompt is run once and copied into the slots
//! of its samples. Slots of finished rows are used again, or dropped once they are half of all.
//! Products run over all rows at once: a row's last bits may depend on its neighbours here.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::Result;
use candle_core::{DType, Device, Tensor};

use super::engine::Engine;
use crate::model::decoder::{Block, Decoder, Pass};
use crate::model::ops::attention::{HIDDEN, Heads, composed_softmax};
use crate::model::ops::{add_in_place, embedding, linear, norm, rope, swiglu};
use crate::model::packed::Packed;

/// Columns added beyond what is needed when a slab is made anew.
const SPARE_COLUMNS: usize = 64;
/// Slots that a slab has at least.
const FEWEST_SLOTS: usize = 8;

/// A prompt's keys and values, [1,Hkv,P,D] a layer, and the logits that follow it.
pub(super) struct Prompt {
    layers: Vec<(Tensor, Tensor)>,
    len: usize,
    logits: Vec<f32>,
}

#[derive(Clone, Copy)]
struct Row {
    slot: usize,
    /// Column of the first token of its prompt.
    start: usize,
}

/// Rows of a call on the device of the decoder.
pub(super) struct Tensors<'a> {
    decoder: &'a Decoder,
    pass: Pass,
    slabs: Vec<(Tensor, Tensor)>,
    rows: Vec<Row>,
    /// Slots in use are 0..extent; those of no row are free.
    extent: usize,
    /// The column that the next token goes to.
    at: usize,
    slots: usize,
    columns: usize,
}

impl<'a> Tensors<'a> {
    pub(super) fn new(decoder: &'a Decoder, has_adapter: bool) -> Self {
        let pass = Pass { has_adapter, ..Pass::SCORE };
        Self { decoder, pass, slabs: Vec::new(), rows: Vec::new(), extent: 0, at: 0, slots: 0, columns: 0 }
    }

    /// Logits of hidden states [R,C], on the host.
    fn head(&self, hidden: &Tensor) -> Result<Vec<f32>> {
        let logits = linear::forward(hidden, self.decoder.params.value(self.decoder.head), None)?;
        Ok(logits.to_dtype(DType::F32)?.to_device(&Device::Cpu)?.flatten_all()?.to_vec1()?)
    }

    /// Makes the slabs anew: the rows move to slots 0.., their columns so that the next one is `at`.
    fn rebuild(&mut self, at: usize, slots: usize, columns: usize) -> Result<()> {
        let heads = self.decoder.spec.attention(0);
        let like = self.decoder.params.value(self.decoder.embedding);
        let first = self.rows.iter().map(|r| r.start).min().unwrap_or(self.at);
        let used = self.at - first;
        let slots_of_rows: Vec<u32> = self.rows.iter().map(|r| r.slot as u32).collect();
        let moved = |old: Option<&Tensor>| -> Result<Tensor> {
            let new = Tensor::zeros((slots, heads.keys, columns, heads.size), like.dtype(), like.device())?;
            if let Some(old) = old.filter(|_| used > 0) {
                let index = Tensor::new(slots_of_rows.as_slice(), like.device())?;
                let kept = old.index_select(&index, 0)?.narrow(2, first, used)?.contiguous()?;
                new.narrow(0, 0, self.rows.len())?.slice_set(&kept, 2, at - used)?;
            }
            Ok(new)
        };
        let mut slabs = Vec::with_capacity(self.decoder.blocks.len());
        let mut old = std::mem::take(&mut self.slabs).into_iter();
        for _ in 0..self.decoder.blocks.len() {
            // One layer after the other, so that no more than one stands in memory twice.
            let pair = old.next();
            let (k, v) = (pair.as_ref().map(|p| &p.0), pair.as_ref().map(|p| &p.1));
            slabs.push((moved(k)?, moved(v)?));
        }
        for (slot, row) in self.rows.iter_mut().enumerate() {
            *row = Row { slot, start: row.start + at - used - first };
        }
        (self.slabs, self.extent, self.at, self.slots, self.columns) = (slabs, self.rows.len(), at, slots, columns);
        Ok(())
    }

    /// The lowest slot of no row.
    fn free_slot(&self) -> usize {
        (0..).find(|slot| self.rows.iter().all(|r| r.slot != *slot)).expect("rows are finite")
    }

    /// The additive mask [E,1,1,t] over columns first..=at: a slot sees its row's own columns, and of
    /// these the last `window`.
    fn mask(&self, first: usize, window: Option<usize>) -> Result<Tensor> {
        let width = self.at + 1 - first;
        let mut mask = vec![HIDDEN; self.extent * width];
        for row in &self.rows {
            let start = row.start.max((self.at + 1).saturating_sub(window.unwrap_or(usize::MAX)));
            mask[row.slot * width + start - first..(row.slot + 1) * width].fill(0.0);
        }
        Ok(Tensor::from_vec(mask, (self.extent, 1, 1, width), self.decoder.device())?)
    }

    /// Attention of each slot's newest token, q [E, H D], over the slab's columns first..=at.
    fn attend(&self, layer: usize, q: &Tensor, first: usize, mask: &Tensor, heads: &Heads) -> Result<Tensor> {
        let (e, g) = (self.extent, heads.queries / heads.keys);
        let visible = |slab: &Tensor| slab.narrow(0, 0, e)?.narrow(2, first, self.at + 1 - first);
        let (keys, values) = (visible(&self.slabs[layer].0)?, visible(&self.slabs[layer].1)?); // [E,Hkv,t,D]
        let q = q.reshape((e, heads.keys, g, heads.size))?;
        let p = composed_softmax(&q, &keys.transpose(2, 3)?, mask, heads.scale)?; // [E,Hkv,g,t]
        Ok(p.matmul(&values)?.reshape((e, heads.queries * heads.size))?)
    }

    fn block(&self, layer: usize, block: &Block, x: &Tensor, step: &Step) -> Result<Tensor> {
        let (decoder, eps) = (self.decoder, self.decoder.spec.norm_eps);
        let heads = decoder.spec.attention(layer);
        let linear = |l, x: &Tensor| decoder.linear(l, x, self.pass);
        let h = norm::forward(x, decoder.params.value(block.input_norm), eps)?; // [E,C]
        let (mut q, mut k, v) = (linear(&block.q, &h)?, linear(&block.k, &h)?, linear(&block.v, &h)?);
        if let Some((q_norm, k_norm)) = block.qk_norm {
            (q, k) = (decoder.head_norm(&q, q_norm)?, decoder.head_norm(&k, k_norm)?);
        }
        (q, k) = (rope::turned(&q, &step.angles)?, rope::turned(&k, &step.angles)?);
        let column = |x: &Tensor| x.reshape((self.extent, heads.keys, 1, heads.size))?.contiguous();
        let (keys, values) = &self.slabs[layer];
        keys.narrow(0, 0, self.extent)?.slice_set(&column(&k)?, 2, self.at)?;
        values.narrow(0, 0, self.extent)?.slice_set(&column(&v)?, 2, self.at)?;
        let o = self.attend(layer, &q, step.first, &step.masks[&heads.window], &heads)?;
        let y = linear(&block.o, &o)?;
        add_in_place(&y, x)?;
        let h = norm::forward(&y, decoder.params.value(block.post_norm), eps)?;
        let m = swiglu::forward(&linear(&block.gate, &h)?, &linear(&block.up, &h)?)?;
        let z = linear(&block.down, &m)?;
        add_in_place(&z, &y)?;
        Ok(z)
    }
}

/// What all layers of a step share.
struct Step {
    /// First column that any row sees.
    first: usize,
    angles: (Tensor, Tensor),
    masks: HashMap<Option<usize>, Tensor>,
}

impl Engine for Tensors<'_> {
    type Logit = f32;
    type Prompt = Prompt;

    fn max_positions(&self) -> usize {
        self.decoder.spec.max_positions
    }

    fn prefill(&self, prompt: &[u32]) -> Result<Prompt> {
        let (kept, hidden) = self.decoder.prefill(&Packed::single(prompt), self.pass)?;
        let heads = self.decoder.spec.attention(0);
        let by_head = |x: &Tensor| -> candle_core::Result<Tensor> {
            x.reshape((1, prompt.len(), heads.keys, heads.size))?.transpose(1, 2)?.contiguous()
        };
        let layers = kept.iter().map(|(k, v)| Ok((by_head(k)?, by_head(v)?))).collect::<Result<_>>()?;
        let logits = self.head(&hidden.narrow(0, prompt.len() - 1, 1)?)?;
        Ok(Prompt { layers, len: prompt.len(), logits })
    }

    fn logits(prompt: &Prompt) -> &[f32] {
        &prompt.logits
    }

    fn admit(&mut self, prompt: &Arc<Prompt>) -> Result<()> {
        let slot = self.free_slot();
        let is_full = slot >= self.slots;
        if is_full || self.at < prompt.len || self.at >= self.columns || self.rows.is_empty() {
            let first = self.rows.iter().map(|r| r.start).min().unwrap_or(self.at);
            let at = (self.at - first).max(prompt.len);
            let slots = if is_full { (2 * self.slots).max(FEWEST_SLOTS) } else { self.slots };
            self.rebuild(at, slots, self.columns.max(at + SPARE_COLUMNS))?;
        }
        let row = Row { slot: self.free_slot(), start: self.at - prompt.len };
        self.extent = self.extent.max(row.slot + 1);
        for ((keys, values), (k, v)) in self.slabs.iter().zip(&prompt.layers) {
            keys.narrow(0, row.slot, 1)?.slice_set(k, 2, row.start)?;
            values.narrow(0, row.slot, 1)?.slice_set(v, 2, row.start)?;
        }
        self.rows.push(row);
        Ok(())
    }

    fn step(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        let used = self.at - self.rows.iter().map(|r| r.start).min().unwrap_or(self.at);
        if self.at == self.columns {
            self.rebuild(used, self.slots, (2 * used).max(used + SPARE_COLUMNS))?;
        } else if self.extent > FEWEST_SLOTS && 2 * self.rows.len() <= self.extent {
            self.rebuild(self.at, self.slots, self.columns)?;
        }
        // Free slots run an arbitrary token that nobody reads.
        let (mut ids, mut positions) = (vec![0; self.extent], vec![0; self.extent]);
        for (row, &token) in self.rows.iter().zip(tokens) {
            ids[row.slot] = token;
            positions[row.slot] = (self.at - row.start) as u32;
        }
        let first = self.rows.iter().map(|r| r.start).min().unwrap_or(self.at);
        let mut x = embedding::forward(&ids, self.decoder.params.value(self.decoder.embedding))?; // [E,C]
        let mut masks = HashMap::new();
        for layer in 0..self.decoder.blocks.len() {
            let window = self.decoder.spec.attention(layer).window;
            if let std::collections::hash_map::Entry::Vacant(entry) = masks.entry(window) {
                entry.insert(self.mask(first, window)?);
            }
        }
        let step = Step { first, angles: rope::angles(&self.decoder.rope, &positions, 1.0, &x)?, masks };
        for (layer, block) in self.decoder.blocks.iter().enumerate() {
            x = self.block(layer, block, &x, &step)?;
        }
        self.at += 1;
        let hidden = norm::forward(&x, self.decoder.params.value(self.decoder.final_norm), self.decoder.spec.norm_eps)?;
        let slots: Vec<u32> = self.rows.iter().map(|r| r.slot as u32).collect();
        self.head(&embedding::forward(&slots, &hidden)?)
    }

    fn retire(&mut self, row: usize) {
        self.rows.remove(row);
    }
}
