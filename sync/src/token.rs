//! The role token: the right to change the trees of this node.
//!
//! Applying holds a [`Guard`]; a takeover revokes the token and waits, bounded, for the guards in flight
//! (invariant 2 of the design). A guard knows that it was revoked, so a long commit stops between two paths.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The right to change the trees. Cheap to clone; all clones are one token. A new token is not granted.
#[derive(Debug, Clone, Default)]
pub struct RoleToken {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<TokenState>,
    released: Condvar,
}

#[derive(Debug, Default)]
struct TokenState {
    granted: bool,
    /// Counts grants, so that a guard from before a revocation never becomes valid again.
    generation: u64,
    in_flight: usize,
}

impl Shared {
    /// The state is three plain numbers, each write whole: a panic elsewhere cannot leave it half changed.
    fn lock(&self) -> MutexGuard<'_, TokenState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Held while an applied change becomes visible. Dropping it releases the token.
#[derive(Debug)]
pub struct Guard {
    shared: Arc<Shared>,
    generation: u64,
}

impl RoleToken {
    /// A token that nobody may hold until [`RoleToken::grant`].
    pub fn new() -> RoleToken {
        RoleToken::default()
    }

    /// Allows holding. Guards from before the last revocation stay revoked.
    pub fn grant(&self) {
        let mut state = self.shared.lock();
        if !state.granted {
            state.granted = true;
            state.generation += 1;
        }
    }

    /// Takes the token for one commit; `None` when it is revoked.
    pub fn hold(&self) -> Option<Guard> {
        let mut state = self.shared.lock();
        if !state.granted {
            return None;
        }
        state.in_flight += 1;
        Some(Guard {
            shared: Arc::clone(&self.shared),
            generation: state.generation,
        })
    }

    /// Whether [`RoleToken::hold`] would succeed now.
    pub fn is_granted(&self) -> bool {
        self.shared.lock().granted
    }

    /// Refuses new guards at once and waits up to `within` for those in flight. True when none is left: from
    /// then on nothing is changed. False after the time: a guard is still held, revoked, and its commit stops at its
    /// next path.
    pub fn revoke(&self, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        let mut state = self.shared.lock();
        state.granted = false;
        while state.in_flight > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self
                .shared
                .released
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        true
    }
}

impl Guard {
    /// Whether the right still stands. Asked before each visible change.
    pub fn is_valid(&self) -> bool {
        let state = self.shared.lock();
        state.granted && state.generation == self.generation
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.in_flight -= 1;
        drop(state);
        self.shared.released.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn a_new_token_is_not_granted() {
        let token = RoleToken::new();
        assert!(token.hold().is_none());
        token.grant();
        assert!(token.hold().is_some());
    }

    #[test]
    fn revoke_waits_for_the_guard_in_flight_and_is_bounded() {
        let token = RoleToken::new();
        token.grant();
        let guard = token.hold().expect("granted above");
        assert!(!token.revoke(Duration::from_millis(20)), "still held");
        assert!(token.hold().is_none(), "revoked refuses new guards");
        assert!(!guard.is_valid());
        let (started, wait_started) = mpsc::channel();
        let waiter = {
            let token = token.clone();
            std::thread::spawn(move || {
                started.send(()).expect("the test waits");
                token.revoke(Duration::from_secs(30))
            })
        };
        wait_started.recv().expect("the thread sends first");
        drop(guard);
        assert!(waiter.join().expect("no panic"));
    }

    #[test]
    fn an_old_guard_stays_revoked_after_a_new_grant() {
        let token = RoleToken::new();
        token.grant();
        let old = token.hold().expect("granted");
        assert!(!token.revoke(Duration::ZERO));
        token.grant();
        assert!(!old.is_valid());
        assert!(token.hold().expect("granted again").is_valid());
    }

    #[test]
    fn a_panic_with_a_guard_releases_it() {
        let token = RoleToken::new();
        token.grant();
        let inside = token.clone();
        let result = std::thread::spawn(move || {
            let _guard = inside.hold().expect("granted");
            panic!("on purpose");
        })
        .join();
        assert!(result.is_err());
        assert!(token.revoke(Duration::ZERO));
    }
}
