//! A session: what the replica keeps, what goes to the rescue, what the source sends, what is applied.

use super::{Batch, Change, Data, Entry, TREES, Tree};
use tandem_sync::lineage::{Branch, CopyState, NodeHeads, Side, TreeRelation, compare};

impl Data {
    /// Before anything is applied: this node keeps only what it shares with the source. What lies past that has no
    /// number any more, and so goes to the rescue.
    pub fn prepare(&mut self, theirs: &NodeHeads) -> Result<(), String> {
        let mut turns = [None; TREES];
        for (at, tree) in self.trees.iter().enumerate() {
            let Some(their) = theirs.get(tree.id) else {
                return Err("the source does not have the tree".to_owned());
            };
            let mine = Side {
                node: &self.node,
                head: &tree.head,
            };
            let source = Side {
                node: &theirs.node,
                head: &their.head,
            };
            turns[at] = match compare(mine, source) {
                TreeRelation::Equal
                | TreeRelation::Behind { past: 0, .. }
                | TreeRelation::MineUnborn => None,
                TreeRelation::Behind { branch, .. } | TreeRelation::Diverged { branch } => {
                    Some(branch)
                }
                other => return Err(format!("refused: {other:?}")),
            };
        }
        self.writing = false;
        for (tree, turn) in self.trees.iter_mut().zip(turns) {
            if let Some(branch) = turn {
                tree.rewind(branch)?;
            }
        }
        Ok(())
    }

    /// Files of no number: equal to the source's they are taken as they are, else they go to the rescue, at most
    /// `limit` in one go. Answers whether none is left.
    pub fn rescue_some(&mut self, source: &Data, limit: usize) -> bool {
        let mut left = limit;
        for (tree, theirs) in self.trees.iter_mut().zip(&source.trees) {
            let foreign: Vec<u64> = tree.foreign().collect();
            for id in foreign {
                match theirs.index.get(&id).filter(|entry| entry.live) {
                    Some(entry) if entry.seq <= tree.head.seq => {
                        tree.index.insert(id, *entry);
                    }
                    Some(_) => {}
                    None if left > 0 => {
                        left -= 1;
                        self.rescue.insert(id);
                        tree.files.remove(&id);
                    }
                    None => return false,
                }
            }
            tree.ask(theirs);
        }
        true
    }

    /// Whether something here waits for the rescue.
    pub fn to_rescue(&self) -> bool {
        let waits =
            |t: &Tree| t.head.state == CopyState::CatchingUp && t.foreign().next().is_some();
        self.trees.iter().any(waits)
    }

    /// The next changes for a receiver at these heads, at most `most`.
    pub fn batch(&self, receiver: &Data, most: usize) -> Batch {
        let base = [0, 1].map(|t: usize| receiver.trees[t].head.seq);
        let past = |t: usize| {
            let unborn = receiver.trees[t].head.lineage.is_unborn();
            let from = if unborn { 0 } else { base[t] };
            let news = self.trees[t]
                .index
                .iter()
                .filter(move |(_, e)| e.seq > from);
            news.map(move |(id, entry)| Change {
                tree: t,
                id: *id,
                entry: *entry,
            })
        };
        let mut changes: Vec<Change> = (0..TREES).flat_map(past).collect();
        changes.sort_by_key(|change| change.entry.seq);
        let caught_up = changes.len() <= most;
        changes.truncate(most);
        let last = changes.last().map_or(0, |change| change.entry.seq);
        Batch {
            lineages: [0, 1].map(|t: usize| self.trees[t].head.lineage.clone()),
            base,
            upto: if caught_up { self.last_seq } else { last },
            changes,
            caught_up,
        }
    }

    /// Applies a batch and makes it durable. Answers false if it does not follow what is here.
    pub fn apply(&mut self, batch: &Batch) -> Result<bool, String> {
        let here = [0, 1].map(|t: usize| self.trees[t].head.seq);
        if here != batch.base || self.writing {
            return Ok(false);
        }
        for change in &batch.changes {
            let tree = &mut self.trees[change.tree];
            tree.index.insert(change.id, change.entry);
            if change.entry.live {
                tree.files.insert(change.id, true);
            } else {
                tree.files.remove(&change.id);
            }
        }
        for (tree, lineage) in self.trees.iter_mut().zip(&batch.lineages) {
            if batch.upto >= tree.head.seq {
                let advanced = tree.head.advance(lineage, batch.upto, batch.caught_up);
                tree.head = advanced.map_err(|e| e.to_string())?;
            }
        }
        self.last_seq = self.last_seq.max(batch.upto);
        Ok(true)
    }
}

impl Tree {
    /// Files that the index does not know as live.
    fn foreign(&self) -> impl Iterator<Item = u64> + '_ {
        let known = |id: &u64| self.index.get(id).is_some_and(|entry| entry.live);
        self.files.keys().copied().filter(move |id| !known(id))
    }

    fn rewind(&mut self, to: Branch) -> Result<(), String> {
        self.head = self.head.rewind(to).map_err(|e| e.to_string())?;
        let past = |e: &Entry| e.seq > to.seq;
        self.want.extend(
            self.index
                .iter()
                .filter(|(_, e)| past(e))
                .map(|(id, _)| *id),
        );
        self.index.retain(|_, entry| !past(entry));
        Ok(())
    }

    /// The source's version of what was changed or removed here.
    fn ask(&mut self, source: &Tree) {
        let gone = self.index.iter().filter(|(_, e)| e.live).map(|(id, _)| *id);
        let gone: Vec<u64> = gone.filter(|id| !self.files.contains_key(id)).collect();
        let upto = self.head.seq;
        for id in gone.into_iter().chain(std::mem::take(&mut self.want)) {
            if let Some(entry) = source.index.get(&id).filter(|e| e.seq <= upto) {
                self.index.insert(id, *entry);
                if entry.live {
                    self.files.insert(id, true);
                }
            } else {
                self.index.remove(&id);
            }
        }
    }
}
