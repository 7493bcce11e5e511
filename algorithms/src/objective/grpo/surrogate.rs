//! The loss of each token, before masks, weights and averaging.

use candle_core::Tensor;

use super::Columns;
use super::ratio::Ratio;
use super::settings::{Grpo, LossType};
use crate::{Metrics, Result, Table};

/// The loss of each token, [N,T], with gradient; see [`LossType`] for the formulas.
pub(super) fn loss(
    settings: &Grpo,
    columns: &Columns,
    ratio: &Ratio,
    mismatch: Option<&Table>,
    metrics: &mut Metrics,
) -> Result<Tensor> {
    match settings.loss {
        LossType::Grpo | LossType::Bnpo | LossType::DrGrpo | LossType::Dapo | LossType::Luspo => {
            clipped(settings, columns, ratio, metrics)
        }
        LossType::Cispo => cispo(settings, columns, ratio, metrics),
        LossType::Sapo => sapo(settings, columns, ratio),
        LossType::Vespo => vespo(settings, columns, ratio, mismatch, metrics),
        LossType::Reinforce => weighted_logp(&columns.advantage, columns),
    }
}

/// -min(min(rho, delta) A, clip(rho) A), and for A < 0 at most -A c.
fn clipped(settings: &Grpo, columns: &Columns, ratio: &Ratio, metrics: &mut Metrics) -> Result<Tensor> {
    let (low, high) = settings.clip_range();
    let advantage = columns.advantage.tensor()?;
    let values = ratio.value.detach();
    let (mut rho, mut capped) = (ratio.value.clone(), values.clone());
    if let Some(delta) = settings.delta {
        capped = values.clamp(0.0, delta)?;
        rho = values.le(delta)?.where_cond(&ratio.value, &capped)?;
    }
    let unclipped = (rho * &advantage)?;
    let bound = (values.clamp(low, high)? * &advantage)?;
    // Within the clip range both are equal and the gradient must flow, so ties go to the ratio.
    let mut loss = unclipped.detach().le(&bound)?.where_cond(&unclipped, &bound)?.neg()?;
    if let Some(c) = settings.dual_clip {
        let ceiling = advantage.affine(-c, 0.0)?;
        let is_capped = (advantage.lt(0.0)? * loss.detach().gt(&ceiling)?)?;
        loss = is_capped.where_cond(&ceiling, &loss)?;
    }
    report_clipping(&Table::from_tensor(&capped)?, columns, ratio.is_per_row, (low, high), metrics);
    Ok(loss)
}

/// `clip_fraction_low` (rho < 1 - epsilon, A < 0), `clip_fraction_high` (rho > 1 + epsilon_high, A > 0) and
/// `clip_fraction` (either): share of tokens, of rows at the sequence levels, and `..._row_max`, the
/// largest share within a row. Healthy under about 1 % with one update a rollout.
fn report_clipping(ratio: &Table, columns: &Columns, is_per_row: bool, range: (f64, f64), metrics: &mut Metrics) {
    let cells = ratio.zip(&columns.advantage, |r, a| {
        if r < range.0 && a < 0.0 {
            -1.0
        } else if r > range.1 && a > 0.0 {
            1.0
        } else {
            0.0
        }
    });
    let cells = cells.zip(&columns.mask, |c, m| c * m);
    for i in (0..cells.rows()).filter(|&i| columns.keep[i]) {
        let tokens: f64 = columns.mask.row(i).iter().sum();
        let share = |is_counted: fn(f64) -> bool| {
            cells.row(i).iter().filter(|&&c| is_counted(c)).count() as f64 / tokens.max(1.0)
        };
        let low = share(|c| c < 0.0);
        let high = share(|c| c > 0.0);
        for (name, value) in [("clip_fraction_low", low), ("clip_fraction_high", high), ("clip_fraction", low + high)] {
            metrics.mean(name, value, if is_per_row { 1.0 } else { tokens });
            metrics.max(&format!("{name}_row_max"), value);
        }
    }
}

/// -sg[clip(rho, cispo_min, epsilon_high)] A logp. `cispo_clip_fraction`: share of tokens with positive
/// advantage above the cap.
fn cispo(settings: &Grpo, columns: &Columns, ratio: &Ratio, metrics: &mut Metrics) -> Result<Tensor> {
    let (low, high) = settings.cispo_range();
    let values = Table::from_tensor(&ratio.value)?;
    let tokens = columns.mask.sum();
    let capped = values.zip(&columns.advantage, |r, a| f64::from(u8::from(r > high && a > 0.0)));
    metrics.mean("cispo_clip_fraction", capped.zip(&columns.mask, |c, m| c * m).sum() / tokens, tokens);
    weighted_logp(&values.zip(&columns.advantage, |r, a| r.clamp(low, high) * a), columns)
}

/// -(4/tau) sigmoid(tau (rho - 1)) A, tau by the sign of A.
fn sapo(settings: &Grpo, columns: &Columns, ratio: &Ratio) -> Result<Tensor> {
    let mut tau = columns.advantage.clone();
    tau.data_mut().iter_mut().for_each(|a| *a = if *a > 0.0 { settings.sapo_tau_pos } else { settings.sapo_tau_neg });
    let scale = columns.advantage.zip(&tau, |a, tau| -4.0 * a / tau).tensor()?;
    let gate = (ratio.value.affine(1.0, -1.0)? * tau.tensor()?)?;
    let sigmoid = gate.neg()?.exp()?.affine(1.0, 1.0)?.recip()?;
    Ok((sigmoid * scale)?)
}

/// -sg[phi] A logp, phi = exp(lambda + k ln W - lambda W), W the ratio of the whole row, mismatch
/// weights included. `vespo_phi`: mean of phi over tokens.
fn vespo(
    settings: &Grpo,
    columns: &Columns,
    ratio: &Ratio,
    mismatch: Option<&Table>,
    metrics: &mut Metrics,
) -> Result<Tensor> {
    let v = &settings.vespo;
    let mut scale = columns.advantage.clone();
    let (mut phis, tokens) = (0.0, columns.mask.sum());
    for i in 0..scale.rows() {
        let mask = columns.mask.row(i);
        let mut log: f64 = ratio.log.row(i).iter().zip(mask).map(|(x, m)| m * x.clamp(-20.0, 20.0)).sum();
        if let Some(weights) = mismatch {
            // A weight of 0 makes W as small as it can be.
            log += weights.row(i).iter().zip(mask).filter(|(_, m)| **m > 0.0).map(|(w, _)| w.ln()).sum::<f64>();
        }
        let log = log.clamp(1e-8_f64.ln(), 20.0);
        for (a, &m) in scale.row_mut(i).iter_mut().zip(mask) {
            let (k, lambda) = if *a >= 0.0 { (v.k_pos, v.lambda_pos) } else { (v.k_neg, v.lambda_neg) };
            let phi = (lambda + k * log - lambda * log.exp()).exp();
            phis += m * phi;
            *a *= phi;
        }
    }
    metrics.mean("vespo_phi", phis / tokens, tokens);
    weighted_logp(&scale, columns)
}

/// -weight x logp, the weight a constant.
fn weighted_logp(weight: &Table, columns: &Columns) -> Result<Tensor> {
    Ok((&columns.logp * weight.tensor()?)?.neg()?)
}
