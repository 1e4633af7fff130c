//! Random changes of a model source, planned and carried out on a model receiver by the rules of a real file system.

use super::*;
use crate::entry::tests::file;
use proptest::prelude::*;

/// A file system: names to inodes; further names share one.
#[derive(Debug, Clone, Default)]
struct Disk {
    names: BTreeMap<RelPath, u64>,
    inodes: BTreeMap<u64, State>,
    last: u64,
}

impl Disk {
    fn add(&mut self, path: &RelPath, state: State) {
        self.last += 1;
        self.names.insert(path.clone(), self.last);
        self.inodes.insert(self.last, state);
    }

    fn at(&self, path: &RelPath) -> Option<&State> {
        self.names.get(path).map(|ino| &self.inodes[ino])
    }

    fn is_dir(&self, path: &RelPath) -> bool {
        path.is_root() || self.at(path).is_some_and(|s| s.kind.is_dir())
    }

    fn remove(&mut self, path: &RelPath) {
        self.names.retain(|p, _| !p.is_at_or_below(path));
    }

    /// What a scan makes of it: the first name of an inode is the file, the others point to it.
    fn scan(&self) -> BTreeMap<RelPath, State> {
        let mut first: BTreeMap<u64, &RelPath> = BTreeMap::new();
        let mut seen = BTreeMap::new();
        for (path, ino) in &self.names {
            let mut state = self.inodes[ino].clone();
            match first.get(ino) {
                Some(to) => state.kind = Kind::HardLink { to: (*to).clone() },
                None => drop(first.insert(*ino, path)),
            }
            seen.insert(path.clone(), state);
        }
        seen
    }

    /// Carries out one step as a kernel would, and complains where it would.
    fn take(&mut self, step: &Step) -> Result<(), String> {
        let path = &step.path;
        let parent = path.parent().unwrap_or_default();
        if !self.is_dir(&parent) && !matches!(step.action, Action::RemoveFile | Action::RemoveDir) {
            return Err(format!("{step:?}: no directory above"));
        }
        let here = self.at(path).cloned();
        let is_dir = here.as_ref().is_some_and(|s| s.kind.is_dir());
        match &step.action {
            Action::RemoveFile if is_dir => return Err(format!("{step:?}: is a directory")),
            Action::RemoveFile => drop(self.names.remove(path)),
            Action::RemoveDir => {
                if here.is_some() && (!is_dir || self.names.keys().any(|p| p.is_below(path))) {
                    return Err(format!("{step:?}: not an empty directory"));
                }
                self.names.remove(path);
            }
            Action::MakeDir { .. } if is_dir => return Err(format!("{step:?}: exists")),
            Action::MakeDir { .. } => self.add(path, dir()),
            Action::Put(_) | Action::Link { .. } if is_dir => {
                return Err(format!("{step:?}: over a directory"));
            }
            Action::Put(state) => self.add(path, state.clone()),
            Action::Link { to } => {
                let ino = *self
                    .names
                    .get(to)
                    .ok_or_else(|| format!("{step:?}: no such file"))?;
                self.names.insert(path.clone(), ino);
            }
            Action::SetMeta(meta) | Action::FinishDir(meta) => {
                let ino = *self
                    .names
                    .get(path)
                    .ok_or_else(|| format!("{step:?}: no such entry"))?;
                self.inodes.get_mut(&ino).ok_or("no inode")?.meta = meta.clone();
            }
            Action::RestoreTime(_) if !is_dir && !path.is_root() => {
                return Err(format!("{step:?}: no directory"));
            }
            Action::RestoreTime(_) => {}
        }
        Ok(())
    }
}

impl Default for RelPath {
    fn default() -> Self {
        RelPath::root()
    }
}

#[derive(Debug, Clone)]
enum Op {
    Write(RelPath, u8),
    Dir(RelPath),
    Symlink(RelPath),
    Link(RelPath, RelPath),
    Remove(RelPath),
    Rename(RelPath, RelPath),
    Chmod(RelPath, u32),
}

fn any_path() -> impl Strategy<Value = RelPath> {
    proptest::collection::vec("[abc]", 1..4).prop_map(|c| p(&c.join("/")))
}

fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (any_path(), 0u8..4).prop_map(|(p, n)| Op::Write(p, n)),
        3 => any_path().prop_map(Op::Dir),
        1 => any_path().prop_map(Op::Symlink),
        3 => (any_path(), any_path()).prop_map(|(a, b)| Op::Link(a, b)),
        3 => any_path().prop_map(Op::Remove),
        2 => (any_path(), any_path()).prop_map(|(a, b)| Op::Rename(a, b)),
        1 => (any_path(), 0u32..0o777).prop_map(|(p, m)| Op::Chmod(p, m)),
    ]
}

/// What users do; what the kernel would refuse does nothing.
fn act(disk: &mut Disk, op: &Op) {
    let free = |disk: &Disk, path: &RelPath| {
        disk.is_dir(&path.parent().unwrap_or_default()) && !disk.is_dir(path)
    };
    match op {
        Op::Write(path, n) if free(disk, path) => {
            let content = file(&n.to_string());
            match disk.names.get(path).copied() {
                // In place: all names of the inode change.
                Some(ino) if n % 2 == 0 => drop(disk.inodes.insert(ino, content)),
                _ => disk.add(path, content),
            }
        }
        Op::Dir(path) if free(disk, path) && disk.at(path).is_none() => disk.add(path, dir()),
        Op::Symlink(path) if free(disk, path) => {
            let target = b"elsewhere".to_vec().try_into().unwrap();
            disk.add(
                path,
                State {
                    kind: Kind::Symlink { target },
                    meta: file("").meta,
                },
            );
        }
        Op::Link(from, to) if free(disk, to) => {
            if let Some(State {
                kind: Kind::File { .. },
                ..
            }) = disk.at(from)
            {
                let ino = disk.names[from];
                disk.names.insert(to.clone(), ino);
            }
        }
        Op::Remove(path) => disk.remove(path),
        Op::Rename(from, to)
            if disk.at(from).is_some() && free(disk, to) && !to.is_at_or_below(from) =>
        {
            let moved: Vec<_> = disk
                .names
                .iter()
                .filter(|(p, _)| p.is_at_or_below(from))
                .collect();
            let moved: Vec<(RelPath, u64)> = moved
                .into_iter()
                .map(|(p, ino)| {
                    let rest = &p.as_bytes()[from.as_bytes().len()..];
                    (RelPath::new([to.as_bytes(), rest].concat()).unwrap(), *ino)
                })
                .collect();
            disk.remove(from);
            disk.names.extend(moved);
        }
        Op::Chmod(path, mode) => {
            if let Some(ino) = disk.names.get(path).copied() {
                disk.inodes.get_mut(&ino).unwrap().meta.mode = *mode;
            }
        }
        _ => {}
    }
}

/// The records between two scans.
fn differences(
    before: &BTreeMap<RelPath, State>,
    after: &BTreeMap<RelPath, State>,
) -> Vec<(RelPath, Option<State>)> {
    let paths: BTreeSet<&RelPath> = before.keys().chain(after.keys()).collect();
    let differs = |p: &&&RelPath| before.get(**p) != after.get(**p);
    paths
        .iter()
        .filter(differs)
        .map(|p| ((*p).clone(), after.get(*p).cloned()))
        .collect()
}

/// Cuts records into batches in a random order, with parents and first names ahead, as a source sends them.
fn batches(
    mut records: Vec<(RelPath, Option<State>)>,
    all: &BTreeMap<RelPath, State>,
    order: &[u16],
    size: usize,
) -> Vec<BTreeMap<RelPath, Option<State>>> {
    let mut keyed: Vec<_> = records
        .drain(..)
        .enumerate()
        .map(|(n, r)| (order[n % order.len()], r))
        .collect();
    keyed.sort_by_key(|(key, _)| *key);
    let mut result = Vec::new();
    for chunk in keyed.chunks(size) {
        let mut batch: BTreeMap<RelPath, Option<State>> =
            chunk.iter().map(|(_, r)| r.clone()).collect();
        // What is gone needs nothing to be there.
        let early: Vec<RelPath> = batch
            .iter()
            .filter(|(_, state)| state.is_some())
            .flat_map(|(path, state)| {
                let to = match state.as_ref().map(|s| &s.kind) {
                    Some(Kind::HardLink { to }) => vec![to.clone()],
                    _ => vec![],
                };
                let above: Vec<RelPath> = to.iter().flat_map(RelPath::ancestors).collect();
                path.ancestors().chain(to).chain(above).collect::<Vec<_>>()
            })
            .collect();
        for path in early {
            if let Some(state) = all.get(&path) {
                batch.insert(path, Some(state.clone()));
            }
        }
        result.push(batch);
    }
    result
}

fn apply(
    disk: &mut Disk,
    known: &mut Index,
    batch: &BTreeMap<RelPath, Option<State>>,
) -> Result<(), String> {
    let none = Filter::default();
    let incoming: Vec<_> = batch
        .iter()
        .map(|(path, state)| Incoming {
            path,
            state: state.as_ref(),
        })
        .collect();
    let policy = Policy {
        deletes: Deletes::Mirror,
        protect: &none,
        exclude: &none,
    };
    let plan = plan(&incoming, policy, known).map_err(|e| e.to_string())?;
    if !plan.skipped.is_empty() {
        return Err(format!("skipped {:?}", plan.skipped));
    }
    for step in &plan.steps {
        disk.take(step)?;
    }
    for (path, state) in batch {
        let local = disk.names.get(path).map(|ino| key(*ino));
        known
            .0
            .insert(path.clone(), IndexEntry::received(state.clone(), 1, local));
    }
    // Names that were linked again have a new inode.
    for step in plan
        .steps
        .iter()
        .filter(|s| matches!(s.action, Action::Link { .. }))
    {
        if let Some(entry) = known.0.get_mut(&step.path) {
            entry.local = disk.names.get(&step.path).map(|ino| key(*ino));
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]
    #[test]
    fn a_receiver_becomes_equal(
        rounds in proptest::collection::vec(proptest::collection::vec(any_op(), 1..14), 1..4),
        order in proptest::collection::vec(any::<u16>(), 1..20),
        size in 1usize..12,
    ) {
        let (mut source, mut receiver, mut known) = (Disk::default(), Disk::default(), Index::default());
        let mut before = source.scan();
        for ops in &rounds {
            ops.iter().for_each(|op| act(&mut source, op));
            let after = source.scan();
            for batch in batches(differences(&before, &after), &after, &order, size) {
                if let Err(error) = apply(&mut receiver, &mut known, &batch) {
                    prop_assert!(false, "{}\nbatch {:?}\nreceiver {:?}", error, batch, receiver.scan());
                }
            }
            prop_assert_eq!(&receiver.scan(), &after);
            before = after;
        }
    }
}
