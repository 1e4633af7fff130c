//! Applies against flags, protection, swapped directories, odd names and a full disk.

use super::*;
use rustix::fs::IFlags;
use std::os::unix::fs::PermissionsExt;

fn set_flag(at: &std::path::Path, flag: IFlags, on: bool) {
    let file = std::fs::File::open(at).expect("open");
    let mut flags = rustix::fs::ioctl_getflags(&file).expect("flags");
    flags.set(flag, on);
    rustix::fs::ioctl_setflags(&file, flags).expect("set flags");
}

#[test]
fn flagged_files_stay_and_are_named_and_the_rest_goes_on() {
    if !is_real_root() {
        return;
    }
    let setup = setup();
    for name in ["i", "a", "plain"] {
        std::fs::write(setup.at(name), b"old").expect("write");
    }
    std::fs::create_dir(setup.at("di")).expect("mkdir");
    std::fs::write(setup.at("di/f"), b"old").expect("write");
    let flagged = [
        ("i", IFlags::IMMUTABLE),
        ("a", IFlags::APPEND),
        ("di", IFlags::IMMUTABLE),
    ];
    for (name, flag) in flagged {
        set_flag(&setup.at(name), flag, true);
    }
    let work = vec![
        setup.file("i", setup.known("i"), b"new"),
        step("a", setup.known("a"), Action::RemoveFile),
        step("i", setup.known("i"), Action::SetMeta(meta(0o777))),
        setup.file("di/f", setup.known("di/f"), b"new"),
        setup.file("di/g", Expect::Nothing, b"new"),
        finish_dir("di"),
        setup.file("plain", setup.known("plain"), b"new"),
    ];
    let report = setup.apply(work);
    for (name, flag) in flagged {
        set_flag(&setup.at(name), flag, false);
    }
    let expected = [
        ("i", "immutable"),
        ("a", "append-only"),
        ("i", "immutable"),
        ("di/f", "immutable"),
        ("di/g", "immutable"),
        ("di", "immutable"),
    ];
    let expected = expected.map(|(name, flag)| (name.to_owned(), Fault::Flagged(flag)));
    assert_eq!(failed(&report), expected);
    assert_eq!(report.stopped, None);
    for name in ["i", "a", "di/f"] {
        assert_eq!(
            std::fs::read(setup.at(name)).expect("read"),
            b"old",
            "{name}"
        );
    }
    assert_eq!(std::fs::read(setup.at("plain")).expect("read"), b"new");
    assert!(setup.staging_is_empty());
}

#[test]
fn protected_paths_stay() {
    let setup = setup();
    std::fs::write(setup.at("kept"), b"old").expect("write");
    let protect = |at: &RelPath, _: bool| at.as_bytes().starts_with(b"kept");
    let work = vec![
        setup.file("kept", setup.known("kept"), b"new"),
        step("kept", setup.known("kept"), Action::RemoveFile),
        setup.file("kept-new", Expect::Nothing, b"new"),
    ];
    let report = setup.apply_with(work, &protect);
    let expected = [
        ("kept".to_owned(), Fault::Protected),
        ("kept".to_owned(), Fault::Protected),
    ];
    assert_eq!(failed(&report), expected);
    assert_eq!(std::fs::read(setup.at("kept")).expect("read"), b"old");
    assert!(setup.at("kept-new").exists(), "what is missing may be made");
}

#[test]
fn the_private_directory_is_no_target() {
    let setup = setup();
    std::fs::write(setup.at("f"), b"x").expect("write");
    let marker = Expect::Nothing;
    let report = setup.apply(vec![
        setup.file(".tandem/marker", marker, b"evil"),
        step(".tandem", setup.known(".tandem"), Action::RemoveDir),
        step(
            "g",
            Expect::Nothing,
            Action::Link {
                to: path(".tandem/marker"),
            },
        ),
    ]);
    assert_eq!(report.failures().count(), 3);
    assert!(
        report
            .failures()
            .all(|(_, fault)| *fault == Fault::NotBeneath)
    );
    assert!(!setup.at(".tandem/marker").exists());
}

#[test]
fn links_in_the_way_are_not_followed() {
    let setup = setup();
    let outside = setup.temp.path().join("outside");
    std::fs::create_dir(&outside).expect("mkdir");
    std::fs::write(outside.join("f"), b"precious").expect("write");
    std::os::unix::fs::symlink(&outside, setup.at("d")).expect("symlink");
    std::os::unix::fs::symlink(outside.join("f"), setup.at("l")).expect("symlink");
    std::os::unix::fs::symlink(outside.join("f"), setup.at("m")).expect("symlink");
    let file = Expect::Known(KindName::File, None);
    let report = setup.apply(vec![
        setup.file("d/f", Expect::Nothing, b"evil"),
        step("d/f", file, Action::RemoveFile),
        finish_dir("d"),
        step("h", Expect::Nothing, Action::Link { to: path("l") }),
        step("m", file, Action::SetMeta(meta(0o666))),
        setup.file("l", setup.known("l"), b"a file now"),
    ]);
    assert_eq!(report.failures().count(), 5, "{:?}", failed(&report));
    assert_eq!(std::fs::read(outside.join("f")).expect("read"), b"precious");
    assert_eq!(std::fs::read_dir(&outside).expect("dir").count(), 1);
    assert_eq!(std::fs::read(setup.at("l")).expect("read"), b"a file now");
}

#[test]
fn names_of_any_bytes_and_deep_paths() {
    let setup = setup();
    let mut name: Vec<u8> = (1..=255u8).filter(|b| *b != b'/').collect();
    name.resize(255, 0xff);
    let odd = RelPath::new(&name).expect("valid");
    let mut work = Vec::new();
    let mut deep = RelPath::root();
    for level in 0..40 {
        deep = deep
            .join(format!("{level:x<250}").as_bytes())
            .expect("valid");
        let mut one = make_dir("x");
        one.step.path = deep.clone();
        work.push(one);
    }
    let deep_file = deep.join(&name).expect("valid");
    for at in [&odd, &deep_file] {
        let mut one = setup.file("x", Expect::Nothing, b"content");
        one.step.path = at.clone();
        work.push(one);
    }
    let report = setup.apply(work);
    assert_eq!(failed(&report), []);
    let mut read = Vec::new();
    let mut file = setup.root.open_file(&deep_file).expect("open");
    std::io::Read::read_to_end(&mut file, &mut read).expect("read");
    assert_eq!(read, b"content");
    crate::private::remove_below(setup.root.fd(), 0).expect("removed");
}

#[test]
fn a_full_disk_stops_with_its_own_fault() {
    let temp = tempfile::tempdir().expect("temp dir");
    let flags = rustix::mount::MountFlags::empty();
    let size: Option<&std::ffi::CStr> = Some(c"size=1m");
    if rustix::mount::mount("none", temp.path(), "tmpfs", flags, size).is_err() {
        return tandem_lab::skipped("a full disk: no right to mount");
    }
    let root = Root::open(temp.path()).expect("root");
    let private = Private::open(&root).expect("private");
    let reserved = |announced, room| {
        let mut staging = Staging::begin(&private, announced).expect("begun");
        staging.reserve(room).err()
    };
    let begun = reserved(8 << 20, 8 << 20);
    let (too_much, sparse) = (reserved(1 << 40, 2 << 20), reserved(1 << 40, 4096));
    let mut small = Staging::begin(&private, 3 << 18).expect("fits");
    let mut other = Staging::begin(&private, 3 << 18).expect("not reserved");
    let chunk = vec![1u8; 1 << 16];
    let written: Vec<_> = (0..12).map(|_| small.write(&chunk)).collect();
    let full = (0..12).find_map(|_| other.write(&chunk).err());
    drop((small, other));
    let left = std::fs::read_dir(temp.path().join(".tandem/staging"))
        .expect("dir")
        .count();
    drop((private, root));
    rustix::mount::unmount(temp.path(), rustix::mount::UnmountFlags::empty()).expect("umount");
    let no_space = Some(Fault::NoSpace {
        errno: libc::ENOSPC,
    });
    assert_eq!(
        (begun, too_much, sparse),
        (no_space.clone(), no_space.clone(), None)
    );
    assert!(written.iter().all(Result::is_ok));
    assert_eq!(full, no_space);
    assert_eq!(left, 0);
}

/// Between the check of a name and the change somebody puts another file there, for whom the change was not meant.
#[test]
fn an_entry_that_was_exchanged_after_the_check_is_left_alone() {
    let setup = setup();
    std::fs::write(setup.at("f"), b"ours").expect("write");
    std::fs::write(setup.at("secret"), b"of somebody else").expect("write");
    std::fs::set_permissions(setup.at("secret"), PermissionsExt::from_mode(0o600)).expect("chmod");
    for dir in ["d", "private"] {
        std::fs::create_dir(setup.at(dir)).expect("mkdir");
    }
    std::fs::set_permissions(setup.at("private"), PermissionsExt::from_mode(0o700)).expect("chmod");
    let target = Target {
        trash: None,
        root: &setup.root,
        private: &setup.private,
        protect: &|_, _| false,
    };
    let mut run = Run::new(&target);
    let checked = |name: &str| {
        let place = setup.root.place(&path(name)).expect("place");
        let stat = place.stat().expect("stat");
        (place, stat)
    };
    let (file, file_stat) = checked("f");
    let (dir, dir_stat) = checked("d");
    let known = setup.known("f");
    std::fs::rename(setup.at("secret"), setup.at("f")).expect("exchanged");
    std::fs::remove_dir(setup.at("d")).expect("rmdir");
    std::fs::rename(setup.at("private"), setup.at("d")).expect("exchanged");
    let open = meta(0o777);
    let done = run.set_meta(&path("f"), &file, file_stat, known, &open);
    assert!(matches!(done, Err(Fault::Changed(_))), "{done:?}");
    let done = run.finish_dir(&path("d"), &dir, dir_stat, open);
    assert!(matches!(done, Err(Fault::Changed(_))), "{done:?}");
    let mode = |name: &str| std::fs::metadata(setup.at(name)).expect("stat").mode() & 0o7777;
    assert_eq!((mode("f"), mode("d")), (0o600, 0o700));
}

#[test]
fn a_protected_file_gets_no_further_name() {
    let setup = setup();
    std::fs::write(setup.at("kept"), b"old").expect("write");
    let protect = |at: &RelPath, _: bool| at.as_bytes() == b"kept";
    let work = vec![
        step("l", Expect::Nothing, Action::Link { to: path("kept") }),
        step(
            "l",
            Expect::Known(KindName::File, None),
            Action::SetMeta(meta(0o666)),
        ),
    ];
    let report = setup.apply_with(work, &protect);
    assert_eq!(
        report.failures().next(),
        Some((&path("l"), &Fault::Protected))
    );
    assert!(!setup.at("l").exists());
    assert_eq!(
        std::fs::metadata(setup.at("kept")).expect("stat").nlink(),
        1
    );
}
