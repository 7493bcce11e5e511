//! Pairs made anew between epochs: the policy answers every prompt several times, rewards score the answers, the best is
//! set against the worst.
//!
//! Every draw is keyed by (seed, number of the regeneration, prompt, sample), so that one that was killed is made again the same. The
//! pairs stand in the run's folder, `pairs/<number>.jsonl`; a checkpoint names the file and its checksum, and a resumed run
//! goes on with it. What this leaves out: the training itself.

use std::collections::HashSet;

use anyhow::{Context, Result, ensure};
use candlewick_algorithms::Metrics;
use candlewick_algorithms::batch::Finish;
use candlewick_algorithms::budget::tokens::Plan;
use candlewick_rewards::{Graded, Rewards};
use serde::{Deserialize, Serialize};

use super::epochs::Epochs;
use super::own_pairs::{self, Contest, Line, contest};
use crate::config::{Config, Offline, RegenerateConfig};
use crate::data::{Dataset, Problem};
use crate::rollout::Completion;
use crate::train::account::{progress, say};
use crate::train::answers::{self, Answers, Asked};
use crate::train::checkpoint::{State, checksum};
use crate::train::examples::{Examples, Reading};
use crate::train::folder::RunFolder;
use crate::train::grading;
use crate::train::policy::Policy;
use crate::train::probe;

/// Name in a checkpoint's state.
const STAGE: &str = "train.offline.regenerate";
/// Prompts that are answered, graded and reduced to pairs together.
const PROMPTS: usize = 256;
/// Part of every draw's key, which no other use of the seed has.
const KEY: u64 = 0x9a125;

/// What a resumed run must know.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Standing {
    epochs: Epochs,
    /// Regenerations so far.
    made: usize,
    /// The epoch of the last one.
    made_in: Option<usize>,
    /// The pairs that are trained on; absent where these are the given ones.
    pairs: Option<InUse>,
}

/// A file of pairs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct InUse {
    file: String,
    sha256: String,
    first_pair: usize,
}

/// What a regeneration gave.
pub(super) struct Made {
    /// The pairs that are left after the audit; none where every prompt tied.
    pub(super) examples: Examples,
    /// See [`Regeneration::renew`].
    pub(super) metrics: Metrics,
}

/// The prompts, rewards and settings of a run that makes its own pairs.
pub(super) struct Regeneration<'a> {
    config: &'a Config,
    offline: &'a Offline,
    settings: &'a RegenerateConfig,
    rewards: Rewards,
    runtime: tokio::runtime::Runtime,
    /// Different prompts, each with its problem.
    pool: Vec<(Problem, Vec<u32>)>,
    standing: Standing,
}

impl<'a> Regeneration<'a> {
    /// Gets rewards ready, before any weight is loaded; `None` for a run that learns from given answers alone. `saved` is the state
    /// of the checkpoint that a resumed run goes on from.
    pub(super) fn prepare(
        config: &'a Config,
        offline: &'a Offline,
        folder: &RunFolder,
        saved: Option<&State>,
    ) -> Result<Option<Self>> {
        let (Some(settings), Some(rewards)) = (&offline.train.regenerate, &config.reward) else { return Ok(None) };
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let rewards = grading::prepare(rewards, folder.path(), &runtime)?;
        let standing = match saved.and_then(|state| state.stages.get(STAGE)) {
            Some(value) => serde_json::from_value(value.clone())
                .context("what the checkpoint says of regenerated pairs cannot be read")?,
            None => Standing::default(),
        };
        Ok(Some(Self { config, offline, settings, rewards, runtime, pool: Vec::new(), standing }))
    }

    /// Loads the models of rewards, and takes the data's prompts: each once, if it leaves room for an answer.
    pub(super) fn read_prompts(&mut self, dataset: &Dataset, policy: &Policy, max_length: usize) -> Result<()> {
        let rewards = self.config.reward.as_ref().context("a run that makes pairs has rewards")?;
        grading::load_models(&mut self.rewards, rewards, &policy.decoder, &self.runtime)?;
        // An answer that can be learnt has a token and an end.
        let prompts = policy.renderer.prompts(dataset.problems()?, max_length.saturating_sub(2))?;
        if prompts.dropped > 0 {
            say(&format!("{} prompts are longer than allowed and are not answered", prompts.dropped));
        }
        let total = prompts.kept.len();
        let mut seen = HashSet::new();
        self.pool = prompts.kept;
        self.pool.retain(|(problem, tokens)| seen.insert((tokens.clone(), problem.answer.clone())));
        if self.pool.len() < total {
            say(&format!("{} prompts stand in the data more than once and are answered once", total - self.pool.len()));
        }
        policy.renderer.warnings().iter().for_each(|w| tracing::warn!("{w}"));
        grading::tell_doubts(&self.rewards, &self.pool);
        Ok(())
    }

    /// Where the run stood when its state was saved.
    pub(super) fn epochs(&self) -> Epochs {
        self.standing.epochs
    }

    /// The pairs that a resumed run goes on with; `None` where it learns from the given ones, or has none yet.
    ///
    /// Errors: a file that is gone or changed.
    pub(super) fn pairs_in_use(
        &self,
        folder: &RunFolder,
        policy: &Policy,
        reading: &Reading,
    ) -> Result<Option<Examples>> {
        let Some(InUse { file, sha256, first_pair }) = &self.standing.pairs else { return Ok(None) };
        let path = folder.join(file);
        let fix = "put it back as it was, or begin anew under another `run.name`";
        let found = checksum(&path).with_context(|| format!("the pairs that the run is trained on are gone: {fix}"))?;
        ensure!(found == *sha256, "{} is not the file that the run was trained on: {fix}", path.display());
        let sampled = own_pairs::read(&path)?.into_iter().map(Line::sampled).collect();
        Examples::of_own(sampled, &policy.renderer, reading, *first_pair).map(Some)
    }

    /// Whether new pairs are due at this step, before it is made.
    pub(super) fn is_due(&self, epochs: Epochs, step: usize) -> bool {
        let is_over = match self.offline.steps {
            Some(steps) => step >= steps,
            None => epochs.number >= self.offline.train.epochs,
        };
        !is_over && self.standing.made_in != Some(epochs.number) && self.settings.is_due(epochs.number)
    }

    /// Notes where the run stands in the state that is saved.
    pub(super) fn save(&mut self, epochs: Epochs, state: &mut State) -> Result<()> {
        self.standing.epochs = epochs;
        state.stages.insert(STAGE.to_owned(), serde_json::to_value(&self.standing)?);
        Ok(())
    }

    /// Makes the pairs of an epoch, whose first one has the number `first_pair`. `None` when the run was asked to stop on
    /// the way: nothing is kept then.
    ///
    /// Metrics, under `regenerate/`: `number` of this regeneration; `prompts` answered; `pairs` to train on; `ties`, prompts whose
    /// answers differ by no more than `min_margin` (all of them late in a run: there is nothing left to compare); `unscored`,
    /// prompts with fewer than two scored answers; `reward_best` and `reward_worst`, means over prompts with two scored answers,
    /// ties included; `reward_mean` over scored answers and `reward/<name>` over those that the function scored; `accuracy` over
    /// answers that were judged; `tokens_mean`, and `empty` and `truncated`, shares, over all answers.
    pub(super) fn renew(
        &mut self,
        policy: &Policy,
        reading: &Reading,
        folder: &RunFolder,
        state: &mut State,
        (epoch, first_pair): (usize, usize),
    ) -> Result<Option<Made>> {
        let number = self.standing.made + 1;
        let bar = progress((self.pool.len() * self.settings.samples) as u64, &format!("epoch {} answers", epoch + 1));
        let (mut lines, mut metrics, mut tokens) = (Vec::new(), Metrics::new(), 0);
        for first in (0..self.pool.len()).step_by(PROMPTS) {
            let places = first..(first + PROMPTS).min(self.pool.len());
            let asked = places.map(|place| self.ask(policy, place, reading.max_length)).collect::<Result<Vec<_>>>()?;
            let key = vec![self.config.run.seed, KEY, number as u64];
            let settings = answers::settings(policy, &self.settings.sampling(), None, key);
            let graders = (&self.rewards, self.runtime.handle());
            let sampled = answers::sample(policy, &asked, &settings, graders, &bar, crate::train::is_stopping)?;
            let Some(Answers { completions, texts, grading }) = sampled else {
                bar.finish_and_clear();
                return Ok(None);
            };
            let scores = completions.len() * self.rewards.names().len();
            let graded = grading::finish(&self.runtime, grading, scores, state.step + 1);
            let describe = |row: usize| (asked[completions[row].request].problem.id.clone(), texts[row].clone());
            let place = (state.step + 1, folder.join("rollouts"));
            grading::check_failures(&self.rewards, &graded, (place.0, &place.1), describe)?;
            self.pair(&asked, (&completions, &texts), &graded, &mut lines, &mut metrics);
            tokens += completions.iter().map(|c| c.tokens.len() as u64).sum::<u64>();
        }
        bar.finish_and_clear();
        for (name, value) in self.runtime.block_on(self.rewards.figures(state.step)) {
            metrics.sum(&format!("reward/{name}"), value);
        }

        // The file is whole before anything is learnt from it.
        let file = format!("pairs/{number}.jsonl");
        own_pairs::write(&folder.join(&file), &lines)?;
        let sampled = lines.into_iter().map(Line::sampled).collect();
        let examples = Examples::of_own(sampled, &policy.renderer, reading, first_pair)?;
        if !examples.is_empty() {
            let sha256 = checksum(&folder.join(&file))?;
            self.standing.pairs = Some(InUse { file, sha256, first_pair });
        }
        (self.standing.made, self.standing.made_in) = (number, Some(epoch));
        state.sampled_tokens += tokens;
        metrics.sum("number", number as f64);
        metrics.sum("pairs", examples.audit.read as f64 - examples.audit.dropped.values().sum::<usize>() as f64);
        say(&account(number, &metrics));
        Ok(Some(Made { examples, metrics }))
    }

    /// A prompt with the room that it leaves for an answer.
    fn ask(&self, policy: &Policy, place: usize, max_length: usize) -> Result<Asked<'_>> {
        let prompt = &self.pool[place];
        let plan = Plan { told: None, cap: self.settings.limit.min(max_length - prompt.1.len()) };
        let shown = probe::shown(policy, prompt, plan)?;
        Ok(Asked { problem: &prompt.0, shown, id: place as u64, samples: self.settings.samples, plan })
    }

    /// The pairs of graded answers, and what the answers show.
    fn pair(
        &self,
        asked: &[Asked],
        (completions, texts): (&[Completion], &[String]),
        graded: &Graded,
        lines: &mut Vec<Line>,
        metrics: &mut Metrics,
    ) {
        let names = self.rewards.names();
        let score = |row: usize| -> Option<f64> {
            if is_empty(&completions[row]) {
                return None;
            }
            let parts = names.iter().zip(&graded.scores).map(|(name, column)| {
                let weight = self.settings.weights.get(*name).copied().unwrap_or(1.0);
                if weight == 0.0 { Some(0.0) } else { Some(weight * column[row].as_ref().ok()?) }
            });
            parts.sum()
        };
        let scores: Vec<Option<f64>> = (0..completions.len()).map(score).collect();

        // 1. The pair of each prompt, whose answers follow one another.
        for (place, (asked, scores)) in asked.iter().zip(scores.chunks(self.settings.samples)).enumerate() {
            let result = contest(scores, self.settings.min_margin);
            let at = |answer: usize| {
                let row = place * self.settings.samples + answer;
                (&completions[row], texts[row].as_str(), scores[answer].unwrap_or_default())
            };
            if let Contest::Pair(best, worst) | Contest::Tie(best, worst) = result {
                metrics.mean("reward_best", at(best).2, 1.0);
                metrics.mean("reward_worst", at(worst).2, 1.0);
            }
            if let Contest::Pair(best, worst) = result {
                let prompt = (asked.shown.text.as_str(), asked.shown.tokens.as_slice());
                lines.push(Line::new(&asked.problem.id, prompt, at(best), at(worst)));
            }
            metrics.sum("prompts", 1.0);
            metrics.sum("ties", f64::from(u8::from(matches!(result, Contest::Tie(..)))));
            metrics.sum("unscored", f64::from(u8::from(result == Contest::Unscored)));
        }

        // 2. What the answers are like.
        let n = completions.len() as f64;
        let share = |is: &dyn Fn(&Completion) -> bool| completions.iter().filter(|c| is(c)).count() as f64 / n;
        metrics.mean("tokens_mean", completions.iter().map(|c| c.tokens.len() as f64).sum::<f64>() / n, n);
        metrics.mean("empty", share(&is_empty), n);
        metrics.mean("truncated", share(&|c| c.finish == Finish::Length), n);
        let mut mean = |name: &str, values: &[f64]| {
            metrics.mean(name, values.iter().sum::<f64>() / values.len() as f64, values.len() as f64);
        };
        mean("reward_mean", &scores.into_iter().flatten().collect::<Vec<_>>());
        mean("accuracy", &graded.verdict.iter().flatten().copied().collect::<Vec<_>>());
        for (name, column) in names.iter().zip(&graded.scores) {
            let values: Vec<f64> = column.iter().filter_map(|score| score.as_ref().ok().copied()).collect();
            mean(&format!("reward/{name}"), &values);
        }
    }
}

/// Whether an answer is nothing but its end, which no pair may hold.
fn is_empty(answer: &Completion) -> bool {
    answer.tokens.len() <= 1
}

/// What came of a regeneration, for people.
fn account(number: usize, metrics: &Metrics) -> String {
    let count = |name: &str| metrics.get(name).unwrap_or(0.0);
    let mut line =
        format!("      pairs {number}: {} of {} prompts, {} tie", count("pairs"), count("prompts"), count("ties"));
    if count("unscored") > 0.0 {
        line.push_str(&format!(", {} without two scores", count("unscored")));
    }
    let part = |name: &str, label: &str| metrics.get(name).map_or(String::new(), |v| format!(", {label} {v:.3}"));
    line + &part("accuracy", "accuracy") + &part("reward_best", "best") + &part("reward_worst", "worst")
}
