//! The head: from hidden states to the values of row functions, without keeping logits.
//!
//! Logits are computed for a chunk of rows at a time, each row is reduced to a few numbers, and the
//! backward pass computes the chunk again. [N,V] never exists.
//! Source: "Cut Your Losses in Large-Vocabulary Language Models", arXiv 2411.09009, and
//! linkedin/Liger-Kernel's chunked losses, here in chunks of rows.

use anyhow::{Result, ensure};
use candle_core::{DType, Device, Tensor};
use candlewick_algorithms::row::{Real, RowFunction, RowGrad, RowValue};
use rayon::prelude::*;

use super::decoder::Decoder;
use super::ops::{Float, View, embedding, linear, mutate};
use super::params::Grads;

/// Rows whose logits exist at one time.
pub const ROWS_A_CHUNK: usize = 256;

/// A row function for either float type.
pub trait AnyRowFunction {
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
        let weight = self.params.value(self.head);
        let mut values = Vec::with_capacity(at.len());
        for (chunk, at) in at.chunks(ROWS_A_CHUNK).enumerate() {
            let logits = host(&linear::forward(&embedding::forward(at, hidden)?, weight, None)?)?; // [R,V]
            let first = chunk * ROWS_A_CHUNK;
            match logits.dtype() {
                DType::F64 => forward_rows(&logits, first, function.double(), &mut values)?,
                _ => forward_rows(&logits, first, function.single(), &mut values)?,
            }
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
        ensure!(at.len() == values.len() && at.len() == upstream.len(), "one value and one gradient a row");
        let weight = self.params.value(self.head).clone();
        let d_hidden = hidden.zeros_like()?;
        let live: Vec<usize> = (0..at.len()).filter(|&r| !upstream[r].is_zero()).collect();
        for rows in live.chunks(ROWS_A_CHUNK) {
            let at: Vec<u32> = rows.iter().map(|&r| at[r]).collect();
            let h = embedding::forward(&at, hidden)?; // [R,C]
            let logits = linear::forward(&h, &weight, None)?; // [R,V]
            let on_host = host(&logits)?;
            match on_host.dtype() {
                DType::F64 => backward_rows(&on_host, rows, function.double(), values, upstream)?,
                _ => backward_rows(&on_host, rows, function.single(), values, upstream)?,
            }
            let d_logits = on_host.to_device(hidden.device())?.to_dtype(hidden.dtype())?;
            embedding::accumulate(&d_hidden, &at, &linear::backward_input(&d_logits, &weight)?)?;
            if let Some(slot) = grads.slot(&self.params, self.head)? {
                linear::accumulate_weight(slot, &d_logits, &h, 1.0)?;
            }
        }
        Ok(d_hidden)
    }
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
