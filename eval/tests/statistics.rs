//! Statistics against scipy and closed forms; `fixtures/make_statistics.py` made the values.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use candlewick_eval::metrics::{
    DRAWS, SplitMix64, Vote, estimate, g_pass_at_k, maj_at_k, mcnemar, mg_pass_at_k, pass_at_k, sign_flip_counts,
    wilson,
};
use serde_json::Value;

fn cases(kind: &str) -> Vec<Value> {
    let all: Value = serde_json::from_str(include_str!("fixtures/statistics.json")).unwrap();
    let cases = all[kind].as_array().unwrap().clone();
    assert!(!cases.is_empty());
    cases
}

fn whole(case: &Value, field: &str) -> usize {
    case[field].as_u64().unwrap_or_else(|| panic!("{field} of {case}")) as usize
}

fn wholes(case: &Value, field: &str) -> Vec<i64> {
    case[field].as_array().unwrap().iter().map(|value| value.as_i64().unwrap()).collect()
}

fn close(found: f64, case: &Value, field: &str, tolerance: f64) {
    let expected = case[field].as_f64().unwrap();
    assert!((found - expected).abs() <= tolerance, "{field}: {found} for {case}");
}

#[test]
fn metrics_of_one_problem() {
    let nck = |case: &Value| (whole(case, "n"), whole(case, "c"), whole(case, "k"));
    for case in cases("pass") {
        let (n, c, k) = nck(&case);
        close(pass_at_k(n, c, k).unwrap(), &case, "value", 1e-12);
    }
    for case in cases("g_pass") {
        let (n, c, k) = nck(&case);
        close(g_pass_at_k(n, c, k, case["tau"].as_f64().unwrap()).unwrap(), &case, "value", 1e-10);
    }
    for case in cases("mg_pass") {
        let (n, c, k) = nck(&case);
        close(mg_pass_at_k(n, c, k).unwrap(), &case, "value", 1e-10);
    }
}

#[test]
fn majority_votes() {
    for case in cases("maj") {
        let mut votes = Vec::new();
        for (answer, count) in wholes(&case, "counts").into_iter().enumerate() {
            votes.extend((0..count).map(|_| Vote { answer: Some(answer), is_right: answer == 0 }));
        }
        votes.extend((0..whole(&case, "silent")).map(|_| Vote { answer: None, is_right: false }));
        let k = whole(&case, "k");
        let found = maj_at_k(&votes, k, &mut SplitMix64::new(1)).unwrap();
        // A draw's deviation is at most one half.
        let tolerance = if k == votes.len() { 1e-12 } else { 4.0 * 0.5 / (DRAWS as f64).sqrt() };
        close(found, &case, "value", tolerance);
    }
}

#[test]
fn intervals() {
    for case in cases("wilson") {
        let (lower, upper) = wilson(whole(&case, "right"), whole(&case, "n"));
        close(lower, &case, "lower", 1e-12);
        close(upper, &case, "upper", 1e-12);
    }
    for case in cases("clustered") {
        let n = whole(&case, "n");
        let scores: Vec<f64> = wholes(&case, "counts").into_iter().map(|count| count as f64 / n as f64).collect();
        let found = estimate(&scores, n).unwrap();
        close(found.value, &case, "value", 1e-12);
        close(found.standard_error, &case, "standard_error", 1e-12);
        close(found.lower, &case, "lower", 1e-10);
        close(found.upper, &case, "upper", 1e-10);
    }
}

#[test]
fn tests_of_difference() {
    for case in cases("mcnemar") {
        close(mcnemar(whole(&case, "gained"), whole(&case, "lost")), &case, "p", 1e-10);
    }
    for case in cases("sign_flip") {
        close(sign_flip_counts(&wholes(&case, "differences")).unwrap(), &case, "p", 1e-12);
    }
}
