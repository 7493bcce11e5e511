use candle_core::Var;

use super::*;
use crate::rng::Rng;

/// Groups of 4, 3 and 2 rows with lengths 1 to 4; the last group's rewards are equal and not above 0.
fn example() -> (Batch, Table) {
    let lengths = [3usize, 4, 1, 2, 4, 1, 2, 3, 0];
    let mask: Vec<Vec<f64>> = lengths.iter().map(|&n| vec![1.0; n]).collect();
    let mut batch = Batch::new(Table::ragged(&mask, 0.0), vec![5, 5, 5, 5, 2, 2, 2, 9, 9]).unwrap();
    let mut rng = Rng::keyed(&[8]);
    let mut column = |centre: f64| {
        let mut table = batch.mask.clone();
        table.data_mut().iter_mut().for_each(|m| *m = if *m > 0.0 { centre + 0.3 * rng.normal() } else { -9.0 });
        table
    };
    let (logp, old) = (column(-1.0), column(-1.0));
    batch.old_logp = Some(old);
    batch.ref_logp = Some(column(-1.2));
    batch.entropy = Some(column(1.0));
    batch.vocabulary = Some(16);
    let rewards = [1.0, 0.0, 0.0, 1.0, 0.5, 0.2, 0.9, 0.0, 0.0];
    batch.reward = Some(rewards.iter().map(|&r| Some(r)).collect());
    batch.advantage = Some(Advantages::Row(vec![0.9, -0.9, -0.9, 0.9, -0.1, -1.0, 1.1, 0.0, 0.0]));
    (batch, logp)
}

fn run(settings: &Adpo, batch: &Batch, logp: &Table) -> (f64, Table, Metrics) {
    let var = Var::from_tensor(&logp.tensor().unwrap()).unwrap();
    let leaves = Leaves { logp: var.as_tensor().clone(), entropy: None, divergence: None, score: None };
    let mut objective = settings.build().unwrap();
    objective.prepare(&mut batch.clone()).unwrap();
    let loss = objective.loss(batch, &leaves).unwrap();
    let grads = loss.value.backward().unwrap();
    let gradient = grads.get(&var).map_or(Table::zeros(logp.rows(), logp.cols()), |g| Table::from_tensor(g).unwrap());
    (loss.value.to_scalar().unwrap(), gradient, loss.metrics)
}

fn all_settings() -> Vec<Adpo> {
    vec![
        Adpo::default(),
        Adpo { loss: AdpoLoss::PlackettLuce(PlackettLuce::default()), ..Adpo::default() },
        Adpo { anchor: Anchor::Reference, adaptive: Some(Adaptive::default()), ..Adpo::default() },
        Adpo { length_normalize: true, tau: 0.1, clip_log_ratio: Some(0.15), clip_score: Some(3.0), ..Adpo::default() },
        Adpo { beta_anchor_kl: 0.2, drop_all_failed: true, ..Adpo::default() },
    ]
}

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
            let numeric = (at(1e-6) - at(-1e-6)) / 2e-6;
            assert!((numeric - gradient.data()[k]).abs() < 1e-7, "{settings:?} {k}: {numeric} {}", gradient.data()[k]);
        }
    }
}

#[test]
fn masked_tokens_have_no_gradient_and_their_noise_changes_nothing() {
    let (mut batch, logp) = example();
    batch.keep[1] = false;
    let mask = batch.kept_mask();
    let mut noisy = logp.clone();
    noisy.data_mut().iter_mut().zip(mask.data()).filter(|(_, m)| **m == 0.0).for_each(|(x, _)| *x = f64::NAN);
    for settings in all_settings() {
        let (a, b) = (run(&settings, &batch, &logp), run(&settings, &batch, &noisy));
        assert_eq!((a.0, &a.1), (b.0, &b.1), "{settings:?}");
        assert!(a.1.data().iter().zip(mask.data()).all(|(g, m)| *m > 0.0 || *g == 0.0));
        assert!(a.1.data().iter().any(|g| *g != 0.0));
    }
}

/// A loss reads a group's rows by their place in the group, so their order changes nothing but the order.
#[test]
fn permuting_rows_within_groups_permutes_the_gradient() {
    let (batch, logp) = example();
    let order = [2usize, 0, 3, 1, 6, 4, 5, 8, 7];
    for settings in all_settings().into_iter().filter(|s| s.loss == AdpoLoss::Softmax) {
        let (loss, gradient, _) = run(&settings, &batch, &logp);
        let (moved, permuted, _) = run(&settings, &batch.select(&order), &logp.select(&order));
        assert!((loss - moved).abs() < 1e-13);
        for (k, &i) in order.iter().enumerate() {
            assert!(permuted.row(k).iter().zip(gradient.row(i)).all(|(a, b)| (a - b).abs() < 1e-14));
        }
    }
}

/// u = 0: the loss is the mean of ln G, the gradient by a token (1/G - q)/(tau P), and flat groups are idle.
#[test]
fn the_first_update_is_a_policy_gradient_with_bounded_advantages() {
    let (mut batch, logp) = example();
    batch.old_logp = None;
    let (loss, gradient, metrics) = run(&Adpo::default(), &batch, &logp);
    assert!((loss - (4f64.ln() + 3f64.ln() + 2f64.ln()) / 3.0).abs() < 1e-14);
    let q = target(&[0.9, -0.9, -0.9, 0.9], 0.5);
    assert!((gradient.row(1)[0] - (0.25 - q[1]) / 0.8 / 3.0).abs() < 1e-15);
    assert!((metrics.get("win_mass").unwrap() - (0.25 + 1.0 / 3.0 + 0.5) / 3.0).abs() < 1e-15);
    let idle = Adpo::default().build().unwrap().idle_rows(&batch);
    assert_eq!(idle, [false, false, false, false, false, false, false, true, true]);
    assert!(gradient.row(7).iter().all(|g| *g == 0.0));
    let (later, _) = example();
    assert!(Adpo::default().build().unwrap().idle_rows(&later).iter().all(|i| !i), "flat groups are pulled back later");
}

#[test]
fn rows_without_a_score_leave_their_set_and_nothing_left_is_no_loss() {
    let (mut batch, logp) = example();
    batch.reward.as_mut().unwrap()[6] = None;
    let (_, gradient, _) = run(&Adpo::default(), &batch, &logp);
    assert!(gradient.row(6).iter().all(|g| *g == 0.0));
    batch.reward = Some(vec![Some(-1.0); 9]);
    let settings = Adpo { drop_all_failed: true, beta_anchor_kl: 0.1, ..Adpo::default() };
    let (loss, gradient, metrics) = run(&settings, &batch, &logp);
    assert_eq!((loss, metrics.get("dropped_prompts")), (0.0, Some(3.0)));
    assert!(gradient.data().iter().all(|g| *g == 0.0));
    batch.reward = None;
    let leaves = Leaves { logp: logp.tensor().unwrap(), entropy: None, divergence: None, score: None };
    let error = settings.build().unwrap().loss(&batch, &leaves).unwrap_err();
    assert!(error.to_string().contains("`reward`"), "{error}");
}

#[test]
fn impossible_settings_are_refused() {
    let plackett = |settings| Adpo { loss: AdpoLoss::PlackettLuce(settings), ..Adpo::default() };
    for bad in [
        Adpo { tau: 0.0, ..Adpo::default() },
        Adpo { beta_r: f64::NAN, ..Adpo::default() },
        Adpo { clip_score: Some(-1.0), ..Adpo::default() },
        Adpo { beta_anchor_kl: -0.1, ..Adpo::default() },
        Adpo { adaptive: Some(Adaptive { min: 2.0, max: 1.0, ..Adaptive::default() }), ..Adpo::default() },
        plackett(PlackettLuce { label_smoothing: 1.5, ..PlackettLuce::default() }),
        plackett(PlackettLuce { temperature: 0.0, ..PlackettLuce::default() }),
    ] {
        assert!(matches!(bad.build(), Err(Error::Config { .. })), "{bad:?}");
    }
}

/// Two rows with the sums -3 and -4 and anchors -3.5 and -3.7, two tokens each.
fn pair() -> (Batch, Table) {
    let mut batch = Batch::new(Table::ragged(&[vec![1.0; 2], vec![1.0; 2]], 0.0), vec![0, 0]).unwrap();
    batch.ref_logp = Some(Table::ragged(&[vec![-1.5, -2.0], vec![-1.7, -2.0]], 0.0));
    batch.advantage = Some(Advantages::Row(vec![1.0, 0.0]));
    (batch, Table::ragged(&[vec![-1.0, -2.0], vec![-1.0, -3.0]], 0.0))
}

/// A pair with label q is -q ln sigmoid(d / tau) - (1 - q) ln sigmoid(-d / tau): DPO for 1, its conservative form below.
#[test]
fn a_labelled_pair_is_dpo() {
    let (mut batch, logp) = pair();
    let delta = (-3.0 - -3.5) - (-4.0 - -3.7);
    for q in [1.0, 0.9, 0.5] {
        batch.label = vec![Some(q), Some(1.0 - q)];
        let settings = Adpo { anchor: Anchor::Reference, tau: 10.0, ..Adpo::default() };
        let (loss, gradient, _) = run(&settings, &batch, &logp);
        let lsg = |x: f64| -(1.0 + (-x).exp()).ln();
        let expected = -q * lsg(delta / 10.0) - (1.0 - q) * lsg(-delta / 10.0);
        assert!((loss - expected).abs() < 1e-12, "{loss} {expected}");
        let p = 1.0 / (1.0 + (-delta / 10.0_f64).exp());
        assert!(gradient.row(0).iter().all(|g| (g - (p - q) / 10.0).abs() < 1e-12));
    }
}

/// A target on one answer with nothing to measure from is the log-likelihood of that answer within its list.
#[test]
fn a_uniform_anchor_leaves_the_log_probs() {
    let (mut batch, logp) = pair();
    batch.label = vec![Some(1.0), Some(0.0)];
    let settings = Adpo { anchor: Anchor::Uniform, tau: 1.0, ..Adpo::default() };
    let (loss, _, _) = run(&settings, &batch, &logp);
    assert!((loss - (1.0 + (-1.0_f64).exp()).ln()).abs() < 1e-12, "{loss}");
}

#[test]
fn given_examples_have_no_sampling_policy_and_no_rewards() {
    let refused = |settings: Adpo| settings.build().unwrap().refuses_given_examples().map(|e| e.to_string());
    assert!(refused(Adpo::default()).is_some_and(|e| e.contains("objective.adpo.anchor")));
    let fixed = || Adpo { anchor: Anchor::Reference, ..Adpo::default() };
    assert_eq!(refused(fixed()), None);
    assert!(refused(Adpo { drop_all_failed: true, ..fixed() }).is_some_and(|e| e.contains("drop_all_failed")));
}
