//! A benchmark rendered for one model: its prompts as text and tokens, and what is doubtful about them.

use anyhow::{Context, Result, anyhow, bail, ensure};
use candlewick_eval::benchmark::{self, Ask, Benchmark, Form, Item, Role, Shot, WORDINGS};
use candlewick_eval::contamination::Contamination;
use serde_json::Value;

use super::set::{self, Set, Training};
use crate::config::{AskForm, EvalConfig};
use crate::data::{self, DataConfig, Prompt, source::Source};
use crate::hub::Hub;
use crate::model::chat_template::Message;
use crate::train::policy::Policy;

/// Worked examples that a file gives when no number is named: what lm-evaluation-harness shows for gsm8k.
const SHOTS: usize = 5;

/// A benchmark with its problems, rendered for one model.
pub struct Exam {
    /// Name of the benchmark.
    pub name: String,
    /// Where the problems were read.
    pub source: String,
    /// Whether the problems are those held out of `[data]`, worded and graded as in training.
    pub is_held_out: bool,
    /// Whether the prompts have no reference answers: they are answered and not graded.
    pub is_open: bool,
    pub(super) benchmark: Box<dyn Benchmark>,
    pub(super) items: Vec<Item>,
    /// One a wording, that of the main results first.
    pub(super) asked: Vec<Asked>,
    pub(super) published: Option<usize>,
    pub(super) note: String,
    pub(super) form: Form,
    pub(super) shots: usize,
    pub(super) system: Option<String>,
    /// Length in tokens that the prompts tell.
    pub(super) told: Option<usize>,
    pub(super) stop: Vec<String>,
    pub(super) contamination: Option<Contamination>,
    pub(super) warnings: Vec<String>,
}

/// The prompts under one wording.
pub(super) struct Asked {
    pub(super) instruction: String,
    pub(super) prompts: Vec<Rendered>,
}

/// A prompt as the model gets it.
#[derive(Clone)]
pub(super) struct Rendered {
    pub(super) text: String,
    pub(super) ids: Vec<u32>,
    /// Whether it leaves no room for an answer in the model's context, so that it is not asked and counts as wrong.
    pub(super) is_too_long: bool,
}

/// The exams that `[eval]` names: benchmarks from the Hub (`gsm8k`) or a file (`gsm8k=FILE`), files and data sets of
/// one's own, generated problems, `validation`, the held-out part of `[data]`, or prompts without answers (`open:FILE`).
///
/// Problems that stand in `training` are taken out. `told` is the length in tokens that every prompt tells, if any.
/// Problems of a generator or of `[data]` are asked as training words them, but as plain text under the form `base` or
/// without a chat template. Errors: an unknown name with those there are; a record that cannot be read, with file and
/// line; no prompt with room for an answer; two exams of one name.
pub fn exams(
    policy: &Policy,
    eval: &EvalConfig,
    data: &DataConfig,
    training: Option<&Training>,
    told: Option<usize>,
) -> Result<Vec<Exam>> {
    let hub = Hub::from_env();
    let mut exams: Vec<Exam> = Vec::new();
    for name in &eval.benchmarks {
        let mut set = set::read(name, data, &hub)?;
        if let Some(training) = training {
            set.clean(training)?;
        }
        set.limit(eval.problems);
        let exam = Exam::render(policy, eval, &hub, set, told).map_err(|e| anyhow!("benchmark `{name}`: {e:#}"))?;
        ensure!(
            exams.iter().all(|other| other.name != exam.name),
            "two benchmarks are named `{}`: evaluate them apart, or rename a file",
            exam.name
        );
        exams.push(exam);
    }
    Ok(exams)
}

impl Exam {
    fn render(policy: &Policy, eval: &EvalConfig, hub: &Hub, mut set: Set, told: Option<usize>) -> Result<Self> {
        let has_template = policy.renderer.text(&Prompt::Messages(vec![Message::user("x")])).is_ok();
        let mut form = match (eval.form, has_template) {
            (AskForm::Base, _) | (AskForm::Auto, false) => Form::Base,
            (AskForm::Auto, true) => Form::Chat,
            (AskForm::Chat, true) => Form::Chat,
            (AskForm::Chat, false) => bail!("the checkpoint has no chat template: ask with `eval.form` = `base`"),
        };
        if form == Form::Base {
            set.entries.iter_mut().filter_map(|(_, own)| own.as_mut()).for_each(|own| *own = plain(own));
        } else if let Some((_, Some(prompt))) = set.entries.first() {
            form = if matches!(prompt, Prompt::Messages(_)) { Form::Chat } else { Form::Base };
        }
        ensure!(
            eval.wordings <= 1 || set.is_held_out || form == Form::Chat,
            "wordings vary the instruction of a chat, and a base prompt has none: ask with `eval.form` = `chat`, or set `eval.wordings` to 1"
        );
        ensure!(
            (1..=WORDINGS.len()).contains(&eval.wordings),
            "`eval.wordings` = {} is impossible: there are 1 to {}",
            eval.wordings,
            WORDINGS.len()
        );
        let shots = if set.is_held_out { None } else { shots(set.benchmark.as_ref(), eval, hub)? };
        let items: Vec<Item> = set.entries.iter().map(|(item, _)| item.clone()).collect();
        leaked(&items, shots.as_deref())?;
        let wordings = if set.is_held_out { 1 } else { eval.wordings };
        let (mut asked, mut stop) = (Vec::new(), Vec::new());
        for (wording, instruction) in WORDINGS.iter().enumerate().take(wordings) {
            let ask = Ask { form, shots: shots.clone(), wording, system: eval.system.clone() };
            let prompts = (set.entries.iter())
                .map(|(item, own)| match own {
                    Some(prompt) => rendered(policy, prompt, &item.id, told),
                    None => rendered(policy, &prompt_of(set.benchmark.prompt(item, &ask), &mut stop), &item.id, told),
                })
                .collect::<Result<Vec<_>>>()?;
            let has_instruction = form == Form::Chat && !set.is_held_out;
            let instruction = if has_instruction { (*instruction).to_owned() } else { String::new() };
            asked.push(Asked { instruction, prompts });
        }
        let own_shots = if form == Form::Base && !set.is_held_out { set.benchmark.shots().len() } else { 0 };
        let shots = shots.map_or(own_shots, |shots| shots.len());
        let mut warnings = warnings(policy, form, &asked[0].prompts);
        warnings.extend(too_long(policy.decoder.spec.max_positions, shots, &items, &asked)?);
        Ok(Self {
            warnings,
            shots,
            told,
            system: eval.system.clone().filter(|_| !set.is_held_out && form == Form::Chat),
            stop: stop.into_iter().chain(eval.stop.iter().cloned()).collect(),
            name: set.name,
            source: set.source,
            is_held_out: set.is_held_out,
            is_open: set.is_open,
            benchmark: set.benchmark,
            published: set.published,
            note: set.note,
            contamination: set.contamination,
            items,
            asked,
            form,
        })
    }

    /// Number of problems.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there are no problems; [`exams`] never gives such an exam.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}

/// The worked examples that `[eval]` asks for; `None` leaves them to the benchmark's habit.
fn shots(benchmark: &dyn Benchmark, eval: &EvalConfig, hub: &Hub) -> Result<Option<Vec<Shot>>> {
    let Some(file) = &eval.shots_from else {
        let Some(wanted) = eval.shots else { return Ok(None) };
        let mut own = benchmark.shots();
        ensure!(
            wanted <= own.len(),
            "`{}` has {} worked examples of its own, not {wanted}: name a file with more in `eval.shots_from`",
            benchmark.name(),
            own.len()
        );
        own.truncate(wanted);
        return Ok(Some(own));
    };
    let (wanted, mut shots) = (eval.shots.unwrap_or(SHOTS), Vec::new());
    'files: for path in Source::parse(file)?.files(hub, None)? {
        for row in data::read::rows(&path)? {
            if shots.len() == wanted {
                break 'files;
            }
            let (place, row) = row?;
            shots.push(benchmark.shot(&Value::Object(row), shots.len()).map_err(|e| set::at(&place, e))?);
        }
    }
    ensure!(shots.len() == wanted, "`{file}` holds {} worked examples, not {wanted}", shots.len());
    Ok(Some(shots))
}

/// A worked example must not give away a problem that is asked.
fn leaked(items: &[Item], shots: Option<&[Shot]>) -> Result<()> {
    for (at, shot) in shots.unwrap_or_default().iter().enumerate() {
        if let Some(item) = items.iter().find(|item| item.problem.trim() == shot.problem.trim()) {
            bail!("worked example {} is problem `{}` itself: take examples from a training file", at + 1, item.id);
        }
    }
    Ok(())
}

/// A benchmark's prompt in the data stage's words; what ends an answer goes to `stop`.
fn prompt_of(prompt: benchmark::Prompt, stop: &mut Vec<String>) -> Prompt {
    match prompt {
        benchmark::Prompt::Text { text, stop: ends } => {
            *stop = ends;
            Prompt::Text(text)
        }
        benchmark::Prompt::Chat(messages) => Prompt::Messages(
            messages
                .into_iter()
                .map(|m| match m.role {
                    Role::System => Message::system(m.content),
                    Role::User => Message::user(m.content),
                    Role::Assistant => Message::assistant(m.content),
                })
                .collect(),
        ),
    }
}

fn rendered(policy: &Policy, prompt: &Prompt, id: &str, told: Option<usize>) -> Result<Rendered> {
    let told = told.map(|tokens| policy.renderer.told(prompt, tokens));
    let prompt = told.as_ref().unwrap_or(prompt);
    let render = || -> Result<Rendered> {
        let (text, ids) = (policy.renderer.text(prompt)?, policy.renderer.prompt(prompt)?);
        let is_too_long = ids.len() >= policy.decoder.spec.max_positions;
        Ok(Rendered { text, ids, is_too_long })
    };
    render().with_context(|| format!("problem `{id}`"))
}

/// A conversation as text to be continued: what is said, without who says it.
fn plain(prompt: &Prompt) -> Prompt {
    match prompt {
        Prompt::Text(text) => Prompt::Text(text.clone()),
        Prompt::Messages(messages) => Prompt::Text(messages.iter().map(Message::text).collect::<Vec<_>>().join("\n\n")),
    }
}

/// That some prompts leave no room for an answer in a context of `room` tokens. Errors: none leaves any.
fn too_long(room: usize, shots: usize, items: &[Item], asked: &[Asked]) -> Result<Option<String>> {
    let is_too_long = |at: &usize| asked.iter().any(|asked| asked.prompts[*at].is_too_long);
    let all: Vec<usize> = (0..items.len()).filter(is_too_long).collect();
    let Some(first) = all.first() else { return Ok(None) };
    let fix = if shots > 0 { "show fewer worked examples (`eval.shots`)" } else { "use a model with a longer context" };
    ensure!(
        all.len() < items.len(),
        "each of the {} prompts leaves no room in the model's context of {room} tokens: {fix}",
        items.len()
    );
    Ok(Some(format!(
        "{} of {} prompts leave no room in the model's context of {room} tokens and count as unanswered, such as problem `{}` of {} tokens: {fix}",
        all.len(),
        items.len(),
        items[*first].id,
        asked[0].prompts[*first].ids.len()
    )))
}

/// What is doubtful about prompts rendered so.
fn warnings(policy: &Policy, form: Form, prompts: &[Rendered]) -> Vec<String> {
    let mut warnings = if form == Form::Chat { policy.renderer.warnings() } else { Vec::new() };
    let bos = policy.tokenizer().bos();
    let doubled = prompts.iter().filter(|p| p.ids.len() > 1 && Some(p.ids[0]) == bos && Some(p.ids[1]) == bos).count();
    if doubled > 0 {
        warnings.push(format!("{doubled} of {} prompts begin with two BOS tokens", prompts.len()));
    }
    warnings
}
