//! `optimiser_safety.json`: StableMax, perpGrad, schedules, the ghost radius, clipping and skipped steps.

use serde_json::Value;

use super::{Case, Fields, all_close, cases, close, number, rows, vector};
use crate::optim::schedule::{Norm, Shape, multiplier, refine};
use crate::optim::spike::SpikeRule;
use crate::optim::{clip_factor, perp, radius};
use crate::row::stablemax;

const TOLERANCE: f64 = 1e-9;

#[test]
fn golden_optimiser_safety() {
    for case in cases("optimiser_safety") {
        let has = |key| case.inputs.has(key);
        if has("edge_logits") {
            stable_max(&case);
        } else if has("tensors") {
            projections(&case);
        } else if has("peak_lr") {
            schedules(&case);
        } else if has("constant_grad_norms") {
            refined(&case);
        } else if has("proposed_update") {
            linear_model(&case);
        } else if has("update") {
            differences(&case);
        } else if has("grads") {
            guards(&case);
        } else {
            panic!("{}: no known kind of case has the inputs {:?}", case.path, case.inputs.keys());
        }
        case.inputs.finish();
        case.config.finish();
        case.expected.finish();
    }
}

fn expect(fields: &Fields, key: &str, found: f64) {
    let wanted = fields.number(key).unwrap_or_else(|| panic!("{}.{key} is missing", fields.path));
    close(&format!("{}.{key}", fields.path), found, wanted, TOLERANCE);
}

fn expect_all(fields: &Fields, key: &str, found: &[f64]) {
    all_close(&format!("{}.{key}", fields.path), found, &vector(fields.get(key)), TOLERANCE);
}

fn expect_rows(fields: &Fields, key: &str, found: &[Vec<f64>]) {
    let wanted = rows(fields.get(key));
    assert_eq!(found.len(), wanted.len(), "{}.{key}: rows", fields.path);
    for (i, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
        all_close(&format!("{}.{key}[{i}]", fields.path), found, wanted, TOLERANCE);
    }
}

fn stable_max(case: &Case) {
    let logits = rows(case.inputs.get("logits"));
    let targets = vector(case.inputs.get("targets"));
    let edges = rows(case.inputs.get("edge_logits"));
    let e = &case.expected;
    let scale = match case.config.text("reduction") {
        Some("mean") | None => 1.0 / logits.len() as f64,
        Some("sum") => 1.0,
        Some(other) => panic!("{}: unknown reduction `{other}`", case.path),
    };
    let weights = |rows: &[Vec<f64>]| -> Vec<Vec<f64>> {
        rows.iter().map(|row| row.iter().copied().map(stablemax::weight).collect()).collect()
    };
    let probabilities =
        |rows: &[Vec<f64>]| -> Vec<Vec<f64>> { rows.iter().map(|row| stablemax::probabilities(row)).collect() };
    expect_rows(e, "s", &weights(&logits));
    expect_rows(e, "probs", &probabilities(&logits));
    expect_rows(e, "edge_s", &weights(&edges));
    expect_rows(e, "edge_probs", &probabilities(&edges));
    let losses: Vec<(f64, Vec<f64>)> =
        logits.iter().zip(&targets).map(|(z, &y)| stablemax::cross_entropy(z, y as usize)).collect();
    let nll: Vec<f64> = losses.iter().map(|l| l.0).collect();
    expect_all(e, "nll", &nll);
    expect(e, "loss", nll.iter().sum::<f64>() * scale);
    let gradients: Vec<Vec<f64>> = losses.iter().map(|l| l.1.iter().map(|g| g * scale).collect()).collect();
    expect_rows(e, "grad_logits", &gradients);
}

fn projections(case: &Case) {
    case.config.text("per");
    case.config.text("rescale");
    let threshold = case.config.number("degenerate_threshold").expect("a threshold");
    let tensors = case.inputs.get("tensors").as_array().expect("tensors");
    let wanted = case.expected.get("tensors").as_array().expect("tensors");
    assert_eq!(tensors.len(), wanted.len(), "{}: tensors", case.path);
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
    for (tensor, wanted) in tensors.iter().zip(wanted) {
        let path = format!("{}/{}", case.path, tensor["name"].as_str().unwrap_or("?"));
        let (w, g) = (vector(&tensor["w"]), vector(&tensor["g"]));
        let wanted = Fields::new(path.clone(), wanted);
        let found = perp::project(&w, &g, threshold);
        let rescaled = perp::rescale(&found, &g);
        let streamed = perp::coefficient(dot(&w, &g), dot(&w, &w), dot(&g, &g), threshold);
        expect(&wanted, "coefficient", streamed.along);
        // The file's own note: rounding is compared at 1e-12.
        for (key, found) in [("projected", &found), ("projected_and_rescaled", &rescaled)] {
            for (f, w) in found.iter().zip(vector(wanted.get(key))) {
                assert!((f - w).abs() <= 1e-12 + TOLERANCE * w.abs(), "{path}.{key}: {f} {w}");
            }
        }
        expect(&wanted, "norm_kept", dot(&rescaled, &rescaled).sqrt());
        let is_zero = found.iter().all(|x| *x == 0.0);
        assert_eq!(streamed.is_zero, is_zero, "{path}: both forms find the same gradients degenerate");
        wanted.finish();
    }
}

fn schedules(case: &Case) {
    let size = |key: &str| case.inputs.number(key).expect("a number") as usize;
    let (total, warmup) = (size("total_steps"), size("warmup_steps"));
    let peak = case.inputs.number("peak_lr").expect("a rate");
    case.config.text("index");
    let floors = vector(case.config.get("floor"));
    for key in case.expected.keys() {
        let (shape, floor) = key.split_once("_floor_").unwrap_or_else(|| panic!("{}: unknown key {key}", case.path));
        let shape = match shape {
            "linear" => Shape::Linear,
            "cosine" => Shape::Cosine,
            "constant" => Shape::Constant,
            other => panic!("{}: unknown schedule `{other}`", case.path),
        };
        let floor: f64 = floor.replacen('_', ".", 1).parse().expect("a floor");
        assert!(floors.contains(&floor), "{}: {key} is not in config.floor", case.path);
        let found: Vec<f64> = (0..total).map(|t| peak * multiplier(&shape, t, total, warmup, floor)).collect();
        let wanted = vector(case.expected.get(&key));
        assert_eq!(found.len(), wanted.len());
        for (f, w) in found.iter().zip(wanted) {
            assert!((f - w).abs() <= 1e-12 * peak, "{}.{key}: {f} {w}", case.path);
        }
    }
}

fn refined(case: &Case) {
    let norms = vector(case.inputs.get("grad_norms"));
    case.config.text("padding");
    let fractions = case.config.child("filter_fraction");
    for name in fractions.keys() {
        let norm = match (name.contains("sgd"), name.contains("adam")) {
            (true, false) => Norm::L2,
            (false, true) => Norm::L1,
            _ => panic!("{}: `{name}` names neither sgd nor adam", case.path),
        };
        let found = refine(&norms, fractions.number(&name).expect("a share"), norm).unwrap();
        let wanted = case.expected.child(&name);
        expect(&wanted, "filter_width", found.width as f64);
        expect_all(&wanted, "smoothed", &found.smoothed);
        expect_all(&wanted, "raw", &found.raw);
        expect_all(&wanted, "multiplier", &found.multiplier);
        wanted.finish();
    }
    fractions.finish();
    let constant = refine(&vector(case.inputs.get("constant_grad_norms")), 0.1, Norm::L2).unwrap();
    expect_all(&case.expected, "constant_multiplier", &constant.multiplier);
}

/// a b.
fn product(a: &[Vec<f64>], b: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let columns = b.first().map_or(0, Vec::len);
    a.iter().map(|row| (0..columns).map(|j| row.iter().zip(b).map(|(x, b)| x * b[j]).sum()).collect()).collect()
}

fn linear_model(case: &Case) {
    let all = |name: &str| rows(case.inputs.get(name));
    let (x, weight, update) = (all("x"), all("weight"), all("proposed_update"));
    let targets = vector(case.inputs.get("targets"));
    assert_eq!(case.config.text("logits"), Some("x @ weight"), "{}: logits", case.path);
    let target_r = vector(case.config.get("target_r"));
    assert!(target_r.len() == 2 && target_r[0] == 1.0 && target_r[1] == 0.5, "{}: target_r", case.path);
    let norm = update.iter().flatten().map(|u| u * u).sum::<f64>().sqrt();
    let derivative: Vec<Vec<f64>> =
        product(&x, &update).iter().map(|row| row.iter().map(|a| a / norm).collect()).collect();
    let e = &case.expected;
    let step = |fields: &Fields, times: f64| {
        let change: Vec<f64> = product(&x, &update).iter().map(|row| radius::spread(row) * times).collect();
        let r = radius::ratio(&change);
        expect(fields, "update_norm", norm * times);
        expect(fields, "rho_a", norm * times / r);
        expect(fields, "r", r);
        expect(fields, "scale_at_target_1", radius::scale(r, 1.0));
        expect(fields, "scale_at_target_half", radius::scale(r, 0.5));
    };
    step(e, 1.0);
    for key in e.keys().iter().filter(|k| k.starts_with("update_times_")) {
        let times: f64 = key["update_times_".len()..].parse().expect("a factor");
        let fields = e.child(key);
        step(&fields, times);
        fields.finish();
    }
    expect_rows(e, "directional_logit_derivatives", &derivative);
    expect_all(e, "spread", &derivative.iter().map(|a| radius::spread(a)).collect::<Vec<_>>());
    expect_all(e, "rho_a_per_row", &derivative.iter().map(|a| radius::radius(a)).collect::<Vec<_>>());
    let logits = product(&x, &weight);
    for (i, wanted) in e.get("top2").as_array().expect("a list").iter().enumerate() {
        let wanted = Fields::new(format!("{}.top2[{i}]", case.path), wanted);
        let (rival, delta, slope, rho) = radius::top_two(&logits[i], &derivative[i], targets[i] as usize);
        expect(&wanted, "competitor", rival as f64);
        expect(&wanted, "delta", delta);
        expect(&wanted, "delta_a", slope);
        expect(&wanted, "rho_star_top2", rho);
        wanted.finish();
    }
}

/// Weights of tanh(x w1^T + b1) w2^T.
struct Perceptron {
    w1: Vec<Vec<f64>>,
    b1: Vec<f64>,
    w2: Vec<Vec<f64>>,
}

impl Perceptron {
    fn moved(&self, by: &Self, e: f64) -> Self {
        let add = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a + e * b).collect::<Vec<_>>();
        let table = |a: &[Vec<f64>], b: &[Vec<f64>]| a.iter().zip(b).map(|(a, b)| add(a, b)).collect::<Vec<_>>();
        Self { w1: table(&self.w1, &by.w1), b1: add(&self.b1, &by.b1), w2: table(&self.w2, &by.w2) }
    }

    fn logits(&self, x: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
        x.iter()
            .map(|x| {
                let h: Vec<f64> = self.w1.iter().zip(&self.b1).map(|(w, b)| (dot(w, x) + b).tanh()).collect();
                self.w2.iter().map(|w| dot(w, &h)).collect()
            })
            .collect()
    }

    /// Exact derivative of the logits along a direction.
    fn derivative(&self, x: &[Vec<f64>], along: &Self) -> Vec<Vec<f64>> {
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
        x.iter()
            .map(|x| {
                let h: Vec<f64> = self.w1.iter().zip(&self.b1).map(|(w, b)| (dot(w, x) + b).tanh()).collect();
                let dh: Vec<f64> =
                    (0..h.len()).map(|j| (1.0 - h[j] * h[j]) * (dot(&along.w1[j], x) + along.b1[j])).collect();
                (0..self.w2.len()).map(|k| dot(&self.w2[k], &dh) + dot(&along.w2[k], &h)).collect()
            })
            .collect()
    }
}

/// r from the difference of two sets of logits, divided by e.
fn difference_ratio(a: &[Vec<f64>], b: &[Vec<f64>], e: f64) -> f64 {
    let spreads: Vec<f64> = (a.iter().zip(b))
        .map(|(a, b)| radius::spread(&a.iter().zip(b).map(|(a, b)| (a - b) / e).collect::<Vec<_>>()))
        .collect();
    radius::ratio(&spreads)
}

fn differences(case: &Case) {
    let x = rows(case.inputs.get("x"));
    let read = |value: &dyn Fn(&str) -> Value| Perceptron {
        w1: rows(&value("w1")),
        b1: vector(&value("b1")),
        w2: rows(&value("w2")),
    };
    let model = read(&|key| case.inputs.get(key).clone());
    let update = case.inputs.get("update").clone();
    let update = read(&|key| update[key].clone());
    assert_eq!(case.config.text("model"), Some("tanh(x w1^T + b1) w2^T"), "{}: model", case.path);
    case.config.text("r");
    let e = &case.expected;
    let (logits, jvp) = (model.logits(&x), model.derivative(&x, &update));
    expect_rows(e, "logits", &logits);
    expect_rows(e, "jvp", &jvp);
    let spreads: Vec<f64> = jvp.iter().map(|a| radius::spread(a)).collect();
    expect_all(e, "spread", &spreads);
    expect(e, "r_exact", radius::ratio(&spreads));
    let table = e.child("finite_difference");
    for key in table.keys() {
        let step: f64 = key.parse().expect("a step");
        let fields = table.child(&key);
        let (ahead, behind) = (model.moved(&update, step).logits(&x), model.moved(&update, -step).logits(&x));
        let found = [
            ("forward_r", difference_ratio(&ahead, &logits, step)),
            ("central_r", difference_ratio(&ahead, &behind, 2.0 * step)),
        ];
        for (name, r) in found {
            // Differences of nearly equal logits keep as many digits fewer as the step is small.
            let wanted = fields.number(name).expect("a ratio");
            assert!((r - wanted).abs() < 1e-9_f64.max(1e-12 / step), "{}.{name}: {r} {wanted}", fields.path);
        }
        fields.finish();
    }
    table.finish();
}

/// Every number of a nested list, in order.
fn flat(value: &Value, out: &mut Vec<f64>) {
    match value.as_array() {
        Some(list) => list.iter().for_each(|v| flat(v, out)),
        None => out.push(number(value)),
    }
}

fn guards(case: &Case) {
    let (config, e) = (&case.config, &case.expected);
    let (mut grads, mut wanted) = (Vec::new(), Vec::new());
    flat(case.inputs.get("grads"), &mut grads);
    flat(e.get("clipped"), &mut wanted);
    let norm = grads.iter().map(|g| g * g).sum::<f64>().sqrt();
    expect(e, "total_norm", norm);
    assert_eq!(config.number("clip_eps"), Some(1e-6), "{}: clip_eps", case.path);
    let factor = clip_factor(norm, config.number("max_norm").expect("a limit"));
    all_close(&case.path, &grads.iter().map(|g| g * factor).collect::<Vec<_>>(), &wanted, TOLERANCE);

    assert_eq!(config.text("std"), Some("unbiased"), "{}: std", case.path);
    config.text("min_history");
    config.text("history");
    let (window, sigma) = (config.number("window").expect("a window"), config.number("sigma_factor").expect("sigma"));
    let mut rule = SpikeRule::new(window as usize, sigma);
    let (losses, norms) = (vector(case.inputs.get("losses")), vector(case.inputs.get("grad_norms")));
    let found: Vec<Value> = losses
        .iter()
        .zip(&norms)
        .map(|(l, n)| serde_json::to_value(rule.judge(*l, *n)).expect("a decision serialises"))
        .collect();
    assert_eq!(e.get("decisions").as_array().expect("a list"), &found, "{}: decisions", case.path);
}
