//! Lists of the longest paths there are: no message of them is longer than a frame may be.

use super::pair::{Cable, Node, flush, pair, write};
use crate::engine::Receiver;
use crate::entry::{Kind, Meta, State, Xattrs};
use crate::path::RelPath;
use crate::source::fetch::{Fetcher, Stretch};
use crate::tree::{LocalChanges, MaxDelete, TreeId};
use crate::wire::{self, Batch, Message};
use rustix::fs::{Mode, OFlags};
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;

/// Directories above each file, with names of so many bytes: a path of 7 KiB.
const DEEP: (usize, usize) = (30, 250);
/// Files: their paths together are longer than a frame may be.
const FILES: usize = 300;

fn descend(node: &Node, make: bool) -> Vec<OwnedFd> {
    let mut dirs = vec![OwnedFd::from(std::fs::File::open(node.tree()).unwrap())];
    let name = "d".repeat(DEEP.1);
    for _ in 0..DEEP.0 {
        let above = dirs.last().expect("the root");
        if make {
            rustix::fs::mkdirat(above, &name, Mode::RWXU).unwrap();
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        dirs.push(rustix::fs::openat(above, &name, flags, Mode::empty()).unwrap());
    }
    dirs
}

fn put(dirs: &[OwnedFd], name: &str, text: &str) {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
    let file = rustix::fs::openat(dirs.last().unwrap(), name, flags, Mode::RUSR | Mode::WUSR);
    let mut file = std::fs::File::from(file.unwrap());
    file.write_all(text.as_bytes()).unwrap();
}

fn got(dirs: &[OwnedFd], name: &str) -> Option<String> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(dirs.last().unwrap(), name, flags, Mode::empty()).ok()?;
    let mut text = String::new();
    std::fs::File::from(file).read_to_string(&mut text).unwrap();
    Some(text)
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_of_the_longest_paths_fit_in_their_frames() {
    let (a, b) = pair(|t| {
        t.max_delete = MaxDelete::Count(1000);
        t.local_changes = LocalChanges::Report;
    })
    .await;
    write(&a.tree().join("stays"), "here");
    let here = descend(&a, true);
    (0..FILES).for_each(|n| put(&here, &n.to_string(), "first"));
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    b.until("consistent", |s| s.consistent).await;
    let there = descend(&b, false);
    // What differs is named by questions and answers, and asked for.
    for n in 0..FILES {
        put(&there, &n.to_string(), "other");
    }
    let looked = a
        .engine()
        .verify(&Receiver::Standby, Some("data"), false, None)
        .await
        .unwrap();
    assert!(looked.found >= FILES as u64, "{}", looked.found);
    let mended = a
        .engine()
        .verify(&Receiver::Standby, Some("data"), true, None)
        .await
        .unwrap();
    assert!(mended.repaired);
    for n in 0..FILES {
        assert_eq!(got(&there, &n.to_string()).as_deref(), Some("first"));
    }
    cable.cut().await;
}

/// A file whose directories are all newer than it is: together their records are much longer than a frame.
#[tokio::test(flavor = "multi_thread")]
async fn what_must_come_before_a_file_comes_in_as_many_frames_as_it_takes() {
    let (a, _b) = pair(|_| {}).await;
    let shared = &a.engine().shared;
    let mut scanned = shared.scanned.subscribe();
    scanned.wait_for(|scanned| *scanned).await.unwrap();
    let path = |depth: usize| {
        let names = vec![vec![b'd'; 250]; depth];
        RelPath::from_bytes(&names.join(&b'/')).unwrap()
    };
    let state = |kind| {
        let meta = Meta {
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime_ns: 0,
            xattrs: Xattrs::default(),
        };
        Some(State { kind, meta })
    };
    let (tree, last) = (TreeId::of("data"), 140);
    let wrote = shared.index.write(|w| {
        w.observe(tree, &path(last), state(Kind::Fifo), None)?;
        (1..last).try_for_each(|n| w.observe(tree, &path(n), state(Kind::Dir), None).map(drop))
    });
    wrote.unwrap();
    let all = [(tree, 0)].into();
    let mut fetcher = Fetcher::new(
        shared.clone(),
        all,
        Default::default(),
        Default::default(),
        true,
    );
    let mut reads = Stretch {
        after: 0,
        upto: u64::MAX,
        limited: true,
        ahead: 0,
    };
    let mut sent = BTreeSet::from([RelPath::root()]);
    loop {
        let fetched = fetcher.stream(&shared.index, reads, 0).unwrap();
        for record in &fetched.records {
            let above = record.path.parent().unwrap_or_else(RelPath::root);
            assert!(sent.contains(&above), "before its directory");
            sent.insert(record.path.clone());
        }
        let batch = Message::Batch(Batch {
            id: 1,
            records: fetched.records,
            totals: fetched.totals,
            withheld: vec![],
        });
        let frame = wire::encode(&batch).unwrap();
        assert_eq!(
            wire::decode(&bytes::Bytes::from(frame).slice(4..)).unwrap(),
            batch
        );
        reads.after = fetched.upto;
        if fetched.at_head {
            break;
        }
    }
    assert_eq!(sent.len(), last + 1);
}
