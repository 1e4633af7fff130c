//! `[[tree.limit]]`: rates and parts of a day as people write them.

use super::problem::Problem;
use super::rate::{LEAST, MOST, bytes_per_second, format_rate};
use super::section::Reader;
use super::value::{Complaint, text};
use std::num::NonZeroU64;
use tandem_sync::limit::{Between, Limit, MAX_LIMITS, Pace};
use toml::Spanned;
use toml::de::DeValue;

const RATE_HINT: &str = "for example \"20MB/s\", \"512KiB/s\" or \"pause\"";
const BETWEEN_HINT: &str = "for example \"08:00-18:00\" or \"22:00-06:00\", in local time";

/// The limits of a tree, in their order. `None`: a problem was reported.
pub(super) fn decode(tree: &Reader<'_>, errors: &mut Vec<Problem>) -> Option<Vec<Limit>> {
    let before = errors.len();
    let readers = tree.tables("limit", "tree.limit", errors);
    if let Some(reader) = readers.get(MAX_LIMITS) {
        let message = format!("more than {MAX_LIMITS} limits of one tree");
        errors.push(Problem::new(reader.span.clone(), message));
    }
    let mut limits: Vec<Limit> = Vec::new();
    for reader in &readers {
        if limits.last().is_some_and(|l| l.between.is_none()) {
            let problem = Problem::new(
                reader.span.clone(),
                "this limit never applies: the one before it always does",
            );
            errors
                .push(problem.hint("the first limit that applies counts: put it before that one"));
        }
        let between = reader.optional("between", between, errors);
        let pace = reader.get("rate", pace, errors);
        limits.extend(pace.map(|pace| Limit {
            between: between.map(|b| b.value),
            pace: pace.value,
        }));
    }
    (errors.len() == before).then_some(limits)
}

fn pace(value: &Spanned<DeValue<'_>>) -> Result<Pace, Complaint> {
    let text = value.get_ref().as_str().unwrap_or_default();
    if text == "pause" {
        return Ok(Pace::Pause);
    }
    let wrong = |why: &str| Complaint::new(format!("must be a rate: {why}")).hint(RATE_HINT);
    let rate = bytes_per_second(text).map_err(wrong)?;
    match NonZeroU64::new(rate).filter(|_| (LEAST..=MOST).contains(&rate)) {
        Some(rate) => Ok(Pace::Rate(rate)),
        None => Err(Complaint::new("must be from 10kB/s to 100GB/s")
            .hint("rate = \"pause\" sends nothing at all")),
    }
}

/// Writes a pace so that it is read again.
pub(super) fn format_pace(pace: Pace) -> String {
    match pace {
        Pace::Rate(rate) => format_rate(rate),
        Pace::Pause | Pace::Free => "pause".to_owned(),
    }
}

fn between(value: &Spanned<DeValue<'_>>) -> Result<Between, Complaint> {
    let text = text(value)?;
    let wrong = || Complaint::new("must be a part of a day").hint(BETWEEN_HINT);
    let (from, to) = text.split_once('-').ok_or_else(wrong)?;
    let minute = |text: &str| {
        let (hour, minute) = text.trim().split_once(':')?;
        let number = |text: &str, most: u16| {
            let digits = text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit());
            text.parse::<u16>().ok().filter(|n| digits && *n <= most)
        };
        Some(number(hour, 24)? * 60 + number(minute, 59)?)
    };
    let (from, to) = minute(from).zip(minute(to)).ok_or_else(wrong)?;
    Between::new(from, to).map_err(|e| Complaint::new(format!("is no part of a day: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates() {
        let table = [
            ("20MB/s", Ok(20_000_000)),
            ("20 mb/s", Ok(20_000_000)),
            ("512KiB/s", Ok(512 << 10)),
            ("1GB/s", Ok(1_000_000_000)),
            ("10kB/s", Ok(10_000)),
            (
                "20",
                Err("the unit is one of kB/s, MB/s, GB/s, KiB/s, MiB/s, GiB/s"),
            ),
            (
                "20MB",
                Err("the unit is one of kB/s, MB/s, GB/s, KiB/s, MiB/s, GiB/s"),
            ),
            ("MB/s", Err("it begins with a whole number")),
            ("", Err("it begins with a whole number")),
            ("-1MB/s", Err("it begins with a whole number")),
            ("99999999999GB/s", Err("the number is too large")),
        ];
        for (text, expected) in table {
            assert_eq!(bytes_per_second(text), expected, "{text}");
        }
        for text in ["20MB/s", "3KiB/s", "5MiB/s", "2GiB/s", "1500kB/s", "7GB/s"] {
            let rate = NonZeroU64::new(bytes_per_second(text).unwrap()).unwrap();
            assert_eq!(format_pace(Pace::Rate(rate)), text);
        }
    }
}
