//! Rewards that need a model. They implement the trait of the rewards crate, which holds no tensors.

pub mod reward_model;
pub mod verifier;

use anyhow::{Context, Result};
use candle_core::{DType, Device};
use candlewick_rewards::reward::Models;
use candlewick_rewards::reward::reward_model::RewardModelConfig;
use candlewick_rewards::reward::verifier::VerifierConfig;
use candlewick_rewards::{ConfigError, Reward, RewardsConfig};

use crate::hub::{Hub, Weights};
use crate::model::spec::DecoderSpec;

/// Tokens run through a model at one time.
const PACK_TOKENS: usize = 2048;

/// Loads the models that rewards name, on the policy's device and in its number type.
pub struct LocalModels {
    /// Where to compute.
    pub device: Device,
    /// In which numbers.
    pub dtype: DType,
}

impl Models for LocalModels {
    fn reward_model(&self, config: &RewardModelConfig) -> Result<Box<dyn Reward>, ConfigError> {
        let load = || {
            let folder = folder(&config.path, config.revision.as_deref(), "reward_model")?;
            reward_model::RewardModel::load(&folder, config.clone(), self.dtype, &self.device)
        };
        Ok(Box::new(load().map_err(|error| unusable("reward_model", &error))?))
    }

    fn verifier(&self, config: &VerifierConfig) -> Result<Box<dyn Reward>, ConfigError> {
        let load = || {
            let folder = folder(&config.path, config.revision.as_deref(), "verifier")?;
            verifier::Verifier::load(&folder, config.clone(), self.dtype, &self.device)
        };
        Ok(Box::new(load().map_err(|error| unusable("verifier", &error))?))
    }
}

/// Finds the folders of the models that rewards name, fetched from the Hub where they are not on this machine, and reads
/// their shapes; loads no weight.
///
/// Errors: a model that is not there, or whose family is not known.
pub fn find_models(config: &RewardsConfig) -> Result<(), ConfigError> {
    let named = [
        ("reward_model", config.reward_model.as_ref().map(|r| (&r.path, &r.revision))),
        ("verifier", config.verifier.as_ref().map(|r| (&r.path, &r.revision))),
    ];
    for (reward, (path, revision)) in named.into_iter().filter_map(|(reward, at)| Some((reward, at?))) {
        let found = folder(path, revision.as_deref(), reward).and_then(|folder| DecoderSpec::read(&folder));
        found.map_err(|error| unusable(reward, &error))?;
    }
    Ok(())
}

fn folder(path: &str, revision: Option<&str>, reward: &str) -> Result<std::path::PathBuf> {
    Hub::from_env().model(path, revision, Weights::Fetch).with_context(|| format!("`reward.{reward}.path`"))
}

fn unusable(reward: &str, error: &anyhow::Error) -> ConfigError {
    ConfigError::Unusable { reward: reward.into(), message: format!("{error:#}") }
}

/// The end of a row, at most `limit` tokens; whether something was cut off.
fn keep_end(row: &mut Vec<u32>, limit: usize) -> bool {
    let over = row.len().saturating_sub(limit);
    row.drain(..over);
    over > 0
}

/// Places of each row among the different ones: equal rows are computed once.
fn unique(rows: &[Vec<u32>]) -> (Vec<Vec<u32>>, Vec<usize>) {
    let mut known: std::collections::HashMap<&[u32], usize> = std::collections::HashMap::new();
    let mut different = Vec::new();
    let places = rows
        .iter()
        .map(|row| {
            *known.entry(row).or_insert_with(|| {
                different.push(row.clone());
                different.len() - 1
            })
        })
        .collect();
    (different, places)
}
