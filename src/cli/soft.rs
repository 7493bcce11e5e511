//! Flags of soft thinking, for commands that generate.

use candlewick::config::{DiscreteConfig, SoftConfig};
use candlewick_algorithms::row::soft::mix::Mode;
use clap::builder::PossibleValuesParser;

use super::Usage;

/// Soft thinking: mixtures of tokens until the end marker, then tokens.
#[derive(clap::Args)]
#[command(next_help_heading = "Soft thinking")]
pub(crate) struct Thinking {
    /// Think in mixtures of tokens: `gumbel` and `dirichlet` are random, `vanilla` is not.
    #[arg(long, value_name = "MODE", value_parser = PossibleValuesParser::new(["gumbel", "dirichlet", "vanilla"]))]
    soft: Option<String>,
    /// Token that ends thinking.
    #[arg(long, requires = "soft", default_value = "</think>")]
    think_end: String,
    /// Tokens in a mixture; the mode's own if not given.
    #[arg(long, requires = "soft")]
    slots: Option<usize>,
    /// Softness of `gumbel` mixtures: near 0 is almost one token.
    #[arg(long, requires = "soft", default_value_t = 0.5)]
    tau: f64,
    /// Concentration of `dirichlet` mixtures: larger is nearer to the probabilities.
    #[arg(long, requires = "soft", default_value_t = 1.0)]
    concentration: f64,
    /// Most soft steps; then the marker is put in.
    #[arg(long, requires = "soft")]
    soft_steps: Option<usize>,
    /// End thinking after a run of steps whose entropy in nats is below this; 0 is off.
    #[arg(long, requires = "soft", default_value_t = 0.0)]
    cold_stop: f64,
    /// Length of that run.
    #[arg(long, requires = "soft", default_value_t = 256)]
    cold_stop_steps: usize,
}

impl Thinking {
    /// The settings, with the temperature and truncation of `tokens` in both phases; `None` without `--soft`.
    pub(crate) fn config(&self, tokens: &DiscreteConfig) -> Result<Option<SoftConfig>, Usage> {
        let mode = match self.soft.as_deref() {
            None => return Ok(None),
            Some("dirichlet") => Mode::Dirichlet,
            Some("vanilla") => Mode::Vanilla,
            Some(_) => Mode::Gumbel,
        };
        let plain = SoftConfig::untrained(mode);
        let config = SoftConfig {
            temperature: tokens.temperature,
            top_k: tokens.top_k.unwrap_or(plain.top_k),
            top_p: tokens.top_p,
            min_p: tokens.min_p,
            slots: self.slots.unwrap_or(plain.slots),
            tau: self.tau,
            concentration: self.concentration,
            think_end: self.think_end.clone(),
            max_steps: self.soft_steps,
            entropy_threshold: self.cold_stop,
            length_threshold: self.cold_stop_steps,
            answer: tokens.clone(),
            ..plain
        };
        match config.impossible() {
            Some(reason) => Err(Usage(reason)),
            None => Ok(Some(config)),
        }
    }
}
