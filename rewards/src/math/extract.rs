//! From a completion to the string that holds its final answer.
//!
//! Every function here scans the text a bounded number of times from left to right and keeps a
//! bounded number of findings, so a megabyte of braces costs milliseconds. Nothing is parsed as
//! mathematics yet.

use std::collections::VecDeque;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How far back from the end the text is searched for anything but boxes, in bytes.
const SEARCHED_BYTES: usize = 64 * 1024;
/// Boxes kept, counted from the last.
const KEPT_BOXES: usize = 64;

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

/// A box in the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundBox<'a> {
    /// What stands between its braces.
    pub content: &'a str,
    /// Where the command starts, in bytes.
    pub start: usize,
    /// Where its closing brace ends.
    pub end: usize,
    /// Whether it has a closing brace.
    pub is_closed: bool,
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

/// The last box that is not empty: closed, or running to the end of its line.
pub fn last_box(text: &str) -> Option<FoundBox<'_>> {
    boxes(text).pop()
}

/// The last boxes that are not empty, in the order of their ends; an unclosed one only at the end.
pub fn boxes(text: &str) -> Vec<FoundBox<'_>> {
    let bytes = text.as_bytes();
    let mut found: VecDeque<FoundBox<'_>> = VecDeque::new();
    let mut open: VecDeque<(usize, usize, usize)> = VecDeque::new(); // command, content, depth outside
    let mut depth = 0usize;
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => {
                let name = ["\\boxed", "\\fbox"].into_iter().find(|name| bytes[at..].starts_with(name.as_bytes()));
                let Some(name) = name else {
                    // A doubled backslash before the command is an escaped text, not a line break.
                    let doubled = bytes[at..].starts_with(b"\\\\boxed") || bytes[at..].starts_with(b"\\\\fbox");
                    at += if doubled { 1 } else { 2 };
                    continue;
                };
                let after = at + name.len();
                let content = after + bytes[after..].iter().take_while(|byte| byte.is_ascii_whitespace()).count();
                match bytes.get(content) {
                    Some(b'{') => {
                        if open.len() == KEPT_BOXES * 4 {
                            open.pop_front();
                        }
                        open.push_back((at, content + 1, depth));
                        depth += 1;
                        at = content + 1;
                    }
                    Some(_) if content > after => {
                        // `\boxed 18`: the next token.
                        let rest = &text[content..];
                        let end = rest.find(|c: char| c.is_whitespace() || c == '$').unwrap_or(rest.len());
                        let token = rest[..end].trim_end_matches(['.', ',', ';']);
                        if token.starts_with(|c: char| c.is_ascii_digit() || "-+.\\(".contains(c)) {
                            push_kept(
                                &mut found,
                                FoundBox { content: token, start: at, end: content + token.len(), is_closed: true },
                            );
                        }
                        at = content;
                    }
                    _ => at = after,
                }
            }
            b'{' => {
                depth += 1;
                at += 1;
            }
            b'}' => {
                depth = depth.saturating_sub(1);
                if open.back().is_some_and(|&(_, _, outside)| outside == depth) {
                    let (start, content, _) = open.pop_back().expect("the back was just seen");
                    let content = &text[content..at];
                    if !content.trim().is_empty() {
                        push_kept(&mut found, FoundBox { content, start, end: at + 1, is_closed: true });
                    }
                }
                at += 1;
            }
            _ => at += 1,
        }
    }
    if let Some(&(start, content, _)) = open.back()
        && found.back().is_none_or(|last| last.start < start)
    {
        let rest = &text[content..];
        let line = rest.lines().next().unwrap_or("");
        let line = line.trim().trim_end_matches(['$', '.', '*']).trim_end_matches("\\)").trim_end_matches("\\]").trim();
        if !line.is_empty() {
            push_kept(
                &mut found,
                FoundBox {
                    content: line,
                    start,
                    end: content + rest.lines().next().map_or(0, str::len),
                    is_closed: false,
                },
            );
        }
    }
    found.into()
}

fn push_kept<'a>(found: &mut VecDeque<FoundBox<'a>>, item: FoundBox<'a>) {
    if found.len() == KEPT_BOXES {
        found.pop_front();
    }
    found.push_back(item);
}

/// The last box, and, for a gold of several parts, the last boxes that stand close together, joined.
fn boxed_answers(text: &str, how: &Extraction, gold_parts: usize) -> Vec<String> {
    let mut boxes = boxes(text);
    if !how.allow_unclosed_box {
        boxes.retain(|found| found.is_closed);
    }
    let Some(last) = boxes.last() else {
        return Vec::new();
    };
    let mut answers = vec![unbold(last.content.trim()).to_string()];
    if gold_parts >= 2 {
        let mut parts = vec![last.content.trim()];
        let mut start = last.start;
        for found in boxes.iter().rev().skip(1) {
            if parts.len() == gold_parts || found.end > start || !is_close(&text[found.end..start]) {
                break;
            }
            parts.push(found.content.trim());
            start = found.start;
        }
        if parts.len() >= 2 {
            parts.reverse();
            answers.push(parts.join(" , "));
        }
    }
    answers
}

/// Without the stars of bold text.
fn unbold(text: &str) -> &str {
    let inner = text.strip_prefix("**").and_then(|rest| rest.strip_suffix("**"));
    inner.map_or(text, str::trim)
}

/// The answer of a gold that is a worked solution: its last box, with the boxes close before it.
pub(crate) fn boxed_gold(gold: &str) -> Option<String> {
    boxed_answers(gold, &Extraction::default(), KEPT_BOXES).pop()
}

/// Whether only separators and at most ten other characters stand between two boxes.
fn is_close(between: &str) -> bool {
    if between.len() > 200 {
        return false;
    }
    let mut rest = between.to_string();
    for mark in ["\\text", "\\quad", "\\qquad", "\\(", "\\)", "\\[", "\\]", "and", "or"] {
        rest = rest.replace(mark, "");
    }
    let others = rest.chars().filter(|c| !c.is_whitespace() && !",;${}\\.".contains(*c)).count();
    others <= 10
}

const ANCHORS: [&str; 8] = [
    "final answer is",
    "final answer",
    "answer is",
    "answer:",
    "answer :",
    "answers are",
    "correct choice is",
    "correct option is",
];
/// Words that change the value of the number before them.
const VALUE_WORDS: [&str; 24] = [
    "hundred",
    "thousand",
    "million",
    "billion",
    "trillion",
    "dozen",
    "half",
    "halves",
    "third",
    "thirds",
    "fourths",
    "quarters",
    "fifths",
    "sixths",
    "eighths",
    "tenths",
    "pi",
    "to",
    "squared",
    "cubed",
    "times",
    "plus",
    "minus",
    "factorial",
];
/// Words before a number that make it a bound.
const BOUNDS: [&str; 9] =
    ["at least", "at most", "more than", "less than", "fewer than", "greater than", "no more", "between", "not "];

/// The rightmost anchored answer: `final answer is X`, `answer: X`, `answer is X`, `#### X`.
fn anchored(text: &str) -> Option<String> {
    let lower = text.to_ascii_lowercase();
    let mut anchors: Vec<(usize, usize)> = Vec::new(); // start, end of the anchor
    for anchor in ANCHORS {
        anchors.extend(last_matches(&lower, anchor).into_iter().map(|at| (at, at + anchor.len())));
    }
    anchors.extend(last_matches(&lower, "answer:**").into_iter().map(|at| (at, at + 9)));
    anchors.extend(last_matches(&lower, "answer**:").into_iter().map(|at| (at, at + 9)));
    anchors.extend(last_matches(&lower, "####").into_iter().map(|at| (at, at + 4)));
    anchors.sort_by_key(|&(start, end)| (end, usize::MAX - start));
    anchors.into_iter().rev().find_map(|(_, end)| answer_after(&text[end..]))
}

/// The last eight places of `needle`, found in one scan from the right.
fn last_matches(text: &str, needle: &str) -> Vec<usize> {
    text.rmatch_indices(needle).map(|(at, _)| at).take(8).collect()
}

/// The answer that follows an anchor.
fn answer_after(rest: &str) -> Option<String> {
    let mut rest = rest.trim_start_matches(|c: char| c.is_whitespace() || "*_:=".contains(c));
    for word in ["is", "therefore", "thus", "approximately", "about", "simply", "equal to", "given by", "also"] {
        if let Some(after) = rest.strip_prefix(word).filter(|after| after.starts_with([' ', ':', '\n'])) {
            rest = after.trim_start_matches(|c: char| c.is_whitespace() || "*_:=".contains(c));
        }
    }
    if let Some((content, _)) = span_at(rest) {
        return Some(with_list_tail(rest, content));
    }
    let line = rest.lines().next().unwrap_or("");
    let line = line.split("I hope").next().unwrap_or("").trim();
    let line = line.trim_end_matches(['*', '_']).trim_end();
    if line.is_empty() {
        return None;
    }
    if let Some(number) = leading_number(line) {
        let expression = leading_expression(line);
        return Some(if expression.len() > number.len() { expression } else { number }.to_string());
    }
    let has_prose =
        line.split_whitespace().filter(|word| word.len() >= 2 && word.chars().all(char::is_alphabetic)).count() >= 2;
    if has_prose {
        let lower = line.to_lowercase();
        if BOUNDS.iter().any(|bound| lower.starts_with(bound)) {
            return Some(line.trim_end_matches('.').to_string());
        }
        let expression = leading_expression(line);
        let names = line[expression.len()..].trim_start();
        if !expression.is_empty() && !names.starts_with("is ") && !names.starts_with("are ") {
            return Some(expression.to_string());
        }
        let after_is = line.rfind(" is ").map(|at| &line[at + 4..]);
        if let Some(found) = after_is.and_then(|rest| {
            span_at(rest.trim_start())
                .map(|(content, _)| content.to_string())
                .or_else(|| leading_number(rest.trim_start()).map(str::to_string))
        }) {
            return Some(found);
        }
        if let Some(found) = unanchored(line) {
            return Some(found);
        }
    }
    let sentence = line.strip_suffix('.').unwrap_or(line).trim();
    (!sentence.is_empty() && sentence.chars().count() <= 200).then(|| sentence.to_string())
}

/// The formula or list of numbers that starts a line of plain text: what stands before the first word
/// of prose, or before the sentence ends. A number alone would hide that `1/2 + 1/3` or `3 or 4` follows.
fn leading_expression(line: &str) -> &str {
    let (mut end, mut at) = (0, 0);
    let mut words = line.split_whitespace().peekable();
    while let Some(word) = words.next() {
        let start = at + line[at..].find(word).unwrap_or(0);
        at = start + word.len();
        let core = word.trim_end_matches([',', '.', ';', '*', '_', '!', '?', ':']);
        let core = if core.is_empty() { word } else { core };
        let is_operator = !core.is_empty() && core.chars().all(|c| "+-*/^=<>|×·÷−±≤≥≠".contains(c));
        let is_article =
            core == "A" && word == core && words.peek().is_some_and(|next| !["because", "since", "as"].contains(next));
        let is_letter =
            core.len() == 1 && core.starts_with(|c: char| c.is_ascii_alphabetic() && !"aI".contains(c)) && !is_article;
        let is_value_word = end > 0 && VALUE_WORDS.contains(&core);
        let has_value = core.contains(|c: char| c.is_ascii_digit()) || core.starts_with('\\');
        let is_remark = end > 0 && core.starts_with(['(', '[']);
        let goes_on =
            words.peek().is_some_and(|next| next.starts_with(|c: char| c.is_ascii_digit() || "-\\(".contains(c)));
        if core == "and" || core == "or" {
            let is_bound = words
                .peek()
                .is_some_and(|next| ["more", "less", "fewer", "greater"].contains(&next.trim_end_matches('.')));
            if core == "or" && is_bound && end > 0 {
                return line.trim_end_matches('.');
            }
            if goes_on {
                continue;
            }
            break;
        }
        if is_remark || !(is_operator || is_letter || has_value || is_value_word) {
            break;
        }
        if !is_operator {
            end = start + core.len();
        }
        if core.len() < word.len() && !(word.ends_with([',', ';']) && goes_on) {
            break;
        }
    }
    line[..end].trim()
}

/// `$3$, $5$ and $7$`: further spans that continue the list are part of the answer.
fn with_list_tail(rest: &str, first: &str) -> String {
    let mut answer = first.to_string();
    let mut at = match span_at(rest) {
        Some((_, end)) => end,
        None => return answer,
    };
    for _ in 0..64 {
        let tail = &rest[at..];
        let separator = tail.find('$').unwrap_or(tail.len());
        let between = &tail[..separator];
        let is_list = [",", "and", ", and", "or", ";", ", or", "\\text{and}"].contains(&between.trim());
        match span_at(&tail[separator..]) {
            Some((content, end)) if is_list => {
                answer.push_str(" , ");
                answer.push_str(content);
                at += separator + end;
            }
            _ => break,
        }
    }
    answer
}

/// The LaTeX span that starts `text`: its content, and where it ends.
fn span_at(text: &str) -> Option<(&str, usize)> {
    for (open, close, crosses_lines) in
        [("$$", "$$", true), ("\\[", "\\]", true), ("\\(", "\\)", false), ("$", "$", false)]
    {
        if let Some(rest) = text.strip_prefix(open) {
            let end = find_unescaped(rest, close)?;
            let content = &rest[..end];
            if content.trim().is_empty()
                || (!crosses_lines && content.contains('\n'))
                || (open == "$" && is_prose(content))
            {
                return None;
            }
            return Some((content, open.len() + end + close.len()));
        }
    }
    None
}

fn find_unescaped(text: &str, mark: &str) -> Option<usize> {
    text.match_indices(mark).map(|(at, _)| at).find(|&at| mark.starts_with('\\') || !text[..at].ends_with('\\'))
}

/// Whether what stands between two dollar signs is a sentence between two prices.
fn is_prose(content: &str) -> bool {
    let words = content
        .split_whitespace()
        .filter(|word| word.len() >= 3 && word.chars().all(|c| c.is_ascii_alphabetic()))
        .count();
    content.ends_with(char::is_whitespace) && words >= 1 || words >= 3 && !content.contains("\\text")
}

/// The last LaTeX span that holds an answer, else the last number.
fn unanchored(text: &str) -> Option<String> {
    last_span(text).or_else(|| last_number(text)).map(str::to_string)
}

/// The last LaTeX span of `text`. Inline spans do not cross a line's end.
fn last_span(text: &str) -> Option<&str> {
    let bytes = text.as_bytes();
    let mut last = None;
    let mut at = 0;
    // A span that is never closed would be searched for again from each of its marks.
    let (mut has_bracket, mut has_paren, mut has_double) = (true, true, true);
    while at < bytes.len() {
        let rest = &text[at..];
        let line_end = |from: &str| from.find('\n').unwrap_or(from.len());
        let step = match bytes[at] {
            b'$' if rest.starts_with("$$") && has_double => match rest[2..].find("$$") {
                Some(end) => {
                    last = Some(&rest[2..2 + end]).filter(|span| !span.trim().is_empty()).or(last);
                    end + 4
                }
                None => {
                    has_double = false;
                    2
                }
            },
            b'$' => {
                let inner = &rest[1..1 + line_end(&rest[1..]).min(4096).min(rest.len() - 1)];
                let inner = if rest.is_char_boundary(1 + inner.len()) { inner } else { "" };
                match find_unescaped(inner, "$") {
                    Some(end) if !inner[..end].trim().is_empty() && !is_prose(&inner[..end]) => {
                        last = Some(&inner[..end]);
                        end + 2
                    }
                    _ => 1,
                }
            }
            b'\\' if rest.starts_with("\\[") && has_bracket => match rest.find("\\]") {
                Some(end) => {
                    last = Some(&rest[2..end]).filter(|span| !span.trim().is_empty()).or(last);
                    end + 2
                }
                None => {
                    has_bracket = false;
                    2
                }
            },
            b'\\' if rest.starts_with("\\(") && has_paren => match rest.find("\\)") {
                Some(end) => {
                    if !rest[2..end].contains('\n') {
                        last = Some(&rest[2..end]).filter(|span| !span.trim().is_empty()).or(last);
                    }
                    end + 2
                }
                None => {
                    has_paren = false;
                    2
                }
            },
            b'\\' => 1 + rest[1..].chars().next().map_or(0, char::len_utf8),
            _ => 1,
        };
        at += step;
        while at < bytes.len() && !text.is_char_boundary(at) {
            at += 1;
        }
    }
    last
}

/// The last number of `text`, with its sign, currency, thousands, fraction, exponent and percent.
pub fn last_number(text: &str) -> Option<&str> {
    let mut last = None;
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        let Some(offset) = rest.find(|c: char| c.is_ascii_digit()) else {
            break;
        };
        let digit = at + offset;
        let start = number_start(text, at, digit);
        let end = start + leading_number(&text[start..]).map_or(digit + 1 - start, str::len);
        let end = end.max(digit + 1);
        last = Some(text[start..end].trim_end());
        at = end;
    }
    last
}

/// Where the number with its first digit at `digit` starts, not before `from`: sign, currency, dot.
fn number_start(text: &str, from: usize, digit: usize) -> usize {
    let mut start = digit;
    let before = |at: usize| text[from..at].chars().next_back();
    if before(start) == Some('.') && !text[from..start - 1].ends_with(|c: char| c.is_alphanumeric()) {
        start -= 1;
    }
    if let Some(currency) = before(start).filter(|c| "$€£¥".contains(*c)) {
        start -= currency.len_utf8();
        if before(start) == Some('\\') {
            start -= 1;
        }
    }
    if let Some(sign) = before(start).filter(|c| "-−".contains(*c)) {
        let outer = start - sign.len_utf8();
        let left = text[..outer].chars().next_back();
        let left_far = text[..outer].trim_end().chars().next_back();
        let is_minus_between = left.is_some_and(|c| c.is_alphanumeric() || ")]}".contains(c))
            || left_far.is_some_and(|c| c.is_ascii_digit() || c == ')') && left != Some(' ');
        if !is_minus_between {
            start = outer;
        }
    }
    start
}

/// The number that starts `text`: sign, currency, digits with thousands, decimals, fraction,
/// exponent, percent. `None` when there is no digit.
fn leading_number(text: &str) -> Option<&str> {
    let bytes = text.as_bytes();
    let mut at = 0;
    let skip = |at: usize, set: &[&str]| {
        set.iter().find(|mark| text[at..].starts_with(**mark)).map_or(at, |mark| at + mark.len())
    };
    at = skip(at, &["-", "+", "−"]);
    at = skip(at, &["\\$", "$", "€", "£", "¥"]);
    at = skip(at, &["-", "−"]);
    let is_digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
    let digits = |mut at: usize| {
        while is_digit(at) {
            at += 1;
        }
        at
    };
    let first = at;
    at = digits(at);
    if at == first && !(bytes.get(at) == Some(&b'.') && is_digit(at + 1)) {
        return None;
    }
    if at - first <= 3 && at > first {
        loop {
            let group = ["{,}", ",\\!", "\\,", ",", "\u{202f}", "\u{a0}", " "]
                .iter()
                .find(|mark| text[at..].starts_with(**mark))
                .map(|mark| at + mark.len())
                .filter(|&group| digits(group) == group + 3);
            match group {
                Some(group) => at = group + 3,
                None => break,
            }
        }
    }
    if bytes.get(at) == Some(&b',') && is_digit(at + 1) && digits(at + 1) - at != 4 {
        at = digits(at + 1);
    }
    if bytes.get(at) == Some(&b'.') && is_digit(at + 1) {
        at = digits(at + 1);
    }
    if matches!(bytes.get(at), Some(b'e' | b'E')) {
        let exponent = skip(at + 1, &["-", "+"]);
        if is_digit(exponent) {
            at = digits(exponent);
        }
    }
    if bytes.get(at) == Some(&b'/') && is_digit(at + 1) {
        at = digits(at + 1);
    }
    let spaced = at + bytes[at..].iter().take(1).filter(|byte| **byte == b' ').count();
    for mark in ["\\%", "%", "percent", "pct"] {
        if text[at..].starts_with(mark) {
            at += mark.len();
            break;
        }
        if text[spaced..].starts_with(mark) {
            at = spaced + mark.len();
            break;
        }
    }
    Some(&text[..at])
}

/// `#### ` and a number: an optional minus, digits, dots and commas; commas are dropped.
pub fn gsm8k_strict(text: &str) -> Option<String> {
    let (at, mark) = text.rmatch_indices("#### ").next()?;
    let rest = &text[at + mark.len()..];
    let end = rest
        .char_indices()
        .find(|&(at, c)| !(c.is_ascii_digit() || c == '.' || c == ',' || (c == '-' && at == 0)))
        .map_or(rest.len(), |(at, _)| at);
    let number: String = rest[..end].chars().filter(|c| *c != ',').collect();
    let number = number.trim_end_matches('.');
    number.contains(|c: char| c.is_ascii_digit()).then(|| number.to_string())
}

/// The last run that looks like a number: `-?[$0-9.,]{2,}` or `-?[0-9]+`; `$`, `,` and a final dot
/// are dropped.
pub fn gsm8k_flexible(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let is_run = |byte: u8| byte.is_ascii_digit() || b"$.,".contains(&byte);
    let mut last = None;
    let mut at = 0;
    while at < bytes.len() {
        if !is_run(bytes[at]) {
            at += 1;
            continue;
        }
        let end = at + bytes[at..].iter().take_while(|byte| is_run(**byte)).count();
        if end - at >= 2 || bytes[at].is_ascii_digit() {
            let start = if at > 0 && bytes[at - 1] == b'-' { at - 1 } else { at };
            last = Some(&text[start..end]);
        }
        at = end;
    }
    let number: String = last?.chars().filter(|c| !",$".contains(*c)).collect();
    let number = number.trim_end_matches('.');
    number.contains(|c: char| c.is_ascii_digit()).then(|| number.to_string())
}

/// What stands between the last `final answer is` and `. I hope`.
pub fn minerva(text: &str) -> Option<String> {
    let lower = text.to_ascii_lowercase();
    let start = lower.rfind("final answer is")? + "final answer is".len();
    let end = lower[start..].find("i hope").map_or(text.len(), |at| start + at);
    let answer = text[start..end].trim().trim_end_matches('.').trim();
    (!answer.is_empty()).then(|| answer.to_string())
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
