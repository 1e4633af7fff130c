//! (pure) Rates as people write them: bytes each second.

use super::quantity::quantity;
use std::num::NonZeroU64;

/// Slower than this a single large piece would take longer than a peer waits for a sign of life.
pub const LEAST: u64 = 10_000;
/// More than any link or disk carries.
pub const MOST: u64 = 100_000_000_000;

/// Units, largest first.
const UNITS: [(&str, u64); 6] = [
    ("GiB/s", 1 << 30),
    ("GB/s", 1_000_000_000),
    ("MiB/s", 1 << 20),
    ("MB/s", 1_000_000),
    ("KiB/s", 1 << 10),
    ("kB/s", 1000),
];

/// Reads `20MB/s`, of any size.
pub(super) fn bytes_per_second(text: &str) -> Result<u64, &'static str> {
    let factor = |unit: &str| {
        let is = |(name, _): &&(&str, u64)| name.eq_ignore_ascii_case(unit);
        UNITS.iter().find(is).map(|(_, factor)| *factor)
    };
    let units = "the unit is one of kB/s, MB/s, GB/s, KiB/s, MiB/s, GiB/s";
    quantity(text, factor, units)
}

/// Reads a rate within its bounds.
pub fn parse_rate(text: &str) -> Result<NonZeroU64, String> {
    let rate = bytes_per_second(text.trim()).map_err(|why| format!("must be a rate: {why}"))?;
    NonZeroU64::new(rate)
        .filter(|_| (LEAST..=MOST).contains(&rate))
        .ok_or_else(|| "must be from 10kB/s to 100GB/s".to_owned())
}

/// Writes a rate so that it is read again.
pub fn format_rate(rate: NonZeroU64) -> String {
    let rate = rate.get();
    let whole = UNITS
        .iter()
        .find(|(_, factor)| rate.is_multiple_of(*factor));
    // Every rate that can be written is a multiple of a unit.
    let (unit, factor) = whole.unwrap_or(&("B/s", 1));
    format!("{}{unit}", rate / factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_and_written() {
        for (text, rate, shown) in [
            ("50MB/s", 50_000_000, "50MB/s"),
            ("1500 kB/s", 1_500_000, "1500kB/s"),
            ("2GB/s", 2_000_000_000, "2GB/s"),
            ("4MiB/s", 4 << 20, "4MiB/s"),
        ] {
            let read = parse_rate(text).unwrap();
            assert_eq!((read.get(), &format_rate(read)[..]), (rate, shown));
        }
        for wrong in [
            "50", "50MB", "0MB/s", "1kB/s", "-1MB/s", "1.5GB/s", "2000GB/s", "MB/s",
        ] {
            assert!(parse_rate(wrong).is_err(), "{wrong}");
        }
    }
}
