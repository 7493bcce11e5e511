//! Answers of the policy to prompts, each handed to the rewards as soon as it is finished, while others are still sampled.

use std::ops::ControlFlow;

use anyhow::Result;
use candlewick_algorithms::budget::tokens::Plan;
use candlewick_rewards::{Grading, Rewards};
use indicatif::ProgressBar;
use tokio::runtime::Handle;

use super::policy::Policy;
use super::probe::{self, Shown};
use crate::config::DiscreteConfig;
use crate::data::Problem;
use crate::rollout::{self, Completion, Event, Request, Sampling, Thinking};

/// Rows decoded together.
const ROWS: usize = 256;

/// A prompt that is to be answered.
pub(super) struct Asked<'a> {
    /// The problem behind it.
    pub(super) problem: &'a Problem,
    /// The prompt as the model sees it.
    pub(super) shown: Shown,
    /// Identity of the prompt, part of the key of every draw.
    pub(super) id: u64,
    /// Answers wanted.
    pub(super) samples: usize,
    /// The length that it tells, and the most new tokens of an answer.
    pub(super) plan: Plan,
}

/// What was sampled; the scores are still to come.
pub(super) struct Answers {
    /// In the order of prompts and samples; a completion's request is the place of its prompt.
    pub(super) completions: Vec<Completion>,
    /// The text of each, special tokens removed.
    pub(super) texts: Vec<String>,
    /// The scoring of each, by the same order.
    pub(super) grading: Grading,
}

/// How answers are drawn by the policy; `key` is that of the call's draws, such as (seed, step).
pub(super) fn settings(
    policy: &Policy,
    tokens: &DiscreteConfig,
    thinking: Option<Thinking>,
    key: Vec<u64>,
) -> rollout::Settings {
    rollout::Settings {
        sampling: Sampling::from(tokens),
        thinking,
        eos: policy.tokenizer().eos().to_vec(),
        stop: rollout::stop_strings(policy.tokenizer(), &tokens.stop),
        key,
        max_rows: ROWS,
        has_adapter: true,
    }
}

/// Answers to all prompts. `None` once `stops` says yes, which is asked after every answer.
pub(super) fn sample(
    policy: &Policy,
    asked: &[Asked],
    settings: &rollout::Settings,
    (rewards, runtime): (&Rewards, &Handle),
    bar: &ProgressBar,
    stops: impl Fn() -> bool,
) -> Result<Option<Answers>> {
    let requests: Vec<Request> = asked
        .iter()
        .map(|a| Request { id: a.id, prompt: a.shown.tokens.clone(), samples: 0..a.samples as u64, cap: a.plan.cap })
        .collect();
    let first: Vec<usize> = asked.iter().scan(0, |next, a| Some(std::mem::replace(next, *next + a.samples))).collect();
    let total = asked.iter().map(|a| a.samples).sum();
    let mut grading = rewards.begin(total, runtime);
    let mut texts = vec![String::new(); total];
    let (mut trouble, mut is_stopped) = (None, false);
    let completions = rollout::generate(&policy.decoder, &requests, settings, |event| {
        if let Event::Finished(completion) = event {
            bar.inc(1);
            let (a, place) = (&asked[completion.request], first[completion.request] + completion.sample as usize);
            match policy.tokenizer().decode(&completion.tokens, true) {
                Ok(text) => {
                    texts[place].clone_from(&text);
                    grading.push(place, probe::item(a.problem, &a.shown.text, text, completion, a.plan));
                }
                Err(error) => trouble = Some(error),
            }
            is_stopped = stops();
        }
        if trouble.is_some() || is_stopped { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    match trouble {
        Some(error) => Err(error),
        None => Ok((!is_stopped).then_some(Answers { completions, texts, grading })),
    }
}
