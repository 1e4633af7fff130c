//! The door for the fuzz target of what the engine keeps in the index under names of its own.

use super::beyond::Beyond;
use super::contents::Position;
use super::intent::{Aside, Intent};
use super::rolling::Compared;
use super::set_apply::Redo;
use super::{reboot, tombstones};
use crate::guard::RootRecord;
use crate::path::RelPath;
use crate::tree::TreeId;
use crate::wire::SetMark;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};

/// The value of a name, as each of its types.
pub(crate) fn fuzz(bytes: &[u8]) {
    // Paths that are flagged, skipped, unverified or fuzzy.
    same::<BTreeSet<RelPath>>(bytes);
    same::<(BTreeSet<RelPath>, u64)>(bytes);
    same::<Intent>(bytes);
    same::<Aside>(bytes);
    same::<Redo>(bytes);
    same::<SetMark>(bytes);
    same::<Position>(bytes);
    same::<Compared>(bytes);
    same::<reboot::Mark>(bytes);
    same::<tombstones::Mark>(bytes);
    same::<Beyond>(bytes);
    same::<RootRecord>(bytes);
    // A rename that is being carried out.
    same::<(TreeId, RelPath, RelPath)>(bytes);
}

/// What can be read is written so that it is read alike.
fn same<T: Serialize + DeserializeOwned>(bytes: &[u8]) {
    let written = |value: &T| postcard::to_stdvec(value).expect("a value can be written");
    if let Ok(value) = postcard::from_bytes::<T>(bytes) {
        let once = written(&value);
        let again = postcard::from_bytes(&once).expect("and read");
        assert_eq!(written(&again), once);
    }
}

/// One of each that has more than numbers in it.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    fn written(value: impl Serialize) -> Vec<u8> {
        postcard::to_stdvec(&value).expect("a value can be written")
    }
    let path = |text: &str| RelPath::new(text).expect("a valid path");
    let tree = TreeId::of("t");
    let paths = BTreeSet::from([path("a"), path("a/b")]);
    let mark = reboot::Mark {
        boot: "boot".into(),
        clean: false,
        again: BTreeMap::from([(tree, -5)]),
    };
    vec![
        written((&paths, 3u64)),
        written(Intent(vec![(tree, path("a/b"), 7, None)])),
        written(Aside(BTreeSet::from([(tree, path("c"))]))),
        written(mark),
        written((tree, path("a"), path("b"))),
    ]
}
