//! Exact rational numbers on big integers.

use num_bigint::BigInt;
use num_integer::Integer;
use num_traits::{One, Signed, ToPrimitive, Zero};

/// A fraction in lowest terms with a positive denominator.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Rational {
    num: BigInt,
    den: BigInt,
}

impl Rational {
    /// `num / den`; `None` when `den` is 0.
    pub(crate) fn new(num: BigInt, den: BigInt) -> Option<Self> {
        if den.is_zero() {
            return None;
        }
        let divisor = num.gcd(&den);
        let (mut num, mut den) = if divisor.is_one() { (num, den) } else { (num / &divisor, den / &divisor) };
        if den.is_negative() {
            num = -num;
            den = -den;
        }
        Some(Rational { num, den })
    }

    pub(crate) fn zero() -> Self {
        Self::from(0)
    }

    pub(crate) fn one() -> Self {
        Self::from(1)
    }

    pub(crate) fn integer(num: BigInt) -> Self {
        Rational { num, den: BigInt::one() }
    }

    pub(crate) fn ratio(num: i64, den: i64) -> Self {
        Self::new(num.into(), den.into()).expect("the denominator is not 0")
    }

    /// Digits with at most one dot. `None` when there is no digit.
    pub(crate) fn decimal(text: &str) -> Option<Self> {
        let (whole, part) = text.split_once('.').unwrap_or((text, ""));
        let digits = format!("{whole}{part}");
        let num = digits.parse::<BigInt>().ok()?;
        Self::new(num, BigInt::from(10).pow(u32::try_from(part.len()).ok()?))
    }

    pub(crate) fn num(&self) -> &BigInt {
        &self.num
    }

    pub(crate) fn den(&self) -> &BigInt {
        &self.den
    }

    pub(crate) fn is_zero(&self) -> bool {
        self.num.is_zero()
    }

    pub(crate) fn is_one(&self) -> bool {
        self.num.is_one() && self.den.is_one()
    }

    pub(crate) fn is_integer(&self) -> bool {
        self.den.is_one()
    }

    pub(crate) fn is_negative(&self) -> bool {
        self.num.is_negative()
    }

    pub(crate) fn to_i64(&self) -> Option<i64> {
        if self.is_integer() { self.num.to_i64() } else { None }
    }

    /// Bits of the larger of numerator and denominator.
    pub(crate) fn bits(&self) -> u64 {
        self.num.bits().max(self.den.bits())
    }

    pub(crate) fn add(&self, other: &Self) -> Self {
        if self.is_integer() && other.is_integer() {
            return Self::integer(&self.num + &other.num);
        }
        Self::new(&self.num * &other.den + &other.num * &self.den, &self.den * &other.den)
            .expect("denominators are positive")
    }

    pub(crate) fn neg(&self) -> Self {
        Rational { num: -&self.num, den: self.den.clone() }
    }

    pub(crate) fn sub(&self, other: &Self) -> Self {
        self.add(&other.neg())
    }

    pub(crate) fn mul(&self, other: &Self) -> Self {
        if self.is_integer() && other.is_integer() {
            return Self::integer(&self.num * &other.num);
        }
        Self::new(&self.num * &other.num, &self.den * &other.den).expect("denominators are positive")
    }

    pub(crate) fn inverse(&self) -> Option<Self> {
        Self::new(self.den.clone(), self.num.clone())
    }

    pub(crate) fn abs(&self) -> Self {
        Rational { num: self.num.abs(), den: self.den.clone() }
    }

    pub(crate) fn floor(&self) -> BigInt {
        self.num.div_floor(&self.den)
    }

    /// Whether it has finitely many decimals.
    pub(crate) fn is_finite_decimal(&self) -> bool {
        let mut den = self.den.clone();
        for prime in [2u32, 5] {
            // One division by a large power first keeps long denominators cheap.
            while (&den % prime).is_zero() {
                den /= prime;
            }
        }
        den.is_one()
    }

    pub(crate) fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (&self.num * &other.den).cmp(&(&other.num * &self.den))
    }

    /// The exact root of this degree, when it is rational. Odd roots of negatives are real.
    pub(crate) fn root(&self, degree: u32) -> Option<Self> {
        if degree == 0 || (self.is_negative() && degree.is_multiple_of(2)) {
            return None;
        }
        let of = |value: &BigInt| {
            let root = value.abs().nth_root(degree);
            (root.pow(degree) == value.abs()).then(|| if value.is_negative() { -root } else { root })
        };
        Some(Rational { num: of(&self.num)?, den: of(&self.den)? })
    }

    /// `self^exponent` by an exponent whose size the caller has checked; `None` for 0 to a negative.
    pub(crate) fn pow(&self, exponent: i64) -> Option<Self> {
        let power = u32::try_from(exponent.unsigned_abs()).ok()?;
        let raised = Rational { num: self.num.pow(power), den: self.den.pow(power) };
        if exponent < 0 { raised.inverse() } else { Some(raised) }
    }
}

impl From<i64> for Rational {
    fn from(value: i64) -> Self {
        Self::integer(value.into())
    }
}

impl std::fmt::Display for Rational {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.is_integer() { write!(out, "{}", self.num) } else { write!(out, "{}/{}", self.num, self.den) }
    }
}
