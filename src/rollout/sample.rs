//! Drawing a token from a row of logits.

use crate::config::DiscreteConfig;
use crate::model::ops::Float;
use anyhow::{Result, bail, ensure};
use candlewick_algorithms::rng::Rng;

/// How tokens are drawn: temperature, then top-k, top-p and min-p.
///
/// Truncation makes the distribution that tokens are drawn from differ from the one that training
/// computes: leave top_k, top_p and min_p off for reinforcement learning, or correct for it with a
/// mismatch weight.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 = greedy. Training divides by the same number.
    pub temperature: f64,
    /// Keep the k most likely tokens; 0 = all.
    pub top_k: usize,
    /// Keep the most likely tokens that together reach this probability; 1 = all.
    pub top_p: f64,
    /// Keep tokens at least this likely relative to the most likely one; 0 = all.
    pub min_p: f64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0 }
    }
}

/// A drawn token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Draw {
    /// Its id.
    pub token: u32,
    /// Log-prob under the full softmax at the temperature (at 1 if greedy).
    pub logp: f64,
    /// Log-prob under the truncated distribution; 0 if greedy.
    pub drawn_logp: f64,
    /// Entropy of the full softmax in nats.
    pub entropy: f64,
}

/// Elements whose probabilities are summed together on the way to the token that was hit.
const BLOCK: usize = 512;

impl From<&DiscreteConfig> for Sampling {
    fn from(config: &DiscreteConfig) -> Self {
        Self {
            temperature: config.temperature,
            top_k: config.top_k.unwrap_or(0),
            top_p: config.top_p,
            min_p: config.min_p,
        }
    }
}

impl Sampling {
    /// Greedy decoding.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::default() }
    }

    /// The temperature that log-probs are taken at: the sampling temperature, or 1 if greedy.
    pub fn scoring_temperature(&self) -> f64 {
        if self.temperature == 0.0 { 1.0 } else { self.temperature }
    }

    /// Whether tokens are drawn from less than the full distribution.
    pub fn is_truncated(&self) -> bool {
        self.temperature == 0.0 || self.top_k > 0 || self.top_p < 1.0 || self.min_p > 0.0
    }

    /// Refuses settings that can never work.
    pub fn validate(&self) -> Result<()> {
        ensure!(
            self.temperature >= 0.0 && self.temperature.is_finite(),
            "`temperature` = {} is impossible: use 0 (greedy) or more",
            self.temperature
        );
        ensure!(
            self.top_p > 0.0 && self.top_p <= 1.0,
            "`top_p` = {} is impossible: use a probability in (0, 1]",
            self.top_p
        );
        ensure!((0.0..=1.0).contains(&self.min_p), "`min_p` = {} is impossible: use a share in [0, 1]", self.min_p);
        Ok(())
    }

    /// Draws from logits [V], which are overwritten. One uniform number is used unless greedy.
    ///
    /// Errors: logits that no distribution follows from, as [`check_logits`].
    pub fn draw<F: Float>(&self, logits: &mut [F], rng: &mut Rng) -> Result<Draw> {
        let scale = F::of(1.0 / self.scoring_temperature());
        let (best, &top) =
            logits.iter().enumerate().reduce(|a, b| if b.1 > a.1 { b } else { a }).expect("a vocabulary is not empty");
        if !top.wide().is_finite() {
            check_logits(logits)?;
        }
        // z = (logit - max) / T; from here on the row holds z, its exponentials stand beside it.
        for z in logits.iter_mut() {
            *z = (*z - top) * scale;
        }
        let mut weights = logits.to_vec();
        F::exp_all(&mut weights);
        let (mut total, mut moment) = (0.0, 0.0);
        let mut blocks = Vec::with_capacity(weights.len().div_ceil(BLOCK));
        for (w, z) in weights.chunks(BLOCK).zip(logits.chunks(BLOCK)) {
            let (sum, product) = block_sums(w, z);
            blocks.push(sum);
            total += sum;
            moment += product;
        }
        if !f64::is_finite(total) {
            check_logits(logits)?;
        }
        let log_total = total.ln();
        let entropy = (log_total - moment / total).max(0.0);
        let logp = |token: usize| logits[token].wide() - log_total;
        if self.temperature == 0.0 {
            return Ok(Draw { token: best as u32, logp: logp(best), drawn_logp: 0.0, entropy });
        }
        if !self.is_truncated() {
            let token = invert(&weights, &blocks, rng.uniform() * total).unwrap_or(best);
            return Ok(Draw { token: token as u32, logp: logp(token), drawn_logp: logp(token), entropy });
        }
        let kept = self.truncate(&weights, total);
        let kept_total: f64 = kept.iter().map(|&i| weights[i].wide()).sum();
        let mut rest = rng.uniform() * kept_total;
        let hit = kept.iter().find(|&&i| {
            rest -= weights[i].wide();
            rest < 0.0
        });
        let token = *hit.unwrap_or(&best);
        let drawn_logp = (weights[token].wide() / kept_total).ln();
        Ok(Draw { token: token as u32, logp: logp(token), drawn_logp, entropy })
    }

    /// Tokens that stay, most likely first; ties go to the lower id. Never empty.
    fn truncate<F: Float>(&self, weights: &[F], total: f64) -> Vec<usize> {
        let mut order: Vec<usize> = (0..weights.len()).filter(|&i| weights[i] > F::ZERO).collect();
        let by_weight = |a: &usize, b: &usize| {
            weights[*b].partial_cmp(&weights[*a]).unwrap_or(std::cmp::Ordering::Equal).then(a.cmp(b))
        };
        if self.top_k > 0 && self.top_k < order.len() {
            order.select_nth_unstable_by(self.top_k - 1, by_weight);
            order.truncate(self.top_k);
        }
        order.sort_unstable_by(by_weight);
        if self.top_p < 1.0 {
            let of: f64 = if self.top_k > 0 { order.iter().map(|&i| weights[i].wide()).sum() } else { total };
            let mut sum = 0.0;
            let cut = order.iter().position(|&i| {
                sum += weights[i].wide();
                sum >= self.top_p * of
            });
            order.truncate(cut.map_or(order.len(), |c| c + 1));
        }
        if self.min_p > 0.0 {
            // The largest weight is exp(0) = 1.
            order.retain(|&i| weights[i].wide() >= self.min_p);
        }
        order
    }
}

/// Refuses a row of logits [V] that no distribution follows from: one with NaN or +infinity, or of -infinity throughout.
pub(super) fn check_logits<F: Float>(logits: &[F]) -> Result<()> {
    const CAUSE: &str = "the weights hold numbers that are not finite, or overflow in their number type: start from a checkpoint that is whole, or lower `optim.learning_rate`";
    if let Some((token, logit)) =
        logits.iter().enumerate().find(|(_, z)| z.wide().is_nan() || z.wide() == f64::INFINITY)
    {
        bail!("the logits of the next token are not finite (`{}` for token {token}): {CAUSE}", logit.wide());
    }
    ensure!(
        logits.iter().any(|z| z.wide() > f64::NEG_INFINITY),
        "the logits of the next token are `-inf` throughout: {CAUSE}"
    );
    Ok(())
}

/// (sum w, sum w z); z = -inf counts nothing.
fn block_sums<F: Float>(w: &[F], z: &[F]) -> (f64, f64) {
    let (mut sum, mut product) = (F::ZERO, F::ZERO);
    for (&w, &z) in w.iter().zip(z) {
        sum += w;
        if w > F::ZERO {
            product += w * z;
        }
    }
    (sum.wide(), product.wide())
}

/// The first index at which the running sum of weights exceeds `target`, by way of block sums.
fn invert<F: Float>(weights: &[F], blocks: &[f64], mut target: f64) -> Option<usize> {
    for (b, &sum) in blocks.iter().enumerate() {
        if target >= sum {
            target -= sum;
            continue;
        }
        let first = b * BLOCK;
        let block = &weights[first..(first + BLOCK).min(weights.len())];
        for (i, w) in block.iter().enumerate() {
            target -= w.wide();
            if target < 0.0 {
                return Some(first + i);
            }
        }
        // Rounding: the running f64 sum can fall short of the block's own; its last weight is meant.
        return block.iter().rposition(|w| *w > F::ZERO).map(|i| first + i);
    }
    weights.iter().rposition(|w| *w > F::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logits() -> Vec<f64> {
        vec![1.0, f64::NEG_INFINITY, 0.3, 2.0, -1.0, 2.0, 0.0]
    }

    /// Pearson's chi-square of 40,000 draws against exact probabilities; the 99.9 % quantile for
    /// 6 degrees of freedom is 22.5, fewer degrees have smaller ones.
    fn check_frequencies(sampling: &Sampling, probabilities: &[f64]) {
        let (n, mut rng) = (40_000, Rng::keyed(&[5]));
        let mut counts = vec![0.0; probabilities.len()];
        for _ in 0..n {
            let draw = sampling.draw(&mut logits(), &mut rng).unwrap();
            counts[draw.token as usize] += 1.0;
            assert!((draw.drawn_logp.exp() - probabilities[draw.token as usize]).abs() < 1e-12);
        }
        let mut chi = 0.0;
        for (&count, &p) in counts.iter().zip(probabilities) {
            assert!(p > 0.0 || count == 0.0, "a token outside the distribution was drawn");
            if p > 0.0 {
                chi += (count - n as f64 * p) * (count - n as f64 * p) / (n as f64 * p);
            }
        }
        assert!(chi < 22.5, "chi-square {chi}");
    }

    fn softmax(keep: &[usize], temperature: f64) -> Vec<f64> {
        let logits = logits();
        let total: f64 = keep.iter().map(|&i| (logits[i] / temperature).exp()).sum();
        (0..logits.len())
            .map(|i| if keep.contains(&i) { (logits[i] / temperature).exp() / total } else { 0.0 })
            .collect()
    }

    #[test]
    fn frequencies_match_the_distribution() {
        let all = [0, 2, 3, 4, 5, 6];
        check_frequencies(&Sampling::default(), &softmax(&all, 1.0));
        check_frequencies(&Sampling { temperature: 0.6, ..Sampling::default() }, &softmax(&all, 0.6));
        check_frequencies(&Sampling { top_k: 3, ..Sampling::default() }, &softmax(&[0, 3, 5], 1.0));
        check_frequencies(&Sampling { top_p: 0.6, ..Sampling::default() }, &softmax(&[3, 5], 1.0));
        check_frequencies(&Sampling { min_p: 0.15, ..Sampling::default() }, &softmax(&[0, 2, 3, 5], 1.0));
    }

    #[test]
    fn log_probs_and_entropy_are_those_of_the_full_distribution() {
        let p = softmax(&[0, 2, 3, 4, 5, 6], 0.5);
        let entropy: f64 = -p.iter().filter(|p| **p > 0.0).map(|p| p * p.ln()).sum::<f64>();
        let sampling = Sampling { temperature: 0.5, top_k: 2, ..Sampling::default() };
        let draw = sampling.draw(&mut logits(), &mut Rng::keyed(&[1])).unwrap();
        assert!((draw.logp - p[draw.token as usize].ln()).abs() < 1e-12);
        assert!((draw.entropy - entropy).abs() < 1e-12);
        let greedy = Sampling::greedy().draw(&mut logits(), &mut Rng::keyed(&[1])).unwrap();
        assert_eq!((greedy.token, greedy.drawn_logp), (3, 0.0));
    }

    #[test]
    fn large_vocabularies_are_inverted_by_blocks() {
        let mut rng = Rng::keyed(&[9]);
        let base: Vec<f32> = (0..5000).map(|_| rng.normal() as f32).collect();
        let mut mean = 0.0;
        let n = 4000;
        for _ in 0..n {
            mean += f64::from(Sampling::default().draw(&mut base.clone(), &mut rng).unwrap().token) / f64::from(n);
        }
        let weights: Vec<f64> = base.iter().map(|z| f64::from(*z).exp()).collect();
        let total: f64 = weights.iter().sum();
        let expected: f64 = weights.iter().enumerate().map(|(i, w)| i as f64 * w / total).sum();
        // The standard error is about 1443 / sqrt(4000) = 23.
        assert!((mean - expected).abs() < 90.0, "{mean} against {expected}");
    }

    #[test]
    fn logits_that_are_not_finite_are_refused_wherever_they_stand() {
        let truncated = Sampling { top_k: 3, ..Sampling::default() };
        for sampling in [Sampling::default(), Sampling::greedy(), truncated] {
            for (at, bad) in [(0, f64::NAN), (4, f64::NAN), (6, f64::INFINITY)] {
                let mut row = logits();
                row[at] = bad;
                let error = sampling.draw(&mut row, &mut Rng::keyed(&[1])).unwrap_err().to_string();
                assert!(error.contains("not finite") && error.contains("for token"), "{error}");
            }
            let nowhere = sampling.draw(&mut [f32::NEG_INFINITY; 3], &mut Rng::keyed(&[1])).unwrap_err().to_string();
            assert!(nowhere.contains("`-inf` throughout"), "{nowhere}");
        }
    }
}
