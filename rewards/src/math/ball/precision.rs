//! The working precision, and the constants at that precision.

use num_bigint::BigInt;
use num_traits::{One, Zero};

use super::Ball;

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
    pub(super) fn scale(&self) -> u64 {
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
