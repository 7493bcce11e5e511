//! `objective.adpo`: cross-entropy between a target over a group's rollouts and the policy measured from an anchor.

pub mod list;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::list::{PlackettLuce, cross_entropy, entropy, target};
use super::grpo::kl::Estimator;
use super::rows::{Rows, Weighted};
use super::{Leaves, Loss, Objective, Reads, Rows as Examples};
use crate::batch::{Advantages, Finish};
use crate::{Batch, Error, Metrics, Needs, Result, State, Table};

/// What the policy is measured from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Anchor {
    /// The policy that sampled the rollouts.
    #[default]
    OnPolicy,
    /// The reference model; with `model.reference.sync_steps` a moving average or a copy of an earlier policy.
    Reference,
    /// The uniform distribution: log-probs themselves instead of their changes. A target that is all on one answer
    /// is then supervised fine-tuning within the list.
    Uniform,
}

/// The loss of a group of rollouts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AdpoLoss {
    /// -sum_i q_i log softmax(u)_i with q = softmax(advantage / beta_r).
    #[default]
    Softmax,
    /// The likelihood of the order by advantage.
    PlackettLuce(PlackettLuce),
}

/// A temperature for each prompt: clamp(tau (1 + alpha Hn + beta (1 - Hn)(1 - Rn)), min, max) with the prompt's mean
/// token entropy Hn over ln(vocabulary), 0 to 1, and its mean reward Rn on the scale of the batch's prompts, 0 to 1 (1/2 where
/// they are all alike). Over the whole rollout batch, as TRL-ADPO has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Adaptive {
    /// Weight of the entropy.
    pub alpha: f64,
    /// Weight of low entropy at low reward; the paper does not give it.
    pub beta: f64,
    /// Least temperature.
    pub min: f64,
    /// Largest temperature.
    pub max: f64,
}

impl Default for Adaptive {
    fn default() -> Self {
        Self { alpha: 0.5, beta: 1.0, min: 0.1, max: 5.0 }
    }
}

/// ADPO on groups of rollouts, or on given lists and pairs: loss = mean over prompts of -sum_i q_i log softmax(u)_i, u_i = (s_i - a_i)/tau, with s_i the sum of
/// a rollout's log-probs, a_i that of the anchor, and q = softmax(advantage / beta_r).
///
/// With [advantage.group] the target is that of the paper (standardised rewards); with [advantage.none] rewards count in
/// their own units. The gradient by s_i is (p_i - q_i)/(tau P): no clipping, and a step of size 1/tau. On the first update after a
/// rollout u = 0, the loss is ln G whatever the rewards, and this is a policy gradient with the bounded advantage q_i - 1/G: the
/// anchor acts from the second update on (`train.online`). Groups with equal rewards are pulled back to the anchor.
///
/// On given examples (no [rollout] section; `prompt`, `candidates` and `scores`, `probs` or `ranks`, or pairs with an optional `label`) q is
/// softmax(score / beta_r) in the scores' own units, the probabilities as they are, softmax(evenly spaced ranks / beta_r), or
/// (label, 1 - label). It needs an `anchor` other than the default. A pair with label 1 is DPO with beta = 1/tau, with 1 - e conservative
/// DPO, with 1/2 a pull back to the anchor; a teacher's probabilities as `probs` make it distillation on the list.
///
/// Sums over tokens let long rollouts dominate, and a learning rate of a token-mean loss does not carry over: for several updates on
/// completions over about 500 tokens set `length_normalize` and a `tau` of 0.1 to 0.5. q_i > 1/G pushes up the least bad of a bad
/// group: `drop_all_failed`, or [advantage.none]. Failing shows as `win_mass` at 1 with falling entropy.
/// Source: arXiv 2510.18913 and its author's code (wk222); one author, one run of 60 steps on language models, so expect
/// nothing of its figures. Defaults are the paper's, without its adaptive temperature.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Adpo {
    /// The loss of a group.
    pub loss: AdpoLoss,
    /// Divisor of the log-prob changes, 1/beta of DPO.
    pub tau: f64,
    /// Temperature of the target; smaller is sharper.
    pub beta_r: f64,
    /// What the policy is measured from.
    pub anchor: Anchor,
    /// A temperature for each prompt in place of `tau` alone; absent = off.
    pub adaptive: Option<Adaptive>,
    /// Whether s and a are means over tokens instead of sums.
    pub length_normalize: bool,
    /// Bound of s - a; beyond it a row has no gradient. Absent = none; the author's later code has 5.
    pub clip_log_ratio: Option<f64>,
    /// Bound of u; beyond it a row has no gradient. Absent = none; the author's later code has 10.
    pub clip_score: Option<f64>,
    /// Weight of the token-mean of exp(d) - d - 1, d = anchor - current log-prob.
    pub beta_anchor_kl: f64,
    /// Whether prompts whose rewards are all 0 or below leave the mean.
    pub drop_all_failed: bool,
    /// Whether completions that did not end leave their group.
    pub mask_truncated_completions: bool,
}

impl Default for Adpo {
    fn default() -> Self {
        Self {
            loss: AdpoLoss::Softmax,
            tau: 0.8,
            beta_r: 0.5,
            anchor: Anchor::OnPolicy,
            adaptive: None,
            length_normalize: false,
            clip_log_ratio: None,
            clip_score: None,
            beta_anchor_kl: 0.0,
            drop_all_failed: false,
            mask_truncated_completions: false,
        }
    }
}

const STAGE: &str = "objective.adpo";

impl Adpo {
    /// The objective. Errors: temperatures and bounds that are not positive.
    pub fn build(&self) -> Result<Box<dyn Objective>> {
        Ok(Box::new(self.policy()?))
    }

    pub(crate) fn policy(&self) -> Result<Policy> {
        let mut positive = vec![("tau", self.tau), ("beta_r", self.beta_r)];
        positive.extend(self.clip_log_ratio.map(|c| ("clip_log_ratio", c)));
        positive.extend(self.clip_score.map(|c| ("clip_score", c)));
        let mut shares = vec![("beta_anchor_kl", self.beta_anchor_kl)];
        if let AdpoLoss::PlackettLuce(settings) = &self.loss {
            positive.push(("loss.plackett_luce.temperature", settings.temperature));
            shares.push(("loss.plackett_luce.poly_eps", settings.poly_eps));
            if !(0.0..=1.0).contains(&settings.label_smoothing) {
                let key = format!("{STAGE}.loss.plackett_luce.label_smoothing");
                return Err(Error::config(key, settings.label_smoothing, "it is a share from 0 to 1"));
            }
        }
        if let Some(adaptive) = &self.adaptive {
            positive.push(("adaptive.min", adaptive.min));
            shares.extend([("adaptive.alpha", adaptive.alpha), ("adaptive.beta", adaptive.beta)]);
            if !(adaptive.max >= adaptive.min && adaptive.max.is_finite()) {
                return Err(Error::config(format!("{STAGE}.adaptive.max"), adaptive.max, "it is at least `min`"));
            }
        }
        if let Some((name, value)) = positive.into_iter().find(|(_, x)| !(*x > 0.0 && x.is_finite())) {
            return Err(Error::config(format!("{STAGE}.{name}"), value, "it is a positive number"));
        }
        if let Some((name, value)) = shares.into_iter().find(|(_, x)| !(*x >= 0.0 && x.is_finite())) {
            return Err(Error::config(format!("{STAGE}.{name}"), value, "it is 0 (off) or a positive number"));
        }
        Ok(Policy { settings: self.clone(), tau: BTreeMap::new() })
    }
}

/// A group as a candidate set.
#[derive(Debug, Clone)]
pub(crate) struct Set {
    /// Rows of the batch that are candidates.
    pub(crate) rows: Vec<usize>,
    /// Whether it counts in the mean.
    pub(crate) is_kept: bool,
    pub(crate) tau: f64,
    /// What the target is made from, [K].
    pub(crate) advantage: Vec<f64>,
    pub(crate) q: Vec<f64>,
    /// Scores of the candidates after clipping, [K].
    pub(crate) u: Vec<f64>,
    /// Whether a candidate's score was cut, so that it has no gradient, [K].
    pub(crate) is_cut: Vec<bool>,
    /// softmax(u), [K].
    pub(crate) p: Vec<f64>,
    pub(crate) loss: f64,
    /// Derivative of the loss by each candidate's s, [K].
    pub(crate) gradient: Vec<f64>,
}

/// The objective with the temperatures of the rollout batch at hand.
pub(crate) struct Policy {
    settings: Adpo,
    /// Temperature of each group, where it is adaptive.
    tau: BTreeMap<usize, f64>,
}

impl Policy {
    /// The candidates of a group: kept, ended where that is asked for, and scored.
    fn candidates(&self, batch: &Batch, group: Range<usize>) -> Vec<usize> {
        let is_scored = |i: usize| batch.reward.as_ref().is_none_or(|r| r[i].is_some());
        let is_whole = |i: usize| !(self.settings.mask_truncated_completions && batch.finish[i] == Finish::Length);
        group.filter(|&i| batch.keep[i] && is_scored(i) && is_whole(i)).collect()
    }

    fn is_kept(&self, batch: &Batch, rows: &[usize]) -> Result<bool> {
        if !self.settings.drop_all_failed {
            return Ok(!rows.is_empty());
        }
        let rewards = reward(batch)?;
        Ok(rows.iter().any(|&i| rewards[i].is_some_and(|r| r > 0.0)))
    }

    /// Every group with its inner values, from log-prob changes s - a of each row, [N].
    pub(crate) fn sets(&self, batch: &Batch, changes: &[f64]) -> Result<Vec<Set>> {
        let s = &self.settings;
        let Some(Advantages::Row(advantage)) = &batch.advantage else {
            return Err(match batch.advantage {
                None => Error::MissingColumn { stage: STAGE, column: "advantage" },
                Some(_) => Error::Shape {
                    what: format!("advantages of {STAGE}"),
                    expected: "one a row: use [advantage.group] or [advantage.none]".into(),
                    found: "one a token".into(),
                },
            });
        };
        batch
            .groups()
            .into_iter()
            .map(|group| {
                let id = batch.group[group.start];
                let rows = self.candidates(batch, group);
                let tau = self.tau.get(&id).copied().unwrap_or(s.tau);
                let advantage: Vec<f64> = rows.iter().map(|&i| advantage[i]).collect();
                let shares: Option<Vec<f64>> = rows.iter().map(|&i| batch.label[i]).collect();
                let q = shares.filter(|q| !q.is_empty()).unwrap_or_else(|| target(&advantage, s.beta_r));
                let mut is_cut = vec![false; rows.len()];
                let u: Vec<f64> = rows
                    .iter()
                    .zip(&mut is_cut)
                    .map(|(&i, is_cut)| {
                        let ratio = bounded(changes[i], s.clip_log_ratio, is_cut);
                        bounded(ratio / tau, s.clip_score, is_cut)
                    })
                    .collect();
                let found = match &s.loss {
                    AdpoLoss::Softmax => cross_entropy(&u, &q),
                    AdpoLoss::PlackettLuce(settings) => settings.loss(&u, &advantage),
                };
                let by_sum = found.gradient.iter().zip(&is_cut).map(|(g, cut)| if *cut { 0.0 } else { g / tau });
                Ok(Set {
                    is_kept: self.is_kept(batch, &rows)?,
                    p: target(&u, 1.0),
                    gradient: by_sum.collect(),
                    loss: found.loss,
                    rows,
                    tau,
                    advantage,
                    q,
                    u,
                    is_cut,
                })
            })
            .collect()
    }

    /// Hn and Rn of each group; [`Adaptive`].
    pub(crate) fn normalised(&self, batch: &Batch) -> Result<(Vec<f64>, Vec<f64>)> {
        let entropy = batch.column(STAGE, "entropy", &batch.entropy)?;
        let vocabulary = batch.vocabulary.ok_or(Error::MissingColumn { stage: STAGE, column: "vocabulary" })?;
        let rewards = reward(batch)?;
        let mean = |values: Vec<f64>| values.iter().sum::<f64>() / values.len().max(1) as f64;
        let (mut h, mut r) = (Vec::new(), Vec::new());
        for group in batch.groups() {
            let rows = self.candidates(batch, group);
            let of_row = |&i: &usize| {
                let cells = entropy.row(i).iter().zip(batch.mask.row(i));
                let sum: f64 = cells.map(|(h, m)| if *m == 0.0 { 0.0 } else { h * m }).sum();
                sum / batch.row_tokens(i).max(1.0)
            };
            h.push((mean(rows.iter().map(of_row).collect()) / (vocabulary as f64).ln()).clamp(0.0, 1.0));
            r.push(mean(rows.iter().filter_map(|&i| rewards[i]).collect()));
        }
        let (least, most) = r.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), &x| (a.min(x), b.max(x)));
        let range = most - least;
        r.iter_mut().for_each(|x| *x = if range <= 1e-6 { 0.5 } else { (*x - least) / range });
        Ok((h, r))
    }

    fn changes(&self, rows: &Rows) -> Vec<f64> {
        if self.settings.length_normalize { rows.means() } else { rows.sums() }
    }

    fn anchor<'a>(&self, batch: &'a Batch) -> Result<Option<Cow<'a, Table>>> {
        match self.settings.anchor {
            Anchor::OnPolicy => Ok(batch.old_logp.as_ref().map(Cow::Borrowed)),
            Anchor::Reference => batch.column(STAGE, "ref_logp", &batch.ref_logp).map(Cow::Borrowed).map(Some),
            Anchor::Uniform => Ok(Some(Cow::Owned(Table::zeros(batch.rows(), batch.width())))),
        }
    }

    /// k3 between the anchor and the policy, mean over the tokens of groups that count, [1].
    fn anchor_kl(
        &self,
        batch: &Batch,
        leaves: &Leaves,
        sets: &[Set],
        metrics: &mut Metrics,
    ) -> Result<candle_core::Tensor> {
        let mut live = batch.clone();
        live.keep.fill(false);
        sets.iter().filter(|s| s.is_kept).flat_map(|s| &s.rows).for_each(|&i| live.keep[i] = true);
        let rows = Rows::read(STAGE, &live, leaves, None)?;
        let current = Table::from_tensor(&leaves.logp)?;
        let anchor = self.anchor(batch)?;
        rows.token_mean_kl(anchor.as_deref().unwrap_or(&current), Estimator::K3, metrics)
    }
}

fn reward(batch: &Batch) -> Result<&[Option<f64>]> {
    batch.reward.as_deref().ok_or(Error::MissingColumn { stage: STAGE, column: "reward" })
}

/// The value within -bound..bound; `is_cut` remembers whether it was outside.
fn bounded(value: f64, bound: Option<f64>, is_cut: &mut bool) -> f64 {
    match bound {
        Some(bound) if value.abs() > bound => {
            *is_cut = true;
            value.clamp(-bound, bound)
        }
        _ => value,
    }
}

impl Objective for Policy {
    fn needs(&self) -> Needs {
        Needs {
            ref_logp: self.settings.anchor == Anchor::Reference,
            entropy: self.settings.adaptive.is_some(),
            ..Needs::default()
        }
    }

    fn reads(&self) -> Reads {
        Reads { advantage: true, ..Reads::default() }
    }

    fn rows(&self) -> Examples {
        Examples::Lists
    }

    fn takes_any_source(&self) -> bool {
        true
    }

    fn refuses_given_examples(&self) -> Option<Error> {
        let refuse = |key: &str, value: &str, fix: &str| Some(Error::config(format!("{STAGE}.{key}"), value, fix));
        let s = &self.settings;
        match s {
            _ if s.anchor == Anchor::OnPolicy => {
                let fix =
                    "nothing was sampled that a policy could be measured from: set it to \"reference\" or \"uniform\"";
                refuse("anchor", "on_policy", fix)
            }
            _ if s.adaptive.is_some() => refuse("adaptive", "on", "it reads rewards of rollouts: remove it"),
            _ if s.drop_all_failed => refuse("drop_all_failed", "true", "it reads rewards of rollouts: remove it"),
            _ if s.mask_truncated_completions => {
                refuse("mask_truncated_completions", "true", "given answers were not cut by a budget: remove it")
            }
            _ => None,
        }
    }

    fn couples_rows(&self) -> bool {
        true
    }

    fn compares_within_group(&self) -> bool {
        true
    }

    /// Groups that leave the mean, rows that leave their group, and groups with equal advantages while the policy is still
    /// its own anchor: there p = q = 1/G exactly.
    fn idle_rows(&self, batch: &Batch) -> Vec<bool> {
        let mut idle = vec![false; batch.rows()];
        let is_first = self.settings.anchor == Anchor::OnPolicy && batch.old_logp.is_none();
        let rests_flat = is_first && self.settings.loss == AdpoLoss::Softmax;
        for group in batch.groups() {
            let rows = self.candidates(batch, group.clone());
            let is_dropped = self.is_kept(batch, &rows).is_ok_and(|kept| !kept);
            let is_flat = match &batch.advantage {
                Some(Advantages::Row(a)) => rests_flat && rows.windows(2).all(|w| a[w[0]] == a[w[1]]),
                _ => false,
            };
            group.for_each(|i| idle[i] = is_dropped || is_flat || !rows.contains(&i));
        }
        idle
    }

    fn prepare(&mut self, batch: &mut Batch) -> Result<()> {
        let Some(adaptive) = self.settings.adaptive.clone() else { return Ok(()) };
        let (h, r) = self.normalised(batch)?;
        let taus = h.iter().zip(r).map(|(h, r)| {
            let scale = 1.0 + adaptive.alpha * h + adaptive.beta * (1.0 - h) * (1.0 - r);
            (self.settings.tau * scale).clamp(adaptive.min, adaptive.max)
        });
        self.tau = batch.groups().iter().map(|g| batch.group[g.start]).zip(taus).collect();
        Ok(())
    }

    /// Metrics, over groups that count: `target_kl` (loss - H(q), nats; falls within a rollout batch), `target_entropy` (H(q)/ln G),
    /// `target_max`, `win_mass` (p of the best rollout; 1/G at the first update, should rise), `drift` (mean |s - a|, nats),
    /// `tau`, `tau_min`, `tau_max`, `dropped_prompts`, `cut_fraction` (share of rows whose score was clipped), `kl` (per token;
    /// healthy under about 0.05).
    fn loss(&self, batch: &Batch, leaves: &Leaves) -> Result<Loss> {
        let rows = Rows::read(STAGE, batch, leaves, self.anchor(batch)?.as_deref())?;
        let changes = self.changes(&rows);
        let sets = self.sets(batch, &changes)?;
        let kept: Vec<&Set> = sets.iter().filter(|s| s.is_kept).collect();
        let prompts = kept.len().max(1) as f64;
        let mut metrics = Metrics::new();
        let (mut value, mut weights) = (0.0, vec![0.0; batch.rows()]);
        for set in &kept {
            value += set.loss / prompts;
            set.rows.iter().zip(&set.gradient).for_each(|(&i, g)| weights[i] = g / prompts);
            report(set, &changes, &mut metrics);
        }
        metrics.sum("dropped_prompts", (sets.len() - kept.len()) as f64);
        let of = if self.settings.length_normalize { Weighted::Means } else { Weighted::Sums };
        let mut loss = rows.linear(value, &weights, of)?;
        if self.settings.beta_anchor_kl > 0.0 && !kept.is_empty() {
            let penalty = self.anchor_kl(batch, leaves, &sets, &mut metrics)?;
            loss = (loss + penalty.affine(self.settings.beta_anchor_kl, 0.0)?)?;
        }
        Ok(Loss { value: loss, metrics })
    }
}

fn report(set: &Set, changes: &[f64], metrics: &mut Metrics) {
    let n = set.rows.len() as f64;
    let h = entropy(&set.q);
    metrics.mean("target_kl", cross_entropy(&set.u, &set.q).loss - h, 1.0);
    if set.rows.len() > 1 {
        metrics.mean("target_entropy", h / n.ln(), 1.0);
    }
    metrics.mean("target_max", set.q.iter().copied().fold(0.0, f64::max), 1.0);
    let best = (0..set.rows.len()).reduce(|a, b| if set.advantage[b] > set.advantage[a] { b } else { a });
    metrics.mean("win_mass", best.map_or(0.0, |best| set.p[best]), 1.0);
    metrics.mean("drift", set.rows.iter().map(|&i| changes[i].abs()).sum::<f64>() / n, n);
    metrics.mean("tau", set.tau, 1.0);
    metrics.min("tau_min", set.tau);
    metrics.max("tau_max", set.tau);
    metrics.mean("cut_fraction", set.is_cut.iter().filter(|c| **c).count() as f64 / n, n);
}

impl State for Policy {}

#[cfg(test)]
mod tests;
