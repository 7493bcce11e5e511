//! College Math: exercises from open textbooks ("MathScale: Scaling Instruction Tuning for Mathematical
//! Reasoning", arXiv 2403.02884).

use std::collections::BTreeMap;

use serde_json::Value;

use super::fields::Record;
use super::{Benchmark, Item, Source};
use crate::Result;

/// 2,818 problems: `question`, `answer`, `data_topic`, `data_source` (the book), `question_number`. The id joins
/// book and number, because numbers come again in other books, and the place, because they come again in one.
#[derive(Debug, Clone, Copy, Default)]
pub struct CollegeMath;

impl Benchmark for CollegeMath {
    fn name(&self) -> &str {
        "college_math"
    }

    fn source(&self) -> Source {
        Source {
            dataset: Some("di-zhang-fdu/College_Math_Test"),
            configs: &[],
            splits: &["test"],
            items: Some(2818),
            note: "licence by book (CC BY, CC BY-NC-SA, GFDL): a part of the set is not the published benchmark",
        }
    }

    fn item(&self, record: &Value, index: usize) -> Result<Item> {
        let record = Record::new(self.name(), record, index);
        let book = record.optional(&["data_source"])?.map(|book| book.trim_start_matches("college_math.").to_owned());
        let number = record.optional(&["question_number"])?;
        let id = match (&book, number) {
            (Some(book), Some(number)) => format!("{book}/{number}/{index}"),
            _ => index.to_string(),
        };
        let mut groups = BTreeMap::new();
        if let Some(topic) = record.optional(&["data_topic"])? {
            groups.insert("subject".to_owned(), topic.trim_start_matches("college_math.").to_owned());
        }
        Ok(Item {
            id,
            problem: record.text(&["question", "problem"])?,
            answer: record.text(&["answer"])?,
            solution: None,
            groups,
            tolerance: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn id_and_subject_lose_the_common_prefix() {
        let record = json!({"data_source": "college_math.Calculus", "question_number": "exercise.1", "question": "q", "answer": "$2 n$", "data_topic": "college_math.calculus"});
        let item = CollegeMath.item(&record, 7).unwrap();
        assert_eq!(item.id, "Calculus/exercise.1/7");
        assert_eq!(item.groups["subject"], "calculus");
    }
}
