//! The driver with a script in the machine's place.

use super::*;

const SLOW: Duration = Duration::from_secs(60);

#[test]
fn addresses_come_are_watched_and_go() {
    let pair = Pair::new();
    let mut driven = Driven::start(
        &pair.a,
        SLOW,
        on_command(|n| match n {
            1 => vec![Effect::AddAddresses { ticket: Ticket(1) }],
            2 => vec![Effect::RefreshAddresses],
            _ => vec![Effect::RemoveAddresses { ticket: Ticket(3) }],
        }),
    );
    let done = |wanted: u64| {
        move |input| match input {
            Input::AddressesDone { ticket, result } if ticket == Ticket(wanted) => Some(result),
            _ => None,
        }
    };
    driven.say(command(1));
    assert_eq!(driven.wait("added", done(1)), Ok(()));
    assert!(held(&pair.a));
    pair.a.delete_address(FLOATING.parse().expect("literal"));
    driven.wait("removed by somebody", |i| {
        (i == Input::AddressRemoved).then_some(())
    });
    driven.say(command(2));
    pair.a.wait_until("put back", || async {
        let netlink = Netlink::open().expect("netlink opens");
        !address::held(&netlink, &[floating()])
            .await
            .expect("listed")
            .is_empty()
    });
    driven.say(command(3));
    assert_eq!(driven.wait("removed", done(3)), Ok(()));
    assert!(!held(&pair.a));
}

#[test]
fn a_fence_stands_until_it_is_lowered() {
    let pair = Pair::new();
    let mut driven = Driven::start(
        &pair.a,
        SLOW,
        on_command(|n| match n {
            1 => vec![
                Effect::AddAddresses { ticket: Ticket(1) },
                Effect::Fence { ticket: Ticket(2) },
            ],
            _ => vec![Effect::Unfence { ticket: Ticket(3) }],
        }),
    );
    let fenced = |wanted: u64| {
        move |input| match input {
            Input::FenceDone { ticket, result } if ticket == Ticket(wanted) => Some(result),
            _ => None,
        }
    };
    let asked = |within: Duration| {
        pair.b.block_on(move || async move {
            let netlink = Netlink::open().expect("netlink opens");
            let eth0 = netlink.interface("eth0").await.expect("exists");
            let target = FLOATING.parse().expect("literal");
            crate::announce::who_has(&eth0, target, within)
                .await
                .expect("asked")
        })
    };
    driven.say(command(1));
    assert_eq!(driven.wait("fenced", fenced(2)), Ok(()));
    assert_eq!(asked(Duration::from_millis(300)), None);
    driven.say(command(2));
    assert_eq!(driven.wait("lowered", fenced(3)), Ok(()));
    assert_eq!(asked(WAIT), Some(pair.a.mac()));
}

#[test]
fn a_confirmation_round_tells_a_living_kernel_from_silence() {
    let pair = Pair::new();
    let silence = Duration::from_millis(300);
    let mut driven = Driven::start(
        &pair.a,
        SLOW,
        on_command(move |n| {
            // An answer that must come may take long on a machine that does many things.
            let within = if n == 1 { WAIT } else { silence };
            vec![Effect::ProbePeer {
                ticket: Ticket(n),
                within,
            }]
        }),
    );
    let answers = |wanted: u64| {
        move |input| match input {
            Input::ProbeDone { ticket, answers } if ticket == Ticket(wanted) => Some(answers),
            _ => None,
        }
    };
    // The devices must have been listed before: that is the first thing that the loop is told.
    driven.wait("the link's carrier", |i| {
        matches!(i, Input::LinkCarrier { link: 0, up: true }).then_some(())
    });
    driven.say(command(1));
    let alive = ProbeAnswers {
        icmp: true,
        arp: true,
        tcp: true,
        ..ProbeAnswers::SILENT
    };
    assert_eq!(driven.wait("answers", answers(1)), alive);
    pair.b.set_link("eth0", false);
    driven.wait("own network", |i| {
        (i == Input::OwnNetwork(Health::Bad)).then_some(())
    });
    driven.wait("no carrier", |i| {
        matches!(i, Input::LinkCarrier { link: 0, up: false }).then_some(())
    });
    let begun = std::time::Instant::now();
    driven.say(command(2));
    assert_eq!(driven.wait("silence", answers(2)), ProbeAnswers::SILENT);
    assert!(begun.elapsed() >= silence && begun.elapsed() < WAIT);
}

#[test]
fn a_foreign_claim_is_reported_while_the_addresses_are_held_and_found_when_asked() {
    let pair = Pair::new();
    let silence = Duration::from_millis(300);
    let mut driven = Driven::start(
        &pair.a,
        SLOW,
        on_command(move |n| match n {
            1 => vec![Effect::AddAddresses { ticket: Ticket(1) }],
            _ => vec![Effect::ProbeConflict {
                ticket: Ticket(n),
                within: if n == 2 { silence } else { WAIT },
            }],
        }),
    );
    let answered = |wanted: u64| {
        move |input| match input {
            Input::ConflictDone { ticket, answered } if ticket == Ticket(wanted) => Some(answered),
            _ => None,
        }
    };
    driven.wait("devices are known", |i| {
        matches!(i, Input::LinkCarrier { up: true, .. }).then_some(())
    });
    driven.say(command(1));
    driven.wait("added", |i| {
        matches!(i, Input::AddressesDone { .. }).then_some(())
    });
    driven.say(command(2));
    assert_eq!(driven.wait("no conflict", answered(2)), Ok(false));
    pair.b.block_on(|| async {
        let netlink = Netlink::open().expect("netlink opens");
        address::hold(&netlink, &[floating()], Duration::from_secs(60))
            .await
            .expect("held twice");
    });
    let announcing = pair.b.spawn(|| async {
        let netlink = Netlink::open().expect("netlink opens");
        let eth0 = netlink.interface("eth0").await.expect("exists");
        let target = FLOATING.parse().expect("literal");
        crate::announce::announce(&eth0, &[target], 20, Duration::from_millis(50)).await
    });
    driven.wait("claim heard", |i| {
        (i == Input::AddressConflict).then_some(())
    });
    announcing
        .recv_timeout(WAIT)
        .expect("ends")
        .expect("announced");
    driven.say(command(3));
    assert_eq!(driven.wait("conflict", answered(3)), Ok(true));
}

#[test]
fn a_write_is_durable_when_it_is_reported() {
    let pair = Pair::new();
    let mut driven = Driven::start(
        &pair.a,
        SLOW,
        on_command(|n| {
            let durable = Box::new(Durable {
                term_used: n,
                ..Durable::new(pair_id())
            });
            vec![Effect::Persist {
                generation: n,
                durable,
            }]
        }),
    );
    driven.say(command(7));
    let result = driven.wait("written", |i| match i {
        Input::Persisted {
            generation: 7,
            result,
        } => Some(result),
        _ => None,
    });
    assert_eq!(result, Ok(()));
    driven.handle.take().expect("runs").join();
    let (_, durable) = Store::open(driven.state.path(), pair_id()).expect("opens");
    assert_eq!(durable.term_used, 7);
}

#[test]
fn a_late_wake_up_is_told_as_a_stall_before_anything_else() {
    let pair = Pair::new();
    let mut driven = Driven::start(&pair.a, Duration::from_millis(50), |_, input| {
        if matches!(input, Input::Operator { .. }) {
            // The whole thread stands still, as on a paused machine.
            std::thread::sleep(Duration::from_millis(600));
        }
        vec![]
    });
    driven.wait("it ticks", |i| (i == Input::Tick).then_some(()));
    driven.say(command(1));
    let mut after = false;
    let gap = driven.wait("the stall", |i| match i {
        Input::Operator { .. } => {
            after = true;
            None
        }
        Input::Resumed { gap } => Some(gap),
        Input::Tick if after => panic!("a tick before the stall was told"),
        _ => None,
    });
    assert!(
        gap >= Duration::from_millis(400) && gap < Duration::from_secs(3),
        "{gap:?}"
    );
}

#[test]
fn exit_ends_the_loop_after_everything_was_handed_over() {
    let pair = Pair::new();
    let mut driven = Driven::start(
        &pair.a,
        SLOW,
        on_command(|_| {
            let mut effects: Vec<_> = (0..200)
                .map(|n| Effect::Answer {
                    ticket: Ticket(n),
                    result: Ok(String::new()),
                })
                .collect();
            effects.push(Effect::Exit);
            effects
        }),
    );
    driven.say(command(1));
    let handle = driven.handle();
    let mut seen = Vec::new();
    while let Some(effect) = handle.effects.blocking_recv() {
        seen.push(effect);
    }
    assert_eq!(seen.len(), 201);
    assert_eq!(seen.last(), Some(&AgentEffect::Exit));
}

#[test]
fn heartbeats_stay_on_time_while_nobody_reads_and_everything_is_asked_at_once() {
    let pair = Pair::new();
    let (port_in, arrivals) = channel::channel();
    let _receiver = pair.b.spawn(move || async move {
        let socket = tokio::net::UdpSocket::bind((B4, PORT)).await.expect("free");
        let mut buffer = [0; 1500];
        while socket.recv(&mut buffer).await.is_ok() {
            if port_in.send(std::time::Instant::now()).is_err() {
                return;
            }
        }
    });
    let every = Duration::from_millis(50);
    let mut counter = 0;
    let mut driven = Driven::start(&pair.a, every, move |_, input| match input {
        Input::Tick => {
            counter += 1;
            vec![beat(counter)]
        }
        // Each of these asks everybody for everything.
        Input::Hold { .. } => {
            let ticket = Ticket(1);
            let within = Duration::from_millis(200);
            vec![
                Effect::RefreshAddresses,
                Effect::Announce {
                    times: 5,
                    every: Duration::from_millis(10),
                },
                Effect::ProbePeer { ticket, within },
                Effect::Persist {
                    generation: 1,
                    durable: Box::new(Durable::new(pair_id())),
                },
                Effect::Answer {
                    ticket,
                    result: Ok("x".repeat(100)),
                },
            ]
        }
        _ => vec![],
    });
    arrivals.recv_timeout(WAIT).expect("the first beat");
    let begun = std::time::Instant::now();
    let load = Duration::from_secs(2);
    while begun.elapsed() < load {
        driven.say(Input::Hold { active: true });
    }
    let times: Vec<_> = arrivals.try_iter().collect();
    let longest = times
        .windows(2)
        .map(|w| w[1] - w[0])
        .max()
        .expect("beats arrived");
    // Ordinary jitter of a loaded test machine; a wait for anything in the list above would be far longer.
    assert!(
        longest < Duration::from_millis(250),
        "longest gap {longest:?}"
    );
    assert!(
        times.len() as u128 >= load.as_millis() / every.as_millis() / 2,
        "{} beats",
        times.len()
    );
}

fn trouble(input: Input) -> Option<Option<String>> {
    match input {
        Input::AddressTrouble(trouble) => Some(trouble),
        _ => None,
    }
}

#[test]
fn one_address_of_two_is_held_and_the_other_one_is_told_until_its_device_comes() {
    let pair = Pair::new();
    let mut driven = Driven::start(
        &pair.a,
        SLOW,
        on_command(|n| match n {
            1 => vec![Effect::AddAddresses { ticket: Ticket(1) }],
            _ => vec![Effect::RefreshAddresses],
        }),
    );
    let mut changed = setup();
    changed.addresses.push(FloatingAddress {
        address: "198.51.100.80".parse().expect("literal"),
        device: "eth9".into(),
        ..floating()
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("starts");
    assert!(runtime.block_on(driven.handle().reconfigure(changed)));
    driven.wait("policy", |i| matches!(i, Input::Policy(_)).then_some(()));
    driven.say(command(1));
    let why = driven.wait("one is missing", trouble).expect("a reason");
    assert!(
        why.contains("198.51.100.80") && why.contains("no network device eth9"),
        "{why}"
    );
    let result = driven.wait("added", |i| match i {
        Input::AddressesDone { result, .. } => Some(result),
        _ => None,
    });
    assert_eq!(result, Ok(()), "it serves with the other one");
    let states = driven.handle().addresses.borrow().clone();
    assert!(states[0].held && states[0].error.is_none(), "{states:?}");
    assert!(!states[1].held && states[1].error.is_some(), "{states:?}");
    pair.a.block_on(|| async {
        let netlink = Netlink::open().expect("netlink opens");
        let message = rtnetlink::LinkVeth::new("eth9", "far9").up().build();
        let request = netlink.handle().link().add(message);
        request.execute().await.expect("a new device");
    });
    driven.say(command(2));
    assert_eq!(driven.wait("all are held", trouble), None);
    assert!(driven.handle().addresses.borrow()[1].held);
}

#[test]
fn what_somebody_adds_to_a_node_that_holds_nothing_is_told() {
    let pair = Pair::new();
    let mut driven = Driven::start(&pair.a, SLOW, on_command(|_| vec![]));
    driven.say(command(1));
    driven.wait("it runs", |i| {
        matches!(i, Input::Operator { .. }).then_some(())
    });
    pair.a
        .add_address("eth0", FLOATING.parse().expect("literal"), 24);
    driven.wait("it appeared", |i| {
        (i == Input::AddressAppeared).then_some(())
    });
    assert!(driven.handle().addresses.borrow()[0].held);
}

#[test]
fn who_else_answers_for_an_address_is_told_for_that_address_until_it_is_silent() {
    let pair = Pair::new();
    pair.b
        .add_address("eth0", FLOATING.parse().expect("literal"), 24);
    let mut driven = Driven::start(
        &pair.a,
        SLOW,
        on_command(|n| match n {
            1 => vec![Effect::AddAddresses { ticket: Ticket(1) }],
            n => vec![Effect::ProbeConflict {
                ticket: Ticket(n),
                within: Duration::from_millis(300),
            }],
        }),
    );
    let asked = |wanted: u64| {
        move |input| match input {
            Input::ConflictDone { ticket, answered } if ticket == Ticket(wanted) => Some(answered),
            _ => None,
        }
    };
    driven.say(command(1));
    driven.wait("added", |i| {
        matches!(i, Input::AddressesDone { .. }).then_some(())
    });
    driven.say(command(2));
    assert_eq!(driven.wait("asked", asked(2)), Ok(true));
    let mac = pair.b.mac();
    assert_eq!(driven.handle().addresses.borrow()[0].conflict, Some(mac));
    pair.b.delete_address(FLOATING.parse().expect("literal"));
    driven.say(command(3));
    assert_eq!(driven.wait("asked again", asked(3)), Ok(false));
    assert_eq!(driven.handle().addresses.borrow()[0].conflict, None);
}

#[test]
fn a_reload_changes_addresses_and_links_and_tells_the_machine() {
    let pair = Pair::new();
    let mut driven = Driven::start(
        &pair.a,
        SLOW,
        on_command(|_| vec![Effect::AddAddresses { ticket: Ticket(1) }]),
    );
    driven.say(command(1));
    driven.wait("added", |i| {
        matches!(i, Input::AddressesDone { .. }).then_some(())
    });
    let mut changed = setup();
    changed.addresses[0].address = "192.0.2.90".parse().expect("literal");
    changed.policy.preferred = true;
    changed.port = PORT + 1;
    let policy = Box::new(changed.policy.clone());
    let handle = driven.handle();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("starts");
    assert!(runtime.block_on(handle.reconfigure(changed)));
    driven.wait("policy", |i| {
        (i == Input::Policy(policy.clone())).then_some(())
    });
    pair.a.wait_until(
        "the new address is held and the old one is gone",
        || async {
            let netlink = Netlink::open().expect("netlink opens");
            let all = address::present(&netlink).await.expect("listed");
            let has = |a: &str| all.iter().any(|p| p.address.to_string() == a);
            has("192.0.2.90") && !has(FLOATING)
        },
    );
    pair.a.wait_until("the new port is bound", || async {
        tokio::net::UdpSocket::bind((A4, PORT + 1)).await.is_err()
    });
    pair.a.wait_until("the old port is free", || async {
        tokio::net::UdpSocket::bind((A4, PORT)).await.is_ok()
    });
}
