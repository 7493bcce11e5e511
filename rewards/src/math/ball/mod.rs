//! Real and complex numbers with a bound on their error, to any precision.
//!
//! A [`Ball`] is a binary floating-point number `m * 2^e` and a bound `2^err` on the distance to the
//! true value. Every operation widens the bound by what it rounds away, so two balls that do not
//! meet are different numbers, and that is a proof. Bounds are kept as powers of two and are a few
//! bits wider than need be.

use num_bigint::{BigInt, Sign};
use num_integer::Integer;
use num_traits::{One, Signed, ToPrimitive, Zero};

use crate::math::rational::Rational;

mod elementary;
mod precision;

pub(crate) use precision::Precision;

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
