//! A file with several names is read once, not once for each name.

use super::{Hashed, Read, Unread, now_ns};
use crate::entry::{ContentHash, LocalKey};
use crate::fault::Fault;
use crate::meta::Seen;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Files that are remembered: 20 MB. Each name of further ones is read.
const MOST: usize = 1 << 17;

/// What was read in one round of looks of files with several names, by the version that was read.
#[derive(Debug, Default)]
pub struct Once(Mutex<HashMap<LocalKey, Arc<Mutex<Content>>>>);

/// What is known of one version of a file.
#[derive(Debug, Clone, Copy, Default)]
enum Content {
    /// Nothing.
    #[default]
    Unknown,
    /// What was told of it under another name, before this round.
    Told(ContentHash),
    /// It was read in this round, at rest.
    Read { hash: ContentHash, fresh: bool },
}

/// Where contents of files with several names are looked up before they are read.
#[derive(Clone, Copy)]
pub struct Links<'e> {
    /// What was read in this round.
    pub once: &'e Once,
    /// What is known of a version under any name.
    pub known: &'e (dyn Fn(&LocalKey) -> Option<ContentHash> + Sync),
}

impl Once {
    fn of(&self, key: LocalKey) -> Option<Arc<Mutex<Content>>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match all.len() < MOST {
            true => Some(Arc::clone(all.entry(key).or_default())),
            false => all.get(&key).map(Arc::clone),
        }
    }
}

impl Links<'_> {
    /// The file as it was seen, with its content: from where it is known, else read. Who finds it being read under another name
    /// waits for that.
    pub(super) fn read(
        &self,
        seen: Seen,
        unread: Unread,
        read: impl FnOnce(Seen) -> Result<Read, Fault>,
    ) -> Result<Read, Fault> {
        let key = seen.key();
        let Some(content) = self.once.of(key) else {
            return read(seen);
        };
        let mut content = content.lock().unwrap_or_else(PoisonError::into_inner);
        let believed = unread != Unread::Never;
        if believed && matches!(*content, Content::Unknown) {
            *content = (self.known)(&key).map_or(Content::Unknown, Content::Told);
        }
        let known = match *content {
            Content::Read { hash, fresh } => Some((hash, fresh)),
            Content::Told(hash) if believed => Some((hash, seen.stat.is_fresh(now_ns()))),
            Content::Told(_) | Content::Unknown => None,
        };
        if let Some((hash, fresh)) = known {
            let hashed = Hashed {
                hash,
                size: key.size,
                before: key,
                after: key,
                fresh,
            };
            return Ok(Read {
                hashed: Some(hashed),
                ..Read::unread(seen)
            });
        }
        let read = read(seen)?;
        if let Some(hashed) = read.hashed
            && hashed.is_stable()
            && hashed.before == key
        {
            let (hash, fresh) = (hashed.hash, hashed.fresh);
            *content = Content::Read { hash, fresh };
        }
        Ok(read)
    }
}
