//! Runs that are interrupted, killed, or have nowhere to write; adapters end to end.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

const QUICKSTART: &str = "configs/quickstart.toml";

/// Eight small steps, saved every second one.
const SHORT: [&str; 6] = [
    "run.steps=8",
    "data.validation=40",
    "eval.every=0",
    "run.save_every=2",
    "run.keep_last=9",
    "prompts.shuffle.per_step=6",
];

fn arguments(output: &Path, name: &str, sets: &[&str]) -> Vec<String> {
    let mut arguments: Vec<String> = ["train", QUICKSTART].map(str::to_owned).to_vec();
    let own = [format!("run.output={}", output.display()), format!("run.name={name}")];
    for set in own.into_iter().chain(sets.iter().map(|s| s.to_string())) {
        arguments.extend(["--set".to_owned(), set]);
    }
    arguments
}

fn command(output: &Path, name: &str, sets: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_candlewick"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).env("NO_COLOR", "1").args(arguments(output, name, sets));
    command
}

fn done(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

#[track_caller]
fn succeed(mut command: Command) -> String {
    let (status, out, err) = done(&command.output().unwrap());
    assert_eq!(status, 0, "{out}{err}");
    out
}

fn resume(output: &Path, name: &str, sets: &[&str]) -> String {
    let mut command = command(output, name, sets);
    command.arg("--resume");
    succeed(command)
}

fn wait_for(child: &mut Child, what: impl Fn() -> bool) -> bool {
    let started = Instant::now();
    while !what() {
        assert!(started.elapsed() < Duration::from_secs(120), "it took too long");
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    true
}

#[track_caller]
fn same(output: &Path, a: &str, b: &str, files: &[&str]) {
    for file in files {
        let read = |name: &str| std::fs::read(output.join(name).join("checkpoints/8").join(file)).unwrap();
        assert!(read(a) == read(b), "{file} of {a} and {b} differ");
    }
    let losses = |name: &str| -> Vec<Value> {
        let text = std::fs::read_to_string(output.join(name).join("metrics.jsonl")).unwrap();
        text.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()["objective/loss"].clone()).collect()
    };
    assert_eq!(losses(a), losses(b));
}

fn lines(path: &Path) -> usize {
    std::fs::read_to_string(path).map_or(0, |text| text.lines().count())
}

#[test]
fn ctrl_c_finishes_the_step_saves_and_says_how_to_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path();
    let sets = [&SHORT[..], &["run.save_every=0", "prompts.shuffle.per_step=24"]].concat();
    succeed(command(output, "whole", &sets));
    let mut child = command(output, "cut", &sets).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let metrics = output.join("cut/metrics.jsonl");
    assert!(wait_for(&mut child, || lines(&metrics) >= 1), "the run ended before it could be interrupted");
    interrupt(&child);
    let (status, out, err) = done(&child.wait_with_output().unwrap());
    assert_eq!(status, 130, "{out}{err}");
    let step = lines(&metrics);
    assert!(err.contains("finishing this step; Ctrl-C again ends at once"), "{err}");
    assert!(out.contains(&format!("stopped after step {step}: ")) && out.contains("`--resume`"), "{out}");
    assert!(output.join(format!("cut/checkpoints/{step}/state.json")).exists(), "nothing was saved");
    assert!(resume(output, "cut", &sets).contains(&format!("resumed after step {step}")));
    same(output, "whole", "cut", &["model.safetensors", "optimizer.safetensors"]);
}

fn interrupt(child: &Child) {
    let status = Command::new("sh").args(["-c", &format!("kill -INT {}", child.id())]).status().unwrap();
    assert!(status.success());
}

/// A test of a run stops between two tokens, not at its end, and what it lacks is made up for on resume.
#[test]
fn ctrl_c_stops_a_test_and_the_resumed_run_makes_up_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path();
    // Tests take far longer than steps, so that the signals fall into them.
    let sets = [
        "run.steps=2",
        "run.save_every=0",
        "data.validation=100",
        "prompts.shuffle.per_step=4",
        "eval.every=1",
        "eval.samples=16",
        "eval.temperature=1",
        "eval.benchmarks=[\"validation\"]",
    ];
    succeed(command(output, "whole", &sets));
    let pipes = |mut command: Command| command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // 1. Before the first step: completions of the base model are kept.
    let mut child = pipes(command(output, "cut", &sets));
    let journal = output.join("cut/report/unfinished_validation.jsonl");
    assert!(wait_for(&mut child, || lines(&journal) > 20), "the run ended before it could be interrupted");
    interrupt(&child);
    let (status, out, err) = done(&child.wait_with_output().unwrap());
    assert_eq!(status, 130, "{out}{err}");
    assert!(out.contains("stopped after step 0: ") && lines(&journal) < 1601, "{out}");
    // 2. In the test after the first step: the step is kept, the test is not.
    let mut again = command(output, "cut", &sets);
    again.arg("--resume");
    let mut child = pipes(again);
    let metrics = output.join("cut/metrics.jsonl");
    assert!(wait_for(&mut child, || lines(&metrics) == 1), "the run ended before it could be interrupted");
    interrupt(&child);
    let (status, out, err) = done(&child.wait_with_output().unwrap());
    assert_eq!(status, 130, "{out}{err}");
    assert!(out.contains("stopped after step 1: ") && !out.contains("      eval  "), "{out}");
    // 3. The resumed run tests first, and ends as the whole one did.
    let out = resume(output, "cut", &sets);
    assert!(out.find("      eval  ").unwrap() < out.find("step    2/2").unwrap(), "{out}");
    let state = |name: &str| -> Value {
        let path = output.join(name).join("checkpoints/2/state.json");
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    };
    for key in ["evaluations", "held_out", "best"] {
        assert_eq!(state("whole")[key], state("cut")[key], "{key}");
    }
    let weights = |name: &str| std::fs::read(output.join(name).join("checkpoints/2/model.safetensors")).unwrap();
    assert!(weights("whole") == weights("cut"), "the weights differ");
}

/// `eval` and `probe` stopped by Ctrl-C end with status 130 as `train` does, and the same command goes on.
#[test]
fn ctrl_c_stops_eval_and_probe_with_a_status_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let out = |name: &str| folder.path().join(name).display().to_string();
    let (report, rates) = (out("report"), out("rates.jsonl"));
    let eval = ["eval", "configs/quickstart", "-b", "validation", "--config", QUICKSTART, "--output", &report];
    let eval = [&eval[..], &["--samples", "16", "--temperature", "1"]].concat();
    let probe = ["probe", QUICKSTART, "--rollouts", "16", "--set", "data.generated.count=400", "--output", &rates];
    for (words, file, least) in [(&eval[..], "report/unfinished/validation.jsonl", 20), (&probe[..], "rates.jsonl", 2)]
    {
        let command = || {
            let mut command = Command::new(env!("CARGO_BIN_EXE_candlewick"));
            command.current_dir(env!("CARGO_MANIFEST_DIR")).env("NO_COLOR", "1").args(words);
            command
        };
        let mut child = command().stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let file = folder.path().join(file);
        assert!(wait_for(&mut child, || lines(&file) > least), "{} ended before it could be interrupted", words[0]);
        interrupt(&child);
        let (status, out, err) = done(&child.wait_with_output().unwrap());
        assert_eq!(status, 130, "{out}{err}");
        let told = format!("{out}{err}");
        assert!(told.contains("the same command goes on from there") && !err.contains("error"), "{told}");
        let kept = lines(&file);
        let (status, out, err) = done(&command().output().unwrap());
        assert_eq!(status, 0, "{out}{err}");
        // The first line of either file holds the settings.
        let taken = format!("{out}{err}");
        assert!(taken.contains(&format!(" {} ", kept - 1)), "{kept} lines were kept: {taken}");
    }
}

/// Killed again and again, in whatever it was doing, until it is through.
#[test]
fn a_run_killed_at_any_moment_ends_as_if_it_had_not_been() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path();
    succeed(command(output, "whole", &SHORT));
    let mut delay = 40;
    let mut kills = 0;
    let config = output.join("killed/config.toml");
    loop {
        let mut next = command(output, "killed", &SHORT);
        if config.exists() {
            next.arg("--resume");
        }
        let mut child = next.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let started = Instant::now();
        if !wait_for(&mut child, || started.elapsed() > Duration::from_millis(delay)) {
            let status = child.wait().unwrap();
            assert!(status.success(), "after {kills} kills: {status}");
            break;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
        // Each try reaches further, with an offset that moves through the phases of a step.
        delay = delay * 5 / 4 + 17 * (kills % 3);
        assert!(kills < 60);
    }
    assert!(kills > 3, "{kills}");
    let partial = |e: &std::fs::DirEntry| e.file_name().to_string_lossy().starts_with(".partial-8");
    assert!(!std::fs::read_dir(output.join("killed/checkpoints")).unwrap().any(|e| partial(&e.unwrap())));
    same(output, "whole", "killed", &["model.safetensors", "optimizer.safetensors"]);
}

/// A limit on the size of files stands for a full disk: every write beyond it fails.
#[test]
fn a_full_disk_ends_the_run_with_one_line_and_leaves_nothing_half_written() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path();
    let arguments: Vec<String> =
        arguments(output, "full", &SHORT).iter().map(|a| format!("'{}'", a.replace('\'', r"'\''"))).collect();
    // 200 blocks of 512 (or 1024) bytes are less than the weights take and more than anything else.
    let script =
        format!("trap '' XFSZ; ulimit -f 200; exec '{}' {}", env!("CARGO_BIN_EXE_candlewick"), arguments.join(" "));
    let run = Command::new("sh").args(["-c", &script]).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    let (status, out, err) = done(&run);
    assert_eq!(status, 1, "{out}{err}");
    let errors: Vec<&str> = err.lines().filter(|l| l.starts_with("error")).collect();
    assert!(errors.len() == 1 && errors[0].contains("checkpoint") && errors[0].contains("cannot be written"), "{err}");
    assert!(!err.contains("panicked"), "{err}");
    let left: Vec<_> = std::fs::read_dir(output.join("full/checkpoints")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    // With room again, the same run goes through.
    resume(output, "full", &SHORT);
    assert!(output.join("full/checkpoints/8/state.json").exists());
}

#[test]
fn folders_that_cannot_be_written_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let (status, _, err) = done(&command(&file, "run", &SHORT).output().unwrap());
    assert!(matches!(status, 1 | 2), "{err}");
    assert!(err.contains("file") && err.contains("run.output") && !err.contains("panicked"), "{err}");
}

/// A LoRA run with a KL term: the reference is the base with the adapter off, the adapter is PEFT's, and
/// a resumed run is the run that was never stopped.
#[test]
fn adapters_train_save_and_resume() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path();
    let sets = [
        &SHORT[..],
        &[
            "model.lora.rank=4",
            "model.lora.targets=[\"q_proj\", \"v_proj\", \"down_proj\"]",
            "objective.grpo.beta=0.05",
            "optim.learning_rate=2e-3",
        ],
    ]
    .concat();
    let out = succeed(command(output, "whole", &sets));
    assert!(out.contains("trained"), "{out}");
    let last = output.join("whole/checkpoints/8");
    let config: Value = serde_json::from_slice(&std::fs::read(last.join("adapter_config.json")).unwrap()).unwrap();
    assert_eq!(
        (&config["peft_type"], &config["r"], &config["task_type"]),
        (&"LORA".into(), &4.into(), &"CAUSAL_LM".into())
    );
    assert!(!last.join("model.safetensors").exists(), "an adapter's checkpoint holds no base weights");
    let bytes = std::fs::read(last.join("adapter_model.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut names: Vec<&str> = tensors.names();
    names.sort_unstable();
    let mut wanted = Vec::new();
    for layer in 0..2 {
        for module in ["mlp.down_proj", "self_attn.q_proj", "self_attn.v_proj"] {
            for part in ["A", "B"] {
                wanted.push(format!("base_model.model.model.layers.{layer}.{module}.lora_{part}.weight"));
            }
        }
    }
    assert_eq!(names, wanted);
    for name in names {
        let is_zero = tensors.tensor(name).unwrap().data().iter().all(|b| *b == 0);
        assert!(!is_zero, "{name} was not trained");
    }
    // At first policy and reference are one; then they part.
    let metrics = std::fs::read_to_string(output.join("whole/metrics.jsonl")).unwrap();
    let kl: Vec<f64> = metrics
        .lines()
        .map(|l| serde_json::from_str::<Value>(l).unwrap()["objective/grpo/kl"].as_f64().unwrap())
        .collect();
    assert!(kl[0].abs() < 1e-6 && kl[7] > 1e-5, "{kl:?}");

    let mut child = command(output, "cut", &sets).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    assert!(wait_for(&mut child, || output.join("cut/checkpoints/4").exists()));
    child.kill().unwrap();
    child.wait().unwrap();
    resume(output, "cut", &sets);
    same(output, "whole", "cut", &["adapter_model.safetensors", "optimizer.safetensors"]);

    let mut merge = Command::new(env!("CARGO_BIN_EXE_candlewick"));
    merge.current_dir(env!("CARGO_MANIFEST_DIR")).arg("merge").arg(&last).arg(output.join("merged"));
    assert_eq!(succeed(merge), format!("checkpoint  {}\n", output.join("merged").display()));
    assert!(output.join("merged/model.safetensors").exists());
    let generation = |folder: &Path| std::fs::read(folder.join("generation_config.json")).unwrap();
    assert!(generation(&output.join("merged")) == generation(Path::new("configs/quickstart")));
}

/// Half-precision weights run on what a GPU runs: the whole loop by tensor calls, resumed bit for bit.
#[test]
fn half_precision_runs_train_and_resume() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path();
    let sets = [&SHORT[..], &["model.dtype=\"bf16\"", "optim.learning_rate=1e-3"]].concat();
    succeed(command(output, "whole", &sets));
    let bytes = std::fs::read(output.join("whole/checkpoints/8/model.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert!(tensors.iter().all(|(_, t)| t.dtype() == safetensors::Dtype::BF16));
    let bytes = std::fs::read(output.join("whole/checkpoints/8/optimizer.safetensors")).unwrap();
    let state = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert!(state.iter().all(|(_, t)| t.dtype() == safetensors::Dtype::F32));
    assert!(state.names().iter().any(|n| n.ends_with(".master")));
    let mut child = command(output, "cut", &sets).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    assert!(wait_for(&mut child, || output.join("cut/checkpoints/2").exists()));
    child.kill().unwrap();
    child.wait().unwrap();
    resume(output, "cut", &sets);
    same(output, "whole", "cut", &["model.safetensors", "optimizer.safetensors"]);
}
