//! Section `run`: what belongs to the run as a whole.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Name, length, seed and output of the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RunConfig {
    /// Name of the run and of its folder under `output`; empty takes the config file's name without `.toml`.
    pub name: String,
    /// Seed of everything that is random: same seed, machine and thread count give the same run, bit for bit.
    pub seed: u64,
    /// Steps to take: rollout batches of an online run (100 if absent), optimiser steps of an offline one (if absent, as many as its epochs need).
    #[schemars(range(min = 1))]
    pub steps: Option<usize>,
    /// Folder that holds the run's folder.
    pub output: PathBuf,
    /// Steps between checkpoints; 0 writes only the last one.
    pub save_every: usize,
    /// Newest checkpoints to keep; older ones are removed once a newer one is whole.
    #[schemars(range(min = 1))]
    pub keep_last: usize,
    /// Whether the checkpoint with the best evaluation is kept besides the newest.
    pub keep_best: bool,
    /// Completions of each step to write, with their scores and advantages, into the run's `rollouts` folder.
    pub log_samples: usize,
    /// Whether TensorBoard events are written besides `metrics.jsonl`.
    pub tensorboard: bool,
}

impl Default for RunConfig {
    fn default() -> Self {
        Self {
            name: String::new(),
            seed: 0,
            steps: None,
            output: PathBuf::from("runs"),
            save_every: 50,
            keep_last: 2,
            keep_best: true,
            log_samples: 8,
            tensorboard: true,
        }
    }
}

impl RunConfig {
    /// The run's own folder, `<output>/<name>`.
    pub fn folder(&self) -> PathBuf {
        self.output.join(&self.name)
    }
}
