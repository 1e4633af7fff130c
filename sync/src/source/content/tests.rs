use super::*;
use crate::chunks::CHUNKS_FROM;
use crate::delta::SumsBuilder;
use crate::entry::{Meta, State};
use crate::path::RelPath;
use crate::tree::TreeId;

const CHUNK: usize = 64 << 10;
const SIZE: usize = CHUNKS_FROM as usize + 1000;
const ITEM: Item = Item { batch: 1, index: 0 };

fn noise(n: usize) -> Vec<u8> {
    let mut out = vec![0; n];
    blake3::Hasher::new().finalize_xof().fill(&mut out);
    out
}

fn chunks(bytes: &[u8]) -> Chunks {
    let mut builder = SumsBuilder::new(CHUNK as u32);
    assert!(builder.update(bytes));
    builder.finish().expect("few").1
}

fn record(bytes: &[u8]) -> Record {
    let kind = Kind::File {
        size: bytes.len() as u64,
        hash: ContentHash::of(bytes),
    };
    let meta = Meta {
        mode: 0o600,
        uid: 0,
        gid: 0,
        mtime_ns: 5,
        xattrs: Default::default(),
    };
    Record {
        tree: TreeId::of("data"),
        path: RelPath::new("f").expect("a path"),
        seq: 1,
        state: Some(State { kind, meta }),
        inline: false,
        grown_from: None,
        names: None,
    }
}

/// Sends `new`, of which `file` is what lies there, against `old`. What the replica makes of it; `None`: given up.
fn sent(old: &[u8], new: &[u8], file: File) -> Option<Vec<u8>> {
    let want = Want::Against(chunks(old).sums());
    let known = Some(Arc::new(chunks(new)));
    let mut content = Content::new(ITEM, &record(new), file, want, false, known).expect("a file");
    let mut made = Vec::new();
    loop {
        let (message, done) = match content.step() {
            Step::Send(message) => (message, false),
            Step::Complete(message) => (message, true),
            Step::GivenUp(_) => return None,
            Step::Again => continue,
            Step::Wait => panic!("it waits for what came"),
        };
        match message {
            Message::Data { bytes, .. } => made.extend_from_slice(&bytes),
            Message::Hole { len, .. } => made.resize(made.len() + len as usize, 0),
            Message::Copy { from, len, .. } => {
                made.extend_from_slice(&old[from as usize..(from + len) as usize]);
            }
            Message::SumsOf { from, len, .. } => {
                let part = &old[from as usize..(from + len) as usize];
                assert!(content.sums(from, &delta::signature_of(part), || 0));
            }
            Message::Room { .. } => {}
            other => panic!("{other:?}"),
        }
        if done {
            return Some(made);
        }
    }
}

fn lies(bytes: &[u8]) -> File {
    let file = tempfile::tempfile().expect("file");
    file.write_all_at(bytes, 0).expect("write");
    file
}

#[test]
fn only_what_differs_is_read_and_it_is_what_was_announced() {
    let old = noise(SIZE);
    let mut new = old.clone();
    new[5 * CHUNK + 7] ^= 1;
    new[9 * CHUNK - 1] ^= 1;
    new[9 * CHUNK] ^= 1;
    new[SIZE - 1] ^= 1;
    assert!(sent(&old, &new, lies(&new)).as_ref() == Some(&new));
    // What stayed the same is not read: whatever lies there now, the announced content is sent.
    let mut now = new.clone();
    now[6 * CHUNK..7 * CHUNK].fill(1);
    assert!(sent(&old, &new, lies(&now)).as_ref() == Some(&new));
    // What differs is.
    for at in [5 * CHUNK, 9 * CHUNK - 2, SIZE - 2] {
        let mut now = new.clone();
        now[at] ^= 1;
        assert!(sent(&old, &new, lies(&now)).is_none(), "{at}");
    }
}

#[test]
fn a_longer_a_shorter_and_a_moved_content_arrive() {
    let old = noise(SIZE);
    let longer = [&old[..], &noise(3 * CHUNK)[..]].concat();
    let mut moved = old.clone();
    moved.splice(4 * CHUNK..4 * CHUNK, noise(100));
    for new in [&longer[..], &old[..SIZE - 500], &moved[..]] {
        assert!(sent(&old, new, lies(new)).as_deref() == Some(new));
    }
}

#[test]
fn a_hole_is_sent_only_where_zeros_were_announced() {
    let old = noise(SIZE);
    let mut new = old.clone();
    new[16 * CHUNK..32 * CHUNK].fill(0);
    let file = lies(&new);
    crate::holes::punch(&file, 16 * CHUNK as u64, 16 * CHUNK as u64).expect("punched");
    assert!(sent(&old, &new, file).as_ref() == Some(&new));
    let file = lies(&new);
    crate::holes::punch(&file, 16 * CHUNK as u64, 17 * CHUNK as u64).expect("punched");
    assert!(sent(&old, &new, file).is_none());
}
