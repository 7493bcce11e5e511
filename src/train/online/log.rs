//! What a step leaves for people: a line, warnings that say what to do, and some of its completions.

use anyhow::{Context, Result};
use candlewick_algorithms::Batch;
use candlewick_algorithms::batch::Advantages;

use super::Run;
use crate::train::account::duration;
use crate::train::folder::{RunFolder, write_atomically};
use crate::train::metrics::Step;

impl Run<'_> {
    /// The first `run.log_samples` completions of the step, a JSON object a line, in a file of `rollouts/`.
    pub(super) fn log_samples(&self, folder: &RunFolder, batch: &Batch, texts: &[String]) -> Result<()> {
        if self.config.run.log_samples == 0 {
            return Ok(());
        }
        let path = folder.join("rollouts");
        std::fs::create_dir_all(&path).with_context(|| format!("{} cannot be made", path.display()))?;
        let mut lines = String::new();
        for i in (0..batch.rows()).take(self.config.run.log_samples) {
            let problem = &self.pool[batch.group[i]].0;
            let advantage = match &batch.advantage {
                Some(Advantages::Row(a)) => serde_json::json!(a[i]),
                Some(Advantages::Token(a)) => serde_json::json!(a.row(i)),
                None => serde_json::Value::Null,
            };
            let scores: serde_json::Map<_, _> = batch
                .scores
                .names
                .iter()
                .zip(&batch.scores.values[i])
                .map(|(n, v)| (n.clone(), serde_json::json!(v)))
                .collect();
            let object = serde_json::json!({"step": self.state.step, "id": problem.id, "problem": problem.text, "answer": problem.answer,
                "completion": texts[i], "finish": batch.finish[i], "scores": scores, "verdict": batch.verdict[i], "advantage": advantage});
            lines.push_str(&object.to_string());
            lines.push('\n');
        }
        write_atomically(&path.join(format!("{:06}.jsonl", self.state.step)), lines.as_bytes())
    }

    /// The step in one line.
    pub(super) fn line(&self, m: &Step) -> String {
        let left = (self.online.steps - self.state.step) as f64 * self.state.seconds / self.state.step.max(1) as f64;
        let share = |name: &str| 100.0 * m.get(name).unwrap_or(0.0);
        format!(
            "step {:>4}/{}  right {:>5.1} %  tokens {:>5.1}  cut {:>3.0} %  idle groups {:>3.0} %  entropy {:.3}  grad {:.2e}  lr {:.1e}  {:>5.0} tok/s  {:.1} s  left {}",
            self.state.step,
            self.online.steps,
            share("reward/accuracy"),
            m.get("rollout/tokens_mean").unwrap_or(0.0),
            share("rollout/truncated"),
            share("rollout/zero_std_groups"),
            m.get("rollout/entropy").unwrap_or(0.0),
            m.get("optim/grad_norm").unwrap_or(0.0),
            m.get("optim/learning_rate").unwrap_or(0.0),
            m.get("train/tokens_per_second").unwrap_or(0.0),
            m.get("time/step").unwrap_or(0.0),
            duration(left),
        )
    }

    /// Health warnings that say what to do, each at most every tenth step.
    pub(super) fn warn(&mut self, m: &Step) {
        let step = self.state.step;
        let is_above = |name: &str, limit: f64| m.get(name).is_some_and(|v| v > limit);
        let signs = [
            (
                is_above("rollout/zero_std_groups", 0.8),
                "most groups score alike and teach nothing: choose other problems, or [prompts.dynamic]",
            ),
            (
                is_above("prompts/substitutes", 0.0),
                "no hard or no easy prompt is left in its band, so the nearest stands in: add problems or widen `prompts.pairing.band`; \
                 `fallback` = `stop` ends the run here",
            ),
            (is_above("rollout/truncated", 0.3), "many completions are cut off: raise the limit of `budget.tokens`"),
            (
                m.get("rollout/entropy").is_some_and(|e| e < 0.02),
                "the entropy has collapsed: lower `optim.learning_rate` or raise `objective.grpo.epsilon_high`",
            ),
            (
                is_above("credit/rank_capped", 0.0),
                "some prompts have fewer right tokens than `credit.resrl.rank`, so their subspace holds all of them: lower it",
            ),
            (
                is_above("objective/grpo/mismatch_log_difference", 0.01),
                "sampled and scored log-probs differ by more than 0.01: use `model.dtype` = `f32`",
            ),
        ];
        for (_, text) in signs.into_iter().filter(|(holds, _)| *holds) {
            if self.warned.get(text).is_none_or(|last| step >= last + 10) {
                tracing::warn!("step {step}: {text}");
                self.warned.insert(text, step);
            }
        }
    }
}
