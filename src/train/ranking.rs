//! Held-out pairs: how often the preferred answer is the likelier one, before and after training.
//!
//! The reference is the one of the objective, or the policy that training starts from. Its log-probs are kept on disk
//! like those of training, so that a resumed run compares with the same start. The metrics are those of
//! `candlewick_algorithms::preference`; every pair's own numbers are written too, so that each can be computed again.

mod section;

use std::io::Write;

use anyhow::{Context, Result};
use candlewick_algorithms::Needs;
use candlewick_algorithms::objective::{Objective, Rows};
use candlewick_algorithms::preference::{
    Answers, DEFAULT_SHARE, Flips, IDEAL_BETAS, Pair, SHARE_EPS, is_ideally_ranked, median, share,
};
use serde_json::{Value, json};

use super::account::say;
use super::examples::{Examples, Reading};
use super::folder::{RunFolder, write_atomically};
use super::metrics::Step;
use super::policy::Policy;
use super::reference::{Judge, ReferenceLogps};
use crate::config::{Config, Kind, ObjectiveConfig};
use crate::data::{self, Example, Split};
use crate::hub::Hub;

/// Most pairs looked at, as in the paper, unless `eval.problems` says otherwise.
const PAIRS: usize = 1000;
/// Pairs scored at a time.
const CHUNK: usize = 32;

/// Held-out pairs with the log-probs of the start.
pub struct Ranking {
    examples: Examples,
    /// Absent for reward models, which have no log-probs.
    start: Option<ReferenceLogps>,
    beta: f64,
}

/// What was measured.
#[derive(Debug, Clone)]
pub struct Measured {
    metrics: Vec<(&'static str, f64)>,
    /// Empty for reward models.
    pairs: Vec<Pair>,
    /// Implicit reward margin of each pair, or the difference of a reward model's scores.
    margins: Vec<f64>,
}

impl Ranking {
    /// Prepares the held-out pairs of a run; `None` if its objective takes no pairs or it holds nothing out.
    ///
    /// Must be called while the policy is still the one that training starts from.
    pub fn for_run(
        config: &Config,
        objective: &dyn Objective,
        policy: &mut Policy,
        max_length: usize,
    ) -> Result<Option<Self>> {
        let is_reward_model = objective.needs().score_leaf;
        if !matches!(objective.rows(), Rows::Pairs { .. } | Rows::Lists) || config.data.validation.is_none() {
            return Ok(None);
        }
        let mut dataset = data::load(&config.data, &Hub::from_env(), Split::Validation)?;
        dataset.truncate(config.eval.problems.unwrap_or(PAIRS));
        let is_pair = |example: &Example| matches!(example, Example::Preference { .. } | Example::Ranked { .. });
        let makes_pairs = matches!(config.kind(), Kind::Offline(offline) if offline.train.regenerate.is_some());
        if makes_pairs && !dataset.iter().all(|row| row.is_ok_and(|row| is_pair(row.as_ref()))) {
            say("held-out data are not pairs: how they are ranked is not measured");
            return Ok(None);
        }
        let reading = Reading {
            rows: Rows::Pairs { with_prompt: false },
            max_length,
            cuts: !is_reward_model,
            columns: config.data.columns.clone(),
            seed: config.run.seed,
            objective: config.objective.variant(),
        };
        let mut examples =
            Examples::read(dataset, &policy.renderer, &reading).context("the held-out pairs cannot be used")?;
        let judge = if objective.needs().reference() { Judge::Reference } else { Judge::Policy };
        let start = match is_reward_model {
            true => None,
            false => Some(ReferenceLogps::obtain(policy, config, judge, &examples)?),
        };
        let beta = match &config.objective {
            ObjectiveConfig::Dpo(dpo) => dpo.beta,
            _ => 0.1,
        };
        if let Some(start) = &start {
            start.audit(&mut examples, beta)?;
        }
        Ok(Some(Self { examples, start, beta }))
    }

    /// Scores every pair under the policy as it is.
    pub fn measure(&self, policy: &Policy) -> Result<Measured> {
        match &self.start {
            Some(start) => self.compare(policy, start),
            None => self.scores(policy),
        }
    }

    fn compare(&self, policy: &Policy, start: &ReferenceLogps) -> Result<Measured> {
        let mut pairs = Vec::with_capacity(self.examples.len());
        let all: Vec<usize> = (0..self.examples.len()).collect();
        for chosen in all.chunks(CHUNK) {
            let mut batch = self.examples.batch(chosen)?;
            policy.score(&mut batch, &Needs { old_logp: true, ..Needs::default() }, 1.0)?;
            let logp = batch.old_logp.as_ref().context("the scoring pass gives the column")?;
            for (place, &group) in chosen.iter().enumerate() {
                let of = |row: usize| -> (f64, f64) {
                    let cells = logp.row(row).iter().zip(batch.mask.row(row)).filter(|(_, m)| **m != 0.0);
                    (cells.map(|(l, _)| l).sum(), batch.row_tokens(row))
                };
                let ((chosen, chosen_tokens), (rejected, rejected_tokens)) = (of(2 * place), of(2 * place + 1));
                let policy = Answers { chosen, rejected, chosen_tokens, rejected_tokens };
                pairs.push(Pair { policy, reference: start.answers(group) });
            }
        }
        let metrics = self.metrics(&pairs);
        let margins = pairs.iter().map(|pair| pair.margin(self.beta)).collect();
        Ok(Measured { metrics, pairs, margins })
    }

    fn metrics(&self, pairs: &[Pair]) -> Vec<(&'static str, f64)> {
        let n = pairs.len() as f64;
        let mean = |f: &dyn Fn(&Pair) -> f64| pairs.iter().map(f).sum::<f64>() / n;
        let flips = Flips::of(pairs);
        let accuracy = share(pairs, |p| p.policy.is_ranked());
        let ideal: Vec<f64> = IDEAL_BETAS.iter().map(|&beta| self.ideal(pairs, beta, false)).collect();
        let ideal_per_token: Vec<f64> = IDEAL_BETAS.iter().map(|&beta| self.ideal(pairs, beta, true)).collect();
        vec![
            ("ranking_accuracy", accuracy),
            ("ranking_accuracy_normalised", share(pairs, |p| p.policy.is_ranked_per_token())),
            ("reference_accuracy", share(pairs, |p| p.reference.is_ranked())),
            ("reference_accuracy_normalised", share(pairs, |p| p.reference.is_ranked_per_token())),
            ("reward_accuracy", share(pairs, Pair::is_rewarded)),
            ("reward_margin", mean(&|p| p.margin(self.beta))),
            ("flip_correct_to_correct", flips.correct_to_correct),
            ("flip_correct_to_incorrect", flips.correct_to_incorrect),
            ("flip_incorrect_to_correct", flips.incorrect_to_correct),
            ("flip_incorrect_to_incorrect", flips.incorrect_to_incorrect),
            ("flip_rate", flips.flip_rate()),
            ("logp_chosen", mean(&|p| p.policy.chosen)),
            ("logp_rejected", mean(&|p| p.policy.rejected)),
            ("distance", mean(&|p| (p.policy.chosen - p.reference.chosen).abs() / p.policy.chosen_tokens.max(1.0))),
            ("difficulty", mean(&|p| p.difficulty())),
            ("hard_share", share(pairs, |p| p.is_hard(self.beta))),
            ("ideal_accuracy_min", ideal.iter().copied().fold(f64::INFINITY, f64::min)),
            ("ideal_accuracy_median", median(&ideal)),
            ("ideal_accuracy_max", ideal.iter().copied().fold(f64::NEG_INFINITY, f64::max)),
            ("ideal_accuracy_normalised_median", median(&ideal_per_token)),
            ("alignment_gap", median(&ideal) - accuracy),
        ]
    }

    /// Idealised ranking accuracy at one beta; a pair without a label has the usual share of raters.
    fn ideal(&self, pairs: &[Pair], beta: f64, per_token: bool) -> f64 {
        let items: Vec<(&Pair, f64)> =
            pairs.iter().zip(self.examples.held()).map(|(p, g)| (p, g.label.unwrap_or(DEFAULT_SHARE))).collect();
        share(&items, |(p, a)| is_ideally_ranked(&p.reference, *a, beta, SHARE_EPS, per_token))
    }

    fn scores(&self, policy: &Policy) -> Result<Measured> {
        let mut margins = Vec::with_capacity(self.examples.len());
        let all: Vec<usize> = (0..self.examples.len()).collect();
        for chosen in all.chunks(CHUNK) {
            let scores = super::score::scores(policy, &self.examples.batch(chosen)?)?;
            margins.extend(scores.chunks(2).map(|pair| pair[0] - pair[1]));
        }
        let margin = margins.iter().sum::<f64>() / margins.len() as f64;
        let metrics = vec![("reward_accuracy", share(&margins, |m| *m > 0.0)), ("reward_margin", margin)];
        Ok(Measured { metrics, pairs: Vec::new(), margins })
    }

    /// Whether the data name the share of raters who preferred the chosen answer.
    fn has_labels(&self) -> bool {
        self.examples.held().iter().any(|g| g.label.is_some())
    }

    /// Where the shares of raters come from, in words.
    fn rater_shares(&self) -> String {
        match self.has_labels() {
            true => "from the data".to_owned(),
            false => format!("{DEFAULT_SHARE} for every pair, as the data name none"),
        }
    }

    /// Writes `report/preference.json`, the metrics before and after, and `report/pairs.jsonl`, every pair's own numbers.
    pub fn report(&self, folder: &RunFolder, before: &Measured, after: &Measured) -> Result<()> {
        let report = folder.join("report");
        std::fs::create_dir_all(&report).with_context(|| format!("{} cannot be made", report.display()))?;
        let content = json!({
            "pairs": self.examples.len(),
            "beta": self.beta,
            "ideal_betas": IDEAL_BETAS,
            "rater_shares": if self.has_labels() { json!("from the data") } else { json!(DEFAULT_SHARE) },
            "before": before.values(),
            "after": after.values(),
            "data": self.examples.audit,
        });
        write_atomically(&report.join("preference.json"), &serde_json::to_vec_pretty(&content)?)?;
        if after.pairs.is_empty() {
            return Ok(());
        }
        let mut lines = Vec::new();
        for (pair, group) in after.pairs.iter().zip(self.examples.held()) {
            let row = json!({
                "id": group.id,
                "chosen": pair.policy.chosen,
                "rejected": pair.policy.rejected,
                "reference_chosen": pair.reference.chosen,
                "reference_rejected": pair.reference.rejected,
                "chosen_tokens": pair.policy.chosen_tokens,
                "rejected_tokens": pair.policy.rejected_tokens,
                "label": group.label,
                "margin_needed": pair.margin_needed(self.beta),
                "loss": pair.loss(self.beta),
            });
            writeln!(lines, "{row}")?;
        }
        write_atomically(&report.join("pairs.jsonl"), &lines)
    }
}

impl Measured {
    /// Adds every metric under `eval/`; a share of nothing is left out.
    pub fn record(&self, step: &mut Step) {
        self.metrics.iter().for_each(|(name, value)| step.set(format!("eval/{name}"), *value));
    }

    /// One metric.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.metrics.iter().find(|m| m.0 == name).map(|m| m.1)
    }

    fn values(&self) -> Value {
        // NaN, a share of nothing, has no place in JSON.
        let finite = self.metrics.iter().filter(|m| m.1.is_finite());
        Value::Object(finite.map(|(name, value)| ((*name).to_owned(), json!(value))).collect())
    }

    /// For people.
    pub fn line(&self) -> String {
        let part = |name: &str, label: &str| self.get(name).map(|v| format!("{label} {v:.3}"));
        let parts = [
            part("ranking_accuracy", "ranking accuracy"),
            part("reference_accuracy", "reference"),
            part("reward_accuracy", "reward accuracy"),
            part("reward_margin", "margin"),
            part("flip_rate", "turned right").filter(|t| !t.contains("NaN")),
        ];
        parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }
}
