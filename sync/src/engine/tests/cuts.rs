//! The worker is cut at any step of an apply; what it left is no local change, and the trees become equal.

use super::compare::assert_equal;
use super::pair::{Cable, Node, PATIENCE, flush, pair, write};
use super::reversal::rescued;
use crate::commit::{Content, Staged};
use crate::engine::CommandError;
use crate::engine::apply::{Applied, Batch};
use crate::engine::command::Command;
use crate::engine::foreign::list;
use crate::engine::look::Sight;
use crate::index::Unreplicated;
use crate::path::RelPath;
use crate::replica::machine::Ready;
use crate::tree::TreeId;
use crate::wire::{Commit, Record};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A small generator (xorshift64*), so that a seed is a history.
struct Rng(u64);

impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n
    }
}

/// One random change. Names are few, so that changes meet; what cannot be done (a name that is not there) is not.
fn change(rng: &mut Rng, root: &Path) -> std::io::Result<()> {
    use std::fs;
    let dir = |rng: &mut Rng| root.join(format!("w{}", rng.below(3)));
    let name = |rng: &mut Rng| -> PathBuf {
        let sub = rng.below(4);
        let file = format!("x{}", rng.below(5));
        match sub {
            0 => dir(rng).join("sub").join(file),
            _ => dir(rng).join(file),
        }
    };
    let path = name(rng);
    match rng.below(14) {
        0..=4 => {
            fs::create_dir_all(path.parent().expect("below the root"))?;
            let size = [10, 3000, 100_000][rng.below(3) as usize];
            fs::write(&path, vec![rng.below(250) as u8; size])
        }
        5 => {
            let mode = 0o600 + rng.below(64) as u32;
            fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode))
        }
        6 => fs::remove_file(&path),
        7 | 8 => fs::rename(&path, name(rng)),
        9 | 10 => fs::hard_link(&path, name(rng)),
        11 => fs::rename(dir(rng), dir(rng)),
        12 => {
            // A directory becomes something else, or the other way round.
            let _ = fs::remove_file(&path);
            let _ = fs::remove_dir_all(&path);
            match rng.below(3) {
                0 => std::os::unix::fs::symlink("x1", &path),
                1 => fs::create_dir(&path).and_then(|()| fs::write(path.join("inner"), "inner")),
                _ => fs::write(&path, "a file"),
            }
        }
        _ => fs::remove_dir_all(dir(rng)),
    }
}

/// Waits until the replica has everything, or its worker was cut. True when it was cut.
pub(super) async fn until_cut(a: &Node, b: &Node) -> bool {
    let mut changes = b.engine().status_changes();
    let cut = |s: &crate::engine::EngineStatus| s.alarms.iter().any(|a| a.kind == "worker");
    // What it says of being consistent may be older than what was just written: only a flush tells.
    let flushed = async {
        let within = std::time::Duration::from_millis(200);
        while !a
            .engine()
            .flush(within)
            .await
            .unwrap()
            .not_covered
            .is_empty()
        {}
        let _ = b.engine().status_changes().wait_for(|s| s.consistent).await;
    };
    let either = async {
        tokio::select! {
            _ = changes.wait_for(cut) => true,
            () = flushed => cut(&b.engine().status()),
        }
    };
    match tokio::time::timeout(PATIENCE, either).await {
        Ok(cut) => {
            if !cut {
                // Whatever is still to come finds none.
                b.engine().shared.cuts.arm(0);
            }
            cut
        }
        Err(_) => {
            let (one, two, shown) = (a.index(), b.index(), b.engine().status());
            panic!("neither cut nor consistent: {shown:#?}\nsource:\n{one}\nreplica:\n{two}");
        }
    }
}

/// One history: changes, a cut at the `n`th place of whatever the replica does, again until none is reached.
async fn history(seed: u64, rounds: u64) {
    let mut rng = Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let (mut a, mut b) = pair(|t| t.max_delete = crate::tree::MaxDelete::Percent(200)).await;
    // Something always stays: an emptied tree is another guard's matter.
    for i in 0..9 {
        write(&a.tree().join(format!("stays/{i}")), "stays");
    }
    let mut cable = Cable::plug(&a, &b);
    let (mut places, mut term) = (Vec::new(), 1);
    for _ in 0..rounds {
        b.engine().shared.cuts.arm(1 + rng.below(30) as i64);
        if rng.below(4) == 0 {
            cable.cut().await;
            a.stop().await;
            let _ = change(&mut rng, &a.tree());
            a.start();
            // Often the same master goes on; sometimes the pair agreed on a new term.
            term += rng.below(2);
            a.engine().begin_source(term).await.unwrap();
            cable = Cable::plug(&a, &b);
        }
        for _ in 0..1 + rng.below(12) {
            let _ = change(&mut rng, &a.tree());
        }
        // Whether or not all of it arrives.
        let _ = a
            .engine()
            .flush(std::time::Duration::from_millis(200))
            .await;
        while until_cut(&a, &b).await {
            // Nothing: it was armed anew just after the cut.
            places.extend(b.engine().shared.cuts.place());
            cable.cut().await;
            b.stop().await;
            for _ in 0..rng.below(6) {
                let _ = change(&mut rng, &a.tree());
            }
            b.start();
            if rng.below(3) == 0 {
                b.engine().shared.cuts.arm(1 + rng.below(15) as i64);
            }
            b.engine().begin_replica().await.unwrap();
            cable = Cable::plug(&a, &b);
            let _ = a
                .engine()
                .flush(std::time::Duration::from_millis(200))
                .await;
        }
        let found = rescued(&b);
        assert_eq!(found, BTreeMap::new(), "seed {seed}, cuts at {places:?}");
    }
    b.engine().shared.cuts.arm(0);
    if until_cut(&a, &b).await {
        cable.cut().await;
        b.stop().await;
        b.start();
        b.engine().begin_replica().await.unwrap();
        cable = Cable::plug(&a, &b);
    }
    flush(&a).await;
    b.until("consistent", |s| s.consistent).await;
    assert_equal(&a.tree(), &b.tree());
    let found = rescued(&b);
    assert_eq!(found, BTreeMap::new(), "seed {seed}, cuts at {places:?}");
    cable.cut().await;
    assert!(!places.is_empty(), "seed {seed}: nothing was cut");
}

#[tokio::test(flavor = "multi_thread")]
async fn cuts_at_any_step_leave_no_local_version() {
    let range = std::env::var("TANDEM_SEEDS").ok();
    let range = range.and_then(|r| {
        let (from, to) = r.split_once("..")?;
        Some(from.parse().ok()?..to.parse().ok()?)
    });
    for seed in range.unwrap_or(1..4) {
        println!("seed {seed}");
        history(seed, 12).await;
    }
}

/// How many items there are in the rescue, whatever their paths.
pub fn items(node: &Node) -> u64 {
    let root = crate::beneath::Root::open(&node.tree()).unwrap();
    let private = crate::private::Private::open(&root).unwrap();
    let sets = crate::rescue::list(&private).unwrap();
    sets.iter().map(|set| set.items).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_version_is_rescued_once_wherever_the_apply_is_cut() {
    for n in 1.. {
        let (a, mut b) = pair(|_| {}).await;
        for name in ["changed", "dir/inside", "other"] {
            write(&a.tree().join(name), "first");
        }
        let cable = Cable::plug(&a, &b);
        flush(&a).await;
        b.until("consistent", |s| s.consistent).await;
        cable.cut().await;
        b.stop().await;
        write(&b.tree().join("changed"), "b's own");
        write(&b.tree().join("dir/own"), "b's own");
        std::fs::remove_dir_all(a.tree().join("dir")).unwrap();
        write(&a.tree().join("dir"), "a file");
        write(&a.tree().join("changed"), "a's");
        b.start();
        b.engine().shared.cuts.arm(n);
        b.engine().begin_replica().await.unwrap();
        let mut cable = Cable::plug(&a, &b);
        let _ = a
            .engine()
            .flush(std::time::Duration::from_millis(300))
            .await;
        let cut = until_cut(&a, &b).await;
        let place = b.engine().shared.cuts.place();
        if cut {
            cable.cut().await;
            b.stop().await;
            b.start();
            b.engine().begin_replica().await.unwrap();
            cable = Cable::plug(&a, &b);
        }
        flush(&a).await;
        b.until("consistent", |s| s.consistent).await;
        assert_equal(&a.tree(), &b.tree());
        let own = |path: &str| (path.to_owned(), "b's own".to_owned());
        let expected = BTreeMap::from([own("changed"), own("dir/own")]);
        assert_eq!(
            (rescued(&b), items(&b)),
            (expected, 2),
            "cut {n}, {place:?}"
        );
        cable.cut().await;
        if !cut {
            assert!(n > 10, "the places were reached");
            break;
        }
    }
}

/// Hands the replica's worker a batch of the source's paths (or that they are gone), as a session does.
pub async fn hand(
    a: &Node,
    b: &Node,
    paths: &[(&str, bool)],
    upto: u64,
) -> Result<Result<Applied, String>, CommandError> {
    hand_batch(b, batch_of(a, b, paths, upto)).await
}

/// That batch.
pub fn batch_of(a: &Node, b: &Node, paths: &[(&str, bool)], upto: u64) -> Batch {
    let (tree, shared) = (TreeId::of("data"), &b.engine().shared);
    let snapshot = a.engine().shared.index.snapshot().unwrap();
    let mut batch = Batch {
        ready: Ready {
            commit: Commit {
                batch: 1,
                upto,
                caught_up: false,
                stamp: 1,
            },
            records: Vec::new(),
            totals: Vec::new(),
            withheld: Vec::new(),
            given_up: Vec::new(),
            failed: Vec::new(),
        },
        contents: Default::default(),
        unput: Default::default(),
        source: a.engine().lineages().unwrap(),
    };
    for (number, (text, gone)) in (0..).zip(paths) {
        let path = RelPath::new(text).unwrap();
        let entry = snapshot.get(tree, &path).unwrap().unwrap();
        let state = entry.current.filter(|_| !gone);
        if let Some(hash) = state.as_ref().and_then(|s| s.kind.hash()) {
            let open = shared.roots.get(tree).unwrap();
            let content = std::fs::read(a.tree().join(text)).unwrap();
            let staged = Staged::whole(&open.private, &content, *hash).unwrap();
            batch.contents.insert(number, Content::Staged(staged));
        }
        batch.ready.records.push(Record {
            tree,
            path,
            seq: entry.seq,
            state,
            inline: true,
            grown_from: None,
            names: None,
        });
    }
    batch
}

/// The same with a batch as it is.
pub async fn hand_batch(b: &Node, batch: Batch) -> Result<Result<Applied, String>, CommandError> {
    let (batch, shared) = (Box::new(batch), &b.engine().shared);
    // The session before counts until another one begins.
    let session = shared.sessions.load(std::sync::atomic::Ordering::SeqCst) - 1;
    let (ahead, _) = tokio::sync::oneshot::channel();
    let apply = |reply| Command::Apply {
        session,
        batch,
        ahead,
        reply,
    };
    shared.ask(apply).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_was_not_seen_before_is_rescued_once_wherever_the_apply_is_cut() {
    for n in 1.. {
        let (a, mut b) = pair(|_| {}).await;
        write(&a.tree().join("changed"), "first");
        write(&a.tree().join("other"), "first");
        let cable = Cable::plug(&a, &b);
        flush(&a).await;
        b.until("consistent", |s| s.consistent).await;
        cable.cut().await;
        let before = a.shown().await.seq;
        write(&a.tree().join("changed"), "a's");
        let _ = a
            .engine()
            .flush(std::time::Duration::from_millis(200))
            .await;
        b.engine().shared.cuts.arm(n);
        // The batch comes before the worker looks at what the watch tells it of this.
        write(&b.tree().join("changed"), "b's own");
        let cut = hand(&a, &b, &[("changed", false)], before).await.is_err();
        let place = b.engine().shared.cuts.place();
        b.stop().await;
        b.start();
        b.engine().begin_replica().await.unwrap();
        let cable = Cable::plug(&a, &b);
        flush(&a).await;
        b.until("consistent", |s| s.consistent).await;
        assert_equal(&a.tree(), &b.tree());
        let expected = BTreeMap::from([("changed".to_owned(), "b's own".to_owned())]);
        assert_eq!(
            (rescued(&b), items(&b)),
            (expected, 1),
            "cut {n}, {place:?}"
        );
        cable.cut().await;
        if !cut {
            assert!(n > 5, "the places were reached");
            break;
        }
    }
}

/// A directory is made closed and finished at the end: what a cut left in between is not what the next master has.
#[tokio::test(flavor = "multi_thread")]
async fn a_takeover_finishes_a_directory_wherever_the_apply_was_cut() {
    for scans in [false, true] {
        takes_over_a_new_directory(scans).await;
    }
}

/// With or without a scan of what the cut left before.
async fn takes_over_a_new_directory(scans: bool) {
    let mut made = 0;
    for n in 1.. {
        let (a, mut b) = pair(|_| {}).await;
        write(&a.tree().join("stays"), "stays");
        let cable = Cable::plug(&a, &b);
        flush(&a).await;
        b.until("consistent", |s| s.consistent).await;
        cable.cut().await;
        let before = a.shown().await.seq;
        write(&a.tree().join("dir/file"), "first");
        let mode = |mode| std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(a.tree().join("dir"), mode(0o2751)).unwrap();
        let _ = a
            .engine()
            .flush(std::time::Duration::from_millis(300))
            .await;
        b.engine().shared.cuts.arm(n);
        let records = [("dir", false), ("dir/file", false)];
        let cut = hand(&a, &b, &records, before).await.is_err();
        let place = b.engine().shared.cuts.place();
        b.stop().await;
        b.start();
        if scans {
            let mut scanned = b.engine().shared.scanned.subscribe();
            b.engine().begin_replica().await.unwrap();
            scanned.wait_for(|scanned| *scanned).await.unwrap();
        }
        b.engine().begin_source(2).await.unwrap();
        if let Ok(dir) = std::fs::metadata(b.tree().join("dir")) {
            let mode = std::os::unix::fs::PermissionsExt::mode(&dir.permissions()) & 0o7777;
            assert_eq!(mode, 0o2751, "cut {n}, {place:?}");
            made += u32::from(cut);
        }
        if !cut {
            assert!(made > 2, "cut while the directory was there: {made}");
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_made_again_under_a_directory_that_went_was_not_deleted_here() {
    let (a, mut b) = pair(|_| {}).await;
    write(&a.tree().join("dir/file"), "first");
    write(&a.tree().join("stays"), "stays");
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    b.until("consistent", |s| s.consistent).await;
    cable.cut().await;
    let before = a.shown().await.seq;
    std::fs::remove_dir_all(a.tree().join("dir")).unwrap();
    write(&a.tree().join("dir/file"), "second");
    let _ = a
        .engine()
        .flush(std::time::Duration::from_millis(300))
        .await;
    // What the source may have seen in between: the directory gone, the file in it made again already.
    let records = [("dir", true), ("dir/file", false)];
    hand(&a, &b, &records, before).await.unwrap().unwrap();
    assert!(!b.tree().join("dir").exists());
    b.stop().await;
    b.start();
    b.engine().begin_replica().await.unwrap();
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    b.until("consistent", |s| s.consistent).await;
    assert_equal(&a.tree(), &b.tree());
    assert_eq!(rescued(&b), BTreeMap::new());
    cable.cut().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_name_beside_one_that_is_still_to_go_is_no_local_version() {
    for n in 1.. {
        let (a, mut b) = pair(|_| {}).await;
        write(&a.tree().join("1"), "one file");
        std::fs::hard_link(a.tree().join("1"), a.tree().join("2")).unwrap();
        let cable = Cable::plug(&a, &b);
        flush(&a).await;
        b.until("consistent", |s| s.consistent).await;
        cable.cut().await;
        // The first name goes and a third one comes: the new one is made before the old one is removed.
        std::fs::remove_file(a.tree().join("1")).unwrap();
        std::fs::hard_link(a.tree().join("2"), a.tree().join("3")).unwrap();
        let _ = a
            .engine()
            .flush(std::time::Duration::from_millis(200))
            .await;
        b.engine().shared.cuts.arm(n);
        let mut cable = Cable::plug(&a, &b);
        let _ = a
            .engine()
            .flush(std::time::Duration::from_millis(300))
            .await;
        let cut = until_cut(&a, &b).await;
        let place = b.engine().shared.cuts.place();
        if cut {
            cable.cut().await;
            b.stop().await;
            b.start();
            b.engine().begin_replica().await.unwrap();
            cable = Cable::plug(&a, &b);
        }
        flush(&a).await;
        b.until("consistent", |s| s.consistent).await;
        assert_equal(&a.tree(), &b.tree());
        assert_eq!(rescued(&b), BTreeMap::new(), "cut {n}, {place:?}");
        cable.cut().await;
        if !cut {
            assert!(n > 5, "the places were reached");
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn attributes_that_came_by_another_name_are_no_local_version() {
    for restart in [false, true] {
        let (a, mut b) = pair(|_| {}).await;
        write(&a.tree().join("1"), "one file");
        std::fs::hard_link(a.tree().join("1"), a.tree().join("2")).unwrap();
        let cable = Cable::plug(&a, &b);
        flush(&a).await;
        b.until("consistent", |s| s.consistent).await;
        cable.cut().await;
        let before = a.shown().await.seq;
        let file = std::fs::File::options()
            .write(true)
            .open(a.tree().join("1"));
        file.unwrap()
            .set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1))
            .unwrap();
        let _ = a
            .engine()
            .flush(std::time::Duration::from_millis(200))
            .await;
        // The batch ends between the two names of the file.
        hand(&a, &b, &[("1", false)], before)
            .await
            .unwrap()
            .unwrap();
        if restart {
            b.stop().await;
            b.start();
            b.engine().begin_replica().await.unwrap();
        } else {
            hand(&a, &b, &[("2", false)], before)
                .await
                .unwrap()
                .unwrap();
        }
        let cable = Cable::plug(&a, &b);
        flush(&a).await;
        b.until("consistent", |s| s.consistent).await;
        assert_equal(&a.tree(), &b.tree());
        assert_eq!(rescued(&b), BTreeMap::new(), "restart: {restart}");
        cable.cut().await;
    }
}

/// A further name that an apply listed, to be asked for again; then its file changes by its first name.
#[tokio::test(flavor = "multi_thread")]
async fn a_listed_name_whose_file_changed_is_no_local_version() {
    let (a, mut b) = pair(|_| {}).await;
    write(&a.tree().join("1"), "one file");
    std::fs::hard_link(a.tree().join("1"), a.tree().join("2")).unwrap();
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    b.until("consistent", |s| s.consistent).await;
    cable.cut().await;
    let (tree, path) = (TreeId::of("data"), RelPath::new("2").unwrap());
    let listed = b.engine().shared.index.write(|w| {
        let entry = w.get(tree, &path)?.unwrap();
        let sight = Sight {
            path: path.clone(),
            state: entry.current,
            local: entry.local,
        };
        list(w, tree, &sight, &Unreplicated::nothing())
    });
    listed.unwrap();
    let before = a.shown().await.seq;
    let file = std::fs::File::options()
        .write(true)
        .open(a.tree().join("1"));
    file.unwrap()
        .set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1))
        .unwrap();
    let _ = a
        .engine()
        .flush(std::time::Duration::from_millis(200))
        .await;
    hand(&a, &b, &[("1", false)], before)
        .await
        .unwrap()
        .unwrap();
    b.stop().await;
    b.start();
    b.engine().begin_replica().await.unwrap();
    b.until("known", |s| s.trees[0].files > 0).await;
    std::fs::remove_file(a.tree().join("2")).unwrap();
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    b.until("consistent", |s| s.consistent).await;
    assert_equal(&a.tree(), &b.tree());
    assert_eq!(rescued(&b), BTreeMap::new());
    cable.cut().await;
}

/// A directory that was made for what lies in it, before its own record came, where one had gone before.
#[tokio::test(flavor = "multi_thread")]
async fn a_directory_made_on_the_way_is_no_local_version() {
    let (a, mut b) = pair(|_| {}).await;
    write(&a.tree().join("dir/file"), "first");
    write(&a.tree().join("stays"), "stays");
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    b.until("consistent", |s| s.consistent).await;
    cable.cut().await;
    let before = a.shown().await.seq;
    std::fs::remove_dir_all(a.tree().join("dir")).unwrap();
    write(&a.tree().join("dir/file"), "second");
    let _ = a
        .engine()
        .flush(std::time::Duration::from_millis(300))
        .await;
    for record in [("dir", true), ("dir/file", false)] {
        hand(&a, &b, &[record], before).await.unwrap().unwrap();
    }
    b.stop().await;
    b.start();
    b.engine().begin_replica().await.unwrap();
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    b.until("consistent", |s| s.consistent).await;
    assert_equal(&a.tree(), &b.tree());
    assert_eq!(items(&b), 0);
    cable.cut().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_fails_is_seen() {
    let (a, b) = pair(|_| {}).await;
    write(&a.tree().join("file"), "first");
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    b.until("consistent", |s| s.consistent && s.fresh_at.is_some())
        .await;
    b.engine().shared.cuts.arm(1);
    write(&a.tree().join("file"), "second");
    b.until("alarm", |s| s.alarms.iter().any(|a| a.kind == "worker"))
        .await;
    let status = b.engine().status();
    assert!(!status.consistent && !status.catching_up_only && status.fresh_at.is_none());
    assert!(matches!(
        status.trees[0].state,
        crate::engine::TreeState::Stopped { .. }
    ));
    assert!(b.engine().idle().await.is_err(), "nobody works");
    let (_, replica) = cable.ended().await;
    drop(replica);
}
