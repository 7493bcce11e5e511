//! From graded samples to numbers with their uncertainty: [`summarise`] for one set, [`compare`] for two.

use std::collections::{BTreeMap, HashMap};

use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::benchmark::Item;
use crate::grading::{self, Grade};
use crate::sample::{Finish, Sample};
use crate::{Error, Result};

mod distribution;
mod interval;
mod length;
mod majority;
mod paired;
mod passing;
mod random;
mod win_rate;
mod wordings;

pub use interval::{Estimate, Method, PRIOR, estimate, macro_mean, wilson};
pub use length::{BINS, Bin, Lengths, lengths};
pub use majority::{DRAWS, Vote, cluster, maj_at_k};
pub use paired::{Comparison, Conclusion, Test, compare, mcnemar, sign_flip, sign_flip_counts};
pub use passing::{g_pass_at_k, mg_pass_at_k, pass_at_k};
pub use random::SplitMix64;
pub use win_rate::{Contest, Decider, Judging, WinRate};
pub use wordings::{Wording, Wordings};

/// What to compute beyond avg@n.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Samples a problem that were asked for.
    pub samples: usize,
    /// k of pass@k, maj@k and G-Pass@k; none may exceed `samples`.
    pub ks: Vec<usize>,
    /// tau of G-Pass@k.
    pub taus: Vec<f64>,
    /// Seed of maj@k's draws; results do not depend on the order of problems.
    pub seed: u64,
}

impl Settings {
    /// Powers of two up to `samples`, and `samples` itself; tau of 0.5, 0.75 and 1.
    pub fn new(samples: usize, seed: u64) -> Self {
        let mut ks: Vec<usize> = std::iter::successors(Some(1), |k| Some(k * 2)).take_while(|k| *k < samples).collect();
        ks.push(samples.max(1));
        Self { samples, ks, taus: vec![0.5, 0.75, 1.0], seed }
    }
}

/// Everything measured on one benchmark.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Results {
    /// Problems.
    pub problems: usize,
    /// Samples a problem: the n of avg@n.
    pub samples: usize,
    /// avg@n: mean over problems of the share of right samples, which estimates pass@1.
    pub accuracy: Estimate,
    /// pass@k, unbiased, by rising k.
    pub pass: Vec<AtK>,
    /// maj@k, by rising k.
    pub majority: Vec<AtK>,
    /// G-Pass@k for each k above 1 and each tau.
    pub g_pass: Vec<GPass>,
    /// mG-Pass@k for each k above 1.
    pub mg_pass: Vec<AtK>,
    /// Accuracy among the samples that ended by themselves; `None` when none did.
    pub accuracy_finished: Option<f64>,
    /// Samples cut by the token limit.
    pub truncated: Share,
    /// Samples without an answer.
    pub no_answer: Share,
    /// Samples whose answer could not be read.
    pub unparsable: Share,
    /// Samples whose grading ran out of time; they count as wrong.
    pub grader_timeout: Share,
    /// Refused samples by the grader's reason.
    pub reasons: BTreeMap<String, usize>,
    /// Samples by the way they were compared.
    pub methods: BTreeMap<String, usize>,
    /// Samples by the grader's remarks.
    pub flags: BTreeMap<String, usize>,
    /// Lengths in tokens of what was generated.
    pub lengths: Lengths,
    /// Tokens generated for each right answer; `None` without one.
    pub tokens_per_right: Option<f64>,
    /// Accuracy by what the set says of its problems: axis, then value.
    pub groups: BTreeMap<String, BTreeMap<String, Estimate>>,
    /// The most frequent refused answers with their references, at most 20, for a look at the grader's mistakes.
    pub refused: Vec<Refused>,
    /// Right samples of each problem, in the order of the problems: what a later comparison needs.
    pub scores: Vec<Score>,
}

/// A metric at one k.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AtK {
    /// Samples considered together.
    pub k: usize,
    /// The metric, with its interval over problems.
    pub estimate: Estimate,
}

/// G-Pass@k at one tau.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GPass {
    /// Samples considered together.
    pub k: usize,
    /// Share of them that must be right.
    pub tau: f64,
    /// The metric, with its interval over problems.
    pub estimate: Estimate,
}

/// A count among samples.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Share {
    /// How many.
    pub count: usize,
    /// Of how many, as a share.
    pub share: f64,
}

/// An answer that was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Refused {
    /// The answer as extracted.
    pub extracted: String,
    /// The reference it was judged against.
    pub answer: String,
    /// The grader's reason.
    pub reason: String,
    /// How often.
    pub count: usize,
}

/// One problem's outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Score {
    /// The problem.
    pub id: String,
    /// Its right samples.
    pub right: usize,
    /// Its samples.
    pub samples: usize,
}

impl Score {
    /// Share of right samples.
    pub fn rate(&self) -> f64 {
        self.right as f64 / self.samples.max(1) as f64
    }
}

/// Reduces graded samples, in any order, to results.
///
/// Every problem must have exactly `settings.samples` samples with the indices 0, 1, ..: a score divided by a
/// number of samples that were never drawn is the oldest mistake of avg@n. `grader` says which answers vote together.
/// Errors: [`Error::Empty`], [`Error::SampleCount`], [`Error::UnknownItem`], [`Error::TooFewSamples`].
pub fn summarise(items: &[Item], samples: &[Sample], grader: &dyn Grade, settings: &Settings) -> Result<Results> {
    let of_items = by_item(items, samples, settings.samples)?;
    let n = settings.samples;
    let right: Vec<usize> =
        of_items.iter().map(|samples| samples.iter().filter(|sample| sample.verdict.correct).count()).collect();
    let rates: Vec<f64> = right.iter().map(|right| *right as f64 / n as f64).collect();
    let over_problems = |metric: &dyn Fn(usize) -> Result<f64>| -> Result<Estimate> {
        estimate(&right.iter().map(|right| metric(*right)).collect::<Result<Vec<_>>>()?, n)
    };
    let (mut pass, mut g_pass, mut mg_pass) = (Vec::new(), Vec::new(), Vec::new());
    for &k in &settings.ks {
        pass.push(AtK { k, estimate: over_problems(&|c| pass_at_k(n, c, k))? });
        if k > 1 {
            mg_pass.push(AtK { k, estimate: over_problems(&|c| mg_pass_at_k(n, c, k))? });
            for &tau in &settings.taus {
                g_pass.push(GPass { k, tau, estimate: over_problems(&|c| g_pass_at_k(n, c, k, tau))? });
            }
        }
    }
    let right_total: usize = right.iter().sum();
    let asked = samples.iter().filter(|sample| sample.completion.finish != Finish::Unasked);
    let tokens: Vec<(usize, bool)> = asked.map(|sample| (sample.completion.tokens, sample.verdict.correct)).collect();
    let lengths = lengths(&tokens);
    let finished: Vec<&Sample> = samples.iter().filter(|sample| sample.completion.finish == Finish::Stop).collect();
    let finished_right = finished.iter().filter(|sample| sample.verdict.correct).count();
    let share = |holds: &dyn Fn(&Sample) -> bool| {
        let count = samples.iter().filter(|sample| holds(sample)).count();
        Share { count, share: count as f64 / samples.len() as f64 }
    };
    let mut reasons = BTreeMap::new();
    let mut methods = BTreeMap::new();
    let mut flags = BTreeMap::new();
    for sample in samples {
        if !sample.verdict.correct {
            *reasons.entry(sample.verdict.reason.clone()).or_default() += 1;
        }
        *methods.entry(sample.verdict.method.clone()).or_default() += 1;
        for flag in &sample.verdict.flags {
            *flags.entry(flag.clone()).or_default() += 1;
        }
    }
    Ok(Results {
        problems: items.len(),
        samples: n,
        accuracy: estimate(&rates, n)?,
        pass,
        majority: majority_at(items, &of_items, grader, settings)?,
        g_pass,
        mg_pass,
        accuracy_finished: (!finished.is_empty()).then(|| finished_right as f64 / finished.len() as f64),
        truncated: share(&Sample::is_truncated),
        no_answer: share(&|sample| sample.verdict.extracted.is_none() || sample.verdict.reason == grading::NO_ANSWER),
        unparsable: share(&|sample| sample.verdict.reason == grading::UNPARSABLE),
        grader_timeout: share(&|sample| sample.verdict.reason == grading::TIMEOUT),
        reasons,
        methods,
        flags,
        tokens_per_right: (right_total > 0).then(|| lengths.total as f64 / right_total as f64),
        lengths,
        groups: by_group(items, &rates, n)?,
        refused: refused(samples),
        scores: items
            .iter()
            .zip(&right)
            .map(|(item, right)| Score { id: item.id.clone(), right: *right, samples: n })
            .collect(),
    })
}

/// The samples of each item by index, each item having exactly `n`.
fn by_item<'a>(items: &[Item], samples: &'a [Sample], n: usize) -> Result<Vec<Vec<&'a Sample>>> {
    if items.is_empty() || n == 0 {
        return Err(Error::Empty("the set to be summarised".to_owned()));
    }
    let place: HashMap<&str, usize> = items.iter().enumerate().map(|(at, item)| (item.id.as_str(), at)).collect();
    let mut of_items: Vec<Vec<&Sample>> = vec![Vec::new(); items.len()];
    for sample in samples {
        let id = &sample.completion.item;
        let at = place.get(id.as_str()).ok_or_else(|| Error::UnknownItem { id: id.clone() })?;
        of_items[*at].push(sample);
    }
    for (item, of_item) in items.iter().zip(&mut of_items) {
        of_item.sort_by_key(|sample| sample.completion.index);
        let distinct = of_item.iter().enumerate().filter(|(at, sample)| sample.completion.index == *at).count();
        if distinct != n || of_item.len() != n {
            // A repeated index is a missing sample, so it is the distinct ones that are reported.
            let found = if of_item.len() == n { distinct } else { of_item.len() };
            return Err(Error::SampleCount { id: item.id.clone(), expected: n, found });
        }
    }
    Ok(of_items)
}

fn majority_at(items: &[Item], of_items: &[Vec<&Sample>], grader: &dyn Grade, settings: &Settings) -> Result<Vec<AtK>> {
    let votes: Vec<Vec<Vote>> = of_items
        .par_iter()
        .map(|samples| {
            let answers: Vec<Option<&str>> = samples.iter().map(|sample| sample.verdict.extracted.as_deref()).collect();
            let kinds = cluster(&answers, |a, b| grader.equivalent(a, b));
            let vote = |(sample, answer): (&&Sample, Option<usize>)| Vote { answer, is_right: sample.verdict.correct };
            samples.iter().zip(kinds).map(vote).collect()
        })
        .collect();
    settings
        .ks
        .iter()
        .map(|&k| {
            let values = items
                .par_iter()
                .zip(&votes)
                .map(|(item, votes)| maj_at_k(votes, k, &mut SplitMix64::keyed(settings.seed, &item.id)))
                .collect::<Result<Vec<_>>>()?;
            Ok(AtK { k, estimate: estimate(&values, settings.samples)? })
        })
        .collect()
}

fn by_group(items: &[Item], rates: &[f64], n: usize) -> Result<BTreeMap<String, BTreeMap<String, Estimate>>> {
    let mut members: BTreeMap<&str, BTreeMap<&str, Vec<f64>>> = BTreeMap::new();
    for (item, rate) in items.iter().zip(rates) {
        for (axis, value) in &item.groups {
            members.entry(axis).or_default().entry(value).or_default().push(*rate);
        }
    }
    let mut groups = BTreeMap::new();
    for (axis, values) in members {
        let of_axis: &mut BTreeMap<String, Estimate> = groups.entry(axis.to_owned()).or_default();
        for (value, rates) in values {
            of_axis.insert(value.to_owned(), estimate(&rates, n)?);
        }
    }
    Ok(groups)
}

fn refused(samples: &[Sample]) -> Vec<Refused> {
    let mut counts: BTreeMap<(&str, &str, &str), usize> = BTreeMap::new();
    for sample in samples.iter().filter(|sample| !sample.verdict.correct) {
        if let Some(extracted) = &sample.verdict.extracted {
            *counts.entry((extracted, &sample.answer, &sample.verdict.reason)).or_default() += 1;
        }
    }
    let mut refused: Vec<Refused> = counts
        .into_iter()
        .map(|((extracted, answer, reason), count)| Refused {
            extracted: extracted.to_owned(),
            answer: answer.to_owned(),
            reason: reason.to_owned(),
            count,
        })
        .collect();
    refused.sort_by_key(|refused| std::cmp::Reverse(refused.count));
    refused.truncate(20);
    refused
}
