//! Answers in words, and choice letters.

/// Words of two to four letters that are words and not products of letters.
const SHORT_WORDS: &[&str] = &[
    "no", "on", "is", "it", "to", "of", "up", "go", "so", "we", "he", "me", "if", "do", "us", "yes", "odd", "even",
    "east", "west", "true", "none", "blue", "red", "all", "one", "two", "six", "ten", "four", "five", "nine", "zero",
    "both", "left", "up", "down", "dne", "nan", "inf", "null", "south", "north", "not", "the", "are", "for", "can",
    "mon", "tue", "wed", "thu", "fri", "sat", "sun", "cone", "line", "cube", "kite", "rows", "never", "May", "June",
    "July", "mary", "dog", "cat", "tie", "win", "lose", "real", "any", "less", "more", "same", "equal", "white",
    "black", "green", "pink", "gray", "gold", "each", "you", "that", "this",
];

/// Whether a run of two to four letters is a word.
pub(crate) fn is_word(run: &str) -> bool {
    let lower = run.to_ascii_lowercase();
    SHORT_WORDS.contains(&lower.as_str())
        || (run.len() >= 3
            && run[1..].chars().all(|c| c.is_ascii_lowercase())
            && run.starts_with(|c: char| c.is_ascii_uppercase()))
}

/// Whether a run of letters reads like a word: it has a vowel and a consonant.
pub(crate) fn looks_like_word(run: &str) -> bool {
    let lower = run.to_lowercase();
    let has_vowel = lower.contains(['a', 'e', 'i', 'o', 'u', 'y']);
    let has_consonant = lower.chars().any(|c| c.is_alphabetic() && !"aeiou".contains(c));
    lower.len() >= 3 && has_vowel && has_consonant
}

/// What an answer says in words: commands and fonts removed, case folded, articles and final stops
/// dropped, inner spaces single.
pub(crate) fn normal(raw: &str) -> String {
    let mut plain = String::with_capacity(raw.len());
    let mut rest = raw;
    // Braces group arguments in a formula: without them 1/23 and 12/3 would read the same.
    let is_formula = raw.contains("\\frac") || raw.contains("\\sqrt") || raw.contains(['^', '_']);
    while let Some(c) = rest.chars().next() {
        if c == '\\' {
            let name_length = rest[1..].find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len() - 1);
            let name = &rest[1..1 + name_length];
            if name.is_empty() {
                let skipped = rest[1..].chars().next().map_or(0, char::len_utf8);
                if rest[1..].starts_with(['{', '}', '%', '&']) {
                    plain.push_str(&rest[1..1 + skipped]);
                } else {
                    plain.push(' ');
                }
                rest = &rest[1 + skipped..];
                continue;
            }
            let is_layout = name.starts_with("text")
                || name.starts_with("math")
                || matches!(
                    name,
                    "mbox"
                        | "hbox"
                        | "emph"
                        | "boldsymbol"
                        | "operatorname"
                        | "left"
                        | "right"
                        | "bf"
                        | "rm"
                        | "displaystyle"
                        | "quad"
                        | "qquad"
                        | "underline"
                );
            plain.push(' ');
            if !is_layout {
                plain.push_str(name);
                plain.push(' ');
            }
            rest = &rest[1 + name_length..];
            continue;
        }
        match c {
            '{' | '}' if !is_formula => {}
            '$' | '*' | '~' => {}
            '\u{200b}'..='\u{200f}' | '\u{feff}' | '\u{2060}' => {}
            '’' => plain.push('\''),
            c => plain.extend(c.to_lowercase()),
        }
        rest = &rest[c.len_utf8()..];
    }
    let trimmed = plain.trim().trim_end_matches(['.', ',', ';', ':', '!', '。']).trim_matches(['"', '\'', '“', '”']);
    let all: Vec<&str> = trimmed.split_whitespace().collect();
    // `a` before a word is an article; alone or in a list it is a letter.
    let is_article = |at: usize| match all[at] {
        "the" => true,
        "a" | "an" => all.get(at + 1).is_some_and(|next| next.len() > 1 && !matches!(*next, "and" | "or")),
        _ => false,
    };
    let words: Vec<&str> = (0..all.len()).filter(|at| !is_article(*at)).map(|at| all[at]).collect();
    let joined = if words.is_empty() { trimmed.to_string() } else { words.join(" ").replace(" -", "-") };
    synonym(&joined).map_or(joined, str::to_string)
}

/// Small table of phrases that say the same.
fn synonym(text: &str) -> Option<&'static str> {
    if text.starts_with('-') {
        return None;
    }
    Some(match text.replace([' ', '-'], "").as_str() {
        "nosolution"
        | "nosolutions"
        | "norealsolution"
        | "norealsolutions"
        | "emptyset"
        | "varnothing"
        | "∅"
        | "none"
        | "nosuchnumber"
        | "nosuchnumbers"
        | "nosolutionexists"
        | "therearenosolutions"
        | "thereisnosolution"
        | "nosuchnumbersexist" => "no solution",
        "dne" | "doesnotexist" | "doesn'texist" | "limitdoesnotexist" => "does not exist",
        "undefined" | "notdefined" | "undef" | "isundefined" => "undefined",
        "infinitelymany"
        | "infinitelymanysolutions"
        | "infinitemanysolutions"
        | "infinitenumberofsolutions"
        | "infinite"
        | "infinitenumber"
        | "infinitesolutions"
        | "thereareinfinitelymany"
        | "thereareinfinitelymanysolutions" => "infinitely many",
        "t" | "true" => "true",
        "f" | "false" => "false",
        _ => return None,
    })
}

/// Whether the words, as [`normal`] gives them, name all real numbers.
pub(crate) fn is_all_reals(words: &str) -> bool {
    matches!(
        words,
        "all real numbers"
            | "all reals"
            | "all real number"
            | "real numbers"
            | "all real x"
            | "all real values"
            | "reals"
            | "all real values of x"
            | "set of all real numbers"
            | "set of real numbers"
    )
}

/// A choice letter, and whether nothing follows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) letter: char,
    pub(crate) is_alone: bool,
}

/// The choice letter of an answer that is one: `(C)`, `C`, `\text{(C)}`, `C)`, `(C) 12`, `C. 12`.
pub(crate) fn choice(raw: &str) -> Option<Choice> {
    let plain = normal_keeping_case(raw);
    let plain = plain.trim();
    let named = ["Option", "option", "Choice", "choice", "Answer", "answer"];
    let is_set_off = |rest: &&str| rest.starts_with([' ', ':']);
    let plain = named.iter().find_map(|word| plain.strip_prefix(word).filter(is_set_off)).unwrap_or(plain);
    let plain = plain.trim_start_matches([' ', ':']);
    let body = plain.strip_prefix('(').unwrap_or(plain);
    let was_open = body.len() < plain.len();
    let letter = body.chars().next().filter(char::is_ascii_alphabetic)?;
    let after = &body[1..];
    let trimmed = after.trim_start();
    let mark = trimmed.chars().next();
    let is_marked = if was_open { mark == Some(')') } else { matches!(mark, Some(')' | '.' | ':')) };
    let rest = if is_marked { &trimmed[1..] } else { trimmed };
    // What follows the mark is the choice's value, set off by a space; anything closer is a formula.
    let names_more = ["and ", "or "].iter().any(|word| rest.trim_start().starts_with(word))
        || ('A'..='J').any(|other| rest.contains(&format!("({other})")));
    let is_value = is_marked
        && !names_more
        && rest.starts_with(char::is_whitespace)
        && rest.trim_start().starts_with(|c: char| c.is_alphanumeric() || "\\$".contains(c));
    let is_alone = rest.trim().trim_end_matches('.').is_empty();
    let is_choice = if was_open { is_marked } else { is_marked || after.trim().is_empty() };
    let letter = letter.to_ascii_uppercase();
    (is_choice && (is_alone || is_value) && ('A'..='J').contains(&letter)).then_some(Choice { letter, is_alone })
}

fn normal_keeping_case(raw: &str) -> String {
    let mut plain = raw.to_string();
    for layout in [
        "\\boxed",
        "\\fbox",
        "\\textbf",
        "\\textit",
        "\\textrm",
        "\\text",
        "\\mathrm",
        "\\mathbf",
        "\\mbox",
        "\\boldsymbol",
        "\\left",
        "\\right",
        "\\bf",
        "\\rm",
        "\\ ",
    ] {
        plain = plain.replace(layout, if layout == "\\ " { " " } else { "" });
    }
    plain.chars().filter(|c| !"{}$*~".contains(*c)).collect()
}

/// A time of day in hours and minutes, or a ratio that could be one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Time {
    hours: u32,
    /// The minutes as written, seconds with them.
    rest: String,
    /// Whether it is after noon, where that is said.
    is_late: Option<bool>,
    /// Whether a ratio would not be written so: before or after noon, a nought in front, or a nought alone.
    is_sure: bool,
    /// Whether a ratio with these parts could be made smaller. Golds give ratios in lowest terms.
    is_reduced: bool,
}

impl Time {
    /// Whether `answer` names the gold `self`. A gold without a half of the day leaves it open.
    pub(crate) fn is_answered_by(&self, answer: &Time) -> bool {
        (self.hours, &self.rest) == (answer.hours, &answer.rest)
            && (self.is_late.is_none() || self.is_late == answer.is_late)
    }

    /// Whether this gold may as well be a ratio.
    pub(crate) fn may_be_ratio(&self) -> bool {
        !self.is_sure && self.is_reduced
    }

    /// Whether an answer is a time and no ratio, in the light of a gold that may be either: hours past noon do not
    /// stand beside hours before it, so 18:32 is 9:16 as a ratio, and 4:20 is not 2:10.
    pub(crate) fn is_no_ratio(&self) -> bool {
        self.is_sure || self.hours <= 12
    }

    /// Whether this can be nothing but a time.
    pub(crate) fn is_sure(&self) -> bool {
        self.is_sure
    }
}

/// The time of day that an answer is or could be: `6:30`, `18:32`, `1:05\text{ p.m.}`.
pub(crate) fn time(raw: &str) -> Option<Time> {
    if !raw.contains(':') {
        return None;
    }
    let mut plain = normal_keeping_case(raw).to_lowercase().replace(' ', "");
    for (written, plainly) in [("\\!", ""), ("\\,", ""), ("\\;", ""), ("a.m", "am"), ("p.m", "pm")] {
        plain = plain.replace(written, plainly);
    }
    let plain = plain.trim_end_matches('.');
    let (body, is_late) = match plain.strip_suffix("am") {
        Some(body) => (body, Some(false)),
        None => match plain.strip_suffix("pm") {
            Some(body) => (body, Some(true)),
            None => (plain, None),
        },
    };
    let (hours, rest) = body.split_once(':')?;
    let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let is_time = (1..=2).contains(&hours.len())
        && is_digits(hours)
        && rest.split(':').all(|part| part.len() == 2 && is_digits(part) && part.as_bytes()[0] < b'6');
    let number: u32 = if is_time { hours.parse().ok()? } else { return None };
    let minutes: u32 = rest.split(':').next()?.parse().ok()?;
    if number > 24 || (number == 24 && minutes > 0) {
        return None;
    }
    let is_sure = is_late.is_some() || hours.starts_with('0') || rest.split(':').any(|part| part.starts_with('0'));
    let is_reduced = num_integer::gcd(number, minutes) == 1;
    Some(Time { hours: number, rest: rest.to_string(), is_late, is_sure, is_reduced })
}

/// A number in words, up to the millions: `eighteen`, `twenty-one`, `three hundred and five`.
pub(crate) fn number(raw: &str) -> Option<i64> {
    let text = normal(raw).replace('-', " ");
    if text.len() > 120 {
        return None;
    }
    const SMALL: [&str; 20] = [
        "zero",
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "ten",
        "eleven",
        "twelve",
        "thirteen",
        "fourteen",
        "fifteen",
        "sixteen",
        "seventeen",
        "eighteen",
        "nineteen",
    ];
    const TENS: [&str; 8] = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"];
    let (mut total, mut group, mut seen) = (0i64, 0i64, false);
    for word in text.split_whitespace() {
        if word == "and" && seen {
            continue;
        }
        if let Some(value) = SMALL.iter().position(|small| *small == word) {
            group += value as i64;
        } else if let Some(value) = TENS.iter().position(|ten| *ten == word) {
            group += 20 + 10 * value as i64;
        } else if word == "hundred" && group > 0 {
            group *= 100;
        } else if word == "thousand" && group > 0 {
            total += group * 1000;
            group = 0;
        } else if word == "million" && group > 0 {
            total += group * 1_000_000;
            group = 0;
        } else {
            return None;
        }
        seen = true;
    }
    seen.then_some(total + group)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_folded() {
        assert_eq!(normal(r"\text{The East.}"), "east");
        assert_eq!(normal(r"\textbf{Evelyn}"), "evelyn");
        assert_eq!(normal(r"\text{No solutions}"), normal(r"\emptyset"));
        assert_ne!(normal("odd"), normal("even"));
    }

    #[test]
    fn choices() {
        for text in
            ["C", "(C)", r"\text{(C)}", "C)", r"\textbf{(C) }", "c", r"\text{(C) } 12", "C. 12", r"\mathrm{(C)}"]
        {
            assert_eq!(choice(text).map(|choice| choice.letter), Some('C'), "{text}");
        }
        for text in ["x", "Cat", "C+1", "12", "", "(C", "CD", "C_2", "a.b", "(C)+1", "(C)(D)", "(a) + b"] {
            assert_eq!(choice(text), None, "{text}");
        }
    }

    #[test]
    fn times_and_numbers() {
        let half = |raw: &str| time(raw).map(|time| (time.hours, time.rest, time.is_late));
        assert_eq!(half("12:00"), Some((12, "00".into(), None)));
        assert_eq!(half(r"1:05\text{ p.m.}"), Some((1, "05".into(), Some(true))));
        for ratio in ["3:4", "27:48", "24:50", "9:60", "9:160"] {
            assert_eq!(time(ratio), None, "{ratio}");
        }
        for (raw, may_be_ratio) in [("9:16", true), ("12:30", false), ("09:16", false), ("9:16 pm", false)] {
            assert_eq!(time(raw).map(|time| time.may_be_ratio()), Some(may_be_ratio), "{raw}");
        }
        assert_eq!(number("eighteen"), Some(18));
        assert_eq!(number("two hundred and four"), Some(204));
        assert_eq!(number("Twenty-one thousand"), Some(21000));
        assert_eq!(number("tenet"), None);
    }
}
