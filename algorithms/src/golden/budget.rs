//! `knapsack.json`, `dual_mirror.json` and the schedules of `curriculum_length.json`.

use serde_json::Value;

use super::{Case, Fields, all_close, cases, close, number, rows, vector};
use crate::advantage::group::{Deviation, Group};
use crate::budget::rollouts::dual_mirror::{Account, Reference, Unaffordable};
use crate::budget::rollouts::knapsack::Knapsack;
use crate::budget::rollouts::{Effective, value};
use crate::budget::tokens::curriculum::{Drops, Every, Schedule, Shape, whole};
use crate::success::Success;
use crate::{Batch, Table};

const TOLERANCE: f64 = 1e-9;
/// What the spec asks of total values.
const VALUE: f64 = 1e-12;

fn finish(case: &Case) {
    case.inputs.finish();
    case.config.finish();
    case.expected.finish();
}

fn count(fields: &Fields, key: &str) -> usize {
    fields.number(key).unwrap_or_else(|| panic!("no `{key}`")) as usize
}

fn counts(value: &Value) -> Vec<usize> {
    vector(value).into_iter().map(|n| n as usize).collect()
}

fn flag(value: &Value) -> bool {
    value.as_bool().unwrap_or_else(|| panic!("true or false, found {value}"))
}

#[test]
fn golden_knapsack() {
    for case in cases("knapsack") {
        let has = |key: &str| case.inputs.has(key);
        if has("p") && has("n") {
            table_of_values(&case);
        } else if has("p") {
            exact(&case);
        } else if has("p_hat") {
            full_rule(&case);
        } else if has("histories") {
            estimator(&case);
        } else if has("rewards") {
            unequal_groups(&case);
        } else {
            panic!("{}: no known kind of case has the inputs {:?}", case.path, case.inputs.keys());
        }
        finish(&case);
    }
}

fn table_of_values(case: &Case) {
    let (p, n) = (vector(case.inputs.get("p")), counts(case.inputs.get("n")));
    for key in case.expected.keys() {
        let (path, wanted) = (format!("{}.{key}", case.path), case.expected.get(&key));
        let grid = |f: &dyn Fn(usize, f64) -> f64| {
            for (i, wanted) in rows(wanted).iter().enumerate() {
                let found: Vec<f64> = n.iter().map(|&n| f(n, p[i])).collect();
                all_close(&format!("{path}[{i}]"), &found, wanted, TOLERANCE);
            }
        };
        match key.as_str() {
            "prob_nonzero" => grid(&value::prob_mixed),
            "value" => grid(&value::value),
            "marginal" => grid(&value::marginal),
            "info_gain" => {
                let found: Vec<f64> = p.iter().map(|&p| value::information_gain(p)).collect();
                all_close(&path, &found, &vector(wanted), TOLERANCE);
            }
            "expected_rollouts_to_nonzero" => {
                let found: Vec<f64> = p.iter().map(|&p| value::expected_until_mixed(p).unwrap_or(f64::NAN)).collect();
                all_close(&path, &found, &vector(wanted), TOLERANCE);
            }
            _ => panic!("{path}: unknown key"),
        }
    }
}

fn worth(counts: &[usize], p: &[f64]) -> f64 {
    counts.iter().zip(p).map(|(&n, &p)| value::value(n, p)).sum()
}

fn exact(case: &Case) {
    let p = vector(case.inputs.get("p"));
    let (low, up, total) = (count(&case.config, "n_low"), count(&case.config, "n_up"), count(&case.config, "total"));
    let (found, left) = value::solve(&p, low, up, total);
    assert_eq!(found.iter().sum::<usize>() + left, total, "{}", case.path);
    for key in case.expected.keys() {
        let (path, wanted) = (format!("{}.{key}", case.path), case.expected.get(&key));
        match key.as_str() {
            "optimal_value" => close(&path, worth(&found, &p), number(wanted), VALUE),
            "optimal_allocations" => {
                let all: Vec<Vec<usize>> = wanted.as_array().expect("a list").iter().map(counts).collect();
                assert!(all.contains(&found), "{path}: {found:?} is not among {all:?}");
            }
            "greedy_lowest_index" | "allocation" => assert_eq!(found, counts(wanted), "{path}"),
            "unspent" => assert_eq!(left as f64, number(wanted), "{path}"),
            // The programme's allocation equals the greedy one, which is ours.
            "dp_allocation_equals_greedy" => assert!(flag(wanted), "{path}"),
            "uniform_value" => {
                let even = vec![total / p.len(); p.len()];
                close(&path, worth(&even, &p), number(wanted), VALUE);
            }
            "max_allocation" => assert_eq!(found.iter().max().map(|n| *n as f64), Some(number(wanted)), "{path}"),
            "min_allocation" => assert_eq!(found.iter().min().map(|n| *n as f64), Some(number(wanted)), "{path}"),
            _ => panic!("{path}: unknown key"),
        }
    }
}

fn full_rule(case: &Case) {
    let (config, p) = (&case.config, vector(case.inputs.get("p_hat")));
    let judged = vector(case.inputs.get("count"));
    let stage = Knapsack {
        mean: count(config, "n"),
        n_low: count(config, "n_low"),
        n_up: count(config, "n_up"),
        n_zero: count(config, "n_zero"),
        n_one: count(config, "n_one"),
        min_count: count(config, "min_count") as u64,
        alpha: config.number("alpha").expect("alpha"),
        fallback: flag(config.get("fallback")),
        ..Knapsack::default()
    };
    let rates: Vec<Option<f64>> =
        p.iter().zip(&judged).map(|(&p, &n)| (n as u64 >= stage.min_count).then_some(p)).collect();
    let total = count(config, "total");
    let found = stage.divide(&rates, &vec![true; p.len()], total);
    assert_eq!(found.counts.iter().sum::<usize>() + found.unspent, total, "{}", case.path);
    for key in case.expected.keys() {
        let path = format!("{}.{key}", case.path);
        match key.as_str() {
            "allocation" => assert_eq!(found.counts, counts(case.expected.get(&key)), "{path}"),
            "info" => {
                let info = case.expected.child(&key);
                for key in info.keys() {
                    let path = format!("{path}.{key}");
                    match key.as_str() {
                        "fallback" => assert_eq!(found.surplus > 0, flag(info.get(&key)), "{path}"),
                        "surplus" => assert_eq!(found.surplus as f64, number(info.get(&key)), "{path}"),
                        "effective_cost" => assert_eq!(found.need as f64, number(info.get(&key)), "{path}"),
                        _ => panic!("{path}: unknown key"),
                    }
                }
            }
            _ => panic!("{path}: unknown key"),
        }
    }
}

fn estimator(case: &Case) {
    let stage = Knapsack {
        buffer: count(&case.config, "buffer"),
        min_count: count(&case.config, "min_count") as u64,
        ..Knapsack::default()
    };
    let histories = case.inputs.get("histories").as_array().expect("histories");
    let states = case.expected.get("states").as_array().expect("states");
    assert_eq!(histories.len(), states.len(), "{}", case.path);
    for (id, (visits, state)) in histories.iter().zip(states).enumerate() {
        let mut success = Success::default();
        for visit in rows(visits) {
            // Rewards are -1, 0 or 1, and -1 counts as 0.
            let outcomes: Vec<bool> = visit.into_iter().map(|r| r > 0.0).collect();
            success.record(id, &outcomes, outcomes.len() as u64, 0);
        }
        let estimate = success.estimates(&[id]).remove(0);
        let state = Fields::new(format!("{}.states[{id}]", case.path), state);
        assert_eq!(stage.rate(&estimate).is_some(), flag(state.get("valid")), "{id}");
        let rate = estimate.recent_rate(stage.buffer).unwrap_or(0.0);
        close("p_hat", rate, state.number("p_hat").expect("p_hat"), TOLERANCE);
        assert_eq!(estimate.count as f64, state.number("count").expect("count"), "{id}");
        state.finish();
    }
}

fn unequal_groups(case: &Case) {
    let rewards = rows(case.inputs.get("rewards"));
    let groups = rewards.iter().enumerate().flat_map(|(g, row)| vec![g; row.len()]).collect::<Vec<_>>();
    let mut batch = Batch::new(Table::filled(groups.len(), 1, 1.0), groups).unwrap();
    batch.scores.names = vec!["reward".into()];
    batch.scores.values = rewards.concat().into_iter().map(|r| vec![Some(r)]).collect();
    let std = match case.config.text("std") {
        Some("sample") | None => Deviation::Sample,
        Some("population") => Deviation::Population,
        Some(other) => panic!("{}: unknown std {other:?}", case.path),
    };
    let eps = case.config.number("eps").unwrap_or(1e-6);
    let stage = Group { eps, std, clip: case.config.number("adv_clip").filter(|c| !c.is_nan()), ..Group::default() };
    stage.build().unwrap().apply(&mut batch).unwrap();
    let found = batch.token_advantage("golden").unwrap();
    let effective = Effective::of(&rewards.iter().map(Vec::as_slice).collect::<Vec<_>>());
    for key in case.expected.keys() {
        let (path, wanted) = (format!("{}.{key}", case.path), case.expected.get(&key));
        match key.as_str() {
            "advantages" => all_close(&path, found.data(), &rows(wanted).concat(), TOLERANCE),
            "effective_gradient_ratio" => close(&path, effective.rollouts, number(wanted), TOLERANCE),
            "effective_prompt_ratio" => close(&path, effective.prompts, number(wanted), TOLERANCE),
            _ => panic!("{path}: unknown key"),
        }
    }
}

#[test]
fn golden_dual_mirror() {
    for case in cases("dual_mirror") {
        let (config, p) = (&case.config, vector(case.inputs.get("p")));
        let cost = vector(case.inputs.get("cost"));
        let actions = counts(config.get("actions"));
        let budget = config.number("budget").expect("a budget");
        let reference: Reference = serde_json::from_value(config.get("reference").clone()).expect("a reference");
        let when_unaffordable: Unaffordable =
            serde_json::from_value(config.get("when_unaffordable").clone()).expect("what happens then");
        let mut account = Account {
            mu: config.number("mu0").expect("mu0"),
            remaining: budget,
            rho: budget / p.len() as f64,
            eta: config.number("eta").expect("eta"),
            reference,
            mu_max: config.number("mu_max").filter(|mu| !mu.is_nan()),
            when_unaffordable,
        };
        let trace = case.expected.get("trace").as_array().expect("a trace").clone();
        assert_eq!(trace.len(), p.len(), "{}", case.path);
        let mut executed = Vec::new();
        for (t, wanted) in trace.iter().enumerate() {
            let wanted = Fields::new(format!("{}.trace[{t}]", case.path), wanted);
            let is = |key: &str, found: f64| {
                close(&format!("{}[{t}].{key}", case.path), found, wanted.number(key).expect(key), TOLERANCE);
            };
            is("t", t as f64);
            is("mu", account.mu);
            let proposed = account.propose(&actions, p[t], cost[t]);
            let visit = account.settle(&actions, proposed, cost[t], 0.0);
            is("proposed", visit.proposed as f64);
            is("executed", visit.executed as f64);
            is("remaining", account.remaining);
            is("subgradient", visit.subgradient);
            is("mu_next", account.mu);
            wanted.finish();
            executed.push(visit.executed);
        }
        let spent: f64 = executed.iter().zip(&cost).map(|(&n, c)| n as f64 * c).sum();
        for key in case.expected.keys() {
            let (path, wanted) = (format!("{}.{key}", case.path), case.expected.get(&key));
            match key.as_str() {
                "trace" => {}
                "executed" => assert_eq!(executed, counts(wanted), "{path}"),
                "total_value" => close(&path, worth(&executed, &p), number(wanted), VALUE),
                "spent" => close(&path, spent, number(wanted), TOLERANCE),
                "final_mu" => close(&path, account.mu, number(wanted), TOLERANCE),
                _ => panic!("{path}: unknown key"),
            }
        }
        finish(&case);
    }
}

#[test]
fn golden_curriculum_length_schedules() {
    let mut seen = 0;
    for case in cases("curriculum_length") {
        // Rewards are the rewards crate's.
        if !case.inputs.has("step") {
            continue;
        }
        seen += 1;
        let steps = counts(case.inputs.get("step"));
        let (schedule, start, total) = schedule(&case);
        for key in case.expected.keys() {
            let (path, wanted) = (format!("{}.{key}", case.path), case.expected.get(&key));
            match key.as_str() {
                "raw" => {
                    let found: Vec<f64> = steps.iter().map(|&t| schedule.raw(start, t, total)).collect();
                    all_close(&path, &found, &vector(wanted), TOLERANCE);
                }
                "budget" => {
                    let found: Vec<usize> = steps.iter().map(|&t| schedule.budget(start, t, total)).collect();
                    assert_eq!(found, counts(wanted), "{path}");
                }
                "pieces" => pieces(&path, &schedule, start, total, wanted),
                _ => panic!("{path}: unknown key"),
            }
        }
        finish(&case);
    }
    assert!(seen > 0, "no schedule in the file");
}

fn schedule(case: &Case) -> (Schedule, f64, usize) {
    let config = &case.config;
    if let Some(start) = config.number("b0") {
        let every = Every { factor: config.number("gamma").expect("gamma"), interval: count(config, "interval") };
        return (Schedule::Every(every), start, 0);
    }
    let shape: Shape = serde_json::from_value(config.get("shape").clone()).expect("a shape");
    let drops = Drops { end: count(config, "end"), drops: count(config, "decays"), shape };
    (Schedule::Drops(drops), config.number("start").expect("start"), count(config, "total_steps"))
}

fn pieces(path: &str, schedule: &Schedule, start: f64, total: usize, wanted: &Value) {
    let Schedule::Drops(drops) = schedule else { panic!("{path}: pieces of a schedule without an end") };
    let wanted = wanted.as_array().expect("pieces");
    assert_eq!(wanted.len(), drops.drops + 1, "{path}");
    for (k, wanted) in wanted.iter().enumerate() {
        let wanted = Fields::new(format!("{path}[{k}]"), wanted);
        let is = |key: &str, found: f64| {
            close(&format!("{path}[{k}].{key}"), found, wanted.number(key).expect(key), TOLERANCE);
        };
        is("start_step", drops.first_step(k, total) as f64);
        is("raw", drops.piece(start, k));
        is("budget", whole(drops.piece(start, k)) as f64);
        wanted.finish();
    }
}
