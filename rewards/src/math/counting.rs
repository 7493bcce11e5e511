//! Binomials and arrangements as they are written beside `\binom`: C(10,3), P(10,3), C_{10}^3.
//!
//! `C(10,3)` may as well be the point C, so it stays as it is written until it meets a number.

use super::ast::{Func, Node};

/// `n` things taken `k` at a time: unordered for the letter C, in order for P and A.
pub(super) fn count(letter: &str, n: Node, k: Node) -> Node {
    if letter == "C" {
        return Node::Call(Func::Binomial, vec![n, k]);
    }
    let rest = Node::Add(vec![n.clone(), Node::Neg(k.boxed())]);
    let factorial = |node| Node::Call(Func::Factorial, vec![node]);
    Node::Mul(vec![factorial(n), Node::Inverse(factorial(rest).boxed())])
}

/// Two values in which counts are numbers, where one of them has counts that cannot be points or powers.
///
/// An answer's counts are meant as numbers beside a gold without any. A gold that is nothing but one is a number
/// only to an answer that is written with a binomial or a factorial.
pub(super) fn written_out(g: &Node, p: &Node) -> Option<(Node, Node)> {
    let has_counts = |node: &Node| node.any(&|part| read(part).is_some());
    let is_number = match (has_counts(g), has_counts(p)) {
        (false, false) => false,
        (false, true) => !may_be_point(p),
        (true, false) => read(g).is_none() || p.any(&|part| matches!(part, Node::Call(func, _) if func.counts())),
        (true, true) => read(g).is_none() || read(p).is_none(),
    };
    is_number.then(|| (all_read(g), all_read(p)))
}

fn all_read(node: &Node) -> Node {
    match read(node) {
        Some(count) => count,
        None => node.rebuilt(&all_read),
    }
}

/// Whether an answer that is nothing but `P(5,1)` or `C(5,4)` may be a point given for one of its coordinates, or
/// for their product: counts by one, of all but one, and by two in order.
fn may_be_point(node: &Node) -> bool {
    let Node::Apply(letter, items) = node else { return false };
    let [Node::Num(n), Node::Num(k)] = &items[..] else { return false };
    let (Some(n), Some(k)) = (n.to_i64(), k.to_i64()) else { return true };
    match letter.as_str() {
        "C" => k < 2 || k > n - 2,
        _ => k < 3,
    }
}

/// The count that a node can be.
fn read(node: &Node) -> Option<Node> {
    match node {
        Node::Apply(letter, items) => match (letter.as_str(), &items[..]) {
            ("C" | "P", [n, k]) => Some(count(letter, n.clone(), k.clone())),
            _ => None,
        },
        // C_{10}^3: some write the larger number below, some above. With letters it is a power.
        Node::Pow(base, above) => {
            let Node::Sym(name) = &**base else { return None };
            let (letter, below) = name.split_once('_').filter(|(letter, _)| matches!(*letter, "C" | "P" | "A"))?;
            let (Node::Num(above), Ok(below)) = (&**above, below.parse::<i64>()) else { return None };
            let above = above.to_i64()?;
            Some(count(letter, Node::int(above.max(below)), Node::int(above.min(below))))
        }
        _ => None,
    }
}
