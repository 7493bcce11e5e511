//! Stage `rollout`: completions from the policy, token in and token out.
//!
//! A prompt is prefilled once and shared by its samples; finished rows leave the batch and waiting
//! ones take their place; every random draw is keyed by (seed, step, prompt, sample). Products run
//! row by row in a fixed order ([`crate::model::ops::skinny`]), so a row's tokens and log-probs do
//! not depend on its neighbours, on the batch size, or on where a run was restarted. On other devices
//! the same loop drives tensor calls (`tensor.rs`), whose last bits may depend on the batch.

mod decode;
mod engine;
pub mod sample;
pub mod soft;
mod tensor;

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;

use anyhow::{Result, ensure};
use candle_core::DType;
use candlewick_algorithms::batch::Finish;
use candlewick_algorithms::rng::Rng;
use candlewick_algorithms::row::soft::SoftSteps;
use candlewick_algorithms::row::soft::mix::Mixture;
use rayon::prelude::*;

use crate::model::decoder::Decoder;
use crate::model::ops::{self, Float};
use crate::model::tokenizer::Tokenizer;
use engine::{Engine, Kernels};
pub use sample::Sampling;
pub use soft::Thinking;
use tensor::Tensors;

/// One prompt and how many completions it should get.
#[derive(Debug, Clone)]
pub struct Request {
    /// Identity of the prompt, part of the key of every draw.
    pub id: u64,
    /// The prompt's tokens; at least one.
    pub prompt: Vec<u32>,
    /// Numbers of the samples wanted, part of the key of every draw.
    pub samples: std::ops::Range<u64>,
    /// Most new tokens a completion.
    pub cap: usize,
}

/// A sampled completion.
#[derive(Debug, Clone, PartialEq)]
pub struct Completion {
    /// Index of its request.
    pub request: usize,
    /// Number of the sample.
    pub sample: u64,
    /// New tokens, up to and including the first end-of-sequence token.
    pub tokens: Vec<u32>,
    /// Log-prob of each token under the full softmax at the sampling temperature, or log-density of a soft
    /// step that has one: what training computes.
    pub logp: Vec<f64>,
    /// Log-prob of each token under the truncated distribution it was drawn from.
    pub drawn_logp: Vec<f64>,
    /// Entropy in nats of the full softmax at the sampling temperature.
    pub entropy: Vec<f64>,
    /// The soft steps at its head, where they have a density.
    pub soft: SoftSteps,
    /// How it ended.
    pub finish: Finish,
}

/// What is common to all requests of a call.
#[derive(Clone)]
pub struct Settings {
    /// How tokens are drawn; with soft thinking, those of the answer.
    pub sampling: Sampling,
    /// Soft thinking before the answer; `None` = tokens from the start.
    pub thinking: Option<Thinking>,
    /// End-of-sequence ids; the first one drawn ends a completion and belongs to it.
    pub eos: Vec<u32>,
    /// Ends a completion whose tokens so far it says yes to; see [`stop_strings`].
    pub stop: Option<StopRule>,
    /// Key of this call's draws, such as (seed, step).
    pub key: Vec<u64>,
    /// Rows decoded together at most.
    pub max_rows: usize,
    /// Whether the adapter takes part.
    pub has_adapter: bool,
}

/// Whether a completion ends with the tokens it has.
pub type StopRule = Arc<dyn Fn(&[u32]) -> bool + Send + Sync>;

/// A rule that ends a completion once its text holds one of `stop`; `None` for no strings.
pub fn stop_strings(tokenizer: &Tokenizer, stop: &[String]) -> Option<StopRule> {
    if stop.is_empty() {
        return None;
    }
    let (tokenizer, stop) = (tokenizer.clone(), stop.to_vec());
    // A token has at least one byte, so the newest tokens, as many as the longest string has bytes,
    // hold any string that the last token completes.
    let reach = stop.iter().map(String::len).max().unwrap_or(0) + 4;
    Some(Arc::new(move |tokens: &[u32]| {
        let tail = &tokens[tokens.len().saturating_sub(reach)..];
        tokenizer.decode(tail, false).is_ok_and(|text| stop.iter().any(|s| text.contains(s.as_str())))
    }))
}

/// What happens while generating; the callback may stop everything.
pub enum Event<'a> {
    /// A row drew a token.
    Token {
        /// Index of the request.
        request: usize,
        /// Number of the sample.
        sample: u64,
        /// The token.
        token: u32,
    },
    /// A row is complete.
    Finished(&'a Completion),
}

/// Generates completions for all requests; they come back ordered by request and sample.
///
/// A prompt whose cap exceeds the rest of the context is cut there and finishes with `Length`.
/// `on_event` hears of every token in decoding order and may break to stop early: what is complete
/// is returned then.
pub fn generate(
    decoder: &Decoder,
    requests: &[Request],
    settings: &Settings,
    on_event: impl FnMut(Event) -> ControlFlow<()>,
) -> Result<Vec<Completion>> {
    settings.sampling.validate()?;
    if let Some(thinking) = &settings.thinking {
        thinking.check(decoder.spec.vocab_size)?;
    }
    ensure!(settings.max_rows > 0, "at least one row must be decoded at a time");
    for (i, request) in requests.iter().enumerate() {
        ensure!(!request.prompt.is_empty(), "prompt {i} is empty: a completion needs at least one token to follow");
        ensure!(
            request.prompt.len() < decoder.spec.max_positions,
            "prompt {i} of {} tokens leaves no room in the model's context of {}",
            request.prompt.len(),
            decoder.spec.max_positions
        );
    }
    let has_kernels = ops::has_kernels(decoder.device(), decoder.params.dtype());
    match decoder.params.dtype() {
        DType::F32 if has_kernels => {
            Run::new(Kernels::<f32>::new(decoder, settings.has_adapter)?, requests, settings).all(on_event)
        }
        DType::F64 if has_kernels => {
            Run::new(Kernels::<f64>::new(decoder, settings.has_adapter)?, requests, settings).all(on_event)
        }
        _ => Run::new(Tensors::new(decoder, settings.has_adapter), requests, settings).all(on_event),
    }
}

/// A row being decoded; the engine has a row in the same place.
struct Row {
    completion: Completion,
    rng: Rng,
    cap: usize,
    next: u32,
    soft: soft::State,
}

struct Run<'a, E: Engine> {
    engine: E,
    requests: &'a [Request],
    settings: &'a Settings,
    waiting: VecDeque<(usize, u64)>,
    rows: Vec<Row>,
    prompt: Option<(usize, Arc<E::Prompt>)>,
    done: Vec<Completion>,
}

impl<'a, E: Engine> Run<'a, E> {
    fn new(engine: E, requests: &'a [Request], settings: &'a Settings) -> Self {
        let waiting = requests.iter().enumerate().flat_map(|(i, r)| r.samples.clone().map(move |s| (i, s))).collect();
        Self { engine, requests, settings, waiting, rows: Vec::new(), prompt: None, done: Vec::new() }
    }

    fn all(mut self, mut on_event: impl FnMut(Event) -> ControlFlow<()>) -> Result<Vec<Completion>> {
        'decoding: loop {
            self.admit(&mut on_event)?;
            if self.rows.is_empty() {
                break;
            }
            self.step()?;
            for row in &self.rows {
                let token = *row.completion.tokens.last().expect("each step adds a token");
                let event = Event::Token { request: row.completion.request, sample: row.completion.sample, token };
                if on_event(event).is_break() {
                    break 'decoding;
                }
            }
            if self.retire(&mut on_event).is_break() {
                break;
            }
        }
        self.done.sort_by_key(|c| (c.request, c.sample));
        Ok(self.done)
    }

    /// Fills free places with waiting samples, whose first token follows from the prompt alone.
    fn admit(&mut self, on_event: &mut impl FnMut(Event) -> ControlFlow<()>) -> Result<()> {
        while self.rows.len() < self.settings.max_rows {
            let Some((index, sample)) = self.waiting.pop_front() else { break };
            let request = &self.requests[index];
            let prompt = match &self.prompt {
                Some((i, prompt)) if *i == index => prompt.clone(),
                _ => {
                    let prompt = Arc::new(self.engine.prefill(&request.prompt)?);
                    self.prompt = Some((index, prompt.clone()));
                    prompt
                }
            };
            let mut key = self.settings.key.clone();
            key.extend([request.id, sample]);
            let room = self.engine.max_positions() - request.prompt.len();
            let mut row = Row {
                completion: Completion {
                    request: index,
                    sample,
                    tokens: Vec::new(),
                    logp: Vec::new(),
                    drawn_logp: Vec::new(),
                    entropy: Vec::new(),
                    soft: SoftSteps::default(),
                    finish: Finish::Length,
                },
                rng: Rng::keyed(&key),
                cap: request.cap.min(room),
                next: 0,
                soft: soft::State::default(),
            };
            if row.cap == 0 {
                self.done.push(row.completion);
                continue;
            }
            let mut logits = E::logits(&prompt).to_vec();
            draw(&mut row, &mut logits, self.settings)?;
            let event = Event::Token { request: index, sample, token: row.next };
            if on_event(event).is_break() {
                self.waiting.clear();
            }
            self.rows.push(row);
            self.engine.admit(&prompt)?;
            let _ = self.retire(on_event);
        }
        Ok(())
    }

    /// One token for every row.
    fn step(&mut self) -> Result<()> {
        let tokens: Vec<u32> = self.rows.iter().map(|row| row.next).collect();
        let mixtures: Vec<Option<&Mixture>> = self.rows.iter().map(|row| row.soft.mixture.as_ref()).collect();
        let mut logits = self.engine.step(&tokens, &mixtures)?; // [R,V]
        let v = logits.len() / self.rows.len();
        let settings = self.settings;
        let rows = self.rows.par_iter_mut().zip(logits.par_chunks_mut(v));
        rows.map(|(row, logits)| draw(row, logits, settings)).collect()
    }

    /// Moves finished rows out, keeping the order of the others.
    fn retire(&mut self, on_event: &mut impl FnMut(Event) -> ControlFlow<()>) -> ControlFlow<()> {
        let mut i = 0;
        while i < self.rows.len() {
            let completion = &self.rows[i].completion;
            let is_eos = completion.tokens.last().is_some_and(|t| self.settings.eos.contains(t));
            let is_stopped = self.rows[i].soft.is_aborted
                || !is_eos && self.settings.stop.as_ref().is_some_and(|stop| stop(&completion.tokens));
            if !is_eos && !is_stopped && completion.tokens.len() < self.rows[i].cap {
                i += 1;
                continue;
            }
            let Row { mut completion, soft, .. } = self.rows.remove(i);
            completion.soft = soft.steps;
            self.engine.retire(i);
            completion.finish = match (is_eos, is_stopped) {
                (true, _) => Finish::Eos,
                (_, true) => Finish::Stop,
                _ => Finish::Length,
            };
            self.done.push(completion);
            on_event(Event::Finished(self.done.last().expect("just pushed")))?;
        }
        ControlFlow::Continue(())
    }
}

fn draw<F: Float>(row: &mut Row, logits: &mut [F], settings: &Settings) -> Result<()> {
    let draw = match &settings.thinking {
        Some(thinking) if row.soft.is_thinking() => {
            sample::check_logits(logits)?;
            row.soft.think(thinking, &settings.sampling, logits, &mut row.rng)
        }
        thinking => {
            let draw = settings.sampling.draw(logits, &mut row.rng)?;
            if let Some(thinking) = thinking {
                row.soft.answer(&thinking.rule, &draw);
            }
            draw
        }
    };
    row.completion.tokens.push(draw.token);
    row.completion.logp.push(draw.logp);
    row.completion.drawn_logp.push(draw.drawn_logp);
    row.completion.entropy.push(draw.entropy);
    row.next = draw.token;
    Ok(())
}
