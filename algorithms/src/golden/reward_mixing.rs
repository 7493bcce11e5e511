//! `reward_mixing.json`: the mixers as pure functions.

use super::{Case, all_close, cases, close, rows, vector};
use crate::advantage::mix::constrained::{Base, Constrained, Hold, Multipliers, weighed};
use crate::advantage::mix::gradient::{Gradient, influence};
use crate::advantage::mix::hypervolume::advance;
use crate::advantage::mix::stage::View;
use crate::advantage::mix::{Correlation, Mix, NormalizeThenSum, weighted_sum};
use crate::advantage::{AdvantageConfig, batch, group, none};
use crate::batch::Advantages;
use crate::{Batch, Table};

const TOLERANCE: f64 = 1e-9;

#[test]
fn golden_reward_mixing() {
    for case in cases("reward_mixing") {
        if case.inputs.has("points") {
            front(&case);
        } else if case.inputs.has("gradients") || case.inputs.has("gram") {
            weights(&case);
        } else if case.inputs.has("returns") {
            trace(&case);
        } else if case.inputs.has("advantages_base") {
            mixture(&case);
        } else if case.expected.has("weights") {
            correlation(&case);
        } else if case.expected.has("per_reward") {
            decoupled(&case);
        } else if case.expected.has("mixed") {
            summed(&case);
        } else {
            panic!("{}: no known kind of case: {:?}", case.path, case.expected.keys());
        }
        case.inputs.finish();
        case.config.finish();
        case.expected.finish();
    }
}

/// A batch with the case's rewards, and the weights of the rewards.
fn scored(case: &Case) -> (Batch, Vec<f64>) {
    let rewards = rows(case.inputs.get("rewards"));
    let groups: Vec<usize> = match case.inputs.find(&["group_ids", "prompt_ids", "groups"]) {
        Some(ids) => vector(ids).into_iter().map(|id| id as usize).collect(),
        None => {
            let size = case.config.number("group_size").expect("group_size") as usize;
            (0..rewards.len()).map(|i| i / size).collect()
        }
    };
    let k = rewards.first().map_or(0, Vec::len);
    let mut batch = Batch::new(Table::filled(rewards.len(), 1, 1.0), groups).unwrap();
    batch.scores.names = (0..k).map(|k| format!("r{k}")).collect();
    batch.scores.values =
        rewards.iter().map(|row| row.iter().map(|r| Some(*r).filter(|r| !r.is_nan())).collect()).collect();
    let weights = case.config.find(&["weights"]).map_or(vec![1.0; k], vector);
    (batch, weights)
}

fn with_view<T>(batch: &Batch, weights: &[f64], f: impl FnOnce(&View<'_>) -> T) -> T {
    let groups = batch.groups();
    let (names, scores) = (&batch.scores.names[..], &batch.scores.values[..]);
    f(&View { names, scores, weights, groups: &groups, batch })
}

fn or_nan(values: &[Option<f64>]) -> Vec<f64> {
    values.iter().map(|v| v.unwrap_or(f64::NAN)).collect()
}

/// Missing advantages are 0, as the loop has them.
fn or_zero(values: &[Option<f64>]) -> Vec<f64> {
    values.iter().map(|v| v.unwrap_or(0.0)).collect()
}

fn summed(case: &Case) {
    let (mut batch, weights) = scored(case);
    let mixed = or_nan(&weighted_sum(&batch.scores.values, &weights));
    all_close(&format!("{}.mixed", case.path), &mixed, &vector(case.expected.get("mixed")), TOLERANCE);
    let eps = case.config.number("eps").unwrap_or(1e-4);
    let weights = batch.scores.names.iter().cloned().zip(weights).collect();
    let (mix, kl_in_reward) = (Mix::default(), 0.0);
    let stage = match case.config.text("scale").unwrap_or("group") {
        "group" => AdvantageConfig::Group(group::Group { weights, eps, ..group::Group::default() }),
        "batch" => AdvantageConfig::Batch(batch::BatchScaled { weights, mix, kl_in_reward, eps }),
        "none" => AdvantageConfig::None(none::Unscaled { weights, mix, kl_in_reward }),
        other => panic!("{}: unknown scale `{other}`", case.path),
    };
    stage.build().unwrap().apply(&mut batch).unwrap();
    let Some(Advantages::Row(found)) = &batch.advantage else { panic!("one advantage a row") };
    all_close(&format!("{}.advantages", case.path), found, &vector(case.expected.get("advantages")), TOLERANCE);
}

fn decoupled(case: &Case) {
    let (batch, weights) = scored(case);
    let settings = NormalizeThenSum { eps: case.config.number("eps").unwrap_or(1e-4), zero_dead_groups: false };
    let (each, advantages) = with_view(&batch, &weights, |view| settings.advantages(view));
    for (i, (found, wanted)) in each.iter().zip(rows(case.expected.get("per_reward"))).enumerate() {
        all_close(&format!("{}.per_reward[{i}]", case.path), &or_nan(found), &wanted, TOLERANCE);
    }
    let wanted = vector(case.expected.get("advantages"));
    all_close(&format!("{}.advantages", case.path), &or_zero(&advantages), &wanted, TOLERANCE);
}

fn correlation(case: &Case) {
    let (batch, weights) = scored(case);
    let number = |key: &str, default: f64| case.config.number(key).unwrap_or(default);
    let std = match case.config.text("std").unwrap_or("population") {
        "population" => group::Deviation::Population,
        "sample" => group::Deviation::Sample,
        other => panic!("{}: unknown std `{other}`", case.path),
    };
    let settings = Correlation {
        tau: number("tau", 0.5),
        shrink: number("shrink", 0.0),
        std,
        eps: number("eps", 1e-8),
        batch_normalise: case.config.number("batch_normalise").is_none_or(|flag| flag != 0.0),
    };
    let (found, advantages) = with_view(&batch, &weights, |view| settings.advantages(view));
    let wanted = rows(case.expected.get("weights"));
    assert_eq!(found.len(), wanted.len(), "{}: groups", case.path);
    for (g, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
        all_close(&format!("{}.weights[{g}]", case.path), found, wanted, TOLERANCE);
    }
    let wanted = vector(case.expected.get("advantages"));
    all_close(&format!("{}.advantages", case.path), &or_zero(&advantages), &wanted, TOLERANCE);
}

fn front(case: &Case) {
    let path = &case.path;
    let given = (vector(case.inputs.get("reference")), rows(case.inputs.get("points")));
    let maximise = case.config.find(&["maximise"]).map_or(vec![1.0; given.0.len()], vector);
    let oriented = |point: &[f64]| -> Vec<f64> {
        point
            .iter()
            .zip(&maximise)
            .map(|(x, is_larger_better)| if *is_larger_better != 0.0 { *x } else { -x })
            .collect()
    };
    let (reference, mut front) = (oriented(&given.0), Vec::new());
    let steps = case.expected.get("steps").as_array().expect("steps");
    assert_eq!(steps.len(), given.1.len(), "{path}: steps");
    // A point may be told as it was given, or with minimised coordinates negated.
    let same = |what: &str, told: &[f64], point: &[f64]| {
        let is_given = told.iter().zip(point).all(|(a, b)| (a - b).abs() <= 1e-12);
        all_close(what, told, &if is_given { point.to_vec() } else { oriented(point) }, TOLERANCE);
    };
    for (i, (step, point)) in steps.iter().zip(&given.1).enumerate() {
        let what = format!("{path}.steps[{i}]");
        let step = super::Fields::new(what.clone(), step);
        let found = advance(&reference, &mut front, &oriented(point));
        for (key, value) in [
            ("hv_before", found.before),
            ("hv_after", found.after),
            ("delta", found.delta),
            ("multiplier", found.multiplier),
            ("added", f64::from(u8::from(found.is_added))),
        ] {
            close(&format!("{what}.{key}"), value, step.number(key).expect(key), TOLERANCE);
        }
        same(&format!("{what}.point"), &vector(step.get("point")), point);
        step.finish();
    }
    let wanted = rows(case.expected.get("front"));
    assert_eq!(front.len(), wanted.len(), "{path}.front");
    for (found, wanted) in front.iter().zip(&wanted) {
        same(&format!("{path}.front"), wanted, &oriented(found));
    }
}

fn weights(case: &Case) {
    let gram = match case.inputs.find(&["gram"]) {
        Some(gram) => rows(gram),
        None => {
            let gradients = rows(case.inputs.get("gradients"));
            let dot = |a: &Vec<f64>, b: &Vec<f64>| a.iter().zip(b).map(|(x, y)| x * y).sum();
            gradients.iter().map(|a| gradients.iter().map(|b| dot(a, b)).collect()).collect()
        }
    };
    let influence = influence(&gram);
    all_close(&format!("{}.influence", case.path), &influence, &vector(case.expected.get("influence")), TOLERANCE);
    let number = |key: &str| case.config.number(key).unwrap_or_else(|| panic!("{}: `{key}` is missing", case.path));
    // The reference has no guards.
    let settings =
        Gradient { rate: number("lr") / number("mu"), max_step: f64::INFINITY, min_weight: 0.0, ..Gradient::default() };
    let mut weights = vector(case.inputs.get("weights"));
    let wanted = rows(case.expected.get("weights"));
    assert_eq!(wanted.len() as f64, case.config.number("updates").unwrap_or(wanted.len() as f64), "{}", case.path);
    for (i, wanted) in wanted.iter().enumerate() {
        weights = settings.updated(&weights, &influence);
        all_close(&format!("{}.weights[{i}]", case.path), &weights, wanted, TOLERANCE);
    }
}

fn hold(text: &str) -> Hold {
    match text {
        "ge" => Hold::AtLeast,
        "eq" => Hold::At,
        other => panic!("unknown mode `{other}`"),
    }
}

fn trace(case: &Case) {
    let number = |key: &str, default: f64| case.config.number(key).unwrap_or(default);
    let settings = Constrained {
        hold: hold(case.config.text("mode").unwrap_or("ge")),
        learning_rate: number("lr", 0.01),
        momentum: number("momentum", 0.1),
        clip_norm: number("clip_norm", 0.5),
        ..Constrained::default()
    };
    let thetas = vector(case.config.get("thresholds"));
    let raw = vector(case.inputs.get("mu0"));
    let mut multipliers = Multipliers { velocity: vec![0.0; raw.len()], raw };
    let steps = case.expected.get("trace").as_array().expect("trace");
    let returns = rows(case.inputs.get("returns"));
    assert_eq!(steps.len(), returns.len(), "{}: steps", case.path);
    for (i, (step, means)) in steps.iter().zip(&returns).enumerate() {
        let what = format!("{}.trace[{i}]", case.path);
        let step = super::Fields::new(what.clone(), step);
        let (base, weights) = settings.weights(&multipliers.raw);
        all_close(&format!("{what}.weights"), &weights, &vector(step.get("weights")), TOLERANCE);
        close(&format!("{what}.base_weight"), base, step.number("base_weight").expect("base_weight"), TOLERANCE);
        let present: Vec<Option<f64>> = means.iter().map(|m| Some(*m).filter(|m| !m.is_nan())).collect();
        let gap = |k: usize| present[k].map_or(0.0, |mean| mean - thetas[k]);
        let loss: f64 = weights.iter().enumerate().map(|(k, w)| w * gap(k)).sum();
        close(&format!("{what}.loss"), loss, step.number("loss").expect("loss"), TOLERANCE);
        let gradient = settings.gradient(&multipliers.raw, &thetas, &present);
        // A clipped gradient may be told before or after it was clipped.
        let told = vector(step.get("grad"));
        let norm = |g: &[f64]| g.iter().map(|g| g * g).sum::<f64>().sqrt();
        let scale = (settings.clip_norm / (norm(&gradient) + 1e-6)).min(1.0);
        let is_clipped = norm(&told) < norm(&gradient) * (1.0 - 1e-9);
        let shown: Vec<f64> = gradient.iter().map(|g| if is_clipped { g * scale } else { *g }).collect();
        all_close(&format!("{what}.grad"), &shown, &told, TOLERANCE);
        settings.advance(&mut multipliers, &gradient);
        all_close(&format!("{what}.mu_next"), &multipliers.raw, &vector(step.get("mu_next")), TOLERANCE);
        step.finish();
    }
}

fn mixture(case: &Case) {
    let base: Vec<Option<f64>> = vector(case.inputs.get("advantages_base")).into_iter().map(Some).collect();
    let each: Vec<Vec<Option<f64>>> =
        rows(case.inputs.get("advantages")).into_iter().map(|row| row.into_iter().map(Some).collect()).collect();
    let raw = vector(case.inputs.get("mu"));
    let eps = case.config.number("eps").unwrap_or(1e-8);
    for key in case.expected.keys() {
        let mode = key.strip_prefix("mixed_").unwrap_or_else(|| panic!("{}: unknown key `{key}`", case.path));
        let settings = Constrained { hold: hold(mode), base: Base::Kl, ..Constrained::default() };
        let found = weighed(&base, &each, &settings.weights(&raw), eps);
        let what = format!("{}.{key}", case.path);
        all_close(&what, &or_nan(&found), &vector(case.expected.get(&key)), TOLERANCE);
    }
}
