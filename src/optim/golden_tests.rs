//! `efficiency.json`, the case of LoRA+: two AdamW steps with a faster B.

use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use serde_json::Value;

use super::AdamW;
use crate::config::OptimConfig;
use crate::model::params::{Grads, Params};

fn tensor(value: &Value) -> Tensor {
    let rows: Vec<Vec<f64>> = serde_json::from_value(value.clone()).unwrap();
    let (n, width) = (rows.len(), rows[0].len());
    Tensor::from_vec(rows.concat(), (n, width), &Device::Cpu).unwrap()
}

fn check(what: &str, found: &Tensor, wanted: &Value) {
    let (found, wanted): (Vec<Vec<f64>>, Vec<Vec<f64>>) = (found.to_vec2().unwrap(), tensor(wanted).to_vec2().unwrap());
    for (f, w) in found.iter().flatten().zip(wanted.iter().flatten()) {
        assert!((f - w).abs() <= 1e-9 * w.abs().max(1e-4) + 1e-15, "{what}: found {f}, expected {w}");
    }
}

#[test]
fn golden_efficiency_lora_plus() {
    let folder = std::env::var_os("CANDLEWICK_GOLDEN").map_or_else(|| "tests/golden".into(), PathBuf::from);
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder).join("efficiency.json");
    let text = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let json: Value = serde_json::from_str(&text).unwrap();
    for case in json["cases"].as_array().unwrap().iter().filter(|c| c["inputs"].get("A0").is_some()) {
        two_rates(case);
    }
}

fn two_rates(case: &Value) {
    let (inputs, config) = (&case["inputs"], &case["config"]);
    let number = |key: &str| config[key].as_f64().unwrap_or_else(|| panic!("{key}: a number"));
    let (x, w0, target) = (tensor(&inputs["x"]), tensor(&inputs["w0"]), tensor(&inputs["target"]));
    let scale = number("alpha") / number("rank");
    let mut params = Params::default();
    let a = params.add("model.q_proj.lora_A.weight", tensor(&inputs["A0"]), true).unwrap();
    let b = params.add("model.q_proj.lora_B.weight", tensor(&inputs["B0"]), true).unwrap();
    let optim = OptimConfig {
        beta1: config["betas"][0].as_f64().unwrap(),
        beta2: config["betas"][1].as_f64().unwrap(),
        eps: number("eps"),
        weight_decay: number("weight_decay"),
        max_grad_norm: 0.0,
        lora_plus_ratio: number("lr_ratio_B_over_A"),
        ..OptimConfig::default()
    };
    let mut adamw = AdamW::new(&optim, &params);
    let rows = x.dim(0).unwrap() as f64;
    for wanted in case["expected"]["steps"].as_array().unwrap() {
        // y = x W0^T + s (x A^T) B^T; loss = mean over rows of half the squared error.
        let t = |m: &Tensor| m.t().unwrap().contiguous().unwrap();
        let (value_a, value_b) = (params.value(a).clone(), params.value(b).clone());
        let inner = x.matmul(&t(&value_a)).unwrap(); // [N,r]
        let update = (inner.matmul(&t(&value_b)).unwrap() * scale).unwrap();
        let error = ((x.matmul(&t(&w0)).unwrap() + update).unwrap() - &target).unwrap(); // [N,out]
        let loss = error.sqr().unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap() / (2.0 * rows);
        assert!((loss - wanted["loss"].as_f64().unwrap()).abs() < 1e-9 * loss);
        let d = (error * (scale / rows)).unwrap();
        let grad_b = t(&d).matmul(&inner).unwrap();
        let grad_a = t(&d.matmul(&value_b).unwrap()).matmul(&x).unwrap();
        check("grad_A", &grad_a, &wanted["grad_A"]);
        check("grad_B", &grad_b, &wanted["grad_B"]);
        let mut grads = Grads::new(&params);
        for (id, grad) in [(a, &grad_a), (b, &grad_b)] {
            let slot = grads.slot(&params, id).unwrap().unwrap();
            crate::model::ops::add_in_place(slot, grad).unwrap();
        }
        adamw.step(&params, &grads, number("lr_A")).unwrap();
        check("A", params.value(a), &wanted["A"]);
        check("B", params.value(b), &wanted["B"]);
    }
}
