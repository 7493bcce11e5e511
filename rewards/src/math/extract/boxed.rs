//! Boxes: `\boxed{...}` and `\fbox{...}`, closed or running to the end of their line.

use std::collections::VecDeque;

use super::Extraction;

/// Boxes kept, counted from the last.
const KEPT_BOXES: usize = 64;

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
pub(super) fn boxed_answers(text: &str, how: &Extraction, gold_parts: usize) -> Vec<String> {
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
            // More boxes than the gold has parts, with separators alone between them, are a longer list.
            let allowed = if parts.len() < gold_parts { 10 } else { 0 };
            if found.end > start || !is_close(&text[found.end..start], allowed) {
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

/// Whether only separators and at most `allowed` other characters stand between two boxes.
fn is_close(between: &str, allowed: usize) -> bool {
    if between.len() > 200 {
        return false;
    }
    let mut rest = between.to_string();
    for mark in ["\\text", "\\quad", "\\qquad", "\\(", "\\)", "\\[", "\\]", "and", "or"] {
        rest = rest.replace(mark, "");
    }
    let others = rest.chars().filter(|c| !c.is_whitespace() && !",;${}\\.".contains(*c)).count();
    others <= allowed
}
