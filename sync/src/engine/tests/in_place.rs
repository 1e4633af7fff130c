//! Large files that are changed in place on the replica.

use super::compare::assert_equal;
use super::pair::{Cable, Node, PATIENCE, flush, noise, pair, write};
use super::reversal::rescued;
use crate::tree::Update;
use std::collections::BTreeMap;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};

const SIZE: usize = 1_700_000;

fn edit(node: &Node, name: &str, at: u64, bytes: &[u8]) {
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(node.tree().join(name))
        .unwrap();
    file.write_all_at(bytes, at).unwrap();
}

fn inode(node: &Node, name: &str) -> u64 {
    std::fs::metadata(node.tree().join(name)).unwrap().ino()
}

fn open_journals(node: &Node) -> usize {
    let dir = std::fs::read_dir(node.tree().join(".tandem/redo")).unwrap();
    dir.count()
}

async fn in_place_pair() -> (Node, Node, Cable) {
    let (a, b) = pair(|t| t.update = Update::InPlace).await;
    write(&a.tree().join("base"), noise(SIZE, 1));
    write(&a.tree().join("small"), noise(300 << 10, 2));
    let cable = Cable::plug(&a, &b);
    equal(&a, &b).await;
    (a, b, cable)
}

async fn equal(a: &Node, b: &Node) {
    flush(a).await;
    b.until("consistent", |s| s.consistent).await;
    assert_equal(&a.tree(), &b.tree());
    assert_eq!(open_journals(b), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_stays_the_same_file() {
    let (a, b, cable) = in_place_pair().await;
    let (base, small) = (inode(&b, "base"), inode(&b, "small"));
    edit(&a, "base", 5, b"a few bytes");
    edit(&a, "base", 1_200_000, &noise(9000, 3));
    edit(&a, "small", 5, b"a few bytes");
    equal(&a, &b).await;
    assert_eq!(inode(&b, "base"), base, "changed in place");
    assert_ne!(inode(&b, "small"), small, "below the threshold: replaced");
    // Longer, shorter, and with other attributes.
    edit(&a, "base", SIZE as u64 - 10, &noise(500_000, 4));
    equal(&a, &b).await;
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(a.tree().join("base"))
        .unwrap();
    file.set_len(1_500_001).unwrap();
    let mode = std::fs::Permissions::from_mode(0o600);
    file.set_permissions(mode).unwrap();
    equal(&a, &b).await;
    assert_eq!(inode(&b, "base"), base);
    // What it becomes is small: replaced.
    file.set_len(1000).unwrap();
    equal(&a, &b).await;
    assert_ne!(inode(&b, "base"), base);
    cable.cut().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_differences_travel() {
    let (a, b, cable) = in_place_pair().await;
    cable.cut().await;
    edit(&a, "base", 70_000, b"x");
    let (cable, written) = Cable::counting(&a, &b);
    equal(&a, &b).await;
    let bytes = written.load(std::sync::atomic::Ordering::SeqCst);
    assert!(bytes < 300_000, "{bytes} bytes for one changed block");
    cable.cut().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_two_names_is_replaced() {
    let (a, b, cable) = in_place_pair().await;
    std::fs::hard_link(a.tree().join("base"), a.tree().join("other")).unwrap();
    equal(&a, &b).await;
    let base = inode(&b, "base");
    edit(&a, "base", 5, b"a few bytes");
    equal(&a, &b).await;
    assert_ne!(inode(&b, "base"), base);
    assert_eq!(inode(&b, "base"), inode(&b, "other"));
    cable.cut().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_version_is_rescued_whole() {
    let (a, b, cable) = in_place_pair().await;
    cable.cut().await;
    let before = std::fs::read(b.tree().join("base")).unwrap();
    edit(&b, "base", 100, b"b's own");
    let mut own = before;
    own[100..107].copy_from_slice(b"b's own");
    edit(&a, "base", 200, b"a's");
    let cable = Cable::plug(&a, &b);
    equal(&a, &b).await;
    let own = String::from_utf8_lossy(&own).into_owned();
    let found = rescued(&b);
    assert!(
        found == BTreeMap::from([("base".to_owned(), own)]),
        "{:?}",
        found.keys()
    );
    cable.cut().await;
}

/// Waits until everything is durable on the replica (false) or its worker was cut (true).
pub async fn is_cut(a: &Node, b: &Node) -> bool {
    let mut changes = b.engine().status_changes();
    let cut = changes.wait_for(|s| s.alarms.iter().any(|a| a.kind == "worker"));
    tokio::select! {
        found = cut => found.is_ok(),
        () = flush(a) => false,
        () = tokio::time::sleep(PATIENCE) => panic!("neither: {:#?}", b.engine().status()),
    }
}

/// The worker ends as if it were killed, at every step of an apply in place. After the start, before anybody sends
/// anything, each file is the old version or the new one.
#[tokio::test(flavor = "multi_thread")]
async fn wherever_it_is_cut_each_file_is_the_old_version_or_the_new_one() {
    let mut seen = BTreeMap::new();
    // The two files come in one batch or in two, as the source sees them: the count of a place is not the same each time.
    for _ in 0..5 {
        cut_everywhere(&mut seen).await;
        if PLACES.iter().all(|place| seen.contains_key(place)) {
            return;
        }
    }
    panic!("not cut at all of {PLACES:?}: {seen:?}");
}

const PLACES: [&str; 6] = [
    "before a journal is opened",
    "after a journal was opened",
    "before an extent is written",
    "before attributes are applied in place",
    "after a journal was carried out",
    "before journals are retired",
];

async fn cut_everywhere(seen: &mut BTreeMap<&'static str, u32>) {
    for n in 1.. {
        let (a, mut b, cable) = in_place_pair().await;
        write(&a.tree().join("second"), noise(SIZE, 9));
        equal(&a, &b).await;
        cable.cut().await;
        let content = |node: &Node, name: &str| std::fs::read(node.tree().join(name)).unwrap();
        let names = ["base", "second"];
        let old = names.map(|name| content(&b, name));
        for name in names {
            edit(&a, name, 0, b"begins otherwise");
            edit(&a, name, 1_100_000, &noise(100_000, 5));
            edit(&a, name, SIZE as u64 - 4, b"ends otherwise");
        }
        let new = names.map(|name| content(&a, name));
        let _ = a
            .engine()
            .flush(std::time::Duration::from_millis(200))
            .await;
        b.engine().shared.cuts.arm(n);
        let mut cable = Cable::plug(&a, &b);
        let cut = is_cut(&a, &b).await;
        let place = b.engine().shared.cuts.place();
        if cut {
            cable.cut().await;
            b.stop().await;
            b.start();
            // The roots are opened before the first command is answered.
            b.engine().begin_replica().await.unwrap();
            assert_eq!(open_journals(&b), 0, "cut {n}, {place:?}");
            for (i, name) in names.iter().enumerate() {
                let found = content(&b, name);
                let whole = found == old[i] || found == new[i];
                assert!(whole, "cut {n}, {place:?}: {name} is a mixture");
            }
            *seen.entry(place.unwrap()).or_insert(0) += 1;
            cable = Cable::plug(&a, &b);
        }
        equal(&a, &b).await;
        assert_eq!(rescued(&b), BTreeMap::new(), "cut {n}, {place:?}");
        cable.cut().await;
        if !cut {
            break;
        }
    }
}
