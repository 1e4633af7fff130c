//! Ctrl-C and SIGTERM: the story is told when to stop, and takes everything down in order.

use super::DemoError;
use nix::sys::signal::{SigSet, Signal};
use std::sync::atomic::{AtomicBool, Ordering};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Begins to watch for signals. Must run before other threads exist, which inherit the mask; programs that are
/// started get an empty one.
pub(super) fn watch() {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    if signals.thread_block().is_err() {
        // The default action ends the process; the lab's janitor cleans up then.
        return;
    }
    std::thread::spawn(move || {
        while signals.wait().is_ok() {
            if INTERRUPTED.swap(true, Ordering::Relaxed) {
                // The second time: at once. The hosts die with this process, the janitor removes the rest.
                std::process::exit(130);
            }
        }
    });
}

/// As if the user had pressed Ctrl-C.
pub(super) fn interrupt() {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// An error once the user wants the end. Every wait of the story asks.
pub(super) fn check() -> Result<(), DemoError> {
    if INTERRUPTED.load(Ordering::Relaxed) {
        Err(DemoError::Interrupted)
    } else {
        Ok(())
    }
}
