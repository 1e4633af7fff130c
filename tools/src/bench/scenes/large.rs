//! Large files: one with small edits, a log that grows, and one that the other side knows nothing of.

use super::{Rows, compare, first_copy};
use crate::bench::SyncOptions;
use crate::bench::agents::COPY;
use crate::bench::bare;
use crate::bench::case::Case;
use crate::bench::data::{fill, make_large};
use crate::bench::error::BenchError;
use crate::bench::measure::paired;
use crate::bench::peers::Rsync;
use crate::bench::place::{IN_PLACE, Needs, Place};
use crate::bench::report::{Measured, Target};
use crate::text::size;
use std::cell::Cell;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

pub(super) const CASES: [Case; 3] = [Case::Edits, Case::Log, Case::Huge];

/// The file with edits, and the log.
const LARGE: u64 = 1 << 30;
/// The file without basis.
const HUGE: u64 = 8 << 30;
/// Edits of one run, and bytes of each: a page of a database.
const EDITS: u64 = 64;
const EDIT: usize = 4096;
/// What a log grows by at a time.
const APPEND: usize = 1_000_000;
/// How much shorter the log is that shows whether the length matters.
const SHORTER: u64 = 64;
/// Runs when nothing else is asked for: of edits and appends, and of the file of gigabytes.
const RUNS: u32 = 5;
const HUGE_RUNS: u32 = 1;

pub(super) fn needs(options: &SyncOptions) -> Needs {
    let wants = |case| u64::from(options.wants(case));
    let runs = u64::from(options.runs.unwrap_or(HUGE_RUNS));
    // On each side a source and a copy; Tandem and rsync make the new version beside the old one.
    let edited = (2 * wants(Case::Edits) + wants(Case::Log)) * 6 * LARGE;
    Needs {
        inodes: 1000,
        bytes: (edited + wants(Case::Huge) * 3 * HUGE * runs) / options.shrink,
    }
}

pub(super) fn play(
    options: &SyncOptions,
    place: &Place,
    rows: &mut Rows,
) -> Result<(), BenchError> {
    first_copy(place)?;
    rows.case(options, place, Case::Edits, |rows| {
        edits(options, place, In::Atomic, rows)?;
        edits(options, place, In::Place, rows)
    })?;
    rows.case(options, place, Case::Log, |rows| log(options, place, rows))?;
    rows.case(options, place, Case::Huge, |rows| {
        huge(options, place, rows)
    })?;
    place.stop_agents()?;
    compare(place)
}

/// A file in the tree, and the same file beside the tree for the peer, each with a copy on the other side.
struct Twins<'a> {
    place: &'a Place,
    rsync: Rsync<'a>,
    ours: std::path::PathBuf,
    theirs: std::path::PathBuf,
    from: String,
    to: String,
}

impl<'a> Twins<'a> {
    /// With the one below `tree`.
    fn make(place: &'a Place, tree: &Path, name: &str, bytes: u64) -> Result<Self, BenchError> {
        let rsync = Rsync::start(place)?;
        let (from, to) = (place.new_directory(name), place.new_directory("rsync"));
        let dir = place.node(0).host.outside_path(&from);
        fs::create_dir(&dir).map_err(BenchError::io("make a directory"))?;
        let twins = Self {
            place,
            rsync,
            ours: tree.join(name),
            theirs: dir.join(name),
            from,
            to,
        };
        make_large(&twins.ours, bytes)?;
        make_large(&twins.theirs, bytes)?;
        place.flush(COPY)?;
        twins.rsync.copy(&["-a"], &twins.from, &twins.to)?;
        Ok(twins)
    }

    fn ours(
        &self,
        change: impl FnOnce(&Path) -> Result<(), BenchError>,
    ) -> Result<Duration, BenchError> {
        let begin = Instant::now();
        change(&self.ours)?;
        self.place.flush(COPY)?;
        Ok(begin.elapsed())
    }

    fn theirs(
        &self,
        options: &[&str],
        change: impl FnOnce(&Path) -> Result<(), BenchError>,
    ) -> Result<Duration, BenchError> {
        let begin = Instant::now();
        change(&self.theirs)?;
        self.rsync.copy(options, &self.from, &self.to)?;
        Ok(begin.elapsed())
    }
}

/// Changes small places of a file, and moves its time by whole seconds: rsync's quick check sees no less.
fn edit(path: &Path, round: u64) -> Result<(), BenchError> {
    let failed = || BenchError::io("edit the large file");
    let file = OpenOptions::new()
        .write(true)
        .open(path)
        .map_err(failed())?;
    let length = file.metadata().map_err(failed())?.len();
    let mut bytes = [0; EDIT];
    for n in 0..EDITS {
        fill((round << 32) + n, &mut bytes);
        let at = u64::from_le_bytes([
            bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5], 0, 0,
        ]);
        file.write_all_at(&bytes, at % length.saturating_sub(EDIT as u64).max(1))
            .map_err(failed())?;
    }
    file.set_modified(SystemTime::now() + Duration::from_secs(2 * round))
        .map_err(failed())
}

/// How the standby gets the new version: `update` of the tree.
#[derive(Clone, Copy)]
enum In {
    Atomic,
    Place,
}

fn edits(
    options: &SyncOptions,
    place: &Place,
    update: In,
    rows: &mut Rows,
) -> Result<(), BenchError> {
    let (tree, what, target, manner) = match update {
        In::Atomic => (
            place.tree(0),
            "atomic",
            0.9,
            "the new version is put in place as a whole by both",
        ),
        In::Place => (
            place.node(0).host.outside_path(IN_PLACE),
            "in-place",
            0.3,
            "Tandem changes the file in place, through a durable journal; rsync puts a new version in place as a whole",
        ),
    };
    let twins = Twins::make(place, &tree, "edited", LARGE / options.shrink)?;
    let (ours, theirs) = (Cell::new(0), Cell::new(0));
    let next = |round: &Cell<u64>| round.replace(round.get() + 1) + 1;
    let runs = options.runs.unwrap_or(RUNS);
    let all = paired(
        place,
        runs,
        "edits",
        || twins.ours(|file| edit(file, next(&ours))),
        || twins.theirs(&["-a", "--fsync"], |file| edit(file, next(&theirs))),
    )?;
    rows.add(Measured {
        case: Case::Edits,
        what: what.into(),
        unit: "s",
        tandem: all.tandem,
        peer: Some(("rsync -a --fsync".into(), all.peer)),
        target: Target::TimesPeer(target),
        how: format!(
            "one file of {}, {EDITS} edits of {EDIT} bytes at places that differ in each of {runs} paired runs: from the \
             first edit until `flush` returns, or rsync ends; {manner}",
            size(LARGE / options.shrink)
        ),
    });
    Ok(())
}

/// Appends to a log.
fn append(path: &Path, round: u64) -> Result<(), BenchError> {
    let mut bytes = vec![0; APPEND];
    fill(round << 40, &mut bytes);
    OpenOptions::new()
        .append(true)
        .open(path)
        .and_then(|mut file| file.write_all(&bytes))
        .map_err(BenchError::io("append to the log"))
}

fn log(options: &SyncOptions, place: &Place, rows: &mut Rows) -> Result<(), BenchError> {
    let runs = options.runs.unwrap_or(RUNS);
    let length = LARGE / options.shrink;
    let round = Cell::new(0);
    let next = || round.replace(round.get() + 1) + 1;
    let twins = Twins::make(place, &place.tree(0), "log", length)?;
    let all = paired(
        place,
        runs,
        "log",
        || twins.ours(|file| append(file, next())),
        || twins.theirs(&["-a"], |file| append(file, next())),
    )?;
    let short = Twins::make(place, &place.tree(0), "short", length / SHORTER)?;
    let mut shorter = Vec::new();
    for _ in 0..runs {
        place.settle()?;
        shorter.push(short.ours(|file| append(file, next()))?.as_secs_f64());
    }
    let how = format!(
        "{APPEND} bytes appended at a time: from the write until `flush` returns, or rsync ends; {runs} runs"
    );
    rows.add(Measured {
        case: Case::Log,
        what: size(length),
        unit: "s",
        tandem: all.tandem.clone(),
        peer: Some(("rsync -a".into(), all.peer)),
        target: Target::TimesPeer(0.05),
        how: how.clone(),
    });
    rows.add(Measured {
        case: Case::Log,
        what: "long and short".into(),
        unit: "s",
        tandem: all.tandem,
        peer: Some((format!("Tandem, {}", size(length / SHORTER)), shorter)),
        // Independent of the length, within what two medians of a busy machine differ by.
        target: Target::TimesPeer(1.5),
        how,
    });
    Ok(())
}

fn huge(options: &SyncOptions, place: &Place, rows: &mut Rows) -> Result<(), BenchError> {
    let bytes = HUGE / options.shrink;
    let rate = |took: Duration| bytes as f64 / took.as_secs_f64() / 1e6;
    let (mut ours, mut link, mut disk) = (Vec::new(), Vec::new(), Vec::new());
    for run in 0..options.runs.unwrap_or(HUGE_RUNS) {
        // Made beside the tree and put into it as a whole: making it takes no part in the time.
        let made = place.node(0).host.outside_path(place.new_directory("huge"));
        make_large(&made, bytes)?;
        place.settle()?;
        let begin = Instant::now();
        fs::rename(&made, place.tree(0).join(format!("huge-{run}")))
            .map_err(BenchError::io("put the large file into the tree"))?;
        place.flush(COPY)?;
        ours.push(rate(begin.elapsed()));
        place.settle()?;
        link.push(rate(bare::transport(place, bytes)?));
        place.settle()?;
        disk.push(rate(dd(place, bytes)?));
    }
    let slower: Vec<f64> = link.iter().zip(&disk).map(|(l, d)| l.min(*d)).collect();
    rows.add(Measured {
        case: Case::Huge,
        what: size(bytes),
        unit: "MB/s",
        tandem: ours,
        peer: Some(("slower of link and dd".into(), slower)),
        target: Target::ShareOfPeer(0.8),
        how: format!(
            "one file without basis moved into the tree, until `flush` returns; the same number of bytes over the bare \
             link (MB/s: {link:.0?}) and by dd conv=fsync to the other side's disk (MB/s: {disk:.0?})"
        ),
    });
    Ok(())
}

/// Writes so many bytes to the other side's disk, durably.
fn dd(place: &Place, bytes: u64) -> Result<Duration, BenchError> {
    let to = place.new_directory("dd");
    let mut command = Command::new("dd");
    command.args([
        "if=/dev/zero".to_string(),
        format!("of={to}"),
        "bs=1M".into(),
        format!("count={}", bytes.div_ceil(1 << 20)),
        "conv=fsync".into(),
    ]);
    let begin = Instant::now();
    let output = place.node(1).output(command, COPY)?;
    let took = begin.elapsed();
    if !output.success() {
        return Err(BenchError::Broken(format!("dd failed: {}", output.stderr)));
    }
    // Room for the next run; one large file gone slows nothing down.
    let _ = File::create(place.node(1).host.outside_path(to));
    Ok(took)
}
