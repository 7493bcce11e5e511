//! Benchmarks: where their problems come from, how they are asked and how answers to them are judged.
//!
//! A file a benchmark. Reading files and the Hub happens outside: [`Source`] says what to read, and
//! [`Benchmark::problems`] takes the records. Adding one is a file here and two lines below.

use std::collections::{BTreeMap, HashSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::grading::{Grade, Verdict};
use crate::{Error, Result};

mod aime24;
mod aime25;
mod amc23;
mod college_math;
mod fields;
mod gsm8k;
mod jsonl;
mod math;
mod math500;
mod minerva;
mod olympiadbench;
mod prompt;
mod svamp;

pub use aime24::Aime24;
pub use aime25::Aime25;
pub use amc23::Amc23;
pub use college_math::CollegeMath;
pub use gsm8k::Gsm8k;
pub use jsonl::Jsonl;
pub use math::Math;
pub use math500::Math500;
pub use minerva::Minerva;
pub use olympiadbench::OlympiadBench;
pub use prompt::{Ask, Form, Message, Prompt, Role, Shot, WORDINGS};
pub use svamp::Svamp;

/// One problem of a benchmark.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Item {
    /// Identity within the benchmark; stays the same when the set is cut or reordered, unless the records
    /// carry no id, in which case it is the place in the file.
    pub id: String,
    /// The problem as asked, without instruction.
    pub problem: String,
    /// The reference answer.
    pub answer: String,
    /// A worked solution, when the records hold one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub solution: Option<String>,
    /// What the set says about the problem, by axis: `level`, `subject`, `answer_type`, ...
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub groups: BTreeMap<String, String>,
    /// Absolute error up to which a numeric answer is right, where the set gives one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerance: Option<f64>,
}

/// Where a benchmark's records are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    /// Dataset on the Hugging Face Hub; `None` for a benchmark that has only local records.
    pub dataset: Option<&'static str>,
    /// Configurations (subsets) of it, all of which are read in this order; empty for the default one.
    pub configs: &'static [&'static str],
    /// Splits, all of which are read in this order.
    pub splits: &'static [&'static str],
    /// How many problems the published set has, to tell a part of it from the whole.
    pub items: Option<usize>,
    /// Licence of the data, and anything that must be known about the set to read a score on it.
    pub note: &'static str,
}

/// The problems of a benchmark, with what identifies them in a report.
#[derive(Debug, Clone, PartialEq)]
pub struct Problems {
    /// The problems, in the order of the records.
    pub items: Vec<Item>,
    /// [`sha256`] of the items.
    pub sha256: String,
}

/// A set of problems, how they are asked and how answers are judged.
pub trait Benchmark: Send + Sync {
    /// Name in configuration, on the command line and in reports.
    fn name(&self) -> &str;

    /// Where the records are.
    fn source(&self) -> Source;

    /// Reads one record, `index` being its place from 0.
    ///
    /// Errors: [`Error::Record`] with the field that is missing or wrong.
    fn item(&self, record: &Value, index: usize) -> Result<Item>;

    /// Worked examples of our own, for prompts to models without chat training.
    fn shots(&self) -> Vec<Shot> {
        prompt::competition_shots()
    }

    /// Reads a record as a worked example: its solution, or a sentence with its answer, in the form of [`Benchmark::shots`].
    ///
    /// Errors: as [`Benchmark::item`].
    fn shot(&self, record: &Value, index: usize) -> Result<Shot> {
        let item = self.item(record, index)?;
        let closing =
            format!("Final Answer: The final answer is ${}$. I hope it is correct.", item.answer.trim_matches('$'));
        let solution =
            item.solution.map_or_else(|| closing.clone(), |solution| format!("{}\n{closing}", solution.trim()));
        Ok(Shot { problem: item.problem, solution })
    }

    /// Words one problem.
    fn prompt(&self, item: &Item, ask: &Ask) -> Prompt {
        prompt::boxed(item, ask, &self.shots())
    }

    /// Judges one completion; `grader` decides unless the benchmark has rules of its own.
    fn grade(&self, grader: &dyn Grade, item: &Item, completion: &str) -> Verdict {
        grader.grade(item, completion)
    }

    /// Reads all records.
    ///
    /// Errors: the first record that cannot be read, an empty set, or two records with one id.
    fn problems(&self, records: &[Value]) -> Result<Problems> {
        if records.is_empty() {
            return Err(Error::Empty(self.name().to_owned()));
        }
        let items =
            records.iter().enumerate().map(|(index, record)| self.item(record, index)).collect::<Result<Vec<_>>>()?;
        let mut seen = HashSet::new();
        for item in &items {
            if !seen.insert(item.id.as_str()) {
                return Err(Error::DuplicateId { benchmark: self.name().to_owned(), id: item.id.clone() });
            }
        }
        let sha256 = sha256(&items);
        Ok(Problems { items, sha256 })
    }
}

/// SHA-256, in hex, of the items' ids, problems and answers in order.
///
/// Each field is preceded by its length in bytes (8 bytes, little-endian), so that no two different lists
/// share their input. Solutions and groups do not count: they do not change what is measured.
pub fn sha256(items: &[Item]) -> String {
    let mut digest = Sha256::new();
    for item in items {
        for field in [&item.id, &item.problem, &item.answer] {
            digest.update((field.len() as u64).to_le_bytes());
            digest.update(field.as_bytes());
        }
    }
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Every benchmark with a Hub dataset of its own, in the order in which reports list them.
pub fn all() -> Vec<Box<dyn Benchmark>> {
    vec![
        Box::new(Gsm8k),
        Box::new(Svamp),
        Box::new(Math500),
        Box::new(Math),
        Box::new(Minerva),
        Box::new(CollegeMath),
        Box::new(OlympiadBench),
        Box::new(Amc23),
        Box::new(Aime24),
        Box::new(Aime25),
    ]
}

/// The benchmark of that name.
///
/// Errors: [`Error::UnknownBenchmark`] lists the names there are.
pub fn named(name: &str) -> Result<Box<dyn Benchmark>> {
    let all = all();
    let known = all.iter().map(|benchmark| benchmark.name()).collect::<Vec<_>>().join(", ");
    all.into_iter()
        .find(|benchmark| benchmark.name() == name)
        .ok_or_else(|| Error::UnknownBenchmark { name: name.to_owned(), known })
}
