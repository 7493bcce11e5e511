//! Binomials and arrangements by letters and words: `{}_{10}C_3`, `10C3`, `nCr(10, 3)`, `10 choose 3`.

use super::decimal::number;
use super::{Failure, Parsed, Parser};
use crate::math::ast::Node;
use crate::math::counting::count;
use crate::math::token::Tok;

impl Parser<'_> {
    /// The count whose first number stands raised or lowered before its letter; the mark has been read.
    pub(super) fn prescript(&mut self) -> Parsed {
        let n = self.script()?;
        let letter = match self.peek() {
            Some(Tok::Sym(letter) | Tok::Text(letter)) if is_letter(letter) => letter.clone(),
            _ => return Err(Failure::Syntax),
        };
        self.at += 1;
        if !self.eat('_') && !self.eat('^') {
            return Err(Failure::Syntax);
        }
        let k = self.script()?;
        Ok(count(&letter, n, k))
    }

    /// `C3` right behind the number 10: what the two make of it.
    pub(super) fn infix_count(&mut self, before: Option<&Node>) -> Result<Option<Node>, Failure> {
        let (Some(Tok::Sym(letter)), Some(Tok::Num(digits)), Some(n @ Node::Num(value))) =
            (self.peek(), self.ahead(1), before)
        else {
            return Ok(None);
        };
        let is_close = self.tokens[self.at..self.at + 2].iter().all(|token| !token.spaced);
        let follows_digits = matches!(self.tokens[self.at - 1].tok, Tok::Num(_));
        let is_whole = value.is_integer() && digits.bytes().all(|byte| byte.is_ascii_digit());
        if !(is_letter(letter) && is_close && follows_digits && is_whole) || self.ahead(2) == Some(&Tok::Ch('_')) {
            return Ok(None);
        }
        let node = count(letter, n.clone(), number(digits)?);
        self.at += 2;
        Ok(Some(node))
    }

    /// `nCr(10, 3)` and its other names; the name has been read.
    pub(super) fn named_count(&mut self, name: &str) -> Result<Option<Node>, Failure> {
        let letter = match name {
            "nCr" | "nCk" | "binom" | "binomial" | "comb" | "choose" => "C",
            "nPr" | "nPk" | "perm" => "P",
            _ => return Ok(None),
        };
        if !self.eat('(') {
            return Ok(None);
        }
        let mut items = self.nested(|parser| parser.items())?;
        self.expect(')')?;
        match (items.pop(), items.pop(), items.is_empty()) {
            (Some(k), Some(n), true) => Ok(Some(count(letter, n, k))),
            _ => Err(Failure::Syntax),
        }
    }

    /// Whether the word `choose` stands here.
    pub(super) fn is_choose(&self) -> bool {
        matches!(self.peek(), Some(Tok::Word(word) | Tok::Text(word)) if word == "choose")
    }
}

fn is_letter(name: &str) -> bool {
    name == "C" || name == "P"
}
