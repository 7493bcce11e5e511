//! `advantage.w_reinforce`: a little from right completions, the rest from wrong ones.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Advantage, verdict};
use crate::{Batch, Error, Metrics, Result, State};

/// Weighted REINFORCE: A = lambda if right, -1 if wrong. No baseline, no scale.
///
/// Between `advantage.nsr` (lambda 0) and plain REINFORCE with rewards of +-1 (lambda 1). Rows
/// without verdict have advantage 0 and stay in the divisors. Reads the verdict, no scores.
/// Source: The Surprising Effectiveness of Negative Reinforcement in LLM Reasoning, arXiv 2506.01347.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WReinforce {
    /// Advantage of a right completion.
    pub lambda: f64,
}

impl Default for WReinforce {
    fn default() -> Self {
        Self { lambda: 0.1 }
    }
}

impl WReinforce {
    /// The stage. Errors: a `lambda` that is no positive number.
    pub fn build(&self) -> Result<Box<dyn Advantage>> {
        if !(self.lambda > 0.0 && self.lambda.is_finite()) {
            let why = "it is a positive number; use [advantage.nsr] to learn from wrong completions only";
            return Err(Error::config("advantage.w_reinforce.lambda", self.lambda, why));
        }
        Ok(Box::new(self.clone()))
    }
}

impl Advantage for WReinforce {
    fn reads_verdict(&self) -> bool {
        true
    }

    fn compares_within_group(&self) -> bool {
        false
    }

    fn apply(&mut self, batch: &mut Batch) -> Result<Metrics> {
        Ok(verdict::apply(batch, self.lambda, -1.0, false))
    }
}

impl State for WReinforce {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Table;
    use crate::batch::{Advantages, Verdict};

    #[test]
    fn right_counts_lambda_and_wrong_minus_one() {
        let mut batch = Batch::new(Table::filled(3, 2, 1.0), vec![0, 0, 0]).unwrap();
        batch.verdict = vec![Verdict::Right, Verdict::Wrong, Verdict::Missing];
        let metrics = WReinforce::default().build().unwrap().apply(&mut batch).unwrap();
        assert_eq!(batch.advantage, Some(Advantages::Row(vec![0.1, -1.0, 0.0])));
        assert_eq!(batch.keep, [true, true, true]);
        assert_eq!(metrics.get("right_fraction"), Some(0.5));
    }
}
