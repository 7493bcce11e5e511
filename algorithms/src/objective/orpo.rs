//! `objective.orpo`: imitation and an odds ratio in one loss, without a reference.

use candle_core::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::pairs::{Pairs, leaf_rows, report_mean, report_rewards, require};
use super::scalar::{log_one_minus_exp, log_sigmoid};
use super::{Leaves, Loss, Objective, Rows};
use crate::batch::Role;
use crate::{Batch, Metrics, Result, State};

/// Odds ratio preference optimisation: supervised fine-tuning on the chosen answer with a penalty on the odds of
/// the rejected one. One stage instead of two, no reference.
///
/// loss = nll + b x mean over pairs of -log sigmoid(log odds ratio), odds of an answer p/(1 - p) with p = exp(mean
/// log-prob a token). The nll is the mean over all chosen tokens of the step and, with `include_prompt`, over
/// the prompts' tokens too, as in huggingface/trl 1.16; the paper (arXiv 2403.07691) learns the answer only. A mean
/// log-prob above -1e-6 counts as -1e-6, without a gradient.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Orpo {
    /// b: weight of the odds ratio (lambda in the paper).
    pub beta: f64,
    /// Whether the prompt is learnt as well. Costs one more row a pair.
    pub include_prompt: bool,
}

impl Default for Orpo {
    fn default() -> Self {
        Self { beta: 0.1, include_prompt: true }
    }
}

const STAGE: &str = "objective.orpo";

impl Orpo {
    /// The objective, once its settings are found possible.
    pub fn build(&self) -> Result<Box<dyn Objective>> {
        require(self.beta > 0.0, format!("{STAGE}.beta"), self.beta, "set it above 0")?;
        Ok(Box::new(self.clone()))
    }
}

/// Log odds ratio of each pair, [B].
pub(crate) fn log_odds(pairs: &Pairs) -> Result<Tensor> {
    let (c, r) = (pairs.chosen.mean()?, pairs.rejected.mean()?);
    Ok(((&c - &r)? - (log_one_minus_exp(&c)? - log_one_minus_exp(&r)?)?)?)
}

impl Objective for Orpo {
    fn rows(&self) -> Rows {
        Rows::Pairs { with_prompt: self.include_prompt }
    }

    fn couples_rows(&self) -> bool {
        false
    }

    /// Metrics: `nll` (nats a token), `log_odds_ratio` = log sigmoid(log odds), `log_odds`, and those of pairs.
    fn loss(&self, batch: &Batch, leaves: &Leaves) -> Result<Loss> {
        let pairs = Pairs::read(STAGE, batch, leaves)?;
        let prompts: Vec<usize> =
            (0..batch.rows()).filter(|&i| batch.role[i] == Role::Prompt && batch.keep[i]).collect();
        let (mut nll, mut tokens) = (pairs.chosen_nll()?, pairs.chosen.mask.sum());
        if !prompts.is_empty() {
            let (logp, mask) = leaf_rows(STAGE, &leaves.logp, &batch.kept_mask(), &prompts)?;
            nll = (nll + (logp.sum_all()? / -pairs.chosen_tokens)?)?;
            tokens += mask.sum();
        }
        let odds = log_odds(&pairs)?;
        let ratio = log_sigmoid(&odds)?;
        let value = (&nll - (pairs.mean(&ratio)? * self.beta)?)?;

        let mut metrics = Metrics::new();
        metrics.mean("nll", nll.to_scalar::<f64>()? * pairs.chosen_tokens / tokens, tokens);
        report_mean(&mut metrics, "log_odds", &odds)?;
        report_mean(&mut metrics, "log_odds_ratio", &ratio)?;
        pairs.report(&mut metrics)?;
        let rewards = ((pairs.chosen.mean()? * self.beta)?, (pairs.rejected.mean()? * self.beta)?);
        report_rewards(&mut metrics, (&rewards.0, &rewards.1))?;
        Ok(Loss { value, metrics })
    }
}

impl State for Orpo {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objective::pairs::tests::{batch, check_laws, run};

    #[test]
    fn it_obeys_the_laws() {
        check_laws(&Orpo::default());
    }

    /// A row that holds the prompt enters the nll and nothing else.
    #[test]
    fn prompts_are_learnt_with_the_chosen_answers() {
        let (batch, logp) = batch(5, 2);
        let whole = run(&Orpo::default(), &batch, &logp).0.value.to_scalar::<f64>().unwrap();
        let mut with = batch.select(&[0, 1, 0, 2, 3]);
        with.role[2] = Role::Prompt;
        with.totals = None;
        with.count_totals();
        let found = run(&Orpo::default(), &with, &logp.select(&[0, 1, 0, 2, 3])).0;
        let masked = |i: usize| logp.row(i).iter().zip(batch.mask.row(i)).map(|(l, m)| l * m).sum::<f64>();
        let (n0, n2) = (batch.row_tokens(0), batch.row_tokens(2));
        let expected = whole + (masked(0) + masked(2)) / (n0 + n2) - (2.0 * masked(0) + masked(2)) / (2.0 * n0 + n2);
        assert!((found.value.to_scalar::<f64>().unwrap() - expected).abs() < 1e-13);
    }
}
