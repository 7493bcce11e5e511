//! Whether each value of the sections that stand in this folder is possible.

use super::load::Finding;
use super::{Config, RolloutConfig};

/// Every value that can never work.
pub(super) fn check(config: &Config) -> Vec<Finding> {
    let mut values = Values(Vec::new());
    run(config, &mut values);
    model(config, &mut values);
    rollout(config, &mut values);
    optim(config, &mut values);
    eval(config, &mut values);
    values.0
}

fn eval(config: &Config, values: &mut Values) {
    let eval = &config.eval;
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
    let Some(lora) = &config.model.lora else { return };
    values.require("model.lora.alpha", lora.alpha, lora.alpha > 0.0, "the adapter would do nothing: set it above 0");
    let is_share = (0.0..1.0).contains(&lora.dropout);
    values.require("model.lora.dropout", lora.dropout, is_share, "a share lies from 0 to below 1");
    if lora.targets.is_empty() {
        values.refuse("model.lora.targets", "`model.lora.targets` is empty, so nothing would be trained: name at least one projection, such as `q_proj`");
    }
    for (i, target) in lora.targets.iter().enumerate() {
        if lora.targets[..i].contains(target) {
            values.refuse("model.lora.targets", &format!("`model.lora.targets` names `{target}` twice"));
        }
    }
}

fn rollout(config: &Config, values: &mut Values) {
    let Some(RolloutConfig::Discrete(discrete)) = &config.rollout else { return };
    let at = |key: &str| format!("rollout.discrete.{key}");
    let rule = "log-probs divide by it: set it above 0";
    values.require(&at("temperature"), discrete.temperature, discrete.temperature > 0.0, rule);
    let keeps_some = discrete.top_p > 0.0 && discrete.top_p <= 1.0;
    values.require(&at("top_p"), discrete.top_p, keeps_some, "it lies above 0 and up to 1, which keeps all tokens");
    let is_share = (0.0..1.0).contains(&discrete.min_p);
    values.require(&at("min_p"), discrete.min_p, is_share, "it lies from 0, which keeps all tokens, to below 1");
    if discrete.stop.iter().any(String::is_empty) {
        values.refuse(
            &at("stop"),
            "`rollout.discrete.stop` holds an empty text, which every completion contains: remove it",
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
}
