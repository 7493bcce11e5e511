//! Runs of the program with rewards that programs, services and models give.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;

use crate::reward_models::with_tokenizer;

const CONFIG: &str = r#"
[run]
steps = 2
save_every = 1
tensorboard = false
[model]
path = "configs/quickstart"
[data]
train = "generated:sums"
[data.generated]
style = "bare"
count = 64
[prompts.shuffle]
per_step = 4
[budget.rollouts.uniform]
mean = 4
[budget.tokens.fixed]
limit = 24
[rollout.discrete]
[advantage.group]
[objective.grpo]
"#;

struct Run {
    folder: tempfile::TempDir,
}

impl Run {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    /// Trains with these reward sections, under a name of its own.
    fn train(&self, name: &str, rewards: &str, more: &[&str]) -> Output {
        let config = self.folder.path().join(format!("{name}.toml"));
        std::fs::write(&config, format!("{CONFIG}{rewards}")).unwrap();
        let output = format!("run.output={}", self.folder.path().display());
        Command::new(env!("CARGO_BIN_EXE_candlewick"))
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .args(["train", &config.display().to_string(), "--set", &output])
            .args(more)
            .output()
            .unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn metrics(&self, name: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(self.path(name).join("metrics.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn succeeded(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A program that scores every other completion, and fails the others or not.
fn script(folder: &Path, other: &str) -> String {
    let path = folder.join("score.sh");
    let text = format!(
        "while read -r line; do n=${{line#*\\\"item\\\":}}; n=${{n%%[,\\}}]*}}\n\
         case $n in *[02468]) echo \"{{\\\"item\\\": $n, \\\"score\\\": 0.5}}\";; *) echo \"{{\\\"item\\\": $n, {other}}}\";; esac\ndone\n"
    );
    std::fs::write(&path, text).unwrap();
    format!("[reward.command]\nprogram = [\"sh\", \"{}\"]\n", path.display())
}

#[test]
fn a_scoring_program_and_a_reward_model_train_together() {
    let run = Run::new();
    let model = with_tokenizer("llama");
    let rewards = script(run.folder.path(), "\\\"score\\\": 1")
        + &format!(
            "[reward.reward_model]\npath = \"{}\"\n[reward.math]\nextract = \"last_number\"\n",
            model.path().display()
        );
    let out = succeeded(&run.train("both", &rewards, &[]));
    assert!(out.contains("reward reward_model: llama, "), "{out}");
    for row in run.metrics("both") {
        for key in ["reward/command", "reward/command/restarts", "reward/reward_model", "reward/math"] {
            assert!(row[key].is_number(), "{key} is not in {row}");
        }
        assert_eq!(row["reward/command/failed"], 0.0);
        let mean = row["reward/command"].as_f64().unwrap();
        assert!(mean > 0.5 && mean < 1.0, "both kinds of score are there: {mean}");
    }
}

#[test]
fn failures_are_missing_kept_and_stop_the_run() {
    let run = Run::new();
    let rewards = script(run.folder.path(), "\\\"error\\\": \\\"odd\\\"");
    let output = run.train("stops", &rewards, &[]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(error.contains("reward `command` failed on 50 %") && error.contains("odd"), "{error}");
    let text = std::fs::read_to_string(run.path("stops").join("rollouts/failures.jsonl")).unwrap();
    let first: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!((first["step"].as_u64(), first["reward"].as_str()), (Some(1), Some("command")));
    assert!(first["completion"].is_string() && first["failure"].as_str().unwrap().contains("odd"));
    let allowed = format!("[reward]\nmax_failed_share = 0.6\n{rewards}");
    succeeded(&run.train("goes_on", &allowed, &[]));
    assert_eq!(run.metrics("goes_on")[0]["reward/command/failed"], 8.0);
}

#[test]
fn doubtful_answers_are_counted_at_the_start() {
    let run = Run::new();
    let data = run.path("data.jsonl");
    let row = |answer: &str| format!("{}\n", serde_json::json!({ "problem": "1+1=", "answer": answer }));
    let rows: String = ["2", "3", "\\frac{1}{", "4"].into_iter().map(row).collect();
    std::fs::write(&data, rows).unwrap();
    let sets = format!("data.train={}", data.display());
    let text = CONFIG.replace("[data.generated]\nstyle = \"bare\"\ncount = 64\n", "");
    let config = run.path("doubts.toml");
    std::fs::write(&config, format!("{text}[reward.math]\n")).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_candlewick"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["train", &config.display().to_string(), "--set", &sets, "--set", "run.steps=1"])
        .args(["--set", &format!("run.output={}", run.folder.path().display()), "--set", "data.conversational=false"])
        .output()
        .unwrap();
    let out = succeeded(&output);
    assert!(out.contains("reward math: 1 of 4 problems are doubtful, first `"), "{out}");
}

fn answer(mut stream: TcpStream, count: &AtomicUsize) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    count.fetch_add(1, Ordering::SeqCst);
    let yes = body.iter().map(|b| u32::from(*b)).sum::<u32>() % 2 == 0;
    let text = format!("{{\"choices\": [{{\"message\": {{\"content\": \"{}\"}}}}]}}", if yes { "YES" } else { "NO" });
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", text.len());
    stream.write_all((head + &text).as_bytes()).unwrap();
}

/// A judge on loopback: its address, and how often it was asked.
fn judge() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let count = Arc::new(AtomicUsize::new(0));
    let asked = count.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let asked = asked.clone();
            std::thread::spawn(move || answer(stream, &asked));
        }
    });
    (url, count)
}

#[test]
fn a_resumed_run_asks_its_judge_nothing_twice() {
    let run = Run::new();
    let (url, count) = judge();
    // The completions are bare sums, so their last line is what is judged.
    let rewards =
        format!("[reward.judge]\nbase_url = \"{url}\"\nmodel = \"m\"\nsend = \"last_step\"\ncanary_every = 0\n");
    succeeded(&run.train("judged", &rewards, &[]));
    let asked = count.load(Ordering::SeqCst);
    assert!(asked > 0, "nobody was asked");
    let metrics = run.metrics("judged");
    std::fs::remove_dir_all(run.path("judged").join("checkpoints/2")).unwrap();
    let out = succeeded(&run.train("judged", &rewards, &["--resume"]));
    assert!(out.contains("resumed after step 1") && out.contains("are in the cache"), "{out}");
    assert_eq!(count.load(Ordering::SeqCst), asked, "the repeated step asked again");
    assert_eq!(run.metrics("judged")[1]["reward/judge"], metrics[1]["reward/judge"]);
}
