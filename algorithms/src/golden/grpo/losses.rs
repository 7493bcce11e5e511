//! Losses and their gradients at the leaves.

use candle_core::Var;
use serde_json::Value;

use super::TOLERANCE;
use crate::batch::{Advantages, Finish};
use crate::golden::{Case, Fields, all_close, close, number, rows, table, vector};
use crate::objective::Leaves;
use crate::objective::grpo::aggregate::{Aggregation, EmptyRows};
use crate::objective::grpo::kl::Estimator;
use crate::objective::grpo::mismatch::{self, Mismatch};
use crate::objective::grpo::settings::Vespo;
use crate::objective::grpo::{Grpo, mask};
use crate::{Batch, Metrics, Table};

pub(super) const LOGP: [&str; 4] = ["logp", "logps", "logp_new", "logits_new"];
pub(super) const OLD: [&str; 4] = ["old_logp", "logp_old", "old_logprobs", "anchor_logps"];
pub(super) const REF: [&str; 3] = ["ref_logp", "logp_ref", "ref_logps"];
pub(super) const MASK: [&str; 2] = ["mask", "response_mask"];
const ENTROPY: [&str; 2] = ["entropies", "entropy"];

/// The inputs of a loss and how a variant changes them.
struct Setting {
    settings: Grpo,
    batch: Batch,
    logp: Table,
    /// 1 / accumulation steps, where the divisor of the step does not hold it already.
    scale: f64,
}

/// What came of it.
struct Outcome {
    loss: f64,
    gradient: Table,
    metrics: Metrics,
}

pub(super) fn check(case: &Case) {
    let defaults = if case.config.has("defaults") {
        case.config.child("defaults")
    } else {
        Fields::new("defaults", &Value::Object(Default::default()))
    };
    let has_variants = case.config.has("variants");
    let variants = has_variants.then(|| case.config.child("variants"));
    for key in case.expected.keys() {
        if !has_variants {
            let setting = setting(case, &case.config, &defaults, EmptyRows::Count);
            compare(&case.path, &case.expected, &setting);
            break;
        }
        let variants = variants.as_ref().expect("there are variants");
        let expected = case.expected.child(&key);
        let path = format!("{}.{key}", case.path);
        if let Some(estimator) = key.strip_prefix("estimator_") {
            kl_estimator(&path, case, estimator, &expected);
        } else {
            let (name, empty) = match key.strip_suffix("_skip_empty") {
                Some(name) => (name, EmptyRows::Skip),
                None => (key.as_str(), EmptyRows::Count),
            };
            assert!(variants.has(name), "{path}: no such variant in the config");
            let config = variants.child(name);
            let setting = setting(case, &config, &defaults, empty);
            config.finish();
            compare(&path, &expected, &setting);
        }
        expected.finish();
    }
    if let Some(variants) = variants {
        variants.finish();
    }
    defaults.finish();
}

/// The batch and settings of one variant.
fn setting(case: &Case, config: &Fields, defaults: &Fields, empty_rows: EmptyRows) -> Setting {
    let inputs = &case.inputs;
    let path = &config.path;
    let mut settings = Grpo { empty_rows, use_bias_correction_kl: false, ..Grpo::default() };
    read_common(config, &mut settings);
    for fields in [defaults, config] {
        if let Some(tau) = fields.number("sapo_tau_pos") {
            settings.sapo_tau_pos = tau;
        }
        if let Some(tau) = fields.number("sapo_tau_neg") {
            settings.sapo_tau_neg = tau;
        }
        if fields.has("vespo") {
            let vespo: Vespo = serde_json::from_value(fields.get("vespo").clone()).expect("exponents of vespo");
            settings.vespo = vespo;
        }
    }

    let mut mask = table(inputs.find(&MASK).expect("a mask"));
    match config.text("mask") {
        None | Some("as given") => {}
        Some("all zero") => mask.data_mut().fill(0.0),
        Some(other) => panic!("{path}: unknown mask {other:?}"),
    }
    let n = mask.rows();
    let groups = match inputs.find(&["group_ids", "prompt_ids", "groups"]) {
        Some(ids) => vector(ids).into_iter().map(|id| id as usize).collect(),
        None => vec![0; n],
    };
    let logp = table(inputs.find(&LOGP).expect("log-probs"));
    let mut batch = Batch::new(mask, groups).unwrap();
    batch.old_logp = inputs.find(&OLD).map(table);
    if let Some(text) = config.text("old_logp") {
        assert!(text.starts_with("absent"), "{path}: unknown old_logp {text:?}");
        batch.old_logp = None;
    }
    batch.ref_logp = inputs.find(&REF).map(table);
    if let Some(text) = config.text("ref") {
        assert_eq!(text, "absent", "{path}: unknown ref");
        batch.ref_logp = None;
    }
    batch.sampling_logp = inputs.find(&["sampling_logp"]).map(table);
    match config.text("behaviour") {
        None | Some("sampling_logp") => {}
        Some("old_logp") => batch.sampling_logp = None,
        Some(other) => panic!("{path}: unknown behaviour {other:?}"),
    }
    batch.entropy = inputs.find(&ENTROPY).map(table);
    let advantages = inputs.find(&["advantages", "advantage"]).expect("advantages");
    batch.advantage = Some(if advantages.get(0).is_some_and(Value::is_array) {
        Advantages::Token(table(advantages))
    } else {
        Advantages::Row(vector(advantages))
    });
    if let Some(rows) = config.find(&["truncated_rows"]) {
        settings.mask_truncated_completions = true;
        vector(rows).into_iter().for_each(|row| batch.finish[row as usize] = Finish::Length);
    }
    if let Some(longest) = config.number("max_len") {
        batch.max_completion = longest as usize;
    }
    settings.build().unwrap_or_else(|e| panic!("{path}: {e}")).prepare(&mut batch).unwrap();

    let mut totals = batch.own_totals();
    let accumulated = config.number("accum").unwrap_or(1.0);
    let mut scale = 1.0;
    match settings.aggregation() {
        // The divisor already spans the step.
        Aggregation::TokenMean => {}
        // Its divisor is its own batch's: the loop divides.
        Aggregation::BatchTokenMean => scale = 1.0 / accumulated,
        _ => {
            let times = accumulated as usize;
            totals.rows *= times;
            totals.nonempty_rows *= times;
            totals.tokens *= times;
        }
    }
    if let Some(items) = config.number("num_items") {
        totals.tokens = items as usize;
    }
    batch.totals = Some(totals);
    Setting { settings, batch, logp, scale }
}

/// The settings that need no inputs.
pub(super) fn read_common(config: &Fields, settings: &mut Grpo) {
    let path = &config.path;
    let loss = config.text("loss_type").unwrap_or_else(|| panic!("{path}: no `loss_type`"));
    let name = match loss.split(',').next().unwrap_or_default().trim() {
        "-A*logp" | "gpg" => "reinforce",
        name => name,
    };
    settings.loss = serde_json::from_value(name.into()).unwrap_or_else(|_| panic!("{path}: unknown loss {loss:?}"));
    if let Some((_, aggregation)) = loss.split_once(',') {
        assert_eq!(aggregation.trim(), "token mean", "{path}: unknown aggregation");
    }
    settings.epsilon = config.number("eps_low").unwrap_or(settings.epsilon);
    settings.epsilon_high = config.number("eps_high");
    match config.text("clamp") {
        None => {}
        Some("[1-eps_low, 1+eps_high]") => {
            settings.cispo_min = Some(1.0 - settings.epsilon);
            settings.epsilon_high = settings.epsilon_high.map(|high| 1.0 + high);
        }
        Some(other) => panic!("{path}: unknown clamp {other:?}"),
    }
    if let Some(level) = config.find(&["level"]) {
        settings.importance_sampling_level =
            serde_json::from_value(level.clone()).unwrap_or_else(|e| panic!("{path}: {e}"));
    }
    settings.delta = config.number("delta");
    settings.dual_clip = config.number("dual_clip_c");
    settings.beta = config.number("beta").unwrap_or(0.0);
    if let Some(kl) = config.text("kl") {
        // `k3`, or `k3 in loss, plain`.
        let mut words = kl.split([' ', ',']).filter(|w| !w.is_empty());
        settings.kl = kl_named(path, words.next().unwrap_or_default());
        for word in words {
            match word {
                "in" | "loss" | "plain" => {}
                _ => panic!("{path}: unknown word {word:?} in kl"),
            }
        }
    }
    if let Some(corrected) = config.find(&["kl_is"]) {
        settings.use_bias_correction_kl = corrected.as_bool().expect("`kl_is` is true or false");
    }
    if let Some(mode) = config.find(&["mode"]) {
        settings.mismatch = Some(Mismatch {
            mode: serde_json::from_value(mode.clone()).unwrap_or_else(|e| panic!("{path}: {e}")),
            c_min: config.number("C_min").filter(|c| !c.is_nan()),
            c_max: config.number("C_max").filter(|c| !c.is_nan()).unwrap_or(f64::MAX),
            normalize: false,
        });
    }
    settings.off_policy_mask_threshold = config.number("opsm");
    settings.top_entropy_quantile = config.number("top_rho").unwrap_or(1.0);
    settings.entropy_coef = config.number("entropy_coef").unwrap_or(0.0);
}

fn kl_named(path: &str, name: &str) -> Estimator {
    serde_json::from_value(name.into()).unwrap_or_else(|_| panic!("{path}: unknown estimator {name:?}"))
}

fn run(setting: &Setting) -> Outcome {
    let logp = Var::from_tensor(&setting.logp.tensor().unwrap()).unwrap();
    let leaves = Leaves { logp: logp.as_tensor().clone(), entropy: None, divergence: None, score: None };
    let loss = setting.settings.build().unwrap().loss(&setting.batch, &leaves).unwrap();
    let value = (loss.value * setting.scale).unwrap();
    let gradient = match value.backward().unwrap().get(&logp) {
        Some(gradient) => Table::from_tensor(gradient).unwrap(),
        None => Table::zeros(setting.logp.rows(), setting.logp.cols()),
    };
    Outcome { loss: value.to_scalar().unwrap(), gradient, metrics: loss.metrics }
}

fn compare(path: &str, expected: &Fields, setting: &Setting) {
    let Outcome { loss, gradient, metrics } = run(setting);
    let batch = &setting.batch;
    close(&format!("{path}.loss"), loss, expected.number("loss").expect("a loss"), TOLERANCE);
    for key in expected.keys() {
        let path = format!("{path}.{key}");
        // A share that was not measured is one over nothing: no token, or a loss that does not clip.
        let metric = |name| metrics.get(name).unwrap_or(0.0);
        match key.as_str() {
            "loss" => {}
            "grad_logp" => {
                all_close(&path, gradient.data(), table(expected.get(&key)).data(), TOLERANCE);
            }
            "clip_low_frac" => close(&path, metric("clip_fraction_low"), number(expected.get(&key)), TOLERANCE),
            "clip_high_frac" => close(&path, metric("clip_fraction_high"), number(expected.get(&key)), TOLERANCE),
            "kl_mean" => close(&path, metric("kl"), number(expected.get(&key)), TOLERANCE),
            "weights" => {
                let old = batch.old_logp.as_ref().unwrap_or(&setting.logp);
                let sampling = batch.sampling_logp.as_ref().expect("sampling log-probs");
                let difference = mismatch::log_difference(old, sampling, &batch.mask);
                let mismatch = setting.settings.mismatch.as_ref().expect("a mode");
                let found = mismatch.weights(&difference, &batch.mask);
                for (i, wanted) in rows(expected.get(&key)).iter().enumerate() {
                    // Sequence weights stand once a row.
                    all_close(&format!("{path}[{i}]"), &found.row(i)[..wanted.len()], wanted, TOLERANCE);
                }
            }
            "mean_kl_per_sequence" => {
                let behaviour = batch.sampling_logp.as_ref().or(batch.old_logp.as_ref()).expect("a behaviour");
                let found = mask::row_drift(behaviour, &setting.logp, &batch.mask);
                all_close(&path, &found, &vector(expected.get(&key)), TOLERANCE);
            }
            "token_keep" => {
                let share = setting.settings.top_entropy_quantile;
                let found = mask::top_entropy(batch.entropy.as_ref().expect("entropies"), &batch.mask, share);
                all_close(&path, found.data(), table(expected.get(&key)).data(), TOLERANCE);
            }
            _ => panic!("{path}: unknown key"),
        }
        expected.get(&key);
    }
}

fn kl_estimator(path: &str, case: &Case, name: &str, expected: &Fields) {
    let logp = Var::from_tensor(&table(case.inputs.find(&LOGP).expect("log-probs")).tensor().unwrap()).unwrap();
    let reference = table(case.inputs.find(&REF).expect("reference log-probs")).tensor().unwrap();
    let mask = table(case.inputs.find(&MASK).expect("a mask"));
    let tokens = kl_named(path, name).tokens(&(logp.as_tensor() - reference).unwrap()).unwrap();
    let sum = (&tokens * mask.tensor().unwrap()).unwrap().sum_all().unwrap();
    let gradient = Table::from_tensor(sum.backward().unwrap().get(&logp).unwrap()).unwrap();
    let valid = |t: &Table| t.zip(&mask, |x, m| if m == 0.0 { 0.0 } else { x });
    let found = valid(&Table::from_tensor(&tokens).unwrap());
    all_close(path, found.data(), valid(&table(expected.get("kl_tokens"))).data(), TOLERANCE);
    all_close(path, gradient.data(), table(expected.get("grad_logp_of_masked_sum")).data(), TOLERANCE);
}
