//! Durations as people write them.

use super::quantity::quantity;
use super::value::Complaint;
use std::ops::RangeInclusive;
use std::time::Duration;
use toml::Spanned;
use toml::de::DeValue;

/// A duration in a range, both ends included.
pub(super) fn duration(
    range: RangeInclusive<Duration>,
) -> impl Fn(&Spanned<DeValue<'_>>) -> Result<Duration, Complaint> {
    move |value| {
        let Some(text) = value.get_ref().as_str() else {
            return Err(Complaint::new("must be a duration in quotes, with a unit")
                .hint("for example \"200ms\", \"60s\", \"10m\", \"1h\" or \"7d\""));
        };
        let duration = parse_duration(text).map_err(|why| {
            Complaint::new(format!("must be a duration: {why}"))
                .hint("for example \"200ms\", \"60s\", \"10m\", \"1h\" or \"7d\"")
        })?;
        if range.contains(&duration) {
            return Ok(duration);
        }
        let (low, high) = (
            format_duration(*range.start()),
            format_duration(*range.end()),
        );
        Err(Complaint::new(format!("must be from {low} to {high}")))
    }
}

/// Units, largest first.
const UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1000),
    ("ms", 1),
];

/// Reads `200ms`, `60s`, `10m`, `1h`, `7d`.
pub fn parse_duration(text: &str) -> Result<Duration, &'static str> {
    let factor = |unit: &str| {
        let is = |(name, _): &&(&str, u64)| *name == unit;
        UNITS.iter().find(is).map(|(_, factor)| *factor)
    };
    let millis = quantity(text, factor, "the unit is one of ms, s, m, h, d")?;
    Ok(Duration::from_millis(millis))
}

/// Writes a duration of whole milliseconds so that [`parse_duration`] reads it, with the largest unit that leaves no
/// rest up to minutes (`60s` stays as people write it).
pub fn format_duration(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let (name, factor) = UNITS
        .iter()
        .find(|(_, factor)| {
            millis != 0
                && millis % factor == 0
                && millis / factor >= if *factor == 60_000 { 2 } else { 1 }
        })
        .unwrap_or(&("ms", 1));
    format!("{}{name}", millis / factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written_alike() {
        for text in [
            "200ms", "60s", "2m", "10m", "1h", "7d", "1500ms", "90s", "0ms", "36h",
        ] {
            assert_eq!(format_duration(parse_duration(text).unwrap()), text);
        }
        assert_eq!(parse_duration("2 s"), Ok(Duration::from_secs(2)));
        for text in [
            "",
            "s",
            "200",
            "1.5s",
            "-1s",
            "1w",
            "99999999999999999999s",
            "18446744073709551615d",
        ] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn every_duration_survives(millis in 0u64..u64::from(u32::MAX)) {
            let duration = Duration::from_millis(millis);
            proptest::prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }

        #[test]
        fn no_text_breaks_the_reader_of_durations(text in ".{0,12}") {
            let _ = parse_duration(&text);
        }
    }
}
