//! Text to token ids and back, with the special tokens of a checkpoint's folder.
//!
//! Reads `tokenizer.json` and takes the special tokens from `tokenizer_config.json`,
//! `special_tokens_map.json`, `generation_config.json` and `config.json`. What it leaves out: chat
//! templates ([`super::chat_template`]) and tokenizers that exist only as Python code.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value as Json;

use super::chat_template::read_json;

/// The files of a checkpoint that belong to its tokenizer; saving copies those that are there.
pub const TOKENIZER_FILES: [&str; 9] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
];

/// A checkpoint's file of settings of generation, the ends of a completion among them.
pub(crate) const GENERATION: &str = "generation_config.json";

/// The texts of the special tokens, as templates and post-processing use them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SpecialTokens {
    /// Begins a text.
    pub bos: Option<String>,
    /// Ends a text or a turn.
    pub eos: Option<String>,
    /// Fills up a batch.
    pub pad: Option<String>,
    /// Stands for what the vocabulary lacks.
    pub unk: Option<String>,
    /// All others by their name in the configuration (`sep_token`, `image_token`, ...).
    pub others: Vec<(String, String)>,
}

impl SpecialTokens {
    /// Reads `tokenizer_config.json`, then `special_tokens_map.json` for what is missing there.
    ///
    /// Errors: files that are not JSON.
    pub fn from_folder(folder: &Path) -> Result<Self> {
        let mut tokens = Self::default();
        for name in ["tokenizer_config.json", "special_tokens_map.json"] {
            let Some(Json::Object(map)) = read_json(&folder.join(name))? else {
                continue;
            };
            for (key, value) in map.iter().filter(|(key, _)| key.ends_with("_token")) {
                let Some(text) = value.as_str().or_else(|| value["content"].as_str()) else {
                    continue;
                };
                let slot = match key.as_str() {
                    "bos_token" => &mut tokens.bos,
                    "eos_token" => &mut tokens.eos,
                    "pad_token" => &mut tokens.pad,
                    "unk_token" => &mut tokens.unk,
                    _ => {
                        if !tokens.others.iter().any(|(name, _)| name == key) {
                            tokens.others.push((key.clone(), text.to_string()));
                        }
                        continue;
                    }
                };
                slot.get_or_insert_with(|| text.to_string());
            }
        }
        Ok(tokens)
    }

    /// The variables a chat template sees: those tokens that exist, by their usual names.
    pub fn variables(&self) -> impl Iterator<Item = (&str, &str)> {
        let known =
            [("bos_token", &self.bos), ("eos_token", &self.eos), ("pad_token", &self.pad), ("unk_token", &self.unk)];
        let known = known.into_iter().filter_map(|(name, token)| Some((name, token.as_deref()?)));
        known.chain(self.others.iter().map(|(name, token)| (name.as_str(), token.as_str())))
    }
}

/// A checkpoint's tokenizer.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    folder: PathBuf,
    special: SpecialTokens,
    bos: Option<u32>,
    eos: Vec<u32>,
    pad: u32,
    /// One more than the largest id.
    id_limit: usize,
}

impl Tokenizer {
    /// Loads the tokenizer of a checkpoint's folder.
    ///
    /// EOS ids are the tokenizer's own `eos_token` first, then all of `generation_config.json`, or
    /// of `config.json` if that names none. The pad id is the pad token's, else the first EOS.
    ///
    /// Errors: no `tokenizer.json`; files that cannot be parsed; special tokens that the vocabulary
    /// lacks; no EOS at all.
    pub fn from_folder(folder: &Path) -> Result<Self> {
        let file = folder.join("tokenizer.json");
        if !file.is_file() {
            bail!(
                "no `tokenizer.json` in `{}`: save the checkpoint's fast tokenizer there with transformers' `save_pretrained`",
                folder.display()
            );
        }
        let mut inner = tokenizers::Tokenizer::from_file(&file)
            .map_err(|error| anyhow!("cannot read the tokenizer `{}`: {error}", file.display()))?;
        // A tokenizer saved after batching pads and truncates by itself; lengths are ours to decide.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|error| anyhow!("{error}"))?;

        let special = SpecialTokens::from_folder(folder)?;
        let generation = read_json(&folder.join("generation_config.json"))?.unwrap_or(Json::Null);
        let config = read_json(&folder.join("config.json"))?.unwrap_or(Json::Null);
        let id_of = |token: &Option<String>, name: &str| match token {
            None => Ok(None),
            Some(token) => inner.token_to_id(token).map(Some).with_context(|| {
                format!("the {name} token `{token}` is not in the vocabulary of `{}`", file.display())
            }),
        };
        let ids = |source: &Json, key: &str| -> Result<Vec<u32>> {
            read_ids(&source[key]).with_context(|| format!("`{key}` must be a token id or a list of them"))
        };

        let mut eos: Vec<u32> = id_of(&special.eos, "eos")?.into_iter().collect();
        let mut configured = ids(&generation, "eos_token_id")?;
        if configured.is_empty() {
            configured = ids(&config, "eos_token_id")?;
        }
        for id in configured {
            if !eos.contains(&id) {
                eos.push(id);
            }
        }
        if eos.is_empty() {
            bail!("no eos token in `{}`: set `eos_token` in tokenizer_config.json", folder.display());
        }
        let bos = match id_of(&special.bos, "bos")? {
            Some(id) => Some(id),
            None => ids(&config, "bos_token_id")?.first().copied(),
        };
        // A pad token that the vocabulary lacks is common and harmless: masks are carried, pads never read.
        let pad = special.pad.as_ref().and_then(|token| inner.token_to_id(token));
        let pad = match pad {
            Some(id) => id,
            None => ids(&generation, "pad_token_id")?
                .first()
                .or(ids(&config, "pad_token_id")?.first())
                .copied()
                .unwrap_or(eos[0]),
        };
        let id_limit = inner.get_vocab(true).values().max().map_or(0, |&id| id as usize + 1);
        Ok(Self { inner, folder: folder.to_path_buf(), special, bos, eos, pad, id_limit })
    }

    /// The ids of a text. `add_special_tokens` lets the tokenizer add its BOS or EOS; rendered chat
    /// templates bring their own and need it off.
    ///
    /// Errors: those of the tokenizer's model.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, add_special_tokens);
        Ok(encoding.map_err(|error| anyhow!("cannot tokenise: {error}"))?.get_ids().to_vec())
    }

    /// The ids of a text without added tokens, each with its byte range in the text.
    ///
    /// Errors: those of the tokenizer's model.
    pub fn encode_with_offsets(&self, text: &str) -> Result<Vec<(u32, std::ops::Range<usize>)>> {
        let encoding = self.inner.encode(text, false).map_err(|error| anyhow!("cannot tokenise: {error}"))?;
        let offsets = encoding.get_offsets().iter().map(|&(start, end)| start..end);
        Ok(encoding.get_ids().iter().copied().zip(offsets).collect())
    }

    /// The text of ids; special tokens are left out if `skip_special_tokens`.
    ///
    /// Ids that the vocabulary lacks (a model's padded rows) give no text.
    ///
    /// Errors: those of the tokenizer's decoder.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String> {
        self.inner.decode(ids, skip_special_tokens).map_err(|error| anyhow!("cannot decode: {error}"))
    }

    /// A decoder that gives the text piece by piece as tokens arrive.
    pub fn stream(&self, skip_special_tokens: bool) -> DecodeStream<'_> {
        DecodeStream { tokenizer: self, skip_special_tokens, ids: Vec::new(), prefix: 0, read: 0 }
    }

    /// The token of an id, as the vocabulary writes it.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The id of a token, as the vocabulary writes it.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The ids that end a generation; never empty. The first is the one training appends.
    pub fn eos(&self) -> &[u32] {
        &self.eos
    }

    /// Whether an id ends a generation.
    pub fn is_eos(&self, id: u32) -> bool {
        self.eos.contains(&id)
    }

    /// The id that begins a text, if the checkpoint has one.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The id that fills up batches. Masks are carried beside it, never derived from it.
    pub fn pad(&self) -> u32 {
        self.pad
    }

    /// The texts of the special tokens.
    pub fn special(&self) -> &SpecialTokens {
        &self.special
    }

    /// The folder this tokenizer was read from.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// One more than the largest id of the vocabulary, added tokens included.
    pub fn id_limit(&self) -> usize {
        self.id_limit
    }

    /// All tokens with their ids, added tokens included.
    pub fn vocabulary(&self) -> HashMap<String, u32> {
        self.inner.get_vocab(true)
    }

    /// Checks that this tokenizer can belong to a model of `vocab_size` embedding rows.
    ///
    /// A model may have more rows than the tokenizer has ids, since many are padded to a multiple
    /// of 64 or more. Errors: ids beyond the rows; fewer ids than half of the rows; an EOS or BOS
    /// beyond the rows.
    pub fn check_vocab(&self, vocab_size: usize) -> Result<()> {
        if self.id_limit > vocab_size {
            bail!(
                "wrong tokenizer: `{}` has ids up to `{}` but the model has `{vocab_size}` embedding rows",
                self.folder.display(),
                self.id_limit - 1
            );
        }
        if self.id_limit * 2 < vocab_size {
            bail!(
                "wrong tokenizer: `{}` has only `{}` ids for the model's `{vocab_size}` embedding rows",
                self.folder.display(),
                self.id_limit
            );
        }
        let special = self.eos.iter().chain(&self.bos).chain(std::iter::once(&self.pad));
        if let Some(id) = special.copied().find(|&id| id as usize >= vocab_size) {
            bail!(
                "wrong configuration: special token id `{id}` in `{}` is beyond the model's `{vocab_size}` embedding rows",
                self.folder.display()
            );
        }
        Ok(())
    }

    /// Copies the tokenizer's files, byte for byte, beside a checkpoint that is being saved.
    ///
    /// Errors: files that cannot be read or written, by name.
    pub fn copy_files(&self, to: &Path) -> Result<()> {
        // Which tokens end a completion may stand in the settings of generation alone.
        let mut names: Vec<PathBuf> = TOKENIZER_FILES.iter().chain([&GENERATION]).map(PathBuf::from).collect();
        let additional = Path::new("additional_chat_templates");
        if let Ok(entries) = std::fs::read_dir(self.folder.join(additional)) {
            std::fs::create_dir_all(to.join(additional))
                .with_context(|| format!("cannot create `{}`", to.join(additional).display()))?;
            names.extend(entries.filter_map(|entry| Some(additional.join(entry.ok()?.file_name()))));
        }
        for name in names {
            copy_file(&self.folder, to, &name)?;
        }
        Ok(())
    }
}

/// Copies a file of one folder, if it is there, into another.
pub(crate) fn copy_file(from: &Path, to: &Path, name: &Path) -> Result<()> {
    let (source, target) = (from.join(name), to.join(name));
    if source.is_file() && source != target {
        // Read and write, so that neither links of the hub's cache nor read-only modes travel along.
        let bytes = std::fs::read(&source).with_context(|| format!("cannot read `{}`", source.display()))?;
        std::fs::write(&target, bytes).with_context(|| format!("cannot write `{}`", target.display()))?;
    }
    Ok(())
}

/// Decodes a growing row of ids into pieces of text that are whole characters.
///
/// The pieces joined, with [`finish`](Self::finish), are the decoded row. A piece is held back
/// while its last bytes do not form a character; the last ids are decoded together with some
/// before them, because many decoders treat the start of a text in their own way.
#[derive(Debug)]
pub struct DecodeStream<'a> {
    tokenizer: &'a Tokenizer,
    skip_special_tokens: bool,
    ids: Vec<u32>,
    /// Ids before `prefix` are done with; those before `read` have been given out.
    prefix: usize,
    read: usize,
}

impl DecodeStream<'_> {
    /// Adds an id; the text that is complete by it, if any.
    ///
    /// Errors: those of the tokenizer's decoder.
    pub fn push(&mut self, id: u32) -> Result<Option<String>> {
        self.ids.push(id);
        let (given, text) = self.window()?;
        // Decoders stand in U+FFFD for bytes that are not yet a character.
        if text.len() <= given.len() || text.ends_with(char::REPLACEMENT_CHARACTER) {
            return Ok(None);
        }
        let piece = text[given.len()..].to_string();
        self.prefix = self.read;
        self.read = self.ids.len();
        Ok(Some(piece))
    }

    /// What is still held back at the end of a generation.
    ///
    /// Errors: those of the tokenizer's decoder.
    pub fn finish(self) -> Result<String> {
        let (given, text) = self.window()?;
        Ok(text.get(given.len()..).unwrap_or("").to_string())
    }

    fn window(&self) -> Result<(String, String)> {
        let decode = |ids: &[u32]| self.tokenizer.decode(ids, self.skip_special_tokens);
        Ok((decode(&self.ids[self.prefix..self.read])?, decode(&self.ids[self.prefix..])?))
    }
}

fn read_ids(value: &Json) -> Option<Vec<u32>> {
    let id = |value: &Json| u32::try_from(value.as_u64()?).ok();
    match value {
        Json::Null => Some(Vec::new()),
        Json::Array(list) => list.iter().map(id).collect(),
        single => Some(vec![id(single)?]),
    }
}

#[cfg(test)]
mod tests;
