//! The losses of a pair, functions of four answers' log-probs.

use candle_core::{Device, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Dpo;
use crate::objective::pairs::{Pairs, smoothed, vector};
use crate::objective::scalar::{log_sigmoid, positive_part, sigmoid};
use crate::{Error, Result, Table};

/// The loss of a pair; b is beta, e the label smoothing, dc and dr the log-ratios of the chosen and
/// the rejected answer to the reference, sc and sr their scores (equal to them but under another
/// `f_divergence`), D = sc - sr, n tokens of an answer, lsg = log sigmoid.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DpoLoss {
    /// -lsg(b D): DPO, arXiv 2305.18290.
    #[default]
    Sigmoid,
    /// -(1 - e) lsg(b D) - e lsg(-b D): conservative DPO, for labels wrong at rate e.
    Cdpo,
    /// max(0, 1 - b D): SLiC, arXiv 2305.10425.
    Hinge,
    /// (sc/nc - sr/nr - 1/(2 b))^2: IPO with scores a token, arXiv 2310.12036; b is the paper's tau.
    Ipo,
    /// p (lsg(b D) - log(1 - e)) + (1 - p) (lsg(-b D) - log e), p = sigmoid(b D): EXO, arXiv 2402.00856; needs e > 0, the paper has 1e-3.
    ExoPair,
    /// -lsg(b dc) - lsg(-b dc)/2 - lsg(-b dr)/2: NCA, arXiv 2402.05369.
    NcaPair,
    /// [-(1 - e) lsg(b D) + e lsg(-b D)] / (1 - 2 e): robust DPO, arXiv 2403.00409; no lower bound for e > 0.
    Robust,
    /// -lsg(b dc) - lsg(-b dr): BCO without its running shift, arXiv 2404.04656.
    BcoPair,
    /// (dc - 1/(2 b))^2 + (dr + 1/(2 b))^2: SPPO, arXiv 2405.00675.
    SppoHard,
    /// Conservative DPO between the sorted differences of the policy and those of the reference: AOT, arXiv 2406.05882. Couples the batch.
    Aot,
    /// The same between sorted dc and sorted dr.
    AotUnpaired,
    /// sigmoid(-b dc) + sigmoid(b dr): raises chosen, lowers rejected answers. APO, arXiv 2408.06266.
    ApoZero,
    /// sigmoid(b dc) + sigmoid(-b (dc - dr)): lowers both, the rejected more. APO, arXiv 2408.06266.
    ApoDown,
    /// (1 - g) (-lsg(x)) + g exp(-x), x = b D, g = sigmoid(x / `discopop_tau`): DiscoPOP, arXiv 2406.08414.
    Discopop,
    /// -lsg(b (sc/nc - sr/nr)): DPO with scores a token.
    SigmoidNorm,
    /// -mean log-prob over all chosen tokens of the batch: the imitation term of mixtures (RPO, arXiv 2404.19733, divides by each answer's length instead).
    Sft,
}

impl DpoLoss {
    /// Whether label smoothing enters it.
    pub fn smooths(self) -> bool {
        matches!(self, Self::Cdpo | Self::Robust | Self::ExoPair | Self::Aot | Self::AotUnpaired)
    }

    /// Whether it is written in scores, so that another divergence may stand behind it.
    pub fn takes_divergence(self) -> bool {
        matches!(
            self,
            Self::Sigmoid
                | Self::Cdpo
                | Self::SigmoidNorm
                | Self::Hinge
                | Self::Ipo
                | Self::ExoPair
                | Self::Robust
                | Self::Discopop
                | Self::Sft
        )
    }

    /// Whether it compares answers of different pairs.
    pub fn sorts(self) -> bool {
        matches!(self, Self::Aot | Self::AotUnpaired)
    }

    /// Its name in the config.
    pub fn name(self) -> String {
        serde_json::to_value(self).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
    }
}

/// What the losses are written in, each [B].
#[derive(Debug, Clone)]
pub struct Terms {
    /// Log-probs of the chosen answers under the policy, C.
    pub chosen: Tensor,
    /// Of the rejected answers, R.
    pub rejected: Tensor,
    /// Log-probs under the reference, times `reference_weight`: C0 and R0.
    pub reference: (Tensor, Tensor),
    /// dc and dr.
    pub ratios: (Tensor, Tensor),
    /// sc and sr.
    pub scores: (Tensor, Tensor),
    /// nc and nr.
    pub lengths: (Tensor, Tensor),
}

impl Terms {
    /// The terms of pairs under the settings.
    pub fn new(settings: &Dpo, pairs: &Pairs) -> Result<Self> {
        let (w_c, w_r) = match settings.ld_alpha {
            Some(alpha) => tail_weights(alpha, &pairs.chosen.mask, &pairs.rejected.mask),
            None => (pairs.chosen.mask.clone(), pairs.rejected.mask.clone()),
        };
        let (chosen, rejected) = (pairs.chosen.weighted_sum(&w_c)?, pairs.rejected.weighted_sum(&w_r)?);
        let reference = |side: &Option<Table>, weights: &Table| -> Result<Tensor> {
            let Some(side) = side.as_ref().filter(|_| settings.reference_weight != 0.0) else {
                return match settings.reference_weight {
                    0.0 => vector(&vec![0.0; weights.rows()]),
                    _ => Err(Error::MissingColumn { stage: super::STAGE, column: "ref_logp" }),
                };
            };
            let weighted = side.zip(weights, |x, w| x * w);
            let sums = (0..weighted.rows()).map(|i| settings.reference_weight * weighted.row(i).iter().sum::<f64>());
            vector(&sums.collect::<Vec<_>>())
        };
        let reference = (reference(&pairs.chosen.reference, &w_c)?, reference(&pairs.rejected.reference, &w_r)?);
        let ratios = ((&chosen - &reference.0)?, (&rejected - &reference.1)?);
        let score = |ratio: &Tensor| settings.f_divergence.score(ratio, settings.f_alpha);
        let scores = (score(&ratios.0)?, score(&ratios.1)?);
        let lengths = (vector(&pairs.chosen.lengths())?, vector(&pairs.rejected.lengths())?);
        Ok(Self { chosen, rejected, reference, ratios, scores, lengths })
    }

    /// The loss of each pair, [B]; of sorted losses, in order of size. `sft` is one number for the
    /// batch and not computed here.
    pub fn loss(&self, kind: DpoLoss, settings: &Dpo) -> Result<Tensor> {
        let (b, e) = (settings.beta, settings.label_smoothing);
        let (dc, dr) = (&self.ratios.0, &self.ratios.1);
        let gap = (&self.scores.0 - &self.scores.1)?;
        let x = (&gap * b)?;
        let lsg = |x: &Tensor, factor: f64| log_sigmoid(&(x * factor)?);
        let per_token =
            || -> Result<Tensor> { Ok(((&self.scores.0 / &self.lengths.0)? - (&self.scores.1 / &self.lengths.1)?)?) };
        Ok(match kind {
            DpoLoss::Sigmoid => lsg(&gap, b)?.neg()?,
            DpoLoss::Cdpo => smoothed(&x, e)?,
            DpoLoss::Hinge => positive_part(&(1.0 - &x)?)?,
            DpoLoss::Ipo => (per_token()? - 0.5 / b)?.sqr()?,
            DpoLoss::ExoPair => {
                let right = (sigmoid(&x)? * (log_sigmoid(&x)? - (-e).ln_1p())?)?;
                let wrong = (sigmoid(&x.neg()?)? * (log_sigmoid(&x.neg()?)? - e.ln())?)?;
                (right + wrong)?
            }
            DpoLoss::NcaPair => {
                let spread = (lsg(dc, -b)? + lsg(dr, -b)?)?;
                ((spread * -0.5)? - lsg(dc, b)?)?
            }
            DpoLoss::Robust => {
                let right = (log_sigmoid(&x)? * (e - 1.0))?;
                ((right + (log_sigmoid(&x.neg()?)? * e)?)? / (1.0 - 2.0 * e))?
            }
            DpoLoss::BcoPair => (lsg(dc, b)? + lsg(dr, -b)?)?.neg()?,
            DpoLoss::SppoHard => ((dc - 0.5 / b)?.sqr()? + (dr + 0.5 / b)?.sqr()?)?,
            DpoLoss::Aot => {
                let policy = (&self.chosen - &self.rejected)?;
                let reference = (&self.reference.0 - &self.reference.1)?;
                smoothed(&((sorted(&policy)? - sorted(&reference)?)? * b)?, e)?
            }
            DpoLoss::AotUnpaired => smoothed(&((sorted(dc)? - sorted(dr)?)? * b)?, e)?,
            DpoLoss::ApoZero => (sigmoid(&(dc * -b)?)? + sigmoid(&(dr * b)?)?)?,
            DpoLoss::ApoDown => (sigmoid(&(dc * b)?)? + sigmoid(&((dc - dr)? * -b)?)?)?,
            DpoLoss::Discopop => {
                let inner = (&x / settings.discopop_tau)?;
                // g exp(-x) in one exponential: at far negative x it is 0, not 0 times infinity.
                let steep = (log_sigmoid(&inner)? - &x)?.exp()?;
                (steep - (sigmoid(&inner.neg()?)? * log_sigmoid(&x)?)?)?
            }
            DpoLoss::SigmoidNorm => lsg(&per_token()?, b)?.neg()?,
            DpoLoss::Sft => {
                return Err(Error::config("objective.dpo.loss", "sft", "it has no value a pair"));
            }
        })
    }
}

/// Weights of tokens under length desensitisation: 1 on the first `shared` tokens of both answers,
/// `alpha` on what the longer one has more. "Length Desensitization in DPO", arXiv 2409.06411.
fn tail_weights(alpha: f64, chosen: &Table, rejected: &Table) -> (Table, Table) {
    let (mut w_c, mut w_r) = (chosen.clone(), rejected.clone());
    for i in 0..chosen.rows() {
        let shared = chosen.row(i).iter().sum::<f64>().min(rejected.row(i).iter().sum());
        for weights in [w_c.row_mut(i), w_r.row_mut(i)] {
            let mut place = 0.0;
            for w in weights.iter_mut().filter(|w| **w != 0.0) {
                place += *w;
                *w *= if place > shared { alpha } else { 1.0 };
            }
        }
    }
    (w_c, w_r)
}

/// The entries of [B] in ascending order; equal ones keep their order.
fn sorted(values: &Tensor) -> Result<Tensor> {
    let numbers = values.to_vec1::<f64>()?;
    let mut order: Vec<u32> = (0..numbers.len() as u32).collect();
    order.sort_by(|&a, &b| numbers[a as usize].total_cmp(&numbers[b as usize]));
    Ok(values.index_select(&Tensor::new(order, &Device::Cpu)?, 0)?)
}

/// WPO's weight of each pair, [B]: exp of the mean of logp - log sum p^2 over the tokens of each
/// side, multiplied; never renormalised and possibly above 1, as in TRL 1.16. No gradient.
/// Source: "WPO: Enhancing RLHF with Weighted Preference Optimization", arXiv 2406.11827.
pub fn wpo_weights(pairs: &Pairs) -> Result<Vec<f64>> {
    let mut weights = vec![1.0; pairs.len()];
    for side in [&pairs.chosen, &pairs.rejected] {
        let Some(log_sum_sq) = &side.log_sum_sq else {
            return Err(Error::MissingColumn { stage: super::STAGE, column: "log_sum_sq" });
        };
        let logp = Table::from_tensor(&side.logp)?;
        for (i, n) in side.lengths().into_iter().enumerate() {
            let sum: f64 = logp.row(i).iter().zip(log_sum_sq.row(i)).map(|(l, s)| l - s).sum();
            weights[i] *= (sum / n).exp();
        }
    }
    Ok(weights)
}
