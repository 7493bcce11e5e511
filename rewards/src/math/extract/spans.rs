//! LaTeX spans in running text.

use super::numbers::last_number;

/// The LaTeX span that starts `text`: its content, and where it ends.
pub(super) fn span_at(text: &str) -> Option<(&str, usize)> {
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
pub(super) fn unanchored(text: &str) -> Option<String> {
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
