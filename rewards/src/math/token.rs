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

/// `x` for its bold, italic and other mathematical forms, and so for digits.
fn plain_letter(c: char) -> char {
    match c as u32 {
        // Thirteen styles of A..Z and a..z; the Greek ones lie between them and the digits.
        code @ 0x1d400..=0x1d6a3 => match (code - 0x1d400) % 52 {
            capital @ 0..=25 => char::from(b'A' + capital as u8),
            small => char::from(b'a' + (small - 26) as u8),
        },
        code @ 0x1d7ce..=0x1d7ff => char::from(b'0' + ((code - 0x1d7ce) % 10) as u8),
        _ => c,
    }
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

    pub(super) fn read_number(&mut self, rest: &str) -> usize {
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
        let is_one_number = has_nought_group(&bytes[at..]);
        // `\log_2 128`: the digits of a bare script end at the space.
        let is_script = matches!(self.out.list.last(), Some(Token { tok: Tok::Ch('_' | '^'), .. }));
        while (1..=3).contains(&number.len()) || has_groups {
            let Some((group, is_plain)) = group_mark(&bytes, at).filter(|_| !is_script) else {
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
                if !is_one_number {
                    self.out.is_comma_ambiguous = true;
                    if self.commas == Commas::List {
                        break;
                    }
                }
            }
            number.extend(bytes[group..group + 3].iter().map(|c| ascii_digit(*c)));
            at = group + 3;
            has_groups = true;
        }
        let braced_point = bytes[at..].starts_with(&['{', '.', '}']) && digits(at + 3) > at + 3;
        if braced_point {
            let end = digits(at + 3);
            number.push('.');
            number.extend(bytes[at + 3..end].iter().map(|c| ascii_digit(*c)));
            at = end;
        } else if bytes.get(at) == Some(&'.') && (bytes.get(at + 1) != Some(&'.')) {
            let end = digits(at + 1);
            let is_overlined = bytes.get(at + 1) == Some(&'\\');
            if end > at + 1 || at > 0 || is_overlined {
                number.push('.');
                number.extend(bytes[at + 1..end].iter().map(|c| ascii_digit(*c)));
                at = end;
                // Groups of three after the point: `3.141\,592`.
                while let Some((group, false)) = group_mark(&bytes, at).filter(|_| number.len() > 3) {
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
            let is_exponent =
                end > at + 1 + sign && !matches!(bytes.get(end), Some(c) if c.is_ascii_alphabetic() || *c == '_');
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

/// Whether one of the groups `,234,048` that start `text` begins with a nought: no item of a list does.
fn has_nought_group(text: &[char]) -> bool {
    text.chunks(4)
        .take_while(|group| group.len() == 4 && group[0] == ',' && group[1..].iter().all(|c| is_digit(*c)))
        .any(|group| group[1] == '0')
}

/// The marks that may stand between groups of three digits: where the group starts, and whether the
/// mark is a plain comma.
fn group_mark(text: &[char], at: usize) -> Option<(usize, bool)> {
    let has = |mark: &str| mark.chars().enumerate().all(|(offset, c)| text.get(at + offset) == Some(&c));
    for mark in ["{,}", ",\\! ", ",\\!", "\\,", "\\ ", "{\\,}", "\\;", "\\:", "~", "’"] {
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

pub(super) fn is_digit(c: char) -> bool {
    c.is_ascii_digit() || ('０'..='９').contains(&c)
}

fn ascii_digit(c: char) -> char {
    if ('０'..='９').contains(&c) { char::from(b'0' + (c as u32 - '０' as u32) as u8) } else { c }
}

fn is_invisible(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2060}'..='\u{2064}' | '\u{feff}' | '\u{ad}' | '\u{fe0e}' | '\u{fe0f}' | '\u{202a}'..='\u{202e}')
}

fn superscript(c: char) -> Option<char> {
    match c {
        '⁻' => Some('-'),
        'ⁿ' => Some('n'),
        c => "⁰¹²³⁴⁵⁶⁷⁸⁹".chars().zip('0'..='9').find(|(mark, _)| *mark == c).map(|(_, digit)| digit),
    }
}

fn subscript(c: char) -> Option<char> {
    "₀₁₂₃₄₅₆₇₈₉".chars().zip('0'..='9').find(|(mark, _)| *mark == c).map(|(_, digit)| digit)
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

pub(super) const GREEK: &[(char, &str)] = &[
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
    GREEK.iter().find(|(letter, _)| *letter == c).map(|(_, name)| *name)
}
