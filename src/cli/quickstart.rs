//! The checkpoint of the embedded quickstart, written where it is not there: the program runs in any folder.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::note;

/// The model that the quickstart names, a folder of the repository.
const FOLDER: &str = "configs/quickstart";

/// Its files, 0.9 MB of them.
const FILES: [(&str, &[u8]); 5] = [
    ("config.json", include_bytes!("../../configs/quickstart/config.json")),
    ("generation_config.json", include_bytes!("../../configs/quickstart/generation_config.json")),
    ("tokenizer.json", include_bytes!("../../configs/quickstart/tokenizer.json")),
    ("tokenizer_config.json", include_bytes!("../../configs/quickstart/tokenizer_config.json")),
    ("model.safetensors", include_bytes!("../../configs/quickstart/model.safetensors")),
];

/// Puts another path in the place of the quickstart's model where that is not in this folder.
pub(super) fn provide(path: &mut String) -> Result<()> {
    if path.as_str() == FOLDER && !Path::new(FOLDER).exists() {
        *path = written(&cache())?.display().to_string();
    }
    Ok(())
}

/// `$XDG_CACHE_HOME`, `$HOME/.cache`, or the folder for temporary files.
fn cache() -> PathBuf {
    let named = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    named("XDG_CACHE_HOME").or(named("HOME").map(|home| home.join(".cache"))).unwrap_or_else(std::env::temp_dir)
}

/// The folder of the checkpoint in a cache, which other versions of the program share.
fn written(cache: &Path) -> Result<PathBuf> {
    let folder = cache.join("candlewick").join("quickstart");
    let is_whole = |(name, bytes): &(&str, &[u8])| std::fs::read(folder.join(name)).is_ok_and(|found| found == *bytes);
    if FILES.iter().all(is_whole) {
        return Ok(folder);
    }
    let cannot = || format!("the quickstart's checkpoint cannot be written to {}", folder.display());
    std::fs::create_dir_all(&folder).with_context(cannot)?;
    for (name, bytes) in FILES {
        candlewick::train::folder::write_atomically(&folder.join(name), bytes)?;
    }
    note(&format!("the quickstart's checkpoint, which the program carries, was written to {}", folder.display()));
    Ok(folder)
}
