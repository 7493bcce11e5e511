//! GSM8K: grade-school word problems with integer answers ("Training Verifiers to Solve Math Word Problems",
//! arXiv 2110.14168).

use serde_json::Value;

use super::fields::Record;
use super::prompt::{question_answer, word_problem_shots};
use super::{Ask, Benchmark, Item, Prompt, Shot, Source};
use crate::Result;

/// The 1,319 test problems. A record is `question` and `answer`, the latter a worked solution that ends in a
/// line `#### 18`; `<<3*4=12>>` are calculator marks and leave the solution.
///
/// Base models are asked as lm-evaluation-harness's `gsm8k` does (`Question:`/`Answer:`), with four worked
/// examples of our own in place of random training problems; training records read as shots
/// ([`Benchmark::shot`]) give the harness's own 5-shot prompt.
#[derive(Debug, Clone, Copy, Default)]
pub struct Gsm8k;

impl Benchmark for Gsm8k {
    fn name(&self) -> &str {
        "gsm8k"
    }

    fn source(&self) -> Source {
        Source {
            dataset: Some("openai/gsm8k"),
            configs: &["main"],
            splits: &["test"],
            items: Some(1319),
            note: "MIT; older than the training data of current models",
        }
    }

    fn item(&self, record: &Value, index: usize) -> Result<Item> {
        let record = Record::new(self.name(), record, index);
        let whole = record.text(&["answer"])?;
        let (solution, answer) =
            whole.rsplit_once("####").ok_or_else(|| record.error("field `answer` has no line `#### answer`"))?;
        let answer = answer.trim().replace(',', "");
        if answer.is_empty() {
            return Err(record.error("nothing follows `####` in field `answer`"));
        }
        Ok(Item {
            id: record.id(&["id"])?,
            problem: record.text(&["question"])?,
            answer,
            solution: Some(without_marks(solution.trim())),
            groups: Default::default(),
            tolerance: None,
        })
    }

    fn shots(&self) -> Vec<Shot> {
        word_problem_shots()
    }

    /// Calculator marks are kept, as lm-evaluation-harness shows them.
    fn shot(&self, record: &Value, index: usize) -> Result<Shot> {
        let record = Record::new(self.name(), record, index);
        Ok(Shot { problem: record.text(&["question"])?, solution: record.text(&["answer"])? })
    }

    fn prompt(&self, item: &Item, ask: &Ask) -> Prompt {
        question_answer(item, ask, &self.shots())
    }
}

/// `text` without `<<...>>`.
fn without_marks(text: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some((before, mark)) = rest.split_once("<<") {
        let Some((_, after)) = mark.split_once(">>") else {
            break;
        };
        out.push_str(before);
        rest = after;
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn answer_follows_the_hashes_and_marks_go() {
        let record = json!({"question": "Two bags of 600?", "answer": "2*600=<<2*600=1200>>1200 in all.\n#### 1,200"});
        let item = Gsm8k.item(&record, 3).unwrap();
        assert_eq!((item.id.as_str(), item.answer.as_str()), ("3", "1200"));
        assert_eq!(item.solution.as_deref(), Some("2*600=1200 in all."));
        assert!(Gsm8k.shot(&record, 3).unwrap().solution.contains("<<"));
    }

    #[test]
    fn a_record_without_hashes_is_refused_by_number() {
        let error = Gsm8k.item(&json!({"question": "q", "answer": "18"}), 6).unwrap_err().to_string();
        assert_eq!(error, "gsm8k, record 7: field `answer` has no line `#### answer`");
    }
}
