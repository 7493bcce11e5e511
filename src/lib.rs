//! candlewick.
