//! `preference_metrics.json`: ranking metrics, reward-model losses, DPO-gamma, win rate.

use candle_core::Tensor;

use super::dpo::{leaf, scalar};
use super::{Case, Fields, all_close, cases, close, number, rows, table, vector};
use crate::batch::Role;
use crate::objective::reward_model::{RewardModel, WinTie, bradley_terry};
use crate::objective::scalar::logistic;
use crate::objective::{Leaves, Objective};
use crate::preference::{Answers, Contest, Flips, Pair, WinRate, is_ideally_ranked, median, ranks, share};
use crate::{Batch, Table};

const TOLERANCE: f64 = 1e-9;

#[test]
fn golden_preference_metrics() {
    for case in cases("preference_metrics") {
        let has = |key| case.inputs.has(key);
        if has("chosen_logps") && has("rater_share_chosen") {
            ranking(&case);
        } else if has("chosen_seq_logp") {
            sums(&case);
        } else if has("seq_logps") {
            lists(&case);
        } else if has("r_chosen") {
            comparisons(&case);
        } else if has("r_a") {
            win_tie(&case);
        } else if has("ref_chosen") {
            attenuated(&case);
        } else if has("outcomes") {
            win_rate(&case);
        } else {
            panic!("{}: no known kind of case has the inputs {:?}", case.path, case.inputs.keys());
        }
        case.inputs.finish();
        case.config.finish();
        case.expected.finish();
    }
}

/// Compares a number of `expected`.
fn expect(expected: &Fields, key: &str, found: f64) {
    let wanted = expected.number(key).unwrap_or_else(|| panic!("{}.{key} is missing", expected.path));
    close(&format!("{}.{key}", expected.path), found, wanted, TOLERANCE);
}

/// Compares a list of `expected`.
fn expect_all(expected: &Fields, key: &str, found: &[f64]) {
    all_close(&format!("{}.{key}", expected.path), found, &vector(expected.get(key)), TOLERANCE);
}

fn is(yes: bool) -> f64 {
    f64::from(u8::from(yes))
}

fn ranking(case: &Case) {
    let all = |name: &str| table(case.inputs.get(name));
    let (m_c, m_r) = (all("chosen_mask"), all("rejected_mask"));
    let sum = |logp: &Table, mask: &Table, i: usize| -> f64 {
        logp.row(i).iter().zip(mask.row(i)).filter(|(_, m)| **m != 0.0).map(|(l, _)| l).sum()
    };
    let answers = |chosen: &str, rejected: &str| -> Vec<Answers> {
        let (c, r) = (all(chosen), all(rejected));
        let length = |mask: &Table, i: usize| mask.row(i).iter().sum();
        (0..c.rows())
            .map(|i| Answers {
                chosen: sum(&c, &m_c, i),
                rejected: sum(&r, &m_r, i),
                chosen_tokens: length(&m_c, i),
                rejected_tokens: length(&m_r, i),
            })
            .collect()
    };
    let policy = answers("chosen_logps", "rejected_logps");
    let reference = answers("ref_chosen_logps", "ref_rejected_logps");
    let pairs: Vec<Pair> =
        policy.into_iter().zip(reference).map(|(policy, reference)| Pair { policy, reference }).collect();
    let beta = case.config.number("beta").expect("beta");
    let e = &case.expected;
    let accuracy = share(&pairs, |p| p.policy.is_ranked());
    expect(e, "ranking_accuracy", accuracy);
    expect(e, "ranking_accuracy_lennorm", share(&pairs, |p| p.policy.is_ranked_per_token()));
    expect(e, "ref_accuracy", share(&pairs, |p| p.reference.is_ranked()));
    expect(e, "ref_accuracy_lennorm", share(&pairs, |p| p.reference.is_ranked_per_token()));
    expect(e, "reward_accuracy", share(&pairs, Pair::is_rewarded));
    let each = |f: &dyn Fn(&Pair) -> f64| pairs.iter().map(f).collect::<Vec<_>>();
    expect_all(e, "correct_per_pair", &each(&|p| is(p.policy.is_ranked())));
    expect_all(e, "ref_correct_per_pair", &each(&|p| is(p.reference.is_ranked())));
    expect_all(e, "ref_log_ratio_c", &each(&|p| p.difficulty()));
    expect_all(e, "dpo_loss_per_pair", &each(&|p| p.loss(beta)));
    expect_all(e, "difficulty_loss_threshold", &each(&|p| p.loss_threshold(beta)));
    expect_all(e, "difficulty_margin_needed", &each(&|p| p.margin_needed(beta)));
    expect_all(e, "reward_margin", &each(&|p| p.margin(beta)));

    let (flips, cells) = (e.child("flips"), Flips::of(&pairs));
    expect(&flips, "correct_to_correct", cells.correct_to_correct);
    expect(&flips, "correct_to_incorrect", cells.correct_to_incorrect);
    expect(&flips, "incorrect_to_correct", cells.incorrect_to_correct);
    expect(&flips, "incorrect_to_incorrect", cells.incorrect_to_incorrect);
    flips.finish();

    let shares = vector(case.inputs.get("rater_share_chosen"));
    let ideal = e.child("idealized");
    let (betas, eps) = (vector(ideal.get("betas")), ideal.number("eps").expect("eps"));
    let of = |beta: f64, per_token: bool| {
        let items: Vec<_> = pairs.iter().zip(&shares).collect();
        share(&items, |(p, a)| is_ideally_ranked(&p.reference, **a, beta, eps, per_token))
    };
    for (key, per_token) in [("per_beta", false), ("per_beta_lennorm", true)] {
        let wanted = ideal.child(key);
        for name in wanted.keys() {
            expect(&wanted, &name, of(name.parse().expect("a beta"), per_token));
        }
        wanted.finish();
    }
    let plain: Vec<f64> = betas.iter().map(|&b| of(b, false)).collect();
    let per_token: Vec<f64> = betas.iter().map(|&b| of(b, true)).collect();
    expect(&ideal, "min", plain.iter().copied().fold(f64::INFINITY, f64::min));
    expect(&ideal, "max", plain.iter().copied().fold(f64::NEG_INFINITY, f64::max));
    expect(&ideal, "median", median(&plain));
    expect(&ideal, "median_lennorm", median(&per_token));
    ideal.finish();
    expect(e, "alignment_gap_vs_median", median(&plain) - accuracy);
}

fn sums(case: &Case) {
    let all = |name: &str| vector(case.inputs.get(name));
    let (c, r) = (all("chosen_seq_logp"), all("rejected_seq_logp"));
    let (c0, r0) = (all("ref_chosen_seq_logp"), all("ref_rejected_seq_logp"));
    let answers = |chosen: f64, rejected: f64| Answers { chosen, rejected, chosen_tokens: 1.0, rejected_tokens: 1.0 };
    let pairs: Vec<Pair> =
        (0..c.len()).map(|i| Pair { policy: answers(c[i], r[i]), reference: answers(c0[i], r0[i]) }).collect();
    expect(&case.expected, "ranking_accuracy", share(&pairs, |p| p.policy.is_ranked()));
    expect(&case.expected, "reward_accuracy", share(&pairs, Pair::is_rewarded));
}

fn lists(case: &Case) {
    let logp = rows(case.inputs.get("seq_logps"));
    let given = rows(case.inputs.get("given_rank_1_is_best"));
    let found: Vec<Vec<f64>> = logp.iter().map(|l| ranks(l).into_iter().map(|r| r as f64).collect()).collect();
    let wanted = rows(case.expected.get("policy_rank"));
    assert_eq!(found.len(), wanted.len(), "{}: lists", case.path);
    for (found, wanted) in found.iter().zip(&wanted) {
        all_close(&case.path, found, wanted, 0.0);
    }
    let exact: Vec<f64> = found.iter().zip(&given).map(|(f, g)| is(f == g)).collect();
    expect_all(&case.expected, "exact_match", &exact);
    expect(&case.expected, "accuracy", exact.iter().sum::<f64>() / exact.len() as f64);
}

/// A batch of B pairs that holds roles only.
fn scored(roles: impl Iterator<Item = (Role, Role)>) -> Batch {
    let roles: Vec<Role> = roles.flat_map(|(a, b)| [a, b]).collect();
    let n = roles.len();
    let mut batch = Batch::new(Table::filled(n, 1, 1.0), (0..n).map(|i| i / 2).collect()).unwrap();
    batch.role = roles;
    batch
}

/// The objective's own loss on scores, row by row.
fn objective(settings: &RewardModel, batch: &Batch, a: &Tensor, b: &Tensor) -> crate::objective::Loss {
    let n = batch.rows();
    let score = Tensor::stack(&[a, b], 1).unwrap().reshape(n).unwrap();
    let logp = Table::zeros(n, 1).tensor().unwrap();
    let leaves = Leaves { logp, entropy: None, divergence: None, score: Some(score) };
    settings.build().unwrap().loss(batch, &leaves).unwrap()
}

fn comparisons(case: &Case) {
    let (r_c, r_r) = (vector(case.inputs.get("r_chosen")), vector(case.inputs.get("r_rejected")));
    let margin = vector(case.inputs.get("margin"));
    assert!(case.config.text("per").is_some(), "{}: each configuration has its own settings", case.path);
    for key in case.expected.keys() {
        let e = case.expected.child(&key);
        // What the variant is follows from its name: its words are the terms that it has.
        let words: Vec<&str> = key.split('_').collect();
        for word in &words {
            assert!(["plain", "margin", "centered"].contains(word), "{}: unknown variant {key}", case.path);
        }
        let center = e.number("center_coefficient").filter(|c| !c.is_nan()).unwrap_or(0.0);
        let margin = if words.contains(&"margin") { margin.clone() } else { vec![0.0; margin.len()] };
        let (c, r) = (leaf(&r_c), leaf(&r_r));
        let per_pair = bradley_terry(c.as_tensor(), r.as_tensor(), &margin, center).unwrap();
        let value = per_pair.mean_all().unwrap();
        expect(&e, "loss", scalar(&value));
        let grads = value.backward().unwrap();
        expect_all(&e, "grad_chosen", &grads.get(&c).unwrap().to_vec1::<f64>().unwrap());
        expect_all(&e, "grad_rejected", &grads.get(&r).unwrap().to_vec1::<f64>().unwrap());
        let mut batch = scored(r_c.iter().map(|_| (Role::Chosen, Role::Rejected)));
        for (pair, m) in margin.iter().enumerate() {
            batch.margin[2 * pair] = Some(*m);
        }
        let whole = objective(&RewardModel { center, win_tie: None }, &batch, c.as_tensor(), r.as_tensor());
        close(&e.path, scalar(&whole.value), scalar(&value), 1e-14);
        expect(&e, "accuracy", whole.metrics.get("reward_accuracy").expect("reported"));
        expect(&e, "mean_margin", whole.metrics.get("reward_margin").expect("reported"));
        e.finish();
    }
}

fn win_tie(case: &Case) {
    let all = |name: &str| vector(case.inputs.get(name));
    let (r_a, r_b, q_a, q_b) = (all("r_a"), all("r_b"), all("quality_a"), all("quality_b"));
    assert!(case.config.text("per").is_some(), "{}: each configuration has its own settings", case.path);
    for key in case.expected.keys() {
        let e = case.expected.child(&key);
        let number = |key: &str| e.number(key).unwrap_or_else(|| panic!("{}.{key} is missing", e.path));
        let settings = WinTie {
            margin: number("margin"),
            label_smoothing: number("label_smoothing"),
            win_weight: number("bt_coeff"),
            tie_weight: number("btt_coeff"),
            bce_weight: number("bce_coeff"),
        };
        let (a, b) = (leaf(&r_a), leaf(&r_b));
        let (win, tie) = settings.terms(a.as_tensor(), b.as_tensor()).unwrap();
        expect_all(&e, "win_term", &win.to_vec1::<f64>().unwrap());
        expect_all(&e, "tie_term", &tie.to_vec1::<f64>().unwrap());
        let value = settings.loss(a.as_tensor(), b.as_tensor(), &q_a, &q_b).unwrap().mean_all().unwrap();
        expect(&e, "loss", scalar(&value));
        let grads = value.backward().unwrap();
        expect_all(&e, "grad_a", &grads.get(&a).unwrap().to_vec1::<f64>().unwrap());
        expect_all(&e, "grad_b", &grads.get(&b).unwrap().to_vec1::<f64>().unwrap());
        if e.has("rao_kupper") {
            let kupper = e.child("rao_kupper");
            let theta = settings.margin.exp();
            let gaps: Vec<f64> = r_a.iter().zip(&r_b).map(|(a, b)| a - b).collect();
            let wins: Vec<f64> = gaps.iter().map(|d| logistic(d - settings.margin)).collect();
            let losses: Vec<f64> = gaps.iter().map(|d| logistic(-d - settings.margin)).collect();
            let ties: Vec<f64> = wins.iter().zip(&losses).map(|(w, l)| (theta * theta - 1.0) * w * l).collect();
            expect(&kupper, "theta", theta);
            expect_all(&kupper, "p_win", &wins);
            expect_all(&kupper, "p_tie", &ties);
            expect_all(&kupper, "p_lose", &losses);
            kupper.finish();
        }
        let role = |q: f64| if q > 0.0 { Role::Desirable } else { Role::Undesirable };
        let batch = scored(q_a.iter().zip(&q_b).map(|(a, b)| (role(*a), role(*b))));
        let model = RewardModel { center: 0.0, win_tie: Some(settings) };
        let whole = objective(&model, &batch, a.as_tensor(), b.as_tensor());
        close(&e.path, scalar(&whole.value), scalar(&value), 1e-14);
        e.finish();
    }
}

fn attenuated(case: &Case) {
    let all = |name: &str| vector(case.inputs.get(name));
    let (c, r, c0, r0) = (all("chosen"), all("rejected"), all("ref_chosen"), all("ref_rejected"));
    let beta = case.config.number("beta").expect("beta");
    for key in case.expected.keys() {
        let e = case.expected.child(&key);
        let gamma: f64 = key
            .strip_prefix("gamma=")
            .and_then(|g| g.parse().ok())
            .unwrap_or_else(|| panic!("{}: unknown key {key}", case.path));
        let answers =
            |chosen: f64, rejected: f64| Answers { chosen, rejected, chosen_tokens: 1.0, rejected_tokens: 1.0 };
        let losses: Vec<f64> = (0..c.len())
            .map(|i| {
                Pair { policy: answers(c[i], r[i]), reference: answers(c0[i], r0[i]) }.attenuated_loss(beta, gamma)
            })
            .collect();
        expect_all(&e, "per_pair", &losses);
        expect(&e, "loss", losses.iter().sum::<f64>() / losses.len() as f64);
        // `objective.dpo` with a weight on the reference is the same loss.
        let column = |a: &[f64], b: &[f64]| {
            Table::new(2 * a.len(), 1, a.iter().zip(b).flat_map(|(a, b)| [*a, *b]).collect()).unwrap()
        };
        let mut batch = scored(c.iter().map(|_| (Role::Chosen, Role::Rejected)));
        batch.ref_logp = Some(column(&c0, &r0));
        let dpo = crate::objective::dpo::Dpo { beta, reference_weight: gamma, ..Default::default() };
        let logp = column(&c, &r).tensor().unwrap();
        let leaves = Leaves { logp, entropy: None, divergence: None, score: None };
        expect(&e, "loss", scalar(&dpo.loss(&batch, &leaves).unwrap().value));
        e.finish();
    }
}

fn win_rate(case: &Case) {
    let outcomes = case.inputs.get("outcomes").as_array().expect("a list");
    let contests: Vec<Contest> = (outcomes.iter())
        .map(|o| serde_json::from_value(o.clone()).unwrap_or_else(|e| panic!("{}: {e}", case.path)))
        .collect();
    let found = WinRate::of(&contests);
    let e = &case.expected;
    expect(e, "win", found.win);
    expect(e, "tie", found.tie);
    expect(e, "loss", found.loss);
    expect(e, "win_rate_half_ties", found.rate);
    expect(e, "standard_error", found.standard_error);
    assert!(number(e.get("win")) <= 1.0);
}
