//! `real.json`: scores, weights, the three losses and their gradients; labels are the verdict.

use candle_core::Var;

use super::{Case, all_close, cases, close, grouped, number, table, ungrouped, vector};
use crate::batch::Verdict;
use crate::objective::Leaves;
use crate::objective::real::{Real, RealLoss};
use crate::{Batch, Table};

const TOLERANCE: f64 = 1e-9;

#[test]
fn golden_real() {
    for case in cases("real") {
        check(&case);
        case.inputs.finish();
        case.config.finish();
        case.expected.finish();
    }
}

fn settings(path: &str, variant: &str, tau: f64) -> Real {
    let (loss, keep_pure_groups) = match variant.strip_prefix("real_").unwrap_or(variant) {
        "real" => (RealLoss::Real, false),
        "keep_pure" | "keep_pure_groups" => (RealLoss::Real, true),
        "product" => (RealLoss::Product, false),
        "bce" => (RealLoss::Bce, false),
        _ => panic!("{path}: unknown variant `{variant}`"),
    };
    Real { loss, tau, keep_pure_groups, ..Real::default() }
}

fn check(case: &Case) {
    let (inputs, path) = (&case.inputs, &case.path);
    let mask = table(inputs.find(&["mask", "response_mask"]).expect("a mask"));
    let (mut batch, order) = grouped(path, inputs, &mask);
    let logp = table(inputs.find(&["logp", "logps", "logp_new"]).expect("log-probs")).select(&order);
    let old = table(inputs.find(&["old_logp", "logp_old", "old_logprobs"]).expect("old log-probs")).select(&order);
    let labels = vector(inputs.get("labels"));
    for (k, &i) in order.iter().enumerate() {
        batch.verdict[k] = match labels[i] {
            1.0 => Verdict::Right,
            0.0 => Verdict::Wrong,
            other => panic!("{path}: a label is 0 or 1, not {other}"),
        };
    }
    let scores: Vec<f64> = (0..batch.rows()).map(|i| score(&batch, &logp, &old, i)).collect();
    batch.old_logp = Some(old);
    batch.count_totals();
    let in_file = |values: &[f64]| {
        let column = Table::new(values.len(), 1, values.to_vec()).unwrap();
        ungrouped(&column, &order).data().to_vec()
    };
    let tau = case.config.number("tau").expect("a temperature");
    for key in case.expected.keys() {
        let path = format!("{path}.{key}");
        if key == "scores" {
            all_close(&path, &in_file(&scores), &vector(case.expected.get(&key)), TOLERANCE);
            continue;
        }
        let expected = case.expected.child(&key);
        let settings = settings(&path, &key, tau);
        let (loss, gradient) = run(&settings, &batch, &logp);
        for entry in expected.keys() {
            let (path, wanted) = (format!("{path}.{entry}"), expected.get(&entry));
            match entry.as_str() {
                "loss" => close(&path, loss, number(wanted), TOLERANCE),
                "grad_logp" => {
                    all_close(&path, ungrouped(&gradient, &order).data(), table(wanted).data(), TOLERANCE);
                }
                "weights_abs" => {
                    let groups = batch.groups().len() as f64;
                    let (_, weights) = settings.loss_and_weights(&batch, &scores);
                    let found: Vec<f64> = weights.iter().map(|w| w.abs() * groups).collect();
                    all_close(&path, &in_file(&found), &vector(wanted), TOLERANCE);
                }
                _ => panic!("{path}: unknown key"),
            }
        }
        expected.finish();
    }
}

/// The definition, on its own: mean of the change over the tokens of a row, 0 without tokens.
fn score(batch: &Batch, logp: &Table, old: &Table, i: usize) -> f64 {
    let cells = batch.mask.row(i).iter().zip(logp.row(i).iter().zip(old.row(i)));
    cells.filter(|(m, _)| **m > 0.0).map(|(m, (a, b))| m * (a - b)).sum::<f64>() / batch.row_tokens(i).max(1.0)
}

fn run(settings: &Real, batch: &Batch, logp: &Table) -> (f64, Table) {
    let var = Var::from_tensor(&logp.tensor().unwrap()).unwrap();
    let leaves = Leaves { logp: var.as_tensor().clone(), entropy: None, divergence: None, score: None };
    let loss = settings.build().unwrap().loss(batch, &leaves).unwrap();
    let gradient = Table::from_tensor(loss.value.backward().unwrap().get(&var).unwrap()).unwrap();
    (loss.value.to_scalar().unwrap(), gradient)
}
