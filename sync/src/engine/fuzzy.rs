//! Files of which a receiver has only what was read while they were written: a state that may never have existed.
//!
//! The source tells which files never rest ([`restless`](super::restless)). A receiver marks them before their content can
//! come, durably, and lets go of a mark when what came after the file had come to rest is applied. So a standby that takes over
//! knows which of its files may be torn, says so with an alarm, and keeps saying it until each of them is written again or
//! removed.

use super::clock;
use super::dirty::Dirt;
use super::shared::Shared;
use super::status::Mode;
use super::tree::{MAX_NAMED, Tree};
use super::worker::Worker;
use crate::index::IndexError;
use crate::path::RelPath;
use crate::tree::TreeId;
use crate::wire::{Fuzzy, LIST_BYTES, MAX_PATHS};
use std::collections::BTreeSet;
use std::sync::Arc;

/// The marks of a tree.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    /// Files that are marked here, at most [`MAX_NAMED`]. Durable on a receiver; on a source those that it had when it became
    /// one.
    here: BTreeSet<RelPath>,
    /// Files without a name in the list, by the source's word.
    more: u64,
    /// The source's newest list, until everything up to its number is applied.
    next: Option<Fuzzy>,
    /// What a source told last. Durable.
    told: BTreeSet<RelPath>,
    /// Of what this node told before it began anew as source, what it has not looked at since. Until then nobody can say
    /// whether it has come to rest.
    owed: BTreeSet<RelPath>,
}

impl Marks {
    /// What is marked.
    pub fn here(&self) -> &BTreeSet<RelPath> {
        &self.here
    }

    /// Marks what a list names, and counts what has no room. True: the marks are other ones.
    fn add(&mut self, list: &Fuzzy) -> bool {
        let before = (self.here.len(), self.more);
        let mut more = list.more;
        for path in &list.paths {
            match self.here.len() < MAX_NAMED || self.here.contains(path) {
                true => drop(self.here.insert(path.clone())),
                false => more = more.saturating_add(1),
            }
        }
        self.more = self.more.max(more);
        before != (self.here.len(), self.more)
    }

    /// A rename that concerns one of them is not carried out as one: the marks go by name.
    pub fn are_in_the_way(&self, from: &RelPath, to: &RelPath) -> bool {
        let concerns = |path: &RelPath| path.is_at_or_below(from) || path.is_at_or_below(to);
        self.here.iter().any(concerns)
    }
}

impl Tree {
    /// Files of this tree of which a receiver may have no state that existed.
    pub(super) fn fuzzy_paths(&self) -> BTreeSet<RelPath> {
        let Marks { here, owed, .. } = &self.marks;
        self.fuzzy.iter().chain(here).chain(owed).cloned().collect()
    }

    /// How many more there are, without a name here.
    pub(super) fn fuzzy_more(&self) -> u64 {
        self.marks.more.saturating_add(self.fuzzy_beyond())
    }

    /// The tree is sent in sets from here on: only a set shows what has come to rest.
    pub(super) fn owe_fuzzy(&mut self) {
        self.marks.owed.append(&mut self.fuzzy);
    }

    /// Source: what a look must be taken at, whatever the index says of it.
    pub(super) fn owed(&self) -> &BTreeSet<RelPath> {
        &self.marks.owed
    }

    /// Source: a set was taken, for which these were read.
    pub(super) fn read_in_set(&mut self, paths: &BTreeSet<RelPath>) {
        self.marks.owed.retain(|path| !paths.contains(path));
    }

    /// Source: these were looked at, whatever was found. What does not rest is restless at once, as it was.
    pub(super) fn looked_at<'p>(&mut self, paths: impl Iterator<Item = &'p (RelPath, Dirt)>) {
        for (path, _) in paths.filter(|(_, dirt)| dirt.force) {
            if self.marks.owed.remove(path) && self.later.contains_key(path) {
                self.note_fuzzy(path.clone());
            }
        }
    }
}

/// A list as it is told, whose names fit into one message. `beyond` are not even among these.
fn list(tree: TreeId, paths: &BTreeSet<RelPath>, beyond: u64, upto: u64) -> Fuzzy {
    let mut bytes = 0;
    let fits = |path: &&RelPath| {
        bytes += path.as_bytes().len() + 8;
        bytes < LIST_BYTES
    };
    let named = paths.iter().take(MAX_PATHS).take_while(fits);
    let named: Vec<RelPath> = named.cloned().collect();
    Fuzzy {
        tree,
        upto,
        more: beyond.saturating_add((paths.len() - named.len()) as u64),
        paths: named,
    }
}

impl Worker {
    /// Source: what became restless is told before anything that was read of it can be sent.
    pub(super) fn tell_new_fuzzy(&mut self, at: usize) {
        let tree = &self.trees[at];
        if tree.fuzzy.is_subset(&tree.marks.told) {
            return;
        }
        let all: BTreeSet<RelPath> = tree.fuzzy.union(&tree.marks.told).cloned().collect();
        self.tell_fuzzy(at, all);
    }

    /// Source: what has come to rest is told behind what was read of it then.
    pub(super) fn tell_rested(&mut self, at: usize) {
        let all = self.trees[at].fuzzy_paths();
        if all != self.trees[at].marks.told {
            self.tell_fuzzy(at, all);
        }
    }

    fn tell_fuzzy(&mut self, at: usize, all: BTreeSet<RelPath>) {
        if !matches!(self.mode, Mode::Source { .. }) {
            return;
        }
        let id = self.trees[at].id;
        let beyond = self.trees[at].fuzzy_more();
        let new = list(id, &all, beyond, *self.shared.head.borrow());
        if all != self.trees[at].marks.told {
            // Before it is told: who begins anew as source must not tell less.
            let key = told_key(id);
            let kept = self.shared.index.write(|w| match all.is_empty() {
                true => w.remove_value(&key),
                false => w.put_value(&key, &all),
            });
            if let Err(error) = kept {
                return self.index_failed(&error);
            }
            self.trees[at].marks.told = all;
        }
        self.shared.fuzzy.send_modify(|lists| {
            let others = lists.iter().filter(|list| list.tree != id);
            *lists = Arc::new(others.cloned().chain([new]).collect());
        });
    }

    /// Replica: the source's list. New marks are durable before anything else that it sends is applied.
    pub(super) fn mark_fuzzy(&mut self, list: Fuzzy) -> Result<(), IndexError> {
        let Some(at) = self.position(list.tree) else {
            return Ok(());
        };
        let marks = &mut self.trees[at].marks;
        let grew = marks.add(&list);
        marks.next = Some(list);
        if grew {
            self.write_marks(at)?;
        }
        let applied = self.shared.index.snapshot()?.last_seq();
        self.let_go_of_marks(applied)
    }

    /// Replica: everything up to this number is applied.
    pub(super) fn let_go_of_marks(&mut self, applied: u64) -> Result<(), IndexError> {
        for at in 0..self.trees.len() {
            let marks = &mut self.trees[at].marks;
            let Some(list) = marks.next.take_if(|list| list.upto <= applied) else {
                continue;
            };
            let here: BTreeSet<RelPath> = list.paths.into_iter().collect();
            if (&here, list.more) != (&marks.here, marks.more) {
                (marks.here, marks.more) = (here, list.more);
                self.write_marks(at)?;
            }
        }
        Ok(())
    }

    /// Source: these were written again, or are gone.
    pub(super) fn unmark<'p>(
        &mut self,
        at: usize,
        paths: impl Iterator<Item = &'p RelPath>,
    ) -> Result<(), IndexError> {
        let marks = &mut self.trees[at].marks;
        let before = marks.here.len();
        for path in paths {
            marks.here.remove(path);
        }
        if marks.here.len() == before {
            return Ok(());
        }
        if marks.here.is_empty() {
            marks.more = 0;
        }
        self.write_marks(at)?;
        self.alarm_marks(at);
        self.tell_rested(at);
        Ok(())
    }

    fn write_marks(&mut self, at: usize) -> Result<(), IndexError> {
        let Tree { id, marks, .. } = &self.trees[at];
        let (key, value) = (marks_key(*id), (&marks.here, marks.more));
        self.shared.index.write(|w| match marks.here.is_empty() {
            true => w.remove_value(&key),
            false => w.put_value(&key, &value),
        })?;
        self.touch();
        Ok::<(), IndexError>(())
    }

    /// What a former process marked.
    pub(super) fn load_marks(&mut self) {
        let Ok(snapshot) = self.shared.index.snapshot() else {
            return;
        };
        for tree in &mut self.trees {
            let known = snapshot.value(&marks_key(tree.id)).ok().flatten();
            (tree.marks.here, tree.marks.more) = known.unwrap_or_default();
        }
    }

    /// The role is another one: a source says what it was left with, and a receiver forgets what it told.
    pub(super) fn turn_marks(&mut self) {
        self.shared.fuzzy.send_replace(Arc::default());
        for at in 0..self.trees.len() {
            if let Err(error) = self.turn_told(at) {
                self.index_failed(&error);
            }
            self.alarm_marks(at);
            // Also if there is none: what a receiver has marked may have come to rest without its hearing of it.
            let all = self.trees[at].fuzzy_paths();
            self.tell_fuzzy(at, all);
        }
    }

    /// Source: trees that come while it is one. What was told of them before they went holds until it is looked at.
    pub(super) fn begin_marks(&mut self, added: &[TreeId]) -> Result<(), IndexError> {
        if !matches!(self.mode, Mode::Source { .. }) {
            return Ok(());
        }
        for at in 0..self.trees.len() {
            if added.contains(&self.trees[at].id) {
                self.turn_told(at)?;
                self.alarm_marks(at);
                let all = self.trees[at].fuzzy_paths();
                self.tell_fuzzy(at, all);
            }
        }
        Ok(())
    }

    fn turn_told(&mut self, at: usize) -> Result<(), IndexError> {
        let tree = &mut self.trees[at];
        let (key, marks) = (told_key(tree.id), &mut tree.marks);
        marks.next = None;
        // What never rested is looked at anew, or is the other side's to say now.
        tree.fuzzy.clear();
        (marks.told, marks.owed) = Default::default();
        let told: Option<BTreeSet<RelPath>> = self.shared.index.snapshot()?.value(&key)?;
        match (&self.mode, told) {
            (Mode::Source { .. }, Some(told)) => {
                let marks = &mut tree.marks;
                marks.owed = told.difference(&marks.here).cloned().collect();
                marks.told = told;
            }
            (Mode::Replica, Some(_)) => self.shared.index.write(|w| w.remove_value(&key))?,
            _ => {}
        }
        Ok(())
    }

    /// Source: has a look taken at what was restless when it began. What the scan does not find changed is read too.
    pub(super) fn look_at_owed(&mut self) {
        if !matches!(self.mode, Mode::Source { .. }) {
            return;
        }
        let mut any = false;
        for tree in &mut self.trees {
            // A tree that is sent in sets is looked at by its passes only.
            if tree.moves() && !tree.is_scanned() && !tree.is_in_sets() {
                for path in tree.marks.owed.clone() {
                    tree.mark(path, Dirt::FORCED);
                    any = true;
                }
            }
        }
        if any {
            self.due_at(clock::now());
        }
    }

    fn alarm_marks(&self, at: usize) {
        let tree = &self.trees[at];
        let why = match (&self.mode, tree.marks.here.first()) {
            (Mode::Source { .. }, Some(first)) => {
                let files = tree.marks.here.len() as u64 + tree.marks.more;
                let text = format!(
                    "{files} file(s) came from a master that was writing them and may be torn, the first: {first}; each is let \
                     go when it is written again or removed"
                );
                Some(text)
            }
            _ => None,
        };
        self.shared.alarm(Some(&tree.config.name), "fuzzy", why);
    }
}

/// The lists that a session has to tell to a receiver of these trees, of those that it has not told yet.
pub(crate) fn untold(shared: &Shared, told: &[Fuzzy], gets: impl Fn(TreeId) -> bool) -> Vec<Fuzzy> {
    let lists = Arc::clone(&shared.fuzzy.borrow());
    let new = lists
        .iter()
        .filter(|list| gets(list.tree) && !told.contains(list));
    new.cloned().collect()
}

/// Where it is kept in the index what a source told.
fn told_key(tree: TreeId) -> String {
    format!("restless/{tree}")
}

/// Where the marks are kept in the index.
fn marks_key(tree: TreeId) -> String {
    format!("fuzzy/{tree}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_fits_into_a_message_and_counts_the_rest() {
        let path = |n: usize| RelPath::new(format!("{}/{n:03}", "d".repeat(200))).expect("valid");
        let few: BTreeSet<RelPath> = (0..10).map(path).collect();
        let told = list(TreeId::of("t"), &few, 0, 7);
        assert_eq!((told.paths.len(), told.more, told.upto), (10, 0, 7));
        let long = |n: usize| {
            let part = format!("{n:03}{}", "x".repeat(240));
            RelPath::new(vec![part; 20].join("/")).expect("valid")
        };
        let many: BTreeSet<RelPath> = (0..400).map(long).collect();
        let told = list(TreeId::of("t"), &many, 0, 7);
        assert!(told.more > 0 && told.paths.len() as u64 + told.more == 400);
        let message = crate::wire::Message::Fuzzy(told);
        assert!(crate::wire::encode(&message).expect("it fits").len() < crate::wire::MAX_FRAME);
        let short = |n: usize| RelPath::new(n.to_string()).expect("valid");
        let told = list(TreeId::of("t"), &(0..2000).map(short).collect(), 5, 7);
        assert_eq!((told.paths.len(), told.more), (MAX_PATHS, 981));
    }

    #[test]
    fn a_source_that_names_ever_more_takes_no_more_memory() {
        let mut marks = Marks::default();
        for round in 0..20 {
            let path = |n: usize| RelPath::new(format!("{round}/{n}")).expect("valid");
            let named: BTreeSet<RelPath> = (0..MAX_PATHS).map(path).collect();
            marks.add(&list(TreeId::of("t"), &named, 0, 7));
        }
        assert_eq!(marks.here.len(), MAX_NAMED);
        assert!(marks.more > 0);
    }
}
