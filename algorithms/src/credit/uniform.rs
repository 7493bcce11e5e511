//! `credit.uniform`: every token of a completion carries the completion's advantage.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Credit;
use crate::{Batch, Metrics, Result, State};

/// Every token carries the advantage of its completion: all weights are 1.
///
/// The column is left out of the batch, so nothing is computed or stored.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Uniform {}

impl Uniform {
    /// The stage.
    pub fn build(&self) -> Result<Box<dyn Credit>> {
        Ok(Box::new(self.clone()))
    }
}

impl Credit for Uniform {
    fn apply(&mut self, batch: &mut Batch) -> Result<Metrics> {
        batch.credit = None;
        Ok(Metrics::new())
    }
}

impl State for Uniform {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Table;

    #[test]
    fn leaves_every_weight_at_one() {
        let mut batch = Batch::new(Table::filled(2, 3, 1.0), vec![0, 0]).unwrap();
        batch.credit = Some(Table::zeros(2, 3));
        Uniform {}.build().unwrap().apply(&mut batch).unwrap();
        assert_eq!(batch.credit, None);
    }
}
