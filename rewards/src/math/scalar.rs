//! Numbers and expressions: exact where they are rational, by error bounds or residues where not.

use super::ast::Node;
use super::ball::{Ball, Precision, Trouble};
use super::compare::{Comparison, Equal};
use super::complex::Complex;
use super::evaluate::Evaluator;
use super::exact::exact;
use super::modular;
use super::rational::Rational;
use super::{Flag, Method};

/// Points tried for an expression, and how many must be defined.
pub(super) const POINTS: u64 = 12;

pub(super) const DEFINED: u32 = 6;
/// Significant digits that a decimal must show even when it has decimals enough: 0.000001 says little of 1/1500000.
const SIGNIFICANT_DECIMALS: u32 = 4;

impl Comparison<'_> {
    /// Two values, with percent signs and degrees settled first.
    pub(super) fn scalars(&mut self, g: &Node, p: &Node) -> Equal {
        match (g, p) {
            (Node::Degrees(a), Node::Degrees(b)) => return self.scalars(a, b),
            (Node::Degrees(a), b) => {
                if self.scalars(a, b)? {
                    return Ok(true);
                }
                return if self.policy.angle_units { self.radians(a, b) } else { Ok(false) };
            }
            (a, Node::Degrees(b)) => {
                if self.scalars(a, b)? {
                    return Ok(true);
                }
                return if self.policy.angle_units { self.radians(b, a) } else { Ok(false) };
            }
            (Node::Percent(a), Node::Percent(b)) => return self.scalars_equal(a, b),
            (Node::Percent(a), b) => {
                if self.scalars_equal(a, b)? {
                    self.flags.push(Flag::PercentAssumed);
                    return Ok(true);
                }
                return self.scalars_equal(g, b);
            }
            (a, Node::Percent(b)) => {
                if self.scalars_equal(a, p)? {
                    return Ok(true);
                }
                // `0.35 %` for 0.35 is a factor of a hundred, not a sign too many.
                if self.policy.percent_lenient && !self.is_below_one(a)? && self.scalars_equal(a, b)? {
                    self.flags.push(Flag::PercentAssumed);
                    return Ok(true);
                }
                return Ok(false);
            }
            _ => {}
        }
        self.scalars_equal(g, p)
    }

    /// Whether a constant lies between -1 and 1.
    fn is_below_one(&self, node: &Node) -> Equal {
        if node.has_variables() {
            return Ok(false);
        }
        Ok(self.near_rational(node)?.is_some_and(|value| value.abs().cmp(&Rational::one()).is_lt()))
    }

    pub(super) fn radians(&mut self, degrees: &Node, radians: &Node) -> Equal {
        let turned = Node::Mul(vec![degrees.clone(), Node::Pi, Node::Inverse(Node::int(180).boxed())]);
        self.scalars_equal(&turned, radians)
    }

    pub(super) fn scalars_equal(&mut self, g: &Node, p: &Node) -> Equal {
        if g == p {
            if self.method == Method::None {
                self.method = Method::Exact;
            }
            return Ok(true);
        }
        if has_infinity(g) || has_infinity(p) {
            self.method = Method::Numeric;
            return Ok(infinity_sign(g).is_some() && infinity_sign(g) == infinity_sign(p));
        }
        let values = (exact(g, self.limits, &self.clock), exact(p, self.limits, &self.clock));
        match values {
            (Ok(Some(a)), Ok(Some(b))) => {
                let is_decimal = literal(g).is_some() || literal(p).is_some();
                self.method = if is_decimal {
                    Method::Decimal
                } else if a.is_integer() && b.is_integer() {
                    Method::Integer
                } else {
                    Method::Rational
                };
                return Ok(a == b || self.nearly(g, &a, p, &b));
            }
            (Err(Trouble::TooLarge), _) | (_, Err(Trouble::TooLarge)) => {
                self.method = Method::Integer;
                let residues = (modular::evaluate(g, 0), modular::evaluate(p, 0));
                return match residues {
                    (Some(a), Some(b)) if a.is_exact && b.is_exact => {
                        if g.has_variables() || p.has_variables() {
                            return self.symbolic(g, p);
                        }
                        Ok(a.value == b.value)
                    }
                    _ => Err(Trouble::TooLarge),
                };
            }
            (Err(error), _) | (_, Err(error)) => return Err(error),
            _ => {}
        }
        if g.has_variables() || p.has_variables() {
            self.method = Method::Symbolic;
            return self.symbolic(g, p);
        }
        self.method = Method::Numeric;
        self.constants(g, p)
    }

    /// The rule for rounded decimals, between rationals.
    pub(super) fn nearly(&mut self, g: &Node, a: &Rational, p: &Node, b: &Rational) -> bool {
        let tolerance = |gold: &Rational, pred: &Rational| match self.policy.rel_tol {
            Some(tolerance) => within(gold, pred, tolerance),
            None => false,
        };
        if tolerance(a, b) {
            self.flags.push(Flag::Approximate);
            return true;
        }
        let is_near = match (literal(g), literal(p)) {
            (None, Some(shown)) if !a.is_finite_decimal() => self.shows_enough(&shown) && rounds_to(a, &shown),
            (Some(shown), None) if !b.is_finite_decimal() => self.shows_enough(&shown) && rounds_to(b, &shown),
            _ => false,
        };
        if is_near {
            self.flags.push(Flag::Approximate);
        }
        is_near
    }

    pub(super) fn shows_enough(&self, shown: &Shown) -> bool {
        shown.significant >= self.policy.min_significant
            || (shown.places >= i64::from(self.policy.min_decimals) && shown.significant >= SIGNIFICANT_DECIMALS)
    }

    /// Constants that are not rational: by balls at two precisions, and decimals by their digits.
    pub(super) fn constants(&mut self, g: &Node, p: &Node) -> Equal {
        let shown = match (literal(g), literal(p)) {
            (Some(shown), None) => Some((shown, p)),
            (None, Some(shown)) => Some((shown, g)),
            _ => None,
        };
        if let Some((shown, other)) = shown.filter(|(shown, _)| self.shows_enough(shown))
            && let Some(value) = self.near_rational(other)?
            && rounds_to(&value, &shown)
        {
            self.method = Method::Decimal;
            self.flags.push(Flag::Approximate);
            return Ok(true);
        }
        if let Some(tolerance) = self.policy.rel_tol
            && let (Some(a), Some(b)) = (self.near_rational(g)?, self.near_rational(p)?)
            && within(&a, &b, tolerance)
        {
            self.flags.push(Flag::Approximate);
            return Ok(true);
        }
        if let (Some(a), Some(b)) = (modular::evaluate(g, 0), modular::evaluate(p, 0))
            && a.is_exact
            && b.is_exact
            && a.value != b.value
        {
            return Ok(false);
        }
        let mut trouble = Trouble::Imprecise;
        for bits in [256, 768, 4096] {
            let precision = Precision::new(bits);
            let value = |node: &Node| Evaluator::new(&precision, Vec::new(), self.limits, &self.clock).value(node);
            match (value(g), value(p)) {
                (Ok(a), Ok(b)) => match same(&a, &b, &precision) {
                    // Two numbers of which no digit shows yet may be 10^-300 and its double.
                    Some(true) if bits >= 4096 || (bits >= 768 && shows_digits(&a, &b)) => return Ok(true),
                    Some(false) => return Ok(false),
                    _ => {}
                },
                (Err(Trouble::Imprecise), _) | (_, Err(Trouble::Imprecise)) => {}
                (Err(error), _) | (_, Err(error)) => {
                    trouble = error;
                    break;
                }
            }
            self.clock.check()?;
        }
        match trouble {
            Trouble::Imprecise => Ok(false),
            error => Err(error),
        }
    }

    /// A real constant as a rational to some 70 digits.
    pub(super) fn near_rational(&self, node: &Node) -> Result<Option<Rational>, Trouble> {
        if let Some(value) = exact(node, self.limits, &self.clock)? {
            return Ok(Some(value));
        }
        let p = Precision::new(256);
        let value = match Evaluator::new(&p, Vec::new(), self.limits, &self.clock).value(node) {
            Ok(value) => value,
            Err(Trouble::Timeout) => return Err(Trouble::Timeout),
            Err(_) => return Ok(None),
        };
        Ok(if value.im.is_some() { None } else { value.re.to_rational() })
    }

    /// Expressions in variables: residues at four points, then values at random points.
    pub(super) fn symbolic(&mut self, g: &Node, p: &Node) -> Equal {
        let mut agreed = 0;
        for point in 0..4 {
            match (modular::evaluate(g, point), modular::evaluate(p, point)) {
                (Some(a), Some(b)) if a.value == b.value => agreed += 1,
                (Some(a), Some(b)) if a.is_exact && b.is_exact => return Ok(false),
                _ => break,
            }
        }
        if agreed == 4 {
            return Ok(true);
        }
        let mut defined = 0;
        let narrow = Precision::new(256);
        for point in 0..3 * POINTS {
            self.clock.check()?;
            if defined >= POINTS as u32 {
                break;
            }
            let mut result = None;
            for bits in [256, 768] {
                let wide;
                let precision = if bits == 256 {
                    &narrow
                } else {
                    wide = Precision::new(bits);
                    &wide
                };
                match (self.at_point(g, p, point, precision), self.at_point(p, g, point, precision)) {
                    (Ok(a), Ok(b)) => {
                        result = same(&a, &b, precision);
                        if result.is_some() {
                            break;
                        }
                    }
                    (Err(error @ Trouble::Timeout), _) | (_, Err(error @ Trouble::Timeout)) => {
                        return Err(error);
                    }
                    (Err(Trouble::Imprecise), _) | (_, Err(Trouble::Imprecise)) => {}
                    _ => break,
                }
            }
            match result {
                Some(true) => defined += 1,
                Some(false) => return Ok(false),
                None => {}
            }
        }
        Ok(defined >= DEFINED)
    }

    /// The value of `node` at a random point for the variables of both expressions.
    ///
    /// Points lie in (0.2, 3), later ones take either sign; where factorials and the like occur they
    /// are small positive integers.
    pub(super) fn at_point(&self, node: &Node, other: &Node, point: u64, p: &Precision) -> Result<Complex, Trouble> {
        let mut names = Vec::new();
        node.variables(&mut names);
        other.variables(&mut names);
        names.sort();
        let is_discrete = |node: &Node| {
            node.any(&|part| {
                match part {
                    Node::Call(func, _) => func.is_discrete(),
                    Node::Series { .. } => true,
                    // `(-1)^n` is about whole numbers.
                    Node::Pow(base, exponent) => is_negative_number(base) && exponent.has_variables(),
                    _ => false,
                }
            })
        };
        let is_discrete = is_discrete(node) || is_discrete(other);
        let variables = names
            .into_iter()
            .enumerate()
            .map(|(index, name)| {
                let random = modular::mix(point, index as u64 + 11);
                let value = if is_discrete {
                    Rational::from(1 + (random % 12) as i64 + if index == 0 { 6 } else { 0 })
                } else {
                    let size = 205 + (random % 2867) as i64;
                    let sign = if point >= 6 && (random >> 40) % 2 == 1 { -1 } else { 1 };
                    Rational::ratio(sign * size, 1024)
                };
                (name, Complex::real(Ball::rational(&value, p)))
            })
            .collect();
        let has_unit = |node: &Node| node.any(&|part| matches!(part, Node::I));
        let mut evaluator = Evaluator::new(p, variables, self.limits, &self.clock);
        // Expressions without i are about reals: roots and logarithms of negatives are not defined.
        evaluator.is_real = !has_unit(node) && !has_unit(other);
        evaluator.value(node)
    }
}

fn is_negative_number(node: &Node) -> bool {
    match node {
        Node::Num(value) | Node::Dec { value, .. } => value.is_negative(),
        Node::Neg(inner) => matches!(**inner, Node::Num(_) | Node::Dec { .. }),
        _ => false,
    }
}

/// Whether two complex balls are the same number: `None` when they meet but are too wide to tell.
pub(super) fn same(a: &Complex, b: &Complex, p: &Precision) -> Option<bool> {
    let size = a.re.bound().max(a.im().bound()).max(b.re.bound());
    let mut is_sure = true;
    for (x, y) in [(&a.re, &b.re), (&a.im(), &b.im())] {
        let (meets, err) = x.meets(y, p);
        if !meets {
            return Some(false);
        }
        // Errors below 2^-128 settle it; numbers beyond 2^3000 are settled by their leading digits.
        is_sure &= err < -128 || (p.bits >= 4096 && err < size - p.bits as i64 / 2);
    }
    is_sure.then_some(true)
}

/// Whether one of the two is known to be nought, or not to be.
fn shows_digits(a: &Complex, b: &Complex) -> bool {
    let is_known = |value: &Complex| match &value.im {
        None => value.re.sign().is_some(),
        Some(im) => {
            matches!(value.re.sign(), Some(-1 | 1)) || matches!(im.sign(), Some(-1 | 1)) || value.re.is_exact_zero()
        }
    };
    is_known(a) && is_known(b)
}

/// A decimal as it was written.
pub(super) struct Shown {
    pub(super) value: Rational,
    pub(super) places: i64,
    pub(super) significant: u32,
}

/// The decimal literal that a node is, scientific notation included.
pub(super) fn literal(node: &Node) -> Option<Shown> {
    match node {
        Node::Dec { value, places, significant } => {
            Some(Shown { value: value.clone(), places: i64::from(*places), significant: *significant })
        }
        Node::Neg(inner) => literal(inner).map(|shown| Shown { value: shown.value.neg(), ..shown }),
        Node::Mul(parts) => match &parts[..] {
            [Node::Dec { value, places, significant }, Node::Pow(base, exponent)] if **base == Node::int(10) => {
                let exponent = match &**exponent {
                    Node::Num(value) => value.to_i64()?,
                    Node::Neg(inner) => match &**inner {
                        Node::Num(value) => -value.to_i64()?,
                        _ => return None,
                    },
                    _ => return None,
                };
                if exponent.abs() > 10_000 {
                    return None;
                }
                Some(Shown {
                    value: value.mul(&Rational::from(10).pow(exponent)?),
                    places: i64::from(*places) - exponent,
                    significant: *significant,
                })
            }
            _ => None,
        },
        _ => None,
    }
}

/// Whether the value, rounded or cut off to the places shown, is what is shown.
pub(super) fn rounds_to(value: &Rational, shown: &Shown) -> bool {
    let Some(unit) = Rational::from(10).pow(-shown.places.clamp(-10_000, 10_000)) else {
        return false;
    };
    let gap = value.sub(&shown.value).abs();
    let is_rounded = gap.mul(&Rational::from(2)).cmp(&unit).is_le();
    let is_cut = gap.cmp(&unit).is_lt() && value.abs().cmp(&shown.value.abs()).is_ge();
    is_rounded || is_cut
}

pub(super) fn within(gold: &Rational, pred: &Rational, tolerance: f64) -> bool {
    let Some(tolerance) = Rational::decimal(&format!("{tolerance:.15}")) else {
        return false;
    };
    gold.sub(pred).abs().cmp(&gold.abs().mul(&tolerance)).is_le()
}

pub(super) fn has_infinity(node: &Node) -> bool {
    infinity_sign(node).is_some() || node.any(&|part| matches!(part, Node::Infinity))
}

/// 1 or -1 for an infinity with its sign.
pub(super) fn infinity_sign(node: &Node) -> Option<i32> {
    match node {
        Node::Infinity => Some(1),
        Node::Neg(inner) => infinity_sign(inner).map(|sign| -sign),
        _ => None,
    }
}
