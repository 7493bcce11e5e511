//! `candlewick generate`.

use std::io::{IsTerminal, Read, Write};
use std::ops::ControlFlow;

use anyhow::{Context, Result};
use candlewick::config::{Device, DiscreteConfig, ModelConfig};
use candlewick::data::{DataConfig, Prompt};
use candlewick::model::chat_template::Message;
use candlewick::rollout::{self, Event, Request, Sampling};
use candlewick::train::policy::Policy;

use super::Usage;

/// Let a checkpoint answer a prompt; the answer appears as it is made.
///
/// The prompt is the argument, or what standard input holds. With a chat template the prompt is
/// taken as a user's message, else as text to be continued.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// A folder with a checkpoint or an adapter, or the name of one on the Hub.
    model: String,
    /// The prompt.
    prompt: Option<String>,
    /// Continue the prompt as plain text, even if the model has a chat template.
    #[arg(long, conflicts_with_all = ["chat", "system"])]
    plain: bool,
    /// Talk: read one message a line and keep the conversation, until the input ends.
    #[arg(long, conflicts_with = "prompt")]
    chat: bool,
    /// System message of the conversation.
    #[arg(long)]
    system: Option<String>,
    /// Divisor of the logits; 0 takes the most likely token.
    #[arg(long, default_value_t = 1.0)]
    temperature: f64,
    /// Draw from the k most likely tokens only.
    #[arg(long)]
    top_k: Option<usize>,
    /// Draw from the smallest set of most likely tokens whose probabilities reach this sum.
    #[arg(long, default_value_t = 1.0)]
    top_p: f64,
    /// Leave out tokens less likely than this share of the most likely one.
    #[arg(long, default_value_t = 0.0)]
    min_p: f64,
    /// Most tokens of the answer.
    #[arg(long, default_value_t = 512)]
    limit: usize,
    /// Seed of the draws.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Branch, tag or commit on the Hub.
    #[arg(long)]
    revision: Option<String>,
    /// `auto`, `cpu`, `cuda` or `cuda:N`.
    #[arg(long, default_value_t = Device::Auto)]
    device: Device,
    #[command(flatten)]
    soft: super::soft::Thinking,
}

/// Prints the answer as it is made.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let tokens = arguments.tokens()?;
    let model = ModelConfig {
        revision: arguments.revision.clone(),
        device: arguments.device,
        ..ModelConfig::named(&arguments.model)
    };
    let policy = Policy::load(&model, &DataConfig::default())?;
    let has_template = policy.renderer.text(&Prompt::Messages(vec![Message::user("x")])).is_ok();
    let flag = if arguments.chat { Some("--chat") } else { arguments.system.as_ref().map(|_| "--system") };
    if let Some(flag) = flag.filter(|_| !has_template) {
        return Err(Usage(format!(
            "the checkpoint `{}` has no chat template, which `{flag}` needs: leave it out to continue plain text, or add a chat_template.jinja",
            arguments.model
        ))
        .into());
    }
    let mut messages: Vec<Message> = arguments.system.iter().map(Message::system).collect();
    if arguments.chat {
        let is_terminal = std::io::stdin().is_terminal();
        loop {
            if is_terminal {
                write!(std::io::stdout(), "> ")?;
                std::io::stdout().flush()?;
            }
            let mut line = String::new();
            if std::io::stdin().read_line(&mut line).context("standard input cannot be read")? == 0 {
                return Ok(());
            }
            if line.trim().is_empty() {
                continue;
            }
            messages.push(Message::user(line.trim_end()));
            let answer = answer(&policy, &Prompt::Messages(messages.clone()), &tokens, arguments)?;
            messages.push(Message::assistant(answer));
        }
    }
    let text = match &arguments.prompt {
        Some(text) => text.clone(),
        None if std::io::stdin().is_terminal() => {
            return Err(Usage("there is no prompt: give one as an argument or on standard input".into()).into());
        }
        None => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("standard input cannot be read")?;
            without_line_end(text)
        }
    };
    messages.push(Message::user(&text));
    let chat = Prompt::Messages(messages);
    let prompt = if arguments.plain || !has_template { Prompt::Text(text) } else { chat };
    answer(&policy, &prompt, &tokens, arguments)?;
    Ok(())
}

impl Arguments {
    /// How tokens are drawn. Errors: what can never work, before anything is loaded.
    fn tokens(&self) -> Result<DiscreteConfig> {
        let tokens = DiscreteConfig {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            stop: Vec::new(),
        };
        Sampling::from(&tokens).validate().map_err(|error| Usage(error.to_string()))?;
        if self.limit == 0 {
            return Err(Usage("`--limit` is at least 1: an answer has a token or more".into()).into());
        }
        self.soft.config(&tokens)?;
        Ok(tokens)
    }
}

/// A text without the end of its last line, which `echo` and files have and a prompt has not.
fn without_line_end(mut text: String) -> String {
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    text
}

/// One answer, written as it is made; returns its text.
fn answer(policy: &Policy, prompt: &Prompt, tokens: &DiscreteConfig, arguments: &Arguments) -> Result<String> {
    let request = Request { id: 0, prompt: policy.renderer.prompt(prompt)?, samples: 0..1, cap: arguments.limit };
    let soft = arguments.soft.config(tokens)?;
    let settings = rollout::Settings {
        sampling: Sampling::from(tokens),
        thinking: rollout::soft::thinking(soft.as_ref(), policy.tokenizer())?,
        eos: policy.tokenizer().eos().to_vec(),
        stop: None,
        key: vec![arguments.seed],
        max_rows: 1,
        has_adapter: true,
    };
    let (mut stream, mut text) = (policy.tokenizer().stream(true), String::new());
    let mut out = std::io::stdout();
    let mut failure = None;
    rollout::generate(&policy.decoder, &[request], &settings, |event| {
        let Event::Token { token, .. } = event else { return ControlFlow::Continue(()) };
        let written = stream.push(token).and_then(|piece| {
            let piece = piece.unwrap_or_default();
            text.push_str(&piece);
            write!(out, "{piece}")?;
            Ok(out.flush()?)
        });
        match written {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failure = Some(error);
                ControlFlow::Break(())
            }
        }
    })?;
    if let Some(error) = failure {
        return Err(error);
    }
    let rest = stream.finish()?;
    text.push_str(&rest);
    writeln!(out, "{rest}")?;
    Ok(text)
}
