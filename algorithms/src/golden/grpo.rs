//! `grpo.json`: advantage estimators, the losses at the leaves, and the way from logits to the loss.

use candle_core::Var;
use serde_json::Value;

use super::{Case, Fields, all_close, cases, close, number, rows, table, vector};
use crate::advantage::mix::Mix;
use crate::advantage::{AdvantageConfig, batch, group, none, nsr, opo, psr, rfpp, rfpp_baseline, rloo, w_reinforce};
use crate::batch::{Advantages, Finish, Verdict};
use crate::objective::Leaves;
use crate::objective::grpo::aggregate::{Aggregation, EmptyRows};
use crate::objective::grpo::kl::Estimator;
use crate::objective::grpo::mismatch::{self, Mismatch};
use crate::objective::grpo::settings::Vespo;
use crate::objective::grpo::{Grpo, mask};
use crate::row::token::TokenLogp;
use crate::row::{RowFunction, RowGrad};
use crate::{Batch, Metrics, Table};

const TOLERANCE: f64 = 1e-9;

const LOGP: [&str; 4] = ["logp", "logps", "logp_new", "logits_new"];
const OLD: [&str; 4] = ["old_logp", "logp_old", "old_logprobs", "anchor_logps"];
const REF: [&str; 3] = ["ref_logp", "logp_ref", "ref_logps"];
const MASK: [&str; 2] = ["mask", "response_mask"];
const ENTROPY: [&str; 2] = ["entropies", "entropy"];

#[test]
fn golden_grpo() {
    for case in cases("grpo") {
        if case.inputs.has("logits") {
            logits_to_loss(&case);
        } else if LOGP.iter().any(|name| case.inputs.has(name)) {
            losses(&case);
        } else if case.inputs.keys().iter().any(|key| key.starts_with("rewards")) {
            advantages(&case);
        } else {
            panic!("{}: no known kind of case has the inputs {:?}", case.path, case.inputs.keys());
        }
        case.inputs.finish();
        case.config.finish();
        case.expected.finish();
    }
}

// ---- advantages ----

/// Rewards of a batch as [P,G] rows, or flat with a column that names groups.
struct Rewards {
    values: Vec<f64>,
    groups: Vec<usize>,
    /// Entries a row of the file.
    shape: Vec<usize>,
}

impl Rewards {
    fn nested(value: &Value) -> Self {
        let rows = rows(value);
        let groups = rows.iter().enumerate().flat_map(|(p, row)| vec![p; row.len()]).collect();
        Self { shape: rows.iter().map(Vec::len).collect(), values: rows.concat(), groups }
    }

    fn read(value: &Value, inputs: &Fields) -> Self {
        if value.get(0).is_some_and(Value::is_array) {
            return Self::nested(value);
        }
        let values = vector(value);
        let groups = match inputs.find(&["group_ids", "prompt_ids", "groups", "group_size"]) {
            Some(Value::Number(size)) => {
                let size = size.as_u64().expect("a size is a whole number") as usize;
                (0..values.len()).map(|i| i / size).collect()
            }
            Some(ids) => vector(ids).into_iter().map(|id| id as usize).collect(),
            None => vec![0; values.len()],
        };
        Self { shape: vec![values.len()], values, groups }
    }

    /// A batch with these rewards, completions of these lengths, and the verdict that they stand for.
    fn batch(&self, lengths: Option<&Value>) -> Batch {
        let lengths = match lengths {
            Some(value) if value.get(0).is_some_and(Value::is_array) => rows(value).concat(),
            Some(value) => vector(value),
            None => vec![1.0; self.values.len()],
        };
        let mask: Vec<Vec<f64>> = lengths.iter().map(|&n| vec![1.0; n as usize]).collect();
        let mut batch = Batch::new(Table::ragged(&mask, 0.0), self.groups.clone()).unwrap();
        batch.scores.names = vec!["reward".into()];
        batch.scores.values = self.values.iter().map(|&r| vec![(!r.is_nan()).then_some(r)]).collect();
        batch.verdict = self
            .values
            .iter()
            .map(|r| match r {
                r if r.is_nan() => Verdict::Missing,
                r if *r > 0.0 => Verdict::Right,
                _ => Verdict::Wrong,
            })
            .collect();
        batch
    }
}

/// The estimator that a variant names, with the numbers of the config.
fn estimator(path: &str, variant: &str, config: &Fields) -> (AdvantageConfig, bool) {
    let mut name = variant.to_owned();
    let mut take = |suffix: &str| match name.strip_suffix(suffix) {
        Some(rest) => {
            name = rest.to_owned();
            true
        }
        None => false,
    };
    let penalised = take("_kl_in_reward");
    let population = take("_population_std") || config.text("std").is_some_and(|s| s.starts_with("population"));
    let eps = config.number("eps");
    let eps_verl = config.number("eps_verl");
    let eps = if take("_verl_eps") { eps_verl } else { eps }.unwrap_or(1e-4);
    let mut lambda = config.number("w_reinforce_lambda").unwrap_or(0.1);
    if let Some((rest, value)) = name.clone().split_once("_lambda_") {
        (name, lambda) = (rest.to_owned(), value.parse().expect("a number after lambda_"));
    }
    let beta = config.number("beta").unwrap_or(0.0);
    let kl_in_reward = if penalised { beta } else { 0.0 };
    let std = if population { group::Deviation::Population } else { group::Deviation::Sample };
    let (weights, mix) = (Default::default(), Mix::SumThenNormalize);
    let config = match name.as_str() {
        "group" | "group_of_one" => {
            AdvantageConfig::Group(group::Group { weights, mix, kl_in_reward, eps, std, clip: None })
        }
        "batch" => AdvantageConfig::Batch(batch::BatchScaled { weights, mix, kl_in_reward, eps }),
        "none" => AdvantageConfig::None(none::Unscaled { weights, mix, kl_in_reward }),
        "rloo" | "rloo_norm" => {
            let normalize = name == "rloo_norm";
            AdvantageConfig::Rloo(rloo::Rloo { weights, mix, kl_in_reward, normalize, eps })
        }
        "opo" => AdvantageConfig::Opo(opo::Opo { weights, mix, kl_in_reward }),
        "rfpp" => AdvantageConfig::Rfpp(rfpp::Rfpp { weights, mix, kl_in_reward }),
        "rfpp_baseline" => AdvantageConfig::RfppBaseline(rfpp_baseline::RfppBaseline { weights, mix, kl_in_reward }),
        "psr" => AdvantageConfig::Psr(psr::Psr {}),
        "nsr" => AdvantageConfig::Nsr(nsr::Nsr {}),
        "w_reinforce" => AdvantageConfig::WReinforce(w_reinforce::WReinforce { lambda }),
        _ => panic!("{path}: unknown variant `{variant}`"),
    };
    (config, penalised)
}

/// Rewards of groups of one, which the file gives in words: `group_of_one: rewards [[1],[0]], ...`.
fn rewards_in_note(case: &Case) -> Value {
    let note = case.config.text("note").unwrap_or_default();
    let text = note.split("group_of_one: rewards ").nth(1).and_then(|rest| rest.split_once("]]"));
    let (list, _) = text.unwrap_or_else(|| panic!("{}: no rewards for `group_of_one`", case.path));
    serde_json::from_str(&format!("{list}]]")).expect("rewards in the note are rows of numbers")
}

fn advantages(case: &Case) {
    let main = case.inputs.find(&["rewards", "rewards_with_unscorable"]);
    let lengths = case.inputs.find(&["completion_lengths", "lengths"]);
    let penalised = case.inputs.find(&["rewards_for_kl"]);
    let sequence_kl = case.inputs.find(&["sequence_kl_k1"]);
    for variant in case.expected.keys() {
        let expected = case.expected.child(&variant);
        let path = format!("{}.{variant}", case.path);
        if expected.has("penalty") {
            // The value of a reward, `reward.overlong`: another crate. The inputs must be there.
            case.inputs.get("overlong_lengths");
            for key in ["L_max", "L_cache", "penalty_factor"] {
                assert!(case.config.number(key).is_some(), "{path}: `{key}` is missing");
            }
            expected.get("penalty");
            expected.finish();
            continue;
        }
        let (config, is_penalised) = estimator(&path, &variant, &case.config);
        let (rewards, mut batch) = if is_penalised {
            let rewards = Rewards::read(penalised.expect("`rewards_for_kl`"), &case.inputs);
            let kl = Rewards::read(sequence_kl.expect("`sequence_kl_k1`"), &case.inputs).values;
            let mut batch = rewards.batch(None);
            batch.ref_logp = Some(Table::new(kl.len(), 1, kl.iter().map(|k| -1.0 - k).collect()).unwrap());
            batch.old_logp = Some(Table::filled(kl.len(), 1, -1.0));
            (rewards, batch)
        } else if variant == "group_of_one" {
            let rewards = Rewards::nested(&rewards_in_note(case));
            let batch = rewards.batch(None);
            (rewards, batch)
        } else {
            let rewards = Rewards::read(main.expect("`rewards`"), &case.inputs);
            let batch = rewards.batch(lengths);
            (rewards, batch)
        };
        config.build().unwrap().apply(&mut batch).unwrap();
        let wanted = Rewards::read(expected.get("advantages"), &case.inputs);
        assert_eq!(wanted.shape, rewards.shape, "{path}: shape");
        let found = batch.token_advantage("golden").unwrap();
        let found: Vec<f64> = (0..found.rows()).map(|i| found.row(i).first().copied().unwrap_or(0.0)).collect();
        all_close(&path, &found, &wanted.values, TOLERANCE);
        expected.finish();
    }
}

// ---- losses at the leaves ----

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

fn losses(case: &Case) {
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
fn read_common(config: &Fields, settings: &mut Grpo) {
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

// ---- from logits to the loss ----

fn logits_to_loss(case: &Case) {
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
