//! AIME 2024: the 30 problems of the American Invitational Mathematics Examination I and II of 2024, answers 0 to 999.

use serde_json::Value;

use super::fields::Record;
use super::{Benchmark, Item, Source};
use crate::Result;

/// 30 problems: `problem`, `solution`, `answer` (with leading zeros: 073), `id`. One problem is 3.3 points: sample many times.
#[derive(Debug, Clone, Copy, Default)]
pub struct Aime24;

impl Benchmark for Aime24 {
    fn name(&self) -> &str {
        "aime24"
    }

    fn source(&self) -> Source {
        Source {
            dataset: Some("HuggingFaceH4/aime_2024"),
            configs: &[],
            splits: &["train"],
            items: Some(30),
            note: "problems by the MAA; older than the training data of most current models",
        }
    }

    fn item(&self, record: &Value, index: usize) -> Result<Item> {
        let record = Record::new(self.name(), record, index);
        item(&record)
    }
}

/// Reads an AIME record; leading zeros of the answer go, and anything but an integer from 0 to 999 is an error.
pub(super) fn item(record: &Record<'_>) -> Result<Item> {
    let answer = record.text(&["answer", "Answer"])?;
    let value = answer
        .parse::<u32>()
        .ok()
        .filter(|value| *value <= 999)
        .ok_or_else(|| record.error(format!("answer `{answer}` is not an integer from 0 to 999")))?;
    Ok(Item {
        id: record.id(&["id", "ID"])?,
        problem: record.text(&["problem", "Problem", "question"])?,
        answer: value.to_string(),
        solution: record.optional(&["solution", "Solution"])?,
        groups: Default::default(),
        tolerance: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn leading_zeros_go_and_other_answers_are_refused() {
        let item = Aime24.item(&json!({"id": 60, "problem": "p", "answer": "073"}), 0).unwrap();
        assert_eq!((item.answer.as_str(), item.id.as_str()), ("73", "60"));
        let error = Aime24.item(&json!({"problem": "p", "answer": "1000"}), 0).unwrap_err().to_string();
        assert_eq!(error, "aime24, record 1: answer `1000` is not an integer from 0 to 999");
    }
}
