use super::*;
use proptest::prelude::*;

#[test]
fn limits() {
    let table = [
        (MaxDelete::Percent(50), 10, 10),
        (MaxDelete::Percent(50), 100, 50),
        (MaxDelete::Percent(50), 1000, 500),
        (MaxDelete::Percent(0), 1000, 10),
        (MaxDelete::Percent(200), 1000, 2000),
        (MaxDelete::Count(3), 1000, 3),
        (MaxDelete::Percent(100), u64::MAX, u64::MAX),
    ];
    for (max, had, expected) in table {
        assert_eq!(limit(max, had), expected, "{max:?} {had}");
    }
}

const HALF: MaxDelete = MaxDelete::Percent(50);

fn names(range: std::ops::Range<u64>) -> impl Iterator<Item = Name> {
    range.map(Name)
}

#[test]
fn checks_of_one_pass() {
    let check = |gone, live, max| DeleteWindow::default().check(0, names(0..gone), live, max);
    let too_many = |gone, had, limit| Err(Vanished::TooMany { gone, had, limit });
    let table = [
        (0, 0, HALF, Ok(())),
        (1, 1, HALF, Err(Vanished::Everything { had: 1 })),
        (2, 2, HALF, Err(Vanished::Everything { had: 2 })),
        (
            2,
            2,
            MaxDelete::Percent(200),
            Err(Vanished::Everything { had: 2 }),
        ),
        (
            2,
            2,
            MaxDelete::Count(9),
            Err(Vanished::Everything { had: 2 }),
        ),
        (9, 10, HALF, Ok(())),
        (10, 12, HALF, Ok(())),
        (11, 12, HALF, too_many(11, 12, 10)),
        (51, 100, HALF, too_many(51, 100, 50)),
        (500, 1000, HALF, Ok(())),
        (501, 1000, HALF, too_many(501, 1000, 500)),
        (999, 1000, MaxDelete::Percent(100), Ok(())),
        (4, 10, MaxDelete::Count(3), too_many(4, 10, 3)),
    ];
    for (gone, live, max, expected) in table {
        assert_eq!(check(gone, live, max), expected, "{gone} {live} {max:?}");
    }
}

/// Takes names out one by one, `apart` nanoseconds from one to the next, until the guard objects or none is left.
fn empty_slowly(had: u64, apart: u64, max: MaxDelete) -> (u64, Option<Vanished>) {
    let (mut window, mut now) = (DeleteWindow::default(), WINDOW_NS);
    for name in 0..had {
        if let Err(why) = window.check(now, [Name(name)], had - name, max) {
            return (name, Some(why));
        }
        window.vanished(now, Name(name));
        now += apart;
    }
    (had, None)
}

#[test]
fn a_tree_that_is_emptied_step_by_step_stops() {
    let half = |had, limit| {
        let gone = limit + 1;
        (limit, Some(Vanished::TooMany { gone, had, limit }))
    };
    for had in [30, 100, 101, 1000] {
        assert_eq!(empty_slowly(had, 1_000_000, HALF), half(had, had / 2));
    }
    // Few, or so slowly that each step is small: at the latest when the last one goes.
    for (had, apart) in [
        (1, 0),
        (2, 0),
        (10, 1000),
        (50, WINDOW_NS),
        (50, WINDOW_NS / 5),
    ] {
        let (done, why) = empty_slowly(had, apart, HALF);
        assert_eq!(done, had - 1, "{had} {apart}");
        assert!(matches!(why, Some(Vanished::Everything { .. })), "{why:?}");
    }
}

#[test]
fn names_that_come_and_go_are_not_counted() {
    let (mut window, mut now) = (DeleteWindow::default(), WINDOW_NS);
    // Two files are written anew again and again, by removing and making them.
    for _ in 0..1000 {
        for name in 0..2 {
            assert_eq!(window.check(now, [Name(name)], 20, HALF), Ok(()));
            window.vanished(now, Name(name));
            window.appeared(now, Name(name));
            now += 1000;
        }
    }
    // Short-lived files of ever new names, also in a tree that has nothing else.
    for live in [1, 20] {
        window = DeleteWindow::default();
        for name in 100..2000 {
            window.appeared(now, Name(name));
            assert_eq!(
                window.check(now, [Name(name)], live, HALF),
                Ok(()),
                "{name}"
            );
            window.vanished(now, Name(name));
            now += 1000;
        }
    }
    assert!(window.gone.at.is_empty() && window.new.at.is_empty());
}

#[test]
fn what_was_unpacked_a_moment_ago_is_guarded_too() {
    let mut window = DeleteWindow::default();
    for name in 0..100 {
        window.appeared(5, Name(name));
        window.size(5, name + 1);
    }
    assert_eq!(window.check(6, names(0..50), 100, HALF), Ok(()));
    let too_many = Vanished::TooMany {
        gone: 51,
        had: 100,
        limit: 50,
    };
    assert_eq!(window.check(6, names(0..51), 100, HALF), Err(too_many));
    // Step by step, and after a person let the first sixty go.
    for name in 0..60 {
        window.vanished(7, Name(name));
    }
    assert!(window.clone().check(8, [Name(60)], 40, HALF).is_err());
    window.excused(60);
    assert_eq!(window.check(8, [Name(60)], 40, HALF), Ok(()));
}

#[test]
fn what_was_accepted_or_is_long_ago_is_forgotten() {
    let mut window = DeleteWindow::default();
    for name in 0..500 {
        window.vanished(5, Name(name));
    }
    let one_more = |window: &mut DeleteWindow, now| window.check(now, [Name(900)], 500, HALF);
    assert!(one_more(&mut window.clone(), 6).is_err());
    assert_eq!(one_more(&mut window.clone(), 5 + WINDOW_NS), Ok(()));
    window.accept();
    assert_eq!(one_more(&mut window, 6), Ok(()));
}

proptest! {
    /// Against a log of everything: what only went within the window is counted, what did not go is not.
    #[test]
    fn the_window_counts_what_was_there_and_is_not(
        steps in proptest::collection::vec((0u64..20_000_000_000, 0u64..12), 1..200),
    ) {
        let (mut window, mut now) = (DeleteWindow::default(), WINDOW_NS);
        let mut there: std::collections::BTreeSet<u64> = (0..6).collect();
        // Every change of two windows: when, which, whether it went.
        let mut log: Vec<(u64, u64, bool)> = Vec::new();
        for (wait, name) in steps {
            now += wait;
            let goes = there.contains(&name);
            log.retain(|(at, ..)| at + 2 * WINDOW_NS > now);
            if goes {
                let left = |n: u64| there.contains(&n) && n != name;
                let mut last: BTreeMap<u64, u64> = BTreeMap::new();
                last.extend(log.iter().filter(|(.., went)| *went).map(|(at, n, _)| (*n, *at)));
                last.insert(name, now);
                let went = |n: u64| last.get(&n).copied().filter(|at| at + WINDOW_NS > now);
                // It did not come within a window before it went.
                let came = |n: u64, at: u64| log.iter().any(|(t, m, went)| *m == n && !went && t + WINDOW_NS > at);
                let only_went = |n: u64| went(n).is_some_and(|at| !came(n, at));
                let least = (0..12).filter(|n| !left(*n) && only_went(*n)).count() as u64;
                let found = window.check(now, [Name(name)], there.len() as u64, MaxDelete::Count(2));
                match found {
                    Err(Vanished::TooMany { gone, had, .. }) => prop_assert!(gone > 2 && gone <= had),
                    Err(Vanished::Everything { had }) => prop_assert!(there.len() == 1 && had > 0),
                    Ok(()) => prop_assert!(least <= 2 && (there.len() > 1 || least == 0)),
                }
                window.vanished(now, Name(name));
                there.remove(&name);
            } else {
                window.appeared(now, Name(name));
                there.insert(name);
            }
            log.push((now, name, goes));
            prop_assert!(window.new.at.len() + window.gone.at.len() <= 12);
        }
    }
}

#[test]
fn what_was_renamed_is_as_old_as_it_was() {
    let path = |path: &str| RelPath::new(path).unwrap();
    let mut window = DeleteWindow::default();
    for n in 0..50 {
        let name = window.name(&path(&format!("new/{n}")));
        window.appeared(0, name);
    }
    window.renamed(1, &path("new"), &path("middle"));
    window.renamed(2, &path("middle"), &path("last"));
    window.renamed(3, &path("old"), &path("new"));
    let count = |window: &mut DeleteWindow, dir: &str| {
        let names = (0..50).map(|n| window.name(&path(&format!("{dir}/{n}"))));
        let names: Vec<_> = names.collect();
        window.size(4, 100);
        window.check(4, names, 1000, MaxDelete::Count(49))
    };
    assert_eq!(count(&mut window, "last"), Ok(()));
    assert!(count(&mut window, "new").is_err());
    // Names are as they are again when nothing from before the renames is remembered.
    window.forget(2 * WINDOW_NS + 3);
    assert_eq!(window.name(&path("last/1")), Name::of(&path("last/1")));
}
