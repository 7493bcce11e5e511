//! The report's section on held-out pairs: accuracies with intervals, the flip table, distributions, the data.

use anyhow::Result;
use candlewick_algorithms::objective::scalar::soft_plus;
use candlewick_algorithms::preference::Pair;
use candlewick_eval::metrics::estimate;
use candlewick_eval::report::{AuditLine, Dot, Flip, Histogram, PairAccuracy, Preference, Quantity, Scatter, Series};

use super::super::audit::Audit;
use super::{Measured, Ranking};

/// Bins of a histogram.
const BINS: usize = 30;
/// Share of values at either end that stands in the outermost bin.
const TAIL: f64 = 0.005;
/// Points of the curve that parts right from wrong.
const CURVE: usize = 120;

/// Metrics beside the accuracies: name, what it is, unit.
const QUANTITIES: [(&str, &str, &str); 9] = [
    ("reward_margin", "mean reward margin", ""),
    ("logp_chosen", "log-prob of the chosen answer", "nats"),
    ("logp_rejected", "log-prob of the rejected answer", "nats"),
    ("distance", "distance from the start, a token", "nats"),
    ("flip_rate", "flip rate: now right of those the reference has wrong", "%"),
    ("reference_accuracy", "ranking accuracy of the reference", "%"),
    ("difficulty", "mean difficulty c of a pair", "nats"),
    ("hard_share", "hard pairs, beta c > 3", "%"),
    ("alignment_gap", "alignment gap: idealised less ranking accuracy", "%"),
];

impl Ranking {
    /// What training did to the held-out pairs, for the report; `training` is the audit of the data trained on.
    pub fn section(&self, before: &Measured, after: &Measured, training: &Audit) -> Result<Preference> {
        let has_reference = !after.pairs.is_empty();
        let quantity = |(name, what, unit): &(&str, &str, &str)| {
            let of = |measured: &Measured| measured.get(name).filter(|value| value.is_finite());
            let (before, after) = (of(before), of(after));
            (before.or(after).is_some()).then(|| Quantity {
                name: (*what).to_owned(),
                unit: (*unit).to_owned(),
                before,
                after,
            })
        };
        Ok(Preference {
            pairs: self.examples.len(),
            beta: has_reference.then_some(self.beta),
            rater_shares: if has_reference { self.rater_shares() } else { String::new() },
            accuracies: accuracies(before, after)?,
            quantities: QUANTITIES.iter().filter_map(quantity).collect(),
            flips: if has_reference { flips(&after.pairs, self.beta) } else { Vec::new() },
            histograms: self.histograms(before, after),
            scatter: has_reference.then(|| thresholds(&after.pairs, self.beta)),
            audit: audit(training, &self.examples.audit),
        })
    }

    fn histograms(&self, before: &Measured, after: &Measured) -> Vec<Histogram> {
        let mut all = Vec::new();
        let gap = |pairs: &[Pair]| -> Vec<f64> { pairs.iter().map(|p| p.policy.chosen - p.policy.rejected).collect() };
        let marked = |title: &str, x_label: &str, series: &[(&str, Vec<f64>)]| Histogram {
            mark: Some(0.0),
            ..histogram(title, x_label, series, false)
        };
        if !after.pairs.is_empty() {
            let series = [("after", gap(&after.pairs)), ("before", gap(&before.pairs))];
            all.push(marked("Log-prob of the chosen less that of the rejected answer", "nats", &series));
        }
        // While the policy is its reference every margin is 0, which is no distribution.
        let mut series = vec![("after", after.margins.clone())];
        if before.margins.iter().any(|margin| *margin != 0.0) {
            series.push(("before", before.margins.clone()));
        }
        let title = if after.pairs.is_empty() { "Score margin of a pair" } else { "Implicit reward margin of a pair" };
        all.push(marked(title, "margin", &series));
        if !after.pairs.is_empty() {
            let of = |is_right: bool| -> Vec<f64> {
                let chosen = after.pairs.iter().filter(|p| p.policy.is_ranked() == is_right);
                chosen.map(|p| p.margin_needed(self.beta)).collect()
            };
            let series = [("ranked rightly", of(true)), ("ranked wrongly", of(false))];
            let title = "Difficulty of a pair and what training made of it";
            let x_label = "beta c: above 0 the reference has the pair wrong, above 3 it is hard";
            all.push(Histogram { mark: Some(0.0), ..histogram(title, x_label, &series, true) });
        }
        all
    }
}

/// Shares of pairs with Wilson's intervals, before and after.
fn accuracies(before: &Measured, after: &Measured) -> Result<Vec<PairAccuracy>> {
    let share = |flags: Vec<f64>| -> Result<Option<[f64; 3]>> {
        if flags.is_empty() {
            return Ok(None);
        }
        let found = estimate(&flags, 1)?;
        Ok(Some([found.value, found.lower, found.upper]))
    };
    let of = |measured: &Measured, is: &dyn Fn(&Pair) -> bool| {
        share(measured.pairs.iter().map(|pair| f64::from(u8::from(is(pair)))).collect())
    };
    let rewarded = |measured: &Measured| {
        let is_void = measured.margins.iter().all(|margin| *margin == 0.0);
        let flags = measured.margins.iter().map(|margin| f64::from(u8::from(*margin > 0.0))).collect();
        if is_void { Ok(None) } else { share(flags) }
    };
    let mut all = Vec::new();
    if !after.pairs.is_empty() {
        let mut put = |name: &str, is: &dyn Fn(&Pair) -> bool| -> Result<()> {
            all.push(PairAccuracy { name: name.to_owned(), before: of(before, is)?, after: of(after, is)? });
            Ok(())
        };
        put("ranking accuracy", &|p| p.policy.is_ranked())?;
        put("ranking accuracy, a token", &|p| p.policy.is_ranked_per_token())?;
    }
    let name = "reward accuracy".to_owned();
    all.push(PairAccuracy { name, before: rewarded(before)?, after: rewarded(after)? });
    let ideal = ["ideal_accuracy_median", "ideal_accuracy_min", "ideal_accuracy_max"].map(|name| after.get(name));
    if let [Some(median), Some(least), Some(most)] = ideal {
        let name = "idealised accuracy".to_owned();
        all.push(PairAccuracy { name, before: None, after: Some([median, least, most]) });
    }
    Ok(all)
}

/// The four cells with their mean loss and margin.
fn flips(pairs: &[Pair], beta: f64) -> Vec<Flip> {
    let cell = |(was_right, is_right): (bool, bool)| {
        let inside: Vec<&Pair> =
            pairs.iter().filter(|p| (p.reference.is_ranked(), p.policy.is_ranked()) == (was_right, is_right)).collect();
        let mean = |of: &dyn Fn(&Pair) -> f64| {
            (!inside.is_empty()).then(|| inside.iter().map(|p| of(p)).sum::<f64>() / inside.len() as f64)
        };
        Flip {
            was_right,
            is_right,
            pairs: inside.len(),
            share: inside.len() as f64 / pairs.len() as f64,
            loss: mean(&|p| p.loss(beta)),
            margin: mean(&|p| p.margin(beta)),
        }
    };
    [(true, true), (true, false), (false, true), (false, false)].map(cell).to_vec()
}

/// Every pair's DPO loss over what it takes to rank it rightly, with the threshold that parts them: an identity.
fn thresholds(pairs: &[Pair], beta: f64) -> Scatter {
    let dot = |p: &Pair| Dot { x: p.margin_needed(beta), y: p.loss(beta), is_right: p.policy.is_ranked() };
    let points: Vec<Dot> = pairs.iter().map(dot).collect();
    let bounds = |of: &dyn Fn(f64, f64) -> f64, from: f64| points.iter().map(|dot| dot.x).fold(from, of);
    let (low, high) = (bounds(&f64::min, f64::INFINITY), bounds(&f64::max, f64::NEG_INFINITY));
    let at = |step: usize| low + (high - low) * step as f64 / CURVE as f64;
    Scatter {
        title: "DPO loss of each pair, and the loss below which it is ranked rightly".into(),
        x_label: "difficulty beta c".into(),
        y_label: "loss".into(),
        points,
        curve_name: "threshold".into(),
        curve: (0..=CURVE).map(|step| [at(step), soft_plus(-at(step))]).collect(),
    }
}

/// Equal bins over all series; the outermost ones also hold what lies beyond.
fn histogram(title: &str, x_label: &str, series: &[(&str, Vec<f64>)], is_stacked: bool) -> Histogram {
    let mut all: Vec<f64> = series.iter().flat_map(|(_, values)| values.iter().copied()).collect();
    all.sort_by(f64::total_cmp);
    let at = |share: f64| all.get((share * (all.len().max(1) - 1) as f64).round() as usize).copied().unwrap_or(0.0);
    let (mut low, mut high) = (at(TAIL), at(1.0 - TAIL));
    if low >= high {
        (low, high) = (low - 0.5, high + 0.5);
    }
    let width = (high - low) / BINS as f64;
    let bin = |value: f64| (((value - low) / width).floor().max(0.0) as usize).min(BINS - 1);
    let counted = |(name, values): &(&str, Vec<f64>)| {
        let mut counts = vec![0; BINS];
        values.iter().filter(|value| value.is_finite()).for_each(|value| counts[bin(*value)] += 1);
        Series { name: (*name).to_owned(), counts }
    };
    Histogram {
        title: title.to_owned(),
        x_label: x_label.to_owned(),
        edges: (0..=BINS).map(|edge| low + width * edge as f64).collect(),
        series: series.iter().map(counted).collect(),
        is_stacked,
        mark: None,
    }
}

/// What was found in the training data and in the held-out pairs.
fn audit(training: &Audit, held_out: &Audit) -> Vec<AuditLine> {
    let mut lines = Vec::new();
    let mut put = |what: &str, of: &dyn Fn(&Audit) -> Option<String>| {
        let shown = |audit: &Audit| of(audit).unwrap_or_else(|| "\u{2013}".to_owned());
        if of(training).or(of(held_out)).is_some() {
            lines.push(AuditLine { what: what.to_owned(), training: shown(training), held_out: shown(held_out) });
        }
    };
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    put("rows read", &|a| Some(a.read.to_string()));
    put("kept", &|a| Some(a.kept.to_string()));
    let faults: std::collections::BTreeSet<_> = training.dropped.keys().chain(held_out.dropped.keys()).collect();
    for fault in faults {
        let what = format!("left out: they {}", fault.text());
        put(&what, &|a| Some(a.dropped.get(fault).copied().unwrap_or(0).to_string()));
    }
    put("answers cut at the length limit", &|a| Some(a.cut.to_string()));
    put("pairs or lists with ties", &|a| Some(a.tied.to_string()));
    put("tokens of the chosen answer, mean", &|a| a.chosen_tokens.map(|tokens| format!("{tokens:.1}")));
    put("tokens of the rejected answer, mean", &|a| a.rejected_tokens.map(|tokens| format!("{tokens:.1}")));
    put("the chosen answer is the longer", &|a| a.chosen_longer.map(percent));
    put("ranked rightly by the reference", &|a| a.reference_accuracy.map(percent));
    put("hard pairs, beta c > 3", &|a| a.hard.map(|hard| hard.to_string()));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use candlewick_algorithms::preference::Answers;

    fn pair(policy: (f64, f64), reference: (f64, f64)) -> Pair {
        let answers = |(chosen, rejected)| Answers { chosen, rejected, chosen_tokens: 2.0, rejected_tokens: 2.0 };
        Pair { policy: answers(policy), reference: answers(reference) }
    }

    #[test]
    fn cells_hold_their_own_loss_and_margin() {
        let pairs =
            [pair((-1.0, -2.0), (-2.0, -1.0)), pair((-2.0, -1.0), (-1.0, -2.0)), pair((-1.0, -3.0), (-2.0, -1.0))];
        let cells = flips(&pairs, 0.5);
        let counts: Vec<usize> = cells.iter().map(|cell| cell.pairs).collect();
        assert_eq!(counts, [0, 1, 2, 0]);
        assert_eq!((cells[0].loss, cells[1].margin), (None, Some(-1.0)));
        // Margins 0.5 (1 + 1) and 0.5 (1 + 2).
        assert_eq!(cells[2].margin, Some(1.25));
        let found = thresholds(&pairs, 0.5);
        assert!(found.points.iter().all(|dot| dot.is_right == (dot.y <= soft_plus(-dot.x))));
    }

    #[test]
    fn every_value_falls_into_a_bin() {
        let values = vec![-3.0, 0.0, 0.5, 9.0, f64::NAN];
        let found = histogram("t", "x", &[("after", values), ("before", vec![2.0])], false);
        assert_eq!((found.edges.len(), found.series[0].counts.iter().sum::<usize>()), (BINS + 1, 4));
        let flat = histogram("t", "x", &[("after", vec![1.0; 3])], false);
        assert_eq!((flat.edges[0], flat.series[0].counts.iter().sum::<usize>()), (0.5, 3));
    }

    #[test]
    fn findings_stand_side_by_side() {
        let training = Audit { read: 5, kept: 4, chosen_tokens: Some(3.0), ..Audit::default() };
        let lines = audit(&training, &Audit::default());
        let line = lines.iter().find(|line| line.what == "tokens of the chosen answer, mean").unwrap();
        assert_eq!((line.training.as_str(), line.held_out.as_str()), ("3.0", "\u{2013}"));
        assert!(lines.iter().all(|line| line.what != "hard pairs, beta c > 3"));
    }
}
