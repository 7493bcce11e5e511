//! `mix = { hypervolume = {} }`: larger updates while the rewards' front still moves outward.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::stage::{Mixed, Mixer, View};
use super::{positive, read_state, weighted_sum};
use crate::advantage::whiten::mean;
use crate::{Error, Metrics, Outcome, Result};

/// Most rewards: the volume's cost grows with a power of the front's size for each.
const MOST: usize = 6;

/// A factor m in [0.5, 2) on the advantages of the weighted sum, from what the last interval added to the
/// volume under the front of reward means.
///
/// The mean of each reward over the rollouts of `every` steps, divided by its range, is a point v. The
/// first point is the reference, B = {}; later ones give d = max(0, HV(B + {v}) - HV(B)) and
/// m = 0.5 + 1.5 tanh(d), and join B if d > 0. HV(B) is the volume of the union of the boxes between the
/// reference and the points; a point that does not exceed the reference everywhere adds nothing. m starts at 1.
/// Rewards are larger when better, so nothing is minimised.
///
/// Source: Dynamic Reward Weighting, arXiv 2509.11452. Departures: m multiplies advantages, for on rewards
/// the division by their deviation cancels it; points are means over training rollouts instead of a
/// validation pass a step; coordinates are divided by ranges, for raw ones saturate tanh; its volume fails
/// on points below the reference.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Hypervolume {
    /// Steps between points.
    pub every: usize,
    /// What a reward spans between bad and good; 1 where none is named.
    pub ranges: BTreeMap<String, f64>,
}

impl Default for Hypervolume {
    fn default() -> Self {
        Self { every: 10, ranges: BTreeMap::new() }
    }
}

impl Hypervolume {
    pub(super) fn validate(&self, key: &str) -> Result<()> {
        if self.every == 0 {
            return Err(Error::config(format!("{key}.hypervolume.every"), 0, "it is a number of steps, such as 10"));
        }
        for (name, range) in &self.ranges {
            positive(&format!("{key}.hypervolume.ranges.{name}"), *range)?;
        }
        Ok(())
    }

    pub(super) fn mixer(&self) -> Box<dyn Mixer> {
        Box::new(Watching { settings: self.clone(), state: Front::default(), last: None })
    }
}

/// The volume of the union of the boxes between `reference` and each point.
pub(crate) fn volume(reference: &[f64], points: &[Vec<f64>]) -> f64 {
    let above = points.iter().filter(|p| p.iter().zip(reference).all(|(x, r)| x > r));
    let mut sizes: Vec<Vec<f64>> = above.map(|p| p.iter().zip(reference).map(|(x, r)| x - r).collect()).collect();
    let all = sizes.clone();
    let covers = |a: &Vec<f64>, b: &Vec<f64>| a != b && a.iter().zip(b).all(|(x, y)| x >= y);
    sizes.retain(|p| !all.iter().any(|other| covers(other, p)));
    sliced(&mut sizes, reference.len())
}

/// The volume over the first `dims` coordinates: slices along the last of them.
fn sliced(sizes: &mut [Vec<f64>], dims: usize) -> f64 {
    let last = dims - 1;
    if last == 0 {
        return sizes.iter().map(|p| p[0]).fold(0.0, f64::max);
    }
    sizes.sort_by(|a, b| b[last].total_cmp(&a[last]));
    let mut total = 0.0;
    for i in 0..sizes.len() {
        let height = sizes[i][last] - sizes.get(i + 1).map_or(0.0, |next| next[last]);
        if height > 0.0 {
            total += height * sliced(&mut sizes[..=i].to_vec(), last);
        }
    }
    total
}

/// What one point did.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Advance {
    pub(crate) before: f64,
    pub(crate) after: f64,
    pub(crate) delta: f64,
    pub(crate) multiplier: f64,
    pub(crate) is_added: bool,
}

/// Adds a point to the front if it enlarges the volume.
pub(crate) fn advance(reference: &[f64], front: &mut Vec<Vec<f64>>, point: &[f64]) -> Advance {
    let before = volume(reference, front);
    front.push(point.to_vec());
    let after = volume(reference, front);
    let delta = (after - before).max(0.0);
    let is_added = delta > 0.0;
    if !is_added {
        front.pop();
    }
    Advance { before, after, delta, multiplier: 0.5 + 1.5 * delta.tanh(), is_added }
}

/// What the mixer remembers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Front {
    reference: Option<Vec<f64>>,
    front: Vec<Vec<f64>>,
    multiplier: f64,
    /// Sum of the step means and their number, of each reward since the last point.
    sums: Vec<(f64, f64)>,
    steps: usize,
}

impl Default for Front {
    fn default() -> Self {
        Self { reference: None, front: Vec::new(), multiplier: 1.0, sums: Vec::new(), steps: 0 }
    }
}

struct Watching {
    settings: Hypervolume,
    state: Front,
    /// Means of the step that was mixed last, divided by the ranges.
    last: Option<Vec<Option<f64>>>,
}

impl Mixer for Watching {
    /// Metrics: `mix_multiplier`, m (stuck at 0.5: the front does not move); `mix_front`, its points.
    fn mix(&mut self, step: &View<'_>, metrics: &mut Metrics) -> Result<Mixed> {
        if step.names.len() > MOST {
            let why = format!("the volume is computed for at most {MOST} rewards");
            return Err(Error::config("mix.hypervolume", step.names.len(), why));
        }
        let means = step.names.iter().enumerate().map(|(k, name)| {
            let present: Vec<f64> = step.scores.iter().filter_map(|row| row[k]).collect();
            let range = self.settings.ranges.get(name).copied().unwrap_or(1.0);
            (!present.is_empty()).then(|| mean(&present) / range)
        });
        self.last = Some(means.collect());
        metrics.mean("mix_multiplier", self.state.multiplier, 1.0);
        metrics.mean("mix_front", self.state.front.len() as f64, 1.0);
        Ok(Mixed::Reward(weighted_sum(step.scores, step.weights), self.state.multiplier))
    }

    fn names(&self) -> Vec<String> {
        self.settings.ranges.keys().cloned().collect()
    }

    fn save(&self) -> Option<Value> {
        serde_json::to_value(&self.state).ok()
    }

    fn load(&mut self, saved: &Value) -> Result<()> {
        self.state = read_state("hypervolume", saved)?;
        Ok(())
    }

    fn observe(&mut self, outcome: &Outcome) {
        let Outcome::Step { is_accepted, .. } = outcome else { return };
        let (true, Some(means)) = (*is_accepted, self.last.take()) else { return };
        let state = &mut self.state;
        state.sums.resize(means.len(), (0.0, 0.0));
        for (sum, mean) in state.sums.iter_mut().zip(means) {
            if let Some(mean) = mean {
                *sum = (sum.0 + mean, sum.1 + 1.0);
            }
        }
        state.steps += 1;
        if state.steps < self.settings.every {
            return;
        }
        state.steps = 0;
        let sums = std::mem::take(&mut state.sums);
        // A reward that gave no score at all in the interval leaves no point.
        if sums.iter().any(|(_, count)| *count == 0.0) {
            return;
        }
        let point: Vec<f64> = sums.iter().map(|(sum, count)| sum / count).collect();
        match &state.reference {
            None => state.reference = Some(point),
            Some(reference) => state.multiplier = advance(reference, &mut state.front, &point).multiplier,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{batch, row, step};
    use super::*;
    use crate::advantage::group::Group;
    use crate::advantage::mix::Mix;

    /// Boxes 2x1 and 1x2 share 1x1; a third inside adds nothing; below the reference is nothing.
    #[test]
    fn boxes_are_counted_once() {
        let points = vec![vec![2.0, 1.0], vec![1.0, 2.0], vec![0.5, 0.5], vec![3.0, -0.2]];
        assert!((volume(&[0.0, 0.0], &points) - 3.0).abs() < 1e-15);
        assert_eq!(volume(&[0.0], &[vec![2.0], vec![3.0]]), 3.0);
        assert_eq!(volume(&[0.0, 0.0], &[]), 0.0);
        // Unit cubes at three corners and their union by inclusion and exclusion.
        let cubes = vec![vec![2.0, 1.0, 1.0], vec![1.0, 2.0, 1.0], vec![1.0, 1.0, 2.0]];
        assert!((volume(&[0.0; 3], &cubes) - 4.0).abs() < 1e-15);
        assert!((volume(&[0.0; 3], &[cubes.clone(), cubes].concat()) - 4.0).abs() < 1e-15);
    }

    #[test]
    fn the_factor_reaches_the_advantages_and_dropped_steps_do_not_count() {
        let mix = Mix::Hypervolume(Hypervolume { every: 1, ..Hypervolume::default() });
        let mut stage = Group { mix, ..Group::default() }.build().unwrap();
        let mut low = batch(&[&[Some(1.0), Some(0.0)], &[Some(0.0), Some(0.2)]], vec![0, 0]);
        let mut high = batch(&[&[Some(2.0), Some(1.0)], &[Some(1.0), Some(1.2)]], vec![0, 0]);
        stage.apply(&mut low).unwrap();
        let plain = row(&low);
        stage.observe(&step(true)); // the reference
        stage.apply(&mut high).unwrap();
        stage.observe(&step(false));
        stage.apply(&mut low).unwrap();
        assert_eq!(row(&low), plain);
        stage.apply(&mut high).unwrap();
        stage.observe(&step(true)); // one step up in both: d = 1
        let saved = stage.save().unwrap();
        stage.apply(&mut low).unwrap();
        let m = 0.5 + 1.5 * 1f64.tanh();
        assert!(row(&low).iter().zip(&plain).all(|(a, b)| (a - m * b).abs() < 1e-12));
        let mut other = Group { mix: Mix::Hypervolume(Hypervolume::default()), ..Group::default() }.build().unwrap();
        other.load(&saved).unwrap();
        other.apply(&mut low).unwrap();
        assert!(row(&low).iter().zip(&plain).all(|(a, b)| (a - m * b).abs() < 1e-12));
    }
}
