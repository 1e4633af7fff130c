//! Damage that a disk does, and tells nobody.

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::fs;
use std::path::Path;

/// Changes a byte so that neither size nor times show it: memory file systems do not follow a store through a mapping.
pub fn damage(path: &Path, at: usize) {
    let file = fs::File::options().read(true).write(true).open(path);
    let file = file.expect("opened");
    let length = at + 1;
    // SAFETY: a new shared mapping of a file that is longer than `length`; nothing else in this process refers to it, and
    // it is unmapped before the function ends.
    unsafe {
        let flags = ProtFlags::READ | ProtFlags::WRITE;
        let map = mmap(
            std::ptr::null_mut(),
            length,
            flags,
            MapFlags::SHARED,
            &file,
            0,
        );
        let map = map.expect("mapped");
        let byte = map.cast::<u8>().add(at);
        *byte ^= 1;
        munmap(map, length).expect("unmapped");
    }
}
