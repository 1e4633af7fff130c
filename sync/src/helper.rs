//! Threads that help with a work. Where the system has none left, who asked does the work alone: `std` would panic, and with the
//! worker everything would end.

use std::thread::{Builder, Scope, ScopedJoinHandle};

/// A thread that does `work` beside the caller. `None`: the system refuses it just now.
pub(crate) fn helper<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    work: impl FnOnce() -> T + Send + 'scope,
) -> Option<ScopedJoinHandle<'scope, T>> {
    if is_refused() {
        return None;
    }
    Builder::new().spawn_scoped(scope, work).ok()
}

#[cfg(not(test))]
fn is_refused() -> bool {
    false
}

#[cfg(test)]
thread_local! {
    static REFUSED: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

#[cfg(test)]
fn is_refused() -> bool {
    REFUSED.get()
}

/// From here on the calling thread finds no helper.
#[cfg(test)]
pub(crate) fn refuse() {
    REFUSED.set(true);
}
