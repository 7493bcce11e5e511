//! One decoding step over rows of unequal length, and the cache it reads.

use crate::model::decoder::{Block, Decoder, Linear, Pass};
use crate::model::ops::attention::{self, Heads};
use crate::model::ops::skinny::products;
use crate::model::ops::{Float, View, embedding, in_pool, norm, rope, swiglu, team};
use crate::model::packed::Packed;
use crate::model::params::ParamId;
use anyhow::Result;
use candlewick_algorithms::row::soft::mix::Mixture;

/// Keys and values of one layer, token by token: each [T, Hkv D].
#[derive(Default)]
struct KeyValues<F> {
    keys: Vec<F>,
    values: Vec<F>,
}

/// A prompt's keys and values, shared by its samples, and the logits that follow it.
pub(super) struct PromptCache<F> {
    layers: Vec<KeyValues<F>>,
    len: usize,
    pub(super) logits: Vec<F>,
}

/// A row's own keys and values.
pub(super) struct RowCache<F> {
    layers: Vec<KeyValues<F>>,
    len: usize,
}

/// A row's part in a step: its newest token and what came before.
pub(super) struct Input<'a, F> {
    pub(super) token: u32,
    /// What is fed in place of the token's embedding.
    pub(super) mixture: Option<&'a Mixture>,
    pub(super) prompt: &'a PromptCache<F>,
    pub(super) cache: &'a mut RowCache<F>,
}

/// A linear layer's weights as slices.
struct LinearView<'a, F> {
    weight: View<'a, F>,
    bias: Option<View<'a, F>>,
    lora: Option<(View<'a, F>, View<'a, F>, F)>,
    out: usize,
}

struct BlockView<'a, F> {
    input_norm: View<'a, F>,
    qkv: [LinearView<'a, F>; 3],
    qk_norm: Option<(View<'a, F>, View<'a, F>)>,
    o: LinearView<'a, F>,
    post_norm: View<'a, F>,
    gate_up: [LinearView<'a, F>; 2],
    down: LinearView<'a, F>,
    heads: Heads,
}

/// The decoder's weights, borrowed for sampling.
pub(super) struct Engine<'a, F> {
    decoder: &'a Decoder,
    pass: Pass,
    embedding: View<'a, F>,
    blocks: Vec<BlockView<'a, F>>,
    final_norm: View<'a, F>,
    head: View<'a, F>,
}

impl<'a, F: Float> Engine<'a, F> {
    pub(super) fn new(decoder: &'a Decoder, has_adapter: bool) -> Result<Self> {
        let view = |id: ParamId| View::<F>::new(decoder.params.value(id));
        let scale = decoder.lora.as_ref().map_or(0.0, |l| l.scale());
        let linear = |l: &Linear| -> candle_core::Result<LinearView<'a, F>> {
            Ok(LinearView {
                weight: view(l.weight)?,
                bias: l.bias.map(view).transpose()?,
                lora: match l.lora.filter(|_| has_adapter) {
                    Some((a, b)) => Some((view(a)?, view(b)?, F::of(scale))),
                    None => None,
                },
                out: decoder.params.value(l.weight).dim(0)?,
            })
        };
        let block = |(layer, b): (usize, &Block)| -> candle_core::Result<BlockView<'a, F>> {
            Ok(BlockView {
                input_norm: view(b.input_norm)?,
                qkv: [linear(&b.q)?, linear(&b.k)?, linear(&b.v)?],
                qk_norm: match b.qk_norm {
                    Some((q, k)) => Some((view(q)?, view(k)?)),
                    None => None,
                },
                o: linear(&b.o)?,
                post_norm: view(b.post_norm)?,
                gate_up: [linear(&b.gate)?, linear(&b.up)?],
                down: linear(&b.down)?,
                heads: decoder.spec.attention(layer),
            })
        };
        Ok(Self {
            embedding: view(decoder.embedding)?,
            blocks: decoder.blocks.iter().enumerate().map(block).collect::<candle_core::Result<_>>()?,
            final_norm: view(decoder.final_norm)?,
            head: view(decoder.head)?,
            pass: Pass { has_adapter, ..Pass::SCORE },
            decoder,
        })
    }

    pub(super) fn max_positions(&self) -> usize {
        self.decoder.spec.max_positions
    }

    pub(super) fn row_cache(&self) -> RowCache<F> {
        let layers = self.blocks.iter().map(|_| KeyValues { keys: Vec::new(), values: Vec::new() }).collect();
        RowCache { layers, len: 0 }
    }

    /// Runs a prompt, alone so that its numbers depend on nothing else.
    pub(super) fn prefill(&self, prompt: &[u32]) -> Result<PromptCache<F>> {
        let pack = Packed::single(prompt);
        let (kept, hidden) = self.decoder.prefill(&pack, self.pass)?;
        let layers = kept
            .iter()
            .map(|(k, v)| Ok(KeyValues { keys: View::<F>::new(k)?.to_vec(), values: View::<F>::new(v)?.to_vec() }))
            .collect::<Result<_>>()?;
        let hidden = View::<F>::new(&hidden)?;
        let c = self.decoder.spec.hidden_size;
        let mut logits = vec![F::ZERO; self.head.len() / c];
        products(&hidden[(prompt.len() - 1) * c..], c, &mut [(&self.head, &mut logits)]);
        Ok(PromptCache { layers, len: prompt.len(), logits })
    }

    /// Logits [R,V] that follow each row's newest token.
    pub(super) fn step(&self, rows: &mut [Input<F>]) -> Result<Vec<F>> {
        in_pool(|| self.step_here(rows))
    }

    fn step_here(&self, rows: &mut [Input<F>]) -> Result<Vec<F>> {
        let (n, c, eps) = (rows.len(), self.decoder.spec.hidden_size, self.decoder.spec.norm_eps);
        let mut x = Vec::with_capacity(n * c);
        for row in rows.iter() {
            x.extend_from_slice(&self.embedding[row.token as usize * c..][..c]);
            if let Some(mixture) = row.mixture {
                let from = x.len() - c;
                embedding::mix_row(&self.embedding, &mixture.ids, &mixture.weights, &mut x[from..]);
            }
        }
        for (layer, block) in self.blocks.iter().enumerate() {
            let h = normed(&x, &block.input_norm, eps);
            let [mut q, mut k, v] = linears(&h, n, &block.qkv);
            if let Some((q_norm, k_norm)) = &block.qk_norm {
                q = normed(&q, q_norm, eps);
                k = normed(&k, k_norm, eps);
            }
            let o = self.attend(layer, rows, q, k, &v);
            let [y] = linears(&o, n, std::array::from_ref(&block.o));
            add(&mut x, &y);
            let h = normed(&x, &block.post_norm, eps);
            let [gate, up] = linears(&h, n, &block.gate_up);
            let m = gated(&gate, &up);
            let [z] = linears(&m, n, std::array::from_ref(&block.down));
            add(&mut x, &z);
        }
        for row in rows.iter_mut() {
            row.cache.len += 1;
        }
        let h = normed(&x, &self.final_norm, eps);
        let mut logits = crate::model::ops::unfilled(n * self.head.len() / c);
        products(&h, c, &mut [(&self.head, &mut logits)]);
        Ok(logits)
    }

    fn attend(&self, layer: usize, rows: &mut [Input<F>], mut q: Vec<F>, mut k: Vec<F>, v: &[F]) -> Vec<F> {
        let heads = &self.blocks[layer].heads;
        let (qw, kw) = (heads.queries * heads.size, heads.keys * heads.size);
        let mut out = vec![F::ZERO; q.len()];
        let mut parts: Vec<_> = (rows.iter_mut().zip(out.chunks_mut(qw)))
            .zip(q.chunks_mut(qw).zip(k.chunks_mut(kw).zip(v.chunks(kw))))
            .map(|((row, out), (q, (k, v)))| (row, out, q, k, v, Vec::new()))
            .collect();
        team::for_each(&mut parts, |(row, out, q, k, v, scores)| {
            let position = row.prompt.len + row.cache.len;
            rope::turn_row(q, &self.decoder.rope, position, 1.0);
            rope::turn_row(k, &self.decoder.rope, position, 1.0);
            let own = &mut row.cache.layers[layer];
            own.keys.extend_from_slice(k);
            own.values.extend_from_slice(v);
            let shared = &row.prompt.layers[layer];
            let spans = [
                (shared.keys.as_slice(), shared.values.as_slice(), row.prompt.len),
                (own.keys.as_slice(), own.values.as_slice(), row.cache.len + 1),
            ];
            attention::decode_row(q, &spans, heads, scores, out);
        });
        drop(parts);
        out
    }
}

/// y = x W^T (+ b) (+ adapter) for layers that read the same rows.
fn linears<F: Float, const L: usize>(x: &[F], rows: usize, layers: &[LinearView<F>; L]) -> [Vec<F>; L] {
    let k = x.len() / rows;
    let mut ys: [Vec<F>; L] = std::array::from_fn(|i| crate::model::ops::unfilled(rows * layers[i].out));
    let mut jobs: Vec<(&[F], &mut [F])> =
        layers.iter().zip(ys.iter_mut()).map(|(layer, y)| (&*layer.weight, y.as_mut_slice())).collect();
    products(x, k, &mut jobs);
    for (layer, y) in layers.iter().zip(ys.iter_mut()) {
        if let Some(bias) = &layer.bias {
            for row in y.chunks_mut(layer.out) {
                add(row, bias);
            }
        }
        if let Some((a, b, scale)) = &layer.lora {
            let rank = a.len() / k;
            let mut low = vec![F::ZERO; rows * rank];
            products(x, k, &mut [(a, &mut low)]);
            let mut high = vec![F::ZERO; rows * layer.out];
            products(&low, rank, &mut [(b, &mut high)]);
            for (y, &h) in y.iter_mut().zip(&high) {
                *y += *scale * h;
            }
        }
    }
    ys
}

fn normed<F: Float>(x: &[F], w: &[F], eps: f64) -> Vec<F> {
    let mut y = crate::model::ops::unfilled(x.len());
    for (y, x) in y.chunks_mut(w.len()).zip(x.chunks(w.len())) {
        norm::normalise_row(x, w, eps, y);
    }
    y
}

fn gated<F: Float>(gate: &[F], up: &[F]) -> Vec<F> {
    let mut y = crate::model::ops::unfilled(gate.len());
    let parts = y.chunks_mut(swiglu::CHUNK).zip(gate.chunks(swiglu::CHUNK).zip(up.chunks(swiglu::CHUNK)));
    let mut parts: Vec<_> = parts.collect();
    team::for_each(&mut parts, |(y, (gate, up))| swiglu::gate_chunk(gate, up, y));
    y
}

fn add<F: Float>(a: &mut [F], b: &[F]) {
    for (a, &b) in a.iter_mut().zip(b) {
        *a += b;
    }
}
