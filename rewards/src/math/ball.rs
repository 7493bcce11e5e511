//! Real and complex numbers with a bound on their error, to any precision.
//!
//! A [`Ball`] is a binary floating-point number `m * 2^e` and a bound `2^err` on the distance to the
//! true value. Every operation widens the bound by what it rounds away, so two balls that do not
//! meet are different numbers, and that is a proof. Bounds are kept as powers of two and are a few
//! bits wider than need be.

use num_bigint::{BigInt, Sign};
use num_integer::Integer;
use num_traits::{One, Signed, ToPrimitive, Zero};

use super::rational::Rational;

/// Why a value cannot be computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// Not defined: division by zero, logarithm of zero, an expression we cannot evaluate.
    Undefined,
    /// Defined or not, depending on digits that this precision does not show.
    Imprecise,
    /// Beyond the size limits.
    TooLarge,
    /// The soft time limit was reached.
    Timeout,
}

const EXACT: i64 = i64::MIN / 4;
/// Values with exponents beyond this are too large to be answers.
const MAX_EXPONENT: i64 = 1 << 24;

/// A real number with an error bound.
#[derive(Debug, Clone)]
pub(crate) struct Ball {
    m: BigInt,
    e: i64,
    err: i64,
}

/// The working precision in bits, and the constants at that precision.
pub(crate) struct Precision {
    pub(crate) bits: u64,
    pi: std::cell::OnceCell<Ball>,
    ln2: std::cell::OnceCell<Ball>,
}

impl Precision {
    pub(crate) fn new(bits: u64) -> Self {
        Precision { bits, pi: std::cell::OnceCell::new(), ln2: std::cell::OnceCell::new() }
    }

    /// Fixed-point scale of inner sums: some bits more than the result keeps.
    fn scale(&self) -> u64 {
        self.bits + 32
    }

    /// pi by Machin's formula.
    pub(crate) fn pi(&self) -> Ball {
        self.pi
            .get_or_init(|| {
                let scale = self.scale();
                let sum: BigInt = (arctan_inverse(5, scale) * 16u32) - (arctan_inverse(239, scale) * 4u32);
                Ball { m: sum, e: -(scale as i64), err: 12 - scale as i64 }
            })
            .clone()
    }

    /// ln 2 = 18 artanh(1/26) - 2 artanh(1/4801) + 8 artanh(1/8749).
    pub(crate) fn ln2(&self) -> Ball {
        self.ln2
            .get_or_init(|| {
                let scale = self.scale();
                let sum: BigInt = artanh_inverse(26, scale) * 18u32 - artanh_inverse(4801, scale) * 2u32
                    + artanh_inverse(8749, scale) * 8u32;
                Ball { m: sum, e: -(scale as i64), err: 14 - scale as i64 }
            })
            .clone()
    }
}

fn arctan_inverse(n: u32, scale: u64) -> BigInt {
    inverse_series(n, scale, true)
}

fn artanh_inverse(n: u32, scale: u64) -> BigInt {
    inverse_series(n, scale, false)
}

/// sum of (+-1)^k / ((2k+1) n^(2k+1)), scaled by 2^scale.
fn inverse_series(n: u32, scale: u64, is_alternating: bool) -> BigInt {
    let square = u64::from(n) * u64::from(n);
    let mut power = (BigInt::one() << scale) / n;
    let mut sum = power.clone();
    let mut k = 1u32;
    while !power.is_zero() {
        power /= square;
        let term = &power / (2 * k + 1);
        if is_alternating && k % 2 == 1 {
            sum -= term
        } else {
            sum += term
        }
        k += 1;
    }
    sum
}

impl Ball {
    pub(crate) fn integer(value: i64) -> Self {
        Ball { m: value.into(), e: 0, err: EXACT }
    }

    pub(crate) fn zero() -> Self {
        Self::integer(0)
    }

    pub(crate) fn rational(value: &Rational, p: &Precision) -> Self {
        let num = Ball { m: value.num().clone(), e: 0, err: EXACT }.round(p);
        if value.is_integer() {
            return num;
        }
        let den = Ball { m: value.den().clone(), e: 0, err: EXACT };
        num.div(&den, p).expect("a denominator is not 0")
    }

    /// The power of two above the magnitude of the middle.
    fn top(&self) -> i64 {
        if self.m.is_zero() { EXACT } else { self.e.saturating_add(self.m.bits() as i64) }
    }

    /// The power of two above the magnitude of any value of the ball.
    pub(crate) fn bound(&self) -> i64 {
        self.top().max(self.err).saturating_add(1)
    }

    pub(crate) fn is_exact_zero(&self) -> bool {
        self.m.is_zero() && self.err == EXACT
    }

    pub(crate) fn err(&self) -> i64 {
        self.err
    }

    fn round(mut self, p: &Precision) -> Self {
        let bits = self.m.bits();
        if bits > p.bits {
            let shift = bits - p.bits;
            let whole = &self.m >> shift;
            let is_exact = self.err == EXACT && (&whole << shift) == self.m;
            self.m = whole;
            self.e += shift as i64;
            if !is_exact {
                self.err = wider(self.err, self.e);
            }
        }
        self
    }

    fn checked(self, p: &Precision) -> Result<Self, Trouble> {
        if self.bound() > MAX_EXPONENT { Err(Trouble::TooLarge) } else { Ok(self.round(p)) }
    }

    /// -1 or 1 when the sign is certain, 0 for an exact zero, `None` when the ball contains zero.
    pub(crate) fn sign(&self) -> Option<i32> {
        if self.err == EXACT {
            return Some(match self.m.sign() {
                Sign::Minus => -1,
                Sign::NoSign => 0,
                Sign::Plus => 1,
            });
        }
        // |middle| >= 2^(top - 1) > 2^err
        if self.m.is_zero() || self.top() - 1 <= self.err {
            return None;
        }
        Some(if self.m.is_negative() { -1 } else { 1 })
    }

    pub(crate) fn neg(&self) -> Self {
        Ball { m: -&self.m, e: self.e, err: self.err }
    }

    pub(crate) fn add(&self, other: &Self, p: &Precision) -> Self {
        let (high, low) = if self.e >= other.e { (self, other) } else { (other, self) };
        if high.m.is_zero() || low.m.is_zero() {
            let mut sum = if high.m.is_zero() { low.clone() } else { high.clone() };
            sum.err = both(high.err, low.err);
            return sum;
        }
        let gap = high.e - low.e;
        if gap > 4 * p.bits as i64 + 64 {
            // One is lost in the other's last bit, unless the wide one is small.
            let (large, small) = if high.top() >= low.top() { (high, low) } else { (low, high) };
            if small.top() < large.top() - 2 * p.bits as i64 - 8 {
                let mut sum = large.clone();
                sum.err = both(both(large.err, small.err), small.top());
                return sum.round(p);
            }
        }
        let sum = Ball { m: (&high.m << gap as u64) + &low.m, e: low.e, err: both(high.err, low.err) };
        sum.round(p)
    }

    pub(crate) fn sub(&self, other: &Self, p: &Precision) -> Self {
        self.add(&other.neg(), p)
    }

    pub(crate) fn mul(&self, other: &Self, p: &Precision) -> Result<Self, Trouble> {
        let mut err = EXACT;
        if self.err != EXACT {
            err = both(err, self.err + other.bound());
        }
        if other.err != EXACT {
            err = both(err, other.err + self.bound());
        }
        Ball { m: &self.m * &other.m, e: self.e + other.e, err: err.max(EXACT) }.checked(p)
    }

    pub(crate) fn div(&self, other: &Self, p: &Precision) -> Result<Self, Trouble> {
        match other.sign() {
            None => return Err(Trouble::Imprecise),
            Some(0) => return Err(Trouble::Undefined),
            Some(_) => {}
        }
        if self.is_exact_zero() {
            return Ok(self.clone());
        }
        let shift = (p.bits + 2 + other.m.bits()).saturating_sub(self.m.bits());
        let quotient = (&self.m << shift) / &other.m;
        let e = self.e - other.e - shift as i64;
        // |a/b - a'/b'| <= ea/|b| + |a'| eb / (|b| |b'|), with |b'| at least half of |b|'s lower bound.
        let low = other.top() - 2;
        let mut err = e + 1;
        if self.err != EXACT {
            err = both(err, self.err - low);
        }
        if other.err != EXACT {
            err = both(err, self.bound() + other.err - 2 * low + 1);
        }
        Ball { m: quotient, e, err }.checked(p)
    }

    pub(crate) fn scaled(&self, power: i64) -> Self {
        Ball { m: self.m.clone(), e: self.e + power, err: if self.err == EXACT { EXACT } else { self.err + power } }
    }

    /// The middle as a fixed-point number with `scale` fraction bits.
    fn fixed(&self, scale: u64) -> BigInt {
        let shift = self.e + scale as i64;
        if shift >= 0 { &self.m << shift as u64 } else { &self.m >> shift.unsigned_abs() }
    }

    /// The middle as a fraction; `None` for exponents beyond reason.
    pub(crate) fn to_rational(&self) -> Option<Rational> {
        match self.e {
            e if e.abs() > 1 << 17 => None,
            e if e >= 0 => Some(Rational::integer(&self.m << e as u64)),
            e => Rational::new(self.m.clone(), BigInt::one() << e.unsigned_abs()),
        }
    }

    /// The middle as a float; huge values become infinite and tiny ones zero.
    pub(crate) fn to_f64(&self) -> f64 {
        let bits = self.m.bits() as i64;
        let drop = (bits - 64).max(0);
        let m = (&self.m >> drop as u64).to_f64().unwrap_or(f64::NAN);
        let e = self.e + drop;
        if e > 2000 {
            return if m == 0.0 { 0.0 } else { m.signum() * f64::INFINITY };
        }
        if e < -2200 {
            return 0.0;
        }
        m * 2f64.powi((e / 2) as i32) * 2f64.powi((e - e / 2) as i32)
    }

    pub(crate) fn abs(&self) -> Self {
        Ball { m: self.m.abs(), e: self.e, err: self.err }
    }

    /// The square root of a value that is not negative.
    pub(crate) fn sqrt(&self, p: &Precision) -> Result<Self, Trouble> {
        match self.sign() {
            Some(0) => return Ok(Ball::zero()),
            Some(1) => {}
            Some(_) => return Err(Trouble::Undefined),
            None => {
                // A ball around zero: the root lies within the root of its bound.
                let bound = self.bound();
                return Ok(Ball { m: BigInt::zero(), e: 0, err: bound.div_euclid(2) + 1 });
            }
        }
        let want = 2 * p.bits + 4;
        let mut shift = want.saturating_sub(self.m.bits()) as i64;
        if (self.e - shift) % 2 != 0 {
            shift += 1;
        }
        let root = (&self.m << shift as u64).sqrt();
        let e = (self.e - shift) / 2;
        let is_exact = self.err == EXACT && &root * &root == &self.m << shift as u64;
        let mut result = Ball { m: root, e, err: EXACT };
        if !is_exact {
            // |sqrt a - sqrt b| <= |a - b| / sqrt(lower bound)
            result.err = e;
            if self.err != EXACT {
                result.err = both(result.err, self.err - (self.top() - 2).div_euclid(2));
            }
        }
        result.checked(p)
    }

    /// The largest integer not above, when the ball does not straddle one.
    pub(crate) fn floor(&self) -> Result<BigInt, Trouble> {
        if self.bound() > 1 << 16 {
            return Err(Trouble::TooLarge);
        }
        let floor_of = |value: &BigInt, e: i64| {
            if e >= 0 { value << e as u64 } else { value.div_floor(&(BigInt::one() << e.unsigned_abs())) }
        };
        if self.err == EXACT {
            return Ok(floor_of(&self.m, self.e));
        }
        let e = self.e.min(self.err);
        let m = &self.m << (self.e - e) as u64;
        let slack = BigInt::one() << (self.err - e) as u64;
        let (low, high) = (floor_of(&(&m - &slack), e), floor_of(&(&m + &slack), e));
        if low == high { Ok(low) } else { Err(Trouble::Imprecise) }
    }

    /// The nearest integer, when it is within the error and the error is below 2^-100.
    pub(crate) fn near_integer(&self) -> Option<BigInt> {
        if self.bound() > 1 << 16 || self.err > -100 {
            return None;
        }
        let half = self.add(&Ball { m: BigInt::one(), e: -1, err: EXACT }, &Precision::new(1 << 20));
        let whole = if half.e >= 0 {
            &half.m << half.e as u64
        } else {
            half.m.div_floor(&(BigInt::one() << half.e.unsigned_abs()))
        };
        let rest = self.add(&Ball { m: -&whole, e: 0, err: EXACT }, &Precision::new(1 << 20));
        (rest.m.is_zero() || rest.top() <= self.err + 1).then_some(whole)
    }

    pub(crate) fn exp(&self, p: &Precision) -> Result<Self, Trouble> {
        if self.is_exact_zero() {
            return Ok(Ball::integer(1));
        }
        if self.top() > 24 || self.err > 8 {
            return Err(if self.err > 8 { Trouble::Imprecise } else { Trouble::TooLarge });
        }
        let turns = (self.to_f64() / std::f64::consts::LN_2).round() as i64;
        let rest = self.sub(&p.ln2().mul(&Ball::integer(turns), p)?, p);
        // exp(r) = exp(r / 2^8)^(2^8), by Taylor's series in fixed point.
        let scale = p.scale() + 16;
        let r = rest.fixed(scale) >> 8u32;
        let mut term = BigInt::one() << scale;
        let mut sum = term.clone();
        let mut k = 1u32;
        loop {
            term = ((term * &r) >> scale) / k;
            if term.is_zero() || (term.is_negative() && (-&term).is_one()) {
                break;
            }
            sum += &term;
            k += 1;
        }
        for _ in 0..8 {
            sum = (&sum * &sum) >> scale;
        }
        // The sum errs by at most some 2^6 units, each squaring doubles that.
        let mut err = 20 - scale as i64;
        if rest.err != EXACT {
            err = both(err, rest.err + 2);
        }
        Ball { m: sum, e: -(scale as i64), err }.scaled(turns).checked(p)
    }

    /// The natural logarithm of a positive value, by Newton's method on [`Ball::exp`].
    pub(crate) fn ln(&self, p: &Precision) -> Result<Self, Trouble> {
        match self.sign() {
            Some(1) => {}
            Some(_) => return Err(Trouble::Undefined),
            None => return Err(Trouble::Imprecise),
        }
        let top = self.top();
        // x = y * 2^top with y in [1/2, 1)
        let y = self.scaled(-top);
        let middle = Ball { err: EXACT, ..y.clone() };
        let mut guess = from_f64(middle.to_f64().ln());
        let mut correct = 48u64;
        while correct < p.bits + 16 {
            // g + 2 (y - e^g) / (y + e^g): each step triples the digits.
            let power = guess.exp(p)?;
            let step = middle.sub(&power, p).div(&middle.add(&power, p), p)?.scaled(1);
            guess = guess.add(&step, p);
            guess.err = EXACT;
            correct *= 3;
        }
        let mut err = 8 - p.bits as i64;
        if y.err != EXACT {
            err = both(err, y.err + 2);
        }
        guess.err = err;
        Ok(guess.add(&p.ln2().mul(&Ball::integer(top), p)?, p))
    }

    /// Sine and cosine.
    pub(crate) fn sin_cos(&self, p: &Precision) -> Result<(Self, Self), Trouble> {
        if self.is_exact_zero() {
            return Ok((Ball::zero(), Ball::integer(1)));
        }
        if self.top() > 64 || self.err > 0 {
            return Err(if self.err > 0 { Trouble::Imprecise } else { Trouble::TooLarge });
        }
        // x = quarter * pi/2 + r, |r| <= pi/4
        let wide = Precision::new(p.bits + self.top().max(0) as u64 + 8);
        let half_pi = wide.pi().scaled(-1);
        let quarters = self.div(&half_pi, &wide)?;
        let quarter = quarters.add(&Ball { m: BigInt::one(), e: -1, err: EXACT }, &wide).fixed(0);
        let turned = half_pi.mul(&Ball { m: quarter.clone(), e: 0, err: EXACT }, &wide)?;
        let rest = self.sub(&turned, &wide);
        let scale = p.scale() + 8;
        let r = rest.fixed(scale);
        let square = (&r * &r) >> scale;
        let series = |first: BigInt, start: u32| {
            let mut term = first;
            let mut sum = term.clone();
            let mut k = start;
            while !(term.is_zero() || (term.is_negative() && (-&term).is_one())) {
                term = -((term * &square) >> scale) / ((k + 1) * (k + 2));
                sum += &term;
                k += 2;
            }
            sum
        };
        let mut err = 10 - scale as i64;
        if rest.err != EXACT {
            err = both(err, rest.err);
        }
        let ball = |m: BigInt| Ball { m, e: -(scale as i64), err };
        let (sin, cos) = (ball(series(r.clone(), 1)), ball(series(BigInt::one() << scale, 0)));
        let (sin, cos) = match quarter.mod_floor(&BigInt::from(4)).to_i64() {
            Some(0) => (sin, cos),
            Some(1) => (cos, sin.neg()),
            Some(2) => (sin.neg(), cos.neg()),
            _ => (cos.neg(), sin),
        };
        Ok((sin.round(p), cos.round(p)))
    }

    /// The arc tangent, by Newton's method on [`Ball::sin_cos`].
    pub(crate) fn atan(&self, p: &Precision) -> Result<Self, Trouble> {
        if self.is_exact_zero() {
            return Ok(Ball::zero());
        }
        if self.top() > 2 {
            // atan x = sign(x) pi/2 - atan(1/x)
            let sign = self.sign().ok_or(Trouble::Imprecise)?;
            let inverse = Ball::integer(1).div(self, p)?.atan(p)?;
            let half_pi = p.pi().scaled(-1);
            return Ok(if sign > 0 { half_pi.sub(&inverse, p) } else { half_pi.neg().sub(&inverse, p) });
        }
        let middle = Ball { err: EXACT, ..self.clone() };
        let mut guess = from_f64(middle.to_f64().atan());
        let mut correct = 48u64;
        while correct < p.bits + 16 {
            // tan(atan x - g) = (x cos g - sin g) / (cos g + x sin g); its own arc tangent is d - d^3/3.
            let (sin, cos) = guess.sin_cos(p)?;
            let step = middle.mul(&cos, p)?.sub(&sin, p).div(&cos.add(&middle.mul(&sin, p)?, p), p)?;
            guess = guess.add(&step, p);
            guess.err = EXACT;
            correct *= 3;
        }
        guess.err = both(8 - p.bits as i64, self.err);
        Ok(guess)
    }

    /// Whether two balls meet, and how wide their union's error is.
    pub(crate) fn meets(&self, other: &Self, p: &Precision) -> (bool, i64) {
        let difference = self.sub(other, p);
        let meets = match difference.sign() {
            Some(0) | None => true,
            Some(_) => false,
        };
        (meets, difference.err)
    }
}

/// An upper bound of `2^a + 2^b` as a power of two.
fn both(a: i64, b: i64) -> i64 {
    if a == EXACT {
        b
    } else if b == EXACT {
        a
    } else {
        a.max(b) + 1
    }
}

fn wider(err: i64, rounding: i64) -> i64 {
    both(err, rounding)
}

fn from_f64(value: f64) -> Ball {
    if value == 0.0 || !value.is_finite() {
        return Ball::zero();
    }
    let bits = value.to_bits();
    let exponent = ((bits >> 52) & 0x7ff) as i64;
    let fraction = (bits & ((1 << 52) - 1)) as i64;
    let (m, e) = if exponent == 0 { (fraction, -1074) } else { (fraction | (1 << 52), exponent - 1075) };
    Ball { m: BigInt::from(if value < 0.0 { -m } else { m }), e, err: EXACT }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(found: Ball, expected: &str) {
        let p = Precision::new(256);
        let digits = expected.len() - expected.find('.').map_or(0, |at| at + 1);
        let expected_value = Ball::rational(&Rational::decimal(expected.trim_start_matches('-')).unwrap(), &p);
        let expected_value = if expected.starts_with('-') { expected_value.neg() } else { expected_value };
        let gap = found.sub(&expected_value, &p).abs().to_f64();
        assert!(gap < 10f64.powi(1 - digits as i32), "{} is not {expected}: {gap}", found.to_f64());
        assert!(found.err() < -220, "the bound 2^{} of {expected} is too wide", found.err());
    }

    // The digits are those of the constants' published expansions.
    #[test]
    fn functions_to_fifty_digits() {
        let p = Precision::new(256);
        let two = Ball::integer(2);
        check(p.pi(), "3.14159265358979323846264338327950288419716939937510");
        check(p.ln2(), "0.69314718055994530941723212145817656807550013436025");
        check(Ball::integer(1).exp(&p).unwrap(), "2.71828182845904523536028747135266249775724709369995");
        check(two.sqrt(&p).unwrap(), "1.41421356237309504880168872420969807856967187537694");
        check(two.ln(&p).unwrap(), "0.69314718055994530941723212145817656807550013436025");
        check(Ball::integer(10).ln(&p).unwrap(), "2.30258509299404568401799145468436420760110148862877");
        let (sin, cos) = Ball::integer(1).sin_cos(&p).unwrap();
        check(sin, "0.84147098480789650665250232163029899962256306079837");
        check(cos, "0.54030230586813971740093660744297660373231042061792");
        check(two.atan(&p).unwrap(), "1.10714871779409050301706546017853704007004764540143");
        check(Ball::integer(-5).atan(&p).unwrap(), "-1.373400766945015860861271926444961148650999595899700");
        check(Ball::integer(-30).exp(&p).unwrap(), "0.00000000000009357622968840174604915832223378706744");
    }

    #[test]
    fn different_numbers_do_not_meet_and_equal_ones_do() {
        let p = Precision::new(256);
        let (sin, cos) = Ball::integer(3).sin_cos(&p).unwrap();
        let one = sin.mul(&sin, &p).unwrap().add(&cos.mul(&cos, &p).unwrap(), &p);
        assert!(one.meets(&Ball::integer(1), &p).0);
        let close = Ball::rational(&Rational::decimal("1.0000000000000000000000000000000000000000000001").unwrap(), &p);
        assert!(!one.meets(&close, &p).0);
    }
}
