//! Guards, protection, local changes, hold, verify, adopt.

use super::compare::{assert_equal, differences};
use super::cuts::hand_batch;
use super::pair::{Cable, Node, PATIENCE, flush, pair, recorded, write};
use super::reversal::rescued;
use crate::engine::apply::Batch;
use crate::engine::command::Command;
use crate::engine::{Differs, Receiver, TreeState};
use crate::filter::Filter;
use crate::path::RelPath;
use crate::replica::machine::Ready;
use crate::tree::{Deletes, LocalChanges, MaxDelete, TreeId};
use crate::wire::{Commit, Idle, Record};
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;

/// Why the tests of what is immutable or append-only are not run.
const NO_FLAGS: &str = "flags of files cannot be set";

async fn with_files(change: fn(&mut crate::tree::TreeConfig), files: usize) -> (Node, Node, Cable) {
    let (a, b) = pair(change).await;
    for i in 0..files {
        write(
            &a.tree().join(format!("d{}/f{i}", i % 5)),
            format!("content {i}"),
        );
    }
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    b.until("consistent", |s| s.consistent).await;
    assert_equal(&a.tree(), &b.tree());
    (a, b, cable)
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_deletions_stop_the_tree_and_accept_lets_exactly_them_pass() {
    let (a, b, cable) = with_files(|t| t.max_delete = MaxDelete::Count(10), 50).await;
    let entries = |dir| 1 + std::fs::read_dir(b.tree().join(dir)).unwrap().count();
    let before = entries("d1") + entries("d2");
    std::fs::remove_dir_all(a.tree().join("d1")).unwrap();
    std::fs::remove_dir_all(a.tree().join("d2")).unwrap();
    a.until("stopped", |s| {
        matches!(s.trees[0].state, TreeState::Stopped { .. })
    })
    .await;
    let report = a.engine().flush(PATIENCE).await.unwrap();
    assert!(
        report.covered.is_empty() && !report.not_covered.is_empty(),
        "{report:?}"
    );
    let gone = differences(&a.tree(), &b.tree())
        .iter()
        .filter(|d| d.contains("only on the right"))
        .count();
    let unseen = usize::try_from(crate::guard::DELETE_FLOOR).unwrap();
    assert!(
        gone + unseen >= before,
        "what went before the burst was seen is little: {gone} of {before}"
    );
    // The price is shown first, and what is gone beyond it is not accepted.
    let price = a.engine().accept_price("data").await.unwrap();
    assert!(price.why.is_some_and(|why| why.contains("max_delete")));
    assert!(price.gone >= 12, "{}", price.gone);
    assert_eq!(price.examples.len() as u64, price.gone.min(20));
    std::fs::remove_file(a.tree().join("d3/f3")).unwrap();
    let accepted = a.engine().accept("data", Some(price.gone)).await;
    assert!(
        matches!(accepted, Err(crate::engine::CommandError::MoreGone { .. })),
        "{accepted:?}"
    );
    a.engine()
        .accept("data", Some(price.gone + 1))
        .await
        .unwrap();
    flush(&a).await;
    assert_equal(&a.tree(), &b.tree());
    let price = a.engine().accept_price("data").await.unwrap();
    assert_eq!((price.why, price.gone), (None, 0));
    std::fs::remove_dir_all(a.tree().join("d3")).unwrap();
    std::fs::remove_dir_all(a.tree().join("d4")).unwrap();
    a.until("stopped again", |s| {
        matches!(s.trees[0].state, TreeState::Stopped { .. })
    })
    .await;
    cable.cut().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emptied_source_without_marker_stops() {
    let (a, b, cable) = with_files(|_| {}, 20).await;
    // As an unmount: all is gone at once, and an empty directory is in its place.
    std::fs::rename(a.tree(), a.dir.path().join("away")).unwrap();
    std::fs::create_dir(a.tree()).unwrap();
    a.until("stopped", |s| {
        matches!(s.trees[0].state, TreeState::Stopped { .. })
    })
    .await;
    assert_equal(&a.dir.path().join("away"), &b.tree());
    cable.cut().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn protected_paths_stay_and_the_rest_is_in_sync() {
    let protect = |t: &mut crate::tree::TreeConfig| {
        t.protect = Filter::parse(["/local.conf", "/keep/"]).unwrap()
    };
    let (a, b, cable) = with_files(protect, 5).await;
    write(&b.tree().join("local.conf"), "b's own");
    write(&b.tree().join("keep/x"), "b's own");
    write(&a.tree().join("local.conf"), "a's");
    write(&a.tree().join("keep/x"), "a's");
    write(&a.tree().join("other"), "both");
    flush(&a).await;
    b.until("consistent", |s| s.consistent).await;
    assert_eq!(
        std::fs::read(b.tree().join("local.conf")).unwrap(),
        b"b's own"
    );
    assert_eq!(std::fs::read(b.tree().join("keep/x")).unwrap(), b"b's own");
    assert_eq!(std::fs::read(b.tree().join("other")).unwrap(), b"both");
    std::fs::remove_dir_all(a.tree().join("keep")).unwrap();
    flush(&a).await;
    assert_eq!(std::fs::read(b.tree().join("keep/x")).unwrap(), b"b's own");
    assert_eq!(rescued(&b), std::collections::BTreeMap::new());
    cable.cut().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kept_deletes_leave_the_standbys_files() {
    let (a, b, cable) = with_files(|t| t.deletes = Deletes::Keep, 10).await;
    std::fs::remove_file(a.tree().join("d1/f1")).unwrap();
    flush(&a).await;
    b.until("consistent", |s| s.consistent).await;
    assert_eq!(std::fs::read(b.tree().join("d1/f1")).unwrap(), b"content 1");
    cable.cut().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn local_changes_on_the_standby_are_repaired() {
    let (a, b, cable) = with_files(|_| {}, 10).await;
    write(&b.tree().join("d1/f1"), "tampered");
    write(&b.tree().join("new/here"), "new");
    std::fs::remove_file(b.tree().join("d2/f2")).unwrap();
    b.until("repaired", |s| {
        s.trees[0].rescued >= 3 && s.trees[0].dirty == 0 && s.consistent
    })
    .await;
    assert_equal(&a.tree(), &b.tree());
    let found = rescued(&b);
    assert_eq!(found.get("d1/f1").map(String::as_str), Some("tampered"));
    assert_eq!(found.get("new/here").map(String::as_str), Some("new"));
    cable.cut().await;
}

/// What is put aside after somebody dropped the set, or the last that was in it, begins a new one.
#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_rescue_set_is_over() {
    let (a, b, cable) = with_files(|_| {}, 10).await;
    let repaired = async |text: &str| {
        write(&b.tree().join("d1/f1"), text);
        std::fs::remove_file(b.tree().join("d2/f2")).unwrap();
        b.until("repaired", |s| {
            let found = rescued(&b);
            let kept = found.get("d1/f1").is_some_and(|found| found == text);
            let noted = found.get("d2/f2").is_some_and(|found| found == "Deleted");
            s.consistent && s.trees[0].dirty == 0 && kept && noted
        })
        .await;
    };
    for items in [vec![], vec![1, 2]] {
        repaired(&format!("dropped by {items:?}")).await;
        let sets = b.engine().rescue_list().await.unwrap();
        let [set] = &sets[..] else {
            panic!("{sets:?}");
        };
        assert_eq!(set.entries, 2);
        b.engine().rescue_drop(&set.id, &items).await.unwrap();
        assert_eq!(rescued(&b), std::collections::BTreeMap::new());
    }
    repaired("kept").await;
    flush(&a).await;
    assert_equal(&a.tree(), &b.tree());
    assert_eq!(b.engine().status().alarms, []);
    cable.cut().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn local_changes_are_left_alone_and_shown_by_report() {
    let (a, b, cable) = with_files(|t| t.local_changes = LocalChanges::Report, 10).await;
    let shown = async |count: u64, first: &str| {
        b.until("shown", |s| {
            let alarm = s.alarms.iter().find(|a| a.kind == "local-changes");
            let says = alarm.is_some_and(|a| a.text.contains(first));
            s.trees[0].local_changes == count && says == (count > 0)
        })
        .await;
    };
    write(&b.tree().join("d1/f1"), "tampered");
    shown(1, "d1/f1").await;
    // It is over when somebody takes it back, be it something new.
    write(&b.tree().join("a/new"), "new");
    shown(3, "a").await;
    std::fs::rename(b.tree().join("a"), b.dir.path().join("elsewhere")).unwrap();
    shown(1, "d1/f1").await;
    let f6 = b.tree().join("d1/f6");
    std::fs::remove_file(&f6).unwrap();
    shown(2, "d1/f1").await;
    write(&f6, "content 6");
    let time = std::fs::metadata(a.tree().join("d1/f6"))
        .unwrap()
        .modified();
    let file = std::fs::File::options().write(true).open(&f6).unwrap();
    file.set_modified(time.unwrap()).unwrap();
    shown(1, "d1/f1").await;
    assert_eq!(std::fs::read(b.tree().join("d1/f1")).unwrap(), b"tampered");
    write(&a.tree().join("d1/f1"), "newer");
    flush(&a).await;
    shown(0, "").await;
    assert_eq!(std::fs::read(b.tree().join("d1/f1")).unwrap(), b"newer");
    assert_eq!(
        rescued(&b).get("d1/f1").map(String::as_str),
        Some("tampered")
    );
    cable.cut().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_spools_and_the_release_applies() {
    let (a, mut b, cable) = with_files(|_| {}, 10).await;
    b.engine().hold().await.unwrap();
    write(&a.tree().join("d1/f1"), "during the hold");
    write(&a.tree().join("new"), super::pair::noise(300_000, 1));
    let report = a.engine().flush(PATIENCE).await.unwrap();
    assert!(
        report.not_covered.iter().all(|n| n.why.contains("hold")),
        "{report:?}"
    );
    assert_eq!(std::fs::read(b.tree().join("d1/f1")).unwrap(), b"content 1");
    b.until("spooled", |s| s.hold && s.spooled > 300_000).await;
    // A restart of the agent keeps the spool; without the hold it is applied before anything else.
    cable.cut().await;
    std::fs::remove_file(a.tree().join("d3/f3")).unwrap();
    b.stop().await;
    b.start();
    b.engine().begin_replica().await.unwrap();
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    b.until("consistent", |s| s.consistent && s.spooled == 0)
        .await;
    assert_equal(&a.tree(), &b.tree());
    b.engine().hold().await.unwrap();
    write(&a.tree().join("d2/f2"), "second hold");
    a.engine().flush(PATIENCE).await.unwrap();
    cable.cut().await;
    b.engine().revoke(PATIENCE);
    b.engine().begin_source(2).await.unwrap();
    assert_eq!(
        std::fs::read(b.tree().join("d2/f2")).unwrap(),
        b"second hold",
        "a takeover applies the spool first"
    );
    assert_eq!(rescued(&b), std::collections::BTreeMap::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_finds_a_flipped_byte_and_repairs_it() {
    let (a, b, cable) = with_files(|_| {}, 10).await;
    let clean = a
        .engine()
        .verify(&Receiver::Standby, None, false, None)
        .await
        .unwrap();
    assert_eq!((clean.found, clean.compared >= 15), (0, true), "{clean:?}");
    // A flip below the file system: content changes, no time does, and nothing tells of it.
    let path = b.tree().join("d1/f1");
    let before = std::fs::metadata(&path).unwrap().modified().unwrap();
    let held = &b.engine().shared.events_held;
    held.store(true, Ordering::SeqCst);
    // Whoever waits for an event already has not seen it.
    b.shown().await;
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.write_all_at(b"X", 0).unwrap();
    file.set_modified(before).unwrap();
    let found = a
        .engine()
        .verify(&Receiver::Standby, Some("data"), true, None)
        .await
        .unwrap();
    assert_eq!(found.found, 1, "{found:?}");
    let first = &found.differences[0];
    assert_eq!(first.path.to_string(), "d1/f1");
    assert_eq!(first.what, Differs::Content);
    held.store(false, Ordering::SeqCst);
    b.until("repaired", |s| {
        s.trees[0].rescued == 1 && s.consistent && s.trees[0].dirty == 0
    })
    .await;
    assert_equal(&a.tree(), &b.tree());
    assert_eq!(
        rescued(&b).get("d1/f1").map(String::as_str),
        Some("Xontent 1")
    );
    cable.cut().await;
}

/// The damage lies in the file, whatever name shows it: all of its names become names of the repaired one.
#[tokio::test(flavor = "multi_thread")]
async fn verify_repairs_a_file_with_all_of_its_names() {
    let (a, b) = pair(|_| {}).await;
    write(&a.tree().join("1"), "one file");
    for name in ["2", "3"] {
        std::fs::hard_link(a.tree().join("1"), a.tree().join(name)).unwrap();
    }
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    b.until("consistent", |s| s.consistent).await;
    let path = b.tree().join("2");
    let before = std::fs::metadata(&path).unwrap().modified().unwrap();
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.write_all_at(b"X", 0).unwrap();
    file.set_modified(before).unwrap();
    a.engine()
        .verify(&Receiver::Standby, Some("data"), true, None)
        .await
        .unwrap();
    b.until("repaired", |s| {
        s.trees[0].rescued > 0 && s.consistent && s.trees[0].dirty == 0
    })
    .await;
    assert_equal(&a.tree(), &b.tree());
    assert_eq!(b.shown().await.trees[0].rescued, 1);
    cable.cut().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_refused_until_adopted() {
    let (a, b) = (Node::new("a", |_| {}), Node::new("b", |_| {}));
    for node in [&a, &b] {
        write(&node.tree().join("same"), node.name);
        node.engine().init_source().await.unwrap();
    }
    a.engine().begin_source(1).await.unwrap();
    b.engine().begin_replica().await.unwrap();
    let (source, replica) = Cable::plug(&a, &b).ended().await;
    assert!(
        matches!(
            source,
            Ok(crate::engine::SessionEnd::Refused { retry: false, .. })
        ),
        "{source:?}"
    );
    assert!(replica.is_ok());
    b.engine().adopt().await.unwrap();
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    b.until("consistent", |s| s.consistent).await;
    assert_equal(&a.tree(), &b.tree());
    assert_eq!(rescued(&b).get("same").map(String::as_str), Some("b"));
    cable.cut().await;
}

/// Sets or clears the immutable flag. False where the file system or the rights do not allow it.
fn set_immutable(path: &std::path::Path, on: bool) -> bool {
    match on {
        true => set_flag(path, rustix::fs::IFlags::IMMUTABLE),
        false => set_flag(path, rustix::fs::IFlags::empty()),
    }
}

fn set_flag(path: &std::path::Path, flag: rustix::fs::IFlags) -> bool {
    let file = std::fs::File::open(path).unwrap();
    rustix::fs::ioctl_setflags(&file, flag).is_ok()
}

/// A log that may only be appended to, and a directory from which nothing may be removed.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_append_only_is_named_and_follows_when_the_flag_is_gone() {
    let (a, b, cable) = with_files(|_| {}, 10).await;
    let flag = |name: &str, flag| set_flag(&b.tree().join(name), flag);
    let (append, none) = (rustix::fs::IFlags::APPEND, rustix::fs::IFlags::empty());
    if !flag("d1/f1", append) || !flag("d4", append) {
        tandem_lab::skipped(NO_FLAGS);
        return cable.cut().await;
    }
    write(&a.tree().join("d1/f1"), "newer");
    std::fs::remove_file(a.tree().join("d4/f4")).unwrap();
    write(&a.tree().join("d2/f2"), "newer");
    flush(&a).await;
    // The directory's own time cannot be put back either.
    b.until("the errors", |s| s.trees[0].errors >= 2).await;
    let shown = b.shown().await.trees[0].last_error.clone().unwrap();
    assert!(shown.contains("append-only"), "{shown}");
    let read = |name: &str| std::fs::read_to_string(b.tree().join(name)).ok();
    assert_eq!(read("d1/f1").as_deref(), Some("content 1"));
    assert_eq!(read("d4/f4").as_deref(), Some("content 4"));
    assert_eq!(read("d2/f2").as_deref(), Some("newer"));
    assert!(flag("d1/f1", none) && flag("d4", none));
    b.until("no error", |s| s.trees[0].errors == 0 && s.consistent)
        .await;
    assert_equal(&a.tree(), &b.tree());
    assert_eq!(rescued(&b), std::collections::BTreeMap::new());
    cable.cut().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_rescue_takes_nothing_nothing_is_applied() {
    let (a, b, cable) = with_files(|_| {}, 10).await;
    let rescue = b.tree().join(".tandem/rescue");
    if !set_immutable(&rescue, true) {
        tandem_lab::skipped(NO_FLAGS);
        return cable.cut().await;
    }
    cable.cut().await;
    write(&b.tree().join("d1/f1"), "b's own");
    b.until("listed", |s| s.trees[0].dirty == 1).await;
    for name in ["d1/f1", "d2/f2"] {
        write(&a.tree().join(name), "a's");
    }
    let _ = a
        .engine()
        .flush(std::time::Duration::from_millis(300))
        .await;
    let (_, replica) = Cable::plug(&a, &b).ended().await;
    assert!(replica.is_err(), "{replica:?}");
    let alarm = |s: &crate::engine::EngineStatus| s.alarms.iter().any(|a| a.kind == "rescue");
    b.until("an alarm", alarm).await;
    let read = |name: &str| std::fs::read_to_string(b.tree().join(name)).unwrap();
    assert_eq!(
        (read("d1/f1").as_str(), read("d2/f2").as_str()),
        ("b's own", "content 2")
    );
    assert!(set_immutable(&rescue, false));
    let stopped =
        |s: &crate::engine::EngineStatus| matches!(s.trees[0].state, TreeState::Stopped { .. });
    b.until("tried again", |s| !stopped(s)).await;
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    b.until("consistent", |s| s.consistent && !alarm(s)).await;
    assert_equal(&a.tree(), &b.tree());
    assert_eq!(
        rescued(&b).get("d1/f1").map(String::as_str),
        Some("b's own")
    );
    cable.cut().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_immutable_file_is_named_and_follows_when_the_flag_is_gone() {
    let (a, b, cable) = with_files(|_| {}, 10).await;
    if !set_immutable(&b.tree().join("d1/f1"), true) {
        tandem_lab::skipped(NO_FLAGS);
        return cable.cut().await;
    }
    let follows = async || {
        a.engine()
            .flush(super::pair::PATIENCE)
            .await
            .unwrap()
            .peer_follows
    };
    assert!(follows().await, "nothing is kept yet");
    write(&a.tree().join("d1/f1"), "newer");
    write(&a.tree().join("d2/f2"), "newer");
    assert!(!follows().await, "the standby is to be asked");
    let except = b.engine().exceptions(super::pair::PATIENCE).await.unwrap();
    let named = |n: &crate::engine::NotCovered| n.why.starts_with("d1/f1 is not followed");
    assert!(except.len() == 1 && named(&except[0]), "{except:?}");
    b.until("an error is shown", |s| s.trees[0].errors == 1)
        .await;
    let shown = b.shown().await.trees[0].last_error.clone().unwrap();
    assert!(
        shown.contains("d1/f1") && shown.contains("immutable"),
        "{shown}"
    );
    assert_eq!(std::fs::read(b.tree().join("d1/f1")).unwrap(), b"content 1");
    assert_eq!(std::fs::read(b.tree().join("d2/f2")).unwrap(), b"newer");
    assert!(set_immutable(&b.tree().join("d1/f1"), false));
    b.until("no error", |s| s.trees[0].errors == 0 && s.consistent)
        .await;
    assert_equal(&a.tree(), &b.tree());
    assert_eq!(rescued(&b), std::collections::BTreeMap::new());
    cable.cut().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_flag_kept_old_is_the_version_of_a_standby_that_takes_over() {
    let (a, b, cable) = with_files(|_| {}, 10).await;
    let set = |on| set_immutable(&b.tree().join("d1/f1"), on);
    if !set(true) {
        tandem_lab::skipped(NO_FLAGS);
        return cable.cut().await;
    }
    write(&a.tree().join("d1/f1"), "newer");
    flush(&a).await;
    b.until("an error is shown", |s| s.trees[0].errors == 1)
        .await;
    cable.cut().await;
    let cable = super::reversal::turn(&a, &b).await;
    flush(&b).await;
    a.until("consistent", |s| s.consistent).await;
    assert_eq!(std::fs::read(a.tree().join("d1/f1")).unwrap(), b"content 1");
    assert_equal(&a.tree(), &b.tree());
    cable.cut().await;
    assert!(set(false));
}

/// More than are kept by name. `None`: the flag cannot be set here.
async fn many_immutable() -> Option<(Node, Node, Cable)> {
    let (a, b, cable) = with_files(|_| {}, 30).await;
    if !all_immutable(&b, true) {
        tandem_lab::skipped(NO_FLAGS);
        cable.cut().await;
        return None;
    }
    for n in 0..30 {
        write(&a.tree().join(format!("d{}/f{n}", n % 5)), "newer");
    }
    flush(&a).await;
    b.until("all are counted, some of them twice", |s| {
        s.trees[0].errors >= 30
    })
    .await;
    a.until("the master knows", |s| s.peer_keeps).await;
    Some((a, b, cable))
}

fn all_immutable(b: &Node, on: bool) -> bool {
    (0..30).all(|n| set_immutable(&b.tree().join(format!("d{}/f{n}", n % 5)), on))
}

#[tokio::test(flavor = "multi_thread")]
async fn more_immutable_files_than_are_kept_by_name_follow_when_the_flags_are_gone() {
    let Some((a, mut b, cable)) = many_immutable().await else {
        return;
    };
    cable.cut().await;
    // How many there are is remembered over a restart, and they are tried again.
    b.stop().await;
    b.start();
    b.engine().begin_replica().await.unwrap();
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    a.until("the master knows", |s| s.peer_keeps).await;
    assert_eq!(std::fs::read(b.tree().join("d1/f1")).unwrap(), b"content 1");
    assert!(all_immutable(&b, false));
    // Those by name are asked for, the others with the session after that.
    let dials = async {
        let _ = cable.ended().await;
        loop {
            let _ = Cable::plug(&a, &b).ended().await;
        }
    };
    let same = |s: &crate::engine::EngineStatus| {
        s.consistent && s.trees[0].errors == 0 && differences(&a.tree(), &b.tree()).is_empty()
    };
    tokio::select! {
        () = b.until("all follow", same) => {}
        _ = tokio::time::timeout(PATIENCE, dials) => panic!("{:#?}", b.engine().status()),
    }
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    a.until("nothing is kept", |s| !s.peer_keeps && s.session.is_some())
        .await;
    assert_eq!(rescued(&b), std::collections::BTreeMap::new());
    cable.cut().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_flags_kept_old_is_the_version_of_a_standby_that_takes_over() {
    let Some((a, b, cable)) = many_immutable().await else {
        return;
    };
    cable.cut().await;
    let cable = super::reversal::turn(&a, &b).await;
    flush(&b).await;
    a.until("consistent", |s| s.consistent).await;
    assert_equal(&a.tree(), &b.tree());
    for n in 0..30 {
        let there = std::fs::read_to_string(a.tree().join(format!("d{}/f{n}", n % 5)));
        assert_eq!(there.unwrap(), format!("content {n}"));
    }
    cable.cut().await;
    // It goes on from there: nothing is compared anew each time.
    write(&b.tree().join("after"), "it");
    let cable = Cable::plug(&b, &a);
    flush(&b).await;
    cable.cut().await;
    assert!(all_immutable(&b, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_replaced_disk_receives_everything_anew() {
    let (a, b, cable) = with_files(|_| {}, 30).await;
    cable.cut().await;
    std::fs::remove_dir_all(b.tree()).unwrap();
    std::fs::create_dir(b.tree()).unwrap();
    b.until("stopped", |s| {
        matches!(s.trees[0].state, TreeState::Stopped { .. }) && !s.consistent
    })
    .await;
    // The first session finds the new root, and asks to be called again when it was looked at.
    loop {
        let mut cable = Cable::plug(&a, &b);
        tokio::select! {
            _ = &mut cable.source => cable.stop(),
            () = b.until("consistent", |s| s.consistent) => {
                cable.cut().await;
                break;
            }
        }
    }
    assert_equal(&a.tree(), &b.tree());
    assert_eq!(rescued(&b), std::collections::BTreeMap::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forbidden_device_is_a_named_error_and_never_made() {
    let (a, b, cable) = with_files(|t| t.devices = false, 5).await;
    let made = |name: &str| {
        let mode = rustix::fs::Mode::RUSR;
        let (at, kind) = (a.tree().join(name), rustix::fs::FileType::CharacterDevice);
        rustix::fs::mknodat(rustix::fs::CWD, at, kind, mode, rustix::fs::makedev(1, 3)).is_ok()
    };
    if !made("null") {
        tandem_lab::skipped("no right to make devices");
        return cable.cut().await;
    }
    write(&a.tree().join("after"), "it");
    b.until("an error", |s| {
        let error = s.trees[0].last_error.as_deref().unwrap_or_default();
        error.contains("null") && error.contains("devices") && !s.consistent
    })
    .await;
    assert!(b.tree().join("null").symlink_metadata().is_err());
    assert_eq!(std::fs::read(b.tree().join("after")).unwrap(), b"it");
    std::fs::remove_file(a.tree().join("null")).unwrap();
    flush(&a).await;
    b.until("in sync again", |s| s.consistent && s.trees[0].errors == 0)
        .await;
    assert_equal(&a.tree(), &b.tree());
    cable.cut().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn local_changes_are_kept_until_the_master_changes_the_path() {
    let (a, b, cable) = with_files(|t| t.local_changes = LocalChanges::Keep, 10).await;
    write(&b.tree().join("d1/f1"), "b's own");
    write(&b.tree().join("d1/new"), "b's own");
    std::fs::remove_file(b.tree().join("d2/f2")).unwrap();
    recorded(&b).await;
    // That was the choice.
    let status = b.shown().await;
    assert_eq!((status.trees[0].local_changes, status.alarms.len()), (0, 0));
    write(&a.tree().join("d3/f3"), "newer");
    flush(&a).await;
    b.until("consistent", |s| s.consistent).await;
    let read = |name: &str| std::fs::read_to_string(b.tree().join(name)).ok();
    assert_eq!(read("d3/f3").as_deref(), Some("newer"));
    assert_eq!(read("d1/f1").as_deref(), Some("b's own"));
    assert_eq!(read("d1/new").as_deref(), Some("b's own"));
    assert_eq!(read("d2/f2"), None);
    for name in ["d1/f1", "d1/new", "d2/f2"] {
        write(&a.tree().join(name), "a's");
    }
    flush(&a).await;
    b.until("settled", |s| s.consistent && s.trees[0].dirty == 0)
        .await;
    assert_equal(&a.tree(), &b.tree());
    let found = rescued(&b);
    for name in ["d1/f1", "d1/new"] {
        assert_eq!(found.get(name).map(String::as_str), Some("b's own"));
    }
    cable.cut().await;
}

/// A content that is lacking in the spool is lacking for all that comes behind it.
#[tokio::test(flavor = "multi_thread")]
async fn a_hold_answers_nothing_past_what_lacks_its_content() {
    let (a, b, cable) = with_files(|_| {}, 3).await;
    b.until("fresh", |s| s.fresh_at.is_some()).await;
    cable.cut().await;
    b.engine().hold().await.unwrap();
    let tree = TreeId::of("data");
    let (path, source) = (
        RelPath::new("d1/f1").unwrap(),
        a.engine().lineages().unwrap(),
    );
    let snapshot = a.engine().shared.index.snapshot().unwrap();
    let state = snapshot.get(tree, &path).unwrap().unwrap().current;
    let head = snapshot.last_seq();
    let part = |upto: u64, failed: Vec<u32>| Batch {
        ready: Ready {
            commit: Commit {
                batch: upto,
                upto,
                caught_up: true,
                stamp: u64::MAX,
            },
            records: vec![Record {
                tree,
                path: path.clone(),
                seq: upto,
                state: state.clone().filter(|_| !failed.is_empty()),
                inline: false,
                grown_from: None,
                names: None,
            }],
            totals: Vec::new(),
            withheld: Vec::new(),
            given_up: Vec::new(),
            failed,
        },
        contents: Default::default(),
        unput: Default::default(),
        source: source.clone(),
    };
    let before = b.shown().await.fresh_at;
    for (upto, failed) in [(head + 1, vec![0]), (head + 2, vec![])] {
        let applied = hand_batch(&b, part(upto, failed)).await.unwrap().unwrap();
        assert!(applied.acked <= head, "{applied:?}");
    }
    let shared = &b.engine().shared;
    let session = shared.sessions.load(std::sync::atomic::Ordering::SeqCst) - 1;
    let (upto, stamp) = (head + 2, u64::MAX);
    let fresh = |reply| Command::Fresh {
        session,
        idle: Idle { upto, stamp },
        source,
        reply,
    };
    let applied = shared.ask(fresh).await.unwrap().unwrap();
    assert!(applied.acked <= head, "{applied:?}");
    assert_eq!(shared.fresh_at(), before, "it is as old as it was");
}
