//! Weights and rejections for a sampler whose log-probs differ from the training forward's.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Error, Metrics, Result, Table};

/// What a weight spans, and what happens outside its bounds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// exp(x) of each token, clamped to the bounds.
    #[default]
    TokenTruncate,
    /// exp(x) of each token, 0 outside the bounds (IcePop).
    TokenMask,
    /// exp(sum of x over the row), clamped.
    SequenceTruncate,
    /// exp(sum of x over the row), 0 outside.
    SequenceMask,
}

impl Mode {
    /// Whether a weight spans a row.
    pub fn is_sequence(self) -> bool {
        matches!(self, Self::SequenceTruncate | Self::SequenceMask)
    }

    /// Name in the config.
    pub fn name(self) -> &'static str {
        match self {
            Self::TokenTruncate => "token_truncate",
            Self::TokenMask => "token_mask",
            Self::SequenceTruncate => "sequence_truncate",
            Self::SequenceMask => "sequence_mask",
        }
    }
}

/// Weights exp(x), x = old_logp - sampling_logp, that multiply the loss of a token; no gradient.
///
/// Products over a row shrink or grow with its length, so prefer the token modes for long
/// completions. Leave it out where one engine samples and trains in one precision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Mismatch {
    /// What a weight spans, and what happens outside the bounds.
    pub mode: Mode,
    /// Lower bound; absent = none.
    pub c_min: Option<f64>,
    /// Upper bound.
    pub c_max: f64,
    /// Divides the weights by their mean over the valid tokens of the step.
    pub normalize: bool,
}

impl Default for Mismatch {
    fn default() -> Self {
        Self { mode: Mode::TokenTruncate, c_min: None, c_max: 2.0, normalize: false }
    }
}

/// Log-weights beyond this are cut before the exponential.
const LOG_LIMIT: f64 = 20.0;

impl Mismatch {
    pub(super) fn validate(&self) -> Result<()> {
        bounds("objective.grpo.mismatch.c", self.c_min, self.c_max)
    }

    /// The weight of each token, [N,T], from the masked log-differences x, [N,T].
    pub fn weights(&self, difference: &Table, mask: &Table) -> Table {
        let mut log = difference.clone();
        if self.mode.is_sequence() {
            for i in 0..log.rows() {
                let sum = log.row(i).iter().sum();
                log.row_mut(i).fill(sum);
            }
        }
        let low = self.c_min.unwrap_or(0.0);
        let bound = |w: f64| match self.mode {
            Mode::TokenTruncate | Mode::SequenceTruncate => w.clamp(low, self.c_max),
            Mode::TokenMask | Mode::SequenceMask if (low..=self.c_max).contains(&w) => w,
            Mode::TokenMask | Mode::SequenceMask => 0.0,
        };
        log.data_mut().iter_mut().for_each(|x| *x = bound(x.clamp(-LOG_LIMIT, LOG_LIMIT).exp()));
        let mean = log.zip(mask, |w, m| w * m).sum() / mask.sum().max(1.0);
        if self.normalize && mean > 0.0 {
            log.data_mut().iter_mut().for_each(|w| *w /= mean);
        }
        log
    }
}

/// x = old_logp - sampling_logp of the valid tokens, [N,T]; 0 at masked entries and where the engine
/// reported none (NaN).
pub fn log_difference(old: &Table, sampling: &Table, mask: &Table) -> Table {
    let difference = old.zip(sampling, |o, s| if (o - s).is_nan() { 0.0 } else { o - s });
    difference.zip(mask, |x, m| if m == 0.0 { 0.0 } else { x })
}

/// What a rejection looks at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Span {
    /// Each token by itself.
    Token,
    /// The sum over a row's tokens.
    SequenceSum,
    /// The mean over a row's tokens (with k1 the geometric mean of the ratio).
    #[default]
    SequenceMean,
}

/// The statistic of a token, with x = old_logp - sampling_logp.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Statistic {
    /// x; the bounds are on the ratio exp(x).
    #[default]
    K1,
    /// x^2 / 2, bounded from above.
    K2,
    /// exp(x) - 1 - x, bounded from above.
    K3,
}

/// Takes tokens or rows out of the mask, and out of every divisor, whose sampling log-probs are too
/// far from the training forward's. verl's `rollout_rs`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Rejection {
    /// What is looked at.
    pub span: Span,
    /// The statistic.
    pub statistic: Statistic,
    /// Lower bound of the ratio, for k1 only; absent = 1 / max.
    pub min: Option<f64>,
    /// Upper bound: of the ratio for k1, of the statistic for k2 and k3.
    pub max: f64,
}

impl Default for Rejection {
    fn default() -> Self {
        Self { span: Span::SequenceMean, statistic: Statistic::K1, min: None, max: 1.001 }
    }
}

impl Rejection {
    pub(super) fn validate(&self) -> Result<()> {
        let key = "objective.grpo.rejection.m";
        if self.statistic == Statistic::K1 {
            if self.min.is_none() && self.max < 1.0 {
                return Err(Error::config(
                    format!("{key}ax"),
                    self.max,
                    "the ratio of like engines is 1: choose above 1",
                ));
            }
            return bounds("objective.grpo.rejection.", self.min, self.max);
        }
        if let Some(min) = self.min {
            return Err(Error::config(format!("{key}in"), min, "k2 and k3 are only bounded from above: leave it out"));
        }
        if !(self.max > 0.0 && self.max.is_finite()) {
            return Err(Error::config(format!("{key}ax"), self.max, "it is a positive number"));
        }
        Ok(())
    }

    /// 1 where a token stays, [N,T], from the masked log-differences x, [N,T].
    pub fn keep(&self, difference: &Table, mask: &Table) -> Table {
        let (low, high) = match self.statistic {
            Statistic::K1 => (self.min.unwrap_or(1.0 / self.max).ln(), self.max.ln()),
            Statistic::K2 | Statistic::K3 => (f64::NEG_INFINITY, self.max),
        };
        let mut statistic = difference.clone();
        statistic.data_mut().iter_mut().for_each(|x| {
            *x = match self.statistic {
                Statistic::K1 => *x,
                Statistic::K2 => *x * *x / 2.0,
                Statistic::K3 => x.exp_m1() - *x,
            }
        });
        if self.span != Span::Token {
            for i in 0..mask.rows() {
                let tokens = mask.row(i).iter().sum::<f64>().max(1.0);
                let sum: f64 = statistic.row(i).iter().sum();
                statistic.row_mut(i).fill(if self.span == Span::SequenceMean { sum / tokens } else { sum });
            }
        }
        statistic.zip(mask, |x, m| f64::from(u8::from(m > 0.0 && (low..=high).contains(&x))))
    }
}

/// Refuses bounds of a weight that nothing can lie between. `prefix` + `min` or `max` is the key.
fn bounds(prefix: &str, min: Option<f64>, max: f64) -> Result<()> {
    let (low_key, high_key) = match prefix.strip_suffix('c') {
        Some(path) => (format!("{path}c_min"), format!("{path}c_max")),
        None => (format!("{prefix}min"), format!("{prefix}max")),
    };
    if !(max > 0.0 && max.is_finite()) {
        return Err(Error::config(high_key, max, "an upper bound of a ratio is a positive number"));
    }
    match min {
        Some(min) if !(min >= 0.0 && min <= max) => {
            Err(Error::config(low_key, min, format!("a lower bound lies between 0 and the upper bound {max}")))
        }
        _ => Ok(()),
    }
}

/// `mismatch_log_difference`: mean of |old_logp - sampling_logp| over tokens; healthy below about 0.01.
pub(super) fn report_difference(difference: &Table, mask: &Table, metrics: &mut Metrics) {
    let tokens = mask.sum();
    let sum: f64 = difference.data().iter().map(|x| x.abs()).sum();
    metrics.mean("mismatch_log_difference", sum / tokens, tokens);
}

/// `mismatch_weight_{min,mean,max}` over the valid tokens.
pub(super) fn report_weights(weights: &Table, mask: &Table, metrics: &mut Metrics) {
    let cells = weights.data().iter().zip(mask.data());
    let valid: Vec<f64> = cells.filter(|(_, m)| **m > 0.0).map(|(&w, _)| w).collect();
    if !valid.is_empty() {
        let n = valid.len() as f64;
        metrics.mean("mismatch_weight_mean", valid.iter().sum::<f64>() / n, n);
        metrics.min("mismatch_weight_min", valid.iter().copied().fold(f64::INFINITY, f64::min));
        metrics.max("mismatch_weight_max", valid.iter().copied().fold(f64::NEG_INFINITY, f64::max));
    }
}
