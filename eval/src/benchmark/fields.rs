//! Reading fields out of records, with errors that name the record and the fields that would do.

use serde_json::Value;

use crate::{Error, Result};

/// One record with what an error about it needs.
pub(super) struct Record<'a> {
    benchmark: &'a str,
    index: usize,
    value: &'a Value,
}

impl<'a> Record<'a> {
    pub(super) fn new(benchmark: &'a str, value: &'a Value, index: usize) -> Self {
        Self { benchmark, index, value }
    }

    pub(super) fn error(&self, what: impl Into<String>) -> Error {
        Error::Record { benchmark: self.benchmark.to_owned(), line: self.index + 1, what: what.into() }
    }

    /// Text of the first of `names` that is present and not null; numbers are written as they are read.
    pub(super) fn optional(&self, names: &[&str]) -> Result<Option<String>> {
        let Some((name, value)) = self.find(names) else {
            return Ok(None);
        };
        match value {
            Value::String(text) => Ok(Some(text.clone())),
            Value::Number(number) => Ok(Some(plain(number))),
            _ => Err(self.error(format!("field `{name}` is neither text nor a number"))),
        }
    }

    /// As [`Record::optional`], but absent or blank is an error.
    pub(super) fn text(&self, names: &[&str]) -> Result<String> {
        match self.optional(names)? {
            Some(text) if !text.trim().is_empty() => Ok(text.trim().to_owned()),
            Some(_) => Err(self.error(format!("field `{}` is empty", self.find(names).map_or("", |(name, _)| name)))),
            None => Err(self.missing(names)),
        }
    }

    /// None of `names` holds anything: says which is null, or which fields there are instead.
    fn missing(&self, names: &[&str]) -> Error {
        if let Some(name) = names.iter().find(|name| self.value.get(**name).is_some_and(Value::is_null)) {
            return self.error(format!("field `{name}` is null"));
        }
        let mut there: Vec<&str> =
            self.value.as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
        there.sort_unstable();
        let there = if there.is_empty() { "no field at all".to_owned() } else { list(&there, " and ") };
        self.error(format!("no field {}: the record has {there}", list(names, " or ")))
    }

    /// A list of texts, or one text as a list of one.
    pub(super) fn texts(&self, names: &[&str]) -> Result<Vec<String>> {
        let Some((name, value)) = self.find(names) else {
            return Err(self.missing(names));
        };
        let list = match value {
            Value::Array(list) => list.as_slice(),
            one => std::slice::from_ref(one),
        };
        let texts = list
            .iter()
            .map(|value| match value {
                Value::String(text) => Ok(text.trim().to_owned()),
                Value::Number(number) => Ok(plain(number)),
                _ => Err(self.error(format!("field `{name}` holds something that is neither text nor a number"))),
            })
            .collect::<Result<Vec<_>>>()?;
        if texts.iter().all(String::is_empty) {
            return Err(self.error(format!("field `{name}` is empty")));
        }
        Ok(texts)
    }

    pub(super) fn flag(&self, name: &str) -> bool {
        self.value.get(name).and_then(Value::as_bool).unwrap_or(false)
    }

    fn find<'n>(&self, names: &[&'n str]) -> Option<(&'n str, &'a Value)> {
        names.iter().find_map(|&name| match self.value.get(name) {
            None | Some(Value::Null) => None,
            Some(value) => Some((name, value)),
        })
    }

    /// The record's own id under one of `names`, else its place.
    pub(super) fn id(&self, names: &[&str]) -> Result<String> {
        Ok(self.optional(names)?.filter(|id| !id.trim().is_empty()).unwrap_or_else(|| self.index.to_string()))
    }
}

/// A number as a person would write it: `27.0` is `27`.
fn plain(number: &serde_json::Number) -> String {
    match number.as_f64() {
        Some(value) if number.is_f64() && value.fract() == 0.0 && value.abs() < 1e15 => {
            format!("{value:.0}")
        }
        _ => number.to_string(),
    }
}

/// Names as `a`, `b` and `c`.
fn list(names: &[&str], last: &str) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    match names.split_last() {
        Some((name, rest)) if !rest.is_empty() => format!("{}{last}{name}", rest.join(", ")),
        _ => names.concat(),
    }
}

/// Content of the last `\boxed{...}` or `\fbox{...}` with balanced braces, escaped braces not counted.
///
/// Reads reference solutions only; completions are the grader's.
pub(super) fn last_boxed(text: &str) -> Option<&str> {
    let (mut at, mut end) = (None, text.len());
    while at.is_none() {
        let start = text[..end].rfind("\\boxed").max(text[..end].rfind("\\fbox"))?;
        at = braced(&text[start..]);
        end = start;
    }
    at
}

fn braced(text: &str) -> Option<&str> {
    let command = text.strip_prefix("\\boxed").or_else(|| text.strip_prefix("\\fbox"))?;
    let text = command.trim_start().strip_prefix('{').map(|_| command.trim_start())?;
    let (mut depth, mut escaped) = (0usize, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'{' => depth += 1,
            b'}' => {
                depth -= 1;
                if depth == 0 {
                    return Some(text[1..at].trim());
                }
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_last_balanced_box_is_read() {
        assert_eq!(last_boxed(r"so \boxed{3}, or \boxed{\frac{14}{3}}."), Some(r"\frac{14}{3}"));
        assert_eq!(last_boxed(r"\boxed{\{1,2\}}"), Some(r"\{1,2\}"));
        assert_eq!(last_boxed(r"\boxed{7} and \boxed{unclosed"), Some("7"));
        assert_eq!(last_boxed(r"\boxed {5}"), Some("5"));
        assert_eq!(last_boxed(r"\boxed 5 of {6}"), None);
        assert_eq!(last_boxed("none"), None);
        assert_eq!(last_boxed(r"\boxed"), None);
    }

    #[test]
    fn errors_name_the_record_and_the_fields() {
        let record = json!({"question": "1+1?", "answer": null, "n": [1]});
        let record = Record::new("gsm8k", &record, 4);
        assert_eq!(record.text(&["problem", "question"]).unwrap(), "1+1?");
        let missing = record.text(&["gold", "final", "target"]).unwrap_err().to_string();
        assert_eq!(
            missing,
            "gsm8k, record 5: no field `gold`, `final` or `target`: the record has `answer`, `n` and `question`"
        );
        let null = record.texts(&["final", "answer"]).unwrap_err().to_string();
        assert_eq!(null, "gsm8k, record 5: field `answer` is null");
        let wrong = record.text(&["n"]).unwrap_err().to_string();
        assert_eq!(wrong, "gsm8k, record 5: field `n` is neither text nor a number");
    }

    #[test]
    fn whole_floats_lose_their_point() {
        let record = json!({"a": 27.0, "b": 2.5, "c": 12});
        let record = Record::new("amc23", &record, 0);
        assert_eq!(record.text(&["a"]).unwrap(), "27");
        assert_eq!(record.text(&["b"]).unwrap(), "2.5");
        assert_eq!(record.text(&["c"]).unwrap(), "12");
    }
}
