//! Section `rollout`: how completions are sampled.

use candlewick_algorithms::row::soft::mix::Mode;
use candlewick_algorithms::row::soft::{ActiveSlots, Reduction};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How completions are sampled.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RolloutConfig {
    /// One token a step, drawn from the model's distribution.
    Discrete(DiscreteConfig),
    /// Mixtures of tokens while the model thinks, then tokens.
    Soft(SoftConfig),
}

impl RolloutConfig {
    /// Names of all variants.
    pub const VARIANTS: &'static [&'static str] = &["discrete", "soft"];

    /// Name of this variant.
    pub fn variant(&self) -> &'static str {
        match self {
            Self::Discrete(_) => "discrete",
            Self::Soft(_) => "soft",
        }
    }

    /// How tokens are drawn: all of them, or those of the answer.
    pub fn tokens(&self) -> &DiscreteConfig {
        match self {
            Self::Discrete(discrete) => discrete,
            Self::Soft(soft) => &soft.answer,
        }
    }

    /// Soft thinking, if there is any.
    pub fn soft(&self) -> Option<&SoftConfig> {
        match self {
            Self::Discrete(_) => None,
            Self::Soft(soft) => Some(soft),
        }
    }
}

/// One token a step, drawn from softmax(logits / temperature) after truncation.
///
/// The same temperature divides the training logits, so that the first ratio is exactly 1.
/// Truncation applies in the order top-k, top-p, min-p, each on the probabilities that the one
/// before it left, renormalised.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DiscreteConfig {
    /// Divisor of the logits; above 0.
    pub temperature: f64,
    /// Draw from the k most likely tokens only; absent draws from all.
    #[schemars(range(min = 1))]
    pub top_k: Option<usize>,
    /// Draw from the smallest set of most likely tokens whose probabilities reach this sum; 1 draws from all.
    pub top_p: f64,
    /// Leave out tokens less likely than this share of the most likely one; 0 leaves out none.
    pub min_p: f64,
    /// Texts that end a completion besides the model's own end tokens.
    pub stop: Vec<String>,
}

impl Default for DiscreteConfig {
    fn default() -> Self {
        Self { temperature: 1.0, top_k: None, top_p: 1.0, min_p: 0.0, stop: Vec::new() }
    }
}

/// Soft thinking: until the end marker, each step feeds back a weighted mixture of the embeddings of a few
/// likely tokens; the answer is sampled token by token.
///
/// The visible token of a step is that of the largest weight; it is what is decoded, and tested for the
/// end of thinking and of the text. Truncation applies in the order top-k, top-p, min-p, each on the
/// probabilities that the one before it left, renormalised. Training needs `mode = "gumbel"`, whose noisy
/// scores are kept (8 bytes a slot) and have a log-density; the other modes are for evaluation and
/// generation. Defaults are SofT-GRPO's (arXiv 2511.06411); vanilla soft thinking (arXiv 2505.15778)
/// uses 10 slots, T 0.6, top-k 30, min-p 0.001 and a cold stop at 0.01 and 256 steps.
///
/// A model that never writes the marker stays soft to its end: set `max_steps`. Small models seldom gain
/// from soft thinking without training, and vanilla mixtures are close to greedy decoding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SoftConfig {
    /// How the weights of a mixture come about.
    pub mode: Mode,
    /// Divisor of the logits while thinking; 0 takes the most likely token alone.
    pub temperature: f64,
    /// Mix among the k most likely tokens only; 0 mixes among all, which is slow with large vocabularies.
    pub top_k: usize,
    /// Mix among the most likely tokens whose probabilities reach this sum; 1 = all.
    pub top_p: f64,
    /// Leave out tokens less likely than this share of the most likely one; 0 leaves out none.
    pub min_p: f64,
    /// Slots of a mixture, K, at most 64.
    #[schemars(range(min = 1, max = 64))]
    pub slots: usize,
    /// `gumbel`: temperature of the softmax over noisy scores. At 0.1 most mixtures are almost one token.
    pub tau: f64,
    /// `gumbel`: multiplies the noise.
    pub noise_scale: f64,
    /// `gumbel`: lower bound of the noise, in sampling and in the density; -inf = none.
    pub noise_min: f64,
    /// `gumbel`: upper bound of the noise; inf = none.
    pub noise_max: f64,
    /// `gumbel`: added to probabilities before the logarithm; 0 drops tokens that truncation left out, which has no density.
    pub prob_eps: f64,
    /// `dirichlet`: concentration; larger is nearer to the probabilities themselves.
    pub concentration: f64,
    /// Text of the end marker; one token of the tokenizer.
    pub think_end: String,
    /// Most soft steps; the next step is the end marker. Absent = no limit.
    #[schemars(range(min = 1))]
    pub max_steps: Option<usize>,
    /// Cold stop: a step whose entropy in nats is below this is a certain one; 0 = off.
    pub entropy_threshold: f64,
    /// Cold stop: this many certain steps in a row put the end marker in the next one's place.
    #[schemars(range(min = 1))]
    pub length_threshold: usize,
    /// Cold stop: whether as many certain steps in a row end the answer, too; cuts long answers that are simply certain.
    pub abort_after_thinking: bool,
    /// Density: slots whose log-probability is at or below this do not count; -inf = all count.
    pub active_min: f64,
    /// Density: how slots are put together.
    pub reduction: Reduction,
    /// Density: which policy decides what counts.
    pub active: ActiveSlots,
    /// Whether gradients reach the embedding table through the inputs; a tied head trains it in either case.
    pub trains_inputs: bool,
    /// How the answer's tokens are drawn.
    pub answer: DiscreteConfig,
}

impl SoftConfig {
    /// Bounds of the noise, if there is one on either side.
    pub fn noise_clamp(&self) -> Option<(f64, f64)> {
        let is_bounded = self.noise_min > f64::NEG_INFINITY || self.noise_max < f64::INFINITY;
        is_bounded.then_some((self.noise_min, self.noise_max))
    }

    /// Why these settings can never work, in one line.
    pub fn impossible(&self) -> Option<String> {
        super::values::soft_refusal(self)
    }

    /// Soft thinking as papers without training have it: `mode` with no floor and no bounds on the noise, at the
    /// temperature and truncation of the released scripts.
    pub fn untrained(mode: Mode) -> Self {
        let answer = DiscreteConfig { temperature: 0.6, top_k: Some(30), top_p: 0.95, ..DiscreteConfig::default() };
        let (slots, min_p) = if mode == Mode::Vanilla { (10, 0.001) } else { (5, 0.0) };
        Self {
            mode,
            temperature: 0.6,
            top_k: 30,
            min_p,
            slots,
            tau: 0.5,
            noise_min: f64::NEG_INFINITY,
            noise_max: f64::INFINITY,
            prob_eps: 0.0,
            answer,
            ..Self::default()
        }
    }
}

impl Default for SoftConfig {
    fn default() -> Self {
        Self {
            mode: Mode::Gumbel,
            temperature: 1.0,
            top_k: 5,
            top_p: 0.95,
            min_p: 0.0,
            slots: 5,
            tau: 0.1,
            noise_scale: 1.0,
            noise_min: -1.5,
            noise_max: 3.0,
            prob_eps: 1e-6,
            concentration: 1.0,
            think_end: "</think>".into(),
            max_steps: None,
            entropy_threshold: 0.0,
            length_threshold: 256,
            abort_after_thinking: false,
            active_min: -3.0,
            reduction: Reduction::MeanActive,
            active: ActiveSlots::Current,
            trains_inputs: false,
            answer: DiscreteConfig::default(),
        }
    }
}
