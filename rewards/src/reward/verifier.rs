//! The `verifier` reward: config; the model itself is loaded by the main crate.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::verification::{Part, ScoreForm, Template, VERDICT_TEMPLATE, VerdictConfig};
use super::{ConfigError, Models, Reward, RewardSection};

/// Rewards answers that a local language model takes for the reference: the probability of its word for a match.
///
/// One forward pass over problem, end of the solution and reference; the score comes from the next
/// token's distribution. Equal questions are asked once a step. Completions without an answer, or
/// whose answer only opens a solution, earn 0 without being asked about.
///
/// Source: arXiv 2503.23829; we normalise by p1 + p0, so that probability on other words earns nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct VerifierConfig {
    /// A folder with a checkpoint of a language model, or its name on the Hub.
    pub path: String,
    /// Branch, tag or commit on the Hub; absent takes `main`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// Words, score and prompt of the verdict.
    pub verdict: VerdictConfig,
    /// Which part of the completion is shown.
    pub send: Part,
    /// Most characters of it; the end is kept.
    pub max_chars: usize,
    /// Whether the prompt is a user's message in the model's chat template, rather than plain text.
    pub is_chat: bool,
    /// Whether scores are standardised over the step's completions; redundant where an estimator does it.
    pub zscore: bool,
}

impl Default for VerifierConfig {
    fn default() -> Self {
        VerifierConfig {
            path: String::new(),
            revision: None,
            verdict: VerdictConfig::default(),
            send: Part::default(),
            max_chars: 2000,
            is_chat: true,
            zscore: false,
        }
    }
}

impl VerifierConfig {
    /// Whether its scores are 0 and 1.
    pub fn is_binary(&self) -> bool {
        self.verdict.score == ScoreForm::Hard && !self.zscore
    }

    /// The compiled prompt.
    pub fn template(&self) -> Result<Template, ConfigError> {
        let source = self.verdict.template.as_deref().unwrap_or(VERDICT_TEMPLATE);
        Template::new("verifier.verdict.template", source)
    }
}

impl RewardSection for VerifierConfig {
    fn build(&self, models: &dyn Models) -> Result<Box<dyn Reward>, ConfigError> {
        if self.path.is_empty() {
            return Err(ConfigError::BadValue {
                key: "verifier.path".into(),
                value: String::new(),
                fix: "name a folder with a language model".into(),
            });
        }
        self.verdict.check("verifier.verdict")?;
        self.template()?;
        models.verifier(self)
    }
}
