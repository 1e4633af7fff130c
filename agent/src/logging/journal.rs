//! Entries in journald's own form, so that `journalctl` finds their fields: systemd.io/JOURNAL_NATIVE_PROTOCOL. An entry is
//! a datagram of lines `NAME=value`; names as in systemd.journal-fields(7), those of Tandem begin with `F_`.

use std::fmt;
use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Where journald takes entries.
const PLACE: &str = "/run/systemd/journal/socket";
/// Longest entry. Longer ones would have to be handed over as files; no entry of the agent is that long.
const LONGEST: usize = 48 << 10;

/// The way to journald.
pub(super) struct Socket(UnixDatagram);

impl Socket {
    pub fn open() -> io::Result<Socket> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(PLACE)?;
        Ok(Socket(socket))
    }
}

impl Write for Socket {
    fn write(&mut self, entry: &[u8]) -> io::Result<usize> {
        let end = entry.len().min(LONGEST);
        let sent = self.0.send(&entry[..end]);
        if sent.is_err() {
            // journald was started again: its socket is another one.
            self.0.connect(PLACE)?;
            self.0.send(&entry[..end])?;
        }
        Ok(entry.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Entries of events.
pub(super) struct Entry;

impl<S, N> FormatEvent<S, N> for Entry
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut to: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let about = event.metadata();
        head(&mut to, *about.level(), about.target())?;
        if let (Some(file), Some(line)) = (about.file(), about.line()) {
            write!(to, "CODE_FILE={file}\nCODE_LINE={line}\n")?;
        }
        let mut fields = Fields {
            to: &mut to,
            result: Ok(()),
        };
        event.record(&mut fields);
        fields.result
    }
}

/// That so many lines were lost.
pub(super) fn lost(lines: usize) -> String {
    let mut entry = String::new();
    // A string takes all of it.
    let _ = head(&mut entry, Level::WARN, "tandem::logging");
    entry + &format!("MESSAGE=lines of the log were lost: journald is too slow\nF_LINES={lines}\n")
}

fn head(to: &mut dyn fmt::Write, level: Level, target: &str) -> fmt::Result {
    // syslog(3).
    let priority = match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    };
    writeln!(
        to,
        "PRIORITY={priority}\nSYSLOG_IDENTIFIER=tandem\nTARGET={target}"
    )
}

struct Fields<'a, 'w> {
    to: &'a mut Writer<'w>,
    result: fmt::Result,
}

impl Visit for Fields<'_, '_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, &format!("{value:?}"));
    }
}

impl Fields<'_, '_> {
    fn put(&mut self, field: &Field, value: &str) {
        if self.result.is_ok() {
            self.result = put(self.to, field.name(), value);
        }
    }
}

/// A value with a line end would be the begin of another field: it is shown as one instead.
fn put(to: &mut dyn fmt::Write, name: &str, value: &str) -> fmt::Result {
    match name {
        "message" => to.write_str("MESSAGE=")?,
        // Names have capital letters, digits and underscores.
        _ => {
            to.write_str("F_")?;
            for byte in name.bytes() {
                to.write_char(match byte.is_ascii_alphanumeric() {
                    true => byte.to_ascii_uppercase().into(),
                    false => '_',
                })?;
            }
            to.write_char('=')?;
        }
    }
    for (n, line) in value.split('\n').enumerate() {
        let between = if n > 0 { "\\n" } else { "" };
        write!(to, "{between}{line}")?;
    }
    to.write_char('\n')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_has_its_fields_and_no_others() {
        let (ours, theirs) = UnixDatagram::pair().expect("a pair");
        let subscriber = tracing_subscriber::fmt()
            .event_format(Entry)
            .with_writer(move || Socket(ours.try_clone().expect("a descriptor")))
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            let text = "one\nPRIORITY=0";
            tracing::warn!(target: "tandem::x", text, peer.term = 7, "taken over");
        });
        let mut entry = vec![0; LONGEST];
        let length = theirs.recv(&mut entry).expect("a datagram");
        let entry = std::str::from_utf8(&entry[..length]).expect("text");
        let lines: Vec<&str> = entry.lines().filter(|l| !l.starts_with("CODE_")).collect();
        assert_eq!(
            lines,
            [
                "PRIORITY=4",
                "SYSLOG_IDENTIFIER=tandem",
                "TARGET=tandem::x",
                "MESSAGE=taken over",
                "F_TEXT=one\\nPRIORITY=0",
                "F_PEER_TERM=7",
            ]
        );
    }
}
