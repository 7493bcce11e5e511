//! Grading modes of other tools, kept for comparison with published numbers.
//!
//! Each follows the public description of a tool's rule, not its code. They are string rules, right
//! far less often than [`super::grade`]; reporting them beside it shows how much the grader matters.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::extract::{self, Extract, Extraction};
use super::{GradeConfig, Policy, grade};

/// A way of grading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// This grader.
    #[default]
    Primary,
    /// The whole completion, trimmed, is the gold, trimmed.
    Exact,
    /// The last box and the gold are the same string after the clean-up of the MATH data set.
    Hendrycks,
    /// `final answer is X. I hope`, and the clean-up of the Minerva paper's appendix.
    Minerva,
    /// The number after the last `#### `.
    Gsm8kStrict,
    /// The last run that looks like a number.
    Gsm8kFlexible,
    /// The last `Answer: X` in the last 300 characters, and Minerva's clean-up.
    Dapo,
    /// Anchors before boxes and rounding to six decimals, as the most used peer does.
    MathVerify,
}

impl Mode {
    /// Every mode, the primary first.
    pub const ALL: [Mode; 8] = [
        Mode::Primary,
        Mode::Exact,
        Mode::Hendrycks,
        Mode::Minerva,
        Mode::Gsm8kStrict,
        Mode::Gsm8kFlexible,
        Mode::Dapo,
        Mode::MathVerify,
    ];
}

/// Whether `completion` is right under `mode`. `config` is used by the modes that parse.
pub fn is_correct(mode: Mode, gold: &str, completion: &str, config: &GradeConfig) -> bool {
    let anchored = |mode| {
        extract::extract(completion, &Extraction { mode, ..config.extraction.clone() }, 1).candidates.into_iter().next()
    };
    match mode {
        Mode::Primary => grade(gold, completion, config).correct,
        Mode::Exact => completion.trim() == gold.trim(),
        Mode::Hendrycks => {
            extract::last_box(completion).is_some_and(|found| hendrycks(found.content) == hendrycks(gold))
        }
        Mode::Minerva => anchored(Extract::Minerva).is_some_and(|answer| minerva(&answer) == minerva(gold)),
        Mode::Gsm8kStrict => extract::gsm8k_strict(completion).is_some_and(|answer| same_number(&answer, gold)),
        Mode::Gsm8kFlexible => extract::gsm8k_flexible(completion).is_some_and(|answer| same_number(&answer, gold)),
        Mode::Dapo => dapo(completion).is_some_and(|answer| minerva(&answer) == minerva(gold)),
        Mode::MathVerify => {
            let first = anchored(Extract::Minerva).map(|answer| format!("\\boxed{{{answer}}}"));
            let policy = Policy { min_decimals: 6, min_significant: u32::MAX, ..config.policy.clone() };
            let config = GradeConfig {
                policy,
                extraction: Extraction { allow_unanchored: true, ..config.extraction.clone() },
                ..config.clone()
            };
            grade(gold, first.as_deref().unwrap_or(completion), &config).correct
        }
    }
}

/// The number of a GSM8K gold, which may be a whole worked solution.
fn same_number(answer: &str, gold: &str) -> bool {
    let gold = extract::gsm8k_strict(gold).unwrap_or_else(|| gold.trim().replace([',', '$'], ""));
    answer.trim_end_matches('.') == gold.trim_end_matches('.')
}

fn dapo(completion: &str) -> Option<String> {
    let tail_start = completion.char_indices().rev().nth(299).map_or(0, |(at, _)| at);
    let tail = &completion[tail_start..];
    let at = tail.to_ascii_lowercase().rfind("answer:")?;
    let line = tail[at + "answer:".len()..].lines().next()?.trim();
    (!line.is_empty()).then(|| line.to_string())
}

/// The string rules of the MATH data set: layout and units off, fractions and roots braced.
fn hendrycks(text: &str) -> String {
    let mut text = text.replace('\n', "");
    for (from, to) in [
        ("\\!", ""),
        ("\\\\", "\\"),
        ("tfrac", "frac"),
        ("dfrac", "frac"),
        ("\\left", ""),
        ("\\right", ""),
        ("^{\\circ}", ""),
        ("^\\circ", ""),
        ("\\$", ""),
        ("\\%", ""),
        ("%", ""),
        (" .", " 0."),
        ("{.", "{0."),
    ] {
        text = text.replace(from, to);
    }
    if let Some(at) = text.rfind("\\text{ ") {
        text.truncate(at);
    }
    if text.starts_with('.') {
        text.insert(0, '0');
    }
    if let Some((name, value)) = text.split_once('=')
        && name.trim().chars().count() <= 2
        && !value.contains('=')
    {
        text = value.to_string();
    }
    text = braced(&text, "\\sqrt", 1);
    text = text.replace(' ', "");
    text = braced(&text, "\\frac", 2);
    if text == "0.5" {
        return "\\frac{1}{2}".into();
    }
    if let Some((a, b)) = text.split_once('/')
        && [a, b].iter().all(|part| {
            part.strip_prefix('-').unwrap_or(part).bytes().all(|byte| byte.is_ascii_digit()) && !part.is_empty()
        })
    {
        return format!("\\frac{{{a}}}{{{b}}}");
    }
    text
}

/// Puts braces around the `count` one-character arguments that follow `command`.
fn braced(text: &str, command: &str, count: usize) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    let mut rest = text;
    while let Some(at) = rest.find(command) {
        let (before, after) = rest.split_at(at + command.len());
        out.push_str(before);
        rest = after;
        for _ in 0..count {
            let Some(c) = rest.chars().next().filter(|c| c.is_alphanumeric()) else {
                break;
            };
            out.push('{');
            out.push(c);
            out.push('}');
            rest = &rest[c.len_utf8()..];
        }
    }
    out.push_str(rest);
    out
}

/// The rules of the Minerva paper, appendix D: the part after the last `=`, units and text off.
fn minerva(text: &str) -> String {
    let last = text.rsplit('=').next().unwrap_or(text);
    let mut text = last.replace(" and ", ",").replace("an ", "").replace("a ", "");
    for word in [
        "square",
        "ways",
        "integers",
        "dollars",
        "mph",
        "inches",
        "hours",
        "km",
        "units",
        "\\ldots",
        "points",
        "feet",
        "minutes",
        "digits",
        "cents",
        "degrees",
        "cm",
        "gm",
        "pounds",
        "meters",
        "meals",
        "edges",
        "students",
        "childrentickets",
        "multiples",
        "\\text{s}",
        "\\text{.}",
        "\\text{\ns}",
        "\\text{}^2",
        "\\text{}^3",
        "\\text{\n}",
        "\\text{}",
        "\\mathrm{th}",
        "^\\circ",
        "^{\\circ}",
        "\\;",
        ",\\!",
        "{,}",
        "\"",
        "\\dots",
        "\\$",
        "$",
        "\\%",
        "%",
        "\\!",
        "\\left",
        "\\right",
    ] {
        text = text.replace(word, "");
    }
    for layout in ["\\text", "\\textbf", "\\overline", "\\boxed"] {
        while let Some(at) = text.find(&format!("{layout}{{")) {
            let start = at + layout.len() + 1;
            let Some(length) = text[start..].find('}') else {
                break;
            };
            let inner = text[start..start + length].to_string();
            text.replace_range(at..start + length + 1, &inner);
        }
    }
    let text = text.replace("tfrac", "frac").replace("dfrac", "frac").replace(' ', "");
    let text = braced(&braced(&text, "\\frac", 2), "\\sqrt", 1);
    let digits = text.replace(',', "");
    if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) { digits } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn right(mode: Mode, gold: &str, completion: &str) -> bool {
        is_correct(mode, gold, completion, &GradeConfig::default())
    }

    #[test]
    fn each_mode_takes_and_refuses() {
        for (mode, gold, yes, no) in [
            (Mode::Primary, "1/2", r"\boxed{0.5}", r"\boxed{0.4}"),
            (Mode::Exact, "18", " 18 ", r"\boxed{18}"),
            (Mode::Hendrycks, r"\frac{1}{2}", r"\boxed{\dfrac12}", r"\boxed{\frac{2}{4}}"),
            (
                Mode::Minerva,
                "18",
                "Final Answer: The final answer is $x=18$ inches. I hope it is correct.",
                r"\boxed{18}",
            ),
            (Mode::Gsm8kStrict, "1,234", "so\n#### 1,234", "so 1,234"),
            (Mode::Gsm8kFlexible, "#### 1,234", "so it is $1,234.", "so it is 1,235"),
            (Mode::Dapo, "18", "thus\nAnswer: $18$", r"\boxed{18}"),
            (Mode::MathVerify, r"\frac{1}{3}", r"\boxed{0.333333}", r"\boxed{0.3}"),
        ] {
            assert!(right(mode, gold, yes), "{mode:?} refuses {yes}");
            assert!(!right(mode, gold, no), "{mode:?} takes {no}");
        }
    }
}
