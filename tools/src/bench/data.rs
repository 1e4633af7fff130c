//! The data of the cases: the same at each run, made fast.

use super::error::BenchError;
use super::place::Place;
use crate::signals;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Files in each directory of the tree with many files.
pub(super) const PER_DIRECTORY: u64 = 100;
/// Bytes of each of its files.
pub(super) const SMALL: usize = 1024;
/// Threads that make it: as many as the smallest machine that this is for has cores.
const THREADS: u64 = 2;

/// Bytes that no compression shrinks and that differ for each seed (xorshift64*).
pub(super) fn fill(seed: u64, out: &mut [u8]) {
    // Odd times not zero is not zero; zero would stay so for ever. (Only seed 2^64 - 1 is excluded.)
    let mut state = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for chunk in out.chunks_mut(8) {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        let bytes = state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes();
        chunk.copy_from_slice(&bytes[..chunk.len()]);
    }
}

/// The path of a file in a tree with many files.
pub(super) fn small_path(n: u64) -> PathBuf {
    PathBuf::from(format!(
        "d{:05}/f{:02}",
        n / PER_DIRECTORY,
        n % PER_DIRECTORY
    ))
}

/// Makes the files from number `from` to below `to` of a tree of small files: [`SMALL`] bytes each, in directories of
/// [`PER_DIRECTORY`].
pub(super) fn make_small(root: &Path, from: u64, to: u64) -> Result<(), BenchError> {
    let directories = to.div_ceil(PER_DIRECTORY);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS)
            .map(|worker| {
                scope.spawn(move || {
                    (from / PER_DIRECTORY + worker..directories)
                        .step_by(THREADS as usize)
                        .try_for_each(|directory| make_directory(root, directory, from, to))
                })
            })
            .collect();
        workers.into_iter().try_for_each(|worker| {
            let done = worker.join();
            done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    })
}

fn make_directory(root: &Path, directory: u64, from: u64, to: u64) -> Result<(), BenchError> {
    signals::check()?;
    let first = directory * PER_DIRECTORY;
    let dir = root.join(small_path(first));
    // A file always lies in a directory.
    let dir = dir.parent().unwrap_or(root);
    fs::create_dir_all(dir).map_err(BenchError::io(format!("make {}", dir.display())))?;
    let mut content = [0; SMALL];
    for n in first.max(from)..to.min(first + PER_DIRECTORY) {
        fill(n, &mut content);
        let path = root.join(small_path(n));
        fs::write(&path, content).map_err(BenchError::io(format!("write {}", path.display())))?;
    }
    Ok(())
}

/// Makes a file of `bytes` bytes.
pub(super) fn make_large(path: &Path, bytes: u64) -> Result<(), BenchError> {
    let failed = || BenchError::io(format!("write {}", path.display()));
    let mut file = fs::File::create(path).map_err(failed())?;
    let mut piece = vec![0; 1 << 20];
    let mut done = 0;
    while done < bytes {
        signals::check()?;
        fill(done, &mut piece);
        let count = piece
            .len()
            .min(usize::try_from(bytes - done).unwrap_or(usize::MAX));
        file.write_all(&piece[..count]).map_err(failed())?;
        done += count as u64;
    }
    Ok(())
}

/// The Linux source tree that is used when none is named: the newest of Debian's packages.
pub(super) fn linux_source() -> Result<PathBuf, BenchError> {
    let mut found: Vec<PathBuf> = fs::read_dir("/usr/src")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("linux-source-") && name.ends_with(".tar.xz")
        })
        .collect();
    found.sort();
    found.pop().ok_or_else(|| {
        BenchError::Broken(
            "no /usr/src/linux-source-*.tar.xz: install Debian's package linux-source, or name a tree with --linux".into(),
        )
    })
}

/// Unpacks an archive, or copies a directory, into the tree of the first host.
pub(super) fn unpack(place: &Place, source: &Path) -> Result<(), BenchError> {
    let to = place.node(0).host.floor_path(tandem_lab::pair::WWW);
    let mut command;
    if source.is_dir() {
        command = Command::new("cp");
        command.args(["-a", "--"]).arg(source.join(".")).arg(&to);
    } else {
        command = Command::new("tar");
        command
            .arg("-xf")
            .arg(source)
            .args(["--strip-components=1", "-C"])
            .arg(&to);
    }
    let output = place.pair.lab.output(command)?;
    signals::check()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(BenchError::Broken(format!(
        "unpack {}: {said}",
        source.display()
    )))
}

#[cfg(test)]
mod tests {
    use super::{fill, make_large, make_small, small_path};
    use std::fs;

    #[test]
    fn the_same_seed_gives_the_same_bytes_and_another_one_others() {
        let bytes = |seed| {
            let mut out = [0; 100];
            fill(seed, &mut out);
            out
        };
        assert_eq!(bytes(5), bytes(5));
        let mut first: Vec<_> = (0..1000).map(|seed| bytes(seed)[..8].to_vec()).collect();
        first.sort();
        first.dedup();

        assert_eq!(first.len(), 1000);
    }

    #[test]
    fn trees_have_the_size_that_was_asked_for() {
        let dir = tempfile::tempdir().expect("a directory");
        make_small(dir.path(), 0, 130)
            .and_then(|()| make_small(dir.path(), 130, 250))
            .expect("made");
        let sum = tandem_lab::summarize(dir.path(), &[]).expect("read");
        assert_eq!((sum.files, sum.dirs, sum.bytes), (250, 3, 256_000));
        assert!(dir.path().join(small_path(249)).is_file());
        let large = dir.path().join("large");
        make_large(&large, 3_000_001).expect("made");
        assert_eq!(fs::metadata(large).expect("there").len(), 3_000_001);
    }
}
