//! `budget.tokens.fixed`: one length for the whole run.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Plan, TokenBudget};
use crate::{Error, Result, State};

/// One length for the whole run: generation stops after `limit` new tokens.
///
/// With `told`, the prompt also says how long the answer may be; the two are independent, so that
/// a model can be told less than it is given.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Fixed {
    /// New tokens after which generation stops.
    pub limit: usize,
    /// Length that the prompt tells the model, in tokens; absent = nothing is said.
    pub told: Option<usize>,
}

impl Default for Fixed {
    fn default() -> Self {
        Self { limit: 256, told: None }
    }
}

impl Fixed {
    /// The stage. Errors: `limit` or `told` of 0, `told` above `limit`.
    pub fn build(&self) -> Result<Box<dyn TokenBudget>> {
        if self.limit == 0 {
            return Err(Error::config("budget.tokens.fixed.limit", 0, "a completion needs at least one token"));
        }
        match self.told {
            Some(0) => Err(Error::config("budget.tokens.fixed.told", 0, "leave it out to tell the model nothing")),
            Some(told) if told > self.limit => {
                let why =
                    format!("generation already stops at `limit` = {}: raise `limit` or lower `told`", self.limit);
                Err(Error::config("budget.tokens.fixed.told", told, why))
            }
            _ => Ok(Box::new(self.clone())),
        }
    }
}

impl TokenBudget for Fixed {
    fn plan(&self, _step: usize, _steps: usize) -> Result<Plan> {
        Ok(Plan { told: self.told, cap: self.limit })
    }

    fn largest(&self) -> usize {
        self.limit
    }

    fn tells(&self) -> bool {
        self.told.is_some()
    }
}

impl State for Fixed {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plan_never_changes_and_impossible_lengths_are_refused() {
        let stage = Fixed { limit: 64, told: Some(32) }.build().unwrap();
        assert_eq!(stage.plan(9, 10).unwrap(), Plan { told: Some(32), cap: 64 });
        assert_eq!(stage.largest(), 64);
        for bad in
            [Fixed { limit: 0, told: None }, Fixed { limit: 8, told: Some(0) }, Fixed { limit: 8, told: Some(9) }]
        {
            assert!(matches!(bad.build(), Err(Error::Config { .. })), "{bad:?}");
        }
    }
}
