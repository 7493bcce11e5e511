//! `adpo.json`: the online objective with its inner values, and the mathematics of offline sets.

use candle_core::Var;

use super::{Case, Fields, all_close, cases, close, number, rows, table, vector};
use crate::advantage::{AdvantageConfig, group, none};
use crate::batch::Advantages;
use crate::objective::adpo::list::{self, PlackettLuce};
use crate::objective::adpo::{Adaptive, Adpo, AdpoLoss, Policy};
use crate::objective::{Leaves, Objective};
use crate::{Batch, Table};

const TOLERANCE: f64 = 1e-9;

#[test]
fn golden_adpo() {
    for case in cases("adpo") {
        if case.inputs.has("seq_logps") {
            offline(&case);
        } else if ["logps", "logp", "logp_new"].iter().any(|key| case.inputs.has(key)) {
            online(&case);
        } else {
            panic!("{}: no known kind of case has the inputs {:?}", case.path, case.inputs.keys());
        }
        case.inputs.finish();
        case.config.finish();
        case.expected.finish();
    }
}

// ---- online ----

fn settings(path: &str, config: &Fields) -> Adpo {
    let flag = |key: &str| config.find(&[key]).is_some_and(|v| v.as_bool().expect("true or false"));
    let loss = match config.text("variant") {
        None | Some("softmax") => AdpoLoss::Softmax,
        Some("plackett_luce") => {
            let plain = PlackettLuce::plain();
            AdpoLoss::PlackettLuce(PlackettLuce {
                top_k: config.number("pl_top_k").map_or(plain.top_k, |k| k as usize),
                temperature: config.number("pl_temperature").unwrap_or(plain.temperature),
                label_smoothing: config.number("pl_label_smoothing").unwrap_or(plain.label_smoothing),
                poly_eps: config.number("poly_eps").unwrap_or(plain.poly_eps),
            })
        }
        Some(other) => panic!("{path}: unknown variant {other:?}"),
    };
    Adpo {
        loss,
        tau: config.number("tau").expect("a temperature"),
        beta_r: config.number("beta_r").expect("a target temperature"),
        length_normalize: flag("length_normalize"),
        clip_log_ratio: config.number("clip_log_ratio").filter(|x| !x.is_nan()),
        clip_score: config.number("clip_score").filter(|x| !x.is_nan()),
        beta_anchor_kl: config.number("beta_anchor_kl").unwrap_or(0.0),
        drop_all_failed: flag("drop_all_failed"),
        ..Adpo::default()
    }
}

fn online(case: &Case) {
    let (inputs, config, path) = (&case.inputs, &case.config, &case.path);
    let mask = table(inputs.find(&["mask", "response_mask"]).expect("a mask"));
    let size = config.number("group_size").expect("a group size") as usize;
    let prompts = config.number("num_prompts").expect("a number of prompts") as usize;
    assert_eq!(prompts * size, mask.rows(), "{path}: rows are prompts x group size");
    let mut batch = Batch::new(mask, (0..prompts * size).map(|i| i / size).collect()).unwrap();
    batch.old_logp = Some(table(inputs.find(&["anchor_logps", "old_logp", "logp_old"]).expect("an anchor")));
    let rewards = inputs.get("rewards");
    let rewards =
        if rewards.get(0).is_some_and(serde_json::Value::is_array) { rows(rewards).concat() } else { vector(rewards) };
    batch.scores.names = vec!["reward".into()];
    batch.scores.values = rewards.iter().map(|&r| vec![Some(r)]).collect();
    batch.entropy = inputs.find(&["token_entropy"]).map(table);

    // The target's values are an advantage: standardised rewards, or rewards minus their mean.
    let eps = config.number("std_eps").unwrap_or(1e-8);
    let advantage = match config.find(&["zscore"]).is_none_or(|z| z.as_bool().expect("true or false")) {
        true => AdvantageConfig::Group(group::Group { eps, ..group::Group::default() }),
        false => AdvantageConfig::None(none::Unscaled::default()),
    };
    advantage.build().unwrap().apply(&mut batch).unwrap();
    let mut settings = settings(path, config);
    if config.has("adaptive_tau") {
        let adaptive = config.child("adaptive_tau");
        let of = |key: &str| adaptive.number(key).unwrap_or_else(|| panic!("{path}: adaptive_tau.{key}"));
        settings.adaptive = Some(Adaptive { alpha: of("alpha"), beta: of("beta"), min: of("min"), max: of("max") });
        batch.vocabulary = Some(of("vocab_size") as usize);
        adaptive.finish();
    }
    let mut objective = settings.policy().unwrap();
    objective.prepare(&mut batch).unwrap();
    batch.count_totals();
    compare(
        case,
        &objective,
        &batch,
        &table(inputs.find(&["logps", "logp", "logp_new"]).expect("log-probs")),
        &settings,
    );
}

fn compare(case: &Case, objective: &Policy, batch: &Batch, logp: &Table, settings: &Adpo) {
    let var = Var::from_tensor(&logp.tensor().unwrap()).unwrap();
    let leaves = Leaves { logp: var.as_tensor().clone(), entropy: None, divergence: None, score: None };
    let loss = objective.loss(batch, &leaves).unwrap();
    let gradient = Table::from_tensor(loss.value.backward().unwrap().get(&var).unwrap()).unwrap();
    // The change of each row by its definition.
    let anchor = batch.old_logp.as_ref().unwrap();
    let changes: Vec<f64> = (0..batch.rows())
        .map(|i| {
            let cells = batch.mask.row(i).iter().zip(logp.row(i).iter().zip(anchor.row(i)));
            let sum: f64 = cells.filter(|(m, _)| **m > 0.0).map(|(_, (s, a))| s - a).sum();
            if settings.length_normalize { sum / batch.row_tokens(i).max(1.0) } else { sum }
        })
        .collect();
    let sets = objective.sets(batch, &changes).unwrap();
    for key in case.expected.keys() {
        let (path, wanted) = (format!("{}.{key}", case.path), case.expected.get(&key));
        let by_set = |f: &dyn Fn(&crate::objective::adpo::Set) -> Vec<f64>| {
            let found: Vec<f64> = sets.iter().flat_map(f).collect();
            let wanted = if wanted.get(0).is_some_and(serde_json::Value::is_array) {
                rows(wanted).concat()
            } else {
                vector(wanted)
            };
            all_close(&path, &found, &wanted, TOLERANCE);
        };
        match key.as_str() {
            "loss" => close(&path, loss.value.to_scalar().unwrap(), number(wanted), TOLERANCE),
            "grad_logps" | "grad_logp" => all_close(&path, gradient.data(), table(wanted).data(), TOLERANCE),
            "per_prompt" => by_set(&|s| vec![s.loss]),
            "q" => by_set(&|s| s.q.clone()),
            "u" => by_set(&|s| s.u.clone()),
            "p_tilde" => by_set(&|s| s.p.clone()),
            "advantages" => by_set(&|s| s.advantage.clone()),
            "tau" => by_set(&|s| vec![s.tau]),
            "keep" => by_set(&|s| vec![f64::from(u8::from(s.is_kept))]),
            "h_norm" => all_close(&path, &objective.normalised(batch).unwrap().0, &vector(wanted), TOLERANCE),
            "r_norm" => all_close(&path, &objective.normalised(batch).unwrap().1, &vector(wanted), TOLERANCE),
            "kl" => close(&path, loss.metrics.get("kl").expect("a KL term"), number(wanted), TOLERANCE),
            _ => panic!("{path}: unknown key"),
        }
    }
    assert!(matches!(batch.advantage, Some(Advantages::Row(_))));
}

// ---- offline ----

/// Loss of each set and gradient at the sequence log-probs, over P sets.
fn losses(logps: &[Vec<f64>], anchor: &[Vec<f64>], q: &[Vec<f64>], tau: f64) -> (Vec<f64>, Vec<Vec<f64>>) {
    let sets = logps.len() as f64;
    let of = |((l, a), q): ((&Vec<f64>, &Vec<f64>), &Vec<f64>)| {
        let found = list::cross_entropy(&list::scores(l, a, tau), q);
        (found.loss, found.gradient.iter().map(|g| g / (tau * sets)).collect())
    };
    logps.iter().zip(anchor).zip(q).map(of).unzip()
}

fn offline(case: &Case) {
    let logps = rows(case.inputs.get("seq_logps"));
    let anchor = rows(case.inputs.get("anchor_seq_logps"));
    assert_eq!(case.config.text("per"), Some("expected.*"), "{}: settings stand with each variant", case.path);
    for variant in case.expected.keys() {
        let expected = case.expected.child(&variant);
        let path = format!("{}.{variant}", case.path);
        if expected.has("rewards") {
            targets(&path, &expected);
        } else if expected.has("q_first") {
            pairwise(&path, &expected, &logps, &anchor);
        } else {
            listwise(&path, &variant, &expected, &logps, &anchor);
        }
        expected.finish();
    }
}

fn targets(path: &str, expected: &Fields) {
    let (rewards, beta_r) = (rows(expected.get("rewards")), expected.number("beta_r").expect("beta_r"));
    for (i, wanted) in rows(expected.get("q_listwise")).iter().enumerate() {
        all_close(&format!("{path}.q_listwise[{i}]"), &list::target(&rewards[i], beta_r), wanted, TOLERANCE);
    }
    let pairs: Vec<f64> = rewards.iter().map(|r| list::pair_target(r[0], r[1], beta_r)).collect();
    all_close(&format!("{path}.q_pair_01"), &pairs, &vector(expected.get("q_pair_01")), TOLERANCE);
}

/// Columns 0 and 1 of the sets as pairs; tau is 1/beta.
fn pairwise(path: &str, expected: &Fields, logps: &[Vec<f64>], anchor: &[Vec<f64>]) {
    let tau = expected.number("tau").expect("tau");
    if let Some(beta) = expected.number("beta") {
        close(&format!("{path}.beta"), 1.0 / tau, beta, TOLERANCE);
    }
    let q = expected.number("q_first").expect("q_first");
    let two = |rows: &[Vec<f64>]| rows.iter().map(|r| r[..2].to_vec()).collect::<Vec<_>>();
    let (per_pair, gradient) = losses(&two(logps), &two(anchor), &vec![vec![q, 1.0 - q]; logps.len()], tau);
    close(
        &format!("{path}.loss"),
        per_pair.iter().sum::<f64>() / per_pair.len() as f64,
        expected.number("loss").expect("a loss"),
        TOLERANCE,
    );
    all_close(&format!("{path}.per_pair"), &per_pair, &vector(expected.get("per_pair")), TOLERANCE);
    for (i, wanted) in rows(expected.get("grad_seq_logps")).iter().enumerate() {
        let mut found = gradient[i].clone();
        found.resize(wanted.len(), 0.0);
        all_close(&format!("{path}.grad_seq_logps[{i}]"), &found, wanted, TOLERANCE);
    }
}

fn listwise(path: &str, variant: &str, expected: &Fields, logps: &[Vec<f64>], anchor: &[Vec<f64>]) {
    let tau = expected.number("tau").expect("tau");
    let q = rows(expected.get("q"));
    // A uniform anchor is any constant.
    let anchor = if variant.ends_with("uniform_anchor") {
        logps.iter().map(|l| vec![-3.0; l.len()]).collect()
    } else {
        anchor.to_vec()
    };
    if let Some(teacher) = expected.find(&["teacher_logps"]) {
        let temperature = expected.number("teacher_temperature").or(expected.number("T")).unwrap_or(tau);
        for (i, teacher) in rows(teacher).iter().enumerate() {
            all_close(&format!("{path}.q[{i}]"), &list::target(teacher, temperature), &q[i], TOLERANCE);
        }
    }
    let mut at = logps.to_vec();
    if let Some(star) = expected.find(&["seq_logps_star"]) {
        for (i, wanted) in rows(star).iter().enumerate() {
            at[i] = list::optimum(&anchor[i], &q[i], tau);
            all_close(&format!("{path}.seq_logps_star[{i}]"), &at[i], wanted, TOLERANCE);
        }
    }
    if let Some(wanted) = expected.find(&["entropy_of_q"]) {
        let found: Vec<f64> = q.iter().map(|q| list::entropy(q)).collect();
        all_close(&format!("{path}.entropy_of_q"), &found, &vector(wanted), TOLERANCE);
    }
    let (per_prompt, gradient) = losses(&at, &anchor, &q, tau);
    close(
        &format!("{path}.loss"),
        per_prompt.iter().sum::<f64>() / per_prompt.len() as f64,
        expected.number("loss").expect("a loss"),
        TOLERANCE,
    );
    if let Some(wanted) = expected.find(&["per_prompt"]) {
        all_close(&format!("{path}.per_prompt"), &per_prompt, &vector(wanted), TOLERANCE);
    }
    for (i, wanted) in rows(expected.get("grad_seq_logps")).iter().enumerate() {
        all_close(&format!("{path}.grad_seq_logps[{i}]"), &gradient[i], wanted, TOLERANCE);
    }
}
