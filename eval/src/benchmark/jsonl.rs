//! Any records with a problem and an answer: a file of one's own, or generated problems.

use std::collections::BTreeMap;

use serde_json::Value;

use super::fields::{Record, last_boxed};
use super::{Ask, Benchmark, Item, Prompt, Source, prompt};
use crate::Result;

/// Records with a problem, an answer, and what else they have. Known names are tried in order: the problem
/// is `problem`, `question` or `prompt`; the answer `answer`, `final_answer`, `target`, `label` or `solution`.
///
/// An answer with a `####` line is what follows it, and one with a box is what the last box holds.
/// `level`, `subject`, `type` and `difficulty` become groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Jsonl {
    /// Name in reports: the file's stem, or the generated task's name.
    pub name: String,
    /// Field of the problem, when it has another name.
    pub problem: Option<String>,
    /// Field of the answer, when it has another name.
    pub answer: Option<String>,
    /// Whether the problem is asked as it stands, without an instruction; generated tasks bring their own.
    pub is_verbatim: bool,
}

impl Jsonl {
    /// Records under their usual field names.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), problem: None, answer: None, is_verbatim: false }
    }
}

impl Benchmark for Jsonl {
    fn name(&self) -> &str {
        &self.name
    }

    fn source(&self) -> Source {
        Source { dataset: None, configs: &[], splits: &[], items: None, note: "own records" }
    }

    fn item(&self, record: &Value, index: usize) -> Result<Item> {
        let record = Record::new(&self.name, record, index);
        let problem = match &self.problem {
            Some(field) => record.text(&[field])?,
            None => record.text(&["problem", "question", "prompt"])?,
        };
        let answers = match &self.answer {
            Some(field) => record.texts(&[field])?,
            None => record.texts(&["answer", "final_answer", "target", "label", "solution"])?,
        };
        let mut groups = BTreeMap::new();
        for axis in ["level", "subject", "type", "difficulty"] {
            if let Some(value) = record.optional(&[axis])? {
                groups.insert(axis.to_owned(), value);
            }
        }
        Ok(Item {
            id: record.id(&["id", "ID", "idx", "unique_id"])?,
            problem,
            answer: final_answer(&answers.join(", ")),
            solution: record.optional(&["solution"])?,
            groups,
            tolerance: None,
        })
    }

    fn prompt(&self, item: &Item, ask: &Ask) -> Prompt {
        if self.is_verbatim {
            return prompt::verbatim(item, ask);
        }
        prompt::boxed(item, ask, &self.shots())
    }
}

fn final_answer(text: &str) -> String {
    if let Some((_, answer)) = text.rsplit_once("#### ") {
        return answer.trim().to_owned();
    }
    last_boxed(text).unwrap_or(text).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn usual_and_named_fields_are_read() {
        let benchmark = Jsonl::new("mine");
        let item = benchmark.item(&json!({"question": "q", "answer": "so\n#### 5", "level": 2}), 0).unwrap();
        assert_eq!((item.answer.as_str(), item.groups["level"].as_str()), ("5", "2"));
        let boxed = benchmark.item(&json!({"prompt": "q", "solution": r"thus \boxed{x+1}"}), 0).unwrap();
        assert_eq!(boxed.answer, "x+1");
        let named = Jsonl { problem: Some("ask".into()), answer: Some("gold".into()), ..benchmark.clone() };
        assert_eq!(named.item(&json!({"ask": "q", "gold": 3}), 0).unwrap().answer, "3");
        let error = benchmark.item(&json!({"question": "q"}), 8).unwrap_err().to_string();
        assert!(error.starts_with("mine, record 9: no field `answer`"), "{error}");
    }

    #[test]
    fn a_verbatim_problem_is_asked_without_instruction() {
        let benchmark = Jsonl { is_verbatim: true, ..Jsonl::new("generated") };
        let item = benchmark.item(&json!({"problem": "3+4=", "answer": "7"}), 0).unwrap();
        let Prompt::Chat(messages) = benchmark.prompt(&item, &Ask::default()) else { panic!("not a chat") };
        assert_eq!(messages[0].content, "3+4=");
    }
}
