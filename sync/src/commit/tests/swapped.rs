//! Applies below a directory that somebody exchanges for a link out of the tree, as fast as it goes.

use super::*;
use crate::beneath::tests::swapped::Swapper;
use crate::commit::inplace::{IN_PLACE_FROM, Redo, finish_journals};
use crate::entry::LocalKey;
use crate::private::names;
use crate::rescue::{Change, Header, Keep, OpenSet};
use crate::stat::Stat;
use std::fs::File;
use std::os::fd::AsFd;
use std::time::Duration;

/// Of a file that is changed in place.
const LARGE: usize = IN_PLACE_FROM as usize + 5000;

/// `d` in the tree, and the directory outside to which the name leads at times. What happens lies in `s` in them: the name is
/// not the last one of a path that is opened.
struct Race {
    setup: Setup,
    outside: PathBuf,
}

impl Race {
    /// One for each way in which names are looked up.
    fn both() -> [Race; 2] {
        let mut walks = Race::new(setup());
        walks.setup.root = walks.setup.root.without_openat2();
        [Race::new(setup()), walks]
    }

    fn new(setup: Setup) -> Race {
        let outside = setup.temp.path().join("outside");
        for dir in [&setup.at("d"), &outside] {
            std::fs::create_dir_all(dir.join("s")).expect("mkdir");
            std::fs::write(dir.join("s/large"), vec![7; LARGE]).expect("write");
        }
        std::fs::write(outside.join("s/f"), b"precious").expect("write");
        Race { setup, outside }
    }

    /// Each round says how much of it was done: some of it is. Nothing of it is done outside.
    fn run(&self, round: impl FnMut(usize, &Swapper) -> usize) {
        Swapper::begin(self.setup.root.path(), &self.outside, Duration::ZERO).race(round);
    }

    /// The version of a file outside, as if the tree knew it.
    fn known_outside(&self, name: &str) -> (File, Expect) {
        let file = File::open(self.outside.join("s").join(name)).expect("open");
        let known = Expect::Known(KindName::File, Some(key_of(&file)));
        (file, known)
    }
}

fn done(report: &Report) -> usize {
    report.outcomes.iter().filter(|o| o.result.is_ok()).count()
}

fn key_of(file: &File) -> LocalKey {
    Stat::of_fd(file.as_fd()).expect("stat").key()
}

#[test]
fn nothing_outside_is_made_changed_or_removed() {
    Race::both().iter().for_each(make_change_and_remove);
}

fn make_change_and_remove(race: &Race) {
    let setup = &race.setup;
    let (_, known) = race.known_outside("f");
    race.run(|round, _| {
        let fresh = format!("d/s/n{round}");
        done(&setup.apply(vec![
            setup.file(&fresh, Expect::Nothing, b"new"),
            step("d/s/f", known, Action::SetMeta(meta(0o777))),
            setup.file("d/s/f", known, b"new"),
            step("d/s/f", known, Action::RemoveFile),
            step(&fresh, Expect::Nothing, Action::SetMeta(meta(0o777))),
            step("d/s/h", Expect::Nothing, Action::Link { to: path(&fresh) }),
            finish_dir("d/s"),
            step(&fresh, Expect::Nothing, Action::RemoveFile),
            step("d/s/h", Expect::Nothing, Action::RemoveFile),
        ]))
    });
}

#[test]
fn nothing_outside_goes_to_the_trash() {
    Race::both().iter().for_each(move_to_the_trash);
}

fn move_to_the_trash(race: &Race) {
    let setup = &race.setup;
    let (_, outside) = race.known_outside("f");
    let target = Target {
        trash: Some(1_800_000_000),
        root: &setup.root,
        private: &setup.private,
        protect: &|_, _| false,
    };
    race.run(|round, swapper| {
        let name = format!("s/n{round}");
        swapper.write(&name, b"goes");
        let known = Expect::Known(KindName::File, Some(key_of(&swapper.open(&name))));
        let work = vec![
            step(&format!("d/{name}"), known, Action::RemoveFile),
            step("d/s/f", outside, Action::RemoveFile),
        ];
        let meanwhile = || Ok::<_, std::convert::Infallible>(());
        let Ok(report) = apply(&target, work, &setup.token, meanwhile, || {});
        done(&report)
    });
    let hour = names(setup.private.trash()).expect("listed").remove(0);
    let hour = String::from_utf8(hour).expect("digits");
    let taken = setup.at(".tandem/trash").join(hour).join("d/s");
    for entry in std::fs::read_dir(taken).expect("dir") {
        let gone = std::fs::read(entry.expect("entry").path()).expect("read");
        assert_eq!(gone, b"goes");
    }
}

#[test]
fn nothing_outside_goes_to_the_rescue() {
    Race::both().iter().for_each(move_to_the_rescue);
}

fn move_to_the_rescue(race: &Race) {
    let setup = &race.setup;
    let header = Header {
        version: crate::rescue::manifest::VERSION,
        id: "set".into(),
        tree: "t".into(),
        made_unix_ms: 0,
        why: "test".into(),
        base_unknown: false,
    };
    let mut set = OpenSet::open(&setup.private, &header).expect("opened");
    let keep = |at: &str| Keep {
        path: path(at),
        change: Change::Changed,
        other: None,
        state: None,
        take: true,
    };
    let mut kept = Vec::new();
    race.run(|round, swapper| {
        let name = format!("s/n{round}");
        swapper.write(&name, b"ours");
        let versions = [keep(&format!("d/{name}")), keep("d/s/f")];
        let found = set.keep(&setup.root, &versions).expect("the rescue works");
        let before = kept.len();
        kept.extend(found.into_iter().flatten());
        kept.len() - before
    });
    for number in kept {
        let mut content = Vec::new();
        let mut file = crate::rescue::open(&setup.private, "set", number).expect("it is there");
        std::io::Read::read_to_end(&mut file, &mut content).expect("read");
        assert_eq!(content, b"ours");
    }
}

#[test]
fn nothing_outside_is_changed_in_place() {
    Race::both().iter().for_each(change_in_place);
}

fn change_in_place(race: &Race) {
    let setup = &race.setup;
    let (outside, _) = race.known_outside("large");
    let mut newest = Vec::new();
    race.run(|round, swapper| {
        let mut content = vec![7; LARGE];
        content[round % 100 * 100..][..100].fill(8);
        let hash = ContentHash::of(&content);
        let size = LARGE as u64;
        let state = State {
            kind: Kind::File { size, hash },
            meta: meta(0o600),
        };
        // Differences to each of the two, for the name that leads to either.
        let patches = |base: File| {
            let key = key_of(&base);
            let redo = Redo::new(&path("d/s/large"), base, key, &state).expect("it can be");
            let staging = Staging::begin_in_place(&setup.private, redo, size);
            let mut staging = staging.expect("begun");
            staging.write(&content).expect("written");
            let expect = Expect::Known(KindName::File, Some(key));
            let mut work = step("d/s/large", expect, Action::Put(state.clone()));
            work.content = Some(Content::Staged(staging.finish(hash).expect("whole")));
            done(&setup.apply(vec![work]))
        };
        assert_eq!(patches(outside.try_clone().expect("clone")), 0);
        let patched = patches(swapper.open("s/large"));
        if patched > 0 {
            newest = content;
        }
        patched
    });
    assert!(std::fs::read(setup.at("d/s/large")).expect("read") == newest);
    let left = finish_journals(&setup.root, &setup.private).expect("finished");
    assert_eq!(left, [], "a journal was left open");
}
