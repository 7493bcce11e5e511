//! `resrl.json`: subspaces, residuals, token weights, and the clipped loss with them as credit.
//!
//! Cases with `lengths` are about the length-scaled reward, which another crate tests with the same file.

use candle_core::{Device, Tensor};
use serde_json::Value;

use super::leaves::{at_logp, cube, token_losses};
use super::{Case, Fields, all_close, cases, close, number, rows, table, vector};
use crate::batch::{Advantages, Verdict};
use crate::credit::resrl::{Fit, Group, Outcome, Resrl};
use crate::objective::grpo::Grpo;
use crate::objective::grpo::aggregate::Aggregation;
use crate::{Batch, Table};

const TOLERANCE: f64 = 1e-9;

#[test]
fn golden_resrl() {
    for case in cases("resrl") {
        if case.inputs.has("lengths") && case.inputs.has("rewards") {
            continue; // the length-scaled reward
        }
        assert!(case.inputs.has("hidden"), "{}: no known kind has the inputs {:?}", case.path, case.inputs.keys());
        Inputs::read(&case).check(&case);
        case.inputs.finish();
        case.config.finish();
        case.expected.finish();
    }
}

struct Inputs {
    settings: Resrl,
    hidden: Vec<Vec<Vec<f64>>>,
    mask: Table,
    sides: Vec<Verdict>,
    prompts: Vec<usize>,
    subset: Option<Vec<usize>>,
}

impl Inputs {
    fn read(case: &Case) -> Self {
        let config = |key: &str| number(case.config.get(key));
        let settings = Resrl {
            rank: config("rank") as usize,
            max_positive_tokens: config("max_positive_tokens") as usize,
            min_positive_tokens: config("min_positive_tokens") as usize,
            q_low: config("q_low"),
            q_high: config("q_high"),
            min_weight: config("min_weight"),
            positive_scale: config("positive_scale"),
            ..Resrl::default()
        };
        for (key, own) in [("ln_eps", 1e-5), ("range_eps", 1e-6), ("degenerate_range", 1e-5)] {
            assert_eq!(config(key), own, "{}: `{key}` is a constant", case.path);
        }
        let score = |s: f64| if s > 0.0 { Verdict::Right } else { Verdict::Wrong };
        Self {
            settings,
            hidden: cube(case.inputs.get("hidden")),
            mask: table(case.inputs.find(&["response_mask", "mask"]).expect("a mask")),
            sides: vector(case.inputs.get("scores")).into_iter().map(score).collect(),
            prompts: vector(case.inputs.get("prompt_ids")).into_iter().map(|p| p as usize).collect(),
            subset: case
                .inputs
                .find(&["positive_token_subset"])
                .filter(|s| !s.is_null())
                .map(|s| vector(s).into_iter().map(|i| i as usize).collect()),
        }
    }

    fn cells(&self, row: usize) -> Vec<usize> {
        (0..self.mask.cols()).filter(|&t| self.mask.row(row)[t] != 0.0).collect()
    }

    /// States of a row's unmasked tokens, [n,H].
    fn states(&self, row: usize) -> Tensor {
        let (cells, h) = (self.cells(row), self.hidden[row][0].len());
        let data: Vec<f64> = cells.iter().flat_map(|&t| self.hidden[row][t].clone()).collect();
        Tensor::from_vec(data, (cells.len(), h), &Device::Cpu).unwrap()
    }

    fn check(&self, case: &Case) {
        let wanted_groups = case.expected.get("groups").as_array().expect("groups");
        let (n, t) = (self.mask.rows(), self.mask.cols());
        let (mut residuals, mut weights) = (Table::zeros(n, t), Table::filled(n, t, 1.0));
        let mut seen = 0;
        for wanted in wanted_groups {
            let wanted = Fields::new(format!("{}.groups[{seen}]", case.path), wanted);
            let prompt = number(wanted.get("prompt")) as usize;
            let members: Vec<usize> = (0..n).filter(|&i| self.prompts[i] == prompt).collect();
            let of = |side: Verdict| members.iter().copied().filter(|&i| self.sides[i] == side).collect::<Vec<_>>();
            let (right, wrong) = (of(Verdict::Right), of(Verdict::Wrong));
            let listed = |key: &str| vector(wanted.get(key)).into_iter().map(|i| i as usize).collect::<Vec<_>>();
            assert_eq!((&right, &wrong), (&listed("positives"), &listed("negatives")), "{}: sides", case.path);
            let states: Vec<Tensor> = members.iter().map(|&i| self.states(i)).collect();
            let sides: Vec<Verdict> = members.iter().map(|&i| self.sides[i]).collect();
            let states: Vec<&Tensor> = states.iter().collect();
            let group = self.settings.weigh(&states, &sides, self.subset.as_deref(), 0).unwrap();
            self.check_group(&group, &wanted);
            if let Outcome::Fitted(fit) = &group.outcome {
                let mut values = fit.residuals.iter().zip(&group.weights);
                for &i in &wrong {
                    for t in self.cells(i) {
                        let (r, w) = values.next().expect("a value for each token");
                        (residuals.row_mut(i)[t], weights.row_mut(i)[t]) = (*r, *w);
                    }
                }
                assert!(values.next().is_none(), "{}: a value for each token", case.path);
            }
            wanted.finish();
            seen += members.len();
        }
        assert_eq!(seen, n, "{}: every row is in a group", case.path);
        let check = |key: &str, found: &Table| {
            let path = format!("{}.{key}", case.path);
            all_close(&path, found.data(), table(case.expected.get(key)).data(), TOLERANCE);
        };
        check("residual_energy", &residuals);
        check("token_weights", &weights);
        let (batch, order) = self.stage(case, &weights);
        let mut modulated = batch.token_advantage("golden").unwrap().zip(batch.credit.as_ref().unwrap(), |a, c| a * c);
        modulated = modulated.zip(&batch.mask, |a, m| a * m);
        let mut back = Table::zeros(n, t);
        order.iter().enumerate().for_each(|(at, &i)| back.row_mut(i).copy_from_slice(modulated.row(at)));
        check("modulated_advantages", &back);
        if case.inputs.has("logp_new") {
            losses(case, batch, &order);
        }
    }

    fn check_group(&self, group: &Group, wanted: &Fields) {
        let fit: &Fit = match &group.outcome {
            Outcome::Skipped(reason) => return assert_eq!(wanted.text("skipped"), Some(*reason), "skipped"),
            Outcome::Fitted(fit) => fit,
        };
        assert!(!wanted.has("skipped"), "a group was expected to be skipped");
        let subspace = &fit.subspace;
        let v = subspace.directions.to_vec2::<f64>().unwrap();
        assert_eq!(subspace.rank as f64, number(wanted.get("k")), "k");
        let centre: Vec<f64> = subspace.centre.flatten_all().unwrap().to_vec1().unwrap();
        all_close("centroid", &centre, &vector(wanted.get("centroid")), TOLERANCE);
        let values = vector(wanted.get("singular_values"));
        all_close("singular_values", &subspace.singular_values[..values.len()], &values, TOLERANCE);
        // Directions have arbitrary signs, their projector has none.
        for (a, wanted) in rows(wanted.get("projector")).iter().enumerate() {
            let found: Vec<f64> = (0..wanted.len()).map(|b| v.iter().map(|v| v[a] * v[b]).sum::<f64>()).collect();
            all_close(&format!("projector[{a}]"), &found, wanted, TOLERANCE);
        }
        close("explained_energy", subspace.energy, number(wanted.get("explained_energy")), TOLERANCE);
        close("q_low_value", fit.low, number(wanted.get("q_low_value")), TOLERANCE);
        close("q_high_value", fit.high, number(wanted.get("q_high_value")), TOLERANCE);
    }

    /// The stage on the batch, with groups side by side; returns the rows' order.
    fn stage(&self, case: &Case, weights: &Table) -> (Batch, Vec<usize>) {
        let mut order: Vec<usize> = (0..self.mask.rows()).collect();
        order.sort_by_key(|&i| self.prompts.iter().position(|p| *p == self.prompts[i]));
        let groups = order.iter().map(|&i| self.prompts[i]).collect();
        let mut batch = Batch::new(self.mask.select(&order), groups).unwrap();
        batch.verdict = order.iter().map(|&i| self.sides[i]).collect();
        batch.hidden = Some(order.iter().map(|&i| self.states(i)).collect());
        let advantages = vector(case.inputs.get("advantages"));
        batch.advantage = Some(Advantages::Row(order.iter().map(|&i| advantages[i]).collect()));
        self.settings.build().unwrap().apply(&mut batch).unwrap();
        if self.subset.is_some() {
            // The stage draws its own subset: the weights of the injected one take the place of its.
            let credit = batch.credit.as_mut().unwrap();
            for (at, &i) in order.iter().enumerate().filter(|(_, i)| self.sides[**i] == Verdict::Wrong) {
                credit.row_mut(at).copy_from_slice(weights.row(i));
            }
        }
        (batch, order)
    }
}

fn losses(case: &Case, mut batch: Batch, order: &[usize]) {
    let config = |key: &str| number(case.config.get(key));
    let column = |value: &Value| table(value).select(order);
    let logp = column(case.inputs.find(&["logp_new", "logp", "logps"]).expect("log-probs"));
    batch.old_logp = Some(column(case.inputs.find(&["logp_old", "old_logp", "old_logprobs"]).expect("old log-probs")));
    let grpo = |aggregation| {
        let (epsilon, epsilon_high) = (config("clip_low"), Some(config("clip_high")));
        let dual_clip = Some(config("dual_clip_c"));
        Grpo { epsilon, epsilon_high, dual_clip, aggregation, ..Grpo::default() }.build().unwrap()
    };
    let by_token = grpo(Some(Aggregation::TokenMean));
    let scalar = |key: &str, found: f64| {
        close(&format!("{}.{key}", case.path), found, number(case.expected.get(key)), TOLERANCE);
    };
    let check = |key: &str, found: &Table| {
        let path = format!("{}.{key}", case.path);
        all_close(&path, found.data(), column(case.expected.get(key)).data(), TOLERANCE);
    };
    let (loss, value, gradient) = at_logp(by_token.as_ref(), &batch, &logp);
    scalar("loss_token_mean", value);
    check("grad_logp_token_mean", &gradient);
    scalar("clip_fraction", loss.metrics.get("clip_fraction").unwrap());
    let tokens = token_losses(by_token.as_ref(), &batch, &logp);
    check("token_pg_loss", &tokens.zip(&batch.mask, |l, m| l * m));
    scalar("loss_sequence_mean", at_logp(grpo(Some(Aggregation::SeqMeanTokenMean)).as_ref(), &batch, &logp).1);
}
