//! Single characters: what a Unicode sign stands for in an answer.

/// `x` for its bold, italic and other mathematical forms, and so for digits.
pub(super) fn plain_letter(c: char) -> char {
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

/// Control characters, marks of direction and spaces without width.
pub(super) fn is_invisible(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2060}'..='\u{2064}' | '\u{feff}' | '\u{ad}' | '\u{fe0e}' | '\u{fe0f}' | '\u{202a}'..='\u{202e}')
}

/// The digit or sign that is raised.
pub(super) fn superscript(c: char) -> Option<char> {
    match c {
        '⁻' => Some('-'),
        'ⁿ' => Some('n'),
        c => "⁰¹²³⁴⁵⁶⁷⁸⁹".chars().zip('0'..='9').find(|(mark, _)| *mark == c).map(|(_, digit)| digit),
    }
}

/// The digit that is lowered.
pub(super) fn subscript(c: char) -> Option<char> {
    "₀₁₂₃₄₅₆₇₈₉".chars().zip('0'..='9').find(|(mark, _)| *mark == c).map(|(_, digit)| digit)
}

/// Numerator and denominator of a fraction that is one character.
pub(super) fn vulgar_fraction(c: char) -> Option<(&'static str, &'static str)> {
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

/// Greek letters by their LaTeX name.
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

/// The name of a Greek letter.
pub(super) fn greek(c: char) -> Option<&'static str> {
    GREEK.iter().find(|(letter, _)| *letter == c).map(|(_, name)| *name)
}
