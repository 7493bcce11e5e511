//! What a stage remembers between steps, and how it learns of what happened.

use crate::Result;

/// Something that happened which a stage may want to know of.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// An optimiser step was accepted or dropped by the non-finite guard.
    Step {
        /// Number of the training step.
        step: usize,
        /// Whether the optimiser accepted it.
        is_accepted: bool,
        /// Mean entropy of the step's tokens in nats, where it was computed.
        entropy: Option<f64>,
        /// Share of right completions.
        accuracy: Option<f64>,
        /// Mean tokens a completion.
        tokens: Option<f64>,
    },
    /// An evaluation finished.
    Evaluation {
        /// Number of the training step.
        step: usize,
        /// Mean accuracy over the benchmarks.
        accuracy: f64,
    },
    /// The pairs that are trained on were made anew; those before are not seen again.
    Renewed {
        /// Number of the first new pair; older ones have lower numbers.
        first_pair: usize,
    },
}

/// A stage that remembers something.
///
/// State moves only in `observe` (and in an objective's `commit`), so a step that the non-finite
/// guard drops leaves no trace. A stage without memory uses the defaults.
pub trait State {
    /// What to write into a checkpoint; `None` when there is nothing to remember.
    fn save(&self) -> Option<serde_json::Value> {
        None
    }

    /// Takes back what `save` gave.
    fn load(&mut self, _saved: &serde_json::Value) -> Result<()> {
        Ok(())
    }

    /// Hears of a step or an evaluation.
    fn observe(&mut self, _outcome: &Outcome) {}
}
