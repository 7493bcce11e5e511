//! Evaluation of a policy: asks through the `rollout` stage, grades with the grader of training.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use candlewick_algorithms::batch::Finish as Ended;
use candlewick_algorithms::rng::Rng;
use candlewick_eval::benchmark::{self, Ask, Benchmark, Form, Item, Role};
use candlewick_eval::grading::{Grade, Verdict};
use candlewick_eval::metrics::{Results, Settings, compare, summarise};
use candlewick_eval::sample::{Completion, Finish, Sample, grade};
use candlewick_rewards::math::{self, Extract, GradeConfig};
use candlewick_rewards::reward::math::MathConfig;
use serde_json::json;

use super::folder::write_atomically;
use super::policy::Policy;
use crate::config::{Config, EvalConfig, Kind};
use crate::data::{self, DataConfig, Problem, Prompt, Split, split};
use crate::hub::Hub;
use crate::model::chat_template::Message;
use crate::rollout::{self, Event, Request, Sampling};

/// Rows decoded together.
const ROWS: usize = 128;

/// A benchmark with its problems, rendered for one model.
pub struct Exam {
    /// Name of the benchmark.
    pub name: String,
    benchmark: Option<Box<dyn Benchmark>>,
    items: Vec<Item>,
    prompts: Vec<(String, Vec<u32>)>,
    stop: Vec<String>,
}

/// What came of an exam.
pub struct Outcome {
    /// Name of the benchmark.
    pub name: String,
    /// All metrics, under the run's own grader.
    pub results: Results,
    /// Accuracy under the most lenient extraction: the last number anywhere counts, finished or not.
    pub lenient: f64,
    /// Every completion.
    pub samples: Vec<Sample>,
    /// Wall time.
    pub seconds: f64,
    /// Tokens generated.
    pub tokens: usize,
}

/// The grader of the `math` reward as evaluation sees it.
pub struct MathGrade {
    name: &'static str,
    config: GradeConfig,
}

impl MathGrade {
    /// The grader with the settings of `[reward.math]`.
    pub fn of(reward: &MathConfig) -> Self {
        let mut config = GradeConfig { policy: reward.policy.clone(), ..GradeConfig::default() };
        config.extraction.mode = reward.extract;
        config.extraction.allow_unanchored = reward.allow_unanchored;
        Self { name: "math", config }
    }

    /// For benchmarks: answers may stand anywhere that a careful reader would take them from.
    pub fn for_benchmarks() -> Self {
        Self::of(&MathConfig { allow_unanchored: true, ..MathConfig::default() })
    }

    fn lenient() -> Self {
        let mut config = GradeConfig::default();
        config.extraction.mode = Extract::LastNumber;
        Self { name: "last_number", config }
    }
}

/// The word that a serialised unit variant has.
fn word(value: impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        other => format!("{other:?}"),
    }
}

impl Grade for MathGrade {
    fn name(&self) -> &str {
        self.name
    }

    fn grade(&self, item: &Item, completion: &str) -> Verdict {
        let verdict = math::grade(&item.answer, completion, &self.config);
        Verdict {
            correct: verdict.correct,
            extracted: verdict.extracted,
            reason: verdict.reason.map(word).unwrap_or_default(),
            method: word(verdict.method),
            flags: verdict.flags.into_iter().map(word).collect(),
        }
    }

    fn equivalent(&self, a: &str, b: &str) -> bool {
        math::equivalent(a, b, &self.config)
    }
}

/// The exams that `[eval]` names: benchmarks, or `validation`, the held-out part of `[data]`.
///
/// Where fewer problems are wanted than there are, the same ones are taken each time, by the hash of their ids.
pub fn exams(policy: &Policy, eval: &EvalConfig, data: &DataConfig) -> Result<Vec<Exam>> {
    let hub = Hub::from_env();
    let mut exams = Vec::new();
    for name in &eval.benchmarks {
        let exam = match benchmark::named(name) {
            Ok(benchmark) => official(policy, benchmark, &hub),
            Err(_) if name == "validation" => {
                let problems = data::load(data, &hub, Split::Validation)?.problems()?;
                own(policy, name, problems)
            }
            Err(_) => own(policy, name, data::load_source(data, &hub, name)?.problems()?),
        };
        let mut exam = exam.with_context(|| format!("benchmark `{name}` cannot be prepared"))?;
        exam.limit(eval.problems);
        exams.push(exam);
    }
    Ok(exams)
}

fn own(policy: &Policy, name: &str, problems: Vec<Problem>) -> Result<Exam> {
    let mut exam =
        Exam { name: name.to_owned(), benchmark: None, items: Vec::new(), prompts: Vec::new(), stop: Vec::new() };
    for problem in problems {
        let answer = problem.answer.with_context(|| format!("problem `{}` has no answer to grade by", problem.id))?;
        exam.prompts.push((policy.renderer.text(&problem.prompt)?, policy.renderer.prompt(&problem.prompt)?));
        let groups = problem.meta.iter().filter(|(key, _)| matches!(key.as_str(), "terms" | "level" | "subject"));
        exam.items.push(Item {
            id: problem.id,
            problem: problem.text,
            answer,
            solution: None,
            groups: groups.map(|(k, v)| (k.clone(), v.as_str().map_or_else(|| v.to_string(), str::to_owned))).collect(),
            tolerance: None,
        });
    }
    Ok(exam)
}

fn official(policy: &Policy, benchmark: Box<dyn Benchmark>, hub: &Hub) -> Result<Exam> {
    let source = benchmark.source();
    let dataset = source.dataset.context("it has no data set on the Hub: name a file instead")?;
    let configs: Vec<Option<&str>> =
        if source.configs.is_empty() { vec![None] } else { source.configs.iter().map(|c| Some(*c)).collect() };
    let mut records = Vec::new();
    for config in configs {
        for split in source.splits {
            for file in hub.data_set(dataset, None, config, split)? {
                for row in data::read::rows(&file)? {
                    records.push(serde_json::Value::Object(row?.1));
                }
            }
        }
    }
    let has_template = policy.renderer.text(&Prompt::Messages(vec![Message::user("x")])).is_ok();
    let form = if has_template { Form::Chat } else { Form::Base };
    let ask = Ask { form, shots: None, wording: 0, system: None };
    let problems = benchmark.problems(&records)?;
    let mut exam = Exam {
        name: benchmark.name().to_owned(),
        benchmark: None,
        items: Vec::new(),
        prompts: Vec::new(),
        stop: Vec::new(),
    };
    for item in problems.items {
        let prompt = match benchmark.prompt(&item, &ask) {
            benchmark::Prompt::Text { text, stop } => {
                exam.stop = stop;
                Prompt::Text(text)
            }
            benchmark::Prompt::Chat(messages) => Prompt::Messages(
                messages
                    .into_iter()
                    .map(|m| match m.role {
                        Role::System => Message::system(m.content),
                        Role::User => Message::user(m.content),
                        Role::Assistant => Message::assistant(m.content),
                    })
                    .collect(),
            ),
        };
        exam.prompts.push((policy.renderer.text(&prompt)?, policy.renderer.prompt(&prompt)?));
        exam.items.push(item);
    }
    exam.benchmark = Some(benchmark);
    Ok(exam)
}

impl Exam {
    /// Number of problems.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there are no problems.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    fn limit(&mut self, problems: Option<usize>) {
        let Some(limit) = problems.filter(|&n| n < self.items.len()) else { return };
        let mut order: Vec<usize> = (0..self.items.len()).collect();
        order.sort_by_key(|&i| (split::hash(&self.items[i].id), i));
        order.truncate(limit);
        order.sort_unstable();
        self.items = order.iter().map(|&i| self.items[i].clone()).collect();
        self.prompts = order.iter().map(|&i| self.prompts[i].clone()).collect();
    }

    /// Lets the policy answer every problem `eval.samples` times, and grades.
    ///
    /// Draws are keyed by (seed, item, sample): batch size and order change nothing.
    pub fn sit(
        &self,
        policy: &Policy,
        eval: &EvalConfig,
        cap: usize,
        seed: u64,
        grader: &MathGrade,
        must_finish: bool,
    ) -> Result<Outcome> {
        let started = Instant::now();
        let requests: Vec<Request> = (self.items.iter().zip(&self.prompts))
            .map(|(item, (_, prompt))| Request {
                id: split::hash(&item.id),
                prompt: prompt.clone(),
                samples: 0..eval.samples as u64,
                cap,
            })
            .collect();
        let settings = rollout::Settings {
            sampling: match &eval.soft {
                Some(soft) => Sampling::from(&soft.answer),
                None => Sampling { temperature: eval.temperature, ..Sampling::default() },
            },
            thinking: rollout::soft::thinking(eval.soft.as_ref(), policy.tokenizer())?,
            eos: policy.tokenizer().eos().to_vec(),
            stop: rollout::stop_strings(policy.tokenizer(), &self.stop),
            key: vec![seed, 0xe7a1],
            max_rows: ROWS,
            has_adapter: true,
        };
        let total = requests.len() as u64 * eval.samples as u64;
        let bar = super::online::progress(total, &format!("evaluating {}", self.name));
        let completions = rollout::generate(&policy.decoder, &requests, &settings, |event| {
            if let Event::Finished(_) = event {
                bar.inc(1);
            }
            std::ops::ControlFlow::Continue(())
        })?;
        bar.finish_and_clear();
        let tokens = completions.iter().map(|c| c.tokens.len()).sum();
        let completions = completions
            .into_iter()
            .map(|c| {
                Ok(Completion {
                    item: self.items[c.request].id.clone(),
                    index: c.sample as usize,
                    prompt: self.prompts[c.request].0.clone(),
                    text: policy.tokenizer().decode(&c.tokens, true)?,
                    tokens: c.tokens.len(),
                    finish: if c.finish == Ended::Length { Finish::Length } else { Finish::Stop },
                    logp: Some(c.logp.iter().sum()),
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let plain = benchmark::Jsonl { name: self.name.clone(), problem: None, answer: None, is_verbatim: true };
        let benchmark: &dyn Benchmark = self.benchmark.as_deref().unwrap_or(&plain);
        let lenient = grade(benchmark, &MathGrade::lenient(), &self.items, completions.clone())?;
        let mut samples = grade(benchmark, grader, &self.items, completions)?;
        for sample in samples.iter_mut().filter(|s| must_finish && s.is_truncated() && s.verdict.correct) {
            sample.verdict.correct = false;
            sample.verdict.reason = "truncated".into();
        }
        let results = summarise(&self.items, &samples, grader, &Settings::new(eval.samples, seed))?;
        let right = lenient.iter().filter(|s| s.verdict.correct).count();
        Ok(Outcome {
            name: self.name.clone(),
            results,
            lenient: right as f64 / lenient.len().max(1) as f64,
            samples,
            seconds: started.elapsed().as_secs_f64(),
            tokens,
        })
    }
}

/// How a run examines its policy.
pub struct Examiner {
    exams: Vec<Exam>,
    eval: EvalConfig,
    cap: usize,
    seed: u64,
    reward: Option<MathConfig>,
}

impl Examiner {
    /// The exams of a run.
    pub fn for_run(policy: &Policy, config: &Config) -> Result<Self> {
        let budget = match config.kind() {
            Kind::Online(online) => Some(online.budget.tokens.build()?.largest()),
            Kind::Offline(_) => None,
        };
        Ok(Self {
            exams: exams(policy, &config.eval, &config.data)?,
            cap: config.eval.limit.or(budget).unwrap_or(512),
            eval: EvalConfig { soft: config.eval.soft.clone().or_else(|| trained_soft(config)), ..config.eval.clone() },
            seed: config.run.seed,
            reward: config.reward.as_ref().and_then(|r| r.math.clone()),
        })
    }

    /// Whether there is nothing to examine.
    pub fn is_empty(&self) -> bool {
        self.exams.is_empty()
    }

    /// Every exam.
    pub fn sit(&self, policy: &Policy) -> Result<Vec<Outcome>> {
        self.exams
            .iter()
            .map(|exam| {
                // A benchmark of its own is graded as the run's reward grades.
                let (grader, must_finish) = match (&self.reward, &exam.benchmark) {
                    (Some(reward), None) => (MathGrade::of(reward), reward.require_finished),
                    _ => (MathGrade::for_benchmarks(), false),
                };
                exam.sit(policy, &self.eval, self.cap, self.seed, &grader, must_finish)
            })
            .collect()
    }
}

/// Soft thinking as the run samples, at the temperature of evaluation: 0 is greedy in both phases.
fn trained_soft(config: &Config) -> Option<crate::config::SoftConfig> {
    let mut soft = config.rollout.as_ref()?.soft()?.clone();
    soft.temperature = config.eval.temperature;
    soft.answer.temperature = config.eval.temperature;
    Some(soft)
}

/// Mean accuracy over exams.
pub fn mean_accuracy(outcomes: &[Outcome]) -> f64 {
    outcomes.iter().map(|o| o.results.accuracy.value).sum::<f64>() / outcomes.len().max(1) as f64
}

/// One line for people: `validation 0.512 [0.468, 0.556] n 500`.
pub fn line(outcome: &Outcome) -> String {
    let a = outcome.results.accuracy;
    format!(
        "{} {:.3} [{:.3}, {:.3}]  {} problems x {}  {} tokens in {:.0} s{}",
        outcome.name,
        a.value,
        a.lower,
        a.upper,
        outcome.results.problems,
        outcome.results.samples,
        outcome.tokens,
        outcome.seconds,
        if outcome.results.truncated.share > 0.05 {
            format!("  ({:.0} % truncated: raise `eval.limit`)", 100.0 * outcome.results.truncated.share)
        } else {
            String::new()
        }
    )
}

fn summary_of(outcome: &Outcome) -> serde_json::Value {
    let a = outcome.results.accuracy;
    json!({"accuracy": a.value, "lower": a.lower, "upper": a.upper, "n": outcome.results.problems,
           "samples": outcome.results.samples, "lenient_accuracy": outcome.lenient,
           "truncated": outcome.results.truncated.share, "tokens": outcome.tokens, "seconds": outcome.seconds})
}

/// Writes `summary.json` and the samples; returns the sentences that compare base and final.
pub fn write_report(
    folder: &Path,
    base: &[Outcome],
    last: &[Outcome],
    seconds: f64,
    tokens: u64,
    seed: u64,
) -> Result<Vec<String>> {
    std::fs::create_dir_all(folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    let (mut sentences, mut benchmarks) = (Vec::new(), serde_json::Map::new());
    for (before, after) in base.iter().zip(last) {
        let comparison = compare(&before.results.scores, &after.results.scores, seed)?;
        sentences.push(format!("{}: {}", after.name, comparison.sentence("the final model", "the base model")));
        let entry = json!({"base": summary_of(before), "final": summary_of(after), "difference": comparison.difference,
                           "difference_lower": comparison.lower, "difference_upper": comparison.upper, "p": comparison.p});
        benchmarks.insert(after.name.clone(), entry);
    }
    let summary =
        json!({"benchmarks": benchmarks, "seconds": seconds, "tokens": tokens, "version": env!("CARGO_PKG_VERSION")});
    write_atomically(&folder.join("summary.json"), &serde_json::to_vec_pretty(&summary)?)?;
    for (label, outcomes) in [("base", base), ("final", last)] {
        for outcome in outcomes {
            write_samples(
                &folder.join(format!("samples-{}-{label}.jsonl", file_name(&outcome.name))),
                &outcome.samples,
            )?;
        }
    }
    Ok(sentences)
}

fn file_name(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '_' }).collect()
}

/// Writes samples, a JSON object a line.
pub fn write_samples(path: &Path, samples: &[Sample]) -> Result<()> {
    let mut text = String::new();
    for sample in samples {
        text.push_str(&serde_json::to_string(sample)?);
        text.push('\n');
    }
    write_atomically(path, text.as_bytes())
}

/// `candlewick eval`: examines a checkpoint and writes results and samples to a folder.
pub fn evaluate(
    policy: &Policy,
    eval: &EvalConfig,
    data: &DataConfig,
    seed: u64,
    output: &PathBuf,
) -> Result<Vec<Outcome>> {
    std::fs::create_dir_all(output).with_context(|| format!("{} cannot be made", output.display()))?;
    let cap = eval.limit.unwrap_or(512);
    let mut outcomes = Vec::new();
    let mut results = serde_json::Map::new();
    for exam in exams(policy, eval, data)? {
        let outcome = exam.sit(policy, eval, cap, seed, &MathGrade::for_benchmarks(), false)?;
        write_samples(&output.join(format!("samples-{}.jsonl", file_name(&outcome.name))), &outcome.samples)?;
        results.insert(outcome.name.clone(), serde_json::to_value(&outcome.results)?);
        outcomes.push(outcome);
    }
    write_atomically(&output.join("results.json"), &serde_json::to_vec_pretty(&results)?)?;
    Ok(outcomes)
}

/// The generator of a step's choices.
pub(crate) fn step_rng(seed: u64, step: usize, what: u64) -> Rng {
    Rng::keyed(&[seed, step as u64, what])
}
