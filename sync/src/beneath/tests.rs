//! Resolution against hostile trees: both the `openat2` way and the walk.

pub(crate) mod swapped;

use super::*;
use std::os::unix::fs::symlink;
use std::sync::atomic::AtomicBool;

/// Makes nested directories with long names and one file at the end; returns the number of directories.
pub(crate) fn make_deep(root: &Root, levels: usize) -> usize {
    let mut path = RelPath::root();
    for level in 0..levels {
        let name = format!("{level:-<250}");
        path = path.join(name.as_bytes()).expect("valid");
        root.place(&path).expect("parent").mkdir().expect("mkdir");
    }
    let file = path.join(b"file").expect("valid");
    root.place(&file)
        .expect("parent")
        .create_new()
        .expect("create");
    levels
}

/// Root of the whole machine, not of a user namespace: may use every owner, attribute, flag and device.
#[track_caller]
pub(crate) fn is_real_root() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let all = map.split_whitespace().eq(["0", "0", "4294967295"]);
    let real = all && rustix::process::geteuid().is_root();
    if !real {
        tandem_lab::skipped("not the machine's root");
    }
    real
}

fn path(text: &str) -> RelPath {
    RelPath::new(text).expect("valid")
}

fn both(base: &Path) -> [Root; 2] {
    let open = || Root::open(base).expect("root");
    [open(), open().without_openat2()]
}

#[test]
fn links_are_never_followed() {
    let temp = tempfile::tempdir().expect("temp dir");
    let outside = tempfile::tempdir().expect("temp dir");
    std::fs::write(outside.path().join("secret"), b"x").expect("write");
    std::fs::create_dir(temp.path().join("dir")).expect("mkdir");
    symlink(outside.path(), temp.path().join("out")).expect("symlink");
    symlink("dir", temp.path().join("in")).expect("symlink");
    symlink("../..", temp.path().join("dir/up")).expect("symlink");
    symlink("/proc/self/root", temp.path().join("magic")).expect("symlink");
    symlink(outside.path().join("secret"), temp.path().join("file")).expect("symlink");
    for root in both(temp.path()) {
        for bad in ["out/secret", "in/x", "dir/up/x", "magic/etc"] {
            let got = root.place(&path(bad)).err();
            assert_eq!(got, Some(Fault::NotBeneath), "{bad}");
            assert!(root.stat(&path(bad)).is_err(), "{bad}");
        }
        assert_eq!(root.open_dir(&path("out")).err(), Some(Fault::NotBeneath));
        let got = root.open_file(&path("file")).err();
        assert_eq!(got, Some(Fault::Changed("not a regular file")));
        // The link itself can be looked at.
        let stat = root.stat(&path("file")).expect("stat").expect("there");
        assert_eq!(stat.file_type(), rustix::fs::FileType::Symlink);
        root.open_path(&path("file")).expect("the link itself");
        assert_eq!(root.stat(&path("none")), Ok(None));
        assert_eq!(root.stat(&path("none/none")), Ok(None));
    }
}

#[test]
fn a_fifo_does_not_block() {
    let temp = tempfile::tempdir().expect("temp dir");
    for root in both(temp.path()) {
        let place = root.place(&path("fifo")).expect("place");
        place.mknod(rustix::fs::FileType::Fifo, 0).expect("mkfifo");
        let got = root.open_file(&path("fifo")).err();
        assert_eq!(got, Some(Fault::Changed("not a regular file")));
        place.unlink().expect("unlink");
    }
}

#[test]
fn deep_paths_and_long_names_work() {
    let temp = tempfile::tempdir().expect("temp dir");
    for root in both(temp.path()) {
        make_deep(&root, 40);
        let long: Vec<u8> = (1..=255u8).filter(|b| !matches!(b, b'/' | b'.')).collect();
        let mut name = long.clone();
        name.resize(255, b'z');
        let odd = RelPath::new(&name).expect("valid");
        root.place(&odd)
            .expect("place")
            .create_new()
            .expect("create");
        assert!(root.stat(&odd).expect("stat").expect("there").is_file());
        let mut deep = RelPath::root();
        for level in 0..40 {
            deep = deep
                .join(format!("{level:-<250}").as_bytes())
                .expect("valid");
        }
        root.open_file(&deep.join(b"file").expect("valid"))
            .expect("opened");
        crate::private::remove_below(root.fd(), 0).expect("removed");
    }
}

#[test]
fn a_name_is_one_component() {
    let temp = tempfile::tempdir().expect("temp dir");
    let root = Root::open(temp.path()).expect("root");
    for bad in [&b""[..], b".", b"..", b"a/b", b"a\0b"] {
        let dir = root.open_dir(&RelPath::root()).expect("dir");
        assert_eq!(Place::new(dir, bad).err(), Some(Fault::NotBeneath));
    }
    assert_eq!(root.place(&RelPath::root()).err(), Some(Fault::NotBeneath));
}

#[test]
fn a_directory_that_is_swapped_for_a_link_never_leads_outside() {
    let temp = tempfile::tempdir().expect("temp dir");
    let outside = tempfile::tempdir().expect("temp dir");
    std::fs::create_dir(temp.path().join("d")).expect("mkdir");
    symlink(outside.path(), temp.path().join("l")).expect("symlink");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let base = rustix::fs::open(temp.path(), OFlags::PATH, Mode::empty()).expect("open");
            while !stop.load(Ordering::Relaxed) {
                rustix::fs::renameat_with(&base, "d", &base, "l", RenameFlags::EXCHANGE)
                    .expect("exchange");
            }
        });
        let mut made = 0;
        for root in both(temp.path()) {
            for i in 0..3000 {
                let Ok(place) = root.place(&path(&format!("d/f{i}"))) else {
                    continue;
                };
                made += usize::from(place.create_new().is_ok());
            }
        }
        stop.store(true, Ordering::Relaxed);
        assert!(made > 0, "no attempt succeeded: the race was not tried");
    });
    let leaked = std::fs::read_dir(outside.path()).expect("dir").count();
    assert_eq!(leaked, 0);
}

#[test]
fn what_was_checked_is_what_is_opened() {
    let temp = tempfile::tempdir().expect("temp dir");
    std::fs::write(temp.path().join("f"), b"content").expect("write");
    let root = Root::open(temp.path()).expect("root");
    let held = root.open_path(&path("f")).expect("held");
    let fifo = Place::new(root.open_dir(&RelPath::root()).expect("dir"), b"p").expect("place");
    fifo.mknod(rustix::fs::FileType::Fifo, 0).expect("fifo");
    std::fs::rename(temp.path().join("p"), temp.path().join("f")).expect("rename");
    let file = reopen(held.as_fd()).expect("opened");
    assert_eq!(std::io::read_to_string(file).expect("read"), "content");
    let refused = root.open_file(&path("f")).err();
    assert_eq!(refused, Some(Fault::Changed("not a regular file")));
}

#[test]
fn a_moved_root_is_noticed() {
    let temp = tempfile::tempdir().expect("temp dir");
    let base = temp.path().join("r");
    std::fs::create_dir(&base).expect("mkdir");
    let root = Root::open(&base).expect("root");
    assert!(root.still_there());
    std::fs::rename(&base, temp.path().join("s")).expect("rename");
    assert!(!root.still_there());
    std::fs::create_dir(&base).expect("mkdir");
    assert!(!root.still_there(), "another directory in its place");
}
