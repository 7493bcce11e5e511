//! Soft thinking: until thinking ends, a step is a mixture of tokens; the answer is sampled token by token.

use anyhow::{Context, Result, ensure};
use candlewick_algorithms::row::RowFunction;
use candlewick_algorithms::row::soft::mix::{Mixture, Mode, Noise, Truncation};
use candlewick_algorithms::row::soft::phase::{Phase, Rule};
use candlewick_algorithms::row::soft::{Density, SoftSteps, weights};
use candlewick_algorithms::row::token::TokenLogp;

use super::sample::{Draw, Sampling};
use crate::config::SoftConfig;
use crate::model::ops::Float;
use crate::model::tokenizer::Tokenizer;
use candlewick_algorithms::rng::Rng;

/// How soft steps are made.
#[derive(Debug, Clone, PartialEq)]
pub struct Thinking {
    /// Which tokens take part.
    pub truncation: Truncation,
    /// How their weights come about.
    pub noise: Noise,
    /// When thinking ends.
    pub rule: Rule,
    /// The log-density of a step; `None` for mixtures that have none.
    pub density: Option<Density>,
}

impl Thinking {
    /// The soft steps that a config asks for, with the end marker found in the tokenizer.
    ///
    /// Errors: an end marker that is not one token.
    pub fn new(config: &SoftConfig, tokenizer: &Tokenizer) -> Result<Self> {
        let marker = tokenizer.encode(&config.think_end, false)?;
        let [think_end] = marker[..] else {
            anyhow::bail!(
                "the end marker `{}` is {} tokens for this tokenizer and must be one: set `think_end` to the model's own",
                config.think_end,
                marker.len()
            );
        };
        let clamp = config.noise_clamp();
        let density = (config.mode == Mode::Gumbel && config.prob_eps > 0.0).then_some(Density {
            temperature: config.temperature,
            prob_eps: config.prob_eps,
            clamp,
            active_min: (config.active_min > f64::NEG_INFINITY).then_some(config.active_min),
            reduction: config.reduction,
            active: config.active,
        });
        Ok(Self {
            truncation: Truncation {
                temperature: config.temperature,
                top_k: config.top_k,
                top_p: config.top_p,
                min_p: config.min_p,
                slots: config.slots,
            },
            noise: Noise {
                mode: config.mode,
                tau: config.tau,
                scale: config.noise_scale,
                clamp,
                prob_eps: config.prob_eps,
                concentration: config.concentration,
            },
            rule: Rule {
                think_end,
                entropy_threshold: config.entropy_threshold,
                length_threshold: config.length_threshold,
                abort_after_thinking: config.abort_after_thinking,
                max_steps: config.max_steps,
            },
            density: density.filter(|d| d.temperature > 0.0),
        })
    }

    /// Refuses what this vocabulary cannot serve.
    pub fn check(&self, vocabulary: usize) -> Result<()> {
        ensure!(
            self.truncation.slots <= vocabulary,
            "{} slots are more than the model's vocabulary of {vocabulary}: lower `slots`",
            self.truncation.slots
        );
        ensure!(
            (self.rule.think_end as usize) < vocabulary,
            "the end marker is outside the model's vocabulary of {vocabulary}: the tokenizer belongs to another model"
        );
        Ok(())
    }
}

/// Where a row's thinking stands, and what it was.
#[derive(Debug, Clone, Default)]
pub(super) struct State {
    phase: Phase,
    /// Slots of the soft steps so far, where they have a density.
    pub(super) steps: SoftSteps,
    /// What the newest step feeds back; `None` = its token.
    pub(super) mixture: Option<Mixture>,
    /// Whether the cold stop ended the answer.
    pub(super) is_aborted: bool,
}

impl State {
    /// Whether the next step is drawn as a mixture.
    pub(super) fn is_thinking(&self) -> bool {
        self.phase.is_thinking
    }

    /// Draws the next step from logits [V] while thinking.
    ///
    /// The log-prob is the step's log-density; where it has none, that of the visible token under the
    /// whole softmax. The marker's step is discrete: its log-prob is at the answer's temperature.
    pub(super) fn think<F: Float>(
        &mut self,
        thinking: &Thinking,
        answer: &Sampling,
        logits: &[F],
        rng: &mut Rng,
    ) -> Draw {
        let kept = thinking.truncation.keep(logits);
        let mut mixture = match thinking.truncation.temperature {
            0.0 => Mixture::one_hot(kept.ids[0]),
            _ => thinking.noise.mix(&kept, &thinking.noise.draw(&kept, rng)),
        };
        let decision = self.phase.advance(&thinking.rule, mixture.ids[0], kept.entropy);
        let token_logp = |temperature: f64| {
            let function = TokenLogp { tokens: &[decision.token], temperature, with_entropy: false };
            RowFunction::<F>::forward(&function, 0, logits).logp
        };
        let logp = if !decision.is_soft {
            token_logp(answer.scoring_temperature())
        } else if let Some(density) = &thinking.density {
            self.record(density, logits, &mut mixture, thinking.noise.tau)
        } else {
            let t = thinking.truncation.temperature;
            token_logp(if t == 0.0 { 1.0 } else { t })
        };
        self.mixture = decision.is_soft.then_some(mixture);
        Draw { token: decision.token, logp, drawn_logp: logp, entropy: kept.entropy }
    }

    /// Keeps a step's slots; returns its log-density. The mixture gets the weights that the stored scores
    /// give, since training rebuilds its inputs from those.
    fn record<F: Float>(&mut self, density: &Density, logits: &[F], mixture: &mut Mixture, tau: f64) -> f64 {
        let active = density.active_bits(logits, &mixture.ids);
        self.steps.push(&mixture.ids, mixture.scores.iter().map(|&s| s as f32), active);
        let step = self.steps.step(self.steps.len() - 1).expect("just pushed");
        mixture.weights = weights(step.scores, tau);
        density.of(logits, &step).logp
    }

    /// Takes in a token of the answer.
    pub(super) fn answer(&mut self, rule: &Rule, draw: &Draw) {
        self.mixture = None;
        self.is_aborted = self.phase.advance(rule, draw.token, draw.entropy).is_aborted;
    }
}

/// The thinking of a config section, if there is one.
pub fn thinking(config: Option<&SoftConfig>, tokenizer: &Tokenizer) -> Result<Option<Thinking>> {
    config.map(|c| Thinking::new(c, tokenizer).context("soft thinking is not possible with this model")).transpose()
}
