//! `objective.sft`: imitation of demonstrations, completion tokens only.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Leaves, Loss, Objective};
use crate::{Batch, Error, Metrics, Result, State, Table};

/// How the negative log-likelihoods of tokens are averaged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SftAggregation {
    /// Over all completion tokens of the optimiser step.
    #[default]
    TokenMean,
    /// Over the tokens of a completion, then over completions that have any.
    SequenceMean,
}

/// What a token of the completion costs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SftLoss {
    /// -log p: maximum likelihood.
    #[default]
    Nll,
    /// -sg[p] log p: dynamic fine-tuning, which holds back tokens that the model finds unlikely
    /// (arXiv 2508.05629); sg stops the gradient.
    Dft,
}

/// Supervised fine-tuning: loss = -mean log-prob of the completion's tokens, prompts left out.
///
/// Every token of the step weighs the same (`token_mean`), however it is cut into micro-batches;
/// `sequence_mean` gives every completion the same weight. The end-of-sequence token is in the mask
/// and is learnt. Reads neither advantages nor scores; rows without tokens count nowhere.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Sft {
    /// The loss of a token.
    pub loss: SftLoss,
    /// How tokens are averaged.
    pub aggregation: SftAggregation,
}

impl Sft {
    /// The objective.
    pub fn build(&self) -> Result<Box<dyn Objective>> {
        Ok(Box::new(self.clone()))
    }
}

const STAGE: &str = "objective.sft";

impl Objective for Sft {
    fn couples_rows(&self) -> bool {
        false
    }

    /// Metrics: `nll` in nats, mean over tokens; `perplexity` = exp(nll); `tokens`, those trained on.
    fn loss(&self, batch: &Batch, leaves: &Leaves) -> Result<Loss> {
        let mask = batch.kept_mask();
        let values = Table::from_tensor(&leaves.logp)?;
        for row in 0..mask.rows() {
            let mut cells = values.row(row).iter().zip(mask.row(row));
            if cells.any(|(x, &m)| m > 0.0 && !x.is_finite()) {
                return Err(Error::NonFinite { stage: STAGE, what: "logp", row });
            }
        }
        let totals = batch.step_totals();
        let mut shares = mask.clone();
        for i in 0..mask.rows() {
            let divisor = match self.aggregation {
                SftAggregation::TokenMean => totals.tokens as f64,
                SftAggregation::SequenceMean => totals.nonempty_rows as f64 * mask.row(i).iter().sum::<f64>(),
            };
            shares.row_mut(i).iter_mut().for_each(|m| *m /= divisor.max(1.0));
        }
        // Masked entries are arbitrary: they must not meet a product.
        let logp = mask.tensor()?.ne(0.0)?.where_cond(&leaves.logp, &leaves.logp.zeros_like()?.detach())?;
        if self.loss == SftLoss::Dft {
            shares = shares.zip(&values.zip(&mask, |x, m| if m == 0.0 { 0.0 } else { x.exp() }), |s, p| s * p);
        }
        let value = (logp * shares.tensor()?)?.sum_all()?.neg()?;

        let tokens = mask.sum();
        let nll = -values.zip(&mask, |x, m| if m == 0.0 { 0.0 } else { m * x }).sum() / tokens;
        let mut metrics = Metrics::new();
        metrics.mean("nll", nll, tokens);
        metrics.exp_mean("perplexity", nll, tokens);
        metrics.sum("tokens", tokens);
        Ok(Loss { value, metrics })
    }
}

impl State for Sft {}

#[cfg(test)]
mod tests {
    use candle_core::Var;

    use super::*;

    fn run(aggregation: SftAggregation, batch: &Batch, logp: &Table) -> (f64, Table, Metrics) {
        let var = Var::from_tensor(&logp.tensor().unwrap()).unwrap();
        let leaves = Leaves { logp: var.as_tensor().clone(), entropy: None, divergence: None, score: None };
        let loss = Sft { aggregation, ..Sft::default() }.build().unwrap().loss(batch, &leaves).unwrap();
        let grads = loss.value.backward().unwrap();
        let gradient = Table::from_tensor(grads.get(&var).unwrap()).unwrap();
        (loss.value.to_scalar().unwrap(), gradient, loss.metrics)
    }

    /// Rows of 3, 1 and 0 tokens. Token mean: (1 + 2 + 3 + 6)/4 = 3; row mean: (2 + 6)/2 = 4.
    #[test]
    fn values_gradients_and_micro_batches() {
        let mask = Table::ragged(&[vec![1.0, 1.0, 1.0], vec![1.0], vec![]], 0.0);
        let noise = f64::NEG_INFINITY;
        let logp = Table::new(3, 3, vec![-1.0, -2.0, -3.0, -6.0, noise, 5.0, noise, noise, noise]).unwrap();
        let mut batch = Batch::new(mask, vec![0, 1, 2]).unwrap();
        batch.count_totals();
        let (loss, gradient, metrics) = run(SftAggregation::TokenMean, &batch, &logp);
        assert!((loss - 3.0).abs() < 1e-15);
        assert_eq!(gradient.data(), [-0.25, -0.25, -0.25, -0.25, 0.0, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(metrics.get("nll"), Some(3.0));
        assert!((metrics.get("perplexity").unwrap() - 3f64.exp()).abs() < 1e-12);

        let (loss, gradient, _) = run(SftAggregation::SequenceMean, &batch, &logp);
        assert!((loss - 4.0).abs() < 1e-15);
        assert_eq!(gradient.row(1), [-0.5, 0.0, 0.0]);

        for aggregation in [SftAggregation::TokenMean, SftAggregation::SequenceMean] {
            let whole = run(aggregation, &batch, &logp);
            let (mut sum, mut merged) = (0.0, Metrics::new());
            for rows in [vec![0], vec![1, 2]] {
                let (part, gradient, metrics) = run(aggregation, &batch.select(&rows), &logp.select(&rows));
                sum += part;
                merged.merge(&metrics);
                assert_eq!(gradient, whole.1.select(&rows));
            }
            assert!((sum - whole.0).abs() < 1e-14);
            assert!((merged.get("perplexity").unwrap() - 3f64.exp()).abs() < 1e-12);
        }
    }

    #[test]
    fn a_log_prob_that_is_no_number_names_its_row() {
        let batch = Batch::new(Table::filled(2, 1, 1.0), vec![0, 1]).unwrap();
        let logp = Table::new(2, 1, vec![-1.0, f64::NAN]).unwrap().tensor().unwrap();
        let leaves = Leaves { logp, entropy: None, divergence: None, score: None };
        let error = Sft::default().build().unwrap().loss(&batch, &leaves).unwrap_err();
        assert!(matches!(error, Error::NonFinite { row: 1, .. }));
    }
}
