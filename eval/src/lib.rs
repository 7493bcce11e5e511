//! Evaluation of checkpoints on mathematics: it asks and it grades, and it says how sure it is.
//!
//! Records come in as JSON values, completions as text; problems, prompts, graded samples, statistics and
//! reports go out. Generating is somebody else's work: there is no model, tokenizer, download or clock here,
//! and the only files touched are the report's own ([`report::Report::write`]).
//!
//! The order of use: [`benchmark::named`] gives a [`benchmark::Benchmark`]; its `problems` reads records into
//! [`benchmark::Item`]s; its `prompt` words one; completions come back and [`sample::grade`] turns them into
//! [`sample::Sample`]s; [`metrics::summarise`] reduces them; [`report::Report`] is written.

pub mod benchmark;
pub mod contamination;
mod error;
pub mod grading;
pub mod metrics;
pub mod report;
pub mod sample;
pub mod sensitivity;

pub use error::Error;
/// Result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;
