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
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    read: Option<(Versions, Arc<Accounts>)>,
    /// It was said that they cannot be read.
    complained: bool,
}

/// Inode, size and time of both.
type Versions = [Option<(u64, u64, i64, i64)>; 2];

impl AccountFiles {
    /// Those in a directory, which is `/etc`.
    pub fn new(etc: &Path) -> AccountFiles {
        AccountFiles {
            passwd: etc.join("passwd"),
            group: etc.join("group"),
            known: Mutex::default(),
        }
    }

    /// What they say now. `None`: one of them cannot be read. Nothing is known of any name then, which is another thing than
    /// that a number has none.
    pub fn now(&self) -> Option<Arc<Accounts>> {
        let versions = [version(&self.passwd), version(&self.group)];
        // Only ever written whole.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, accounts)) = &known.read
            && *of == versions
        {
            return Some(Arc::clone(accounts));
        }
        let read = read(&self.passwd).and_then(|passwd| Ok((passwd, read(&self.group)?)));
        match read {
            Ok((passwd, group)) => {
                let accounts = Arc::new(Accounts::parse(&passwd, &group));
                *known = Known {
                    read: Some((versions, Arc::clone(&accounts))),
                    complained: false,
                };
                Some(accounts)
            }
            Err(error) => {
                if !std::mem::replace(&mut known.complained, true) {
                    tracing::warn!(%error, "users and groups cannot be read: nothing is given to anybody by name");
                }
                None
            }
        }
    }
}

fn version(path: &Path) -> Option<(u64, u64, i64, i64)> {
    let found = std::fs::metadata(path).ok()?;
    Some((found.ino(), found.size(), found.ctime(), found.ctime_nsec()))
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let named = |error| std::io::Error::other(format!("{}: {error}", path.display()));
    let mut text = Vec::new();
    let file = File::open(path).map_err(named)?;
    file.take(LARGEST + 1)
        .read_to_end(&mut text)
        .map_err(named)?;
    match text.len() as u64 > LARGEST {
        true => Err(named(std::io::Error::from(
            std::io::ErrorKind::FileTooLarge,
        ))),
        false => Ok(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_file_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let files = AccountFiles::new(dir.path());
        let passwd = b"alice:x:1000:1\n";
        std::fs::write(dir.path().join("passwd"), passwd).unwrap();
        std::fs::write(dir.path().join("group"), "").unwrap();
        let now = || files.now().expect("they can be read");
        assert_eq!(*now(), Accounts::parse(passwd, b""));
        assert!(Arc::ptr_eq(&now(), &now()));
        // As useradd does it.
        let more = b"alice:x:1000:1\nbob:x:1001:1\n";
        std::fs::write(dir.path().join("new"), more).unwrap();
        std::fs::rename(dir.path().join("new"), dir.path().join("passwd")).unwrap();
        assert_eq!(*now(), Accounts::parse(more, b""));
    }

    /// A number whose name cannot be looked up is another one than a number without a name.
    #[test]
    fn files_that_cannot_be_read_are_no_empty_files() {
        let dir = tempfile::tempdir().unwrap();
        let files = AccountFiles::new(dir.path());
        assert!(files.now().is_none(), "there are none");
        std::fs::write(dir.path().join("passwd"), "alice:x:1000:1\n").unwrap();
        std::fs::write(dir.path().join("group"), "").unwrap();
        assert!(files.now().is_some());
        std::fs::remove_file(dir.path().join("group")).unwrap();
        std::fs::create_dir(dir.path().join("group")).unwrap();
        assert!(files.now().is_none(), "no file");
        std::fs::remove_dir(dir.path().join("group")).unwrap();
        let huge = File::create(dir.path().join("group")).unwrap();
        huge.set_len(LARGEST + 1).unwrap();
        assert!(files.now().is_none(), "not all of it would be known");
        huge.set_len(0).unwrap();
        assert!(files.now().is_some());
    }
}
