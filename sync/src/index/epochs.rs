//! Heads: how a node begins to write, begins to receive, and moves on. All of it durable with its transaction.

use super::meta::{self, Mode, Unreplicated};
use super::write::Writer;
use super::{IndexError, read};
use crate::entry::{Acked, Base, Basis, IndexEntry};
use crate::lineage::{Branch, EpochId, Head, Lineage, NodeName};
use crate::path::RelPath;
use crate::tree::TreeId;
use redb::ReadableTable;

/// Rows that are read at once while numbers are taken away. Bounds the memory.
const CHUNK: usize = 4096;

/// What becomes of entries that lose their number.
#[derive(Clone, Copy)]
enum Lost {
    /// They are put on the list of what is unreplicated, given what the peer has.
    Listed(Acked),
    /// They are of no history: the tree has none.
    Unlisted,
}

impl Writer<'_> {
    /// Where a tree is.
    pub fn head(&self, tree: TreeId) -> Result<Head, IndexError> {
        let mut head = meta::read_head(&self.tables.meta, tree)?;
        if meta::read_position(&self.tables.meta, tree)?.writing {
            head.seq = self.numbers.last_seq;
        }
        Ok(head)
    }

    /// A source's position is the newest number in all its trees: they share one sequence.
    pub(super) fn move_positions(&mut self) -> Result<(), IndexError> {
        for (tree, mut position) in meta::read_positions(&self.tables.meta)? {
            if position.writing && position.seq != self.numbers.last_seq {
                position.seq = self.numbers.last_seq;
                meta::write_position(&mut self.tables.meta, tree, &position)?;
            }
        }
        Ok(())
    }

    /// The very first epoch of one tree. From now on this node writes it.
    pub fn init(
        &mut self,
        tree: TreeId,
        id: EpochId,
        term: u64,
        node: &NodeName,
    ) -> Result<Head, IndexError> {
        let old = self.head(tree)?;
        let new = old.init(id, term, node.clone(), self.next_number())?;
        meta::write_head(&mut self.tables.meta, tree, &old, &new, true)?;
        self.numbers.mode = Mode::Writing;
        Ok(new)
    }

    /// New epochs for these trees, all of them born: from now on this node writes them. What it received counts as
    /// acknowledged, for the peer had it before. The epochs begin with a number of their own, so that a source's
    /// position always is the newest number.
    pub fn begin(
        &mut self,
        epochs: &[(TreeId, EpochId)],
        term: u64,
        node: &NodeName,
    ) -> Result<Vec<Head>, IndexError> {
        if self.numbers.mode == Mode::Receiving {
            self.numbers.acked.advance(self.numbers.last_seq);
        }
        let old: Vec<Head> = epochs
            .iter()
            .map(|(tree, _)| self.head(*tree))
            .collect::<Result<_, _>>()?;
        let seq = self.next_number();
        let mut heads = Vec::with_capacity(old.len());
        for ((tree, id), old) in epochs.iter().zip(old) {
            let mut new = old.begin(*id, term, node.clone())?;
            new.wrote(seq);
            meta::write_head(&mut self.tables.meta, *tree, &old, &new, true)?;
            heads.push(new);
        }
        self.numbers.mode = Mode::Writing;
        Ok(heads)
    }

    fn next_number(&mut self) -> u64 {
        self.numbers.last_seq += 1;
        self.numbers.last_seq
    }

    /// From now on this node receives: local changes get no number, and what was found in trees without any epoch is of
    /// no history.
    pub fn start_receiving(&mut self) -> Result<(), IndexError> {
        self.move_positions()?;
        let mut unborn = Vec::new();
        for (tree, mut position) in meta::read_positions(&self.tables.meta)? {
            position.writing = false;
            meta::write_position(&mut self.tables.meta, tree, &position)?;
        }
        for tree in meta::read_counted(&self.tables.meta)?
            .into_iter()
            .chain(self.counted())
        {
            if !unborn.contains(&tree)
                && meta::read_head(&self.tables.meta, tree)?
                    .lineage
                    .is_unborn()
            {
                unborn.push(tree);
            }
        }
        for tree in unborn {
            self.take_numbers(tree, 1, Lost::Unlisted)?;
        }
        self.numbers.mode = Mode::Receiving;
        Ok(())
    }

    /// Invariant 2: nothing of the peer's is taken while this node writes, whatever order messages come in.
    pub(super) fn must_receive(&self) -> Result<(), IndexError> {
        if self.numbers.mode == Mode::Receiving {
            Ok(())
        } else {
            Err(IndexError::NotReceiving)
        }
    }

    /// This node becomes the receiver of a tree, after [`Writer::start_receiving`]: what it has past `to` is put on the list of what is unreplicated and
    /// loses its number. Before anything is applied. Gives the number of paths listed.
    pub fn rewind(&mut self, tree: TreeId, to: Branch) -> Result<u64, IndexError> {
        self.must_receive()?;
        let old = self.head(tree)?;
        let new = old.rewind(to)?;
        let acked = Acked {
            upto: to.seq,
            ..self.numbers.acked
        };
        let listed = self.take_numbers(tree, to.seq + 1, Lost::Listed(acked))?;
        meta::write_head(&mut self.tables.meta, tree, &old, &new, false)?;
        Ok(listed)
    }

    /// Everything of the source's `lineage` up to `upto` has been applied to a tree and is durable there.
    pub fn advance(
        &mut self,
        tree: TreeId,
        source: &Lineage,
        upto: u64,
        caught_up: bool,
    ) -> Result<Head, IndexError> {
        self.must_receive()?;
        let old = self.head(tree)?;
        let new = old.advance(source, upto, caught_up)?;
        meta::write_head(&mut self.tables.meta, tree, &old, &new, false)?;
        self.numbers.last_seq = self.numbers.last_seq.max(upto);
        Ok(new)
    }

    /// This node is about to be brought up to date; until then its files are of different moments.
    pub fn fall_behind(&mut self, tree: TreeId) -> Result<Head, IndexError> {
        let old = self.head(tree)?;
        let new = old.behind();
        meta::write_head(&mut self.tables.meta, tree, &old, &new, false)?;
        Ok(new)
    }

    /// `tandem adopt`: the tree's own history is given up. It is unborn, and what lies in it is of no history.
    pub fn forget_tree(&mut self, tree: TreeId) -> Result<(), IndexError> {
        let old = self.head(tree)?;
        self.take_numbers(tree, 1, Lost::Unlisted)?;
        meta::write_head(&mut self.tables.meta, tree, &old, &Head::default(), false)
    }

    /// Takes the numbers from `first` on away from the entries of a tree. Gives how many were listed.
    fn take_numbers(&mut self, tree: TreeId, first: u64, lost: Lost) -> Result<u64, IndexError> {
        let mut listed = 0;
        let mut next = first;
        loop {
            let mut rows: Vec<(u64, Vec<u8>)> = Vec::new();
            for row in self.tables.by_seq.range(next..)?.take(CHUNK) {
                let (seq, place) = row?;
                rows.push((seq.value(), place.value().to_vec()));
            }
            let Some((last, _)) = rows.last() else {
                return Ok(listed);
            };
            next = last + 1;
            for (_, place) in &rows {
                let (owner, path) = self.places.read(place)?;
                if owner == tree {
                    listed += u64::from(self.take_number(tree, &path, place, lost)?);
                }
            }
        }
    }

    fn take_number(
        &mut self,
        tree: TreeId,
        path: &RelPath,
        place: &[u8],
        lost: Lost,
    ) -> Result<bool, IndexError> {
        let Some(entry) = read::get(&self.tables.entries, place)? else {
            return Ok(false);
        };
        let mut listed = false;
        if let Lost::Listed(acked) = lost
            && (entry.current.is_none() || entry.is_unreplicated(&acked))
        {
            let record = Unreplicated {
                ours: entry.current.clone(),
                base: base_of(&entry, &acked),
            };
            self.list_unreplicated(tree, path, &record)?;
            listed = true;
        }
        let bare = IndexEntry {
            seq: 0,
            base: Base::Never,
            ..entry.clone()
        };
        // A tombstone without a number says nothing.
        let kept = bare.current.is_some().then_some(&bare);
        self.replace(tree, path, place, Some(&entry), kept)?;
        Ok(listed)
    }
}

/// All of it is past the branch point: the peer has at most what came before.
fn base_of(entry: &IndexEntry, acked: &Acked) -> Base {
    match entry.basis(acked) {
        Basis::Current => Base::Was(entry.current.clone().map(Box::new)),
        // What was acknowledged is written down later than the peer says it, so the peer may have what was deleted.
        Basis::Never if entry.current.is_none() => Base::Unknown,
        Basis::Never => Base::Never,
        Basis::Was(state) => Base::Was(state.cloned().map(Box::new)),
        Basis::Unknown => Base::Unknown,
    }
}
