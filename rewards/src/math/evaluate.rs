//! The value of an expression, with an error bound.

use num_bigint::BigInt;
use num_integer::Integer;
use num_traits::{Signed, ToPrimitive};

use super::Limits;
use super::ast::{Func, Node};
use super::ball::{Ball, Precision, Trouble};
use super::complex::Complex;
use super::exact::{Clock, exact};
use super::rational::Rational;

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
