//! What objectives on pairs share: the two sides of each pair, their sums, settings and metrics.

use candle_core::{Device, Tensor};

use super::{Leaves, Loss};
use crate::batch::Role;
use crate::{Batch, Error, Metrics, Result, Table};

/// One side (chosen or rejected) of B pairs.
#[derive(Debug, Clone)]
pub struct Side {
    /// Log-probs of the policy, [B,T], with gradient; 0 at masked entries.
    pub logp: Tensor,
    /// 1 on completion tokens, [B,T].
    pub mask: Table,
    /// Log-probs of the reference, [B,T], where there is one; 0 at masked entries.
    pub reference: Option<Table>,
    /// log sum p^2 of the policy's next-token distributions, [B,T], where asked for.
    pub log_sum_sq: Option<Table>,
}

/// The pairs of a batch, or of a micro-batch of it.
#[derive(Debug, Clone)]
pub struct Pairs {
    /// Chosen and rejected rows of the batch.
    pub rows: Vec<(usize, usize)>,
    /// The better answers.
    pub chosen: Side,
    /// The worse answers.
    pub rejected: Side,
    /// Pairs of the whole optimiser step, the divisor of a mean over pairs.
    pub count: f64,
    /// Tokens of the whole step that are chosen (or prompts to be learnt), the divisor of a mean over them.
    pub chosen_tokens: f64,
}

/// `column` with 0 where the mask is 0; what counts must be finite.
pub(super) fn masked(stage: &'static str, what: &'static str, column: &Table, mask: &Table) -> Result<Table> {
    if (column.rows(), column.cols()) != (mask.rows(), mask.cols()) {
        return Err(Error::Shape {
            what: format!("{what} of a batch"),
            expected: format!("{} x {}", mask.rows(), mask.cols()),
            found: format!("{} x {}", column.rows(), column.cols()),
        });
    }
    let column = column.zip(mask, |x, m| if m == 0.0 { 0.0 } else { x });
    match (0..column.rows()).find(|&i| column.row(i).iter().any(|x| !x.is_finite())) {
        Some(row) => Err(Error::NonFinite { stage, what, row }),
        None => Ok(column),
    }
}

/// Some rows of a leaf, [B,T], with 0 (and no gradient) at masked entries.
pub(super) fn leaf_rows(stage: &'static str, leaf: &Tensor, mask: &Table, rows: &[usize]) -> Result<(Tensor, Table)> {
    let mask = mask.select(rows);
    masked(stage, "logp", &Table::from_tensor(leaf)?.select(rows), &mask)?;
    let index = Tensor::new(rows.iter().map(|&r| r as u32).collect::<Vec<_>>(), &Device::Cpu)?;
    let leaf = leaf.index_select(&index, 0)?;
    let is_on = mask.tensor()?.ne(0.0)?;
    Ok((is_on.where_cond(&leaf, &leaf.zeros_like()?.detach())?, mask))
}

impl Side {
    fn read(stage: &'static str, batch: &Batch, leaves: &Leaves, mask: &Table, rows: &[usize]) -> Result<Self> {
        let (logp, mask) = leaf_rows(stage, &leaves.logp, mask, rows)?;
        let column = |what: &'static str, table: &Option<Table>| -> Result<Option<Table>> {
            table.as_ref().map(|t| masked(stage, what, &t.select(rows), &mask)).transpose()
        };
        let reference = column("ref_logp", &batch.ref_logp)?;
        let log_sum_sq = column("log_sum_sq", &batch.log_sum_sq)?;
        Ok(Self { logp, mask, reference, log_sum_sq })
    }

    /// Log-prob of each answer, [B], with gradient.
    pub fn sum(&self) -> Result<Tensor> {
        Ok(self.logp.sum(1)?)
    }

    /// The same with a weight on every token, [B].
    pub fn weighted_sum(&self, weights: &Table) -> Result<Tensor> {
        Ok((&self.logp * weights.tensor()?)?.sum(1)?)
    }

    /// Tokens of each answer, at least 1, [B].
    pub fn lengths(&self) -> Vec<f64> {
        (0..self.mask.rows()).map(|i| self.mask.row(i).iter().sum::<f64>().max(1.0)).collect()
    }

    /// Mean log-prob of a token of each answer, [B], with gradient.
    pub fn mean(&self) -> Result<Tensor> {
        Ok((self.sum()? / vector(&self.lengths())?)?)
    }
}

/// A list of numbers as an f64 tensor.
pub(super) fn vector(values: &[f64]) -> Result<Tensor> {
    Ok(Tensor::new(values, &Device::Cpu)?)
}

impl Pairs {
    /// The pairs of a batch: groups with a chosen and a rejected row that are both kept.
    ///
    /// Errors: a group with a chosen row and no rejected one, or the reverse; log-probs that are not finite.
    pub fn read(stage: &'static str, batch: &Batch, leaves: &Leaves) -> Result<Self> {
        let mut rows = Vec::new();
        for group in batch.groups() {
            let of = |role: Role| group.clone().find(|&i| batch.role[i] == role && batch.keep[i]);
            match (of(Role::Chosen), of(Role::Rejected)) {
                (Some(chosen), Some(rejected)) => rows.push((chosen, rejected)),
                (None, None) => {}
                (found, _) => {
                    return Err(Error::Shape {
                        what: format!("{stage}: group {} of a batch of pairs", batch.group[group.start]),
                        expected: "a chosen and a rejected row".into(),
                        found: if found.is_some() { "no rejected row" } else { "no chosen row" }.into(),
                    });
                }
            }
        }
        let mask = batch.kept_mask();
        let side = |rows: Vec<usize>| Side::read(stage, batch, leaves, &mask, &rows);
        let totals = batch.step_totals();
        Ok(Self {
            chosen: side(rows.iter().map(|r| r.0).collect())?,
            rejected: side(rows.iter().map(|r| r.1).collect())?,
            rows,
            count: (totals.groups as f64).max(1.0),
            chosen_tokens: (totals.chosen_tokens as f64).max(1.0),
        })
    }

    /// Number of pairs here, B.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no pair.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// This part's share of the mean over all pairs of the step: sum / count.
    pub fn mean(&self, per_pair: &Tensor) -> Result<Tensor> {
        Ok((per_pair.sum_all()? / self.count)?)
    }

    /// This part's share of -mean log-prob over all chosen tokens of the step.
    pub fn chosen_nll(&self) -> Result<Tensor> {
        Ok((self.chosen.logp.sum_all()? / -self.chosen_tokens)?)
    }

    /// Metrics over pairs: `logp_chosen`, `logp_rejected` (nats an answer), `tokens_chosen`,
    /// `tokens_rejected`; `ranking_accuracy`, the share of pairs whose chosen answer the policy finds
    /// at least as likely, and `ranking_accuracy_normalised`, the same a token.
    pub fn report(&self, metrics: &mut Metrics) -> Result<()> {
        let b = self.len() as f64;
        if self.is_empty() {
            return Ok(());
        }
        let mean = |v: &[f64]| v.iter().sum::<f64>() / b;
        let (c, r) = (self.chosen.sum()?.to_vec1::<f64>()?, self.rejected.sum()?.to_vec1::<f64>()?);
        let (n_c, n_r) = (self.chosen.lengths(), self.rejected.lengths());
        metrics.mean("logp_chosen", mean(&c), b);
        metrics.mean("logp_rejected", mean(&r), b);
        metrics.mean("tokens_chosen", mean(&n_c), b);
        metrics.mean("tokens_rejected", mean(&n_r), b);
        let share = |is: &dyn Fn(usize) -> bool| (0..self.len()).filter(|&i| is(i)).count() as f64 / b;
        metrics.mean("ranking_accuracy", share(&|i| c[i] >= r[i]), b);
        metrics.mean("ranking_accuracy_normalised", share(&|i| c[i] / n_c[i] >= r[i] / n_r[i]), b);
        Ok(())
    }
}

/// A two-sided logistic loss a pair: -(1 - e) log sigmoid(x) - e log sigmoid(-x), [B].
pub(super) fn smoothed(x: &Tensor, e: f64) -> Result<Tensor> {
    let wanted = (super::scalar::log_sigmoid(x)? * (e - 1.0))?;
    match e {
        0.0 => Ok(wanted),
        _ => Ok((wanted - (super::scalar::log_sigmoid(&x.neg()?)? * e)?)?),
    }
}

/// Refuses a number outside its range.
pub(super) fn require(holds: bool, key: String, value: f64, why: &str) -> Result<()> {
    match holds && value.is_finite() {
        true => Ok(()),
        false => Err(Error::config(key, value, why)),
    }
}

/// Mean of a tensor [B] as a metric over its B pairs.
pub(super) fn report_mean(metrics: &mut Metrics, name: &str, values: &Tensor) -> Result<()> {
    let values = values.to_vec1::<f64>()?;
    let b = values.len() as f64;
    metrics.mean(name, values.iter().sum::<f64>() / b, b);
    Ok(())
}

/// Refuses settings out of range that losses without a reference share.
pub(super) fn check(stage: &str, beta: f64, label_smoothing: f64, nll_weight: f64) -> Result<()> {
    require(beta > 0.0, format!("{stage}.beta"), beta, "set it above 0")?;
    let is_share = (0.0..0.5).contains(&label_smoothing);
    require(is_share, format!("{stage}.label_smoothing"), label_smoothing, "it is a share from 0 to below 0.5")?;
    require(nll_weight >= 0.0, format!("{stage}.nll_weight"), nll_weight, "it is 0 or above")
}

/// mean over pairs + `nll_weight` x imitation, with the metrics of a loss without a reference:
/// `loss_preference`, `nll` (nats a chosen token), and rewards b logp of an answer under `rewards`.
pub(super) fn finish(pairs: &Pairs, per_pair: &Tensor, nll_weight: f64, rewards: (&Tensor, &Tensor)) -> Result<Loss> {
    let mut metrics = Metrics::new();
    let mut value = pairs.mean(per_pair)?;
    let nll = pairs.chosen_nll()?;
    let tokens = pairs.chosen.mask.sum();
    metrics.mean("nll", nll.to_scalar::<f64>()? * pairs.chosen_tokens / tokens, tokens);
    if nll_weight != 0.0 {
        value = (value + (nll * nll_weight)?)?;
    }
    report_mean(&mut metrics, "loss_preference", per_pair)?;
    pairs.report(&mut metrics)?;
    report_rewards(&mut metrics, rewards)?;
    Ok(Loss { value, metrics })
}

/// `reward_chosen`, `reward_rejected`, `reward_margin`, `reward_accuracy` (strict) of rewards [B].
pub(super) fn report_rewards(metrics: &mut Metrics, (chosen, rejected): (&Tensor, &Tensor)) -> Result<()> {
    let (c, r) = (chosen.to_vec1::<f64>()?, rejected.to_vec1::<f64>()?);
    let b = c.len() as f64;
    let mean = |f: &dyn Fn(usize) -> f64| (0..c.len()).map(f).sum::<f64>() / b;
    metrics.mean("reward_chosen", mean(&|i| c[i]), b);
    metrics.mean("reward_rejected", mean(&|i| r[i]), b);
    metrics.mean("reward_margin", mean(&|i| c[i] - r[i]), b);
    metrics.mean("reward_accuracy", mean(&|i| f64::from(u8::from(c[i] > r[i]))), b);
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use candle_core::Var;

    use super::*;
    use crate::objective::Objective;
    use crate::rng::Rng;

    /// A batch of pairs with random log-probs, reference log-probs and unequal lengths.
    pub(crate) fn batch(seed: u64, pairs: usize) -> (Batch, Table) {
        let mut rng = Rng::keyed(&[seed]);
        let lengths: Vec<usize> = (0..2 * pairs).map(|_| 1 + rng.below(5) as usize).collect();
        let masks: Vec<Vec<f64>> = lengths.iter().map(|&n| vec![1.0; n]).collect();
        let mut batch = Batch::new(Table::ragged(&masks, 0.0), (0..2 * pairs).map(|i| i / 2).collect()).unwrap();
        let (n, t) = (batch.rows(), batch.width());
        let mut table = |spread: f64| {
            let data = (0..n * t).map(|_| -1.0 - spread * rng.normal().abs()).collect();
            Table::new(n, t, data).unwrap()
        };
        let logp = table(1.0);
        batch.ref_logp = Some(table(1.0));
        batch.log_sum_sq = Some(table(0.3));
        for i in 0..n {
            batch.role[i] = if i % 2 == 0 { Role::Chosen } else { Role::Rejected };
            batch.pair[i] = Some(i / 2);
        }
        batch.count_totals();
        (batch, logp)
    }

    /// Loss and gradient at the log-probs.
    pub(crate) fn run(objective: &dyn Objective, batch: &Batch, logp: &Table) -> (Loss, Table) {
        let var = Var::from_tensor(&logp.tensor().unwrap()).unwrap();
        let leaves = Leaves { logp: var.as_tensor().clone(), entropy: None, divergence: None, score: None };
        let loss = objective.loss(batch, &leaves).unwrap();
        let gradient = match loss.value.backward().unwrap().get(&var) {
            Some(gradient) => Table::from_tensor(gradient).unwrap(),
            None => Table::zeros(logp.rows(), logp.cols()),
        };
        (loss, gradient)
    }

    /// Laws of a loss over pairs: the gradient is the finite difference, masked tokens have none, and
    /// (unless rows couple) micro-batches that do not cut a group add up to the whole.
    pub(crate) fn check_laws(objective: &dyn Objective) {
        let (batch, logp) = batch(7, 3);
        let (loss, gradient) = run(objective, &batch, &logp);
        let value = |logp: &Table| run(objective, &batch, logp).0.value.to_scalar::<f64>().unwrap();
        for k in 0..logp.data().len() {
            let moved = |h: f64| {
                let mut logp = logp.clone();
                logp.data_mut()[k] += h;
                value(&logp)
            };
            let difference = (moved(1e-5) - moved(-1e-5)) / 2e-5;
            let found = gradient.data()[k];
            assert!((found - difference).abs() < 1e-7 * difference.abs().max(1.0), "{k}: {found} {difference}");
            assert!(batch.mask.data()[k] != 0.0 || found == 0.0, "a masked token has no gradient");
        }
        if objective.couples_rows() {
            return;
        }
        assert!(objective.couples_group());
        let mut sum = 0.0;
        for rows in [vec![0, 1], vec![2, 3, 4, 5]] {
            let (part, part_gradient) = run(objective, &batch.select(&rows), &logp.select(&rows));
            sum += part.value.to_scalar::<f64>().unwrap();
            let whole = gradient.select(&rows);
            let close = |(a, b): (&f64, &f64)| (a - b).abs() < 1e-14;
            assert!(part_gradient.data().iter().zip(whole.data()).all(close));
        }
        assert!((sum - loss.value.to_scalar::<f64>().unwrap()).abs() < 1e-13);
    }

    #[test]
    fn a_pair_without_its_other_side_is_named() {
        let (mut batch, logp) = batch(1, 2);
        batch.role[3] = Role::Chosen;
        let leaves = Leaves { logp: logp.tensor().unwrap(), entropy: None, divergence: None, score: None };
        let error = Pairs::read("objective.dpo", &batch, &leaves).unwrap_err();
        assert!(error.to_string().contains("no rejected row"), "{error}");
    }
}
