//! Memory that is free goes back to the system.

/// Gives back what the allocator keeps of freed memory. A first copy, or a scan, takes tens of megabytes for a while; the C
/// library keeps them, in one arena for each thread that was busy, until the process ends. Takes milliseconds, so only for
/// a moment in which nothing happens.
pub(crate) fn give_back() {
    // SAFETY: `malloc_trim` takes no pointer and may be called at any time from any thread (malloc_trim(3): MT-Safe). It
    // touches free memory only.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}
