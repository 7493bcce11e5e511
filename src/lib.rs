//! candlewick.

pub mod data;
pub mod hub;
pub mod model;
