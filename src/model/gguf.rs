//! Quantised GGUF checkpoints as frozen reference models: log-probs of packed rows, nothing else.
//!
//! The weights stay quantised; products run on Candle's kernels for them. The blocks are our own,
//! because candle-transformers' quantised models return the logits of the last position only, and a
//! reference needs those of every completion token; they serve as oracle in the tests. Read:
//! architectures `llama` (Llama, SmolLM, Mistral), `qwen2` and `qwen3`, any of Candle's quantisations.

use std::collections::HashMap;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::quantized::{QMatMul, QTensor};
use candle_core::{DType, Device, Module, Tensor};
use candlewick_algorithms::row::RowValue;

use super::head::{AnyRowFunction, ROWS_A_CHUNK, values_of};
use super::ops::attention::{self, Heads};
use super::ops::{add_in_place, embedding, norm, rope, swiglu};
use super::packed::Packed;

/// A linear layer: quantised weight, bias in f32.
struct Layer {
    weight: QMatMul,
    bias: Option<Tensor>,
}

impl Layer {
    /// y [N,out] = x [N,in] W^T + b.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = self.weight.forward(x)?;
        Ok(match &self.bias {
            Some(bias) => y.broadcast_add(bias)?,
            None => y,
        })
    }
}

struct Block {
    input_norm: Tensor,
    q: Layer,
    k: Layer,
    v: Layer,
    o: Layer,
    qk_norm: Option<(Tensor, Tensor)>,
    post_norm: Tensor,
    gate: Layer,
    up: Layer,
    down: Layer,
}

/// A quantised model that gives log-probs.
pub struct Quantised {
    blocks: Vec<Block>,
    embedding: QTensor,
    final_norm: Tensor,
    output: QMatMul,
    heads: Heads,
    norm_eps: f64,
    rope: rope::Table,
    /// Order of the columns of q and of k that makes interleaved pairs halves (`llama` files).
    order: Option<(Tensor, Tensor)>,
    /// Id in this file of each of the policy's ids, where they differ.
    ids: Option<Vec<Option<u32>>>,
    vocab_size: usize,
    device: Device,
}

/// Typed access to the metadata of one architecture.
struct Metadata<'a> {
    all: &'a HashMap<String, Value>,
    architecture: &'a str,
}

impl Metadata<'_> {
    fn get(&self, key: &str) -> Option<&Value> {
        self.all.get(&format!("{}.{key}", self.architecture))
    }

    fn size(&self, key: &str) -> Result<Option<usize>> {
        let found = match self.get(key) {
            None => return Ok(None),
            Some(Value::U32(n)) => Some(*n as usize),
            Some(Value::U64(n)) => usize::try_from(*n).ok(),
            Some(Value::I32(n)) => usize::try_from(*n).ok(),
            Some(Value::U16(n)) => Some(usize::from(*n)),
            Some(_) => None,
        };
        found.map(Some).with_context(|| format!("`{}.{key}` is not a whole number", self.architecture))
    }

    fn need(&self, key: &str) -> Result<usize> {
        let found = self.size(key)?.with_context(|| format!("`{}.{key}` is missing", self.architecture))?;
        ensure!(found > 0, "`{}.{key}` is 0", self.architecture);
        Ok(found)
    }

    fn number(&self, key: &str) -> Result<Option<f64>> {
        let number = |v: &Value| match v {
            Value::F32(x) => Ok(f64::from(*x)),
            Value::F64(x) => Ok(*x),
            _ => bail!("`{}.{key}` is not a number", self.architecture),
        };
        self.get(key).map(number).transpose()
    }
}

impl Quantised {
    /// Opens a file for a policy whose tokens are `vocabulary` (text to id).
    ///
    /// Errors: no GGUF file, an architecture or a rope scaling that is not known, missing or misshapen
    /// tensors, tokens of the policy that the file does not have.
    pub fn open(path: &Path, vocabulary: &HashMap<String, u32>, device: &Device) -> Result<Self> {
        Self::read(path, vocabulary, device).with_context(|| format!("reference `{}` cannot be used", path.display()))
    }

    fn read(path: &Path, vocabulary: &HashMap<String, u32>, device: &Device) -> Result<Self> {
        let mut file = BufReader::new(File::open(path).context("the file cannot be opened")?);
        let content = Content::read(&mut file).map_err(|e| anyhow::anyhow!("no valid GGUF file ({})", first(&e)))?;
        let architecture = match content.metadata.get("general.architecture") {
            Some(Value::String(name)) => name.as_str(),
            _ => bail!("`general.architecture` is missing"),
        };
        ensure!(
            ["llama", "qwen2", "qwen3"].contains(&architecture),
            "architecture `{architecture}` is not supported: llama, qwen2 and qwen3 are"
        );
        let meta = Metadata { all: &content.metadata, architecture };
        ensure!(meta.size("expert_count")?.unwrap_or(0) <= 1, "mixtures of experts are not supported");
        let (width, layers, queries) =
            (meta.need("embedding_length")?, meta.need("block_count")?, meta.need("attention.head_count")?);
        let keys = meta.size("attention.head_count_kv")?.unwrap_or(queries);
        let size = meta.size("attention.key_length")?.unwrap_or(width / queries);
        ensure!(keys > 0 && queries % keys == 0, "{queries} heads are no multiple of {keys} key/value heads");
        ensure!(size > 0 && size % 2 == 0, "a head size of {size} is not supported: rotary positions need an even one");
        let heads = Heads {
            queries,
            keys,
            size,
            window: meta.size("attention.sliding_window")?.filter(|w| *w > 0),
            scale: 1.0 / (size as f64).sqrt(),
        };
        let context = meta.need("context_length")?;
        let mut read = Tensors { content: &content, file: &mut file, device };
        let embedding = read.quantised("token_embd.weight", None)?;
        let (vocab_size, columns) = embedding.shape().dims2()?;
        ensure!(columns == width, "`token_embd.weight` has {columns} columns where {width} are expected");
        let frequencies = frequencies(&meta, &mut read, size)?;
        let hidden = meta.need("feed_forward_length")?;
        let blocks = (0..layers)
            .map(|layer| read.block(layer, &heads, width, hidden, architecture == "qwen3"))
            .collect::<Result<_>>()?;
        let output = match read.has("output.weight") {
            true => read.quantised("output.weight", Some(&[vocab_size, width]))?,
            false => read.quantised("token_embd.weight", None)?,
        };
        let order = match architecture {
            "llama" => Some((halves(queries, size, device)?, halves(keys, size, device)?)),
            _ => None,
        };
        Ok(Self {
            final_norm: read.plain("output_norm.weight", &[width])?,
            ids: map_ids(content.metadata.get("tokenizer.ggml.tokens"), vocabulary, vocab_size)?,
            norm_eps: meta.number("attention.layer_norm_rms_epsilon")?.unwrap_or(1e-6),
            rope: rope::Table::new(&frequencies, context, 1.0),
            output: QMatMul::from_qtensor(output)?,
            device: device.clone(),
            blocks,
            embedding,
            heads,
            order,
            vocab_size,
        })
    }

    /// Rows of the embedding.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// This file's ids of the policy's tokens.
    ///
    /// Errors: a token that the file does not have, which only an id beyond the policy's own vocabulary is.
    pub fn mapped(&self, tokens: &[u32]) -> Result<Vec<u32>> {
        let Some(ids) = &self.ids else { return Ok(tokens.to_vec()) };
        let map = |&id: &u32| {
            ids.get(id as usize).copied().flatten().with_context(|| format!("the reference has no token for id {id}"))
        };
        tokens.iter().map(map).collect()
    }

    /// Values of rows: row r reads the hidden state at index `at[r]` of the pack, whose tokens, and those
    /// of the function, are [`mapped`](Self::mapped).
    pub fn rows(&self, pack: &Packed, at: &[u32], function: &dyn AnyRowFunction) -> Result<Vec<RowValue>> {
        let hidden = self.hidden(pack)?;
        let mut values = Vec::with_capacity(at.len());
        for (chunk, at) in at.chunks(ROWS_A_CHUNK).enumerate() {
            let logits = self.output.forward(&embedding::forward(at, &hidden)?)?; // [R,V]
            values_of(&logits, chunk * ROWS_A_CHUNK, function, &mut values)?;
        }
        Ok(values)
    }

    /// Hidden states after the final norm, f32 [N,C].
    fn hidden(&self, pack: &Packed) -> Result<Tensor> {
        let ids = Tensor::new(pack.tokens.as_slice(), &self.device)?;
        let mut x = self.embedding.embedding(&ids)?.to_dtype(DType::F32)?;
        for block in &self.blocks {
            x = self.block(block, &x, pack)?;
        }
        Ok(norm::forward(&x, &self.final_norm, self.norm_eps)?)
    }

    fn block(&self, block: &Block, x: &Tensor, pack: &Packed) -> Result<Tensor> {
        let h = norm::forward(x, &block.input_norm, self.norm_eps)?; // [N,C]
        let (mut q, mut k, v) = (block.q.forward(&h)?, block.k.forward(&h)?, block.v.forward(&h)?);
        if let Some((q_order, k_order)) = &self.order {
            (q, k) = (q.index_select(q_order, 1)?, k.index_select(k_order, 1)?);
        }
        if let Some((q_norm, k_norm)) = &block.qk_norm {
            (q, k) = (self.head_norm(&q, q_norm)?, self.head_norm(&k, k_norm)?);
        }
        rope::rotate(&q, &self.rope, &pack.positions)?;
        rope::rotate(&k, &self.rope, &pack.positions)?;
        let y = block.o.forward(&attention::forward(&q, &k, &v, pack, &self.heads)?)?;
        add_in_place(&y, x)?;
        let h = norm::forward(&y, &block.post_norm, self.norm_eps)?;
        let z = block.down.forward(&swiglu::forward(&block.gate.forward(&h)?, &block.up.forward(&h)?)?)?;
        add_in_place(&z, &y)?;
        Ok(z)
    }

    fn head_norm(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        let (n, width) = x.dims2()?;
        let flat = x.reshape((n * width / self.heads.size, self.heads.size))?;
        Ok(norm::forward(&flat, weight, self.norm_eps)?.reshape((n, width))?)
    }
}

/// Reads tensors by name, with the shapes that they must have.
struct Tensors<'a> {
    content: &'a Content,
    file: &'a mut BufReader<File>,
    device: &'a Device,
}

impl Tensors<'_> {
    fn has(&self, name: &str) -> bool {
        self.content.tensor_infos.contains_key(name)
    }

    fn quantised(&mut self, name: &str, shape: Option<&[usize]>) -> Result<QTensor> {
        ensure!(self.has(name), "tensor `{name}` is missing");
        let found = self.content.tensor_infos[name].shape.dims();
        if let Some(shape) = shape {
            ensure!(found == shape, "tensor `{name}` has shape {found:?} where {shape:?} is expected");
        }
        let read = self.content.tensor(self.file, name, self.device);
        read.map_err(|e| anyhow::anyhow!("tensor `{name}` cannot be read ({}): fetch the file again", first(&e)))
    }

    fn plain(&mut self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let device = self.device.clone();
        Ok(self.quantised(name, Some(shape))?.dequantize(&device)?.to_dtype(DType::F32)?)
    }

    fn layer(&mut self, name: &str, out: usize, inner: usize) -> Result<Layer> {
        let weight = QMatMul::from_qtensor(self.quantised(&format!("{name}.weight"), Some(&[out, inner]))?)?;
        // Plain weights may be in half precision; activations are f32.
        let weight = match weight {
            QMatMul::Tensor(w) => QMatMul::Tensor(w.to_dtype(DType::F32)?),
            other => other,
        };
        let bias = format!("{name}.bias");
        Ok(Layer { weight, bias: self.has(&bias).then(|| self.plain(&bias, &[out])).transpose()? })
    }

    fn block(&mut self, layer: usize, heads: &Heads, width: usize, hidden: usize, has_qk_norm: bool) -> Result<Block> {
        let at = |name: &str| format!("blk.{layer}.{name}");
        let (q, kv) = (heads.queries * heads.size, heads.keys * heads.size);
        let qk_norm = match has_qk_norm {
            true => Some((
                self.plain(&at("attn_q_norm.weight"), &[heads.size])?,
                self.plain(&at("attn_k_norm.weight"), &[heads.size])?,
            )),
            false => None,
        };
        Ok(Block {
            input_norm: self.plain(&at("attn_norm.weight"), &[width])?,
            q: self.layer(&at("attn_q"), q, width)?,
            k: self.layer(&at("attn_k"), kv, width)?,
            v: self.layer(&at("attn_v"), kv, width)?,
            o: self.layer(&at("attn_output"), width, q)?,
            qk_norm,
            post_norm: self.plain(&at("ffn_norm.weight"), &[width])?,
            gate: self.layer(&at("ffn_gate"), hidden, width)?,
            up: self.layer(&at("ffn_up"), hidden, width)?,
            down: self.layer(&at("ffn_down"), width, hidden)?,
        })
    }
}

/// base^(-2i/D), divided by the factors of `rope_freqs.weight` or by a linear scaling's factor.
fn frequencies(meta: &Metadata<'_>, read: &mut Tensors<'_>, size: usize) -> Result<Vec<f64>> {
    let base = meta.number("rope.freq_base")?.unwrap_or(10_000.0);
    ensure!(
        meta.size("rope.dimension_count")?.is_none_or(|d| d == size),
        "rotary positions over a part of the head are not supported"
    );
    let mut list: Vec<f64> = (0..size / 2).map(|i| base.powf(-2.0 * i as f64 / size as f64)).collect();
    if read.has("rope_freqs.weight") {
        let factors: Vec<f32> = read.plain("rope_freqs.weight", &[size / 2])?.to_vec1()?;
        list.iter_mut().zip(factors).for_each(|(w, factor)| *w /= f64::from(factor));
        return Ok(list);
    }
    match meta.get("rope.scaling.type") {
        None => {}
        Some(Value::String(kind)) if kind == "none" => {}
        Some(Value::String(kind)) if kind == "linear" => {
            let factor = meta.number("rope.scaling.factor")?.context("linear rope scaling needs its factor")?;
            list.iter_mut().for_each(|w| *w /= factor);
        }
        Some(other) => bail!("rope scaling {other:?} is not supported: none and linear are"),
    }
    Ok(list)
}

/// For each column of a head in halves (x1.., x2..), the column of the interleaved layout (x1, x2, x1, ..).
fn halves(heads: usize, size: usize, device: &Device) -> Result<Tensor> {
    let column = |h: usize, c: usize| h * size + 2 * (c % (size / 2)) + c / (size / 2);
    let order: Vec<u32> = (0..heads).flat_map(|h| (0..size).map(move |c| column(h, c) as u32)).collect();
    Ok(Tensor::new(order, device)?)
}

/// The file's id of each of the policy's ids; none where they are the same.
fn map_ids(
    tokens: Option<&Value>,
    vocabulary: &HashMap<String, u32>,
    vocab_size: usize,
) -> Result<Option<Vec<Option<u32>>>> {
    let largest = vocabulary.values().max().map_or(0, |&id| id as usize + 1);
    let Some(Value::Array(tokens)) = tokens else {
        ensure!(
            largest <= vocab_size,
            "it has {vocab_size} tokens and does not list them, where the policy has ids up to {}",
            largest.saturating_sub(1)
        );
        return Ok(None);
    };
    let theirs: HashMap<&str, u32> = (tokens.iter().enumerate())
        .filter_map(|(id, token)| match token {
            Value::String(text) if id < vocab_size => Some((text.as_str(), id as u32)),
            _ => None,
        })
        .collect();
    let mut ids = vec![None; largest];
    let mut missing: Vec<&str> = Vec::new();
    for (text, &id) in vocabulary {
        ids[id as usize] = theirs.get(text.as_str()).copied();
        if ids[id as usize].is_none() {
            missing.push(text);
        }
    }
    missing.sort_unstable();
    ensure!(
        missing.is_empty(),
        "it lacks {} of the policy's {} tokens, such as `{}`: choose a reference of the same family",
        missing.len(),
        vocabulary.len(),
        missing[0]
    );
    let is_same = ids.iter().enumerate().all(|(id, mapped)| mapped.is_none_or(|m| m as usize == id));
    Ok((!is_same).then_some(ids))
}

/// The first line of an error; the rest may be a backtrace.
fn first(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or("no reason was given").to_owned()
}
