//! Words and numbers for people. Pure.

use std::borrow::Cow;
use std::fmt::Write;

/// Text that is safe on a terminal: control characters, and characters that turn the direction of writing, are shown
/// as escapes. File names and messages of others must not write to the operator's screen.
pub(super) fn escape(text: &str) -> Cow<'_, str> {
    if !text.chars().any(dangerous) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if dangerous(c) {
            // Writing to a String does not fail.
            let _ = write!(safe, "\\u{{{:x}}}", u32::from(c));
        } else {
            safe.push(c);
        }
    }
    Cow::Owned(safe)
}

fn dangerous(c: char) -> bool {
    // Marks, embeddings, overrides and isolates of direction; line and paragraph separators.
    let turns =
        matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || turns
}

/// `120 ms`, `3.2 s`, `4 min 10 s`, `2 h 5 min`, `3 d 4 h`.
pub(super) fn time(ms: u64) -> String {
    let two = |value: u64, unit: &str, rest: u64, small: &str| match rest {
        0 => format!("{value} {unit}"),
        rest => format!("{value} {unit} {rest} {small}"),
    };
    let (s, min, h) = (ms / 1000, ms / 60_000, ms / 3_600_000);
    match ms {
        0..=999 => format!("{ms} ms"),
        1000..=59_999 => format!("{s}.{} s", ms % 1000 / 100),
        60_000..=3_599_999 => two(min, "min", s % 60, "s"),
        3_600_000..=86_399_999 => two(h, "h", min % 60, "min"),
        _ => two(h / 24, "d", h % 24, "h"),
    }
}

/// The age of a moment: `3.2 s ago`.
pub(super) fn ago(then_unix_ms: u64, now_unix_ms: u64) -> String {
    format!("{} ago", time(now_unix_ms.saturating_sub(then_unix_ms)))
}

/// `512 B`, `1.4 GB`.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    let mut unit = None;
    let (mut whole, mut tenth) = (count, 0);
    for name in UNITS {
        if whole < 1000 {
            break;
        }
        tenth = whole % 1000 / 100;
        whole /= 1000;
        unit = Some(name);
    }
    match unit {
        None => format!("{count} B"),
        Some(unit) => format!("{whole}.{tenth} {unit}"),
    }
}

/// `1 file`, `2 files`.
pub(super) fn count(number: u64, one: &str) -> String {
    let plural = match one.strip_suffix('y') {
        _ if number == 1 => return format!("1 {one}"),
        Some(stem) => format!("{stem}ies"),
        None => format!("{one}s"),
    };
    format!("{number} {plural}")
}

/// Colours, for a terminal only.
#[derive(Debug, Clone, Copy)]
pub(super) struct Style {
    pub on: bool,
}

/// What a text says, and so its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    Good,
    Warn,
    Bad,
    Head,
    Dim,
}

impl Style {
    /// `text` in the colour of `tone`.
    pub fn paint(self, tone: Tone, text: &str) -> String {
        let code = match tone {
            _ if !self.on => return text.to_owned(),
            Tone::Plain => return text.to_owned(),
            Tone::Good => "32",
            Tone::Warn => "33",
            Tone::Bad => "1;31",
            Tone::Head => "1",
            Tone::Dim => "2",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_name_reaches_the_terminal() {
        assert_eq!(escape("plain ä 日本"), "plain ä 日本");
        assert_eq!(
            escape("a\x1b[2Jb\n\u{9b}c\u{7f}"),
            "a\\u{1b}[2Jb\\u{a}\\u{9b}c\\u{7f}"
        );
        assert_eq!(escape("x\u{202e}gpj.exe"), "x\\u{202e}gpj.exe");
    }

    #[test]
    fn times_and_sizes_are_short() {
        let times = [
            0,
            999,
            1000,
            3250,
            59_999,
            60_000,
            250_000,
            3_600_000,
            7_500_000,
            86_400_000,
            273_600_000,
        ];
        let shown: Vec<_> = times.into_iter().map(time).collect();
        let expected = [
            "0 ms",
            "999 ms",
            "1.0 s",
            "3.2 s",
            "59.9 s",
            "1 min",
            "4 min 10 s",
            "1 h",
            "2 h 5 min",
            "1 d",
            "3 d 4 h",
        ];
        assert_eq!(shown, expected);
        let shown: Vec<_> = [0, 999, 1000, 1_449_999_999, u64::MAX]
            .into_iter()
            .map(bytes)
            .collect();
        assert_eq!(shown, ["0 B", "999 B", "1.0 kB", "1.4 GB", "18.4 EB"]);
        assert_eq!(
            (count(1, "entry"), count(2, "entry")),
            ("1 entry".into(), "2 entries".into())
        );
        assert_eq!(ago(5, 3), "0 ms ago");
    }
}
