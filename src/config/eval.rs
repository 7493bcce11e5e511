//! Section `eval`: what the model is tested on, how it is asked, and when.

use super::SoftConfig;
use candlewick_rewards::reward::pairwise::PairwiseJudgeConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Tests before, during and after training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EvalConfig {
    /// What to test on: names of benchmarks (`gsm8k`), a benchmark on a local file (`gsm8k=test.jsonl`), a file of
    /// one's own, a generator (`generated:addition`), or `validation`, the held-out part of `[data]`; `open:` before a
    /// file or `validation` asks prompts without answers, which only `judge` can decide. Empty tests nothing.
    pub benchmarks: Vec<String>,
    /// Steps between tests while training; 0 tests only before and after. With `validation` among the benchmarks these
    /// tests use that alone, and the best checkpoint is the best on it.
    pub every: usize,
    /// Problems to take of each benchmark, the same ones each time; absent takes all.
    #[schemars(range(min = 1))]
    pub problems: Option<usize>,
    /// Completions for each problem; the interval counts problems, not completions.
    #[schemars(range(min = 1))]
    pub samples: usize,
    /// Temperature of the completions; 0 takes the most likely token.
    pub temperature: f64,
    /// Draw from the k most likely tokens only; absent draws from all.
    #[schemars(range(min = 1))]
    pub top_k: Option<usize>,
    /// Draw from the smallest set of most likely tokens whose probabilities reach this sum; 1 draws from all.
    pub top_p: f64,
    /// Leave out tokens less likely than this share of the most likely one; 0 leaves out none.
    pub min_p: f64,
    /// Most tokens of a completion; absent takes the largest budget of training, or 512.
    #[schemars(range(min = 1))]
    pub limit: Option<usize>,
    /// Texts that end a completion, besides the model's own end tokens and the end of the answer in a base prompt.
    pub stop: Vec<String>,
    /// How problems are asked: by the chat template, as text to be continued, or by what the checkpoint has. Under
    /// `base` generated problems and those of `[data]` are plain text, too; else they are asked as in training.
    pub form: AskForm,
    /// Worked examples before each problem of a benchmark. Absent: none in a chat, four in a base prompt.
    pub shots: Option<usize>,
    /// File whose first records are the worked examples; absent takes examples of our own.
    pub shots_from: Option<String>,
    /// Wordings of the instruction to test under, 1 to 6: mean, worst and spread are reported. Chats only.
    #[schemars(range(min = 1))]
    pub wordings: usize,
    /// System prompt of a benchmark's chat; absent leaves it to the chat template.
    pub system: Option<String>,
    /// Length that the prompts tell: none, that of the last training step, or a number of tokens. A model trained on
    /// told lengths answers otherwise without one: report both.
    pub budget: EvalBudget,
    /// Soft thinking while testing, any mode; absent = as [rollout.soft] has it at `temperature`, or none.
    pub soft: Option<SoftConfig>,
    /// A judge that holds the final model's answers against the base model's in the closing report; absent compares by
    /// verdict only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub judge: Option<PairwiseJudgeConfig>,
}

impl EvalConfig {
    /// Why these settings can never work, in one line.
    pub fn impossible(&self) -> Option<String> {
        super::values::eval_refusal(self)
    }
}

/// What the prompts of a test tell about the length of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum EvalBudget {
    /// In words.
    Word(BudgetWord),
    /// This many tokens.
    Tokens(usize),
}

/// A budget that is not a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BudgetWord {
    /// Prompts tell nothing.
    None,
    /// The length that `budget.tokens` tells in the last training step.
    Final,
}

/// For whom a benchmark's problems are worded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AskForm {
    /// A chat where the checkpoint has a chat template, else text to be continued.
    #[default]
    Auto,
    /// Turns for the chat template.
    Chat,
    /// Text to be continued.
    Base,
}

impl std::str::FromStr for AskForm {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "chat" => Ok(Self::Chat),
            "base" => Ok(Self::Base),
            other => Err(format!("unknown form `{other}`: use `auto`, `chat` or `base`")),
        }
    }
}

impl Default for EvalConfig {
    fn default() -> Self {
        Self {
            benchmarks: Vec::new(),
            every: 0,
            problems: None,
            samples: 1,
            temperature: 0.0,
            top_k: None,
            top_p: 1.0,
            min_p: 0.0,
            limit: None,
            stop: Vec::new(),
            form: AskForm::default(),
            shots: None,
            shots_from: None,
            wordings: 1,
            system: None,
            budget: EvalBudget::Word(BudgetWord::None),
            soft: None,
            judge: None,
        }
    }
}
