//! The published sets, where copies of them are at hand: in `CANDLEWICK_SHARED`, or `../shared` beside the
//! repository. Without them this says so and checks nothing.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::path::PathBuf;

use candlewick_eval::benchmark::{Ask, Benchmark, Form, Jsonl, Prompt, all, named};
use candlewick_eval::grading::MathGrader;
use candlewick_rewards::math::GradeConfig;
use serde_json::Value;

fn data() -> Option<PathBuf> {
    let folder = std::env::var_os("CANDLEWICK_SHARED")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared"), PathBuf::from);
    let data = folder.join("data");
    if !data.is_dir() {
        println!("skipped: no data in {}", folder.display());
        return None;
    }
    Some(data)
}

fn records(path: PathBuf) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn every_local_copy_is_read_whole_and_its_references_grade_right() {
    let Some(data) = data() else { return };
    let grader = MathGrader::new(GradeConfig::default());
    for (name, file, items) in [
        ("gsm8k", "gsm8k_test", 1319),
        ("svamp", "svamp", 1000),
        ("math500", "math500", 500),
        ("math", "math_train4500", 4500),
        ("college_math", "college_math_ccby", 1260),
        ("olympiadbench", "olympiadbench_en", 675),
        ("amc23", "amc23", 40),
        ("aime24", "aime24", 30),
        ("aime25", "aime25", 30),
    ] {
        let benchmark = named(name).unwrap();
        let problems = benchmark.problems(&records(data.join(file).with_extension("jsonl"))).unwrap();
        assert_eq!(problems.items.len(), items, "{name}");
        assert_eq!(problems.sha256.len(), 64);
        let wrong = problems.items.iter().filter(|item| {
            let completion = format!("The answer is \\boxed{{{}}}", item.answer.trim_matches('$'));
            !benchmark.grade(&grader, item, &completion).correct
        });
        let wrong = wrong.count();
        println!("{name}: {} items, {wrong} references refused, SHA-256 {}", items, problems.sha256);
        // A reference that is not accepted as its own answer is a fault of the grader or of the data.
        assert!(wrong * 100 <= items, "{name}: {wrong} of {items} references refused");
    }
    let own = Jsonl::new("own").problems(&records(data.join("gsm8k_train.jsonl"))).unwrap();
    assert_eq!(own.items.len(), 7473);
    assert_eq!(own.items[0].answer, "72");
}

#[test]
fn names_are_unique_and_unknown_ones_are_listed() {
    let names: Vec<String> = all().iter().map(|benchmark| benchmark.name().to_owned()).collect();
    let distinct: std::collections::BTreeSet<&String> = names.iter().collect();
    assert_eq!((names.len(), distinct.len()), (10, 10));
    let Err(error) = named("gsm9k") else { panic!("found") };
    let error = error.to_string();
    assert!(error.starts_with("unknown benchmark `gsm9k`: use one of gsm8k, svamp,"), "{error}");
    for benchmark in all() {
        assert_eq!(named(benchmark.name()).unwrap().name(), benchmark.name());
        assert!(benchmark.problems(&[]).unwrap_err().to_string().ends_with("holds no problems"));
        assert_eq!(benchmark.shots().len(), 4);
        assert!(benchmark.source().dataset.is_some() && !benchmark.source().splits.is_empty());
    }
}

#[test]
fn prompts_hold_the_problem_last_and_end_without_white_space() {
    let item = candlewick_eval::benchmark::Item {
        id: "0".into(),
        problem: "What is 6 times 7?".into(),
        answer: "42".into(),
        solution: None,
        groups: Default::default(),
        tolerance: None,
    };
    for benchmark in all() {
        let Prompt::Chat(turns) = benchmark.prompt(&item, &Ask::default()) else { panic!("not a chat") };
        assert!(turns.len() == 1 && turns[0].content.contains("6 times 7") && turns[0].content.contains("\\boxed"));
        let base = Ask { form: Form::Base, ..Ask::default() };
        let Prompt::Text { text, stop } = benchmark.prompt(&item, &base) else { panic!("not text") };
        assert!(text.trim_end() == text && text.contains("6 times 7") && text.ends_with(':'));
        assert!(stop.iter().all(|stop| stop.starts_with('\n')) && stop.len() == 1);
    }
}
