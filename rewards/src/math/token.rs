//! From an answer string to tokens: LaTeX, Unicode and plain text read into one alphabet.
//!
//! Layout is dropped here (spaces, sizes, fonts, colours, dollar signs), numbers are put together
//! with their thousands, and words are kept apart from products of letters. Units are left in: see
//! [`super::unit`].

use super::glyph::{greek, is_invisible, plain_letter, subscript, superscript, vulgar_fraction};
use super::numeral::is_digit;

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

/// Reads `text` into tokens.
pub(crate) fn tokenise(text: &str, commas: Commas) -> Tokens {
    let mut reader = Reader {
        out: Tokens { list: Vec::new(), is_comma_ambiguous: false, has_currency: false },
        spaced: false,
        depth: 0,
        commas,
    };
    // Mathematical letters and digits of any style are those of the alphabet.
    if text.contains(|c: char| ('\u{1d400}'..='\u{1d7ff}').contains(&c)) {
        reader.read(&text.chars().map(plain_letter).collect::<String>(), 0);
    } else {
        reader.read(text, 0);
    }
    reader.out
}

pub(super) struct Reader {
    pub(super) out: Tokens,
    pub(super) spaced: bool,
    /// Depth of round, square and set brackets: inside them a plain comma always separates.
    pub(super) depth: usize,
    pub(super) commas: Commas,
}

impl Reader {
    pub(super) fn push(&mut self, tok: Tok) {
        match tok {
            Tok::Ch('(' | '[') | Tok::SetOpen => self.depth += 1,
            Tok::Ch(')' | ']') | Tok::SetClose => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
        self.out.list.push(Token { tok, spaced: std::mem::take(&mut self.spaced) });
    }

    pub(super) fn symbol(&mut self, name: &str) {
        self.push(Tok::Sym(name.to_string()));
    }

    pub(super) fn command(&mut self, name: &str) {
        self.push(Tok::Cmd(name.to_string()));
    }

    pub(super) fn power(&mut self, digits: &str) {
        self.push(Tok::Ch('^'));
        self.push(Tok::Ch('{'));
        for c in digits.chars() {
            match c {
                '-' => self.push(Tok::Ch('-')),
                'n' => self.symbol("n"),
                digit => match self.out.list.last_mut() {
                    Some(Token { tok: Tok::Num(number), .. }) => number.push(digit),
                    _ => self.push(Tok::Num(digit.to_string())),
                },
            }
        }
        self.push(Tok::Ch('}'));
    }

    pub(super) fn read(&mut self, text: &str, nesting: usize) {
        let mut at = 0;
        while at < text.len() {
            let rest = &text[at..];
            let c = rest.chars().next().expect("`at` lies on a character boundary before the end");
            at += match c {
                '\\' => self.read_command(rest, nesting),
                '.' if rest.starts_with("...") => {
                    self.command("ldots");
                    3
                }
                c if is_digit(c) || (c == '.' && rest[1..].starts_with(is_digit)) => self.read_number(rest),
                c if c.is_ascii_alphabetic() => self.read_letters(rest),
                // `3{:}4`: braces around a sign take its spaces away.
                '{' if braced_sign(rest).is_some() => {
                    self.push(Tok::Ch(braced_sign(rest).unwrap_or(':')));
                    3
                }
                c if superscript(c).is_some() => {
                    let run: Vec<char> = rest.chars().take_while(|c| superscript(*c).is_some()).collect();
                    self.power(&run.iter().filter_map(|c| superscript(*c)).collect::<String>());
                    run.iter().map(|c| c.len_utf8()).sum()
                }
                c if subscript(c).is_some() => {
                    let run: Vec<char> = rest.chars().take_while(|c| subscript(*c).is_some()).collect();
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

    pub(super) fn read_letters(&mut self, rest: &str) -> usize {
        let end = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        let word = &rest[..end];
        // `x_max`, `pix`: a function name inside a run is not looked for; a lone letter stands for itself.
        if word.len() == 1 {
            self.symbol(word);
            return 1;
        }
        // `e^xe^y`: a bare exponent is one letter, unless a function's name stands there.
        let is_exponent = matches!(self.out.list.last(), Some(Token { tok: Tok::Ch('^'), .. })) && !self.spaced;
        if is_exponent && word != "pi" && !super::latex::FUNCTIONS.iter().any(|name| word.starts_with(name)) {
            self.symbol(&word[..1]);
            return 1;
        }
        if let Some(name) =
            ["sqrt", "sin", "cos", "tan", "log", "ln", "exp", "abs", "arctan", "arcsin", "arccos", "frac", "pi"]
                .iter()
                .find(|name| word == **name)
        {
            self.command(name);
            return name.len();
        }
        match word {
            "oo" | "inf" | "infty" | "infinity" => self.command("infty"),
            "percent" | "pct" | "percentage" => self.push(Tok::Ch('%')),
            "USD" | "EUR" | "GBP" if self.out.list.is_empty() && rest[end..].trim_start().starts_with(is_digit) => {
                self.out.has_currency = true;
            }
            "theta" | "alpha" | "beta" | "gamma" | "lambda" | "delta" => {
                // A lone Greek name; `lambda:` is code.
                self.symbol(word);
            }
            _ => self.push(Tok::Word(word.to_string())),
        }
        end
    }

    pub(super) fn read_other(&mut self, c: char, rest: &str) {
        match c {
            c if c.is_whitespace() || is_invisible(c) => self.spaced = self.spaced || c.is_whitespace(),
            '~' | '`' | '"' | '“' | '”' => self.spaced = true,
            '…' | '⋯' => self.command("ldots"),
            '$' | '€' | '£' | '¥' => {
                self.out.has_currency = true;
                self.spaced = true;
            }
            '{' | '}' | '+' | '*' | '/' | '^' | '_' | '(' | ')' | '[' | ']' | '|' | ',' | ';' | ':' | '=' | '<'
            | '>' | '!' | '&' | '%' => {
                let tok = match c {
                    '*' if rest.starts_with("**") => '^',
                    '*' if self.out.list.last().is_some_and(|last| last.tok == Tok::Ch('^')) => {
                        return;
                    }
                    '!' if rest.starts_with("!=") => return self.command("ne"),
                    '=' if matches!(self.out.list.last(), Some(Token { tok: Tok::Cmd(name), .. }) if name == "ne")
                        && !self.spaced =>
                    {
                        return;
                    }
                    '=' if self.out.list.last().is_some_and(|last| last.tok == Tok::Ch('=')) && !self.spaced => {
                        return;
                    }
                    '=' if self.out.list.last().is_some_and(|last| last.tok == Tok::Ch('<')) && !self.spaced => {
                        self.out.list.pop();
                        return self.command("le");
                    }
                    '=' if self.out.list.last().is_some_and(|last| last.tok == Tok::Ch('>')) && !self.spaced => {
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
            'π' | '𝜋' => self.command("pi"),
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
                        Some(Token { tok: Tok::Text(text), .. }) if !self.spaced => text.push(c),
                        _ => self.push(Tok::Text(c.to_string())),
                    },
                    None => self.command(&format!("unknown {c}")),
                }
            }
        }
    }

    pub(super) fn fraction(&mut self, top: &str, bottom: &str) {
        self.command("frac");
        for part in [top, bottom] {
            self.push(Tok::Ch('{'));
            self.push(Tok::Num(part.to_string()));
            self.push(Tok::Ch('}'));
        }
    }
}

/// The sign of `{:}`, `{=}` and the like.
fn braced_sign(text: &str) -> Option<char> {
    let sign = text.strip_prefix('{')?.chars().next()?;
    (":=<>+-".contains(sign) && text[1 + sign.len_utf8()..].starts_with('}')).then_some(sign)
}
