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

/// Longest sleep between two looks whether the result is still wanted.
const NAP: Duration = Duration::from_millis(200);

/// Keeps one reader below a rate. It sleeps in the thread that reads.
pub(crate) struct Paced<'a> {
    per_second: Option<NonZeroU64>,
    /// Nobody waits for the result any more.
    ended: &'a dyn Fn() -> bool,
    begun: Instant,
    read: u64,
}

impl Paced<'static> {
    /// Bytes each second; `None`: as fast as it goes.
    pub fn new(per_second: Option<NonZeroU64>) -> Self {
        Paced::until(per_second, &|| false)
    }
}

impl<'a> Paced<'a> {
    /// The same, which reads no further once this is so.
    pub fn until(per_second: Option<NonZeroU64>, ended: &'a dyn Fn() -> bool) -> Self {
        Paced {
            per_second,
            ended,
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
            let left = || earliest.saturating_sub(self.begun.elapsed());
            while !left().is_zero() && !(self.ended)() {
                std::thread::sleep(left().min(NAP));
            }
        }
        match (self.ended)() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
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

    /// At one byte each second it would sleep for days.
    #[test]
    fn what_nobody_waits_for_is_not_read_on() {
        let asked = std::cell::Cell::new(0);
        let is_over = || {
            asked.set(asked.get() + 1);
            asked.get() > 1
        };
        let mut paced = Paced::until(NonZeroU64::new(1), &is_over);
        assert!(paced.read(1 << 20).is_break());
    }

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
