//! Ctrl-C and SIGTERM: demo and benchmarks are told when to stop, and take everything down in order.

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use std::sync::atomic::{AtomicBool, Ordering};

/// Ctrl-C or SIGTERM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("interrupted")]
pub(crate) struct Interrupted;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Begins to watch for signals. By handlers and not by a mask: programs that are started would inherit a mask, and
/// agents could not be stopped.
pub(crate) fn watch() {
    let action = SigAction::new(
        SigHandler::Handler(interrupted),
        SaFlags::SA_RESTART,
        SigSet::empty(),
    );
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: the handler does only what signal-safety(7) allows. Where it cannot be set, the default action ends
        // the process, and the lab's janitor cleans up.
        let _ = unsafe { sigaction(signal, &action) };
    }
}

extern "C" fn interrupted(_signal: libc::c_int) {
    if INTERRUPTED.swap(true, Ordering::Relaxed) {
        // The second time: at once. The hosts die with this process, the janitor removes the rest.
        // SAFETY: _exit is async-signal-safe and does not return.
        unsafe { libc::_exit(130) };
    }
}

/// As if the user had pressed Ctrl-C.
pub(crate) fn interrupt() {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// An error once the user wants the end. Every wait asks.
pub(crate) fn check() -> Result<(), Interrupted> {
    if INTERRUPTED.load(Ordering::Relaxed) {
        Err(Interrupted)
    } else {
        Ok(())
    }
}
