//! The reward cases of the golden files: `model_rewards`, and those of `curriculum_length`, `tw_grpo` and `resrl`.
//!
//! Schedules, token weights, divergences and credit in the last three belong to other stages and are left to their tests.

use serde_json::{Map, Value};

use super::choice::{credit, options};
use super::format::{FormatConfig, indicators};
use super::length::{LengthConfig, LengthShape, band, triangular};
use super::length_scaled::{LengthScaledConfig, scaled};
use super::reward_model::last_token;
use super::verification::{Belief, Said, ScoreForm, zscore};
use super::{Item, Rewards, RewardsConfig, code, math::MathConfig};

fn read(name: &str) -> Value {
    let path = crate::golden_folder().join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap()
}

/// In alphabetical order, whatever order the file has them in.
fn keys(map: &Map<String, Value>) -> Vec<&str> {
    let mut keys: Vec<&str> = map.keys().map(String::as_str).filter(|key| !["note", "source"].contains(key)).collect();
    keys.sort_unstable();
    keys
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect()
}

fn close(found: f64, expected: f64, place: &str) {
    assert!((found - expected).abs() <= 1e-9 * expected.abs().max(1.0), "{place}: {found} is not {expected}");
}

/// A value that may be missing, where null stands for missing.
fn close_or_missing(found: Option<f64>, expected: &Value, place: &str) {
    match (found, expected.as_f64()) {
        (Some(found), Some(expected)) => close(found, expected, place),
        (None, None) if expected.is_null() => {}
        (found, _) => panic!("{place}: {found:?} is not {expected}"),
    }
}

fn only(map: &Map<String, Value>, known: &[&str], place: &str) {
    let unknown: Vec<&str> = keys(map).into_iter().filter(|key| !known.contains(key)).collect();
    assert!(unknown.is_empty(), "{place}: no test knows {unknown:?}");
}

type Case<'a> = (&'a str, &'a Map<String, Value>, &'a Map<String, Value>, &'a Map<String, Value>);

/// Name, inputs, config and expected values of every case of a file.
fn cases(file: &Value) -> Vec<Case<'_>> {
    (file["cases"].as_array().unwrap().iter())
        .map(|case| {
            let part = |key: &str| case[key].as_object().unwrap_or_else(|| panic!("{case} has no {key}"));
            (case["name"].as_str().unwrap(), part("inputs"), part("config"), part("expected"))
        })
        .collect()
}

#[test]
fn golden_model_rewards() {
    let file = read("model_rewards.json");
    for (name, inputs, config, expected) in cases(&file) {
        match keys(inputs)[..] {
            ["logits", "no_ids", "yes_ids"] => soft_verdict(name, inputs, config, expected),
            ["rewards"] => standardised(name, inputs, config, expected),
            ["rows"] => code_scores(name, inputs, config, expected),
            ["mask", "token_scores"] => last_tokens(name, inputs, config, expected),
            ref other => panic!("{name}: no test knows inputs {other:?}"),
        }
    }
}

fn soft_verdict(name: &str, inputs: &Map<String, Value>, config: &Map<String, Value>, expected: &Map<String, Value>) {
    only(config, &["min_mass"], name);
    let ids = |key: &str| numbers(&inputs[key]).into_iter().map(|id| id as usize).collect::<Vec<_>>();
    let belief = Belief::from_logits(&numbers(&inputs["logits"]), &ids("yes_ids"), &ids("no_ids"));
    let min_mass = config["min_mass"].as_f64().unwrap();
    for key in keys(expected) {
        let found = match key {
            "p_yes" => Some(belief.p_positive),
            "p_no" => Some(belief.p_negative),
            "mass" => Some(belief.mass()),
            "normalised" => belief.score(ScoreForm::Normalised, min_mass),
            "paper_form" => belief.score(ScoreForm::Paper, min_mass),
            "hard" => {
                // The score is 1 or 0; the file tells a negative verdict from none.
                let is_positive = belief.said == Said::Positive;
                assert_eq!(belief.score(ScoreForm::Hard, min_mass), Some(f64::from(u8::from(is_positive))), "{name}");
                Some(match belief.said {
                    Said::Positive => 1.0,
                    Said::Negative => 0.0,
                    Said::Neither => -1.0,
                })
            }
            other => panic!("{name}: no test knows {other}"),
        };
        close_or_missing(found, &expected[key], &format!("{name}, {key}"));
    }
}

fn standardised(name: &str, inputs: &Map<String, Value>, config: &Map<String, Value>, expected: &Map<String, Value>) {
    only(config, &["std"], name);
    assert_eq!(config["std"], "population", "{name}");
    let rewards: Vec<Option<f64>> = inputs["rewards"].as_array().unwrap().iter().map(Value::as_f64).collect();
    for key in keys(expected) {
        let wanted = expected[key].as_array().unwrap();
        let found = match key {
            "normalised" => zscore(&rewards),
            "constant" => zscore(&vec![rewards.iter().flatten().next().copied(); wanted.len()]),
            other => panic!("{name}: no test knows {other}"),
        };
        assert_eq!(found.len(), wanted.len(), "{name}");
        found.iter().zip(wanted).for_each(|(f, e)| close_or_missing(*f, e, &format!("{name}, {key}")));
    }
}

fn code_scores(name: &str, inputs: &Map<String, Value>, config: &Map<String, Value>, expected: &Map<String, Value>) {
    only(config, &["perfect_bonus", "empty_reward"], name);
    assert_eq!(keys(expected), ["reward"], "{name}");
    let number = |key: &str| config[key].as_f64().unwrap();
    let (rows, wanted) = (inputs["rows"].as_array().unwrap(), expected["reward"].as_array().unwrap());
    assert_eq!(rows.len(), wanted.len(), "{name}");
    for (row, expected) in rows.iter().zip(wanted) {
        only(row.as_object().unwrap(), &["passed", "total", "empty"], name);
        let count = |key: &str| row[key].as_u64().unwrap() as usize;
        let is_empty = row["empty"].as_bool().unwrap();
        let found =
            code::score(count("passed"), count("total"), is_empty, number("perfect_bonus"), number("empty_reward"));
        close_or_missing(found, expected, &format!("{name}, {row}"));
    }
}

fn last_tokens(name: &str, inputs: &Map<String, Value>, config: &Map<String, Value>, expected: &Map<String, Value>) {
    only(config, &[], name);
    assert_eq!(keys(expected), ["score"], "{name}");
    let rows = |key: &str| inputs[key].as_array().unwrap().iter().map(numbers).collect::<Vec<_>>();
    let wanted = expected["score"].as_array().unwrap();
    for ((mask, scores), expected) in rows("mask").iter().zip(rows("token_scores")).zip(wanted) {
        let mask: Vec<bool> = mask.iter().map(|m| *m != 0.0).collect();
        close_or_missing(last_token(&mask).map(|at| scores[at]), expected, name);
    }
    assert_eq!(wanted.len(), rows("mask").len(), "{name}");
}

#[test]
fn golden_tw_grpo_choice() {
    let file = read("tw_grpo.json");
    let mut seen = 0;
    for (name, inputs, config, expected) in
        cases(&file).into_iter().filter(|(_, inputs, ..)| inputs.contains_key("pairs"))
    {
        only(inputs, &["pairs"], name);
        only(config, &["case_insensitive"], name);
        assert_eq!(keys(expected), ["reward"], "{name}");
        let is_insensitive = config["case_insensitive"].as_bool().unwrap();
        let (pairs, wanted) = (inputs["pairs"].as_array().unwrap(), numbers(&expected["reward"]));
        assert_eq!(pairs.len(), wanted.len(), "{name}");
        for (pair, expected) in pairs.iter().zip(wanted) {
            let set = |i: usize| options(pair[i].as_str().unwrap(), is_insensitive).unwrap();
            close(credit(&set(0), &set(1)), expected, &format!("{name}, {pair}"));
        }
        seen += 1;
    }
    assert!(seen > 0, "the file holds no pairs");
}

#[test]
fn golden_resrl_length_scaled() {
    let file = read("resrl.json");
    let mut seen = 0;
    for (name, inputs, config, expected) in
        cases(&file).into_iter().filter(|(_, inputs, ..)| inputs.contains_key("lengths"))
    {
        only(inputs, &["lengths", "rewards"], name);
        only(config, &["start", "max_len", "end_scale"], name);
        assert_eq!(keys(expected), ["scaled_rewards"], "{name}");
        let count = |key: &str| config[key].as_u64().unwrap() as usize;
        let end_scale = config["end_scale"].as_f64().unwrap();
        let config = LengthScaledConfig { start: count("start"), max_tokens: count("max_len"), end_scale };
        let (lengths, rewards) = (numbers(&inputs["lengths"]), numbers(&inputs["rewards"]));
        let wanted = numbers(&expected["scaled_rewards"]);
        assert_eq!((lengths.len(), rewards.len()), (wanted.len(), wanted.len()), "{name}");
        for ((length, reward), expected) in lengths.into_iter().zip(rewards).zip(wanted) {
            close(scaled(reward, length as usize, &config), expected, &format!("{name}, {reward} at {length}"));
        }
        seen += 1;
    }
    assert!(seen > 0, "the file holds no lengths");
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
