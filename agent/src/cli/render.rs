//! The status for a person. Pure: a report and the time in, text out.

mod parts;
mod table;
#[cfg(test)]
mod tests;

use super::text::{Style, Tone, ago, escape, time};
use crate::api::types::{Health, Role, StatusReport};
use std::fmt::Write;

/// The whole status. Begins with what needs a person, ends with the details.
pub(super) fn status(report: &StatusReport, now_unix_ms: u64, style: Style) -> String {
    let page = Page {
        report,
        now: now_unix_ms,
        style,
    };
    let mut out = page.head();
    for table in [
        page.addresses(),
        page.links(),
        page.trees(),
        page.replicas(),
        page.monitors(),
        page.services(),
    ] {
        if !table.is_empty() {
            out.push('\n');
            out.push_str(&table);
        }
    }
    out
}

struct Page<'r> {
    report: &'r StatusReport,
    now: u64,
    style: Style,
}

fn role_tone(role: Role) -> Tone {
    match role {
        Role::Master => Tone::Good,
        Role::Standby | Role::Replica => Tone::Head,
        Role::Joining | Role::Unknown => Tone::Warn,
        Role::Fault => Tone::Bad,
    }
}

fn health_word(health: Health) -> (Tone, &'static str) {
    match health {
        Health::Good => (Tone::Good, "good"),
        Health::Bad => (Tone::Bad, "bad"),
        Health::Unknown => (Tone::Warn, "unknown"),
    }
}

impl Page<'_> {
    fn head(&self) -> String {
        let r = self.report;
        let paint = |tone, text: &str| self.style.paint(tone, text);
        let mut out = String::new();
        let role = paint(role_tone(r.role), &r.role.as_str().to_uppercase());
        let (pair, node) = (escape(&r.pair), paint(Tone::Head, &escape(&r.node)));
        let since = self.lasting(r.since_unix_ms);
        // Writing to a String does not fail.
        let _ = writeln!(
            out,
            "{node} of pair {pair}: {role} for {since}, term {} ({})",
            r.term,
            escape(&r.phase)
        );
        if let Some(m) = &r.maintenance {
            let until = match m.until_unix_ms {
                Some(until) => format!("ends in {}", self.until(until)),
                None if m.here => "until `tandem maintenance off`".to_owned(),
                None => format!("switched on at {}", escape(&r.peer.node)),
            };
            let text = format!("MAINTENANCE: no automatic moves, {until}");
            let _ = writeln!(out, "  {}", paint(Tone::Bad, &text));
        }
        for alarm in &r.alarms {
            let _ = writeln!(
                out,
                "  {}",
                paint(Tone::Bad, &format!("! {}", escape(alarm)))
            );
        }
        out.push('\n');
        for (name, value) in self.facts() {
            let _ = writeln!(out, "{name:<9} {value}");
        }
        out
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        let r = self.report;
        if r.role == Role::Replica {
            // It takes no part in what else there is to say.
            return vec![("from", self.source()), ("config", self.config())];
        }
        let mut facts = vec![
            ("takeover", self.takeover()),
            ("peer", self.peer()),
            ("data", self.data()),
        ];
        if let Some(hold) = &r.hold {
            let mut text = format!("for {}", self.lasting(hold.since_unix_ms));
            if let Some(until) = hold.until_unix_ms {
                let _ = write!(text, ", ends in {}", self.until(until));
            }
            let _ = write!(text, ", {} spooled", super::text::bytes(hold.spooled_bytes));
            facts.push(("hold", self.style.paint(Tone::Warn, &text)));
        }
        facts.push(("config", self.config()));
        if let Some(decision) = &r.last_decision {
            let text = format!(
                "{}, {}",
                escape(&decision.why),
                ago(decision.at_unix_ms, self.now)
            );
            facts.push(("decision", text));
        }
        facts
    }

    /// How long something has lasted.
    fn lasting(&self, since_unix_ms: u64) -> String {
        time(self.now.saturating_sub(since_unix_ms))
    }

    /// How long until a moment.
    fn until(&self, unix_ms: u64) -> String {
        time(unix_ms.saturating_sub(self.now))
    }

    fn takeover(&self) -> String {
        let t = &self.report.takeover;
        let mut text = match &t.node {
            Some(node) if t.possible => {
                let can = self.style.paint(Tone::Good, "could take over");
                return format!("{} {can} now", escape(node));
            }
            Some(node) => {
                let cannot = self.style.paint(Tone::Bad, "could NOT take over");
                format!("{} {cannot} now", escape(node))
            }
            None => self.style.paint(Tone::Bad, "NOBODY could take over now"),
        };
        for reason in &t.reasons {
            let _ = write!(text, "\n{:12}- {}", "", escape(reason));
        }
        text
    }

    fn peer(&self) -> String {
        let p = &self.report.peer;
        let node = escape(&p.node);
        let heard = match p.heard_ms {
            Some(ms) => format!("heard {} ago", time(ms)),
            None => "never heard".to_owned(),
        };
        if !p.alive {
            return format!("{node} {}, {heard}", self.style.paint(Tone::Bad, "silent"));
        }
        let role = p.role.unwrap_or(Role::Unknown);
        let mut text = format!(
            "{node} {}",
            self.style.paint(role_tone(role), role.as_str())
        );
        if let Some(term) = p.term {
            let _ = write!(text, ", term {term}");
        }
        let _ = write!(text, ", {heard}");
        for (what, health) in [("services", p.services), ("network", p.network)] {
            // A standby serves nothing that it could know of.
            if what == "services" && role == Role::Standby && health == Health::Unknown {
                continue;
            }
            let (tone, word) = health_word(health);
            let _ = write!(text, ", {what} {}", self.style.paint(tone, word));
        }
        if let Some(identity) = &p.identity {
            let _ = write!(
                text,
                "\n{:10}{}",
                "",
                self.style.paint(Tone::Bad, &escape(identity))
            );
        }
        text
    }

    /// Of a replica: who feeds it.
    fn source(&self) -> String {
        let r = self.report;
        let node = escape(&r.peer.node);
        match &r.session.why {
            None => format!("{node}, {}", self.style.paint(Tone::Good, "connected")),
            Some(why) => {
                let why = self.style.paint(Tone::Warn, &escape(why));
                format!("{node} last; {why}")
            }
        }
    }

    fn data(&self) -> String {
        let r = self.report;
        let (tone, relation) = match r.relation.as_str() {
            "equal" => (Tone::Good, "equal to the peer's"),
            "ahead" => (Tone::Good, "ahead of the peer's"),
            "behind" => (Tone::Good, "behind the peer's"),
            "diverged" => (Tone::Bad, "DIVERGED from the peer's"),
            "unrelated" => (
                Tone::Bad,
                "UNRELATED to the peer's: `tandem adopt` on the node that shall receive",
            ),
            "both-unborn" => (
                Tone::Warn,
                "no direction yet: `tandem init --source` on the node that has the data",
            ),
            _ => (Tone::Warn, "the peer's are not known"),
        };
        let session = match (&r.session.link, &r.session.why) {
            (Some(link), _) if r.session.up => format!("session over {}", escape(link)),
            (None, _) if r.session.up => "session up".to_owned(),
            (_, Some(why)) => self
                .style
                .paint(Tone::Warn, &format!("no session: {}", escape(why))),
            (_, None) => self.style.paint(Tone::Warn, "no session"),
        };
        format!("{}; {session}", self.style.paint(tone, relation))
    }

    fn config(&self) -> String {
        let c = &self.report.config;
        let mine = escape(&c.mine);
        let mut text = match (c.equal, c.matters_equal) {
            (Some(true), _) => format!("{mine}, equal on both nodes"),
            (Some(false), Some(true)) => {
                let differs = self.style.paint(Tone::Warn, "differs from the peer's");
                format!("{mine} {differs}, but not in what matters for a takeover")
            }
            (Some(false), _) => {
                format!(
                    "{mine} {}",
                    self.style.paint(
                        Tone::Bad,
                        "differs from the peer's in what matters for a takeover"
                    )
                )
            }
            (None, _) if self.report.role == Role::Replica => mine.into_owned(),
            (None, _) => format!("{mine}, the peer's is not known"),
        };
        if c.file_changed {
            let changed = format!(
                "{} was changed: `tandem reload` applies it",
                escape(&c.file)
            );
            let _ = write!(
                text,
                "\n{:10}{}",
                "",
                self.style.paint(Tone::Warn, &changed)
            );
        }
        text
    }
}
