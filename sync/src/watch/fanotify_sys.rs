//! The system calls of fanotify and file handles, and the reading of their records. The records are parsed by
//! bounds-checked slices, so that the only unsafe lines are the calls themselves.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

pub(super) const FAN_ATTRIB: u64 = libc::FAN_ATTRIB;
pub(super) const FAN_CLOSE_WRITE: u64 = libc::FAN_CLOSE_WRITE;
pub(super) const FAN_CREATE: u64 = libc::FAN_CREATE;
pub(super) const FAN_DELETE: u64 = libc::FAN_DELETE;
pub(super) const FAN_MODIFY: u64 = libc::FAN_MODIFY;
pub(super) const FAN_MOVED_FROM: u64 = libc::FAN_MOVED_FROM;
pub(super) const FAN_MOVED_TO: u64 = libc::FAN_MOVED_TO;
pub(super) const FAN_RENAME: u64 = libc::FAN_RENAME;
pub(super) const FAN_ONDIR: u64 = libc::FAN_ONDIR;
pub(super) const FAN_Q_OVERFLOW: u64 = libc::FAN_Q_OVERFLOW;

const METADATA_LEN: usize = 24;
const INFO_HEADER_LEN: usize = 4;
const FSID_LEN: usize = 8;
const HANDLE_HEADER_LEN: usize = 8;
/// `MAX_HANDLE_SZ` of the kernel.
const HANDLE_MAX: usize = 128;

/// A new notification group that reports directory handles and names, and which thread did it. Needs `CAP_SYS_ADMIN`.
pub(super) fn init() -> Result<OwnedFd, Errno> {
    // The kernel's queue is not limited: the reader never waits for the consumer, so the queue is only as long as the
    // reader is late.
    let flags = libc::FAN_CLASS_NOTIF
        | libc::FAN_CLOEXEC
        | libc::FAN_NONBLOCK
        | libc::FAN_REPORT_DFID_NAME
        | libc::FAN_REPORT_TID
        | libc::FAN_UNLIMITED_QUEUE;
    let event_flags = libc::O_RDONLY | libc::O_CLOEXEC;
    // SAFETY: no pointers are passed.
    let fd = unsafe { libc::fanotify_init(flags, event_flags as libc::c_uint) };
    if fd < 0 {
        return Err(last_errno());
    }
    // SAFETY: the call returned a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Marks the whole file system that `dir` lies on.
pub(super) fn mark_filesystem(
    group: BorrowedFd<'_>,
    dir: BorrowedFd<'_>,
    mask: u64,
) -> Result<(), Errno> {
    let flags = libc::FAN_MARK_ADD | libc::FAN_MARK_FILESYSTEM;
    // SAFETY: both descriptors are open for the time of the call (borrowed); a null path means the descriptor itself.
    let result = unsafe {
        libc::fanotify_mark(
            group.as_raw_fd(),
            flags,
            mask,
            dir.as_raw_fd(),
            std::ptr::null(),
        )
    };
    if result < 0 {
        Err(last_errno())
    } else {
        Ok(())
    }
}

/// Opens the directory of a handle as a bare reference. `mount` is any directory on its mount. `ESTALE` if it is gone.
pub(super) fn open_by_handle(mount: BorrowedFd<'_>, handle: &[u8]) -> Result<OwnedFd, Errno> {
    let kernel_len = handle.len().saturating_sub(HANDLE_HEADER_LEN);
    let announced = read_u32(handle, 0).ok_or(Errno::INVAL)? as usize;
    if announced != kernel_len || kernel_len > HANDLE_MAX {
        return Err(Errno::INVAL);
    }
    // `struct file_handle` needs the alignment of an int.
    let mut aligned = [0u32; (HANDLE_HEADER_LEN + HANDLE_MAX) / 4];
    for (word, bytes) in aligned.iter_mut().zip(handle.chunks(4)) {
        let mut whole = [0u8; 4];
        whole[..bytes.len()].copy_from_slice(bytes);
        *word = u32::from_ne_bytes(whole);
    }
    let flags = libc::O_PATH | libc::O_CLOEXEC;
    // SAFETY: `aligned` is as aligned as `struct file_handle` and holds its header and the `handle_bytes` (at most
    // HANDLE_MAX, checked above) that follow it; the kernel only reads them. The descriptor is open for the call.
    let fd =
        unsafe { libc::open_by_handle_at(mount.as_raw_fd(), aligned.as_mut_ptr().cast(), flags) };
    if fd < 0 {
        return Err(last_errno());
    }
    // SAFETY: the call returned a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn last_errno() -> Errno {
    let raw = std::io::Error::last_os_error().raw_os_error();
    Errno::from_raw_os_error(raw.unwrap_or(libc::EIO))
}

/// A name in a directory, as a record tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NameRecord<'b> {
    /// The old name of a rename.
    pub(super) old: bool,
    /// File system id.
    pub(super) fsid: [u8; FSID_LEN],
    /// The directory's handle: `struct file_handle` with its bytes.
    pub(super) handle: &'b [u8],
    /// The name; `.` for the directory itself.
    pub(super) name: &'b [u8],
}

/// One event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RawEvent<'b> {
    /// What happened, several bits at once.
    pub(super) mask: u64,
    /// The thread that did it; 0 if it is not visible from here.
    pub(super) thread: i32,
    info: &'b [u8],
}

/// The events of a buffer that was read. Ends at the first one that does not fit: `Err(())`.
pub(super) fn events(mut buffer: &[u8]) -> impl Iterator<Item = Result<RawEvent<'_>, ()>> {
    std::iter::from_fn(move || {
        if buffer.is_empty() {
            return None;
        }
        let parsed = parse_event(buffer);
        buffer = parsed.map_or(&[], |(_, rest)| rest);
        Some(parsed.map(|(event, _)| event).ok_or(()))
    })
}

fn parse_event(buffer: &[u8]) -> Option<(RawEvent<'_>, &[u8])> {
    // struct fanotify_event_metadata: event_len u32, vers u8, reserved u8, metadata_len u16, mask u64, fd i32, pid i32 (the thread, with FAN_REPORT_TID).
    let length = read_u32(buffer, 0)? as usize;
    let version = *buffer.get(4)?;
    let metadata = usize::from(read_u16(buffer, 6)?);
    if version != libc::FANOTIFY_METADATA_VERSION || metadata < METADATA_LEN || metadata > length {
        return None;
    }
    let event = RawEvent {
        mask: u64::from_ne_bytes(buffer.get(8..16)?.try_into().ok()?),
        thread: i32::from_ne_bytes(buffer.get(20..24)?.try_into().ok()?),
        info: buffer.get(metadata..length)?,
    };
    Some((event, &buffer[length..]))
}

impl<'b> RawEvent<'b> {
    /// The names in the event's records; records of other types are passed over.
    pub(super) fn names(&self) -> impl Iterator<Item = NameRecord<'b>> + use<'b> {
        let mut rest = self.info;
        std::iter::from_fn(move || {
            loop {
                let (kind, record, after) = split_record(rest)?;
                rest = after;
                if let Some(found) = parse_name(kind, record) {
                    return Some(found);
                }
            }
        })
    }
}

/// struct fanotify_event_info_header: info_type u8, pad u8, len u16.
fn split_record(info: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let kind = *info.first()?;
    let length = usize::from(read_u16(info, 2)?);
    let record = info.get(INFO_HEADER_LEN..length)?;
    Some((kind, record, &info[length..]))
}

fn parse_name(kind: u8, record: &[u8]) -> Option<NameRecord<'_>> {
    let old = match kind {
        libc::FAN_EVENT_INFO_TYPE_OLD_DFID_NAME => true,
        libc::FAN_EVENT_INFO_TYPE_DFID_NAME | libc::FAN_EVENT_INFO_TYPE_NEW_DFID_NAME => false,
        _ => return None,
    };
    let fsid = record.get(..FSID_LEN)?.try_into().ok()?;
    let after = &record[FSID_LEN..];
    let handle_len = HANDLE_HEADER_LEN + read_u32(after, 0)? as usize;
    let handle = after.get(..handle_len)?;
    let name = after[handle_len..].split(|b| *b == 0).next()?;
    Some(NameRecord {
        old,
        fsid,
        handle,
        name,
    })
}

fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..at + 4)?;
    Some(u32::from_ne_bytes(field.try_into().ok()?))
}

fn read_u16(bytes: &[u8], at: usize) -> Option<u16> {
    let field = bytes.get(at..at + 2)?;
    Some(u16::from_ne_bytes(field.try_into().ok()?))
}

/// An event as the kernel writes it: a record of each kind with its name, which ends with a zero.
#[cfg(any(test, feature = "fuzz"))]
pub(super) fn sample(mask: u64, names: &[(u8, &[u8])]) -> Vec<u8> {
    let mut info = Vec::new();
    for (kind, name) in names {
        let mut record = vec![1, 2, 3, 4, 5, 6, 7, 8];
        record.extend(8u32.to_ne_bytes());
        record.extend(1i32.to_ne_bytes());
        record.extend([*kind; 8]);
        record.extend(*name);
        record.push(0);
        let length = u16::try_from(record.len() + INFO_HEADER_LEN).expect("short");
        info.extend([*kind, 0]);
        info.extend(length.to_ne_bytes());
        info.extend(record);
    }
    let length = u32::try_from(info.len() + METADATA_LEN).expect("short");
    let mut event = length.to_ne_bytes().to_vec();
    event.extend([libc::FANOTIFY_METADATA_VERSION, 0]);
    event.extend((METADATA_LEN as u16).to_ne_bytes());
    event.extend(mask.to_ne_bytes());
    event.extend((-1i32).to_ne_bytes());
    event.extend(42i32.to_ne_bytes());
    event.extend(info);
    event
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rename() -> Vec<u8> {
        sample(FAN_RENAME, &[(10, b"old"), (12, b"newname")])
    }

    #[test]
    fn both_names_of_a_rename_are_read() {
        let mut bytes = rename();
        bytes.extend(rename());
        let all: Vec<_> = events(&bytes).collect::<Result<_, _>>().expect("whole");
        assert_eq!(all.len(), 2);
        assert_eq!((all[1].mask, all[1].thread), (FAN_RENAME, 42));
        let names: Vec<_> = all[1].names().collect();
        assert_eq!(names.len(), 2);
        assert_eq!((names[0].old, names[0].name), (true, &b"old"[..]));
        assert_eq!((names[1].old, names[1].name), (false, &b"newname"[..]));
        assert_eq!(names[1].handle.len(), 16);
        assert_eq!(names[0].fsid, [1, 2, 3, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn a_cut_event_is_an_error_and_ends() {
        let bytes = rename();
        for cut in 1..bytes.len() {
            let got: Vec<_> = events(&bytes[..cut]).collect();
            assert_eq!(got, [Err(())], "{cut}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_loop(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), at in 0usize..200, with: u8) {
            for event in events(&bytes).flatten() {
                prop_assert!(event.names().count() <= bytes.len());
            }
            bytes = rename();
            let at = at % bytes.len();
            bytes[at] = with;
            for event in events(&bytes).flatten() {
                prop_assert!(event.names().count() <= bytes.len());
            }
        }
    }
}
