//! `soft_grpo.json`: the mixing step, the density of a soft step, and the way from logits to the loss and back.

use super::leaves::{at_logp, cube, id_rows, ids, mixed, token_losses};
use super::{Case, all_close, cases, close, number, rows, table, vector};
use crate::advantage::group::Group;
use crate::batch::Advantages;
use crate::objective::soft_grpo::SoftGrpo;
use crate::row::soft::mix::{Mode, Noise, Truncation};
use crate::row::soft::{ActiveSlots, Density, Reduction, SoftLogp, Step, weights};
use crate::row::token::TokenLogp;
use crate::row::{RowFunction, RowGrad, RowValue};
use crate::{Batch, Table};

const TOLERANCE: f64 = 1e-9;

#[test]
fn golden_soft_grpo() {
    for case in cases("soft_grpo") {
        if case.inputs.has("gumbel_noise") {
            rollout_step(&case);
        } else if case.inputs.has("embeddings") && case.inputs.has("labels") {
            loss(&case);
        } else if case.inputs.has("stored_ids") {
            log_density(&case);
        } else {
            panic!("{}: no known kind of case has the inputs {:?}", case.path, case.inputs.keys());
        }
        case.inputs.finish();
        case.config.finish();
        case.expected.finish();
    }
}

fn clamp(case: &Case) -> Option<(f64, f64)> {
    let bounds = case.config.get("clamp");
    (!bounds.is_null()).then(|| vector(bounds)).map(|b| (b[0], b[1]))
}

fn rollout_step(case: &Case) {
    let config = |key: &str| number(case.config.get(key));
    let truncation = Truncation {
        temperature: config("temperature"),
        top_k: config("top_k") as usize,
        top_p: config("top_p"),
        min_p: case.config.number("min_p").unwrap_or(0.0),
        slots: config("k") as usize,
    };
    let noise = Noise {
        mode: Mode::Gumbel,
        tau: config("tau"),
        scale: config("noise_scale"),
        clamp: clamp(case),
        prob_eps: config("prob_eps"),
        concentration: 1.0,
    };
    let kept = truncation.keep(&vector(case.inputs.get("logits")));
    let drawn = vector(case.inputs.get("gumbel_noise"));
    let mixture = noise.mix(&kept, &drawn);
    let check = |key: &str, found: &[f64]| {
        all_close(&format!("{}.{key}", case.path), found, &vector(case.expected.get(key)), TOLERANCE);
    };
    let wide = |ids: &[u32]| ids.iter().map(|&id| f64::from(id)).collect::<Vec<_>>();
    check("slot_ids", &wide(&kept.ids));
    check("slot_probabilities", &kept.probabilities);
    let logs: Vec<f64> = kept.probabilities.iter().map(|q| (q + noise.prob_eps).ln()).collect();
    check("slot_log_probs", &logs);
    // The noise that went in, taken back out of the scores.
    let place = |id: u32| mixture.ids.iter().position(|m| *m == id).expect("a slot");
    let noise_found: Vec<f64> =
        kept.ids.iter().zip(&logs).map(|(&id, l)| (mixture.scores[place(id)] - l) / noise.scale).collect();
    check("clamped_noise", &noise_found);
    check("stored_ids", &wide(&mixture.ids));
    check("stored_noisy_scores", &mixture.scores);
    check("weights", &mixture.weights);
    assert_eq!(f64::from(mixture.ids[0]), number(case.expected.get("token_id")), "{}: token", case.path);
    check("mixed_embedding", &mixed(&rows(case.inputs.get("embeddings")), &mixture.ids, &mixture.weights));
}

fn density(case: &Case) -> Density {
    let reduction = match case.config.text("reduction").expect("a reduction") {
        "mean_active" => Reduction::MeanActive,
        "sum" => Reduction::Sum,
        other => panic!("{}: unknown reduction {other}", case.path),
    };
    let least = case.config.get("active_log_prob_min");
    Density {
        temperature: case.config.number("temperature").unwrap_or(1.0),
        prob_eps: number(case.config.get("prob_eps")),
        clamp: clamp(case),
        active_min: (!least.is_null()).then(|| number(least)),
        reduction,
        active: ActiveSlots::Current,
    }
}

fn log_density(case: &Case) {
    let density = density(case);
    let logits = rows(case.inputs.get("logits"));
    let (slots, scores) = (id_rows(case.inputs.get("stored_ids")), rows(case.inputs.get("stored_noisy_scores")));
    let steps: Vec<Option<Step<f64>>> =
        slots.iter().zip(&scores).map(|(ids, scores)| Some(Step { ids, scores, active: 0 })).collect();
    let token = TokenLogp { tokens: &[], temperature: 1.0, with_entropy: false };
    let function = SoftLogp { token, steps: &steps, density };
    let expected = |key: &str| rows(case.expected.get(key));
    let (logs, noise, active) = (expected("slot_log_probs"), expected("noise_argument"), expected("active"));
    let (values, gradients) = (vector(case.expected.get("log_density")), expected("grad_logits_of_sum"));
    for (i, z) in logits.iter().enumerate() {
        let path = |key: &str| format!("{}.{key}[{i}]", case.path);
        let parts = density.of(z, &steps[i].unwrap());
        all_close(&path("slot_log_probs"), &parts.log_probs, &logs[i], TOLERANCE);
        all_close(&path("noise_argument"), &parts.noise, &noise[i], TOLERANCE);
        let found: Vec<f64> = parts.is_active.iter().map(|&a| f64::from(u8::from(a))).collect();
        all_close(&path("active"), &found, &active[i], 0.0);
        let value = function.forward(i, z);
        close(&path("log_density"), value.logp, values[i], TOLERANCE);
        let mut gradient = z.clone();
        function.backward(i, &mut gradient, &value, &RowGrad { logp: 1.0, ..RowGrad::default() });
        all_close(&path("grad_logits_of_sum"), &gradient, &gradients[i], TOLERANCE);
    }
}

/// The stored slots and labels of every step of a case.
struct Stored {
    slots: Vec<Vec<u32>>,
    scores: Vec<Vec<f64>>,
    labels: Vec<u32>,
    is_soft: Table,
}

impl Stored {
    fn read(case: &Case) -> Self {
        let all = |key: &str| cube(case.inputs.get(key)).concat();
        Self {
            slots: all("stored_ids").iter().map(|row| row.iter().map(|&id| id as u32).collect()).collect(),
            scores: all("stored_noisy_scores"),
            labels: id_rows(case.inputs.get("labels")).concat(),
            is_soft: table(case.inputs.get("is_soft")),
        }
    }

    fn steps(&self) -> Vec<Option<Step<'_, f64>>> {
        let soft = self.is_soft.data().iter();
        soft.zip(self.slots.iter().zip(&self.scores))
            .map(|(soft, (ids, scores))| (*soft != 0.0).then_some(Step { ids, scores, active: 0 }))
            .collect()
    }
}

fn loss(case: &Case) {
    let config = |key: &str| number(case.config.get(key));
    let stored = Stored::read(case);
    let (steps, density) = (stored.steps(), density(case));
    let token = TokenLogp { tokens: &stored.labels, temperature: density.temperature, with_entropy: false };
    let function = SoftLogp { token, steps: &steps, density };
    let (n, t) = (stored.is_soft.rows(), stored.is_soft.cols());
    let values = |key: &str| -> (Vec<Vec<f64>>, Vec<RowValue>) {
        let logits = cube(case.inputs.get(key)).concat();
        let values = logits.iter().enumerate().map(|(r, z)| function.forward(r, z)).collect();
        (logits, values)
    };
    let logp = |values: &[RowValue]| Table::new(n, t, values.iter().map(|v| v.logp).collect()).unwrap();
    let check = |key: &str, found: &Table| {
        let path = format!("{}.{key}", case.path);
        all_close(&path, found.data(), table(case.expected.get(key)).data(), TOLERANCE);
    };
    let scalar = |key: &str, found: f64| {
        close(&format!("{}.{key}", case.path), found, number(case.expected.get(key)), TOLERANCE);
    };

    // 1. The inputs as training rebuilds them.
    let embeddings = rows(case.inputs.get("embeddings"));
    let inputs: Vec<Vec<f64>> = (0..n * t)
        .map(|r| match &steps[r] {
            Some(step) => mixed(&embeddings, step.ids, &weights(step.scores, config("tau"))),
            None => embeddings[stored.labels[r] as usize].clone(),
        })
        .collect();
    for (r, wanted) in cube(case.expected.get("input_embeddings")).concat().iter().enumerate() {
        all_close(&format!("{}.input_embeddings[{r}]", case.path), &inputs[r], wanted, TOLERANCE);
    }

    // 2. Densities under the three policies.
    let (logits, current) = values("logits_new");
    let (now, old, reference) = (logp(&current), logp(&values("logits_old").1), logp(&values("logits_ref").1));
    check("logp_new", &now);
    check("logp_old", &old);
    check("logp_ref", &reference);
    check("ratio", &now.zip(&old, |a, b| (a - b).exp()));

    // 3. The objective at the leaves.
    let mut batch = batch(case, &stored);
    batch.old_logp = Some(old);
    batch.ref_logp = Some(reference);
    assert_eq!(case.config.text("aggregation"), Some("token_mean"), "{}: aggregation", case.path);
    let settings = |beta: f64| {
        let high = Some(config("clip_high"));
        let dual_clip = config("dual_clip_c");
        SoftGrpo { epsilon: config("clip_low"), epsilon_high: high, dual_clip, beta }.build().unwrap()
    };
    let (plain, penalised) = (settings(0.0), settings(1.0));
    let (first, pg_loss, _) = at_logp(plain.as_ref(), &batch, &now);
    scalar("pg_loss", pg_loss);
    scalar("kl", at_logp(penalised.as_ref(), &batch, &now).1 - pg_loss);
    let own = token_losses(plain.as_ref(), &batch, &now);
    check("token_pg_loss", &own);
    check("token_kl", &token_losses(penalised.as_ref(), &batch, &now).zip(&own, |a, b| a - b));
    for key in ["clip_fraction", "dual_clip_fraction", "approx_kl"] {
        scalar(key, first.metrics.get(key).unwrap_or(0.0));
    }
    let (_, value, gradient) = at_logp(settings(config("kl_coef")).as_ref(), &batch, &now);
    scalar("loss", value);

    // 4. Back through the row function.
    for (r, wanted) in cube(case.expected.get("grad_logits")).concat().iter().enumerate() {
        let mut z = logits[r].clone();
        function.backward(r, &mut z, &current[r], &RowGrad { logp: gradient.data()[r], ..RowGrad::default() });
        all_close(&format!("{}.grad_logits[{r}]", case.path), &z, wanted, TOLERANCE);
    }
}

fn batch(case: &Case, stored: &Stored) -> Batch {
    let groups = ids(case.inputs.get("groups")).into_iter().map(|g| g as usize).collect();
    let mut batch = Batch::new(table(case.inputs.find(&["response_mask", "mask"]).expect("a mask")), groups).unwrap();
    batch.is_soft = Some(stored.is_soft.clone());
    batch.scores.names = vec!["reward".into()];
    batch.scores.values = vector(case.inputs.get("rewards")).into_iter().map(|r| vec![Some(r)]).collect();
    let eps = number(case.config.get("adv_eps"));
    match case.inputs.find(&["advantages_given"]).filter(|given| !given.is_null()) {
        Some(given) => batch.advantage = Some(Advantages::Row(vector(given))),
        None => {
            Group { eps, ..Group::default() }.build().unwrap().apply(&mut batch).unwrap();
        }
    }
    let Some(Advantages::Row(found)) = &batch.advantage else { panic!("{}: one advantage a row", case.path) };
    all_close(&format!("{}.advantages", case.path), found, &vector(case.expected.get("advantages")), TOLERANCE);
    batch
}
