//! `dpo.json`: the losses on pairs, those without a reference, KTO and SFT.
//!
//! Packing, the implicit prompt and the collation belong to the crate that holds data and tokens,
//! which reads the same file.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor, Var};
use serde_json::Value;

use super::{Case, Fields, all_close, cases, close, table, vector};
use crate::batch::Role;
use crate::objective::cpo::{Cpo, CpoLoss};
use crate::objective::dpo::loss::wpo_weights;
use crate::objective::dpo::{Dpo, DpoLoss, Terms};
use crate::objective::kto::{Kto, KtoLoss, Samples};
use crate::objective::orpo::log_odds;
use crate::objective::pairs::Pairs;
use crate::objective::scalar::log_sigmoid;
use crate::objective::sft::{Sft, SftLoss};
use crate::objective::simpo::Simpo;
use crate::objective::{Leaves, Objective};
use crate::{Batch, Metrics, Table};

const TOLERANCE: f64 = 1e-9;

#[test]
fn golden_dpo() {
    for case in cases("dpo") {
        let has = |key| case.inputs.has(key);
        if has("pack_input_ids") {
            continue;
        } else if has("kl_logps") {
            single_answers(&case);
        } else if has("chosen_full_logps") {
            without_reference(&case);
        } else if has("chosen_logps") && case.config.has("loss_types") {
            mixtures(&case);
        } else if has("chosen_logps") {
            with_reference(&case);
        } else {
            panic!("{}: no known kind of case has the inputs {:?}", case.path, case.inputs.keys());
        }
        case.inputs.finish();
        case.config.finish();
        case.expected.finish();
    }
}

/// Pairs of a case as a batch: rows alternate between chosen and rejected.
pub(super) struct Input {
    pub(super) batch: Batch,
    pub(super) logp: Var,
}

/// Two tables row by row: chosen 0, rejected 0, chosen 1, ..
fn interleave(chosen: &Table, rejected: &Table) -> Table {
    let rows: Vec<&[f64]> = (0..chosen.rows()).flat_map(|i| [chosen.row(i), rejected.row(i)]).collect();
    Table::ragged(&rows, 0.0)
}

impl Input {
    pub(super) fn read(inputs: &Fields) -> Self {
        let both = |chosen: &str, rejected: &str| interleave(&table(inputs.get(chosen)), &table(inputs.get(rejected)));
        let mask = both("chosen_mask", "rejected_mask");
        let n = mask.rows();
        let mut batch = Batch::new(mask, (0..n).map(|i| i / 2).collect()).unwrap();
        batch.role = (0..n).map(|i| if i % 2 == 0 { Role::Chosen } else { Role::Rejected }).collect();
        batch.pair = (0..n).map(|i| Some(i / 2)).collect();
        if inputs.has("ref_chosen_logps") {
            batch.ref_logp = Some(both("ref_chosen_logps", "ref_rejected_logps"));
        }
        if inputs.has("chosen_log_sum_sq_probs") {
            batch.log_sum_sq = Some(both("chosen_log_sum_sq_probs", "rejected_log_sum_sq_probs"));
        }
        let logp = Var::from_tensor(&both("chosen_logps", "rejected_logps").tensor().unwrap()).unwrap();
        Self { batch, logp }
    }

    pub(super) fn leaves(&self) -> Leaves {
        Leaves { logp: self.logp.as_tensor().clone(), entropy: None, divergence: None, score: None }
    }

    pub(super) fn pairs(&self) -> Pairs {
        Pairs::read("golden", &self.batch, &self.leaves()).unwrap()
    }

    /// Gradients at chosen and rejected log-probs.
    pub(super) fn check_gradients(&self, path: &str, value: &Tensor, expected: &Fields) {
        let (chosen, rejected) = (table(expected.get("grad_chosen_logps")), table(expected.get("grad_rejected_logps")));
        let wanted = interleave(&chosen, &rejected);
        let found = gradient(value, &self.logp);
        assert_eq!((found.rows(), found.cols()), (wanted.rows(), wanted.cols()), "{path}: shape of the gradient");
        all_close(&format!("{path}.gradient"), found.data(), wanted.data(), TOLERANCE);
    }
}

/// The gradient of a scalar at a leaf; zero where it does not depend on it.
pub(super) fn gradient(value: &Tensor, leaf: &Var) -> Table {
    let (rows, cols) = leaf.dims2().unwrap();
    match value.backward().unwrap().get(leaf) {
        Some(gradient) => Table::from_tensor(&gradient.contiguous().unwrap()).unwrap(),
        None => Table::zeros(rows, cols),
    }
}

pub(super) fn scalar(value: &Tensor) -> f64 {
    value.to_scalar().unwrap()
}

fn loss_named(path: &str, name: &str) -> DpoLoss {
    serde_json::from_value(name.into()).unwrap_or_else(|_| panic!("{path}: unknown loss `{name}`"))
}

// ---- losses with a reference ----

/// The settings that all configurations of a case share.
fn common(config: &Fields) -> Dpo {
    let mut settings = Dpo { beta: config.number("beta").expect("beta"), ..Dpo::default() };
    settings.label_smoothing = config.number("label_smoothing").unwrap_or(0.0);
    settings.use_weighting = config.find(&["use_weighting"]).is_some_and(|v| v.as_bool().expect("true or false"));
    settings.discopop_tau = config.number("discopop_tau").unwrap_or(settings.discopop_tau);
    settings.ld_alpha = config.find(&["ld_alpha"]).filter(|v| v.is_number()).map(super::number);
    if let Some(name) = config.text("f_divergence_type").filter(|name| !name.starts_with("per ")) {
        settings.f_divergence = serde_json::from_value(name.into()).unwrap_or_else(|e| panic!("{}: {e}", config.path));
    }
    settings.f_alpha = config.number("f_alpha_divergence_coef").unwrap_or(settings.f_alpha);
    if let Some(free) = config.find(&["reference_free"]) {
        settings.reference_weight = if free.as_bool().expect("true or false") { 0.0 } else { 1.0 };
    }
    settings
}

/// Settings of a configuration that the key of `expected` names, such as `ld_alpha=0.4` or `alpha_divergence:0.5`.
fn configured(path: &str, key: &str, base: &Dpo) -> Option<Dpo> {
    let mut settings = base.clone();
    if let Some(alpha) = key.strip_prefix("ld_alpha=") {
        settings.ld_alpha = Some(alpha.parse().unwrap_or_else(|_| panic!("{path}.{key}: a number")));
        return Some(settings);
    }
    let (name, alpha) = key.split_once(':')?;
    settings.f_divergence =
        serde_json::from_value(name.into()).unwrap_or_else(|_| panic!("{path}: unknown divergence `{name}`"));
    settings.f_alpha = alpha.parse().unwrap_or_else(|_| panic!("{path}.{key}: a number"));
    Some(settings)
}

fn with_reference(case: &Case) {
    let input = Input::read(&case.inputs);
    let base = common(&case.config);
    let first = case.expected.keys().first().cloned().unwrap_or_default();
    if configured(&case.path, &first, &base).is_none() {
        return losses(&case.path, &case.expected, &input, &base);
    }
    for key in case.expected.keys() {
        let settings =
            configured(&case.path, &key, &base).unwrap_or_else(|| panic!("{}: unknown key {key}", case.path));
        let expected = case.expected.child(&key);
        losses(&format!("{}.{key}", case.path), &expected, &input, &settings);
        expected.finish();
    }
}

/// Every loss that `expected` names, and the metrics.
fn losses(path: &str, expected: &Fields, input: &Input, base: &Dpo) {
    for key in expected.keys() {
        let path = format!("{path}.{key}");
        let fields = expected.child(&key);
        if key == "metrics" {
            metrics(&path, &fields, input, base);
        } else {
            let settings = Dpo { loss: loss_named(&path, &key), ..base.clone() };
            one_loss(&path, &fields, input, &settings);
        }
        fields.finish();
    }
}

fn one_loss(path: &str, expected: &Fields, input: &Input, settings: &Dpo) {
    let pairs = input.pairs();
    let terms = Terms::new(settings, &pairs).unwrap();
    let value = settings.value(&pairs, &terms, &mut Metrics::new()).unwrap();
    close(&format!("{path}.loss"), scalar(&value), expected.number("loss").expect("a loss"), TOLERANCE);
    let per_pair = match settings.loss {
        DpoLoss::Sft => vec![scalar(&value); pairs.len()],
        kind => {
            let mut values = terms.loss(kind, settings).unwrap().to_vec1::<f64>().unwrap();
            if settings.use_weighting {
                values.iter_mut().zip(wpo_weights(&pairs).unwrap()).for_each(|(v, w)| *v *= w);
            }
            values
        }
    };
    all_close(&format!("{path}.per_pair"), &per_pair, &vector(expected.get("per_pair")), TOLERANCE);
    input.check_gradients(path, &value, expected);
    // The whole objective gives the same number.
    let whole = settings.build().unwrap().loss(&input.batch, &input.leaves()).unwrap();
    assert_eq!(scalar(&whole.value), scalar(&value), "{path}: the objective differs from its parts");
}

fn metrics(path: &str, expected: &Fields, input: &Input, settings: &Dpo) {
    let terms = Terms::new(settings, &input.pairs()).unwrap();
    let list = |t: &Tensor| t.to_vec1::<f64>().unwrap();
    let reward = |t: &Tensor| list(&(t * settings.beta).unwrap());
    let expect = |key: &str, found: &[f64]| {
        all_close(&format!("{path}.{key}"), found, &vector(expected.get(key)), TOLERANCE);
    };
    expect("rewards_chosen", &reward(&terms.ratios.0));
    expect("rewards_rejected", &reward(&terms.ratios.1));
    expect("chosen", &list(&terms.chosen));
    expect("rejected", &list(&terms.rejected));
    let loss = settings.loss(&input.batch, &input.leaves()).unwrap();
    for (key, name) in [("rewards_margin_mean", "reward_margin"), ("rewards_accuracy", "reward_accuracy")] {
        let found = loss.metrics.get(name).expect("the metric is reported");
        close(&format!("{path}.{key}"), found, expected.number(key).expect("a number"), TOLERANCE);
    }
}

fn mixtures(case: &Case) {
    let input = Input::read(&case.inputs);
    let base = common(&case.config);
    let names: Vec<String> = serde_json::from_value(case.config.get("loss_types").clone()).expect("names");
    let weights = match case.config.find(&["loss_weights"]) {
        Some(weights) => vector(weights),
        None => vec![1.0; names.len()],
    };
    let kinds: Vec<DpoLoss> = names.iter().map(|name| loss_named(&case.path, name)).collect();
    let mix: BTreeMap<DpoLoss, f64> = kinds.iter().copied().zip(weights.iter().copied()).skip(1).collect();
    for key in case.expected.keys() {
        let reference_weight = match key.as_str() {
            "with_reference" => 1.0,
            "reference_free" => 0.0,
            _ => panic!("{}: unknown key {key}", case.path),
        };
        let settings =
            Dpo { loss: kinds[0], loss_weight: weights[0], mix: mix.clone(), reference_weight, ..base.clone() };
        let (path, expected) = (format!("{}.{key}", case.path), case.expected.child(&key));
        let loss = settings.build().unwrap().loss(&input.batch, &input.leaves()).unwrap();
        close(&path, scalar(&loss.value), expected.number("loss").expect("a loss"), TOLERANCE);
        input.check_gradients(&path, &loss.value, &expected);
        expected.finish();
    }
}

// ---- losses without a reference ----

fn without_reference(case: &Case) {
    let input = Input::read(&case.inputs);
    assert!(case.config.text("per").is_some(), "{}: each configuration has its own settings", case.path);
    let full = Var::from_tensor(&table(case.inputs.get("chosen_full_logps")).tensor().unwrap()).unwrap();
    let full_mask = table(case.inputs.get("chosen_full_mask"));
    for key in case.expected.keys() {
        let (path, expected) = (format!("{}.{key}", case.path), case.expected.child(&key));
        let config = expected.child("config");
        if expected.has("log_odds") {
            odds(&path, &config, &expected, &input, (&full, &full_mask));
        } else {
            contrast(&path, &config, &expected, &input);
        }
        config.finish();
        expected.finish();
    }
}

fn contrast(path: &str, config: &Fields, expected: &Fields, input: &Input) {
    let pairs = input.pairs();
    let beta = config.number("beta").expect("beta");
    let label_smoothing = config.number("label_smoothing").unwrap_or(0.0);
    let nll_weight = config.number("cpo_alpha").unwrap_or(1.0);
    let kind = config.text("loss_type").unwrap_or_else(|| panic!("{path}: no `loss_type`"));
    let (objective, per_pair): (Box<dyn Objective>, Tensor) = if kind == "simpo" {
        let gamma = config.number("simpo_gamma").unwrap_or(0.5);
        let alpha = config.number("alpha").unwrap_or(0.0);
        let settings = Simpo { beta, gamma, label_smoothing, alpha, nll_weight };
        (settings.build().unwrap(), settings.per_pair(&pairs).unwrap().2)
    } else {
        let loss: CpoLoss =
            serde_json::from_value(kind.into()).unwrap_or_else(|_| panic!("{path}: unknown loss `{kind}`"));
        let settings = Cpo { loss, beta, label_smoothing, nll_weight };
        (settings.build().unwrap(), settings.per_pair(&pairs).unwrap())
    };
    let loss = objective.loss(&input.batch, &input.leaves()).unwrap();
    close(&format!("{path}.loss"), scalar(&loss.value), expected.number("loss").expect("a loss"), TOLERANCE);
    let per_pair = per_pair.to_vec1::<f64>().unwrap();
    all_close(&format!("{path}.per_pair"), &per_pair, &vector(expected.get("per_pair")), TOLERANCE);
    let nll = loss.metrics.get("nll").expect("the nll is reported");
    close(&format!("{path}.nll"), nll, expected.number("nll").expect("nll"), TOLERANCE);
    input.check_gradients(path, &loss.value, expected);
}

/// ORPO with the imitation term over a leaf of its own: prompt and chosen tokens.
fn odds(path: &str, config: &Fields, expected: &Fields, input: &Input, (full, full_mask): (&Var, &Table)) {
    let beta = config.number("beta").expect("beta");
    let pairs = input.pairs();
    let odds = log_odds(&pairs).unwrap();
    let ratio = log_sigmoid(&odds).unwrap();
    let is_on = full_mask.tensor().unwrap().ne(0.0).unwrap();
    let full_logp = is_on.where_cond(full.as_tensor(), &full.zeros_like().unwrap()).unwrap();
    let nll = (full_logp.sum_all().unwrap() / -full_mask.sum()).unwrap();
    let value = (&nll - (pairs.mean(&ratio).unwrap() * beta).unwrap()).unwrap();
    close(&format!("{path}.loss"), scalar(&value), expected.number("loss").expect("a loss"), TOLERANCE);
    close(&format!("{path}.nll"), scalar(&nll), expected.number("nll").expect("nll"), TOLERANCE);
    for (key, found) in [("log_odds", &odds), ("log_odds_ratio", &ratio)] {
        all_close(&format!("{path}.{key}"), &found.to_vec1::<f64>().unwrap(), &vector(expected.get(key)), TOLERANCE);
    }
    input.check_gradients(path, &value, expected);
    let wanted = table(expected.get("grad_chosen_full_logps"));
    all_close(&format!("{path}.grad_full"), gradient(&value, full).data(), wanted.data(), TOLERANCE);
    // The objective is this with the chosen rows as the whole of what is learnt.
    let objective = crate::objective::orpo::Orpo { beta, include_prompt: false }.build().unwrap();
    let found = scalar(&objective.loss(&input.batch, &input.leaves()).unwrap().value);
    let own = scalar(&value) - scalar(&nll) + scalar(&pairs.chosen_nll().unwrap());
    close(&format!("{path}: the objective"), found, own, TOLERANCE);
}

// ---- single answers ----

fn single_answers(case: &Case) {
    assert!(case.config.text("per").is_some(), "{}: each configuration has its own settings", case.path);
    let inputs = &case.inputs;
    let all = |name: &str| table(inputs.get(name));
    let answers = Answers {
        logp: all("logps"),
        mask: all("mask"),
        reference: all("ref_logps"),
        kl_logp: all("kl_logps"),
        kl_mask: all("kl_mask"),
        kl_reference: all("ref_kl_logps"),
        label: vector(inputs.get("label")),
    };
    for key in case.expected.keys() {
        let (path, expected) = (format!("{}.{key}", case.path), case.expected.child(&key));
        let config = expected.child("config");
        if expected.has("z0") {
            answers.changed(&config).kto(&path, &config, &expected);
        } else {
            answers.sft(&path, &config, &expected);
        }
        config.finish();
        expected.finish();
    }
}

#[derive(Clone)]
struct Answers {
    logp: Table,
    mask: Table,
    reference: Table,
    kl_logp: Table,
    kl_mask: Table,
    kl_reference: Table,
    label: Vec<f64>,
}

impl Answers {
    /// The inputs as a configuration's note changes them.
    fn changed(&self, config: &Fields) -> Self {
        let mut changed = self.clone();
        let note = config.find(&["note"]).and_then(Value::as_str).unwrap_or_default();
        if let Some(rest) = note.split("ref_kl_logps replaced by kl_logps+").nth(1) {
            let digits: String = rest.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
            let by: f64 = digits.parse().expect("a number in the note");
            changed.kl_reference = self.kl_logp.zip(&self.kl_mask, |l, m| l + by * m);
        }
        if note.contains("label replaced by all ones") {
            changed.label.fill(1.0);
        }
        changed
    }

    fn kto(&self, path: &str, config: &Fields, expected: &Fields) {
        let loss = config.text("loss_type").unwrap_or_else(|| panic!("{path}: no `loss_type`"));
        let settings = Kto {
            loss: serde_json::from_value(loss.into()).unwrap_or_else(|_| panic!("{path}: unknown loss `{loss}`")),
            beta: config.number("beta").expect("beta"),
            desirable_weight: config.number("desirable_weight").unwrap_or(1.0),
            undesirable_weight: config.number("undesirable_weight").unwrap_or(1.0),
        };
        let n = self.logp.rows();
        let mut batch = Batch::new(interleave(&self.mask, &self.kl_mask), (0..2 * n).map(|i| i / 2).collect()).unwrap();
        for i in 0..n {
            batch.role[2 * i] = if self.label[i] > 0.0 { Role::Desirable } else { Role::Undesirable };
            batch.role[2 * i + 1] = Role::Mismatched;
        }
        batch.ref_logp = Some(interleave(&self.reference, &self.kl_reference));
        let logp = Var::from_tensor(&interleave(&self.logp, &self.kl_logp).tensor().unwrap()).unwrap();
        let leaves = Leaves { logp: logp.as_tensor().clone(), entropy: None, divergence: None, score: None };
        let samples = Samples::new(&settings, &batch, &leaves).unwrap();
        let per_sample = samples.per_sample.to_vec1::<f64>().unwrap();
        all_close(&format!("{path}.per_sample"), &per_sample, &vector(expected.get("per_sample")), TOLERANCE);
        close(&format!("{path}.z0"), samples.shift, expected.number("z0").expect("z0"), TOLERANCE);
        let value = settings.build().unwrap().loss(&batch, &leaves).unwrap().value;
        close(&format!("{path}.loss"), scalar(&value), expected.number("loss").expect("a loss"), TOLERANCE);
        let found = gradient(&value, &logp);
        let wanted = interleave(&table(expected.get("grad_logps")), &Table::zeros(n, self.logp.cols()));
        all_close(&format!("{path}.grad_logps"), found.data(), wanted.data(), TOLERANCE);
        assert!(settings.loss == KtoLoss::Kto || samples.shift == 0.0);
    }

    fn sft(&self, path: &str, config: &Fields, expected: &Fields) {
        let loss = config.text("loss_type").unwrap_or_else(|| panic!("{path}: no `loss_type`"));
        let loss: SftLoss =
            serde_json::from_value(loss.into()).unwrap_or_else(|_| panic!("{path}: unknown loss `{loss}`"));
        let mut batch = Batch::new(self.mask.clone(), (0..self.mask.rows()).collect()).unwrap();
        let mut totals = batch.own_totals();
        if let Some(tokens) = config.number("num_items_in_batch") {
            totals.tokens = tokens as usize;
        }
        batch.totals = Some(totals);
        let logp = Var::from_tensor(&self.logp.tensor().unwrap()).unwrap();
        let leaves = Leaves { logp: logp.as_tensor().clone(), entropy: None, divergence: None, score: None };
        let value = Sft { loss, ..Sft::default() }.build().unwrap().loss(&batch, &leaves).unwrap().value;
        close(&format!("{path}.loss"), scalar(&value), expected.number("loss").expect("a loss"), TOLERANCE);
        let wanted = table(expected.get("grad_logps"));
        all_close(&format!("{path}.grad_logps"), gradient(&value, &logp).data(), wanted.data(), TOLERANCE);
    }
}

/// [B] as a leaf.
pub(super) fn leaf(values: &[f64]) -> Var {
    Var::new(values, &Device::Cpu).unwrap()
}
