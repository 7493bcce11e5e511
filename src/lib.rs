//! candlewick.

pub mod config;
