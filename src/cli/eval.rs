//! `candlewick eval`.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use candlewick::config::{
    AskForm, BudgetWord, Config, Device, DiscreteConfig, Dtype, EvalBudget, EvalConfig, ModelConfig,
};
use candlewick::data::{self, DataConfig};
use candlewick::eval::{self, Answered, Exam, Outcome, Sitting, Training};
use candlewick::hub::Hub;
use candlewick::train::evaluate::line;
use candlewick::train::policy::Policy;
use candlewick::train::{Interrupted, listen_for_stop};
use candlewick_eval::report::table;
use candlewick_eval::sample::Completion;
use candlewick_rewards::reward::math::MathConfig;
use regex::Regex;

use self::earlier::{Earlier, Held, Plan};
use super::Usage;

mod earlier;

/// Test a checkpoint on benchmarks, and write a report that says how sure it is.
///
/// A benchmark is a name (`gsm8k`), a name with a local file (`gsm8k=test.jsonl`), a file or data set of one's own with a
/// problem and an answer field, or a generator (`generated:sums`). Prompts without answers, such as those of preference
/// pairs, are asked as `open:FILE` and not graded: `candlewick compare --win-rate judge` lets a judge compare two such
/// reports. An evaluation that Ctrl-C stopped ends with status 130 and goes on where it was when the same command is given
/// again. For example:
///
/// candlewick eval runs/sums/checkpoints/40 -b gsm8k=test.jsonl --samples 8 --temperature 0.7 --train train.jsonl
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// A folder with a checkpoint or an adapter, or the name of one on the Hub.
    model: String,
    /// A benchmark; may be given several times.
    #[arg(short, long = "benchmark", value_name = "NAME|FILE", required = true)]
    benchmarks: Vec<String>,
    #[command(flatten)]
    decoding: Decoding,
    #[command(flatten)]
    asking: Asking,
    #[command(flatten)]
    honesty: Honesty,
    /// Short name of the model in the report; made from its path if not given.
    #[arg(long)]
    label: Option<String>,
    /// Folder for the report; `reports/<label>` if not given.
    #[arg(long)]
    output: Option<PathBuf>,
    /// Write over a report that is there, or begin anew where an evaluation with other settings was stopped.
    #[arg(long)]
    force: bool,
    /// Branch, tag or commit on the Hub.
    #[arg(long)]
    revision: Option<String>,
    /// `auto`, `cpu`, `cuda` or `cuda:N`.
    #[arg(long, default_value_t = Device::Auto)]
    device: Device,
}

#[derive(clap::Args)]
#[command(next_help_heading = "Decoding")]
struct Decoding {
    /// Problems to take of each benchmark, the same ones each time; all if not given.
    #[arg(long)]
    problems: Option<usize>,
    /// Completions for each problem.
    #[arg(long, default_value_t = 1)]
    samples: usize,
    /// Temperature; 0 takes the most likely token.
    #[arg(long, default_value_t = 0.0)]
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
    /// Most tokens of a completion.
    #[arg(long, default_value_t = 512)]
    limit: usize,
    /// A text that ends a completion; may be given several times.
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Length in tokens that the prompts tell; nothing if not given.
    #[arg(long, value_name = "TOKENS")]
    told: Option<usize>,
    /// Seed of the samples.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// k of pass@k, maj@k and G-Pass@k, as in `1,8`; powers of two up to the samples if not given.
    #[arg(long, value_name = "K,K", value_delimiter = ',')]
    pass_at: Vec<usize>,
    /// Completions decoded together; changes speed and memory, never a result.
    #[arg(long, default_value_t = eval::sit::ROWS)]
    rows: usize,
    #[command(flatten)]
    soft: super::soft::Thinking,
}

#[derive(clap::Args)]
#[command(next_help_heading = "Asking")]
struct Asking {
    /// `chat` for the chat template, `base` for text to be continued, `auto` for what the checkpoint has. Generated
    /// problems and those of `--config` are asked as in training, or as plain text with `base` or without a template.
    #[arg(long, default_value = "auto")]
    form: AskForm,
    /// Worked examples before each problem.
    #[arg(long)]
    shots: Option<usize>,
    /// Take the worked examples from the first records of this file.
    #[arg(long, value_name = "FILE")]
    shots_from: Option<String>,
    /// Wordings of the instruction to test under, up to 6: mean, worst and spread are reported.
    #[arg(long, default_value_t = 1)]
    wordings: usize,
    /// System prompt.
    #[arg(long)]
    system: Option<String>,
    /// Field of a file that holds the problem, where it has no usual name.
    #[arg(long, value_name = "FIELD")]
    problem_field: Option<String>,
    /// Field of a file that holds the answer, where it has no usual name.
    #[arg(long, value_name = "FIELD")]
    answer_field: Option<String>,
    /// Take `[data]` and the `math` reward of this config: for `validation`, for generators, and as training data.
    #[arg(long, value_name = "CONFIG")]
    config: Option<PathBuf>,
}

#[derive(clap::Args)]
#[command(next_help_heading = "Honesty and gates")]
struct Honesty {
    /// Training data; problems that stand in it are taken out of the benchmarks.
    #[arg(long, value_name = "FILE")]
    train: Option<String>,
    /// Compare with this earlier report on the same problems; may be given several times.
    #[arg(long, value_name = "REPORT")]
    against: Vec<PathBuf>,
    /// Fail with exit status 1 if the accuracy on any benchmark is below this share, as in 0.4.
    #[arg(long, value_name = "SHARE")]
    fail_below: Option<f64>,
    /// Compare with this report, and fail with exit status 1 if a benchmark became worse.
    #[arg(long, value_name = "REPORT")]
    fail_if_worse_than: Option<PathBuf>,
    /// Let `--fail-if-worse-than` compare models that were asked otherwise: with another temperature, limit or form.
    #[arg(long, requires = "fail_if_worse_than")]
    allow_different_protocol: bool,
}

/// Runs the tests, writes the report and applies the gates.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    // 1. What needs no weights.
    let settings = settings(arguments)?;
    let earlier = Earlier::read(&arguments.honesty)?;
    let label = arguments.label.clone().unwrap_or_else(|| label(&arguments.model));
    let output = arguments.output.clone().unwrap_or_else(|| Path::new("reports").join(&label));
    if output.join("report.json").exists() && !arguments.force {
        let message = format!("{} holds a report already: name another `--output`, or add `--force`", output.display());
        return Err(Usage(message).into());
    }
    let (data, reward) = data_of(arguments)?;
    let training = training(arguments, &data)?;

    // 2. The model, and the problems as it will see them.
    let model = ModelConfig {
        revision: arguments.revision.clone(),
        device: arguments.device,
        dtype: Dtype::F32,
        ..ModelConfig::named(&arguments.model)
    };
    let policy = Policy::load(&model, &data)?;
    let exams = eval::exams(&policy, &settings, &data, training.as_ref(), arguments.decoding.told).map_err(in_flags)?;
    let seed = arguments.decoding.seed;
    let mut identity = eval::identity::identity(&policy, &policy.folder, &label, arguments.revision.as_deref(), seed)?;
    identity.date = eval::identity::now();
    let weights = identity.adapter_sha256.iter().chain(&identity.weights_sha256).cloned().collect::<Vec<_>>().join(" ");
    let sittings = exams.iter().map(|exam| {
        let (grader, must_finish) = eval::sit::grader(exam, reward.as_ref());
        let name: String = exam.name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        let ks = (!arguments.decoding.pass_at.is_empty()).then(|| arguments.decoding.pass_at.clone());
        let journal = Some(output.join("unfinished").join(format!("{name}.jsonl")));
        let (cap, rows, model) = (arguments.decoding.limit, arguments.decoding.rows, weights.clone());
        Sitting { eval: &settings, cap, seed, rows, grader, must_finish, ks, journal, model }
    });
    let sittings: Vec<Sitting> = sittings.collect();

    // 3. What would go wrong only after hours of sampling.
    let plans: Vec<Plan> = (exams.iter().zip(&sittings))
        .filter(|(exam, _)| !exam.is_open)
        .map(|(exam, sitting)| Plan {
            name: &exam.name,
            problems: exam.len(),
            sha256: eval::report::problems_sha256(exam),
            protocol: eval::report::protocol(&policy, exam, sitting),
            samples: settings.samples,
            template: identity.template_sha256.as_deref(),
        })
        .collect();
    let allows_different = arguments.honesty.allow_different_protocol;
    let held = earlier.iter().map(|earlier| earlier.held(&plans, allows_different));
    let held: Vec<Held> = held.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
    drop(plans);
    for (exam, sitting) in exams.iter().zip(&sittings) {
        take_over(exam, sitting, arguments.force)?;
    }

    // 4. The answers.
    listen_for_stop("stopping");
    let (mut outcomes, mut answered): (Vec<Outcome>, Vec<Answered>) = Default::default();
    let stopped = || {
        super::note("the evaluation was stopped: the same command goes on from there");
        Interrupted
    };
    for (exam, sitting) in exams.iter().zip(&sittings) {
        if exam.is_open {
            answered.push(exam.answer(&policy, sitting)?.ok_or_else(stopped)?);
            continue;
        }
        let outcome = exam.sit(&policy, sitting)?.ok_or_else(stopped)?;
        super::note(&flags(&line(&outcome)));
        outcomes.push(outcome);
    }

    // 5. The report, whatever comes of the comparisons.
    let mut sat = eval::report::Sat::default();
    let (mut graded, mut open) = (outcomes.iter(), answered.iter());
    for (exam, sitting) in exams.iter().zip(sittings) {
        match exam.is_open {
            true => sat.open.extend(open.next().map(|own| (exam, sitting, own))),
            false => sat.graded.extend(graded.next().map(|outcome| (exam, sitting, outcome))),
        }
    }
    let (mut report, samples) = eval::report::report(&policy, identity, &sat, None)?;
    drop(sat);
    let warnings = report.benchmarks.iter_mut().flat_map(|entry| &mut entry.warnings);
    let warnings = warnings.chain(report.open.iter_mut().flat_map(|set| &mut set.warnings));
    warnings.for_each(|warning| *warning = flags(warning));
    let names: Vec<String> = exams.iter().map(|exam| exam.name.clone()).collect();
    report.notes.extend(eval::report::chosen_on(&policy.folder, &names));
    let notes = earlier::not_compared(&report, &earlier);
    report.notes.extend(notes);
    let is_held = earlier::hold(&mut report, &held, &samples, seed);
    let written = report.write(&output, &samples, None)?;
    let completions: Vec<Vec<Completion>> = answered.into_iter().map(|own| own.completions).collect();
    report.write_open(&output, &completions)?;
    // What the journals held stands in the report now.
    let _ = std::fs::remove_dir_all(output.join("unfinished"));
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}\nreport  {}", table(&report), written.html.display())?;
    is_held?;
    earlier::gates(&report, &arguments.honesty, &held, |line| drop(writeln!(out, "{line}")))
}

/// Says what an exam will ask, and what of it a stopped evaluation has answered already.
///
/// Errors: a stopped evaluation under other settings, whose completions would be lost, unless `force` is given.
fn take_over(exam: &Exam, sitting: &Sitting, force: bool) -> Result<()> {
    let (kept, total) = exam.kept(sitting);
    super::note(&format!("{}: {} problems, {total} completions", exam.name, exam.len()));
    if kept > 0 {
        super::note(&format!("{}: {kept} of {total} completions are taken over from a stopped evaluation", exam.name));
    }
    let (Some((lost, differences)), Some(journal)) = (exam.loss(sitting), &sitting.journal) else { return Ok(()) };
    let path = journal.display();
    if !force {
        return Err(Usage(format!(
            "`{path}` holds {lost} completions of a stopped evaluation under other settings: {differences}: give the settings it had to go on, or add `--force` to begin anew"
        ))
        .into());
    }
    super::note(&format!(
        "{}: {lost} completions of a stopped evaluation under other settings are thrown away: {differences}",
        exam.name
    ));
    std::fs::remove_file(journal).with_context(|| format!("{path} cannot be removed"))
}

/// A message in the words of this command: `--limit` where a config says `eval.limit`.
fn flags(message: &str) -> String {
    let key = Regex::new(r"`(eval|data\.columns)\.(\w+)`(?: = `(\w+)`)?").expect("a valid pattern");
    let flag = |found: &regex::Captures| {
        let name = found[2].replace('_', "-");
        let value = found.get(3).map_or(String::new(), |value| format!(" {}", value.as_str()));
        let field = if &found[1] == "eval" { "" } else { "-field" };
        format!("`--{name}{field}{value}`")
    };
    key.replace_all(message, flag).into_owned()
}

/// An error in the words of this command, cause by cause.
fn in_flags(error: anyhow::Error) -> anyhow::Error {
    let lines: Vec<String> = error.chain().map(|cause| flags(&cause.to_string())).collect();
    let mut lines = lines.into_iter().rev();
    let innermost = anyhow!(lines.next().unwrap_or_default());
    lines.fold(innermost, |error, line| error.context(line))
}

/// The `[eval]` section that the arguments stand for. Errors: what can never work, before anything is loaded.
fn settings(arguments: &Arguments) -> Result<EvalConfig> {
    let (decoding, asking) = (&arguments.decoding, &arguments.asking);
    let refuse = |message: String| -> Result<EvalConfig> { Err(Usage(message).into()) };
    for name in &arguments.benchmarks {
        if let Err(error) = eval::check(name) {
            return refuse(flags(&format!("{error:#}")));
        }
    }
    let n = decoding.samples;
    if n == 0 || decoding.limit == 0 || decoding.rows == 0 || decoding.problems == Some(0) {
        return refuse("`--samples`, `--limit`, `--rows` and `--problems` are at least 1".into());
    }
    if asking.wordings > 1 && asking.form == AskForm::Base {
        return refuse(
            "wordings vary the instruction of a chat, and a base prompt has none: leave out `--wordings`".into(),
        );
    }
    if n > 1 && decoding.temperature == 0.0 {
        return refuse(format!(
            "{n} samples at temperature 0 are the same completion {n} times: set `--temperature` above 0, or `--samples` to 1"
        ));
    }
    if let Some(k) = decoding.pass_at.iter().find(|k| **k == 0 || **k > n) {
        return refuse(candlewick_eval::Error::TooFewSamples { k: *k, n }.to_string());
    }
    if let Some(share) = arguments.honesty.fail_below.filter(|share| !(0.0..=1.0).contains(share)) {
        return refuse(format!("`--fail-below` {share} is no share: give a number from 0 to 1, as 0.4 for 40 %"));
    }
    let is_open = |name: &String| name.starts_with(eval::OPEN);
    let honesty = &arguments.honesty;
    let holds = !honesty.against.is_empty() || honesty.fail_if_worse_than.is_some() || honesty.fail_below.is_some();
    if holds && arguments.benchmarks.iter().all(is_open) {
        return refuse(
            "open prompts have no accuracy to compare or to gate: compare two reports by `candlewick compare --win-rate judge`".into(),
        );
    }
    if arguments.benchmarks.iter().any(|name| name == "validation" || name == "open:validation")
        && asking.config.is_none()
    {
        return refuse(
            "`validation` is the held-out part of a config's `[data]`: name the config with `--config`".into(),
        );
    }
    let tokens = DiscreteConfig {
        temperature: decoding.temperature,
        top_k: decoding.top_k,
        top_p: decoding.top_p,
        min_p: decoding.min_p,
        stop: Vec::new(),
    };
    let settings = EvalConfig {
        soft: None,
        benchmarks: arguments.benchmarks.clone(),
        problems: decoding.problems,
        samples: n,
        temperature: decoding.temperature,
        top_k: decoding.top_k,
        top_p: decoding.top_p,
        min_p: decoding.min_p,
        limit: Some(decoding.limit),
        stop: decoding.stop.clone(),
        form: asking.form,
        shots: asking.shots,
        shots_from: asking.shots_from.clone(),
        wordings: asking.wordings,
        system: asking.system.clone(),
        budget: decoding.told.map_or(EvalBudget::Word(BudgetWord::None), EvalBudget::Tokens),
        every: 0,
        judge: None,
    };
    if let Some(reason) = settings.impossible() {
        return refuse(flags(&reason));
    }
    Ok(EvalConfig { soft: decoding.soft.config(&tokens)?, ..settings })
}

fn data_of(arguments: &Arguments) -> Result<(DataConfig, Option<MathConfig>)> {
    let (mut data, mut reward) = (DataConfig::default(), None);
    if let Some(path) = &arguments.asking.config {
        let config = Config::load(path, &[])?.config;
        data = config.data;
        reward = config.reward.and_then(|rewards| rewards.math);
    }
    let columns = &mut data.columns;
    columns.problem = arguments.asking.problem_field.clone().or(columns.problem.take());
    columns.answer = arguments.asking.answer_field.clone().or(columns.answer.take());
    Ok((data, reward))
}

fn training(arguments: &Arguments, data: &DataConfig) -> Result<Option<Training>> {
    let hub = Hub::from_env();
    let dataset = match (&arguments.honesty.train, &arguments.asking.config) {
        (Some(source), _) => data::load_source(&DataConfig::default(), &hub, source)
            .with_context(|| format!("the training data `{source}` cannot be read"))?,
        (None, Some(_)) => data::load(data, &hub, data::Split::Train)?,
        (None, None) => return Ok(None),
    };
    Ok(Some(Training(dataset)))
}

/// `runs/sums/checkpoints/40` is `sums-40`; any other path its last part.
fn label(model: &str) -> String {
    let parts: Vec<&str> =
        model.trim_end_matches('/').split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    match parts.as_slice() {
        [.., run, "checkpoints", step] => format!("{run}-{step}"),
        [.., last] => (*last).to_owned(),
        [] => "model".to_owned(),
    }
}
