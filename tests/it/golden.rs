//! `efficiency.json`: packing, and the decoder's operations with their gradients.
//!
//! The cases about the head's row functions are `candlewick-algorithms`' own.

use std::path::Path;

use candle_core::{Device, Tensor};
use candlewick::model::ops::attention::{self, Heads};
use candlewick::model::ops::{norm, rope, swiglu};
use candlewick::model::packed::Packed;
use candlewick_algorithms::packing::best_fit_decreasing;
use serde_json::Value;

const TOLERANCE: f64 = 1e-10;

fn cases() -> Vec<Value> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = std::env::var_os("CANDLEWICK_GOLDEN").map_or_else(|| "tests/golden".into(), std::path::PathBuf::from);
    let text = std::fs::read_to_string(root.join(folder).join("efficiency.json")).unwrap();
    serde_json::from_str::<Value>(&text).unwrap()["cases"].as_array().unwrap().clone()
}

/// Fails for keys that this test does not know; keys that record a peer's behaviour are left out.
fn only(value: &Value, known: &[&str]) {
    let is_record = |k: &str| k.starts_with("authors_") || k.starts_with("trl_") || ["note", "source"].contains(&k);
    for key in value.as_object().unwrap().keys().filter(|k| !is_record(k)) {
        assert!(known.contains(&key.as_str()), "unknown key `{key}` in {value}");
    }
}

fn sizes(value: &Value) -> Vec<usize> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as usize).collect()
}

fn tensor(value: &Value) -> Tensor {
    let numbers = |v: &Value| -> Vec<f64> { v.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect() };
    match value[0].is_array() {
        true => {
            let rows: Vec<Vec<f64>> = value.as_array().unwrap().iter().map(numbers).collect();
            Tensor::new(rows, &Device::Cpu).unwrap()
        }
        false => Tensor::new(numbers(value), &Device::Cpu).unwrap(),
    }
}

fn close(what: &str, found: &Tensor, expected: &Value) {
    let expected = tensor(expected);
    assert_eq!(found.dims(), expected.dims(), "{what}");
    let distance = (found - expected).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap();
    let distance = distance.to_scalar::<f64>().unwrap();
    assert!(distance < TOLERANCE, "{what}: {distance}");
}

#[test]
fn golden_packing_and_operations() {
    let mut known = 0;
    for case in cases() {
        let (inputs, expected) = (&case["inputs"], &case["expected"]);
        if inputs.get("instances").is_some() {
            only(inputs, &["instances", "layout", "attention"]);
            only(expected, &["instances", "layout", "attention"]);
            bins(&inputs["instances"], &expected["instances"]);
            layout(&inputs["layout"], &expected["layout"]);
            packed_attention(&inputs["attention"], &expected["attention"], &case["config"]["attention"]);
        } else if inputs.get("rmsnorm").is_some() {
            only(inputs, &["rmsnorm", "swiglu", "rope"]);
            operations(inputs, expected, &case["config"]);
        } else {
            continue; // the head's row functions
        }
        known += 1;
    }
    assert!(known > 0, "no case of packing or operations was found");
}

fn bins(instances: &Value, expected: &Value) {
    for (instance, expected) in instances.as_array().unwrap().iter().zip(expected.as_array().unwrap()) {
        only(expected, &["bins", "n_bins", "optimal_bins", "lower_bound", "utilisation", "padded_batch_utilisation"]);
        let (lengths, capacity) = (sizes(&instance["lengths"]), instance["capacity"].as_u64().unwrap() as usize);
        let found = best_fit_decreasing(&lengths, capacity);
        let wanted: Vec<Vec<usize>> = expected["bins"].as_array().unwrap().iter().map(sizes).collect();
        assert_eq!(found, wanted);
        assert_eq!(found.len() as u64, expected["n_bins"].as_u64().unwrap());
        assert!(found.len() as u64 >= expected["optimal_bins"].as_u64().unwrap());
        let tokens: usize = lengths.iter().sum();
        assert!(tokens.div_ceil(capacity) as u64 == expected["lower_bound"].as_u64().unwrap());
        let share = |room: usize| if room == 0 { 1.0 } else { tokens as f64 / room as f64 };
        let close = |a: f64, b: &Value| assert!((a - b.as_f64().unwrap()).abs() < TOLERANCE, "{a} {b}");
        close(share(found.len() * capacity), &expected["utilisation"]);
        let filled = lengths.iter().filter(|&&l| l > 0);
        close(share(filled.clone().count() * filled.max().unwrap_or(&0)), &expected["padded_batch_utilisation"]);
    }
}

/// Our packs have no padding: the places after the last segment are those of no segment.
fn layout(input: &Value, expected: &Value) {
    let keys = ["position_ids", "segment_ids", "cu_seqlens", "attention_allowed", "logit_position_is_a_target"];
    only(expected, &keys);
    let mut pack = Packed::new();
    for length in sizes(&input["lengths"]) {
        pack.push(&vec![0; length]);
    }
    let places = input["row_length"].as_u64().unwrap() as usize;
    let segment = |place: usize| (0..pack.segments.len()).find(|&s| pack.range(s).contains(&place));
    let number = |n: usize| Value::from(n as u64);
    let at = |name: &str, place: usize| expected[name][place].clone();
    for place in 0..places {
        assert_eq!(number(pack.positions.get(place).map_or(0, |&p| p as usize)), at("position_ids", place));
        assert_eq!(segment(place).map_or(-1, |s| s as i64), at("segment_ids", place).as_i64().unwrap());
        let is_target = segment(place).is_some() && segment(place) == segment(place + 1);
        assert_eq!(number(usize::from(is_target)), at("logit_position_is_a_target", place));
    }
    let starts: Vec<Value> = (0..pack.segments.len()).map(|s| number(pack.range(s).start)).collect();
    assert_eq!(Value::from([starts, vec![number(pack.len())]].concat()), expected["cu_seqlens"]);
    // Attention itself tells who sees whom: values that are one-hot come back as weights.
    let n = pack.len();
    let heads = Heads { queries: 1, keys: 1, size: n, window: None, scale: 1.0 };
    let (q, v) = (Tensor::zeros((n, n), candle_core::DType::F64, &Device::Cpu).unwrap(), eye(n));
    let weights: Vec<Vec<f64>> = attention::forward(&q, &q, &v, &pack, &heads).unwrap().to_vec2().unwrap();
    for i in 0..places {
        for j in 0..places {
            let is_seen = i < n && j < n && weights[i][j] > 0.0;
            assert_eq!(number(usize::from(is_seen)), expected["attention_allowed"][i][j], "{i} sees {j}");
        }
    }
}

fn eye(n: usize) -> Tensor {
    Tensor::eye(n, candle_core::DType::F64, &Device::Cpu).unwrap()
}

fn table(size: usize, theta: f64) -> rope::Table {
    let frequencies: Vec<f64> = (0..size / 2).map(|i| theta.powf(-2.0 * i as f64 / size as f64)).collect();
    rope::Table::new(&frequencies, 4096, 1.0)
}

fn packed_attention(input: &Value, expected: &Value, config: &Value) {
    only(config, &["rope", "causal"]);
    assert!(config["causal"].as_bool().unwrap());
    let text = config["rope"].as_str().unwrap();
    let theta = text.split("theta ").nth(1).unwrap().split(',').next().unwrap().trim().parse().unwrap();
    let mut pack = Packed::new();
    for length in sizes(&input["segment_lengths"]) {
        pack.push(&vec![0; length]);
    }
    let (q, k, v) = (tensor(&input["q"]), tensor(&input["k"]), tensor(&input["v"]));
    let size = q.dim(1).unwrap();
    let rope = table(size, theta);
    rope::rotate(&q, &rope, &pack.positions).unwrap();
    rope::rotate(&k, &rope, &pack.positions).unwrap();
    let heads = Heads { queries: 1, keys: 1, size, window: None, scale: 1.0 / (size as f64).sqrt() };
    close("attention", &attention::forward(&q, &k, &v, &pack, &heads).unwrap(), &expected["output"]);
}

fn operations(inputs: &Value, expected: &Value, config: &Value) {
    only(config, &["eps", "rope_theta", "rope_layout"]);
    assert_eq!(config["rope_layout"], "half-split");
    let (input, wanted) = (&inputs["rmsnorm"], &expected["rmsnorm"]);
    only(wanted, &["y", "rstd", "grad_x", "grad_weight"]);
    let (x, w, g) = (tensor(&input["x"]), tensor(&input["weight"]), tensor(&input["upstream"]));
    let eps = config["eps"].as_f64().unwrap();
    let y = norm::forward(&x, &w, eps).unwrap();
    close("rmsnorm", &y, &wanted["y"]);
    let rstd = norm::forward(&x, &w.ones_like().unwrap(), eps).unwrap().broadcast_div(&x).unwrap();
    close("rstd", &rstd.mean(1).unwrap(), &wanted["rstd"]);
    let dw = w.zeros_like().unwrap();
    close("rmsnorm dx", &norm::backward(&g, &x, &w, eps, Some(&dw)).unwrap(), &wanted["grad_x"]);
    close("rmsnorm dw", &dw, &wanted["grad_weight"]);

    let (input, wanted) = (&inputs["swiglu"], &expected["swiglu"]);
    only(wanted, &["y", "grad_gate", "grad_up"]);
    let (gate, up, g) = (tensor(&input["gate"]), tensor(&input["up"]), tensor(&input["upstream"]));
    close("swiglu", &swiglu::forward(&gate, &up).unwrap(), &wanted["y"]);
    let (d_gate, d_up) = swiglu::backward(&g, &gate, &up).unwrap();
    close("swiglu dgate", &d_gate, &wanted["grad_gate"]);
    close("swiglu dup", &d_up, &wanted["grad_up"]);

    let (input, wanted) = (&inputs["rope"], &expected["rope"]);
    only(wanted, &["y", "grad_x"]);
    let (x, g) = (tensor(&input["x"]), tensor(&input["upstream"]));
    let positions: Vec<u32> = sizes(&input["positions"]).into_iter().map(|p| p as u32).collect();
    let rope = table(x.dim(1).unwrap(), config["rope_theta"].as_f64().unwrap());
    rope::rotate(&x, &rope, &positions).unwrap();
    close("rope", &x, &wanted["y"]);
    rope::rotate_back(&g, &rope, &positions).unwrap();
    close("rope dx", &g, &wanted["grad_x"]);
}
