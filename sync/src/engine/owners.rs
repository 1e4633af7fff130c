//! Owners by name, for trees that ask for it: names go out with records, and come in as this node's numbers.

use super::shared::Shared;
use crate::entry::{Meta, State};
use crate::owners::{Lacks, Names};
use crate::tree::{Owners, TreeId};
use crate::wire::{Record, VerifyEntry};

impl Shared {
    fn by_name(&self, tree: TreeId) -> bool {
        let trees = self.trees();
        let config = trees.iter().find(|t| t.id() == tree);
        config.is_some_and(|t| t.owners == Owners::Name)
    }

    /// The names that go with a state that is sent.
    pub(crate) fn names_of(&self, tree: TreeId, state: Option<&State>) -> Option<Names> {
        self.names_in(tree, &state?.meta)
    }

    /// The names of the numbers in `meta`, if the owners of the tree go by name.
    pub(crate) fn names_in(&self, tree: TreeId, meta: &Meta) -> Option<Names> {
        if !self.by_name(tree) {
            return None;
        }
        let unread = || Names::unread(Lacks::Theirs);
        Some(self.accounts.now().map_or_else(unread, |a| a.names(meta)))
    }

    /// Gives what was received the numbers of this node. The names that stay are not known here.
    pub(crate) fn own_owners(&self, records: &mut [Record]) {
        for record in records {
            self.own_owner(record.tree, record.state.as_mut(), &mut record.names);
        }
    }

    /// The same for a part of a comparison.
    pub(crate) fn own_owners_of(&self, tree: TreeId, entries: &mut [VerifyEntry]) {
        for entry in entries {
            self.own_owner(tree, Some(&mut entry.state), &mut entry.names);
        }
    }

    fn translated(&self, meta: &mut Meta, sent: &Names) -> Result<(), Names> {
        match self.accounts.now() {
            Some(accounts) => accounts.translate(meta, sent),
            None => Err(Names::unread(Lacks::Ours)),
        }
    }

    fn own_owner(&self, tree: TreeId, state: Option<&mut State>, names: &mut Option<Names>) {
        let sent = names.take();
        if let Some(state) = state {
            *names = self.own_meta(tree, &mut state.meta, sent);
        }
    }

    /// Gives `meta` the numbers of this node. The names that are given back are not known here.
    pub(crate) fn own_meta(
        &self,
        tree: TreeId,
        meta: &mut Meta,
        sent: Option<Names>,
    ) -> Option<Names> {
        let sent = sent.filter(|_| self.by_name(tree))?;
        self.translated(meta, &sent).err()
    }
}
