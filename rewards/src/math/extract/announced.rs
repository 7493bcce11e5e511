//! Announced answers: `the answer is X`, `Answer: X`, `#### X`.

use super::numbers::leading_number;
use super::spans::{span_at, unanchored};

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
const VALUE_WORDS: [&str; 25] = [
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
    "choose",
];
/// Words before a number that make it a bound or one of several.
const BOUNDS: [&str; 16] = [
    "at least",
    "at most",
    "more than",
    "less than",
    "fewer than",
    "greater than",
    "no more",
    "between",
    "not ",
    "one of",
    "either",
    "any of",
    "among",
    "in the range",
    "in the interval",
    "from ",
];

/// The rightmost anchored answer: `final answer is X`, `answer: X`, `answer is X`, `#### X`.
pub(super) fn anchored(text: &str) -> Option<String> {
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
        if lists_numbers(line) {
            return Some(line.trim_end_matches('.').to_string());
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

/// Whether a line ends in numbers to choose from: `probably 7 or 8`.
fn lists_numbers(line: &str) -> bool {
    let is_number =
        |word: &&str| word.trim_matches([',', '.', '$', '*', '(', ')']).parse::<f64>().is_ok_and(f64::is_finite);
    let words: Vec<&str> = line.split_whitespace().collect();
    let Some(last) = words.iter().rposition(is_number) else { return false };
    match words[..last] {
        [.., before, "or" | "and"] => is_number(&before),
        [.., before] => before.ends_with(',') && is_number(&before),
        [] => false,
    }
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

/// What stands between the last `final answer is` and `. I hope`.
pub fn minerva(text: &str) -> Option<String> {
    let lower = text.to_ascii_lowercase();
    let start = lower.rfind("final answer is")? + "final answer is".len();
    let end = lower[start..].find("i hope").map_or(text.len(), |at| start + at);
    let answer = text[start..end].trim().trim_end_matches('.').trim();
    (!answer.is_empty()).then(|| answer.to_string())
}
