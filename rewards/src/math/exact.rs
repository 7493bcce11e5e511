//! The exact value of an expression, where it is rational.

use num_bigint::BigInt;
use num_integer::Integer;
use num_traits::{One, Signed, ToPrimitive, Zero};

use super::Limits;
use super::ast::{Func, Node};
use super::ball::Trouble;
use super::rational::Rational;

/// The soft time limit of one verdict.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    pub(crate) deadline: std::time::Instant,
}

impl Clock {
    pub(crate) fn check(&self) -> Result<(), Trouble> {
        if std::time::Instant::now() > self.deadline { Err(Trouble::Timeout) } else { Ok(()) }
    }
}

/// The exact value of `node`, `None` where it is not known to be rational.
pub(crate) fn exact(node: &Node, limits: &Limits, clock: &Clock) -> Result<Option<Rational>, Trouble> {
    Exact { limits, clock, variables: Vec::new() }.value(node)
}

struct Exact<'a> {
    limits: &'a Limits,
    clock: &'a Clock,
    variables: Vec<(String, Rational)>,
}

impl Exact<'_> {
    fn fits(&self, value: Rational) -> Result<Option<Rational>, Trouble> {
        if value.bits() > self.limits.integer_bits { Err(Trouble::TooLarge) } else { Ok(Some(value)) }
    }

    fn value(&mut self, node: &Node) -> Result<Option<Rational>, Trouble> {
        Ok(match node {
            Node::Num(value) | Node::Dec { value, .. } => return self.fits(value.clone()),
            Node::Sym(name) => {
                self.variables.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.clone())
            }
            Node::Add(items) => {
                let mut sum = Rational::zero();
                for item in items {
                    let Some(value) = self.value(item)? else {
                        return Ok(None);
                    };
                    cheap(&sum, &value)?;
                    sum = sum.add(&value);
                    if sum.bits() > self.limits.integer_bits {
                        return Err(Trouble::TooLarge);
                    }
                }
                Some(sum)
            }
            Node::Mul(items) => return self.product(items),
            Node::Neg(a) => self.value(a)?.map(|value| value.neg()),
            Node::Inverse(a) => match self.value(a)? {
                Some(value) => Some(value.inverse().ok_or(Trouble::Undefined)?),
                None => None,
            },
            Node::Percent(a) => self.value(a)?.map(|value| value.mul(&Rational::ratio(1, 100))),
            Node::Pow(base, exponent) => {
                let (Some(base), Some(exponent)) = (self.value(base)?, self.value(exponent)?) else {
                    return Ok(None);
                };
                return self.power(&base, &exponent);
            }
            Node::Root(radicand, degree) => {
                let (Some(radicand), Some(degree)) = (self.value(radicand)?, self.value(degree)?) else {
                    return Ok(None);
                };
                let degree = degree.to_i64().and_then(|degree| u32::try_from(degree).ok());
                degree.filter(|degree| has_cheap_root(&radicand, *degree)).and_then(|degree| radicand.root(degree))
            }
            Node::Call(func, arguments) => return self.call(*func, arguments),
            Node::Series { is_sum, var, low, high, body } => {
                let (Some(low), Some(high)) = (self.value(low)?, self.value(high)?) else {
                    return Ok(None);
                };
                let (Some(low), Some(high)) = (low.to_i64(), high.to_i64()) else {
                    return if low.is_integer() && high.is_integer() { Err(Trouble::TooLarge) } else { Ok(None) };
                };
                if high.saturating_sub(low) > self.limits.terms as i64 {
                    return Err(Trouble::TooLarge);
                }
                let mut total = if *is_sum { Rational::zero() } else { Rational::one() };
                for index in low..=high {
                    self.clock.check()?;
                    self.variables.push((var.clone(), Rational::from(index)));
                    let term = self.value(body);
                    self.variables.pop();
                    let Some(term) = term? else { return Ok(None) };
                    cheap(&total, &term)?;
                    total = if *is_sum { total.add(&term) } else { total.mul(&term) };
                    if total.bits() > self.limits.integer_bits {
                        return Err(Trouble::TooLarge);
                    }
                }
                Some(total)
            }
            _ => None,
        })
    }

    fn product(&mut self, items: &[Node]) -> Result<Option<Rational>, Trouble> {
        let mut product = Some(Rational::one());
        let mut has_nought = false;
        let mut is_too_large = false;
        for item in items {
            match self.value(item) {
                Ok(Some(value)) if value.is_zero() => has_nought = true,
                Ok(value) => {
                    product = match product.zip(value) {
                        Some((product, value)) if !has_nought => {
                            cheap(&product, &value)?;
                            Some(product.mul(&value))
                        }
                        Some((product, _)) => Some(product),
                        None => None,
                    }
                }
                Err(Trouble::TooLarge) => is_too_large = true,
                Err(error) => return Err(error),
            }
            if !has_nought && product.as_ref().is_some_and(|product| product.bits() > self.limits.integer_bits) {
                is_too_large = true;
                product = Some(Rational::one());
            }
        }
        // Nought times a number too large to write is nought; times one that is not defined it is not.
        match (has_nought, product) {
            (true, Some(_)) => Ok(Some(Rational::zero())),
            (false, _) if is_too_large => Err(Trouble::TooLarge),
            (false, product) => Ok(product),
            (true, None) => Ok(None),
        }
    }

    fn power(&mut self, base: &Rational, exponent: &Rational) -> Result<Option<Rational>, Trouble> {
        if base.is_one() || exponent.is_zero() {
            return if base.is_zero() { Err(Trouble::Undefined) } else { Ok(Some(Rational::one())) };
        }
        if base.is_zero() {
            return if exponent.is_negative() { Err(Trouble::Undefined) } else { Ok(Some(Rational::zero())) };
        }
        let base = if exponent.is_integer() {
            base.clone()
        } else {
            let degree = exponent.den().to_u32().filter(|degree| has_cheap_root(base, *degree));
            match degree.and_then(|degree| base.root(degree)) {
                Some(root) => root,
                None => return Ok(None),
            }
        };
        if base.abs().is_one() {
            let is_odd = exponent.num().is_odd();
            return Ok(Some(if base.is_negative() && is_odd { base } else { Rational::one() }));
        }
        let Some(power) = exponent.num().to_i64() else {
            return Err(Trouble::TooLarge);
        };
        if (base.bits() - 1).max(1).saturating_mul(power.unsigned_abs()) > self.limits.integer_bits {
            return Err(Trouble::TooLarge);
        }
        base.pow(power).ok_or(Trouble::Undefined).map(Some)
    }

    fn call(&mut self, func: Func, arguments: &[Node]) -> Result<Option<Rational>, Trouble> {
        let mut values = Vec::with_capacity(arguments.len());
        for argument in arguments {
            match self.value(argument)? {
                Some(value) => values.push(value),
                None => return Ok(None),
            }
        }
        let integers = || {
            values.iter().map(|value| value.is_integer().then(|| value.num().clone())).collect::<Option<Vec<BigInt>>>()
        };
        Ok(match (func, &values[..]) {
            (Func::Abs, [a]) => Some(a.abs()),
            (Func::Floor, [a]) => Some(Rational::integer(a.floor())),
            (Func::Ceil, [a]) => Some(Rational::integer(-a.neg().floor())),
            (Func::Conj | Func::Re, [a]) => Some(a.clone()),
            (Func::Im, [_]) => Some(Rational::zero()),
            (Func::Sign, [a]) => Some(Rational::from(if a.is_zero() {
                0
            } else if a.is_negative() {
                -1
            } else {
                1
            })),
            (Func::Max, _) => values.into_iter().max_by(|a, b| a.cmp(b)),
            (Func::Min, _) => values.into_iter().min_by(|a, b| a.cmp(b)),
            (Func::Factorial | Func::DoubleFactorial, [a]) => {
                let Some(n) = a.to_i64().filter(|n| *n >= 0) else {
                    return if a.is_integer() && !a.is_negative() {
                        Err(Trouble::TooLarge)
                    } else {
                        Err(Trouble::Undefined)
                    };
                };
                // log2 n! is near n (log2 n - 1.44)
                let bits = n as f64 * ((n.max(2) as f64).log2() - 1.0).max(1.0);
                if bits > self.limits.integer_bits as f64 {
                    return Err(Trouble::TooLarge);
                }
                let step = if func == Func::Factorial { 1 } else { 2 };
                let mut product = BigInt::one();
                let mut factor = n;
                while factor > 1 {
                    product *= factor;
                    factor -= step;
                }
                Some(Rational::integer(product))
            }
            (Func::Binomial, [n, k]) => {
                let Some(k) = k.to_i64() else { return Ok(None) };
                if k < 0 {
                    return Ok(Some(Rational::zero()));
                }
                let k = match n.to_i64() {
                    Some(n) if n >= 0 && k > n => return Ok(Some(Rational::zero())),
                    Some(n) if n >= 0 => k.min(n - k),
                    _ => k,
                };
                if k > 20_000 || (k as u64).saturating_mul(n.bits()) > 4 * self.limits.integer_bits {
                    return Err(Trouble::TooLarge);
                }
                if n.is_integer() {
                    // Each step divides exactly, so that no common divisor is looked for.
                    let mut product = BigInt::one();
                    for index in 0..k {
                        if index % 256 == 0 {
                            self.clock.check()?;
                        }
                        product = product * (n.num() - index) / (index + 1);
                    }
                    return self.fits(Rational::integer(product));
                }
                let mut product = Rational::one();
                for index in 0..k {
                    self.clock.check()?;
                    cheap(&product, n)?;
                    product = product.mul(&n.sub(&Rational::from(index))).mul(&Rational::ratio(1, index + 1));
                }
                return self.fits(product);
            }
            (Func::Gcd, _) => {
                integers().map(|values| Rational::integer(values.iter().fold(BigInt::zero(), |a, b| a.gcd(b))))
            }
            (Func::Lcm, _) => match integers() {
                Some(values) => {
                    let mut all = BigInt::one();
                    for value in values {
                        all = all.lcm(&value);
                        if all.bits() > self.limits.integer_bits {
                            return Err(Trouble::TooLarge);
                        }
                    }
                    Some(Rational::integer(all))
                }
                None => None,
            },
            (Func::Mod, [_, _]) => match integers() {
                Some(values) if !values[1].is_zero() => Some(Rational::integer(values[0].mod_floor(&values[1].abs()))),
                _ => None,
            },
            (Func::Log, [base, a]) => self.logarithm(base, a)?,
            _ => None,
        })
    }

    /// The logarithm of a power of its base: log_2 8 = 3.
    fn logarithm(&self, base: &Rational, a: &Rational) -> Result<Option<Rational>, Trouble> {
        if a.is_zero() || a.is_negative() || base.is_zero() || base.is_negative() || base.is_one() {
            return Err(Trouble::Undefined);
        }
        let (base, sign) = match base.num() < base.den() {
            true => (base.inverse().ok_or(Trouble::Undefined)?, -1),
            false => (base.clone(), 1),
        };
        let (a, sign) = match a.num() < a.den() {
            true => (a.inverse().ok_or(Trouble::Undefined)?, -sign),
            false => (a.clone(), sign),
        };
        let mut power = Rational::one();
        for exponent in 0..=256 {
            if power == a {
                return Ok(Some(Rational::from(sign * exponent)));
            }
            if power.cmp(&a).is_gt() || power.bits() > 4096 {
                break;
            }
            power = power.mul(&base);
        }
        Ok(None)
    }
}

/// Refuses sums and products of fractions whose common divisor would take milliseconds to find.
fn cheap(a: &Rational, b: &Rational) -> Result<(), Trouble> {
    let is_cheap = (a.is_integer() && b.is_integer()) || a.bits() + b.bits() < 24_000;
    if is_cheap { Ok(()) } else { Err(Trouble::TooLarge) }
}

/// Whether an exact root is worth looking for.
fn has_cheap_root(value: &Rational, degree: u32) -> bool {
    (degree <= 64 && value.bits() <= 20_000) || (degree <= 10_000 && value.bits() <= 2048)
}
