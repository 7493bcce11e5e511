//! The policy: one decoder of our own, its weights, and what it reads and writes.

pub mod chat_template;
pub mod classifier;
pub mod decoder;
pub mod head;
pub mod lora;
pub mod memory;
pub mod ops;
pub mod packed;
pub mod params;
pub mod spec;
pub mod tokenizer;
pub mod weights;
