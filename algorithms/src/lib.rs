//! Post-training algorithms: numbers in, numbers out.
//!
//! One folder a stage, one file a variant, in the order of a training step: [`prompts`],
//! [`budget`], ([rollouts and rewards happen outside]), [`advantage`], [`credit`], [`objective`].
//! [`batch`] is the table that the stages grow; [`row`] holds the functions of one row of logits
//! (chosen-token log-prob, entropy) that turn a model's output into the leaves of an objective.
//!
//! What this crate must not know: models, tokenizers, files, clocks, global generators. All
//! arithmetic on a batch is f64 on the CPU, in runs as in tests.
//!
//! [rollouts and rewards happen outside]: crate::batch

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod advantage;
pub mod batch;
pub mod budget;
pub mod credit;
mod error;
#[cfg(test)]
mod golden;
pub mod metrics;
pub mod objective;
pub mod packing;
pub mod prompts;
mod registry;
pub mod rng;
pub mod row;
pub mod state;
pub mod success;
mod table;

pub use batch::{Batch, Needs};
pub use error::{Error, Result};
pub use metrics::Metrics;
pub use state::{Outcome, State};
pub use table::Table;
