//! A directory with many files gets another name.

use super::{Rows, compare, first_copy};
use crate::bench::SyncOptions;
use crate::bench::agents::SOON;
use crate::bench::case::Case;
use crate::bench::data::make_small;
use crate::bench::error::BenchError;
use crate::bench::place::{Needs, Place};
use crate::bench::report::{Measured, Target};
use crate::text::count;
use std::fs;
use std::time::Instant;

/// Runs when nothing else is asked for; the directory is renamed to and fro.
const RUNS: u32 = 5;
/// What fits into a message of names and a few seconds of heartbeats, and is far below any file data.
const NO_DATA: f64 = 0.1;

fn files(options: &SyncOptions) -> u64 {
    (options.files / 10).max(1)
}

pub(super) fn needs(options: &SyncOptions) -> Needs {
    Needs {
        inodes: 2 * files(options) + files(options) / 50,
        bytes: 2 * files(options) * 4500,
    }
}

pub(super) fn play(
    options: &SyncOptions,
    place: &Place,
    rows: &mut Rows,
) -> Result<(), BenchError> {
    let root = place.tree(0);
    let names = [root.join("directory"), root.join("renamed")];
    fs::create_dir(&names[0]).map_err(BenchError::io("make the directory"))?;
    make_small(&names[0], 0, files(options))?;
    place.settle()?;
    first_copy(place)?;
    let runs = options.runs.unwrap_or(RUNS);
    let (mut times, mut sent) = (Vec::new(), Vec::new());
    for run in 0..runs as usize {
        place.settle()?;
        place.flush(SOON)?;
        let before = sent_bytes(place)?;
        let begin = Instant::now();
        fs::rename(&names[run % 2], &names[(run + 1) % 2])
            .map_err(BenchError::io("rename the directory"))?;
        place.flush(SOON)?;
        times.push(begin.elapsed().as_secs_f64() * 1e3);
        sent.push((sent_bytes(place)? - before) as f64 / 1e6);
        eprintln!("  rename, run {} of {runs}: {:.1} ms", run + 1, times[run]);
    }
    place.stop_agents()?;
    compare(place)?;
    let how = format!(
        "a directory with {} files of 1 KiB in directories of 100 is renamed: until `flush` says that it is durable \
         on the standby, and bytes sent on the private cable meanwhile; {runs} runs",
        count(files(options))
    );
    for (what, unit, tandem, target) in [
        ("until durable", "ms", times, Target::AtMost(100.0)),
        ("bytes sent", "MB", sent, Target::AtMost(NO_DATA)),
    ] {
        rows.add(Measured {
            case: Case::Rename,
            what: what.into(),
            unit,
            tandem,
            peer: None,
            target,
            how: how.clone(),
        });
    }
    Ok(())
}

/// Bytes that the first host has sent on the private cable.
fn sent_bytes(place: &Place) -> Result<u64, BenchError> {
    let file = "/sys/class/net/eth1/statistics/tx_bytes";
    let read = place.node(0).host.enter(move || fs::read_to_string(file))?;
    let text = read.map_err(BenchError::io(file))?;
    text.trim()
        .parse()
        .map_err(|e| BenchError::Broken(format!("{file}: {e}")))
}
