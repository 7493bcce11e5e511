//! MATH-500: the 500 MATH problems that "Let's Verify Step by Step" (arXiv 2305.20050) kept for testing.

use serde_json::Value;

use super::{Benchmark, Item, Source, math};
use crate::Result;

/// 500 problems: `problem`, `solution`, `answer`, `subject`, `level` (1 to 5).
#[derive(Debug, Clone, Copy, Default)]
pub struct Math500;

impl Benchmark for Math500 {
    fn name(&self) -> &str {
        "math500"
    }

    fn source(&self) -> Source {
        Source {
            dataset: Some("HuggingFaceH4/MATH-500"),
            configs: &[],
            splits: &["test"],
            items: Some(500),
            note: "MIT; older than the training data of current models, and part of math",
        }
    }

    fn item(&self, record: &Value, index: usize) -> Result<Item> {
        math::item(self.name(), record, index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_numeric_level_reads_as_in_math() {
        let record = json!({"problem": "p", "solution": "s", "answer": "7", "subject": "Geometry", "level": 2, "unique_id": "test/geometry/1.json"});
        let item = Math500.item(&record, 0).unwrap();
        assert_eq!((item.id.as_str(), item.groups["level"].as_str()), ("test/geometry/1.json", "2"));
    }
}
