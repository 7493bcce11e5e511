//! Stages compose: of every two variants of different stages, a run with both goes two steps and resumes to the same
//! bits, or the config is refused with a reason; and a stage's variant makes a difference to the update.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::training::Run;

/// A stage's variants: a name, and the lines that a config gets from it.
type Stage = &'static [(&'static str, &'static str)];

/// The stages in the order of a step. The first variant of each is what the quickstart has.
const STAGES: [(&str, Stage); 9] = [
    (
        "prompts",
        &[
            ("shuffle", "[prompts.shuffle]\nper_step = 4"),
            ("dynamic", "[prompts.dynamic]\nper_step = 2\nmax_draws = 12"),
            ("pairing", "[prompts.pairing]\npairs = 2\nwindow = 16\nband = 6\nmax_draws = 12"),
        ],
    ),
    (
        "rollouts",
        &[
            ("uniform", "[budget.rollouts.uniform]\nmean = 6"),
            ("knapsack", "[budget.rollouts.knapsack]\nmean = 6\nn_up = 12\nmin_count = 4"),
            ("dual_mirror", "[budget.rollouts.dual_mirror]\nmean = 6\nn_up = 12\nmin_count = 4"),
        ],
    ),
    (
        "tokens",
        &[
            ("fixed", "[budget.tokens.fixed]\nlimit = 40"),
            (
                "curriculum",
                "[budget.tokens.curriculum]\nstart = 40\nlimit = 44\nschedule = { drops = { end = 20, drops = 2 } }",
            ),
        ],
    ),
    (
        "rollout",
        &[
            ("discrete", "[rollout.discrete]"),
            ("soft", "[rollout.soft]\nthink_end = \",\"\ntop_p = 1.0\ntau = 0.1\nmax_steps = 12"),
        ],
    ),
    (
        "advantage",
        &[
            ("group", "[advantage.group]"),
            ("batch", "[advantage.batch]"),
            ("none", "[advantage.none]"),
            ("rloo", "[advantage.rloo]"),
            ("opo", "[advantage.opo]"),
            ("rfpp", "[advantage.rfpp]"),
            ("rfpp_baseline", "[advantage.rfpp_baseline]"),
            ("psr", "[advantage.psr]"),
            ("nsr", "[advantage.nsr]"),
            ("w_reinforce", "[advantage.w_reinforce]"),
            ("pairing", "[advantage.pairing]"),
            ("absent", ""),
        ],
    ),
    (
        "mix",
        &[
            ("sum_then_normalize", ""),
            ("normalize_then_sum", "mix = { normalize_then_sum = {} }"),
            ("constrained", "mix = { constrained = { thresholds = { repetition = -0.3 }, base = \"rewards\" } }"),
            ("correlation", "mix = { correlation = {} }"),
            ("hypervolume", "mix = { hypervolume = { every = 1 } }"),
            ("gradient", "mix = { gradient = {} }"),
        ],
    ),
    (
        "credit",
        &[
            ("uniform", ""),
            ("resrl", "[credit.resrl]\nrank = 4\nmin_positive_tokens = 4\npositive_scale = 1.0"),
            ("tw", "[credit.tw]"),
        ],
    ),
    (
        "objective",
        &[
            ("grpo", "[objective.grpo]"),
            ("real", "[objective.real]"),
            ("adpo", "[objective.adpo]"),
            ("soft_grpo", "[objective.soft_grpo]\nbeta = 0.05"),
            ("distill", "[objective.distill]"),
        ],
    ),
    ("train", &[("one_update", ""), ("two_updates", "[train.online]\nminibatches = 2")]),
];

/// A variant of a stage by their places in [`STAGES`].
type Choice = (usize, usize);
/// One variant for each stage.
type Row = [usize; STAGES.len()];

fn name((stage, variant): Choice) -> String {
    format!("{}.{}", STAGES[stage].0, STAGES[stage].1[variant].0)
}

fn describe(row: &Row) -> String {
    (0..row.len()).filter(|&s| row[s] > 0).map(|s| name((s, row[s]))).collect::<Vec<_>>().join(" ")
}

/// Why two variants do not go together: part of the message that refuses them.
fn refusal(a: &str, b: &str) -> Option<&'static str> {
    let is = |x: &str, y: &str| (a == x && b == y) || (a == y && b == x);
    let has = |x: &str| a == x || b == x;
    let of = |stage: &str| [a, b].into_iter().find_map(|c| c.strip_prefix(stage)?.strip_prefix('.'));
    let (advantage, mix, credit, objective) = (of("advantage"), of("mix"), of("credit"), of("objective"));
    let reads_none = has("objective.real") || has("objective.distill");
    let mix = mix.filter(|mix| *mix != "sum_then_normalize");
    match (advantage, mix, credit, objective) {
        (Some("psr" | "nsr" | "w_reinforce" | "pairing" | "absent"), Some(_), ..) => Some("`mix`"),
        (Some(estimator), Some("normalize_then_sum" | "constrained" | "correlation"), ..) if estimator != "none" => {
            Some("[advantage.none]")
        }
        (_, Some("normalize_then_sum" | "constrained" | "correlation"), _, Some(_)) if reads_none => {
            Some("[advantage.none]")
        }
        (_, Some(_), _, Some(_)) if reads_none => Some("reads no advantages"),
        (_, _, Some("tw"), Some("soft_grpo")) => Some("has no soft steps to learn from"),
        (Some("absent"), _, Some("resrl" | "tw"), _) => Some("missing section [advantage.group]"),
        (Some("pairing"), ..) if has("prompts.shuffle") || has("prompts.dynamic") => {
            Some("which only [prompts.pairing] makes")
        }
        (Some("absent"), _, _, Some(_)) if !reads_none => Some("missing section [advantage.group]"),
        (Some(estimator), _, _, Some(_)) if reads_none && estimator != "absent" => Some("reads no advantages"),
        (_, _, Some("resrl" | "tw"), Some("real" | "adpo" | "distill")) => Some("reads no credit"),
        _ if is("prompts.pairing", "rollouts.dual_mirror") => Some("the other of its pair alone"),
        (Some("pairing"), ..) if has("rollouts.dual_mirror") => Some("which only [prompts.pairing] makes"),
        _ if is("rollout.discrete", "objective.soft_grpo") => Some("has no soft steps to learn from"),
        _ if is("rollout.soft", "objective.distill") || is("rollout.soft", "credit.tw") => {
            Some("cannot learn from soft steps")
        }
        _ => None,
    }
}

/// The tiny checkpoint never saw a told length: under one it is so seldom right that no group is mixed, and
/// `prompts.dynamic` rightly stops the run.
fn is_hopeless(a: &str, b: &str) -> bool {
    let is = |x: &str| a == x || b == x;
    is("prompts.dynamic") && is("tokens.curriculum")
}

fn goes(a: Choice, b: Choice) -> bool {
    refusal(&name(a), &name(b)).is_none() && !is_hopeless(&name(a), &name(b))
}

fn fits(row: &[Option<usize>], choice: Choice) -> bool {
    (0..row.len()).all(|stage| match row[stage] {
        Some(variant) if stage != choice.0 => goes((stage, variant), choice),
        _ => true,
    })
}

/// The config of a row: two rewards, so that mixers have something to mix.
fn config(row: &Row, rates: &Path) -> String {
    let lines = |stage: usize| STAGES[stage].1[row[stage]].1;
    let told = if row[2] == 1 { "told = \"{tokens};{prompt}\"\n" } else { "" };
    let probe = match row[0] == 2 || row[1] > 0 || row[2] == 1 {
        true => format!("probe = \"{}\"\n", rates.display()),
        false => String::new(),
    };
    let reference = match STAGES[7].1[row[7]].0 {
        "distill" => "[model.reference]\npath = \"configs/quickstart\"\n",
        "soft_grpo" => "[model.reference]\n",
        _ => "",
    };
    let mut text = format!(
        "[run]\nname = \"row\"\nsteps = 2\nsave_every = 1\nkeep_last = 9\ntensorboard = false\nlog_samples = 0\n\
         [model]\npath = \"configs/quickstart\"\n{reference}\
         [data]\ntrain = \"generated:sums\"\n{told}{probe}[data.generated]\nstyle = \"bare\"\ncount = 60\n\
         [reward]\nverdict = \"math\"\n[reward.math]\nextract = \"last_number\"\nrequire_finished = true\n\
         [reward.repetition]\nngram_size = 1\n\
         [optim]\nlearning_rate = 2e-4\nschedule = \"constant\"\n"
    );
    for stage in 0..STAGES.len() {
        text.push_str(lines(stage));
        text.push('\n');
    }
    text
}

/// Rows in which every pair of variants that fit stands at least once, found greedily.
fn covering() -> Vec<Row> {
    let mut open: BTreeSet<(Choice, Choice)> = pairs().filter(|(a, b)| goes(*a, *b)).collect();
    let mut rows = Vec::new();
    while let Some(&(a, b)) = open.first() {
        let mut row = vec![None; STAGES.len()];
        (row[a.0], row[b.0]) = (Some(a.1), Some(b.1));
        let row =
            fill(&mut row, &open).then(|| std::array::from_fn(|stage| row[stage].expect("every stage is filled")));
        let row: Row = row.unwrap_or_else(|| panic!("{} with {} fits no row", name(a), name(b)));
        open.retain(|(a, b)| row[a.0] != a.1 || row[b.0] != b.1);
        rows.push(row);
    }
    rows
}

/// Chooses for the stages that are left, the choice with the most open pairs first.
fn fill(row: &mut Vec<Option<usize>>, open: &BTreeSet<(Choice, Choice)>) -> bool {
    let Some(stage) = (0..row.len()).find(|&stage| row[stage].is_none()) else { return true };
    let news = |variant: usize| {
        let counts = |other: usize, chosen: usize| {
            let (one, two) = ((stage, variant), (other, chosen));
            open.contains(&(one.min(two), one.max(two)))
        };
        row.iter().enumerate().filter(|(other, chosen)| chosen.is_some_and(|c| counts(*other, c))).count()
    };
    let mut variants: Vec<usize> = (0..STAGES[stage].1.len()).filter(|&v| fits(row, (stage, v))).collect();
    variants.sort_by_key(|&v| std::cmp::Reverse(news(v)));
    for variant in variants {
        row[stage] = Some(variant);
        if fill(row, open) {
            return true;
        }
    }
    row[stage] = None;
    false
}

/// All pairs of variants of different stages.
fn pairs() -> impl Iterator<Item = (Choice, Choice)> {
    let choices: Vec<Choice> = (0..STAGES.len()).flat_map(|s| (0..STAGES[s].1.len()).map(move |v| (s, v))).collect();
    let all = choices.clone();
    choices.into_iter().flat_map(move |a| all.clone().into_iter().filter(move |b| a.0 < b.0).map(move |b| (a, b)))
}

/// A folder with rates of the 60 problems, and a place for configs and runs.
struct Bench {
    run: Run,
    rates: PathBuf,
}

impl Bench {
    fn new() -> Self {
        let run = Run::new();
        let rates = run.output.path().join("rates.jsonl");
        let mut command = Command::new(env!("CARGO_BIN_EXE_candlewick"));
        command.current_dir(env!("CARGO_MANIFEST_DIR")).args(["probe", "configs/quickstart.toml", "--rollouts", "16"]);
        command.args(["--set", "data.generated.count=60", "--output"]).arg(&rates);
        let done = command.output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        Self { run, rates }
    }

    fn file(&self, row: &Row, name: &str) -> String {
        let path = self.run.output.path().join(format!("{name}.toml"));
        std::fs::write(&path, config(row, &self.rates)).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn train(&self, row: &Row, name: &str, resume: bool) -> Output {
        let mut command = self.run.command(&self.file(row, name), name, &[]);
        if resume {
            command.arg("--resume");
        }
        command.output().unwrap()
    }

    fn steps(&self, name: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(self.run.folder(name).join("metrics.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Two steps, and the second once more from the first's checkpoint.
    fn check(&self, row: &Row, name: &str) {
        let which = describe(row);
        let whole = self.train(row, name, false);
        assert!(whole.status.success(), "{which}: {}", String::from_utf8_lossy(&whole.stderr));
        let steps = self.steps(name);
        let loss = |step: &Value| step["objective/loss"].as_f64().filter(|l| l.is_finite());
        assert!(steps.len() == 2 && steps.iter().all(|s| loss(s).is_some()), "{which}: {steps:?}");
        let last = self.run.folder(name).join("checkpoints/2");
        let read =
            || ["model.safetensors", "optimizer.safetensors"].map(|file| std::fs::read(last.join(file)).unwrap());
        let before = read();
        std::fs::remove_dir_all(&last).unwrap();
        let again = self.train(row, name, true);
        let text = String::from_utf8_lossy(&again.stdout);
        assert!(again.status.success() && text.contains("resumed after step 1"), "{which}: {text}");
        assert!(before == read(), "{which}: the resumed run differs");
        std::fs::remove_dir_all(self.run.folder(name)).unwrap();
    }
}

#[test]
fn every_two_variants_that_fit_run_and_resume() {
    let (bench, rows) = (Bench::new(), covering());
    // As many processes as cores; each of the tiny runs uses one.
    std::thread::scope(|scope| {
        for worker in 0..2 {
            let (bench, rows) = (&bench, &rows);
            scope.spawn(move || {
                for (i, row) in rows.iter().enumerate().skip(worker).step_by(2) {
                    bench.check(row, &format!("row{i}"));
                }
            });
        }
    });
}

#[test]
fn variants_that_do_not_fit_are_refused_with_a_reason() {
    let bench = Bench::new();
    for (a, b) in pairs() {
        let Some(reason) = refusal(&name(a), &name(b)) else { continue };
        let mut row: Row = [0; STAGES.len()];
        (row[a.0], row[b.0]) = (a.1, b.1);
        let file = bench.file(&row, "refused");
        let mut command = Command::new(env!("CARGO_BIN_EXE_candlewick"));
        let output = command.current_dir(env!("CARGO_MANIFEST_DIR")).args(["check", &file]).output().unwrap();
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.code() == Some(2) && err.contains(reason),
            "{} with {}: expected `{reason}` in: {err}",
            name(a),
            name(b)
        );
    }
}

/// The first four steps of each single exchange, against the same config without it.
#[test]
fn exchanging_a_variant_changes_the_update() {
    let bench = Bench::new();
    let update = |row: &Row, name: &str| {
        // What remembers earlier steps needs some.
        let output =
            bench.run.command(&bench.file(row, name), name, &["run.steps=4", "run.save_every=0"]).output().unwrap();
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        let figures = |s: &Value| [&s["objective/loss"], &s["optim/grad_norm"]].map(|v| v.as_f64().unwrap().to_bits());
        bench.steps(name).iter().map(figures).collect::<Vec<_>>()
    };
    let mut seen: BTreeMap<Row, Vec<[u64; 2]>> = BTreeMap::new();
    for stage in 0..STAGES.len() {
        for variant in 1..STAGES[stage].1.len() {
            let mut row = vec![None; STAGES.len()];
            row[stage] = Some(variant);
            // What else must change with it, from the left.
            assert!(fill(&mut row, &BTreeSet::new()), "{} fits no row", name((stage, variant)));
            let row: Row = std::array::from_fn(|s| row[s].expect("every stage is filled"));
            let mut other = row;
            let instead = (0..STAGES[stage].1.len()).find(|&v| {
                let rest: Vec<Option<usize>> = row.iter().copied().map(Some).collect();
                v != variant && fits(&rest, (stage, v))
            });
            // Some go with one variant only, such as the estimator that an objective without advantages has.
            let Some(instead) = instead else { continue };
            other[stage] = instead;
            for each in [row, other] {
                if !seen.contains_key(&each) {
                    let made = update(&each, &format!("run{}", seen.len()));
                    seen.insert(each, made);
                }
            }
            assert_ne!(
                seen[&row],
                seen[&other],
                "{} makes no difference to {}",
                name((stage, variant)),
                describe(&other)
            );
        }
    }
}
