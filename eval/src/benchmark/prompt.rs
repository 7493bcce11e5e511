//! How a problem is worded: for chat models, for models without chat training, with and without worked
//! examples, and in several wordings of the instruction.
//!
//! The chat template is not applied here: a chat prompt leaves as messages. All worked examples are ours.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Item;

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The system prompt.
    System,
    /// The person who asks.
    User,
    /// The model.
    Assistant,
}

impl Role {
    /// The word chat templates expect.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// One turn of a chat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: String,
}

/// A problem as put to the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prompt {
    /// Turns for the model's chat template, with the generation prompt still to be added.
    Chat(Vec<Message>),
    /// Text to be continued as it stands.
    Text {
        /// The text; it does not end in white space.
        text: String,
        /// Where the answer ends: a model without chat training goes on to the next problem. Each
        /// begins with a line break, so that the words inside an answer do not cut it.
        stop: Vec<String>,
    },
}

/// A worked example.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Shot {
    /// The problem.
    pub problem: String,
    /// The solution, down to the final answer in the benchmark's form.
    pub solution: String,
}

/// For whom a prompt is worded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// Models with a chat template.
    #[default]
    Chat,
    /// Models that continue text.
    Base,
}

/// How to ask.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Ask {
    /// For whom.
    pub form: Form,
    /// Worked examples; `None` is the form's habit: none for a chat, the benchmark's own for a base model.
    pub shots: Option<Vec<Shot>>,
    /// Which of [`WORDINGS`] a chat prompt uses; counted round when it is past the last.
    pub wording: usize,
    /// System prompt of a chat; `None` sends none.
    pub system: Option<String>,
}

/// Wordings of the same instruction; the first is the one Qwen2.5-Math's harness made the habit of the field.
///
/// A score that holds only under one of them says little: "Evaluating the Zero-shot Robustness of
/// Instruction-tuned Language Models" (arXiv 2306.11270).
pub const WORDINGS: [&str; 6] = [
    "Please reason step by step, and put your final answer within \\boxed{}.",
    "Work through the problem one step at a time. Write the result as \\boxed{result} at the end.",
    "Solve this problem. Show how you get there, then give the answer inside \\boxed{}.",
    "Find the answer to the question above. Explain each step briefly and finish with \\boxed{answer}.",
    "Think it through carefully before you answer. The last thing you write must be the answer in \\boxed{}.",
    "Give a complete solution whose final answer stands in \\boxed{}.",
];

/// Chat: problem, blank line, instruction. Base: `Problem:` and `Solution:` blocks, as Minerva's prompt has them.
pub(super) fn boxed(item: &Item, ask: &Ask, own: &[Shot]) -> Prompt {
    match ask.form {
        Form::Chat => chat(item, ask),
        Form::Base => blocks(item, ask.shots.as_deref().unwrap_or(own), "Problem:\n", "\n\nSolution:", "\nProblem:"),
    }
}

/// Chat as in [`boxed`]; base: `Question:` and `Answer:` lines, the form of lm-evaluation-harness's `gsm8k`.
pub(super) fn question_answer(item: &Item, ask: &Ask, own: &[Shot]) -> Prompt {
    match ask.form {
        Form::Chat => chat(item, ask),
        Form::Base => blocks(item, ask.shots.as_deref().unwrap_or(own), "Question: ", "\nAnswer:", "\nQuestion:"),
    }
}

/// The problem alone, as the one user turn or as the text, with any shots before it and no stop rule.
pub(super) fn verbatim(item: &Item, ask: &Ask) -> Prompt {
    match ask.form {
        Form::Chat => turns(item, ask, str::to_owned),
        Form::Base => {
            let shots = ask.shots.iter().flatten();
            let mut text: String = shots.map(|shot| format!("{} {}\n\n", shot.problem, shot.solution)).collect();
            text.push_str(&item.problem);
            Prompt::Text { text, stop: Vec::new() }
        }
    }
}

fn chat(item: &Item, ask: &Ask) -> Prompt {
    let instruction = WORDINGS[ask.wording % WORDINGS.len()];
    turns(item, ask, |problem| format!("{problem}\n\n{instruction}"))
}

fn turns(item: &Item, ask: &Ask, word: impl Fn(&str) -> String) -> Prompt {
    let user = |problem: &str| Message { role: Role::User, content: word(problem) };
    let mut messages = Vec::new();
    if let Some(system) = &ask.system {
        messages.push(Message { role: Role::System, content: system.clone() });
    }
    for shot in ask.shots.iter().flatten() {
        messages.push(user(&shot.problem));
        messages.push(Message { role: Role::Assistant, content: shot.solution.clone() });
    }
    messages.push(user(&item.problem));
    Prompt::Chat(messages)
}

fn blocks(item: &Item, shots: &[Shot], before: &str, between: &str, stop: &str) -> Prompt {
    let mut text = String::new();
    for shot in shots {
        text.push_str(&format!("{before}{}{between} {}\n\n", shot.problem, shot.solution));
    }
    text.push_str(&format!("{before}{}{between}", item.problem));
    Prompt::Text { text, stop: vec![stop.to_owned()] }
}

fn shots(pairs: &[(&str, &str)]) -> Vec<Shot> {
    pairs
        .iter()
        .map(|(problem, solution)| Shot { problem: (*problem).to_owned(), solution: (*solution).to_owned() })
        .collect()
}

/// Four word problems, solved down to a line `#### answer`.
pub(super) fn word_problem_shots() -> Vec<Shot> {
    shots(&[
        (
            "A baker fills 7 trays with 12 rolls each and keeps 9 rolls for the family. How many rolls are left to sell?",
            "The trays hold 7 * 12 = 84 rolls.\nAfter keeping 9 there are 84 - 9 = 75 rolls to sell.\n#### 75",
        ),
        (
            "Ines saves $15 a week. She has saved for 6 weeks and then buys a lamp for $38. How much money does she have left?",
            "In 6 weeks she saves 6 * 15 = 90 dollars.\nAfter the lamp she has 90 - 38 = 52 dollars.\n#### 52",
        ),
        (
            "A bus starts with 40 passengers. At the first stop a quarter of them get off and 8 get on. At the second stop half of those on board get off. How many passengers are on the bus then?",
            "At the first stop 40 / 4 = 10 get off, so 40 - 10 + 8 = 38 are on board.\nAt the second stop 38 / 2 = 19 get off, so 19 remain.\n#### 19",
        ),
        (
            "Tom runs 3 kilometers every weekday and 5 kilometers on Saturday. How many kilometers does he run in 4 weeks?",
            "On weekdays he runs 5 * 3 = 15 kilometers a week.\nWith Saturday that is 15 + 5 = 20 kilometers a week.\nIn 4 weeks he runs 4 * 20 = 80 kilometers.\n#### 80",
        ),
    ])
}

/// Four competition-style problems, solved down to the closing sentence of Minerva's prompt.
pub(super) fn competition_shots() -> Vec<Shot> {
    shots(&[
        (
            "Solve $3x - 7 = 2x + 5$ for $x$.",
            "Subtracting $2x$ from both sides gives $x - 7 = 5$. Adding $7$ gives $x = 12$.\nFinal Answer: The final answer is $12$. I hope it is correct.",
        ),
        (
            "A fair die is rolled twice. What is the probability that the sum is $4$?",
            "There are $36$ equally likely outcomes. The sum is $4$ for $(1,3)$, $(2,2)$ and $(3,1)$, so the probability is $\\frac{3}{36} = \\frac{1}{12}$.\nFinal Answer: The final answer is $\\frac{1}{12}$. I hope it is correct.",
        ),
        (
            "The legs of a right triangle measure $2$ and $4$. Find the length of its hypotenuse in simplest radical form.",
            "By the Pythagorean theorem the hypotenuse is $\\sqrt{2^2 + 4^2} = \\sqrt{20} = 2\\sqrt{5}$.\nFinal Answer: The final answer is $2\\sqrt{5}$. I hope it is correct.",
        ),
        (
            "What is the remainder when $7^{10}$ is divided by $5$?",
            "Modulo $5$ we have $7 \\equiv 2$, and $2^4 \\equiv 1$. Hence $7^{10} \\equiv 2^{10} = (2^4)^2 \\cdot 2^2 \\equiv 4$.\nFinal Answer: The final answer is $4$. I hope it is correct.",
        ),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item() -> Item {
        Item {
            id: "0".into(),
            problem: "What is 2+2?".into(),
            answer: "4".into(),
            solution: None,
            groups: Default::default(),
            tolerance: None,
        }
    }

    #[test]
    fn a_chat_holds_system_shots_and_problem_in_order() {
        let ask = Ask {
            system: Some("Be brief.".into()),
            shots: Some(vec![Shot { problem: "1+1?".into(), solution: "\\boxed{2}".into() }]),
            wording: WORDINGS.len() + 1,
            ..Ask::default()
        };
        let Prompt::Chat(messages) = boxed(&item(), &ask, &competition_shots()) else { panic!("not a chat") };
        let roles: Vec<_> = messages.iter().map(|message| message.role.as_str()).collect();
        assert_eq!(roles, ["system", "user", "assistant", "user"]);
        assert_eq!(messages[3].content, format!("What is 2+2?\n\n{}", WORDINGS[1]));
    }

    #[test]
    fn a_base_prompt_is_the_harness_form() {
        let shot = Shot { problem: "1+1?".into(), solution: "1+1=2\n#### 2".into() };
        let ask = Ask { form: Form::Base, shots: Some(vec![shot]), ..Ask::default() };
        let Prompt::Text { text, stop } = question_answer(&item(), &ask, &[]) else { panic!("not text") };
        assert_eq!(text, "Question: 1+1?\nAnswer: 1+1=2\n#### 2\n\nQuestion: What is 2+2?\nAnswer:");
        assert_eq!(stop, ["\nQuestion:"]);
        let bare = Ask { form: Form::Base, shots: Some(vec![]), ..Ask::default() };
        let Prompt::Text { text, .. } = boxed(&item(), &bare, &competition_shots()) else { panic!("not text") };
        assert_eq!(text, "Problem:\nWhat is 2+2?\n\nSolution:");
    }

    #[test]
    fn own_shots_end_in_the_answer_their_form_asks_for() {
        for shot in word_problem_shots() {
            let last = shot.solution.lines().last().unwrap();
            assert!(last.strip_prefix("#### ").is_some_and(|answer| answer.parse::<i64>().is_ok()), "{last}");
        }
        for shot in competition_shots() {
            assert!(shot.solution.ends_with("$. I hope it is correct."), "{}", shot.solution);
        }
    }
}
