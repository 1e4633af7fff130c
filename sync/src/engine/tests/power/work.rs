//! What a round of power cuts writes, and what must be there afterwards: by its seed, so that the machine that comes after
//! the cut knows it without a word of the one before.

use super::super::pair::{noise, write};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;

/// Bytes of an edit: in one page, so that it happens at once.
const EDIT: usize = 4000;
/// From one edit to the next, in pages.
const APART: usize = 100 * 4096;

/// A file's content: so many bytes of this seed, and how often the middle of it was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Content {
    size: usize,
    seed: u64,
    edits: u64,
}

impl Content {
    fn new(size: usize, seed: u64) -> Content {
        let edits = 0;
        Content { size, seed, edits }
    }

    pub fn bytes(self) -> Vec<u8> {
        let mut bytes = noise(self.size, self.seed);
        for edit in 1..=self.edits {
            // Several places far from each other, so that half of a change would be seen.
            for at in (0..self.size - EDIT).step_by(APART) {
                bytes[at..at + EDIT].copy_from_slice(&noise(EDIT, edit));
            }
        }
        bytes
    }
}

/// Each path of a file, and what is in it.
pub type Model = BTreeMap<String, Content>;

/// The file that only grows.
pub const LOG: &str = "log";

/// What one operation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A small file gets another content: by the slot.
    Small,
    /// A file of some hundred kilobytes has other bytes, and its directory does not change: staged and synced by itself.
    Staged,
    /// A directory with more files than are synced one by one appears.
    Many,
    /// A file has another name.
    MovedFile,
    /// A directory has.
    MovedDir,
    /// A small file is gone.
    Removed,
    /// A large file has other bytes in some places: in place, by a journal.
    InPlace,
    /// A log has more bytes at its end.
    Grown,
    /// All small files and those of some hundred kilobytes are other ones.
    All,
}

/// In an order in which each finds what it needs.
pub const KINDS: [Kind; 9] = [
    Kind::Many,
    Kind::Staged,
    Kind::InPlace,
    Kind::Small,
    Kind::Grown,
    Kind::MovedFile,
    Kind::All,
    Kind::MovedDir,
    Kind::Removed,
];

/// One change of the tree, in one step.
enum Change {
    /// These files, all beneath `top` or `top` itself, are built aside and renamed to their place.
    Put {
        top: String,
        files: Model,
    },
    /// The first bytes of a file.
    Edit {
        path: String,
        to: Content,
    },
    Append {
        path: String,
        from: usize,
        to: Content,
    },
    Move {
        from: String,
        to: String,
    },
    Remove(String),
}

/// What lies there at the beginning.
pub fn first() -> Model {
    let mut model = Model::new();
    for n in 0..4 {
        model.insert(format!("s/{n}"), Content::new(1000, n));
        model.insert(format!("big/{n}"), Content::new(350_000, n));
    }
    for n in 0..60 {
        model.insert(format!("many0/{n}"), Content::new(700, n));
    }
    model.insert("db".into(), Content::new(1_700_000, 1));
    model.insert(LOG.into(), Content::new(1_200_000, 2));
    model
}

/// Writes these files.
pub fn put(files: &Model, at: &Path) {
    for (path, content) in files {
        write(&at.join(path), content.bytes());
    }
}

/// Does the `n`th operation to the model, and to the tree if there is one.
pub fn step(kind: Kind, n: u64, model: &mut Model, at: Option<(&Path, &Path)>) {
    for change in changes(kind, n, model) {
        if let Some((aside, tree)) = at {
            carry_out(&change, aside, tree);
        }
        change.note(model);
    }
}

fn changes(kind: Kind, n: u64, model: &Model) -> Vec<Change> {
    let in_order = |prefix: &str| {
        let found = model.keys().filter(|path| path.starts_with(prefix));
        found.cloned().collect::<Vec<_>>()
    };
    let one_of = |prefix: &str| {
        let all = in_order(prefix);
        all[usize::try_from(n).unwrap() % all.len()].clone()
    };
    let one = |path: String, content| Change::Put {
        files: Model::from([(path.clone(), content)]),
        top: path,
    };
    // More than the slot takes, and one edit is all of them.
    let anew = |n: u64| Content::new(330_000 + usize::try_from(n).unwrap() % 7 * 10_000, n);
    match kind {
        Kind::Small => vec![one(one_of("s/"), Content::new(900, n))],
        Kind::Staged => {
            let path = one_of("big/");
            let mut to = model[&path];
            to.edits += 1;
            vec![Change::Edit { path, to }]
        }
        Kind::Many => {
            let top = format!("many{n}");
            let files = (0..60).map(|i| (format!("{top}/{i}"), Content::new(800, n * 100 + i)));
            let files = files.collect();
            vec![Change::Put { top, files }]
        }
        Kind::MovedFile => vec![Change::Move {
            from: one_of("big/"),
            to: format!("big/moved{n}"),
        }],
        Kind::MovedDir => {
            let path = one_of("many");
            let (dir, _) = path.split_once('/').unwrap();
            vec![Change::Move {
                from: dir.into(),
                to: format!("many-moved{n}"),
            }]
        }
        // Some always stay for the other kinds.
        Kind::Removed => vec![
            one(format!("s/{n}"), Content::new(50, n)),
            Change::Remove(in_order("s/")[0].clone()),
        ],
        Kind::InPlace => {
            let mut content = model["db"];
            content.edits += 1;
            vec![one("db".into(), content)]
        }
        Kind::Grown => {
            let (path, mut to) = (LOG.to_owned(), model[LOG]);
            let from = to.size;
            to.size += 30_000;
            vec![Change::Append { path, from, to }]
        }
        Kind::All => {
            let small = in_order("s/").into_iter();
            let small = small.map(|path| one(path, Content::new(600, n)));
            let big = in_order("big/").into_iter();
            small.chain(big.map(|path| one(path, anew(n)))).collect()
        }
    }
}

impl Change {
    fn note(self, model: &mut Model) {
        let beneath = |path: &str, top: &str| {
            let rest = path.strip_prefix(top)?;
            (rest.is_empty() || rest.starts_with('/')).then(|| rest.to_owned())
        };
        match self {
            Change::Put { files, .. } => model.extend(files),
            Change::Edit { path, to } | Change::Append { path, to, .. } => {
                model.insert(path, to);
            }
            Change::Move { from, to } => {
                for (path, content) in std::mem::take(model) {
                    let moved = beneath(&path, &from).map(|rest| format!("{to}{rest}"));
                    model.insert(moved.unwrap_or(path), content);
                }
            }
            Change::Remove(top) => model.retain(|path, _| beneath(path, &top).is_none()),
        }
    }
}

fn carry_out(change: &Change, aside: &Path, tree: &Path) {
    match change {
        Change::Put { top, files } => {
            put(files, aside);
            std::fs::rename(aside.join(top), tree.join(top)).unwrap();
        }
        Change::Edit { path, to } => {
            let file = std::fs::File::options().write(true).open(tree.join(path));
            file.unwrap().write_all(&to.bytes()[..EDIT]).unwrap();
        }
        Change::Append { path, from, to } => {
            let log = std::fs::File::options().append(true).open(tree.join(path));
            log.unwrap().write_all(&to.bytes()[*from..]).unwrap();
        }
        Change::Move { from, to } => std::fs::rename(tree.join(from), tree.join(to)).unwrap(),
        Change::Remove(path) => std::fs::remove_file(tree.join(path)).unwrap(),
    }
}

/// What is wrong with these files where everything up to `old` was acknowledged, and the one operation that leads to `new` was
/// perhaps under way: each file must be wholly the old or the new one, and no content that both have may be lost.
pub fn faults(found: &BTreeMap<String, Vec<u8>>, old: &Model, new: &Model) -> Vec<String> {
    let mut faults = Vec::new();
    let paths: BTreeSet<&String> = found.keys().chain(old.keys()).chain(new.keys()).collect();
    let mut there: BTreeSet<&Content> = BTreeSet::new();
    for path in paths {
        let may = [old.get(path), new.get(path)];
        let is = found.get(path);
        let which = may
            .iter()
            .find(|may| may.map(|content| content.bytes()).as_ref() == is);
        match (which, is) {
            (Some(content), _) => there.extend(content.iter().copied()),
            (None, None) => faults.push(format!("{path} is not there")),
            // What grows may be any beginning of the new version that is not shorter than the old one.
            (None, Some(bytes)) if path == LOG && is_between(bytes, may) => {}
            (None, Some(bytes)) => {
                let zeros = bytes.iter().filter(|byte| **byte == 0).count();
                let size = bytes.len();
                faults.push(format!(
                    "{path} is neither old nor new: {size} bytes, {zeros} of them zero, not {may:?}"
                ));
            }
        }
    }
    let after: BTreeSet<&Content> = new.values().collect();
    let lost = old
        .iter()
        .filter(|(_, c)| after.contains(c) && !there.contains(c));
    faults.extend(lost.map(|(path, _)| format!("what was in {path} has no name")));
    faults
}

fn is_between(bytes: &[u8], [old, new]: [Option<&Content>; 2]) -> bool {
    let (Some(old), Some(new)) = (old, new) else {
        return false;
    };
    bytes.len() >= old.size && new.bytes().starts_with(bytes)
}
