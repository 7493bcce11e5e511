//! The one error of this crate: what a caller can tell apart, worded for the person who reads it.

use std::path::PathBuf;

/// What can go wrong while reading problems, reducing samples or writing a report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No benchmark has this name.
    #[error("unknown benchmark `{name}`: use one of {known}, or a path to a JSONL file")]
    UnknownBenchmark {
        /// The name that was asked for.
        name: String,
        /// The names there are, separated by commas.
        known: String,
    },
    /// A record lacks a field, or the field has the wrong type.
    #[error("{benchmark}, record {line}: {what}")]
    Record {
        /// Benchmark whose record it is.
        benchmark: String,
        /// Place of the record, counted from 1; the line number for JSONL without blank lines.
        line: usize,
        /// What is missing or wrong, and which fields would do.
        what: String,
    },
    /// Nothing to evaluate.
    #[error("{0} holds no problems")]
    Empty(String),
    /// Two problems carry the same identity, so samples could not be told apart.
    #[error("{benchmark}: two records have the id `{id}`")]
    DuplicateId {
        /// Benchmark that holds both.
        benchmark: String,
        /// The id seen twice.
        id: String,
    },
    /// A completion names a problem that was never asked.
    #[error("a completion answers `{id}`, which is not among the problems")]
    UnknownItem {
        /// The id named.
        id: String,
    },
    /// An item has another number of samples than the evaluation says.
    #[error("problem `{id}` has {found} samples where {expected} were asked for")]
    SampleCount {
        /// The item's id.
        id: String,
        /// Samples asked for.
        expected: usize,
        /// Samples present.
        found: usize,
    },
    /// A metric needs more samples a problem than there are.
    #[error("k = {k} needs at least {k} samples a problem, there are {n}: raise the number of samples or lower k")]
    TooFewSamples {
        /// The k asked for.
        k: usize,
        /// Samples a problem.
        n: usize,
    },
    /// Two result sets that should be paired do not hold the same problems.
    #[error("cannot compare: {0}")]
    NotComparable(String),
    /// A judge decided none of the contests it was shown.
    #[error("the judge gave no verdict on any of {contests} contests: {failure}")]
    NoVerdict {
        /// Contests shown.
        contests: usize,
        /// What happened on the first of them.
        failure: String,
    },
    /// A number that must be finite is not.
    #[error("{0} is not finite")]
    NonFinite(String),
    /// A report written by another version of this tool.
    #[error("report has schema `{found}`, this version reads `{expected}`: write it again with this version")]
    Schema {
        /// The schema named in the file.
        found: String,
        /// The schema read here.
        expected: String,
    },
    /// A report that is not JSON of the right shape.
    #[error("not a report: {0}")]
    Json(#[from] serde_json::Error),
    /// A line of a samples file that is no completion.
    #[error("{path}:{line}: not a completion: {source}")]
    Sample {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// Why.
        source: serde_json::Error,
    },
    /// A file of the report could not be written or read.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A figure could not be drawn.
    #[error("cannot draw the figure `{title}`: {why}")]
    Figure {
        /// The figure's title.
        title: String,
        /// Why.
        why: String,
    },
}
