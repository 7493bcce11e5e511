//! Whether each value of the sections that stand in this folder is possible.

use super::load::{Finding, nearest};
use super::{Config, Device, DiscreteConfig, Dtype, EvalConfig, RolloutConfig, Schedule, SoftConfig, TrainConfig};
use crate::model::lora::TARGETS;

/// Every value that can never work.
pub(super) fn check(config: &Config) -> Vec<Finding> {
    let mut values = Values(Vec::new());
    run(config, &mut values);
    model(config, &mut values);
    rollout(config, &mut values);
    optim(config, &mut values);
    regenerate(config, &mut values);
    eval(&config.eval, &mut values);
    values.0
}

/// The first reason why a test cannot work as it is set.
pub(super) fn eval_refusal(config: &EvalConfig) -> Option<String> {
    let mut values = Values(Vec::new());
    eval(config, &mut values);
    values.0.into_iter().next().map(|finding| finding.message)
}

fn eval(eval: &EvalConfig, values: &mut Values) {
    values.require("eval.temperature", eval.temperature, eval.temperature >= 0.0, "it is 0 or above");
    let keeps_some = eval.top_p > 0.0 && eval.top_p <= 1.0;
    values.require("eval.top_p", eval.top_p, keeps_some, "it lies above 0 and up to 1, which keeps all tokens");
    let is_share = (0.0..1.0).contains(&eval.min_p);
    values.require("eval.min_p", eval.min_p, is_share, "it lies from 0, which keeps all tokens, to below 1");
    if eval.stop.iter().any(String::is_empty) {
        values.refuse("eval.stop", "`eval.stop` holds an empty text, which every completion contains: remove it");
    }
    let wordings = candlewick_eval::benchmark::WORDINGS.len();
    if !(1..=wordings).contains(&eval.wordings) {
        values.refuse(
            "eval.wordings",
            &format!("`eval.wordings` cannot be {}: there are 1 to {wordings}", eval.wordings),
        );
    }
    if eval.samples == 0 {
        values.refuse("eval.samples", "`eval.samples` cannot be 0: each problem is answered at least once");
    }
    if let Some(Err(error)) = eval.judge.as_ref().map(|judge| judge.build()) {
        let message = crate::eval::judge::in_section(&error, "eval.judge");
        let key = message.split('`').nth(1).unwrap_or("eval.judge").to_owned();
        values.refuse(&key, &message);
    }
}

struct Values(Vec<Finding>);

impl Values {
    /// Refuses a number that is not finite or not what its rule says.
    fn require(&mut self, path: &str, value: f64, holds: bool, rule: &str) {
        if !(holds && value.is_finite()) {
            self.refuse(path, &format!("`{path}` cannot be {value}: {rule}"));
        }
    }

    fn refuse(&mut self, path: &str, message: &str) {
        self.0.push(Finding { is_key: false, ..Finding::at(path, message) });
    }
}

fn run(config: &Config, values: &mut Values) {
    let name = &config.run.name;
    if name.contains(['/', '\\']) || name == "." || name == ".." {
        values.refuse(
            "run.name",
            &format!(
                "`run.name` is the name of a folder, not a path like `{name}`: set `run.output` to choose where it lies"
            ),
        );
    }
}

fn model(config: &Config, values: &mut Values) {
    if config.model.path.is_empty() {
        values.refuse("model.path", "`model.path` is empty: name a folder with a checkpoint, or one on the Hub");
    }
    if matches!(config.model.device, Device::Cuda(_)) && !cfg!(feature = "cuda") {
        let fix = "write `cpu` or `auto`, or build with `--features cuda`";
        values.refuse(
            "model.device",
            &format!("`model.device` = `{}` needs a build for GPUs: {fix}", config.model.device),
        );
    }
    if let Some(reference) = &config.model.reference {
        let alpha = reference.mixup_alpha;
        let rule = "a share lies above 0 and up to 1";
        values.require("model.reference.mixup_alpha", alpha, alpha > 0.0 && alpha <= 1.0, rule);
    }
    let Some(lora) = &config.model.lora else { return };
    values.require("model.lora.alpha", lora.alpha, lora.alpha > 0.0, "the adapter would do nothing: set it above 0");
    let is_share = (0.0..1.0).contains(&lora.dropout);
    values.require("model.lora.dropout", lora.dropout, is_share, "a share lies from 0 to below 1");
    if lora.targets.is_empty() {
        values.refuse("model.lora.targets", "`model.lora.targets` is empty, so nothing would be trained: name at least one projection, such as `q_proj`");
    }
    for (i, target) in lora.targets.iter().enumerate() {
        if !TARGETS.contains(&target.as_str()) {
            let hint = nearest(target, &TARGETS).map_or(String::new(), |near| format!("did you mean `{near}`? "));
            let choices = TARGETS.join(", ");
            values.refuse(
                "model.lora.targets",
                &format!("`model.lora.targets` names `{target}`: {hint}the choices are {choices}"),
            );
        }
        if lora.targets[..i].contains(target) {
            values.refuse("model.lora.targets", &format!("`model.lora.targets` names `{target}` twice"));
        }
    }
}

fn rollout(config: &Config, values: &mut Values) {
    match &config.rollout {
        Some(RolloutConfig::Discrete(discrete)) => tokens(discrete, "rollout.discrete", values),
        Some(RolloutConfig::Soft(config)) => {
            soft(config, "rollout.soft", values);
            let rule = "its density divides by it: set it above 0";
            values.require("rollout.soft.temperature", config.temperature, config.temperature > 0.0, rule);
            let answer = config.answer.temperature;
            values.require(
                "rollout.soft.answer.temperature",
                answer,
                answer > 0.0,
                "log-probs divide by it: set it above 0",
            );
        }
        None => {}
    }
    if let Some(config) = &config.eval.soft {
        soft(config, "eval.soft", values);
    }
}

/// Answers that pairs are made of differ, or nothing can be told of them.
fn regenerate(config: &Config, values: &mut Values) {
    let Some(TrainConfig::Offline(train)) = &config.train else { return };
    let Some(settings) = &train.regenerate else { return };
    let section = "train.offline.regenerate";
    let at = |key: &str| format!("{section}.{key}");
    let temperature = settings.temperature;
    let rule = "at 0 all answers to a prompt are the same: set it above 0, such as 0.8";
    values.require(&at("temperature"), temperature, temperature > 0.0, rule);
    values.require(&at("min_margin"), settings.min_margin, settings.min_margin >= 0.0, "it is 0 or above");
    for (name, &weight) in &settings.weights {
        values.require(&at(&format!("weights.{name}")), weight, true, "a weight is a number");
    }
    answer(&settings.sampling(), section, values);
}

/// The first reason why soft thinking cannot work as it is set.
pub(super) fn soft_refusal(config: &SoftConfig) -> Option<String> {
    let mut values = Values(Vec::new());
    soft(config, "soft", &mut values);
    values.0.into_iter().next().map(|finding| finding.message)
}

fn soft(soft: &SoftConfig, section: &str, values: &mut Values) {
    let at = |key: &str| format!("{section}.{key}");
    values.require(&at("temperature"), soft.temperature, soft.temperature >= 0.0, "it is 0 or above");
    let keeps_some = soft.top_p > 0.0 && soft.top_p <= 1.0;
    values.require(&at("top_p"), soft.top_p, keeps_some, "it lies above 0 and up to 1, which keeps all tokens");
    let is_share = (0.0..1.0).contains(&soft.min_p);
    values.require(&at("min_p"), soft.min_p, is_share, "it lies from 0, which keeps all tokens, to below 1");
    values.require(&at("tau"), soft.tau, soft.tau > 0.0, "weights are softmax(scores / tau): set it above 0");
    let scale = soft.noise_scale;
    values.require(&at("noise_scale"), scale, scale > 0.0, "without noise nothing is random: set it above 0");
    values.require(&at("prob_eps"), soft.prob_eps, soft.prob_eps >= 0.0, "it is 0 or a small positive number");
    values.require(&at("concentration"), soft.concentration, soft.concentration > 0.0, "set it above 0");
    let threshold = soft.entropy_threshold;
    values.require(&at("entropy_threshold"), threshold, threshold >= 0.0, "it is 0 (off) or a positive entropy");
    let (low, high) = (soft.noise_min, soft.noise_max);
    if low.is_nan() || high.is_nan() || low >= high {
        values.refuse(
            &at("noise_min"),
            &format!("`{section}.noise_min` = {low} leaves no noise below `noise_max` = {high}: set it lower"),
        );
    }
    if soft.think_end.is_empty() {
        values.refuse(&at("think_end"), &format!("`{section}.think_end` is empty: name the model's end of thinking"));
    }
    if soft.slots == 0 || soft.slots > 64 {
        values.refuse(&at("slots"), &format!("`{section}.slots` cannot be {}: choose from 1 to 64", soft.slots));
    }
    answer(&soft.answer, &at("answer"), values);
}

fn tokens(discrete: &DiscreteConfig, section: &str, values: &mut Values) {
    let rule = "log-probs divide by it: set it above 0";
    values.require(&format!("{section}.temperature"), discrete.temperature, discrete.temperature > 0.0, rule);
    answer(discrete, section, values);
}

/// The same for tokens that nothing is trained on, which may be greedy.
fn answer(discrete: &DiscreteConfig, section: &str, values: &mut Values) {
    let at = |key: &str| format!("{section}.{key}");
    if section.ends_with("answer") {
        values.require(&at("temperature"), discrete.temperature, discrete.temperature >= 0.0, "it is 0 or above");
    }
    let keeps_some = discrete.top_p > 0.0 && discrete.top_p <= 1.0;
    values.require(&at("top_p"), discrete.top_p, keeps_some, "it lies above 0 and up to 1, which keeps all tokens");
    let is_share = (0.0..1.0).contains(&discrete.min_p);
    values.require(&at("min_p"), discrete.min_p, is_share, "it lies from 0, which keeps all tokens, to below 1");
    if discrete.stop.iter().any(String::is_empty) {
        values.refuse(
            &at("stop"),
            &format!("`{section}.stop` holds an empty text, which every completion contains: remove it"),
        );
    }
}

fn optim(config: &Config, values: &mut Values) {
    let optim = &config.optim;
    values.require("optim.learning_rate", optim.learning_rate, optim.learning_rate > 0.0, "set it above 0");
    values.require("optim.weight_decay", optim.weight_decay, optim.weight_decay >= 0.0, "it is 0 or above");
    values.require(
        "optim.max_grad_norm",
        optim.max_grad_norm,
        optim.max_grad_norm >= 0.0,
        "it is above 0, or 0 for no clipping",
    );
    values.require("optim.eps", optim.eps, optim.eps > 0.0, "it keeps a division from 0: set it above 0, such as 1e-8");
    for (path, beta) in [("optim.beta1", optim.beta1), ("optim.beta2", optim.beta2)] {
        values.require(path, beta, (0.0..1.0).contains(&beta), "a decay lies from 0 to below 1");
    }
    let is_share = |x: f64| (0.0..1.0).contains(&x);
    values.require("optim.floor", optim.floor, is_share(optim.floor), "a share lies from 0 to below 1");
    values.require("optim.cooldown", optim.cooldown, optim.cooldown > 0.0 && optim.cooldown <= 1.0, "a share above 0");
    let ratio = optim.lora_plus_ratio;
    values.require(
        "optim.lora_plus_ratio",
        ratio,
        ratio >= 1.0,
        "B learns at least as fast as A: set it to 1 or above",
    );
    if ratio != 1.0 && config.model.lora.is_none() {
        values.refuse("optim.lora_plus_ratio", "nothing reads `optim.lora_plus_ratio`: there is no [model.lora]");
    }
    match (optim.schedule, optim.table.as_slice()) {
        (Schedule::Table, []) => values.refuse(
            "optim.schedule",
            "`optim.schedule` = \"table\" needs multipliers: set `optim.table`, as `candlewick schedule` writes it",
        ),
        (Schedule::Table, table) => {
            for &value in table {
                values.require("optim.table", value, (0.0..=1.0).contains(&value), "multipliers lie from 0 to 1");
            }
        }
        (_, []) => {}
        _ => values.refuse("optim.table", "nothing reads `optim.table`: set `optim.schedule` to \"table\""),
    }
    if let Some(spikes) = &optim.skip_spikes {
        values.require("optim.skip_spikes.sigma", spikes.sigma, spikes.sigma > 0.0, "set it above 0, such as 6");
    }
    if let Some(target) = optim.radius.as_ref().and_then(|r| r.target) {
        values.require("optim.radius.target", target, target > 0.0, "set it above 0; 1 is the theorem's line");
        if config.model.dtype == Dtype::Bf16 {
            values.refuse("optim.radius.target", "`optim.radius.target` needs weights that can hold a scaled step: set `model.dtype` to \"f32\", or measure only");
        }
    }
}
