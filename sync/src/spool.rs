//! The spool: batches that arrive while applying is paused, durable in `STATE_DIR/spool`.
//!
//! ```text
//!   NNNNNNNNNNNNNNNN.batch    length of the head (u32, little endian), head (postcard), contents one after the other
//! ```
//! A batch is written to a temporary name, made durable and renamed: it is there whole or not at all. Numbers are in the order of
//! arrival. Version 6; a file of another version is refused by name.

pub(crate) mod ahead;

use crate::holes;
use crate::lineage::{Lineage, NodeHeads};
use crate::tree::TreeId;
use crate::wire::{Commit, Record, Total, Withheld};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Format of the files.
const VERSION: u32 = 6;
/// Room that the spool leaves to others on its file system: the index must be able to grow.
const RESERVE: u64 = 256 << 20;
/// Largest head: records as on the wire, with their early companions, and the lineages.
const MAX_HEAD: usize = 16 << 20;
const TEMPORARY: &str = "next.tmp";

/// What a batch is, without its contents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Head {
    version: u32,
    /// The commit.
    pub commit: Commit,
    /// The records.
    pub records: Vec<Record>,
    /// How much the source had, and its sets.
    pub totals: Vec<Total>,
    /// What the source did not send before what comes behind it.
    pub withheld: Vec<Withheld>,
    /// Items that were given up by the source.
    pub given_up: Vec<u32>,
    /// Items whose content did not arrive as announced.
    pub failed: Vec<u32>,
    /// The source's lineages of the trees that its session sends.
    pub source: NodeHeads,
    /// (record, bytes) of the contents that follow, in their order.
    pub contents: Vec<(u32, u64)>,
}

impl Head {
    /// A head of the version that is written.
    pub fn new(
        ready: crate::replica::machine::Ready,
        source: NodeHeads,
        contents: Vec<(u32, u64)>,
    ) -> Self {
        let crate::replica::machine::Ready {
            commit,
            records,
            given_up,
            failed,
            totals,
            withheld,
        } = ready;
        Head {
            version: VERSION,
            commit,
            records,
            totals,
            withheld,
            given_up,
            failed,
            source,
            contents,
        }
    }
}

impl Head {
    /// What stands before the contents.
    pub fn encode(&self) -> io::Result<Vec<u8>> {
        let head = postcard::to_stdvec(self).map_err(io::Error::other)?;
        let length = u32::try_from(head.len())
            .ok()
            .filter(|n| *n as usize <= MAX_HEAD);
        let length =
            length.ok_or_else(|| io::Error::other("a batch that is too large to be spooled"))?;
        Ok([&length.to_le_bytes()[..], &head].concat())
    }
}

/// A spooled batch that is being read.
#[derive(Debug)]
pub(crate) struct Spooled {
    /// What it is.
    pub head: Head,
    /// Holds the contents.
    pub file: File,
    /// Where the first content begins.
    pub begin: u64,
    path: PathBuf,
}

/// The directory.
#[derive(Debug)]
pub(crate) struct Spool {
    dir: PathBuf,
    /// Numbers of the batches in it, in order.
    numbers: std::collections::VecDeque<u64>,
    bytes: u64,
    /// Of the newest batch: the lineages of the trees of its session, and how far it takes them.
    reach: Option<(NodeHeads, u64)>,
    /// A batch in it lacks a content; until it is empty again, although that batch may have left it before.
    lacks: bool,
}

impl Spool {
    /// Opens or makes it, and finds what a former process left.
    pub fn open(state_dir: &Path) -> io::Result<Spool> {
        Spool::open_in(state_dir.join("spool"))
    }

    /// One in a directory of its own, which is made if it is not there.
    pub fn open_in(dir: PathBuf) -> io::Result<Spool> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)?;
        let mut numbers = Vec::new();
        let mut bytes = 0;
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            if let Some(number) = entry.file_name().to_str().and_then(number_of) {
                numbers.push(number);
                bytes += entry.metadata()?.len();
            }
        }
        numbers.sort_unstable();
        let mut spool = Spool {
            dir,
            numbers: numbers.into(),
            bytes,
            reach: None,
            lacks: false,
        };
        for at in 0..spool.numbers.len() {
            let head = spool.read(spool.numbers[at])?.head;
            spool.lacks |= !head.failed.is_empty();
            spool.reach = Some((head.source, head.commit.upto));
        }
        Ok(spool)
    }

    /// Nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    /// Something in it came without its content: what is in it must not be answered as durable.
    pub fn lacks(&self) -> bool {
        self.lacks && !self.is_empty()
    }

    /// Bytes in it.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// With what is in it, everything of the tree up to here has arrived. 0: nothing of it is in it, or not to the end: the
    /// newest session was without this tree.
    pub fn upto(&self, tree: TreeId) -> u64 {
        self.reaches(tree).map_or(0, |(_, upto)| upto)
    }

    /// The same, with the lineage of the tree at the source.
    pub fn reaches(&self, tree: TreeId) -> Option<(&Lineage, u64)> {
        let (source, upto) = self.reach.as_ref().filter(|_| !self.is_empty())?;
        Some((&source.get(tree)?.head.lineage, *upto))
    }

    /// Adds a batch; `contents` are the files that the head names. Durable when it returns.
    ///
    /// # Errors
    /// The file system's; `StorageFull` before its last reserve is touched.
    pub fn add(&mut self, head: &Head, contents: &[&File]) -> io::Result<()> {
        let encoded = head.encode()?;
        let begin = encoded.len() as u64;
        let size = head.contents.iter().map(|(_, n)| n).sum::<u64>() + begin;
        let contents = || head.contents.iter().map(|(_, n)| *n).zip(contents);
        let need = contents()
            .map(|(n, file)| holes::room(file, n))
            .sum::<u64>()
            + begin;
        self.add_file(head, need, size, |file| {
            file.write_all_at(&encoded, 0)?;
            let mut at = begin;
            for (bytes, content) in contents() {
                holes::copy(content, bytes, file, at).map_err(|fault| {
                    io::Error::from_raw_os_error(fault.errno().unwrap_or(libc::EIO))
                })?;
                at += bytes;
            }
            Ok(())
        })
    }

    /// Adds the batch of the slot, as its file will be. Durable when it returns. It may take of the reserve, of which it is a
    /// small part: it was answered as durable, and nothing else is received until it is here.
    ///
    /// # Errors
    /// The file system's, and `InvalidData`.
    pub fn add_answered(&mut self, batch: &[u8]) -> io::Result<()> {
        const { assert!(ahead::MAX_BATCH as u64 * 8 <= RESERVE) };
        let size = batch.len() as u64;
        self.write_file(&head_of(batch)?, size, |file| file.write_all_at(batch, 0))
    }

    fn add_file(
        &mut self,
        head: &Head,
        need: u64,
        size: u64,
        write: impl FnOnce(&File) -> io::Result<()>,
    ) -> io::Result<()> {
        let room = rustix::fs::statvfs(&self.dir)?;
        if room.f_bavail.saturating_mul(room.f_frsize) < need.saturating_add(RESERVE) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.write_file(head, size, write)
    }

    fn write_file(
        &mut self,
        head: &Head,
        size: u64,
        write: impl FnOnce(&File) -> io::Result<()>,
    ) -> io::Result<()> {
        let temporary = self.dir.join(TEMPORARY);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        write(&file)?;
        file.sync_data()?;
        let number = match self.numbers.back() {
            Some(last) => last.checked_add(1),
            None => Some(1),
        };
        let number = number.ok_or_else(|| io::Error::other("the spool has no number left"))?;
        fs::rename(&temporary, self.path(number))?;
        File::open(&self.dir)?.sync_all()?;
        self.lacks = self.lacks() || !head.failed.is_empty();
        self.numbers.push_back(number);
        self.bytes += size;
        self.reach = Some((head.source.clone(), head.commit.upto));
        Ok(())
    }

    /// The oldest batch.
    pub fn first(&self) -> io::Result<Option<Spooled>> {
        self.numbers
            .front()
            .map(|number| self.read(*number))
            .transpose()
    }

    /// The batch was applied and is durable in the trees and in the index. The last one is gone for good when this returns: what
    /// is received next is not spooled, and must not be followed by what is older. One of several that came back with a crash
    /// is followed by the others again.
    pub fn remove(&mut self, batch: &Spooled) -> io::Result<()> {
        let size = batch.file.metadata()?.len();
        fs::remove_file(&batch.path)?;
        if self.numbers.len() <= 1 {
            File::open(&self.dir)?.sync_all()?;
        }
        self.numbers.pop_front();
        self.bytes = self.bytes.saturating_sub(size);
        Ok(())
    }

    /// Throws everything away.
    pub fn clear(&mut self) -> io::Result<()> {
        while let Some(number) = self.numbers.back().copied() {
            // From the newest on: what is left after a crash is still in order.
            fs::remove_file(self.path(number))?;
            self.numbers.pop_back();
        }
        (self.bytes, self.reach) = (0, None);
        File::open(&self.dir)?.sync_all()
    }

    fn path(&self, number: u64) -> PathBuf {
        self.dir.join(name_of(number))
    }

    fn read(&self, number: u64) -> io::Result<Spooled> {
        let path = self.path(number);
        let bad = |why: &str| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{}: {why}", path.display()),
            )
        };
        let mut file = File::open(&path)?;
        let (head, begin) = read_head(&mut file).map_err(|error| match error {
            HeadError::Io(error) => error,
            HeadError::Bad(why) => bad(why),
        })?;
        Ok(Spooled {
            head,
            file,
            begin,
            path,
        })
    }
}

/// The name of a batch's file.
fn name_of(number: u64) -> String {
    format!("{number:016x}.batch")
}

/// The number of a batch whose file has this name. Another name that reads as its number is no batch's.
fn number_of(name: &str) -> Option<u64> {
    let number = u64::from_str_radix(name.strip_suffix(".batch")?, 16).ok()?;
    (name_of(number) == name).then_some(number)
}

#[derive(Debug)]
pub(crate) enum HeadError {
    Io(io::Error),
    Bad(&'static str),
}

/// The head, and where the first content begins.
pub(crate) fn read_head(file: &mut impl Read) -> Result<(Head, u64), HeadError> {
    let mut length = [0; 4];
    file.read_exact(&mut length).map_err(HeadError::Io)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_HEAD {
        return Err(HeadError::Bad("not a spooled batch"));
    }
    let mut encoded = Vec::new();
    file.take(length as u64)
        .read_to_end(&mut encoded)
        .map_err(HeadError::Io)?;
    if encoded.len() < length {
        return Err(HeadError::Io(io::ErrorKind::UnexpectedEof.into()));
    }
    let head: Head = postcard::from_bytes(&encoded)
        .map_err(|_| HeadError::Bad("not a spooled batch of this version"))?;
    if head.version != VERSION {
        return Err(HeadError::Bad("a spooled batch of another version"));
    }
    Ok((head, 4 + length as u64))
}

/// The head of a batch that is as its file is.
pub(crate) fn head_of(batch: &[u8]) -> io::Result<Head> {
    let read = read_head(&mut &*batch).map_err(|error| match error {
        HeadError::Io(error) => error,
        HeadError::Bad(why) => io::Error::new(io::ErrorKind::InvalidData, why),
    });
    read.map(|(head, _)| head)
}

/// A slot with a batch of one content, the batch alone, and the name of a batch.
#[cfg(feature = "fuzz")]
pub(crate) fn fuzz_seeds() -> Vec<Vec<u8>> {
    let commit = Commit {
        batch: 1,
        upto: 2,
        caught_up: true,
        stamp: 3,
    };
    let ready = crate::replica::machine::Ready {
        commit,
        records: Vec::new(),
        totals: Vec::new(),
        withheld: Vec::new(),
        given_up: vec![1],
        failed: vec![2],
    };
    let node = crate::lineage::NodeName::try_from("n").expect("a valid name");
    let heads = NodeHeads::new(node, Vec::new()).expect("no trees are in order");
    let head = Head::new(ready, heads, vec![(0, 3)]);
    let batch = [&head.encode().expect("a small head")[..], b"abc"].concat();
    let name = name_of(0x1a).into_bytes();
    vec![ahead::encode(7, 1, batch.len() as u32, &batch), batch, name]
}

/// The head of a spooled batch, the slot, and the name of a batch.
#[cfg(feature = "fuzz")]
pub(crate) fn fuzz(mut bytes: &[u8]) {
    let name = std::str::from_utf8(bytes);
    if let Some((name, number)) = name.ok().and_then(|name| Some((name, number_of(name)?))) {
        assert_eq!(name_of(number), name, "a name is read as another");
    }
    if let Some((_, _, Some(batch))) = ahead::parse(bytes) {
        assert!(batch.len() <= bytes.len());
    }
    let whole = bytes.len() as u64;
    if let Ok((head, begin)) = read_head(&mut bytes) {
        assert!(begin <= whole, "{head:?} ends behind its file");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lineage::{self, NodeName, TreeHead};
    use crate::replica::machine::Ready;
    use std::io::Write;

    fn head(upto: u64, contents: Vec<(u32, u64)>) -> Head {
        let commit = Commit {
            batch: upto,
            upto,
            caught_up: true,
            stamp: 1,
        };
        let ready = Ready {
            commit,
            records: Vec::new(),
            totals: Vec::new(),
            withheld: Vec::new(),
            given_up: Vec::new(),
            failed: vec![3],
        };
        let tree = TreeHead {
            tree: TreeId::of("data"),
            head: lineage::Head::default(),
            empty: false,
        };
        let source = NodeHeads::new(NodeName::try_from("a").unwrap(), vec![tree]).unwrap();
        Head::new(ready, source, contents)
    }

    #[test]
    fn batches_come_out_in_order_also_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let mut content = tempfile::tempfile().unwrap();
        content.write_all(b"hello world").unwrap();
        let mut spool = Spool::open(dir.path()).unwrap();
        assert!(spool.is_empty() && spool.upto(TreeId::of("data")) == 0);
        spool
            .add(&head(5, vec![(0, 11), (2, 5)]), &[&content, &content])
            .unwrap();
        spool.add(&head(9, vec![]), &[]).unwrap();
        let mut spool = Spool::open(dir.path()).unwrap();
        assert!(spool.lacks());
        let upto = |name| spool.upto(TreeId::of(name));
        assert_eq!((upto("data"), upto("of another session")), (9, 0));
        let first = spool.first().unwrap().unwrap();
        assert_eq!(first.head, head(5, vec![(0, 11), (2, 5)]));
        let mut second = [0; 5];
        first
            .file
            .read_exact_at(&mut second, first.begin + 11)
            .unwrap();
        assert_eq!(&second, b"hello");
        spool.remove(&first).unwrap();
        let next = spool.first().unwrap().unwrap();
        assert_eq!(next.head.commit.upto, 9);
        spool.remove(&next).unwrap();
        assert!(spool.first().unwrap().is_none() && spool.bytes() == 0);
        assert!(!spool.lacks());
    }

    #[test]
    fn a_file_with_another_name_is_no_batch() {
        assert_eq!(number_of("000000000000001a.batch"), Some(26));
        for other in [
            "1.batch",
            "+000000000000001.batch",
            "000000000000001A.batch",
        ] {
            assert_eq!(number_of(other), None);
            let dir = tempfile::tempdir().unwrap();
            drop(Spool::open(dir.path()).unwrap());
            fs::write(dir.path().join("spool").join(other), "").unwrap();
            assert!(Spool::open(dir.path()).unwrap().is_empty(), "{other}");
        }
    }

    #[test]
    fn behind_the_last_number_nothing_is_added() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(dir.path()).unwrap();
        spool.add(&head(5, vec![]), &[]).unwrap();
        fs::rename(spool.path(1), spool.path(u64::MAX)).unwrap();
        let mut spool = Spool::open(dir.path()).unwrap();
        spool.add(&head(9, vec![]), &[]).unwrap_err();
        assert_eq!(spool.reaches(TreeId::of("data")).unwrap().1, 5);
    }

    #[test]
    fn what_is_no_batch_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        drop(Spool::open(dir.path()).unwrap());
        fs::write(
            dir.path().join("spool/0000000000000001.batch"),
            [9, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
        )
        .unwrap();
        let error = Spool::open(dir.path()).unwrap_err();
        assert!(
            error.to_string().contains("0000000000000001.batch"),
            "{error}"
        );
    }
}
