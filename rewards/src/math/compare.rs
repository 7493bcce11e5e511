//! Are two parsed answers the same? One function a kind of answer.

use num_traits::One;

use super::ast::Node;
use super::ball::Trouble;
use super::counting::written_out;
use super::exact::{Clock, exact};
use super::matrix::matrix;
use super::rational::Rational;
use super::region::{is_region, names_another};
use super::relation::{assignment, coordinates, equal_sides, is_lone, named_values, without_conditions};
use super::scalar::has_infinity;
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

pub(super) type Equal = Result<bool, Trouble>;

impl Comparison<'_> {
    /// Whether the prediction `p` is the gold `g`.
    pub(crate) fn equal(&mut self, g: &Node, p: &Node) -> Equal {
        self.clock.check()?;
        if g == p {
            if self.method == Method::None {
                self.method = Method::Exact;
            }
            return Ok(true);
        }
        let (g, p) = (expanded(g), expanded(p));
        let (g, p) = (&g, &p);
        match (without_conditions(g), without_conditions(p)) {
            (Some(bare), None) if !matches!(p, Node::List(_)) => return self.equal(&bare, p),
            (None, Some(bare)) if !matches!(g, Node::List(_)) => return self.equal(g, &bare),
            _ => {}
        }
        // An inequality, union or set of numbers on either side makes both sides sets of reals.
        if is_region(g) || is_region(p) {
            if names_another(g, p) {
                return Ok(false);
            }
            let sets = (self.region(g, true)?, self.region(p, true)?);
            if let (Some(a), Some(b)) = sets {
                self.method = Method::Interval;
                return self.same_region(a, b);
            }
        }
        if let (Node::In(a, s), Node::In(b, t)) = (g, p) {
            return Ok(a == b && self.equal(s, t)?);
        }
        // `x \in S` names S; `-x \in S` does not.
        match (g, p) {
            (_, Node::In(member, set)) if is_lone(member) => return self.equal(g, set),
            (Node::In(member, set), _) if is_lone(member) => return self.equal(set, p),
            (_, Node::In(..)) | (Node::In(..), _) => return self.mismatch(),
            _ => {}
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
            (Node::Ratio(parts), other) | (other, Node::Ratio(parts)) if parts.len() == 2 && other.is_scalar() => {
                let quotient = Node::Mul(vec![parts[0].clone(), Node::Inverse(parts[1].clone().boxed())]);
                self.equal(&quotient, other)
            }
            _ => self.collections(g, p),
        }
    }

    pub(super) fn mismatch(&mut self) -> Equal {
        self.is_mismatch = true;
        Ok(false)
    }

    /// The value that a chain of equations ends in, when it names one value.
    pub(super) fn value_of(&mut self, node: &Node) -> Result<Option<Node>, Trouble> {
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
        for (index, side) in rest.iter().enumerate() {
            // In `a+b = 3+4 = 7` the first side is what is asked for; `2x = 10` is an equation.
            let is_asked = index == 0 && rest.len() >= 2 && side.is_scalar() && !last.has_variables();
            if is_lone(side) || is_asked {
                continue;
            }
            let is_value = side.is_scalar() && last.is_scalar() && (!side.has_variables() || last.has_variables());
            if !is_value || !self.scalars_equal(side, last)? {
                return Ok(None);
            }
        }
        Ok(Some(last.clone()))
    }

    pub(super) fn collections(&mut self, g: &Node, p: &Node) -> Equal {
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
            (Node::Group { open: a, items: x, close: b }, Node::Group { open: c, items: y, close: d }) => {
                let is_interval = x.len() == 2 && x.iter().chain(y).any(has_infinity);
                self.method = if is_interval || (*a, *b) != ('(', ')') { Method::Interval } else { Method::Tuple };
                if !is_interval && ((a == &'(') != (c == &'(') || (b == &')') != (d == &')')) {
                    return Ok(false);
                }
                if is_interval && let (Some(a), Some(b)) = (self.region(g, true)?, self.region(p, true)?) {
                    return self.same_region(a, b);
                }
                self.in_order(x, y)
            }
            (Node::Group { open: '(', items, close: ')' }, Node::List(others)) => {
                self.method = Method::Tuple;
                let named = coordinates(others);
                self.in_order(items, named.as_deref().unwrap_or(others))
            }
            (Node::Group { .. }, Node::Mul(_) | Node::Apply(..)) => match point(p) {
                Some(bare) => self.equal(g, &bare),
                None => self.mismatch(),
            },
            (Node::Mul(_) | Node::Apply(..), Node::Group { .. }) => match point(g) {
                Some(bare) => self.equal(&bare, p),
                None => self.mismatch(),
            },
            (Node::List(items), Node::Group { open: '(', items: others, close: ')' }) => {
                // Named values have an order; a bare list of solutions is no point.
                self.method = Method::Tuple;
                match coordinates(items) {
                    Some(values) => self.in_order(&values, others),
                    None => self.mismatch(),
                }
            }
            (Node::Set(one), Node::Group { .. }) if one.len() == 1 => self.equal(&one[0], p),
            (Node::Group { .. }, Node::Set(one)) if one.len() == 1 => self.equal(g, &one[0]),
            (Node::Group { .. }, Node::Set(_)) | (Node::Set(_), Node::Group { .. }) => self.mismatch(),
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
            // `\mathbf{R}`, and a plain R, for the numbers that the gold names.
            (Node::Numbers(a), Node::Sym(b)) => Ok(*b == a.to_string()),
            (Node::Union(a), Node::Union(b)) | (Node::Intersection(a), Node::Intersection(b)) => {
                self.method = Method::Set;
                self.matching(a, b)
            }
            (Node::Minus(a, b), Node::Minus(c, d)) => Ok(self.equal(a, c)? && self.equal(b, d)?),
            _ if g.is_scalar() && p.is_scalar() => match written_out(g, p) {
                Some((g, p)) => self.scalars(&g, &p),
                None => self.scalars(g, p),
            },
            _ => self.mismatch(),
        }
    }

    pub(super) fn in_order(&mut self, g: &[Node], p: &[Node]) -> Equal {
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
    pub(super) fn lists(&mut self, g: &[Node], p: &[Node]) -> Equal {
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
    pub(super) fn matching(&mut self, g: &[Node], p: &[Node]) -> Equal {
        if g.len() != p.len() {
            return Ok(false);
        }
        if g.len() > 12
            && let Some(equal) = self.sorted_match(g, p)?
        {
            return Ok(equal);
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

    pub(super) fn sorted_match(&mut self, g: &[Node], p: &[Node]) -> Result<Option<bool>, Trouble> {
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
    pub(super) fn distinct(&mut self, items: &[Node]) -> Result<Vec<Node>, Trouble> {
        let mut kept: Vec<Node> = Vec::new();
        for item in items {
            let mut is_known = kept.contains(item);
            // By value in short lists only: longer ones would take a quadratic number of evaluations.
            if !is_known && items.len() <= 24 && item.is_scalar() && !item.has_variables() {
                for other in kept.iter().filter(|other| other.is_scalar() && !other.has_variables()) {
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

    pub(super) fn ratios(&mut self, g: &[Node], p: &[Node]) -> Equal {
        self.method = Method::Rational;
        if g.len() != p.len() {
            return Ok(false);
        }
        if g.iter().chain(p).any(|part| !part.is_scalar()) {
            return self.in_order(g, p);
        }
        // A nought would make anything proportional.
        for part in g.iter().chain(p) {
            if self.scalars_equal(part, &Node::int(0))? {
                return self.in_order(g, p);
            }
        }
        for index in 1..g.len() {
            let cross = |a: &Node, b: &Node| Node::Mul(vec![a.clone(), b.clone()]);
            if !self.scalars_equal(&cross(&g[0], &p[index]), &cross(&g[index], &p[0]))? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub(super) fn based(&mut self, g: &Node, p: &Node) -> Equal {
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
                Ok(self.policy.base_value && based_value(digits, *base).is_some_and(|digits| digits == value))
            }
            _ => Ok(false),
        }
    }
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
            if matches!(node, Node::Set(_)) { Node::Set(all) } else { Node::List(all) }
        }
        other => Node::List(vec![signed(other, false), signed(other, true)]),
    }
}

fn signed(node: &Node, is_second: bool) -> Node {
    match node {
        Node::PlusMinus(base, term, is_lower) => {
            let term = signed(term, is_second);
            let term = if is_second != *is_lower { Node::Neg(term.boxed()) } else { term };
            match base {
                Some(base) => Node::Add(vec![signed(base, is_second), term]),
                None => term,
            }
        }
        other => other.rebuilt(&|part| signed(part, is_second)),
    }
}

/// The coordinates of a point with its name before them: `P(3,-4)`.
fn point(node: &Node) -> Option<Node> {
    let is_name = |name: &str| name.len() == 1 && name.starts_with(|c: char| c.is_ascii_uppercase());
    match node {
        Node::Mul(items) => match &items[..] {
            [Node::Sym(name), bare @ Node::Group { open: '(', .. }] if is_name(name) => Some(bare.clone()),
            _ => None,
        },
        Node::Apply(name, items) if is_name(name) && items.len() > 1 => {
            Some(Node::Group { open: '(', items: items.clone(), close: ')' })
        }
        _ => None,
    }
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
