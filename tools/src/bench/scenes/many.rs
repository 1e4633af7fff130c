//! The tree with many small files: its first copy, and what it costs afterwards.

use super::{Rows, compare, first_copy, steady, warm};
use crate::bench::SyncOptions;
use crate::bench::agents::{COPY, Memory};
use crate::bench::case::Case;
use crate::bench::data::{PER_DIRECTORY, make_small};
use crate::bench::error::BenchError;
use crate::bench::measure::paired;
use crate::bench::peers::Rsync;
use crate::bench::place::{Needs, Place};
use crate::bench::report::{Measured, Target};
use crate::text::count;
use std::time::{Duration, Instant};

pub(super) const CASES: [Case; 5] = [
    Case::Small,
    Case::Restart,
    Case::Memory,
    Case::Reconnect,
    Case::Changes,
];

/// From so many files on a copy takes minutes and is made once.
const LARGE: u64 = 500_000;
/// What a file of 1 KiB takes on an ext4 with blocks of 4 KiB: block, inode and its part of the directory.
const ON_DISK: u64 = 4096 + 256 + 64;
/// How long idle agents are left alone before their memory is read: the allocator gives back after seconds.
const IDLE: Duration = Duration::from_secs(5);

fn runs(options: &SyncOptions) -> u32 {
    options
        .runs
        .unwrap_or(if options.files < LARGE { 3 } else { 1 })
}

pub(super) fn needs(options: &SyncOptions) -> Needs {
    let files = options.files + options.files / PER_DIRECTORY;
    let copies = 2 * u64::from(runs(options));
    Needs {
        inodes: files * copies,
        bytes: files * ON_DISK * (1 + copies),
    }
}

pub(super) fn play(
    options: &SyncOptions,
    place: &Place,
    rows: &mut Rows,
) -> Result<(), BenchError> {
    make_small(&place.tree(0), 0, options.files)?;
    warm(place)?;
    let rsync = Rsync::start(place)?;
    let copied = copies(options, place, &rsync, rows)?;
    place.start_agents()?;
    place.wait_in_sync(COPY)?;
    rows.case(options, place, Case::Restart, |rows| {
        restart(options, place, &rsync, &copied, rows)
    })?;
    rows.case(options, place, Case::Memory, |rows| {
        memory(options, place, &copied, rows)
    })?;
    rows.case(options, place, Case::Reconnect, |rows| {
        steady::reconnect(options, place, rows)
    })?;
    let mut seen = None;
    rows.case(options, place, Case::Changes, |rows| {
        seen = Some(steady::changes(options, place, &copied.by_rsync, rows)?);
        Ok(())
    })?;
    place.stop_agents()?;
    compare(place)?;
    // Last, as they change the source while no agent runs.
    rows.case(options, place, Case::Changes, |rows| {
        seen.map_or(Ok(()), |seen| {
            steady::peers_changes(options, place, &rsync, &copied.by_rsync, &seen, rows)
        })
    })
}

/// What the copies leave for the cases after them.
struct Copied {
    /// Where rsync's last copy is.
    by_rsync: String,
    /// Memory of the agents at the end of the first copy.
    memory: [Memory; 2],
}

fn copies(
    options: &SyncOptions,
    place: &Place,
    rsync: &Rsync<'_>,
    rows: &mut Rows,
) -> Result<Copied, BenchError> {
    let (mut by_rsync, mut memory) = (String::new(), None);
    let tandem = || {
        place.renew()?;
        let took = first_copy(place)?;
        memory = Some([place.memory(0)?, place.memory(1)?]);
        place.stop_agents()?;
        Ok(took)
    };
    let peer = || {
        by_rsync = place.new_directory("rsync");
        rsync.tree(&by_rsync)
    };
    let all = paired(place, runs(options), "small", tandem, peer)?;
    compare(place)?;
    if options.wants(Case::Small) {
        rows.add(Measured {
            case: Case::Small,
            what: format!("{} files", count(options.files)),
            unit: "s",
            tandem: all.tandem,
            peer: Some(("rsync -a".into(), all.peer)),
            target: Target::TimesPeer(0.9),
            how: format!(
                "first copy of files of 1 KiB, {PER_DIRECTORY} in each directory; Tandem from the start of both agents \
                 to everything durable, encrypted; rsync -a to a plain daemon, not durable; {} paired runs, source warm, {}",
                runs(options),
                place.disks
            ),
        });
    }
    let memory = memory.ok_or_else(|| BenchError::Broken("no run".into()))?;
    Ok(Copied { by_rsync, memory })
}

fn restart(
    options: &SyncOptions,
    place: &Place,
    rsync: &Rsync<'_>,
    copied: &Copied,
    rows: &mut Rows,
) -> Result<(), BenchError> {
    let tandem = || {
        let before = place.status(0)?.started_unix_ms;
        let begin = Instant::now();
        place.restart(0)?;
        place.wait(COPY, "the agent is a new one", || {
            Ok(place.status(0)?.started_unix_ms != before)
        })?;
        place.wait_in_sync(COPY)?;
        Ok(begin.elapsed())
    };
    let peer = || rsync.tree(&copied.by_rsync);
    let runs = options.runs.unwrap_or(3);
    let all = paired(place, runs, "restart", tandem, peer)?;
    rows.add(Measured {
        case: Case::Restart,
        what: String::new(),
        unit: "s",
        tandem: all.tandem,
        peer: Some(("rsync -a".into(), all.peer)),
        target: Target::TimesPeer(0.6),
        how: format!(
            "{} files, nothing changed: `tandem restart` on the master until the standby could take over and `flush` \
             vouches for everything; rsync -a over its own copy; {runs} paired runs",
            count(options.files)
        ),
    });
    Ok(())
}

fn memory(
    options: &SyncOptions,
    place: &Place,
    copied: &Copied,
    rows: &mut Rows,
) -> Result<(), BenchError> {
    std::thread::sleep(IDLE);
    let idle = [place.memory(0)?, place.memory(1)?];
    let mb = |bytes: u64| bytes as f64 / 1e6;
    let lines = [
        ("master, first copy", mb(copied.memory[0].peak)),
        ("standby, first copy", mb(copied.memory[1].peak)),
        ("master, idle", mb(idle[0].now)),
        ("standby, idle", mb(idle[1].now)),
    ];
    for (what, value) in lines {
        rows.add(Measured {
            case: Case::Memory,
            what: what.into(),
            unit: "MB",
            tandem: vec![value],
            peer: None,
            target: Target::AtMost(150.0),
            how: format!(
                "{} files; VmHWM at the end of the first copy, VmRSS {IDLE:?} after the last work",
                count(options.files)
            ),
        });
    }
    Ok(())
}
