//! Speed of the grader on one thread: `cargo bench -p candlewick-rewards --bench grade`.
//!
//! Prints pairs a second on `tests/golden/math_pairs.json`, on integers and simple fractions, and the slowest of
//! a list of inputs made to be slow. Each figure is the best of five passes, the slowest pair the worst of its best.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use candlewick_rewards::math::{GradeConfig, grade};

const PASSES: usize = 5;

/// Seconds of the best pass over all pairs.
fn best(pairs: &[(String, String)], config: &GradeConfig) -> f64 {
    let pass = || {
        let start = Instant::now();
        for (gold, completion) in pairs {
            black_box(grade(gold, completion, config));
        }
        start.elapsed().as_secs_f64()
    };
    (0..PASSES).map(|_| pass()).fold(f64::INFINITY, f64::min)
}

fn golden() -> Vec<(String, String)> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/math_pairs.json");
    let file: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    file["cases"].as_array().unwrap().iter().map(|case| (text(&case["gold"]), text(&case["pred"]))).collect()
}

fn simple() -> Vec<(String, String)> {
    (0..20_000)
        .map(|n| match n % 4 {
            0 => (format!("{n}"), format!("\\boxed{{{n}}}")),
            1 => (format!("{n}"), format!("\\boxed{{{}}}", n + 1)),
            2 => (format!("\\frac{{{n}}}{{7}}"), format!("\\boxed{{{n}/7}}")),
            _ => (format!("{n}.5"), format!("\\boxed{{\\frac{{{}}}{{2}}}}", 2 * n + 1)),
        })
        .collect()
}

fn hostile() -> Vec<(String, String)> {
    let boxed = |answer: String| format!("\\boxed{{{answer}}}");
    let mut pairs = vec![
        ("1".into(), "x".repeat(1_000_000)),
        ("1".into(), "\\boxed{1} ".repeat(100_000)),
        ("1".into(), format!("\\boxed{{{}", "{".repeat(1_000_000))),
        ("1".into(), boxed("9".repeat(1_000_000))),
        ("1".into(), "$".repeat(1_000_000)),
        ("1".into(), "answer is ".repeat(100_000)),
        ("18".into(), format!("{}\\boxed{{18}}", "lorem ipsum ".repeat(90_000))),
        ("1".into(), boxed(format!("{}1{}", "\\frac{1}{1+".repeat(50_000), "}".repeat(50_000)))),
        ("18".into(), boxed(format!("{}18{}", "(".repeat(200_000), ")".repeat(200_000)))),
    ];
    let answers = [
        "(10^{10})!".to_owned(),
        "9^{9^{9^9}}".into(),
        "\\sum_{k=1}^{9999} \\sum_{j=1}^{9999} k^j".into(),
        "\\binom{10^9}{10^8}".into(),
        "(x+y+z)^{200}".into(),
        "\\sqrt[99999]{2^{99999}+1}".into(),
        "e^{e^{e^{e^{e^e}}}}".into(),
        "\\sin(10^{300})".into(),
        "\\sin(".repeat(150) + "x" + &")".repeat(150),
        "_{".repeat(1500),
        "1/".repeat(1500) + "1",
        "x!".repeat(1500),
        "1,".repeat(2000),
        "1\\pm".repeat(500) + "1",
        "9".repeat(4000),
        (1..700).map(|n| format!("\\sqrt{{{n}}}")).collect::<Vec<_>>().join(","),
        (1..400).map(|n| format!("\\sin{n}")).collect::<Vec<_>>().join("+"),
    ];
    for answer in answers {
        for gold in ["18", "x^2+1", "\\sqrt{2}", "(1,2)", "1,2,3", "(0,1)\\cup(2,3)", "x+y=1"] {
            pairs.push((gold.into(), boxed(answer.clone())));
        }
        pairs.push((answer.clone(), boxed(answer.clone())));
        pairs.push((answer.clone(), boxed(format!("{answer}+1"))));
    }
    pairs
}

fn main() {
    let config = GradeConfig::default();
    for (name, pairs) in [("ordinary pairs", golden()), ("integers and simple fractions", simple())] {
        let seconds = best(&pairs, &config);
        println!("{name}: {:.0} a second ({} pairs)", pairs.len() as f64 / seconds, pairs.len());
    }
    let mut slowest = (Duration::ZERO, String::new());
    for (gold, completion) in hostile() {
        let time = (0..PASSES).map(|_| grade(&gold, &completion, &config).elapsed).min().unwrap();
        if time > slowest.0 {
            let start = |text: &str| text.chars().take(40).collect::<String>();
            slowest = (time, format!("gold {}, {}", start(&gold), start(&completion)));
        }
    }
    println!("slowest hostile pair: {:.1} ms ({})", slowest.0.as_secs_f64() * 1e3, slowest.1);
}
