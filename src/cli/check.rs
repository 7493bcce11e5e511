//! `candlewick check`: what a run would do, without loading a weight.

use std::io::Write;

use anyhow::Result;
use candlewick::config::{Config, Kind, Offline, Online};
use candlewick::data::Dataset;
use candlewick::model::memory::{self, Models, size};
use candlewick::model::spec::DecoderSpec;
use candlewick::train::inputs::{self, Inputs, Reach};
use candlewick::train::teacher;
use console::style;

use super::{ConfigArguments, table};

/// Check a config: what would run, how large a step is, how much memory it takes.
///
/// Reads the config, the model's `config.json` and tokenizer, and the data that are on this machine; loads no weight and writes nothing. What a run would refuse is refused here too; data on the Hub are taken to be there. Prints the resolved file first, with every default filled in.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    config: ConfigArguments,
}

/// Prints the resolved config, the batch arithmetic and the memory estimate.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    arguments.config.with(check)
}

fn check(config: &Config) -> Result<()> {
    let inputs = Inputs::gather(config, Reach::ThisMachine)?;
    if let (Kind::Online(online), Some(dataset)) = (config.kind(), &inputs.dataset) {
        inputs::check_pool(&online, dataset.len())?;
    }
    inputs.notes.iter().for_each(|line| super::note(line));
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", config.to_toml().trim_end())?;
    let config = &inputs.graded(config);
    let (step, run) = match config.kind() {
        Kind::Online(online) => online_arithmetic(config, &online),
        Kind::Offline(offline) => offline_arithmetic(config, &offline, &inputs),
    };
    section(&mut out, "a step", &step)?;
    section(&mut out, "the run", &run)?;
    let models: Vec<Vec<String>> =
        inputs.reward_models.iter().map(|(name, spec)| reward_model(config, name, spec)).collect();
    if !models.is_empty() {
        section(&mut out, "models of rewards, not in the estimate below", &models)?;
    }
    memory_table(&mut out, config, &inputs)
}

/// What stands in memory beside the policy for `reward_model` and `verifier`.
fn reward_model(config: &Config, name: &str, spec: &DecoderSpec) -> Vec<String> {
    let bytes = (spec.parameters() * config.model.dtype.bytes()) as u64;
    line(size(bytes), &format!("reward.{name}"), format!("{} parameters", spec.parameters()))
}

fn section(out: &mut impl Write, title: &str, rows: &[Vec<String>]) -> Result<()> {
    writeln!(out, "\n{}", style(title).bold())?;
    write!(out, "{}", table::columns(rows, 2))?;
    Ok(())
}

/// A line of the arithmetic: number, what it counts, how it comes about.
fn line(number: impl ToString, what: &str, why: impl Into<String>) -> Vec<String> {
    vec![format!("{:>9}", number.to_string()), what.into(), why.into()]
}

/// Prompts x rollouts x tokens, and what that makes over the run.
fn online_arithmetic(config: &Config, online: &Online<'_>) -> (Vec<Vec<String>>, Vec<Vec<String>>) {
    let prompts = online.prompts.build().map_or(0, |p| p.per_step());
    let draws = online.prompts.build().map_or(1, |p| p.max_draws());
    let mean = online.budget.rollouts.build().map_or(0.0, |r| r.mean());
    let limit = online.budget.tokens.build().map_or(0, |t| t.largest());
    let completions = (prompts as f64 * mean).round() as usize;
    let updates = online.train.epochs * online.train.minibatches;
    let update =
        format!("{} epochs x {} minibatches of each step's completions", online.train.epochs, online.train.minibatches);
    let mut step = vec![
        line(prompts, "prompts", format!("prompts.{}", online.prompts.variant())),
        line(format!("x {mean}"), "rollouts each", format!("budget.rollouts.{}", online.budget.rollouts.variant())),
        line(format!("= {completions}"), "completions", ""),
        line(format!("x {limit}"), "tokens at most", format!("budget.tokens.{}", online.budget.tokens.variant())),
        line(format!("= {}", completions * limit), "new tokens at most", ""),
        line(updates, "optimiser steps", update),
    ];
    if draws > 1 {
        step.push(line(draws, "draws at most", "groups that are refused are sampled anew"));
    }
    let mut run = vec![
        line(online.steps, "steps", if config.run.steps.is_some() { "run.steps" } else { "the default" }),
        line(online.steps * completions, "completions", ""),
        line(
            online.steps * updates,
            "optimiser steps",
            format!("{} of them warm-up", config.optim.warmup(online.steps * updates)),
        ),
    ];
    run.extend(evaluations(config, Some(online.steps)));
    (step, run)
}

fn offline_arithmetic(config: &Config, offline: &Offline, inputs: &Inputs) -> (Vec<Vec<String>>, Vec<Vec<String>>) {
    let step =
        vec![line(offline.train.batch_size, "examples", "train.offline.batch_size"), line(1, "optimiser step", "")];
    let mut run = vec![line(offline.train.epochs, "epochs", "each as many steps as the data fill")];
    if let Some(steps) = offline.steps {
        run.push(line(steps, "steps at most", "run.steps"));
        run.push(line(steps * offline.train.batch_size, "examples at most", ""));
    }
    run.extend(teacher_on_disk(config, inputs));
    run.extend(own_answers(offline, inputs.dataset.as_ref().map(Dataset::len)));
    (step, run)
}

/// The answers that pairs are made of between epochs, where the data have so many `prompts`.
fn own_answers(offline: &Offline, prompts: Option<usize>) -> Vec<Vec<String>> {
    let Some(settings) = &offline.train.regenerate else { return Vec::new() };
    let times = (0..offline.train.epochs).filter(|&epoch| settings.is_due(epoch)).count();
    let mut lines = vec![line(times, "regenerations of pairs", "train.offline.regenerate, within the epochs above")];
    if let Some(prompts) = prompts {
        let why = format!("of each: {prompts} rows of data, {} samples each", settings.samples);
        lines.push(line(prompts * settings.samples, "answers at most", why));
        let tokens = prompts * settings.samples * settings.limit;
        lines.push(line(tokens, "new tokens at most", format!("{} an answer", settings.limit)));
    }
    lines
}

/// What a teacher's tokens take in the output folder.
fn teacher_on_disk(config: &Config, inputs: &Inputs) -> Option<Vec<String>> {
    let bytes = config.asks_reference_once().then_some(config.objective.build().ok()?)?;
    let (a_token, rows) = (teacher::bytes_a_token(bytes.as_ref())?, inputs.dataset.as_ref()?.len());
    let most = (a_token * rows * inputs.lengths.mean) as u64;
    let why = format!("{a_token} bytes a learnt token, asked before the first step; then the teacher is dropped");
    Some(line(size(most), "on disk at most, of the teacher", why))
}

fn evaluations(config: &Config, steps: Option<usize>) -> Option<Vec<String>> {
    let eval = &config.eval;
    if eval.benchmarks.is_empty() {
        return None;
    }
    let during = match (eval.every, steps) {
        (0, _) | (_, None) => 0,
        (every, Some(steps)) => steps.saturating_sub(1) / every,
    };
    Some(line(
        during + 2,
        "evaluations",
        format!("before, {during} times during and after, on {}", eval.benchmarks.join(", ")),
    ))
}

/// What the run takes, part by part.
fn memory_table(out: &mut impl Write, config: &Config, inputs: &Inputs) -> Result<()> {
    let (machine, lengths) = (memory::machine(), inputs.lengths);
    let models = Models { policy: &inputs.spec, reference: inputs.reference.as_ref() };
    let estimate = memory::estimate(config, models, lengths, machine.map(|(_, free)| free));
    let rows = |parts: &[memory::Part]| {
        parts.iter().map(|p| vec![format!("{:>9}", size(p.bytes)), p.name.into(), p.why.clone()]).collect::<Vec<_>>()
    };
    section(out, "memory, throughout", &rows(&estimate.standing))?;
    if !estimate.preparing.is_empty() {
        section(out, "memory, before the first step, beside program and weights", &rows(&estimate.preparing))?;
    }
    if !estimate.sampling.is_empty() {
        section(out, "memory, while sampling", &rows(&estimate.sampling))?;
    }
    section(out, "memory, in an update", &rows(&estimate.updating))?;
    if !estimate.evaluating.is_empty() {
        section(out, "memory, in an evaluation", &rows(&estimate.evaluating))?;
    }
    let checkpointing = if estimate.is_checkpointed { "with" } else { "without" };
    let most = match estimate.most > estimate.peak() {
        true => format!(", at most {} if every completion reaches its limit", size(estimate.most)),
        false => String::new(),
    };
    let peak = size(estimate.peak());
    writeln!(out, "\n{} {peak} {checkpointing} gradient checkpointing{most}", style("peak:").bold())?;
    if !lengths.is_measured {
        let why = match &inputs.dataset {
            None => "the data are on the Hub and were not looked at",
            Some(_) => "the lengths of prompts cannot be told",
        };
        writeln!(out, "{why}: prompts are taken to have {} tokens", lengths.mean)?;
    }
    if let Some((total, free)) = machine {
        writeln!(out, "this machine has {}, of which {} are free", size(total), size(free))?;
        if estimate.peak() > free {
            super::note(
                "that is more than is free: lower `model.micro_batch_tokens`, train with [model.lora], or sample fewer rollouts",
            );
        }
    }
    Ok(())
}
