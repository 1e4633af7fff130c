//! The scenes: each makes its data once and plays the cases that use them.

mod flat;
mod large;
mod linux;
mod many;
mod rename;
mod steady;

use super::agents::COPY;
use super::case::Case;
use super::error::BenchError;
use super::place::{Needs, PRIVATE, Place};
use super::report::{Row, table};
use super::{SyncOptions, report};
use crate::signals;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Where the rows of a scene are collected, so that what was measured before a failure is kept.
pub(super) struct Rows(Vec<Row>);

impl Rows {
    fn add(&mut self, measured: report::Measured) {
        self.0.push(measured.into());
    }

    /// Plays a case if it was asked for. One that fails gets a line that says so, the state of both nodes is printed, and
    /// the other cases go on.
    fn case(
        &mut self,
        options: &SyncOptions,
        place: &Place,
        case: Case,
        play: impl FnOnce(&mut Self) -> Result<(), BenchError>,
    ) -> Result<(), BenchError> {
        if !options.wants(case) {
            return Ok(());
        }
        match play(self) {
            Err(e) if !matches!(e, BenchError::Interrupted(_)) => {
                place.show();
                self.0.push(Row::failed(case, e.to_string()));
                Ok(())
            }
            other => other,
        }
    }
}

type Wants = fn(&SyncOptions) -> Needs;
type Scene = fn(&SyncOptions, &Place, &mut Rows) -> Result<(), BenchError>;

/// Plays what was asked for, prints the table, writes the JSON. Returns how many cases failed.
pub(super) fn run(options: &SyncOptions) -> Result<usize, BenchError> {
    let dir = match &options.dir {
        Some(dir) => dir.clone(),
        None => beside_program()?,
    };
    let all: [(&[Case], Wants, Scene); 5] = [
        (&[Case::Linux], linux::needs, linux::play),
        (&many::CASES, many::needs, many::play),
        (&large::CASES, large::needs, large::play),
        (&[Case::Rename], rename::needs, rename::play),
        (&[Case::Flat], flat::needs, flat::play),
    ];
    let mut rows = Rows(Vec::new());
    for (cases, needs, play) in all {
        let wanted: Vec<Case> = cases
            .iter()
            .copied()
            .filter(|c| options.wants(*c))
            .collect();
        if wanted.is_empty() {
            continue;
        }
        let before = rows.0.len();
        let played = Place::new(&dir, needs(options)).and_then(|place| {
            eprintln!("{}: {}", wanted[0].name(), place.disks);
            let played = play(options, &place, &mut rows);
            if let Err(e) = &played
                && !matches!(e, BenchError::Interrupted(_))
            {
                place.show();
            }
            played
        });
        match played {
            Ok(()) => {}
            Err(e @ BenchError::Interrupted(_)) => return Err(e),
            Err(e) => {
                // What has no row yet was not measured. When all have one, what failed is what they rest on: the trees
                // were not equal in the end, or an agent did not stop.
                let lacks = |case: &Case| !rows.0[before..].iter().any(|row| row.is_of(*case));
                let mut failed: Vec<Case> = wanted.iter().copied().filter(lacks).collect();
                if failed.is_empty() {
                    failed = wanted;
                }
                let failed = failed.into_iter();
                rows.0
                    .extend(failed.map(|case| Row::failed(case, e.to_string())));
            }
        }
        signals::check()?;
    }
    print!("{}", table(&rows.0));
    if let Some(file) = &options.json {
        let json = serde_json::to_vec_pretty(&rows.0)
            .map_err(|e| BenchError::Broken(format!("make the JSON: {e}")))?;
        std::fs::write(file, json).map_err(BenchError::io(format!("write {}", file.display())))?;
    }
    Ok(rows.0.iter().filter(|row| row.is_failure()).count())
}

/// The directory of this program: `target/release`, on the disk that the user builds on.
fn beside_program() -> Result<PathBuf, BenchError> {
    let mut program = tandem_lab::own_path().map_err(BenchError::io("find this program"))?;
    program.pop();
    Ok(program)
}

/// The first copy by Tandem of what is in the tree: from the start of the agents until the standby could take over
/// and `flush` vouches for everything. The agents run afterwards.
fn first_copy(place: &Place) -> Result<Duration, BenchError> {
    let begin = Instant::now();
    place.start_agents()?;
    place.init()?;
    place.wait_in_sync(COPY)?;
    Ok(begin.elapsed())
}

/// An error when the trees of both hosts differ.
fn compare(place: &Place) -> Result<(), BenchError> {
    let differences = tandem_lab::compare_trees(&place.tree(0), &place.tree(1), &[PRIVATE])
        .map_err(BenchError::io("compare the trees"))?;
    match differences.first() {
        None => Ok(()),
        Some(first) => Err(BenchError::Broken(format!(
            "{} differences, the first: {first}",
            differences.len()
        ))),
    }
}

/// Reads everything below the tree of the first host, so that both sides begin with a warm cache.
fn warm(place: &Place) -> Result<(), BenchError> {
    for entry in walkdir::WalkDir::new(place.tree(0)).into_iter().flatten() {
        signals::check()?;
        if entry.file_type().is_file() {
            std::fs::File::open(entry.path())
                .and_then(|mut file| std::io::copy(&mut file, &mut std::io::sink()))
                .map_err(BenchError::io(format!("read {}", entry.path().display())))?;
        }
    }
    Ok(())
}
