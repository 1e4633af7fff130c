//! Doors for the fuzz targets of `tests/fuzz`: each takes any bytes, and panics when the decoder that it stands for
//! breaks a promise.

use crate::api::types;
use crate::config;
use crate::daemon::forward::Forwarded;
use crate::daemon::restore::Header;
use crate::link::message::{Hello, OneWay, Request, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::Path;

/// Name, function, and inputs from which a search may begin.
pub type Target = (&'static str, fn(&[u8]), fn() -> Vec<Vec<u8>>);

/// All targets of this crate.
pub const TARGETS: &[Target] = &[
    ("agent_link", crate::link::fuzz, packets),
    ("agent_forward", forwarded, || {
        vec![br#"{"flush":{"timeout_ms":5}}"#.to_vec()]
    }),
    ("agent_api", request, requests),
    ("agent_answer", answer, answers),
    ("agent_config", configuration, configurations),
    ("agent_keys", crate::keys::fuzz, keys),
    ("agent_journal", crate::journal::fuzz, || {
        vec![b"{\"kind\":\"x\",\"data\":{}}\n{\"kind\":".to_vec()]
    }),
    ("agent_handover", crate::daemon::execute::fuzz, || {
        vec![b"1 77 5 3".to_vec()]
    }),
];

/// What the peer has forwarded, and what it wants to restore.
fn forwarded(bytes: &[u8]) {
    let _ = serde_json::from_slice::<Forwarded>(bytes);
    let _ = postcard::from_bytes::<Header>(bytes);
}

/// The body of a request of the local API, as each of its types.
fn request(bytes: &[u8]) {
    same::<types::InitRequest>(bytes);
    same::<types::RestoreRequest>(bytes);
    same::<types::TakeoverRequest>(bytes);
    same::<types::FlushRequest>(bytes);
    same::<types::HoldRequest>(bytes);
    same::<types::VerifyRequest>(bytes);
    same::<types::AcceptRequest>(bytes);
    same::<types::AcceptPriceRequest>(bytes);
    same::<types::AcceptPrice>(bytes);
    same::<types::AdoptRequest>(bytes);
    same::<types::MaintenanceRequest>(bytes);
    same::<types::RescueShowRequest>(bytes);
    same::<types::RescueFileRequest>(bytes);
    same::<types::RescueSelection>(bytes);
    same::<types::TrashListRequest>(bytes);
    same::<types::TrashRestoreRequest>(bytes);
    same::<types::TrashEmptyRequest>(bytes);
}

/// An answer of the local API, or a line of a stream, as each of its types.
fn answer(bytes: &[u8]) {
    use types::Line;
    same::<types::StatusReport>(bytes);
    same::<types::RoleReport>(bytes);
    same::<types::InitReport>(bytes);
    same::<types::TakeoverPrice>(bytes);
    same::<types::FlushReport>(bytes);
    same::<types::ReloadReport>(bytes);
    same::<types::RescueList>(bytes);
    same::<types::Done>(bytes);
    same::<types::ApiError>(bytes);
    same::<Line<types::MoveEvent>>(bytes);
    same::<Line<types::HoldEvent>>(bytes);
    same::<Line<types::VerifyEvent>>(bytes);
    same::<Line<types::RestoreEvent>>(bytes);
    same::<Line<types::RescueItem>>(bytes);
    same::<Line<types::TrashEvent>>(bytes);
    if let Ok(report) = serde_json::from_slice::<types::StatusReport>(bytes) {
        let shown = crate::cli::fuzz_status(&report);
        let hidden = |c: char| c.is_control() && c != '\n';
        assert!(!shown.contains(hidden), "{shown:?}");
    }
}

/// What can be read is written so that it is read alike.
fn same<T: Serialize + DeserializeOwned>(bytes: &[u8]) {
    if let Ok(value) = serde_json::from_slice::<T>(bytes) {
        let once = serde_json::to_vec(&value).expect("it can be written");
        let again: T = serde_json::from_slice(&once).expect("and read");
        assert_eq!(serde_json::to_vec(&again).expect("and written"), once);
    }
}

/// A configuration: valid, or problems that can be shown.
fn configuration(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    match config::parse(Path::new("fuzz.toml"), &text) {
        Ok(loaded) => {
            let _ = loaded.warnings.to_string();
            let facts = config::facts::Facts::of(&loaded.config);
            let _ = (facts.digest(), facts.matters());
        }
        Err(problems) => {
            assert!(!problems.is_empty(), "refused and nothing said");
            let shown = problems.to_string();
            assert!(shown.contains("fuzz.toml:"));
        }
    }
}

fn packets() -> Vec<Vec<u8>> {
    let hello = Hello {
        pair: "p".into(),
        node: "n".into(),
        agent_version: "v".into(),
        machine_id: [1; 16],
        boot_id: [2; 16],
        incarnation: 5,
        config_digest: [3; 32],
        config_matters: [4; 32],
        lineages: vec![6],
    };
    fn packet(kind: u8, body: &impl Serialize) -> Vec<u8> {
        let mut bytes = vec![kind, 1, 0, 0, 0, 0, 0, 0, 0];
        bytes.extend(postcard::to_stdvec(body).expect("encoded"));
        let length = (bytes.len() as u32).to_le_bytes();
        [&length[..], &bytes].concat()
    }
    let chunk = Request::RestoreChunk {
        transfer: 300,
        data: vec![9, 8],
    };
    vec![
        b"TDM\x01\0\x01\0".to_vec(),
        [
            packet(0, &Request::Hello),
            packet(0, &chunk),
            packet(1, &Response::Hello(hello.clone())),
            packet(2, &OneWay::Lineages(vec![7])),
            packet(3, &()),
        ]
        .concat(),
        postcard::to_stdvec(&hello).expect("encoded"),
    ]
}

fn requests() -> Vec<Vec<u8>> {
    let texts = [
        r#"{"timeout_ms":5}"#,
        r#"{"role":"standby","for_ms":5}"#,
        r#"{"tree":"www","repair":true}"#,
        r#"{"set":"s","items":[1,2]}"#,
        r#"{"on":true,"for_ms":18446744073709551615}"#,
    ];
    texts.map(|text| text.as_bytes().to_vec()).to_vec()
}

fn answers() -> Vec<Vec<u8>> {
    let texts = [
        r#"{"event":{"step":{"step":"drain","text":"x","at_ms":5}}}"#,
        r#"{"event":{"ended":{"why":"asked","text":"x"}}}"#,
        r#"{"error":{"code":"busy","message":"x"}}"#,
        r#"{"sets":[{"id":"s","tree":"www","made_unix_ms":0,"why":"w","items":1,"bytes":2}]}"#,
    ];
    texts.map(|text| text.as_bytes().to_vec()).to_vec()
}

fn configurations() -> Vec<Vec<u8>> {
    [
        &include_bytes!("../../etc/mirror-pair.toml")[..],
        include_bytes!("../../etc/reference.toml"),
    ]
    .map(<[u8]>::to_vec)
    .to_vec()
}

fn keys() -> Vec<Vec<u8>> {
    let key = crate::keys::NodeKey::from_seed(&[7; 32]);
    let private = key.ssh().to_openssh(russh::keys::ssh_key::LineEnding::LF);
    vec![
        private.expect("a key can be written").as_bytes().to_vec(),
        crate::keys::public_line(&key.public(), "mirror1").into_bytes(),
    ]
}
