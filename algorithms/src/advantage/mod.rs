//! Stage `advantage`: mixes the rewards of a rollout and takes the baseline.

use crate::{Batch, Metrics, Needs, Result, State};

/// Turns scores into advantages.
pub trait Advantage: State + Send {
    /// Columns it needs from the scoring pass.
    fn needs(&self) -> Needs {
        Needs::default()
    }

    /// Whether it reads the verdict.
    fn reads_verdict(&self) -> bool {
        false
    }

    /// Names of rewards that its settings mention; each must exist.
    fn reward_names(&self) -> Vec<String> {
        Vec::new()
    }

    /// Fills `batch.advantage`, and clears `batch.keep` of rows that are to be left out.
    fn apply(&mut self, batch: &mut Batch) -> Result<Metrics>;
}
