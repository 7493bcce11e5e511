//! The loop of a run that samples its own completions.
//!
//! A step is [`Run::step`]. [`stages`] holds the methods it goes through, [`draw`] gets its completions, [`rows`]
//! makes them a batch, [`seen`] is what they show, [`updates`] changes the policy, [`log`] tells people, and [`start`] is how
//! a run begins and is kept.

mod draw;
mod log;
mod rows;
mod seen;
mod stages;
mod start;
mod updates;
mod weigh;

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::Result;
use candlewick_algorithms::{Needs, Outcome};
use candlewick_rewards::Rewards;

use self::draw::Drawn;
use self::stages::Stages;
use super::Interrupted;
use super::account::{Clock, STOPPED_AT_THE_END, finish, say};
use super::checkpoint::State;
use super::evaluate::{Closing, Examiner, Sat};
use super::folder::RunFolder;
use super::learner::Learner;
use super::metrics::{Recorder, Step};
use super::policy::Policy;
use crate::config::{Config, Online};
use crate::data::Problem;
use crate::rollout::{Sampling, Thinking};

/// A run under way.
struct Run<'a> {
    config: &'a Config,
    online: &'a Online<'a>,
    policy: Policy,
    /// Problems with the tokens of their prompts; a prompt's id is its place here.
    pool: Vec<(Problem, Vec<u32>)>,
    stages: Stages,
    needs: Needs,
    rewards: Rewards,
    sampling: Sampling,
    thinking: Option<Thinking>,
    runtime: tokio::runtime::Runtime,
    learner: Learner<'a>,
    state: State,
    /// Successive updates whose gradient was zero although advantages were not.
    idle_steps: usize,
    /// The last step that each warning was given in.
    warned: BTreeMap<&'static str, usize>,
}

/// Runs or resumes an online run.
pub fn run(config: &Config, online: &Online, resume: bool) -> Result<()> {
    let folder = RunFolder::open(config, resume)?;
    let mut run = Run::prepare(config, online, &folder)?;
    let mut recorder = match resume {
        true => run.resume(&folder)?,
        false => Recorder::open(folder.path(), config.run.tensorboard, None)?,
    };
    let last = run.stages.tokens.plan(online.steps.saturating_sub(1), online.steps)?.told;
    let examiner = Examiner::for_run(&run.policy, config, &folder, last)?;
    let base = if examiner.is_empty() { Sat::default() } else { run.base(&examiner, &folder)? };
    if examiner.is_due(&run.state, online.steps) {
        run.test(&examiner)?;
    }
    let started = Instant::now();
    let before = run.state.seconds;
    while run.state.step < online.steps && !super::is_stopping() {
        let step = run.step(&folder)?;
        run.state.seconds = before + started.elapsed().as_secs_f64();
        recorder.record(run.state.step, &step)?;
        say(&run.line(&step));
        run.warn(&step);
        let is_last = run.state.step == online.steps;
        let is_best = examiner.is_due(&run.state, online.steps) && run.test(&examiner)? && config.run.keep_best;
        let is_due = config.run.save_every > 0 && run.state.step % config.run.save_every == 0;
        if !is_last && (is_due || is_best || super::is_stopping()) {
            run.save(&folder, &mut recorder)?;
        }
    }
    if run.state.step < online.steps {
        say(&format!("stopped after step {}: go on with the same command and `--resume`", run.state.step));
        return Err(Interrupted.into());
    }
    let Some(last) = examiner.sit(&run.policy)? else {
        run.save(&folder, &mut recorder)?;
        say(STOPPED_AT_THE_END);
        return Err(Interrupted.into());
    };
    if !last.graded.is_empty() {
        run.evaluated(&last.graded)?;
    }
    let checkpoint = run.save(&folder, &mut recorder)?;
    let (base, last, state) = (&base, &last, &run.state);
    finish(
        &examiner,
        &run.policy,
        Closing { folder: &folder, checkpoint: &checkpoint, state, base, last, preference: None },
    )
}

impl Run<'_> {
    /// One step: draw, score, advantage, credit, updates.
    fn step(&mut self, folder: &RunFolder) -> Result<Step> {
        let (mut metrics, mut clock) = (Step::default(), Clock::new());
        let index = self.state.step;

        // 1. Graded completions in groups that the stages accept.
        let Drawn { mut batch, texts } = self.draws(folder, &mut metrics, &mut clock)?;

        // 2. The columns that later stages asked for: old and reference log-probs, entropy, hidden states.
        self.policy.score(&mut batch, &self.needs, self.sampling.scoring_temperature())?;
        clock.lap(&mut metrics, "score");

        // 3. What each completion, and each of its tokens, counts.
        self.weigh_rewards(&batch, &mut metrics)?;
        if let Some(advantage) = &mut self.stages.advantage {
            metrics.extend("advantage", &advantage.apply(&mut batch)?);
        }
        if let Some(credit) = &mut self.stages.credit {
            metrics.extend("credit", &credit.apply(&mut batch)?);
            clock.lap(&mut metrics, "credit");
        }

        // 4. The policy changes.
        self.stages.objective.prepare(&mut batch)?;
        let is_accepted = self.updates(&batch, &mut metrics)?;
        clock.lap(&mut metrics, "update");

        // 5. The step is over: stages hear of it, people can read of it.
        self.state.step = index + 1;
        self.policy.sync_reference(self.state.step)?;
        self.log_samples(folder, &batch, &texts)?;
        self.stages.observe(&Outcome::Step {
            step: index,
            is_accepted,
            entropy: metrics.get("rollout/entropy"),
            accuracy: metrics.get("reward/accuracy"),
            tokens: metrics.get("rollout/tokens_mean"),
        })?;
        metrics.set("time/step", clock.total());
        let tokens = metrics.get("rollout/tokens").unwrap_or(0.0) + metrics.get("train/tokens").unwrap_or(0.0);
        metrics.set("train/tokens_per_second", tokens / clock.total());
        Ok(metrics)
    }
}
