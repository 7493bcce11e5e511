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
    pub(super) fn weigh_rewards(&mut self, batch: &Batch, metrics: &mut Step) -> Result<()> {
        let Some(advantage) = &mut self.stages.advantage else { return Ok(()) };
        let Some(parts) = advantage.parts(batch)? else { return Ok(()) };
        let started = Instant::now();
        let (params, mut each) = (&self.policy.decoder.params, Vec::with_capacity(parts.len()));
        for part in parts {
            let mut alone = batch.clone();
            alone.advantage = Some(part);
            if let Some(credit) = &mut self.stages.credit {
                credit.apply(&mut alone)?;
            }
            self.stages.objective.prepare(&mut alone)?;
            alone.count_totals();
            let (mut grads, temperature) = (Grads::new(params), self.sampling.scoring_temperature());
            let update = gradient(&self.policy, self.stages.objective.as_ref(), &alone, &mut grads, temperature, None)?;
            self.state.trained_tokens += update.tokens as u64;
            each.push(grads);
        }
        let mut gram = vec![vec![0.0; each.len()]; each.len()];
        for j in 0..each.len() {
            for k in 0..=j {
                gram[j][k] = each[j].dot(&each[k])?;
                gram[k][j] = gram[j][k];
            }
        }
        metrics.set("time/advantage_gradients", started.elapsed().as_secs_f64());
        Ok(advantage.weigh(&batch.scores.names, &gram)?)
    }
}
