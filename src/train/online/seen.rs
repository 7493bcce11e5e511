//! What a draw of rollouts shows: how often each prompt is solved, what rewards could not score, its metrics.

use std::ops::Range;

use anyhow::Result;
use candlewick_algorithms::Metrics;
use candlewick_algorithms::batch::{Finish, Verdict};
use candlewick_algorithms::budget::rollouts::Effective;
use candlewick_rewards::Rewards;

use super::Run;
use super::draw::Draw;
use crate::rollout::Completion;
use crate::train::folder::RunFolder;
use crate::train::grading;
use crate::train::metrics::Step;

/// What the draws of a step have shown so far, by stage.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) rollout: Metrics,
    pub(super) reward: Metrics,
    pub(super) prompts: Metrics,
    pub(super) budget: Metrics,
    pub(super) tokens: Metrics,
}

impl Seen {
    /// Writes it into the step's metrics.
    pub(super) fn record(&self, metrics: &mut Step) {
        metrics.extend("rollout", &self.rollout);
        metrics.extend("reward", &self.reward);
        metrics.extend("prompts", &self.prompts);
        metrics.extend("budget/rollouts", &self.budget);
        metrics.extend("budget/tokens", &self.tokens);
    }
}

impl Run<'_> {
    /// Success statistics of a draw. Metric `calibration_error`: mean |rate estimated before - rate of this draw| over prompts
    /// that were judged before; about the standard error of the draw's rates where estimates are good.
    pub(super) fn record_success(&mut self, draw: &Draw, metrics: &mut Metrics) {
        for range in draw.batch.groups() {
            let id = draw.batch.group[range.start];
            let verdicts = &draw.batch.verdict[range.clone()];
            let outcomes: Vec<bool> =
                verdicts.iter().filter(|v| **v != Verdict::Missing).map(|v| *v == Verdict::Right).collect();
            let rate = outcomes.iter().filter(|right| **right).count() as f64 / outcomes.len() as f64;
            let estimate = self.stages.success.estimates(&[id]).remove(0);
            if let (Some(before), false) = (estimate.recent_rate(16), outcomes.is_empty()) {
                metrics.mean("calibration_error", (before - rate).abs(), 1.0);
            }
            let tokens = draw.completions[range.clone()].iter().map(|c| c.tokens.len() as u64).sum();
            debug_assert!(draw.prompts.contains(&id));
            self.stages.success.record(id, &outcomes, range.len() as u64, tokens);
        }
    }

    /// Keeps the failures' texts, and stops the run where a reward has too many.
    pub(super) fn check_failures(&self, folder: &RunFolder, draw: &Draw) -> Result<()> {
        let describe = |row: usize| {
            let id = &self.pool[draw.prompts[draw.completions[row].request]].0.id;
            (id.clone(), draw.texts[row].clone())
        };
        let place = (self.state.step + 1, folder.join("rollouts"));
        grading::check_failures(&self.rewards, &draw.graded, (place.0, &place.1), describe)
    }
}

/// What the rollouts look like.
pub(super) fn rollout_metrics(draw: &Draw) -> Metrics {
    let (mut m, n) = (Metrics::new(), draw.completions.len() as f64);
    let lengths: Vec<f64> = draw.completions.iter().map(|c| c.tokens.len() as f64).collect();
    let tokens: f64 = lengths.iter().sum();
    m.sum("draws", 1.0);
    m.sum("tokens", tokens);
    m.mean("tokens_mean", tokens / n, n);
    m.min("tokens_min", lengths.iter().copied().fold(f64::INFINITY, f64::min));
    m.max("tokens_max", lengths.iter().copied().fold(0.0, f64::max));
    let is_cut = |c: &&Completion| c.finish == Finish::Length;
    m.mean("truncated", draw.completions.iter().filter(is_cut).count() as f64 / n, n);
    m.mean("entropy", draw.completions.iter().flat_map(|c| &c.entropy).sum::<f64>() / tokens, tokens);
    let groups = draw.batch.groups();
    let is_flat = |range: &Range<usize>| draw.batch.scores.values[range.clone()].windows(2).all(|w| w[0] == w[1]);
    m.mean(
        "zero_std_groups",
        groups.iter().filter(|r| is_flat(r)).count() as f64 / groups.len() as f64,
        groups.len() as f64,
    );
    // Shares that a group-relative method can learn from: rollouts in groups whose scores differ.
    let scores: Vec<&[Vec<Option<f64>>]> = groups.iter().map(|r| &draw.batch.scores.values[r.clone()]).collect();
    m.mean("effective_gradient_ratio", Effective::of(&scores).rollouts, n);
    let verdicts: Vec<&[Verdict]> = groups.iter().map(|r| &draw.batch.verdict[r.clone()]).collect();
    m.mean("mixed_groups", Effective::of(&verdicts).prompts, groups.len() as f64);
    m
}

/// What the scores look like: accuracy over the completions that were judged; mean, deviation and failures of each reward.
pub(super) fn reward_metrics(draw: &Draw, rewards: &Rewards) -> Metrics {
    let mut m = Metrics::new();
    let judged: Vec<f64> = draw.graded.verdict.iter().flatten().copied().collect();
    m.mean("accuracy", judged.iter().sum::<f64>() / judged.len().max(1) as f64, judged.len() as f64);
    for (column, name) in rewards.names().into_iter().enumerate() {
        let scores: Vec<f64> = draw.graded.scores[column].iter().filter_map(|s| s.as_ref().ok().copied()).collect();
        let k = scores.len() as f64;
        let mean = scores.iter().sum::<f64>() / k.max(1.0);
        let variance = scores.iter().map(|s| (s - mean) * (s - mean)).sum::<f64>() / (k - 1.0).max(1.0);
        m.mean(name, mean, k);
        m.mean(&format!("{name}/std"), variance.sqrt(), k);
        m.sum(&format!("{name}/failed"), draw.graded.scores[column].len() as f64 - k);
    }
    m
}
