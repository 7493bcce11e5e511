//! What a run reads before its model's weights: the model's shape, the data, and whatever else its config names.
//!
//! A run and `candlewick check` look at the same things here, so that what a run would refuse is refused before a
//! weight is loaded, with the key of the config that is wrong.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use candlewick_rewards::{Rewards, RewardsConfig};

use super::evaluate::VALIDATION;
use super::examples::Examples;
use super::{check_model, lengths, offline, probe};
use crate::config::{Config, Kind, Online, Refusal};
use crate::data::render::Renderer;
use crate::data::source::Source;
use crate::data::{self, DataConfig, Dataset, Example, Split, Validation};
use crate::eval::OPEN;
use crate::hub::{Hub, HubError, Weights};
use crate::model::chat_template::ChatTemplate;
use crate::model::lora;
use crate::model::memory::Lengths;
use crate::model::spec::DecoderSpec;
use crate::model::tokenizer::Tokenizer;

/// How far a look goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Data on the Hub are taken to be there.
    ThisMachine,
    /// Data on the Hub are fetched.
    Hub,
}

/// What was found.
pub struct Inputs {
    /// The model's shape.
    pub spec: DecoderSpec,
    /// The reference's, where it is a model of its own.
    pub reference: Option<DecoderSpec>,
    /// The training data; `None` where they are on the Hub and were not fetched.
    pub dataset: Option<Dataset>,
    /// How long prompts or examples are.
    pub lengths: Lengths,
    /// Rewards that are models, with their shapes.
    pub reward_models: Vec<(&'static str, DecoderSpec)>,
    /// What a person should know of the data.
    pub notes: Vec<String>,
    /// Whether the held-out rows can be graded, so that `validation` is a benchmark.
    has_answers: bool,
}

impl Inputs {
    /// Looks at everything that a config names, but weights.
    ///
    /// Errors: a [`Refusal`] for what is not there or cannot be used; a [`HubError`] for a fetch that failed midway.
    pub fn gather(config: &Config, reach: Reach) -> Result<Self> {
        // 1. Models, by their `config.json`.
        let (spec, folder) = shape(&config.model.path, config.model.revision.as_deref(), "model.path")?;
        check_model(config, &spec).map_err(|error| Refusal::command(format!("{error:#}")))?;
        let reference = check_reference(config, &spec, &folder)?;
        let reward_models = config.reward.as_ref().map_or(Ok(Vec::new()), reward_models)?;

        // 2. Other programs and files.
        check_programs(config)?;
        if let Some(path) = &config.data.probe {
            probe::read(path).map_err(|error| Refusal::key("data.probe", format!("{error:#}")))?;
        }
        for name in &config.eval.benchmarks {
            crate::eval::check_file(name, &config.data).map_err(|error| refused("eval.benchmarks", error))?;
        }

        // 3. The data, and what the run makes of their first rows.
        let mut dataset = read(config, reach)?;
        let mut notes = Vec::new();
        let rewards = match config.kind() {
            Kind::Online(online) => Some(online.reward),
            Kind::Offline(offline) if offline.train.regenerate.is_some() => config.reward.as_ref(),
            Kind::Offline(_) => None,
        };
        if let (Some(dataset), Some(rewards)) = (&mut dataset, rewards) {
            dataset.check_problems().map_err(|error| refused("data.train", error))?;
            notes.extend(drop_unanswered(dataset, rewards)?);
        }
        let has_answers = has_answers(config, reach)?;
        if !has_answers {
            notes.push("no held-out row has an answer to grade by: `validation` is left out of the benchmarks".into());
        }
        let renderer = renderer(config, &spec, &folder)?;
        let lengths = match (&dataset, &renderer) {
            (Some(dataset), Some(renderer)) => {
                let context = spec.max_positions;
                check_examples(config, dataset, renderer, context).map_err(|error| refused("data.train", error))?;
                lengths::of(config, dataset, renderer, context).map_err(|error| refused("data.train", error))?
            }
            _ => Lengths::assumed(config),
        };
        Ok(Self { spec, reference, dataset, lengths, reward_models, notes, has_answers })
    }

    /// The config with those of its benchmarks that can be graded.
    pub fn graded(&self, config: &Config) -> Config {
        let mut graded = config.clone();
        graded.eval.benchmarks.retain(|name| self.has_answers || name != VALIDATION);
        graded
    }
}

/// A refused key, unless the fault is the network's.
fn refused(key: &str, error: anyhow::Error) -> anyhow::Error {
    match error.downcast_ref::<HubError>() {
        Some(hub) if !hub.is_refusal() => error,
        _ => Refusal::key(key, format!("{error:#}")).into(),
    }
}

/// A model's shape, from its `config.json` alone, and the folder that its tokenizer stands in; `key` names the model.
pub fn shape(path: &str, revision: Option<&str>, key: &str) -> Result<(DecoderSpec, PathBuf)> {
    let hub = Hub::from_env();
    let find = || -> Result<(DecoderSpec, PathBuf)> {
        let folder = hub.model(path, revision, Weights::Skip)?;
        if !lora::is_adapter(&folder) {
            return Ok((DecoderSpec::read(&folder)?, folder));
        }
        let (_, base) = lora::read_config(&folder)?;
        let base = base.ok_or_else(|| anyhow::anyhow!("{}: the adapter names no base model", folder.display()))?;
        let base = hub.model(&base, None, Weights::Skip)?;
        let has_own = folder.join("tokenizer.json").is_file();
        Ok((DecoderSpec::read(&base)?, if has_own { folder } else { base }))
    };
    find().map_err(|error| refused(key, error))
}

/// The reference is there, and reads the policy's tokens; its shape, where a path names it.
fn check_reference(config: &Config, policy: &DecoderSpec, texts: &Path) -> Result<Option<DecoderSpec>> {
    const KEY: &str = "model.reference.path";
    let Some(reference) = &config.model.reference else { return Ok(None) };
    let Some(path) = reference.path.as_ref().filter(|path| !path.ends_with(".gguf")) else { return Ok(None) };
    let (spec, folder) = shape(path, reference.revision.as_deref(), KEY)?;
    if spec.vocab_size != policy.vocab_size {
        let message = format!(
            "the reference's vocabulary of {} is not the policy's of {}: choose a reference of the same family",
            spec.vocab_size, policy.vocab_size
        );
        return Err(Refusal::key(KEY, message).into());
    }
    let other = other_token(texts, &folder).map_err(|error| refused(KEY, error))?;
    if let Some((token, id, found)) = other {
        let found = found.map_or("does not have it".to_owned(), |found| format!("has it as {found}"));
        let message = format!(
            "the policy's token `{token}` is number {id} and the reference {found}: both must share the tokenizer, choose a reference of the same family"
        );
        return Err(Refusal::key(KEY, message).into());
    }
    Ok(Some(spec))
}

/// A token of the policy that is another one of the reference, the least by number; where both have a tokenizer.
fn other_token(policy: &Path, reference: &Path) -> Result<Option<(String, u32, Option<u32>)>> {
    let has_one = |folder: &Path| folder.join("tokenizer.json").is_file();
    if !has_one(policy) || !has_one(reference) || policy == reference {
        return Ok(None);
    }
    let vocabulary = |folder: &Path| Ok::<_, anyhow::Error>(Tokenizer::from_folder(folder)?.vocabulary());
    let (own, theirs) = (vocabulary(policy)?, vocabulary(reference)?);
    let differing = own.into_iter().filter(|(token, id)| theirs.get(token) != Some(id));
    Ok(differing.min_by_key(|(_, id)| *id).map(|(token, id)| {
        let found = theirs.get(&token).copied();
        (token, id, found)
    }))
}

fn reward_models(rewards: &RewardsConfig) -> Result<Vec<(&'static str, DecoderSpec)>> {
    let named = [
        ("reward_model", rewards.reward_model.as_ref().map(|r| (&r.path, &r.revision))),
        ("verifier", rewards.verifier.as_ref().map(|r| (&r.path, &r.revision))),
    ];
    let named = named.into_iter().filter_map(|(name, at)| Some((name, at?)));
    named
        .map(|(name, (path, revision))| Ok((name, shape(path, revision.as_deref(), &format!("reward.{name}.path"))?.0)))
        .collect()
}

/// The program of a reward of one's own is there; it is not started.
fn check_programs(config: &Config) -> Result<()> {
    let command = config.reward.as_ref().and_then(|rewards| rewards.command.as_ref());
    let Some(program) = command.and_then(|command| command.program.first()) else { return Ok(()) };
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let is_there = match program.contains('/') {
        true => Path::new(program).is_file(),
        false => std::env::split_paths(&folders).any(|folder| folder.join(program).is_file()),
    };
    if !is_there {
        let message = format!("`{program}` cannot be started: there is no such program on this machine");
        return Err(Refusal::key("reward.command.program", message).into());
    }
    Ok(())
}

/// The training data, those held out taken away.
fn read(config: &Config, reach: Reach) -> Result<Option<Dataset>> {
    let hub = Hub::from_env();
    let is_remote = |key: &str, name: &str| -> Result<bool> {
        Ok(Source::parse(name).map_err(|error| refused(key, error))?.is_remote())
    };
    let mut data = config.data.clone();
    if let Some(Validation::Source(name)) = &config.data.validation {
        if !is_remote("data.validation", name)? {
            data::load(&data, &hub, Split::Validation).map_err(|error| refused("data.validation", error))?;
        } else if reach == Reach::ThisMachine {
            data.validation = None;
        }
    }
    if is_remote("data.train", data.train.as_deref().unwrap_or_default())? && reach == Reach::ThisMachine {
        return Ok(None);
    }
    let whole = DataConfig { validation: None, ..data.clone() };
    data::load(&data, &hub, Split::Train).map(Some).map_err(|error| {
        // Data that can be read as a whole are not at fault where a part of them cannot be had.
        let is_split = data.validation.is_some() && data::load(&whole, &hub, Split::Train).is_ok();
        refused(if is_split { "data.validation" } else { "data.train" }, error)
    })
}

/// Whether the benchmark `validation` can be graded, if there is one: given examples, such as pairs, may come without answers.
///
/// Errors: answers for some held-out rows only, or for none where rollouts are graded.
fn has_answers(config: &Config, reach: Reach) -> Result<bool> {
    let own = match &config.data.validation {
        Some(Validation::Source(name)) => Some(name),
        _ => None,
    };
    let is_remote = |name: &String| Source::parse(name).is_ok_and(|source| source.is_remote());
    let is_unread =
        reach == Reach::ThisMachine && [config.data.train.as_ref(), own].into_iter().flatten().any(is_remote);
    if is_unread || !config.eval.benchmarks.iter().any(|name| name == VALIDATION) {
        return Ok(true);
    }
    let held_out = data::load(&config.data, &Hub::from_env(), Split::Validation);
    let problems =
        held_out.and_then(|held_out| held_out.problems()).map_err(|error| refused("data.validation", error))?;
    let Some(bare) = problems.iter().find(|problem| problem.answer.is_none()) else { return Ok(true) };
    if matches!(config.kind(), Kind::Offline(_)) && problems.iter().all(|problem| problem.answer.is_none()) {
        return Ok(false);
    }
    let message = format!(
        "held-out row `{}` has no answer to grade by: take `{VALIDATION}` out, or ask as `{OPEN}{VALIDATION}` what a judge is to compare",
        bare.id
    );
    Err(Refusal::key("eval.benchmarks", message).into())
}

/// Takes out problems whose every completion would fail to be scored; the line that says how many.
fn drop_unanswered(dataset: &mut Dataset, rewards: &RewardsConfig) -> Result<Option<String>> {
    // No reward at all is an objective of its own kind, and asks for no answer.
    let Some(rewards) = Rewards::new(rewards).ok() else { return Ok(None) };
    let Some(reward) = rewards.needs_answer() else { return Ok(None) };
    let is_answered = |example: &Example| {
        example.problem().and_then(|problem| problem.answer.as_ref()).is_some_and(|answer| !answer.trim().is_empty())
    };
    let total = dataset.len();
    let keep: Vec<bool> = dataset.iter().map(|row| Ok(is_answered(row?.as_ref()))).collect::<Result<_>>()?;
    let Some(first) = keep.iter().position(|is_kept| !is_kept) else { return Ok(None) };
    let first = dataset.get(first)?.id().to_owned();
    dataset.retain(&keep);
    if dataset.is_empty() {
        let message = format!(
            "no problem of `{}` has a reference answer, which reward `{reward}` needs: name its field in `data.columns.answer`",
            dataset.source
        );
        return Err(Refusal::key("data.train", message).into());
    }
    Ok(Some(format!(
        "{} of {total} problems have no reference answer, which reward `{reward}` needs: they are left out, first `{first}`",
        total - dataset.len()
    )))
}

/// A step asks for no more different prompts than there are.
pub fn check_pool(online: &Online, pool: usize) -> Result<()> {
    let variant = online.prompts.variant();
    let per_step = online.prompts.build()?.per_step();
    // Pairing takes as many pairs as it finds.
    if variant != "pairing" && per_step > pool {
        let message = format!(
            "a step wants {per_step} different prompts and the training set holds {pool}: lower `per_step` to at most {pool}, or add data"
        );
        return Err(Refusal::key(format!("prompts.{variant}.per_step"), message).into());
    }
    Ok(())
}

/// Tokenizer and template of a model's folder; `None` where it has none, which a model without weights may lack too.
fn renderer(config: &Config, spec: &DecoderSpec, folder: &Path) -> Result<Option<Arc<Renderer>>> {
    if !folder.join("tokenizer.json").is_file() {
        return Ok(None);
    }
    let make = || -> Result<Arc<Renderer>> {
        let tokenizer = Tokenizer::from_folder(folder)?;
        tokenizer.check_vocab(spec.vocab_size)?;
        let template = ChatTemplate::from_folder(folder, tokenizer.special().clone())?;
        Ok(Arc::new(Renderer::new(&config.data, tokenizer, template, serde_json::Map::new(), None)))
    };
    make().map(Some).map_err(|error| refused("model.path", error))
}

/// The first rows are of a form that the objective learns from, and can be rendered.
fn check_examples(config: &Config, dataset: &Dataset, renderer: &Arc<Renderer>, context: usize) -> Result<()> {
    let Kind::Offline(offline) = config.kind() else { return Ok(()) };
    if !offline.reads_given_answers() {
        return Ok(());
    }
    let objective = config.objective.build()?;
    let reading = offline::reading(config, &offline, objective.as_ref(), context);
    let few = dataset.first(lengths::ROWS)?;
    match few.len() == dataset.len() {
        true => Examples::read(few, renderer, &reading).map(drop),
        false => Examples::check_rows(&few, renderer, &reading),
    }
}
