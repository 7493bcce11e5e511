//! maj@k: the accuracy of the most frequent answer among k samples, answers counted by the grader's
//! equivalence and ties by their expectation.

use super::random::SplitMix64;
use crate::{Error, Result};

/// One sample's vote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vote {
    /// Which answer, as numbered by [`cluster`]; `None` when the sample gave no answer, which votes for nothing.
    pub answer: Option<usize>,
    /// Whether the sample is right.
    pub is_right: bool,
}

/// Draws for each problem when k is less than the number of samples.
pub const DRAWS: usize = 1000;

/// Numbers answers so that equal ones share a number, comparing each with the first of every kind so far.
///
/// Equivalence of real graders is not always transitive; the first of a kind decides.
pub fn cluster(answers: &[Option<&str>], equivalent: impl Fn(&str, &str) -> bool) -> Vec<Option<usize>> {
    let mut kinds: Vec<&str> = Vec::new();
    answers
        .iter()
        .map(|answer| {
            let answer = (*answer)?;
            let found = kinds.iter().position(|kind| *kind == answer || equivalent(kind, answer));
            Some(found.unwrap_or_else(|| {
                kinds.push(answer);
                kinds.len() - 1
            }))
        })
        .collect()
}

/// maj@k of one problem: the chance that the most frequent answer among k samples is right.
///
/// k = n: exact; tied answers count equally, so two tied answers of which one is right give one half.
/// k = 1: exact. 1 < k < n: the mean over [`DRAWS`] draws without replacement from `random`. An answer whose samples carry
/// different verdicts (a grader that is not transitive) counts by the share of right ones. No answers at
/// all: 0. Errors: [`Error::TooFewSamples`] when k = 0 or k > n.
pub fn maj_at_k(votes: &[Vote], k: usize, random: &mut SplitMix64) -> Result<f64> {
    let n = votes.len();
    if k == 0 || k > n {
        return Err(Error::TooFewSamples { k, n });
    }
    if k == n {
        return Ok(winner_is_right(votes));
    }
    if k == 1 {
        let right = votes.iter().map(|vote| winner_is_right(std::slice::from_ref(vote))).sum::<f64>();
        return Ok(right / n as f64);
    }
    let mut votes = votes.to_vec();
    let sum: f64 = (0..DRAWS)
        .map(|_| {
            random.draw_to_front(&mut votes, k);
            winner_is_right(&votes[..k])
        })
        .sum();
    Ok(sum / DRAWS as f64)
}

fn winner_is_right(votes: &[Vote]) -> f64 {
    let kinds = votes.iter().filter_map(|vote| vote.answer).max().map_or(0, |largest| largest + 1);
    let (mut count, mut right) = (vec![0usize; kinds], vec![0usize; kinds]);
    for vote in votes {
        if let Some(answer) = vote.answer {
            count[answer] += 1;
            right[answer] += usize::from(vote.is_right);
        }
    }
    let Some(&most) = count.iter().max().filter(|most| **most > 0) else {
        return 0.0;
    };
    let tied = count.iter().zip(&right).filter(|(count, _)| **count == most);
    let (kinds, sum) =
        tied.fold((0usize, 0.0), |(kinds, sum), (_, right)| (kinds + 1, sum + *right as f64 / most as f64));
    sum / kinds as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn votes(answers: &[(i64, bool)]) -> Vec<Vote> {
        let answer = |answer: i64| usize::try_from(answer).ok();
        answers.iter().map(|(a, is_right)| Vote { answer: answer(*a), is_right: *is_right }).collect()
    }

    #[test]
    fn equal_answers_vote_together() {
        let same = |a: &str, b: &str| a.parse::<f64>().ok() == b.parse::<f64>().ok();
        let found = cluster(&[Some("0.5"), None, Some("7"), Some(".50"), Some("7.0")], same);
        assert_eq!(found, [Some(0), None, Some(1), Some(0), Some(1)]);
    }

    #[test]
    fn ties_are_expected_values_and_silence_does_not_vote() {
        let mut random = SplitMix64::new(0);
        let mut at_all = |list: &[(i64, bool)]| maj_at_k(&votes(list), list.len(), &mut random).unwrap();
        assert_eq!(at_all(&[(0, true), (0, true), (1, false)]), 1.0);
        assert_eq!(at_all(&[(0, true), (1, false)]), 0.5);
        assert!((at_all(&[(0, true), (1, false), (2, false)]) - 1.0 / 3.0).abs() < 1e-15);
        // Three silent samples do not outvote one right answer.
        assert_eq!(at_all(&[(-1, false), (-1, false), (-1, false), (0, true)]), 1.0);
        assert_eq!(at_all(&[(-1, false), (-1, false)]), 0.0);
    }

    /// Two right votes of one kind, one wrong: of the three pairs one is (right, right) and two are ties,
    /// so maj@2 = (1 + 0.5 + 0.5) / 3 = 2/3; 1,000 draws have a standard error below 0.008.
    #[test]
    fn draws_estimate_the_expectation() {
        let votes = votes(&[(0, true), (0, true), (1, false)]);
        let value = maj_at_k(&votes, 2, &mut SplitMix64::new(5)).unwrap();
        assert!((value - 2.0 / 3.0).abs() < 0.03, "{value}");
        assert_eq!(value, maj_at_k(&votes, 2, &mut SplitMix64::new(5)).unwrap());
        assert_eq!(maj_at_k(&votes, 1, &mut SplitMix64::new(5)).unwrap(), 2.0 / 3.0);
        assert!(maj_at_k(&votes, 4, &mut SplitMix64::new(5)).is_err());
    }
}
