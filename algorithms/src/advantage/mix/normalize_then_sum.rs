//! `mix = { normalize_then_sum = {} }`: each reward on one scale before they are added (GDPO).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::stage::{Mixed, Mixer, View};
use super::{is_flat, positive, standardised, weighted_sum};
use crate::advantage::whiten::{mean, sample_std};
use crate::{Metrics, Result};

/// Each reward is standardised within its group, z_k = (R_k - mean)/(std + eps), the z are summed with
/// the weights, and the sum s is standardised over the batch, A = (s - mean)/(std + eps).
///
/// Sample deviations over the scores that are there; a reward that is constant in a group, or given once,
/// has z = 0 there. A reward's own scale does not matter any more, so a rare binary reward gets large z.
/// It brings its own baseline and scale: only `advantage.none` takes it. Source: GDPO, arXiv 2601.05242,
/// in the form of TRL's `normalize_then_sum`, which leaves missing scores out (GDPO's own code counts
/// them as 0).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct NormalizeThenSum {
    /// Added to every deviation.
    pub eps: f64,
    /// Advantage 0 where no reward varies within the group: the batch mean would move such groups
    /// away from 0 when scores are missing.
    pub zero_dead_groups: bool,
}

impl Default for NormalizeThenSum {
    fn default() -> Self {
        Self { eps: 1e-4, zero_dead_groups: true }
    }
}

impl NormalizeThenSum {
    pub(super) fn validate(&self, key: &str) -> Result<()> {
        positive(&format!("{key}.normalize_then_sum.eps"), self.eps)
    }

    /// The z of every score, [N,K], and the advantages, [N].
    pub(crate) fn advantages(&self, step: &View<'_>) -> (Vec<Vec<Option<f64>>>, Vec<Option<f64>>) {
        let each = standardised(step.scores, step.groups, |values| (mean(values), sample_std(values) + self.eps));
        let mut sums = weighted_sum(&each, step.weights);
        let present: Vec<f64> = sums.iter().flatten().copied().collect();
        let (centre, scale) = (mean(&present), sample_std(&present) + self.eps);
        sums.iter_mut().flatten().for_each(|s| *s = (*s - centre) / scale);
        if self.zero_dead_groups {
            for group in step.groups.iter().filter(|group| is_flat(&step.scores[(*group).clone()])) {
                sums[group.clone()].iter_mut().flatten().for_each(|s| *s = 0.0);
            }
        }
        (each, sums)
    }
}

impl Mixer for NormalizeThenSum {
    fn mix(&mut self, step: &View<'_>, _metrics: &mut Metrics) -> Result<Mixed> {
        Ok(Mixed::Advantages(self.advantages(step).1))
    }
}
