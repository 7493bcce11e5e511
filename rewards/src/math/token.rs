//! From an answer string to tokens: LaTeX, Unicode and plain text read into one alphabet.
//!
//! Layout is dropped here (spaces, sizes, fonts, colours, dollar signs), numbers are put together
//! with their thousands, and words are kept apart from products of letters. Units are left in: see
//! [`super::unit`].

/// A piece of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Tok {
    /// Digits with at most one dot: `12`, `.5`, `7.`.
    Num(String),
    /// A letter that stands for itself, Greek letters by their LaTeX name.
    Sym(String),
    /// A run of two or more plain letters.
    Word(String),
    /// Words from `\text{...}` and the like.
    Text(String),
    /// A LaTeX command that means something, without its backslash.
    Cmd(String),
    /// An operator, bracket or separator. `{` and `}` are LaTeX groups; braces of sets are
    /// [`Tok::SetOpen`] and [`Tok::SetClose`].
    Ch(char),
    SetOpen,
    SetClose,
    /// `\\` between rows.
    Row,
    Begin(String),
    End(String),
}

/// A token and whether white space stands before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) tok: Tok,
    pub(crate) spaced: bool,
}

/// How commas between groups of three digits are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Commas {
    /// `1,234` is a number.
    Thousands,
    /// `1,234` is a list of two.
    List,
}

/// The tokens of an answer, and whether a comma could be read in two ways.
#[derive(Debug, Clone)]
pub(crate) struct Tokens {
    pub(crate) list: Vec<Token>,
    pub(crate) is_comma_ambiguous: bool,
    /// Whether a currency sign was dropped.
    pub(crate) has_currency: bool,
}

const DROPPED: &[&str] = &[
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
];
/// Commands dropped with their argument.
const DROPPED_WITH_ARGUMENT: &[&str] = &[
    "phantom", "hphantom", "vphantom", "color", "hspace", "vspace", "label", "tag", "kern",
    "mspace",
];
/// Commands whose argument is text or a font change.
const FONTS: &[&str] = &[
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

/// Reads `text` into tokens.
pub(crate) fn tokenise(text: &str, commas: Commas) -> Tokens {
    let mut reader = Reader {
        out: Tokens {
            list: Vec::new(),
            is_comma_ambiguous: false,
            has_currency: false,
        },
        spaced: false,
        depth: 0,
        commas,
    };
    reader.read(text, 0);
    reader.out
}

struct Reader {
    out: Tokens,
    spaced: bool,
    /// Depth of round, square and set brackets: inside them a plain comma always separates.
    depth: usize,
    commas: Commas,
}

impl Reader {
    fn push(&mut self, tok: Tok) {
        match tok {
            Tok::Ch('(' | '[') | Tok::SetOpen => self.depth += 1,
            Tok::Ch(')' | ']') | Tok::SetClose => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
        self.out.list.push(Token {
            tok,
            spaced: std::mem::take(&mut self.spaced),
        });
    }

    fn symbol(&mut self, name: &str) {
        self.push(Tok::Sym(name.to_string()));
    }

    fn command(&mut self, name: &str) {
        self.push(Tok::Cmd(name.to_string()));
    }

    fn power(&mut self, digits: &str) {
        self.push(Tok::Ch('^'));
        self.push(Tok::Ch('{'));
        for c in digits.chars() {
            match c {
                '-' => self.push(Tok::Ch('-')),
                'n' => self.symbol("n"),
                digit => match self.out.list.last_mut() {
                    Some(Token {
                        tok: Tok::Num(number),
                        ..
                    }) => number.push(digit),
                    _ => self.push(Tok::Num(digit.to_string())),
                },
            }
        }
        self.push(Tok::Ch('}'));
    }

    fn read(&mut self, text: &str, nesting: usize) {
        let mut at = 0;
        while at < text.len() {
            let rest = &text[at..];
            let c = rest
                .chars()
                .next()
                .expect("`at` lies on a character boundary before the end");
            at += match c {
                '\\' => self.read_command(rest, nesting),
                c if is_digit(c) || (c == '.' && rest[1..].starts_with(is_digit)) => {
                    self.read_number(rest)
                }
                c if c.is_ascii_alphabetic() => self.read_letters(rest),
                c if superscript(c).is_some() => {
                    let run: Vec<char> = rest
                        .chars()
                        .take_while(|c| superscript(*c).is_some())
                        .collect();
                    self.power(
                        &run.iter()
                            .filter_map(|c| superscript(*c))
                            .collect::<String>(),
                    );
                    run.iter().map(|c| c.len_utf8()).sum()
                }
                c if subscript(c).is_some() => {
                    let run: Vec<char> = rest
                        .chars()
                        .take_while(|c| subscript(*c).is_some())
                        .collect();
                    self.push(Tok::Ch('_'));
                    self.push(Tok::Num(run.iter().filter_map(|c| subscript(*c)).collect()));
                    run.iter().map(|c| c.len_utf8()).sum()
                }
                c => {
                    self.read_other(c, rest);
                    c.len_utf8()
                }
            };
        }
    }

    fn read_letters(&mut self, rest: &str) -> usize {
        let end = rest
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(rest.len());
        let word = &rest[..end];
        // `x_max`, `pix`: a function name inside a run is not looked for; a lone letter stands for itself.
        if word.len() == 1 {
            self.symbol(word);
            return 1;
        }
        if let Some(name) = [
            "sqrt", "sin", "cos", "tan", "log", "ln", "exp", "abs", "arctan", "arcsin", "arccos",
            "frac", "pi",
        ]
        .iter()
        .find(|name| word == **name)
        {
            self.command(name);
            return name.len();
        }
        match word {
            "oo" | "infty" | "infinity" => self.command("infty"),
            "percent" | "pct" | "percentage" => self.push(Tok::Ch('%')),
            "theta" | "alpha" | "beta" | "gamma" | "lambda" | "delta" => {
                // A lone Greek name; `lambda:` is code.
                self.symbol(word);
            }
            _ => self.push(Tok::Word(word.to_string())),
        }
        end
    }

    fn read_number(&mut self, rest: &str) -> usize {
        let bytes: Vec<char> = rest.chars().collect();
        let digits = |mut at: usize| {
            while at < bytes.len() && is_digit(bytes[at]) {
                at += 1;
            }
            at
        };
        let mut number = String::new();
        let mut at = digits(0);
        number.extend(bytes[..at].iter().map(|c| ascii_digit(*c)));
        let mut has_groups = false;
        while (1..=3).contains(&number.len()) || has_groups {
            let Some((group, is_plain)) = group_mark(&bytes, at) else {
                break;
            };
            if digits(group) != group + 3 {
                break;
            }
            if is_plain {
                let fits = number != "0" && !number.starts_with('0');
                if self.depth > 0 || !fits {
                    break;
                }
                self.out.is_comma_ambiguous = true;
                if self.commas == Commas::List {
                    break;
                }
            }
            number.extend(bytes[group..group + 3].iter().map(|c| ascii_digit(*c)));
            at = group + 3;
            has_groups = true;
        }
        if bytes.get(at) == Some(&'.') && !(bytes.get(at + 1) == Some(&'.')) {
            let end = digits(at + 1);
            let is_overlined = bytes.get(at + 1) == Some(&'\\');
            if end > at + 1 || at > 0 || is_overlined {
                number.push('.');
                number.extend(bytes[at + 1..end].iter().map(|c| ascii_digit(*c)));
                at = end;
                // Groups of three after the point: `3.141\,592`.
                while let Some((group, false)) = group_mark(&bytes, at).filter(|_| number.len() > 3)
                {
                    if bytes.get(at) != Some(&'\\') || digits(group) < group + 3 {
                        break;
                    }
                    let end = digits(group);
                    number.extend(bytes[group..end].iter().map(|c| ascii_digit(*c)));
                    at = end;
                }
            }
        }
        let mut used: usize = bytes[..at].iter().map(|c| c.len_utf8()).sum();
        self.push(Tok::Num(number));
        // Scientific notation: 1.5e3.
        if matches!(bytes.get(at), Some('e' | 'E')) {
            let sign = usize::from(matches!(bytes.get(at + 1), Some('-' | '+')));
            let end = digits(at + 1 + sign);
            let is_exponent = end > at + 1 + sign
                && !matches!(bytes.get(end), Some(c) if c.is_ascii_alphabetic() || *c == '_');
            if is_exponent {
                self.command("cdot");
                self.push(Tok::Num("10".into()));
                let exponent: String = bytes[at + 1..end].iter().filter(|c| **c != '+').collect();
                self.power(&exponent);
                used += bytes[at..end].iter().map(|c| c.len_utf8()).sum::<usize>();
            }
        }
        used
    }

    fn read_other(&mut self, c: char, rest: &str) {
        match c {
            c if c.is_whitespace() || is_invisible(c) => {
                self.spaced = self.spaced || c.is_whitespace()
            }
            '~' => self.spaced = true,
            '$' | '€' | '£' | '¥' => {
                self.out.has_currency = true;
                self.spaced = true;
            }
            '{' | '}' | '+' | '*' | '/' | '^' | '_' | '(' | ')' | '[' | ']' | '|' | ',' | ';'
            | ':' | '=' | '<' | '>' | '!' | '&' | '%' => {
                let tok = match c {
                    '*' if rest.starts_with("**") => '^',
                    '*' if self
                        .out
                        .list
                        .last()
                        .is_some_and(|last| last.tok == Tok::Ch('^')) =>
                    {
                        return;
                    }
                    '!' if rest.starts_with("!=") => return self.command("ne"),
                    '=' if matches!(self.out.list.last(), Some(Token { tok: Tok::Cmd(name), .. }) if name == "ne")
                        && !self.spaced =>
                    {
                        return;
                    }
                    '=' if self
                        .out
                        .list
                        .last()
                        .is_some_and(|last| last.tok == Tok::Ch('='))
                        && !self.spaced =>
                    {
                        return;
                    }
                    '=' if self
                        .out
                        .list
                        .last()
                        .is_some_and(|last| last.tok == Tok::Ch('<'))
                        && !self.spaced =>
                    {
                        self.out.list.pop();
                        return self.command("le");
                    }
                    '=' if self
                        .out
                        .list
                        .last()
                        .is_some_and(|last| last.tok == Tok::Ch('>'))
                        && !self.spaced =>
                    {
                        self.out.list.pop();
                        return self.command("ge");
                    }
                    c => c,
                };
                self.push(Tok::Ch(tok));
            }
            '-' | '−' | '–' | '—' | '‐' | '‑' | '﹣' | '－' => self.push(Tok::Ch('-')),
            '\'' | '′' | '’' => self.push(Tok::Ch('\'')),
            '.' => self.push(Tok::Ch('.')),
            '√' => self.command("sqrt"),
            '∛' => {
                self.command("sqrt");
                self.push(Tok::Ch('['));
                self.push(Tok::Num("3".into()));
                self.push(Tok::Ch(']'));
            }
            'π' | 'Π' | '𝜋' => self.command("pi"),
            '∞' => self.command("infty"),
            '≤' | '⩽' | '≦' => self.command("le"),
            '≥' | '⩾' | '≧' => self.command("ge"),
            '≠' => self.command("ne"),
            '≈' | '≃' => self.command("approx"),
            '×' | '✕' | '⋅' | '·' | '∙' | '•' | '∗' => self.command("cdot"),
            '÷' | '∕' | '⁄' => self.push(Tok::Ch('/')),
            '±' => self.command("pm"),
            '∓' => self.command("mp"),
            '∪' | '⋃' => self.command("cup"),
            '∩' => self.command("cap"),
            '∖' => self.command("setminus"),
            '∈' => self.command("in"),
            '∅' | 'Ø' | '⌀' => self.command("emptyset"),
            'ℝ' => self.command("mathbb R"),
            'ℤ' => self.command("mathbb Z"),
            'ℕ' => self.command("mathbb N"),
            'ℚ' => self.command("mathbb Q"),
            'ℂ' => self.command("mathbb C"),
            '⌊' => self.command("lfloor"),
            '⌋' => self.command("rfloor"),
            '⌈' => self.command("lceil"),
            '⌉' => self.command("rceil"),
            '°' | 'º' | '˚' => {
                self.push(Tok::Ch('^'));
                self.command("circ");
            }
            '％' => self.push(Tok::Ch('%')),
            '（' => self.push(Tok::Ch('(')),
            '）' => self.push(Tok::Ch(')')),
            '［' => self.push(Tok::Ch('[')),
            '］' => self.push(Tok::Ch(']')),
            '｛' => self.push(Tok::SetOpen),
            '｝' => self.push(Tok::SetClose),
            '，' | '、' => self.push(Tok::Ch(',')),
            '；' => self.push(Tok::Ch(';')),
            '：' | '∶' => self.push(Tok::Ch(':')),
            '＝' => self.push(Tok::Ch('=')),
            '＋' => self.push(Tok::Ch('+')),
            '＜' => self.push(Tok::Ch('<')),
            '＞' => self.push(Tok::Ch('>')),
            '／' => self.push(Tok::Ch('/')),
            '。' => self.push(Tok::Ch('.')),
            '¢' => self.push(Tok::Text("cents".into())),
            'ⅈ' => self.symbol("i"),
            c => {
                if let Some((top, bottom)) = vulgar_fraction(c) {
                    self.fraction(top, bottom);
                    return;
                }
                match greek(c) {
                    Some(name) => self.symbol(name),
                    None if c.is_alphabetic() => match self.out.list.last_mut() {
                        Some(Token {
                            tok: Tok::Text(text),
                            ..
                        }) if !self.spaced => text.push(c),
                        _ => self.push(Tok::Text(c.to_string())),
                    },
                    None => self.command(&format!("unknown {c}")),
                }
            }
        }
    }

    fn fraction(&mut self, top: &str, bottom: &str) {
        self.command("frac");
        for part in [top, bottom] {
            self.push(Tok::Ch('{'));
            self.push(Tok::Num(part.to_string()));
            self.push(Tok::Ch('}'));
        }
    }

    fn read_command(&mut self, rest: &str, nesting: usize) -> usize {
        let after = &rest[1..];
        let Some(c) = after.chars().next() else {
            return 1;
        };
        if !c.is_ascii_alphabetic() {
            match c {
                '\\' => {
                    // A doubled backslash before a known command is an escaped one.
                    let name = letters(&after[1..]);
                    if !name.is_empty()
                        && (is_known(name) || FONTS.contains(&name) || DROPPED.contains(&name))
                    {
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
                    {
                        if after[2..2 + end].ends_with("pt")
                            || after[2..2 + end].ends_with("em")
                            || after[2..2 + end].ends_with("mm")
                        {
                            return 2 + end + 2;
                        }
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
        if name == "mathbb" {
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
            self.push(if name == "begin" {
                Tok::Begin(environment)
            } else {
                Tok::End(environment)
            });
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
                if let Some(rest) = ["qquad", "quad"]
                    .iter()
                    .find_map(|space| name.strip_prefix(space))
                {
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
    fn read_font(&mut self, name: &str, content: &str, nesting: usize) {
        let is_upright = ![
            "mathbf",
            "mathit",
            "boldsymbol",
            "mathcal",
            "underline",
            "pmb",
            "bold",
        ]
        .contains(&name);
        let plain = content.trim_matches(|c: char| c.is_whitespace() || c == '~');
        let has_digits = plain.contains(is_digit);
        let has_word = plain
            .split(|c: char| !c.is_alphabetic())
            .any(|word| word.chars().count() >= 2);
        let is_math = plain.contains(['\\', '$', '=', '<', '>', '^', '_']) || has_digits;
        if content.starts_with([' ', '~']) {
            self.spaced = true;
        }
        match plain {
            "" => self.spaced = true,
            "and" | "or" => self.push(Tok::Word(plain.to_string())),
            ", and" | ",and" | ", or" | "and/or" | "; and" => self.push(Tok::Word("and".into())),
            "percent" | "pct" => self.push(Tok::Ch('%')),
            _ if nesting > 20 => self.push(Tok::Text(plain.to_string())),
            _ if !is_math && is_upright && is_function(plain) => self.command(plain),
            _ if (has_word && !is_math) || plain.ends_with(':') => {
                self.push(Tok::Text(plain.to_string()))
            }
            // A unit of one letter after a number.
            _ if is_upright
                && plain.split('/').all(super::unit::is_letter_unit)
                && self.follows_value() =>
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

    fn follows_value(&self) -> bool {
        self.out
            .list
            .last()
            .is_some_and(|last| matches!(last.tok, Tok::Num(_) | Tok::Ch(')' | '}') | Tok::Text(_)))
    }
}

/// The marks that may stand between groups of three digits: where the group starts, and whether the
/// mark is a plain comma.
fn group_mark(text: &[char], at: usize) -> Option<(usize, bool)> {
    let has = |mark: &str| {
        mark.chars()
            .enumerate()
            .all(|(offset, c)| text.get(at + offset) == Some(&c))
    };
    for mark in ["{,}", ",\\! ", ",\\!", "\\,", "\\ ", "{\\,}", "\\;", "\\:"] {
        if has(mark) {
            return Some((at + mark.chars().count(), false));
        }
    }
    match text.get(at) {
        Some(',' | '，') => Some((at + 1, true)),
        Some(' ' | '\u{a0}' | '\u{202f}' | '\u{2009}') => Some((at + 1, false)),
        _ => None,
    }
}

fn is_digit(c: char) -> bool {
    c.is_ascii_digit() || ('０'..='９').contains(&c)
}

fn ascii_digit(c: char) -> char {
    if ('０'..='９').contains(&c) {
        char::from(b'0' + (c as u32 - '０' as u32) as u8)
    } else {
        c
    }
}

fn is_invisible(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2060}'..='\u{2064}' | '\u{feff}' | '\u{ad}' | '\u{fe0e}' | '\u{fe0f}' | '\u{202a}'..='\u{202e}')
}

fn letters(text: &str) -> &str {
    &text[..text
        .find(|c: char| !c.is_ascii_alphabetic())
        .unwrap_or(text.len())]
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

fn superscript(c: char) -> Option<char> {
    match c {
        '⁻' => Some('-'),
        'ⁿ' => Some('n'),
        c => "⁰¹²³⁴⁵⁶⁷⁸⁹"
            .chars()
            .zip('0'..='9')
            .find(|(mark, _)| *mark == c)
            .map(|(_, digit)| digit),
    }
}

fn subscript(c: char) -> Option<char> {
    "₀₁₂₃₄₅₆₇₈₉"
        .chars()
        .zip('0'..='9')
        .find(|(mark, _)| *mark == c)
        .map(|(_, digit)| digit)
}

fn vulgar_fraction(c: char) -> Option<(&'static str, &'static str)> {
    Some(match c {
        '½' => ("1", "2"),
        '⅓' => ("1", "3"),
        '⅔' => ("2", "3"),
        '¼' => ("1", "4"),
        '¾' => ("3", "4"),
        '⅕' => ("1", "5"),
        '⅖' => ("2", "5"),
        '⅗' => ("3", "5"),
        '⅘' => ("4", "5"),
        '⅙' => ("1", "6"),
        '⅚' => ("5", "6"),
        '⅐' => ("1", "7"),
        '⅛' => ("1", "8"),
        '⅜' => ("3", "8"),
        '⅝' => ("5", "8"),
        '⅞' => ("7", "8"),
        '⅑' => ("1", "9"),
        '⅒' => ("1", "10"),
        _ => return None,
    })
}

const GREEK: &[(char, &str)] = &[
    ('α', "alpha"),
    ('β', "beta"),
    ('γ', "gamma"),
    ('δ', "delta"),
    ('ε', "epsilon"),
    ('ζ', "zeta"),
    ('η', "eta"),
    ('θ', "theta"),
    ('ι', "iota"),
    ('κ', "kappa"),
    ('λ', "lambda"),
    ('μ', "mu"),
    ('ν', "nu"),
    ('ξ', "xi"),
    ('ρ', "rho"),
    ('σ', "sigma"),
    ('τ', "tau"),
    ('υ', "upsilon"),
    ('φ', "phi"),
    ('χ', "chi"),
    ('ψ', "psi"),
    ('ω', "omega"),
    ('Γ', "Gamma"),
    ('Δ', "Delta"),
    ('Θ', "Theta"),
    ('Λ', "Lambda"),
    ('Ξ', "Xi"),
    ('Σ', "Sigma"),
    ('Φ', "Phi"),
    ('Ψ', "Psi"),
    ('Ω', "Omega"),
    ('ϕ', "phi"),
    ('ℓ', "ell"),
];

fn greek(c: char) -> Option<&'static str> {
    GREEK
        .iter()
        .find(|(letter, _)| *letter == c)
        .map(|(_, name)| *name)
}

/// Functions that are written with their name before the argument.
pub(crate) const FUNCTIONS: &[&str] = &[
    "sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "arccot", "arcsec",
    "arccsc", "sinh", "cosh", "tanh", "coth", "asin", "acos", "atan", "arcsinh", "arccosh",
    "arctanh", "arsinh", "arcosh", "artanh", "ln", "log", "lg", "exp", "gcd", "lcm", "max", "min",
    "abs", "tg", "ctg", "cis", "cosec", "det", "Re", "Im", "arg", "sgn", "sign", "floor", "ceil",
];

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
