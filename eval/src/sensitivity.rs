//! Grader sensitivity: the same completions under several graders, since a score that hangs on the grader's
//! mode says less about the model.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::benchmark::{Benchmark, Item};
use crate::grading::Grade;
use crate::metrics::{Estimate, Settings, summarise};
use crate::sample::{Sample, grade};

/// Accuracy under one grader.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Mode {
    /// The grader's name.
    pub name: String,
    /// avg@n under it.
    pub accuracy: Estimate,
    /// Samples it accepts and the first grader refuses.
    pub accepts_more: usize,
    /// Samples it refuses and the first grader accepts.
    pub refuses_more: usize,
}

/// Points of accuracy between the graders above which a report says so on top.
pub const SPREAD: f64 = 0.02;

/// The primary grader's accuracy, then that of `others` on the same completions.
///
/// `samples` are those of an evaluation with `n` a problem; their verdicts are the primary grader's, so that
/// whatever rule was applied on top of it stands; who accepts what it refuses is written to
/// [`Sample::accepted_by`]. Errors: as [`summarise`].
pub fn sensitivity(
    benchmark: &dyn Benchmark,
    items: &[Item],
    samples: &mut [Sample],
    n: usize,
    primary: &dyn Grade,
    others: &[&dyn Grade],
) -> Result<Vec<Mode>> {
    let settings = Settings { samples: n, ks: Vec::new(), taus: Vec::new(), seed: 0 };
    let first: Vec<bool> = samples.iter().map(|sample| sample.verdict.correct).collect();
    let accuracy = summarise(items, samples, primary, &settings)?.accuracy;
    let mut modes = vec![Mode { name: primary.name().to_owned(), accuracy, accepts_more: 0, refuses_more: 0 }];
    for grader in others {
        let completions = samples.iter().map(|sample| sample.completion.clone()).collect();
        let graded = grade(benchmark, *grader, items, completions)?;
        let accuracy = summarise(items, &graded, *grader, &settings)?.accuracy;
        let differ = |now: bool| {
            let pairs = first.iter().zip(&graded);
            pairs.filter(|(before, after)| **before != after.verdict.correct && after.verdict.correct == now).count()
        };
        for (sample, after) in samples.iter_mut().zip(&graded) {
            if !sample.verdict.correct && after.verdict.correct {
                sample.accepted_by.push(grader.name().to_owned());
            }
        }
        modes.push(Mode {
            name: grader.name().to_owned(),
            accuracy,
            accepts_more: differ(true),
            refuses_more: differ(false),
        });
    }
    Ok(modes)
}

/// Graders that take an answer in the form it has. The others want a form (`####`, a box, a closing sentence, nothing
/// but the answer) that the prompt may not have asked for, so a 0 under them says nothing of the primary grader.
const ANY_FORM: [&str; 2] = ["lenient", "math_verify"];

/// The modes whose disagreement casts doubt on the accuracy: the primary, which is the first, and those of any form.
pub fn applicable(modes: &[Mode]) -> Vec<&Mode> {
    let applies = |(at, mode): &(usize, &Mode)| *at == 0 || ANY_FORM.contains(&mode.name.as_str());
    modes.iter().enumerate().filter(applies).map(|(_, mode)| mode).collect()
}

/// Greatest less least accuracy of the [`applicable`] modes; 0 for fewer than two.
pub fn spread(modes: &[Mode]) -> f64 {
    let values: Vec<f64> = applicable(modes).iter().map(|mode| mode.accuracy.value).collect();
    let greatest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    if values.len() < 2 { 0.0 } else { greatest - least }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::benchmark::{Benchmark, Jsonl};
    use crate::grading::Verdict;
    use crate::sample::{Completion, Finish};
    use serde_json::json;

    /// Right when the completion ends in the answer, or with `lenient` when it holds it anywhere.
    struct Ends(bool);

    impl Grade for Ends {
        fn name(&self) -> &str {
            if self.0 { "lenient" } else { "at the end" }
        }

        fn grade(&self, item: &Item, completion: &str) -> Verdict {
            let correct = completion.ends_with(&item.answer) || self.0 && completion.contains(&item.answer);
            let reason = if correct { String::new() } else { "different".into() };
            Verdict { correct, extracted: Some(completion.into()), reason, method: "text".into(), flags: vec![] }
        }
    }

    #[test]
    fn a_lenient_grader_shows_its_gain() {
        let benchmark = Jsonl::new("sums");
        let items = benchmark
            .problems(&[json!({"problem": "1+1", "answer": "2"}), json!({"problem": "2+2", "answer": "4"})])
            .unwrap()
            .items;
        let completion = |id: &str, text: &str| Completion {
            item: id.into(),
            index: 0,
            problem: String::new(),
            prompt: String::new(),
            text: text.into(),
            tokens: 3,
            finish: Finish::Stop,
            logp: None,
            ids: Vec::new(),
        };
        let completions = vec![completion("0", "it is 2"), completion("1", "4 it is")];
        let mut samples = grade(&benchmark, &Ends(false), &items, completions).unwrap();
        let modes = sensitivity(&benchmark, &items, &mut samples, 1, &Ends(false), &[&Ends(true)]).unwrap();
        assert_eq!((modes[0].accuracy.value, modes[1].accuracy.value), (0.5, 1.0));
        assert_eq!((modes[1].accepts_more, modes[1].refuses_more), (1, 0));
        assert_eq!(samples[1].accepted_by, ["lenient"]);
        assert!(samples[0].accepted_by.is_empty());
        assert_eq!(spread(&modes), 0.5);
        assert_eq!(spread(&modes[..1]), 0.0);
        // A grader that wants a form of its own says nothing where it refuses everything.
        let strict = Mode { name: "exact".into(), ..modes[0].clone() };
        assert_eq!(spread(&[modes[1].clone(), strict]), 0.0);
    }
}
