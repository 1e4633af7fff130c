//! Writes that cause no events: through a memory map, and by libaio.

use rustix::mm::{MapFlags, MsyncFlags, ProtFlags};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;

/// A file that is mapped to be written.
pub struct Map {
    at: *mut u8,
    len: usize,
}

// SAFETY: the mapping belongs to no thread; whoever holds this is the only one to use the pointer.
unsafe impl Send for Map {}

impl Map {
    pub fn of(path: &Path) -> Map {
        let file = File::options().read(true).write(true).open(path).unwrap();
        let len = usize::try_from(file.metadata().unwrap().len()).unwrap();
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh mapping at an address of the kernel's choice overlaps nothing of ours.
        let at = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                len,
                protection,
                MapFlags::SHARED,
                &file,
                0,
            )
        };
        Map {
            at: at.unwrap().cast(),
            len,
        }
    }

    /// Stores bytes. Nothing tells the kernel but the fault of a page that was clean.
    pub fn store(&mut self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.len);
        // SAFETY: within the mapping, which lives as long as `self` and is not shared within this process.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.at.add(offset), bytes.len()) }
    }

    /// msync(2), as such writers do.
    pub fn sync(&self) {
        // SAFETY: exactly the mapping.
        unsafe { rustix::mm::msync(self.at.cast(), self.len, MsyncFlags::SYNC) }.unwrap();
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping, and nothing of it is used afterwards.
        unsafe { rustix::mm::munmap(self.at.cast(), self.len) }.unwrap();
    }
}

/// io_submit(2)'s request: `struct iocb` of linux/aio_abi.h on a little-endian machine.
#[repr(C)]
#[derive(Default)]
struct Iocb {
    data: u64,
    key: u32,
    rw_flags: i32,
    opcode: u16,
    priority: i16,
    fd: u32,
    buffer: u64,
    bytes: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    event_fd: u32,
}

/// `struct io_event` of linux/aio_abi.h.
#[repr(C)]
#[derive(Default)]
struct IoEvent {
    data: u64,
    object: u64,
    result: i64,
    result2: i64,
}

/// IOCB_CMD_PWRITE of linux/aio_abi.h.
const PWRITE: u16 = 1;

/// What O_DIRECT can write: aligned to any disk's blocks.
#[repr(align(4096))]
pub struct Block(pub [u8; 4096]);

/// Writes a block by io_submit(2), as libaio does.
pub fn aio_write(file: &File, offset: i64, block: &Block) {
    let mut context: u64 = 0;
    let mut request = Iocb {
        opcode: PWRITE,
        fd: u32::try_from(file.as_raw_fd()).unwrap(),
        buffer: block.0.as_ptr() as u64,
        bytes: block.0.len() as u64,
        offset,
        ..Iocb::default()
    };
    let mut requests = [&raw mut request];
    let mut event = IoEvent::default();
    // SAFETY: all pointers are to live values of the kernel's layouts; the one request is complete before they end.
    unsafe {
        assert_eq!(libc::syscall(libc::SYS_io_setup, 1, &raw mut context), 0);
        let submitted = libc::syscall(libc::SYS_io_submit, context, 1, requests.as_mut_ptr());
        assert_eq!(submitted, 1, "{}", std::io::Error::last_os_error());
        let none = std::ptr::null_mut::<libc::timespec>();
        let done = libc::syscall(libc::SYS_io_getevents, context, 1, 1, &raw mut event, none);
        assert_eq!((done, event.result), (1, 4096));
        assert_eq!(libc::syscall(libc::SYS_io_destroy, context), 0);
    }
}
