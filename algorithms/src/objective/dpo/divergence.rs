//! The score of a log-ratio under an f-divergence.

use candle_core::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::objective::scalar::{limited_exp, log_sigmoid};

/// The divergence from the reference that the reward model stands for; d = logp - ref_logp of an answer.
///
/// "Beyond Reverse KL: Generalizing Direct Preference Optimization", arXiv 2309.16240.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Divergence {
    /// s = d, the DPO of the paper.
    #[default]
    ReverseKl,
    /// s = 1 - exp(-d).
    ForwardKl,
    /// s = log 2 + log sigmoid(d).
    JsDivergence,
    /// s = (exp((a - 1) d) - 1) / (a - 1) with a = `f_alpha`; the exponent is cut at 80.
    AlphaDivergence,
}

impl Divergence {
    /// Scores of log-ratios, both [B].
    pub fn score(self, ratio: &Tensor, alpha: f64) -> Result<Tensor> {
        let a = alpha - 1.0;
        Ok(match self {
            Self::ReverseKl => ratio.clone(),
            Self::ForwardKl => (1.0 - ratio.neg()?.exp()?)?,
            Self::JsDivergence => (log_sigmoid(ratio)? + std::f64::consts::LN_2)?,
            Self::AlphaDivergence if a.abs() < 1e-6 => ratio.clone(),
            Self::AlphaDivergence => ((limited_exp(&(ratio * a)?)? - 1.0)? / a)?,
        })
    }
}
