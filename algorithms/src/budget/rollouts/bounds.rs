//! The counts that budgets by success rate keep to, and from how many outcomes they take a rate.

use crate::success::{Estimate, WINDOW};
use crate::{Error, Result};

/// What `knapsack` and `dual_mirror` are both set by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Mean rollouts a prompt.
    pub(super) mean: usize,
    /// Fewest rollouts of a prompt whose rate lies between 0 and 1.
    pub(super) n_low: usize,
    /// Most of them.
    pub(super) n_up: usize,
    /// Rollouts of a prompt whose rate is 0.
    pub(super) n_zero: usize,
    /// Rollouts of a prompt whose rate is 1.
    pub(super) n_one: usize,
    /// Judged completions from which on a rate counts.
    pub(super) min_count: u64,
    /// Newest outcomes that it is taken over.
    pub(super) buffer: usize,
}

impl Bounds {
    /// Refuses bounds that cross, least counts that the mean cannot pay, and rates of nothing; `stage` is such as
    /// `budget.rollouts.knapsack`.
    pub(super) fn check(&self, stage: &str) -> Result<()> {
        let key = |name: &str| format!("{stage}.{name}");
        if self.n_low < 2 {
            return Err(Error::config(key("n_low"), self.n_low, "a group of fewer than 2 shows no difference"));
        }
        for (name, least) in [("n_low", self.n_low), ("n_zero", self.n_zero), ("n_one", self.n_one)] {
            if self.mean < least {
                let why = format!("the budget of `mean` = {} a prompt cannot pay it: raise `mean`", self.mean);
                return Err(Error::config(key(name), least, why));
            }
        }
        if self.n_up < self.mean {
            let why = format!("the cap must let every prompt have the mean of {}: raise it", self.mean);
            return Err(Error::config(key("n_up"), self.n_up, why));
        }
        if !(1..=WINDOW).contains(&self.buffer) {
            let why = format!("1 to {WINDOW} of the newest outcomes are kept");
            return Err(Error::config(key("buffer"), self.buffer, why));
        }
        if self.min_count == 0 {
            return Err(Error::config(key("min_count"), 0, "a rate of nothing is no rate: set it to 1 or more"));
        }
        Ok(())
    }

    /// What is taken as a prompt's success rate; `None` while too little is known.
    pub(super) fn rate(&self, estimate: &Estimate) -> Option<f64> {
        estimate.recent_rate(self.buffer).filter(|_| estimate.count >= self.min_count)
    }
}
