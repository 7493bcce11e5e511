//! Stage `credit`: weights that spread a rollout's advantage over its tokens.

pub mod resrl;
pub mod tw;
pub mod uniform;

use crate::registry::variants;
use crate::{Batch, Metrics, Needs, Result, State};

variants! {
    /// `[credit.<variant>]`: how an advantage is spread over the tokens.
    pub enum CreditConfig for Credit {
        "uniform" => Uniform(uniform::Uniform),
        "resrl" => Resrl(resrl::Resrl),
        "tw" => Tw(tw::Tw),
    }
    default Uniform
}

/// Turns what the scoring pass saw into token weights.
pub trait Credit: State + Send {
    /// Columns it needs from the scoring pass.
    fn needs(&self) -> Needs {
        Needs::default()
    }

    /// Whether it reads the verdict.
    fn reads_verdict(&self) -> bool {
        false
    }

    /// Refuses settings that a model of this hidden size cannot serve.
    fn check_model(&self, _hidden_size: usize) -> Result<()> {
        Ok(())
    }

    /// Fills `batch.credit`; leaves it `None` where every weight is 1.
    fn apply(&mut self, batch: &mut Batch) -> Result<Metrics>;
}
