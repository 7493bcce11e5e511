//! `candlewick grade`.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use candlewick::train::folder::write_atomically;
use candlewick_rewards::math::{Extract, GradeConfig, Mode, Reason, Units, Verdict, compat, grade};
use rayon::prelude::*;
use serde_json::{Value, json};

use super::{Usage, note, table};

/// Bad lines that are named one by one.
const NAMED: usize = 10;
/// Letters of a gold or answer that a table shows.
const SHOWN: usize = 48;

/// Grade answers that are already there: lines of JSON with a `gold` and a `completion`.
///
/// Prints accuracy, the reasons of wrong verdicts, the answers refused most often and the slowest pairs.
/// For example: `candlewick grade samples.jsonl --out verdicts.jsonl --modes`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The lines; standard input if none is given, or `-`.
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Write one verdict a line, in the order of the input; `-` is standard output, and then nothing else goes there.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Show what other tools' grading rules would say of the same answers.
    #[arg(long)]
    modes: bool,
    /// Key of the reference answer.
    #[arg(long, value_name = "KEY", default_value = "gold")]
    gold: String,
    /// Key of the text to grade.
    #[arg(long, value_name = "KEY", default_value = "completion")]
    completion: String,
    /// Where the answer stands: `auto`, `boxed`, `gsm8k_strict`, `gsm8k_flexible`, `minerva`, `answer_line`,
    /// `last_number` or `whole`.
    #[arg(long, value_name = "MODE", default_value = "auto", value_parser = extract)]
    extract: Extract,
    /// Take no answer that is neither boxed nor announced, as training does.
    #[arg(long)]
    anchored: bool,
    /// Compare units instead of dropping them.
    #[arg(long)]
    strict_units: bool,
    /// Relative tolerance for numbers, for problems that state one.
    #[arg(long, value_name = "SHARE")]
    rel_tol: Option<f64>,
    /// Go on when lines cannot be read; they are named, and have an `error` in place of a verdict.
    #[arg(long)]
    skip_bad: bool,
}

fn extract(text: &str) -> Result<Extract, String> {
    serde_json::from_value(Value::String(text.to_owned())).map_err(|error| error.to_string())
}

/// One line of the input.
struct Line {
    number: usize,
    /// Gold and completion, or what is wrong with the line.
    pair: Result<(String, String), String>,
}

/// Grades the lines and shows what came of it.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let config = arguments.config()?;
    arguments.check_out()?;
    let (name, lines) = arguments.read()?;
    let bad: Vec<&Line> = lines.iter().filter(|line| line.pair.is_err()).collect();
    for line in bad.iter().take(NAMED) {
        note(&format!("{name}, line {}: {}", line.number, line.pair.as_ref().err().map_or("", String::as_str)));
    }
    if bad.len() > NAMED {
        note(&format!("{name}: {} more lines cannot be read", bad.len() - NAMED));
    }
    if !bad.is_empty() && !arguments.skip_bad {
        let fix = "put them right, or grade the others with --skip-bad";
        return Err(Usage(format!("{} of {} lines of {name} cannot be read: {fix}", bad.len(), lines.len())).into());
    }
    let started = Instant::now();
    let verdicts: Vec<Option<Verdict>> = (lines.par_iter())
        .map(|line| line.pair.as_ref().ok().map(|(gold, completion)| grade(gold, completion, &config)))
        .collect();
    let seconds = started.elapsed().as_secs_f64();
    if let Some(path) = &arguments.out {
        write_verdicts(path, &verdict_lines(&lines, &verdicts))?;
    }
    let graded: Vec<(&Line, &Verdict)> =
        lines.iter().zip(&verdicts).filter_map(|(line, verdict)| Some((line, verdict.as_ref()?))).collect();
    if graded.is_empty() {
        return Err(Usage(format!("{name} holds no pair to grade")).into());
    }
    if arguments.out.as_deref() == Some(Path::new("-")) {
        return Ok(());
    }
    let mut text = summary(&graded, seconds);
    if arguments.modes {
        text.push_str(&modes(&graded, &config));
    }
    if let Some(path) = &arguments.out {
        text.push_str(&format!("\nverdicts: {}\n", path.display()));
    }
    Ok(std::io::stdout().lock().write_all(text.as_bytes())?)
}

impl Arguments {
    fn config(&self) -> Result<GradeConfig> {
        if let Some(share) = self.rel_tol.filter(|share| !(*share > 0.0 && *share < 1.0)) {
            return Err(Usage(format!("`--rel-tol {share}` is no share between 0 and 1, such as 0.01")).into());
        }
        let mut config = GradeConfig::default();
        config.extraction.mode = self.extract;
        config.extraction.allow_unanchored = !self.anchored;
        config.policy.rel_tol = self.rel_tol;
        config.policy.units = if self.strict_units { Units::Strict } else { Units::Lenient };
        Ok(config)
    }

    /// The verdicts must not take the place of what they are about.
    fn check_out(&self) -> Result<()> {
        let (Some(out), Some(file)) = (&self.out, &self.file) else { return Ok(()) };
        let is_same = out != Path::new("-")
            && out.canonicalize().is_ok_and(|out| file.canonicalize().is_ok_and(|file| file == out));
        if is_same {
            return Err(Usage(format!("`--out {}` would replace the file that is graded", out.display())).into());
        }
        Ok(())
    }

    /// The lines that are not blank, and the name of where they come from.
    fn read(&self) -> Result<(String, Vec<Line>)> {
        let path = self.file.as_deref().filter(|path| *path != Path::new("-"));
        let (name, reader): (String, Box<dyn BufRead>) = match path {
            None => ("standard input".to_owned(), Box::new(BufReader::new(std::io::stdin()))),
            Some(path) => {
                let open = || match std::fs::metadata(path)?.is_dir() {
                    true => Err(std::io::ErrorKind::IsADirectory.into()),
                    false => std::fs::File::open(path),
                };
                let file = open().map_err(|error| Usage(format!("cannot read `{}`: {error}", path.display())))?;
                (path.display().to_string(), Box::new(BufReader::new(file)))
            }
        };
        let mut lines = Vec::new();
        for (index, line) in reader.split(b'\n').enumerate() {
            let line = line.with_context(|| format!("{name} cannot be read after line {index}"))?;
            // A byte order mark, as some editors leave it.
            let line = if index == 0 { line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&line) } else { &line };
            if !line.iter().all(u8::is_ascii_whitespace) {
                lines.push(Line { number: index + 1, pair: self.pair(line) });
            }
        }
        Ok((name, lines))
    }

    fn pair(&self, line: &[u8]) -> Result<(String, String), String> {
        let object: Value = serde_json::from_slice(line).map_err(|error| {
            // The line is this one: the parser, which sees nothing else, would call it the first.
            format!("no JSON: {}", error.to_string().replace(" at line 1 column", " at column"))
        })?;
        if !object.is_object() {
            return Err("no JSON object".to_owned());
        }
        let text = |key: &str| match object.get(key) {
            Some(Value::String(text)) => Ok(text.clone()),
            Some(Value::Number(number)) => Ok(number.to_string()),
            Some(other) => Err(format!("`{key}` is a text or a number, found {other:.40}")),
            None => Err(format!("it has no `{key}`")),
        };
        Ok((text(&self.gold)?, text(&self.completion)?))
    }
}

/// One object a line; a line that could not be read keeps its place.
fn verdict_lines(lines: &[Line], verdicts: &[Option<Verdict>]) -> String {
    let mut text = String::new();
    for (line, verdict) in lines.iter().zip(verdicts) {
        let object = match (verdict, &line.pair) {
            (Some(v), _) => json!({
                "correct": v.correct, "method": v.method, "reason": v.reason, "extracted": v.extracted, "flags": v.flags,
                "micros": v.elapsed.as_micros() as u64,
            }),
            (None, Err(error)) => json!({ "error": error, "line": line.number }),
            (None, Ok(_)) => unreachable!("a line that was read has a verdict"),
        };
        text.push_str(&object.to_string());
        text.push('\n');
    }
    text
}

/// Writes a file whole or not at all; a pipe or a terminal, which cannot be replaced, as it comes.
fn write_verdicts(path: &Path, text: &str) -> Result<()> {
    if path == Path::new("-") {
        return Ok(std::io::stdout().lock().write_all(text.as_bytes())?);
    }
    if std::fs::metadata(path).is_ok_and(|found| !found.is_file()) {
        let write = || std::fs::File::options().write(true).open(path)?.write_all(text.as_bytes());
        return write().with_context(|| format!("{} cannot be written", path.display()));
    }
    write_atomically(path, text.as_bytes())
}

fn summary(graded: &[(&Line, &Verdict)], seconds: f64) -> String {
    let n = graded.len();
    let right = graded.iter().filter(|(_, verdict)| verdict.correct).count();
    let speed = n as f64 / seconds.max(1e-9);
    let mut text = format!("{right} of {n} right, {}; {speed:.0} pairs a second\n", percent(right, n));
    let reasons = count(graded.iter().filter_map(|(_, v)| v.reason).map(word));
    let methods = count(graded.iter().filter(|(_, v)| v.correct).map(|(_, v)| word(v.method)));
    let flags = count(graded.iter().flat_map(|(_, v)| &v.flags).map(word));
    for (title, counts) in [("wrong because", reasons), ("right by", methods), ("flags", flags)] {
        text.push_str(&section(title, counts.into_iter().map(|(name, k)| vec![k.to_string(), percent(k, n), name])));
    }
    let wrong = graded.iter().filter(|(_, v)| !v.correct && v.reason != Some(Reason::NoAnswer));
    let refused = count(wrong.filter_map(|(line, v)| {
        let (gold, _) = line.pair.as_ref().ok()?;
        Some(format!("{}  for gold  {}", shown(v.extracted.as_deref().unwrap_or("")), shown(gold)))
    }));
    text.push_str(&section(
        "refused most often",
        refused.into_iter().take(10).map(|(pair, k)| vec![k.to_string(), pair]),
    ));
    let mut slowest: Vec<_> = graded.iter().collect();
    slowest.sort_by_key(|(line, verdict)| (std::cmp::Reverse(verdict.elapsed), line.number));
    let rows = slowest.into_iter().take(5).map(|(line, v)| {
        let answer = shown(v.extracted.as_deref().unwrap_or("(no answer)"));
        vec![format!("{} us", v.elapsed.as_micros()), format!("line {}", line.number), answer]
    });
    text.push_str(&section("slowest", rows));
    text
}

/// Accuracy under each grading rule, and how often it departs from the first.
fn modes(graded: &[(&Line, &Verdict)], config: &GradeConfig) -> String {
    let n = graded.len();
    let rows = Mode::ALL.map(|mode| {
        let verdicts: Vec<(bool, bool)> = (graded.par_iter())
            .map(|(line, verdict)| match &line.pair {
                Ok(_) if mode == Mode::Primary => (verdict.correct, verdict.correct),
                Ok((gold, completion)) => (compat::is_correct(mode, gold, completion, config), verdict.correct),
                Err(_) => (false, false),
            })
            .collect();
        let right = verdicts.iter().filter(|(found, _)| *found).count();
        let more = verdicts.iter().filter(|(found, primary)| *found && !primary).count();
        let fewer = verdicts.iter().filter(|(found, primary)| !found && *primary).count();
        vec![
            word(mode),
            percent(right, n),
            format!("accepts {more} that the primary refuses, refuses {fewer} that it accepts"),
        ]
    });
    section("by grading mode", rows.into_iter())
}

fn section(title: &str, rows: impl Iterator<Item = Vec<String>>) -> String {
    let rows: Vec<Vec<String>> = rows.collect();
    if rows.is_empty() { String::new() } else { format!("\n{title}\n{}", table::columns(&rows, 2)) }
}

/// The name that a variant has in files.
fn word(value: impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}

/// Most frequent first, then by name.
fn count(items: impl Iterator<Item = String>) -> Vec<(String, usize)> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    items.for_each(|item| *counts.entry(item).or_default() += 1);
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(_, k)| std::cmp::Reverse(*k));
    counts
}

fn percent(part: usize, whole: usize) -> String {
    format!("{:.1} %", 100.0 * part as f64 / whole as f64)
}

/// The start of a text on one line.
fn shown(text: &str) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(SHOWN + 1).collect();
    if line.chars().count() > SHOWN { format!("{}...", line.chars().take(SHOWN - 3).collect::<String>()) } else { line }
}
