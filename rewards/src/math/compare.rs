//! Are two parsed answers the same? One function a kind of answer.

use std::cmp::Ordering;

use num_traits::One;

use super::ast::{Node, Op};
use super::ball::{Ball, Complex, Precision, Trouble};
use super::evaluate::{Clock, Evaluator, exact};
use super::modular;
use super::rational::Rational;
use super::{Flag, Limits, Method, Policy};

/// What a comparison carries along, and what it finds out on the way.
pub(crate) struct Comparison<'a> {
    pub(crate) policy: &'a Policy,
    pub(crate) limits: &'a Limits,
    pub(crate) clock: Clock,
    pub(crate) method: Method,
    pub(crate) flags: Vec<Flag>,
    /// Whether a list stood against a single value.
    pub(crate) is_hedged: bool,
    /// Whether the kinds cannot be equal.
    pub(crate) is_mismatch: bool,
}

type Equal = Result<bool, Trouble>;

/// Points tried for an expression, and how many must be defined.
const POINTS: u64 = 12;
const DEFINED: u32 = 6;

impl Comparison<'_> {
    /// Whether the prediction `p` is the gold `g`.
    pub(crate) fn equal(&mut self, g: &Node, p: &Node) -> Equal {
        self.clock.check()?;
        if g == p {
            return Ok(true);
        }
        let (g, p) = (expanded(g), expanded(p));
        let (g, p) = (&g, &p);
        // An inequality, union or set of numbers on either side makes both sides sets of reals.
        if is_region(g) || is_region(p) {
            let sets = (self.region(g, true)?, self.region(p, true)?);
            if let (Some(a), Some(b)) = sets {
                self.method = Method::Interval;
                return self.same_region(a, b);
            }
        }
        if let (Node::In(a, s), Node::In(b, t)) = (g, p) {
            return Ok(a == b && self.equal(s, t)?);
        }
        if let Node::In(_, set) = p {
            return self.equal(g, set);
        }
        if let Node::In(_, set) = g {
            return self.equal(set, p);
        }
        match (g, p) {
            (Node::Relation(..), Node::Relation(..)) => {
                if let (Some((a, x)), Some((b, y))) = (assignment(g), assignment(p)) {
                    // `f(x) = ...` and `y = ...` name the same curve.
                    let is_curve = |one: &Node, other: &Node| {
                        matches!(one, Node::Apply(_, arguments) if arguments.len() == 1)
                            && *other == Node::Sym("y".into())
                    };
                    if a == b || is_curve(&a, &b) || is_curve(&b, &a) {
                        return self.equal(&x, &y);
                    }
                }
                self.method = Method::Relation;
                self.relations(g, p)
            }
            (_, Node::Relation(..)) => match self.value_of(p)? {
                Some(value) => self.equal(g, &value),
                None => self.mismatch(),
            },
            (Node::Relation(..), _) => match assignment(g) {
                Some((_, value)) => self.equal(&value, p),
                None => self.mismatch(),
            },
            (Node::Based { .. }, _) | (_, Node::Based { .. }) => self.based(g, p),
            (Node::Ratio(a), Node::Ratio(b)) => self.ratios(a, b),
            (Node::Ratio(parts), other) | (other, Node::Ratio(parts))
                if parts.len() == 2 && other.is_scalar() =>
            {
                let quotient = Node::Mul(vec![
                    parts[0].clone(),
                    Node::Inverse(parts[1].clone().boxed()),
                ]);
                self.equal(&quotient, other)
            }
            _ => self.collections(g, p),
        }
    }

    fn mismatch(&mut self) -> Equal {
        self.is_mismatch = true;
        Ok(false)
    }

    /// The value that a chain of equations ends in, when it names one value.
    fn value_of(&mut self, node: &Node) -> Result<Option<Node>, Trouble> {
        if let Some((_, value)) = assignment(node) {
            return Ok(Some(value));
        }
        let Some(sides) = equal_sides(node) else {
            return Ok(None);
        };
        let (last, rest) = sides.split_last().expect("a relation has sides");
        if rest.is_empty() {
            return Ok(Some(last.clone()));
        }
        // `2+3 = 5` and `(x-1)(x+1) = x^2-1` say one value in several ways.
        for side in rest {
            if is_lone(side) {
                continue;
            }
            let is_value = side.is_scalar()
                && last.is_scalar()
                && (!side.has_variables() || last.has_variables());
            if !is_value || !self.scalars_equal(side, last)? {
                return Ok(None);
            }
        }
        Ok(Some(last.clone()))
    }

    fn collections(&mut self, g: &Node, p: &Node) -> Equal {
        if let (Some(a), Some(b)) = (matrix(g), matrix(p)) {
            self.method = Method::Matrix;
            return self.matrices(&a, &b);
        }
        if let Some(rows) = matrix(g) {
            return self.vector(&rows, p);
        }
        if let Some(rows) = matrix(p) {
            return self.vector(&rows, g);
        }
        match (g, p) {
            (
                Node::Group {
                    open: a,
                    items: x,
                    close: b,
                },
                Node::Group {
                    open: c,
                    items: y,
                    close: d,
                },
            ) => {
                let is_interval = x.len() == 2 && x.iter().chain(y).any(|item| has_infinity(item));
                self.method = if is_interval || (*a, *b) != ('(', ')') {
                    Method::Interval
                } else {
                    Method::Tuple
                };
                if !is_interval && ((a == &'(') != (c == &'(') || (b == &')') != (d == &')')) {
                    return Ok(false);
                }
                if is_interval {
                    if let (Some(a), Some(b)) = (self.region(g, true)?, self.region(p, true)?) {
                        return self.same_region(a, b);
                    }
                }
                self.in_order(x, y)
            }
            (
                Node::Group {
                    open: '(',
                    items,
                    close: ')',
                },
                Node::List(others),
            ) => {
                self.method = Method::Tuple;
                let named = named_values(others);
                self.in_order(items, named.as_deref().unwrap_or(others))
            }
            (
                Node::List(items),
                Node::Group {
                    open: '(',
                    items: others,
                    close: ')',
                },
            ) => {
                self.method = Method::Tuple;
                if items
                    .iter()
                    .any(|item| matches!(item, Node::Group { .. } | Node::List(_)))
                {
                    return Ok(false);
                }
                let named = named_values(items);
                self.in_order(named.as_deref().unwrap_or(items), others)
            }
            (Node::Group { .. }, Node::Set(_)) | (Node::Set(_), Node::Group { .. }) => {
                self.mismatch()
            }
            (Node::List(items) | Node::Set(items), Node::List(others) | Node::Set(others)) => {
                self.method = Method::Set;
                self.lists(items, others)
            }
            (Node::List(items) | Node::Set(items), other) => {
                self.method = Method::Set;
                let single = self.distinct(items)?;
                match &single[..] {
                    [only] => self.equal(&only.clone(), other),
                    _ => self.mismatch(),
                }
            }
            (_, Node::List(others) | Node::Set(others)) => {
                self.method = Method::Set;
                let single = self.distinct(others)?;
                match &single[..] {
                    [only] => self.equal(g, &only.clone()),
                    [] => self.mismatch(),
                    _ => {
                        self.is_hedged = true;
                        Ok(false)
                    }
                }
            }
            (Node::Numbers(a), Node::Numbers(b)) => Ok(a == b),
            (Node::Union(a), Node::Union(b)) | (Node::Intersection(a), Node::Intersection(b)) => {
                self.method = Method::Set;
                self.matching(a, b)
            }
            (Node::Minus(a, b), Node::Minus(c, d)) => Ok(self.equal(a, c)? && self.equal(b, d)?),
            _ if g.is_scalar() && p.is_scalar() => self.scalars(g, p),
            _ => self.mismatch(),
        }
    }

    fn in_order(&mut self, g: &[Node], p: &[Node]) -> Equal {
        if g.len() != p.len() {
            return Ok(false);
        }
        let method = self.method;
        for (a, b) in g.iter().zip(p) {
            if !self.equal(a, b)? {
                return Ok(false);
            }
        }
        self.method = method;
        Ok(true)
    }

    /// Two lists: by the order of their variables when those are named on one side, else as sets.
    fn lists(&mut self, g: &[Node], p: &[Node]) -> Equal {
        if g.len().max(p.len()) > self.limits.set_items {
            return Err(Trouble::TooLarge);
        }
        match (named_values(g), named_values(p)) {
            (Some(a), None) if !p.iter().any(|item| assignment(item).is_some()) => {
                return self.in_order(&a, p);
            }
            (None, Some(b)) if !g.iter().any(|item| assignment(item).is_some()) => {
                return self.in_order(g, &b);
            }
            _ => {}
        }
        let (g, p) = (self.distinct(g)?, self.distinct(p)?);
        self.matching(&g, &p)
    }

    /// A perfect matching of equal elements. Equality is transitive, so taking the first match is enough.
    fn matching(&mut self, g: &[Node], p: &[Node]) -> Equal {
        if g.len() != p.len() {
            return Ok(false);
        }
        if g.len() > 12 {
            if let Some(equal) = self.sorted_match(g, p)? {
                return Ok(equal);
            }
        }
        let method = self.method;
        let mut left: Vec<&Node> = p.iter().collect();
        for a in g {
            let mut found = None;
            for (at, b) in left.iter().enumerate() {
                if self.equal(a, b)? {
                    found = Some(at);
                    break;
                }
            }
            match found {
                Some(at) => left.swap_remove(at),
                None => return Ok(false),
            };
        }
        self.method = method;
        Ok(true)
    }

    fn sorted_match(&mut self, g: &[Node], p: &[Node]) -> Result<Option<bool>, Trouble> {
        let values = |items: &[Node]| -> Result<Option<Vec<Rational>>, Trouble> {
            let mut values = Vec::with_capacity(items.len());
            for item in items {
                match exact(item, self.limits, &self.clock)? {
                    Some(value) => values.push(value),
                    None => return Ok(None),
                }
            }
            values.sort_by(|a, b| a.cmp(b));
            Ok(Some(values))
        };
        Ok(values(g)?.zip(values(p)?).map(|(a, b)| a == b))
    }

    /// The items of a list, each once.
    fn distinct(&mut self, items: &[Node]) -> Result<Vec<Node>, Trouble> {
        let mut kept: Vec<Node> = Vec::new();
        for item in items {
            let mut is_known = kept.contains(item);
            // By value in short lists only: longer ones would take a quadratic number of evaluations.
            if !is_known && items.len() <= 24 && item.is_scalar() && !item.has_variables() {
                for other in kept
                    .iter()
                    .filter(|other| other.is_scalar() && !other.has_variables())
                {
                    let is_equal = match self.scalars_equal(other, item) {
                        Err(Trouble::Timeout) => return Err(Trouble::Timeout),
                        result => result.unwrap_or(false),
                    };
                    if is_equal {
                        is_known = true;
                        break;
                    }
                }
            }
            if !is_known {
                kept.push(item.clone());
            }
        }
        Ok(kept)
    }

    fn matrices(&mut self, g: &[Vec<Node>], p: &[Vec<Node>]) -> Equal {
        if g.len() != p.len() || g[0].len() != p[0].len() {
            return Ok(false);
        }
        for (a, b) in g.iter().flatten().zip(p.iter().flatten()) {
            if !self.equal(a, b)? {
                return Ok(false);
            }
        }
        self.method = Method::Matrix;
        Ok(true)
    }

    fn vector(&mut self, rows: &[Vec<Node>], other: &Node) -> Equal {
        let is_vector = rows.iter().all(|row| row.len() == 1) || rows.len() == 1;
        let entries: Vec<Node> = rows.iter().flatten().cloned().collect();
        match other {
            Node::Group {
                open: '(',
                items,
                close: ')',
            }
            | Node::List(items)
                if is_vector && self.policy.vector_tuple && entries.len() > 1 =>
            {
                self.method = Method::Matrix;
                self.in_order(&entries, items)
            }
            Node::Group {
                open: '[',
                items,
                close: ']',
            } if is_vector && self.policy.vector_tuple && entries.len() > 2 => {
                self.method = Method::Matrix;
                self.in_order(&entries, items)
            }
            _ => self.mismatch(),
        }
    }

    fn ratios(&mut self, g: &[Node], p: &[Node]) -> Equal {
        self.method = Method::Rational;
        if g.len() != p.len() {
            return Ok(false);
        }
        for index in 1..g.len() {
            let cross = |a: &Node, b: &Node| Node::Mul(vec![a.clone(), b.clone()]);
            if !self.scalars_equal(&cross(&g[0], &p[index]), &cross(&g[index], &p[0]))? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn based(&mut self, g: &Node, p: &Node) -> Equal {
        self.method = Method::Integer;
        match (g, p) {
            (Node::Based { digits: a, base: x }, Node::Based { digits: b, base: y }) => {
                if x == y {
                    return Ok(a.eq_ignore_ascii_case(b));
                }
                let is_ten = *x == 10 || *y == 10;
                Ok(is_ten
                    && self.policy.base_value
                    && based_value(a, *x).is_some()
                    && based_value(a, *x) == based_value(b, *y))
            }
            (Node::Based { digits, base }, other) | (other, Node::Based { digits, base }) => {
                let Some(value) = exact(other, self.limits, &self.clock)? else {
                    return self.mismatch();
                };
                let is_bare = based_value(digits, 10).is_some_and(|digits| digits == value);
                if is_bare && matches!(g, Node::Based { .. }) {
                    self.flags.push(Flag::BaseDropped);
                    return Ok(true);
                }
                Ok(self.policy.base_value
                    && based_value(digits, *base).is_some_and(|digits| digits == value))
            }
            _ => Ok(false),
        }
    }

    // ---- relations ----

    fn relations(&mut self, g: &Node, p: &Node) -> Equal {
        let (Node::Relation(gs, gops), Node::Relation(ps, pops)) = (g, p) else {
            return Ok(false);
        };
        if gops.len() != pops.len() {
            return Ok(false);
        }
        let is_descending = |ops: &[Op]| ops.iter().all(|op| matches!(op, Op::Gt | Op::Ge));
        let oriented = |sides: &[Node], ops: &[Op]| {
            if is_descending(ops) {
                (
                    sides.iter().rev().cloned().collect::<Vec<_>>(),
                    ops.iter().rev().map(|op| op.flipped()).collect::<Vec<_>>(),
                )
            } else {
                (sides.to_vec(), ops.to_vec())
            }
        };
        let ((gs, gops), (ps, pops)) = (oriented(gs, gops), oriented(ps, pops));
        if gops.len() > 1 {
            // A chain: every link must agree, read in the same direction.
            for index in 0..gops.len() {
                if gops[index] != pops[index]
                    || !self.link(&gs[index..=index + 1], &ps[index..=index + 1], gops[index])?
                {
                    return Ok(false);
                }
            }
            return Ok(true);
        }
        if gops[0] != pops[0] {
            return Ok(false);
        }
        self.link(&gs, &ps, gops[0])
    }

    /// Whether two relations `a op b` with the same sign say the same: one difference is a constant
    /// multiple of the other, positive for inequalities.
    fn link(&mut self, g: &[Node], p: &[Node], op: Op) -> Equal {
        if g.iter().chain(p).any(|side| !side.is_scalar()) {
            return Ok(self.equal(&g[0], &p[0])? && self.equal(&g[1], &p[1])?);
        }
        let difference =
            |sides: &[Node]| Node::Add(vec![sides[0].clone(), Node::Neg(sides[1].clone().boxed())]);
        let (a, b) = (difference(g), difference(p));
        if self.proportional(&a, &b, op.is_order())? {
            return Ok(true);
        }
        let has_fraction = |node: &Node| {
            node.any(&|part| matches!(part, Node::Inverse(inner) if inner.has_variables()))
        };
        if op == Op::Eq && (has_fraction(&a) || has_fraction(&b)) {
            let (Some((a, _)), Some((b, _))) = (fraction(&a, 0), fraction(&b, 0)) else {
                return Ok(false);
            };
            return self.proportional(&a, &b, false);
        }
        Ok(false)
    }

    fn proportional(&mut self, a: &Node, b: &Node, needs_positive: bool) -> Equal {
        let residues: Option<Vec<_>> = (0..4)
            .map(|point| modular::evaluate(a, point).zip(modular::evaluate(b, point)))
            .collect();
        let mut is_settled = false;
        if let Some(residues) = residues {
            let (first_a, first_b) = residues[0];
            if residues.iter().all(|(a, b)| a.is_exact && b.is_exact) {
                let is_proportional = residues.iter().all(|(a, b)| {
                    modular::cross_equal(a.value, first_b.value, first_a.value, b.value)
                });
                let is_nonzero = residues.iter().any(|(a, _)| a.value != 0)
                    && residues.iter().any(|(_, b)| b.value != 0);
                if !is_proportional || !is_nonzero {
                    return Ok(false);
                }
                if !needs_positive {
                    return Ok(true);
                }
                is_settled = true;
            }
        }
        // By value: a(x) b(x0) = a(x0) b(x) at every point.
        let p = Precision::new(256);
        let mut first: Option<(Complex, Complex)> = None;
        let mut agreed = 0;
        for point in 0..POINTS {
            let (x, y) = match (
                self.at_point(a, b, point, &p),
                self.at_point(b, a, point, &p),
            ) {
                (Ok(x), Ok(y)) => (x, y),
                (Err(Trouble::Timeout), _) | (_, Err(Trouble::Timeout)) => {
                    return Err(Trouble::Timeout);
                }
                _ => continue,
            };
            match &first {
                None => {
                    let (Some(sign_x), Some(sign_y)) = (x.re.sign(), y.re.sign()) else {
                        continue;
                    };
                    if sign_x * sign_y == 0 {
                        continue;
                    }
                    if needs_positive && sign_x * sign_y < 0 {
                        return Ok(false);
                    }
                    if is_settled {
                        return Ok(true);
                    }
                    first = Some((x, y));
                }
                Some((x0, y0)) => {
                    if same(&x.mul(y0, &p)?, &y.mul(x0, &p)?, &p) != Some(true) {
                        return Ok(false);
                    }
                    agreed += 1;
                }
            }
        }
        Ok(agreed >= DEFINED)
    }

    // ---- numbers and expressions ----

    /// Two values, with percent signs and degrees settled first.
    fn scalars(&mut self, g: &Node, p: &Node) -> Equal {
        match (g, p) {
            (Node::Degrees(a), Node::Degrees(b)) => return self.scalars(a, b),
            (Node::Degrees(a), b) => {
                if self.scalars(a, b)? {
                    return Ok(true);
                }
                return if self.policy.angle_units {
                    self.radians(a, b)
                } else {
                    Ok(false)
                };
            }
            (a, Node::Degrees(b)) => {
                if self.scalars(a, b)? {
                    return Ok(true);
                }
                return if self.policy.angle_units {
                    self.radians(b, a)
                } else {
                    Ok(false)
                };
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
                if self.policy.percent_lenient && self.scalars_equal(a, b)? {
                    self.flags.push(Flag::PercentAssumed);
                    return Ok(true);
                }
                return Ok(false);
            }
            _ => {}
        }
        self.scalars_equal(g, p)
    }

    fn radians(&mut self, degrees: &Node, radians: &Node) -> Equal {
        let turned = Node::Mul(vec![
            degrees.clone(),
            Node::Pi,
            Node::Inverse(Node::int(180).boxed()),
        ]);
        self.scalars_equal(&turned, radians)
    }

    fn scalars_equal(&mut self, g: &Node, p: &Node) -> Equal {
        if g == p {
            return Ok(true);
        }
        if has_infinity(g) || has_infinity(p) {
            self.method = Method::Numeric;
            return Ok(infinity_sign(g).is_some() && infinity_sign(g) == infinity_sign(p));
        }
        let values = (
            exact(g, self.limits, &self.clock),
            exact(p, self.limits, &self.clock),
        );
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
    fn nearly(&mut self, g: &Node, a: &Rational, p: &Node, b: &Rational) -> bool {
        let tolerance = |gold: &Rational, pred: &Rational| match self.policy.rel_tol {
            Some(tolerance) => within(gold, pred, tolerance),
            None => false,
        };
        if tolerance(a, b) {
            self.flags.push(Flag::Approximate);
            return true;
        }
        let is_near = match (literal(g), literal(p)) {
            (None, Some(shown)) if !a.is_finite_decimal() => {
                self.shows_enough(&shown) && rounds_to(a, &shown)
            }
            (Some(shown), None) if !b.is_finite_decimal() => {
                self.shows_enough(&shown) && rounds_to(b, &shown)
            }
            _ => false,
        };
        if is_near {
            self.flags.push(Flag::Approximate);
        }
        is_near
    }

    fn shows_enough(&self, shown: &Shown) -> bool {
        shown.significant >= self.policy.min_significant
            || shown.places >= i64::from(self.policy.min_decimals)
    }

    /// Constants that are not rational: by balls at two precisions, and decimals by their digits.
    fn constants(&mut self, g: &Node, p: &Node) -> Equal {
        let shown = match (literal(g), literal(p)) {
            (Some(shown), None) => Some((shown, p)),
            (None, Some(shown)) => Some((shown, g)),
            _ => None,
        };
        if let Some((shown, other)) = shown.filter(|(shown, _)| self.shows_enough(shown)) {
            if let Some(value) = self.near_rational(other)? {
                if rounds_to(&value, &shown) {
                    self.method = Method::Decimal;
                    self.flags.push(Flag::Approximate);
                    return Ok(true);
                }
            }
        }
        if let Some(tolerance) = self.policy.rel_tol {
            if let (Some(a), Some(b)) = (self.near_rational(g)?, self.near_rational(p)?) {
                if within(&a, &b, tolerance) {
                    self.flags.push(Flag::Approximate);
                    return Ok(true);
                }
            }
        }
        if let (Some(a), Some(b)) = (modular::evaluate(g, 0), modular::evaluate(p, 0)) {
            if a.is_exact && b.is_exact && a.value != b.value {
                return Ok(false);
            }
        }
        let mut trouble = Trouble::Imprecise;
        for bits in [256, 768, 4096] {
            let precision = Precision::new(bits);
            let value = |node: &Node| {
                Evaluator::new(&precision, Vec::new(), self.limits, &self.clock).value(node)
            };
            match (value(g), value(p)) {
                (Ok(a), Ok(b)) => match same(&a, &b, &precision) {
                    Some(true) if bits >= 768 => return Ok(true),
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
    fn near_rational(&mut self, node: &Node) -> Result<Option<Rational>, Trouble> {
        if let Some(value) = exact(node, self.limits, &self.clock)? {
            return Ok(Some(value));
        }
        let p = Precision::new(256);
        let value = match Evaluator::new(&p, Vec::new(), self.limits, &self.clock).value(node) {
            Ok(value) => value,
            Err(Trouble::Timeout) => return Err(Trouble::Timeout),
            Err(_) => return Ok(None),
        };
        Ok(if value.im.is_some() {
            None
        } else {
            value.re.to_rational()
        })
    }

    /// Expressions in variables: residues at four points, then values at random points.
    fn symbolic(&mut self, g: &Node, p: &Node) -> Equal {
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
                match (
                    self.at_point(g, p, point, precision),
                    self.at_point(p, g, point, precision),
                ) {
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
    fn at_point(
        &self,
        node: &Node,
        other: &Node,
        point: u64,
        p: &Precision,
    ) -> Result<Complex, Trouble> {
        let mut names = Vec::new();
        node.variables(&mut names);
        other.variables(&mut names);
        names.sort();
        let is_discrete = |node: &Node| {
            node.any(&|part| {
                matches!(part, Node::Call(func, _) if func.is_discrete())
                    || matches!(part, Node::Series { .. })
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
                    let sign = if point >= 6 && (random >> 40) % 2 == 1 {
                        -1
                    } else {
                        1
                    };
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

    // ---- sets of reals ----

    /// The set of reals that a node describes. `as_interval` reads `(a, b)` as an interval.
    fn region(&mut self, node: &Node, as_interval: bool) -> Result<Option<Region>, Trouble> {
        let whole = || Piece {
            low: End::infinite(),
            high: End::infinite(),
        };
        Ok(match node {
            Node::Numbers('R') => Some(vec![whole()]),
            Node::Group { open, items, close }
                if as_interval && items.len() == 2 && items.iter().all(Node::is_scalar) =>
            {
                let (Some(low), Some(high)) = (
                    self.end(&items[0], *open == '[', -1)?,
                    self.end(&items[1], *close == ']', 1)?,
                ) else {
                    return Ok(None);
                };
                Some(vec![Piece { low, high }])
            }
            Node::Set(items) => {
                let mut region = Vec::new();
                for item in items {
                    let value = match item {
                        _ if item.is_scalar() => item.clone(),
                        other => match assignment(other) {
                            Some((_, value)) if value.is_scalar() => value,
                            _ => return Ok(None),
                        },
                    };
                    let (Some(low), Some(high)) =
                        (self.end(&value, true, 0)?, self.end(&value, true, 0)?)
                    else {
                        return Ok(None);
                    };
                    region.push(Piece { low, high });
                }
                Some(region)
            }
            Node::Union(items) => {
                let mut region = Vec::new();
                for item in items {
                    match self.region(item, true)? {
                        Some(more) => region.extend(more),
                        None => return Ok(None),
                    }
                }
                Some(region)
            }
            Node::List(items) if is_region(node) => {
                // `x < a or x > b` joins; `x > a, x != b` meets.
                let mut joined: Option<Region> = None;
                let mut variable = None;
                for item in items {
                    let name = region_variable(item);
                    if variable.is_some() && name != variable {
                        return Ok(None);
                    }
                    variable = name;
                    let Some(more) = self.region(item, true)? else {
                        return Ok(None);
                    };
                    let excludes = matches!(item, Node::Relation(_, ops) if ops == &[Op::Ne]);
                    joined = Some(match joined {
                        None => more,
                        Some(old) if excludes => self.intersection(&old, &more)?,
                        Some(mut old) => {
                            old.extend(more);
                            old
                        }
                    });
                }
                joined
            }
            Node::Minus(a, b) => {
                let (Some(a), Some(b)) = (self.region(a, true)?, self.region(b, true)?) else {
                    return Ok(None);
                };
                let outside = self.complement(b)?;
                Some(self.intersection(&a, &outside)?)
            }
            Node::Intersection(items) => {
                let mut region = vec![whole()];
                for item in items {
                    match self.region(item, true)? {
                        Some(more) => region = self.intersection(&region, &more)?,
                        None => return Ok(None),
                    }
                }
                Some(region)
            }
            Node::In(member, set) if is_lone(member) => self.region(set, true)?,
            Node::Relation(sides, ops) => self.solved(sides, ops)?,
            _ => None,
        })
    }

    /// The solutions of `x < a`, `a <= x < b`, `x != a` and their mirror images.
    fn solved(&mut self, sides: &[Node], ops: &[Op]) -> Result<Option<Region>, Trouble> {
        let at = match sides.iter().position(is_lone) {
            Some(at)
                if sides.iter().enumerate().all(|(index, side)| {
                    index == at || (side.is_scalar() && !side.has_variables())
                }) =>
            {
                at
            }
            _ => return Ok(None),
        };
        let mut low = End::infinite();
        let mut high = End::infinite();
        match (sides.len(), at, ops) {
            (2, _, [Op::Ne]) => {
                let value = &sides[1 - at];
                let (Some(left), Some(right)) =
                    (self.end(value, false, 0)?, self.end(value, false, 0)?)
                else {
                    return Ok(None);
                };
                return Ok(Some(vec![
                    Piece {
                        low: End::infinite(),
                        high: left,
                    },
                    Piece {
                        low: right,
                        high: End::infinite(),
                    },
                ]));
            }
            (2, _, [Op::Eq]) => {
                let value = &sides[1 - at];
                let (Some(low), Some(high)) =
                    (self.end(value, true, 0)?, self.end(value, true, 0)?)
                else {
                    return Ok(None);
                };
                return Ok(Some(vec![Piece { low, high }]));
            }
            (2, _, [op]) if op.is_order() => {
                let op = if at == 0 { *op } else { op.flipped() };
                let is_closed = matches!(op, Op::Le | Op::Ge);
                let is_upper = matches!(op, Op::Lt | Op::Le);
                let Some(end) =
                    self.end(&sides[1 - at], is_closed, if is_upper { 1 } else { -1 })?
                else {
                    return Ok(None);
                };
                if is_upper { high = end } else { low = end }
            }
            (3, 1, [a, b]) if a.is_order() && b.is_order() => {
                let is_rising = matches!(a, Op::Lt | Op::Le);
                if is_rising != matches!(b, Op::Lt | Op::Le) {
                    return Ok(None);
                }
                let (first, last, a, b) = if is_rising {
                    (0, 2, *a, *b)
                } else {
                    (2, 0, b.flipped(), a.flipped())
                };
                let (Some(left), Some(right)) = (
                    self.end(&sides[first], a == Op::Le, -1)?,
                    self.end(&sides[last], b == Op::Le, 1)?,
                ) else {
                    return Ok(None);
                };
                (low, high) = (left, right);
            }
            _ => return Ok(None),
        }
        Ok(Some(vec![Piece { low, high }]))
    }

    /// An end of an interval; `side` says which infinity may stand there (-1 left, 1 right, 0 none).
    fn end(&mut self, node: &Node, is_closed: bool, side: i32) -> Result<Option<End>, Trouble> {
        if let Some(sign) = infinity_sign(node) {
            return Ok((sign == side).then(End::infinite));
        }
        if node.has_variables() {
            return Ok(None);
        }
        let p = Precision::new(256);
        let value = Evaluator::new(&p, Vec::new(), self.limits, &self.clock).value(node)?;
        Ok(if value.im.is_some() {
            None
        } else {
            Some(End {
                at: Some((node.clone(), value.re)),
                is_closed,
            })
        })
    }

    fn order(&mut self, a: &(Node, Ball), b: &(Node, Ball)) -> Result<Ordering, Trouble> {
        if let Some(sign) = a.1.sub(&b.1, &Precision::new(256)).sign() {
            return Ok(sign.cmp(&0));
        }
        Ok(if self.scalars_equal(&a.0, &b.0)? {
            Ordering::Equal
        } else {
            Ordering::Less
        })
    }

    /// Pieces sorted, joined where they touch, empty ones dropped.
    fn tidy(&mut self, region: Region) -> Result<Region, Trouble> {
        if region.len() > self.limits.set_items {
            return Err(Trouble::TooLarge);
        }
        let mut kept: Region = Vec::new();
        for piece in region {
            if let (Some(a), Some(b)) = (&piece.low.at, &piece.high.at) {
                match self.order(a, b)? {
                    Ordering::Greater => continue,
                    Ordering::Equal if !(piece.low.is_closed && piece.high.is_closed) => continue,
                    _ => {}
                }
            }
            let mut at = 0;
            while at < kept.len() && self.starts_before(&kept[at].low.clone(), &piece.low)? {
                at += 1;
            }
            kept.insert(at, piece);
        }
        let mut joined: Region = Vec::new();
        for piece in kept {
            let Some(last) = joined.last().cloned() else {
                joined.push(piece);
                continue;
            };
            let touches = match (&last.high.at, &piece.low.at) {
                (None, _) | (_, None) => true,
                (Some(a), Some(b)) => match self.order(a, b)? {
                    Ordering::Greater => true,
                    Ordering::Equal => last.high.is_closed || piece.low.is_closed,
                    Ordering::Less => false,
                },
            };
            if !touches {
                joined.push(piece);
                continue;
            }
            let high = match (&last.high.at, &piece.high.at) {
                (None, _) => last.high.clone(),
                (_, None) => piece.high.clone(),
                (Some(a), Some(b)) => match self.order(a, b)? {
                    Ordering::Greater => last.high.clone(),
                    Ordering::Less => piece.high.clone(),
                    Ordering::Equal => End {
                        at: last.high.at.clone(),
                        is_closed: last.high.is_closed || piece.high.is_closed,
                    },
                },
            };
            joined.last_mut().expect("a last piece was seen").high = high;
        }
        Ok(joined)
    }

    fn starts_before(&mut self, a: &End, b: &End) -> Equal {
        Ok(match (&a.at, &b.at) {
            (None, _) => true,
            (_, None) => false,
            (Some(x), Some(y)) => match self.order(x, y)? {
                Ordering::Less => true,
                Ordering::Greater => false,
                Ordering::Equal => a.is_closed,
            },
        })
    }

    fn complement(&mut self, region: Region) -> Result<Region, Trouble> {
        let mut gaps = Vec::new();
        let mut low = End::infinite();
        let mut reaches_end = false;
        for piece in self.tidy(region)? {
            if piece.low.at.is_some() {
                gaps.push(Piece {
                    low: low.clone(),
                    high: End {
                        at: piece.low.at,
                        is_closed: !piece.low.is_closed,
                    },
                });
            }
            reaches_end = piece.high.at.is_none();
            low = End {
                is_closed: !piece.high.is_closed,
                at: piece.high.at,
            };
        }
        if !reaches_end {
            gaps.push(Piece {
                low,
                high: End::infinite(),
            });
        }
        Ok(gaps)
    }

    fn intersection(&mut self, a: &Region, b: &Region) -> Result<Region, Trouble> {
        let mut both = Vec::new();
        for x in a {
            for y in b {
                let low = if self.starts_before(&x.low, &y.low)? {
                    &y.low
                } else {
                    &x.low
                };
                let high = match (&x.high.at, &y.high.at) {
                    (None, _) => &y.high,
                    (_, None) => &x.high,
                    (Some(p), Some(q)) => match self.order(p, q)? {
                        Ordering::Less => &x.high,
                        Ordering::Greater => &y.high,
                        Ordering::Equal if x.high.is_closed => &y.high,
                        Ordering::Equal => &x.high,
                    },
                };
                both.push(Piece {
                    low: low.clone(),
                    high: high.clone(),
                });
            }
        }
        self.tidy(both)
    }

    fn same_region(&mut self, a: Region, b: Region) -> Equal {
        let (a, b) = (self.tidy(a)?, self.tidy(b)?);
        if a.len() != b.len() {
            return Ok(false);
        }
        for (x, y) in a.iter().zip(&b) {
            for (p, q) in [(&x.low, &y.low), (&x.high, &y.high)] {
                let same = match (&p.at, &q.at) {
                    (None, None) => true,
                    (Some(u), Some(v)) => {
                        p.is_closed == q.is_closed && self.scalars_equal(&u.0, &v.0)?
                    }
                    _ => false,
                };
                if !same {
                    return Ok(false);
                }
            }
        }
        self.method = Method::Interval;
        Ok(true)
    }
}

type Region = Vec<Piece>;

#[derive(Debug, Clone)]
struct Piece {
    low: End,
    high: End,
}

/// An end of a piece; without a value it is infinite.
#[derive(Debug, Clone)]
struct End {
    at: Option<(Node, Ball)>,
    is_closed: bool,
}

impl End {
    fn infinite() -> Self {
        End {
            at: None,
            is_closed: false,
        }
    }
}

/// Whether two complex balls are the same number: `None` when they meet but are too wide to tell.
fn same(a: &Complex, b: &Complex, p: &Precision) -> Option<bool> {
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

/// A decimal as it was written.
struct Shown {
    value: Rational,
    places: i64,
    significant: u32,
}

/// The decimal literal that a node is, scientific notation included.
fn literal(node: &Node) -> Option<Shown> {
    match node {
        Node::Dec {
            value,
            places,
            significant,
        } => Some(Shown {
            value: value.clone(),
            places: i64::from(*places),
            significant: *significant,
        }),
        Node::Neg(inner) => literal(inner).map(|shown| Shown {
            value: shown.value.neg(),
            ..shown
        }),
        Node::Mul(parts) => match &parts[..] {
            [
                Node::Dec {
                    value,
                    places,
                    significant,
                },
                Node::Pow(base, exponent),
            ] if **base == Node::int(10) => {
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
fn rounds_to(value: &Rational, shown: &Shown) -> bool {
    let Some(unit) = Rational::from(10).pow(-shown.places.clamp(-10_000, 10_000)) else {
        return false;
    };
    let gap = value.sub(&shown.value).abs();
    let is_rounded = gap.mul(&Rational::from(2)).cmp(&unit).is_le();
    let is_cut = gap.cmp(&unit).is_lt() && value.abs().cmp(&shown.value.abs()).is_ge();
    is_rounded || is_cut
}

fn within(gold: &Rational, pred: &Rational, tolerance: f64) -> bool {
    let Some(tolerance) = Rational::decimal(&format!("{tolerance:.15}")) else {
        return false;
    };
    gold.sub(pred)
        .abs()
        .cmp(&gold.abs().mul(&tolerance))
        .is_le()
}

fn has_infinity(node: &Node) -> bool {
    infinity_sign(node).is_some() || node.any(&|part| matches!(part, Node::Infinity))
}

/// 1 or -1 for an infinity with its sign.
fn infinity_sign(node: &Node) -> Option<i32> {
    match node {
        Node::Infinity => Some(1),
        Node::Neg(inner) => infinity_sign(inner).map(|sign| -sign),
        _ => None,
    }
}

/// Whether a node describes a set of reals on its face.
fn is_region(node: &Node) -> bool {
    match node {
        Node::Union(_) | Node::Numbers('R') | Node::Minus(..) => true,
        Node::Intersection(_) => true,
        Node::Relation(sides, ops) => {
            ops.iter().all(|op| op.is_order() || *op == Op::Ne)
                && sides.iter().any(is_lone)
                && sides.iter().filter(|side| side.has_variables()).count() == 1
        }
        Node::In(_, set) => is_region(set) || matches!(**set, Node::Group { .. }),
        Node::List(items) => {
            items.iter().any(is_region)
                && items.iter().all(|item| is_region(item) || is_point(item))
        }
        Node::Group { items, .. } => {
            items.len() == 2 && items.iter().any(|item| infinity_sign(item).is_some())
        }
        _ => false,
    }
}

/// Whether a node names one value: `x = 1`.
fn is_point(node: &Node) -> bool {
    assignment(node).is_some_and(|(_, value)| value.is_scalar() && !value.has_variables())
}

/// The variable that an inequality bounds.
fn region_variable(node: &Node) -> Option<&Node> {
    match node {
        Node::Relation(sides, _) => sides.iter().find(|side| is_lone(side)),
        Node::In(member, _) => Some(member),
        _ => None,
    }
}

/// Whether a node only names something: `x`, `f(x)`, `AB`, `(x, y)`.
fn is_lone(node: &Node) -> bool {
    let is_capital = |node: &Node| matches!(node, Node::Sym(name) if name.starts_with(|c: char| c.is_ascii_uppercase()));
    match node {
        Node::Sym(_) | Node::Apply(..) => true,
        Node::Mul(items) => items.iter().all(is_capital),
        Node::Group {
            open: '(',
            items,
            close: ')',
        } => items.iter().all(|item| matches!(item, Node::Sym(_))),
        _ => false,
    }
}

/// The sides of a chain of equations, those after a sign of near equality left out.
fn equal_sides(node: &Node) -> Option<Vec<Node>> {
    let Node::Relation(sides, ops) = node else {
        return None;
    };
    if !ops.iter().all(|op| matches!(op, Op::Eq | Op::Approx)) {
        return None;
    }
    let exact = ops
        .iter()
        .position(|op| *op == Op::Approx)
        .map_or(sides.len(), |at| at + 1);
    let exact = if exact == 1 && is_lone(&sides[0]) {
        2
    } else {
        exact
    };
    Some(sides[..exact].to_vec())
}

/// `name = ... = value`: the name and the value.
fn assignment(node: &Node) -> Option<(Node, Node)> {
    let sides = equal_sides(node)?;
    let (first, last) = (sides.first()?, sides.last()?);
    if sides.len() < 2 || !is_lone(first) {
        // `5 = x`
        return match &sides[..] {
            [value, name] if is_lone(name) && !value.has_variables() => {
                Some((name.clone(), value.clone()))
            }
            _ => None,
        };
    }
    Some((first.clone(), last.clone()))
}

/// The values of `x = 1, y = 2` when every item names another variable; roots `x_1 = .., x_2 = ..` of
/// one variable are no such list.
fn named_values(items: &[Node]) -> Option<Vec<Node>> {
    let pairs: Vec<(Node, Node)> = items.iter().map(assignment).collect::<Option<_>>()?;
    let letter = |name: &Node| match name {
        Node::Sym(name) => name.split('_').next().unwrap_or("").to_string(),
        other => format!("{other:?}"),
    };
    let names: Vec<String> = pairs.iter().map(|(name, _)| letter(name)).collect();
    let are_distinct = (1..names.len()).all(|at| !names[..at].contains(&names[at]));
    are_distinct.then(|| pairs.into_iter().map(|(_, value)| value).collect())
}

/// Both signs of a `+-` written out, wherever it stands in a value.
fn expanded(node: &Node) -> Node {
    let has_choice = |node: &Node| node.any(&|part| matches!(part, Node::PlusMinus(..)));
    if !has_choice(node) {
        return node.clone();
    }
    match node {
        Node::List(items) | Node::Set(items) => {
            let mut all = Vec::new();
            for item in items {
                match expanded(item) {
                    Node::List(more) if has_choice(item) => all.extend(more),
                    other => all.push(other),
                }
            }
            if matches!(node, Node::Set(_)) {
                Node::Set(all)
            } else {
                Node::List(all)
            }
        }
        other => Node::List(vec![signed(other, false), signed(other, true)]),
    }
}

fn signed(node: &Node, is_second: bool) -> Node {
    match node {
        Node::PlusMinus(base, term, is_lower) => {
            let term = signed(term, is_second);
            let term = if is_second != *is_lower {
                Node::Neg(term.boxed())
            } else {
                term
            };
            match base {
                Some(base) => Node::Add(vec![signed(base, is_second), term]),
                None => term,
            }
        }
        other => other.rebuilt(&|part| signed(part, is_second)),
    }
}

/// The rows of a matrix, scalar factors, signs and sums worked in.
fn matrix(node: &Node) -> Option<Vec<Vec<Node>>> {
    let each = |rows: Vec<Vec<Node>>, change: &dyn Fn(Node) -> Node| {
        rows.into_iter()
            .map(|row| row.into_iter().map(change).collect())
            .collect()
    };
    match node {
        Node::Matrix(rows) => Some(rows.clone()),
        Node::Neg(inner) => Some(each(matrix(inner)?, &|cell| Node::Neg(cell.boxed()))),
        Node::Mul(items) => {
            let mut rows = None;
            let mut factors = Vec::new();
            for item in items {
                match matrix(item) {
                    Some(_) if rows.is_some() => return None,
                    Some(found) => rows = Some(found),
                    None if item.is_scalar() => factors.push(item.clone()),
                    None => return None,
                }
            }
            Some(each(rows?, &|cell| {
                Node::Mul(factors.iter().cloned().chain([cell]).collect())
            }))
        }
        Node::Add(items) => {
            let mut sum: Option<Vec<Vec<Node>>> = None;
            for item in items {
                let rows = matrix(item)?;
                sum = Some(match sum {
                    None => rows,
                    Some(old) if old.len() == rows.len() && old[0].len() == rows[0].len() => {
                        let pairs = old.into_iter().zip(rows);
                        pairs
                            .map(|(x, y)| {
                                x.into_iter()
                                    .zip(y)
                                    .map(|(a, b)| Node::Add(vec![a, b]))
                                    .collect()
                            })
                            .collect()
                    }
                    Some(_) => return None,
                });
            }
            sum
        }
        _ => None,
    }
}

/// Numerator and denominator of an expression, not reduced. `None` when it would grow too large.
fn fraction(node: &Node, depth: usize) -> Option<(Node, Node)> {
    if depth > 12 {
        return None;
    }
    let one = || Node::int(1);
    Some(match node {
        Node::Neg(a) => {
            let (num, den) = fraction(a, depth + 1)?;
            (Node::Neg(num.boxed()), den)
        }
        Node::Inverse(a) => {
            let (num, den) = fraction(a, depth + 1)?;
            (den, num)
        }
        Node::Mul(items) if items.len() <= 12 => {
            let parts: Vec<(Node, Node)> = items
                .iter()
                .map(|item| fraction(item, depth + 1))
                .collect::<Option<_>>()?;
            let (nums, dens) = parts.into_iter().unzip();
            (Node::Mul(nums), Node::Mul(dens))
        }
        Node::Add(items) if items.len() <= 6 => {
            let parts: Vec<(Node, Node)> = items
                .iter()
                .map(|item| fraction(item, depth + 1))
                .collect::<Option<_>>()?;
            let mut dens: Vec<Node> = Vec::new();
            for (_, den) in &parts {
                let is_one = matches!(den, Node::Num(value) if value.is_one())
                    || matches!(den, Node::Mul(items) if items.iter().all(|item| *item == one()));
                if !is_one && !dens.contains(den) {
                    dens.push(den.clone());
                }
            }
            let terms = parts
                .into_iter()
                .map(|(num, den)| {
                    Node::Mul(
                        std::iter::once(num)
                            .chain(dens.iter().filter(|other| **other != den).cloned())
                            .collect(),
                    )
                })
                .collect();
            dens.push(one());
            (Node::Add(terms), Node::Mul(dens))
        }
        other => (other.clone(), one()),
    })
}

fn based_value(digits: &str, base: u32) -> Option<Rational> {
    let mut value = num_bigint::BigInt::from(0);
    let mut scale = num_bigint::BigInt::one();
    for c in digits.chars().rev() {
        let digit = c.to_digit(36).filter(|digit| *digit < base)?;
        value += &scale * digit;
        scale *= base;
    }
    Some(Rational::integer(value))
}
