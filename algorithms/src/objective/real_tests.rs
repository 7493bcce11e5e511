use candle_core::Var;

use super::*;
use crate::Table;
use crate::rng::Rng;

const LOSSES: [RealLoss; 3] = [RealLoss::Real, RealLoss::Product, RealLoss::Bce];

/// Groups of 4, 3 and 2 rows, the last one all right; row 2 is empty, row 5 has no verdict.
fn example() -> (Batch, Table) {
    let lengths = [3usize, 5, 0, 2, 4, 1, 2, 3, 3];
    let mask: Vec<Vec<f64>> = lengths.iter().map(|&n| vec![1.0; n]).collect();
    let mut batch = Batch::new(Table::ragged(&mask, 0.0), vec![0, 0, 0, 0, 1, 1, 1, 2, 2]).unwrap();
    batch.verdict = "RWRWRMWRR"
        .chars()
        .map(|c| match c {
            'R' => Verdict::Right,
            'W' => Verdict::Wrong,
            _ => Verdict::Missing,
        })
        .collect();
    let mut rng = Rng::keyed(&[4]);
    let mut column = || {
        let mut table = batch.mask.clone();
        table.data_mut().iter_mut().for_each(|m| *m = if *m > 0.0 { -1.0 + 0.4 * rng.normal() } else { -9.0 });
        table
    };
    let (logp, old) = (column(), column());
    batch.old_logp = Some(old);
    batch.ref_logp = Some(column());
    (batch, logp)
}

fn run(settings: &Real, batch: &Batch, logp: &Table) -> (f64, Table, Metrics) {
    let var = Var::from_tensor(&logp.tensor().unwrap()).unwrap();
    let entropy = Var::from_tensor(&Table::filled(logp.rows(), logp.cols(), 0.7).tensor().unwrap()).unwrap();
    let leaves = Leaves {
        logp: var.as_tensor().clone(),
        entropy: Some(entropy.as_tensor().clone()),
        divergence: None,
        score: None,
    };
    let loss = settings.build().unwrap().loss(batch, &leaves).unwrap();
    let grads = loss.value.backward().unwrap();
    let gradient = grads.get(&var).map_or(Table::zeros(logp.rows(), logp.cols()), |g| Table::from_tensor(g).unwrap());
    (loss.value.to_scalar().unwrap(), gradient, loss.metrics)
}

fn all_settings() -> Vec<Real> {
    let mut all: Vec<Real> = LOSSES.iter().map(|&loss| Real { loss, tau: 0.4, ..Real::default() }).collect();
    all.push(Real { keep_pure_groups: true, ..Real::default() });
    all.push(Real { beta: 0.1, ..Real::default() });
    all.push(Real { entropy_coef: 0.1, drop_empty: true, ..Real::default() });
    all
}

/// Central differences of the loss itself.
#[test]
fn the_gradient_is_the_derivative_of_the_loss() {
    let (batch, logp) = example();
    for settings in all_settings() {
        let (_, gradient, _) = run(&settings, &batch, &logp);
        for k in 0..logp.data().len() {
            let at = |h: f64| {
                let mut moved = logp.clone();
                moved.data_mut()[k] += h;
                run(&settings, &batch, &moved).0
            };
            let numeric = (at(1e-5) - at(-1e-5)) / 2e-5;
            assert!(
                (numeric - gradient.data()[k]).abs() < 1e-8,
                "{settings:?} at {k}: {numeric} {}",
                gradient.data()[k]
            );
        }
    }
}

#[test]
fn masked_tokens_have_no_gradient_and_their_noise_changes_nothing() {
    let (mut batch, logp) = example();
    batch.keep[0] = false;
    let mut noisy = logp.clone();
    let mask = batch.kept_mask();
    noisy.data_mut().iter_mut().zip(mask.data()).filter(|(_, m)| **m == 0.0).for_each(|(x, _)| *x = f64::NAN);
    for settings in all_settings() {
        let (a, b) = (run(&settings, &batch, &logp), run(&settings, &batch, &noisy));
        assert_eq!((a.0, &a.1), (b.0, &b.1), "{settings:?}");
        assert!(a.1.data().iter().zip(mask.data()).all(|(g, m)| *m > 0.0 || *g == 0.0));
        assert!(a.1.data().iter().any(|g| *g != 0.0));
    }
}

#[test]
fn permuting_rows_within_groups_permutes_the_gradient() {
    let (batch, logp) = example();
    let order = [2usize, 0, 3, 1, 6, 4, 5, 8, 7];
    for settings in all_settings() {
        let (loss, gradient, _) = run(&settings, &batch, &logp);
        let (moved, permuted, _) = run(&settings, &batch.select(&order), &logp.select(&order));
        assert!((loss - moved).abs() < 1e-13);
        for (k, &i) in order.iter().enumerate() {
            assert!(permuted.row(k).iter().zip(gradient.row(i)).all(|(a, b)| (a - b).abs() < 1e-14));
        }
    }
}

/// On-policy every score is 0: right rows weigh 1/(tau (1 + |O+|)); weights stay under 1/tau however far scores go, and a
/// right row weighs less the higher its score.
#[test]
fn weights_have_the_stated_values_bound_and_direction() {
    let (mut batch, logp) = example();
    batch.old_logp = None;
    let (loss, gradient, metrics) = run(&Real::default(), &batch, &logp);
    // Group 0: 2 right, 2 wrong; group 1: 1 and 1; three groups.
    assert!((loss - 2.0 * (3f64.ln() + 2f64.ln()) / 3.0).abs() < 1e-14);
    assert!((gradient.row(0)[0] + (1.0 / (0.5 * 3.0)) / 3.0 / 3.0).abs() < 1e-15);
    assert!((metrics.get("mixed_groups").unwrap() - 2.0 / 3.0).abs() < 1e-15);
    assert_eq!(metrics.get("sign_accuracy"), Some(0.0));

    let settings = Real { tau: 0.3, ..Real::default() };
    let mut last = f64::INFINITY;
    for score in [-500.0, -2.0, -0.1, 0.0, 0.1, 2.0, 500.0] {
        let scores = [score, 0.2, 0.0, -0.4, 0.0, 0.0, 0.0, 0.0, 0.0];
        let (value, weights) = settings.loss_and_weights(&batch, &scores);
        assert!(value.is_finite() && weights.iter().all(|w| w.abs() * 3.0 <= 1.0 / 0.3 + 1e-12));
        assert!(weights[0] <= 0.0 && -weights[0] < last);
        last = -weights[0];
    }
}

#[test]
fn idle_rows_have_no_gradient_and_only_they() {
    let (mut batch, logp) = example();
    batch.finish[4] = Finish::Length;
    for (settings, expected) in [
        (Real::default(), "000001011"),
        (Real { keep_pure_groups: true, ..Real::default() }, "000001000"),
        (Real { beta: 0.1, ..Real::default() }, "000000000"),
        (Real { mask_truncated_completions: true, ..Real::default() }, "000011111"),
    ] {
        let idle = settings.build().unwrap().idle_rows(&batch);
        assert_eq!(idle.iter().map(|i| if *i { '1' } else { '0' }).collect::<String>(), expected, "{settings:?}");
        let (_, gradient, _) = run(&settings, &batch, &logp);
        for i in (0..9).filter(|&i| idle[i]) {
            assert!(gradient.row(i).iter().all(|g| *g == 0.0));
        }
    }
}

#[test]
fn impossible_settings_are_refused() {
    for bad in [
        Real { tau: 0.0, ..Real::default() },
        Real { beta: -1.0, ..Real::default() },
        Real { entropy_coef: f64::NAN, ..Real::default() },
        Real { keep_pure_groups: true, loss: RealLoss::Bce, ..Real::default() },
    ] {
        assert!(matches!(bad.build(), Err(Error::Config { .. })), "{bad:?}");
    }
}
