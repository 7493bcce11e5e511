//! Optimiser steps as both loops take them: gradient, rate, ghost radius, guards, and what is reported of them.

use anyhow::{Result, ensure};
use candlewick_algorithms::objective::Objective;
use candlewick_algorithms::{Batch, Metrics};

use super::checkpoint::State;
use super::metrics::Step;
use super::policy::Policy;
use super::radius::Probe;
use super::update::{Update, check_every_parameter, gradient};
use crate::config::Config;
use crate::model::params::Grads;
use crate::optim::{AdamW, StepReport, learning_rate};

/// Successive updates with the same fault after which a run stops.
pub(super) const PATIENCE: usize = 3;

/// The optimiser and what watches over its steps.
pub(super) struct Learner<'a> {
    config: &'a Config,
    pub(super) optimiser: AdamW,
    grads: Grads,
    /// Updates of the whole run, by which the learning rate is scheduled; a run that makes its own pairs tells them as it goes.
    pub(super) total: usize,
    has_checked_gradients: bool,
    /// Successive updates whose gradient was not finite.
    bad: usize,
}

impl<'a> Learner<'a> {
    /// For a run of `total` updates.
    pub(super) fn new(config: &'a Config, policy: &Policy, total: usize) -> Self {
        let params = &policy.decoder.params;
        let (optimiser, grads) = (AdamW::new(&config.optim, params), Grads::new(params));
        Self { config, optimiser, grads, total, has_checked_gradients: false, bad: 0 }
    }

    /// One optimiser step on a batch whose totals are counted; the objective hears of it if it was accepted.
    ///
    /// Metrics: those of the ghost radius, where it is measured; all others are in what is returned.
    ///
    /// Errors: gradients that were not finite in [`PATIENCE`] successive updates, or in all of a shorter run, and a
    /// trained parameter that the first gradient does not reach.
    pub(super) fn step(
        &mut self,
        policy: &Policy,
        objective: &mut dyn Objective,
        batch: &Batch,
        (temperature, dropout): (f64, u64),
        state: &mut State,
        metrics: &mut Step,
    ) -> Result<Taken> {
        let (params, optim) = (&policy.decoder.params, &self.config.optim);
        self.grads.clear();
        let update = gradient(policy, objective, batch, &mut self.grads, temperature, Some(dropout))?;
        let rate = learning_rate(optim, state.scheduled_steps, self.total);
        let probe = Probe::before(policy, batch, optim.radius.as_ref(), state.scheduled_steps)?;
        let report = self.optimiser.step_with_loss(params, &self.grads, rate, update.loss)?;
        if let Some(probe) = probe.filter(|_| report.is_accepted) {
            probe.after(policy, metrics)?;
        }
        state.scheduled_steps += 1;
        state.trained_tokens += update.tokens as u64;
        if report.is_accepted {
            self.bad = 0;
            objective.commit(batch, &update.metrics)?;
            if !self.has_checked_gradients && report.grad_norm > 0.0 {
                self.has_checked_gradients = true;
                let is_fixed = batch.soft.as_ref().is_some_and(|soft| !soft.trains_inputs);
                check_every_parameter(policy, &self.grads, is_fixed)?;
            }
        } else if report.is_spike {
            state.skipped_spikes += 1;
        } else {
            self.bad += 1;
            state.dropped_steps += 1;
            tracing::warn!("step {}: the gradient is not finite, so nothing was changed", state.step + 1);
            ensure!(
                self.bad < PATIENCE.min(self.total),
                "optim: the gradient was not finite in {} successive updates up to step {}: lower `optim.learning_rate`, or start from a checkpoint that is whole",
                self.bad,
                state.step + 1
            );
        }
        Ok(Taken { update, report })
    }
}

/// An optimiser step that was taken or refused.
pub(super) struct Taken {
    pub(super) update: Update,
    pub(super) report: StepReport,
}

/// What the optimiser steps of one step of the run come to.
#[derive(Default)]
pub(super) struct Tally {
    /// The objective's metrics over all of them.
    pub(super) seen: Metrics,
    /// Tokens run forward and backward.
    pub(super) tokens: usize,
    loss: f64,
    updates: usize,
    largest: Option<f64>,
    last: Option<StepReport>,
}

impl Tally {
    /// Takes in one of them.
    pub(super) fn add(&mut self, taken: &Taken) {
        self.seen.merge(&taken.update.metrics);
        self.tokens += taken.update.tokens;
        self.loss += taken.update.loss;
        self.updates += 1;
        if taken.report.grad_norm.is_finite() {
            self.largest = Some(self.largest.unwrap_or(0.0).max(taken.report.grad_norm));
        }
        self.last = Some(taken.report);
    }

    /// The mean loss.
    pub(super) fn loss(&self) -> f64 {
        self.loss / self.updates as f64
    }

    /// Metrics: the objective's own under its name; `objective/loss`, the mean; `optim/grad_norm`, the largest finite one;
    /// `optim/grad_norm_l1` and `optim/learning_rate` of the last; `optim/dropped_steps` and, with a spike rule,
    /// `optim/skipped_spikes` of the run so far; `train/tokens` run forward and backward.
    pub(super) fn record(&self, config: &Config, state: &State, metrics: &mut Step) {
        metrics.extend(&format!("objective/{}", config.objective.variant()), &self.seen);
        metrics.set("objective/loss", self.loss());
        metrics.set("optim/grad_norm", self.largest.unwrap_or(f64::NAN));
        if let Some(last) = &self.last {
            metrics.set("optim/grad_norm_l1", last.grad_norm_l1);
            metrics.set("optim/learning_rate", last.learning_rate);
        }
        metrics.set("optim/dropped_steps", state.dropped_steps as f64);
        if config.optim.skip_spikes.is_some() {
            metrics.set("optim/skipped_spikes", state.skipped_spikes as f64);
        }
        metrics.set("train/tokens", self.tokens as f64);
    }
}
