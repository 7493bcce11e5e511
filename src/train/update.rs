//! One update: objective at the leaves, gradient pulled back through the model, optimiser step.
//!
//! The batch is cut into micro-batches of packed rows: a group's prompt stands once, completions
//! follow it, nothing is padded. If there is one micro-batch, or the loss is a sum over rows or groups that fit
//! into one, each is run forward once with its tape kept. A loss that couples rows over several micro-batches is
//! evaluated on a scoring pass first; its gradients at the leaves are exact either way.
//! Rows whose tokens are all masked are not run at all, nor, where the objective allows it, rows
//! whose advantage is zero.

use std::borrow::Cow;
use std::collections::HashSet;
use std::ops::Range;

use anyhow::{Context, Result, ensure};
use candle_core::{Tensor, Var};
use candlewick_algorithms::batch::{Advantages, Soft};
use candlewick_algorithms::objective::{Leaves, Objective, Rows};
use candlewick_algorithms::packing::best_fit_decreasing;
use candlewick_algorithms::row::soft::{SoftLogp, Step, weights};
use candlewick_algorithms::row::token::TokenLogp;
use candlewick_algorithms::row::{RowGrad, RowValue};
use candlewick_algorithms::{Batch, Metrics, Needs, Table};

use super::policy::Policy;
use super::teacher::Teaching;
use crate::model::decoder::{Decoder, Keep, Pass, Tape};
use crate::model::head::ROWS_A_CHUNK;
use crate::model::ops::add_in_place;
use crate::model::packed::{Mixed, Packed};
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

impl MicroBatch {
    /// The slots of each value's step; `None` = a discrete step.
    pub fn steps<'b>(&self, batch: &'b Batch) -> Vec<Option<Step<'b>>> {
        let step = |&(row, t): &(usize, usize)| batch.soft.as_ref().and_then(|soft| soft.rows[row].step(t));
        self.cells.iter().map(step).collect()
    }

    /// What soft steps of a row feed in place of their tokens, which stand at `start` and after.
    fn mix(&mut self, soft: &Soft, row: usize, start: usize, fed: usize) {
        let steps = &soft.rows[row];
        for (t, step) in (0..fed).map_while(|t| Some((t, steps.step(t)?))) {
            let (ids, weights) = (step.ids.to_vec(), weights(step.scores, soft.tau));
            self.pack.mixed.push(Mixed { at: start + t, ids, weights });
        }
    }
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
    micro.pack.has_fixed_inputs = batch.soft.as_ref().is_some_and(|soft| !soft.trains_inputs);
    for family in families {
        let p = batch.prompt_len[family.rows[0].0];
        let head = micro.pack.push(&batch.tokens[family.rows[0].0][..p]);
        let before = (micro.pack.segments[head].start + p - 1) as u32;
        for &(row, last) in &family.rows {
            let completion = &batch.tokens[row][p..];
            let start = micro.pack.len() as u32;
            if last > 0 {
                micro.pack.push_continuation(&completion[..last]);
                if let Some(soft) = &batch.soft {
                    micro.mix(soft, row, start as usize, last);
                }
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

/// Rows in runs of whole groups of about `limit` tokens; a prompt that neighbours share counts once.
pub(super) fn cut_between_groups(batch: &Batch, rows: &[usize], limit: usize) -> Vec<Vec<usize>> {
    let is_in: HashSet<usize> = rows.iter().copied().collect();
    let (mut parts, mut open, mut size): (Vec<Vec<usize>>, Vec<usize>, usize) = (Vec::new(), Vec::new(), 0);
    for group in batch.groups() {
        let members: Vec<usize> = group.filter(|i| is_in.contains(i)).collect();
        let mut cost = 0;
        for (place, &row) in members.iter().enumerate() {
            let (tokens, p) = (&batch.tokens[row], batch.prompt_len[row]);
            let before = place.checked_sub(1).map(|b| members[b]);
            let shares = before.is_some_and(|b| batch.tokens[b][..batch.prompt_len[b]] == tokens[..p]);
            cost += tokens.len() - if shares { p } else { 0 };
        }
        if !open.is_empty() && size + cost > limit {
            parts.push(std::mem::take(&mut open));
            size = 0;
        }
        open.extend(members);
        size += cost;
    }
    if !open.is_empty() {
        parts.push(open);
    }
    parts
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
    if needs.score_leaf {
        return super::score::gradient(policy, objective, batch, grads, dropout);
    }
    let is_live = live_rows(objective, batch);
    let units = units(objective, batch, &is_live, policy.micro_tokens);
    let teaching = objective.divergence().map(|d| Teaching::new(policy, batch, d)).transpose()?;
    let mut pull =
        Pull { decoder: &policy.decoder, batch, teaching, temperature, with_entropy: needs.entropy_leaf, grads };
    let pass = Pass { keep: policy.keep, dropout, ..Pass::SCORE };
    let mut update = Update::default();
    // Rows that are not run keep the values they were sampled with: their gradient is zero.
    let resting = |rows: &[usize]| -> Cells {
        let mut cells = Cells::new(rows.len(), batch.width(), &needs);
        if let Some(known) = batch.old_logp.as_ref().or(batch.sampling_logp.as_ref()) {
            for (i, &row) in rows.iter().enumerate().filter(|(_, row)| !is_live[**row]) {
                let values = known.row(row).iter().map(|v| if v.is_finite() { *v } else { 0.0 });
                cells.logp.row_mut(i).iter_mut().zip(values).for_each(|(to, from)| *to = from);
            }
        }
        cells
    };
    for Unit { rows, micros } in &units {
        update.tokens += micros.iter().map(|m| m.pack.len()).sum::<usize>();
        update.micro_batches += micros.len();
        let mut place = vec![usize::MAX; batch.rows()];
        rows.iter().enumerate().for_each(|(i, &row)| place[row] = i);
        let mut cells = resting(rows);
        // A tape is kept where there is one only; else it is made again after the loss is known.
        let is_only = micros.len() == 1;
        let keep = if is_only { pass.keep } else { Keep::Nothing };
        let mut only = None;
        for micro in micros {
            let (tape, values) = pull.forward(micro, Pass { keep, ..pass })?;
            cells.write(&values, micro, |row| place[row]);
            only = is_only.then_some((tape, values));
        }
        let part = if rows.len() == batch.rows() { Cow::Borrowed(batch) } else { Cow::Owned(batch.select(rows)) };
        let leaf = leaf_gradients(objective, &part, &cells, &mut update)?;
        for micro in micros {
            let (tape, values) = match only.take() {
                Some(kept) => kept,
                None => pull.forward(micro, pass)?,
            };
            pull.back(tape, micro, &values, &leaf.at(micro, |row| place[row]))?;
        }
    }
    Ok(update)
}

/// Rows whose loss is computed together, and the micro-batches that they are run in. Rows that rest are in none.
struct Unit {
    rows: Vec<usize>,
    micros: Vec<MicroBatch>,
}

/// The whole batch where all rows are coupled; else as few rows as the objective allows. A group of rollouts longer
/// than `limit` is run in several micro-batches, a pair in one.
fn units(objective: &dyn Objective, batch: &Batch, is_live: &[bool], limit: usize) -> Vec<Unit> {
    let all = || 0..batch.rows();
    let live: Vec<usize> = all().filter(|&i| is_live[i]).collect();
    if objective.couples_rows() {
        return vec![Unit { rows: all().collect(), micros: micro_batches(batch, &live, limit) }];
    }
    let mut units = Vec::new();
    if objective.couples_group() {
        let is_pairs = matches!(objective.rows(), Rows::Pairs { .. } | Rows::PassFail);
        for part in cut_between_groups(batch, &live, limit) {
            let groups: HashSet<usize> = part.iter().map(|&i| batch.group[i]).collect();
            let rows = all().filter(|&i| groups.contains(&batch.group[i])).collect();
            let micros = micro_batches(batch, &part, if is_pairs { usize::MAX } else { limit });
            units.push(Unit { rows, micros });
        }
    } else {
        let of = |micro: MicroBatch| Unit { rows: micro.rows.clone(), micros: vec![micro] };
        units.extend(micro_batches(batch, &live, limit).into_iter().map(of));
    }
    // The rows that are not run still count in the loss and the metrics.
    let mut is_seen = vec![false; batch.rows()];
    units.iter().flat_map(|unit| &unit.rows).for_each(|&row| is_seen[row] = true);
    let rest: Vec<usize> = all().filter(|&i| !is_seen[i]).collect();
    if !rest.is_empty() {
        units.push(Unit { rows: rest, micros: Vec::new() });
    }
    units
}

/// The first step whose gradient is not zero must reach every trainable parameter, but an embedding
/// table apart from the head where inputs are fixed.
pub(super) fn check_every_parameter(policy: &Policy, grads: &Grads, has_fixed_inputs: bool) -> Result<()> {
    let mut missing = grads.untouched(&policy.decoder.params)?;
    missing.retain(|name| !(has_fixed_inputs && *name == "model.embed_tokens.weight"));
    // B starts at zero, so A has no gradient in the very first step.
    missing.retain(|name| !name.contains(".lora_A."));
    ensure!(missing.is_empty(), "no gradient reaches {} trainable tensors, `{}` first", missing.len(), missing[0]);
    Ok(())
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

/// Values, or gradients, of every leaf, [N,T] each.
struct Cells {
    logp: Table,
    entropy: Option<Table>,
    divergence: Option<Table>,
}

impl Cells {
    fn new(rows: usize, width: usize, needs: &Needs) -> Self {
        let zeros = || Table::zeros(rows, width);
        let (entropy, divergence) = (needs.entropy_leaf.then(zeros), needs.divergence_leaf.then(zeros));
        Self { logp: zeros(), entropy, divergence }
    }

    fn write(&mut self, values: &[RowValue], micro: &MicroBatch, place: impl Fn(usize) -> usize) {
        for (value, &(row, t)) in values.iter().zip(&micro.cells) {
            self.logp.row_mut(place(row))[t] = value.logp;
            if let Some(entropy) = &mut self.entropy {
                entropy.row_mut(place(row))[t] = value.entropy;
            }
            if let Some(divergence) = &mut self.divergence {
                divergence.row_mut(place(row))[t] = value.divergence;
            }
        }
    }

    /// The gradient at each value of a micro-batch.
    fn at(&self, micro: &MicroBatch, place: impl Fn(usize) -> usize) -> Vec<RowGrad> {
        let of = |table: &Option<Table>, row: usize, t: usize| table.as_ref().map_or(0.0, |e| e.row(row)[t]);
        let grad = |&(row, t): &(usize, usize)| RowGrad {
            logp: self.logp.row(place(row))[t],
            entropy: of(&self.entropy, place(row), t),
            divergence: of(&self.divergence, place(row), t),
        };
        micro.cells.iter().map(grad).collect()
    }
}

/// The loss of a batch, and its gradient at every leaf.
fn leaf_gradients(objective: &dyn Objective, batch: &Batch, values: &Cells, update: &mut Update) -> Result<Cells> {
    let leaf = |table: &Table| -> Result<Var> { Ok(Var::from_tensor(&table.tensor()?)?) };
    let logp = leaf(&values.logp)?;
    let entropy = values.entropy.as_ref().map(leaf).transpose()?;
    let divergence = values.divergence.as_ref().map(leaf).transpose()?;
    let tensor = |var: &Option<Var>| var.as_ref().map(|v| v.as_tensor().clone());
    let leaves = Leaves {
        logp: logp.as_tensor().clone(),
        entropy: tensor(&entropy),
        divergence: tensor(&divergence),
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
    Ok(Cells {
        logp: table(&logp)?,
        entropy: entropy.as_ref().map(table).transpose()?,
        divergence: divergence.as_ref().map(table).transpose()?,
    })
}

/// Runs micro-batches forward and back.
struct Pull<'a> {
    decoder: &'a Decoder,
    batch: &'a Batch,
    /// What a teacher says of each token, where the objective asks for a divergence.
    teaching: Option<Teaching<'a>>,
    temperature: f64,
    with_entropy: bool,
    grads: &'a mut Grads,
}

impl Pull<'_> {
    fn token<'m>(&self, micro: &'m MicroBatch) -> TokenLogp<'m> {
        TokenLogp { tokens: &micro.targets, temperature: self.temperature, with_entropy: self.with_entropy }
    }

    fn forward(&self, micro: &MicroBatch, pass: Pass) -> Result<(Tape, Vec<RowValue>)> {
        let tape = self.decoder.forward(&micro.pack, pass)?;
        let token = self.token(micro);
        let values = match (&self.batch.soft, &self.teaching) {
            (_, Some(teaching)) => {
                let mut values = Vec::with_capacity(micro.at.len());
                for rows in chunks(micro.at.len()) {
                    let function = teaching.function(&token, micro, rows.clone())?;
                    values.extend(self.decoder.rows_forward(&tape.hidden, &micro.at[rows], &function)?);
                }
                values
            }
            (Some(soft), None) => {
                let function = SoftLogp { token, steps: &micro.steps(self.batch), density: soft.density };
                self.decoder.rows_forward(&tape.hidden, &micro.at, &function)?
            }
            (None, None) => self.decoder.rows_forward(&tape.hidden, &micro.at, &token)?,
        };
        if let Some(at) = values.iter().position(|v| !v.logp.is_finite()) {
            let (row, t) = micro.cells[at];
            anyhow::bail!(
                "the model gives a non-finite log-prob in row {row} at token {t}: lower `optim.learning_rate`"
            );
        }
        Ok((tape, values))
    }

    fn back(&mut self, tape: Tape, micro: &MicroBatch, values: &[RowValue], upstream: &[RowGrad]) -> Result<()> {
        if upstream.iter().all(RowGrad::is_zero) {
            return Ok(());
        }
        let d_hidden = self.head(&tape.hidden, micro, values, upstream);
        let d_hidden = d_hidden.context("the gradient cannot be pulled back through the head")?;
        self.decoder.backward(tape, &micro.pack, &d_hidden, self.grads)
    }

    /// The gradient at the hidden states [N,C].
    fn head(
        &mut self,
        hidden: &Tensor,
        micro: &MicroBatch,
        values: &[RowValue],
        upstream: &[RowGrad],
    ) -> Result<Tensor> {
        let (token, decoder, batch) = (self.token(micro), self.decoder, self.batch);
        let Some(teaching) = &self.teaching else {
            return match &batch.soft {
                Some(soft) => {
                    let function = SoftLogp { token, steps: &micro.steps(batch), density: soft.density };
                    decoder.rows_backward(hidden, &micro.at, &function, values, upstream, self.grads)
                }
                None => decoder.rows_backward(hidden, &micro.at, &token, values, upstream, self.grads),
            };
        };
        let d_hidden = hidden.zeros_like()?;
        for rows in chunks(micro.at.len()) {
            let function = teaching.function(&token, micro, rows.clone())?;
            let (at, values, upstream) = (&micro.at[rows.clone()], &values[rows.clone()], &upstream[rows]);
            add_in_place(&d_hidden, &decoder.rows_backward(hidden, at, &function, values, upstream, self.grads)?)?;
        }
        Ok(d_hidden)
    }
}

/// Runs of rows whose logits exist at one time.
fn chunks(rows: usize) -> impl Iterator<Item = Range<usize>> {
    (0..rows).step_by(ROWS_A_CHUNK).map(move |first| first..(first + ROWS_A_CHUNK).min(rows))
}
