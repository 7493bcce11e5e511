//! Numbers in running text.

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
        // `5,14,20`: what follows a digit and a comma is an item of a list, not a decimal or a group of thousands.
        let is_item =
            text[..start].strip_suffix(',').is_some_and(|before| before.ends_with(|c: char| c.is_ascii_digit()));
        let end = start + number_of(&text[start..], is_item).map_or(digit + 1 - start, str::len);
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
pub(super) fn leading_number(text: &str) -> Option<&str> {
    number_of(text, false)
}

/// [`leading_number`], where commas separate items of a list if `is_item`.
fn number_of(text: &str, is_item: bool) -> Option<&str> {
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
    let whole = at;
    if at - first <= 3 && at > first && !is_item {
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
    // A decimal comma, unless commas before or after it say that this is a list.
    let decimals = digits(at + 1);
    let goes_on = bytes.get(decimals) == Some(&b',') && is_digit(decimals + 1);
    let is_list = is_item || goes_on || text[whole..at].contains(',');
    if bytes.get(at) == Some(&b',') && is_digit(at + 1) && decimals - at != 4 && !is_list {
        at = decimals;
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
