//! The decision record: `STATE_DIR/events.jsonl`, one JSON object a line, bounded and rotated.
//!
//! Every line has `v` (format version, [`FORMAT`]), `at` (wall clock, RFC 3339, UTC), `boot_ns` (CLOCK_BOOTTIME,
//! the clock of the role machine), `kind`, and `data`, which belongs to the kind. `lost` is there when records were
//! dropped before this one because the disk was too slow.
//!
//! Records are written by a thread of its own, so that nobody waits for the disk. At [`Limits::bytes`] the file
//! becomes `events.jsonl.1` (`.2`, ...), and the oldest is removed.

mod writer;

use serde::Serialize;
use serde_json::value::RawValue;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

/// Version of the line format.
pub const FORMAT: u32 = 1;
/// Name of the current file in the state directory.
pub const FILE: &str = "events.jsonl";
/// Records that wait for the disk: some seconds of the busiest moment.
const QUEUE: usize = 1024;
/// A record is a decision with its inputs, some kilobytes. A longer one is replaced by a remark.
const RECORD_MAX: usize = 256 * 1024;

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one file.
    pub bytes: u64,
    /// Files in all, at least 1.
    pub files: u32,
}

impl Default for Limits {
    /// 2 files of 4 MiB: some ten thousand decisions.
    fn default() -> Self {
        Self {
            bytes: 4 << 20,
            files: 2,
        }
    }
}

/// Takes records from any thread; never waits. Clones share one file.
#[derive(Debug, Clone)]
pub struct Journal {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    sender: Option<SyncSender<Message>>,
    lost: AtomicU64,
    thread: Mutex<Option<JoinHandle<()>>>,
}

enum Message {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

#[derive(Serialize)]
struct Record<'a, T> {
    v: u32,
    at: String,
    boot_ns: u64,
    kind: &'a str,
    #[serde(skip_serializing_if = "is_zero")]
    lost: u64,
    data: &'a T,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes fields by reference"
)]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Journal {
    /// Opens (or creates, mode 0600) the record in `state_dir` and starts its thread.
    pub fn open(state_dir: &Path, limits: Limits) -> io::Result<Self> {
        let path = state_dir.join(FILE);
        let mut writer = writer::Writer::open(&path, limits)?;
        let (sender, receiver) = sync_channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("journal".into())
            .spawn(move || write_all(&mut writer, &receiver))?;
        Ok(Self {
            inner: Arc::new(Inner {
                path,
                sender: Some(sender),
                lost: AtomicU64::new(0),
                thread: Mutex::new(Some(thread)),
            }),
        })
    }

    /// Records `data` under a stable short `kind`, for example `decision`. Never waits: when the queue is full the
    /// record is lost and counted, and the next one says so.
    pub fn record<T: Serialize>(&self, kind: &str, data: &T) {
        let lost = self.inner.lost.swap(0, Ordering::Relaxed);
        let line = match line(kind, lost, data) {
            Ok(line) => line,
            Err(error) => {
                tracing::warn!(kind, error = %error, "record cannot be written as JSON");
                self.inner.lost.fetch_add(lost + 1, Ordering::Relaxed);
                return;
            }
        };
        if self.send(Message::Line(line)).is_err() {
            self.inner.lost.fetch_add(lost + 1, Ordering::Relaxed);
        }
    }

    /// Waits until everything recorded before is on disk; at most `within`. Returns whether it is. Blocks: not for
    /// the failover loop.
    pub fn flush(&self, within: Duration) -> bool {
        let (done, wait) = sync_channel(1);
        self.send(Message::Flush(done)).is_ok() && wait.recv_timeout(within).is_ok()
    }

    fn send(&self, message: Message) -> Result<(), TrySendError<Message>> {
        match &self.inner.sender {
            Some(sender) => sender.try_send(message),
            None => Err(TrySendError::Disconnected(message)),
        }
    }

    /// The last `count` records, oldest first, as they were written. Reads at most `count` lines of memory from
    /// the current file and the one before; lines that are no JSON (torn by a crash) are left out. Blocks.
    pub fn tail(&self, count: usize) -> io::Result<Vec<Box<RawValue>>> {
        writer::tail(&self.inner.path, count)
    }
}

impl Drop for Inner {
    /// Writes what is queued: at most [`QUEUE`] records.
    fn drop(&mut self) {
        drop(self.sender.take());
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            // A panic of the thread has been reported by the panic hook.
            let _ = thread.join();
        }
    }
}

fn line<T: Serialize>(kind: &str, lost: u64, data: &T) -> Result<Vec<u8>, serde_json::Error> {
    let at = rfc3339(SystemTime::now());
    let boot_ns = boot_ns();
    let mut line = serde_json::to_vec(&Record {
        v: FORMAT,
        at: at.clone(),
        boot_ns,
        kind,
        lost,
        data,
    })?;
    if line.len() > RECORD_MAX {
        let remark = serde_json::json!({ "too_long": line.len() });
        line = serde_json::to_vec(&Record {
            v: FORMAT,
            at,
            boot_ns,
            kind,
            lost,
            data: &remark,
        })?;
    }
    line.push(b'\n');
    Ok(line)
}

fn write_all(writer: &mut writer::Writer, receiver: &Receiver<Message>) {
    while let Ok(first) = receiver.recv() {
        let mut flushed = Vec::new();
        for message in std::iter::once(first).chain(receiver.try_iter().take(QUEUE)) {
            match message {
                Message::Line(line) => writer.append(&line),
                Message::Flush(done) => flushed.push(done),
            }
        }
        writer.sync();
        for done in flushed {
            // The one who asked may have stopped waiting.
            let _ = done.try_send(());
        }
    }
}

fn boot_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(now.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
}

/// `2026-11-21T09:13:00.123Z`. Times before 1970 are shown as 1970.
pub fn rfc3339(time: SystemTime) -> String {
    let since = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    // Days to civil date in the proleptic Gregorian calendar, years beginning in March
    // (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", civil_from_days).
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let millis = since.subsec_millis();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// A file of events.
#[cfg(feature = "fuzz")]
pub(crate) fn fuzz(bytes: &[u8]) {
    let mut kept = std::collections::VecDeque::new();
    writer::keep_last(bytes, 3, &mut kept).expect("memory can be read");
    assert!(kept.len() <= 3);
}

#[cfg(test)]
mod tests;
