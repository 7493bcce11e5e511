//! Divergence of a student's next-token distribution from a teacher's, row by row: the leaf of distillation.
//!
//! The teacher is a row of logits (or log-probs) over the whole vocabulary, or a few tokens with their
//! log-probs. p is the teacher, q the student.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::token::{RunningSums, TokenLogp};
use super::{Real, RowFunction, RowGrad, RowValue};

/// What is done with the probability that a sparse teacher does not name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Rest {
    /// One more outcome, of probability 1 - sum over the named tokens, for teacher and student: never above
    /// the full divergence.
    #[default]
    Tail,
    /// The teacher is renormalised over the named tokens, the student is not; over-sharpens the student.
    Renormalised,
    /// Left out: the sum over the named tokens alone, which can be negative.
    Truncated,
    /// The named tokens were drawn from the teacher, each counts 1/k: an unbiased estimate of the forward
    /// divergence (arXiv 2503.16870).
    Sampled,
}

/// How a temperature softens the teacher. Both are the identity at T = 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Softening {
    /// p^(1/T), renormalised: the softmax of logits / T. What is 0 stays 0.
    #[default]
    Power,
    /// (1 - l) p + l/V with l = 1 - 1/T, for T of 1 or more: nothing stays 0.
    UniformMixture,
}

impl Softening {
    /// The softened distribution, in place; `p` sums to 1.
    pub fn apply(self, p: &mut [f64], temperature: f64) {
        match self {
            Self::Power => {
                // p^(1/T) relative to the largest, so that small temperatures do not underflow everything.
                let most = p.iter().copied().fold(0.0, f64::max);
                p.iter_mut().for_each(|p| *p = (*p / most).powf(1.0 / temperature));
                let sum: f64 = p.iter().sum();
                p.iter_mut().for_each(|p| *p /= sum);
            }
            Self::UniformMixture => {
                let (share, n) = (1.0 - 1.0 / temperature, p.len() as f64);
                p.iter_mut().for_each(|p| *p = (1.0 - share) * *p + share / n);
            }
        }
    }
}

/// A divergence between next-token distributions at temperature T, in nats.
///
/// beta = 0: forward, sum p (ln p - ln q), mode covering. beta = 1: reverse, sum q (ln q - ln p), mode
/// seeking. Between: m = beta p + (1 - beta) q, beta KL(p||m) + (1 - beta) KL(q||m); beta weighs the
/// teacher. The ends are special-cased, not limits: the divergence goes to 0 as beta nears 0 or 1, unless
/// `jsd_rescale` divides it by beta (1 - beta).
/// Gradient at the student's logits: [q_j (h_j - sum q h)] / T with h = dD/dq: forward -p/q, reverse
/// ln q - ln p + 1 (the 1 cancels unless outcomes are left out), between (1 - beta)(ln q - ln m). The factor T^2 of Hinton's mixing belongs to the loss.
/// 0 ln 0 = 0; reverse is infinite where p = 0 < q.
/// Source: GKD, arXiv 2306.13649, and TRL's `generalized_jsd_loss`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Divergence {
    /// 0 = forward, 1 = reverse, between = generalised Jensen-Shannon.
    pub beta: f64,
    /// Divides both models' logits, T > 0.
    pub temperature: f64,
    /// Divides the divergences between by beta (1 - beta).
    pub jsd_rescale: bool,
    /// How the teacher is softened.
    pub softening: Softening,
    /// What a sparse teacher's missing probability is.
    pub rest: Rest,
}

impl Default for Divergence {
    fn default() -> Self {
        Self { beta: 1.0, temperature: 1.0, jsd_rescale: false, softening: Softening::Power, rest: Rest::Tail }
    }
}

/// One teacher distribution.
#[derive(Debug, Clone, Copy)]
pub enum Teacher<'a, F, S = f32> {
    /// Logits or log-probs over the vocabulary, [V].
    Full(&'a [F]),
    /// Some tokens, [k].
    Sparse {
        /// Their ids; repeated only under [`Rest::Sampled`].
        ids: &'a [u32],
        /// Their log-probs over the whole vocabulary.
        logp: &'a [S],
    },
}

/// The largest ln(sum of named probabilities), so that a tail always has some.
const FULLEST: f64 = -1e-7;

/// An outcome's probabilities.
#[derive(Debug, Clone, Copy)]
struct Outcome {
    p: f64,
    ln_p: f64,
    q: f64,
    ln_q: f64,
}

impl Divergence {
    /// The outcome's share of the divergence, and its h = dD/dq.
    fn term(&self, o: &Outcome) -> (f64, f64) {
        let times = |x: f64, ln: f64| if x == 0.0 { 0.0 } else { x * ln };
        if self.beta == 0.0 {
            return (times(o.p, o.ln_p - o.ln_q), if o.p == 0.0 { 0.0 } else { -o.p / o.q });
        }
        if self.beta == 1.0 {
            return (times(o.q, o.ln_q - o.ln_p), o.ln_q - o.ln_p + 1.0);
        }
        let ln_m = (self.beta * o.p + (1.0 - self.beta) * o.q).ln();
        let scale = if self.jsd_rescale { 1.0 / (self.beta * (1.0 - self.beta)) } else { 1.0 };
        let value = self.beta * times(o.p, o.ln_p - ln_m) + (1.0 - self.beta) * times(o.q, o.ln_q - ln_m);
        (scale * value, scale * (1.0 - self.beta) * (o.ln_q - ln_m))
    }

    /// q h of an outcome, finite where q is 0.
    fn flow(&self, o: &Outcome) -> f64 {
        if self.beta == 0.0 {
            return -o.p;
        }
        if o.q == 0.0 { 0.0 } else { o.q * self.term(o).1 }
    }

    /// The divergence, from the student's raw logits [V]; NaN for a broken row.
    pub fn value<F: Real, S: Real>(&self, student: &[F], teacher: Teacher<F, S>) -> f64 {
        self.eval(student, teacher, &mut |_, _| {}).0
    }

    /// Adds `scale` dD/dlogits to `into` [V]; `student` holds the raw logits.
    pub fn backward<F: Real, S: Real>(&self, student: &[F], teacher: Teacher<F, S>, scale: f64, into: &mut [f64]) {
        let scale = scale / self.temperature;
        // D's gradient is sum over outcomes of flow (1{outcome} - q); the second part needs the sum first.
        let mut direct = vec![0.0; student.len()];
        let (_, sum, lse) = self.eval(student, teacher, &mut |id, flow| direct[id] += flow);
        let t = 1.0 / self.temperature;
        for ((into, direct), z) in into.iter_mut().zip(direct).zip(student) {
            *into += scale * (direct - (z.to_f64() * t - lse).exp() * sum);
        }
    }

    /// Visits (token, flow) of every outcome; a tail's flow is shared out by q. Returns the value, the sum
    /// of flows and the student's log-sum-exp.
    fn eval<F: Real, S: Real>(
        &self,
        student: &[F],
        teacher: Teacher<F, S>,
        visit: &mut dyn FnMut(usize, f64),
    ) -> (f64, f64, f64) {
        let t = F::from_f64(1.0 / self.temperature).to_f64();
        let lse = RunningSums::of(student, t).lse();
        let ln_q = |id: usize| student.get(id).map_or(f64::NAN, |z| z.to_f64() * t - lse);
        match teacher {
            Teacher::Full(logits) => {
                let (value, sum) = self.full(logits, student.len(), &ln_q, visit);
                (value, sum, lse)
            }
            Teacher::Sparse { ids, logp } => {
                let logp: Vec<f64> = logp.iter().map(|l| l.to_f64()).collect();
                let (value, sum) = self.sparse(ids, &logp, student.len(), &ln_q, visit);
                (value, sum, lse)
            }
        }
    }

    fn full<F: Real>(
        &self,
        teacher: &[F],
        vocabulary: usize,
        ln_q: &dyn Fn(usize) -> f64,
        visit: &mut dyn FnMut(usize, f64),
    ) -> (f64, f64) {
        // Heads are padded differently: only tokens that both models have count.
        let both = vocabulary.min(teacher.len());
        let power = if self.softening == Softening::Power { self.temperature } else { 1.0 };
        let s = F::from_f64(1.0 / power).to_f64();
        let lse = RunningSums::of(&teacher[..both], s).lse();
        let share = if self.softening == Softening::UniformMixture { 1.0 - 1.0 / self.temperature } else { 0.0 };
        let (mut value, mut sum) = (0.0, 0.0);
        for id in 0..vocabulary {
            let ln_q = ln_q(id);
            let mut ln_p = teacher.get(id).filter(|_| id < both).map_or(f64::NEG_INFINITY, |z| z.to_f64() * s - lse);
            let mut p = ln_p.exp();
            if share > 0.0 {
                p = (1.0 - share) * p + share / vocabulary as f64;
                ln_p = p.ln();
            }
            let outcome = Outcome { p, ln_p, q: ln_q.exp(), ln_q };
            value += self.term(&outcome).0;
            let flow = self.flow(&outcome);
            sum += flow;
            visit(id, flow);
        }
        (value, sum)
    }

    fn sparse(
        &self,
        ids: &[u32],
        logp: &[f64],
        vocabulary: usize,
        ln_q: &dyn Fn(usize) -> f64,
        visit: &mut dyn FnMut(usize, f64),
    ) -> (f64, f64) {
        let mass = ln_sum_exp(logp.iter().copied());
        let outcome = |k: usize| {
            let ln_q = ln_q(ids[k] as usize);
            let (p, ln_p) = match self.rest {
                Rest::Renormalised => ((logp[k] - mass).exp(), logp[k] - mass),
                Rest::Sampled => (1.0 / ids.len() as f64, logp[k]),
                Rest::Tail | Rest::Truncated => (logp[k].exp(), logp[k]),
            };
            Outcome { p, ln_p, q: ln_q.exp(), ln_q }
        };
        let (mut value, mut sum) = (0.0, 0.0);
        for (k, &id) in ids.iter().enumerate() {
            let outcome = outcome(k);
            value += self.term(&outcome).0;
            let flow = self.flow(&outcome);
            sum += flow;
            visit(id as usize, flow);
        }
        if self.rest != Rest::Tail {
            return (value, sum);
        }
        let tail = |mass: f64| (-mass.min(FULLEST).exp_m1()).ln();
        let (ln_p, ln_q_tail) = (tail(mass), tail(ln_sum_exp(ids.iter().map(|&id| ln_q(id as usize)))));
        let rest = Outcome { p: ln_p.exp(), ln_p, q: ln_q_tail.exp(), ln_q: ln_q_tail };
        value += self.term(&rest).0;
        let flow = self.flow(&rest);
        sum += flow;
        // d q_tail / d z_j = q_j (1{j in tail} - q_tail): each token of the tail takes its share.
        let named: std::collections::HashSet<u32> = ids.iter().copied().collect();
        for id in (0..vocabulary as u32).filter(|id| !named.contains(id)) {
            visit(id as usize, flow * ln_q(id as usize).exp() / rest.q);
        }
        (value, sum)
    }
}

/// ln of the sum of exponentials; -inf of nothing.
pub fn ln_sum_exp(values: impl Iterator<Item = f64> + Clone) -> f64 {
    let most = values.clone().fold(f64::NEG_INFINITY, f64::max);
    most + values.map(|v| (v - most).exp()).sum::<f64>().ln()
}

/// Log-prob of the chosen token and divergence from the teacher.
#[derive(Debug, Clone, Copy)]
pub struct Distilled<'a, F, S = f32> {
    /// What the chosen token gives, at its own temperature.
    pub token: TokenLogp<'a>,
    /// The teacher of each row.
    pub teachers: &'a [Teacher<'a, F, S>],
    /// Which divergence.
    pub divergence: Divergence,
}

impl<F: Real, S: Real> RowFunction<F> for Distilled<'_, F, S> {
    fn forward(&self, row: usize, logits: &[F]) -> RowValue {
        RowValue { divergence: self.divergence.value(logits, self.teachers[row]), ..self.token.forward(row, logits) }
    }

    fn backward(&self, row: usize, logits: &mut [F], value: &RowValue, grad: &RowGrad) {
        let mut flow = vec![0.0; logits.len()];
        if grad.divergence != 0.0 {
            self.divergence.backward(logits, self.teachers[row], grad.divergence, &mut flow);
        }
        match grad.logp == 0.0 && grad.entropy == 0.0 {
            true => logits.fill(F::from_f64(0.0)),
            false => self.token.backward(row, logits, value, grad),
        }
        for (z, flow) in logits.iter_mut().zip(flow) {
            *z = F::from_f64(z.to_f64() + flow);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    fn row(seed: u64, n: usize) -> Vec<f64> {
        let mut rng = Rng::keyed(&[seed]);
        (0..n).map(|_| rng.normal() * 2.0).collect()
    }

    fn check(divergence: Divergence, teacher: Teacher<f64, f32>) {
        let z = row(1, 11);
        let token = TokenLogp { tokens: &[3], temperature: 0.8, with_entropy: true };
        let teachers = [teacher];
        let function = Distilled { token, teachers: &teachers, divergence };
        let grad = RowGrad { logp: 0.3, entropy: -0.2, divergence: 1.7 };
        let scalar = |z: &[f64]| {
            let v = function.forward(0, z);
            grad.logp * v.logp + grad.entropy * v.entropy + grad.divergence * v.divergence
        };
        let mut found = z.clone();
        function.backward(0, &mut found, &function.forward(0, &z), &grad);
        for k in 0..z.len() {
            let moved = |h: f64| {
                let mut z = z.clone();
                z[k] += h;
                scalar(&z)
            };
            let wanted = (moved(1e-5) - moved(-1e-5)) / 2e-5;
            assert!((found[k] - wanted).abs() < 1e-7, "{divergence:?} {k}: {} {wanted}", found[k]);
        }
    }

    #[test]
    fn gradients_are_finite_differences() {
        let teacher = row(2, 11);
        let lse = RunningSums::of(&teacher, 1.0).lse();
        let (ids, narrow) = ([4_u32, 0, 9], [4_usize, 0, 9].map(|k| (teacher[k] - lse) as f32));
        for beta in [0.0, 0.3, 1.0] {
            let base = Divergence { beta, ..Divergence::default() };
            check(Divergence { temperature: 1.7, jsd_rescale: true, ..base }, Teacher::Full(&teacher));
            let mixed = Divergence { temperature: 2.0, softening: Softening::UniformMixture, ..base };
            check(mixed, Teacher::Full(&teacher));
            for rest in [Rest::Tail, Rest::Renormalised, Rest::Truncated, Rest::Sampled] {
                check(Divergence { rest, ..base }, Teacher::Sparse { ids: &ids, logp: &narrow });
            }
        }
    }

    /// With every token named, all forms are the full divergence; a tail merges outcomes, so it is never above.
    #[test]
    fn sparse_teachers_agree_with_full_ones() {
        let (z, teacher) = (row(3, 7), row(4, 7));
        let lse = RunningSums::of(&teacher, 1.0).lse();
        let logp: Vec<f64> = teacher.iter().map(|t| t - lse).collect();
        let ids: Vec<u32> = (0..7).collect();
        for beta in [0.0, 0.5, 1.0] {
            let d = Divergence { beta, ..Divergence::default() };
            let full = d.value(&z, Teacher::<f64, f64>::Full(&teacher));
            for rest in [Rest::Renormalised, Rest::Truncated] {
                let found = Divergence { rest, ..d }.value(&z, Teacher::Sparse { ids: &ids, logp: &logp });
                assert!((found - full).abs() < 1e-12, "{beta} {rest:?}: {found} {full}");
            }
            for k in 1..7 {
                let tail = d.value(&z, Teacher::Sparse { ids: &ids[..k], logp: &logp[..k] });
                assert!(tail <= full + 1e-12 && tail >= 0.0);
            }
        }
    }

    #[test]
    fn draws_from_the_teacher_are_unbiased() {
        let (z, teacher) = (row(5, 5), row(6, 5));
        let lse = RunningSums::of(&teacher, 1.0).lse();
        let (mut rng, mut mean, n) = (Rng::keyed(&[1]), 0.0, 4000);
        let d = Divergence { beta: 0.0, rest: Rest::Sampled, ..Divergence::default() };
        for _ in 0..n {
            let ids: Vec<u32> = (0..8)
                .map(|_| {
                    let mut u = rng.uniform();
                    let hit = teacher.iter().position(|t| {
                        u -= (t - lse).exp();
                        u < 0.0
                    });
                    hit.unwrap_or(0) as u32
                })
                .collect();
            let logp: Vec<f64> = ids.iter().map(|&id| teacher[id as usize] - lse).collect();
            mean += d.value(&z, Teacher::Sparse { ids: &ids, logp: &logp }) / f64::from(n);
        }
        let full = d.value(&z, Teacher::<f64, f64>::Full(&teacher));
        assert!((mean - full).abs() < 0.05 * full.max(1.0), "{mean} {full}");
    }

    #[test]
    fn padding_of_the_teachers_head_is_left_out() {
        let (z, mut teacher) = (row(7, 6), row(8, 6));
        let d = Divergence { beta: 0.5, ..Divergence::default() };
        let plain = d.value(&z, Teacher::<f64, f64>::Full(&teacher));
        teacher.extend([3.0, 4.0]);
        assert_eq!(d.value(&z, Teacher::<f64, f64>::Full(&teacher)), plain);
    }
}
