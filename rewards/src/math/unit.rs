//! Units and other decoration around a value: finding it, taking it off, converting it.

use super::token::{Tok, Token};

/// Letters that are units when they stand upright after a number.
const LETTER_UNITS: &[&str] = &["m", "g", "s", "h", "L", "l", "N", "J", "W", "V", "K", "C", "F", "A", "T"];

/// Units with their dimension and size in it. A dimension of `#` counts things and converts to none.
const UNITS: &[(&str, &str, f64)] = &[
    ("mm", "length", 1e-3),
    ("cm", "length", 1e-2),
    ("dm", "length", 0.1),
    ("m", "length", 1.0),
    ("km", "length", 1e3),
    ("nm", "length", 1e-9),
    ("millimeter", "length", 1e-3),
    ("centimeter", "length", 1e-2),
    ("meter", "length", 1.0),
    ("kilometer", "length", 1e3),
    ("metre", "length", 1.0),
    ("centimetre", "length", 1e-2),
    ("kilometre", "length", 1e3),
    ("millimetre", "length", 1e-3),
    ("in", "inch", 1.0),
    ("inch", "inch", 1.0),
    ("inches", "inch", 1.0),
    ("ft", "inch", 12.0),
    ("foot", "inch", 12.0),
    ("feet", "inch", 12.0),
    ("yd", "inch", 36.0),
    ("yard", "inch", 36.0),
    ("mi", "inch", 63360.0),
    ("mile", "inch", 63360.0),
    ("s", "time", 1.0),
    ("sec", "time", 1.0),
    ("second", "time", 1.0),
    ("min", "time", 60.0),
    ("minute", "time", 60.0),
    ("h", "time", 3600.0),
    ("hr", "time", 3600.0),
    ("hour", "time", 3600.0),
    ("day", "time", 86400.0),
    ("week", "time", 604800.0),
    ("month", "month", 1.0),
    ("year", "month", 12.0),
    ("yr", "month", 12.0),
    ("ms", "time", 1e-3),
    ("mg", "mass", 1e-3),
    ("g", "mass", 1.0),
    ("gram", "mass", 1.0),
    ("kg", "mass", 1e3),
    ("kilogram", "mass", 1e3),
    ("oz", "ounce", 1.0),
    ("ounce", "ounce", 1.0),
    ("lb", "ounce", 16.0),
    ("lbs", "ounce", 16.0),
    ("pound", "ounce", 16.0),
    ("ton", "#ton", 1.0),
    ("ml", "volume", 1e-3),
    ("mL", "volume", 1e-3),
    ("L", "volume", 1.0),
    ("l", "volume", 1.0),
    ("liter", "volume", 1.0),
    ("litre", "volume", 1.0),
    ("gallon", "cup", 16.0),
    ("quart", "cup", 4.0),
    ("pint", "cup", 2.0),
    ("cup", "cup", 1.0),
    ("cent", "money", 1.0),
    ("dollar", "money", 100.0),
    ("usd", "money", 100.0),
    ("degree", "#degree", 1.0),
    ("deg", "#degree", 1.0),
    ("mph", "#mph", 1.0),
    ("kph", "#kph", 1.0),
    ("kmh", "#kph", 1.0),
    ("radian", "#radian", 1.0),
    ("rad", "#radian", 1.0),
    ("unit", "#unit", 1.0),
    ("sq", "#", 1.0),
    ("square", "#", 1.0),
    ("cubic", "#", 1.0),
    ("per", "#", 1.0),
];

/// Words of three letters or more that are values or connect them, and so are never decoration.
const NOT_UNITS: &[&str] = &[
    "and",
    "or",
    "not",
    "sin",
    "cos",
    "tan",
    "log",
    "exp",
    "mod",
    "max",
    "min",
    "gcd",
    "lcm",
    "where",
    "for",
    "with",
    "when",
    "if",
    "times",
    "plus",
    "minus",
    "divided",
    "over",
    "choose",
    "none",
    "only",
    "dozen",
    "hundred",
    "thousand",
    "million",
    "billion",
    "trillion",
    "hundreds",
    "thousands",
    "millions",
    "billions",
    "half",
    "halves",
    "third",
    "thirds",
    "quarter",
    "quarters",
    "fourths",
    "fifths",
    "sixths",
    "eighths",
    "tenths",
    "hundredths",
    "thousandths",
    "squared",
    "cubed",
    "factorial",
    "root",
    "more",
    "less",
    "fewer",
    "greater",
    "larger",
    "smaller",
    "base",
    "except",
    "between",
    "through",
    "below",
    "above",
    "least",
    "most",
    "under",
    "double",
    "twice",
    "negative",
    "unless",
    "infinity",
    "false",
    "true",
    "wrong",
    "incorrect",
    "inclusive",
    "exclusive",
    "to",
    "is",
    "are",
    "was",
    "cannot",
    "can",
    "could",
    "would",
    "should",
    "may",
    "might",
    "fails",
    "impossible",
    "but",
    "however",
    "never",
    "no",
    "nor",
    "without",
    "maybe",
    "perhaps",
    "either",
    "neither",
    "unknown",
    "undefined",
    "otherwise",
    "does",
    "until",
    "instead",
];

/// What was taken off an answer's end.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Unit {
    /// The words, in lower case and the singular, with their powers: `cm^2`.
    pub(crate) name: String,
}

impl Unit {
    pub(crate) fn is_none(&self) -> bool {
        self.name.is_empty()
    }

    /// How many of the other unit this one is, when both measure the same thing.
    pub(crate) fn ratio_to(&self, other: &Unit) -> Option<f64> {
        let read = |unit: &Unit| {
            let (name, power) = match unit.name.split_once('^') {
                Some((name, power)) => (name.to_string(), power.parse::<i32>().ok()?),
                None => (unit.name.clone(), 1),
            };
            UNITS
                .iter()
                .find(|(known, kind, _)| *known == name && !kind.starts_with('#'))
                .map(|(_, kind, size)| (*kind, power, size.powi(power)))
        };
        let (a, b) = (read(self)?, read(other)?);
        (a.0 == b.0 && a.1 == b.1).then(|| a.2 / b.2)
    }
}

/// Whether a single letter can be a unit.
pub(crate) fn is_letter_unit(text: &str) -> bool {
    LETTER_UNITS.contains(&text)
}

fn known(word: &str) -> bool {
    let lower = word.to_ascii_lowercase();
    UNITS.iter().any(|(name, _, _)| {
        *name == word || (name.len() > 1 && (*name == lower || lower.strip_suffix('s') == Some(name)))
    })
}

fn singular(word: &str) -> String {
    if word.len() <= 2 {
        return word.to_string();
    }
    let lower = word.to_lowercase();
    match lower.as_str() {
        "feet" => "foot".into(),
        "inches" => "inch".into(),
        "people" | "persons" => "person".into(),
        _ => lower.strip_suffix('s').filter(|word| word.len() > 2).map_or(lower.clone(), str::to_string),
    }
}

/// Takes the unit, and other trailing words, off the end of an answer. Nothing is taken when nothing
/// would be left, or when what stands before is not a complete value.
pub(crate) fn strip<'a>(tokens: &'a [Token], gold_symbols: &[String]) -> (&'a [Token], Unit) {
    let mut tokens = without_final_stop(tokens);
    let whole = tokens;
    let mut names: Vec<String> = Vec::new();
    if let Some((at, name)) = quotient(tokens, gold_symbols) {
        names.push(name);
        tokens = &tokens[..at];
    }
    while let Some((at, name)) = last_unit(tokens, gold_symbols) {
        names.push(name);
        tokens = &tokens[..at];
    }
    if !names.is_empty() && matches!(tokens.last(), Some(Token { tok: Tok::Ch(',' | ';'), .. })) {
        // Words after a separator are an item of their own.
        return (whole, Unit::default());
    }
    tokens = without_final_stop(tokens);
    if names.is_empty() {
        return (tokens, Unit::default());
    }
    if !is_complete(tokens) {
        return (whole, Unit::default());
    }
    names.reverse();
    (tokens, Unit { name: names.join(" ") })
}

/// `\frac{m}{s^2}` of upright or known units at the end, and where it starts.
fn quotient(tokens: &[Token], gold_symbols: &[String]) -> Option<(usize, String)> {
    let at = tokens.iter().rposition(|token| token.tok == Tok::Cmd("frac".into())).filter(|at| *at > 0)?;
    let mut name = String::new();
    let mut is_upright = false;
    for token in &tokens[at + 1..] {
        match &token.tok {
            Tok::Ch('{' | '}') => name.push('/'),
            Tok::Ch('^') => name.push('^'),
            Tok::Num(power) if name.ends_with('^') => name.push_str(power),
            Tok::Text(word) | Tok::Word(word) if known(word.trim()) || is_letter_unit(word.trim()) => {
                is_upright = true;
                name.push_str(&singular(word.trim()));
            }
            Tok::Sym(letter) if is_letter_unit(letter) && !gold_symbols.contains(letter) => name.push_str(letter),
            _ => return None,
        }
    }
    let parts: Vec<&str> = name.split('/').filter(|part| !part.is_empty()).collect();
    (is_upright && parts.len() == 2).then(|| (at, parts.join("/")))
}

fn without_final_stop(mut tokens: &[Token]) -> &[Token] {
    while let Some((Token { tok: Tok::Ch('.' | ',' | ';' | ':'), .. }, rest)) = tokens.split_last() {
        tokens = rest;
    }
    tokens
}

/// `120^o` as degrees; a scale's letter after the sign (`70^\circ F`) is dropped.
pub(crate) fn degrees(tokens: &mut Vec<Token>) {
    if let [.., sign, letter] = &tokens[..]
        && sign.tok == Tok::Cmd("circ".into())
        && [Tok::Sym("F".into()), Tok::Sym("C".into())].contains(&letter.tok)
    {
        tokens.pop();
    }
    if let [.., Token { tok: Tok::Num(_), .. }, Token { tok: Tok::Ch('^'), .. }, last] = &mut tokens[..]
        && last.tok == Tok::Sym("o".into())
    {
        last.tok = Tok::Cmd("circ".into());
    }
}

/// The unit word at the end with its power, and where it starts.
fn last_unit(tokens: &[Token], gold_symbols: &[String]) -> Option<(usize, String)> {
    let tok = |back: usize| tokens.len().checked_sub(back).and_then(|at| tokens.get(at)).map(|token| &token.tok);
    // `cm^2`, `cm^{2}`, `/ h`
    let (mut end, mut power) = (tokens.len(), String::new());
    match (tok(3), tok(2), tok(1)) {
        (Some(Tok::Text(_) | Tok::Word(_) | Tok::Sym(_)), Some(Tok::Ch('^')), Some(Tok::Num(digits))) => {
            end -= 2;
            power = format!("^{digits}");
        }
        (Some(Tok::Ch('{')), Some(Tok::Num(digits)), Some(Tok::Ch('}'))) if tok(4) == Some(&Tok::Ch('^')) => {
            end -= 4;
            power = format!("^{digits}");
        }
        // `s^{-1}`
        (Some(Tok::Ch('-')), Some(Tok::Num(digits)), Some(Tok::Ch('}')))
            if tok(4) == Some(&Tok::Ch('{')) && tok(5) == Some(&Tok::Ch('^')) =>
        {
            end -= 5;
            power = format!("^-{digits}");
        }
        _ => {}
    }
    let at = end.checked_sub(1)?;
    let is_first = at == 0;
    let before = at.checked_sub(1).map(|at| &tokens[at].tok);
    let mut start = at;
    if before == Some(&Tok::Ch('/'))
        && at >= 2
        && matches!(tokens[at - 2].tok, Tok::Text(_) | Tok::Word(_) | Tok::Sym(_))
    {
        start -= 1;
    }
    let name = match &tokens[at].tok {
        _ if is_first => return None,
        Tok::Text(text) => {
            let text = text.trim();
            let is_remark =
                ["is the answer", "is the final answer", "is the correct answer", "is correct"].contains(&text);
            let is_decoration = is_remark
                || !text.chars().any(|c| c.is_ascii_digit() || "=<>\\".contains(c))
                    && !text
                        .split(|c: char| !c.is_alphabetic())
                        .any(|word| NOT_UNITS.contains(&word.to_lowercase().as_str()));
            if !is_decoration {
                return None;
            }
            text.split_whitespace().map(singular).collect::<Vec<_>>().join(" ")
        }
        Tok::Word(word) => {
            let is_unit = known(word)
                || (word.len() >= 3
                    && !NOT_UNITS.contains(&word.to_lowercase().as_str())
                    && !super::latex::FUNCTIONS.contains(&word.as_str())
                    && (tokens[at].spaced && super::text::looks_like_word(word)));
            if !is_unit {
                return None;
            }
            singular(word)
        }
        Tok::Sym(name)
            if is_letter_unit(name)
                && !gold_symbols.contains(name)
                && (start < at
                    || (tokens[at].spaced
                        && matches!(before, Some(Tok::Num(_)))
                        && "mgshL".contains(name.as_str()))) =>
        {
            name.clone()
        }
        _ => return None,
    };
    Some((start, format!("{}{name}{power}", if start < at { "/" } else { "" })))
}

/// Whether the tokens can stand alone: not empty, not ending in an operator.
fn is_complete(tokens: &[Token]) -> bool {
    let has_value = tokens.iter().any(|token| matches!(token.tok, Tok::Num(_) | Tok::Sym(_) | Tok::Cmd(_)));
    let ends_well = match tokens.last().map(|token| &token.tok) {
        None => false,
        Some(Tok::Ch(c)) => ")]}!%|'".contains(*c),
        Some(Tok::Cmd(name)) => {
            matches!(name.as_str(), "pi" | "infty" | "circ" | "rfloor" | "rceil")
        }
        Some(Tok::Text(_) | Tok::Row | Tok::Begin(_)) => false,
        Some(Tok::Word(word)) => word != "and" && word != "or",
        Some(_) => true,
    };
    has_value && ends_well
}
