//! `--set stage.variant.key=value`: edits the TOML text before it is parsed.
//!
//! A value is TOML; a bare word is a string. Naming another variant than the file's replaces the
//! file's variant, with a note.

use toml_edit::{DocumentMut, Item, Table, TableLike, Value};

use super::error::{Place, Problem};
use super::shape::{Form, Shape};

/// A text after its edits.
#[derive(Debug)]
pub(super) struct Edited {
    pub(super) text: String,
    pub(super) notes: Vec<String>,
}

/// Applies the arguments in order; each later one wins over those before it.
pub(super) fn apply(text: &str, sets: &[String]) -> Result<Edited, Problem> {
    if sets.is_empty() {
        return Ok(Edited { text: text.into(), notes: Vec::new() });
    }
    let mut document: DocumentMut = text.parse().map_err(|e: toml_edit::TomlError| Problem {
        message: format!("not valid TOML: {}", e.message()),
        help: None,
        place: Place::Whole,
    })?;
    let mut notes = Vec::new();
    for set in sets {
        apply_one(&mut document, set, &mut notes).map_err(|message| Problem {
            message,
            help: Some("write --set stage.variant.key=value, for example --set optim.learning_rate=1e-5".into()),
            place: Place::Set(set.clone()),
        })?;
    }
    Ok(Edited { text: document.to_string(), notes })
}

fn apply_one(document: &mut DocumentMut, set: &str, notes: &mut Vec<String>) -> Result<(), String> {
    let (path, raw) = set.split_once('=').ok_or_else(|| format!("`{set}` has no `=`"))?;
    let keys: Vec<&str> = path.split('.').map(str::trim).collect();
    if keys.iter().any(|k| k.is_empty()) {
        return Err(format!("`{path}` is not a path of keys"));
    }
    let (last, parents) = keys.split_last().expect("split gives at least one piece");
    let mut shape = Some(Shape::root());
    let mut table: &mut dyn TableLike = document.as_table_mut();
    for (depth, key) in parents.iter().enumerate() {
        choose(table, shape, &keys[..depth], key, notes);
        shape = shape.and_then(|s| s.child(key));
        table = table_below(table, key);
    }
    choose(table, shape, parents, last, notes);
    let shape = shape.and_then(|s| s.child(last));
    table.insert(last, Item::Value(parse(raw.trim(), shape)));
    Ok(())
}

/// Where `table` is a stage, removes every variant but `key`.
fn choose(table: &mut dyn TableLike, shape: Option<Shape>, section: &[&str], key: &str, notes: &mut Vec<String>) {
    if !matches!(shape.map(Shape::form), Some(Form::Choice(_))) {
        return;
    }
    let others: Vec<String> = table.iter().map(|(k, _)| k.to_owned()).filter(|k| k != key).collect();
    let section = section.join(".");
    for other in others {
        table.remove(&other);
        notes.push(format!("--set {section}.{key} replaces [{section}.{other}] of the file, with all its keys"));
    }
}

/// The table at `key`, made if there is none or something else.
fn table_below<'a>(table: &'a mut dyn TableLike, key: &str) -> &'a mut dyn TableLike {
    if table.get(key).and_then(Item::as_table_like).is_none() {
        let mut below = Table::new();
        below.set_implicit(true);
        table.insert(key, Item::Table(below));
    }
    table.get_mut(key).and_then(Item::as_table_like_mut).expect("a table was put there")
}

/// A value as TOML, or as a string where it is none or the key wants one.
fn parse(raw: &str, shape: Option<Shape>) -> Value {
    let parsed = raw.parse::<Value>().ok();
    let is_text = shape.is_some_and(|s| match s.form() {
        Form::Text => true,
        Form::Choice(variants) => variants.iter().all(|v| v.settings.is_none()),
        _ => false,
    });
    match parsed {
        Some(value) if value.is_str() || !is_text || value.is_array() || value.is_inline_table() => {
            value.decorated("", "")
        }
        _ => Value::from(raw),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edited(text: &str, sets: &[&str]) -> Edited {
        apply(text, &sets.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn values_are_toml_and_bare_words_are_strings() {
        let sets =
            ["run.seed=7", "run.name=2024", "data.train=gsm8k:train", "optim.learning_rate = 1e-5", "model.device=cpu"];
        let text = edited("[run]\nseed = 1 # kept\n", &sets).text;
        let table: toml::Table = text.parse().unwrap();
        assert_eq!(table["run"]["seed"].as_integer(), Some(7));
        assert_eq!(table["run"]["name"].as_str(), Some("2024"));
        assert_eq!(table["data"]["train"].as_str(), Some("gsm8k:train"));
        assert_eq!(table["optim"]["learning_rate"].as_float(), Some(1e-5));
        assert_eq!(table["model"]["device"].as_str(), Some("cpu"));
    }

    #[test]
    fn another_variant_replaces_the_files_and_says_so() {
        let text = "[objective.grpo]\nloss = \"dapo\"\n[optim]\nbeta1 = 0.8\n";
        let edit = edited(text, &["objective.sft={}"]);
        let table: toml::Table = edit.text.parse().unwrap();
        assert_eq!(table["objective"].as_table().unwrap().keys().collect::<Vec<_>>(), ["sft"]);
        assert_eq!(table["optim"]["beta1"].as_float(), Some(0.8));
        assert_eq!(edit.notes, ["--set objective.sft replaces [objective.grpo] of the file, with all its keys"]);
        assert!(edited(text, &["objective.grpo.loss=grpo"]).notes.is_empty());
    }

    #[test]
    fn what_is_no_assignment_is_refused() {
        assert!(apply("", &["run.seed".into()]).unwrap_err().message.contains("has no `=`"));
        assert!(apply("", &["run..seed=1".into()]).unwrap_err().message.contains("not a path"));
    }
}
