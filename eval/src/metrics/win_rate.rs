//! Win rate against a baseline: how often this model's answer beats the baseline's to the same problem.
//!
//! **Definition.** Each contest sets one answer against one of the baseline's and is won (1), tied (1/2) or lost (0); the
//! win rate is (wins + ties/2) / n. By verdict a contest is won where this model is right and the baseline wrong, over
//! all pairs of samples of a problem. By judge sample k meets sample k, both orders are asked and their mean counts,
//! since judges favour a position.
//!
//! **Interval.** Problems are the clusters: with s_i the mean score of problem i, the rate is the mean of s_i and its
//! standard error the deviation of s_i over sqrt(N). s_i = 1/2 + d_i/2 where d_i is a difference in \[-1, 1\], by verdict
//! exactly the difference of rates that [`super::compare`] tests; so interval and p are those of the mean difference,
//! halved and moved to 1/2, and a win rate never contradicts the paired test beside it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::paired::{MeanDifference, common_denominator, p_text, pair, permutation};
use super::{Comparison, Conclusion, Results, Test};
use crate::{Error, Result};

/// Who decides a contest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Decider {
    /// The grader: right beats wrong.
    Verdict,
    /// A judge that sees both answers.
    Judge,
}

/// Wins, ties and losses against a baseline on the same problems.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WinRate {
    /// Who decided.
    pub by: Decider,
    /// Problems with a decided contest.
    pub problems: usize,
    /// Decided contests, n.
    pub contests: usize,
    /// Share of wins: mean over problems of each one's share. A judge's two orders count half each.
    pub win: f64,
    /// Share of ties.
    pub tie: f64,
    /// Share of losses.
    pub loss: f64,
    /// win + tie/2, in \[0, 1\]; 1/2 for equals.
    pub rate: f64,
    /// Lower end of its 95 % interval.
    pub lower: f64,
    /// Upper end of its 95 % interval.
    pub upper: f64,
    /// Standard error clustered by problem; with one contest a problem the deviation of {1, 1/2, 0} over sqrt(n).
    pub standard_error: f64,
    /// Two-sided p under "as often won as lost".
    pub p: f64,
    /// The test that gave it.
    pub test: Test,
    /// Mean length of this model's answers in the contests, in tokens.
    pub tokens: f64,
    /// Mean length of the baseline's answers, in tokens.
    pub baseline_tokens: f64,
    /// How the judge behaved, where one decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judging: Option<Judging>,
}

/// How far a judge's verdicts can be trusted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Judging {
    /// The judge's name.
    pub judge: String,
    /// Contests that both orders were asked about and answered.
    pub asked: usize,
    /// Share of these on which the two orders disagree; `None` where nobody was asked.
    pub disagreement: Option<f64>,
    /// Share of the decided verdicts that prefer the answer shown first, 1/2 without position bias; `None` without one.
    pub first_preferred: Option<f64>,
    /// Contests of equal texts, which are ties and not asked about.
    pub identical: usize,
    /// Contests without a verdict in both orders: left out, never counted as lost.
    pub missing: usize,
    /// Those of the missing in which the judge said something that is no verdict.
    pub unreadable: usize,
    /// Why the first of the missing is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// Two answers to one problem as a judge saw them. Scores are 1 where this model's answer was preferred, 1/2 for a tie, 0
/// where the baseline's was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Contest {
    /// The problem.
    pub item: String,
    /// Which of its samples.
    pub index: usize,
    /// Tokens of this model's answer.
    pub tokens: usize,
    /// Tokens of the baseline's answer.
    pub baseline_tokens: usize,
    /// The score with this model's answer shown first; `None` without a verdict.
    pub shown_first: Option<f64>,
    /// The score with this model's answer shown second.
    pub shown_second: Option<f64>,
    /// Whether the texts are equal, so that nobody was asked.
    pub is_identical: bool,
    /// Whether a missing verdict was a reply that could not be read.
    pub is_unreadable: bool,
    /// Why a verdict is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

impl Contest {
    /// Both orders' scores; `None` where one is missing, since half of it would carry the position's favour.
    fn scores(&self) -> Option<[f64; 2]> {
        Some([self.shown_first?, self.shown_second?])
    }
}

impl WinRate {
    /// By verdict: `own` against `baseline` on the same problems, `found` being what [`super::compare`] says of them.
    ///
    /// With right shares a and b of a problem's samples, (1 - a) b of its contests are won and a (1 - b) lost. Errors: as
    /// [`super::compare`].
    pub fn by_verdict(baseline: &Results, own: &Results, found: &Comparison) -> Result<Self> {
        let pairs = pair(&baseline.scores, &own.scores)?;
        let mean = |of: &dyn Fn(f64, f64) -> f64| {
            pairs.iter().map(|(a, b)| of(a.rate(), b.rate())).sum::<f64>() / pairs.len() as f64
        };
        let (win, loss) = (mean(&|a, b| (1.0 - a) * b), mean(&|a, b| a * (1.0 - b)));
        let half = |difference: f64| 0.5 + 0.5 * difference;
        Ok(Self {
            by: Decider::Verdict,
            problems: pairs.len(),
            contests: pairs.iter().map(|(a, b)| a.samples * b.samples).sum(),
            win,
            tie: (1.0 - win - loss).max(0.0),
            loss,
            rate: half(found.difference),
            lower: half(found.lower),
            upper: half(found.upper),
            standard_error: 0.5 * found.standard_error,
            p: found.p,
            test: found.test,
            tokens: own.lengths.mean,
            baseline_tokens: baseline.lengths.mean,
            judging: None,
        })
    }

    /// By judge, over contests in any order; those without a verdict in both orders are left out and counted. `seed` is
    /// that of the sign patterns where they cannot all be counted.
    ///
    /// Errors: [`Error::Empty`] without a contest, [`Error::NoVerdict`] when none of those asked about is decided.
    pub fn by_judge(judge: &str, contests: &[Contest], seed: u64) -> Result<Self> {
        if contests.is_empty() {
            return Err(Error::Empty("the list of contests".to_owned()));
        }
        let missing: Vec<&Contest> = contests.iter().filter(|contest| contest.scores().is_none()).collect();
        let mut problems: Vec<&str> = Vec::new();
        let mut of_problem: std::collections::HashMap<&str, Vec<[f64; 2]>> = std::collections::HashMap::new();
        let mut tokens = [0usize; 2];
        for contest in contests {
            let Some(scores) = contest.scores() else { continue };
            let own = of_problem.entry(contest.item.as_str()).or_insert_with(|| {
                problems.push(&contest.item);
                Vec::new()
            });
            own.push(scores);
            tokens = [tokens[0] + contest.tokens, tokens[1] + contest.baseline_tokens];
        }
        let failure = missing.iter().find_map(|contest| contest.failure.clone());
        // Ties of equal texts alone are no verdict of the judge's.
        let asked = contests.iter().filter(|contest| !contest.is_identical).count();
        if asked > 0 && asked == missing.len() {
            let failure = failure.unwrap_or_else(|| "no reason is known".to_owned());
            return Err(Error::NoVerdict { contests: asked, failure });
        }
        let lists: Vec<Vec<f64>> = problems.iter().map(|problem| of_problem[problem].concat()).collect();
        let mean = |of: &dyn Fn(f64) -> f64| {
            let share = |list: &Vec<f64>| list.iter().map(|score| of(*score)).sum::<f64>() / list.len() as f64;
            lists.iter().map(share).sum::<f64>() / lists.len() as f64
        };
        let is = |value: f64| move |score: f64| f64::from(u8::from(score == value));
        let d: Vec<f64> = lists.iter().map(|list| 2.0 * list.iter().sum::<f64>() / list.len() as f64 - 1.0).collect();
        // Each verdict is a step of +1, 0 or -1, so that d_i is an integer over the problem's verdicts.
        let counts = common_denominator(lists.iter().map(Vec::len)).map(|denominator| -> Vec<i64> {
            let steps = |list: &Vec<f64>| list.iter().map(|score| (2.0 * score - 1.0).round() as i64).sum::<i64>();
            lists.iter().map(|list| steps(list) * (denominator / list.len()) as i64).collect()
        });
        let (p, test) = permutation(&d, counts.as_deref(), seed);
        // The two orders of a contest are not two samples: they see the same answers.
        let samples = lists.iter().map(|list| list.len() / 2).min().unwrap_or(1);
        let found = MeanDifference::of(&d, samples);
        let decided = contests.len() - missing.len();
        let half = |difference: f64| 0.5 + 0.5 * difference;
        Ok(Self {
            by: Decider::Judge,
            problems: problems.len(),
            contests: decided,
            win: mean(&is(1.0)),
            tie: mean(&is(0.5)),
            loss: mean(&is(0.0)),
            rate: half(found.difference),
            lower: half(found.lower),
            upper: half(found.upper),
            standard_error: 0.5 * found.standard_error,
            p,
            test,
            tokens: tokens[0] as f64 / decided as f64,
            baseline_tokens: tokens[1] as f64 / decided as f64,
            judging: Some(Judging::of(judge, contests, failure)),
        })
    }

    /// What may be said of it.
    pub fn conclusion(&self) -> Conclusion {
        Conclusion::of(self.p, self.lower - 0.5, self.upper - 0.5)
    }

    /// p with three decimals, or `< 0.001`.
    pub fn p_text(&self) -> String {
        p_text(self.p)
    }

    /// The result in one sentence, `own` and `baseline` being the models' names.
    pub fn sentence(&self, own: &str, baseline: &str) -> String {
        let percent = |share: f64| format!("{:.1} %", 100.0 * share);
        let by = match self.by {
            Decider::Verdict => "by verdict",
            Decider::Judge => "by judge",
        };
        let said = match self.conclusion() {
            Conclusion::Better => format!("{own} wins against {baseline} {by}"),
            Conclusion::Worse => format!("{own} loses against {baseline} {by}"),
            Conclusion::NotDistinguishable => format!("{own} neither wins nor loses against {baseline} {by}"),
        };
        format!(
            "{said}: win rate {}, 95 % interval {:.1} to {}, p {}{}; {} won, {} tied, {} lost of {} contests on {} problems; {:.0} tokens an answer, {:.0} those of {baseline}.",
            percent(self.rate),
            100.0 * self.lower,
            percent(self.upper),
            if self.p < 0.001 { "" } else { "= " },
            self.p_text(),
            percent(self.win),
            percent(self.tie),
            percent(self.loss),
            self.contests,
            self.problems,
            self.tokens,
            self.baseline_tokens,
        )
    }
}

impl Judging {
    fn of(judge: &str, contests: &[Contest], failure: Option<String>) -> Self {
        let asked: Vec<[f64; 2]> =
            contests.iter().filter(|contest| !contest.is_identical).filter_map(Contest::scores).collect();
        let share = |part: usize, whole: usize| (whole > 0).then(|| part as f64 / whole as f64);
        let missing = contests.iter().filter(|contest| contest.scores().is_none());
        let (mut first, mut decided) = (0, 0);
        for [shown_first, shown_second] in &asked {
            first += usize::from(*shown_first == 1.0) + usize::from(*shown_second == 0.0);
            decided += usize::from(*shown_first != 0.5) + usize::from(*shown_second != 0.5);
        }
        Self {
            judge: judge.to_owned(),
            asked: asked.len(),
            disagreement: share(asked.iter().filter(|[a, b]| a != b).count(), asked.len()),
            first_preferred: share(first, decided),
            identical: contests.iter().filter(|contest| contest.is_identical).count(),
            missing: missing.clone().count(),
            unreadable: missing.filter(|contest| contest.is_unreadable).count(),
            failure,
        }
    }

    /// What a reader must know of the judge, in one sentence.
    pub fn sentence(&self) -> String {
        let mut parts = vec![format!("judge {}", self.judge)];
        if let Some(share) = self.disagreement {
            parts.push(format!("the two orders disagree on {:.1} % of {} contests", 100.0 * share, self.asked));
        }
        if let Some(share) = self.first_preferred {
            parts.push(format!("{:.1} % of its decided verdicts prefer the answer shown first", 100.0 * share));
        }
        if self.identical > 0 {
            parts.push(format!("{} pairs of equal answers are ties without being asked about", self.identical));
        }
        if self.missing > 0 {
            let why = self.failure.as_deref().unwrap_or("no reason is known");
            parts.push(format!(
                "{} contests have no verdict and are left out, {} of them for a reply that could not be read, first: {why}",
                self.missing, self.unreadable
            ));
        }
        parts.join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Score, compare, lengths};

    fn contest(item: usize, index: usize, scores: [Option<f64>; 2]) -> Contest {
        Contest {
            item: item.to_string(),
            index,
            tokens: 10,
            baseline_tokens: 20,
            shown_first: scores[0],
            shown_second: scores[1],
            is_identical: false,
            is_unreadable: false,
            failure: scores.contains(&None).then(|| "timed out".to_owned()),
        }
    }

    fn close(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-12, "{found} is not {expected}");
    }

    /// One contest a problem: 5 won, 3 tied, 2 lost. (5 + 1.5)/10, and the deviation of {1, 1/2, 0} over sqrt(10):
    /// the squares about 0.65 sum to 5 * 0.1225 + 3 * 0.0225 + 2 * 0.4225 = 1.525.
    #[test]
    fn one_contest_a_problem_is_the_plain_formula() {
        let of = |score: f64, n: usize| vec![score; n];
        let scores = [of(1.0, 5), of(0.5, 3), of(0.0, 2)].concat();
        let contests: Vec<Contest> =
            scores.iter().enumerate().map(|(at, s)| contest(at, 0, [Some(*s), Some(*s)])).collect();
        let found = WinRate::by_judge("m", &contests, 0).unwrap();
        close(found.rate, 0.65);
        close(found.standard_error, (1.525 / 9.0_f64 / 10.0).sqrt());
        assert_eq!((found.win, found.tie, found.loss), (0.5, 0.3, 0.2));
        assert_eq!((found.problems, found.contests, found.tokens, found.baseline_tokens), (10, 10, 10.0, 20.0));
        // A sign test of 5 against 2: 2 (C(7,0) + C(7,1) + C(7,2)) / 2^7.
        close(found.p, 2.0 * 29.0 / 128.0);
        assert!(found.lower < 0.65 && found.upper > 0.65 && found.lower < 0.5);
        let judging = found.judging.unwrap();
        assert_eq!((judging.disagreement, judging.missing, judging.asked), (Some(0.0), 0, 10));
        // 5 wins and 2 losses in both orders: as often first as second.
        assert_eq!(judging.first_preferred, Some(0.5));
    }

    /// A judge that always prefers what it sees first: every contest a half, all orders disagree.
    #[test]
    fn a_favoured_position_cancels_and_is_shown() {
        let contests: Vec<Contest> = (0..20).map(|at| contest(at, 0, [Some(1.0), Some(0.0)])).collect();
        let found = WinRate::by_judge("m", &contests, 0).unwrap();
        assert_eq!((found.rate, found.win, found.tie, found.loss, found.p), (0.5, 0.5, 0.0, 0.5, 1.0));
        let judging = found.judging.as_ref().unwrap();
        assert_eq!((judging.disagreement, judging.first_preferred), (Some(1.0), Some(1.0)));
        let said = judging.sentence();
        assert!(said.contains("the two orders disagree on 100.0 % of 20 contests"), "{said}");
        assert!(found.sentence("a", "b").starts_with("a neither wins nor loses against b by judge: win rate 50.0 %"));
    }

    /// Problem 0 has four contests won, problem 1 one lost: 1/2 by problems, not 4/5 by contests.
    #[test]
    fn problems_are_the_clusters() {
        let mut contests: Vec<Contest> = (0..4).map(|k| contest(0, k, [Some(1.0), Some(1.0)])).collect();
        contests.push(contest(1, 0, [Some(0.0), Some(0.0)]));
        let found = WinRate::by_judge("m", &contests, 0).unwrap();
        assert_eq!((found.rate, found.problems, found.contests), (0.5, 2, 5));
        close(found.standard_error, 0.5);
    }

    #[test]
    fn a_missing_verdict_is_missing_and_not_lost() {
        let mut contests = vec![contest(0, 0, [Some(1.0), Some(1.0)]), contest(1, 0, [Some(1.0), None])];
        contests[1].is_unreadable = true;
        let found = WinRate::by_judge("m", &contests, 0).unwrap();
        assert_eq!((found.rate, found.contests, found.problems), (1.0, 1, 1));
        let judging = found.judging.unwrap();
        assert_eq!((judging.missing, judging.unreadable, judging.failure.as_deref()), (1, 1, Some("timed out")));
        let error = WinRate::by_judge("m", &contests[1..], 0).unwrap_err().to_string();
        assert_eq!(error, "the judge gave no verdict on any of 1 contests: timed out");
        let tie = Contest { is_identical: true, ..contest(0, 0, [Some(0.5), Some(0.5)]) };
        assert!(WinRate::by_judge("m", &[tie.clone(), contests[1].clone()], 0).is_err());
        assert_eq!(WinRate::by_judge("m", &[tie], 0).unwrap().rate, 0.5);
        assert!(matches!(WinRate::by_judge("m", &[], 0), Err(Error::Empty(_))));
    }

    fn results(rights: &[usize], samples: usize, tokens: usize) -> Results {
        let score = |(id, right): (usize, &usize)| Score { id: id.to_string(), right: *right, samples };
        let accuracy = crate::metrics::estimate(&[0.5], samples).unwrap();
        let none = crate::metrics::Share { count: 0, share: 0.0 };
        Results {
            problems: rights.len(),
            samples,
            accuracy,
            pass: Vec::new(),
            majority: Vec::new(),
            g_pass: Vec::new(),
            mg_pass: Vec::new(),
            accuracy_finished: None,
            truncated: none,
            no_answer: none,
            unparsable: none,
            grader_timeout: none,
            reasons: Default::default(),
            methods: Default::default(),
            flags: Default::default(),
            lengths: lengths(&[(tokens, true)]),
            tokens_per_right: None,
            groups: Default::default(),
            refused: Vec::new(),
            scores: rights.iter().enumerate().map(score).collect(),
        }
    }

    /// By verdict the rate is 1/2 plus half the difference of accuracies, with the paired test's own interval and p.
    #[test]
    fn by_verdict_agrees_with_the_paired_test() {
        let (base, own) = (results(&[1, 1, 0, 0, 0, 1], 1, 30), results(&[1, 0, 1, 1, 1, 1], 1, 12));
        let found = compare(&base.scores, &own.scores, 0).unwrap();
        let rate = WinRate::by_verdict(&base, &own, &found).unwrap();
        close(rate.rate, (3.0 + 0.5 * 2.0) / 6.0);
        close(rate.win, 0.5);
        close(rate.loss, 1.0 / 6.0);
        close(rate.rate, rate.win + 0.5 * rate.tie);
        // Three of 1, two of 1/2, one of 0.
        close(rate.standard_error, ((3.0 / 9.0 + 2.0 / 36.0 + 4.0 / 9.0) / 5.0 / 6.0_f64).sqrt());
        assert_eq!((rate.p, rate.contests, rate.tokens, rate.baseline_tokens), (found.p, 6, 12.0, 30.0));
        close(rate.lower, 0.5 + 0.5 * found.lower);
        // Four samples a problem: 2 of 4 right against 1 of 4 gives 6 wins and 2 losses among 16 contests.
        let (base, own) = (results(&[1], 4, 1), results(&[2], 4, 1));
        let found = compare(&base.scores, &own.scores, 0).unwrap();
        let rate = WinRate::by_verdict(&base, &own, &found).unwrap();
        assert_eq!((rate.contests, rate.win, rate.loss), (16, 6.0 / 16.0, 2.0 / 16.0));
    }
}
