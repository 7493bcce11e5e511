//! What a step changes: optimiser steps over minibatches, watched for gradients that are wrong.

use anyhow::{Result, ensure};
use candlewick_algorithms::batch::Advantages;
use candlewick_algorithms::{Batch, Metrics};

use super::Run;
use crate::optim::learning_rate;
use crate::train::evaluate::step_rng;
use crate::train::metrics::Step;
use crate::train::radius::Probe;
use crate::train::update::{check_every_parameter, gradient, live_rows};

/// Successive updates without a gradient, or with one that is not finite, after which a run stops.
const PATIENCE: usize = 3;

impl Run<'_> {
    /// `epochs` passes over the batch, each in `minibatches` optimiser steps; whether the last one was accepted.
    pub(super) fn updates(&mut self, batch: &Batch, metrics: &mut Step) -> Result<bool> {
        let train = self.online.train;
        let total = self.online.steps * train.epochs * train.minibatches;
        let mut is_accepted = false;
        let (mut seen, mut updates, mut loss, mut largest) = (Metrics::new(), 0.0, 0.0, 0.0_f64);
        for epoch in 0..train.epochs {
            for mut mini in minibatches(batch, train.minibatches, self.config.run.seed, self.state.step, epoch) {
                mini.count_totals();
                self.grads.clear();
                let dropout = Some(self.state.scheduled_steps as u64 ^ self.config.run.seed.rotate_left(32));
                let temperature = self.sampling.scoring_temperature();
                let update = gradient(
                    &self.policy,
                    self.stages.objective.as_ref(),
                    &mini,
                    &mut self.grads,
                    temperature,
                    dropout,
                )?;
                self.state.trained_tokens += update.tokens as u64;
                let rate = learning_rate(&self.config.optim, self.state.scheduled_steps, total);
                let (radius, at) = (&self.config.optim.radius, self.state.scheduled_steps);
                let probe = Probe::before(&self.policy, &mini, radius.as_ref(), at)?;
                let report =
                    self.optimiser.step_with_loss(&self.policy.decoder.params, &self.grads, rate, update.loss)?;
                if let Some(probe) = probe.filter(|_| report.is_accepted) {
                    probe.after(&self.policy, metrics)?;
                }
                self.state.scheduled_steps += 1;
                if report.is_spike {
                    self.state.skipped_spikes += 1;
                } else {
                    self.check_gradients(&mini, report.grad_norm, report.is_accepted)?;
                }
                metrics.set("optim/grad_norm_l1", report.grad_norm_l1);
                is_accepted = report.is_accepted;
                if is_accepted {
                    self.stages.objective.commit(&mini, &update.metrics)?;
                }
                largest = largest.max(report.grad_norm);
                updates += 1.0;
                loss += update.loss;
                seen.merge(&update.metrics);
                seen.sum("tokens", update.tokens as f64);
                metrics.set("optim/learning_rate", rate);
            }
        }
        metrics.set("train/tokens", seen.get("tokens").unwrap_or(0.0));
        metrics.extend(&format!("objective/{}", self.config.objective.variant()), &seen);
        metrics.set("objective/loss", loss / updates);
        metrics.set("optim/grad_norm", largest);
        metrics.set("optim/dropped_steps", self.state.dropped_steps as f64);
        if self.config.optim.skip_spikes.is_some() {
            metrics.set("optim/skipped_spikes", self.state.skipped_spikes as f64);
        }
        Ok(is_accepted)
    }

    /// A gradient that is not finite, missing or cut stops the run with the names of what is wrong.
    fn check_gradients(&mut self, batch: &Batch, norm: f64, is_accepted: bool) -> Result<()> {
        if !is_accepted {
            self.state.dropped_steps += 1;
            self.bad_steps += 1;
            tracing::warn!("step {}: the gradient is not finite, so nothing was changed", self.state.step + 1);
            ensure!(
                self.bad_steps < PATIENCE,
                "optim: the gradient was not finite in {PATIENCE} successive updates up to step {}: lower `optim.learning_rate`",
                self.state.step + 1
            );
            return Ok(());
        }
        self.bad_steps = 0;
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
        if norm > 0.0 && !self.has_checked_gradients {
            self.has_checked_gradients = true;
            let is_fixed = batch.soft.as_ref().is_some_and(|soft| !soft.trains_inputs);
            check_every_parameter(&self.policy, &self.grads, is_fixed)?;
        }
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
