//! The time of day where this machine is.

use std::time::{SystemTime, UNIX_EPOCH};

/// Minute of the day by the local time, 0 to 1439.
pub fn minute_of_day() -> u16 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    // A clock before 1970 says nothing of the day.
    let seconds = since.map_or(0, |since| since.as_secs());
    let seconds = libc::time_t::try_from(seconds).unwrap_or(0);
    // SAFETY: zero is a valid value of each field of this plain structure; the zone's pointer may be null.
    let mut parts: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are of live values of their types, and only this call uses them.
    if unsafe { libc::localtime_r(&seconds, &mut parts) }.is_null() {
        return 0;
    }
    // Hours are 0 to 23, minutes 0 to 59.
    u16::try_from(parts.tm_hour * 60 + parts.tm_min).unwrap_or(0) % (24 * 60)
}

#[cfg(test)]
mod tests {
    #[test]
    fn it_is_a_minute_of_a_day() {
        assert!(super::minute_of_day() < 24 * 60);
    }
}
