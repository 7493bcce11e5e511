//! The config's JSON schema, read as sections, keys and choices.
//!
//! The schema is derived from the config structs and their doc comments, so what the loader
//! checks, what `explain` prints and what editors complete are one declaration. Only the forms
//! that the config uses are understood: closed tables, free maps, lists, scalars, externally
//! tagged choices and "one of several types".

use std::sync::OnceLock;

use serde_json::Value;

use super::Config;

/// The JSON schema of [`Config`], draft 2020-12.
pub fn schema() -> &'static Value {
    static SCHEMA: OnceLock<Value> = OnceLock::new();
    SCHEMA.get_or_init(|| schemars::schema_for!(Config).to_value())
}

/// One node of the schema.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    node: &'static Value,
}

/// What a node of the schema stands for.
#[derive(Debug, Clone)]
pub enum Form {
    /// A table with fixed keys.
    Table(Vec<Key>),
    /// Exactly one of these variants: `[objective.grpo]`, or a word like `"linear"`.
    Choice(Vec<Variant>),
    /// A table with free keys and values of one shape.
    Map(Shape),
    /// A list of values of one shape.
    List(Shape),
    /// A value of any of these shapes.
    Either(Vec<Shape>),
    /// A whole number and its bounds.
    Integer(Option<i64>, Option<i64>),
    /// A number.
    Number,
    /// A string.
    Text,
    /// True or false.
    Boolean,
    /// Anything.
    Any,
}

/// A key of a table.
#[derive(Debug, Clone)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// What its value looks like.
    pub shape: Shape,
    /// Whether the table is an error without it.
    pub is_required: bool,
    /// Its default, where the schema states one.
    pub default: Option<&'static Value>,
}

/// A variant of a choice.
#[derive(Debug, Clone)]
pub struct Variant {
    /// Its name.
    pub name: &'static str,
    /// Its doc comment.
    pub doc: &'static str,
    /// Its settings; `None` for a bare word.
    pub settings: Option<Shape>,
}

impl Shape {
    /// The whole config.
    pub fn root() -> Self {
        Self { node: schema() }
    }

    /// The node at a path of keys and variants, or the first part of the path that does not exist
    /// with the shape that was searched for it.
    pub fn find(path: &[&str]) -> Result<Self, (usize, Self)> {
        path.iter().enumerate().try_fold(Self::root(), |shape, (i, name)| shape.child(name).ok_or((i, shape)))
    }

    /// The shape below a key or a variant.
    pub fn child(self, name: &str) -> Option<Self> {
        match self.form() {
            Form::Table(keys) => keys.iter().find(|k| k.name == name).map(|k| k.shape),
            Form::Choice(variants) => variants.iter().find(|v| v.name == name).and_then(|v| v.settings),
            Form::Map(value) => Some(value),
            Form::Either(shapes) => shapes.iter().find_map(|s| s.child(name)),
            _ => None,
        }
    }

    /// Names that may stand below this node: keys of a table, variants of a choice.
    pub fn names(self) -> Vec<&'static str> {
        match self.form() {
            Form::Table(keys) => keys.iter().map(|k| k.name).collect(),
            Form::Choice(variants) => variants.iter().map(|v| v.name).collect(),
            Form::Either(shapes) => shapes.iter().flat_map(|s| s.names()).collect(),
            _ => Vec::new(),
        }
    }

    /// The doc comment: that of the field if it has one, else that of its type.
    pub fn doc(self) -> &'static str {
        let described = |node: &'static Value| node.get("description").and_then(Value::as_str);
        described(self.node)
            .or_else(|| {
                self.alternatives().into_iter().find_map(|s| described(s.node).or_else(|| described(s.target())))
            })
            .or_else(|| described(self.target()))
            .unwrap_or("")
    }

    /// The doc comment of the type, where the field has one of its own.
    pub fn type_doc(self) -> &'static str {
        let target = match self.alternatives().as_slice() {
            [one] => one.target(),
            _ => self.target(),
        };
        target.get("description").and_then(Value::as_str).unwrap_or("")
    }

    /// What this node stands for.
    pub fn form(self) -> Form {
        let node = self.target();
        if let Some(branches) = node.get("oneOf").and_then(Value::as_array) {
            return Form::Choice(branches.iter().flat_map(variants).collect());
        }
        if let Some(words) = node.get("enum").and_then(Value::as_array) {
            return Form::Choice(words.iter().filter_map(Value::as_str).map(|w| word(w, "")).collect());
        }
        match self.alternatives().as_slice() {
            [] => {}
            [one] => return one.form(),
            several => return Form::Either(several.to_vec()),
        }
        let bound = |name: &str| node.get(name).and_then(Value::as_i64);
        match type_name(node) {
            Some("object") => object(node),
            Some("array") => Form::List(Self { node: node.get("items").unwrap_or(&Value::Null) }),
            Some("integer") => Form::Integer(bound("minimum"), bound("maximum")),
            Some("number") => Form::Number,
            Some("string") => Form::Text,
            Some("boolean") => Form::Boolean,
            _ => Form::Any,
        }
    }

    /// The type of a value in plain words.
    pub fn describe(self) -> String {
        match self.form() {
            Form::Table(_) => "a table".into(),
            Form::Map(value) => format!("a table of {}", plural(&value.describe())),
            Form::List(value) => format!("a list of {}", plural(&value.describe())),
            Form::Integer(None | Some(i64::MIN..0), _) => "a whole number".into(),
            Form::Integer(Some(min), _) => format!("a whole number >= {min}"),
            Form::Number => "a number".into(),
            Form::Text => "a string".into(),
            Form::Boolean => "true or false".into(),
            Form::Any => "any value".into(),
            Form::Either(shapes) => shapes.iter().map(|s| s.describe()).collect::<Vec<_>>().join(" or "),
            Form::Choice(variants) if variants.iter().all(|v| v.settings.is_none()) => {
                let words: Vec<String> = variants.iter().map(|v| format!("\"{}\"", v.name)).collect();
                format!("one of {}", words.join(", "))
            }
            Form::Choice(variants) => {
                format!("one table of {}", variants.iter().map(|v| v.name).collect::<Vec<_>>().join(", "))
            }
        }
    }

    /// The node that a `$ref` points to, or the node itself.
    fn target(self) -> &'static Value {
        let mut node = self.node;
        while let Some(path) = node.get("$ref").and_then(Value::as_str) {
            node =
                schema().pointer(path.trim_start_matches('#')).expect("schemars writes only references that resolve");
        }
        node
    }

    /// The alternatives of an `anyOf`, without null.
    fn alternatives(self) -> Vec<Self> {
        let node = self.target();
        let Some(branches) = node.get("anyOf").or_else(|| node.get("allOf")).and_then(Value::as_array) else {
            return Vec::new();
        };
        branches.iter().filter(|b| b.get("type") != Some(&Value::from("null"))).map(|node| Self { node }).collect()
    }
}

/// A shape as the thing there are several of: `a string` gives `strings`.
fn plural(description: &str) -> String {
    match description {
        "a string" => "strings".into(),
        "a number" => "numbers".into(),
        "a whole number" => "whole numbers".into(),
        "a table" => "tables".into(),
        other => other.into(),
    }
}

/// The `type` of a node; of `["integer", "null"]` the part that is not null.
fn type_name(node: &'static Value) -> Option<&'static str> {
    match node.get("type")? {
        Value::String(name) => Some(name),
        Value::Array(names) => names.iter().filter_map(Value::as_str).find(|&n| n != "null"),
        _ => None,
    }
}

fn object(node: &'static Value) -> Form {
    let Some(properties) = node.get("properties").and_then(Value::as_object) else {
        return match node.get("additionalProperties") {
            Some(Value::Bool(false)) => Form::Table(Vec::new()),
            Some(value @ Value::Object(_)) => Form::Map(Shape { node: value }),
            _ => Form::Any,
        };
    };
    let required: Vec<&str> =
        node.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    let keys = properties.iter().map(|(name, node)| Key {
        name,
        shape: Shape { node },
        is_required: required.contains(&name.as_str()),
        default: node.get("default").filter(|d| !d.is_null()),
    });
    Form::Table(keys.collect())
}

/// The variants that one branch of a `oneOf` declares: a word, several words, or a table of one key.
fn variants(branch: &'static Value) -> Vec<Variant> {
    let doc = branch.get("description").and_then(Value::as_str).unwrap_or("");
    if let Some(name) = branch.get("const").and_then(Value::as_str) {
        return vec![word(name, doc)];
    }
    if let Some(words) = branch.get("enum").and_then(Value::as_array) {
        return words.iter().filter_map(Value::as_str).map(|name| word(name, doc)).collect();
    }
    let properties = branch.get("properties").and_then(Value::as_object);
    properties
        .into_iter()
        .flatten()
        .map(|(name, node)| {
            let settings = Shape { node };
            // The text of the settings says more than that of the variant that holds them.
            let doc = if settings.doc().is_empty() { doc } else { settings.doc() };
            Variant { name, doc, settings: Some(settings) }
        })
        .collect()
}

fn word(name: &'static str, doc: &'static str) -> Variant {
    Variant { name, doc, settings: None }
}
