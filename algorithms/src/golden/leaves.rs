//! Objectives at their leaves, as the cases of several files need them.

use candle_core::Var;

use super::{rows, vector};
use crate::objective::{Leaves, Loss, Objective};
use crate::{Batch, Table};
use serde_json::Value;

/// Loss and gradient at the log-probs.
pub(super) fn at_logp(objective: &dyn Objective, batch: &Batch, logp: &Table) -> (Loss, f64, Table) {
    let leaf = Var::from_tensor(&logp.tensor().unwrap()).unwrap();
    let leaves = Leaves { logp: leaf.as_tensor().clone(), entropy: None, divergence: None, score: None };
    let loss = objective.loss(batch, &leaves).unwrap();
    let value = loss.value.to_scalar().unwrap();
    let gradient = match loss.value.backward().unwrap().get(&leaf) {
        Some(gradient) => Table::from_tensor(&gradient.contiguous().unwrap()).unwrap(),
        None => Table::zeros(batch.rows(), batch.width()),
    };
    (loss, value, gradient)
}

/// The loss of each token by itself, [N,T]: that of a batch in which it alone is unmasked.
pub(super) fn token_losses(objective: &dyn Objective, batch: &Batch, logp: &Table) -> Table {
    let mut losses = Table::zeros(batch.rows(), batch.width());
    for i in 0..batch.rows() {
        for t in 0..batch.width() {
            let mut alone = batch.clone();
            alone.mask = Table::zeros(batch.rows(), batch.width());
            alone.mask.row_mut(i)[t] = 1.0;
            losses.row_mut(i)[t] = at_logp(objective, &alone, logp).1;
        }
    }
    losses
}

/// [N,T,V] as rows of one completion after the other.
pub(super) fn cube(value: &Value) -> Vec<Vec<Vec<f64>>> {
    value.as_array().unwrap_or_else(|| panic!("a list of rows, found {value}")).iter().map(rows).collect()
}

/// Whole numbers.
pub(super) fn ids(value: &Value) -> Vec<u32> {
    vector(value).into_iter().map(|id| id as u32).collect()
}

/// Rows of whole numbers.
pub(super) fn id_rows(value: &Value) -> Vec<Vec<u32>> {
    value.as_array().unwrap_or_else(|| panic!("rows, found {value}")).iter().map(ids).collect()
}

/// sum of weights times embeddings.
pub(super) fn mixed(embeddings: &[Vec<f64>], ids: &[u32], weights: &[f64]) -> Vec<f64> {
    let mut sum = vec![0.0; embeddings[0].len()];
    for (&id, w) in ids.iter().zip(weights) {
        sum.iter_mut().zip(&embeddings[id as usize]).for_each(|(s, e)| *s += w * e);
    }
    sum
}
