//! The users and groups of this node, read from their files and read again when those change.
//!
//! Only the files are asked: the name service may be what is broken when the data must move.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::owners::Accounts;

/// Largest file that is read: some hundred thousand accounts.
const LARGEST: u64 = 32 << 20;

/// The two files, and what they said when they were last read.
#[derive(Debug)]
pub(crate) struct AccountFiles {
    passwd: PathBuf,
    group: PathBuf,
    known: Mutex<Option<(Versions, Arc<Accounts>)>>,
}

/// Inode, size and time of both.
type Versions = [Option<(u64, u64, i64, i64)>; 2];

impl AccountFiles {
    /// Those in a directory, which is `/etc`.
    pub fn new(etc: &Path) -> AccountFiles {
        AccountFiles {
            passwd: etc.join("passwd"),
            group: etc.join("group"),
            known: Mutex::new(None),
        }
    }

    /// What they say now. A file that cannot be read says nothing.
    pub fn now(&self) -> Arc<Accounts> {
        let versions = [version(&self.passwd), version(&self.group)];
        // Only ever written whole.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, accounts)) = &*known
            && *of == versions
        {
            return Arc::clone(accounts);
        }
        let accounts = Arc::new(Accounts::parse(&read(&self.passwd), &read(&self.group)));
        *known = Some((versions, Arc::clone(&accounts)));
        accounts
    }
}

fn version(path: &Path) -> Option<(u64, u64, i64, i64)> {
    let found = std::fs::metadata(path).ok()?;
    Some((found.ino(), found.size(), found.ctime(), found.ctime_nsec()))
}

fn read(path: &Path) -> Vec<u8> {
    let mut text = Vec::new();
    let file = File::open(path).and_then(|f| f.take(LARGEST).read_to_end(&mut text));
    if let Err(error) = file {
        tracing::warn!(path = %path.display(), %error, "accounts cannot be read: no name is known");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_file_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let files = AccountFiles::new(dir.path());
        assert_eq!(*files.now(), Accounts::default());
        let passwd = b"alice:x:1000:1\n";
        std::fs::write(dir.path().join("passwd"), passwd).unwrap();
        assert_eq!(*files.now(), Accounts::parse(passwd, b""));
        assert!(Arc::ptr_eq(&files.now(), &files.now()));
        // As useradd does it.
        let more = b"alice:x:1000:1\nbob:x:1001:1\n";
        std::fs::write(dir.path().join("new"), more).unwrap();
        std::fs::rename(dir.path().join("new"), dir.path().join("passwd")).unwrap();
        assert_eq!(*files.now(), Accounts::parse(more, b""));
    }
}
