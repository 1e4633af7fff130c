//! The slot: one small batch that was answered as durable before it is in the trees, in `STATE_DIR/ahead`.
//!
//! ```text
//!   magic 8 | id u64 | number u64 | length u32 | BLAKE3 of id, number and batch | the batch, as a file of the spool has it
//! ```
//! All numbers are little endian. The file has its whole size from the beginning, and each batch is written over the last
//! one: so writing one waits for the disk once, and for nothing of the file system. The index says up to which number the
//! batches of this file (`id`) are done; a later one whose hash is right is to be applied. Version 1, in the magic.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// Bytes of the file. A batch that is larger has work enough that one wait for the disk more or less is nothing.
const SIZE: usize = 320 << 10;
const MAGIC: [u8; 8] = *b"tandemA1";
const HEADER: usize = 8 + 8 + 8 + 4 + 32;
/// Largest batch.
pub(crate) const MAX_BATCH: usize = SIZE - HEADER;

/// The file.
#[derive(Debug)]
pub(crate) struct Slot {
    file: File,
    id: u64,
    number: u64,
}

impl Slot {
    /// Opens it, or makes it with a new id. Durable when it returns.
    pub fn open(state_dir: &Path) -> io::Result<Slot> {
        let path = state_dir.join("ahead");
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).mode(0o600);
        let mut file = options.open(path)?;
        let mut bytes = Vec::new();
        (&mut file).take(SIZE as u64).read_to_end(&mut bytes)?;
        if let Some((id, number, _)) = parse(&bytes).filter(|_| bytes.len() == SIZE) {
            return Ok(Slot { file, id, number });
        }
        let id = rand_id()?;
        let mut slot = Slot {
            file,
            id,
            number: 0,
        };
        // Written, not only reserved: a block that was never written costs a change of the file system when it is.
        slot.file.write_all_at(&vec![0; SIZE], 0)?;
        slot.write(&[])?;
        slot.file.sync_all()?;
        File::open(state_dir)?.sync_all()?;
        Ok(slot)
    }

    /// It takes nothing more.
    #[cfg(test)]
    pub fn refuse(&mut self, state_dir: &Path) -> io::Result<()> {
        self.file = File::open(state_dir.join("ahead"))?;
        Ok(())
    }

    /// Which file this is.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The number of what is in it.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// What is in it, if that is whole.
    pub fn batch(&self) -> io::Result<Option<Vec<u8>>> {
        let mut bytes = vec![0; SIZE];
        self.file.read_exact_at(&mut bytes, 0)?;
        Ok(parse(&bytes).and_then(|(_, _, batch)| batch.map(<[u8]>::to_vec)))
    }

    /// Replaces what is in it. Durable when it returns; gives its number.
    ///
    /// # Errors
    /// The file system's. What was in it is lost then, too.
    pub fn write(&mut self, batch: &[u8]) -> io::Result<u64> {
        let length = u32::try_from(batch.len())
            .ok()
            .filter(|_| batch.len() <= MAX_BATCH)
            .ok_or_else(|| io::Error::other("a batch that is too large for its slot"))?;
        self.number += 1;
        let bytes = encode(self.id, self.number, length, batch);
        self.file.write_all_at(&bytes, 0)?;
        self.file.sync_data()?;
        Ok(self.number)
    }
}

fn rand_id() -> io::Result<u64> {
    let mut id = [0; 8];
    rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::empty())?;
    Ok(u64::from_le_bytes(id))
}

fn hash(id: u64, number: u64, batch: &[u8]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&id.to_le_bytes());
    hasher.update(&number.to_le_bytes());
    hasher.update(batch);
    hasher.finalize()
}

/// What stands in the file from its beginning.
pub(super) fn encode(id: u64, number: u64, length: u32, batch: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + batch.len());
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&id.to_le_bytes());
    bytes.extend_from_slice(&number.to_le_bytes());
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(hash(id, number, batch).as_bytes());
    bytes.extend_from_slice(batch);
    bytes
}

/// Id, number and the batch, `None` of which was not written whole. `None`: no slot.
pub(crate) fn parse(bytes: &[u8]) -> Option<(u64, u64, Option<&[u8]>)> {
    let rest = bytes.strip_prefix(&MAGIC)?;
    let (id, rest) = rest.split_first_chunk()?;
    let (number, rest) = rest.split_first_chunk()?;
    let (length, rest) = rest.split_first_chunk()?;
    let (wanted, rest) = rest.split_first_chunk::<32>()?;
    let (id, number) = (u64::from_le_bytes(*id), u64::from_le_bytes(*number));
    let batch = rest.get(..u32::from_le_bytes(*length) as usize);
    let whole = batch.filter(|batch| hash(id, number, batch).as_bytes() == wanted);
    Some((id, number, whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_batch_is_there_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let mut slot = Slot::open(dir.path()).unwrap();
        let id = slot.id();
        assert_eq!(slot.batch().unwrap().as_deref(), Some(&[][..]));
        assert_eq!(slot.write(b"a longer one").unwrap(), 2);
        assert_eq!(slot.write(b"next").unwrap(), 3);
        let slot = Slot::open(dir.path()).unwrap();
        assert_eq!((slot.id(), slot.number()), (id, 3));
        assert_eq!(slot.batch().unwrap().as_deref(), Some(&b"next"[..]));
    }

    #[test]
    fn what_was_not_written_whole_is_no_batch() {
        let dir = tempfile::tempdir().unwrap();
        let mut slot = Slot::open(dir.path()).unwrap();
        slot.write(b"content").unwrap();
        let id = slot.id();
        slot.file.write_all_at(b"C", HEADER as u64).unwrap();
        let mut slot = Slot::open(dir.path()).unwrap();
        assert_eq!(
            (slot.id(), slot.number(), slot.batch().unwrap()),
            (id, 2, None)
        );
        assert!(slot.write(&vec![0; MAX_BATCH + 1]).is_err());
        assert_eq!(slot.write(&vec![0; MAX_BATCH]).unwrap(), 3);
    }

    #[test]
    fn another_file_has_another_id() {
        let dir = tempfile::tempdir().unwrap();
        let id = Slot::open(dir.path()).unwrap().id();
        std::fs::remove_file(dir.path().join("ahead")).unwrap();
        assert_ne!(Slot::open(dir.path()).unwrap().id(), id);
    }
}
