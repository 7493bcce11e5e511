//! Whether the stages of a run that samples fit together.

use candlewick_algorithms::prompts::PromptsConfig;
use candlewick_algorithms::row::soft::mix::Mode;
use candlewick_rewards::{Rewards, RewardsConfig};

use super::{Stages, stage, unread};
use crate::config::load::{Finding, nearest};
use crate::config::{BudgetWord, Config, EvalBudget, RolloutConfig, TrainConfig};

/// A run that samples: every stage between the prompt and the objective must be there.
pub(super) fn check(config: &Config, stages: &Stages, findings: &mut Vec<Finding>) {
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
    if let Some((variant, mean)) = rollouts
        && mean < 2.0
        && stages.objective.compares_within_group()
        && findings.is_empty()
    {
        let message = format!(
            "groups of {mean} completion teach nothing: `objective.{}` compares the completions of one prompt",
            config.objective.variant()
        );
        findings.push(Finding { is_key: false, ..Finding::at(&format!("budget.rollouts.{variant}.mean"), message) });
    }
    let per_step = config.prompts.as_ref().and_then(|p| p.build().ok()).map(|p| p.per_step());
    if let (Some(per_step), Some(TrainConfig::Online(train))) = (per_step, &config.train)
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
            let (path, at) = match weighs(name) {
                true => (format!("advantage.{variant}.weights"), format!("advantage.{variant}.weights.{name}")),
                false => (format!("advantage.{variant}.mix"), format!("advantage.{variant}.mix")),
            };
            findings.push(without_section(&path, &at, name, &present));
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

/// The key at `path` names a reward that this config does not have.
pub(super) fn without_section(path: &str, at: &str, name: &str, present: &[&str]) -> Finding {
    let is_known = RewardsConfig::NAMES.contains(&name);
    let fix = match nearest(name, present) {
        _ if is_known => format!("add [reward.{name}]"),
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("rewards of this config: {}", present.join(", ")),
    };
    Finding::at(at, format!("`{path}` names the reward `{name}`, which has no section: {fix}"))
}

/// A reward of a length that prompts tell, where they tell none.
pub(super) fn untold_length(config: &Config, fix: &str, findings: &mut Vec<Finding>) {
    if let Some(length) = config.reward.as_ref().and_then(|r| r.length.as_ref())
        && length.target.is_none()
    {
        let message = format!("`reward.length` pays for a length that nothing states: {fix}");
        findings.push(Finding::at("reward.length", message));
    }
}

/// Who marks pairs and who reads them; labels that are labels; rates that something reads.
fn rates(config: &Config, stages: &Stages, findings: &mut Vec<Finding>) {
    let rollouts = config.budget.as_ref().map(|b| b.rollouts.variant());
    if matches!(config.prompts, Some(PromptsConfig::Pairing(_))) && rollouts == Some("dual_mirror") {
        let message = "a price may leave a prompt without rollouts, and the other of its pair alone: [prompts.pairing] needs both";
        findings.push(Finding {
            help: Some("use [budget.rollouts.uniform] or [budget.rollouts.knapsack]".into()),
            ..Finding::at("budget.rollouts.dual_mirror", message)
        });
    }
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
    untold_length(config, "set its `target`, or tell one by [budget.tokens.curriculum]", findings);
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
