//! Where a step's completions come from: prompts are chosen, completions sampled and graded, groups accepted.

use anyhow::{Context, Result, ensure};
use candlewick_algorithms::Batch;
use candlewick_algorithms::budget::rollouts::Purse;
use candlewick_algorithms::budget::tokens::Plan;
use candlewick_rewards::Graded;

use super::Run;
use super::rows::join;
use super::seen::{Seen, reward_metrics, rollout_metrics};
use crate::rollout::Completion;
use crate::train::account::{Clock, progress};
use crate::train::answers::{self, Answers, Asked};
use crate::train::evaluate::step_rng;
use crate::train::folder::RunFolder;
use crate::train::grading;
use crate::train::metrics::Step;
use crate::train::probe::{self, Shown};
use crate::train::told;

/// The groups that a step has drawn and accepted, with the text of each row.
pub(super) struct Drawn {
    pub(super) batch: Batch,
    pub(super) texts: Vec<String>,
}

/// A graded draw of rollouts, before any stage refused a group.
pub(super) struct Draw {
    pub(super) batch: Batch,
    pub(super) completions: Vec<Completion>,
    /// The prompts that got rollouts; a completion's request is a place here.
    pub(super) prompts: Vec<usize>,
    pub(super) texts: Vec<String>,
    pub(super) graded: Graded,
}

impl Run<'_> {
    /// Draws until the step has its groups: more than once only where a stage refuses groups.
    pub(super) fn draws(&mut self, folder: &RunFolder, metrics: &mut Step, clock: &mut Clock) -> Result<Drawn> {
        let step = self.state.step;
        let plan = self.stages.tokens.plan(step, self.online.steps)?;
        let wanted = self.stages.prompts.per_step();
        let mut rng = step_rng(self.config.run.seed, step, 0x9203);
        let (mut kept, mut texts, mut seen) = (Vec::new(), Vec::new(), Seen::default());
        for number in 0..self.stages.prompts.max_draws().max(1) {
            let missing = wanted - kept.len();
            let chosen = self.stages.prompts.choose(self.pool.len(), &self.stages.success, missing, &mut rng)?;
            if chosen.is_empty() {
                break;
            }
            let mut draw = self.draw(&chosen, plan, number, &mut seen, metrics, clock)?;
            self.stages.prompts.tag(&mut draw.batch);
            self.record_success(&draw, &mut seen.budget);
            seen.rollout.merge(&rollout_metrics(&draw));
            seen.reward.merge(&reward_metrics(&draw, &self.rewards));
            seen.tokens.merge(&told::metrics(&draw.batch));
            self.check_failures(folder, &draw)?;
            let accepted = self.stages.prompts.accept(&draw.batch)?;
            seen.prompts.merge(&accepted.metrics);
            let ranges = draw.batch.groups();
            for &g in accepted.keep.iter().take(missing) {
                let rows: Vec<usize> = ranges[g].clone().collect();
                texts.extend(rows.iter().map(|&r| draw.texts[r].clone()));
                kept.push(draw.batch.select(&rows));
            }
            if kept.len() >= wanted || self.stages.prompts.max_draws() <= 1 {
                break;
            }
        }
        seen.record(metrics);
        for (name, value) in self.runtime.block_on(self.rewards.figures(step)) {
            metrics.set(format!("reward/{name}"), value);
        }
        clock.lap(metrics, "reward");
        ensure!(!kept.is_empty(), "no group was kept in step {step}: loosen the stage that refuses them");
        Ok(Drawn { batch: join(&kept)?, texts })
    }

    /// One draw: completions of the chosen prompts under the step's plan, each graded.
    fn draw(
        &mut self,
        chosen: &[usize],
        plan: Plan,
        draw: usize,
        seen: &mut Seen,
        metrics: &mut Step,
        clock: &mut Clock,
    ) -> Result<Draw> {
        let step = self.state.step;

        // 1. How many of each prompt.
        let purse = Purse { step, run: None, horizon: self.online.steps - step };
        let allocation = self.stages.rollouts.allocate(&self.stages.success.estimates(chosen), &purse)?;
        seen.budget.merge(&allocation.metrics);
        let given: Vec<(usize, usize)> =
            chosen.iter().copied().zip(allocation.counts.iter().copied()).filter(|(_, count)| *count > 0).collect();
        let prompts: Vec<usize> = given.iter().map(|(id, _)| *id).collect();

        // 2. Completions; each is graded as soon as it is finished, while others are still sampled.
        let asked: Vec<Asked> = given
            .iter()
            .map(|&(id, samples)| {
                let shown = probe::shown(&self.policy, &self.pool[id], plan)?;
                Ok(Asked { problem: &self.pool[id].0, shown, id: id as u64, samples, plan })
            })
            .collect::<Result<_>>()?;
        let key = vec![self.config.run.seed, step as u64, draw as u64];
        let settings = answers::settings(&self.policy, self.online.rollout.tokens(), self.thinking.clone(), key);
        let total: usize = allocation.counts.iter().sum();
        let bar = progress(total as u64, &format!("step {} sampling", step + 1));
        let graders = (&self.rewards, self.runtime.handle());
        let sampled = answers::sample(&self.policy, &asked, &settings, graders, &bar, || false)?;
        bar.finish_and_clear();
        let Answers { completions, texts, grading } = sampled.context("nothing stops a step's sampling")?;
        self.state.sampled_tokens += completions.iter().map(|c| c.tokens.len() as u64).sum::<u64>();
        clock.lap(metrics, "rollout");

        // 3. The scores that are still to come.
        let graded = grading::finish(&self.runtime, grading, total * self.rewards.names().len(), step + 1);
        clock.lap(metrics, "reward");
        let shown: Vec<Shown> = asked.into_iter().map(|a| a.shown).collect();
        let batch = self.batch(&completions, &prompts, &shown, plan, &graded)?;
        Ok(Draw { batch, completions, prompts, texts, graded })
    }
}
