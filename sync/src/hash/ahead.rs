//! A long content is read and hashed by several threads: its hash is made of those of its blocks.

use std::fs::File;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use rustix::fs::Advice;

use super::{CHUNK, Ends, LONG};
use crate::digest::ContentHasher;
use crate::fault::Fault;
use crate::helper::helper;
use crate::holes;
use crate::tail::{BLOCK, TailHasher};

/// What the threads share out among them before they meet: some milliseconds of work, and a disk that seeks reads it in one
/// sweep.
const ROUND: u64 = 32 * BLOCK;
/// Threads that hash at once. One does two to four gigabytes a second, and the machine has other work.
const MOST_THREADS: usize = 4;

/// Feeds the hasher from where it stands with blocks of the file, as far as blocks may come. The rest, to which the end of the
/// content always belongs, is for the caller to read; all of it, of a file that is short or has holes.
pub(super) fn feed(
    file: &File,
    hasher: &mut TailHasher,
    ends: Ends<'_>,
) -> Result<ControlFlow<()>, Fault> {
    let start = hasher.written();
    if hasher.blocks_end() < start + ROUND / 2 || holes::is_sparse(file) {
        return Ok(ControlFlow::Continue(()));
    }
    want(file, start);
    loop {
        let from = hasher.written();
        if from - start >= LONG && ends() {
            return Ok(ControlFlow::Break(()));
        }
        let upto = hasher.blocks_end().min(from + ROUND);
        if upto <= from {
            return Ok(ControlFlow::Continue(()));
        }
        want(file, upto);
        for block in round(file, from, upto, hasher.unit())? {
            let Some(hashes) = block else {
                // The file has become shorter.
                return Ok(ControlFlow::Continue(()));
            };
            hasher.block(&hashes);
        }
    }
}

/// The next round will be read soon: whoever reads here and there in it is not taken for somebody who seeks.
fn want(file: &File, from: u64) {
    // It is advice: what does not take it reads as it does.
    let length = std::num::NonZeroU64::new(ROUND);
    let _ = rustix::fs::fadvise(file, from, length, Advice::WillNeed);
}

/// The hashes of a block's units; `None` of a block that the file does not have whole.
type Block = Option<Vec<[u8; 32]>>;

/// The blocks between two places, in order.
fn round(file: &File, from: u64, upto: u64, unit: u32) -> Result<Vec<Block>, Fault> {
    let next = AtomicU64::new(from);
    let work = || {
        let mut buffer = vec![0; CHUNK];
        let mut mine = Vec::new();
        loop {
            let at = next.fetch_add(BLOCK, Ordering::Relaxed);
            if at >= upto {
                return Ok(mine);
            }
            mine.push((at, hash_block(file, at, unit, &mut buffer)?));
        }
    };
    let threads = thread::available_parallelism().map_or(2, usize::from);
    let helpers = threads.clamp(2, MOST_THREADS) - 1;
    let mut all = thread::scope(|scope| {
        let helpers: Vec<_> = (0..helpers).map_while(|_| helper(scope, work)).collect();
        let mine = work();
        // A panic of a helper is the caller's.
        let theirs = helpers.into_iter().map(|helper| {
            let joined = helper.join();
            joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        let parts: Vec<Result<Vec<_>, Fault>> = theirs.chain([mine]).collect();
        let mut all = Vec::new();
        for part in parts {
            all.extend(part?);
        }
        Ok::<_, Fault>(all)
    })?;
    all.sort_unstable_by_key(|(at, _)| *at);
    Ok(all.into_iter().map(|(_, block)| block).collect())
}

fn hash_block(file: &File, at: u64, unit: u32, buffer: &mut [u8]) -> Result<Block, Fault> {
    let mut hasher = ContentHasher::recording(unit);
    let mut done = 0;
    while done < BLOCK {
        // A buffer at most, which fits.
        let want = (BLOCK - done).min(buffer.len() as u64) as usize;
        match file.read_at(&mut buffer[..want], at + done) {
            Ok(0) => return Ok(None),
            Ok(got) => {
                hasher.update(&buffer[..got]);
                done += got as u64;
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Fault::io("read", &error)),
        }
    }
    Ok(hasher.take_chunks())
}

#[cfg(test)]
mod tests {
    use super::super::read_up_to;
    use super::*;
    use crate::entry::ContentHash;
    use crate::tail::OLD_TAIL;

    /// No two leaves of it are alike.
    fn content(size: u64) -> Vec<u8> {
        let mut content = vec![0; size as usize];
        for (n, leaf) in content.chunks_mut(64 << 10).enumerate() {
            leaf.fill(n as u8);
            let stamp = n.to_le_bytes();
            let length = leaf.len().min(stamp.len());
            leaf[..length].copy_from_slice(&stamp[..length]);
        }
        content
    }

    fn on_disk(content: &[u8]) -> File {
        let file = tempfile::tempfile().expect("a file");
        file.write_all_at(content, 0).expect("write");
        file
    }

    fn to_the_end(file: &File, hasher: &mut TailHasher, size: u64) {
        let mut go_on = |_| ControlFlow::Continue(());
        let read = read_up_to(file, hasher, size, &mut go_on).expect("read");
        assert!(read.is_continue());
    }

    #[test]
    fn by_blocks_a_content_has_the_same_hash_chunks_and_tail() {
        has_the_same_by_blocks();
        crate::helper::refuse();
        has_the_same_by_blocks();
    }

    fn has_the_same_by_blocks() {
        for size in [
            ROUND / 2,
            2 * ROUND + 3 * BLOCK + 12_345,
            ROUND + OLD_TAIL,
            ROUND + BLOCK,
        ] {
            let content = content(size);
            let file = on_disk(&content);
            let mut plain = TailHasher::new(size);
            to_the_end(&file, &mut plain, size);
            let mut blocks = TailHasher::new(size);
            assert!(
                feed(&file, &mut blocks, &|| false)
                    .expect("read")
                    .is_continue()
            );
            let fed = blocks.written();
            assert!(fed.is_multiple_of(BLOCK) && fed + BLOCK + OLD_TAIL > size || fed == 0);
            assert_eq!(fed == 0, size < ROUND / 2 + OLD_TAIL, "{size}");
            to_the_end(&file, &mut blocks, size);
            assert_eq!(blocks.take_chunks(), plain.take_chunks(), "{size}");
            assert_eq!(blocks.hash(), ContentHash::of(&content), "{size}");
            assert_eq!(blocks.finish(), plain.finish(), "{size}");
        }
    }

    #[test]
    fn a_file_that_became_shorter_is_read_as_far_as_it_goes() {
        let (size, left) = (2 * ROUND, ROUND + BLOCK + 5);
        let content = content(size);
        let file = on_disk(&content[..left as usize]);
        let mut hasher = TailHasher::new(size);
        let fed = feed(&file, &mut hasher, &|| false).expect("read");
        assert!(fed.is_continue());
        assert_eq!(hasher.written(), ROUND + BLOCK);
        to_the_end(&file, &mut hasher, size);
        assert_eq!(hasher.written(), left);
        assert_eq!(hasher.hash(), ContentHash::of(&content[..left as usize]));
    }

    #[test]
    fn whoever_is_waited_for_ends_between_two_rounds() {
        let size = LONG + 3 * ROUND;
        let file = on_disk(&content(size));
        let mut hasher = TailHasher::new(size);
        assert!(feed(&file, &mut hasher, &|| true).expect("read").is_break());
        assert_eq!(hasher.written(), LONG);
    }

    #[test]
    fn holes_are_left_to_who_knows_them() {
        let size = 2 * ROUND;
        let file = tempfile::tempfile().expect("a file");
        file.set_len(size).expect("a hole");
        let mut hasher = TailHasher::new(size);
        let fed = feed(&file, &mut hasher, &|| false).expect("read");
        assert!(fed.is_continue());
        assert_eq!(hasher.written(), 0);
    }
}
