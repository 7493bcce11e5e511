//! What a data source's name means, and which files it stands for.
//!
//! | name | source |
//! | --- | --- |
//! | `problems.jsonl`, `../data/x.parquet` | a file: `.jsonl`, `.json` or `.parquet` |
//! | `folder`, `folder:train` | all data files of a folder, or those whose names tell the split |
//! | `owner/name`, `owner/name:split`, `owner/name:configuration:split` | a data set on the Hub; split `train` by default |
//! | `gsm8k:train`, `math500` | short for a Hub name, see [`SHORT_NAMES`] |
//! | `generated:addition` | a generator, see [`super::generated`] |
//!
//! A path that exists always wins. With `owner/name@revision` the revision is part of the name.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::generated::Kind;
use crate::config::Refusal;
use crate::hub::{Hub, choose_split};

/// Short names: name, repository on the Hub, configuration, split when none is named.
pub const SHORT_NAMES: [(&str, &str, Option<&str>, &str); 7] = [
    ("gsm8k", "openai/gsm8k", Some("main"), "train"),
    ("math", "DigitalLearningGmbH/MATH-lighteval", None, "train"),
    ("math500", "HuggingFaceH4/MATH-500", None, "test"),
    ("aime24", "HuggingFaceH4/aime_2024", None, "train"),
    ("aime25", "math-ai/aime25", None, "test"),
    ("amc23", "math-ai/amc23", None, "test"),
    ("svamp", "ChilleD/SVAMP", None, "train"),
];

/// The endings of files that can be read.
const ENDINGS: [&str; 3] = ["jsonl", "json", "parquet"];

/// A data source, not yet fetched or read.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// A file.
    File(PathBuf),
    /// A folder and the split to take from it.
    Folder(PathBuf, Option<String>),
    /// A data set on the Hub.
    Hub {
        /// `owner/name`.
        repo: String,
        /// Branch, tag or commit.
        revision: Option<String>,
        /// The configuration, if the set has several.
        configuration: Option<String>,
        /// The split.
        split: String,
    },
    /// A generator.
    Generated(Kind),
}

impl Source {
    /// Reads a source's name.
    ///
    /// Errors: a file that is not there; a name that is none of the forms, with the choices.
    pub fn parse(name: &str) -> Result<Self> {
        if let Some(kind) = name.strip_prefix("generated:") {
            return Ok(Self::Generated(kind.parse().map_err(|error: anyhow::Error| refused(error.to_string()))?));
        }
        let path = Path::new(name);
        if path.is_file() {
            return Ok(Self::File(path.to_path_buf()));
        }
        if path.is_dir() {
            return Ok(Self::Folder(path.to_path_buf(), None));
        }
        if let Some((folder, split)) = name.rsplit_once(':')
            && Path::new(folder).is_dir()
        {
            return Ok(Self::Folder(PathBuf::from(folder), Some(split.to_string())));
        }
        let is_path = name.starts_with(['.', '/', '~'])
            || path.extension().is_some_and(|ending| ENDINGS.iter().any(|known| ending == *known));
        if is_path {
            return Err(refused(format!("no such data file: `{name}`")));
        }
        let mut parts = name.split(':');
        let repo = parts.next().unwrap_or_default();
        let rest: Vec<&str> = parts.collect();
        if rest.len() > 2 || rest.iter().any(|part| part.is_empty()) {
            let message = format!("`{name}` has too many or empty parts: write `owner/name:configuration:split`");
            return Err(refused(message));
        }
        if let Some((_, repo, configuration, split)) = SHORT_NAMES.iter().find(|(short, ..)| *short == repo) {
            return Ok(Self::Hub {
                repo: (*repo).to_string(),
                revision: None,
                configuration: if rest.len() == 2 { Some(rest[0].into()) } else { configuration.map(String::from) },
                split: rest.last().unwrap_or(split).to_string(),
            });
        }
        if !repo.contains('/') {
            let short: Vec<&str> = SHORT_NAMES.iter().map(|(short, ..)| *short).collect();
            let nearest = short
                .iter()
                .map(|known| (strsim::jaro_winkler(known, repo), known))
                .max_by(|left, right| left.0.total_cmp(&right.0))
                .filter(|(likeness, _)| *likeness > 0.8)
                .map(|(_, known)| format!("; did you mean `{known}`?"))
                .unwrap_or_else(|| ":".into());
            return Err(refused(format!(
                "`{name}` is no data source{nearest} give a file, `owner/name:split`, `generated:{}`, or one of: {}",
                Kind::NAMES[0],
                short.join(", ")
            )));
        }
        let (repo, revision) = match repo.split_once('@') {
            Some((repo, revision)) => (repo, Some(revision.to_string())),
            None => (repo, None),
        };
        Ok(Self::Hub {
            repo: repo.to_string(),
            revision,
            configuration: (rest.len() == 2).then(|| rest[0].to_string()),
            split: rest.last().unwrap_or(&"train").to_string(),
        })
    }

    /// Whether it is looked for on the Hub: nothing on this machine can tell whether it is there.
    pub fn is_remote(&self) -> bool {
        matches!(self, Self::Hub { .. })
    }

    /// The files to read, in order, fetched if need be; none for a generator.
    ///
    /// Errors: those of the Hub; a folder without data files.
    pub fn files(&self, hub: &Hub, revision: Option<&str>) -> Result<Vec<PathBuf>> {
        match self {
            Self::Generated(_) => Ok(Vec::new()),
            Self::File(file) => Ok(vec![file.clone()]),
            Self::Folder(folder, split) => folder_files(folder, split.as_deref()),
            Self::Hub { repo, revision: own, configuration, split } => {
                Ok(hub.data_set(repo, own.as_deref().or(revision), configuration.as_deref(), split)?)
            }
        }
    }
}

/// Names are given by a person, who can put them right.
fn refused(message: String) -> anyhow::Error {
    Refusal::command(message).into()
}

fn folder_files(folder: &Path, split: Option<&str>) -> Result<Vec<PathBuf>> {
    let mut names = Vec::new();
    let entries = std::fs::read_dir(folder).with_context(|| format!("cannot read `{}`", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        let is_data = path.extension().is_some_and(|ending| ENDINGS.iter().any(|known| ending == *known));
        if is_data && let Some(name) = path.file_name().and_then(|name| name.to_str()) {
            names.push(name.to_string());
        }
    }
    names.sort();
    if let Some(split) = split {
        names = choose_split(&folder.display().to_string(), &names, None, split)?;
    }
    if names.is_empty() {
        return Err(refused(format!("no .jsonl, .json or .parquet file in `{}`", folder.display())));
    }
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub(repo: &str, configuration: Option<&str>, split: &str) -> Source {
        Source::Hub {
            repo: repo.into(),
            revision: None,
            configuration: configuration.map(String::from),
            split: split.into(),
        }
    }

    #[test]
    fn names_say_what_they_are() {
        assert_eq!(Source::parse("openai/gsm8k:main:train").unwrap(), hub("openai/gsm8k", Some("main"), "train"));
        assert_eq!(Source::parse("gsm8k:test").unwrap(), hub("openai/gsm8k", Some("main"), "test"));
        assert_eq!(Source::parse("math500").unwrap(), hub("HuggingFaceH4/MATH-500", None, "test"));
        assert_eq!(Source::parse("a/b").unwrap(), hub("a/b", None, "train"));
        assert_eq!(Source::parse("generated:sums").unwrap(), Source::Generated(Kind::Sums));
        let Source::Hub { revision, .. } = Source::parse("a/b@v2:train").unwrap() else { panic!() };
        assert_eq!(revision.as_deref(), Some("v2"));
    }

    #[test]
    fn paths_that_exist_win() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("train.jsonl"), "{}").unwrap();
        std::fs::write(folder.path().join("test.jsonl"), "{}").unwrap();
        let name = format!("{}:test", folder.path().display());
        let source = Source::parse(&name).unwrap();
        let files = source.files(&Hub::default(), None).unwrap();
        assert_eq!(files, [folder.path().join("test.jsonl")]);
        let whole = Source::parse(folder.path().to_str().unwrap()).unwrap();
        assert_eq!(whole.files(&Hub::default(), None).unwrap().len(), 2);
    }

    #[test]
    fn wrong_names_are_refused_with_a_hint() {
        for (name, expected) in [
            ("gone.jsonl", "no such data file: `gone.jsonl`"),
            ("../x/y", "no such data file: `../x/y`"),
            ("gsm8", "did you mean `gsm8k`?"),
            ("a/b:c:d:e", "too many or empty parts"),
            ("generated:adition", "did you mean `addition`?"),
        ] {
            let error = Source::parse(name).unwrap_err().to_string();
            assert!(error.contains(expected), "{name}: {error}");
        }
    }
}
