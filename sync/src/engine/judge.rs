//! What lies at a path of the replica, judged by what the index says and by what an apply was about to do: of the pair's
//! history, left half done by a crash, or somebody's own.

use super::aside::Lies;
use super::look::Sight;
use super::tree::Open;
use super::view::is_same_but_ctime;
use crate::entry::{Base, IndexEntry, Kind, LocalKey, Meta, State};
use crate::index::Unreplicated;

/// What lies there is of the pair's history although its key is not the index's, or is what an apply left unfinished
/// and nobody touched since.
pub(super) fn is_known(entry: &IndexEntry, lies: &Lies, unfinished: bool) -> bool {
    let (Some(before), Some(now)) = (entry.local, lies.key) else {
        return false;
    };
    let state = entry.seq != 0 && entry.current == lies.state;
    // Another name of the file was made or removed, by this node's own apply as a rule.
    let linked = match (&entry.current, &lies.state) {
        (Some(was), Some(is)) if entry.seq != 0 => {
            matches!(was.kind, Kind::HardLink { .. })
                && was.meta == is.meta
                && is_same_but_ctime(before, now)
        }
        _ => false,
    };
    let flags = only_flags(entry.current.as_ref(), lies.state.as_ref());
    state || linked || (flags && (entry.seq != 0 || unfinished)) || (unfinished && before == now)
}

pub(super) fn same(a: Option<&State>, b: Option<&State>) -> bool {
    a == b
}

pub(super) fn same_but_time(a: &Meta, b: Option<&Meta>) -> bool {
    b.is_some_and(|b| (a.mode, a.uid, a.gid, &a.xattrs) == (b.mode, b.uid, b.gid, &b.xattrs))
}

/// What lies there is what the index says, and that is of the pair's history.
pub(super) fn is_clean(entry: Option<&IndexEntry>, key: Option<LocalKey>) -> bool {
    match (entry, key) {
        (None, None) => true,
        (None, Some(_)) => false,
        (Some(entry), key) => match &entry.current {
            None => key.is_none(),
            // The times of a directory move with what lies in it.
            Some(state) if state.kind.is_dir() => {
                let ino = |key: Option<LocalKey>| key.map(|k| (k.dev, k.ino));
                entry.seq != 0 && key.is_some() && ino(entry.local) == ino(key)
            }
            Some(_) => entry.seq != 0 && key.is_some() && entry.local == key,
        },
    }
}

/// What a crash left of an apply of this path: `entry` before, `becomes` after.
pub(super) fn is_between(
    sight: &Sight,
    entry: Option<&IndexEntry>,
    becomes: Option<&State>,
) -> bool {
    let Some(state) = &sight.state else {
        // Room was made for something else.
        return true;
    };
    // A directory is made empty and closed, and gets its attributes at the end; of a file only attributes may be
    // half changed, and its names.
    let kind = |other: Option<&State>| other.is_some_and(|o| o.kind == state.kind);
    let known = entry.and_then(|e| e.current.as_ref());
    let keys = entry.and_then(|e| e.local).zip(sight.local);
    state.kind.is_dir()
        || kind(known)
        || kind(becomes)
        || keys.is_some_and(|(before, now)| is_same_but_ctime(before, now))
}

/// A further name of a file, as the index left it. Its attributes are those of the file, which come with the record of its
/// first name: until then the entry is ahead of what lies here.
pub(super) fn is_untouched_name(entry: Option<&IndexEntry>, sight: &Sight) -> bool {
    let to = |state: Option<&State>| match state.map(|s| &s.kind) {
        Some(Kind::HardLink { to }) => Some(to.clone()),
        _ => None,
    };
    entry.is_some_and(|entry| {
        let known = to(entry.current.as_ref());
        entry.seq != 0
            && known.is_some()
            && known == to(sight.state.as_ref())
            && entry.local == sight.local
    })
}

/// The path became a further name of the file that it was to become a name of. While names that are still to go lie
/// here, a look may call another one of them the first.
pub(super) fn is_name_of(open: Option<&Open>, sight: &Sight, becomes: Option<&State>) -> bool {
    let Some(Kind::HardLink { to }) = becomes.map(|state| &state.kind) else {
        return false;
    };
    let first = open.and_then(|open| open.root.stat(to).ok().flatten());
    let one = first.zip(sight.local);
    one.is_some_and(|(first, here)| (first.dev, first.ino) == (here.dev, here.ino))
}

/// A directory whose time moved with what lies in it.
pub(super) fn only_time(sight: &Sight, known: Option<&State>) -> bool {
    let dir = |state: Option<&State>| state.filter(|s| s.kind.is_dir()).map(|s| s.meta.clone());
    dir(known).is_some_and(|known| same_but_time(&known, dir(sight.state.as_ref()).as_ref()))
}

/// What lies there is what the index says but for its flags. They are the source's, and nothing is lost with others: an apply
/// takes them away for a change of its own, and a crash may have kept it from giving them back, to a directory above the
/// change for example.
pub(super) fn only_flags(known: Option<&State>, seen: Option<&State>) -> bool {
    let Some((known, seen)) = known.zip(seen) else {
        return false;
    };
    let (had, has) = (known.meta.xattrs.flags(), seen.meta.xattrs.flags());
    if had == has || known.kind != seen.kind {
        return false;
    }
    let xattrs = known.meta.xattrs.with_flags(has);
    let meta = Meta {
        xattrs,
        ..known.meta.clone()
    };
    let time = known.kind.is_dir() || meta.mtime_ns == seen.meta.mtime_ns;
    time && same_but_time(&meta, Some(&seen.meta))
}

pub(super) fn local_record(sight: &Sight, entry: Option<&IndexEntry>) -> Unreplicated {
    let base = match entry {
        Some(entry) if entry.seq != 0 => Base::Was(entry.current.clone().map(Box::new)),
        _ => Base::Never,
    };
    Unreplicated {
        ours: sight.state.clone(),
        base,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::RelPath;

    fn entry(to: &str, ctime_ns: i128, seq: u64) -> IndexEntry {
        let to = RelPath::new(to).unwrap();
        let meta = Meta {
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime_ns: 2,
            xattrs: Default::default(),
        };
        let key = LocalKey {
            dev: 1,
            ino: 1,
            ctime_ns,
            mtime_ns: 1,
            size: 5,
        };
        let kind = Kind::HardLink { to };
        IndexEntry::received(Some(State { kind, meta }), seq, Some(key))
    }

    fn sight(to: &str, ctime_ns: i128) -> Sight {
        let entry = entry(to, ctime_ns, 1);
        let mut state = entry.current;
        // The record of the first name, which sets it, is still to come.
        if let Some(state) = &mut state {
            state.meta.mtime_ns = 1;
        }
        Sight {
            path: RelPath::new("name").unwrap(),
            state,
            local: entry.local,
        }
    }

    #[test]
    fn a_name_that_the_index_left_so_is_untouched_whatever_attributes_it_waits_for() {
        let is = |entry: IndexEntry, sight| is_untouched_name(Some(&entry), &sight);
        assert!(is(entry("first", 7, 3), sight("first", 7)));
        for (entry, sight) in [
            (entry("first", 7, 3), sight("first", 8)),
            (entry("first", 7, 3), sight("another", 7)),
            (entry("first", 7, 0), sight("first", 7)),
        ] {
            assert!(!is(entry.clone(), sight.clone()), "{entry:?} {sight:?}");
        }
        assert!(!is_untouched_name(None, &sight("first", 7)));
    }
}
