//! Section `eval`: what the model is tested on, and when.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Tests before, during and after training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EvalConfig {
    /// Names of benchmarks; `validation` is the held-out part of `[data]`. Empty tests nothing.
    pub benchmarks: Vec<String>,
    /// Steps between tests while training; 0 tests only before and after.
    pub every: usize,
    /// Problems to take of each benchmark, the same ones each time; absent takes all.
    #[schemars(range(min = 1))]
    pub problems: Option<usize>,
    /// Completions for each problem; the interval counts problems, not completions.
    #[schemars(range(min = 1))]
    pub samples: usize,
    /// Temperature of the completions; 0 takes the most likely token.
    pub temperature: f64,
    /// Most tokens of a completion; absent takes the largest budget of training, or 512.
    #[schemars(range(min = 1))]
    pub limit: Option<usize>,
    /// Length that the prompts tell: none, that of the last training step, or a number of tokens. A model trained on
    /// told lengths answers otherwise without one: report both.
    pub budget: EvalBudget,
}

/// What the prompts of a test tell about the length of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum EvalBudget {
    /// In words.
    Word(BudgetWord),
    /// This many tokens.
    Tokens(usize),
}

/// A budget that is not a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BudgetWord {
    /// Prompts tell nothing.
    None,
    /// The length that `budget.tokens` tells in the last training step.
    Final,
}

impl Default for EvalConfig {
    fn default() -> Self {
        Self {
            benchmarks: Vec::new(),
            every: 0,
            problems: None,
            samples: 1,
            temperature: 0.0,
            limit: None,
            budget: EvalBudget::Word(BudgetWord::None),
        }
    }
}
