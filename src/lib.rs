//! candlewick post-trains language models: reinforcement learning with verifiable rewards,
//! preference optimisation and supervised fine-tuning, from a TOML file, on a Hugging Face checkpoint.

pub mod allocator;
pub mod config;
pub mod data;
pub mod eval;
pub mod hub;
pub mod model;
pub mod optim;
pub mod reward;
pub mod rollout;
pub mod train;
