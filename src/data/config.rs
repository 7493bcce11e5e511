//! The section `[data]`.

use anyhow::{Result, bail};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use super::columns::Columns;
use super::generated::GeneratedConfig;
use super::split::Amount;

/// Where problems and examples come from and how they become prompts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DataConfig {
    /// Training data: a file or folder (`problems.jsonl`, `data/:train`), a data set on the Hub
    /// (`owner/name:split` or `owner/name:configuration:split`), a short name (`gsm8k:train`), or a
    /// generator (`generated:addition`).
    pub train: Option<String>,
    /// Held-out data: a share below 1 (`0.05`) or a number of problems (`200`) cut out of `train`
    /// by the hash of the problem, or a source of its own (`"gsm8k:test"`).
    pub validation: Option<Validation>,
    /// Branch, tag or commit of a data set on the Hub; `main` by default.
    pub revision: Option<String>,
    /// Which fields of a row hold what, where their names do not tell.
    pub columns: Columns,
    /// System prompt of conversational prompts that bring none. Absent: the chat template's own.
    /// Empty: none, not even the template's own.
    pub system: Option<String>,
    /// The text around a problem; `{problem}` stands for the problem and must occur. Prompts that
    /// the data give in full (`prompt`, `messages`) are not touched.
    pub template: Option<String>,
    /// Whether problems become a user message for the chat template, or plain text. Absent: a
    /// message, except for prompts that are plain text in the data (`prompt`) and the generators'
    /// bare style.
    pub conversational: Option<bool>,
    /// The text around a prompt that tells how long the answer should be; `{prompt}` stands for the prompt (the last
    /// user message), `{tokens}` for the length, and both must occur. Used only where a length is told. Absent: the
    /// prompt, and in a new line `The whole response must use exactly {tokens} tokens.`
    pub told: Option<String>,
    /// A file of `candlewick probe` on the training problems, whose success rates and lengths the run starts from.
    pub probe: Option<std::path::PathBuf>,
    /// Longest prompt in tokens. Longer ones are left out, counted and told; none is ever cut.
    pub max_prompt_tokens: Option<usize>,
    /// Use only the first rows of the training data.
    pub limit: Option<usize>,
    /// Seed of the generators. Held-out problems do not depend on it.
    pub seed: u64,
    /// Options of the generators.
    pub generated: GeneratedConfig,
}

impl DataConfig {
    /// Checks what one field alone cannot tell.
    ///
    /// Errors: a template without `{problem}`; a limit of 0; generator options out of range.
    pub fn check(&self) -> Result<()> {
        if let Some(template) = &self.template
            && !template.contains("{problem}")
        {
            bail!("`data.template` must contain `{{problem}}`: it is `{template}`");
        }
        if let Some(told) = &self.told
            && !(told.contains("{prompt}") && told.contains("{tokens}"))
        {
            bail!("`data.told` must contain `{{prompt}}` and `{{tokens}}`: it is `{told}`");
        }
        if self.limit == Some(0) {
            bail!("`data.limit` must be at least 1: leave it out to use all rows");
        }
        if self.max_prompt_tokens == Some(0) {
            bail!("`data.max_prompt_tokens` must be at least 1: leave it out for no limit");
        }
        self.generated.check()
    }
}

/// What is held out of training.
#[derive(Clone, Debug, PartialEq)]
pub enum Validation {
    /// A share of the problems, above 0 and below 1.
    Share(f64),
    /// A number of problems, at least 1.
    Count(usize),
    /// A source of its own.
    Source(String),
}

impl Validation {
    /// How much to cut out of `train`; a source cuts nothing.
    pub(super) fn amount(&self) -> Amount {
        match self {
            Self::Share(share) => Amount::Share(*share),
            Self::Count(count) => Amount::Count(*count),
            Self::Source(_) => Amount::Count(0),
        }
    }
}

impl Serialize for Validation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Share(share) => serializer.serialize_f64(*share),
            Self::Count(count) => serializer.serialize_u64(*count as u64),
            Self::Source(source) => serializer.serialize_str(source),
        }
    }
}

// By hand, so that a wrong value keeps its line and is told what is possible.
impl<'de> Deserialize<'de> for Validation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl Visitor<'_> for Read {
            type Value = Validation;

            fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                out.write_str("a share above 0 and below 1, a number of problems, or a data source")
            }

            fn visit_f64<E: de::Error>(self, share: f64) -> Result<Validation, E> {
                if share > 0.0 && share < 1.0 {
                    Ok(Validation::Share(share))
                } else {
                    Err(E::invalid_value(de::Unexpected::Float(share), &self))
                }
            }

            fn visit_u64<E: de::Error>(self, count: u64) -> Result<Validation, E> {
                match usize::try_from(count) {
                    Ok(count) if count > 0 => Ok(Validation::Count(count)),
                    _ => Err(E::invalid_value(de::Unexpected::Unsigned(count), &self)),
                }
            }

            fn visit_i64<E: de::Error>(self, count: i64) -> Result<Validation, E> {
                match u64::try_from(count) {
                    Ok(count) => self.visit_u64(count),
                    Err(_) => Err(E::invalid_value(de::Unexpected::Signed(count), &self)),
                }
            }

            fn visit_str<E: de::Error>(self, source: &str) -> Result<Validation, E> {
                Ok(Validation::Source(source.to_string()))
            }
        }
        deserializer.deserialize_any(Read)
    }
}

impl JsonSchema for Validation {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Validation".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A share below 1, a number of problems, or a data source.",
            "anyOf": [
                { "type": "number", "exclusiveMinimum": 0 },
                { "type": "string" }
            ]
        })
    }
}
