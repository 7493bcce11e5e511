//! Whether the stages of a config fit together, before any weight is loaded.
//!
//! An objective says what it reads and needs; everything else follows: which stages must be there,
//! which must not, whether a reference model and a verdict are needed. What one value alone can
//! tell is in [`values`].

use std::path::Path;

use candlewick_algorithms::Needs;
use candlewick_algorithms::advantage::Advantage;
use candlewick_algorithms::credit::Credit;
use candlewick_algorithms::objective::{Objective, ObjectiveConfig, Reads, Rows};
use candlewick_algorithms::row::soft::mix::Mode;
use candlewick_rewards::{ConfigError, Rewards, RewardsConfig};

use super::load::{Finding, nearest};
use candlewick_algorithms::prompts::PromptsConfig;

use super::{BudgetWord, Config, EvalBudget, Kind, RolloutConfig, TrainConfig, values};

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
        online(config, &stages, &mut findings);
    } else {
        offline(config, &mut findings);
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
    let mut lines = config.objective.build().map(|o| o.warnings()).unwrap_or_default();
    if let Some(advantage) = config.advantage.as_ref().and_then(|a| a.build().ok()) {
        lines.extend(advantage.warnings());
    }
    if let Kind::Online(online) = config.kind()
        && matches!(config.objective, ObjectiveConfig::Real(_) | ObjectiveConfig::Adpo(_))
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

/// A run that samples: every stage between the prompt and the objective must be there.
fn online(config: &Config, stages: &Stages, findings: &mut Vec<Finding>) {
    let objective = config.objective.variant();
    let mut lacks = |is_missing: bool, section: &str| {
        if is_missing {
            let message =
                format!("missing section [{section}]: objective `{objective}` learns from completions that it samples");
            findings.push(Finding { help: Some(format!("add [{section}]")), ..Finding::at("", message) });
        }
    };
    lacks(config.prompts.is_none(), "prompts.shuffle");
    lacks(config.budget.is_none(), "budget.rollouts.uniform] and [budget.tokens.fixed");
    lacks(config.rollout.is_none(), "rollout.discrete");
    lacks(config.reward.is_none() && !stages.objective.takes_any_source(), "reward.math");
    lacks(stages.reads.advantage && config.advantage.is_none(), "advantage.group");

    let mut idle = |is_there: bool, section: &str, reader: &str| {
        if is_there {
            findings.push(unread(section, &format!("objective `{objective}` reads no {reader}")));
        }
    };
    idle(config.advantage.is_some() && !stages.reads.advantage, "advantage", "advantages");
    idle(config.credit.is_some() && !stages.reads.credit, "credit", "credit");
    let is_offline = matches!(config.train, Some(TrainConfig::Offline(_)));
    idle(is_offline, "train.offline", "examples, it samples its own completions: write [train.online]");

    soft_steps(config, stages, findings);
    groups(config, stages, findings);
    rewards(config, stages, findings);
    rates(config, stages, findings);
    lengths(config, findings);
    if config.model.lora.as_ref().is_some_and(|l| l.dropout > 0.0) {
        findings.push(Finding {
            is_key: false,
            ..Finding::at(
                "model.lora.dropout",
                format!("`model.lora.dropout` must be 0 with objective `{objective}`: dropped inputs would move the ratio between new and old policy away from 1 at random"),
            )
        });
    }
}

/// Whether what is sampled has the densities, or the tokens, that the stages learn from.
fn soft_steps(config: &Config, stages: &Stages, findings: &mut Vec<Finding>) {
    let objective = format!("objective.{}", config.objective.variant());
    let mut refuse = |path: &str, message: String, help: &str| {
        findings.push(Finding { help: Some(help.to_owned()), is_key: false, ..Finding::at(path, message) });
    };
    let Some(RolloutConfig::Soft(soft)) = &config.rollout else {
        if let Some(reason) = stages.objective.refuses_discrete_steps() {
            refuse(
                &objective,
                format!("`{objective}` has no soft steps to learn from: {reason}"),
                "add [rollout.soft]",
            );
        }
        return;
    };
    if soft.mode != Mode::Gumbel || soft.prob_eps == 0.0 {
        let (path, what) = match soft.mode {
            Mode::Vanilla => ("rollout.soft.mode", "vanilla mixtures are"),
            Mode::Dirichlet => ("rollout.soft.mode", "Dirichlet mixtures are"),
            Mode::Gumbel => ("rollout.soft.prob_eps", "mixtures without a floor under probabilities are"),
        };
        let message = format!("{what} for [eval.soft] and `generate` only: they have no log-density to train on");
        refuse(path, message, "set `mode` to \"gumbel\" and `prob_eps` to 1e-6");
    }
    let needs = &stages.needs;
    let reason = stages.objective.refuses_soft_steps().or({
        let needs_tokens = needs.entropy || needs.entropy_leaf || needs.group_divergence;
        needs_tokens
            .then_some("entropies and divergences are of next-token distributions, which soft steps do not draw from")
    });
    if let Some(reason) = reason {
        let is_credit = stages.credit.as_ref().is_some_and(|c| c.needs().group_divergence);
        let reader = match is_credit {
            true => stage("credit", config.credit.as_ref().map(|c| c.variant())),
            false => objective,
        };
        refuse(&reader, format!("`{reader}` cannot learn from soft steps: {reason}"), "write [rollout.discrete]");
    }
}

/// Whether groups are large enough for what reads them, and steps for their minibatches.
fn groups(config: &Config, stages: &Stages, findings: &mut Vec<Finding>) {
    let rollouts = config.budget.as_ref().and_then(|b| Some((b.rollouts.variant(), b.rollouts.build().ok()?.mean())));
    if let (Some((variant, mean)), Some(advantage)) = (rollouts, &config.advantage)
        && mean < 2.0
        && stages.advantage.as_ref().is_some_and(|a| a.compares_within_group())
    {
        let message = format!(
            "groups of {mean} completion give no advantage: `advantage.{}` compares the completions of one prompt",
            advantage.variant()
        );
        findings.push(Finding {
            is_key: false,
            help: Some("set the mean to 2 or more; 8 is usual".into()),
            ..Finding::at(&format!("budget.rollouts.{variant}.mean"), message)
        });
    }
    if let (Some((variant, mean)), ObjectiveConfig::Real(_) | ObjectiveConfig::Adpo(_)) = (rollouts, &config.objective)
        && mean < 2.0
        && findings.is_empty()
    {
        let message = format!(
            "groups of {mean} completion teach nothing: `objective.{}` compares the completions of one prompt",
            config.objective.variant()
        );
        findings.push(Finding { is_key: false, ..Finding::at(&format!("budget.rollouts.{variant}.mean"), message) });
    }
    let per_step = config.prompts.as_ref().and_then(|p| p.build().ok()).map(|p| p.per_step());
    if let (Some(per_step), Some(TrainConfig::Online(train))) = (per_step, config.train)
        && train.minibatches > per_step
    {
        let message = format!(
            "{} minibatches cannot be cut from a step of {per_step} groups: groups are never cut",
            train.minibatches
        );
        findings.push(Finding { is_key: false, ..Finding::at("train.online.minibatches", message) });
    }
}

/// Names of rewards must be those of sections, and whoever asks for a verdict must get one.
fn rewards(config: &Config, stages: &Stages, findings: &mut Vec<Finding>) {
    let Some(rewards) = config.reward.as_ref().and_then(|r| Rewards::new(r).ok()) else { return };
    let present = rewards.names();
    if let (Some(advantage), Some(settings)) = (&stages.advantage, &config.advantage) {
        let variant = settings.variant();
        let weighs = |name: &str| {
            let value = serde_json::to_value(settings).unwrap_or_default();
            value[variant]["weights"].get(name).is_some()
        };
        for name in advantage.reward_names().iter().filter(|n| !present.contains(&n.as_str())) {
            let is_known = RewardsConfig::NAMES.contains(&name.as_str());
            let fix = match nearest(name, &present) {
                _ if is_known => format!("add [reward.{name}]"),
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("rewards of this config: {}", present.join(", ")),
            };
            let (path, at) = match weighs(name) {
                true => (format!("advantage.{variant}.weights"), format!("advantage.{variant}.weights.{name}")),
                false => (format!("advantage.{variant}.mix"), format!("advantage.{variant}.mix")),
            };
            let message = format!("`{path}` names the reward `{name}`, which has no section: {fix}");
            findings.push(Finding::at(&at, message));
        }
    }
    let prompts = config.prompts.as_ref().and_then(|p| Some((p.variant(), p.build().ok()?.reads_success())));
    let budget = config.budget.as_ref().map(|b| &b.rollouts);
    let budget = budget.and_then(|r| Some((r.variant(), r.build().ok()?.reads_success())));
    let readers = [
        (stages.reads.verdict, format!("objective.{}", config.objective.variant())),
        (prompts.is_some_and(|p| p.1), stage("prompts", prompts.map(|p| p.0))),
        (budget.is_some_and(|b| b.1), stage("budget.rollouts", budget.map(|b| b.0))),
        (
            stages.advantage.as_ref().is_some_and(|a| a.reads_verdict()),
            stage("advantage", config.advantage.as_ref().map(|a| a.variant())),
        ),
        (
            stages.credit.as_ref().is_some_and(|c| c.reads_verdict()),
            stage("credit", config.credit.as_ref().map(|c| c.variant())),
        ),
    ];
    if let Some((_, reader)) = readers.iter().find(|(reads, _)| *reads)
        && let Err(error) = rewards.verdict()
    {
        let path =
            if config.reward.as_ref().is_some_and(|r| r.verdict.is_some()) { "reward.verdict" } else { "reward" };
        findings.push(Finding::at(path, format!("`{reader}` must know which completions are right: {error}")));
    }
}

/// Who marks pairs and who reads them; labels that are labels; rates that something reads.
fn rates(config: &Config, stages: &Stages, findings: &mut Vec<Finding>) {
    let reads_pairs = stages.advantage.as_ref().is_some_and(|a| a.reads_pairs());
    if reads_pairs && !matches!(config.prompts, Some(PromptsConfig::Pairing(_)) | None) {
        let path = stage("advantage", config.advantage.as_ref().map(|a| a.variant()));
        let message = format!("`{path}` weighs pairs of a hard and an easy prompt, which only [prompts.pairing] makes");
        findings.push(Finding {
            help: Some("use [prompts.pairing], or [advantage.group]".into()),
            ..Finding::at(&path, message)
        });
    }
    let rewards = config.reward.as_ref().and_then(|r| Some((r.verdict.clone(), Rewards::new(r).ok()?)));
    if let Some((Some(named), rewards)) = &rewards
        && stages.objective.needs_binary_verdict()
        && !rewards.is_verdict_binary()
    {
        let message = format!(
            "`objective.{}` learns from labels that are 0 or 1, and `reward.verdict` names `{named}`, whose scores are not",
            config.objective.variant()
        );
        findings.push(Finding {
            is_key: false,
            help: Some("name a binary reward, such as `math`".into()),
            ..Finding::at("reward.verdict", message)
        });
    }
    let Some(budget) = &config.budget else { return };
    let tokens = budget.tokens.build().ok();
    let tells = tokens.as_ref().is_some_and(|t| t.tells());
    if config.data.probe.is_none() && tokens.is_some_and(|t| t.needs_probe()) {
        let path = "budget.tokens.curriculum.start_share";
        let message = format!("`{path}` multiplies the length that a probe measured: name its file in `data.probe`");
        findings.push(Finding { help: Some("candlewick probe makes it".into()), ..Finding::at(path, message) });
    }
    let reads = config.prompts.as_ref().and_then(|p| p.build().ok()).is_some_and(|p| p.reads_success())
        || budget.rollouts.build().is_ok_and(|r| r.reads_success());
    if config.data.probe.is_some() && !reads && !tells {
        let message = "nothing reads `data.probe`: neither prompts nor budgets go by success rates or told lengths";
        findings.push(Finding {
            help: Some("use [prompts.pairing], [budget.rollouts.knapsack] or [budget.tokens.curriculum]".into()),
            ..Finding::at("data.probe", message)
        });
    }
}

/// A length that is told is told by something.
fn lengths(config: &Config, findings: &mut Vec<Finding>) {
    let Some(tokens) = config.budget.as_ref().and_then(|b| b.tokens.build().ok()) else { return };
    if tokens.tells() {
        return;
    }
    if let Some(length) = config.reward.as_ref().and_then(|r| r.length.as_ref())
        && length.target.is_none()
    {
        let message = "`reward.length` pays for a length that nothing states: set its `target`, or tell one by [budget.tokens.curriculum]";
        findings.push(Finding::at("reward.length", message));
    }
    if config.data.told.is_some() && !matches!(config.eval.budget, EvalBudget::Tokens(_)) {
        findings.push(Finding {
            help: Some("use [budget.tokens.curriculum], or `budget.tokens.fixed.told`".into()),
            ..Finding::at("data.told", "nothing reads `data.told`: the token budget tells no length")
        });
    }
    if config.eval.budget == EvalBudget::Word(BudgetWord::Final) {
        let message = "`eval.budget` is the last length that training tells, and it tells none";
        findings.push(Finding { is_key: false, ..Finding::at("eval.budget", message) });
    }
}

fn stage(name: &str, variant: Option<&str>) -> String {
    format!("{name}.{}", variant.unwrap_or_default())
}

/// A run on given examples: nothing that samples or scores may be there.
fn offline(config: &Config, findings: &mut Vec<Finding>) {
    let objective = config.objective.variant();
    let sections = [
        ("prompts", config.prompts.is_some()),
        ("budget", config.budget.is_some()),
        ("rollout", config.rollout.is_some()),
        ("reward", config.reward.is_some()),
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
    }
    if let Some(path) = reference.path.as_ref().filter(|p| p.ends_with(".gguf")) {
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
    if eval.benchmarks.iter().any(|n| n == "validation") && config.data.validation.is_none() {
        let message = "the benchmark `validation` needs held-out data: set `data.validation`, for example to 0.05";
        findings.push(Finding { is_key: false, ..Finding::at("eval.benchmarks", message) });
    }
    if eval.every > 0 && eval.benchmarks.is_empty() && !has_held_out_pairs(config) {
        let message = "nothing reads `eval.every`: `eval.benchmarks` is empty";
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
