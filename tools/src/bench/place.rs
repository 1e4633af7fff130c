//! Where it is measured: two hosts, their disks, and the directories on them.
//!
//! Nothing is deleted between runs, as ext4 makes files slowly for a while after many were deleted: each run gets
//! new directories. The disks go as a whole at the end.

use super::error::BenchError;
use rustix::fs::{Mode, OFlags, open, syncfs};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use tandem_lab::pair::{Node, Pair, PairSpec};
use tandem_lab::{Disk, own_path};
use tokio::runtime::Runtime;

/// The private directory of a tree, which belongs to Tandem and is not compared.
pub(super) const PRIVATE: &str = ".tandem";
/// Size of a disk's image. It is sparse: only what is written takes room on the real disk.
const IMAGE: u64 = 200 << 30;
/// Inodes of a disk besides those of the data: state, staging, logs.
const INODES_BESIDES: u64 = 100_000;
/// Index, journals, logs and images' own structures, of both hosts.
const ROOM_BESIDES: u64 = 1 << 30;
/// Only what the agents need: nothing but the tree is watched.
const BODY: &str = r#"
[[tree]]
name = "www"
path = "/srv/www"

[[tree]]
name = "in-place"
path = "/srv/in-place"
update = "in-place"
"#;
/// Root of the tree whose large files are changed in place.
pub(super) const IN_PLACE: &str = "/srv/in-place";

/// The two hosts. The first is the source, the second the other side.
pub(super) struct Place {
    pub(super) pair: Pair,
    /// Calls to the agents are made here.
    pub(super) runtime: Runtime,
    /// What the disks are, for the reader of the result.
    pub(super) disks: &'static str,
    aside: AtomicU32,
}

/// How much a scene puts on the disks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Needs {
    /// Files and directories on the fuller one of the disks.
    pub(super) inodes: u64,
    /// Bytes on both disks together.
    pub(super) bytes: u64,
}

impl Place {
    /// Makes and boots the hosts. The disks are images of file systems where loop devices are allowed, else
    /// directories in `dir`.
    pub(super) fn new(dir: &Path, needs: Needs) -> Result<Self, BenchError> {
        let free = rustix::fs::statvfs(dir)
            .map(|fs| fs.f_bavail.saturating_mul(fs.f_frsize))
            .map_err(|e| BenchError::io(format!("look at {}", dir.display()))(e.into()))?;
        let bytes = needs.bytes + ROOM_BESIDES;
        if free < bytes {
            return Err(BenchError::Broken(format!(
                "no room in {}: {} MB are free, {} MB are needed; name another place with --dir, or fewer runs",
                dir.display(),
                free / 1_000_000,
                bytes / 1_000_000
            )));
        }
        let mut spec = PairSpec::new(own_path().map_err(BenchError::io("find this program"))?);
        spec.parent = dir.to_path_buf();
        spec.body = BODY.into();
        spec.disk = Disk::Image {
            bytes: IMAGE,
            inodes: needs.inodes + INODES_BESIDES,
        };
        let (pair, disks) = match Pair::new(spec.clone()) {
            Ok(pair) => (pair, "an ext4 of its own for each host, on loop devices"),
            Err(e) => {
                eprintln!(
                    "No file system of its own for each host ({e}): directories of one instead."
                );
                spec.disk = Disk::Directory;
                (Pair::new(spec)?, "one file system for both hosts")
            }
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(BenchError::io("start a runtime"))?;
        for node in &pair.nodes {
            make(&node.host.outside_path(IN_PLACE))?;
        }
        Ok(Self {
            pair,
            runtime,
            disks,
            aside: AtomicU32::new(0),
        })
    }

    pub(super) fn node(&self, n: usize) -> &Node {
        &self.pair.nodes[n]
    }

    /// The root of the tree that is replicated.
    pub(super) fn tree(&self, n: usize) -> PathBuf {
        self.node(n).www()
    }

    /// A pair that never met, with the data of the first host: state and the other side's tree are put aside. The
    /// agents must be stopped.
    pub(super) fn renew(&self) -> Result<(), BenchError> {
        for (n, node) in self.pair.nodes.iter().enumerate() {
            let aside = self.node(n).host.outside_path(self.new_directory("aside"));
            make(&aside)?;
            let state = node.host.outside_path("/var/lib/tandem");
            let entries = fs::read_dir(&state).map_err(BenchError::io("read the agent's state"))?;
            for entry in entries.flatten() {
                move_away(&entry.path(), &aside.join(entry.file_name()))?;
            }
            let in_place = node.host.outside_path(IN_PLACE);
            move_away(&in_place, &aside.join("in-place"))?;
            make(&in_place)?;
            if n == 0 {
                move_away(&self.tree(n).join(PRIVATE), &aside.join(PRIVATE))?;
            } else {
                move_away(&self.tree(n), &aside.join("tree"))?;
                make(&self.tree(n))?;
            }
        }
        Ok(())
    }

    /// A name in `/srv` that nothing has yet.
    pub(super) fn new_directory(&self, what: &str) -> String {
        let n = self.aside.fetch_add(1, Ordering::Relaxed);
        format!("/srv/{what}-{n}")
    }

    /// Brings everything that was written to both disks, so that no run pays for the one before.
    pub(super) fn settle(&self) -> Result<(), BenchError> {
        for node in &self.pair.nodes {
            let disk = node.host.outside_path("/srv");
            open(
                &disk,
                OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
                Mode::empty(),
            )
            .and_then(syncfs)
            .map_err(|e| BenchError::io("sync the disks")(e.into()))?;
        }
        Ok(())
    }
}

fn make(dir: &Path) -> Result<(), BenchError> {
    fs::create_dir_all(dir).map_err(BenchError::io(format!("make {}", dir.display())))
}

fn move_away(from: &Path, to: &Path) -> Result<(), BenchError> {
    match fs::rename(from, to) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(BenchError::io(format!("put {} aside", from.display()))(e))
        }
        _ => Ok(()),
    }
}
