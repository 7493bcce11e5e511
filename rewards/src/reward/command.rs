//! The `command` reward: a scoring program of the user's, kept running.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command as Process, Stdio};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::oneshot;

use super::{ConfigError, Item, Models, Reward, RewardError, RewardSection};

/// Rewards what a program of yours scores: JSON lines on its standard input, a score for each on its standard output.
///
/// A line in has `item` (a number), `id`, `question`, `prompt`, `completion`, `answer`, `completion_tokens`, `is_truncated`,
/// `told`, `verdict` and `meta` with every other column of the data. A line out is `{"item": 7, "score": 0.5}` or
/// `{"item": 7, "error": "why"}`, in any order, flushed. The program stays for the whole run; one that ends or falls
/// silent is started again. It is trusted: it runs as you do, with your environment. For code that a model wrote
/// there is [reward.code].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CommandConfig {
    /// The program and its arguments, such as `["python3", "score.py"]`.
    pub program: Vec<String>,
    /// Whether its scores are 1 for right and 0 for wrong, so that they can be the verdict.
    pub is_binary: bool,
    /// Copies of the program that share the work.
    #[schemars(range(min = 1))]
    pub workers: usize,
    /// Completions that a copy may have at one time.
    #[schemars(range(min = 1))]
    pub at_once: usize,
    /// Seconds of silence, while an answer is due, after which a copy is stopped and started again.
    pub timeout_seconds: f64,
}

impl Default for CommandConfig {
    fn default() -> Self {
        CommandConfig { program: Vec::new(), is_binary: false, workers: 1, at_once: 16, timeout_seconds: 60.0 }
    }
}

/// How often one completion is handed to a program before it is given up.
const ATTEMPTS: u32 = 2;
/// Longest line and longest tail of standard error that are kept, in bytes.
const LINE_BYTES: u64 = 1 << 20;
const TAIL_BYTES: usize = 400;

impl RewardSection for CommandConfig {
    fn build(&self, _: &dyn Models) -> Result<Box<dyn Reward>, ConfigError> {
        let bad = |key: &str, value: String, fix: &str| {
            Err(ConfigError::BadValue { key: format!("command.{key}"), value, fix: fix.into() })
        };
        if self.program.first().is_none_or(String::is_empty) {
            return bad(
                "program",
                "[]".into(),
                "give the program and its arguments, such as [\"python3\", \"score.py\"]",
            );
        }
        if let Some((key, _)) = [("workers", self.workers), ("at_once", self.at_once)].iter().find(|(_, n)| *n == 0) {
            return bad(key, "0".into(), "give at least 1");
        }
        if !(self.timeout_seconds > 0.0 && self.timeout_seconds < 1e7) {
            return bad("timeout_seconds", self.timeout_seconds.to_string(), "give a number above 0");
        }
        Ok(Box::new(Command::new(self.clone())))
    }
}

struct Command {
    config: CommandConfig,
    workers: Mutex<Vec<Sender<Job>>>,
    next: AtomicUsize,
    restarts: Arc<AtomicU64>,
    /// The copy that was tried at the start, for the first worker that needs one.
    spare: Arc<Mutex<Option<Program>>>,
}

/// A completion to score and where the score goes.
struct Job {
    item: Value,
    attempts: u32,
    reply: oneshot::Sender<Result<f64, String>>,
}

impl Command {
    fn new(config: CommandConfig) -> Self {
        Command {
            config,
            workers: Mutex::new(Vec::new()),
            next: AtomicUsize::new(0),
            restarts: Arc::default(),
            spare: Arc::default(),
        }
    }

    /// The sender of the worker whose turn it is; workers are started by the first call.
    fn worker(&self) -> Sender<Job> {
        let mut workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        while workers.len() < self.config.workers {
            let (sender, jobs) = channel();
            let (config, restarts, spare) = (self.config.clone(), Arc::clone(&self.restarts), Arc::clone(&self.spare));
            let worker = Worker { config, jobs, restarts, spare, starts: 0, heard: Instant::now() };
            std::thread::spawn(move || worker.work());
            workers.push(sender);
        }
        workers[self.next.fetch_add(1, Ordering::Relaxed) % workers.len()].clone()
    }

    async fn one(&self, item: &Item) -> Result<f64, RewardError> {
        let (reply, answer) = oneshot::channel();
        let job = Job { item: item.to_json(), attempts: 0, reply };
        let is_sent = self.worker().send(job).is_ok();
        let score = match answer.await {
            Ok(score) if is_sent => score,
            _ => Err("its worker has ended".into()),
        };
        let score = score.map_err(|message| RewardError::failed("command", message))?;
        if self.config.is_binary && score != 0.0 && score != 1.0 {
            return Err(RewardError::failed("command", format!("`{score}` is neither 0 nor 1, as `is_binary` says")));
        }
        Ok(score)
    }
}

#[async_trait]
impl Reward for Command {
    fn name(&self) -> &str {
        "command"
    }

    async fn score(&self, items: &[Item]) -> Vec<Result<f64, RewardError>> {
        futures_util::future::join_all(items.iter().map(|item| self.one(item))).await
    }

    fn is_binary(&self) -> bool {
        self.config.is_binary
    }

    async fn start(&self) -> Result<Vec<String>, RewardError> {
        let mut program = Program::start(&self.config).map_err(|message| RewardError::failed("command", message))?;
        // One that ends at once, a script with an error say, is found before anything is sampled.
        tokio::time::sleep(Duration::from_millis(200)).await;
        match program.child.try_wait() {
            Ok(None) => {
                *self.spare.lock().unwrap_or_else(PoisonError::into_inner) = Some(program);
                Ok(Vec::new())
            }
            _ => Err(RewardError::failed("command", program.end())),
        }
    }

    async fn figures(&self, _: usize) -> Vec<(String, f64)> {
        vec![("restarts".into(), self.restarts.swap(0, Ordering::Relaxed) as f64)]
    }
}

/// A thread that keeps one copy of the program busy. It ends with its reward.
struct Worker {
    config: CommandConfig,
    jobs: Receiver<Job>,
    restarts: Arc<AtomicU64>,
    spare: Arc<Mutex<Option<Program>>>,
    starts: usize,
    /// When an answer last came, or became due.
    heard: Instant,
}

impl Worker {
    fn work(mut self) {
        let mut program: Option<Program> = None;
        let mut due: VecDeque<(u64, Job)> = VecDeque::new();
        let mut number = 0;
        loop {
            if due.is_empty() {
                let Ok(job) = self.jobs.recv() else { return };
                number += 1;
                due.push_back((number, job));
                self.heard = Instant::now();
                self.send(&mut program, &mut due, 0);
            }
            while due.len() < self.config.at_once {
                let Ok(job) = self.jobs.try_recv() else { break };
                number += 1;
                due.push_back((number, job));
                let last = due.len() - 1;
                self.send(&mut program, &mut due, last);
            }
            let Some(running) = &mut program else { continue };
            let message = match listen(running, &mut due) {
                Ok(true) => {
                    self.heard = Instant::now();
                    continue;
                }
                Ok(false) if self.heard.elapsed().as_secs_f64() < self.config.timeout_seconds => continue,
                Ok(false) => format!("the program was silent for {} s", self.config.timeout_seconds),
                Err(message) => message,
            };
            program = None;
            self.again(&mut program, &mut due, &message);
        }
    }

    /// Hands the jobs from `first` on to the program, which is started if there is none.
    fn send(&mut self, program: &mut Option<Program>, due: &mut VecDeque<(u64, Job)>, first: usize) {
        if program.is_none() {
            let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).take();
            match spare.map_or_else(|| Program::start(&self.config), Ok) {
                Ok(started) => {
                    self.restarts.fetch_add(u64::from(self.starts > 0), Ordering::Relaxed);
                    self.starts += 1;
                    *program = Some(started);
                }
                Err(message) => {
                    due.drain(..).for_each(|(_, job)| drop(job.reply.send(Err(message.clone()))));
                    return;
                }
            }
        }
        let Some(running) = program else { return };
        for (number, job) in due.iter_mut().skip(first) {
            job.attempts += 1;
            let mut line = job.item.clone();
            line["item"] = (*number).into();
            // A program that has ended is noticed when its answers stop.
            let _ = running.lines_in.send(format!("{line}\n"));
        }
    }

    /// After a program's end: what was tried often enough is given up, the rest goes to a new one.
    fn again(&mut self, program: &mut Option<Program>, due: &mut VecDeque<(u64, Job)>, message: &str) {
        let jobs: Vec<_> = due.drain(..).collect();
        for (number, job) in jobs {
            if job.attempts >= ATTEMPTS {
                let _ = job.reply.send(Err(format!("{message} ({} attempts)", job.attempts)));
            } else {
                due.push_back((number, job));
            }
        }
        if !due.is_empty() {
            self.heard = Instant::now();
            self.send(program, due, 0);
        }
    }
}

/// Takes the next line, if one comes soon, and the score in it; whether one came.
///
/// Errors: the program has ended.
fn listen(program: &mut Program, due: &mut VecDeque<(u64, Job)>) -> Result<bool, String> {
    let line = match program.lines_out.recv_timeout(Duration::from_millis(20)) {
        Ok(line) => line,
        Err(RecvTimeoutError::Timeout) => return Ok(false),
        Err(RecvTimeoutError::Disconnected) => return Err(program.end()),
    };
    let shown = || line.chars().take(80).collect::<String>();
    let answer: Value = serde_json::from_str(&line).unwrap_or(Value::Null);
    let place = answer["item"].as_u64().and_then(|n| due.iter().position(|(number, _)| *number == n));
    // A line that names no item belongs to the one that has waited longest.
    let Some((_, job)) = due.remove(place.unwrap_or(0)) else { return Ok(true) };
    let score = match (place, answer["score"].as_f64(), answer["error"].as_str()) {
        (Some(_), Some(score), _) if score.is_finite() => Ok(score),
        (Some(_), None, Some(error)) => Err(error.to_owned()),
        _ => Err(format!("the program wrote `{}`: it must write {{\"item\": N, \"score\": X}}", shown())),
    };
    let _ = job.reply.send(score);
    Ok(true)
}

/// A running copy. Dropping it kills it and whatever it started in its process group.
struct Program {
    child: Child,
    lines_in: Sender<String>,
    lines_out: Receiver<String>,
    tail: Arc<Mutex<String>>,
}

impl Program {
    fn start(config: &CommandConfig) -> Result<Self, String> {
        let name = &config.program[0];
        let mut process = Process::new(name);
        process.args(&config.program[1..]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut process, 0);
        let mut child = process.spawn().map_err(|error| format!("`{name}` cannot be started: {error}"))?;
        let (Some(mut stdin), Some(stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(format!("`{name}` has no pipes"));
        };
        let (lines_in, to_write) = channel::<String>();
        let (read, lines_out) = channel();
        let tail = Arc::new(Mutex::new(String::new()));
        std::thread::spawn(move || {
            // Ends when the program does or when nobody sends any more; then its input is closed.
            while let Ok(line) = to_write.recv() {
                if stdin.write_all(line.as_bytes()).and_then(|()| stdin.flush()).is_err() {
                    return;
                }
            }
        });
        std::thread::spawn(move || {
            let mut reader = BufReader::new(stdout);
            let mut line = Vec::new();
            while reader.by_ref().take(LINE_BYTES).read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                let text = String::from_utf8_lossy(&line).trim().to_owned();
                line.clear();
                if !text.is_empty() && read.send(text).is_err() {
                    return;
                }
            }
        });
        let kept = Arc::clone(&tail);
        std::thread::spawn(move || {
            let mut reader = BufReader::new(stderr);
            let mut line = Vec::new();
            while reader.by_ref().take(LINE_BYTES).read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.push_str(&String::from_utf8_lossy(&line));
                line.clear();
                let cut = kept.len().saturating_sub(TAIL_BYTES);
                let cut = (cut..kept.len()).find(|&at| kept.is_char_boundary(at)).unwrap_or(0);
                kept.drain(..cut);
            }
        });
        Ok(Program { child, lines_in, lines_out, tail })
    }

    /// How it ended, with the end of what it wrote to standard error.
    fn end(&mut self) -> String {
        let deadline = Instant::now() + Duration::from_secs(1);
        let status = loop {
            match self.child.try_wait() {
                Ok(Some(status)) => break status.to_string(),
                _ if Instant::now() > deadline => break "it closed its output".into(),
                _ => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        std::thread::sleep(Duration::from_millis(20));
        let tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner).trim().to_owned();
        let tail = if tail.is_empty() { String::new() } else { format!(": {}", tail.replace('\n', " | ")) };
        format!("the program ended ({status}){tail}")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            crate::sandbox::kill_group(&self.child);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
#[path = "command_tests.rs"]
mod tests;
