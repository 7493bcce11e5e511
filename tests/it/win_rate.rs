//! Win rates against a baseline, by verdict and by a judge on loopback: of reports, of open prompts, and of a run.

use std::path::Path;

use candlewick_eval::metrics::Decider;
use candlewick_eval::report::Report;
use serde_json::{Value, json};

use crate::program::{Done, Folder};
use loopback::{Answer, Loopback};

#[path = "../../rewards/src/reward/loopback.rs"]
#[allow(dead_code)]
mod loopback;

fn root(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name).display().to_string()
}

/// A judge that prefers the longer answer, or the one shown first, or says something that is no verdict.
fn server(what: &'static str) -> Loopback {
    Loopback::new(move |_, body| {
        let prompt = body["messages"][0]["content"].as_str().unwrap();
        let part = |from: &str, to: &str| prompt.split(from).nth(1).unwrap().split(to).next().unwrap().trim().len();
        let (first, second) = (part("<<<A\n", "\nA>>>"), part("<<<B\n", "\nB>>>"));
        let word = match what {
            "longer" if first > second => "A",
            "longer" if first < second => "B",
            "longer" => "TIE",
            other => other,
        };
        Answer::Json(json!({ "choices": [{ "message": { "content": word } }] }))
    })
}

fn write_judge(folder: &Folder, url: &str) {
    folder.write(
        "judge.toml",
        &format!("base_url = \"{url}/v1\"\nmodel = \"m\"\n[service]\nretries = 0\nbackoff_seconds = 0.01\n"),
    );
}

fn json_of(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))).unwrap()
}

/// `eval` of the quickstart checkpoint with sampled answers.
fn eval(folder: &Folder, benchmark: &str, label: &str, more: &[&str]) -> Done {
    let model = root("configs/quickstart");
    let fixed = ["eval", &model, "-b", benchmark, "--form", "base", "--limit", "30", "--temperature", "1"];
    let named = ["--samples", "2", "--label", label, "--output", label];
    let done = folder.run(&[&fixed[..], &named, more].concat());
    assert_eq!(done.status, 0, "{}", done.stderr);
    done
}

#[test]
fn reports_are_compared_by_verdict_and_by_a_judge_in_both_orders() {
    let folder = Folder::new();
    for (label, seed) in [("one", "1"), ("two", "2")] {
        eval(&folder, "generated:sums", label, &["--problems", "12", "--seed", seed]);
    }
    let sample = std::fs::read_to_string(folder.path().join("one/samples_generated_sums.jsonl")).unwrap();
    let first: Value = serde_json::from_str(sample.lines().next().unwrap()).unwrap();
    assert!(first["problem"].as_str().is_some_and(|problem| !problem.is_empty()), "{first}");

    let done = folder.run(&["compare", "one", "two", "--win-rate", "verdict", "--output", "verdict"]);
    assert_eq!(done.status, 0, "{}", done.stderr);
    assert!(done.stdout.contains("against one by verdict: win rate "), "{}", done.stdout);
    let whole = json_of(&folder.path().join("verdict/comparison.json"));
    let compared = &whole["comparisons"][0];
    let number = |value: &Value| value.as_f64().unwrap();
    let rate = &compared["win_rates"][0];
    let expected = 0.5 + 0.5 * number(&compared["comparison"]["difference"]);
    assert!((number(&rate["rate"]) - expected).abs() < 1e-12);
    assert!((number(&rate["win"]) + 0.5 * number(&rate["tie"]) - expected).abs() < 1e-12);
    assert_eq!((&rate["contests"], &rate["p"]), (&json!(12 * 4), &compared["comparison"]["p"]));

    write_judge(&folder, &server("longer").url);
    let judged = ["compare", "one", "two", "--win-rate", "judge", "--judge", "judge.toml", "--output"];
    let done = folder.run(&[&judged[..], &["longer"]].concat());
    assert_eq!(done.status, 0, "{}", done.stderr);
    assert!(done.stdout.contains("the two orders disagree on 0.0 % of "), "{}", done.stdout);
    let whole = json_of(&folder.path().join("longer/comparison.json"));
    let rate = &whole["comparisons"][0]["win_rates"][0];
    let texts = |label: &str| -> Vec<String> {
        let text = std::fs::read_to_string(folder.path().join(label).join("samples_generated_sums.jsonl")).unwrap();
        let rows = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        rows.map(|row| row["text"].as_str().unwrap().trim().to_owned()).collect()
    };
    let score = |(one, two): (String, String)| match two.len().cmp(&one.len()) {
        std::cmp::Ordering::Greater => 1.0,
        std::cmp::Ordering::Equal => 0.5,
        std::cmp::Ordering::Less => 0.0,
    };
    let scores: Vec<f64> = texts("one").into_iter().zip(texts("two")).map(score).collect();
    let mean = scores.iter().sum::<f64>() / scores.len() as f64;
    assert!((number(&rate["rate"]) - mean).abs() < 1e-12, "{rate} {mean}");
    assert_eq!((&rate["contests"], &rate["judging"]["missing"]), (&json!(24), &json!(0)));
    let contests = folder.path().join("longer/contests_generated_sums_two_against_one.jsonl");
    assert_eq!(std::fs::read_to_string(contests).unwrap().lines().count(), 24);
    for file in ["comparison.md", "comparison.html", "pairwise-cache.jsonl"] {
        assert!(folder.path().join("longer").join(file).is_file(), "{file}");
    }
    let page = std::fs::read_to_string(folder.path().join("longer/comparison.html")).unwrap();
    assert!(page.contains("<h2>Win rate</h2>") && page.contains("<svg") && page.contains("Judge m;"), "{page}");

    // A judge of positions: a half, and the report says why.
    write_judge(&folder, &server("A").url);
    let done = folder.run(&[&judged[..], &["first"]].concat());
    let rate = json_of(&folder.path().join("first/comparison.json"))["comparisons"][0]["win_rates"][0].clone();
    assert_eq!((number(&rate["rate"]), number(&rate["judging"]["disagreement"])), (0.5, 1.0));
    assert!(done.stdout.contains("100.0 % of its decided verdicts prefer the answer shown first"), "{}", done.stdout);
}

#[test]
fn what_a_judge_cannot_do_is_one_line() {
    let folder = Folder::new();
    for label in ["one", "two"] {
        let seed = if label == "one" { "1" } else { "2" };
        eval(&folder, "generated:sums", label, &["--problems", "3", "--seed", seed]);
    }
    let compare = |more: &[&str]| folder.run(&[&["compare", "one", "two"][..], more].concat());
    let refused = |more: &[&str], status: i32, expected: &str| {
        let done = compare(more);
        assert_eq!(done.status, status, "{}", done.stderr);
        let last = done.stderr.lines().last().unwrap_or_default();
        assert!(last.contains(expected) && done.stderr.lines().count() == 1, "{}", done.stderr);
    };
    let judge = ["--win-rate", "judge", "--judge", "judge.toml"];
    refused(&["--win-rate", "judge"], 2, "`--win-rate judge` needs a judge: name its settings with `--judge FILE`");
    refused(&["--win-rate", "verdict", "--judge", "judge.toml"], 2, "nothing reads `--judge judge.toml`");
    refused(&judge, 2, "the judge's settings `judge.toml` cannot be read");
    folder.write("judge.toml", "base_url = \"\"\nmodel = \"m\"\n");
    refused(&judge, 2, "the judge's settings `judge.toml`: `base_url` is ``: give an address");
    folder.write(
        "judge.toml",
        "base_url = \"http://localhost:1/v1\"\nmodel = \"m\"\n[service]\nkey_env = \"NO_SUCH_KEY_HERE\"\n",
    );
    refused(&judge, 2, "the environment variable `NO_SUCH_KEY_HERE` that `service.key_env` names is not set");
    write_judge(&folder, "http://127.0.0.1:9");
    refused(&judge, 1, "the judge gave no verdict on any of ");
    write_judge(&folder, &server("well, it depends").url);
    refused(&judge, 1, "no verdict in the judge's reply `well, it depends`");
    std::fs::remove_file(folder.path().join("two/samples_generated_sums.jsonl")).unwrap();
    refused(&judge, 1, "two/samples_generated_sums.jsonl: No such file");
}

#[test]
fn open_prompts_are_answered_and_only_a_judge_compares_them() {
    let folder = Folder::new();
    let pair = |prompt: &str, chosen: &str| {
        format!("{{\"prompt\": \"{prompt}\", \"chosen\": \"{chosen}\", \"rejected\": \"0\"}}\n")
    };
    folder.write("pairs.jsonl", &(pair("3+4=", "7") + &pair("3+4=", "8") + &pair("5+4=", "9")));
    let model = root("configs/quickstart");
    let graded = folder.run(&["eval", &model, "-b", "pairs.jsonl", "--form", "base"]);
    assert!(graded.stderr.contains("or ask prompts that have no answers as `open:pairs.jsonl`"), "{}", graded.stderr);
    for (label, seed) in [("one", "1"), ("two", "2")] {
        let done = eval(&folder, "open:pairs.jsonl", label, &["--seed", seed]);
        assert!(done.stdout.contains("open:pairs") && !done.stdout.contains("accuracy"), "{}", done.stdout);
    }
    let report = Report::read(&folder.path().join("one")).unwrap();
    // Equal prompts are asked once.
    assert_eq!((report.benchmarks.len(), report.open[0].data.items, report.open[0].samples), (0, 2, 2));
    assert_eq!(report.open[0].protocol.rendered, "3+4=");
    let text = std::fs::read_to_string(folder.path().join("one/report.json")).unwrap();
    assert!(!text.contains("\"accuracy\""), "{text}");
    let gated = folder.run(&["eval", &model, "-b", "open:pairs.jsonl", "--fail-below", "0.5"]);
    assert!(gated.status == 2 && gated.stderr.contains("open prompts have no accuracy"), "{}", gated.stderr);

    let alone = folder.run(&["compare", "one", "two"]);
    assert!(alone.status == 0 && alone.stdout.contains("open:pairs (2 open prompts)"), "{}", alone.stdout);
    let verdict = folder.run(&["compare", "one", "two", "--win-rate", "verdict"]);
    assert!(verdict.status == 1 && verdict.stderr.contains("open prompts have no verdicts"), "{}", verdict.stderr);
    write_judge(&folder, &server("longer").url);
    let judged = folder.run(&["compare", "one", "two", "--win-rate", "judge", "--judge", "judge.toml"]);
    assert_eq!(judged.status, 0, "{}", judged.stderr);
    assert!(
        judged.stdout.contains("open:pairs: two") && judged.stdout.contains("by judge: win rate"),
        "{}",
        judged.stdout
    );
}

fn train(folder: &Folder, name: &str, sets: &[&str]) -> Done {
    let output = format!("run.output={}", folder.path().display());
    let name = format!("run.name={name}");
    let model = format!("model.path={}", root("configs/quickstart"));
    let fixed = [
        "data.generated.count=192",
        "data.validation=60",
        "optim.learning_rate=1e-3",
        "eval.problems=20",
        "eval.limit=30",
        output.as_str(),
        name.as_str(),
        model.as_str(),
    ];
    let config = root("configs/dpo.toml");
    let sets = fixed.iter().chain(sets).flat_map(|set| ["--set", set]);
    let done = folder.run(&["train", &config].into_iter().chain(sets).collect::<Vec<_>>());
    assert_eq!(done.status, 0, "{}", done.stderr);
    done
}

#[test]
fn a_run_is_judged_against_its_base_and_shows_its_pairs() {
    let folder = Folder::new();
    let judge = format!("eval.judge={{ base_url = \"{}/v1\", model = \"m\" }}", server("longer").url);
    let benchmarks = "eval.benchmarks=[\"validation\", \"open:validation\"]";
    let done = train(&folder, "judged", &[benchmarks, &judge, "eval.every=2"]);
    assert!(done.stdout.contains("open:validation: the final model"), "{}", done.stdout);
    let report = Report::read(&folder.path().join("judged/report")).unwrap();
    let by: Vec<Decider> = report.benchmarks[0].against[0].win_rates.iter().map(|rate| rate.by).collect();
    assert_eq!(by, [Decider::Verdict, Decider::Judge]);
    let open = &report.open[0];
    assert_eq!((open.against[0].label.as_str(), open.against[0].win_rates.len()), ("base", 1));
    let found = report.preference.as_ref().unwrap();
    assert_eq!((found.pairs, found.flips.len(), found.histograms.len()), (20, 4, 3));
    assert_eq!(found.flips.iter().map(|flip| flip.pairs).sum::<usize>(), 20);
    for histogram in &found.histograms {
        for series in histogram.series.iter().filter(|_| !histogram.is_stacked) {
            assert_eq!(series.counts.iter().sum::<usize>(), 20, "{}", histogram.title);
        }
    }
    let points = &found.scatter.as_ref().unwrap().points;
    assert!(points.iter().all(|dot| dot.is_right == (dot.y <= (1.0 + (-dot.x).exp()).ln() + 1e-9)));
    let curve = |figure: &str, name: &str| {
        let found = report.training.iter().find(|c| c.figure.as_deref() == Some(figure) && c.name == name);
        found.unwrap_or_else(|| panic!("{figure}: {name}")).points.iter().map(|p| p.step).collect::<Vec<_>>()
    };
    assert_eq!(curve("ranking accuracy of held-out pairs", "reference"), [0.0, 2.0, 4.0, 6.0]);
    assert_eq!(curve("reward margin of pairs", "training batch").len(), 6);
    assert_eq!(curve("log-probs of held-out answers", "chosen")[0], 0.0);
    let page = std::fs::read_to_string(folder.path().join("judged/report/report.html")).unwrap();
    for part in [
        "<h2>Preferences</h2>",
        "<h2>Win rate</h2>",
        "Flips: ranked by the reference",
        "hard pairs, beta c",
        "<circle class=\"pair",
    ] {
        assert!(page.contains(part), "{part}");
    }
    assert!(!page.contains("NaN"));
    let markdown = std::fs::read_to_string(folder.path().join("judged/report/report.md")).unwrap();
    assert!(markdown.contains("## Preferences") && markdown.contains("## Win rate"));
    for file in [
        "contests_validation_against_base.jsonl",
        "contests_open_validation_against_base.jsonl",
        "samples_open_validation.jsonl",
        "samples_open_validation_base.jsonl",
        "pairs_1.svg",
        "pairs_threshold.svg",
        "ranking.svg",
        "margin.svg",
    ] {
        assert!(folder.path().join("judged/report").join(file).is_file(), "{file}");
    }
}

/// A judge that is down costs the win rate, not the run; a run on pairs has a page without any benchmark.
#[test]
fn a_judge_that_is_down_does_not_end_a_run() {
    let folder = Folder::new();
    let judge = "eval.judge={ base_url = \"http://127.0.0.1:9/v1\", model = \"m\", service = { retries = 0 } }";
    let done = train(&folder, "down", &["eval.benchmarks=[\"open:validation\"]", judge]);
    assert!(done.stdout.contains("the judge gave no verdict on any of "), "{}", done.stdout);
    let report = Report::read(&folder.path().join("down/report")).unwrap();
    assert!(
        report.open[0].against[0].win_rates.is_empty()
            && report.open[0].warnings.iter().any(|w| w.contains("no verdict"))
    );
    let alone = train(&folder, "alone", &["eval.benchmarks=[]"]);
    assert!(alone.stdout.contains("alone/report/report.html"), "{}", alone.stdout);
    let report = Report::read(&folder.path().join("alone/report")).unwrap();
    assert!(report.benchmarks.is_empty() && report.preference.is_some());
}

#[test]
fn open_prompts_of_a_run_need_a_judge() {
    let folder = Folder::new();
    folder.write_model();
    let config = crate::program::ONLINE;
    let refused =
        folder.refuses(config, &["--set", "eval.benchmarks=[\"open:validation\"]", "--set", "data.validation=9"]);
    assert!(
        refused
            .contains("nothing can decide the prompts of `open:validation`, which have no answers: add [eval.judge]"),
        "{refused}"
    );
    let judge = "eval.judge={ base_url = \"here\", model = \"m\" }";
    let refused = folder.refuses(config, &["--set", "eval.benchmarks=[\"generated:sums\"]", "--set", judge]);
    assert!(refused.contains("`eval.judge.base_url` is `here/chat/completions`: give an address"), "{refused}");
    let good = "eval.judge={ base_url = \"http://localhost:1/v1\", model = \"m\" }";
    let refused = folder.refuses(config, &["--set", "eval.benchmarks=[]", "--set", good]);
    assert!(refused.contains("nothing reads [eval.judge]"), "{refused}");
}
