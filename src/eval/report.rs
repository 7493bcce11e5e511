//! From exams and what came of them to the report.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Result;
use candlewick_eval::benchmark::{Form, sha256};
use candlewick_eval::report::{Data, Entry, Identity, Open, OpenAgainst, Other, Preference, Protocol, Report, Token};
use candlewick_eval::sample::Sample;
use serde_json::{Value, json};

use super::exam::Exam;
use super::sit::{Answered, Outcome, Sitting};
use crate::train::checkpoint::State;
use crate::train::policy::Policy;

/// Tokens of a prompt that a report shows from each end.
const SHOWN: usize = 10;

/// What a report says of an exam's problems.
fn data(exam: &Exam) -> Data {
    Data {
        benchmark: exam.name.clone(),
        source: exam.source.clone(),
        items: exam.len(),
        published_items: exam.published,
        sha256: sha256(&exam.items),
        note: exam.note.clone(),
        contamination: exam.contamination.clone(),
    }
}

/// A benchmark's part of a report.
pub fn entry(policy: &Policy, exam: &Exam, sitting: &Sitting, outcome: &Outcome) -> Entry {
    let (data, protocol) = (data(exam), protocol(policy, exam, sitting));
    let mut entry = Entry::new(data, protocol, outcome.results.clone(), outcome.sensitivity.clone(), &outcome.samples);
    entry.wordings = outcome.wordings.clone();
    entry.warnings.splice(0..0, exam.warnings.iter().cloned());
    entry
}

/// The part of open prompts; `base` are the answers of the model before training.
pub fn open(policy: &Policy, exam: &Exam, sitting: &Sitting, own: &Answered, base: Option<&Answered>) -> Open {
    let (data, protocol) = (data(exam), protocol(policy, exam, sitting));
    let mut open = Open::new(data, protocol, sitting.eval.samples, &own.completions);
    open.warnings.splice(0..0, exam.warnings.iter().cloned());
    open.against.extend(base.map(|base| OpenAgainst::new("base", &base.completions, Vec::new())));
    open
}

/// Hash of an exam's problems, by which reports on the same ones are known.
pub fn problems_sha256(exam: &Exam) -> String {
    sha256(&exam.items)
}

/// How an exam is asked in this sitting.
pub fn protocol(policy: &Policy, exam: &Exam, sitting: &Sitting) -> Protocol {
    let first = &exam.asked[0].prompts[0];
    let token = |&id: &u32| Token { id, text: policy.tokenizer().decode(&[id], false).unwrap_or_default() };
    let shown = first.ids.len().min(SHOWN);
    let form = match exam.form {
        Form::Chat => "chat",
        Form::Base => "base",
    };
    Protocol {
        form: form.to_owned(),
        rendered: first.text.clone(),
        first_tokens: first.ids[..shown].iter().map(token).collect(),
        last_tokens: first.ids[first.ids.len() - shown..].iter().map(token).collect(),
        shots: exam.shots,
        system: exam.system.clone(),
        told: exam.told,
        sampling: sampling(sitting),
        max_tokens: sitting.cap,
        stop: exam.stop.clone(),
        grader: if exam.is_open { String::new() } else { "math".to_owned() },
        grader_settings: if exam.is_open { String::new() } else { sitting.grader_settings() },
    }
}

/// Sampler settings that are in force; none for greedy decoding token by token.
fn sampling(sitting: &Sitting) -> BTreeMap<String, Value> {
    let sampling = sitting.sampling();
    let mut settings = BTreeMap::new();
    if let Some(soft) = &sitting.eval.soft {
        let mut value = serde_json::to_value(soft).unwrap_or_default();
        if let Some(map) = value.as_object_mut() {
            // The answer's sampler stands beside it, and what has only a part in training says nothing here.
            ["answer", "active_min", "reduction", "active", "trains_inputs"].iter().for_each(|key| {
                map.remove(*key);
            });
        }
        settings.insert("soft".to_owned(), value);
    }
    if sampling.temperature == 0.0 {
        return settings;
    }
    settings.insert("temperature".to_owned(), json!(sampling.temperature));
    let others = [
        ("top_k", json!(sampling.top_k), sampling.top_k > 0),
        ("top_p", json!(sampling.top_p), sampling.top_p < 1.0),
        ("min_p", json!(sampling.min_p), sampling.min_p > 0.0),
    ];
    settings.extend(others.into_iter().filter(|(.., is_on)| *is_on).map(|(name, value, _)| (name.to_owned(), value)));
    settings
}

/// What came of exams: those that were graded, and the open prompts that were answered.
#[derive(Default)]
pub struct Sat<'a> {
    /// Graded ones.
    pub graded: Vec<(&'a Exam, Sitting<'a>, &'a Outcome)>,
    /// Open ones.
    pub open: Vec<(&'a Exam, Sitting<'a>, &'a Answered)>,
    /// Outcomes of the model before training on the same exams, or nothing.
    pub base: &'a [Outcome],
    /// Its answers to the open prompts.
    pub open_base: &'a [Answered],
}

/// A report of exams and what came of them, with its samples, a list a benchmark, and what a run on preferences did to
/// held-out pairs.
///
/// Errors: nothing to report; outcomes on other problems.
pub fn report(
    policy: &Policy,
    mut identity: Identity,
    sat: &Sat,
    preference: Option<Preference>,
) -> Result<(Report, Vec<Vec<Sample>>)> {
    let mut entries = Vec::new();
    for (exam, sitting, outcome) in &sat.graded {
        let mut entry = entry(policy, exam, sitting, outcome);
        if let Some(base) = sat.base.iter().find(|base| base.name == outcome.name) {
            let other = Other {
                label: "base".to_owned(),
                results: base.results.clone(),
                sensitivity: base.sensitivity.clone(),
                // The same exam in the same sitting.
                differences: Vec::new(),
            };
            entry.against(other, &outcome.samples, sitting.seed)?;
        }
        entries.push(entry);
    }
    let of = |(exam, sitting, own): &(&Exam, Sitting, &Answered)| {
        open(policy, exam, sitting, own, sat.open_base.iter().find(|base| base.name == own.name))
    };
    let open = sat.open.iter().map(of).collect();
    let graded = sat.graded.iter().map(|(.., outcome)| (outcome.seconds, outcome.tokens));
    let took: Vec<(f64, usize)> = graded.chain(sat.open.iter().map(|(.., own)| (own.seconds, own.tokens))).collect();
    identity.seconds = took.iter().map(|(seconds, _)| seconds).sum();
    identity.tokens = took.iter().map(|(_, tokens)| tokens).sum();
    let samples = sat.graded.iter().map(|(.., outcome)| outcome.samples.clone()).collect();
    Ok((Report::with(identity, entries, open, preference)?, samples))
}

/// What to know of a checkpoint of a run before its score on `benchmarks` is believed: that it was chosen on one of them.
///
/// Looks at the `state.json` beside the weights and the run's `config.toml`; any other folder gives nothing.
pub fn chosen_on(folder: &Path, benchmarks: &[String]) -> Option<String> {
    let state: State = serde_json::from_slice(&std::fs::read(folder.join("state.json")).ok()?).ok()?;
    let (best, _) = state.best.filter(|_| state.evaluations.len() > 1)?;
    let config: PathBuf = folder.parent()?.parent()?.join("config.toml");
    let config: toml::Table = std::fs::read_to_string(config).ok()?.parse().ok()?;
    let on: Vec<&str> = config.get("eval")?.get("benchmarks")?.as_array()?.iter().filter_map(|b| b.as_str()).collect();
    let on = if on.contains(&"validation") { vec!["validation"] } else { on };
    let plain = |name: &str| name.split('=').next().unwrap_or(name).to_owned();
    let shared: Vec<String> = on.into_iter().map(plain).filter(|name| benchmarks.contains(name)).collect();
    (best == state.step && !shared.is_empty()).then(|| {
        format!(
            "this checkpoint (step {best}) was the best of {} evaluations on `{}`, which is reported here: that figure is optimistic",
            state.evaluations.len(),
            shared.join("`, `")
        )
    })
}
