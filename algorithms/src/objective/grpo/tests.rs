//! Laws of the loss: masks, micro-batches, permutations, state, and what each option does to a gradient.

use candle_core::Var;

use super::aggregate::{Aggregation, EmptyRows};
use super::kl::Estimator;
use super::mismatch::{Mismatch, Mode, Rejection, Span, Statistic};
use super::ratio::Level;
use super::{GroupWeight, Grpo, LossType};
use crate::batch::{Advantages, Finish};
use crate::objective::Leaves;
use crate::rng::Rng;
use crate::{Batch, Error, Metrics, Needs, Table};

/// Six rows in groups of 2, 3 and 1 with lengths 5, 2, 0, 3, 1, 4, and every column; masked entries hold noise.
fn example() -> (Batch, Table) {
    let lengths = [5usize, 2, 0, 3, 1, 4];
    let mask: Vec<Vec<f64>> = lengths.iter().map(|&n| vec![1.0; n]).collect();
    let mut batch = Batch::new(Table::ragged(&mask, 0.0), vec![0, 0, 1, 1, 1, 2]).unwrap();
    let mut rng = Rng::keyed(&[21]);
    let mut column = |spread: f64| {
        let mut table = batch.mask.clone();
        for m in table.data_mut() {
            let x = -1.5 + spread * rng.normal();
            *m = if *m > 0.0 { x.min(-0.01) } else { f64::NAN };
        }
        table
    };
    let mut logp = column(0.5);
    let near = |t: &Table, noise: &Table| t.zip(noise, |a, b| a + 0.3 * (b + 1.5));
    let (a, b, c) = (column(1.0), column(1.0), column(1.0));
    batch.old_logp = Some(near(&logp, &a));
    batch.ref_logp = Some(near(&logp, &b));
    batch.sampling_logp = Some(near(batch.old_logp.as_ref().unwrap(), &c));
    batch.entropy = Some(column(0.5).zip(&batch.mask, |x, m| if m > 0.0 { -x } else { x }));
    batch.advantage = Some(Advantages::Row(vec![1.0, -0.7, 0.4, -1.2, 0.9, 0.3]));
    logp.data_mut().iter_mut().filter(|x| x.is_nan()).for_each(|x| *x = -9.0);
    batch.count_totals();
    (batch, logp)
}

struct Found {
    loss: f64,
    gradient: Table,
    metrics: Metrics,
}

fn run(settings: &Grpo, batch: &Batch, logp: &Table) -> Found {
    let var = Var::from_tensor(&logp.tensor().unwrap()).unwrap();
    let leaves = Leaves { logp: var.as_tensor().clone(), entropy: None, divergence: None, score: None };
    let loss = settings.build().unwrap().loss(batch, &leaves).unwrap();
    let grads = loss.value.backward().unwrap();
    let gradient = Table::from_tensor(grads.get(&var).unwrap()).unwrap();
    Found { loss: loss.value.to_scalar().unwrap(), gradient, metrics: loss.metrics }
}

const LOSSES: [LossType; 9] = [
    LossType::Grpo,
    LossType::Bnpo,
    LossType::DrGrpo,
    LossType::Dapo,
    LossType::Luspo,
    LossType::Cispo,
    LossType::Sapo,
    LossType::Vespo,
    LossType::Reinforce,
];

/// Settings that between them use every option.
fn many() -> Vec<Grpo> {
    let mut all: Vec<Grpo> = LOSSES.iter().map(|&loss| Grpo { loss, ..Grpo::default() }).collect();
    for level in [Level::Sequence, Level::SequenceToken] {
        all.push(Grpo { loss: LossType::Grpo, importance_sampling_level: level, ..Grpo::default() });
        all.push(Grpo { loss: LossType::Sapo, importance_sampling_level: level, ..Grpo::default() });
    }
    for kl in [Estimator::K1, Estimator::K2, Estimator::K3, Estimator::K1Plus, Estimator::K3Plus] {
        all.push(Grpo { beta: 0.1, kl, use_bias_correction_kl: false, ..Grpo::default() });
        all.push(Grpo { beta: 0.1, kl, ..Grpo::default() });
    }
    for mode in [Mode::TokenTruncate, Mode::TokenMask, Mode::SequenceTruncate, Mode::SequenceMask] {
        let mismatch = Some(Mismatch { mode, c_min: Some(0.7), c_max: 1.4, normalize: mode == Mode::TokenMask });
        all.push(Grpo { mismatch, ..Grpo::default() });
    }
    all.push(Grpo { delta: Some(1.3), dual_clip: Some(1.1), ..Grpo::default() });
    all.push(Grpo { top_entropy_quantile: 0.4, ..Grpo::default() });
    all.push(Grpo { off_policy_mask_threshold: Some(0.0), ..Grpo::default() });
    all.push(Grpo { entropy_coef: 0.1, ..Grpo::default() });
    all.push(Grpo { entropy_coef: 0.1, entropy_target: Some(9.0), ..Grpo::default() });
    for loss in LOSSES {
        all.push(Grpo { loss, group_weight: GroupWeight::Prompt, ..Grpo::default() });
        all.push(Grpo { loss, empty_rows: EmptyRows::Count, ..Grpo::default() });
    }
    all
}

#[test]
fn masked_tokens_have_exactly_zero_gradient_and_their_noise_changes_nothing() {
    let (mut batch, logp) = example();
    batch.keep[1] = false;
    let mut noisy = logp.clone();
    let mask = batch.kept_mask();
    noisy.data_mut().iter_mut().zip(mask.data()).filter(|(_, m)| **m == 0.0).for_each(|(x, _)| *x = 700.0);
    for settings in many() {
        let (a, b) = (run(&settings, &batch, &logp), run(&settings, &batch, &noisy));
        assert_eq!((a.loss, &a.gradient), (b.loss, &b.gradient), "{settings:?}");
        assert!(a.loss.is_finite() && a.gradient.data().iter().all(|g| g.is_finite()), "{settings:?}");
        let masked = a.gradient.data().iter().zip(mask.data()).filter(|(_, m)| **m == 0.0);
        assert!(masked.into_iter().all(|(g, _)| *g == 0.0), "{settings:?}");
        assert!(a.gradient.data().iter().any(|g| *g != 0.0), "{settings:?} has no gradient at all");
    }
}

#[test]
fn micro_batches_add_up_to_the_whole_unless_rows_are_coupled() {
    let (batch, logp) = example();
    let mut coupled = 0;
    for settings in many() {
        if settings.build().unwrap().couples_rows() {
            coupled += 1;
            continue;
        }
        let whole = run(&settings, &batch, &logp);
        let (mut loss, mut merged) = (0.0, Metrics::new());
        for rows in [vec![0, 1], vec![2], vec![3, 4], vec![5]] {
            let part = run(&settings, &batch.select(&rows), &logp.select(&rows));
            loss += part.loss;
            merged.merge(&part.metrics);
            for (k, &i) in rows.iter().enumerate() {
                for (a, b) in part.gradient.row(k).iter().zip(whole.gradient.row(i)) {
                    assert!((a - b).abs() < 1e-15, "{settings:?}");
                }
            }
        }
        assert!((loss - whole.loss).abs() < 1e-13, "{settings:?}: {loss} {}", whole.loss);
        for (name, value) in whole.metrics.iter() {
            let parts = merged.get(name).unwrap();
            assert!((parts - value).abs() < 1e-12, "{name}: {parts} {value}");
        }
    }
    assert!(coupled >= 10, "{coupled} settings declare that they couple rows");
}

/// The property that makes `batch_token_mean` couple rows: cut in two, it is another loss.
#[test]
fn the_batch_token_mean_is_not_the_sum_of_its_parts() {
    let (batch, logp) = example();
    let settings = Grpo { loss: LossType::Bnpo, ..Grpo::default() };
    let whole = run(&settings, &batch, &logp).loss;
    let parts: f64 =
        [vec![0, 1], vec![2, 3, 4, 5]].iter().map(|r| run(&settings, &batch.select(r), &logp.select(r)).loss).sum();
    assert!((whole - parts).abs() > 1e-3);
    assert_eq!(whole, run(&Grpo::default(), &batch, &logp).loss, "on a whole step it is `dapo`");
}

#[test]
fn permuting_a_group_permutes_the_gradient() {
    let (batch, logp) = example();
    let order = [1, 0, 4, 2, 3, 5];
    for settings in many() {
        let (a, b) = (run(&settings, &batch, &logp), run(&settings, &batch.select(&order), &logp.select(&order)));
        assert!((a.loss - b.loss).abs() < 1e-13, "{settings:?}");
        for (x, y) in a.gradient.select(&order).data().iter().zip(b.gradient.data()) {
            assert!((x - y).abs() < 1e-13, "{settings:?}");
        }
    }
}

#[test]
fn on_policy_every_loss_has_the_gradient_of_reinforce() {
    let (mut batch, logp) = example();
    batch.old_logp = None;
    let aggregation = Some(Aggregation::TokenMean);
    let wanted = run(&Grpo { loss: LossType::Reinforce, ..Grpo::default() }, &batch, &logp).gradient;
    for loss in LOSSES {
        for level in [Level::Token, Level::SequenceToken] {
            let settings = Grpo { loss, aggregation, importance_sampling_level: level, ..Grpo::default() };
            let found = run(&settings, &batch, &logp);
            for (a, b) in found.gradient.data().iter().zip(wanted.data()) {
                assert!((a - b).abs() < 1e-15, "{loss:?}: {a} {b}");
            }
            assert_eq!(found.metrics.get("ratio_max"), Some(1.0));
        }
    }
}

/// Central differences, where nothing is held constant in the formula: clipped losses, SAPO and the KL terms.
#[test]
fn gradients_are_finite_differences() {
    let (batch, logp) = example();
    let differentiable = |s: &Grpo| {
        let weighs = matches!(s.loss, LossType::Cispo | LossType::Vespo);
        let straight = s.beta > 0.0 && matches!(s.kl, Estimator::K1Plus | Estimator::K3Plus);
        !weighs && !straight && s.importance_sampling_level != Level::SequenceToken
    };
    for settings in many().into_iter().filter(differentiable) {
        let found = run(&settings, &batch, &logp).gradient;
        for k in (0..logp.data().len()).filter(|&k| batch.mask.data()[k] > 0.0) {
            let at = |h: f64| {
                let mut moved = logp.clone();
                moved.data_mut()[k] += h;
                run(&settings, &batch, &moved).loss
            };
            let wanted = (at(1e-6) - at(-1e-6)) / 2e-6;
            assert!((found.data()[k] - wanted).abs() < 1e-7, "{settings:?} at {k}: {} {wanted}", found.data()[k]);
        }
    }
}

#[test]
fn credit_multiplies_the_advantage_token_by_token() {
    let (mut batch, logp) = example();
    let mut tokens = Table::filled(6, 5, 1.0);
    tokens.row_mut(0)[1] = -3.0;
    tokens.row_mut(5)[0] = 0.0;
    batch.credit = Some(tokens.clone());
    let credited = run(&Grpo::default(), &batch, &logp);
    let rows = batch.token_advantage("test").unwrap();
    batch.advantage = Some(Advantages::Token(rows.zip(&tokens, |a, c| a * c)));
    batch.credit = None;
    let explicit = run(&Grpo::default(), &batch, &logp);
    assert_eq!((credited.loss, credited.gradient.clone()), (explicit.loss, explicit.gradient));
    assert_eq!(credited.gradient.row(5)[0], 0.0);
}

#[test]
fn every_prompt_weighs_the_same_if_asked() {
    let (mut batch, logp) = example();
    batch.old_logp = None;
    batch.advantage = Some(Advantages::Row(vec![1.0; 6]));
    for loss in [LossType::Grpo, LossType::Dapo, LossType::Bnpo] {
        let settings = Grpo { loss, group_weight: GroupWeight::Prompt, ..Grpo::default() };
        let gradient = run(&settings, &batch, &logp).gradient;
        for group in batch.groups() {
            let weight: f64 = group.map(|i| gradient.row(i).iter().sum::<f64>()).sum();
            assert!((weight + 1.0 / 3.0).abs() < 1e-15, "{loss:?}: {weight}");
        }
    }
}

#[test]
fn truncated_completions_leave_every_divisor() {
    let (mut batch, logp) = example();
    batch.finish[0] = Finish::Length;
    let settings = Grpo { mask_truncated_completions: true, ..Grpo::default() };
    settings.build().unwrap().prepare(&mut batch).unwrap();
    batch.count_totals();
    assert_eq!(batch.step_totals().tokens, 10);
    let gradient = run(&settings, &batch, &logp).gradient;
    assert!(gradient.row(0).iter().all(|&g| g == 0.0) && gradient.row(1).iter().any(|&g| g != 0.0));
}

/// Log-differences (0.5, -0.5 | 0.1, 0.1): the mean of row 0 is 0, its sum too; row 1 has mean 0.1, sum 0.2.
#[test]
fn rejection_looks_at_tokens_sums_or_means() {
    let difference = Table::new(2, 2, vec![0.5, -0.5, 0.1, 0.1]).unwrap();
    let mask = Table::filled(2, 2, 1.0);
    let keep = |span, statistic, min: Option<f64>, max: f64| {
        Rejection { span, statistic, min, max }.keep(&difference, &mask).data().to_vec()
    };
    assert_eq!(keep(Span::Token, Statistic::K1, None, 1.2), [0.0, 0.0, 1.0, 1.0]);
    assert_eq!(keep(Span::Token, Statistic::K1, Some(0.5), 1.2), [0.0, 1.0, 1.0, 1.0]);
    assert_eq!(keep(Span::SequenceMean, Statistic::K1, None, 1.1), [1.0, 1.0, 0.0, 0.0]);
    assert_eq!(keep(Span::SequenceMean, Statistic::K1, None, 1.15), [1.0; 4]);
    assert_eq!(keep(Span::SequenceSum, Statistic::K1, None, 1.15), [1.0, 1.0, 0.0, 0.0]);
    assert_eq!(keep(Span::SequenceSum, Statistic::K2, None, 0.2), [0.0, 0.0, 1.0, 1.0]);
    assert_eq!(keep(Span::Token, Statistic::K3, None, 0.11), [0.0, 1.0, 1.0, 1.0]);

    let (mut batch, logp) = example();
    let settings = Grpo { rejection: Some(Rejection { max: 1.05, ..Rejection::default() }), ..Grpo::default() };
    let before = batch.mask.sum();
    let mut stage = settings.build().unwrap();
    stage.prepare(&mut batch).unwrap();
    batch.count_totals();
    assert!(batch.mask.sum() < before);
    let leaves = Leaves { logp: logp.tensor().unwrap(), entropy: None, divergence: None, score: None };
    let share = stage.loss(&batch, &leaves).unwrap().metrics.get("rejected_fraction").unwrap();
    assert!((share - (1.0 - batch.mask.sum() / before)).abs() < 1e-15);
}

#[test]
fn the_entropy_bonus_adapts_is_saved_and_rests_above_its_target() {
    let (batch, logp) = example();
    let settings = Grpo { entropy_coef: 0.1, entropy_target: Some(1.0), ..Grpo::default() };
    let mut stage = settings.build().unwrap();
    let leaves = |entropy: f64| Leaves {
        logp: logp.tensor().unwrap(),
        entropy: Some(Table::filled(6, 5, entropy).tensor().unwrap()),
        divergence: None,
        score: None,
    };
    let value = |stage: &dyn crate::objective::Objective, entropy: f64| {
        stage.loss(&batch, &leaves(entropy)).unwrap().value.to_scalar::<f64>().unwrap()
    };
    let plain = run(&Grpo::default(), &batch, &logp).loss;
    assert!((value(stage.as_ref(), 0.5) - (plain - 0.1 * 0.5)).abs() < 1e-14);
    assert!((value(stage.as_ref(), 1.5) - plain).abs() < 1e-14, "above its target the bonus rests");

    let mut metrics = Metrics::new();
    metrics.mean("entropy", 0.5, 1.0);
    stage.commit(&batch, &metrics).unwrap();
    assert!((value(stage.as_ref(), 0.5) - (plain - 0.105 * 0.5)).abs() < 1e-14);
    let mut restored = settings.build().unwrap();
    restored.load(&stage.save().unwrap()).unwrap();
    assert_eq!(value(restored.as_ref(), 0.5), value(stage.as_ref(), 0.5));
    assert!(restored.load(&serde_json::json!({})).is_err());
    assert!(Grpo::default().build().unwrap().save().is_none(), "without a target there is nothing to remember");
}

#[test]
fn the_entropy_bonus_reaches_the_entropy_leaf() {
    let (batch, logp) = example();
    let entropy = Var::from_tensor(&Table::filled(6, 5, 0.5).tensor().unwrap()).unwrap();
    let leaves = Leaves {
        logp: logp.tensor().unwrap(),
        entropy: Some(entropy.as_tensor().clone()),
        divergence: None,
        score: None,
    };
    let settings = Grpo { entropy_coef: 0.3, ..Grpo::default() };
    let loss = settings.build().unwrap().loss(&batch, &leaves).unwrap().value;
    let gradient = Table::from_tensor(loss.backward().unwrap().get(&entropy).unwrap()).unwrap();
    for (g, m) in gradient.data().iter().zip(batch.mask.data()) {
        assert!((g + m * 0.3 / 15.0).abs() < 1e-16);
    }
}

#[test]
fn it_asks_only_for_what_it_uses() {
    let needs = |settings: Grpo| settings.build().unwrap().needs();
    assert_eq!(needs(Grpo::default()), Needs::default());
    assert!(needs(Grpo { beta: 0.1, ..Grpo::default() }).ref_logp);
    assert!(needs(Grpo { entropy_coef: 0.1, ..Grpo::default() }).entropy_leaf);
    let mismatch = needs(Grpo { mismatch: Some(Mismatch::default()), ..Grpo::default() });
    assert!(mismatch.old_logp && mismatch.sampling_logp);

    let (mut batch, logp) = example();
    batch.ref_logp = None;
    let leaves = Leaves { logp: logp.tensor().unwrap(), entropy: None, divergence: None, score: None };
    let stage = Grpo { beta: 0.1, ..Grpo::default() }.build().unwrap();
    assert!(matches!(stage.loss(&batch, &leaves), Err(Error::MissingColumn { column: "ref_logp", .. })));
    batch.advantage = Some(Advantages::Row(vec![0.0, 0.0, 0.0, f64::NAN, 0.0, 0.0]));
    assert!(matches!(stage.loss(&batch, &leaves), Err(Error::NonFinite { row: 3, .. })));
}

#[test]
fn impossible_settings_are_refused_and_unlikely_ones_warned_of() {
    let base = Grpo::default;
    for (key, bad) in [
        ("epsilon", Grpo { epsilon: 1.5, ..base() }),
        ("epsilon_high", Grpo { epsilon_high: Some(-0.1), ..base() }),
        ("delta", Grpo { delta: Some(1.1), ..base() }),
        ("delta", Grpo { delta: Some(9.0), loss: LossType::Sapo, ..base() }),
        ("dual_clip", Grpo { dual_clip: Some(1.0), ..base() }),
        ("cispo_min", Grpo { cispo_min: Some(0.5), ..base() }),
        ("sapo_tau_neg", Grpo { loss: LossType::Sapo, sapo_tau_neg: 0.0, ..base() }),
        ("beta", Grpo { beta: f64::NAN, ..base() }),
        ("top_entropy_quantile", Grpo { top_entropy_quantile: 1.1, ..base() }),
        ("off_policy_mask_threshold", Grpo { off_policy_mask_threshold: Some(f64::INFINITY), ..base() }),
        ("entropy_coef", Grpo { entropy_coef: -0.1, ..base() }),
        ("entropy_target", Grpo { entropy_target: Some(0.0), ..base() }),
        ("entropy_coef", Grpo { entropy_target: Some(0.2), entropy_coef: 2.0, ..base() }),
        ("mismatch.c_max", Grpo { mismatch: Some(Mismatch { c_max: 0.0, ..Mismatch::default() }), ..base() }),
        ("mismatch.c_min", Grpo { mismatch: Some(Mismatch { c_min: Some(3.0), ..Mismatch::default() }), ..base() }),
        ("rejection.max", Grpo { rejection: Some(Rejection { max: 0.9, ..Rejection::default() }), ..base() }),
        (
            "rejection.min",
            Grpo {
                rejection: Some(Rejection { statistic: Statistic::K2, min: Some(0.5), ..Rejection::default() }),
                ..base()
            },
        ),
        (
            "mismatch.mode",
            Grpo {
                loss: LossType::Vespo,
                mismatch: Some(Mismatch { mode: Mode::SequenceMask, ..Mismatch::default() }),
                ..base()
            },
        ),
    ] {
        let error = bad.build().err().unwrap_or_else(|| panic!("{bad:?} is accepted")).to_string();
        assert!(error.contains(&format!("`objective.grpo.{key}`")), "{key}: {error}");
    }
    assert!(base().warnings().is_empty());
    let gspo = Grpo { loss: LossType::Grpo, importance_sampling_level: Level::Sequence, ..base() };
    assert!(gspo.warnings().is_empty());
    assert_eq!(Grpo { loss: LossType::Dapo, ..gspo }.warnings().len(), 1);
}
