//! Matrices and vectors.

use super::Method;
use super::ast::Node;
use super::compare::{Comparison, Equal};

impl Comparison<'_> {
    pub(super) fn matrices(&mut self, g: &[Vec<Node>], p: &[Vec<Node>]) -> Equal {
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

    pub(super) fn vector(&mut self, rows: &[Vec<Node>], other: &Node) -> Equal {
        let is_vector = rows.iter().all(|row| row.len() == 1) || rows.len() == 1;
        let entries: Vec<Node> = rows.iter().flatten().cloned().collect();
        match other {
            Node::Group { open: '(', items, close: ')' } | Node::List(items)
                if is_vector && self.policy.vector_tuple && entries.len() > 1 =>
            {
                self.method = Method::Matrix;
                self.in_order(&entries, items)
            }
            Node::Group { open: '[', items, close: ']' }
                if is_vector && self.policy.vector_tuple && entries.len() > 2 =>
            {
                self.method = Method::Matrix;
                self.in_order(&entries, items)
            }
            _ => self.mismatch(),
        }
    }
}

/// The rows of a matrix, scalar factors, signs and sums worked in.
pub(super) fn matrix(node: &Node) -> Option<Vec<Vec<Node>>> {
    let each = |rows: Vec<Vec<Node>>, change: &dyn Fn(Node) -> Node| {
        rows.into_iter().map(|row| row.into_iter().map(change).collect()).collect()
    };
    match node {
        Node::Matrix(rows) => Some(rows.clone()),
        // `[[1,2],[3,4]]`, as programs write it.
        Node::Group { open: '[', items, close: ']' } if items.len() > 1 => {
            let row = |item: &Node| match item {
                Node::Group { open: '[', items, close: ']' } => Some(items.clone()),
                _ => None,
            };
            let rows: Vec<Vec<Node>> = items.iter().map(row).collect::<Option<_>>()?;
            rows.iter().all(|row| row.len() == rows[0].len()).then_some(rows)
        }
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
            Some(each(rows?, &|cell| Node::Mul(factors.iter().cloned().chain([cell]).collect())))
        }
        Node::Add(items) => {
            let mut sum: Option<Vec<Vec<Node>>> = None;
            for item in items {
                let rows = matrix(item)?;
                sum = Some(match sum {
                    None => rows,
                    Some(old) if old.len() == rows.len() && old[0].len() == rows[0].len() => {
                        let pairs = old.into_iter().zip(rows);
                        pairs.map(|(x, y)| x.into_iter().zip(y).map(|(a, b)| Node::Add(vec![a, b])).collect()).collect()
                    }
                    Some(_) => return None,
                });
            }
            sum
        }
        _ => None,
    }
}
