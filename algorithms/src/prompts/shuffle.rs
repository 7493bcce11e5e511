//! `prompts.shuffle`: epochs over the training set in seeded random order.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::epochs::Epochs;
use super::{Accepted, Prompts};
use crate::rng::Rng;
use crate::success::{PromptId, Success};
use crate::{Batch, Error, Metrics, Result, State};

/// Every prompt once an epoch, in a new random order each epoch.
///
/// A step never holds a prompt twice, also where it straddles two epochs. No group is refused:
/// groups whose rewards are all equal stay in the step, with advantage 0; `prompts.dynamic`
/// replaces them. Position and order survive a restart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Shuffle {
    /// Prompts that a step is made of, P.
    pub per_step: usize,
}

impl Default for Shuffle {
    fn default() -> Self {
        Self { per_step: 8 }
    }
}

impl Shuffle {
    /// The stage. Errors: `per_step` of 0.
    pub fn build(&self) -> Result<Box<dyn Prompts>> {
        if self.per_step == 0 {
            return Err(Error::config("prompts.shuffle.per_step", 0, "a step needs at least one prompt"));
        }
        Ok(Box::new(Shuffled { per_step: self.per_step, epochs: Epochs::default() }))
    }
}

struct Shuffled {
    per_step: usize,
    epochs: Epochs,
}

const STAGE: &str = "prompts.shuffle";

impl Prompts for Shuffled {
    fn choose(&mut self, pool: usize, _success: &Success, n: usize, rng: &mut Rng) -> Result<Vec<PromptId>> {
        self.epochs.draw(STAGE, pool, n, &[], rng)
    }

    fn per_step(&self) -> usize {
        self.per_step
    }

    /// Keeps all. Metric `epoch`: passes over the training set so far.
    fn accept(&mut self, draw: &Batch) -> Result<Accepted> {
        let mut metrics = Metrics::new();
        metrics.max("epoch", self.epochs.progress());
        Ok(Accepted { keep: (0..draw.groups().len()).collect(), metrics })
    }
}

impl State for Shuffled {
    fn save(&self) -> Option<serde_json::Value> {
        serde_json::to_value(&self.epochs).ok()
    }

    fn load(&mut self, saved: &serde_json::Value) -> Result<()> {
        self.epochs = Epochs::deserialize(saved).map_err(|e| Error::State { stage: STAGE, why: e.to_string() })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_continues_the_walk() {
        let (mut a, success) = (Shuffle::default().build().unwrap(), Success::default());
        let rng = |step: u64| Rng::keyed(&[3, step]);
        for step in 0..5 {
            a.choose(19, &success, 8, &mut rng(step)).unwrap();
        }
        let mut b = Shuffle::default().build().unwrap();
        b.load(&a.save().unwrap()).unwrap();
        for step in 5..20 {
            let chosen = a.choose(19, &success, 8, &mut rng(step)).unwrap();
            assert_eq!(chosen, b.choose(19, &success, 8, &mut rng(step)).unwrap());
        }
        assert!(b.load(&serde_json::json!({"cursor": "x"})).unwrap_err().to_string().contains("prompts.shuffle"));
    }

    #[test]
    fn keeps_every_group_and_counts_epochs() {
        let mut stage = Shuffle { per_step: 3 }.build().unwrap();
        stage.choose(6, &Success::default(), 3, &mut Rng::keyed(&[0])).unwrap();
        let draw = Batch::new(crate::Table::filled(3, 1, 1.0), vec![0, 1, 1]).unwrap();
        let accepted = stage.accept(&draw).unwrap();
        assert_eq!((accepted.keep, accepted.metrics.get("epoch")), (vec![0, 1], Some(0.5)));
    }

    #[test]
    fn a_step_without_prompts_is_refused() {
        let error = Shuffle { per_step: 0 }.build().err().unwrap().to_string();
        assert!(error.contains("prompts.shuffle.per_step"), "{error}");
    }
}
