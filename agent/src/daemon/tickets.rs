//! Who waits for the answer of which operator command.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use tandem_failover::effect::Ticket;
use tokio::sync::oneshot;

/// Commands that may wait at the same time. An operator and a few scripts; more is a loop gone wild.
const BOUND: usize = 64;

/// The answer of the role machine to a command, in words.
pub type Outcome = Result<String, String>;

/// Open operator commands.
#[derive(Debug, Default)]
pub struct Tickets {
    next: AtomicU64,
    open: Mutex<HashMap<u64, oneshot::Sender<Outcome>>>,
}

impl Tickets {
    /// A new ticket and the receiver of its one answer. `None` when too many are open.
    pub fn issue(&self) -> Option<(Ticket, oneshot::Receiver<Outcome>)> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|_, waiting| !waiting.is_closed());
        if open.len() >= BOUND {
            return None;
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        open.insert(number, sender);
        Some((Ticket(number), receiver))
    }

    /// Gives the answer to whoever still waits for it.
    pub fn answer(&self, ticket: Ticket, outcome: Outcome) {
        let waiting = self
            .open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&ticket.0);
        if let Some(waiting) = waiting {
            // Nobody waits any more when the operator's command was interrupted.
            let _ = waiting.send(outcome);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_reaches_the_one_who_asked() {
        let tickets = Tickets::default();
        let (first, mut got_first) = tickets.issue().unwrap();
        let (second, mut got_second) = tickets.issue().unwrap();
        tickets.answer(second, Err("no".into()));
        assert!(got_first.try_recv().is_err());
        assert_eq!(got_second.try_recv().unwrap(), Err("no".into()));
        tickets.answer(first, Ok("yes".into()));
        assert_eq!(got_first.try_recv().unwrap(), Ok("yes".into()));
    }

    #[test]
    fn those_who_left_make_room() {
        let tickets = Tickets::default();
        for _ in 0..BOUND {
            drop(tickets.issue().unwrap());
        }
        let kept: Vec<_> = (0..BOUND).map(|_| tickets.issue().unwrap()).collect();
        assert!(tickets.issue().is_none());
        drop(kept);
        assert!(tickets.issue().is_some());
    }
}
