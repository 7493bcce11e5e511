//! `budget.rollouts.knapsack`: a step's rollouts where they are most likely to teach.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::bounds::Bounds;
use super::{Allocation, Purse, RolloutBudget, report, value};
use crate::success::Estimate;
use crate::{Error, Metrics, Result, State};

/// Divides a step's rollouts among its prompts so that sum V(N_i, p_i) is largest, V(N,p) =
/// (1 - p^N - (1-p)^N) p (1-p)^2 of the estimated success rate p.
///
/// 1. A prompt with fewer than `min_count` judged completions gets exactly `mean`, one with rate 0
///    `n_zero`, one with rate 1 `n_one`; the others `n_low`. 2. What is left goes to the others one rollout
///    at a time, to the largest gain in V, up to `n_up`. With `fallback`, what they cannot use (more than
///    it takes to see both outcomes with chance `alpha`) goes to the prompts with rate 0 instead. 3. With
///    no prompt in between, it is spread over those with rate 0, else unknown ones, else those with rate 1.
///
/// The total of a step is `mean` x prompts, as with `budget.rollouts.uniform`: where all prompts in
/// between are at `n_up`, the rest is dealt out among them all the same, and counted. Rates lag by a visit, so nothing is gained before the second epoch unless
/// `data.probe` names a file of rates. Very large counts come from `fallback` alone: V by itself favours
/// rates about 1/3. Not for runs of few epochs without a probe.
/// Source: Knapsack RL, arXiv 2509.25849, and its code, whose rule is mended where it errs (value of no
/// extra rollout, prompts never seen, division by zero).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Knapsack {
    /// Mean rollouts a prompt; a step's total is this times its prompts.
    pub mean: usize,
    /// Fewest rollouts of a prompt in between; below 2 a group can show no difference.
    pub n_low: usize,
    /// Most rollouts that the largest sum of values gives a prompt; a surplus may exceed it.
    pub n_up: usize,
    /// Rollouts of a prompt whose rate is 0, before any surplus.
    pub n_zero: usize,
    /// Rollouts of a prompt whose rate is 1.
    pub n_one: usize,
    /// Judged completions from which on a prompt's rate counts.
    pub min_count: u64,
    /// Newest outcomes that the rate is taken over, unless the newest visit alone has as many.
    pub buffer: usize,
    /// Whether what the others cannot use goes to prompts with rate 0.
    pub fallback: bool,
    /// Chance of both outcomes that is enough for a prompt, where `fallback` is on.
    pub alpha: f64,
    /// Judged completions without a success after which a prompt gets `n_zero` and no surplus any more
    /// (a wrong key would draw it for ever); absent never gives up. Not in the paper.
    pub give_up_after: Option<u64>,
}

impl Default for Knapsack {
    fn default() -> Self {
        Self {
            mean: 8,
            n_low: 2,
            n_up: 128,
            n_zero: 2,
            n_one: 2,
            min_count: 8,
            buffer: 16,
            fallback: true,
            alpha: 0.9,
            give_up_after: None,
        }
    }
}

const STAGE: &str = "budget.rollouts.knapsack";

impl Knapsack {
    /// The stage. Errors: bounds that cross, a mean that the least counts exceed, shares outside 0 to 1.
    pub fn build(&self) -> Result<Box<dyn RolloutBudget>> {
        self.bounds().check(STAGE)?;
        if !(self.alpha > 0.0 && self.alpha < 1.0) {
            return Err(Error::config(
                format!("{STAGE}.alpha"),
                self.alpha,
                "it is a chance between 0 and 1, such as 0.9",
            ));
        }
        Ok(Box::new(self.clone()))
    }

    /// What is taken as a prompt's success rate; `None` while too little is known.
    pub fn rate(&self, estimate: &Estimate) -> Option<f64> {
        self.bounds().rate(estimate)
    }

    fn bounds(&self) -> Bounds {
        let Self { mean, n_low, n_up, n_zero, n_one, min_count, buffer, .. } = *self;
        Bounds { mean, n_low, n_up, n_zero, n_one, min_count, buffer }
    }

    /// The rule of the struct's text on known rates; `has_hope` says which prompts of rate 0 may take surplus.
    ///
    /// The total must cover the least counts; what nobody may take, because all were given up, is `unspent`.
    pub fn divide(&self, rates: &[Option<f64>], has_hope: &[bool], total: usize) -> Division {
        let floor = |rate: &Option<f64>| match rate {
            None => self.mean,
            Some(p) if *p <= 0.0 => self.n_zero,
            Some(p) if *p >= 1.0 => self.n_one,
            Some(_) => self.n_low,
        };
        let mut counts: Vec<usize> = rates.iter().map(floor).collect();
        let left = total.saturating_sub(counts.iter().sum());
        let those = |is: &dyn Fn(usize) -> bool| (0..rates.len()).filter(|&i| is(i)).collect::<Vec<_>>();
        let between = those(&|i| rates[i].is_some_and(|p| p > 0.0 && p < 1.0));
        let zero = those(&|i| rates[i].is_some_and(|p| p <= 0.0) && has_hope[i]);
        if between.is_empty() {
            let unknown = those(&|i| rates[i].is_none());
            let one = those(&|i| rates[i].is_some_and(|p| p >= 1.0));
            let takers = [zero, unknown, one].into_iter().find(|t| !t.is_empty()).unwrap_or_default();
            let unspent = spread(&mut counts, &takers, left);
            return Division { counts, unspent, ..Division::default() };
        }
        let need = between.iter().map(|&i| {
            let enough = value::enough(rates[i].unwrap_or(0.5), self.alpha);
            enough.min(self.n_up).saturating_sub(self.n_low)
        });
        let need: usize = need.sum();
        let falls_back = self.fallback && need < left && !zero.is_empty();
        let surplus = if falls_back { left - need } else { 0 };
        let p: Vec<f64> = between.iter().map(|&i| rates[i].unwrap_or(0.5)).collect();
        let budget = self.n_low * between.len() + left - surplus;
        let (solved, over) = value::solve(&p, self.n_low, self.n_up, budget);
        between.iter().zip(solved).for_each(|(&i, n)| counts[i] = n);
        spread(&mut counts, &between, over);
        spread(&mut counts, &zero, surplus);
        Division { counts, unspent: 0, surplus, need, above_cap: over }
    }
}

/// A division of a step's total; the counts and `unspent` make it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Division {
    /// Rollouts of each prompt.
    pub counts: Vec<usize>,
    /// What nobody may take.
    pub unspent: usize,
    /// Rollouts that went to prompts of rate 0 beyond `n_zero`.
    pub surplus: usize,
    /// Rollouts beyond `n_low` that the prompts in between can use.
    pub need: usize,
    /// Rollouts that went to prompts in between although all of them were at `n_up`.
    pub above_cap: usize,
}

/// Gives `left` evenly to `takers`, the remainder to the first ones; returns what is over if there are none.
fn spread(counts: &mut [usize], takers: &[usize], left: usize) -> usize {
    if takers.is_empty() {
        return left;
    }
    let (each, extra) = (left / takers.len(), left % takers.len());
    takers.iter().enumerate().for_each(|(k, &i)| counts[i] += each + usize::from(k < extra));
    0
}

impl RolloutBudget for Knapsack {
    /// Metrics besides those of the stage: `fallback` (1 where surplus went to prompts of rate 0), `surplus`,
    /// `at_cap` (prompts at `n_up` or above), `above_cap` (rollouts that every prompt at its cap left over), `given_up` (prompts).
    fn allocate(&mut self, estimates: &[Estimate], purse: &Purse) -> Result<Allocation> {
        let rates: Vec<Option<f64>> = estimates.iter().map(|e| self.rate(e)).collect();
        let has_hope: Vec<bool> = estimates
            .iter()
            .map(|e| self.give_up_after.is_none_or(|limit| e.count < limit || e.rate.is_some_and(|rate| rate > 0.0)))
            .collect();
        let wanted = self.mean * estimates.len();
        let total = purse.run.map_or(wanted, |run| run.min(wanted));
        let mut division = self.divide(&rates, &has_hope, total);
        // A run that is nearly spent cannot pay the least counts: the last prompts go without.
        let mut over = division.counts.iter().sum::<usize>().saturating_sub(total);
        for count in division.counts.iter_mut().rev() {
            let back = over.min(*count);
            *count -= back;
            over -= back;
        }
        let unspent = wanted - division.counts.iter().sum::<usize>();
        let mut metrics = Metrics::new();
        report(&division.counts, unspent, &rates, &mut metrics);
        metrics.max("fallback", f64::from(u8::from(division.surplus > 0)));
        metrics.sum("surplus", division.surplus as f64);
        metrics.sum("at_cap", division.counts.iter().filter(|n| **n >= self.n_up).count() as f64);
        metrics.sum("above_cap", division.above_cap as f64);
        metrics.sum("given_up", has_hope.iter().filter(|h| !**h).count() as f64);
        Ok(Allocation { counts: division.counts, unspent, metrics })
    }

    fn mean(&self) -> f64 {
        self.mean as f64
    }

    fn reads_success(&self) -> bool {
        true
    }
}

impl State for Knapsack {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use crate::success::Success;

    fn purse(run: Option<usize>) -> Purse {
        Purse { step: 0, run, horizon: 1 }
    }

    #[test]
    fn given_and_unspent_make_the_total_whatever_the_rates() {
        let mut rng = Rng::keyed(&[9]);
        for case in 0..300 {
            let mut success = Success::default();
            let prompts = 1 + rng.below(12) as usize;
            for id in 0..prompts {
                let p = [0.0, 0.1, 0.5, 0.95, 1.0][rng.below(5) as usize];
                let outcomes: Vec<bool> = (0..rng.below(40)).map(|_| rng.uniform() < p).collect();
                success.record(id, &outcomes, outcomes.len() as u64, 0);
            }
            let mean = 2 + rng.below(10) as usize;
            let settings = Knapsack {
                mean,
                n_up: mean + rng.below(20) as usize,
                fallback: case % 2 == 0,
                give_up_after: (case % 3 == 0).then_some(20),
                ..Knapsack::default()
            };
            let run = (case % 5 == 0).then(|| rng.below((mean * prompts) as u64) as usize);
            let estimates = success.estimates(&(0..prompts).collect::<Vec<_>>());
            let given = settings.build().unwrap().allocate(&estimates, &purse(run)).unwrap();
            let sum: usize = given.counts.iter().sum();
            assert_eq!(sum + given.unspent, mean * prompts, "{settings:?}");
            assert!(run.is_none_or(|run| sum <= run));
        }
    }

    #[test]
    fn a_prompt_that_never_succeeds_is_given_up() {
        let mut success = Success::default();
        success.record(0, &[false; 40], 40, 0);
        success.record(1, &[true, false, true, false, true, false, true, false], 8, 0);
        let counts = |give_up_after| {
            let settings = Knapsack { give_up_after, mean: 32, ..Knapsack::default() };
            settings.build().unwrap().allocate(&success.estimates(&[0, 1]), &purse(None)).unwrap().counts
        };
        assert!(counts(None)[0] > 50, "{:?}", counts(None));
        assert_eq!(counts(Some(32)), [2, 62]);
    }

    #[test]
    fn impossible_settings_are_refused() {
        for bad in [
            Knapsack { n_low: 1, ..Knapsack::default() },
            Knapsack { mean: 1, ..Knapsack::default() },
            Knapsack { n_zero: 9, ..Knapsack::default() },
            Knapsack { n_up: 7, ..Knapsack::default() },
            Knapsack { alpha: 1.0, ..Knapsack::default() },
            Knapsack { buffer: 65, ..Knapsack::default() },
            Knapsack { min_count: 0, ..Knapsack::default() },
        ] {
            assert!(matches!(bad.build(), Err(Error::Config { .. })), "{bad:?}");
        }
    }
}
