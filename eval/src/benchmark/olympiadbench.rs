//! OlympiadBench, its English open-ended text-only mathematics part ("OlympiadBench: A Challenging Benchmark for
//! Promoting AGI with Olympiad-Level Bilingual Multimodal Scientific Problems", arXiv 2402.14008).

use std::collections::BTreeMap;

use serde_json::Value;

use super::fields::Record;
use super::{Benchmark, Item, Source};
use crate::Result;

/// 674 problems on the Hub, 675 in Qwen2.5-Math's copy: `question`, `context`, `final_answer` (a list),
/// `is_multiple_answer`, `answer_type`, `unit`, `error`, `subfield`.
///
/// All of a problem's answers are asked for, joined by commas; scores of harnesses that look only at the
/// first are higher on the 94 problems that have several. `error` is the tolerance of a numeric answer.
#[derive(Debug, Clone, Copy, Default)]
pub struct OlympiadBench;

impl Benchmark for OlympiadBench {
    fn name(&self) -> &str {
        "olympiadbench"
    }

    fn source(&self) -> Source {
        Source {
            dataset: Some("Hothan/OlympiadBench"),
            configs: &["OE_TO_maths_en_COMP"],
            splits: &["train"],
            items: Some(674),
            note: "MIT; English text-only mathematics; the copy in Qwen2.5-Math's harness has 675 problems",
        }
    }

    fn item(&self, record: &Value, index: usize) -> Result<Item> {
        let record = Record::new(self.name(), record, index);
        let question = record.text(&["question"])?;
        let problem = match record.optional(&["context"])?.filter(|context| !context.trim().is_empty()) {
            Some(context) => format!("{}\n\n{question}", context.trim()),
            None => question,
        };
        let answers = record.texts(&["final_answer"])?;
        let mut groups = BTreeMap::new();
        for (axis, field) in [("subject", "subfield"), ("answer_type", "answer_type")] {
            if let Some(value) = record.optional(&[field])? {
                groups.insert(axis.to_owned(), value);
            }
        }
        if record.flag("is_multiple_answer") {
            groups.insert("answers".to_owned(), "several".to_owned());
        } else {
            groups.insert("answers".to_owned(), "one".to_owned());
        }
        Ok(Item {
            id: record.id(&["id"])?,
            problem,
            answer: answers.join(", "),
            solution: record.texts(&["solution"]).ok().map(|parts| parts.join("\n\n")),
            groups,
            tolerance: tolerance(&record)?,
        })
    }
}

/// `error`, where it is one number; several (one for each answer) are not a tolerance of the whole.
fn tolerance(record: &Record<'_>) -> Result<Option<f64>> {
    let Some(text) = record.optional(&["error"])? else {
        return Ok(None);
    };
    if text.contains(',') {
        return Ok(None);
    }
    match text.trim().parse::<f64>() {
        Ok(value) if value.is_finite() && value >= 0.0 => Ok(Some(value)),
        _ => Err(record.error(format!("field `error` is `{text}`, not a tolerance"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn several_answers_and_a_tolerance_are_kept() {
        let record = json!({"id": 7, "question": "q", "context": null, "final_answer": ["1", "-2"], "is_multiple_answer": true,
            "error": "1e-1", "subfield": "Algebra", "answer_type": "Numerical", "solution": ["a", "b"]});
        let item = OlympiadBench.item(&record, 0).unwrap();
        assert_eq!((item.id.as_str(), item.answer.as_str()), ("7", "1, -2"));
        assert_eq!((item.tolerance, item.groups["answers"].as_str()), (Some(0.1), "several"));
        let bad = json!({"id": 7, "question": "q", "final_answer": [], "error": null});
        assert!(OlympiadBench.item(&bad, 0).unwrap_err().to_string().contains("`final_answer` is empty"));
    }
}
