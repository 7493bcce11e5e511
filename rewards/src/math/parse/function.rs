//! Functions by name, with their power, base and argument, and finite sums and products.

use super::product::{collected, negated};
use super::{Failure, Parsed, Parser};
use crate::math::ast::{Func, Node, Op};
use crate::math::token::Tok;

impl Parser<'_> {
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
            "log" => {
                let unstated = if self.bounds.is_log_natural { Node::E } else { Node::int(10) };
                Node::Call(Func::Log, vec![base.take().unwrap_or(unstated), one(arguments)?.remove(0)])
            }
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
            Some(Tok::Cmd(name)) => {
                crate::math::latex::FUNCTIONS.contains(&name.as_str()) || name == "sum" || name == "prod"
            }
            Some(Tok::Word(word)) => crate::math::latex::FUNCTIONS.contains(&word.as_str()),
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
