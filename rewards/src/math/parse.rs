//! From tokens to a tree: a precedence-climbing parser with limits on depth and size.
//!
//! From loose to tight: list, relation, set operations, ratio, sum, product (written or not), sign,
//! power, postfix. Chains of the same operator become one flat node, so only real nesting is depth.

use num_bigint::BigInt;
use num_traits::One;

use super::ast::{Func, Node, Op};
use super::rational::Rational;
use super::token::{Tok, Token};

/// Why an answer is not a formula.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    Syntax,
    TooDeep,
    TooLarge,
}

type Parsed = Result<Node, Failure>;

/// Limits of one parse.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) depth: usize,
    pub(crate) nodes: usize,
}

/// Parses a whole answer.
pub(crate) fn parse(tokens: &[Token], bounds: Bounds) -> Parsed {
    let tokens = without_outer_brackets(tokens);
    let mut parser = Parser {
        tokens,
        at: 0,
        depth: 0,
        nodes: 0,
        bounds,
        bars: 0,
    };
    let node = parser.answer()?;
    if parser.at < parser.tokens.len() {
        Err(Failure::Syntax)
    } else {
        Ok(node)
    }
}

/// Drops braces and round brackets that enclose everything and separate nothing.
fn without_outer_brackets(mut tokens: &[Token]) -> &[Token] {
    let mut levels = 0;
    while let (Some(first), Some(last)) = (tokens.first(), tokens.last()) {
        let pair = match (&first.tok, &last.tok) {
            (Tok::Ch('{'), Tok::Ch('}')) => '{',
            (Tok::Ch('('), Tok::Ch(')')) => '(',
            _ => break,
        };
        levels += 1;
        if levels > 2048 || tokens.len() < 3 {
            break;
        }
        let inner = &tokens[1..tokens.len() - 1];
        let mut depth = 0i64;
        let mut is_whole = true;
        let mut separates = false;
        for token in inner {
            match token.tok {
                Tok::Ch('{' | '(' | '[') | Tok::SetOpen => depth += 1,
                Tok::Ch('}' | ')' | ']') | Tok::SetClose => {
                    depth -= 1;
                    is_whole &= depth >= 0;
                }
                Tok::Ch(',' | ';') if depth == 0 => separates = true,
                Tok::Cmd(ref name) if depth == 0 && (name == "choose" || name == "over") => {
                    is_whole = false
                }
                _ => {}
            }
        }
        if !is_whole || depth != 0 || (separates && pair == '(') {
            break;
        }
        tokens = inner;
    }
    tokens
}

struct Parser<'a> {
    tokens: &'a [Token],
    at: usize,
    depth: usize,
    nodes: usize,
    bounds: Bounds,
    /// Open absolute values: a bar inside one closes it.
    bars: usize,
}

impl Parser<'_> {
    fn peek(&self) -> Option<&Tok> {
        self.tokens.get(self.at).map(|token| &token.tok)
    }

    fn ahead(&self, offset: usize) -> Option<&Tok> {
        self.tokens.get(self.at + offset).map(|token| &token.tok)
    }

    fn is_spaced(&self) -> bool {
        self.tokens.get(self.at).is_some_and(|token| token.spaced)
    }

    fn eat(&mut self, c: char) -> bool {
        let found = self.peek() == Some(&Tok::Ch(c));
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, c: char) -> Result<(), Failure> {
        if self.eat(c) {
            Ok(())
        } else {
            Err(Failure::Syntax)
        }
    }

    fn is_command(&self, name: &str) -> bool {
        matches!(self.peek(), Some(Tok::Cmd(found)) if found == name)
    }

    fn eat_command(&mut self, name: &str) -> bool {
        let found = self.is_command(name);
        self.at += usize::from(found);
        found
    }

    fn count(&mut self) -> Result<(), Failure> {
        self.nodes += 1;
        if self.nodes > self.bounds.nodes {
            Err(Failure::TooLarge)
        } else {
            Ok(())
        }
    }

    fn nested<T>(
        &mut self,
        inner: impl FnOnce(&mut Self) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        self.depth += 1;
        if self.depth > self.bounds.depth {
            return Err(Failure::TooDeep);
        }
        let result = inner(self);
        self.depth -= 1;
        result
    }

    /// A connective between the items of a list, if one stands here.
    fn separator(&mut self) -> Option<char> {
        let mut found = None;
        loop {
            match self.peek() {
                Some(Tok::Ch(c @ (',' | ';'))) => {
                    found = Some(if found == Some(';') { ';' } else { *c })
                }
                Some(Tok::Word(word)) if word == "and" || word == "or" => {
                    found = found.or(Some('&'))
                }
                Some(Tok::Row) => found = found.or(Some(';')),
                _ => return found,
            }
            self.at += 1;
        }
    }

    /// The whole answer: items by commas, semicolons, `and`, `or`. Semicolons bind more loosely.
    fn answer(&mut self) -> Parsed {
        let mut groups: Vec<Vec<Node>> = vec![Vec::new()];
        let mut separators = Vec::new();
        loop {
            let item = self.relation()?;
            groups
                .last_mut()
                .expect("there is always a last group")
                .push(item);
            match self.separator() {
                Some(_) if self.peek().is_none() => break,
                Some(separator) => {
                    separators.push(separator);
                    if separator == ';' {
                        groups.push(Vec::new());
                    }
                }
                None => break,
            }
        }
        let mut groups: Vec<Node> = groups
            .into_iter()
            .map(|mut items| {
                if items.len() == 1 {
                    items.remove(0)
                } else {
                    Node::List(items)
                }
            })
            .collect();
        Ok(if groups.len() == 1 {
            groups.remove(0)
        } else {
            Node::List(groups)
        })
    }

    fn relation_sign(&mut self) -> Option<Op> {
        let (op, length) = match self.peek()? {
            Tok::Ch('=') => (Op::Eq, 1),
            Tok::Ch('<') => (Op::Lt, 1),
            Tok::Ch('>') => (Op::Gt, 1),
            Tok::Cmd(name) => match name.as_str() {
                "le" => (Op::Le, 1),
                "ge" => (Op::Ge, 1),
                "ne" => (Op::Ne, 1),
                "approx" => (Op::Approx, 1),
                "equiv" => (Op::Eq, 1),
                "not" if self.ahead(1) == Some(&Tok::Ch('=')) => (Op::Ne, 2),
                _ => return None,
            },
            _ => return None,
        };
        self.at += length;
        Some(op)
    }

    fn relation(&mut self) -> Parsed {
        // `= 5`: what the sign follows was left out.
        while self.eat('=') {}
        let mut sides = vec![self.set_expression()?];
        let mut ops = Vec::new();
        loop {
            if self.eat_command("in") {
                let set = self.set_expression()?;
                let member = sides.pop().expect("a side was parsed");
                sides.push(Node::In(member.boxed(), set.boxed()));
                continue;
            }
            match self.relation_sign() {
                Some(op) => {
                    ops.push(op);
                    sides.push(self.set_expression()?);
                    self.count()?;
                }
                None => break,
            }
        }
        Ok(if ops.is_empty() {
            sides.remove(0)
        } else {
            Node::Relation(sides, ops)
        })
    }

    fn set_expression(&mut self) -> Parsed {
        let mut left = self.ratio()?;
        loop {
            self.count()?;
            if self.eat_command("cup") {
                let right = self.ratio()?;
                left = match left {
                    Node::Union(mut items) => {
                        items.push(right);
                        Node::Union(items)
                    }
                    other => Node::Union(vec![other, right]),
                };
            } else if self.eat_command("cap") {
                let right = self.ratio()?;
                left = match left {
                    Node::Intersection(mut items) => {
                        items.push(right);
                        Node::Intersection(items)
                    }
                    other => Node::Intersection(vec![other, right]),
                };
            } else if self.eat_command("setminus") {
                let right = self.ratio()?;
                self.depth += 1;
                if self.depth > self.bounds.depth {
                    return Err(Failure::TooDeep);
                }
                left = Node::Minus(left.boxed(), right.boxed());
            } else {
                return Ok(left);
            }
        }
    }

    fn ratio(&mut self) -> Parsed {
        let first = self.sum()?;
        let mut parts = vec![first];
        while self.eat(':') {
            parts.push(self.sum()?);
            self.count()?;
        }
        Ok(if parts.len() == 1 {
            parts.remove(0)
        } else {
            Node::Ratio(parts)
        })
    }

    fn sum(&mut self) -> Parsed {
        let mut terms: Vec<Node> = Vec::new();
        let mut choice: Option<(Option<Box<Node>>, Box<Node>, bool)> = None;
        if self.is_command("pm") || self.is_command("mp") {
            let is_lower = self.is_command("mp");
            self.at += 1;
            let term = self.product()?;
            choice = Some((None, term.boxed(), is_lower));
        } else {
            terms.push(self.product()?);
        }
        loop {
            self.count()?;
            let is_plus = self.peek() == Some(&Tok::Ch('+'));
            if is_plus || self.peek() == Some(&Tok::Ch('-')) {
                self.at += 1;
                let term = self.product()?;
                // `R - {0}` takes a set from a set.
                if !is_plus
                    && choice.is_none()
                    && matches!(term, Node::Set(_))
                    && matches!(
                        terms[..],
                        [Node::Numbers(_) | Node::Set(_) | Node::Group { .. }]
                    )
                {
                    let whole = terms.remove(0);
                    terms.push(Node::Minus(whole.boxed(), term.boxed()));
                    continue;
                }
                let term = if is_plus { term } else { negated(term) };
                match &mut choice {
                    // a +- b + c: the rest belongs to the part that both have.
                    Some((base, _, _)) => {
                        let old = base.take();
                        let sum = match old {
                            Some(old) => Node::Add(vec![*old, term]),
                            None => term,
                        };
                        *base = Some(sum.boxed());
                    }
                    None => terms.push(term),
                }
            } else if (self.is_command("pm") || self.is_command("mp")) && choice.is_none() {
                let is_lower = self.is_command("mp");
                self.at += 1;
                let term = self.product()?;
                choice = Some((
                    Some(collected(std::mem::take(&mut terms), Node::Add).boxed()),
                    term.boxed(),
                    is_lower,
                ));
            } else {
                break;
            }
        }
        Ok(match choice {
            Some((base, term, is_lower)) => Node::PlusMinus(base, term, is_lower),
            None => collected(terms, Node::Add),
        })
    }

    fn product(&mut self) -> Parsed {
        let mut factors = Vec::new();
        let mut is_negative = false;
        while matches!(self.peek(), Some(Tok::Ch('+' | '-'))) {
            is_negative ^= self.peek() == Some(&Tok::Ch('-'));
            self.at += 1;
        }
        factors.push(self.power()?);
        loop {
            self.count()?;
            if self.eat('*') || self.eat_command("cdot") {
                let factor = self.signed_power()?;
                factors.push(factor);
            } else if self.eat('/') {
                let factor = self.signed_power()?;
                factors.push(Node::Inverse(factor.boxed()));
            } else if self.is_command("bmod") || self.is_command("mod") {
                self.at += 1;
                let modulus = self.signed_power()?;
                let value = collected(std::mem::take(&mut factors), Node::Mul);
                factors.push(Node::Call(Func::Mod, vec![value, modulus]));
            } else if self.starts_factor() {
                let is_number = matches!(self.peek(), Some(Tok::Num(_)));
                if is_number && matches!(factors.last(), Some(Node::Num(_) | Node::Dec { .. })) {
                    // `137 1/2` is a mixed number; other numbers side by side mean nothing.
                    let mixed = self.plain_fraction(factors.last());
                    match mixed {
                        Some(sum) => {
                            factors.pop();
                            factors.push(sum);
                            continue;
                        }
                        None => return Err(Failure::Syntax),
                    }
                }
                let is_fraction = self.is_command("frac");
                let was_digit = matches!(
                    self.tokens
                        .get(self.at.wrapping_sub(1))
                        .map(|token| &token.tok),
                    Some(Tok::Num(_))
                );
                let factor = self.power()?;
                let whole = match factors.last() {
                    Some(Node::Num(whole)) if is_fraction && was_digit && whole.is_integer() => {
                        Some(whole.clone())
                    }
                    _ => None,
                };
                let mixed =
                    |part: &Node| Some(Node::Num(whole.as_ref()?.add(&proper_fraction(part)?)));
                // A percent or degree sign after a mixed number belongs to all of it.
                let sum = match &factor {
                    Node::Percent(part) => mixed(part).map(|sum| Node::Percent(sum.boxed())),
                    Node::Degrees(part) => mixed(part).map(|sum| Node::Degrees(sum.boxed())),
                    part => mixed(part),
                };
                match sum {
                    Some(sum) => {
                        factors.pop();
                        factors.push(sum);
                    }
                    None => factors.push(factor),
                }
            } else {
                break;
            }
        }
        // So do they after a product: 2\pi^\circ, \frac{100}{3}\%.
        let sign: Option<fn(Box<Node>) -> Node> = match factors.last() {
            Some(Node::Percent(_)) => Some(Node::Percent),
            Some(Node::Degrees(_)) => Some(Node::Degrees),
            _ => None,
        };
        if let (Some(_), Some(Node::Percent(inner) | Node::Degrees(inner))) =
            (sign, factors.last().cloned())
        {
            factors.pop();
            factors.push(*inner);
        }
        let product = collected(factors, Node::Mul);
        let product = if is_negative {
            negated(product)
        } else {
            product
        };
        Ok(match sign {
            Some(sign) => sign(product.boxed()),
            None => product,
        })
    }

    /// `1/2` right after a whole number and a space: the mixed number they make.
    fn plain_fraction(&mut self, whole: Option<&Node>) -> Option<Node> {
        let Some(Node::Num(whole)) = whole else {
            return None;
        };
        let (Some(Tok::Num(top)), Some(Tok::Ch('/')), Some(Tok::Num(bottom))) =
            (self.peek(), self.ahead(1), self.ahead(2))
        else {
            return None;
        };
        if top.contains('.') || bottom.contains('.') || !whole.is_integer() || !self.is_spaced() {
            return None;
        }
        let part = Rational::new(top.parse().ok()?, bottom.parse().ok()?)?;
        let sum = whole.add(&part);
        self.at += 3;
        Some(Node::Num(sum))
    }

    fn signed_power(&mut self) -> Parsed {
        let mut is_negative = false;
        while matches!(self.peek(), Some(Tok::Ch('+' | '-'))) {
            is_negative ^= self.peek() == Some(&Tok::Ch('-'));
            self.at += 1;
        }
        let power = self.power()?;
        Ok(if is_negative { negated(power) } else { power })
    }

    /// Whether a factor can start here without a sign between.
    fn starts_factor(&self) -> bool {
        match self.peek() {
            Some(Tok::Num(_) | Tok::Sym(_) | Tok::SetOpen | Tok::Begin(_)) => true,
            Some(Tok::Word(word)) => word != "and" && word != "or",
            Some(Tok::Ch('(' | '{' | '[')) => true,
            Some(Tok::Ch('|')) => self.bars == 0,
            Some(Tok::Cmd(name)) => !matches!(
                name.as_str(),
                "le" | "ge"
                    | "ne"
                    | "not"
                    | "approx"
                    | "equiv"
                    | "in"
                    | "cup"
                    | "cap"
                    | "setminus"
                    | "pm"
                    | "mp"
                    | "cdot"
                    | "bmod"
                    | "mod"
                    | "choose"
                    | "over"
                    | "rfloor"
                    | "rceil"
                    | "circ"
                    | "pmod"
                    | "atop"
            ),
            _ => false,
        }
    }

    /// A postfix expression and its power.
    fn power(&mut self) -> Parsed {
        self.nested(|parser| {
            let atom = parser.atom()?;
            parser.after_atom(atom)
        })
    }

    fn after_atom(&mut self, atom: Node) -> Parsed {
        let mut node = atom;
        for _ in 0..16 {
            self.count()?;
            if self.peek() == Some(&Tok::Ch('!')) {
                self.at += 1;
                let is_double = self.eat('!');
                node = Node::Call(
                    if is_double {
                        Func::DoubleFactorial
                    } else {
                        Func::Factorial
                    },
                    vec![node],
                );
            } else if self.eat('%') {
                if matches!(node, Node::Percent(_)) {
                    return Err(Failure::Syntax);
                }
                node = Node::Percent(node.boxed());
            } else if self.eat('^') {
                if self.eat_command("circ") {
                    node = Node::Degrees(node.boxed());
                    continue;
                }
                if self.peek() == Some(&Tok::Ch('{'))
                    && matches!(self.ahead(1), Some(Tok::Cmd(name)) if name == "circ")
                    && self.ahead(2) == Some(&Tok::Ch('}'))
                {
                    self.at += 3;
                    node = Node::Degrees(node.boxed());
                    continue;
                }
                let exponent = self.script()?;
                node = Node::Pow(node.boxed(), exponent.boxed());
            } else {
                return Ok(node);
            }
        }
        Err(Failure::TooDeep)
    }

    /// What stands after `^` or as an argument without braces.
    fn script(&mut self) -> Parsed {
        self.nested(|parser| match parser.peek() {
            Some(Tok::Ch('{')) => parser.braces(),
            Some(Tok::Ch('-' | '+')) => {
                let is_negative = parser.peek() == Some(&Tok::Ch('-'));
                parser.at += 1;
                let exponent = parser.script()?;
                Ok(if is_negative {
                    negated(exponent)
                } else {
                    exponent
                })
            }
            // 2^3^2 and 2^n!: the power binds to the right.
            _ => {
                let atom = parser.atom()?;
                if parser.peek() == Some(&Tok::Ch('^')) {
                    parser.after_atom(atom)
                } else {
                    Ok(atom)
                }
            }
        })
    }

    /// A LaTeX group: an expression, a fraction by `\over`, a binomial by `\choose`, or a bare list.
    fn braces(&mut self) -> Parsed {
        self.expect('{')?;
        let bars = std::mem::take(&mut self.bars);
        let node = self.nested(|parser| {
            let mut items = vec![parser.relation()?];
            if parser.eat_command("over") {
                let top = items.remove(0);
                let bottom = parser.relation()?;
                return Ok(Node::Mul(vec![top, Node::Inverse(bottom.boxed())]));
            }
            if parser.eat_command("choose") {
                let top = items.remove(0);
                let bottom = parser.relation()?;
                return Ok(Node::Call(Func::Binomial, vec![top, bottom]));
            }
            while parser.separator().is_some() {
                items.push(parser.relation()?);
            }
            Ok(if items.len() == 1 {
                items.remove(0)
            } else {
                Node::List(items)
            })
        })?;
        self.bars = bars;
        self.expect('}')?;
        Ok(node)
    }

    /// An argument of a command: a group, or the next digit or atom.
    fn argument(&mut self) -> Parsed {
        match self.peek() {
            Some(Tok::Ch('{')) => self.nested(|parser| parser.braces()),
            _ => self.nested(|parser| parser.atom()),
        }
    }

    /// The two arguments of `\frac`, where digits without braces are split: `\frac12`, `\frac172`.
    fn two_arguments(&mut self) -> Result<(Node, Node), Failure> {
        if let Some(Tok::Num(digits)) = self.peek().cloned() {
            if digits.len() >= 2 && digits.bytes().all(|byte| byte.is_ascii_digit()) {
                self.at += 1;
                let top = number(&digits[..1])?;
                if self.peek() == Some(&Tok::Ch('{')) && digits.len() == 1 {
                    return Ok((top, self.argument()?));
                }
                return Ok((top, number(&digits[1..])?));
            }
        }
        let top = self.argument()?;
        Ok((top, self.argument()?))
    }

    fn atom(&mut self) -> Parsed {
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
                    return Ok(if items.len() == 1 {
                        items.remove(0)
                    } else {
                        Node::List(items)
                    });
                }
                if self.peek() != Some(&Tok::SetClose) {
                    return Err(Failure::Syntax);
                }
                self.at += 1;
                Ok(Node::Set(items))
            }
            Tok::Begin(environment) => self.matrix(&environment),
            Tok::Ch(_) | Tok::SetClose | Tok::Row | Tok::End(_) | Tok::Text(_) => {
                Err(Failure::Syntax)
            }
        }
    }

    /// Skips `x |` or `x \in R :` at the start of a set by condition.
    fn skip_builder(&mut self) -> bool {
        let is_bar = |tok: Option<&Tok>| matches!(tok, Some(Tok::Ch('|' | ':')));
        let is_command =
            |tok: Option<&Tok>, name: &str| matches!(tok, Some(Tok::Cmd(found)) if found == name);
        if !matches!(self.peek(), Some(Tok::Sym(_))) {
            return false;
        }
        let length = if is_bar(self.ahead(1)) {
            2
        } else if is_command(self.ahead(1), "in")
            && is_command(self.ahead(2), "mathbb R")
            && is_bar(self.ahead(3))
        {
            4
        } else {
            return false;
        };
        self.at += length;
        true
    }

    fn after_number(&mut self, digits: &str) -> Parsed {
        // A recurring decimal: 0.1\overline{6}, 0.\dot3.
        if digits.contains('.')
            && (self.is_command("overline") || self.is_command("bar") || self.is_command("dot"))
        {
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
            return recurring(digits, &repeat)
                .map(Node::Num)
                .ok_or(Failure::Syntax);
        }
        // `0.3636\ldots`: the digits shown.
        if digits.contains('.')
            && (self.is_command("ldots") || self.is_command("dots") || self.is_command("cdots"))
        {
            self.at += 1;
        }
        if self.peek() == Some(&Tok::Ch('_')) {
            self.at += 1;
            let base = match self.digits()?.parse::<u32>() {
                Ok(base) if (2..=36).contains(&base) => base,
                _ => return Err(Failure::Syntax),
            };
            return Ok(Node::Based {
                digits: digits.trim_start_matches('0').to_string(),
                base,
            });
        }
        number(digits)
    }

    /// A run of digits in braces or bare.
    fn digits(&mut self) -> Result<String, Failure> {
        let braced = self.eat('{');
        let Some(Tok::Num(digits)) = self.peek().cloned() else {
            return Err(Failure::Syntax);
        };
        self.at += 1;
        if braced {
            self.expect('}')?;
        }
        if digits.bytes().all(|byte| byte.is_ascii_digit()) {
            Ok(digits)
        } else {
            Err(Failure::Syntax)
        }
    }

    /// The rest of a name: primes and subscripts.
    fn name(&mut self, mut name: String) -> Result<String, Failure> {
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

    fn symbol(&mut self, name: String) -> Parsed {
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
            let is_named = self.peek() == Some(&Tok::Ch('='))
                && items.iter().all(|item| matches!(item, Node::Sym(_)));
            if is_named
                || is_certain
                || (items.iter().all(|item| matches!(item, Node::Num(_)))
                    && "FGHPQ".contains(first))
            {
                return Ok(Node::Apply(name, items));
            }
            self.at = start;
        }
        Ok(Node::Sym(name))
    }

    /// A run of letters: a function, or a product of letters.
    fn word(&mut self, word: &str) -> Parsed {
        if word == "and" || word == "or" {
            return Err(Failure::Syntax);
        }
        if super::token::FUNCTIONS.contains(&word) {
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

    fn items(&mut self) -> Result<Vec<Node>, Failure> {
        let mut items = vec![self.relation()?];
        while self.separator().is_some() {
            if matches!(self.peek(), Some(Tok::SetClose | Tok::Ch(')' | ']'))) {
                break;
            }
            items.push(self.relation()?);
        }
        Ok(items)
    }

    fn group(&mut self, open: char) -> Parsed {
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

    fn matrix(&mut self, environment: &str) -> Parsed {
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
                    rows.last_mut()
                        .expect("there is always a last row")
                        .push(cell);
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

    fn command(&mut self, name: &str) -> Parsed {
        match name {
            "frac" => {
                let (top, bottom) = self.two_arguments()?;
                Ok(match (&top, &bottom) {
                    (Node::Num(a), Node::Num(b)) if !b.is_zero() => Node::Mul(vec![
                        Node::Num(a.clone()),
                        Node::Inverse(Node::Num(b.clone()).boxed()),
                    ]),
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
                let (func, close) = if name == "lfloor" {
                    (Func::Floor, "rfloor")
                } else {
                    (Func::Ceil, "rceil")
                };
                let bars = std::mem::take(&mut self.bars);
                let inner = self.nested(|parser| parser.sum())?;
                self.bars = bars;
                if self.eat_command(close) {
                    Ok(Node::Call(func, vec![inner]))
                } else {
                    Err(Failure::Syntax)
                }
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
                    // R^+, Z_{>0} and the like are other sets.
                    if matches!(self.peek(), Some(Tok::Ch('^' | '_'))) {
                        return Err(Failure::Syntax);
                    }
                    return match set.chars().next() {
                        Some(c @ ('R' | 'Z' | 'N' | 'Q' | 'C')) => Ok(Node::Numbers(c)),
                        _ => Err(Failure::Syntax),
                    };
                }
                if super::token::FUNCTIONS.contains(&name) {
                    self.function(name)
                } else {
                    Err(Failure::Syntax)
                }
            }
        }
    }

    /// A function by name, with an optional power or base and an argument with or without brackets.
    fn function(&mut self, name: &str) -> Parsed {
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
            Node::Group {
                open: '(',
                items,
                close: ')',
            } => items,
            Node::Set(items) | Node::List(items) => items,
            other => vec![other],
        };
        let one = |arguments: Vec<Node>| {
            if arguments.len() == 1 {
                Ok(arguments)
            } else {
                Err(Failure::Syntax)
            }
        };
        let mut call = match name {
            "log" => Node::Call(
                Func::Log,
                vec![base.take().unwrap_or(Node::E), one(arguments)?.remove(0)],
            ),
            "lg" => Node::Call(
                Func::Log,
                vec![
                    base.take().unwrap_or(Node::int(10)),
                    one(arguments)?.remove(0),
                ],
            ),
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

    fn function_argument(&mut self) -> Parsed {
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
        while self.starts_factor()
            && !self.starts_function()
            && !matches!(self.peek(), Some(Tok::Ch('(' | '[' | '{')))
        {
            if matches!(self.peek(), Some(Tok::Num(_))) {
                return Err(Failure::Syntax);
            }
            factors.push(self.power()?);
        }
        // `\sin \pi/6`: a plain fraction of constants belongs to the argument.
        if self.peek() == Some(&Tok::Ch('/'))
            && matches!(self.ahead(1), Some(Tok::Num(_)))
            && factors.iter().any(|factor| *factor == Node::Pi)
        {
            self.at += 1;
            let divisor = self.power()?;
            factors.push(Node::Inverse(divisor.boxed()));
        }
        let argument = collected(factors, Node::Mul);
        Ok(if is_negative {
            negated(argument)
        } else {
            argument
        })
    }

    fn starts_function(&self) -> bool {
        match self.peek() {
            Some(Tok::Cmd(name)) => {
                super::token::FUNCTIONS.contains(&name.as_str()) || name == "sum" || name == "prod"
            }
            Some(Tok::Word(word)) => super::token::FUNCTIONS.contains(&word.as_str()),
            _ => false,
        }
    }

    fn series(&mut self, is_sum: bool) -> Parsed {
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
        Ok(Node::Series {
            is_sum,
            var,
            low: low.boxed(),
            high: high.boxed(),
            body: body.boxed(),
        })
    }
}

/// In the body of a sum over `i` the letter is the index, not the imaginary unit.
fn with_index(node: Node) -> Node {
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

fn collected(mut items: Vec<Node>, wrap: fn(Vec<Node>) -> Node) -> Node {
    if items.len() == 1 {
        items.remove(0)
    } else {
        wrap(items)
    }
}

fn negated(node: Node) -> Node {
    match node {
        Node::Num(value) => Node::Neg(Node::Num(value).boxed()),
        Node::PlusMinus(base, term, is_lower) => {
            Node::PlusMinus(base.map(|base| negated(*base).boxed()), term, !is_lower)
        }
        other => Node::Neg(other.boxed()),
    }
}

fn number(digits: &str) -> Parsed {
    let value = Rational::decimal(digits).ok_or(Failure::Syntax)?;
    let Some((whole, part)) = digits.split_once('.') else {
        return Ok(Node::Num(value));
    };
    if part.is_empty() {
        return Ok(Node::Num(value));
    }
    let shown = format!("{whole}{part}");
    let significant = shown.trim_start_matches('0').len();
    Ok(Node::Dec {
        value,
        places: part.len() as u32,
        significant: significant as u32,
    })
}

/// `0.1` followed by the recurring digits `6`.
fn recurring(digits: &str, repeat: &str) -> Option<Rational> {
    if repeat.len() > 200 {
        return None;
    }
    let start = if digits.starts_with('.') {
        Rational::decimal(&format!("0{digits}"))?
    } else {
        Rational::decimal(digits)?
    };
    let places = digits.split_once('.').map_or(0, |(_, part)| part.len()) as u32;
    let ten = BigInt::from(10);
    let nines = ten.pow(repeat.len() as u32) - BigInt::one();
    let tail = Rational::new(repeat.parse().ok()?, nines * ten.pow(places))?;
    Some(start.add(&tail))
}

/// The value of `\frac{a}{b}` with whole positive numbers, as it stands in a mixed number.
fn proper_fraction(node: &Node) -> Option<Rational> {
    match node {
        Node::Mul(parts) => match &parts[..] {
            [Node::Num(top), Node::Inverse(bottom)] => match &**bottom {
                Node::Num(bottom) => Some(top.mul(&bottom.inverse()?)),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    }
}

fn plain(token: &Tok) -> String {
    match token {
        Tok::Num(text) | Tok::Sym(text) | Tok::Word(text) | Tok::Text(text) | Tok::Cmd(text) => {
            text.clone()
        }
        Tok::Ch(c) => c.to_string(),
        _ => String::new(),
    }
}
