//! Whether the configuration's file says something else than what is in force. Read again only when the file has changed,
//! because every status asks.

use crate::config::{self, Loaded};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// What changes when a file is written or replaced: inode, size, and the change time, which nobody can set back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl Stamp {
    fn of(file: &Path) -> io::Result<Self> {
        let meta = std::fs::metadata(file)?;
        Ok(Self {
            inode: meta.ino(),
            size: meta.size(),
            changed: (meta.ctime(), meta.ctime_nsec()),
        })
    }
}

/// The last look at the file.
#[derive(Debug, Default)]
pub struct OnDisk(Mutex<Option<(Stamp, Arc<Loaded>, bool)>>);

impl OnDisk {
    /// Whether the file differs from `loaded`, or is gone or not valid.
    pub fn differs(&self, loaded: &Arc<Loaded>) -> bool {
        let Ok(stamp) = Stamp::of(&loaded.file) else {
            return true;
        };
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((seen, of, differs)) = &*last
            && *seen == stamp
            && Arc::ptr_eq(of, loaded)
        {
            return *differs;
        }
        let differs = config::load(&loaded.file).map_or(true, |disk| disk.config != loaded.config);
        *last = Some((stamp, loaded.clone(), differs));
        differs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_a_broken_and_a_missing_file_differ() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("tandem.toml");
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../etc/mirror-pair.toml");
        let text = std::fs::read_to_string(example).unwrap();
        std::fs::write(&file, &text).unwrap();
        let loaded = Arc::new(config::load(&file).unwrap());
        let on_disk = OnDisk::default();
        assert!(!on_disk.differs(&loaded));
        assert!(!on_disk.differs(&loaded));
        std::fs::write(&file, text.replace("[pair]", "[pear]")).unwrap();
        assert!(on_disk.differs(&loaded));
        std::fs::write(&file, format!("# A comment changes nothing.\n{text}")).unwrap();
        assert!(!on_disk.differs(&loaded));
        std::fs::remove_file(&file).unwrap();
        assert!(on_disk.differs(&loaded));
    }
}
