//! Prompts and examples as token ids.
//!
//! One [`Renderer`] serves sampling, training, rewards and evaluation, so that all see the same
//! tokens. Which tokens are to be learnt is carried as a mask, never guessed from pad ids; the EOS
//! is learnt. What it leaves out: batching, padding and packing.

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value as Json};
use time::PrimitiveDateTime;

use super::{DataConfig, Example, Message, Problem, Prompt, Reply};
use crate::model::chat_template::{ChatTemplate, RenderOptions};
use crate::model::tokenizer::Tokenizer;

/// A row of tokens with the mask of what is to be learnt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Token ids.
    pub ids: Vec<u32>,
    /// For each id whether it is to be learnt; same length.
    pub learnt: Vec<bool>,
}

impl Tokens {
    /// A prompt and an answer to be learnt.
    pub fn of_answer(prompt: &[u32], answer: &[u32]) -> Self {
        let mut tokens = Self::default();
        tokens.push(prompt, false);
        tokens.push(answer, true);
        tokens
    }

    /// The ids before the first one that is to be learnt.
    pub fn prompt_len(&self) -> usize {
        self.learnt.iter().position(|&learnt| learnt).unwrap_or(self.ids.len())
    }

    /// Keeps the first `limit` ids.
    pub fn truncate(&mut self, limit: usize) {
        self.ids.truncate(limit);
        self.learnt.truncate(limit);
    }

    fn push(&mut self, ids: &[u32], learnt: bool) {
        self.ids.extend_from_slice(ids);
        self.learnt.resize(self.ids.len(), learnt);
    }
}

/// An example as tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tokenised {
    /// A prompt only: nothing to learn from.
    Prompt(Vec<u32>),
    /// One row to learn from.
    Row(Tokens),
    /// A better and a worse row with the same prompt.
    Pair {
        /// The better row.
        chosen: Tokens,
        /// The worse row.
        rejected: Tokens,
    },
    /// Rows with the same prompt, in the order of the data.
    List(Vec<Tokens>),
}

/// Problems with their prompts' ids.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Prompts {
    /// Problems in order, each with its ids.
    pub kept: Vec<(Problem, Vec<u32>)>,
    /// Problems left out because their prompt is longer than allowed.
    pub dropped: usize,
    /// Kept problems whose prompt begins with two BOS tokens: the data or the template write one
    /// and the tokenizer adds another.
    pub doubled_bos: usize,
}

/// The words that tell a length where `data.told` says nothing else.
const TOLD: &str = "{prompt}\nThe whole response must use exactly {tokens} tokens.";

/// Turns prompts into token ids.
#[derive(Clone, Debug)]
pub struct Renderer {
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    options: RenderOptions,
    /// Leave out the template's own system prompt.
    without_system: bool,
    /// The text around a prompt that tells a length.
    told: String,
    max_prompt_tokens: Option<usize>,
}

impl Renderer {
    /// A renderer for a checkpoint's tokenizer and template.
    ///
    /// `variables` go to the template (`enable_thinking`). `now` is what its `strftime_now` tells;
    /// a run that is to be repeatable gives one.
    pub fn new(
        config: &DataConfig,
        tokenizer: Tokenizer,
        template: Option<ChatTemplate>,
        variables: Map<String, Json>,
        now: Option<PrimitiveDateTime>,
    ) -> Self {
        let options = RenderOptions { variables, now, ..RenderOptions::default() };
        Self {
            tokenizer,
            template,
            options,
            without_system: config.system.as_deref() == Some(""),
            told: config.told.clone().unwrap_or_else(|| TOLD.to_owned()),
            max_prompt_tokens: config.max_prompt_tokens,
        }
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// What is doubtful about prompts rendered so, one line each: a doubled BOS, a missing
    /// generation prompt, a system prompt that cannot be left out.
    pub fn warnings(&self) -> Vec<String> {
        let Some(template) = &self.template else {
            return Vec::new();
        };
        let mut warnings = template.warnings(&self.tokenizer);
        if self.without_system
            && let Ok((_, Some(warning))) = template.render_without_system(&[Message::user("Hello")], &self.options)
        {
            warnings.push(warning);
        }
        warnings
    }

    /// The prompt that also tells how long the answer should be, in the words of `data.told`.
    ///
    /// The words go around a plain prompt, or around the text of the last user message; a conversation without
    /// one gets a user message of its own.
    pub fn told(&self, prompt: &Prompt, tokens: usize) -> Prompt {
        let wrap = |text: &str| {
            // The prompt last, so that what it holds is never taken for a place.
            let (before, after) = self.told.split_once("{prompt}").unwrap_or(("", ""));
            let number = |part: &str| part.replace("{tokens}", &tokens.to_string());
            format!("{}{text}{}", number(before), number(after))
        };
        match prompt {
            Prompt::Text(text) => Prompt::Text(wrap(text)),
            Prompt::Messages(messages) => {
                let mut messages = messages.clone();
                match messages.iter_mut().rev().find(|message| message.role == "user") {
                    Some(message) => message.content = Json::String(wrap(&message.text())),
                    None => messages.push(Message::user(wrap("").trim())),
                }
                Prompt::Messages(messages)
            }
        }
    }

    /// The text of a prompt, as the model will see it.
    ///
    /// Errors: messages without a chat template; what the template refuses.
    pub fn text(&self, prompt: &Prompt) -> Result<String> {
        match prompt {
            Prompt::Text(text) => Ok(text.clone()),
            Prompt::Messages(messages) => self.render(messages, true),
        }
    }

    /// The ids of a prompt. Plain text gets the tokenizer's BOS if it has one; an EOS that the tokenizer
    /// adds by itself is taken off.
    ///
    /// Errors: as [`text`](Self::text); a prompt without any token.
    pub fn prompt(&self, prompt: &Prompt) -> Result<Vec<u32>> {
        let text = self.text(prompt)?;
        let ids = match prompt {
            Prompt::Text(_) => self.encode_opening(&text)?,
            Prompt::Messages(_) => self.tokenizer.encode(&text, false)?,
        };
        if ids.is_empty() {
            bail!("the prompt `{text}` has no tokens");
        }
        Ok(ids)
    }

    /// The prompts of problems; those longer than `data.max_prompt_tokens` or `context` tokens are left out and counted.
    ///
    /// `context` is how long a prompt may be for the model to have room for an answer.
    ///
    /// Errors: a prompt that cannot be rendered, by the problem's id; no problem left.
    pub fn prompts(&self, problems: Vec<Problem>, context: usize) -> Result<Prompts> {
        let limit = self.max_prompt_tokens.unwrap_or(context).min(context);
        let (total, mut longest) = (problems.len(), 0);
        let mut prompts = Prompts::default();
        for problem in problems {
            let ids = self.prompt(&problem.prompt).with_context(|| format!("problem `{}`", problem.id))?;
            if ids.len() <= limit {
                let bos = self.tokenizer.bos();
                prompts.doubled_bos += usize::from(ids.len() > 1 && Some(ids[0]) == bos && Some(ids[1]) == bos);
                prompts.kept.push((problem, ids));
            } else {
                longest = longest.max(ids.len());
                prompts.dropped += 1;
            }
        }
        if prompts.kept.is_empty() {
            bail!(
                "all `{total}` prompts are longer than `{limit}` tokens (the longest has `{longest}`): raise `data.max_prompt_tokens` or use a model with a longer context"
            );
        }
        if prompts.doubled_bos > 0 {
            tracing::warn!(
                "{} of {total} prompts begin with two BOS tokens: leave the BOS out of the data, or use the chat template",
                prompts.doubled_bos
            );
        }
        if prompts.dropped > 0 {
            tracing::warn!(
                "{} of {total} problems are left out: their prompts are longer than {limit} tokens (the longest has {longest})",
                prompts.dropped
            );
        }
        Ok(prompts)
    }

    /// An example as tokens.
    ///
    /// The prompt's ids are exactly those of [`prompt`](Self::prompt), so that training sees what sampling
    /// saw; the completion follows, up to and with its EOS. A conversation is learnt in the assistant's
    /// turns, by the template's `{% generation %}` marks if it has them, else by rendering turn after turn.
    ///
    /// Errors: as [`prompt`](Self::prompt); a template under which a prompt is not the beginning of its
    /// conversation.
    pub fn example(&self, example: &Example) -> Result<Tokenised> {
        let tokenised = match example {
            Example::Prompt(problem) => self.prompt(&problem.prompt).map(Tokenised::Prompt),
            Example::Completion { problem, completion } => {
                self.completion(&problem.prompt, completion).map(Tokenised::Row)
            }
            Example::Preference { problem, chosen, rejected } => {
                self.completion(&problem.prompt, chosen).and_then(|chosen| {
                    Ok(Tokenised::Pair { chosen, rejected: self.completion(&problem.prompt, rejected)? })
                })
            }
            Example::Ranked { problem, candidates, .. } => {
                let rows: Result<Vec<_>> = candidates.iter().map(|c| self.completion(&problem.prompt, c)).collect();
                rows.map(Tokenised::List)
            }
            Example::Text { text, .. } => self.whole_text(text).map(Tokenised::Row),
            Example::Conversation { messages, .. } => self.conversation(messages).map(Tokenised::Row),
        };
        tokenised.with_context(|| format!("row `{}`", example.id()))
    }

    /// A prompt and its completion; see [`example`](Self::example).
    ///
    /// Errors: as [`example`](Self::example).
    pub fn completion(&self, prompt: &Prompt, completion: &Reply) -> Result<Tokens> {
        let text = match (prompt, completion) {
            (Prompt::Text(_), Reply::Text(text)) => text.clone(),
            (Prompt::Messages(messages), Reply::Messages(reply)) => {
                let opening = self.render(messages, true)?;
                let whole: Vec<Message> = messages.iter().chain(reply).cloned().collect();
                let whole = self.render(&whole, false)?;
                match whole.strip_prefix(opening.as_str()) {
                    Some(rest) => rest.to_string(),
                    None => bail!(
                        "the chat template renders the prompt alone otherwise than with its reply; give prompt and completion as plain text"
                    ),
                }
            }
            _ => bail!("prompt and completion must both be plain text or both be messages"),
        };
        let mut ids = self.continuation(&self.text(prompt)?, &text)?;
        self.end(&mut ids)?;
        Ok(Tokens::of_answer(&self.prompt(prompt)?, &ids))
    }

    fn whole_text(&self, text: &str) -> Result<Tokens> {
        let mut ids = self.encode_opening(text)?;
        self.end(&mut ids)?;
        let mut tokens = Tokens::default();
        tokens.push(&ids, true);
        // A BOS is given, not predicted.
        if tokens.ids.first().copied() == self.tokenizer.bos() {
            tokens.learnt[0] = false;
        }
        Ok(tokens)
    }

    fn conversation(&self, messages: &[Message]) -> Result<Tokens> {
        let template = self.template()?;
        let (text, spans) = if template.has_generation_marks() && !self.without_system {
            let rendered = template.render_marked(messages, &self.options)?;
            (rendered.text, rendered.assistant.unwrap_or_default())
        } else {
            self.assistant_turns(messages)?
        };
        let mut tokens = Tokens::default();
        for (id, range) in self.tokenizer.encode_with_offsets(&text)? {
            // A token belongs to the assistant if it begins in one of its spans.
            tokens.push(&[id], spans.iter().any(|span| span.contains(&range.start)));
        }
        // What follows the last EOS (a line feed, as a rule) is never generated.
        let last = tokens.learnt.iter().rposition(|&learnt| learnt);
        let last_eos =
            tokens.ids.iter().zip(&tokens.learnt).rposition(|(&id, &learnt)| learnt && self.tokenizer.is_eos(id));
        let Some(last) = last_eos.or(last) else { bail!("the conversation has no assistant turn") };
        tokens.ids.truncate(last + 1);
        tokens.learnt.truncate(last + 1);
        Ok(tokens)
    }

    /// The text of a conversation and the assistant's spans, found by rendering up to each turn.
    fn assistant_turns(&self, messages: &[Message]) -> Result<(String, Vec<std::ops::Range<usize>>)> {
        let text = self.render(messages, false)?;
        let mut spans = Vec::new();
        for (at, message) in messages.iter().enumerate().filter(|(_, message)| message.role == "assistant") {
            if at == 0 {
                bail!("turn 1 is the assistant's: `{}`", message.text());
            }
            let before = self.render(&messages[..at], true)?;
            let after = self.render(&messages[..=at], false)?;
            if !text.starts_with(&after) || !after.starts_with(&before) {
                bail!(
                    "the chat template renders earlier turns otherwise than later ones: split the conversation at turn {}, or use a template with generation marks",
                    at + 1
                );
            }
            spans.push(before.len()..after.len());
        }
        Ok((text, spans))
    }

    fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let template = self.template()?;
        let options = RenderOptions { add_generation_prompt, ..self.options.clone() };
        if self.without_system {
            return Ok(template.render_without_system(messages, &options)?.0);
        }
        template.render(messages, &options)
    }

    fn template(&self) -> Result<&ChatTemplate> {
        self.template.as_ref().with_context(|| {
            format!(
                "the checkpoint `{}` has no chat template: set `data.conversational = false` or add a chat_template.jinja",
                self.tokenizer.folder().display()
            )
        })
    }

    /// The ids that open a text: with a BOS, without an added EOS.
    fn encode_opening(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = self.tokenizer.encode(text, true)?;
        if ids.last().is_some_and(|&id| self.tokenizer.is_eos(id)) {
            let bare = self.tokenizer.encode(text, false)?;
            if bare.last() != ids.last() || bare.len() + 2 == ids.len() {
                ids.pop();
            }
        }
        Ok(ids)
    }

    /// The ids of `text` where it follows `before`: some tokenizers treat the start of a text in
    /// their own way, so both are encoded together where the border falls between two tokens.
    fn continuation(&self, before: &str, text: &str) -> Result<Vec<u32>> {
        let alone = self.tokenizer.encode(before, false)?;
        let together = self.tokenizer.encode(&format!("{before}{text}"), false)?;
        match together.strip_prefix(alone.as_slice()) {
            Some(rest) => Ok(rest.to_vec()),
            None => self.tokenizer.encode(text, false),
        }
    }

    /// Ends with an EOS: cuts blank text after the last one, which is never generated, or adds one.
    fn end(&self, ids: &mut Vec<u32>) -> Result<()> {
        if let Some(last) = ids.iter().rposition(|&id| self.tokenizer.is_eos(id))
            && self.tokenizer.decode(&ids[last + 1..], false)?.trim().is_empty()
        {
            ids.truncate(last + 1);
            return Ok(());
        }
        ids.push(self.tokenizer.eos()[0]);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
