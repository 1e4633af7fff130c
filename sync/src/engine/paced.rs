//! Reading below a rate.

use crate::beneath::Root;
use crate::entry::ContentHash;
use crate::hash;
use crate::path::RelPath;
use crate::stat::Stat;
use std::num::NonZeroU64;
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// Keeps one reader below a rate. It sleeps in the thread that reads.
#[derive(Debug)]
pub(crate) struct Paced {
    per_second: Option<NonZeroU64>,
    begun: Instant,
    read: u64,
}

impl Paced {
    /// Bytes each second; `None`: as fast as it goes.
    pub fn new(per_second: Option<NonZeroU64>) -> Paced {
        Paced {
            per_second,
            begun: Instant::now(),
            read: 0,
        }
    }

    /// The hash of a regular file. `None`: it cannot be read.
    pub fn hash(&mut self, root: &Root, path: &RelPath) -> Option<ContentHash> {
        let file = root.open_file(path).ok()?;
        let before = Stat::of_fd(file.as_fd()).ok()?;
        let hashed = hash::hash_while(&file, before, &mut |bytes| self.read(bytes));
        Some(hashed.ok()??.hash)
    }

    /// So much was read. Returns when more may be.
    pub fn read(&mut self, bytes: usize) -> ControlFlow<()> {
        self.read = self.read.saturating_add(bytes as u64);
        if let Some(rate) = self.per_second {
            let earliest = super::contents::pace::earliest(self.read, rate.get());
            let left = earliest.saturating_sub(self.begun.elapsed());
            if !left.is_zero() {
                std::thread::sleep(left);
            }
        }
        ControlFlow::Continue(())
    }
}

/// How long reading so much takes at a rate, beyond what it takes anyway.
pub(crate) fn at_rate(bytes: u64, per_second: Option<NonZeroU64>) -> Duration {
    per_second.map_or(Duration::ZERO, |rate| {
        super::contents::pace::earliest(bytes, rate.get())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_takes_as_long_as_the_rate_says() {
        let mut paced = Paced::new(NonZeroU64::new(1_000_000));
        let begun = Instant::now();
        for _ in 0..10 {
            assert!(paced.read(10_000).is_continue());
        }
        assert!(begun.elapsed() >= Duration::from_millis(100));
        let mut free = Paced::new(None);
        assert!(free.read(usize::MAX).is_continue());
        assert_eq!(
            at_rate(500, NonZeroU64::new(1000)),
            Duration::from_millis(500)
        );
    }
}
