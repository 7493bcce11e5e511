//! How several reward functions become one reward a row, before the baseline.
//!
//! The weighted sum is [`Rewards`], which every estimator shares; a mixer that is more than that is a
//! file of this folder, and [`stage`] puts it before the estimator.

use std::collections::BTreeMap;
use std::ops::Range;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Advantage;
use super::whiten::{mean, sample_std};
use crate::batch::Advantages;
use crate::{Batch, Error, Metrics, Needs, Result, Table};

pub mod constrained;
pub mod correlation;
pub mod gradient;
pub mod hypervolume;
pub mod normalize_then_sum;
pub(crate) mod stage;

pub use constrained::Constrained;
pub use correlation::Correlation;
pub use gradient::Gradient;
pub use hypervolume::Hypervolume;
pub use normalize_then_sum::NormalizeThenSum;

use stage::{Mixer, Stage};

/// How several reward functions are mixed into one.
///
/// A reward function that gave no score to a row is left out of that row's sum and of the
/// function's statistics; a row without any score has no reward and advantage 0.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mix {
    /// r = sum_k w_k R_k over the scores that are there; the estimator normalises the sum. Different
    /// reward patterns with equal sums become indistinguishable.
    #[default]
    SumThenNormalize,
    /// Each reward on one scale before they are added (GDPO).
    NormalizeThenSum(NormalizeThenSum),
    /// Rewards kept at thresholds by Lagrange multipliers.
    Constrained(Constrained),
    /// The weighted sum, with larger updates while the front of the rewards moves outward.
    Hypervolume(Hypervolume),
    /// Weights that follow what the gradient of each reward does for all of them.
    Gradient(Gradient),
    /// More weight for rewards that go against the others within a group.
    Correlation(Correlation),
}

impl Mix {
    /// Name of the mixer, as in the config.
    pub fn name(&self) -> &'static str {
        match self {
            Self::SumThenNormalize => "sum_then_normalize",
            Self::NormalizeThenSum(_) => "normalize_then_sum",
            Self::Constrained(_) => "constrained",
            Self::Hypervolume(_) => "hypervolume",
            Self::Gradient(_) => "gradient",
            Self::Correlation(_) => "correlation",
        }
    }

    /// Whether it brings its own baseline and scale.
    fn normalizes(&self) -> bool {
        matches!(self, Self::NormalizeThenSum(_) | Self::Constrained(_) | Self::Correlation(_))
    }

    fn validate(&self, key: &str, weights: &BTreeMap<String, f64>) -> Result<()> {
        match self {
            Self::SumThenNormalize => Ok(()),
            Self::NormalizeThenSum(settings) => settings.validate(key),
            Self::Constrained(settings) => settings.validate(key, weights),
            Self::Hypervolume(settings) => settings.validate(key),
            Self::Gradient(settings) => settings.validate(key, weights),
            Self::Correlation(settings) => settings.validate(key),
        }
    }

    /// The mixer, unless the weighted sum is all there is.
    fn mixer(&self) -> Option<Box<dyn Mixer>> {
        match self {
            Self::SumThenNormalize => None,
            Self::NormalizeThenSum(settings) => Some(Box::new(settings.clone())),
            Self::Constrained(settings) => Some(settings.mixer()),
            Self::Hypervolume(settings) => Some(settings.mixer()),
            Self::Gradient(settings) => Some(settings.mixer()),
            Self::Correlation(settings) => Some(Box::new(settings.clone())),
        }
    }
}

/// Refuses a number that is not positive.
fn positive(key: &str, value: f64) -> Result<()> {
    match value > 0.0 && value.is_finite() {
        true => Ok(()),
        false => Err(Error::config(key, value, "it is a positive number")),
    }
}

/// What a mixer saved.
fn read_state<T: serde::de::DeserializeOwned>(mixer: &str, saved: &serde_json::Value) -> Result<T> {
    serde_json::from_value(saved.clone())
        .map_err(|error| Error::State { stage: "advantage", why: format!("mix.{mixer}: {error}") })
}

/// The options that every score-based estimator shares.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rewards<'a> {
    /// Stage and variant.
    pub(super) stage: &'static str,
    /// Weight of each reward function; 1 where none is named.
    pub(super) weights: &'a BTreeMap<String, f64>,
    /// How they are mixed.
    pub(super) mix: &'a Mix,
    /// beta of the penalty -beta sum_t (old_logp - ref_logp) on the reward.
    pub(super) kl_in_reward: f64,
}

impl Rewards<'_> {
    /// Refuses values that can never work. `normalizes` says whether the estimator has a baseline
    /// or a scale of its own.
    pub(super) fn validate(&self, normalizes: bool) -> Result<()> {
        let key = |name: &str| format!("{}.{name}", self.stage);
        for (name, &weight) in self.weights {
            if !weight.is_finite() {
                return Err(Error::config(key(&format!("weights.{name}")), weight, "a weight is a finite number"));
            }
        }
        if !(self.kl_in_reward >= 0.0 && self.kl_in_reward.is_finite()) {
            let why = "a penalty is 0 (off) or a positive number";
            return Err(Error::config(key("kl_in_reward"), self.kl_in_reward, why));
        }
        let (mix, key) = (self.mix.name(), key("mix"));
        self.mix.validate(&key, self.weights)?;
        if self.mix.normalizes() {
            if normalizes {
                let why =
                    "it brings its own baseline and scale, which this estimator would repeat: use [advantage.none]";
                return Err(Error::config(key, mix, why));
            }
            if self.kl_in_reward > 0.0 {
                let why = "the penalty belongs to a sum of rewards that is normalised afterwards: set `kl_in_reward` to 0, or `mix` to `sum_then_normalize`";
                return Err(Error::config(key, mix, why));
            }
        }
        Ok(())
    }

    /// The stage: the estimator itself, or, with a mixer before it, one without weights of its own.
    pub(super) fn stage<A: Advantage + 'static>(&self, whole: A, unweighted: A) -> Box<dyn Advantage> {
        let (stage, weights) = (self.stage, self.weights.clone());
        match self.mix.mixer() {
            None => Box::new(whole),
            Some(mixer) => Box::new(Stage { stage, weights, estimator: unweighted, mixer }),
        }
    }

    /// Log-probs of the policy and the reference, if the reward is penalised.
    pub(super) fn needs(&self) -> Needs {
        let penalised = self.kl_in_reward > 0.0;
        Needs { old_logp: penalised, ref_logp: penalised, ..Needs::default() }
    }

    /// Reward functions that have a weight.
    pub(super) fn names(&self) -> Vec<String> {
        self.weights.keys().cloned().collect()
    }

    /// Mixes the rewards of the batch, penalised; hands them to the estimator, and fills the column.
    pub(super) fn apply(
        &self,
        batch: &mut Batch,
        estimate: impl FnOnce(&[Option<f64>], &Batch) -> Advantages,
    ) -> Result<Metrics> {
        let mut rewards = self.mixed(batch)?;
        if self.kl_in_reward > 0.0 {
            let penalty = self.penalty(batch)?;
            for (i, reward) in rewards.iter_mut().enumerate() {
                *reward = reward.map(|r| r + penalty.row(i).iter().sum::<f64>());
            }
        }
        let metrics = statistics(&rewards, batch);
        batch.advantage = Some(estimate(&rewards, batch));
        batch.reward = Some(rewards);
        Ok(metrics)
    }

    /// One reward a row, without the penalty; `None` where no function scored the row, [N].
    pub(super) fn mixed(&self, batch: &Batch) -> Result<Vec<Option<f64>>> {
        let weights = checked(self.stage, self.weights, batch)?;
        Ok(weighted_sum(&batch.scores.values, &weights))
    }

    /// -beta mask (old_logp - ref_logp), [N,T].
    pub(super) fn penalty(&self, batch: &Batch) -> Result<Table> {
        let old = batch.column(self.stage, "old_logp", &batch.old_logp)?;
        let reference = batch.column(self.stage, "ref_logp", &batch.ref_logp)?;
        let mut penalty = batch.mask.clone();
        for (cell, (o, r)) in penalty.data_mut().iter_mut().zip(old.data().iter().zip(reference.data())) {
            *cell = if *cell == 0.0 { 0.0 } else { -self.kl_in_reward * *cell * (o - r) };
        }
        Ok(penalty)
    }
}

/// sum_k w_k s_k over the scores that are there; `None` if none is.
pub(crate) fn weighted_sum(scores: &[Vec<Option<f64>>], weights: &[f64]) -> Vec<Option<f64>> {
    let sum = |row: &Vec<Option<f64>>| {
        let present = row.iter().zip(weights).filter_map(|(s, w)| s.map(|s| s * w));
        row.iter().any(Option::is_some).then(|| present.sum())
    };
    scores.iter().map(sum).collect()
}

/// The weight of each reward, [K], 1 where none is named.
///
/// Errors: a weight without a reward, a score that is no finite number.
fn checked(stage: &'static str, weights: &BTreeMap<String, f64>, batch: &Batch) -> Result<Vec<f64>> {
    let scores = &batch.scores;
    if let Some(unknown) = weights.keys().find(|name| !scores.names.contains(name)) {
        let why = format!("no reward has that name: the rewards are {}", scores.names.join(", "));
        return Err(Error::config(format!("{stage}.weights.{unknown}"), weights[unknown], why));
    }
    for (row, values) in scores.values.iter().enumerate() {
        if values.iter().flatten().any(|s| !s.is_finite()) {
            return Err(Error::NonFinite { stage, what: "score", row });
        }
    }
    Ok(scores.names.iter().map(|name| weights.get(name).copied().unwrap_or(1.0)).collect())
}

/// (s - centre)/scale of each reward over the scored rows of each group, by the centre and scale of
/// those scores.
fn standardised(
    scores: &[Vec<Option<f64>>],
    groups: &[Range<usize>],
    moments: impl Fn(&[f64]) -> (f64, f64),
) -> Vec<Vec<Option<f64>>> {
    let mut values = scores.to_vec();
    for group in groups {
        let rows = &mut values[group.clone()];
        for k in 0..rows.first().map_or(0, Vec::len) {
            let present: Vec<f64> = rows.iter().filter_map(|row| row[k]).collect();
            let (centre, scale) = moments(&present);
            for score in rows.iter_mut().filter_map(|row| row[k].as_mut()) {
                *score = (*score - centre) / scale;
            }
        }
    }
    values
}

/// Whether no reward varies over the rows.
fn is_flat(rows: &[Vec<Option<f64>>]) -> bool {
    (0..rows.first().map_or(0, Vec::len)).all(|k| {
        let mut scored = rows.iter().filter_map(|row| row[k]);
        scored.next().is_none_or(|first| scored.all(|score| score == first))
    })
}

/// Metrics of the mixed reward.
///
/// `reward_mean`, `reward_std`: over the scored rows of the step; `frac_reward_zero_std`: share of
/// groups whose rewards are all equal, which teach nothing (healthy below about 0.5);
/// `unscored_rows`: rows without any score.
fn statistics(rewards: &[Option<f64>], batch: &Batch) -> Metrics {
    let present: Vec<f64> = rewards.iter().flatten().copied().collect();
    let mut metrics = Metrics::new();
    metrics.mean("reward_mean", mean(&present), present.len() as f64);
    metrics.mean("reward_std", sample_std(&present), present.len() as f64);
    metrics.sum("unscored_rows", (rewards.len() - present.len()) as f64);
    let groups = batch.groups();
    let flat = groups
        .iter()
        .filter(|group| {
            let mut scored = rewards[(*group).clone()].iter().flatten();
            scored.next().is_none_or(|first| scored.all(|r| r == first))
        })
        .count();
    metrics.mean("frac_reward_zero_std", flat as f64 / groups.len() as f64, groups.len() as f64);
    metrics
}

/// r_i - mean of the group; `None` for a row without reward and in a group with one scored row. [N]
pub(super) fn centred(rewards: &[Option<f64>], batch: &Batch) -> Vec<Option<f64>> {
    let mut centred = vec![None; rewards.len()];
    for group in batch.groups() {
        let present: Vec<f64> = rewards[group.clone()].iter().flatten().copied().collect();
        if present.len() > 1 {
            let centre = mean(&present);
            for i in group {
                centred[i] = rewards[i].map(|r| r - centre);
            }
        }
    }
    centred
}

/// Rows without an advantage of their own get 0.
pub(super) fn rows(values: Vec<Option<f64>>) -> Advantages {
    Advantages::Row(values.into_iter().map(|a| a.unwrap_or(0.0)).collect())
}

#[cfg(test)]
mod tests {
    use super::super::group::Group;
    use super::super::none::Unscaled;
    use super::stage::View;
    use super::*;
    use crate::Outcome;

    /// A batch with these scores of rewards `a` and `b`.
    pub(super) fn batch(scores: &[&[Option<f64>]], groups: Vec<usize>) -> Batch {
        let mut batch = Batch::new(Table::filled(groups.len(), 2, 1.0), groups).unwrap();
        batch.scores.names = vec!["a".into(), "b".into()];
        batch.scores.values = scores.iter().map(|row| row.to_vec()).collect();
        batch
    }

    /// A step that the optimiser accepted or dropped.
    pub(super) fn step(is_accepted: bool) -> Outcome {
        Outcome::Step { step: 0, is_accepted, entropy: None, accuracy: None, tokens: None }
    }

    /// What [`view`] takes.
    pub(super) type Columns = (Vec<Vec<Option<f64>>>, Vec<Range<usize>>, Vec<f64>);

    /// Scores [N,K] from columns, groups of one size, and equal weights.
    pub(super) fn column_major(columns: &[&[f64]], size: usize) -> Columns {
        let n = columns[0].len();
        let scores = (0..n).map(|i| columns.iter().map(|column| Some(column[i])).collect()).collect();
        (scores, (0..n / size).map(|g| g * size..(g + 1) * size).collect(), vec![1.0; columns.len()])
    }

    /// What a mixer sees of scores alone.
    pub(super) fn view<'a>(scores: &'a [Vec<Option<f64>>], groups: &'a [Range<usize>], weights: &'a [f64]) -> View<'a> {
        static NONE: std::sync::OnceLock<Batch> = std::sync::OnceLock::new();
        let batch = NONE.get_or_init(|| Batch::new(Table::zeros(0, 0), Vec::new()).unwrap());
        View { names: &[], scores, weights, groups, batch }
    }

    /// The advantage of each row.
    pub(super) fn row(batch: &Batch) -> Vec<f64> {
        match batch.advantage.as_ref().unwrap() {
            Advantages::Row(row) => row.clone(),
            Advantages::Token(_) => panic!("one advantage a row"),
        }
    }

    #[test]
    fn weights_multiply_and_missing_scores_are_left_out() {
        let mut batch = batch(&[&[Some(1.0), Some(4.0)], &[Some(0.0), None], &[None, None]], vec![0, 0, 0]);
        let stage = Unscaled { weights: [("b".to_owned(), 0.5)].into(), ..Unscaled::default() };
        let metrics = stage.build().unwrap().apply(&mut batch).unwrap();
        assert_eq!(row(&batch), [1.5, -1.5, 0.0]);
        assert_eq!(metrics.get("unscored_rows"), Some(1.0));
        assert_eq!(metrics.get("reward_mean"), Some(1.5));
        let unknown = Unscaled { weights: [("c".to_owned(), 1.0)].into(), ..Unscaled::default() };
        let error = unknown.build().unwrap().apply(&mut batch).unwrap_err().to_string();
        assert!(error.contains("weights.c") && error.contains("a, b"), "{error}");
    }

    /// With one function, normalize_then_sum is the z-score of the z-score: by hand for [1, 0 | 3, 1].
    #[test]
    fn normalize_then_sum_gives_both_functions_the_same_scale() {
        let rows: [&[_]; 4] = [&[Some(1.0), None], &[Some(0.0), None], &[Some(300.0), None], &[Some(100.0), None]];
        let mut batch = batch(&rows, vec![0, 0, 1, 1]);
        let stage = Unscaled { mix: Mix::NormalizeThenSum(NormalizeThenSum::default()), ..Unscaled::default() };
        stage.build().unwrap().apply(&mut batch).unwrap();
        let z = |half_range: f64| half_range / (half_range * 2f64.sqrt() + 1e-4);
        let (a, b) = (z(0.5), z(100.0));
        let std = ((2.0 * a * a + 2.0 * b * b) / 3.0).sqrt();
        for (found, wanted) in row(&batch).iter().zip([a, -a, b, -b]) {
            assert!((found - wanted / (std + 1e-4)).abs() < 1e-12);
        }
    }

    #[test]
    fn a_score_that_is_no_number_stops_the_step() {
        let mut batch = batch(&[&[Some(f64::NAN), None]], vec![0]);
        let error = Unscaled::default().build().unwrap().apply(&mut batch).unwrap_err();
        assert!(matches!(error, Error::NonFinite { row: 0, .. }));
    }

    /// A batch whose two groups mean the same score: without missing scores nothing has to be zeroed.
    #[test]
    fn groups_without_difference_get_exactly_zero() {
        let rows: [&[_]; 4] = [&[Some(1.0), Some(0.0)], &[Some(0.0), None], &[Some(7.0), None], &[Some(7.0), None]];
        let mut scored = batch(&rows, vec![0, 0, 1, 1]);
        for zero_dead_groups in [true, false] {
            let mix = Mix::NormalizeThenSum(NormalizeThenSum { zero_dead_groups, ..NormalizeThenSum::default() });
            Unscaled { mix, ..Unscaled::default() }.build().unwrap().apply(&mut scored).unwrap();
            let largest = row(&scored)[2..].iter().fold(0.0, |m: f64, a| m.max(a.abs()));
            assert!(if zero_dead_groups { largest == 0.0 } else { largest < 1e-12 }, "{largest}");
            assert!(row(&scored)[0] > 0.0);
        }
    }

    /// A config names a mixer by its tag; what a mixer cannot do is refused with the key.
    #[test]
    fn mixers_are_externally_tagged_and_checked() {
        let read = |text: &str| serde_json::from_str::<Mix>(text);
        assert_eq!(read(r#""sum_then_normalize""#).unwrap(), Mix::SumThenNormalize);
        assert_eq!(read(r#"{"correlation": {"tau": 1.0}}"#).unwrap().name(), "correlation");
        assert!(read(r#"{"correlation": {"temperature": 1.0}}"#).unwrap_err().to_string().contains("temperature"));
        for (mix, key) in [
            (r#"{"correlation": {"tau": 0}}"#, "advantage.none.mix.correlation.tau"),
            (r#"{"normalize_then_sum": {"eps": -1}}"#, "mix.normalize_then_sum.eps"),
            (r#"{"constrained": {}}"#, "mix.constrained.thresholds"),
            (r#"{"constrained": {"thresholds": {"a": 1}, "momentum": 1}}"#, "momentum"),
            (r#"{"hypervolume": {"every": 0}}"#, "mix.hypervolume.every"),
            (r#"{"gradient": {"rate": 0}}"#, "mix.gradient.rate"),
        ] {
            let error = Unscaled { mix: read(mix).unwrap(), ..Unscaled::default() }.build().err().unwrap().to_string();
            assert!(error.contains(key), "{error}");
        }
        for own in [r#"{"correlation": {}}"#, r#"{"constrained": {"thresholds": {"a": 1}}}"#] {
            let error = Group { mix: read(own).unwrap(), ..Group::default() }.build().err().unwrap().to_string();
            assert!(error.contains("[advantage.none]"), "{error}");
        }
    }
}
