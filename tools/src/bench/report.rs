//! The rows of the result: as a table for people, as JSON for programs.

use super::case::Case;
use super::statistics::median;
use serde::Serialize;
use std::fmt;

/// What has to be reached. Time and memory: less is better.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Target {
    /// Tandem's value is at most so many times the peer's.
    TimesPeer(f64),
    /// Tandem's value is at least so many times the peer's (throughput).
    ShareOfPeer(f64),
    /// Tandem's value is at most this.
    AtMost(f64),
    /// Nothing; the row is there to be known.
    None,
}

impl Target {
    /// Whether it is reached; nothing where there is no target, or nothing to compare with.
    fn met(self, tandem: f64, peer: Option<f64>) -> Option<bool> {
        match self {
            Self::TimesPeer(times) => peer.map(|peer| tandem <= times * peer),
            Self::ShareOfPeer(share) => peer.map(|peer| tandem >= share * peer),
            Self::AtMost(bound) => Some(tandem <= bound),
            Self::None => None,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimesPeer(times) => write!(f, "<= {times} x"),
            Self::ShareOfPeer(share) => write!(f, ">= {share} x"),
            Self::AtMost(bound) => write!(f, "<= {bound}"),
            Self::None => Ok(()),
        }
    }
}

/// What was measured for one line of the result.
#[derive(Debug, Clone)]
pub(super) struct Measured {
    pub(super) case: Case,
    /// Tells lines of one case apart; may be empty.
    pub(super) what: String,
    pub(super) unit: &'static str,
    /// One value for each run.
    pub(super) tandem: Vec<f64>,
    pub(super) peer: Option<(String, Vec<f64>)>,
    pub(super) target: Target,
    /// What exactly was done.
    pub(super) how: String,
}

/// A line of the result.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Row {
    case: String,
    unit: String,
    /// Median of the runs; null when the case failed.
    tandem: Option<f64>,
    peer_name: Option<String>,
    peer: Option<f64>,
    /// Tandem's value as a multiple of the peer's.
    ratio: Option<f64>,
    target: String,
    /// Null where there is no target.
    met: Option<bool>,
    tandem_runs: Vec<f64>,
    peer_runs: Vec<f64>,
    how: String,
    /// Why there is no value.
    error: Option<String>,
}

impl From<Measured> for Row {
    fn from(m: Measured) -> Self {
        let name = m.case.name();
        let case = if m.what.is_empty() {
            name.to_string()
        } else {
            format!("{name}: {}", m.what)
        };
        let (peer_name, peer_runs) = m.peer.map_or((None, Vec::new()), |(n, r)| (Some(n), r));
        let (tandem, peer) = (median(&m.tandem), median(&peer_runs));
        Self {
            case,
            unit: m.unit.into(),
            tandem,
            peer_name,
            peer,
            ratio: tandem
                .zip(peer)
                .filter(|(_, p)| *p > 0.0)
                .map(|(t, p)| t / p),
            target: m.target.to_string(),
            // A target without a value is missed.
            met: match tandem {
                Some(tandem) => m.target.met(tandem, peer),
                None => (m.target != Target::None).then_some(false),
            },
            tandem_runs: m.tandem,
            peer_runs,
            how: m.how,
            error: None,
        }
    }
}

impl Row {
    /// A case that was not measured.
    pub(super) fn failed(case: Case, why: String) -> Self {
        Self {
            case: case.name().into(),
            unit: String::new(),
            tandem: None,
            peer_name: None,
            peer: None,
            ratio: None,
            target: String::new(),
            met: Some(false),
            tandem_runs: Vec::new(),
            peer_runs: Vec::new(),
            how: String::new(),
            error: Some(why),
        }
    }

    /// Whether it is a line of this case.
    pub(super) fn is_of(&self, case: Case) -> bool {
        self.case.split(':').next() == Some(case.name())
    }

    /// Whether it belongs to a case that failed.
    pub(super) fn is_failure(&self) -> bool {
        self.error.is_some()
    }
}

/// A number with three significant digits or more.
fn number(value: f64) -> String {
    let decimals = match value.abs() {
        0.0..1.0 => 3,
        1.0..10.0 => 2,
        10.0..100.0 => 1,
        _ => 0,
    };
    format!("{value:.decimals$}")
}

/// The rows as a table in Markdown, with what was done below it.
pub(super) fn table(rows: &[Row]) -> String {
    let head = [
        "case", "unit", "Tandem", "peer", "peer's", "ratio", "target", "met",
    ];
    let mut lines = vec![head.map(str::to_string)];
    for row in rows {
        let value = |v: Option<f64>| v.map_or("-".into(), number);
        lines.push([
            row.case.clone(),
            row.unit.clone(),
            row.error
                .as_ref()
                .map_or(value(row.tandem), |_| "FAILED".into()),
            row.peer_name.clone().unwrap_or_else(|| "-".into()),
            value(row.peer),
            value(row.ratio),
            row.target.clone(),
            match row.met {
                Some(true) => "yes",
                Some(false) => "NO",
                None => "-",
            }
            .into(),
        ]);
    }
    let width = |column: usize| lines.iter().map(|l| l[column].chars().count()).max();
    let widths: Vec<usize> = (0..head.len()).map(|c| width(c).unwrap_or(0)).collect();
    let mut out = String::new();
    for (n, line) in lines.iter().enumerate() {
        for (cell, width) in line.iter().zip(&widths) {
            out += &format!("| {cell:<width$} ");
        }
        out += "|\n";
        if n == 0 {
            for width in &widths {
                out += &format!("|{}", "-".repeat(width + 2));
            }
            out += "|\n";
        }
    }
    out.push('\n');
    let mut last = None;
    for row in rows {
        let said = row.error.as_ref().unwrap_or(&row.how);
        // The lines of one case mostly share it.
        if last.replace(said) == Some(said) {
            continue;
        }
        out += &format!("{}: {said}\n", row.case);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{Measured, Row, Target, number, table};
    use crate::bench::case::Case;

    fn measured(target: Target) -> Measured {
        Measured {
            case: Case::Linux,
            what: String::new(),
            unit: "s",
            tandem: vec![7.0, 6.0, 9.0],
            peer: Some(("rsync -a".into(), vec![10.0, 9.0, 12.0])),
            target,
            how: "copied".into(),
        }
    }

    #[test]
    fn targets_are_judged_as_they_are_written() {
        for (target, met) in [
            (Target::TimesPeer(0.7), Some(true)),
            (Target::TimesPeer(0.69), Some(false)),
            (Target::ShareOfPeer(0.7), Some(true)),
            (Target::ShareOfPeer(0.8), Some(false)),
            (Target::AtMost(7.0), Some(true)),
            (Target::AtMost(6.9), Some(false)),
            (Target::None, None),
        ] {
            assert_eq!(Row::from(measured(target)).met, met, "{target}");
        }
        let alone = Measured {
            peer: None,
            ..measured(Target::TimesPeer(1.0))
        };
        assert_eq!(Row::from(alone).met, None);
        let nothing = Measured {
            tandem: Vec::new(),
            ..measured(Target::AtMost(1.0))
        };
        assert_eq!(Row::from(nothing).met, Some(false));
    }

    #[test]
    fn json_has_the_fields_that_programs_read() {
        let row = Row::from(measured(Target::TimesPeer(0.7)));
        let json = serde_json::to_value(vec![row]).expect("JSON");
        let one = &json[0];
        assert_eq!(one["case"], "linux");
        assert_eq!(one["unit"], "s");
        assert_eq!(one["tandem"], 7.0);
        assert_eq!(one["peer_name"], "rsync -a");
        assert_eq!(one["peer"], 10.0);
        assert_eq!(one["ratio"], 0.7);
        assert_eq!(one["target"], "<= 0.7 x");
        assert_eq!(one["met"], true);
        assert_eq!(one["tandem_runs"], serde_json::json!([7.0, 6.0, 9.0]));
        let failed = serde_json::to_value(Row::failed(Case::Log, "why".into())).expect("JSON");
        assert_eq!(failed["met"], false);
        assert_eq!(failed["tandem"], serde_json::Value::Null);
        assert_eq!(failed["error"], "why");
    }

    #[test]
    fn the_table_says_what_failed_and_what_is_missed() {
        let rows = [
            Row::from(measured(Target::TimesPeer(0.5))),
            Row::failed(Case::Huge, "no room".into()),
        ];
        let text = table(&rows);
        let lines: Vec<&str> = text.lines().collect();
        assert!(
            lines[2].contains("| 7.00 ") && lines[2].contains("| NO "),
            "{text}"
        );
        assert!(lines[3].contains("FAILED"), "{text}");
        assert!(
            text.contains("huge: no room") && text.contains("linux: copied"),
            "{text}"
        );
        let same = |l: &&str| l.chars().count() == lines[0].chars().count();
        assert!(lines[..4].iter().all(same), "{text}");
    }

    #[test]
    fn numbers_keep_three_digits() {
        assert_eq!(number(0.1234), "0.123");
        assert_eq!(number(1.234), "1.23");
        assert_eq!(number(12.34), "12.3");
        assert_eq!(number(1234.5), "1234");
    }
}
