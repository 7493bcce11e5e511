//! The one table of a training step: a row is a completion, a stage adds columns.
//!
//! Rollouts fill the first columns, the reward stage `scores` and `verdict`, the scoring pass
//! whatever [`Needs`] asked for, the advantage stage `advantage` and `keep`, the credit stage
//! `credit`. Groups may differ in size everywhere. A preference pair is a group of two, a ranked
//! list a group of K. Masks are carried, never inferred from pad ids.

use std::ops::Range;

use candle_core::Tensor;

use crate::row::soft::{Density, SoftSteps};
use crate::{Error, Result, Table};

/// How a completion ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// An end-of-sequence token, which belongs to the completion and is trained on.
    Eos,
    /// The cap on new tokens, or the context, was reached first.
    Length,
    /// A stop string.
    Stop,
}

/// Where a row comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Sampled from the policy.
    Sample,
    /// Sampled from the policy for the hard prompt of a pair.
    Hard,
    /// Sampled from the policy for the easy prompt of a pair.
    Easy,
    /// A demonstration to imitate.
    Demonstration,
    /// The preferred member of a pair.
    Chosen,
    /// The other member of a pair.
    Rejected,
    /// A member of a ranked list, best first.
    Ranked,
    /// An answer marked as good, not compared with another.
    Desirable,
    /// An answer marked as bad, not compared with another.
    Undesirable,
    /// An answer put to another prompt than its own, to see how far the policy has moved; no gradient.
    Mismatched,
    /// A prompt by itself, where its tokens are learnt too.
    Prompt,
}

/// What the reward named by `[reward] verdict` said of a completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Right.
    Right,
    /// Wrong.
    Wrong,
    /// Nobody could tell: no binary reward, or it failed on this row.
    Missing,
}

/// What a stage asks the scoring pass to add to the batch, or a loss to be given as a leaf.
///
/// The union over the stages of a run decides which forward passes are made and whether a
/// reference model is loaded at all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needs {
    /// Log-probs under the policy that starts this optimisation phase.
    pub old_logp: bool,
    /// Log-probs under the reference model.
    pub ref_logp: bool,
    /// Log-probs recorded while sampling (full softmax at the sampling temperature).
    pub sampling_logp: bool,
    /// Entropy of the next-token distribution as a constant column.
    pub entropy: bool,
    /// Entropy as a leaf that carries gradient.
    pub entropy_leaf: bool,
    /// Hidden states that the completion tokens are predicted from, at this layer: 0 = embeddings, L =
    /// after the last block and before the final norm; negative from the end, -1 = L.
    pub hidden: Option<i32>,
    /// Divergence from a teacher as a leaf.
    pub divergence_leaf: bool,
    /// What of a teacher's distributions that divergence is taken from.
    pub teacher: Option<TeacherNeed>,
    /// Divergence between the rollouts of a group, a constant column.
    pub group_divergence: bool,
    /// Log-probs of the prompt's own tokens.
    pub prompt_logp: bool,
    /// A scalar score a row (reward models) as a leaf.
    pub score_leaf: bool,
    /// Log of the sum of squared next-token probabilities as a constant column.
    pub log_sum_sq: bool,
}

impl Needs {
    /// Whether a reference (or teacher) model is run.
    pub fn reference(&self) -> bool {
        self.ref_logp || self.teacher.is_some()
    }

    /// Everything that either asks for.
    pub fn union(&self, other: &Self) -> Self {
        Self {
            old_logp: self.old_logp || other.old_logp,
            ref_logp: self.ref_logp || other.ref_logp,
            sampling_logp: self.sampling_logp || other.sampling_logp,
            entropy: self.entropy || other.entropy,
            entropy_leaf: self.entropy_leaf || other.entropy_leaf,
            hidden: self.hidden.or(other.hidden),
            divergence_leaf: self.divergence_leaf || other.divergence_leaf,
            teacher: self.teacher.or(other.teacher),
            group_divergence: self.group_divergence || other.group_divergence,
            prompt_logp: self.prompt_logp || other.prompt_logp,
            score_leaf: self.score_leaf || other.score_leaf,
            log_sum_sq: self.log_sum_sq || other.log_sum_sq,
        }
    }
}

/// How much of a teacher's distributions is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TeacherNeed {
    /// All of it, as the final hidden states that its head makes distributions of.
    Full,
    /// The k most likely tokens.
    TopK(usize),
    /// k tokens drawn from it, with repetition.
    Sampled(usize),
}

/// A teacher's distributions at some positions of a completion.
#[derive(Debug, Clone)]
pub struct TeacherRow {
    /// The columns of the batch that they belong to, rising, [n].
    pub positions: Vec<u32>,
    /// What is known of them.
    pub distributions: Distributions,
}

/// A teacher's distributions, one for each of n positions.
#[derive(Debug, Clone)]
pub enum Distributions {
    /// Final hidden states, [n,d].
    Hidden(Tensor),
    /// Some tokens of each.
    Sparse {
        /// Tokens a position.
        k: usize,
        /// Their ids, [n,k].
        ids: Vec<u32>,
        /// Their log-probs over the whole vocabulary, [n,k].
        logp: Vec<f32>,
    },
}

impl TeacherRow {
    /// The place among `positions` of a column.
    pub fn place(&self, column: usize) -> Option<usize> {
        self.positions.binary_search(&(column as u32)).ok()
    }

    /// Ids and log-probs at a column, if they are kept as such.
    pub fn sparse(&self, column: usize) -> Option<(&[u32], &[f32])> {
        let Distributions::Sparse { k, ids, logp } = &self.distributions else { return None };
        let at = self.place(column)? * k;
        Some((&ids[at..at + k], &logp[at..at + k]))
    }
}

/// Soft steps of a batch and what is common to them.
#[derive(Debug, Clone)]
pub struct Soft {
    /// The soft steps at the head of each completion, [N].
    pub rows: Vec<SoftSteps>,
    /// The log-density of a step.
    pub density: Density,
    /// Temperature of the softmax that makes mixing weights of noisy scores.
    pub tau: f64,
    /// Whether gradients reach the embedding table through the inputs.
    pub trains_inputs: bool,
}

/// Scores of every reward function, [N,K]; `None` where the function failed or does not apply.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Scores {
    /// Names of the K reward functions, as in the config.
    pub names: Vec<String>,
    /// Row by row, one entry a name.
    pub values: Vec<Vec<Option<f64>>>,
}

/// The advantage of each row, or of each token.
#[derive(Debug, Clone, PartialEq)]
pub enum Advantages {
    /// One value a row, [N], broadcast over its tokens.
    Row(Vec<f64>),
    /// One value a token, [N,T].
    Token(Table),
}

/// Counts over the whole optimiser step, the divisors of global aggregations.
///
/// Micro-batches cut from a step carry the totals of that step, so a loss summed over
/// micro-batches equals the loss of the whole.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Totals {
    /// Rows with `keep`.
    pub rows: usize,
    /// Kept rows with at least one unmasked token.
    pub nonempty_rows: usize,
    /// Unmasked tokens of kept rows.
    pub tokens: usize,
    /// Groups with at least one kept row.
    pub groups: usize,
    /// Unmasked tokens of kept rows that are chosen answers, or prompts to be learnt.
    pub chosen_tokens: usize,
}

/// One table of rows; see the module's text for who fills what.
#[derive(Debug, Clone)]
pub struct Batch {
    /// Group (prompt) of each row, [N]; equal ids are one group, contiguous in row order.
    pub group: Vec<usize>,
    /// Where each row comes from, [N].
    pub role: Vec<Role>,
    /// Pair that a row belongs to, [N]: its number in the data, the same in every epoch.
    pub pair: Vec<Option<usize>>,
    /// Share of raters who preferred the chosen answer of a pair, in [0,1], on its chosen row, [N].
    pub label: Vec<Option<f64>>,
    /// By how much the chosen answer is better, on its chosen row, [N].
    pub margin: Vec<Option<f64>>,
    /// Prompt and completion tokens of each row, unpadded, [N].
    pub tokens: Vec<Vec<u32>>,
    /// Number of prompt tokens at the head of `tokens`, [N].
    pub prompt_len: Vec<usize>,
    /// 1 on completion tokens that count, up to and including the first EOS; 0 on padding and on
    /// everything left out, [N,T].
    pub mask: Table,
    /// Whether a step was soft (a mixture of embeddings instead of a token), [N,T] of 0/1.
    pub is_soft: Option<Table>,
    /// The soft steps themselves; `is_soft` says where they are.
    pub soft: Option<Soft>,
    /// How each completion ended, [N].
    pub finish: Vec<Finish>,
    /// Length that the prompt told the model, in tokens, [N].
    pub told: Vec<Option<usize>>,
    /// Most tokens a completion of this batch could have had: the divisor of `dr_grpo`.
    pub max_completion: usize,
    /// Number of tokens that the model knows, V.
    pub vocabulary: Option<usize>,
    /// Scores of the reward functions, [N,K].
    pub scores: Scores,
    /// Right or wrong, [N].
    pub verdict: Vec<Verdict>,
    /// See [`Needs::old_logp`], [N,T].
    pub old_logp: Option<Table>,
    /// See [`Needs::ref_logp`], [N,T].
    pub ref_logp: Option<Table>,
    /// See [`Needs::sampling_logp`], [N,T]; NaN where the engine did not report one.
    pub sampling_logp: Option<Table>,
    /// See [`Needs::entropy`], [N,T] in nats.
    pub entropy: Option<Table>,
    /// See [`Needs::log_sum_sq`], [N,T].
    pub log_sum_sq: Option<Table>,
    /// See [`Needs::group_divergence`], [N,T].
    pub group_divergence: Option<Table>,
    /// Sum of the log-probs of the prompt's tokens, [N].
    pub prompt_logp: Option<Vec<f64>>,
    /// Hidden states that each row's unmasked tokens are predicted from, f32 [n_i, d] for each row.
    pub hidden: Option<Vec<Tensor>>,
    /// See [`Needs::teacher`], a row's own entry each, [N].
    pub teacher: Option<Vec<TeacherRow>>,
    /// The mixed reward of each row, `None` where no function scored it, [N]; filled by the advantage
    /// estimators that read scores.
    pub reward: Option<Vec<Option<f64>>>,
    /// Advantages, filled by the advantage stage.
    pub advantage: Option<Advantages>,
    /// Rows that take part in the loss, [N]; a row left out is in no divisor.
    pub keep: Vec<bool>,
    /// Token weights that multiply the advantage, [N,T], filled by the credit stage.
    pub credit: Option<Table>,
    /// Counts over the whole optimiser step, `None` until [`Batch::count_totals`].
    pub totals: Option<Totals>,
}

impl Batch {
    /// A batch that holds a mask [N,T] and the group of each row, and nothing else yet.
    pub fn new(mask: Table, group: Vec<usize>) -> Result<Self> {
        let n = mask.rows();
        if group.len() != n {
            return Err(Error::Shape {
                what: "groups of a batch".into(),
                expected: format!("{n} rows"),
                found: format!("{}", group.len()),
            });
        }
        let max_completion = mask.cols();
        Ok(Self {
            group,
            role: vec![Role::Sample; n],
            pair: vec![None; n],
            label: vec![None; n],
            margin: vec![None; n],
            tokens: vec![Vec::new(); n],
            prompt_len: vec![0; n],
            mask,
            is_soft: None,
            soft: None,
            finish: vec![Finish::Eos; n],
            told: vec![None; n],
            max_completion,
            vocabulary: None,
            scores: Scores { names: Vec::new(), values: vec![Vec::new(); n] },
            verdict: vec![Verdict::Missing; n],
            old_logp: None,
            ref_logp: None,
            sampling_logp: None,
            entropy: None,
            log_sum_sq: None,
            group_divergence: None,
            prompt_logp: None,
            hidden: None,
            teacher: None,
            reward: None,
            advantage: None,
            keep: vec![true; n],
            credit: None,
            totals: None,
        })
    }

    /// Number of rows, N.
    pub fn rows(&self) -> usize {
        self.mask.rows()
    }

    /// Padded completion length, T.
    pub fn width(&self) -> usize {
        self.mask.cols()
    }

    /// Unmasked tokens of a row, n_i.
    pub fn row_tokens(&self, row: usize) -> f64 {
        self.mask.row(row).iter().sum()
    }

    /// Rows of each group, in row order, as ranges of equal `group` ids.
    pub fn groups(&self) -> Vec<Range<usize>> {
        let mut ranges: Vec<Range<usize>> = Vec::new();
        for i in 0..self.rows() {
            match ranges.last_mut() {
                Some(last) if self.group[last.start] == self.group[i] => last.end = i + 1,
                _ => ranges.push(i..i + 1),
            }
        }
        ranges
    }

    /// The mask with dropped rows blanked: what a loss sums over, [N,T].
    pub fn kept_mask(&self) -> Table {
        let mut mask = self.mask.clone();
        for (i, &keep) in self.keep.iter().enumerate() {
            if !keep {
                mask.row_mut(i).fill(0.0);
            }
        }
        mask
    }

    /// Counts rows, tokens and groups that are kept, of this very batch.
    pub fn own_totals(&self) -> Totals {
        let mut totals = Totals::default();
        for group in self.groups() {
            totals.groups += usize::from(group.clone().any(|i| self.keep[i]));
            for i in group.filter(|&i| self.keep[i]) {
                let tokens = self.row_tokens(i).round() as usize;
                totals.rows += 1;
                totals.nonempty_rows += usize::from(tokens > 0);
                totals.tokens += tokens;
                if matches!(self.role[i], Role::Chosen | Role::Prompt) {
                    totals.chosen_tokens += tokens;
                }
            }
        }
        totals
    }

    /// Fixes the totals of an optimiser step, before it is cut into micro-batches.
    pub fn count_totals(&mut self) {
        self.totals = Some(self.own_totals());
    }

    /// The step's totals: those fixed by [`Batch::count_totals`], or this batch's own.
    pub fn step_totals(&self) -> Totals {
        self.totals.unwrap_or_else(|| self.own_totals())
    }

    /// The advantage of every token, [N,T].
    pub fn token_advantage(&self, stage: &'static str) -> Result<Table> {
        match &self.advantage {
            None => Err(Error::MissingColumn { stage, column: "advantage" }),
            Some(Advantages::Token(table)) => Ok(table.clone()),
            Some(Advantages::Row(row)) => {
                let mut table = Table::zeros(self.rows(), self.width());
                for (i, &a) in row.iter().enumerate() {
                    table.row_mut(i).fill(a);
                }
                Ok(table)
            }
        }
    }

    /// A column that a stage declared it needs.
    pub fn column<'a>(&self, stage: &'static str, column: &'static str, value: &'a Option<Table>) -> Result<&'a Table> {
        value.as_ref().ok_or(Error::MissingColumn { stage, column })
    }

    /// The rows named, in that order, with the totals of the step they are cut from.
    pub fn select(&self, rows: &[usize]) -> Self {
        fn pick<T: Clone>(column: &[T], rows: &[usize]) -> Vec<T> {
            rows.iter().map(|&i| column[i].clone()).collect()
        }
        let table = |t: &Option<Table>| t.as_ref().map(|t| t.select(rows));
        Self {
            group: pick(&self.group, rows),
            role: pick(&self.role, rows),
            pair: pick(&self.pair, rows),
            label: pick(&self.label, rows),
            margin: pick(&self.margin, rows),
            tokens: pick(&self.tokens, rows),
            prompt_len: pick(&self.prompt_len, rows),
            mask: self.mask.select(rows),
            is_soft: table(&self.is_soft),
            soft: self.soft.as_ref().map(|soft| Soft { rows: pick(&soft.rows, rows), ..soft.clone() }),
            finish: pick(&self.finish, rows),
            told: pick(&self.told, rows),
            max_completion: self.max_completion,
            vocabulary: self.vocabulary,
            scores: Scores { names: self.scores.names.clone(), values: pick(&self.scores.values, rows) },
            verdict: pick(&self.verdict, rows),
            old_logp: table(&self.old_logp),
            ref_logp: table(&self.ref_logp),
            sampling_logp: table(&self.sampling_logp),
            entropy: table(&self.entropy),
            log_sum_sq: table(&self.log_sum_sq),
            group_divergence: table(&self.group_divergence),
            prompt_logp: self.prompt_logp.as_ref().map(|v| pick(v, rows)),
            hidden: self.hidden.as_ref().map(|v| pick(v, rows)),
            teacher: self.teacher.as_ref().map(|v| pick(v, rows)),
            reward: self.reward.as_ref().map(|v| pick(v, rows)),
            advantage: self.advantage.as_ref().map(|a| match a {
                Advantages::Row(v) => Advantages::Row(pick(v, rows)),
                Advantages::Token(t) => Advantages::Token(t.select(rows)),
            }),
            keep: pick(&self.keep, rows),
            credit: table(&self.credit),
            totals: self.totals,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_runs_of_equal_ids_and_select_keeps_step_totals() {
        let mut batch = Batch::new(Table::filled(5, 3, 1.0), vec![4, 4, 9, 1, 1]).unwrap();
        batch.keep[1] = false;
        batch.mask.row_mut(3).fill(0.0);
        batch.count_totals();
        assert_eq!(batch.groups(), vec![0..2, 2..3, 3..5]);
        let totals = Totals { rows: 4, nonempty_rows: 3, tokens: 9, groups: 3, chosen_tokens: 0 };
        assert_eq!(batch.step_totals(), totals);
        let part = batch.select(&[3, 4]);
        assert_eq!(part.groups(), vec![0..2]);
        assert_eq!(part.step_totals(), totals);
        assert_eq!(part.own_totals(), Totals { rows: 2, nonempty_rows: 1, tokens: 3, groups: 1, chosen_tokens: 0 });
    }
}
