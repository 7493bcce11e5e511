//! How completions keep to the length that their prompts tell.

use candlewick_algorithms::batch::Verdict;
use candlewick_algorithms::{Batch, Metrics};

/// Metrics of `budget.tokens` where a length L is told: `told` (tokens), `length_ratio` (mean tokens over L; the paper ends within
/// about 5 % of 1), `over_told` and `over_double` (shares of completions above L and 2L; no slope of the length reward
/// beyond the latter), `accuracy_within` and `accuracy_over` (shares right among completions up to and above L),
/// `tokens_median`, `tokens_p95`.
pub(super) fn metrics(draw: &Batch) -> Metrics {
    let mut m = Metrics::new();
    let rows: Vec<(f64, f64, Verdict)> =
        (0..draw.rows()).filter_map(|i| Some((draw.row_tokens(i), draw.told[i]? as f64, draw.verdict[i]))).collect();
    if rows.is_empty() {
        return m;
    }
    let n = rows.len() as f64;
    let share = |is: &dyn Fn(&(f64, f64, Verdict)) -> bool| rows.iter().filter(|r| is(r)).count() as f64 / n;
    m.max("told", rows.iter().map(|r| r.1).fold(0.0, f64::max));
    m.mean("length_ratio", rows.iter().map(|(l, told, _)| l / told).sum::<f64>() / n, n);
    m.mean("over_told", share(&|(l, told, _)| l > told), n);
    m.mean("over_double", share(&|(l, told, _)| *l > 2.0 * told), n);
    for (name, is_over) in [("accuracy_within", false), ("accuracy_over", true)] {
        let judged: Vec<bool> = rows
            .iter()
            .filter(|(l, told, v)| (l > told) == is_over && *v != Verdict::Missing)
            .map(|r| r.2 == Verdict::Right)
            .collect();
        let count = judged.len() as f64;
        m.mean(name, judged.iter().filter(|r| **r).count() as f64 / count, count);
    }
    let mut lengths: Vec<f64> = rows.iter().map(|r| r.0).collect();
    lengths.sort_by(f64::total_cmp);
    let at = |share: f64| lengths[((lengths.len() - 1) as f64 * share).round() as usize];
    m.mean("tokens_median", at(0.5), n);
    m.mean("tokens_p95", at(0.95), n);
    m
}

#[cfg(test)]
mod tests {
    use super::*;
    use candlewick_algorithms::Table;

    #[test]
    fn lengths_are_compared_with_what_was_told() {
        let rows: Vec<Vec<f64>> = [5, 10, 15, 25].iter().map(|&n| vec![1.0; n]).collect();
        let mut draw = Batch::new(Table::ragged(&rows, 0.0), vec![0; 4]).unwrap();
        draw.verdict = vec![Verdict::Right, Verdict::Wrong, Verdict::Right, Verdict::Missing];
        assert_eq!(metrics(&draw), Metrics::new());
        draw.told = vec![Some(10); 4];
        let m = metrics(&draw);
        for (name, value) in [
            ("told", 10.0),
            ("length_ratio", 1.375),
            ("over_told", 0.5),
            ("over_double", 0.25),
            ("accuracy_within", 0.5),
            ("accuracy_over", 1.0),
            ("tokens_p95", 25.0),
        ] {
            assert_eq!(m.get(name), Some(value), "{name}");
        }
    }
}
