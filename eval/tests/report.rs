//! A whole report from made-up outcomes: its numbers, its files, and that they read back.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::path::{Path, PathBuf};

use candlewick_eval::Error;
use candlewick_eval::benchmark::{Benchmark, Item, Jsonl};
use candlewick_eval::grading::MathGrader;
use candlewick_eval::metrics::{Conclusion, Results, Settings, SplitMix64, summarise};
use candlewick_eval::report::{
    Curve, Data, Entry, Identity, Other, Point, Protocol, Report, Token, compare_reports, html, markdown, summary,
    table, write_figure,
};
use candlewick_eval::sample::{Completion, Finish, Sample, grade};
use candlewick_eval::sensitivity::{Mode, sensitivity};
use candlewick_rewards::math::GradeConfig;
use serde_json::{Value, json};

fn benchmark(name: &str, size: usize) -> (Jsonl, Vec<Item>, String) {
    let benchmark = Jsonl::new(name);
    let record = |at: usize| {
        let (a, b) = (7 * at % 90 + 10, 13 * at % 80 + 11);
        json!({"problem": format!("What is {a} + {b}?"), "answer": a + b, "level": 1 + at % 4})
    };
    let problems = benchmark.problems(&(0..size).map(record).collect::<Vec<_>>()).unwrap();
    (benchmark, problems.items, problems.sha256)
}

/// Completions of a model that is right with probability `skill`, less on higher levels.
fn completions(items: &[Item], samples: usize, skill: f64, key: &str) -> Vec<Completion> {
    let mut all = Vec::new();
    for item in items {
        let mut random = SplitMix64::keyed(3, &format!("{key} {}", item.id));
        let level: f64 = item.groups["level"].parse().unwrap();
        let own = skill * (1.3 - 0.15 * level) * (0.6 + 0.8 * random.uniform());
        for index in 0..samples {
            let answer: i64 = item.answer.parse().unwrap();
            let given = if random.uniform() < own { answer } else { answer + 10 };
            let is_cut = random.uniform() < 0.07;
            let work = "First I add the tens, then the ones. ".repeat(1 + random.below(6));
            let text = match (is_cut, random.below(12)) {
                (true, _) => work.clone(),
                (_, 0) => format!("{work}I am </script> not sure."),
                (_, 1) => format!("{work}So it must be {given}"),
                _ => format!("{work}The sum is \\boxed{{{given}}}."),
            };
            let tokens = if is_cut { 96 } else { text.len() / 4 };
            let finish = if is_cut { Finish::Length } else { Finish::Stop };
            let prompt = format!("<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n", item.problem);
            all.push(Completion {
                item: item.id.clone(),
                index,
                problem: item.problem.clone(),
                prompt,
                text,
                tokens,
                finish,
                logp: Some(-(tokens as f64) * 0.2),
                ids: Vec::new(),
            });
        }
    }
    all
}

fn evaluated(
    benchmark: &Jsonl,
    items: &[Item],
    samples: usize,
    skill: f64,
    key: &str,
) -> (Results, Vec<Mode>, Vec<Sample>) {
    let config = GradeConfig::default();
    let (math, lenient) = (MathGrader::new(config.clone()), MathGrader::lenient(config));
    let mut graded = grade(benchmark, &math, items, completions(items, samples, skill, key)).unwrap();
    let results = summarise(items, &graded, &math, &Settings::new(samples, 0)).unwrap();
    let modes = sensitivity(benchmark, items, &mut graded, samples, &math, &[&lenient]).unwrap();
    (results, modes, graded)
}

fn report(label: &str, skill: f64) -> (Report, Vec<Vec<Sample>>) {
    let (mut entries, mut all) = (Vec::new(), Vec::new());
    for (name, size, samples) in [("addition", 200, 8), ("addition_hard", 60, 1)] {
        let (benchmark, items, sha256) = benchmark(name, size);
        let (base, base_modes, _) = evaluated(&benchmark, &items, samples, 0.25, "base");
        let (results, modes, graded) = evaluated(&benchmark, &items, samples, skill, label);
        let data = Data {
            benchmark: name.into(),
            source: format!("generated:{name}"),
            items: size,
            sha256,
            note: "own records".into(),
            ..Data::default()
        };
        let protocol = Protocol {
            form: "chat".into(),
            rendered: graded[0].completion.prompt.clone(),
            first_tokens: vec![Token { id: 1, text: "<|im_start|>".into() }, Token { id: 4093, text: "user\n".into() }],
            last_tokens: vec![Token { id: 520, text: "assistant".into() }, Token { id: 198, text: "\n".into() }],
            sampling: [("temperature".to_owned(), json!(0.6)), ("top_p".to_owned(), json!(0.95))].into(),
            max_tokens: 96,
            grader: "math".into(),
            ..Protocol::default()
        };
        let mut entry = Entry::new(data, protocol, results, modes, &graded);
        let base = Other { label: "base".into(), results: base, sensitivity: base_modes, differences: Vec::new() };
        entry.against(base, &graded, 0).unwrap();
        entries.push(entry);
        all.push(graded);
    }
    let identity = Identity {
        label: label.into(),
        model: "HuggingFaceTB/SmolLM2-135M-Instruct".into(),
        dtype: "f32".into(),
        device: "cpu, 2 threads".into(),
        engine: "candlewick 0.1.0".into(),
        version: "0.1.0".into(),
        date: "2026-01-01T12:00:00Z".into(),
        seconds: 83.2,
        tokens: 61_234,
        weights_sha256: Some("9f2c".repeat(16)),
        commit: Some("0123456789ab".into()),
        ..Identity::default()
    };
    let mut report = Report::new(identity, entries).unwrap();
    let accuracy = |step: usize| {
        let value = 0.2 + 0.5 * (1.0 - (-(step as f64) / 30.0).exp());
        Point { lower: Some(value - 0.05), upper: Some(value + 0.05), ..Point::new(step as f64, value) }
    };
    let noise = |step: usize| (step as f64 * 1.7).sin() * 0.04;
    report.training = vec![
        Curve {
            name: "accuracy".into(),
            unit: String::new(),
            figure: None,
            points: (0..=100).step_by(10).map(accuracy).collect(),
        },
        Curve {
            name: "reward".into(),
            unit: String::new(),
            figure: None,
            points: (0..100).map(|s| Point::new(s as f64, accuracy(s).value + noise(s))).collect(),
        },
        Curve {
            name: "entropy".into(),
            unit: "nats".into(),
            figure: None,
            points: (0..100).map(|s| Point::new(s as f64, 1.2 / (1.0 + s as f64 / 40.0) + noise(s))).collect(),
        },
        Curve {
            name: "length".into(),
            unit: "tokens".into(),
            figure: None,
            points: (0..100).map(|s| Point::new(s as f64, 60.0 - 0.2 * s as f64 + 40.0 * noise(s))).collect(),
        },
    ];
    report.notes.push("the checkpoint was chosen on the reported set".into());
    (report, all)
}

fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&folder);
    folder
}

#[test]
fn a_report_is_written_and_read_back() {
    let (report, samples) = report("final", 0.8);
    let written = report.write(&folder("report"), &samples, None).unwrap();
    assert!(written.files.iter().all(|file| file.is_file()) && written.files.len() == 9, "{:?}", written.files);
    assert_eq!(Report::read(&written.folder).unwrap(), report);

    let found = report.benchmarks[0].against[0].comparison.clone();
    assert_eq!(found.conclusion, Conclusion::Better);
    let text = table(&report);
    println!("{text}");
    assert!(text.contains("addition: final is better than base") && text.contains("note: the checkpoint was chosen"));
    assert!(text.contains("were cut at 96 tokens"), "{text}");

    let json: Value =
        serde_json::from_str(&std::fs::read_to_string(written.folder.join("summary.json")).unwrap()).unwrap();
    for benchmark in ["addition", "addition_hard"] {
        let row = &json["benchmarks"][benchmark];
        for side in ["base", "final"] {
            for field in ["accuracy", "n", "lower", "upper", "lenient_accuracy", "samples", "truncated", "tokens"] {
                assert!(row[side][field].is_number(), "{benchmark}.{side}.{field}");
            }
            // The lenient grader also accepts answers outside a box.
            assert!(row[side]["lenient_accuracy"].as_f64() >= row[side]["accuracy"].as_f64());
        }
        for field in ["difference", "difference_lower", "difference_upper", "p"] {
            assert!(row[field].is_number(), "{benchmark}.{field}");
        }
    }
    assert_eq!((json["seconds"].as_f64(), json["tokens"].as_u64()), (Some(83.2), Some(61_234)));
    write_figure(&written.folder.join("accuracy.svg"), "Held-out accuracy", &report.training[..1]).unwrap();
}

#[test]
fn the_page_holds_model_text_as_data_only() {
    let (report, samples) = report("final", 0.8);
    let page = candlewick_eval::report::html(&report, &samples).unwrap();
    // Some completions hold a closing script tag; the page has its own two only.
    assert!(samples[0].iter().any(|sample| sample.completion.text.contains("</script>")));
    assert_eq!(page.matches("</script>").count(), 2);
    assert!(!page.contains("http://") && !page.contains("https://") && !page.contains("NaN"));
    let data = page.split("id=\"data\">").nth(1).unwrap().split("</script>").next().unwrap();
    let data: Value = serde_json::from_str(data).unwrap();
    assert_eq!(data["total"], 1660);
    assert_eq!(data["samples"].as_array().unwrap().len(), 1660);
}

/// Whoever reads the sentence reads why it may not hold, and no colour says more than the sentence.
#[test]
fn a_comparison_of_models_asked_otherwise_says_so_in_every_form() {
    let (mut report, samples) = report("final", 0.8);
    let page = html(&report, &samples).unwrap();
    assert!(page.contains("class=\"change better\"") && page.contains("class=\"headline better\""));
    assert!(page.contains("<dt>Commit</dt><dd>0123456789ab</dd>"));
    assert!(markdown(&report).contains("candlewick 0.1.0, commit 0123456789ab;"));
    for entry in &mut report.benchmarks {
        entry.against[0].differences = vec!["temperature 1, not 0".into(), "system prompt `a<b`, not none".into()];
    }
    let page = html(&report, &samples).unwrap();
    assert!(page.contains("class=\"change open\"") && !page.contains("class=\"change better\""));
    assert!(page.contains("<strong>Warning</strong> asked otherwise than base"));
    assert!(page.contains("temperature 1, not 0; system prompt <code>a&lt;b</code>, not none"));
    let text = "asked otherwise than base, so that the difference may not be the model's: temperature 1, not 0";
    assert!(markdown(&report).contains(&format!("> Warning: {text}")));
    assert!(table(&report).contains(&format!("\n  warning: {text}")));
}

/// A figure's legend names the models in it, and a remark is a sentence.
#[test]
fn a_benchmark_without_a_rival_has_no_legend_of_one() {
    let (mut report, samples) = report("final", 0.8);
    report.benchmarks[1].against.clear();
    let page = html(&report, &samples).unwrap();
    let legend = |title: &str| page.split(title).nth(1).unwrap().split("</figcaption>").next().unwrap().to_owned();
    assert!(legend("<figcaption>addition: by level").contains("base"));
    assert!(!legend("<figcaption>addition_hard: by level").contains("base"));
    assert!(page.contains("</code>. Own records.</span>"));
}

/// The same results on both sides: neither gain nor loss, whatever the sign of zero.
#[test]
fn what_cannot_be_told_apart_has_no_colour() {
    let (report, samples) = report("base", 0.25);
    let page = html(&report, &samples).unwrap();
    assert!(page.contains("class=\"change open\">+0.0 points on base</p>"));
}

#[test]
fn the_harness_s_forms_hold_the_same_numbers() {
    let (report, samples) = report("final", 0.8);
    let results = candlewick_eval::report::harness_results(&report);
    let accuracy = report.benchmarks[0].results.accuracy;
    assert_eq!(results["results"]["addition"]["exact_match,math"], json!(accuracy.value));
    assert_eq!(results["results"]["addition"]["exact_match_stderr,math"], json!(accuracy.standard_error));
    assert!(results["results"]["addition"]["exact_match,lenient"].is_number());
    let lines = candlewick_eval::report::harness_samples(&report.benchmarks[0], &samples[0]);
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    // The report was not graded under the harness's own filters, so there is one line a problem.
    assert_eq!(lines.len(), 200);
    let mean = lines.iter().map(|line| line["exact_match"].as_f64().unwrap()).sum::<f64>() / 200.0;
    assert!((mean - accuracy.value).abs() < 1e-12);
    assert_eq!(lines[3]["resps"][0].as_array().unwrap().len(), 8);
}

#[test]
fn reports_are_compared_where_they_share_problems() {
    let ((weak, _), (strong, _)) = (report("weak", 0.3), report("strong", 0.9));
    let (text, comparisons) = compare_reports(&[weak.clone(), strong.clone()], 0).unwrap();
    assert_eq!(comparisons.len(), 2);
    assert!(text.contains("strong is better than weak") && !text.contains("0.000"), "{text}");
    assert!(text.contains("< 0.001") && !text.contains("warning"), "{text}");
    let mut other = strong;
    other.benchmarks[0].protocol.sampling.clear();
    let (text, compared) = compare_reports(&[weak.clone(), other.clone()], 0).unwrap();
    assert_eq!(compared[0].differences, ["temperature 0, not 0.6", "top_p off, not 0.95"]);
    assert!(compared[1].differences.is_empty());
    assert!(
        text.contains("\n  warning: asked otherwise than weak, so that the difference may not be the model's: temperature 0, not 0.6;"),
        "{text}"
    );
    other.benchmarks.iter_mut().for_each(|entry| entry.data.sha256 = "0".into());
    assert!(matches!(compare_reports(&[weak, other], 0), Err(Error::NotComparable(_))));
}

#[test]
fn bad_input_is_refused_in_one_line() {
    let (benchmark, items, _) = benchmark("addition", 5);
    let math = MathGrader::new(GradeConfig::default());
    let mut samples = grade(&benchmark, &math, &items, completions(&items, 2, 0.5, "x")).unwrap();
    let settings = Settings { ks: vec![4], ..Settings::new(2, 0) };
    assert!(matches!(summarise(&items, &samples, &math, &settings), Err(Error::TooFewSamples { k: 4, n: 2 })));
    assert!(matches!(summarise(&[], &[], &math, &Settings::new(1, 0)), Err(Error::Empty(_))));
    samples[3].completion.index = 0;
    let error = summarise(&items, &samples, &math, &Settings::new(2, 0)).unwrap_err().to_string();
    assert_eq!(error, "problem `1` has 1 samples where 2 were asked for");
    let (report, _) = report("final", 0.5);
    let old = serde_json::to_string(&report).unwrap().replace("candlewick-report/1", "candlewick-report/0");
    let error = Report::from_json(&old).unwrap_err().to_string();
    assert!(
        error.starts_with("report has schema `candlewick-report/0`, this version reads `candlewick-report/1`"),
        "{error}"
    );
    assert!(summary(&report).benchmarks.contains_key("addition"));
}
