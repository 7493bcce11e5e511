//! AIME 2025: the 30 problems of the American Invitational Mathematics Examination I and II of 2025, answers 0 to 999.

use serde_json::Value;

use super::aime24::item;
use super::fields::Record;
use super::{Benchmark, Item, Source};
use crate::Result;

/// 30 problems: `problem`, `answer`, `id`. One problem is 3.3 points: sample many times.
#[derive(Debug, Clone, Copy, Default)]
pub struct Aime25;

impl Benchmark for Aime25 {
    fn name(&self) -> &str {
        "aime25"
    }

    fn source(&self) -> Source {
        Source {
            dataset: Some("math-ai/aime25"),
            configs: &[],
            splits: &["test"],
            items: Some(30),
            note: "problems by the MAA; younger than Qwen2.5, so the cleaner check for models of 2024",
        }
    }

    fn item(&self, record: &Value, index: usize) -> Result<Item> {
        let record = Record::new(self.name(), record, index);
        item(&record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn errors_carry_this_set_s_name() {
        assert_eq!(Aime25.item(&json!({"problem": "p", "answer": 70}), 0).unwrap().answer, "70");
        let error = Aime25.item(&json!({"problem": "p"}), 4).unwrap_err().to_string();
        assert_eq!(error, "aime25, record 5: no field `answer` or `Answer`: the record has `problem`");
    }
}
