//! `advantage.pairing`: advantages of pairs of a hard and an easy prompt (Weighted GRPO).

use std::ops::Range;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Advantage;
pub use super::whiten::Deviation;
use super::whiten::{mean, std};
use crate::batch::{Advantages, Finish, Role, Verdict};
use crate::{Batch, Error, Metrics, Result, State};

/// What is standardised over which rows; numbers for 8 rollouts, one right on q+, one wrong on q-, `lambda_neg` 2:
/// (q+ right, q+ wrong, q- right, q- wrong).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// +1 and -lambda_neg, standardised in each group: 2.475, -0.354, 0.354, -2.475. As the paper is reported; the
    /// standardisation takes `lambda_neg` out again, so rare events weigh as in plain GRPO.
    #[default]
    SignedGroup,
    /// +1 and -lambda_neg minus the group's mean: 2.625, -0.375, 0.375, -2.625. This project's own.
    SignedNone,
    /// +1 and -lambda_neg, standardised over the pair: 0.968, -0.968, 0.968, -0.968. For comparison: it does not
    /// amplify rare events. This project's own.
    SignedPair,
    /// q+ 1 and 0, q- 0 and -lambda_neg, standardised over the pair: 1.852, 0.109, 0.109, -3.376. With
    /// `lambda_neg` 1 common outcomes get about 0; otherwise the changed mean moves them off it. This project's own.
    RolePair,
    /// 1 and 0, standardised in each group, then positive ones times `lambda_pos` and negative ones times
    /// `lambda_neg`: 2.474, -0.707, 0.353, -4.948. The mode in which `lambda_neg` works. This project's own.
    GroupThenWeight,
}

/// Advantages of pairs: a rare success on the hard prompt q+ counts much, a rare failure on the easy prompt q- counts
/// much against, common outcomes little.
///
/// Rows are right or wrong by the verdict; rows without one get 0 and take no part. A group whose outcomes are all
/// alike gets zeros, also in the modes over the pair unless `keep_degenerate`. Pairs never touch each other: one
/// pair repeated equals that pair. Needs [prompts.pairing], which marks the two sides.
/// Source: Beyond Variance, arXiv 2602.03452, of which only the abstract and a summary were at hand; which
/// reading is whose stands with each mode.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Pairing {
    /// What is standardised over which rows.
    pub mode: Mode,
    /// What a wrong completion counts, above 0.
    pub lambda_neg: f64,
    /// What positive advantages are multiplied by in `group_then_weight`; other modes do not read it.
    pub lambda_pos: f64,
    /// What all advantages of hard prompts are multiplied by.
    pub w_plus: f64,
    /// What all advantages of easy prompts are multiplied by.
    pub w_minus: f64,
    /// Whether the modes over the pair keep advantages of groups whose outcomes are all alike.
    pub keep_degenerate: bool,
    /// Added to the deviation.
    pub eps: f64,
    /// Which deviation.
    pub std: Deviation,
}

impl Default for Pairing {
    fn default() -> Self {
        Self {
            mode: Mode::SignedGroup,
            lambda_neg: 1.0,
            lambda_pos: 1.0,
            w_plus: 1.0,
            w_minus: 1.0,
            keep_degenerate: false,
            eps: 1e-4,
            std: Deviation::Sample,
        }
    }
}

const STAGE: &str = "advantage.pairing";

impl Pairing {
    /// The stage. Errors: weights or eps that are not positive, options that the mode does not read.
    pub fn build(&self) -> Result<Box<dyn Advantage>> {
        let weights = [
            ("lambda_neg", self.lambda_neg),
            ("lambda_pos", self.lambda_pos),
            ("w_plus", self.w_plus),
            ("w_minus", self.w_minus),
            ("eps", self.eps),
        ];
        if let Some((name, value)) = weights.into_iter().find(|(_, x)| !(*x > 0.0 && x.is_finite())) {
            return Err(Error::config(format!("{STAGE}.{name}"), value, "it is a positive number"));
        }
        if self.lambda_pos != 1.0 && self.mode != Mode::GroupThenWeight {
            let why = "only `mode` = \"group_then_weight\" reads it: leave it out";
            return Err(Error::config(format!("{STAGE}.lambda_pos"), self.lambda_pos, why));
        }
        if self.keep_degenerate && !matches!(self.mode, Mode::SignedPair | Mode::RolePair) {
            let why = "only the modes over a pair can give such a group anything: leave it out";
            return Err(Error::config(format!("{STAGE}.keep_degenerate"), true, why));
        }
        Ok(Box::new(self.clone()))
    }

    /// The mapped outcome of a row; `None` without verdict.
    fn outcome(&self, verdict: Verdict, role: Role) -> Option<f64> {
        let is_right = match verdict {
            Verdict::Right => true,
            Verdict::Wrong => false,
            Verdict::Missing => return None,
        };
        Some(match (self.mode, is_right, role) {
            (Mode::RolePair, false, Role::Easy) => -self.lambda_neg,
            (Mode::RolePair, true, Role::Easy) | (Mode::RolePair, false, _) => 0.0,
            (Mode::GroupThenWeight, false, _) => 0.0,
            (_, true, _) => 1.0,
            (_, false, _) => -self.lambda_neg,
        })
    }

    /// The advantages of a pair's rows before the role weights, [rows of both groups].
    fn pair(&self, batch: &Batch, groups: [Range<usize>; 2]) -> Vec<Option<f64>> {
        let mapped = |group: &Range<usize>| -> Vec<Option<f64>> {
            group.clone().map(|i| self.outcome(batch.verdict[i], batch.role[i])).collect()
        };
        let sides = groups.map(|g| mapped(&g));
        match self.mode {
            Mode::SignedGroup => sides.iter().flat_map(|s| self.standardised(s)).collect(),
            Mode::SignedNone => sides.iter().flat_map(|s| centred(s)).collect(),
            Mode::SignedPair | Mode::RolePair => {
                let mut all = self.standardised(&sides.concat());
                if !self.keep_degenerate {
                    let (hard, easy) = all.split_at_mut(sides[0].len());
                    for (side, advantages) in sides.iter().zip([hard, easy]) {
                        if is_flat(side) {
                            advantages.iter_mut().flatten().for_each(|a| *a = 0.0);
                        }
                    }
                }
                all
            }
            Mode::GroupThenWeight => {
                let weigh = |a: f64| if a >= 0.0 { a * self.lambda_pos } else { a * self.lambda_neg };
                sides.iter().flat_map(|s| self.standardised(s)).map(|a| a.map(weigh)).collect()
            }
        }
    }

    fn standardised(&self, values: &[Option<f64>]) -> Vec<Option<f64>> {
        let present: Vec<f64> = values.iter().flatten().copied().collect();
        let scale = std(&present, self.std) + self.eps;
        centred(values).into_iter().map(|v| v.map(|v| v / scale)).collect()
    }
}

fn centred(values: &[Option<f64>]) -> Vec<Option<f64>> {
    let present: Vec<f64> = values.iter().flatten().copied().collect();
    let centre = mean(&present);
    values.iter().map(|v| v.map(|v| v - centre)).collect()
}

fn is_flat(values: &[Option<f64>]) -> bool {
    let mut present = values.iter().flatten();
    present.next().is_none_or(|first| present.all(|v| v == first))
}

/// The two groups of each pair, hard first. Errors: rows without pair, pairs that are not one group a side.
fn pairs(batch: &Batch) -> Result<Vec<[Range<usize>; 2]>> {
    let mut found: Vec<(usize, [Option<Range<usize>>; 2])> = Vec::new();
    for group in batch.groups() {
        let Some(pair) = batch.pair[group.start] else {
            return Err(Error::MissingColumn { stage: STAGE, column: "pair" });
        };
        let side = usize::from(batch.role[group.start] == Role::Easy);
        let at = match found.iter().position(|(id, _)| *id == pair) {
            Some(at) => at,
            None => {
                found.push((pair, [None, None]));
                found.len() - 1
            }
        };
        if found[at].1[side].replace(group.clone()).is_some() {
            return Err(not_a_pair(pair));
        }
    }
    found
        .into_iter()
        .map(|(pair, sides)| match sides {
            [Some(hard), Some(easy)] => Ok([hard, easy]),
            _ => Err(not_a_pair(pair)),
        })
        .collect()
}

fn not_a_pair(pair: usize) -> Error {
    Error::Shape {
        what: format!("{STAGE}, pair {pair}"),
        expected: "one group of a hard and one of an easy prompt".into(),
        found: "another number".into(),
    }
}

impl Advantage for Pairing {
    fn reads_verdict(&self) -> bool {
        true
    }

    fn reads_pairs(&self) -> bool {
        true
    }

    fn warnings(&self) -> Vec<String> {
        let cancels = self.mode == Mode::SignedGroup && self.lambda_neg != 1.0;
        Vec::from_iter(cancels.then(|| {
            "`advantage.pairing.lambda_neg` does nothing in mode \"signed_group\", which standardises it away: set `mode` to \"group_then_weight\"".to_owned()
        }))
    }

    /// Metrics, `hard_...` and `easy_...`: `right_fraction`, `degenerate` (share of groups without a difference),
    /// `rare_advantage` and `common_advantage` (mean |A| of the side's rare and common outcomes), `truncated` (share of
    /// rows); `hard_share`: share of sum |A| x tokens that hard prompts have, about 1/2 when both sides teach.
    fn apply(&mut self, batch: &mut Batch) -> Result<Metrics> {
        let (mut advantage, mut metrics) = (vec![0.0; batch.rows()], Metrics::new());
        let mut pull = [0.0, 0.0];
        for groups in pairs(batch)? {
            let values = self.pair(batch, groups.clone());
            let rows = groups.iter().cloned().flatten();
            for (i, value) in rows.zip(values) {
                let weight = if batch.role[i] == Role::Easy { self.w_minus } else { self.w_plus };
                advantage[i] = weight * value.unwrap_or(0.0);
            }
            for (side, group) in groups.into_iter().enumerate() {
                pull[side] += group.clone().map(|i| advantage[i].abs() * batch.row_tokens(i)).sum::<f64>();
                report(batch, group, ["hard", "easy"][side], &advantage, &mut metrics);
            }
        }
        metrics.mean("hard_share", pull[0] / (pull[0] + pull[1]), pull[0] + pull[1]);
        batch.advantage = Some(Advantages::Row(advantage));
        Ok(metrics)
    }
}

fn report(batch: &Batch, group: Range<usize>, side: &str, advantage: &[f64], metrics: &mut Metrics) {
    let rare = if side == "hard" { Verdict::Right } else { Verdict::Wrong };
    let judged: Vec<usize> = group.clone().filter(|&i| batch.verdict[i] != Verdict::Missing).collect();
    let right = judged.iter().filter(|&&i| batch.verdict[i] == Verdict::Right).count();
    let n = judged.len() as f64;
    metrics.mean(&format!("{side}_right_fraction"), right as f64 / n, n);
    metrics.mean(&format!("{side}_degenerate"), f64::from(u8::from(right == 0 || right == judged.len())), 1.0);
    for (name, is_rare) in [("rare", true), ("common", false)] {
        let those: Vec<f64> =
            judged.iter().filter(|&&i| (batch.verdict[i] == rare) == is_rare).map(|&i| advantage[i].abs()).collect();
        let count = those.len() as f64;
        metrics.mean(&format!("{side}_{name}_advantage"), those.iter().sum::<f64>() / count, count);
    }
    let cut = group.clone().filter(|&i| batch.finish[i] == Finish::Length).count();
    metrics.mean(&format!("{side}_truncated"), cut as f64 / group.len() as f64, group.len() as f64);
}

impl State for Pairing {}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::Table;

    /// Pairs of outcomes, hard then easy; `None` is a missing verdict.
    pub(crate) fn batch_of(pairs: &[[Vec<Option<bool>>; 2]]) -> Batch {
        let rows: Vec<_> = pairs
            .iter()
            .enumerate()
            .flat_map(|(k, sides)| {
                sides.iter().enumerate().flat_map(move |(s, side)| side.iter().map(move |&v| (k, s, v)))
            })
            .collect();
        let groups = rows.iter().map(|(k, s, _)| 2 * k + s).collect();
        let mut batch = Batch::new(Table::filled(rows.len(), 1, 1.0), groups).unwrap();
        for (i, &(k, s, verdict)) in rows.iter().enumerate() {
            batch.pair[i] = Some(k);
            batch.role[i] = if s == 0 { Role::Hard } else { Role::Easy };
            batch.verdict[i] = match verdict {
                Some(true) => Verdict::Right,
                Some(false) => Verdict::Wrong,
                None => Verdict::Missing,
            };
        }
        batch
    }

    fn apply(settings: &Pairing, batch: &mut Batch) -> (Vec<f64>, Metrics) {
        let metrics = settings.build().unwrap().apply(batch).unwrap();
        match batch.advantage.take().unwrap() {
            Advantages::Row(row) => (row, metrics),
            Advantages::Token(_) => panic!("one advantage a row"),
        }
    }

    fn outcomes(text: &str) -> Vec<Option<bool>> {
        text.chars().map(|c| if c == '?' { None } else { Some(c == '1') }).collect()
    }

    const MODES: [Mode; 5] =
        [Mode::SignedGroup, Mode::SignedNone, Mode::SignedPair, Mode::RolePair, Mode::GroupThenWeight];

    #[test]
    fn a_pair_repeated_equals_the_pair_and_order_within_a_group_permutes() {
        let one = [outcomes("10000"), outcomes("1101")];
        for mode in MODES {
            let settings = Pairing { mode, lambda_neg: 2.0, ..Pairing::default() };
            let (alone, _) = apply(&settings, &mut batch_of(std::slice::from_ref(&one)));
            let (thrice, _) = apply(&settings, &mut batch_of(&[one.clone(), one.clone(), one.clone()]));
            assert_eq!(thrice, [alone.clone(), alone.clone(), alone.clone()].concat(), "{mode:?}");
            let (moved, _) = apply(&settings, &mut batch_of(&[[outcomes("00100"), outcomes("0111")]]));
            for (a, b) in [(0, 2), (1, 0), (7, 5), (5, 6)] {
                assert!((alone[a] - moved[b]).abs() < 1e-14, "{mode:?}");
            }
        }
    }

    #[test]
    fn groups_alike_get_zeros_and_missing_verdicts_take_no_part() {
        for mode in MODES {
            let settings = Pairing { mode, lambda_neg: 2.0, ..Pairing::default() };
            let (a, metrics) = apply(&settings, &mut batch_of(&[[outcomes("0000"), outcomes("1?10")]]));
            assert_eq!(a[..4], [0.0; 4], "{mode:?}");
            assert_eq!(a[5], 0.0);
            assert!(a[4] > 0.0 && a[7] < 0.0, "{mode:?} {a:?}");
            assert_eq!(metrics.get("hard_degenerate"), Some(1.0));
            assert_eq!(metrics.get("easy_right_fraction"), Some(2.0 / 3.0));
        }
        let kept = Pairing { mode: Mode::SignedPair, keep_degenerate: true, ..Pairing::default() };
        assert!(apply(&kept, &mut batch_of(&[[outcomes("0000"), outcomes("1110")]])).0[0] < 0.0);
    }

    /// The finding of the spec: standardising in the group takes lambda_neg out, up to eps.
    #[test]
    fn lambda_neg_cancels_in_the_reported_mode_and_is_warned_of() {
        let pair = [outcomes("10000000"), outcomes("11111110")];
        let run = |mode, lambda_neg| {
            let settings = Pairing { mode, lambda_neg, eps: 1e-12, ..Pairing::default() };
            apply(&settings, &mut batch_of(std::slice::from_ref(&pair))).0
        };
        let (one, five) = (run(Mode::SignedGroup, 1.0), run(Mode::SignedGroup, 5.0));
        assert!(one.iter().zip(&five).all(|(a, b)| (a - b).abs() < 1e-9));
        assert!(run(Mode::GroupThenWeight, 5.0)[15] < 4.9 * run(Mode::GroupThenWeight, 1.0)[15]);
        let warned = Pairing { lambda_neg: 2.0, ..Pairing::default() }.build().unwrap().warnings();
        assert!(warned[0].contains("group_then_weight"));
        assert!(Pairing::default().build().unwrap().warnings().is_empty());
    }

    #[test]
    fn rows_without_pairs_and_half_pairs_are_errors() {
        let mut batch = Batch::new(Table::filled(2, 1, 1.0), vec![0, 1]).unwrap();
        let mut stage = Pairing::default().build().unwrap();
        assert!(matches!(stage.apply(&mut batch), Err(Error::MissingColumn { column: "pair", .. })));
        batch.pair = vec![Some(0), Some(0)];
        assert!(stage.apply(&mut batch).unwrap_err().to_string().contains("pair 0"));
        for bad in [
            Pairing { lambda_neg: 0.0, ..Pairing::default() },
            Pairing { eps: -1.0, ..Pairing::default() },
            Pairing { lambda_pos: 2.0, ..Pairing::default() },
            Pairing { keep_degenerate: true, ..Pairing::default() },
        ] {
            assert!(matches!(bad.build(), Err(Error::Config { .. })), "{bad:?}");
        }
    }
}
