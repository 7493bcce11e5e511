//! The loop of a run on given examples, or on pairs that it makes of its own answers between epochs.
//!
//! [`epochs`] counts passes over examples whose number may change, [`regenerate`] makes new ones, [`own_pairs`] keeps them.

mod epochs;
mod own_pairs;
mod regenerate;

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use candlewick_algorithms::objective::{Objective, Rows};
use candlewick_algorithms::{Batch, Metrics, Needs, Outcome};

use self::epochs::Epochs;
use self::regenerate::{Made, Regeneration};
use super::Interrupted;
use super::account::{STOPPED_AT_THE_END, duration, finish, say};
use super::checkpoint::{self, State};
use super::evaluate::{self, Closing, Examiner, line, step_rng};
use super::examples::{Examples, Reading};
use super::folder::RunFolder;
use super::inputs::{Inputs, Reach};
use super::learner::{Learner, Tally};
use super::metrics::{Recorder, Step};
use super::policy::{Policy, Reference};
use super::ranking::Ranking;
use super::reference::{Judge, ReferenceLogps};
use super::teacher::TeacherTokens;
use crate::config::{Config, ObjectiveConfig, Offline};
use crate::optim::AdamW;

/// Runs or resumes an offline run.
pub fn run(config: &Config, offline: &Offline, resume: bool) -> Result<()> {
    let folder = RunFolder::open(config, resume)?;
    let mut objective = config.objective.build()?;
    let needs = objective.needs();
    let inputs = Inputs::gather(config, Reach::Hub)?;
    inputs.notes.iter().for_each(|line| say(line));
    let config = &inputs.graded(config);
    let kept = if resume { checkpoint::newest(&folder)? } else { None };
    let mut regeneration = Regeneration::prepare(config, offline, &folder, kept.as_ref().map(|(_, state)| state))?;
    let dataset = inputs.dataset.context("the training data were not read")?;
    let mut policy = Policy::for_run(config, inputs.reference.as_ref(), inputs.lengths)?;
    if needs.score_leaf {
        policy.decoder.add_score_head(&policy.folder, config.run.seed)?;
    }
    let reading = reading(config, offline, objective.as_ref(), policy.decoder.spec.max_positions);
    let ranking = Ranking::for_run(config, objective.as_ref(), &mut policy, reading.max_length)?;
    let mut epochs = Epochs::default();
    let mut examples = Examples::none();
    if let Some(regeneration) = &mut regeneration {
        regeneration.read_prompts(&dataset, &policy, reading.max_length)?;
        epochs = regeneration.epochs();
        examples = regeneration.pairs_in_use(&folder, &policy, &reading)?.unwrap_or(examples);
    }
    if examples.is_empty() && offline.reads_given_answers() {
        examples = Examples::read(dataset, &policy.renderer, &reading)?;
    }
    let (mut asked, mut steps) = (Asked::default(), offline.steps.unwrap_or(usize::MAX));
    if !examples.is_empty() {
        asked = take_in(config, &mut policy, &mut examples, objective.as_ref(), &folder)?;
        steps = planned(config, offline, &examples, epochs);
    }
    // Log-probs of a reference that stays are those of the examples, and need not be computed again in every step.
    let scored = Needs { ref_logp: needs.ref_logp && !config.asks_reference_once(), ..needs };
    let untrained = ranking.as_ref().map(|r| r.measure(&policy)).transpose()?;
    let mut learner = Learner::new(config, &policy, steps);
    let mut state = State::default();
    let mut bytes = None;
    if resume && kept.is_none() {
        say("no checkpoint was written yet: the run starts from the beginning");
    }
    if let Some((path, saved)) = kept {
        policy.restore(&path)?;
        learner.optimiser.load(&path.join("optimizer.safetensors"), &policy.decoder.params, saved.optimiser_steps)?;
        if let Some(value) = saved.stages.get("objective") {
            objective.load(value)?;
        }
        bytes = Some(saved.metrics_bytes);
        state = saved;
        say(&format!("resumed after step {}", state.step));
    }
    let mut recorder = Recorder::open(folder.path(), config.run.tensorboard, bytes)?;
    let examiner = Examiner::for_run(&policy, config, &folder, None)?;
    let base = match state.step {
        _ if examiner.is_empty() => None,
        0 => examiner.sit_base(&policy, &folder)?,
        _ => examiner.sit_base(&Policy::load(&config.model, &config.data)?, &folder)?,
    };
    let base = base.unwrap_or_default();
    if state.step == 0 && !base.graded.is_empty() {
        evaluate::note(&mut state, &base.graded);
    }
    base.lines().iter().for_each(|line| say(&format!("      base  {line}")));
    let is_due = |step: usize| config.eval.every > 0 && step.is_multiple_of(config.eval.every);
    // A test between steps; whether this step is the best so far.
    let test = |state: &mut State, policy: &Policy| -> Result<bool> {
        let Some(outcomes) = examiner.check(policy)? else { return Ok(false) };
        outcomes.iter().for_each(|o| say(&format!("      eval  {}", line(o))));
        Ok(evaluate::note(state, &outcomes).1)
    };
    if examiner.is_due(&state, steps) {
        test(&mut state, &policy)?;
    }
    let mut trained = None;
    let (started, before) = (Instant::now(), state.seconds);
    let save = |state: &mut State,
                policy: &Policy,
                optimiser: &AdamW,
                objective: &dyn candlewick_algorithms::objective::Objective,
                recorder: &mut Recorder| {
        state.stages.extend(objective.save().map(|value| ("objective".to_owned(), value)));
        state.optimiser_steps = optimiser.steps();
        state.metrics_bytes = recorder.bytes()?;
        let path = checkpoint::save(&folder, policy, optimiser, state)?;
        checkpoint::prune(&folder, config.run.keep_last, state.best.map(|b| b.0).filter(|_| config.run.keep_best))?;
        anyhow::Ok(path)
    };
    let seed = offline.train.shuffle.then_some(config.run.seed);
    let mut order = Order::new(seed, examples.len());
    let mut fresh: Option<(Metrics, f64)> = None;
    while !super::is_stopping() {
        epochs.advance(state.step, pace(offline, &examples).1);
        if let Some(regeneration) = &mut regeneration {
            if regeneration.is_due(epochs, state.step) {
                let clock = Instant::now();
                let numbers = (epochs.number, examples.first_pair + examples.len());
                let Some(made) = regeneration.renew(&policy, &reading, &folder, &mut state, numbers)? else {
                    if state.step > 0 {
                        save(&mut state, &policy, &learner.optimiser, objective.as_ref(), &mut recorder)?;
                    }
                    break;
                };
                if made.examples.is_empty() {
                    ensure!(!examples.is_empty(), "{}", nothing_to_compare(&made));
                    tracing::warn!("{}: the run goes on with the pairs before", nothing_to_compare(&made));
                } else {
                    examples = made.examples;
                    objective.observe(&Outcome::Renewed { first_pair: examples.first_pair });
                    asked = take_in(config, &mut policy, &mut examples, objective.as_ref(), &folder)?;
                    steps = planned(config, offline, &examples, epochs);
                    learner.total = steps;
                    order = Order::new(seed, examples.len());
                }
                fresh = Some((made.metrics, clock.elapsed().as_secs_f64()));
            }
            regeneration.save(epochs, &mut state)?;
        }
        if state.step >= steps {
            break;
        }
        let clock = Instant::now();
        let chosen = order.of_step(epochs, state.step, pace(offline, &examples).0);
        let mut batch = examples.batch(&chosen)?;
        asked.fill(&mut batch, &chosen)?;
        policy.score(&mut batch, &scored, 1.0)?;
        objective.prepare(&mut batch)?;
        batch.count_totals();
        let mut metrics = Step::default();
        let dropout = config.run.seed ^ state.step as u64;
        let taken = learner.step(&policy, objective.as_mut(), &batch, (1.0, dropout), &mut state, &mut metrics)?;
        let mut tally = Tally::default();
        tally.add(&taken);
        state.step += 1;
        policy.sync_reference(state.step)?;
        state.seconds = before + started.elapsed().as_secs_f64();
        if let Some((made, seconds)) = fresh.take() {
            metrics.extend("regenerate", &made);
            metrics.set("time/regenerate", seconds);
        }
        tally.record(config, &state, &mut metrics);
        let (seconds, tokens) = (clock.elapsed().as_secs_f64(), tally.tokens as f64);
        metrics.set("time/step", seconds);
        metrics.set("train/micro_batches", taken.update.micro_batches as f64);
        let room = (taken.update.micro_batches * policy.micro_tokens) as f64;
        metrics.set("train/utilisation", tokens / room.max(1.0));
        metrics.set("train/tokens_per_second", tokens / seconds);
        let is_last = state.step == steps;
        if let Some(ranking) = ranking.as_ref().filter(|_| is_due(state.step) || is_last) {
            let measured = ranking.measure(&policy)?;
            measured.record(&mut metrics);
            say(&format!("      held-out pairs: {}", measured.line()));
            trained = is_last.then_some(measured);
        }
        recorder.record(state.step, &metrics)?;
        if state.step == 1 {
            check_start(config, &tally.seen);
        }
        let left = (steps - state.step) as f64 * state.seconds / state.step as f64;
        say(&format!(
            "step {:>4}/{steps}  loss {:.4}{}  grad {:.2e}  lr {:.1e}  {:>6.0} tok/s  {:.2} s  left {}",
            state.step,
            tally.loss(),
            rewards(&tally.seen),
            taken.report.grad_norm,
            taken.report.learning_rate,
            tokens / clock.elapsed().as_secs_f64(),
            clock.elapsed().as_secs_f64(),
            duration(left)
        ));
        let is_best = examiner.is_due(&state, steps) && test(&mut state, &policy)? && config.run.keep_best;
        let is_due = config.run.save_every > 0 && state.step % config.run.save_every == 0;
        if !is_last && (is_due || is_best || super::is_stopping()) {
            save(&mut state, &policy, &learner.optimiser, objective.as_ref(), &mut recorder)?;
        }
    }
    if state.step < steps {
        say(&format!("stopped after step {}: go on with the same command and `--resume`", state.step));
        return Err(Interrupted.into());
    }
    let Some(last) = examiner.sit(&policy)? else {
        save(&mut state, &policy, &learner.optimiser, objective.as_ref(), &mut recorder)?;
        say(STOPPED_AT_THE_END);
        return Err(Interrupted.into());
    };
    if !last.graded.is_empty() {
        evaluate::note(&mut state, &last.graded);
    }
    let checkpoint = save(&mut state, &policy, &learner.optimiser, objective.as_ref(), &mut recorder)?;
    let mut preference = None;
    if let (Some(ranking), Some(untrained)) = (&ranking, &untrained) {
        // A run that is resumed after its last step was measured in another process.
        let trained = trained.map_or_else(|| ranking.measure(&policy), Ok)?;
        ranking.report(&folder, untrained, &trained)?;
        preference = Some((untrained, ranking.section(untrained, &trained, &examples.audit)?));
    }
    let (folder, checkpoint, state, base, last) = (&folder, checkpoint.as_path(), &state, &base, &last);
    finish(&examiner, &policy, Closing { folder, checkpoint, state, base, last, preference })
}

/// How examples are read as the objective takes them, by a model of so long a context.
pub(super) fn reading(config: &Config, offline: &Offline, objective: &dyn Objective, context: usize) -> Reading {
    let rows = objective.rows();
    let usual = if rows == Rows::Demonstrations { context } else { PREFERENCE_LENGTH };
    let max_length = offline.train.max_length.unwrap_or(usual).min(context);
    tracing::debug!("objective `{}` takes rows of up to {max_length} tokens", config.objective.variant());
    Reading {
        rows,
        max_length,
        cuts: rows != Rows::Demonstrations && !matches!(config.objective, ObjectiveConfig::RewardModel(_)),
        columns: config.data.columns.clone(),
        seed: config.run.seed,
        objective: config.objective.variant(),
    }
}

/// Most tokens of prompt and answer where the config names no number, as in TRL.
const PREFERENCE_LENGTH: usize = 1024;

/// What the reference said of every row, once and for all steps.
#[derive(Default)]
struct Asked {
    logps: Option<ReferenceLogps>,
    teacher: Option<TeacherTokens>,
}

impl Asked {
    /// The columns of a batch made of these groups.
    fn fill(&self, batch: &mut Batch, chosen: &[usize]) -> Result<()> {
        if let Some(logps) = &self.logps {
            logps.fill(batch, chosen);
        }
        self.teacher.as_ref().map_or(Ok(()), |teacher| teacher.fill(batch, chosen))
    }
}

/// Asks the reference what it can be asked before the first step, and drops it; attaches one that is asked in every step.
fn ask(config: &Config, policy: &mut Policy, examples: &mut Examples, objective: &dyn Objective) -> Result<Asked> {
    let needs = objective.needs();
    let mut asked = Asked::default();
    if !config.asks_reference_once() {
        if needs.reference() {
            policy.attach_reference(config)?;
        }
        return Ok(asked);
    }
    if needs.teacher.is_some() {
        let teacher = TeacherTokens::obtain(policy, config, examples, objective)?;
        say(&teacher.line());
        asked.teacher = Some(teacher);
    }
    if needs.ref_logp {
        let logps = ReferenceLogps::obtain(policy, config, Judge::Reference, examples)?;
        let how = if logps.was_cached { "taken from" } else { "kept in" };
        say(&format!("reference log-probs are {how} {}", logps.path.display()));
        let beta = match &config.objective {
            ObjectiveConfig::Dpo(dpo) => dpo.beta,
            _ => 0.1,
        };
        logps.audit(examples, beta)?;
        asked.logps = Some(logps);
    }
    policy.reference = Reference::Nothing;
    Ok(asked)
}

/// At the start the policy is its reference: another reward than 0 means that the two forward passes differ.
fn check_start(config: &Config, metrics: &candlewick_algorithms::Metrics) {
    let is_same = config.model.reference.as_ref().is_none_or(|r| r.path.is_none());
    let is_measured = matches!(config.objective, ObjectiveConfig::Dpo(_) | ObjectiveConfig::Kto(_));
    let largest = ["reward_chosen", "reward_rejected"]
        .iter()
        .filter_map(|m| metrics.get(m))
        .fold(0.0, |a: f64, r| a.max(r.abs()));
    if is_same && is_measured && largest > 1e-2 {
        tracing::warn!(
            "the implicit reward is {largest:.3} at the first step, where policy and reference should agree: check dropout, number type and reference"
        );
    }
}

/// Margin and accuracy, where the objective has them, for the line of a step.
fn rewards(metrics: &candlewick_algorithms::Metrics) -> String {
    let part = |name: &str, label: &str| metrics.get(name).map_or(String::new(), |v| format!("  {label} {v:.3}"));
    part("reward_margin", "margin") + &part("reward_accuracy", "accuracy")
}

/// Takes in examples to train on: what the reference says of them, and the account of what they are.
fn take_in(
    config: &Config,
    policy: &mut Policy,
    examples: &mut Examples,
    objective: &dyn Objective,
    folder: &RunFolder,
) -> Result<Asked> {
    let asked = ask(config, policy, examples, objective)?;
    examples.audit.lines().iter().for_each(|l| say(&format!("data  {l}")));
    examples.audit.write(&folder.join("audit.json"))?;
    if let ObjectiveConfig::Kto(kto) = &config.objective {
        let good = kto.desirable_weight * examples.audit.desirable as f64;
        let share = good / (kto.undesirable_weight * examples.audit.undesirable as f64);
        if !(0.999..=1.334).contains(&share) {
            tracing::warn!(
                "good answers weigh {share:.2} times as much as bad ones, where 1 to 1.33 is advised: change `objective.kto.desirable_weight` or `undesirable_weight`"
            );
        }
    }
    Ok(asked)
}

/// Examples of an optimiser step, and steps of an epoch.
fn pace(offline: &Offline, examples: &Examples) -> (usize, usize) {
    let size = offline.train.batch_size.min(examples.len());
    (size, if size == 0 { 0 } else { examples.len().div_ceil(size) })
}

/// Steps of the run, as far as they can be told while later epochs may have more or fewer pairs; tells people of them.
fn planned(config: &Config, offline: &Offline, examples: &Examples, epochs: Epochs) -> usize {
    let an_epoch = pace(offline, examples).1;
    let steps = offline.steps.unwrap_or(epochs.total(offline.train.epochs, an_epoch));
    if offline.steps.is_none() {
        config.optim.long_warmup(steps).iter().for_each(|line| tracing::warn!("{line}"));
    }
    say(&format!("{}: {} examples, {an_epoch} steps an epoch, {steps} steps", config.model.path, examples.len()));
    steps
}

/// That a regeneration gave no pair, and what to do.
fn nothing_to_compare(made: &Made) -> String {
    let count = |name: &str| made.metrics.get(name).unwrap_or(0.0);
    format!(
        "no pair could be made of the answers to {} prompts ({} tie; pairs left out: {}): raise `train.offline.regenerate.samples` or `temperature`, or choose rewards that tell answers apart",
        count("prompts"),
        count("ties"),
        made.examples.audit.reasons()
    )
}

/// Which examples each step takes.
struct Order {
    /// Absent = the order of the data.
    seed: Option<u64>,
    /// The epoch that `order` is of.
    epoch: usize,
    order: Vec<u32>,
}

impl Order {
    fn new(seed: Option<u64>, examples: usize) -> Self {
        // No epoch yet.
        Self { seed, epoch: usize::MAX, order: (0..examples as u32).collect() }
    }

    /// Examples of a step: every epoch shuffles anew if there is a seed, the last batch of an epoch may be smaller.
    fn of_step(&mut self, epochs: Epochs, step: usize, size: usize) -> Vec<usize> {
        let examples = self.order.len();
        if let Some(seed) = self.seed.filter(|_| self.epoch != epochs.number) {
            self.epoch = epochs.number;
            self.order.iter_mut().zip(0..).for_each(|(place, at)| *place = at);
            step_rng(seed, self.epoch, 0xe90c).shuffle(&mut self.order);
        }
        let first = (step - epochs.first_step) * size;
        self.order[first..(first + size).min(examples)].iter().map(|&at| at as usize).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_takes_every_example_once_in_an_order_of_its_own() {
        let at = |order: &mut Order, step: usize| {
            let mut epochs = Epochs::default();
            epochs.advance(step, 4);
            order.of_step(epochs, step, 3)
        };
        let epoch = |order: &mut Order, e: usize| (0..4).flat_map(|s| at(order, 4 * e + s)).collect::<Vec<_>>();
        let mut order = Order::new(Some(5), 10);
        let (first, second) = (epoch(&mut order, 0), epoch(&mut order, 1));
        let sorted = |mut all: Vec<usize>| {
            all.sort_unstable();
            all
        };
        assert_eq!(sorted(first.clone()), (0..10).collect::<Vec<_>>());
        assert_eq!(sorted(second.clone()), (0..10).collect::<Vec<_>>());
        assert_ne!(first, second);
        // Taken up in the middle, the order is what it would have been.
        let mut resumed = Order::new(Some(5), 10);
        assert_eq!(at(&mut resumed, 5), second[3..6]);
        assert_eq!(epoch(&mut order, 0), first);
        assert_eq!(epoch(&mut Order::new(None, 10), 1), (0..10).collect::<Vec<_>>());
    }
}
