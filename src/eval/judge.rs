//! Win rates by judge: the answers of two models to the same problems meet, and a judge says which is better.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use candlewick_eval::metrics::{Contest, WinRate};
use candlewick_eval::sample::Completion;
use candlewick_rewards::reward::pairwise::{Duel, PairwiseJudge, PairwiseJudgeConfig, Preference, Unjudged};
use candlewick_rewards::{ConfigError, Item};
use tokio::runtime::Runtime;

use crate::train::account::progress;

/// File that keeps a judge's verdicts, unless its config names another.
const CACHE: &str = "pairwise-cache.jsonl";

/// A judge that is ready to compare.
pub struct WinJudge {
    judge: PairwiseJudge,
    runtime: Runtime,
    /// What a person should know, a line each.
    pub notes: Vec<String>,
}

/// What a judge made of two models' answers.
pub struct Judged {
    /// The win rate of the later model.
    pub rate: WinRate,
    /// Every contest.
    pub contests: Vec<Contest>,
}

impl WinJudge {
    /// Builds a judge and looks for its key; nothing is sent yet. Verdicts are kept in `folder` where the config names no
    /// cache and there is a folder. `section` is where the config stands (`eval.judge`), for messages.
    ///
    /// Errors: values that cannot be, with their key; a key that is not in the environment; a cache that cannot be used.
    pub fn new(config: &PairwiseJudgeConfig, section: &str, folder: Option<&Path>) -> Result<Self> {
        let mut config = config.clone();
        config.cache = config.cache.or_else(|| Some(folder?.join(CACHE)));
        let judge = config.build().map_err(|error| anyhow::anyhow!(in_section(&error, section)))?;
        let notes = judge.start().map_err(anyhow::Error::msg).context("the judge cannot be asked")?;
        Ok(Self { judge, runtime: Runtime::new().context("no threads for requests")?, notes })
    }

    /// Reads a judge's settings from a TOML file, and builds it.
    ///
    /// Errors: also a file that cannot be read or holds another key.
    pub fn from_file(path: &Path, folder: Option<&Path>) -> Result<Self> {
        let at = || format!("the judge's settings `{}`", path.display());
        let text =
            std::fs::read_to_string(path).map_err(|error| anyhow::anyhow!("{} cannot be read: {error}", at()))?;
        let config: PairwiseJudgeConfig =
            toml::from_str(&text).map_err(|error| anyhow::anyhow!("{}: {}", at(), error.to_string().trim()))?;
        Self::new(&config, "", folder).map_err(|error| anyhow::anyhow!("{}: {error:#}", at()))
    }

    /// The win rate of `own` against `baseline`: sample k of a problem meets the baseline's sample k, in both orders.
    /// Equal texts are ties and not asked about. `name` is the set's, for messages and progress.
    ///
    /// Errors: answers to other problems; no verdict at all, with the first failure.
    pub fn decide(&self, name: &str, baseline: &[Completion], own: &[Completion], seed: u64) -> Result<Judged> {
        let met = meet(name, baseline, own)?;
        let asked: Vec<&(&Completion, &Completion)> =
            met.iter().filter(|(a, b)| a.text.trim() != b.text.trim()).collect();
        let duels: Vec<Duel> = asked.iter().map(|(rival, own)| duel(rival, own)).collect();
        let bar = progress(duels.len() as u64, &format!("{name} judging"));
        let verdicts = self.runtime.block_on(self.judge.judge(&duels, &|| bar.inc(1)));
        bar.finish_and_clear();
        let mut verdicts = verdicts.into_iter();
        let contest = |(rival, own): &(&Completion, &Completion)| match rival.text.trim() == own.text.trim() {
            true => contest(rival, own, None),
            false => contest(rival, own, verdicts.next()),
        };
        let contests: Vec<Contest> = met.iter().map(contest).collect();
        let rate = WinRate::by_judge(self.judge.name(), &contests, seed)?;
        Ok(Judged { rate, contests })
    }
}

/// A refusal in the words of the place where the settings stand.
pub fn in_section(error: &ConfigError, section: &str) -> String {
    let prefix = if section.is_empty() { String::new() } else { format!("{section}.") };
    error.to_string().replace("reward.judge.", &prefix).replace("[reward.judge]", &format!("[{section}]"))
}

/// The answers of both that belong together, in the order of `own`; samples that only one side has are left out.
fn meet<'a>(
    name: &str,
    baseline: &'a [Completion],
    own: &'a [Completion],
) -> Result<Vec<(&'a Completion, &'a Completion)>> {
    let items = |all: &'a [Completion]| -> BTreeSet<&'a str> { all.iter().map(|c| c.item.as_str()).collect() };
    let (theirs, ours) = (items(baseline), items(own));
    if let Some(item) = ours.symmetric_difference(&theirs).next() {
        bail!("{name}: only one side answers problem `{item}`: compare reports on the same problems");
    }
    let by_place: HashMap<(&str, usize), &Completion> =
        baseline.iter().map(|one| ((one.item.as_str(), one.index), one)).collect();
    let met: Vec<_> =
        own.iter().filter_map(|own| Some((*by_place.get(&(own.item.as_str(), own.index))?, own))).collect();
    ensure!(!met.is_empty(), "{name}: there are no samples to compare");
    Ok(met)
}

fn duel(rival: &Completion, own: &Completion) -> Duel {
    let question = if own.problem.is_empty() { &own.prompt } else { &own.problem };
    let item = Item { id: own.item.clone(), question: question.clone(), prompt: own.prompt.clone(), ..Item::default() };
    Duel { item, own: own.text.clone(), rival: rival.text.clone() }
}

/// A contest of these answers; without a verdict their texts are equal.
fn contest(rival: &Completion, own: &Completion, verdict: Option<[Preference; 2]>) -> Contest {
    let is_identical = verdict.is_none();
    let scores = verdict.unwrap_or([Ok(0.5), Ok(0.5)]);
    let failure = scores.iter().find_map(|score| score.as_ref().err());
    Contest {
        item: own.item.clone(),
        index: own.index,
        tokens: own.tokens,
        baseline_tokens: rival.tokens,
        shown_first: scores[0].as_ref().ok().copied(),
        shown_second: scores[1].as_ref().ok().copied(),
        is_identical,
        is_unreadable: matches!(failure, Some(Unjudged::Unreadable(_))),
        failure: failure.map(ToString::to_string),
    }
}

/// Where the contests of a set against a baseline are written, below `folder`.
pub fn contests_file(folder: &Path, name: &str, baseline: &str) -> PathBuf {
    let plain = |text: &str| -> String {
        text.chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' }).collect()
    };
    folder.join(format!("contests_{}_against_{}.jsonl", plain(name), plain(baseline)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candlewick_eval::sample::Finish;

    fn answer(item: &str, index: usize, text: &str) -> Completion {
        Completion {
            item: item.into(),
            index,
            problem: String::new(),
            prompt: "p".into(),
            text: text.into(),
            tokens: text.len(),
            finish: Finish::Stop,
            logp: None,
            ids: Vec::new(),
        }
    }

    #[test]
    fn answers_meet_by_problem_and_sample() {
        let base = [answer("a", 0, "x"), answer("b", 0, "y"), answer("b", 1, "z")];
        let own = [answer("b", 0, "w"), answer("a", 0, "v"), answer("a", 1, "u")];
        let met = meet("set", &base, &own).unwrap();
        let texts: Vec<(&str, &str)> = met.iter().map(|(a, b)| (a.text.as_str(), b.text.as_str())).collect();
        assert_eq!(texts, [("y", "w"), ("x", "v")]);
        let error = meet("set", &base, &own[1..]).unwrap_err().to_string();
        assert_eq!(error, "set: only one side answers problem `b`: compare reports on the same problems");
        assert_eq!(meet("set", &[], &[]).unwrap_err().to_string(), "set: there are no samples to compare");
    }

    #[test]
    fn a_failure_is_missing_and_equal_texts_are_ties() {
        let (a, b) = (answer("a", 0, "x"), answer("a", 0, "yy"));
        let tie = contest(&a, &a, None);
        assert!(tie.is_identical && tie.shown_first == Some(0.5) && tie.failure.is_none());
        let failed = contest(&a, &b, Some([Ok(1.0), Err(Unjudged::Unreadable("so so".into()))]));
        assert_eq!((failed.shown_first, failed.shown_second, failed.is_unreadable), (Some(1.0), None, true));
        assert_eq!(failed.failure.as_deref(), Some("no verdict in the judge's reply `so so`"));
        assert_eq!((failed.tokens, failed.baseline_tokens), (2, 1));
    }
}
