//! Passes over examples whose number may change from one pass to the next.

use serde::{Deserialize, Serialize};

/// Where a run stands in its passes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Epochs {
    /// The epoch under way, counted from 0.
    pub(super) number: usize,
    /// The training step that began it.
    pub(super) first_step: usize,
}

impl Epochs {
    /// Goes on to the epoch that a step lies in, where each has so many steps; 0 steps are no epoch.
    pub(super) fn advance(&mut self, step: usize, an_epoch: usize) {
        if let Some(passed) = (step - self.first_step).checked_div(an_epoch) {
            self.number += passed;
            self.first_step += passed * an_epoch;
        }
    }

    /// Steps of a run of so many epochs, if all that are left are as long as this one.
    pub(super) fn total(&self, epochs: usize, an_epoch: usize) -> usize {
        self.first_step + epochs.saturating_sub(self.number) * an_epoch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_may_differ_in_length() {
        let mut epochs = Epochs::default();
        epochs.advance(7, 3);
        assert_eq!((epochs, epochs.total(4, 3)), (Epochs { number: 2, first_step: 6 }, 12));
        epochs.advance(9, 3);
        // From here on an epoch has five steps.
        assert_eq!((epochs.number, epochs.total(4, 5)), (3, 14));
        epochs.advance(13, 5);
        assert_eq!(epochs.number, 3);
        epochs.advance(14, 5);
        assert_eq!((epochs.number, epochs.total(4, 5)), (4, 14));
        epochs.advance(14, 0);
        assert_eq!(epochs.first_step, 14);
    }
}
