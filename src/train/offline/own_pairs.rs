//! Pairs of the policy's own answers: which two of a prompt's answers they are, and the file that keeps them.
//!
//! A line of the file is TRL's form, `prompt`, `chosen` and `rejected`, with `score_chosen` and `score_rejected`, so that it serves as a data set
//! too; the token ids beside the texts are what is trained on.

use std::path::Path;

use anyhow::{Context, Result};
use candlewick_algorithms::batch::Finish;
use serde::{Deserialize, Serialize};

use crate::rollout::Completion;
use crate::train::examples::Sampled;
use crate::train::folder::write_atomically;

/// What the answers to a prompt give.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Contest {
    /// Places of the best and the worst answer, of equals the first.
    Pair(usize, usize),
    /// Their scores differ by no more than the least margin.
    Tie(usize, usize),
    /// Fewer than two have a score.
    Unscored,
}

/// Sets the best of the answers that have a score against the worst.
pub(super) fn contest(scores: &[Option<f64>], min_margin: f64) -> Contest {
    let scored: Vec<(usize, f64)> =
        scores.iter().enumerate().filter_map(|(place, score)| Some((place, (*score)?))).collect();
    if scored.len() < 2 {
        return Contest::Unscored;
    }
    let first = |is_better: fn(f64, f64) -> bool| {
        scored.iter().fold(scored[0], |kept, &next| if is_better(next.1, kept.1) { next } else { kept })
    };
    let (best, worst) = (first(|next, kept| next > kept), first(|next, kept| next < kept));
    match best.1 - worst.1 > min_margin {
        true => Contest::Pair(best.0, worst.0),
        false => Contest::Tie(best.0, worst.0),
    }
}

/// A line of the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Line {
    id: String,
    prompt: String,
    chosen: String,
    rejected: String,
    score_chosen: f64,
    score_rejected: f64,
    prompt_ids: Vec<u32>,
    chosen_ids: Vec<u32>,
    rejected_ids: Vec<u32>,
    /// Answers that a limit cut off.
    cut: usize,
}

/// An answer as it was sampled, its text and its score.
pub(super) type Scored<'a> = (&'a Completion, &'a str, f64);

impl Line {
    /// A pair of answers to a prompt, given as text and token ids.
    pub(super) fn new(id: &str, (prompt, ids): (&str, &[u32]), chosen: Scored, rejected: Scored) -> Self {
        let is_cut = |answer: &Completion| usize::from(answer.finish == Finish::Length);
        Self {
            id: id.to_owned(),
            prompt: prompt.to_owned(),
            chosen: chosen.1.to_owned(),
            rejected: rejected.1.to_owned(),
            score_chosen: chosen.2,
            score_rejected: rejected.2,
            prompt_ids: ids.to_vec(),
            chosen_ids: chosen.0.tokens.clone(),
            rejected_ids: rejected.0.tokens.clone(),
            cut: is_cut(chosen.0) + is_cut(rejected.0),
        }
    }

    /// What is trained on.
    pub(super) fn sampled(self) -> Sampled {
        Sampled {
            id: self.id,
            prompt: self.prompt_ids,
            answers: [self.chosen_ids, self.rejected_ids],
            cut: self.cut,
            margin: self.score_chosen - self.score_rejected,
        }
    }
}

/// Writes pairs, whole or not at all.
pub(super) fn write(path: &Path, lines: &[Line]) -> Result<()> {
    let folder = path.parent().context("a file of pairs stands in a folder")?;
    std::fs::create_dir_all(folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    let mut text = String::new();
    for line in lines {
        text.push_str(&serde_json::to_string(line)?);
        text.push('\n');
    }
    write_atomically(path, text.as_bytes())
}

/// Reads what [`write`] wrote.
pub(super) fn read(path: &Path) -> Result<Vec<Line>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
    let line =
        |(at, line)| serde_json::from_str(line).with_context(|| format!("{}:{} is no pair", path.display(), at + 1));
    text.lines().enumerate().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_best_meets_the_first_worst() {
        let some = |scores: &[f64]| -> Vec<Option<f64>> { scores.iter().copied().map(Some).collect() };
        assert_eq!(contest(&some(&[0.0, 1.0, 0.5, 1.0, 0.0]), 0.0), Contest::Pair(1, 0));
        assert_eq!(contest(&some(&[-1.0, -3.0, -2.0]), 0.0), Contest::Pair(0, 1));
        assert_eq!(contest(&some(&[1.0, 1.0]), 0.0), Contest::Tie(0, 0));
        assert_eq!(contest(&some(&[1.0, 0.5]), 0.5), Contest::Tie(0, 1));
        assert_eq!(contest(&[None, Some(1.0), None], 0.0), Contest::Unscored);
        assert_eq!(contest(&[None, Some(1.0), Some(0.0)], 0.0), Contest::Pair(1, 2));
        assert_eq!(contest(&[], 0.0), Contest::Unscored);
    }

    #[test]
    fn what_is_written_is_read_and_trained_on() {
        let answer = |tokens: &[u32], finish| Completion {
            request: 0,
            sample: 0,
            tokens: tokens.to_vec(),
            logp: Vec::new(),
            drawn_logp: Vec::new(),
            entropy: Vec::new(),
            soft: Default::default(),
            finish,
        };
        let (good, bad) = (answer(&[7, 1], Finish::Eos), answer(&[8, 8], Finish::Length));
        let line = Line::new("a", ("1+2=", &[3, 4]), (&good, "3", 1.0), (&bad, "44", 0.25));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pairs/1.jsonl");
        write(&path, std::slice::from_ref(&line)).unwrap();
        let lines = read(&path).unwrap();
        assert_eq!(lines, [line]);
        let sampled = lines[0].clone().sampled();
        assert_eq!((sampled.margin, sampled.cut, sampled.answers), (0.75, 1, [vec![7, 1], vec![8, 8]]));
        std::fs::write(&path, "{}\n").unwrap();
        assert!(format!("{:#}", read(&path).unwrap_err()).contains("1.jsonl:1 is no pair"));
    }
}
