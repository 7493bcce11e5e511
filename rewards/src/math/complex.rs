//! Complex numbers with error bounds on both parts.

use super::ball::{Ball, Precision, Trouble};

/// A complex number; real numbers carry no imaginary part.
#[derive(Debug, Clone)]
pub(crate) struct Complex {
    pub(crate) re: Ball,
    pub(crate) im: Option<Ball>,
}

impl Complex {
    pub(crate) fn real(re: Ball) -> Self {
        Complex { re, im: None }
    }

    pub(crate) fn new(re: Ball, im: Ball) -> Self {
        Complex { re, im: if im.is_exact_zero() { None } else { Some(im) } }
    }

    pub(crate) fn i() -> Self {
        Complex { re: Ball::zero(), im: Some(Ball::integer(1)) }
    }

    pub(crate) fn im(&self) -> Ball {
        self.im.clone().unwrap_or_else(Ball::zero)
    }

    pub(crate) fn neg(&self) -> Self {
        Complex { re: self.re.neg(), im: self.im.as_ref().map(Ball::neg) }
    }

    pub(crate) fn conj(&self) -> Self {
        Complex { re: self.re.clone(), im: self.im.as_ref().map(Ball::neg) }
    }

    pub(crate) fn add(&self, other: &Self, p: &Precision) -> Self {
        let im = match (&self.im, &other.im) {
            (None, None) => None,
            (Some(im), None) | (None, Some(im)) => Some(im.clone()),
            (Some(a), Some(b)) => Some(a.add(b, p)),
        };
        Complex { re: self.re.add(&other.re, p), im: im.filter(|im| !im.is_exact_zero()) }
    }

    pub(crate) fn mul(&self, other: &Self, p: &Precision) -> Result<Self, Trouble> {
        Ok(match (&self.im, &other.im) {
            (None, None) => Complex::real(self.re.mul(&other.re, p)?),
            (None, Some(im)) => Complex::new(self.re.mul(&other.re, p)?, self.re.mul(im, p)?),
            (Some(im), None) => Complex::new(self.re.mul(&other.re, p)?, im.mul(&other.re, p)?),
            (Some(a), Some(b)) => Complex::new(
                self.re.mul(&other.re, p)?.sub(&a.mul(b, p)?, p),
                self.re.mul(b, p)?.add(&a.mul(&other.re, p)?, p),
            ),
        })
    }

    pub(crate) fn norm(&self, p: &Precision) -> Result<Ball, Trouble> {
        let square = self.re.mul(&self.re, p)?;
        match &self.im {
            None => Ok(square),
            Some(im) => Ok(square.add(&im.mul(im, p)?, p)),
        }
    }

    pub(crate) fn abs(&self, p: &Precision) -> Result<Ball, Trouble> {
        match &self.im {
            None => Ok(self.re.abs()),
            Some(_) => self.norm(p)?.sqrt(p),
        }
    }

    pub(crate) fn inverse(&self, p: &Precision) -> Result<Self, Trouble> {
        match &self.im {
            None => Ok(Complex::real(Ball::integer(1).div(&self.re, p)?)),
            Some(im) => {
                let norm = self.norm(p)?;
                Ok(Complex::new(self.re.div(&norm, p)?, im.neg().div(&norm, p)?))
            }
        }
    }

    pub(crate) fn exp(&self, p: &Precision) -> Result<Self, Trouble> {
        let size = self.re.exp(p)?;
        match &self.im {
            None => Ok(Complex::real(size)),
            Some(im) => {
                let (sin, cos) = im.sin_cos(p)?;
                Ok(Complex::new(size.mul(&cos, p)?, size.mul(&sin, p)?))
            }
        }
    }

    /// The principal argument, in (-pi, pi].
    pub(crate) fn arg(&self, p: &Precision) -> Result<Ball, Trouble> {
        let im = self.im();
        match (self.re.sign(), im.sign()) {
            (Some(0), Some(0)) => Err(Trouble::Undefined),
            (Some(1), _) => im.div(&self.re, p)?.atan(p),
            (_, Some(1)) => Ok(p.pi().scaled(-1).sub(&self.re.div(&im, p)?.atan(p)?, p)),
            (_, Some(-1)) => Ok(p.pi().scaled(-1).neg().sub(&self.re.div(&im, p)?.atan(p)?, p)),
            (Some(-1), Some(0)) => Ok(p.pi()),
            _ => Err(Trouble::Imprecise),
        }
    }

    pub(crate) fn ln(&self, p: &Precision) -> Result<Self, Trouble> {
        if self.im.is_none() && self.re.sign() == Some(1) {
            return Ok(Complex::real(self.re.ln(p)?));
        }
        let size = self.abs(p)?.ln(p)?;
        Ok(Complex::new(size, self.arg(p)?))
    }

    /// The principal square root.
    pub(crate) fn sqrt(&self, p: &Precision) -> Result<Self, Trouble> {
        match (&self.im, self.re.sign()) {
            (None, Some(1 | 0)) => Ok(Complex::real(self.re.sqrt(p)?)),
            (None, Some(_)) => Ok(Complex::new(Ball::zero(), self.re.neg().sqrt(p)?)),
            (None, None) => {
                let root = self.re.abs().sqrt(p)?;
                Ok(Complex::new(root.clone(), root))
            }
            (Some(_), _) => {
                let half = self.ln(p)?.mul(&Complex::real(Ball::integer(1).scaled(-1)), p)?;
                half.exp(p)
            }
        }
    }

    /// `self^n` by repeated squaring.
    pub(crate) fn powi(&self, n: i64, p: &Precision) -> Result<Self, Trouble> {
        let mut result = Complex::real(Ball::integer(1));
        let mut square = self.clone();
        let mut rest = n.unsigned_abs();
        while rest > 0 {
            if rest & 1 == 1 {
                result = result.mul(&square, p)?;
            }
            rest >>= 1;
            if rest > 0 {
                square = square.mul(&square, p)?;
            }
        }
        if n < 0 { result.inverse(p) } else { Ok(result) }
    }
}
