//! Stage `advantage`: mixes the rewards of a rollout and takes the baseline.

pub mod batch;
pub mod group;
pub mod mix;
pub mod none;
pub mod nsr;
pub mod opo;
pub mod pairing;
pub mod psr;
pub mod rfpp;
pub mod rfpp_baseline;
pub mod rloo;
pub mod w_reinforce;

mod verdict;
mod whiten;

use crate::registry::variants;
use crate::{Batch, Metrics, Needs, Result, State};

variants! {
    /// `[advantage.<variant>]`: how the scores of a group become advantages.
    pub enum AdvantageConfig for Advantage {
        "group" => Group(group::Group),
        "batch" => Batch(batch::BatchScaled),
        "none" => None(none::Unscaled),
        "rloo" => Rloo(rloo::Rloo),
        "opo" => Opo(opo::Opo),
        "rfpp" => Rfpp(rfpp::Rfpp),
        "rfpp_baseline" => RfppBaseline(rfpp_baseline::RfppBaseline),
        "psr" => Psr(psr::Psr),
        "nsr" => Nsr(nsr::Nsr),
        "w_reinforce" => WReinforce(w_reinforce::WReinforce),
        "pairing" => Pairing(pairing::Pairing),
    }
    default Group
}

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

    /// Whether its baseline or scale comes from the other completions of the same prompt, so that a group
    /// of one has no advantage.
    fn compares_within_group(&self) -> bool {
        true
    }

    /// Whether it reads the sides of pairs that [prompts.pairing] marks.
    fn reads_pairs(&self) -> bool {
        false
    }

    /// What works but is seldom meant, a line each, to be shown when the config is checked.
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }

    /// Names of rewards that its settings mention; each must exist.
    fn reward_names(&self) -> Vec<String> {
        Vec::new()
    }

    /// The batch with the advantages of each reward alone, where a mixer asks for their gradients: the loop then
    /// gives the Gram matrix of those gradients to [`Advantage::weigh`], and only then calls [`Advantage::apply`].
    fn parts(&mut self, _batch: &Batch) -> Result<Option<Vec<Batch>>> {
        Ok(None)
    }

    /// Takes the Gram matrix <g_j, g_k> of the gradients of the named rewards, [K,K].
    fn weigh(&mut self, _names: &[String], _gram: &[Vec<f64>]) -> Result<()> {
        Ok(())
    }

    /// Fills `batch.advantage`, and clears `batch.keep` of rows that are to be left out.
    fn apply(&mut self, batch: &mut Batch) -> Result<Metrics>;
}
