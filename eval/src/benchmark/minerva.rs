//! Minerva Math (OCWCourses): undergraduate problems in the sciences ("Solving Quantitative Reasoning Problems
//! with Language Models", arXiv 2206.14858).

use serde_json::Value;

use super::{Benchmark, Item, Source, math};
use crate::Result;

/// 272 problems: `question` and `answer` on the Hub; `problem`, `solution` with the answer in a box, `type` and
/// `idx` in Qwen2.5-Math's copy.
#[derive(Debug, Clone, Copy, Default)]
pub struct Minerva;

impl Benchmark for Minerva {
    fn name(&self) -> &str {
        "minerva"
    }

    fn source(&self) -> Source {
        Source {
            dataset: Some("math-ai/minervamath"),
            configs: &[],
            splits: &["test"],
            items: Some(272),
            note: "CC BY-NC-SA (MIT OpenCourseWare): not for redistribution in commercial work",
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
    fn both_layouts_are_read() {
        let hub = Minerva.item(&json!({"question": "q", "answer": "4.5e33"}), 0).unwrap();
        assert_eq!(hub.answer, "4.5e33");
        let file = json!({"problem": "q", "solution": r"so \boxed{4.5e33} erg", "type": "Astronomy", "idx": 3});
        let file = Minerva.item(&file, 0).unwrap();
        assert_eq!((file.answer.as_str(), file.id.as_str()), ("4.5e33", "3"));
    }
}
