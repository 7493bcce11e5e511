//! What a step changes: optimiser steps over minibatches, watched for gradients that are missing.

use anyhow::{Result, ensure};
use candlewick_algorithms::Batch;
use candlewick_algorithms::batch::Advantages;

use super::Run;
use crate::train::evaluate::step_rng;
use crate::train::learner::{PATIENCE, Tally};
use crate::train::metrics::Step;
use crate::train::update::live_rows;

impl Run<'_> {
    /// `epochs` passes over the batch, each in `minibatches` optimiser steps; whether the last one was accepted.
    pub(super) fn updates(&mut self, batch: &Batch, metrics: &mut Step) -> Result<bool> {
        let train = self.online.train;
        let temperature = self.sampling.scoring_temperature();
        let mut is_accepted = false;
        let mut tally = Tally::default();
        for epoch in 0..train.epochs {
            for mut mini in minibatches(batch, train.minibatches, self.config.run.seed, self.state.step, epoch) {
                mini.count_totals();
                let dropout = self.state.scheduled_steps as u64 ^ self.config.run.seed.rotate_left(32);
                let objective = self.stages.objective.as_mut();
                let how = (temperature, dropout);
                let taken = self.learner.step(&self.policy, objective, &mini, how, &mut self.state, metrics)?;
                is_accepted = taken.report.is_accepted;
                if is_accepted {
                    self.expect_gradient(&mini, taken.report.grad_norm)?;
                }
                tally.add(&taken);
            }
        }
        tally.record(self.config, &self.state, metrics);
        Ok(is_accepted)
    }

    /// A gradient that stays zero although there is something to learn stops the run.
    fn expect_gradient(&mut self, batch: &Batch, norm: f64) -> Result<()> {
        let has_signal = match &batch.advantage {
            Some(Advantages::Row(a)) => a.iter().zip(&batch.keep).any(|(a, keep)| *keep && *a != 0.0),
            Some(Advantages::Token(a)) => a.data().iter().any(|a| *a != 0.0),
            None => true,
        };
        let has_signal = has_signal && live_rows(self.stages.objective.as_ref(), batch).contains(&true);
        self.idle_steps = if norm == 0.0 && has_signal { self.idle_steps + 1 } else { 0 };
        ensure!(
            self.idle_steps < PATIENCE,
            "optim: the gradient was zero in {PATIENCE} successive updates although advantages were not"
        );
        Ok(())
    }
}

/// Groups dealt out to `count` minibatches, in an order of each epoch's own.
fn minibatches(batch: &Batch, count: usize, seed: u64, step: usize, epoch: usize) -> Vec<Batch> {
    let mut groups = batch.groups();
    if count > 1 {
        step_rng(seed, step, 0x3141 + epoch as u64).shuffle(&mut groups);
    }
    let count = count.min(groups.len()).max(1);
    let size = groups.len().div_ceil(count);
    groups.chunks(size).map(|part| batch.select(&part.iter().cloned().flatten().collect::<Vec<_>>())).collect()
}
