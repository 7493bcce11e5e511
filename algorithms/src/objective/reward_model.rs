//! `objective.reward_model`: a scalar score of an answer, learnt from comparisons.

use candle_core::{Device, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::pairs::{report_mean, require, smoothed, vector};
use super::scalar::log_sigmoid;
use super::{Leaves, Loss, Objective, Rows};
use crate::batch::Role;
use crate::{Batch, Error, Metrics, Needs, Result, State};

/// Win-tie Bradley-Terry (SoliReward): pairs across prompts of answers marked as passing or failing.
///
/// A passing answer against a failing one is a win, -[(1 - e) log sigmoid(d - m) + e log sigmoid(-d - m)]; two
/// passing ones are a tie, -log sigmoid(d - m) - log sigmoid(-d - m), flat while the scores differ by less than m. Up to a
/// constant this is the Rao-Kupper model with theta = exp(m). Source: arXiv 2512.22170 and its code, which has m = 3.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WinTie {
    /// m: by how much two equally good answers may differ; at 0 a tie has probability 0.
    pub margin: f64,
    /// e: the share of wins believed to be labelled the wrong way round, below 0.5.
    pub label_smoothing: f64,
    /// Factor on wins.
    pub win_weight: f64,
    /// Factor on ties.
    pub tie_weight: f64,
    /// Factor on the cross-entropy of sigmoid(score) against passing or failing, averaged over both answers.
    pub bce_weight: f64,
}

impl Default for WinTie {
    fn default() -> Self {
        Self { margin: 3.0, label_smoothing: 0.0, win_weight: 1.0, tie_weight: 1.0, bce_weight: 0.0 }
    }
}

/// Bradley-Terry reward model: a linear head on the last token's hidden state, trained so that the chosen answer scores higher.
///
/// loss = mean over pairs of -log sigmoid(r_c - r_r - m) + `center` (r_c + r_r)^2, with m the pair's margin in the data
/// (`margin`) or 0. With `win_tie` it learns from answers marked as good or bad instead. Writes a sequence-classification
/// checkpoint that transformers loads. Pairs longer than the context are left out, not cut. Source: margins, Llama 2
/// (arXiv 2307.09288); centring, arXiv 2312.09244 eq. 2; the form is that of huggingface/trl 1.16.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RewardModel {
    /// Weight of the squared sum of both scores, which fixes Bradley-Terry's free constant; 0.01 is usual, 0 is off.
    pub center: f64,
    /// Learn from answers marked as good or bad: `prompt`, `completion`, `label`.
    pub win_tie: Option<WinTie>,
}

const STAGE: &str = "objective.reward_model";

impl RewardModel {
    /// The objective, once its settings are found possible.
    pub fn build(&self) -> Result<Box<dyn Objective>> {
        let at = |key: &str| format!("{STAGE}.{key}");
        require(self.center >= 0.0, at("center"), self.center, "it is 0 or above")?;
        if let Some(ties) = &self.win_tie {
            let at = |key: &str| at(&format!("win_tie.{key}"));
            let is_share = (0.0..0.5).contains(&ties.label_smoothing);
            require(ties.margin >= 0.0, at("margin"), ties.margin, "it is 0 or above")?;
            require(is_share, at("label_smoothing"), ties.label_smoothing, "it is a share from 0 to below 0.5")?;
            for (key, weight) in
                [("win_weight", ties.win_weight), ("tie_weight", ties.tie_weight), ("bce_weight", ties.bce_weight)]
            {
                require(weight >= 0.0, at(key), weight, "it is 0 or above")?;
            }
            if self.center > 0.0 {
                return Err(Error::config(
                    at("margin"),
                    ties.margin,
                    "`center` belongs to chosen and rejected answers: set it to 0",
                ));
            }
        }
        Ok(Box::new(self.clone()))
    }
}

/// Bradley-Terry loss of each pair from scores [B] and margins: -log sigmoid(r_c - r_r - m) + k (r_c + r_r)^2.
pub fn bradley_terry(chosen: &Tensor, rejected: &Tensor, margin: &[f64], center: f64) -> Result<Tensor> {
    let loss = log_sigmoid(&((chosen - rejected)? - vector(margin)?)?)?.neg()?;
    match center {
        0.0 => Ok(loss),
        _ => Ok((loss + ((chosen + rejected)?.sqr()? * center)?)?),
    }
}

impl WinTie {
    /// The win term and the tie term of each pair, [B]; d = a - b.
    pub fn terms(&self, a: &Tensor, b: &Tensor) -> Result<(Tensor, Tensor)> {
        let d = (a - b)?;
        let (ahead, behind) = (log_sigmoid(&(&d - self.margin)?)?, log_sigmoid(&(d.neg()? - self.margin)?)?);
        let e = self.label_smoothing;
        let win = ((&ahead * (e - 1.0))? - (&behind * e)?)?;
        Ok((win, (ahead + behind)?.neg()?))
    }

    /// The loss of each pair, [B]: wins where the qualities differ, ties where they are equal, and the cross-entropy.
    pub fn loss(&self, a: &Tensor, b: &Tensor, quality_a: &[f64], quality_b: &[f64]) -> Result<Tensor> {
        let (win, tie) = self.terms(a, b)?;
        let is_win: Vec<f64> = quality_a.iter().zip(quality_b).map(|(a, b)| f64::from(u8::from(a != b))).collect();
        let is_tie: Vec<f64> = is_win.iter().map(|w| 1.0 - w).collect();
        let mut loss =
            ((win * (vector(&is_win)? * self.win_weight)?)? + (tie * (vector(&is_tie)? * self.tie_weight)?)?)?;
        if self.bce_weight > 0.0 {
            for (score, quality) in [(a, quality_a), (b, quality_b)] {
                loss = (loss + (self.cross_entropy(score, quality)? * (0.5 * self.bce_weight))?)?;
            }
        }
        Ok(loss)
    }

    /// Cross-entropy of sigmoid(score) against quality > 0, smoothed towards 1/2.
    fn cross_entropy(&self, score: &Tensor, quality: &[f64]) -> Result<Tensor> {
        let e = self.label_smoothing;
        let signs: Vec<f64> = quality.iter().map(|&q| if q > 0.0 { 1.0 } else { -1.0 }).collect();
        smoothed(&(score * vector(&signs)?)?, 0.5 * e)
    }
}

impl RewardModel {
    /// Scores of some rows, [R].
    fn scores(leaves: &Leaves, rows: &[usize]) -> Result<Tensor> {
        let scores = leaves.score.as_ref().ok_or(Error::MissingColumn { stage: STAGE, column: "score" })?;
        let values = scores.to_vec1::<f64>()?;
        if let Some(&row) = rows.iter().find(|&&r| !values[r].is_finite()) {
            return Err(Error::NonFinite { stage: STAGE, what: "score", row });
        }
        Ok(scores.index_select(&Tensor::new(rows.iter().map(|&r| r as u32).collect::<Vec<_>>(), &Device::Cpu)?, 0)?)
    }

    /// The two rows of each kept group: chosen and rejected, or the first and the second of a comparison.
    fn compared(batch: &Batch) -> Result<(Vec<usize>, Vec<usize>)> {
        let (mut first, mut second) = (Vec::new(), Vec::new());
        for group in batch.groups().into_iter().filter(|g| g.clone().all(|i| batch.keep[i])) {
            if group.len() != 2 {
                return Err(Error::Shape {
                    what: format!("{STAGE}: group {}", batch.group[group.start]),
                    expected: "two answers".into(),
                    found: group.len().to_string(),
                });
            }
            let is_reversed = batch.role[group.start] == Role::Rejected;
            first.push(group.start + usize::from(is_reversed));
            second.push(group.start + usize::from(!is_reversed));
        }
        Ok((first, second))
    }
}

impl Objective for RewardModel {
    fn needs(&self) -> Needs {
        Needs { score_leaf: true, ..Needs::default() }
    }

    fn rows(&self) -> Rows {
        match self.win_tie {
            Some(_) => Rows::PassFail,
            None => Rows::Pairs { with_prompt: false },
        }
    }

    fn couples_rows(&self) -> bool {
        false
    }

    /// Metrics: `reward_accuracy` (share of decided pairs with r_c > r_r), `reward_margin`, `reward_min`,
    /// `reward_mean`, `reward_max` over all answers; `ties`, the number of pairs that are ties.
    fn loss(&self, batch: &Batch, leaves: &Leaves) -> Result<Loss> {
        let (first, second) = Self::compared(batch)?;
        let (a, b) = (Self::scores(leaves, &first)?, Self::scores(leaves, &second)?);
        let quality = |rows: &[usize]| -> Vec<f64> {
            rows.iter().map(|&i| f64::from(u8::from(matches!(batch.role[i], Role::Desirable | Role::Chosen)))).collect()
        };
        let (q_a, q_b) = (quality(&first), quality(&second));
        let per_pair = match &self.win_tie {
            Some(ties) => ties.loss(&a, &b, &q_a, &q_b)?,
            None => {
                let margin: Vec<f64> = first.iter().map(|&i| batch.margin[i].unwrap_or(0.0)).collect();
                bradley_terry(&a, &b, &margin, self.center)?
            }
        };
        let count = (batch.step_totals().groups as f64).max(1.0);
        let value = (per_pair.sum_all()? / count)?;
        let mut metrics = Metrics::new();
        report_mean(&mut metrics, "loss_pair", &per_pair)?;
        report(&mut metrics, (&a, &q_a), (&b, &q_b))?;
        Ok(Loss { value, metrics })
    }
}

fn report(metrics: &mut Metrics, (a, q_a): (&Tensor, &[f64]), (b, q_b): (&Tensor, &[f64])) -> Result<()> {
    let (a, b) = (a.to_vec1::<f64>()?, b.to_vec1::<f64>()?);
    let decided: Vec<f64> =
        (0..a.len()).filter(|&i| q_a[i] != q_b[i]).map(|i| (a[i] - b[i]) * (q_a[i] - q_b[i])).collect();
    let n = decided.len() as f64;
    metrics.mean("reward_accuracy", decided.iter().filter(|d| **d > 0.0).count() as f64 / n, n);
    metrics.mean("reward_margin", decided.iter().sum::<f64>() / n, n);
    metrics.sum("ties", a.len() as f64 - n);
    for score in a.iter().chain(&b) {
        metrics.mean("reward_mean", *score, 1.0);
        metrics.min("reward_min", *score);
        metrics.max("reward_max", *score);
    }
    Ok(())
}

impl State for RewardModel {}

#[cfg(test)]
mod tests {
    use candle_core::Var;

    use super::*;
    use crate::objective::pairs::tests::batch;

    fn run(model: &RewardModel, batch: &Batch, scores: &[f64]) -> (f64, Vec<f64>, Metrics) {
        let score = Var::new(scores, &Device::Cpu).unwrap();
        let logp = Tensor::zeros((scores.len(), 1), candle_core::DType::F64, &Device::Cpu).unwrap();
        let leaves = Leaves { logp, entropy: None, divergence: None, score: Some(score.as_tensor().clone()) };
        let loss = model.build().unwrap().loss(batch, &leaves).unwrap();
        let gradient = loss.value.backward().unwrap().get(&score).unwrap().to_vec1().unwrap();
        (loss.value.to_scalar().unwrap(), gradient, loss.metrics)
    }

    #[test]
    fn gradients_are_finite_differences_and_micro_batches_add_up() {
        let (batch, _) = batch(4, 3);
        let mut answers = batch.clone();
        let roles =
            [Role::Desirable, Role::Undesirable, Role::Desirable, Role::Desirable, Role::Desirable, Role::Undesirable];
        answers.role = roles.to_vec();
        let scores = [0.3, -0.2, 1.5, 2.5, -0.4, 0.9];
        let ties = WinTie { margin: 1.0, bce_weight: 0.3, label_smoothing: 0.1, ..WinTie::default() };
        let models = [
            (RewardModel::default(), &batch),
            (RewardModel { center: 0.05, win_tie: None }, &batch),
            (RewardModel { center: 0.0, win_tie: Some(ties) }, &answers),
        ];
        for (model, batch) in models {
            let (whole, gradient, _) = run(&model, batch, &scores);
            for i in 0..6 {
                let moved = |h: f64| {
                    let mut scores = scores;
                    scores[i] += h;
                    run(&model, batch, &scores).0
                };
                let difference = (moved(1e-6) - moved(-1e-6)) / 2e-6;
                assert!((gradient[i] - difference).abs() < 1e-8);
            }
            let parts = run(&model, &batch.select(&[0, 1]), &scores[..2]).0
                + run(&model, &batch.select(&[2, 3, 4, 5]), &scores[2..]).0;
            assert!((parts - whole).abs() < 1e-14);
        }
    }

    #[test]
    fn a_margin_of_the_data_is_asked_for_and_a_broken_score_is_named() {
        let (mut batch, _) = batch(4, 1);
        let plain = run(&RewardModel::default(), &batch, &[0.5, 0.0]).0;
        batch.margin[0] = Some(1.0);
        let asked = run(&RewardModel::default(), &batch, &[0.5, 0.0]).0;
        assert!((plain - super::super::scalar::soft_plus(-0.5)).abs() < 1e-15);
        assert!((asked - super::super::scalar::soft_plus(0.5)).abs() < 1e-15);
        let score = Some(Tensor::new(&[f64::NAN, 0.0], &Device::Cpu).unwrap());
        let logp = Tensor::zeros((2, 1), candle_core::DType::F64, &Device::Cpu).unwrap();
        let leaves = Leaves { logp, entropy: None, divergence: None, score };
        assert!(matches!(RewardModel::default().loss(&batch, &leaves), Err(Error::NonFinite { row: 0, .. })));
    }
}
