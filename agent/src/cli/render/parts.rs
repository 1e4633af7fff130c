//! The tables of the status.

use super::table::{Cell, Row, plain, table};
use super::{Page, health_word};
use crate::api::types::{
    AddressStatus, Contents, Counted, Inexact, LinkStatus, Progress, Role, TreeState, TreeStatus,
    Verified,
};
use crate::cli::text::{Tone, ago, bytes, count, time};

impl Page<'_> {
    pub(super) fn addresses(&self) -> String {
        let row = |a: &AddressStatus| {
            let here = match (a.held, self.report.role) {
                (true, Role::Master) => Cell::new(Tone::Good, "held"),
                (true, _) => Cell::new(Tone::Bad, "held without being master"),
                (false, Role::Master) => Cell::new(Tone::Bad, "missing"),
                (false, _) => plain("not here"),
            };
            let notes = a.error.iter().chain(&a.conflict);
            let notes = notes.map(|c| Cell::new(Tone::Bad, c));
            Row {
                cells: vec![
                    plain(&a.address),
                    plain(a.label.as_ref().unwrap_or(&a.device)),
                    here,
                ],
                notes: notes.collect(),
            }
        };
        let rows: Vec<Row> = self.report.addresses.iter().map(row).collect();
        table(self.style, &["FLOATING IP", "DEVICE", "HERE"], &rows)
    }

    pub(super) fn links(&self) -> String {
        let rows: Vec<Row> = self.report.links.iter().map(link).collect();
        let heads = [
            "LINK",
            "STATE",
            "HEARD>",
            "HEARD THERE>",
            "RTT>",
            "LOSS>",
            "DEVICE",
            "HERE",
            "THERE",
            "DATA",
        ];
        table(self.style, &heads, &rows)
    }

    pub(super) fn trees(&self) -> String {
        let master = self.report.role == Role::Master;
        let rows: Vec<Row> = self
            .report
            .trees
            .iter()
            .map(|t| tree(t, master, self.now))
            .collect();
        // What a master must know is what is not yet there; what a standby must know is how old its word is.
        let age = if master { "LAG>" } else { "STALE>" };
        let heads = [
            "TREE",
            "STATE",
            age,
            "QUEUE>",
            "FILES>",
            "SIZE>",
            "SEQ>",
            "ACKED>",
            "EPOCH",
            "WATCHED BY",
        ];
        table(self.style, &heads, &rows)
    }

    pub(super) fn replicas(&self) -> String {
        let rows = self.report.replicas.iter().map(|r| {
            let state = match (r.up, r.in_sync) {
                (true, true) => Cell::new(Tone::Good, "in sync"),
                (true, false) => Cell::new(Tone::Warn, "catching up"),
                (false, _) => Cell::new(Tone::Bad, "not fed"),
            };
            let cells = vec![
                plain(&r.name),
                state,
                plain(age(r.lag_ms)),
                plain(r.acked.to_string()),
                plain(&r.address),
                plain(r.trees.join(", ")),
            ];
            Row {
                cells,
                notes: r.why.iter().map(|why| Cell::new(Tone::Warn, why)).collect(),
            }
        });
        let rows: Vec<Row> = rows.collect();
        let heads = ["REPLICA", "STATE", "LAG>", "ACKED>", "ADDRESS", "TREES"];
        table(self.style, &heads, &rows)
    }

    pub(super) fn monitors(&self) -> String {
        let rows = self.report.monitors.iter().map(|m| {
            let (tone, word) = health_word(m.health);
            let since = m.since_unix_ms.map_or("-".to_owned(), |s| ago(s, self.now));
            let cells = vec![
                plain(&m.name),
                Cell::new(tone, word),
                plain(&m.counts_for),
                plain(&m.target),
                plain(since),
            ];
            let failing = m.failures > 0;
            let notes = m.last_error.iter().filter(|_| failing).map(|e| {
                Cell::new(
                    Tone::Warn,
                    format!(
                        "{} in a row, last: {e}",
                        count(u64::from(m.failures), "failure")
                    ),
                )
            });
            Row {
                cells,
                notes: notes.collect(),
            }
        });
        let rows: Vec<Row> = rows.collect();
        table(
            self.style,
            &["MONITOR", "SAYS", "ABOUT", "ASKS", "SINCE"],
            &rows,
        )
    }

    pub(super) fn services(&self) -> String {
        let rows = self.report.services.iter().map(|s| {
            let tone = match s.state.as_str() {
                "failed" => Tone::Bad,
                "unknown" => Tone::Warn,
                _ => Tone::Plain,
            };
            let since = s.since_unix_ms.map_or("-".to_owned(), |t| ago(t, self.now));
            Row {
                cells: vec![plain(&s.name), Cell::new(tone, &s.state), plain(since)],
                notes: s
                    .last_error
                    .iter()
                    .map(|e| Cell::new(Tone::Bad, e))
                    .collect(),
            }
        });
        let rows: Vec<Row> = rows.collect();
        table(self.style, &["SERVICE", "STATE", "SINCE"], &rows)
    }
}

fn age(ms: Option<u64>) -> String {
    ms.map_or("-".to_owned(), time)
}

fn link(l: &LinkStatus) -> Row {
    let state = match (l.up, l.carrier) {
        (true, _) => Cell::new(Tone::Good, "up"),
        (false, Some(false)) => Cell::new(Tone::Bad, "no carrier"),
        (false, _) => Cell::new(Tone::Bad, "silent"),
    };
    let rtt = match l.rtt_us {
        None => "-".to_owned(),
        Some(us) => format!("{}.{:02} ms", us / 1000, us % 1000 / 10),
    };
    let loss = match l.loss_percent {
        None => plain("-"),
        Some(p) if p > 0.0 => Cell::new(Tone::Warn, format!("{p:.0} %")),
        Some(_) => plain("0 %"),
    };
    let cells = vec![
        plain(&l.name),
        state,
        plain(age(l.heard_ms)),
        plain(if l.heard_by_peer { "yes" } else { "no" }),
        plain(rtt),
        loss,
        plain(&l.device),
        plain(&l.local),
        plain(&l.remote),
        plain(if l.data { "yes" } else { "no" }),
    ];
    Row {
        cells,
        notes: Vec::new(),
    }
}

fn tree(t: &TreeStatus, master: bool, now: u64) -> Row {
    let (tone, word) = match t.state {
        TreeState::Consistent => (Tone::Good, "consistent"),
        TreeState::CatchingUp => (Tone::Warn, "catching up"),
        TreeState::Copying => (Tone::Warn, "copying"),
        TreeState::Unborn => (Tone::Warn, "unborn"),
        TreeState::Stopped => (Tone::Bad, "STOPPED"),
        TreeState::Unknown => (Tone::Warn, "unknown"),
    };
    let cells = vec![
        plain(&t.name),
        Cell::new(tone, word),
        plain(age(if master { t.lag_ms } else { t.stale_ms })),
        plain(inexact(t, Counted::Queue, t.queue.to_string())),
        plain(t.files.to_string()),
        plain(bytes(t.bytes)),
        plain(t.seq.to_string()),
        plain(t.acked.to_string()),
        plain(t.epoch.as_deref().map_or("-", short_epoch)),
        plain(detector(t)),
    ];
    let mut notes = Vec::new();
    notes.extend(t.stopped.iter().map(|why| Cell::new(Tone::Bad, why)));
    if !t.proven && t.state != TreeState::Unborn {
        notes.push(Cell::new(
            Tone::Bad,
            format!("the root {} is not proven to be the registered one", t.path),
        ));
    }
    notes.extend(t.progress.iter().map(|p| plain(progress(p))));
    if t.errors > 0 {
        let last = t.last_error.as_deref().unwrap_or("not known");
        notes.push(Cell::new(
            Tone::Warn,
            format!(
                "{}, last: {last}",
                inexact(t, Counted::Errors, count(t.errors, "error"))
            ),
        ));
    }
    if t.rescued > 0 {
        let text = format!(
            "{} in the rescue: `tandem rescue list`",
            count(t.rescued, "entry")
        );
        notes.push(Cell::new(Tone::Warn, text));
    }
    if !t.mounts_below.is_empty() {
        notes.push(plain(format!(
            "not part of it, mounted below: {}",
            t.mounts_below.join(", ")
        )));
    }
    if t.local_changes > 0 {
        let paths = inexact(t, Counted::LocalChanges, count(t.local_changes, "path"));
        let text = format!("{paths} changed on this node and left as they are");
        notes.push(Cell::new(Tone::Warn, text));
    }
    if t.kept > 0 {
        let kept = inexact(t, Counted::Kept, count(t.kept, "entry"));
        let text = format!("{kept} kept that the master removed");
        notes.push(plain(text));
    }
    if t.sockets_skipped > 0 {
        notes.push(plain(format!(
            "{} not copied",
            count(t.sockets_skipped, "socket")
        )));
    }
    if let Some(set) = &t.set {
        let there = match (master, set.there) {
            (true, true) => ", on the standby",
            (true, false) => ", not on the standby yet",
            (false, _) => "",
        };
        let next = set.next_ms.map(|ms| format!(", next in {}", age(Some(ms))));
        notes.push(plain(format!(
            "set {}, {} old{there}{}",
            set.number,
            age(Some(set.age_ms)),
            next.unwrap_or_default()
        )));
    }
    if let Some(why) = &t.detector_because {
        notes.push(plain(format!("no better detector: {why}")));
    }
    notes.extend(t.contents.iter().map(|c| contents(c, t, now)));
    if t.unverified > 0 {
        let files = inexact(t, Counted::Unverified, count(t.unverified, "file"));
        notes.push(plain(format!(
            "{files} grown and not verified whole yet: that follows when they rest"
        )));
    }
    notes.extend(t.verified.iter().map(|v| verified(v, t, now)));
    if let Some(first) = t.fuzzy.first() {
        let files = count(t.fuzzy.len() as u64 + t.fuzzy_more, "file");
        notes.push(plain(format!(
            "not in sync, read while written and perhaps torn: {files}, the first {first}"
        )));
    }
    if let Some(path) = &t.reading {
        notes.push(plain(format!("reads a large file: {path}")));
    }
    Row { cells, notes }
}

/// A count of a tree as it is to be read.
fn inexact(t: &TreeStatus, which: Counted, number: String) -> String {
    match t.inexact.get(&which) {
        Some(Inexact::AtLeast) => format!("at least {number}"),
        Some(Inexact::About | Inexact::Unknown) => format!("about {number}"),
        None => number,
    }
}

fn detector(t: &TreeStatus) -> String {
    match t.poll_ms {
        Some(pause) if t.detector != "poll" => format!("{} + poll {}", t.detector, time(pause)),
        Some(pause) => format!("poll {}", time(pause)),
        None => t.detector.clone(),
    }
}

/// How far the comparison of contents is, and what it found.
fn contents(c: &Contents, t: &TreeStatus, now: u64) -> Cell {
    let mut text = format!(
        "contents compared: {} of {} in this round, the last one ended {}",
        bytes(c.bytes),
        bytes(t.bytes),
        c.last_ended_unix_ms
            .map_or("never".to_owned(), |then| ago(then, now)),
    );
    let differed = c.differed + c.last_differed;
    if differed == 0 {
        return plain(text);
    }
    let files = count(differed, "file");
    text.push_str(&format!(
        "; {files} had changed without a time stamp that moved"
    ));
    Cell::new(Tone::Warn, text)
}

/// How far the comparison with a receiver is, and what it found.
fn verified(v: &Verified, t: &TreeStatus, now: u64) -> Cell {
    let last = v.last_ended_unix_ms;
    let mut text = format!(
        "verified against {}: {} of {} in this round, the last whole one ended {}",
        v.receiver,
        bytes(v.bytes),
        bytes(t.bytes),
        last.map_or("never".to_owned(), |then| ago(then, now)),
    );
    let differ = v.differ.max(v.last_differ);
    if differ == 0 {
        return plain(text);
    }
    text.push_str(&format!(
        "; {} differ: {}",
        count(differ, "path"),
        v.named.join(", ")
    ));
    Cell::new(Tone::Bad, text)
}

/// An epoch has 128 bits; an eye needs fewer.
fn short_epoch(hex: &str) -> &str {
    hex.get(..8).unwrap_or(hex)
}

fn progress(p: &Progress) -> String {
    let of = |done: String, total: Option<String>| match total {
        Some(total) if p.at_least => format!("{done} of at least {total}"),
        Some(total) => format!("{done} of {total}"),
        None => done,
    };
    let files = of(
        p.files_done.to_string(),
        p.files_total.map(|n| n.to_string()),
    );
    let size = of(bytes(p.bytes_done), p.bytes_total.map(bytes));
    let mut text = format!(
        "{}: {files} files, {size}, {} files/s, {}/s",
        p.what,
        p.files_per_second,
        bytes(p.bytes_per_second)
    );
    if let Some(eta) = p.eta_ms {
        text.push_str(&format!(", {} left", time(eta)));
    }
    text
}
