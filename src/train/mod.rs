//! Stage `train`: the loops that make a policy better, and what they leave on disk.
//!
//! [`online`] samples its own completions, [`offline`] learns from given ones; both hand batches to
//! [`update`]. A run's folder holds the resolved config, metrics, sampled completions, checkpoints
//! and the closing report.

pub(crate) mod account;
mod answers;
pub mod audit;
pub mod checkpoint;
pub mod evaluate;
pub mod examples;
pub mod figures;
pub mod folder;
mod grading;
pub mod inputs;
mod kept;
mod learner;
pub mod lengths;
pub mod metrics;
pub mod offline;
pub mod online;
pub mod policy;
pub mod probe;
pub mod radius;
pub mod ranking;
pub mod reference;
pub mod score;
pub mod teacher;
mod told;
pub mod update;

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, ensure};
use candlewick_algorithms::batch::TeacherNeed;

use crate::config::{Config, Kind};
use crate::model::spec::DecoderSpec;

/// Whether a model of this shape can serve the stages of a config; needs its `config.json` only.
///
/// Errors: hidden states at a layer that is not there, more directions than they have numbers, more slots or
/// teacher tokens than the vocabulary has.
pub fn check_model(config: &Config, spec: &DecoderSpec) -> Result<()> {
    let credit = config.credit.as_ref().map(|c| c.build()).transpose()?;
    if let Some(credit) = &credit {
        if let Some(index) = credit.needs().hidden {
            policy::hidden_layer(spec, index)?;
        }
        credit.check_model(spec.hidden_size)?;
    }
    let soft = [config.rollout.as_ref().and_then(|r| r.soft()), config.eval.soft.as_ref()];
    for soft in soft.into_iter().flatten() {
        ensure!(
            soft.slots <= spec.vocab_size,
            "{} slots of soft thinking are more than the model's vocabulary of {}: lower `slots`",
            soft.slots,
            spec.vocab_size
        );
    }
    if let Some(TeacherNeed::TopK(k) | TeacherNeed::Sampled(k)) = config.objective.build()?.needs().teacher {
        ensure!(
            k <= spec.vocab_size,
            "`objective.distill.top_k` = {k} is more than the model's vocabulary of {}: lower it",
            spec.vocab_size
        );
    }
    Ok(())
}

/// Set by Ctrl-C: finish the step, save, and stop.
static STOP: AtomicBool = AtomicBool::new(false);

/// Whether the run was asked to stop.
pub fn is_stopping() -> bool {
    STOP.load(Ordering::Relaxed)
}

/// That a run stopped because it was asked to, and has said how to go on.
#[derive(Debug, thiserror::Error)]
#[error("the run was interrupted")]
pub struct Interrupted;

/// Has the first Ctrl-C stop the program at the next good place, with `answer` for whoever waits; the second one ends
/// it at once.
pub fn listen_for_stop(answer: &'static str) {
    // A handler can be set only once a process; tests and embedders may have set their own.
    let _ = ctrlc::set_handler(move || {
        if STOP.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        // Whoever stopped reading is not waiting for it.
        let _ = writeln!(std::io::stderr(), "{answer}; Ctrl-C again ends at once");
    });
}

/// Trains as a config says; `resume` continues the newest whole checkpoint of the run's folder.
///
/// Errors: [`Interrupted`] where Ctrl-C stopped it before its end.
pub fn run(config: &Config, resume: bool) -> Result<()> {
    listen_for_stop("finishing this step");
    match config.kind() {
        Kind::Online(online) => online::run(config, &online, resume),
        Kind::Offline(offline) => offline::run(config, &offline, resume),
    }
}
