//! The smallest parts of a formula: numbers, names, brackets, functions and commands.

use num_bigint::BigInt;
use num_traits::One;

use super::ast::{Func, Node, Op};
use super::parse::{Failure, Parsed, Parser, collected, negated};
use super::rational::Rational;
use super::token::Tok;

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
            Tok::Ch(_) | Tok::SetClose | Tok::Row | Tok::End(_) | Tok::Text(_) => Err(Failure::Syntax),
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

    pub(super) fn after_number(&mut self, digits: &str) -> Parsed {
        // A recurring decimal: 0.1\overline{6}, 0.\dot3.
        if digits.contains('.') && (self.is_command("overline") || self.is_command("bar") || self.is_command("dot")) {
            let is_dot = self.is_command("dot");
            self.at += 1;
            let mut repeat = self.digits()?;
            if is_dot {
                // 0.\dot142857\dot... : from the first dotted digit to the second.
                while let Some(Tok::Num(more)) = self.peek().cloned() {
                    self.at += 1;
                    repeat.push_str(&more);
                }
                if self.eat_command("dot") {
                    repeat.push_str(&self.digits()?);
                }
            }
            return recurring(digits, &repeat).map(Node::Num).ok_or(Failure::Syntax);
        }
        // `0.(36)`; after decimals the bracket would be a factor.
        if let (true, Some(Tok::Ch('(')), Some(Tok::Num(repeat)), Some(Tok::Ch(')'))) =
            (digits.ends_with('.') && !self.is_spaced(), self.peek(), self.ahead(1), self.ahead(2))
            && repeat.bytes().all(|byte| byte.is_ascii_digit())
        {
            let value = recurring(digits, repeat).map(Node::Num).ok_or(Failure::Syntax);
            self.at += 3;
            return value;
        }
        // `0.3636\ldots`: what repeats goes on; else the digits shown.
        if digits.contains('.') && (self.is_command("ldots") || self.is_command("dots") || self.is_command("cdots")) {
            self.at += 1;
            if let Some((head, repeat)) = repeating(digits) {
                return recurring(head, repeat).map(Node::Num).ok_or(Failure::Syntax);
            }
        }
        if self.peek() == Some(&Tok::Ch('_')) {
            self.at += 1;
            let base = match self.digits()?.parse::<u32>() {
                Ok(base) if (2..=36).contains(&base) => base,
                _ => return Err(Failure::Syntax),
            };
            return Ok(Node::Based { digits: digits.trim_start_matches('0').to_string(), base });
        }
        number(digits)
    }

    /// A run of digits in braces or bare.
    pub(super) fn digits(&mut self) -> Result<String, Failure> {
        let braced = self.eat('{');
        let Some(Tok::Num(digits)) = self.peek().cloned() else {
            return Err(Failure::Syntax);
        };
        self.at += 1;
        if braced {
            self.expect('}')?;
        }
        if digits.bytes().all(|byte| byte.is_ascii_digit()) { Ok(digits) } else { Err(Failure::Syntax) }
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
            let is_certain = "fgh".contains(first);
            let start = self.at;
            self.at += 1;
            let items = self.nested(|parser| parser.items())?;
            self.expect(')')?;
            // `P(x)` applies, `p(q+1)` multiplies.
            // `p(x) = ...` names a function, whatever its letter.
            let is_named = self.peek() == Some(&Tok::Ch('=')) && items.iter().all(|item| matches!(item, Node::Sym(_)));
            if is_named
                || is_certain
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
        if super::latex::FUNCTIONS.contains(&word) {
            return self.function(word);
        }
        // More than four letters in a row are a word, not a product.
        if word.len() > 4 || super::text::is_word(word) {
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
                if super::latex::FUNCTIONS.contains(&name) { self.function(name) } else { Err(Failure::Syntax) }
            }
        }
    }

    /// A function by name, with an optional power or base and an argument with or without brackets.
    pub(super) fn function(&mut self, name: &str) -> Parsed {
        if name == "det" {
            return Err(Failure::Syntax);
        }
        let mut power = None;
        let mut base = None;
        for _ in 0..2 {
            if self.eat('^') {
                power = Some(self.script()?);
            } else if self.eat('_') {
                base = Some(self.script()?);
            }
        }
        let argument = self.nested(|parser| parser.function_argument())?;
        let arguments = match argument {
            Node::Group { open: '(', items, close: ')' } => items,
            Node::Set(items) | Node::List(items) => items,
            other => vec![other],
        };
        let one = |arguments: Vec<Node>| {
            if arguments.len() == 1 { Ok(arguments) } else { Err(Failure::Syntax) }
        };
        let mut call = match name {
            "log" => Node::Call(Func::Log, vec![base.take().unwrap_or(Node::E), one(arguments)?.remove(0)]),
            "lg" => Node::Call(Func::Log, vec![base.take().unwrap_or(Node::int(10)), one(arguments)?.remove(0)]),
            "cis" => {
                let angle = one(arguments)?.remove(0);
                Node::Add(vec![
                    Node::Call(Func::Cos, vec![angle.clone()]),
                    Node::Mul(vec![Node::I, Node::Call(Func::Sin, vec![angle])]),
                ])
            }
            _ => {
                let func = Func::named(name).ok_or(Failure::Syntax)?;
                let is_many = matches!(func, Func::Gcd | Func::Lcm | Func::Max | Func::Min);
                let arguments = if is_many { arguments } else { one(arguments)? };
                let is_inverse = matches!(&power, Some(Node::Neg(one)) if **one == Node::int(1));
                match func.inverse().filter(|_| is_inverse) {
                    Some(inverse) => {
                        power = None;
                        Node::Call(inverse, arguments)
                    }
                    None => Node::Call(func, arguments),
                }
            }
        };
        if base.is_some() {
            return Err(Failure::Syntax);
        }
        if let Some(power) = power {
            call = Node::Pow(call.boxed(), power.boxed());
        }
        Ok(call)
    }

    pub(super) fn function_argument(&mut self) -> Parsed {
        if matches!(self.peek(), Some(Tok::Ch('(' | '['))) {
            let Some(Tok::Ch(open)) = self.peek().cloned() else {
                return Err(Failure::Syntax);
            };
            self.at += 1;
            return self.group(open);
        }
        if self.peek() == Some(&Tok::Ch('{')) {
            return self.braces();
        }
        let mut is_negative = false;
        while self.eat('-') {
            is_negative = !is_negative;
        }
        let mut factors = vec![self.power()?];
        while self.starts_factor() && !self.starts_function() && !matches!(self.peek(), Some(Tok::Ch('(' | '[' | '{')))
        {
            if matches!(self.peek(), Some(Tok::Num(_))) {
                return Err(Failure::Syntax);
            }
            factors.push(self.power()?);
        }
        // `\sin \pi/6`: a plain fraction of constants belongs to the argument.
        if self.peek() == Some(&Tok::Ch('/'))
            && matches!(self.ahead(1), Some(Tok::Num(_)))
            && factors.contains(&Node::Pi)
        {
            self.at += 1;
            let divisor = self.power()?;
            factors.push(Node::Inverse(divisor.boxed()));
        }
        let argument = collected(factors, Node::Mul);
        Ok(if is_negative { negated(argument) } else { argument })
    }

    pub(super) fn starts_function(&self) -> bool {
        match self.peek() {
            Some(Tok::Cmd(name)) => super::latex::FUNCTIONS.contains(&name.as_str()) || name == "sum" || name == "prod",
            Some(Tok::Word(word)) => super::latex::FUNCTIONS.contains(&word.as_str()),
            _ => false,
        }
    }

    pub(super) fn series(&mut self, is_sum: bool) -> Parsed {
        let (mut low, mut high) = (None, None);
        for _ in 0..2 {
            if self.eat('_') {
                low = Some(self.script()?);
            } else if self.eat('^') {
                high = Some(self.script()?);
            }
        }
        let (var, low) = match low {
            Some(Node::Relation(mut sides, ops)) if ops == [Op::Eq] => {
                let low = sides.pop().expect("a relation has two sides");
                match sides.pop() {
                    Some(Node::Sym(var)) => (var, low),
                    Some(Node::I) => ("i".to_string(), low),
                    _ => return Err(Failure::Syntax),
                }
            }
            _ => return Err(Failure::Syntax),
        };
        let high = high.ok_or(Failure::Syntax)?;
        let body = self.nested(|parser| parser.product())?;
        let body = if var == "i" { with_index(body) } else { body };
        Ok(Node::Series { is_sum, var, low: low.boxed(), high: high.boxed(), body: body.boxed() })
    }
}

/// In the body of a sum over `i` the letter is the index, not the imaginary unit.
pub(super) fn with_index(node: Node) -> Node {
    let each = |items: Vec<Node>| items.into_iter().map(with_index).collect();
    match node {
        Node::I => Node::Sym("i".into()),
        Node::Add(items) => Node::Add(each(items)),
        Node::Mul(items) => Node::Mul(each(items)),
        Node::Neg(a) => Node::Neg(with_index(*a).boxed()),
        Node::Inverse(a) => Node::Inverse(with_index(*a).boxed()),
        Node::Pow(a, b) => Node::Pow(with_index(*a).boxed(), with_index(*b).boxed()),
        Node::Root(a, b) => Node::Root(with_index(*a).boxed(), with_index(*b).boxed()),
        Node::Call(func, items) => Node::Call(func, each(items)),
        other => other,
    }
}

pub(super) fn number(digits: &str) -> Parsed {
    let value = Rational::decimal(digits).ok_or(Failure::Syntax)?;
    let Some((whole, part)) = digits.split_once('.') else {
        return Ok(Node::Num(value));
    };
    if part.is_empty() {
        return Ok(Node::Num(value));
    }
    let shown = format!("{whole}{part}");
    let significant = shown.trim_start_matches('0').len();
    Ok(Node::Dec { value, places: part.len() as u32, significant: significant as u32 })
}

/// The digits before the block that `0.1666` ends in twice or more (one digit: three times), and the block.
fn repeating(digits: &str) -> Option<(&str, &str)> {
    let decimals = digits.len() - digits.find('.')? - 1;
    (1..=decimals.min(12) / 2).find_map(|period| {
        let times = if period == 1 { 3 } else { 2 };
        let block = &digits[digits.len() - period..];
        let tail = digits.len().checked_sub(period * times)?;
        let is_repeated = decimals >= period * times && digits[tail..] == block.repeat(times);
        is_repeated.then(|| (&digits[..tail], block))
    })
}

/// `0.1` followed by the recurring digits `6`.
pub(super) fn recurring(digits: &str, repeat: &str) -> Option<Rational> {
    if repeat.len() > 200 {
        return None;
    }
    let start =
        if digits.starts_with('.') { Rational::decimal(&format!("0{digits}"))? } else { Rational::decimal(digits)? };
    let places = digits.split_once('.').map_or(0, |(_, part)| part.len()) as u32;
    let ten = BigInt::from(10);
    let nines = ten.pow(repeat.len() as u32) - BigInt::one();
    let tail = Rational::new(repeat.parse().ok()?, nines * ten.pow(places))?;
    Some(start.add(&tail))
}

pub(super) fn plain(token: &Tok) -> String {
    match token {
        Tok::Num(text) | Tok::Sym(text) | Tok::Word(text) | Tok::Text(text) | Tok::Cmd(text) => text.clone(),
        Tok::Ch(c) => c.to_string(),
        _ => String::new(),
    }
}
