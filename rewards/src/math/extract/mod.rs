//! From a completion to the string that holds its final answer.
//!
//! Every function here scans the text a bounded number of times from left to right and keeps a
//! bounded number of findings, so a megabyte of braces costs milliseconds. Nothing is parsed as
//! mathematics yet.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

mod announced;
mod boxed;
mod numbers;
mod spans;

pub use announced::minerva;
pub(crate) use boxed::boxed_gold;
pub use boxed::{FoundBox, boxes, last_box};
pub use numbers::{gsm8k_flexible, gsm8k_strict, last_number};

use announced::anchored;
use boxed::boxed_answers;
use spans::unanchored;

/// How far back from the end the text is searched for anything but boxes, in bytes.
const SEARCHED_BYTES: usize = 64 * 1024;

/// Where in the completion the final answer stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Extract {
    /// The last box, else an anchored phrase (`final answer is`, `Answer:`, `####`), else, when
    /// unanchored answers are allowed, the last LaTeX span or number.
    #[default]
    Auto,
    /// The last `\boxed{...}` or `\fbox{...}` only.
    Boxed,
    /// The last `#### ` followed by a number, as in GSM8K's worked solutions.
    Gsm8kStrict,
    /// The last run that looks like a number, by the pattern of the `gsm8k` task of
    /// lm-evaluation-harness.
    Gsm8kFlexible,
    /// The last `final answer is X. I hope`.
    Minerva,
    /// An anchored phrase only.
    AnswerLine,
    /// The last complete number of the text: for models too small to keep to a form.
    LastNumber,
    /// The whole completion.
    Whole,
}

/// Which part of the completion is searched, and how patiently.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Extraction {
    /// Where the final answer stands.
    pub mode: Extract,
    /// In `auto`, fall back to the last LaTeX span or number of the text. Good for evaluation; in
    /// training it pays for guesses.
    pub allow_unanchored: bool,
    /// A last box that is never closed takes the rest of its line.
    pub allow_unclosed_box: bool,
    /// Search a think block that was opened and never closed. Off: such a text has no answer.
    pub search_open_think: bool,
    /// Marks that end the reasoning: only what follows the last of them is searched. An opening mark
    /// is the same without its slash.
    pub think_end: Vec<String>,
}

impl Default for Extraction {
    fn default() -> Self {
        Extraction {
            mode: Extract::Auto,
            allow_unanchored: true,
            allow_unclosed_box: true,
            search_open_think: false,
            think_end: vec!["</think>".into()],
        }
    }
}

/// What was found, best candidate first.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Found {
    /// Strings to grade, in order; the first is the answer, the others are joined boxes for golds of
    /// several parts.
    pub candidates: Vec<String>,
    /// Whether the text ends inside a think block.
    pub is_think_truncated: bool,
}

/// Finds the final answer of `completion`. `gold_parts` is the number of items of a list, set or
/// tuple gold, 1 for any other.
pub fn extract(completion: &str, how: &Extraction, gold_parts: usize) -> Found {
    let Some(text) = after_thinking(completion, how) else {
        return Found { candidates: Vec::new(), is_think_truncated: true };
    };
    let tail = last_bytes(text, SEARCHED_BYTES);
    let one = |answer: Option<String>| answer.into_iter().collect();
    let candidates = match how.mode {
        Extract::Auto => {
            let boxes = boxed_answers(text, how, gold_parts);
            if !boxes.is_empty() {
                boxes
            } else {
                one(anchored(tail).or_else(|| if how.allow_unanchored { unanchored(tail) } else { None }))
            }
        }
        Extract::Boxed => boxed_answers(text, how, gold_parts),
        Extract::Gsm8kStrict => one(gsm8k_strict(tail)),
        Extract::Gsm8kFlexible => one(gsm8k_flexible(tail)),
        Extract::Minerva => one(minerva(tail)),
        Extract::AnswerLine => one(anchored(tail)),
        Extract::LastNumber => one(last_number(tail).map(str::to_string)),
        Extract::Whole => one(Some(text.trim().to_string()).filter(|text| !text.is_empty())),
    };
    Found { candidates, is_think_truncated: false }
}

/// What follows the last think mark; `None` when a think block is open at the end.
fn after_thinking<'a>(text: &'a str, how: &Extraction) -> Option<&'a str> {
    let mut rest = text;
    for mark in how.think_end.iter().filter(|mark| !mark.is_empty()) {
        let closed = text.rfind(mark.as_str()).map(|at| at + mark.len());
        let opening = mark.replacen('/', "", 1);
        let opened = if opening == *mark { None } else { text.rfind(&opening) };
        match (opened, closed) {
            (Some(_), None) if !how.search_open_think => return None,
            (Some(opened), Some(closed)) if opened >= closed && !how.search_open_think => {
                return None;
            }
            (_, Some(closed)) if text.len() - closed < rest.len() => rest = &text[closed..],
            _ => {}
        }
    }
    Some(rest)
}

/// The last `limit` bytes of `text`, from a character boundary.
pub(crate) fn last_bytes(text: &str, limit: usize) -> &str {
    let mut start = text.len().saturating_sub(limit);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    &text[start..]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(text: &str) -> Option<String> {
        extract(text, &Extraction::default(), 1).candidates.into_iter().next()
    }

    #[test]
    fn auto_finds_boxes_then_anchors_then_numbers() {
        for (text, expected) in [
            (r"...= \boxed{\frac{14}{3}}", Some(r"\frac{14}{3}")),
            (r"\boxed{3}. After much work \boxed{18}", Some("18")),
            (r"\boxed{3} then \boxed{}", Some("3")),
            (r"\boxed 18", Some("18")),
            (r"\fbox{\{1,2\}}", Some(r"\{1,2\}")),
            (r"so $\boxed{18", Some("18")),
            (r"so \boxed{\frac{1}{2}$.", Some(r"\frac{1}{2}")),
            (r"\\boxed{\\frac{1}{2}}", Some(r"\\frac{1}{2}")),
            ("#### 70,000", Some("70,000")),
            ("**Answer:** 18", Some("18")),
            ("The answer is: 18", Some("18")),
            ("Final Answer: The final answer is $18$. I hope it is correct.", Some("18")),
            ("Final Answer: The largest $n$ is 34.", Some("34")),
            ("Final Answer: Jane started 3 hours ago. I hope it is correct.", Some("3")),
            ("the answer is $3$, $5$ and $7$.", Some("3 , 5 , 7")),
            ("The answer is yes.", Some("yes")),
            ("She makes 9*2 = $18 every day.", Some("$18")),
            ("x = -5", Some("-5")),
            ("9 - 3 = 6 and 10-3", Some("3")),
            ("they are 5,14,20,25,31,38", Some("38")),
            ("they are 5,14,20,25,31", Some("31")),
            ("they are 5,14", Some("5,14")),
            ("they are 5,140,200,31", Some("31")),
            ("12,345 and 1,20,345", Some("345")),
            ("I do not know.", None),
            ("", None),
        ] {
            assert_eq!(first(text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn several_boxes_join_only_for_golds_of_several_parts() {
        let text = r"The point is $\boxed{3}$ and $\boxed{4}$";
        assert_eq!(extract(text, &Extraction::default(), 1).candidates, ["4"]);
        assert_eq!(extract(text, &Extraction::default(), 2).candidates, ["4", "3 , 4"]);
        let far = r"First \boxed{3}, which after a long computation becomes \boxed{4}";
        assert_eq!(extract(far, &Extraction::default(), 2).candidates, ["4"]);
    }

    #[test]
    fn thinking_is_not_searched() {
        assert_eq!(first(r"<think>\boxed{1}</think> \boxed{2}").as_deref(), Some("2"));
        assert_eq!(first(r"\boxed{1}</think> no box"), None);
        let open = extract(r"<think> \boxed{1}", &Extraction::default(), 1);
        assert!(open.candidates.is_empty() && open.is_think_truncated);
        let search = Extraction { search_open_think: true, ..Extraction::default() };
        assert_eq!(extract(r"<think> \boxed{1}", &search, 1).candidates, ["1"]);
    }

    #[test]
    fn modes() {
        let with = |mode, text: &str| {
            let how = Extraction { mode, allow_unanchored: false, ..Extraction::default() };
            extract(text, &how, 1).candidates.into_iter().next()
        };
        assert_eq!(with(Extract::Auto, "so 18"), None);
        assert_eq!(with(Extract::Boxed, "answer: 18"), None);
        assert_eq!(with(Extract::Gsm8kStrict, "9\n#### -1,200.50 eggs").as_deref(), Some("-1200.50"));
        assert_eq!(with(Extract::Gsm8kStrict, "####18"), None);
        assert_eq!(with(Extract::Gsm8kFlexible, "it costs $1,234.").as_deref(), Some("1234"));
        assert_eq!(with(Extract::Minerva, "the final answer is $x$. I hope it is correct.").as_deref(), Some("$x$"));
        assert_eq!(with(Extract::AnswerLine, r"\boxed{3} Answer: 4").as_deref(), Some("4"));
        assert_eq!(with(Extract::LastNumber, r"\boxed{3} or maybe 1,204 of them").as_deref(), Some("1,204"));
        assert_eq!(with(Extract::Whole, "  a b ").as_deref(), Some("a b"));
    }

    #[test]
    fn megabytes_are_scanned_in_milliseconds() {
        let start = std::time::Instant::now();
        for text in [
            "\\boxed{".repeat(150_000),
            format!("\\boxed{{{}", "{".repeat(1_000_000)),
            "$".repeat(1_000_000),
            "\\[".repeat(500_000),
            "\\(".repeat(500_000),
            "answer is ".repeat(100_000),
            "\\".repeat(1_000_000),
        ] {
            first(&text);
        }
        assert!(start.elapsed().as_millis() < 2000, "{:?}", start.elapsed());
    }
}
