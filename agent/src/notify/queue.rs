//! The waiting notices: merging, bounds, due times. Pure: time is an argument.

use super::{ATTEMPTS, QUEUE, REPEAT};
use std::collections::VecDeque;
use std::time::{Duration, Instant, SystemTime};
use tandem_failover::effect::Notice;

/// A notice that waits.
#[derive(Debug, Clone)]
pub(super) struct Item {
    pub(super) notice: Notice,
    /// How often it came.
    pub(super) count: u32,
    pub(super) first: SystemTime,
    pub(super) last: SystemTime,
    due: Instant,
    attempts: u32,
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    items: VecDeque<Item>,
    /// Sent lately; at most [`QUEUE`], none older than [`REPEAT`].
    recent: VecDeque<(Notice, Instant)>,
    dropped: u64,
}

/// The same message: the term may have moved on.
fn same(a: &Notice, b: &Notice) -> bool {
    a.kind == b.kind && a.text == b.text && a.role == b.role
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    pub(super) fn push(&mut self, notice: Notice, now: Instant, wall: SystemTime) {
        if let Some(item) = self.items.iter_mut().find(|i| same(&i.notice, &notice)) {
            item.count = item.count.saturating_add(1);
            item.last = wall;
            item.notice = notice;
            return;
        }
        self.forget_old(now);
        let due = self
            .recent
            .iter()
            .find(|(sent, _)| same(sent, &notice))
            .map_or(now, |(_, at)| *at + REPEAT);
        self.insert(Item {
            notice,
            count: 1,
            first: wall,
            last: wall,
            due,
            attempts: 0,
        });
    }

    fn insert(&mut self, item: Item) {
        if self.items.len() >= QUEUE {
            let lost = self.items.pop_front();
            self.dropped += u64::from(lost.map_or(0, |item| item.count));
        }
        self.items.push_back(item);
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        self.items.iter().map(|item| item.due).min()
    }

    /// Takes the oldest item that is due, with the number of notices dropped before it.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<(Item, u64)> {
        let index = self.items.iter().position(|item| item.due <= now)?;
        let item = self.items.remove(index)?;
        Some((item, std::mem::take(&mut self.dropped)))
    }

    pub(super) fn sent(&mut self, item: &Item, now: Instant) {
        self.forget_old(now);
        self.recent.retain(|(sent, _)| !same(sent, &item.notice));
        if self.recent.len() >= QUEUE {
            self.recent.pop_front();
        }
        self.recent.push_back((item.notice.clone(), now));
    }

    /// Puts an item back that could not be sent. Returns whether it will be tried again.
    pub(super) fn failed(&mut self, mut item: Item, dropped: u64, now: Instant) -> bool {
        self.dropped += dropped;
        item.attempts += 1;
        if item.attempts >= ATTEMPTS {
            self.dropped += u64::from(item.count);
            return false;
        }
        // 4, 8, 16, 32 s.
        item.due = now + Duration::from_secs(2 << item.attempts);
        self.insert(item);
        true
    }

    fn forget_old(&mut self, now: Instant) {
        self.recent.retain(|(_, at)| *at + REPEAT > now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tandem_failover::effect::NoticeKind;
    use tandem_failover::role::Role;

    fn notice(text: &str) -> Notice {
        Notice {
            kind: NoticeKind::Peer,
            text: text.into(),
            role: Role::Standby,
            term: 3,
        }
    }

    #[test]
    fn repeats_are_merged_while_waiting_and_after_sending() {
        let (start, wall) = (Instant::now(), SystemTime::UNIX_EPOCH);
        let mut queue = Queue::default();
        queue.push(notice("gone"), start, wall);
        queue.push(notice("gone"), start, wall + Duration::from_secs(1));
        let (item, _) = queue.take_due(start).unwrap();
        assert_eq!((item.count, queue.len()), (2, 0));
        queue.sent(&item, start);

        let later = start + Duration::from_secs(5);
        queue.push(notice("gone"), later, wall);
        queue.push(notice("back"), later, wall);
        queue.push(notice("gone"), later, wall);
        assert_eq!(queue.take_due(later).unwrap().0.notice.text, "back");
        assert!(queue.take_due(later).is_none());
        assert_eq!(queue.next_due(), Some(start + REPEAT));
        assert_eq!(queue.take_due(start + REPEAT).unwrap().0.count, 2);
    }

    #[test]
    fn the_queue_is_bounded_and_tells_what_it_dropped() {
        let (now, wall) = (Instant::now(), SystemTime::UNIX_EPOCH);
        let mut queue = Queue::default();
        for number in 0..QUEUE + 3 {
            queue.push(notice(&number.to_string()), now, wall);
        }
        assert_eq!(queue.len(), QUEUE);
        let (item, dropped) = queue.take_due(now).unwrap();
        assert_eq!((item.notice.text.as_str(), dropped), ("3", 3));
        assert_eq!(queue.take_due(now).unwrap().1, 0);
    }

    #[test]
    fn a_failure_is_tried_again_a_bounded_number_of_times() {
        let mut now = Instant::now();
        let mut queue = Queue::default();
        queue.push(notice("x"), now, SystemTime::UNIX_EPOCH);
        let mut tries = 0;
        while let Some(due) = queue.next_due() {
            now = due;
            let (item, dropped) = queue.take_due(now).unwrap();
            tries += 1;
            queue.failed(item, dropped, now);
        }
        assert_eq!((tries, queue.dropped()), (ATTEMPTS, 1));
    }
}
