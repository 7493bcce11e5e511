//! Stage `budget.rollouts`: how many rollouts each prompt of a step gets.

pub mod uniform;

use crate::registry::variants;
use crate::success::Estimate;
use crate::{Metrics, Result, State};

variants! {
    /// `[budget.rollouts.<variant>]`: how many rollouts each prompt gets.
    pub enum RolloutsConfig for RolloutBudget {
        "uniform" => Uniform(uniform::Uniform),
    }
    default Uniform
}

/// What there is to spend.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Purse {
    /// Training step.
    pub step: usize,
    /// Rollouts left for the whole run, where the run has a limit.
    pub run: Option<usize>,
    /// Steps left in the run.
    pub horizon: usize,
}

/// Rollouts for each prompt; counts given plus `unspent` make the step's total.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Allocation {
    /// Rollouts of each estimate handed in, in that order; 0 skips the prompt.
    pub counts: Vec<usize>,
    /// Rollouts of the step's total that were not given out.
    pub unspent: usize,
    /// What to report.
    pub metrics: Metrics,
}

/// Divides a step's rollouts among its prompts.
pub trait RolloutBudget: State + Send {
    /// Rollouts for each prompt.
    fn allocate(&mut self, estimates: &[Estimate], purse: &Purse) -> Result<Allocation>;

    /// Mean rollouts a prompt, for batch arithmetic and memory estimates.
    fn mean(&self) -> f64;
}
