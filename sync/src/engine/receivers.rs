//! The replicas that this node feeds while it is the source, and what it knows of each.
//!
//! Nothing here is of any weight for the pair: what the standby has acknowledged, `flush` and the lag are about the
//! standby alone.

use super::command::VerifyAsk;
use super::status::{ReplicaStatus, SessionStatus};
use crate::progress::LagQueue;
use crate::tree::{ReplicaConfig, TreeId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Who receives from the source.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Receiver {
    /// The other node of the pair.
    Standby,
    /// The replica with this name.
    Replica(String),
}

impl fmt::Display for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Receiver::Standby => f.write_str("the standby"),
            Receiver::Replica(name) => write!(f, "replica {name}"),
        }
    }
}

/// All of them, by name.
#[derive(Debug, Default)]
pub(crate) struct Receivers {
    list: Mutex<BTreeMap<String, Fed>>,
    /// Something is known of one of them that somebody may wait for.
    moved: watch::Sender<()>,
}

/// One of them.
#[derive(Debug, Default)]
struct Fed {
    trees: BTreeSet<TreeId>,
    /// Counts its sessions: of two the newer one counts.
    ticket: u64,
    running: Option<CancellationToken>,
    session: Option<SessionStatus>,
    /// Trees that it does not take in its session.
    lacks: BTreeSet<TreeId>,
    /// It said that it keeps paths as they are there, against this node's word.
    keeps: bool,
    /// The way to its session, for `verify`.
    verifier: Option<mpsc::Sender<VerifyAsk>>,
    acked: u64,
    applied: u64,
    /// Changes that it has not acknowledged. `None`: what it has was not heard since this node began to send.
    lag: Option<LagQueue>,
}

/// The right of a session to speak for its replica, until a newer one begins.
#[derive(Debug, Clone)]
pub(crate) struct Ticket {
    name: String,
    number: u64,
}

impl Receivers {
    /// These are the replicas from here on. The session of one that goes, or that gets other trees, ends.
    pub fn configure(&self, replicas: &[ReplicaConfig]) {
        let mut list = self.lock();
        let mut before = std::mem::take(&mut *list);
        for replica in replicas {
            let trees: BTreeSet<TreeId> = replica.trees.iter().map(|t| TreeId::of(t)).collect();
            let kept = before.remove(&replica.name).map(|mut kept| {
                if kept.trees != trees {
                    kept.end();
                }
                kept
            });
            let receiver = Fed {
                trees,
                ..kept.unwrap_or_default()
            };
            list.insert(replica.name.clone(), receiver);
        }
        before.into_values().for_each(|mut gone| gone.end());
        drop(list);
        self.moved.send_replace(());
    }

    /// This node begins to send: what was known is of another time.
    pub fn reset(&self) {
        for receiver in self.lock().values_mut() {
            receiver.end();
            (receiver.session, receiver.verifier) = (None, None);
            (receiver.acked, receiver.applied, receiver.lag) = (0, 0, None);
        }
        self.moved.send_replace(());
    }

    /// Ends all sessions.
    pub fn end_all(&self) {
        self.lock().values_mut().for_each(Fed::end);
    }

    /// Whether any of them gets this tree.
    pub fn any_gets(&self, tree: TreeId) -> bool {
        self.lock().values().any(|r| r.trees.contains(&tree))
    }

    /// Ends the sessions of those that get this tree. They begin anew at once.
    pub fn end_sessions(&self, tree: TreeId) {
        let mut list = self.lock();
        let those = list.values_mut().filter(|r| r.trees.contains(&tree));
        those.for_each(Fed::end);
    }

    /// A session begins; the one before it ends. `None`: there is no such replica. Else also what it gets.
    pub fn begin(
        &self,
        name: &str,
        token: CancellationToken,
    ) -> Option<(Ticket, BTreeSet<TreeId>)> {
        let mut list = self.lock();
        let receiver = list.get_mut(name)?;
        receiver.end();
        receiver.ticket += 1;
        receiver.running = Some(token);
        let ticket = Ticket {
            name: name.to_owned(),
            number: receiver.ticket,
        };
        Some((ticket, receiver.trees.clone()))
    }

    /// The replica has everything up to `seq` of all up to `head`. How old the rest is is not known; it counts from now.
    pub fn accepted(&self, ticket: &Ticket, seq: u64, head: u64, now: u64) {
        self.with(ticket, |receiver| {
            // It says so within a second.
            receiver.applied = 0;
            let mut lag = receiver.lag.take().unwrap_or_default();
            if seq < receiver.acked {
                // It has lost something.
                lag = LagQueue::default();
            }
            if lag.is_empty() && seq < head {
                lag.push(head, now);
            }
            lag.ack(seq);
            (receiver.acked, receiver.lag) = (seq, Some(lag));
        });
    }

    /// The replica does not take all of its trees: it stays where it was, and what comes makes it no newer.
    pub fn lacks(&self, ticket: &Ticket, head: u64, now: u64) {
        self.with(ticket, |receiver| {
            let lag = receiver.lag.get_or_insert_default();
            if lag.is_empty() && receiver.acked < head {
                lag.push(head, now);
            }
        });
    }

    /// Everything up to `seq` is durable there, and what is up to `applied` is applied.
    pub fn acked(&self, ticket: &Ticket, seq: u64, applied: u64) {
        self.with(ticket, |receiver| {
            receiver.acked = receiver.acked.max(seq);
            receiver.applied = applied;
            if let Some(lag) = &mut receiver.lag {
                lag.ack(seq);
            }
        });
    }

    /// Whether it keeps paths as they are there.
    pub fn keeps(&self, ticket: &Ticket, keeps: bool) {
        self.with(ticket, |receiver| receiver.keeps = keeps);
    }

    /// What every one of them has acknowledged; 0 while one was not heard since this node began to send. `None`: there is none.
    pub fn least_acked(&self) -> Option<u64> {
        self.lock().values().map(|receiver| receiver.acked).min()
    }

    /// What the session shows of itself, and the trees that it lacks; `None`: it has ended. True: somebody who waits for it to
    /// be in sync, or to be there, should hear of it.
    pub fn show(&self, ticket: &Ticket, shown: Option<(SessionStatus, BTreeSet<TreeId>)>) -> bool {
        let mut told = false;
        let (session, lacks) = match shown {
            Some((session, lacks)) => (Some(session), lacks),
            None => (None, BTreeSet::new()),
        };
        self.with(ticket, |receiver| {
            let in_sync = |s: &Option<SessionStatus>| s.as_ref().map(|s| s.caught_up);
            told = in_sync(&receiver.session) != in_sync(&session);
            receiver.keeps &= session.is_some();
            if session.is_none() {
                receiver.verifier = None;
            }
            (receiver.session, receiver.lacks) = (session, lacks);
        });
        told
    }

    /// The way to a session of a replica begins.
    pub fn set_verifier(&self, ticket: &Ticket, verifier: mpsc::Sender<VerifyAsk>) {
        self.with(ticket, |receiver| receiver.verifier = Some(verifier));
    }

    /// That way, while there is one.
    pub fn verifier(&self, name: &str) -> Option<mpsc::Sender<VerifyAsk>> {
        self.lock().get(name)?.verifier.clone()
    }

    /// Their names.
    pub fn names(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }

    /// Whether there is such a replica.
    pub fn has(&self, name: &str) -> bool {
        self.lock().contains_key(name)
    }

    /// Whether a replica gets a tree.
    pub fn gets(&self, name: &str, tree: TreeId) -> bool {
        let list = self.lock();
        list.get(name).is_some_and(|r| r.trees.contains(&tree))
    }

    /// Whether a replica is there, with a tree that it gets.
    pub fn takes(&self, name: &str, tree: TreeId) -> bool {
        let list = self.lock();
        let there = list.get(name).filter(|receiver| receiver.session.is_some());
        there.is_some_and(|r| r.trees.contains(&tree) && !r.lacks.contains(&tree))
    }

    /// Returns when a replica has all up to `seq`, durable and applied. False: it is away.
    pub async fn until_applied(&self, name: &str, seq: u64) -> bool {
        let mut moved = self.moved.subscribe();
        loop {
            let has = {
                let list = self.lock();
                let there = list.get(name).filter(|receiver| receiver.session.is_some());
                there.map(|receiver| receiver.acked.min(receiver.applied))
            };
            match has {
                None => return false,
                Some(has) if has >= seq => return true,
                // An error is the end of the engine.
                Some(_) if moved.changed().await.is_err() => return false,
                Some(_) => {}
            }
        }
    }

    /// The source has a new newest number.
    pub fn changed(&self, seq: u64, noticed: u64) {
        let mut list = self.lock();
        for lag in list.values_mut().filter_map(|r| r.lag.as_mut()) {
            lag.push(seq, noticed);
        }
    }

    /// All of them, for status. The oldest change that is not recorded `waits` for so long.
    pub fn status(&self, now: u64, waits: Duration) -> Vec<ReplicaStatus> {
        let shown = |(name, receiver): (&String, &Fed)| ReplicaStatus {
            name: name.clone(),
            session: receiver.session.clone(),
            lacks: receiver.lacks.clone(),
            keeps: receiver.keeps,
            acked: receiver.acked,
            lag: receiver.lag.as_ref().map(|lag| lag.lag(now).max(waits)),
        };
        self.lock().iter().map(shown).collect()
    }

    fn with(&self, ticket: &Ticket, work: impl FnOnce(&mut Fed)) {
        let mut list = self.lock();
        let receiver = list.get_mut(&ticket.name);
        if let Some(receiver) = receiver.filter(|r| r.ticket == ticket.number) {
            work(receiver);
        }
        drop(list);
        self.moved.send_replace(());
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Fed>> {
        // Each change of a receiver is whole before the next one begins.
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Fed {
    fn end(&mut self) {
        if let Some(session) = self.running.take() {
            session.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &str, trees: &[&str]) -> ReplicaConfig {
        ReplicaConfig {
            name: name.into(),
            trees: trees.iter().map(|t| (*t).to_owned()).collect(),
        }
    }

    #[test]
    fn the_lag_of_each_is_its_own() {
        let receivers = Receivers::default();
        receivers.configure(&[one("web1", &["www"]), one("web2", &["www"])]);
        let begin = |name| receivers.begin(name, CancellationToken::new()).unwrap().0;
        let (first, second) = (begin("web1"), begin("web2"));
        let lags = |now| -> Vec<_> {
            let all = receivers.status(now, Duration::ZERO).into_iter();
            all.map(|r| r.lag.map(|lag| lag.as_nanos() as u64))
                .collect()
        };
        assert_eq!(lags(5), [None, None], "nothing was heard of them yet");
        receivers.accepted(&first, 10, 10, 100);
        receivers.accepted(&second, 4, 10, 100);
        assert_eq!(lags(150), [Some(0), Some(50)]);
        receivers.changed(11, 200);
        receivers.acked(&second, 10, 10);
        assert_eq!(lags(260), [Some(60), Some(60)]);
        receivers.acked(&first, 11, 11);
        receivers.show(&second, None);
        // One that is away falls behind.
        assert_eq!(lags(900), [Some(0), Some(700)]);
        receivers.reset();
        assert_eq!(lags(900), [None, None]);
    }

    #[test]
    fn one_that_keeps_paths_is_shown_until_it_keeps_none_or_is_away() {
        let receivers = Receivers::default();
        receivers.configure(&[one("web1", &["www"])]);
        let (ticket, _) = receivers.begin("web1", CancellationToken::new()).unwrap();
        let keeps = || receivers.status(0, Duration::ZERO)[0].keeps;
        for said in [true, false, true] {
            receivers.keeps(&ticket, said);
            assert_eq!(keeps(), said);
        }
        receivers.show(&ticket, None);
        assert!(!keeps());
    }

    #[test]
    fn an_older_session_says_nothing_more() {
        let receivers = Receivers::default();
        receivers.configure(&[one("web1", &["www"])]);
        let token = CancellationToken::new();
        let (old, trees) = receivers.begin("web1", token.clone()).unwrap();
        assert_eq!(trees, [TreeId::of("www")].into());
        let (new, _) = receivers.begin("web1", CancellationToken::new()).unwrap();
        assert!(token.is_cancelled());
        receivers.accepted(&new, 5, 5, 0);
        receivers.acked(&old, 9, 9);
        assert_eq!(receivers.status(0, Duration::ZERO)[0].acked, 5);
        assert!(receivers.begin("web9", CancellationToken::new()).is_none());
    }

    #[test]
    fn other_trees_end_a_session() {
        let receivers = Receivers::default();
        receivers.configure(&[one("web1", &["www"]), one("web2", &["www"])]);
        let tokens = [CancellationToken::new(), CancellationToken::new()];
        for (name, token) in ["web1", "web2"].iter().zip(&tokens) {
            receivers.begin(name, token.clone()).unwrap();
        }
        receivers.configure(&[one("web1", &["www"]), one("web2", &["www", "logs"])]);
        assert!(!tokens[0].is_cancelled() && tokens[1].is_cancelled());
        assert!(receivers.any_gets(TreeId::of("logs")));
        receivers.configure(&[]);
        assert!(tokens[0].is_cancelled());
        assert!(receivers.status(0, Duration::ZERO).is_empty());
        assert_eq!(Duration::ZERO, LagQueue::default().lag(1));
    }
}
