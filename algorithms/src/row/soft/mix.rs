//! From a row of logits to a mixture of tokens: truncation, noise, weights.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::weights;
use crate::rng::Rng;
use crate::row::Real;
use crate::row::token::RunningSums;

/// Which tokens may take part in a mixture: temperature, then top-k, top-p and min-p one after the
/// other, each on what the one before it left, renormalised; then the `slots` largest.
///
/// Source: Soft Thinking, arXiv 2505.15778, by its released code; many discrete samplers filter jointly instead.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Truncation {
    /// Divides the logits; 0 takes the most likely token alone.
    pub temperature: f64,
    /// Keep the k most likely tokens; 0 = all.
    pub top_k: usize,
    /// Keep a token while the mass before it, in falling order, is below this.
    pub top_p: f64,
    /// Leave out tokens less likely than this share of the most likely one.
    pub min_p: f64,
    /// Slots of a mixture, K.
    pub slots: usize,
}

/// The tokens that may take part, most likely first.
#[derive(Debug, Clone, PartialEq)]
pub struct Kept {
    /// Token ids; those that the truncation left out stand last, to fill the slots.
    pub ids: Vec<u32>,
    /// Probabilities over the slots, sum 1; 0 for what was left out.
    pub probabilities: Vec<f64>,
    /// Entropy in nats of softmax(logits / T) before any truncation (at T = 1 if T is 0).
    pub entropy: f64,
}

impl Truncation {
    /// Truncates a row of logits [V]; at most `min(slots, V)` entries come back, at least one.
    pub fn keep<F: Real>(&self, logits: &[F]) -> Kept {
        let scale = F::from_f64(if self.temperature == 0.0 { 1.0 } else { 1.0 / self.temperature }).to_f64();
        let sums = RunningSums::of(logits, scale);
        let by_logit = |a: &u32, b: &u32| {
            let (x, y) = (logits[*a as usize], logits[*b as usize]);
            y.partial_cmp(&x).unwrap_or(std::cmp::Ordering::Equal).then(a.cmp(b))
        };
        let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
        let wanted = self.candidates(ids.len());
        if wanted < ids.len() {
            ids.select_nth_unstable_by(wanted - 1, by_logit);
            ids.truncate(wanted);
        }
        ids.sort_unstable_by(by_logit);
        if self.temperature == 0.0 {
            return Kept { ids: vec![ids[0]], probabilities: vec![1.0], entropy: sums.entropy() };
        }
        let lse = sums.lse();
        let mut p: Vec<f64> = ids.iter().map(|&id| (logits[id as usize].to_f64() * scale - lse).exp()).collect();
        if self.top_k > 0 {
            p.iter_mut().skip(self.top_k).for_each(|p| *p = 0.0);
            renormalise(&mut p);
        }
        if self.top_p < 1.0 {
            let mut before = 0.0;
            for p in &mut p {
                let own = *p;
                if before >= self.top_p {
                    *p = 0.0;
                }
                before += own;
            }
            renormalise(&mut p);
        }
        if self.min_p > 0.0 {
            let least = self.min_p * p[0];
            p.iter_mut().filter(|p| **p < least).for_each(|p| *p = 0.0);
        }
        ids.truncate(self.slots);
        p.truncate(self.slots);
        renormalise(&mut p);
        Kept { ids, probabilities: p, entropy: sums.entropy() }
    }

    /// How many of the most likely tokens must be put in order.
    fn candidates(&self, vocabulary: usize) -> usize {
        let is_cut_by_mass = self.top_p < 1.0 || self.min_p > 0.0;
        let wanted = match (self.temperature, self.top_k) {
            (0.0, _) => 1,
            (_, 0) if is_cut_by_mass => vocabulary,
            (_, k) => k.max(self.slots),
        };
        wanted.clamp(1, vocabulary)
    }
}

fn renormalise(p: &mut [f64]) {
    let sum: f64 = p.iter().sum();
    p.iter_mut().for_each(|p| *p /= sum);
}

/// How the weights of a mixture come about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Gumbel noise on the log-probabilities, softmax(noisy / tau): random and soft, with a density to
    /// train on. arXiv 2511.06411; the noise alone, arXiv 2508.03440.
    #[default]
    Gumbel,
    /// Weights drawn from a Dirichlet distribution around the probabilities, arXiv 2508.03440. Has no density here.
    Dirichlet,
    /// The probabilities themselves, arXiv 2505.15778: deterministic, so several samples are the same one.
    Vanilla,
}

/// The noise of a mixture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Noise {
    /// How weights come about.
    pub mode: Mode,
    /// `gumbel`: temperature of the softmax over noisy scores; near 0 is almost a token.
    pub tau: f64,
    /// `gumbel`: multiplies the noise.
    pub scale: f64,
    /// `gumbel`: bounds of the noise.
    pub clamp: Option<(f64, f64)>,
    /// `gumbel`: added to probabilities before the logarithm; 0 drops tokens of probability 0.
    pub prob_eps: f64,
    /// `dirichlet`: concentration gamma; shapes are gamma times the probabilities.
    pub concentration: f64,
}

/// A mixture of tokens, largest weight first. Its first token is the visible one.
#[derive(Debug, Clone, PartialEq)]
pub struct Mixture {
    /// Token ids, [K].
    pub ids: Vec<u32>,
    /// Weights, sum 1, [K].
    pub weights: Vec<f64>,
    /// `gumbel`: noisy scores g', [K]; empty in the other modes.
    pub scores: Vec<f64>,
}

impl Mixture {
    /// One token alone.
    pub fn one_hot(id: u32) -> Self {
        Self { ids: vec![id], weights: vec![1.0], scores: Vec::new() }
    }

    /// Slots by falling weight, ties in the order given.
    fn sorted(ids: &[u32], weights: &[f64], scores: &[f64]) -> Self {
        let key = if scores.is_empty() { weights } else { scores };
        let mut order: Vec<usize> = (0..ids.len()).collect();
        order.sort_by(|&a, &b| key[b].total_cmp(&key[a]));
        let pick = |values: &[f64]| order.iter().filter_map(|&k| values.get(k).copied()).collect();
        Self { ids: order.iter().map(|&k| ids[k]).collect(), weights: pick(weights), scores: pick(scores) }
    }
}

impl Noise {
    /// What the generator must supply for `kept`, one number a slot: Gumbel noise, Gamma draws, or nothing.
    pub fn draw(&self, kept: &Kept, rng: &mut Rng) -> Vec<f64> {
        match self.mode {
            Mode::Vanilla => Vec::new(),
            Mode::Gumbel => kept.ids.iter().map(|_| rng.gumbel()).collect(),
            Mode::Dirichlet => self.shapes(kept).into_iter().map(|a| gamma(a, rng)).collect(),
        }
    }

    /// `dirichlet`: the shape of each slot's Gamma draw; a slot of probability 0 has shape 0 and draws 0.
    pub fn shapes(&self, kept: &Kept) -> Vec<f64> {
        kept.probabilities.iter().map(|w| self.concentration * w).collect()
    }

    /// The mixture that `drawn` (see [`Noise::draw`]) makes of `kept`.
    ///
    /// gumbel: g' = ln(q + prob_eps) + scale clamp(n), weights softmax(g'/tau). dirichlet: draws over
    /// their sum; if all are 0, the most likely token alone. vanilla: q.
    pub fn mix(&self, kept: &Kept, drawn: &[f64]) -> Mixture {
        if let [one] = kept.ids[..]
            && self.mode != Mode::Gumbel
        {
            return Mixture::one_hot(one);
        }
        // Without a floor a token of probability 0 has no score.
        let keeps_all = self.mode == Mode::Gumbel && self.prob_eps > 0.0;
        let live: Vec<usize> = (0..kept.ids.len()).filter(|&k| keeps_all || kept.probabilities[k] > 0.0).collect();
        let ids: Vec<u32> = live.iter().map(|&k| kept.ids[k]).collect();
        match self.mode {
            Mode::Vanilla => {
                Mixture::sorted(&ids, &live.iter().map(|&k| kept.probabilities[k]).collect::<Vec<_>>(), &[])
            }
            Mode::Dirichlet => {
                let sum: f64 = live.iter().map(|&k| drawn[k]).sum();
                if sum == 0.0 {
                    return Mixture::one_hot(kept.ids[0]);
                }
                Mixture::sorted(&ids, &live.iter().map(|&k| drawn[k] / sum).collect::<Vec<_>>(), &[])
            }
            Mode::Gumbel => {
                let (low, high) = self.clamp.unwrap_or((f64::NEG_INFINITY, f64::INFINITY));
                let score =
                    |&k: &usize| (kept.probabilities[k] + self.prob_eps).ln() + self.scale * drawn[k].clamp(low, high);
                let scores: Vec<f64> = live.iter().map(score).collect();
                Mixture::sorted(&ids, &weights(&scores, self.tau), &scores)
            }
        }
    }
}

/// A Gamma(shape, 1) draw; shape 0 gives 0.
///
/// Source: "A Simple Method for Generating Gamma Variables" (Marsaglia and Tsang, 2000); shapes below 1
/// are drawn at shape + 1 and multiplied by u^(1/shape), which underflows to 0 for tiny shapes.
fn gamma(shape: f64, rng: &mut Rng) -> f64 {
    if shape <= 0.0 {
        return 0.0;
    }
    if shape < 1.0 {
        return gamma(shape + 1.0, rng) * rng.open_uniform().powf(1.0 / shape);
    }
    let d = shape - 1.0 / 3.0;
    let c = 1.0 / (9.0 * d).sqrt();
    loop {
        let x = rng.normal();
        let v = (1.0 + c * x).powi(3);
        if v > 0.0 && rng.open_uniform().ln() < 0.5 * x * x + d - d * v + d * v.ln() {
            return d * v;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Truncation = Truncation { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, slots: 4 };
    const GUMBEL: Noise =
        Noise { mode: Mode::Gumbel, tau: 0.5, scale: 1.0, clamp: None, prob_eps: 0.0, concentration: 1.0 };

    #[test]
    fn gamma_draws_have_the_right_moments() {
        for shape in [0.3, 1.0, 4.5] {
            let (n, mut rng) = (100_000, Rng::keyed(&[3]));
            let (mut mean, mut square) = (0.0, 0.0);
            for _ in 0..n {
                let x = gamma(shape, &mut rng) / f64::from(n);
                mean += x;
                square += x * x * f64::from(n);
            }
            // Standard errors: sqrt(shape / n), and below 0.1 for the variance of the largest shape.
            assert!((mean - shape).abs() < 5.0 * (shape / f64::from(n)).sqrt(), "{shape}: {mean}");
            assert!((square - mean * mean - shape).abs() < 0.1 * shape.max(1.0), "{shape}: variance");
        }
        assert_eq!(gamma(0.0, &mut Rng::keyed(&[1])), 0.0);
    }

    /// The visible token of unclamped Gumbel mixtures is an exact draw from the kept distribution.
    #[test]
    fn the_visible_token_is_a_draw_from_what_was_kept() {
        let kept = Truncation { slots: 3, ..ALL }.keep(&[0.0_f64, 1.0, 2.0, -9.0]);
        let (n, mut rng, mut counts) = (40_000, Rng::keyed(&[2]), [0.0; 4]);
        for _ in 0..n {
            counts[GUMBEL.mix(&kept, &GUMBEL.draw(&kept, &mut rng)).ids[0] as usize] += 1.0;
        }
        let wanted = |id: u32| kept.ids.iter().position(|k| *k == id).map_or(0.0, |k| kept.probabilities[k]);
        let chi: f64 = (0..3)
            .map(|id| (counts[id] - f64::from(n) * wanted(id as u32)).powi(2) / (f64::from(n) * wanted(id as u32)))
            .sum();
        assert!(chi < 13.8 && counts[3] == 0.0, "chi-square {chi}"); // 99.9 % quantile of 2 degrees
    }

    #[test]
    fn removed_tokens_fill_slots_only_where_a_floor_gives_them_a_score() {
        let kept = Truncation { top_p: 0.5, top_k: 3, ..ALL }.keep(&[3.0_f32, 0.0, 1.0, 2.0, -1.0]);
        assert_eq!(
            (kept.ids.as_slice(), kept.probabilities[0], kept.probabilities[1]),
            (&[0_u32, 3, 2, 1][..], 1.0, 0.0)
        );
        assert_eq!(GUMBEL.mix(&kept, &[0.0; 4]).ids, [0]);
        let floored = Noise { prob_eps: 1e-6, ..GUMBEL }.mix(&kept, &[0.0; 4]);
        assert_eq!((floored.ids.len(), floored.scores.len()), (4, 4));
        let vanilla = Noise { mode: Mode::Vanilla, ..GUMBEL };
        assert_eq!(vanilla.mix(&kept, &[]), Mixture::one_hot(0));
        let dirichlet = Noise { mode: Mode::Dirichlet, ..GUMBEL };
        assert_eq!(dirichlet.mix(&kept, &[0.0; 4]), Mixture::one_hot(0), "all draws underflowed");
    }

    #[test]
    fn temperature_zero_is_the_most_likely_token() {
        let kept = Truncation { temperature: 0.0, ..ALL }.keep(&[0.5_f32, 2.0, 2.0]);
        assert_eq!((kept.ids, kept.probabilities), (vec![1], vec![1.0]));
    }
}
