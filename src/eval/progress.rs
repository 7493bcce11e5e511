//! How far an evaluation is: samples done, tokens a second, time left.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::train::account::duration;

/// Seconds between two lines where there is no terminal.
const PAUSE: Duration = Duration::from_secs(60);

/// A bar on a terminal; elsewhere a line a minute.
pub(super) struct Progress {
    what: String,
    bar: Option<ProgressBar>,
    started: Instant,
    told: Instant,
    total: u64,
    /// Samples that were there before this sitting.
    kept: u64,
    done: u64,
    /// Tokens drawn in this sitting, those of unfinished samples included.
    tokens: u64,
    /// Tokens of samples that ended in this sitting.
    finished_tokens: u64,
    cap: u64,
}

impl Progress {
    pub(super) fn new(what: &str, total: u64, kept: u64, cap: usize) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{prefix} {bar:28} {pos}/{len}  {msg}");
            let bar = ProgressBar::new(total).with_prefix(format!("evaluating {what}"));
            bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        let now = Instant::now();
        let progress = Self {
            what: what.to_owned(),
            bar,
            started: now,
            told: now,
            total,
            kept,
            done: 0,
            tokens: 0,
            finished_tokens: 0,
            cap: cap as u64,
        };
        if let Some(bar) = &progress.bar {
            bar.set_position(kept);
        }
        progress
    }

    /// A token was drawn.
    pub(super) fn token(&mut self) {
        self.tokens += 1;
        let pause = if self.bar.is_some() { Duration::from_millis(200) } else { PAUSE };
        if self.tokens.is_multiple_of(64) && self.told.elapsed() >= pause {
            self.tell();
        }
    }

    /// A sample of that many tokens ended.
    pub(super) fn finished(&mut self, tokens: usize) {
        self.done += 1;
        self.finished_tokens += tokens as u64;
        if let Some(bar) = &self.bar {
            bar.set_position(self.kept + self.done);
        }
    }

    fn tell(&mut self) {
        self.told = Instant::now();
        let text = self.rate(self.started.elapsed().as_secs_f64());
        match &self.bar {
            Some(bar) => bar.set_message(text),
            // Nobody reads on: the evaluation does not stop for it.
            None => drop(writeln!(
                std::io::stderr(),
                "evaluating {}: {} of {} samples, {text}",
                self.what,
                self.kept + self.done,
                self.total
            )),
        }
    }

    /// `231 tok/s  left 1:20 min`: every sample that has not ended is thought to go on for the tokens drawn a sample ended,
    /// or to the limit. Samples that end first are the short ones, so their own mean would promise too much.
    fn rate(&self, seconds: f64) -> String {
        let rate = self.tokens as f64 / seconds.max(1e-9);
        let open = (self.total - self.kept - self.done) as f64;
        let most = open * self.cap as f64 - (self.tokens - self.finished_tokens) as f64;
        let mean = if self.done > 0 { self.tokens as f64 / self.done as f64 } else { f64::INFINITY };
        let ahead = if open > 0.0 { (open * mean).min(most).max(0.0) } else { 0.0 };
        format!("{rate:.0} tok/s  left {}", duration(ahead / rate.max(1e-9)))
    }

    pub(super) fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_left_follows_from_what_ended_and_what_did_not() {
        let mut progress = Progress::new("x", 10, 2, 100);
        (0..40).for_each(|_| progress.token());
        // Nothing ended yet: 8 samples of at most 100 tokens, 40 drawn in 4 s.
        assert_eq!(progress.rate(4.0), "10 tok/s  left 1:16 min");
        progress.finished(20);
        // One end in 40 tokens: the 7 others go on for 40 each.
        assert_eq!(progress.rate(4.0), "10 tok/s  left 28 s");
        (0..7).for_each(|_| progress.finished(0));
        assert_eq!(progress.rate(4.0), "10 tok/s  left 0 s");
    }
}
