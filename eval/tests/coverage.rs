//! Do the 95 % intervals cover what they say? Exactly, by enumeration, for one sample a problem; by seeded
//! simulation for several samples and for paired differences.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use candlewick_eval::metrics::{Score, SplitMix64, compare, estimate, wilson};

const PROBLEMS: [usize; 3] = [30, 100, 500];
const RATES: [f64; 3] = [0.05, 0.5, 0.95];

/// Coverage is the sum of the binomial probabilities of the outcomes whose interval holds the rate.
#[test]
fn one_sample_a_problem_covers_93_to_97_percent() {
    for n in PROBLEMS {
        for rate in RATES {
            // In logarithms, since 0.05 to the power of 500 is below the least f64.
            let mut log_chance = n as f64 * (1.0 - rate).ln();
            let mut covered = 0.0;
            for right in 0..=n {
                let (lower, upper) = wilson(right, n);
                if (lower..=upper).contains(&rate) {
                    covered += log_chance.exp();
                }
                log_chance += ((n - right) as f64 / (right + 1) as f64 * rate / (1.0 - rate)).ln();
            }
            println!("N {n}, p {rate}: {covered:.4}");
            assert!((0.93..=0.97).contains(&covered), "N {n}, p {rate}: {covered}");
        }
    }
}

/// How the problems' own rates differ around their mean.
#[derive(Debug, Clone, Copy)]
enum Spread {
    Alike,
    /// Beta distribution with these a + b.
    Beta(f64),
    AllOrNothing,
}

fn draw(spread: Spread, mean: f64, random: &mut SplitMix64) -> f64 {
    match spread {
        Spread::Alike => mean,
        Spread::AllOrNothing => f64::from(u8::from(random.uniform() < mean)),
        // Johnk's method, which is exact and quick for small parameters.
        Spread::Beta(total) => loop {
            let x = random.uniform().powf(1.0 / (mean * total));
            let y = random.uniform().powf(1.0 / ((1.0 - mean) * total));
            if x + y <= 1.0 && x + y > 0.0 {
                break x / (x + y);
            }
        },
    }
}

fn count(rate: f64, samples: usize, random: &mut SplitMix64) -> usize {
    (0..samples).filter(|_| random.uniform() < rate).count()
}

/// Simulated sets a cell: `CANDLEWICK_COVERAGE_SETS`, or as many as take a few seconds.
fn sets() -> usize {
    std::env::var("CANDLEWICK_COVERAGE_SETS").ok().and_then(|sets| sets.parse().ok()).unwrap_or(2000)
}

#[test]
fn eight_samples_a_problem_cover_at_least_90_percent() {
    let all = sets();
    let spreads = [Spread::Alike, Spread::Beta(3.0), Spread::Beta(1.0), Spread::Beta(0.3), Spread::AllOrNothing];
    for spread in spreads {
        for n in PROBLEMS {
            for mean in RATES {
                let mut random = SplitMix64::keyed(1, &format!("{spread:?} {n} {mean}"));
                let mut covered = 0;
                for _ in 0..all {
                    let scores: Vec<f64> = (0..n)
                        .map(|_| {
                            let rate = draw(spread, mean, &mut random);
                            count(rate, 8, &mut random) as f64 / 8.0
                        })
                        .collect();
                    let found = estimate(&scores, 8).unwrap();
                    covered += usize::from((found.lower..=found.upper).contains(&mean));
                }
                let share = covered as f64 / all as f64;
                println!("{spread:?}, N {n}, mean {mean}: {share:.3}");
                assert!(share >= 0.92, "{spread:?}, N {n}, mean {mean}: {share}");
            }
        }
    }
}

#[test]
fn all_right_and_all_wrong_never_have_zero_width() {
    for n in [1, 2, 30, 500] {
        for samples in [1, 8] {
            let wrong = estimate(&vec![0.0; n], samples).unwrap();
            let right = estimate(&vec![1.0; n], samples).unwrap();
            assert!(wrong.lower == 0.0 && wrong.upper > 0.5 / n as f64, "{wrong:?}");
            assert!(right.upper == 1.0 && right.lower < 1.0 - 0.5 / n as f64, "{right:?}");
        }
    }
    // A set with no spread at all has an interval too.
    let half = estimate(&[0.5; 30], 8).unwrap();
    assert!(half.upper - half.lower > 0.05, "{half:?}");
}

/// Two models on the same problems, whose rates move together: the interval of the difference.
#[test]
fn paired_differences_cover_at_least_90_percent() {
    let all = sets();
    for samples in [1, 8] {
        for n in PROBLEMS {
            for (mean, gain) in [(0.05, 0.0), (0.5, 0.0), (0.5, 0.2), (0.9, 0.05)] {
                let mut random = SplitMix64::keyed(2, &format!("{samples} {n} {mean} {gain}"));
                let mut covered = 0;
                for _ in 0..all {
                    let (mut first, mut second) = (Vec::new(), Vec::new());
                    for id in 0..n {
                        let rate = draw(Spread::Beta(1.0), mean, &mut random);
                        // Every problem moves the same share of its way up: mean gain is `gain`.
                        let raised = rate + (1.0 - rate) * gain / (1.0 - mean);
                        let score = |right| Score { id: id.to_string(), right, samples };
                        first.push(score(count(rate, samples, &mut random)));
                        second.push(score(count(raised, samples, &mut random)));
                    }
                    // The permutation test is not what is checked here, but it is cheap for these sizes.
                    let found = compare(&first, &second, 0).unwrap();
                    covered += usize::from((found.lower..=found.upper).contains(&gain));
                }
                let share = covered as f64 / all as f64;
                println!("n {samples}, N {n}, mean {mean}, gain {gain}: {share:.3}");
                assert!(share >= 0.9, "n {samples}, N {n}, mean {mean}, gain {gain}: {share}");
            }
        }
    }
}
