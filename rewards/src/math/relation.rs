//! Equations and inequalities, and what they say of a value.

use super::ast::{Node, Op};
use super::ball::Precision;
use super::ball::Trouble;
use super::compare::{Comparison, Equal};
use super::complex::Complex;
use super::modular;
use super::scalar::{DEFINED, POINTS, same};

impl Comparison<'_> {
    pub(super) fn relations(&mut self, g: &Node, p: &Node) -> Equal {
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
    pub(super) fn link(&mut self, g: &[Node], p: &[Node], op: Op) -> Equal {
        if g.iter().chain(p).any(|side| !side.is_scalar()) {
            return Ok(self.equal(&g[0], &p[0])? && self.equal(&g[1], &p[1])?);
        }
        let difference = |sides: &[Node]| Node::Add(vec![sides[0].clone(), Node::Neg(sides[1].clone().boxed())]);
        let (a, b) = (difference(g), difference(p));
        let is_constant = |node: &Node| {
            let mut names = Vec::new();
            node.variables(&mut names);
            names.is_empty()
        };
        if is_constant(&a) || is_constant(&b) {
            // Statements without variables, `f(1) < f(2)` among them: each side must agree, for any
            // two constants are proportional.
            return Ok(self.scalars_equal(&g[0], &p[0])? && self.scalars_equal(&g[1], &p[1])?);
        }
        if self.proportional(&a, &b, op.is_order())? {
            return Ok(true);
        }
        let has_fraction =
            |node: &Node| node.any(&|part| matches!(part, Node::Inverse(inner) if inner.has_variables()));
        if op == Op::Eq && (has_fraction(&a) || has_fraction(&b)) {
            let (Some((a, _)), Some((b, _))) = (fraction(&a, 0), fraction(&b, 0)) else {
                return Ok(false);
            };
            return self.proportional(&a, &b, false);
        }
        Ok(false)
    }

    pub(super) fn proportional(&mut self, a: &Node, b: &Node, needs_positive: bool) -> Equal {
        let residues: Option<Vec<_>> =
            (0..4).map(|point| modular::evaluate(a, point).zip(modular::evaluate(b, point))).collect();
        let mut is_settled = false;
        if let Some(residues) = residues {
            let (first_a, first_b) = residues[0];
            if residues.iter().all(|(a, b)| a.is_exact && b.is_exact) {
                let is_proportional =
                    residues.iter().all(|(a, b)| modular::cross_equal(a.value, first_b.value, first_a.value, b.value));
                let is_nonzero =
                    residues.iter().any(|(a, _)| a.value != 0) && residues.iter().any(|(_, b)| b.value != 0);
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
            let (x, y) = match (self.at_point(a, b, point, &p), self.at_point(b, a, point, &p)) {
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
}

/// Whether a node only names something: `x`, `f(x)`, `AB`, `(x, y)`.
pub(super) fn is_lone(node: &Node) -> bool {
    let is_capital =
        |node: &Node| matches!(node, Node::Sym(name) if name.starts_with(|c: char| c.is_ascii_uppercase()));
    match node {
        Node::Sym(_) | Node::Apply(..) => true,
        Node::Mul(items) => items.iter().all(is_capital),
        Node::Group { open: '(', items, close: ')' } => items.iter().all(|item| matches!(item, Node::Sym(_))),
        _ => false,
    }
}

/// The sides of a chain of equations, those after a sign of near equality left out.
pub(super) fn equal_sides(node: &Node) -> Option<Vec<Node>> {
    let Node::Relation(sides, ops) = node else {
        return None;
    };
    if !ops.iter().all(|op| matches!(op, Op::Eq | Op::Approx)) {
        return None;
    }
    let exact = ops.iter().position(|op| *op == Op::Approx).map_or(sides.len(), |at| at + 1);
    // `7 \approx 8` is two answers: a whole number needs no near one.
    let is_whole = |side: &Node| matches!(side, Node::Num(value) if value.is_integer());
    if exact < sides.len() && is_whole(&sides[exact - 1]) && is_whole(&sides[exact]) && sides[exact - 1] != sides[exact]
    {
        return None;
    }
    let exact = if exact == 1 && is_lone(&sides[0]) { 2 } else { exact };
    Some(sides[..exact].to_vec())
}

/// `name = ... = value`: the name and the value.
pub(super) fn assignment(node: &Node) -> Option<(Node, Node)> {
    let sides = equal_sides(node)?;
    let (first, last) = (sides.first()?, sides.last()?);
    if sides.len() < 2 || !is_lone(first) {
        // `5 = x`
        return match &sides[..] {
            [value, name] if is_lone(name) && !value.has_variables() => Some((name.clone(), value.clone())),
            _ => None,
        };
    }
    Some((first.clone(), last.clone()))
}

/// The values of `x = 1, y = 2` when every item names another variable; roots `x_1 = .., x_2 = ..` of
/// one variable are no such list.
pub(super) fn named_values(items: &[Node]) -> Option<Vec<Node>> {
    let pairs: Vec<(Node, Node)> = items.iter().map(assignment).collect::<Option<_>>()?;
    let letter = |name: &Node| match name {
        Node::Sym(name) => name.split('_').next().unwrap_or("").to_string(),
        other => format!("{other:?}"),
    };
    let names: Vec<String> = pairs.iter().map(|(name, _)| letter(name)).collect();
    let are_distinct = (1..names.len()).all(|at| !names[..at].contains(&names[at]));
    are_distinct.then(|| pairs.into_iter().map(|(_, value)| value).collect())
}

/// The values of `x = 1, y = 2` as the coordinates of a point: x, y and z in this order, other names as they stand.
pub(super) fn coordinates(items: &[Node]) -> Option<Vec<Node>> {
    let values = named_values(items)?;
    let names: Option<Vec<String>> = (items.iter())
        .map(|item| match assignment(item) {
            Some((Node::Sym(name), _)) if ["x", "y", "z"].contains(&name.as_str()) => Some(name),
            _ => None,
        })
        .collect();
    let Some(names) = names else { return Some(values) };
    let mut pairs: Vec<(String, Node)> = names.into_iter().zip(values).collect();
    pairs.sort_by(|a, b| a.0.cmp(&b.0));
    Some(pairs.into_iter().map(|(_, value)| value).collect())
}

/// `f` of `f, x \ne 3`: an expression, with where it is not defined said after it.
pub(super) fn without_conditions(node: &Node) -> Option<Node> {
    let Node::List(items) = node else { return None };
    let (first, conditions) = items.split_first()?;
    let excludes = |item: &Node| match item {
        Node::Relation(sides, ops) => {
            ops[..] == [Op::Ne] && is_lone(&sides[0]) && sides[1].is_scalar() && !sides[1].has_variables()
        }
        _ => false,
    };
    let is_value = first.has_variables() && (first.is_scalar() || assignment(first).is_some());
    (is_value && !conditions.is_empty() && conditions.iter().all(excludes)).then(|| first.clone())
}

/// Numerator and denominator of an expression, not reduced. `None` when it would grow too large.
pub(super) fn fraction(node: &Node, depth: usize) -> Option<(Node, Node)> {
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
            let parts: Vec<(Node, Node)> = items.iter().map(|item| fraction(item, depth + 1)).collect::<Option<_>>()?;
            let (nums, dens) = parts.into_iter().unzip();
            (Node::Mul(nums), Node::Mul(dens))
        }
        Node::Add(items) if items.len() <= 6 => {
            let parts: Vec<(Node, Node)> = items.iter().map(|item| fraction(item, depth + 1)).collect::<Option<_>>()?;
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
                    Node::Mul(std::iter::once(num).chain(dens.iter().filter(|other| **other != den).cloned()).collect())
                })
                .collect();
            dens.push(one());
            (Node::Add(terms), Node::Mul(dens))
        }
        other => (other.clone(), one()),
    })
}
