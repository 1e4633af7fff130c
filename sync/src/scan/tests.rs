//! The walk on real directories.

use super::*;
use std::os::unix::fs::symlink;
use std::path::Path;

fn no_skip(_: &RelPath, _: bool) -> bool {
    false
}

fn all(root: &Root) -> Vec<(RelPath, Found)> {
    let mut found = Vec::new();
    walk(root, &RelPath::root(), &no_skip, &mut |path, what| {
        found.push((path.clone(), what));
        ControlFlow::Continue(())
    })
    .expect("the root is readable");
    found
}

fn build(base: &Path, dirs: usize, files: usize) {
    for d in 0..dirs {
        let dir = base.join(format!("d{d}/sub{}/deep", d % 7));
        std::fs::create_dir_all(&dir).expect("mkdir");
        for f in 0..files {
            std::fs::write(dir.join(format!("f{f}")), [0u8; 3]).expect("write");
        }
    }
}

#[test]
fn everything_is_found_once_and_in_order() {
    let temp = tempfile::tempdir().expect("temp dir");
    build(temp.path(), 60, 20);
    // Names around the separator: "a", "a.b", "a/x" must come as a, a/x, a.b.
    std::fs::create_dir(temp.path().join("a")).expect("mkdir");
    std::fs::write(temp.path().join("a/x"), b"").expect("write");
    std::fs::write(temp.path().join("a.b"), b"").expect("write");
    symlink("/etc", temp.path().join("link")).expect("symlink");
    let root = Root::open(temp.path()).expect("root");
    let found = all(&root);
    assert!(found.is_sorted_by(|a, b| a.0 < b.0));
    // The thread that reads ahead is no more than that.
    crate::helper::refuse();
    assert_eq!(all(&root), found);
    let expected = walkdir::WalkDir::new(temp.path()).min_depth(1);
    let mut expected: Vec<RelPath> = expected
        .into_iter()
        .map(|entry| {
            let entry = entry.expect("readable");
            let relative = entry.path().strip_prefix(temp.path()).expect("below");
            RelPath::new(relative.as_os_str().as_encoded_bytes()).expect("valid")
        })
        .collect();
    expected.sort();
    let paths: Vec<RelPath> = found.into_iter().map(|(path, _)| path).collect();
    assert_eq!(paths, expected);
}

#[test]
fn the_private_directory_and_skipped_ones_are_not_entered() {
    let temp = tempfile::tempdir().expect("temp dir");
    std::fs::create_dir_all(temp.path().join(".tandem/staging")).expect("mkdir");
    std::fs::create_dir_all(temp.path().join("cache/x")).expect("mkdir");
    std::fs::write(temp.path().join("kept"), b"12345").expect("write");
    let root = Root::open(temp.path()).expect("root");
    let skip = |path: &RelPath, is_dir: bool| is_dir && path.as_bytes() == b"cache";
    let mut seen = Vec::new();
    let totals = walk(&root, &RelPath::root(), &skip, &mut |path, _| {
        seen.push(path.to_string());
        ControlFlow::Continue(())
    })
    .expect("walk");
    assert_eq!(seen, ["kept"]);
    assert_eq!((totals.entries, totals.bytes), (1, 5));
}

#[test]
fn sockets_and_mounts_are_listed() {
    let temp = tempfile::tempdir().expect("temp dir");
    let _socket = std::os::unix::net::UnixListener::bind(temp.path().join("socket")).expect("bind");
    let mount = temp.path().join("m");
    std::fs::create_dir(&mount).expect("mkdir");
    let none: Option<&std::ffi::CStr> = None;
    let flags = rustix::mount::MountFlags::empty();
    if rustix::mount::mount("none", &mount, "tmpfs", flags, none).is_err() {
        return tandem_lab::skipped("no right to mount");
    }
    std::fs::write(mount.join("below"), b"x").expect("write");
    let root = Root::open(temp.path()).expect("root");
    let names: Vec<_> = all(&root)
        .into_iter()
        .map(|(path, found)| (path.to_string(), found))
        .collect();
    let refused = root.place(&RelPath::new("m/below").expect("path"));
    drop(root);
    rustix::mount::unmount(&mount, rustix::mount::UnmountFlags::empty()).expect("umount");
    assert_eq!(
        names,
        [
            ("m".to_owned(), Found::Mount),
            ("socket".to_owned(), Found::Socket)
        ]
    );
    assert_eq!(refused.err(), Some(Fault::MountBelow));
}

#[test]
fn the_consumer_can_stop_and_can_start_below() {
    let temp = tempfile::tempdir().expect("temp dir");
    build(temp.path(), 30, 10);
    let root = Root::open(temp.path()).expect("root");
    let mut count = 0;
    let totals = walk(&root, &RelPath::root(), &no_skip, &mut |_, _| {
        count += 1;
        if count == 17 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    })
    .expect("walk");
    assert!(totals.stopped);
    assert_eq!(count, 17);
    let mut below = Vec::new();
    let start = RelPath::new("d3").expect("path");
    walk(&root, &start, &no_skip, &mut |path, _| {
        below.push(path.clone());
        ControlFlow::Continue(())
    })
    .expect("walk");
    assert_eq!(below.len(), 12);
    assert!(below.iter().all(|path| path.is_below(&start)));
    let gone = walk(
        &root,
        &RelPath::new("no").expect("path"),
        &no_skip,
        &mut |_, _| ControlFlow::Continue(()),
    );
    assert_eq!(gone, Err(Fault::Missing));
}

#[test]
fn vanishing_entries_are_no_errors() {
    let temp = tempfile::tempdir().expect("temp dir");
    build(temp.path(), 40, 5);
    let stop = AtomicBool::new(false);
    let root = Root::open(temp.path()).expect("root");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for d in 0..40 {
                    // Either call may race with its neighbour of the next round; only the change matters.
                    let _ = std::fs::remove_dir_all(temp.path().join(format!("d{d}")));
                }
                build(temp.path(), 40, 5);
            }
        });
        for _ in 0..50 {
            for (path, found) in all(&root) {
                assert!(matches!(found, Found::Entry(_)), "{path}: {found:?}");
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_path_beyond_path_max_is_walked() {
    let temp = tempfile::tempdir().expect("temp dir");
    let root = Root::open(temp.path()).expect("root");
    let depth = crate::beneath::tests::make_deep(&root, 40);
    let found = all(&root);
    assert_eq!(found.len(), depth + 1);
    assert!(found.iter().any(|(path, _)| path.as_bytes().len() > 8000));
    crate::private::remove_below(root.fd(), 0).expect("removed");
}
