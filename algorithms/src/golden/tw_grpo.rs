//! `tw_grpo.json`: divergence within a group, token weights, and the loss with them as credit.
//!
//! Cases with `pairs` are about the `choice` reward, which another crate tests with the same file.

use super::leaves::{at_logp, cube, id_rows};
use super::{Case, all_close, cases, close, number, rows, table, vector};
use crate::advantage::group::Group;
use crate::batch::Advantages;
use crate::credit::tw::Tw;
use crate::objective::grpo::Grpo;
use crate::row::group::divergence;
use crate::row::token::TokenLogp;
use crate::row::{RowFunction, RowGrad};
use crate::{Batch, Table};

const TOLERANCE: f64 = 1e-9;

#[test]
fn golden_tw_grpo() {
    for case in cases("tw_grpo") {
        if case.inputs.has("pairs") {
            continue; // the `choice` reward
        }
        assert!(case.inputs.has("logits"), "{}: no known kind has the inputs {:?}", case.path, case.inputs.keys());
        weights_and_loss(&case);
        case.inputs.finish();
        case.config.finish();
        case.expected.finish();
    }
}

fn weights_and_loss(case: &Case) {
    let config = |key: &str| number(case.config.get(key));
    let (prompts, size) = (config("prompts") as usize, config("group_size") as usize);
    let logits = cube(case.inputs.get("logits"));
    let mask = table(case.inputs.find(&["mask", "response_mask"]).expect("a mask"));
    let (n, width) = (mask.rows(), mask.cols());
    assert_eq!(n, prompts * size, "{}: rows", case.path);
    let path = |key: &str| format!("{}.{key}", case.path);
    let tw = Tw { alpha: config("alpha") };
    let mut credit = Table::zeros(n, width);
    let (wanted_d, wanted_n) = (rows(case.expected.get("divergence")), rows(case.expected.get("normalised")));
    for p in 0..prompts {
        let members = p * size..(p + 1) * size;
        let at = |t: usize| -> f64 {
            let row = |i: usize| (mask.row(i)[t] != 0.0).then_some(logits[i][t].as_slice());
            divergence(&members.clone().map(row).collect::<Vec<_>>(), 1.0, config("diff_clamp"))
        };
        let d: Vec<f64> = (0..width).map(at).collect();
        all_close(&path("divergence"), &d, &wanted_d[p], TOLERANCE);
        let mut normalised = Tw::normalised(&d, config("norm_eps"));
        // Divergences under 1e-15 mean 0; divided by a range of 0 plus eps, their rounding is all there is.
        let is_zero = |d: &[f64]| d.iter().all(|d| d.abs() < 1e-15);
        if is_zero(&d) && is_zero(&wanted_d[p]) {
            let rounding = 1e-15 / config("norm_eps");
            assert!(normalised.iter().chain(&wanted_n[p]).all(|n| n.abs() <= rounding), "{}", path("normalised"));
            normalised.clone_from(&wanted_n[p]);
        } else {
            all_close(&path("normalised"), &normalised, &wanted_n[p], TOLERANCE);
        }
        for i in members {
            credit.row_mut(i).copy_from_slice(&tw.weights(&normalised));
        }
    }
    let weights = credit.zip(&mask, |c, m| c * m);
    all_close(&path("token_weights"), weights.data(), table(case.expected.get("token_weights")).data(), TOLERANCE);

    let tokens: Vec<Vec<u32>> = id_rows(case.inputs.get("completion_ids"));
    let function = |i: usize| TokenLogp { tokens: &tokens[i], temperature: 1.0, with_entropy: false };
    let values: Vec<Vec<_>> =
        (0..n).map(|i| (0..width).map(|t| function(i).forward(t, &logits[i][t])).collect()).collect();
    let logp: Vec<Vec<f64>> = values.iter().map(|row| row.iter().map(|v| v.logp).collect()).collect();
    let logp = Table::ragged(&logp, 0.0);
    let mut batch = Batch::new(mask, (0..n).map(|i| i / size).collect()).unwrap();
    batch.old_logp = Some(table(case.inputs.find(&["old_logprobs", "old_logp", "logp_old"]).expect("old log-probs")));
    batch.scores.names = vec!["reward".into()];
    batch.scores.values = vector(case.inputs.get("rewards")).into_iter().map(|r| vec![Some(r)]).collect();
    Group { eps: config("adv_eps"), ..Group::default() }.build().unwrap().apply(&mut batch).unwrap();
    let Some(Advantages::Row(found)) = &batch.advantage else { panic!("one advantage a row") };
    all_close(&path("advantages"), found, &vector(case.expected.get("advantages")), TOLERANCE);

    assert_eq!(config("beta"), 0.0, "{}: a KL term needs reference log-probs", case.path);
    let epsilon_high = Some(config("clip_high"));
    let grpo = Grpo { epsilon: config("clip_low"), epsilon_high, ..Grpo::default() }.build().unwrap();
    let scalar = |key: &str, found: f64| close(&path(key), found, number(case.expected.get(key)), TOLERANCE);
    scalar("loss_unweighted", at_logp(grpo.as_ref(), &batch, &logp).1);
    batch.credit = Some(credit);
    let (_, loss, gradient) = at_logp(grpo.as_ref(), &batch, &logp);
    scalar("loss", loss);
    let wanted = table(case.expected.get("grad_wrt_token_logprobs"));
    all_close(&path("grad_wrt_token_logprobs"), gradient.data(), wanted.data(), TOLERANCE);
    let mut squares = 0.0;
    for i in 0..n {
        for t in 0..width {
            let mut z = logits[i][t].clone();
            let grad = RowGrad { logp: gradient.row(i)[t], ..RowGrad::default() };
            function(i).backward(t, &mut z, &values[i][t], &grad);
            squares += z.iter().map(|g| g * g).sum::<f64>();
        }
    }
    scalar("grad_wrt_logits_norm", squares.sqrt());
}
