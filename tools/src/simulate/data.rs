//! A node's data: trees with the real lineages of `sync`, files that the page cache may lose, an index, a rescue.
//!
//! Every write makes a file of its own, so "the write is there" is "the file is there".

mod receive;

use std::collections::{BTreeMap, BTreeSet};
use tandem_sync::lineage::{CopyState, EpochId, Head, Lineage, NodeHeads, NodeName, TreeHead};
use tandem_sync::tree::TreeId;

/// Trees of the pair.
pub const TREES: usize = 2;

/// What the index says of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Number of its last change.
    pub seq: u64,
    /// False: a tombstone.
    pub live: bool,
}

/// One tree of one node.
#[derive(Debug, Clone)]
pub struct Tree {
    id: TreeId,
    /// The durable position.
    pub head: Head,
    index: BTreeMap<u64, Entry>,
    /// Files by the id of their write; whether a power cut leaves them.
    pub files: BTreeMap<u64, bool>,
    /// Paths whose version the source must be asked for.
    want: BTreeSet<u64>,
    /// The identity of the root is proven (marker and file system UUID).
    pub proven: bool,
}

/// One change as it travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    tree: usize,
    id: u64,
    entry: Entry,
}

/// What a source sends at once.
#[derive(Debug, Clone)]
pub struct Batch {
    lineages: [Lineage; TREES],
    base: [u64; TREES],
    changes: Vec<Change>,
    /// Everything up to here has arrived with it.
    pub upto: u64,
    /// That is all that the source had.
    pub caught_up: bool,
}

/// All of a node's data. Index and rescue are durable at once.
#[derive(Debug, Clone)]
pub struct Data {
    /// Whose.
    pub node: NodeName,
    /// The trees.
    pub trees: [Tree; TREES],
    /// Last number that was given out or received.
    pub last_seq: u64,
    /// The index gives numbers to local changes.
    pub writing: bool,
    /// Ids of writes in the rescue.
    pub rescue: BTreeSet<u64>,
}

impl Data {
    /// Unborn and empty.
    pub fn new(node: NodeName) -> Self {
        let tree = |name| Tree {
            id: TreeId::of(name),
            head: Head::default(),
            index: BTreeMap::new(),
            files: BTreeMap::new(),
            want: BTreeSet::new(),
            proven: true,
        };
        Self {
            node,
            trees: [tree("www"), tree("home")],
            last_seq: 0,
            writing: false,
            rescue: BTreeSet::new(),
        }
    }

    /// The index is gone, the files are not.
    pub fn forget(&mut self) {
        for tree in &mut self.trees {
            tree.head = Head::default();
            tree.index.clear();
            tree.want.clear();
        }
        self.writing = false;
    }

    /// As the peer hears of it.
    pub fn heads(&self) -> NodeHeads {
        let trees = self.trees.iter().map(|t| TreeHead {
            tree: t.id,
            head: t.head.clone(),
            empty: t.files.is_empty(),
        });
        // Two trees with different names: neither too many nor one twice.
        NodeHeads::new(self.node.clone(), trees.collect()).expect("two different trees")
    }

    /// R5.
    pub fn born(&self) -> bool {
        self.trees.iter().all(|t| !t.head.lineage.is_unborn())
    }

    /// R3: every tree is complete and its root proven.
    pub fn consistent(&self) -> bool {
        let whole = |t: &Tree| t.head.state == CopyState::Consistent && t.proven;
        self.trees.iter().all(whole)
    }

    /// The trees that are not complete were complete once.
    pub fn catching_up_only(&self) -> bool {
        let fair = |t: &Tree| t.proven && t.head.state >= CopyState::CatchingUp;
        self.trees.iter().all(fair)
    }

    /// Equal on two nodes exactly if all heads are in the same epochs.
    pub fn digest(&self) -> u64 {
        self.trees.iter().fold(0, |sum, t| {
            let id = t.head.lineage.head().map_or(0, |epoch| epoch.id.0);
            (sum ^ (id as u64) ^ (id >> 64) as u64).wrapping_mul(0x100_0000_01b3)
        })
    }

    /// A file that was written here.
    pub fn write(&mut self, tree: usize, id: u64, synced: bool) {
        self.trees[tree].files.insert(id, synced);
    }

    /// The page cache is written out.
    pub fn sync(&mut self) {
        let files = self.trees.iter_mut().flat_map(|t| t.files.values_mut());
        files.for_each(|synced| *synced = true);
    }

    /// The power goes: what was lost.
    pub fn power_cut(&mut self) -> Vec<u64> {
        let mut lost = Vec::new();
        for tree in &mut self.trees {
            lost.extend(tree.files.iter().filter(|(_, s)| !**s).map(|(id, _)| *id));
            tree.files.retain(|_, synced| *synced);
        }
        lost
    }

    /// As source: every change gets a number.
    pub fn scan(&mut self) {
        if !self.writing || !self.born() {
            return;
        }
        let mut last = self.last_seq;
        for tree in self.trees.iter_mut().filter(|t| t.proven) {
            let mut number = |live| {
                last += 1;
                Entry { seq: last, live }
            };
            for id in tree.files.keys() {
                if tree.index.get(id).is_none_or(|e| !e.live) {
                    tree.index.insert(*id, number(true));
                }
            }
            for (id, entry) in &mut tree.index {
                if entry.live && !tree.files.contains_key(id) {
                    *entry = number(false);
                }
            }
        }
        self.last_seq = last;
        for tree in &mut self.trees {
            tree.head.wrote(last);
        }
    }

    /// The very first epoch of every tree that has none (`tandem init --source`, or R2's exactly one side).
    pub fn init(&mut self, epochs: [u128; TREES]) {
        self.last_seq += 1;
        for (tree, id) in self.trees.iter_mut().zip(epochs) {
            if let Ok(head) = tree
                .head
                .init(EpochId(id), 1, self.node.clone(), self.last_seq)
            {
                tree.head = head;
            }
        }
        self.writing = true;
        self.scan();
    }

    /// This node becomes source with `term`; an agent that starts again in its own term goes on in its epoch.
    pub fn begin(&mut self, term: u64, epochs: [u128; TREES]) -> Result<(), String> {
        let own = |t: &Tree| {
            let head = t.head.lineage.head();
            head.is_some_and(|epoch| epoch.term == term && epoch.node == self.node)
        };
        if !self.born() {
            return Err("a tree is unborn".to_owned());
        }
        if !(self.writing && self.trees.iter().all(own)) {
            self.last_seq += 1;
            for (tree, id) in self.trees.iter_mut().zip(epochs) {
                let begun = tree.head.begin(EpochId(id), term, self.node.clone());
                tree.head = begun.map_err(|e| e.to_string())?;
                tree.head.wrote(self.last_seq);
                tree.want.clear();
            }
        }
        self.writing = true;
        self.scan();
        Ok(())
    }

    /// Writes that the index knows and the trees do not have.
    pub fn missing(&self) -> Vec<u64> {
        let gone = |t: &Tree| {
            let live = t.index.iter().filter(|(_, e)| e.live);
            let gone = live.filter(|(id, _)| !t.files.contains_key(id));
            gone.map(|(id, _)| *id).collect::<Vec<_>>()
        };
        self.trees.iter().flat_map(gone).collect()
    }

    /// Whether both hold the same files.
    pub fn same_files(&self, other: &Data) -> bool {
        let keys = |data: &Data, t: usize| data.trees[t].files.keys().copied().collect::<Vec<_>>();
        (0..TREES).all(|t| keys(self, t) == keys(other, t))
    }

    /// Whether a write is here.
    pub fn holds(&self, id: u64) -> bool {
        self.trees.iter().any(|t| t.files.contains_key(&id))
    }
}
