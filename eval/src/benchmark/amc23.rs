//! AMC 23: the AMC 12 problems of 2023 that have numeric answers.

use serde_json::Value;

use super::fields::Record;
use super::{Benchmark, Item, Source};
use crate::Result;

/// 40 problems: `problem` (or `question`), `answer` (a float: 27.0), `id`. One problem is 2.5 points.
#[derive(Debug, Clone, Copy, Default)]
pub struct Amc23;

impl Benchmark for Amc23 {
    fn name(&self) -> &str {
        "amc23"
    }

    fn source(&self) -> Source {
        Source {
            dataset: Some("math-ai/amc23"),
            configs: &[],
            splits: &["test"],
            items: Some(40),
            note: "problems by the MAA; not the 83 problems of 2022 and 2023 that some papers call AMC",
        }
    }

    fn item(&self, record: &Value, index: usize) -> Result<Item> {
        let record = Record::new(self.name(), record, index);
        Ok(Item {
            id: record.id(&["id"])?,
            problem: record.text(&["problem", "question"])?,
            answer: whole(&record.text(&["answer"])?),
            solution: None,
            groups: Default::default(),
            tolerance: None,
        })
    }
}

/// The Hub's copy holds answers as text, the point and zero included.
fn whole(answer: &str) -> String {
    answer.strip_suffix(".0").unwrap_or(answer).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_whole_float_is_an_integer_as_number_and_as_text() {
        for answer in [json!(27.0), json!("27.0"), json!("27")] {
            assert_eq!(Amc23.item(&json!({"question": "p", "answer": answer}), 0).unwrap().answer, "27");
        }
    }
}
