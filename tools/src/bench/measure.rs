//! Paired runs: both sides in turn, in alternating order, so that what changes slowly on the machine hits both.

use super::error::BenchError;
use super::place::Place;
use crate::text;
use std::time::Duration;

/// The seconds of each run of both sides.
#[derive(Debug, Default, Clone)]
pub(super) struct Paired {
    pub(super) tandem: Vec<f64>,
    pub(super) peer: Vec<f64>,
}

/// Runs both sides `runs` times. Before each run everything earlier is on the disks.
pub(super) fn paired(
    place: &Place,
    runs: u32,
    what: &str,
    mut tandem: impl FnMut() -> Result<Duration, BenchError>,
    mut peer: impl FnMut() -> Result<Duration, BenchError>,
) -> Result<Paired, BenchError> {
    let mut all = Paired::default();
    for run in 0..runs {
        for tandems_turn in [run % 2 == 0, run % 2 != 0] {
            place.settle()?;
            let (who, took) = if tandems_turn {
                ("tandem", tandem()?)
            } else {
                ("peer", peer()?)
            };
            eprintln!(
                "  {what}, run {} of {runs}, {who}: {}",
                run + 1,
                text::time(took)
            );
            let side = if tandems_turn {
                &mut all.tandem
            } else {
                &mut all.peer
            };
            side.push(took.as_secs_f64());
        }
    }
    Ok(all)
}
