//! The lag of one change in trees of growing size.

use super::{Rows, compare, first_copy};
use crate::bench::SyncOptions;
use crate::bench::agents::COPY;
use crate::bench::case::Case;
use crate::bench::data::make_small;
use crate::bench::error::BenchError;
use crate::bench::lag::{Changes, until_durable};
use crate::bench::place::{Needs, Place};
use crate::bench::report::{Measured, Target};
use crate::text::count;
use std::time::Duration;

/// How much smaller the smaller trees are.
const STEPS: [u64; 3] = [100, 10, 1];
/// Changes in each tree, and from one to the next: alone, each of them.
const CHANGES: u64 = 50;
const EVERY: Duration = Duration::from_millis(100);
/// Flat, within what two medians of milliseconds differ by on a busy machine.
const FLAT: f64 = 1.5;

pub(super) fn needs(options: &SyncOptions) -> Needs {
    // All three trees are in one; so the largest is larger by the smaller ones.
    Needs {
        inodes: 2 * options.files,
        bytes: 3 * options.files * 4500,
    }
}

pub(super) fn play(
    options: &SyncOptions,
    place: &Place,
    rows: &mut Rows,
) -> Result<(), BenchError> {
    let mut smallest: Option<(u64, Vec<f64>)> = None;
    let mut begun = false;
    let mut there = 0;
    for step in STEPS {
        let files = (options.files / step).max(1);
        if files > there {
            make_small(&place.tree(0), there, files)?;
            there = files;
        }
        if begun {
            place.flush(COPY)?;
        } else {
            first_copy(place)?;
            begun = true;
        }
        place.settle()?;
        let mut changes = Changes::new(files, step);
        let lags = until_durable(place, &mut changes, EVERY, CHANGES, 1)?;
        let (peer, target) = match &smallest {
            Some((files, lags)) => (
                Some((format!("with {} files", count(*files)), lags.clone())),
                Target::TimesPeer(FLAT),
            ),
            None => (None, Target::None),
        };
        rows.add(Measured {
            case: Case::Flat,
            what: format!("{} files", count(files)),
            unit: "ms",
            tandem: lags.clone(),
            peer,
            target,
            how: format!(
                "{CHANGES} files changed, one each {EVERY:?}: from before the write until a flush that began after \
                 it says that it is durable on the standby; median"
            ),
        });
        smallest.get_or_insert((files, lags));
    }
    place.stop_agents()?;
    compare(place)
}
