//! The mathematics of ADPO over one candidate set: targets, losses and their gradients. Online sets are groups of
//! rollouts, offline ones pairs or ranked and scored lists; nothing here knows which.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::real::log_sum_exp;

/// A loss over one candidate set.
#[derive(Debug, Clone, PartialEq)]
pub struct SetLoss {
    /// The loss.
    pub loss: f64,
    /// Its derivative by each candidate's score u, [K].
    pub gradient: Vec<f64>,
}

/// softmax(values / temperature), [K]: a target from rewards (`beta_r`), standardised rewards, or a teacher's log-probs.
pub fn target(values: &[f64], temperature: f64) -> Vec<f64> {
    let scaled: Vec<f64> = values.iter().map(|v| v / temperature).collect();
    let lse = log_sum_exp(&scaled);
    scaled.iter().map(|v| (v - lse).exp()).collect()
}

/// The soft label of the first of a pair, sigmoid((r_1 - r_2) / beta_r).
pub fn pair_target(first: f64, second: f64, beta_r: f64) -> f64 {
    target(&[first, second], beta_r)[0]
}

/// u_i = (s_i - a_i) / tau of a set, from the candidates' log-probs and the anchor's, [K].
///
/// tau is 1/beta of DPO. A constant added to all u changes no loss, so an anchor that is the same for all candidates
/// (a uniform one) may as well be 0.
pub fn scores(logps: &[f64], anchor: &[f64], tau: f64) -> Vec<f64> {
    logps.iter().zip(anchor).map(|(s, a)| (s - a) / tau).collect()
}

/// The cross-entropy -sum_i q_i log softmax(u)_i; its gradient is softmax(u) - q where q sums to 1.
///
/// Its least value over the set is the entropy of q, at u = log q + constant. With two candidates and q = (1, 0) it is DPO, with
/// (1 - e, e) conservative DPO. A set of one gives 0, an empty one too.
pub fn cross_entropy(u: &[f64], q: &[f64]) -> SetLoss {
    let lse = log_sum_exp(u);
    let loss = q.iter().zip(u).filter(|(q, _)| **q > 0.0).map(|(q, u)| q * (lse - u)).sum();
    let mass: f64 = q.iter().sum();
    let gradient = u.iter().zip(q).map(|(u, q)| mass * (u - lse).exp() - q).collect();
    SetLoss { loss, gradient }
}

/// The log-probs at which [`cross_entropy`] is least: anchor + tau log q, up to a constant, [K].
pub fn optimum(anchor: &[f64], q: &[f64], tau: f64) -> Vec<f64> {
    anchor.iter().zip(q).map(|(a, q)| a + tau * q.ln()).collect()
}

/// -sum q ln q in nats.
pub fn entropy(q: &[f64]) -> f64 {
    -q.iter().filter(|q| **q > 0.0).map(|q| q * q.ln()).sum::<f64>()
}

/// The likelihood of the order by reward, position by position, in place of the cross-entropy with a target.
///
/// For v = u / temperature in falling order of reward: pos_k = logsumexp(v_k..) - v_k, softened by `label_smoothing` e to
/// logsumexp(v_k..) - (1 - e) v_k - e mean(v_k..), plus `poly_eps` (1 - exp(-min(pos_k, 20))); the mean over the first
/// `top_k` positions. It reads ranks only: among equal rewards the order of the rows is trained although it means
/// nothing, so with rewards of 0 and 1 use the softmax loss. Source: wk222/verlm, `core_algos.py`; the paper gives no
/// such loss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PlackettLuce {
    /// Positions that count, from the best; 0 counts all.
    pub top_k: usize,
    /// Divisor of the scores.
    pub temperature: f64,
    /// Share of each position that goes to all candidates left, e.
    pub label_smoothing: f64,
    /// Weight of the polynomial term.
    pub poly_eps: f64,
}

impl Default for PlackettLuce {
    fn default() -> Self {
        Self { top_k: 3, temperature: 1.0, label_smoothing: 0.1, poly_eps: 1.0 }
    }
}

/// Positions are cut here before the polynomial term's exponential.
const POLY_LIMIT: f64 = 20.0;

impl PlackettLuce {
    /// Every position, nothing softened.
    pub fn plain() -> Self {
        Self { top_k: 0, temperature: 1.0, label_smoothing: 0.0, poly_eps: 0.0 }
    }

    /// The loss of a set whose rewards are in the order of `u`; 0 for fewer than two candidates.
    pub fn loss(&self, u: &[f64], rewards: &[f64]) -> SetLoss {
        let mut order: Vec<usize> = (0..u.len()).collect();
        order.sort_by(|&a, &b| rewards[b].total_cmp(&rewards[a]));
        let v: Vec<f64> = order.iter().map(|&i| u[i] / self.temperature).collect();
        let positions = u.len().saturating_sub(1);
        let counted = if self.top_k == 0 { positions } else { positions.min(self.top_k) };
        let (mut loss, mut gradient) = (0.0, vec![0.0; u.len()]);
        for k in 0..counted {
            let rest = &v[k..];
            let (lse, n, e) = (log_sum_exp(rest), rest.len() as f64, self.label_smoothing);
            let pos = lse - (1.0 - e) * rest[0] - e * rest.iter().sum::<f64>() / n;
            loss += pos + self.poly_eps * (1.0 - (-pos.min(POLY_LIMIT)).exp());
            let slope = 1.0 + if pos < POLY_LIMIT { self.poly_eps * (-pos).exp() } else { 0.0 };
            for (j, v) in rest.iter().enumerate() {
                let chosen = if j == 0 { 1.0 - e } else { 0.0 };
                gradient[order[k + j]] += slope * ((v - lse).exp() - chosen - e / n);
            }
        }
        let divisor = counted.max(1) as f64;
        gradient.iter_mut().for_each(|g| *g /= divisor * self.temperature);
        SetLoss { loss: loss / divisor, gradient }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(u: &[f64], of: impl Fn(&[f64]) -> SetLoss) {
        let found = of(u);
        for i in 0..u.len() {
            let at = |h: f64| {
                let mut moved = u.to_vec();
                moved[i] += h;
                of(&moved).loss
            };
            let numeric = (at(1e-5) - at(-1e-5)) / 2e-5;
            assert!((numeric - found.gradient[i]).abs() < 1e-9, "{numeric} {}", found.gradient[i]);
        }
        assert!(found.gradient.iter().sum::<f64>().abs() < 1e-12, "a constant added to all scores changes nothing");
    }

    #[test]
    fn gradients_are_derivatives() {
        let u = [0.3, -1.2, 2.0, 0.0];
        check(&u, |u| cross_entropy(u, &target(&[1.0, 0.0, 0.5, 0.5], 0.4)));
        check(&u, |u| PlackettLuce::default().loss(u, &[0.1, 0.7, 0.7, -2.0]));
        check(&u, |u| PlackettLuce { temperature: 0.3, ..PlackettLuce::plain() }.loss(u, &[4.0, 3.0, 2.0, 1.0]));
    }

    #[test]
    fn at_the_optimum_the_loss_is_the_entropy_of_the_target() {
        let (anchor, q) = ([-3.0, -9.0, -4.5], target(&[1.0, 0.2, 0.7], 0.5));
        let at = cross_entropy(&scores(&optimum(&anchor, &q, 0.7), &anchor, 0.7), &q);
        assert!((at.loss - entropy(&q)).abs() < 1e-12);
        assert!(at.gradient.iter().all(|g| g.abs() < 1e-12));
    }

    #[test]
    fn a_single_candidate_has_nothing_to_learn() {
        assert_eq!(cross_entropy(&[3.0], &[1.0]), SetLoss { loss: 0.0, gradient: vec![0.0] });
        assert_eq!(PlackettLuce::default().loss(&[3.0], &[1.0]).gradient, [0.0]);
        assert_eq!(cross_entropy(&[], &[]).loss, 0.0);
    }
}
