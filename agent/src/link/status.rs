//! What the link knows of itself: connections, counters, last errors.

use super::transport::LinkError;
use super::wire::WireHandle;
use super::{DATA_SESSIONS, LinkConfig, LinkEvent, LinkPath, REPORT_EVERY};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Control or data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Requests and messages.
    Control,
    /// Bulk.
    Data,
    /// Bulk to a replica.
    Feed,
}

/// All links. Ages are from the moment of the call.
#[derive(Debug, Clone)]
pub struct LinkStatus {
    /// In the order of the configuration.
    pub paths: Vec<PathStatus>,
    /// Connections turned away since the start, on all links.
    pub refused: u64,
}

/// One link.
#[derive(Debug, Clone)]
pub struct PathStatus {
    /// The link.
    pub path: LinkPath,
    /// Whether its address is listened at; else why not.
    pub listening: Result<(), String>,
    /// Its authenticated connections.
    pub sessions: Vec<SessionStatus>,
    /// The last error and its age.
    pub last_error: Option<(String, Duration)>,
}

/// One authenticated connection.
#[derive(Debug, Clone)]
pub struct SessionStatus {
    /// Control or data.
    pub purpose: Purpose,
    /// Dialled by this node, not by the peer.
    pub dialled: bool,
    /// The peer's address and port.
    pub remote: SocketAddr,
    /// Connected for this long.
    pub age: Duration,
    /// Bytes received on the TCP connection.
    pub bytes_in: u64,
    /// Bytes sent on the TCP connection.
    pub bytes_out: u64,
    /// Last measured round trip (control only).
    pub rtt: Option<Duration>,
}

struct PathState {
    listening: Result<(), String>,
    last_error: Option<(String, Instant)>,
}

struct Entry {
    path: usize,
    purpose: Purpose,
    dialled: bool,
    since: Instant,
    wire: Arc<WireHandle>,
    rtt: Option<Duration>,
}

/// Keeps the books of all connections.
pub(crate) struct Registry {
    paths: Vec<LinkPath>,
    states: Mutex<Vec<PathState>>,
    sessions: Mutex<BTreeMap<u64, Entry>>,
    next: AtomicU64,
    refused: AtomicU64,
}

/// An entry in the books; leaves them when dropped.
pub struct SessionGuard {
    registry: Arc<Registry>,
    id: u64,
    path: usize,
}

impl SessionGuard {
    pub(crate) fn link(&self) -> &str {
        &self.registry.paths[self.path].name
    }

    pub(crate) fn path(&self) -> usize {
        self.path
    }

    pub(crate) fn handle(&self) -> SessionHandle {
        SessionHandle {
            registry: self.registry.clone(),
            id: self.id,
        }
    }
}

/// Writes into an entry without keeping it in the books.
pub(crate) struct SessionHandle {
    registry: Arc<Registry>,
    id: u64,
}

impl SessionHandle {
    pub(crate) fn set_rtt(&self, rtt: Duration) {
        if let Some(entry) = self.registry.sessions().get_mut(&self.id) {
            entry.rtt = Some(rtt);
        }
    }
}

impl Drop for SessionGuard {
    fn drop(&mut self) {
        self.registry.sessions().remove(&self.id);
    }
}

impl Registry {
    pub(crate) fn new(config: &LinkConfig) -> Self {
        let state = || PathState {
            listening: Err("not yet".to_owned()),
            last_error: None,
        };
        Self {
            paths: config.paths.clone(),
            states: Mutex::new(config.paths.iter().map(|_| state()).collect()),
            sessions: Mutex::new(BTreeMap::new()),
            next: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }

    fn sessions(&self) -> MutexGuard<'_, BTreeMap<u64, Entry>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn states(&self) -> MutexGuard<'_, Vec<PathState>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters an authenticated connection. `None` if there are [`DATA_SESSIONS`] of its kind and direction already.
    pub(crate) fn enter(
        self: &Arc<Self>,
        path: usize,
        purpose: Purpose,
        dialled: bool,
        wire: Arc<WireHandle>,
    ) -> Option<SessionGuard> {
        let mut sessions = self.sessions();
        let same = sessions
            .values()
            .filter(|entry| entry.purpose == purpose && entry.dialled == dialled)
            .count();
        if purpose == Purpose::Data && same >= DATA_SESSIONS {
            return None;
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        sessions.insert(
            id,
            Entry {
                path,
                purpose,
                dialled,
                since: Instant::now(),
                wire,
                rtt: None,
            },
        );
        Some(SessionGuard {
            registry: self.clone(),
            id,
            path,
        })
    }

    /// Cuts the data connections of a link whose control connection has just died of silence.
    pub(crate) fn cut_data(&self, path: usize) {
        for entry in self.sessions().values() {
            if entry.path == path && entry.purpose == Purpose::Data {
                entry.wire.cut.cancel();
            }
        }
    }

    pub(crate) fn cut_all(&self) {
        for entry in self.sessions().values() {
            entry.wire.cut.cancel();
        }
    }

    pub(crate) fn listening(&self, path: usize, state: Result<(), String>) {
        self.states()[path].listening = state;
    }

    pub(crate) fn failed(&self, path: usize, error: &LinkError, accepted: bool) {
        if error.is_refusal(accepted) {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        self.states()[path].last_error = Some((error.to_string(), Instant::now()));
    }

    pub(crate) fn status(&self) -> LinkStatus {
        let (states, sessions) = (self.states(), self.sessions());
        let of_path = |index| {
            sessions
                .values()
                .filter(move |entry| entry.path == index)
                .map(Entry::status)
                .collect()
        };
        let paths = self.paths.iter().zip(states.iter()).enumerate();
        LinkStatus {
            paths: paths
                .map(|(index, (path, state))| PathStatus {
                    path: path.clone(),
                    listening: state.listening.clone(),
                    sessions: of_path(index),
                    last_error: state
                        .last_error
                        .as_ref()
                        .map(|(text, at)| (text.clone(), at.elapsed())),
                })
                .collect(),
            refused: self.refused.load(Ordering::Relaxed),
        }
    }
}

impl Entry {
    fn status(&self) -> SessionStatus {
        SessionStatus {
            purpose: self.purpose,
            dialled: self.dialled,
            remote: self.wire.remote,
            age: self.since.elapsed(),
            bytes_in: self.wire.bytes_in(),
            bytes_out: self.wire.bytes_out(),
            rtt: self.rtt,
        }
    }
}

/// Limits what strangers can make this node say.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    cloned: Mutex<Option<Instant>>,
    refused: Mutex<Option<Instant>>,
}

impl Reports {
    pub(crate) fn due(&self, event: &LinkEvent) -> bool {
        let last = match event {
            LinkEvent::Cloned { .. } => &self.cloned,
            _ => &self.refused,
        };
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        let due = last.is_none_or(|at| at.elapsed() >= REPORT_EVERY);
        if due {
            *last = Some(Instant::now());
        }
        due
    }
}
