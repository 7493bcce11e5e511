//! Stage `budget.tokens`: how long a completion may be, and what the prompt says of it.

pub mod curriculum;
pub mod fixed;

use crate::registry::variants;
use crate::{Result, State};

variants! {
    /// `[budget.tokens.<variant>]`: how long a completion may be.
    pub enum TokensConfig for TokenBudget {
        "fixed" => Fixed(fixed::Fixed),
        "curriculum" => Curriculum(curriculum::Curriculum),
    }
    default Fixed
}

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

    /// Whether prompts are told a length.
    fn tells(&self) -> bool;

    /// Whether it cannot plan before [`TokenBudget::begin`] gave it a measured length.
    fn needs_probe(&self) -> bool {
        false
    }

    /// Hears, before the first step, how many tokens a completion took on average in `data.probe`; what
    /// should be known of that comes back, a line each.
    fn begin(&mut self, _natural: Option<f64>) -> Result<Vec<String>> {
        Ok(Vec::new())
    }
}
