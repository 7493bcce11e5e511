//! Tests of the library and the program as a whole: one binary, so that everything links once. The
//! program is run as a program, in a folder of its own, with literal expected text.
#![allow(clippy::unwrap_used)]

mod composition;
mod config;
mod configs;
mod device;
mod distill;
mod engine;
mod evaluation;
mod explain;
mod families;
mod faults;
#[cfg(feature = "gguf")]
mod gguf;
mod golden;
mod grade;
mod interrupted;
mod learning;
mod methods;
mod mixing;
mod preference;
mod program;
mod regeneration;
mod reward_models;
mod rewards;
mod soft;
mod soft_training;
mod training;
mod usage;
mod win_rate;
