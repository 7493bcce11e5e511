//! Stage `budget.rollouts`: how many rollouts each prompt of a step gets.

mod bounds;
pub mod dual_mirror;
pub mod knapsack;
pub mod uniform;
pub mod value;

use crate::registry::variants;
use crate::success::Estimate;
use crate::{Metrics, Result, State};

variants! {
    /// `[budget.rollouts.<variant>]`: how many rollouts each prompt gets.
    pub enum RolloutsConfig for RolloutBudget {
        "uniform" => Uniform(uniform::Uniform),
        "knapsack" => Knapsack(knapsack::Knapsack),
        "dual_mirror" => DualMirror(dual_mirror::DualMirror),
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
    /// Steps left in the run, this one included.
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

    /// Whether it reads success rates, so that completions must be judged right or wrong.
    fn reads_success(&self) -> bool {
        false
    }
}

/// How far rollouts can teach a group-relative method, from the rewards of each group.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Effective {
    /// Rollouts in groups whose rewards differ, over all rollouts.
    pub rollouts: f64,
    /// Groups whose rewards differ, over all groups.
    pub prompts: f64,
}

impl Effective {
    /// The shares over groups of any size; both are 0 where there is no group.
    pub fn of<R: PartialEq>(groups: &[&[R]]) -> Self {
        let is_mixed = |group: &&&[R]| group.windows(2).any(|pair| pair[0] != pair[1]);
        let all: usize = groups.iter().map(|group| group.len()).sum();
        let mixed: usize = groups.iter().filter(is_mixed).map(|group| group.len()).sum();
        let count = groups.iter().filter(is_mixed).count();
        Self { rollouts: mixed as f64 / all.max(1) as f64, prompts: count as f64 / groups.len().max(1) as f64 }
    }
}

/// Reports how counts are spread: `allocated`, `unspent`, `count_min`, `count_max` (rollouts),
/// `covered_prompts` (those with any), and prompts by estimated rate: `rate_zero`, `rate_low` (0 to 0.2),
/// `rate_middle`, `rate_high` (from 0.8), `rate_one`, `rate_unknown`; `predicted_mixed`: groups expected to
/// hold both outcomes, by Q(n, p) of the estimates, over prompts whose rate is known.
fn report(counts: &[usize], unspent: usize, rates: &[Option<f64>], metrics: &mut Metrics) {
    metrics.sum("allocated", counts.iter().sum::<usize>() as f64);
    metrics.sum("unspent", unspent as f64);
    metrics.min("count_min", counts.iter().copied().min().unwrap_or(0) as f64);
    metrics.max("count_max", counts.iter().copied().max().unwrap_or(0) as f64);
    metrics.sum("covered_prompts", counts.iter().filter(|n| **n > 0).count() as f64);
    for name in ["rate_zero", "rate_low", "rate_middle", "rate_high", "rate_one", "rate_unknown"] {
        metrics.sum(name, rates.iter().filter(|rate| band(**rate) == name).count() as f64);
    }
    let known: Vec<f64> =
        counts.iter().zip(rates).filter_map(|(&n, rate)| rate.map(|p| value::prob_mixed(n, p))).collect();
    metrics.mean("predicted_mixed", known.iter().sum::<f64>() / known.len().max(1) as f64, known.len() as f64);
}

fn band(rate: Option<f64>) -> &'static str {
    match rate {
        None => "rate_unknown",
        Some(p) if p <= 0.0 => "rate_zero",
        Some(p) if p <= 0.2 => "rate_low",
        Some(p) if p < 0.8 => "rate_middle",
        Some(p) if p < 1.0 => "rate_high",
        Some(_) => "rate_one",
    }
}
