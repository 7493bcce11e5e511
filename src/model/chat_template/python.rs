//! The parts of Python that chat templates lean on: `json.dumps`, `strftime`, string methods.
//!
//! Only what minijinja and its `pycompat` do otherwise or not at all.

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, Value};
use time::{OffsetDateTime, PrimitiveDateTime};

/// `tojson` of transformers: `json.dumps(value, ensure_ascii=False, ...)`, without HTML escapes.
///
/// Keyword arguments: `ensure_ascii`, `indent` (a number of spaces), `separators` (a pair),
/// `sort_keys`. Errors: what JSON cannot hold (undefined values, functions).
pub(super) fn tojson(value: &Value, arguments: Kwargs) -> Result<Value, Error> {
    let indent: Option<Value> = arguments.get("indent")?;
    let indent = match indent {
        None => None,
        Some(value) if value.is_none() => None,
        Some(value) => Some(usize::try_from(value)?),
    };
    let separators: Option<Vec<String>> = arguments.get("separators")?;
    let (item, key) = match separators.as_deref() {
        Some([item, key]) => (item.clone(), key.clone()),
        Some(_) => {
            return Err(Error::new(ErrorKind::InvalidOperation, "`separators` must be a pair"));
        }
        None if indent.is_some() => (",".into(), ": ".into()),
        None => (", ".into(), ": ".into()),
    };
    let style = JsonStyle {
        ascii: arguments.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sort: arguments.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        indent,
        item,
        key,
    };
    arguments.assert_all_used()?;
    let mut text = String::new();
    style.write(value, 0, &mut text)?;
    Ok(Value::from_safe_string(text))
}

struct JsonStyle {
    ascii: bool,
    sort: bool,
    indent: Option<usize>,
    item: String,
    key: String,
}

impl JsonStyle {
    fn write(&self, value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => out.push_str(&number(value)?),
            ValueKind::String => self.write_string(value.as_str().unwrap_or_default(), out),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.write_list(('[', ']'), depth, out, items.len(), |at, out| self.write(&items[at], depth + 1, out))?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort {
                    keys.sort();
                }
                self.write_list(('{', '}'), depth, out, keys.len(), |at, out| {
                    let name = match keys[at].kind() {
                        ValueKind::String => keys[at].as_str().unwrap_or_default().to_string(),
                        ValueKind::Bool => if keys[at].is_true() { "true" } else { "false" }.to_string(),
                        ValueKind::None => "null".to_string(),
                        ValueKind::Number => number(&keys[at])?,
                        other => return Err(not_json(other)),
                    };
                    self.write_string(&name, out);
                    out.push_str(&self.key);
                    self.write(&value.get_item(&keys[at])?, depth + 1, out)
                })?;
            }
            other => return Err(not_json(other)),
        }
        Ok(())
    }

    fn write_list(
        &self,
        (open, close): (char, char),
        depth: usize,
        out: &mut String,
        count: usize,
        mut write: impl FnMut(usize, &mut String) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let new_line = |depth: usize, out: &mut String| {
            if let Some(width) = self.indent {
                out.push('\n');
                out.extend(std::iter::repeat_n(' ', width * depth));
            }
        };
        out.push(open);
        for at in 0..count {
            if at > 0 {
                out.push_str(&self.item);
            }
            new_line(depth + 1, out);
            write(at, out)?;
        }
        if count > 0 {
            new_line(depth, out);
        }
        out.push(close);
        Ok(())
    }

    fn write_string(&self, text: &str, out: &mut String) {
        out.push('"');
        for character in text.chars() {
            match character {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                control if control < ' ' => out.push_str(&format!("\\u{:04x}", control as u32)),
                other if self.ascii && (other as u32) > 0x7e => {
                    for unit in other.encode_utf16(&mut [0; 2]) {
                        out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                other => out.push(other),
            }
        }
        out.push('"');
    }
}

fn not_json(kind: ValueKind) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("`tojson` cannot write a value of kind {kind}"))
}

fn number(value: &Value) -> Result<String, Error> {
    if value.is_integer() {
        return Ok(value.to_string());
    }
    Ok(float_repr(f64::try_from(value.clone())?))
}

/// Python's `repr` of a float: the shortest digits that read back, with an exponent below 1e-4 and
/// from 1e16 on; `NaN` and `Infinity` as `json.dumps` writes them.
fn float_repr(value: f64) -> String {
    if value.is_nan() {
        return "NaN".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity" } else { "-Infinity" }.into();
    }
    let magnitude = value.abs();
    if magnitude != 0.0 && !(1e-4..1e16).contains(&magnitude) {
        let text = format!("{value:e}");
        let (digits, exponent) = text.split_once('e').expect("`{:e}` writes an exponent");
        let (sign, exponent) = match exponent.strip_prefix('-') {
            Some(rest) => ('-', rest),
            None => ('+', exponent),
        };
        return format!("{digits}e{sign}{exponent:0>2}");
    }
    let text = format!("{value}");
    if text.contains('.') { text } else { format!("{text}.0") }
}

/// The local wall clock; UTC where the system does not tell the offset.
pub(super) fn local_now() -> PrimitiveDateTime {
    let now = OffsetDateTime::now_local().unwrap_or_else(|_| OffsetDateTime::now_utc());
    PrimitiveDateTime::new(now.date(), now.time())
}

/// `datetime.strftime` in the C locale.
///
/// Errors: a directive it does not know, by name.
pub(super) fn strftime(now: PrimitiveDateTime, format: &str) -> Result<String, Error> {
    let mut out = String::new();
    let mut characters = format.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            out.push(character);
            continue;
        }
        let mut directive = characters.next();
        // glibc's flag for numbers without padding.
        let bare = directive == Some('-');
        if bare {
            directive = characters.next();
        }
        let pad = |value: u32, width: usize| {
            if bare { value.to_string() } else { format!("{value:0>width$}") }
        };
        let hour12 = match now.hour() % 12 {
            0 => 12,
            hour => u32::from(hour),
        };
        let month = now.month().to_string();
        let weekday = now.weekday().to_string();
        match directive {
            Some('Y') => out.push_str(&now.year().to_string()),
            Some('y') => out.push_str(&pad(now.year().rem_euclid(100).unsigned_abs(), 2)),
            Some('m') => out.push_str(&pad(u32::from(u8::from(now.month())), 2)),
            Some('d') => out.push_str(&pad(u32::from(now.day()), 2)),
            Some('e') => out.push_str(&format!("{:>2}", now.day())),
            Some('j') => out.push_str(&pad(u32::from(now.ordinal()), 3)),
            Some('H') => out.push_str(&pad(u32::from(now.hour()), 2)),
            Some('I') => out.push_str(&pad(hour12, 2)),
            Some('M') => out.push_str(&pad(u32::from(now.minute()), 2)),
            Some('S') => out.push_str(&pad(u32::from(now.second()), 2)),
            Some('f') => out.push_str(&format!("{:06}", now.microsecond())),
            Some('p') => out.push_str(if now.hour() < 12 { "AM" } else { "PM" }),
            Some('B') => out.push_str(&month),
            Some('b' | 'h') => out.push_str(&month[..3]),
            Some('A') => out.push_str(&weekday),
            Some('a') => out.push_str(&weekday[..3]),
            Some('u') => out.push_str(&now.weekday().number_from_monday().to_string()),
            Some('w') => out.push_str(&now.weekday().number_days_from_sunday().to_string()),
            Some('F') => out.push_str(&strftime(now, "%Y-%m-%d")?),
            Some('T' | 'X') => out.push_str(&strftime(now, "%H:%M:%S")?),
            Some('R') => out.push_str(&strftime(now, "%H:%M")?),
            Some('D' | 'x') => out.push_str(&strftime(now, "%m/%d/%y")?),
            Some('c') => out.push_str(&strftime(now, "%a %b %e %H:%M:%S %Y")?),
            // Python's datetime without a zone writes nothing for these.
            Some('Z' | 'z') => {}
            Some('n') => out.push('\n'),
            Some('t') => out.push('\t'),
            Some('%') => out.push('%'),
            other => {
                let other = other.map(String::from).unwrap_or_default();
                let message = format!("`strftime_now` does not know `%{other}`");
                return Err(Error::new(ErrorKind::InvalidOperation, message));
            }
        }
    }
    Ok(out)
}

/// Methods of `str` that `pycompat` lacks; None for all others.
pub(super) fn string_method(text: &str, method: &str, args: &[Value]) -> Option<Result<Value, Error>> {
    let argument = |at: usize| args.get(at).and_then(Value::as_str);
    let triple = |parts: [&str; 3]| Value::from_iter(parts);
    let result = match (method, argument(0), args.len()) {
        ("removeprefix", Some(prefix), 1) => Value::from(text.strip_prefix(prefix).unwrap_or(text)),
        ("removesuffix", Some(suffix), 1) => Value::from(text.strip_suffix(suffix).unwrap_or(text)),
        ("partition", Some(separator), 1) if !separator.is_empty() => {
            triple(text.split_once(separator).map_or([text, "", ""], |(head, tail)| [head, separator, tail]))
        }
        ("rpartition", Some(separator), 1) if !separator.is_empty() => {
            triple(text.rsplit_once(separator).map_or(["", "", text], |(head, tail)| [head, separator, tail]))
        }
        ("rsplit", Some(separator), count) if !separator.is_empty() && count <= 2 => {
            let limit = match args.get(1).map(|limit| i64::try_from(limit.clone())) {
                None => usize::MAX,
                Some(Ok(limit)) => usize::try_from(limit).map_or(usize::MAX, |limit| limit.saturating_add(1)),
                Some(Err(error)) => return Some(Err(error)),
            };
            let mut parts: Vec<&str> = text.rsplitn(limit, separator).collect();
            parts.reverse();
            Value::from_iter(parts)
        }
        ("isspace", None, 0) => Value::from(!text.is_empty() && text.chars().all(char::is_whitespace)),
        ("casefold", None, 0) => Value::from(text.to_lowercase()),
        ("index", Some(part), 1) => match text.find(part) {
            Some(at) => Value::from(text[..at].chars().count()),
            None => {
                return Some(Err(Error::new(ErrorKind::InvalidOperation, "substring not found")));
            }
        },
        _ => return None,
    };
    Some(Ok(result))
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    // Left: python3 -c "print(repr(x))".
    #[test]
    fn floats_read_as_python_writes_them() {
        for (expected, value) in [
            ("1.0", 1.0),
            ("-0.0", -0.0),
            ("0.1", 0.1),
            ("1e+16", 1e16),
            ("1000000000000000.0", 1e15),
            ("0.0001", 1e-4),
            ("1e-05", 1e-5),
            ("1.5e-07", 1.5e-7),
            ("1.7976931348623157e+308", f64::MAX),
        ] {
            assert_eq!(float_repr(value), expected);
        }
    }

    // Left: datetime(2024, 2, 5, 13, 4, 9).strftime(...).
    #[test]
    fn dates_read_as_python_writes_them() {
        let now = datetime!(2024-02-05 13:04:09);
        for (expected, format) in [
            ("05 Feb 2024", "%d %b %Y"),
            ("February 5, 2024", "%B %-d, %Y"),
            ("Monday 01:04:09 PM", "%A %I:%M:%S %p"),
            ("036 24 100%", "%j %y 100%%"),
            ("2024-02-05", "%F"),
        ] {
            assert_eq!(strftime(now, format).unwrap(), expected);
        }
        assert!(strftime(now, "%Q").unwrap_err().to_string().contains("`%Q`"));
    }
}
