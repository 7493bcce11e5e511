//! Functions of one row of logits, with their backward pass: what a leaf is.
//!
//! The model's head computes logits in chunks of rows and hands each row to a [`RowFunction`],
//! so that [N,T,V] never exists. The policy, old and reference passes use the same function.

pub mod simd;
pub mod token;

/// The float type of a row of logits: f32 in runs, f64 in tests.
pub trait Real: simd::Kernels + Copy + Send + Sync + PartialOrd + 'static {
    /// To f64.
    fn to_f64(self) -> f64;
    /// From f64, rounded.
    fn from_f64(value: f64) -> Self;
}

impl Real for f32 {
    fn to_f64(self) -> f64 {
        f64::from(self)
    }
    fn from_f64(value: f64) -> Self {
        value as Self
    }
}

impl Real for f64 {
    fn to_f64(self) -> f64 {
        self
    }
    fn from_f64(value: f64) -> Self {
        value
    }
}

/// The values that one row of logits gives.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct RowValue {
    /// Log-prob of the chosen token (or density of a soft step).
    pub logp: f64,
    /// Entropy in nats; 0 if not asked for.
    pub entropy: f64,
    /// Divergence from a teacher; 0 if there is none.
    pub divergence: f64,
    /// Log-sum-exp of the tempered logits, kept for the backward pass.
    pub lse: f64,
}

/// Upstream gradient of one row's values.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct RowGrad {
    /// dL/dlogp.
    pub logp: f64,
    /// dL/dentropy.
    pub entropy: f64,
    /// dL/ddivergence.
    pub divergence: f64,
}

impl RowGrad {
    /// Whether nothing flows back through this row.
    pub fn is_zero(&self) -> bool {
        self.logp == 0.0 && self.entropy == 0.0 && self.divergence == 0.0
    }
}

/// A function of one row of raw (untempered) logits [V].
pub trait RowFunction<F: Real>: Sync {
    /// The values of row `row`. A row whose logits are all minus infinity or hold a NaN gives NaN.
    fn forward(&self, row: usize, logits: &[F]) -> RowValue;

    /// Overwrites the row's logits by dL/dlogits, given its values and their upstream gradient.
    fn backward(&self, row: usize, logits: &mut [F], value: &RowValue, grad: &RowGrad);

    /// This function as a [`token::TokenLogp`], if it is one: what a GPU computes by tensor calls, so
    /// that logits need not be copied to the host.
    fn as_token_logp(&self) -> Option<token::TokenLogp<'_>> {
        None
    }
}
