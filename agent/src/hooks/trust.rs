//! Which programs the agent may run as root: only those that nobody else can write.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Why a program is not run.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TrustError {
    /// The argument vector is empty.
    #[error("no program given")]
    Empty,
    /// No such program in the search path.
    #[error("{0}: no such program in {path}", path = super::SEARCH_PATH)]
    NotFound(String),
    /// It has a slash, but does not begin with one.
    #[error("{0}: not an absolute path")]
    Relative(String),
    /// It cannot be looked at.
    #[error("{path}: {reason}")]
    Unreadable {
        /// The path.
        path: PathBuf,
        /// The system's words.
        reason: String,
    },
    /// It is not a regular file with an execute bit.
    #[error("{0}: not an executable file")]
    NotExecutable(PathBuf),
    /// Somebody else could replace or change it.
    #[error("{path}: {why}; the agent runs only what nobody else can write")]
    WritableByOthers {
        /// The file or a directory above it.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
}

/// Finds the program of an argument vector and makes sure that only root and this agent's user can change it.
///
/// Checked are the file and every directory above it, both by the name given and by the name with all symbolic
/// links resolved. A sticky directory such as /tmp is accepted (others cannot replace our files in it).
pub fn resolve(program: &str) -> Result<PathBuf, TrustError> {
    let found = find(program)?;
    let real = found
        .canonicalize()
        .map_err(|error| unreadable(&found, &error))?;
    let meta = metadata(&real)?;
    if !meta.is_file() || meta.mode() & 0o111 == 0 {
        return Err(TrustError::NotExecutable(real));
    }
    let owners = Owners::of_this_process();
    for named in [&real, &found] {
        for (depth, path) in named.ancestors().enumerate() {
            let meta = metadata(path)?;
            owners.check(path, &meta, depth > 0)?;
        }
    }
    // Run under the name given: programs such as busybox look at it.
    Ok(found)
}

fn find(program: &str) -> Result<PathBuf, TrustError> {
    if program.is_empty() {
        return Err(TrustError::Empty);
    }
    if program.starts_with('/') {
        return Ok(PathBuf::from(program));
    }
    if program.contains('/') {
        return Err(TrustError::Relative(program.to_owned()));
    }
    super::SEARCH_PATH
        .split(':')
        .map(|directory| Path::new(directory).join(program))
        .find(|path| {
            std::fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.mode() & 0o111 != 0)
        })
        .ok_or_else(|| TrustError::NotFound(program.to_owned()))
}

fn metadata(path: &Path) -> Result<Metadata, TrustError> {
    std::fs::metadata(path).map_err(|error| unreadable(path, &error))
}

fn unreadable(path: &Path, error: &std::io::Error) -> TrustError {
    TrustError::Unreadable {
        path: path.to_owned(),
        reason: error.to_string(),
    }
}

/// Users and groups that count as this agent itself.
struct Owners {
    uid: u32,
    gid: u32,
    /// In a user namespace, root of the machine outside shows as this id.
    unmapped: Option<u32>,
}

impl Owners {
    fn of_this_process() -> Self {
        Self {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            unmapped: unmapped_id(),
        }
    }

    fn check(&self, path: &Path, meta: &Metadata, directory: bool) -> Result<(), TrustError> {
        let refuse = |why| {
            Err(TrustError::WritableByOthers {
                path: path.to_owned(),
                why,
            })
        };
        if !self.trusted(meta.uid(), self.uid) {
            return refuse("owned by another user");
        }
        let sticky = directory && meta.mode() & 0o1000 != 0;
        if sticky {
            return Ok(());
        }
        if meta.mode() & 0o002 != 0 {
            return refuse("everybody may write it");
        }
        if meta.mode() & 0o020 != 0 && !self.trusted(meta.gid(), self.gid) {
            return refuse("a group may write it");
        }
        Ok(())
    }

    fn trusted(&self, id: u32, mine: u32) -> bool {
        id == 0 || id == mine || Some(id) == self.unmapped
    }
}

/// The overflow id if this user namespace does not map every id; `None` in the initial namespace, where that id
/// is an ordinary user (`nobody`).
fn unmapped_id() -> Option<u32> {
    let map = std::fs::read_to_string("/proc/self/uid_map").ok()?;
    let mut words = map.split_whitespace();
    let whole = words.next() == Some("0")
        && words.next() == Some("0")
        && words.next() == Some("4294967295");
    if whole {
        return None;
    }
    let id = std::fs::read_to_string("/proc/sys/kernel/overflowuid").ok()?;
    id.trim().parse().ok()
}
