//! Two models on the same problems: the difference, how sure it is, and what may be said of it.
//!
//! The unit is the problem's difference of rates, d_i = rate_b - rate_a, so that what makes a problem hard for
//! both cancels ("Adding Error Bars to Evals", arXiv 2411.00640).

use std::collections::HashMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Score;
use super::distribution::{Z_80, Z_975, fair_binomial_cdf, t_quantile};
use super::random::SplitMix64;
use crate::{Error, Result};

/// How a second set of outcomes differs from a first on the same problems.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Comparison {
    /// Problems in both.
    pub problems: usize,
    /// Mean difference of rates, second less first.
    pub difference: f64,
    /// Lower end of its 95 % interval.
    pub lower: f64,
    /// Upper end of its 95 % interval.
    pub upper: f64,
    /// Standard error of the difference, paired by problem: deviation of d_i over sqrt(N).
    pub standard_error: f64,
    /// Two-sided p under "no difference".
    pub p: f64,
    /// The test that gave it.
    pub test: Test,
    /// Problems on which the second is better.
    pub gained: Vec<String>,
    /// Problems on which the second is worse.
    pub lost: Vec<String>,
    /// The least true difference that a set like this one would find four times in five, at 5 % two-sided:
    /// (z_0.975 + z_0.80) times the standard error behind the interval.
    pub detectable: f64,
    /// What may be said.
    pub conclusion: Conclusion,
}

/// A significance test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Test {
    /// McNemar's exact test, one right-or-wrong outcome a problem.
    McNemar,
    /// Sign-flip permutation test over all sign patterns.
    PermutationExact,
    /// Sign-flip permutation test over random sign patterns.
    PermutationSampled,
}

/// What may be said of a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Conclusion {
    /// p below 0.05, an interval above zero.
    Better,
    /// p below 0.05, an interval below zero.
    Worse,
    /// Neither.
    NotDistinguishable,
}

/// Sign patterns drawn when they cannot all be counted.
const PATTERNS: usize = 100_000;
/// Most steps of the exact count of sums.
const EXACT_STEPS: usize = 50_000_000;

/// p with three decimals, or `< 0.001`, since no p is zero.
pub(super) fn p_text(p: f64) -> String {
    if p < 0.001 { "< 0.001".to_owned() } else { format!("{p:.3}") }
}

impl Comparison {
    /// p with three decimals, or `< 0.001`, since no p is zero.
    pub fn p_text(&self) -> String {
        p_text(self.p)
    }

    /// The result in one sentence, `second` and `first` being the models' names.
    pub fn sentence(&self, second: &str, first: &str) -> String {
        let points = |value: f64| format!("{:+.1}", 100.0 * value);
        let measured = format!(
            "{} points, 95 % interval {} to {}, p {}{}, {} problems gained and {} lost of {}",
            points(self.difference),
            points(self.lower),
            points(self.upper),
            if self.p < 0.001 { "" } else { "= " },
            self.p_text(),
            self.gained.len(),
            self.lost.len(),
            self.problems,
        );
        match self.conclusion {
            Conclusion::Better => format!("{second} is better than {first}: {measured}."),
            Conclusion::Worse => format!("{second} is worse than {first}: {measured}."),
            Conclusion::NotDistinguishable => format!(
                "{second} is not distinguishable from {first}: {measured}; a difference below {:.1} points would usually be missed.",
                100.0 * self.detectable
            ),
        }
    }
}

/// Compares two sets of outcomes on the same problems, in any order.
///
/// One sample a problem on both sides: McNemar's exact test. Else: sign-flip permutation, exact where the sums
/// can be counted. The interval is the mean of d_i with two problems added, one at +w and one at -w: with one
/// sample a problem w = 1 and the interval is Bonett and Price's (Journal of Educational and Behavioral
/// Statistics 2012); with n samples w = 1/sqrt(n), and Student's t replaces the normal quantile. So no interval
/// has zero width, not even when nothing changed. Errors: [`Error::NotComparable`] when the problems differ,
/// [`Error::Empty`] when there are none.
pub fn compare(first: &[Score], second: &[Score], seed: u64) -> Result<Comparison> {
    let pairs = pair(first, second)?;
    let d: Vec<f64> = pairs.iter().map(|(a, b)| b.rate() - a.rate()).collect();
    let samples = pairs.iter().map(|(a, b)| a.samples.min(b.samples)).min().unwrap_or(1);
    let mean = MeanDifference::of(&d, samples);
    let MeanDifference { difference, lower, upper, standard_error, .. } = mean;
    let better = |holds: &dyn Fn(f64) -> bool| -> Vec<String> {
        pairs.iter().zip(&d).filter(|(_, d)| holds(**d)).map(|((a, _), _)| a.id.clone()).collect()
    };
    let (gained, lost) = (better(&|d| d > 0.0), better(&|d| d < 0.0));
    let (p, test) = if pairs.iter().all(|(a, b)| a.samples == 1 && b.samples == 1) {
        (mcnemar(gained.len(), lost.len()), Test::McNemar)
    } else {
        // With a common denominator the differences are integers and the sums can be counted.
        let all = || pairs.iter().flat_map(|(a, b)| [a.samples, b.samples]);
        let counts = common_denominator(all()).map(|denominator| -> Vec<i64> {
            let part = |score: &Score| (score.right * (denominator / score.samples.max(1))) as i64;
            pairs.iter().map(|(a, b)| part(b) - part(a)).collect()
        });
        permutation(&d, counts.as_deref(), seed)
    };
    Ok(Comparison {
        problems: pairs.len(),
        difference,
        lower,
        upper,
        standard_error,
        p,
        test,
        gained,
        lost,
        detectable: (Z_975 + Z_80) * mean.error,
        conclusion: Conclusion::of(p, lower, upper),
    })
}

/// A mean of per-problem differences with its interval, as [`compare`] describes it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct MeanDifference {
    pub(super) difference: f64,
    pub(super) lower: f64,
    pub(super) upper: f64,
    /// Deviation of d_i over sqrt(N); 0 for a single problem.
    pub(super) standard_error: f64,
    /// The standard error behind the interval.
    error: f64,
}

impl MeanDifference {
    /// Over differences in \[-1, 1\], one a problem, each of them the mean over `samples` or more.
    pub(super) fn of(d: &[f64], samples: usize) -> Self {
        let n = d.len() as f64;
        let difference = d.iter().sum::<f64>() / n;
        let squares = d.iter().map(|d| (d - difference).powi(2)).sum::<f64>();
        let standard_error = if d.len() > 1 { (squares / (n - 1.0) / n).sqrt() } else { 0.0 };
        let weight2 = 1.0 / samples.max(1) as f64;
        let centre = d.iter().sum::<f64>() / (n + 2.0);
        let second_moment = (d.iter().map(|d| d * d).sum::<f64>() + 2.0 * weight2) / (n + 2.0);
        let error = ((second_moment - centre * centre).max(0.0) / (n + 2.0)).sqrt();
        let quantile = if samples <= 1 { Z_975 } else { t_quantile(0.975, n + 1.0) };
        let lower = (centre - quantile * error).min(difference).max(-1.0);
        let upper = (centre + quantile * error).max(difference).min(1.0);
        Self { difference, lower, upper, standard_error, error }
    }
}

impl Conclusion {
    /// What p and an interval of the difference allow to say.
    pub(super) fn of(p: f64, lower: f64, upper: f64) -> Self {
        match () {
            () if p < 0.05 && lower > 0.0 => Self::Better,
            () if p < 0.05 && upper < 0.0 => Self::Worse,
            () => Self::NotDistinguishable,
        }
    }
}

pub(super) fn pair<'a>(first: &'a [Score], second: &'a [Score]) -> Result<Vec<(&'a Score, &'a Score)>> {
    if first.is_empty() {
        return Err(Error::Empty("the first set of outcomes".to_owned()));
    }
    let by_id: HashMap<&str, &Score> = second.iter().map(|score| (score.id.as_str(), score)).collect();
    if first.len() != second.len() {
        let message = format!("{} problems on one side and {} on the other", first.len(), second.len());
        return Err(Error::NotComparable(message));
    }
    first
        .iter()
        .map(|score| match by_id.get(score.id.as_str()) {
            Some(other) => Ok((score, *other)),
            None => Err(Error::NotComparable(format!("problem `{}` is only on one side", score.id))),
        })
        .collect()
}

/// McNemar's exact two-sided p: `gained` and `lost` problems under a fair coin. 1 when there are none.
pub fn mcnemar(gained: usize, lost: usize) -> f64 {
    (2.0 * fair_binomial_cdf(gained.min(lost), gained + lost)).min(1.0)
}

/// Sign-flip p of the differences: exact where `counts`, the same over a common denominator, can be summed up in time.
pub(super) fn permutation(d: &[f64], counts: Option<&[i64]>, seed: u64) -> (f64, Test) {
    match counts.and_then(sign_flip_counts) {
        Some(p) => (p, Test::PermutationExact),
        None => (sign_flip(d, PATTERNS, seed), Test::PermutationSampled),
    }
}

/// The least common multiple of numbers of samples; `None` above 4096.
pub(super) fn common_denominator(mut samples: impl Iterator<Item = usize>) -> Option<usize> {
    samples.try_fold(1usize, |common, samples| least_common_multiple(common, samples).filter(|common| *common <= 4096))
}

fn least_common_multiple(a: usize, b: usize) -> Option<usize> {
    let b = b.max(1);
    let (mut x, mut y) = (a, b);
    while y > 0 {
        (x, y) = (y, x % y);
    }
    (a / x).checked_mul(b)
}

/// Exact two-sided sign-flip p of integer differences: the share of the 2^N sign patterns whose sum is at
/// least as far from zero as the one seen.
///
/// The distribution of the sum is built one difference at a time, N steps over the range of sums. `None`
/// when that is more than 50 million steps. No difference but zero: 1.
pub fn sign_flip_counts(differences: &[i64]) -> Option<f64> {
    let sizes: Vec<usize> = differences.iter().map(|d| d.unsigned_abs() as usize).filter(|size| *size > 0).collect();
    let range: usize = sizes.iter().sum();
    if sizes.len().checked_mul(range + 1)? > EXACT_STEPS {
        return None;
    }
    let seen = differences.iter().sum::<i64>().unsigned_abs() as usize;
    // chance[s] is the probability that the differences taken with a plus sign sum to s.
    let mut chance = vec![0.0f64; range + 1];
    chance[0] = 1.0;
    let mut reached = 0;
    for size in sizes {
        reached += size;
        for sum in (0..=reached).rev() {
            let with = if sum >= size { chance[sum - size] } else { 0.0 };
            chance[sum] = 0.5 * (chance[sum] + with);
        }
    }
    let extreme = |sum: usize| (2 * sum).abs_diff(range) >= seen;
    Some(chance.iter().enumerate().filter(|(sum, _)| extreme(*sum)).map(|(_, chance)| chance).sum::<f64>().min(1.0))
}

/// Two-sided sign-flip p by `patterns` random sign patterns: (1 + those as extreme) / (1 + `patterns`).
///
/// Never 0, as a sampled p must not be (Phipson and Smyth, "Permutation p-values should never be zero").
pub fn sign_flip(differences: &[f64], patterns: usize, seed: u64) -> f64 {
    let mut random = SplitMix64::new(seed);
    let seen = differences.iter().sum::<f64>().abs();
    // Sums in another order differ in the last bits; equal ones must count as extreme.
    let slack = 1e-12 * differences.iter().map(|d| d.abs()).sum::<f64>();
    let mut extreme = 1usize;
    for _ in 0..patterns {
        let (mut sum, mut bits) = (0.0, 0u64);
        for (at, d) in differences.iter().enumerate() {
            if at % 64 == 0 {
                bits = random.next_u64();
            }
            sum += if bits & 1 == 1 { *d } else { -*d };
            bits >>= 1;
        }
        extreme += usize::from(f64::abs(sum) + slack >= seen);
    }
    extreme as f64 / (patterns + 1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scores(rights: &[usize], samples: usize) -> Vec<Score> {
        let score = |(id, right): (usize, &usize)| Score { id: id.to_string(), right: *right, samples };
        rights.iter().enumerate().map(score).collect()
    }

    #[test]
    fn nothing_changed_is_not_distinguishable_and_not_certain() {
        let same = scores(&[1; 30], 1);
        let found = compare(&same, &same, 0).unwrap();
        assert_eq!((found.difference, found.p, found.conclusion), (0.0, 1.0, Conclusion::NotDistinguishable));
        assert!(found.lower < -0.01 && found.upper > 0.01, "{found:?}");
        assert!(found.sentence("final", "base").starts_with("final is not distinguishable from base: +0.0 points"));
    }

    #[test]
    fn everything_gained_is_better() {
        let found = compare(&scores(&[0; 40], 1), &scores(&[1; 40], 1), 0).unwrap();
        assert_eq!((found.difference, found.conclusion, found.test), (1.0, Conclusion::Better, Test::McNemar));
        assert!(found.upper <= 1.0 && found.lower > 0.8 && found.lower < 1.0);
        let back = compare(&scores(&[1; 40], 1), &scores(&[0; 40], 1), 0).unwrap();
        assert_eq!((back.conclusion, back.lower), (Conclusion::Worse, -found.upper));
        assert!(found.p_text() == "< 0.001" && found.sentence("a", "b").contains(", p < 0.001, "));
    }

    #[test]
    fn order_does_not_matter_but_the_problems_do() {
        let (first, mut second) = (scores(&[1, 2, 0, 4], 4), scores(&[2, 2, 1, 4], 4));
        let ordered = compare(&first, &second, 0).unwrap();
        second.reverse();
        assert_eq!(compare(&first, &second, 0).unwrap(), ordered);
        second[0].id = "other".into();
        let error = compare(&first, &second, 0).unwrap_err().to_string();
        assert_eq!(error, "cannot compare: problem `3` is only on one side");
        assert!(compare(&first, &second[1..], 0).is_err());
    }

    /// For one sample a problem the sign-flip test is McNemar's.
    #[test]
    fn the_tests_agree_where_they_are_the_same() {
        for (gained, lost) in [(0, 0), (5, 1), (9, 4), (3, 3), (40, 22)] {
            let mut d = vec![1i64; gained];
            d.extend(vec![-1; lost]);
            d.extend(vec![0; 17]);
            assert!((sign_flip_counts(&d).unwrap() - mcnemar(gained, lost)).abs() < 1e-12);
        }
    }

    #[test]
    fn sampled_patterns_estimate_the_exact_p() {
        let counts = [3i64, -1, 2, 2, 0, 4, -2, 1, 1, 3, -3, 2];
        let exact = sign_flip_counts(&counts).unwrap();
        let real: Vec<f64> = counts.iter().map(|count| *count as f64 / 8.0).collect();
        let sampled = sign_flip(&real, 100_000, 7);
        assert!((exact - sampled).abs() < 4.0 * (exact / 100_000.0).sqrt(), "{exact} {sampled}");
        assert_eq!(sampled, sign_flip(&real, 100_000, 7));
    }

    #[test]
    fn different_sample_counts_share_a_denominator() {
        let found = compare(&scores(&[1, 2, 0, 4, 4, 0], 8), &scores(&[6, 3, 9, 12, 12, 3], 12), 0).unwrap();
        assert_eq!(found.test, Test::PermutationExact);
        // The second problem is 2/8 = 3/12 on both sides; the other five are gains: 2 of 2^5 patterns are as extreme.
        assert!((found.p - 2.0 / 32.0).abs() < 1e-12, "{}", found.p);
    }
}
