use super::*;
use crate::beneath::Root;
use crate::commit::Staging;
use std::os::unix::fs::MetadataExt;

fn setup() -> (tempfile::TempDir, Private) {
    let dir = tempfile::tempdir().expect("temp dir");
    let root = Root::open(dir.path()).expect("root");
    let private = Private::open(&root).expect("private");
    (dir, private)
}

fn path(text: &str) -> RelPath {
    RelPath::new(text).expect("a path")
}

fn begin(private: &Private, name: &str, bytes: usize) -> Staging {
    let mut staging = Staging::begin_lasting(private, &path(name), 64 << 20).expect("begun");
    staging.write(&vec![1; bytes]).expect("written");
    staging
}

#[test]
fn the_longest_one_is_found_again_by_another_process() {
    let (dir, private) = setup();
    drop(begin(&private, "f", 100_000));
    drop(begin(&private, "f", 300_000));
    drop(begin(&private, "f", 200_000));
    drop(begin(&private, "g", 400_000));
    let root = Root::open(dir.path()).expect("root");
    let later = Private::open(&root).expect("opened again");
    let found = Partial::take(&later, &path("f")).expect("it is there");
    assert_eq!(found.len(), 300_000);
    let names = std::fs::read_dir(dir.path().join(".tandem/partial")).expect("dir");
    assert_eq!(names.count(), 2, "shorter ones went, another path's stays");
}

#[test]
fn what_is_in_use_is_neither_found_nor_removed() {
    let (_dir, private) = setup();
    let staging = begin(&private, "f", 100_000);
    assert!(Partial::take(&private, &path("f")).is_none());
    assert_eq!(clear_partials(&private), Ok(0));
    drop(staging);
    let held = Partial::take(&private, &path("f")).expect("it is there");
    assert_eq!(clear_partials(&private), Ok(0));
    drop(held);
    assert_eq!(clear_partials(&private), Ok(1));
}

#[test]
fn room_that_was_reserved_past_what_came_is_given_back() {
    let (_dir, private) = setup();
    let staging = begin(&private, "f", 1 << 20);
    drop(staging);
    let found = Partial::take(&private, &path("f")).expect("it is there");
    let blocks = found.file().metadata().expect("stat").blocks();
    assert!(
        blocks * 512 < 8 << 20,
        "{blocks} blocks of 64 MiB that were reserved"
    );
}

#[test]
fn a_content_that_is_given_up_or_wrong_leaves_nothing() {
    let (_dir, private) = setup();
    begin(&private, "f", 100_000).discard();
    let wrong = begin(&private, "f", 64 << 20).finish(crate::entry::ContentHash::of(b"x"));
    assert_eq!(wrong.err(), Some(Fault::WrongContent));
    assert!(Partial::take(&private, &path("f")).is_none());
}
