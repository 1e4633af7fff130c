//! One source, its standby and replicas.

use super::compare::assert_equal;
use super::hostile::Puppet;
use super::pair::{Cable, Node, PATIENCE, flush, noise, write};
use super::reversal::rescued;
use crate::engine::clock;
use crate::engine::tombstones::tests as tombstones;
use crate::engine::{CommandError, EngineStatus, SessionEnd, SessionError};
use crate::tree::{Part, ReplicaConfig, TreeConfig, TreeId};
use crate::wire::{Accept, End, Hello, Message};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

fn fed_data(name: &str) -> ReplicaConfig {
    ReplicaConfig {
        name: name.into(),
        trees: vec!["data".into()],
    }
}

fn node(name: &'static str, change: fn(&mut TreeConfig)) -> Node {
    let replicas = vec![fed_data("web1"), fed_data("web2")];
    Node::with(name, Part::Node { replicas }, change)
}

async fn replica(name: &'static str) -> Node {
    replica_with(name, |_| {}).await
}

async fn replica_with(name: &'static str, change: fn(&mut TreeConfig)) -> Node {
    let web = Node::with(name, Part::Replica, change);
    web.engine().begin_replica().await.unwrap();
    web
}

async fn three() -> (Node, Node, Node, [Cable; 2]) {
    three_with(|_| {}).await
}

/// Source a, standby b and replica web1, all with the same files.
pub async fn three_with(change: fn(&mut TreeConfig)) -> (Node, Node, Node, [Cable; 2]) {
    let (a, b) = (node("a", change), node("b", change));
    let web = replica_with("web1", change).await;
    for n in 0..40 {
        write(&a.tree().join(format!("dir/file{n}")), noise(9000, n));
    }
    write(&a.tree().join("large"), noise(1 << 20, 99));
    a.engine().init_source().await.unwrap();
    a.engine().begin_source(1).await.unwrap();
    b.engine().begin_replica().await.unwrap();
    let cables = [Cable::plug(&a, &b), Cable::plug(&a, &web)];
    flush(&a).await;
    b.until("consistent", |s| s.consistent).await;
    fed(&a, "web1").await;
    web.until("consistent", |s| s.consistent).await;
    (a, b, web, cables)
}

/// Waits until a replica has everything.
pub async fn fed(source: &Node, name: &str) {
    let there = |status: &EngineStatus| {
        let mut replicas = status.replicas.iter();
        replicas.any(|r| {
            let up = r.session.as_ref().is_some_and(|s| s.caught_up);
            r.name == name && up && r.acked >= status.seq && r.lag == Some(Duration::ZERO)
        })
    };
    // What was written last is in the index when this returns, whether or not there is a standby.
    let _ = source.engine().flush(Duration::from_millis(200)).await;
    source.until("feeding the replica", there).await;
}

async fn take_over(by: &Node, term: u64) {
    by.engine().revoke(Duration::from_secs(2));
    by.engine().begin_source(term).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_gets_everything_and_only_receives() {
    let (a, b, web, _cables) = three().await;
    assert_equal(&a.tree(), &web.tree());
    write(&a.tree().join("dir/file3"), "newer");
    std::fs::remove_file(a.tree().join("dir/file4")).unwrap();
    std::fs::rename(a.tree().join("dir"), a.tree().join("renamed")).unwrap();
    flush(&a).await;
    fed(&a, "web1").await;
    assert_equal(&a.tree(), &web.tree());
    assert_equal(&a.tree(), &b.tree());
    assert_eq!(web.shown().await.from.as_deref(), Some("a"));
    for refused in [
        web.engine().begin_source(9).await,
        web.engine().init_source().await.map(drop),
    ] {
        assert!(matches!(refused, Err(CommandError::Replica)), "{refused:?}");
    }
}

/// Replica web2, which has everything and takes nothing any more, and the session with it.
pub async fn stuck(source: &Node) -> (Node, JoinHandle<Result<SessionEnd, SessionError>>) {
    let web = replica("web2").await;
    let (inner, theirs) = tokio::io::duplex(64 << 10);
    let stuck = Arc::new(AtomicBool::new(false));
    let stream = Sticks {
        inner,
        stuck: Arc::clone(&stuck),
    };
    let (from, to) = (source.engine().clone(), web.engine().clone());
    let cancel = CancellationToken::new();
    tokio::spawn({
        let cancel = cancel.clone();
        async move { to.run_replica_session(theirs, cancel).await }
    });
    let session =
        tokio::spawn(async move { from.run_feed_session("web2", stream, None, cancel).await });
    fed(source, "web2").await;
    stuck.store(true, Ordering::Release);
    (web, session)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_takes_nothing_delays_nobody() {
    let (a, b, _web, cables) = three().await;
    let [standby, feed] = cables;
    feed.cut().await;
    let (slow, source) = stuck(&a).await;
    for n in 0..60 {
        write(&a.tree().join(format!("more/{n}")), noise(300_000, n));
    }
    flush(&a).await;
    assert_equal(&a.tree(), &b.tree());
    a.until("the standby has it all", |s| s.lag == Some(Duration::ZERO))
        .await;
    a.until("behind at web2", |s| {
        let web2 = s.replicas.iter().find(|r| r.name == "web2");
        web2.is_some_and(|r| r.acked < s.seq && r.lag.is_some_and(|lag| lag > Duration::ZERO))
    })
    .await;
    assert!(!source.is_finished());
    source.abort();
    standby.cut().await;
    drop(slow);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_follows_the_new_master_without_a_resend() {
    let (a, mut b, web, cables) = three().await;
    for cable in cables {
        cable.cut().await;
    }
    take_over(&b, 2).await;
    let (cable, bytes) = Cable::counting(&b, &web);
    write(&b.tree().join("dir/file1"), "of the new master");
    fed(&b, "web1").await;
    web.until("consistent", |s| s.consistent).await;
    assert_equal(&b.tree(), &web.tree());
    let sent = bytes.load(Ordering::Relaxed);
    assert!(sent < 10_000, "{sent} bytes were sent for one small change");
    assert!(rescued(&web).is_empty());
    assert_eq!(web.shown().await.from.as_deref(), Some("b"));
    cable.cut().await;
    b.stop().await;
    drop(a);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_has_past_the_branch_goes_to_its_rescue_and_it_does_not_turn_back() {
    let (a, b, web, [standby, feed]) = three().await;
    standby.cut().await;
    write(&a.tree().join("late"), "nobody else has it");
    write(&a.tree().join("dir/file2"), "changed late");
    fed(&a, "web1").await;
    take_over(&b, 2).await;
    // The old master is cut off from the pair and goes on: its session is there until the new one comes.
    let cable = Cable::plug(&b, &web);
    write(&b.tree().join("dir/file5"), "of the new master");
    fed(&b, "web1").await;
    web.until("consistent", |s| s.consistent).await;
    assert_equal(&b.tree(), &web.tree());
    let found = rescued(&web);
    let found: Vec<_> = found.iter().map(|(p, c)| (&p[..], &c[..])).collect();
    let expected = [
        ("dir/file2", "changed late"),
        ("late", "nobody else has it"),
    ];
    assert_eq!(found, expected);
    let _ = feed.ended().await;
    let again = Cable::plug(&a, &web);
    let (source, _) = again.ended().await;
    let refused = matches!(&source, Ok(SessionEnd::Refused { why, retry: true }) if why.contains("later master"));
    assert!(refused, "{source:?}");
    write(&b.tree().join("dir/file6"), "goes on");
    fed(&b, "web1").await;
    assert_equal(&b.tree(), &web.tree());
    assert!(!cable.source.is_finished(), "it was not disturbed");
    cable.cut().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_missed_what_left_no_record_is_compared_whole() {
    let (a, b, web, [standby, feed]) = three().await;
    feed.cut().await;
    // Without replicas a rename is carried out as one, and a tombstone that the standby has may go.
    a.engine().set_replicas(&[]).unwrap();
    std::fs::rename(a.tree().join("dir"), a.tree().join("elsewhere")).unwrap();
    flush(&a).await;
    assert!(floor(&a) > 0 && floor(&b) > 0, "it was carried out as one");
    std::fs::remove_file(a.tree().join("large")).unwrap();
    flush(&a).await;
    a.engine().set_replicas(&[fed_data("web1")]).unwrap();
    let (cable, bytes) = Cable::counting(&a, &web);
    fed(&a, "web1").await;
    // What it has besides goes last.
    web.until("compared whole", |s| s.consistent && s.trees[0].rescued > 0)
        .await;
    assert_equal(&a.tree(), &web.tree());
    let sent = bytes.load(Ordering::Relaxed);
    assert!(sent < 500_000, "{sent} bytes: only what is at another name");
    cable.cut().await;
    standby.cut().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn removed_tombstones_do_not_leave_files_behind() {
    let (a, _b, web, [standby, feed]) = three().await;
    feed.cut().await;
    std::fs::remove_file(a.tree().join("dir/file7")).unwrap();
    flush(&a).await;
    standby.cut().await;
    let index = &a.engine().shared.index;
    let head = index.snapshot().unwrap().last_seq();
    let purged = index.write(|w| {
        w.ack(head);
        w.purge_tombstones(head, 100)
    });
    assert_eq!(purged.unwrap(), 1);
    let (cable, bytes) = Cable::counting(&a, &web);
    fed(&a, "web1").await;
    // What it has besides goes last.
    web.until("compared whole", |s| s.consistent && s.trees[0].rescued > 0)
        .await;
    assert_equal(&a.tree(), &web.tree());
    assert!(bytes.load(Ordering::Relaxed) < 100_000, "no contents");
    assert!(rescued(&web).contains_key("dir/file7"));
    cable.cut().await;
}

/// Tombstones that are left in a node's index, once it has looked at those that are old.
async fn left_when_old(node: &Node) -> u64 {
    let index = &node.engine().shared.index;
    let seen = || async {
        while !tombstones::is_seen(index) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let both = async {
        // The first mark of all, with which none is old.
        seen().await;
        tombstones::age(index);
        seen().await;
    };
    let both = tokio::time::timeout(PATIENCE, both).await;
    both.expect("the worker looks at old tombstones");
    let counts = index.snapshot().unwrap().counts(TreeId::of("data"));
    counts.unwrap().tombstones
}

#[tokio::test(flavor = "multi_thread")]
async fn old_tombstones_go_when_every_receiver_knows_them() {
    let (a, b, web, [standby, feed]) = three().await;
    for name in ["dir/file7", "dir/file8"] {
        std::fs::remove_file(a.tree().join(name)).unwrap();
    }
    flush(&a).await;
    fed(&a, "web1").await;
    assert_eq!(left_when_old(&a).await, 2, "web2 was not heard of");
    for receiver in [&b, &web] {
        receiver.until("at rest", |s| s.consistent).await;
        assert_eq!(left_when_old(receiver).await, 0);
    }
    a.engine().set_replicas(&[fed_data("web1")]).unwrap();
    assert_eq!(left_when_old(&a).await, 0);
    assert!(floor(&a) > 0 && floor(&a) == floor(&b));
    // Nobody who knew them is compared for it, whoever becomes master.
    standby.cut().await;
    feed.cut().await;
    take_over(&b, 2).await;
    a.engine().begin_replica().await.unwrap();
    write(&b.tree().join("later"), "of the new master");
    let (cable, bytes) = Cable::counting(&b, &a);
    let (feed, fed_bytes) = Cable::counting(&b, &web);
    flush(&b).await;
    fed(&b, "web1").await;
    assert_equal(&b.tree(), &a.tree());
    assert_equal(&b.tree(), &web.tree());
    for (node, bytes) in [(&a, bytes), (&web, fed_bytes)] {
        assert!(bytes.load(Ordering::Relaxed) < 10_000);
        assert!(rescued(node).is_empty());
    }
    cable.cut().await;
    feed.cut().await;
}

/// What it deleted past the branch it has forgotten, and so cannot ask for it.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_forgot_what_it_must_take_back_is_compared_whole() {
    let (a, b, web, [standby, feed]) = three().await;
    standby.cut().await;
    std::fs::remove_file(a.tree().join("dir/file2")).unwrap();
    fed(&a, "web1").await;
    web.until("at rest", |s| s.consistent).await;
    assert!(!web.tree().join("dir/file2").exists());
    assert_eq!(left_when_old(&web).await, 0);
    feed.cut().await;
    take_over(&b, 2).await;
    let cable = Cable::plug(&b, &web);
    fed(&b, "web1").await;
    web.until("consistent", |s| s.consistent).await;
    assert_equal(&b.tree(), &web.tree());
    cable.cut().await;
}

/// A source's session with a puppet in the place of a replica.
async fn puppet(source: &Node, name: &'static str) -> Puppet {
    let (mine, theirs) = tokio::io::duplex(64 << 10);
    let engine = source.engine().clone();
    let session = tokio::spawn(async move {
        let cancel = CancellationToken::new();
        engine.run_feed_session(name, theirs, None, cancel).await
    });
    let hello = Hello {
        end: End::Replica,
        pair: "test".into(),
        heads: source.engine().lineages().unwrap(),
        floors: Vec::new(),
    };
    Puppet::begin(mine, session, hello).await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_does_not_take_a_tree_is_not_in_sync() {
    let (a, _b, _web, _cables) = three().await;
    let mut puppet = puppet(&a, "web2").await;
    let accept = Accept {
        from: Vec::new(),
        inline: true,
        stamp: 0,
    };
    puppet.say(&Message::Accept(accept)).await;
    // All that it takes is there.
    puppet.hear("Idle", |m| matches!(m, Message::Idle(_))).await;
    let status = a
        .engine()
        .shared
        .receivers
        .status(clock::now(), Duration::ZERO);
    let web2 = status.iter().find(|r| r.name == "web2").unwrap();
    assert!(web2.session.as_ref().is_some_and(|s| !s.caught_up));
    assert!(web2.lacks.contains(&TreeId::of("data")));
    assert_eq!(web2.acked, 0, "nothing of the tree is there");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_gets_the_trees_that_it_is_given_and_no_other() {
    let (a, _b, _web, _cables) = three().await;
    let private = a.dir.path().join("private");
    std::fs::create_dir(&private).unwrap();
    let trees = vec![
        TreeConfig::new("data", a.tree()),
        TreeConfig::new("private", private),
    ];
    a.engine().set_trees(trees).await.unwrap();
    let mut puppet = puppet(&a, "web2").await;
    let hello = puppet.hear("Hello", |m| matches!(m, Message::Hello(_)));
    let Message::Hello(hello) = hello.await else {
        unreachable!("it is one")
    };
    assert!(hello.heads.get(TreeId::of("data")).is_some());
    assert!(hello.heads.get(TreeId::of("private")).is_none());
    let accept = Accept {
        from: vec![(TreeId::of("private"), 0)],
        inline: true,
        stamp: 0,
    };
    puppet.say(&Message::Accept(accept)).await;
    assert!(puppet.refused().await.contains("does not get"));
}

fn floor(node: &Node) -> u64 {
    let snapshot = node.engine().shared.index.snapshot().unwrap();
    snapshot.floor(TreeId::of("data")).unwrap()
}

/// A stream that takes nothing any more once it is stuck.
struct Sticks<S> {
    inner: S,
    stuck: Arc<AtomicBool>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Sticks<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Sticks<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        if self.stuck.load(Ordering::Acquire) {
            return Poll::Pending;
        }
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
