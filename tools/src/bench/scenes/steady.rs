//! A tree that is in sync: changes, and a connection that breaks.

use super::Rows;
use crate::bench::SyncOptions;
use crate::bench::agents::{COPY, SOON};
use crate::bench::case::Case;
use crate::bench::error::BenchError;
use crate::bench::lag::{Changes, fsyncs, replaced, until_durable, until_seen};
use crate::bench::loops::{Lsyncd, beside_rsync_loop};
use crate::bench::peers::Rsync;
use crate::bench::place::Place;
use crate::bench::report::{Measured, Target};
use crate::bench::sever::sever;
use crate::bench::statistics::percentile;
use crate::text::count;
use std::fs;
use std::time::{Duration, Instant};

/// 100 changes each second.
const EVERY: Duration = Duration::from_millis(10);
const PER_SECOND: u64 = 100;
/// One of so many is asked for by a flush.
const ASKED: u64 = 10;
/// Changes of a tree without agents.
const ALONE: u64 = 20 * PER_SECOND;
/// Changes that the peers are given: each takes a second or more with them.
const PEER_CHANGES: u64 = 15;
/// Runs of a broken connection when nothing else is asked for.
const BREAKS: u32 = 5;

/// The connection between the agents is broken, and a file written: until it is durable on the standby.
pub(super) fn reconnect(
    options: &SyncOptions,
    place: &Place,
    rows: &mut Rows,
) -> Result<(), BenchError> {
    let runs = options.runs.unwrap_or(BREAKS);
    let file = place.tree(0).join("after-the-break");
    let mut times = Vec::new();
    for run in 0..runs {
        place.settle()?;
        place.wait_in_sync(SOON)?;
        let begin = Instant::now();
        if sever(place.agent_pid(0)?)? == 0 {
            return Err(BenchError::Broken(
                "the agents have no connection to break".into(),
            ));
        }
        fs::write(&file, run.to_string()).map_err(BenchError::io("write a file"))?;
        flush_after_break(place)?;
        times.push(begin.elapsed().as_secs_f64() * 1e3);
        eprintln!(
            "  reconnect, run {} of {runs}: {:.1} ms",
            run + 1,
            times[times.len() - 1]
        );
    }
    rows.add(Measured {
        case: Case::Reconnect,
        what: String::new(),
        unit: "ms",
        tandem: times,
        peer: None,
        target: Target::AtMost(100.0),
        how: format!(
            "{} files: every TCP connection between the agents is shut down and a file written: until `flush` vouches \
             for it over a new one; {runs} runs",
            count(options.files)
        ),
    });
    Ok(())
}

/// Asks until it is so: while there is no session an agent says no at once.
fn flush_after_break(place: &Place) -> Result<(), BenchError> {
    let end = Instant::now() + SOON;
    loop {
        crate::signals::check()?;
        match place.flush(SOON) {
            Ok(()) => return Ok(()),
            Err(e) if Instant::now() >= end => return Err(e),
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// Changes at a steady rate, by Tandem. Returns the milliseconds until each of some was seen. `copy`: the same tree, on the
/// standby's disk, of which nobody knows.
pub(super) fn changes(
    options: &SyncOptions,
    place: &Place,
    copy: &str,
    rows: &mut Rows,
) -> Result<Vec<f64>, BenchError> {
    place.settle()?;
    place.wait_in_sync(COPY)?;
    let one = fsyncs(
        &place
            .node(1)
            .host
            .outside_path(place.new_directory("fsync")),
    )?;
    let one = percentile(&one, 50.0).unwrap_or_default();
    let number = options.seconds * PER_SECOND;
    let alone = replaced(
        &place.node(1).host.outside_path(copy),
        &mut Changes::new(options.files, 3),
        EVERY,
        number.min(ALONE),
    )?;
    place.settle()?;
    let mut changes = Changes::new(options.files, 0);
    let durable = until_durable(place, &mut changes, EVERY, number, ASKED)?;
    place.flush(COPY)?;
    let number_seen = number.min(10 * PER_SECOND);
    let seen = until_seen(place, &mut changes, &place.tree(1), EVERY, number_seen)?;
    let how = format!(
        "{} files, one of them rewritten each {EVERY:?} for {} s; of every {ASKED}th: from before the write \
         until a flush that began after it says that it is durable on the standby (an upper bound: the flush is part of it); a file of 1 KiB and its \
         fsync take {one:.2} ms on this disk; one disk alone: files of the same tree replaced at the same rate on the standby's disk while \
         the agents rest: new file, fsync, rename, fsync of the directory",
        count(options.files),
        options.seconds
    );
    let how_seen = format!(
        "{number_seen} changes one after the other, at most one each {EVERY:?}: from before the write until the \
         standby's file has the new content"
    );
    let of_alone = |percent| {
        Some((
            "one disk alone".to_owned(),
            percentile(&alone, percent).into_iter().collect(),
        ))
    };
    for (what, percent, values, bound, how) in [
        ("durable, median", 50.0, &durable, Some(5.0), &how),
        ("durable, p99", 99.0, &durable, Some(25.0), &how),
        ("seen, median", 50.0, &seen, None, &how_seen),
        ("seen, p99", 99.0, &seen, None, &how_seen),
    ] {
        rows.add(Measured {
            case: Case::Changes,
            what: what.into(),
            unit: "ms",
            tandem: percentile(values, percent).into_iter().collect(),
            peer: bound.and_then(|_| of_alone(percent)),
            target: bound.map_or(Target::None, Target::AtMost),
            how: how.clone(),
        });
    }
    Ok(seen)
}

/// The same question to what is used today. The agents must be stopped.
pub(super) fn peers_changes(
    options: &SyncOptions,
    place: &Place,
    rsync: &Rsync<'_>,
    to: &str,
    tandem: &[f64],
    rows: &mut Rows,
) -> Result<(), BenchError> {
    rsync.tree(to)?;
    let seen = place.node(1).host.outside_path(to);
    let mut measure = |name: &str, lags: Vec<f64>| {
        rows.add(Measured {
            case: Case::Changes,
            what: format!("seen, beside {name}"),
            unit: "ms",
            tandem: tandem.to_vec(),
            peer: Some((name.into(), lags)),
            target: Target::None,
            how: format!(
                "median of {PEER_CHANGES} changes one after the other: from before the write until the other side's \
                 file has the new content; Tandem's agents are stopped meanwhile"
            ),
        });
    };
    let mut changes = Changes::new(options.files, 1);
    let lags = beside_rsync_loop(rsync, to, || {
        until_seen(place, &mut changes, &seen, EVERY, PEER_CHANGES)
    })?;
    measure("rsync loop", lags);
    let mut changes = Changes::new(options.files, 2);
    match Lsyncd::start(place, to)? {
        Some(_lsyncd) => {
            measure(
                "lsyncd",
                until_seen(place, &mut changes, &seen, EVERY, PEER_CHANGES)?,
            );
        }
        None => eprintln!("lsyncd is not installed: left out"),
    }
    Ok(())
}
