use super::*;

const PAIR: PairId = PairId([7; 16]);
const SENDER: KeyId = KeyId([3; 8]);

/// A stand-in with the shape of a signature: a keyed hash, twice.
fn sign(bytes: &[u8]) -> [u8; SIGNATURE_LEN] {
    let hash = *blake3::keyed_hash(&[9; 32], bytes).as_bytes();
    let mut signature = [0; SIGNATURE_LEN];
    signature[..32].copy_from_slice(&hash);
    signature[32..].copy_from_slice(&hash);
    signature
}

fn verify(sender: KeyId, bytes: &[u8], signature: &[u8; SIGNATURE_LEN]) -> Option<bool> {
    (sender == SENDER).then(|| sign(bytes) == *signature)
}

fn largest() -> Heartbeat {
    let incarnation = Incarnation {
        counter: u64::MAX,
        nonce: [0xff; 16],
    };
    Heartbeat {
        incarnation,
        counter: u64::MAX,
        link: u8::MAX,
        echo: Some(Echo {
            incarnation,
            on_link: Some((u64::MAX, u32::MAX)),
            overall: Some(u32::MAX),
        }),
        body: Body {
            role: Role::Fault,
            phase: Phase::Stopping,
            term: u64::MAX,
            term_seen: u64::MAX,
            holding: true,
            was_master: true,
            preferred: true,
            solo: true,
            grant: Some(Grant {
                to: [0xff; 16],
                term: u64::MAX,
            }),
            ceded: Some(Ceded {
                term: u64::MAX,
                to: KeyId([0xff; 8]),
                epochs_digest: u64::MAX,
                seq: u64::MAX,
            }),
            against: Some(Reason::AddressInUse),
            network: Health::Bad,
            services: Health::Bad,
            peer_services: Health::Bad,
            maintenance: true,
            maintenance_left: Some(u32::MAX),
            hold: true,
            lag: Some(u32::MAX),
            born: true,
            epochs_digest: u64::MAX,
            seq: u64::MAX,
            config_digest: u64::MAX,
            config_matters: u64::MAX,
            machine: MachineId {
                machine: u64::MAX,
                root: u64::MAX,
                boot: u64::MAX,
            },
            heads: vec![
                TreeHead {
                    tree: [0xff; 4],
                    epoch: [0xff; 16],
                    state: 0xff
                };
                TreeHead::MAX
            ],
        },
    }
}

fn bytes() -> Vec<u8> {
    encode(PAIR, SENDER, &largest(), sign).expect("the largest body fits")
}

/// Replaces the signature after a change to the signed bytes.
fn resign(mut datagram: Vec<u8>) -> Vec<u8> {
    datagram.truncate(datagram.len() - SIGNATURE_LEN);
    let signature = sign(&datagram);
    datagram.extend_from_slice(&signature);
    datagram
}

#[test]
fn the_largest_heartbeat_fits_and_comes_back() {
    let datagram = bytes();
    assert!(datagram.len() <= MAX_LEN, "{} bytes", datagram.len());
    assert_eq!(decode(PAIR, &datagram, verify), Ok((SENDER, largest())));
}

#[test]
fn one_head_too_many_is_refused_by_the_reader() {
    let mut heartbeat = largest();
    heartbeat.body.heads.push(heartbeat.body.heads[0]);
    let datagram = encode(PAIR, SENDER, &heartbeat, sign).expect("still fits");
    assert_eq!(decode(PAIR, &datagram, verify), Err(DecodeError::Content));
    heartbeat.body.heads = vec![heartbeat.body.heads[0]; 60];
    assert_eq!(encode(PAIR, SENDER, &heartbeat, sign), Err(TooLong));
}

#[test]
fn every_changed_byte_and_every_cut_is_refused() {
    let datagram = bytes();
    for at in 0..datagram.len() {
        let mut changed = datagram.clone();
        changed[at] ^= 1;
        assert!(decode(PAIR, &changed, verify).is_err(), "byte {at}");
        assert!(
            decode(PAIR, &datagram[..at], verify).is_err(),
            "cut at {at}"
        );
    }
}

#[test]
fn other_pairs_and_keys_are_refused_before_their_content_is_read() {
    let datagram = bytes();
    let unread = |_: KeyId, _: &[u8], _: &[u8; SIGNATURE_LEN]| -> Option<bool> {
        panic!("the signature of another pair is not worth a look")
    };
    assert_eq!(
        decode(PairId([8; 16]), &datagram, unread),
        Err(DecodeError::Pair)
    );
    assert_eq!(
        decode(PAIR, &datagram, |_, _, _| None),
        Err(DecodeError::Key)
    );
    assert_eq!(
        decode(PAIR, &datagram, |_, _, _| Some(false)),
        Err(DecodeError::Signature)
    );
    assert_eq!(decode(PAIR, &[0; MAX_LEN], unread), Err(DecodeError::Magic));
    assert_eq!(
        decode(PAIR, &[0; MAX_LEN + 1], unread),
        Err(DecodeError::Length)
    );
}

#[test]
fn garbage_with_a_right_signature_is_an_error_and_no_panic() {
    let head = &bytes()[..HEADER_LEN];
    for length in 0..200_usize {
        let mut datagram = head.to_vec();
        datagram.extend((0..length).map(|i| (i * 37 + length) as u8));
        datagram.extend_from_slice(&[0; SIGNATURE_LEN]);
        assert!(decode(PAIR, &resign(datagram), verify).is_err());
    }
}

#[test]
fn a_newer_version_may_append_and_a_too_new_one_is_refused() {
    let mut newer = bytes();
    let end = newer.len() - SIGNATURE_LEN;
    newer.splice(end..end, [1, 2, 3, 4, 5]);
    assert_eq!(
        decode(PAIR, &resign(newer.clone()), verify),
        Err(DecodeError::Content),
        "this version appends nothing"
    );
    newer[4] = VERSION + 1;
    assert_eq!(
        decode(PAIR, &resign(newer.clone()), verify),
        Ok((SENDER, largest()))
    );
    newer[5] = VERSION + 1;
    let refused = DecodeError::Version {
        version: VERSION + 1,
        oldest: VERSION + 1,
    };
    assert_eq!(decode(PAIR, &resign(newer), verify), Err(refused));
}

#[test]
fn the_bytes_of_version_1_are_fixed() {
    let mut heartbeat = largest();
    heartbeat.body.heads.clear();
    let datagram = encode(PAIR, SENDER, &heartbeat, |_| [0; SIGNATURE_LEN]).expect("fits");
    assert_eq!(
        blake3::hash(&datagram).to_hex().as_str(),
        "25dd68295916849cc7e52ec7bd941701b94603eaf665ee0145ec0b55c1201afa",
        "a changed format needs a new version"
    );
}

#[test]
fn a_pair_has_one_id_whoever_asks() {
    assert_eq!(
        PairId::of("p", &[1; 32], &[2; 32]),
        PairId::of("p", &[2; 32], &[1; 32])
    );
    assert_ne!(
        PairId::of("p", &[1; 32], &[2; 32]),
        PairId::of("q", &[1; 32], &[2; 32])
    );
    assert_ne!(KeyId::of(&[1; 32]), KeyId::of(&[2; 32]));
}
