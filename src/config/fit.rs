//! Whether the stages of a config fit together.

use super::load::Finding;
use super::{Config, values};

/// Everything that does not fit.
pub(super) fn check(config: &Config) -> Vec<Finding> {
    values::check(config)
}
