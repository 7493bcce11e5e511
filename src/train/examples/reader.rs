//! From a row of the data to groups of a batch, as an objective takes it.

use anyhow::{Context, Result, bail, ensure};
use candlewick_algorithms::batch::Role;
use candlewick_algorithms::objective::Rows;
use candlewick_algorithms::rng::Rng;
use serde_json::{Map, Value as Json};

use super::{Group, Reading, Row};
use crate::data::render::{Renderer, Tokenised, Tokens};
use crate::data::{Example, Worth};
use crate::train::audit::{Audit, Fault};

/// Reads rows one after the other.
pub(super) struct Reader<'a> {
    pub(super) renderer: &'a Renderer,
    pub(super) reading: &'a Reading,
    pub(super) source: &'a str,
    pub(super) audit: Audit,
}

impl Reader<'_> {
    /// Adds the groups of a row.
    pub(super) fn example(&mut self, example: &Example, groups: &mut Vec<Group>) -> Result<()> {
        let id = example.id();
        let wrong = |needs: &str| -> anyhow::Error {
            anyhow::anyhow!(
                "row `{id}` of `{}` is of form `{}`: objective `{}` learns from {needs}",
                self.source,
                example.form(),
                self.reading.objective
            )
        };
        match (self.reading.rows, example) {
            (_, Example::Preference { chosen, rejected, .. }) if chosen == rejected => {
                self.audit.drop(id, Fault::Identical);
                Ok(())
            }
            (Rows::Demonstrations, Example::Preference { .. } | Example::Ranked { .. } | Example::Prompt(_)) => {
                Err(wrong("completions: fields `prompt` and `completion`, `messages` or `text`"))
            }
            (Rows::Demonstrations, _) => {
                if let Some(tokens) = self.row(example, id)? {
                    groups.push(alone(id, tokens, Role::Demonstration));
                }
                Ok(())
            }
            (rows, Example::Preference { problem, .. }) => {
                let is_marked = matches!(rows, Rows::Labelled { .. } | Rows::PassFail);
                let worth = if is_marked { (None, None) } else { self.label_and_margin(id, &problem.meta)? };
                if let Some(answers) = self.pair(example, id)? {
                    self.push_pair(id, answers, worth, groups);
                }
                Ok(())
            }
            (Rows::Pairs { with_prompt }, Example::Ranked { worth, .. }) => {
                let Some((rows, worth)) = self.list(example, id, worth)? else { return Ok(()) };
                groups.extend(pairs_of(id, &rows, &worth, with_prompt));
                Ok(())
            }
            (Rows::Pairs { .. }, _) => Err(wrong(
                "pairs: fields `prompt`, `chosen` and `rejected`, or lists: `prompt`, `candidates`, `scores`",
            )),
            (Rows::Lists, Example::Ranked { worth, .. }) => {
                if let Some((rows, worth)) = self.list(example, id, worth)? {
                    groups.push(list(id, rows, worth));
                }
                Ok(())
            }
            (Rows::Lists, _) => {
                Err(wrong("lists: fields `prompt`, `candidates` and `scores`, `probs` or `ranks`; or pairs"))
            }
            (Rows::Labelled { .. } | Rows::PassFail, Example::Completion { problem, .. }) => {
                let is_good = self.mark(id, &problem.meta)?;
                if let Some(tokens) = self.row(example, id)? {
                    if is_empty(&tokens) {
                        self.audit.drop(id, Fault::Empty);
                        return Ok(());
                    }
                    groups.push(alone(id, tokens, if is_good { Role::Desirable } else { Role::Undesirable }));
                }
                Ok(())
            }
            (Rows::Labelled { .. } | Rows::PassFail, _) => {
                Err(wrong("marked answers: fields `prompt`, `completion` and `label`, or pairs"))
            }
        }
    }

    /// The tokens of a row, cut or left out where it is too long or empty.
    fn row(&mut self, example: &Example, id: &str) -> Result<Option<Tokens>> {
        match self.renderer.example(example)? {
            Tokenised::Row(tokens) => Ok(self.fitted(tokens, id)),
            _ => bail!("row `{id}` of `{}` has nothing to learn", self.source),
        }
    }

    fn pair(&mut self, example: &Example, id: &str) -> Result<Option<(Tokens, Tokens)>> {
        let Tokenised::Pair { chosen, rejected } = self.renderer.example(example)? else {
            bail!("row `{id}` of `{}` is no pair", self.source);
        };
        Ok(self.comparable(chosen, rejected, id))
    }

    /// Two answers within the length limit; `None`, and a fault noted, where they cannot be compared.
    pub(super) fn comparable(&mut self, chosen: Tokens, rejected: Tokens, id: &str) -> Option<(Tokens, Tokens)> {
        if is_empty(&chosen) || is_empty(&rejected) {
            self.audit.drop(id, Fault::Empty);
            return None;
        }
        let chosen = self.fitted(chosen, id)?;
        let rejected = self.fitted(rejected, id)?;
        if chosen.ids == rejected.ids {
            self.audit.drop(id, Fault::Identical);
            return None;
        }
        Some((chosen, rejected))
    }

    /// A pair as the objective takes it: two rows of a group, a list of two, or two marked answers.
    pub(super) fn push_pair(
        &mut self,
        id: &str,
        (chosen, rejected): (Tokens, Tokens),
        (label, margin): (Option<f64>, Option<f64>),
        groups: &mut Vec<Group>,
    ) {
        match self.reading.rows {
            Rows::Lists => {
                let share = label.unwrap_or(1.0);
                groups.push(list(id, vec![chosen, rejected], Worth::Probs(vec![share, 1.0 - share])));
            }
            Rows::Labelled { .. } | Rows::PassFail => {
                groups.push(alone(id, chosen, Role::Desirable));
                groups.push(alone(id, rejected, Role::Undesirable));
            }
            rows => {
                self.audit.tied += usize::from(label == Some(0.5));
                let with_prompt = matches!(rows, Rows::Pairs { with_prompt: true });
                groups.push(Group { label, margin, ..pair(id.to_owned(), chosen, rejected, with_prompt) });
            }
        }
    }

    /// All groups, with those that follow from others, and what was found.
    pub(super) fn gathered(self, mut groups: Vec<Group>) -> Result<(Vec<Group>, Audit)> {
        let mut audit = self.audit;
        match self.reading.rows {
            Rows::Labelled { with_mismatched } => {
                audit.count_labels(&groups);
                if with_mismatched {
                    add_mismatched(&mut groups, self.reading.max_length)?;
                }
            }
            Rows::PassFail => groups = comparisons(&groups, self.reading.seed)?,
            Rows::Demonstrations | Rows::Pairs { .. } | Rows::Lists => {}
        }
        Ok((groups, audit))
    }

    /// The rows of a list and what they are worth, without those that repeat another, are empty or too long; nothing
    /// where fewer than two are left.
    fn list(&mut self, example: &Example, id: &str, worth: &Worth) -> Result<Option<(Vec<Tokens>, Worth)>> {
        let Tokenised::List(candidates) = self.renderer.example(example)? else {
            bail!("row `{id}` of `{}` is no list", self.source);
        };
        let (mut rows, mut kept): (Vec<Tokens>, Vec<usize>) = (Vec::new(), Vec::new());
        for (place, tokens) in candidates.into_iter().enumerate() {
            if is_empty(&tokens) {
                self.audit.drop(id, Fault::Empty);
                continue;
            }
            let Some(tokens) = self.fitted(tokens, id) else { continue };
            if rows.contains(&tokens) {
                self.audit.drop(id, Fault::Identical);
                continue;
            }
            rows.push(tokens);
            kept.push(place);
        }
        if rows.len() < 2 {
            self.audit.drop(id, Fault::TooFew);
            return Ok(None);
        }
        let worth = worth.of(&kept);
        let utilities = worth.utilities();
        self.audit.tied += usize::from((0..utilities.len()).any(|i| utilities[..i].contains(&utilities[i])));
        Ok(Some((rows, worth)))
    }

    /// The row within the length limit; `None` where its prompt alone reaches it, or cutting is off.
    fn fitted(&mut self, mut tokens: Tokens, id: &str) -> Option<Tokens> {
        let limit = self.reading.max_length;
        if tokens.ids.len() <= limit {
            return Some(tokens);
        }
        if tokens.prompt_len() >= limit || !self.reading.cuts {
            let fault = if self.reading.cuts { Fault::PromptTooLong } else { Fault::TooLong };
            self.audit.drop(id, fault);
            return None;
        }
        self.audit.cut += 1;
        tokens.truncate(limit);
        Some(tokens)
    }

    /// Whether an answer is marked as good: true or false, 1 or 0.
    fn mark(&self, id: &str, meta: &Map<String, Json>) -> Result<bool> {
        let name = self.reading.columns.label.as_deref().unwrap_or("label");
        match field(meta, name) {
            Some(Json::Bool(mark)) => Ok(*mark),
            Some(Json::Number(n)) if n.as_f64() == Some(0.0) || n.as_f64() == Some(1.0) => Ok(n.as_f64() == Some(1.0)),
            Some(other) => bail!(
                "row `{id}` of `{}`: `{name}` = {other} marks no answer: it is true or false, 1 or 0",
                self.source
            ),
            None => bail!(
                "row `{id}` of `{}` has no field `{name}`: say whether the answer is good, or name the field in `data.columns.label`",
                self.source
            ),
        }
    }

    fn label_and_margin(&self, id: &str, meta: &Map<String, Json>) -> Result<(Option<f64>, Option<f64>)> {
        let number = |name: &str, is_named: bool| match field(meta, name) {
            None | Some(Json::Null) if !is_named => Ok(None),
            Some(value) => match value.as_f64() {
                Some(number) => Ok(Some(number)),
                None => bail!("row `{id}` of `{}`: `{name}` = {value} is not a number", self.source),
            },
            None => bail!("row `{id}` of `{}` has no field `{name}`", self.source),
        };
        let of = |named: &Option<String>, usual: &str| number(named.as_deref().unwrap_or(usual), named.is_some());
        let label = of(&self.reading.columns.label, "label")?;
        if let Some(label) = label.filter(|l| !(0.0..=1.0).contains(l)) {
            bail!("row `{id}` of `{}`: the label {label} is not a share of raters from 0 to 1", self.source);
        }
        Ok((label, of(&self.reading.columns.margin, "margin")?))
    }
}

/// Whether an answer is nothing but its end: it would teach when to stop, and no more.
fn is_empty(answer: &Tokens) -> bool {
    answer.ids.len() <= answer.prompt_len() + 1
}

fn field<'a>(meta: &'a Map<String, Json>, path: &str) -> Option<&'a Json> {
    let mut parts = path.split('.');
    let first = meta.get(parts.next()?)?;
    parts.try_fold(first, |value, key| value.get(key))
}

fn alone(id: &str, tokens: Tokens, role: Role) -> Group {
    Group { id: id.to_owned(), rows: vec![Row { tokens, role }], label: None, margin: None, worth: None }
}

fn list(id: &str, rows: Vec<Tokens>, worth: Worth) -> Group {
    let rows = rows.into_iter().map(|tokens| Row { tokens, role: Role::Ranked }).collect();
    Group { id: id.to_owned(), rows, label: None, margin: None, worth: Some(worth) }
}

/// A chosen and a rejected row, and the prompt as a third one where it is learnt too.
fn pair(id: String, chosen: Tokens, rejected: Tokens, with_prompt: bool) -> Group {
    let prompt = with_prompt.then(|| prompt_row(&chosen)).flatten();
    let mut rows = vec![Row { tokens: chosen, role: Role::Chosen }, Row { tokens: rejected, role: Role::Rejected }];
    rows.extend(prompt);
    Group { id, rows, label: None, margin: None, worth: None }
}

/// Every two candidates of unequal worth as a pair, as InstructGPT (arXiv 2203.02155) makes them; scores give it a margin.
fn pairs_of(id: &str, rows: &[Tokens], worth: &Worth, with_prompt: bool) -> Vec<Group> {
    let utilities = worth.utilities();
    let all = (0..rows.len()).flat_map(|a| (0..rows.len()).map(move |b| (a, b)));
    all.filter(|&(a, b)| utilities[a] > utilities[b])
        .map(|(a, b)| {
            let margin = matches!(worth, Worth::Scores(_)).then(|| utilities[a] - utilities[b]);
            let id = format!("{id}:{}>{}", a + 1, b + 1);
            Group { margin, ..pair(id, rows[a].clone(), rows[b].clone(), with_prompt) }
        })
        .collect()
}

/// The prompt of an answer, all of it but the first token to be learnt; `None` for a prompt of one token.
fn prompt_row(answer: &Tokens) -> Option<Row> {
    let ids = answer.ids[..answer.prompt_len()].to_vec();
    let mut learnt = vec![true; ids.len()];
    *learnt.first_mut()? = false;
    (ids.len() > 1).then_some(Row { tokens: Tokens { ids, learnt }, role: Role::Prompt })
}

/// Puts to each answer's prompt the answer of the nearest row before it (around the end) with another prompt.
fn add_mismatched(groups: &mut [Group], max_length: usize) -> Result<()> {
    let n = groups.len();
    let prompts: Vec<Vec<u32>> = groups.iter().map(|g| prompt_of(&g.rows[0].tokens).to_vec()).collect();
    let answers: Vec<Vec<u32>> =
        groups.iter().map(|g| g.rows[0].tokens.ids[g.rows[0].tokens.prompt_len()..].to_vec()).collect();
    for i in 0..n {
        let other = (1..n).map(|back| (i + n - back) % n).find(|&j| prompts[j] != prompts[i]);
        let other = other.context(
            "every answer has the same prompt: `kto` needs answers to other prompts, or `loss = \"apo_zero_unpaired\"`",
        )?;
        let mut ids = prompts[i].clone();
        ids.extend(&answers[other]);
        ids.truncate(max_length);
        let learnt = (0..ids.len()).map(|at| at >= prompts[i].len()).collect();
        groups[i].rows.push(Row { tokens: Tokens { ids, learnt }, role: Role::Mismatched });
    }
    Ok(())
}

fn prompt_of(tokens: &Tokens) -> &[u32] {
    &tokens.ids[..tokens.prompt_len()]
}

/// Pairs across prompts: every passing answer once against a failing one and once against another passing
/// one, drawn by the seed. Two failing answers are never compared.
fn comparisons(answers: &[Group], seed: u64) -> Result<Vec<Group>> {
    let of = |role: Role| -> Vec<usize> { (0..answers.len()).filter(|&i| answers[i].rows[0].role == role).collect() };
    let (good, bad) = (of(Role::Desirable), of(Role::Undesirable));
    ensure!(
        !good.is_empty() && !bad.is_empty(),
        "comparisons need answers of both kinds: {} are marked as good, {} as bad",
        good.len(),
        bad.len()
    );
    let mut rng = Rng::keyed(&[seed, 0x71e]);
    let join = |a: usize, b: usize| Group {
        id: format!("{} / {}", answers[a].id, answers[b].id),
        rows: vec![answers[a].rows[0].clone(), answers[b].rows[0].clone()],
        label: None,
        margin: None,
        worth: None,
    };
    let mut groups = Vec::new();
    for (place, &a) in good.iter().enumerate() {
        groups.push(join(a, bad[rng.below(bad.len() as u64) as usize]));
        if good.len() > 1 {
            let other = (place + 1 + rng.below(good.len() as u64 - 1) as usize) % good.len();
            groups.push(join(a, good[other]));
        }
    }
    Ok(groups)
}
