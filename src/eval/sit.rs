//! Sitting an exam: the policy answers every problem through the `rollout` stage, and the answers are graded.
//!
//! Draws are keyed by (seed, problem, sample): the order of problems, the number decoded together, a stop and a new
//! start change nothing.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use candlewick_algorithms::batch::Finish as Ended;
use candlewick_eval::benchmark::Item;
use candlewick_eval::grading::{self, Grade, MathGrader};
use candlewick_eval::metrics::{Results, Settings, Wordings, summarise};
use candlewick_eval::sample::{Completion, Finish, Sample, grade};
use candlewick_eval::sensitivity::{Mode, sensitivity};
use candlewick_rewards::reward::math::MathConfig;
use serde_json::{Value, json};

use super::exam::{Asked, Exam};
use super::journal::{Journal, Line, prompt_hash};
use super::progress::Progress;
use crate::config::EvalConfig;
use crate::data::split;
use crate::rollout::{self, Event, Request, Sampling};
use crate::train::is_stopping;
use crate::train::policy::Policy;

/// Rows decoded together unless somebody says otherwise.
pub const ROWS: usize = 128;

/// How an exam is sat and graded.
pub struct Sitting<'a> {
    /// Samples and how they are drawn.
    pub eval: &'a EvalConfig,
    /// Most tokens of a completion.
    pub cap: usize,
    /// Seed of the draws.
    pub seed: u64,
    /// Rows decoded together; changes speed and memory, never a result.
    pub rows: usize,
    /// Who judges.
    pub grader: MathGrader,
    /// Whether a completion cut at the limit is wrong whatever it says, as under `reward.math.require_finished`.
    pub must_finish: bool,
    /// k of pass@k and maj@k; `None` takes powers of two up to the samples.
    pub ks: Option<Vec<usize>>,
    /// Where completions are kept as they end; `None` keeps none.
    pub journal: Option<PathBuf>,
    /// What tells this model from others in the journal.
    pub model: String,
}

/// What came of an exam.
pub struct Outcome {
    /// Name of the benchmark.
    pub name: String,
    /// All metrics, under the primary grader.
    pub results: Results,
    /// The same completions under other graders, the primary one first.
    pub sensitivity: Vec<Mode>,
    /// Accuracy under other wordings of the instruction, where they were asked for.
    pub wordings: Option<Wordings>,
    /// Every completion under the first wording, graded.
    pub samples: Vec<Sample>,
    /// Wall time of generating, earlier sittings included.
    pub seconds: f64,
    /// Tokens generated, under all wordings.
    pub tokens: usize,
}

/// Open prompts answered, which nothing grades.
pub struct Answered {
    /// Name of the set.
    pub name: String,
    /// Every completion.
    pub completions: Vec<Completion>,
    /// Wall time of generating, earlier sittings included.
    pub seconds: f64,
    /// Tokens generated.
    pub tokens: usize,
}

/// Completions under each wording, with what they took.
struct Given {
    answers: Vec<Vec<Completion>>,
    seconds: f64,
    tokens: usize,
}

impl Outcome {
    /// Accuracy under the most lenient extraction: the last number anywhere counts, finished or not.
    pub fn lenient(&self) -> f64 {
        self.sensitivity.iter().find(|mode| mode.name == "lenient").map_or(f64::NAN, |mode| mode.accuracy.value)
    }
}

/// Who judges an exam, and whether cut completions are wrong: problems of `[data]` are graded as the run's `math`
/// reward grades, benchmarks as a careful reader would.
pub fn grader(exam: &Exam, reward: Option<&MathConfig>) -> (MathGrader, bool) {
    match reward.filter(|_| exam.is_held_out) {
        Some(reward) => (MathGrader::of(reward), reward.require_finished),
        None => (MathGrader::of_benchmarks(), false),
    }
}

impl Sitting<'_> {
    /// How tokens are drawn; with soft thinking, those of the answer.
    pub fn sampling(&self) -> Sampling {
        if let Some(soft) = &self.eval.soft {
            return Sampling::from(&soft.answer);
        }
        Sampling {
            temperature: self.eval.temperature,
            top_k: self.eval.top_k.unwrap_or(0),
            top_p: self.eval.top_p,
            min_p: self.eval.min_p,
        }
    }

    /// The grader in words that tell two settings apart.
    pub(super) fn grader_settings(&self) -> String {
        let settings = self.grader.settings();
        if self.must_finish { format!("{settings}, and cut completions are wrong") } else { settings }
    }

    /// What tells the completions of this sitting from those of another, in a journal.
    fn key(&self, stop: &[String]) -> Value {
        let sampling = self.sampling();
        json!({"version": env!("CARGO_PKG_VERSION"), "model": self.model, "seed": self.seed, "limit": self.cap, "stop": stop,
               "temperature": sampling.temperature, "top_k": sampling.top_k, "top_p": sampling.top_p, "min_p": sampling.min_p, "soft": self.eval.soft})
    }
}

impl Exam {
    /// How many completions of how many stand in the sitting's journal already.
    pub fn kept(&self, sitting: &Sitting) -> (usize, usize) {
        let total = self.asked.iter().flat_map(|asked| &asked.prompts).filter(|prompt| !prompt.is_too_long).count();
        let kept = sitting.journal.as_ref().map_or(0, |path| {
            let journal = Journal::read(path, &sitting.key(&self.stop));
            self.taken_over(&journal, &self.hashes(), sitting.eval.samples)
        });
        (kept, total * sitting.eval.samples)
    }

    /// What the sitting's journal would lose because other settings made it: how many completions, and what differs.
    pub fn loss(&self, sitting: &Sitting) -> Option<(usize, String)> {
        Journal::loss(sitting.journal.as_ref()?, &sitting.key(&self.stop))
    }

    /// Lets the policy answer every problem `eval.samples` times under each wording, and grades; `None` when the
    /// program was asked to stop on the way. What was complete by then is in the journal, if there is one.
    pub fn sit(&self, policy: &Policy, sitting: &Sitting) -> Result<Option<Outcome>> {
        let Some(Given { answers, seconds, tokens }) = self.given(policy, sitting)? else { return Ok(None) };
        let n = sitting.eval.samples;
        let settings = Settings::new(n, sitting.seed);
        let settings = Settings { ks: sitting.ks.clone().unwrap_or(settings.ks.clone()), ..settings };
        let mut graded = Vec::new();
        for completions in answers {
            let samples = self.judge(sitting, completions)?;
            graded.push((summarise(&self.items, &samples, &sitting.grader, &settings)?, samples));
        }
        let wordings = match graded.len() {
            1 => None,
            _ => {
                let each: Vec<(String, &Results)> = self
                    .asked
                    .iter()
                    .zip(&graded)
                    .map(|(asked, (results, _))| (asked.instruction.clone(), results))
                    .collect();
                Some(Wordings::new(&each)?)
            }
        };
        let (results, mut samples) = graded.swap_remove(0);
        let others = grading::others();
        let others: Vec<&dyn Grade> = others.iter().map(AsRef::as_ref).collect();
        let sensitivity = sensitivity(self.benchmark.as_ref(), &self.items, &mut samples, n, &sitting.grader, &others)?;
        Ok(Some(Outcome { name: self.name.clone(), results, sensitivity, wordings, samples, seconds, tokens }))
    }

    /// Lets the policy answer open prompts; `None` when the program was asked to stop on the way, as [`Self::sit`].
    pub fn answer(&self, policy: &Policy, sitting: &Sitting) -> Result<Option<Answered>> {
        let given = self.given(policy, sitting)?;
        Ok(given.map(|Given { answers, seconds, tokens }| Answered {
            name: self.name.clone(),
            // Open prompts are asked under one wording.
            completions: answers.into_iter().flatten().collect(),
            seconds,
            tokens,
        }))
    }

    /// Every completion that is asked for, from the journal or made now.
    fn given(&self, policy: &Policy, sitting: &Sitting) -> Result<Option<Given>> {
        let mut journal = match &sitting.journal {
            Some(path) => Journal::open(path, &sitting.key(&self.stop))?,
            None => Journal::none(),
        };
        let started = Instant::now();
        let hashes = self.hashes();
        let n = sitting.eval.samples;
        let kept = self.taken_over(&journal, &hashes, n);
        let total = self.asked.len() * self.len() * n;
        let mut progress = Progress::new(&self.name, total as u64, kept as u64, sitting.cap);
        let mut answers = Vec::new();
        for (wording, (asked, hashes)) in self.asked.iter().zip(&hashes).enumerate() {
            let given = self.answers(policy, sitting, wording, asked, hashes, &mut journal, &mut progress, started)?;
            let Some(given) = given else {
                progress.finish();
                return Ok(None);
            };
            answers.push(given);
        }
        progress.finish();
        let seconds = journal.before + started.elapsed().as_secs_f64();
        let tokens = answers.iter().flatten().map(|completion| completion.tokens).sum();
        Ok(Some(Given { answers, seconds, tokens }))
    }

    /// Hashes of the prompts under each wording.
    fn hashes(&self) -> Vec<Vec<u64>> {
        self.asked.iter().map(|asked| asked.prompts.iter().map(|p| prompt_hash(&p.ids)).collect()).collect()
    }

    fn taken_over(&self, journal: &Journal, hashes: &[Vec<u64>], samples: usize) -> usize {
        let of_item = |(item, hash): (&Item, &u64)| {
            (0..samples).filter(|index| journal.get(&item.id, *index, *hash).is_some()).count()
        };
        hashes.iter().flat_map(|hashes| self.items.iter().zip(hashes)).map(of_item).sum()
    }

    /// Completions under one wording, in the order of problems and samples; those in the journal are not made again.
    /// `None` when the program was asked to stop.
    #[allow(clippy::too_many_arguments)]
    fn answers(
        &self,
        policy: &Policy,
        sitting: &Sitting,
        wording: usize,
        asked: &Asked,
        hashes: &[u64],
        journal: &mut Journal,
        progress: &mut Progress,
        started: Instant,
    ) -> Result<Option<Vec<Completion>>> {
        let n = sitting.eval.samples;
        let mut lines: HashMap<(usize, usize), Line> = HashMap::new();
        let (mut requests, mut of_item) = (Vec::new(), Vec::new());
        for (at, (item, prompt)) in self.items.iter().zip(&asked.prompts).enumerate() {
            for index in 0..n {
                if prompt.is_too_long {
                    continue;
                }
                if let Some(line) = journal.get(&item.id, index, hashes[at]) {
                    lines.insert((at, index), line.clone());
                    continue;
                }
                // Missing samples that follow each other share a request, and so the prompt's prefill.
                match requests.last_mut() {
                    Some(Request { samples, .. }) if of_item.last() == Some(&at) && samples.end == index as u64 => {
                        samples.end += 1;
                    }
                    _ => {
                        let samples = index as u64..index as u64 + 1;
                        let (id, prompt) = (split::hash(&item.id), prompt.ids.clone());
                        requests.push(Request { id, prompt, samples, cap: sitting.cap });
                        of_item.push(at);
                    }
                }
            }
        }
        let mut key = vec![sitting.seed, 0xe7a1];
        key.extend((wording > 0).then_some(wording as u64));
        let settings = rollout::Settings {
            sampling: sitting.sampling(),
            thinking: rollout::soft::thinking(sitting.eval.soft.as_ref(), policy.tokenizer())?,
            eos: policy.tokenizer().eos().to_vec(),
            stop: rollout::stop_strings(policy.tokenizer(), &self.stop),
            key,
            max_rows: sitting.rows,
            has_adapter: true,
        };
        let before = journal.before;
        let mut failure = None;
        let mut is_stopped = is_stopping();
        if is_stopped {
            return Ok(None);
        }
        rollout::generate(&policy.decoder, &requests, &settings, |event| {
            let completion = match event {
                Event::Token { .. } => {
                    progress.token();
                    is_stopped = is_stopping();
                    return if is_stopped { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
                }
                Event::Finished(completion) => completion,
            };
            progress.finished(completion.tokens.len());
            let at = of_item[completion.request];
            let line = Line {
                item: self.items[at].id.clone(),
                index: completion.sample as usize,
                prompt: hashes[at],
                ids: completion.tokens.clone(),
                logp: completion.logp.iter().sum(),
                finish: completion.finish,
                seconds: before + started.elapsed().as_secs_f64(),
            };
            if let Err(error) = journal.put(&line) {
                failure = Some(error);
                return ControlFlow::Break(());
            }
            lines.insert((at, line.index), line);
            ControlFlow::Continue(())
        })?;
        if let Some(error) = failure {
            return Err(error);
        }
        if is_stopped {
            return Ok(None);
        }
        let mut completions = Vec::new();
        for (at, (item, prompt)) in self.items.iter().zip(&asked.prompts).enumerate() {
            for index in 0..n {
                if prompt.is_too_long {
                    completions.push(unasked(item, index, &prompt.text));
                    continue;
                }
                let line = lines.remove(&(at, index)).with_context(|| {
                    format!(
                        "problem `{}` of `{}` has no sample {index}: the rollout stage gave too few",
                        item.id, self.name
                    )
                })?;
                completions.push(self.completion(policy, line, &item.problem, &prompt.text)?);
            }
        }
        Ok(Some(completions))
    }

    fn completion(&self, policy: &Policy, line: Line, problem: &str, prompt: &str) -> Result<Completion> {
        let mut text = policy.tokenizer().decode(&line.ids, true)?;
        if line.finish == Ended::Stop
            && let Some(end) = self.stop.iter().filter_map(|stop| text.find(stop.as_str())).min()
        {
            text.truncate(end);
        }
        Ok(Completion {
            item: line.item,
            index: line.index,
            problem: problem.to_owned(),
            prompt: prompt.to_owned(),
            text,
            tokens: line.ids.len(),
            finish: if line.finish == Ended::Length { Finish::Length } else { Finish::Stop },
            logp: Some(line.logp),
            ids: line.ids,
        })
    }

    fn judge(&self, sitting: &Sitting, completions: Vec<Completion>) -> Result<Vec<Sample>> {
        let mut samples = grade(self.benchmark.as_ref(), &sitting.grader, &self.items, completions)?;
        for sample in samples.iter_mut().filter(|s| sitting.must_finish && s.is_truncated() && s.verdict.correct) {
            sample.verdict.correct = false;
            sample.verdict.reason = "truncated".into();
        }
        for sample in samples.iter_mut().filter(|s| s.completion.finish == Finish::Unasked) {
            sample.verdict.correct = false;
            sample.verdict.reason = grading::PROMPT_TOO_LONG.into();
        }
        Ok(samples)
    }
}

/// The empty completion of a prompt that leaves no room for one.
fn unasked(item: &Item, index: usize, prompt: &str) -> Completion {
    Completion {
        item: item.id.clone(),
        index,
        problem: item.problem.clone(),
        prompt: prompt.to_owned(),
        text: String::new(),
        tokens: 0,
        finish: Finish::Unasked,
        logp: None,
        ids: Vec::new(),
    }
}
