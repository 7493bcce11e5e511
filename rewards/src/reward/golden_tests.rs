//! The reward cases of `tests/golden/curriculum_length.json`.
//!
//! The schedule cases of that file belong to `budget.tokens.curriculum` and are left to its tests.

use serde_json::{Map, Value};

use super::format::{FormatConfig, indicators};
use super::length::{LengthConfig, LengthShape, band, triangular};
use super::{Item, Rewards, RewardsConfig, math::MathConfig};

fn read(name: &str) -> Value {
    let path = crate::golden_folder().join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap()
}

fn keys(map: &Map<String, Value>) -> Vec<&str> {
    map.keys().map(String::as_str).filter(|key| !["note", "source"].contains(key)).collect()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect()
}

fn close(found: f64, expected: f64, place: &str) {
    assert!((found - expected).abs() <= 1e-9 * expected.abs().max(1.0), "{place}: {found} is not {expected}");
}

#[tokio::test]
async fn golden_curriculum_length_rewards() {
    let file = read("curriculum_length.json");
    let mut seen = 0;
    for case in file["cases"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let (inputs, config, expected) = (
            case["inputs"].as_object().unwrap(),
            case["config"].as_object().unwrap(),
            case["expected"].as_object().unwrap(),
        );
        match keys(inputs)[..] {
            ["step"] => continue,
            ["length"] => lengths(name, inputs, config, expected),
            ["text"] => texts(name, inputs, config, expected),
            ["rows"] => totals(name, inputs, config, expected).await,
            ref other => panic!("{name}: no test knows inputs {other:?}"),
        }
        seen += 1;
    }
    assert!(seen > 0, "the file holds no reward case");
}

fn lengths(name: &str, inputs: &Map<String, Value>, config: &Map<String, Value>, expected: &Map<String, Value>) {
    assert!(keys(config).iter().all(|key| ["target", "r_max"].contains(key)), "{name}: unknown config in {config:?}");
    let target = config["target"].as_u64().unwrap() as usize;
    let r_max = config["r_max"].as_f64().unwrap();
    for shape in keys(expected) {
        let reward = match shape {
            "triangular" => triangular,
            "band" => band,
            other => panic!("{name}: unknown shape {other}"),
        };
        for (length, expected) in numbers(&inputs["length"]).into_iter().zip(numbers(&expected[shape])) {
            close(reward(length as usize, target, r_max), expected, &format!("{name}, {shape} at {length}"));
        }
    }
}

fn texts(name: &str, inputs: &Map<String, Value>, config: &Map<String, Value>, expected: &Map<String, Value>) {
    assert!(keys(config).is_empty(), "{name}: unknown config in {config:?}");
    for key in keys(expected) {
        for (text, expected) in inputs["text"].as_array().unwrap().iter().zip(numbers(&expected[key])) {
            let (think, answer) = indicators(text.as_str().unwrap(), "think", "answer");
            let found = match key {
                "think" => think,
                "answer" => answer,
                other => panic!("{name}: unknown indicator {other}"),
            };
            close(f64::from(u8::from(found)), expected, &format!("{name}, {key} of {text}"));
        }
    }
}

/// The correctness of a row is given, so the answer is made to say it and the real rewards run.
async fn totals(name: &str, inputs: &Map<String, Value>, config: &Map<String, Value>, expected: &Map<String, Value>) {
    let known = [
        "lambda_correct",
        "lambda_length",
        "lambda_format",
        "r_correct",
        "r_max",
        "alpha_think",
        "alpha_answer",
        "target",
        "shape",
        "gate_length_on_correct",
    ];
    assert!(keys(config).iter().all(|key| known.contains(key)), "{name}: unknown config in {config:?}");
    assert_eq!(keys(expected), ["reward"], "{name}");
    let number = |key: &str| config[key].as_f64().unwrap_or_else(|| panic!("{name}: {key}"));
    let shape = match config["shape"].as_str().unwrap() {
        "triangular" => LengthShape::Triangular,
        "band" => LengthShape::Band,
        other => panic!("{name}: unknown shape {other}"),
    };
    let rewards = Rewards::new(&RewardsConfig {
        math: Some(MathConfig::default()),
        format: Some(FormatConfig {
            alpha_think: number("alpha_think"),
            alpha_answer: number("alpha_answer"),
            ..FormatConfig::default()
        }),
        length: Some(LengthConfig {
            shape,
            r_max: number("r_max"),
            gate_length_on_correct: config["gate_length_on_correct"].as_bool().unwrap(),
            ..LengthConfig::default()
        }),
        ..RewardsConfig::default()
    })
    .unwrap();
    let rows = inputs["rows"].as_array().unwrap();
    let items: Vec<Item> = rows
        .iter()
        .map(|row| Item {
            completion: format!("{}\\boxed{{1}}", row["text"].as_str().unwrap()),
            answer: Some(if row["correct"].as_f64().unwrap() > 0.0 { "1".into() } else { "2".into() }),
            completion_tokens: row["length"].as_u64().unwrap() as usize,
            told: Some(config["target"].as_u64().unwrap() as usize),
            ..Item::default()
        })
        .collect();
    let graded = rewards.grade(&items).await;
    let weight = |reward: &str| match reward {
        "math" => number("lambda_correct") * number("r_correct"),
        "length" => number("lambda_length"),
        "format" => number("lambda_format"),
        other => panic!("{other}"),
    };
    for (row, expected) in numbers(&expected["reward"]).into_iter().enumerate() {
        let total: f64 = rewards
            .names()
            .iter()
            .zip(&graded.scores)
            .map(|(reward, column)| weight(reward) * column[row].clone().unwrap())
            .sum();
        close(total, expected, &format!("{name}, row {row}"));
    }
}
