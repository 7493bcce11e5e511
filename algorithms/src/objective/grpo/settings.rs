//! The settings of `objective.grpo`, and which of them can work together.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::aggregate::{Aggregation, EmptyRows};
use super::kl::Estimator;
use super::mismatch::{Mismatch, Rejection};
use super::ratio::Level;
use crate::{Error, Result};

/// The loss of a token, L, to be minimised; rho is the ratio, A the advantage times the credit, sg stops the gradient.
///
/// The first five differ only in how they are averaged. On-policy (rho = 1) all have the gradient -A.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LossType {
    /// L = -min(rho A, clip(rho, 1 - epsilon, 1 + epsilon_high) A); mean over the tokens of a row, then
    /// over rows: short right and long wrong answers weigh more. DeepSeekMath, arXiv 2402.03300.
    Grpo,
    /// The clipped loss, averaged over the tokens of the batch it is handed. TRL's `bnpo`.
    Bnpo,
    /// The clipped loss, summed and divided by rows x most tokens possible, a constant.
    /// Understanding R1-Zero-Like Training, arXiv 2503.20783.
    DrGrpo,
    /// The clipped loss, averaged over all tokens of the optimiser step. DAPO, arXiv 2503.14476.
    #[default]
    Dapo,
    /// The clipped loss, summed over the tokens of a row, then averaged over rows; meant for the
    /// sequence ratio. arXiv 2602.05261.
    Luspo,
    /// L = -sg[min(rho, epsilon_high)] A logp: every token keeps a gradient. MiniMax-M1, arXiv
    /// 2506.13585; the cap 5 is ScaleRL's, arXiv 2510.13786.
    Cispo,
    /// L = -(4/tau) sigmoid(tau (rho - 1)) A, a soft gate instead of a clip. arXiv 2511.20347.
    Sapo,
    /// L = -sg[phi] A logp with phi = exp(lambda + k ln W - lambda W) of the whole row's ratio W.
    /// arXiv 2602.10693.
    Vespo,
    /// L = -A logp, no ratio.
    Reinforce,
}

/// Whether rows or prompts weigh the same, where groups differ in size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GroupWeight {
    /// Every row (or token) weighs the same.
    #[default]
    Rollout,
    /// Every prompt weighs the same, whatever the number of its rows.
    Prompt,
}

/// The exponents of VESPO's weight phi = exp(lambda + k ln W - lambda W); phi(1) = 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Vespo {
    /// k where the advantage is 0 or positive.
    pub k_pos: f64,
    /// lambda where the advantage is 0 or positive.
    pub lambda_pos: f64,
    /// k where the advantage is negative.
    pub k_neg: f64,
    /// lambda where the advantage is negative.
    pub lambda_neg: f64,
}

impl Default for Vespo {
    fn default() -> Self {
        Self { k_pos: 2.0, lambda_pos: 3.0, k_neg: 3.0, lambda_neg: 2.0 }
    }
}

/// GRPO and its family: a clipped policy gradient on advantages, without a critic.
///
/// loss = sum over tokens of (L + beta KL) x the token's share, minus the entropy bonus. `loss` names
/// L and, unless `aggregation` is set, how tokens are averaged; `importance_sampling_level` names
/// the ratio rho. For GSPO: `loss = "grpo"`, `importance_sampling_level = "sequence"`, `epsilon = 3e-4`,
/// `epsilon_high = 4e-4`. Old log-probs are asked for only when something compares engines; without
/// them the ratio is 1 and nothing clips.
///
/// Not for data that other policies wrote, unless `off_policy_mask_threshold` or `mismatch` holds it
/// back. The loss is near 0 by construction and says nothing; watch reward, entropy and clip share.
/// Sources stand with each [`LossType`]; defaults are TRL 1.16's except that rows without tokens are left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Grpo {
    /// The loss of a token.
    pub loss: LossType,
    /// How tokens are averaged; absent = as `loss` has it.
    pub aggregation: Option<Aggregation>,
    /// What the ratio is taken over.
    pub importance_sampling_level: Level,
    /// Clip below: the ratio's gradient ends at 1 - epsilon for negative advantages.
    pub epsilon: f64,
    /// Clip above: at 1 + epsilon_high for positive advantages; for `cispo` the cap itself.
    /// Absent = `epsilon`, for `cispo` 5.0.
    pub epsilon_high: Option<f64>,
    /// Caps the unclipped ratio, above 1 + epsilon_high (INTELLECT-2, arXiv 2505.07291).
    pub delta: Option<f64>,
    /// Caps the loss of tokens with negative advantage at -A c, c > 1 (dual-clip PPO, arXiv 1912.09729; verl uses 3).
    pub dual_clip: Option<f64>,
    /// Lower bound of the weight of `cispo`; verl has 1 - epsilon.
    pub cispo_min: Option<f64>,
    /// tau of `sapo` for positive advantages.
    pub sapo_tau_pos: f64,
    /// tau of `sapo` for the others.
    pub sapo_tau_neg: f64,
    /// Exponents of `vespo`.
    pub vespo: Vespo,
    /// Weight of the KL penalty to the reference model; 0 = none is loaded.
    pub beta: f64,
    /// Estimator of the KL penalty.
    pub kl: Estimator,
    /// Multiplies the penalty by the differentiable ratio, which makes its gradient unbiased
    /// (DeepSeek-V3.2, arXiv 2512.02556).
    pub use_bias_correction_kl: bool,
    /// Share of tokens, those of highest entropy, that the policy term is kept for; 1 = all
    /// (Beyond the 80/20 Rule, arXiv 2506.01939, uses 0.2). Divisors do not change.
    pub top_entropy_quantile: f64,
    /// Rows with negative advantage are dropped when the mean of sampling_logp - logp is above this
    /// (DeepSeek-V3.2, arXiv 2512.02556).
    pub off_policy_mask_threshold: Option<f64>,
    /// Weight of the entropy bonus.
    pub entropy_coef: f64,
    /// Makes the weight adaptive: it grows by `entropy_coef_delta` after a step whose mean entropy was
    /// at or below this target (nats), shrinks otherwise, and acts only at or below it
    /// (Skywork-OR1, arXiv 2505.22312, with 0.2).
    pub entropy_target: Option<f64>,
    /// Step of the adaptive weight.
    pub entropy_coef_delta: f64,
    /// Least adaptive weight.
    pub entropy_coef_min: f64,
    /// Largest adaptive weight.
    pub entropy_coef_max: f64,
    /// Weights for a sampler whose log-probs differ from the training forward's.
    pub mismatch: Option<Mismatch>,
    /// Takes tokens or rows out whose sampling log-probs are too far off.
    pub rejection: Option<Rejection>,
    /// Leaves out completions that did not end (DAPO's overlong filtering); they still take part in
    /// the group's baseline.
    pub mask_truncated_completions: bool,
    /// Whether rows or prompts weigh the same.
    pub group_weight: GroupWeight,
    /// Whether rows without tokens count in means over rows.
    pub empty_rows: EmptyRows,
}

impl Default for Grpo {
    fn default() -> Self {
        Self {
            loss: LossType::Dapo,
            aggregation: None,
            importance_sampling_level: Level::Token,
            epsilon: 0.2,
            epsilon_high: None,
            delta: None,
            dual_clip: None,
            cispo_min: None,
            sapo_tau_pos: 1.0,
            sapo_tau_neg: 1.05,
            vespo: Vespo::default(),
            beta: 0.0,
            kl: Estimator::K3,
            use_bias_correction_kl: true,
            top_entropy_quantile: 1.0,
            off_policy_mask_threshold: None,
            entropy_coef: 0.0,
            entropy_target: None,
            entropy_coef_delta: 0.005,
            entropy_coef_min: 0.0,
            entropy_coef_max: 1.0,
            mismatch: None,
            rejection: None,
            mask_truncated_completions: false,
            group_weight: GroupWeight::Rollout,
            empty_rows: EmptyRows::Skip,
        }
    }
}

/// The cap of CISPO's weight when the config names none, after ScaleRL.
const CISPO_CAP: f64 = 5.0;

impl Grpo {
    /// Where the ratio is clipped: (1 - epsilon, 1 + epsilon_high).
    pub fn clip_range(&self) -> (f64, f64) {
        (1.0 - self.epsilon, 1.0 + self.epsilon_high.unwrap_or(self.epsilon))
    }

    /// Range of CISPO's weight.
    pub fn cispo_range(&self) -> (f64, f64) {
        (self.cispo_min.unwrap_or(0.0), self.epsilon_high.unwrap_or(CISPO_CAP))
    }

    /// How tokens are averaged.
    pub fn aggregation(&self) -> Aggregation {
        self.aggregation.unwrap_or(match self.loss {
            LossType::Grpo | LossType::Sapo => Aggregation::SeqMeanTokenMean,
            LossType::Bnpo => Aggregation::BatchTokenMean,
            LossType::DrGrpo => Aggregation::SeqMeanTokenSumNorm,
            LossType::Luspo => Aggregation::SeqMeanTokenSum,
            LossType::Dapo | LossType::Cispo | LossType::Vespo | LossType::Reinforce => Aggregation::TokenMean,
        })
    }

    /// Refuses settings that can never work, or that this loss would not read.
    pub(super) fn validate(&self) -> Result<()> {
        use LossType::{Bnpo, Cispo, Dapo, DrGrpo, Grpo, Luspo, Sapo, Vespo};
        let key = |name: &str| format!("objective.grpo.{name}");
        let refuse = |name: &str, value: f64, why: &str| Err(Error::config(key(name), value, why));
        let clips = matches!(self.loss, Grpo | Bnpo | DrGrpo | Dapo | Luspo);

        if !(0.0..=1.0).contains(&self.epsilon) {
            return refuse("epsilon", self.epsilon, "the ratio is clipped at 1 - epsilon: choose from 0 to 1");
        }
        if let Some(high) = self.epsilon_high {
            let least = if self.loss == Cispo { f64::MIN_POSITIVE } else { 0.0 };
            if !(high >= least && high.is_finite()) {
                return refuse("epsilon_high", high, "a clip above is a positive number");
            }
        }
        if let Some(delta) = self.delta {
            if !clips {
                return refuse("delta", delta, "only the clipped losses read it: leave it out");
            }
            if !(delta > self.clip_range().1 && delta.is_finite()) {
                return refuse("delta", delta, "it caps the unclipped ratio and must exceed 1 + epsilon_high");
            }
        }
        if let Some(c) = self.dual_clip {
            if !clips {
                return refuse("dual_clip", c, "only the clipped losses read it: leave it out");
            }
            if !(c > 1.0 && c.is_finite()) {
                return refuse(
                    "dual_clip",
                    c,
                    "a cap at or below 1 would cap on-policy tokens: choose above 1, such as 3",
                );
            }
        }
        if let Some(least) = self.cispo_min {
            if self.loss != Cispo {
                return refuse("cispo_min", least, "only `loss` = \"cispo\" reads it: leave it out");
            }
            if !(least >= 0.0 && least <= self.cispo_range().1) {
                return refuse("cispo_min", least, "it lies between 0 and epsilon_high");
            }
        }
        if self.loss == Sapo {
            for (name, tau) in [("sapo_tau_pos", self.sapo_tau_pos), ("sapo_tau_neg", self.sapo_tau_neg)] {
                if !(tau > 0.0 && tau.is_finite()) {
                    return refuse(name, tau, "a temperature is positive");
                }
            }
        }
        if self.loss == Vespo {
            let v = &self.vespo;
            for (name, x) in
                [("k_pos", v.k_pos), ("lambda_pos", v.lambda_pos), ("k_neg", v.k_neg), ("lambda_neg", v.lambda_neg)]
            {
                if !(x > 0.0 && x.is_finite()) {
                    return refuse(&format!("vespo.{name}"), x, "an exponent is positive");
                }
            }
        }
        if !(self.beta >= 0.0 && self.beta.is_finite()) {
            return refuse("beta", self.beta, "a penalty is 0 (off) or a positive number");
        }
        if !(0.0..=1.0).contains(&self.top_entropy_quantile) {
            return refuse("top_entropy_quantile", self.top_entropy_quantile, "it is a share of tokens, from 0 to 1");
        }
        if let Some(threshold) = self.off_policy_mask_threshold.filter(|t| !t.is_finite()) {
            return refuse("off_policy_mask_threshold", threshold, "it is a finite number of nats, such as 0.5");
        }
        self.validate_entropy()?;
        if let Some(mismatch) = &self.mismatch {
            mismatch.validate()?;
            if self.loss == Vespo && mismatch.mode.is_sequence() {
                let why = "`vespo` already weighs whole rows: use a token mode";
                return Err(Error::config(key("mismatch.mode"), mismatch.mode.name(), why));
            }
        }
        self.rejection.as_ref().map_or(Ok(()), Rejection::validate)
    }

    fn validate_entropy(&self) -> Result<()> {
        let refuse =
            |name: &str, value: f64, why: &str| Err(Error::config(format!("objective.grpo.{name}"), value, why));
        let (least, most) = (self.entropy_coef_min, self.entropy_coef_max);
        if !(self.entropy_coef >= 0.0 && self.entropy_coef.is_finite()) {
            return refuse("entropy_coef", self.entropy_coef, "a bonus is 0 (off) or a positive number");
        }
        let Some(target) = self.entropy_target else { return Ok(()) };
        if !(target > 0.0 && target.is_finite()) {
            return refuse("entropy_target", target, "a target is a positive number of nats, such as 0.2");
        }
        if !(self.entropy_coef_delta > 0.0 && self.entropy_coef_delta.is_finite()) {
            return refuse(
                "entropy_coef_delta",
                self.entropy_coef_delta,
                "with a target the weight moves by a positive step",
            );
        }
        if !(least >= 0.0 && most >= least && most.is_finite()) {
            return refuse("entropy_coef_min", least, "it is at least 0 and at most entropy_coef_max");
        }
        if !(least..=most).contains(&self.entropy_coef) {
            return refuse(
                "entropy_coef",
                self.entropy_coef,
                "it starts between entropy_coef_min and entropy_coef_max",
            );
        }
        Ok(())
    }

    /// What works but is seldom meant, a line each.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let is_sequence = self.importance_sampling_level != Level::Token;
        let row_means = [Aggregation::SeqMeanTokenMean, Aggregation::SeqMeanTokenSum];
        if is_sequence && !row_means.contains(&self.aggregation()) {
            warnings.push(
                "a sequence ratio averaged over tokens weighs rows by their length and is not GSPO: set `loss` = \"grpo\""
                    .to_owned(),
            );
        }
        if self.loss == LossType::Luspo && !is_sequence {
            warnings.push("`luspo` is meant for `importance_sampling_level` = \"sequence\"".to_owned());
        }
        if self.loss == LossType::Vespo && is_sequence {
            warnings.push(
                "`vespo` takes the ratio of whole rows by itself: leave `importance_sampling_level` at \"token\""
                    .to_owned(),
            );
        }
        if self.beta > 0.0 && self.kl == Estimator::K1 && !self.use_bias_correction_kl {
            warnings
                .push("the gradient of `kl` = \"k1\" in the loss is zero on average: use \"k3\" or \"k2\"".to_owned());
        }
        warnings
    }
}
