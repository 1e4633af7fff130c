//! (pure) Quantities as people write them: a whole number and a unit.

/// Reads one. `factor` is what a unit stands for; `units` is said where it is none.
pub(super) fn quantity(
    text: &str,
    factor: impl FnOnce(&str) -> Option<u64>,
    units: &'static str,
) -> Result<u64, &'static str> {
    let digits = text.find(|c: char| !c.is_ascii_digit());
    let (number, unit) = text.split_at(digits.unwrap_or(text.len()));
    if number.is_empty() {
        return Err("it begins with a whole number");
    }
    let number: u64 = number.parse().map_err(|_| "the number is too large")?;
    let factor = factor(unit.trim_start()).ok_or(units)?;
    number.checked_mul(factor).ok_or("the number is too large")
}
