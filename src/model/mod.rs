//! The policy: one decoder of our own, its weights, and what it reads and writes.

pub mod chat_template;
pub mod decoder;
#[cfg(feature = "gguf")]
pub mod gguf;
pub mod head;
pub mod lora;
pub mod memory;
pub mod ops;
pub mod packed;
pub mod params;
pub mod smoke;
pub mod spec;
pub mod tokenizer;
pub mod weights;
