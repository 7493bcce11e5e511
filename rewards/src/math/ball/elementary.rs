//! Exponential, logarithm, sine, cosine and arc tangent of balls.

use num_bigint::BigInt;
use num_integer::Integer;
use num_traits::{One, Signed, ToPrimitive, Zero};

use super::precision::Precision;
use super::{Ball, EXACT, Trouble, both};

impl Ball {
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
