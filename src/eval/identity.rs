//! What identifies an evaluated model: where it came from, and hashes of what it is made of.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use candlewick_eval::report::Identity;
use sha2::{Digest, Sha256};

use crate::hub::{Hub, Weights};
use crate::model::chat_template::ChatTemplate;
use crate::model::lora;
use crate::train::checkpoint::{checksum, hex};
use crate::train::policy::Policy;

/// The identity of a policy as it was loaded from, or saved to, `folder`; date, time and tokens are the caller's.
///
/// A model in several files has the hash of the lines `<hash of the file>  <name>`. Errors: a file that cannot be read.
pub fn identity(policy: &Policy, folder: &Path, label: &str, revision: Option<&str>, seed: u64) -> Result<Identity> {
    let is_adapter = lora::is_adapter(folder);
    let base: Option<PathBuf> = match is_adapter {
        true => {
            lora::read_config(folder)?.1.map(|name| Hub::from_env().model(&name, None, Weights::Fetch)).transpose()?
        }
        false => Some(folder.to_owned()),
    };
    let adapter = folder.join("adapter_model.safetensors");
    let texts = policy.tokenizer().folder();
    let tokenizer = texts.join("tokenizer.json");
    let template = ChatTemplate::from_folder(texts, policy.tokenizer().special().clone())?;
    let device = if policy.decoder.device().is_cpu() {
        format!("cpu, {} threads", rayon::current_num_threads())
    } else {
        format!("{:?}", policy.decoder.device().location())
    };
    Ok(Identity {
        label: label.to_owned(),
        model: if folder == policy.folder { policy.name.clone() } else { folder.display().to_string() },
        revision: revision.map(str::to_owned),
        weights_sha256: base.as_deref().map(weights).transpose()?,
        adapter_sha256: is_adapter.then(|| checksum(&adapter)).transpose()?,
        is_adapter_merged: is_adapter.then_some(false),
        tokenizer_sha256: Some(checksum(&tokenizer)?),
        template_sha256: template.map(|template| hex(&Sha256::digest(template.source().as_bytes()))),
        dtype: policy.decoder.params.dtype().as_str().to_owned(),
        device,
        engine: format!("candlewick {}", env!("CARGO_PKG_VERSION")),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        commit: option_env!("CANDLEWICK_COMMIT").map(str::to_owned),
        seed,
        ..Identity::default()
    })
}

/// Now, in UTC, as RFC 3339 writes it.
pub fn now() -> String {
    let format = &time::format_description::well_known::Rfc3339;
    let now = time::OffsetDateTime::now_utc();
    now.replace_nanosecond(0).unwrap_or(now).format(format).unwrap_or_default()
}

/// The hash of a folder's weights.
pub fn weights(folder: &Path) -> Result<String> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("{} cannot be read", folder.display()))? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        if name.starts_with("model") && name.ends_with(".safetensors") {
            files.push((name, path));
        }
    }
    files.sort();
    let mut lines = String::new();
    for (name, path) in &files {
        let sum = checksum(path)?;
        if files.len() == 1 {
            return Ok(sum);
        }
        lines.push_str(&format!("{sum}  {name}\n"));
    }
    Ok(hex(&Sha256::digest(lines.as_bytes())))
}
