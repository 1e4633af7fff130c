//! Before a replica accepts: what is here is classified, durably, before anything is applied (R2, "Unreplicated, exactly").

use super::command::Reply;
use super::shared::heads;
use super::status::Mode;
use super::tree::Tree;
use super::worker::Worker;
use crate::index::{IndexError, Mode as IndexMode, Snapshot};
use crate::lineage::{
    AdvanceError, Branch, CopyState, Head, NodeHeads, Side, TreeRelation, compare,
};
use crate::tree::{Part, TreeId};
use crate::wire::Refuse;
use crate::writers;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

/// What the session may answer to the source.
#[derive(Debug, Clone)]
pub(crate) struct Prepared {
    /// Per tree that can be received: what it has.
    pub from: Vec<(TreeId, u64)>,
    /// Small files may come unasked.
    pub inline: bool,
}

/// A session that waits until the trees are scanned.
pub(super) struct Preparing {
    pub theirs: NodeHeads,
    pub floors: Vec<(TreeId, u64)>,
    pub reply: Reply<Result<Prepared, Refuse>>,
}

/// What becomes of a tree's own history.
enum Turn {
    /// It goes on from where it is.
    Continue,
    /// What it has past this point is unreplicated.
    Rewind(Branch),
    /// It has none: what lies here is of no history.
    Fresh,
    /// It is too old to be gone on with: it is given up, and what lies here is of no history.
    Anew,
}

/// What becomes of the trees that come.
#[derive(Default)]
struct Turns {
    /// Of each.
    all: Vec<(usize, Turn)>,
    /// Names of those in which both nodes wrote.
    diverged: Vec<String>,
}

impl Turn {
    /// By how the two histories relate; or why nothing can be received, and whether that goes away by itself.
    fn of(relation: TreeRelation) -> Result<Turn, (&'static str, bool)> {
        match relation {
            TreeRelation::Equal | TreeRelation::Behind { past: 0, .. } => Ok(Turn::Continue),
            TreeRelation::Behind { branch, .. } | TreeRelation::Diverged { branch } => {
                Ok(Turn::Rewind(branch))
            }
            TreeRelation::MineUnborn => Ok(Turn::Fresh),
            TreeRelation::BothUnborn | TreeRelation::TheirsUnborn => {
                Err(("the source has no epoch", true))
            }
            TreeRelation::Ahead { .. } => Err(("this node's data are ahead of the source's", true)),
            TreeRelation::Unrelated => Err((
                "no common history; `tandem adopt` on this node gives its own up",
                false,
            )),
            TreeRelation::Regressed(_) => Err((
                "a node shows less than it had (restored or rolled back)",
                false,
            )),
        }
    }
}

impl Worker {
    /// Answers a session that waits, as soon as no tree is being scanned.
    pub(super) fn end_preparing(&mut self) {
        let busy = |t: &Tree| t.moves() && (t.is_scanned() || !t.dirty.is_empty());
        if self.trees.iter().any(busy) {
            return;
        }
        let Some(Preparing {
            theirs,
            floors,
            reply,
        }) = self.preparing.take()
        else {
            return;
        };
        if reply.is_closed() {
            return;
        }
        let answer = if self.mode == Mode::Replica {
            self.prepare(&theirs, &floors)
        } else {
            Err(refuse("this node does not receive now", true))
        };
        if let Err(refuse) = &answer {
            tracing::warn!(why = refuse.why, "a session is refused");
        }
        // The session may have ended meanwhile.
        let _ = reply.send(answer);
        self.touch();
    }

    fn prepare(
        &mut self,
        theirs: &NodeHeads,
        floors: &[(TreeId, u64)],
    ) -> Result<Prepared, Refuse> {
        self.come_to_rest()?;
        let owed = self.begin_passes();
        let Turns {
            all: turns,
            diverged,
        } = self.turns(theirs, floors, &owed)?;
        for (at, turn) in &turns {
            let id = self.trees[*at].id;
            if self.trees[*at].is_in_sets() && !matches!(turn, Turn::Continue) {
                self.forget_set(id).map_err(|e| failed(&e))?;
            }
            let why = self.rescue_why(turn);
            let tree = &mut self.trees[*at];
            tree.receives = true;
            tree.base_unknown = matches!(turn, Turn::Fresh | Turn::Anew);
            tree.rescue_why = why.into();
        }
        self.tell_diverged(&diverged);
        let rewound = turns.iter().filter(|(_, t)| matches!(t, Turn::Rewind(_)));
        let rewound: Vec<usize> = rewound.map(|(at, _)| *at).collect();
        self.check_writers(&rewound)?;
        self.turn(&turns).map_err(|e| failed(&e))?;
        self.load_unsettled().map_err(|e| failed(&e))?;
        self.awaited.begin();
        let snapshot = self.shared.index.snapshot().map_err(|e| failed(&e))?;
        self.prepared(&snapshot, &turns, &owed)
            .map_err(|e| failed(&e))
    }

    /// Ends what is under way, so that what is here can be classified.
    fn come_to_rest(&mut self) -> Result<(), Refuse> {
        let shared = std::sync::Arc::clone(&self.shared);
        let needs = self.needs();
        for tree in &mut self.trees {
            let (pair, index) = (&shared.config.pair, &shared.index);
            tree.begin_anew_if_replaced(needs, pair, index, &shared.roots);
        }
        if self.trees.iter().any(|t| t.moves() && t.rescan) {
            self.watch_anew();
            return Err(refuse("a replaced root is looked at first", true));
        }
        // What waits in the slot counts as spooled from here on.
        self.is_spooled().map_err(|why| refuse(&why, true))?;
        if !self.shared.held() {
            self.apply_spool().map_err(|why| refuse(&why, true))?;
            self.finish_sets().map_err(|why| refuse(&why, true))?;
            self.find_sets().map_err(|why| refuse(&why, true))?;
        }
        Ok(())
    }

    /// What becomes of each tree that comes.
    fn turns(
        &self,
        theirs: &NodeHeads,
        floors: &[(TreeId, u64)],
        owed: &[(TreeId, u64)],
    ) -> Result<Turns, Refuse> {
        let mine = heads(&self.shared).map_err(|e| failed(&e))?;
        let own_floor = self.shared.index.snapshot();
        let own_floor = own_floor.map_err(|e| failed(&e))?.tombstone_floor();
        let mut turns = Turns::default();
        for (at, tree) in self.trees.iter().enumerate() {
            let (Some(a), Some(b)) = (mine.get(tree.id), theirs.get(tree.id)) else {
                continue;
            };
            if !tree.moves() {
                continue;
            }
            let name = &tree.config.name;
            let of_it = |why: &str, retry| refuse(&format!("tree {name}: {why}"), retry);
            let head = self.with_spooled(tree.id, &a.head);
            let head = head.map_err(|why| of_it(&why.to_string(), true))?;
            let here = Side {
                node: &mine.node,
                head: &head,
            };
            let there = Side {
                node: &theirs.node,
                head: &b.head,
            };
            let relation = compare(here, there);
            if matches!(relation, TreeRelation::Diverged { .. }) {
                turns.diverged.push(name.clone());
            }
            let turn = Turn::of(relation).map_err(|(why, retry)| of_it(why, retry))?;
            let floor = floors.iter().find(|(id, _)| *id == tree.id);
            let mut floor = floor.map_or(0, |f| f.1);
            if matches!(turn, Turn::Rewind(_)) {
                // What this node deleted after the branch must be asked for: it must still know what that is.
                floor = floor.max(own_floor);
            }
            let has = owed.iter().find(|(id, _)| *id == tree.id);
            let turn = self.or_anew(at, turn, head.seq.min(has.map_or(u64::MAX, |o| o.1)), floor);
            let spooled = self.spool.as_ref().and_then(|s| s.reaches(tree.id));
            if spooled.is_some() && !matches!(turn, Turn::Continue) {
                let why = "what was spooled ends elsewhere: the end of the hold is waited for";
                return Err(of_it(why, true));
            }
            turns.all.push((at, turn));
        }
        Ok(turns)
    }

    /// A replica wrote nothing itself: it follows, as its part is.
    fn tell_diverged(&mut self, trees: &[String]) {
        let pair = matches!(self.shared.config.part, Part::Node { .. });
        if !pair || trees.is_empty() {
            return;
        }
        let text = format!(
            "both nodes wrote in {}: this node's own writes go to the rescue",
            trees.join(", ")
        );
        self.shared.alarm(None, "diverged", Some(text));
        // Both nodes may be equal again within moments, and it is to be heard of even so.
        self.show_now();
    }

    /// Where a tree is when what a hold has spooled for it is applied.
    fn with_spooled(&self, tree: TreeId, head: &Head) -> Result<Head, AdvanceError> {
        let spooled = self.spool.as_ref().and_then(|spool| spool.reaches(tree));
        match spooled.filter(|(_, upto)| *upto > head.seq) {
            Some((source, upto)) => head.advance(source, upto, false),
            None => Ok(head.clone()),
        }
    }

    /// A history that ends below the floor cannot be gone on with.
    fn or_anew(&self, at: usize, turn: Turn, has: u64, floor: u64) -> Turn {
        let tree = self.trees[at].id;
        let has = match &turn {
            Turn::Rewind(branch) => branch.seq.min(has),
            Turn::Fresh | Turn::Anew => return turn,
            Turn::Continue => has.max(self.set_upto(tree)),
        };
        if has >= floor {
            return turn;
        }
        let name = &self.trees[at].config.name;
        tracing::warn!(
            tree = name,
            has,
            floor,
            "too far behind for changes alone: everything is compared"
        );
        Turn::Anew
    }

    /// Why something is put into the rescue in this session.
    fn rescue_why(&self, turn: &Turn) -> &'static str {
        match (turn, &self.shared.config.part) {
            (Turn::Continue, Part::Node { .. }) => "local changes on the standby",
            (Turn::Continue, Part::Replica) => "local changes on the replica",
            (Turn::Rewind(_), Part::Node { .. }) => {
                "writes of a returning master that the pair had not acknowledged"
            }
            (Turn::Rewind(_), Part::Replica) => {
                "what the old master had sent and the new one never got"
            }
            (Turn::Fresh, _) => "what lay here before the first copy",
            (Turn::Anew, _) => "what the source does not have any more",
        }
    }

    /// The durable step: from here on this node only has what it shares with the source.
    fn turn(&mut self, turns: &[(usize, Turn)]) -> Result<(), IndexError> {
        let ids: Vec<(TreeId, &Turn)> = turns
            .iter()
            .map(|(at, turn)| (self.trees[*at].id, turn))
            .collect();
        let anew = turns.iter().any(|(_, turn)| matches!(turn, Turn::Anew));
        let unsettled = match anew {
            true => self
                .shared
                .index
                .snapshot()?
                .unreplicated(None, usize::MAX)?,
            false => Vec::new(),
        };
        let listed = self.shared.index.write(|w| {
            if w.mode() != IndexMode::Receiving {
                w.start_receiving()?;
            }
            let mut listed = 0;
            for (tree, turn) in ids {
                match turn {
                    Turn::Rewind(branch) => listed += w.rewind(tree, *branch)?,
                    Turn::Anew => {
                        let unsettled = unsettled.iter().filter(|(of, ..)| *of == tree);
                        unsettled
                            .into_iter()
                            .try_for_each(|(tree, path, _)| w.settle(*tree, path))?;
                        w.forget_tree(tree)?;
                    }
                    Turn::Continue | Turn::Fresh => {}
                }
            }
            Ok::<_, IndexError>(listed)
        })?;
        if listed > 0 {
            tracing::warn!(
                paths = listed,
                "local changes that the pair had not acknowledged are compared and put into the rescue"
            );
        }
        self.shared
            .head
            .send_replace(self.shared.index.snapshot()?.last_seq());
        Ok(())
    }

    /// Of what is `owed` the source tells again from there on.
    fn prepared(
        &self,
        index: &Snapshot,
        turns: &[(usize, Turn)],
        owed: &[(TreeId, u64)],
    ) -> Result<Prepared, IndexError> {
        let mut from = Vec::new();
        let mut inline = true;
        for (at, turn) in turns {
            let tree = &self.trees[*at];
            let head = index.head(tree.id)?;
            let unborn = head.state == CopyState::Unborn;
            let seq = if unborn { 0 } else { head.seq };
            let spooled = self.spool.as_ref().map_or(0, |spool| spool.upto(tree.id));
            let owed = owed.iter().find(|(id, _)| *id == tree.id);
            let seq = seq.max(spooled).max(self.set_upto(tree.id));
            from.push((tree.id, owed.map_or(seq, |(_, after)| seq.min(*after))));
            inline &= owed.is_none();
            inline &= tree.unsettled.is_empty() && !matches!(turn, Turn::Rewind(_));
            inline &= !unborn || index.counts(tree.id)?.entries() == 0;
        }
        // What was answered before holds as far as every tree of this session has it: a tree that came since, or was
        // rewound, has less.
        let begin = from.iter().map(|(_, seq)| *seq).min().unwrap_or(0);
        self.shared.answered.fetch_min(begin, Ordering::AcqRel);
        Ok(Prepared { from, inline })
    }

    /// Reads the list of unsettled paths into memory, by tree.
    pub(super) fn load_unsettled(&mut self) -> Result<(), IndexError> {
        const PAGE: usize = 4096;
        let snapshot = self.shared.index.snapshot()?;
        let mut all: BTreeMap<TreeId, BTreeSet<_>> = BTreeMap::new();
        let mut last = None;
        loop {
            let page =
                snapshot.unreplicated(last.as_ref().map(|(tree, path)| (*tree, path)), PAGE)?;
            last = page.last().map(|(tree, path, _)| (*tree, path.clone()));
            let end = page.len() < PAGE;
            for (tree, path, _) in page {
                all.entry(tree).or_default().insert(path);
            }
            if end {
                break;
            }
        }
        for tree in &mut self.trees {
            tree.unsettled = all.remove(&tree.id).unwrap_or_default();
        }
        Ok(())
    }

    /// Nobody may have a descriptor for writing beneath a tree whose own writes are about to be put aside.
    fn check_writers(&mut self, trees: &[usize]) -> Result<(), Refuse> {
        for at in trees {
            let tree = &self.trees[*at];
            let Some(open) = &tree.open else { continue };
            let name = &tree.config.name;
            let found = writers::find(&open.root)
                .map_err(|e| refuse(&format!("tree {name}: {e}"), true))?;
            let Some(first) = found.first() else {
                self.shared.alarm(Some(name), "writers", None);
                continue;
            };
            let others = found.len() - 1;
            let text = format!(
                "tree {name}: process {} ({}) has {} open for writing, and {others} more: stop it, the reversal waits",
                first.pid, first.command, first.path
            );
            self.shared.alarm(Some(name), "writers", Some(text.clone()));
            return Err(refuse(&text, true));
        }
        Ok(())
    }
}

/// Something of this node's own failed: it may be over soon.
fn failed(error: &dyn std::fmt::Display) -> Refuse {
    refuse(&error.to_string(), true)
}

fn refuse(why: &str, retry: bool) -> Refuse {
    let mut why = why.to_owned();
    // Bounded for the wire; cut between characters.
    while why.len() > crate::wire::MAX_TEXT {
        why.pop();
    }
    Refuse { why, retry }
}
