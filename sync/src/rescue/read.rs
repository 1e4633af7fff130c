//! Looking into the rescue.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::manifest::{self, Header, Item, Line};
use super::{MANIFEST, RescueError, check_name, file_name, open_set};
use crate::fault::Fault;
use crate::private::{self, Private};
use crate::stat::Stat;

/// Longest line that is read: a path and a state at their bounds, escaped and in hexadecimal.
const LINE_MAX: u64 = 4 << 20;

/// What one set holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Its first line.
    pub header: Header,
    /// Items that are still in it.
    pub items: u64,
    /// Bytes of the contents in it.
    pub bytes: u64,
}

/// All sets, in order of their names.
pub fn list(private: &Private) -> Result<Vec<Summary>, RescueError> {
    let mut names = private::names(private.rescue())?;
    names.sort();
    let mut found = Vec::new();
    for name in names {
        // A directory of somebody else's making is no set.
        let Ok(name) = String::from_utf8(name) else {
            continue;
        };
        if check_name(&name).is_ok() {
            found.push(summary(private, &name)?);
        }
    }
    Ok(found)
}

/// One set.
pub fn summary(private: &Private, set: &str) -> Result<Summary, RescueError> {
    let mut header = None;
    read_lines(private, set, &mut |line| {
        if let Line::Header(found) = line {
            header = Some(found);
        }
        ControlFlow::Break(())
    })?;
    // A crash can leave a set whose header was not written yet; nothing was moved into it.
    let header = header.unwrap_or_else(|| Header::unknown(set));
    let (mut items, mut bytes) = (0, 0);
    each_item(private, set, &mut |item| {
        items += 1;
        bytes = u64::saturating_add(bytes, item.size);
        ControlFlow::Continue(())
    })?;
    Ok(Summary {
        header,
        items,
        bytes,
    })
}

/// The items that are still in a set, in the order in which they were kept.
pub fn each_item(
    private: &Private,
    set: &str,
    each: &mut dyn FnMut(Item) -> ControlFlow<()>,
) -> Result<(), RescueError> {
    let mut dropped = std::collections::BTreeSet::new();
    read_lines(private, set, &mut |line| {
        if let Line::Dropped(numbers) = line {
            dropped.extend(numbers);
        }
        ControlFlow::Continue(())
    })?;
    let dir = open_set(private, set)?;
    read_lines(private, set, &mut |line| match line {
        // A line whose file is missing was written for a move that did not happen.
        Line::Item(item)
            if !dropped.contains(&item.number) && (!item.taken || exists(&dir, item.number)) =>
        {
            each(item)
        }
        _ => ControlFlow::Continue(()),
    })
}

fn exists(dir: &OwnedFd, number: u64) -> bool {
    let name = file_name(number);
    Stat::read(dir.as_fd(), manifest::os(&name), AtFlags::SYMLINK_NOFOLLOW).is_ok()
}

/// Opens the content of an item. Only for regular files.
pub fn open(private: &Private, set: &str, number: u64) -> Result<File, RescueError> {
    let dir = open_set(private, set)?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let name = file_name(number);
    let unknown = || RescueError::Unknown(format!("file {number} in set {set}"));
    match rustix::fs::openat(&dir, manifest::os(&name), flags, Mode::empty()) {
        Ok(fd) if Stat::of_fd(fd.as_fd())?.is_file() => Ok(File::from(fd)),
        Ok(_) | Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => Err(unknown()),
        Err(errno) => Err(Fault::os("open rescued file", errno).into()),
    }
}

/// Reads a manifest line by line. What a crash cut is passed over.
pub(super) fn read_lines(
    private: &Private,
    set: &str,
    each: &mut dyn FnMut(Line) -> ControlFlow<()>,
) -> Result<(), RescueError> {
    let dir = open_set(private, set)?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(&dir, manifest::os(MANIFEST), flags, Mode::empty()) {
        Ok(fd) => File::from(fd),
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(Fault::os("open manifest", errno).into()),
    };
    let mut reader = BufReader::new(file);
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        let mut limited = std::io::Read::take(&mut reader, LINE_MAX);
        let got = limited
            .read_until(b'\n', &mut bytes)
            .map_err(|e| Fault::io("read manifest", &e))?;
        if got == 0 {
            return Ok(());
        }
        if got as u64 == LINE_MAX {
            return Err(RescueError::Damaged(
                set.to_owned(),
                "a line is too long".to_owned(),
            ));
        }
        let whole = bytes.last() == Some(&b'\n');
        match Line::parse(&bytes) {
            Ok(Some(line)) if whole => {
                if each(line).is_break() {
                    return Ok(());
                }
            }
            Ok(_) => {}
            // A line that was cut, and then followed by the next one after a restart, cannot be told from damage; the
            // files it speaks of were not moved yet.
            Err(why) => tracing::warn!(set, why, "a line of a rescue manifest is not readable"),
        }
    }
}
