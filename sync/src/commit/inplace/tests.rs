use super::*;
use crate::chunks::Chunks;
use crate::commit::Staging;
use crate::entry::{ContentHash, Kind, Meta};
use proptest::prelude::*;
use std::path::Path;
use std::sync::Arc;

/// Larger than the threshold, so that every case is changed in place.
const SIZE: usize = IN_PLACE_FROM as usize + 40_000;

struct Bench {
    dir: tempfile::TempDir,
    root: Root,
    private: Private,
}

impl Bench {
    fn new(content: &[u8]) -> Bench {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f"), content).unwrap();
        let root = Root::open(dir.path()).unwrap();
        let private = Private::open(&root).unwrap();
        Bench { dir, root, private }
    }

    fn file(&self) -> std::path::PathBuf {
        self.dir.path().join("f")
    }

    fn content(&self) -> Vec<u8> {
        std::fs::read(self.file()).unwrap()
    }

    fn base(&self) -> (File, LocalKey) {
        let base = File::open(self.file()).unwrap();
        let key = Stat::of_fd(base.as_fd()).unwrap().key();
        (base, key)
    }

    /// Stages the content as it would come: what is the same stays, the rest is written.
    fn stage(&self, old: &[u8], new: &[u8], step: usize) -> Result<Staged, Fault> {
        let (base, key) = self.base();
        let redo = Redo::new(&path(), base, key, &state(new)).expect("it can be changed in place");
        self.stage_by(redo, old, new, step)
    }

    fn stage_by(&self, redo: Redo, old: &[u8], new: &[u8], step: usize) -> Result<Staged, Fault> {
        let size = new.len() as u64;
        let mut staging = Staging::begin_in_place(&self.private, redo, size)?;
        let (base, _) = self.base();
        let mut at = 0;
        let (fine, coarse) = new.split_at(new.len().min(2 * MAX_EXTENTS + 2));
        for part in fine.chunks(step).chain(coarse.chunks(64 << 10)) {
            match old.get(at..at + part.len()) == Some(part) {
                true => staging.copy_from(&base, at as u64, part.len() as u64)?,
                false => staging.write(part)?,
            }
            at += part.len();
        }
        staging.finish(ContentHash::of(new))
    }

    /// Opens the journal, as an apply does, and does nothing with it.
    fn open(&self, mut staged: Staged) -> Body {
        let body = staged.take_redo().expect("a journal").body;
        open(&self.private, &mut staged).unwrap();
        body
    }

    fn journals(&self) -> usize {
        names(self.private.redo()).unwrap().len()
    }
}

fn path() -> RelPath {
    RelPath::new("f").unwrap()
}

fn state(content: &[u8]) -> State {
    let kind = Kind::File {
        size: content.len() as u64,
        hash: ContentHash::of(content),
    };
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    let meta = Meta {
        mode: 0o640,
        uid: uid.as_raw(),
        gid: gid.as_raw(),
        mtime_ns: 1_000_000_007,
        xattrs: Default::default(),
    };
    State { kind, meta }
}

fn metadata(at: &Path) -> (u32, i64) {
    use std::os::unix::fs::MetadataExt;
    let found = std::fs::metadata(at).unwrap();
    (found.mode() & 0o7777, found.mtime())
}

/// An old and a new content: edits, and another end.
fn versions() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let edit = (0..SIZE, 1..3000usize, any::<u8>());
    let edits = proptest::collection::vec(edit, 0..12);
    (edits, IN_PLACE_FROM as usize..SIZE + 40_000).prop_map(|(edits, size)| {
        let old: Vec<u8> = (0..SIZE).map(|i| (i * 31 % 251) as u8).collect();
        let mut new = old.clone();
        new.resize(size, 0xee);
        for (at, len, byte) in edits {
            let end = (at + len).min(size);
            new[at.min(end)..end].fill(byte);
        }
        (old, new)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// However much of a journal was carried out, in whatever order the disk took it, finishing gives the new version.
    #[test]
    fn an_open_journal_completes_the_file(
        (old, new) in versions(),
        done in proptest::collection::vec(any::<bool>(), 12..40),
        resized: bool,
        cut in 0..3000u64,
    ) {
        let bench = Bench::new(&old);
        let body = bench.open(bench.stage(&old, &new, 4096).unwrap());
        let file = std::fs::OpenOptions::new().write(true).open(bench.file()).unwrap();
        if resized {
            file.set_len(new.len() as u64).unwrap();
        }
        for (extent, done) in body.extents.iter().zip(done) {
            let from = extent.offset as usize;
            let len = if done { extent.len } else { extent.len.min(cut) } as usize;
            file.write_all_at(&new[from..from + len], extent.offset).unwrap();
        }
        drop(file);
        prop_assert_eq!(finish_journals(&bench.root, &bench.private).unwrap(), vec![path()]);
        prop_assert!(bench.content() == new);
        prop_assert_eq!(metadata(&bench.file()), (0o640, 1));
        prop_assert_eq!(bench.journals(), 0);
        prop_assert_eq!(finish_journals(&bench.root, &bench.private).unwrap(), vec![]);
    }
}

#[test]
fn only_what_is_new_is_in_the_journal() {
    let old = vec![1; SIZE];
    let mut new = old.clone();
    new[5000] = 2;
    let bench = Bench::new(&old);
    let staged = bench.stage(&old, &new, 4096).unwrap();
    let length = staged.file().metadata().unwrap().len();
    assert!(length < 4096 + 300, "{length} bytes");
    assert_eq!(bench.content(), old, "nothing is changed by staging");
    drop(staged);
    let left = names(bench.private.staging()).unwrap();
    assert!(left.is_empty(), "a dropped journal is removed");
}

#[test]
fn what_outgrows_a_journal_becomes_a_file_of_its_own() {
    let size = 2 * MAX_EXTENTS + IN_PLACE_FROM as usize;
    let old = vec![1; size];
    // Every second byte is an extent, one more than a journal holds.
    let mut new = old.clone();
    (0..=MAX_EXTENTS).for_each(|i| new[2 * i] = 2);
    let bench = Bench::new(&old);
    let staged = bench.stage(&old, &new, 1).unwrap();
    assert!(staged.redo().is_none());
    let mut found = vec![0; size];
    staged.file().read_exact_at(&mut found, 0).unwrap();
    assert!(found == new);
}

#[test]
fn a_damaged_journal_is_named_and_nothing_is_changed() {
    let old = vec![1; SIZE];
    let mut new = old.clone();
    new[70_000..70_010].fill(2);
    let bench = Bench::new(&old);
    bench.open(bench.stage(&old, &new, 4096).unwrap());
    let name = std::fs::read_dir(bench.dir.path().join(".tandem/redo"))
        .unwrap()
        .next();
    let name = name.unwrap().unwrap().path();
    let good = std::fs::read(&name).unwrap();
    for at in (0..good.len()).step_by(97).chain([good.len() - 1]) {
        let mut bad = good.clone();
        bad[at] ^= 1;
        std::fs::write(&name, bad).unwrap();
        let found = finish_journals(&bench.root, &bench.private);
        assert!(
            matches!(found, Err(Fault::Journal { .. })),
            "byte {at}: {found:?}"
        );
    }
    for length in [0, 10, FOOTER, good.len() - 1] {
        std::fs::write(&name, &good[..length]).unwrap();
        let found = finish_journals(&bench.root, &bench.private);
        assert!(
            matches!(found, Err(Fault::Journal { .. })),
            "{length} bytes: {found:?}"
        );
    }
    assert_eq!(bench.content(), old);
    std::fs::write(&name, good).unwrap();
    finish_journals(&bench.root, &bench.private).unwrap();
    assert_eq!(bench.content(), new);
}

#[test]
fn another_file_that_lies_there_is_not_touched() {
    let (old, new) = (vec![1; SIZE], vec![2; SIZE]);
    let bench = Bench::new(&old);
    bench.open(bench.stage(&old, &new, 4096).unwrap());
    let held = File::open(bench.file()).unwrap();
    std::fs::remove_file(bench.file()).unwrap();
    std::fs::write(bench.file(), "another").unwrap();
    assert!(
        finish_journals(&bench.root, &bench.private)
            .unwrap()
            .is_empty()
    );
    assert_eq!(
        (bench.content(), bench.journals()),
        (b"another".to_vec(), 0)
    );
    drop(held);
}

#[test]
fn another_file_that_got_the_inode_number_is_not_touched() {
    let (old, new) = (vec![1; SIZE], vec![2; SIZE]);
    let bench = Bench::new(&old);
    let (base, key) = bench.base();
    let mut redo = Redo::new(&path(), base, key, &state(&new)).expect("it can be changed in place");
    // As if the file that lies there had been made after the journal's was removed.
    redo.body.born_ns -= 1;
    bench.open(bench.stage_by(redo, &old, &new, 4096).unwrap());
    let finished = finish_journals(&bench.root, &bench.private).unwrap();
    assert_eq!((finished, bench.journals()), (vec![], 0));
    assert!(bench.content() == old);
}

#[test]
fn what_cannot_be_changed_in_place_is_refused() {
    let old = vec![1; SIZE];
    let bench = Bench::new(&old);
    let new = |content: &[u8]| {
        let (base, key) = bench.base();
        Redo::new(&path(), base, key, &state(content)).is_some()
    };
    assert!(new(&old));
    assert!(!new(b"small"), "small files are replaced whole");
    std::fs::hard_link(bench.file(), bench.dir.path().join("other")).unwrap();
    assert!(!new(&old), "a file of two names");
    std::fs::remove_file(bench.dir.path().join("other")).unwrap();
    let (base, key) = bench.base();
    let older = LocalKey { ctime_ns: 1, ..key };
    assert!(Redo::new(&path(), base, older, &state(&old)).is_none());
}

/// The mode of the file when the first new byte is to be written to it, with this mode before. The cut comes at the `at`th place.
fn mode_at_first_byte(mode: u32, at: i64) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    let (old, new) = (vec![1; SIZE], vec![2; SIZE]);
    let bench = Bench::new(&old);
    let staged = bench.stage(&old, &new, 4096).unwrap();
    std::fs::set_permissions(bench.file(), std::fs::Permissions::from_mode(mode)).unwrap();
    let journal = staged.file().try_clone().unwrap();
    let body = bench.open(staged);
    let file = std::fs::OpenOptions::new();
    let file = file.clone().write(true).open(bench.file()).unwrap();
    let cuts = cut::Cuts::default();
    cuts.arm(at);
    std::thread::scope(|scope| {
        let carried = scope.spawn(|| {
            cut::follow(&cuts);
            carry_out(&file, &journal, &body)
        });
        assert!(carried.join().is_err(), "it was cut");
    });
    assert_eq!(cuts.place(), Some("before an extent is written"));
    let (found, _) = metadata(&bench.file());
    assert_eq!(bench.content(), old);
    finish_journals(&bench.root, &bench.private).unwrap();
    assert_eq!(bench.content(), new);
    assert_eq!(metadata(&bench.file()), (0o640, 1));
    found
}

#[test]
fn nobody_reads_the_new_content_by_the_old_mode() {
    assert_eq!(mode_at_first_byte(0o644, 2), 0o600);
    assert_eq!(mode_at_first_byte(0o640, 1), 0o640, "as it will be");
}

/// A base that is large enough for its chunks to be known, and they.
fn known_base() -> (Vec<u8>, Arc<Chunks>) {
    let mut old = vec![0; crate::chunks::CHUNKS_FROM as usize + 100_000];
    blake3::Hasher::new().finalize_xof().fill(&mut old);
    let mut hasher = crate::tail::TailHasher::new(old.len() as u64);
    hasher.update(&old);
    (old, Arc::new(hasher.take_chunks().expect("large enough")))
}

impl Bench {
    fn begin_known(&self, new: &[u8], chunks: Arc<Chunks>) -> Staging {
        let (base, key) = self.base();
        let redo = Redo::new(&path(), base, key, &state(new)).expect("it can be changed in place");
        let mut staging =
            Staging::begin_in_place(&self.private, redo, new.len() as u64).expect("begun");
        staging.know(chunks);
        staging
    }
}

#[test]
fn what_stays_is_not_read_when_its_chunks_are_known() {
    let (old, chunks) = known_base();
    let bench = Bench::new(&old);
    let mut new = old.clone();
    let changed = 3 << 20..(3 << 20) + 5000;
    new[changed.clone()].fill(7);
    let (from, to) = (changed.start as u64, changed.end as u64);
    let staged = |of: &File, chunks: &Arc<Chunks>| {
        let mut staging = bench.begin_known(&new, Arc::clone(chunks));
        staging.copy_from(of, 0, from)?;
        staging.write(&new[changed.clone()])?;
        staging.copy_from(of, to, old.len() as u64 - to)?;
        staging.finish(ContentHash::of(&new))
    };
    // Of another file only what is not known would show.
    let mut other = old.clone();
    other[1 << 20] ^= 1;
    other[5 << 20] ^= 1;
    let unread = tempfile::tempfile().unwrap();
    unread.write_all_at(&other, 0).unwrap();
    let mut good = staged(&unread, &chunks).expect("the content");
    let kept = good.take_chunks().expect("large enough");
    let mut hasher = crate::tail::TailHasher::new(new.len() as u64);
    hasher.update(&new);
    assert_eq!(Some(kept), hasher.take_chunks());
    other[changed.end + 1] ^= 1;
    unread.write_all_at(&other, 0).unwrap();
    assert_eq!(staged(&unread, &chunks).err(), Some(Fault::WrongContent));
    // Chunks of another content give another hash.
    let mut wrong = Chunks::clone(&chunks);
    wrong.hashes[2][0] ^= 1;
    let (base, _) = bench.base();
    let found = staged(&base, &Arc::new(wrong)).err();
    assert_eq!(found, Some(Fault::WrongContent));
}

#[test]
fn what_was_not_read_is_copied_by_the_same_stamp_only() {
    for touched in [false, true] {
        let (old, chunks) = known_base();
        let bench = Bench::new(&old);
        let mut new = old.clone();
        let mut staging = bench.begin_known(&new, chunks);
        let (base, _) = bench.base();
        let start = 8 << 20;
        staging.copy_from(&base, 0, start as u64).unwrap();
        if touched {
            let file = File::options().write(true).open(bench.file()).unwrap();
            file.write_all_at(b"unseen", 100).unwrap();
            // In the same tick the stamp would not move.
            file.set_modified(std::time::SystemTime::UNIX_EPOCH)
                .unwrap();
        }
        // More extents than a journal takes.
        let end = start + 2 * MAX_EXTENTS + 2;
        let each = (start..end).step_by(2).try_for_each(|at| {
            new[at] ^= 1;
            staging.write(&new[at..at + 1])?;
            staging.copy_from(&base, at as u64 + 1, 1)
        });
        if touched {
            assert!(matches!(each, Err(Fault::Changed(_))), "{each:?}");
            continue;
        }
        each.unwrap();
        let left = (old.len() - end) as u64;
        staging.copy_from(&base, end as u64, left).unwrap();
        let staged = staging.finish(ContentHash::of(&new)).expect("the content");
        assert!(staged.redo().is_none(), "a file of its own");
        let mut content = vec![0; new.len()];
        staged.file().read_exact_at(&mut content, 0).unwrap();
        assert!(content == new);
    }
}
