//! `objective.dpo`: direct preference optimisation and its losses.
//!
//! [`loss`] holds the loss of a pair, [`divergence`] what a log-ratio to the reference is worth.

pub mod divergence;
pub mod loss;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use divergence::Divergence;
pub use loss::{DpoLoss, Terms};

use super::pairs::{Pairs, report_mean, report_rewards, require, vector};
use super::{Leaves, Loss, Objective, Rows};
use crate::{Batch, Error, Metrics, Needs, Result, State};

const STAGE: &str = "objective.dpo";

/// Direct preference optimisation: makes the chosen answer of each pair more likely than the rejected
/// one, measured against a frozen reference. No sampling while training.
///
/// loss = mean over pairs of the loss that `loss` names, with the implicit reward b (logp - ref_logp) of
/// an answer. Learns from pairs: `prompt`, `chosen`, `rejected`. A reference is a [model.reference]
/// section, or the base model under [model.lora]; its log-probs are computed once and kept on disk.
/// Metrics: `reward_chosen`, `reward_rejected`, `reward_margin`, `reward_accuracy` (strict), log-probs,
/// lengths and ranking accuracies. At the first step margins and accuracy are 0 and the sigmoid loss is ln 2.
/// Source: arXiv 2305.18290 and huggingface/trl 1.16 for the family. There `sigmoid` ignores label
/// smoothing too; `cdpo` is the loss that has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Dpo {
    /// The loss of a pair.
    pub loss: DpoLoss,
    /// Factor on that loss, where others are mixed in.
    pub loss_weight: f64,
    /// Further losses and their factors: `{ sft = 1.0 }` is RPO, with `bco_pair = 0.2` and weight 0.8 it is MPO (arXiv 2411.10442).
    pub mix: BTreeMap<DpoLoss, f64>,
    /// b: how strongly the policy is held to the reference; 0.01 to 0.5. For `ipo` it is the paper's tau.
    pub beta: f64,
    /// e: the share of pairs believed to be labelled the wrong way round, below 0.5.
    pub label_smoothing: f64,
    /// The divergence behind the implicit reward.
    pub f_divergence: Divergence,
    /// a of `alpha_divergence`.
    pub f_alpha: f64,
    /// Factor in [0,1] on tokens beyond the length of the shorter answer; absent is 1.
    pub ld_alpha: Option<f64>,
    /// WPO: multiplies a pair's loss by how likely the policy finds both answers (not the `sft` term). Costs a forward pass.
    pub use_weighting: bool,
    /// tau of `discopop`.
    pub discopop_tau: f64,
    /// Factor on the reference's log-probs: 1 is DPO, 0 needs no reference, between them lies DPO-gamma (arXiv 2405.19534).
    pub reference_weight: f64,
}

impl Default for Dpo {
    fn default() -> Self {
        Self {
            loss: DpoLoss::Sigmoid,
            loss_weight: 1.0,
            mix: BTreeMap::new(),
            beta: 0.1,
            label_smoothing: 0.0,
            f_divergence: Divergence::ReverseKl,
            f_alpha: 0.5,
            ld_alpha: None,
            use_weighting: false,
            discopop_tau: 0.05,
            reference_weight: 1.0,
        }
    }
}

impl Dpo {
    /// The objective, once its settings are found possible.
    pub fn build(&self) -> Result<Box<dyn Objective>> {
        self.validate()?;
        Ok(Box::new(self.clone()))
    }

    /// Every loss with its factor.
    pub fn losses(&self) -> impl Iterator<Item = (DpoLoss, f64)> + '_ {
        std::iter::once((self.loss, self.loss_weight)).chain(self.mix.iter().map(|(&kind, &weight)| (kind, weight)))
    }

    fn validate(&self) -> Result<()> {
        let at = |key: &str| format!("{STAGE}.{key}");
        require(self.beta > 0.0, at("beta"), self.beta, "set it above 0, such as 0.1")?;
        let e = self.label_smoothing;
        require((0.0..0.5).contains(&e), at("label_smoothing"), e, "it is a share from 0 to below 0.5")?;
        require(
            self.discopop_tau > 0.0 && self.discopop_tau <= 1.0,
            at("discopop_tau"),
            self.discopop_tau,
            "it lies above 0 and up to 1, such as 0.05",
        )?;
        if let Some(alpha) = self.ld_alpha {
            require((0.0..=1.0).contains(&alpha), at("ld_alpha"), alpha, "it lies from 0 to 1")?;
        }
        require(true, at("f_alpha"), self.f_alpha, "it is a finite number")?;
        require(self.reference_weight >= 0.0, at("reference_weight"), self.reference_weight, "it is 0 or above")?;
        for (kind, weight) in self.losses() {
            let key = if kind == self.loss { at("loss_weight") } else { format!("{}.{}", at("mix"), kind.name()) };
            require(weight > 0.0, key, weight, "a factor is above 0: leave out what is not wanted")?;
        }
        if self.mix.contains_key(&self.loss) {
            return Err(Error::config(at("mix"), self.loss.name(), "it is the main loss already: set `loss_weight`"));
        }
        for (kind, _) in self.losses() {
            let refuse = |key: &str, value: &str, why: String| Err(Error::config(at(key), value, why));
            let name = kind.name();
            if self.f_divergence != Divergence::ReverseKl && !kind.takes_divergence() {
                return refuse(
                    "f_divergence",
                    "another than reverse_kl",
                    format!(
                        "`{name}` is written in raw log-ratios: use `sigmoid`, `hinge`, `ipo`, `exo_pair`, `robust`, `discopop` or `sigmoid_norm`"
                    ),
                );
            }
            if self.use_weighting && kind.sorts() {
                return refuse("use_weighting", "true", format!("`{name}` sorts answers, which parts the pairs"));
            }
            if kind == DpoLoss::ExoPair && e == 0.0 {
                return refuse("label_smoothing", "0", "`exo_pair` takes its logarithm: set it to 1e-3".into());
            }
        }
        Ok(())
    }

    /// Loss and per-pair terms of a batch of pairs: what every part of it is tested by.
    pub(crate) fn value(&self, pairs: &Pairs, terms: &Terms, metrics: &mut Metrics) -> Result<candle_core::Tensor> {
        let weights = match self.use_weighting {
            true => Some(vector(&loss::wpo_weights(pairs)?)?),
            false => None,
        };
        if let Some(weights) = &weights {
            report_mean(metrics, "wpo_weight", weights)?;
        }
        let mut total = vector(&[0.0])?.squeeze(0)?;
        let has_parts = !self.mix.is_empty();
        for (kind, factor) in self.losses() {
            let part = match kind {
                DpoLoss::Sft => {
                    let tokens = pairs.chosen.mask.sum();
                    let nll = pairs.chosen_nll()?;
                    let own = nll.to_scalar::<f64>()? * pairs.chosen_tokens / tokens;
                    metrics.mean("loss_sft", own, tokens);
                    nll
                }
                _ => {
                    let per_pair = terms.loss(kind, self)?;
                    let per_pair = match &weights {
                        Some(weights) => (per_pair * weights)?,
                        None => per_pair,
                    };
                    if has_parts {
                        report_mean(metrics, &format!("loss_{}", kind.name()), &per_pair)?;
                    }
                    pairs.mean(&per_pair)?
                }
            };
            total = (total + (part * factor)?)?;
        }
        Ok(total)
    }
}

impl Objective for Dpo {
    fn needs(&self) -> Needs {
        let ref_logp = self.reference_weight != 0.0;
        Needs { ref_logp, log_sum_sq: self.use_weighting, ..Needs::default() }
    }

    fn rows(&self) -> Rows {
        Rows::Pairs { with_prompt: false }
    }

    fn couples_rows(&self) -> bool {
        self.losses().any(|(kind, _)| kind.sorts())
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.label_smoothing > 0.0 && !self.losses().any(|(kind, _)| kind.smooths()) {
            warnings.push(format!(
                "`{STAGE}.label_smoothing` changes nothing: loss `{}` has none; `cdpo`, `robust`, `exo_pair`, `aot` and `aot_unpaired` have",
                self.loss.name()
            ));
        }
        if self.f_alpha != Self::default().f_alpha && self.f_divergence != Divergence::AlphaDivergence {
            warnings.push(format!("`{STAGE}.f_alpha` changes nothing: `f_divergence` is not `alpha_divergence`"));
        }
        warnings
    }

    fn loss(&self, batch: &Batch, leaves: &Leaves) -> Result<Loss> {
        let pairs = Pairs::read(STAGE, batch, leaves)?;
        let terms = Terms::new(self, &pairs)?;
        let mut metrics = Metrics::new();
        let value = self.value(&pairs, &terms, &mut metrics)?;
        pairs.report(&mut metrics)?;
        self.report(&terms, &mut metrics)?;
        Ok(Loss { value, metrics })
    }
}

impl Dpo {
    /// Implicit rewards b d with raw log-ratios, whatever the divergence.
    fn report(&self, terms: &Terms, metrics: &mut Metrics) -> Result<()> {
        let rewards = ((&terms.ratios.0 * self.beta)?, (&terms.ratios.1 * self.beta)?);
        report_rewards(metrics, (&rewards.0, &rewards.1))?;
        if self.reference_weight != 0.0 {
            let (c0, r0) = (terms.reference.0.to_vec1::<f64>()?, terms.reference.1.to_vec1::<f64>()?);
            let agreed = c0.iter().zip(&r0).filter(|(c, r)| c >= r).count();
            metrics.mean("reference_accuracy", agreed as f64 / c0.len() as f64, c0.len() as f64);
        }
        Ok(())
    }
}

impl State for Dpo {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objective::pairs::tests::{batch, check_laws, run};

    const ALL: [DpoLoss; 16] = [
        DpoLoss::Sigmoid,
        DpoLoss::Cdpo,
        DpoLoss::Hinge,
        DpoLoss::Ipo,
        DpoLoss::ExoPair,
        DpoLoss::NcaPair,
        DpoLoss::Robust,
        DpoLoss::BcoPair,
        DpoLoss::SppoHard,
        DpoLoss::Aot,
        DpoLoss::AotUnpaired,
        DpoLoss::ApoZero,
        DpoLoss::ApoDown,
        DpoLoss::Discopop,
        DpoLoss::SigmoidNorm,
        DpoLoss::Sft,
    ];

    #[test]
    fn every_loss_obeys_the_laws() {
        for loss in ALL {
            let settings = Dpo { loss, label_smoothing: 0.1, ..Dpo::default() };
            check_laws(settings.build().unwrap().as_ref());
            if loss.takes_divergence() {
                for f_divergence in [Divergence::ForwardKl, Divergence::JsDivergence, Divergence::AlphaDivergence] {
                    check_laws(&Dpo { f_divergence, ..settings.clone() });
                }
            }
        }
        let mix = BTreeMap::from([(DpoLoss::Sft, 1.0), (DpoLoss::BcoPair, 0.2)]);
        check_laws(&Dpo { mix, ld_alpha: Some(0.4), ..Dpo::default() });
    }

    /// With the policy equal to the reference, D = 0: sigmoid gives ln 2, no reward differs.
    #[test]
    fn at_the_reference_the_loss_is_ln_2_and_nothing_is_ranked() {
        let (mut batch, logp) = batch(3, 4);
        batch.ref_logp = Some(logp.clone());
        let (loss, _) = run(Dpo::default().build().unwrap().as_ref(), &batch, &logp);
        assert!((loss.value.to_scalar::<f64>().unwrap() - 2f64.ln()).abs() < 1e-15);
        assert_eq!((loss.metrics.get("reward_margin"), loss.metrics.get("reward_accuracy")), (Some(0.0), Some(0.0)));
        assert_eq!(loss.metrics.get("reference_accuracy"), loss.metrics.get("ranking_accuracy"));
    }

    #[test]
    fn what_cannot_work_names_its_key() {
        let refused = |settings: Dpo, key: &str| {
            let error = settings.build().err().expect("refused").to_string();
            assert!(error.contains(key), "{error}");
        };
        refused(Dpo { beta: 0.0, ..Dpo::default() }, "objective.dpo.beta");
        refused(Dpo { label_smoothing: 0.5, ..Dpo::default() }, "label_smoothing");
        refused(Dpo { loss: DpoLoss::ExoPair, ..Dpo::default() }, "label_smoothing");
        refused(Dpo { loss: DpoLoss::NcaPair, f_divergence: Divergence::ForwardKl, ..Dpo::default() }, "f_divergence");
        refused(Dpo { loss: DpoLoss::Aot, use_weighting: true, ..Dpo::default() }, "use_weighting");
        refused(Dpo { ld_alpha: Some(1.5), ..Dpo::default() }, "ld_alpha");
        refused(Dpo { mix: BTreeMap::from([(DpoLoss::Sigmoid, 1.0)]), ..Dpo::default() }, "mix");
        refused(Dpo { mix: BTreeMap::from([(DpoLoss::Sft, 0.0)]), ..Dpo::default() }, "mix.sft");
        assert!(Dpo { label_smoothing: 0.1, ..Dpo::default() }.warnings()[0].contains("cdpo"));
    }
}
