//! Soft steps: mixtures of token embeddings instead of tokens, how they are drawn and how likely they were.
//!
//! [`mix`] goes from a row of logits to a mixture, [`phase`] says when thinking ends and [`Density`]
//! gives the log-density of a mixture that Gumbel noise made: the log-prob of a soft step. Vanilla and
//! Dirichlet mixtures have no density here, so nothing can be trained on them.

pub mod mix;
pub mod phase;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::token::TokenLogp;
use super::{Real, RowFunction, RowGrad, RowValue};

/// The soft steps at the head of one completion: K slots a step, as they were drawn.
///
/// 8 bytes a slot and 8 a step. Scores stay in f32: tau magnifies their error, bf16 is too coarse.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SoftSteps<S = f32> {
    /// Slots a step, K.
    pub slots: usize,
    /// Token ids by falling noisy score, step after step.
    pub ids: Vec<u32>,
    /// Noisy scores g' = ln q + noise, in the order of `ids`.
    pub scores: Vec<S>,
    /// Slots that were active under the policy that sampled, a bit each, lowest first; one entry a step.
    pub active: Vec<u64>,
}

/// The slots of one soft step.
#[derive(Debug, Clone, Copy)]
pub struct Step<'a, S = f32> {
    /// Token ids, [K].
    pub ids: &'a [u32],
    /// Noisy scores, [K].
    pub scores: &'a [S],
    /// Active slots when it was drawn, a bit each.
    pub active: u64,
}

impl<S: Real> SoftSteps<S> {
    /// Number of soft steps; all later steps of the completion are discrete.
    pub fn len(&self) -> usize {
        self.active.len()
    }

    /// Whether no step is soft.
    pub fn is_empty(&self) -> bool {
        self.active.is_empty()
    }

    /// The slots of step `t`, if it is soft.
    pub fn step(&self, t: usize) -> Option<Step<'_, S>> {
        let active = *self.active.get(t)?;
        let at = t * self.slots..(t + 1) * self.slots;
        Some(Step { ids: &self.ids[at.clone()], scores: &self.scores[at], active })
    }

    /// Appends a step.
    ///
    /// # Panics
    /// If it has another number of slots than those before.
    pub fn push(&mut self, ids: &[u32], scores: impl Iterator<Item = S>, active: u64) {
        if self.is_empty() {
            self.slots = ids.len();
        }
        assert_eq!(self.slots, ids.len(), "every soft step of a completion has the same number of slots");
        self.ids.extend_from_slice(ids);
        self.scores.extend(scores);
        self.active.push(active);
    }
}

/// softmax(scores / tau): the weights of a mixture from its stored scores, [K].
pub fn weights<S: Real>(scores: &[S], tau: f64) -> Vec<f64> {
    let most = scores.iter().map(|s| s.to_f64()).fold(f64::NEG_INFINITY, f64::max);
    let mut weights: Vec<f64> = scores.iter().map(|s| ((s.to_f64() - most) / tau).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.iter_mut().for_each(|w| *w /= sum);
    weights
}

/// How the log-densities of the slots make that of the step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reduction {
    /// Mean over active slots: the ratio is the geometric mean of the slots' ratios. The released code's.
    #[default]
    MeanActive,
    /// Sum over active slots: the product density.
    Sum,
}

/// Which policy decides whether a slot is active.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ActiveSlots {
    /// The one whose density is taken: a slot that crosses the threshold makes the ratio jump. The released code's.
    #[default]
    Current,
    /// The one that sampled: the set is frozen, so ratios move smoothly.
    Stored,
}

/// The log-density of a Gumbel-mixed soft step under a policy.
///
/// z = logits / T; q = softmax of z over the K slots; l_k = ln(q_k + prob_eps); x_k = clamp(g'_k - l_k);
/// f_k = -x_k - exp(-x_k); active: l_k > active_min. logp = mean (or sum) of f over active slots; 0,
/// with no gradient, if none is. Only K logits matter: the normaliser of the vocabulary cancels.
/// d logp / d z_j = sum_k c_k q_k / (q_k + prob_eps) (1{k=j} - q_j), c_k = (1 - exp(-x_k)) over active
/// slots whose x lies within the clamp, bounds included, divided by their number for the mean.
/// Source: SofT-GRPO, arXiv 2511.06411, by its released code; mean and clamp depart from a product
/// density (the clamp biases the score by about 0.003), and whether the paper has them is not known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Density {
    /// Divides the logits, T > 0.
    pub temperature: f64,
    /// Added to probabilities before the logarithm.
    pub prob_eps: f64,
    /// Bounds of the noise argument x.
    pub clamp: Option<(f64, f64)>,
    /// Slots with l at or below this do not count.
    pub active_min: Option<f64>,
    /// How slots are put together.
    pub reduction: Reduction,
    /// Which policy decides what is active.
    pub active: ActiveSlots,
}

impl Default for Density {
    /// The released code's constants.
    fn default() -> Self {
        Self {
            temperature: 1.0,
            prob_eps: 1e-6,
            clamp: Some((-1.5, 3.0)),
            active_min: Some(-3.0),
            reduction: Reduction::MeanActive,
            active: ActiveSlots::Current,
        }
    }
}

/// What the density of a step is made of; everything but `logp` has one entry a slot.
#[derive(Debug, Clone, PartialEq)]
pub struct Parts {
    /// Probabilities over the slots, q.
    pub probabilities: Vec<f64>,
    /// l = ln(q + prob_eps).
    pub log_probs: Vec<f64>,
    /// The noise argument x, clamped.
    pub noise: Vec<f64>,
    /// Whether x lies within the clamp.
    pub is_inside: Vec<bool>,
    /// Whether the slot counts.
    pub is_active: Vec<bool>,
    /// The log-density.
    pub logp: f64,
}

impl Density {
    /// The density of a step and its parts, from the row's raw logits [V].
    ///
    /// NaN if a slot's logit is NaN, all slots are -inf, or a slot lies outside the vocabulary.
    pub fn of<F: Real, S: Real>(&self, logits: &[F], step: &Step<S>) -> Parts {
        let z = |id: &u32| logits.get(*id as usize).map_or(f64::NAN, |z| z.to_f64() / self.temperature);
        let z: Vec<f64> = step.ids.iter().map(z).collect();
        let most = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let exps: Vec<f64> = z.iter().map(|z| (z - most).exp()).collect();
        let sum: f64 = exps.iter().sum();
        let probabilities: Vec<f64> = exps.iter().map(|e| e / sum).collect();
        // With no floor the logarithm is taken before the division, which keeps the digits of tiny q.
        let log_probs: Vec<f64> = match self.prob_eps {
            0.0 => z.iter().map(|z| z - most - sum.ln()).collect(),
            eps => probabilities.iter().map(|q| (q + eps).ln()).collect(),
        };
        let raw: Vec<f64> = step.scores.iter().zip(&log_probs).map(|(g, l)| g.to_f64() - l).collect();
        let (low, high) = self.clamp.unwrap_or((f64::NEG_INFINITY, f64::INFINITY));
        let is_inside = raw.iter().map(|x| (low..=high).contains(x)).collect();
        let noise: Vec<f64> = raw.iter().map(|x| x.clamp(low, high)).collect();
        let is_active: Vec<bool> = match self.active {
            ActiveSlots::Stored => (0..noise.len()).map(|k| step.active >> k & 1 == 1).collect(),
            ActiveSlots::Current => log_probs.iter().map(|&l| self.counts(l)).collect(),
        };
        let densities = noise.iter().zip(&is_active).filter(|(_, active)| **active).map(|(x, _)| -x - (-x).exp());
        let sum: f64 = densities.sum();
        // NaN logits make no slot active, which must not look like a density of 0.
        let logp =
            if most.is_finite() && z.iter().all(|z| !z.is_nan()) { sum / self.divisor(&is_active) } else { f64::NAN };
        Parts { probabilities, log_probs, noise, is_inside, is_active, logp }
    }

    /// Whether a slot of log-probability `l` counts.
    fn counts(&self, l: f64) -> bool {
        self.active_min.is_none_or(|least| l > least)
    }

    /// The active slots of a step under the policy that gave `log_probs`, a bit each.
    pub fn active_bits<F: Real>(&self, logits: &[F], ids: &[u32]) -> u64 {
        let zeros = vec![0.0_f64; ids.len()];
        let parts = Self { active: ActiveSlots::Current, ..*self }.of(logits, &Step { ids, scores: &zeros, active: 0 });
        parts.is_active.iter().enumerate().fold(0, |bits, (k, &active)| bits | u64::from(active) << k)
    }

    fn divisor(&self, is_active: &[bool]) -> f64 {
        match self.reduction {
            Reduction::MeanActive => is_active.iter().filter(|a| **a).count().max(1) as f64,
            Reduction::Sum => 1.0,
        }
    }

    /// d logp / d logits at the slots, [K], without the other entries, which are 0.
    pub fn gradient(&self, parts: &Parts) -> Vec<f64> {
        let divisor = self.divisor(&parts.is_active) * self.temperature;
        let through: Vec<f64> = (0..parts.noise.len())
            .map(|k| {
                if !(parts.is_active[k] && parts.is_inside[k]) {
                    return 0.0;
                }
                let q = parts.probabilities[k];
                let floor = if self.prob_eps == 0.0 { 1.0 } else { q / (q + self.prob_eps) };
                (1.0 - (-parts.noise[k]).exp()) * floor / divisor
            })
            .collect();
        let sum: f64 = through.iter().sum();
        through.iter().zip(&parts.probabilities).map(|(c, q)| c - q * sum).collect()
    }
}

/// Log-density at soft steps, log-prob of the chosen token at all others.
///
/// The entropy, if wanted, is that of the full next-token distribution at either kind of step, at the
/// temperature of that kind.
#[derive(Debug, Clone, Copy)]
pub struct SoftLogp<'a, S = f32> {
    /// What discrete steps give; its tokens hold an entry for every row.
    pub token: TokenLogp<'a>,
    /// The slots of each row; `None` = a discrete step.
    pub steps: &'a [Option<Step<'a, S>>],
    /// How dense a soft step is.
    pub density: Density,
}

impl<'a, S> SoftLogp<'a, S> {
    /// The function of the whole distribution at a soft step.
    fn whole(&self) -> TokenLogp<'a> {
        TokenLogp { temperature: self.density.temperature, ..self.token }
    }
}

impl<F: Real, S: Real> RowFunction<F> for SoftLogp<'_, S> {
    fn forward(&self, row: usize, logits: &[F]) -> RowValue {
        let Some(step) = &self.steps[row] else { return self.token.forward(row, logits) };
        let whole = if self.token.with_entropy { self.whole().forward(row, logits) } else { RowValue::default() };
        RowValue { logp: self.density.of(logits, step).logp, ..whole }
    }

    fn backward(&self, row: usize, logits: &mut [F], value: &RowValue, grad: &RowGrad) {
        let Some(step) = &self.steps[row] else { return self.token.backward(row, logits, value, grad) };
        let at_slots = self.density.gradient(&self.density.of(logits, step));
        match grad.entropy {
            0.0 => logits.fill(F::from_f64(0.0)),
            _ => self.whole().backward(row, logits, value, &RowGrad { logp: 0.0, ..*grad }),
        }
        for (&id, g) in step.ids.iter().zip(at_slots) {
            let slot = &mut logits[id as usize];
            *slot = F::from_f64(slot.to_f64() + grad.logp * g);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    fn row(seed: u64, n: usize) -> Vec<f64> {
        let mut rng = Rng::keyed(&[seed]);
        (0..n).map(|_| rng.normal() * 2.0).collect()
    }

    fn check_gradient(density: Density, with_entropy: bool) {
        let z = row(4, 12);
        let ids = [3_u32, 7, 1, 10];
        // Noise of 0.4 to 2.2 lies inside the clamp, off its bounds.
        let l = density.of(&z, &Step { ids: &ids, scores: &[0.0_f64; 4], active: 0 }).log_probs;
        let scores: Vec<f64> = l.iter().zip([0.4, 1.1, -0.9, 2.2]).map(|(l, n)| l + n).collect();
        let steps = [None, Some(Step { ids: &ids, scores: &scores, active: 0b1101 })];
        let token = TokenLogp { tokens: &[2, 3], temperature: 0.9, with_entropy };
        let function = SoftLogp { token, steps: &steps, density };
        for row in 0..2 {
            let grad = RowGrad { logp: -1.3, entropy: if with_entropy { 0.4 } else { 0.0 }, divergence: 0.0 };
            let scalar = |z: &[f64]| {
                let v = function.forward(row, z);
                grad.logp * v.logp + grad.entropy * v.entropy
            };
            let mut found = z.clone();
            function.backward(row, &mut found, &function.forward(row, &z), &grad);
            for k in 0..z.len() {
                let moved = |h: f64| {
                    let mut z = z.clone();
                    z[k] += h;
                    scalar(&z)
                };
                let wanted = (moved(1e-5) - moved(-1e-5)) / 2e-5;
                assert!((found[k] - wanted).abs() < 1e-8, "{density:?} row {row}, {k}: {} {wanted}", found[k]);
            }
        }
    }

    #[test]
    fn the_gradient_is_the_finite_difference() {
        for with_entropy in [false, true] {
            check_gradient(Density { temperature: 0.7, ..Density::default() }, with_entropy);
            check_gradient(
                Density { reduction: Reduction::Sum, clamp: None, prob_eps: 0.0, ..Density::default() },
                with_entropy,
            );
            check_gradient(Density { active: ActiveSlots::Stored, ..Density::default() }, with_entropy);
        }
    }

    /// Under the policy that sampled, the expected score is 0 without the clamp.
    #[test]
    fn the_score_has_no_mean_under_its_own_noise() {
        let density = Density { clamp: None, active_min: None, reduction: Reduction::Sum, ..Density::default() };
        let (z, ids, mut rng) = (vec![1.0, 0.2, -0.5], [0_u32, 1, 2], Rng::keyed(&[8]));
        let l = density.of(&z, &Step { ids: &ids, scores: &[0.0_f64; 3], active: 0 }).log_probs;
        let (mut mean, n) = ([0.0; 3], 100_000);
        for _ in 0..n {
            let scores: Vec<f64> = l.iter().map(|l| l + rng.gumbel()).collect();
            let parts = density.of(&z, &Step { ids: &ids, scores: &scores, active: 0 });
            mean.iter_mut().zip(density.gradient(&parts)).for_each(|(m, g)| *m += g / f64::from(n));
        }
        assert!(mean.iter().all(|m| m.abs() < 0.01), "{mean:?}");
    }

    #[test]
    fn edges_are_defined() {
        let step = Step { ids: &[0, 1], scores: &[0.0_f64, -1.0], active: 0 };
        let none = Density { active_min: Some(0.5), ..Density::default() };
        let parts = none.of(&[1.0, 2.0], &step);
        assert_eq!((parts.logp, none.gradient(&parts)), (0.0, vec![0.0, 0.0]), "no active slot is 0, not NaN");
        assert!(Density::default().of(&[f64::NAN, 2.0], &step).logp.is_nan());
        assert!(Density::default().of(&[1.0_f32], &step).logp.is_nan(), "a slot outside the vocabulary");
        let mut steps = SoftSteps::default();
        steps.push(&[4, 5], [1.0_f32, 0.5].into_iter(), 3);
        assert_eq!((steps.len(), steps.step(0).unwrap().ids, steps.step(1).is_none()), (1, &[4_u32, 5][..], true));
        assert!((weights(&[0.0_f32, 0.0], 0.1)[0] - 0.5).abs() < 1e-12);
    }
}
