//! From a TOML text and `--set` arguments to a [`Config`], or to everything that is wrong with it.
//!
//! The text is edited first and parsed once. Every key is then compared with the schema, so that
//! unknown keys, wrong types, unknown variants and missing sections are all reported at once, at
//! their place in the person's own file. Whether the stages fit together is [`fit`]'s part.

use std::ops::Range;
use std::path::Path;

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{Error, Excerpt, Place, Problem, Refusal};
use super::shape::{Form, Key, Shape, Variant};
use super::{Config, fit, set};

/// A config that was accepted.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The settings.
    pub config: Config,
    /// What a person should know of how they came about (variants that `--set` replaced) and of what is seldom meant.
    pub notes: Vec<String>,
    /// Where they stand.
    pub origin: Origin,
}

/// What a config was read from, for errors that are found later.
#[derive(Debug, Clone)]
pub struct Origin {
    file: String,
    text: String,
    sets: Vec<String>,
}

impl Origin {
    /// A refused key, shown at its place in the file or in the arguments.
    pub fn place(&self, key: &str, refusal: &Refusal) -> Error {
        let original = DeTable::parse(&self.text).expect("the text was parsed when it was read");
        let finding = Finding { is_key: false, ..Finding::at(key, refusal.message.clone()) };
        let problem = Placer { text: &self.text, original: original.get_ref(), sets: &self.sets }.problem(finding);
        Error { file: self.file.clone(), problems: vec![problem] }
    }
}

/// A path of keys from the root.
type Keys = Vec<String>;

/// A problem that has no place yet.
#[derive(Debug, Clone)]
pub(super) struct Finding {
    /// Keys from the root to what is wrong.
    pub(super) path: Keys,
    /// Whether the key itself is wrong, rather than its value.
    pub(super) is_key: bool,
    /// What is wrong.
    pub(super) message: String,
    /// What else helps.
    pub(super) help: Option<String>,
}

impl Finding {
    /// Something wrong with the section or value at a dotted path.
    pub(super) fn at(path: &str, message: impl Into<String>) -> Self {
        let path = path.split('.').filter(|k| !k.is_empty()).map(str::to_owned).collect();
        Self { path, is_key: true, message: message.into(), help: None }
    }
}

impl Config {
    /// Reads a config file, applies `--set` arguments and checks it.
    pub fn load(path: &Path, sets: &[String]) -> Result<Loaded, Error> {
        let file = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|e| Error {
            file: file.clone(),
            problems: vec![Problem { message: format!("cannot read `{file}`: {e}"), help: None, place: Place::Whole }],
        })?;
        Self::parse(&file, &text, sets)
    }

    /// Like [`Config::load`], for a text that is already in memory; `file` names it in messages.
    pub fn parse(file: &str, text: &str, sets: &[String]) -> Result<Loaded, Error> {
        let refuse = |problems: Vec<Problem>| Error { file: file.into(), problems };
        let original = DeTable::parse(text).map_err(|e| refuse(vec![syntax(text, &e)]))?;
        let edited = set::apply(text, sets).map_err(|problem| refuse(vec![problem]))?;
        let place = Placer { text, original: original.get_ref(), sets };

        let table = DeTable::parse(&edited.text).map_err(|e| refuse(vec![syntax(&edited.text, &e)]))?;
        let mut findings = Vec::new();
        inspect_table(table.get_ref(), Shape::root(), &mut Vec::new(), &mut findings);
        if !findings.is_empty() {
            return Err(refuse(place.all(findings)));
        }
        let mut config = Config::deserialize(toml::Deserializer::from(table.clone()))
            .map_err(|e| refuse(place.all(vec![value_refused(table.get_ref(), &e)])))?;
        config.complete(file);
        let findings = fit::check(&config);
        if !findings.is_empty() {
            return Err(refuse(place.all(findings)));
        }
        let notes = [edited.notes, fit::warnings(&config)].concat();
        let origin = Origin { file: file.to_owned(), text: text.to_owned(), sets: sets.to_vec() };
        Ok(Loaded { config, notes, origin })
    }
}

/// Text that is not TOML.
fn syntax(text: &str, error: &toml::de::Error) -> Problem {
    let place = error.span().map_or(Place::Whole, |span| Place::File(Excerpt::new(text, &span)));
    Problem { message: format!("not valid TOML: {}", error.message()), help: None, place }
}

/// A value that its own type refused, though it looks right.
fn value_refused(table: &DeTable<'_>, error: &toml::de::Error) -> Finding {
    let path = error.span().map_or_else(Vec::new, |span| innermost(table, &span));
    Finding { path, is_key: false, message: error.message().lines().next().unwrap_or_default().into(), help: None }
}

/// Path of the innermost value whose span holds `span`.
fn innermost(table: &DeTable<'_>, span: &Range<usize>) -> Keys {
    let holds = |outer: Range<usize>| outer.start <= span.start && span.end <= outer.end;
    for (key, value) in table {
        let below = value.get_ref().as_table().map(|t| innermost(t, span)).unwrap_or_default();
        if !below.is_empty() || holds(value.span()) || holds(key.span()) {
            return std::iter::once(key.get_ref().to_string()).chain(below).collect();
        }
    }
    Vec::new()
}

/// Finds the places of findings in the person's own file.
struct Placer<'a> {
    text: &'a str,
    original: &'a DeTable<'a>,
    sets: &'a [String],
}

impl Placer<'_> {
    /// Findings as problems, in the order of the file.
    fn all(&self, findings: Vec<Finding>) -> Vec<Problem> {
        let mut problems: Vec<Problem> = findings.into_iter().map(|f| self.problem(f)).collect();
        problems.sort_by_key(|p| match &p.place {
            Place::File(at) => (0, at.line, at.column),
            Place::Set(_) => (1, 0, 0),
            Place::Whole => (2, 0, 0),
        });
        problems
    }

    fn problem(&self, finding: Finding) -> Problem {
        let place = self.place(&finding);
        Problem { message: finding.message, help: finding.help, place }
    }

    fn place(&self, finding: &Finding) -> Place {
        // The last --set at or above the path wins, as it does when it is applied.
        let dotted = finding.path.join(".");
        let touches = |set: &&String| {
            let path = set.split('=').next().unwrap_or("").trim();
            !dotted.is_empty() && (dotted == path || dotted.starts_with(&format!("{path}.")))
        };
        if let Some(set) = self.sets.iter().rev().find(touches) {
            return Place::Set(set.clone());
        }
        let within = |set: &&String| !dotted.is_empty() && set.starts_with(&format!("{dotted}."));
        match self.span(finding) {
            Some(span) => Place::File(Excerpt::new(self.text, &span)),
            None => self.sets.iter().rev().find(within).map_or(Place::Whole, |set| Place::Set(set.clone())),
        }
    }

    /// The span of the key, or of its value, in the file.
    fn span(&self, finding: &Finding) -> Option<Range<usize>> {
        let (last, parents) = finding.path.split_last()?;
        let mut table = self.original;
        for key in parents {
            table = table.get(key.as_str())?.get_ref().as_table()?;
        }
        let (key, value) = table.get_key_value(last.as_str())?;
        Some(if finding.is_key || value.get_ref().is_table() { key.span() } else { value.span() })
    }
}

/// Compares a table with the keys of its shape.
fn inspect_table(table: &DeTable<'_>, shape: Shape, path: &mut Keys, findings: &mut Vec<Finding>) {
    match shape.form() {
        Form::Table(keys) => inspect_keys(table, &keys, path, findings),
        Form::Choice(variants) => inspect_choice(table, &variants, path, findings),
        Form::Map(value) => {
            for (key, item) in table {
                path.push(key.get_ref().to_string());
                inspect(item, value, path, findings);
                path.pop();
            }
        }
        Form::Either(shapes) => inspect_either(shapes, path, findings, |shape, path, found| {
            inspect_table(table, shape, path, found);
        }),
        Form::Any => {}
        _ => findings.push(wrong_type("a table", shape, path)),
    }
}

/// Compares a value with its shape.
fn inspect(item: &Spanned<DeValue<'_>>, shape: Shape, path: &mut Keys, findings: &mut Vec<Finding>) {
    let found = match (item.get_ref(), shape.form()) {
        (DeValue::Table(table), _) => return inspect_table(table, shape, path, findings),
        (_, Form::Either(shapes)) => {
            return inspect_either(shapes, path, findings, |shape, path, found| inspect(item, shape, path, found));
        }
        (DeValue::String(text), Form::Choice(variants)) => return inspect_word(text, &variants, path, findings),
        (DeValue::Array(items), Form::List(value)) => {
            return items.iter().for_each(|item| inspect(item, value, path, findings));
        }
        (DeValue::Integer(number), Form::Integer(min, max)) => {
            let value = i64::from_str_radix(number.as_str(), number.radix()).ok();
            if value.is_some_and(|v| min.is_none_or(|m| v >= m) && max.is_none_or(|m| v <= m)) {
                return;
            }
            format!("`{}`", number.as_str())
        }
        (_, Form::Any)
        | (DeValue::String(_), Form::Text)
        | (DeValue::Boolean(_), Form::Boolean)
        | (DeValue::Integer(_) | DeValue::Float(_), Form::Number) => return,
        (DeValue::String(text), _) => format!("the string \"{text}\""),
        (DeValue::Integer(number), _) => format!("the whole number `{}`", number.as_str()),
        (DeValue::Float(number), _) => format!("the number `{}`", number.as_str()),
        (DeValue::Boolean(value), _) => format!("`{value}`"),
        (DeValue::Array(_), _) => "a list".into(),
        (DeValue::Datetime(_), _) => "a date".into(),
    };
    findings.push(wrong_type(&found, shape, path));
}

/// A value may be of several types: what is wrong is what is wrong with the nearest of them.
fn inspect_either(
    shapes: Vec<Shape>,
    path: &mut Keys,
    findings: &mut Vec<Finding>,
    inspect: impl Fn(Shape, &mut Keys, &mut Vec<Finding>),
) {
    let mut best: Option<Vec<Finding>> = None;
    for shape in shapes {
        let mut found = Vec::new();
        inspect(shape, path, &mut found);
        // Problems deep inside mean that the outer type was right.
        let depth = |f: &[Finding]| f.iter().map(|f| f.path.len()).max().unwrap_or(usize::MAX);
        if best.as_ref().is_none_or(|b| depth(&found) > depth(b)) {
            best = Some(found);
        }
    }
    findings.extend(best.unwrap_or_default());
}

fn inspect_keys(table: &DeTable<'_>, keys: &[Key], path: &mut Keys, findings: &mut Vec<Finding>) {
    for (name, item) in table {
        path.push(name.get_ref().to_string());
        match keys.iter().find(|k| k.name == name.get_ref()) {
            Some(key) => inspect(item, key.shape, path, findings),
            None => findings.push(unknown_key(path, &keys.iter().map(|k| k.name).collect::<Vec<_>>())),
        }
        path.pop();
    }
    for key in keys.iter().filter(|k| k.is_required && !table.contains_key(k.name)) {
        findings.push(missing_key(path, key));
    }
}

fn inspect_choice(table: &DeTable<'_>, variants: &[Variant], path: &mut Keys, findings: &mut Vec<Finding>) {
    let section = path.join(".");
    let names: Vec<&str> = variants.iter().map(|v| v.name).collect();
    let mut keys: Vec<_> = table.iter().collect();
    keys.sort_by_key(|(key, _)| key.span().start);
    match keys.as_slice() {
        [] => findings.push(Finding {
            help: Some(format!("variants: {}", names.join(", "))),
            ..Finding::at(&section, format!("[{section}] names no variant: write [{section}.{}] or another", names[0]))
        }),
        [(name, item)] => {
            path.push(name.get_ref().to_string());
            match variants.iter().find(|v| v.name == name.get_ref()) {
                Some(Variant { settings: Some(settings), .. }) => inspect(item, *settings, path, findings),
                Some(word) => findings.push(Finding::at(
                    &path.join("."),
                    format!("`{}` has no settings: write {section} = \"{}\"", word.name, word.name),
                )),
                None => findings.push(unknown_variant(path, &names)),
            }
            path.pop();
        }
        several => {
            let known: Vec<String> = several.iter().map(|(k, _)| format!("`{}`", k.get_ref())).collect();
            let (last, first) = (several[several.len() - 1].0.get_ref(), several[0].0.get_ref());
            path.push(last.to_string());
            findings.push(Finding {
                help: Some(format!("a stage has one variant: keep [{section}.{first}] or [{section}.{last}]")),
                ..Finding::at(
                    &path.join("."),
                    format!("[{section}] has {} variants: {}", several.len(), known.join(", ")),
                )
            });
            path.pop();
        }
    }
}

fn inspect_word(text: &str, variants: &[Variant], path: &mut Keys, findings: &mut Vec<Finding>) {
    let names: Vec<&str> = variants.iter().map(|v| v.name).collect();
    let key = path.join(".");
    let mut finding = match variants.iter().find(|v| v.name == text) {
        Some(Variant { settings: None, .. }) => return,
        Some(table) => Finding::at(&key, format!("`{}` is a section: write [{key}.{}]", table.name, table.name)),
        None => {
            let hint = nearest(text, &names).map_or(String::new(), |n| format!(": did you mean `{n}`?"));
            Finding::at(&key, format!("`{key}` cannot be \"{text}\"{hint}"))
        }
    };
    finding.is_key = false;
    finding.help = Some(format!("choices: {}", names.join(", ")));
    findings.push(finding);
}

fn unknown_key(path: &Keys, names: &[&str]) -> Finding {
    let (key, section) = path.split_last().expect("the key was pushed onto the path");
    let place = if section.is_empty() { String::new() } else { format!(" in [{}]", section.join(".")) };
    let word = if section.is_empty() { "section" } else { "key" };
    let hint = match nearest(key, names) {
        Some(name) => format!(": did you mean `{name}`?"),
        None => elsewhere(key).map_or(String::new(), |path| format!(": did you mean `{path}`?")),
    };
    let help = if names.is_empty() { "it has no keys".into() } else { format!("{word}s: {}", names.join(", ")) };
    Finding { help: Some(help), ..Finding::at(&path.join("."), format!("unknown {word} `{key}`{place}{hint}")) }
}

fn unknown_variant(path: &Keys, names: &[&str]) -> Finding {
    let (name, section) = path.split_last().expect("the variant was pushed onto the path");
    let section = section.join(".");
    let hint = nearest(name, names).map_or(String::new(), |n| format!(": did you mean [{section}.{n}]?"));
    let message = format!("unknown variant `{name}` of [{section}]{hint}");
    Finding { help: Some(format!("variants: {}", names.join(", "))), ..Finding::at(&path.join("."), message) }
}

fn missing_key(path: &Keys, key: &Key) -> Finding {
    let below: Vec<&str> = path.iter().map(String::as_str).chain([key.name]).collect();
    let dotted = below.join(".");
    let (message, help) = match key.shape.form() {
        Form::Choice(variants) if variants.iter().any(|v| v.settings.is_some()) => {
            let names: Vec<&str> = variants.iter().map(|v| v.name).collect();
            let message = format!("missing section [{dotted}]: add [{dotted}.{}] or another variant", names[0]);
            (message, format!("variants: {}", names.join(", ")))
        }
        Form::Table(_) => {
            (format!("missing section [{dotted}]: add it"), key.shape.doc().lines().next().unwrap_or("").into())
        }
        _ => {
            let section = path.join(".");
            let message = format!("missing key `{}` in [{section}]: add it ({})", key.name, key.shape.describe());
            (message, key.shape.doc().lines().next().unwrap_or("").into())
        }
    };
    let mut finding = Finding::at(&path.join("."), message);
    finding.help = Some(help).filter(|h| !h.is_empty());
    finding
}

fn wrong_type(found: &str, shape: Shape, path: &Keys) -> Finding {
    let key = path.join(".");
    let message = format!("`{key}` must be {}, not {found}", shape.describe());
    let doc = shape.doc().lines().next().unwrap_or("");
    Finding { path: path.clone(), is_key: false, message, help: Some(doc.to_owned()).filter(|d| !d.is_empty()) }
}

/// The name that was probably meant: the nearest within a third of its length in edits.
pub fn nearest<'a>(name: &str, names: &[&'a str]) -> Option<&'a str> {
    let distance = |candidate: &&str| strsim::damerau_levenshtein(&name.to_lowercase(), &candidate.to_lowercase());
    let best = names.iter().copied().min_by_key(distance)?;
    let contains = name.len() > 2 && (best.contains(name) || name.contains(best));
    (distance(&best) <= best.len().max(name.len()).div_ceil(3) || contains).then_some(best)
}

/// Where a key of this very name stands, if it stands somewhere else in the config.
fn elsewhere(key: &str) -> Option<String> {
    fn search(shape: Shape, key: &str, path: &mut Vec<&'static str>, nearest: &mut Option<Vec<&'static str>>) {
        let children: Vec<(&'static str, Option<Shape>)> = match shape.form() {
            Form::Table(keys) => keys.iter().map(|k| (k.name, Some(k.shape))).collect(),
            Form::Choice(variants) => variants.iter().map(|v| (v.name, v.settings)).collect(),
            _ => return,
        };
        for (name, child) in children.into_iter().filter_map(|(name, child)| Some((name, child?))) {
            path.push(name);
            if name != key {
                search(child, key, path, nearest);
            } else if nearest.as_ref().is_none_or(|found| found.len() > path.len()) {
                *nearest = Some(path.clone());
            }
            path.pop();
        }
    }
    let mut nearest = None;
    search(Shape::root(), key, &mut Vec::new(), &mut nearest);
    nearest.map(|path| path.join("."))
}
