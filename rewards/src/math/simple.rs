//! Answers that need no parser: integers, decimals and simple fractions of few digits.

use super::Method;

/// A small number that needs no parser: an integer, a decimal or a simple fraction.
pub(crate) struct Simple {
    num: i128,
    den: i128,
    pub(crate) is_decimal: bool,
    is_fraction: bool,
}

impl Simple {
    pub(crate) fn equals(&self, other: &Simple) -> bool {
        match (self.num.checked_mul(other.den), other.num.checked_mul(self.den)) {
            (Some(a), Some(b)) => a == b,
            _ => false,
        }
    }

    pub(crate) fn method(&self, other: &Simple) -> Method {
        match (self.is_decimal || other.is_decimal, self.is_fraction || other.is_fraction) {
            (true, _) => Method::Decimal,
            (_, true) => Method::Rational,
            _ => Method::Integer,
        }
    }
}

impl std::fmt::Display for Simple {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let divisor = num_integer::gcd(self.num, self.den);
        let (num, den) = (self.num / divisor, self.den / divisor);
        if den == 1 { write!(out, "{num}") } else { write!(out, "{num}/{den}") }
    }
}

/// Reads `-12`, `1.25`, `3/4`, `\frac{3}{4}`; at most 15 digits a part.
pub(crate) fn simple(text: &str) -> Option<Simple> {
    let text = text.trim();
    let (is_negative, body) = match text.strip_prefix('-') {
        Some(body) => (true, body.trim_start()),
        None => (false, text),
    };
    let digits = |text: &str| -> Option<i128> {
        if text.is_empty() || text.len() > 15 || !text.bytes().all(|byte| byte.is_ascii_digit()) {
            None
        } else {
            text.parse().ok()
        }
    };
    let sign = if is_negative { -1 } else { 1 };
    if let Some(value) = digits(body) {
        return Some(Simple { num: sign * value, den: 1, is_decimal: false, is_fraction: false });
    }
    if let Some((whole, part)) = body.split_once('.') {
        let value = digits(&format!("{whole}{part}"))?;
        if part.is_empty() || whole.is_empty() && part.is_empty() {
            return Some(Simple { num: sign * value, den: 1, is_decimal: false, is_fraction: false });
        }
        digits(part)?;
        return Some(Simple {
            num: sign * value,
            den: 10i128.pow(part.len() as u32),
            is_decimal: true,
            is_fraction: false,
        });
    }
    let (num, den) = match body.strip_prefix("\\frac{").or_else(|| body.strip_prefix("\\dfrac{")) {
        Some(rest) => rest.strip_suffix('}')?.split_once("}{")?,
        None => body.split_once('/')?,
    };
    let (num, den) = (digits(num)?, digits(den)?);
    (den != 0).then_some(Simple { num: sign * num, den, is_decimal: false, is_fraction: true })
}
