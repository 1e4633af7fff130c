//! The durable state of the machine on disk: the file `term` in the state directory, two slots (see [`crate::slots`]).
//!
//! The file is made whole, of zeros, before its name appears, so that later writes allocate nothing. It is open with
//! `O_DSYNC` and locked: one agent uses it at a time. Writes happen on a helper thread; the loop gets the result as
//! [`Input::Persisted`].

use crate::heartbeat::PairId;
use crate::input::Input;
use crate::slots::{ChooseError, Durable, SLOT_LEN, choose, decode, encode, slot_of};
use rustix::fs::{FlockOperation, flock};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use tokio::sync::mpsc;

/// Name of the file.
pub const FILE: &str = "term";

const FILE_LEN: usize = 2 * SLOT_LEN;

/// Why the durable state cannot be used. The agent does not start without it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system refused something.
    #[error("{}: {what}: {source}", path.display())]
    Io {
        /// File or directory.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// Reason.
        #[source]
        source: io::Error,
    },
    /// Another agent has it.
    #[error("{}: another agent uses this state directory", .0.display())]
    Busy(PathBuf),
    /// Not the length that this program made.
    #[error("{}: has {length} bytes, expected {FILE_LEN}", path.display())]
    Length {
        /// File.
        path: PathBuf,
        /// Its length.
        length: u64,
    },
    /// Both slots damaged, another pair, or a newer format.
    #[error("{}: {source}", path.display())]
    Content {
        /// File.
        path: PathBuf,
        /// Reason.
        #[source]
        source: ChooseError,
    },
}

/// The open file.
#[derive(Debug)]
pub struct Store {
    file: File,
    path: PathBuf,
    /// Generation of the next write in the file; not the machine's, which begins anew with each start.
    next: u64,
}

impl Store {
    /// Opens the state of `pair` in `directory`; makes both if they do not exist. Blocks on the disk.
    pub fn open(directory: &Path, pair: PairId) -> Result<(Self, Durable), StoreError> {
        let path = directory.join(FILE);
        let at = |what| {
            let path = path.clone();
            move |source| StoreError::Io { path, what, source }
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(at("making the state directory"))?;
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .custom_flags(libc::O_DSYNC | libc::O_NOFOLLOW);
        let file = match options.open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                make(directory, &path).map_err(at("making the file"))?;
                options.open(&path).map_err(at("opening"))?
            }
            other => other.map_err(at("opening"))?,
        };
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(StoreError::Busy(path)),
            other => other.map_err(|e| at("locking")(e.into()))?,
        }
        let length = file.metadata().map_err(at("reading the length"))?.len();
        if length != FILE_LEN as u64 {
            return Err(StoreError::Length { path, length });
        }
        let read = |slot: usize| -> Result<_, StoreError> {
            let mut bytes = [0; SLOT_LEN];
            file.read_exact_at(&mut bytes, (slot * SLOT_LEN) as u64)
                .map_err(at("reading"))?;
            Ok(decode(&bytes))
        };
        let slots = [read(0)?, read(1)?];
        let (next, durable) = choose(pair, slots).map_err(|source| StoreError::Content {
            path: path.clone(),
            source,
        })?;
        Ok((Self { file, path, next }, durable))
    }

    /// Writes the state and returns when it is durable. Blocks on the disk.
    ///
    /// After an error the next write goes to the same slot: the other one holds the last state that is whole.
    pub fn write(&mut self, durable: &Durable) -> Result<(), StoreError> {
        let slot = slot_of(self.next) * SLOT_LEN;
        self.file
            .write_all_at(&encode(self.next, durable), slot as u64)
            .map_err(|source| StoreError::Io {
                path: self.path.clone(),
                what: "writing",
                source,
            })?;
        self.next = self.next.saturating_add(1);
        Ok(())
    }

    /// Moves the file to a helper thread that writes what it is given and reports to `results`.
    pub(crate) fn into_writer(self, results: mpsc::Sender<Input>) -> io::Result<Writer> {
        let desk = Arc::new(Desk::default());
        let thread = std::thread::Builder::new()
            .name("tandem-term".into())
            .spawn({
                let desk = Arc::clone(&desk);
                move || work(self, &desk, &results)
            })?;
        Ok(Writer {
            desk,
            thread: Some(thread),
        })
    }
}

fn make(directory: &Path, path: &Path) -> io::Result<()> {
    // One agent at a time makes it in practice; two at once would each make zeros, and the lock decides later.
    let temporary = directory.join("term.new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(&[0; FILE_LEN])?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    File::open(directory)?.sync_all()
}

/// Where the loop leaves the next state for the writing thread: room for one, because a newer one supersedes it.
#[derive(Debug, Default)]
struct Desk {
    order: Mutex<Order>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Order {
    next: Option<(u64, Box<Durable>)>,
    closed: bool,
}

/// The writing thread. Dropping it lets the last order be written and waits for that.
#[derive(Debug)]
pub(crate) struct Writer {
    desk: Arc<Desk>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Leaves a state to be written; does not wait. An earlier one that is not yet begun is forgotten.
    pub(crate) fn put(&self, generation: u64, durable: Box<Durable>) {
        // Nothing panics while it holds the lock; should it ever, the order is still whole.
        let mut order = self
            .desk
            .order
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        order.next = Some((generation, durable));
        self.desk.changed.notify_one();
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.desk
            .order
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .closed = true;
        self.desk.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic there was reported by the panic hook already.
            let _ = thread.join();
        }
    }
}

fn work(mut store: Store, desk: &Desk, results: &mpsc::Sender<Input>) {
    loop {
        let mut order = desk.order.lock().unwrap_or_else(PoisonError::into_inner);
        let (generation, durable) = loop {
            if let Some(next) = order.next.take() {
                break next;
            }
            if order.closed {
                return;
            }
            order = desk
                .changed
                .wait(order)
                .unwrap_or_else(PoisonError::into_inner);
        };
        drop(order);
        let result = store.write(&durable).map_err(|e| e.to_string());
        // When the loop has ended, nobody wants the result; the write itself still had to be done.
        let _ = results.blocking_send(Input::Persisted { generation, result });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::tempdir;

    const PAIR: PairId = PairId([5; 16]);

    fn with_term(term_used: u64) -> Durable {
        Durable {
            term_used,
            ..Durable::new(PAIR)
        }
    }

    #[test]
    fn what_was_written_is_there_after_reopening() {
        let directory = tempdir().expect("a directory");
        let state = directory.path().join("state");
        for term in 0..5 {
            let (mut store, durable) = Store::open(&state, PAIR).expect("opens");
            assert_eq!(durable, with_term(term));
            store.write(&with_term(term + 1)).expect("written");
        }
        let length = std::fs::metadata(state.join(FILE)).expect("there").len();
        assert_eq!(length, FILE_LEN as u64, "never grows");
    }

    #[test]
    fn a_write_torn_at_any_byte_leaves_the_state_before_or_after() {
        let directory = tempdir().expect("a directory");
        let path = directory.path().join(FILE);
        for (before, after) in [(1, 2), (2, 3)] {
            let (mut store, _) = Store::open(directory.path(), PAIR).expect("opens");
            store.write(&with_term(before)).expect("written");
            drop(store);
            let old = std::fs::read(&path).expect("read");
            let (mut store, _) = Store::open(directory.path(), PAIR).expect("opens");
            store.write(&with_term(after)).expect("written");
            drop(store);
            let new = std::fs::read(&path).expect("read");
            let changed: Vec<_> = (0..old.len()).filter(|&i| old[i] != new[i]).collect();
            for cut in &changed {
                let mut torn = old.clone();
                torn[..*cut].copy_from_slice(&new[..*cut]);
                std::fs::write(&path, &torn).expect("torn");
                let (_, durable) = Store::open(directory.path(), PAIR).expect("one slot is whole");
                assert_eq!(durable, with_term(before), "cut at {cut}");
            }
            std::fs::write(&path, &new).expect("whole again");
        }
    }

    #[test]
    fn another_pair_damage_and_a_second_agent_are_named() {
        let directory = tempdir().expect("a directory");
        let (mut store, _) = Store::open(directory.path(), PAIR).expect("opens");
        store.write(&with_term(1)).expect("written");
        store.write(&with_term(2)).expect("written");
        let busy = Store::open(directory.path(), PAIR).expect_err("locked");
        assert!(matches!(busy, StoreError::Busy(_)), "{busy}");
        drop(store);
        let foreign = Store::open(directory.path(), PairId([6; 16])).expect_err("another pair");
        assert!(
            matches!(
                foreign,
                StoreError::Content {
                    source: ChooseError::OtherPair,
                    ..
                }
            ),
            "{foreign}"
        );
        let path = directory.path().join(FILE);
        let mut bytes = std::fs::read(&path).expect("read");
        bytes[20] ^= 1;
        bytes[SLOT_LEN + 20] ^= 1;
        std::fs::write(&path, &bytes).expect("damaged");
        let damaged = Store::open(directory.path(), PAIR).expect_err("damaged");
        assert!(
            matches!(
                damaged,
                StoreError::Content {
                    source: ChooseError::BothDamaged,
                    ..
                }
            ),
            "{damaged}"
        );
        std::fs::write(&path, &bytes[..SLOT_LEN]).expect("cut");
        let cut = Store::open(directory.path(), PAIR).expect_err("cut");
        assert!(
            matches!(cut, StoreError::Length { length: 4096, .. }),
            "{cut}"
        );
    }

    #[test]
    fn a_failed_write_is_repeated_in_the_same_slot() {
        let directory = tempdir().expect("a directory");
        let (mut store, _) = Store::open(directory.path(), PAIR).expect("opens");
        store.write(&with_term(1)).expect("written");
        let good = std::mem::replace(
            &mut store.file,
            File::open(directory.path().join(FILE)).expect("opens read-only"),
        );
        let slot = store.next;
        store
            .write(&with_term(2))
            .expect_err("read-only descriptor");
        assert_eq!(store.next, slot);
        store.file = good;
        store.write(&with_term(3)).expect("written");
        drop(store);
        assert_eq!(
            Store::open(directory.path(), PAIR).expect("opens").1,
            with_term(3)
        );
    }

    #[test]
    fn the_writer_reports_the_newest_and_finishes_it_when_dropped() {
        let directory = tempdir().expect("a directory");
        let (store, _) = Store::open(directory.path(), PAIR).expect("opens");
        let (results, mut reported) = mpsc::channel(8);
        let writer = store.into_writer(results).expect("a thread starts");
        writer.put(1, Box::new(with_term(1)));
        let Some(Input::Persisted {
            generation: 1,
            result: Ok(()),
        }) = reported.blocking_recv()
        else {
            panic!("the first write is reported");
        };
        for generation in 2..=50 {
            writer.put(generation, Box::new(with_term(generation)));
        }
        drop(writer);
        let mut last = 0;
        while let Some(Input::Persisted { generation, result }) = reported.blocking_recv() {
            result.expect("written");
            assert!(generation > last, "in order");
            last = generation;
            if generation == 50 {
                break;
            }
        }
        assert_eq!(
            Store::open(directory.path(), PAIR).expect("opens").1,
            with_term(50)
        );
    }
}
