//! Names of the directories of the trash.

use std::fmt;

/// Seconds of one directory of the trash.
pub(crate) const SECONDS: u64 = 3600;
/// Directories of one hour: how often a path can go within it. Then what is removed once more replaces the newest.
pub(super) const ROUNDS: u32 = 100;

/// One directory of the trash, shown as its name: `2026-11-28T03`, and `2026-11-28T03.1` for the second one of that hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Hour {
    /// Hours since 1970 (UTC).
    pub hour: u64,
    /// Which of the hour's directories.
    pub round: u32,
}

impl Hour {
    /// The hour of a moment (seconds since 1970).
    pub fn of(now: u64) -> Hour {
        let hour = now / SECONDS;
        Hour { hour, round: 0 }
    }

    /// Another directory of the same hour.
    pub fn round(self, round: u32) -> Hour {
        Hour { round, ..self }
    }

    /// Reads a name; `None` for what is never made here.
    pub fn parse(name: &[u8]) -> Option<Hour> {
        let text = std::str::from_utf8(name).ok()?;
        let (hour, round) = text.split_once('.').unwrap_or((text, "0"));
        let round = round.parse::<u32>().ok().filter(|round| *round < ROUNDS)?;
        let part = |range: std::ops::Range<usize>| hour.get(range)?.parse::<u64>().ok();
        let (year, month, day, of_day) = (part(0..4)?, part(5..7)?, part(8..10)?, part(11..13)?);
        if year < 1970 || !(1..=12).contains(&month) || day == 0 || of_day > 23 {
            return None;
        }
        let years = (1970..year).map(|year| 365 + u64::from(leap(year)));
        // At most 12, which fits.
        let before = months(year).into_iter().take(month as usize - 1);
        let hour = (years.chain(before).sum::<u64>() + day - 1) * 24 + of_day;
        let found = Hour { hour, round };
        (found.to_string() == text).then_some(found)
    }
}

impl fmt::Display for Hour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut days, mut year) = (self.hour / 24, 1970u64);
        loop {
            let length = 365 + u64::from(leap(year));
            if days < length {
                break;
            }
            (days, year) = (days - length, year + 1);
        }
        let mut month = 1;
        for length in months(year) {
            if days < length {
                break;
            }
            (days, month) = (days - length, month + 1);
        }
        let of_day = self.hour % 24;
        write!(f, "{year:04}-{month:02}-{:02}T{of_day:02}", days + 1)?;
        match self.round {
            0 => Ok(()),
            round => write!(f, ".{round}"),
        }
    }
}

fn leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn months(year: u64) -> [u64; 12] {
    let february = 28 + u64::from(leap(year));
    [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
}

/// The name of a directory of the trash.
#[cfg(feature = "fuzz")]
pub(crate) fn fuzz(bytes: &[u8]) {
    if let Some(hour) = Hour::parse(bytes) {
        assert_eq!(
            hour.to_string().as_bytes(),
            bytes,
            "a name is read as another"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_hours_are_read_as_they_are_written() {
        assert_eq!(Hour::of(0).to_string(), "1970-01-01T00");
        assert_eq!(Hour::of(1_764_298_800).to_string(), "2025-11-28T03");
        assert_eq!(Hour::of(1_709_164_800).to_string(), "2024-02-29T00");
        for hour in (0..1_000_000).step_by(997) {
            for round in [0, 7, 99] {
                let of = Hour { hour, round };
                assert_eq!(Hour::parse(of.to_string().as_bytes()), Some(of), "{of}");
            }
        }
        for other in [
            "",
            "mine",
            "..",
            "2026-02-30T03",
            "2026-1-1T1",
            "2026-11-28T03.x",
            "2026-11-28T03.0",
            "2026-11-28T03.07",
            "2026-11-28T03.100",
            "2026-11-28T03/..",
            "2026-11-28 03",
        ] {
            assert_eq!(Hour::parse(other.as_bytes()), None, "{other}");
        }
    }
}
