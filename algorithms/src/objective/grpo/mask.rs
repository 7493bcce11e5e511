//! Masks on the policy term: truncated completions, rows that went stale, tokens of low entropy.

use super::Columns;
use crate::batch::Finish;
use crate::{Batch, Table};

/// Blanks the mask of completions that stopped at the length limit (DAPO's overlong filtering).
pub(super) fn truncated(batch: &mut Batch) {
    for (i, finish) in batch.finish.iter().enumerate() {
        if *finish == Finish::Length {
            batch.mask.row_mut(i).fill(0.0);
        }
    }
}

/// 1 where the policy term is kept, [N,T]: the advantage is not negative, or the mean over the row of
/// behaviour_logp - logp is at most `threshold`.
pub(super) fn on_policy(behaviour: &Table, columns: &Columns, threshold: f64) -> Table {
    let drift = row_drift(behaviour, &columns.current, &columns.mask);
    let mut keep = Table::filled(columns.mask.rows(), columns.mask.cols(), 1.0);
    for (i, &drift) in drift.iter().enumerate().filter(|(_, drift)| **drift > threshold) {
        debug_assert!(drift > threshold);
        for (keep, &advantage) in keep.row_mut(i).iter_mut().zip(columns.advantage.row(i)) {
            *keep = f64::from(u8::from(advantage >= 0.0));
        }
    }
    keep
}

/// Mean over the row's tokens of behaviour - current, [N]; missing (NaN) log-probs count as no difference.
pub fn row_drift(behaviour: &Table, current: &Table, mask: &Table) -> Vec<f64> {
    (0..mask.rows())
        .map(|i| {
            let tokens = mask.row(i).iter().sum::<f64>().max(1.0);
            let cells = mask.row(i).iter().zip(behaviour.row(i).iter().zip(current.row(i)));
            let sum: f64 = cells.map(|(&m, (b, c))| if m == 0.0 || (b - c).is_nan() { 0.0 } else { m * (b - c) }).sum();
            sum / tokens
        })
        .collect()
}

/// 1 on the tokens whose entropy is at least the (1 - share) quantile of all valid tokens, [N,T].
///
/// The quantile is interpolated linearly. Share 1 keeps all, share 0 only the largest.
pub fn top_entropy(entropy: &Table, mask: &Table, share: f64) -> Table {
    let cells = entropy.data().iter().zip(mask.data());
    let mut valid: Vec<f64> = cells.filter(|(_, m)| **m > 0.0).map(|(&h, _)| h).collect();
    valid.sort_by(f64::total_cmp);
    let threshold = match valid.len() {
        0 => f64::INFINITY,
        n => {
            let place = (1.0 - share) * (n - 1) as f64;
            let below = (place.floor() as usize).min(n - 1);
            let above = (below + 1).min(n - 1);
            valid[below] + (valid[above] - valid[below]) * (place - below as f64)
        }
    };
    entropy.zip(mask, |h, m| f64::from(u8::from(m > 0.0 && h >= threshold)))
}
