//! Reference values: reads the golden files as their contract (`tests/golden/README.md`) has it.
//!
//! What kind of case it is follows from its keys; every key must be read or be on the contract's
//! list of keys that record a peer's behaviour. Nothing is known by name.

mod adpo;
mod budget;
mod efficiency;
mod grpo;
mod pairing;
mod real;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::PathBuf;

use serde_json::{Map, Value};

use crate::Table;

/// An object whose keys must all be read.
pub(crate) struct Fields {
    path: String,
    values: Map<String, Value>,
    read: RefCell<BTreeSet<String>>,
}

/// Keys that only record what a peer does.
fn is_record(key: &str) -> bool {
    const PREFIXES: [&str; 5] = ["authors_", "math_verify", "trl_", "verl_", "qwen25_"];
    ["checked_against", "note", "source"].contains(&key) || PREFIXES.iter().any(|p| key.starts_with(p))
}

impl Fields {
    pub(crate) fn new(path: impl Into<String>, value: &Value) -> Self {
        let path = path.into();
        let values = value.as_object().unwrap_or_else(|| panic!("{path}: an object, found {value}")).clone();
        Self { path, values, read: RefCell::default() }
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// A value under one of its names.
    pub(crate) fn find(&self, names: &[&str]) -> Option<&Value> {
        let name = names.iter().find(|name| self.values.contains_key(**name))?;
        self.read.borrow_mut().insert((*name).to_owned());
        self.values.get(*name)
    }

    pub(crate) fn get(&self, key: &str) -> &Value {
        self.find(&[key]).unwrap_or_else(|| panic!("{}: `{key}` is missing", self.path))
    }

    pub(crate) fn number(&self, key: &str) -> Option<f64> {
        self.find(&[key]).map(number)
    }

    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        self.find(&[key]).map(|v| v.as_str().unwrap_or_else(|| panic!("{}.{key}: a text, found {v}", self.path)))
    }

    pub(crate) fn child(&self, key: &str) -> Self {
        Self::new(format!("{}.{key}", self.path), self.get(key))
    }

    pub(crate) fn keys(&self) -> Vec<String> {
        self.values.keys().filter(|key| !is_record(key)).cloned().collect()
    }

    /// Fails, naming the keys that nothing read.
    pub(crate) fn finish(&self) {
        let read = self.read.borrow();
        let unread: Vec<_> = self.values.keys().filter(|k| !is_record(k) && !read.contains(*k)).collect();
        assert!(unread.is_empty(), "{}: unknown keys {unread:?}", self.path);
    }
}

/// One case of a file.
pub(crate) struct Case {
    pub(crate) path: String,
    pub(crate) inputs: Fields,
    pub(crate) config: Fields,
    pub(crate) expected: Fields,
}

/// The cases of a method's file, in the folder named by `CANDLEWICK_GOLDEN`.
pub(crate) fn cases(method: &str) -> Vec<Case> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let folder = std::env::var_os("CANDLEWICK_GOLDEN").map_or_else(|| "tests/golden".into(), PathBuf::from);
    let file = root.join(folder).join(format!("{method}.json"));
    let text = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let json: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let list = json["cases"].as_array().unwrap_or_else(|| panic!("{}: no `cases`", file.display()));
    assert!(!list.is_empty(), "{} holds no case", file.display());
    list.iter()
        .map(|case| {
            let path = format!("{method}/{}", case["name"].as_str().unwrap_or("?"));
            let fields = |part: &str| Fields::new(format!("{path}.{part}"), &case[part]);
            Case { inputs: fields("inputs"), config: fields("config"), expected: fields("expected"), path }
        })
        .collect()
}

/// A batch whose rows of one group stand together, and for each of its rows the row of the file.
///
/// Groups are `group_ids`, `prompt_ids` or `groups`, one an input row, or a `group_size`.
pub(crate) fn grouped(path: &str, inputs: &Fields, mask: &Table) -> (crate::Batch, Vec<usize>) {
    let n = mask.rows();
    let ids: Vec<usize> = match inputs.find(&["group_ids", "prompt_ids", "groups", "group_size"]) {
        Some(Value::Number(size)) => (0..n).map(|i| i / size.as_u64().expect("a size") as usize).collect(),
        Some(ids) => vector(ids).into_iter().map(|id| id as usize).collect(),
        None => panic!("{path}: no groups"),
    };
    let first = |i: usize| ids.iter().position(|id| *id == ids[i]);
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by_key(|&i| first(i));
    let groups = order.iter().map(|&i| ids[i]).collect();
    (crate::Batch::new(mask.select(&order), groups).expect("a group a row"), order)
}

/// Rows of a batch put back where the file has them.
pub(crate) fn ungrouped(table: &Table, order: &[usize]) -> Table {
    let mut file = table.clone();
    order.iter().enumerate().for_each(|(k, &i)| file.row_mut(i).copy_from_slice(table.row(k)));
    file
}

/// A number; null is NaN, and texts name the infinities.
pub(crate) fn number(value: &Value) -> f64 {
    match value {
        Value::Null => f64::NAN,
        Value::Bool(b) => f64::from(u8::from(*b)),
        Value::String(s) => s.parse().unwrap_or_else(|_| panic!("a number, found {s:?}")),
        _ => value.as_f64().unwrap_or_else(|| panic!("a number, found {value}")),
    }
}

/// A list of numbers.
pub(crate) fn vector(value: &Value) -> Vec<f64> {
    value.as_array().unwrap_or_else(|| panic!("a list, found {value}")).iter().map(number).collect()
}

/// A list of lists of numbers, rows first.
pub(crate) fn rows(value: &Value) -> Vec<Vec<f64>> {
    value.as_array().unwrap_or_else(|| panic!("rows, found {value}")).iter().map(vector).collect()
}

/// Rows of one length.
pub(crate) fn table(value: &Value) -> Table {
    let rows = rows(value);
    let cols = rows.first().map_or(0, Vec::len);
    Table::new(rows.len(), cols, rows.concat()).expect("rows of one length")
}

/// Fails unless both are equal to `tolerance`, relative above 1, with values below 1e-15 counted as 0.
pub(crate) fn close(what: &str, found: f64, wanted: f64, tolerance: f64) {
    if found == wanted || (found.is_nan() && wanted.is_nan()) {
        return;
    }
    // Small gradients are held to nearly their own size: a wrong sign of 1e-9 must not pass.
    let allowed = tolerance * wanted.abs().max(1e-4) + 1e-15;
    assert!((found - wanted).abs() <= allowed, "{what}: found {found}, expected {wanted}");
}

/// [`close`] for every entry.
pub(crate) fn all_close(what: &str, found: &[f64], wanted: &[f64], tolerance: f64) {
    assert_eq!(found.len(), wanted.len(), "{what}: number of entries");
    for (k, (&f, &w)) in found.iter().zip(wanted).enumerate() {
        close(&format!("{what}[{k}]"), f, w, tolerance);
    }
}
