//! Which problems of a benchmark stand in a training set: by the same text, the same text after normalising,
//! or a run of thirteen common words.

use std::collections::{HashMap, HashSet};

use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Words in the runs that are looked for; the length GPT-3's report used ("Language Models are Few-Shot
/// Learners", arXiv 2005.14165, appendix C).
pub const RUN: usize = 13;

/// How a problem overlaps with a training text, the strongest kind first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// The same text but for white space at the ends.
    Exact,
    /// The same words, case, punctuation and spacing aside.
    Normalised,
    /// A run of [`RUN`] words in common.
    Run,
}

/// One problem found in the training set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Hit {
    /// Place of the problem in the list that was checked.
    pub problem: usize,
    /// Place of the first training text that holds it.
    pub training: usize,
    /// How strongly.
    pub overlap: Overlap,
    /// Share of the problem's runs that are in the training set, any of its texts; 1 for the other kinds.
    pub share: f64,
}

/// What a report says of the check.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Contamination {
    /// The training file.
    pub training: String,
    /// Training texts compared with.
    pub texts: usize,
    /// Problems with the same text.
    pub exact: usize,
    /// Further problems with the same normalised text.
    pub normalised: usize,
    /// Further problems with a common run of words.
    pub run: usize,
    /// Ids of the problems taken out of the benchmark.
    pub removed: Vec<String>,
}

impl Contamination {
    /// Counts hits by kind.
    pub fn new(training: impl Into<String>, texts: usize, hits: &[Hit], removed: Vec<String>) -> Self {
        let count = |kind: Overlap| hits.iter().filter(|hit| hit.overlap == kind).count();
        Self {
            training: training.into(),
            texts,
            exact: count(Overlap::Exact),
            normalised: count(Overlap::Normalised),
            run: count(Overlap::Run),
            removed,
        }
    }
}

/// Looks for problems in training texts as these come by, so that memory grows with the problems and not with the texts.
///
/// Texts shorter than [`RUN`] words can only be hit by their whole text. Texts without a single word (`3+4=` has
/// two, `+` none) are compared exactly and not otherwise.
#[derive(Debug)]
pub struct Search {
    wanted: Vec<Wanted>,
    exact: HashMap<String, Vec<usize>>,
    normalised: HashMap<Vec<String>, Vec<usize>>,
    /// Every run of every problem, with the place of the first training text that has it.
    runs: HashMap<u64, Option<usize>>,
    texts: usize,
}

/// A problem, and where it was found.
#[derive(Debug, Default)]
struct Wanted {
    runs: HashSet<u64>,
    exact: Option<usize>,
    normalised: Option<usize>,
}

impl Search {
    /// A search for these problems.
    pub fn new(problems: &[&str]) -> Self {
        let mut search = Self {
            wanted: Vec::new(),
            exact: HashMap::new(),
            normalised: HashMap::new(),
            runs: HashMap::new(),
            texts: 0,
        };
        for (place, text) in problems.iter().enumerate() {
            let words = words(text);
            let runs: HashSet<u64> = hashes(&words).collect();
            search.runs.extend(runs.iter().map(|&run| (run, None)));
            search.exact.entry(text.trim().to_owned()).or_default().push(place);
            if !words.is_empty() {
                search.normalised.entry(words).or_default().push(place);
            }
            search.wanted.push(Wanted { runs, ..Wanted::default() });
        }
        search
    }

    /// Looks at the next training texts.
    pub fn add(&mut self, texts: &[&str]) {
        let found: Vec<_> = texts
            .par_iter()
            .map(|text| {
                let words = words(text);
                let runs: Vec<u64> = hashes(&words).filter(|run| self.runs.contains_key(run)).collect();
                (self.exact.get(text.trim()).cloned(), self.normalised.get(&words).cloned(), runs)
            })
            .collect();
        for (place, (exact, normalised, runs)) in (self.texts..).zip(found) {
            for problem in exact.into_iter().flatten() {
                self.wanted[problem].exact.get_or_insert(place);
            }
            for problem in normalised.into_iter().flatten() {
                self.wanted[problem].normalised.get_or_insert(place);
            }
            for run in runs {
                self.runs.entry(run).or_default().get_or_insert(place);
            }
        }
        self.texts += texts.len();
    }

    /// Training texts looked at so far.
    pub fn texts(&self) -> usize {
        self.texts
    }

    /// The strongest overlap of each problem, by rising place; problems without any are left out.
    pub fn hits(&self) -> Vec<Hit> {
        let hit = |(problem, wanted): (usize, &Wanted)| {
            if let Some(training) = wanted.exact {
                return Some(Hit { problem, training, overlap: Overlap::Exact, share: 1.0 });
            }
            if let Some(training) = wanted.normalised {
                return Some(Hit { problem, training, overlap: Overlap::Normalised, share: 1.0 });
            }
            let found: Vec<usize> = wanted.runs.iter().filter_map(|run| self.runs[run]).collect();
            let training = found.iter().copied().min()?;
            let share = found.len() as f64 / wanted.runs.len() as f64;
            Some(Hit { problem, training, overlap: Overlap::Run, share })
        };
        self.wanted.iter().enumerate().filter_map(hit).collect()
    }
}

/// Runs of letters and of digits, in lower case. Signs between numbers are words too: `3+4` and `3-4` differ.
fn words(text: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut kind = 0;
    for letter in text.chars() {
        let of_letter = match letter {
            _ if letter.is_alphabetic() => 1,
            _ if letter.is_numeric() => 2,
            '+' | '-' | '*' | '/' | '^' | '=' | '<' | '>' | '\u{2212}' | '\u{d7}' | '\u{f7}' => 3,
            _ => 0,
        };
        if of_letter == 0 {
            kind = 0;
            continue;
        }
        if of_letter != kind || of_letter == 3 {
            words.push(String::new());
        }
        kind = of_letter;
        if let Some(word) = words.last_mut() {
            word.extend(letter.to_lowercase());
        }
    }
    words
}

/// 64-bit FNV-1a of every run of [`RUN`] words.
fn hashes(words: &[String]) -> impl Iterator<Item = u64> {
    words.windows(RUN).map(|run| {
        let bytes = run.iter().flat_map(|word| word.bytes().chain([0]));
        bytes.fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All at once, and text by text.
    fn contamination(problems: &[&str], training: &[&str]) -> Vec<Hit> {
        let (mut whole, mut cut) = (Search::new(problems), Search::new(problems));
        whole.add(training);
        training.iter().for_each(|text| cut.add(&[text]));
        assert_eq!((whole.hits(), whole.texts()), (cut.hits(), training.len()));
        whole.hits()
    }

    const LONG: &str = "A farmer has seventeen sheep and all but nine of them run away across the river at night";

    #[test]
    fn each_kind_is_found_with_its_place() {
        let training = ["What is 3+4?", LONG, "unrelated"];
        let longer = format!("Once upon a time. {LONG}. How many are left for the farmer to count in the morning?");
        let problems = [" What is 3+4? ", "what is 3 + 4", "What is 3-4?", &longer, "new"];
        let hits = contamination(&problems, &training);
        let found: Vec<_> = hits.iter().map(|hit| (hit.problem, hit.training, hit.overlap)).collect();
        assert_eq!(found, [(0, 0, Overlap::Exact), (1, 0, Overlap::Normalised), (3, 1, Overlap::Run)]);
        // 18 common words make 6 runs; 4 words before and 14 after make 36 words and 24 runs.
        let words_in = words(&longer).len();
        assert!((hits[2].share - 6.0 / (words_in - RUN + 1) as f64).abs() < 1e-12, "{}", hits[2].share);
    }

    #[test]
    fn counts_add_up_and_short_texts_do_not_hit_by_chance() {
        let hits = contamination(&["12+7=", "12+8=", "+"], &["12 + 7 =", "13+8=", ". ."]);
        let counted = Contamination::new("train.jsonl", 3, &hits, vec![]);
        assert_eq!((counted.exact, counted.normalised, counted.run), (0, 1, 0));
        assert!(contamination(&[], &["a"]).is_empty() && contamination(&["a"], &[]).is_empty());
    }
}
