//! Seeded epochs over the training set: every prompt once before any prompt twice.

use serde::{Deserialize, Serialize};

use crate::rng::Rng;
use crate::success::PromptId;
use crate::{Error, Result};

/// Where a walk through seeded permutations of 0..pool stands.
///
/// Only the seed of the epoch and the cursor are saved; the permutation is rebuilt from them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Epochs {
    /// Epochs begun.
    epoch: u64,
    /// Seed of this epoch's permutation.
    seed: u64,
    /// Size of the pool that the permutation is of.
    pool: usize,
    /// Prompts of the permutation already given.
    cursor: usize,
    /// Prompts given by the draw that began this epoch, in the last one: they come last in this.
    deferred: Vec<PromptId>,
    #[serde(skip)]
    order: Vec<PromptId>,
}

impl Epochs {
    /// The next `n` prompts of 0..pool, none of them in `taken` and none twice.
    ///
    /// Errors: [`Error::Exhausted`] when the pool has fewer than `n` prompts that are not taken.
    pub(super) fn draw(
        &mut self,
        stage: &'static str,
        pool: usize,
        n: usize,
        taken: &[PromptId],
        rng: &mut Rng,
    ) -> Result<Vec<PromptId>> {
        let free = pool.saturating_sub(taken.len());
        if n > free {
            return Err(Error::Exhausted {
                stage,
                why: format!(
                    "a step wants {} different prompts and the training set holds {pool}: lower `per_step` to at most {pool}, or add data",
                    n + taken.len()
                ),
            });
        }
        if pool != self.pool {
            self.begin(pool, Vec::new(), rng);
        } else if self.order.is_empty() {
            self.order = permutation(self.seed, self.pool, &self.deferred);
        }
        let mut drawn: Vec<PromptId> = Vec::with_capacity(n);
        while drawn.len() < n {
            if self.cursor == self.order.len() {
                // What this step already holds must not come again in it: it goes to the end of
                // the new epoch, so that an epoch still gives every prompt exactly once.
                let held = taken.iter().chain(&drawn).copied().collect();
                self.begin(pool, held, rng);
            }
            drawn.push(self.order[self.cursor]);
            self.cursor += 1;
        }
        Ok(drawn)
    }

    /// Epochs completed, as a fraction.
    pub(super) fn progress(&self) -> f64 {
        match self.epoch {
            0 => 0.0,
            epoch => (epoch - 1) as f64 + self.cursor as f64 / self.pool.max(1) as f64,
        }
    }

    fn begin(&mut self, pool: usize, deferred: Vec<PromptId>, rng: &mut Rng) {
        let seed = rng.next_u64();
        let order = permutation(seed, pool, &deferred);
        *self = Self { epoch: self.epoch + 1, seed, pool, cursor: 0, deferred, order };
    }
}

/// A permutation of 0..pool that ends with the prompts deferred.
fn permutation(seed: u64, pool: usize, deferred: &[PromptId]) -> Vec<PromptId> {
    let mut order: Vec<PromptId> = (0..pool).collect();
    Rng::keyed(&[seed]).shuffle(&mut order);
    let (last, mut order): (Vec<_>, Vec<_>) = order.into_iter().partition(|id| deferred.contains(id));
    order.extend(last);
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_epoch_is_a_permutation_and_no_draw_repeats_a_prompt() {
        let mut epochs = Epochs::default();
        let mut all = Vec::new();
        for step in 0..70 {
            let drawn = epochs.draw("prompts.shuffle", 10, 7, &[], &mut Rng::keyed(&[5, step])).unwrap();
            assert_eq!(drawn.iter().collect::<std::collections::BTreeSet<_>>().len(), 7, "{drawn:?}");
            all.extend(drawn);
        }
        for epoch in all.chunks(10) {
            assert_eq!(epoch.iter().collect::<std::collections::BTreeSet<_>>().len(), 10, "{epoch:?}");
        }
        assert_ne!(all[..10], all[10..20], "epochs are shuffled anew");
        assert!((epochs.progress() - 49.0).abs() < 1e-12);
    }

    #[test]
    fn what_a_step_holds_is_not_drawn_again() {
        let mut epochs = Epochs::default();
        let mut rng = Rng::keyed(&[1]);
        let first = epochs.draw("prompts.dynamic", 5, 3, &[], &mut rng).unwrap();
        let second = epochs.draw("prompts.dynamic", 5, 2, &first, &mut rng).unwrap();
        assert!(second.iter().all(|id| !first.contains(id)));
        let error = epochs.draw("prompts.dynamic", 5, 1, &[0, 1, 2, 3, 4], &mut rng).unwrap_err();
        assert!(error.to_string().contains("6 different prompts"), "{error}");
    }
}
