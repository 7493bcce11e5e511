//! The labels of pairs, which move towards the model's own belief.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

#[cfg(test)]
use crate::objective::scalar::logistic;

/// When a pair's label moves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LabelUpdate {
    /// The loss uses the stored label, which then moves.
    #[default]
    After,
    /// The label moves first, and the loss uses the new one.
    Before,
}

impl LabelUpdate {
    /// The label that the loss uses: `belief` is sigmoid(d).
    pub fn used(self, label: f64, belief: f64, gamma: f64) -> f64 {
        match self {
            Self::After => label,
            Self::Before => moved(label, belief, gamma),
        }
    }
}

/// (1 - gamma) l + gamma sigmoid(d).
pub fn moved(label: f64, belief: f64, gamma: f64) -> f64 {
    (1.0 - gamma) * label + gamma * belief
}

/// Where gradient flow on an isolated pair ends: d moves by step x frequency x (l - sigmoid(d)) while l moves by
/// -gamma (l - sigmoid(d)), so that l + r d is conserved with r = gamma / (step x frequency); the end has
/// l = sigmoid(d). Returns (d, l). A rare pair (large r) keeps its start, a frequent one its label.
#[cfg(test)]
pub(crate) fn stationary(gap: f64, label: f64, r: f64) -> (f64, f64) {
    let conserved = label + r * gap;
    let (mut low, mut high) = (-1e6, 1e6);
    for _ in 0..200 {
        let middle = 0.5 * (low + high);
        if logistic(middle) + r * middle < conserved {
            low = middle;
        } else {
            high = middle;
        }
    }
    (low, logistic(low))
}

/// The label and the number of visits of every pair seen so far.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LabelStore(BTreeMap<usize, (f32, u32)>);

impl LabelStore {
    /// The label of a pair; one not seen yet has its start, the share of raters or 1.
    pub fn label(&self, pair: usize, start: Option<f64>) -> f64 {
        self.0.get(&pair).map_or(start.unwrap_or(1.0), |(label, _)| f64::from(*label))
    }

    /// How often a pair has been seen.
    pub fn visits(&self, pair: usize) -> u32 {
        self.0.get(&pair).map_or(0, |(_, visits)| *visits)
    }

    /// Notes a visit and the label it leaves, stored in f32.
    pub fn visit(&mut self, pair: usize, label: f64) {
        let visits = self.visits(pair) + 1;
        self.0.insert(pair, (label as f32, visits));
    }

    /// Forgets the pairs below this number.
    pub fn forget_before(&mut self, first_pair: usize) {
        self.0 = self.0.split_off(&first_pair);
    }

    /// `{"labels": [[pair, label, visits], ..]}`.
    pub fn save(&self) -> Value {
        json!({ "labels": self.0.iter().map(|(pair, (label, visits))| json!([pair, label, visits])).collect::<Vec<_>>() })
    }

    /// Takes back what [`LabelStore::save`] gave. Errors: what is no such list, or a label outside [0,1].
    pub fn load(saved: &Value) -> Result<Self, String> {
        let list: Vec<(usize, f32, u32)> =
            serde_json::from_value(saved["labels"].clone()).map_err(|e| e.to_string())?;
        match list.iter().find(|(_, label, _)| !(0.0..=1.0).contains(label)) {
            Some((pair, label, _)) => {
                Err(format!("pair {pair} has the label {label}, which is not a share from 0 to 1"))
            }
            None => Ok(Self(list.into_iter().map(|(pair, label, visits)| (pair, (label, visits))).collect())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frequent pairs end at their label, rare ones where the model began.
    #[test]
    fn the_end_depends_on_how_often_a_pair_is_seen() {
        let (frequent, _) = stationary(-1.0, 1.0, 1e-9);
        assert!(frequent > 10.0);
        let (rare, label) = stationary(-1.0, 1.0, 1e6);
        assert!((rare + 1.0).abs() < 1e-5 && (label - logistic(-1.0)).abs() < 1e-5);
    }
}
