//! Evaluations inside a run: the base model first, the policy every so many steps, both compared at the end.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use candlewick_algorithms::rng::Rng;
use candlewick_eval::metrics::Decider;
use candlewick_eval::report::{Preference, Report, summary};
use candlewick_eval::sample::Completion;
use candlewick_rewards::reward::math::MathConfig;

use super::account::say;
use super::checkpoint::{HeldOut, State};
use super::figures;
use super::folder::{RunFolder, write_atomically};
use super::policy::Policy;
use super::ranking::Measured;
use crate::config::{BudgetWord, Config, EvalBudget, EvalConfig, Kind, SoftConfig};
use crate::data::{self, Split};
pub use crate::eval::Outcome;
use crate::eval::judge::{Judged, WinJudge, contests_file};
use crate::eval::{self, Answered, Exam, Sitting, Training};
use crate::hub::Hub;

/// The benchmark on which the best checkpoint is chosen, where a run has it.
pub(super) const VALIDATION: &str = "validation";

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

/// What came of all exams of a run.
#[derive(Default)]
pub struct Sat {
    /// The graded ones.
    pub graded: Vec<Outcome>,
    /// The open prompts, which only a judge can decide.
    pub open: Vec<Answered>,
}

impl Sat {
    /// Whether nothing was asked.
    pub fn is_empty(&self) -> bool {
        self.graded.is_empty() && self.open.is_empty()
    }

    /// One line for people an exam.
    pub fn lines(&self) -> Vec<String> {
        let open = self.open.iter().map(|own| {
            format!("{} {} answers  {} tokens in {:.0} s", own.name, own.completions.len(), own.tokens, own.seconds)
        });
        self.graded.iter().map(line).chain(open).collect()
    }
}

/// What a closing report is written from.
pub struct Closing<'a> {
    /// The run's folder.
    pub folder: &'a RunFolder,
    /// The folder of the final model.
    pub checkpoint: &'a Path,
    /// Where the run stands.
    pub state: &'a State,
    /// The model before training.
    pub base: &'a Sat,
    /// The final model.
    pub last: &'a Sat,
    /// What held-out pairs said before the first step, and what training did to them.
    pub preference: Option<(&'a Measured, Preference)>,
}

/// How a run examines its policy.
pub struct Examiner {
    /// The graded ones.
    exams: Vec<Exam>,
    /// Open prompts: asked before and after training.
    open: Vec<Exam>,
    /// Who compares base and final, where the run names a judge.
    judge: Option<WinJudge>,
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
    pub fn for_run(policy: &Policy, config: &Config, folder: &RunFolder, last: Option<usize>) -> Result<Self> {
        let budget = match config.kind() {
            Kind::Online(online) => Some(online.budget.tokens.build()?.largest()),
            Kind::Offline(offline) => offline.train.regenerate.map(|settings| settings.limit),
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
        let judge = config.eval.judge.as_ref().map(|judge| WinJudge::new(judge, "eval.judge", Some(folder.path())));
        let judge = judge.transpose()?;
        judge.iter().flat_map(|judge| &judge.notes).for_each(|line| say(&format!("judge  {line}")));
        let (open, exams) = exams.into_iter().partition(|exam| exam.is_open);
        Ok(Self {
            exams,
            open,
            judge,
            base: format!("{} {:?} {weights}", model.path, model.random_init),
            cap: config.eval.limit.or(budget).unwrap_or(512),
            eval: EvalConfig { soft: config.eval.soft.clone().or_else(|| trained_soft(config)), ..config.eval.clone() },
            seed: config.run.seed,
            reward: config.reward.as_ref().and_then(|r| r.math.clone()),
        })
    }

    /// Whether there is nothing to examine.
    pub fn is_empty(&self) -> bool {
        self.exams.is_empty() && self.open.is_empty()
    }

    /// Whether a test is due after the steps done so far, of `steps`. One that was stopped on the way was not taken into
    /// the state, and is due again when the run goes on.
    pub fn is_due(&self, state: &State, steps: usize) -> bool {
        let is_now = self.eval.every > 0 && state.step > 0 && state.step.is_multiple_of(self.eval.every);
        let is_done = state.evaluations.iter().any(|(step, _)| *step == state.step);
        is_now && !is_done && state.step < steps && !self.exams.is_empty()
    }

    /// Every exam; like the others here, `None` when the run was asked to stop on the way.
    pub fn sit(&self, policy: &Policy) -> Result<Option<Sat>> {
        self.sit_all(policy, |_| None)
    }

    fn sit_all(&self, policy: &Policy, journal: impl Fn(&Exam) -> Option<PathBuf>) -> Result<Option<Sat>> {
        let sit = |exam: &Exam| exam.sit(policy, &self.sitting(exam, journal(exam)));
        let Some(graded) = self.exams.iter().map(sit).collect::<Result<Option<Vec<_>>>>()? else { return Ok(None) };
        let answer = |exam: &Exam| exam.answer(policy, &self.sitting(exam, journal(exam)));
        let open = self.open.iter().map(answer).collect::<Result<Option<Vec<_>>>>()?;
        Ok(open.map(|open| Sat { graded, open }))
    }

    /// The exams of a test between steps: `validation` alone where there is one, else all.
    pub fn check(&self, policy: &Policy) -> Result<Option<Vec<Outcome>>> {
        let has_slice = self.exams.iter().any(|exam| exam.name == VALIDATION);
        let exams = self.exams.iter().filter(|exam| !has_slice || exam.name == VALIDATION);
        exams.map(|exam| exam.sit(policy, &self.sitting(exam, None))).collect()
    }

    /// Every exam for the model before training. Its completions stay in the run's folder, so that a resumed run need
    /// not make them again; `policy` loads the model where some are missing.
    pub fn sit_base(&self, policy: &Policy, folder: &RunFolder) -> Result<Option<Sat>> {
        self.sit_all(policy, |exam| Some(journal(folder, &exam.name)))
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
    pub fn write_report(&self, policy: &Policy, closing: Closing) -> Result<Vec<String>> {
        let Closing { folder, checkpoint, state, base, last, preference } = closing;
        let graded = self.exams.iter().filter_map(|exam| {
            Some((exam, self.sitting(exam, None), last.graded.iter().find(|o| o.name == exam.name)?))
        });
        let open = self
            .open
            .iter()
            .filter_map(|exam| Some((exam, self.sitting(exam, None), last.open.iter().find(|o| o.name == exam.name)?)));
        let (graded, open) = (graded.collect(), open.collect());
        let sat = eval::report::Sat { graded, open, base: &base.graded, open_base: &base.open };
        let mut identity = eval::identity::identity(policy, checkpoint, "final", None, self.seed)?;
        identity.date = eval::identity::now();
        let (before, section) = preference.unzip();
        let (mut report, samples) = eval::report::report(policy, identity, &sat, section)?;
        drop(sat);
        report.training = figures::curves(folder, state, before)?;
        report.notes.extend(chosen(state, &last.graded));
        let path = folder.join("report");
        self.judge(&mut report, base, last, &path)?;
        let mut whole_run = summary(&report);
        whole_run.seconds = state.seconds;
        whole_run.tokens = state.sampled_tokens + state.trained_tokens;
        report.write(&path, &samples, Some(whole_run))?;
        let own: Vec<Vec<Completion>> = last.open.iter().map(|own| own.completions.clone()).collect();
        report.write_open(&path, &own)?;
        for outcome in &base.graded {
            // What the journal held stands in these samples now.
            eval::journal::Journal::remove(&journal(folder, &outcome.name));
            write_rows(&path.join(format!("samples_{}_base.jsonl", file_name(&outcome.name))), &outcome.samples)?;
        }
        for own in &base.open {
            eval::journal::Journal::remove(&journal(folder, &own.name));
            write_rows(&path.join(format!("samples_{}_base.jsonl", file_name(&own.name))), &own.completions)?;
        }
        figures::write(&path, &report.training, report.preference.as_ref())?;
        Ok(sentences(&report))
    }

    /// Lets the judge hold the final model's answers against the base model's, where there are both; a judge that gives no
    /// verdict is a warning of the set, and never the end of a run.
    fn judge(&self, report: &mut Report, base: &Sat, last: &Sat, path: &Path) -> Result<()> {
        let Some(judge) = &self.judge else { return Ok(()) };
        let decide = |name: &str, base: &[Completion], own: &[Completion]| {
            judge.decide(name, base, own, self.seed).map_err(|error| format!("{error:#}"))
        };
        let keep = |name: &str, judged: &Judged| write_rows(&contests_file(path, name, "base"), &judged.contests);
        for entry in &mut report.benchmarks {
            let of = |sat: &Sat| -> Option<Vec<Completion>> {
                let outcome = sat.graded.iter().find(|outcome| outcome.name == entry.data.benchmark)?;
                Some(outcome.samples.iter().map(|sample| sample.completion.clone()).collect())
            };
            let (Some(theirs), Some(own)) = (of(base), of(last)) else { continue };
            let Some(against) = entry.against.first_mut() else { continue };
            match decide(&entry.data.benchmark, &theirs, &own) {
                Ok(judged) => {
                    keep(&entry.data.benchmark, &judged)?;
                    against.win_rates.push(judged.rate);
                }
                Err(why) => entry.warnings.push(why),
            }
        }
        for set in &mut report.open {
            let of = |sat: &'_ Sat| sat.open.iter().position(|own| own.name == set.data.benchmark);
            let (Some(theirs), Some(own)) = (of(base), of(last)) else { continue };
            let Some(against) = set.against.first_mut() else { continue };
            match decide(&set.data.benchmark, &base.open[theirs].completions, &last.open[own].completions) {
                Ok(judged) => {
                    keep(&set.data.benchmark, &judged)?;
                    against.win_rates.push(judged.rate);
                }
                Err(why) => set.warnings.push(why),
            }
        }
        Ok(())
    }
}

/// What each comparison says; a win rate by verdict says the same as the paired test, and stands in the report alone.
fn sentences(report: &Report) -> Vec<String> {
    let mut all = Vec::new();
    let (own, base) = ("the final model", "the base model");
    for entry in &report.benchmarks {
        for other in &entry.against {
            all.push(format!("{}: {}", entry.data.benchmark, other.comparison.sentence(own, base)));
            let judged = other.win_rates.iter().filter(|rate| rate.by == Decider::Judge);
            all.extend(judged.map(|rate| format!("{}: {}", entry.data.benchmark, rate.sentence(own, base))));
        }
    }
    for set in &report.open {
        let rates = set.against.iter().flat_map(|other| &other.win_rates);
        all.extend(rates.map(|rate| format!("{}: {}", set.data.benchmark, rate.sentence(own, base))));
    }
    if let Some(why) = report.benchmarks.iter().flat_map(|e| &e.warnings).find(|w| w.contains("gave no verdict on any"))
    {
        all.push(why.clone());
    }
    all.extend(report.open.iter().flat_map(|set| set.warnings.iter().cloned()));
    all
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

/// Writes a JSON object a line.
pub fn write_rows<T: serde::Serialize>(path: &Path, rows: &[T]) -> Result<()> {
    let mut text = String::new();
    for row in rows {
        text.push_str(&serde_json::to_string(row).context("a row cannot be written as JSON")?);
        text.push('\n');
    }
    write_atomically(path, text.as_bytes())
}

/// The generator of a step's choices.
pub(crate) fn step_rng(seed: u64, step: usize, what: u64) -> Rng {
    Rng::keyed(&[seed, step as u64, what])
}
