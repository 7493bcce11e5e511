//! `budget.rollouts.uniform`: the same number of rollouts for every prompt.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Allocation, Purse, RolloutBudget};
use crate::success::Estimate;
use crate::{Error, Metrics, Result, State};

/// The same number of rollouts for every prompt, G.
///
/// Where the run has a rollout limit, prompts at the end of the step get fewer, then none, once it
/// is nearly spent. A group of one has no advantage under group-relative estimators: use 2 or more
/// with them. TRL's default is 8, DAPO 16, DeepSeekMath 64.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Uniform {
    /// Rollouts of each prompt.
    pub mean: usize,
}

impl Default for Uniform {
    fn default() -> Self {
        Self { mean: 8 }
    }
}

impl Uniform {
    /// The stage. Errors: `mean` of 0.
    pub fn build(&self) -> Result<Box<dyn RolloutBudget>> {
        if self.mean == 0 {
            return Err(Error::config("budget.rollouts.uniform.mean", 0, "a prompt needs at least one rollout"));
        }
        Ok(Box::new(self.clone()))
    }
}

impl RolloutBudget for Uniform {
    fn allocate(&mut self, estimates: &[Estimate], purse: &Purse) -> Result<Allocation> {
        let total = self.mean * estimates.len();
        let mut left = purse.run.map_or(total, |run| run.min(total));
        let counts = estimates
            .iter()
            .map(|_| {
                let count = self.mean.min(left);
                left -= count;
                count
            })
            .collect::<Vec<_>>();
        let unspent = total - counts.iter().sum::<usize>();
        Ok(Allocation { counts, unspent, metrics: Metrics::new() })
    }

    fn mean(&self) -> f64 {
        self.mean as f64
    }
}

impl State for Uniform {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn given_and_unspent_make_the_total() {
        let estimates: Vec<Estimate> = (0..3).map(|id| Estimate { id, ..Estimate::default() }).collect();
        let mut stage = Uniform { mean: 4 }.build().unwrap();
        let mut allocate = |run| stage.allocate(&estimates, &Purse { step: 0, run, horizon: 1 }).unwrap();
        assert_eq!(allocate(None).counts, [4, 4, 4]);
        let scarce = allocate(Some(6));
        assert_eq!((scarce.counts, scarce.unspent), (vec![4, 2, 0], 6));
        assert!(Uniform { mean: 0 }.build().is_err());
    }
}
