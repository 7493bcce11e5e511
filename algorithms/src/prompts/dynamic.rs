//! `prompts.dynamic`: DAPO's dynamic sampling, which refuses groups that teach nothing.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::epochs::Epochs;
use super::{Accepted, Prompts};
use crate::batch::Verdict;
use crate::rng::Rng;
use crate::success::{PromptId, Success};
use crate::{Batch, Error, Metrics, Outcome, Result, State};

/// Epochs as in `prompts.shuffle`, but groups without signal are refused and drawn again.
///
/// A group is refused when its verdicts are all right or all wrong; where no row of it was judged,
/// when every reward gave one and the same score to all rows. Another draw replaces the refused
/// groups until the step holds `per_step`, at most `max_draws` times, and then it is an error
/// that says what to change. Each draw samples `oversample` times the groups that are still missing;
/// groups kept beyond `per_step` are dropped and counted (metric `surplus`), never carried over to
/// a step whose policy did not sample them.
///
/// Not for models that solve nearly none or nearly all prompts: most sampling is then thrown away.
/// Source: DAPO, arXiv 2503.14476 (there: three times as many prompts as a step needs, every draw).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Dynamic {
    /// Groups that a step is made of, P.
    pub per_step: usize,
    /// Draws that a step may take before it is an error not to be full.
    pub max_draws: usize,
    /// Prompts sampled for each missing group, at least 1.
    pub oversample: f64,
}

impl Default for Dynamic {
    fn default() -> Self {
        Self { per_step: 8, max_draws: 10, oversample: 1.0 }
    }
}

impl Dynamic {
    /// The stage. Errors: `per_step` or `max_draws` of 0, `oversample` below 1.
    pub fn build(&self) -> Result<Box<dyn Prompts>> {
        if self.per_step == 0 {
            return Err(Error::config("prompts.dynamic.per_step", 0, "a step needs at least one prompt"));
        }
        if self.max_draws == 0 {
            return Err(Error::config("prompts.dynamic.max_draws", 0, "a step takes at least one draw"));
        }
        if !(self.oversample >= 1.0 && self.oversample.is_finite()) {
            let why = "each missing group takes at least one prompt: set it to 1.0 or more";
            return Err(Error::config("prompts.dynamic.oversample", self.oversample, why));
        }
        Ok(Box::new(DynamicSampling { settings: self.clone(), epochs: Epochs::default(), step: Step::default() }))
    }
}

/// What the step that is being filled already has; begins anew when the step is full.
#[derive(Default)]
struct Step {
    draws: usize,
    kept: usize,
    drawn: Vec<PromptId>,
}

struct DynamicSampling {
    settings: Dynamic,
    epochs: Epochs,
    step: Step,
}

const STAGE: &str = "prompts.dynamic";

impl Prompts for DynamicSampling {
    /// May return more than `n` prompts: `n` times `oversample`, as far as the pool allows.
    fn choose(&mut self, pool: usize, _success: &Success, n: usize, rng: &mut Rng) -> Result<Vec<PromptId>> {
        let wanted = (n as f64 * self.settings.oversample).ceil() as usize;
        let free = pool.saturating_sub(self.step.drawn.len());
        if n > free && !self.step.drawn.is_empty() {
            return Err(Error::Exhausted {
                stage: STAGE,
                why: format!(
                    "all {} prompts drawn for this step left {} of {} groups with both right and wrong completions, \
                     and only {free} prompts of the training set remain: lower `per_step`, add data, raise the \
                     rollouts a prompt, or use prompts.shuffle",
                    self.step.drawn.len(),
                    self.step.kept,
                    self.settings.per_step
                ),
            });
        }
        let drawn = self.epochs.draw(STAGE, pool, wanted.min(free).max(n), &self.step.drawn, rng)?;
        self.step.drawn.extend(&drawn);
        Ok(drawn)
    }

    fn per_step(&self) -> usize {
        self.settings.per_step
    }

    fn max_draws(&self) -> usize {
        self.settings.max_draws
    }

    fn accept(&mut self, draw: &Batch) -> Result<Accepted> {
        let groups = draw.groups();
        let mut keep: Vec<usize> = (0..groups.len()).filter(|&g| has_signal(draw, groups[g].clone())).collect();
        let informative = keep.len();
        keep.truncate(self.settings.per_step - self.step.kept);
        self.step.kept += keep.len();
        self.step.draws += 1;

        let mut metrics = Metrics::new();
        metrics.max("epoch", self.epochs.progress());
        metrics.sum("draws", 1.0);
        metrics.sum("refused", (groups.len() - informative) as f64);
        metrics.sum("surplus", (informative - keep.len()) as f64);
        metrics.mean("refused_fraction", 1.0 - informative as f64 / groups.len() as f64, groups.len() as f64);
        if self.step.kept == self.settings.per_step {
            self.step = Step::default();
        } else if self.step.draws >= self.settings.max_draws {
            let why = format!(
                "{} draws gave {} of {} groups with both right and wrong completions: raise `max_draws` or `oversample`, \
                 raise the rollouts a prompt, choose problems nearer to what the model can do, or use prompts.shuffle",
                self.step.draws, self.step.kept, self.settings.per_step
            );
            self.step = Step::default();
            return Err(Error::Exhausted { stage: STAGE, why });
        }
        Ok(Accepted { keep, metrics })
    }
}

/// Whether the rows of a group differ in what is rewarded.
fn has_signal(draw: &Batch, group: std::ops::Range<usize>) -> bool {
    let judged: Vec<Verdict> = draw.verdict[group.clone()].iter().copied().filter(|v| *v != Verdict::Missing).collect();
    if !judged.is_empty() {
        return judged.iter().any(|&v| v != judged[0]);
    }
    (0..draw.scores.names.len()).any(|k| {
        let mut scores = draw.scores.values[group.clone()].iter().filter_map(|row| row[k]);
        scores.next().is_some_and(|first| scores.any(|s| s != first))
    })
}

impl State for DynamicSampling {
    fn save(&self) -> Option<serde_json::Value> {
        serde_json::to_value(&self.epochs).ok()
    }

    fn load(&mut self, saved: &serde_json::Value) -> Result<()> {
        self.epochs = Epochs::deserialize(saved).map_err(|e| Error::State { stage: STAGE, why: e.to_string() })?;
        self.step = Step::default();
        Ok(())
    }

    fn observe(&mut self, outcome: &Outcome) {
        if let Outcome::Step { .. } = outcome {
            self.step = Step::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Table;

    /// A draw of groups of three; one letter a row: right, wrong, or missing.
    fn draw(groups: &[&str]) -> Batch {
        let ids = groups.iter().enumerate().flat_map(|(g, rows)| vec![g; rows.len()]).collect();
        let verdict: Vec<Verdict> = groups
            .iter()
            .flat_map(|rows| rows.chars())
            .map(|c| match c {
                'r' => Verdict::Right,
                'w' => Verdict::Wrong,
                _ => Verdict::Missing,
            })
            .collect();
        let mut batch = Batch::new(Table::filled(verdict.len(), 1, 1.0), ids).unwrap();
        batch.verdict = verdict;
        batch
    }

    #[test]
    fn groups_without_signal_are_refused_and_replaced_by_other_prompts() {
        let mut stage = Dynamic { per_step: 3, max_draws: 3, oversample: 2.0 }.build().unwrap();
        let success = Success::default();
        let first = stage.choose(20, &success, 3, &mut Rng::keyed(&[0])).unwrap();
        assert_eq!(first.len(), 6);
        let accepted = stage.accept(&draw(&["rrr", "rrw", "www", "w.r", "r.r", "..."])).unwrap();
        assert_eq!(accepted.keep, [1, 3]);
        assert_eq!(accepted.metrics.get("refused"), Some(4.0));
        let second = stage.choose(20, &success, 1, &mut Rng::keyed(&[1])).unwrap();
        assert!(second.len() == 2 && second.iter().all(|id| !first.contains(id)));
        let accepted = stage.accept(&draw(&["rww", "rwr"])).unwrap();
        assert_eq!(accepted.keep, [0], "one group was missing");
        assert_eq!(accepted.metrics.get("surplus"), Some(1.0));
    }

    #[test]
    fn scores_decide_where_nobody_judged() {
        let mut stage = Dynamic { per_step: 2, ..Dynamic::default() }.build().unwrap();
        let mut batch = draw(&["...", "...", "..."]);
        batch.scores.names = vec!["a".into(), "b".into()];
        batch.scores.values =
            [[1., 2.], [1., 2.], [1., 2.], [1., 2.], [1., 3.], [1., 2.], [1., 2.], [1., 2.], [1., 2.]]
                .iter()
                .map(|row| row.iter().map(|&s| Some(s)).collect())
                .collect();
        batch.scores.values[6][1] = None;
        assert_eq!(stage.accept(&batch).unwrap().keep, [1]);
    }

    #[test]
    fn a_step_that_stays_empty_is_an_error_that_says_what_to_do() {
        let mut stage = Dynamic { per_step: 2, max_draws: 2, oversample: 1.0 }.build().unwrap();
        stage.accept(&draw(&["rrr", "rwr"])).unwrap();
        let error = stage.accept(&draw(&["www"])).unwrap_err().to_string();
        assert!(error.contains("2 draws gave 1 of 2 groups") && error.contains("max_draws"), "{error}");
    }

    #[test]
    fn impossible_settings_are_refused() {
        for bad in [
            Dynamic { per_step: 0, ..Dynamic::default() },
            Dynamic { max_draws: 0, ..Dynamic::default() },
            Dynamic { oversample: 0.5, ..Dynamic::default() },
            Dynamic { oversample: f64::NAN, ..Dynamic::default() },
        ] {
            assert!(matches!(bad.build(), Err(Error::Config { .. })), "{bad:?}");
        }
    }
}
