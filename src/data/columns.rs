//! From a row's fields to an [`Example`].
//!
//! Known without configuration: TRL's forms (`prompt`, `completion`, `chosen`, `rejected`,
//! `messages`, `text`; plain or conversational), lists (`prompt`, `candidates` and one of `scores`, `probs`, `ranks`), GSM8K (`question`, and `answer` ending in
//! `#### 72`), MATH (`problem`, `solution`, `answer`), SVAMP (`Body`, `Question`, `Answer`) and
//! instructions (`instruction`, `input`). Everything else is told by [`Columns`].

use anyhow::{Context, Result, bail};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use super::dialogue;
use super::read::kind;
use super::{DataConfig, Example, Message, Problem, Prompt, Reply, Worth, conversation_text};

/// Names of the fields, where they differ from the usual ones. A dot enters an object:
/// `reward_model.ground_truth`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Columns {
    /// The problem as text; the template is put around it. Usually `problem` or `question`.
    pub problem: Option<String>,
    /// The whole prompt: a text for the model as it is, or messages. Usually `prompt`.
    pub prompt: Option<String>,
    /// The reference answer. Usually `answer`.
    pub answer: Option<String>,
    /// What supervised training learns. Usually `completion` or `solution`.
    pub completion: Option<String>,
    /// The better reply of a pair. Usually `chosen`.
    pub chosen: Option<String>,
    /// The worse reply of a pair. Usually `rejected`.
    pub rejected: Option<String>,
    /// A list of replies to one prompt. Usually `candidates`.
    pub candidates: Option<String>,
    /// Scores of the candidates, larger is better. Usually `scores`.
    pub scores: Option<String>,
    /// Probabilities of the candidates, such as shares of raters. Usually `probs`.
    pub probs: Option<String>,
    /// Ranks of the candidates, 1 for the best. Usually `ranks`.
    pub ranks: Option<String>,
    /// Whether an answer is good (true or false), or the share of raters who preferred `chosen`. Usually `label`.
    pub label: Option<String>,
    /// By how much `chosen` is better, for reward models. Usually `margin`.
    pub margin: Option<String>,
    /// A conversation. Usually `messages`.
    pub messages: Option<String>,
    /// A text for language modelling. Usually `text`.
    pub text: Option<String>,
    /// The row's name. Usually `id`.
    pub id: Option<String>,
}

const PROBLEM: [&str; 2] = ["problem", "question"];
const ANSWER: [&str; 4] = ["answer", "Answer", "final_answer", "ground_truth"];
const COMPLETION: [&str; 2] = ["completion", "solution"];
const ID: [&str; 3] = ["id", "ID", "unique_id"];

/// Turns a problem's text into a prompt, as the configuration says.
#[derive(Clone, Debug)]
pub(super) struct PromptForm {
    system: Option<String>,
    template: Option<String>,
    conversational: Option<bool>,
}

impl PromptForm {
    pub(super) fn new(config: &DataConfig) -> Self {
        Self {
            system: config.system.clone().filter(|system| !system.is_empty()),
            template: config.template.clone(),
            conversational: config.conversational,
        }
    }

    /// The prompt of a problem; a message unless the configuration or `bare` says otherwise.
    pub(super) fn of_problem(&self, problem: &str, bare: bool) -> Prompt {
        let text = match &self.template {
            Some(template) => template.replace("{problem}", problem),
            None => problem.to_string(),
        };
        if self.conversational.unwrap_or(!bare) {
            Prompt::Messages(self.with_system(vec![Message::user(text)]))
        } else {
            Prompt::Text(text)
        }
    }

    /// A prompt that the data give in full.
    fn of_text(&self, prompt: String) -> Prompt {
        if self.conversational.unwrap_or(false) {
            Prompt::Messages(self.with_system(vec![Message::user(prompt)]))
        } else {
            Prompt::Text(prompt)
        }
    }

    fn of_messages(&self, messages: Vec<Message>) -> Result<Prompt> {
        if self.conversational == Some(false) {
            bail!("the prompt is a list of messages but `data.conversational` is false");
        }
        Ok(Prompt::Messages(self.with_system(messages)))
    }

    fn with_system(&self, mut messages: Vec<Message>) -> Vec<Message> {
        let has_system = messages.first().is_some_and(|message| message.role == "system");
        if let (Some(system), false) = (&self.system, has_system) {
            messages.insert(0, Message::system(system));
        }
        messages
    }
}

/// Reads the rows of one source.
#[derive(Clone, Debug)]
pub(super) struct RowReader {
    columns: Columns,
    form: PromptForm,
    source: String,
}

/// A row being taken apart: the fields not yet used.
struct Fields {
    map: Map<String, Json>,
}

impl RowReader {
    pub(super) fn new(config: &DataConfig, source: &str) -> Self {
        Self { columns: config.columns.clone(), form: PromptForm::new(config), source: source.to_owned() }
    }

    /// One row. Errors name the field; the caller adds the place.
    pub(super) fn read(&self, row: Map<String, Json>, number: usize) -> Result<Example> {
        let names = &self.columns;
        let mut row = Fields { map: row };
        let id = match row.take(&names.id, &ID, "id")? {
            Some((name, id)) => scalar(&id, &name)?,
            None => format!("{}:{number}", self.source),
        };
        let chosen = row.take(&names.chosen, &["chosen"], "chosen")?;
        let rejected = row.take(&names.rejected, &["rejected"], "rejected")?;
        if let (Some((chosen_name, chosen)), Some((rejected_name, rejected))) = (chosen, rejected) {
            let chosen = reply(chosen, &chosen_name)?;
            let rejected = reply(rejected, &rejected_name)?;
            return self.preference(row, id, chosen, rejected);
        }
        if let Some((name, text)) = row.take(&names.text, &[], "text")? {
            return Ok(Example::Text { id, text: string(text, &name)? });
        }
        if let Some(messages) = row.take(&names.messages, &["messages"], "messages")? {
            return self.conversation(row, id, messages);
        }
        let Some((prompt, text)) = self.prompt(&mut row)? else {
            if let Some((name, text)) = row.take(&None, &["text"], "text")? {
                return Ok(Example::Text { id, text: string(text, &name)? });
            }
            bail!("no prompt, problem, messages or text among the fields {}: name them in [data.columns]", row.names());
        };
        if let Some((name, candidates)) = row.take(&names.candidates, &["candidates"], "candidates")? {
            return self.ranked(row, id, (prompt, text), candidates, &name);
        }
        let mut answer = row.answer(&names.answer)?;
        let mut completion = match row.take(&names.completion, &COMPLETION, "completion")? {
            Some((name, value)) => Some((name.clone(), reply(first_of(value), &name)?)),
            None => None,
        };
        // GSM8K: the answer is a worked solution that ends in the number.
        if let Some((solution, number)) = answer.as_deref().and_then(gsm8k_answer) {
            completion.get_or_insert_with(|| ("answer".into(), Reply::Text(solution)));
            answer = Some(number);
        }
        // MATH: the answer stands in the last box of the solution.
        if let (None, Some((_, Reply::Text(solution)))) = (&answer, &completion) {
            answer = last_boxed(solution);
        }
        let problem = Problem { id, prompt, text, answer, meta: row.map };
        match completion {
            None => Ok(Example::Prompt(problem)),
            Some((name, completion)) => {
                let completion = in_form_of(&problem.prompt, completion)
                    .with_context(|| format!("field `{name}` does not fit the prompt"))?;
                Ok(Example::Completion { problem, completion })
            }
        }
    }

    /// The prompt and the problem's bare text; None if no field holds one.
    fn prompt(&self, row: &mut Fields) -> Result<Option<(Prompt, String)>> {
        let names = &self.columns;
        if names.problem.is_none()
            && let Some((name, prompt)) = row.take(&names.prompt, &["prompt"], "prompt")?
        {
            return Ok(Some(match prompt {
                Json::Array(_) => {
                    let messages = messages(prompt, &name)?;
                    let text = conversation_text(&messages);
                    (self.form.of_messages(messages)?, text)
                }
                other => {
                    let text = string(other, &name)?;
                    (self.form.of_text(text.clone()), text)
                }
            }));
        }
        if let Some((name, problem)) = row.take(&names.problem, &PROBLEM, "problem")? {
            let text = string(problem, &name)?;
            // Benchmarks repeat the same text under both names.
            if PROBLEM.contains(&name.as_str()) {
                for other in PROBLEM {
                    if row.map.get(other).and_then(Json::as_str) == Some(text.as_str()) {
                        row.map.shift_remove(other);
                    }
                }
            }
            return Ok(Some((self.form.of_problem(&text, false), text)));
        }
        let text = if let Some((body, question)) = row.pair("Body", "Question") {
            let stop = if body.ends_with(['.', '!', '?', ',']) { "" } else { "." };
            format!("{body}{stop} {question}")
        } else if let Some((name, instruction)) = row.take(&None, &["instruction"], "instruction")? {
            let instruction = string(instruction, &name)?;
            match row.map.shift_remove("input") {
                Some(Json::String(input)) if !input.trim().is_empty() => {
                    format!("{instruction}\n\n{input}")
                }
                _ => instruction,
            }
        } else {
            return Ok(None);
        };
        Ok(Some((self.form.of_problem(&text, false), text)))
    }

    fn preference(&self, mut row: Fields, id: String, chosen: Reply, rejected: Reply) -> Result<Example> {
        // Replies that repeat the conversation from its start hold the prompt themselves.
        let is_whole = |reply: &Reply| matches!(reply, Reply::Messages(messages) if messages.first().is_some_and(|first| first.role != "assistant"));
        let explicit = if is_whole(&chosen) && is_whole(&rejected) { None } else { self.prompt(&mut row)? };
        let (prompt, text, chosen, rejected) = match explicit {
            Some((prompt, text)) => {
                let chosen = in_form_of(&prompt, chosen).context("field `chosen` does not fit the prompt")?;
                let rejected = in_form_of(&prompt, rejected).context("field `rejected` does not fit the prompt")?;
                (prompt, text, chosen, rejected)
            }
            None => self.implicit_prompt(chosen, rejected)?,
        };
        let answer = row.answer(&self.columns.answer)?;
        let problem = Problem { id, prompt, text, answer, meta: row.map };
        Ok(Example::Preference { problem, chosen, rejected })
    }

    /// The longest common beginning of both replies, as TRL's `extract_prompt` cuts it: a text is
    /// cut before the space that precedes the first difference.
    fn implicit_prompt(&self, chosen: Reply, rejected: Reply) -> Result<(Prompt, String, Reply, Reply)> {
        match (chosen, rejected) {
            (Reply::Text(chosen), Reply::Text(rejected)) if chosen == rejected => {
                // Told and left out by who trains on pairs: there is nothing to compare.
                let empty = || Reply::Text(String::new());
                Ok((Prompt::Text(chosen.clone()), chosen, empty(), empty()))
            }
            (Reply::Text(chosen), Reply::Text(rejected))
                if dialogue::is_dialogue(&chosen) && dialogue::is_dialogue(&rejected) =>
            {
                let at = dialogue::split(&chosen, &rejected)?;
                let (prompt, chosen, rejected) = (&chosen[..at], &chosen[at..], &rejected[at..]);
                if self.form.conversational != Some(true) {
                    let replies = [chosen, rejected].map(|text| Reply::Text(text.to_owned()));
                    let [chosen, rejected] = replies;
                    return Ok((Prompt::Text(prompt.to_owned()), prompt.to_owned(), chosen, rejected));
                }
                let reply = |text: &str| Reply::Messages(vec![Message::assistant(text.trim().to_owned())]);
                let turns = self.form.of_messages(dialogue::messages(prompt))?;
                Ok((turns, prompt.to_owned(), reply(chosen), reply(rejected)))
            }
            (Reply::Text(chosen), Reply::Text(rejected)) => {
                let mut at = chosen
                    .char_indices()
                    .zip(rejected.chars())
                    .find(|((_, left), right)| left != right)
                    .map_or(chosen.len().min(rejected.len()), |((at, _), _)| at);
                if at == chosen.len() || at == rejected.len() {
                    bail!(
                        "one of `chosen` and `rejected` is the beginning of the other, so that no answer is left: add a field `prompt`"
                    );
                }
                if chosen[..at].ends_with(' ') {
                    at -= 1;
                }
                let prompt = chosen[..at].to_string();
                if prompt.is_empty() {
                    bail!("no prompt: `chosen` and `rejected` have no common beginning; add a field `prompt`");
                }
                let (chosen, rejected) = (chosen[at..].to_string(), rejected[at..].to_string());
                Ok((Prompt::Text(prompt.clone()), prompt, Reply::Text(chosen), Reply::Text(rejected)))
            }
            (Reply::Messages(mut chosen), Reply::Messages(mut rejected)) => {
                if chosen == rejected && chosen.len() > 1 {
                    let last = chosen.split_off(chosen.len() - 1);
                    let text = conversation_text(&chosen);
                    let replies = (Reply::Messages(last.clone()), Reply::Messages(last));
                    return Ok((self.form.of_messages(chosen)?, text, replies.0, replies.1));
                }
                let common = chosen.iter().zip(&rejected).take_while(|(left, right)| left == right).count();
                if common == 0 || common == chosen.len() || common == rejected.len() {
                    bail!("no prompt: `chosen` and `rejected` must begin alike and end differently");
                }
                let replies = (chosen.split_off(common), rejected.split_off(common));
                let text = conversation_text(&chosen);
                Ok((self.form.of_messages(chosen)?, text, Reply::Messages(replies.0), Reply::Messages(replies.1)))
            }
            _ => bail!("`chosen` and `rejected` must both be text or both be messages"),
        }
    }

    /// Several replies to one prompt. Errors: fewer than two, no values or other than one a reply, values that cannot be.
    fn ranked(
        &self,
        mut row: Fields,
        id: String,
        (prompt, text): (Prompt, String),
        candidates: Json,
        name: &str,
    ) -> Result<Example> {
        let Json::Array(candidates) = candidates else {
            bail!("field `{name}` must be a list of replies, found {}", kind(&candidates));
        };
        if candidates.len() < 2 {
            bail!("field `{name}` has {} replies: nothing can be compared with fewer than 2", candidates.len());
        }
        let candidates: Result<Vec<Reply>> =
            (candidates.into_iter()).map(|candidate| in_form_of(&prompt, reply(candidate, name)?)).collect();
        let candidates = candidates.with_context(|| format!("field `{name}` does not fit the prompt"))?;
        let worth = self.worth(&mut row, candidates.len())?;
        let answer = row.answer(&self.columns.answer)?;
        Ok(Example::Ranked { problem: Problem { id, prompt, text, answer, meta: row.map }, candidates, worth })
    }

    /// What `count` candidates are worth.
    fn worth(&self, row: &mut Fields, count: usize) -> Result<Worth> {
        let names = &self.columns;
        let mut found = Vec::new();
        type Made = fn(Vec<f64>) -> Worth;
        let kinds = [
            (&names.scores, "scores", Worth::Scores as Made),
            (&names.probs, "probs", Worth::Probs),
            (&names.ranks, "ranks", Worth::Ranks),
        ];
        for (named, usual, made) in kinds {
            let Some((name, value)) = row.take(named, &[usual], usual)? else { continue };
            let values: Vec<f64> = serde_json::from_value(value)
                .map_err(|error| anyhow::anyhow!("field `{name}` must be a list of numbers: {error}"))?;
            if values.len() != count {
                bail!("field `{name}` has {} values for {count} candidates", values.len());
            }
            found.push((name, made(values)));
        }
        let Some((name, worth)) = found.pop() else {
            bail!("the candidates have no `scores`, `probs` or `ranks`: name the field in [data.columns]");
        };
        if let Some((other, _)) = found.pop() {
            bail!("both `{other}` and `{name}` say what the candidates are worth: keep one");
        }
        let is_possible = match &worth {
            Worth::Scores(values) => values.iter().all(|v| v.is_finite()),
            Worth::Probs(values) => {
                values.iter().all(|v| (0.0..=1.0).contains(v)) && (values.iter().sum::<f64>() - 1.0).abs() < 1e-3
            }
            Worth::Ranks(values) => values.iter().all(|v| v.fract() == 0.0 && (1.0..=count as f64).contains(v)),
        };
        let what = match &worth {
            Worth::Scores(_) => "finite numbers".to_owned(),
            Worth::Probs(_) => "from 0 to 1 and sum to 1".to_owned(),
            Worth::Ranks(_) => format!("whole numbers from 1 to {count}"),
        };
        if !is_possible {
            bail!("field `{name}` = {:?}: its values must be {what}", worth.values());
        }
        Ok(worth)
    }

    fn conversation(&self, mut row: Fields, id: String, (name, value): (String, Json)) -> Result<Example> {
        let mut messages = messages(value, &name)?;
        let answer = row.answer(&self.columns.answer)?;
        let ends_with_assistant = messages.last().is_some_and(|last| last.role == "assistant");
        if !ends_with_assistant {
            let text = conversation_text(&messages);
            let prompt = self.form.of_messages(messages)?;
            return Ok(Example::Prompt(Problem { id, prompt, text, answer, meta: row.map }));
        }
        messages = self.form.with_system(messages);
        Ok(Example::Conversation { id, messages })
    }
}

impl Fields {
    /// Removes a field: the configured one, which must be there, or the first of the usual ones
    /// that is there and not null.
    fn take(&mut self, configured: &Option<String>, usual: &[&str], role: &str) -> Result<Option<(String, Json)>> {
        if let Some(path) = configured {
            let (first, rest) = path.split_once('.').map_or((path.as_str(), None), |(first, rest)| (first, Some(rest)));
            let value = match rest {
                // A field of an object stays where it is: others may be needed from the same one.
                Some(rest) => self
                    .map
                    .get(first)
                    .and_then(|value| rest.split('.').try_fold(value, |value, key| value.get(key)))
                    .cloned(),
                None => self.map.shift_remove(first),
            };
            return match value {
                Some(Json::Null) => Ok(None),
                Some(value) => Ok(Some((path.clone(), value))),
                None => bail!("no field `{path}` (columns.{role}) among {}", self.names()),
            };
        }
        let name = usual.iter().find(|name| self.map.get(**name).is_some_and(|value| !value.is_null()));
        Ok(name.and_then(|name| Some(((*name).to_string(), self.map.shift_remove(*name)?))))
    }

    fn answer(&mut self, configured: &Option<String>) -> Result<Option<String>> {
        match self.take(configured, &ANSWER, "answer")? {
            None => Ok(None),
            Some((name, Json::Array(items))) => {
                let items: Result<Vec<String>> = items.iter().map(|item| scalar(item, &name)).collect();
                Ok(Some(items?.join(", ")))
            }
            Some((name, value)) => scalar(&value, &name).map(Some),
        }
    }

    fn pair(&mut self, left: &str, right: &str) -> Option<(String, String)> {
        let text = |name: &str| Some(self.map.get(name)?.as_str()?.trim().to_string());
        let pair = (text(left)?, text(right)?);
        self.map.shift_remove(left);
        self.map.shift_remove(right);
        Some(pair)
    }

    fn names(&self) -> String {
        let names: Vec<String> = self.map.keys().map(|name| format!("`{name}`")).collect();
        names.join(", ")
    }
}

fn string(value: Json, name: &str) -> Result<String> {
    match value {
        Json::String(text) if text.trim().is_empty() => bail!("field `{name}` is empty"),
        Json::String(text) => Ok(text),
        other => bail!("field `{name}` must be a string, found {}", kind(&other)),
    }
}

/// A text, a number (27.0 reads 27) or a truth value, as text.
fn scalar(value: &Json, name: &str) -> Result<String> {
    match value {
        Json::String(text) => Ok(text.clone()),
        Json::Number(number) => match number.as_f64() {
            Some(float) if number.is_f64() && float.fract() == 0.0 && float.abs() < 1e15 => Ok(format!("{float:.0}")),
            _ => Ok(number.to_string()),
        },
        Json::Bool(truth) => Ok(truth.to_string()),
        other => bail!("field `{name}` must be a string or a number, found {}", kind(other)),
    }
}

fn messages(value: Json, name: &str) -> Result<Vec<Message>> {
    let messages: Vec<Message> = match serde_json::from_value(value) {
        Ok(messages) => messages,
        Err(error) => {
            bail!("field `{name}` must be a list of messages with `role` and `content`: {error}")
        }
    };
    if messages.is_empty() {
        bail!("field `{name}` is an empty list");
    }
    Ok(messages)
}

fn reply(value: Json, name: &str) -> Result<Reply> {
    match value {
        Json::String(text) => Ok(Reply::Text(text)),
        Json::Array(_) => messages(value, name).map(Reply::Messages),
        // TRL allows a single message where a list is meant.
        Json::Object(_) => messages(Json::Array(vec![value]), name).map(Reply::Messages),
        other => bail!("field `{name}` must be a string or a list of messages, found {}", kind(&other)),
    }
}

/// Benchmarks keep several solutions in a list; the first stands for all.
fn first_of(value: Json) -> Json {
    match value {
        Json::Array(mut items) if items.first().is_some_and(Json::is_string) => items.swap_remove(0),
        other => other,
    }
}

/// A text in reply to messages is an assistant message; messages in reply to a text do not fit.
fn in_form_of(prompt: &Prompt, reply: Reply) -> Result<Reply> {
    match (prompt, reply) {
        (Prompt::Messages(_), Reply::Text(text)) => Ok(Reply::Messages(vec![Message::assistant(text)])),
        (Prompt::Text(_), Reply::Messages(_)) => {
            bail!("the prompt is plain text and the reply a list of messages: set `data.conversational = true`")
        }
        (_, reply) => Ok(reply),
    }
}

/// GSM8K's form: a solution whose last line is `#### number`; commas in the number are dropped.
/// Gives the whole text and the number.
fn gsm8k_answer(text: &str) -> Option<(String, String)> {
    let (_, number) = text.rsplit_once("####")?;
    let number = number.trim().replace(',', "");
    (!number.is_empty()).then(|| (text.to_string(), number))
}

/// The contents of the last `\boxed{...}`, braces balanced.
fn last_boxed(text: &str) -> Option<String> {
    let start = ["\\boxed{", "\\fbox{"].iter().filter_map(|mark| Some(text.rfind(mark)? + mark.len())).max()?;
    let mut depth = 1;
    for (at, character) in text[start..].char_indices() {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(text[start..start + at].to_string());
        }
    }
    None
}

#[cfg(test)]
mod tests;
