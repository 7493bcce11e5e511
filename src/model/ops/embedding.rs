//! Row lookup, and its gradient added into the rows that were looked up.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::{Float, View, mutate, on_cpu, tensor, unfilled};
use crate::model::packed::Mixed;

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
    let dx = &dx.to_dtype(dw.dtype())?.contiguous()?;
    on_cpu!(dw, cpu_accumulate(dw, ids, dx), {
        dw.slice_set(&dw.index_add(&Tensor::new(ids, dw.device())?, dx, 0)?, 0, 0)
    })
}

/// Rows of x [N,C] that are mixtures, in place: x_i = sum over k of weight_k W[id_k], summed in that order.
pub fn mix(x: &Tensor, w: &Tensor, mixed: &[Mixed]) -> Result<()> {
    let (v, c) = w.dims2()?;
    if let Some(id) = mixed.iter().flat_map(|m| &m.ids).find(|&&id| id as usize >= v) {
        candle_core::bail!("token id {id} of a mixture is outside the model's vocabulary of {v}");
    }
    let Some(first) = mixed.first() else { return Ok(()) };
    on_cpu!(w, cpu_mix(x, w, mixed), {
        let at = Tensor::new(mixed.iter().map(|m| m.at as u32).collect::<Vec<_>>(), w.device())?;
        let ids: Vec<u32> = mixed.iter().flat_map(|m| m.ids.iter().copied()).collect();
        let rows = forward(&ids, w)?.reshape((mixed.len(), first.ids.len(), c))?; // [M,K,C]
        let weights = weight_tensor(mixed, 0..first.ids.len(), w)?.unsqueeze(2)?; // [M,K,1]
        let rows = rows.broadcast_mul(&weights)?.sum(1)?; // [M,C]
        let change = (rows - x.index_select(&at, 0)?)?;
        super::add_in_place(x, &x.zeros_like()?.index_add(&at, &change, 0)?)
    })
}

/// dW [V,C] += the gradient dx [N,C] at inputs of which some are mixtures, in place.
pub fn accumulate_mixed(dw: &Tensor, ids: &[u32], mixed: &[Mixed], dx: &Tensor) -> Result<()> {
    let is_mixed: std::collections::HashSet<usize> = mixed.iter().map(|m| m.at).collect();
    let plain: Vec<u32> = (0..ids.len()).filter(|i| !is_mixed.contains(i)).map(|i| i as u32).collect();
    if !plain.is_empty() {
        let tokens: Vec<u32> = plain.iter().map(|&i| ids[i as usize]).collect();
        accumulate(dw, &tokens, &forward(&plain, dx)?)?;
    }
    let Some(first) = mixed.first() else { return Ok(()) };
    let at: Vec<u32> = mixed.iter().map(|m| m.at as u32).collect();
    let dx = forward(&at, dx)?; // [M,C]
    for k in 0..first.ids.len() {
        let tokens: Vec<u32> = mixed.iter().map(|m| m.ids[k]).collect();
        accumulate(dw, &tokens, &dx.broadcast_mul(&weight_tensor(mixed, k..k + 1, dw)?)?)?;
    }
    Ok(())
}

/// Weights [M,K] of some slots, as `like`.
fn weight_tensor(mixed: &[Mixed], slots: std::ops::Range<usize>, like: &Tensor) -> Result<Tensor> {
    let (m, k) = (mixed.len(), slots.len());
    let weights: Vec<f64> = mixed.iter().flat_map(|m| m.weights[slots.clone()].iter().copied()).collect();
    Tensor::from_vec(weights, (m, k), &candle_core::Device::Cpu)?.to_dtype(like.dtype())?.to_device(like.device())
}

fn cpu_mix<F: Float>(x: &Tensor, w: &Tensor, mixed: &[Mixed]) -> Result<()> {
    let c = w.dim(1)?;
    let w = View::<F>::new(w)?;
    mutate::<F, _>(x, |x| {
        for m in mixed {
            mix_row(&w, &m.ids, &m.weights, &mut x[m.at * c..(m.at + 1) * c]);
        }
    })
}

/// One mixture of rows of the table [V,C] into `x` [C].
pub(crate) fn mix_row<F: Float>(w: &[F], ids: &[u32], weights: &[f64], x: &mut [F]) {
    x.fill(F::ZERO);
    let c = x.len();
    for (&id, &weight) in ids.iter().zip(weights) {
        let weight = F::of(weight);
        for (x, &e) in x.iter_mut().zip(&w[id as usize * c..(id as usize + 1) * c]) {
            *x += weight * e;
        }
    }
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

    #[test]
    fn mixtures_and_their_gradient() {
        let (w, g, ids) = (normal(1, &[6, 3]), normal(2, &[4, 3]), [2, 5, 2, 0]);
        let mixed = [
            Mixed { at: 1, ids: vec![5, 2], weights: vec![0.7, 0.3] },
            Mixed { at: 3, ids: vec![0, 4], weights: vec![0.9, 0.1] },
        ];
        let inputs = |w: &Tensor| {
            let x = forward(&ids, w).unwrap();
            mix(&x, w, &mixed).unwrap();
            x
        };
        let dw = w.zeros_like().unwrap();
        accumulate_mixed(&dw, &ids, &mixed, &g).unwrap();
        check_gradient(&w, &dw, |w| dot(&inputs(w), &g));
        let outside = [Mixed { at: 0, ids: vec![6], weights: vec![1.0] }];
        assert!(mix(&inputs(&w), &w, &outside).unwrap_err().to_string().contains("token id 6"));
    }
}
