//! Completions as rows of a batch.

use anyhow::{Context, Result};
use candlewick_algorithms::batch::{Scores, Soft, Verdict};
use candlewick_algorithms::budget::tokens::Plan;
use candlewick_algorithms::{Batch, Table};
use candlewick_rewards::Graded;

use super::Run;
use crate::rollout::Completion;
use crate::train::probe::Shown;

impl Run<'_> {
    /// A row for each completion, grouped by the place of its prompt in the pool.
    pub(super) fn batch(
        &self,
        completions: &[Completion],
        prompts: &[usize],
        shown: &[Shown],
        plan: Plan,
        graded: &Graded,
    ) -> Result<Batch> {
        let ones: Vec<Vec<f64>> = completions.iter().map(|c| vec![1.0; c.tokens.len()]).collect();
        let groups = completions.iter().map(|c| prompts[c.request]).collect();
        let mut batch = Batch::new(Table::ragged(&ones, 0.0), groups)?;
        for (i, c) in completions.iter().enumerate() {
            let prompt = &shown[c.request].tokens;
            batch.tokens[i] = prompt.iter().chain(&c.tokens).copied().collect();
            batch.prompt_len[i] = prompt.len();
            batch.finish[i] = c.finish;
            batch.told[i] = plan.told;
            batch.verdict[i] = match graded.verdict[i] {
                Some(v) if v > 0.5 => Verdict::Right,
                Some(_) => Verdict::Wrong,
                None => Verdict::Missing,
            };
        }
        batch.max_completion = plan.cap;
        batch.vocabulary = Some(self.policy.decoder.spec.vocab_size);
        self.soften(&mut batch, completions)?;
        let logp: Vec<&[f64]> = completions.iter().map(|c| c.logp.as_slice()).collect();
        batch.sampling_logp = Some(Table::ragged(&logp, 0.0));
        batch.scores = Scores {
            names: self.rewards.names().into_iter().map(str::to_owned).collect(),
            values: (0..completions.len())
                .map(|i| graded.scores.iter().map(|column| column[i].as_ref().ok().copied()).collect())
                .collect(),
        };
        Ok(batch)
    }

    /// Adds the soft steps of the completions, if steps are soft.
    fn soften(&self, batch: &mut Batch, completions: &[Completion]) -> Result<()> {
        let Some(thinking) = &self.thinking else { return Ok(()) };
        let density = thinking.density.context("[rollout.soft], as it is set, makes mixtures without a density")?;
        let rows: Vec<_> = completions.iter().map(|c| c.soft.clone()).collect();
        let flags: Vec<Vec<f64>> = rows.iter().map(|r| vec![1.0; r.len()]).collect();
        let mut is_soft = Table::zeros(batch.rows(), batch.width());
        flags.iter().enumerate().for_each(|(i, row)| is_soft.row_mut(i)[..row.len()].copy_from_slice(row));
        batch.is_soft = Some(is_soft);
        let trains_inputs = self.online.rollout.soft().is_some_and(|s| s.trains_inputs);
        batch.soft = Some(Soft { rows, density, tau: thinking.noise.tau, trains_inputs });
        Ok(())
    }
}

/// One batch of several, rows in order, padded to the widest.
pub(super) fn join(parts: &[Batch]) -> Result<Batch> {
    let rows = |f: &dyn Fn(&Batch, usize) -> Vec<f64>| -> Table {
        let all: Vec<Vec<f64>> =
            parts.iter().flat_map(|p| (0..p.rows()).map(|i| f(p, i)).collect::<Vec<_>>()).collect();
        Table::ragged(&all, 0.0)
    };
    let mut groups = Vec::new();
    for part in parts {
        groups.extend_from_slice(&part.group);
    }
    let mut batch = Batch::new(rows(&|p, i| p.mask.row(i).to_vec()), groups)?;
    batch.sampling_logp = Some(rows(&|p, i| p.sampling_logp.as_ref().map(|t| t.row(i).to_vec()).unwrap_or_default()));
    batch.max_completion = parts.iter().map(|p| p.max_completion).max().unwrap_or(0);
    batch.vocabulary = parts.first().and_then(|p| p.vocabulary);
    if let Some(first) = parts.iter().find_map(|p| p.soft.as_ref()) {
        batch.is_soft = Some(rows(&|p, i| p.is_soft.as_ref().map(|t| t.row(i).to_vec()).unwrap_or_default()));
        let all = parts.iter().filter_map(|p| p.soft.as_ref()).flat_map(|s| s.rows.iter().cloned()).collect();
        batch.soft = Some(Soft { rows: all, ..first.clone() });
    }
    let mut at = 0;
    batch.scores.names = parts.first().map(|p| p.scores.names.clone()).unwrap_or_default();
    for part in parts {
        for i in 0..part.rows() {
            batch.tokens[at] = part.tokens[i].clone();
            batch.prompt_len[at] = part.prompt_len[i];
            batch.finish[at] = part.finish[i];
            batch.told[at] = part.told[i];
            batch.role[at] = part.role[i];
            batch.pair[at] = part.pair[i];
            batch.verdict[at] = part.verdict[i];
            batch.scores.values[at] = part.scores.values[i].clone();
            at += 1;
        }
    }
    Ok(batch)
}
