//! `candlewick explain`: a section of the config and all its keys, from the config's schema.

use std::io::Write;

use anyhow::Result;
use candlewick::config::{Form, Key, Shape, Variant, nearest};
use console::style;

use super::list::first_line;
use super::{Usage, table};

/// Explain a section of the config: what it does, and every key with its type and default.
///
/// For example: `candlewick explain objective.grpo`, `candlewick explain optim`,
/// `candlewick explain rollout.discrete.temperature`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// A stage, a variant or a key, as in the config.
    #[arg(value_name = "STAGE.VARIANT")]
    path: String,
}

/// Prints the explanation.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let path = arguments.path.trim_matches(['[', ']', '.']);
    let keys: Vec<&str> = path.split('.').collect();
    let shape = Shape::find(&keys).map_err(|(depth, at)| unknown(&keys, depth, at))?;
    let mut out = std::io::stdout().lock();
    match shape.form() {
        Form::Table(keys) => {
            writeln!(out, "{}", style(format!("[{path}]")).bold())?;
            paragraphs(&mut out, if shape.type_doc().is_empty() { shape.doc() } else { shape.type_doc() }, 0)?;
            table_keys(&mut out, keys)?;
        }
        Form::Choice(variants) if variants.iter().any(|v| v.settings.is_some()) => {
            writeln!(out, "{}", style(format!("[{path}]")).bold())?;
            paragraphs(&mut out, shape.doc(), 0)?;
            variant_list(&mut out, path, &variants)?;
        }
        form => {
            writeln!(out, "{} is {}", style(path).bold(), shape.describe())?;
            paragraphs(&mut out, shape.doc(), 0)?;
            words(&mut out, &form, 0)?;
        }
    }
    Ok(())
}

/// A path that does not exist: the nearest name at the first place where it goes wrong.
fn unknown(keys: &[&str], depth: usize, at: Shape) -> anyhow::Error {
    let path = keys[..=depth].join(".");
    let names = at.names();
    let above = keys[..depth].join(".");
    let dotted = |name: &str| if above.is_empty() { name.to_owned() } else { format!("{above}.{name}") };
    let hint = match nearest(keys[depth], &names) {
        Some(name) => format!("did you mean `{}`?", dotted(name)),
        None if depth == 0 => match variant_anywhere(keys[0]) {
            Some(path) => format!("did you mean `{path}`?"),
            None => format!("stages: {}", Shape::root().names().join(", ")),
        },
        None if names.is_empty() => format!("`{above}` has nothing below it"),
        None => format!("below `{above}`: {}", names.join(", ")),
    };
    Usage(format!("there is no `{path}` in the config: {hint}")).into()
}

/// The full path of a variant given by its bare name.
fn variant_anywhere(name: &str) -> Option<String> {
    let holds = |stage: &&'static str| Shape::root().child(stage).and_then(|s| s.child(name)).is_some();
    Shape::root().names().into_iter().find(holds).map(|stage| format!("{stage}.{name}"))
}

/// Every key: name, type, default; its text below.
fn table_keys(out: &mut impl Write, mut keys: Vec<Key>) -> Result<()> {
    let is_section = |key: &Key| match key.shape.form() {
        Form::Table(_) => true,
        Form::Choice(variants) => variants.iter().any(|v| v.settings.is_some()),
        _ => false,
    };
    keys.sort_by_key(is_section);
    if keys.is_empty() {
        writeln!(out, "\nit has no keys")?;
    }
    for key in keys {
        let default = match (key.is_required, key.default) {
            (true, _) => "required".to_owned(),
            (_, Some(value)) if !is_section(&key) => format!("default {}", toml_text(value)),
            _ => "may be left out".to_owned(),
        };
        let describe = if is_section(&key) { "a section".to_owned() } else { key.shape.describe() };
        writeln!(out, "\n  {}  {}", style(key.name).bold(), style(format!("{describe}; {default}")).dim())?;
        paragraphs(out, key.shape.doc(), 6)?;
        words(out, &key.shape.form(), 6)?;
    }
    Ok(())
}

fn variant_list(out: &mut impl Write, path: &str, variants: &[Variant]) -> Result<()> {
    writeln!(out, "\none of")?;
    let rows: Vec<Vec<String>> =
        variants.iter().map(|v| vec![format!("{path}.{}", v.name), first_line(v.doc)]).collect();
    write!(out, "{}", table::columns(&rows, 2))?;
    Ok(())
}

/// The words a key may be, where they have texts of their own.
fn words(out: &mut impl Write, form: &Form, indent: usize) -> Result<()> {
    let Form::Choice(variants) = form else { return Ok(()) };
    let described = variants.iter().filter(|v| v.settings.is_none() && !v.doc.is_empty());
    let rows: Vec<Vec<String>> = described.map(|v| vec![format!("\"{}\"", v.name), one_line(v.doc)]).collect();
    write!(out, "{}", table::columns(&rows, indent + 2))?;
    Ok(())
}

/// A doc comment: paragraphs wrapped, lists and formulas as they stand.
fn paragraphs(out: &mut impl Write, doc: &str, indent: usize) -> Result<()> {
    for (i, paragraph) in doc.split("\n\n").filter(|p| !p.trim().is_empty()).enumerate() {
        if i > 0 {
            writeln!(out)?;
        }
        let is_list = |line: &str| line.trim_start().starts_with(['-', '|', '`']) || line.starts_with("  ");
        if paragraph.lines().count() > 1 && paragraph.lines().skip(1).any(is_list) {
            for line in paragraph.lines() {
                writeln!(out, "{:indent$}{line}", "")?;
            }
            continue;
        }
        for line in table::wrap(paragraph, table::width().saturating_sub(indent)) {
            writeln!(out, "{:indent$}{line}", "")?;
        }
    }
    Ok(())
}

fn one_line(doc: &str) -> String {
    doc.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A default as it would be written in the config.
fn toml_text(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Object(map) if map.is_empty() => "{}".into(),
        serde_json::Value::Object(map) => {
            let entries: Vec<String> = map.iter().map(|(k, v)| format!("{k} = {}", toml_text(v))).collect();
            format!("{{ {} }}", entries.join(", "))
        }
        serde_json::Value::Array(items) => {
            format!("[{}]", items.iter().map(toml_text).collect::<Vec<_>>().join(", "))
        }
        serde_json::Value::Number(n) => match n.as_f64() {
            Some(f) if f != 0.0 && f.abs() < 1e-3 => format!("{f:e}"),
            _ => n.to_string(),
        },
        other => other.to_string(),
    }
}
