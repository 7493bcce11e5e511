//! `objective.power_dl`: weighted entropy, robust rewards, labels that move.

pub mod labels;

use std::cell::RefCell;
use std::collections::BTreeMap;

use candle_core::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::labels::{LabelStore, LabelUpdate};
use super::pairs::{Pairs, report_mean, report_rewards, require, vector};
use super::scalar::{log_sigmoid, logistic};
use super::{Leaves, Loss, Objective, Rows};
use crate::{Batch, Error, Metrics, Outcome, Result, State};

/// The weight of an answer, w.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Weights {
    /// 1 / tokens of the answer.
    #[default]
    InverseLength,
    /// 1.
    Uniform,
}

/// POWER-DL: preferences against over-optimised rewards, without a reference. Robust rewards give the
/// entropy-weighted loss (POWER); dynamic labels let the model overrule pairs that it sees to be wrong.
///
/// d = b [w_c logp_c - w_r logp_r + (w_c - w_r)], w_c and w_r the weights of the chosen and the rejected answer;
/// loss = mean over pairs of -[l log sigmoid(d) + (1 - l) log sigmoid(-d)] - eta b w_c logp_c. The label l of a pair starts at
/// 1, or at the share of raters in the data, and moves after each visit by l <- (1 - gamma) l + gamma sigmoid(d); it is kept
/// with the checkpoint. gamma = 0 is POWER. With one visit a pair nothing moves: train several epochs. Source: arXiv
/// 2412.09544, of which the abstract and descriptions by others were read, and no code exists: the loss is derived again from
/// its ingredients, the label update and all defaults are this project's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PowerDl {
    /// b: scale of the reward; search 1, 2, 5, 10.
    pub beta: f64,
    /// Weight of the imitation term; eta b times a chosen token's surprise should be near a tenth of ln 2.
    pub eta: f64,
    /// How far a visit moves a pair's label towards the model's own belief, from 0 to 1.
    pub gamma: f64,
    /// w of an answer.
    pub weights: Weights,
    /// Whether the difference of weights enters d, a margin asked of pairs whose chosen answer is the longer one.
    pub weight_gap: bool,
    /// Whether the label moves after the loss has used it, or before.
    pub label_update: LabelUpdate,
    /// Visits of a pair before its label begins to move: a poor start is not to confirm itself.
    pub label_warmup_visits: u32,
}

impl Default for PowerDl {
    fn default() -> Self {
        Self {
            beta: 2.0,
            eta: 0.01,
            gamma: 0.1,
            weights: Weights::InverseLength,
            weight_gap: true,
            label_update: LabelUpdate::After,
            label_warmup_visits: 0,
        }
    }
}

const STAGE: &str = "objective.power_dl";

impl PowerDl {
    /// The objective, once its settings are found possible.
    pub fn build(&self) -> Result<Box<dyn Objective>> {
        let at = |key: &str| format!("{STAGE}.{key}");
        require(self.beta > 0.0, at("beta"), self.beta, "set it above 0, such as 2")?;
        require(self.eta >= 0.0, at("eta"), self.eta, "it is 0 or above")?;
        require((0.0..=1.0).contains(&self.gamma), at("gamma"), self.gamma, "it lies from 0, which is POWER, to 1")?;
        Ok(Box::new(Power { settings: self.clone(), store: LabelStore::default(), seen: RefCell::default() }))
    }
}

/// Settings, labels, and the beliefs of the step under way.
struct Power {
    settings: PowerDl,
    store: LabelStore,
    /// (label before, sigmoid(d)) of each pair that the step's loss has seen, kept only if the step is accepted.
    seen: RefCell<BTreeMap<usize, (f64, f64)>>,
}

/// d of each pair and the terms of the loss, each [B].
#[derive(Debug, Clone)]
pub(crate) struct Terms {
    /// d, with gradient.
    pub(crate) gap: Tensor,
    /// -[l lsg(d) + (1 - l) lsg(-d)].
    pub(crate) preference: Tensor,
    /// -b w_c logp_c.
    pub(crate) imitation: Tensor,
    /// b w logp of both sides.
    pub(crate) rewards: (Tensor, Tensor),
}

impl PowerDl {
    /// w_c and w_r of pairs.
    pub(crate) fn weights(&self, pairs: &Pairs) -> (Vec<f64>, Vec<f64>) {
        let of = |lengths: Vec<f64>| match self.weights {
            Weights::InverseLength => lengths.iter().map(|n| 1.0 / n).collect(),
            Weights::Uniform => vec![1.0; lengths.len()],
        };
        (of(pairs.chosen.lengths()), of(pairs.rejected.lengths()))
    }

    /// d of each pair under given weights, and the rewards of both sides, each [B].
    fn gap(&self, pairs: &Pairs, (w_c, w_r): (&[f64], &[f64])) -> Result<(Tensor, Tensor, Tensor)> {
        let chosen = (pairs.chosen.sum()? * (vector(w_c)? * self.beta)?)?;
        let rejected = (pairs.rejected.sum()? * (vector(w_r)? * self.beta)?)?;
        let margin: Vec<f64> =
            w_c.iter().zip(w_r).map(|(c, r)| if self.weight_gap { self.beta * (c - r) } else { 0.0 }).collect();
        Ok((((&chosen - &rejected)? + vector(&margin)?)?, chosen, rejected))
    }

    /// All terms under given weights; `label` turns d's value into the label that the loss uses, in order of pairs.
    pub(crate) fn terms(
        &self,
        pairs: &Pairs,
        weights: (&[f64], &[f64]),
        label: impl Fn(usize, f64) -> f64,
    ) -> Result<Terms> {
        let (gap, chosen, rejected) = self.gap(pairs, weights)?;
        let labels: Vec<f64> = gap.to_vec1::<f64>()?.into_iter().enumerate().map(|(i, d)| label(i, d)).collect();
        let rest: Vec<f64> = labels.iter().map(|l| 1.0 - l).collect();
        let agree = (log_sigmoid(&gap)? * vector(&labels)?)?;
        let differ = (log_sigmoid(&gap.neg()?)? * vector(&rest)?)?;
        let preference = (agree + differ)?.neg()?;
        Ok(Terms { preference, imitation: chosen.neg()?, rewards: (chosen, rejected), gap })
    }
}

impl Objective for Power {
    fn rows(&self) -> Rows {
        Rows::Pairs { with_prompt: false }
    }

    fn couples_rows(&self) -> bool {
        false
    }

    fn prepare(&mut self, batch: &mut Batch) -> Result<()> {
        self.seen.get_mut().clear();
        for label in batch.label.iter().flatten() {
            require((0.0..=1.0).contains(label), "data: label".into(), *label, "a label is a share from 0 to 1")?;
        }
        Ok(())
    }

    /// Metrics: `loss_preference`, `nll_weighted` (the imitation term), `gap` (d), `label` (mean), `label_below_half` (share of the
    /// batch's pairs that the model has overruled), `label_gradient` (mean |l - sigmoid(d)|, the live gradient), and those of pairs.
    fn loss(&self, batch: &Batch, leaves: &Leaves) -> Result<Loss> {
        let s = &self.settings;
        let pairs = Pairs::read(STAGE, batch, leaves)?;
        let stored: Vec<f64> = (pairs.rows.iter())
            .map(|&(row, _)| {
                let pair = batch.pair[row].ok_or(Error::MissingColumn { stage: STAGE, column: "pair" })?;
                Ok(self.store.label(pair, batch.label[row]))
            })
            .collect::<Result<_>>()?;
        let gamma = |i: usize| {
            let pair = batch.pair[pairs.rows[i].0].unwrap_or_default();
            if self.store.visits(pair) < s.label_warmup_visits { 0.0 } else { s.gamma }
        };
        let weights = s.weights(&pairs);
        let terms =
            s.terms(&pairs, (&weights.0, &weights.1), |i, d| s.label_update.used(stored[i], logistic(d), gamma(i)))?;
        let value = (pairs.mean(&terms.preference)? + (pairs.mean(&terms.imitation)? * s.eta)?)?;

        let beliefs: Vec<f64> = terms.gap.to_vec1::<f64>()?.into_iter().map(logistic).collect();
        let mut seen = self.seen.borrow_mut();
        for (i, &(row, _)) in pairs.rows.iter().enumerate() {
            let pair = batch.pair[row].unwrap_or_default();
            seen.insert(pair, (labels::moved(stored[i], beliefs[i], gamma(i)), beliefs[i]));
        }
        let mut metrics = Metrics::new();
        let b = pairs.len() as f64;
        let mean = |f: &dyn Fn(usize) -> f64| (0..pairs.len()).map(f).sum::<f64>() / b;
        metrics.mean("label", mean(&|i| stored[i]), b);
        metrics.mean("label_below_half", mean(&|i| f64::from(u8::from(stored[i] < 0.5))), b);
        metrics.mean("label_gradient", mean(&|i| (stored[i] - beliefs[i]).abs()), b);
        report_mean(&mut metrics, "gap", &terms.gap)?;
        report_mean(&mut metrics, "loss_preference", &terms.preference)?;
        report_mean(&mut metrics, "nll_weighted", &terms.imitation)?;
        pairs.report(&mut metrics)?;
        report_rewards(&mut metrics, (&terms.rewards.0, &terms.rewards.1))?;
        Ok(Loss { value, metrics })
    }

    /// Moves the labels of the step's pairs.
    fn commit(&mut self, _batch: &Batch, _metrics: &Metrics) -> Result<()> {
        for (pair, (label, _)) in std::mem::take(self.seen.get_mut()) {
            self.store.visit(pair, label);
        }
        Ok(())
    }

    fn warnings(&self) -> Vec<String> {
        let s = &self.settings;
        match (s.gamma, s.label_update) {
            (g, LabelUpdate::After) if g > 0.0 => {
                vec![format!(
                    "`{STAGE}.gamma` acts from a pair's second visit on: give [train.offline] several `epochs`"
                )]
            }
            _ => Vec::new(),
        }
    }
}

impl State for Power {
    fn save(&self) -> Option<serde_json::Value> {
        Some(self.store.save())
    }

    fn load(&mut self, saved: &serde_json::Value) -> Result<()> {
        self.store = LabelStore::load(saved).map_err(|why| Error::State { stage: STAGE, why })?;
        Ok(())
    }

    /// New pairs have new numbers, so their labels start anew; those of the old pairs go.
    fn observe(&mut self, outcome: &Outcome) {
        if let Outcome::Renewed { first_pair } = outcome {
            self.store.forget_before(*first_pair);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objective::pairs::tests::{batch, check_laws, run};
    use crate::objective::simpo::Simpo;

    #[test]
    fn it_obeys_the_laws() {
        for weights in [Weights::InverseLength, Weights::Uniform] {
            // The label of `before` moves with d but is a constant of the loss, so only `after` has a finite difference.
            check_laws(PowerDl { weights, ..PowerDl::default() }.build().unwrap().as_ref());
        }
    }

    /// Equal weights of both sides, eta = 0 and a label 1 - e: SimPO without a margin, with smoothing e.
    #[test]
    fn without_its_own_terms_it_is_simpo() {
        let (mut batch, logp) = batch(2, 3);
        batch.label = vec![Some(0.9); batch.rows()];
        let power = PowerDl { eta: 0.0, weight_gap: false, ..PowerDl::default() }.build().unwrap();
        let simpo = Simpo { gamma: 0.0, label_smoothing: 0.1, ..Simpo::default() }.build().unwrap();
        let (found, expected) = (run(power.as_ref(), &batch, &logp), run(simpo.as_ref(), &batch, &logp));
        let value = |l: &Loss| l.value.to_scalar::<f64>().unwrap();
        assert!((value(&found.0) - value(&expected.0)).abs() < 1e-14);
        assert!(found.1.data().iter().zip(expected.1.data()).all(|(a, b)| (a - b).abs() < 1e-14));
    }

    /// A dropped step leaves no trace; an accepted one moves labels, which survive saving; warm-up holds them.
    #[test]
    fn labels_move_on_accepted_steps_only_and_are_saved() {
        let (mut batch, logp) = batch(2, 3);
        let settings = PowerDl { gamma: 0.5, label_warmup_visits: 1, ..PowerDl::default() };
        let mut power = settings.build().unwrap();
        let label = |p: &dyn Objective| run(p, &batch.clone(), &logp).0.metrics.get("label").unwrap();
        power.prepare(&mut batch.clone()).unwrap();
        assert_eq!(label(power.as_ref()), 1.0);
        power.prepare(&mut batch.clone()).unwrap(); // as after a dropped step
        assert_eq!(label(power.as_ref()), 1.0);
        power.commit(&batch, &Metrics::new()).unwrap();
        assert_eq!(label(power.as_ref()), 1.0, "the first visit only warms up");
        power.commit(&batch, &Metrics::new()).unwrap();
        let moved = label(power.as_ref());
        assert!(moved < 1.0);
        let mut other = settings.build().unwrap();
        other.load(&power.save().unwrap()).unwrap();
        assert_eq!(label(other.as_ref()), moved);
        assert!(other.load(&serde_json::json!({ "labels": [[0, 1.5, 1]] })).is_err());
        batch.label[0] = Some(1.5);
        assert!(power.prepare(&mut batch).is_err());
    }

    #[test]
    fn new_pairs_start_anew_and_old_labels_are_forgotten() {
        let (mut batch, logp) = batch(2, 3);
        let mut power = PowerDl { gamma: 0.5, ..PowerDl::default() }.build().unwrap();
        let label = |p: &dyn Objective, batch: &Batch| run(p, batch, &logp).0.metrics.get("label").unwrap();
        label(power.as_ref(), &batch);
        power.commit(&batch, &Metrics::new()).unwrap();
        assert!(label(power.as_ref(), &batch) < 1.0);
        power.observe(&Outcome::Renewed { first_pair: 10 });
        assert_eq!(power.save(), Some(serde_json::json!({ "labels": [] })));
        batch.pair.iter_mut().flatten().for_each(|pair| *pair += 10);
        assert_eq!(label(power.as_ref(), &batch), 1.0);
    }
}
