//! Numbers as tokens: thousands in the marks of several countries, decimals, scientific notation.

use super::token::{Commas, Reader, Tok, Token};

impl Reader {
    pub(super) fn read_number(&mut self, rest: &str) -> usize {
        let bytes: Vec<char> = rest.chars().collect();
        let digits = |mut at: usize| {
            while at < bytes.len() && is_digit(bytes[at]) {
                at += 1;
            }
            at
        };
        let mut number = String::new();
        let mut at = digits(0);
        number.extend(bytes[..at].iter().map(|c| ascii_digit(*c)));
        let mut has_groups = false;
        if let Some(end) = pointed_groups(&bytes, at).filter(|_| (1..=3).contains(&at) && !number.starts_with('0')) {
            number.extend(bytes[at..end].iter().filter(|c| is_digit(**c)).map(|c| ascii_digit(*c)));
            at = end;
        }
        let is_one_number = has_nought_group(&bytes[at..]);
        // `\log_2 128`: the digits of a bare script end at the space.
        let is_script = matches!(self.out.list.last(), Some(Token { tok: Tok::Ch('_' | '^'), .. }));
        while (1..=3).contains(&number.len()) || has_groups {
            let Some((group, is_plain)) = group_mark(&bytes, at).filter(|_| !is_script) else {
                break;
            };
            if digits(group) != group + 3 {
                break;
            }
            if is_plain {
                let fits = number != "0" && !number.starts_with('0');
                if self.depth > 0 || !fits {
                    break;
                }
                if !is_one_number {
                    self.out.is_comma_ambiguous = true;
                    if self.commas == Commas::List {
                        break;
                    }
                }
            }
            number.extend(bytes[group..group + 3].iter().map(|c| ascii_digit(*c)));
            at = group + 3;
            has_groups = true;
        }
        let braced_point = bytes[at..].starts_with(&['{', '.', '}']) && digits(at + 3) > at + 3;
        if braced_point {
            let end = digits(at + 3);
            number.push('.');
            number.extend(bytes[at + 3..end].iter().map(|c| ascii_digit(*c)));
            at = end;
        } else if bytes.get(at) == Some(&'.') && (bytes.get(at + 1) != Some(&'.')) {
            let end = digits(at + 1);
            let is_overlined = bytes.get(at + 1) == Some(&'\\');
            if end > at + 1 || at > 0 || is_overlined {
                number.push('.');
                number.extend(bytes[at + 1..end].iter().map(|c| ascii_digit(*c)));
                at = end;
                // Groups of three after the point: `3.141\,592`.
                while let Some((group, false)) = group_mark(&bytes, at).filter(|_| number.len() > 3) {
                    if bytes.get(at) != Some(&'\\') || digits(group) < group + 3 {
                        break;
                    }
                    let end = digits(group);
                    number.extend(bytes[group..end].iter().map(|c| ascii_digit(*c)));
                    at = end;
                }
            }
        }
        let mut used: usize = bytes[..at].iter().map(|c| c.len_utf8()).sum();
        self.push(Tok::Num(number));
        // Scientific notation: 1.5e3.
        if matches!(bytes.get(at), Some('e' | 'E')) {
            let sign = usize::from(matches!(bytes.get(at + 1), Some('-' | '+')));
            let end = digits(at + 1 + sign);
            let is_exponent =
                end > at + 1 + sign && !matches!(bytes.get(end), Some(c) if c.is_ascii_alphabetic() || *c == '_');
            if is_exponent {
                self.command("cdot");
                self.push(Tok::Num("10".into()));
                let exponent: String = bytes[at + 1..end].iter().filter(|c| **c != '+').collect();
                self.power(&exponent);
                used += bytes[at..end].iter().map(|c| c.len_utf8()).sum::<usize>();
            }
        }
        used
    }
}

/// Whether one of the groups `,234,048` that start `text` begins with a nought: no item of a list does.
fn has_nought_group(text: &[char]) -> bool {
    text.chunks(4)
        .take_while(|group| group.len() == 4 && group[0] == ',' && group[1..].iter().all(|c| is_digit(*c)))
        .any(|group| group[1] == '0')
}

/// The marks that may stand between groups of three digits: where the group starts, and whether the
/// mark is a plain comma.
fn group_mark(text: &[char], at: usize) -> Option<(usize, bool)> {
    // Nearly every number ends here, before any mark is tried.
    let first = *text.get(at)?;
    if !"{,\\~’'， \u{a0}\u{202f}\u{2009}".contains(first) {
        return None;
    }
    let has = |mark: &str| mark.chars().enumerate().all(|(offset, c)| text.get(at + offset) == Some(&c));
    for mark in ["{,}", ",\\! ", ",\\!", "\\,", "\\ ", "{\\,}", "\\;", "\\:", "~", "’", "'"] {
        if has(mark) {
            return Some((at + mark.chars().count(), false));
        }
    }
    match first {
        ',' | '，' => Some((at + 1, true)),
        ' ' | '\u{a0}' | '\u{202f}' | '\u{2009}' => Some((at + 1, false)),
        _ => None,
    }
}

/// A plain or full-width digit.
pub(super) fn is_digit(c: char) -> bool {
    c.is_ascii_digit() || ('０'..='９').contains(&c)
}

/// A full-width digit as the plain one.
fn ascii_digit(c: char) -> char {
    if ('０'..='９').contains(&c) { char::from(b'0' + (c as u32 - '０' as u32) as u8) } else { c }
}

/// Where two or more groups `.234.567` end: no number has two decimal points, so they are thousands. A single
/// one is a decimal part.
fn pointed_groups(text: &[char], start: usize) -> Option<usize> {
    let mut at = start;
    let mut groups = 0;
    loop {
        let after = match &text[at..] {
            ['{', '.', '}', ..] => at + 3,
            ['.', ..] => at + 1,
            _ => break,
        };
        let digits = text[after..].iter().take_while(|c| is_digit(**c)).count();
        if digits == 0 {
            break;
        }
        if digits != 3 {
            return None;
        }
        at = after + 3;
        groups += 1;
    }
    (groups >= 2).then_some(at)
}
