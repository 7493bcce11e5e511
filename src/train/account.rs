//! A run's account of itself on standard output: lines, progress, time taken, and what came of it all.

use std::io::{IsTerminal, Write};
use std::time::Instant;

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};

use super::evaluate::{Closing, Examiner, line};
use super::metrics::Step;
use super::policy::Policy;
use crate::model::memory;

/// That all steps are done but the closing test was stopped.
pub(super) const STOPPED_AT_THE_END: &str = "stopped in the last test: go on with the same command and `--resume`";

/// Prints a line of the run's account.
pub(super) fn say(line: &str) {
    // Whoever stopped reading the account does not stop the run.
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// A progress bar on terminals, with an estimate of the time left.
pub(crate) fn progress(total: u64, what: &str) -> ProgressBar {
    let bar = if std::io::stderr().is_terminal() { ProgressBar::new(total) } else { ProgressBar::hidden() };
    let style = ProgressStyle::with_template("{msg} {bar:30} {pos}/{len}  left {eta}");
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())).with_message(what.to_owned())
}

/// Seconds as a person reads them.
pub(crate) fn duration(seconds: f64) -> String {
    let s = seconds.round() as u64;
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{}:{:02} min", s / 60, s % 60),
        _ => format!("{}:{:02} h", s / 3600, s % 3600 / 60),
    }
}

/// Wall time of a step by stage.
pub(super) struct Clock {
    started: Instant,
    lap: Instant,
}

impl Clock {
    /// Starts.
    pub(super) fn new() -> Self {
        Self { started: Instant::now(), lap: Instant::now() }
    }

    /// Adds the time since the last lap to `time/<stage>`.
    pub(super) fn lap(&mut self, metrics: &mut Step, stage: &str) {
        let name = format!("time/{stage}");
        let before = metrics.get(&name).unwrap_or(0.0);
        metrics.set(name, before + self.lap.elapsed().as_secs_f64());
        self.lap = Instant::now();
    }

    /// Seconds since the start.
    pub(super) fn total(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }
}

/// The closing summary: what was gained, and where everything is.
pub(super) fn finish(examiner: &Examiner, policy: &Policy, closing: Closing) -> Result<()> {
    let Closing { folder, checkpoint, state, base, last, .. } = closing;
    say("");
    let has_report = !last.is_empty() || closing.preference.is_some();
    if has_report {
        let sentences = examiner.write_report(policy, closing)?;
        for (before, after) in base.graded.iter().zip(&last.graded) {
            say(&format!("base   {}", line(before)));
            say(&format!("final  {}", line(after)));
            say(&format!(
                "last number anywhere counted as the answer: base {:.3}, final {:.3}",
                before.lenient(),
                after.lenient()
            ));
        }
        sentences.iter().for_each(|s| say(s));
    }
    say(&format!(
        "{} steps in {:.0} s, {} tokens sampled, {} trained on",
        state.step, state.seconds, state.sampled_tokens, state.trained_tokens
    ));
    if let Some(bytes) = memory::peak() {
        say(&format!("peak memory {}", memory::size(bytes)));
    }
    say(&format!("checkpoint  {}", checkpoint.display()));
    say(&format!("metrics     {}", folder.join("metrics.jsonl").display()));
    if let Some((best, _)) =
        state.best.filter(|(best, _)| *best != state.step && folder.join(&format!("checkpoints/{best}")).is_dir())
    {
        say(&format!("best        {}", folder.join(&format!("checkpoints/{best}")).display()));
    }
    if has_report {
        say(&format!("report      {}", folder.join("report/report.html").display()));
    }
    Ok(())
}
