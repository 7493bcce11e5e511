//! LaTeX commands as tokens: which are layout, which are text, which mean something.

use super::glyph::GREEK;
use super::numeral::is_digit;
use super::token::{Reader, Tok};

pub(super) const DROPPED: &[&str] = &[
    "left",
    "right",
    "big",
    "Big",
    "bigg",
    "Bigg",
    "bigl",
    "bigr",
    "Bigl",
    "Bigr",
    "biggl",
    "biggr",
    "Biggl",
    "Biggr",
    "middle",
    "displaystyle",
    "textstyle",
    "scriptstyle",
    "limits",
    "nolimits",
    "quad",
    "qquad",
    "hfill",
    "bf",
    "rm",
    "it",
    "bm",
    "mathstrut",
    "strut",
    "hline",
    "thinspace",
    "medspace",
    "enspace",
    "space",
    "angle",
    "triangle",
    "square",
    "therefore",
    "because",
    "dots_",
    "boxed",
    "fbox",
    "small",
    "large",
    "Large",
    "nonumber",
    "protect",
    "ensuremath",
    "mathop",
    "mathord",
    "mathbin",
    "checkmark",
    "blacksquare",
    "qed",
];

/// Commands dropped with their argument.
pub(super) const DROPPED_WITH_ARGUMENT: &[&str] =
    &["phantom", "hphantom", "vphantom", "color", "hspace", "vspace", "label", "tag", "kern", "mspace"];

/// Commands whose argument is text or a font change.
pub(super) const FONTS: &[&str] = &[
    "text",
    "mbox",
    "textbf",
    "textit",
    "textnormal",
    "textrm",
    "textsf",
    "texttt",
    "mathrm",
    "mathbf",
    "mathit",
    "mathsf",
    "mathtt",
    "mathcal",
    "boldsymbol",
    "operatorname",
    "emph",
    "hbox",
    "mathnormal",
    "pmb",
    "mathfrak",
    "underline",
    "textup",
    "bold",
    "textsc",
];

/// Functions that are written with their name before the argument.
pub(crate) const FUNCTIONS: &[&str] = &[
    "sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "arccot", "arcsec", "arccsc", "sinh",
    "cosh", "tanh", "coth", "asin", "acos", "atan", "arcsinh", "arccosh", "arctanh", "arsinh", "arcosh", "artanh",
    "ln", "log", "lg", "exp", "gcd", "lcm", "max", "min", "abs", "tg", "ctg", "cis", "cosec", "det", "Re", "Im", "arg",
    "sgn", "sign", "floor", "ceil",
];

impl Reader {
    pub(super) fn read_command(&mut self, rest: &str, nesting: usize) -> usize {
        let after = &rest[1..];
        let Some(c) = after.chars().next() else {
            return 1;
        };
        if !c.is_ascii_alphabetic() {
            match c {
                '\\' => {
                    // A doubled backslash before a known command is an escaped one.
                    let name = letters(&after[1..]);
                    if !name.is_empty() && (is_known(name) || FONTS.contains(&name) || DROPPED.contains(&name)) {
                        return 1;
                    }
                    if after[1..].starts_with(['{', '}', '(', ')', '%', '$', ',', '!'])
                        && !self.out.list.iter().any(|t| matches!(t.tok, Tok::Begin(_)))
                    {
                        return 1;
                    }
                    self.push(Tok::Row);
                    // `\\[4pt]`
                    if let Some(end) = after[1..].strip_prefix('[').and_then(|rest| rest.find(']'))
                        && (after[2..2 + end].ends_with("pt")
                            || after[2..2 + end].ends_with("em")
                            || after[2..2 + end].ends_with("mm"))
                    {
                        return 2 + end + 2;
                    }
                }
                '{' => self.push(Tok::SetOpen),
                '}' => self.push(Tok::SetClose),
                '%' => self.push(Tok::Ch('%')),
                '$' => {
                    self.out.has_currency = true;
                    self.spaced = true;
                }
                '|' => self.command("Vert"),
                '!' => {}
                ',' | ';' | ':' | '>' | ' ' | '\n' | '\t' | '/' => self.spaced = true,
                '(' | ')' | '[' | ']' | '-' => {}
                '&' | '#' | '_' => self.command(&format!("unknown {c}")),
                _ => {}
            }
            return 1 + c.len_utf8();
        }
        let name = letters(after);
        let used = 1 + name.len();
        if DROPPED_WITH_ARGUMENT.contains(&name) {
            let (_, length) = argument(&rest[used..]);
            self.spaced = true;
            return used + length;
        }
        if name == "textcolor" {
            return used + argument(&rest[used..]).1;
        }
        if ["mathbb", "Bbb", "mathds"].contains(&name) {
            let (set, length) = argument(&rest[used..]);
            self.command(&format!("mathbb {}", set.trim()));
            return used + length;
        }
        if name == "begin" || name == "end" {
            let (environment, length) = argument(&rest[used..]);
            let environment = environment.trim().trim_end_matches('*').to_string();
            let mut used = used + length;
            if name == "begin" && environment == "array" {
                used += argument(&rest[used..]).1;
            }
            self.push(if name == "begin" { Tok::Begin(environment) } else { Tok::End(environment) });
            return used;
        }
        if FONTS.contains(&name) {
            let (content, length) = argument(&rest[used..]);
            self.read_font(name, content, nesting);
            return used + length;
        }
        if DROPPED.contains(&name) {
            if ["quad", "qquad", "space", "enspace", "thinspace", "hfill"].contains(&name) {
                self.spaced = true;
            }
            // `\right.` closes nothing.
            if (name == "right" || name == "left") && rest[used..].trim_start().starts_with('.') {
                return used + rest[used..].find('.').map_or(0, |at| at + 1);
            }
            return used;
        }
        match name {
            "dfrac" | "tfrac" | "cfrac" | "frac" => self.command("frac"),
            "dbinom" | "tbinom" | "binom" => self.command("binom"),
            "le" | "leq" | "leqslant" | "leqq" => self.command("le"),
            "ge" | "geq" | "geqslant" | "geqq" => self.command("ge"),
            "lt" => self.push(Tok::Ch('<')),
            "gt" => self.push(Tok::Ch('>')),
            "ne" | "neq" => self.command("ne"),
            "not" => self.command("not"),
            "times" | "cdot" | "ast" | "star" | "bullet" => self.command("cdot"),
            "div" => self.push(Tok::Ch('/')),
            "approx" | "simeq" | "doteq" | "sim" => self.command("approx"),
            "equiv" => self.command("equiv"),
            "lbrace" => self.push(Tok::SetOpen),
            "rbrace" => self.push(Tok::SetClose),
            "lbrack" => self.push(Tok::Ch('[')),
            "rbrack" => self.push(Tok::Ch(']')),
            "lparen" | "langle" => self.push(Tok::Ch('(')),
            "rparen" | "rangle" => self.push(Tok::Ch(')')),
            "vert" | "lvert" | "rvert" | "mid" => self.push(Tok::Ch('|')),
            "Vert" | "lVert" | "rVert" => self.command("Vert"),
            "colon" => self.push(Tok::Ch(':')),
            "prime" => self.push(Tok::Ch('\'')),
            "degree" | "textdegree" => {
                self.push(Tok::Ch('^'));
                self.command("circ");
            }
            "varnothing" | "emptyset" | "empty" => self.command("emptyset"),
            "backslash" | "setminus" | "smallsetminus" => self.command("setminus"),
            "land" | "wedge" => self.push(Tok::Word("and".into())),
            "lor" | "vee" => self.push(Tok::Word("or".into())),
            "and" | "or" => self.push(Tok::Word(name.to_string())),
            "dollar" | "textdollar" | "pounds" | "euro" => {
                self.out.has_currency = true;
                self.spaced = true;
            }
            "cents" => self.push(Tok::Text("cents".into())),
            "infin" => self.command("infty"),
            "Reals" | "reals" | "R" => self.command("mathbb R"),
            "varepsilon" => self.symbol("epsilon"),
            "varphi" => self.symbol("phi"),
            "vartheta" => self.symbol("theta"),
            "ell" | "hbar" | "imath" | "jmath" | "mho" => self.symbol(name),
            "percent" => self.push(Tok::Ch('%')),
            _ if GREEK.iter().any(|(_, greek)| *greek == name) => self.symbol(name),
            _ if is_known(name) => self.command(name),
            _ => {
                // `\quadx`: a spacing command run into a letter.
                if let Some(rest) = ["qquad", "quad"].iter().find_map(|space| name.strip_prefix(space)) {
                    self.spaced = true;
                    self.read(rest, nesting + 1);
                } else {
                    self.command(&format!("unknown {name}"));
                }
            }
        }
        used
    }

    /// The content of a font or text command: mathematics is read on, words are kept together.
    pub(super) fn read_font(&mut self, name: &str, content: &str, nesting: usize) {
        let is_upright = !["mathbf", "mathit", "boldsymbol", "mathcal", "underline", "pmb", "bold"].contains(&name);
        let plain = content.trim_matches(|c: char| c.is_whitespace() || c == '~');
        let has_digits = plain.contains(is_digit);
        let has_word = plain.split(|c: char| !c.is_alphabetic()).any(|word| word.chars().count() >= 2);
        let is_math = plain.contains(['\\', '$', '=', '<', '>', '^', '_']) || has_digits;
        if content.starts_with([' ', '~']) {
            self.spaced = true;
        }
        match plain {
            "" => self.spaced = true,
            "and" | "or" => self.push(Tok::Word(plain.to_string())),
            ", and" | ",and" | ", or" | "and/or" | "; and" => self.push(Tok::Word("and".into())),
            "percent" | "pct" => self.push(Tok::Ch('%')),
            "infinity" | "inf" => self.command("infty"),
            "pi" if is_upright => self.command("pi"),
            _ if nesting > 20 => self.push(Tok::Text(plain.to_string())),
            _ if !is_math && is_upright && is_function(plain) => self.command(plain),
            _ if (has_word && !is_math) || plain.ends_with(':') => self.push(Tok::Text(plain.to_string())),
            // A unit of one letter after a number.
            _ if is_upright
                && plain.split(['/', ' ']).all(super::unit::is_letter_unit)
                && (self.follows_value() || content.starts_with(' ') && self.follows_symbol()) =>
            {
                self.push(Tok::Text(plain.to_string()))
            }
            _ => {
                self.read(content, nesting + 1);
                if content.ends_with([' ', '~']) {
                    self.spaced = true;
                }
            }
        }
    }

    fn follows_symbol(&self) -> bool {
        self.out.list.last().is_some_and(|last| matches!(last.tok, Tok::Sym(_)))
    }

    pub(super) fn follows_value(&self) -> bool {
        self.out.list.last().is_some_and(|last| matches!(last.tok, Tok::Num(_) | Tok::Ch(')' | '}') | Tok::Text(_)))
    }
}

fn is_function(name: &str) -> bool {
    FUNCTIONS.contains(&name)
}

fn is_known(name: &str) -> bool {
    is_function(name)
        || [
            "frac",
            "dfrac",
            "tfrac",
            "cfrac",
            "sqrt",
            "pi",
            "infty",
            "cdot",
            "times",
            "div",
            "pm",
            "mp",
            "le",
            "leq",
            "ge",
            "geq",
            "ne",
            "neq",
            "lt",
            "gt",
            "cup",
            "cap",
            "setminus",
            "in",
            "approx",
            "circ",
            "lfloor",
            "rfloor",
            "lceil",
            "rceil",
            "binom",
            "choose",
            "over",
            "overline",
            "bar",
            "dot",
            "bmod",
            "pmod",
            "mod",
            "sum",
            "prod",
            "int",
            "emptyset",
            "varnothing",
            "begin",
            "end",
            "ldots",
            "dots",
            "cdots",
            "dotsm",
            "dotsc",
            "mathbb",
            "to",
            "implies",
            "Rightarrow",
            "rightarrow",
            "iff",
            "hat",
            "vec",
            "text",
            "theta",
            "alpha",
            "beta",
            "notin",
            "forall",
            "exists",
            "partial",
            "nabla",
            "subset",
            "subseteq",
            "lim",
            "Leftrightarrow",
            "longrightarrow",
            "Longrightarrow",
            "overrightarrow",
            "overarc",
            "widehat",
            "tilde",
            "perp",
            "parallel",
            "cong",
            "propto",
            "geqslant",
            "leqslant",
            "quad",
            "qquad",
            "dbinom",
            "root",
            "atop",
            "land",
            "lor",
            "boxed",
        ]
        .contains(&name)
}

/// The argument that starts `text`, braces removed, and the bytes it takes up.
fn argument(text: &str) -> (&str, usize) {
    let start = text.len() - text.trim_start().len();
    let rest = &text[start..];
    if !rest.starts_with('{') {
        let length = rest.chars().next().map_or(0, char::len_utf8);
        return (&rest[..length], start + length);
    }
    let mut depth = 0usize;
    let mut escaped = false;
    for (at, c) in rest.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '{' => depth += 1,
            '}' => {
                depth -= 1;
                if depth == 0 {
                    return (&rest[1..at], start + at + 1);
                }
            }
            _ => {}
        }
    }
    (&rest[1..], text.len())
}

fn letters(text: &str) -> &str {
    &text[..text.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(text.len())]
}
