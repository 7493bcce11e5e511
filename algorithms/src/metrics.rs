//! Metrics that stages return under bare names; the loop adds `<stage>/<variant>/`.
//!
//! A metric knows how it is reduced, so the parts of a step (micro-batches, updates) merge into
//! the value over the whole step.

use std::collections::BTreeMap;

/// How the parts of a metric make the whole.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Metric {
    /// A weighted mean: sum of values times weights, and sum of weights.
    Mean {
        /// Sum of value x weight.
        sum: f64,
        /// Sum of weights.
        weight: f64,
    },
    /// The exponential of a weighted mean (perplexity): parts merge inside the exponential.
    ExpMean {
        /// Sum of value x weight.
        sum: f64,
        /// Sum of weights.
        weight: f64,
    },
    /// A sum or count.
    Sum(f64),
    /// The largest value.
    Max(f64),
    /// The smallest value.
    Min(f64),
}

impl Metric {
    /// The value of the whole; NaN for a mean over nothing.
    pub fn value(self) -> f64 {
        match self {
            Self::Mean { sum, weight } => sum / weight,
            Self::ExpMean { sum, weight } => (sum / weight).exp(),
            Self::Sum(v) | Self::Max(v) | Self::Min(v) => v,
        }
    }

    fn merge(self, other: Self) -> Self {
        match (self, other) {
            (Self::Mean { sum: a, weight: v }, Self::Mean { sum: b, weight: w }) => {
                Self::Mean { sum: a + b, weight: v + w }
            }
            (Self::ExpMean { sum: a, weight: v }, Self::ExpMean { sum: b, weight: w }) => {
                Self::ExpMean { sum: a + b, weight: v + w }
            }
            (Self::Sum(a), Self::Sum(b)) => Self::Sum(a + b),
            (Self::Max(a), Self::Max(b)) => Self::Max(a.max(b)),
            (Self::Min(a), Self::Min(b)) => Self::Min(a.min(b)),
            (_, other) => other,
        }
    }
}

/// Named metrics of one stage, in name order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metrics(BTreeMap<String, Metric>);

impl Metrics {
    /// No metrics.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a mean over `weight` things; nothing is added when the weight is zero.
    pub fn mean(&mut self, name: &str, value: f64, weight: f64) {
        if weight > 0.0 {
            self.put(name, Metric::Mean { sum: value * weight, weight });
        }
    }

    /// Adds exp(mean of `value` over `weight` things); nothing is added when the weight is zero.
    pub fn exp_mean(&mut self, name: &str, value: f64, weight: f64) {
        if weight > 0.0 {
            self.put(name, Metric::ExpMean { sum: value * weight, weight });
        }
    }

    /// Adds a sum or count.
    pub fn sum(&mut self, name: &str, value: f64) {
        self.put(name, Metric::Sum(value));
    }

    /// Adds a largest value.
    pub fn max(&mut self, name: &str, value: f64) {
        self.put(name, Metric::Max(value));
    }

    /// Adds a smallest value.
    pub fn min(&mut self, name: &str, value: f64) {
        self.put(name, Metric::Min(value));
    }

    /// Merges a metric into one of that name.
    pub fn put(&mut self, name: &str, metric: Metric) {
        let merged = self.0.get(name).map_or(metric, |&m| m.merge(metric));
        self.0.insert(name.to_owned(), merged);
    }

    /// Merges the metrics of another part of the step.
    pub fn merge(&mut self, other: &Self) {
        for (name, &metric) in &other.0 {
            self.put(name, metric);
        }
    }

    /// The value of one metric over all that was merged.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.0.get(name).map(|m| m.value())
    }

    /// Names and values, in name order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, f64)> {
        self.0.iter().map(|(name, metric)| (name.as_str(), metric.value()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_merge_to_the_whole() {
        let (mut a, mut b) = (Metrics::new(), Metrics::new());
        a.mean("x", 1.0, 3.0);
        b.mean("x", 5.0, 1.0);
        a.max("m", 2.0);
        b.max("m", 7.0);
        b.mean("empty", 1.0, 0.0);
        a.merge(&b);
        assert_eq!(a.get("x"), Some(2.0));
        assert_eq!(a.get("m"), Some(7.0));
        assert_eq!(a.get("empty"), None);
    }
}
