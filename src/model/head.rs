//! The head: from hidden states to the values of row functions, without keeping logits.
//!
//! Logits are computed for a chunk of rows at a time, each row is reduced to a few numbers, and the
//! backward pass computes the chunk again. [N,V] never exists.
//! Source: "Cut Your Losses in Large-Vocabulary Language Models", arXiv 2411.09009, and
//! linkedin/Liger-Kernel's chunked losses, here in chunks of rows.

use anyhow::{Result, ensure};
use candle_core::{D, DType, Device, Tensor};
use candlewick_algorithms::row::token::TokenLogp;
use candlewick_algorithms::row::{Real, RowFunction, RowGrad, RowValue};
use rayon::prelude::*;

use super::decoder::Decoder;
use super::ops::{self, Float, View, embedding, in_pool, linear, mutate};
use super::params::Grads;

/// Rows whose logits exist at one time.
pub const ROWS_A_CHUNK: usize = 256;

/// A row function for either float type.
pub trait AnyRowFunction: Sync {
    /// For f32 logits.
    fn single(&self) -> &dyn RowFunction<f32>;
    /// For f64 logits.
    fn double(&self) -> &dyn RowFunction<f64>;
}

impl<T: RowFunction<f32> + RowFunction<f64>> AnyRowFunction for T {
    fn single(&self) -> &dyn RowFunction<f32> {
        self
    }
    fn double(&self) -> &dyn RowFunction<f64> {
        self
    }
}

impl Decoder {
    /// Values of rows: row r reads the hidden state at index `at[r]` of `hidden` [N,C].
    pub fn rows_forward(&self, hidden: &Tensor, at: &[u32], function: &dyn AnyRowFunction) -> Result<Vec<RowValue>> {
        in_pool(|| self.rows_forward_here(hidden, at, function))
    }

    fn rows_forward_here(&self, hidden: &Tensor, at: &[u32], function: &dyn AnyRowFunction) -> Result<Vec<RowValue>> {
        let weight = self.params.value(self.head);
        let mut values = Vec::with_capacity(at.len());
        for (chunk, at) in at.chunks(ROWS_A_CHUNK).enumerate() {
            let logits = linear::forward(&embedding::forward(at, hidden)?, weight, None)?; // [R,V]
            values_of(&logits, chunk * ROWS_A_CHUNK, function, &mut values)?;
        }
        Ok(values)
    }

    /// Logits [R,V] on the CPU, in f32 or f64, of R rows of hidden states; at most [`ROWS_A_CHUNK`] at a time
    /// keep them small.
    pub fn rows_logits(&self, hidden: &Tensor) -> Result<Tensor> {
        host(&linear::forward(hidden, self.params.value(self.head), None)?)
    }

    /// d hidden [N,C] from the gradient at each row's values; the head's own gradient goes to `grads`.
    ///
    /// Rows whose gradient is zero are left out.
    pub fn rows_backward(
        &self,
        hidden: &Tensor,
        at: &[u32],
        function: &dyn AnyRowFunction,
        values: &[RowValue],
        upstream: &[RowGrad],
        grads: &mut Grads,
    ) -> Result<Tensor> {
        in_pool(|| {
            ensure!(at.len() == values.len() && at.len() == upstream.len(), "one value and one gradient a row");
            let weight = self.params.value(self.head).clone();
            let d_hidden = Tensor::zeros(hidden.dims(), ops::wide(hidden.dtype()), hidden.device())?;
            let live: Vec<usize> = (0..at.len()).filter(|&r| !upstream[r].is_zero()).collect();
            for rows in live.chunks(ROWS_A_CHUNK) {
                let at: Vec<u32> = rows.iter().map(|&r| at[r]).collect();
                let h = embedding::forward(&at, hidden)?; // [R,C]
                let logits = linear::forward(&h, &weight, None)?; // [R,V]
                let d_logits = match on_device(function, &logits) {
                    Some(token) => composed_backward(&logits, rows, &token, values, upstream)?,
                    None => {
                        let on_host = host(&logits)?;
                        match on_host.dtype() {
                            DType::F64 => backward_rows(&on_host, rows, function.double(), values, upstream)?,
                            _ => backward_rows(&on_host, rows, function.single(), values, upstream)?,
                        }
                        on_host.to_device(hidden.device())?
                    }
                };
                let d_logits = d_logits.to_dtype(hidden.dtype())?;
                embedding::accumulate(&d_hidden, &at, &linear::backward_input(&d_logits, &weight)?)?;
                if let Some(slot) = grads.slot(&self.params, self.head)? {
                    linear::accumulate_weight(slot, &d_logits, &h, 1.0)?;
                }
            }
            Ok(d_hidden.to_dtype(hidden.dtype())?)
        })
    }
}

/// Adds the values of rows `first`.. from their logits [R,V].
pub(super) fn values_of(
    logits: &Tensor,
    first: usize,
    function: &dyn AnyRowFunction,
    values: &mut Vec<RowValue>,
) -> Result<()> {
    if let Some(token) = on_device(function, logits) {
        values.extend(composed_forward(logits, &token.tokens[first..first + logits.dim(0)?], &token)?);
        return Ok(());
    }
    let logits = host(logits)?;
    match logits.dtype() {
        DType::F64 => forward_rows(&logits, first, function.double(), values),
        _ => forward_rows(&logits, first, function.single(), values),
    }
}

/// The function in its tensor form, where it has one and the logits are not the CPU kernels' business.
fn on_device<'f>(function: &'f dyn AnyRowFunction, logits: &Tensor) -> Option<TokenLogp<'f>> {
    if ops::has_kernels(logits.device(), logits.dtype()) { None } else { function.single().as_token_logp() }
}

/// Tempered logits minus their row's maximum, their exponentials, and (maximum, sum of exponentials) [R,1].
fn exponentials(logits: &Tensor, temperature: f64) -> candle_core::Result<(Tensor, Tensor, Tensor, Tensor)> {
    let z = (logits.to_dtype(ops::wide(logits.dtype()))? * (1.0 / temperature))?;
    let max = z.max_keepdim(D::Minus1)?;
    let z = z.broadcast_sub(&max)?;
    let e = z.exp()?;
    let sum = e.sum_keepdim(D::Minus1)?;
    Ok((z, e, max, sum))
}

/// What [`TokenLogp`] computes a row, by tensor calls for a chunk of rows.
fn composed_forward(logits: &Tensor, tokens: &[u32], f: &TokenLogp<'_>) -> Result<Vec<RowValue>> {
    let (z, e, max, sum) = exponentials(logits, f.temperature)?;
    let log_sum = sum.log()?;
    let ids = Tensor::from_slice(tokens, (tokens.len(), 1), logits.device())?;
    let logp = (z.gather(&ids, 1)? - &log_sum)?;
    let entropy = match f.with_entropy {
        true => (&log_sum - ((e * z)?.sum_keepdim(D::Minus1)? / sum)?)?,
        false => log_sum.zeros_like()?,
    };
    let columns = Tensor::cat(&[logp, entropy, (max + log_sum)?], 1)?; // [R,3]
    let rows: Vec<Vec<f64>> = columns.to_dtype(DType::F64)?.to_device(&Device::Cpu)?.to_vec2()?;
    // f64::max would turn NaN into 0.
    let floor = |h: f64| if h < 0.0 { 0.0 } else { h };
    Ok(rows.iter().map(|r| RowValue { logp: r[0], entropy: floor(r[1]), divergence: 0.0, lse: r[2] }).collect())
}

/// dL/dlogits [R,V] of the rows `rows`, in f32 or f64.
fn composed_backward(
    logits: &Tensor,
    rows: &[usize],
    f: &TokenLogp<'_>,
    values: &[RowValue],
    upstream: &[RowGrad],
) -> Result<Tensor> {
    let (z, e, _, sum) = exponentials(logits, f.temperature)?;
    let p = e.broadcast_div(&sum)?;
    let column = |of: &dyn Fn(usize) -> f64| -> candle_core::Result<Tensor> {
        let data: Vec<f64> = rows.iter().map(|&r| of(r) / f.temperature).collect();
        Tensor::from_vec(data, (rows.len(), 1), &Device::Cpu)?.to_dtype(z.dtype())?.to_device(logits.device())
    };
    let (a, b) = (column(&|r| upstream[r].logp)?, column(&|r| upstream[r].entropy)?);
    let pulled = match upstream.iter().any(|g| g.entropy != 0.0) {
        false => p.broadcast_mul(&a.neg()?)?,
        true => {
            // -p (a + b (ln p + H)); b H is already divided by the temperature.
            let b_entropy = column(&|r| upstream[r].entropy * values[r].entropy)?;
            let logp = z.broadcast_sub(&sum.log()?)?;
            let factor = logp.broadcast_mul(&b)?.broadcast_add(&(&a + b_entropy)?)?;
            // 0 ln 0 = 0, also where a logit is minus infinity.
            let terms = (&p * factor)?.neg()?;
            p.gt(0.0)?.where_cond(&terms, &p.zeros_like()?)?
        }
    };
    let tokens: Vec<u32> = rows.iter().map(|&r| f.tokens[r]).collect();
    let ids = Tensor::from_vec(tokens, (rows.len(), 1), logits.device())?;
    Ok(pulled.scatter_add(&ids, &a, 1)?)
}

/// Logits on the CPU in f32 or f64; the same tensor if they are there already.
fn host(logits: &Tensor) -> Result<Tensor> {
    let wide = if logits.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
    Ok(logits.to_device(&Device::Cpu)?.to_dtype(wide)?)
}

fn forward_rows<F: Float + Real>(
    logits: &Tensor,
    first: usize,
    function: &dyn RowFunction<F>,
    values: &mut Vec<RowValue>,
) -> Result<()> {
    let v = logits.dim(1)?;
    let logits = View::<F>::new(logits)?;
    let logits: &[F] = &logits;
    let rows: Vec<RowValue> =
        logits.par_chunks(v).enumerate().map(|(i, row)| function.forward(first + i, row)).collect();
    values.extend(rows);
    Ok(())
}

fn backward_rows<F: Float + Real>(
    logits: &Tensor,
    rows: &[usize],
    function: &dyn RowFunction<F>,
    values: &[RowValue],
    upstream: &[RowGrad],
) -> Result<()> {
    let v = logits.dim(1)?;
    mutate::<F, _>(logits, |logits| {
        logits.par_chunks_mut(v).zip(rows).for_each(|(row, &r)| {
            function.backward(r, row, &values[r], &upstream[r]);
        });
    })?;
    Ok(())
}
