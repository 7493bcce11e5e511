//! MATH: competition problems by subject and level ("Measuring Mathematical Problem Solving With the MATH
//! Dataset", arXiv 2103.03874).

use std::collections::BTreeMap;

use serde_json::Value;

use super::fields::{Record, last_boxed};
use super::{Benchmark, Item, Source};
use crate::Result;

/// The 5,000 test problems. A record is `problem`, `level` (`Level 3`), `type` (the subject) and `solution`,
/// whose last box holds the answer.
#[derive(Debug, Clone, Copy, Default)]
pub struct Math;

impl Benchmark for Math {
    fn name(&self) -> &str {
        "math"
    }

    fn source(&self) -> Source {
        Source {
            dataset: Some("EleutherAI/hendrycks_math"),
            configs: &[
                "algebra",
                "counting_and_probability",
                "geometry",
                "intermediate_algebra",
                "number_theory",
                "prealgebra",
                "precalculus",
            ],
            splits: &["test"],
            items: Some(5000),
            note: "MIT; holds the 500 problems of math500",
        }
    }

    fn item(&self, record: &Value, index: usize) -> Result<Item> {
        item(self.name(), record, index)
    }
}

/// Reads a MATH-like record: `answer` if there is one, else the last box of `solution`; groups by subject and level.
pub(super) fn item(benchmark: &str, record: &Value, index: usize) -> Result<Item> {
    let record = Record::new(benchmark, record, index);
    let solution = record.optional(&["solution"])?;
    let answer = match record.optional(&["answer"])?.filter(|answer| !answer.trim().is_empty()) {
        Some(answer) => answer.trim().to_owned(),
        None => solution
            .as_deref()
            .and_then(last_boxed)
            .ok_or_else(|| record.error("no field `answer`, and no `\\boxed{}` in field `solution`"))?
            .to_owned(),
    };
    let mut groups = BTreeMap::new();
    if let Some(subject) = record.optional(&["subject", "type"])? {
        groups.insert("subject".to_owned(), subject);
    }
    if let Some(level) = record.optional(&["level"])? {
        let level = level.trim_start_matches("Level ").to_owned();
        groups.insert("level".to_owned(), level);
    }
    Ok(Item {
        id: record.id(&["unique_id", "idx", "id"])?,
        problem: record.text(&["problem", "question"])?,
        answer,
        solution,
        groups,
        tolerance: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_answer_is_the_last_box() {
        let record =
            json!({"problem": "p", "level": "Level 5", "type": "Algebra", "solution": r"thus $\boxed{\frac12}$."});
        let item = Math.item(&record, 0).unwrap();
        assert_eq!(item.answer, r"\frac12");
        assert_eq!((item.groups["level"].as_str(), item.groups["subject"].as_str()), ("5", "Algebra"));
        let error = Math.item(&json!({"problem": "p", "solution": "42"}), 1).unwrap_err().to_string();
        assert_eq!(error, r"math, record 2: no field `answer`, and no `\boxed{}` in field `solution`");
    }
}
