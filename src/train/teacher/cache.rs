//! A teacher's tokens for given examples: asked once, kept on disk, after which the teacher is not needed any more.
//!
//! Columns of the file (see [`crate::train::kept`]): `ids` u32 [tokens,k] and `logp` [tokens,k], over the whole
//! vocabulary and at temperature 1; with f16 log-probs also `mass` f32 [tokens], the log of what the named tokens have
//! together. Rounding moves a log-prob by up to one part in 2048: at -12 by 0.004. The forward divergence weighs that
//! with the teacher's probability, so that f16 serves it; every other one weighs it with the student's too, and
//! gets f32, which is what a teacher in memory gives. The mass keeps the tail what it was: rounded log-probs of
//! likely tokens would sum to more or less than the share that the tail leaves them.

use std::ops::Range;

use anyhow::{Context, Result, ensure};
use candlewick_algorithms::Batch;
use candlewick_algorithms::batch::{Distributions, TeacherNeed, TeacherRow};
use candlewick_algorithms::objective::Objective;
use candlewick_algorithms::row::divergence::ln_sum_exp;
use half::f16;
use safetensors::Dtype;

use crate::config::Config;
use crate::train::examples::Examples;
use crate::train::kept::{Column, Kept, Plan};
use crate::train::policy::Policy;
use crate::train::reference::{Judge, key};

/// A teacher's tokens at every learnt token of given examples.
#[derive(Debug)]
pub(in crate::train) struct TeacherTokens {
    kept: Kept,
    k: usize,
    format: Format,
}

/// How log-probs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    /// As computed.
    Exact,
    /// f16, with the mass beside them where they are different tokens.
    Narrow { with_mass: bool },
}

/// Columns of the teacher's tokens that an objective asks for; `None` if it asks for none, or for all.
fn columns(objective: &dyn Objective) -> Option<(usize, Format, Vec<Column>)> {
    let (k, is_drawn) = match objective.needs().teacher? {
        TeacherNeed::Full => return None,
        TeacherNeed::TopK(k) => (k, false),
        TeacherNeed::Sampled(k) => (k, true),
    };
    let format = match objective.divergence()?.beta == 0.0 {
        true => Format::Narrow { with_mass: !is_drawn },
        false => Format::Exact,
    };
    let dtype = if format == Format::Exact { Dtype::F32 } else { Dtype::F16 };
    let mut columns =
        vec![Column { name: "ids", dtype: Dtype::U32, width: k }, Column { name: "logp", dtype, width: k }];
    if format == (Format::Narrow { with_mass: true }) {
        columns.push(Column { name: "mass", dtype: Dtype::F32, width: 1 });
    }
    Some((k, format, columns))
}

/// Bytes on disk for each learnt token; `None` if the objective keeps none.
pub fn bytes_a_token(objective: &dyn Objective) -> Option<usize> {
    columns(objective).map(|(.., columns)| columns.iter().map(Column::bytes).sum())
}

impl TeacherTokens {
    /// Reads them from `<run.output>/teacher`, or asks the teacher and writes them.
    pub(in crate::train) fn obtain(
        policy: &mut Policy,
        config: &Config,
        examples: &Examples,
        objective: &dyn Objective,
    ) -> Result<Self> {
        let need = objective.needs().teacher.context("the objective asks for a teacher")?;
        let (k, format, columns) = columns(objective).context("a whole teacher is not kept on disk")?;
        let question = format!("teacher's tokens 1 {need:?} {format:?}");
        let (key, layout) = key(policy, config, Judge::Reference, &question, examples)?;
        let what = match need {
            TeacherNeed::Sampled(_) => format!("the {k} tokens drawn from the teacher"),
            _ => format!("the teacher's {k} likeliest tokens"),
        };
        let folder = config.run.output.join("teacher");
        let plan = Plan { folder: &folder, key, columns, what: &what };
        let kept = Kept::obtain(&plan, layout, examples, |batch| {
            policy.attach_reference(config)?;
            encode(&policy.teach(batch, need)?, format)
        })?;
        Ok(Self { kept, k, format })
    }

    /// The teacher of a batch made of these groups.
    pub(in crate::train) fn fill(&self, batch: &mut Batch, chosen: &[usize]) -> Result<()> {
        let column = |name: &str| self.kept.column(name)?.with_context(|| format!("the file has no column `{name}`"));
        let (ids, logp) = (column("ids")?, column("logp")?);
        let mass = self.kept.column("mass")?;
        let spans = chosen.iter().flat_map(|&g| self.kept.layout.spans(g));
        let rows = spans.zip(0..batch.rows()).map(|(span, row)| {
            let mask = batch.mask.row(row);
            let positions = (0..mask.len()).filter(|&t| mask[t] != 0.0).map(|t| t as u32).collect();
            let distributions = Distributions::Sparse {
                k: self.k,
                ids: numbers(&ids[bytes(&span, 4 * self.k)], u32::from_le_bytes),
                logp: self.log_probs(logp, mass, &span),
            };
            TeacherRow { positions, distributions }
        });
        batch.teacher = Some(rows.collect());
        Ok(())
    }

    fn log_probs(&self, logp: &[u8], mass: Option<&[u8]>, span: &Range<usize>) -> Vec<f32> {
        if self.format == Format::Exact {
            return numbers(&logp[bytes(span, 4 * self.k)], f32::from_le_bytes);
        }
        let mut values = numbers(&logp[bytes(span, 2 * self.k)], |b| f16::from_le_bytes(b).to_f32());
        if let Some(mass) = mass {
            shift(&mut values, &mass[bytes(span, 4)], self.k);
        }
        values
    }

    /// The file.
    pub(in crate::train) fn path(&self) -> &std::path::Path {
        &self.kept.path
    }

    /// What is said of it: `the teacher's 8 likeliest tokens are kept in ..`.
    pub(in crate::train) fn line(&self) -> String {
        let how = if self.kept.was_there { "taken from" } else { "kept in" };
        format!("the teacher's {} tokens a position are {how} {}", self.k, self.path().display())
    }
}

/// Shifts each k log-probs to what they were together, `mass` f32.
fn shift(logp: &mut [f32], mass: &[u8], k: usize) {
    for (named, mass) in logp.chunks_mut(k).zip(numbers(mass, f32::from_le_bytes)) {
        let shift = f64::from(mass) - ln_sum_exp(named.iter().map(|&l| f64::from(l)));
        named.iter_mut().for_each(|l| *l = (f64::from(*l) + shift) as f32);
    }
}

fn bytes(span: &Range<usize>, width: usize) -> Range<usize> {
    span.start * width..span.end * width
}

fn numbers<const B: usize, T>(bytes: &[u8], read: impl Fn([u8; B]) -> T) -> Vec<T> {
    bytes.chunks_exact(B).map(|b| read(b.try_into().expect("chunks have this size"))).collect()
}

/// The columns of rows of sparse distributions.
fn encode(rows: &[TeacherRow], format: Format) -> Result<Vec<Vec<u8>>> {
    let (mut ids, mut logps, mut masses) = (Vec::new(), Vec::new(), Vec::new());
    for row in rows {
        let Distributions::Sparse { k, ids: named, logp } = &row.distributions else {
            anyhow::bail!("a whole teacher is not kept on disk");
        };
        ids.extend(named.iter().flat_map(|id| id.to_le_bytes()));
        ensure!(logp.iter().all(|l| !l.is_nan()), "the teacher gives log-probs that are no numbers");
        match format {
            Format::Exact => logps.extend(logp.iter().flat_map(|l| l.to_le_bytes())),
            // What is finite stays so.
            Format::Narrow { .. } => logps.extend(logp.iter().flat_map(|&l| match l.is_finite() {
                true => f16::from_f32(l.max(f16::MIN.to_f32())).to_le_bytes(),
                false => f16::NEG_INFINITY.to_le_bytes(),
            })),
        }
        if format == (Format::Narrow { with_mass: true }) {
            for named in logp.chunks(*k) {
                let mass = ln_sum_exp(named.iter().map(|&l| f64::from(l))).min(0.0);
                masses.extend((mass as f32).to_le_bytes());
            }
        }
    }
    let mut columns = vec![ids, logps];
    if format == (Format::Narrow { with_mass: true }) {
        columns.push(masses);
    }
    Ok(columns)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Kind;
    use crate::data::{self, Split};
    use crate::hub::Hub;
    use crate::model::params::Grads;
    use crate::train::offline;
    use crate::train::policy::Reference;
    use crate::train::update::gradient;

    fn kept(format: Format, logp: &[f32], k: usize) -> Vec<f32> {
        let n = logp.len() / k;
        let row = TeacherRow {
            positions: (0..n as u32).collect(),
            distributions: Distributions::Sparse { k, ids: vec![7; logp.len()], logp: logp.to_vec() },
        };
        let columns = encode(&[row], format).unwrap();
        let mass = columns.get(2).map(Vec::as_slice);
        assert_eq!(columns[0], [7_u32.to_le_bytes(); 1].concat().repeat(logp.len()));
        let mut all = numbers(&columns[1], f32::from_le_bytes);
        if format != Format::Exact {
            all = numbers(&columns[1], |b| f16::from_le_bytes(b).to_f32());
            if let Some(mass) = mass {
                shift(&mut all, mass, k);
            }
        }
        all
    }

    #[test]
    fn f32_gives_back_what_was_kept() {
        let logp = [-0.1_f32, -2.5, -11.3, f32::NEG_INFINITY];
        assert_eq!(kept(Format::Exact, &logp, 2), logp);
    }

    /// A sum of 0.9995 leaves a tail of 0.0005: f16 alone leaves 0.0002.
    #[test]
    fn f16_keeps_the_tail_and_rounds_the_rest_by_a_part_in_2048() {
        let p = [0.56_f64, 0.26, 0.1794, 0.0001];
        let logp: Vec<f32> = p.iter().map(|p| p.ln() as f32).collect();
        let tail = |logp: &[f32]| 1.0 - logp.iter().map(|&l| f64::from(l).exp()).sum::<f64>();
        let (bare, whole) =
            (kept(Format::Narrow { with_mass: false }, &logp, 4), kept(Format::Narrow { with_mass: true }, &logp, 4));
        assert!((tail(&whole) - 5e-4).abs() < 1e-6, "{}", tail(&whole));
        assert!((tail(&bare) - 2e-4).abs() < 1e-5, "{}", tail(&bare));
        for (found, wanted) in whole.iter().zip(&logp) {
            assert!((found - wanted).abs() <= wanted.abs() / 2048.0 + 3e-4, "{found} {wanted}");
        }
        let least = kept(Format::Narrow { with_mass: true }, &[-0.001, -1e6], 2);
        assert!(least[1].is_finite() && least[1] < -60_000.0, "what is finite stays finite");
        let none = kept(Format::Narrow { with_mass: true }, &[-0.001, f32::NEG_INFINITY], 2);
        assert_eq!(none[1], f32::NEG_INFINITY);
    }

    /// A run on worked sums whose student has random weights.
    fn run(output: &Path, objective: &str) -> Config {
        let text = "[run]\nname = \"run\"\n[model]\npath = \"configs/quickstart\"\nrandom_init = 3\n\
                    [model.reference]\npath = \"configs/quickstart\"\n[data]\ntrain = \"generated:sums\"\n\
                    [data.generated]\nstyle = \"bare\"\ncount = 50\n[data.generated.demonstrations]\nverbose = 1.0\n";
        let sets = [format!("run.output={}", output.display()), format!("objective.distill={objective}")];
        Config::parse("run.toml", text, &sets).unwrap().config
    }

    /// Loss and every gradient of an update on the first six rows, from the file or from the teacher in memory.
    fn update(config: &Config, is_cached: bool) -> (f64, Vec<f32>) {
        let objective = config.objective.build().unwrap();
        let Kind::Offline(offline) = config.kind() else { panic!("nothing is sampled") };
        let mut policy = Policy::load(&config.model, &config.data).unwrap();
        let dataset = data::load(&config.data, &Hub::from_env(), Split::Train).unwrap();
        let reading = offline::reading(config, &offline, objective.as_ref(), 128);
        let examples = Examples::read(dataset, &policy.renderer, &reading).unwrap();
        let chosen = [5, 0, 3, 1, 40, 2];
        let mut batch = examples.batch(&chosen).unwrap();
        if is_cached {
            let tokens = TeacherTokens::obtain(&mut policy, config, &examples, objective.as_ref()).unwrap();
            policy.reference = Reference::Nothing;
            tokens.fill(&mut batch, &chosen).unwrap();
        } else {
            policy.attach_reference(config).unwrap();
            batch.teacher = Some(policy.teach(&batch, objective.needs().teacher.unwrap()).unwrap());
        }
        batch.count_totals();
        let mut grads = Grads::new(&policy.decoder.params);
        let loss = gradient(&policy, objective.as_ref(), &batch, &mut grads, 1.0, None).unwrap().loss;
        let all = (0..policy.decoder.params.len()).filter_map(|id| grads.get(id));
        (loss, all.flat_map(|g| g.flatten_all().unwrap().to_vec1::<f32>().unwrap()).collect())
    }

    #[test]
    fn an_update_from_the_file_is_that_of_a_teacher_in_memory() {
        for (objective, is_exact) in [
            ("{ beta = 1.0, top_k = 5 }", true),
            ("{ beta = 0.5, top_k = 3, alpha = 0.2 }", true),
            ("{ beta = 0.0, top_k = 5 }", false),
            ("{ beta = 0.0, top_k = 16 }", false),
            ("{ beta = 0.0, top_k = 5, rest = 'renormalised' }", false),
            ("{ beta = 0.0, top_k = 5, rest = 'truncated' }", false),
            ("{ beta = 0.0, top_k = 5, rest = 'sampled' }", false),
        ] {
            let output = tempfile::tempdir().unwrap();
            let config = run(output.path(), objective);
            let (memory, made, again) = (update(&config, false), update(&config, true), update(&config, true));
            assert_eq!(made, again, "{objective}: what was written is what is read");
            // The teacher saw its rows packed with others. A log-prob in f16 is off by a part in 2048 at most.
            let limit = if is_exact { 1e-5 } else { 1e-3 };
            assert!((made.0 - memory.0).abs() < limit * memory.0.abs(), "{objective}: {} {}", made.0, memory.0);
            let largest = memory.1.iter().fold(0.0_f32, |most, g| most.max(g.abs()));
            let apart = made.1.iter().zip(&memory.1).fold(0.0_f32, |most, (a, b)| most.max((a - b).abs()));
            assert!(apart < limit as f32 * largest, "{objective}: {apart} of {largest}");
        }
    }
}
