//! The format of `manifest.jsonl`, version 1: one JSON object per line.
//!
//! ```text
//! {"header":{"version":1,"id":"...","tree":"www","made_unix_ms":0,"why":"...","base_unknown":false}}
//! {"item":{"number":1,"path":"a/b","change":"changed","size":5,"mtime_unix_ms":0,"state":"<hex>","taken":true}}
//! {"dropped":[1,2]}
//! ```
//! Paths are escaped as in messages (`\xNN` for bytes that are no text). `state` is the postcard encoding of the whole
//! state in hexadecimal: JSON has no map with byte keys. A reader passes over lines that it does not know.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::entry::State;
use crate::path::RelPath;

/// The version of the format that is written.
pub const VERSION: u32 = 1;

/// The first line of a set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Version of the format.
    pub version: u32,
    /// Name of the set, unique on the node.
    pub id: String,
    /// Name of the tree.
    pub tree: String,
    /// When it was begun.
    pub made_unix_ms: u64,
    /// On what occasion.
    pub why: String,
    /// It was not known what the peer had acknowledged, so every differing file is here.
    #[serde(default)]
    pub base_unknown: bool,
}

impl Header {
    /// For a set whose header was lost in a crash.
    pub(super) fn unknown(id: &str) -> Header {
        Header {
            version: VERSION,
            id: id.to_owned(),
            tree: String::new(),
            made_unix_ms: 0,
            why: String::new(),
            base_unknown: true,
        }
    }
}

/// What had happened to an item here, unknown to the pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// It was new here.
    Created,
    /// Its content was changed here.
    Changed,
    /// It was removed here; there is only the record.
    Deleted,
    /// It was renamed here.
    Renamed,
    /// Only its metadata were changed here.
    Metadata,
    /// It differs, and the base is not known.
    Differs,
}

/// One kept version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// Number in its set, from 1; the name of its file.
    pub number: u64,
    /// Where it lay.
    pub path: RelPath,
    /// What had happened to it.
    pub change: Change,
    /// Bytes of its content; 0 for what is no file.
    pub size: u64,
    /// Its modification time.
    #[serde(default)]
    pub mtime_unix_ms: Option<i64>,
    /// The other name of a rename.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub other: Option<RelPath>,
    /// What it was, as far as it was known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[serde(serialize_with = "to_hex", deserialize_with = "from_hex")]
    pub state: Option<State>,
    /// The entry itself was moved to the rescue.
    pub taken: bool,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Line {
    Header(Header),
    Item(Item),
    Dropped(Vec<u64>),
}

impl Line {
    /// Appends the line.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        // Writing to memory cannot fail, and every field is a string, a number or a list of them.
        if let Ok(text) = serde_json::to_vec(self) {
            out.extend(text);
            out.push(b'\n');
        }
    }

    /// `None` for an empty line.
    pub(super) fn parse(bytes: &[u8]) -> Result<Option<Line>, String> {
        let text = bytes.trim_ascii();
        if text.is_empty() {
            return Ok(None);
        }
        serde_json::from_slice(text)
            .map(Some)
            .map_err(|e| e.to_string())
    }
}

fn to_hex<S: Serializer>(state: &Option<State>, serializer: S) -> Result<S::Ok, S::Error> {
    use std::fmt::Write as _;
    let Some(state) = state else {
        return serializer.serialize_none();
    };
    let bytes = postcard::to_allocvec(state).map_err(serde::ser::Error::custom)?;
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    serializer.serialize_some(&text)
}

fn from_hex<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<State>, D::Error> {
    use serde::de::Error;
    let Some(text) = Option::<String>::deserialize(deserializer)? else {
        return Ok(None);
    };
    let digit = |b: u8| char::from(b).to_digit(16);
    let mut bytes = Vec::with_capacity(text.len() / 2);
    for pair in text.as_bytes().chunks(2) {
        let [high, low] = pair else {
            return Err(D::Error::custom("half a byte"));
        };
        let byte = digit(*high).zip(digit(*low)).map(|(h, l)| h * 16 + l);
        // Two hexadecimal digits are at most 255.
        bytes.push(byte.ok_or_else(|| D::Error::custom("not hexadecimal"))? as u8);
    }
    postcard::from_bytes(&bytes)
        .map(Some)
        .map_err(D::Error::custom)
}

/// Bytes as a name for a system call.
pub(super) fn os(name: &[u8]) -> &OsStr {
    OsStr::from_bytes(name)
}

/// One line of a manifest.
#[cfg(feature = "fuzz")]
pub(crate) fn fuzz(bytes: &[u8]) {
    if let Ok(Some(line)) = Line::parse(bytes) {
        let mut out = Vec::new();
        line.write(&mut out);
        assert_eq!(Line::parse(&out), Ok(Some(line)));
    }
}
