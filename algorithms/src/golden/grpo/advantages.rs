//! Advantages from rewards.

use serde_json::Value;

use super::TOLERANCE;
use crate::advantage::mix::Mix;
use crate::advantage::{AdvantageConfig, batch, group, none, nsr, opo, psr, rfpp, rfpp_baseline, rloo, w_reinforce};
use crate::batch::Verdict;
use crate::golden::{Case, Fields, all_close, rows, vector};
use crate::{Batch, Table};

/// Rewards of a batch as [P,G] rows, or flat with a column that names groups.
pub(super) struct Rewards {
    values: Vec<f64>,
    groups: Vec<usize>,
    /// Entries a row of the file.
    shape: Vec<usize>,
}

impl Rewards {
    fn nested(value: &Value) -> Self {
        let rows = rows(value);
        let groups = rows.iter().enumerate().flat_map(|(p, row)| vec![p; row.len()]).collect();
        Self { shape: rows.iter().map(Vec::len).collect(), values: rows.concat(), groups }
    }

    pub(super) fn read(value: &Value, inputs: &Fields) -> Self {
        if value.get(0).is_some_and(Value::is_array) {
            return Self::nested(value);
        }
        let values = vector(value);
        let groups = match inputs.find(&["group_ids", "prompt_ids", "groups", "group_size"]) {
            Some(Value::Number(size)) => {
                let size = size.as_u64().expect("a size is a whole number") as usize;
                (0..values.len()).map(|i| i / size).collect()
            }
            Some(ids) => vector(ids).into_iter().map(|id| id as usize).collect(),
            None => vec![0; values.len()],
        };
        Self { shape: vec![values.len()], values, groups }
    }

    /// A batch with these rewards, completions of these lengths, and the verdict that they stand for.
    pub(super) fn batch(&self, lengths: Option<&Value>) -> Batch {
        let lengths = match lengths {
            Some(value) if value.get(0).is_some_and(Value::is_array) => rows(value).concat(),
            Some(value) => vector(value),
            None => vec![1.0; self.values.len()],
        };
        let mask: Vec<Vec<f64>> = lengths.iter().map(|&n| vec![1.0; n as usize]).collect();
        let mut batch = Batch::new(Table::ragged(&mask, 0.0), self.groups.clone()).unwrap();
        batch.scores.names = vec!["reward".into()];
        batch.scores.values = self.values.iter().map(|&r| vec![(!r.is_nan()).then_some(r)]).collect();
        batch.verdict = self
            .values
            .iter()
            .map(|r| match r {
                r if r.is_nan() => Verdict::Missing,
                r if *r > 0.0 => Verdict::Right,
                _ => Verdict::Wrong,
            })
            .collect();
        batch
    }
}

/// The estimator that a variant names, with the numbers of the config.
pub(super) fn estimator(path: &str, variant: &str, config: &Fields) -> (AdvantageConfig, bool) {
    let mut name = variant.to_owned();
    let mut take = |suffix: &str| match name.strip_suffix(suffix) {
        Some(rest) => {
            name = rest.to_owned();
            true
        }
        None => false,
    };
    let penalised = take("_kl_in_reward");
    let population = take("_population_std") || config.text("std").is_some_and(|s| s.starts_with("population"));
    let eps = config.number("eps");
    let eps_verl = config.number("eps_verl");
    let eps = if take("_verl_eps") { eps_verl } else { eps }.unwrap_or(1e-4);
    let mut lambda = config.number("w_reinforce_lambda").unwrap_or(0.1);
    if let Some((rest, value)) = name.clone().split_once("_lambda_") {
        (name, lambda) = (rest.to_owned(), value.parse().expect("a number after lambda_"));
    }
    let beta = config.number("beta").unwrap_or(0.0);
    let kl_in_reward = if penalised { beta } else { 0.0 };
    let std = if population { group::Deviation::Population } else { group::Deviation::Sample };
    let (weights, mix) = (Default::default(), Mix::default());
    let config = match name.as_str() {
        "group" | "group_of_one" => {
            AdvantageConfig::Group(group::Group { weights, mix, kl_in_reward, eps, std, clip: None })
        }
        "batch" => AdvantageConfig::Batch(batch::BatchScaled { weights, mix, kl_in_reward, eps }),
        "none" => AdvantageConfig::None(none::Unscaled { weights, mix, kl_in_reward }),
        "rloo" | "rloo_norm" => {
            let normalize = name == "rloo_norm";
            AdvantageConfig::Rloo(rloo::Rloo { weights, mix, kl_in_reward, normalize, eps })
        }
        "opo" => AdvantageConfig::Opo(opo::Opo { weights, mix, kl_in_reward }),
        "rfpp" => AdvantageConfig::Rfpp(rfpp::Rfpp { weights, mix, kl_in_reward }),
        "rfpp_baseline" => AdvantageConfig::RfppBaseline(rfpp_baseline::RfppBaseline { weights, mix, kl_in_reward }),
        "psr" => AdvantageConfig::Psr(psr::Psr {}),
        "nsr" => AdvantageConfig::Nsr(nsr::Nsr {}),
        "w_reinforce" => AdvantageConfig::WReinforce(w_reinforce::WReinforce { lambda }),
        _ => panic!("{path}: unknown variant `{variant}`"),
    };
    (config, penalised)
}

/// Rewards of groups of one, which the file gives in words: `group_of_one: rewards [[1],[0]], ...`.
fn rewards_in_note(case: &Case) -> Value {
    let note = case.config.text("note").unwrap_or_default();
    let text = note.split("group_of_one: rewards ").nth(1).and_then(|rest| rest.split_once("]]"));
    let (list, _) = text.unwrap_or_else(|| panic!("{}: no rewards for `group_of_one`", case.path));
    serde_json::from_str(&format!("{list}]]")).expect("rewards in the note are rows of numbers")
}

pub(super) fn check(case: &Case) {
    let main = case.inputs.find(&["rewards", "rewards_with_unscorable"]);
    let lengths = case.inputs.find(&["completion_lengths", "lengths"]);
    let penalised = case.inputs.find(&["rewards_for_kl"]);
    let sequence_kl = case.inputs.find(&["sequence_kl_k1"]);
    for variant in case.expected.keys() {
        let expected = case.expected.child(&variant);
        let path = format!("{}.{variant}", case.path);
        if expected.has("penalty") {
            // The value of a reward, `reward.overlong`: another crate. The inputs must be there.
            case.inputs.get("overlong_lengths");
            for key in ["L_max", "L_cache", "penalty_factor"] {
                assert!(case.config.number(key).is_some(), "{path}: `{key}` is missing");
            }
            expected.get("penalty");
            expected.finish();
            continue;
        }
        let (config, is_penalised) = estimator(&path, &variant, &case.config);
        let (rewards, mut batch) = if is_penalised {
            let rewards = Rewards::read(penalised.expect("`rewards_for_kl`"), &case.inputs);
            let kl = Rewards::read(sequence_kl.expect("`sequence_kl_k1`"), &case.inputs).values;
            let mut batch = rewards.batch(None);
            batch.ref_logp = Some(Table::new(kl.len(), 1, kl.iter().map(|k| -1.0 - k).collect()).unwrap());
            batch.old_logp = Some(Table::filled(kl.len(), 1, -1.0));
            (rewards, batch)
        } else if variant == "group_of_one" {
            let rewards = Rewards::nested(&rewards_in_note(case));
            let batch = rewards.batch(None);
            (rewards, batch)
        } else {
            let rewards = Rewards::read(main.expect("`rewards`"), &case.inputs);
            let batch = rewards.batch(lengths);
            (rewards, batch)
        };
        config.build().unwrap().apply(&mut batch).unwrap();
        let wanted = Rewards::read(expected.get("advantages"), &case.inputs);
        assert_eq!(wanted.shape, rewards.shape, "{path}: shape");
        let found = batch.token_advantage("golden").unwrap();
        let found: Vec<f64> = (0..found.rows()).map(|i| found.row(i).first().copied().unwrap_or(0.0)).collect();
        all_close(&path, &found, &wanted.values, TOLERANCE);
        expected.finish();
    }
}
