//! `candlewick probe`: how often a model solves each problem of a pool, by rollouts, kept in a file.
//!
//! The file is JSON lines: the settings of the probe, then a line a problem, written as soon as it is done, so
//! that a probe can be stopped and continued. [`read`] gives a run the rates that [prompts.pairing],
//! [budget.rollouts.knapsack] and [budget.tokens.curriculum] start from.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use candlewick_algorithms::batch::Finish;
use candlewick_algorithms::budget::tokens::Plan;
use candlewick_algorithms::prompts::pairing::{Pairing, Side};
use candlewick_algorithms::success::Success;
use candlewick_rewards::{Item, Rewards};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::account::{progress, say};
use super::answers;
use super::folder::first_difference;
use super::grading;
use super::inputs::{Inputs, Reach};
use super::policy::Policy;
use crate::config::{Config, Online, Refusal};
use crate::data::{self, Problem};
use crate::rollout::{self, Completion, Event, Request};

/// Problems that are sampled, graded and written together.
const PROBLEMS: usize = 32;

/// How a pool is probed.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Completions of each problem.
    pub rollouts: usize,
    /// Problems to take, the first ones; absent takes all.
    pub problems: Option<usize>,
    /// Problems that an earlier probe found rare are taken only: those with a right and a wrong completion in this file.
    pub again: Option<std::path::PathBuf>,
}

/// What a probe's rates depend on; a file is continued only under the same settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Header {
    model: String,
    train: Option<String>,
    rollouts: usize,
    temperature: f64,
    limit: usize,
    told: Option<usize>,
    seed: u64,
    /// The section `[rollout]`: truncation, stop strings, soft thinking.
    #[serde(default)]
    rollout: Value,
    /// The section `[reward]`: what counts as right.
    #[serde(default)]
    reward: Value,
    /// What of `[data]` words the prompts.
    #[serde(default)]
    data: Value,
}

impl Header {
    fn new(config: &Config, online: &Online, rollouts: usize, plan: Plan) -> Result<Self> {
        let data = &config.data;
        Ok(Self {
            model: config.model.path.clone(),
            train: data.train.clone(),
            rollouts,
            temperature: online.rollout.tokens().temperature,
            limit: plan.cap,
            told: plan.told,
            seed: config.run.seed,
            rollout: serde_json::to_value(online.rollout)?,
            reward: serde_json::to_value(online.reward)?,
            data: serde_json::json!({
                "template": data.template, "system": data.system, "conversational": data.conversational,
                "told": data.told, "columns": data.columns, "generated": data.generated, "revision": data.revision,
            }),
        })
    }
}

#[derive(Serialize, Deserialize)]
struct First {
    probe: Header,
}

/// What a probe found of one problem.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// The problem's id.
    pub id: String,
    /// Completions that were judged.
    pub n: usize,
    /// Right ones among them.
    pub k: usize,
    /// Their verdicts in the order of the samples, `1` right and `0` wrong.
    pub outcomes: String,
    /// Completions sampled; more than `n` where the grader failed.
    pub sampled: usize,
    /// Mean tokens a completion.
    pub mean_tokens: f64,
    /// Share of completions that the limit cut off.
    pub truncated: f64,
    /// Wrong completions that the limit cut off: a problem that fails by these alone teaches length.
    pub truncated_wrong: usize,
}

/// Probes the pool of a config's training problems; a file that is there is continued.
///
/// Errors: [`super::Interrupted`] where Ctrl-C stopped it before its end.
pub fn run(config: &Config, online: &Online, settings: &Settings, output: &Path) -> Result<()> {
    super::listen_for_stop("finishing these problems");
    ensure!(settings.rollouts > 0, "a probe needs at least 1 rollout a problem");
    Rewards::new(online.reward)?.verdict().context("a probe must know which completions are right")?;
    let tokens = online.budget.tokens.build()?;
    let plan =
        if tokens.needs_probe() { Plan { told: None, cap: tokens.largest() } } else { tokens.plan(0, online.steps)? };
    let discrete = online.rollout.tokens();
    let header = Header::new(config, online, settings.rollouts, plan)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    // The file of rates that the config names may be the one that is made here.
    let mut alone = config.clone();
    alone.data.probe = None;
    let inputs = Inputs::gather(&alone, Reach::Hub)?;
    inputs.notes.iter().for_each(|line| say(line));
    let problems = inputs.dataset.context("the training data were not read")?.problems()?;
    let (mut file, done) = open(output, &header)?;
    let mut rewards = grading::prepare(online.reward, output.parent().unwrap_or(Path::new(".")), &runtime)?;
    let policy = Policy::load(&config.model, &config.data)?;
    grading::load_models(&mut rewards, online.reward, &policy.decoder, &runtime)?;
    let pool = pool(problems, &policy, settings)?;
    let waiting: Vec<usize> = (0..pool.len()).filter(|&i| !done.contains_key(&pool[i].0.id)).collect();
    say(&format!(
        "{} problems x {} rollouts; {} are in {} already",
        pool.len(),
        settings.rollouts,
        pool.len() - waiting.len(),
        output.display()
    ));
    grading::tell_doubts(&rewards, &pool);
    let bar = progress(waiting.len() as u64 * settings.rollouts as u64, "probing");
    let mut records: Vec<Record> = done.into_values().collect();
    for chunk in waiting.chunks(PROBLEMS) {
        if super::is_stopping() {
            bar.finish_and_clear();
            say(&format!("stopped after {} problems: the same command goes on from there", records.len()));
            return Err(super::Interrupted.into());
        }
        let thinking = rollout::soft::thinking(online.rollout.soft(), policy.tokenizer())?;
        let settings = answers::settings(&policy, discrete, thinking, vec![config.run.seed, 0x9206e]);
        let found = sample(&policy, &pool, chunk, plan, &settings, header.rollouts, &bar)?;
        let graded = runtime.block_on(rewards.grade(&found.items));
        if let Some((name, share, failure)) = rewards.too_many_failures(&graded) {
            bail!("reward `{name}` failed on {:.0} % of {} completions: {failure}", 100.0 * share, found.items.len());
        }
        let mut lines = String::new();
        for (c, &i) in chunk.iter().enumerate() {
            let rows: Vec<usize> =
                (0..found.completions.len()).filter(|&r| found.completions[r].request == c).collect();
            let record = record(&pool[i].0, &rows, &found.completions, &graded.verdict);
            lines.push_str(&serde_json::to_string(&record)?);
            lines.push('\n');
            records.push(record);
        }
        file.write_all(lines.as_bytes())
            .and_then(|()| file.sync_data())
            .with_context(|| format!("{} cannot be written", output.display()))?;
    }
    bar.finish_and_clear();
    summary(&records, output);
    Ok(())
}

/// The problems that are probed, with their prompts' ids.
fn pool(problems: Vec<Problem>, policy: &Policy, settings: &Settings) -> Result<Vec<(Problem, Vec<u32>)>> {
    let mut pool = policy.renderer.prompts(problems, policy.decoder.spec.max_positions)?.kept;
    if let Some(path) = &settings.again {
        let earlier = read(path)?;
        pool.retain(|(problem, _)| earlier.get(&problem.id).is_some_and(|r| r.k > 0 && r.k < r.n));
        ensure!(!pool.is_empty(), "{}: no problem has both a right and a wrong completion", path.display());
    }
    pool.truncate(settings.problems.unwrap_or(usize::MAX));
    let mut ids = std::collections::BTreeSet::new();
    if let Some((problem, _)) = pool.iter().find(|(problem, _)| !ids.insert(problem.id.clone())) {
        bail!("two problems have the id `{}`: a probe tells problems apart by their ids", problem.id);
    }
    Ok(pool)
}

/// Completions of a chunk and what is graded of each.
struct Found {
    completions: Vec<Completion>,
    items: Vec<Item>,
}

fn sample(
    policy: &Policy,
    pool: &[(Problem, Vec<u32>)],
    chunk: &[usize],
    plan: Plan,
    settings: &rollout::Settings,
    rollouts: usize,
    bar: &indicatif::ProgressBar,
) -> Result<Found> {
    let shown: Vec<Shown> = chunk.iter().map(|&i| shown(policy, &pool[i], plan)).collect::<Result<_>>()?;
    let requests: Vec<Request> = chunk
        .iter()
        .zip(&shown)
        .map(|(&i, shown)| Request {
            // Keyed by the problem, so that the pool's order and the chunks change nothing.
            id: data::split::hash(&pool[i].0.id),
            prompt: shown.tokens.clone(),
            samples: 0..rollouts as u64,
            cap: plan.cap,
        })
        .collect();
    let completions = rollout::generate(&policy.decoder, &requests, settings, |event| {
        if let Event::Finished(_) = event {
            bar.inc(1);
        }
        std::ops::ControlFlow::Continue(())
    })?;
    let items = completions
        .iter()
        .map(|c| {
            let text = policy.tokenizer().decode(&c.tokens, true)?;
            Ok(item(&pool[chunk[c.request]].0, &shown[c.request].text, text, c, plan))
        })
        .collect::<Result<_>>()?;
    Ok(Found { completions, items })
}

/// A prompt as the model sees it in a step, the told budget included.
pub(super) struct Shown {
    pub(super) text: String,
    pub(super) tokens: Vec<u32>,
}

/// The prompt of a problem under a plan.
pub(super) fn shown(policy: &Policy, problem: &(Problem, Vec<u32>), plan: Plan) -> Result<Shown> {
    let (problem, tokens) = problem;
    match plan.told {
        None => Ok(Shown { text: policy.renderer.text(&problem.prompt)?, tokens: tokens.clone() }),
        Some(told) => {
            let prompt = policy.renderer.told(&problem.prompt, told);
            Ok(Shown { text: policy.renderer.text(&prompt)?, tokens: policy.renderer.prompt(&prompt)? })
        }
    }
}

/// What is graded of a completion.
pub(super) fn item(problem: &Problem, prompt: &str, completion: String, c: &Completion, plan: Plan) -> Item {
    Item {
        prompt: prompt.to_owned(),
        completion,
        completion_tokens: c.tokens.len(),
        is_truncated: c.finish == Finish::Length,
        told: plan.told,
        cap: Some(plan.cap),
        ..grading::item_of(problem)
    }
}

fn record(problem: &Problem, rows: &[usize], completions: &[Completion], verdict: &[Option<f64>]) -> Record {
    let outcomes: String = rows.iter().filter_map(|&r| verdict[r]).map(|v| if v > 0.5 { '1' } else { '0' }).collect();
    let is_cut = |r: &&usize| completions[**r].finish == Finish::Length;
    let tokens: usize = rows.iter().map(|&r| completions[r].tokens.len()).sum();
    let sampled = rows.len().max(1) as f64;
    Record {
        id: problem.id.clone(),
        n: outcomes.len(),
        k: outcomes.matches('1').count(),
        outcomes,
        sampled: rows.len(),
        mean_tokens: tokens as f64 / sampled,
        truncated: rows.iter().filter(is_cut).count() as f64 / sampled,
        truncated_wrong: rows.iter().filter(is_cut).filter(|&&r| verdict[r].is_some_and(|v| v <= 0.5)).count(),
    }
}

/// Opens the file of a probe and reads what it holds; a line that was cut by a kill is removed.
///
/// Errors: a file of another probe, or of none.
fn open(path: &Path, header: &Header) -> Result<(File, BTreeMap<String, Record>)> {
    let cannot = || format!("{} cannot be written", path.display());
    let mut file =
        OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path).with_context(cannot)?;
    let mut text = String::new();
    file.read_to_string(&mut text).with_context(|| format!("{} cannot be read", path.display()))?;
    let whole = text.rfind('\n').map_or(0, |at| at + 1);
    if whole == 0 {
        let is_ours = text.is_empty() || text.starts_with("{\"probe\"");
        ensure!(is_ours, "{} is not a file of a probe: choose another `--output`", path.display());
        let line = serde_json::to_string(&First { probe: header.clone() })? + "\n";
        file.set_len(0)
            .and_then(|()| file.seek(SeekFrom::Start(0)))
            .and_then(|_| file.write_all(line.as_bytes()))
            .with_context(cannot)?;
        return Ok((file, BTreeMap::new()));
    }
    let (found, records) = parse(path, &text[..whole])?;
    if let Some((key, old, new)) = first_difference(&serde_json::to_value(&found)?, &serde_json::to_value(header)?) {
        let message = format!(
            "{} holds a probe with other settings (`{key}` is {old} there and {new} here): choose another `--output`, or remove it",
            path.display()
        );
        return Err(Refusal::command(message).into());
    }
    // Only now is it known to be ours.
    file.set_len(whole as u64).and_then(|()| file.seek(SeekFrom::End(0))).with_context(cannot)?;
    Ok((file, records))
}

fn parse(path: &Path, text: &str) -> Result<(Header, BTreeMap<String, Record>)> {
    let mut lines = text.lines().enumerate();
    let place = |line: usize| format!("{}:{} is not of a file of `candlewick probe`", path.display(), line + 1);
    let first = lines.next().map(|(_, line)| line).unwrap_or_default();
    let first: First = serde_json::from_str(first).with_context(|| place(0))?;
    let mut records = BTreeMap::new();
    for (at, line) in lines {
        let record: Record = serde_json::from_str(line).with_context(|| place(at))?;
        let is_whole = record.outcomes.len() == record.n
            && record.outcomes.matches('1').count() == record.k
            && record.outcomes.matches('0').count() == record.n - record.k;
        ensure!(is_whole, "{}: `outcomes` are not those of n = {} and k = {}", place(at), record.n, record.k);
        records.insert(record.id.clone(), record);
    }
    Ok((first.probe, records))
}

/// The records of a probe's file, by problem id.
pub fn read(path: &Path) -> Result<BTreeMap<String, Record>> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("{} cannot be read: make it by `candlewick probe`", path.display()))?;
    let whole = text.rfind('\n').map_or(0, |at| at + 1);
    Ok(parse(path, &text[..whole])?.1)
}

/// Records the rates of a probe's file for the problems of a pool; returns how many it knew.
///
/// Errors: a file that cannot be read, or that knows none of the problems.
pub fn recall(path: &Path, pool: &[(Problem, Vec<u32>)], success: &mut Success) -> Result<usize> {
    let records = read(path)?;
    let mut known = 0;
    for (id, (problem, _)) in pool.iter().enumerate() {
        let Some(record) = records.get(&problem.id) else { continue };
        let outcomes: Vec<bool> = record.outcomes.chars().map(|c| c == '1').collect();
        let tokens = (record.mean_tokens * record.sampled as f64).round() as u64;
        success.record(id, &outcomes, record.sampled as u64, tokens);
        known += 1;
    }
    ensure!(
        known > 0,
        "`data.probe`: {} knows none of the {} training problems by their ids",
        path.display(),
        pool.len()
    );
    Ok(known)
}

/// How many problems lie where.
fn summary(records: &[Record], output: &Path) {
    let bands = Pairing::default();
    let count = |is: &dyn Fn(&Record) -> bool| records.iter().filter(|r| is(r)).count();
    let side = |r: &Record| bands.side(r.k, r.n);
    let rows = [
        ("never right", count(&|r| r.k == 0)),
        ("rarely right (hard, q+)", count(&|r| side(r) == Some(Side::Hard))),
        ("between", count(&|r| r.k > 0 && r.k < r.n && side(r).is_none())),
        ("rarely wrong (easy, q-)", count(&|r| side(r) == Some(Side::Easy))),
        ("always right", count(&|r| r.n > 0 && r.k == r.n)),
    ];
    for (name, number) in rows {
        say(&format!("{number:>7}  {name}"));
    }
    let mean = |f: &dyn Fn(&Record) -> f64| records.iter().map(f).sum::<f64>() / records.len().max(1) as f64;
    let rate = mean(&|r| r.k as f64 / r.n.max(1) as f64);
    say(&format!(
        "mean rate {rate:.3}, {:.1} tokens a completion, {:.1} % cut off",
        mean(&|r| r.mean_tokens),
        100.0 * mean(&|r| r.truncated)
    ));
    let by_length = count(&|r| side(r) == Some(Side::Easy) && r.truncated_wrong == r.n - r.k);
    if by_length > 0 {
        say(&format!("{by_length} easy problems fail by being cut off alone: they teach length, so raise the limit"));
    }
    say(&format!("rates: {}; name it in `data.probe`", output.display()));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            model: "m".into(),
            train: None,
            rollouts: 4,
            temperature: 1.0,
            limit: 8,
            told: None,
            seed: 0,
            rollout: serde_json::json!({ "discrete": { "temperature": 1.0, "top_p": 1.0, "stop": [] } }),
            reward: serde_json::json!({ "math": {} }),
            data: serde_json::json!({ "template": null, "system": null }),
        }
    }

    fn line(id: &str, outcomes: &str) -> String {
        let k = outcomes.matches('1').count();
        let n = outcomes.len();
        format!(
            "{{\"id\":\"{id}\",\"n\":{n},\"k\":{k},\"outcomes\":\"{outcomes}\",\"sampled\":{n},\"mean_tokens\":5.0,\"truncated\":0.0,\"truncated_wrong\":0}}\n"
        )
    }

    #[test]
    fn a_killed_probe_goes_on_and_another_one_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("probe.jsonl");
        let (mut file, done) = open(&path, &header()).unwrap();
        assert!(done.is_empty());
        file.write_all(line("a", "0110").as_bytes()).unwrap();
        file.write_all(b"{\"id\":\"b\",\"n\":4").unwrap();
        drop(file);
        let (mut file, done) = open(&path, &header()).unwrap();
        assert_eq!(done.keys().collect::<Vec<_>>(), ["a"]);
        file.write_all(line("b", "0000").as_bytes()).unwrap();
        assert_eq!(read(&path).unwrap()["b"].k, 0);
        let error = open(&path, &Header { seed: 1, ..header() }).unwrap_err().to_string();
        assert!(error.contains("other settings") && error.contains("`seed` is `0` there and `1` here"), "{error}");
        let truncated = serde_json::json!({ "discrete": { "temperature": 1.0, "top_p": 0.9, "stop": [] } });
        let error = open(&path, &Header { rollout: truncated, ..header() }).unwrap_err().to_string();
        assert!(error.contains("`rollout.discrete.top_p` is `1.0` there and `0.9` here"), "{error}");
        let spoken = serde_json::json!({ "template": null, "system": "Think." });
        assert!(open(&path, &Header { data: spoken, ..header() }).is_err());
        std::fs::write(&path, "[1, 2]\n").unwrap();
        assert!(format!("{:#}", open(&path, &header()).unwrap_err()).contains("probe.jsonl:1"));
    }

    #[test]
    fn counts_that_disagree_are_refused_with_their_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("probe.jsonl");
        let first = serde_json::to_string(&First { probe: header() }).unwrap();
        std::fs::write(&path, format!("{first}\n{}", line("a", "0110").replace("\"k\":2", "\"k\":3"))).unwrap();
        let error = format!("{:#}", read(&path).unwrap_err());
        assert!(error.contains("probe.jsonl:2") && error.contains("outcomes"), "{error}");
    }
}
