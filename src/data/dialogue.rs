//! Dialogues written as one text, `\n\nHuman: ..\n\nAssistant: ..`, as in Anthropic's HH-RLHF.

use anyhow::{Result, bail};

use crate::model::chat_template::Message;

const HUMAN: &str = "\n\nHuman:";
const ASSISTANT: &str = "\n\nAssistant:";

/// Whether a text is such a dialogue: it opens with a person's turn and has an answer.
pub(super) fn is_dialogue(text: &str) -> bool {
    text.starts_with(HUMAN) && text.contains(ASSISTANT)
}

/// Where the last answer begins: behind the last `\n\nAssistant:`, its blank left to the answer.
///
/// Both texts of a pair must be the same up to there. Errors: the prompts differ.
pub(super) fn split(chosen: &str, rejected: &str) -> Result<usize> {
    let end = |text: &str| text.rfind(ASSISTANT).map(|at| at + ASSISTANT.len());
    let (Some(a), Some(b)) = (end(chosen), end(rejected)) else { bail!("a dialogue has no answer") };
    if chosen[..a] != rejected[..b] {
        bail!("the dialogues of `chosen` and `rejected` differ before their last answer: the prompt must be the same");
    }
    Ok(a)
}

/// The turns of a dialogue, in order; the last may be an open `\n\nAssistant:`, which is left out.
pub(super) fn messages(text: &str) -> Vec<Message> {
    let mut turns = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let is_human = rest.starts_with(HUMAN);
        let body = &rest[if is_human { HUMAN.len() } else { ASSISTANT.len() }..];
        let end = [HUMAN, ASSISTANT].iter().filter_map(|mark| body.find(mark)).min().unwrap_or(body.len());
        let content = body[..end].trim().to_owned();
        let is_open = !is_human && content.is_empty() && end == body.len();
        if !is_open {
            turns.push(if is_human { Message::user(content) } else { Message::assistant(content) });
        }
        rest = &body[end..];
    }
    turns
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHOSEN: &str = "\n\nHuman: Hi\n\nAssistant: Hello!\n\nHuman: 2+2?\n\nAssistant: It is 4.";
    const REJECTED: &str = "\n\nHuman: Hi\n\nAssistant: Hello!\n\nHuman: 2+2?\n\nAssistant: It is 5.";

    #[test]
    fn the_prompt_ends_before_the_last_answer_even_where_answers_begin_alike() {
        let at = split(CHOSEN, REJECTED).unwrap();
        assert_eq!((&CHOSEN[at..], &REJECTED[at..]), (" It is 4.", " It is 5."));
        let turns: Vec<(String, String)> = messages(&CHOSEN[..at]).iter().map(|m| (m.role.clone(), m.text())).collect();
        let expected = [("user", "Hi"), ("assistant", "Hello!"), ("user", "2+2?")];
        assert_eq!(turns, expected.map(|(r, t)| (r.to_owned(), t.to_owned())));
        assert!(split(CHOSEN, "\n\nHuman: Ho\n\nAssistant: 4").is_err());
        assert!(!is_dialogue("Human: Hi"));
    }
}
