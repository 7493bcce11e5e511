//! Row lookup, and its gradient added into the rows that were looked up.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::{Float, View, mutate, on_cpu, tensor, unfilled};

/// x [N,C] = rows `ids` [N] of the table W [V,C].
pub fn forward(ids: &[u32], w: &Tensor) -> Result<Tensor> {
    let (v, _) = w.dims2()?;
    if let Some(id) = ids.iter().find(|&&id| id as usize >= v) {
        candle_core::bail!(
            "token id {id} is outside the model's vocabulary of {v}: the tokenizer belongs to another model"
        );
    }
    on_cpu!(w, cpu_forward(ids, w), w.index_select(&Tensor::new(ids, w.device())?, 0))
}

/// dW [V,C] += dx [N,C] at rows `ids`, in token order, in place.
pub fn accumulate(dw: &Tensor, ids: &[u32], dx: &Tensor) -> Result<()> {
    on_cpu!(dw, cpu_accumulate(dw, ids, dx), {
        let dx = dx.to_dtype(dw.dtype())?.contiguous()?;
        dw.slice_set(&dw.index_add(&Tensor::new(ids, dw.device())?, &dx, 0)?, 0, 0)
    })
}

fn cpu_forward<F: Float>(ids: &[u32], w: &Tensor) -> Result<Tensor> {
    let c = w.dim(1)?;
    let w = View::<F>::new(w)?;
    let w: &[F] = &w;
    let mut x = unfilled::<F>(ids.len() * c);
    x.par_chunks_mut(c).zip(ids).with_min_len(super::rows_a_task(c)).for_each(|(x, &id)| {
        x.copy_from_slice(&w[id as usize * c..(id as usize + 1) * c]);
    });
    tensor(x, (ids.len(), c))
}

fn cpu_accumulate<F: Float>(dw: &Tensor, ids: &[u32], dx: &Tensor) -> Result<()> {
    let c = dw.dim(1)?;
    let dx = View::<F>::new(dx)?;
    mutate::<F, _>(dw, |dw| {
        for (&id, dx) in ids.iter().zip(dx.chunks(c)) {
            for (dw, &g) in dw[id as usize * c..(id as usize + 1) * c].iter_mut().zip(dx) {
                *dw += g;
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check_gradient, dot, normal};
    use super::*;

    #[test]
    fn gradient_adds_up_over_repeated_ids() {
        let (w, g, ids) = (normal(1, &[6, 3]), normal(2, &[4, 3]), [2, 5, 2, 0]);
        let dw = w.zeros_like().unwrap();
        accumulate(&dw, &ids, &g).unwrap();
        check_gradient(&w, &dw, |w| dot(&forward(&ids, w).unwrap(), &g));
        assert!(forward(&[6], &w).unwrap_err().to_string().contains("token id 6"));
    }
}
