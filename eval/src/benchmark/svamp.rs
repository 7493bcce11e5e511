//! SVAMP: elementary word problems with varied structure ("Are NLP Models really able to Solve Simple Math
//! Word Problems?", arXiv 2103.07191).

use std::collections::BTreeMap;

use serde_json::Value;

use super::fields::Record;
use super::prompt::{question_answer, word_problem_shots};
use super::{Ask, Benchmark, Item, Prompt, Shot, Source};
use crate::Result;

/// All 1,000 problems, as papers that follow Qwen2.5-Math's harness score them; the Hub's 700/300 split is
/// undone by reading both parts. A record is `Body`, `Question`, `Answer`, `Type`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Svamp;

impl Benchmark for Svamp {
    fn name(&self) -> &str {
        "svamp"
    }

    fn source(&self) -> Source {
        Source {
            dataset: Some("ChilleD/SVAMP"),
            configs: &[],
            splits: &["train", "test"],
            items: Some(1000),
            note: "MIT; all 1,000 problems, not the 300 of the test split",
        }
    }

    fn item(&self, record: &Value, index: usize) -> Result<Item> {
        let record = Record::new(self.name(), record, index);
        let body = record.text(&["Body"])?;
        let question = record.text(&["Question"])?;
        // Many bodies end without a full stop, which would run two sentences into one.
        let joint = if body.ends_with(['.', '!', '?', ',']) { " " } else { ". " };
        let kind = record.optional(&["Type"])?.map(|kind| kind.replace("Divison", "Division"));
        Ok(Item {
            id: record.id(&["ID", "id"])?,
            problem: format!("{body}{joint}{question}"),
            answer: record.text(&["Answer"])?,
            solution: record.optional(&["Equation"])?,
            groups: kind.map(|kind| BTreeMap::from([("type".to_owned(), kind)])).unwrap_or_default(),
            tolerance: None,
        })
    }

    fn shots(&self) -> Vec<Shot> {
        word_problem_shots()
    }

    fn shot(&self, record: &Value, index: usize) -> Result<Shot> {
        let item = self.item(record, index)?;
        let work = item.solution.map_or_else(String::new, |equation| format!("{equation} = {}\n", item.answer));
        Ok(Shot { problem: item.problem, solution: format!("{work}#### {}", item.answer) })
    }

    fn prompt(&self, item: &Item, ask: &Ask) -> Prompt {
        question_answer(item, ask, &self.shots())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn body_and_question_become_sentences() {
        let record = json!({"ID": "chal-9", "Body": "Ann has 3 pens", "Question": "How many?", "Answer": 3.0, "Type": "Common-Divison"});
        let item = Svamp.item(&record, 0).unwrap();
        assert_eq!(item.problem, "Ann has 3 pens. How many?");
        assert_eq!((item.id.as_str(), item.answer.as_str()), ("chal-9", "3"));
        assert_eq!(item.groups["type"], "Common-Division");
    }
}
