//! `objective.grpo`: the clipped policy-gradient losses of GRPO and its family.
//!
//! Four independent choices: the advantage (another stage), the ratio ([`ratio`]), the loss of a
//! token ([`surrogate`]) and how tokens are averaged ([`aggregate`]); and what may be added: a KL
//! penalty ([`kl`]), masks ([`mask`]), weights for a sampler that differs from the training
//! forward ([`mismatch`]), an entropy bonus.

pub mod aggregate;
pub mod kl;
pub mod mask;
pub mod mismatch;
pub mod ratio;
pub mod settings;
pub mod surrogate;

#[cfg(test)]
mod tests;

use candle_core::Tensor;

pub use settings::{GroupWeight, Grpo, LossType};

use self::aggregate::Aggregation;
use super::{Leaves, Loss, Objective, Reads};
use crate::{Batch, Error, Metrics, Needs, Result, State, Table};

const STAGE: &str = "objective.grpo";

/// The objective with the state of its adaptive entropy bonus.
pub(super) struct Policy {
    settings: Grpo,
    /// The entropy coefficient, which moves if there is a target.
    entropy_coef: f64,
    /// Share of tokens that [`mismatch::Rejection`] took out of this rollout batch.
    rejected: Option<f64>,
}

impl Grpo {
    /// The objective, once its settings are found possible.
    pub fn build(&self) -> Result<Box<dyn Objective>> {
        self.validate()?;
        Ok(Box::new(Policy { settings: self.clone(), entropy_coef: self.entropy_coef, rejected: None }))
    }
}

/// What every part of the loss reads of a batch, with masked entries set to 0.
struct Columns {
    /// Current log-probs, [N,T], with gradient.
    logp: Tensor,
    /// Values of `logp`, [N,T].
    current: Table,
    /// Log-probs of the policy that started this phase, [N,T]; the current ones if there are none.
    old: Table,
    /// Advantage times credit, [N,T].
    advantage: Table,
    /// The mask of kept rows, [N,T].
    mask: Table,
    /// Which rows are kept, [N].
    keep: Vec<bool>,
}

impl Columns {
    fn read(batch: &Batch, leaves: &Leaves) -> Result<Self> {
        let mask = batch.kept_mask();
        let current = masked(&Table::from_tensor(&leaves.logp)?, &mask, "logp")?;
        let is_on = mask.tensor()?.ne(0.0)?;
        let logp = is_on.where_cond(&leaves.logp, &leaves.logp.zeros_like()?.detach())?;
        let old = match &batch.old_logp {
            Some(old) => masked(old, &mask, "old_logp")?,
            None => current.clone(),
        };
        let mut advantage = masked(&batch.token_advantage(STAGE)?, &mask, "advantage")?;
        if let Some(credit) = &batch.credit {
            advantage = advantage.zip(&masked(credit, &mask, "credit")?, |a, c| a * c);
        }
        Ok(Self { logp, current, old, advantage, mask, keep: batch.keep.clone() })
    }
}

/// The column with 0 where the mask is 0; what counts must be finite.
fn masked(column: &Table, mask: &Table, what: &'static str) -> Result<Table> {
    super::rows::masked(STAGE, column, mask, what)
}

impl Policy {
    fn has_entropy_bonus(&self) -> bool {
        self.settings.entropy_coef > 0.0 || self.settings.entropy_target.is_some()
    }

    /// The entropy of each token, as a leaf or a column; required if the loss depends on it.
    fn entropy(&self, batch: &Batch, leaves: &Leaves) -> Result<Option<Tensor>> {
        let is_needed = self.has_entropy_bonus() || self.settings.top_entropy_quantile < 1.0;
        match (&leaves.entropy, &batch.entropy) {
            (Some(leaf), _) => Ok(Some(leaf.clone())),
            (None, Some(column)) => Ok(Some(column.tensor()?)),
            (None, None) if is_needed => Err(Error::MissingColumn { stage: STAGE, column: "entropy" }),
            (None, None) => Ok(None),
        }
    }

    /// Constant factors on the policy term: off-policy rows, tokens of low entropy, mismatch weights.
    fn factors(
        &self,
        batch: &Batch,
        columns: &Columns,
        entropy: Option<&Table>,
        weights: Option<&Table>,
        metrics: &mut Metrics,
    ) -> Result<Table> {
        let mut factor = columns.mask.clone();
        let tokens = columns.mask.sum();
        if let Some(threshold) = self.settings.off_policy_mask_threshold {
            let behaviour = batch.sampling_logp.as_ref().unwrap_or(&columns.old);
            let keep = mask::on_policy(behaviour, columns, threshold);
            factor = factor.zip(&keep, |f, k| f * k);
            metrics.mean("off_policy_masked_fraction", 1.0 - factor.sum() / tokens, tokens);
        }
        if let (Some(entropy), true) = (entropy, self.settings.top_entropy_quantile < 1.0) {
            let keep = mask::top_entropy(entropy, &columns.mask, self.settings.top_entropy_quantile);
            metrics.mean("top_entropy_fraction", keep.sum() / tokens, tokens);
            factor = factor.zip(&keep, |f, k| f * k);
        }
        match weights {
            // VESPO folds the weights into its own.
            Some(weights) if self.settings.loss != LossType::Vespo => Ok(factor.zip(weights, |f, w| f * w)),
            _ => Ok(factor),
        }
    }

    /// -c x mean entropy of the step's tokens, [1]; off while the entropy is above its target.
    fn entropy_bonus(&self, entropy: &Tensor, mask: &Table, batch: &Batch) -> Result<Option<Tensor>> {
        if !self.has_entropy_bonus() {
            return Ok(None);
        }
        let is_on = mask.tensor()?.ne(0.0)?;
        let entropy = is_on.where_cond(entropy, &entropy.zeros_like()?.detach())?;
        let sum = entropy.sum_all()?;
        let own_mean = sum.to_scalar::<f64>()? / mask.sum().max(1.0);
        if self.settings.entropy_target.is_some_and(|target| own_mean > target) {
            return Ok(None);
        }
        let tokens = (batch.step_totals().tokens as f64).max(1.0);
        Ok(Some(sum.affine(-self.entropy_coef / tokens, 0.0)?))
    }
}

impl Objective for Policy {
    fn needs(&self) -> Needs {
        let s = &self.settings;
        let compares_engines = s.mismatch.is_some() || s.rejection.is_some();
        Needs {
            old_logp: compares_engines,
            sampling_logp: compares_engines || s.off_policy_mask_threshold.is_some(),
            ref_logp: s.beta != 0.0,
            entropy_leaf: self.has_entropy_bonus() || s.top_entropy_quantile < 1.0,
            ..Needs::default()
        }
    }

    fn reads(&self) -> Reads {
        Reads { advantage: true, credit: true, ..Reads::default() }
    }

    fn rests_without_advantage(&self) -> bool {
        self.settings.beta == 0.0 && !self.has_entropy_bonus()
    }

    fn couples_rows(&self) -> bool {
        let s = &self.settings;
        s.aggregation() == Aggregation::BatchTokenMean
            || s.group_weight == GroupWeight::Prompt
            || s.top_entropy_quantile < 1.0
            || s.entropy_target.is_some()
            || s.mismatch.as_ref().is_some_and(|m| m.normalize)
    }

    fn warnings(&self) -> Vec<String> {
        self.settings.warnings()
    }

    /// Takes truncated completions and rejected tokens out of the mask, so that no divisor counts them.
    fn prepare(&mut self, batch: &mut Batch) -> Result<()> {
        if self.settings.mask_truncated_completions {
            mask::truncated(batch);
        }
        if let Some(rejection) = &self.settings.rejection {
            let old = batch.column(STAGE, "old_logp", &batch.old_logp)?;
            let sampling = batch.column(STAGE, "sampling_logp", &batch.sampling_logp)?;
            let keep = rejection.keep(&mismatch::log_difference(old, sampling, &batch.mask), &batch.mask);
            let before = batch.mask.sum();
            batch.mask = batch.mask.zip(&keep, |m, k| m * k);
            self.rejected = (before > 0.0).then(|| 1.0 - batch.mask.sum() / before);
        }
        Ok(())
    }

    fn loss(&self, batch: &Batch, leaves: &Leaves) -> Result<Loss> {
        let s = &self.settings;
        let columns = Columns::read(batch, leaves)?;
        let mut metrics = Metrics::new();

        // 1. How far the policy moved since the rollouts.
        let ratio = ratio::Ratio::new(&columns, s.importance_sampling_level)?;
        ratio.report(&columns.mask, &mut metrics)?;

        // 2. How far the sampler was from the policy that starts this phase.
        let difference = match &batch.sampling_logp {
            Some(sampling) => Some(mismatch::log_difference(&columns.old, sampling, &columns.mask)),
            None if s.mismatch.is_some() => {
                return Err(Error::MissingColumn { stage: STAGE, column: "sampling_logp" });
            }
            None => None,
        };
        if let Some(difference) = &difference {
            mismatch::report_difference(difference, &columns.mask, &mut metrics);
        }
        let weights = match (&s.mismatch, &difference) {
            (Some(settings), Some(difference)) => Some(settings.weights(difference, &columns.mask)),
            _ => None,
        };
        if let Some(weights) = &weights {
            mismatch::report_weights(weights, &columns.mask, &mut metrics);
        }
        if let Some(rejected) = self.rejected {
            metrics.mean("rejected_fraction", rejected, 1.0);
        }

        // 3. The loss of each token, and what scales it.
        let entropy = self.entropy(batch, leaves)?;
        let entropy_values = match &entropy {
            Some(entropy) => Some(masked(&Table::from_tensor(entropy)?, &columns.mask, "entropy")?),
            None => None,
        };
        let tokens = surrogate::loss(s, &columns, &ratio, weights.as_ref(), &mut metrics)?;
        let factors = self.factors(batch, &columns, entropy_values.as_ref(), weights.as_ref(), &mut metrics)?;
        let mut tokens = (tokens * factors.tensor()?)?;

        // 4. The KL penalty, which nothing of the above scales.
        if s.beta != 0.0 {
            let reference = masked(batch.column(STAGE, "ref_logp", &batch.ref_logp)?, &columns.mask, "ref_logp")?;
            let mut penalty = s.kl.tokens(&(&columns.logp - reference.tensor()?)?)?;
            if s.use_bias_correction_kl {
                penalty = (penalty * &ratio.value)?;
            }
            let weighted = Table::from_tensor(&penalty)?.zip(&columns.mask, |k, m| k * m);
            let n = columns.mask.sum();
            metrics.mean("kl", weighted.sum() / n, n);
            tokens = (tokens + penalty.affine(s.beta, 0.0)?)?;
        }

        // 5. One number.
        let shares = s.aggregation().shares(batch, &columns.mask, s.group_weight, s.empty_rows);
        let mut value = (tokens * shares.tensor()?)?.sum_all()?;
        if let (Some(entropy), Some(values)) = (&entropy, &entropy_values) {
            let n = columns.mask.sum();
            metrics.mean("entropy", values.sum() / n, n);
            if let Some(bonus) = self.entropy_bonus(entropy, &columns.mask, batch)? {
                value = (value + bonus)?;
            }
            if self.has_entropy_bonus() {
                metrics.mean("entropy_coef", self.entropy_coef, 1.0);
            }
        }
        Ok(Loss { value, metrics })
    }

    /// Moves the adaptive entropy coefficient towards its target.
    fn commit(&mut self, _batch: &Batch, metrics: &Metrics) -> Result<()> {
        let s = &self.settings;
        if let (Some(target), Some(entropy)) = (s.entropy_target, metrics.get("entropy")) {
            let step = if entropy <= target { s.entropy_coef_delta } else { -s.entropy_coef_delta };
            self.entropy_coef = (self.entropy_coef + step).clamp(s.entropy_coef_min, s.entropy_coef_max);
        }
        Ok(())
    }
}

impl State for Policy {
    fn save(&self) -> Option<serde_json::Value> {
        self.settings.entropy_target.map(|_| serde_json::json!({ "entropy_coef": self.entropy_coef }))
    }

    fn load(&mut self, saved: &serde_json::Value) -> Result<()> {
        self.entropy_coef = saved
            .get("entropy_coef")
            .and_then(serde_json::Value::as_f64)
            .ok_or_else(|| Error::State { stage: STAGE, why: format!("no `entropy_coef` in {saved}") })?;
        Ok(())
    }
}
