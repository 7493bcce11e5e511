//! `distillation.json`: divergences with gradients, softening, sparse teachers, and the objective on them.

use candle_core::Var;

use super::leaves::{at_logp, cube, id_rows, ids};
use super::{Case, Fields, all_close, cases, close, number, rows, table, vector};
use crate::objective::Leaves;
use crate::objective::distill::{Distill, Mode};
use crate::row::divergence::{Distilled, Divergence, Rest, Softening, Teacher};
use crate::row::token::TokenLogp;
use crate::row::{RowFunction, RowGrad};
use crate::{Batch, Table};

const TOLERANCE: f64 = 1e-9;

#[test]
fn golden_distillation() {
    for case in cases("distillation") {
        let has = |key| case.inputs.has(key);
        if has("student_logits") && has("teacher_logits") && has("mask") {
            generalised_jsd(&case);
        } else if has("probs") && has("temperatures") {
            softening(&case);
        } else if has("teacher_topk_ids") {
            sparse(&case);
        } else if has("student_logprobs") && has("teacher_logprobs") {
            policy_gradient(&case);
        } else if has("teacher_with_masked") {
            edges(&case);
        } else {
            panic!("{}: no known kind of case has the inputs {:?}", case.path, case.inputs.keys());
        }
        case.inputs.finish();
        case.config.finish();
        case.expected.finish();
    }
}

/// Loss of the objective with these divergences and log-probs, and the gradients at both.
fn objective(settings: Distill, mask: &Table, divergence: &Table, logp: &Table) -> (f64, Table, Table) {
    let batch = Batch::new(mask.clone(), (0..mask.rows()).collect()).unwrap();
    let leaf = |table: &Table| Var::from_tensor(&table.tensor().unwrap()).unwrap();
    let (d, l) = (leaf(divergence), leaf(logp));
    let leaves =
        Leaves { logp: l.as_tensor().clone(), entropy: None, divergence: Some(d.as_tensor().clone()), score: None };
    let loss = settings.build().unwrap().loss(&batch, &leaves).unwrap();
    let store = loss.value.backward().unwrap();
    let gradient = |var: &Var| {
        store.get(var).map_or_else(|| Table::zeros(mask.rows(), mask.cols()), |g| Table::from_tensor(g).unwrap())
    };
    (loss.value.to_scalar().unwrap(), gradient(&d), gradient(&l))
}

fn generalised_jsd(case: &Case) {
    let temperature = number(case.config.get("temperature"));
    for text in ["mixture", "reduction", "gradients"] {
        assert!(case.config.text(text).is_some(), "{}: `{text}` states a convention", case.path);
    }
    let (student, teacher) =
        (cube(case.inputs.get("student_logits")), cube(case.inputs.get("teacher_logits")).concat());
    let mask = table(case.inputs.get("mask"));
    let (n, t) = (mask.rows(), mask.cols());
    let student = student.concat();
    for beta in vector(case.config.get("betas")) {
        let key = case
            .expected
            .keys()
            .into_iter()
            .find(|k| k.strip_prefix("beta_").and_then(|b| b.parse().ok()) == Some(beta));
        let wanted =
            case.expected.child(&key.unwrap_or_else(|| panic!("{}: nothing expected for beta {beta}", case.path)));
        let divergence = Divergence { beta, temperature, ..Divergence::default() };
        let teachers: Vec<Teacher<f64, f64>> = teacher.iter().map(|row| Teacher::Full(row)).collect();
        let tokens = vec![0; n * t];
        let token = TokenLogp { tokens: &tokens, temperature: 1.0, with_entropy: false };
        let function = Distilled { token, teachers: &teachers, divergence };
        let values: Vec<_> = student.iter().enumerate().map(|(r, z)| function.forward(r, z)).collect();
        let leaf = Table::new(n, t, values.iter().map(|v| v.divergence).collect()).unwrap();
        let per_token = leaf.zip(&mask, |d, m| d * m);
        all_close(&wanted.path, per_token.data(), table(wanted.get("per_token")).data(), TOLERANCE);
        let logp = Table::zeros(n, t);
        let settings =
            Distill { beta, kd_temperature: temperature, scales_by_temperature: false, ..Distill::default() };
        let (loss, gradient, _) = objective(settings.clone(), &mask, &leaf, &logp);
        close(&wanted.path, loss, number(wanted.get("loss")), TOLERANCE);
        let scaled = objective(Distill { scales_by_temperature: true, ..settings }, &mask, &leaf, &logp).0;
        close(&wanted.path, scaled, number(wanted.get("loss_times_T_squared")), TOLERANCE);
        for (r, wanted_row) in cube(wanted.get("grad_student_logits")).concat().iter().enumerate() {
            let mut z = student[r].clone();
            let grad = RowGrad { divergence: gradient.data()[r], ..RowGrad::default() };
            function.backward(r, &mut z, &values[r], &grad);
            all_close(&format!("{}.gradient[{r}]", wanted.path), &z, wanted_row, TOLERANCE);
        }
        wanted.finish();
    }
}

fn softening(case: &Case) {
    for text in ["power", "uniform_mixture"] {
        assert!(case.config.text(text).is_some(), "{}: `{text}` states a formula", case.path);
    }
    let probabilities = rows(case.inputs.get("probs"));
    let wanted = case.expected.get("by_temperature").as_array().expect("a list");
    assert_eq!(wanted.len(), vector(case.inputs.get("temperatures")).len(), "{}: temperatures", case.path);
    for (wanted, t) in wanted.iter().zip(vector(case.inputs.get("temperatures"))) {
        let wanted = Fields::new(format!("{}.T={t}", case.path), wanted);
        assert_eq!(number(wanted.get("T")), t, "{}: temperature", case.path);
        let softened = |softening: Softening| -> Vec<Vec<f64>> {
            let mut rows = probabilities.clone();
            rows.iter_mut().for_each(|row| softening.apply(row, t));
            rows
        };
        let power = softened(Softening::Power);
        let entropy: Vec<f64> =
            power.iter().map(|p| -p.iter().filter(|p| **p > 0.0).map(|p| p * p.ln()).sum::<f64>()).collect();
        all_close(&wanted.path, &power.concat(), &rows(wanted.get("power")).concat(), TOLERANCE);
        all_close(&wanted.path, &entropy, &vector(wanted.get("entropy")), TOLERANCE);
        let mixture = wanted.get("uniform_mixture");
        assert_eq!(mixture.is_null(), t < 1.0, "{}: it softens only", wanted.path);
        if t >= 1.0 {
            let found = softened(Softening::UniformMixture);
            all_close(&wanted.path, &found.concat(), &rows(mixture).concat(), TOLERANCE);
        }
        wanted.finish();
    }
    // softmax(z / T) is the power softening of softmax(z), at the temperature that the key names.
    let key = case.expected.keys().into_iter().find(|k| k.starts_with("softmax_of_logits_over_"));
    let key = key.unwrap_or_else(|| panic!("{}: no identity to check", case.path));
    let t: f64 = key["softmax_of_logits_over_".len()..].parse().expect("a temperature");
    let wanted = rows(case.expected.get(&key));
    for (z, wanted) in rows(case.inputs.get("logits_for_identity_check")).iter().zip(&wanted) {
        let most = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = z.iter().map(|z| (z - most).exp()).sum();
        let mut p: Vec<f64> = z.iter().map(|z| (z - most).exp() / sum).collect();
        Softening::Power.apply(&mut p, t);
        all_close(&format!("{}.{key}", case.path), &p, wanted, TOLERANCE);
    }
}

fn sparse(case: &Case) {
    let (student, full) = (rows(case.inputs.get("student_logits")), rows(case.inputs.get("teacher_full_logprobs")));
    let (ids, logp) = (id_rows(case.inputs.get("teacher_topk_ids")), rows(case.inputs.get("teacher_topk_logprobs")));
    assert_eq!(number(case.config.get("k")) as usize, ids[0].len(), "{}: k", case.path);
    for text in ["student_normaliser", "tail"] {
        assert!(case.config.text(text).is_some(), "{}: `{text}` states a convention", case.path);
    }
    for key in case.expected.keys() {
        let wanted = case.expected.child(&key);
        let (beta, form) = match key.split_once("_kl_") {
            Some(("forward", form)) => (0.0, form),
            Some(("reverse", form)) => (1.0, form),
            _ => panic!("{}: unknown divergence", wanted.path),
        };
        let rest = match form {
            "with_tail_bucket" | "full_vocabulary" => Rest::Tail,
            "renormalised_topk" => Rest::Renormalised,
            "truncated_unnormalised" => Rest::Truncated,
            _ => panic!("{}: unknown form {form}", wanted.path),
        };
        let teacher = |r: usize| match form {
            "full_vocabulary" => Teacher::Full(full[r].as_slice()),
            _ => Teacher::Sparse { ids: &ids[r], logp: &logp[r] },
        };
        let divergence = Divergence { beta, rest, ..Divergence::default() };
        let values: Vec<f64> = student.iter().enumerate().map(|(r, z)| divergence.value(z, teacher(r))).collect();
        all_close(&wanted.path, &values, &vector(wanted.get("per_row")), TOLERANCE);
        let n = values.len() as f64;
        close(&wanted.path, values.iter().sum::<f64>() / n, number(wanted.get("mean")), TOLERANCE);
        for (r, wanted_row) in rows(wanted.get("grad_student_logits")).iter().enumerate() {
            let mut gradient = vec![0.0; wanted_row.len()];
            divergence.backward(&student[r], teacher(r), 1.0 / n, &mut gradient);
            all_close(&format!("{}.gradient[{r}]", wanted.path), &gradient, wanted_row, TOLERANCE);
        }
        wanted.finish();
    }
}

fn policy_gradient(case: &Case) {
    let (student, teacher) = (table(case.inputs.get("student_logprobs")), table(case.inputs.get("teacher_logprobs")));
    let mask = table(case.inputs.get("mask"));
    for text in ["advantage", "reduction"] {
        assert!(case.config.text(text).is_some(), "{}: `{text}` states a convention", case.path);
    }
    let settings = Distill { mode: Mode::PolicyGradient, ..Distill::default() };
    let advantage = |settings: &Distill| settings.teacher_advantage(&teacher, &student, &mask);
    let check = |key: &str, found: &Table| {
        let path = format!("{}.{key}", case.path);
        all_close(&path, found.data(), table(case.expected.get(key)).data(), TOLERANCE);
    };
    check("advantage", &advantage(&settings));
    if case.expected.has("advantage_clipped") {
        let advantage_clip = Some(number(case.config.get("advantage_clip")));
        check("advantage_clipped", &advantage(&Distill { advantage_clip, ..settings.clone() }));
    }
    for key in case.expected.keys() {
        if let Some(gamma) = key.strip_prefix("return_to_go_discount_") {
            let gamma = gamma.parse().expect("a discount");
            check(&key, &advantage(&Distill { gamma, ..settings.clone() }));
        }
    }
    let mut batch = Batch::new(mask.clone(), (0..mask.rows()).collect()).unwrap();
    batch.ref_logp = Some(teacher.clone());
    let (loss, value, gradient) = at_logp(settings.build().unwrap().as_ref(), &batch, &student);
    close(&case.path, value, number(case.expected.get("loss")), TOLERANCE);
    check("grad_student_logprobs", &gradient);
    let kl = loss.metrics.get("kl").expect("a KL estimate");
    close(&case.path, kl, number(case.expected.get("kl_estimate_mean")), TOLERANCE);
}

fn edges(case: &Case) {
    let full = |beta: f64, student: &[f64], teacher: &[f64]| {
        let divergence = Divergence { beta, ..Divergence::default() };
        let mut gradient = vec![0.0; student.len()];
        divergence.backward(student, Teacher::<f64, f64>::Full(teacher), 1.0, &mut gradient);
        (divergence.value(student, Teacher::<f64, f64>::Full(teacher)), gradient)
    };
    let logits = cube(case.inputs.get("logits")).concat();
    let masked_teacher = cube(case.inputs.get("teacher_with_masked")).concat();
    let student = cube(case.inputs.get("student_for_masked")).concat();
    for key in case.expected.keys() {
        if let Some(beta) = key.strip_prefix("identical_beta_") {
            let (beta, wanted) = (beta.parse().expect("a beta"), case.expected.child(&key));
            let found: Vec<_> = logits.iter().map(|z| full(beta, z, z)).collect();
            let values: Vec<f64> = found.iter().map(|f| f.0).collect();
            all_close(&wanted.path, &values, &rows(wanted.get("per_token")).concat(), TOLERANCE);
            let largest = found.iter().flat_map(|f| &f.1).fold(0.0_f64, |m, g| m.max(g.abs()));
            close(&wanted.path, largest, number(wanted.get("max_abs_grad")), TOLERANCE);
            wanted.finish();
        } else if key == "teacher_masks_tokens_forward_kl" {
            let wanted = case.expected.child(&key);
            let gradients = cube(wanted.get("grad_student_logits")).concat();
            for (r, value) in rows(wanted.get("value")).concat().iter().enumerate() {
                let found = full(0.0, &student[r], &masked_teacher[r]);
                close(&wanted.path, found.0, *value, TOLERANCE);
                all_close(&wanted.path, &found.1, &gradients[r], TOLERANCE);
            }
            wanted.finish();
        } else if key == "teacher_masks_tokens_reverse_kl" {
            assert_eq!(full(1.0, &student[0], &masked_teacher[0]).0, number(case.expected.get(&key)), "{}", case.path);
        } else if key == "empty_mask" {
            let wanted = case.expected.child(&key);
            let nothing = Table::zeros(1, 2);
            let (loss, gradient, _) = objective(Distill::default(), &nothing, &Table::filled(1, 2, 3.0), &nothing);
            assert_eq!(loss, number(wanted.get("loss")), "{}", wanted.path);
            assert!(gradient.data().iter().all(|g| *g == number(wanted.get("grad"))), "{}", wanted.path);
            wanted.finish();
        } else if key != "mixed" {
            panic!("{}: unknown key {key}", case.path);
        }
    }
    if case.inputs.has("mixed") {
        mixed(case);
    }
}

fn mixed(case: &Case) {
    let (inputs, config, wanted) =
        (case.inputs.child("mixed"), case.config.child("mixed"), case.expected.child("mixed"));
    let (student, teacher) = (rows(inputs.get("student_logits")), rows(inputs.get("teacher_logits")));
    let tokens = ids(inputs.get("targets"));
    let (alpha, temperature) = (number(config.get("alpha_ce")), number(config.get("temperature")));
    assert!(config.text("formula").is_some(), "{}: the formula", config.path);
    // Teacher first in the divergence of the formula: the forward one.
    let divergence = Divergence { beta: 0.0, temperature, ..Divergence::default() };
    let teachers: Vec<Teacher<f64, f64>> = teacher.iter().map(|row| Teacher::Full(row)).collect();
    let token = TokenLogp { tokens: &tokens, temperature: 1.0, with_entropy: false };
    let function = Distilled { token, teachers: &teachers, divergence };
    let values: Vec<_> = student.iter().enumerate().map(|(r, z)| function.forward(r, z)).collect();
    let n = values.len();
    let d = Table::new(n, 1, values.iter().map(|v| v.divergence).collect()).unwrap();
    let logp = Table::new(n, 1, values.iter().map(|v| v.logp).collect()).unwrap();
    close(&wanted.path, -logp.sum() / n as f64, number(wanted.get("ce")), TOLERANCE);
    close(&wanted.path, d.sum() / n as f64, number(wanted.get("kl")), TOLERANCE);
    let settings = Distill { beta: 0.0, alpha, kd_temperature: temperature, ..Distill::default() };
    let (total, at_d, at_logp) = objective(settings, &Table::filled(n, 1, 1.0), &d, &logp);
    close(&wanted.path, total, number(wanted.get("total")), TOLERANCE);
    for (r, wanted_row) in rows(wanted.get("grad_student_logits")).iter().enumerate() {
        let mut z = student[r].clone();
        let grad = RowGrad { logp: at_logp.data()[r], entropy: 0.0, divergence: at_d.data()[r] };
        function.backward(r, &mut z, &values[r], &grad);
        all_close(&format!("{}.gradient[{r}]", wanted.path), &z, wanted_row, TOLERANCE);
    }
    for fields in [inputs, config, wanted] {
        fields.finish();
    }
}
