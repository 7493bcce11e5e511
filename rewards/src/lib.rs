//! Rewards of candlewick: text in, a score or a typed failure out.
//!
//! [`reward`] holds the rewards a run can name in its `[reward.<name>]` sections, one file each, and
//! the registry that builds them. [`math`] is the answer grader behind the `math` reward and behind
//! the evaluation: one grader for both, so that training and report never disagree.
//!
//! [`sandbox`] runs the programs that models write.
//!
//! The crate knows no tensor, model, tokenizer, run folder or batch, and never prints. It touches files
//! in three places only: the sandbox's temporary folders, the judge's cache, and what a user's own
//! scoring program does. How several rewards are mixed into one number is the business of the
//! advantage stage.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod math;
pub mod reward;
pub mod sandbox;

pub use reward::{ConfigError, Graded, Grading, Item, PerItem, Reward, RewardError, Rewards, RewardsConfig};

/// The folder of the golden files: `CANDLEWICK_GOLDEN`, a relative path counting from the workspace
/// root, or `tests/golden` there.
#[cfg(test)]
pub(crate) fn golden_folder() -> std::path::PathBuf {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace");
    root.join(std::env::var_os("CANDLEWICK_GOLDEN").unwrap_or_else(|| "tests/golden".into()))
}
