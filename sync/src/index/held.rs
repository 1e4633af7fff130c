//! The open database, which can be replaced by itself.
//!
//! ```text
//!   open ──a call fails by the disk──> failed, closed ──reopen: the directory takes writes──> open
//! ```
//! redb refuses everything once the disk refused something: what it knows of the file may not be what is there. Opened anew, the file is
//! what it is after a crash: the last transaction that was durable. Readers of the old one get errors.

use super::{IndexError, IndexIdentity, Snapshot, check_identity, database};
use redb::{Database, ReadableDatabase};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

/// Room that must be in the directory before the database is opened anew: some large transactions. With less it would fail again at once.
const ROOM: usize = 1 << 20;

/// Where it is, and what is there.
pub(super) struct Held {
    path: PathBuf,
    identity: IndexIdentity,
    state: RwLock<State>,
    /// The last sequence number as of the last transaction that was durable.
    last: AtomicU64,
}

enum State {
    Open(Arc<Database>),
    /// Why.
    Failed(String),
}

impl Held {
    pub fn new(path: &Path, identity: &IndexIdentity, database: Database, last: u64) -> Held {
        Held {
            path: path.to_owned(),
            identity: identity.clone(),
            state: RwLock::new(State::Open(Arc::new(database))),
            last: AtomicU64::new(last),
        }
    }

    /// To be dropped when the transaction is begun or ended: the file is free when nobody has it.
    pub fn database(&self) -> Result<Arc<Database>, IndexError> {
        match &*self.state.read().unwrap_or_else(PoisonError::into_inner) {
            State::Open(database) => Ok(Arc::clone(database)),
            State::Failed(why) => Err(IndexError::Failed { why: why.clone() }),
        }
    }

    /// Does something with the database.
    pub fn with<T>(
        &self,
        work: impl FnOnce(&Database) -> Result<T, IndexError>,
    ) -> Result<T, IndexError> {
        let database = self.database()?;
        work(&database).map_err(|error| self.noted(error))
    }

    /// A call ended with this error: after one of the disk's the database is closed.
    pub fn noted(&self, error: IndexError) -> IndexError {
        if error.is_of_the_disk() {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            if let State::Open(_) = &*state {
                *state = State::Failed(error.to_string());
            }
        }
        error
    }

    pub fn failure(&self) -> Option<String> {
        match &*self.state.read().unwrap_or_else(PoisonError::into_inner) {
            State::Open(_) => None,
            State::Failed(why) => Some(why.clone()),
        }
    }

    /// A transaction is durable that left this as the last number.
    pub fn wrote(&self, last: u64) {
        self.last.store(last, Ordering::Release);
    }

    /// Opens the file anew.
    pub fn reopen(&self) -> Result<(), IndexError> {
        if self.failure().is_none() {
            return Ok(());
        }
        let file = self.file().map_err(|source| IndexError::Open {
            path: self.path.clone(),
            source,
        })?;
        let database = database(&self.path, file)?;
        check_identity(&database, &self.path, &self.identity)?;
        let last = Snapshot::new(&database.begin_read()?)?.last_seq();
        if last < self.last.load(Ordering::Acquire) {
            return Err(IndexError::Damaged {
                what: "the last number, which is one from before what was durable,".into(),
            });
        }
        // It takes writes: what follows begins with one that is durable.
        write_free_pages(&database)?;
        self.wrote(last);
        *self.state.write().unwrap_or_else(PoisonError::into_inner) =
            State::Open(Arc::new(database));
        Ok(())
    }

    /// The file as the disk has it. It must be there: a new one would give out numbers a second time.
    fn file(&self) -> io::Result<File> {
        let room = self.path.with_extension("room");
        let enough = has_room(&room);
        // What cannot be removed is written over the next time.
        let _ = std::fs::remove_file(&room);
        enough?;
        let file = OpenOptions::new().read(true).write(true).open(&self.path)?;
        if file.metadata()?.len() == 0 {
            return Err(io::Error::other("the file is empty"));
        }
        // After a failed sync the kernel may show what the disk does not have.
        file.sync_all()?;
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
        Ok(file)
    }
}

/// The directory of this file, which is made, takes writes.
fn has_room(at: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(at)?;
    file.write_all(&vec![0x5a; ROOM])?;
    file.sync_all()
}

/// A transaction of nothing but the list of free pages, durable when it returns.
pub(super) fn write_free_pages(database: &Database) -> Result<(), IndexError> {
    let mut transaction = database.begin_write()?;
    transaction.set_quick_repair(true);
    transaction.commit()?;
    Ok(())
}

impl IndexError {
    /// The disk refused something, or had before: the database that was open is of no use any more.
    pub(crate) fn is_of_the_disk(&self) -> bool {
        match self {
            IndexError::Failed { .. } => true,
            IndexError::Database(error) => matches!(
                **error,
                redb::Error::Io(_) | redb::Error::PreviousIo | redb::Error::DatabaseClosed
            ),
            _ => false,
        }
    }
}
