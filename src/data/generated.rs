//! Arithmetic problems made on the spot, so that anyone can try the tool without a data set.
//!
//! A problem is training or held-out by the hash of its operands as a sorted multiset: `3 + 5`
//! and `5 + 3`, and any kind of problem on the same operands, are always on the same side, with
//! every seed and every setting. Held-out problems are the same for every seed. What it leaves
//! out: the order in which problems are drawn in training.

use std::collections::HashSet;
use std::str::FromStr;

use anyhow::{Result, bail};
use candlewick_algorithms::rng::Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, json};

pub use self::pairs::Pairs;
use super::columns::PromptForm;
use super::split::{Amount, hash, in_share};
use super::{DataConfig, Example, Problem, Prompt, Reply, Split};
use crate::model::chat_template::Message;

mod pairs;

/// What kind of problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `a + b`, or more terms if configured.
    Addition,
    /// `a - b` with a >= b.
    Subtraction,
    /// `a * b`, or more factors if configured.
    Multiplication,
    /// `a + b + ...` of 2 to 8 terms.
    Sums,
    /// Chains of `+` and `-` of 3 to 5 terms; results may be negative.
    Mixed,
    /// `ax + b = c`, to be solved for the integer x; a is at least 2.
    Linear,
}

impl Kind {
    /// The names in `generated:NAME`.
    pub const NAMES: [&'static str; 6] = ["addition", "subtraction", "multiplication", "sums", "mixed", "linear"];
    const ALL: [Self; 6] =
        [Self::Addition, Self::Subtraction, Self::Multiplication, Self::Sums, Self::Mixed, Self::Linear];

    /// The name in `generated:NAME`.
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// Fewest and most terms where the configuration does not say; None where their number is fixed.
    fn terms(self) -> Option<(usize, usize)> {
        match self {
            Self::Addition | Self::Multiplication => Some((2, 2)),
            Self::Sums => Some((2, 8)),
            Self::Mixed => Some((3, 5)),
            Self::Subtraction | Self::Linear => None,
        }
    }
}

impl FromStr for Kind {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        if let Some(at) = Self::NAMES.iter().position(|known| *known == name) {
            return Ok(Self::ALL[at]);
        }
        let nearest = Self::NAMES
            .iter()
            .max_by(|left, right| strsim::jaro_winkler(left, name).total_cmp(&strsim::jaro_winkler(right, name)))
            .filter(|known| strsim::jaro_winkler(known, name) > 0.8)
            .map(|known| format!("; did you mean `{known}`?"))
            .unwrap_or_default();
        bail!("no generator `{name}`{nearest} there are: {}", Self::NAMES.join(", "))
    }
}

/// How a generated problem is worded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Style {
    /// A question in words, as a user message.
    #[default]
    Question,
    /// `9+5+7=`, as plain text.
    Bare,
}

/// Options of the generators.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GeneratedConfig {
    /// Operands have at most this many digits, 1 to 12. `max` overrides it.
    pub digits: u32,
    /// Smallest operand.
    pub min: u64,
    /// Largest operand, at most 10^12.
    pub max: Option<u64>,
    /// Fewest terms. By kind: 2, chains of plus and minus 3.
    pub min_terms: Option<usize>,
    /// Most terms, at most 64. By kind: 2, sums 8, chains of plus and minus 5.
    pub max_terms: Option<usize>,
    /// Number of distinct training problems. Absent: all there are, up to 10000.
    pub count: Option<usize>,
    /// Number of distinct held-out problems, unless `data.validation` is a number. Absent: all there
    /// are, up to 1000.
    pub held_out_count: Option<usize>,
    /// Share of all operand multisets that is held out, unless `data.validation` is a share. Training
    /// never uses them.
    pub held_out: f64,
    /// Fewest terms of a held-out problem. Problems of few terms are soon exhausted.
    pub held_out_min_terms: Option<usize>,
    /// A question in words, or bare `9+5+7=`.
    pub style: Style,
    /// Words of the question; `{expression}` stands for `9 + 5`, or for the equation.
    pub question: Option<String>,
    /// Worked solutions as completions, for supervised training.
    pub demonstrations: Option<Demonstrations>,
    /// A right and a wrong solution of each problem, for preference training.
    pub pairs: Option<Pairs>,
}

impl Default for GeneratedConfig {
    fn default() -> Self {
        Self {
            digits: 1,
            min: 1,
            max: None,
            min_terms: None,
            max_terms: None,
            count: None,
            held_out_count: None,
            held_out: 0.2,
            held_out_min_terms: None,
            style: Style::Question,
            question: None,
            demonstrations: None,
            pairs: None,
        }
    }
}

/// The mix of solution lengths, as weights. For `9+5+7=`: verbose `9+5=14;14+7=21`, terse `14,21`,
/// direct `21`. The end is marked by the tokenizer's EOS, which is not part of the text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Demonstrations {
    /// Every step written out.
    pub verbose: f64,
    /// Results of the steps only.
    pub terse: f64,
    /// The result only.
    pub direct: f64,
    /// Solutions of different length for each problem, 1 to 3.
    pub per_problem: usize,
}

impl Default for Demonstrations {
    fn default() -> Self {
        Self { verbose: 2.0, terse: 1.0, direct: 0.5, per_problem: 1 }
    }
}

impl Demonstrations {
    fn weights(&self) -> [f64; 3] {
        [self.verbose, self.terse, self.direct]
    }
}

impl GeneratedConfig {
    /// Checks ranges. Errors name the option.
    pub fn check(&self) -> Result<()> {
        if !(1..=12).contains(&self.digits) {
            bail!("`data.generated.digits` must be 1 to 12, not `{}`", self.digits);
        }
        if self.largest() < self.min || self.largest() > 1_000_000_000_000 {
            bail!("`data.generated` needs min <= max <= 10^12: min is `{}`, max is `{}`", self.min, self.largest());
        }
        for (name, terms) in [
            ("min_terms", self.min_terms),
            ("max_terms", self.max_terms),
            ("held_out_min_terms", self.held_out_min_terms),
        ] {
            if terms.is_some_and(|terms| !(2..=64).contains(&terms)) {
                bail!("`data.generated.{name}` must be 2 to 64");
            }
        }
        if self.count == Some(0) || self.held_out_count == Some(0) {
            bail!("`data.generated` counts must be at least 1");
        }
        if !(self.held_out > 0.0 && self.held_out < 1.0) {
            bail!("`data.generated.held_out` must be above 0 and below 1, not `{}`", self.held_out);
        }
        if let Some(question) = &self.question
            && !question.contains("{expression}")
        {
            bail!("`data.generated.question` must contain `{{expression}}`: it is `{question}`");
        }
        if self.question.is_some() && self.style == Style::Bare {
            bail!("`data.generated.question` has no use with style `bare`: leave one of them out");
        }
        if let Some(pairs) = &self.pairs {
            if self.demonstrations.is_some() {
                bail!(
                    "`data.generated.pairs` and `data.generated.demonstrations` exclude each other: leave one of them out"
                );
            }
            if !(0.0..=1.0).contains(&pairs.flipped) {
                bail!("`data.generated.pairs.flipped` is a share from 0 to 1, not `{}`", pairs.flipped);
            }
            if !(2..=10).contains(&pairs.candidates) {
                bail!("`data.generated.pairs.candidates` is a number from 2 to 10, not `{}`", pairs.candidates);
            }
        }
        if let Some(mix) = &self.demonstrations {
            let weights = mix.weights();
            if weights.iter().any(|weight| !weight.is_finite() || *weight < 0.0) {
                bail!("`data.generated.demonstrations` weights must be 0 or more");
            }
            let used = weights.iter().filter(|weight| **weight > 0.0).count();
            if mix.per_problem == 0 || mix.per_problem > used {
                bail!(
                    "`data.generated.demonstrations.per_problem` is `{}` but `{used}` lengths have a weight",
                    mix.per_problem
                );
            }
        }
        Ok(())
    }

    fn largest(&self) -> u64 {
        self.max.unwrap_or(10u64.saturating_pow(self.digits).saturating_sub(1))
    }

    fn terms(&self, kind: Kind) -> Result<(usize, usize)> {
        let Some((fewest, most)) = kind.terms() else {
            if self.min_terms.or(self.max_terms).is_some() {
                bail!("`{}` problems have a fixed number of terms: leave out min_terms and max_terms", kind.name());
            }
            return Ok((2, 2));
        };
        let low = self.min_terms.unwrap_or(fewest.min(self.max_terms.unwrap_or(fewest)));
        let high = self.max_terms.unwrap_or(most.max(low));
        if low > high {
            bail!("`data.generated` needs min_terms <= max_terms: `{low}` and `{high}`");
        }
        Ok((low, high))
    }
}

/// One problem with its solution.
#[derive(Clone, Debug, PartialEq)]
struct Task {
    /// `9 + 5 + 7`, or `3x + 5 = 20`.
    expression: String,
    /// What decides the side it is on.
    operands: Vec<i64>,
    answer: i128,
    /// The steps as (`9+5`, `14`); the last one gives the answer.
    steps: Vec<(String, i128)>,
    terms: usize,
}

/// Makes the problems of one split. `held_out` is what `data.validation` says.
///
/// Errors: options that do not fit the kind; fewer distinct problems than asked for; a result too
/// large for 128 bits.
pub(super) fn examples(
    kind: Kind,
    config: &DataConfig,
    held_out: Option<Amount>,
    split: Split,
) -> Result<Vec<Example>> {
    let options = &config.generated;
    options.check()?;
    let (low, high) = options.terms(kind)?;
    let share = match held_out {
        Some(Amount::Share(share)) => share,
        _ => options.held_out,
    };
    let (low, explicit, most) = match split {
        Split::Train => (low, options.count, 10_000),
        Split::Validation => {
            let explicit = match held_out {
                Some(Amount::Count(count)) => Some(count),
                _ => options.held_out_count,
            };
            (options.held_out_min_terms.unwrap_or(low).max(low), explicit, 1000)
        }
    };
    if low > high {
        bail!("`data.generated.held_out_min_terms` is above the most terms, `{high}`");
    }
    // Held-out problems have a stream of their own without the seed.
    let mut rng = match split {
        Split::Train => Rng::keyed(&[hash(kind.name()), 0, config.seed]),
        Split::Validation => Rng::keyed(&[hash(kind.name()), 1]),
    };
    let wanted = explicit.unwrap_or(most);
    let mut seen = HashSet::new();
    let mut tasks = Vec::new();
    let mut misses = 0;
    // Drawing until nothing new turns up finds all problems of a small space, but for bad luck
    // with the last one or two, and needs no count of a large one.
    while tasks.len() < wanted && misses < 20_000 + 50 * tasks.len() {
        misses += 1;
        let terms = low + rng.below((high - low + 1) as u64) as usize;
        let task = draw(kind, options, terms, &mut rng)?;
        if seen.contains(&task.expression) {
            continue;
        }
        seen.insert(task.expression.clone());
        if in_share(side(&task.operands), share) == (split == Split::Validation) {
            misses = 0;
            tasks.push(task);
        }
    }
    if let Some(wanted) = explicit.filter(|&wanted| tasks.len() < wanted) {
        bail!(
            "only `{}` distinct {} problems exist for `{wanted}` asked: raise digits or terms",
            tasks.len(),
            if split == Split::Train { "training" } else { "held-out" }
        );
    }
    if tasks.is_empty() {
        bail!("no problem falls to this split: raise digits or terms");
    }
    let form = PromptForm::new(config);
    let mut examples = Vec::with_capacity(tasks.len());
    for (at, task) in tasks.iter().enumerate() {
        let problem = problem(kind, options, &form, task, at);
        match (&options.pairs, &options.demonstrations) {
            (Some(pairs), _) => examples.push(pairs.example(&problem, task, split, &mut rng)),
            (None, Some(mix)) => examples.extend(demonstrations(mix, &problem, task, &mut rng)),
            (None, None) => examples.push(Example::Prompt(problem)),
        }
    }
    Ok(examples)
}

/// The hash of the operands as a sorted multiset.
fn side(operands: &[i64]) -> u64 {
    let mut sorted = operands.to_vec();
    sorted.sort_unstable();
    let text: Vec<String> = sorted.iter().map(i64::to_string).collect();
    hash(&text.join(" "))
}

fn draw(kind: Kind, options: &GeneratedConfig, terms: usize, rng: &mut Rng) -> Result<Task> {
    let (min, max) = (options.min, options.largest());
    let mut operand = |min: u64| (min + rng.below(max.max(min) - min + 1)) as i64;
    match kind {
        Kind::Linear => {
            let (a, x, b) = (operand(min.max(2)), operand(min), operand(min));
            let ax = i128::from(a) * i128::from(x);
            let c = ax + i128::from(b);
            Ok(Task {
                expression: format!("{a}x + {b} = {c}"),
                operands: vec![a, x, b],
                answer: i128::from(x),
                steps: vec![(format!("{a}x"), ax), ("x".into(), i128::from(x))],
                terms,
            })
        }
        Kind::Subtraction => {
            let (left, right) = (operand(min), operand(min));
            chain(&[left.max(right), left.min(right)], &['-'])
        }
        Kind::Multiplication => {
            let operands: Vec<i64> = (0..terms).map(|_| operand(min)).collect();
            chain(&operands, &vec!['*'; terms - 1])
        }
        Kind::Addition | Kind::Sums => {
            let operands: Vec<i64> = (0..terms).map(|_| operand(min)).collect();
            chain(&operands, &vec!['+'; terms - 1])
        }
        Kind::Mixed => {
            let operands: Vec<i64> = (0..terms).map(|_| operand(min)).collect();
            let signs: Vec<char> = (1..terms).map(|_| if rng.below(2) == 0 { '+' } else { '-' }).collect();
            chain(&operands, &signs)
        }
    }
}

/// A chain of operations, from left to right.
fn chain(operands: &[i64], signs: &[char]) -> Result<Task> {
    let mut expression = operands[0].to_string();
    let mut total = i128::from(operands[0]);
    let mut steps = Vec::with_capacity(signs.len());
    for (&operand, &sign) in operands[1..].iter().zip(signs) {
        let step = format!("{total}{sign}{operand}");
        let operand_wide = i128::from(operand);
        let next = match sign {
            '+' => total.checked_add(operand_wide),
            '-' => total.checked_sub(operand_wide),
            _ => total.checked_mul(operand_wide),
        };
        let Some(next) = next else { bail!("results do not fit 128 bits: lower digits or terms") };
        expression.push_str(&format!(" {sign} {operand}"));
        total = next;
        steps.push((step, total));
    }
    Ok(Task { expression, operands: operands.to_vec(), answer: total, steps, terms: operands.len() })
}

fn problem(kind: Kind, options: &GeneratedConfig, form: &PromptForm, task: &Task, at: usize) -> Problem {
    let text = match options.style {
        Style::Bare if kind == Kind::Linear => format!("{},x=", task.expression.replace(' ', "")),
        Style::Bare => format!("{}=", task.expression.replace(' ', "")),
        Style::Question => {
            let question = options.question.as_deref().unwrap_or(match kind {
                Kind::Linear => "Solve {expression} for x. Answer with just the number.",
                _ => "What is {expression}? Answer with just the number.",
            });
            question.replace("{expression}", &task.expression)
        }
    };
    let mut meta = Map::new();
    meta.insert("kind".into(), json!(kind.name()));
    meta.insert("operands".into(), json!(task.operands));
    meta.insert("terms".into(), json!(task.terms));
    Problem {
        id: format!("{}:{at}", kind.name()),
        prompt: form.of_problem(&text, options.style == Style::Bare),
        text,
        answer: Some(task.answer.to_string()),
        meta,
    }
}

/// Draws `per_problem` different lengths by weight, without replacement.
fn demonstrations(mix: &Demonstrations, problem: &Problem, task: &Task, rng: &mut Rng) -> Vec<Example> {
    let mut weights = mix.weights();
    (0..mix.per_problem)
        .map(|_| {
            let total: f64 = weights.iter().sum();
            let mut left = rng.uniform() * total;
            // Rounding may leave a rest beyond the last weight: that one is taken then.
            let last = weights.iter().rposition(|weight| *weight > 0.0).unwrap_or(0);
            let length = weights
                .iter()
                .position(|weight| {
                    left -= weight;
                    left < 0.0
                })
                .unwrap_or(last);
            weights[length] = 0.0;
            let text = solution(task, length);
            let completion = match &problem.prompt {
                Prompt::Text(_) => Reply::Text(text),
                Prompt::Messages(_) => Reply::Messages(vec![Message::assistant(text)]),
            };
            let name = ["verbose", "terse", "direct"][length];
            let mut problem = problem.clone();
            problem.id = format!("{}:{name}", problem.id);
            Example::Completion { problem, completion }
        })
        .collect()
}

fn solution(task: &Task, length: usize) -> String {
    match length {
        0 => task.steps.iter().map(|(step, result)| format!("{step}={result}")).collect::<Vec<_>>().join(";"),
        1 => task.steps.iter().map(|(_, result)| result.to_string()).collect::<Vec<_>>().join(","),
        _ => task.answer.to_string(),
    }
}

#[cfg(test)]
mod tests;
