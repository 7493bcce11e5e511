//! An answer string read once: its tokens, its tree, its unit, and what else it may be.

use super::ast::Node;
use super::compare::Comparison;
use super::exact::exact;
use super::parse::{Bounds, Failure, parse};
use super::scalar::infinity_sign;
use super::simple::simple;
use super::text;
use super::token::{Commas, Tok, Token, Tokens, tokenise};
use super::unit::{self, Unit};
use super::{Flag, Limits, Method, Units};

/// How to read an answer.
pub(crate) struct Reading<'a> {
    pub(crate) commas: Commas,
    /// The variables of the gold: a letter among them is not a unit.
    pub(crate) symbols: &'a [String],
    pub(crate) limits: &'a Limits,
    /// Names to replace: old and new.
    pub(crate) rename: &'a [(String, String)],
    /// Whether `\log` without a base is the natural one; `None` where the answer itself says so.
    pub(crate) is_log_natural: Option<bool>,
}

impl<'a> Reading<'a> {
    /// For a gold, or an answer that stands alone.
    pub(crate) fn alone(commas: Commas, limits: &'a Limits) -> Self {
        Reading { commas, symbols: &[], limits, rename: &[], is_log_natural: None }
    }

    /// For an answer to `gold`, in its variables and with its logarithms.
    pub(crate) fn against(
        gold: &'a Answer,
        commas: Commas,
        limits: &'a Limits,
        rename: &'a [(String, String)],
    ) -> Self {
        Reading { commas, symbols: &gold.symbols, limits, rename, is_log_natural: Some(gold.is_log_natural) }
    }
}

/// An answer, read.
pub(crate) struct Answer {
    raw: String,
    tokens: Vec<Token>,
    pub(crate) is_comma_ambiguous: bool,
    pub(crate) node: Result<Node, Failure>,
    pub(crate) unit: Unit,
    pub(crate) symbols: Vec<String>,
    pub(crate) choice: Option<text::Choice>,
    /// Whether it can be a choice as a gold: alone, and a capital or in brackets.
    pub(crate) can_be_choice: bool,
    /// Whether it is a choice beyond doubt, and not perhaps a variable.
    pub(crate) is_marked_choice: bool,
    pub(crate) time: Option<text::Time>,
    /// Whether a logarithm without a base is the natural one here.
    is_log_natural: bool,
    /// Whether it consists of words.
    pub(crate) is_words: bool,
}

impl Answer {
    pub(crate) fn read(raw: &str, how: &Reading<'_>) -> Answer {
        let Tokens { mut list, is_comma_ambiguous, .. } = tokenise(raw, how.commas);
        for token in &mut list {
            if let Tok::Sym(name) = &mut token.tok
                && let Some((_, new)) = how.rename.iter().find(|(old, _)| old == name)
            {
                *name = new.clone();
            }
        }
        let mut list = without_event(without_lead(list));
        scale_words(&mut list);
        unit::degrees(&mut list);
        let choice = text::choice(raw);
        let is_marked_choice = choice.is_some() && (raw.contains('(') || raw.contains("\\text"));
        let can_be_choice = choice.is_some_and(|choice| choice.is_alone)
            && (is_marked_choice || raw.contains(|c: char| c.is_ascii_uppercase()));
        let time = text::time(raw);
        let has_words = list.iter().any(|token| match &token.tok {
            Tok::Text(_) => true,
            Tok::Word(word) => word.len() > 4 || text::is_word(word),
            _ => false,
        });
        let (stripped, mut unit) = unit::strip(&list, how.symbols);
        let symbols = symbols(stripped);
        let is_log_natural = how.is_log_natural.unwrap_or_else(|| means_natural_log(&list));
        let bounds = Bounds { depth: how.limits.depth, nodes: how.limits.nodes, is_log_natural };
        let mut node = special(raw, &list).map_or_else(|| parse(stripped, bounds), Ok);
        if node.is_err() {
            // What was taken for a unit may belong to the formula.
            if let (false, Ok(whole)) = (unit.is_none(), parse(&list, bounds)) {
                node = Ok(whole);
                unit = Unit::default();
            } else if let Some(number) = text::number(raw) {
                node = Ok(Node::int(number));
            }
        }
        let is_words = node.is_err() && has_words;
        Answer {
            raw: raw.to_string(),
            tokens: list,
            is_comma_ambiguous,
            node,
            unit,
            symbols,
            choice,
            can_be_choice,
            is_marked_choice,
            time,
            is_log_natural,
            is_words,
        }
    }

    pub(crate) fn same_tokens(&self, other: &Answer) -> bool {
        let is_equal = self.tokens.len() == other.tokens.len()
            && self.tokens.iter().zip(&other.tokens).all(|(a, b)| a.tok == b.tok);
        (is_equal && !self.tokens.is_empty()) || self.raw.trim() == other.raw.trim()
    }

    /// The answer when it is one run of three letters or more: a name or a word, not a product.
    pub(crate) fn lone_word(&self) -> Option<&str> {
        match &self.tokens[..] {
            [Token { tok: Tok::Word(word), .. }] if word.len() >= 3 => Some(word),
            [Token { tok: Tok::Text(word), .. }]
                if word.len() >= 3 && word.chars().all(|c| c.is_ascii_alphabetic()) =>
            {
                Some(word)
            }
            _ => None,
        }
    }

    /// The value where it is a plain rational, else the tokens without layout.
    pub(crate) fn canonical(&self) -> String {
        if let Ok(Node::Num(value) | Node::Dec { value, .. }) = &self.node
            && self.unit.is_none()
            && value.bits() < 4096
        {
            return value.to_string();
        }
        if self.is_words {
            return text::normal(&self.raw);
        }
        let mut out = String::new();
        for token in &self.tokens {
            match &token.tok {
                Tok::Num(text) | Tok::Sym(text) => {
                    // Names of several letters are kept apart from what stands before.
                    if text.len() > 1 && out.ends_with(char::is_alphanumeric) {
                        out.push(' ');
                    }
                    out.push_str(text);
                }
                Tok::Word(text) | Tok::Text(text) => {
                    out.push(' ');
                    out.push_str(&text.to_lowercase());
                }
                Tok::Cmd(name) => {
                    out.push('\\');
                    out.push_str(name);
                    out.push(' ');
                }
                Tok::Ch(c) => out.push(*c),
                Tok::SetOpen => out.push_str("\\{"),
                Tok::SetClose => out.push_str("\\}"),
                Tok::Row => out.push_str("\\\\"),
                Tok::Begin(name) => out.push_str(&format!("[{name}]")),
                Tok::End(name) => out.push_str(&format!("[/{name}]")),
            }
        }
        out.trim().to_string()
    }
}

/// Whether `\log` is meant as the natural logarithm by an answer that has e or `\ln`. By itself it has the base
/// ten, as problem collections have it, and beside `\ln` it must be another one.
fn means_natural_log(tokens: &[Token]) -> bool {
    let is = |token: &Token, name: &str| matches!(&token.tok, Tok::Cmd(found) if found == name);
    let has_ln = tokens.iter().any(|token| is(token, "ln"));
    let has_e = tokens.iter().any(|token| is(token, "exp") || matches!(&token.tok, Tok::Sym(name) if name == "e"));
    let is_bare = |at: usize| is(&tokens[at], "log") && tokens.get(at + 1).is_none_or(|next| next.tok != Tok::Ch('_'));
    (has_ln || has_e) && !(has_ln && (0..tokens.len()).any(is_bare))
}

fn symbols(tokens: &[Token]) -> Vec<String> {
    let mut names = Vec::new();
    for token in tokens {
        if let Tok::Sym(name) = &token.tok
            && !names.contains(name)
        {
            names.push(name.clone());
        }
    }
    names
}

/// Drops words before a value that only introduce it: `The answer is 18`, `about 5`.
fn without_lead(mut list: Vec<Token>) -> Vec<Token> {
    let lead = list
        .iter()
        .take_while(|token| matches!(token.tok, Tok::Text(_) | Tok::Word(_)) || token.tok == Tok::Ch(':'))
        .count();
    if lead == 0 || lead == list.len() {
        return list;
    }
    // `\text{Area} = 12` names what 12 is.
    if list[lead].tok == Tok::Ch('=') && list[..lead].iter().all(|token| matches!(token.tok, Tok::Text(_))) {
        list.drain(..=lead);
        return list;
    }
    let last = list[..lead].iter().rev().find_map(|token| match &token.tok {
        Tok::Text(text) | Tok::Word(text) => text.split_whitespace().next_back().map(str::to_lowercase),
        _ => None,
    });
    let introduces = |word: &str| {
        let word = word.trim_end_matches([':', ',']);
        [
            "is",
            "are",
            "be",
            "answer",
            "approximately",
            "about",
            "exactly",
            "equals",
            "roughly",
            "nearly",
            "value",
            "total",
        ]
        .contains(&word)
    };
    let has_colon = list[lead - 1].tok == Tok::Ch(':') || last.as_deref().is_some_and(|word| word.ends_with(':'));
    if last.as_deref().is_some_and(introduces) || (has_colon && lead <= 8) {
        list.drain(..lead);
    }
    list
}

/// Drops `P(X > 1) =`, `\Pr[A] =` and `E[X] =` before a value. `p(x) =` names a polynomial, and stays.
fn without_event(list: Vec<Token>) -> Vec<Token> {
    let is_measure = match list.first().map(|token| &token.tok) {
        Some(Tok::Sym(name)) => name == "P" || name == "E",
        Some(Tok::Word(name) | Tok::Text(name)) => ["Pr", "Var", "Cov"].contains(&name.as_str()),
        Some(Tok::Cmd(name)) => ["mathbb P", "mathbb E", "unknown Pr"].contains(&name.as_str()),
        _ => false,
    };
    let close = match list.get(1).map(|token| &token.tok) {
        Some(Tok::Ch('(')) => Tok::Ch(')'),
        Some(Tok::Ch('[')) => Tok::Ch(']'),
        _ => return list,
    };
    let end = list.iter().position(|token| token.tok == close);
    let Some(end) = end.filter(|end| is_measure && list.get(end + 1).is_some_and(|token| token.tok == Tok::Ch('=')))
    else {
        return list;
    };
    let inside = &list[2..end];
    let is_plain = matches!(list[0].tok, Tok::Sym(_))
        && inside.iter().all(|token| matches!(token.tok, Tok::Sym(_) | Tok::Num(_) | Tok::Ch(',' | '-')));
    if (is_plain && close == Tok::Ch(')')) || inside.iter().any(|token| matches!(token.tok, Tok::Ch('(' | '['))) {
        return list;
    }
    list[end + 2..].to_vec()
}

/// `3 million` as 3 times a power of ten, `3 to 4` between numbers as a ratio.
fn scale_words(list: &mut Vec<Token>) {
    for at in (1..list.len()).rev() {
        let (Tok::Text(words) | Tok::Word(words)) = &list[at].tok else { continue };
        if !matches!(list[at - 1].tok, Tok::Num(_)) {
            continue;
        }
        let words = words.trim().to_lowercase();
        if words == "to" && matches!(list.get(at + 1), Some(Token { tok: Tok::Num(_), .. })) {
            list[at].tok = Tok::Ch(':');
            continue;
        }
        let (first, rest) = words.split_once(' ').unwrap_or((&words, ""));
        let exponent = match first {
            "hundred" => "2",
            "thousand" => "3",
            "million" => "6",
            "billion" => "9",
            "trillion" => "12",
            _ => continue,
        };
        let power = [Tok::Cmd("cdot".into()), Tok::Num("10".into()), Tok::Ch('^'), Tok::Num(exponent.into())];
        let rest = (!rest.is_empty()).then(|| Tok::Text(rest.to_string()));
        let tokens = power.into_iter().chain(rest).map(|tok| Token { tok, spaced: true });
        list.splice(at..=at, tokens.collect::<Vec<_>>());
    }
}

/// Answers that are no formula on their face: sets in words, digits with letters in a base.
fn special(raw: &str, tokens: &[Token]) -> Option<Node> {
    let is_wordy = tokens.iter().any(|token| matches!(token.tok, Tok::Text(_) | Tok::Word(_)));
    if is_wordy && raw.len() < 100 {
        let words = text::normal(raw);
        match words.as_str() {
            "no solution" => return Some(Node::Set(Vec::new())),
            words if text::is_all_reals(words) => return Some(Node::Numbers('R')),
            _ => {}
        }
    }
    let clean = |part: &str| {
        let part = part.replace("\\text", "").replace("\\mathrm", "").replace("\\,", "").replace("\\!", "");
        part.trim().chars().filter(|c| !"{}()$".contains(*c)).collect::<String>().trim().to_string()
    };
    let (digits, base) = match raw.rfind('_') {
        Some(at) => (clean(&raw[..at]), clean(&raw[at + 1..])),
        None if is_wordy && raw.len() < 100 => {
            let words = clean(raw);
            let (digits, base) = words.split_once(" base ").or_else(|| words.split_once("base "))?;
            (digits.trim().to_string(), base.trim().to_string())
        }
        None => return None,
    };
    let base = base.strip_prefix("base ").map_or(base.clone(), str::to_string);
    let base = match base.as_str() {
        "two" => 2,
        "three" => 3,
        "four" => 4,
        "five" => 5,
        "six" => 6,
        "seven" => 7,
        "eight" => 8,
        "nine" => 9,
        "ten" => 10,
        "twelve" => 12,
        "sixteen" => 16,
        base => base.parse::<u32>().ok().filter(|base| (2..=36).contains(base))?,
    };
    let is_number = digits.len() <= 64
        && digits.starts_with(|c: char| c.is_ascii_alphanumeric())
        && digits.chars().all(|c| c.to_digit(36).is_some_and(|digit| digit < base));
    let has_digit = digits.contains(|c: char| c.is_ascii_digit()) || base > 10 && digits.len() > 1;
    (is_number && has_digit).then(|| Node::Based { digits: digits.trim_start_matches('0').to_string(), base })
}

/// Compares two values and their units.
pub(crate) fn with_units(
    comparison: &mut Comparison<'_>,
    gold: (&Node, &Unit),
    pred: (&Node, &Unit),
) -> Result<bool, super::ball::Trouble> {
    let ((g, g_unit), (p, p_unit)) = (gold, pred);
    if g_unit.is_none() || p_unit.is_none() || g_unit == p_unit {
        let is_equal = comparison.equal(g, p)?;
        if is_equal && g_unit != p_unit {
            comparison.flags.push(Flag::UnitDropped);
        }
        return Ok(is_equal);
    }
    if comparison.policy.units == Units::Strict {
        let Some(ratio) = p_unit.ratio_to(g_unit) else {
            return Ok(false);
        };
        let (Some(a), Some(b)) =
            (exact(g, comparison.limits, &comparison.clock)?, exact(p, comparison.limits, &comparison.clock)?)
        else {
            return Ok(ratio == 1.0 && comparison.equal(g, p)?);
        };
        comparison.method = Method::Rational;
        let Some(ratio) = super::rational::Rational::decimal(&format!("{ratio:.12}")) else {
            return Ok(false);
        };
        return Ok(a == b.mul(&ratio));
    }
    let is_equal = comparison.equal(g, p)?;
    if is_equal {
        comparison.flags.push(Flag::UnitMismatch);
    }
    Ok(is_equal)
}

/// Words against words, lists of words in any order, and words for an infinite gold.
pub(crate) fn same_text(g: &Answer, p: &Answer) -> bool {
    let (a, b) = (text::normal(&g.raw), text::normal(&p.raw));
    if a.is_empty() || b.is_empty() {
        return false;
    }
    if let Ok(node) = &g.node {
        // A formula is not matched by how it looks, but infinity has words.
        return match infinity_sign(node) {
            Some(1) => ["infinitely many", "positive infinity"].contains(&b.as_str()),
            Some(_) => ["negative infinity", "minus infinity"].contains(&b.as_str()),
            None => false,
        };
    }
    if a == b {
        return true;
    }
    let parts = |text: &str| {
        let mut parts: Vec<String> = text
            .replace(" and ", ",")
            .replace(';', ",")
            .split(',')
            .map(|part| text::normal(part.trim().trim_start_matches("and ")))
            .filter(|part| !part.is_empty())
            .collect();
        parts.sort();
        parts
    };
    let (a, b) = (parts(&a), parts(&b));
    (a.len() > 1 && a == b) || (!g.is_words && !p.is_words && squeezed(&g.raw) == squeezed(&p.raw))
}

fn squeezed(raw: &str) -> String {
    raw.replace("\\left", "")
        .replace("\\right", "")
        .replace("\\!", "")
        .replace("dfrac", "frac")
        .replace("tfrac", "frac")
        .chars()
        .filter(|c| !c.is_whitespace() && *c != '$')
        .collect()
}

/// Names of the prediction's variables replaced by the gold's, in the order in which they occur.
pub(crate) fn renaming(gold: &str, pred: &str) -> Vec<(String, String)> {
    let names = |text: &str| symbols(&tokenise(text, Commas::Thousands).list);
    names(pred).into_iter().zip(names(gold)).filter(|(old, new)| old != new).collect()
}

/// An additive constant may be called `C` or `c`.
pub(crate) fn constant_of_integration(gold: &str, pred: &str) -> Vec<(String, String)> {
    if !gold.trim_end_matches(['$', '.', ' ']).ends_with(['C', 'c']) {
        return Vec::new();
    }
    let added = |text: &str| match &tokenise(text, Commas::Thousands).list[..] {
        [.., plus, Token { tok: Tok::Sym(name), .. }] if plus.tok == Tok::Ch('+') && name.eq_ignore_ascii_case("c") => {
            Some(name.clone())
        }
        _ => None,
    };
    match (added(gold), added(pred)) {
        (Some(new), Some(old)) if new != old => vec![(old, new)],
        _ => Vec::new(),
    }
}

/// `0,5` as `0.5`, when the gold is a plain number and the digits after the comma are no thousands.
pub(crate) fn with_decimal_point(gold: &str, pred: &str) -> Option<String> {
    simple(gold.trim().trim_matches('$'))?;
    let plain = pred.trim().trim_matches('$').replace("{,}", ",");
    let (whole, part) = plain.split_once(',')?;
    let whole = &without_groups(whole);
    let digits = whole.strip_prefix('-').unwrap_or(whole);
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let fits = is_digits(digits)
        && is_digits(part)
        && digits.len() <= 12
        && part.len() <= 12
        && (part.len() != 3 || digits == "0")
        // `3,0` for 3 may be two answers; `2,5` can only be meant as the 2.5 that is asked for.
        && part != "0";
    fits.then(|| format!("{whole}.{part}"))
}

/// `1234` for `1 234`, as it stands before a decimal comma.
fn without_groups(whole: &str) -> String {
    let marks = [' ', '\u{a0}', '\u{202f}'];
    let mut groups = whole.split(marks);
    let is_head = groups.next().is_some_and(|head| (1..=3).contains(&head.trim_start_matches('-').len()));
    if is_head && groups.all(|group| group.len() == 3) { whole.replace(marks, "") } else { whole.to_string() }
}
