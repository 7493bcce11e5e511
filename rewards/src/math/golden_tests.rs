//! The pairs of `tests/golden/math_pairs.json`, and the public suite where the shared folder has it.

use std::path::PathBuf;

use serde_json::Value;

use super::*;

fn read(path: &std::path::Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap()
}

fn has_tag(case: &Value, tag: &str) -> bool {
    case["tags"].as_array().unwrap().iter().any(|found| found.as_str() == Some(tag))
}

fn show(case: &Value, verdict: &Verdict) -> String {
    let pred: String = case["pred"].as_str().unwrap().chars().take(160).collect();
    format!(
        "{} {:?}\n    gold {}\n    pred {}\n    found {:?} method {:?} reason {:?} gold {} pred {}\n",
        case["expected"],
        case["tags"],
        case["gold"],
        pred,
        verdict.extracted,
        verdict.method,
        verdict.reason,
        verdict.gold_normal,
        verdict.pred_normal
    )
}

#[test]
fn golden_math_pairs() {
    let file = read(&crate::golden_folder().join("math_pairs.json"));
    let config = GradeConfig { limits: Limits { soft_millis: 2000, ..Limits::default() }, ..GradeConfig::default() };
    let (mut counted, mut right, mut policy, mut policy_right) = (0, 0, 0, 0);
    let mut wrong = String::new();
    let mut accepted = 0;
    for case in file["cases"].as_array().unwrap() {
        let expected = case["expected"].as_bool().unwrap();
        let verdict = grade(case["gold"].as_str().unwrap(), case["pred"].as_str().unwrap(), &config);
        let is_right = verdict.correct == expected;
        if has_tag(case, "policy") {
            policy += 1;
            policy_right += usize::from(is_right);
        } else {
            counted += 1;
            right += usize::from(is_right);
            accepted += usize::from(verdict.correct && !expected);
        }
        if !is_right {
            wrong.push_str(&show(case, &verdict));
        }
    }
    let summary =
        format!("{right} of {counted} right, {accepted} wrongly accepted; policy {policy_right} of {policy}\n{wrong}");
    assert!(accepted == 0, "{summary}");
    assert!(right as f64 >= 0.99 * counted as f64, "{summary}");
    assert!(policy_right as f64 >= 0.9 * policy as f64, "{summary}");
}

/// Pairs `[kind, gold, completion, right]`: none may be accepted wrongly, and one in a hundred refused wrongly.
fn check_labelled_pairs(file: &str) {
    let file: Value = serde_json::from_str(file).unwrap();
    let config = GradeConfig { limits: Limits { soft_millis: 5000, ..Limits::default() }, ..GradeConfig::default() };
    let cases = file["cases"].as_array().unwrap();
    let (mut accepted, mut refused) = (String::new(), Vec::new());
    for case in cases {
        let (gold, completion) = (case[1].as_str().unwrap(), case[2].as_str().unwrap());
        let verdict = grade(gold, completion, &config);
        match (verdict.correct, case[3].as_bool().unwrap()) {
            (true, false) => {
                accepted.push_str(&format!("accepted {case} by {:?}: {:?}\n", verdict.method, verdict.extracted))
            }
            (false, true) => refused.push(format!("refused {case}: {:?} {:?}\n", verdict.reason, verdict.extracted)),
            _ => {}
        }
    }
    let refusals = format!("{} of {} refused\n{}", refused.len(), cases.len(), refused.concat());
    assert!(accepted.is_empty(), "{accepted}{refusals}");
    assert!(cases.len() > 1000 && refused.len() * 100 <= cases.len(), "{refusals}");
}

/// `adversarial_pairs.json`: near misses and odd spellings of every kind, those known to be refused wrongly among them.
#[test]
fn adversarial_pairs() {
    check_labelled_pairs(include_str!("adversarial_pairs.json"));
}

/// `blind_pairs.json`: labelled before any verdict on them was seen. At the first run 2,717 of 2,758 verdicts were as
/// labelled, 13 answers were taken against their label and 28 refused. Seven labels were wrong by the policies,
/// or by arithmetic, and were put right: a percent sign too many is no fault (`-17\%`, `3\frac25\%`), 14142.135624 is
/// 10000 sqrt 2 rounded, one value said many times is one value, a time before noon is not any time (two pairs), and
/// points are no thousands marks (`1.234,5`).
///
/// At the first run of the fourth round, whose kinds are named so, 274 of 365 verdicts were as labelled, 9 answers were
/// taken against their label and 82 refused. One label was wrong (`1\,2\,1_3` is 121 in base 3), and three pairs went
/// against labels of `adversarial_pairs.json` and were left out: `\infty` for a gold in words, twice, and a vector
/// written with i and j for a column.
#[test]
fn blind_pairs() {
    check_labelled_pairs(include_str!("blind_pairs.json"));
}

/// The shared folder beside the workspace, or the one named by `CANDLEWICK_SHARED`.
fn shared() -> Option<PathBuf> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent()?;
    let folder = std::env::var_os("CANDLEWICK_SHARED").map_or_else(|| root.join("../shared"), PathBuf::from);
    folder.is_dir().then_some(folder)
}

#[test]
#[expect(clippy::print_stderr, reason = "a skipped test says so")]
fn golden_math_verify() {
    let Some(path) = shared().map(|shared| shared.join("golden/math_verify.json")).filter(|path| path.is_file()) else {
        eprintln!("skipped: there is no shared folder with golden/math_verify.json");
        return;
    };
    let (mut counted, mut agreed) = (0, 0);
    let mut differing = String::new();
    for case in read(&path)["cases"].as_array().unwrap() {
        let mut config = GradeConfig::default();
        config.limits.soft_millis = 2000;
        if let Some(opts) = case.get("opts").and_then(Value::as_object) {
            for (key, value) in opts {
                match key.as_str() {
                    "float_rounding" => config.policy.min_decimals = value.as_u64().unwrap() as u32,
                    "strict" => config.policy.rename_variables = !value.as_bool().unwrap(),
                    // What is searched, and which sides may be sets, is not an option here.
                    "match_types" | "allow_set_relation_comp" | "boxed_match_priority" => {}
                    other => panic!("unknown option {other}"),
                }
            }
        }
        let gold = case["gold"].as_str().unwrap();
        let gold = if gold.len() > 200 && !gold.contains("\\boxed") {
            extract::extract(gold, &Extraction::default(), 1).candidates.remove(0)
        } else {
            gold.to_string()
        };
        let verdict = grade(&gold, case["pred"].as_str().unwrap(), &config);
        if has_tag(case, "policy") || has_tag(case, "quirk") || case.get("truth").is_some() {
            continue;
        }
        counted += 1;
        if verdict.correct == case["expected"].as_bool().unwrap() {
            agreed += 1;
        } else {
            differing.push_str(&show(case, &verdict));
        }
    }
    assert!(agreed as f64 >= 0.98 * counted as f64, "{agreed} of {counted} agree\n{differing}");
}

fn rows(path: &std::path::Path) -> Vec<Value> {
    std::fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// The reference answers of a data file: (gold, worked solution).
fn references(name: &str, row: &Value) -> Option<(String, Option<String>)> {
    let solution = |value: &Value| value.as_str().map(str::to_string);
    Some(match name {
        "gsm8k_test" | "gsm8k_train" => {
            let worked = row["answer"].as_str()?;
            (extract::gsm8k_strict(worked)?, Some(worked.to_string()))
        }
        "math_train4500" => {
            (extract::last_box(row["solution"].as_str()?)?.content.to_string(), solution(&row["solution"]))
        }
        "math500" => (text_of(&row["answer"])?, solution(&row["solution"])),
        "olympiadbench_en" => (text_of(&row["final_answer"][0])?, None),
        "svamp" => (text_of(&row["Answer"])?, None),
        _ => (text_of(&row["answer"])?, None),
    })
}

#[test]
#[expect(clippy::print_stderr, reason = "a skipped test says so")]
fn reference_answers_equal_themselves_and_worked_solutions_are_right() {
    let Some(shared) = shared() else {
        eprintln!("skipped: there is no shared folder");
        return;
    };
    let config = GradeConfig { limits: Limits { soft_millis: 2000, ..Limits::default() }, ..GradeConfig::default() };
    let mut wrong = String::new();
    let mut counts = String::new();
    for name in [
        "math500",
        "math_train4500",
        "aime24",
        "aime25",
        "amc23",
        "gsm8k_test",
        "gsm8k_train",
        "olympiadbench_en",
        "college_math_ccby",
        "svamp",
    ] {
        let path = shared.join("data").join(format!("{name}.jsonl"));
        if !path.is_file() {
            continue;
        }
        let pairs: Vec<(String, Option<String>)> = rows(&path).iter().filter_map(|row| references(name, row)).collect();
        let failures: Vec<String> = pairs
            .par_iter()
            .flat_map_iter(|(gold, worked)| {
                let mut failures = Vec::new();
                if !equivalent(gold, gold, &config) {
                    failures.push(format!("{name}: itself {gold}\n"));
                }
                if !grade(gold, &format!("So it is $\\boxed{{{gold}}}$."), &config).correct {
                    failures.push(format!("{name}: boxed {gold}\n"));
                }
                if let Some(worked) = worked {
                    let verdict = grade(gold, worked, &config);
                    if !verdict.correct {
                        failures.push(format!(
                            "{name}: worked {gold} from {:?}: {:?}\n",
                            verdict.extracted, verdict.reason
                        ));
                    }
                }
                failures
            })
            .collect();
        counts.push_str(&format!("{name}: {} answers, {} failures\n", pairs.len(), failures.len()));
        wrong.extend(failures.into_iter().take(20));
    }
    assert!(wrong.is_empty(), "{counts}{wrong}");
}
