//! The comparison of trees sees every kind of difference.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;
use tandem_lab::compare_trees;

/// A small tree with everything whose difference is to be seen.
fn build(root: &Path) {
    fs::create_dir_all(root.join("d/e")).expect("made");
    fs::write(root.join("d/file"), vec![7; 300_000]).expect("made");
    fs::write(root.join("one"), "1").expect("made");
    fs::hard_link(root.join("one"), root.join("two")).expect("made");
    symlink("one", root.join("link")).expect("made");
    for name in ["d/file", "one", "d/e", "d"] {
        let file = fs::File::open(root.join(name)).expect("opened");
        file.set_modified(std::time::UNIX_EPOCH + Duration::new(1_000_000, 123))
            .expect("set");
    }
    let time = rustix::fs::Timespec {
        tv_sec: 1_000_000,
        tv_nsec: 123,
    };
    let times = rustix::fs::Timestamps {
        last_access: time,
        last_modification: time,
    };
    let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::utimensat(rustix::fs::CWD, root.join("link"), &times, flags).expect("set");
}

/// Makes two equal trees, changes the right one, and looks whether this difference is found; none if it is empty.
#[track_caller]
fn differ(change: &dyn Fn(&Path), expected: &str) {
    let dir = tempfile::tempdir().expect("a directory");
    let (left, right) = (dir.path().join("l"), dir.path().join("r"));
    build(&left);
    build(&right);
    change(&right);
    let found = compare_trees(&left, &right, &[".tandem"]).expect("compared");
    let text: Vec<String> = found.iter().map(ToString::to_string).collect();
    if expected.is_empty() {
        assert!(text.is_empty(), "{text:?}");
    } else {
        assert!(
            text.iter().any(|t| t.contains(expected)),
            "{expected}: {text:?}"
        );
    }
}

#[test]
fn names_and_contents() {
    differ(&|_| (), "");
    differ(&|r| fs::create_dir(r.join(".tandem")).expect("made"), "");
    differ(
        &|r| fs::write(r.join("d/new"), "").expect("made"),
        "missing on the left",
    );
    differ(
        &|r| fs::remove_dir(r.join("d/e")).expect("removed"),
        "missing on the right",
    );
    differ(
        &|r| {
            let mut data = vec![7; 300_000];
            data[200_000] = 8;
            fs::write(r.join("d/file"), data).expect("written");
        },
        "contents differ at byte 200000",
    );
}

#[test]
fn attributes_and_links() {
    let mode = fs::Permissions::from_mode(0o600);
    differ(
        &|r| fs::set_permissions(r.join("one"), mode.clone()).expect("set"),
        "mode",
    );
    differ(
        &|r| {
            fs::File::open(r.join("one"))
                .and_then(|f| f.set_modified(std::time::UNIX_EPOCH))
                .expect("set")
        },
        "modified 1000000.000000123",
    );
    differ(
        &|r| {
            fs::remove_file(r.join("two")).expect("removed");
            fs::copy(r.join("one"), r.join("two"))
                .map(|_| ())
                .expect("copied");
        },
        "hard link",
    );
    differ(
        &|r| {
            fs::remove_file(r.join("link")).expect("removed");
            symlink("two", r.join("link")).expect("made");
        },
        "link to",
    );
    let flags = rustix::fs::XattrFlags::empty();
    differ(
        &|r| rustix::fs::setxattr(r.join("one"), "user.x", b"1", flags).expect("set"),
        "extended attributes",
    );
}
