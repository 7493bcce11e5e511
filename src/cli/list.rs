//! `candlewick list`: the stages and their variants, from the config's schema.

use std::io::Write;

use anyhow::Result;
use candlewick::config::{Form, Key, Shape};
use console::style;

use super::table;

/// Prints every stage, its variants and what each is, in a line each.
pub(crate) fn run() -> Result<()> {
    let mut rows = Vec::new();
    let Form::Table(stages) = Shape::root().form() else { return Ok(()) };
    for stage in &stages {
        rows.push(vec![style(stage.name).bold().to_string(), first_line(stage.shape.doc())]);
        sections(stage.name, stage.shape, &mut rows);
    }
    let mut out = std::io::stdout().lock();
    write!(out, "{}", table::columns(&rows, 0))?;
    writeln!(out, "\nkeys of one of them: candlewick explain {}", style("objective.grpo").bold())?;
    Ok(())
}

/// The variants of a stage, or the sections below it.
fn sections(path: &str, shape: Shape, rows: &mut Vec<Vec<String>>) {
    match shape.form() {
        Form::Choice(variants) => {
            for variant in variants.iter().filter(|v| v.settings.is_some()) {
                rows.push(vec![format!("  {path}.{}", variant.name), first_line(variant.doc)]);
            }
        }
        Form::Table(keys) => {
            for Key { name, shape, .. } in keys {
                let below = format!("{path}.{name}");
                match shape.form() {
                    Form::Choice(variants) if variants.iter().any(|v| v.settings.is_some()) => {
                        sections(&below, shape, rows)
                    }
                    Form::Table(_) => {
                        let doc = if shape.type_doc().is_empty() { shape.doc() } else { shape.type_doc() };
                        rows.push(vec![format!("  {below}"), first_line(doc)]);
                    }
                    _ => {}
                }
            }
        }
        _ => {}
    }
}

/// The first sentence of a doc comment's first paragraph, in one line and without its full stop.
pub(crate) fn first_line(doc: &str) -> String {
    let paragraph = doc.split("\n\n").next().unwrap_or("").split_whitespace().collect::<Vec<_>>().join(" ");
    let end = paragraph.find(". ").unwrap_or(paragraph.len());
    paragraph[..end].trim_end_matches('.').to_owned()
}
