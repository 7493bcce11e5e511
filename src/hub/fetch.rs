//! Fetching from the Hub with hf-hub: list, choose, download, check the sizes.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use hf_hub::progress::{DownloadEvent, Progress, ProgressEvent, ProgressHandler};
use hf_hub::repository::{RepoTreeEntry, RepoType, RepoTypeDataset, RepoTypeModel};
use hf_hub::{HFClient, HFClientBuilder, HFClientSync, HFError, HFRepositorySync};
use indicatif::{ProgressBar, ProgressStyle};

use super::{Hub, HubError, Weights, choose_split};
use crate::model::tokenizer::TOKENIZER_FILES;

/// Picks from a repository's files.
type Choose<'a> = dyn Fn(&[String]) -> Result<Vec<String>, HubError> + 'a;

const DEFAULT_REVISION: &str = "main";

impl Hub {
    pub(super) fn fetch_model(
        &self,
        repo: &str,
        revision: Option<&str>,
        weights: Weights,
    ) -> Result<PathBuf, HubError> {
        let choose = |files: &[String]| Ok(files.iter().filter(|file| is_wanted(file, weights)).cloned().collect());
        let (folder, _) = self.snapshot(RepoTypeModel, repo, revision, &choose)?;
        Ok(folder)
    }

    pub(super) fn fetch_data_set(
        &self,
        repo: &str,
        revision: Option<&str>,
        configuration: Option<&str>,
        split: &str,
    ) -> Result<Vec<PathBuf>, HubError> {
        let choose = |files: &[String]| choose_split(repo, files, configuration, split);
        let (folder, files) = self.snapshot(RepoTypeDataset, repo, revision, &choose)?;
        Ok(files.iter().map(|file| folder.join(file)).collect())
    }

    /// The snapshot folder with the chosen files in it, and their names.
    fn snapshot<T: RepoType>(
        &self,
        kind: T,
        repo: &str,
        revision: Option<&str>,
        choose: &Choose<'_>,
    ) -> Result<(PathBuf, Vec<String>), HubError> {
        let client = self.client(repo)?;
        let (owner, name) = hf_hub::split_id(repo);
        let blocking = HFClientSync::from_inner(client.clone())
            .map_err(|error| HubError::Other { repo: repo.to_string(), cause: error.to_string() })?;
        let repository = blocking.repository(kind, owner, name);
        let revision = revision.unwrap_or(DEFAULT_REVISION);
        let fetch = Fetch { hub: self, repo, revision, endpoint: client.endpoint(), cache: client.cache_dir() };
        if self.offline {
            return fetch.cached(
                &repository,
                choose,
                HubError::Offline { repo: repo.into(), cache: fetch.cache.into() },
            );
        }
        match fetch.online(&repository, choose) {
            Err(FetchError::Network(cause)) => {
                let error = HubError::Unreachable {
                    repo: repo.into(),
                    endpoint: fetch.endpoint.into(),
                    cache: fetch.cache.into(),
                    cause,
                };
                let found = fetch.cached(&repository, choose, error)?;
                tracing::warn!("the hub cannot be reached: using `{repo}` from the cache");
                Ok(found)
            }
            Err(FetchError::Final(error)) => Err(error),
            Ok(found) => Ok(found),
        }
    }

    fn client(&self, repo: &str) -> Result<HFClient, HubError> {
        let mut builder = HFClientBuilder::new().user_agent(concat!("candlewick/", env!("CARGO_PKG_VERSION")));
        if let Some(endpoint) = &self.endpoint {
            builder = builder.endpoint(endpoint);
        }
        if let Some(token) = &self.token {
            builder = builder.token(token);
        }
        if let Some(cache) = &self.cache {
            builder = builder.cache_dir(cache);
        }
        if let Some(retries) = self.retries {
            builder = builder.retry_max_attempts(retries);
        }
        builder.build().map_err(|error| HubError::Other { repo: repo.to_string(), cause: error.to_string() })
    }
}

/// What the network did, told apart by what can be done about it.
enum FetchError {
    /// Worth a look into the cache.
    Network(String),
    /// The Hub's last word.
    Final(HubError),
}

struct Fetch<'a> {
    hub: &'a Hub,
    repo: &'a str,
    revision: &'a str,
    endpoint: &'a str,
    cache: &'a Path,
}

impl Fetch<'_> {
    fn online<T: RepoType>(
        &self,
        repository: &HFRepositorySync<T>,
        choose: &Choose<'_>,
    ) -> Result<(PathBuf, Vec<String>), FetchError> {
        let entries = repository.list_tree().revision(self.revision).recursive(true).send();
        let entries = entries.map_err(|error| self.diagnose(error))?;
        let sizes: Vec<(String, u64)> = entries
            .into_iter()
            .filter_map(|entry| match entry {
                RepoTreeEntry::File { path, size, .. } => Some((path, size)),
                RepoTreeEntry::Directory { .. } => None,
            })
            .collect();
        let files: Vec<String> = sizes.iter().map(|(path, _)| path.clone()).collect();
        let chosen = choose(&files).map_err(FetchError::Final)?;
        if chosen.is_empty() {
            let what = "files that can be used".to_string();
            return Err(FetchError::Final(HubError::MissingFile { repo: self.repo.into(), what }));
        }
        let progress = self.hub.progress.then(|| Progress::new(Bar::new(self.repo)));
        let folder = repository
            .snapshot_download()
            .revision(self.revision)
            .allow_patterns(chosen.iter().map(|file| literal_pattern(file)).collect())
            .maybe_progress(progress)
            .send()
            .map_err(|error| self.diagnose(error))?;
        // All are looked at, so that nothing broken stays in the cache; the first is reported.
        let broken: Vec<HubError> = sizes
            .iter()
            .filter(|(file, _)| chosen.contains(file))
            .filter_map(|(file, expected)| self.check_size(&folder, file, *expected).err())
            .collect();
        if let Some(error) = broken.into_iter().next() {
            return Err(FetchError::Final(error));
        }
        Ok((folder, chosen))
    }

    /// hf-hub stores whatever body a download answers with, an error page included; a file of
    /// another size than announced is taken out of the cache again.
    fn check_size(&self, folder: &Path, file: &str, expected: u64) -> Result<(), HubError> {
        let path = folder.join(file);
        let found = std::fs::metadata(&path).map(|data| data.len()).unwrap_or(0);
        if found == expected {
            return Ok(());
        }
        if let Ok(blob) = std::fs::canonicalize(&path) {
            let _ = std::fs::remove_file(blob);
        }
        let _ = std::fs::remove_file(&path);
        Err(HubError::Incomplete { repo: self.repo.into(), file: file.into(), expected, found })
    }

    fn cached<T: RepoType>(
        &self,
        repository: &HFRepositorySync<T>,
        choose: &Choose<'_>,
        absent: HubError,
    ) -> Result<(PathBuf, Vec<String>), HubError> {
        let folder = repository.snapshot_download().revision(self.revision).local_files_only(true).send();
        let Ok(folder) = folder else {
            return Err(absent);
        };
        let chosen = choose(&list_files(&folder))?;
        if chosen.is_empty() {
            return Err(absent);
        }
        if let Some(file) = chosen.iter().find_map(|file| missing_part(&chosen, file)) {
            let what = format!("`{file}` in the cache: fetch it while online");
            return Err(HubError::MissingFile { repo: self.repo.into(), what });
        }
        Ok((folder, chosen))
    }

    fn diagnose(&self, error: HFError) -> FetchError {
        let repo = self.repo.to_string();
        let not_found = || FetchError::Final(HubError::NotFound { repo: self.repo.to_string() });
        let (status, code) = match &error {
            HFError::Http { context } | HFError::AuthRequired { context } | HFError::Forbidden { context } => {
                (context.status.as_u16(), context.error_code.clone().unwrap_or_default())
            }
            HFError::RevisionNotFound { context, .. } | HFError::RepoNotFound { context, .. } => {
                (404, context.as_ref().and_then(|context| context.error_code.clone()).unwrap_or_default())
            }
            HFError::Request { source, .. } => return FetchError::Network(root_cause(source)),
            _ => (0, String::new()),
        };
        match (status, code.as_str()) {
            (_, "RevisionNotFound") => {
                FetchError::Final(HubError::NoSuchRevision { repo, revision: self.revision.to_string() })
            }
            // The Hub answers 401 for a name it does not know when no token is sent.
            (401 | 404, "RepoNotFound") => not_found(),
            (401 | 403, _) => {
                FetchError::Final(HubError::Unauthorised { page: format!("{}/{repo}", self.endpoint), repo, status })
            }
            (404, _) => not_found(),
            (500..=599, _) => FetchError::Network(format!("the hub answers with status {status}")),
            _ => FetchError::Final(HubError::Other { repo, cause: one_line(&error.to_string()) }),
        }
    }
}

/// The files of a model that a run reads; folders of a repository hold other formats.
fn is_wanted(file: &str, weights: Weights) -> bool {
    let is_weight = file == "model.safetensors"
        || file == "adapter_model.safetensors"
        || (file.starts_with("model-") && file.ends_with(".safetensors"));
    let is_config = ["config.json", "generation_config.json", "adapter_config.json", "model.safetensors.index.json"]
        .contains(&file);
    is_config
        || TOKENIZER_FILES.contains(&file)
        || (file.starts_with("additional_chat_templates/") && file.ends_with(".jinja"))
        || (is_weight && weights == Weights::Fetch)
}

fn literal_pattern(file: &str) -> String {
    file.chars()
        .map(|character| match character {
            '*' | '?' | '[' | ']' | '{' | '}' => format!("[{character}]"),
            other => other.to_string(),
        })
        .collect()
}

/// A part `name-00002-of-00003.ext` that its siblings promise and that is not there.
fn missing_part(files: &[String], file: &str) -> Option<String> {
    let (head, rest) = file.rsplit_once("-of-")?;
    let (total, extension) = rest.split_once('.')?;
    let (stem, part) = head.rsplit_once('-')?;
    let (width, count) = (part.len(), total.parse::<usize>().ok()?);
    part.parse::<usize>().ok()?;
    // Data sets count from 0, weights from 1.
    let first = if stem.ends_with("model") { 1 } else { 0 };
    (first..first + count.min(100_000))
        .map(|part| format!("{stem}-{part:0width$}-of-{total}.{extension}"))
        .find(|part| !files.contains(part))
}

fn list_files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_path_buf()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else if path.exists()
                && let Ok(relative) = path.strip_prefix(folder)
            {
                found.push(relative.to_string_lossy().replace('\\', "/"));
            }
        }
    }
    found.sort();
    found
}

fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    one_line(&cause.to_string())
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// One bar for all files of a fetch. Hidden by indicatif where standard error is no terminal.
struct Bar {
    bar: ProgressBar,
    /// Bytes per file that goes over plain HTTP, and of the batch that goes over Xet.
    state: Mutex<(Vec<(String, u64)>, u64)>,
}

impl Bar {
    fn new(repo: &str) -> Self {
        let bar = ProgressBar::new(0);
        if let Ok(style) =
            ProgressStyle::with_template("{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} left {eta}")
        {
            bar.set_style(style);
        }
        bar.set_message(format!("fetching {repo}"));
        Self { bar, state: Mutex::new((Vec::new(), 0)) }
    }
}

impl ProgressHandler for Bar {
    fn on_progress(&self, event: &ProgressEvent) {
        let ProgressEvent::Download(event) = event else {
            return;
        };
        let Ok(mut state) = self.state.lock() else {
            return;
        };
        match event {
            // A snapshot's start comes first and holds the total; its files start again one by one.
            DownloadEvent::Start { total_bytes, .. } => {
                let total = self.bar.length().unwrap_or(0).max(*total_bytes);
                self.bar.set_length(total);
            }
            DownloadEvent::Progress { files } => {
                for file in files {
                    match state.0.iter_mut().find(|(name, _)| *name == file.filename) {
                        Some((_, bytes)) => *bytes = file.bytes_completed.max(*bytes),
                        None => state.0.push((file.filename.clone(), file.bytes_completed)),
                    }
                }
            }
            DownloadEvent::AggregateProgress { bytes_completed, .. } => state.1 = *bytes_completed,
            DownloadEvent::Complete => {}
        }
        self.bar.set_position(state.0.iter().map(|(_, bytes)| bytes).sum::<u64>() + state.1);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
