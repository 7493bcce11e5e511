//! Whether the stages of a config fit together, before any weight is loaded.
//!
//! An objective says what it reads and needs; everything else follows: which stages must be there,
//! which must not, whether a reference model and a verdict are needed. What one value alone can
//! tell is in [`values`].

mod online;
mod regenerate;

use std::path::Path;

use candlewick_algorithms::Needs;
use candlewick_algorithms::advantage::Advantage;
use candlewick_algorithms::credit::Credit;
use candlewick_algorithms::objective::{Objective, ObjectiveConfig, Reads, Rows};
use candlewick_rewards::{ConfigError, Rewards};

use super::load::{Finding, nearest};
use super::{Config, Kind, ReferenceConfig, TrainConfig, values};

/// The stages of a config, built.
struct Stages {
    objective: Box<dyn Objective>,
    advantage: Option<Box<dyn Advantage>>,
    credit: Option<Box<dyn Credit>>,
    reads: Reads,
    needs: Needs,
}

/// Everything that cannot be, or does not fit.
pub(super) fn check(config: &Config) -> Vec<Finding> {
    let mut findings = values::check(config);
    let Some(stages) = build(config, &mut findings) else { return findings };
    let samples = config.prompts.is_some() || config.budget.is_some() || config.rollout.is_some();
    let is_online = match stages.objective.takes_any_source() {
        true => samples,
        false => is_online(stages.reads),
    };
    if is_online {
        online::check(config, &stages, &mut findings);
    } else {
        offline(config, &stages, &mut findings);
        findings.extend(stages.objective.refuses_given_examples().iter().map(impossible));
    }
    data(config, &mut findings);
    reference(config, &stages, &mut findings);
    evaluation(config, &mut findings);
    if findings.is_empty() {
        findings.extend(output(config));
    }
    findings
}

/// What works but is seldom meant, a line each.
pub(super) fn warnings(config: &Config) -> Vec<String> {
    let objective = config.objective.build().ok();
    let mut lines = objective.as_ref().map(|o| o.warnings()).unwrap_or_default();
    if let Some(advantage) = config.advantage.as_ref().and_then(|a| a.build().ok()) {
        lines.extend(advantage.warnings());
    }
    let (steps, updates) = match config.kind() {
        Kind::Online(online) => (Some(online.steps), online.train.epochs * online.train.minibatches),
        Kind::Offline(offline) => (offline.steps, 1),
    };
    lines.extend(steps.and_then(|steps| config.optim.long_warmup(steps * updates)));
    lines.extend(regenerate::warning(config));
    if let Kind::Online(online) = config.kind()
        && objective.is_some_and(|o| o.compares_within_group())
        && online.train.epochs * online.train.minibatches == 1
    {
        lines.push(format!(
            "with one update a rollout batch `objective.{}` is a plain policy gradient: set `train.online.epochs` or `train.online.minibatches` above 1",
            config.objective.variant()
        ));
    }
    lines
}

/// Whether an objective with these inputs learns from completions of the policy itself.
fn is_online(reads: Reads) -> bool {
    reads.advantage || reads.verdict || reads.scores
}

/// Builds every stage that is there; what cannot be built is a finding.
fn build(config: &Config, findings: &mut Vec<Finding>) -> Option<Stages> {
    let before = findings.len();
    fn built<T>(result: candlewick_algorithms::Result<T>, findings: &mut Vec<Finding>) -> Option<T> {
        result.map_err(|e| findings.push(impossible(&e))).ok()
    }
    let objective = built(config.objective.build(), findings);
    let advantage = config.advantage.as_ref().and_then(|a| built(a.build(), findings));
    let credit = config.credit.as_ref().and_then(|c| built(c.build(), findings));
    if let Some(prompts) = &config.prompts {
        built(prompts.build(), findings);
    }
    if let Some(budget) = &config.budget {
        built(budget.rollouts.build(), findings);
        built(budget.tokens.build(), findings);
    }
    if let Some(rewards) = &config.reward
        && let Err(error) = Rewards::new(rewards)
    {
        findings.push(reward_refused(&error));
    }
    if let Err(error) = config.data.check() {
        let message = format!("{error:#}");
        let path = message.split('`').find(|part| part.starts_with("data.")).unwrap_or("data").to_owned();
        findings.push(Finding { is_key: false, ..Finding::at(&path, message) });
    }
    if findings.len() > before {
        return None;
    }
    let objective = objective?;
    let reads = objective.reads();
    let needs = [advantage.as_ref().map(|a| a.needs()), credit.as_ref().map(|c| c.needs())]
        .into_iter()
        .flatten()
        .fold(objective.needs(), |all, more| all.union(&more));
    Some(Stages { objective, advantage, credit, reads, needs })
}

/// A setting that a stage refused; the error names its key.
fn impossible(error: &candlewick_algorithms::Error) -> Finding {
    match error {
        candlewick_algorithms::Error::Config { key, .. } => {
            Finding { is_key: false, ..Finding::at(key, error.to_string()) }
        }
        other => Finding::at("", other.to_string()),
    }
}

fn reward_refused(error: &ConfigError) -> Finding {
    let path = match error {
        ConfigError::BadValue { key, .. } => format!("reward.{key}"),
        ConfigError::UnknownVerdict { .. } | ConfigError::CircularVerdict { .. } => "reward.verdict".into(),
        _ => "reward".into(),
    };
    Finding { is_key: false, ..Finding::at(&path, error.to_string()) }
}

fn stage(name: &str, variant: Option<&str>) -> String {
    format!("{name}.{}", variant.unwrap_or_default())
}

/// A run on given examples: nothing that samples or scores in every step may be there.
fn offline(config: &Config, stages: &Stages, findings: &mut Vec<Finding>) {
    let objective = config.objective.variant();
    let regenerates = match &config.train {
        Some(TrainConfig::Offline(train)) => train.regenerate.as_ref().map(|settings| (settings, train)),
        _ => None,
    };
    if let Some((settings, train)) = regenerates {
        regenerate::check(config, settings, train, stages, findings);
    }
    let sections = [
        ("prompts", config.prompts.is_some()),
        ("budget", config.budget.is_some()),
        ("rollout", config.rollout.is_some()),
        ("reward", config.reward.is_some() && regenerates.is_none()),
        ("advantage", config.advantage.is_some()),
        ("credit", config.credit.is_some()),
        ("train.online", matches!(config.train, Some(TrainConfig::Online(_)))),
    ];
    if config.data.probe.is_some() {
        findings.push(Finding::at(
            "data.probe",
            format!("nothing reads `data.probe`: objective `{objective}` learns from given examples"),
        ));
    }
    for (section, _) in sections.iter().filter(|(_, is_there)| *is_there) {
        findings.push(unread(section, &format!("objective `{objective}` learns from given examples")));
    }
    if matches!(config.objective, ObjectiveConfig::RewardModel(_)) {
        if config.model.lora.is_some() {
            findings
                .push(Finding::at("model.lora", "a reward model is trained whole: remove the section [model.lora]"));
        }
        if !config.eval.benchmarks.is_empty() {
            let message = "a reward model answers no benchmark: remove `eval.benchmarks`; held-out pairs are scored by `data.validation`";
            findings.push(Finding::at("eval.benchmarks", message));
        }
    }
}

/// Every objective needs something to learn from.
fn data(config: &Config, findings: &mut Vec<Finding>) {
    if config.data.train.is_none() {
        let message =
            format!("missing `data.train`: objective `{}` has nothing to learn from", config.objective.variant());
        let help =
            "name a file, a data set on the Hub such as `gsm8k:train`, or a generator such as `generated:addition`";
        findings.push(Finding { help: Some(help.into()), ..Finding::at("data", message) });
    }
}

fn unread(section: &str, why: &str) -> Finding {
    Finding {
        help: Some("remove the section".into()),
        ..Finding::at(section, format!("nothing reads [{section}]: {why}"))
    }
}

/// A reference model is there exactly if something needs its log-probs.
fn reference(config: &Config, stages: &Stages, findings: &mut Vec<Finding>) {
    let model = &config.model;
    if stages.needs.reference() && model.reference.is_none() && model.lora.is_none() {
        let needs_it = |needs: Option<Needs>| needs.is_some_and(|n| n.reference());
        let section = if stages.objective.needs().reference() {
            stage("objective", Some(config.objective.variant()))
        } else if needs_it(stages.advantage.as_ref().map(|a| a.needs())) {
            stage("advantage", config.advantage.as_ref().map(|a| a.variant()))
        } else {
            stage("credit", config.credit.as_ref().map(|c| c.variant()))
        };
        let message = format!("`{section}` needs reference log-probs: add a [model.reference] section");
        let help = "empty, it takes the checkpoint that training starts from; with [model.lora] none is needed, the base is the reference";
        findings.push(Finding { help: Some(help.into()), ..Finding::at(&section, message) });
    }
    let Some(reference) = &model.reference else { return };
    if !stages.needs.reference() {
        let why = format!("objective `{}`, as it is set, needs no reference log-probs", config.objective.variant());
        findings.push(unread("model.reference", &why));
    }
    if reference.revision.is_some() && reference.path.is_none() && model.revision == reference.revision {
        findings.push(Finding::at(
            "model.reference.revision",
            "`model.reference.revision` repeats `model.revision`: remove it",
        ));
    }
    if reference.sync_steps.is_some() {
        moving(config, findings);
    } else if reference.mixup_alpha != ReferenceConfig::default().mixup_alpha {
        let message =
            "nothing reads `model.reference.mixup_alpha`: without `sync_steps` the reference stays where it is";
        findings.push(Finding { is_key: false, ..Finding::at("model.reference.mixup_alpha", message) });
    }
    if let Some(path) = reference.path.as_ref().filter(|p| p.ends_with(".gguf")) {
        if stages.needs.teacher.is_some() {
            let message = "a quantised reference gives log-probs of tokens, not the distributions that a divergence is taken from";
            findings.push(Finding {
                help: Some("name a safetensors teacher, or sample and use `mode` = \"policy_gradient\"".into()),
                is_key: false,
                ..Finding::at("model.reference.path", message)
            });
        }
        gguf(path, reference.revision.is_some(), findings);
    }
}

/// A reference that follows the policy has its weights, all of them.
fn moving(config: &Config, findings: &mut Vec<Finding>) {
    let mut refuse = |message: &str, help: &str| {
        findings.push(Finding {
            help: Some(help.to_owned()),
            is_key: false,
            ..Finding::at("model.reference.sync_steps", message.to_owned())
        });
    };
    if config.model.reference.as_ref().is_some_and(|r| r.path.is_some()) {
        refuse(
            "a reference that moves towards the policy starts as the policy's own checkpoint",
            "remove `model.reference.path`",
        );
    }
    if config.model.lora.is_some() {
        refuse(
            "a reference that moves towards the policy needs full fine-tuning: an adapter leaves the base where it is",
            "remove [model.lora]",
        );
    }
}

/// A quantised reference is a file that is there, in a build that reads it.
fn gguf(path: &str, has_revision: bool, findings: &mut Vec<Finding>) {
    let mut refuse = |key: &str, message: String| {
        findings.push(Finding { is_key: false, ..Finding::at(&format!("model.reference.{key}"), message) });
    };
    if !cfg!(feature = "gguf") {
        let fix = "cargo build --release --features gguf";
        refuse("path", format!("a `.gguf` reference needs a build with the `gguf` feature: {fix}"));
    } else if !Path::new(path).is_file() {
        refuse("path", format!("the reference `{path}` is no file"));
    }
    if has_revision {
        refuse("revision", "nothing reads `model.reference.revision`: a `.gguf` reference is a file".into());
    }
}

/// Whether held-out pairs are measured while training.
fn has_held_out_pairs(config: &Config) -> bool {
    let takes_pairs = config
        .objective
        .build()
        .is_ok_and(|o| matches!(o.rows(), Rows::Pairs { .. } | Rows::Lists) && config.rollout.is_none());
    takes_pairs && config.data.validation.is_some()
}

/// Benchmarks must exist, and have what they ask.
fn evaluation(config: &Config, findings: &mut Vec<Finding>) {
    let eval = &config.eval;
    let all = candlewick_eval::benchmark::all();
    let known: Vec<&str> = all.iter().map(|b| b.name()).chain(["validation"]).collect();
    for name in eval.benchmarks.iter().filter(|n| !known.contains(&n.as_str())) {
        if crate::eval::is_source(name) {
            if let Err(error) = crate::eval::check(name) {
                let message = format!("benchmark `{name}` cannot be read: {error:#}");
                findings.push(Finding { is_key: false, ..Finding::at("eval.benchmarks", message) });
            }
            continue;
        }
        let hint = nearest(name, &known).map_or(String::new(), |n| format!(": did you mean `{n}`?"));
        findings.push(Finding {
            is_key: false,
            help: Some(format!("benchmarks: {}", known.join(", "))),
            ..Finding::at("eval.benchmarks", format!("unknown benchmark `{name}`{hint}"))
        });
    }
    let is_open = |name: &String| name.starts_with(crate::eval::OPEN);
    if let Some(name) = eval.benchmarks.iter().find(|name| is_open(name) && eval.judge.is_none()) {
        let message = format!("nothing can decide the prompts of `{name}`, which have no answers: add [eval.judge]");
        findings.push(Finding { is_key: false, ..Finding::at("eval.benchmarks", message) });
    }
    if eval.judge.is_some() && eval.benchmarks.is_empty() {
        findings.push(unread("eval.judge", "`eval.benchmarks` is empty, so there is nothing to compare"));
    }
    let needs_held_out = |name: &String| ["validation", "open:validation"].contains(&name.as_str());
    if eval.benchmarks.iter().any(needs_held_out) && config.data.validation.is_none() {
        let message = "the benchmark `validation` needs held-out data: set `data.validation`, for example to 0.05";
        findings.push(Finding { is_key: false, ..Finding::at("eval.benchmarks", message) });
    }
    if eval.every > 0 && eval.benchmarks.iter().all(is_open) && !has_held_out_pairs(config) {
        let message = "nothing reads `eval.every`: `eval.benchmarks` names none that is graded";
        findings.push(Finding {
            help: Some("name a benchmark, or remove `every`".into()),
            ..Finding::at("eval.every", message)
        });
    }
    if eval.samples > 1 && eval.temperature == 0.0 {
        let message = format!(
            "{} samples at temperature 0 are the same completion {} times: set `eval.temperature` above 0, or `eval.samples` to 1",
            eval.samples, eval.samples
        );
        findings.push(Finding { is_key: false, ..Finding::at("eval.samples", message) });
    }
}

/// The output folder, or the nearest folder above it that exists, must take files.
fn output(config: &Config) -> Option<Finding> {
    let folder = config.run.folder();
    let above = folder.ancestors().map(|a| if a.as_os_str().is_empty() { Path::new(".") } else { a });
    let existing = above.into_iter().find(|a| a.exists())?;
    let problem = if existing.is_dir() {
        tempfile::tempfile_in(existing).err().map(|e| e.to_string())
    } else {
        Some("it is not a folder".into())
    }?;
    let message = format!("cannot write to `{}`: {problem}", existing.display());
    Some(Finding {
        is_key: false,
        help: Some("choose another `run.output`".into()),
        ..Finding::at("run.output", message)
    })
}

#[cfg(test)]
#[path = "fit_tests.rs"]
mod tests;
