//! How a run begins, goes on from a checkpoint, and is kept.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result};
use candlewick_algorithms::Outcome;

use super::Run;
use super::stages::Stages;
use crate::config::{Config, Online};
use crate::model::decoder::Keep;
use crate::rollout::{self, Sampling};
use crate::train::account::say;
use crate::train::checkpoint::{self, State};
use crate::train::evaluate::{self, Examiner, Sat, line};
use crate::train::folder::RunFolder;
use crate::train::inputs::{Inputs, Reach, check_pool};
use crate::train::learner::Learner;
use crate::train::metrics::Recorder;
use crate::train::policy::Policy;
use crate::train::{grading, probe};

impl<'a> Run<'a> {
    /// Everything up to the first step.
    pub(super) fn prepare(config: &'a Config, online: &'a Online<'a>, folder: &RunFolder) -> Result<Self> {
        // 1. What needs no weights, so that what is missing is told at once.
        let mut stages = Stages::build(config, online)?;
        let needs = stages.needs(online.train.epochs * online.train.minibatches);
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let inputs = Inputs::gather(config, Reach::Hub)?;
        inputs.notes.iter().for_each(|line| say(line));
        let problems = inputs.dataset.context("the training data were not read")?.problems()?;
        check_pool(online, problems.len())?;
        let mut rewards = grading::prepare(online.reward, folder.path(), &runtime)?;

        // 2. The models, and the prompts as the policy sees them.
        let mut policy = Policy::for_run(config, inputs.reference.as_ref(), inputs.lengths)?;
        if needs.reference() {
            policy.attach_reference(config)?;
        }
        grading::load_models(&mut rewards, online.reward, &policy.decoder, &runtime)?;
        let prompts = policy.renderer.prompts(problems, policy.decoder.spec.max_positions)?;
        if prompts.dropped > 0 {
            say(&format!("{} prompts are longer than allowed and were left out", prompts.dropped));
        }
        if let Some(path) = &config.data.probe {
            let known = probe::recall(path, &prompts.kept, &mut stages.success)?;
            say(&format!("rates of {known} of {} prompts from {}", prompts.kept.len(), path.display()));
            for line in stages.tokens.begin(stages.success.mean_tokens())? {
                tracing::warn!("{line}");
            }
        }
        check_pool(online, prompts.kept.len())?;
        policy.renderer.warnings().iter().for_each(|w| tracing::warn!("{w}"));
        let thinking = rollout::soft::thinking(online.rollout.soft(), policy.tokenizer())?;
        let trained = policy.decoder.params.trainable_elements();
        say(&format!(
            "{}: {} parameters, {} trained; {} prompts; blocks are {}",
            config.model.path,
            policy.decoder.spec.parameters(),
            trained,
            prompts.kept.len(),
            if policy.keep == Keep::Inputs { "computed again going back (checkpointing)" } else { "kept" }
        ));
        grading::tell_doubts(&rewards, &prompts.kept);
        Ok(Self {
            learner: Learner::new(config, &policy, online.steps * online.train.epochs * online.train.minibatches),
            pool: prompts.kept,
            stages,
            needs,
            rewards,
            sampling: Sampling::from(online.rollout.tokens()),
            thinking,
            runtime,
            state: State::default(),
            idle_steps: 0,
            warned: BTreeMap::new(),
            policy,
            config,
            online,
        })
    }

    /// Takes up the newest whole checkpoint, if there is one.
    pub(super) fn resume(&mut self, folder: &RunFolder) -> Result<Recorder> {
        let found = checkpoint::newest(folder)?;
        let Some((path, state)) = found else {
            say("no checkpoint was written yet: the run starts from the beginning");
            return Recorder::open(folder.path(), self.config.run.tensorboard, None);
        };
        self.policy.restore(&path)?;
        let saved = path.join("optimizer.safetensors");
        self.learner.optimiser.load(&saved, &self.policy.decoder.params, state.optimiser_steps)?;
        self.stages.load(&state.stages)?;
        self.state = state;
        say(&format!("resumed after step {}", self.state.step));
        Recorder::open(folder.path(), self.config.run.tensorboard, Some(self.state.metrics_bytes))
    }

    /// The base model's results: measured before the first step, on a fresh copy in a resumed run; none when the run
    /// was asked to stop meanwhile.
    pub(super) fn base(&mut self, examiner: &Examiner, folder: &RunFolder) -> Result<Sat> {
        let base = if self.state.step == 0 {
            examiner.sit_base(&self.policy, folder)?
        } else {
            let mut fresh = Policy::load(&self.config.model, &self.config.data)?;
            fresh.keep = self.policy.keep;
            examiner.sit_base(&fresh, folder)?
        };
        let Some(base) = base else { return Ok(Sat::default()) };
        base.lines().iter().for_each(|line| say(&format!("      base  {line}")));
        if self.state.step == 0 && !base.graded.is_empty() {
            self.evaluated(&base.graded)?;
        }
        Ok(base)
    }

    /// A test between steps; whether this step is the best so far.
    pub(super) fn test(&mut self, examiner: &Examiner) -> Result<bool> {
        let Some(outcomes) = examiner.check(&self.policy)? else { return Ok(false) };
        outcomes.iter().for_each(|o| say(&format!("      eval  {}", line(o))));
        self.evaluated(&outcomes)
    }

    /// Takes an evaluation in; whether this step is the best so far.
    pub(super) fn evaluated(&mut self, outcomes: &[evaluate::Outcome]) -> Result<bool> {
        let (accuracy, is_best) = evaluate::note(&mut self.state, outcomes);
        self.stages.observe(&Outcome::Evaluation { step: self.state.step, accuracy })?;
        Ok(is_best)
    }

    /// Writes a checkpoint, and removes those that are no longer kept.
    pub(super) fn save(&mut self, folder: &RunFolder, recorder: &mut Recorder) -> Result<PathBuf> {
        self.state.stages = self.stages.save()?;
        self.state.optimiser_steps = self.learner.optimiser.steps();
        self.state.metrics_bytes = recorder.bytes()?;
        let path = checkpoint::save(folder, &self.policy, &self.learner.optimiser, &self.state)?;
        let best = self.state.best.map(|(step, _)| step).filter(|_| self.config.run.keep_best);
        checkpoint::prune(folder, self.config.run.keep_last, best)?;
        Ok(path)
    }
}
