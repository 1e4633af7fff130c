//! Detection on a kernel that stamps by the jiffy: two writes in the same 10 ms carry the same times.
//!
//! Kernels since 6.13 have finer stamps, so those tests are run once more in a guest with Debian's `user-mode-linux`
//! (6.1 in Debian 12), by this test binary itself; its trees lie on the guest's ext4.

use super::compare::assert_equal;
use super::pair::{Cable, Node, PATIENCE, flush, noise, pair};
use super::stores::Map;
use crate::entry::{ContentHash, Kind, LocalKey};
use crate::path::RelPath;
use crate::stat::Stat;
use crate::tree::TreeId;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

/// What is run in the guest: all that depends on the grain of the stamps, and what the detectors promise.
const IN_THE_GUEST: [&str; 24] = [
    "engine::tests::coarse::two_writes_in_a_jiffy_carry_one_stamp",
    "engine::tests::coarse::a_store_in_the_jiffy_of_the_write_before_it_arrives",
    "engine::tests::coarse::a_write_in_the_jiffy_of_the_one_before_is_flushed",
    "engine::tests::logs::what_changed_before_the_old_end_is_found_when_the_file_rests",
    "engine::tests::seen::a_burst_costs_its_end",
    "engine::tests::seen::another_directory_in_the_roots_place_stops_the_tree_until_the_right_one_is_back",
    "engine::tests::seen::what_the_standby_itself_writes_is_no_change",
    "engine::tests::silent::a_polled_tree_sees_every_store_of_a_map_that_never_syncs",
    "engine::tests::silent::a_polled_tree_sees_libaio_and_maps",
    "engine::tests::silent::a_round_goes_on_after_a_restart",
    "engine::tests::silent::a_standby_whose_content_changed_behind_its_stamps_is_repaired",
    "engine::tests::silent::the_pass_sees_libaio_and_maps_without_polling",
    "engine::tests::silent::what_moves_no_time_stamp_is_found_by_its_content",
    "stat::tests::freshness_has_a_border",
    "watch::tests::a_path_beyond_path_max_is_told_by_a_directory_above",
    "watch::tests::a_root_that_goes_is_told",
    "watch::tests::changes_elsewhere_on_the_file_system_are_not_told",
    "watch::tests::directories_that_come_and_go_elsewhere_are_not_told",
    "watch::tests::fanotify_overflow_is_told",
    "watch::tests::fanotify_reports_every_change",
    "watch::tests::fanotify_tells_by_itself_what_comes_into_a_new_directory",
    "watch::tests::inotify_overflow_is_told",
    "watch::tests::inotify_reports_every_change",
    "watch::tests::polling_reports_the_whole_tree_again_and_again",
];

#[test]
fn detection_holds_on_a_kernel_with_coarse_stamps() {
    let guest = tandem_lab::Guest::find().unwrap();
    let mut arguments = vec!["--include-ignored", "--test-threads=6", "--exact"];
    arguments.extend(IN_THE_GUEST);
    let most = Duration::from_secs(120);
    let own = std::env::current_exe().unwrap();
    let left = guest.run(&own, &arguments, most).unwrap();
    let all = format!("test result: ok. {} passed; 0 failed", IN_THE_GUEST.len());
    let held = left.code == 0 && left.stdout.contains(&all);
    assert!(held, "{}\n{}", left.stdout, left.stderr);
}

fn key(file: &File) -> LocalKey {
    Stat::of_fd(file.as_fd()).unwrap().key()
}

/// Here, where it proves that the other tests are run where they should be.
#[test]
#[ignore = "needs a kernel with coarse stamps: detection_holds_on_a_kernel_with_coarse_stamps runs it in a guest"]
fn two_writes_in_a_jiffy_carry_one_stamp() {
    let release = rustix::system::uname();
    let file = tempfile::tempfile().unwrap();
    // A jiffy may end between any two; not between all of them.
    let same = |n: u8| {
        file.write_all_at(&[n], 0).unwrap();
        let before = key(&file);
        file.write_all_at(&[n + 1], 0).unwrap();
        key(&file) == before
    };
    let coarse = (0..100).filter(|n| same(*n)).count();
    assert!(coarse > 50, "{coarse} of 100 on {:?}", release.release());
}

/// Overwrites the file, and returns its key when the node has recorded it so.
async fn write_and_see(node: &Node, file: &File, content: &[u8]) -> LocalKey {
    file.write_all_at(content, 0).unwrap();
    let written = key(file);
    let kind = Kind::File {
        size: content.len() as u64,
        hash: ContentHash::of(content),
    };
    let recorded = || {
        let snapshot = node.engine().shared.index.snapshot().unwrap();
        let name = RelPath::new("db").unwrap();
        let entry = snapshot.get(TreeId::of("data"), &name).unwrap().unwrap();
        (entry.current.map(|s| s.kind), entry.local)
    };
    let begun = Instant::now();
    while recorded() != (Some(kind.clone()), Some(written)) && begun.elapsed() < PATIENCE {
        tokio::task::yield_now().await;
    }
    written
}

/// An event tells of the second write, and its key is the known one.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a kernel with coarse stamps: detection_holds_on_a_kernel_with_coarse_stamps runs it in a guest"]
async fn a_write_in_the_jiffy_of_the_one_before_is_flushed() {
    const SIZE: usize = 4096;
    let (a, b) = pair(|tree| tree.compare_contents = None).await;
    let path = a.tree().join("db");
    super::pair::write(&path, noise(SIZE, 0));
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    let file = File::options().write(true).open(&path).unwrap();
    let begun = Instant::now();
    for n in 1.. {
        assert!(begun.elapsed() < PATIENCE, "never in a jiffy in {n} tries");
        let written = write_and_see(&a, &file, &noise(SIZE, 2 * n)).await;
        file.write_all_at(&noise(SIZE, 2 * n + 1), 0).unwrap();
        if key(&file) == written {
            break;
        }
    }
    flush(&a).await;
    assert_equal(&a.tree(), &b.tree());
    cable.cut().await;
}

/// The first content was read and recorded, and the second leaves neither an event nor another time stamp. Only the
/// further look that a young stamp gets can find it: the pass is far away.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a kernel with coarse stamps: detection_holds_on_a_kernel_with_coarse_stamps runs it in a guest"]
async fn a_store_in_the_jiffy_of_the_write_before_it_arrives() {
    const SIZE: usize = 4096;
    const ENOUGH: usize = 1;
    let (a, b) = pair(|tree| tree.compare_contents = None).await;
    let path = a.tree().join("db");
    super::pair::write(&path, noise(SIZE, 0));
    let cable = Cable::plug(&a, &b);
    flush(&a).await;
    let file = File::options().read(true).write(true).open(&path).unwrap();
    let begun = Instant::now();
    let mut met = 0;
    for n in 1.. {
        assert!(begun.elapsed() < PATIENCE, "{met} in {n} tries");
        // Clean pages: the store below must be the first to its page, so that it asks the kernel for a stamp.
        file.sync_all().unwrap();
        let mut map = Map::of(&path);
        let written = write_and_see(&a, &file, &noise(SIZE, n)).await;
        map.store(100, b"in the same jiffy");
        let same = key(&file) == written;
        met += usize::from(same);
        let now = std::fs::read(&path).unwrap();
        let arrived = || std::fs::read(b.tree().join("db")).is_ok_and(|is| is == now);
        if same {
            b.until("arrived", |_| arrived()).await;
        }
        if met == ENOUGH {
            break;
        }
    }
    flush(&a).await;
    assert_equal(&a.tree(), &b.tree());
    cable.cut().await;
}
