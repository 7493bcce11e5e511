//! Advantages that are a constant for right and another for wrong completions.

use crate::batch::{Advantages, Verdict};
use crate::{Batch, Metrics};

/// Gives right rows one advantage and wrong rows another; rows without verdict get 0.
///
/// With `drops_zero`, rows whose advantage is 0 leave the batch (`keep`), and with it its divisors.
/// Metrics: `right_fraction` of the judged rows; `dropped_rows`.
pub(super) fn apply(batch: &mut Batch, right: f64, wrong: f64, drops_zero: bool) -> Metrics {
    let advantage: Vec<f64> = batch
        .verdict
        .iter()
        .map(|verdict| match verdict {
            Verdict::Right => right,
            Verdict::Wrong => wrong,
            Verdict::Missing => 0.0,
        })
        .collect();
    let count = |verdict| batch.verdict.iter().filter(|&&v| v == verdict).count() as f64;
    let (rights, wrongs) = (count(Verdict::Right), count(Verdict::Wrong));
    let mut metrics = Metrics::new();
    metrics.mean("right_fraction", rights / (rights + wrongs), rights + wrongs);
    if drops_zero {
        let mut dropped = 0;
        for (keep, &a) in batch.keep.iter_mut().zip(&advantage) {
            dropped += usize::from(*keep && a == 0.0);
            *keep &= a != 0.0;
        }
        metrics.sum("dropped_rows", dropped as f64);
    }
    batch.advantage = Some(Advantages::Row(advantage));
    metrics
}
