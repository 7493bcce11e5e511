//! Estimators of the KL divergence to the reference policy, token by token.

use candle_core::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ratio::clamp;
use crate::Result;

/// Estimator of KL(policy || reference) at a sampled token, with d = logp - ref_logp.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Estimator {
    /// d; unbiased, may be negative; its gradient in a loss is zero on average.
    #[serde(rename = "k1")]
    K1,
    /// d^2 / 2.
    #[serde(rename = "k2")]
    K2,
    /// exp(-d) + d - 1, never negative.
    #[default]
    #[serde(rename = "k3")]
    K3,
    /// k3 within [-10, 10], with no gradient beyond (verl's `low_var_kl`).
    #[serde(rename = "low_var_kl")]
    LowVarKl,
    /// The value of k1 with the gradient of k2.
    #[serde(rename = "k1+")]
    K1Plus,
    /// The value of k3 with the gradient of k2.
    #[serde(rename = "k3+")]
    K3Plus,
}

/// Differences beyond this are cut: a token that one model finds e^20 times less likely says enough.
const LOG_LIMIT: f64 = 20.0;

impl Estimator {
    /// The estimate of each token, from d = logp - ref_logp of any shape, with gradient.
    pub fn tokens(self, difference: &Tensor) -> Result<Tensor> {
        let d = clamp(difference, -LOG_LIMIT, LOG_LIMIT)?;
        let k2 = || d.sqr()?.affine(0.5, 0.0);
        let k3 = || d.neg()?.exp()? + d.affine(1.0, -1.0)?;
        let with_gradient_of_k2 = |value: Tensor| {
            let k2 = k2()?;
            value.detach() + (&k2 - k2.detach())?
        };
        Ok(match self {
            Self::K1 => d.clone(),
            Self::K2 => k2()?,
            Self::K3 => k3()?,
            Self::LowVarKl => clamp(&k3()?, -10.0, 10.0)?,
            Self::K1Plus => with_gradient_of_k2(d.clone())?,
            Self::K3Plus => with_gradient_of_k2(k3()?)?,
        })
    }
}
