//! What turns a checkpoint's folder into something that reads and writes text.

pub mod chat_template;
pub mod tokenizer;
