//! `budget.rollouts.dual_mirror`: a run's rollouts, prompt by prompt, at a price that follows the spending.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::bounds::Bounds;
use super::{Allocation, Purse, RolloutBudget, report, value};
use crate::success::Estimate;
use crate::{Error, Metrics, Result, State};

/// The distance that the price's step is measured in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reference {
    /// mu <- max(0, mu - eta g).
    #[default]
    Euclidean,
    /// mu <- mu exp(-eta g), so a price of 0 would stay 0.
    Entropy,
}

/// What happens where the proposal costs more than is left.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Unaffordable {
    /// The most that can be paid. Not in the paper; better in practice.
    #[default]
    Clip,
    /// Nothing, as in the paper.
    Zero,
}

/// What a rollout costs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Cost {
    /// 1.
    #[default]
    Rollouts,
    /// The prompt's mean tokens a completion over the mean of all prompts met so far; 1 where unknown.
    Tokens,
}

/// Dual mirror descent: each prompt gets the n that makes V(n, p) - mu n c largest, V as in
/// `budget.rollouts.knapsack`, c the cost of a rollout and mu a price that rises when spending runs ahead of
/// the budget's pace and falls behind it.
///
/// The budget is that of the whole run, `mean` x all its prompts: one step may spend more than the next.
/// n is 0 or `n_low` to `n_up`. For a prompt: propose n; execute what can be paid; g = rho - n c with
/// the mean budget a prompt rho; move mu against g. Prompts with fewer than `min_count` judged completions
/// get `mean`, those with rate 0 or 1 (worth nothing by V) get `n_zero` and `n_one`, and a step always keeps
/// enough for one group in each of the steps to come; none of these three is in the paper.
///
/// For pools that arrive in a stream and where pay-as-you-go matters; where a step's prompts are known
/// together, as here, `knapsack` divides each step exactly. V is at most 0.148 and useful prices lie between
/// 1e-4 and 1e-3, so `eta` must be tiny.
/// Source: The Best of Many Worlds, arXiv 2011.10124, Algorithm 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DualMirror {
    /// Mean rollouts a prompt over the run, rho.
    pub mean: usize,
    /// Fewest rollouts of a prompt that gets any; below 2 a group can show no difference.
    pub n_low: usize,
    /// Most rollouts of a prompt.
    pub n_up: usize,
    /// Rollouts of a prompt whose rate is 0.
    pub n_zero: usize,
    /// Rollouts of a prompt whose rate is 1.
    pub n_one: usize,
    /// Judged completions from which on a prompt's rate counts.
    pub min_count: u64,
    /// Newest outcomes that the rate is taken over, unless the newest visit alone has as many.
    pub buffer: usize,
    /// Step of the price; absent = 5e-4 / sqrt(prompts of the run).
    pub eta: Option<f64>,
    /// First price.
    pub mu0: f64,
    /// Largest price; absent = none.
    pub mu_max: Option<f64>,
    /// The distance that the price's step is measured in.
    pub reference: Reference,
    /// What happens where the proposal costs more than is left.
    pub when_unaffordable: Unaffordable,
    /// What a rollout costs.
    pub cost: Cost,
}

impl Default for DualMirror {
    fn default() -> Self {
        Self {
            mean: 8,
            n_low: 2,
            n_up: 64,
            n_zero: 2,
            n_one: 2,
            min_count: 8,
            buffer: 16,
            eta: None,
            mu0: 5e-4,
            mu_max: None,
            reference: Reference::Euclidean,
            when_unaffordable: Unaffordable::Clip,
            cost: Cost::Rollouts,
        }
    }
}

const STAGE: &str = "budget.rollouts.dual_mirror";
/// The step of the price is this over the square root of the run's prompts, where none is set.
const ETA: f64 = 5e-4;

impl DualMirror {
    /// The stage. Errors: bounds that cross, a price or step that cannot move.
    pub fn build(&self) -> Result<Box<dyn RolloutBudget>> {
        self.bounds().check(STAGE)?;
        let key = |name: &str| format!("{STAGE}.{name}");
        let is_positive = |x: f64| x > 0.0 && x.is_finite();
        if let Some(eta) = self.eta.filter(|eta| !is_positive(*eta)) {
            return Err(Error::config(key("eta"), eta, "the price would not move: set a small positive number"));
        }
        let starts = self.mu0.is_finite() && self.mu0 >= 0.0;
        if !starts || (self.mu0 == 0.0 && self.reference == Reference::Entropy) {
            let why = "a price is 0 or above, and above 0 with `reference` = \"entropy\", where 0 stays 0";
            return Err(Error::config(key("mu0"), self.mu0, why));
        }
        if let Some(most) = self.mu_max.filter(|most| !is_positive(*most) || *most < self.mu0) {
            return Err(Error::config(key("mu_max"), most, "the largest price is positive and at least `mu0`"));
        }
        Ok(Box::new(Stream { settings: self.clone(), account: None }))
    }

    fn bounds(&self) -> Bounds {
        let Self { mean, n_low, n_up, n_zero, n_one, min_count, buffer, .. } = *self;
        Bounds { mean, n_low, n_up, n_zero, n_one, min_count, buffer }
    }
}

/// The price and what is left; moves with each prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Account {
    /// Price of a unit of cost.
    pub mu: f64,
    /// What is left of the budget.
    pub remaining: f64,
    /// Mean budget a prompt.
    pub rho: f64,
    /// Step of the price.
    pub eta: f64,
    /// Distance of the price's step.
    pub reference: Reference,
    /// Largest price.
    pub mu_max: Option<f64>,
    /// What happens where the proposal cannot be paid.
    pub when_unaffordable: Unaffordable,
}

/// What one prompt was offered and got.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Visit {
    /// Rollouts that are worth most at the price.
    pub proposed: usize,
    /// Rollouts that were paid for.
    pub executed: usize,
    /// rho - proposed x cost.
    pub subgradient: f64,
}

impl Account {
    /// The member of `actions` (rising, 0 first) with the largest V(n, p) - mu n cost, the smallest among equals.
    pub fn propose(&self, actions: &[usize], p: f64, cost: f64) -> usize {
        let worth = |n: usize| value::value(n, p) - self.mu * n as f64 * cost;
        let mut best = (0, worth(0));
        for &n in actions {
            let candidate = worth(n);
            if candidate > best.1 {
                best = (n, candidate);
            }
        }
        best.0
    }

    /// Pays for `proposed` as far as possible while `reserve` stays, and moves the price.
    ///
    /// `actions` are the numbers that may be executed instead, rising.
    pub fn settle(&mut self, actions: &[usize], proposed: usize, cost: f64, reserve: f64) -> Visit {
        let free = self.remaining - reserve;
        let is_paid = |n: usize| n as f64 * cost <= free;
        let executed = match self.when_unaffordable {
            _ if is_paid(proposed) => proposed,
            Unaffordable::Zero => 0,
            Unaffordable::Clip => actions.iter().copied().filter(|&n| n <= proposed && is_paid(n)).max().unwrap_or(0),
        };
        self.remaining -= executed as f64 * cost;
        let subgradient = self.rho - proposed as f64 * cost;
        self.mu = match self.reference {
            Reference::Euclidean => (self.mu - self.eta * subgradient).max(0.0),
            Reference::Entropy => self.mu * (-self.eta * subgradient).exp(),
        };
        self.mu = self.mu_max.map_or(self.mu, |most| self.mu.min(most));
        Visit { proposed, executed, subgradient }
    }
}

/// The account of a run, opened at its first step, and the mean tokens of a completion so far.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Books {
    account: Account,
    tokens: f64,
    prompts: f64,
}

struct Stream {
    settings: DualMirror,
    account: Option<Books>,
}

impl Stream {
    fn open(&self, prompts: usize) -> Books {
        let s = &self.settings;
        let account = Account {
            mu: s.mu0,
            remaining: (s.mean * prompts) as f64,
            rho: s.mean as f64,
            eta: s.eta.unwrap_or(ETA / (prompts.max(1) as f64).sqrt()),
            reference: s.reference,
            mu_max: s.mu_max,
            when_unaffordable: s.when_unaffordable,
        };
        Books { account, tokens: 0.0, prompts: 0.0 }
    }
}

impl RolloutBudget for Stream {
    /// Metrics besides those of the stage: `price` (mu after the step), `remaining` (of the run's budget),
    /// `pace` (spent so far over what an even pace would have spent; about 1 from the middle of the run on).
    fn allocate(&mut self, estimates: &[Estimate], purse: &Purse) -> Result<Allocation> {
        let mut books = match self.account.take() {
            Some(books) => books,
            None => self.open(estimates.len() * purse.horizon),
        };
        let s = &self.settings;
        let actions: Vec<usize> = std::iter::once(0).chain(s.n_low..=s.n_up).collect();
        let later = (s.n_low * purse.horizon.saturating_sub(1)) as f64;
        let rates: Vec<Option<f64>> = estimates.iter().map(|e| s.bounds().rate(e)).collect();
        let mut counts = Vec::with_capacity(estimates.len());
        for (i, (estimate, rate)) in estimates.iter().zip(&rates).enumerate() {
            if let Some(tokens) = estimate.tokens {
                books.tokens += tokens;
                books.prompts += 1.0;
            }
            let cost = match (s.cost, estimate.tokens) {
                (Cost::Tokens, Some(tokens)) if tokens > 0.0 => tokens * books.prompts / books.tokens,
                _ => 1.0,
            };
            let proposed = match *rate {
                None => s.mean,
                Some(p) if p <= 0.0 => s.n_zero,
                Some(p) if p >= 1.0 => s.n_one,
                Some(p) => books.account.propose(&actions, p, cost),
            };
            let mut executed = books.account.settle(&actions, proposed, cost, later * cost).executed;
            // A step without a single completion would be no step: its last prompt gets a group.
            if i + 1 == estimates.len() && executed == 0 && counts.iter().all(|n| *n == 0) {
                executed = s.n_low;
                books.account.remaining -= (s.n_low as f64 * cost).min(books.account.remaining);
            }
            counts.push(executed);
        }
        let wanted = s.mean * estimates.len();
        let unspent = wanted.saturating_sub(counts.iter().sum());
        let mut metrics = Metrics::new();
        report(&counts, unspent, &rates, &mut metrics);
        metrics.max("price", books.account.mu);
        metrics.min("remaining", books.account.remaining);
        let ahead = books.account.rho * (purse.horizon - 1) as f64 * estimates.len() as f64;
        let total = books.account.rho * (purse.step + purse.horizon) as f64 * estimates.len() as f64;
        metrics.max("pace", (total - books.account.remaining) / (total - ahead).max(1.0));
        self.account = Some(books);
        Ok(Allocation { counts, unspent, metrics })
    }

    fn mean(&self) -> f64 {
        self.settings.mean as f64
    }

    fn reads_success(&self) -> bool {
        true
    }
}

impl State for Stream {
    fn save(&self) -> Option<serde_json::Value> {
        self.account.as_ref().and_then(|books| serde_json::to_value(books).ok())
    }

    fn load(&mut self, saved: &serde_json::Value) -> Result<()> {
        let books = Books::deserialize(saved).map_err(|e| Error::State { stage: STAGE, why: e.to_string() })?;
        self.account = Some(books);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use crate::success::Success;

    /// A pool of 40 prompts with rates between 0 and 1, each judged 16 times.
    fn pool() -> Success {
        let (mut success, mut rng) = (Success::default(), Rng::keyed(&[2]));
        for id in 0..40 {
            let p = rng.uniform();
            let outcomes: Vec<bool> = (0..16).map(|_| rng.uniform() < p).collect();
            success.record(id, &outcomes, 16, 16 * (10 + 5 * id as u64));
        }
        success
    }

    fn walk(stage: &mut dyn RolloutBudget, steps: std::ops::Range<usize>) -> Vec<Vec<usize>> {
        let success = pool();
        steps
            .map(|step| {
                let ids: Vec<usize> = (0..8).map(|i| (step * 8 + i) % 40).collect();
                let purse = Purse { step, run: None, horizon: 60 - step };
                stage.allocate(&success.estimates(&ids), &purse).unwrap().counts
            })
            .collect()
    }

    #[test]
    fn the_run_spends_its_budget_and_no_more_and_no_step_is_empty() {
        for cost in [Cost::Rollouts, Cost::Tokens] {
            for when_unaffordable in [Unaffordable::Clip, Unaffordable::Zero] {
                let settings = DualMirror { cost, when_unaffordable, ..DualMirror::default() };
                let steps = walk(settings.build().unwrap().as_mut(), 0..60);
                let spent: usize = steps.iter().flatten().sum();
                assert!(steps.iter().all(|step| step.iter().sum::<usize>() >= 2), "{settings:?}");
                assert!(cost == Cost::Tokens || spent <= 60 * 8 * 8, "{spent}");
                assert!(spent > 60 * 8 * 5, "{spent} {settings:?}");
            }
        }
    }

    #[test]
    fn a_restart_continues_at_the_same_price() {
        let whole = walk(DualMirror::default().build().unwrap().as_mut(), 0..60);
        let mut first = DualMirror::default().build().unwrap();
        assert_eq!(walk(first.as_mut(), 0..25), whole[..25]);
        let mut second = DualMirror::default().build().unwrap();
        second.load(&first.save().unwrap()).unwrap();
        assert_eq!(walk(second.as_mut(), 25..60), whole[25..]);
        assert!(second.load(&serde_json::json!({})).is_err());
    }

    #[test]
    fn impossible_settings_are_refused() {
        for bad in [
            DualMirror { n_low: 1, ..DualMirror::default() },
            DualMirror { n_one: 9, ..DualMirror::default() },
            DualMirror { n_up: 4, ..DualMirror::default() },
            DualMirror { eta: Some(0.0), ..DualMirror::default() },
            DualMirror { mu0: 0.0, reference: Reference::Entropy, ..DualMirror::default() },
            DualMirror { mu_max: Some(1e-5), ..DualMirror::default() },
        ] {
            assert!(matches!(bad.build(), Err(Error::Config { .. })), "{bad:?}");
        }
    }
}
