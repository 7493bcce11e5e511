//! `objective.distill`: a frozen teacher's next-token distributions in place of, or beside, a reward.

use candle_core::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Leaves, Loss, Objective, Reads};
use crate::batch::TeacherNeed;
use crate::row::divergence::{Divergence, Rest, Softening};
use crate::{Batch, Error, Metrics, Needs, Result, State, Table};

const STAGE: &str = "objective.distill";
/// Log-ratios beyond this are cut before the exponential.
const LOG_LIMIT: f64 = 20.0;

/// How the teacher's judgement becomes a gradient.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// The divergence between whole next-token distributions, differentiated. GKD, arXiv 2306.13649.
    #[default]
    Divergence,
    /// A policy gradient with the advantage ln p(y) - ln q(y) of the token y that was sampled: needs the teacher's
    /// log-prob of that token only. Its expectation is the gradient of the reverse KL on visited states. After MiniLLM, arXiv 2306.08543.
    PolicyGradient,
}

/// Distillation from the reference model, p, into the policy, q, which must share the tokenizer.
///
/// `divergence`: loss = mean over tokens of alpha CE(y) + (1 - alpha) T^2 D_T(p, q), D by `beta`: 0 forward KL, 1 reverse
/// KL, between generalised Jensen-Shannon (whose ends are special-cased: 0.01 is far weaker than 0).
/// `policy_gradient`: loss = -mean of A logp with A = kd_weight (sum of gamma^(s-t) (ref_logp_s - logp_s) from t on), no gradient through A,
/// plus the reward's advantage if `adds_advantage`; with old log-probs (several updates a rollout) the clipped ratio takes logp's place.
///
/// With a [rollout] section the policy's own samples are learned from (on-policy, GKD's lambda = 1),
/// without one the completions of [data] (lambda = 0); shares between are not offered. Means are over the
/// tokens of the whole optimiser step. Failing signs: divergence falls while length explodes or entropy nears 0.
/// TRL's GKD has no T^2 and runs the divergence at temperature 1 whatever its `temperature`; here `kd_temperature` is its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Distill {
    /// How the teacher's judgement becomes a gradient.
    pub mode: Mode,
    /// Weight of the teacher in the mixture: 0 = forward KL, usual on given text; 1 = reverse KL, usual on own samples.
    pub beta: f64,
    /// Temperature T of both distributions in the divergence; apart from the sampling temperature.
    pub kd_temperature: f64,
    /// Whether the divergence is multiplied by T^2, which keeps its gradient's size beside other terms.
    pub scales_by_temperature: bool,
    /// How T softens the teacher.
    pub softening: Softening,
    /// Divides divergences between the ends by beta (1 - beta), so that they do not vanish near them.
    pub jsd_rescale: bool,
    /// Compare with this many tokens of the teacher only, kept from the scoring pass; for given texts the teacher is asked
    /// once, its tokens are kept on disk, and it is dropped. Absent = all, with a pass of the teacher's head in every update.
    #[schemars(range(min = 1))]
    pub top_k: Option<usize>,
    /// What the probability outside those tokens is.
    pub rest: Rest,
    /// Weight of the cross-entropy of the completion's own tokens.
    pub alpha: f64,
    /// `policy_gradient`: discount of later tokens' advantages; 0 takes each token's own.
    pub gamma: f64,
    /// `policy_gradient`: bounds the advantage of each token, before the discount; absent = no bound.
    pub advantage_clip: Option<f64>,
    /// `policy_gradient`: multiplies the teacher's advantage.
    pub kd_weight: f64,
    /// `policy_gradient`: whether the reward's advantage (times credit) is added.
    pub adds_advantage: bool,
    /// `policy_gradient`: the ratio is clipped at 1 +- epsilon.
    pub epsilon: f64,
}

impl Default for Distill {
    fn default() -> Self {
        Self {
            mode: Mode::Divergence,
            beta: 1.0,
            kd_temperature: 1.0,
            scales_by_temperature: true,
            softening: Softening::Power,
            jsd_rescale: false,
            top_k: None,
            rest: Rest::Tail,
            alpha: 0.0,
            gamma: 0.0,
            advantage_clip: None,
            kd_weight: 1.0,
            adds_advantage: false,
            epsilon: 0.2,
        }
    }
}

impl Distill {
    /// The objective. Errors: settings that can never work, or that this mode would not read.
    pub fn build(&self) -> Result<Box<dyn Objective>> {
        let refuse = |name: &str, value: &dyn std::fmt::Display, why: &str| {
            Err(Error::config(format!("objective.distill.{name}"), value, why))
        };
        let is_positive = |x: f64| x > 0.0 && x.is_finite();
        for (name, x) in [("beta", self.beta), ("alpha", self.alpha), ("gamma", self.gamma), ("epsilon", self.epsilon)]
        {
            if !(0.0..=1.0).contains(&x) {
                return refuse(name, &x, "it lies from 0 to 1");
            }
        }
        if !is_positive(self.kd_temperature) {
            return refuse("kd_temperature", &self.kd_temperature, "logits are divided by it: choose above 0");
        }
        if self.softening == Softening::UniformMixture && self.kd_temperature < 1.0 {
            return refuse("kd_temperature", &self.kd_temperature, "`uniform_mixture` softens only: choose 1 or more");
        }
        if !self.kd_weight.is_finite() {
            return refuse("kd_weight", &self.kd_weight, "a weight is a finite number");
        }
        if let Some(c) = self.advantage_clip.filter(|c| !is_positive(*c)) {
            return refuse("advantage_clip", &c, "a bound is a positive number of nats, such as 5");
        }
        match self.mode {
            Mode::Divergence => self.check_divergence()?,
            Mode::PolicyGradient => self.check_policy_gradient()?,
        }
        Ok(Box::new(self.clone()))
    }

    fn check_divergence(&self) -> Result<()> {
        let refuse = |name: &str, value: &dyn std::fmt::Display, why: &str| {
            Err(Error::config(format!("objective.distill.{name}"), value, why))
        };
        let only = "only `mode` = \"policy_gradient\" reads it: leave it out";
        if self.gamma != 0.0 {
            return refuse("gamma", &self.gamma, only);
        }
        if let Some(c) = &self.advantage_clip {
            return refuse("advantage_clip", c, only);
        }
        if self.adds_advantage {
            return refuse("adds_advantage", &true, only);
        }
        let Some(k) = self.top_k else {
            let is_set = self.rest != Rest::Tail;
            return if is_set { refuse("rest", &"set", "a whole teacher leaves no rest: set `top_k`") } else { Ok(()) };
        };
        if k == 0 {
            return refuse("top_k", &k, "a teacher names at least one token");
        }
        if self.kd_temperature != 1.0 {
            let why = "the shape of what `top_k` leaves out is not known, so it cannot be softened: use 1";
            return refuse("kd_temperature", &self.kd_temperature, why);
        }
        if self.rest != Rest::Tail && self.beta != 0.0 {
            return refuse("beta", &self.beta, "without a tail only the forward divergence is defined: use 0");
        }
        Ok(())
    }

    fn check_policy_gradient(&self) -> Result<()> {
        let plain = Self::default();
        let unread = [
            ("kd_temperature", self.kd_temperature != plain.kd_temperature),
            ("alpha", self.alpha != plain.alpha),
            ("top_k", self.top_k.is_some()),
            ("beta", self.beta != plain.beta),
            ("rest", self.rest != plain.rest),
            ("softening", self.softening != plain.softening),
            ("jsd_rescale", self.jsd_rescale),
        ];
        match unread.iter().find(|(_, is_set)| *is_set) {
            Some((name, _)) => Err(Error::config(
                format!("objective.distill.{name}"),
                "set",
                "only `mode` = \"divergence\" reads it: leave it out",
            )),
            None => Ok(()),
        }
    }

    /// T^2, or 1.
    fn scale(&self) -> f64 {
        if self.scales_by_temperature { self.kd_temperature * self.kd_temperature } else { 1.0 }
    }

    /// The teacher's advantage of each token, [N,T]: log-prob differences, bounded, then summed with discount
    /// from each token to the end of its row. 0 where masked.
    pub fn teacher_advantage(&self, teacher: &Table, student: &Table, mask: &Table) -> Table {
        let mut advantage = teacher.zip(student, |p, q| p - q);
        if let Some(c) = self.advantage_clip {
            advantage.data_mut().iter_mut().for_each(|a| *a = a.clamp(-c, c));
        }
        advantage = advantage.zip(mask, |a, m| if m == 0.0 { 0.0 } else { a });
        if self.gamma > 0.0 {
            for i in 0..advantage.rows() {
                let mut later = 0.0;
                for (a, &m) in advantage.row_mut(i).iter_mut().zip(mask.row(i)).rev() {
                    if m != 0.0 {
                        later = *a + self.gamma * later;
                        *a = later;
                    }
                }
            }
        }
        advantage
    }

    fn by_divergence(&self, batch: &Batch, leaves: &Leaves, mask: &Table) -> Result<Loss> {
        let leaf = leaves.divergence.as_ref().ok_or(Error::MissingColumn { stage: STAGE, column: "divergence" })?;
        let values = finite(leaf, mask, "divergence (a reverse KL is infinite where the teacher excludes a token)")?;
        let (own, tokens) = (mask.sum(), (batch.step_totals().tokens as f64).max(1.0));
        let shares = mask.tensor()?.affine((1.0 - self.alpha) * self.scale() / tokens, 0.0)?;
        let mut value = (on(leaf, mask)? * shares)?.sum_all()?;
        let mut metrics = Metrics::new();
        metrics.mean("divergence", values.sum() / own, own);
        if self.scale() != 1.0 {
            metrics.mean("divergence_scaled", self.scale() * values.sum() / own, own);
        }
        let logp = finite(&leaves.logp, mask, "logp")?;
        metrics.mean("ce", -logp.sum() / own, own);
        if self.alpha > 0.0 {
            let shares = mask.tensor()?.affine(-self.alpha / tokens, 0.0)?;
            value = (value + (on(&leaves.logp, mask)? * shares)?.sum_all()?)?;
        }
        Ok(Loss { value, metrics })
    }

    fn by_policy_gradient(&self, batch: &Batch, leaves: &Leaves, mask: &Table) -> Result<Loss> {
        let now = finite(&leaves.logp, mask, "logp")?;
        let teacher = batch.column(STAGE, "ref_logp", &batch.ref_logp)?;
        let teacher = finite(&teacher.tensor()?, mask, "ref_logp")?;
        let start = match &batch.old_logp {
            Some(old) => finite(&old.tensor()?, mask, "old_logp")?,
            None => now.clone(),
        };
        let (own, tokens) = (mask.sum(), (batch.step_totals().tokens as f64).max(1.0));
        let mut metrics = Metrics::new();
        let gap = start.zip(&teacher, |q, p| q - p);
        metrics.mean("kl", gap.sum() / own, own);
        metrics.mean("teacher_logp", teacher.sum() / own, own);
        if let Some(c) = self.advantage_clip {
            let beyond = gap.data().iter().filter(|g| g.abs() > c).count() as f64;
            metrics.mean("advantage_clipped", beyond / own, own);
        }
        let mut advantage = self.teacher_advantage(&teacher, &start, mask);
        advantage.data_mut().iter_mut().for_each(|a| *a *= self.kd_weight);
        if self.adds_advantage {
            let mut reward = batch.token_advantage(STAGE)?;
            if let Some(credit) = &batch.credit {
                reward = reward.zip(credit, |a, c| a * c);
            }
            advantage = advantage.zip(&reward, |a, r| a + r).zip(mask, |a, m| if m == 0.0 { 0.0 } else { a });
        }
        let logp = on(&leaves.logp, mask)?;
        let surrogate = match &batch.old_logp {
            None => (logp * advantage.tensor()?)?,
            Some(_) => {
                let ratio = (logp - start.tensor()?)?.clamp(-LOG_LIMIT, LOG_LIMIT)?.exp()?;
                clipped(&ratio, &advantage, self.epsilon, mask, &mut metrics)?
            }
        };
        let value = (surrogate * mask.tensor()?.affine(-1.0 / tokens, 0.0)?)?.sum_all()?;
        Ok(Loss { value, metrics })
    }
}

/// min(rho A, clip(rho) A); a tie keeps the gradient of the ratio.
fn clipped(ratio: &Tensor, advantage: &Table, epsilon: f64, mask: &Table, metrics: &mut Metrics) -> Result<Tensor> {
    let a = advantage.tensor()?;
    let values = ratio.detach();
    let plain = (ratio * &a)?;
    let bound = (values.clamp(1.0 - epsilon, 1.0 + epsilon)? * &a)?;
    let is_plain = plain.detach().le(&bound)?;
    let own = mask.sum();
    let cut = Table::from_tensor(&is_plain.to_dtype(candle_core::DType::F64)?)?.zip(mask, |p, m| (1.0 - p) * m);
    metrics.mean("clip_fraction", cut.sum() / own, own);
    Ok(is_plain.where_cond(&plain, &bound)?)
}

/// The values of a leaf or column where the mask is on, 0 elsewhere; what counts must be finite.
fn finite(tensor: &Tensor, mask: &Table, what: &'static str) -> Result<Table> {
    let values = Table::from_tensor(tensor)?.zip(mask, |x, m| if m == 0.0 { 0.0 } else { x });
    match (0..values.rows()).find(|&i| values.row(i).iter().any(|x| !x.is_finite())) {
        Some(row) => Err(Error::NonFinite { stage: STAGE, what, row }),
        None => Ok(values),
    }
}

/// A leaf with 0, and no gradient, where the mask is off: what stands there is arbitrary.
fn on(leaf: &Tensor, mask: &Table) -> Result<Tensor> {
    Ok(mask.tensor()?.ne(0.0)?.where_cond(leaf, &leaf.zeros_like()?.detach())?)
}

impl Objective for Distill {
    fn needs(&self) -> Needs {
        match self.mode {
            Mode::Divergence => {
                let teacher = match (self.top_k, self.rest) {
                    (None, _) => TeacherNeed::Full,
                    (Some(k), Rest::Sampled) => TeacherNeed::Sampled(k),
                    (Some(k), _) => TeacherNeed::TopK(k),
                };
                Needs { divergence_leaf: true, teacher: Some(teacher), ..Needs::default() }
            }
            Mode::PolicyGradient => Needs { ref_logp: true, ..Needs::default() },
        }
    }

    fn reads(&self) -> Reads {
        Reads { advantage: self.adds_advantage, credit: self.adds_advantage, ..Reads::default() }
    }

    fn couples_rows(&self) -> bool {
        false
    }

    fn takes_any_source(&self) -> bool {
        true
    }

    fn refuses_given_examples(&self) -> Option<Error> {
        let fix = "given texts were not drawn from the policy, so that it follows no divergence's gradient: use \"divergence\", or sample with [rollout.discrete]";
        (self.mode == Mode::PolicyGradient).then(|| Error::config("objective.distill.mode", "policy_gradient", fix))
    }

    fn refuses_soft_steps(&self) -> Option<&'static str> {
        Some("it compares distributions over tokens, which soft steps do not draw from")
    }

    fn divergence(&self) -> Option<Divergence> {
        let Self { beta, jsd_rescale, softening, rest, .. } = *self;
        let divergence = Divergence { beta, temperature: self.kd_temperature, jsd_rescale, softening, rest };
        (self.mode == Mode::Divergence).then_some(divergence)
    }

    fn warnings(&self) -> Vec<String> {
        let is_weak = self.beta > 0.0 && self.beta < 0.1 || self.beta > 0.9 && self.beta < 1.0;
        let text = "near 0 and 1 the Jensen-Shannon divergence vanishes: `beta` = 0 and 1 are other losses; set `jsd_rescale` = true";
        (self.mode == Mode::Divergence && is_weak && !self.jsd_rescale).then(|| text.to_owned()).into_iter().collect()
    }

    /// Metrics. `divergence`: `divergence` in nats, mean over tokens, without T^2; `divergence_scaled` with it, if it is not 1;
    /// `ce`, the completion's own cross-entropy. `policy_gradient`: `kl`, mean of logp - ref_logp at the start of the
    /// phase, an estimate of the reverse KL that falls when it works; `teacher_logp`; `advantage_clipped`, `clip_fraction`, shares of tokens.
    fn loss(&self, batch: &Batch, leaves: &Leaves) -> Result<Loss> {
        let mask = batch.kept_mask();
        match self.mode {
            Mode::Divergence => self.by_divergence(batch, leaves, &mask),
            Mode::PolicyGradient => self.by_policy_gradient(batch, leaves, &mask),
        }
    }
}

impl State for Distill {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_is_refused() {
        let d = Distill::default;
        for bad in [
            Distill { beta: 1.5, ..d() },
            Distill { kd_temperature: 0.0, ..d() },
            Distill { softening: Softening::UniformMixture, kd_temperature: 0.5, ..d() },
            Distill { top_k: Some(8), kd_temperature: 2.0, ..d() },
            Distill { top_k: Some(8), rest: Rest::Truncated, ..d() },
            Distill { rest: Rest::Sampled, beta: 0.0, ..d() },
            Distill { gamma: 0.5, ..d() },
            Distill { adds_advantage: true, ..d() },
            Distill { mode: Mode::PolicyGradient, top_k: Some(4), ..d() },
            Distill { mode: Mode::PolicyGradient, advantage_clip: Some(0.0), ..d() },
        ] {
            assert!(matches!(bad.build(), Err(Error::Config { .. })), "{bad:?}");
        }
        Distill { top_k: Some(8), ..d() }.build().unwrap();
    }

    /// Ratio 1: the gradient of the clipped surrogate is that of -A logp; beyond the clip it is 0.
    #[test]
    fn several_updates_clip_the_ratio_and_rewards_add() {
        let mut batch = Batch::new(Table::filled(1, 2, 1.0), vec![0]).unwrap();
        batch.ref_logp = Some(Table::new(1, 2, vec![-0.5, -0.5]).unwrap());
        batch.old_logp = Some(Table::new(1, 2, vec![-1.0, -1.5]).unwrap());
        batch.advantage = Some(crate::batch::Advantages::Row(vec![2.0]));
        let logp =
            candle_core::Var::from_tensor(&Table::new(1, 2, vec![-1.0, -1.0]).unwrap().tensor().unwrap()).unwrap();
        let leaves = Leaves { logp: logp.as_tensor().clone(), entropy: None, divergence: None, score: None };
        let gradient = |settings: Distill| {
            let loss = settings.build().unwrap().loss(&batch, &leaves).unwrap();
            Table::from_tensor(loss.value.backward().unwrap().get(&logp).unwrap()).unwrap().data().to_vec()
        };
        let plain = Distill { mode: Mode::PolicyGradient, ..Distill::default() };
        assert_eq!(gradient(plain.clone()), [-0.25, 0.0], "ratio e^0.5 is beyond the clip");
        assert_eq!(gradient(Distill { adds_advantage: true, kd_weight: 2.0, ..plain }), [-1.5, 0.0]);
    }
}
