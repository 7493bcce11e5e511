//! `mix = { constrained = { thresholds = { ... } } }`: rewards kept at proxy points by Lagrange multipliers.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::stage::{Mixed, Mixer, View};
use super::{positive, read_state, standardised, weighted_sum};
use crate::advantage::whiten::{mean, sample_std};
use crate::{Batch, Error, Metrics, Needs, Outcome, Result};

/// Added to the deviations within groups.
const GROUP_EPS: f64 = 1e-4;
/// Added to the deviations over the batch.
const BATCH_EPS: f64 = 1e-8;

/// What is asked of a constrained reward.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Hold {
    /// Kept at its threshold or above, f = sigmoid ("mu-PPO"): the multiplier lies in (0, 1).
    #[default]
    AtLeast,
    /// Held at its threshold, f = tanh ("xi-PPO"): the multiplier may turn negative and push down.
    At,
}

impl Hold {
    /// f(u), the multiplier.
    pub(crate) fn squash(self, u: f64) -> f64 {
        match self {
            Self::AtLeast => 1.0 / (1.0 + (-u).exp()),
            Self::At => u.tanh(),
        }
    }

    /// f'(u) from f(u).
    fn slope(self, f: f64) -> f64 {
        match self {
            Self::AtLeast => f * (1.0 - f),
            Self::At => 1.0 - f * f,
        }
    }
}

/// What the multipliers leave its weight to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Base {
    /// Staying near the reference: r_0 = -sum_t (old_logp - ref_logp) of a rollout.
    #[default]
    Kl,
    /// The weighted sum of the rewards without a threshold.
    Rewards,
}

/// A = (K - sum_k f(u_k)) A_0 + sum_k f(u_k) A_k for the K rewards with a threshold theta_k.
///
/// A_0 comes of the base, A_k of reward k; each is standardised within its group (sample deviation + 1e-4)
/// and again over the batch (+ 1e-8). After a step that the optimiser accepted, u takes a step of gradient
/// descent with momentum on sum_k f(u_k)(mean(R_k) - theta_k), its gradient clipped: a reward above its
/// threshold loses weight, one below gains it. Thresholds are proxy points, where a better reward stops
/// meaning a better model: train on each reward alone and take the peak of the evaluation over the reward.
/// A rollout without a score for k gets nothing from k; where nobody has one, u_k stands still.
/// It brings its own baseline and scale: only `advantage.none` takes it. Source: Constrained RLHF,
/// arXiv 2310.04373. Departures: groups instead of critics, u starts at 0 and not at random, and
/// `base = "rewards"`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Constrained {
    /// theta_k of each constrained reward, in the reward's own units.
    pub thresholds: BTreeMap<String, f64>,
    /// Whether a threshold is a floor or a target.
    pub hold: Hold,
    /// What has the rest of the weight.
    pub base: Base,
    /// Step size of the multipliers.
    pub learning_rate: f64,
    /// Share of the last step that the next one keeps.
    pub momentum: f64,
    /// Largest norm of the multipliers' gradient.
    pub clip_norm: f64,
}

impl Default for Constrained {
    fn default() -> Self {
        Self {
            thresholds: BTreeMap::new(),
            hold: Hold::default(),
            base: Base::default(),
            learning_rate: 0.01,
            momentum: 0.1,
            clip_norm: 0.5,
        }
    }
}

impl Constrained {
    pub(super) fn validate(&self, key: &str, weights: &BTreeMap<String, f64>) -> Result<()> {
        let key = format!("{key}.constrained");
        if self.thresholds.is_empty() {
            let why = "name a reward and the value to keep it at, such as thresholds = { length = 0.8 }";
            return Err(Error::config(format!("{key}.thresholds"), "{}", why));
        }
        if let Some((name, theta)) = self.thresholds.iter().find(|(_, theta)| !theta.is_finite()) {
            return Err(Error::config(format!("{key}.thresholds.{name}"), theta, "a threshold is a finite number"));
        }
        positive(&format!("{key}.learning_rate"), self.learning_rate)?;
        positive(&format!("{key}.clip_norm"), self.clip_norm)?;
        if !(0.0..1.0).contains(&self.momentum) {
            return Err(Error::config(format!("{key}.momentum"), self.momentum, "it lies in 0..1"));
        }
        match weights.keys().find(|name| self.base == Base::Kl || self.thresholds.contains_key(*name)) {
            Some(name) => {
                let why = format!("nothing reads the weight of `{name}`: the multipliers weigh the rewards");
                Err(Error::config(format!("{key}.base"), "kl", why))
            }
            None => Ok(()),
        }
    }

    pub(super) fn mixer(&self) -> Box<dyn Mixer> {
        let k = self.thresholds.len();
        let multipliers = Multipliers { raw: vec![0.0; k], velocity: vec![0.0; k] };
        Box::new(Constraining { settings: self.clone(), multipliers, means: None })
    }

    /// The base's weight K - sum f, and each f(u_k).
    pub(crate) fn weights(&self, raw: &[f64]) -> (f64, Vec<f64>) {
        let each: Vec<f64> = raw.iter().map(|&u| self.hold.squash(u)).collect();
        (raw.len() as f64 - each.iter().sum::<f64>(), each)
    }

    /// The gradient of sum_k f(u_k)(mean_k - theta_k) at u; 0 for a reward without a mean.
    pub(crate) fn gradient(&self, raw: &[f64], thetas: &[f64], means: &[Option<f64>]) -> Vec<f64> {
        let slope = |u: f64| self.hold.slope(self.hold.squash(u));
        let gap = |k: usize| means[k].map_or(0.0, |mean| mean - thetas[k]);
        (0..raw.len()).map(|k| slope(raw[k]) * gap(k)).collect()
    }

    /// One step of the multipliers against their gradient.
    pub(crate) fn advance(&self, multipliers: &mut Multipliers, gradient: &[f64]) {
        let norm = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
        // 1e-6 as in torch's clip_grad_norm_.
        let scale = (self.clip_norm / (norm + 1e-6)).min(1.0);
        for ((u, v), g) in multipliers.raw.iter_mut().zip(&mut multipliers.velocity).zip(gradient) {
            *v = self.momentum * *v + scale * g;
            *u -= self.learning_rate * *v;
        }
    }
}

/// sum of the base's and the rewards' advantages by these weights, each standardised over the batch, [N].
///
/// A missing advantage contributes 0; a row with none at all stays without.
pub(crate) fn weighed(
    base: &[Option<f64>],
    each: &[Vec<Option<f64>>],
    weights: &(f64, Vec<f64>),
    eps: f64,
) -> Vec<Option<f64>> {
    let standard = |column: Vec<Option<f64>>| {
        let present: Vec<f64> = column.iter().flatten().copied().collect();
        let (centre, scale) = (mean(&present), sample_std(&present) + eps);
        column.into_iter().map(|a| a.map(|a| (a - centre) / scale)).collect::<Vec<_>>()
    };
    let mut columns = vec![(weights.0, standard(base.to_vec()))];
    for (k, weight) in weights.1.iter().enumerate() {
        columns.push((*weight, standard(each.iter().map(|row| row[k]).collect())));
    }
    (0..base.len())
        .map(|i| {
            let is_scored = base[i].is_some() || each[i].iter().any(Option::is_some);
            is_scored.then(|| columns.iter().filter_map(|(w, column)| column[i].map(|a| w * a)).sum())
        })
        .collect()
}

/// The multipliers before squashing, and their momentum.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Multipliers {
    pub(crate) raw: Vec<f64>,
    pub(crate) velocity: Vec<f64>,
}

struct Constraining {
    settings: Constrained,
    multipliers: Multipliers,
    /// Mean of each constrained reward in the step that was mixed last.
    means: Option<Vec<Option<f64>>>,
}

/// Rewards of each scored rollout for staying near the reference, [N].
fn closeness(batch: &Batch) -> Result<Vec<Option<f64>>> {
    let stage = "advantage.none";
    let old = batch.column(stage, "old_logp", &batch.old_logp)?;
    let reference = batch.column(stage, "ref_logp", &batch.ref_logp)?;
    let row = |i: usize| {
        let cells = batch.mask.row(i).iter().zip(old.row(i).iter().zip(reference.row(i)));
        let gap: f64 = cells.filter(|(m, _)| **m != 0.0).map(|(m, (o, r))| m * (o - r)).sum();
        batch.scores.values[i].iter().any(Option::is_some).then_some(-gap)
    };
    Ok((0..batch.rows()).map(row).collect())
}

impl Mixer for Constraining {
    /// Metrics: `mix_multiplier_<reward>`, f(u_k): pinned at an end, the threshold is out of reach;
    /// `mix_gap_<reward>`, mean minus threshold, near 0 when a constraint is active; `mix_base_weight`.
    fn mix(&mut self, step: &View<'_>, metrics: &mut Metrics) -> Result<Mixed> {
        let at = |name: &String| step.names.iter().position(|n| n == name);
        let columns: Vec<usize> = self.settings.thresholds.keys().filter_map(at).collect();
        if columns.len() < self.settings.thresholds.len() {
            let why = format!("each threshold names a reward: the rewards are {}", step.names.join(", "));
            let named: Vec<&str> = self.settings.thresholds.keys().map(String::as_str).collect();
            return Err(Error::config("advantage.none.mix.constrained.thresholds", named.join(", "), why));
        }
        let free: Vec<f64> =
            step.weights.iter().enumerate().map(|(k, w)| if columns.contains(&k) { 0.0 } else { *w }).collect();
        if (self.settings.base == Base::Kl) != (columns.len() == step.names.len()) {
            let why = "`kl` needs a threshold for every reward, `rewards` at least one reward without a threshold";
            let base = format!("{:?}", self.settings.base).to_lowercase();
            return Err(Error::config("advantage.none.mix.constrained.base", base, why));
        }
        let base = match self.settings.base {
            Base::Kl => closeness(step.batch)?,
            Base::Rewards => {
                let unconstrained: Vec<Vec<Option<f64>>> = (step.scores.iter())
                    .map(|row| (0..row.len()).map(|k| row[k].filter(|_| !columns.contains(&k))).collect())
                    .collect();
                weighted_sum(&unconstrained, &free)
            }
        };
        let constrained: Vec<Vec<Option<f64>>> =
            step.scores.iter().map(|row| columns.iter().map(|k| row[*k]).collect()).collect();
        let moments = |values: &[f64]| (mean(values), sample_std(values) + GROUP_EPS);
        let base: Vec<Vec<Option<f64>>> = base.into_iter().map(|r| vec![r]).collect();
        let base: Vec<Option<f64>> = standardised(&base, step.groups, moments).into_iter().map(|row| row[0]).collect();
        let each = standardised(&constrained, step.groups, moments);
        let weights = self.settings.weights(&self.multipliers.raw);
        let means: Vec<Option<f64>> = (0..columns.len())
            .map(|k| {
                let present: Vec<f64> = constrained.iter().filter_map(|row| row[k]).collect();
                (!present.is_empty()).then(|| mean(&present))
            })
            .collect();
        for (k, (name, theta)) in self.settings.thresholds.iter().enumerate() {
            metrics.mean(&format!("mix_multiplier_{name}"), weights.1[k], 1.0);
            if let Some(mean) = means[k] {
                metrics.mean(&format!("mix_gap_{name}"), mean - theta, 1.0);
            }
        }
        metrics.mean("mix_base_weight", weights.0, 1.0);
        self.means = Some(means);
        Ok(Mixed::Advantages(weighed(&base, &each, &weights, BATCH_EPS)))
    }

    fn needs(&self) -> Needs {
        let is_kl = self.settings.base == Base::Kl;
        Needs { old_logp: is_kl, ref_logp: is_kl, ..Needs::default() }
    }

    fn names(&self) -> Vec<String> {
        self.settings.thresholds.keys().cloned().collect()
    }

    fn save(&self) -> Option<Value> {
        serde_json::to_value(&self.multipliers).ok()
    }

    fn load(&mut self, saved: &Value) -> Result<()> {
        let loaded: Multipliers = read_state("constrained", saved)?;
        let k = self.settings.thresholds.len();
        if loaded.raw.len() != k || loaded.velocity.len() != k {
            let why = "the checkpoint holds as many multipliers as it had thresholds";
            return Err(Error::config("advantage.none.mix.constrained.thresholds", k, why));
        }
        self.multipliers = loaded;
        Ok(())
    }

    fn observe(&mut self, outcome: &Outcome) {
        let Outcome::Step { is_accepted, .. } = outcome else { return };
        if let (true, Some(means)) = (*is_accepted, self.means.take()) {
            let thetas: Vec<f64> = self.settings.thresholds.values().copied().collect();
            let gradient = self.settings.gradient(&self.multipliers.raw, &thetas, &means);
            self.settings.advance(&mut self.multipliers, &gradient);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{batch, step};
    use super::*;
    use crate::advantage::mix::Mix;
    use crate::advantage::none::Unscaled;

    fn stage(base: Base) -> Unscaled {
        let settings = Constrained { thresholds: [("b".to_owned(), 0.5)].into(), base, ..Constrained::default() };
        Unscaled { mix: Mix::Constrained(settings), ..Unscaled::default() }
    }

    #[test]
    fn a_reward_below_its_threshold_gains_weight_and_a_dropped_step_leaves_no_trace() {
        let mut stage = stage(Base::Rewards).build().unwrap();
        let mut low = batch(&[&[Some(1.0), Some(0.0)], &[Some(0.0), Some(0.2)]], vec![0, 0]);
        let before = stage.save();
        stage.apply(&mut low).unwrap();
        stage.observe(&step(false));
        assert_eq!(stage.save(), before);
        let first = stage.apply(&mut low).unwrap().get("mix_multiplier_b").unwrap();
        stage.observe(&step(true));
        let second = stage.apply(&mut low).unwrap();
        assert_eq!(first, 0.5);
        assert!(second.get("mix_multiplier_b").unwrap() > first);
        assert!((second.get("mix_gap_b").unwrap() + 0.4).abs() < 1e-12);
        // Saved and loaded, it goes on the same way.
        let mut other = self::stage(Base::Rewards).build().unwrap();
        other.load(&stage.save().unwrap()).unwrap();
        assert_eq!(other.apply(&mut low).unwrap(), stage.apply(&mut low).unwrap());
    }

    #[test]
    fn a_missing_score_moves_nothing_and_gives_nothing() {
        let mut stage = stage(Base::Rewards).build().unwrap();
        let mut missing = batch(&[&[Some(1.0), None], &[Some(0.0), None]], vec![0, 0]);
        stage.apply(&mut missing).unwrap();
        let before = stage.save();
        stage.observe(&step(true));
        assert_eq!(stage.save(), before);
    }

    #[test]
    fn the_base_must_fit_the_thresholds() {
        let mut both = batch(&[&[Some(1.0), Some(0.0)], &[Some(0.0), Some(0.2)]], vec![0, 0]);
        let error = stage(Base::Kl).build().unwrap().apply(&mut both).unwrap_err().to_string();
        assert!(error.contains("every reward"), "{error}");
        assert!(stage(Base::Kl).build().unwrap().needs().ref_logp);
        assert!(!stage(Base::Rewards).build().unwrap().needs().ref_logp);
    }
}
