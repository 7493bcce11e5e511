//! `weighted_grpo.json`: modes of `advantage.pairing`, the selection of `prompts.pairing`, and both through a loss.

use candle_core::Var;
use serde_json::Value;

use super::{Case, Fields, all_close, cases, close, number, table, vector};
use crate::Table;
use crate::advantage::pairing::tests::batch_of;
use crate::advantage::pairing::{Deviation, Mode, Pairing};
use crate::objective::Leaves;
use crate::objective::grpo::{Grpo, LossType};
use crate::prompts::pairing::Pairing as Prompts;
use crate::success::Success;

const TOLERANCE: f64 = 1e-9;

#[test]
fn golden_weighted_grpo() {
    for case in cases("weighted_grpo") {
        if case.inputs.has("successes") {
            selection(&case);
        } else if case.inputs.has("pairs") {
            modes(&case);
        } else {
            panic!("{}: no known kind of case has the inputs {:?}", case.path, case.inputs.keys());
        }
        case.inputs.finish();
        case.config.finish();
        case.expected.finish();
    }
}

/// The mode and lambda that a key like `role_pair_lambda_2.0` names, with the numbers of the config.
fn settings(path: &str, key: &str, config: &Fields) -> Pairing {
    let (mode, lambda) = key.split_once("_lambda_").unwrap_or_else(|| panic!("{path}: unknown key {key:?}"));
    let mode: Mode = serde_json::from_value(mode.into()).unwrap_or_else(|_| panic!("{path}: unknown mode {mode:?}"));
    let std = match config.text("std") {
        Some("sample") | None => Deviation::Sample,
        Some("population") => Deviation::Population,
        Some(other) => panic!("{path}: unknown std {other:?}"),
    };
    let weight = |names: &[&str]| config.find(names).map_or(1.0, number);
    let lambda_pos = weight(&["lam_pos", "lambda_pos"]);
    Pairing {
        mode,
        lambda_neg: lambda.parse().unwrap_or_else(|_| panic!("{path}: no number in {key:?}")),
        lambda_pos: if mode == Mode::GroupThenWeight { lambda_pos } else { 1.0 },
        w_plus: weight(&["w_plus"]),
        w_minus: weight(&["w_minus"]),
        // The file holds what the formulas give before groups without a difference are set to zero.
        keep_degenerate: matches!(mode, Mode::SignedPair | Mode::RolePair),
        eps: config.number("eps").unwrap_or(1e-4),
        std,
    }
}

fn modes(case: &Case) {
    let pairs: Vec<[Vec<Option<bool>>; 2]> = case
        .inputs
        .get("pairs")
        .as_array()
        .expect("pairs")
        .iter()
        .map(|pair| {
            let pair = Fields::new(format!("{}.pairs", case.path), pair);
            let side = |key: &str| vector(pair.get(key)).into_iter().map(|x| Some(x > 0.0)).collect();
            let sides = [side("correct_plus"), side("correct_minus")];
            pair.finish();
            sides
        })
        .collect();
    // Each variant's lambda stands in its key.
    case.config.find(&["lambda_neg"]);
    let leaves = case.inputs.find(&["logp", "logps", "logp_new"]).map(table);
    let old = case.inputs.find(&["old_logp", "logp_old", "old_logprobs"]).map(table);
    let mask = case.inputs.find(&["mask", "response_mask"]).map(table);
    if let Some(order) = case.inputs.text("row_order") {
        assert_eq!(order, "q+ rollouts, then q- rollouts", "{}: unknown row order", case.path);
    }
    for key in case.expected.keys() {
        if key == "note" {
            continue;
        }
        let (path, expected) = (format!("{}.{key}", case.path), case.expected.child(&key));
        let mut batch = batch_of(&pairs);
        if let Some(mask) = &mask {
            let groups = batch.group.clone();
            let fresh = crate::Batch::new(mask.clone(), groups).unwrap();
            (batch.mask, batch.max_completion) = (fresh.mask, fresh.max_completion);
        }
        batch.old_logp.clone_from(&old);
        settings(&path, &key, &case.config).build().unwrap().apply(&mut batch).unwrap();
        let found = batch.token_advantage("golden").unwrap();
        let found: Vec<f64> = (0..found.rows()).map(|i| found.row(i)[0]).collect();
        all_close(&format!("{path}.advantages"), &found, &flat(expected.get("advantages")), TOLERANCE);
        if let Some(logp) = &leaves {
            let objective = Grpo {
                loss: loss_type(&path, &case.config),
                epsilon: case.config.number("eps_low").unwrap_or(0.2),
                epsilon_high: case.config.number("eps_high"),
                ..Grpo::default()
            };
            let var = Var::from_tensor(&logp.tensor().unwrap()).unwrap();
            let leaves = Leaves { logp: var.as_tensor().clone(), entropy: None, divergence: None, score: None };
            let loss = objective.build().unwrap().loss(&batch, &leaves).unwrap();
            let wanted = expected.number("loss").expect("a loss");
            close(&format!("{path}.loss"), loss.value.to_scalar().unwrap(), wanted, TOLERANCE);
            let gradient = Table::from_tensor(loss.value.backward().unwrap().get(&var).unwrap()).unwrap();
            let wanted = table(expected.get("grad_logp"));
            all_close(&format!("{path}.grad_logp"), gradient.data(), wanted.data(), TOLERANCE);
        }
        expected.finish();
    }
}

fn loss_type(path: &str, config: &Fields) -> LossType {
    let text = config.text("loss_type").unwrap_or_else(|| panic!("{path}: no `loss_type`"));
    let name = text.split([' ', ',', '(']).next().unwrap_or_default();
    serde_json::from_value(name.into()).unwrap_or_else(|_| panic!("{path}: unknown loss {text:?}"))
}

/// Numbers in lists of any depth, in order.
fn flat(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(items) => items.iter().flat_map(flat).collect(),
        other => vec![number(other)],
    }
}

fn selection(case: &Case) {
    let successes: Vec<usize> = vector(case.inputs.get("successes")).into_iter().map(|k| k as usize).collect();
    let rollouts = match case.inputs.get("rollouts") {
        Value::Array(list) => list.iter().map(|n| number(n) as usize).collect(),
        one => vec![number(one) as usize; successes.len()],
    };
    if let Some(rule) = case.config.text("rule") {
        assert!(rule.starts_with("q+: 1<=k<=c ; q-: n-c<=k<=n-1"), "{}: unknown rule", case.path);
    }
    for key in case.expected.keys() {
        let path = format!("{}.{key}", case.path);
        if key == "smoothed_rate_jeffreys" {
            let mut success = Success::default();
            for (id, (&k, &n)) in successes.iter().zip(&rollouts).enumerate() {
                success.record(id, &(0..n).map(|i| i < k).collect::<Vec<_>>(), n as u64, 0);
            }
            let found: Vec<f64> = (0..successes.len()).map(|id| success.get(id).smoothed_rate()).collect();
            all_close(&path, &found, &vector(case.expected.get(&key)), TOLERANCE);
            continue;
        }
        let band = key.strip_prefix("c_").and_then(|c| c.parse().ok()).unwrap_or_else(|| panic!("{path}: unknown key"));
        let stage = Prompts { band: Some(band), ..Prompts::default() };
        let expected = case.expected.child(&key);
        let those = |is: &dyn Fn(usize, usize) -> bool| -> Vec<f64> {
            let ids = 0..successes.len();
            ids.filter(|&i| is(successes[i], rollouts[i])).map(|i| i as f64).collect()
        };
        assert_eq!(those(&|k, n| stage.is_hard(k, n)), vector(expected.get("q_plus_candidates")), "{path}");
        assert_eq!(those(&|k, n| stage.is_easy(k, n)), vector(expected.get("q_minus_candidates")), "{path}");
        expected.finish();
    }
}
