//! Grading beside sampling: rewards made ready, scores awaited with progress, failures kept.

use std::io::Write;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use candlewick_rewards::{Graded, Grading, Item, Rewards, RewardsConfig};
use rayon::prelude::*;
use tokio::runtime::Runtime;

use super::account::{progress, say};
use crate::data::{Problem, Prompt};
use crate::model::decoder::Decoder;
use crate::reward::{LocalModels, find_models};

/// Failures that are written of each step.
const KEPT_FAILURES: usize = 20;
/// Waiting for scores is shown after this.
const PATIENCE: Duration = Duration::from_millis(500);

/// Builds the rewards of a run and starts them, but for the models of those that need one: a program, a service, a
/// sandbox or a model's folder that is missing is told before any weight is loaded.
pub(super) fn prepare(config: &RewardsConfig, folder: &Path, runtime: &Runtime) -> Result<Rewards> {
    let mut config = config.clone();
    if let Some(judge) = &mut config.judge {
        judge.cache.get_or_insert_with(|| folder.join("judge-cache.jsonl"));
    }
    find_models(&config)?;
    let rewards = Rewards::new(&config)?;
    runtime.block_on(rewards.start())?.iter().for_each(|line| say(line));
    Ok(rewards)
}

/// Loads the models of those that need one, on the policy's device and in its number type.
pub(super) fn load_models(
    rewards: &mut Rewards,
    config: &RewardsConfig,
    policy: &Decoder,
    runtime: &Runtime,
) -> Result<()> {
    let Some(config) = config.with_models() else { return Ok(()) };
    let models = LocalModels { device: policy.device().clone(), dtype: policy.params.dtype() };
    let loaded = Rewards::load(&config, &models)?;
    runtime.block_on(loaded.start())?.iter().for_each(|line| say(line));
    rewards.replace(loaded);
    Ok(())
}

/// Counts the problems whose data a reward cannot use, and shows the first of each.
pub(super) fn tell_doubts(rewards: &Rewards, pool: &[(Problem, Vec<u32>)]) {
    let problems: Vec<&Problem> = pool.iter().map(|(problem, _)| problem).collect();
    let doubts: Vec<Vec<(&str, String)>> =
        problems.par_iter().map(|problem| rewards.doubts(&item_of(problem))).collect();
    for name in rewards.names() {
        let of_reward = problems.iter().zip(&doubts).filter_map(|(problem, doubts)| {
            doubts.iter().find(|(reward, _)| *reward == name).map(|(_, why)| (&problem.id, why))
        });
        let found: Vec<_> = of_reward.collect();
        if let Some((id, why)) = found.first() {
            say(&format!(
                "reward {name}: {} of {} problems are doubtful, first `{id}`: {why}",
                found.len(),
                problems.len()
            ));
        }
    }
}

/// What rewards may know of a problem, without a completion.
pub(super) fn item_of(problem: &Problem) -> Item {
    let turns = match &problem.prompt {
        Prompt::Text(_) => Vec::new(),
        Prompt::Messages(messages) => messages.iter().map(|m| (m.role.clone(), m.text())).collect(),
    };
    Item {
        id: problem.id.clone(),
        question: problem.text.clone(),
        turns,
        answer: problem.answer.clone(),
        meta: problem.meta.clone(),
        ..Item::default()
    }
}

/// Waits for the scores, with progress on a terminal once it takes a while.
pub(super) fn finish(runtime: &Runtime, grading: Grading, scores: usize, step: usize) -> Graded {
    let scored = grading.scored();
    runtime.block_on(async move {
        let mut graded = std::pin::pin!(grading.finish());
        if let Ok(graded) = tokio::time::timeout(PATIENCE, &mut graded).await {
            return graded;
        }
        let bar = progress(scores as u64, &format!("step {step} grading"));
        loop {
            tokio::select! {
                graded = &mut graded => {
                    bar.finish_and_clear();
                    return graded;
                }
                () = tokio::time::sleep(Duration::from_millis(100)) => {
                    bar.set_position(scored.load(Ordering::Relaxed) as u64);
                }
            }
        }
    })
}

/// Keeps the failures' texts in the folder of rollouts, and stops the run where a reward has too many in a step.
pub(super) fn check_failures(
    rewards: &Rewards,
    graded: &Graded,
    (step, rollouts): (usize, &Path),
    describe: impl Fn(usize) -> (String, String),
) -> Result<()> {
    keep_failures(rollouts, step, &rewards.names(), graded, describe)?;
    if let Some((name, share, failure)) = rewards.too_many_failures(graded) {
        bail!(
            "reward `{name}` failed on {:.0} % of the completions of step {step}, more than `reward.max_failed_share` \
             allows: {failure} (their texts: {})",
            100.0 * share,
            rollouts.join("failures.jsonl").display()
        );
    }
    Ok(())
}

/// Writes why completions have no score, with their texts, to `failures.jsonl` in the rollouts folder.
fn keep_failures(
    folder: &Path,
    step: usize,
    names: &[&str],
    graded: &Graded,
    describe: impl Fn(usize) -> (String, String),
) -> Result<()> {
    let mut lines = String::new();
    for (name, column) in names.iter().zip(&graded.scores) {
        let failed = column.iter().enumerate().filter_map(|(row, score)| Some((row, score.as_ref().err()?)));
        for (row, failure) in failed.take(KEPT_FAILURES) {
            let (id, completion) = describe(row);
            let line = serde_json::json!({"step": step, "reward": name, "failure": failure.to_string(), "id": id,
                "completion": completion});
            lines.push_str(&format!("{line}\n"));
        }
    }
    if lines.is_empty() {
        return Ok(());
    }
    let path = folder.join("failures.jsonl");
    let write = || {
        std::fs::create_dir_all(folder)?;
        std::fs::OpenOptions::new().create(true).append(true).open(&path)?.write_all(lines.as_bytes())
    };
    write().with_context(|| format!("{} cannot be written", path.display()))
}
