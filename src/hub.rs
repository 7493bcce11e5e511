//! Where a model or a data set comes from: a folder on this machine or the Hugging Face Hub.
//!
//! A path that exists is used as it is. Anything else is `owner/name`, fetched once into the cache
//! that Python's client uses too, and read from there when the Hub cannot be reached. Honours
//! `HF_TOKEN`, `HF_TOKEN_PATH`, `HF_HOME`, `HF_HUB_CACHE`, `HF_ENDPOINT` and `HF_HUB_OFFLINE`. What
//! it leaves out: uploads, and every file a training run does not read.

use std::path::{Path, PathBuf};

use thiserror::Error;

#[cfg(feature = "hub")]
mod fetch;

/// Why a model or a data set could not be had. Each message is one line with the remedy.
#[derive(Debug, Error)]
pub enum HubError {
    /// Neither a path nor a name on the Hub.
    #[error("`{path}` is neither an existing path nor a name like `owner/name`")]
    NoSuchPath {
        /// What was asked for.
        path: String,
    },
    /// The Hub does not know it, or does not show it to this token.
    #[error("`{repo}` was not found on the hub: check the name, or set HF_TOKEN if it is private")]
    NotFound {
        /// The repository.
        repo: String,
    },
    /// The repository is there, the revision is not.
    #[error("`{repo}` has no revision `{revision}`")]
    NoSuchRevision {
        /// The repository.
        repo: String,
        /// The branch, tag or commit.
        revision: String,
    },
    /// No token, a wrong one, or one without access.
    #[error("access to `{repo}` is refused (status {status}): accept its terms at {page} and set HF_TOKEN")]
    Unauthorised {
        /// The repository.
        repo: String,
        /// The HTTP status.
        status: u16,
        /// Where the terms are.
        page: String,
    },
    /// Offline by `HF_HUB_OFFLINE`, and not in the cache.
    #[error(
        "there is no folder `{repo}` here, and it is not in the cache `{cache}` while HF_HUB_OFFLINE is set: unset it, or give a folder"
    )]
    Offline {
        /// The repository.
        repo: String,
        /// The cache that was searched.
        cache: PathBuf,
    },
    /// The Hub cannot be reached, and the cache does not have it.
    #[error(
        "there is no folder `{repo}` here, and it is not in the cache `{cache}` while the hub at {endpoint} cannot be reached: {cause}"
    )]
    Unreachable {
        /// The repository.
        repo: String,
        /// The Hub's address.
        endpoint: String,
        /// The cache that was searched.
        cache: PathBuf,
        /// What the network said.
        cause: String,
    },
    /// A file the repository or folder should have is missing.
    #[error("`{repo}` has no {what}")]
    MissingFile {
        /// The repository or folder.
        repo: String,
        /// What is missing.
        what: String,
    },
    /// What arrived is not what the Hub announced.
    #[error("`{file}` of `{repo}` arrived with {found} bytes instead of {expected}: try again")]
    Incomplete {
        /// The repository.
        repo: String,
        /// The file.
        file: String,
        /// The bytes the Hub announced.
        expected: u64,
        /// The bytes on disk.
        found: u64,
    },
    /// Several configurations or splits fit.
    #[error("`{repo}` needs a {kind}, one of: {}", choices.join(", "))]
    Ambiguous {
        /// The data set.
        repo: String,
        /// `configuration` or `split`.
        kind: &'static str,
        /// The choices.
        choices: Vec<String>,
    },
    /// Built without the feature `hub`.
    #[error("`{repo}` is not a path on this machine and this build lacks the feature `hub`")]
    NotBuilt {
        /// The repository.
        repo: String,
    },
    /// Anything else.
    #[error("cannot fetch `{repo}`: {cause}")]
    Other {
        /// The repository.
        repo: String,
        /// What went wrong.
        cause: String,
    },
}

impl HubError {
    /// Whether a person can put it right in the command or the config, rather than by trying again.
    pub fn is_refusal(&self) -> bool {
        !matches!(self, Self::Incomplete { .. } | Self::Other { .. })
    }
}

/// Whether a model's weights are wanted, or only what can be known without them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weights {
    /// Configuration, tokenizer and chat template only.
    Skip,
    /// The safetensors files too.
    Fetch,
}

/// Access to the Hub and its cache.
#[derive(Clone, Debug, Default)]
pub struct Hub {
    /// The Hub's address; None reads `HF_ENDPOINT`, else the public one.
    pub endpoint: Option<String>,
    /// The access token; None reads `HF_TOKEN` and the places where logging in stores it.
    pub token: Option<String>,
    /// The cache; None reads `HF_HUB_CACHE` and `HF_HOME`.
    pub cache: Option<PathBuf>,
    /// Never touch the network.
    pub offline: bool,
    /// Show a progress bar on standard error while fetching, if that is a terminal.
    pub progress: bool,
    /// How often a request that failed for a passing reason is repeated; None leaves it at 5.
    pub retries: Option<usize>,
}

impl Hub {
    /// Settings from the environment: offline if `HF_HUB_OFFLINE` is `1`, `true`, `yes` or `on`.
    pub fn from_env() -> Self {
        Self { offline: says_yes(std::env::var("HF_HUB_OFFLINE").ok().as_deref()), progress: true, ..Self::default() }
    }

    /// The folder of a model: `path` itself if it exists, else its snapshot from the Hub.
    ///
    /// `revision` is a branch, tag or commit of the Hub's repository; `main` when absent. A folder
    /// is checked for `config.json` (or `adapter_config.json`), and with [`Weights::Fetch`] for
    /// safetensors, every shard of an index included.
    ///
    /// Errors: see [`HubError`].
    pub fn model(&self, path: &str, revision: Option<&str>, weights: Weights) -> Result<PathBuf, HubError> {
        let folder = if Path::new(path).exists() {
            PathBuf::from(path)
        } else {
            check_name(path)?;
            self.fetch_model(path, revision, weights)?
        };
        check_model(path, &folder, weights)?;
        Ok(folder)
    }

    /// The files of one split of a data set on the Hub, in order.
    ///
    /// Parquet, JSONL and JSON files whose path names the split are taken (`data/train-00000-of-00001.parquet`,
    /// `train.jsonl`, `main/train/0000.parquet`); `configuration` selects a folder. If the split is stored
    /// in several formats, parquet wins where it can be read.
    ///
    /// Errors: see [`HubError`]; `Ambiguous` when several configurations have the split and none is named.
    pub fn data_set(
        &self,
        repo: &str,
        revision: Option<&str>,
        configuration: Option<&str>,
        split: &str,
    ) -> Result<Vec<PathBuf>, HubError> {
        check_name(repo)?;
        self.fetch_data_set(repo, revision, configuration, split)
    }

    #[cfg(not(feature = "hub"))]
    fn fetch_model(&self, repo: &str, _: Option<&str>, _: Weights) -> Result<PathBuf, HubError> {
        Err(HubError::NotBuilt { repo: repo.to_string() })
    }

    #[cfg(not(feature = "hub"))]
    fn fetch_data_set(&self, repo: &str, _: Option<&str>, _: Option<&str>, _: &str) -> Result<Vec<PathBuf>, HubError> {
        Err(HubError::NotBuilt { repo: repo.to_string() })
    }
}

fn says_yes(value: Option<&str>) -> bool {
    value.is_some_and(|value| ["1", "true", "yes", "on"].contains(&value.to_lowercase().as_str()))
}

/// A Hub name is `owner/name`, each of letters, digits, `-`, `_` and `.`.
fn check_name(path: &str) -> Result<(), HubError> {
    let is_word = |word: &str| {
        !word.is_empty()
            && !word.starts_with('.')
            && word.chars().all(|character| character.is_ascii_alphanumeric() || "-_.".contains(character))
    };
    match path.split_once('/') {
        Some((owner, name)) if is_word(owner) && is_word(name) => Ok(()),
        _ => Err(HubError::NoSuchPath { path: path.to_string() }),
    }
}

/// What a model's folder must hold.
fn check_model(path: &str, folder: &Path, weights: Weights) -> Result<(), HubError> {
    let missing = |what: &str| HubError::MissingFile { repo: path.to_string(), what: what.to_string() };
    let has = |name: &str| folder.join(name).is_file();
    if !has("config.json") && !has("adapter_config.json") {
        return Err(missing("`config.json`"));
    }
    if weights == Weights::Skip || has("adapter_model.safetensors") {
        return Ok(());
    }
    if !has("model.safetensors.index.json") {
        return match has("model.safetensors") {
            true => Ok(()),
            false => Err(missing("`model.safetensors` or index of shards; only safetensors is read")),
        };
    }
    let index = std::fs::read(folder.join("model.safetensors.index.json"))
        .ok()
        .and_then(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).ok())
        .ok_or_else(|| missing("readable `model.safetensors.index.json`"))?;
    let shards = index["weight_map"].as_object().ok_or_else(|| missing("`weight_map` in its index"))?;
    match shards.values().filter_map(|shard| shard.as_str()).find(|shard| !has(shard)) {
        Some(shard) => Err(missing(&format!("shard `{shard}`, which its index names"))),
        None => Ok(()),
    }
}

/// Which of a repository's files hold a split: see [`Hub::data_set`].
///
/// Errors: no file fits (naming the splits there are); several configurations fit.
#[cfg_attr(not(feature = "hub"), allow(dead_code))]
pub(crate) fn choose_split(
    repo: &str,
    files: &[String],
    configuration: Option<&str>,
    split: &str,
) -> Result<Vec<String>, HubError> {
    let of_configuration = |file: &str| match configuration {
        None => true,
        Some(name) => {
            file.split('/').rev().skip(1).any(|folder| folder == name)
                || (!file.contains('/') && names_word(file, name, &LOOSE))
        }
    };
    let holds = |file: &str, format: &str, separators: &[char]| {
        file.ends_with(format)
            && of_configuration(file)
            // The configuration's own name must not pass for a split.
            && names_word(strip_configuration(file, configuration), split, separators)
    };
    let formats: &[&str] =
        if cfg!(feature = "parquet") { &[".parquet", ".jsonl", ".json"] } else { &[".jsonl", ".json"] };
    let mut chosen = Vec::new();
    for separators in [&STRICT[..], &LOOSE[..]] {
        for format in formats {
            if chosen.is_empty() {
                chosen = files.iter().filter(|file| holds(file, format, separators)).cloned().collect();
            }
        }
    }
    chosen.sort();
    if chosen.is_empty() {
        let named = configuration.map(|name| format!(" in configuration `{name}`")).unwrap_or_default();
        let held: Vec<&str> = files.iter().map(String::as_str).take(8).collect();
        let held = if held.is_empty() { "no data files".to_string() } else { held.join(", ") };
        return Err(HubError::MissingFile {
            repo: repo.to_string(),
            what: format!("files of split `{split}`{named}; it holds {held}"),
        });
    }
    if configuration.is_none() {
        let mut folders: Vec<String> = chosen
            .iter()
            .map(|file| file.split('/').next().filter(|_| file.contains('/')).unwrap_or("").to_string())
            .collect();
        folders.dedup();
        if folders.len() > 1 {
            return Err(HubError::Ambiguous { repo: repo.to_string(), kind: "configuration", choices: folders });
        }
    }
    Ok(chosen)
}

/// What separates the words of a file's path. `train_prefs` is a split of its own, but `gsm8k_train`
/// is a train split where nothing else is.
const STRICT: [char; 3] = ['-', '.', '/'];
const LOOSE: [char; 4] = ['-', '.', '/', '_'];

fn names_word(path: &str, word: &str, separators: &[char]) -> bool {
    path.split(separators).any(|part| part == word)
}

fn strip_configuration<'a>(file: &'a str, configuration: Option<&str>) -> &'a str {
    match configuration.and_then(|name| file.find(&format!("{name}/")).map(|at| at + name.len() + 1)) {
        Some(at) => &file[at..],
        None => file,
    }
}

#[cfg(test)]
mod tests;
