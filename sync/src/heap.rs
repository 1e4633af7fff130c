//! Memory that is free: kept while there is work, given back at rest.

/// Free memory at the end of an arena that is kept, in bytes. The C library has an arena for each thread that allocates, and here few
/// do so at a time.
#[cfg(target_env = "gnu")]
const KEPT: libc::c_int = 4 << 20;
/// Allocations from here on are mapped by themselves, in bytes: frames of a stream are smaller.
#[cfg(target_env = "gnu")]
const MAPPED: libc::c_int = 2 << 20;

/// Has the allocator keep what is free for what is allocated next. Else the C library maps each larger buffer anew, and gives the end
/// of its heap back after each: a page fault for every page of every frame of a stream, a tenth of the work of a transfer.
/// To be called once, before there are threads.
pub fn keep() {
    // SAFETY: `mallopt` takes no pointer (mallopt(3)); it only changes when memory that is free is given back.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT);
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED);
    }
}

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
