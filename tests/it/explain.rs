//! `list`, `explain` and `schema`.

use serde_json::Value;

use crate::program::Folder;

#[test]
fn list_shows_stages_in_order_and_variants_with_what_they_are() {
    let done = Folder::new().run(&["list"]);
    assert_eq!(done.status, 0);
    let stages: Vec<&str> = done
        .stdout
        .lines()
        .filter(|l| !l.starts_with(' ') && l.contains("  "))
        .filter_map(|l| l.split(' ').next())
        .collect();
    assert_eq!(
        stages,
        [
            "run",
            "model",
            "data",
            "prompts",
            "budget",
            "rollout",
            "reward",
            "advantage",
            "credit",
            "objective",
            "optim",
            "train",
            "eval"
        ]
    );
    for (name, text) in [
        ("objective.sft", "Supervised fine-tuning"),
        ("advantage.group", "Group-relative advantage"),
        ("budget.tokens.fixed", ""),
        ("reward.math", ""),
        ("model.lora", "Low-rank adapters"),
    ] {
        let line = done.stdout.lines().find(|l| l.trim_start().starts_with(&format!("{name} ")));
        let line = line.unwrap_or_else(|| panic!("{name} is not in\n{}", done.stdout));
        assert!(line.contains(text), "{line}");
    }
}

/// Every variant says what it is, and every key of every section has a text.
#[test]
fn nothing_in_the_config_is_without_documentation() {
    use candlewick::config::{Form, Shape};
    fn walk(shape: Shape, path: &str, bare: &mut Vec<String>) {
        match shape.form() {
            Form::Table(keys) => {
                for key in keys {
                    let below = format!("{path}.{}", key.name);
                    if key.shape.doc().is_empty() {
                        bare.push(below.clone());
                    }
                    walk(key.shape, &below, bare);
                }
            }
            Form::Choice(variants) => {
                for variant in variants {
                    let below = format!("{path}.{}", variant.name);
                    if variant.doc.is_empty() {
                        bare.push(below.clone());
                    }
                    if let Some(settings) = variant.settings {
                        walk(settings, &below, bare);
                    }
                }
            }
            _ => {}
        }
    }
    let mut bare = Vec::new();
    walk(Shape::root(), "", &mut bare);
    assert_eq!(bare, Vec::<String>::new());
}

#[test]
fn explain_gives_every_key_with_type_default_and_text() {
    let done = Folder::new().run(&["explain", "rollout.discrete"]);
    assert_eq!(done.status, 0);
    assert!(done.stdout.starts_with("[rollout.discrete]\nOne token a step, drawn from softmax(logits / temperature)"));
    for line in [
        "  temperature  a number; default 1.0",
        "  top_k  a whole number >= 1; may be left out",
        "  stop  a list of strings; default []",
    ] {
        assert!(done.stdout.lines().any(|l| l == line), "`{line}` is not in\n{}", done.stdout);
    }
}

#[test]
fn explain_knows_stages_keys_and_words() {
    let folder = Folder::new();
    let stage = folder.run(&["explain", "objective"]).stdout;
    assert!(stage.contains("one of\n") && stage.contains("  objective.sft  "), "{stage}");
    let key = folder.run(&["explain", "optim.schedule"]).stdout;
    assert!(key.starts_with("optim.schedule is one of \"linear\", \"cosine\", \"constant\""), "{key}");
    assert!(key.contains("\"constant\"  Stays."), "{key}");
}

#[test]
fn explain_says_what_was_meant() {
    let folder = Folder::new();
    for (path, expected) in [
        ("objective.gpro", "there is no `objective.gpro` in the config: did you mean `objective.grpo`?"),
        ("objetive.grpo", "there is no `objetive` in the config: did you mean `objective`?"),
        ("grpo", "there is no `grpo` in the config: did you mean `objective.grpo`?"),
        ("run.seed.x", "there is no `run.seed.x` in the config: `run.seed` has nothing below it"),
    ] {
        let done = folder.run(&["explain", path]);
        assert_eq!((done.status, done.stderr), (2, format!("error: {expected}\n")), "{path}");
    }
}

#[test]
fn the_schema_is_json_closed_and_complete() {
    let done = Folder::new().run(&["schema"]);
    assert_eq!(done.status, 0);
    let schema: Value = serde_json::from_str(&done.stdout).expect("the schema is JSON");
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    assert_eq!(schema["additionalProperties"], false);
    assert_eq!(schema["required"], serde_json::json!(["model", "data", "objective"]));
    // Whatever it refers to is there.
    fn references(node: &Value, found: &mut Vec<String>) {
        match node {
            Value::Object(map) => {
                found.extend(map.get("$ref").and_then(Value::as_str).map(str::to_owned));
                map.values().for_each(|v| references(v, found));
            }
            Value::Array(items) => items.iter().for_each(|v| references(v, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    references(&schema, &mut found);
    assert!(found.len() > 20);
    for path in found {
        assert!(schema.pointer(path.trim_start_matches('#')).is_some(), "{path}");
    }
}
