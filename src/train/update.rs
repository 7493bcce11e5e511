//! One update: objective at the leaves, gradient pulled back through the model, optimiser step.
//!
//! The batch is cut into micro-batches of packed rows: a group's prompt stands once, completions
//! follow it, nothing is padded. If there is one micro-batch, or the loss is a sum over rows, each is
//! run forward once with its tape kept. A loss that couples rows over several micro-batches is
//! evaluated on a scoring pass first; its gradients at the leaves are exact either way.
//! Rows whose tokens are all masked are not run at all, nor, where the objective allows it, rows
//! whose advantage is zero.

use anyhow::{Context, Result, ensure};
use candle_core::{Tensor, Var};
use candlewick_algorithms::batch::Advantages;
use candlewick_algorithms::objective::{Leaves, Objective};
use candlewick_algorithms::packing::best_fit_decreasing;
use candlewick_algorithms::row::token::TokenLogp;
use candlewick_algorithms::row::{RowGrad, RowValue};
use candlewick_algorithms::{Batch, Metrics, Table};

use super::policy::Policy;
use crate::model::decoder::{Decoder, Keep, Pass};
use crate::model::packed::Packed;
use crate::model::params::Grads;

/// Rows that are run through the model together.
#[derive(Default)]
pub struct MicroBatch {
    /// Rows of the batch.
    pub rows: Vec<usize>,
    /// Their tokens.
    pub pack: Packed,
    /// Where in the pack each value is predicted from.
    pub at: Vec<u32>,
    /// The token that each value belongs to.
    pub targets: Vec<u32>,
    /// Row and column of the batch that each value belongs to.
    pub cells: Vec<(usize, usize)>,
}

/// Rows that share a prompt and stand together: the prompt is run once for all of them.
struct Family {
    /// Rows with the index of their last unmasked completion token.
    rows: Vec<(usize, usize)>,
    /// Tokens to run.
    tokens: usize,
}

/// Cuts rows into micro-batches of at most `limit` tokens by best-fit decreasing; neighbours with one
/// prompt share it, and attend to nothing but it and themselves.
///
/// A single row longer than the limit is a micro-batch of its own. Rows without unmasked tokens are
/// left out. Micro-batches and their rows come in the order of the batch.
pub fn micro_batches(batch: &Batch, rows: &[usize], limit: usize) -> Vec<MicroBatch> {
    let families = families(batch, rows, limit);
    let lengths: Vec<usize> = families.iter().map(|f| f.tokens).collect();
    let mut bins = best_fit_decreasing(&lengths, limit);
    bins.iter_mut().for_each(|bin| bin.sort_unstable());
    bins.sort_unstable_by_key(|bin| bin[0]);
    bins.iter().map(|bin| pack(batch, bin.iter().map(|&f| &families[f]))).collect()
}

/// Neighbouring rows with the same prompt, as many as fit into `limit` tokens.
fn families(batch: &Batch, rows: &[usize], limit: usize) -> Vec<Family> {
    let prompt = |row: usize| &batch.tokens[row][..batch.prompt_len[row]];
    let mut families: Vec<Family> = Vec::new();
    for &row in rows {
        let length = batch.tokens[row].len() - batch.prompt_len[row];
        let Some(last) = (0..length).rev().find(|&t| batch.mask.row(row)[t] != 0.0) else { continue };
        let joins = |family: &&mut Family| {
            let first = family.rows[0].0;
            batch.group[first] == batch.group[row] && prompt(first) == prompt(row) && family.tokens + last <= limit
        };
        match families.last_mut().filter(joins) {
            Some(family) => {
                family.rows.push((row, last));
                family.tokens += last;
            }
            None => families.push(Family { rows: vec![(row, last)], tokens: batch.prompt_len[row] + last }),
        }
    }
    families
}

fn pack<'a>(batch: &Batch, families: impl Iterator<Item = &'a Family>) -> MicroBatch {
    let mut micro = MicroBatch::default();
    for family in families {
        let p = batch.prompt_len[family.rows[0].0];
        let head = micro.pack.push(&batch.tokens[family.rows[0].0][..p]);
        let before = (micro.pack.segments[head].start + p - 1) as u32;
        for &(row, last) in &family.rows {
            let completion = &batch.tokens[row][p..];
            let start = micro.pack.len() as u32;
            if last > 0 {
                micro.pack.push_continuation(&completion[..last]);
            }
            for t in (0..=last).filter(|&t| batch.mask.row(row)[t] != 0.0) {
                micro.at.push(if t == 0 { before } else { start + t as u32 - 1 });
                micro.targets.push(completion[t]);
                micro.cells.push((row, t));
            }
            micro.rows.push(row);
        }
    }
    micro
}

/// What an update saw.
#[derive(Debug, Clone, Default)]
pub struct Update {
    /// The loss over the whole batch.
    pub loss: f64,
    /// The objective's metrics over the whole batch.
    pub metrics: Metrics,
    /// Tokens run forward and backward.
    pub tokens: usize,
    /// Micro-batches that they were run in.
    pub micro_batches: usize,
}

/// Adds the gradient of the objective over a whole batch to `grads`.
pub fn gradient(
    policy: &Policy,
    objective: &dyn Objective,
    batch: &Batch,
    grads: &mut Grads,
    temperature: f64,
    dropout: Option<u64>,
) -> Result<Update> {
    let needs = objective.needs();
    ensure!(!needs.divergence_leaf && !needs.score_leaf, "this objective's leaves are not computed by this loop");
    let is_live = live_rows(objective, batch);
    let rows: Vec<usize> = (0..batch.rows()).filter(|&i| is_live[i]).collect();
    let micros = micro_batches(batch, &rows, policy.micro_tokens);
    let mut pull = Pull { decoder: &policy.decoder, temperature, with_entropy: needs.entropy_leaf, grads };
    let pass = Pass { keep: policy.keep, dropout, ..Pass::SCORE };
    let mut update =
        Update { tokens: micros.iter().map(|m| m.pack.len()).sum(), micro_batches: micros.len(), ..Update::default() };
    // Rows that are not run keep the values they were sampled with: their gradient is zero.
    let resting = |rows: &[usize]| -> (Table, Table) {
        let (mut logp, entropy) = (Table::zeros(rows.len(), batch.width()), Table::zeros(rows.len(), batch.width()));
        if let Some(known) = batch.old_logp.as_ref().or(batch.sampling_logp.as_ref()) {
            for (i, &row) in rows.iter().enumerate().filter(|(_, row)| !is_live[**row]) {
                let values = known.row(row).iter().map(|v| if v.is_finite() { *v } else { 0.0 });
                logp.row_mut(i).iter_mut().zip(values).for_each(|(to, from)| *to = from);
            }
        }
        (logp, entropy)
    };
    if micros.len() <= 1 || objective.couples_rows() {
        let all: Vec<usize> = (0..batch.rows()).collect();
        let (mut logp, mut entropy) = resting(&all);
        let mut only = None;
        for micro in &micros {
            let is_only = micros.len() == 1;
            let keep = if is_only { pass.keep } else { Keep::Nothing };
            let (tape, values) = pull.forward(micro, Pass { keep, ..pass })?;
            write(&values, micro, &mut logp, &mut entropy, |row| row);
            only = is_only.then_some((tape, values));
        }
        let leaf = leaf_gradients(objective, batch, &logp, &entropy, needs.entropy_leaf, &mut update)?;
        match only {
            Some((tape, values)) => pull.back(tape, &micros[0], &values, &leaf.at(&micros[0], |row| row))?,
            None => {
                for micro in &micros {
                    let (tape, values) = pull.forward(micro, pass)?;
                    pull.back(tape, micro, &values, &leaf.at(micro, |row| row))?;
                }
            }
        }
        return Ok(update);
    }
    let mut seen = vec![false; batch.rows()];
    for micro in &micros {
        let (tape, values) = pull.forward(micro, pass)?;
        let mut place = vec![usize::MAX; batch.rows()];
        micro.rows.iter().enumerate().for_each(|(i, &row)| place[row] = i);
        micro.rows.iter().for_each(|&row| seen[row] = true);
        let (mut logp, mut entropy) = resting(&micro.rows);
        write(&values, micro, &mut logp, &mut entropy, |row| place[row]);
        let leaf =
            leaf_gradients(objective, &batch.select(&micro.rows), &logp, &entropy, needs.entropy_leaf, &mut update)?;
        pull.back(tape, micro, &values, &leaf.at(micro, |row| place[row]))?;
    }
    // The rows that were not run still count in the loss and the metrics.
    let rest: Vec<usize> = (0..batch.rows()).filter(|&i| !seen[i]).collect();
    if !rest.is_empty() {
        let (logp, entropy) = resting(&rest);
        leaf_gradients(objective, &batch.select(&rest), &logp, &entropy, needs.entropy_leaf, &mut update)?;
    }
    Ok(update)
}

/// Rows that can have a gradient.
pub(super) fn live_rows(objective: &dyn Objective, batch: &Batch) -> Vec<bool> {
    let skips = objective.rests_without_advantage();
    let idle = objective.idle_rows(batch);
    (0..batch.rows())
        .map(|i| {
            let is_on = batch.keep[i] && batch.mask.row(i).iter().any(|&m| m != 0.0);
            let is_pulled = match &batch.advantage {
                Some(Advantages::Row(a)) => a[i] != 0.0,
                Some(Advantages::Token(a)) => a.row(i).iter().zip(batch.mask.row(i)).any(|(a, m)| a * m != 0.0),
                None => true,
            };
            is_on && (is_pulled || !skips) && !idle.get(i).is_some_and(|idle| *idle)
        })
        .collect()
}

fn write(
    values: &[RowValue],
    micro: &MicroBatch,
    logp: &mut Table,
    entropy: &mut Table,
    place: impl Fn(usize) -> usize,
) {
    for (value, &(row, t)) in values.iter().zip(&micro.cells) {
        logp.row_mut(place(row))[t] = value.logp;
        entropy.row_mut(place(row))[t] = value.entropy;
    }
}

/// Gradients of the loss at the leaves.
struct LeafGradients {
    logp: Table,
    entropy: Option<Table>,
}

impl LeafGradients {
    fn at(&self, micro: &MicroBatch, place: impl Fn(usize) -> usize) -> Vec<RowGrad> {
        let entropy = |row: usize, t: usize| self.entropy.as_ref().map_or(0.0, |e| e.row(row)[t]);
        let grad = |&(row, t): &(usize, usize)| RowGrad {
            logp: self.logp.row(place(row))[t],
            entropy: entropy(place(row), t),
            divergence: 0.0,
        };
        micro.cells.iter().map(grad).collect()
    }
}

fn leaf_gradients(
    objective: &dyn Objective,
    batch: &Batch,
    logp: &Table,
    entropy: &Table,
    with_entropy: bool,
    update: &mut Update,
) -> Result<LeafGradients> {
    let leaf = |table: &Table| -> Result<Var> { Ok(Var::from_tensor(&table.tensor()?)?) };
    let logp = leaf(logp)?;
    let entropy = with_entropy.then(|| leaf(entropy)).transpose()?;
    let leaves = Leaves {
        logp: logp.as_tensor().clone(),
        entropy: entropy.as_ref().map(|e| e.as_tensor().clone()),
        divergence: None,
        score: None,
    };
    let loss = objective.loss(batch, &leaves)?;
    let value = loss.value.to_scalar::<f64>()?;
    ensure!(value.is_finite(), "objective: the loss is {value}");
    update.loss += value;
    update.metrics.merge(&loss.metrics);
    let store = loss.value.backward()?;
    let table = |var: &Var| -> Result<Table> {
        match store.get(var.as_tensor()) {
            Some(grad) => Ok(Table::from_tensor(&grad.contiguous()?)?),
            None => Ok(Table::zeros(batch.rows(), batch.width())),
        }
    };
    Ok(LeafGradients { logp: table(&logp)?, entropy: entropy.as_ref().map(table).transpose()? })
}

/// Runs micro-batches forward and back.
struct Pull<'a> {
    decoder: &'a Decoder,
    temperature: f64,
    with_entropy: bool,
    grads: &'a mut Grads,
}

impl Pull<'_> {
    fn function<'m>(&self, micro: &'m MicroBatch) -> TokenLogp<'m> {
        TokenLogp { tokens: &micro.targets, temperature: self.temperature, with_entropy: self.with_entropy }
    }

    fn forward(&self, micro: &MicroBatch, pass: Pass) -> Result<(crate::model::decoder::Tape, Vec<RowValue>)> {
        let tape = self.decoder.forward(&micro.pack, pass)?;
        let values = self.decoder.rows_forward(&tape.hidden, &micro.at, &self.function(micro))?;
        if let Some(at) = values.iter().position(|v| !v.logp.is_finite()) {
            let (row, t) = micro.cells[at];
            anyhow::bail!(
                "the model gives a non-finite log-prob in row {row} at token {t}: lower `optim.learning_rate`"
            );
        }
        Ok((tape, values))
    }

    fn back(
        &mut self,
        tape: crate::model::decoder::Tape,
        micro: &MicroBatch,
        values: &[RowValue],
        upstream: &[RowGrad],
    ) -> Result<()> {
        if upstream.iter().all(RowGrad::is_zero) {
            return Ok(());
        }
        let function =
            TokenLogp { tokens: &micro.targets, temperature: self.temperature, with_entropy: self.with_entropy };
        let d_hidden: Tensor = self
            .decoder
            .rows_backward(&tape.hidden, &micro.at, &function, values, upstream, self.grads)
            .context("the gradient cannot be pulled back through the head")?;
        self.decoder.backward(tape, &micro.pack, &d_hidden, self.grads)
    }
}
