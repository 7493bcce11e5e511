//! Stage `budget.tokens`: how long a completion may be, and what the prompt says of it.

use crate::{Result, State};

/// The token budget of one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Length that the prompt tells the model, in tokens.
    pub told: Option<usize>,
    /// Where generation stops, in new tokens.
    pub cap: usize,
}

/// Plans the length of a step's completions.
pub trait TokenBudget: State + Send {
    /// The plan for step `step` of `steps`.
    fn plan(&self, step: usize, steps: usize) -> Result<Plan>;

    /// The largest cap that any step may have.
    fn largest(&self) -> usize;
}
