//! The configured rewards at work: each completion is scored as it is finished, in any order.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::task::JoinSet;

use super::{ConfigError, Item, Models, NoModels, Reward, RewardError, RewardsConfig};

/// A score or why there is none.
type Score = Result<f64, RewardError>;

/// The scores of one batch.
#[derive(Debug, Clone)]
pub struct Graded {
    /// A column for each reward, in the order of [`Rewards::names`]: one result an item.
    pub scores: Vec<Vec<Score>>,
    /// What the verdict reward said, an item each: `None` where it failed or where there is none.
    pub verdict: Vec<Option<f64>>,
}

impl Graded {
    /// Share of items that reward `column` could not score, between 0 and 1; 0 for an empty batch.
    pub fn failed_share(&self, column: usize) -> f64 {
        let column = &self.scores[column];
        let failed = column.iter().filter(|score| score.is_err()).count();
        failed as f64 / column.len().max(1) as f64
    }
}

/// The configured rewards, ready to score completions.
#[derive(Clone)]
pub struct Rewards {
    rewards: Vec<Arc<dyn Reward>>,
    verdict: Result<usize, ConfigError>,
    max_failed_share: f64,
}

impl Rewards {
    /// Builds what `config` names, but models: rewards that need one are there by name only and fail to score, until
    /// [`Rewards::replace`] puts them in.
    ///
    /// Errors: those of [`RewardsConfig::build`], and a `verdict` that names no configured reward.
    /// That no reward can be the verdict is an error only when one is needed: see [`Rewards::verdict`].
    pub fn new(config: &RewardsConfig) -> Result<Self, ConfigError> {
        Self::load(config, &NoModels)
    }

    /// Builds what `config` names, models included.
    ///
    /// Errors: as [`Rewards::new`], and models that cannot be loaded.
    pub fn load(config: &RewardsConfig, models: &dyn Models) -> Result<Self, ConfigError> {
        Self::with(config.build(models)?, config.verdict.as_deref(), config.max_failed_share)
    }

    /// Takes rewards that were built elsewhere, the name of the verdict reward and the largest share
    /// of failures.
    pub fn with(
        rewards: Vec<Box<dyn Reward>>,
        verdict: Option<&str>,
        max_failed_share: f64,
    ) -> Result<Self, ConfigError> {
        let rewards: Vec<Arc<dyn Reward>> = rewards.into_iter().map(Arc::from).collect();
        let verdict = find_verdict(&rewards, verdict);
        if let Err(error @ (ConfigError::UnknownVerdict { .. } | ConfigError::CircularVerdict { .. })) = verdict {
            return Err(error);
        }
        if rewards.iter().any(|reward| reward.needs_verdict()) {
            verdict.clone()?;
        }
        Ok(Rewards { rewards, verdict, max_failed_share })
    }

    /// Puts `others` in the places of the rewards of the same names.
    pub fn replace(&mut self, others: Rewards) {
        for other in others.rewards {
            if let Some(place) = self.rewards.iter_mut().find(|reward| reward.name() == other.name()) {
                *place = other;
            }
        }
    }

    /// The names of the rewards, in the order of the score columns.
    pub fn names(&self) -> Vec<&str> {
        self.rewards.iter().map(|reward| reward.name()).collect()
    }

    /// The column of the reward that says right or wrong.
    ///
    /// Errors: none or several rewards are binary and `verdict` names none.
    pub fn verdict(&self) -> Result<usize, ConfigError> {
        self.verdict.clone()
    }

    /// Whether the verdict reward says 1 or 0 and nothing in between; false where there is none.
    pub fn is_verdict_binary(&self) -> bool {
        self.verdict.as_ref().is_ok_and(|&column| self.rewards[column].is_binary())
    }

    /// Gets every reward ready, before the first step; lines for the run's account.
    ///
    /// Errors: what would make every score of a reward fail.
    pub async fn start(&self) -> Result<Vec<String>, RewardError> {
        let mut lines = Vec::new();
        for reward in &self.rewards {
            lines.extend(reward.start().await?.into_iter().map(|line| format!("reward {}: {line}", reward.name())));
        }
        Ok(lines)
    }

    /// The first reward that fails on every completion of a problem without a reference answer.
    pub fn needs_answer(&self) -> Option<&str> {
        self.rewards.iter().find(|reward| reward.needs_answer()).map(|reward| reward.name())
    }

    /// What is wrong with the data of an item, for each reward that minds.
    pub fn doubts(&self, item: &Item) -> Vec<(&str, String)> {
        self.rewards.iter().filter_map(|reward| Some((reward.name(), reward.doubt(item)?))).collect()
    }

    /// Figures of each reward's own for the step that was just graded, under `<reward>/<name>`.
    pub async fn figures(&self, step: usize) -> Vec<(String, f64)> {
        let mut all = Vec::new();
        for reward in &self.rewards {
            let figures = reward.figures(step).await;
            all.extend(figures.into_iter().map(|(name, value)| (format!("{}/{name}", reward.name()), value)));
        }
        all
    }

    /// Begins to score `count` completions, which come one by one; runs on `runtime`.
    pub fn begin(&self, count: usize, runtime: &tokio::runtime::Handle) -> Grading {
        Grading {
            rewards: self.clone(),
            runtime: runtime.clone(),
            tasks: JoinSet::new(),
            items: vec![None; count],
            rows: vec![vec![None; self.rewards.len()]; count],
            scored: Arc::new(AtomicUsize::new(0)),
        }
    }

    /// Scores a batch: of each item the verdict reward first, then the others.
    ///
    /// A score that is not finite and a wrong number of scores become failures of that reward.
    pub async fn grade(&self, items: &[Item]) -> Graded {
        let mut grading = self.begin(items.len(), &tokio::runtime::Handle::current());
        for (index, item) in items.iter().enumerate() {
            grading.push(index, item.clone());
        }
        grading.finish().await
    }

    /// The first reward whose share of failures in `graded` is above the configured one, with that
    /// share and one of its failures.
    pub fn too_many_failures<'a>(&self, graded: &'a Graded) -> Option<(&str, f64, &'a RewardError)> {
        self.rewards.iter().enumerate().find_map(|(column, reward)| {
            let share = graded.failed_share(column);
            let failure = graded.scores[column].iter().find_map(|score| score.as_ref().err())?;
            (share > self.max_failed_share).then_some((reward.name(), share, failure))
        })
    }

    /// Scores one item by every reward that needs not wait for the whole batch.
    async fn one(&self, mut item: Item, scored: &AtomicUsize) -> (Option<f64>, Vec<Option<Score>>) {
        let mut row: Vec<Option<Score>> = vec![None; self.rewards.len()];
        let verdict = self.verdict.as_ref().ok().copied();
        let mut is_judged = verdict.is_none();
        if let Some(column) = verdict.filter(|&column| !self.rewards[column].is_batched()) {
            let score = checked(self.rewards[column].as_ref(), std::slice::from_ref(&item)).await.remove(0);
            item.verdict = score.as_ref().ok().copied();
            row[column] = Some(score);
            scored.fetch_add(1, Ordering::Relaxed);
            is_judged = true;
        }
        for (reward, slot) in self.rewards.iter().zip(&mut row) {
            if slot.is_none() && !reward.is_batched() && (is_judged || !reward.needs_verdict()) {
                *slot = Some(checked(reward.as_ref(), std::slice::from_ref(&item)).await.remove(0));
                scored.fetch_add(1, Ordering::Relaxed);
            }
        }
        (item.verdict, row)
    }
}

/// Completions that are being scored. Dropping it abandons what is not done.
///
/// Scores are placed by index, so they do not depend on the order in which completions come.
pub struct Grading {
    rewards: Rewards,
    runtime: tokio::runtime::Handle,
    tasks: JoinSet<(usize, Option<f64>, Vec<Option<Score>>)>,
    items: Vec<Option<Item>>,
    rows: Vec<Vec<Option<Score>>>,
    scored: Arc<AtomicUsize>,
}

impl Grading {
    /// Hands in the completion with this index; it is scored at once, beside whatever runs.
    ///
    /// # Panics
    /// If the index is not below the count that was announced.
    pub fn push(&mut self, index: usize, item: Item) {
        self.items[index] = Some(item.clone());
        let (rewards, scored) = (self.rewards.clone(), Arc::clone(&self.scored));
        let task = async move {
            let (verdict, row) = rewards.one(item, &scored).await;
            (index, verdict, row)
        };
        self.tasks.spawn_on(task, &self.runtime);
    }

    /// A count of the scores that are there, readable while [`Grading::finish`] waits.
    pub fn scored(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.scored)
    }

    /// Waits for the scores under way, then runs the rewards that want the whole batch.
    ///
    /// Items that never came, and rewards that panicked, are failures.
    pub async fn finish(mut self) -> Graded {
        while let Some(done) = self.tasks.join_next().await {
            match done {
                Ok((index, verdict, row)) => {
                    if let Some(item) = &mut self.items[index] {
                        item.verdict = verdict;
                    }
                    self.rows[index] = row;
                }
                Err(error) => tracing::error!(%error, "a reward ended early"),
            }
        }
        let present: Vec<usize> = (0..self.items.len()).filter(|&i| self.items[i].is_some()).collect();
        let mut items: Vec<Item> = self.items.iter_mut().filter_map(Option::take).collect();
        let rewards = self.rewards.rewards.clone();
        let verdict = self.rewards.verdict.as_ref().ok().copied();
        let order = verdict.into_iter().chain((0..rewards.len()).filter(|&column| Some(column) != verdict));
        for column in order {
            let reward = &rewards[column];
            let waits_for_verdict = reward.needs_verdict() && verdict.is_some_and(|v| rewards[v].is_batched());
            if !reward.is_batched() && !waits_for_verdict {
                continue;
            }
            let scores = checked(reward.as_ref(), &items).await;
            self.scored.fetch_add(scores.len(), Ordering::Relaxed);
            for ((&index, item), score) in present.iter().zip(&mut items).zip(scores) {
                if Some(column) == verdict {
                    item.verdict = score.as_ref().ok().copied();
                }
                self.rows[index][column] = Some(score);
            }
        }
        let lost = |reward: &dyn Reward| RewardError::failed(reward.name(), "the reward panicked");
        let scores: Vec<Vec<Score>> = rewards
            .iter()
            .enumerate()
            .map(|(c, reward)| {
                self.rows.iter_mut().map(|r| r[c].take().unwrap_or_else(|| Err(lost(&**reward)))).collect()
            })
            .collect();
        let verdict = match verdict {
            Some(column) => scores[column].iter().map(|score: &Score| score.as_ref().ok().copied()).collect(),
            None => vec![None; self.rows.len()],
        };
        Graded { scores, verdict }
    }
}

async fn checked(reward: &dyn Reward, items: &[Item]) -> Vec<Score> {
    let name = || reward.name().to_string();
    let scores = reward.score(items).await;
    if scores.len() != items.len() {
        let error = RewardError::WrongCount { reward: name(), expected: items.len(), found: scores.len() };
        return vec![Err(error); items.len()];
    }
    let finite = |value: f64| {
        if value.is_finite() { Ok(value) } else { Err(RewardError::NonFinite { reward: name(), value }) }
    };
    scores.into_iter().map(|score| score.and_then(finite)).collect()
}

fn find_verdict(rewards: &[Arc<dyn Reward>], named: Option<&str>) -> Result<usize, ConfigError> {
    let list = |only_binary: bool| {
        let names: Vec<String> = rewards
            .iter()
            .filter(|reward| !only_binary || reward.is_binary())
            .map(|reward| format!("`{}`", reward.name()))
            .collect();
        names.join(", ")
    };
    if let Some(name) = named {
        let column = rewards
            .iter()
            .position(|reward| reward.name() == name)
            .ok_or_else(|| ConfigError::UnknownVerdict { name: name.into(), present: list(false) })?;
        if rewards[column].needs_verdict() {
            return Err(ConfigError::CircularVerdict { name: name.into() });
        }
        return Ok(column);
    }
    let binary: Vec<usize> = (0..rewards.len()).filter(|&column| rewards[column].is_binary()).collect();
    match binary[..] {
        [column] => Ok(column),
        [] => Err(ConfigError::NoVerdict { present: list(false) }),
        _ => Err(ConfigError::AmbiguousVerdict { candidates: list(true) }),
    }
}
