//! Evaluation modulo a prime: an exact test of polynomial identities at random points.
//!
//! Rational numbers, variables, pi, e, the imaginary unit and square roots of small integers map to
//! residues by a ring homomorphism, so unequal residues prove two such expressions different, and
//! equal ones at several random points make them equal but for a chance near 2^-60 (Schwartz-Zippel).
//! Whatever else occurs (functions, powers by symbols) becomes a residue drawn from its argument; it
//! proves nothing when residues differ, and `is_exact` says so.

use num_bigint::BigInt;
use num_integer::Integer;
use num_traits::{Signed, ToPrimitive};

use super::ast::{Func, Node};
use super::rational::Rational;

/// A prime that is 1 modulo 8, with -1 and every prime up to 47 a square: found by search.
pub(crate) const PRIME: u64 = 1153209111178733569;
const SMALL_PRIMES: [u64; 15] = [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47];

fn mul(a: u64, b: u64) -> u64 {
    (u128::from(a) * u128::from(b) % u128::from(PRIME)) as u64
}

fn add(a: u64, b: u64) -> u64 {
    ((u128::from(a) + u128::from(b)) % u128::from(PRIME)) as u64
}

fn pow(mut base: u64, mut exponent: u64) -> u64 {
    let mut result = 1;
    while exponent > 0 {
        if exponent & 1 == 1 {
            result = mul(result, base);
        }
        base = mul(base, base);
        exponent >>= 1;
    }
    result
}

fn negate(a: u64) -> u64 {
    if a == 0 { 0 } else { PRIME - a }
}

fn inverse(a: u64) -> Option<u64> {
    (a != 0).then(|| pow(a, PRIME - 2))
}

/// Whether `a b = c d` modulo the prime.
pub(crate) fn cross_equal(a: u64, b: u64, c: u64, d: u64) -> bool {
    mul(a, b) == mul(c, d)
}

/// A well-mixed number from two (splitmix64).
pub(crate) fn mix(a: u64, b: u64) -> u64 {
    let mut z = a.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(b).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn hash(text: &str) -> u64 {
    text.bytes().fold(0x51_7c_c1, |hash, byte| mix(hash, u64::from(byte)))
}

/// A square root modulo the prime (Tonelli-Shanks), the smaller of the two.
fn square_root(a: u64) -> Option<u64> {
    if a == 0 {
        return Some(0);
    }
    if pow(a, (PRIME - 1) / 2) != 1 {
        return None;
    }
    let twos = (PRIME - 1).trailing_zeros();
    let odd = (PRIME - 1) >> twos;
    let mut non_square = 2;
    while pow(non_square, (PRIME - 1) / 2) == 1 {
        non_square += 1;
    }
    let (mut m, mut c, mut t, mut r) = (twos, pow(non_square, odd), pow(a, odd), pow(a, odd.div_ceil(2)));
    while t != 1 {
        let mut i = 0;
        let mut square = t;
        while square != 1 {
            square = mul(square, square);
            i += 1;
        }
        let b = (0..m - i - 1).fold(c, |b, _| mul(b, b));
        m = i;
        c = mul(b, b);
        t = mul(t, c);
        r = mul(r, b);
    }
    Some(r.min(PRIME - r))
}

/// A residue, and whether it is the image of a homomorphism.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Residue {
    pub(crate) value: u64,
    pub(crate) is_exact: bool,
}

/// The residues of a tree at random point number `point`. `None` where it is not defined there.
pub(crate) fn evaluate(node: &Node, point: u64) -> Option<Residue> {
    Evaluator { point, is_exact: true }.run(node)
}

struct Evaluator {
    point: u64,
    is_exact: bool,
}

impl Evaluator {
    fn run(mut self, node: &Node) -> Option<Residue> {
        let value = self.value(node)?;
        Some(Residue { value, is_exact: self.is_exact })
    }

    fn atom(&self, name: u64) -> u64 {
        mix(name, mix(self.point, 7)) % (PRIME - 2) + 1
    }

    fn opaque(&mut self, name: &str, parts: &[u64]) -> u64 {
        self.is_exact = false;
        parts.iter().fold(hash(name), |hash, part| mix(hash, *part)) % (PRIME - 2) + 1
    }

    fn rational(&self, value: &Rational) -> Option<u64> {
        let residue = |value: &BigInt| value.mod_floor(&BigInt::from(PRIME)).to_u64();
        Some(mul(residue(value.num())?, inverse(residue(value.den())?)?))
    }

    fn value(&mut self, node: &Node) -> Option<u64> {
        Some(match node {
            Node::Num(value) | Node::Dec { value, .. } => self.rational(value)?,
            Node::Sym(name) => self.atom(hash(name)),
            Node::Pi => self.atom(1),
            Node::E => self.atom(2),
            Node::I => square_root(PRIME - 1)?,
            Node::Add(items) => {
                let mut sum = 0;
                for item in items {
                    sum = add(sum, self.value(item)?);
                }
                sum
            }
            Node::Mul(items) => {
                let mut product = 1;
                for item in items {
                    product = mul(product, self.value(item)?);
                }
                product
            }
            Node::Neg(a) => negate(self.value(a)?),
            Node::Inverse(a) => inverse(self.value(a)?)?,
            Node::Percent(a) => mul(self.value(a)?, inverse(100)?),
            Node::Pow(base, exponent) => self.power(base, exponent)?,
            Node::Root(radicand, degree) => {
                if let (Node::Num(radicand), Node::Num(degree)) = (&**radicand, &**degree)
                    && degree.to_i64() == Some(2)
                    && let Some(root) = self.square_root_of(radicand)
                {
                    return Some(root);
                }
                let (radicand, degree) = (self.value(radicand)?, self.value(degree)?);
                self.opaque("root", &[radicand, degree])
            }
            Node::Call(func, arguments) => {
                let mut parts = vec![*func as u64];
                for argument in arguments {
                    parts.push(self.value(argument)?);
                }
                if *func == Func::Exp {
                    // exp(x) and e^x are one atom.
                    let base = self.atom(2);
                    return Some(self.opaque("power", &[base, parts[1]]));
                }
                self.opaque("call", &parts)
            }
            Node::Apply(name, arguments) => {
                let mut parts = vec![self.point];
                for argument in arguments {
                    parts.push(self.value(argument)?);
                }
                self.opaque(name, &parts)
            }
            Node::Degrees(a) => {
                let value = self.value(a)?;
                self.opaque("degrees", &[value])
            }
            _ => return None,
        })
    }

    fn power(&mut self, base: &Node, exponent: &Node) -> Option<u64> {
        let plain = whole(exponent);
        if let Some(exponent) = plain {
            let value = self.value(base)?;
            let raised = pow(value, exponent.unsigned_abs());
            return if exponent < 0 { inverse(raised) } else { Some(raised) };
        }
        let (base, exponent) = (self.value(base)?, self.value(exponent)?);
        Some(self.opaque("power", &[base, exponent]))
    }

    /// The image of the root of a rational whose primes are all in the table.
    fn square_root_of(&self, value: &Rational) -> Option<u64> {
        // sqrt(a/b) = sqrt(ab) / b
        let square = value.num() * value.den();
        let mut rest = square.abs().to_u64()?;
        if rest == 0 {
            return Some(0);
        }
        let mut root = if square.is_negative() { square_root(PRIME - 1)? } else { 1 };
        for prime in SMALL_PRIMES {
            let mut count = 0u32;
            while rest % prime == 0 {
                rest /= prime;
                count += 1;
            }
            root = mul(root, pow(prime, u64::from(count / 2)));
            if count % 2 == 1 {
                root = mul(root, square_root(prime)?);
            }
        }
        let whole = rest.isqrt();
        if whole * whole != rest {
            return None;
        }
        root = mul(root, whole % PRIME);
        let den = value.den().mod_floor(&BigInt::from(PRIME)).to_u64()?;
        Some(mul(root, inverse(den)?))
    }
}

/// A small whole number, written out or as a sum, product or power: the 2^{19} of 4^{2^{19}}.
fn whole(node: &Node) -> Option<i64> {
    match node {
        Node::Num(value) => value.to_i64(),
        Node::Neg(inner) => whole(inner)?.checked_neg(),
        Node::Add(items) => items.iter().try_fold(0i64, |sum, item| sum.checked_add(whole(item)?)),
        Node::Mul(items) => items.iter().try_fold(1i64, |product, item| product.checked_mul(whole(item)?)),
        Node::Pow(base, exponent) => whole(base)?.checked_pow(u32::try_from(whole(exponent)?).ok()?),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prime_is_what_it_says() {
        assert!((1 << 59..1 << 62).contains(&PRIME));
        // A Fermat test in several bases.
        for base in [2, 3, 5, 7, 11, 13, 17, 19, 23] {
            assert_eq!(pow(base, PRIME - 1), 1);
        }
        for prime in SMALL_PRIMES {
            let root = square_root(prime).unwrap();
            assert_eq!(mul(root, root), prime);
        }
        assert!(square_root(PRIME - 1).is_some());
    }
}
