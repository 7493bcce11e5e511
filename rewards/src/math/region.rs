//! Sets of reals: intervals, unions, and the solutions of inequalities in one variable.

use std::cmp::Ordering;

use super::Method;
use super::ast::{Func, Node, Op};
use super::ball::{Ball, Precision, Trouble};
use super::compare::{Comparison, Equal};
use super::evaluate::Evaluator;
use super::relation::{assignment, is_lone};
use super::scalar::infinity_sign;

impl Comparison<'_> {
    /// The set of reals that a node describes. `as_interval` reads `(a, b)` as an interval.
    pub(super) fn region(&mut self, node: &Node, as_interval: bool) -> Result<Option<Region>, Trouble> {
        let whole = || Piece { low: End::infinite(), high: End::infinite() };
        Ok(match node {
            Node::Numbers('R') => Some(vec![whole()]),
            Node::Group { open, items, close }
                if as_interval && items.len() == 2 && items.iter().all(Node::is_scalar) =>
            {
                let (Some(low), Some(high)) =
                    (self.end(&items[0], *open == '[', -1)?, self.end(&items[1], *close == ']', 1)?)
                else {
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
                    let (Some(low), Some(high)) = (self.end(&value, true, 0)?, self.end(&value, true, 0)?) else {
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
                if let Some(region) = self.both(items)? {
                    return Ok(Some(region));
                }
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

    /// What two inequalities in one variable bound together: `x >= 0 and x <= 1` is an interval, for as a
    /// union it would be everything. `None` where they do not meet: then either may hold.
    fn both(&mut self, items: &[Node]) -> Result<Option<Region>, Trouble> {
        let [Node::Relation(a, op), Node::Relation(b, other)] = items else { return Ok(None) };
        if !op.iter().chain(other).all(|op| op.is_order()) || region_variable(&items[0]) != region_variable(&items[1]) {
            return Ok(None);
        }
        let (Some(a), Some(b)) = (self.solved(a, op)?, self.solved(b, other)?) else { return Ok(None) };
        let met = self.intersection(&a, &b)?;
        Ok((!met.is_empty()).then_some(met))
    }

    /// The solutions of `|x - a| < c` and the like.
    fn around(&mut self, sides: &[Node], ops: &[Op]) -> Result<Option<Region>, Trouble> {
        let ([one, other], [op]) = (sides, ops) else { return Ok(None) };
        let (inner, bound, op) = match (distance(one), distance(other)) {
            (Some(inner), None) => (inner, other, *op),
            (None, Some(inner)) => (inner, one, op.flipped()),
            _ => return Ok(None),
        };
        if !op.is_order() || bound.has_variables() || !bound.is_scalar() {
            return Ok(None);
        }
        let (name, centre) = inner;
        let low = Node::Add(vec![centre.clone(), Node::Neg(bound.clone().boxed())]);
        let high = Node::Add(vec![centre, bound.clone()]);
        if matches!(op, Op::Lt | Op::Le) {
            return self.solved(&[low, name, high], &[op, op]);
        }
        let (Some(mut below), Some(above)) =
            (self.solved(&[name.clone(), low], &[op.flipped()])?, self.solved(&[name, high], &[op])?)
        else {
            return Ok(None);
        };
        below.extend(above);
        Ok(Some(below))
    }

    /// The solutions of `x < a`, `a <= x < b`, `x != a`, `|x - a| < c` and their mirror images.
    pub(super) fn solved(&mut self, sides: &[Node], ops: &[Op]) -> Result<Option<Region>, Trouble> {
        if let Some(region) = self.around(sides, ops)? {
            return Ok(Some(region));
        }
        let at = match sides.iter().position(is_lone) {
            Some(at)
                if sides
                    .iter()
                    .enumerate()
                    .all(|(index, side)| index == at || (side.is_scalar() && !side.has_variables())) =>
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
                let (Some(left), Some(right)) = (self.end(value, false, 0)?, self.end(value, false, 0)?) else {
                    return Ok(None);
                };
                return Ok(Some(vec![
                    Piece { low: End::infinite(), high: left },
                    Piece { low: right, high: End::infinite() },
                ]));
            }
            (2, _, [Op::Eq]) => {
                let value = &sides[1 - at];
                let (Some(low), Some(high)) = (self.end(value, true, 0)?, self.end(value, true, 0)?) else {
                    return Ok(None);
                };
                return Ok(Some(vec![Piece { low, high }]));
            }
            (2, _, [op]) if op.is_order() => {
                let op = if at == 0 { *op } else { op.flipped() };
                let is_closed = matches!(op, Op::Le | Op::Ge);
                let is_upper = matches!(op, Op::Lt | Op::Le);
                let Some(end) = self.end(&sides[1 - at], is_closed, if is_upper { 1 } else { -1 })? else {
                    return Ok(None);
                };
                if is_upper { high = end } else { low = end }
            }
            (3, 1, [a, b]) if a.is_order() && b.is_order() => {
                let is_rising = matches!(a, Op::Lt | Op::Le);
                if is_rising != matches!(b, Op::Lt | Op::Le) {
                    return Ok(None);
                }
                let (first, last, a, b) = if is_rising { (0, 2, *a, *b) } else { (2, 0, b.flipped(), a.flipped()) };
                let (Some(left), Some(right)) =
                    (self.end(&sides[first], a == Op::Le, -1)?, self.end(&sides[last], b == Op::Le, 1)?)
                else {
                    return Ok(None);
                };
                (low, high) = (left, right);
            }
            _ => return Ok(None),
        }
        Ok(Some(vec![Piece { low, high }]))
    }

    /// An end of an interval; `side` says which infinity may stand there (-1 left, 1 right, 0 none).
    pub(super) fn end(&mut self, node: &Node, is_closed: bool, side: i32) -> Result<Option<End>, Trouble> {
        if let Some(sign) = infinity_sign(node) {
            return Ok((sign == side).then(End::infinite));
        }
        if node.has_variables() {
            return Ok(None);
        }
        let p = Precision::new(256);
        let value = Evaluator::new(&p, Vec::new(), self.limits, &self.clock).value(node)?;
        Ok(if value.im.is_some() { None } else { Some(End { at: Some((node.clone(), value.re)), is_closed }) })
    }

    pub(super) fn order(&mut self, a: &(Node, Ball), b: &(Node, Ball)) -> Result<Ordering, Trouble> {
        if let Some(sign) = a.1.sub(&b.1, &Precision::new(256)).sign() {
            return Ok(sign.cmp(&0));
        }
        Ok(if self.scalars_equal(&a.0, &b.0)? { Ordering::Equal } else { Ordering::Less })
    }

    /// Pieces sorted, joined where they touch, empty ones dropped.
    pub(super) fn tidy(&mut self, region: Region) -> Result<Region, Trouble> {
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
                    Ordering::Equal => {
                        End { at: last.high.at.clone(), is_closed: last.high.is_closed || piece.high.is_closed }
                    }
                },
            };
            joined.last_mut().expect("a last piece was seen").high = high;
        }
        Ok(joined)
    }

    pub(super) fn starts_before(&mut self, a: &End, b: &End) -> Equal {
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

    pub(super) fn complement(&mut self, region: Region) -> Result<Region, Trouble> {
        let mut gaps = Vec::new();
        let mut low = End::infinite();
        let mut reaches_end = false;
        for piece in self.tidy(region)? {
            if piece.low.at.is_some() {
                gaps.push(Piece { low: low.clone(), high: End { at: piece.low.at, is_closed: !piece.low.is_closed } });
            }
            reaches_end = piece.high.at.is_none();
            low = End { is_closed: !piece.high.is_closed, at: piece.high.at };
        }
        if !reaches_end {
            gaps.push(Piece { low, high: End::infinite() });
        }
        Ok(gaps)
    }

    pub(super) fn intersection(&mut self, a: &Region, b: &Region) -> Result<Region, Trouble> {
        let mut both = Vec::new();
        for x in a {
            for y in b {
                let low = if self.starts_before(&x.low, &y.low)? { &y.low } else { &x.low };
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
                both.push(Piece { low: low.clone(), high: high.clone() });
            }
        }
        self.tidy(both)
    }

    pub(super) fn same_region(&mut self, a: Region, b: Region) -> Equal {
        let (a, b) = (self.tidy(a)?, self.tidy(b)?);
        if a.len() != b.len() {
            return Ok(false);
        }
        for (x, y) in a.iter().zip(&b) {
            for (p, q) in [(&x.low, &y.low), (&x.high, &y.high)] {
                let same = match (&p.at, &q.at) {
                    (None, None) => true,
                    (Some(u), Some(v)) => p.is_closed == q.is_closed && self.scalars_equal(&u.0, &v.0)?,
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

pub(super) type Region = Vec<Piece>;

#[derive(Debug, Clone)]
pub(super) struct Piece {
    pub(super) low: End,
    pub(super) high: End,
}

/// An end of a piece; without a value it is infinite.
#[derive(Debug, Clone)]
pub(super) struct End {
    pub(super) at: Option<(Node, Ball)>,
    pub(super) is_closed: bool,
}

impl End {
    fn infinite() -> Self {
        End { at: None, is_closed: false }
    }
}

/// Whether a node describes a set of reals on its face.
pub(super) fn is_region(node: &Node) -> bool {
    match node {
        Node::Union(_) | Node::Numbers('R') | Node::Minus(..) => true,
        Node::Intersection(_) => true,
        Node::Relation(sides, ops) => {
            ops.iter().all(|op| op.is_order() || *op == Op::Ne)
                && sides.iter().any(|side| is_lone(side) || distance(side).is_some())
                && sides.iter().filter(|side| side.has_variables()).count() == 1
        }
        Node::In(_, set) => is_region(set) || matches!(**set, Node::Group { .. }),
        Node::List(items) => items.iter().any(is_region) && items.iter().all(|item| is_region(item) || is_point(item)),
        Node::Group { items, .. } => items.len() == 2 && items.iter().any(|item| infinity_sign(item).is_some()),
        _ => false,
    }
}

/// Whether a node names one value: `x = 1`.
pub(super) fn is_point(node: &Node) -> bool {
    assignment(node).is_some_and(|(_, value)| value.is_scalar() && !value.has_variables())
}

/// The variable that an inequality bounds.
pub(super) fn region_variable(node: &Node) -> Option<Node> {
    match node {
        Node::Relation(sides, _) => {
            let name =
                |side: &Node| if is_lone(side) { Some(side.clone()) } else { distance(side).map(|(name, _)| name) };
            sides.iter().find_map(name)
        }
        Node::In(member, _) => Some((**member).clone()),
        _ => None,
    }
}

/// Whether two inequalities bound variables of different names. A function's values may be called by another name.
pub(super) fn names_another(a: &Node, b: &Node) -> bool {
    match (region_variable(a), region_variable(b)) {
        (Some(a @ Node::Sym(_)), Some(b @ Node::Sym(_))) => a != b,
        _ => false,
    }
}

/// The variable and the centre of `|x|`, `|x - a|`, `|x + a|`.
fn distance(node: &Node) -> Option<(Node, Node)> {
    let Node::Call(Func::Abs, arguments) = node else { return None };
    match &arguments[..] {
        [name @ Node::Sym(_)] => Some((name.clone(), Node::int(0))),
        [Node::Add(terms)] => {
            let at = terms.iter().position(|term| matches!(term, Node::Sym(_)))?;
            let rest: Vec<Node> = terms.iter().enumerate().filter(|(k, _)| *k != at).map(|(_, t)| t.clone()).collect();
            let is_centre = rest.iter().all(|term| term.is_scalar() && !term.has_variables());
            is_centre.then(|| (terms[at].clone(), Node::Neg(Node::Add(rest).boxed())))
        }
        _ => None,
    }
}
