//! The tree of a parsed answer.

use super::rational::Rational;

/// A parsed answer or a part of one.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Node {
    /// An exact number that is not written as a decimal.
    Num(Rational),
    /// A number written with a decimal point: its value, and the digits after the point.
    Dec {
        value: Rational,
        places: u32,
        significant: u32,
    },
    /// A variable, with its subscript and primes in the name.
    Sym(String),
    Pi,
    E,
    I,
    Infinity,
    Add(Vec<Node>),
    Mul(Vec<Node>),
    Neg(Box<Node>),
    Inverse(Box<Node>),
    Pow(Box<Node>, Box<Node>),
    /// A root and its degree.
    Root(Box<Node>, Box<Node>),
    Call(Func, Vec<Node>),
    /// A function that is only a name: `f(x)`.
    Apply(String, Vec<Node>),
    /// `a + b` and `a - b` at once; the first may be missing. `true` for the lower sign first.
    PlusMinus(Option<Box<Node>>, Box<Node>, bool),
    Percent(Box<Node>),
    Degrees(Box<Node>),
    /// A finite sum or product: variable, bounds, body.
    Series {
        is_sum: bool,
        var: String,
        low: Box<Node>,
        high: Box<Node>,
        body: Box<Node>,
    },
    /// `(a, b)`, `[a, b)` and so on: a tuple or an interval.
    Group {
        open: char,
        items: Vec<Node>,
        close: char,
    },
    Set(Vec<Node>),
    /// Items without brackets, by commas or words.
    List(Vec<Node>),
    Union(Vec<Node>),
    Intersection(Vec<Node>),
    Minus(Box<Node>, Box<Node>),
    /// One of the sets of numbers: R, Z, N, Q, C.
    Numbers(char),
    Matrix(Vec<Vec<Node>>),
    /// A chain of relations: one operator fewer than nodes.
    Relation(Vec<Node>, Vec<Op>),
    In(Box<Node>, Box<Node>),
    Ratio(Vec<Node>),
    /// Digits and the base they are written in.
    Based {
        digits: String,
        base: u32,
    },
}

/// A relation sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    /// Nearly equal.
    Approx,
}

impl Op {
    /// The sign read from right to left.
    pub(crate) fn flipped(self) -> Op {
        match self {
            Op::Lt => Op::Gt,
            Op::Le => Op::Ge,
            Op::Gt => Op::Lt,
            Op::Ge => Op::Le,
            other => other,
        }
    }

    pub(crate) fn is_order(self) -> bool {
        matches!(self, Op::Lt | Op::Le | Op::Gt | Op::Ge)
    }
}

/// The functions that the grader can evaluate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Func {
    Sin,
    Cos,
    Tan,
    Cot,
    Sec,
    Csc,
    Asin,
    Acos,
    Atan,
    Acot,
    Asec,
    Acsc,
    Sinh,
    Cosh,
    Tanh,
    Coth,
    Asinh,
    Acosh,
    Atanh,
    Exp,
    Ln,
    /// Logarithm of the second argument to the base of the first.
    Log,
    Abs,
    Floor,
    Ceil,
    Factorial,
    DoubleFactorial,
    Binomial,
    Gcd,
    Lcm,
    Max,
    Min,
    Mod,
    Conj,
    Re,
    Im,
    Arg,
    Sign,
}

impl Func {
    pub(crate) fn named(name: &str) -> Option<Func> {
        Some(match name {
            "sin" => Func::Sin,
            "cos" => Func::Cos,
            "tan" | "tg" => Func::Tan,
            "cot" | "ctg" => Func::Cot,
            "sec" => Func::Sec,
            "csc" | "cosec" => Func::Csc,
            "arcsin" | "asin" => Func::Asin,
            "arccos" | "acos" => Func::Acos,
            "arctan" | "atan" => Func::Atan,
            "arccot" => Func::Acot,
            "arcsec" => Func::Asec,
            "arccsc" => Func::Acsc,
            "sinh" => Func::Sinh,
            "cosh" => Func::Cosh,
            "tanh" => Func::Tanh,
            "coth" => Func::Coth,
            "arcsinh" | "arsinh" => Func::Asinh,
            "arccosh" | "arcosh" => Func::Acosh,
            "arctanh" | "artanh" => Func::Atanh,
            "exp" => Func::Exp,
            "ln" => Func::Ln,
            "abs" => Func::Abs,
            "floor" => Func::Floor,
            "ceil" => Func::Ceil,
            "gcd" => Func::Gcd,
            "lcm" => Func::Lcm,
            "max" => Func::Max,
            "min" => Func::Min,
            "Re" => Func::Re,
            "Im" => Func::Im,
            "arg" => Func::Arg,
            "sgn" | "sign" => Func::Sign,
            _ => return None,
        })
    }

    /// The inverse function, for `\sin^{-1}`.
    pub(crate) fn inverse(self) -> Option<Func> {
        Some(match self {
            Func::Sin => Func::Asin,
            Func::Cos => Func::Acos,
            Func::Tan => Func::Atan,
            Func::Cot => Func::Acot,
            Func::Sec => Func::Asec,
            Func::Csc => Func::Acsc,
            Func::Sinh => Func::Asinh,
            Func::Cosh => Func::Acosh,
            Func::Tanh => Func::Atanh,
            _ => return None,
        })
    }

    /// Whether it counts arrangements or choices.
    pub(crate) fn counts(self) -> bool {
        matches!(self, Func::Binomial | Func::Factorial)
    }

    /// Whether its values are only defined at integers, so that it is tested there.
    pub(crate) fn is_discrete(self) -> bool {
        matches!(self, Func::Factorial | Func::DoubleFactorial | Func::Binomial | Func::Gcd | Func::Lcm | Func::Mod)
    }
}

impl Node {
    pub(crate) fn int(value: i64) -> Node {
        Node::Num(Rational::from(value))
    }

    pub(crate) fn boxed(self) -> Box<Node> {
        Box::new(self)
    }

    /// The direct parts.
    pub(crate) fn children(&self) -> Vec<&Node> {
        match self {
            Node::Add(items) | Node::Mul(items) | Node::Set(items) | Node::List(items) | Node::Union(items) => {
                items.iter().collect()
            }
            Node::Intersection(items) | Node::Ratio(items) | Node::Group { items, .. } => items.iter().collect(),
            Node::Call(_, items) | Node::Apply(_, items) | Node::Relation(items, _) => items.iter().collect(),
            Node::Neg(a) | Node::Inverse(a) | Node::Percent(a) | Node::Degrees(a) => vec![a],
            Node::Pow(a, b) | Node::Root(a, b) | Node::Minus(a, b) | Node::In(a, b) => vec![a, b],
            Node::PlusMinus(a, b, _) => a.iter().map(|a| &**a).chain([&**b]).collect(),
            Node::Series { low, high, body, .. } => vec![low, high, body],
            Node::Matrix(rows) => rows.iter().flatten().collect(),
            Node::Num(_) | Node::Dec { .. } | Node::Sym(_) | Node::Pi | Node::E | Node::I | Node::Infinity => {
                Vec::new()
            }
            Node::Numbers(_) | Node::Based { .. } => Vec::new(),
        }
    }

    /// The same node with each direct part replaced by what `change` makes of it.
    pub(crate) fn rebuilt(&self, change: &dyn Fn(&Node) -> Node) -> Node {
        let all = |items: &[Node]| items.iter().map(change).collect::<Vec<_>>();
        let one = |a: &Node| Box::new(change(a));
        match self {
            Node::Add(items) => Node::Add(all(items)),
            Node::Mul(items) => Node::Mul(all(items)),
            Node::Set(items) => Node::Set(all(items)),
            Node::List(items) => Node::List(all(items)),
            Node::Union(items) => Node::Union(all(items)),
            Node::Intersection(items) => Node::Intersection(all(items)),
            Node::Ratio(items) => Node::Ratio(all(items)),
            Node::Group { open, items, close } => Node::Group { open: *open, items: all(items), close: *close },
            Node::Call(func, items) => Node::Call(*func, all(items)),
            Node::Apply(name, items) => Node::Apply(name.clone(), all(items)),
            Node::Relation(items, ops) => Node::Relation(all(items), ops.clone()),
            Node::Neg(a) => Node::Neg(one(a)),
            Node::Inverse(a) => Node::Inverse(one(a)),
            Node::Percent(a) => Node::Percent(one(a)),
            Node::Degrees(a) => Node::Degrees(one(a)),
            Node::Pow(a, b) => Node::Pow(one(a), one(b)),
            Node::Root(a, b) => Node::Root(one(a), one(b)),
            Node::Minus(a, b) => Node::Minus(one(a), one(b)),
            Node::In(a, b) => Node::In(one(a), one(b)),
            Node::PlusMinus(a, b, is_lower) => Node::PlusMinus(a.as_ref().map(|a| one(a)), one(b), *is_lower),
            Node::Series { is_sum, var, low, high, body } => {
                Node::Series { is_sum: *is_sum, var: var.clone(), low: one(low), high: one(high), body: one(body) }
            }
            Node::Matrix(rows) => Node::Matrix(rows.iter().map(|row| all(row)).collect()),
            leaf => leaf.clone(),
        }
    }

    /// Whether `test` holds somewhere in the tree.
    pub(crate) fn any(&self, test: &dyn Fn(&Node) -> bool) -> bool {
        test(self) || self.children().into_iter().any(|child| child.any(test))
    }

    /// Adds the names of its variables to `names`, each once.
    pub(crate) fn variables(&self, names: &mut Vec<String>) {
        match self {
            Node::Sym(name) => {
                if !names.contains(name) {
                    names.push(name.clone());
                }
            }
            Node::Series { var, low, high, body, .. } => {
                low.variables(names);
                high.variables(names);
                let mut inner = Vec::new();
                body.variables(&mut inner);
                for name in inner {
                    if name != *var && !names.contains(&name) {
                        names.push(name);
                    }
                }
            }
            other => other.children().into_iter().for_each(|child| child.variables(names)),
        }
    }

    pub(crate) fn has_variables(&self) -> bool {
        let mut names = Vec::new();
        self.variables(&mut names);
        !names.is_empty() || self.any(&|node| matches!(node, Node::Apply(..)))
    }

    /// Whether it is a number or an expression, and not a collection, relation or text.
    pub(crate) fn is_scalar(&self) -> bool {
        !matches!(
            self,
            Node::Group { .. }
                | Node::Set(_)
                | Node::List(_)
                | Node::Union(_)
                | Node::Intersection(_)
                | Node::Minus(..)
                | Node::Numbers(_)
                | Node::Matrix(_)
                | Node::Relation(..)
                | Node::In(..)
                | Node::Ratio(_)
                | Node::Based { .. }
                | Node::PlusMinus(..)
        )
    }
}
