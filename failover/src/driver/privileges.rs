//! What the loop's thread asks of the kernel so that a busy machine does not make its heartbeats late. None of it is needed:
//! where it is not permitted, the loop runs without.

use std::io;

/// Real-time priority of the loop: the lowest but one. Above everything ordinary, below the kernel's own threads.
const PRIORITY: i32 = 2;

/// Size of the loop's stack, in bytes: many times what it uses, and small enough to be locked.
pub(super) const STACK_BYTES: usize = 1 << 20;

/// Raises the calling thread and locks its stack into memory.
pub(super) fn raise() {
    match real_time() {
        Ok(()) => tracing::debug!(priority = PRIORITY, "the loop has real-time priority"),
        Err(error) => tracing::debug!(%error, "the loop has ordinary priority"),
    }
    if let Err(error) = lock_stack() {
        tracing::debug!(%error, "the loop's stack is not locked into memory");
    }
}

fn real_time() -> io::Result<()> {
    let parameters = libc::sched_param {
        sched_priority: PRIORITY,
    };
    // Programs that are started from here must not inherit it (sched(7)).
    let policy = libc::SCHED_RR | libc::SCHED_RESET_ON_FORK;
    // SAFETY: 0 is the calling thread, and the parameters live until the call returns.
    check(unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) })
}

fn lock_stack() -> io::Result<()> {
    let here = 0_u8;
    // The stack grows downwards: half of it below this frame, which is near its top, is surely the thread's own. The
    // kernel rounds to whole pages (mlock(2)).
    let top = &raw const here as usize;
    let bottom = top - STACK_BYTES / 2;
    // SAFETY: locks pages that are mapped, as part of this thread's stack, for the whole life of the thread; only those
    // in use are made present.
    check(unsafe {
        libc::mlock2(
            bottom as *const libc::c_void,
            top - bottom,
            libc::MLOCK_ONFAULT as libc::c_uint,
        )
    })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_raised_where_it_is_permitted_and_children_are_not() {
        std::thread::Builder::new()
            .stack_size(STACK_BYTES)
            .spawn(|| {
                raise();
                if real_time().is_err() {
                    return;
                }
                // SAFETY: asks for the policy of the calling thread.
                let own = unsafe { libc::sched_getscheduler(0) };
                assert_eq!(own & !libc::SCHED_RESET_ON_FORK, libc::SCHED_RR);
                let child = std::thread::spawn(|| {
                    // SAFETY: as above.
                    unsafe { libc::sched_getscheduler(0) }
                });
                assert_eq!(child.join().expect("does not panic"), libc::SCHED_OTHER);
            })
            .expect("a thread starts")
            .join()
            .expect("does not panic");
    }
}
