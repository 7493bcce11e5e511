//! `efficiency.json`: the head's log-prob, entropy and top-k, with gradients, whole and in chunks.
//!
//! Cases about packing, model operations and optimiser steps belong to other crates, which read the
//! same file; the two-pass softmax is an optional kernel that this crate does not have.

use super::{Case, all_close, cases, close, rows, vector};
use crate::row::token::{RunningSums, TokenLogp, top_k};
use crate::row::{RowFunction, RowGrad};

const TOLERANCE: f64 = 1e-10;

#[test]
fn golden_efficiency() {
    for case in cases("efficiency") {
        let has = |key| case.inputs.has(key);
        if has("hidden") && has("upstream_dlogprob") {
            chosen_token(&case);
        } else if has("hidden") && has("targets") {
            cross_entropy(&case);
        } else if has("hidden") && case.config.has("k") {
            most_likely(&case);
        } else if has("logits") {
            extreme_rows(&case);
        } else if has("instances") || has("rmsnorm") || has("A0") || (has("x") && case.config.has("rounding")) {
            continue; // packing; model operations; optimiser steps; two-pass softmax
        } else {
            panic!("{}: no known kind of case has the inputs {:?}", case.path, case.inputs.keys());
        }
        case.inputs.finish();
        case.config.finish();
        case.expected.finish();
    }
}

/// hidden [N,d] and weight [V,d] of a head.
struct Head {
    hidden: Vec<Vec<f64>>,
    weight: Vec<Vec<f64>>,
}

impl Head {
    fn read(case: &Case) -> Self {
        Self { hidden: rows(case.inputs.get("hidden")), weight: rows(case.inputs.get("weight")) }
    }

    /// hidden weight^T, [N,V].
    fn logits(&self) -> Vec<Vec<f64>> {
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum();
        self.hidden.iter().map(|h| self.weight.iter().map(|w| dot(h, w)).collect()).collect()
    }

    /// The gradients of hidden and weight, from that of the logits.
    fn check_gradients(&self, case: &Case, dz: &[Vec<f64>]) {
        let d = self.hidden[0].len();
        let wanted_hidden = rows(case.expected.get("grad_hidden"));
        for (i, dz) in dz.iter().enumerate() {
            let found: Vec<f64> = (0..d).map(|j| dz.iter().zip(&self.weight).map(|(g, w)| g * w[j]).sum()).collect();
            all_close(&format!("{}.grad_hidden[{i}]", case.path), &found, &wanted_hidden[i], TOLERANCE);
        }
        for (k, wanted) in rows(case.expected.get("grad_weight")).iter().enumerate() {
            let found: Vec<f64> = (0..d).map(|j| dz.iter().zip(&self.hidden).map(|(g, h)| g[k] * h[j]).sum()).collect();
            all_close(&format!("{}.grad_weight[{k}]", case.path), &found, wanted, TOLERANCE);
        }
    }
}

/// Log-sum-exp and entropy in chunks of the vocabulary agree with those of the whole row.
fn check_chunks(case: &Case, logits: &[Vec<f64>], scale: f64) {
    let chunk = case.config.number("vocab_chunk").expect("a chunk") as usize;
    for row in logits {
        let merged =
            row.chunks(chunk).map(|z| RunningSums::of(z, scale)).fold(RunningSums::default(), RunningSums::merge);
        let whole = RunningSums::of(row, scale);
        close(&case.path, merged.lse(), whole.lse(), TOLERANCE);
        assert!((merged.entropy() - whole.entropy()).abs() < 1e-9 * whole.lse().abs().max(1.0));
    }
}

fn targets(case: &Case) -> Vec<Option<u32>> {
    let ignored = case.config.number("ignore_index");
    vector(case.inputs.get("targets")).into_iter().map(|t| (Some(t) != ignored).then_some(t as u32)).collect()
}

fn cross_entropy(case: &Case) {
    let head = Head::read(case);
    let logits = head.logits();
    let targets = targets(case);
    let temperature = case.config.number("temperature").unwrap_or(1.0);
    assert_eq!(case.config.text("reduction"), Some("mean over valid rows"), "{}: reduction", case.path);
    check_chunks(case, &logits, 1.0 / temperature);

    let ids: Vec<u32> = targets.iter().map(|t| t.unwrap_or(0)).collect();
    let function = TokenLogp { tokens: &ids, temperature, with_entropy: true };
    let values: Vec<_> = logits.iter().enumerate().map(|(i, z)| function.forward(i, z)).collect();
    let valid = targets.iter().flatten().count();
    let nll: Vec<f64> = values.iter().zip(&targets).map(|(v, t)| if t.is_some() { -v.logp } else { 0.0 }).collect();
    let expect = |key: &str, found: &[f64]| {
        all_close(&format!("{}.{key}", case.path), found, &vector(case.expected.get(key)), TOLERANCE);
    };
    expect("nll", &nll);
    expect("logsumexp", &values.iter().map(|v| v.lse).collect::<Vec<_>>());
    expect("entropy", &values.iter().map(|v| v.entropy).collect::<Vec<_>>());
    assert_eq!(case.expected.number("n_valid"), Some(valid as f64), "{}: n_valid", case.path);
    let loss = nll.iter().sum::<f64>() / valid as f64;
    close(&format!("{}.loss", case.path), loss, case.expected.number("loss").expect("a loss"), TOLERANCE);

    let dz: Vec<Vec<f64>> = logits
        .iter()
        .enumerate()
        .map(|(i, z)| {
            let logp = if targets[i].is_some() { -1.0 / valid as f64 } else { 0.0 };
            let mut z = z.clone();
            function.backward(i, &mut z, &values[i], &RowGrad { logp, ..RowGrad::default() });
            z
        })
        .collect();
    head.check_gradients(case, &dz);

    // The file's u is sum exp(z - m) z; ours is centred at m.
    let chunk = case.config.number("vocab_chunk").expect("a chunk") as usize;
    let states = case.expected.get("online_state_row0_after_each_chunk").as_array().expect("states");
    let mut state = RunningSums::default();
    assert_eq!(states.len(), logits[0].chunks(chunk).len(), "{}: chunks", case.path);
    for (z, wanted) in logits[0].chunks(chunk).zip(states) {
        state = state.merge(RunningSums::of(z, 1.0 / temperature));
        let wanted = super::Fields::new(format!("{}.state", case.path), wanted);
        close("m", state.max, wanted.number("m").expect("m"), TOLERANCE);
        close("d", state.sum, wanted.number("d").expect("d"), TOLERANCE);
        close("u", state.weighted + state.sum * state.max, wanted.number("u").expect("u"), TOLERANCE);
        wanted.finish();
    }
}

fn chosen_token(case: &Case) {
    let head = Head::read(case);
    let logits = head.logits();
    let temperature = case.config.number("temperature").unwrap_or(1.0);
    check_chunks(case, &logits, 1.0 / temperature);
    let ids: Vec<u32> = vector(case.inputs.get("targets")).into_iter().map(|t| t as u32).collect();
    let (a, b) = (vector(case.inputs.get("upstream_dlogprob")), vector(case.inputs.get("upstream_dentropy")));
    let function = TokenLogp { tokens: &ids, temperature, with_entropy: true };
    let values: Vec<_> = logits.iter().enumerate().map(|(i, z)| function.forward(i, z)).collect();
    let expect = |key: &str, found: &[f64]| {
        all_close(&format!("{}.{key}", case.path), found, &vector(case.expected.get(key)), TOLERANCE);
    };
    expect("logprob", &values.iter().map(|v| v.logp).collect::<Vec<_>>());
    expect("entropy", &values.iter().map(|v| v.entropy).collect::<Vec<_>>());
    expect("logsumexp_scaled", &values.iter().map(|v| v.lse).collect::<Vec<_>>());
    let scalar: f64 = values.iter().zip(a.iter().zip(&b)).map(|(v, (a, b))| a * v.logp + b * v.entropy).sum();
    close(&format!("{}.scalar", case.path), scalar, case.expected.number("scalar").expect("a scalar"), TOLERANCE);
    let dz: Vec<Vec<f64>> = logits
        .into_iter()
        .enumerate()
        .map(|(i, mut z)| {
            function.backward(i, &mut z, &values[i], &RowGrad { logp: a[i], entropy: b[i], divergence: 0.0 });
            z
        })
        .collect();
    head.check_gradients(case, &dz);
}

fn most_likely(case: &Case) {
    let logits = Head::read(case).logits();
    let temperature = case.config.number("temperature").unwrap_or(1.0);
    let k = case.config.number("k").expect("k") as usize;
    assert_eq!(case.config.text("tie_break"), Some("lower token id first"), "{}: tie_break", case.path);
    check_chunks(case, &logits, 1.0 / temperature);
    let (ids, logp) = (rows(case.expected.get("topk_ids")), rows(case.expected.get("topk_logprobs")));
    let (tail, lse) = (vector(case.expected.get("tail_mass")), vector(case.expected.get("logsumexp")));
    for (i, z) in logits.iter().enumerate() {
        let path = format!("{}[{i}]", case.path);
        let top = top_k(z, k, temperature);
        all_close(&path, &top.ids.iter().map(|&id| f64::from(id)).collect::<Vec<_>>(), &ids[i], 0.0);
        all_close(&path, &top.logp, &logp[i], TOLERANCE);
        close(&path, top.tail, tail[i], TOLERANCE);
        close(&path, top.lse, lse[i], TOLERANCE);
    }
}

fn extreme_rows(case: &Case) {
    let logits = rows(case.inputs.get("logits"));
    check_chunks(case, &logits, 1.0);
    let wanted = case.expected.get("rows").as_array().expect("rows");
    assert_eq!(wanted.len(), logits.len(), "{}: rows", case.path);
    for (i, (z, wanted)) in logits.iter().zip(wanted).enumerate() {
        let wanted = super::Fields::new(format!("{}[{i}]", case.path), wanted);
        let ids: Vec<u32> = (0..z.len() as u32).collect();
        let function = TokenLogp { tokens: &ids, temperature: 1.0, with_entropy: true };
        let values: Vec<_> = (0..z.len()).map(|k| function.forward(k, z)).collect();
        let logp: Vec<f64> = values.iter().map(|v| v.logp).collect();
        // Large logits leave fewer digits to their differences: the contract scales the tolerance.
        let loose = 1e-9 * values[0].lse.abs().max(1.0);
        close(&wanted.path, values[0].lse, wanted.number("logsumexp").expect("logsumexp"), TOLERANCE);
        for (k, (found, wanted)) in logp.iter().zip(vector(wanted.get("logprobs"))).enumerate() {
            assert!(*found == wanted || (found - wanted).abs() <= loose.max(1e-9 * wanted.abs()), "row {i}, token {k}");
        }
        for (found, wanted) in logp.iter().zip(vector(wanted.get("probs"))) {
            assert!((found.exp() - wanted).abs() <= loose, "row {i}: {} {wanted}", found.exp());
        }
        let entropy = wanted.number("entropy").expect("entropy");
        assert!((values[0].entropy - entropy).abs() <= loose, "row {i}: {} {entropy}", values[0].entropy);
        wanted.finish();
    }
}
