//! Evaluations inside a run: the base model first, the policy every so many steps, both compared at the end.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use candlewick_algorithms::rng::Rng;
use candlewick_eval::report::{Report, summary};
use candlewick_eval::sample::Sample;
use candlewick_rewards::reward::math::MathConfig;

use super::checkpoint::{HeldOut, State};
use super::figures;
use super::folder::{RunFolder, write_atomically};
use super::policy::Policy;
use crate::config::{BudgetWord, Config, EvalBudget, EvalConfig, Kind, SoftConfig};
use crate::data::{self, Split};
pub use crate::eval::Outcome;
use crate::eval::{self, Exam, Sitting, Training};
use crate::hub::Hub;

/// The benchmark on which the best checkpoint is chosen, where a run has it.
const VALIDATION: &str = "validation";

/// The length that prompts of a test tell, where the last training step tells `last`.
fn told(eval: &EvalConfig, last: Option<usize>) -> Option<usize> {
    match eval.budget {
        EvalBudget::Word(BudgetWord::None) => None,
        EvalBudget::Word(BudgetWord::Final) => last,
        EvalBudget::Tokens(tokens) => Some(tokens),
    }
}

/// Soft thinking as the run samples, at the temperature of evaluation: 0 is greedy in both phases.
fn trained_soft(config: &Config) -> Option<SoftConfig> {
    let mut soft = config.rollout.as_ref()?.soft()?.clone();
    soft.temperature = config.eval.temperature;
    soft.answer.temperature = config.eval.temperature;
    Some(soft)
}

/// How a run examines its policy.
pub struct Examiner {
    exams: Vec<Exam>,
    eval: EvalConfig,
    cap: usize,
    seed: u64,
    reward: Option<MathConfig>,
    /// What tells the model before training from others in its journal.
    base: String,
}

impl Examiner {
    /// The exams of a run; what stands in its training data is taken out of its benchmarks. `last` is the length in
    /// tokens that its last step tells.
    pub fn for_run(policy: &Policy, config: &Config, last: Option<usize>) -> Result<Self> {
        let budget = match config.kind() {
            Kind::Online(online) => Some(online.budget.tokens.build()?.largest()),
            Kind::Offline(_) => None,
        };
        let exams = match config.eval.benchmarks.is_empty() {
            true => Vec::new(),
            false => {
                let train = Training(data::load(&config.data, &Hub::from_env(), Split::Train)?);
                eval::exams(policy, &config.eval, &config.data, Some(&train), told(&config.eval, last))?
            }
        };
        let model = &config.model;
        let weights = if exams.is_empty() || model.random_init.is_some() {
            String::new()
        } else {
            eval::identity::weights(&policy.folder)?
        };
        Ok(Self {
            exams,
            base: format!("{} {:?} {weights}", model.path, model.random_init),
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

    /// Whether a test is due after the steps done so far, of `steps`. One that was stopped on the way was not taken into
    /// the state, and is due again when the run goes on.
    pub fn is_due(&self, state: &State, steps: usize) -> bool {
        let is_now = self.eval.every > 0 && state.step > 0 && state.step.is_multiple_of(self.eval.every);
        let is_done = state.evaluations.iter().any(|(step, _)| *step == state.step);
        is_now && !is_done && state.step < steps && !self.is_empty()
    }

    /// Every exam; like the others here, `None` when the run was asked to stop on the way.
    pub fn sit(&self, policy: &Policy) -> Result<Option<Vec<Outcome>>> {
        self.exams.iter().map(|exam| exam.sit(policy, &self.sitting(exam, None))).collect()
    }

    /// The exams of a test between steps: `validation` alone where there is one, else all.
    pub fn check(&self, policy: &Policy) -> Result<Option<Vec<Outcome>>> {
        let has_slice = self.exams.iter().any(|exam| exam.name == VALIDATION);
        let exams = self.exams.iter().filter(|exam| !has_slice || exam.name == VALIDATION);
        exams.map(|exam| exam.sit(policy, &self.sitting(exam, None))).collect()
    }

    /// Every exam for the model before training. Its completions stay in the run's folder, so that a resumed run need
    /// not make them again; `policy` loads the model where some are missing.
    pub fn sit_base(&self, policy: &Policy, folder: &RunFolder) -> Result<Option<Vec<Outcome>>> {
        let sit = |exam: &Exam| exam.sit(policy, &self.sitting(exam, Some(journal(folder, &exam.name))));
        self.exams.iter().map(sit).collect()
    }

    fn sitting(&self, exam: &Exam, journal: Option<PathBuf>) -> Sitting<'_> {
        let (grader, must_finish) = eval::sit::grader(exam, self.reward.as_ref());
        Sitting {
            eval: &self.eval,
            cap: self.cap,
            seed: self.seed,
            rows: eval::sit::ROWS,
            grader,
            must_finish,
            ks: None,
            journal,
            model: self.base.clone(),
        }
    }

    /// Writes the closing report, which compares base and final; returns the sentences that say what came of it.
    ///
    /// `checkpoint` is the folder of the final model.
    pub fn write_report(
        &self,
        policy: &Policy,
        folder: &RunFolder,
        checkpoint: &Path,
        base: &[Outcome],
        last: &[Outcome],
        state: &State,
    ) -> Result<Vec<String>> {
        let sat: Vec<(&Exam, Sitting, &Outcome)> = (self.exams.iter())
            .filter_map(|exam| Some((exam, self.sitting(exam, None), last.iter().find(|o| o.name == exam.name)?)))
            .collect();
        let mut identity = eval::identity::identity(policy, checkpoint, "final", None, self.seed)?;
        identity.date = eval::identity::now();
        let (mut report, samples) = eval::report::report(policy, identity, &sat, base)?;
        report.training = figures::curves(folder, state)?;
        report.notes.extend(chosen(state, last));
        let mut whole_run = summary(&report);
        whole_run.seconds = state.seconds;
        whole_run.tokens = state.sampled_tokens + state.trained_tokens;
        let path = folder.join("report");
        report.write(&path, &samples, Some(whole_run))?;
        for outcome in base {
            // What the journal held stands in these samples now.
            eval::journal::Journal::remove(&journal(folder, &outcome.name));
            write_samples(&path.join(format!("samples_{}_base.jsonl", file_name(&outcome.name))), &outcome.samples)?;
        }
        figures::write(&path, &report.training)?;
        Ok(sentences(&report))
    }
}

/// What each comparison says.
fn sentences(report: &Report) -> Vec<String> {
    let of = |entry: &candlewick_eval::report::Entry| {
        let name = entry.data.benchmark.clone();
        let sentence = |other: &candlewick_eval::report::Against| {
            format!("{name}: {}", other.comparison.sentence("the final model", "the base model"))
        };
        entry.against.iter().map(sentence).collect::<Vec<_>>()
    };
    report.benchmarks.iter().flat_map(of).collect()
}

/// That a checkpoint was chosen on a reported set.
fn chosen(state: &State, last: &[Outcome]) -> Option<String> {
    let (best, accuracy) = state.best.filter(|_| state.evaluations.len() > 2)?;
    let on = if last.iter().any(|o| o.name == VALIDATION) { VALIDATION } else { "the reported benchmarks" };
    Some(format!(
        "this report is of the last step, {}; the best of {} evaluations on {on} was step {best}, at {:.1} %: that figure was chosen and is optimistic",
        state.step,
        state.evaluations.len(),
        100.0 * accuracy
    ))
}

/// Accuracy by which checkpoints are compared: that on `validation` where it was asked, else the mean over exams.
pub fn mean_accuracy(outcomes: &[Outcome]) -> f64 {
    if let Some(validation) = outcomes.iter().find(|o| o.name == VALIDATION) {
        return validation.results.accuracy.value;
    }
    outcomes.iter().map(|o| o.results.accuracy.value).sum::<f64>() / outcomes.len().max(1) as f64
}

/// Takes an evaluation into a run's state; returns the accuracy and whether this step is the best so far.
pub fn note(state: &mut State, outcomes: &[Outcome]) -> (f64, bool) {
    let (step, accuracy) = (state.step, mean_accuracy(outcomes));
    state.evaluations.push((step, accuracy));
    for outcome in outcomes {
        let found = outcome.results.accuracy;
        let (benchmark, value) = (outcome.name.clone(), found.value);
        state.held_out.push(HeldOut { step, benchmark, value, lower: found.lower, upper: found.upper });
    }
    let is_best = step > 0 && state.best.is_none_or(|(_, best)| accuracy > best);
    if is_best {
        state.best = Some((step, accuracy));
    }
    (accuracy, is_best)
}

/// One line for people: `validation 0.512 [0.468, 0.556]  500 problems x 1  ...`.
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

/// Where the completions of the model before training are kept until the report is written.
fn journal(folder: &RunFolder, exam: &str) -> PathBuf {
    folder.join("report").join(format!("unfinished_{}.jsonl", file_name(exam)))
}

fn file_name(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' }).collect()
}

/// Writes samples, a JSON object a line.
fn write_samples(path: &Path, samples: &[Sample]) -> Result<()> {
    let mut text = String::new();
    for sample in samples {
        text.push_str(&serde_json::to_string(sample).context("a sample cannot be written as JSON")?);
        text.push('\n');
    }
    write_atomically(path, text.as_bytes())
}

/// The generator of a step's choices.
pub(crate) fn step_rng(seed: u64, step: usize, what: u64) -> Rng {
    Rng::keyed(&[seed, step as u64, what])
}
