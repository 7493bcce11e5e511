//! The numbers of the `optim` stage: schedules, guards, projections, the radius of a step.
//!
//! What moves weights is in the program; here is what it computes with.

pub mod perp;
pub mod radius;
pub mod schedule;
pub mod spike;

/// The factor that scales a gradient of norm `norm` down to `limit`, as PyTorch's `clip_grad_norm_`: limit / (norm + 1e-6) above
/// the limit, else 1. A limit of 0 never scales.
pub fn clip_factor(norm: f64, limit: f64) -> f64 {
    if limit > 0.0 && norm > limit { (limit / (norm + 1e-6)).min(1.0) } else { 1.0 }
}
