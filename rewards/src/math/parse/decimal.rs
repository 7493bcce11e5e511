//! Numbers: decimals, recurring ones, and digits in a base.

use num_bigint::BigInt;
use num_traits::One;

use super::{Failure, Parsed, Parser};
use crate::math::ast::Node;
use crate::math::rational::Rational;
use crate::math::token::Tok;

impl Parser<'_> {
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
