//! The answer grader: is the final answer of a completion the reference answer?
//!
//! [`grade`] is a pure function of three arguments. It extracts the answer ([`extract`]), reads it into
//! tokens and a tree, and compares the tree with the gold's by what kind of answer they are. It
//! evaluates no code, keeps no state between calls, and is bounded in time, stack and memory on any
//! input. Grading modes of other tools, for comparison with published numbers, are in [`compat`].
//!
//! Numbers are compared exactly, constants by evaluation with proven error bounds, expressions in
//! variables modulo a prime and at random points. There is no absolute tolerance anywhere.

use std::time::{Duration, Instant};

use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

mod answer;
mod ast;
mod ball;
mod compare;
pub mod compat;
mod complex;
mod counting;
mod evaluate;
mod exact;
pub mod extract;
mod glyph;
mod latex;
mod matrix;
mod modular;
mod numeral;
mod parse;
mod rational;
mod region;
mod relation;
mod scalar;
mod simple;
mod text;
mod token;
mod unit;

pub use compat::Mode;
pub use extract::{Extract, Extraction};

use answer::{Answer, Reading};
use ball::Trouble;
use compare::Comparison;
use exact::Clock;
use parse::Failure;
use token::Commas;

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

/// How units are compared when both sides have one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Units {
    /// Numbers decide; different units are flagged.
    #[default]
    Lenient,
    /// Units of one dimension are converted, others must be the same.
    Strict,
}

/// What is accepted where reasonable graders differ.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// Significant digits that a rounded decimal must show to stand for an exact value.
    pub min_significant: u32,
    /// Decimals that do instead.
    pub min_decimals: u32,
    /// Relative tolerance for every number: for sets of physics problems that state one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rel_tol: Option<f64>,
    /// Take `n %` for a gold of n without a sign.
    pub percent_lenient: bool,
    /// How units are compared.
    pub units: Units,
    /// Let the variables have other names, in the order in which they occur.
    pub rename_variables: bool,
    /// Take a tuple for a column vector.
    pub vector_tuple: bool,
    /// Take the value in base ten for a number in another base.
    pub base_value: bool,
    /// Take radians for degrees outside functions.
    pub angle_units: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Policy {
            min_significant: 7,
            min_decimals: 6,
            rel_tol: None,
            percent_lenient: true,
            units: Units::Lenient,
            rename_variables: false,
            vector_tuple: true,
            base_value: true,
            angle_units: false,
        }
    }
}

/// Where the grader gives up. What lies beyond is not right.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Longest answer, in bytes.
    pub answer_bytes: usize,
    /// Deepest nesting.
    pub depth: usize,
    /// Most nodes of a parsed answer.
    pub nodes: usize,
    /// Largest integer, in bits.
    pub integer_bits: u64,
    /// Most terms of a sum or product.
    pub terms: u64,
    /// Most elements of a set or list.
    pub set_items: usize,
    /// Soft limit on the time of one verdict, in milliseconds.
    pub soft_millis: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            answer_bytes: 4096,
            depth: 200,
            nodes: 20_000,
            integer_bits: 100_000,
            terms: 10_000,
            set_items: 1000,
            soft_millis: 50,
        }
    }
}

/// How to extract and compare.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GradeConfig {
    /// Where the answer is looked for.
    pub extraction: Extraction,
    /// What is accepted.
    pub policy: Policy,
    /// Where the grader gives up.
    pub limits: Limits,
}

/// Grades the final answer of `completion` against `gold`, a bare answer as the data sets hold it.
///
/// A gold with a box stands for what is in its last box, one with `#### 18` for the 18. A gold that cannot be parsed is compared as
/// text and flagged [`Flag::GoldUnparsable`]. Never panics; takes at most about `limits.soft_millis`.
pub fn grade(gold: &str, completion: &str, config: &GradeConfig) -> Verdict {
    let start = Instant::now();
    let boxed = if gold.contains("\\boxed") || gold.contains("\\fbox") { extract::boxed_gold(gold) } else { None };
    let hashed = if boxed.is_none() && gold.contains("#### ") { extract::gsm8k_strict(gold) } else { None };
    let gold = boxed.as_deref().or(hashed.as_deref()).unwrap_or(gold).trim();
    let found = extract::extract(completion, &config.extraction, gold_parts(gold));
    let mut flags = Vec::new();
    if found.is_think_truncated {
        flags.push(Flag::TruncatedThink);
    }
    let Some(extracted) = found.candidates.first().cloned() else {
        return Verdict {
            correct: false,
            method: Method::None,
            reason: Some(Reason::NoAnswer),
            extracted: None,
            gold_normal: String::new(),
            pred_normal: String::new(),
            flags,
            elapsed: start.elapsed(),
        };
    };
    let mut outcome = compare_answers(gold, &extracted, config, start);
    let mut chosen = extracted;
    for candidate in found.candidates.into_iter().skip(1) {
        if outcome.is_right() {
            break;
        }
        let other = compare_answers(gold, &candidate, config, start);
        if other.is_right() {
            outcome = other;
            chosen = candidate;
        }
    }
    flags.extend(outcome.flags);
    flags.dedup();
    Verdict {
        correct: outcome.reason.is_none(),
        method: outcome.method,
        reason: outcome.reason,
        extracted: Some(chosen),
        gold_normal: outcome.gold_normal,
        pred_normal: outcome.pred_normal,
        flags,
        elapsed: start.elapsed(),
    }
}

/// Grades many pairs on all cores, in order.
pub fn grade_batch(pairs: &[(&str, &str)], config: &GradeConfig) -> Vec<Verdict> {
    pairs.par_iter().map(|(gold, completion)| grade(gold, completion, config)).collect()
}

/// Whether two bare answers are equal: [`grade`] without extraction. For majority votes.
pub fn equivalent(gold: &str, answer: &str, config: &GradeConfig) -> bool {
    compare_answers(gold.trim(), answer.trim(), config, Instant::now()).is_right()
}

/// A canonical string of a bare answer, for grouping votes and looking for contamination. Answers
/// with the same string are equal; equal answers may have different strings (see [`equivalent`]).
pub fn normalise(answer: &str) -> String {
    if let Some(number) = simple::simple(answer.trim()) {
        return number.to_string();
    }
    let answer = extract::last_bytes(answer, Limits::default().answer_bytes);
    Answer::read(answer.trim(), &Reading::alone(Commas::Thousands, &Limits::default())).canonical()
}

/// A rough count of the parts of a gold, to know whether boxes may be joined.
fn gold_parts(gold: &str) -> usize {
    if gold.len() > 4096
        || !(gold.contains([',', ';', '±', '&', '\\']) || gold.contains(" and ") || gold.contains(" or "))
    {
        return 1;
    }
    let limits = Limits::default();
    let answer = Answer::read(gold, &Reading::alone(Commas::Thousands, &limits));
    match &answer.node {
        Ok(ast::Node::List(items) | ast::Node::Set(items) | ast::Node::Group { items, .. }) => items.len(),
        Ok(ast::Node::Matrix(rows)) => rows.len(),
        Ok(node) if node.any(&|part| matches!(part, ast::Node::PlusMinus(..))) => 2,
        _ => 1,
    }
}

struct Outcome {
    reason: Option<Reason>,
    method: Method,
    flags: Vec<Flag>,
    gold_normal: String,
    pred_normal: String,
}

impl Outcome {
    fn is_right(&self) -> bool {
        self.reason.is_none()
    }
}

/// Compares two bare answers, reading commas in each way that makes sense.
fn compare_answers(gold: &str, pred: &str, config: &GradeConfig, start: Instant) -> Outcome {
    let outcome = |reason, method, flags, gold_normal: &str, pred_normal: &str| Outcome {
        reason,
        method,
        flags,
        gold_normal: gold_normal.to_string(),
        pred_normal: pred_normal.to_string(),
    };
    if let (Some(a), Some(b)) = (simple::simple(gold), simple::simple(pred)) {
        let is_equal = a.equals(&b);
        if is_equal
            || !(a.is_decimal != b.is_decimal && config.policy.rel_tol.is_none()) && config.policy.rel_tol.is_none()
        {
            let reason = if is_equal { None } else { Some(Reason::Different) };
            return outcome(reason, a.method(&b), Vec::new(), &a.to_string(), &b.to_string());
        }
    }
    if gold.len() > config.limits.answer_bytes || pred.len() > config.limits.answer_bytes {
        let reason = if gold == pred { None } else { Some(Reason::TooLarge) };
        return outcome(reason, Method::Exact, Vec::new(), "", "");
    }
    // A tenth is kept back for what happens between two looks at the clock.
    let clock = Clock { deadline: start + Duration::from_micros(config.limits.soft_millis.saturating_mul(900)) };
    let rename = if config.policy.rename_variables {
        answer::renaming(gold, pred)
    } else {
        answer::constant_of_integration(gold, pred)
    };
    let mut first: Option<Outcome> = None;
    for commas in [Commas::Thousands, Commas::List] {
        let g = Answer::read(gold, &Reading::alone(commas, &config.limits));
        let p = Answer::read(pred, &Reading::against(&g, commas, &config.limits, &rename));
        let is_ambiguous = g.is_comma_ambiguous || p.is_comma_ambiguous;
        let result = compare_readings(&g, &p, config, clock);
        let is_right = result.is_right();
        if is_right {
            return result;
        }
        let is_late = result.reason == Some(Reason::Timeout);
        first = first.or(Some(result));
        if !is_ambiguous || is_late {
            break;
        }
    }
    let first = first.expect("at least one reading was compared");
    // A decimal comma, where the gold is a plain number and the comma cannot be thousands.
    // In the gold only `{,}` and `0,111` are: `2,3` lists two numbers.
    let is_decimal = gold.contains("{,}") || gold.split_once(',').is_some_and(|(a, b)| a == "0" && b.len() >= 3);
    let decimal_gold = if is_decimal { answer::with_decimal_point(pred, gold) } else { None };
    if let Some(pred) = answer::with_decimal_point(gold, pred).or(decimal_gold.is_some().then(|| pred.to_string())) {
        let gold = decimal_gold.as_deref().unwrap_or(gold);
        let g = Answer::read(gold, &Reading::alone(Commas::Thousands, &config.limits));
        let p = Answer::read(&pred, &Reading::against(&g, Commas::Thousands, &config.limits, &[]));
        let result = compare_readings(&g, &p, config, clock);
        if result.is_right() {
            return result;
        }
    }
    first
}

fn compare_readings(g: &Answer, p: &Answer, config: &GradeConfig, clock: Clock) -> Outcome {
    let mut flags = Vec::new();
    let done = |reason: Option<Reason>, method: Method, flags: Vec<Flag>| Outcome {
        reason,
        method,
        flags,
        gold_normal: g.canonical(),
        pred_normal: p.canonical(),
    };
    if g.same_tokens(p) {
        return done(None, Method::Exact, flags);
    }
    if let Some(choice) = g.choice.filter(|_| g.can_be_choice) {
        if p.choice.is_some_and(|found| found.letter == choice.letter) {
            return done(None, Method::Choice, flags);
        }
        if p.choice.is_some() || g.is_marked_choice {
            return done(Some(Reason::Different), Method::Choice, flags);
        }
    }
    let is_other_time = match (&g.time, &p.time) {
        (Some(a), Some(b)) if a.is_answered_by(b) => return done(None, Method::Text, flags),
        (Some(a), Some(b)) => !a.may_be_ratio() || b.is_no_ratio(),
        (Some(a), None) => !a.may_be_ratio() && g.node != p.node,
        (None, Some(b)) => b.is_sure() && g.node != p.node,
        (None, None) => false,
    };
    if is_other_time {
        return done(Some(Reason::Different), Method::Text, flags);
    }
    if let (Some(a), Some(b)) = (g.lone_word(), p.lone_word()) {
        // Words of a text command may be synonyms; letters that stand bare are compared as they are.
        let is_same = a.eq_ignore_ascii_case(b);
        if is_same || !(g.is_words || p.is_words) {
            return done(if is_same { None } else { Some(Reason::Different) }, Method::Text, flags);
        }
    }
    match (&g.node, &p.node) {
        (Ok(gold), Ok(pred)) => {
            let mut comparison = Comparison {
                policy: &config.policy,
                limits: &config.limits,
                clock,
                method: Method::None,
                flags: Vec::new(),
                is_hedged: false,
                is_mismatch: false,
            };
            let result = answer::with_units(&mut comparison, (gold, &g.unit), (pred, &p.unit));
            let reason = match result {
                Ok(true) => None,
                Ok(false) if comparison.is_hedged => Some(Reason::Hedged),
                Ok(false) if comparison.is_mismatch => Some(Reason::TypeMismatch),
                Ok(false) | Err(Trouble::Undefined | Trouble::Imprecise) => Some(Reason::Different),
                Err(Trouble::TooLarge) => Some(Reason::TooLarge),
                Err(Trouble::Timeout) => Some(Reason::Timeout),
            };
            if reason.is_none() {
                flags.extend(comparison.flags);
            }
            done(reason, comparison.method, flags)
        }
        (gold, pred) => {
            if gold.is_err() && !g.is_words {
                flags.push(Flag::GoldUnparsable);
            }
            let is_same = answer::same_text(g, p);
            let reason = match (is_same, pred) {
                (true, _) => None,
                (false, Err(Failure::TooDeep)) => Some(Reason::TooDeep),
                (false, Err(Failure::TooLarge)) => Some(Reason::TooLarge),
                (false, Err(Failure::Syntax)) if !p.is_words => Some(Reason::Unparsable),
                (false, _) if gold.is_err() == pred.is_err() => Some(Reason::Different),
                (false, _) => Some(Reason::TypeMismatch),
            };
            done(reason, Method::Text, flags)
        }
    }
}

#[cfg(test)]
mod golden_tests;
#[cfg(test)]
mod tests;
