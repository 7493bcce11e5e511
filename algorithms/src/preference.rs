//! Metrics of preference data and preference-trained models, from sums of log-probs.
//!
//! How often the preferred answer is the likelier one, under the policy and under the reference; how
//! much of that could be reached at all; which pairs are hard; which were turned round by training.
//! Source: "Preference Learning Algorithms Do Not Learn Preference Rankings", arXiv 2405.19534.

use serde::Serialize;

use crate::objective::scalar::soft_plus;

/// Log-probs of the two answers of a pair, in nats, and their lengths in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Answers {
    /// Sum over the chosen answer's tokens, C.
    pub chosen: f64,
    /// Sum over the rejected answer's tokens, R.
    pub rejected: f64,
    /// Tokens of the chosen answer.
    pub chosen_tokens: f64,
    /// Tokens of the rejected answer.
    pub rejected_tokens: f64,
}

impl Answers {
    /// Whether the chosen answer is at least as likely; equality counts (definition 2.3).
    pub fn is_ranked(&self) -> bool {
        self.chosen >= self.rejected
    }

    /// The same for log-probs a token.
    pub fn is_ranked_per_token(&self) -> bool {
        self.per_token() >= 0.0
    }

    /// C/n_c - R/n_r; an answer without tokens counts as one token.
    fn per_token(&self) -> f64 {
        self.chosen / self.chosen_tokens.max(1.0) - self.rejected / self.rejected_tokens.max(1.0)
    }
}

/// A pair under the policy and under the reference.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Pair {
    /// Under the policy.
    pub policy: Answers,
    /// Under the reference.
    pub reference: Answers,
}

impl Pair {
    /// beta [(C - C0) - (R - R0)]: DPO's implicit reward margin.
    pub fn margin(&self, beta: f64) -> f64 {
        beta * ((self.policy.chosen - self.reference.chosen) - (self.policy.rejected - self.reference.rejected))
    }

    /// Whether the implicit reward of the chosen answer is larger; equality does not count.
    pub fn is_rewarded(&self) -> bool {
        self.margin(1.0) > 0.0
    }

    /// DPO's loss of the pair.
    pub fn loss(&self, beta: f64) -> f64 {
        soft_plus(-self.margin(beta))
    }

    /// DPO's loss with the reference weighed by `gamma`: -log sigmoid(beta [(C - R) + gamma (R0 - C0)]), eq. 4.
    pub fn attenuated_loss(&self, beta: f64, gamma: f64) -> f64 {
        soft_plus(-beta * ((self.policy.chosen - self.policy.rejected) + gamma * self.difficulty()))
    }

    /// c = R0 - C0: above 0 where the reference finds the rejected answer likelier.
    pub fn difficulty(&self) -> f64 {
        self.reference.rejected - self.reference.chosen
    }

    /// The largest DPO loss at which the pair is ranked rightly, softplus(-beta c) (theorem 4.1).
    pub fn loss_threshold(&self, beta: f64) -> f64 {
        soft_plus(-beta * self.difficulty())
    }

    /// The reward margin that ranks the pair rightly, beta c.
    pub fn margin_needed(&self, beta: f64) -> f64 {
        beta * self.difficulty()
    }

    /// Whether beta c is above 3: the loss must fall below 0.05 before the pair is ranked rightly.
    pub fn is_hard(&self, beta: f64) -> bool {
        self.margin_needed(beta) > 3.0
    }
}

/// The mean of a yes or no over items; NaN over none.
pub fn share<T>(items: &[T], is: impl Fn(&T) -> bool) -> f64 {
    items.iter().filter(|item| is(item)).count() as f64 / items.len() as f64
}

/// Shares of pairs by whether the reference and then the policy rank them rightly.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Flips {
    /// Both.
    pub correct_to_correct: f64,
    /// The reference alone.
    pub correct_to_incorrect: f64,
    /// The policy alone.
    pub incorrect_to_correct: f64,
    /// Neither.
    pub incorrect_to_incorrect: f64,
}

impl Flips {
    /// The flip table of pairs; NaN for none.
    pub fn of(pairs: &[Pair]) -> Self {
        let cell = |before, now| share(pairs, |p| (p.reference.is_ranked(), p.policy.is_ranked()) == (before, now));
        Self {
            correct_to_correct: cell(true, true),
            correct_to_incorrect: cell(true, false),
            incorrect_to_correct: cell(false, true),
            incorrect_to_incorrect: cell(false, false),
        }
    }

    /// Share of the pairs that the reference had wrong which the policy has right; NaN where it had none wrong.
    pub fn flip_rate(&self) -> f64 {
        self.incorrect_to_correct / (self.incorrect_to_correct + self.incorrect_to_incorrect)
    }
}

/// The betas that an idealised accuracy is taken over where no single one is meant.
pub const IDEAL_BETAS: [f64; 5] = [0.01, 0.1, 1.0, 5.0, 10.0];
/// How near to 0 or 1 a share of raters may come.
pub const SHARE_EPS: f64 = 1e-3;
/// The share of raters taken where the data name none, as in the paper's code.
pub const DEFAULT_SHARE: f64 = 0.75;

/// Whether a perfectly trained DPO policy ranks the pair rightly: (C0 - R0) + log(a/(1 - a)) / beta > 0, strictly, with a the
/// share of raters for the chosen answer, kept `eps` away from 0 and 1 (theorem 3.1).
///
/// `per_token` divides the reference's log-probs by the lengths. With a = 1 everywhere it is true for any beta and says nothing.
pub fn is_ideally_ranked(reference: &Answers, share: f64, beta: f64, eps: f64, per_token: bool) -> bool {
    let a = share.clamp(eps, 1.0 - eps);
    let gap = if per_token { reference.per_token() } else { reference.chosen - reference.rejected };
    gap + (a / (1.0 - a)).ln() / beta > 0.0
}

/// The middle of a list of numbers; the mean of the two middle ones for an even count; NaN for none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => 0.5 * (sorted[n / 2 - 1] + sorted[n / 2]),
    }
}

/// Rank of each answer of a list by log-prob, 1 for the likeliest; equal ones share the better rank.
pub fn ranks(logp: &[f64]) -> Vec<usize> {
    logp.iter().map(|x| 1 + logp.iter().filter(|y| *y > x).count()).collect()
}

/// Share of ordered pairs of a list (1 is best) that the log-probs order alike; equalities in the
/// given ranks are left out, those of log-probs count as right, as in [`Answers::is_ranked`].
pub fn pairwise_accuracy(logp: &[f64], given: &[f64]) -> f64 {
    let pairs: Vec<bool> = (0..logp.len())
        .flat_map(|i| (0..logp.len()).map(move |j| (i, j)))
        .filter(|&(i, j)| given[i] < given[j])
        .map(|(i, j)| logp[i] >= logp[j])
        .collect();
    share(&pairs, |is| *is)
}

/// How one answer fared against another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Contest {
    /// Better.
    Win,
    /// As good.
    Tie,
    /// Worse.
    Loss,
}

/// Wins, ties and losses over n contests.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct WinRate {
    /// Share of wins.
    pub win: f64,
    /// Share of ties.
    pub tie: f64,
    /// Share of losses.
    pub loss: f64,
    /// (wins + ties/2) / n.
    pub rate: f64,
    /// Sample deviation of {1, 1/2, 0} over the root of n; NaN for fewer than two.
    pub standard_error: f64,
}

impl WinRate {
    /// Over contests; NaN for none.
    pub fn of(contests: &[Contest]) -> Self {
        let n = contests.len() as f64;
        let of = |kind| share(contests, |c| *c == kind);
        let (win, tie, loss) = (of(Contest::Win), of(Contest::Tie), of(Contest::Loss));
        let rate = win + 0.5 * tie;
        // Deviations from the mean, summed over the three values there are.
        let square = win * (1.0 - rate).powi(2) + tie * (0.5 - rate).powi(2) + loss * rate.powi(2);
        Self { win, tie, loss, rate, standard_error: (square / (n - 1.0)).sqrt() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(chosen: f64, rejected: f64) -> Answers {
        Answers { chosen, rejected, chosen_tokens: 4.0, rejected_tokens: 2.0 }
    }

    /// The threshold separates right from wrong exactly: it is an identity (theorem 4.1).
    #[test]
    fn a_pair_is_ranked_rightly_exactly_below_its_threshold() {
        for c in [-7.0, -1.0, 0.3, 4.0] {
            for r in [-6.0, -2.0, 0.0] {
                let pair = Pair { policy: answers(c, r), reference: answers(-3.0, -2.5) };
                let beta = 0.3;
                assert_eq!(pair.policy.is_ranked(), pair.loss(beta) <= pair.loss_threshold(beta) + 1e-15);
                assert_eq!(pair.policy.is_ranked(), pair.margin(beta) >= pair.margin_needed(beta) - 1e-15);
                assert!((pair.attenuated_loss(beta, 1.0) - pair.loss(beta)).abs() < 1e-15);
            }
        }
    }

    #[test]
    fn a_policy_that_is_the_reference_flips_nothing() {
        let pairs: Vec<Pair> = [(-1.0, -2.0), (-3.0, -2.0), (-2.0, -2.0)]
            .map(|(c, r)| Pair { policy: answers(c, r), reference: answers(c, r) })
            .to_vec();
        assert_eq!(share(&pairs, Pair::is_rewarded), 0.0);
        let flips = Flips::of(&pairs);
        assert_eq!((flips.incorrect_to_correct, flips.correct_to_incorrect, flips.flip_rate()), (0.0, 0.0, 0.0));
        assert!((flips.correct_to_correct - 2.0 / 3.0).abs() < 1e-15);
    }

    #[test]
    fn lists_are_ranked_with_ties_sharing_the_better_rank() {
        assert_eq!(ranks(&[-1.0, -3.0, -1.0, -2.0]), [1, 4, 1, 3]);
        assert_eq!(pairwise_accuracy(&[-1.0, -2.0, -3.0], &[1.0, 3.0, 2.0]), 2.0 / 3.0);
        assert!((median(&[4.0, 1.0, 2.0, 9.0]) - 3.0).abs() < 1e-15 && median(&[]).is_nan());
    }
}
