use super::*;
use crate::heartbeat::KeyId;

const PAIR: PairId = PairId([7; 16]);

fn largest() -> Durable {
    Durable {
        pair: PAIR,
        incarnation: u64::MAX,
        term_used: u64::MAX,
        term_armed: u64::MAX,
        term_seen: u64::MAX,
        was_master: true,
        solo: true,
        ceded: Some(Ceded {
            term: u64::MAX,
            to: KeyId([1; 8]),
            epochs_digest: u64::MAX,
            seq: u64::MAX,
        }),
        maintenance: Some(Maintenance {
            lasting: Some(Duration::MAX),
        }),
        peer: Some(PeerMemory {
            incarnation: Incarnation {
                counter: u64::MAX,
                nonce: [0xff; 16],
            },
            term: u64::MAX,
            epochs_digest: u64::MAX,
            seq: u64::MAX,
            machine: MachineId {
                machine: u64::MAX,
                root: u64::MAX,
                boot: u64::MAX,
            },
        }),
        identity: PeerIdentity::Cloned,
    }
}

fn written(generation: u64, term: u64) -> Result<Slot, SlotError> {
    let durable = Durable {
        term_used: term,
        ..Durable::new(PAIR)
    };
    decode(&encode(generation, &durable))
}

#[test]
fn the_largest_state_comes_back() {
    let slot = encode(5, &largest());
    let expected = Slot::Written {
        generation: 5,
        durable: Box::new(largest()),
    };
    assert_eq!(decode(&slot), Ok(expected));
}

#[test]
fn every_damaged_byte_of_the_used_part_is_found() {
    let slot = encode(5, &largest());
    let used = slot.iter().rposition(|b| *b != 0).expect("not empty") + 1;
    for at in 0..used {
        let mut damaged = slot;
        damaged[at] ^= 1;
        assert_eq!(decode(&damaged), Err(SlotError::Damaged), "byte {at}");
    }
}

#[test]
fn every_torn_write_is_found() {
    let (new, old) = (encode(7, &largest()), encode(5, &Durable::new(PAIR)));
    for cut in (0..SLOT_LEN).step_by(16) {
        let mut torn = old;
        torn[..cut].copy_from_slice(&new[..cut]);
        match decode(&torn) {
            Ok(Slot::Written {
                generation: 5,
                durable,
            }) => assert_eq!(*durable, Durable::new(PAIR)),
            Ok(Slot::Written {
                generation: 7,
                durable,
            }) => assert_eq!(*durable, largest()),
            Err(SlotError::Damaged) => {}
            other => panic!("cut at {cut}: {other:?}"),
        }
    }
}

#[test]
fn a_newer_format_is_not_guessed() {
    let mut slot = encode(5, &largest());
    let len = usize::from(u16::from_le_bytes([slot[6], slot[7]]));
    slot[4..6].copy_from_slice(&(FORMAT + 1).to_le_bytes());
    let hash = *blake3::hash(&slot[..HEAD_LEN + len]).as_bytes();
    slot[HEAD_LEN + len..HEAD_LEN + len + HASH_LEN].copy_from_slice(&hash);
    let newer = SlotError::Newer(FORMAT + 1);
    assert_eq!(decode(&slot), Err(newer));
    assert_eq!(
        choose(PAIR, [Err(newer), written(1, 1)]),
        Err(ChooseError::Newer(newer))
    );
}

#[test]
fn the_newer_whole_slot_wins() {
    let term = |slots| choose(PAIR, slots).map(|(next, durable)| (next, durable.term_used));
    assert_eq!(term([Ok(Slot::Empty), Ok(Slot::Empty)]), Ok((0, 0)));
    assert_eq!(term([written(2, 9), written(1, 8)]), Ok((3, 9)));
    assert_eq!(term([written(2, 9), written(3, 8)]), Ok((4, 8)));
    assert_eq!(term([Err(SlotError::Damaged), written(3, 8)]), Ok((4, 8)));
    assert_eq!(
        term([Err(SlotError::Damaged), Ok(Slot::Empty)]),
        Ok((0, 0)),
        "first write torn"
    );
    let both = [Err(SlotError::Damaged), Err(SlotError::Damaged)];
    assert_eq!(term(both), Err(ChooseError::BothDamaged));
    assert_eq!(
        choose(PairId([8; 16]), [written(2, 9), Ok(Slot::Empty)]),
        Err(ChooseError::OtherPair)
    );
}

#[test]
fn slots_alternate() {
    assert_eq!((slot_of(0), slot_of(1), slot_of(2)), (0, 1, 0));
}

#[test]
fn the_bytes_of_format_1_are_fixed() {
    assert_eq!(
        blake3::hash(&encode(5, &largest())).to_hex().as_str(),
        "1a65ac7c9c4819f292f961ede5c60b0dca247402d0ba17889d374afdc2c5f979",
        "a changed format needs a new number"
    );
}

#[test]
fn the_highest_term_counts_what_may_have_been_used() {
    let durable = Durable {
        term_used: 3,
        term_armed: 5,
        term_seen: 4,
        ..Durable::new(PAIR)
    };
    assert_eq!(durable.highest_term(), 5);
    assert_eq!(durable.started().incarnation, 1);
}
