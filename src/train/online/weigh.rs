//! What each reward alone would change, for mixers that weigh rewards by their gradients.

use std::time::Instant;

use anyhow::Result;
use candlewick_algorithms::Batch;

use super::Run;
use crate::model::params::Grads;
use crate::train::metrics::Step;
use crate::train::update::gradient;

impl Run<'_> {
    /// Hands a mixer that asks for them the gradients of each reward, as their Gram matrix.
    ///
    /// Nothing else moves by it: each gradient is of an objective apart from the one that trains.
    pub(super) fn weigh_rewards(&mut self, batch: &Batch, metrics: &mut Step) -> Result<()> {
        let Some(advantage) = &mut self.stages.advantage else { return Ok(()) };
        let Some(parts) = advantage.parts(batch)? else { return Ok(()) };
        let started = Instant::now();
        let mut each = Vec::with_capacity(parts.len());
        for alone in parts {
            each.push(self.gradient_alone(alone)?);
        }
        let mut gram = vec![vec![0.0; each.len()]; each.len()];
        for j in 0..each.len() {
            for k in 0..=j {
                gram[j][k] = each[j].dot(&each[k])?;
                gram[k][j] = gram[j][k];
            }
        }
        metrics.set("time/advantage_gradients", started.elapsed().as_secs_f64());
        if let Some(advantage) = &mut self.stages.advantage {
            advantage.weigh(&batch.scores.names, &gram)?;
        }
        Ok(())
    }

    /// The gradient that a batch with the advantages of one reward would give.
    fn gradient_alone(&mut self, mut batch: Batch) -> Result<Grads> {
        if let Some(credit) = &mut self.stages.credit {
            credit.apply(&mut batch)?;
        }
        let mut objective = self.stages.objective_apart(&self.config.objective)?;
        objective.prepare(&mut batch)?;
        batch.count_totals();
        let (mut grads, temperature) = (Grads::new(&self.policy.decoder.params), self.sampling.scoring_temperature());
        let update = gradient(&self.policy, objective.as_ref(), &batch, &mut grads, temperature, None)?;
        self.state.trained_tokens += update.tokens as u64;
        Ok(grads)
    }
}
