//! Hashing contents, with the knowledge whether the file stayed the same meanwhile.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;

use crate::beneath::Root;
use crate::entry::{ContentHash, LocalKey};
use crate::fault::Fault;
use crate::path::RelPath;
use crate::stat::Stat;

/// Bytes per read: large enough for BLAKE3's full speed, small enough for the second-level cache.
const CHUNK: usize = 256 * 1024;
/// Results that may wait for the consumer of [`hash_many`]; each is small.
const WAITING: usize = 256;

/// A file's hash and the two looks around the reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hashed {
    /// BLAKE3 of what was read.
    pub hash: ContentHash,
    /// Number of bytes read.
    pub size: u64,
    /// Before the first byte was read.
    pub before: LocalKey,
    /// After the last byte was read.
    pub after: LocalKey,
    /// The last change is so near that another could have the same stamp: look again later.
    pub fresh: bool,
}

impl Hashed {
    /// Whether the hash belongs to one version: nothing changed while reading, and all of it was read.
    pub fn is_stable(&self) -> bool {
        self.before == self.after && self.size == self.after.size
    }
}

/// Hashes an open regular file from its start. With `flush_first` the file is made durable before, so that the next store
/// through a memory map moves its times again (needed for files that are written through maps).
pub fn hash_file(file: &File, flush_first: bool) -> Result<Hashed, Fault> {
    if flush_first {
        rustix::fs::fdatasync(file).map_err(|e| Fault::os("fdatasync", e))?;
    }
    let before = Stat::of_fd(file.as_fd())?;
    let mut hasher = blake3::Hasher::new();
    let wanted = usize::try_from(before.size).unwrap_or(CHUNK);
    let mut buffer = vec![0u8; wanted.clamp(1, CHUNK)];
    let mut size = 0u64;
    loop {
        let got = match file.read_at(&mut buffer, size) {
            Ok(0) => break,
            Ok(got) => got,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Fault::io("read", &error)),
        };
        hasher.update(&buffer[..got]);
        size += got as u64;
        // A file that grows faster than it is read would never end; what is past the first look makes it unstable anyway.
        if size > before.size.saturating_add(CHUNK as u64) {
            break;
        }
    }
    let after = Stat::of_fd(file.as_fd())?;
    Ok(Hashed {
        hash: hasher.finalize().into(),
        size,
        before: before.key(),
        after: after.key(),
        fresh: after.is_fresh(now_ns()),
    })
}

/// Opens a file beneath the root and hashes it.
pub fn hash_path(root: &Root, path: &RelPath, flush_first: bool) -> Result<Hashed, Fault> {
    hash_file(&root.open_file(path)?, flush_first)
}

/// Hashes many files with `threads` threads (at least 1, at most 16) and hands each result to `each` in the caller's
/// thread, in no particular order. Stops early, without the rest, when `cancel` becomes true.
pub fn hash_many(
    root: &Root,
    paths: &[RelPath],
    flush_first: bool,
    threads: usize,
    cancel: &AtomicBool,
    mut each: impl FnMut(&RelPath, Result<Hashed, Fault>),
) {
    let next = AtomicUsize::new(0);
    let (sender, receiver) = sync_channel(WAITING);
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(1, 16).min(paths.len().max(1)) {
            let sender = sender.clone();
            let next = &next;
            scope.spawn(move || {
                while !cancel.load(Ordering::Relaxed) {
                    let Some(path) = paths.get(next.fetch_add(1, Ordering::Relaxed)) else {
                        return;
                    };
                    if sender
                        .send((path, hash_path(root, path, flush_first)))
                        .is_err()
                    {
                        return;
                    }
                }
            });
        }
        // The threads hold the only senders left: the loop ends with the last of them.
        drop(sender);
        for (path, result) in receiver {
            each(path, result);
        }
    });
}

/// Real time in nanoseconds, to compare with file times.
pub fn now_ns() -> i128 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_file_at_rest_is_stable() {
        let temp = tempfile::tempdir().expect("temp dir");
        let content: Vec<u8> = (0..700_000u32).map(|i| (i % 251) as u8).collect();
        std::fs::write(temp.path().join("f"), &content).expect("write");
        let root = Root::open(temp.path(), false).expect("root");
        let path = RelPath::new("f").expect("path");
        let hashed = hash_path(&root, &path, true).expect("hashed");
        assert!(hashed.is_stable());
        assert_eq!(hashed.hash, ContentHash::of(&content));
        assert_eq!(hashed.size, content.len() as u64);
    }

    #[test]
    fn a_file_that_grows_is_not_stable() {
        let temp = tempfile::tempdir().expect("temp dir");
        let name = temp.path().join("f");
        std::fs::write(&name, vec![7u8; 1 << 20]).expect("write");
        let file = File::open(&name).expect("open");
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut out = File::options().append(true).open(&name).expect("open");
                while !stop.load(Ordering::Relaxed) {
                    out.write_all(&[1u8; 4096]).expect("append");
                }
            });
            let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
            let mut seen_unstable = false;
            while !seen_unstable && std::time::Instant::now() < deadline {
                seen_unstable = !hash_file(&file, false).expect("hash").is_stable();
            }
            stop.store(true, Ordering::Relaxed);
            assert!(seen_unstable);
        });
    }

    #[test]
    fn many_files_come_back_once_each() {
        let temp = tempfile::tempdir().expect("temp dir");
        let root = Root::open(temp.path(), false).expect("root");
        let mut paths = Vec::new();
        for i in 0..600 {
            let name = format!("f{i}");
            std::fs::write(temp.path().join(&name), name.as_bytes()).expect("write");
            paths.push(RelPath::new(&name).expect("path"));
        }
        paths.push(RelPath::new("missing").expect("path"));
        let mut seen = std::collections::BTreeMap::new();
        let cancel = AtomicBool::new(false);
        hash_many(&root, &paths, false, 3, &cancel, |path, result| {
            assert!(seen.insert(path.clone(), result).is_none());
        });
        assert_eq!(seen.len(), 601);
        for (path, result) in seen {
            if path.as_bytes() == b"missing" {
                assert_eq!(result, Err(Fault::Missing));
            } else {
                let hashed = result.expect("hashed");
                assert_eq!(hashed.hash, ContentHash::of(path.as_bytes()));
            }
        }
    }
}
