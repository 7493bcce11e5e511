//! From tokens to a tree: a precedence-climbing parser with limits on depth and size.
//!
//! From loose to tight: list, relation, set operations, ratio, sum, product (written or not), sign,
//! power, postfix. Chains of the same operator become one flat node, so only real nesting is depth.

use super::ast::{Func, Node, Op};
use super::token::{Tok, Token};

mod atom;
mod counting;
mod decimal;
mod function;
mod product;

use product::{collected, negated};

/// Why an answer is not a formula.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    Syntax,
    TooDeep,
    TooLarge,
}

pub(super) type Parsed = Result<Node, Failure>;

/// Limits of one parse, and what it takes a logarithm without a base for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) depth: usize,
    pub(crate) nodes: usize,
    /// Whether the base of such a logarithm is e, else ten.
    pub(crate) is_log_natural: bool,
}

/// Parses a whole answer.
pub(crate) fn parse(tokens: &[Token], bounds: Bounds) -> Parsed {
    let tokens = without_outer_brackets(tokens);
    let mut parser = Parser { tokens, at: 0, depth: 0, nodes: 0, bounds, bars: 0 };
    let node = parser.answer()?;
    if parser.at < parser.tokens.len() { Err(Failure::Syntax) } else { Ok(node) }
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
                Tok::Cmd(ref name) if depth == 0 && (name == "choose" || name == "over") => is_whole = false,
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

pub(super) struct Parser<'a> {
    pub(super) tokens: &'a [Token],
    pub(super) at: usize,
    pub(super) depth: usize,
    pub(super) nodes: usize,
    pub(super) bounds: Bounds,
    /// Open absolute values: a bar inside one closes it.
    pub(super) bars: usize,
}

impl Parser<'_> {
    pub(super) fn peek(&self) -> Option<&Tok> {
        self.tokens.get(self.at).map(|token| &token.tok)
    }

    pub(super) fn ahead(&self, offset: usize) -> Option<&Tok> {
        self.tokens.get(self.at + offset).map(|token| &token.tok)
    }

    pub(super) fn is_spaced(&self) -> bool {
        self.tokens.get(self.at).is_some_and(|token| token.spaced)
    }

    pub(super) fn eat(&mut self, c: char) -> bool {
        let found = self.peek() == Some(&Tok::Ch(c));
        self.at += usize::from(found);
        found
    }

    pub(super) fn expect(&mut self, c: char) -> Result<(), Failure> {
        if self.eat(c) { Ok(()) } else { Err(Failure::Syntax) }
    }

    pub(super) fn is_command(&self, name: &str) -> bool {
        matches!(self.peek(), Some(Tok::Cmd(found)) if found == name)
    }

    pub(super) fn eat_command(&mut self, name: &str) -> bool {
        let found = self.is_command(name);
        self.at += usize::from(found);
        found
    }

    pub(super) fn count(&mut self) -> Result<(), Failure> {
        self.nodes += 1;
        if self.nodes > self.bounds.nodes { Err(Failure::TooLarge) } else { Ok(()) }
    }

    pub(super) fn nested<T>(&mut self, inner: impl FnOnce(&mut Self) -> Result<T, Failure>) -> Result<T, Failure> {
        self.depth += 1;
        if self.depth > self.bounds.depth {
            return Err(Failure::TooDeep);
        }
        let result = inner(self);
        self.depth -= 1;
        result
    }

    /// A connective between the items of a list, if one stands here.
    pub(super) fn separator(&mut self) -> Option<char> {
        let mut found = None;
        loop {
            match self.peek() {
                Some(Tok::Ch(c @ (',' | ';'))) => found = Some(if found == Some(';') { ';' } else { *c }),
                Some(Tok::Word(word)) if word == "and" => found = found.or(Some('&')),
                Some(Tok::Word(word)) if word == "or" => found = Some('|'),
                Some(Tok::Row) => found = found.or(Some(';')),
                _ => return found,
            }
            self.at += 1;
        }
    }

    /// The whole answer: items by commas, semicolons, `and`, `or`. Semicolons bind more loosely.
    pub(super) fn answer(&mut self) -> Parsed {
        let mut groups: Vec<Vec<Node>> = vec![Vec::new()];
        let mut has_or = true;
        loop {
            let item = self.stacked()?;
            groups.last_mut().expect("there is always a last group").push(item);
            match self.separator() {
                Some(_) if self.peek().is_none() => break,
                Some(separator) => {
                    has_or &= separator == '|';
                    if separator == ';' {
                        groups.push(Vec::new());
                    }
                }
                None => break,
            }
        }
        // `x < 0 or x > 1` says that either holds; with commas or `and` it depends on the two.
        let is_order = |item: &Node| matches!(item, Node::Relation(_, ops) if ops.iter().all(|op| op.is_order()));
        if let ([items], true) = (&groups[..], has_or)
            && items.len() > 1
            && items.iter().all(is_order)
        {
            return Ok(Node::Union(groups.remove(0)));
        }
        let mut groups: Vec<Node> = groups
            .into_iter()
            .map(|mut items| if items.len() == 1 { items.remove(0) } else { Node::List(items) })
            .collect();
        Ok(if groups.len() == 1 { groups.remove(0) } else { Node::List(groups) })
    }

    pub(super) fn relation_sign(&mut self) -> Option<Op> {
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

    /// A relation, or what `\over` and `\choose` make of the two around them.
    pub(super) fn stacked(&mut self) -> Parsed {
        let top = self.relation()?;
        if self.eat_command("over") {
            let bottom = self.relation()?;
            return Ok(Node::Mul(vec![top, Node::Inverse(bottom.boxed())]));
        }
        if self.eat_command("choose") {
            let bottom = self.relation()?;
            return Ok(Node::Call(Func::Binomial, vec![top, bottom]));
        }
        Ok(top)
    }

    pub(super) fn relation(&mut self) -> Parsed {
        // `= 5`: what the sign follows was left out.
        while self.eat('=') || self.eat_command("approx") {}
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
        Ok(if ops.is_empty() { sides.remove(0) } else { Node::Relation(sides, ops) })
    }

    pub(super) fn set_expression(&mut self) -> Parsed {
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

    pub(super) fn ratio(&mut self) -> Parsed {
        let first = self.sum()?;
        let mut parts = vec![first];
        while self.eat(':') {
            parts.push(self.sum()?);
            self.count()?;
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Node::Ratio(parts) })
    }

    pub(super) fn sum(&mut self) -> Parsed {
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
                    && matches!(terms[..], [Node::Numbers(_) | Node::Set(_) | Node::Group { .. }])
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
                choice = Some((Some(collected(std::mem::take(&mut terms), Node::Add).boxed()), term.boxed(), is_lower));
            } else {
                break;
            }
        }
        Ok(match choice {
            Some((base, term, is_lower)) => Node::PlusMinus(base, term, is_lower),
            None => collected(terms, Node::Add),
        })
    }
}
