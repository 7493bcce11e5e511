//! What can go wrong in an algorithm, with what a person needs to find the cause.

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure of one stage.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A stage was handed a batch that lacks a column it declared in [`crate::Needs`].
    #[error("{stage} needs `{column}`, which the batch does not hold")]
    MissingColumn {
        /// Stage and variant, as in the config (`objective.grpo`).
        stage: &'static str,
        /// Name of the column.
        column: &'static str,
    },
    /// Two columns, or a column and the batch, disagree about their extent.
    #[error("{what}: expected {expected}, found {found}")]
    Shape {
        /// What was measured.
        what: String,
        /// Expected extent.
        expected: String,
        /// Found extent.
        found: String,
    },
    /// A value that must be finite is not.
    #[error("{stage}: non-finite {what} in row {row}")]
    NonFinite {
        /// Stage and variant.
        stage: &'static str,
        /// Which quantity.
        what: &'static str,
        /// Row of the batch.
        row: usize,
    },
    /// A setting that can never work; found when the stage is built.
    #[error("`{key}` = {value} is impossible: {why}")]
    Config {
        /// Path of the key in the config.
        key: String,
        /// Its value.
        value: String,
        /// The reason and the fix.
        why: String,
    },
    /// A stage ran out of what it was given before it had what it must deliver.
    #[error("{stage}: {why}")]
    Exhausted {
        /// Stage and variant.
        stage: &'static str,
        /// What is missing, and the fix.
        why: String,
    },
    /// Saved state that does not belong to this stage.
    #[error("saved state of {stage} cannot be read: {why}")]
    State {
        /// Stage and variant.
        stage: &'static str,
        /// The reason.
        why: String,
    },
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

impl Error {
    /// An impossible setting.
    pub fn config(key: impl Into<String>, value: impl ToString, why: impl Into<String>) -> Self {
        Self::Config { key: key.into(), value: value.to_string(), why: why.into() }
    }
}
