//! How the losses of tokens become one number: the share of each token.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::settings::GroupWeight;
use crate::{Batch, Table};

/// How tokens are averaged. N counts the valid tokens of the whole optimiser step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Aggregation {
    /// Mean over the tokens of a row, then over rows.
    SeqMeanTokenMean,
    /// Sum over all tokens / N.
    TokenMean,
    /// Sum over all tokens / tokens of the batch handed to the loss, which therefore is never cut.
    BatchTokenMean,
    /// Sum over all tokens / (rows x most tokens a completion could have had).
    SeqMeanTokenSumNorm,
    /// Sum over the tokens of a row, then mean over rows.
    SeqMeanTokenSum,
}

/// What a row without a valid token is in a mean over rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EmptyRows {
    /// Left out (verl).
    #[default]
    Skip,
    /// A 0 that counts (TRL).
    Count,
}

impl Aggregation {
    /// The share of each token, [N,T]: the loss is sum over tokens of share x token loss.
    ///
    /// All zero if everything is masked. Divisors are those of the step, so the losses of
    /// micro-batches add up to the loss of the whole, except for `batch_token_mean` and where
    /// prompts weigh the same, which need the whole.
    pub fn shares(self, batch: &Batch, mask: &Table, group_weight: GroupWeight, empty: EmptyRows) -> Table {
        match group_weight {
            GroupWeight::Rollout => self.by_rollout(batch, mask, empty),
            GroupWeight::Prompt => self.by_prompt(batch, mask, empty),
        }
    }

    fn by_rollout(self, batch: &Batch, mask: &Table, empty: EmptyRows) -> Table {
        let totals = batch.step_totals();
        let counted = match empty {
            EmptyRows::Skip => totals.nonempty_rows,
            EmptyRows::Count => totals.rows,
        };
        let own = Extent { rows: counted, all_rows: totals.rows, tokens: totals.tokens as f64 };
        let mut shares = mask.clone();
        for i in 0..mask.rows() {
            let extent = match self {
                Self::BatchTokenMean => Extent { tokens: mask.sum(), ..own },
                _ => own,
            };
            self.scale_row(&mut shares, i, extent, batch.max_completion);
        }
        shares
    }

    fn by_prompt(self, batch: &Batch, mask: &Table, empty: EmptyRows) -> Table {
        let tokens_of = |i: usize| mask.row(i).iter().sum::<f64>();
        let counts = |i: &usize| batch.keep[*i] && (empty == EmptyRows::Count || tokens_of(*i) > 0.0);
        let groups: Vec<_> = batch.groups().into_iter().filter(|g| g.clone().any(|i| counts(&i))).collect();
        let mut shares = Table::zeros(mask.rows(), mask.cols());
        for group in &groups {
            let extent = Extent {
                rows: group.clone().filter(counts).count() * groups.len(),
                all_rows: group.clone().filter(|&i| batch.keep[i]).count() * groups.len(),
                tokens: group.clone().map(tokens_of).sum::<f64>() * groups.len() as f64,
            };
            for i in group.clone() {
                shares.row_mut(i).copy_from_slice(mask.row(i));
                self.scale_row(&mut shares, i, extent, batch.max_completion);
            }
        }
        shares
    }

    /// Divides a row of the mask by what this mode divides by.
    fn scale_row(self, shares: &mut Table, i: usize, extent: Extent, max_completion: usize) {
        let row_tokens = shares.row(i).iter().sum::<f64>().max(1.0);
        let divisor = match self {
            Self::SeqMeanTokenMean => row_tokens * extent.rows.max(1) as f64,
            Self::TokenMean | Self::BatchTokenMean => extent.tokens.max(1.0),
            Self::SeqMeanTokenSumNorm => (extent.all_rows.max(1) * max_completion.max(1)) as f64,
            Self::SeqMeanTokenSum => extent.rows.max(1) as f64,
        };
        shares.row_mut(i).iter_mut().for_each(|m| *m /= divisor);
    }
}

/// What a row is averaged with.
#[derive(Clone, Copy)]
struct Extent {
    rows: usize,
    all_rows: usize,
    tokens: f64,
}
