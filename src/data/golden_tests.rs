//! `dpo.json`, the case about data: the implicit prompt and the rows of a batch. Packing is another module's.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::columns::RowReader;
use super::render::Tokens;
use super::{DataConfig, Example};

/// Cases of `dpo.json` whose inputs are data rather than log-probs.
fn cases() -> Vec<Value> {
    let folder = std::env::var_os("CANDLEWICK_GOLDEN").map_or_else(|| "tests/golden".into(), PathBuf::from);
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder).join("dpo.json");
    let text = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let json: Value = serde_json::from_str(&text).unwrap();
    let is_data = |case: &&Value| case["inputs"].get("collator_rows").is_some();
    json["cases"].as_array().unwrap().iter().filter(is_data).cloned().collect()
}

#[test]
fn golden_dpo_data_preparation() {
    for case in cases() {
        for key in case["inputs"].as_object().unwrap().keys() {
            let known = ["pack_input_ids", "pack_seq_length", "implicit_prompt_examples", "collator_rows"];
            assert!(known.contains(&key.as_str()), "unknown input `{key}`");
        }
        implicit_prompts(&case);
        collation(&case);
    }
}

fn implicit_prompts(case: &Value) {
    let config = DataConfig::default();
    let reader = RowReader::new(&config, "golden");
    let rows = case["inputs"]["implicit_prompt_examples"].as_array().unwrap();
    let wanted = case["expected"]["extract_prompt"].as_array().unwrap();
    assert_eq!(rows.len(), wanted.len());
    for (row, wanted) in rows.iter().zip(wanted) {
        let row: Map<String, Value> = row.as_object().unwrap().clone();
        let Example::Preference { problem, chosen, rejected } = reader.read(row, 0).unwrap() else { panic!("a pair") };
        let found = serde_json::json!({ "prompt": problem.prompt, "chosen": chosen, "rejected": rejected });
        assert_eq!(&found, wanted);
    }
}

fn collation(case: &Value) {
    assert_eq!(case["config"]["truncation_mode"], "keep_start");
    let pad = case["config"]["pad_token_id"].as_u64().unwrap() as u32;
    let ids = |value: &Value| -> Vec<u32> { serde_json::from_value(value.clone()).unwrap() };
    for (key, wanted) in case["expected"]["collated"].as_object().unwrap() {
        let limit = match key.strip_prefix("max_length=").unwrap() {
            "None" => usize::MAX,
            number => number.parse().unwrap(),
        };
        // All chosen rows, then all rejected ones.
        let mut rows = Vec::new();
        for side in ["chosen_ids", "rejected_ids"] {
            for row in case["inputs"]["collator_rows"].as_array().unwrap() {
                let (prompt, answer) = (ids(&row["prompt_ids"]), ids(&row[side]));
                let learnt = (0..prompt.len() + answer.len()).map(|at| at >= prompt.len()).collect();
                let mut tokens = Tokens { ids: [prompt, answer].concat(), learnt };
                tokens.truncate(limit);
                rows.push(tokens);
            }
        }
        let width = rows.iter().map(|r| r.ids.len()).max().unwrap();
        let padded = |f: &dyn Fn(&Tokens, usize) -> u32| -> Vec<Vec<u32>> {
            rows.iter().map(|r| (0..width).map(|at| if at < r.ids.len() { f(r, at) } else { 0 }).collect()).collect()
        };
        let list = |name: &str| -> Vec<Vec<u32>> { serde_json::from_value(wanted[name].clone()).unwrap() };
        assert_eq!(pad, 0, "padding is id 0 here");
        assert_eq!(padded(&|r, at| r.ids[at]), list("input_ids"), "{key}");
        assert_eq!(padded(&|_, _| 1), list("attention_mask"), "{key}");
        assert_eq!(padded(&|r, at| u32::from(r.learnt[at])), list("completion_mask"), "{key}");
    }
}
