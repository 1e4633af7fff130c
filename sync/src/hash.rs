//! Hashing contents, with the knowledge whether the file stayed the same meanwhile.

use std::fs::File;
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::beneath::{self, Root};
use crate::entry::{ContentHash, LocalKey};
use crate::fault::Fault;
use crate::meta::{self, Seen, What};
use crate::path::RelPath;
use crate::stat::Stat;

/// Bytes per read: large enough for BLAKE3's full speed, small enough for the second-level cache.
const CHUNK: usize = 256 * 1024;

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
    hash_since(file, Stat::of_fd(file.as_fd())?)
}

/// Hashes an open regular file of which `before` was seen just now.
fn hash_since(file: &File, before: Stat) -> Result<Hashed, Fault> {
    let hashed = hash_while(file, before, &mut |_| ControlFlow::Continue(()))?;
    hashed.ok_or(Fault::Changed("it was not read to its end"))
}

/// Hashes an open regular file of which `before` was seen just now, for as long as `go_on`, which hears how many bytes
/// each read gave, says so. `None`: it was stopped.
pub fn hash_while(
    file: &File,
    before: Stat,
    go_on: &mut dyn FnMut(usize) -> ControlFlow<()>,
) -> Result<Option<Hashed>, Fault> {
    let mut hasher = blake3::Hasher::new();
    // One byte more than the file has: the read that comes back short has met the end.
    let wanted = usize::try_from(before.size.saturating_add(1)).unwrap_or(CHUNK);
    let mut buffer = vec![0u8; wanted.min(CHUNK)];
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
        if go_on(got).is_break() {
            return Ok(None);
        }
        // A file that grows faster than it is read would never end; what is past the first look makes it unstable anyway.
        if size > before.size.saturating_add(CHUNK as u64) {
            break;
        }
        if got < buffer.len() && size == before.size {
            break;
        }
    }
    let after = Stat::of_fd(file.as_fd())?;
    Ok(Some(Hashed {
        hash: hasher.finalize().into(),
        size,
        before: before.key(),
        after: after.key(),
        fresh: after.is_fresh(now_ns()),
    }))
}

/// Opens a file beneath the root and hashes it.
pub fn hash_path(root: &Root, path: &RelPath, flush_first: bool) -> Result<Hashed, Fault> {
    hash_file(&root.open_file(path)?, flush_first)
}

/// What lies at a path, with the hash of a regular file whose content had to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// Kind and metadata.
    pub seen: Seen,
    /// Of a regular file that was read.
    pub hashed: Option<Hashed>,
}

/// A path to be read.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'p> {
    /// Where.
    pub path: &'p RelPath,
    /// A walk has just seen a regular file there: it is opened at once.
    pub file: bool,
    /// A file's content is not read.
    pub unread: Unread,
}

/// When a file's content is not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unread {
    /// It is, whatever its key says.
    Never,
    /// It is known for this key.
    Known(LocalKey),
    /// Nobody asks for it.
    Always,
}

impl Unread {
    fn covers(self, seen: &Seen) -> bool {
        match self {
            Unread::Never => false,
            Unread::Known(key) => key == seen.key(),
            Unread::Always => true,
        }
    }
}

/// Reads what lies at a path, and the content of a regular file whose key is not the known one, all through one
/// descriptor. `None`: nothing lies there.
pub fn read(root: &Root, wanted: Wanted<'_>, flush_first: bool) -> Result<Option<Read>, Fault> {
    if wanted.file
        && let Some(file) = root.open_regular(wanted.path)
    {
        return read_file(&file, wanted, flush_first).map(Some);
    }
    let held = match root.open_path(wanted.path) {
        Ok(held) => held,
        Err(Fault::Missing) => return Ok(None),
        Err(fault) => return Err(fault),
    };
    let seen = meta::read_fd(held.as_fd())?;
    if !matches!(seen.what, What::File(_)) || wanted.unread.covers(&seen) {
        return Ok(Some(Read { seen, hashed: None }));
    }
    let file = beneath::reopen(held.as_fd()).map_err(|fault| match fault {
        Fault::Missing | Fault::NotBeneath => Fault::Changed("it is gone"),
        fault => fault,
    })?;
    read_file(&file, wanted, flush_first).map(Some)
}

fn read_file(file: &File, wanted: Wanted<'_>, flush_first: bool) -> Result<Read, Fault> {
    if flush_first {
        rustix::fs::fdatasync(file).map_err(|e| Fault::os("fdatasync", e))?;
    }
    let seen = meta::read_open(file)?;
    let hashed = match wanted.unread.covers(&seen) {
        true => None,
        false => Some(hash_since(file, seen.stat)?),
    };
    Ok(Read { seen, hashed })
}

/// What [`read`] answers.
pub type ReadResult = Result<Option<Read>, Fault>;

/// Paths that a thread takes at once in [`read_many`].
const AT_ONCE: usize = 8;

/// Reads many paths, on the caller's thread and one more. One result for each, in the order of `wanted`.
pub fn read_many(root: &Root, wanted: &[Wanted<'_>], flush_first: bool) -> Vec<ReadResult> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut mine = Vec::new();
        loop {
            let from = next.fetch_add(AT_ONCE, Ordering::Relaxed);
            let Some(some) = wanted.get(from..) else {
                return mine;
            };
            let some = &some[..some.len().min(AT_ONCE)];
            mine.extend((from..).zip(some.iter().map(|one| read(root, *one, flush_first))));
        }
    };
    let mut all = std::thread::scope(|scope| {
        let helper = (wanted.len() > AT_ONCE).then(|| scope.spawn(work));
        let mut all = work();
        // A panic of the helper is the caller's.
        all.extend(helper.into_iter().flat_map(|h| {
            h.join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        }));
        all
    });
    all.sort_unstable_by_key(|(at, _)| *at);
    all.into_iter().map(|(_, result)| result).collect()
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
        let stop = std::sync::atomic::AtomicBool::new(false);
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
    fn many_files_come_back_in_order() {
        let temp = tempfile::tempdir().expect("temp dir");
        let root = Root::open(temp.path(), false).expect("root");
        let mut paths = Vec::new();
        for i in 0..600 {
            let name = format!("f{i}");
            std::fs::write(temp.path().join(&name), name.as_bytes()).expect("write");
            paths.push(RelPath::new(&name).expect("path"));
        }
        paths.push(RelPath::new("missing").expect("path"));
        let known = root.stat(&paths[7]).expect("stat").map(|stat| stat.key());
        let wanted: Vec<Wanted<'_>> = (0..)
            .zip(&paths)
            .map(|(at, path)| Wanted {
                path,
                file: at % 3 != 0,
                unread: known
                    .filter(|_| at == 7)
                    .map_or(Unread::Never, Unread::Known),
            })
            .collect();
        let found = read_many(&root, &wanted, false);
        assert_eq!(found.len(), 601);
        for (at, (path, result)) in paths.iter().zip(found).enumerate() {
            if path.as_bytes() == b"missing" {
                assert_eq!(result, Ok(None));
                continue;
            }
            let read = result.expect("read").expect("it is there");
            assert_eq!(
                read.seen,
                meta::read(&root, path).expect("read").expect("there")
            );
            let hash = read.hashed.map(|hashed| hashed.hash);
            let wanted = (at != 7).then(|| ContentHash::of(path.as_bytes()));
            assert_eq!(hash, wanted, "{path}");
        }
    }

    #[test]
    fn what_is_no_file_any_more_is_read_as_what_it_is() {
        let temp = tempfile::tempdir().expect("temp dir");
        let root = Root::open(temp.path(), false).expect("root");
        std::fs::create_dir(temp.path().join("dir")).expect("mkdir");
        std::os::unix::fs::symlink("elsewhere", temp.path().join("link")).expect("symlink");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            temp.path().join("fifo"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .expect("mkfifo");
        for name in ["dir", "link", "fifo"] {
            let path = RelPath::new(name).expect("path");
            let wanted = Wanted {
                path: &path,
                file: true,
                unread: Unread::Never,
            };
            let read = read(&root, wanted, false).expect("read").expect("there");
            assert_eq!(Ok(Some(read.seen)), meta::read(&root, &path), "{name}");
            assert_eq!(read.hashed, None, "{name}");
        }
    }
}
