//! The loop of a run on given examples.

use std::time::Instant;

use anyhow::{Result, bail, ensure};
use candlewick_algorithms::batch::Role;
use candlewick_algorithms::{Batch, Table};

use super::checkpoint::{self, State};
use super::evaluate::{self, Examiner, line, step_rng};
use super::folder::RunFolder;
use super::metrics::{Recorder, Step};
use super::online::{check_every_parameter, duration, finish, rate, say};
use super::policy::Policy;
use super::update::gradient;
use crate::config::{Config, Offline};
use crate::data::render::{Tokenised, Tokens};
use crate::data::{self, Split};
use crate::hub::Hub;
use crate::model::params::Grads;
use crate::optim::AdamW;

/// Runs or resumes an offline run.
pub fn run(config: &Config, offline: &Offline, resume: bool) -> Result<()> {
    let folder = RunFolder::open(config, resume)?;
    let mut objective = config.objective.build()?;
    let needs = objective.needs();
    let mut policy = Policy::for_run(config, needs.ref_logp)?;
    let examples = load(config, &policy)?;
    let size = offline.train.batch_size.min(examples.len());
    let an_epoch = examples.len().div_ceil(size);
    let steps = offline.steps.unwrap_or(offline.train.epochs * an_epoch);
    say(&format!("{}: {} examples, {an_epoch} steps an epoch, {steps} steps", config.model.path, examples.len()));
    let mut optimiser = AdamW::new(&config.optim, &policy.decoder.params);
    let mut state = State::default();
    let mut bytes = None;
    if resume && let Some((path, saved)) = checkpoint::newest(&folder)? {
        policy.restore(&path)?;
        optimiser.load(&path.join("optimizer.safetensors"), &policy.decoder.params, saved.optimiser_steps)?;
        if let Some(value) = saved.stages.get("objective") {
            objective.load(value)?;
        }
        bytes = Some(saved.metrics_bytes);
        state = saved;
        say(&format!("resumed after step {}", state.step));
    }
    let mut recorder = Recorder::open(folder.path(), config.run.tensorboard, bytes)?;
    let examiner = Examiner::for_run(&policy, config, None)?;
    let base = match state.step {
        0 => examiner.sit_base(&policy, &folder)?,
        _ => examiner.sit_base(&Policy::load(&config.model, &config.data)?, &folder)?,
    };
    if state.step == 0 && !base.is_empty() {
        evaluate::note(&mut state, &base);
    }
    base.iter().for_each(|o| say(&format!("      base  {}", line(o))));
    let mut grads = Grads::new(&policy.decoder.params);
    let (started, before, mut has_checked, mut bad) = (Instant::now(), state.seconds, false, 0);
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
    while state.step < steps && !super::is_stopping() {
        let clock = Instant::now();
        let chosen = chosen(config.run.seed, examples.len(), size, state.step);
        let mut batch = batch(&chosen.iter().map(|&i| &examples[i]).collect::<Vec<_>>())?;
        policy.score(&mut batch, &needs, 1.0)?;
        objective.prepare(&mut batch)?;
        batch.count_totals();
        grads.clear();
        let update =
            gradient(&policy, objective.as_ref(), &batch, &mut grads, 1.0, Some(config.run.seed ^ state.step as u64))?;
        let lr = rate(&config.optim, state.scheduled_steps, steps);
        let report = optimiser.step(&policy.decoder.params, &grads, lr)?;
        state.scheduled_steps += 1;
        state.trained_tokens += update.tokens as u64;
        if report.is_accepted {
            bad = 0;
            objective.commit(&batch, &update.metrics)?;
            if !has_checked && report.grad_norm > 0.0 {
                has_checked = true;
                check_every_parameter(&policy, &grads)?;
            }
        } else {
            bad += 1;
            state.dropped_steps += 1;
            ensure!(
                bad < 3,
                "optim: the gradient was not finite in 3 successive steps up to step {}: lower `optim.learning_rate`",
                state.step + 1
            );
        }
        state.step += 1;
        state.seconds = before + started.elapsed().as_secs_f64();
        let mut metrics = Step::default();
        metrics.extend(&format!("objective/{}", config.objective.variant()), &update.metrics);
        metrics.set("objective/loss", update.loss);
        metrics.set("optim/grad_norm", report.grad_norm);
        metrics.set("optim/learning_rate", lr);
        metrics.set("time/step", clock.elapsed().as_secs_f64());
        metrics.set("train/tokens", update.tokens as f64);
        metrics.set("train/micro_batches", update.micro_batches as f64);
        let room = (update.micro_batches * policy.micro_tokens) as f64;
        metrics.set("train/utilisation", update.tokens as f64 / room.max(1.0));
        metrics.set("train/tokens_per_second", update.tokens as f64 / clock.elapsed().as_secs_f64());
        recorder.record(state.step, &metrics)?;
        let left = (steps - state.step) as f64 * state.seconds / state.step as f64;
        say(&format!(
            "step {:>4}/{steps}  loss {:.4}  grad {:.2e}  lr {lr:.1e}  {:>6.0} tok/s  {:.2} s  left {}",
            state.step,
            update.loss,
            report.grad_norm,
            update.tokens as f64 / clock.elapsed().as_secs_f64(),
            clock.elapsed().as_secs_f64(),
            duration(left)
        ));
        let (is_last, mut is_best) = (state.step == steps, false);
        if config.eval.every > 0 && state.step % config.eval.every == 0 && !is_last && !examiner.is_empty() {
            let outcomes = examiner.check(&policy)?;
            outcomes.iter().for_each(|o| say(&format!("      eval  {}", line(o))));
            is_best = evaluate::note(&mut state, &outcomes).1 && config.run.keep_best;
        }
        let is_due = config.run.save_every > 0 && state.step % config.run.save_every == 0;
        if !is_last && (is_due || is_best || super::is_stopping()) {
            save(&mut state, &policy, &optimiser, objective.as_ref(), &mut recorder)?;
        }
    }
    if state.step < steps {
        say(&format!("stopped after step {}: go on with the same command and `--resume`", state.step));
        return Ok(());
    }
    let last = examiner.sit(&policy)?;
    if !last.is_empty() {
        evaluate::note(&mut state, &last);
    }
    let checkpoint = save(&mut state, &policy, &optimiser, objective.as_ref(), &mut recorder)?;
    finish(&folder, &checkpoint, &examiner, &policy, (&base, &last), &state)
}

/// Rows to learn from; what is too long for the model is left out and told.
fn load(config: &Config, policy: &Policy) -> Result<Vec<Tokens>> {
    let dataset = data::load(&config.data, &Hub::from_env(), Split::Train)?;
    let (mut rows, mut dropped) = (Vec::new(), 0);
    for example in &dataset.examples {
        match policy.renderer.example(example)? {
            Tokenised::Row(tokens) if tokens.ids.len() > policy.decoder.spec.max_positions => dropped += 1,
            Tokenised::Row(tokens) => rows.push(tokens),
            Tokenised::Prompt(_) => bail!(
                "row `{}` of `{}` has nothing to learn: objective `{}` needs completions",
                example.id(),
                dataset.source,
                config.objective.variant()
            ),
            Tokenised::Pair { .. } => bail!(
                "row `{}` of `{}` is a preference pair: objective `{}` needs completions",
                example.id(),
                dataset.source,
                config.objective.variant()
            ),
        }
    }
    if dropped > 0 {
        say(&format!("{dropped} examples are longer than the model's context and were left out"));
    }
    ensure!(!rows.is_empty(), "no example is left to train on");
    Ok(rows)
}

/// Examples of a step: every epoch shuffles anew, the last batch of an epoch may be smaller.
fn chosen(seed: u64, examples: usize, size: usize, step: usize) -> Vec<usize> {
    let an_epoch = examples.div_ceil(size);
    let mut order: Vec<usize> = (0..examples).collect();
    step_rng(seed, step / an_epoch, 0xe90c).shuffle(&mut order);
    let first = step % an_epoch * size;
    order[first..(first + size).min(examples)].to_vec()
}

/// Rows as a batch: what is learnt is unmasked; each row is a group of its own.
fn batch(rows: &[&Tokens]) -> Result<Batch> {
    // The first token of a text follows nothing, so it cannot be learnt.
    let starts: Vec<usize> = rows.iter().map(|r| r.prompt_len().max(1).min(r.ids.len())).collect();
    let masks: Vec<Vec<f64>> = rows
        .iter()
        .zip(&starts)
        .map(|(r, &s)| r.learnt[s..].iter().map(|&l| f64::from(u8::from(l))).collect())
        .collect();
    let mut batch = Batch::new(Table::ragged(&masks, 0.0), (0..rows.len()).collect())?;
    for (i, row) in rows.iter().enumerate() {
        batch.tokens[i] = row.ids.clone();
        batch.prompt_len[i] = starts[i];
        batch.role[i] = Role::Demonstration;
    }
    Ok(batch)
}
