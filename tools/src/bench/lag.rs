//! How long a change needs to the other side.

use super::agents::SOON;
use super::data::{SMALL, fill, small_path};
use super::error::BenchError;
use super::place::Place;
use crate::signals;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Bound of one change.
const BOUND: Duration = Duration::from_secs(30);
/// Files of the measurement of `fsync`.
const FSYNCS: u64 = 100;
/// Pause between two looks for a change on the other side.
const LOOK: Duration = Duration::from_micros(200);

/// Which of the files of a tree change, and what is in them then: the same at each run.
pub(super) struct Changes {
    files: u64,
    next: u64,
}

impl Changes {
    /// Of a tree of so many files. Changes of different `seed`s differ.
    pub(super) fn new(files: u64, seed: u64) -> Self {
        Self {
            files,
            // Above every number from which the tree was made, so that no change leaves a file as it was.
            next: (seed + 1) << 32,
        }
    }

    /// The next one: the file's path below the tree and its content.
    fn choose(&mut self) -> (PathBuf, [u8; SMALL]) {
        self.next += 1;
        let (mut choice, mut content) = ([0; 8], [0; SMALL]);
        fill(self.next, &mut content);
        choice.copy_from_slice(&content[..8]);
        (small_path(u64::from_le_bytes(choice) % self.files), content)
    }

    /// Writes the next one.
    fn write(&mut self, root: &Path) -> Result<(PathBuf, [u8; SMALL]), BenchError> {
        let (path, content) = self.choose();
        fs::write(root.join(&path), content).map_err(BenchError::io("change a file"))?;
        Ok((path, content))
    }
}

/// Changes files `every` so often for a time, whatever the lag is. For each `asked`th: milliseconds from before the
/// write until a `flush` that began right after it says that it is durable on the standby. A flush is work for both
/// agents: with one for each of many changes a second it would be the flushes that are measured.
pub(super) fn until_durable(
    place: &Place,
    changes: &mut Changes,
    every: Duration,
    count: u64,
    asked: u64,
) -> Result<Vec<f64>, BenchError> {
    let (root, client) = (place.tree(0), place.client(0)?);
    place.runtime.block_on(async {
        let mut flushes = JoinSet::new();
        let mut ticks = tokio::time::interval(every);
        for n in 0..count {
            ticks.tick().await;
            signals::check()?;
            let begin = Instant::now();
            changes.write(&root)?;
            if n % asked != 0 {
                continue;
            }
            let client = client.clone();
            flushes.spawn(async move {
                let report = client.flush(BOUND).await?;
                match report.not_covered.first() {
                    None => Ok(begin.elapsed().as_secs_f64() * 1e3),
                    Some(missing) => Err(BenchError::Broken(format!("flush: {}", missing.why))),
                }
            });
        }
        let mut lags = Vec::new();
        while let Some(flushed) = flushes.join_next().await {
            lags.push(flushed.map_err(|e| BenchError::Broken(e.to_string()))??);
        }
        Ok(lags)
    })
}

/// Milliseconds of writing a file of 1 KiB and its `fsync`, one after the other on a disk at rest: a change is made
/// durable by several of them.
pub(super) fn fsyncs(dir: &Path) -> Result<Vec<f64>, BenchError> {
    let failed = || BenchError::io("measure fsync");
    fs::create_dir(dir).map_err(failed())?;
    let mut times = Vec::new();
    for n in 0..FSYNCS {
        signals::check()?;
        let begin = Instant::now();
        let mut file = fs::File::create(dir.join(n.to_string())).map_err(failed())?;
        file.write_all(&[1; SMALL]).map_err(failed())?;
        file.sync_all().map_err(failed())?;
        times.push(begin.elapsed().as_secs_f64() * 1e3);
    }
    Ok(times)
}

/// What the file system alone takes for the same changes: files of a tree of so many, replaced `every` so often, each durable with its
/// name when its time ends. In milliseconds. That is one node's part of a change, without an index, a link or another node.
pub(super) fn replaced(
    tree: &Path,
    changes: &mut Changes,
    every: Duration,
    count: u64,
) -> Result<Vec<f64>, BenchError> {
    let failed = || BenchError::io("replace a file");
    let temp = tree.join(".replaced");
    let mut times = Vec::new();
    let start = Instant::now();
    for n in 0..count {
        signals::check()?;
        let due = every * u32::try_from(n).unwrap_or(u32::MAX);
        std::thread::sleep(due.saturating_sub(start.elapsed()));
        let begin = Instant::now();
        let (path, content) = changes.choose();
        let path = tree.join(path);
        let mut file = fs::File::create(&temp).map_err(failed())?;
        file.write_all(&content).map_err(failed())?;
        file.sync_all().map_err(failed())?;
        fs::rename(&temp, &path).map_err(failed())?;
        let parent = path.parent().unwrap_or(tree);
        let directory = fs::File::open(parent).and_then(|dir| dir.sync_all());
        directory.map_err(failed())?;
        times.push(begin.elapsed().as_secs_f64() * 1e3);
    }
    Ok(times)
}

/// Changes one file after the other, the next one at the earliest `every` after the last. For each: milliseconds from
/// before the write until the new content is seen in `to`.
pub(super) fn until_seen(
    place: &Place,
    changes: &mut Changes,
    to: &Path,
    every: Duration,
    count: u64,
) -> Result<Vec<f64>, BenchError> {
    let root = place.tree(0);
    let mut lags = Vec::new();
    for _ in 0..count {
        let begin = Instant::now();
        let (path, content) = changes.write(&root)?;
        let file = to.join(path);
        while !fs::read(&file).is_ok_and(|bytes| bytes == content) {
            signals::check()?;
            if begin.elapsed() > SOON {
                return Err(BenchError::Broken(format!(
                    "a change does not arrive within {SOON:?}: {}",
                    file.display()
                )));
            }
            std::thread::sleep(LOOK);
        }
        lags.push(begin.elapsed().as_secs_f64() * 1e3);
        std::thread::sleep(every.saturating_sub(begin.elapsed()));
    }
    Ok(lags)
}
