//! The problems of a benchmark before they are rendered: read by name or from a file, cleaned of training problems, cut.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use candlewick_eval::benchmark::{self, Benchmark, Item, Jsonl};
use candlewick_eval::contamination::{Contamination, Overlap, Search};
use serde_json::Value;

use crate::data::{self, DataConfig, Example, Problem, Prompt, Split, source::Source, split};
use crate::hub::Hub;

/// Problems with what a report says of where they come from.
pub(super) struct Set {
    pub(super) name: String,
    /// Where the records were read.
    pub(super) source: String,
    pub(super) benchmark: Box<dyn Benchmark>,
    /// Each problem, with its prompt where the data and not the benchmark word it.
    pub(super) entries: Vec<(Item, Option<Prompt>)>,
    /// Whether the problems are held out of `[data]` by construction, or worded as `[data]` words them.
    pub(super) is_held_out: bool,
    /// Whether they are prompts without reference answers, which nothing grades.
    pub(super) is_open: bool,
    pub(super) published: Option<usize>,
    pub(super) note: String,
    pub(super) contamination: Option<Contamination>,
}

/// What a model was trained on, to be looked for in benchmarks.
pub struct Training(pub data::Dataset);

impl Training {
    /// Looks in it for problems.
    fn search(&self, problems: &[&str]) -> Result<Search> {
        /// Rows that are in memory at a time.
        const ROWS: usize = 4096;
        let mut search = Search::new(problems);
        let mut rows = self.0.iter();
        loop {
            let texts: Vec<String> =
                rows.by_ref().take(ROWS).map(|row| Ok(text(row?.as_ref()))).collect::<Result<_>>()?;
            if texts.is_empty() {
                return Ok(search);
            }
            search.add(&texts.iter().map(String::as_str).collect::<Vec<_>>());
        }
    }
}

/// The problem, or the whole text where a row has none.
fn text(example: &Example) -> String {
    match example {
        Example::Text { text, .. } => text.clone(),
        Example::Conversation { messages, .. } => messages.iter().map(|m| m.text() + "\n").collect(),
        other => other.problem().map_or_else(String::new, |problem| problem.text.clone()),
    }
}

/// What stands before the source of prompts without reference answers: `open:prompts.jsonl`.
pub const OPEN: &str = "open:";

/// Whether a benchmark's name can stand for something, before anything is read or fetched.
///
/// Errors: an unknown name, with those there are; a file that is not there; an unknown generator.
pub fn check(name: &str) -> Result<()> {
    if let Some(source) = name.strip_prefix(OPEN) {
        return if source == "validation" { Ok(()) } else { Source::parse(source).map(drop) };
    }
    if let Some((known, file)) = name.split_once('=')
        && benchmark::named(known).is_ok()
    {
        return Source::parse(file).map(drop);
    }
    if benchmark::named(name).is_ok() || name == "validation" {
        return Ok(());
    }
    if is_source(name) {
        return Source::parse(name).map(drop);
    }
    match (benchmark::named(name), nearest(name)) {
        (Ok(_), _) => Ok(()),
        (Err(error), Some(nearest)) => bail!("{error}; did you mean `{nearest}`?"),
        (Err(error), None) => Err(error.into()),
    }
}

/// The name that a misspelt one was likely meant for.
fn nearest(name: &str) -> Option<String> {
    let known = benchmark::all().into_iter().map(|known| known.name().to_owned()).chain(["validation".to_owned()]);
    known
        .map(|known| (strsim::jaro_winkler(&known, name), known))
        .max_by(|left, right| left.0.total_cmp(&right.0))
        .filter(|(likeness, _)| *likeness > 0.8)
        .map(|(_, known)| known)
}

/// Reads a benchmark that is a file on this machine; one of the Hub or a generator is only looked for by [`check`].
///
/// Errors: as [`check`]; records that cannot be read, with file and line.
pub fn check_file(name: &str, data: &DataConfig) -> Result<()> {
    check(name)?;
    let file = match name.split_once('=') {
        _ if name.starts_with(OPEN) => &name[OPEN.len()..],
        Some((known, file)) if benchmark::named(known).is_ok() => file,
        _ if benchmark::named(name).is_ok() || name == "validation" => return Ok(()),
        _ => name,
    };
    if Path::new(file).exists() {
        read(name, data, &Hub::from_env())?;
    }
    Ok(())
}

/// Whether a name that is no benchmark's is meant as a file, a data set or a generator.
pub fn is_source(name: &str) -> bool {
    let has_ending = [".jsonl", ".json", ".parquet"].iter().any(|ending| name.ends_with(ending));
    name.contains(['/', ':', '=']) || has_ending || Path::new(name).exists()
}

/// Reads the problems that `name` stands for; see [`super::exams`].
pub(super) fn read(name: &str, data: &DataConfig, hub: &Hub) -> Result<Set> {
    if let Some(source) = name.strip_prefix(OPEN) {
        return open(source, data, hub);
    }
    if let Some((known, file)) = name.split_once('=')
        && let Ok(benchmark) = benchmark::named(known)
    {
        let source = Source::parse(file)?;
        return records(benchmark, file, &source.files(hub, data.revision.as_deref())?);
    }
    if let Ok(benchmark) = benchmark::named(name) {
        return official(benchmark, hub);
    }
    if name == "validation" {
        return held_out(name, data::load(data, hub, Split::Validation)?);
    }
    if name.starts_with("generated:") {
        return held_out(name, data::load_source(data, hub, name)?);
    }
    check(name)?;
    let source = Source::parse(name)?;
    let stem = Path::new(name).file_stem().map_or_else(|| name.to_owned(), |stem| stem.to_string_lossy().into_owned());
    let own = Jsonl {
        name: stem,
        problem: data.columns.problem.clone(),
        answer: data.columns.answer.clone(),
        is_verbatim: false,
    };
    records(Box::new(own), name, &source.files(hub, data.revision.as_deref())?).map_err(|error| {
        match error.to_string().contains(": no field ") {
            true => anyhow!(
                "{error}; name yours with `data.columns.problem` and `data.columns.answer`, or ask prompts that have no answers as `{OPEN}{name}`"
            ),
            false => error,
        }
    })
}

/// A benchmark's own data set on the Hub.
fn official(benchmark: Box<dyn Benchmark>, hub: &Hub) -> Result<Set> {
    let source = benchmark.source();
    let dataset = source.dataset.context("it has no data set on the Hub: name a file, as in `name=FILE`")?;
    let configs: Vec<Option<&str>> =
        if source.configs.is_empty() { vec![None] } else { source.configs.iter().map(|c| Some(*c)).collect() };
    let mut files = Vec::new();
    for config in configs {
        for split in source.splits {
            let found = hub.data_set(dataset, None, config, split);
            files.extend(found.with_context(|| {
                format!("`{dataset}` cannot be fetched: with a local copy write `{}=FILE`", benchmark.name())
            })?);
        }
    }
    records(benchmark, &format!("{dataset}:{}", source.splits.join("+")), &files)
}

/// A record's fault with the file and line where the record stands.
pub(super) fn at(place: &data::read::Place, error: candlewick_eval::Error) -> anyhow::Error {
    match error {
        candlewick_eval::Error::Record { what, .. } => anyhow!("{place}: {what}"),
        other => anyhow!("{place}: {other}"),
    }
}

/// A benchmark's records in files.
fn records(benchmark: Box<dyn Benchmark>, source: &str, files: &[PathBuf]) -> Result<Set> {
    let (mut entries, mut ids) = (Vec::new(), HashSet::new());
    for file in files {
        for row in data::read::rows(file)? {
            let (place, row) = row?;
            let item = benchmark.item(&Value::Object(row), entries.len()).map_err(|e| at(&place, e))?;
            ensure!(ids.insert(item.id.clone()), "{place}: a second record has the id `{}`", item.id);
            entries.push((item, None));
        }
    }
    ensure!(!entries.is_empty(), "`{source}` holds no problems");
    let of = benchmark.source();
    Ok(Set {
        name: benchmark.name().to_owned(),
        source: source.to_owned(),
        published: of.items,
        note: of.note.to_owned(),
        benchmark,
        entries,
        is_held_out: false,
        is_open: false,
        contamination: None,
    })
}

/// Prompts without reference answers, in any of the data's forms and worded as training words them; of equal prompts,
/// as pairs have them, the first. Where no training is at hand, a prompt of plain text is a user's message.
fn open(source: &str, data: &DataConfig, hub: &Hub) -> Result<Set> {
    let asked = match &data.train {
        Some(_) => data.clone(),
        None => DataConfig { conversational: Some(data.conversational.unwrap_or(true)), ..data.clone() },
    };
    let dataset = match source {
        "validation" => data::load(&asked, hub, Split::Validation)?,
        _ => data::load_source(&asked, hub, source)?,
    };
    let (mut entries, mut seen) = (Vec::new(), HashSet::new());
    for problem in dataset.problems()? {
        if seen.insert(problem.text.clone()) {
            let Problem { id, prompt, text, .. } = problem;
            let (answer, groups) = (String::new(), Default::default());
            let item = Item { id, problem: text, answer, solution: None, groups, tolerance: None };
            entries.push((item, Some(prompt)));
        }
    }
    let stem = Path::new(source).file_stem().map_or_else(|| source.into(), |stem| stem.to_string_lossy());
    let name = format!("{OPEN}{stem}");
    let note = "prompts without reference answers".to_owned();
    let benchmark = Box::new(Jsonl { is_verbatim: true, ..Jsonl::new(&name) });
    let (source, contamination) = (dataset.source, None);
    Ok(Set { name, source, benchmark, entries, is_held_out: true, is_open: true, published: None, note, contamination })
}

/// Problems of `[data]`, worded as training words them.
fn held_out(name: &str, dataset: data::Dataset) -> Result<Set> {
    let mut entries = Vec::new();
    for problem in dataset.problems()? {
        let answer = problem.answer.with_context(|| {
            format!(
                "problem `{}` has no answer to grade by: ask as `{OPEN}{name}` what a judge is to compare",
                problem.id
            )
        })?;
        let groups = problem.meta.iter().filter(|(key, _)| matches!(key.as_str(), "terms" | "level" | "subject"));
        let groups =
            groups.map(|(k, v)| (k.clone(), v.as_str().map_or_else(|| v.to_string(), str::to_owned))).collect();
        let item = Item { id: problem.id, problem: problem.text, answer, solution: None, groups, tolerance: None };
        entries.push((item, Some(problem.prompt)));
    }
    Ok(Set {
        name: name.to_owned(),
        source: dataset.source,
        benchmark: Box::new(Jsonl { is_verbatim: true, ..Jsonl::new(name) }),
        entries,
        is_held_out: true,
        is_open: false,
        published: None,
        note: "held out of the training data".to_owned(),
        contamination: None,
    })
}

impl Set {
    /// Takes out the problems that stand in the training data, by their text or normalised text; problems that
    /// only share a run of words are counted and stay.
    ///
    /// Problems held out by construction share the generator's or the set's manner, so runs of words say nothing
    /// there and are not counted.
    pub(super) fn clean(&mut self, training: &Training) -> Result<()> {
        let problems: Vec<&str> = self.entries.iter().map(|(item, _)| item.problem.as_str()).collect();
        let search = training.search(&problems)?;
        let mut hits = search.hits();
        hits.retain(|hit| !self.is_held_out || hit.overlap != Overlap::Run);
        let gone: HashSet<usize> =
            hits.iter().filter(|hit| hit.overlap != Overlap::Run).map(|hit| hit.problem).collect();
        let removed = self.entries.iter().enumerate().filter(|(at, _)| gone.contains(at));
        let removed: Vec<String> = removed.map(|(_, (item, _))| item.id.clone()).collect();
        let mut at = 0..;
        self.entries.retain(|_| at.next().is_some_and(|at| !gone.contains(&at)));
        if self.entries.is_empty() {
            bail!(
                "every problem of `{}` stands in the training data `{}`: nothing is left to ask",
                self.name,
                training.0.source
            );
        }
        self.contamination = Some(Contamination::new(&training.0.source, search.texts(), &hits, removed));
        Ok(())
    }

    /// Keeps `limit` problems, the same ones each time: those with the least hashes of their ids.
    pub(super) fn limit(&mut self, limit: Option<usize>) {
        let Some(limit) = limit.filter(|&n| n < self.entries.len()) else { return };
        let mut order: Vec<usize> = (0..self.entries.len()).collect();
        order.sort_by_key(|&i| (split::hash(&self.entries[i].0.id), i));
        order.truncate(limit);
        order.sort_unstable();
        self.entries = order.iter().map(|&i| self.entries[i].clone()).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(problems: &[&str]) -> Set {
        let item = |(id, problem): (usize, &&str)| {
            let item = Item {
                id: id.to_string(),
                problem: (*problem).to_owned(),
                answer: "1".into(),
                solution: None,
                groups: Default::default(),
                tolerance: None,
            };
            (item, None)
        };
        Set {
            name: "own".into(),
            source: "own.jsonl".into(),
            benchmark: Box::new(Jsonl::new("own")),
            entries: problems.iter().enumerate().map(item).collect(),
            is_held_out: false,
            is_open: false,
            published: None,
            note: String::new(),
            contamination: None,
        }
    }

    #[test]
    fn training_problems_are_taken_out_and_counted() {
        let row = |text: &str| Example::Text { id: text.into(), text: text.into() };
        let rows = vec![row("What is 2+2?"), row("Say yes.")];
        let training = Training(data::Dataset::held("train.jsonl", Vec::new(), rows));
        let mut own = set(&["What is 2+2?", "say YES", "What is 5+5?"]);
        own.clean(&training).unwrap();
        let found = own.contamination.unwrap();
        assert_eq!((found.exact, found.normalised, found.removed), (1, 1, vec!["0".to_owned(), "1".to_owned()]));
        assert_eq!(own.entries.len(), 1);
        let error = set(&["Say yes."]).clean(&training).unwrap_err().to_string();
        assert!(error.contains("every problem of `own` stands in the training data `train.jsonl`"), "{error}");
    }

    #[test]
    fn a_limit_takes_the_same_problems_whatever_their_order() {
        let names: Vec<String> = (0..50).map(|n| format!("problem {n}")).collect();
        let texts: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut first = set(&texts);
        let mut second = set(&texts);
        second.entries.reverse();
        first.limit(Some(7));
        second.limit(Some(7));
        let ids = |set: &Set| set.entries.iter().map(|(item, _)| item.id.clone()).collect::<HashSet<_>>();
        assert_eq!((first.entries.len(), ids(&first)), (7, ids(&second)));
    }
}
