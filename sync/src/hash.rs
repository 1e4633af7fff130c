//! Hashing contents, with the knowledge whether the file stayed the same meanwhile.

use std::fs::File;
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::beneath::{self, Root};
use crate::chunks::Chunks;
use crate::entry::{ContentHash, LocalKey};
use crate::fault::Fault;
use crate::helper::helper;
use crate::holes::{Map, Run};
use crate::meta::{self, Seen, What};
use crate::path::RelPath;
use crate::stat::Stat;
use crate::tail::{Tail, TailHasher};

mod ahead;
mod once;

pub use once::{Links, Once};

/// Bytes per read: large enough for BLAKE3's full speed, small enough for the second-level cache.
const CHUNK: usize = crate::tail::STEP;

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

    /// Whether it is the content of the version that was seen, with this key, before the reading.
    pub fn is_at_rest(&self, seen: LocalKey) -> bool {
        self.is_stable() && self.before == seen
    }
}

/// Whether the reading of a content that is long is to end before its end: somebody waits for who reads.
pub type Ends<'e> = &'e (dyn Fn() -> bool + Sync);

/// Never.
pub const TO_ITS_END: Ends<'static> = &|| false;

/// Bytes that are read in any case. A disk gives them in less than a second.
const LONG: u64 = 64 << 20;

fn unless<'e>(ends: Ends<'e>) -> impl FnMut(usize) -> ControlFlow<()> + 'e {
    let mut read = 0;
    move |bytes| {
        read += bytes as u64;
        match read >= LONG && ends() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }
}

/// Hashes an open regular file from its start. With `flush_first` the file is made durable before, so that the next store
/// through a memory map moves its times again (needed for files that are written through maps).
pub fn hash_file(file: &File, flush_first: bool) -> Result<Hashed, Fault> {
    if flush_first {
        rustix::fs::fdatasync(file).map_err(|e| Fault::os("fdatasync", e))?;
    }
    hash_unless(file, TO_ITS_END)
}

/// The same, unless `ends` says that it takes too long.
pub(crate) fn hash_unless(file: &File, ends: Ends<'_>) -> Result<Hashed, Fault> {
    let before = Stat::of_fd(file.as_fd())?;
    let done = hash_whole(
        file,
        Begun::with(before),
        TailHasher::new(before.size),
        ends,
    )?;
    Ok(done.hashed)
}

/// As fast as the machine can. Who is to be slower reads through [`hash_while`].
fn hash_whole(
    file: &File,
    begun: Begun,
    mut hasher: TailHasher,
    ends: Ends<'_>,
) -> Result<Done, Fault> {
    if ahead::feed(file, &mut hasher, ends)?.is_break() {
        return Err(NOT_READ);
    }
    let done = hash_on(file, begun, hasher, &mut unless(ends))?;
    done.ok_or(NOT_READ)
}

/// Of a reading that was to end before its end.
pub(crate) const NOT_READ: Fault = Fault::Changed("it was not read to its end");

/// Hashes an open regular file of which `before` was seen just now, for as long as `go_on`, which hears how many bytes
/// each read gave, says so. `None`: it was stopped.
pub fn hash_while(
    file: &File,
    before: Stat,
    go_on: &mut dyn FnMut(usize) -> ControlFlow<()>,
) -> Result<Option<Hashed>, Fault> {
    let hasher = TailHasher::new(before.size);
    let done = hash_on(file, Begun::with(before), hasher, go_on)?;
    Ok(done.map(|done| done.hashed))
}

/// A reading, as of before its first byte.
#[derive(Clone, Copy)]
struct Begun {
    /// What the file was.
    before: Stat,
    /// Whether a change since then may carry the same stamp. At the end of a long reading, no stamp is young any more.
    fresh: bool,
}

impl Begun {
    fn with(before: Stat) -> Self {
        let fresh = before.is_fresh(now_ns());
        Begun { before, fresh }
    }
}

/// A reading, with what is kept of it.
struct Done {
    hashed: Hashed,
    tail: Option<Tail>,
    chunks: Option<Chunks>,
}

/// The same, from where the hasher stands. What is past the first look is not read: it makes the file unstable anyway.
fn hash_on(
    file: &File,
    Begun { before, fresh }: Begun,
    mut hasher: TailHasher,
    go_on: &mut dyn FnMut(usize) -> ControlFlow<()>,
) -> Result<Option<Done>, Fault> {
    if read_up_to(file, &mut hasher, before.size, go_on)?.is_break() {
        return Ok(None);
    }
    // What was seen before may be seen through a root that stands for another one.
    let after = Stat {
        dev: before.dev,
        ..Stat::of_fd(file.as_fd())?
    };
    let size = hasher.written();
    let chunks = hasher.take_chunks();
    let (hash, tail) = hasher.finish();
    let hashed = Hashed {
        hash,
        size,
        before: before.key(),
        after: after.key(),
        fresh: fresh || after.is_fresh(now_ns()),
    };
    Ok(Some(Done {
        hashed,
        tail,
        chunks,
    }))
}

/// Feeds the hasher from where it stands up to `end`, or to the end of the file if that comes first.
fn read_up_to(
    file: &File,
    hasher: &mut TailHasher,
    end: u64,
    go_on: &mut dyn FnMut(usize) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, Fault> {
    let room = |at: u64| usize::try_from(end.saturating_sub(at)).unwrap_or(CHUNK);
    let mut buffer = vec![0u8; room(hasher.written()).min(CHUNK)];
    let mut map = match end <= CHUNK as u64 {
        true => Map::dense(),
        false => Map::of(file),
    };
    while hasher.written() < end {
        if let Run::Hole(length) = map.run(file, hasher.written(), end) {
            hasher.zeros(length);
            // Of a hole, however long, no more is read than this.
            let read = usize::try_from(length).unwrap_or(CHUNK).min(CHUNK);
            if go_on(read).is_break() {
                return Ok(ControlFlow::Break(()));
            }
            continue;
        }
        let want = room(hasher.written()).min(buffer.len());
        let got = match file.read_at(&mut buffer[..want], hasher.written()) {
            Ok(0) => break,
            Ok(got) => got,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Fault::io("read", &error)),
        };
        hasher.update(&buffer[..got]);
        if go_on(got).is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// Opens a file beneath the root and hashes it.
pub fn hash_path(root: &Root, path: &RelPath, ends: Ends<'_>) -> Result<Hashed, Fault> {
    hash_unless(&root.open_file(path)?, ends)
}

/// How contents are read.
#[derive(Clone, Copy)]
pub struct How<'e> {
    /// Files are made durable before, see [`hash_file`].
    pub flush_first: bool,
    /// When the reading ends. What was not read to its end is [`Fault::Changed`].
    pub ends: Ends<'e>,
    /// How much is read. `None`: everything.
    pub most: Option<&'e Most>,
    /// What is known of files with several names. `None`: each name is read.
    pub links: Option<Links<'e>>,
}

/// How much is read at once, for a reader on whom others wait.
#[derive(Debug)]
pub struct Most {
    /// Of one content.
    one: u64,
    /// Of all that is read together.
    left: AtomicU64,
}

/// Why a content was not read though it is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutOff {
    /// It alone is too much.
    Large,
    /// With what was read before it, it is.
    Full,
}

impl Most {
    /// Bounds in bytes: of one content, and of all together.
    pub fn new(one: u64, all: u64) -> Self {
        let left = AtomicU64::new(all);
        Self { one, left }
    }

    fn take(&self, bytes: u64) -> Result<(), PutOff> {
        if bytes > self.one {
            return Err(PutOff::Large);
        }
        let take = |left: u64| left.checked_sub(bytes);
        let taken = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        taken.map(drop).map_err(|_| PutOff::Full)
    }
}

/// What lies at a path, with the hash of a regular file whose content had to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// Kind and metadata.
    pub seen: Seen,
    /// Of a regular file that was read.
    pub hashed: Option<Hashed>,
    /// Its content is not known, and not read either.
    pub put_off: Option<PutOff>,
    /// It has grown: of what was known only the end was read again, or it grew while it was read. The hash is that of a
    /// content that it had if nobody has written before its old end.
    pub grew: bool,
    /// What a longer content can be hashed with.
    pub tail: Option<Tail>,
    /// The chunks of a large content, by which a later one is compared with it.
    pub chunks: Option<Chunks>,
}

/// What is known of a file that may have grown since.
#[derive(Debug, Clone)]
pub struct Before {
    /// As which it was known.
    pub key: LocalKey,
    /// Its content then.
    pub hash: ContentHash,
    /// How a longer one is hashed, if it need not be read whole.
    pub tail: Option<Tail>,
}

impl Before {
    /// It is the same file with one name, and longer.
    fn has_grown(&self, seen: &Seen) -> bool {
        let key = seen.key();
        let same = (key.dev, key.ino) == (self.key.dev, self.key.ino) && !seen.has_other_names();
        same && key.size > self.key.size
    }
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
    /// What was known of a large file.
    pub before: Option<&'p Before>,
}

/// When a file's content is not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unread {
    /// It is, whatever its key says, but not for each of its names.
    Never,
    /// It is, but for a content that is known for its key under another name.
    Elsewhere,
    /// It is known for this key; else as [`Unread::Elsewhere`].
    Known(LocalKey),
    /// Nobody asks for it.
    Always,
}

impl Unread {
    fn covers(self, seen: &Seen) -> bool {
        match self {
            Unread::Never | Unread::Elsewhere => false,
            Unread::Known(key) => key == seen.key(),
            Unread::Always => true,
        }
    }
}

/// Reads what lies at a path, and the content of a regular file whose key is not the known one, all through one
/// descriptor. `None`: nothing lies there.
pub fn read(root: &Root, wanted: Wanted<'_>, how: How<'_>) -> Result<Option<Read>, Fault> {
    if wanted.file
        && let Some(file) = root.open_regular(wanted.path)
    {
        return read_file(&file, wanted, how, root).map(Some);
    }
    let held = match root.open_path(wanted.path) {
        Ok(held) => held,
        Err(Fault::Missing) => return Ok(None),
        Err(fault) => return Err(fault),
    };
    let seen = meta::read_fd(held.as_fd(), root)?;
    if !matches!(seen.what, What::File(_)) || wanted.unread.covers(&seen) {
        return Ok(Some(Read::unread(seen)));
    }
    let file = beneath::reopen(held.as_fd()).map_err(|fault| match fault {
        Fault::Missing | Fault::NotBeneath => Fault::Changed("it is gone"),
        fault => fault,
    })?;
    read_file(&file, wanted, how, root).map(Some)
}

fn read_file(file: &File, wanted: Wanted<'_>, how: How<'_>, root: &Root) -> Result<Read, Fault> {
    if how.flush_first {
        let size = Stat::of_fd(file.as_fd())?.size;
        // To write it back takes as long as to read it.
        if how.most.is_some_and(|most| size > most.one) {
            return Ok(Read::put_off(meta::read_open(file, root)?, PutOff::Large));
        }
        rustix::fs::fdatasync(file).map_err(|e| Fault::os("fdatasync", e))?;
    }
    let seen = meta::read_open(file, root)?;
    if wanted.unread.covers(&seen) {
        return Ok(Read::unread(seen));
    }
    match how.links.filter(|_| seen.has_other_names()) {
        Some(links) => links.read(seen, wanted.unread, |seen| {
            read_content(file, seen, wanted, how)
        }),
        None => read_content(file, seen, wanted, how),
    }
}

fn read_content(file: &File, seen: Seen, wanted: Wanted<'_>, how: How<'_>) -> Result<Read, Fault> {
    let may = |bytes| how.most.map_or(Ok(()), |most| most.take(bytes));
    let before = wanted.before.filter(|before| before.has_grown(&seen));
    if let Some(tail) = before.and_then(|before| before.tail.as_ref()) {
        if let Err(put_off) = may(seen.stat.size.saturating_sub(tail.size())) {
            return Ok(Read::put_off(seen, put_off));
        }
        if let Some(done) = read_tail(file, &seen, tail, how.ends)? {
            return Ok(Read {
                seen,
                hashed: Some(done.hashed),
                put_off: None,
                grew: true,
                tail: done.tail,
                chunks: done.chunks,
            });
        }
    }
    if let Err(put_off) = may(seen.stat.size) {
        return Ok(Read::put_off(seen, put_off));
    }
    let known = before.map(|before| (before.key.size, before.hash));
    let hasher = TailHasher::new(seen.stat.size).after(known);
    let done = hash_whole(file, Begun::with(seen.stat), hasher, how.ends)?;
    let (hashed, tail) = (done.hashed, done.tail);
    // A file that is written all the time is never read at rest; one that only grows has a content that it had.
    let grew = tail.is_some()
        && !seen.has_other_names()
        && hashed.before.size < hashed.after.size
        && hashed.before.ino == hashed.after.ino;
    let tail = tail.filter(|_| grew || hashed.is_stable());
    Ok(Read {
        seen,
        hashed: Some(hashed),
        put_off: None,
        grew,
        tail,
        chunks: done.chunks,
    })
}

/// Compares the old end of a file that has grown, and hashes what is behind it. `None`: it is not what it was, so that it
/// must be read whole.
fn read_tail(file: &File, seen: &Seen, tail: &Tail, ends: Ends<'_>) -> Result<Option<Done>, Fault> {
    let begun = Begun::with(seen.stat);
    let mut hasher = tail.grown(seen.stat.size);
    let mut pass = unless(ends);
    // Less than is read in any case.
    let _ = read_up_to(file, &mut hasher, tail.size(), &mut pass)?;
    if hasher.written() != tail.size() || hasher.hash() != tail.hash() {
        return Ok(None);
    }
    let read = hash_on(file, begun, hasher, &mut pass)?.ok_or(NOT_READ)?;
    Ok(Some(read).filter(|done| done.hashed.size == seen.stat.size))
}

impl Read {
    /// It changed while it was read, and not only by growing.
    pub fn moves(&self) -> bool {
        let at_rest = |hashed: Hashed| hashed.is_at_rest(self.seen.key());
        !self.grew && !self.hashed.is_none_or(at_rest)
    }

    fn unread(seen: Seen) -> Read {
        Read {
            seen,
            hashed: None,
            put_off: None,
            grew: false,
            tail: None,
            chunks: None,
        }
    }

    fn put_off(seen: Seen, why: PutOff) -> Read {
        Read {
            put_off: Some(why),
            ..Read::unread(seen)
        }
    }
}

/// What [`read`] answers.
pub type ReadResult = Result<Option<Read>, Fault>;

/// Paths that a thread takes at once in [`read_many`].
const AT_ONCE: usize = 8;

/// Reads many paths, on the caller's thread and one more. One result for each, in the order of `wanted`.
pub fn read_many(root: &Root, wanted: &[Wanted<'_>], how: How<'_>) -> Vec<ReadResult> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut mine = Vec::new();
        loop {
            let from = next.fetch_add(AT_ONCE, Ordering::Relaxed);
            let Some(some) = wanted.get(from..) else {
                return mine;
            };
            let some = &some[..some.len().min(AT_ONCE)];
            mine.extend((from..).zip(some.iter().map(|one| read(root, *one, how))));
        }
    };
    let mut all = std::thread::scope(|scope| {
        let more = wanted.len() > AT_ONCE;
        let helper = more.then(|| helper(scope, work)).flatten();
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

    const WHOLE: How<'static> = How {
        flush_first: false,
        ends: TO_ITS_END,
        most: None,
        links: None,
    };

    #[test]
    fn what_was_young_at_the_first_byte_is_to_be_read_again_however_long_the_reading_takes() {
        let mut file = tempfile::tempfile().expect("temp file");
        file.write_all(b"content").expect("written");
        let before = Stat::of_fd(file.as_fd()).expect("stat");
        let is_fresh = |stat: &Stat| stat.is_fresh(now_ns());
        // A change at this moment may have the stamp that was seen.
        let young = is_fresh(&before);
        let hashed = hash_while(&file, before, &mut |_| {
            while is_fresh(&before) {
                std::thread::yield_now();
            }
            ControlFlow::Continue(())
        });
        let hashed = hashed.expect("read").expect("to its end");
        assert!(hashed.is_stable());
        assert_eq!(hashed.fresh, young);
        let old = hash_file(&file, false).expect("read");
        assert!(!old.fresh);
    }

    #[test]
    fn the_reading_of_a_long_content_can_end_before_its_end() {
        let temp = tempfile::tempdir().expect("temp dir");
        let root = Root::open(temp.path()).expect("root");
        let path = RelPath::new("f").expect("path");
        let wanted = Wanted {
            path: &path,
            file: true,
            unread: Unread::Never,
            before: None,
        };
        let how = How {
            ends: &|| true,
            ..WHOLE
        };
        let content = vec![7; LONG as usize + 3 * CHUNK];
        std::fs::write(temp.path().join("f"), &content).expect("write");
        assert_eq!(read(&root, wanted, how), Err(NOT_READ));
        assert_eq!(hash_path(&root, &path, how.ends), Err(NOT_READ));
        assert!(read(&root, wanted, WHOLE).is_ok());
        // One that is short is read in any case.
        std::fs::write(temp.path().join("f"), &content[..1 << 20]).expect("write");
        assert!(read(&root, wanted, how).is_ok());
    }

    #[test]
    fn a_file_at_rest_is_stable() {
        let temp = tempfile::tempdir().expect("temp dir");
        let content: Vec<u8> = (0..700_000u32).map(|i| (i % 251) as u8).collect();
        std::fs::write(temp.path().join("f"), &content).expect("write");
        let root = Root::open(temp.path()).expect("root");
        let path = RelPath::new("f").expect("path");
        let hashed = hash_path(&root, &path, TO_ITS_END).expect("hashed");
        assert!(hashed.is_stable());
        assert_eq!(hashed.hash, ContentHash::of(&content));
        assert_eq!(hashed.size, content.len() as u64);
    }

    #[test]
    fn a_hole_of_a_tebibyte_costs_nothing() {
        let temp = tempfile::tempdir().expect("temp dir");
        let file = File::create_new(temp.path().join("f")).expect("create");
        std::io::Write::write_all(&mut &file, b"begins").expect("write");
        file.set_len(1 << 40).expect("a sparse file");
        let file = File::open(temp.path().join("f")).expect("open");
        let started = std::time::Instant::now();
        let hashed = hash_file(&file, false).expect("hashed");
        // A tenth of what a thread can hash of it.
        let bound = std::time::Duration::from_secs(30);
        assert!(started.elapsed() < bound, "{:?}", started.elapsed());
        let mut wanted = crate::digest::ContentHasher::new();
        wanted.update(b"begins");
        wanted.zeros((1 << 40) - 6);
        assert_eq!((hashed.hash, hashed.size), (wanted.finish(), 1 << 40));
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
        come_back_in_order();
        // The thread that helps is no more than that.
        crate::helper::refuse();
        come_back_in_order();
    }

    fn come_back_in_order() {
        let temp = tempfile::tempdir().expect("temp dir");
        let root = Root::open(temp.path()).expect("root");
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
                before: None,
            })
            .collect();
        let found = read_many(&root, &wanted, WHOLE);
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
        let root = Root::open(temp.path()).expect("root");
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
                before: None,
            };
            let read = read(&root, wanted, WHOLE).expect("read").expect("there");
            assert_eq!(Ok(Some(read.seen)), meta::read(&root, &path), "{name}");
            assert_eq!(read.hashed, None, "{name}");
        }
    }
}
