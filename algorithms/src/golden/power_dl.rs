//! `power_dl.json`: loss, gradients and terms; labels over visits; where gradient flow ends.

use super::dpo::{Input, leaf, scalar};
use super::{Case, all_close, cases, close, vector};
use crate::objective::power_dl::labels::{LabelUpdate, moved, stationary};
use crate::objective::power_dl::{PowerDl, Weights};
use crate::objective::scalar::{log_sigmoid, logistic};

const TOLERANCE: f64 = 1e-9;

#[test]
fn golden_power_dl() {
    for case in cases("power_dl") {
        if case.inputs.has("chosen_logps") {
            losses(&case);
        } else if case.inputs.has("d_sequence") {
            visits(&case);
        } else {
            panic!("{}: no known kind of case has the inputs {:?}", case.path, case.inputs.keys());
        }
        case.inputs.finish();
        case.config.finish();
        case.expected.finish();
    }
}

fn losses(case: &Case) {
    let (config, expected) = (&case.config, &case.expected);
    let input = Input::read(&case.inputs);
    let pairs = input.pairs();
    let mut settings = PowerDl {
        beta: config.number("beta").expect("beta"),
        eta: config.number("eta").expect("eta"),
        weight_gap: config.get("weight_gap").as_bool().expect("true or false"),
        ..PowerDl::default()
    };
    let weights = match config.text("weights").expect("weights") {
        "given" => (vector(case.inputs.get("w_chosen")), vector(case.inputs.get("w_rejected"))),
        name => {
            settings.weights = serde_json::from_value::<Weights>(name.into())
                .unwrap_or_else(|_| panic!("{}: unknown weights `{name}`", case.path));
            settings.weights(&pairs)
        }
    };
    let is_given = config.text("weights") == Some("given");
    let labels = vector(case.inputs.get("labels"));
    let terms = settings.terms(&pairs, (&weights.0, &weights.1), |i, _| labels[i]).unwrap();
    let value = (pairs.mean(&terms.preference).unwrap()
        + (pairs.mean(&terms.imitation).unwrap() * settings.eta).unwrap())
    .unwrap();
    close(&format!("{}.loss", case.path), scalar(&value), expected.number("loss").expect("a loss"), TOLERANCE);
    input.check_gradients(&case.path, &value, expected);

    let d = terms.gap.to_vec1::<f64>().unwrap();
    let beliefs: Vec<f64> = d.iter().copied().map(logistic).collect();
    let slope: Vec<f64> = beliefs.iter().zip(&labels).map(|(p, l)| p - l).collect();
    let expect = |key: &str, found: &[f64]| {
        all_close(&format!("{}.{key}", case.path), found, &vector(expected.get(key)), TOLERANCE);
    };
    expect("d", &d);
    expect("sigma_d", &beliefs);
    expect("pref", &terms.preference.to_vec1::<f64>().unwrap());
    expect("sft_term", &terms.imitation.to_vec1::<f64>().unwrap());
    expect("w_chosen", &weights.0);
    expect("w_rejected", &weights.1);
    expect("grad_d", &slope);

    if !is_given {
        let mut batch = input.batch.clone();
        for (pair, label) in labels.iter().enumerate() {
            batch.label[2 * pair] = Some(*label);
        }
        let whole = settings.build().unwrap().loss(&batch, &input.leaves()).unwrap();
        close(&format!("{}: the objective", case.path), scalar(&whole.value), scalar(&value), 1e-14);
    }
}

fn visits(case: &Case) {
    let gamma = case.config.number("gamma").expect("gamma");
    let mut label = case.inputs.number("label0").expect("label0");
    let gaps = vector(case.inputs.get("d_sequence"));
    let visits = case.expected.get("visits").as_array().expect("visits");
    assert_eq!(visits.len(), gaps.len(), "{}: visits", case.path);
    for (d, wanted) in gaps.into_iter().zip(visits) {
        let wanted = super::Fields::new(format!("{}.visit", case.path), wanted);
        let belief = logistic(d);
        let expect = |key: &str, found: f64| {
            close(&format!("{}.{key}", wanted.path), found, wanted.number(key).expect("a number"), TOLERANCE);
        };
        let slope = |used: f64| {
            let gap = leaf(&[d]);
            let agree = (log_sigmoid(gap.as_tensor()).unwrap() * used).unwrap();
            let differ = (log_sigmoid(&gap.neg().unwrap()).unwrap() * (1.0 - used)).unwrap();
            let loss = (agree + differ).unwrap().neg().unwrap();
            loss.backward().unwrap().get(&gap).unwrap().to_vec1::<f64>().unwrap()[0]
        };
        let after = LabelUpdate::After.used(label, belief, gamma);
        let before = LabelUpdate::Before.used(label, belief, gamma);
        expect("d", d);
        expect("sigma_d", belief);
        expect("label_used_update_after", after);
        expect("label_used_update_before", before);
        expect("grad_d_update_after", slope(after));
        expect("grad_d_update_before", slope(before));
        label = moved(label, belief, gamma);
        expect("label_after", label);
        wanted.finish();
    }
    for flow in case.expected.get("toy_gradient_flow").as_array().expect("flows") {
        let flow = super::Fields::new(format!("{}.flow", case.path), flow);
        let number = |key: &str| flow.number(key).expect("a number");
        let r = number("gamma") / (number("step_size") * number("frequency_mu"));
        let (d0, l0) = (number("d0"), number("l0"));
        let (d, l) = stationary(d0, l0, r);
        close(&flow.path, logistic(d0), number("sigma_d0"), TOLERANCE);
        for (key, found) in [
            ("d_inf", d),
            ("d_inf_from_invariant", d),
            ("l_inf", l),
            ("invariant_start", l0 + r * d0),
            ("invariant_end", l + r * d),
        ] {
            close(&format!("{}.{key}", flow.path), found, number(key), TOLERANCE);
        }
        flow.finish();
    }
}
