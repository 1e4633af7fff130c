use super::*;
use crate::engine::moving::MoveOrder;
use crate::entry::{ContentHash, Kind, Meta, State, Xattrs};
use crate::wire::{Commit, Durable};

fn record(seq: u64, size: Option<u64>, inline: bool) -> Record {
    let meta = Meta {
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime_ns: 0,
        xattrs: Xattrs::default(),
    };
    let state = size.map(|size| State {
        kind: Kind::File {
            size,
            hash: ContentHash([0; 32]),
        },
        meta,
    });
    let path = RelPath::new(format!("f{seq}")).unwrap();
    Record {
        tree: TreeId::of("t"),
        path,
        seq,
        state,
        inline,
        grown_from: None,
        names: None,
    }
}

/// What is read next where no tree has a limit.
fn next(after: u64) -> Effect {
    Effect::Fetch(Reads::Next {
        after,
        ahead: after,
        only_behind: false,
    })
}

fn effects(machine: &mut SourceMachine) -> Vec<Effect> {
    std::iter::from_fn(|| machine.next_effect()).collect()
}

fn commits(effects: &[Effect]) -> Vec<(u64, u64, bool)> {
    let commit = |e: &Effect| match e {
        Effect::Send(Message::Commit(c)) => Some((c.batch, c.upto, c.caught_up)),
        _ => None,
    };
    effects.iter().filter_map(commit).collect()
}

fn durable(batch: u64, upto: u64) -> Message {
    answer(Some(batch), upto)
}

/// The answer to an `Idle`.
fn heard(upto: u64) -> Message {
    answer(None, upto)
}

fn answer(batch: Option<u64>, upto: u64) -> Message {
    Message::Durable(Durable {
        batch,
        upto,
        acked: upto,
        applied: upto,
        stamp: 50,
        follows: true,
    })
}

fn fetched(records: Vec<Record>, upto: u64, at_head: bool) -> Fetched {
    Fetched {
        records,
        upto,
        at_head,
        totals: vec![],
        withheld: vec![],
    }
}

#[test]
fn a_batch_without_content_is_committed_at_once_and_ends_durable() {
    let mut m = SourceMachine::new(0, 2, 7, 0);
    m.scanned(true);
    assert_eq!(effects(&mut m), [next(0)]);
    m.fetched(
        fetched(
            vec![record(1, None, false), record(2, None, false)],
            2,
            true,
        ),
        None,
    );
    let out = effects(&mut m);
    assert!(matches!(&out[0], Effect::Send(Message::Batch(b)) if b.records.len() == 2));
    assert_eq!(commits(&out), [(1, 2, true)]);
    assert!(!m.caught_up());
    m.received(durable(1, 2)).unwrap();
    assert!(m.caught_up());
    assert_eq!(
        effects(&mut m),
        [Effect::Acked {
            acked: 2,
            applied: 2,
            durable: 2,
            follows: true,
        }]
    );
}

/// The index does not know of a change yet, and the replica cannot be as fresh as it says.
#[test]
fn stamps_of_a_replica_are_not_repeated_while_a_change_waits_to_be_recorded() {
    let mut m = SourceMachine::new(2, 2, 7, 0);
    m.scanned(true);
    for (late, stamp) in [(true, 7), (false, 50)] {
        m.late(late);
        m.received(heard(2)).unwrap();
        effects(&mut m);
        let next = m.tick(0);
        m.tick(next);
        let idle = effects(&mut m).into_iter().find_map(|e| match e {
            Effect::Send(Message::Idle(idle)) => Some(idle.stamp),
            _ => None,
        });
        assert_eq!(idle, Some(stamp));
    }
}

/// Its content took longer to send than the scan took to find the rest.
#[test]
fn what_was_read_while_a_scan_ran_claims_nothing_when_the_scan_is_over() {
    for doubted in [false, true] {
        let mut m = SourceMachine::new(0, 1, 7, 0);
        m.scanned(doubted);
        effects(&mut m);
        m.fetched(fetched(vec![record(1, Some(5), true)], 1, true), None);
        // A scan ends, or another one begins and ends.
        m.scanned(false);
        m.scanned(true);
        m.sent(Item { batch: 1, index: 0 }, true);
        assert_eq!(commits(&effects(&mut m)), [(1, 1, false)]);
        m.tick(1);
        m.received(durable(1, 1)).unwrap();
        effects(&mut m);
        m.tick(2);
        let idle = |e: &Effect| matches!(e, Effect::Send(Message::Idle(_)));
        assert!(effects(&mut m).iter().any(idle), "it is told at once");
        m.received(heard(1)).unwrap();
        effects(&mut m);
        m.tick(3);
        assert!(!effects(&mut m).iter().any(idle), "and once");
    }
}

#[test]
fn a_commit_waits_for_inline_content_and_for_what_is_needed() {
    let mut m = SourceMachine::new(0, 2, 7, 0);
    m.scanned(true);
    effects(&mut m);
    m.fetched(
        fetched(
            vec![record(1, Some(5), true), record(2, Some(1 << 20), false)],
            2,
            true,
        ),
        None,
    );
    let out = effects(&mut m);
    let inline = Item { batch: 1, index: 0 };
    assert!(out.contains(&Effect::SendContent {
        item: inline,
        want: Want::Whole
    }));
    assert!(commits(&out).is_empty());
    m.sent(inline, true);
    assert!(
        commits(&effects(&mut m)).is_empty(),
        "the replica has not said what it needs"
    );
    m.received(Message::Need(Need {
        batch: 1,
        items: vec![(1, Want::Whole)],
        last: true,
    }))
    .unwrap();
    assert!(commits(&effects(&mut m)).is_empty());
    m.sent(Item { batch: 1, index: 1 }, true);
    assert_eq!(commits(&effects(&mut m)), [(1, 2, true)]);
}

#[test]
fn commits_keep_the_order_and_the_window_is_bounded() {
    let mut m = SourceMachine::new(0, 100, 7, 0);
    m.scanned(true);
    let mut fetches = 0;
    for seq in 1.. {
        match effects(&mut m).last() {
            Some(effect @ Effect::Fetch(_)) => assert_eq!(*effect, next(seq - 1)),
            _ => break,
        }
        fetches += 1;
        m.fetched(
            fetched(vec![record(seq, Some(1 << 20), false)], seq, false),
            None,
        );
    }
    assert_eq!(fetches, WINDOW);
    for batch in [2, 1] {
        m.received(Message::Need(Need {
            batch,
            items: vec![],
            last: true,
        }))
        .unwrap();
    }
    assert_eq!(commits(&effects(&mut m)), [(1, 1, false), (2, 2, false)]);
    m.received(durable(1, 1)).unwrap();
    assert!(effects(&mut m).contains(&next(4)));
}

#[test]
fn nothing_is_claimed_past_what_was_given_up_until_it_came_by_again() {
    let mut m = SourceMachine::new(10, 13, 7, 0);
    m.scanned(true);
    effects(&mut m);
    m.fetched(
        fetched(
            vec![
                record(11, None, false),
                record(12, Some(5), true),
                record(13, None, false),
            ],
            13,
            true,
        ),
        None,
    );
    effects(&mut m);
    m.sent(Item { batch: 1, index: 1 }, false);
    let out = effects(&mut m);
    assert!(out.iter().any(|e| matches!(e, Effect::Examine { .. })));
    assert_eq!(commits(&out), [(1, 11, false)]);
    m.head_moved(20);
    assert!(
        effects(&mut m).is_empty(),
        "no fetch before the batch is through"
    );
    m.received(durable(1, 11)).unwrap();
    assert!(!m.caught_up());
    assert!(
        !effects(&mut m)
            .iter()
            .any(|e| matches!(e, Effect::Fetch(_))),
        "the path is not examined yet"
    );
    m.examined(21);
    assert_eq!(effects(&mut m), [next(11)]);
    m.fetched(
        fetched(
            vec![record(13, None, false), record(21, None, false)],
            21,
            true,
        ),
        None,
    );
    assert_eq!(commits(&effects(&mut m)), [(2, 21, true)]);
}

#[test]
fn asked_paths_come_without_moving_the_position() {
    let mut m = SourceMachine::new(5, 5, 7, 0);
    m.scanned(true);
    m.received(Message::Fetch {
        tree: TreeId::of("t"),
        paths: vec![RelPath::new("x").unwrap()],
    })
    .unwrap();
    let out = effects(&mut m);
    assert!(matches!(
        out[..],
        [Effect::Asked { .. }, Effect::Fetch(Reads::Asked)]
    ));
    m.fetched(fetched(vec![record(3, Some(4), true)], 5, true), Some(1));
    effects(&mut m);
    m.sent(Item { batch: 1, index: 0 }, false);
    assert_eq!(
        commits(&effects(&mut m)),
        [(1, 5, true)],
        "giving it up again claims nothing new"
    );
}

#[test]
fn idle_is_said_only_when_all_is_durable_and_repeats_the_newest_stamp() {
    let mut m = SourceMachine::new(5, 5, 7, 1000);
    m.scanned(true);
    assert_eq!(m.tick(1000), 1000 + IDLE_EVERY);
    assert_eq!(
        effects(&mut m),
        [Effect::Send(Message::Idle(Idle { upto: 5, stamp: 7 }))]
    );
    let answer = Durable {
        batch: None,
        upto: 5,
        acked: 5,
        applied: 5,
        stamp: 99,
        follows: false,
    };
    m.received(Message::Durable(answer)).unwrap();
    m.head_moved(6);
    effects(&mut m);
    m.tick(1000 + IDLE_EVERY);
    assert!(effects(&mut m).is_empty());
    m.fetched(fetched(vec![record(6, None, false)], 6, true), None);
    m.received(durable(1, 6)).unwrap();
    effects(&mut m);
    m.tick(1000 + 2 * IDLE_EVERY);
    assert_eq!(
        effects(&mut m),
        [Effect::Send(Message::Idle(Idle { upto: 6, stamp: 99 }))]
    );
}

#[test]
fn violations_are_refused() {
    let fresh = || {
        let mut m = SourceMachine::new(0, 1, 7, 0);
        m.scanned(true);
        m.fetched(
            fetched(
                vec![record(1, Some(1 << 20), false), record(1, None, false)],
                1,
                true,
            ),
            None,
        );
        m
    };
    let need = |batch, index| {
        Message::Need(Need {
            batch,
            items: vec![(index, Want::Whole)],
            last: true,
        })
    };
    for bad in [
        need(2, 0),
        need(1, 1),
        need(1, 9),
        durable(1, 1),
        durable(9, 1),
        Message::Durable(Durable {
            batch: None,
            upto: 1,
            acked: 2,
            applied: 1,
            stamp: 0,
            follows: true,
        }),
        Message::Wait,
        Message::Commit(Commit {
            batch: 1,
            upto: 1,
            caught_up: true,
            stamp: 0,
        }),
    ] {
        assert!(fresh().received(bad.clone()).is_err(), "{bad:?}");
    }
    let mut m = fresh();
    m.received(need(1, 0)).unwrap();
    assert!(m.received(need(1, 0)).is_err(), "twice");
    let mut m = fresh();
    let ask = Message::Fetch {
        tree: TreeId::of("t"),
        paths: vec![RelPath::new("x").unwrap(); MAX_PATHS],
    };
    assert!((0..=MAX_ASKED / MAX_PATHS).any(|_| m.received(ask.clone()).is_err()));
}

/// A record of the tree with a limit, offered.
fn slow(seq: u64) -> Record {
    Record {
        tree: TreeId::of("slow"),
        ..record(seq, Some(1 << 20), false)
    }
}

fn limited(from: u64, head: u64) -> SourceMachine {
    let mut m = SourceMachine::new(from, head, 7, 0);
    m = m.with_limits([TreeId::of("slow")].into());
    m.scanned(true);
    effects(&mut m);
    m
}

fn need(batch: u64, items: Vec<(u32, Want)>) -> Message {
    Message::Need(Need {
        batch,
        items,
        last: true,
    })
}

#[test]
fn what_has_no_limit_overtakes_and_claims_nothing() {
    let mut m = limited(0, 10);
    m.fetched(fetched(vec![slow(1)], 1, false), None);
    assert_eq!(
        effects(&mut m).last(),
        Some(&Effect::Fetch(Reads::Ahead { after: 1 }))
    );
    m.received(need(1, vec![(0, Want::Whole)])).unwrap();
    // Numbers 2 and 4 are of the other tree, 3 is of this one.
    let two = vec![record(2, None, false), record(4, None, false)];
    m.fetched(fetched(two, 10, false), None);
    let out = effects(&mut m);
    assert_eq!(commits(&out), [(2, 0, false)], "overtakes, claims nothing");
    let behind = Reads::Next {
        after: 1,
        ahead: 10,
        only_behind: true,
    };
    assert_eq!(out.last(), Some(&Effect::Fetch(behind)));
    m.fetched(fetched(vec![slow(3)], 10, true), None);
    assert!(commits(&effects(&mut m)).is_empty());
    m.received(need(3, vec![])).unwrap();
    assert!(commits(&effects(&mut m)).is_empty(), "in order of the slow");
    m.received(durable(2, 0)).unwrap();
    assert!(!m.caught_up());
    m.sent(Item { batch: 1, index: 0 }, true);
    assert_eq!(
        commits(&effects(&mut m)),
        [(1, 1, false), (3, 10, true)],
        "with what overtook them everything is there"
    );
    m.received(durable(1, 1)).unwrap();
    m.received(durable(3, 10)).unwrap();
    assert!(m.caught_up());
}

#[test]
fn what_waits_for_a_limit_keeps_the_session_alive() {
    let mut m = limited(0, 1);
    m.fetched(fetched(vec![slow(1)], 1, true), None);
    effects(&mut m);
    m.tick(IDLE_EVERY);
    assert_eq!(effects(&mut m), [Effect::Send(Message::Wait)]);
}

#[test]
fn what_was_overtaken_is_of_no_single_moment() {
    let mut m = limited(0, 1);
    m.fetched(fetched(vec![slow(1)], 1, true), None);
    m.received(need(1, vec![(0, Want::Whole)])).unwrap();
    effects(&mut m);
    m.head_moved(2);
    m.fetched(fetched(vec![record(2, None, false)], 2, false), None);
    assert_eq!(commits(&effects(&mut m)), [(2, 0, false)]);
    m.sent(Item { batch: 1, index: 0 }, true);
    let out = effects(&mut m);
    assert_eq!(commits(&out), [(1, 1, false)]);
}

#[test]
fn what_was_given_up_ahead_is_claimed_by_nobody() {
    let mut m = limited(0, 9);
    m.fetched(fetched(vec![slow(1)], 1, false), None);
    m.received(need(1, vec![(0, Want::Whole)])).unwrap();
    effects(&mut m);
    m.fetched(fetched(vec![record(5, Some(9), true)], 9, false), None);
    effects(&mut m);
    // Of the slow tree up to 9, before the batch ahead is committed.
    m.fetched(fetched(vec![slow(7)], 9, true), None);
    m.received(need(3, vec![])).unwrap();
    effects(&mut m);
    m.sent(Item { batch: 2, index: 0 }, false);
    let out = effects(&mut m);
    assert_eq!(commits(&out), [(2, 0, false)]);
    m.sent(Item { batch: 1, index: 0 }, true);
    assert_eq!(
        commits(&effects(&mut m)),
        [(1, 1, false), (3, 4, false)],
        "number 5 was given up"
    );
    assert!(!m.caught_up());
}

/// The next read was ordered before the content failed, and its answer comes behind that.
#[test]
fn what_was_given_up_ahead_while_records_were_read_is_read_again() {
    for (ahead, reads_next) in [(9, true), (9, false)] {
        let mut m = limited(0, 20);
        m.fetched(fetched(vec![slow(1)], 1, false), None);
        m.received(need(1, vec![(0, Want::Whole)])).unwrap();
        effects(&mut m);
        m.fetched(fetched(vec![record(5, Some(9), true)], ahead, false), None);
        let ordered = effects(&mut m);
        assert!(matches!(
            ordered.last(),
            Some(Effect::Fetch(Reads::Next { .. }))
        ));
        if !reads_next {
            m.fetched(fetched(vec![], ahead, false), None);
            let after = Reads::Ahead { after: ahead };
            assert_eq!(effects(&mut m).last(), Some(&Effect::Fetch(after)));
        }
        m.sent(Item { batch: 2, index: 0 }, false);
        effects(&mut m);
        m.fetched(fetched(vec![], if reads_next { 9 } else { 20 }, true), None);
        m.examined(20);
        m.sent(Item { batch: 1, index: 0 }, true);
        let out = effects(&mut m);
        let claimed = commits(&out).iter().map(|(_, upto, _)| *upto).max();
        assert!(claimed < Some(5), "number 5 was given up: {out:?}");
        assert!(m.cursor < 5 && m.ahead < 5, "{m:?}");
    }
}

#[test]
fn what_was_given_up_before_others_overtook_is_not_passed_over() {
    let mut m = limited(0, 9);
    m.fetched(fetched(vec![record(1, Some(9), true)], 1, false), None);
    m.fetched(fetched(vec![slow(2)], 2, false), None);
    m.received(need(2, vec![(0, Want::Whole)])).unwrap();
    effects(&mut m);
    m.fetched(fetched(vec![record(5, None, false)], 9, false), None);
    m.fetched(fetched(vec![], 9, true), None);
    effects(&mut m);
    m.sent(Item { batch: 1, index: 0 }, false);
    m.sent(Item { batch: 2, index: 0 }, true);
    let out = effects(&mut m);
    for (batch, upto, _) in commits(&out) {
        m.received(durable(batch, upto)).unwrap();
    }
    m.examined(9);
    let again = effects(&mut m);
    assert_eq!(again.last(), Some(&next(0)), "it has no newer number");
}

#[test]
fn a_rename_does_not_wait_for_a_limit() {
    let mut m = limited(0, 1);
    m.fetched(fetched(vec![slow(1)], 1, true), None);
    effects(&mut m);
    let order = MoveOrder {
        tree: TreeId::of("t"),
        from: RelPath::new("a").unwrap(),
        to: RelPath::new("b").unwrap(),
        seq: 2,
    };
    m.rename(order.clone());
    assert_eq!(effects(&mut m), [Effect::MoveEnded { order, done: false }]);
}

/// Change after change of the other trees passes a batch that waits for hours.
#[test]
fn claims_that_wait_do_not_fill_the_window() {
    let mut m = limited(0, 1);
    m.fetched(fetched(vec![slow(1)], 1, true), None);
    m.received(need(1, vec![(0, Want::Whole)])).unwrap();
    effects(&mut m);
    for seq in 2..50 {
        m.head_moved(seq);
        let mut passed = 0;
        while let Some(effect) = m.next_effect() {
            match effect {
                Effect::Fetch(Reads::Ahead { .. }) => {
                    m.fetched(fetched(vec![record(seq, None, false)], seq, false), None);
                }
                // Nothing of the slow tree lies there.
                Effect::Fetch(_) => m.fetched(fetched(vec![], seq, true), None),
                Effect::Send(Message::Commit(commit)) => {
                    assert_eq!(commit.upto, 0, "nothing is claimed");
                    m.received(durable(commit.batch, 0)).unwrap();
                    passed += 1;
                }
                _ => {}
            }
        }
        assert_eq!(passed, 1, "number {seq}");
    }
    assert_eq!(m.in_flight(), SLOW_WINDOW);
}

#[test]
fn sums_that_wait_are_bounded() {
    let against = |n: usize| {
        Want::Against(crate::wire::ChunkSums {
            size: (n as u64) << 16,
            chunk: 64 << 10,
            sums: vec![[0; 16]; n],
        })
    };
    let offer = |size: u64| {
        let mut m = SourceMachine::new(0, 1, 7, 0);
        let records = vec![record(1, Some(size), false); 6];
        m.fetched(fetched(records, 1, true), None);
        m
    };
    let part = |index| {
        Message::Need(Need {
            batch: 1,
            items: vec![(index, against(MAX_SUMS))],
            last: false,
        })
    };
    let mut m = offer(2 << 30);
    for index in 0..4 {
        m.received(part(index)).unwrap();
    }
    assert!(m.received(part(4)).is_err(), "more than a batch needs");
    let mut m = offer(delta::SMALLEST - 1);
    let small = need(1, vec![(0, against(4))]);
    assert!(m.received(small).is_err(), "for what is sent whole");
}

#[test]
fn what_a_replica_asks_for_is_bounded_by_its_bytes() {
    let long = |n: usize| RelPath::new(vec![format!("{n:0250}"); 256].join("/")).unwrap();
    let mut m = SourceMachine::new(0, 0, 7, 0);
    let mut taken = 0;
    let refused = (0..100).find(|n| {
        let paths = (0..8).map(|part| long(n * 8 + part)).collect::<Vec<_>>();
        taken += paths.iter().map(|p| p.as_bytes().len()).sum::<usize>();
        let tree = TreeId::of("t");
        m.received(Message::Fetch { tree, paths }).is_err()
    });
    assert!(refused.is_some() && taken < 6 << 20, "{taken} bytes");
    // What an honest one asks for, once and again.
    let mut m = SourceMachine::new(0, 0, 7, 0);
    let paths: Vec<_> = (0..MAX_PATHS)
        .map(|n| RelPath::new(vec![format!("{n:0254}"); 2].join("/")).unwrap())
        .collect();
    for _ in 0..3 {
        let (tree, paths) = (TreeId::of("t"), paths.clone());
        m.received(Message::Fetch { tree, paths }).unwrap();
    }
}

/// A chunk is read into memory: its size is not the replica's to choose.
#[test]
fn sums_of_no_basis_that_a_replica_can_have_are_refused() {
    let size = 1 << 30;
    for (basis, chunk, fits) in [
        (size, 64 << 10, true),
        (size + delta::SLACK, 64 << 10, true),
        (size, 64 << 20, false),
        (2 * size, 64 << 10, false),
    ] {
        let mut m = SourceMachine::new(0, 1, 7, 0);
        m.fetched(fetched(vec![record(1, Some(size), false)], 1, true), None);
        let sums = ChunkSums {
            size: basis,
            chunk,
            sums: vec![[0; 16]; basis.div_ceil(u64::from(chunk)) as usize],
        };
        let need = Need {
            batch: 1,
            items: vec![(0, Want::Against(sums))],
            last: true,
        };
        assert_eq!(
            m.received(Message::Need(need)).is_ok(),
            fits,
            "{basis} {chunk}"
        );
    }
}
