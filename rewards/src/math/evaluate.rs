//! The value of an expression: exactly where it is rational, else with an error bound.

use num_bigint::BigInt;
use num_integer::Integer;
use num_traits::{One, Signed, ToPrimitive, Zero};

use super::Limits;
use super::ast::{Func, Node};
use super::ball::{Ball, Precision, Trouble};
use super::complex::Complex;
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
        let mut trouble = None;
        for item in items {
            match self.value(item) {
                // Nought times a number too large to write is nought.
                Ok(Some(value)) if value.is_zero() => {
                    return match trouble {
                        None | Some(Trouble::TooLarge) => Ok(Some(value)),
                        Some(other) => Err(other),
                    };
                }
                Ok(value) => {
                    product = match product.zip(value) {
                        Some((product, value)) => {
                            cheap(&product, &value)?;
                            Some(product.mul(&value))
                        }
                        None => None,
                    }
                }
                Err(error) => trouble = trouble.or(Some(error)),
            }
            if product.as_ref().is_some_and(|product| product.bits() > self.limits.integer_bits) {
                return Err(Trouble::TooLarge);
            }
        }
        match trouble {
            Some(error) => Err(error),
            None => Ok(product),
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

/// Evaluates an expression to a complex ball, with values for its variables.
pub(crate) struct Evaluator<'a> {
    pub(crate) p: &'a Precision,
    pub(crate) variables: Vec<(String, Complex)>,
    pub(crate) limits: &'a Limits,
    pub(crate) clock: &'a Clock,
    /// Inside a trigonometric function, where a degree is pi/180.
    in_angle: bool,
    /// Whether even roots and logarithms of negatives are undefined.
    pub(crate) is_real: bool,
    steps: u32,
}

impl<'a> Evaluator<'a> {
    pub(crate) fn new(
        p: &'a Precision,
        variables: Vec<(String, Complex)>,
        limits: &'a Limits,
        clock: &'a Clock,
    ) -> Self {
        Evaluator { p, variables, limits, clock, in_angle: false, is_real: false, steps: 0 }
    }

    pub(crate) fn value(&mut self, node: &Node) -> Result<Complex, Trouble> {
        self.steps += 1;
        if self.steps.is_multiple_of(16) {
            self.clock.check()?;
        }
        let p = self.p;
        Ok(match node {
            Node::Num(value) | Node::Dec { value, .. } => Complex::real(Ball::rational(value, p)),
            Node::Sym(name) => self
                .variables
                .iter()
                .rev()
                .find(|(known, _)| known == name)
                .map(|(_, value)| value.clone())
                .ok_or(Trouble::Undefined)?,
            Node::Pi => Complex::real(p.pi()),
            Node::E => Complex::real(Ball::integer(1).exp(p)?),
            Node::I => Complex::i(),
            Node::Add(items) => {
                let mut sum = Complex::real(Ball::zero());
                for item in items {
                    sum = sum.add(&self.value(item)?, p);
                }
                sum
            }
            Node::Mul(items) => {
                let mut product = Complex::real(Ball::integer(1));
                for item in items {
                    product = match item {
                        Node::Inverse(inner) => {
                            let divisor = self.value(inner)?;
                            match &divisor.im {
                                None => {
                                    let re = product.re.div(&divisor.re, p)?;
                                    let im = product.im.as_ref().map(|im| im.div(&divisor.re, p)).transpose()?;
                                    Complex { re, im }
                                }
                                Some(_) => product.mul(&divisor.inverse(p)?, p)?,
                            }
                        }
                        other => product.mul(&self.value(other)?, p)?,
                    };
                }
                product
            }
            Node::Neg(a) => self.value(a)?.neg(),
            Node::Inverse(a) => self.value(a)?.inverse(p)?,
            Node::Percent(a) => {
                let value = self.value(a)?;
                value.mul(&Complex::real(Ball::rational(&Rational::ratio(1, 100), p)), p)?
            }
            Node::Degrees(a) => {
                let value = self.value(a)?;
                if self.in_angle { value.mul(&Complex::real(p.pi().div(&Ball::integer(180), p)?), p)? } else { value }
            }
            Node::Pow(base, exponent) => self.power(base, exponent)?,
            Node::Root(radicand, degree) => {
                let value = self.value(radicand)?;
                let degree = match exact(degree, self.limits, self.clock)? {
                    Some(degree) => degree,
                    None => {
                        let exponent = self.value(degree)?.inverse(p)?;
                        return value.ln(p)?.mul(&exponent, p)?.exp(p);
                    }
                };
                self.rational_power(value, &degree.inverse().ok_or(Trouble::Undefined)?)?
            }
            Node::Call(func, arguments) => self.call(*func, arguments)?,
            Node::Apply(name, arguments) => {
                // An unknown function: some smooth function of its own for each name.
                let mut sum = Complex::real(Ball::integer(1));
                for (index, argument) in arguments.iter().enumerate() {
                    let seed = name.bytes().fold(index as i64 + 3, |seed, byte| (seed * 31 + i64::from(byte)) % 9973);
                    let shift = Ball::rational(&Rational::ratio(seed, 9973), p);
                    let value = self.value(argument)?.add(&Complex::real(shift), p);
                    let squared = value.mul(&value, p)?.add(&Complex::real(Ball::integer(1)), p);
                    sum = sum.add(&squared.ln(p)?.add(&value, p), p);
                }
                sum
            }
            Node::Series { is_sum, var, low, high, body } => self.series(*is_sum, var, low, high, body)?,
            _ => return Err(Trouble::Undefined),
        })
    }

    fn series(&mut self, is_sum: bool, var: &str, low: &Node, high: &Node, body: &Node) -> Result<Complex, Trouble> {
        let bound = |value: Complex| {
            value.re.near_integer().or(value.re.floor().ok()).and_then(|value| value.to_i64()).ok_or(Trouble::TooLarge)
        };
        let (low, high) = (bound(self.value(low)?)?, bound(self.value(high)?)?);
        if high.saturating_sub(low) > self.limits.terms as i64 {
            return Err(Trouble::TooLarge);
        }
        let mut total = Complex::real(Ball::integer(if is_sum { 0 } else { 1 }));
        for index in low..=high {
            self.variables.push((var.to_string(), Complex::real(Ball::integer(index))));
            let term = self.value(body);
            self.variables.pop();
            total = if is_sum { total.add(&term?, self.p) } else { total.mul(&term?, self.p)? };
        }
        Ok(total)
    }

    fn power(&mut self, base: &Node, exponent: &Node) -> Result<Complex, Trouble> {
        let p = self.p;
        // Exact exponents first: small powers by squaring, rational ones by roots.
        let known = match exponent.has_variables() {
            true => None,
            false => exact(exponent, self.limits, self.clock)?,
        };
        if let Some(exponent) = known {
            if base == &Node::E && !exponent.is_integer() {
                return Ok(Complex::real(Ball::rational(&exponent, p).exp(p)?));
            }
            let value = self.value(base)?;
            return self.rational_power(value, &exponent);
        }
        let exponent = self.value(exponent)?;
        if base == &Node::E {
            return exponent.exp(p);
        }
        let value = self.value(base)?;
        // An exponent that is a whole number though it does not look it.
        if exponent.im.is_none()
            && let Some(whole) =
                exponent.re.near_integer().and_then(|whole| whole.to_i64()).filter(|whole| whole.abs() < 1 << 20)
        {
            return value.powi(whole, p);
        }
        if value.re.is_exact_zero() && value.im.is_none() {
            return match exponent.re.sign() {
                Some(1) => Ok(Complex::real(Ball::zero())),
                _ => Err(Trouble::Undefined),
            };
        }
        if self.is_real && value.re.sign() == Some(-1) {
            return Err(Trouble::Undefined);
        }
        value.ln(p)?.mul(&exponent, p)?.exp(p)
    }

    fn rational_power(&mut self, value: Complex, exponent: &Rational) -> Result<Complex, Trouble> {
        let p = self.p;
        if exponent.is_integer() {
            let power = exponent.to_i64().filter(|power| power.abs() < 1 << 32).ok_or(Trouble::TooLarge)?;
            return value.powi(power, p);
        }
        let num = exponent.num().to_i64().filter(|num| num.abs() < 1 << 20);
        if self.is_real && exponent.den().is_even() && value.re.sign() == Some(-1) {
            return Err(Trouble::Undefined);
        }
        if *exponent.den() == BigInt::from(2)
            && let Some(num) = num
        {
            return value.sqrt(p)?.powi(num, p);
        }
        if value.im.is_none() {
            let sign = value.re.sign();
            if sign == Some(0) {
                return if exponent.is_negative() { Err(Trouble::Undefined) } else { Ok(Complex::real(Ball::zero())) };
            }
            // Odd roots of negative reals are real.
            if sign == Some(-1) && exponent.den().is_odd() {
                let size = value.re.neg().ln(p)?.mul(&Ball::rational(exponent, p), p)?.exp(p)?;
                return Ok(Complex::real(if exponent.num().is_odd() { size.neg() } else { size }));
            }
            if sign.is_none() {
                return Err(Trouble::Imprecise);
            }
        }
        value.ln(p)?.mul(&Complex::real(Ball::rational(exponent, p)), p)?.exp(p)
    }

    fn call(&mut self, func: Func, arguments: &[Node]) -> Result<Complex, Trouble> {
        let p = self.p;
        let is_trigonometric = matches!(func, Func::Sin | Func::Cos | Func::Tan | Func::Cot | Func::Sec | Func::Csc);
        let outer = std::mem::replace(&mut self.in_angle, is_trigonometric);
        let values: Result<Vec<Complex>, Trouble> = arguments.iter().map(|argument| self.value(argument)).collect();
        self.in_angle = outer;
        let values = values?;
        let real = |value: &Complex| match &value.im {
            None => Ok(value.re.clone()),
            Some(im) if im.sign().is_none() => Ok(value.re.clone()),
            Some(_) => Err(Trouble::Undefined),
        };
        if self.is_real
            && matches!(func, Func::Ln | Func::Log | Func::Acosh)
            && values.iter().any(|value| value.re.sign() == Some(-1))
        {
            return Err(Trouble::Undefined);
        }
        let one = Complex::real(Ball::integer(1));
        let [a, ..] = &values[..] else {
            return Err(Trouble::Undefined);
        };
        Ok(match func {
            Func::Sin => self.sin_cos(a)?.0,
            Func::Cos => self.sin_cos(a)?.1,
            Func::Tan => {
                let (sin, cos) = self.sin_cos(a)?;
                sin.mul(&cos.inverse(p)?, p)?
            }
            Func::Cot => {
                let (sin, cos) = self.sin_cos(a)?;
                cos.mul(&sin.inverse(p)?, p)?
            }
            Func::Sec => self.sin_cos(a)?.1.inverse(p)?,
            Func::Csc => self.sin_cos(a)?.0.inverse(p)?,
            Func::Asin => Complex::real(self.asin(&real(a)?)?),
            Func::Acos => Complex::real(p.pi().scaled(-1).sub(&self.asin(&real(a)?)?, p)),
            Func::Atan => Complex::real(real(a)?.atan(p)?),
            Func::Acot => Complex::real(p.pi().scaled(-1).sub(&real(a)?.atan(p)?, p)),
            Func::Asec => Complex::real(p.pi().scaled(-1).sub(&self.asin(&Ball::integer(1).div(&real(a)?, p)?)?, p)),
            Func::Acsc => Complex::real(self.asin(&Ball::integer(1).div(&real(a)?, p)?)?),
            Func::Sinh | Func::Cosh | Func::Tanh | Func::Coth => {
                let (up, down) = (a.exp(p)?, a.neg().exp(p)?);
                let half = |value: Complex| Complex { re: value.re.scaled(-1), im: value.im.map(|im| im.scaled(-1)) };
                let (sinh, cosh) = (half(up.add(&down.neg(), p)), half(up.add(&down, p)));
                match func {
                    Func::Sinh => sinh,
                    Func::Cosh => cosh,
                    Func::Tanh => sinh.mul(&cosh.inverse(p)?, p)?,
                    _ => cosh.mul(&sinh.inverse(p)?, p)?,
                }
            }
            Func::Asinh => a.add(&a.mul(a, p)?.add(&one, p).sqrt(p)?, p).ln(p)?,
            Func::Acosh => a.add(&a.mul(a, p)?.add(&one.neg(), p).sqrt(p)?, p).ln(p)?,
            Func::Atanh => {
                let ratio = one.add(a, p).mul(&one.add(&a.neg(), p).inverse(p)?, p)?.ln(p)?;
                Complex { re: ratio.re.scaled(-1), im: ratio.im.map(|im| im.scaled(-1)) }
            }
            Func::Exp => a.exp(p)?,
            Func::Ln => a.ln(p)?,
            Func::Log => match &values[..] {
                [base, a] if arguments[0] == Node::E => {
                    let _ = base;
                    a.ln(p)?
                }
                [base, a] => a.ln(p)?.mul(&base.ln(p)?.inverse(p)?, p)?,
                _ => return Err(Trouble::Undefined),
            },
            Func::Abs => Complex::real(a.abs(p)?),
            Func::Floor => Complex::real(self.floor(&real(a)?)?),
            Func::Ceil => Complex::real(self.floor(&real(a)?.neg())?.neg()),
            Func::Conj => a.conj(),
            Func::Re => Complex::real(a.re.clone()),
            Func::Im => Complex::real(a.im()),
            Func::Arg => Complex::real(a.arg(p)?),
            Func::Sign => Complex::real(Ball::integer(i64::from(real(a)?.sign().ok_or(Trouble::Imprecise)?))),
            Func::Max | Func::Min => {
                let mut best = real(a)?;
                for other in &values[1..] {
                    let other = real(other)?;
                    let is_more = other.sub(&best, p).sign().is_some_and(|sign| sign > 0);
                    if is_more == (func == Func::Max) {
                        best = other;
                    }
                }
                Complex::real(best)
            }
            Func::Factorial | Func::DoubleFactorial | Func::Binomial | Func::Gcd | Func::Lcm | Func::Mod => {
                let mut integers = Vec::new();
                for value in &values {
                    let whole = real(value)?
                        .near_integer()
                        .or_else(|| real(value).ok()?.floor().ok().filter(|_| value.re.err() < -1000));
                    match whole {
                        Some(whole) => integers.push(Node::Num(Rational::integer(whole))),
                        None => return Err(Trouble::Undefined),
                    }
                }
                let value = exact(&Node::Call(func, integers), self.limits, self.clock)?.ok_or(Trouble::Undefined)?;
                Complex::real(Ball::rational(&value, p))
            }
        })
    }

    fn floor(&self, value: &Ball) -> Result<Ball, Trouble> {
        let whole = match value.near_integer() {
            Some(whole) => whole,
            None => value.floor()?,
        };
        Ok(Ball::rational(&Rational::integer(whole), self.p))
    }

    fn asin(&self, x: &Ball) -> Result<Ball, Trouble> {
        // asin x = atan(x / sqrt(1 - x^2)), and pi/2 with its sign at the ends
        let rest = Ball::integer(1).sub(&x.mul(x, self.p)?, self.p);
        match rest.sign() {
            Some(-1) => Err(Trouble::Undefined),
            Some(1) => x.div(&rest.sqrt(self.p)?, self.p)?.atan(self.p),
            _ => {
                let half_pi = self.p.pi().scaled(-1);
                if rest.is_exact_zero() {
                    return Ok(if x.sign() == Some(-1) { half_pi.neg() } else { half_pi });
                }
                Err(Trouble::Imprecise)
            }
        }
    }

    fn sin_cos(&self, value: &Complex) -> Result<(Complex, Complex), Trouble> {
        let p = self.p;
        match &value.im {
            None => {
                let (sin, cos) = value.re.sin_cos(p)?;
                Ok((Complex::real(sin), Complex::real(cos)))
            }
            Some(_) => {
                // sin z = (e^iz - e^-iz) / 2i
                let turned = value.mul(&Complex::i(), p)?;
                let (up, down) = (turned.exp(p)?, turned.neg().exp(p)?);
                let half = Complex::real(Ball::integer(1).scaled(-1));
                let cos = up.add(&down, p).mul(&half, p)?;
                let sin = up.add(&down.neg(), p).mul(&half, p)?.mul(&Complex::i().neg(), p)?;
                Ok((sin, cos))
            }
        }
    }
}
