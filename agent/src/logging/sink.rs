//! Where the writing thread writes: it says how many lines found no room in the queue.

use std::io::{self, Write};
use std::sync::{Arc, OnceLock};
use tracing_appender::non_blocking::ErrorCounter;

/// Writes, and says before a line how many were lost since the one before.
pub(super) struct Sink<W> {
    to: W,
    counter: Arc<OnceLock<ErrorCounter>>,
    told: usize,
    lost: fn(usize) -> String,
}

impl<W: Write> Sink<W> {
    /// `lost` says in the form of this log that so many lines were lost.
    pub fn new(to: W, lost: fn(usize) -> String) -> Sink<W> {
        Sink {
            to,
            counter: Arc::default(),
            told: 0,
            lost,
        }
    }

    /// The place for the counter of the queue before this, which is made after it.
    pub fn counter(&self) -> Arc<OnceLock<ErrorCounter>> {
        Arc::clone(&self.counter)
    }
}

impl<W: Write> Write for Sink<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let lost = self.counter.get().map_or(0, ErrorCounter::dropped_lines);
        if lost > self.told {
            let text = (self.lost)(lost - self.told);
            self.to.write_all(text.as_bytes())?;
            self.told = lost;
        }
        self.to.write(line)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// For people and files.
pub(super) fn lost(lines: usize) -> String {
    format!(
        " WARN tandem::logging: lines of the log were lost: its reader is too slow lines={lines}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::super::{MOST_LINES, queued};
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;
    use std::time::{Duration, Instant};

    #[test]
    fn a_reader_that_does_not_read_stops_nobody_and_hears_what_it_missed() {
        let (ours, mut theirs) = UnixStream::pair().expect("a pair");
        theirs
            .set_read_timeout(Some(Duration::from_secs(30)))
            .expect("a bound");
        let (mut writer, log) = queued(Sink::new(ours, lost));
        // Several times what the socket and the queue hold.
        let line = [b"x".repeat(1000), b"\n".to_vec()].concat();
        let count = 3 * MOST_LINES;
        let begin = Instant::now();
        for _ in 0..count {
            writer.write_all(&line).expect("never refused");
        }
        assert!(begin.elapsed() < Duration::from_secs(20), "it waited");
        let reader = std::thread::spawn(move || {
            let mut all = String::new();
            theirs.read_to_string(&mut all).map(|_| all)
        });
        drop((writer, log));
        let all = reader.join().expect("no panic").expect("read");
        let kept = all.lines().filter(|line| line.starts_with('x')).count();
        let told = all.lines().filter_map(|line| line.split("lines=").nth(1));
        let told: usize = told.map(|n| n.parse::<usize>().expect("a number")).sum();
        assert!(told > 0, "nothing was lost: {kept} lines");
        assert_eq!(kept + told, count);
    }
}
