//! The first copy of the Linux source tree.

use super::{Rows, compare, first_copy, warm};
use crate::bench::SyncOptions;
use crate::bench::case::Case;
use crate::bench::data::{linux_source, unpack};
use crate::bench::error::BenchError;
use crate::bench::measure::paired;
use crate::bench::peers::Rsync;
use crate::bench::place::{Needs, PRIVATE, Place};
use crate::bench::report::{Measured, Target};
use crate::text::{count, size};

/// Runs when nothing else is asked for.
const RUNS: u32 = 3;
/// Linux 6.1 has 79 000 files; later ones are larger.
const FILES: u64 = 150_000;
const BYTES: u64 = 2_500_000_000;

pub(super) fn needs(options: &SyncOptions) -> Needs {
    let copies = 2 * u64::from(options.runs.unwrap_or(RUNS));
    Needs {
        inodes: copies * FILES,
        bytes: (1 + copies) * BYTES,
    }
}

pub(super) fn play(
    options: &SyncOptions,
    place: &Place,
    rows: &mut Rows,
) -> Result<(), BenchError> {
    let source = match &options.linux {
        Some(source) => source.clone(),
        None => linux_source()?,
    };
    unpack(place, &source)?;
    warm(place)?;
    let sum = tandem_lab::summarize(&place.tree(0), &[PRIVATE])
        .map_err(BenchError::io("count the files"))?;
    let rsync = Rsync::start(place)?;
    let runs = options.runs.unwrap_or(RUNS);
    let tandem = || {
        place.renew()?;
        let took = first_copy(place)?;
        place.stop_agents()?;
        Ok(took)
    };
    let peer = || rsync.tree(&place.new_directory("rsync"));
    let all = paired(place, runs, "linux", tandem, peer)?;
    compare(place)?;
    rows.add(Measured {
        case: Case::Linux,
        what: String::new(),
        unit: "s",
        tandem: all.tandem,
        peer: Some(("rsync -a".into(), all.peer)),
        target: Target::TimesPeer(0.7),
        how: format!(
            "first copy of {} ({} files, {}); Tandem from the start of both agents to everything durable, encrypted; \
             rsync -a to a plain daemon, not durable; {runs} paired runs, source warm, {}",
            source.file_name().unwrap_or_default().to_string_lossy(),
            count(sum.files),
            size(sum.bytes),
            place.disks
        ),
    });
    Ok(())
}
