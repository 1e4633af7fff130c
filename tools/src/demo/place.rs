//! Where the disks of the two nodes are: in memory when there is certainly enough, else on a disk of this machine.

use super::{DemoError, MAX_BYTES};
use crate::text::size;
use std::fs;
use std::path::{Path, PathBuf};
use tandem_lab::Disk;

/// Available memory for disks in memory: both copies, as much again for what is cached, and the rest of the machine.
const MEMORY: u64 = 6 * MAX_BYTES;
/// Room that a node needs besides its data: index, journals, logs.
const BESIDES: u64 = 128_000_000;
/// statfs(2): the type of a file system in memory.
const TMPFS_MAGIC: u64 = 0x0102_1994;

/// Where the disks are, and the directory in which the work directory is made.
pub(super) struct Place {
    pub(super) disk: Disk,
    pub(super) parent: PathBuf,
}

/// Disks in memory when that is certainly enough: then the times are those of Tandem, and not of whatever disk is
/// here. Otherwise `TMPDIR`, or of `/tmp` and `/var/tmp` the one on a disk with more room.
pub(super) fn choose(full: bool) -> Place {
    if !full && available_memory() >= MEMORY {
        return Place {
            disk: Disk::Memory,
            parent: std::env::temp_dir(),
        };
    }
    let parent = if std::env::var_os("TMPDIR").is_some() {
        std::env::temp_dir()
    } else {
        let mut candidates = [PathBuf::from("/tmp"), PathBuf::from("/var/tmp")];
        candidates.sort_by_key(|dir| if in_memory(dir) { 0 } else { free(dir) });
        let [_, best] = candidates;
        best
    };
    Place {
        disk: Disk::Directory,
        parent,
    }
}

/// What helps when there is no room.
pub(super) const MORE_ROOM: &str = "name a smaller directory with --tree, or in the environment variable TMPDIR one \
                                    that has more room";

/// After the first node has its data: an error when the second one's copy finds no room on `disk`. Tandem would wait
/// for room, and nobody makes any here.
pub(super) fn room_for_second(disk: &Path, bytes: u64) -> Result<(), DemoError> {
    let (needed, free) = (bytes + bytes / 10 + BESIDES, free(disk));
    if free >= needed {
        return Ok(());
    }
    Err(DemoError::Broken(format!(
        "no room for the second node: {} are free where its disk is, {} are needed; {MORE_ROOM}",
        size(free),
        size(needed)
    )))
}

/// Bytes that an unprivileged process may still write below a directory; 0 when it is not there.
fn free(dir: &Path) -> u64 {
    rustix::fs::statvfs(dir).map_or(0, |fs| fs.f_bavail.saturating_mul(fs.f_frsize))
}

fn in_memory(dir: &Path) -> bool {
    rustix::fs::statfs(dir).is_ok_and(|fs| u64::try_from(fs.f_type) == Ok(TMPFS_MAGIC))
}

/// What the machine has, or the control group of this process if that is less (a container).
fn available_memory() -> u64 {
    let info = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let machine = info
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))
        .and_then(|rest| rest.trim().strip_suffix(" kB"))
        .and_then(|kib| kib.trim().parse::<u64>().ok())
        .map_or(0, |kib| kib * 1024);
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"));
    let limit = own.and_then(|own| group_memory(Path::new("/sys/fs/cgroup"), Path::new(own)));
    limit.map_or(machine, |limit| limit.min(machine))
}

/// What the tightest of a control group and those above it leaves (cgroup v2, "memory.max"); none without a limit.
fn group_memory(root: &Path, own: &Path) -> Option<u64> {
    let number = |dir: &Path, file: &str| {
        let text = fs::read_to_string(dir.join(file)).ok()?;
        text.trim().parse::<u64>().ok()
    };
    own.ancestors()
        .filter_map(|group| {
            let dir = root.join(group);
            let used = number(&dir, "memory.current").unwrap_or(0);
            Some(number(&dir, "memory.max")?.saturating_sub(used))
        })
        .min()
}

#[cfg(test)]
mod tests {
    use super::group_memory;
    use std::fs;
    use std::path::Path;

    #[test]
    fn the_tightest_control_group_counts() {
        let root = tempfile::tempdir().expect("a directory");
        let inner = root.path().join("a/b");
        fs::create_dir_all(&inner).expect("made");
        assert_eq!(group_memory(root.path(), Path::new("a/b")), None);
        fs::write(inner.join("memory.max"), "max\n").expect("written");
        fs::write(root.path().join("a/memory.max"), "5000\n").expect("written");
        fs::write(root.path().join("a/memory.current"), "1200\n").expect("written");
        assert_eq!(group_memory(root.path(), Path::new("a/b")), Some(3800));
        fs::write(inner.join("memory.max"), "900\n").expect("written");
        assert_eq!(group_memory(root.path(), Path::new("a/b")), Some(900));
    }
}
