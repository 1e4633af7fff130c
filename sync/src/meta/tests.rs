//! Metadata on the real file system. What only root may do is skipped, aloud, by others.

use super::*;
use crate::beneath::Place;
use crate::beneath::tests::is_real_root;

fn path(text: &str) -> RelPath {
    RelPath::new(text).expect("valid")
}

fn setup() -> (tempfile::TempDir, Root) {
    let temp = tempfile::tempdir().expect("temp dir");
    let root = Root::open(temp.path()).expect("root");
    (temp, root)
}

fn wanted(xattrs: &[(&[u8], &[u8])]) -> Meta {
    let map: BTreeMap<Vec<u8>, Vec<u8>> = xattrs
        .iter()
        .map(|(name, value)| (name.to_vec(), value.to_vec()))
        .collect();
    Meta {
        mode: 0o4751,
        uid: 12345,
        gid: 54321,
        mtime_ns: 1_234_567_890_123_456_789,
        xattrs: Xattrs::try_from(map).expect("within the bounds"),
    }
}

/// An access ACL with a named user: version 2, then entries of tag, permissions, id.
fn acl() -> Vec<u8> {
    let entries: [(u16, u16, u32); 5] = [
        (0x01, 7, u32::MAX),
        (0x02, 5, 777),
        (0x04, 5, u32::MAX),
        (0x10, 5, u32::MAX),
        (0x20, 1, u32::MAX),
    ];
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

fn apply_at(root: &Root, at: &str, want: &Meta) -> Vec<Fault> {
    let held = root.open_path(&path(at)).expect("there");
    apply(held.as_fd(), want).expect("room")
}

fn read_at(root: &Root, at: &str) -> Seen {
    read(root, &path(at)).expect("readable").expect("there")
}

#[test]
fn a_files_metadata_comes_back_as_applied() {
    if !is_real_root() {
        return;
    }
    let (_temp, root) = setup();
    root.place(&path("f"))
        .expect("place")
        .create_new()
        .expect("create");
    // VFS_CAP_REVISION_2 with cap_net_raw permitted and effective.
    let capability = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let acl = acl();
    let mut want = wanted(&[
        (b"user.note", b"hello\0world"),
        (b"trusted.t", &[7u8; 2000]),
        (b"security.capability", &capability),
        (b"system.posix_acl_access", &acl),
    ]);
    // With an ACL the group bits of the mode are its mask.
    want.mode = 0o4751;
    assert_eq!(apply_at(&root, "f", &want), []);
    let seen = read_at(&root, "f");
    assert_eq!(seen.meta, want);
    // Applying again changes nothing but the change time; taking attributes away works too.
    assert_eq!(apply_at(&root, "f", &want), []);
    let less = wanted(&[(b"user.note", b"other")]);
    assert_eq!(apply_at(&root, "f", &less), []);
    assert_eq!(read_at(&root, "f").meta, less);
}

#[test]
fn links_and_special_files_are_changed_themselves() {
    if !is_real_root() {
        return;
    }
    let (temp, root) = setup();
    std::fs::write(temp.path().join("victim"), b"x").expect("write");
    let before = read_at(&root, "victim");
    let place = |name: &str| -> Place { root.place(&path(name)).expect("place") };
    place("l").symlink(b"victim").expect("symlink");
    place("dangling").symlink(b"/nowhere").expect("symlink");
    place("p").mknod(FileType::Fifo, 0).expect("mkfifo");
    let null = rustix::fs::makedev(1, 3);
    place("c")
        .mknod(FileType::CharacterDevice, null)
        .expect("mknod");
    let trusted = wanted(&[(b"trusted.x", b"1")]);
    for name in ["l", "dangling"] {
        assert_eq!(apply_at(&root, name, &trusted), [], "{name}");
        let seen = read_at(&root, name);
        let expected = Meta {
            mode: 0,
            ..trusted.clone()
        };
        assert_eq!(seen.meta, expected, "{name}");
    }
    for name in ["p", "c"] {
        assert_eq!(apply_at(&root, name, &trusted), [], "{name}");
        assert_eq!(read_at(&root, name).meta, trusted, "{name}");
    }
    assert_eq!(read_at(&root, "c").what, What::CharDevice(null));
    assert_eq!(read_at(&root, "victim"), before);
}

#[test]
fn what_cannot_be_applied_is_named() {
    let (_temp, root) = setup();
    root.place(&path("f"))
        .expect("place")
        .create_new()
        .expect("create");
    let mut want = read_at(&root, "f").meta;
    let map = BTreeMap::from([
        (b"system.nfs4_acl".to_vec(), b"x".to_vec()),
        (b"user.good".to_vec(), b"y".to_vec()),
    ]);
    want.xattrs = Xattrs::try_from(map).expect("valid");
    want.uid = u32::MAX;
    want.mode = 0o6755;
    let missed = apply_at(&root, "f", &want);
    let named: Vec<String> = missed.iter().map(ToString::to_string).collect();
    assert_eq!(named.len(), 2, "{named:?}");
    assert!(named[0].starts_with("owner 4294967295:"), "{named:?}");
    assert!(named[1].starts_with("xattr system.nfs4_acl"), "{named:?}");
    let seen = read_at(&root, "f");
    assert_eq!(seen.meta.mode, 0o755, "no set-id bits for another owner");
    assert_eq!(seen.meta.xattrs.len(), 1, "the rest is applied");
}

#[test]
fn negative_and_fractional_times_are_exact() {
    let (_temp, root) = setup();
    root.place(&path("d"))
        .expect("place")
        .mkdir()
        .expect("mkdir");
    for mtime_ns in [-1_i128, -1_000_000_001, 0, 1, 4_102_444_800_999_999_999] {
        let mut want = read_at(&root, "d").meta;
        want.mtime_ns = mtime_ns;
        assert_eq!(apply_at(&root, "d", &want), []);
        assert_eq!(read_at(&root, "d").meta.mtime_ns, mtime_ns);
    }
}

#[test]
fn the_state_of_a_file_needs_a_hash() {
    let (temp, root) = setup();
    std::fs::write(temp.path().join("f"), b"abc").expect("write");
    std::fs::hard_link(temp.path().join("f"), temp.path().join("g")).expect("link");
    let seen = read_at(&root, "f");
    assert!(seen.has_other_names());
    assert_eq!(seen.state(None), None);
    let state = seen.state(Some(ContentHash::of(b"abc"))).expect("a state");
    assert_eq!(state.kind.size(), 3);
    assert_eq!(read(&root, &path("none")), Ok(None));
    let whole = read(&root, &RelPath::root())
        .expect("readable")
        .expect("there");
    assert_eq!(whole.what, What::Dir);
}

#[test]
fn an_attribute_that_finds_no_place_is_missed_and_the_rest_is_applied() {
    let (temp, root) = setup();
    std::fs::write(temp.path().join("f"), "content").expect("write");
    // More than ext4 has room for beside an inode.
    let large = vec![b'x'; 8192];
    let want = Meta {
        mode: 0o640,
        mtime_ns: 5_000_000_000,
        ..wanted(&[(b"user.large", &large), (b"user.small", b"y")])
    };
    let own = read_at(&root, "f").meta;
    let want = Meta {
        uid: own.uid,
        gid: own.gid,
        ..want
    };
    let missed = apply_at(&root, "f", &want);
    let got = read_at(&root, "f").meta;
    match &missed[..] {
        [] => assert_eq!(got, want, "a file system that has a place for it"),
        [Fault::Attribute { what, errno }] => {
            assert_eq!((&what[..], *errno), ("xattr user.large", libc::ENOSPC));
            assert_eq!((got.mode, got.mtime_ns), (want.mode, want.mtime_ns));
            assert_eq!(got.xattrs.get(&b"user.small"[..]), Some(&b"y".to_vec()));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn other_attributes_than_the_wanted_ones_are_told_and_a_time_does_not_count() {
    let (temp, root) = setup();
    let file = std::fs::File::create(temp.path().join("f")).expect("create");
    let own = read_at(&root, "f").meta;
    let later = Meta {
        mtime_ns: own.mtime_ns + 1,
        ..own.clone()
    };
    assert!(is_but_time(&file, &later));
    let closed = Meta {
        mode: own.mode & 0o700,
        ..own.clone()
    };
    assert_eq!(is_but_time(&file, &closed), own.mode & 0o077 == 0);
    let more = Meta {
        xattrs: wanted(&[(b"user.x", b"y")]).xattrs,
        ..own.clone()
    };
    assert!(!is_but_time(&file, &more));
    shut(&file).expect("shut");
    assert_eq!(read_at(&root, "f").meta.mode, 0o600);
}
