//! The smallest parts of a formula: names, brackets, matrices and commands.

use super::{Failure, Parsed, Parser};
use crate::math::ast::{Func, Node};
use crate::math::token::Tok;

impl Parser<'_> {
    pub(super) fn atom(&mut self) -> Parsed {
        self.count()?;
        let Some(token) = self.peek().cloned() else {
            return Err(Failure::Syntax);
        };
        self.at += 1;
        match token {
            Tok::Num(digits) => self.after_number(&digits),
            Tok::Sym(name) => self.symbol(name),
            Tok::Word(word) => self.word(&word),
            Tok::Cmd(name) => self.command(&name),
            // `{}_{10}C_3`: the group is there to carry the script.
            Tok::Ch('{') if self.peek() == Some(&Tok::Ch('}')) && matches!(self.ahead(1), Some(Tok::Ch('_' | '^'))) => {
                self.at += 2;
                self.prescript()
            }
            Tok::Ch('_' | '^') => self.prescript(),
            Tok::Ch('{') => {
                self.at -= 1;
                self.nested(|parser| parser.braces())
            }
            Tok::Ch(open @ ('(' | '[')) => self.group(open),
            Tok::Ch(']') => self.group('('),
            Tok::Ch('|') => {
                self.bars += 1;
                let inner = self.nested(|parser| parser.sum())?;
                self.bars -= 1;
                self.expect('|')?;
                Ok(Node::Call(Func::Abs, vec![inner]))
            }
            Tok::SetOpen => {
                if self.peek() == Some(&Tok::SetClose) {
                    self.at += 1;
                    return Ok(Node::Set(Vec::new()));
                }
                let is_builder = self.skip_builder();
                let bars = std::mem::take(&mut self.bars);
                let mut items = self.nested(|parser| parser.items())?;
                self.bars = bars;
                if is_builder && self.peek() == Some(&Tok::SetClose) {
                    self.at += 1;
                    return Ok(if items.len() == 1 { items.remove(0) } else { Node::List(items) });
                }
                if self.peek() != Some(&Tok::SetClose) {
                    return Err(Failure::Syntax);
                }
                self.at += 1;
                Ok(Node::Set(items))
            }
            Tok::Begin(environment) => self.matrix(&environment),
            Tok::Text(word) => self.named_count(&word)?.ok_or(Failure::Syntax),
            Tok::Ch(_) | Tok::SetClose | Tok::Row | Tok::End(_) => Err(Failure::Syntax),
        }
    }

    /// Skips `x |` or `x \in R :` at the start of a set by condition.
    pub(super) fn skip_builder(&mut self) -> bool {
        let is_bar = |tok: Option<&Tok>| matches!(tok, Some(Tok::Ch('|' | ':')));
        let is_command = |tok: Option<&Tok>, name: &str| matches!(tok, Some(Tok::Cmd(found)) if found == name);
        if !matches!(self.peek(), Some(Tok::Sym(_))) {
            return false;
        }
        let length = if is_bar(self.ahead(1)) {
            2
        } else if is_command(self.ahead(1), "in") && is_command(self.ahead(2), "mathbb R") && is_bar(self.ahead(3)) {
            4
        } else {
            return false;
        };
        self.at += length;
        true
    }

    /// The rest of a name: primes and subscripts.
    pub(super) fn name(&mut self, mut name: String) -> Result<String, Failure> {
        for _ in 0..16 {
            if self.eat('\'') {
                name.push('\'');
            } else if self.peek() == Some(&Tok::Ch('_')) {
                self.at += 1;
                name.push('_');
                if self.peek() == Some(&Tok::Ch('{')) {
                    let mut depth = 0usize;
                    while let Some(token) = self.peek().cloned() {
                        self.at += 1;
                        match &token {
                            Tok::Ch('{') => depth += 1,
                            Tok::Ch('}') => depth -= 1,
                            other => name.push_str(&plain(other)),
                        }
                        if depth == 0 {
                            break;
                        }
                    }
                    if depth > 0 {
                        return Err(Failure::Syntax);
                    }
                } else {
                    let Some(token) = self.peek().cloned() else {
                        return Err(Failure::Syntax);
                    };
                    self.at += 1;
                    name.push_str(&plain(&token));
                }
            } else {
                break;
            }
        }
        Ok(name)
    }

    pub(super) fn symbol(&mut self, name: String) -> Parsed {
        let is_plain = name.len() == 1;
        let first = name.chars().next().unwrap_or(' ');
        let name = self.name(name)?;
        if name == "e" {
            return Ok(Node::E);
        }
        if name == "i" {
            return Ok(Node::I);
        }
        let is_function = is_plain || name.contains(['\'', '_']) && "fgh".contains(first);
        if is_function && self.peek() == Some(&Tok::Ch('(')) && !self.is_spaced() {
            let is_height = |items: &[Node]| first == 'h' && matches!(items, [Node::Add(_)]);
            let start = self.at;
            self.at += 1;
            let items = self.nested(|parser| parser.items())?;
            self.expect(')')?;
            // `P(x)` applies, `p(q+1)` multiplies.
            // `p(x) = ...` names a function, whatever its letter.
            let is_named = self.peek() == Some(&Tok::Ch('=')) && items.iter().all(|item| matches!(item, Node::Sym(_)));
            // `C(10,3)` is a count or a point, never a product.
            let is_count = matches!(name.as_str(), "C" | "P") && items.len() == 2;
            // `h(a+b)` is a height times a sum.
            if is_named
                || is_count
                || ("fgh".contains(first) && !is_height(&items))
                || (items.iter().all(|item| matches!(item, Node::Num(_))) && "FGHPQ".contains(first))
            {
                return Ok(Node::Apply(name, items));
            }
            self.at = start;
        }
        Ok(Node::Sym(name))
    }

    /// A run of letters: a function, or a product of letters.
    pub(super) fn word(&mut self, word: &str) -> Parsed {
        if word == "and" || word == "or" {
            return Err(Failure::Syntax);
        }
        if crate::math::latex::FUNCTIONS.contains(&word) {
            return self.function(word);
        }
        if let Some(count) = self.named_count(word)? {
            return Ok(count);
        }
        // More than four letters in a row are a word, not a product.
        if word.len() > 4 || crate::math::text::is_word(word) {
            return Err(Failure::Syntax);
        }
        let mut factors = Vec::new();
        let last = word.len() - 1;
        for (at, c) in word.chars().enumerate() {
            let factor = if at == last {
                self.symbol(c.to_string())?
            } else {
                match c {
                    'e' => Node::E,
                    'i' => Node::I,
                    c => Node::Sym(c.to_string()),
                }
            };
            factors.push(factor);
        }
        // A power or factorial after the run belongs to its last letter.
        let tail = factors.pop().expect("a word has letters");
        let tail = self.after_atom(tail)?;
        factors.push(tail);
        Ok(Node::Mul(factors))
    }

    pub(super) fn items(&mut self) -> Result<Vec<Node>, Failure> {
        let mut items = vec![self.relation()?];
        while self.separator().is_some() {
            if matches!(self.peek(), Some(Tok::SetClose | Tok::Ch(')' | ']'))) {
                break;
            }
            items.push(self.relation()?);
        }
        Ok(items)
    }

    pub(super) fn group(&mut self, open: char) -> Parsed {
        let bars = std::mem::take(&mut self.bars);
        let items = self.nested(|parser| parser.items())?;
        self.bars = bars;
        let close = match self.peek() {
            Some(Tok::Ch(')')) => ')',
            Some(Tok::Ch(']')) => ']',
            // `]a, b[` opens and closes the other way round.
            Some(Tok::Ch('[')) if items.len() == 2 => ')',
            _ => return Err(Failure::Syntax),
        };
        self.at += 1;
        let mut items = items;
        if items.len() == 1 && (open == '(') == (close == ')') {
            return Ok(items.remove(0));
        }
        Ok(Node::Group { open, items, close })
    }

    pub(super) fn matrix(&mut self, environment: &str) -> Parsed {
        if ![
            "pmatrix",
            "bmatrix",
            "Bmatrix",
            "vmatrix",
            "Vmatrix",
            "matrix",
            "smallmatrix",
            "array",
            "psmallmatrix",
            "bsmallmatrix",
        ]
        .contains(&environment)
        {
            return Err(Failure::Syntax);
        }
        let mut rows: Vec<Vec<Node>> = vec![Vec::new()];
        loop {
            match self.peek() {
                Some(Tok::End(_)) => break,
                Some(Tok::Row) => {
                    self.at += 1;
                    rows.push(Vec::new());
                }
                Some(Tok::Ch('&')) => self.at += 1,
                Some(_) => {
                    let cell = self.nested(|parser| parser.relation())?;
                    rows.last_mut().expect("there is always a last row").push(cell);
                }
                None => return Err(Failure::Syntax),
            }
            self.count()?;
        }
        self.at += 1;
        rows.retain(|row| !row.is_empty());
        let width = rows.first().map_or(0, Vec::len);
        if width == 0 || rows.iter().any(|row| row.len() != width) {
            return Err(Failure::Syntax);
        }
        Ok(Node::Matrix(rows))
    }

    pub(super) fn command(&mut self, name: &str) -> Parsed {
        match name {
            "frac" => {
                let (top, bottom) = self.two_arguments()?;
                Ok(match (&top, &bottom) {
                    (Node::Num(a), Node::Num(b)) if !b.is_zero() => {
                        Node::Mul(vec![Node::Num(a.clone()), Node::Inverse(Node::Num(b.clone()).boxed())])
                    }
                    _ => Node::Mul(vec![top, Node::Inverse(bottom.boxed())]),
                })
            }
            "binom" => {
                let (top, bottom) = self.two_arguments()?;
                Ok(Node::Call(Func::Binomial, vec![top, bottom]))
            }
            "sqrt" | "root" => {
                let degree = if self.eat('[') {
                    let degree = self.nested(|parser| parser.sum())?;
                    self.expect(']')?;
                    degree
                } else {
                    Node::int(2)
                };
                let radicand = match self.peek() {
                    Some(Tok::Ch('{')) => self.nested(|parser| parser.braces())?,
                    Some(Tok::Ch('(')) => self.nested(|parser| parser.atom())?,
                    _ => self.nested(|parser| parser.atom())?,
                };
                Ok(Node::Root(radicand.boxed(), degree.boxed()))
            }
            "pi" => Ok(Node::Pi),
            "infty" => Ok(Node::Infinity),
            "emptyset" => Ok(Node::Set(Vec::new())),
            "lfloor" | "lceil" => {
                let (func, close) = if name == "lfloor" { (Func::Floor, "rfloor") } else { (Func::Ceil, "rceil") };
                let bars = std::mem::take(&mut self.bars);
                let inner = self.nested(|parser| parser.sum())?;
                self.bars = bars;
                if self.eat_command(close) { Ok(Node::Call(func, vec![inner])) } else { Err(Failure::Syntax) }
            }
            "overline" | "bar" => {
                let inner = self.argument()?;
                Ok(Node::Call(Func::Conj, vec![inner]))
            }
            "vec" | "hat" | "overrightarrow" | "tilde" | "widehat" => {
                let inner = self.argument()?;
                match inner {
                    Node::Sym(name) => Ok(Node::Sym(name)),
                    _ => Err(Failure::Syntax),
                }
            }
            "sum" | "prod" => self.series(name == "sum"),
            "pmod" => Err(Failure::Syntax),
            _ => {
                if let Some(set) = name.strip_prefix("mathbb ") {
                    // R^+ and R^- are half-lines; Z_{>0} and the like are other sets.
                    if let ("R", Some(Tok::Ch('^')), Some(Tok::Ch(sign @ ('+' | '-')))) =
                        (set, self.peek(), self.ahead(1))
                    {
                        let (low, high) = match sign {
                            '+' => (Node::int(0), Node::Infinity),
                            _ => (Node::Neg(Node::Infinity.boxed()), Node::int(0)),
                        };
                        self.at += 2;
                        return Ok(Node::Group { open: '(', items: vec![low, high], close: ')' });
                    }
                    if matches!(self.peek(), Some(Tok::Ch('^' | '_'))) {
                        return Err(Failure::Syntax);
                    }
                    return match set.chars().next() {
                        Some(c @ ('R' | 'Z' | 'N' | 'Q' | 'C')) => Ok(Node::Numbers(c)),
                        _ => Err(Failure::Syntax),
                    };
                }
                if crate::math::latex::FUNCTIONS.contains(&name) { self.function(name) } else { Err(Failure::Syntax) }
            }
        }
    }
}

pub(super) fn plain(token: &Tok) -> String {
    match token {
        Tok::Num(text) | Tok::Sym(text) | Tok::Word(text) | Tok::Text(text) | Tok::Cmd(text) => text.clone(),
        Tok::Ch(c) => c.to_string(),
        _ => String::new(),
    }
}
