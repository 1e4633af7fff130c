//! Barriers: telling when everything that happened before a moment is recorded.

use super::command::{Recorded, Reply};
use super::report::NotCovered;
use super::status::Mode;
use super::tree::Tree;
use super::worker::Worker;
use crate::tree::TreeId;
use std::collections::{BTreeMap, BTreeSet};

impl Worker {
    /// Begins to wait until everything that happened so far is recorded, in one tree or in all.
    pub(super) fn barrier(&mut self, only: Option<TreeId>, reply: Reply<Recorded>) {
        let token = self.next_token;
        self.next_token += 1;
        let mut barrier = Barrier {
            only,
            trees: BTreeSet::new(),
            marked: BTreeMap::new(),
            sets: BTreeMap::new(),
            not_covered: Vec::new(),
            reply,
        };
        let source = matches!(self.mode, Mode::Source { .. });
        let mut in_sets = Vec::new();
        for tree in self.trees.iter().filter(|t| concerns(only, t.id)) {
            if tree.is_in_sets() && source && tree.stop.is_none() {
                in_sets.push(tree.id);
                continue;
            }
            let asked = match (&tree.stop, &self.watcher) {
                (Some(stop), _) => Err(stop.why().to_owned()),
                (None, Some(watcher)) => watcher
                    .barrier(tree.id, token)
                    .map_err(|e| format!("not watched: {e}")),
                (None, None) => Err("not watched".to_owned()),
            };
            match asked {
                Ok(()) => {
                    barrier.trees.insert(tree.id);
                }
                Err(why) => barrier.not_covered.push(NotCovered {
                    tree: Some(tree.config.name.clone()),
                    why,
                }),
            }
        }
        for id in in_sets {
            let Some(at) = self.position(id) else {
                continue;
            };
            match self.want_set(at) {
                Ok(pass) => drop(barrier.sets.insert(id, pass)),
                Err(why) => barrier.not_covered.push(NotCovered {
                    tree: Some(self.trees[at].config.name.clone()),
                    why: why.to_owned(),
                }),
            }
        }
        self.barriers.insert(token, barrier);
        self.due_at(0);
    }

    pub(super) fn end_barriers(&mut self) {
        if self.barriers.is_empty() {
            return;
        }
        let head = *self.shared.head.borrow();
        let mut done = Vec::new();
        for (token, barrier) in &mut self.barriers {
            for tree in &self.trees {
                // A tree that was stopped meanwhile reports no barrier any more, and what was marked in it is not recorded.
                if let Some(stop) = &tree.stop
                    && barrier.forget(tree.id)
                {
                    barrier.not_covered.push(NotCovered {
                        tree: Some(tree.config.name.clone()),
                        why: stop.why().to_owned(),
                    });
                }
            }
            barrier.end_sets(&self.trees);
            let waits = !barrier.trees.is_empty() || !barrier.sets.is_empty();
            let mut trees = self.trees.iter().filter(|t| concerns(barrier.only, t.id));
            if !waits && !trees.any(|tree| barrier.waits_for(tree)) {
                done.push(*token);
            }
        }
        if done.is_empty() {
            return;
        }
        let except = self.exceptions();
        for token in done {
            if let Some(barrier) = self.barriers.remove(&token) {
                // Whoever does not wait any more needs no answer.
                let _ = barrier.reply.send(Recorded {
                    head,
                    not_covered: barrier.not_covered,
                    except: except.clone(),
                });
            }
        }
    }
}

fn concerns(only: Option<TreeId>, tree: TreeId) -> bool {
    only.is_none_or(|only| only == tree)
}

/// Waits for trees to be recorded.
pub(super) struct Barrier {
    /// Of this tree alone.
    pub only: Option<TreeId>,
    pub trees: BTreeSet<TreeId>,
    /// Trees that have told all that happened before: it was marked in this round or before. What is marked later is not waited
    /// for, and may never pause.
    pub marked: BTreeMap<TreeId, u64>,
    /// Trees that are sent in sets, each with the pass that tells of this moment.
    pub sets: BTreeMap<TreeId, u64>,
    pub not_covered: Vec<NotCovered>,
    pub reply: Reply<Recorded>,
}

impl Barrier {
    /// Nothing more is heard of the tree. True: it was waited for.
    fn forget(&mut self, tree: TreeId) -> bool {
        let asked = self.trees.remove(&tree);
        self.marked.remove(&tree).is_some() || asked
    }

    /// Something of the tree that happened before is not recorded.
    fn waits_for(&self, tree: &Tree) -> bool {
        let marked = match self.marked.get(&tree.id) {
            Some(round) => tree.has_marks_upto(*round),
            None => !tree.dirty.is_empty(),
        };
        tree.moves() && (tree.is_scanned() || marked)
    }

    /// Passes that have ended, or never will.
    fn end_sets(&mut self, trees: &[Tree]) {
        let not_covered = &mut self.not_covered;
        self.sets.retain(|id, pass| {
            let Some(tree) = trees.iter().find(|t| t.id == *id) else {
                return false;
            };
            let ended = tree.sets.ended >= *pass;
            let why = match &tree.stop {
                Some(stop) => Some(stop.why().to_owned()),
                None if ended && tree.sets.failed => Some("no set could be taken".to_owned()),
                None => None,
            };
            let waits = !ended && why.is_none();
            if let Some(why) = why {
                not_covered.push(NotCovered {
                    tree: Some(tree.config.name.clone()),
                    why,
                });
            }
            waits
        });
    }
}

#[cfg(test)]
mod tests {
    use crate::engine::dirty::Dirt;
    use crate::engine::tests::pair::Node;
    use crate::engine::tests::unread::source;
    use crate::engine::tree::Stop;
    use crate::path::RelPath;
    use crate::watch::Event;

    /// What was marked before the tree stopped is not recorded, however long ago its events came.
    #[tokio::test]
    async fn a_tree_that_stops_behind_its_events_is_not_covered() {
        let stops: [fn(String) -> Stop; 6] = [
            Stop::Identity,
            Stop::Deletes,
            Stop::Unfinished,
            Stop::Full,
            Stop::ReadOnly,
            Stop::Fault,
        ];
        for stop in stops {
            let mut node = Node::new("a", |_| {});
            let mut worker = source(&mut node).await;
            let (reply, mut answer) = tokio::sync::oneshot::channel();
            let (tree, token) = (worker.trees[0].id, worker.next_token);
            worker.trees[0].mark(RelPath::new("f").unwrap(), Dirt::default());
            worker.barrier(None, reply);
            worker.event(Event::Barrier { tree, token });
            worker.end_barriers();
            assert!(answer.try_recv().is_err(), "it is still to be looked at");
            worker.stop(0, stop("a test".into()));
            worker.end_barriers();
            let recorded = answer.try_recv().unwrap();
            let named: Vec<_> = recorded.not_covered.iter().map(|n| &*n.why).collect();
            assert_eq!(named, ["a test"]);
        }
    }
}
