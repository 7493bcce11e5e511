//! `soft_thinking.json`: mixtures with given noise, and when thinking ends.

use super::leaves::{ids, mixed};
use super::{Case, Fields, all_close, cases, close, number, rows, vector};
use crate::row::soft::mix::{Mode, Noise, Truncation};
use crate::row::soft::phase::{Phase, Rule};

const TOLERANCE: f64 = 1e-9;

#[test]
fn golden_soft_thinking() {
    for case in cases("soft_thinking") {
        if case.inputs.has("logits") {
            step(&case);
        } else if case.inputs.has("sampled_ids") {
            phases(&case);
        } else {
            panic!("{}: no known kind of case has the inputs {:?}", case.path, case.inputs.keys());
        }
        case.inputs.finish();
        case.config.finish();
        case.expected.finish();
    }
}

fn step(case: &Case) {
    let config = |key: &str, default: f64| case.config.number(key).unwrap_or(default);
    let truncation = Truncation {
        temperature: config("temperature", 1.0),
        top_k: config("top_k", 0.0) as usize,
        top_p: config("top_p", 1.0),
        min_p: config("min_p", 0.0),
        slots: case.config.number("max_topk").expect("max_topk") as usize,
    };
    let mode = match case.config.text("mode").expect("a mode") {
        "vanilla" => Mode::Vanilla,
        "gumbel" => Mode::Gumbel,
        "dirichlet" => Mode::Dirichlet,
        other => panic!("{}: unknown mode {other}", case.path),
    };
    let noise = Noise {
        mode,
        tau: config("tau", 1.0),
        scale: config("noise_scale", 1.0),
        clamp: None,
        prob_eps: 0.0,
        concentration: config("concentration", 1.0),
    };
    let kept = truncation.keep(&vector(case.inputs.get("logits")));
    let drawn = case.inputs.find(&["gumbel_noise", "gamma_draws"]).map(vector).unwrap_or_default();
    let path = |key: &str| format!("{}.{key}", case.path);
    let live = kept.probabilities.iter().filter(|p| **p > 0.0).count();
    if let Some(entropy) = case.expected.number("entropy") {
        close(&path("entropy"), kept.entropy, entropy, TOLERANCE);
    }
    let check = |key: &str, found: &[f64]| {
        if let Some(wanted) = case.expected.find(&[key]) {
            all_close(&path(key), found, &vector(wanted), TOLERANCE);
        }
    };
    let wide = |ids: &[u32]| ids.iter().map(|&id| f64::from(id)).collect::<Vec<_>>();
    check("kept_ids_by_probability", &wide(&kept.ids[..live]));
    check("kept_probabilities", &kept.probabilities[..live]);
    check("gamma_shapes", &noise.shapes(&kept)[..live]);
    // Noise is given for the tokens that were kept; those that were not have no slot.
    let drawn: Vec<f64> = drawn.into_iter().chain(vec![0.0; kept.ids.len()]).collect();
    let mixture = match truncation.temperature {
        0.0 => crate::row::soft::mix::Mixture::one_hot(kept.ids[0]),
        _ => noise.mix(&kept, &drawn),
    };
    if case.expected.has("noisy_scores") {
        let mut found: Vec<(usize, f64)> = mixture
            .ids
            .iter()
            .zip(&mixture.scores)
            .map(|(id, s)| (kept.ids.iter().position(|k| k == id).expect("a kept token"), *s))
            .collect();
        found.sort_unstable_by_key(|(place, _)| *place);
        check("noisy_scores", &found.into_iter().map(|(_, s)| s).collect::<Vec<_>>());
    }
    check("ids", &wide(&mixture.ids));
    check("weights", &mixture.weights);
    assert_eq!(f64::from(mixture.ids[0]), number(case.expected.get("token_id")), "{}: token", case.path);
    let embeddings = rows(case.inputs.get("embeddings"));
    check("mixed_embedding", &mixed(&embeddings, &mixture.ids, &mixture.weights));
}

fn phases(case: &Case) {
    let config = |key: &str| number(case.config.get(key));
    let rule = Rule {
        think_end: config("think_end_id") as u32,
        entropy_threshold: config("entropy_threshold"),
        length_threshold: config("length_threshold") as usize,
        abort_after_thinking: config("abort_after_thinking") != 0.0,
        max_steps: None,
    };
    let eos = config("eos_id") as u32;
    let (tokens, entropies) = (ids(case.inputs.get("sampled_ids")), vector(case.inputs.get("entropies")));
    let wanted = case.expected.get("steps").as_array().expect("steps");
    let (mut phase, mut steps) = (Phase::default(), 0);
    for (&token, &entropy) in tokens.iter().zip(&entropies) {
        let was_thinking = phase.is_thinking;
        let decision = phase.advance(&rule, token, entropy);
        let path = format!("{}.steps[{steps}]", case.path);
        let wanted = Fields::new(path.clone(), wanted.get(steps).unwrap_or_else(|| panic!("{path} is not expected")));
        for (key, found) in [
            ("token_id", f64::from(decision.token)),
            ("sampled_in_soft_mode", f64::from(u8::from(was_thinking))),
            ("fed_back_as_one_hot", f64::from(u8::from(!decision.is_soft))),
            ("forced_think_end", f64::from(u8::from(decision.is_forced))),
            ("aborted", f64::from(u8::from(decision.is_aborted))),
            ("low_entropy_run", phase.low_run as f64),
        ] {
            assert_eq!(found, number(wanted.get(key)), "{path}.{key}");
        }
        wanted.finish();
        steps += 1;
        if decision.is_aborted || decision.token == eos {
            break;
        }
    }
    assert_eq!(steps, wanted.len(), "{}: number of steps", case.path);
}
