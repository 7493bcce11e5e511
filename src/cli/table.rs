//! Text in columns and paragraphs, as wide as the terminal.

/// Columns to write into: the terminal's, or 100 where there is none.
pub(crate) fn width() -> usize {
    let term = console::Term::stdout();
    if term.is_term() { usize::from(term.size().1).clamp(40, 120) } else { 100 }
}

/// A paragraph broken into lines of at most `width` columns; words are never cut.
pub(crate) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("there is always a line");
        if !line.is_empty() && console::measure_text_width(line) + 1 + console::measure_text_width(word) > width {
            lines.push(word.to_owned());
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

/// Rows in aligned columns two spaces apart; the last column is wrapped under itself.
pub(crate) fn columns(rows: &[Vec<String>], indent: usize) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widest = |column: usize| {
        rows.iter()
            .filter(|r| r.len() > 1)
            .filter_map(|r| r.get(column))
            .map(|c| console::measure_text_width(c))
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..count.saturating_sub(1)).map(widest).collect();
    let start = indent + widths.iter().map(|w| w + 2).sum::<usize>();
    let mut text = String::new();
    for row in rows {
        let mut line = " ".repeat(indent);
        let (last, cells) = row.split_last().map_or(("", &[][..]), |(last, cells)| (last.as_str(), cells));
        for (cell, width) in cells.iter().zip(&widths) {
            line.push_str(cell);
            line.push_str(&" ".repeat(width + 2 - console::measure_text_width(cell).min(*width)));
        }
        let wrapped = wrap(last, width().saturating_sub(start).max(24));
        line.push_str(&wrapped[0]);
        text.push_str(line.trim_end());
        text.push('\n');
        for more in &wrapped[1..] {
            text.push_str(&" ".repeat(start));
            text.push_str(more);
            text.push('\n');
        }
    }
    text
}
