//! A teacher's next-token distributions: taken from the reference model, and compared with the policy's.
//!
//! The scoring pass keeps either the teacher's final hidden states, of which its head makes
//! distributions again a chunk of rows at a time, or a few tokens of each distribution. [N,T,V] never exists.

use std::ops::Range;

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Tensor};
use candlewick_algorithms::Batch;
use candlewick_algorithms::batch::{Distributions, TeacherNeed, TeacherRow};
use candlewick_algorithms::rng::Rng;
use candlewick_algorithms::row::divergence::{Distilled, Divergence, Teacher};
use candlewick_algorithms::row::token::{RunningSums, TokenLogp, top_k};
use candlewick_algorithms::row::{Real, RowFunction, RowGrad, RowValue};

use super::policy::{Policy, Reference};
use super::update::{MicroBatch, micro_batches};
use crate::model::decoder::{Decoder, Pass};
use crate::model::head::ROWS_A_CHUNK;
use crate::model::ops::{Float, View};

mod cache;

pub(super) use cache::TeacherTokens;
pub use cache::bytes_a_token;

impl Policy {
    /// The reference model, and whether the adapter takes part in it.
    pub(super) fn reference_model(&self) -> Result<(&Decoder, bool)> {
        match &self.reference {
            Reference::Model(decoder) => Ok((decoder, true)),
            Reference::AdapterOff => Ok((&self.decoder, false)),
            #[cfg(feature = "gguf")]
            Reference::Quantised(_) => anyhow::bail!(
                "a quantised reference gives log-probs of tokens, not distributions: use `mode` = \"policy_gradient\", or a safetensors teacher"
            ),
            Reference::Nothing => anyhow::bail!("a reference is needed but no reference model was loaded"),
        }
    }

    /// What a loss needs of the teacher's distributions, a row of the batch each. The draws of `Sampled` are keyed
    /// by the row's tokens and the position.
    pub(super) fn teach(&self, batch: &Batch, need: TeacherNeed) -> Result<Vec<TeacherRow>> {
        let (decoder, has_adapter) = self.reference_model()?;
        if let TeacherNeed::TopK(k) | TeacherNeed::Sampled(k) = need {
            let vocabulary = decoder.spec.vocab_size;
            ensure!(
                k <= vocabulary,
                "`objective.distill.top_k` = {k} is more than the teacher's vocabulary of {vocabulary}: lower it"
            );
        }
        let nothing = || TeacherRow {
            positions: Vec::new(),
            distributions: Distributions::Sparse { k: 0, ids: Vec::new(), logp: Vec::new() },
        };
        let mut rows: Vec<TeacherRow> = (0..batch.rows()).map(|_| nothing()).collect();
        let all: Vec<usize> = (0..batch.rows()).collect();
        for micro in micro_batches(batch, &all, self.micro_tokens) {
            let tape = decoder.forward(&micro.pack, Pass { has_adapter, ..Pass::SCORE })?;
            for &row in &micro.rows {
                let of: Vec<usize> = (0..micro.cells.len()).filter(|&c| micro.cells[c].0 == row).collect();
                let at: Vec<u32> = of.iter().map(|&c| micro.at[c]).collect();
                let states = tape.hidden.index_select(&Tensor::new(at, tape.hidden.device())?, 0)?; // [n,d]
                rows[row].positions = of.iter().map(|&c| micro.cells[c].1 as u32).collect();
                rows[row].distributions = match need {
                    TeacherNeed::Full => Distributions::Hidden(states),
                    TeacherNeed::TopK(k) => named(decoder, &states, k, None)?,
                    TeacherNeed::Sampled(k) => named(decoder, &states, k, Some(&batch.tokens[row]))?,
                };
            }
        }
        Ok(rows)
    }
}

/// k tokens of the distribution at each hidden state [n,d]: the most likely, or drawn with a key.
fn named(decoder: &Decoder, states: &Tensor, k: usize, key: Option<&Vec<u32>>) -> Result<Distributions> {
    let (mut ids, mut logp) = (Vec::new(), Vec::new());
    let n = states.dim(0)?;
    for first in (0..n).step_by(ROWS_A_CHUNK) {
        let logits = decoder.rows_logits(&states.narrow(0, first, ROWS_A_CHUNK.min(n - first))?)?;
        match logits.dtype() {
            DType::F64 => name_rows::<f64>(&logits, first, k, key, &mut ids, &mut logp)?,
            _ => name_rows::<f32>(&logits, first, k, key, &mut ids, &mut logp)?,
        }
    }
    Ok(Distributions::Sparse { k, ids, logp })
}

fn name_rows<F: Float>(
    logits: &Tensor,
    first: usize,
    k: usize,
    key: Option<&Vec<u32>>,
    ids: &mut Vec<u32>,
    logp: &mut Vec<f32>,
) -> Result<()> {
    let v = logits.dim(1)?;
    for (i, row) in View::<F>::new(logits)?.chunks(v).enumerate() {
        let Some(tokens) = key else {
            let top = top_k(row, k, 1.0);
            ids.extend(top.ids);
            logp.extend(top.logp.iter().map(|&l| l as f32));
            continue;
        };
        let lse = RunningSums::of(row, 1.0).lse();
        let place = (first + i) as u64;
        let text =
            tokens.iter().fold(0xcbf2_9ce4_8422_2325_u64, |h, &t| (h ^ u64::from(t)).wrapping_mul(0x100_0000_01b3));
        let mut rng = Rng::keyed(&[0x7eac, text, place]);
        // Sorted targets meet the running sum in one pass.
        let mut targets: Vec<f64> = (0..k).map(|_| rng.uniform()).collect();
        targets.sort_unstable_by(f64::total_cmp);
        let (mut sum, mut next) = (0.0, 0);
        for (id, z) in row.iter().enumerate() {
            let l = z.wide() - lse;
            sum += l.exp();
            let is_last = id + 1 == v;
            while next < k && (targets[next] < sum || is_last) {
                ids.push(id as u32);
                logp.push(l as f32);
                next += 1;
            }
        }
    }
    Ok(())
}

/// A teacher's distributions over the tokens of a batch, ready to compare with.
pub(super) struct Teaching<'a> {
    decoder: &'a Decoder,
    rows: &'a [TeacherRow],
    divergence: Divergence,
}

impl<'a> Teaching<'a> {
    pub(super) fn new(policy: &'a Policy, batch: &'a Batch, divergence: Divergence) -> Result<Self> {
        let rows = batch.teacher.as_deref().context("the teacher's distributions were not taken before this update")?;
        let needs_head = rows.iter().any(|r| matches!(r.distributions, Distributions::Hidden(_)));
        let decoder = if needs_head { policy.reference_model()?.0 } else { &policy.decoder };
        Ok(Self { decoder, rows, divergence })
    }

    /// The row function of a run of a micro-batch's values.
    pub(super) fn function<'m>(
        &'m self,
        token: &TokenLogp<'m>,
        micro: &'m MicroBatch,
        run: Range<usize>,
    ) -> Result<Taught<'m>> {
        let token = TokenLogp { tokens: &token.tokens[run.clone()], ..*token };
        let cells = &micro.cells[run];
        let mut states = Vec::new();
        let mut sparse = Vec::new();
        for &(row, t) in cells {
            let teacher = &self.rows[row];
            let missing = || format!("the teacher says nothing of token {t} in row {row}");
            match &teacher.distributions {
                Distributions::Hidden(hidden) => {
                    states.push(hidden.narrow(0, teacher.place(t).with_context(missing)?, 1)?);
                }
                Distributions::Sparse { .. } => sparse.push(teacher.sparse(t).with_context(missing)?),
            }
        }
        ensure!(states.is_empty() || sparse.is_empty(), "a batch has one kind of teacher");
        let logits = match states.is_empty() {
            true => None,
            false => Some(self.decoder.rows_logits(&Tensor::cat(&states, 0)?)?),
        };
        let (narrow, wide) = match &logits {
            None => (Vec::new(), Vec::new()),
            Some(logits) if logits.dtype() == DType::F64 => (Vec::new(), View::<f64>::new(logits)?.to_vec()),
            Some(logits) => (View::<f32>::new(logits)?.to_vec(), Vec::new()),
        };
        Ok(Taught { token, divergence: self.divergence, narrow, wide, sparse })
    }
}

/// Log-prob of the chosen token and divergence from the teacher, for rows that start at 0.
pub(super) struct Taught<'m> {
    token: TokenLogp<'m>,
    divergence: Divergence,
    /// The teacher's logits in f32, [R,V]; empty unless that is what there is.
    narrow: Vec<f32>,
    /// The same in f64.
    wide: Vec<f64>,
    sparse: Vec<(&'m [u32], &'m [f32])>,
}

impl Taught<'_> {
    fn teacher<'t, F>(&'t self, logits: &'t [F], row: usize) -> Teacher<'t, F> {
        match self.sparse.get(row) {
            Some((ids, logp)) => Teacher::Sparse { ids, logp },
            None => {
                let v = logits.len() / self.token.tokens.len();
                Teacher::Full(&logits[row * v..(row + 1) * v])
            }
        }
    }

    /// The same for one row alone, which is then row 0.
    fn row<F: Real, T>(&self, logits: &[F], row: usize, run: impl FnOnce(&Distilled<F>) -> T) -> T {
        let token = TokenLogp { tokens: &self.token.tokens[row..row + 1], ..self.token };
        let teachers = [self.teacher(logits, row)];
        run(&Distilled { token, teachers: &teachers, divergence: self.divergence })
    }
}

impl RowFunction<f32> for Taught<'_> {
    fn forward(&self, row: usize, logits: &[f32]) -> RowValue {
        self.row(&self.narrow, row, |f| f.forward(0, logits))
    }

    fn backward(&self, row: usize, logits: &mut [f32], value: &RowValue, grad: &RowGrad) {
        self.row(&self.narrow, row, |f| f.backward(0, logits, value, grad));
    }
}

impl RowFunction<f64> for Taught<'_> {
    fn forward(&self, row: usize, logits: &[f64]) -> RowValue {
        self.row(&self.wide, row, |f| f.forward(0, logits))
    }

    fn backward(&self, row: usize, logits: &mut [f64], value: &RowValue, grad: &RowGrad) {
        self.row(&self.wide, row, |f| f.backward(0, logits, value, grad));
    }
}
