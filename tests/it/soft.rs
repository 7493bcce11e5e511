//! Soft thinking in the engine: rows against batches, sampling against scoring, the gradient of a whole soft step.

use std::ops::ControlFlow;
use std::path::Path;

use candle_core::{DType, Tensor};
use candlewick::config::{Dtype, ModelConfig, SoftConfig};
use candlewick::data::DataConfig;
use candlewick::model::params::Grads;
use candlewick::rollout::{self, Completion, Request, Sampling, Settings, Thinking};
use candlewick::train::policy::{Policy, Reference};
use candlewick::train::update::gradient;
use candlewick_algorithms::batch::{Advantages, Soft};
use candlewick_algorithms::objective::{Objective, ObjectiveConfig};
use candlewick_algorithms::row::soft::mix::Mode;
use candlewick_algorithms::{Batch, Needs, Table};

fn policy(dtype: Dtype) -> Policy {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/quickstart");
    let model = ModelConfig { dtype, ..ModelConfig::named(path.to_str().unwrap()) };
    Policy::load(&model, &DataConfig::default()).unwrap()
}

/// Soft until the first `;`, with softer mixtures than the default.
fn soft(mode: Mode) -> SoftConfig {
    let prob_eps = if mode == Mode::Gumbel { 1e-6 } else { 0.0 };
    SoftConfig { mode, think_end: ";".into(), tau: 0.5, top_p: 1.0, prob_eps, ..SoftConfig::default() }
}

fn settings(policy: &Policy, soft: &SoftConfig, max_rows: usize) -> Settings {
    Settings {
        sampling: Sampling { temperature: 0.9, ..Sampling::default() },
        thinking: Some(Thinking::new(soft, policy.tokenizer()).unwrap()),
        eos: policy.tokenizer().eos().to_vec(),
        stop: None,
        key: vec![3, 1],
        max_rows,
        has_adapter: true,
    }
}

fn requests(policy: &Policy) -> Vec<Request> {
    let prompt = |text: &str| policy.tokenizer().encode(text, false).unwrap();
    let texts = ["3+5=", "9+8+7=", "2+6+4+8=", "1+1+1+1+1="];
    let request = |(i, text): (usize, &&str)| Request { id: i as u64, prompt: prompt(text), samples: 0..4, cap: 24 };
    texts.iter().enumerate().map(request).collect()
}

fn sample(policy: &Policy, soft: &SoftConfig, requests: &[Request], rows: usize) -> Vec<Completion> {
    rollout::generate(&policy.decoder, requests, &settings(policy, soft, rows), |_| ControlFlow::Continue(())).unwrap()
}

#[test]
fn soft_rows_do_not_depend_on_neighbours() {
    let policy = policy(Dtype::F32);
    let requests = requests(&policy);
    for mode in [Mode::Gumbel, Mode::Dirichlet, Mode::Vanilla] {
        let whole = sample(&policy, &soft(mode), &requests, 16);
        for rows in [1, 3] {
            assert_eq!(sample(&policy, &soft(mode), &requests, rows), whole, "{mode:?}, {rows} rows at a time");
        }
        let kept = whole.iter().map(|c| c.soft.len()).sum::<usize>();
        assert_eq!(kept > 0, mode == Mode::Gumbel, "only Gumbel mixtures have a density to keep slots for");
        let texts: std::collections::BTreeSet<_> = whole[..4].iter().map(|c| &c.tokens).collect();
        assert!(texts.len() > 1 || mode == Mode::Vanilla, "{mode:?} has noise");
    }
}

/// The rows of a sampled batch, with advantages and old log-probs that differ from the current ones.
fn batch(policy: &Policy, config: &SoftConfig, trains_inputs: bool) -> Batch {
    let requests = requests(policy);
    let completions = sample(policy, config, &requests, 16);
    let ones: Vec<Vec<f64>> = completions.iter().map(|c| vec![1.0; c.tokens.len()]).collect();
    let mut batch = Batch::new(Table::ragged(&ones, 0.0), completions.iter().map(|c| c.request).collect()).unwrap();
    for (i, c) in completions.iter().enumerate() {
        let prompt = &requests[c.request].prompt;
        batch.tokens[i] = prompt.iter().chain(&c.tokens).copied().collect();
        batch.prompt_len[i] = prompt.len();
    }
    let logp: Vec<&[f64]> = completions.iter().map(|c| c.logp.as_slice()).collect();
    batch.sampling_logp = Some(Table::ragged(&logp, 0.0));
    let rows: Vec<_> = completions.iter().map(|c| c.soft.clone()).collect();
    assert!(rows.iter().map(|r| r.len()).sum::<usize>() > 20, "steps are soft");
    let thinking = Thinking::new(config, policy.tokenizer()).unwrap();
    batch.soft = Some(Soft { rows, density: thinking.density.unwrap(), tau: config.tau, trains_inputs });
    let advantages = (0..batch.rows()).map(|i| if i % 3 == 0 { 1.0 } else { -0.6 }).collect();
    batch.advantage = Some(Advantages::Row(advantages));
    batch.count_totals();
    batch
}

#[test]
fn sampled_densities_equal_scored_ones() {
    let policy = policy(Dtype::F32);
    let mut batch = batch(&policy, &soft(Mode::Gumbel), false);
    policy.score(&mut batch, &Needs { old_logp: true, ..Needs::default() }, 0.9).unwrap();
    let (scored, sampled) = (batch.old_logp.unwrap(), batch.sampling_logp.unwrap());
    for i in 0..scored.rows() {
        for t in (0..scored.cols()).filter(|&t| batch.mask.row(i)[t] != 0.0) {
            let (a, b) = (scored.row(i)[t], sampled.row(i)[t]);
            assert!((a - b).abs() < 2e-3, "row {i}, step {t}: {a} scored, {b} sampled");
        }
    }
}

fn loss(policy: &Policy, objective: &dyn Objective, batch: &Batch) -> (f64, Grads) {
    let mut grads = Grads::new(&policy.decoder.params);
    let update = gradient(policy, objective, batch, &mut grads, 0.9, None).unwrap();
    (update.loss, grads)
}

/// Central differences along a random direction of every tensor, inputs rebuilt each time.
fn check_finite_differences(policy: &mut Policy, objective: &dyn Objective, batch: &Batch) {
    let (_, grads) = loss(policy, objective, batch);
    for id in 0..policy.decoder.params.len() {
        let value = policy.decoder.params.get(id).value.clone();
        let mut rng = candlewick_algorithms::rng::Rng::keyed(&[id as u64]);
        let direction: Vec<f64> = (0..value.elem_count()).map(|_| rng.normal()).collect();
        let direction = Tensor::from_vec(direction, value.dims(), value.device()).unwrap();
        let found = match grads.get(id) {
            Some(g) => (g * &direction).unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap(),
            None => 0.0,
        };
        let mut moved = |h: f64| {
            let param = policy.decoder.params.iter_mut().nth(id).unwrap();
            param.value = (&value + (&direction * h).unwrap()).unwrap();
            loss(policy, objective, batch).0
        };
        let wanted = (moved(1e-6) - moved(-1e-6)) / 2e-6;
        policy.decoder.params.iter_mut().nth(id).unwrap().value = value;
        let name = &policy.decoder.params.get(id).name;
        assert!((found - wanted).abs() < 1e-5 * wanted.abs().max(1e-2), "{name}: {found} {wanted}");
    }
}

#[test]
fn the_gradient_through_a_whole_soft_step_is_the_finite_difference() {
    let mut policy = policy(Dtype::F64);
    policy.micro_tokens = 200; // several micro-batches
    let mut batch = batch(&policy, &soft(Mode::Gumbel), true);
    // Noise is drawn clamped: under the very policy that drew it, it stands on the kink of the density's clamp.
    for param in policy.decoder.params.iter_mut().filter(|p| p.value.rank() > 1) {
        param.value = (&param.value * 0.97).unwrap();
    }
    policy.score(&mut batch, &Needs { old_logp: true, ..Needs::default() }, 0.9).unwrap();
    // Ratios of 0.95 and 1.05, inside the clip and off its edges.
    let old = batch.old_logp.as_mut().unwrap();
    old.data_mut().iter_mut().enumerate().for_each(|(k, l)| *l += if k % 2 == 0 { 0.05 } else { -0.05 });
    let toml = serde_json::json!({"soft_grpo": {"beta": 0.0}});
    let objective = serde_json::from_value::<ObjectiveConfig>(toml).unwrap().build().unwrap();
    check_finite_differences(&mut policy, objective.as_ref(), &batch);

    // With fixed inputs only the table's gradient differs, by what came through the inputs.
    let (_, whole) = loss(&policy, objective.as_ref(), &batch);
    batch.soft.as_mut().unwrap().trains_inputs = false;
    let (_, fixed) = loss(&policy, objective.as_ref(), &batch);
    for id in 0..policy.decoder.params.len() {
        let name = &policy.decoder.params.get(id).name;
        let gap = (whole.get(id).unwrap() - fixed.get(id).unwrap()).unwrap().abs().unwrap();
        let gap = gap.flatten_all().unwrap().max(0).unwrap().to_scalar::<f64>().unwrap();
        assert_eq!(gap > 1e-12, name == "model.embed_tokens.weight", "{name}: {gap}");
    }
}

#[test]
fn the_gradient_of_distillation_is_the_finite_difference() {
    let mut student = policy(Dtype::F64);
    let mut teacher = policy(Dtype::F64);
    for param in teacher.decoder.params.iter_mut().filter(|p| p.value.rank() > 1) {
        param.value = (&param.value * 0.9).unwrap();
    }
    student.reference = Reference::Model(Box::new(teacher.decoder));
    student.micro_tokens = 200;
    let discrete = SoftConfig { max_steps: Some(1), ..soft(Mode::Vanilla) };
    let sampled = |policy: &Policy| {
        let requests = requests(policy);
        let settings = Settings { thinking: None, ..settings(policy, &discrete, 16) };
        let completions = rollout::generate(&policy.decoder, &requests, &settings, |_| ControlFlow::Continue(()));
        let completions = completions.unwrap();
        let ones: Vec<Vec<f64>> = completions.iter().map(|c| vec![1.0; c.tokens.len()]).collect();
        let mut batch = Batch::new(Table::ragged(&ones, 0.0), completions.iter().map(|c| c.request).collect()).unwrap();
        for (i, c) in completions.iter().enumerate() {
            let prompt = &requests[c.request].prompt;
            batch.tokens[i] = prompt.iter().chain(&c.tokens).copied().collect();
            batch.prompt_len[i] = prompt.len();
        }
        batch.mask.row_mut(2)[1] = 0.0; // a token in the middle that does not count
        batch.count_totals();
        batch
    };
    for settings in [
        serde_json::json!({"beta": 1.0, "kd_temperature": 1.5, "alpha": 0.2}),
        serde_json::json!({"beta": 0.5}),
        serde_json::json!({"beta": 0.0, "top_k": 4}),
        serde_json::json!({"beta": 0.0, "top_k": 6, "rest": "sampled"}),
        serde_json::json!({"mode": "policy_gradient"}),
    ] {
        let config = serde_json::json!({ "distill": settings });
        let objective = serde_json::from_value::<ObjectiveConfig>(config).unwrap().build().unwrap();
        let mut batch = sampled(&student);
        student.score(&mut batch, &objective.needs(), 0.9).unwrap();
        let is_gradient_of_loss = objective.divergence().is_some();
        if is_gradient_of_loss {
            check_finite_differences(&mut student, objective.as_ref(), &batch);
        } else {
            // The advantage is a constant of the loss, so the loss itself has another derivative.
            let (value, grads) = loss(&student, objective.as_ref(), &batch);
            assert!(value.is_finite() && grads.get(0).is_some());
        }
    }
    // A teacher equal to the student has nothing to teach.
    student.reference = Reference::Model(Box::new(policy(Dtype::F64).decoder));
    let config = serde_json::json!({"distill": {"beta": 0.5}});
    let objective = serde_json::from_value::<ObjectiveConfig>(config).unwrap().build().unwrap();
    let mut batch = sampled(&student);
    student.score(&mut batch, &objective.needs(), 1.0).unwrap();
    assert!(loss(&student, objective.as_ref(), &batch).0.abs() < 1e-12);
}

#[test]
fn hidden_states_and_group_divergence_come_from_the_scoring_pass() {
    let policy = policy(Dtype::F64);
    let batch = batch(&policy, &soft(Mode::Gumbel), false);
    let score = |needs: Needs| {
        let mut batch = Batch { soft: None, ..batch.clone() };
        batch.mask.row_mut(1).fill(0.0); // an empty completion
        policy.score(&mut batch, &needs, 1.0).map(|()| batch)
    };
    let last_but_one = score(Needs { hidden: Some(-2), ..Needs::default() }).unwrap().hidden.unwrap();
    let by_index = score(Needs { hidden: Some(1), ..Needs::default() }).unwrap().hidden.unwrap();
    assert_eq!(last_but_one[1].dims(), [0, 96]);
    for (i, (a, b)) in last_but_one.iter().zip(&by_index).enumerate() {
        assert_eq!(
            a.to_dtype(DType::F64).unwrap().to_vec2::<f64>().unwrap(),
            b.to_dtype(DType::F64).unwrap().to_vec2::<f64>().unwrap()
        );
        let tokens = if i == 1 { 0 } else { batch.row_tokens(i) as usize };
        assert_eq!(a.dim(0).unwrap(), tokens);
    }
    let error = score(Needs { hidden: Some(3), ..Needs::default() }).unwrap_err().to_string();
    assert!(error.contains("no hidden states at layer 3: choose from 0 to 2, or -1 to -3"), "{error}");
    let apart = score(Needs { group_divergence: true, ..Needs::default() }).unwrap().group_divergence.unwrap();
    let (first, second) = (batch.groups()[0].clone(), batch.groups()[1].start);
    assert!(apart.data().iter().all(|d| *d >= 0.0 && d.is_finite()));
    assert!(apart.row(first.start)[0] > 0.0, "an empty completion is apart from the others");
    assert_eq!(apart.row(first.start), apart.row(first.end - 1), "one value a group");
    assert!(apart.row(second)[0].abs() < 1e-9, "the first token of all completions follows the same prompt");
    assert!(apart.row(second).iter().any(|d| *d > 1e-3));
}

#[test]
fn what_a_model_cannot_serve_is_named() {
    let policy = policy(Dtype::F32);
    let mut config = soft(Mode::Gumbel);
    config.slots = 17;
    let settings = settings(&policy, &config, 1);
    let error = rollout::generate(&policy.decoder, &requests(&policy), &settings, |_| ControlFlow::Continue(()));
    assert!(error.unwrap_err().to_string().starts_with("17 slots are more than the model's vocabulary of 16"));
    config.think_end = "</think>".into();
    let error = Thinking::new(&config, policy.tokenizer()).unwrap_err().to_string();
    assert!(error.contains("the end marker `</think>` is") && error.contains("must be one"), "{error}");
}
