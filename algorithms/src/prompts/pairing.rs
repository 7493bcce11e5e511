//! `prompts.pairing`: pairs of a prompt that is rarely solved and one that is rarely failed.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Accepted, Prompts};
use crate::batch::{Role, Verdict};
use crate::rng::Rng;
use crate::success::{PromptId, Success, Tally, WINDOW};
use crate::{Batch, Error, Result, State};

/// What to do where one side has fewer prompts than a step has pairs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Fallback {
    /// The step has fewer pairs. Where not one is left, it has one whose missing side is the measured prompt nearest to
    /// its band, with a warning and the metric `substitutes`; where nothing but k = 0 and k = n is left, the run
    /// stops. A run that never had a pair stops at its start.
    #[default]
    FewerPairs,
    /// The short side takes the prompts nearest to its band from between the bands; they are counted.
    Midrange,
    /// The step has fewer pairs, and the run stops where not one is left.
    Stop,
}

/// Each step pairs a hard prompt q+, solved rarely but not never, with an easy one q-, failed rarely but not never.
///
/// A prompt comes in when k of its newest n outcomes (`window`) are right: hard for 1 <= k <= c, easy for n - c
/// <= k <= n - 1. It stays until a hard one's share exceeds `promote_at` (or an easy one's falls under
/// 1 - `promote_at`), or an easy one is right in all outcomes of two windows; with k = 0 or k = n it waits. Of each
/// side the least used come first, then the rarest by a fading mean, then the smallest id; both sides of
/// a step are equal in number. Pairs whose two groups have no difference are refused and others drawn, or, where
/// there is no other, the same once more. Rates come from `data.probe` and from training itself. A run on one pair
/// is `pairs` = 1 and a pool of two problems.
///
/// With few outcomes a prompt of rate 1/2 looks rare now and then: probe with 32 or more. One pair overfits:
/// stop on held-out score. Rare events must be met: with p = 1/8, 8 rollouts miss it in 34 % of the groups.
/// Source: Beyond Variance, arXiv 2602.03452, of which only the abstract and a summary were at hand: the band of q+,
/// c, the ranking, more than one pair and the retirement are this project's own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Pairing {
    /// Pairs a step, K; a step has twice as many prompts.
    pub pairs: usize,
    /// Width of both bands in outcomes, c; absent = max(1, n/8 rounded).
    pub band: Option<usize>,
    /// Newest outcomes that are looked at, at most n.
    pub window: usize,
    /// Outcomes that a prompt must have to be looked at.
    pub min_count: usize,
    /// Share of right outcomes above which a hard prompt is hard no more.
    pub promote_at: f64,
    /// Steps before a prompt may come again; 0 lets it come in the next one.
    pub cool_down: usize,
    /// Draws that a step may take to fill its pairs with groups that show a difference.
    pub max_draws: usize,
    /// What to do where one side has fewer prompts than a step has pairs.
    pub fallback: Fallback,
    /// Steps between measurements of waiting and unknown prompts, whose rollouts are not trained on; absent = none.
    pub reprobe_every: Option<usize>,
    /// Prompts that such a measurement takes.
    pub reprobe: usize,
}

impl Default for Pairing {
    fn default() -> Self {
        Self {
            pairs: 1,
            band: None,
            window: 32,
            min_count: 8,
            promote_at: 0.5,
            cool_down: 0,
            max_draws: 4,
            fallback: Fallback::FewerPairs,
            reprobe_every: None,
            reprobe: 8,
        }
    }
}

impl Pairing {
    /// The stage. Errors: no pair, windows and bands that cannot hold, shares outside their range.
    pub fn build(&self) -> Result<Box<dyn Prompts>> {
        let key = |name: &str| format!("{STAGE}.{name}");
        for (name, value) in [("pairs", self.pairs), ("max_draws", self.max_draws), ("reprobe", self.reprobe)] {
            if value == 0 {
                return Err(Error::config(key(name), 0, "set it to 1 or more"));
            }
        }
        if !(2..=WINDOW).contains(&self.window) {
            let why = format!("2 to {WINDOW} of the newest outcomes are kept");
            return Err(Error::config(key("window"), self.window, why));
        }
        if !(2..=self.window).contains(&self.min_count) {
            let why =
                format!("a rare event needs at least 2 outcomes, and `window` = {} at most are seen", self.window);
            return Err(Error::config(key("min_count"), self.min_count, why));
        }
        if let Some(band) = self.band.filter(|c| !(1..=self.window / 2).contains(c)) {
            let why = format!("a band of rare events is 1 to half of `window` = {} outcomes wide", self.window);
            return Err(Error::config(key("band"), band, why));
        }
        if !(self.promote_at > 0.0 && self.promote_at < 1.0) {
            return Err(Error::config(key("promote_at"), self.promote_at, "it is a share of outcomes between 0 and 1"));
        }
        if self.reprobe_every == Some(0) {
            return Err(Error::config(key("reprobe_every"), 0, "leave it out for no measurements"));
        }
        Ok(Box::new(Pairs { settings: self.clone(), memory: Memory::default(), step: Step::default() }))
    }

    /// Width of the bands for n outcomes, c.
    pub fn width(&self, n: usize) -> usize {
        self.band.unwrap_or(((n as f64 / 8.0).round() as usize).max(1))
    }

    /// Whether k right of n lie in the band of hard prompts, 1 to c; never all of them.
    pub fn is_hard(&self, k: usize, n: usize) -> bool {
        (1..=self.width(n)).contains(&k) && k < n
    }

    /// Whether k right of n lie in the band of easy prompts, n - c to n - 1; never none of them.
    pub fn is_easy(&self, k: usize, n: usize) -> bool {
        k >= 1 && k < n && k + self.width(n) >= n
    }

    /// The side on which k right of n outcomes come in, if on any; where the bands of few outcomes overlap,
    /// the nearer end decides.
    pub fn side(&self, k: usize, n: usize) -> Option<Side> {
        match (self.is_hard(k, n), self.is_easy(k, n)) {
            (true, true) => Some(if 2 * k <= n { Side::Hard } else { Side::Easy }),
            (true, false) => Some(Side::Hard),
            (false, true) => Some(Side::Easy),
            (false, false) => None,
        }
    }
}

/// A side of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// q+: rarely solved.
    Hard,
    /// q-: rarely failed.
    Easy,
}

/// What is remembered of a prompt that has or had a side.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    side: Option<Side>,
    uses: u64,
    last: Option<u64>,
}

/// What survives a restart.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Memory {
    /// Steps completed.
    steps: u64,
    records: BTreeMap<PromptId, Record>,
}

/// The step that is being filled; begins anew when the step is over.
#[derive(Default)]
struct Step {
    /// Prompts drawn so far.
    drawn: BTreeSet<PromptId>,
    /// Pairs of the newest draw, hard prompt first.
    pairs: Vec<[PromptId; 2]>,
    /// Number of the newest draw's first pair in the step.
    first: usize,
    /// Pairs kept so far.
    kept: usize,
    /// Draws so far.
    draws: usize,
    /// Prompts that were only measured.
    measured: BTreeSet<PromptId>,
    /// Prompts from between the bands.
    midrange: usize,
    /// Prompts that stand for a side that has none left.
    substitutes: usize,
}

struct Pairs {
    settings: Pairing,
    memory: Memory,
    step: Step,
}

const STAGE: &str = "prompts.pairing";

impl Pairs {
    /// k and n of the newest outcomes, if there are enough.
    fn newest(&self, tally: &Tally) -> Option<(usize, usize)> {
        let (k, n) = tally.history.newest(self.settings.window);
        (n >= self.settings.min_count).then_some((k, n))
    }

    /// Whether its newest outcomes are neither all right nor all wrong.
    fn is_mixed(&self, tally: &Tally) -> bool {
        self.newest(tally).is_some_and(|(k, n)| k >= 1 && k < n)
    }

    /// The side that a prompt has now, for good or waiting.
    fn side_now(&self, id: PromptId, tally: &Tally) -> Option<Side> {
        let (k, n) = self.newest(tally)?;
        let share = k as f64 / n as f64;
        let held = self.memory.records.get(&id).and_then(|r| r.side);
        let (all_right, all) = tally.history.newest(2 * self.settings.window);
        match held {
            Some(Side::Hard) if share <= self.settings.promote_at => Some(Side::Hard),
            Some(Side::Easy) if share < 1.0 - self.settings.promote_at => self.settings.side(k, n),
            Some(Side::Easy) if all_right == all && all >= WINDOW.min(2 * self.settings.window) => None,
            Some(Side::Easy) => Some(Side::Easy),
            _ => self.settings.side(k, n),
        }
    }

    fn is_free(&self, id: PromptId) -> bool {
        let rests = self.memory.records.get(&id).and_then(|r| r.last);
        let is_cool = rests.is_none_or(|last| self.memory.steps >= last + 1 + self.settings.cool_down as u64);
        is_cool && !self.step.drawn.contains(&id)
    }

    /// Uses, rarity (the smaller the rarer) and id: the order in which prompts of a side are taken.
    fn rank(&self, id: PromptId, side: Side, tally: &Tally) -> (u64, f64, PromptId) {
        let uses = self.memory.records.get(&id).map_or(0, |r| r.uses);
        let rate = tally.smoothed_rate();
        (uses, if side == Side::Hard { rate } else { 1.0 - rate }, id)
    }

    /// Prompts of a side that may be taken, in order; none with k = 0 or k = n.
    fn eligible(&self, success: &Success, pool: usize, side: Side) -> Vec<PromptId> {
        let mut found: Vec<_> = success
            .iter()
            .filter(|(id, tally)| {
                *id < pool && self.is_mixed(tally) && self.is_free(*id) && self.side_now(*id, tally) == Some(side)
            })
            .map(|(id, tally)| self.rank(id, side, tally))
            .collect();
        sort(&mut found);
        found.into_iter().map(|(.., id)| id).collect()
    }

    /// Prompts between the bands, those nearest to the side first.
    fn midrange(&self, success: &Success, pool: usize, side: Side) -> Vec<PromptId> {
        let mut found: Vec<_> = success
            .iter()
            .filter(|(id, tally)| {
                *id < pool && self.is_mixed(tally) && self.is_free(*id) && self.side_now(*id, tally).is_none()
            })
            .map(|(id, tally)| {
                let (_, rarity, id) = self.rank(id, side, tally);
                (0, rarity, id)
            })
            .collect();
        sort(&mut found);
        found.into_iter().map(|(.., id)| id).collect()
    }

    /// The two sides, of equal length, `pairs` at most.
    fn sides(&mut self, success: &Success, pool: usize, pairs: usize) -> (Vec<PromptId>, Vec<PromptId>) {
        let mut hard = self.eligible(success, pool, Side::Hard);
        let mut easy = self.eligible(success, pool, Side::Easy);
        if self.settings.fallback == Fallback::Midrange {
            for (list, side) in [(&mut hard, Side::Hard), (&mut easy, Side::Easy)] {
                let missing = pairs.saturating_sub(list.len());
                let between = self.midrange(success, pool, side);
                list.extend(between.into_iter().take(missing));
            }
            // The middle of the pool may have stood in for both sides.
            easy.retain(|id| !hard.iter().take(pairs).any(|h| h == id));
        }
        let count = pairs.min(hard.len()).min(easy.len());
        hard.truncate(count);
        easy.truncate(count);
        (hard, easy)
    }

    /// What a step that has kept no pair makes do with where the bands hold no other: the pairs just refused, once more; else,
    /// unless `fallback` is `stop`, one with the measured prompt nearest to its band on the side that has none.
    fn last_resort(&mut self, success: &Success, pool: usize) -> Vec<[PromptId; 2]> {
        match self.settings.fallback {
            _ if !self.step.pairs.is_empty() => self.step.pairs.clone(),
            Fallback::Stop => Vec::new(),
            // Bands that are empty from the start are a mistake to be told of.
            _ if self.memory.records.is_empty() => Vec::new(),
            _ => self.substitute(success, pool).into_iter().collect(),
        }
    }

    fn substitute(&mut self, success: &Success, pool: usize) -> Option<[PromptId; 2]> {
        let own = |side| self.eligible(success, pool, side).first().copied();
        let nearest = |side, other| self.nearest(success, pool, side).into_iter().find(|id| Some(*id) != other);
        let (own_hard, own_easy) = (own(Side::Hard), own(Side::Easy));
        let hard = own_hard.or_else(|| nearest(Side::Hard, own_easy))?;
        let easy = own_easy.or_else(|| nearest(Side::Easy, Some(hard)))?;
        self.step.substitutes = usize::from(own_hard.is_none()) + usize::from(own_easy.is_none());
        Some([hard, easy])
    }

    /// Measured prompts from the nearest to a side's band on: those of the side that rest, then others with both
    /// outcomes. With k = 0 or k = n a prompt teaches nothing, and stands for neither side.
    fn nearest(&self, success: &Success, pool: usize, side: Side) -> Vec<PromptId> {
        let mut found: Vec<_> = success
            .iter()
            .filter(|(id, tally)| *id < pool && self.is_mixed(tally))
            .map(|(id, tally)| {
                let (_, rarity, _) = self.rank(id, side, tally);
                (u64::from(self.side_now(id, tally) != Some(side)), rarity, id)
            })
            .collect();
        sort(&mut found);
        found.into_iter().map(|(.., id)| id).collect()
    }

    /// Prompts to be measured again: those that wait with k = 0 or k = n, then unknown ones.
    fn reserve(&self, success: &Success, pool: usize, rng: &mut Rng) -> Vec<PromptId> {
        let due = self.settings.reprobe_every.is_some_and(|every| (self.memory.steps + 1).is_multiple_of(every as u64));
        if !due || !self.step.drawn.is_empty() {
            return Vec::new();
        }
        let waits = |id: &PromptId| {
            let tally = success.get(*id);
            self.memory.records.contains_key(id) && self.newest(&tally).is_some_and(|(k, n)| k == 0 || k == n)
        };
        let is_unknown = |id: &PromptId| self.newest(&success.get(*id)).is_none();
        let mut waiting: Vec<PromptId> = (0..pool).filter(waits).collect();
        let mut unknown: Vec<PromptId> = (0..pool).filter(is_unknown).collect();
        rng.shuffle(&mut waiting);
        rng.shuffle(&mut unknown);
        waiting.into_iter().chain(unknown).take(self.settings.reprobe).collect()
    }

    fn nothing_to_pair(&self, success: &Success, pool: usize) -> Error {
        let known = success.iter().filter(|(id, t)| *id < pool && self.newest(t).is_some()).count();
        let (hard, easy) =
            (self.eligible(success, pool, Side::Hard).len(), self.eligible(success, pool, Side::Easy).len());
        let why = if known == 0 {
            format!(
                "none of the {pool} prompts has {} judged completions: measure them by `candlewick probe` and name the file in `data.probe`",
                self.settings.min_count
            )
        } else {
            format!(
                "of {known} measured prompts {hard} lie in the band of hard ones (solved rarely, not never) and {easy} in that of easy ones (failed rarely, not never), and a pair takes one of each: widen `band`, set `fallback` to \"midrange\" or \"fewer_pairs\", add problems, or probe with more rollouts"
            )
        };
        Error::Exhausted { stage: STAGE, why }
    }
}

fn sort(found: &mut [(u64, f64, PromptId)]) {
    found.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)).then(a.2.cmp(&b.2)));
}

impl Prompts for Pairs {
    /// Pairs as `[hard, easy, hard, easy, ...]`, `n` / 2 at most, then prompts that are only to be measured.
    /// Empty once the step has a pair and the bands no other.
    fn choose(&mut self, pool: usize, success: &Success, n: usize, rng: &mut Rng) -> Result<Vec<PromptId>> {
        let reserve = self.reserve(success, pool, rng);
        let (hard, easy) = self.sides(success, pool, n / 2);
        let is_midrange = |id: &PromptId| self.side_now(*id, &success.get(*id)).is_none();
        self.step.midrange += hard.iter().chain(&easy).filter(|id| is_midrange(id)).count();
        let mut pairs: Vec<[PromptId; 2]> = hard.into_iter().zip(easy).map(|(h, e)| [h, e]).collect();
        if pairs.is_empty() && self.step.kept == 0 {
            pairs.extend(self.last_resort(success, pool));
        }
        if pairs.is_empty() && self.step.kept == 0 && reserve.is_empty() {
            return Err(self.nothing_to_pair(success, pool));
        }
        self.step.first += self.step.pairs.len();
        self.step.pairs = pairs;
        for [h, e] in self.step.pairs.clone() {
            for (id, side) in [(h, Side::Hard), (e, Side::Easy)] {
                // Who stands in for a side, from between the bands or in need, does not come to belong to it.
                let is_own = self.side_now(id, &success.get(id)) == Some(side);
                let record = self.memory.records.entry(id).or_default();
                if is_own {
                    record.side = Some(side);
                }
                record.uses += 1;
                record.last = Some(self.memory.steps);
            }
        }
        self.step.measured = reserve.into_iter().filter(|id| !self.step.pairs.as_flattened().contains(id)).collect();
        let chosen: Vec<PromptId> = self.step.pairs.iter().flatten().chain(&self.step.measured).copied().collect();
        self.step.drawn.extend(&chosen);
        Ok(chosen)
    }

    fn per_step(&self) -> usize {
        2 * self.settings.pairs
    }

    fn reads_success(&self) -> bool {
        true
    }

    fn max_draws(&self) -> usize {
        self.settings.max_draws
    }

    /// Marks the sides of each pair.
    fn tag(&self, draw: &mut Batch) {
        for i in 0..draw.rows() {
            for (number, pair) in self.step.pairs.iter().enumerate() {
                if let Some(side) = pair.iter().position(|id| *id == draw.group[i]) {
                    draw.role[i] = if side == 0 { Role::Hard } else { Role::Easy };
                    draw.pair[i] = Some(self.step.first + number);
                }
            }
        }
    }

    /// Keeps both groups of a pair, or neither; unless `fallback` is `stop`, the last draw of a step keeps one pair in any
    /// case. Metrics: `pairs` kept, `refused` (no difference on either side), `flat` (kept without one), `short` (pairs that the
    /// bands could not fill), `midrange` (prompts from between the bands), `substitutes` (prompts for a side that has none
    /// left; above 0 the problems are used up), `measured` (prompts sampled only for their rate), `known` (prompts that
    /// have or had a side).
    fn accept(&mut self, draw: &Batch) -> Result<Accepted> {
        let groups = draw.groups();
        let at = |id: PromptId| groups.iter().position(|g| draw.group[g.start] == id);
        let mut accepted = Accepted::default();
        let mut flat = Vec::new();
        for pair in &self.step.pairs {
            let [Some(hard), Some(easy)] = pair.map(at) else { continue };
            if has_difference(draw, &groups[hard]) || has_difference(draw, &groups[easy]) {
                accepted.keep.extend([hard, easy]);
            } else {
                flat.push([hard, easy]);
            }
        }
        self.step.draws += 1;
        let is_last = self.step.draws >= self.settings.max_draws && self.settings.fallback != Fallback::Stop;
        let refused = flat.len();
        if is_last && self.step.kept == 0 && accepted.keep.is_empty() {
            accepted.keep.extend(flat.drain(..flat.len().min(1)).flatten());
        }
        let pairs = accepted.keep.len() / 2;
        self.step.kept += pairs;
        let m = &mut accepted.metrics;
        m.sum("pairs", pairs as f64);
        m.sum("refused", flat.len() as f64);
        m.sum("flat", (refused - flat.len()) as f64);
        m.min("short", self.settings.pairs.saturating_sub(self.step.kept) as f64);
        m.max("midrange", self.step.midrange as f64);
        m.max("substitutes", self.step.substitutes as f64);
        m.sum("measured", self.step.measured.len() as f64);
        m.max("known", self.memory.records.values().filter(|r| r.side.is_some()).count() as f64);
        Ok(accepted)
    }
}

/// Whether a group holds both a right and a wrong completion.
fn has_difference(draw: &Batch, group: &Range<usize>) -> bool {
    let verdicts = &draw.verdict[group.clone()];
    verdicts.contains(&Verdict::Right) && verdicts.contains(&Verdict::Wrong)
}

impl State for Pairs {
    fn save(&self) -> Option<serde_json::Value> {
        serde_json::to_value(&self.memory).ok()
    }

    fn load(&mut self, saved: &serde_json::Value) -> Result<()> {
        self.memory = Memory::deserialize(saved).map_err(|e| Error::State { stage: STAGE, why: e.to_string() })?;
        self.step = Step::default();
        Ok(())
    }

    fn observe(&mut self, outcome: &crate::Outcome) {
        if let crate::Outcome::Step { .. } = outcome {
            self.memory.steps += 1;
            self.step = Step::default();
        }
    }
}

#[cfg(test)]
#[path = "pairing_tests.rs"]
mod tests;
