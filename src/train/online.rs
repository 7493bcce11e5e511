//! The loop of a run that samples its own completions.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use candlewick_algorithms::advantage::Advantage;
use candlewick_algorithms::batch::{Advantages, Scores, Soft, Verdict};
use candlewick_algorithms::budget::rollouts::{Effective, Purse, RolloutBudget};
use candlewick_algorithms::budget::tokens::{Plan, TokenBudget};
use candlewick_algorithms::credit::Credit;
use candlewick_algorithms::objective::Objective;
use candlewick_algorithms::prompts::Prompts;
use candlewick_algorithms::success::Success;
use candlewick_algorithms::{Batch, Metrics, Needs, Outcome, State as Remembers, Table};
use candlewick_rewards::{Graded, Rewards};
use indicatif::{ProgressBar, ProgressStyle};

use super::checkpoint::{self, State};
use super::evaluate::{self, Examiner, line, step_rng};
use super::folder::RunFolder;
use super::grading;
use super::metrics::{Recorder, Step};
use super::policy::Policy;
use super::probe::{self, Shown};
use super::radius::Probe;
use super::update::{gradient, live_rows};
use crate::config::{Config, Online, OptimConfig};
use crate::data::{self, Problem, Split};
use crate::hub::Hub;
use crate::model::params::Grads;
use crate::optim::{AdamW, learning_rate};
use crate::rollout::{self, Completion, Event, Request, Sampling, Thinking};

/// Rows decoded together.
const ROWS: usize = 256;
/// Successive steps without a gradient, or with one that is not finite, after which a run stops.
const PATIENCE: usize = 3;

/// The stages of a run, in the order of a step.
struct Stages {
    prompts: Box<dyn Prompts>,
    rollouts: Box<dyn RolloutBudget>,
    tokens: Box<dyn TokenBudget>,
    advantage: Option<Box<dyn Advantage>>,
    credit: Option<Box<dyn Credit>>,
    objective: Box<dyn Objective>,
    success: Success,
}

impl Stages {
    fn build(config: &Config, online: &Online) -> Result<Self> {
        Ok(Self {
            prompts: online.prompts.build()?,
            rollouts: online.budget.rollouts.build()?,
            tokens: online.budget.tokens.build()?,
            advantage: online.advantage.map(|a| a.build()).transpose()?,
            credit: online.credit.map(|c| c.build()).transpose()?,
            objective: config.objective.build()?,
            success: Success::default(),
        })
    }

    fn needs(&self, updates: usize) -> Needs {
        let mut needs = self.objective.needs();
        needs.old_logp |= updates > 1;
        for more in
            [self.advantage.as_ref().map(|a| a.needs()), self.credit.as_ref().map(|c| c.needs())].into_iter().flatten()
        {
            needs = needs.union(&more);
        }
        needs
    }

    fn each(&mut self, mut visit: impl FnMut(&'static str, &mut dyn Remembers) -> Result<()>) -> Result<()> {
        visit("prompts", self.prompts.as_mut())?;
        visit("budget.rollouts", self.rollouts.as_mut())?;
        visit("budget.tokens", self.tokens.as_mut())?;
        if let Some(advantage) = &mut self.advantage {
            visit("advantage", advantage.as_mut())?;
        }
        if let Some(credit) = &mut self.credit {
            visit("credit", credit.as_mut())?;
        }
        visit("objective", self.objective.as_mut())
    }

    fn save(&mut self) -> Result<BTreeMap<String, serde_json::Value>> {
        let mut saved = BTreeMap::from([("success".to_owned(), serde_json::to_value(&self.success)?)]);
        self.each(|name, stage| {
            saved.extend(stage.save().map(|value| (name.to_owned(), value)));
            Ok(())
        })?;
        Ok(saved)
    }

    fn load(&mut self, saved: &BTreeMap<String, serde_json::Value>) -> Result<()> {
        if let Some(success) = saved.get("success") {
            self.success = serde_json::from_value(success.clone())
                .context("the checkpoint's success statistics cannot be read")?;
        }
        self.each(|name, stage| match saved.get(name) {
            Some(value) => Ok(stage.load(value)?),
            None => Ok(()),
        })
    }

    fn observe(&mut self, outcome: &Outcome) -> Result<()> {
        self.each(|_, stage| {
            stage.observe(outcome);
            Ok(())
        })
    }
}

/// A run under way.
struct Run<'a> {
    config: &'a Config,
    online: &'a Online<'a>,
    policy: Policy,
    pool: Vec<(Problem, Vec<u32>)>,
    stages: Stages,
    needs: Needs,
    rewards: Rewards,
    sampling: Sampling,
    thinking: Option<Thinking>,
    runtime: tokio::runtime::Runtime,
    optimiser: AdamW,
    grads: Grads,
    state: State,
    has_checked_gradients: bool,
    idle_steps: usize,
    bad_steps: usize,
}

/// What the stages before the objective report, over the draws of a step.
#[derive(Default)]
struct Counts {
    prompts: Metrics,
    budget: Metrics,
    tokens: Metrics,
}

/// A graded draw of rollouts.
struct Draw {
    batch: Batch,
    completions: Vec<Completion>,
    prompts: Vec<usize>,
    texts: Vec<String>,
    graded: Graded,
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
    let examiner = Examiner::for_run(&run.policy, config, last)?;
    let base = if examiner.is_empty() { Vec::new() } else { run.base(&examiner, &folder)? };
    let started = Instant::now();
    let before = run.state.seconds;
    while run.state.step < online.steps && !super::is_stopping() {
        let step = run.step(&folder)?;
        run.state.seconds = before + started.elapsed().as_secs_f64();
        recorder.record(run.state.step, &step)?;
        say(&run.line(&step));
        run.warn(&step);
        let (is_last, mut is_best) = (run.state.step == online.steps, false);
        if config.eval.every > 0 && run.state.step % config.eval.every == 0 && !is_last && !examiner.is_empty() {
            let outcomes = examiner.check(&run.policy)?;
            outcomes.iter().for_each(|o| say(&format!("      eval  {}", line(o))));
            is_best = run.evaluated(&outcomes)? && config.run.keep_best;
        }
        let is_due = config.run.save_every > 0 && run.state.step % config.run.save_every == 0;
        if !is_last && (is_due || is_best || super::is_stopping()) {
            run.save(&folder, &mut recorder)?;
        }
    }
    if run.state.step < online.steps {
        say(&format!("stopped after step {}: go on with the same command and `--resume`", run.state.step));
        return Ok(());
    }
    let last = if examiner.is_empty() { Vec::new() } else { examiner.sit(&run.policy)? };
    if !last.is_empty() {
        run.evaluated(&last)?;
    }
    let checkpoint = run.save(&folder, &mut recorder)?;
    finish(&folder, &checkpoint, &examiner, &run.policy, (&base, &last), &run.state)
}

/// The closing summary: what was gained, and where everything is.
pub(super) fn finish(
    folder: &RunFolder,
    checkpoint: &std::path::Path,
    examiner: &Examiner,
    policy: &Policy,
    (base, last): (&[evaluate::Outcome], &[evaluate::Outcome]),
    state: &State,
) -> Result<()> {
    say("");
    if !last.is_empty() {
        let sentences = examiner.write_report(policy, folder, checkpoint, base, last, state)?;
        for (before, after) in base.iter().zip(last) {
            say(&format!("base   {}", line(before)));
            say(&format!("final  {}", line(after)));
            say(&format!(
                "last number anywhere counted as the answer: base {:.3}, final {:.3}",
                before.lenient(),
                after.lenient()
            ));
        }
        sentences.iter().for_each(|s| say(s));
    }
    say(&format!(
        "{} steps in {:.0} s, {} tokens sampled, {} trained on",
        state.step, state.seconds, state.sampled_tokens, state.trained_tokens
    ));
    if let Some(bytes) = crate::model::memory::peak() {
        say(&format!("peak memory {}", crate::model::memory::size(bytes)));
    }
    say(&format!("checkpoint  {}", checkpoint.display()));
    say(&format!("metrics     {}", folder.join("metrics.jsonl").display()));
    if let Some((best, _)) =
        state.best.filter(|(best, _)| *best != state.step && folder.join(&format!("checkpoints/{best}")).is_dir())
    {
        say(&format!("best        {}", folder.join(&format!("checkpoints/{best}")).display()));
    }
    if !last.is_empty() {
        say(&format!("report      {}", folder.join("report/report.html").display()));
    }
    Ok(())
}

impl<'a> Run<'a> {
    fn prepare(config: &'a Config, online: &'a Online<'a>, folder: &RunFolder) -> Result<Self> {
        let mut stages = Stages::build(config, online)?;
        let updates = online.train.epochs * online.train.minibatches;
        let needs = stages.needs(updates);
        let policy = Policy::for_run(config, needs.reference())?;
        super::check_model(config, &policy.decoder.spec)?;
        let problems = data::load(&config.data, &Hub::from_env(), Split::Train)?.problems()?;
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
        ensure!(!prompts.kept.is_empty(), "no prompt is left to train on: raise `data.max_prompt_tokens`");
        policy.renderer.warnings().iter().for_each(|w| tracing::warn!("{w}"));
        let thinking = rollout::soft::thinking(online.rollout.soft(), policy.tokenizer())?;
        let trained = policy.decoder.params.trainable_elements();
        say(&format!(
            "{}: {} parameters, {} trained; {} prompts; blocks are {}",
            config.model.path,
            policy.decoder.spec.parameters(),
            trained,
            prompts.kept.len(),
            if policy.keep == crate::model::decoder::Keep::Inputs {
                "computed again going back (checkpointing)"
            } else {
                "kept"
            }
        ));
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let problems: Vec<&Problem> = prompts.kept.iter().map(|(problem, _)| problem).collect();
        let rewards = grading::prepare(online.reward, folder.path(), &policy.decoder, &problems, &runtime)?;
        Ok(Self {
            optimiser: AdamW::new(&config.optim, &policy.decoder.params),
            grads: Grads::new(&policy.decoder.params),
            pool: prompts.kept,
            stages,
            needs,
            rewards,
            sampling: Sampling::from(online.rollout.tokens()),
            thinking,
            runtime,
            state: State::default(),
            has_checked_gradients: false,
            idle_steps: 0,
            bad_steps: 0,
            policy,
            config,
            online,
        })
    }

    fn resume(&mut self, folder: &RunFolder) -> Result<Recorder> {
        let found = checkpoint::newest(folder)?;
        let Some((path, state)) = found else {
            say("no checkpoint was written yet: the run starts from the beginning");
            return Recorder::open(folder.path(), self.config.run.tensorboard, None);
        };
        self.policy.restore(&path)?;
        self.optimiser.load(&path.join("optimizer.safetensors"), &self.policy.decoder.params, state.optimiser_steps)?;
        self.stages.load(&state.stages)?;
        self.state = state;
        say(&format!("resumed after step {}", self.state.step));
        Recorder::open(folder.path(), self.config.run.tensorboard, Some(self.state.metrics_bytes))
    }

    /// The base model's results: measured before the first step, on a fresh copy in a resumed run.
    fn base(&mut self, examiner: &Examiner, folder: &RunFolder) -> Result<Vec<evaluate::Outcome>> {
        let outcomes = if self.state.step == 0 {
            examiner.sit_base(&self.policy, folder)?
        } else {
            let mut fresh = Policy::load(&self.config.model, &self.config.data)?;
            fresh.keep = self.policy.keep;
            examiner.sit_base(&fresh, folder)?
        };
        outcomes.iter().for_each(|o| say(&format!("      base  {}", line(o))));
        if self.state.step == 0 {
            self.evaluated(&outcomes)?;
        }
        Ok(outcomes)
    }

    /// Takes an evaluation in; whether this step is the best so far.
    fn evaluated(&mut self, outcomes: &[evaluate::Outcome]) -> Result<bool> {
        let (accuracy, is_best) = evaluate::note(&mut self.state, outcomes);
        self.stages.observe(&Outcome::Evaluation { step: self.state.step, accuracy })?;
        Ok(is_best)
    }

    fn save(&mut self, folder: &RunFolder, recorder: &mut Recorder) -> Result<std::path::PathBuf> {
        self.state.stages = self.stages.save()?;
        self.state.optimiser_steps = self.optimiser.steps();
        self.state.metrics_bytes = recorder.bytes()?;
        let path = checkpoint::save(folder, &self.policy, &self.optimiser, &self.state)?;
        let best = self.state.best.map(|(step, _)| step).filter(|_| self.config.run.keep_best);
        checkpoint::prune(folder, self.config.run.keep_last, best)?;
        Ok(path)
    }

    /// One step: draw, grade, advantage, credit, updates.
    fn step(&mut self, folder: &RunFolder) -> Result<Step> {
        let (mut metrics, mut clock) = (Step::default(), Clock::new());
        let index = self.state.step;
        let (mut batch, samples) = self.draws(folder, &mut metrics, &mut clock)?;
        batch.vocabulary = Some(self.policy.decoder.spec.vocab_size);
        self.policy.score(&mut batch, &self.needs, self.sampling.scoring_temperature())?;
        clock.lap(&mut metrics, "score");
        self.weigh_rewards(&batch, &mut metrics)?;
        if let Some(advantage) = &mut self.stages.advantage {
            metrics.extend("advantage", &advantage.apply(&mut batch)?);
        }
        if let Some(credit) = &mut self.stages.credit {
            metrics.extend("credit", &credit.apply(&mut batch)?);
            clock.lap(&mut metrics, "credit");
        }
        self.stages.objective.prepare(&mut batch)?;
        self.updates(&batch, &mut metrics)?;
        clock.lap(&mut metrics, "update");
        self.state.step = index + 1;
        self.policy.sync_reference(self.state.step)?;
        self.log_samples(folder, &batch, &samples)?;
        self.stages.observe(&Outcome::Step {
            step: index,
            is_accepted: self.bad_steps == 0,
            entropy: metrics.get("rollout/entropy"),
            accuracy: metrics.get("reward/accuracy"),
            tokens: metrics.get("rollout/tokens_mean"),
        })?;
        metrics.set("time/step", clock.total());
        let tokens = metrics.get("rollout/tokens").unwrap_or(0.0) + metrics.get("train/tokens").unwrap_or(0.0);
        metrics.set("train/tokens_per_second", tokens / clock.total());
        Ok(metrics)
    }

    /// Hands a mixer that asks for them the gradients of each reward, as their Gram matrix.
    fn weigh_rewards(&mut self, batch: &Batch, metrics: &mut Step) -> Result<()> {
        let Some(advantage) = &mut self.stages.advantage else { return Ok(()) };
        let Some(parts) = advantage.parts(batch)? else { return Ok(()) };
        let started = Instant::now();
        let (params, mut each) = (&self.policy.decoder.params, Vec::with_capacity(parts.len()));
        for part in parts {
            let mut alone = batch.clone();
            alone.advantage = Some(part);
            if let Some(credit) = &mut self.stages.credit {
                credit.apply(&mut alone)?;
            }
            self.stages.objective.prepare(&mut alone)?;
            alone.count_totals();
            let (mut grads, temperature) = (Grads::new(params), self.sampling.scoring_temperature());
            let update = gradient(&self.policy, self.stages.objective.as_ref(), &alone, &mut grads, temperature, None)?;
            self.state.trained_tokens += update.tokens as u64;
            each.push(grads);
        }
        let mut gram = vec![vec![0.0; each.len()]; each.len()];
        for j in 0..each.len() {
            for k in 0..=j {
                gram[j][k] = each[j].dot(&each[k])?;
                gram[k][j] = gram[j][k];
            }
        }
        metrics.set("time/advantage_gradients", started.elapsed().as_secs_f64());
        Ok(advantage.weigh(&batch.scores.names, &gram)?)
    }

    /// Draws until the step has its groups: more than once only where a stage refuses groups.
    fn draws(&mut self, folder: &RunFolder, metrics: &mut Step, clock: &mut Clock) -> Result<(Batch, Vec<String>)> {
        let step = self.state.step;
        let plan = self.stages.tokens.plan(step, self.online.steps)?;
        let wanted = self.stages.prompts.per_step();
        let mut rng = step_rng(self.config.run.seed, step, 0x9203);
        let (mut kept, mut texts): (Vec<Batch>, Vec<String>) = (Vec::new(), Vec::new());
        let (mut groups, mut totals, mut counts) = (0, Metrics::new(), Counts::default());
        for draw_index in 0..self.stages.prompts.max_draws().max(1) {
            let missing = wanted - groups;
            let chosen = self.stages.prompts.choose(self.pool.len(), &self.stages.success, missing, &mut rng)?;
            if chosen.is_empty() {
                break;
            }
            let mut draw = self.draw(&chosen, plan, draw_index, clock, metrics, &mut counts.budget)?;
            self.stages.prompts.tag(&mut draw.batch);
            self.record_success(&draw, &mut counts.budget);
            totals.merge(&rollout_metrics(&draw, &self.rewards));
            counts.tokens.merge(&super::told::metrics(&draw.batch));
            self.check_failures(folder, &draw)?;
            let accepted = self.stages.prompts.accept(&draw.batch)?;
            totals.merge(&{
                let mut m = Metrics::new();
                m.sum("draws", 1.0);
                m
            });
            counts.prompts.merge(&accepted.metrics);
            let ranges = draw.batch.groups();
            for &g in accepted.keep.iter().take(missing) {
                let rows: Vec<usize> = ranges[g].clone().collect();
                texts.extend(rows.iter().map(|&r| draw.texts[r].clone()));
                kept.push(draw.batch.select(&rows));
                groups += 1;
            }
            if groups >= wanted || self.stages.prompts.max_draws() <= 1 {
                break;
            }
        }
        metrics.extend("rollout", &totals);
        metrics.extend("prompts", &counts.prompts);
        metrics.extend("budget/rollouts", &counts.budget);
        metrics.extend("budget/tokens", &counts.tokens);
        for name in ["accuracy"].into_iter().chain(self.rewards.names()) {
            for suffix in ["", "_std", "_failed"] {
                let key = format!("reward_{name}{suffix}");
                if let Some(value) = totals.get(&key) {
                    metrics.set(format!("reward/{name}{}", suffix.replace('_', "/")), value);
                }
            }
        }
        ensure!(!kept.is_empty(), "no group was kept in step {step}: loosen the stage that refuses them");
        Ok((join(&kept)?, texts))
    }

    fn draw(
        &mut self,
        chosen: &[usize],
        plan: Plan,
        draw: usize,
        clock: &mut Clock,
        metrics: &mut Step,
        budget: &mut Metrics,
    ) -> Result<Draw> {
        let step = self.state.step;
        let purse = Purse { step, run: None, horizon: self.online.steps - step };
        let allocation = self.stages.rollouts.allocate(&self.stages.success.estimates(chosen), &purse)?;
        budget.merge(&allocation.metrics);
        let given: Vec<(usize, usize)> =
            chosen.iter().copied().zip(allocation.counts.iter().copied()).filter(|(_, count)| *count > 0).collect();
        let prompts: Vec<usize> = given.iter().map(|(id, _)| *id).collect();
        let shown: Vec<Shown> =
            prompts.iter().map(|&id| probe::shown(&self.policy, &self.pool[id], plan)).collect::<Result<_>>()?;
        let requests: Vec<Request> = given
            .iter()
            .zip(&shown)
            .map(|(&(id, count), shown)| Request {
                id: id as u64,
                prompt: shown.tokens.clone(),
                samples: 0..count as u64,
                cap: plan.cap,
            })
            .collect();
        let settings = rollout::Settings {
            sampling: self.sampling.clone(),
            thinking: self.thinking.clone(),
            eos: self.policy.tokenizer().eos().to_vec(),
            stop: rollout::stop_strings(self.policy.tokenizer(), &self.online.rollout.tokens().stop),
            key: vec![self.config.run.seed, step as u64, draw as u64],
            max_rows: ROWS,
            has_adapter: true,
        };
        let total: usize = allocation.counts.iter().sum();
        let bar = progress(total as u64, &format!("step {} sampling", step + 1));
        let first: Vec<usize> = requests
            .iter()
            .scan(0, |next, request| Some(std::mem::replace(next, *next + request.samples.clone().count())))
            .collect();
        let mut grading = self.rewards.begin(total, self.runtime.handle());
        let mut trouble = None;
        // Each completion is graded as soon as it is finished, while others are still sampled.
        let completions = rollout::generate(&self.policy.decoder, &requests, &settings, |event| {
            if let Event::Finished(completion) = event {
                bar.inc(1);
                let request = completion.request;
                match self.policy.tokenizer().decode(&completion.tokens, true) {
                    Ok(text) => {
                        let problem = &self.pool[prompts[request]].0;
                        let item = probe::item(problem, &shown[request].text, text, completion, plan);
                        grading.push(first[request] + completion.sample as usize, item);
                    }
                    Err(error) => trouble = Some(error),
                }
            }
            if trouble.is_some() { std::ops::ControlFlow::Break(()) } else { std::ops::ControlFlow::Continue(()) }
        })?;
        bar.finish_and_clear();
        if let Some(error) = trouble {
            return Err(error);
        }
        self.state.sampled_tokens += completions.iter().map(|c| c.tokens.len() as u64).sum::<u64>();
        clock.lap(metrics, "rollout");
        let texts =
            completions.iter().map(|c| self.policy.tokenizer().decode(&c.tokens, true)).collect::<Result<Vec<_>>>()?;
        let graded = grading::finish(&self.runtime, grading, total * self.rewards.names().len(), step + 1);
        for (name, value) in self.runtime.block_on(self.rewards.figures(step)) {
            metrics.set(format!("reward/{name}"), value);
        }
        clock.lap(metrics, "reward");
        let batch = self.batch(&completions, &prompts, &shown, plan, &graded)?;
        Ok(Draw { batch, completions, prompts, texts, graded })
    }

    fn batch(
        &self,
        completions: &[Completion],
        prompts: &[usize],
        shown: &[Shown],
        plan: Plan,
        graded: &Graded,
    ) -> Result<Batch> {
        let ones: Vec<Vec<f64>> = completions.iter().map(|c| vec![1.0; c.tokens.len()]).collect();
        let groups = completions.iter().map(|c| prompts[c.request]).collect();
        let mut batch = Batch::new(Table::ragged(&ones, 0.0), groups)?;
        for (i, c) in completions.iter().enumerate() {
            let prompt = &shown[c.request].tokens;
            batch.tokens[i] = prompt.iter().chain(&c.tokens).copied().collect();
            batch.prompt_len[i] = prompt.len();
            batch.finish[i] = c.finish;
            batch.told[i] = plan.told;
            batch.verdict[i] = match graded.verdict[i] {
                Some(v) if v > 0.5 => Verdict::Right,
                Some(_) => Verdict::Wrong,
                None => Verdict::Missing,
            };
        }
        batch.max_completion = plan.cap;
        self.soften(&mut batch, completions)?;
        let logp: Vec<&[f64]> = completions.iter().map(|c| c.logp.as_slice()).collect();
        batch.sampling_logp = Some(Table::ragged(&logp, 0.0));
        batch.scores = Scores {
            names: self.rewards.names().into_iter().map(str::to_owned).collect(),
            values: (0..completions.len())
                .map(|i| graded.scores.iter().map(|column| column[i].as_ref().ok().copied()).collect())
                .collect(),
        };
        Ok(batch)
    }

    /// Adds the soft steps of the completions, if steps are soft.
    fn soften(&self, batch: &mut Batch, completions: &[Completion]) -> Result<()> {
        let Some(thinking) = &self.thinking else { return Ok(()) };
        let density = thinking.density.context("[rollout.soft], as it is set, makes mixtures without a density")?;
        let rows: Vec<_> = completions.iter().map(|c| c.soft.clone()).collect();
        let flags: Vec<Vec<f64>> = rows.iter().map(|r| vec![1.0; r.len()]).collect();
        let mut is_soft = Table::zeros(batch.rows(), batch.width());
        flags.iter().enumerate().for_each(|(i, row)| is_soft.row_mut(i)[..row.len()].copy_from_slice(row));
        batch.is_soft = Some(is_soft);
        let trains_inputs = self.online.rollout.soft().is_some_and(|s| s.trains_inputs);
        batch.soft = Some(Soft { rows, density, tau: thinking.noise.tau, trains_inputs });
        Ok(())
    }

    /// Success statistics of a draw. Metric `calibration_error`: mean |rate estimated before - rate of this draw| over prompts
    /// that were judged before; about the standard error of the draw's rates where estimates are good.
    fn record_success(&mut self, draw: &Draw, metrics: &mut Metrics) {
        for range in draw.batch.groups() {
            let id = draw.batch.group[range.start];
            let verdicts = &draw.batch.verdict[range.clone()];
            let outcomes: Vec<bool> =
                verdicts.iter().filter(|v| **v != Verdict::Missing).map(|v| *v == Verdict::Right).collect();
            let rate = outcomes.iter().filter(|right| **right).count() as f64 / outcomes.len() as f64;
            let estimate = self.stages.success.estimates(&[id]).remove(0);
            if let (Some(before), false) = (estimate.recent_rate(16), outcomes.is_empty()) {
                metrics.mean("calibration_error", (before - rate).abs(), 1.0);
            }
            let tokens = draw.completions[range.clone()].iter().map(|c| c.tokens.len() as u64).sum();
            debug_assert!(draw.prompts.contains(&id));
            self.stages.success.record(id, &outcomes, range.len() as u64, tokens);
        }
    }

    /// Keeps the failures' texts, and stops the run where a reward has too many.
    fn check_failures(&self, folder: &RunFolder, draw: &Draw) -> Result<()> {
        let describe = |row: usize| {
            let id = &self.pool[draw.prompts[draw.completions[row].request]].0.id;
            (id.clone(), draw.texts[row].clone())
        };
        let (step, rollouts) = (self.state.step + 1, folder.join("rollouts"));
        grading::keep_failures(&rollouts, step, &self.rewards.names(), &draw.graded, describe)?;
        if let Some((name, share, failure)) = self.rewards.too_many_failures(&draw.graded) {
            bail!(
                "reward `{name}` failed on {:.0} % of the completions of step {step}, more than `reward.max_failed_share` \
                 allows: {failure} (their texts: {})",
                100.0 * share,
                rollouts.join("failures.jsonl").display()
            );
        }
        Ok(())
    }

    /// `epochs` passes over the batch, each in `minibatches` optimiser steps.
    fn updates(&mut self, batch: &Batch, metrics: &mut Step) -> Result<()> {
        let train = self.online.train;
        let total = self.online.steps * train.epochs * train.minibatches;
        let (mut seen, mut loss, mut largest) = (Metrics::new(), 0.0, 0.0_f64);
        for epoch in 0..train.epochs {
            for mut mini in minibatches(batch, train.minibatches, self.config.run.seed, self.state.step, epoch) {
                mini.count_totals();
                self.grads.clear();
                let dropout = Some(self.state.scheduled_steps as u64 ^ self.config.run.seed.rotate_left(32));
                let temperature = self.sampling.scoring_temperature();
                let update = gradient(
                    &self.policy,
                    self.stages.objective.as_ref(),
                    &mini,
                    &mut self.grads,
                    temperature,
                    dropout,
                )?;
                self.state.trained_tokens += update.tokens as u64;
                let rate = learning_rate(&self.config.optim, self.state.scheduled_steps, total);
                let (radius, at) = (&self.config.optim.radius, self.state.scheduled_steps);
                let probe = Probe::before(&self.policy, &mini, radius.as_ref(), at)?;
                let report =
                    self.optimiser.step_with_loss(&self.policy.decoder.params, &self.grads, rate, update.loss)?;
                if let Some(probe) = probe.filter(|_| report.is_accepted) {
                    probe.after(&self.policy, metrics)?;
                }
                self.state.scheduled_steps += 1;
                if report.is_spike {
                    self.state.skipped_spikes += 1;
                } else {
                    self.check_gradients(&mini, report.grad_norm, report.is_accepted)?;
                }
                metrics.set("optim/grad_norm_l1", report.grad_norm_l1);
                if report.is_accepted {
                    self.stages.objective.commit(&mini, &update.metrics)?;
                }
                largest = largest.max(report.grad_norm);
                loss += update.loss;
                seen.merge(&update.metrics);
                seen.sum("tokens", update.tokens as f64);
                metrics.set("optim/learning_rate", rate);
            }
        }
        let updates = (train.epochs * train.minibatches) as f64;
        metrics.set("train/tokens", seen.get("tokens").unwrap_or(0.0));
        metrics.extend(&format!("objective/{}", self.config.objective.variant()), &seen);
        metrics.set("objective/loss", loss / updates);
        metrics.set("optim/grad_norm", largest);
        metrics.set("optim/dropped_steps", self.state.dropped_steps as f64);
        if self.config.optim.skip_spikes.is_some() {
            metrics.set("optim/skipped_spikes", self.state.skipped_spikes as f64);
        }
        Ok(())
    }

    /// A gradient that is not finite, missing or cut stops the run with the names of what is wrong.
    fn check_gradients(&mut self, batch: &Batch, norm: f64, is_accepted: bool) -> Result<()> {
        if !is_accepted {
            self.state.dropped_steps += 1;
            self.bad_steps += 1;
            tracing::warn!("step {}: the gradient is not finite, so nothing was changed", self.state.step + 1);
            ensure!(
                self.bad_steps < PATIENCE,
                "optim: the gradient was not finite in {PATIENCE} successive updates up to step {}: lower `optim.learning_rate`",
                self.state.step + 1
            );
            return Ok(());
        }
        self.bad_steps = 0;
        let has_signal = match &batch.advantage {
            Some(Advantages::Row(a)) => a.iter().zip(&batch.keep).any(|(a, keep)| *keep && *a != 0.0),
            Some(Advantages::Token(a)) => a.data().iter().any(|a| *a != 0.0),
            None => true,
        };
        let has_signal = has_signal && live_rows(self.stages.objective.as_ref(), batch).contains(&true);
        self.idle_steps = if norm == 0.0 && has_signal { self.idle_steps + 1 } else { 0 };
        ensure!(
            self.idle_steps < PATIENCE,
            "optim: the gradient was zero in {PATIENCE} successive updates although advantages were not"
        );
        if norm > 0.0 && !self.has_checked_gradients {
            self.has_checked_gradients = true;
            let is_fixed = batch.soft.as_ref().is_some_and(|soft| !soft.trains_inputs);
            check_every_parameter(&self.policy, &self.grads, is_fixed)?;
        }
        Ok(())
    }

    fn log_samples(&self, folder: &RunFolder, batch: &Batch, texts: &[String]) -> Result<()> {
        if self.config.run.log_samples == 0 {
            return Ok(());
        }
        let path = folder.join("rollouts");
        std::fs::create_dir_all(&path).with_context(|| format!("{} cannot be made", path.display()))?;
        let mut lines = String::new();
        for i in (0..batch.rows()).take(self.config.run.log_samples) {
            let problem = &self.pool[batch.group[i]].0;
            let advantage = match &batch.advantage {
                Some(Advantages::Row(a)) => serde_json::json!(a[i]),
                Some(Advantages::Token(a)) => serde_json::json!(a.row(i)),
                None => serde_json::Value::Null,
            };
            let scores: serde_json::Map<_, _> = batch
                .scores
                .names
                .iter()
                .zip(&batch.scores.values[i])
                .map(|(n, v)| (n.clone(), serde_json::json!(v)))
                .collect();
            let object = serde_json::json!({"step": self.state.step, "id": problem.id, "problem": problem.text, "answer": problem.answer,
                "completion": texts[i], "finish": batch.finish[i], "scores": scores, "verdict": batch.verdict[i], "advantage": advantage});
            lines.push_str(&object.to_string());
            lines.push('\n');
        }
        super::folder::write_atomically(&path.join(format!("{:06}.jsonl", self.state.step)), lines.as_bytes())
    }

    /// The step in one line.
    fn line(&self, m: &Step) -> String {
        let left = (self.online.steps - self.state.step) as f64 * self.state.seconds / self.state.step.max(1) as f64;
        let share = |name: &str| 100.0 * m.get(name).unwrap_or(0.0);
        format!(
            "step {:>4}/{}  right {:>5.1} %  tokens {:>5.1}  cut {:>3.0} %  idle groups {:>3.0} %  entropy {:.3}  grad {:.2e}  lr {:.1e}  {:>5.0} tok/s  {:.1} s  left {}",
            self.state.step,
            self.online.steps,
            share("reward/accuracy"),
            m.get("rollout/tokens_mean").unwrap_or(0.0),
            share("rollout/truncated"),
            share("rollout/zero_std_groups"),
            m.get("rollout/entropy").unwrap_or(0.0),
            m.get("optim/grad_norm").unwrap_or(0.0),
            m.get("optim/learning_rate").unwrap_or(0.0),
            m.get("train/tokens_per_second").unwrap_or(0.0),
            m.get("time/step").unwrap_or(0.0),
            duration(left),
        )
    }

    /// Health warnings that say what to do, each at most every tenth step.
    fn warn(&self, m: &Step) {
        let step = self.state.step;
        if step % 10 != 1 {
            return;
        }
        let is_above = |name: &str, limit: f64| m.get(name).is_some_and(|v| v > limit);
        if is_above("rollout/zero_std_groups", 0.8) {
            tracing::warn!(
                "step {step}: most groups score alike and teach nothing: choose other problems, or [prompts.dynamic]"
            );
        }
        if is_above("rollout/truncated", 0.3) {
            tracing::warn!("step {step}: many completions are cut off: raise the limit of `budget.tokens`");
        }
        if m.get("rollout/entropy").is_some_and(|e| e < 0.02) {
            tracing::warn!(
                "step {step}: the entropy has collapsed: lower `optim.learning_rate` or raise `objective.grpo.epsilon_high`"
            );
        }
        if is_above("credit/rank_capped", 0.0) {
            tracing::warn!(
                "step {step}: some prompts have fewer right tokens than `credit.resrl.rank`, so their subspace holds all of them: lower it"
            );
        }
        if is_above("rollout/logp_gap", 1e-3) {
            tracing::warn!(
                "step {step}: sampled and scored log-probs differ by more than 0.001: use `model.dtype` = `f32`"
            );
        }
    }
}

/// The first step whose gradient is not zero must reach every trainable parameter, but an embedding
/// table apart from the head where inputs are fixed.
pub(super) fn check_every_parameter(policy: &Policy, grads: &Grads, has_fixed_inputs: bool) -> Result<()> {
    let mut missing = grads.untouched(&policy.decoder.params)?;
    missing.retain(|name| !(has_fixed_inputs && *name == "model.embed_tokens.weight"));
    // B starts at zero, so A has no gradient in the very first step.
    missing.retain(|name| !name.contains(".lora_A."));
    ensure!(missing.is_empty(), "no gradient reaches {} trainable tensors, `{}` first", missing.len(), missing[0]);
    Ok(())
}

/// Groups dealt out to `count` minibatches, in an order of each epoch's own.
fn minibatches(batch: &Batch, count: usize, seed: u64, step: usize, epoch: usize) -> Vec<Batch> {
    let mut groups = batch.groups();
    if count > 1 {
        step_rng(seed, step, 0x3141 + epoch as u64).shuffle(&mut groups);
    }
    let count = count.min(groups.len()).max(1);
    let size = groups.len().div_ceil(count);
    groups.chunks(size).map(|part| batch.select(&part.iter().cloned().flatten().collect::<Vec<_>>())).collect()
}

/// One batch of several, rows in order, padded to the widest.
fn join(parts: &[Batch]) -> Result<Batch> {
    let rows = |f: &dyn Fn(&Batch, usize) -> Vec<f64>| -> Table {
        let all: Vec<Vec<f64>> =
            parts.iter().flat_map(|p| (0..p.rows()).map(|i| f(p, i)).collect::<Vec<_>>()).collect();
        Table::ragged(&all, 0.0)
    };
    let mut groups = Vec::new();
    for part in parts {
        groups.extend_from_slice(&part.group);
    }
    let mut batch = Batch::new(rows(&|p, i| p.mask.row(i).to_vec()), groups)?;
    batch.sampling_logp = Some(rows(&|p, i| p.sampling_logp.as_ref().map(|t| t.row(i).to_vec()).unwrap_or_default()));
    batch.max_completion = parts.iter().map(|p| p.max_completion).max().unwrap_or(0);
    if let Some(first) = parts.iter().find_map(|p| p.soft.as_ref()) {
        batch.is_soft = Some(rows(&|p, i| p.is_soft.as_ref().map(|t| t.row(i).to_vec()).unwrap_or_default()));
        let all = parts.iter().filter_map(|p| p.soft.as_ref()).flat_map(|s| s.rows.iter().cloned()).collect();
        batch.soft = Some(Soft { rows: all, ..first.clone() });
    }
    let mut at = 0;
    batch.scores.names = parts.first().map(|p| p.scores.names.clone()).unwrap_or_default();
    for part in parts {
        for i in 0..part.rows() {
            batch.tokens[at] = part.tokens[i].clone();
            batch.prompt_len[at] = part.prompt_len[i];
            batch.finish[at] = part.finish[i];
            batch.told[at] = part.told[i];
            batch.role[at] = part.role[i];
            batch.pair[at] = part.pair[i];
            batch.verdict[at] = part.verdict[i];
            batch.scores.values[at] = part.scores.values[i].clone();
            at += 1;
        }
    }
    Ok(batch)
}

/// What the rollouts and their scores look like.
fn rollout_metrics(draw: &Draw, rewards: &Rewards) -> Metrics {
    let (mut m, n) = (Metrics::new(), draw.completions.len() as f64);
    let lengths: Vec<f64> = draw.completions.iter().map(|c| c.tokens.len() as f64).collect();
    let tokens: f64 = lengths.iter().sum();
    m.sum("tokens", tokens);
    m.mean("tokens_mean", tokens / n, n);
    m.min("tokens_min", lengths.iter().copied().fold(f64::INFINITY, f64::min));
    m.max("tokens_max", lengths.iter().copied().fold(0.0, f64::max));
    let is_cut = |c: &&Completion| c.finish == candlewick_algorithms::batch::Finish::Length;
    m.mean("truncated", draw.completions.iter().filter(is_cut).count() as f64 / n, n);
    m.mean("entropy", draw.completions.iter().flat_map(|c| &c.entropy).sum::<f64>() / tokens, tokens);
    let groups = draw.batch.groups();
    let is_flat =
        |range: &std::ops::Range<usize>| draw.batch.scores.values[range.clone()].windows(2).all(|w| w[0] == w[1]);
    m.mean(
        "zero_std_groups",
        groups.iter().filter(|r| is_flat(r)).count() as f64 / groups.len() as f64,
        groups.len() as f64,
    );
    // Shares that a group-relative method can learn from: rollouts in groups whose scores differ.
    let scores: Vec<&[Vec<Option<f64>>]> = groups.iter().map(|r| &draw.batch.scores.values[r.clone()]).collect();
    m.mean("effective_gradient_ratio", Effective::of(&scores).rollouts, n);
    let verdicts: Vec<&[Verdict]> = groups.iter().map(|r| &draw.batch.verdict[r.clone()]).collect();
    m.mean("mixed_groups", Effective::of(&verdicts).prompts, groups.len() as f64);
    let judged: Vec<f64> = draw.graded.verdict.iter().flatten().copied().collect();
    m.mean("reward_accuracy", judged.iter().sum::<f64>() / judged.len().max(1) as f64, judged.len() as f64);
    for (column, name) in rewards.names().into_iter().enumerate() {
        let scores: Vec<f64> = draw.graded.scores[column].iter().filter_map(|s| s.as_ref().ok().copied()).collect();
        let k = scores.len() as f64;
        let mean = scores.iter().sum::<f64>() / k.max(1.0);
        let variance = scores.iter().map(|s| (s - mean) * (s - mean)).sum::<f64>() / (k - 1.0).max(1.0);
        m.mean(&format!("reward_{name}"), mean, k);
        m.mean(&format!("reward_{name}_std"), variance.sqrt(), k);
        m.sum(&format!("reward_{name}_failed"), draw.graded.scores[column].len() as f64 - k);
    }
    m
}

/// Wall time by stage.
pub(super) struct Clock {
    started: Instant,
    lap: Instant,
}

impl Clock {
    pub(super) fn new() -> Self {
        Self { started: Instant::now(), lap: Instant::now() }
    }

    fn lap(&mut self, metrics: &mut Step, stage: &str) {
        let name = format!("time/{stage}");
        let before = metrics.get(&name).unwrap_or(0.0);
        metrics.set(name, before + self.lap.elapsed().as_secs_f64());
        self.lap = Instant::now();
    }

    pub(super) fn total(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }
}

/// Seconds as a person reads them.
pub(crate) fn duration(seconds: f64) -> String {
    let s = seconds.round() as u64;
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{}:{:02} min", s / 60, s % 60),
        _ => format!("{}:{:02} h", s / 3600, s % 3600 / 60),
    }
}

/// A progress bar on terminals, with an estimate of the time left.
pub(crate) fn progress(total: u64, what: &str) -> ProgressBar {
    let bar = if std::io::stderr().is_terminal() { ProgressBar::new(total) } else { ProgressBar::hidden() };
    let style = ProgressStyle::with_template("{msg} {bar:30} {pos}/{len}  left {eta}");
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())).with_message(what.to_owned())
}

/// Prints a line of the run's account.
pub(super) fn say(line: &str) {
    // Whoever stopped reading the account does not stop the run.
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Steps of the optimiser settings in use; kept here so that offline and online agree.
pub(super) fn rate(config: &OptimConfig, step: usize, total: usize) -> f64 {
    learning_rate(config, step, total)
}
