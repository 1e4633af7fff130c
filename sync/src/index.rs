//! The durable index of all trees of a pair: one file, one writer, any number of readers.
//!
//! ```text
//!   entries      tree, path            -> IndexEntry          (sorted as a walk of the tree is)
//!   by_seq       seq                   -> tree, path          (each path at the number of its last change only)
//!   by_ino       dev, ino, tree, path  -> ()                  (regular files: names of one inode, renames)
//!   by_hash      hash, tree, path      -> ()                  (regular files too large to be sent inline)
//!   tombstones   seq                   -> tree, path          (those of by_seq whose path is gone)
//!   unreplicated tree, path            -> Unreplicated        (a reversal's work list)
//!   meta         text                  -> format, numbers, heads, counts, places, and values of the engine
//! ```
//! `tree, path` is the key of the path, or, below a directory that was renamed as one, the place where its entry lies
//! (see `places`).
//!
//! [`Index::write`] is one transaction: all of it is durable when it returns, or nothing happened. A crash at any point
//! keeps the last one that returned. Sequence numbers only grow and are never given out twice: a change is in here,
//! durable, before anything of it is sent. Readers see one moment and do not wait for the writer, nor it for them.
//!
//! A commit waits for the disk once. What it leaves out is the list of free pages: after a crash right behind it the next
//! open walks the whole file for that list, about a second for a million files. [`Index::rest`] writes the list down when
//! nothing was written for a while, so that most crashes cost no walk.
//!
//! A write that the disk refuses (it is full, or broken) ends the database that is open: nothing is read from it or written to it any
//! more, and every call fails with [`IndexError::Failed`] until [`Index::reopen`] has opened the file anew (see `held`).
//!
//! Format version: 2. A file of another version, pair or node is refused by name, never converted silently.

use crate::lineage::{AdvanceError, LineageError};
use redb::{Builder, Database, Durability, ReadableDatabase};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::{Duration, Instant};

mod epochs;
mod held;
mod key;
mod meta;
mod places;
mod read;
mod rename;
mod tables;
mod write;

pub use meta::{Counts, FORMAT_VERSION, IndexIdentity, Mode, Unreplicated};
pub use read::{Entries, Located, Snapshot};
pub use write::{HASHED_FROM, Observed, Writer};

/// Memory for cached pages. Bounds what the index takes; a tree of a million files has about 300 MB of index. More does not
/// make it faster (measured up to 64 MiB, a million files filled in and changed at random): what is not here is in the
/// kernel's page cache, which costs a read of 4 KiB.
const CACHE_BYTES: usize = 24 << 20;

/// How long an index that is in use is waited for: an agent ends within [`crate::engine::Engine::close`]'s five seconds.
const IN_USE: Duration = Duration::from_secs(10);
/// How often it is tried.
const IN_USE_AGAIN: Duration = Duration::from_millis(20);

/// What went wrong with the index.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IndexError {
    /// The file was written by another version of the format.
    #[error("{path}: index of format version {found}, this program knows {FORMAT_VERSION}")]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// The file belongs to another pair or node: copied, or a configuration renamed.
    #[error("{path}: index of node `{}` of pair `{}`, this is node `{}` of pair `{}`", .found.node, .found.pair, .wanted.node, .wanted.pair)]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        found: Box<IndexIdentity>,
        /// Whose it should be.
        wanted: Box<IndexIdentity>,
    },
    /// Another process holds it.
    #[error("{path}: the index is in use by another process")]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The file or its directory cannot be opened.
    #[error("{path}: {source}")]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The database failed some time ago, and was not opened anew yet.
    #[error("index: {why}")]
    Failed {
        /// Of the first failure.
        why: String,
    },
    /// The database failed; nothing of the transaction is kept.
    #[error("index database: {0}")]
    Database(Box<redb::Error>),
    /// A stored value cannot be read: damaged, or written by another program.
    #[error("index damaged: {what} cannot be decoded")]
    Damaged {
        /// Which value.
        what: String,
    },
    /// A local change was to get a number while this node receives.
    #[error("this node receives: local changes get no sequence number")]
    NotWriting,
    /// Something of the peer's was to be written down while this node does not receive.
    #[error("this node does not receive: nothing of the peer's is taken")]
    NotReceiving,
    /// A sequence number came with two paths: the peer, or this file, is wrong.
    #[error("sequence number {seq} belongs to another path already")]
    NumberTaken {
        /// The number.
        seq: u64,
    },
    /// A lineage may not change like this.
    #[error(transparent)]
    Lineage(#[from] LineageError),
    /// A position may not move like this.
    #[error(transparent)]
    Advance(#[from] AdvanceError),
}

macro_rules! from_redb {
    ($($error:ty),*) => {$(
        impl From<$error> for IndexError {
            fn from(error: $error) -> Self {
                IndexError::Database(Box::new(error.into()))
            }
        }
    )*};
}
from_redb!(
    redb::StorageError,
    redb::TableError,
    redb::TransactionError,
    redb::CommitError
);

/// The index. Cheap to clone; clones share the file. See the module's text.
#[derive(Clone)]
pub struct Index {
    held: Arc<held::Held>,
    activity: Arc<AtomicU8>,
}

/// Nothing was written since the list of free pages was.
const RESTED: u8 = 0;
/// Something was, but not since the last call of [`Index::rest`].
const QUIET: u8 = 1;
/// Something was since then.
const WRITTEN: u8 = 2;

impl std::fmt::Debug for Index {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Index")
    }
}

/// The database in the file at `path`, which is made if it is not there.
fn create(path: &Path) -> Result<Database, IndexError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path);
    let file = file.map_err(|source| IndexError::Open {
        path: path.to_owned(),
        source,
    })?;
    database(path, file)
}

/// The database in this file, which is the one at `path`.
fn database(path: &Path, file: File) -> Result<Database, IndexError> {
    let failed = |source| IndexError::Open {
        path: path.to_owned(),
        source,
    };
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE_BYTES);
    let said = AtomicBool::new(false);
    builder.set_repair_callback(move |_| {
        if !said.swap(true, Ordering::Relaxed) {
            tracing::info!("the index was not closed: it is walked once");
        }
    });
    let database = builder.create_file(file);
    database.map_err(|error| match error {
        redb::DatabaseError::DatabaseAlreadyOpen => IndexError::InUse {
            path: path.to_owned(),
        },
        redb::DatabaseError::Storage(redb::StorageError::Io(source)) => failed(source),
        other => IndexError::Database(Box::new(other.into())),
    })
}

/// Refuses a foreign file; makes a fresh one this pair's and node's.
fn check_identity(
    database: &Database,
    path: &Path,
    wanted: &IndexIdentity,
) -> Result<(), IndexError> {
    let transaction = database.begin_write()?;
    {
        let mut tables = tables::Tables::open(&transaction)?;
        match meta::read_format(&tables.meta)? {
            Some((version, _)) if version != FORMAT_VERSION => {
                return Err(IndexError::Version {
                    path: path.to_owned(),
                    found: version,
                });
            }
            Some((_, Some(found))) if found == *wanted => return Ok(()),
            Some((_, Some(found))) => {
                let (found, wanted) = (Box::new(found), Box::new(wanted.clone()));
                return Err(IndexError::Foreign {
                    path: path.to_owned(),
                    found,
                    wanted,
                });
            }
            Some((_, None)) => {
                return Err(IndexError::Damaged {
                    what: "the format record".into(),
                });
            }
            None => meta::write_format(&mut tables.meta, wanted)?,
        }
    }
    transaction.commit()?;
    Ok(())
}

impl Index {
    /// Opens the index at `path`, or makes it (mode 0600). Blocks for disk, and for at most ten seconds while somebody else
    /// has it open: an agent that is ending.
    pub fn open(path: &Path, identity: &IndexIdentity) -> Result<Self, IndexError> {
        let begun = Instant::now();
        let mut told = false;
        Self::open_while(path, identity, || {
            if !std::mem::replace(&mut told, true) {
                tracing::info!(path = %path.display(), within = ?IN_USE, "the index is in use: its holder is waited for");
            }
            std::thread::sleep(IN_USE_AGAIN);
            begun.elapsed() < IN_USE
        })
    }

    /// The same; `again` says whether an index that is in use is tried again.
    fn open_while(
        path: &Path,
        identity: &IndexIdentity,
        mut again: impl FnMut() -> bool,
    ) -> Result<Self, IndexError> {
        let failed = |source| IndexError::Open {
            path: path.to_owned(),
            source,
        };
        let mut database = create(path);
        while matches!(database, Err(IndexError::InUse { .. })) && again() {
            database = create(path);
        }
        let database = database?;
        check_identity(&database, path, identity)?;
        let last = Snapshot::new(&database.begin_read()?)?.last_seq();
        let index = Index {
            held: Arc::new(held::Held::new(path, identity, database, last)),
            activity: Arc::new(AtomicU8::new(WRITTEN)),
        };
        // A new file must be in its directory after a crash.
        let directory = path
            .parent()
            .filter(|p| !p.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        File::open(directory)
            .and_then(|d| d.sync_all())
            .map_err(failed)?;
        Ok(index)
    }

    /// To be called now and then: when nothing was written since the last call, the list of free pages is made durable.
    /// Blocks for disk then. True: it was done, by this call.
    pub fn rest(&self) -> Result<bool, IndexError> {
        match self.activity.load(Ordering::Relaxed) {
            WRITTEN => self.activity.store(QUIET, Ordering::Relaxed),
            QUIET => {
                self.rest_now()?;
                return Ok(true);
            }
            _ => {}
        }
        Ok(false)
    }

    /// The list of free pages is durable when this returns. For a clean end.
    pub fn rest_now(&self) -> Result<(), IndexError> {
        self.held.with(held::write_free_pages)?;
        self.activity.store(RESTED, Ordering::Relaxed);
        Ok(())
    }

    /// Why the database cannot be used, if it failed and was not opened anew since.
    pub fn failure(&self) -> Option<String> {
        self.held.failure()
    }

    /// The disk refuses something from here on.
    #[cfg(test)]
    pub(crate) fn fail(&self) {
        let refused = std::io::Error::other("as told");
        let _ = self.held.noted(redb::StorageError::Io(refused).into());
    }

    /// Opens a database that failed anew, if its directory takes writes again. Blocks for disk: for a walk of the whole file, as after a
    /// crash. What was durable is there, and what was not is not.
    ///
    /// # Errors
    /// The directory still takes no writes, somebody still reads what was open, or it is not the file that it was.
    pub fn reopen(&self) -> Result<(), IndexError> {
        self.held.reopen()?;
        self.activity.store(RESTED, Ordering::Relaxed);
        Ok(())
    }

    /// One transaction. When this returns `Ok`, all that `work` wrote is durable; on an error nothing of it is kept.
    /// Blocks for disk, and for another writer, of which there should be none.
    pub fn write<T>(
        &self,
        work: impl FnOnce(&mut Writer<'_>) -> Result<T, IndexError>,
    ) -> Result<T, IndexError> {
        self.write_as(Durability::Immediate, work)
    }

    /// Like [`Index::write`], but durable only with the next one: until then a crash undoes it. Readers see it at once.
    pub fn write_unsynced<T>(
        &self,
        work: impl FnOnce(&mut Writer<'_>) -> Result<T, IndexError>,
    ) -> Result<T, IndexError> {
        self.write_as(Durability::None, work)
    }

    fn write_as<T>(
        &self,
        durability: Durability,
        work: impl FnOnce(&mut Writer<'_>) -> Result<T, IndexError>,
    ) -> Result<T, IndexError> {
        self.activity.store(WRITTEN, Ordering::Relaxed);
        let database = self.held.database()?;
        let noted = |error| self.held.noted(error);
        let begun = database.begin_write();
        let mut transaction = begun.map_err(|error| noted(error.into()))?;
        transaction
            .set_durability(durability)
            .map_err(|error| IndexError::Database(Box::new(error.into())))?;
        let (result, last) = {
            let mut writer = Writer::new(&transaction).map_err(noted)?;
            let result = work(&mut writer).map_err(noted)?;
            let last = writer.last_seq();
            writer.finish().map_err(noted)?;
            (result, last)
        };
        transaction.commit().map_err(|error| noted(error.into()))?;
        if matches!(durability, Durability::Immediate) {
            self.held.wrote(last);
        }
        Ok(result)
    }

    /// A view of the last durable state. It stays the same while the writer goes on; dropping it frees the pages that
    /// it holds, so keep it for a batch, not for a session.
    pub fn snapshot(&self) -> Result<Snapshot, IndexError> {
        self.held
            .with(|database| Snapshot::new(&database.begin_read()?))
    }
}

/// Renamed directories, and a place in one of them.
#[cfg(feature = "fuzz")]
pub(crate) fn fuzz_places() -> Vec<Vec<u8>> {
    let tree = crate::tree::TreeId::of("t");
    let path = |text: &str| crate::path::RelPath::new(text).expect("a valid path");
    let mut places = places::Places::default();
    assert!(places.rename(tree, &path("a"), &path("b/c")));
    let place = places.place(tree, &path("b/c/x"));
    let encoded = postcard::to_stdvec(&places).expect("encoded");
    vec![[encoded, place].concat()]
}

/// Keys and values as they are read from the file.
#[cfg(feature = "fuzz")]
pub(crate) fn fuzz(bytes: &[u8]) {
    if let Ok((tree, path)) = key::read_entry(bytes) {
        assert_eq!(key::entry(tree, &path), bytes, "a key is read as another");
    }
    if let Ok(entry) = read::decode(bytes) {
        let again = postcard::to_stdvec(&entry).expect("an entry can be encoded");
        assert_eq!(read::decode(&again).expect("and read"), entry);
        // What every reader of an entry computes.
        let _ = entry.is_unreplicated(&crate::entry::Acked::default());
        let _ = entry.current.map(|state| state.meta.mtime());
    }
    let _ = postcard::from_bytes::<meta::Unreplicated>(bytes);
    let _ = postcard::from_bytes::<Counts>(bytes);
    let _ = postcard::from_bytes::<(u32, IndexIdentity)>(bytes);
    let _ = postcard::from_bytes::<meta::Numbers>(bytes);
    let _ = postcard::from_bytes::<meta::Position>(bytes);
    let _ = postcard::from_bytes::<crate::lineage::Lineage>(bytes);
    if let Ok((places, place)) = postcard::take_from_bytes::<places::Places>(bytes) {
        if let Ok((tree, path)) = places.read(place) {
            let _ = places.place(tree, &path);
        }
        for part in places.parts(place.to_vec(), key::after_all(place.to_vec())) {
            assert!(part.key(&part.start) <= part.key(&part.end));
        }
    }
}

#[cfg(test)]
mod tests;
