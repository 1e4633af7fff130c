use super::*;
use crate::beneath::Root;
use crate::engine::stream::Outgoing;
use crate::entry::ContentHash;
use crate::path::RelPath;
use crate::private::Private;

struct Setup {
    dir: tempfile::TempDir,
    private: Private,
    path: RelPath,
}

fn setup() -> Setup {
    let dir = tempfile::tempdir().expect("temp dir");
    let root = Root::open(dir.path()).expect("root");
    Setup {
        private: Private::open(&root).expect("private"),
        dir,
        path: RelPath::new("f").expect("a path"),
    }
}

impl Setup {
    /// What a transfer of a content of `size` bytes leaves that is cut after `bytes`.
    fn cut(&self, bytes: &[u8], size: u64) {
        let mut staging = Staging::begin_lasting(&self.private, &self.path, size).expect("begun");
        staging.write(bytes).expect("written");
    }

    fn old(&self, bytes: &[u8]) -> File {
        let at = self.dir.path().join("f");
        std::fs::write(&at, bytes).expect("write");
        File::open(at).expect("open")
    }

    fn find(&self, old: Option<File>, size: u64) -> Option<Found> {
        find(
            Partial::take(&self.private, &self.path),
            old.map(|file| Old { file, known: None }),
            |_| None,
            size,
            &pulse(),
        )
    }

    fn partials(&self) -> usize {
        let dir = std::fs::read_dir(self.dir.path().join(".tandem/partial"));
        dir.expect("dir").count()
    }

    fn resume(&self, found: &mut Found, size: u64) -> Staging {
        let start = std::mem::replace(&mut found.start, Start::Empty);
        let Start::Cut(partial, kept) = start else {
            panic!("not a partial content but {start:?}");
        };
        Staging::resume(&self.private, &self.path, partial, kept, size).expect("resumed")
    }
}

fn partial(found: &Found) -> &File {
    match &found.start {
        Start::Cut(partial, _) => partial.file(),
        other => panic!("not a partial content but {other:?}"),
    }
}

fn pulse() -> Pulse {
    Pulse::new(Outgoing::nowhere())
}

fn noise(n: usize) -> Vec<u8> {
    let mut out = vec![0; n];
    blake3::Hasher::new().finalize_xof().fill(&mut out);
    out
}

const CHUNK_LEN: usize = 64 << 10;

#[test]
fn the_beginning_is_of_the_cut_transfer_and_the_rest_of_the_old_version() {
    let setup = setup();
    let (new, old) = (noise(10 * CHUNK_LEN), vec![7; 12 * CHUNK_LEN]);
    setup.cut(&new[..4 * CHUNK_LEN + 100], new.len() as u64);
    let found = setup
        .find(Some(setup.old(&old)), new.len() as u64)
        .expect("a basis");
    assert_eq!(found.sums.size, old.len() as u64);
    let mut both = new[..4 * CHUNK_LEN].to_vec();
    both.extend_from_slice(&old[4 * CHUNK_LEN..]);
    for (i, chunk) in both.chunks(CHUNK_LEN).enumerate() {
        assert!(
            found.sums.same_at((i * CHUNK_LEN) as u64, chunk),
            "chunk {i}"
        );
    }
    let mut read = vec![0; 2 * CHUNK_LEN];
    found
        .basis
        .read(&mut read, 3 * CHUNK_LEN as u64)
        .expect("read over the seam");
    assert_eq!(read, both[3 * CHUNK_LEN..5 * CHUNK_LEN]);
    assert!(found.basis.read(&mut read, 11 * CHUNK_LEN as u64).is_err());
}

#[test]
fn what_came_is_kept_in_place_and_only_hashed() {
    let setup = setup();
    let new = noise(10 * CHUNK_LEN);
    setup.cut(&new[..6 * CHUNK_LEN], new.len() as u64);
    let mut found = setup.find(None, new.len() as u64).expect("a basis");
    let inode = |file: &File| std::os::unix::fs::MetadataExt::ino(&file.metadata().expect("stat"));
    let before = inode(partial(&found));
    let mut staging = setup.resume(&mut found, new.len() as u64);
    let kept = 6 * CHUNK_LEN as u64;
    found
        .basis
        .copy_to(&mut staging, 0, kept, &pulse())
        .expect("kept");
    staging.write(&new[6 * CHUNK_LEN..]).expect("written");
    let staged = staging.finish(ContentHash::of(&new)).expect("the content");
    assert_eq!(inode(staged.file()), before);
}

#[test]
fn content_that_changed_meanwhile_leaves_the_basis_readable() {
    let setup = setup();
    let old = noise(8 * CHUNK_LEN);
    setup.cut(&old, 9 * CHUNK_LEN as u64);
    // A piece is put in after the second chunk: what follows moves, and is copied from behind the place of writing.
    let mut new = old.clone();
    new.splice(2 * CHUNK_LEN..2 * CHUNK_LEN, noise(100));
    let mut found = setup.find(None, 9 * CHUNK_LEN as u64).expect("a basis");
    let mut staging = setup.resume(&mut found, new.len() as u64);
    let copy = |staging: &mut Staging, from: usize, len: usize| {
        found
            .basis
            .copy_to(staging, from as u64, len as u64, &pulse())
            .expect("copied");
    };
    copy(&mut staging, 0, 2 * CHUNK_LEN);
    staging.write(&noise(100)).expect("written");
    copy(&mut staging, 2 * CHUNK_LEN, 6 * CHUNK_LEN);
    staging.finish(ContentHash::of(&new)).expect("the content");
}

#[test]
fn a_content_that_became_shorter_ends_where_it_is() {
    let setup = setup();
    let old = noise(8 * CHUNK_LEN);
    setup.cut(&old, 9 * CHUNK_LEN as u64);
    let new = &old[..5 * CHUNK_LEN + 10];
    let mut found = setup.find(None, new.len() as u64).expect("a basis");
    assert_eq!(found.sums.size, new.len() as u64);
    let mut staging = setup.resume(&mut found, new.len() as u64);
    found
        .basis
        .copy_to(&mut staging, 0, new.len() as u64, &pulse())
        .expect("kept");
    let staged = staging.finish(ContentHash::of(new)).expect("the content");
    assert_eq!(
        staged.file().metadata().expect("stat").len(),
        new.len() as u64
    );
}

#[test]
fn a_damaged_part_is_never_taken_for_the_content() {
    let setup = setup();
    let new = noise(8 * CHUNK_LEN);
    setup.cut(&new[..6 * CHUNK_LEN], new.len() as u64);
    let mut found = setup.find(None, new.len() as u64).expect("a basis");
    // Damaged after its sums were taken, so that only the whole content's hash can show it.
    partial(&found).write_all_at(b"damage", 100).expect("write");
    let mut staging = setup.resume(&mut found, new.len() as u64);
    found
        .basis
        .copy_to(&mut staging, 0, 6 * CHUNK_LEN as u64, &pulse())
        .expect("kept");
    staging.write(&new[6 * CHUNK_LEN..]).expect("written");
    let fault = staging.finish(ContentHash::of(&new)).err();
    assert_eq!(fault, Some(Fault::WrongContent));
    assert_eq!(setup.partials(), 0, "nothing wrong stays");
}

#[test]
fn less_than_a_chunk_is_not_kept() {
    let setup = setup();
    setup.cut(&noise(CHUNK_LEN - 1), 1 << 20);
    assert_eq!(setup.partials(), 0);
    assert!(setup.find(None, 1 << 20).is_none());
    setup.cut(&noise(CHUNK_LEN), 1 << 20);
    assert_eq!(setup.partials(), 1);
}

#[test]
fn of_a_version_with_known_chunks_nothing_is_read_while_it_has_its_stamp() {
    let setup = setup();
    let bytes = noise(CHUNKS_FROM as usize + 100);
    let size = bytes.len() as u64;
    let find_known = |chunks: Option<Arc<Chunks>>, key: Option<LocalKey>, hash| {
        let file = setup.old(&bytes);
        let of_now = || Stat::of_fd(file.as_fd()).expect("stat").key();
        let known = Known {
            key: key.unwrap_or_else(of_now),
            hash,
            chunks,
        };
        let known = Some(known);
        find(None, Some(Old { file, known }), |_| None, size, &pulse()).expect("a basis")
    };
    let hash = ContentHash::of(&bytes);
    // By reading it.
    let read = find_known(None, None, hash);
    let chunks = read.chunks.expect("it is what the index says");
    assert_eq!(chunks.sums(), read.sums);
    assert!(
        find_known(None, None, ContentHash([1; 32]))
            .chunks
            .is_none()
    );
    // By what is remembered: not what lies there, so that one sees which it was.
    let mut other = Chunks::clone(&chunks);
    other.hashes[3] = [9; 32];
    let other = Arc::new(other);
    let found = find_known(Some(Arc::clone(&other)), None, hash);
    assert_eq!(found.sums, other.sums());
    assert_eq!(found.chunks, Some(Arc::clone(&other)));
    // It is another version.
    let mut key = Stat::of_fd(setup.old(&bytes).as_fd()).expect("stat").key();
    key.ctime_ns -= 1;
    let found = find_known(Some(other), Some(key), hash);
    assert_eq!((found.sums, found.chunks), (read.sums, None));
}
