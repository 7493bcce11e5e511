//! `mix = { gradient = {} }`: weights follow what each reward's gradient does for all of them.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::stage::{Mixed, Mixer, View};
use super::{positive, read_state, weighted_sum};
use crate::{Error, Metrics, Outcome, Result};

/// Mirror descent on the weights, log w_k <- log w_k + rate I_k, then normalised to sum 1.
///
/// g_k is the gradient of the objective with reward k alone (its own advantages), I_k = <g_k, sum_j g_j>
/// its influence, averaged over `every` steps. The step's reward is sum_k w_k R_k with the new weights.
/// The weights start at `weights`, normalised. The training loop hands over the Gram matrix <g_j, g_k>:
/// one more forward and backward pass a reward and step, and one more gradient in memory a reward; with
/// [model.lora] both stay small. The KL term of an objective is in every g_k: leave it out where possible.
///
/// Source: Dynamic Reward Weighting, arXiv 2509.11452 (rate = 1e-6/1e-5 there). Departures: guards on step and weight.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Gradient {
    /// Factor on the influence.
    pub rate: f64,
    /// Steps over which the influence is averaged.
    pub every: usize,
    /// Largest norm of a g_k; longer ones are scaled down.
    pub clip_norm: f64,
    /// Largest change of a log weight at once.
    pub max_step: f64,
    /// Smallest weight, so that none is lost for good.
    pub min_weight: f64,
}

impl Default for Gradient {
    fn default() -> Self {
        Self { rate: 0.1, every: 1, clip_norm: 1.0, max_step: 1.0, min_weight: 0.01 }
    }
}

impl Gradient {
    pub(super) fn validate(&self, key: &str, weights: &BTreeMap<String, f64>) -> Result<()> {
        let key = format!("{key}.gradient");
        for (name, value) in [("rate", self.rate), ("clip_norm", self.clip_norm), ("max_step", self.max_step)] {
            positive(&format!("{key}.{name}"), value)?;
        }
        if self.every == 0 {
            return Err(Error::config(format!("{key}.every"), 0, "it is a number of steps"));
        }
        if !(0.0..0.5).contains(&self.min_weight) {
            return Err(Error::config(format!("{key}.min_weight"), self.min_weight, "it lies in 0..0.5"));
        }
        match weights.iter().find(|(_, weight)| **weight <= 0.0) {
            Some((name, weight)) => {
                let why = format!("the weight of `{name}` must be positive: mirror descent moves its logarithm");
                Err(Error::config(format!("{}.weights.{name}", key.trim_end_matches(".mix.gradient")), weight, why))
            }
            None => Ok(()),
        }
    }

    pub(super) fn mixer(&self) -> Box<dyn Mixer> {
        Box::new(Following { settings: self.clone(), state: Weights::default(), next: None })
    }

    /// The weights after one update.
    pub(crate) fn updated(&self, weights: &[f64], influence: &[f64]) -> Vec<f64> {
        let logits: Vec<f64> = weights
            .iter()
            .zip(influence)
            .map(|(w, i)| w.ln() + (self.rate * i).clamp(-self.max_step, self.max_step))
            .collect();
        let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let raw: Vec<f64> = logits.iter().map(|l| (l - largest).exp()).collect();
        let floored = normalised(&raw).into_iter().map(|w| w.max(self.min_weight)).collect::<Vec<_>>();
        normalised(&floored)
    }
}

fn normalised(weights: &[f64]) -> Vec<f64> {
    let total: f64 = weights.iter().sum();
    weights.iter().map(|w| w / total).collect()
}

/// I_k = sum_j <g_k, g_j>, [K].
pub(crate) fn influence(gram: &[Vec<f64>]) -> Vec<f64> {
    gram.iter().map(|row| row.iter().sum()).collect()
}

/// The Gram matrix of the gradients after each is cut to the norm.
fn clipped(gram: &[Vec<f64>], norm: f64) -> Vec<Vec<f64>> {
    let scale: Vec<f64> = (0..gram.len()).map(|k| (norm / (gram[k][k].max(0.0).sqrt() + 1e-6)).min(1.0)).collect();
    (0..gram.len()).map(|j| (0..gram.len()).map(|k| gram[j][k] * scale[j] * scale[k]).collect()).collect()
}

/// What the mixer remembers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Weights {
    /// Weights by reward; empty before the first step.
    weights: Vec<f64>,
    /// Sum of the influences since the last update, and their number.
    sums: Vec<f64>,
    steps: usize,
}

struct Following {
    settings: Gradient,
    state: Weights,
    /// The state after the step under way, should it be accepted, and the cosines of its gradients.
    next: Option<(Weights, f64)>,
}

impl Mixer for Following {
    /// Metrics: `mix_weight_<reward>` (one near 1: the others are lost); `mix_cosine`, the mean cosine
    /// between the gradients of two rewards, negative where they pull apart.
    fn mix(&mut self, step: &View<'_>, metrics: &mut Metrics) -> Result<Mixed> {
        let Some((next, cosine)) = &self.next else {
            let why = "the loop hands over the gradients of each reward before the rewards are mixed";
            return Err(Error::config("mix", "gradient", why));
        };
        for (name, weight) in step.names.iter().zip(&next.weights) {
            metrics.mean(&format!("mix_weight_{name}"), *weight, 1.0);
        }
        if step.names.len() > 1 {
            metrics.mean("mix_cosine", *cosine, 1.0);
        }
        Ok(Mixed::Reward(weighted_sum(step.scores, &next.weights), 1.0))
    }

    fn wants_gram(&self) -> bool {
        true
    }

    fn weigh(&mut self, names: &[String], weights: &[f64], gram: &[Vec<f64>]) -> Result<()> {
        let k = names.len();
        if gram.len() != k || gram.iter().any(|row| row.len() != k) {
            let expected = format!("[{k},{k}]");
            return Err(Error::Shape {
                what: "Gram matrix of the rewards".into(),
                expected,
                found: format!("{gram:?}"),
            });
        }
        if let Some(row) = gram.iter().position(|row| row.iter().any(|v| !v.is_finite())) {
            return Err(Error::NonFinite { stage: "advantage", what: "gradient of a reward", row });
        }
        let mut state = self.state.clone();
        if state.weights.len() != k {
            state = Weights { weights: normalised(weights), sums: vec![0.0; k], steps: 0 };
        }
        for (sum, i) in state.sums.iter_mut().zip(influence(&clipped(gram, self.settings.clip_norm))) {
            *sum += i;
        }
        state.steps += 1;
        if state.steps >= self.settings.every {
            let mean: Vec<f64> = state.sums.iter().map(|sum| sum / state.steps as f64).collect();
            state.weights = self.settings.updated(&state.weights, &mean);
            state.sums.fill(0.0);
            state.steps = 0;
        }
        self.next = Some((state, cosine(gram)));
        Ok(())
    }

    fn save(&self) -> Option<Value> {
        serde_json::to_value(&self.state).ok()
    }

    fn load(&mut self, saved: &Value) -> Result<()> {
        self.state = read_state("gradient", saved)?;
        Ok(())
    }

    fn observe(&mut self, outcome: &Outcome) {
        let Outcome::Step { is_accepted, .. } = outcome else { return };
        if let (true, Some((next, _))) = (*is_accepted, self.next.take()) {
            self.state = next;
        }
    }
}

/// The mean cosine between two of the gradients; 0 where one vanishes.
fn cosine(gram: &[Vec<f64>]) -> f64 {
    let pairs = (0..gram.len()).flat_map(|j| (0..j).map(move |k| (j, k)));
    let cosines: Vec<f64> = pairs
        .map(|(j, k)| {
            let norms = (gram[j][j] * gram[k][k]).sqrt();
            if norms > 0.0 { gram[j][k] / norms } else { 0.0 }
        })
        .collect();
    crate::advantage::whiten::mean(&cosines)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{batch, row, step};
    use super::*;
    use crate::advantage::group::Group;
    use crate::advantage::mix::Mix;

    fn stage() -> Box<dyn crate::advantage::Advantage> {
        Group { mix: Mix::Gradient(Gradient::default()), ..Group::default() }.build().unwrap()
    }

    #[test]
    fn the_reward_that_helps_all_gains_and_only_accepted_steps_move_weights() {
        let mut stage = stage();
        let mut both = batch(&[&[Some(1.0), Some(0.0)], &[Some(0.0), Some(0.2)]], vec![0, 0]);
        assert!(stage.apply(&mut both).is_err(), "without gradients there are no weights");
        let parts = stage.parts(&both).unwrap().unwrap();
        assert_eq!(parts.len(), 2);
        assert_eq!(parts[1].reward, Some(vec![Some(0.0), Some(0.2)]), "a batch of its own for each reward");
        assert!(parts[1].advantage.is_some() && both.advantage.is_none());
        let names = both.scores.names.clone();
        let gram = [vec![0.5, 0.2], vec![0.2, 0.1]];
        stage.weigh(&names, &gram).unwrap();
        let metrics = stage.apply(&mut both).unwrap();
        let first = metrics.get("mix_weight_a").unwrap();
        assert!(first > 0.5 && row(&both)[0] > 0.0);
        assert!((metrics.get("mix_cosine").unwrap() - 0.2 / 0.05f64.sqrt()).abs() < 1e-12);
        stage.observe(&step(false));
        stage.weigh(&names, &gram).unwrap();
        assert_eq!(stage.apply(&mut both).unwrap().get("mix_weight_a"), Some(first));
        stage.observe(&step(true));
        let mut other = self::stage();
        other.load(&stage.save().unwrap()).unwrap();
        for stage in [&mut stage, &mut other] {
            stage.weigh(&names, &gram).unwrap();
            assert!(stage.apply(&mut both).unwrap().get("mix_weight_a").unwrap() > first);
        }
    }

    #[test]
    fn guards_hold() {
        let settings = Gradient::default();
        let weights = settings.updated(&[0.5, 0.5], &[1e9, -1e9]);
        assert!((weights[0] / weights[1] - 2f64.exp()).abs() < 1e-9, "each log weight moves by at most 1");
        let weights = settings.updated(&[0.999, 0.001], &[0.0, 0.0]);
        assert!((weights[1] - 0.01 / 1.009).abs() < 1e-12, "no weight is lost");
        let gram = clipped(&[vec![100.0, 0.0], vec![0.0, 0.01]], 1.0);
        assert!((gram[0][0] - 1.0).abs() < 1e-6 && gram[1][1] == 0.01);
    }
}
