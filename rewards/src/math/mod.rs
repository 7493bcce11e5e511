//! The answer grader: is the final answer of a completion the reference answer?
//!
//! [`grade`] is a pure function of three arguments. It extracts the answer ([`extract`]), and compares
//! it with the gold. It evaluates no code, keeps no state between calls, and is bounded in time, stack
//! and memory on any input.

use std::time::{Duration, Instant};

use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub mod extract;

pub use extract::{Extract, Extraction};

/// How two answers were found equal, or on what ground they were compared last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// The same string after normalising.
    Exact,
    /// Integers.
    Integer,
    /// Rational numbers.
    Rational,
    /// A decimal against its exact value.
    Decimal,
    /// Constants, by evaluation with error bounds.
    Numeric,
    /// Expressions in variables.
    Symbolic,
    /// Sets and unordered lists.
    Set,
    /// Tuples and ordered lists.
    Tuple,
    /// Intervals and their unions.
    Interval,
    /// Matrices.
    Matrix,
    /// Equations and inequalities.
    Relation,
    /// Words.
    Text,
    /// Choice letters.
    Choice,
    /// No comparison took place.
    None,
}

/// Why an answer is not right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The completion gives no final answer.
    NoAnswer,
    /// The answer cannot be parsed.
    Unparsable,
    /// The two are of kinds that cannot be equal.
    TypeMismatch,
    /// The two differ.
    Different,
    /// A number or expression is beyond the size limits.
    TooLarge,
    /// The answer is nested too deeply.
    TooDeep,
    /// The soft time limit was reached.
    Timeout,
    /// Several answers were given to a question that has one.
    Hedged,
}

/// A remark on a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Flag {
    /// Both sides carry units and the units differ.
    UnitMismatch,
    /// One side carries a unit and the other none.
    UnitDropped,
    /// A percent sign was taken for a number of percent.
    PercentAssumed,
    /// A rounded decimal was accepted for an exact value.
    Approximate,
    /// One side states its base and the other does not.
    BaseDropped,
    /// The completion ends inside a think block.
    TruncatedThink,
    /// The gold could not be parsed and was compared as text.
    GoldUnparsable,
}

/// What [`grade`] says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Whether the answer is right.
    pub correct: bool,
    /// On what ground.
    pub method: Method,
    /// Why not, when it is not right.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// The answer string found in the completion.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extracted: Option<String>,
    /// The gold, normalised.
    pub gold_normal: String,
    /// The answer, normalised.
    pub pred_normal: String,
    /// Remarks.
    pub flags: Vec<Flag>,
    /// Time taken.
    pub elapsed: Duration,
}

/// How to extract and compare.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GradeConfig {
    /// Where the answer is looked for.
    pub extraction: Extraction,
}

/// Grades the final answer of `completion` against `gold`, a bare answer as the data sets hold it.
pub fn grade(gold: &str, completion: &str, config: &GradeConfig) -> Verdict {
    let start = Instant::now();
    let found = extract::extract(completion, &config.extraction, 1);
    let extracted = found.candidates.into_iter().next();
    let correct = extracted.as_deref().map(str::trim) == Some(gold.trim());
    let reason = match &extracted {
        None => Some(Reason::NoAnswer),
        Some(_) if !correct => Some(Reason::Different),
        Some(_) => None,
    };
    Verdict {
        correct,
        method: Method::Exact,
        reason,
        gold_normal: gold.trim().into(),
        pred_normal: extracted.clone().unwrap_or_default(),
        extracted,
        flags: if found.is_think_truncated {
            vec![Flag::TruncatedThink]
        } else {
            Vec::new()
        },
        elapsed: start.elapsed(),
    }
}

/// Grades many pairs on all cores, in order.
pub fn grade_batch(pairs: &[(&str, &str)], config: &GradeConfig) -> Vec<Verdict> {
    pairs
        .par_iter()
        .map(|(gold, completion)| grade(gold, completion, config))
        .collect()
}
