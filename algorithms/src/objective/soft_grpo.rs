//! `objective.soft_grpo`: GRPO on completions whose thinking steps are mixtures of tokens.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::grpo::{Grpo, LossType, kl::Estimator};
use super::{Leaves, Loss, Objective, Reads};
use crate::row::soft::weights;
use crate::{Batch, Error, Metrics, Needs, Outcome, Result, State, Table};

const STAGE: &str = "objective.soft_grpo";

/// SofT-GRPO: the clipped loss of GRPO with a dual clip and a KL penalty, on the densities of Gumbel soft
/// steps and the log-probs of discrete ones alike.
///
/// L = -min(rho A, clip(rho) A), for A < 0 at most -`dual_clip` A; rho = exp(logp - old_logp), where logp is the
/// log-density of the noisy scores at soft steps (`rollout.soft` says which). Plus `beta` times
/// k3 = clamp(e^d - d - 1, -10, 10), d = ref_logp - logp. Mean over all tokens of the optimiser step.
///
/// At small tau steps are almost tokens: expect modest differences from discrete GRPO. Alarms: truncation
/// rising while reward falls after a good phase; KL above 0.05.
/// Source: SofT-GRPO, arXiv 2511.06411, by its released code; the paper's body was not at hand.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SoftGrpo {
    /// Clip below: the ratio's gradient ends at 1 - epsilon for negative advantages.
    pub epsilon: f64,
    /// Clip above: at 1 + epsilon_high for positive advantages; absent = `epsilon`.
    pub epsilon_high: Option<f64>,
    /// Caps the loss of steps with negative advantage at -A c, c > 1; inf = no cap.
    pub dual_clip: f64,
    /// Weight of the KL penalty to the reference model; 0 = none is loaded.
    pub beta: f64,
}

impl Default for SoftGrpo {
    fn default() -> Self {
        Self { epsilon: 0.2, epsilon_high: None, dual_clip: 3.0, beta: 0.001 }
    }
}

impl SoftGrpo {
    /// The objective. Errors: settings that can never work.
    pub fn build(&self) -> Result<Box<dyn Objective>> {
        let grpo = Grpo {
            loss: LossType::Dapo,
            epsilon: self.epsilon,
            epsilon_high: self.epsilon_high,
            dual_clip: (self.dual_clip != f64::INFINITY).then_some(self.dual_clip),
            beta: self.beta,
            kl: Estimator::LowVarKl,
            use_bias_correction_kl: false,
            ..Grpo::default()
        };
        let grpo = grpo.build().map_err(|error| match error {
            Error::Config { key, value, why } => {
                Error::Config { key: key.replace("objective.grpo.", "objective.soft_grpo."), value, why }
            }
            other => other,
        })?;
        Ok(Box::new(Policy { grpo, settings: self.clone() }))
    }
}

/// GRPO on densities, with what is reported apart for soft and discrete steps.
struct Policy {
    grpo: Box<dyn Objective>,
    settings: SoftGrpo,
}

impl Objective for Policy {
    fn needs(&self) -> Needs {
        self.grpo.needs()
    }

    fn reads(&self) -> Reads {
        self.grpo.reads()
    }

    fn couples_rows(&self) -> bool {
        self.grpo.couples_rows()
    }

    fn rests_without_advantage(&self) -> bool {
        self.grpo.rests_without_advantage()
    }

    fn refuses_discrete_steps(&self) -> Option<&'static str> {
        Some("it learns from the noise of soft steps: write [rollout.soft], or [objective.grpo] with `dual_clip` = 3")
    }

    fn prepare(&mut self, batch: &mut Batch) -> Result<()> {
        self.grpo.prepare(batch).map_err(renamed)
    }

    fn commit(&mut self, batch: &Batch, metrics: &Metrics) -> Result<()> {
        self.grpo.commit(batch, metrics).map_err(renamed)
    }

    /// Metrics: those of `grpo`, and `approx_kl` (mean of old_logp - logp over tokens; 0 at the first update),
    /// `dual_clip_fraction`; `soft_` and `discrete_` forms of `ratio`, `clip_fraction`, `logp` and `kl`;
    /// `soft_fraction` of tokens; `open_fraction` of completions that never left thinking; over soft
    /// steps `weight_max` (mean of the largest weight), `sharp_fraction` (largest above 0.99), `active_slots` (mean,
    /// when drawn) and `no_active_fraction`.
    fn loss(&self, batch: &Batch, leaves: &Leaves) -> Result<Loss> {
        let mut loss = self.grpo.loss(batch, leaves).map_err(renamed)?;
        let steps = Steps::read(&self.settings, batch, &Table::from_tensor(&leaves.logp)?)?;
        steps.report(&mut loss.metrics);
        report_mixtures(batch, &mut loss.metrics);
        Ok(loss)
    }
}

/// An error of the GRPO inside, under this objective's name.
fn renamed(error: Error) -> Error {
    match error {
        Error::MissingColumn { column, .. } => Error::MissingColumn { stage: STAGE, column },
        Error::NonFinite { what, row, .. } => Error::NonFinite { stage: STAGE, what, row },
        Error::State { why, .. } => Error::State { stage: STAGE, why },
        other => other,
    }
}

/// One unmasked step of a kept completion.
struct Step {
    is_soft: bool,
    ratio: f64,
    logp: f64,
    is_clipped: bool,
    is_capped: bool,
    kl: Option<f64>,
}

struct Steps(Vec<Step>);

impl Steps {
    fn read(settings: &SoftGrpo, batch: &Batch, logp: &Table) -> Result<Self> {
        let (mask, advantage) = (batch.kept_mask(), batch.token_advantage(STAGE)?);
        let (low, high) = (1.0 - settings.epsilon, 1.0 + settings.epsilon_high.unwrap_or(settings.epsilon));
        let mut steps = Vec::new();
        for i in 0..mask.rows() {
            for t in (0..mask.cols()).filter(|&t| mask.row(i)[t] != 0.0) {
                let now = logp.row(i)[t];
                let credit = batch.credit.as_ref().map_or(1.0, |c| c.row(i)[t]);
                let a = advantage.row(i)[t] * credit;
                let ratio = batch.old_logp.as_ref().map_or(1.0, |old| (now - old.row(i)[t]).exp());
                let loss = (-a * ratio).max(-a * ratio.clamp(low, high));
                let difference = batch.ref_logp.as_ref().map(|reference| reference.row(i)[t] - now);
                steps.push(Step {
                    is_soft: batch.is_soft.as_ref().is_some_and(|s| s.row(i)[t] != 0.0),
                    ratio,
                    logp: now,
                    is_clipped: (ratio > high && a > 0.0) || (ratio < low && a < 0.0),
                    is_capped: a < 0.0 && loss > -settings.dual_clip * a,
                    kl: difference.map(|d| (d.exp() - d - 1.0).clamp(-10.0, 10.0)),
                });
            }
        }
        Ok(Self(steps))
    }

    fn report(&self, metrics: &mut Metrics) {
        let all = self.0.len() as f64;
        let flag = |b: bool| f64::from(u8::from(b));
        let share = |of: &dyn Fn(&Step) -> f64| self.0.iter().map(of).sum::<f64>() / all;
        metrics.mean("approx_kl", share(&|s| -s.ratio.ln()), all);
        metrics.mean("dual_clip_fraction", share(&|s| flag(s.is_capped)), all);
        metrics.mean("soft_fraction", share(&|s| flag(s.is_soft)), all);
        for (kind, is_soft) in [("soft", true), ("discrete", false)] {
            let steps: Vec<&Step> = self.0.iter().filter(|s| s.is_soft == is_soft).collect();
            let n = steps.len() as f64;
            let mut put = |name: &str, sum: f64| metrics.mean(&format!("{kind}_{name}"), sum / n, n);
            put("ratio", steps.iter().map(|s| s.ratio).sum());
            put("logp", steps.iter().map(|s| s.logp).sum());
            put("clip_fraction", steps.iter().map(|s| flag(s.is_clipped)).sum());
            if steps.iter().any(|s| s.kl.is_some()) {
                put("kl", steps.iter().filter_map(|s| s.kl).sum());
            }
            if is_soft {
                metrics.mean("no_active_fraction", steps.iter().map(|s| flag(s.logp == 0.0)).sum::<f64>() / n, n);
            }
        }
    }
}

fn report_mixtures(batch: &Batch, metrics: &mut Metrics) {
    let Some(soft) = &batch.soft else { return };
    let (mut steps, mut largest, mut sharp, mut active) = (0.0, 0.0, 0.0, 0.0);
    for (i, row) in soft.rows.iter().enumerate().filter(|(i, _)| batch.keep[*i]) {
        let tokens = batch.row_tokens(i).round() as usize;
        metrics.mean("open_fraction", f64::from(u8::from(row.len() >= tokens)), f64::from(u8::from(tokens > 0)));
        for step in (0..row.len()).filter_map(|t| row.step(t)) {
            let most = weights(step.scores, soft.tau).into_iter().fold(0.0, f64::max);
            steps += 1.0;
            largest += most;
            sharp += f64::from(u8::from(most > 0.99));
            active += f64::from(step.active.count_ones());
        }
    }
    metrics.mean("weight_max", largest / steps, steps);
    metrics.mean("sharp_fraction", sharp / steps, steps);
    metrics.mean("active_slots", active / steps, steps);
}

impl State for Policy {
    fn save(&self) -> Option<serde_json::Value> {
        self.grpo.save()
    }

    fn load(&mut self, saved: &serde_json::Value) -> Result<()> {
        self.grpo.load(saved).map_err(renamed)
    }

    fn observe(&mut self, outcome: &Outcome) {
        self.grpo.observe(outcome);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Advantages;

    #[test]
    fn the_dual_clip_caps_and_steps_are_told_apart() {
        let mut batch = Batch::new(Table::filled(2, 2, 1.0), vec![0, 0]).unwrap();
        batch.advantage = Some(Advantages::Row(vec![1.0, -1.0]));
        batch.old_logp = Some(Table::filled(2, 2, -2.0));
        batch.ref_logp = Some(Table::filled(2, 2, -1.0));
        batch.is_soft = Some(Table::new(2, 2, vec![1.0, 0.0, 0.0, 0.0]).unwrap());
        // Ratios 1, e, 1, e^2: the second is clipped above, the last capped at 3.
        let logp = Table::new(2, 2, vec![-2.0, -1.0, -2.0, 0.0]).unwrap().tensor().unwrap();
        let leaves = Leaves { logp, entropy: None, divergence: None, score: None };
        let loss = SoftGrpo { beta: 0.0, ..SoftGrpo::default() }.build().unwrap().loss(&batch, &leaves).unwrap();
        assert!((loss.value.to_scalar::<f64>().unwrap() - (-1.0 - 1.2 + 1.0 + 3.0) / 4.0).abs() < 1e-12);
        let metric = |name: &str| loss.metrics.get(name).unwrap();
        assert_eq!((metric("dual_clip_fraction"), metric("soft_fraction"), metric("soft_ratio")), (0.25, 0.25, 1.0));
        assert!((metric("soft_kl") - (1f64.exp() - 2.0)).abs() < 1e-12, "d = 1");
    }

    /// What the GRPO inside is told and asked: its hooks, in order.
    #[test]
    fn hooks_reach_the_inner_objective() {
        use std::sync::{Arc, Mutex};

        struct Inner(Arc<Mutex<Vec<&'static str>>>);
        impl Objective for Inner {
            fn couples_rows(&self) -> bool {
                false
            }
            fn prepare(&mut self, batch: &mut Batch) -> Result<()> {
                self.0.lock().unwrap().push("prepare");
                batch.mask = Table::filled(1, 2, 0.0);
                Ok(())
            }
            fn loss(&self, _batch: &Batch, _leaves: &Leaves) -> Result<Loss> {
                unreachable!("no loss is asked for")
            }
            fn commit(&mut self, _batch: &Batch, _metrics: &Metrics) -> Result<()> {
                self.0.lock().unwrap().push("commit");
                Err(Error::State { stage: "objective.grpo", why: "as told".into() })
            }
        }
        impl State for Inner {
            fn save(&self) -> Option<serde_json::Value> {
                Some(serde_json::json!(7))
            }
            fn load(&mut self, saved: &serde_json::Value) -> Result<()> {
                assert_eq!(saved, &serde_json::json!(7));
                self.0.lock().unwrap().push("load");
                Ok(())
            }
            fn observe(&mut self, _outcome: &Outcome) {
                self.0.lock().unwrap().push("observe");
            }
        }

        let heard = Arc::new(Mutex::new(Vec::new()));
        let mut policy = Policy { grpo: Box::new(Inner(heard.clone())), settings: SoftGrpo::default() };
        let mut batch = Batch::new(Table::filled(1, 2, 1.0), vec![0]).unwrap();
        policy.prepare(&mut batch).unwrap();
        assert_eq!(batch.mask.sum(), 0.0, "the mask was not changed");
        let error = policy.commit(&batch, &Metrics::new()).unwrap_err();
        assert!(matches!(error, Error::State { stage: STAGE, .. }), "{error}");
        policy.observe(&Outcome::Evaluation { step: 1, accuracy: 0.5 });
        let saved = policy.save().unwrap();
        policy.load(&saved).unwrap();
        assert_eq!(*heard.lock().unwrap(), ["prepare", "commit", "observe", "load"]);
    }

    #[test]
    fn errors_name_this_objective() {
        let error = SoftGrpo { dual_clip: 0.5, ..SoftGrpo::default() }.build().err().unwrap().to_string();
        assert!(error.starts_with("`objective.soft_grpo.dual_clip` = 0.5"), "{error}");
        let batch = Batch::new(Table::filled(1, 1, 1.0), vec![0]).unwrap();
        let logp = Table::filled(1, 1, -1.0).tensor().unwrap();
        let leaves = Leaves { logp, entropy: None, divergence: None, score: None };
        let error = SoftGrpo::default().build().unwrap().loss(&batch, &leaves).unwrap_err();
        assert!(matches!(error, Error::MissingColumn { stage: STAGE, column: "advantage" }));
    }
}
