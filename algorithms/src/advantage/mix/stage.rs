//! An estimator and the mixer before it, as one stage.

use std::collections::BTreeMap;
use std::ops::Range;

use serde_json::Value;

use super::{checked, rows};
use crate::advantage::Advantage;
use crate::batch::{Advantages, Scores};
use crate::{Batch, Metrics, Needs, Outcome, Result, State};

/// The scores of a step as a mixer sees them.
pub(crate) struct View<'a> {
    /// Names of the K rewards.
    pub(crate) names: &'a [String],
    /// Scores [N,K]; `None` where a reward gave none.
    pub(crate) scores: &'a [Vec<Option<f64>>],
    /// The weight of each reward, [K].
    pub(crate) weights: &'a [f64],
    /// Rows of each group.
    pub(crate) groups: &'a [Range<usize>],
    /// Everything else that is known of the rows.
    pub(crate) batch: &'a Batch,
}

/// What a mixer makes of a step's scores.
pub(crate) enum Mixed {
    /// One reward a row, for the estimator, and a factor on the advantages that come of it.
    Reward(Vec<Option<f64>>, f64),
    /// Finished advantages: the mixer brings its own baseline and scale.
    Advantages(Vec<Option<f64>>),
}

/// A way of mixing that is more than a weighted sum.
pub(crate) trait Mixer: Send {
    /// Mixes a step. What the mixer learns of it waits until [`Mixer::observe`] says that the step counts.
    fn mix(&mut self, step: &View<'_>, metrics: &mut Metrics) -> Result<Mixed>;

    /// Columns it needs from the scoring pass.
    fn needs(&self) -> Needs {
        Needs::default()
    }

    /// Rewards that its settings name.
    fn names(&self) -> Vec<String> {
        Vec::new()
    }

    /// Whether the next step must bring the Gram matrix of the rewards' gradients.
    fn wants_gram(&self) -> bool {
        false
    }

    /// Takes that matrix, [K,K], before [`Mixer::mix`].
    fn weigh(&mut self, _names: &[String], _weights: &[f64], _gram: &[Vec<f64>]) -> Result<()> {
        Ok(())
    }

    /// What it remembers.
    fn save(&self) -> Option<Value> {
        None
    }

    /// Takes back what [`Mixer::save`] gave.
    fn load(&mut self, _saved: &Value) -> Result<()> {
        Ok(())
    }

    /// Hears of a step or an evaluation.
    fn observe(&mut self, _outcome: &Outcome) {}
}

/// The estimator, without weights of its own, behind the mixer.
pub(super) struct Stage<A> {
    pub(super) stage: &'static str,
    pub(super) weights: BTreeMap<String, f64>,
    pub(super) estimator: A,
    pub(super) mixer: Box<dyn Mixer>,
}

impl<A: Advantage> Stage<A> {
    /// The estimator's advantages for one reward a row.
    fn estimate(&mut self, batch: &mut Batch, rewards: Vec<Option<f64>>) -> Result<Metrics> {
        let single =
            Scores { names: vec!["mixed".into()], values: rewards.into_iter().map(|reward| vec![reward]).collect() };
        let scores = std::mem::replace(&mut batch.scores, single);
        let metrics = self.estimator.apply(batch);
        batch.scores = scores;
        metrics
    }
}

impl<A: Advantage> Advantage for Stage<A> {
    fn needs(&self) -> Needs {
        self.estimator.needs().union(&self.mixer.needs())
    }

    fn reads_verdict(&self) -> bool {
        self.estimator.reads_verdict()
    }

    fn compares_within_group(&self) -> bool {
        self.estimator.compares_within_group()
    }

    fn reads_pairs(&self) -> bool {
        self.estimator.reads_pairs()
    }

    fn warnings(&self) -> Vec<String> {
        self.estimator.warnings()
    }

    fn reward_names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.weights.keys().cloned().collect();
        names.extend(self.mixer.names().into_iter().filter(|name| !self.weights.contains_key(name)));
        names
    }

    fn parts(&mut self, batch: &Batch) -> Result<Option<Vec<Batch>>> {
        if !self.mixer.wants_gram() {
            return Ok(None);
        }
        checked(self.stage, &self.weights, batch)?;
        let mut parts = vec![batch.clone(); batch.scores.names.len()];
        for (k, alone) in parts.iter_mut().enumerate() {
            self.estimate(alone, batch.scores.values.iter().map(|row| row[k]).collect())?;
        }
        Ok(Some(parts))
    }

    fn weigh(&mut self, names: &[String], gram: &[Vec<f64>]) -> Result<()> {
        let weights: Vec<f64> = names.iter().map(|name| self.weights.get(name).copied().unwrap_or(1.0)).collect();
        self.mixer.weigh(names, &weights, gram)
    }

    fn apply(&mut self, batch: &mut Batch) -> Result<Metrics> {
        let weights = checked(self.stage, &self.weights, batch)?;
        let groups = batch.groups();
        let mut metrics = Metrics::new();
        let mixed = {
            let (names, scores) = (&batch.scores.names[..], &batch.scores.values[..]);
            let step = View { names, scores, weights: &weights, groups: &groups, batch };
            self.mixer.mix(&step, &mut metrics)?
        };
        match mixed {
            Mixed::Advantages(advantages) => {
                metrics.merge(&super::statistics(&advantages, batch));
                batch.reward = Some(advantages.clone());
                batch.advantage = Some(rows(advantages));
            }
            Mixed::Reward(rewards, factor) => {
                metrics.merge(&self.estimate(batch, rewards)?);
                match &mut batch.advantage {
                    Some(Advantages::Row(row)) => row.iter_mut().for_each(|a| *a *= factor),
                    Some(Advantages::Token(table)) => table.data_mut().iter_mut().for_each(|a| *a *= factor),
                    None => {}
                }
            }
        }
        Ok(metrics)
    }
}

impl<A: Advantage> State for Stage<A> {
    fn save(&self) -> Option<Value> {
        let (mixer, estimator) = (self.mixer.save(), self.estimator.save());
        (mixer.is_some() || estimator.is_some()).then(|| serde_json::json!({ "mix": mixer, "estimator": estimator }))
    }

    fn load(&mut self, saved: &Value) -> Result<()> {
        if let Some(mixer) = saved.get("mix").filter(|value| !value.is_null()) {
            self.mixer.load(mixer)?;
        }
        match saved.get("estimator").filter(|value| !value.is_null()) {
            Some(estimator) => self.estimator.load(estimator),
            None => Ok(()),
        }
    }

    fn observe(&mut self, outcome: &Outcome) {
        self.mixer.observe(outcome);
        self.estimator.observe(outcome);
    }
}
