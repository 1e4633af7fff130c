//! Somebody who may write in a tree exchanges a directory in it for a link out of it: whatever the engine does below that
//! directory meanwhile, it does in the tree, and what is outside is not read either. Afterwards both sides become equal.

use super::compare::assert_equal;
use super::pair::{Cable, Node, flush, noise, pair, recorded, write};
use crate::beneath::Root;
use crate::beneath::tests::swapped::Swapper;
use crate::engine::moved::rename;
use crate::engine::tree::Open;
use crate::engine::{PutEntry, PutFile};
use crate::entry::{Meta, Xattrs};
use crate::path::RelPath;
use crate::private::Private;
use crate::tree::{Deletes, MaxDelete, TreeConfig, TreeId, Update};
use crate::wire::Move;
use std::io::Write;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

/// Of each test: each of them gives the engine something to do at every path below the directory.
const ROUNDS: u64 = 12;
/// Between two exchanges: often enough for every change to meet some, seldom enough for some to be carried out.
const PAUSE: Duration = Duration::from_micros(300);
/// What lies below the link is gone for the source, again and again: that is no reason to stop the tree here.
const ALL: MaxDelete = MaxDelete::Count(1_000_000);
/// How long a round waits for a change to arrive, which it may not.
const ARRIVES: Duration = Duration::from_millis(300);

/// A directory outside the tree in which everything has a name that the tree has below `d`.
fn outside(node: &Node, large: usize) -> PathBuf {
    let outside = node.dir.path().join("outside");
    fill(&outside, large, 1000);
    outside
}

fn fill(dir: &std::path::Path, large: usize, seed: u64) {
    write(&dir.join("large"), noise(large, seed));
    write(&dir.join("sub/large"), noise(100_000, seed + 1));
    for name in ["f", "sub/f", "sub/g"] {
        write(&dir.join(name), noise(3000, seed + 2));
    }
    for n in 0..ROUNDS {
        write(&dir.join(format!("gone{n}")), noise(3000, seed + 3 + n));
    }
}

async fn settled(a: &Node, b: &Node) {
    flush(a).await;
    // The last exchange is a change of the standby's own tree, which it hears of later.
    recorded(b).await;
    b.until("consistent", |s| s.consistent && s.trees[0].dirty == 0)
        .await;
    assert_equal(&a.tree(), &b.tree());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_applied_below_a_swapped_directory_stays_in_the_tree() {
    let change = |t: &mut TreeConfig| {
        (t.update, t.deletes) = (Update::InPlace, Deletes::Trash);
        t.max_delete = ALL;
    };
    let (a, b) = pair(change).await;
    // Large enough to be changed in place.
    let size = 1_300_000;
    fill(&a.tree().join("d"), size, 1);
    let cable = Cable::plug(&a, &b);
    settled(&a, &b).await;
    let swapper = Swapper::begin(&b.tree(), &outside(&b, size), PAUSE);
    let at = |name: &str| a.tree().join("d").join(name);
    for n in 0..ROUNDS {
        write(&at("f"), noise(3000, 100 + n));
        let mut large = noise(size, 1);
        large[n as usize * 1000..][..1000].fill(n as u8);
        write(&at("large"), large);
        std::fs::remove_file(at(&format!("gone{n}"))).unwrap();
        let (from, to) = [("sub", "bus"), ("bus", "sub")][n as usize % 2];
        std::fs::rename(at(from), at(to)).unwrap();
        // And what goes to the rescue.
        swapper.write("f", b"of the standby");
        let _ = a.engine().flush(ARRIVES).await;
    }
    swapper.end();
    settled(&a, &b).await;
    cable.cut().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_swapped_directory_leads_to_is_neither_read_nor_written_by_the_source() {
    let (a, b) = pair(|t| t.max_delete = ALL).await;
    fill(&a.tree().join("d"), 200_000, 1);
    let outside = outside(&a, 200_000);
    write(&outside.join("nobody's-business"), "");
    let secrets = ["large", "sub/large", "f"].map(|name| {
        let content = std::fs::read(outside.join(name)).unwrap();
        content[1000..1064].to_vec()
    });
    let shown = noise(3000, 5000);
    let name = b"nobody's-business".to_vec();
    let sought = [&secrets[..], &[name, shown[1000..1064].to_vec()]].concat();
    let (near, far) = tokio::io::duplex(64 << 10);
    let found = Arc::default();
    let seen = Sees {
        inner: near,
        sought,
        last: Vec::new(),
        found: Arc::clone(&found),
    };
    let cable = Cable::over(&a, &b, seen, far);
    settled(&a, &b).await;
    let swapper = Swapper::begin(&a.tree(), &outside, PAUSE);
    let mut put = 0;
    for n in 0..ROUNDS {
        swapper.write("f", &noise(3000, 100 + n));
        swapper.write("large", &noise(200_000, 200 + n));
        swapper.write(&format!("new{n}"), &noise(9000, 300 + n));
        put += restore(&a, n).await;
        let _ = a.engine().flush(ARRIVES).await;
    }
    swapper.end();
    assert!(put > 0, "nothing was restored: the race was not tried");
    write(&a.tree().join("shown"), &shown);
    recorded(&a).await;
    settled(&a, &b).await;
    let found: Vec<usize> = found.lock().unwrap().clone();
    assert_eq!(found, [secrets.len() + 1], "only what was to be seen");
    cable.cut().await;
}

/// What `rescue restore` and `trash restore` write on the master. Gives how much of it was written.
async fn restore(master: &Node, n: u64) -> usize {
    let file = |name: String| PutFile {
        path: RelPath::new(format!("d/{name}")).unwrap(),
        meta: Meta {
            mode: 0o600,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            mtime_ns: 5,
            xattrs: Xattrs::default(),
        },
        names: None,
        replace: true,
    };
    let mut put = 0;
    for name in ["f".to_owned(), format!("put{n}/f"), format!("put{n}/g")] {
        let mut content = tempfile::tempfile().unwrap();
        content.write_all(b"restored").unwrap();
        let done = master.engine().put_file("data", file(name), content).await;
        put += usize::from(done.is_ok());
    }
    for (name, entry) in [
        (format!("dir{n}"), PutEntry::Directory),
        ("f".to_owned(), PutEntry::Symlink(b"elsewhere".to_vec())),
    ] {
        let done = master.engine().put_entry("data", file(name), entry).await;
        put += usize::from(done.is_ok());
    }
    put
}

/// A stream that knows which of these it has carried.
struct Sees {
    inner: DuplexStream,
    sought: Vec<Vec<u8>>,
    /// The end of what was written before.
    last: Vec<u8>,
    /// In the order of the first time.
    found: Arc<Mutex<Vec<usize>>>,
}

impl Sees {
    fn look(&mut self, bytes: &[u8]) {
        let longest = self.sought.iter().map(Vec::len).max().unwrap_or(0);
        self.last.extend_from_slice(bytes);
        let mut found = self.found.lock().unwrap();
        for (n, sought) in self.sought.iter().enumerate() {
            let here = || self.last.windows(sought.len()).any(|part| part == sought);
            if !found.contains(&n) && here() {
                found.push(n);
            }
        }
        let from = self.last.len().saturating_sub(longest);
        self.last.drain(..from);
    }
}

impl AsyncRead for Sees {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Sees {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let written = std::task::ready!(Pin::new(&mut self.inner).poll_write(cx, bytes))?;
        self.look(&bytes[..written]);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// Somebody exchanges the directory in which it lies for a link out of the tree, where something has the same name.
#[test]
fn nothing_outside_is_renamed() {
    for walks in [false, true] {
        let temp = tempfile::tempdir().expect("temp dir");
        let (tree, outside) = (temp.path().join("t"), temp.path().join("outside"));
        for dir in [tree.join("d/s"), tree.join("other"), outside.join("s")] {
            std::fs::create_dir_all(dir.join("from")).expect("mkdir");
        }
        let root = Root::open(&tree).expect("root");
        let private = Private::open(&root).expect("private");
        let open = Open {
            root: Arc::new(if walks { root.without_openat2() } else { root }),
            private: Arc::new(private),
            update: Update::Atomic,
            in_sets: false,
        };
        let path = |text: &str| RelPath::new(text).expect("valid");
        let one = |from: &str, to: &str| Move {
            tree: TreeId::of("t"),
            from: path(from),
            to: path(to),
            seq: 1,
            stamp: 0,
        };
        let moves = [
            one("d/s/from", "d/s/to"),
            one("d/s/to", "d/s/from"),
            one("d/s/from", "came"),
            one("came", "d/s/from"),
            one("other/from", "d/s/came"),
            one("d/s/came", "other/from"),
        ];
        let swapper = Swapper::begin(&tree, &outside, Duration::ZERO);
        let renamed = |one: &&Move| rename(&open, one).is_ok();
        swapper.race(|_, _| moves.iter().filter(renamed).count());
    }
}
