//! Stage `train`: the loops that make a policy better, and what they leave on disk.
//!
//! [`online`] samples its own completions, [`offline`] learns from given ones; both hand batches to
//! [`update`]. A run's folder holds the resolved config, metrics, sampled completions, checkpoints
//! and the closing report.

pub mod checkpoint;
pub mod evaluate;
pub mod figures;
pub mod folder;
pub mod lengths;
pub mod metrics;
pub mod offline;
pub mod online;
pub mod policy;
pub mod probe;
mod told;
pub mod update;

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;

use crate::config::{Config, Kind};

/// Set by Ctrl-C: finish the step, save, and stop.
static STOP: AtomicBool = AtomicBool::new(false);

/// Whether the run was asked to stop.
pub fn is_stopping() -> bool {
    STOP.load(Ordering::Relaxed)
}

/// Finishes the step at the first Ctrl-C; the second one ends the program at once.
fn listen_for_stop() {
    // A handler can be set only once a process; tests and embedders may have set their own.
    let _ = ctrlc::set_handler(|| {
        if STOP.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    });
}

/// Trains as a config says; `resume` continues the newest whole checkpoint of the run's folder.
pub fn run(config: &Config, resume: bool) -> Result<()> {
    listen_for_stop();
    match config.kind() {
        Kind::Online(online) => online::run(config, &online, resume),
        Kind::Offline(offline) => offline::run(config, &offline, resume),
    }
}
