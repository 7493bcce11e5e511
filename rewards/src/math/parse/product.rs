//! Products, signs and powers, and the arguments of commands.

use super::decimal::number;
use super::{Failure, Parsed, Parser};
use crate::math::ast::{Func, Node};
use crate::math::rational::Rational;
use crate::math::token::Tok;

impl Parser<'_> {
    pub(super) fn product(&mut self) -> Parsed {
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
            } else if self.peek() == Some(&Tok::Ch('{')) && self.ahead(1) == Some(&Tok::Ch('}')) {
                // An empty group is layout, but where it carries a script.
                match self.ahead(2) {
                    Some(Tok::Ch('_' | '^')) => factors.push(self.power()?),
                    _ => self.at += 2,
                }
            } else if let Some(count) = self.infix_count(factors.last())? {
                factors.pop();
                factors.push(count);
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
                // `7{\frac{1}{2}}` is printed as a mixed number, so it is one, and so is `7{1\over2}`.
                let is_braced = self.peek() == Some(&Tok::Ch('{'))
                    && match (self.ahead(1), self.ahead(2)) {
                        (Some(Tok::Cmd(name)), _) => name == "frac",
                        (Some(Tok::Num(_)), Some(Tok::Cmd(name))) => name == "over",
                        _ => false,
                    };
                let is_fraction = self.is_command("frac") || is_braced;
                let was_digit =
                    matches!(self.tokens.get(self.at.wrapping_sub(1)).map(|token| &token.tok), Some(Tok::Num(_)));
                let factor = self.power()?;
                let whole = match factors.last() {
                    Some(Node::Num(whole)) if is_fraction && was_digit && whole.is_integer() => Some(whole.clone()),
                    _ => None,
                };
                let mixed = |part: &Node| Some(Node::Num(whole.as_ref()?.add(&proper_fraction(part)?)));
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
        if let (Some(_), Some(Node::Percent(inner) | Node::Degrees(inner))) = (sign, factors.last().cloned()) {
            factors.pop();
            factors.push(*inner);
        }
        let product = collected(factors, Node::Mul);
        let product = if is_negative { negated(product) } else { product };
        Ok(match sign {
            Some(sign) => sign(product.boxed()),
            None => product,
        })
    }

    /// `1/2` right after a whole number and a space: the mixed number they make.
    pub(super) fn plain_fraction(&mut self, whole: Option<&Node>) -> Option<Node> {
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

    pub(super) fn signed_power(&mut self) -> Parsed {
        let mut is_negative = false;
        while matches!(self.peek(), Some(Tok::Ch('+' | '-'))) {
            is_negative ^= self.peek() == Some(&Tok::Ch('-'));
            self.at += 1;
        }
        let power = self.power()?;
        Ok(if is_negative { negated(power) } else { power })
    }

    /// Whether a factor can start here without a sign between.
    pub(super) fn starts_factor(&self) -> bool {
        match self.peek() {
            Some(Tok::Num(_) | Tok::Sym(_) | Tok::SetOpen | Tok::Begin(_)) => true,
            Some(Tok::Word(word)) => !matches!(word.as_str(), "and" | "or" | "choose"),
            Some(Tok::Ch('(' | '{')) => true,
            // `[2, 5[`: a bracket that nothing follows but the next set closes an interval.
            Some(Tok::Ch('[')) => match self.ahead(1) {
                None | Some(Tok::Ch(',' | ';' | ')')) => false,
                Some(Tok::Cmd(name)) => !matches!(name.as_str(), "cup" | "cap" | "setminus"),
                Some(Tok::Word(word)) => word != "and" && word != "or",
                Some(_) => true,
            },
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

    /// A postfix expression and its power, or what `choose` makes of two.
    pub(super) fn power(&mut self) -> Parsed {
        self.nested(|parser| {
            let atom = parser.atom()?;
            let node = parser.after_atom(atom)?;
            if parser.is_choose() {
                parser.at += 1;
                let below = parser.power()?;
                return Ok(Node::Call(Func::Binomial, vec![node, below]));
            }
            Ok(node)
        })
    }

    pub(super) fn after_atom(&mut self, atom: Node) -> Parsed {
        let mut node = atom;
        for _ in 0..16 {
            self.count()?;
            if self.peek() == Some(&Tok::Ch('!')) {
                self.at += 1;
                let is_double = self.eat('!');
                node = Node::Call(if is_double { Func::DoubleFactorial } else { Func::Factorial }, vec![node]);
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
    pub(super) fn script(&mut self) -> Parsed {
        self.nested(|parser| match parser.peek() {
            Some(Tok::Ch('{')) => parser.braces(),
            Some(Tok::Ch('-' | '+')) => {
                let is_negative = parser.peek() == Some(&Tok::Ch('-'));
                parser.at += 1;
                let exponent = parser.script()?;
                Ok(if is_negative { negated(exponent) } else { exponent })
            }
            // 2^3^2 and 2^n!: the power binds to the right.
            _ => {
                let atom = parser.atom()?;
                if parser.peek() == Some(&Tok::Ch('^')) { parser.after_atom(atom) } else { Ok(atom) }
            }
        })
    }

    /// A LaTeX group: an expression, a fraction by `\over`, a binomial by `\choose`, or a bare list.
    pub(super) fn braces(&mut self) -> Parsed {
        self.expect('{')?;
        let bars = std::mem::take(&mut self.bars);
        let node = self.nested(|parser| {
            let mut items = vec![parser.stacked()?];
            while parser.separator().is_some() {
                items.push(parser.relation()?);
            }
            Ok(if items.len() == 1 { items.remove(0) } else { Node::List(items) })
        })?;
        self.bars = bars;
        self.expect('}')?;
        Ok(node)
    }

    /// An argument of a command: a group, or the next digit or atom.
    pub(super) fn argument(&mut self) -> Parsed {
        match self.peek() {
            Some(Tok::Ch('{')) => self.nested(|parser| parser.braces()),
            _ => self.nested(|parser| parser.atom()),
        }
    }

    /// The two arguments of `\frac`, where digits without braces are split: `\frac12`, `\frac172`.
    pub(super) fn two_arguments(&mut self) -> Result<(Node, Node), Failure> {
        if let Some(Tok::Num(digits)) = self.peek().cloned()
            && digits.len() >= 2
            && digits.bytes().all(|byte| byte.is_ascii_digit())
        {
            self.at += 1;
            let top = number(&digits[..1])?;
            if self.peek() == Some(&Tok::Ch('{')) && digits.len() == 1 {
                return Ok((top, self.argument()?));
            }
            return Ok((top, number(&digits[1..])?));
        }
        let top = self.argument()?;
        Ok((top, self.argument()?))
    }
}

pub(super) fn collected(mut items: Vec<Node>, wrap: fn(Vec<Node>) -> Node) -> Node {
    if items.len() == 1 { items.remove(0) } else { wrap(items) }
}

pub(super) fn negated(node: Node) -> Node {
    match node {
        Node::Num(value) => Node::Neg(Node::Num(value).boxed()),
        Node::PlusMinus(base, term, is_lower) => {
            Node::PlusMinus(base.map(|base| negated(*base).boxed()), term, !is_lower)
        }
        other => Node::Neg(other.boxed()),
    }
}

/// The value of `\frac{a}{b}` with whole positive numbers, as it stands in a mixed number.
pub(super) fn proper_fraction(node: &Node) -> Option<Rational> {
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
