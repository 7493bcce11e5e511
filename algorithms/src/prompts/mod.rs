//! Stage `prompts`: which prompts a step samples from, and which sampled groups it keeps.

pub mod dynamic;
mod epochs;
pub mod pairing;
pub mod shuffle;

use crate::registry::variants;
use crate::rng::Rng;
use crate::success::{PromptId, Success};
use crate::{Batch, Metrics, Result, State};

variants! {
    /// `[prompts.<variant>]`: which prompts a step samples from.
    pub enum PromptsConfig for Prompts {
        "shuffle" => Shuffle(shuffle::Shuffle),
        "dynamic" => Dynamic(dynamic::Dynamic),
        "pairing" => Pairing(pairing::Pairing),
    }
    default Shuffle
}

/// Which groups of one draw the step keeps, and what became of the others.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Accepted {
    /// Indices into `batch.groups()` to keep, in that order.
    pub keep: Vec<usize>,
    /// What to report.
    pub metrics: Metrics,
}

/// Chooses prompts, and accepts or refuses the groups sampled from them.
pub trait Prompts: State + Send {
    /// The next `n` prompts of the `pool` (0..pool); `success` is what is known of each. None once a step
    /// has drawn all that it may.
    fn choose(&mut self, pool: usize, success: &Success, n: usize, rng: &mut Rng) -> Result<Vec<PromptId>>;

    /// Prompts that a step is made of, P.
    fn per_step(&self) -> usize;

    /// Whether it reads success rates, so that completions must be judged right or wrong.
    fn reads_success(&self) -> bool {
        false
    }

    /// Draws a step may take at most before it is an error not to be full. 1 = never refuses.
    fn max_draws(&self) -> usize {
        1
    }

    /// Marks the rows of a draw with the roles and pairs that its prompts were chosen for.
    fn tag(&self, _draw: &mut Batch) {}

    /// Which groups of a graded draw to keep. The default keeps all.
    fn accept(&mut self, draw: &Batch) -> Result<Accepted> {
        Ok(Accepted { keep: (0..draw.groups().len()).collect(), metrics: Metrics::new() })
    }
}
