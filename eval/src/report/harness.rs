//! The results JSON and samples JSONL of EleutherAI's lm-evaluation-harness, so that tools that read those read
//! ours. Fields the harness has and we have no counterpart for are left out rather than invented.

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use candlewick_rewards::math::GradeConfig;
use candlewick_rewards::math::compat::Mode;

use super::{Entry, Report};
use crate::benchmark::Item;
use crate::grading::{Grade, PeerGrader, Verdict};
use crate::sample::Sample;

/// `results_<time>.json`: accuracy as `exact_match` under the primary grader's name and every sensitivity mode,
/// with standard errors clustered by problem; pass@k and maj@k where there are several samples.
pub fn harness_results(report: &Report) -> Value {
    let identity = &report.identity;
    let by_task = |value: &dyn Fn(&Entry) -> Value| -> Value {
        let of = |entry: &Entry| (entry.data.benchmark.clone(), value(entry));
        Value::Object(report.benchmarks.iter().map(of).collect())
    };
    json!({
        "results": by_task(&task_results),
        "configs": by_task(&|entry| json!({
            "task": entry.data.benchmark,
            "dataset_path": entry.data.source,
            "output_type": "generate_until",
            "num_fewshot": entry.protocol.shots,
            "repeats": entry.results.samples,
            "generation_kwargs": generation(entry),
        })),
        "versions": by_task(&|_| json!(super::SCHEMA)),
        "n-shot": by_task(&|entry| json!(entry.protocol.shots)),
        "higher_is_better": by_task(&|_| json!({ "exact_match": true })),
        "n-samples": by_task(&|entry| json!({
            "original": entry.data.published_items.unwrap_or(entry.data.items),
            "effective": entry.data.items,
        })),
        "config": {
            "model": "candlewick",
            "model_args": { "pretrained": identity.model, "revision": identity.revision, "dtype": identity.dtype },
            "device": identity.device,
            "random_seed": identity.seed,
        },
        "git_hash": identity.commit,
        "date": identity.date,
        "model_name": identity.model,
        "model_source": "candlewick",
        "chat_template_sha": identity.template_sha256,
        "task_hashes": by_task(&|entry| json!(entry.data.sha256)),
        "total_evaluation_time_seconds": identity.seconds.to_string(),
    })
}

fn task_results(entry: &Entry) -> Value {
    let mut task = Map::new();
    task.insert("alias".to_owned(), json!(entry.data.benchmark));
    let mut put = |metric: &str, filter: &str, value: f64, error: f64| {
        task.insert(format!("{metric},{filter}"), json!(value));
        task.insert(format!("{metric}_stderr,{filter}"), json!(error));
    };
    let primary = entry.protocol.grader.as_str();
    let accuracy = &entry.results.accuracy;
    put("exact_match", primary, accuracy.value, accuracy.standard_error);
    for mode in entry.sensitivity.iter().filter(|mode| mode.name != primary) {
        put("exact_match", filter(&mode.name), mode.accuracy.value, mode.accuracy.standard_error);
    }
    for (name, curve) in [("pass", &entry.results.pass), ("maj", &entry.results.majority)] {
        for at in curve.iter().filter(|at| at.k > 1) {
            put(&format!("{name}@{}", at.k), primary, at.estimate.value, at.estimate.standard_error);
        }
    }
    Value::Object(task)
}

fn generation(entry: &Entry) -> Value {
    let mut arguments: Map<String, Value> =
        entry.protocol.sampling.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
    arguments.insert("max_gen_toks".to_owned(), json!(entry.protocol.max_tokens));
    arguments.insert("until".to_owned(), json!(entry.protocol.stop));
    Value::Object(arguments)
}

/// The harness's name of a filter that we grade under too.
fn filter(mode: &str) -> &str {
    match mode {
        "gsm8k_strict" => "strict-match",
        "gsm8k_flexible" => "flexible-extract",
        other => other,
    }
}

/// `samples_<task>_<time>.jsonl`: a line a problem and filter with all samples, in the order in which the problems first
/// occur in `samples`; ends in a line break. The filters are the primary grader and, where the report was graded under
/// them too, the two of the harness's gsm8k.
pub fn harness_samples(entry: &Entry, samples: &[Sample]) -> String {
    let mut order: Vec<&str> = Vec::new();
    let mut of_item: std::collections::HashMap<&str, Vec<&Sample>> = std::collections::HashMap::new();
    for sample in samples {
        let id = sample.completion.item.as_str();
        of_item
            .entry(id)
            .or_insert_with(|| {
                order.push(id);
                Vec::new()
            })
            .push(sample);
    }
    let mut out = String::new();
    for (doc_id, id) in order.into_iter().enumerate() {
        let mut samples = of_item.remove(id).unwrap_or_default();
        samples.sort_by_key(|sample| sample.completion.index);
        let Some(first) = samples.first() else {
            continue;
        };
        let graded: Vec<&Verdict> = samples.iter().map(|sample| &sample.verdict).collect();
        lines(&mut out, entry, doc_id, &samples, &entry.protocol.grader, &graded);
        for mode in [Mode::Gsm8kStrict, Mode::Gsm8kFlexible] {
            let grader = PeerGrader::new(mode, GradeConfig::default());
            if entry.sensitivity.iter().any(|mode| mode.name == grader.name()) {
                let item = item(first);
                let verdicts: Vec<Verdict> =
                    samples.iter().map(|sample| grader.grade(&item, &sample.completion.text)).collect();
                lines(&mut out, entry, doc_id, &samples, filter(grader.name()), &verdicts.iter().collect::<Vec<_>>());
            }
        }
    }
    out
}

/// What a peer's mode needs of a problem.
fn item(sample: &Sample) -> Item {
    Item {
        id: sample.completion.item.clone(),
        problem: String::new(),
        answer: sample.answer.clone(),
        solution: None,
        groups: Default::default(),
        tolerance: None,
    }
}

/// One problem under one filter.
fn lines(out: &mut String, entry: &Entry, doc_id: usize, samples: &[&Sample], filter: &str, verdicts: &[&Verdict]) {
    let first = &samples[0].completion;
    let doc = json!({ "id": first.item, "answer": samples[0].answer });
    let extracted = |verdict: &&Verdict| verdict.extracted.clone().unwrap_or_else(|| "[invalid]".to_owned());
    let right = verdicts.iter().filter(|verdict| verdict.correct).count();
    let line = json!({
        "doc_id": doc_id,
        "doc": doc,
        "target": samples[0].answer,
        "arguments": { "gen_args_0": { "arg_0": first.prompt, "arg_1": generation(entry) } },
        "resps": [samples.iter().map(|sample| &sample.completion.text).collect::<Vec<_>>()],
        "filtered_resps": verdicts.iter().map(extracted).collect::<Vec<_>>(),
        "filter": filter,
        "metrics": ["exact_match"],
        "exact_match": right as f64 / samples.len() as f64,
        "doc_hash": hash(&doc.to_string()),
        "prompt_hash": hash(&first.prompt),
        "target_hash": hash(&samples[0].answer),
    });
    out.push_str(&line.to_string());
    out.push('\n');
}

fn hash(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}
