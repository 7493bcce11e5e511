//! Stage `budget`: how many rollouts each prompt gets, and how long a completion may be.

pub mod rollouts;
pub mod tokens;
