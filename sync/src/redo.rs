//! The format of a redo journal: what changes a file in place from one version to the next. Pure.
//!
//! ```text
//!   data     the new bytes of all extents that have some, one after the other
//!   body     postcard of [`Body`]: the file, its new state, where the bytes go
//!   footer   "tandem-r", version (u32), length of the body (u32), length of the data (u64), BLAKE3 of all before it
//! ```
//! Numbers are little endian. The data come first, so that a journal is written in one pass while the content arrives.
//! All places are absolute: carrying a journal out twice, or again after half of it, gives the same file.

use crate::entry::{Kind, State};
use crate::path::RelPath;
use serde::{Deserialize, Serialize};

/// Version of the format. A journal of another version is refused by name.
pub const VERSION: u32 = 4;
/// Bytes of the footer.
pub const FOOTER: usize = 56;
/// Most bytes of data in one journal. Bounds how long a takeover waits for a file that is being changed, or that a crash
/// left unfinished: some seconds on a slow disk. What changes more is replaced whole.
pub const MAX_DATA: u64 = 1 << 30;
/// Most extents in one journal: bounds its body and the seeks of a takeover. 65536 pages of 8 KiB are 512 MiB.
pub const MAX_EXTENTS: usize = 64 << 10;
/// Longest body: extents of at most 21 bytes each, a path, and 1 MiB of attributes, twice over.
pub const MAX_BODY: usize = 8 << 20;

const MAGIC: &[u8; 8] = b"tandem-r";

/// Why bytes are not a journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadJournal {
    /// No footer, or lengths that do not fit the file.
    #[error("is cut off or is none")]
    Footer,
    /// Written by another version of this program.
    #[error("is of another version")]
    Version,
    /// A body that says what no writer says.
    #[error("says what cannot be")]
    Body,
    /// The bytes are not those that were written.
    #[error("is damaged: its checksum differs")]
    Checksum,
}

/// Bytes of the file that are new.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// Where in the file.
    pub offset: u64,
    /// How many; never 0.
    pub len: u64,
    /// With what.
    pub fill: Fill,
}

/// What an extent is filled with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fill {
    /// Bytes of the journal's data.
    Data,
    /// A hole: zeros that lie on no disk.
    Hole,
}

/// What a journal does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Body {
    /// The file.
    pub path: RelPath,
    /// Its inode number. Another file that lies there now is not touched.
    pub ino: u64,
    /// When it was made, nanoseconds since 1970: a file system gives the number of a removed file again, ext4 to the next one.
    pub born_ns: i128,
    /// What it becomes: a regular file of this size with these attributes.
    pub state: State,
    /// In ascending order, without overlap.
    pub extents: Vec<Extent>,
}

/// The last bytes of a journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footer {
    /// Bytes of the body.
    pub body: u32,
    /// Bytes of the data.
    pub data: u64,
    /// BLAKE3 of data, body and the footer up to here.
    pub hash: [u8; 32],
}

impl Footer {
    /// What comes before the hash.
    pub fn head(body: u32, data: u64) -> [u8; FOOTER - 32] {
        let mut head = [0; FOOTER - 32];
        head[..8].copy_from_slice(MAGIC);
        head[8..12].copy_from_slice(&VERSION.to_le_bytes());
        head[12..16].copy_from_slice(&body.to_le_bytes());
        head[16..24].copy_from_slice(&data.to_le_bytes());
        head
    }

    /// Reads the last bytes of a file of `length` bytes.
    ///
    /// # Errors
    /// [`BadJournal::Footer`] and [`BadJournal::Version`]. The lengths of what is returned fit the file and the bounds.
    pub fn decode(bytes: &[u8; FOOTER], length: u64) -> Result<Footer, BadJournal> {
        let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|i| bytes[at + i]));
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        if bytes[..8] != *MAGIC {
            return Err(BadJournal::Footer);
        }
        if word(8) != VERSION {
            return Err(BadJournal::Version);
        }
        let (body, data) = (word(12), long(16));
        let whole = data
            .checked_add(u64::from(body))
            .and_then(|n| n.checked_add(FOOTER as u64));
        if whole != Some(length) || data > MAX_DATA || body as usize > MAX_BODY {
            return Err(BadJournal::Footer);
        }
        let mut hash = [0; 32];
        hash.copy_from_slice(&bytes[FOOTER - 32..]);
        Ok(Footer { body, data, hash })
    }
}

impl Body {
    /// Its bytes in the file. `None`: longer than a body may be.
    pub fn encode(&self) -> Option<Vec<u8>> {
        let bytes = postcard::to_stdvec(self).ok()?;
        (bytes.len() <= MAX_BODY).then_some(bytes)
    }

    /// Reads a body that goes with `data` bytes.
    ///
    /// # Errors
    /// [`BadJournal::Body`].
    pub fn decode(bytes: &[u8], data: u64) -> Result<Body, BadJournal> {
        let body: Body = postcard::from_bytes(bytes).map_err(|_| BadJournal::Body)?;
        match body.is_sound(data) {
            true => Ok(body),
            false => Err(BadJournal::Body),
        }
    }

    fn is_sound(&self, data: u64) -> bool {
        let Kind::File { size, .. } = self.state.kind else {
            return false;
        };
        let (mut end, mut sum) = (0u64, 0u64);
        for extent in &self.extents {
            let Some(next) = extent.offset.checked_add(extent.len) else {
                return false;
            };
            if extent.len == 0 || extent.offset < end {
                return false;
            }
            // No overflow: disjoint parts of what ends at `next`.
            end = next;
            if extent.fill == Fill::Data {
                sum += extent.len;
            }
        }
        let path = !self.path.is_root() && !self.path.is_private();
        path && end <= size && sum == data && self.extents.len() <= MAX_EXTENTS
    }
}

/// A journal, whole or not: what is accepted is sound, and is written as it was read.
#[cfg(feature = "fuzz")]
pub(crate) fn fuzz(bytes: &[u8]) {
    if let Some(footer) = bytes.last_chunk::<FOOTER>()
        && let Ok(footer) = Footer::decode(footer, bytes.len() as u64)
    {
        let end = bytes.len() - FOOTER;
        let body = &bytes[end - footer.body as usize..end];
        if let Ok(body) = Body::decode(body, footer.data) {
            let again = body.encode().expect("what was read fits again");
            assert_eq!(Body::decode(&again, footer.data), Ok(body));
        }
    }
    // A search seldom finds the lengths of a footer: the body is tried on its own too.
    for data in [0, 1, 8, 4096] {
        let _ = Body::decode(bytes, data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{ContentHash, Meta};

    fn body(extents: &[(u64, u64)]) -> Body {
        let meta = Meta {
            mode: 0o600,
            uid: 0,
            gid: 0,
            mtime_ns: 5,
            xattrs: Default::default(),
        };
        let hash = ContentHash([7; 32]);
        let kind = Kind::File { size: 100, hash };
        let extents = extents
            .iter()
            .map(|&(offset, len)| Extent {
                offset,
                len,
                fill: Fill::Data,
            })
            .collect();
        Body {
            path: RelPath::new("base/1").unwrap(),
            ino: 9,
            born_ns: 1_800_000_000_123_456_789,
            state: State { kind, meta },
            extents,
        }
    }

    fn refused(body: &Body, data: u64) -> bool {
        Body::decode(&body.encode().unwrap(), data) == Err(BadJournal::Body)
    }

    #[test]
    fn a_body_is_read_as_it_was_written() {
        for (extents, data) in [(&[][..], 0), (&[(0, 4), (4, 4), (90, 10)][..], 18)] {
            let body = body(extents);
            assert_eq!(Body::decode(&body.encode().unwrap(), data), Ok(body));
        }
    }

    #[test]
    fn a_hole_has_no_data() {
        let mut body = body(&[(0, 4), (4, 50)]);
        body.extents[1].fill = Fill::Hole;
        assert_eq!(Body::decode(&body.encode().unwrap(), 4).as_ref(), Ok(&body));
        assert!(refused(&body, 54));
    }

    #[test]
    fn what_no_writer_says_is_refused() {
        for (extents, data) in [
            (&[(0, 4)][..], 5),
            (&[(0, 0)][..], 0),
            (&[(4, 4), (0, 4)][..], 8),
            (&[(0, 4), (3, 4)][..], 8),
            (&[(96, 5)][..], 5),
            (&[(u64::MAX, 2)][..], 2),
        ] {
            assert!(refused(&body(extents), data), "{extents:?}");
        }
        for path in [RelPath::root(), RelPath::new(".tandem/marker").unwrap()] {
            let mut private = body(&[]);
            private.path = path;
            assert!(refused(&private, 0), "{private:?}");
        }
        let mut dir = body(&[]);
        dir.state.kind = Kind::Dir;
        assert!(refused(&dir, 0));
    }

    #[test]
    fn a_footer_fits_its_file_or_is_none() {
        let mut bytes = [0; FOOTER];
        bytes[..FOOTER - 32].copy_from_slice(&Footer::head(10, 20));
        let good = Footer::decode(&bytes, 30 + FOOTER as u64).unwrap();
        assert_eq!((good.body, good.data), (10, 20));
        let length = 29 + FOOTER as u64;
        assert_eq!(Footer::decode(&bytes, length), Err(BadJournal::Footer));
        bytes[8] = 99;
        assert_eq!(Footer::decode(&bytes, length), Err(BadJournal::Version));
        bytes[0] = b'x';
        assert_eq!(Footer::decode(&bytes, length), Err(BadJournal::Footer));
        bytes[..FOOTER - 32].copy_from_slice(&Footer::head(0, u64::MAX - 3));
        assert_eq!(Footer::decode(&bytes, length), Err(BadJournal::Footer));
    }
}
