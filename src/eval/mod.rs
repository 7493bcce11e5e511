//! Stage `eval`: lets a checkpoint sit benchmarks and writes a report that says how sure it is.
//!
//! The asking and grading is `candlewick-eval`'s; here is what touches a model or a file: problems are read and
//! rendered ([`exam`]), answered through the `rollout` stage and kept in a journal so that a stopped evaluation
//! goes on ([`sit`], [`journal`]), compared by a judge ([`judge`]), and put into a report with what identifies the model
//! ([`report`], [`identity`]).
//! `candlewick eval` and the evaluations inside a run are the same code.

pub mod exam;
pub mod identity;
pub mod journal;
pub mod judge;
mod progress;
pub mod report;
mod set;
pub mod sit;

pub use exam::{Exam, exams};
pub use set::{OPEN, Training, check, check_file, is_source};
pub use sit::{Answered, Outcome, Sitting};
