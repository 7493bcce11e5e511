//! `advantage.psr`: learn from right completions only.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Advantage, verdict};
use crate::{Batch, Metrics, Result, State};

/// Positive-sample reinforcement: A = 1 if right, else 0; wrong rows leave the batch and its divisors.
///
/// Raises Pass@1 at the price of diversity (Pass@k at large k). Reads the verdict, no scores.
/// Source: The Surprising Effectiveness of Negative Reinforcement in LLM Reasoning, arXiv 2506.01347.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Psr {}

impl Psr {
    /// The stage.
    pub fn build(&self) -> Result<Box<dyn Advantage>> {
        Ok(Box::new(self.clone()))
    }
}

impl Advantage for Psr {
    fn reads_verdict(&self) -> bool {
        true
    }

    fn compares_within_group(&self) -> bool {
        false
    }

    fn apply(&mut self, batch: &mut Batch) -> Result<Metrics> {
        Ok(verdict::apply(batch, 1.0, 0.0, true))
    }
}

impl State for Psr {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Table;
    use crate::batch::{Advantages, Verdict};

    #[test]
    fn only_right_rows_stay() {
        let mut batch = Batch::new(Table::filled(3, 2, 1.0), vec![0, 0, 0]).unwrap();
        batch.verdict = vec![Verdict::Right, Verdict::Wrong, Verdict::Missing];
        let metrics = Psr::default().build().unwrap().apply(&mut batch).unwrap();
        assert_eq!(batch.advantage, Some(Advantages::Row(vec![1.0, 0.0, 0.0])));
        assert_eq!(batch.keep, [true, false, false]);
        assert_eq!(metrics.get("right_fraction"), Some(0.5));
    }
}
