//! What is wrong with a config: every problem with its place, its excerpt and its fix.

use std::fmt;
use std::ops::Range;

/// A config that was refused, with all that is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// Name of the file, as the person gave it.
    pub file: String,
    /// The problems, in the order of the file.
    pub problems: Vec<Problem>,
}

/// Something that a command or a config asks for and that cannot be had, found where what it names is looked at.
///
/// A person can put it right, so the program ends with the status of wrong usage.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The key of the config that is wrong, as in `data.train`; `None` where it is the command.
    pub key: Option<String>,
    /// What is wrong, in one line with the fix where it is known.
    pub message: String,
}

impl Refusal {
    /// A command that cannot be done.
    pub fn command(message: impl Into<String>) -> Self {
        Self { key: None, message: message.into() }
    }

    /// A key of the config whose value cannot be used.
    pub fn key(key: impl Into<String>, message: impl Into<String>) -> Self {
        Self { key: Some(key.into()), message: message.into() }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong, in one line with the fix where it is known.
    pub message: String,
    /// What else helps: the choices, the expected type.
    pub help: Option<String>,
    /// Where.
    pub place: Place,
}

/// Where a problem is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In the file.
    File(Excerpt),
    /// In this `--set` argument.
    Set(String),
    /// In what is not there, or in the file as a whole.
    Whole,
}

/// A piece of a line, to be underlined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Excerpt {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// Text of the line.
    pub text: String,
    /// Characters to underline, at least 1.
    pub width: usize,
}

impl Excerpt {
    /// The first line of a byte range of a text.
    pub fn new(text: &str, span: &Range<usize>) -> Self {
        let start = floor_boundary(text, span.start);
        let end = floor_boundary(text, span.end.max(start));
        let head = &text[..start];
        let line_start = head.rfind('\n').map_or(0, |i| i + 1);
        let line = text[line_start..].lines().next().unwrap_or("");
        let column = text[line_start..start].chars().count() + 1;
        let rest = line.chars().count().saturating_sub(column - 1);
        let width = text[start..end].chars().take_while(|&c| c != '\n' && c != '\r').count().min(rest).max(1);
        Self { line: head.matches('\n').count() + 1, column, text: line.into(), width }
    }
}

/// The last character boundary at or before `index`.
fn floor_boundary(text: &str, index: usize) -> usize {
    (0..=index.min(text.len())).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0)
}

impl std::error::Error for Error {}

/// `error: <message>`, then the place, the line and its underlining, for each problem.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            if i > 0 {
                writeln!(f, "\n")?;
            }
            problem.write(&self.file, f)?;
        }
        Ok(())
    }
}

impl Problem {
    fn write(&self, file: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.message)?;
        let mut gutter = 0;
        match &self.place {
            Place::Whole => write!(f, "\n --> {file}")?,
            Place::Set(set) => write!(f, "\n --> --set {set}")?,
            Place::File(at) => {
                let number = at.line.to_string();
                gutter = number.len();
                // Tabs are kept before the underline, so that it stands under its text.
                let indent: String =
                    at.text.chars().take(at.column - 1).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
                write!(f, "\n{:gutter$}--> {file}:{}:{}", "", at.line, at.column)?;
                write!(f, "\n{number} | {}", at.text)?;
                write!(f, "\n{:gutter$} | {indent}{}", "", "^".repeat(at.width))?;
            }
        }
        if let Some(help) = &self.help {
            write!(f, "\n{:gutter$} = {help}", "")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_counts_characters_and_stops_at_the_line_end() {
        let text = "a = 1\n\té = \"x\ny\"\r\n";
        let start = text.find('"').unwrap();
        let at = Excerpt::new(text, &(start..text.len()));
        assert_eq!(at, Excerpt { line: 2, column: 6, text: "\té = \"x".into(), width: 2 });
        // A range that starts inside a character, or past the end, is moved and not a panic.
        assert_eq!(Excerpt::new("é", &(1..2)).column, 1);
        assert_eq!(Excerpt::new("x", &(7..9)).width, 1);
    }
}
