//! The whole way: row functions, advantages, loss, and back to the logits.

use candle_core::Var;

use super::TOLERANCE;
use super::advantages::{Rewards, estimator};
use super::losses::{MASK, OLD, REF, read_common};
use crate::Table;
use crate::golden::{Case, all_close, close, rows, table, vector};
use crate::objective::Leaves;
use crate::objective::grpo::Grpo;
use crate::objective::grpo::aggregate::EmptyRows;
use crate::row::token::TokenLogp;
use crate::row::{RowFunction, RowGrad};

pub(super) fn check(case: &Case) {
    let (inputs, config, expected) = (&case.inputs, &case.config, &case.expected);
    let logits: Vec<Vec<Vec<f64>>> = inputs.get("logits").as_array().expect("[N,T,V]").iter().map(rows).collect();
    let ids = rows(inputs.find(&["token_ids", "completion_ids"]).expect("chosen tokens"));
    let temperature = config.number("temperature").unwrap_or(1.0);

    // 1. The row functions.
    let rewards = Rewards::read(inputs.find(&["rewards_one_group", "rewards"]).expect("rewards"), inputs);
    let mut batch = rewards.batch(None);
    batch.mask = table(inputs.find(&MASK).expect("a mask"));
    batch.max_completion = batch.mask.cols();
    let tokens: Vec<Vec<u32>> = ids.iter().map(|row| row.iter().map(|&id| id as u32).collect()).collect();
    let functions: Vec<TokenLogp<'_>> =
        tokens.iter().map(|tokens| TokenLogp { tokens, temperature, with_entropy: true }).collect();
    let values: Vec<Vec<_>> = functions
        .iter()
        .zip(&logits)
        .map(|(f, rows)| rows.iter().enumerate().map(|(t, z)| f.forward(t, z)).collect())
        .collect();
    let column = |f: fn(&crate::row::RowValue) -> f64| {
        Table::ragged(&values.iter().map(|row| row.iter().map(f).collect::<Vec<_>>()).collect::<Vec<_>>(), 0.0)
    };
    let (logp, entropy) = (column(|v| v.logp), column(|v| v.entropy));
    all_close(&format!("{}.logp", case.path), logp.data(), table(expected.get("logp")).data(), TOLERANCE);
    all_close(&format!("{}.entropy", case.path), entropy.data(), table(expected.get("entropy")).data(), TOLERANCE);

    // 2. The advantage.
    let scale = config.text("scale").unwrap_or("group").to_owned();
    estimator(&case.path, &scale, config).0.build().unwrap().apply(&mut batch).unwrap();
    let found = batch.token_advantage("golden").unwrap();
    let found: Vec<f64> = (0..found.rows()).map(|i| found.row(i)[0]).collect();
    all_close(&format!("{}.advantages", case.path), &found, &vector(expected.get("advantages")), TOLERANCE);

    // 3. The loss at the leaves.
    let mut settings = Grpo { use_bias_correction_kl: false, empty_rows: EmptyRows::Count, ..Grpo::default() };
    read_common(config, &mut settings);
    batch.old_logp = inputs.find(&OLD).map(table);
    batch.ref_logp = inputs.find(&REF).map(table);
    let var = |table: &Table| Var::from_tensor(&table.tensor().unwrap()).unwrap();
    let (logp, entropy) = (var(&logp), var(&entropy));
    let leaves = Leaves {
        logp: logp.as_tensor().clone(),
        entropy: Some(entropy.as_tensor().clone()),
        divergence: None,
        score: None,
    };
    let loss = settings.build().unwrap().loss(&batch, &leaves).unwrap();
    let wanted = expected.number("loss").expect("a loss");
    close(&format!("{}.loss", case.path), loss.value.to_scalar().unwrap(), wanted, TOLERANCE);

    // 4. Back to the logits.
    let grads = loss.value.backward().unwrap();
    let at = |var: &Var| {
        grads.get(var).map_or(Table::zeros(batch.rows(), batch.width()), |g| Table::from_tensor(g).unwrap())
    };
    let (dlogp, dentropy) = (at(&logp), at(&entropy));
    let wanted = expected.get("grad_logits").as_array().expect("[N,T,V]");
    for (i, wanted) in wanted.iter().enumerate() {
        for (t, wanted) in rows(wanted).iter().enumerate() {
            let mut z = logits[i][t].clone();
            let grad = RowGrad { logp: dlogp.row(i)[t], entropy: dentropy.row(i)[t], divergence: 0.0 };
            functions[i].backward(t, &mut z, &values[i][t], &grad);
            all_close(&format!("{}.grad_logits[{i}][{t}]", case.path), &z, wanted, TOLERANCE);
        }
    }
}
