//! Chat templates: from a list of messages to the text that a model was trained on.
//!
//! The Jinja environment is that of transformers (`trim_blocks`, `lstrip_blocks`, Python's string
//! and dictionary methods, `raise_exception`, `strftime_now`, `tojson` as `json.dumps` writes it,
//! `namespace`, `break` and `continue`, `{% generation %}`), so that a template renders to the
//! same characters. What it leaves out: images and other non-text parts are handed to the template
//! as they are; nothing here tokenises.

use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, State, Value};
use regex::Regex;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};
use time::PrimitiveDateTime;

use super::tokenizer::{SpecialTokens, Tokenizer};

mod python;

/// One message of a conversation.
///
/// `rest` holds whatever else the data carry (`tool_calls`, `name`, `reasoning_content`, ...);
/// templates see it beside role and content.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant`, `tool` or what the template knows.
    pub role: String,
    /// A string; null, or a list of typed parts, where the data have them.
    #[serde(default)]
    pub content: Json,
    /// All other fields.
    #[serde(flatten)]
    pub rest: Map<String, Json>,
}

impl Message {
    /// A message of plain text.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: Json::String(content.into()), rest: Map::new() }
    }

    /// A message of the user.
    pub fn user(content: impl Into<String>) -> Self {
        Self::new("user", content)
    }

    /// A message of the model.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self::new("assistant", content)
    }

    /// A system prompt.
    pub fn system(content: impl Into<String>) -> Self {
        Self::new("system", content)
    }

    /// The text: the content itself, or its parts of type `text` joined; empty for null.
    pub fn text(&self) -> String {
        match &self.content {
            Json::String(text) => text.clone(),
            Json::Array(parts) => parts.iter().filter_map(|part| part.get("text").and_then(Json::as_str)).collect(),
            _ => String::new(),
        }
    }

    fn to_value(&self) -> Value {
        let head =
            [("role".to_string(), Value::from(&self.role)), ("content".to_string(), json_to_value(&self.content))];
        let rest = self.rest.iter().map(|(key, value)| (key.clone(), json_to_value(value)));
        Value::from_pairs(head.into_iter().chain(rest))
    }
}

/// What to render besides the messages.
#[derive(Clone, Debug, Default)]
pub struct RenderOptions {
    /// End with the header of the assistant's turn, so that the model goes on from there.
    pub add_generation_prompt: bool,
    /// Functions the model may call, as JSON schemas.
    pub tools: Option<Vec<Json>>,
    /// Further variables of the template, such as `enable_thinking`.
    pub variables: Map<String, Json>,
    /// What `strftime_now` tells; the local time when absent.
    pub now: Option<PrimitiveDateTime>,
}

impl RenderOptions {
    /// Options for a prompt that the model is to answer.
    pub fn prompt() -> Self {
        Self { add_generation_prompt: true, ..Self::default() }
    }
}

/// A rendered conversation.
#[derive(Clone, Debug, PartialEq)]
pub struct Rendered {
    /// The text.
    pub text: String,
    /// Byte ranges of `text` inside `{% generation %}` blocks, in order: what the assistant wrote.
    /// None if the template has no such blocks.
    pub assistant: Option<Vec<Range<usize>>>,
}

/// A checkpoint's chat template, compiled.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    /// Name and compiled forms; `default` is the one without tools.
    templates: Vec<NamedTemplate>,
    special: SpecialTokens,
}

#[derive(Clone, Debug)]
struct NamedTemplate {
    name: String,
    source: String,
    environment: Environment<'static>,
    has_generation_marks: bool,
}

/// The names under which a template and its marked form live in the environment.
const PLAIN: &str = "chat template";
const MARKED: &str = "chat template with marks";
/// Noncharacters that no text holds; should one do so, the spans are refused, not wrong.
const OPEN: char = '\u{1FFFE}';
const CLOSE: char = '\u{1FFFF}';

impl ChatTemplate {
    /// Compiles one template.
    ///
    /// Errors: a syntax error, with its line.
    pub fn new(source: &str, special: SpecialTokens) -> Result<Self> {
        Self::named(vec![("default".to_string(), source.to_string())], special)
    }

    /// Compiles several named templates; `tool_use` serves conversations with tools, `default` all others.
    ///
    /// Errors: a syntax error, with its line; no template named `default`, unless there is only one.
    pub fn named(sources: Vec<(String, String)>, special: SpecialTokens) -> Result<Self> {
        let only_one = sources.len() == 1;
        let templates: Vec<NamedTemplate> =
            sources.into_iter().map(|(name, source)| compile(name, source)).collect::<Result<_>>()?;
        if !only_one && !templates.iter().any(|template| template.name == "default") {
            let names: Vec<&str> = templates.iter().map(|template| template.name.as_str()).collect();
            bail!("no chat template is named `default`, only {}", names.join(", "));
        }
        Ok(Self { templates, special })
    }

    /// Reads `chat_template.jinja`, else `chat_template` of `tokenizer_config.json` (one template or
    /// a list of named ones), else `chat_template.json`. None when the folder has no template.
    ///
    /// Errors: files that cannot be read or parsed.
    pub fn from_folder(folder: &Path, special: SpecialTokens) -> Result<Option<Self>> {
        let file = folder.join("chat_template.jinja");
        if file.is_file() {
            let source = std::fs::read_to_string(&file).with_context(|| format!("cannot read `{}`", file.display()))?;
            let mut sources = vec![("default".to_string(), source)];
            sources.extend(additional_templates(folder)?);
            return Self::named(sources, special).with_context(|| format!("in `{}`", file.display())).map(Some);
        }
        for name in ["tokenizer_config.json", "chat_template.json"] {
            let file = folder.join(name);
            let Some(json) = read_json(&file)? else {
                continue;
            };
            let sources = match &json["chat_template"] {
                Json::Null => continue,
                Json::String(source) => vec![("default".to_string(), source.clone())],
                Json::Array(list) => list.iter().map(named_entry).collect::<Result<_>>()?,
                Json::Object(map) => map
                    .iter()
                    .map(|(name, source)| {
                        let source = source.as_str().context("a chat template must be a string")?;
                        Ok((name.clone(), source.to_string()))
                    })
                    .collect::<Result<_>>()?,
                _ => bail!("`chat_template` in `{}` must be a string or a list", file.display()),
            };
            return Self::named(sources, special).with_context(|| format!("in `{}`", file.display())).map(Some);
        }
        Ok(None)
    }

    /// The template's own text, as it was read (the `default` one).
    pub fn source(&self) -> &str {
        &self.choose(false).source
    }

    /// Whether the template marks the assistant's parts with `{% generation %}`.
    pub fn has_generation_marks(&self) -> bool {
        self.choose(false).has_generation_marks
    }

    /// Renders a conversation.
    ///
    /// Errors: what the template raises, in its words; anything else with the template's line.
    pub fn render(&self, messages: &[Message], options: &RenderOptions) -> Result<String> {
        let template = self.choose(options.tools.is_some());
        template.render(PLAIN, self.context(messages, options))
    }

    /// Renders a conversation and tells which parts of it the assistant wrote.
    ///
    /// Errors: as [`render`](Self::render); also if the marks cannot be followed, because the
    /// template cuts or repeats the marked text.
    pub fn render_marked(&self, messages: &[Message], options: &RenderOptions) -> Result<Rendered> {
        let text = self.render(messages, options)?;
        let template = self.choose(options.tools.is_some());
        if !template.has_generation_marks {
            return Ok(Rendered { text, assistant: None });
        }
        let marked = template.render(MARKED, self.context(messages, options))?;
        let (unmarked, spans) = take_marks(&marked)
            .filter(|(unmarked, _)| *unmarked == text)
            .context("the generation marks of the chat template cannot be followed")?;
        Ok(Rendered { text: unmarked, assistant: Some(spans) })
    }

    /// Renders a conversation without the system prompt that the template adds by itself.
    ///
    /// A BOS at its start is kept. The second value is a warning: where the template refuses two
    /// user turns in a row its system prompt cannot be told apart and stays, if there is one.
    ///
    /// Messages that begin with a system message are rendered as they are. Errors: as [`render`](Self::render).
    pub fn render_without_system(
        &self,
        messages: &[Message],
        options: &RenderOptions,
    ) -> Result<(String, Option<String>)> {
        let text = self.render(messages, options)?;
        if messages.first().is_none_or(|message| message.role == "system") {
            return Ok((text, None));
        }
        match self.own_system_prompt(options) {
            Ok((own, header)) => {
                // A BOS that opens every turn (SmolLM's) belongs to the turn that is dropped.
                let bos = self.special.bos.as_deref().filter(|bos| own.starts_with(*bos) && !header.starts_with(*bos));
                let body = text.strip_prefix(own.as_str()).context(
                    "the chat template changes its system prompt with the messages: give `system` a text",
                )?;
                Ok((format!("{}{body}", bos.unwrap_or("")), None))
            }
            Err(_) => Ok((
                text,
                Some("the chat template does not tell its own system prompt from the messages; it is kept if there is one".into()),
            )),
        }
    }

    /// What is doubtful about the template together with the tokenizer: a doubled BOS, a missing
    /// generation prompt. Each entry is one line for people.
    ///
    /// Errors: none; a template that cannot render one user message is reported as a warning too.
    pub fn warnings(&self, tokenizer: &Tokenizer) -> Vec<String> {
        let mut warnings = Vec::new();
        let probe = [Message::user("Hello")];
        let bare = self.render(&probe, &RenderOptions::default());
        let prompt = match self.render(&probe, &RenderOptions::prompt()) {
            Ok(prompt) => prompt,
            Err(error) => {
                return vec![format!("the chat template cannot render one user message: {error:#}")];
            }
        };
        if bare.is_ok_and(|bare| bare == prompt) {
            warnings.push("the chat template has no generation prompt: the model has to open its own turn".to_string());
        }
        if let (Some(bos), Ok(ids)) = (tokenizer.bos(), tokenizer.encode(&prompt, false))
            && ids.len() > 1
            && ids[0] == bos
            && ids[1] == bos
        {
            warnings.push("the chat template renders the BOS token twice".to_string());
        }
        warnings
    }

    /// What the template writes before the first user turn, and the header of that turn.
    ///
    /// With A and B two texts, H the header and E the end of a turn, `[A]` renders to S H A E and
    /// `[A, B]` to S H A E H B E: E follows A in the first, H stands between A E and B in the second.
    fn own_system_prompt(&self, options: &RenderOptions) -> Result<(String, String)> {
        let options = RenderOptions { add_generation_prompt: false, ..options.clone() };
        let (a, b) = ("probe-7f3c9b-of-the-user-turn", "probe-51ae20-of-the-next-turn");
        let one = self.render(&[Message::user(a)], &options)?;
        let two = self.render(&[Message::user(a), Message::user(b)], &options)?;
        let (before, end) = one.split_once(a).context("the template drops the user's text")?;
        let (_, after) = two.split_once(a).context("the template drops the user's text")?;
        let (between, _) = after.split_once(b).context("the template drops the user's text")?;
        let header = between.strip_prefix(end).context("turns end differently")?;
        let own = before.strip_suffix(header).context("turns begin differently")?;
        Ok((own.to_string(), header.to_string()))
    }

    fn choose(&self, with_tools: bool) -> &NamedTemplate {
        let find = |name: &str| self.templates.iter().find(|template| template.name == name);
        let tool_use = if with_tools { find("tool_use") } else { None };
        tool_use.or_else(|| find("default")).unwrap_or(&self.templates[0])
    }

    fn context(&self, messages: &[Message], options: &RenderOptions) -> Value {
        let mut pairs: Vec<(String, Value)> = vec![
            ("messages".into(), messages.iter().map(Message::to_value).collect()),
            (
                "tools".into(),
                match &options.tools {
                    Some(tools) => tools.iter().map(json_to_value).collect(),
                    None => Value::from(()),
                },
            ),
            ("documents".into(), Value::from(())),
            ("add_generation_prompt".into(), Value::from(options.add_generation_prompt)),
        ];
        pairs.extend(self.special.variables().map(|(name, token)| (name.to_string(), Value::from(token))));
        let now = options.now;
        let strftime = move |format: String| python::strftime(now.unwrap_or_else(python::local_now), &format);
        pairs.push(("strftime_now".into(), Value::from_function(strftime)));
        pairs.extend(options.variables.iter().map(|(name, value)| (name.clone(), json_to_value(value))));
        Value::from_pairs(pairs)
    }
}

impl NamedTemplate {
    fn render(&self, form: &str, context: Value) -> Result<String> {
        let template = self.environment.get_template(form).expect("both forms are added when the template is made");
        template.render(context).map_err(|error| describe(&error))
    }
}

fn compile(name: String, source: String) -> Result<NamedTemplate> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build()
        .expect("the default delimiters are valid");
    environment.set_syntax(syntax);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_unknown_method_callback(unknown_method);
    environment.add_function("raise_exception", raise_exception);
    environment.add_filter("tojson", python::tojson);

    let tags = Regex::new(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}").expect("the pattern is valid");
    let has_generation_marks = tags.is_match(&source);
    let rewrite = |open: &str, close: &str| {
        tags.replace_all(&source, |found: &regex::Captures<'_>| {
            let (left, right) = (&found[1], &found[3]);
            match found.get(2) {
                // The mark stands inside a pair of tags, so that white space is trimmed around
                // the tag exactly as the template says.
                None if open.is_empty() => format!("{{%{left} if true {right}%}}"),
                Some(_) if close.is_empty() => format!("{{%{left} endif {right}%}}"),
                None => format!("{{%{left} if true %}}{open}{{% endif %}}{{% if true {right}%}}"),
                Some(_) => format!("{{%{left} endif %}}{{% if true %}}{close}{{% endif {right}%}}"),
            }
        })
        .into_owned()
    };
    let add = |environment: &mut Environment<'static>, form: &'static str, text: String| {
        environment.add_template_owned(form, text).map_err(|error| describe(&error))
    };
    add(&mut environment, PLAIN, rewrite("", ""))?;
    add(&mut environment, MARKED, rewrite(&OPEN.to_string(), &CLOSE.to_string()))?;
    Ok(NamedTemplate { name, source, environment, has_generation_marks })
}

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, format!("{RAISED}{message}")))
}

/// Tells what a template raises itself from what goes wrong in it.
const RAISED: &str = "raised: ";

fn describe(error: &Error) -> anyhow::Error {
    if let Some(message) = error.detail().and_then(|detail| detail.strip_prefix(RAISED)) {
        return anyhow!("the chat template refuses the conversation: {message}");
    }
    let line = error.line().map(|line| format!(" at line {line}")).unwrap_or_default();
    let detail = error.detail().map(|detail| format!(": {detail}")).unwrap_or_default();
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    anyhow!("the chat template fails{line}: {}{detail}{cause}", error.kind())
}

fn unknown_method(state: &mut State<'_, '_>, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    if let Some(text) = value.as_str()
        && let Some(result) = python::string_method(text, method, args)
    {
        return result;
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args)
}

/// Removes the marks; None if they do not alternate.
fn take_marks(marked: &str) -> Option<(String, Vec<Range<usize>>)> {
    let mut text = String::with_capacity(marked.len());
    let (mut spans, mut open) = (Vec::new(), None);
    for character in marked.chars() {
        match (character, open) {
            (OPEN, None) => open = Some(text.len()),
            (CLOSE, Some(start)) => {
                spans.push(start..text.len());
                open = None;
            }
            (OPEN | CLOSE, _) => return None,
            (other, _) => text.push(other),
        }
    }
    open.is_none().then_some((text, spans))
}

fn json_to_value(json: &Json) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(truth) => Value::from(*truth),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(integer), _) => Value::from(integer),
            (None, Some(integer)) => Value::from(integer),
            (None, None) => Value::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::from(text),
        Json::Array(items) => items.iter().map(json_to_value).collect(),
        Json::Object(map) => Value::from_pairs(map.iter().map(|(key, value)| (key.clone(), json_to_value(value)))),
    }
}

fn named_entry(entry: &Json) -> Result<(String, String)> {
    match (entry["name"].as_str(), entry["template"].as_str()) {
        (Some(name), Some(template)) => Ok((name.to_string(), template.to_string())),
        _ => bail!("an entry of `chat_template` lacks `name` or `template`"),
    }
}

fn additional_templates(folder: &Path) -> Result<Vec<(String, String)>> {
    let Ok(entries) = std::fs::read_dir(folder.join("additional_chat_templates")) else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "jinja")
            && let Some(name) = path.file_stem().and_then(|name| name.to_str())
        {
            found.push((name.to_string(), std::fs::read_to_string(&path)?));
        }
    }
    found.sort();
    Ok(found)
}

pub(super) fn read_json(file: &Path) -> Result<Option<Json>> {
    match std::fs::read(file) {
        Ok(bytes) => {
            serde_json::from_slice(&bytes).map(Some).with_context(|| format!("`{}` is not valid JSON", file.display()))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read `{}`", file.display())),
    }
}

#[cfg(test)]
mod tests;
