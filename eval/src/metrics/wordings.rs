//! One benchmark under several wordings of its instruction: how much of a score hangs on the words.
//!
//! Reported as in "Evaluating the Zero-shot Robustness of Instruction-tuned Language Models" (arXiv 2306.11270): the
//! mean over wordings, the worst of them and the spread.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Estimate, Results, Score, estimate};
use crate::{Error, Result};

/// Accuracy under one wording.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Wording {
    /// The instruction.
    pub instruction: String,
    /// avg@n under it.
    pub accuracy: Estimate,
}

/// Accuracy under all of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Wordings {
    /// Each wording; the first is that of the main results.
    pub each: Vec<Wording>,
    /// Mean over wordings; its interval takes a problem with all its wordings as one cluster.
    pub mean: Estimate,
    /// Lowest accuracy.
    pub worst: f64,
    /// Highest less lowest accuracy.
    pub spread: f64,
}

impl Wordings {
    /// From the results under each wording, on the same problems in the same order.
    ///
    /// Errors: [`Error::Empty`] without a wording; [`Error::NotComparable`] when problems differ.
    pub fn new(each: &[(String, &Results)]) -> Result<Self> {
        let (_, first) = each.first().ok_or_else(|| Error::Empty("the set of wordings".to_owned()))?;
        let mut rates = vec![0.0; first.scores.len()];
        for (_, results) in each {
            let is_same = |(a, b): (&Score, &Score)| a.id == b.id;
            if results.scores.len() != rates.len() || !results.scores.iter().zip(&first.scores).all(is_same) {
                return Err(Error::NotComparable("the wordings were asked on different problems".to_owned()));
            }
            for (rate, score) in rates.iter_mut().zip(&results.scores) {
                *rate += score.rate() / each.len() as f64;
            }
        }
        // Sums of shares may exceed 1 in the last bit.
        rates.iter_mut().for_each(|rate| *rate = rate.clamp(0.0, 1.0));
        let values = || each.iter().map(|(_, results)| results.accuracy.value);
        let (worst, best) = values().fold((f64::INFINITY, f64::NEG_INFINITY), |(w, b), v| (w.min(v), b.max(v)));
        let wording = |(instruction, results): &(String, &Results)| Wording {
            instruction: instruction.clone(),
            accuracy: results.accuracy,
        };
        Ok(Self {
            each: each.iter().map(wording).collect(),
            mean: estimate(&rates, first.samples * each.len())?,
            worst,
            spread: best - worst,
        })
    }
}
