//! The rescue on the real file system.

use super::*;
use crate::entry::{ContentHash, Kind, Meta, Xattrs};
use std::path::PathBuf;

struct Setup {
    _temp: tempfile::TempDir,
    root: Root,
    private: Private,
}

fn setup() -> Setup {
    let temp = tempfile::tempdir().expect("temp dir");
    let root = Root::open(temp.path()).expect("root");
    let private = Private::open(&root).expect("private");
    Setup {
        _temp: temp,
        root,
        private,
    }
}

fn header(id: &str) -> Header {
    Header {
        version: manifest::VERSION,
        id: id.to_owned(),
        tree: "www".to_owned(),
        made_unix_ms: 1234,
        why: "reversal".to_owned(),
        base_unknown: false,
    }
}

fn path(bytes: &[u8]) -> RelPath {
    RelPath::new(bytes).expect("valid")
}

fn taken(at: &[u8]) -> Keep {
    Keep {
        path: path(at),
        change: Change::Changed,
        other: None,
        state: None,
        take: true,
    }
}

impl Setup {
    fn at(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn items(&self, set: &str) -> Vec<Item> {
        let mut found = Vec::new();
        each_item(&self.private, set, &mut |item| {
            found.push(item);
            ControlFlow::Continue(())
        })
        .expect("readable");
        found
    }
}

fn content(mut file: File) -> Vec<u8> {
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut file, &mut bytes).expect("read");
    bytes
}

#[test]
fn versions_move_there_and_can_be_read_and_dropped() {
    let setup = setup();
    let odd = b"d/od\xffd\n";
    std::fs::create_dir(setup.at("d")).expect("mkdir");
    std::fs::write(setup.at("f"), b"local").expect("write");
    std::fs::write(setup.at("d").join(manifest::os(&odd[2..])), b"odd").expect("write");
    std::os::unix::fs::symlink("x", setup.at("l")).expect("symlink");
    let before = setup.root.stat(&path(b"d")).expect("stat").expect("there");
    let state = State {
        kind: Kind::File {
            size: 3,
            hash: ContentHash::of(b"odd"),
        },
        meta: Meta {
            mode: 0o644,
            uid: 1,
            gid: 2,
            mtime_ns: -5,
            xattrs: Xattrs::default(),
        },
    };
    let mut versions = vec![taken(b"f"), taken(odd), taken(b"l")];
    versions[1].state = Some(state.clone());
    versions.push(Keep {
        change: Change::Deleted,
        take: false,
        ..taken(b"was/here")
    });
    let mut set = OpenSet::open(&setup.private, &header("s1")).expect("set");
    let kept = set.keep(&setup.root, &versions).expect("room");
    assert_eq!(kept, [Ok(1), Ok(2), Ok(3), Ok(4)]);
    assert!(!setup.at("f").exists());
    let after = setup.root.stat(&path(b"d")).expect("stat").expect("there");
    assert_eq!(after.mtime_ns, before.mtime_ns);
    let items = setup.items("s1");
    assert_eq!(items.len(), 4);
    assert_eq!(items[1].path, path(odd));
    assert_eq!(items[1].state, Some(state));
    assert_eq!(items[3].change, Change::Deleted);
    let summary = summary(&setup.private, "s1").expect("summary");
    assert_eq!((summary.items, summary.bytes), (4, 8));
    assert_eq!(summary.header, header("s1"));
    assert_eq!(
        content(open(&setup.private, "s1", 1).expect("open")),
        b"local"
    );
    assert!(
        open(&setup.private, "s1", 3).is_err(),
        "a link is not opened"
    );
    assert!(open(&setup.private, "s1", 9).is_err());
    drop_items(&setup.private, "s1", &[1, 4]).expect("dropped");
    let left: Vec<u64> = setup.items("s1").iter().map(|item| item.number).collect();
    assert_eq!(left, [2, 3]);
    drop_items(&setup.private, "s1", &[]).expect("dropped");
    assert_eq!(list(&setup.private), Ok(Vec::new()));
}

#[test]
fn what_cannot_be_moved_is_named_and_stays() {
    let setup = setup();
    std::fs::create_dir(setup.at("d")).expect("mkdir");
    std::fs::write(setup.at("good"), b"x").expect("write");
    let versions = [
        taken(b"d"),
        taken(b"none"),
        taken(b".tandem/marker"),
        taken(b"good"),
    ];
    let mut set = OpenSet::open(&setup.private, &header("s")).expect("set");
    let kept = set.keep(&setup.root, &versions).expect("room");
    let expected = [
        Err(Fault::Changed("a directory is not moved to the rescue")),
        Err(Fault::Missing),
        Err(Fault::NotBeneath),
        Ok(1),
    ];
    assert_eq!(kept, expected);
    assert_eq!(setup.items("s").len(), 1);
    assert!(setup.at("d").exists());
}

#[test]
fn a_cut_line_and_a_move_that_did_not_happen_are_passed_over() {
    let setup = setup();
    for name in ["a", "b", "c"] {
        std::fs::write(setup.at(name), name).expect("write");
    }
    let mut set = OpenSet::open(&setup.private, &header("s")).expect("set");
    set.keep(&setup.root, &[taken(b"a"), taken(b"b")])
        .expect("room");
    drop(set);
    // As after a crash: the second file did not move, and a third line was cut.
    let dir = setup.at(".tandem/rescue/s");
    std::fs::rename(dir.join("00000002"), setup.at("b")).expect("rename");
    let mut manifest = File::options()
        .append(true)
        .open(dir.join("manifest.jsonl"))
        .expect("open");
    manifest
        .write_all(b"{\"item\":{\"number\":3,\"pa")
        .expect("write");
    assert_eq!(setup.items("s").len(), 1);
    let mut set = OpenSet::open(&setup.private, &header("s")).expect("set");
    let kept = set
        .keep(&setup.root, &[taken(b"b"), taken(b"c")])
        .expect("room");
    assert_eq!(kept, [Ok(3), Ok(4)]);
    let items = setup.items("s");
    let numbers: Vec<u64> = items.iter().map(|item| item.number).collect();
    assert_eq!(numbers, [1, 3, 4]);
    assert_eq!(content(open(&setup.private, "s", 3).expect("open")), b"b");
}

#[test]
fn names_of_sets_lead_nowhere_else() {
    let setup = setup();
    let long = "x".repeat(65);
    for bad in [
        "",
        ".",
        "..",
        "../staging",
        "a/b",
        ".hidden",
        "a\0",
        long.as_str(),
    ] {
        let error = RescueError::Name(bad.to_owned());
        assert_eq!(
            OpenSet::open(&setup.private, &header(bad)).err(),
            Some(error.clone())
        );
        assert_eq!(drop_items(&setup.private, bad, &[]), Err(error));
    }
    let unknown = RescueError::Unknown("set none".to_owned());
    assert_eq!(summary(&setup.private, "none").err(), Some(unknown));
}

#[test]
fn no_room_is_an_error_of_the_whole() {
    let temp = tempfile::tempdir().expect("temp dir");
    let flags = rustix::mount::MountFlags::empty();
    let size: Option<&std::ffi::CStr> = Some(c"size=64k");
    if rustix::mount::mount("none", temp.path(), "tmpfs", flags, size).is_err() {
        return tandem_lab::skipped("a full disk: no right to mount");
    }
    let root = Root::open(temp.path()).expect("root");
    let private = Private::open(&root).expect("private");
    std::fs::write(temp.path().join("f"), b"local").expect("write");
    let mut set = OpenSet::open(&private, &header("s")).expect("set");
    let filled = std::fs::write(temp.path().join("fill"), vec![1u8; 1 << 20]);
    let versions: Vec<Keep> = (0..4000).map(|_| taken(b"f")).collect();
    let result = set.keep(&root, &versions);
    let still = std::fs::read(temp.path().join("f"));
    drop((set, private, root));
    rustix::mount::unmount(temp.path(), rustix::mount::UnmountFlags::empty()).expect("umount");
    assert!(filled.is_err());
    let no_space = Fault::NoSpace {
        errno: libc::ENOSPC,
    };
    assert_eq!(result, Err(RescueError::Fault(no_space)));
    assert_eq!(still.expect("still there"), b"local");
}
