//! The `code` reward: runs the answer's code against tests, in a sandbox.

use std::hash::{BuildHasher, Hasher};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use super::code_tests::{Test, parse};
use super::{ConfigError, Item, Models, Reward, RewardError, RewardSection};
use crate::sandbox::{AT_ONCE, Exit, Job, Level, Limits, Outcome, Sandbox, SandboxError, find_program};

/// Rewards code that passes tests: passed / all, plus `perfect_bonus` where all pass.
///
/// The code is the first fenced block of the language in the answer span, or in the text after the reasoning. Each test
/// is a process of its own in a sandbox: no network, no files but its own, an empty environment, limits on time, memory,
/// processes and output. Expected outputs are compared outside and never shown to the code. A test passes if the
/// process ends by itself with status 0 and prints what is expected, blanks at both ends aside.
///
/// Tests stand in a column of the data: a list of `{"input": ..., "output": ...}`, of `{"code": ..., "output": ...}`, of strings
/// of test code (`assert f(1) == 2`), or `{"inputs": [...], "outputs": [...]}`; or any of these as a JSON string.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CodeConfig {
    /// Language of the fenced block.
    pub language: String,
    /// The program that runs the code, with `{file}` for the file that holds it, such as `["node", "{file}"]`. Empty runs Python.
    pub command: Vec<String>,
    /// Name of that file.
    pub file: String,
    /// Folders and files that the program may read besides the system's, such as an interpreter elsewhere.
    pub readable: Vec<PathBuf>,
    /// Column of the data that holds the tests.
    pub column: String,
    /// Most tests of one completion; absent runs all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tests: Option<usize>,
    /// Added where every test passes.
    pub perfect_bonus: f64,
    /// Reward of a completion without code.
    pub empty_reward: f64,
    /// Only all tests count: 1 or 0, no bonus, and the first failure ends it. The reward can then be the verdict.
    pub all_or_nothing: bool,
    /// Whether a text without a fenced block is taken for code as a whole.
    pub allow_bare: bool,
    /// The least sandbox to run in; see docs/rewards.md. Lower it only for code you trust or on a machine you can lose.
    pub require: Level,
    /// Wall-clock seconds of one test.
    pub timeout_seconds: f64,
    /// Address space of one process in MiB; 0 sets no limit, for runtimes that reserve much and use little.
    pub memory_mib: u64,
    /// Processes and threads of one test.
    #[schemars(range(min = 1))]
    pub processes: u64,
    /// Largest file that a test may write, in MiB.
    pub file_mib: u64,
    /// All its files together, in MiB of memory.
    #[schemars(range(min = 1))]
    pub folder_mib: u64,
    /// Most standard output, and most standard error, in KiB; a test that writes more fails.
    #[schemars(range(min = 1))]
    pub output_kib: usize,
    /// Completions tested at one time, up to 64; 0 takes the number of processors.
    pub workers: usize,
}

impl Default for CodeConfig {
    fn default() -> Self {
        CodeConfig {
            language: "python".into(),
            command: Vec::new(),
            file: "candidate.py".into(),
            readable: Vec::new(),
            column: "tests".into(),
            max_tests: None,
            perfect_bonus: 1.0,
            empty_reward: 0.0,
            all_or_nothing: false,
            allow_bare: false,
            require: Level::Isolated,
            timeout_seconds: 5.0,
            memory_mib: 1024,
            processes: 32,
            file_mib: 16,
            folder_mib: 64,
            output_kib: 64,
            workers: 0,
        }
    }
}

impl RewardSection for CodeConfig {
    fn build(&self, _: &dyn Models) -> Result<Box<dyn Reward>, ConfigError> {
        let bad = |key: &str, value: String, fix: &str| {
            Err(ConfigError::BadValue { key: format!("code.{key}"), value, fix: fix.into() })
        };
        for (key, value) in [("perfect_bonus", self.perfect_bonus), ("empty_reward", self.empty_reward)] {
            if !value.is_finite() {
                return bad(key, value.to_string(), "give a finite number");
            }
        }
        if !(self.timeout_seconds > 0.0 && self.timeout_seconds <= 3600.0) {
            return bad("timeout_seconds", self.timeout_seconds.to_string(), "give seconds above 0, up to an hour");
        }
        for (key, count) in [("processes", self.processes), ("folder_mib", self.folder_mib)] {
            if count == 0 || count > 1 << 20 {
                return bad(key, count.to_string(), "give at least 1");
            }
        }
        if self.output_kib == 0 || self.output_kib > 1 << 20 {
            return bad("output_kib", self.output_kib.to_string(), "give at least 1");
        }
        if self.memory_mib > 1 << 30 || self.file_mib > 1 << 30 {
            return bad("memory_mib", self.memory_mib.to_string(), "give MiB, not bytes");
        }
        if self.max_tests == Some(0) {
            return bad("max_tests", "0".into(), "give at least 1");
        }
        if self.file.is_empty() || self.file.contains('/') || self.file == HARNESS_FILE {
            return bad("file", self.file.clone(), "give a plain file name");
        }
        if !self.command.is_empty() && !self.command.iter().any(|part| part.contains("{file}")) {
            return bad("command", format!("{:?}", self.command), "it must hold `{file}`, the file with the code");
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let workers = if self.workers == 0 { cores } else { self.workers };
        Ok(Box::new(Code {
            runner: Arc::new(Runner { config: self.clone(), ready: OnceLock::new(), counts: Counts::default() }),
            permits: Arc::new(Semaphore::new(workers.min(AT_ONCE))),
        }))
    }
}

/// The reward of one completion; `None` where there are no tests.
///
/// Source: the published environment of arXiv 2508.06813, which pays 0.5 for code without tests; that is missing here.
pub fn score(passed: usize, total: usize, is_empty: bool, perfect_bonus: f64, empty_reward: f64) -> Option<f64> {
    match (is_empty, total) {
        (true, _) => Some(empty_reward),
        (_, 0) => None,
        _ => Some(passed as f64 / total as f64 + if passed == total { perfect_bonus } else { 0.0 }),
    }
}

/// The code in a completion: the first fenced block of `language`, else the first fenced block, of the last
/// answer span or of what follows the reasoning; without a block the whole text, if `allow_bare`.
pub fn extract<'a>(completion: &'a str, language: &str, allow_bare: bool) -> &'a str {
    let text = completion.rsplit_once("</think>").map_or(completion, |(_, after)| after);
    let text = match text.rsplit_once("<answer>") {
        Some((_, span)) => span.split_once("</answer>").map_or(span, |(inside, _)| inside),
        None => text,
    };
    let mut first = None;
    let mut rest = text;
    while let Some((_, after)) = rest.split_once("```") {
        let (tag, body) = after.split_once('\n').unwrap_or((after, ""));
        let (code, next) = body.split_once("```").unwrap_or((body, ""));
        let tag = tag.trim().to_lowercase();
        let is_wanted = tag == language.to_lowercase() || (language == "python" && ["py", "python3"].contains(&&*tag));
        if is_wanted {
            return code;
        }
        first.get_or_insert(code);
        rest = next;
    }
    first.unwrap_or(if allow_bare { text } else { "" })
}

/// Runs the code and then the test in one namespace; prints the mark only if both came to their end. Test and mark
/// come on standard input, which the code finds empty, so that no file holds them.
const HARNESS: &str = r#"
import io, json, os, sys
def main():
    given = json.loads(sys.stdin.read())
    sys.stdin = io.StringIO("")
    out = os.dup(1)
    here = os.path.dirname(os.path.abspath(__file__))
    with open(os.path.join(here, given["file"])) as file:
        code = file.read()
    space = {"__name__": "candidate", "__file__": given["file"]}
    exec(compile(code, given["file"], "exec"), space)
    exec(compile(given["test"], "test", "exec"), space)
    sys.stdout.flush()
    os.write(out, ("\n" + given["mark"] + "\n").encode())
main()
"#;
const HARNESS_FILE: &str = "candlewick_harness.py";
/// In test code of other languages, stands for the mark that the test must print at its end.
const MARK: &str = "CANDLEWICK_MARK";

struct Code {
    runner: Arc<Runner>,
    permits: Arc<Semaphore>,
}

struct Runner {
    config: CodeConfig,
    ready: OnceLock<Result<Ready, SandboxError>>,
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    tests: AtomicU64,
    timeouts: AtomicU64,
    killed: AtomicU64,
    output_caps: AtomicU64,
    retried: AtomicU64,
    flaky: AtomicU64,
}

/// One test in this many is run twice, to see whether it comes out the same.
const CHECKED_EVERY: u64 = if cfg!(test) { 4 } else { 64 };

/// The sandbox and what it runs.
#[derive(Debug, Clone)]
struct Ready {
    sandbox: Sandbox,
    interpreter: Vec<String>,
    account: String,
}

impl Runner {
    fn ready(&self) -> Result<&Ready, SandboxError> {
        self.ready.get_or_init(|| self.prepare()).as_ref().map_err(Clone::clone)
    }

    fn prepare(&self) -> Result<Ready, SandboxError> {
        let config = &self.config;
        let findings = Sandbox::probe()?;
        let refused = findings.refused.join("; ");
        if findings.level < config.require {
            return Err(SandboxError(format!(
                "the sandbox `{}` cannot be had here, only `{}` ({refused}): allow namespaces, or accept less by \
                 `reward.code.require = \"{}\"`",
                config.require, findings.level, findings.level
            )));
        }
        let mib = |n: u64| if n == 0 { u64::MAX } else { n << 20 };
        let limits = Limits {
            wall: Duration::from_secs_f64(config.timeout_seconds),
            cpu_seconds: config.timeout_seconds.ceil() as u64 + 1,
            memory_bytes: mib(config.memory_mib),
            file_bytes: config.file_mib << 20,
            folder_bytes: config.folder_mib << 20,
            processes: config.processes,
            output_bytes: config.output_kib << 10,
            ..Limits::default()
        };
        let mut readable = config.readable.clone();
        let interpreter = match config.command.is_empty() {
            true => python(&mut readable)?,
            false => config.command.clone(),
        };
        if find_program(&interpreter[0]).is_none() {
            return Err(SandboxError(format!("there is no program `{}`: install it or give its path", interpreter[0])));
        }
        let sandbox = Sandbox { level: findings.level, limits, readable };
        let mut account = format!("code runs in the sandbox `{}`", sandbox.level);
        if !refused.is_empty() {
            account += &format!(" ({refused})");
        }
        let ready = Ready { sandbox, interpreter, account };
        if config.command.is_empty() {
            self.try_python(&ready)?;
        }
        Ok(ready)
    }

    /// Python must really run in there.
    fn try_python(&self, ready: &Ready) -> Result<(), SandboxError> {
        let test = Test::Streams { input: "7".into(), output: "49".into() };
        let outcome = ready.sandbox.run(&self.job(ready, "print(int(input()) ** 2)", &test, ""))?;
        if !passes(&outcome, &test, None) {
            let text = String::from_utf8_lossy(&outcome.stderr);
            let last = text.trim().lines().last().unwrap_or("it said nothing").to_owned();
            let what = &ready.interpreter[0];
            return Err(SandboxError(format!("`{what}` does not run in the sandbox: {:?}, {last}", outcome.exit)));
        }
        Ok(())
    }

    fn job(&self, ready: &Ready, code: &str, test: &Test, mark: &str) -> Job {
        let file = &self.config.file;
        let run = |file: &str| -> Vec<String> {
            let path = format!("{{folder}}/{file}");
            ready.interpreter.iter().map(|part| part.replace("{file}", &path)).collect()
        };
        match test {
            Test::Streams { input, .. } => Job {
                command: run(file),
                files: vec![(file.clone(), code.as_bytes().to_vec())],
                input: input.as_bytes().to_vec(),
            },
            Test::Code { code: test, .. } if self.config.command.is_empty() => Job {
                command: run(HARNESS_FILE),
                files: vec![(file.clone(), code.as_bytes().to_vec()), (HARNESS_FILE.into(), HARNESS.into())],
                input: serde_json::json!({ "file": file, "test": test, "mark": mark }).to_string().into_bytes(),
            },
            Test::Code { code: test, .. } => {
                let whole = format!("{code}\n{}\n", test.replace(MARK, mark));
                Job { command: run(file), files: vec![(file.clone(), whole.into_bytes())], input: Vec::new() }
            }
        }
    }

    /// Whether one test is passed; some are run twice, and the first run counts.
    fn passes(&self, ready: &Ready, code: &str, test: &Test) -> Result<bool, SandboxError> {
        let number = self.counts.tests.fetch_add(1, Ordering::Relaxed);
        let is_passed = self.run(ready, code, test)?;
        if number % CHECKED_EVERY == CHECKED_EVERY - 1 && self.run(ready, code, test)? != is_passed {
            self.counts.flaky.fetch_add(1, Ordering::Relaxed);
        }
        Ok(is_passed)
    }

    /// Runs one test, once more where the machine was too busy for a timeout to mean anything.
    fn run(&self, ready: &Ready, code: &str, test: &Test) -> Result<bool, SandboxError> {
        let mark = mark();
        let job = self.job(ready, code, test, &mark);
        // Python's harness prints the mark after every test; elsewhere the test's own code may.
        let has_mark = matches!(test, Test::Code { code, .. } if self.config.command.is_empty() || code.contains(MARK));
        let count = |counter: &AtomicU64| counter.fetch_add(1, Ordering::Relaxed);
        let mut outcome = ready.sandbox.run(&job)?;
        if outcome.exit == Exit::TimedOut && outcome.was_starved {
            count(&self.counts.retried);
            outcome = ready.sandbox.run(&job)?;
        }
        match outcome.exit {
            Exit::TimedOut => count(&self.counts.timeouts),
            Exit::TooMuchOutput => count(&self.counts.output_caps),
            Exit::Signal(_) => count(&self.counts.killed),
            Exit::Status(_) => 0,
        };
        Ok(passes(&outcome, test, has_mark.then_some(&*mark)))
    }

    /// The score of a completion; blocks.
    fn score(&self, item: &Item) -> Result<f64, RewardError> {
        let config = &self.config;
        let failed = |error: SandboxError| RewardError::failed("code", error);
        let tests = self.tests(item).map_err(|what| RewardError::failed("code", what))?;
        if tests.is_empty() {
            return Err(RewardError::Missing {
                reward: "code".into(),
                what: "tests",
                fix: "name their column by `reward.code.column`, or drop rows without any",
            });
        }
        let code = extract(&item.completion, &config.language, config.allow_bare);
        let is_empty = code.trim().is_empty();
        let mut passed = 0;
        if !is_empty {
            let ready = self.ready().map_err(failed)?;
            for test in &tests {
                let passes = self.passes(ready, code, test).map_err(failed)?;
                passed += usize::from(passes);
                if !passes && config.all_or_nothing {
                    return Ok(0.0);
                }
            }
        }
        if config.all_or_nothing {
            return Ok(if is_empty { 0.0 } else { 1.0 });
        }
        let score = score(passed, tests.len(), is_empty, config.perfect_bonus, config.empty_reward);
        Ok(score.expect("there are tests"))
    }

    fn tests(&self, item: &Item) -> Result<Vec<Test>, String> {
        let Some(column) = item.meta.get(&self.config.column) else { return Ok(Vec::new()) };
        let entry = item.meta.get("entry_point").and_then(serde_json::Value::as_str);
        let mut tests = parse(column, entry).map_err(|why| format!("column `{}`: {why}", self.config.column))?;
        for test in &tests {
            if let Test::Code { code, output: None } = test
                && !self.config.command.is_empty()
                && !code.contains(MARK)
            {
                return Err(format!(
                    "a test without `output` must print {MARK} at its end, or an early exit would pass"
                ));
            }
        }
        tests.truncate(self.config.max_tests.unwrap_or(usize::MAX));
        Ok(tests)
    }
}

/// Python's real executable, with the folders it needs added to `readable`.
fn python(readable: &mut Vec<PathBuf>) -> Result<Vec<String>, SandboxError> {
    let ask = "import sys; print(sys.executable); print(sys.base_prefix); print(sys.prefix)";
    let answer = std::process::Command::new("python3").args(["-I", "-c", ask]).output();
    let answer = answer.map_err(|error| {
        SandboxError(format!("python3 cannot be run ({error}): install it, or set `reward.code.command`"))
    })?;
    let text = String::from_utf8_lossy(&answer.stdout).into_owned();
    let mut lines = text.lines().filter(|line| line.starts_with('/'));
    let executable = lines.next().filter(|_| answer.status.success());
    let executable =
        executable.ok_or_else(|| SandboxError("python3 does not say where it is: set `reward.code.command`".into()))?;
    // The root of the file system would show everything.
    readable.extend(lines.filter(|line| *line != "/").map(PathBuf::from));
    Ok([executable, "-I", "-X", "utf8", "{file}"].map(str::to_owned).to_vec())
}

/// A word nobody can guess: the hash keys are random for each.
fn mark() -> String {
    let word = || std::collections::hash_map::RandomState::new().build_hasher().finish();
    format!("mark-{:016x}{:016x}", word(), word())
}

/// Whether a test was passed: ended by itself with status 0, printed the mark last where there is one, and before
/// it what is expected.
fn passes(outcome: &Outcome, test: &Test, mark: Option<&str>) -> bool {
    let printed = String::from_utf8_lossy(&outcome.stdout);
    let body = match mark {
        Some(mark) => printed.trim_end().strip_suffix(mark),
        None => Some(&*printed),
    };
    let expected = match test {
        Test::Streams { output, .. } => Some(output),
        Test::Code { output, .. } => output.as_ref(),
    };
    outcome.exit == Exit::Status(0)
        && body.is_some_and(|body| expected.is_none_or(|expected| body.trim() == expected.trim()))
}

#[async_trait]
impl Reward for Code {
    fn name(&self) -> &str {
        "code"
    }

    async fn score(&self, items: &[Item]) -> Vec<Result<f64, RewardError>> {
        let one = |item: Item| async move {
            let permit = Arc::clone(&self.permits).acquire_owned().await;
            let runner = Arc::clone(&self.runner);
            let run = tokio::task::spawn_blocking(move || {
                // A test dies with the thread that started it, and this thread waits for it.
                let score = runner.score(&item);
                drop(permit);
                score
            });
            run.await.unwrap_or_else(|_| Err(RewardError::failed("code", "the run was abandoned")))
        };
        futures_util::future::join_all(items.iter().cloned().map(one)).await
    }

    fn is_binary(&self) -> bool {
        self.runner.config.all_or_nothing
    }

    async fn start(&self) -> Result<Vec<String>, RewardError> {
        let ready = self.runner.ready().map_err(|error| RewardError::failed("code", error))?;
        Ok(vec![ready.account.clone()])
    }

    fn doubt(&self, item: &Item) -> Option<String> {
        match self.runner.tests(item) {
            Ok(tests) if tests.is_empty() => Some("there are no tests".into()),
            Ok(_) => None,
            Err(why) => Some(why),
        }
    }

    async fn figures(&self, _: usize) -> Vec<(String, f64)> {
        let counts = &self.runner.counts;
        [
            ("tests", &counts.tests),
            ("timeouts", &counts.timeouts),
            ("killed", &counts.killed),
            ("output_caps", &counts.output_caps),
            ("retried", &counts.retried),
            ("flaky", &counts.flaky),
        ]
        .into_iter()
        .map(|(name, counter)| (name.to_owned(), counter.swap(0, Ordering::Relaxed) as f64))
        .collect()
    }
}

#[cfg(test)]
#[path = "code_run_tests.rs"]
mod tests;
